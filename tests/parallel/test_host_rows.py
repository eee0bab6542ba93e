import jax
import numpy as np
import pytest

from hypergrid_jax.parallel import partitioning
from hypergrid_jax.parallel.host_rows import RowParts, row_parts
from hypergrid_jax.parallel.partitioning import MeshConfig


def rows_of(config):
  return partitioning.batch_sharding(partitioning.make_mesh(config))


@pytest.mark.parametrize(
  ('config', 'devices', 'parts', 'num_parts'),
  [
    (MeshConfig(), range(8), (0,), 1),
    (MeshConfig(), range(4, 8), (1,), 2),
    (MeshConfig(), [2, 3], (1,), 4),
    (MeshConfig(), [3], (3,), 8),
    # What is no equal part in its place comes in smaller pieces.
    (MeshConfig(), range(3), (0, 1, 2), 8),
    (MeshConfig(), range(1, 3), (1, 2), 8),
    (MeshConfig(), [0, 4], (0, 4), 8),
    # Devices that share a wide layer hold the same rows.
    (MeshConfig(model=4), range(4), (0,), 2),
    (MeshConfig(model=4), range(2, 6), (0,), 1),
    (MeshConfig(data=1, model=8), range(4, 8), (0,), 1),
    (MeshConfig(slices=2, data=1, fsdp=2, model=2), range(4, 8), (1,), 2),
  ],
)
def test_which_rows_a_process_holds(config, devices, parts, num_parts):
  devices = [jax.devices()[number] for number in devices]
  found = row_parts(rows_of(config), devices)
  assert (found.parts, found.num_parts) == (parts, num_parts)
  assert found.share == len(parts) / num_parts


@pytest.mark.parametrize(
  'config', [MeshConfig(), MeshConfig(slices=2, data=1, fsdp=2, model=2)]
)
def test_rows_reach_the_devices_that_hold_them(config):
  sharding = rows_of(config)
  batch = {'ids': np.arange(48).reshape(16, 3), 'task': np.arange(16) * 7}
  placed = jax.tree.map(
    RowParts(sharding, tuple(range(8)), 8)._place_one, batch
  )
  for name, leaf in batch.items():
    np.testing.assert_array_equal(placed[name], leaf)
    assert placed[name].sharding.is_equivalent_to(sharding, leaf.ndim)
  np.testing.assert_array_equal(
    row_parts(sharding).place(batch)['ids'], batch['ids']
  )
