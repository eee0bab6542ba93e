import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.parallel.partitioning import MeshConfig


def mesh_of(data, model):
  return partitioning.make_mesh(MeshConfig(data=data, model=model))


@pytest.mark.parametrize(
  ('config', 'shape'),
  [
    (MeshConfig(), (1, 8, 1, 1)),
    (MeshConfig(model=2), (1, 4, 1, 2)),
    (MeshConfig(data=2, model=4), (1, 2, 1, 4)),
    (MeshConfig(data=1, model=8), (1, 1, 1, 8)),
    (MeshConfig(data=1, fsdp=-1, model=2), (1, 1, 4, 2)),
    (MeshConfig(slices=2, fsdp=4), (2, 1, 4, 1)),
    (MeshConfig(slices=2, data=2, fsdp=2), (2, 2, 2, 1)),
  ],
)
def test_mesh_uses_every_device_once(config, shape):
  mesh = partitioning.make_mesh(config)
  assert mesh.axis_names == ('slice', 'data', 'fsdp', 'model')
  assert mesh.devices.shape == shape
  assert set(mesh.devices.flat) == set(jax.devices())


def test_mesh_over_given_devices():
  devices = jax.devices()[2:5]
  mesh = partitioning.make_mesh(MeshConfig(), devices)
  assert mesh.devices.shape == (1, 3, 1, 1)
  assert set(mesh.devices.flat) == set(devices)


@pytest.mark.parametrize(
  ('config', 'devices'),
  [
    (MeshConfig(model=3), 8),
    (MeshConfig(data=2, model=2), 8),
    (MeshConfig(model=4), 2),
    (MeshConfig(slices=3), 8),
    (MeshConfig(data=1, fsdp=4), 8),
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
    ({'model': 0}, 'model is 0, but must be at least 1.$'),
    ({'model': -1}, 'model is -1'),
    ({'slices': -1}, 'slices is -1'),
    ({'fsdp': 0}, 'fsdp is 0, but must be at least 1, or -1'),
    ({'data': -1, 'fsdp': -1}, 'data and mesh.fsdp are both -1'),
    (
      {'rules': (('mpl', 'model'),)},
      "rules: no array has an axis 'mpl'.*'mlp'",
    ),
    ({'rules': (('mlp', 'modle'),)}, "rules: 'mlp' -> 'modle'.*'model'"),
    ({'rules': (('mlp', ('fsdp', 'fsdp')),)}, 'rules: .* a mesh axis twice'),
  ],
)
def test_impossible_mesh_sizes_are_refused(values, field):
  with pytest.raises(UserError, match=f'mesh.{field}'):
    MeshConfig(**values)


ROWS = ('slice', 'data', 'fsdp')


@pytest.mark.parametrize(
  ('shape', 'axes', 'spec'),
  [
    ((24, 8), ('vocab', 'embed'), P('model', 'fsdp')),
    ((3, 8, 12), ('layers', 'embed', 'joined_kv'), P(None, 'fsdp', 'model')),
    ((3, 12, 8), ('layers', 'mlp', 'embed'), P(None, 'model', 'fsdp')),
    ((5, 6), ('relpos_buckets', 'heads'), P(None, 'model')),
    ((3, 8, 5), ('layers', 'embed', 'grid_row'), P(None, 'fsdp', None)),
    ((7, 9), ('tasks', 'task_embed'), P(None, None)),
    ((16, 12), ('batch', 'length'), P(ROWS, None)),
    (
      (16, 12, 7),
      ('batch', 'length', 'activation_embed'),
      P(ROWS, None, None),
    ),
    ((), (), P()),
  ],
)
def test_rules(shape, axes, spec):
  mesh = partitioning.make_mesh(MeshConfig(slices=2, data=1, fsdp=2, model=2))
  assert partitioning.partition_spec('w', shape, axes, mesh) == spec


def test_rules_can_be_replaced():
  config = MeshConfig(
    data=2, fsdp=2, model=2, rules=(('mlp', ('model', 'data')), ('vocab', None))
  )
  mesh, rules = partitioning.make_mesh(config), config.axis_rules()

  def spec(*axes):
    return partitioning.partition_spec('w', (8,) * len(axes), axes, mesh, rules)

  assert spec('embed', 'mlp') == P('fsdp', ('model', 'data'))
  assert spec('vocab', 'embed') == P(None, 'fsdp')
  assert spec('heads', 'mlp') == P('model', 'data')


def test_a_dimension_is_divided_by_the_product_of_its_axes():
  mesh = partitioning.make_mesh(MeshConfig(slices=2, data=2, fsdp=2))
  with pytest.raises(
    UserError,
    match="size 12 cannot be divided over the 8 devices of mesh axis 'slice' x"
    " 'data' x 'fsdp'",
  ):
    partitioning.check_batch_size(12, mesh)


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
    'batch length activation_embed embed mlp heads kv joined_kv layers vocab '
    'relpos_buckets tasks task_embed bottleneck grid_row grid_col window'
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
      ['encoder/wo', "'mlp' -> 'tensor'", 'size 7', 'slice, data, fsdp, model'],
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
    place = int(np.argwhere(mesh.devices == shard.device)[0, 1])
    np.testing.assert_array_equal(shard.data, rows[2 * place : 2 * place + 2])
  partitioning.check_batch_size(12, mesh)
  with pytest.raises(UserError, match='size 6 cannot be divided over the 4'):
    partitioning.check_batch_size(6, mesh)


def test_microbatches_are_divided_too():
  mesh = mesh_of(4, 2)
  partitioning.check_batch_size(24, mesh, microbatches=3)
  with pytest.raises(UserError, match='24/12.*size 2 cannot be divided'):
    partitioning.check_batch_size(24, mesh, microbatches=12)
  with pytest.raises(UserError, match='microbatches = 5 does not divide'):
    partitioning.check_batch_size(24, mesh, microbatches=5)


def test_constrain_lays_a_value_as_the_rules_say():
  mesh = partitioning.make_mesh(MeshConfig(slices=2, data=1, fsdp=2, model=2))
  x = jnp.arange(4 * 3 * 6.0).reshape(4, 3, 6)

  def laid(*axes):
    return jax.jit(lambda x: partitioning.constrain(x * 1, axes))(x).sharding

  with jax.set_mesh(mesh):
    assert laid('batch', 'length', 'mlp').spec == P(
      ('slice', 'fsdp'), None, 'model'
    )
    assert laid('batch', 'length', 'activation_embed').is_equivalent_to(
      NamedSharding(mesh, P(('slice', 'fsdp'))), 3
    )
  assert partitioning.constrain(x, ('batch', 'length', 'mlp')) is x


def test_bytes_per_device_count_one_share():
  mesh = partitioning.make_mesh(MeshConfig(data=1, fsdp=4, model=2))
  abstract = {
    'divided': ((12, 6), jnp.float32, P('fsdp', 'model')),
    'half': ((10, 3), jnp.bfloat16, P('model')),
    'whole': ((7,), jnp.int32, P()),
  }
  tree = {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
    for name, (shape, dtype, spec) in abstract.items()
  }
  assert partitioning.bytes_per_device(tree) == 3 * 3 * 4 + 5 * 3 * 2 + 7 * 4
