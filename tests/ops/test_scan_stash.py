"""Layers that keep arrays in one stack are differentiated as any others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.model import stack as stack_lib
from hypergrid_jax.ops import gated_matmul, relu_dropout, scan_stash, sharded
from tests import jaxprs, tolerances

LAYERS, ROWS, D, F = 4, 5, 3, 6
WRAPS = {
  'all kept': lambda body: body,
  'minimal': functools.partial(
    jax.checkpoint,
    policy=stack_lib.REMAT_POLICIES['minimal'],
    prevent_cse=False,
  ),
}


@pytest.fixture
def in_use(monkeypatch):
  monkeypatch.setattr(scan_stash, 'PLATFORMS', ('cpu',))


@jax.custom_vjp
def cubes(u, kernel, stash):
  """u**3 @ kernel, and the stack of stash, (stack, layer), with u in it."""
  stack, layer = stash
  stack = jax.lax.dynamic_update_index_in_dim(stack, u, layer, 0)
  return u**3 @ kernel, stack


def cubes_gradient(kept, cotangents):
  (kernel, layer), (dy, stack) = kept, cotangents
  u = stack[layer]
  return 3 * u**2 * (dy @ kernel.T), (u**3).T @ dy, (stack, None)


cubes.defvjp(
  lambda u, kernel, stash: (cubes(u, kernel, stash), (kernel, stash[1])),
  cubes_gradient,
)


def product(u, kernel):
  slot = scan_stash.slot(u.shape, u.dtype)
  if slot is None:
    return plain_product(u, kernel)
  y, stack = cubes(u, kernel, (slot.stack, slot.layer))
  return slot.fill(stack, y)


def plain_product(u, kernel):
  return u**3 @ kernel


def two_in_a_layer(product, x, layer):
  """The second one's result is needed again by the gradient."""
  x = x + product(x @ layer['up'], layer['down'])
  x = x + jnp.tanh(product(jnp.sin(x), layer['square']))
  return x, x[0] * layer['scale']


def weights():
  rng = np.random.default_rng(0)
  shapes = {'up': (D, F), 'down': (F, D), 'square': (D, D), 'scale': (D,)}
  return 0.3 * rng.standard_normal((ROWS, D)), {
    name: 0.5 * rng.standard_normal((LAYERS, *shape))
    for name, shape in shapes.items()
  }


def loss(scan, product, x, layers):
  x, ys = scan(functools.partial(two_in_a_layer, product), x, layers)
  return jnp.sum(x**2) + jnp.sum(jnp.sin(ys))


@pytest.mark.parametrize('wrap', WRAPS)
def test_values_and_gradients_are_those_of_a_plain_scan(x64, in_use, wrap):
  scan = functools.partial(scan_stash.scan, wrap=WRAPS[wrap])
  gradient = jax.jit(
    jax.value_and_grad(functools.partial(loss, scan, product), (0, 1))
  )
  desired = jax.value_and_grad(
    functools.partial(loss, jax.lax.scan, plain_product), (0, 1)
  )(*weights())
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, **tolerances.FLOAT64),
    gradient(*weights()),
    desired,
  )


def test_what_only_the_outputs_of_layers_need_has_its_gradient(x64, in_use):
  _, layers = weights()
  u = np.linspace(-1, 1, ROWS * F).reshape(ROWS, F)

  def run(scan, product, u, down):
    _, ys = scan(lambda _, kernel: (None, product(u, kernel)), None, down)
    return jnp.sum(jnp.sin(ys))

  actual, desired = (
    jax.grad(functools.partial(run, *choice), (0, 1))(u, layers['down'])
    for choice in ((scan_stash.scan, product), (jax.lax.scan, plain_product))
  )
  for one, other in zip(actual, desired, strict=True):
    np.testing.assert_allclose(one, other, **tolerances.FLOAT64)


@pytest.mark.parametrize('wrap', WRAPS)
def test_nothing_is_kept_twice(in_use, wrap):
  """One stack each, and no stack of them for each layer."""
  scan = functools.partial(scan_stash.scan, wrap=WRAPS[wrap])
  traced = jax.make_jaxpr(
    jax.grad(functools.partial(loss, scan, product), (0, 1))
  )(*weights())
  kept = [
    variable.aval.shape
    for equation, inside in jaxprs.equations(traced.jaxpr)
    if equation.primitive.name == 'scan' and not inside
    for variable in equation.outvars
  ]
  # Forward and, passed through, backward.
  assert kept.count((LAYERS, ROWS, F)) == 2
  assert not [shape for shape in kept if shape[:2] == (LAYERS, LAYERS)]


def test_elsewhere_there_is_no_slot(monkeypatch):
  slots = []

  def body(x, layer):
    slots.append(scan_stash.slot(x.shape, x.dtype))
    return x + layer, None

  assert scan_stash.slot((2, 3), np.float32) is None
  monkeypatch.setattr(scan_stash, 'PLATFORMS', ('tpu',))
  scan_stash.scan(body, np.zeros(3), np.ones((LAYERS, 3)))
  assert slots
  assert set(slots) == {None}


MESHES = {'one device': (1, 1), 'inputs': (2, 4), 'data': (4, 1)}


@pytest.mark.parametrize('mesh', MESHES)
def test_kernels_find_their_layer_in_the_stack(monkeypatch, mesh):
  """Interpreted; tokens of a device fill whole tiles."""
  rows, length, k, n, grid = 4, 256, 8, 12, (4, 3)
  rng = np.random.default_rng(1)
  x, up, kernel, row, col = (
    rng.standard_normal(shape).astype(np.float32)
    for shape in (
      (rows, length, n),
      (LAYERS, n, k),
      (LAYERS, k, n),
      (LAYERS, rows, 2, grid[0]),
      (LAYERS, rows, 2, grid[1]),
    )
  )
  ids = 1 + (np.arange(length)[None] > np.array([[9], [70], [200], [256]]))
  keep = rng.random((rows, 1, k)) > 0.2

  def body(x, layer):
    up, *others = layer
    return x + 0.1 * gated_matmul.gated_matmul(
      relu_dropout.ReluDropout(x @ up, jnp.asarray(keep), 1.25),
      *others,
      jnp.asarray(ids, jnp.int32),
      scale=1.0,
      offset=0.5,
      implementation='pallas',
      interpret=True,
      partition=sharded.Partition('data', 'model'),
    ), None

  def run(x, *layers):
    y, pull = jax.vjp(lambda *a: scan_stash.scan(body, *a)[0], x, layers)
    return y, pull(y)

  def on_mesh(sizes):
    one = jax.make_mesh(
      sizes,
      ('data', 'model'),
      axis_types=(jax.sharding.AxisType.Auto,) * 2,
      devices=jax.devices()[: np.prod(sizes)],
    )
    with jax.set_mesh(one):
      # A new function, to be traced anew.
      return jax.jit(lambda *a: run(*a))(x, up, kernel, row, col)

  desired = on_mesh((1, 1))
  slots = []
  slot = scan_stash.slot
  monkeypatch.setattr(
    scan_stash, 'slot', lambda *a: slots.append(slot(*a)) or slots[-1]
  )
  monkeypatch.setattr(scan_stash, 'PLATFORMS', ('cpu',))
  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(
      one, other, rtol=0, atol=tolerances.FLOAT32['atol'] * np.abs(other).max()
    ),
    on_mesh(MESHES[mesh]),
    desired,
  )
  assert slots[-1] is not None
