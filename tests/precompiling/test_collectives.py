"""Messages between devices: their groups, axes and bytes."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import pytest

from hypergrid_jax.precompiling import collectives, hlo_text

MESH = {'slice': 2, 'data': 3, 'model': 4}


@pytest.mark.parametrize(
  ('text', 'groups'),
  [
    ('{{0,1},{2,3}}', [[0, 1], [2, 3]]),
    ('[2,3]<=[6]', [[0, 1, 2], [3, 4, 5]]),
    ('[3,2]<=[2,3]T(1,0)', [[0, 3], [1, 4], [2, 5]]),
    ("mesh['a'=2,'b'=3] {'b'}", [[0, 1, 2], [3, 4, 5]]),
    ("mesh['a'=2,'b'=3] {'a'}", [[0, 3], [1, 4], [2, 5]]),
    ("mesh['a'=2,'b'=3] {'a','b'}", [[0, 1, 2, 3, 4, 5]]),
    # The later half of an axis of 4: steps of 1; the earlier: steps of 2.
    ("mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
    ("mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
    (
      "mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
      [[0, 2], [1, 3]],
    ),
  ],
)
def test_replica_groups(text, groups):
  assert collectives.replica_groups(text) == groups


def test_groups_with_a_numbering_of_their_own_are_read_whole():
  # As the compiler writes it for a slice whose devices are not in its order.
  text = (
    'ENTRY %main () -> f32[] {\n'
    '  %x = bf16[6,4]{1,0} parameter(0)\n'
    '  ROOT %g = bf16[6,8]{1,0} all-gather(%x), channel_id=5, replica_groups='
    "mesh['axis_0'=3,'axis_1'=1,'axis_2'=2], device_ids=([2,3]T(1,0))"
    " {'axis_2'}, dimensions={1}, use_global_device_ids=true\n"
    '}'
  )
  listed = collectives.collectives(
    hlo_text.parse(text), {'data': 2, 'model': 3}, slice_axis='slice'
  )
  # Numbered 0 3 / 1 4 / 2 5: pairs with the same place on the last axis.
  assert listed == (collectives.Collective('all-gather', ('data',), 1, 96, 48),)


def test_unknown_groups_are_refused():
  with pytest.raises(ValueError, match='no groups'):
    collectives.replica_groups('all of them')
  with pytest.raises(ValueError, match='no groups'):
    collectives.replica_groups("mesh['a'=4]")


@pytest.mark.parametrize(
  ('group', 'axes'),
  [
    ([0, 1, 2, 3], ('model',)),
    ([5, 9, 1], ('data',)),
    ([7, 19], ('slice',)),
    ([0, 1, 4, 5], ('data', 'model')),
    ([3, 14], ('slice', 'model')),
    ([6], ()),
  ],
)
def test_axes_that_a_group_crosses(group, axes):
  assert collectives.crossed(group, MESH) == axes


def found(f, mesh, specs, shapes, out):
  arguments = [
    jax.ShapeDtypeStruct(
      shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec))
    )
    for shape, spec in zip(shapes, specs, strict=True)
  ]
  f = jax.shard_map(
    f,
    mesh=mesh,
    in_specs=tuple(PartitionSpec(*spec) for spec in specs),
    out_specs=PartitionSpec(*out),
    check_vma=False,
  )
  text = jax.jit(f).lower(*arguments).compile().as_text()
  listed = collectives.collectives(
    hlo_text.parse(text), dict(mesh.shape), slice_axis='slice'
  )
  return {(c.kind, c.axes): (c.count, c.bytes, c.sent) for c in listed}


@pytest.fixture(scope='module')
def mesh():
  return jax.make_mesh(
    (1, 2, 4),
    ('slice', 'data', 'model'),
    axis_types=(AxisType.Auto,) * 3,
    devices=jax.devices()[:8],
  )


def test_kinds_axes_and_bytes_with_a_loop(mesh):
  def body(x, _):
    # 6 x 8 float32 on each device: 192 bytes.
    x = jax.lax.psum(x, 'model')
    x = x + jax.lax.all_gather(x, 'data').sum(0)
    part = jax.lax.psum_scatter(x, 'model', scatter_dimension=1, tiled=True)
    return jnp.tile(jnp.tanh(part), (1, 4)), None

  def f(x):
    return jax.lax.scan(body, x, None, length=5)[0]

  assert found(f, mesh, [('data', 'model')], [(12, 32)], ('data', 'model')) == {
    ('all-reduce', ('model',)): (5, 5 * 192, 5 * 2 * 192 * 3 // 4),
    ('all-gather', ('data',)): (5, 5 * 2 * 192, 5 * 192),
    ('reduce-scatter', ('model',)): (5, 5 * 192, 5 * 192 * 3 // 4),
  }


def test_exchanges_and_shifts(mesh):
  def f(x):
    x = jax.lax.all_to_all(x, 'model', split_axis=0, concat_axis=1, tiled=True)
    return jax.lax.ppermute(x, 'data', [(0, 1), (1, 0)])

  # 8 x 3 float32 on each device: 96 bytes.
  assert found(f, mesh, [('data', 'model')], [(16, 12)], ('data', 'model')) == {
    ('all-to-all', ('model',)): (1, 96, 72),
    ('collective-permute', ('data',)): (1, 96, 96),
  }


TPU = """\
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%scattered (p: bf16[8,6]) -> bf16[4,6] {
  %p = bf16[8,6]{1,0} parameter(0)
  %all-reduce.3 = bf16[8,6]{1,0} all-reduce(%p), channel_id=3, \
replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%sum
  %n = s32[] constant(0)
  ROOT %mine = bf16[4,6]{1,0} dynamic-slice(%all-reduce.3, %n, %n), \
dynamic_slice_sizes={4,6}
}

ENTRY %main (x: bf16[8,6]) -> bf16[4,6] {
  %x = bf16[8,6]{1,0} parameter(0)
  %fusion = bf16[4,6]{1,0} fusion(%x), kind=kCustom, calls=%scattered
  %again = bf16[4,6]{1,0} fusion(%x), kind=kCustom, calls=%scattered
  %token = token[] after-all()
  %send.1 = (bf16[4,6]{1,0}, u32[], token[]) send(%fusion, %token), \
channel_id=9, is_host_transfer=true, frontend_attributes={\
_xla_host_transfer_handler_name="xla_megascale_runtime"}
  ROOT %recv.1 = bf16[4,6]{1,0} copy(%fusion)
}
"""


def test_tpu_forms_of_reduce_scatter_and_of_messages_between_slices():
  # The scatter is an all-reduce of which a fusion keeps a part; a collective
  # that runs beside other work stands twice, with one channel.
  listed = collectives.collectives(
    hlo_text.parse(TPU), {'slice': 2, 'data': 2, 'model': 2}, slice_axis='slice'
  )
  assert listed == (
    collectives.Collective('reduce-scatter', ('model',), 1, 96, 48),
    collectives.Collective('dcn-transfer', ('slice',), 1, 48, 48),
  )
