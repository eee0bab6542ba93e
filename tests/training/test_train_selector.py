"""Steps that look at the model before they choose which rows to train on.

The model is a table of bigram logits; the candidates come from a loader.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.data import tokens
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.training import loop
from hypergrid_jax.training.state import TrainState
from tests import tolerances
from tests.training.bigrams import Bigrams

V, T = 11, 3  # vocabulary, tasks
PER_TASK, B = 8, 12  # 24 candidates, of which 12 are trained on
STEPS = 6


MODEL = Bigrams(T)


@pytest.fixture(scope='module')
def loader():
  rng = np.random.default_rng(3)

  def texts(count):
    return [
      rng.integers(2, V, rng.integers(1, 9)).tolist() for _ in range(count)
    ]

  stores = {
    name: tokens.memory_store(name, 'train', texts(count), texts(count))
    for name, count in (('a', 90), ('b', 31), ('c', 9))
  }
  return loader_lib.Loader(
    stores,
    task_ids={'a': 1, 'b': 2, 'c': 0},
    rates={'a': 0.6, 'b': 0.3, 'c': 0.1},
    batch_size=B,
    row_lengths=(20, 13),
    max_segments=3,
    seed=7,
  )


def longest_targets(params, batch, key):
  del params, key
  return jax.lax.top_k(batch.decoder_loss_weights.sum(axis=1), B)[1]


def most_surprising(params, batch, key):
  """The rows whose targets the model finds least likely, in evaluation mode."""
  del key
  logits = MODEL.bind(params)(batch)
  surprise = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch.decoder_target_tokens
  )
  return jax.lax.top_k((surprise * batch.decoder_loss_weights).sum(1), B)[1]


def drawn(params, batch, key):
  """Rows at random: a selector may use its key."""
  del params
  return jax.random.permutation(key, len(batch.task_ids))[:B]


def choose_by_hand(selector, params, batch):
  """The same choice, row by row, without JAX."""
  table = np.asarray(params['table'], np.float64)
  scores = []
  for row in range(T * PER_TASK):
    score = 0.0
    for place in np.flatnonzero(batch.decoder_loss_weights[row]):
      logits = table[batch.decoder_input_tokens[row, place]]
      target = batch.decoder_target_tokens[row, place]
      surprise = np.log(np.exp(logits - logits[target]).sum())
      score += 1.0 if selector is longest_targets else surprise
    scores.append(score)
  ranked = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
  return np.array(ranked[:B])


def take(batch, indices):
  return jax.tree.map(lambda array: array[indices], batch)


def start_state(tx, noise=None):
  rng = np.random.default_rng(5)
  params = {'table': jnp.asarray(rng.normal(size=(V, V)))}
  if noise is not None:
    params['noise'] = jnp.asarray(noise, jnp.float32)
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def make_step(tx, selector, *, microbatches=1, row_sharding=None):
  config = loop.TrainConfig(num_steps=STEPS, microbatches=microbatches)
  return jax.jit(
    loop.make_train_step(
      MODEL, tx, config, selector=selector, row_sharding=row_sharding
    )
  )


def run(loader, step, state, last=STEPS):
  key = jax.random.key(1)
  sums = []
  for n in range(int(state.step), last):
    state, metrics = step(state, loader.candidates(n, PER_TASK), key)
    sums.append(np.asarray(metrics.sums))
  return state, sums


@pytest.mark.parametrize(
  ('selector', 'microbatches'),
  [(longest_targets, 1), (longest_targets, 3), (most_surprising, 2)],
)
@pytest.mark.usefixtures('x64')
def test_a_step_trains_on_the_rows_chosen_and_no_others(
  loader, selector, microbatches
):
  tx = optax.sgd(0.5)
  step = make_step(tx, selector, microbatches=microbatches)
  plain = make_step(tx, None, microbatches=microbatches)
  state = start_state(tx)
  kept = []
  for n in range(STEPS):
    candidates = loader.candidates(n, PER_TASK)
    rows = choose_by_hand(selector, state.params, candidates)
    kept.append(tuple(rows))
    key = jax.random.key(1)
    expected, told = plain(state, take(candidates, rows), key)
    state, metrics = step(state, candidates, key)
    np.testing.assert_allclose(metrics.sums, told.sums, **tolerances.FLOAT64)
    np.testing.assert_allclose(
      state.params['table'], expected.params['table'], **tolerances.FLOAT64
    )
  assert len(set(kept)) == STEPS


@pytest.mark.usefixtures('x64')
def test_the_choice_follows_the_model(loader):
  batch = loader.candidates(0, PER_TASK)
  tx = optax.sgd(0.1)
  params = start_state(tx).params
  other = {'table': params['table'][::-1]}
  chosen = [
    set(np.asarray(most_surprising(p, batch, None)).tolist())
    for p in (params, other)
  ]
  assert chosen[0] != chosen[1]


@pytest.mark.parametrize('selector', [most_surprising, drawn])
def test_resumed_it_chooses_the_same_and_gives_the_same_bits(loader, selector):
  tx = optax.sgd(0.1, momentum=0.9)
  step = make_step(tx, selector)
  straight, sums = run(loader, step, start_state(tx, noise=0.3))
  half, _ = run(loader, step, start_state(tx, noise=0.3), last=4)
  resumed, rest = run(loader, step, jax.tree.map(np.asarray, half))
  for one, other in zip(
    jax.tree.leaves((straight, sums[4:])),
    jax.tree.leaves((resumed, rest)),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)


def test_dropout_and_the_selector_have_keys_of_their_own(loader):
  seen = []

  class Model(Bigrams):
    def bind(self, params):
      def call(batch, *, dropout_key=None):
        seen.append(dropout_key)
        return params['table'][batch.decoder_input_tokens]

      return call

  def selector(params, batch, key):
    seen.append(key)
    return jnp.arange(B)

  tx = optax.sgd(0.1)
  config = loop.TrainConfig(num_steps=1)
  step = loop.make_train_step(Model(T), tx, config, selector=selector)
  for _ in range(2):
    batch = jax.tree.map(jnp.asarray, loader.candidates(0, PER_TASK))
    step(start_state(tx), batch, jax.random.key(1))
  used = [tuple(jax.random.key_data(key).tolist()) for key in seen]
  assert used[0] != used[1]
  assert used[:2] == used[2:]


@pytest.mark.usefixtures('x64')
def test_on_a_mesh_the_chosen_rows_are_divided_and_the_result_is_the_same(
  loader,
):
  tx = optax.sgd(0.5)
  expected, told = run(loader, make_step(tx, most_surprising), start_state(tx))
  mesh = partitioning.make_mesh(partitioning.MeshConfig(data=4, model=2))
  rows = partitioning.batch_sharding(mesh)
  seen = []

  class Placed:
    def candidates(self, n, per_task):
      parts = [loader.candidates(n, per_task, host, 2) for host in range(2)]
      whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
      return jax.device_put(whole, rows)

  class Model(Bigrams):
    def bind(self, params):
      call = super().bind(params)

      def watched(batch, *, dropout_key=None):
        jax.debug.inspect_array_sharding(batch.task_ids, callback=seen.append)
        return call(batch, dropout_key=dropout_key)

      return watched

  config = loop.TrainConfig(num_steps=STEPS)
  step = jax.jit(
    loop.make_train_step(
      Model(T), tx, config, selector=most_surprising, row_sharding=rows
    )
  )
  state, sums = run(Placed(), step, start_state(tx))
  assert seen
  assert all(s.shard_shape((B,)) == (B // 4,) for s in seen)
  np.testing.assert_allclose(sums, told, **tolerances.FLOAT64)
  np.testing.assert_allclose(
    state.params['table'], expected.params['table'], **tolerances.FLOAT64
  )


def test_chosen_rows_that_microbatches_do_not_divide_are_refused(loader):
  tx = optax.sgd(0.1)
  step = make_step(tx, longest_targets, microbatches=5)
  with pytest.raises(loop.errors.UserError, match='microbatches = 5 .* = 12'):
    step(start_state(tx), loader.candidates(0, PER_TASK), jax.random.key(0))
