"""The rates of a mixture are those of the examples that batches bring."""

import numpy as np
import pytest

from hypergrid_jax.data import loader, sampling
from hypergrid_jax.data.config import DataConfig
from tests.data import stores

LE, LD, S = 61, 23, 7
# Tasks of different sizes whose examples pack differently.
COUNTS = {'a': 2411, 'b': 97, 'c': 10, 'd': 640}
MEANS = (9, 26, 14, 40)
MIXING = {
  'proportional with a cap': {'rate_cap': 700},
  'temperature': {'temperature': 3.0},
  'equal': {'mixing': 'equal'},
  'fixed weights': {'weights': {'a': 1, 'b': 6, 'c': 0.05, 'd': 2}},
}
LAYOUTS = {
  'packed': {'packed': True},
  'unpacked': {'packed': False},
  'bucketed': {'packed': False, 'length_buckets': (20, 61)},
}
ONE_TASK = {'packed': True, 'one_task': True}


@pytest.fixture(scope='module')
def corpus():
  return {
    name: stores.distinct_store(
      name, stores.random_lengths(count, mean, seed=len(name))
    )
    for (name, count), mean in zip(COUNTS.items(), MEANS, strict=True)
  }


def make(corpus, fields, layout, *, batch_size=128):
  rates = sampling.mixing_rates(COUNTS, DataConfig(mixture='x', **fields))
  return loader.Loader(
    corpus,
    task_ids={name: number for number, name in enumerate(corpus)},
    rates=rates,
    batch_size=batch_size,
    row_lengths=(LE, LD),
    max_segments=S,
    seed=2,
    **{**LAYOUTS, 'one task': ONE_TASK}[layout],
  )


def sampling_error(made, num_rows):
  """A standard deviation of each task's share of the examples, or more.

  Of P rows a task has P p, but for what drawing without replacement from a
  block of M does: at most sqrt(M p (1 - p)) / 2. Its examples are those of
  whole epochs and of some of the R rows of one more, again drawn without
  replacement: at most sd sqrt(R) / 2, sd being that of the examples per row.
  Errors in the other tasks' examples move its share too.
  """
  names, block = list(made.rates), 2**16
  spread, expected = {}, 0.0
  for name in names:
    rows = made.packed[name]
    share, per_row = made.shares[name], np.diff(rows.offsets)
    spread[name] = (
      per_row.mean() * (1 + np.sqrt(block * share * (1 - share)) / 2)
      + per_row.std() * np.sqrt(rows.num_rows) / 2
    )
    expected += num_rows * share * per_row.mean()
  return {
    name: (
      spread[name] * (1 - made.rates[name])
      + made.rates[name] * sum(spread[n] for n in names if n != name)
    )
    / expected
    for name in names
  }


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('mixing', MIXING)
def test_over_10000_steps_rates_are_the_stated_ones(corpus, mixing, layout):
  made = make(corpus, MIXING[mixing], layout)
  measured = made.measured_rates(10_000)
  error = sampling_error(made, 10_000 * 128)
  assert sum(measured.values()) == pytest.approx(1)
  for name, rate in made.rates.items():
    # Four standard deviations, and a bound that means something.
    assert abs(measured[name] - rate) < 4 * error[name], name
    assert 4 * error[name] < 0.002, name


@pytest.mark.parametrize('layout', [*LAYOUTS, 'one task'])
def test_measured_rates_are_those_of_the_batches(corpus, layout):
  steps = 600
  made = make(corpus, {'rate_cap': 300}, layout, batch_size=120)
  assert steps * made.batch_size > 2**16  # more than one block
  counts = np.zeros(len(COUNTS), int)
  for n in range(steps):
    batch = made.batch(n)
    segments = batch.encoder_segment_ids.max(axis=1)
    np.add.at(counts, batch.task_ids, segments)
    if n + 1 in (1, 97, steps):
      measured = made.measured_rates(n + 1)
      expected = dict(zip(COUNTS, counts / counts.sum(), strict=True))
      assert measured == pytest.approx(expected)
  tasks = made.summary(steps)['tasks']
  assert {t['task']: t['measured_rate'] for t in tasks} == measured
