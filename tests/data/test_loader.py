import dataclasses

import numpy as np
import pytest

from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.errors import UserError
from tests.data import stores

LE, LD, S, B = 61, 23, 7, 12
COUNTS = {'a': 411, 'b': 97, 'c': 10}
TASK_IDS = {'a': 2, 'b': 0, 'c': 1}


@pytest.fixture(scope='module')
def corpus():
  return {
    name: stores.distinct_store(
      name, stores.random_lengths(count, mean, seed=len(name))
    )
    for (name, count), mean in zip(COUNTS.items(), (9, 20, 14), strict=True)
  }


def make(corpus, *, seed=5, rates=None, **changes):
  options = {
    'task_ids': TASK_IDS,
    'rates': rates or {'a': 0.5, 'b': 0.4, 'c': 0.1},
    'batch_size': B,
    'row_lengths': (LE, LD),
    'max_segments': S,
    'seed': seed,
    **changes,
  }
  return loader_lib.Loader(corpus, **options)


def by_id(number):
  return {v: k for k, v in TASK_IDS.items()}[number]


def assert_batches_equal(left, right):
  for field in dataclasses.fields(left):
    a, b = getattr(left, field.name), getattr(right, field.name)
    assert a.dtype == b.dtype, field.name
    np.testing.assert_array_equal(a, b, err_msg=field.name)


def joined(parts):
  fields = [field.name for field in dataclasses.fields(parts[0])]
  return type(parts[0])(
    **{
      name: np.concatenate([getattr(part, name) for part in parts])
      for name in fields
    }
  )


@pytest.mark.parametrize('packed', [True, False])
def test_every_segment_is_an_example_of_the_rows_task(corpus, packed):
  known = {name: stores.examples(store) for name, store in corpus.items()}
  loader = make(corpus, packed=packed)
  seen = set()
  for n in (0, 3, 40):
    batch = loader.batch(n)
    for line in range(B):
      name = by_id(batch.task_ids[line])
      members = stores.segments(batch, line)
      assert 1 <= len(members) <= (S if packed else 1)
      for inputs, targets in members:
        assert known[name][inputs][1] == targets
        seen.add(name)
  assert seen == set(COUNTS)


def test_positions_starts_shifts_and_weights_token_by_token(corpus):
  batch = make(corpus).batch(2)
  for line in range(B):
    expected = {
      field.name: np.zeros_like(getattr(batch, field.name)[line])
      for field in dataclasses.fields(batch)
      if field.name != 'task_ids'
    }
    at = {'encoder': 0, 'decoder': 0}
    for number, pair in enumerate(stores.segments(batch, line)):
      expected['encoder_segment_starts'][number] = at['encoder']
      for side, ids in zip(('encoder', 'decoder'), pair, strict=True):
        for position, token in enumerate(ids):
          place = at[side]
          expected[f'{side}_segment_ids'][place] = number + 1
          expected[f'{side}_positions'][place] = position
          if side == 'encoder':
            expected['encoder_input_tokens'][place] = token
          else:
            before = ids[position - 1] if position else 0
            expected['decoder_input_tokens'][place] = before
            expected['decoder_target_tokens'][place] = token
            expected['decoder_loss_weights'][place] = 1
          at[side] += 1
    for name, values in expected.items():
      np.testing.assert_array_equal(
        getattr(batch, name)[line], values, err_msg=name
      )
  assert (batch.encoder_segment_ids.max(axis=1) > 1).any()


def test_shapes_never_change_and_dtypes_are_the_models(corpus):
  for n in range(5):
    batch = make(corpus).batch(n)
    assert batch.encoder_input_tokens.shape == (B, LE)
    assert batch.decoder_input_tokens.shape == (B, LD)
    assert batch.encoder_segment_starts.shape == (B, S)
    assert batch.task_ids.shape == (B,)
    for field in dataclasses.fields(batch):
      wanted = np.float32 if 'weights' in field.name else np.int32
      assert getattr(batch, field.name).dtype == wanted, field.name


@pytest.mark.parametrize('num_hosts', [2, 3, 4])
def test_the_hosts_rows_make_the_global_batch(corpus, num_hosts):
  whole = make(corpus).batch(17)
  parts = [make(corpus).batch(17, host, num_hosts) for host in range(num_hosts)]
  assert_batches_equal(whole, joined(parts))


def test_a_batch_does_not_depend_on_the_calls_before_it(corpus):
  used = make(corpus)
  for n in (30, 2, 8_000, 2, 0):
    assert_batches_equal(used.batch(n), make(corpus).batch(n))
  other = make(corpus, seed=6).batch(2).encoder_input_tokens
  assert (other != used.batch(2).encoder_input_tokens).any()


@pytest.mark.parametrize('packed', [True, False])
def test_each_epoch_has_every_example_once(corpus, packed):
  store = corpus['a']
  loader = make(corpus, rates={'a': 1.0}, packed=packed)
  known = stores.examples(store)
  rows = loader.packed['a'].num_rows
  assert rows % B  # epochs do not end where batches do
  drawn = []
  for n in range(-(-3 * rows // B)):
    batch = loader.batch(n)
    for line in range(B):
      drawn.append([known[i][0] for i, _ in stores.segments(batch, line)])
  epochs = [sum(drawn[e * rows : (e + 1) * rows], []) for e in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(store.num_examples))
  assert epochs[0] != epochs[1] != epochs[2]


def test_examples_come_at_their_rates(corpus):
  rates = {'a': 0.5, 'b': 0.4, 'c': 0.1}
  loader = make(corpus, rates=rates)
  counts = dict.fromkeys(rates, 0)
  steps = 1_500
  for n in range(steps):
    batch = loader.batch(n)
    segments = batch.encoder_segment_ids.max(axis=1)
    for name, number in TASK_IDS.items():
      counts[name] += int(segments[batch.task_ids == number].sum())
  total = sum(counts.values())
  summary = {row['task']: row for row in loader.summary(steps)['tasks']}
  for name, rate in rates.items():
    # Four standard deviations of drawing that many rows at random.
    rows = counts[name] / summary[name]['segments_per_row']
    assert counts[name] / total == pytest.approx(rate, rel=4 / rows**0.5)
    assert summary[name]['examples_per_step'] * steps == pytest.approx(
      counts[name], rel=4 / rows**0.5
    )


def test_summary_is_exact_over_epochs(corpus):
  # One task: a step's mean is that of one epoch, which can be counted.
  loader = make(corpus, rates={'a': 2.0})
  store, rows = corpus['a'], loader.packed['a'].num_rows
  filled = weights = 0
  for n in range(rows):  # B epochs
    batch = loader.batch(n)
    filled += int((batch.encoder_segment_ids > 0).sum())
    weights += int(batch.decoder_loss_weights.sum())
  summary = loader.summary(num_steps=rows)
  assert summary['encoder_padding_fraction'] == pytest.approx(
    1 - filled / (rows * B * LE)
  )
  assert summary['decoder_padding_fraction'] == pytest.approx(
    1 - weights / (rows * B * LD)
  )
  assert summary['tokens_per_batch'] == pytest.approx((filled + weights) / rows)
  assert summary['rows_per_batch'] == B
  (task,) = summary['tasks']
  assert task['rate'] == 1.0
  assert task['epochs'] == pytest.approx(B)
  assert task['examples'] == store.num_examples
  assert task['examples_per_step'] == pytest.approx(
    B * store.num_examples / rows
  )


def test_task_ids_that_the_model_lacks_are_refused(corpus):
  with pytest.raises(
    UserError,
    match=r'b: task_ids contains \[7\], but the model has 2 tasks'
    r' \(0\.\.1: a, c\)',
  ):
    make(corpus, task_ids={'a': 0, 'b': 7, 'c': 1}, num_tasks=2)
  with pytest.raises(UserError, match=r'c: task_ids contains \[None\]'):
    make(corpus, task_ids={'a': 0, 'b': 1})
  with pytest.raises(UserError, match=r'a: task_ids contains \[-1\]'):
    make(corpus, task_ids={'a': -1, 'b': 1, 'c': 0})


def test_hosts_must_divide_the_batch(corpus):
  with pytest.raises(UserError, match=r'batch_size is 12, which 5 hosts'):
    make(corpus).batch(0, 1, 5)


def test_an_example_longer_than_a_row_is_refused_with_its_task(corpus):
  with pytest.raises(UserError, match=r'a/train: .*row'):
    make(corpus, row_lengths=(13, LD))


@pytest.mark.parametrize('packed', [True, False])
def test_candidates_walk_through_every_tasks_epochs(corpus, packed):
  loader = make(corpus, packed=packed)
  per_task, steps = 5, 190
  drawn = {name: [] for name in COUNTS}
  for n in range(steps):
    batch = loader.candidates(n, per_task)
    names = [*COUNTS] * per_task
    assert batch.task_ids.tolist() == [TASK_IDS[name] for name in names]
    for line, name in enumerate(names):
      drawn[name].append(stores.segments(batch, line))
  for name, store in corpus.items():
    known, size = stores.examples(store), loader.packed[name].num_rows
    assert per_task * steps >= 2 * size
    epochs = [drawn[name][e * size : (e + 1) * size] for e in range(2)]
    for epoch in epochs:
      members = [known[i] for row in epoch for i, _ in row]
      assert sorted(index for index, _ in members) == [*range(COUNTS[name])]
      assert [targets for _, targets in members] == [
        targets for row in epoch for _, targets in row
      ]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize('num_hosts', [2, 3, 5])
def test_the_hosts_candidates_make_all_candidates(corpus, num_hosts):
  whole = make(corpus).candidates(17, 10)
  used = make(corpus)
  used.candidates(900, 10)
  parts = [
    used.candidates(17, 10, host, num_hosts) for host in range(num_hosts)
  ]
  assert_batches_equal(whole, joined(parts))


def test_candidates_that_hosts_cannot_share_are_refused(corpus):
  with pytest.raises(
    UserError,
    match=r'3 tasks with 3 candidates each give 9 rows, which 2 hosts',
  ):
    make(corpus).candidates(0, 3, 1, 2)
