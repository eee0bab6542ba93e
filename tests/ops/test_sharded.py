"""The gated matmul on meshes of fake devices equals that of one device."""

import functools
import re

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from hypergrid_jax.ops.gated_matmul import gated_matmul
from hypergrid_jax.ops.sharded import Partition
from tests import tolerances
from tests.ops import dense

FORM = dense.FORMS['residual']
# 3 columns and 6 rows: an axis of 4 devices divides neither.
SHAPE = (4, 24, 3, 48, 24, 6, 3)
IMPLEMENTATIONS = {
  'xla': {},
  'pallas columns': {
    'implementation': 'pallas',
    'interpret': True,
    'cut': 'columns',
  },
  'pallas rows': {'implementation': 'pallas', 'interpret': True, 'cut': 'rows'},
}
# The mesh, how the kernel lies, and the axes.
MESHES = {
  'data': ((4, 1), (None, None), Partition('data', 'model')),
  'fully sharded': ((4, 2), ('model', 'data'), Partition('data', 'model')),
  'inputs': ((2, 4), ('model', None), Partition('data', 'model')),
  'outputs': ((2, 4), (None, 'model'), Partition('data', None, 'model')),
  'several axes': (
    (2, 2),
    (None, None),
    Partition(('slice', 'data', 'model')),
  ),
  'too many rows': ((8, 1), (None, None), Partition('data', 'model')),
}


def run(u, kernel, row, col, ids, dy, **choice):
  offset, scale = FORM
  y, pull = jax.vjp(
    lambda *x: gated_matmul(*x, ids, offset=offset, scale=scale, **choice),
    *(u, kernel, row, col),
  )
  return y, *pull(dy)


def on_mesh(name, arguments, **choice):
  """Values and gradients, and the text of the compiled program."""
  sizes, kernel_axes, partition = MESHES[name]
  mesh = jax.make_mesh(
    sizes,
    ('data', 'model'),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[: np.prod(sizes)],
  )
  specs = [
    # What one device's worth of rows does not fill is whole on every device.
    PartitionSpec('data' if x.shape[0] % sizes[0] == 0 else None)
    for x in arguments
  ]
  specs[1] = PartitionSpec(*kernel_axes)
  placed = [
    jax.device_put(x, NamedSharding(mesh, spec))
    for x, spec in zip(arguments, specs, strict=True)
  ]
  with jax.set_mesh(mesh):
    function = jax.jit(functools.partial(run, partition=partition, **choice))
    compiled = function.lower(*placed).compile()
    return compiled(*placed), compiled.as_text()


@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_a_mesh_changes_nothing(implementation, mesh):
  *inputs, ids, dy = dense.case(SHAPE, dtype=np.float32)
  exact = [np.float64(x) for x in inputs]
  desired = dense.value_and_gradients(*exact, ids, dy, *FORM)
  actual, _ = on_mesh(
    mesh,
    (*inputs, ids, dy.astype(np.float32)),
    **IMPLEMENTATIONS[implementation],
  )
  dense.assert_close(
    actual, desired, tolerances.ONE_MATMUL[np.dtype('float32')]
  )


@pytest.mark.parametrize('gates', ['row', 'batch'])
def test_a_mesh_changes_nothing_where_weights_are_gated(gates):
  shape = (4, 64, 1, 48, 24, 6, 3)
  few = {'row_shape': (1, 1), 'col_shape': (1, 1)} if gates == 'batch' else {}
  *inputs, ids, dy = dense.case(shape, dtype=np.float32, **few)
  exact = [np.float64(x) for x in inputs]
  desired = dense.value_and_gradients(*exact, ids, dy, *FORM)
  arguments = (*inputs, ids, dy.astype(np.float32))
  for mesh in ('inputs', 'outputs'):
    actual, _ = on_mesh(mesh, arguments)
    dense.assert_close(
      actual, desired, tolerances.ONE_MATMUL[np.dtype('float32')], mesh
    )


@pytest.mark.parametrize('implementation', ['xla', 'pallas columns'])
def test_divided_inputs_cost_two_sums_of_tokens_and_one_of_the_weight(
  implementation,
):
  """y over the model axis, dW over the data axis, and dcol, which is small."""
  *inputs, ids, dy = dense.case((4, 24, 3, 48, 24, 8, 3), dtype=np.float32)
  _, text = on_mesh(
    'inputs',
    (*inputs, ids, dy.astype(np.float32)),
    **IMPLEMENTATIONS[implementation],
  )
  assert not re.search(r'all-gather|all-to-all|collective-permute', text)


def test_axes_that_the_mesh_lacks_or_that_do_not_divide_are_ignored():
  partition = Partition('data', 'model', 'pod')
  assert partition.on_current_mesh(8, 6, 4) == Partition()
  mesh = jax.make_mesh(
    (2, 4), ('data', 'model'), axis_types=(AxisType.Auto,) * 2
  )
  joined = Partition(('pod', 'data', 'model'), ('pod',))
  with jax.set_mesh(mesh):
    assert joined.on_current_mesh(16, 6, 4) == Partition(('data', 'model'))
    assert joined.on_current_mesh(12, 6, 4) == Partition()
    assert partition.on_current_mesh(8, 6, 4) == Partition('data')
    assert partition.on_current_mesh(7, 8, 4) == Partition(None, 'model')
