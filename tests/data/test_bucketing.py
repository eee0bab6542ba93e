import dataclasses

import numpy as np
import pytest

from hypergrid_jax.data import bucketing, loader, sampling
from hypergrid_jax.errors import UserError
from tests.data import stores

B, K, LD = 12, bucketing.STRETCH, 23
BUCKETS = (9, 17, 30, 61)
COUNTS = {'a': 411, 'b': 97, 'c': 10}
TASK_IDS = {'a': 2, 'b': 0, 'c': 1}
RATES = {'a': 0.5, 'b': 0.4, 'c': 0.1}


@pytest.fixture(scope='module')
def corpus():
  return {
    name: stores.distinct_store(
      name, stores.random_lengths(count, mean, seed=len(name))
    )
    for (name, count), mean in zip(COUNTS.items(), (9, 26, 14), strict=True)
  }


def make(corpus, *, buckets=BUCKETS, seed=5, batch_size=B):
  return loader.Loader(
    corpus,
    task_ids=TASK_IDS,
    rates=RATES,
    batch_size=batch_size,
    row_lengths=(BUCKETS[-1], LD),
    max_segments=1,
    seed=seed,
    packed=False,
    length_buckets=buckets,
  )


def rows_of(batch):
  """The rows as (task, inputs, targets); an example is in one of them."""
  found = []
  for line, task in enumerate(batch.task_ids.tolist()):
    ((inputs, targets),) = stores.segments(batch, line)
    found.append((task, inputs, targets))
  return found


def test_a_stretch_has_the_rows_it_has_without_buckets(corpus):
  bucketed, plain = make(corpus), make(corpus, buckets=None)
  for first in (0, 3 * K):
    steps = range(first, first + K)
    ours = [rows_of(bucketed.batch(n)) for n in steps]
    expected = [rows_of(plain.batch(n)) for n in steps]
    assert sorted(sum(ours, [])) == sorted(sum(expected, []))
    assert ours != expected


def test_a_batch_is_as_long_as_the_bucket_of_its_longest_row(corpus):
  made = make(corpus)
  seen = []
  for n in range(2 * K):
    batch = made.batch(n)
    longest = int((batch.encoder_segment_ids > 0).sum(axis=1).max())
    expected = min(length for length in BUCKETS if length >= longest)
    assert batch.encoder_input_tokens.shape == (B, expected)
    assert batch.encoder_positions.shape == (B, expected)
    assert batch.decoder_target_tokens.shape == (B, LD)
    assert batch.encoder_segment_starts.shape == (B, 1)
    seen.append(expected)
  for stretch in (seen[:K], seen[K:]):
    assert set(stretch) == set(BUCKETS)
    assert stretch != sorted(stretch)
  assert seen[:K] != seen[K:]


def test_at_most_one_batch_per_bucket_of_a_stretch_has_shorter_rows(corpus):
  made = make(corpus)
  mixed = []
  for n in range(K):
    batch = made.batch(n)
    lengths = (batch.encoder_segment_ids > 0).sum(axis=1)
    if len(set(np.searchsorted(BUCKETS, lengths).tolist())) > 1:
      mixed.append(batch.encoder_input_tokens.shape[1])
  assert 1 <= len(mixed) < len(BUCKETS)
  assert len(mixed) == len(set(mixed))


def test_the_batches_of_every_stretch_are_shuffled_anew(corpus):
  # With one bucket they are the plain ones.
  bucketed, plain = (
    make(corpus, buckets=BUCKETS[-1:]),
    make(corpus, buckets=None),
  )
  orders = []
  for first in (0, K):
    steps = range(first, first + K)
    batches = [rows_of(plain.batch(n)) for n in steps]
    orders.append([batches.index(rows_of(bucketed.batch(n))) for n in steps])
    assert sorted(orders[-1]) == list(range(K))
  assert orders[0] != orders[1]


def test_within_a_bucket_rows_keep_the_order_drawn(corpus):
  bucketed, plain = make(corpus), make(corpus, buckets=None)
  drawn = sum((rows_of(plain.batch(n)) for n in range(K)), [])
  place = {row: [] for row in drawn}
  for number, row in enumerate(drawn):
    place[row].append(number)
  for n in range(K):
    numbers = [place[row] for row in rows_of(bucketed.batch(n))]
    lengths = [len(row[1]) for row in rows_of(bucketed.batch(n))]
    if len(set(np.searchsorted(BUCKETS, lengths).tolist())) > 1:
      continue
    # A row that comes twice in a stretch has two numbers: take what fits.
    last = -1
    for several in numbers:
      last = min(number for number in several if number > last)


@pytest.mark.parametrize('num_hosts', [2, 3, 4])
def test_hosts_agree_on_the_length_and_share_the_rows(corpus, num_hosts):
  for n in (7, K + 1):
    whole = make(corpus).batch(n)
    parts = [
      make(corpus).batch(n, host, num_hosts) for host in range(num_hosts)
    ]
    for field in dataclasses.fields(whole):
      np.testing.assert_array_equal(
        getattr(whole, field.name),
        np.concatenate([getattr(part, field.name) for part in parts]),
        err_msg=field.name,
      )


def test_a_batch_follows_from_seed_and_step_alone(corpus):
  used = make(corpus)
  for n in (700, 2, 8_000, 2, 63, 64):
    fresh = make(corpus).batch(n)
    for field in dataclasses.fields(fresh):
      np.testing.assert_array_equal(
        getattr(used.batch(n), field.name), getattr(fresh, field.name)
      )
  assert rows_of(make(corpus, seed=6).batch(2)) != rows_of(used.batch(2))


def test_summary_tells_the_padding_of_the_batches(corpus):
  made = make(corpus)
  said = made.summary(num_steps=1024)
  filled = places = 0
  for n in range(1024):
    ids = made.batch(n).encoder_segment_ids
    filled += int((ids > 0).sum())
    places += ids.size
  assert said['encoder_padding_fraction'] == pytest.approx(1 - filled / places)
  plain = make(corpus, buckets=None).summary(num_steps=1024)
  assert said['tokens_per_batch'] == plain['tokens_per_batch']
  assert said['encoder_padding_fraction'] < plain['encoder_padding_fraction']


def test_an_example_longer_than_the_last_bucket_is_refused(corpus):
  with pytest.raises(UserError, match=r'a row holds 30'):
    loader.Loader(
      corpus,
      task_ids=TASK_IDS,
      rates=RATES,
      batch_size=B,
      row_lengths=(30, LD),
      max_segments=1,
      seed=0,
      packed=False,
      length_buckets=(9, 30),
    )


def test_buckets_and_packing_exclude_each_other(corpus):
  with pytest.raises(ValueError, match='packed rows have one length'):
    loader.Loader(
      corpus,
      task_ids=TASK_IDS,
      rates=RATES,
      batch_size=B,
      row_lengths=(61, LD),
      max_segments=7,
      seed=0,
      length_buckets=BUCKETS,
    )


def test_rows_drawn_are_counted_to_the_batch(corpus):
  shares = {'a': 0.62, 'b': 0.3, 'c': 0.08}
  made = bucketing.BucketSampler(
    sampling.RowSampler(shares, COUNTS, batch_size=B, seed=1),
    [store.input_offsets for store in corpus.values()],
    buckets=BUCKETS,
    batch_size=B,
    seed=1,
  )
  counts = np.zeros(3, int)
  for n in range(2 * K + 5):
    np.testing.assert_array_equal(made.drawn(n), counts)
    counts += np.bincount(made.rows(n)[0], minlength=3)
