import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from hypergrid_jax.data import loader, packing, tokens
from hypergrid_jax.data.sampling import permutation
from hypergrid_jax.errors import UserError
from tests.data import stores

ROW = (23, 11)  # encoder, decoder

examples = st.lists(
  st.tuples(st.integers(1, ROW[0]), st.integers(1, ROW[1])), max_size=120
)


def pack_lengths(lengths, **options):
  inputs = np.array([a for a, _ in lengths], np.int32)
  targets = np.array([b for _, b in lengths], np.int32)
  return packing.pack(inputs, targets, row_lengths=ROW, **options)


def reference(lengths, max_segments, window, seed):
  """First-fit decreasing, one example at a time."""
  order = permutation(len(lengths), 'pack', seed).tolist()
  rows = []
  for start in range(0, len(order), window):
    part = sorted(
      order[start : start + window],
      key=lambda e: -max(lengths[e][0] / ROW[0], lengths[e][1] / ROW[1]),
    )
    open_rows = []
    for example in part:
      for row in open_rows:
        members = [*row, example]
        if (
          len(members) <= max_segments
          and sum(lengths[e][0] for e in members) <= ROW[0]
          and sum(lengths[e][1] for e in members) <= ROW[1]
        ):
          row.append(example)
          break
      else:
        open_rows.append([example])
    rows += open_rows
  return rows


@hypothesis.given(
  examples, st.integers(1, 5), st.integers(1, 50), st.integers(0, 3)
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_nothing_is_lost_and_no_limit_is_broken(
  lengths, max_segments, window, seed
):
  packed = pack_lengths(
    lengths, max_segments=max_segments, window=window, seed=seed
  )
  assert sorted(packed.examples.tolist()) == list(range(len(lengths)))
  assert packed.offsets[0] == 0
  assert packed.offsets[-1] == len(lengths)
  order = permutation(len(lengths), 'pack', seed).tolist()
  window_of = {example: n // window for n, example in enumerate(order)}
  for row in range(packed.num_rows):
    members = packed.row(row)
    # With one example per row there is nothing to shuffle for.
    assert max_segments == 1 or len({window_of[e] for e in members}) == 1
    assert 1 <= len(members) <= max_segments
    assert sum(lengths[e][0] for e in members) <= ROW[0]
    assert sum(lengths[e][1] for e in members) <= ROW[1]


@st.composite
def token_lists(draw):
  """Examples with tokens of their own, never the padding id."""
  ids = st.integers(1, 60_000)
  return draw(
    st.lists(
      st.tuples(
        st.lists(ids, min_size=1, max_size=ROW[0]),
        st.lists(ids, min_size=1, max_size=ROW[1]),
      ),
      min_size=1,
      max_size=40,
    )
  )


@hypothesis.given(token_lists(), st.integers(1, 5), st.integers(0, 3))
@hypothesis.settings(deadline=None, max_examples=40)
def test_packed_and_unpacked_again_every_token_is_there(
  texts, max_segments, seed
):
  made = loader.Loader(
    {'t': tokens.memory_store('t', 'train', *zip(*texts, strict=True))},
    task_ids={'t': 0},
    rates={'t': 1.0},
    batch_size=1,
    row_lengths=ROW,
    max_segments=max_segments,
    seed=seed,
  )
  rows = made.packed['t'].num_rows
  for epoch in range(2):
    found = []
    for n in range(rows):
      batch = made.batch(epoch * rows + n)
      members = stores.segments(batch, 0)
      assert 1 <= len(members) <= max_segments
      found += members
    assert sorted(found) == sorted((tuple(a), tuple(b)) for a, b in texts)


@hypothesis.given(
  examples, st.integers(2, 5), st.integers(1, 50), st.integers(0, 3)
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_rows_are_those_of_first_fit_decreasing(
  lengths, max_segments, window, seed
):
  packed = pack_lengths(
    lengths, max_segments=max_segments, window=window, seed=seed
  )
  rows = [packed.row(row).tolist() for row in range(packed.num_rows)]
  assert rows == reference(lengths, max_segments, window, seed)


def test_more_rows_than_at_first_expected_and_several_groups_of_windows(
  monkeypatch,
):
  monkeypatch.setattr(packing, '_WINDOWS_AT_ONCE', 2)
  # 140 rows of a window are opened: every example fills more than half a row.
  lengths = [(12 + i % 12, 1 + i % 11) for i in range(700)]
  packed = pack_lengths(lengths, max_segments=4, window=140, seed=5)
  rows = [packed.row(row).tolist() for row in range(packed.num_rows)]
  assert rows == reference(lengths, 4, 140, 5)
  assert packed.segments_per_row == 1.0


def test_hand_computed_rows():
  # Decreasing: 20, 12, 11, 3. 20 + 3 and 12 + 11 fill both rows exactly.
  packed = pack_lengths([(3, 1), (12, 1), (20, 1), (11, 1)], max_segments=4)
  assert [packed.row(r).tolist() for r in range(2)] == [[2, 0], [1, 3]]
  # The decoder is what limits: 6 + 5 fill it, another 5 does not fit.
  packed = pack_lengths([(1, 5), (1, 6), (2, 5)], max_segments=4)
  assert packed.num_rows == 2
  assert packed.segments_per_row == 1.5


def test_the_seed_decides_the_composition():
  lengths = [(3 + i % 7, 1 + i % 3) for i in range(90)]
  rows = [
    pack_lengths(lengths, max_segments=9, window=30, seed=seed).examples
    for seed in (4, 4, 5)
  ]
  np.testing.assert_array_equal(rows[0], rows[1])
  assert (rows[0] != rows[2]).any()


def test_without_packing_rows_are_the_examples_in_order():
  packed = pack_lengths([(5, 2), (1, 1), (9, 3)], max_segments=1)
  assert packed.examples.tolist() == [0, 1, 2]
  assert packed.offsets.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
  ('lengths', 'message'),
  [
    ([(4, 2), (24, 2)], r'inputs of example 1 have 24 tokens.*holds 23'),
    ([(4, 2), (3, 2), (4, 12)], r'targets of example 2 have 12.*holds 11'),
  ],
)
@pytest.mark.parametrize('max_segments', [1, 3])
def test_an_example_longer_than_the_row_is_refused(
  lengths, message, max_segments
):
  with pytest.raises(UserError, match=message):
    pack_lengths(lengths, max_segments=max_segments)
