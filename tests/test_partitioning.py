import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from hypergrid_jax import partitioning
from hypergrid_jax.errors import UserError
from hypergrid_jax.partitioning import MeshConfig


def mesh_of(data, model):
  return partitioning.make_mesh(MeshConfig(data=data, model=model))


@pytest.mark.parametrize(
  ('config', 'shape'),
  [
    (MeshConfig(), (8, 1)),
    (MeshConfig(model=2), (4, 2)),
    (MeshConfig(data=2, model=4), (2, 4)),
    (MeshConfig(data=1, model=8), (1, 8)),
  ],
)
def test_mesh_uses_every_device_once(config, shape):
  mesh = partitioning.make_mesh(config)
  assert mesh.axis_names == ('data', 'model')
  assert mesh.devices.shape == shape
  assert set(mesh.devices.flat) == set(jax.devices())


def test_mesh_over_given_devices():
  devices = jax.devices()[2:5]
  mesh = partitioning.make_mesh(MeshConfig(), devices)
  assert mesh.devices.shape == (3, 1)
  assert set(mesh.devices.flat) == set(devices)


@pytest.mark.parametrize(
  ('config', 'devices'),
  [
    (MeshConfig(model=3), 8),
    (MeshConfig(data=2, model=2), 8),
    (MeshConfig(model=4), 2),
  ],
)
def test_mesh_that_does_not_use_all_devices_is_refused(config, devices):
  with pytest.raises(UserError, match=f'there are {devices}. Choose'):
    partitioning.make_mesh(config, jax.devices()[:devices])


@pytest.mark.parametrize(
  ('values', 'field'),
  [
    ({'data': 0}, 'data is 0'),
    ({'data': -2}, 'data is'),
    ({'model': 0}, 'model'),
  ],
)
def test_impossible_mesh_sizes_are_refused(values, field):
  with pytest.raises(UserError, match=f'MeshConfig.{field}'):
    MeshConfig(**values)


@pytest.mark.parametrize(
  ('shape', 'axes', 'plain', 'fsdp'),
  [
    ((24, 8), ('vocab', 'embed'), P('model', None), P('model', 'data')),
    (
      (3, 8, 12),
      ('layers', 'embed', 'joined_kv'),
      P(None, None, 'model'),
      P(None, 'data', 'model'),
    ),
    (
      (3, 12, 8),
      ('layers', 'mlp', 'embed'),
      P(None, 'model', None),
      P(None, 'model', 'data'),
    ),
    ((5, 6), ('relpos_buckets', 'heads'), P(None, 'model'), P(None, 'model')),
    ((3, 8, 5), ('layers', 'embed', 'grid_row'), P(), P(None, 'data', None)),
    ((7, 9), ('tasks', 'task_embed'), P(), P()),
    ((16, 12), ('batch', 'length'), P('data', None), P('data', None)),
    ((), (), P(), P()),
  ],
)
def test_rules(shape, axes, plain, fsdp):
  mesh = mesh_of(4, 2)
  for rules, expected in (
    (MeshConfig().rules(), plain),
    (MeshConfig(fsdp=True).rules(), fsdp),
  ):
    spec = partitioning.partition_spec('w', shape, axes, mesh, rules)
    padded = tuple(expected) + (None,) * (len(shape) - len(expected))
    assert tuple(spec) == padded


def test_a_mesh_axis_divides_an_array_once():
  spec = partitioning.partition_spec(
    'u',
    (3, 8, 7),
    ('layers', 'embed', 'embed'),
    mesh_of(4, 2),
    {
      'layers': None,
      'embed': 'data',
    },
  )
  assert spec == P(None, 'data', None)


def test_every_logical_axis_of_the_design_has_a_rule():
  names = (
    'batch length embed mlp heads kv joined_kv layers vocab relpos_buckets '
    'tasks task_embed bottleneck grid_row grid_col window'
  )
  assert set(partitioning.DEFAULT_RULES) == set(names.split())


@pytest.mark.parametrize(
  ('axes', 'rules', 'parts'),
  [
    (
      ('layers', 'mpl'),
      partitioning.DEFAULT_RULES,
      ['encoder/wo', "'mpl'", 'size 7', 'no partitioning rule', "'mlp'"],
    ),
    (
      ('layers', 'mlp'),
      {'layers': None, 'mlp': 'tensor'},
      ['encoder/wo', "'mlp' -> 'tensor'", 'size 7', 'data, model'],
    ),
    (
      ('layers', 'mlp'),
      partitioning.DEFAULT_RULES,
      ['encoder/wo', "'mlp'", 'size 7', "2 devices of mesh axis 'model'"],
    ),
  ],
)
def test_errors_name_parameter_axis_and_size(axes, rules, parts):
  abstract = {'encoder': {'wo': jax.ShapeDtypeStruct((4, 7), jnp.float32)}}
  with pytest.raises(UserError) as caught:
    partitioning.param_shardings(
      {'encoder': {'wo': axes}}, abstract, mesh_of(4, 2), rules
    )
  for part in parts:
    assert part in str(caught.value)


def test_axes_must_fit_the_dimensions():
  with pytest.raises(ValueError, match='encoder/wo has shape'):
    partitioning.partition_spec('encoder/wo', (4, 6), ('mlp',), mesh_of(4, 2))


def test_rows_of_a_batch_are_divided_over_the_data_axis():
  mesh = mesh_of(4, 2)
  rows = jax.device_put(
    np.arange(24).reshape(8, 3), partitioning.batch_sharding(mesh)
  )
  for shard in rows.addressable_shards:
    place = int(np.argwhere(mesh.devices == shard.device)[0, 0])
    np.testing.assert_array_equal(shard.data, rows[2 * place : 2 * place + 2])
  partitioning.check_batch_size(12, mesh)
  with pytest.raises(UserError, match='size 6 cannot be divided over the 4'):
    partitioning.check_batch_size(6, mesh)
