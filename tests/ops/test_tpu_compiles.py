"""The TPU's own compiler takes the kernels, on every generation and mesh."""

import functools
import re

import jax
from jax.sharding import NamedSharding, PartitionSpec
import pytest

from hypergrid_jax.ops import relu_dropout, scan_stash
from hypergrid_jax.ops.gated_matmul import gated_matmul
from hypergrid_jax.ops.sharded import Partition
from hypergrid_jax.precompiling import topologies as slices

# Four devices each, as data x model, and where the weight lies: fully sharded
# over the data axis, on the model axis, on both.
CASES = [
  ('v4:2x2x1', (4, 1), ('data', None), 'float32'),
  ('v5e:2x2', (2, 2), ('model', 'data'), 'bfloat16'),
  ('v5p:2x2x1', (1, 4), ('model', None), 'bfloat16'),
  ('v6e:2x2', (2, 2), ('model', None), 'bfloat16'),
]
# 3 rows of 217 tokens on each device fill no tile.
ROWS, LENGTH, SEGMENTS, K, N, GRID = 12, 217, 5, 512, 384, (8, 3)


def mesh_of(name, sizes):
  """The devices of a slice, as data x model."""
  return jax.make_mesh(
    sizes,
    ('data', 'model'),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=slices.find(name).devices,
  )


def placed_shape(mesh, *sizes, axes=('data',), dtype='float32'):
  sharding = NamedSharding(mesh, PartitionSpec(*axes))
  return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)


def compiled(name, sizes, kernel_axes, dtype):
  """Value and gradients, for the devices of a slice."""
  mesh = mesh_of(name, sizes)
  shape = functools.partial(placed_shape, mesh)

  def run(x, keep, kernel, row, col, ids, dy):
    y, pull = jax.vjp(
      lambda x, kernel, row, col: gated_matmul(
        relu_dropout.ReluDropout(x, keep, 1.25),
        kernel,
        row,
        col,
        ids,
        scale=2.0,
        offset=0.0,
        implementation='pallas',
        partition=Partition('data', 'model'),
      ),
      *(x, kernel, row, col),
    )
    return y, *pull(dy)

  with jax.set_mesh(mesh):
    return (
      jax.jit(run)
      .lower(
        shape(ROWS, LENGTH, K, axes=('data', None, 'model'), dtype=dtype),
        shape(ROWS, 1, K, dtype='bool'),
        shape(K, N, axes=kernel_axes),
        shape(ROWS, SEGMENTS, GRID[0]),
        shape(ROWS, SEGMENTS, GRID[1]),
        shape(ROWS, LENGTH, dtype='int32'),
        shape(ROWS, LENGTH, N, dtype=dtype),
      )
      .compile()
      .as_text()
    )


@pytest.mark.tpu
@pytest.mark.filterwarnings('ignore:A gate of')
@pytest.mark.parametrize('case', CASES, ids=lambda case: case[0])
def test_the_compiler_takes_the_kernels_on_a_mesh(case):
  text = compiled(*case)
  calls = re.findall(r'%(gated_matmul_\w+?)[.\d]* = .*tpu_custom_call', text)
  assert sorted(calls) == ['gated_matmul_backward', 'gated_matmul_forward']


@pytest.mark.tpu
@pytest.mark.filterwarnings('ignore:A gate of')
def test_the_backward_kernel_reads_its_layer_in_the_stack():
  """Of each device's part, [layers, tokens, K / 2]; no slice is made."""
  layers, rows, length = 3, 4, 256
  mesh = mesh_of('v5e:2x2', (2, 2))
  shape = functools.partial(placed_shape, mesh, dtype='bfloat16')

  def run(x, ids, *weights):
    def body(x, layer):
      up, *others = layer
      return x + gated_matmul(
        relu_dropout.ReluDropout(x @ up, None, 1.25),
        *others,
        ids,
        scale=2.0,
        offset=0.0,
        implementation='pallas',
        partition=Partition('data', 'model'),
      ), None

    y, pull = jax.vjp(lambda *a: scan_stash.scan(body, *a)[0], x, weights)
    return pull(y)

  with jax.set_mesh(mesh):
    compiled = jax.jit(run).lower(
      shape(rows, length, N),
      shape(rows, length, dtype='int32'),
      shape(layers, N, K, axes=(None, None, 'model')),
      shape(layers, K, N, axes=(None, 'model')),
      shape(layers, rows, SEGMENTS, GRID[0], axes=(None, 'data')),
      shape(layers, rows, SEGMENTS, GRID[1], axes=(None, 'data')),
    )
    text = compiled.compile().as_text()
  stack = f'bf16[{layers},{rows * length // 2},{K // 2}]'
  (kernel,) = re.findall(r'%gated_matmul_backward[.\d]* = .*', text)
  assert stack in kernel
  slice_ = rf'bf16\[1,{rows // 2},{length},{K // 2}\]\S* dynamic-slice'
  assert not re.search(slice_, text)
