"""Batches of one task each: whose they are, and that epochs stay epochs."""

import numpy as np
import pytest

from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.data import sampling
from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.data.one_task import OneTaskSampler
from hypergrid_jax.errors import UserError
from tests.data import stores

SHARES = {'a': 0.6201, 'b': 0.3797, 'c': 0.0002}
ROWS = {'a': 997, 'b': 211, 'c': 5}
B = 24
LE, LD, S = 61, 23, 7
COUNTS = {'a': 411, 'b': 97, 'c': 10}
TASK_IDS = {'a': 2, 'b': 0, 'c': 1}


def sampler(seed=3):
  rows = sampling.RowSampler(SHARES, ROWS, batch_size=B, seed=seed)
  return OneTaskSampler(rows, batch_size=B, seed=seed)


def test_a_batch_has_one_task_whose_epochs_go_on():
  made, seen = sampler(), {task: [] for task in SHARES}
  steps = 400
  for step in range(steps):
    tasks, rows = made.rows(step)
    assert len(rows) == B
    assert len(set(tasks.tolist())) == 1
    seen[[*SHARES][tasks[0]]] += rows.tolist()
  assert {name for name, rows in seen.items() if rows} >= {'a', 'b'}
  for name, rows in seen.items():
    for epoch in range(len(rows) // ROWS[name]):
      now = rows[epoch * ROWS[name] : (epoch + 1) * ROWS[name]]
      assert sorted(now) == list(range(ROWS[name])), (name, epoch)
  np.testing.assert_array_equal(
    made.drawn(steps), [len(rows) for rows in seen.values()]
  )


@pytest.mark.parametrize('step', [0, 5, 2**16 + 7])
def test_any_part_of_any_batch_is_had_at_once(step):
  used, fresh = sampler(), sampler()
  used.rows(91)
  tasks, rows = used.rows(step)
  parts = [fresh.rows(step, start, start + 8) for start in (16, 0, 8)]
  for whole, place in ((tasks, 0), (rows, 1)):
    found = [parts[k][place] for k in (1, 2, 0)]
    np.testing.assert_array_equal(np.concatenate(found), whole)


def test_a_block_of_batches_has_the_tasks_at_their_rates():
  drawn = sampler().drawn(2**16)
  assert drawn.sum() == 2**16 * B
  for count, share in zip(drawn, SHARES.values(), strict=True):
    assert abs(count / B - 2**16 * share) < 1
  assert (sampler(seed=4).drawn(1000) != sampler().drawn(1000)).any()


@pytest.fixture(scope='module')
def corpus():
  return {
    name: stores.distinct_store(
      name, stores.random_lengths(count, mean, seed=len(name))
    )
    for (name, count), mean in zip(COUNTS.items(), (9, 20, 14), strict=True)
  }


def make(corpus, **changes):
  return loader_lib.Loader(
    corpus,
    task_ids=TASK_IDS,
    rates={'a': 0.5, 'b': 0.4, 'c': 0.1},
    batch_size=12,
    row_lengths=(LE, LD),
    max_segments=S,
    seed=5,
    **{'one_task': True, **changes},
  )


@pytest.mark.parametrize('packed', [True, False])
def test_a_loaders_batches_have_one_task_at_the_rates_of_examples(
  corpus, packed
):
  made = make(corpus, packed=packed)
  steps, examples = 500, dict.fromkeys(COUNTS, 0)
  names = {number: name for name, number in TASK_IDS.items()}
  for n in range(steps):
    batch = made.batch(n)
    (task,) = set(batch.task_ids.tolist())
    examples[names[task]] += int(batch.encoder_segment_ids.max(axis=1).sum())
  total = sum(examples.values())
  shares = {name: count / total for name, count in examples.items()}
  assert made.measured_rates(steps) == pytest.approx(shares)
  # 500 of the block's batches: a standard deviation is below 0.023.
  assert shares == pytest.approx(made.rates, abs=0.09)


def test_the_hosts_parts_make_the_batch(corpus):
  whole = make(corpus).batch(31).encoder_input_tokens
  parts = [make(corpus).batch(31, h, 3).encoder_input_tokens for h in range(3)]
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_length_buckets_and_one_task_are_refused():
  with pytest.raises(
    UserError, match=r"tasks_per_batch = 'one', but data.length_buckets = \(9,"
  ):
    DataConfig(
      mixture='x',
      pack=False,
      inputs_length=9,
      length_buckets=(9, 20),
      tasks_per_batch='one',
    )
  with pytest.raises(UserError, match="tasks_per_batch is 'two'; expected"):
    DataConfig(mixture='x', tasks_per_batch='two')
