import collections
import math

import numpy as np
import pytest

from hypergrid_jax.data import sampling
from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.errors import UserError

SIZES = {'small': 64, 'middle': 2000, 'large': 12000}
# Asymmetric, one of them rare, and no multiple of a block's rows.
SHARES = {'a': 0.6201, 'b': 0.3797, 'c': 0.0002}
ROWS = {'a': 997, 'b': 211, 'c': 5}


def rates(**fields):
  return sampling.mixing_rates(SIZES, DataConfig(mixture='x', **fields))


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    ({}, (64 / 14064, 2000 / 14064, 12000 / 14064)),
    ({'rate_cap': 1000}, (64 / 2064, 1000 / 2064, 1000 / 2064)),
    (
      {'rate_cap': 1000, 'temperature': 2.0},
      # Square roots: 8, 31.6228, 31.6228.
      (0.112288, 0.443856, 0.443856),
    ),
    ({'mixing': 'equal', 'rate_cap': 10}, (1 / 3, 1 / 3, 1 / 3)),
    (
      {'weights': {'large': 1, 'small': 3, 'middle': 4}},
      (3 / 8, 4 / 8, 1 / 8),
    ),
  ],
)
def test_mixing_rates(fields, expected):
  np.testing.assert_allclose(
    [rates(**fields)[name] for name in SIZES], expected, rtol=1e-5
  )


def test_a_task_of_weight_zero_is_not_trained():
  weights = {'large': 0, 'small': 1, 'middle': 3}
  assert rates(weights=weights) == {'small': 0.25, 'middle': 0.75}


def test_registered_rates_are_taken_unless_the_run_chooses():
  def registered(sizes):
    return {'large': sizes['small'], 'middle': 0.0, 'small': 192, 'other': 9.0}

  def found(**fields):
    config = DataConfig(mixture='x', **fields)
    return sampling.mixing_rates(SIZES, config, registered)

  wanted = {'small': 0.75, 'large': 0.25}
  assert found() == found(mixing='registered') == wanted
  assert found(mixing='equal') == rates(mixing='equal')
  assert found(mixing='proportional') == rates()
  assert found(weights=dict.fromkeys(SIZES, 1)) == rates(mixing='equal')


def test_registered_rates_that_are_not_there():
  with pytest.raises(UserError, match="data.mixture = 'x' is no mixture"):
    rates(mixing='registered')
  config = DataConfig(mixture='x')
  with pytest.raises(UserError, match='are all 0; nothing would be trained'):
    sampling.mixing_rates(SIZES, config, lambda _: dict.fromkeys(SIZES, 0.0))


@pytest.mark.parametrize(
  ('weights', 'message'),
  [
    ({'larg': 1}, "names 'larg'.*Did you mean 'large'"),
    ({'large': 1, 'small': 2}, 'no rate for middle'),
  ],
)
def test_weights_must_name_the_trained_tasks(weights, message):
  with pytest.raises(UserError, match=message):
    rates(weights=weights)


def test_row_shares_give_back_the_rates_of_examples():
  segments = {'small': 11.0, 'middle': 4.0, 'large': 1.5}
  wanted = rates()
  shares = sampling.row_shares(wanted, segments)
  examples = {name: shares[name] * segments[name] for name in shares}
  total = sum(examples.values())
  for name in SIZES:
    assert examples[name] / total == pytest.approx(wanted[name], rel=1e-12)
  assert math.fsum(shares.values()) == pytest.approx(1, rel=1e-12)


def test_permutations_never_change():
  # Runs are resumed with other versions of NumPy: these are for ever.
  order = sampling.permutation(10, 'block', 7, 3).tolist()
  assert order == [6, 2, 0, 3, 5, 7, 1, 9, 8, 4]
  assert sorted(sampling.permutation(1000, 'x', 1)) == list(range(1000))


@pytest.mark.parametrize('count', [0, 1, 2, 3, 64, 65, 1000, 2**17])
@pytest.mark.parametrize('bits', [2, 11, 30, 64])
def test_the_fast_argsort_is_a_stable_argsort(count, bits):
  # With few bits words are equal, as whole or above the index's bits.
  words = np.random.default_rng([count, bits]).integers(
    0, 2**64, count, np.uint64
  )
  for shift in {0, 64 - bits}:
    some = words >> np.uint64(64 - bits) << np.uint64(shift)
    np.testing.assert_array_equal(
      sampling._argsort(some), np.argsort(some, kind='stable')
    )


def sampler(seed=3, batch_size=24):
  return sampling.RowSampler(SHARES, ROWS, batch_size=batch_size, seed=seed)


def stream(made, steps, batch_size=24):
  pairs = [made.rows(step) for step in steps]
  tasks = np.concatenate([tasks for tasks, _ in pairs])
  rows = np.concatenate([rows for _, rows in pairs])
  assert len(tasks) == len(steps) * batch_size
  return tasks, rows


def test_the_rows_of_a_batch_depend_on_nothing_but_seed_and_step():
  ahead = sampler()
  last = ahead.rows(9_000)
  for step in (1, 5_461, 9_000, 2):  # 5,461 spans two blocks
    fresh = sampler().rows(step)
    again = ahead.rows(step)
    np.testing.assert_array_equal(fresh, again)
  np.testing.assert_array_equal(last, ahead.rows(9_000))
  assert not np.array_equal(sampler(seed=4).rows(1), ahead.rows(1))


def test_slices_of_a_batch_are_its_parts():
  whole = sampler().rows(5_461)
  parts = [sampler().rows(5_461, a, b) for a, b in ((0, 5), (5, 6), (6, 24))]
  joined = [np.concatenate(values) for values in zip(*parts, strict=True)]
  np.testing.assert_array_equal(whole, joined)


def test_batch_size_only_cuts_the_one_sequence():
  steps = range(60)
  wide = stream(sampler(), steps)
  narrow = stream(sampler(batch_size=8), range(180), 8)
  np.testing.assert_array_equal(wide, narrow)


def test_each_epoch_of_a_task_has_every_row_once_in_a_new_order():
  tasks, rows = stream(sampler(), range(3_000))
  for number, (name, size) in enumerate(ROWS.items()):
    mine = rows[tasks == number]
    epochs = mine[: len(mine) // size * size].reshape(-1, size)
    assert len(epochs) >= 2, name
    for epoch in epochs:
      assert sorted(epoch.tolist()) == list(range(size))
    assert (epochs[0] != epochs[1]).any()


def test_places_of_whole_blocks_are_exact_to_less_than_one():
  made = sampler(batch_size=65_536)
  assert made.block_size == 65_536
  counts = np.zeros(len(SHARES))
  for block in range(40):
    tasks, _ = made.rows(block)
    counts += np.bincount(tasks, minlength=len(SHARES))
    wanted = (block + 1) * made.block_size * np.array([*SHARES.values()])
    assert (abs(counts - wanted) < 1).all()


def test_rows_drawn_are_counted_to_the_batch():
  made = sampler(batch_size=640)
  counts = np.zeros(len(SHARES), int)
  for step in range(240):  # two blocks and a part
    np.testing.assert_array_equal(made.drawn(step), counts)
    counts += np.bincount(made.rows(step)[0], minlength=len(SHARES))


def test_a_tasks_rows_are_those_of_its_own_sequence():
  tasks, rows = stream(sampler(), range(400))
  for number, size in enumerate(ROWS.values()):
    mine = rows[tasks == number]
    assert number == 2 or len(mine) > 2 * size
    places = np.arange(len(mine))[::-1]
    np.testing.assert_array_equal(
      sampler().task_rows(number, places), mine[::-1]
    )


def test_blocks_are_shuffled_differently():
  made = sampler(batch_size=65_536)
  first, second = (made.rows(block)[0] for block in range(2))
  assert (first != second).any()
  assert (first[1:] < first[:-1]).any()


def test_in_between_the_deviation_is_that_of_sampling():
  tasks, _ = stream(sampler(), range(10_000))
  drawn = tasks[:, None] == np.arange(len(SHARES))
  share = np.array([*SHARES.values()])
  places = np.arange(1, len(tasks) + 1)[:, None]
  apart = np.cumsum(drawn, axis=0) - places * share
  block = 65_536
  spread = np.sqrt(block * share * (1 - share)) / 2
  # Root-mean-square over positions is below the bound at mid-block; five times
  # the bound is never reached.
  assert (np.sqrt((apart**2).mean(axis=0)) < 1.5 * spread + 1).all()
  assert (abs(apart).max(axis=0) < 5 * spread + 1).all()
  assert collections.Counter(tasks.tolist())[2] > 0


def test_a_rare_task_makes_blocks_longer_and_keeps_its_share():
  shares = {'often': 1 - 1e-5, 'rare': 1e-5}
  made = sampling.RowSampler(
    shares, {'often': 200_001, 'rare': 2}, batch_size=2**18, seed=0
  )
  assert made.block_size == 2**18
  rare = [int((made.rows(step)[0] == 1).sum()) for step in range(4)]
  assert sum(rare) in (10, 11)  # 10.49
  assert min(rare) >= 2


def test_a_task_too_rare_to_be_drawn_is_refused():
  with pytest.raises(UserError, match=r'rare has a share of 1.0e-09'):
    sampling.RowSampler(
      {'often': 1 - 1e-9, 'rare': 1e-9},
      {'often': 9, 'rare': 2},
      batch_size=8,
      seed=0,
    )
