"""What is counted over a split, against counts made by hand."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from hypergrid_jax.inspection import split_statistics
from tests.inspection.split_stores import Letters, store


def read(rows, *, name='train', missing=(), **options):
  return split_statistics.read(
    name, store(name, rows, **options), Letters(), missing=missing
  )


def test_lengths_have_an_end_and_are_cut():
  rows = [('abcdefghi', 'x'), ('abcd', 'xyz'), ('ab', 'xy'), ('', 'x')]
  split = read(rows, limit=6)
  inputs, targets = split.sides['inputs'], split.sides['targets']
  assert split.count == 4
  # 10 tokens cut to 6, then 5, 3 and 1.
  assert (inputs.mean, inputs.longest, inputs.cut) == (15 / 4, 6, 1)
  assert (inputs.tokens, inputs.unknown) == (15, 0)
  assert (targets.mean, targets.longest, targets.cut) == (11 / 4, 4, 0)


def test_percentiles_are_lengths_that_examples_have():
  rows = [('a' * length, 'x') for length in range(1, 101)]
  split = read(rows, limit=500)
  assert split.sides['inputs'].percentiles == (51, 91, 100)
  assert split.sides['targets'].percentiles == (2, 2, 2)


def test_unknown_characters_are_counted_with_their_first_place():
  rows = [
    ('a fine text', 'x'),
    ('with {one} brace, and {another}', 'x'),
    ('two\nlines', '{'),
  ]
  split = read(rows)
  assert split.sides['inputs'].unknown == 4
  assert split.sides['targets'].unknown == 1
  found = {c.text: c for c in split.characters}
  assert set(found) == {'{', '}', '\n'}
  assert (found['{'].count, found['{'].example) == (3, 1)
  assert (found['}'].count, found['}'].example) == (2, 1)
  assert found['{'].becomes is None
  assert found['{'].excerpt == 'with {one} brace, and {an'[:25]
  assert (found['\n'].becomes, found['\n'].count) == (' ', 1)
  assert [c.text for c in split.characters][0] == '{'


def test_a_mark_that_is_known_with_its_letter_is_not_unknown():
  assert read([('man~ana', 'x')]).characters == ()
  (found,) = read([('man~ana', 'x'), ('~5', 'x')]).characters
  assert (found.text, found.count, found.example) == ('~', 1, 1)


def test_a_target_that_is_not_there_counts_as_a_target_alone():
  split = read([('a', '{none}'), ('b', '')], name='test', missing=('{none}',))
  assert split.targets == {'{none}': 1, '': 1}
  assert split.characters == ()
  assert split.sides['targets'].unknown == 0
  assert (split.sides['targets'].empty, split.sides['targets'].first_empty) == (
    1,
    1,
  )


def test_empty_texts_are_found():
  split = read([('a', 'x'), (' \t', ''), ('', 'x')])
  inputs, targets = split.sides['inputs'], split.sides['targets']
  assert (inputs.empty, inputs.first_empty) == (2, 1)
  assert (targets.empty, targets.first_empty) == (1, 1)
  assert read([('a', 'x')]).sides['inputs'].first_empty is None


def test_targets_come_with_the_most_frequent_first():
  split = read([('a', 'x'), ('b', 'y'), ('c', 'y'), ('d', 'z'), ('e', 'y')])
  assert list(split.targets.items()) == [('y', 3), ('x', 1), ('z', 1)]


def test_progress_ends_with_all():
  reported = []
  split_statistics.read(
    's', store('s', [('a', 'x')] * 1500), Letters(), progress=reported.append
  )
  assert reported == [0, 1000, 1500]


ROWS = [('a', 'x'), ('b', 'x'), ('a', 'x'), ('b', 'y'), ('c', 'z'), ('a', 'x')]


def test_repeats_within_a_split():
  found = split_statistics.repeats_within(read(ROWS))
  assert (found.same, found.same_example) == (2, (0, 2))
  assert (found.other, found.other_example) == (1, (1, 3))


def test_repeats_between_splits():
  others = read(
    [('c', 'z'), ('d', 'x'), ('b', 'z'), ('a', 'x'), ('a', 'y')], name='test'
  )
  found = split_statistics.repeats_between(read(ROWS), others)
  assert (found.same, found.same_example) == (2, (4, 0))
  assert (found.other, found.other_example) == (2, (1, 2))


def test_no_repeats():
  split = read([('a', 'x'), ('b', 'x')])
  nothing = split_statistics.Repeats(0, 0, None, None)
  assert split_statistics.repeats_within(split) == nothing
  assert split_statistics.repeats_between(split, read([('x', 'a')])) == nothing


TEXT = st.text('ab', max_size=2)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12)


@given(PAIRS, PAIRS)
@settings(deadline=None, max_examples=60)
def test_repeats_are_those_of_a_plain_search(first, second):
  one, other = read(first), read(second)
  within, between = [0, 0], [0, 0]
  for place, (inputs, targets) in enumerate(second):
    for counts, known in ((within, second[:place]), (between, first)):
      if (inputs, targets) in known:
        counts[0] += 1
      elif any(inputs == text for text, _ in known):
        counts[1] += 1
  assert list(split_statistics.repeats_within(other)[:2]) == within
  assert list(split_statistics.repeats_between(one, other)[:2]) == between


@pytest.mark.parametrize('side', split_statistics.SIDES)
def test_hashes_are_of_the_text_before_it_is_cut(side):
  split = read([('a' * 9 + 'b', 'a' * 9 + 'b'), ('a' * 9, 'a' * 9)], limit=5)
  hashes = getattr(split, f'{side[:-1]}_hashes')
  assert hashes.dtype == np.uint64
  assert hashes[0] != hashes[1]
