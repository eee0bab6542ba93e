"""The step against hand-written gradients, the loop against its promises.

The model is a table of bigram logits, so that the gradient of the loss can be
written down: softmax minus one-hot.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypergrid_jax import types
from hypergrid_jax.training import loop
from hypergrid_jax.training.state import TrainState
from tests import tolerances
from tests.training.bigrams import Bigrams

V, T = 7, 4  # vocabulary, tasks
B, LENGTH = 6, 5
TASKS = ('a', 'b', 'c', 'd')


def make_batch(seed):
  rng = np.random.default_rng(seed)

  def tokens():
    return rng.integers(0, V, (B, LENGTH)).astype(np.int32)

  ones = np.ones((B, LENGTH), np.int32)
  inputs, targets = tokens(), tokens()
  return types.Batch(
    encoder_input_tokens=ones,
    encoder_segment_ids=ones,
    encoder_positions=ones,
    encoder_segment_starts=np.zeros((B, 1), np.int32),
    decoder_input_tokens=inputs,
    decoder_target_tokens=targets,
    decoder_segment_ids=ones,
    decoder_positions=ones,
    decoder_loss_weights=(rng.random((B, LENGTH)) < 0.7).astype(np.float32),
    task_ids=np.array([3, 0, 3, 1, 0, 3], np.int32),
  )


def start_state(tx, dtype=jnp.float32, noise=None):
  rng = np.random.default_rng(5)
  params = {'table': jnp.asarray(rng.normal(size=(V, V)), dtype)}
  if noise is not None:
    params['noise'] = jnp.asarray(noise, dtype)
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def numpy_gradient(table, batch):
  """Summed gradient, and per task (loss, tokens)."""
  gradient = np.zeros_like(table)
  sums = np.zeros((T, 2))
  for b in range(B):
    for position in range(LENGTH):
      weight = batch.decoder_loss_weights[b, position]
      row = table[batch.decoder_input_tokens[b, position]]
      probabilities = np.exp(row) / np.exp(row).sum()
      target = batch.decoder_target_tokens[b, position]
      delta = probabilities - np.eye(V)[target]
      gradient[batch.decoder_input_tokens[b, position]] += weight * delta
      loss = -np.log(probabilities[target]) * weight
      sums[batch.task_ids[b]] += loss, weight
  return gradient, sums


@pytest.mark.parametrize('microbatches', [1, 2, 3])
@pytest.mark.parametrize('normalization', ['tokens', 'sum'])
@pytest.mark.usefixtures('x64')
def test_step_is_gradient_descent_on_the_written_out_gradient(
  microbatches, normalization
):
  config = loop.TrainConfig(
    num_steps=1, microbatches=microbatches, loss_normalization=normalization
  )
  tx = optax.sgd(0.5)
  state = start_state(tx, jnp.float64)
  batch = make_batch(1)
  gradient, sums = numpy_gradient(np.asarray(state.params['table']), batch)
  if normalization == 'tokens':
    gradient = gradient / sums[:, 1].sum()

  step = jax.jit(loop.make_train_step(Bigrams(T), tx, config))
  after, metrics = step(state, batch, jax.random.key(0))

  expected = np.asarray(state.params['table']) - 0.5 * gradient
  np.testing.assert_allclose(
    after.params['table'], expected, **tolerances.FLOAT64
  )
  np.testing.assert_allclose(metrics.sums, sums, **tolerances.FLOAT64)
  np.testing.assert_allclose(
    metrics.gradient_norm,
    np.sqrt((gradient**2).sum()),
    **tolerances.FLOAT64,
  )
  assert int(after.step) == 1


@pytest.mark.usefixtures('x64')
def test_what_is_frozen_has_no_part_in_the_gradient():
  config = loop.TrainConfig(num_steps=1, loss_normalization='sum')
  batch = make_batch(1)
  state = start_state(optax.sgd(0.5), jnp.float64, noise=0.0)
  gradient, _ = numpy_gradient(np.asarray(state.params['table']), batch)
  norms = {}
  for name, part in (('table', 'whole'), ('table', 'upper_half')):
    step = loop.make_train_step(
      Bigrams(T), optax.sgd(0.5), config, trained={name: part}
    )
    after, metrics = jax.jit(step)(state, batch, jax.random.key(0))
    assert after.params['noise'] == 0
    norms[part] = float(metrics.gradient_norm)
  # Of seven rows of the table the first three are below the upper half.
  for part, rows in (('whole', gradient), ('upper_half', gradient[3:])):
    assert norms[part] == pytest.approx(np.sqrt((rows**2).sum()), rel=1e-10)


def test_microbatches_must_divide_the_batch():
  config = loop.TrainConfig(num_steps=1, microbatches=4)
  tx = optax.sgd(0.5)
  step = loop.make_train_step(Bigrams(T), tx, config)
  with pytest.raises(loop.errors.UserError, match='microbatches = 4 .* = 6'):
    step(start_state(tx), make_batch(1), jax.random.key(0))


def run(config, state, tx, *, batches=None, stop=lambda done: False):
  """Runs the loop.

  Returns:
    The last state and all events, with their states on the host.
  """
  if batches is None:
    first = int(state.step)
    batches = (make_batch(n) for n in range(first, config.num_steps))
  events = []
  for event in loop.train(
    config,
    state,
    step_fn=jax.jit(
      loop.make_train_step(Bigrams(T), tx, config), donate_argnums=0
    ),
    batches=batches,
    tasks=TASKS,
    save_due=lambda done: done % config.checkpoint_period == 0,
    stop=stop,
  ):
    state = event.state
    on_host = jax.device_get(state)
    events.append(dataclasses.replace(event, state=on_host))
  return state, events


def saved(events):
  return {event.step: event.state for event in events if event.save}


def evaluated(events):
  return [event.step for event in events if event.evaluate]


def logged(events):
  return {event.step: event.log for event in events if event.log}


def test_told_to_stop_the_loop_saves_what_it_has_done():
  config = loop.TrainConfig(num_steps=11, checkpoint_period=4)
  tx = optax.sgd(0.1)
  stopped, events = run(
    config, start_state(tx), tx, stop=lambda done: done >= 7
  )
  assert int(stopped.step) == 7
  assert list(saved(events)) == [4, 7]
  assert evaluated(events) == []
  again, events = run(config, stopped, tx)
  assert list(saved(events)) == [8, 11]
  straight, _ = run(config, start_state(tx), tx)
  jax.tree.map(np.testing.assert_array_equal, again, straight)


def test_the_loop_saves_evaluates_and_logs_when_it_says():
  config = loop.TrainConfig(
    num_steps=11, checkpoint_period=4, eval_period=5, log_period=3
  )
  tx = optax.sgd(0.1)
  _, events = run(config, start_state(tx), tx)
  # At 5 and 10 because it evaluates there.
  assert list(saved(events)) == [4, 5, 8, 10, 11]
  assert evaluated(events) == [5, 10, 11]
  assert list(logged(events)) == [3, 6, 9, 11]
  assert all(int(state.step) == n for n, state in saved(events).items())


def test_evaluation_only_at_the_end_by_default():
  tx = optax.sgd(0.1)
  _, events = run(loop.TrainConfig(num_steps=3), start_state(tx), tx)
  assert evaluated(events) == [3]


def test_logged_losses_are_means_over_the_window_and_per_task():
  tx = optax.sgd(0.0)  # the table stays, so each step's sums are known
  config = loop.TrainConfig(num_steps=4, log_period=2)
  state = start_state(tx)
  table = np.asarray(state.params['table'], np.float64)
  sums = [numpy_gradient(table, make_batch(n))[1] for n in range(4)]
  _, events = run(config, state, tx)
  for last, window in ((2, sums[:2]), (4, sums[2:])):
    total = np.sum(window, axis=0)
    values = logged(events)[last]
    assert values['loss'] == pytest.approx(
      total[:, 0].sum() / total[:, 1].sum(), rel=1e-5
    )
    assert values['loss/d'] == pytest.approx(
      total[3, 0] / total[3, 1], rel=1e-5
    )
    assert 'loss/c' not in values  # no row of that task


def test_every_step_is_measured_once_and_in_order():
  config = loop.TrainConfig(
    num_steps=2 * loop.MOST_PENDING_STEPS + 9, log_period=1000
  )
  tx = optax.sgd(0.0)
  batch = make_batch(1)
  table = np.asarray(start_state(tx).params['table'], np.float64)
  loss = numpy_gradient(table, batch)[1][:, 0].sum()

  def batches():
    for number in range(config.num_steps):
      weights = batch.decoder_loss_weights * (number + 1)
      yield dataclasses.replace(batch, decoder_loss_weights=weights)

  _, events = run(config, start_state(tx), tx, batches=batches())
  assert len(events) == 3  # no loss waits longer to be looked at
  numbers, sums = zip(
    *(
      (number, metrics.sums[:, 0].sum())
      for event in events
      for number, metrics in event.numbered()
    ),
    strict=True,
  )
  assert numbers == tuple(range(config.num_steps))
  np.testing.assert_allclose(sums, loss * (1 + np.array(numbers)), rtol=1e-5)


def test_going_on_from_a_saved_state_gives_the_same_bits():
  config = loop.TrainConfig(num_steps=9, checkpoint_period=4)
  tx = optax.adam(0.05)
  straight, events = run(config, start_state(tx, noise=0.3), tx)
  resumed, _ = run(config, jax.tree.map(jnp.asarray, saved(events)[4]), tx)
  for one, other in zip(
    jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True
  ):
    np.testing.assert_array_equal(one, other)


def test_the_seed_decides_the_noise():
  tx = optax.sgd(0.05)
  tables = []
  for seed in (0, 0, 1):
    config = loop.TrainConfig(num_steps=2, seed=seed)
    state, _ = run(config, start_state(tx, noise=0.3), tx)
    tables.append(np.asarray(state.params['table']))
  np.testing.assert_array_equal(tables[0], tables[1])
  assert np.abs(tables[0] - tables[2]).max() > 1e-4


@pytest.mark.parametrize('bad', ['weights', 'overflow'])
def test_a_loss_that_is_not_finite_stops_and_saves_nothing_more(bad):
  config = loop.TrainConfig(num_steps=9, checkpoint_period=2)
  tx = optax.sgd(0.1)

  def batches():
    for n in range(9):
      batch = make_batch(n)
      if n == 5:
        weights = batch.decoder_loss_weights.copy()
        weights[3, 2] = np.nan if bad == 'weights' else 3e38
        batch = dataclasses.replace(batch, decoder_loss_weights=weights)
      yield batch

  events = loop.train(
    config,
    start_state(tx),
    step_fn=jax.jit(loop.make_train_step(Bigrams(T), tx, config)),
    batches=batches(),
    tasks=TASKS,
    save_due=lambda done: done % 2 == 0,
  )
  assert [next(events).step, next(events).step] == [2, 4]
  with pytest.raises(loop.NonFiniteLossError, match='at step 6') as error:
    next(events)
  assert "'b'" in str(error.value)  # row 3 is of task 1


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('num_steps', 0),
    ('log_period', 0),
    ('eval_period', -1),
    ('label_smoothing', 1.0),
    ('loss_normalization', 'mean'),
  ],
)
def test_impossible_values_are_refused_by_name(field, value):
  values = {'num_steps': 3, field: value}
  with pytest.raises(loop.errors.UserError, match=f'train.{field}'):
    loop.TrainConfig(**values)
