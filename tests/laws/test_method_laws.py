"""Laws that T5 keeps whatever method is built into it, in float64.

The methods are those of `tests/laws/methods.py`.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax import trees
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import decoding, losses
from hypergrid_jax.ops import scan_stash, xla_forms
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.training import freezing, optimizers, schedules
from tests import batches, jaxprs
from tests.laws.methods import (
  FIRST_GRADIENTS,
  METHODS,
  SILENCED,
  SIZES,
  make,
  parts,
  sees_task_ids,
)

pytestmark = pytest.mark.usefixtures('x64', 'compile_quickly')

CLOSE = 1e-12
LADDER = 'CA-MTL shared block per head, all norms, ladder'
every_method = pytest.mark.parametrize('name', METHODS)
every_addition = pytest.mark.parametrize('name', list(METHODS)[2:])


def loss(model, params, batch):
  logits = model.bind(params)(batch)
  nats = losses.token_losses(logits, batch.decoder_target_tokens)
  return jnp.sum(nats * batch.decoder_loss_weights), logits


@functools.cache
def step(name, **overrides):
  """Jitted (params, batch) -> logits, summed loss and its gradients."""
  model = make(name, **overrides)

  @jax.jit
  def run(params, batch):
    gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)
    (value, logits), gradients = gradient(model, params, batch)
    return {'logits': logits, 'loss': value, 'gradients': gradients}

  return run


@functools.cache
def params(name):
  return batches.random_params(make(name).abstract_params)


@functools.cache
def initial(key_seed=0):
  """Initial parameters of all methods from one seed, in one compilation."""
  key = jax.random.key(key_seed, impl='unsafe_rbg')

  @jax.jit
  def draw():
    return {name: make(name).init(key) for name in METHODS}

  return jax.device_get(draw())


def examples():
  return batches.rows(vocab_size=SIZES['vocab_size'])


def assert_trees_close(actual, desired, close=CLOSE):
  """Differences of leaves relative to the leaf's largest number, or to 1."""
  desired = trees.flatten(desired)
  for path, leaf in trees.flatten(actual).items():
    size = max(1.0, np.abs(desired[path]).max())
    np.testing.assert_allclose(
      leaf, desired[path], rtol=0, atol=close * size, err_msg=path
    )


@every_addition
def test_plain_parameters_are_a_subset_and_start_alike(name):
  model, plain = make(name), make(f'plain {_version(name)}')
  method_leaves, plain_leaves = (
    trees.flatten(initial()[n]) for n in (name, f'plain {_version(name)}')
  )
  assert method_leaves.keys() - plain_leaves.keys() == model.added
  for path, leaf in plain_leaves.items():
    np.testing.assert_array_equal(method_leaves[path], leaf, err_msg=path)
  axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
  plain_axes = trees.flatten(plain.logical_axes, is_leaf=trees.is_axes)
  assert {path: axes[path] for path in plain_axes} == plain_axes


@every_addition
def test_starts_as_plain_t5_with_its_gated_kernels_scaled(name):
  """HyperGrid's forms: 2 s(0) = 1 (identity), 1 + s(0) (residual), s(0).

  Of methods that do not start as a plain T5, `SILENCED` parameters are zero.
  """
  plain_name = f'plain {_version(name)}'
  batch = batches.batch(examples())
  start, scaled = (
    jax.tree.map(np.float64, initial()[n]) for n in (name, plain_name)
  )
  silenced = '|'.join(SILENCED.get(type(method), '') for method in parts(name))
  for path, leaf in trees.flatten(start).items():
    if re.fullmatch(silenced, path):
      leaf[...] = 0
  for path, layer, form in gated_kernels(name):
    gate = {'plain': 0.5, 'residual': 1.5, 'identity': 1.0}
    trees.flatten(scaled)[path][layer] *= gate[form]
  actual, plain = step(name)(start, batch), step(plain_name)(scaled, batch)
  assert_trees_close(
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


@every_method
def test_packed_rows_equal_rows_of_one_example(name):
  packed = examples()
  together = step(name)(params(name), batches.batch(packed))
  logits = together.pop('logits')
  singles = batches.alone(packed)
  count, single_logits, summed = len(packed), [], None
  for first in range(0, len(singles), count):
    batch = batches.batch(singles[first : first + count], num_rows=count)
    chunk = step(name)(params(name), batch)
    single_logits.extend(np.asarray(chunk.pop('logits')))
    summed = chunk if summed is None else jax.tree.map(jnp.add, summed, chunk)
  assert_packed_equal(packed, logits, single_logits)
  assert_trees_close(together, summed)


def assert_packed_equal(packed, logits, single_logits):
  single_logits = iter(single_logits)
  for b, row in enumerate(packed):
    for s, _, place in batches.places(row):
      np.testing.assert_allclose(
        np.asarray(logits)[b, place],
        next(single_logits)[: place.stop - place.start],
        rtol=0,
        atol=10 * CLOSE,
        err_msg=f'row {b}, segment {s + 1}',
      )


@every_method
def test_logits_depend_on_their_own_example_and_nothing_later(name):
  """Changes every token in turn and looks at which logits moved."""
  packed = examples()
  batch = batches.batch(packed)
  run = functools.partial(step(name), params(name))
  base = run(batch)['logits']
  for field, ids in (
    ('encoder_input_tokens', batch.encoder_segment_ids),
    ('decoder_input_tokens', batch.decoder_segment_ids),
  ):
    for b, at in np.ndindex(ids.shape):
      tokens = getattr(batch, field).copy()
      tokens[b, at] = (tokens[b, at] + 7) % SIZES['vocab_size']
      other = run(dataclasses.replace(batch, **{field: tokens}))
      moved = other['logits'] - base
      expected = np.zeros(batch.decoder_segment_ids.shape, bool)
      expected[b] = batch.decoder_segment_ids[b] == ids[b, at]
      if field.startswith('decoder'):
        expected[b, :at] = False
      real = batch.decoder_segment_ids > 0
      expected &= real
      moved = np.asarray(moved)[real]
      assert (np.abs(moved).max(axis=-1) > 1e-9).tolist() == expected[
        real
      ].tolist(), (field, b, at)
      np.testing.assert_array_equal(moved[~expected[real]], 0)


@every_method
def test_a_row_depends_on_its_own_task_id_if_on_any(name):
  batch = batches.batch(examples())
  run = functools.partial(step(name), params(name))
  tasks = batch.task_ids.copy()
  tasks[2] = 4  # row 0 keeps task 3, which row 2 had too
  other = run(dataclasses.replace(batch, task_ids=tasks))
  moved = other['logits'] - run(batch)['logits']
  expected = [False] * len(tasks)
  expected[2] = sees_task_ids(name)
  assert np.any(moved, axis=(1, 2)).tolist() == expected


@every_method
def test_every_layer_of_every_parameter_has_a_gradient(name):
  """And of every task, if it is in the batch."""
  batch = batches.batch(examples())
  outputs = step(name)(params(name), batch)
  axes = trees.flatten(make(name).logical_axes, is_leaf=trees.is_axes)
  for path, leaf in trees.flatten(outputs['gradients']).items():
    separate = [axis in ('layers', 'tasks') for axis in axes[path]]
    moved = np.any(leaf, axis=tuple(np.flatnonzero(np.invert(separate))))
    if 'tasks' in axes[path]:
      present = np.isin(np.arange(batches.NUM_TASKS), batch.task_ids)
      expected = np.broadcast_to(present, moved.shape)
    else:
      expected = np.ones_like(moved)
    np.testing.assert_array_equal(moved, expected, err_msg=path)


@every_addition
def test_first_gradients_reach_what_is_not_behind_a_zero(name):
  start = jax.tree.map(np.float64, initial()[name])
  outputs = step(name)(start, batches.batch(examples()))
  leaves = trees.flatten(outputs['gradients'])
  first = '|'.join(FIRST_GRADIENTS[type(method)] for method in parts(name))
  for path in make(name).added:
    moved = bool(np.any(leaves[path]))
    assert moved == bool(re.fullmatch(first, path)), path


@every_addition
def test_two_steps_later_everything_that_is_added_has_a_gradient(name):
  params = jax.tree.map(np.float64, initial()[name])
  batch = batches.batch(examples())
  for _ in range(2):
    gradients = step(name)(params, batch)['gradients']
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
  gradients = step(name)(params, batch)['gradients']
  for path in make(name).added:
    assert np.any(trees.flatten(gradients)[path]), path


# The settings each method is run under beside (scanned, nothing recomputed).
OTHERS = [
  ('plain 1.0', {'remat_policy': 'minimal'}),
  ('plain 1.1', {'scan_layers': False, 'remat_policy': 'full'}),
  ('L2 first identity', {'remat_policy': 'full'}),
  ('L2 first identity', {'scan_layers': False, 'remat_policy': 'minimal'}),
  ('LG mean residual wi+wo encoder', {'scan_layers': False}),
  ('GL task plain upper half', {'scan_layers': False, 'remat_policy': 'full'}),
  ('L first identity one layer', {'scan_layers': False}),
  ('L2 mean plain wi decoder', {'remat_policy': 'minimal'}),
  (LADDER, {'scan_layers': False, 'remat_policy': 'full'}),
  ('GL task with CA-MTL', {'scan_layers': False}),
  ('adapters, shared norm', {'scan_layers': False, 'remat_policy': 'minimal'}),
  ('HyperFormer++', {'scan_layers': False, 'remat_policy': 'full'}),
  ('HyperFormer per position', {'scan_layers': False}),
]


@pytest.mark.parametrize(
  ('name', 'setting'), OTHERS, ids=lambda value: str(value)
)
def test_scan_and_remat_change_nothing(name, setting):
  batch = batches.batch(examples())
  actual = step(name, **setting)(params(name), batch)
  assert_trees_close(actual, step(name)(params(name), batch))


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
  stashing = step.__wrapped__(name, remat_policy=policy)
  actual = stashing(params(name), batch)
  assert asked
  assert_trees_close(actual, step(name)(params(name), batch))


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


@every_method
def test_cached_steps_equal_packed_teacher_forcing(name):
  model, packed = make(name), examples()
  singles = batches.batch(batches.alone(packed), num_segments=1)

  @jax.jit
  def decode(params, batch):
    module = model.bind(params)
    tokens = batch.encoder_input_tokens
    segments = decoding.single_segments(tokens)
    encoded = module.encode(tokens, segments, batch.task_ids)
    conditioning = module.decoder_conditioning(
      segments, encoded, segments, batch.task_ids
    )
    inputs = batch.decoder_input_tokens
    cache = module.start_cache(encoded, length=inputs.shape[1])

    def one(cache, scanned):
      index, token = scanned
      logits, cache = module.decode_step(
        token[:, None], index, cache, conditioning, segments
      )
      return cache, logits

    steps = (jnp.arange(inputs.shape[1]), inputs.T)
    return jax.lax.scan(one, cache, steps)[1].transpose(1, 0, 2)

  logits = step(name)(params(name), batches.batch(packed))['logits']
  assert_packed_equal(packed, logits, np.asarray(decode(params(name), singles)))


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
  'name',
  [
    'L2 first identity',
    'LG mean residual wi+wo encoder',
    LADDER,
    'adapters per task',
    'HyperFormer++',
  ],
)
def test_a_mesh_of_4_by_2_devices_equals_one(name):
  model, batch = make(name), batches.batch(examples())
  mesh = partitioning.make_mesh(partitioning.MeshConfig(data=4, model=2))
  placed = jax.device_put(
    params(name),
    partitioning.param_shardings(
      model.logical_axes, model.abstract_params, mesh
    ),
  )
  wi = trees.flatten(placed)['encoder/layers/attention/query']
  assert {shard.data.shape for shard in wi.addressable_shards} == {(3, 12, 5)}
  rows = jax.device_put(batch, partitioning.batch_sharding(mesh))
  actual = step(name)(placed, rows)
  assert_trees_close(actual, step(name)(params(name), batch))


@every_method
def test_every_axis_has_a_partitioning_rule(name):
  axes = trees.flatten(make(name).logical_axes, is_leaf=trees.is_axes)
  shapes = trees.flatten(make(name).abstract_params)
  for path, names in axes.items():
    assert set(names) <= partitioning.DEFAULT_RULES.keys(), path
    assert len(names) == len(shapes[path].shape), path


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
