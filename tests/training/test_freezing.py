"""What trains: presets against lists by hand, patterns, upper halves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypergrid_jax import trees
from hypergrid_jax.errors import UserError
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import Model, t5
from hypergrid_jax.training import freezing, optimizers
from tests.training.updates import STEPS, run

ENCODER_LAYERS, DECODER_LAYERS = 5, 4
CONFIG = t5.T5Config(
  d_model=6,
  d_ff=8,
  num_heads=2,
  d_kv=2,
  num_layers=ENCODER_LAYERS,
  num_decoder_layers=DECODER_LAYERS,
  vocab_size=10,
  logits_via_embedding=False,
)
METHOD = HyperGrid(grid_rows=2, grid_cols=3, state='task')
MODEL = Model(CONFIG, METHOD.extension_points(), num_tasks=3)

ATTENTION = {
  f'layers/attention/{name}' for name in ('query', 'key', 'value', 'out')
}
CROSS = {path.replace('attention', 'cross_attention') for path in ATTENTION}
MLP = {f'layers/feed_forward/{name}' for name in ('wi', 'wo')}
NORMS = {'layers/attention_norm/scale', 'layers/feed_forward_norm/scale'}
CROSS_NORM = {'layers/cross_attention_norm/scale'}
GATES = {f'condition/wo/{side}' for side in ('row', 'col')}
TABLE, BIAS = 'condition/task/embedding', 'relative_bias/embedding'
ENCODER_LAYER = ATTENTION | MLP | NORMS
DECODER_LAYER = ENCODER_LAYER | CROSS | CROSS_NORM


def below(stack, names):
  return {f'{stack}/{name}' for name in names}


def in_both(names):
  return below('encoder', names) | below('decoder', names)


def parts(preset):
  trained = freezing.trained_parameters(
    MODEL.logical_axes, preset, added=MODEL.added
  )
  found = {'whole': set(), 'upper_half': set()}
  for path, part in trained.items():
    found[part].add(path)
  return found['whole'], found['upper_half']


def test_all():
  whole, upper = parts('all')
  assert whole == set(trees.flatten(MODEL.abstract_params))
  assert not upper


def test_added():
  assert parts('added') == (in_both(GATES | {TABLE}), set())


def test_added_and_norms():
  assert parts('added_and_norms') == (
    in_both(GATES | {TABLE, 'final_norm/scale'} | NORMS)
    | below('decoder', CROSS_NORM),
    set(),
  )


def test_added_and_upper_half():
  assert parts('added_and_upper_half') == (
    in_both(GATES | {TABLE, 'final_norm/scale'})
    | below('decoder', DECODER_LAYER | {BIAS})
    | {'lm_head'},
    below('encoder', ENCODER_LAYER),
  )


def test_added_and_upper_halves():
  assert parts('added_and_upper_halves') == (
    in_both(GATES | {TABLE, 'final_norm/scale'}) | {'lm_head'},
    below('encoder', ENCODER_LAYER) | below('decoder', DECODER_LAYER),
  )


def test_task_vectors():
  assert parts('task_vectors') == (in_both({TABLE}), set())


def test_patterns_train_what_they_match_whole():
  assert parts(('.*/condition/.*', 'decoder/layers/.*/wo')) == (
    in_both(GATES | {TABLE}) | {'decoder/layers/feed_forward/wo'},
    set(),
  )


@pytest.mark.parametrize(
  ('chosen', 'message'),
  [
    ('added_and_norm', "must be one of 'all'.*Did you mean 'added_and_norms'"),
    ('encoder/.*', 'must be one of .* or a list of regular'),
    ((), r'is \(\), but must be one of'),
    (('encoder/layers/attention/qeury',), "no parameter.*'encoder/layers/att"),
    (('layers/feed_forward/wo',), 'must match a whole path'),
    (('encoder/layers/feed_forward/w',), 'must match a whole path'),
    (('lm_head', 'lm_.*'), "lm_head is matched by both 'lm_head' and 'lm_"),
    (('(',), 'not a regular expression'),
  ],
)
def test_what_cannot_be_meant_is_refused(chosen, message):
  with pytest.raises(UserError, match=f'train.trainable.*{message}'):
    parts(chosen)


@pytest.mark.parametrize(
  ('preset', 'message'),
  [
    ('added_and_norms', 'no method that adds parameters'),
    ('task_vectors', 'no parameter of this model'),
  ],
)
def test_presets_that_a_plain_t5_has_nothing_for_are_refused(preset, message):
  with pytest.raises(UserError, match=f"'{preset}'.*{message}"):
    freezing.trained_parameters(Model(CONFIG).logical_axes, preset)


# Layers below the upper half: 2 of 5, of 4 as well, 0 of 1.
LOWER = {'five': 2, 'four': 2, 'one': 0}


def stacked():
  rng = np.random.default_rng(3)
  shapes = {'five': (5, 4, 3), 'four': (4, 6), 'one': (1, 3)}
  params = {k: rng.normal(size=s) for k, s in shapes.items()}
  params = {k: v.astype(np.float32) for k, v in params.items()}
  params['five'][1, 0] = [-0.0, 0.0, 1e-40]
  return params


@pytest.mark.parametrize(
  'optimizer', [optimizers.Adafactor(), optimizers.AdamW(0.9)]
)
def test_layers_below_the_upper_half_keep_their_bits(optimizer):
  """And the upper ones train as if the lower ones did not exist."""
  make = optimizers.make_optimizer
  params = stacked()
  axes = {k: ('layers', 'mlp', 'embed')[: v.ndim] for k, v in params.items()}
  tx = make(
    optimizer,
    optimizers.Constant(0.1),
    logical_axes=axes,
    trained=dict.fromkeys(axes, 'upper_half'),
    clip_norm=1.0,
  )
  grads = jax.tree.map(
    lambda p: np.cos(np.arange(STEPS * p.size, dtype=np.float32)).reshape(
      STEPS, *p.shape
    ),
    params,
  )
  after, state = run(tx, params, grads)
  upper = make(
    optimizer, optimizers.Constant(0.1), logical_axes=axes, clip_norm=1.0
  )
  expected, upper_state = run(
    upper,
    {k: v[LOWER[k] :] for k, v in params.items()},
    {k: v[:, LOWER[k] :] for k, v in grads.items()},
  )
  for name, old in params.items():
    lower = LOWER[name]
    new = np.asarray(after[name])
    np.testing.assert_array_equal(
      new[:lower].view(np.int32), old[:lower].view(np.int32)
    )
    np.testing.assert_array_equal(new[lower:], expected[name])
    assert np.all(new[lower:] != old[lower:])
  # No state for layers that are frozen, and a layout for what there is.
  jax.tree.map(np.testing.assert_array_equal, state, upper_state)
  found = optimizers.state_axes(state, params, axes)
  named = trees.flatten(found, is_leaf=trees.is_axes)
  assert axes['five'] in named.values()


def test_frozen_parts_are_constants_to_a_gradient():
  trained = {'five': 'upper_half', 'one': 'whole'}

  def total(params):
    params = freezing.stop_gradient_of_frozen(params, trained)
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in params.values())

  params = stacked()
  value, gradient = jax.value_and_grad(total)(params)
  assert value == pytest.approx(sum(np.sin(p).sum() for p in params.values()))
  expected = {k: np.cos(v) for k, v in params.items()}
  expected['five'][:2] = 0
  expected['four'][:] = 0
  for name, leaf in expected.items():
    np.testing.assert_allclose(gradient[name], leaf, rtol=1e-6)


def test_no_gradient_is_computed_of_what_is_frozen():
  """Of `x @ frozen @ trained`, backward has one matmul per trained factor."""
  params = {'frozen': jnp.ones((3, 4)), 'trained': jnp.ones((4, 5))}

  def loss(params, x):
    params = freezing.stop_gradient_of_frozen(params, {'trained': 'whole'})
    return jnp.sum(jnp.square(x @ params['frozen'] @ params['trained']))

  text = str(jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((2, 3))))
  assert text.count('dot_general') == 2 + 1


def test_optax_still_applies_the_updates_of_parts():
  params = stacked()
  trained = {'four': 'upper_half'}
  chosen = freezing.select(params, trained)
  updates = freezing.expand_updates(
    jax.tree.map(jnp.ones_like, chosen), params, trained
  )
  after = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(after['four'][:2], params['four'][:2])
  np.testing.assert_allclose(after['four'][2:], params['four'][2:] + 1)
  np.testing.assert_array_equal(after['one'], params['one'])
