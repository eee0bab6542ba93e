"""Laws that T5 keeps whatever method is built into it, in float64.

The methods are those of `tests/laws/methods.py`.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax import testing, trees
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.ops import scan_stash, xla_forms
from hypergrid_jax.testing import batches, laws
from hypergrid_jax.training import freezing, optimizers, schedules
from tests import jaxprs
from tests.laws.methods import (
  FIRST_GRADIENTS,
  METHODS,
  ON_A_MESH,
  SETTINGS,
  SILENCED,
  make,
  parts,
  sees_task_ids,
)

pytestmark = pytest.mark.usefixtures('x64', 'compile_quickly')

LADDER = 'CA-MTL shared block per head, all norms, ladder'
every_addition = pytest.mark.parametrize('name', list(METHODS)[2:])


def _classes():
  """The laws of `hypergrid_jax.testing`, a class for every method."""
  for name, (sizes, method) in METHODS.items():
    cls = testing.method_laws(
      method,
      sizes=sizes,
      sees_task_ids=sees_task_ids(name),
      starts_plain=all(
        getattr(method, 'form', 'identity') == 'identity'
        for method in parts(name)
      ),
      silenced='|'.join(
        SILENCED.get(type(method), '') for method in parts(name)
      ),
      settings=SETTINGS.get(name),
    )
    if name not in ON_A_MESH:
      cls.test_a_mesh_of_4_by_2_devices_equals_one = None
    yield f'Test {name}', cls


globals().update(_classes())


def step(name, **overrides):
  """Jitted (params, batch) -> logits, summed loss and its gradients."""
  return laws.step_of(make(name, **overrides))


@functools.cache
def params(name):
  return batches.random_params(make(name).abstract_params)


def initial(name):
  return laws.initial_params(make(name))


def examples():
  return batches.rows(vocab_size=laws.SIZES['vocab_size'])


@pytest.mark.parametrize(
  'name', [name for name in METHODS if 'residual' in name or 'plain w' in name]
)
def test_starts_as_plain_t5_with_its_gated_kernels_scaled(name):
  """HyperGrid's forms: 1 + s(0) = 1.5 (residual), s(0) = 0.5 (plain)."""
  plain_name = f'plain {_version(name)}'
  batch = batches.batch(examples())
  start, scaled = (
    jax.tree.map(np.float64, initial(n)) for n in (name, plain_name)
  )
  for path, layer, form in gated_kernels(name):
    gate = {'plain': 0.5, 'residual': 1.5}
    trees.flatten(scaled)[path][layer] *= gate[form]
  actual, plain = step(name)(start, batch), step(plain_name)(scaled, batch)
  laws.assert_trees_close(
    {'logits': actual['logits'], 'loss': actual['loss']},
    {'logits': plain['logits'], 'loss': plain['loss']},
  )


def gated_kernels(name):
  """Yields (path of the stacked kernel, layer, form) of every gated kernel."""
  config = make(name).config
  for method in parts(name):
    if not isinstance(method, HyperGrid):
      continue
    kernels = config.wi_names * method.gate_wi + ('wo',) * method.gate_wo
    for stack, gated, count in (
      ('encoder', method.encoder, config.num_layers),
      ('decoder', method.decoder, config.num_decoder_layers),
    ):
      numbers = {'all': range(count), 'upper_half': range(1, count)}
      for kernel in kernels if gated else ():
        for layer in numbers.get(method.layers, method.layers):
          yield f'{stack}/layers/feed_forward/{kernel}', layer, method.form


@every_addition
def test_first_gradients_reach_what_is_not_behind_a_zero(name):
  start = jax.tree.map(np.float64, initial(name))
  outputs = step(name)(start, batches.batch(examples()))
  leaves = trees.flatten(outputs['gradients'])
  first = '|'.join(FIRST_GRADIENTS[type(method)] for method in parts(name))
  for path in make(name).added:
    moved = bool(np.any(leaves[path]))
    assert moved == bool(re.fullmatch(first, path)), path


# HyperGrid behind a ReLU, alone and beside what needs its result again.
STASHING = [
  'LG mean residual wi+wo encoder',
  'HyperFormer as released with LG',
]


@pytest.mark.parametrize('policy', ['none', 'minimal'])
@pytest.mark.parametrize('name', STASHING)
def test_inputs_kept_in_one_stack_change_nothing(name, policy, monkeypatch):
  asked = []
  monkeypatch.setattr(scan_stash, 'PLATFORMS', ('cpu',))
  monkeypatch.setattr(
    xla_forms.Form, 'reads_stacks', lambda *_: not asked.append(name)
  )
  batch = batches.batch(examples())
  stashing = laws.step_of.__wrapped__(make(name, remat_policy=policy))
  actual = stashing(params(name), batch)
  assert asked
  laws.assert_trees_close(actual, step(name)(params(name), batch))


@pytest.mark.parametrize('scanned', [True, False])
def test_what_is_computed_again_is_merged_in_no_unrolled_stack(scanned):
  """The compiler would keep the first result; in a loop it cannot."""
  name = 'plain 1.0'
  run = step(name, scan_layers=scanned, remat_policy='minimal')
  traced = run.trace(params(name), batches.batch(examples())).jaxpr
  again = [
    equation.params['prevent_cse']
    for equation, _ in jaxprs.equations(traced.jaxpr)
    if 'prevent_cse' in equation.params
  ]
  assert again
  assert set(again) == {not scanned}


@pytest.mark.parametrize(
  'name', ['plain 1.0', 'plain 1.1', 'LG mean residual wi+wo encoder', LADDER]
)
def test_kernels_that_are_cast_beforehand_change_no_bit(name):
  model = make(name, dtype='bfloat16', scan_layers=False)
  weights = jax.tree.map(jnp.float32, params(name))
  cast = model.cast_kernels(weights)
  lower = [leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(cast)]
  assert any(lower)
  assert not all(lower)
  batch = jax.tree.map(jnp.asarray, batches.batch(examples()))
  # Operation by operation: fused ones may round less.
  with jax.disable_jit():
    logits = [model.bind(given)(batch) for given in (weights, cast)]
  np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(
  ('name', 'chosen'),
  [
    ('L2 first identity', ('.*/condition/.*', 'decoder/.*/wo')),
    ('HyperFormer++', 'added_and_norms'),
    ('adapters, shared norm', 'added_and_upper_half'),
  ],
)
def test_a_step_moves_what_is_trained_and_keeps_the_bits_of_the_rest(
  name, chosen
):
  model, start = make(name), params(name)
  trained = freezing.trained_parameters(
    model.logical_axes, chosen, added=model.added
  )
  optimizer = optimizers.make_optimizer(
    optimizers.Adafactor(),
    schedules.Constant(learning_rate=1e-2),
    logical_axes=model.logical_axes,
    added=model.added,
    trained=trained,
  )

  @jax.jit
  def move(params, gradients):
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return jax.tree.map(jnp.add, params, updates)

  outputs = step(name)(start, batches.batch(examples()))
  after = trees.flatten(move(start, outputs['gradients']))
  axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
  for path, before in trees.flatten(start).items():
    moved = np.asarray(after[path] != before)
    if axes[path][0] == 'layers':
      moved = moved.any(axis=tuple(range(1, moved.ndim)))
    # Of the three layers that an encoder has, the lowest is not in the upper
    # half.
    expected = {
      None: np.zeros_like(moved),
      'whole': np.ones_like(moved),
      'upper_half': np.arange(moved.shape[0]) > 0,
    }[trained.get(path)]
    assert np.any(moved) == np.any(expected), path
    if axes[path][0] == 'layers':
      np.testing.assert_array_equal(moved, expected, err_msg=path)


def _version(name):
  return '1.1' if METHODS[name][0] else '1.0'
