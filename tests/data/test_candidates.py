"""Candidates as batches, and how much of the data they use."""

import json

import numpy as np
import pytest

from hypergrid_jax.data import candidates, use
from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.errors import UserError
from tests.data import stores

LE, LD, S, B = 61, 23, 7, 8
COUNTS = {'a': 411, 'b': 97, 'c': 10}
TASK_IDS = {'a': 2, 'b': 0, 'c': 1}
PER_TASK = 5


@pytest.fixture(scope='module')
def corpus():
  return {
    name: stores.distinct_store(
      name, stores.random_lengths(count, mean, seed=len(name))
    )
    for (name, count), mean in zip(COUNTS.items(), (9, 20, 14), strict=True)
  }


def make(corpus, packed=True, per_task=PER_TASK):
  loader = loader_lib.Loader(
    corpus,
    task_ids=TASK_IDS,
    rates={'a': 0.5, 'b': 0.4, 'c': 0.1},
    batch_size=B,
    row_lengths=(LE, LD),
    max_segments=S,
    seed=5,
    packed=packed,
  )
  return loader, candidates.CandidateLoader(loader, per_task)


def test_batches_are_the_candidates_and_have_the_promised_shape(corpus):
  loader, made = make(corpus)
  (shape,) = made.shapes()
  for host, num_hosts in ((0, 1), (2, 5)):
    batch = made.batch(7, host, num_hosts)
    same = loader.candidates(7, PER_TASK, host, num_hosts)
    np.testing.assert_array_equal(
      batch.encoder_input_tokens, same.encoder_input_tokens
    )
    assert len(batch.task_ids) == len(shape.task_ids) // num_hosts
  assert len(shape.task_ids) == 3 * PER_TASK
  assert made.trained_fraction == B / 15


@pytest.mark.parametrize('packed', [True, False])
def test_what_is_said_before_the_first_step_is_counted(corpus, packed):
  _, made = make(corpus, packed)
  steps = 300
  names = {number: name for name, number in TASK_IDS.items()}
  examples, tokens = dict.fromkeys(COUNTS, 0), 0
  for n in range(steps):
    batch = made.batch(n)
    for task, ids in zip(
      batch.task_ids.tolist(), batch.encoder_segment_ids, strict=True
    ):
      examples[names[task]] += int(ids.max())
    tokens += int((batch.encoder_segment_ids > 0).sum())
    tokens += int((batch.decoder_segment_ids > 0).sum())
  said = made.summary(steps)
  total = sum(examples.values())
  for row in said['tasks']:
    name = row['task']
    assert row['measured_rate'] == pytest.approx(examples[name] / total)
    assert row['rate'] == pytest.approx(examples[name] / total, rel=0.02)
    # A part of an epoch has rows that are more or less full.
    assert row['epochs'] * COUNTS[name] == pytest.approx(
      examples[name], rel=0.02
    )
  assert said['rows_per_batch'] == B
  looked_at = said['candidates']
  assert (looked_at['rows'], looked_at['per_task']) == (15, PER_TASK)
  assert looked_at['tokens'] == pytest.approx(tokens / steps, rel=0.02)
  assert said['tokens_per_batch'] == looked_at['tokens'] * B / 15


def test_too_few_candidates_are_refused(corpus):
  assert make(corpus, per_task=3)[1].batch(0).task_ids.shape == (9,)
  with pytest.raises(
    UserError,
    match=r'candidates_per_task = 2 gives 6 candidates with 3 trained tasks,'
    r' too few for data.batch_size = 8. Raise it to at least 3',
  ):
    make(corpus, per_task=2)


def chosen_in(n):
  return np.random.default_rng(n).permutation(15)[:B]


def test_the_use_of_the_data_is_that_of_distinct_examples(corpus):
  _, made = make(corpus)
  measured = made.data_use({})
  seen = {kind: {name: set() for name in COUNTS} for kind in ('all', 'chosen')}
  names = {number: name for name, number in TASK_IDS.items()}
  known = {name: stores.examples(store) for name, store in corpus.items()}
  for n in range(9):
    if n == 5:  # killed and resumed
      measured = made.data_use(json.loads(json.dumps(measured.saved())))
    measured.add(n, chosen_in(n))
    batch = made.batch(n)
    for line, task in enumerate(batch.task_ids.tolist()):
      name = names[task]
      found = {known[name][i][0] for i, _ in stores.segments(batch, line)}
      seen['all'][name] |= found
      if line in chosen_in(n):
        seen['chosen'][name] |= found
  shares = measured.shares()
  for kind, key in (('all', 'candidates'), ('chosen', 'chosen')):
    counts = {name: len(found) for name, found in seen[kind].items()}
    for name, count in counts.items():
      assert shares[f'{key}/{name}'] == count / COUNTS[name]
    assert shares[key] == sum(counts.values()) / sum(COUNTS.values())
  assert shares['chosen'] < shares['candidates'] < 1


def test_a_loader_of_rows_measures_nothing(corpus):
  loader, _ = make(corpus)
  measured = loader.data_use({'candidates': {}})
  measured.add(3, None)
  assert isinstance(measured, use.NotMeasured)
  assert measured.shares() == measured.saved() == {}
  assert loader.trained_fraction == 1
