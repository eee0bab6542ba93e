"""A small state with every kind of leaf, and ways to save and damage it."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from hypergrid_jax.parallel import partitioning
from hypergrid_jax.training import state

MESH = partitioning.MeshConfig(model=2)
SPECS = {
  'bfloat': P('data', 'model'),
  'layers': {'wo': P(None, 'model', 'data'), 'norm': P()},
}


def values(step):
  """The numbers of `make_state`; all of them depend on the step."""
  rng = np.random.default_rng(step)
  params = {
    'bfloat': rng.normal(size=(8, 16)).astype(jnp.bfloat16),
    'layers': {
      'wo': rng.normal(size=(3, 16, 8)).astype(np.float32),
      'norm': np.array([-0.0, 0.0, 1e-40, np.inf, step], np.float32),
    },
  }
  moments = jax.tree.map(lambda p: p * 2, params)
  number = np.array(step, np.int32)
  return state.TrainState(number, params, ({'count': number}, moments))


def make_state(step, config=MESH):
  """A state on the devices of all processes."""
  mesh = partitioning.make_mesh(config)
  specs = state.TrainState(P(), SPECS, ({'count': P()}, SPECS))
  return jax.tree.map(
    lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)),
    values(step),
    specs,
  )


def abstract_of(tree, config=MESH, rows='data'):
  """The target of a restore; `rows` are the mesh axes in place of 'data'."""
  mesh = partitioning.make_mesh(config)

  def one(leaf):
    spec = getattr(leaf.sharding, 'spec', P())
    spec = P(*(rows if axis == 'data' else axis for axis in spec))
    sharding = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree.map(one, tree)


def assert_same_bits(got, expected):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(checkpointer, *steps):
  for step in steps:
    assert checkpointer.save(step, make_state(step), {'seen': 10 * step})
  checkpointer.wait()


def directory_of(checkpointer, step):
  return checkpointer.directory / str(step)


def largest_file(directory):
  return max(
    (path for path in (directory / 'params').rglob('*') if path.is_file()),
    key=lambda path: path.stat().st_size,
  )


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)
