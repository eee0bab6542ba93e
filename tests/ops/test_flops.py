"""Matrix products counted in traced programs, against counts made by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest

from hypergrid_jax.ops import flops
from hypergrid_jax.parallel import partitioning

B, K, N, REPEATS = 6, 5, 7, 3
ONE = 2 * B * K * N


def traced(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(function).trace(*arguments).jaxpr.jaxpr


def product(x, w):
  return jnp.tanh(x @ w)


def test_a_product_and_its_two_gradients():
  def loss(x, w):
    return jnp.sum(product(x, w))

  assert flops.matmul_flops(traced(product, (B, K), (K, N))) == ONE
  gradients = jax.grad(loss, argnums=(0, 1))
  assert flops.matmul_flops(traced(gradients, (B, K), (K, N))) == 3 * ONE


def test_batched_products_contract_what_they_name():
  def attend(q, k):
    return jnp.einsum('blhd,bmhd->bhlm', q, k)

  found = flops.matmul_flops(traced(attend, (2, 3, 4, 5), (2, 7, 4, 5)))
  assert found == 2 * (2 * 4 * 3 * 7) * 5


def test_loops_count_as_often_as_they_run():
  def loop(x, ws):
    def body(x, w):
      inner = jax.lax.map(lambda row: row @ w, x[None])
      return x, inner

    return jax.lax.scan(body, x, ws)

  jaxpr = traced(loop, (B, K), (REPEATS, K, N))
  assert flops.matmul_flops(jaxpr) == REPEATS * ONE


def test_what_stands_under_a_scope():
  def both(x, w, v):
    with jax.named_scope('chosen'):
      y = jax.jit(product)(x, w)
      z = jax.lax.map(lambda row: row @ w, x[None])
    return y @ v, z

  jaxpr = traced(both, (B, K), (K, N), (N, K))
  assert flops.matmul_flops(jaxpr) == 3 * ONE
  assert flops.scoped_flops(jaxpr, 'chosen') == 2 * ONE
  assert flops.scoped_flops(jaxpr, 'chose') == 0


def test_inside_of_a_shard_map_shapes_are_those_of_a_device():
  mesh = partitioning.make_mesh(partitioning.MeshConfig())
  rows = jax.sharding.PartitionSpec('data')

  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(rows, jax.sharding.PartitionSpec()),
    out_specs=rows,
  )
  def shared(x, w):
    return x @ w

  jaxpr = traced(shared, (mesh.size * B, K), (K, N))
  assert flops.matmul_flops(jaxpr) == mesh.size * ONE


@pytest.mark.parametrize('declared', [None, 1234])
def test_a_kernel_counts_what_it_declares(declared):
  from jax.experimental import pallas as pl

  estimate = declared and pl.CostEstimate(
    flops=declared, transcendentals=0, bytes_accessed=0
  )

  def kernel(x, w, out):
    out[...] = x[...] @ w[...]

  call = pl.pallas_call(
    kernel,
    out_shape=jax.ShapeDtypeStruct((B, N), jnp.float32),
    cost_estimate=estimate,
  )
  assert flops.matmul_flops(traced(call, (B, K), (K, N))) == (declared or 0)
