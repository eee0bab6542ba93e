import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from hypergrid_jax import trees
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.parallel.partitioning import MeshConfig
from hypergrid_jax.training import optimizers, state

SHAPES = {
  'embedding': (24, 8),
  'layers': {'wi': (3, 8, 16), 'wo': (3, 16, 8), 'norm': (3, 8)},
  'final': {'scale': (8,)},
}
AXES = {
  'embedding': ('vocab', 'embed'),
  'layers': {
    'wi': ('layers', 'embed', 'mlp'),
    'wo': ('layers', 'mlp', 'embed'),
    'norm': ('layers', 'embed'),
  },
  'final': {'scale': ('embed',)},
}
OPTIMIZERS = {
  'adafactor': optimizers.Adafactor(min_dim=8),
  'adamw': optimizers.AdamW(weight_decay=0.1),
}


class FakeModel:
  """Parameters of feed-forward layers side by side."""

  logical_axes = AXES
  abstract_params = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
  )

  def init(self, key):
    def draw(path, leaf):
      if path == 'embedding':
        return jax.random.normal(key, leaf.shape)
      waves = jnp.sin(jnp.arange(leaf.size) * (1.0 + len(path)))
      return 0.3 * waves.reshape(leaf.shape)

    return trees.map_with_path(draw, self.abstract_params)


def loss(params, ids):
  layers = params['layers']
  x = params['embedding'][ids]
  scaled = x[None] * (1 + layers['norm'][:, None, None])
  hidden = jnp.einsum('nble,nem->nblm', scaled, layers['wi'])
  y = x + jnp.einsum('nblm,nme->ble', jax.nn.relu(hidden), layers['wo'])
  return jnp.mean(jnp.square(y * params['final']['scale'][None, None] - 1))


def optimizer(name):
  return optimizers.make_optimizer(
    OPTIMIZERS[name],
    optimizers.Constant(0.01),
    logical_axes=AXES,
    clip_norm=0.5,
  )


def train(name, config, devices=None, steps=3):
  """Returns the state before and after some steps on a mesh."""
  tx = optimizer(name)
  mesh = partitioning.make_mesh(config, devices)
  first = state.create_state(
    FakeModel(), tx, jax.random.key(5), mesh, config.axis_rules()
  )
  shardings = state.state_shardings(FakeModel(), tx, mesh, config.axis_rules())

  def step(current, ids):
    grads = jax.grad(loss)(current.params, ids)
    updates, opt_state = tx.update(grads, current.opt_state, current.params)
    params = optax.apply_updates(current.params, updates)
    return state.TrainState(current.step + 1, params, opt_state)

  step = jax.jit(
    step,
    in_shardings=(shardings, partitioning.batch_sharding(mesh)),
    out_shardings=shardings,
  )
  current = first
  for n in range(steps):
    ids = np.random.default_rng(n).integers(0, 24, size=(16, 5))
    current = step(current, ids)
  return first, current


@pytest.mark.parametrize(
  ('name', 'config'),
  [
    ('adafactor', MeshConfig(data=1, fsdp=4, model=2)),
    ('adamw', MeshConfig(data=2, model=4)),
  ],
)
def test_the_mesh_changes_where_the_state_lies_and_not_its_values(name, config):
  first, last = train(name, MeshConfig(), jax.devices()[:1])
  other_first, other_last = train(name, config)
  jax.tree.map(np.testing.assert_array_equal, first, other_first)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    last,
    other_last,
  )
  assert int(last.step) == 3


def test_every_leaf_is_born_in_its_place():
  config = MeshConfig(data=1, fsdp=4, model=2)
  mesh = partitioning.make_mesh(config)
  born = state.create_state(
    FakeModel(),
    optimizer('adafactor'),
    jax.random.key(0),
    mesh,
    config.axis_rules(),
  )
  specs = {
    path: leaf.sharding.spec for path, leaf in trees.flatten(born).items()
  }
  moments = 'opt_state/1/0/moments'
  assert specs == {
    'step': P(),
    'params/embedding': P('model', 'fsdp'),
    'params/final/scale': P('fsdp'),
    'params/layers/norm': P(None, 'fsdp'),
    'params/layers/wi': P(None, 'fsdp', 'model'),
    'params/layers/wo': P(None, 'model', 'fsdp'),
    'opt_state/1/0/count': P(),
    f'{moments}/embedding/row': P('model'),
    f'{moments}/embedding/column': P('fsdp'),
    f'{moments}/final/scale/full': P('fsdp'),
    f'{moments}/layers/norm/full': P(None, 'fsdp'),
    f'{moments}/layers/wi/row': P(None, 'fsdp'),
    f'{moments}/layers/wi/column': P(None, 'model'),
    f'{moments}/layers/wo/row': P(None, 'model'),
    f'{moments}/layers/wo/column': P(None, 'fsdp'),
    'opt_state/1/1/count': P(),
  }
  assert born.params['layers']['wi'].addressable_shards[0].data.shape == (
    3,
    2,
    8,
  )


def test_adam_moments_lie_with_their_parameters():
  config = MeshConfig(data=1, fsdp=2, model=4)
  mesh = partitioning.make_mesh(config)
  found = state.state_shardings(
    FakeModel(), optimizer('adamw'), mesh, config.axis_rules()
  )
  adam = found.opt_state[1][0]
  assert adam.mu == found.params
  assert adam.nu == found.params
  assert found.params['layers']['wo'].spec == P(None, 'model', 'fsdp')


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_abstract_state_is_what_create_returns(name):
  config = MeshConfig(model=4)
  mesh = partitioning.make_mesh(config)
  tx = optimizer(name)
  real = state.create_state(FakeModel(), tx, jax.random.key(0), mesh)
  abstract = state.abstract_state(FakeModel(), tx)
  placed = state.sharded_abstract_state(FakeModel(), tx, mesh)
  assert jax.tree.structure(abstract) == jax.tree.structure(real)
  for field in dataclasses.fields(state.TrainState):
    for a, p, r in zip(
      *(
        jax.tree.leaves(getattr(s, field.name))
        for s in (abstract, placed, real)
      ),
      strict=True,
    ):
      assert (a.shape, a.dtype) == (p.shape, p.dtype) == (r.shape, r.dtype)
      assert p.sharding == r.sharding
  assert real.step.dtype == jnp.int32
  assert int(real.step) == 0
