"""AdamW against float64 NumPy; which parameters train; layouts of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypergrid_jax import trees
from hypergrid_jax.errors import UserError
from hypergrid_jax.training import freezing, optimizers
from tests.training.updates import STEPS, draw, run


def reference_adamw(config, rate, decay, param, grads):
  """Loshchilov and Hutter 2019, algorithm 2 without restarts."""
  x = param.astype(np.float64)
  first = second = 0.0
  for t, grad in enumerate(grads.astype(np.float64), start=1):
    first = config.b1 * first + (1 - config.b1) * grad
    second = config.b2 * second + (1 - config.b2) * grad**2
    m, v = first / (1 - config.b1**t), second / (1 - config.b2**t)
    x = x - rate * (m / (np.sqrt(v) + config.eps) + decay * x)
  return x


def test_adamw_follows_the_paper_and_decays_matrices_only():
  config = optimizers.AdamW(b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3)
  axes = {
    'kernel': ('layers', 'embed', 'mlp'),
    'scale': ('layers', 'embed'),
    'embedding': ('vocab', 'embed'),
    'final': ('embed',),
  }
  shapes = {'kernel': (2, 3, 5), 'scale': (2, 3), 'embedding': (7, 3)}
  shapes['final'] = (3,)
  drawn = {k: draw(s, i) for i, (k, s) in enumerate(shapes.items())}
  tx = optimizers.make_optimizer(
    config, optimizers.Constant(0.05), logical_axes=axes
  )
  after, _ = run(
    tx, {k: v[0] for k, v in drawn.items()}, {k: v[1] for k, v in drawn.items()}
  )
  for name, (param, grads) in drawn.items():
    decay = 0.3 if name in ('kernel', 'embedding') else 0.0
    expected = reference_adamw(config, 0.05, decay, param, grads)
    np.testing.assert_allclose(after[name], expected, rtol=2e-5, err_msg=name)


def test_the_schedule_is_read_at_the_number_of_updates_made():
  tx = optimizers.make_optimizer(
    optimizers.Adafactor(multiply_by_parameter_scale=False),
    optimizers.LinearWarmup(0.5, 5),
    logical_axes={'x': ('embed',)},
  )
  after, _ = run(
    tx, {'x': jnp.zeros(3)}, {'x': np.ones((STEPS, 3), np.float32)}
  )
  np.testing.assert_allclose(after['x'], -(0.0 + 0.1 + 0.2 + 0.3), rtol=1e-6)


AXES = {
  'encoder': {
    'layers': {'wo': ('layers', 'mlp', 'embed'), 'norm': ('layers', 'embed')}
  },
  'decoder': {'layers': {'wo': ('layers', 'mlp', 'embed')}},
  'embedding': ('vocab', 'embed'),
}


def small_params():
  rng = np.random.default_rng(3)
  shapes = {'encoder/layers/wo': (2, 5, 4), 'encoder/layers/norm': (2, 4)}
  shapes |= {'decoder/layers/wo': (3, 5, 4), 'embedding': (7, 4)}
  params = trees.unflatten(
    {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  )
  params['embedding'][0, :3] = [-0.0, 0.0, 1e-40]
  return params


def run_eagerly(tx, params, grads):
  """Like `run`, but XLA cannot simplify a sum with a constant away."""
  state = tx.init(params)
  for step in range(STEPS):
    grad = jax.tree.map(lambda g, step=step: g[step], grads)
    updates, state = tx.update(grad, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


@pytest.mark.parametrize('apply', [run, run_eagerly])
@pytest.mark.parametrize(
  'optimizer', [optimizers.Adafactor(), optimizers.AdamW(0.9)]
)
def test_frozen_parameters_keep_their_bits_and_have_no_state(optimizer, apply):
  params = small_params()
  if apply is run_eagerly:
    params['embedding'][0, 2] = 1.0  # eager CPU sums flush subnormal numbers
  tx = optimizers.make_optimizer(
    optimizer,
    optimizers.Constant(0.1),
    logical_axes=AXES,
    trained=freezing.trained_parameters(AXES, ('encoder/.*/wo', 'decoder/.*')),
    clip_norm=1.0,
  )
  grads = jax.tree.map(lambda p: np.ones((STEPS, *p.shape), p.dtype), params)
  after, state = apply(tx, params, grads)
  before, after = trees.flatten(params), trees.flatten(after)
  trained = {'encoder/layers/wo', 'decoder/layers/wo'}
  for path, old in before.items():
    same = old.view(np.int32) == np.asarray(after[path]).view(np.int32)
    assert not same.any() if path in trained else same.all(), path
  named = ' '.join(trees.flatten(state))
  assert 'decoder/layers/wo' in named
  assert 'norm' not in named
  assert 'embedding' not in named


def test_gradients_of_frozen_parameters_need_not_be_given():
  params = small_params()
  tx = optimizers.make_optimizer(
    optimizers.Adafactor(),
    optimizers.Constant(0.1),
    logical_axes=AXES,
    trained={'embedding': 'whole'},
  )
  state = tx.init(params)
  full = jax.tree.map(np.ones_like, params)
  some, _ = tx.update({'embedding': full['embedding']}, state, params)
  whole, _ = tx.update(full, state, params)
  jax.tree.map(np.testing.assert_array_equal, some, whole)


def test_clipping_uses_the_norm_of_all_trained_gradients():
  # Adam's first update with eps far above the gradient is g / eps: linear.
  config = optimizers.AdamW(b1=0.0, b2=0.0, eps=1e6)
  grads = {'a': jnp.array([3.0, 0.0]), 'b': jnp.array([0.0, 4.0, 0.0])}
  grads['frozen'] = jnp.full((5,), 1e6)
  axes = dict.fromkeys(grads, ('embed',))
  updates = {}
  for norm in (None, 1.0, 6.0):
    tx = optimizers.make_optimizer(
      config,
      optimizers.Constant(1.0),
      logical_axes=axes,
      trained={'a': 'whole', 'b': 'whole'},
      clip_norm=norm,
    )
    params = jax.tree.map(jnp.zeros_like, grads)
    updates[norm], _ = tx.update(grads, tx.init(params), params)
  for name in ('a', 'b'):
    np.testing.assert_allclose(
      updates[1.0][name], updates[None][name] / 5, rtol=1e-5
    )
    np.testing.assert_array_equal(updates[6.0][name], updates[None][name])


def test_added_must_name_parameters():
  with pytest.raises(ValueError, match='encoder/absent'):
    optimizers.make_optimizer(
      optimizers.Adafactor(),
      optimizers.Constant(),
      logical_axes=AXES,
      added={'encoder/absent'},
    )


@pytest.mark.parametrize(
  ('make', 'field'),
  [
    (lambda: optimizers.Adafactor(decay=0.0), 'Adafactor.decay'),
    (lambda: optimizers.Adafactor(step_offset=-1), 'Adafactor.step_offset'),
    (lambda: optimizers.Adafactor(min_dim=1), 'Adafactor.min_dim'),
    (lambda: optimizers.Adafactor(eps=0.0), 'Adafactor.eps'),
    (lambda: optimizers.Adafactor(scale_floor=0.0), 'Adafactor.scale_floor'),
    (
      lambda: optimizers.Adafactor(clip_threshold=0.0),
      'Adafactor.clip_threshold',
    ),
    (lambda: optimizers.AdamW(b1=1.0), 'AdamW.b1'),
    (lambda: optimizers.AdamW(b2=-0.1), 'AdamW.b2'),
    (lambda: optimizers.AdamW(eps=0.0), 'AdamW.eps'),
    (lambda: optimizers.AdamW(weight_decay=-1.0), 'AdamW.weight_decay'),
  ],
)
def test_values_out_of_range_are_refused_by_name(make, field):
  with pytest.raises(UserError, match=field):
    make()


def test_state_axes_follow_the_parameters_also_when_shapes_are_ambiguous():
  axes = {
    'square': ('embed', 'mlp'),
    'cube': ('layers', 'tasks', 'embed', 'mlp'),
    'wo': {'row': ('layers', 'grid_row', 'embed'), 'full': ('vocab',)},
    'row': ('heads', 'kv'),
  }
  shapes = {'square': (6, 6), 'cube': (6, 6, 6, 6), 'row': (2, 6)}
  shapes['wo'] = {'row': (6, 3, 5), 'full': (6,)}
  params = jax.tree.map(
    jnp.zeros, shapes, is_leaf=lambda s: isinstance(s, tuple)
  )
  tx = optimizers.make_optimizer(
    optimizers.Adafactor(min_dim=4), optimizers.Constant(), logical_axes=axes
  )
  found = optimizers.state_axes(jax.eval_shape(tx.init, params), params, axes)
  assert trees.flatten(found[0], is_leaf=trees.is_axes) == {
    'count': (),
    'moments/cube/row': ('layers', 'tasks', 'embed'),
    'moments/cube/column': ('layers', 'tasks', 'mlp'),
    'moments/row/full': ('heads', 'kv'),
    'moments/square/row': ('embed',),
    'moments/square/column': ('mlp',),
    'moments/wo/full/full': ('vocab',),
    'moments/wo/row/full': ('layers', 'grid_row', 'embed'),
  }
  tx = optimizers.make_optimizer(
    optimizers.AdamW(), optimizers.Constant(), logical_axes=axes
  )
  found = optimizers.state_axes(jax.eval_shape(tx.init, params), params, axes)
  for moments in (found[0].mu, found[0].nu):
    assert moments == axes


def test_state_axes_do_not_guess():
  params = {'w': jnp.zeros((3, 4))}
  for unknown in ({'w': jnp.zeros((4, 3))}, {'other': jnp.zeros((3, 4))}):
    with pytest.raises(ValueError, match='unknown layout'):
      optimizers.state_axes(unknown, params, {'w': ('embed', 'mlp')})
