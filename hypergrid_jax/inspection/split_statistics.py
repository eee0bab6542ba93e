"""What the rows of a split are like: lengths, unknown text, targets, repeats.

Counted over a token store and its texts, all rows of it; how that is shown is
`task_pages`' business.
"""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import hashlib
from typing import Any, NamedTuple, Protocol

import numpy as np

SIDES = ('inputs', 'targets')
PERCENTILES = (50, 90, 99)


class Store(Protocol):
  """The part of a token store that is counted.

  Attributes:
    num_examples: number of examples n.
    input_lengths: tokens of each example's inputs, [n].
    target_lengths: tokens of each example's targets, [n].
    input_tokens: ids of all inputs, one after the other.
    target_tokens: ids of all targets.
    counts: of the whole split, with 'cut_inputs' and 'cut_targets'.
  """

  num_examples: int
  input_lengths: np.ndarray
  target_lengths: np.ndarray
  input_tokens: np.ndarray
  target_tokens: np.ndarray
  counts: Mapping[str, int]

  def inputs(self, index: int) -> np.ndarray:
    """Input ids of one example."""

  def targets(self, index: int) -> np.ndarray:
    """Target ids of one example."""

  def example(self, index: int) -> Mapping[str, Any]:
    """Python values of one example."""


class Vocabulary(Protocol):
  """The part of a vocabulary that tells what it cannot write."""

  unk_id: int

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without end of sequence."""

  def decode(self, ids: list[int]) -> str:
    """Returns the text of `ids`."""


@dataclasses.dataclass(frozen=True)
class Side:
  """Inputs or targets of a split, as tokens.

  Attributes:
    mean: tokens per example on average, end of sequence included.
    percentiles: tokens that 50, 90 and 99 % of the examples have at most.
    longest: tokens of the longest example, after cutting.
    cut: examples that lost tokens; None where the store does not say.
    tokens: of all examples.
    unknown: how many of them are the unknown id.
    empty: examples without text.
    first_empty: index of the first such example; None when there is none.
  """

  mean: float
  percentiles: tuple[int, ...]
  longest: int
  cut: int | None
  tokens: int
  unknown: int
  empty: int
  first_empty: int | None


class Character(NamedTuple):
  """A character that the vocabulary does not keep.

  Attributes:
    text: the character.
    becomes: what is read in its place; None for an unknown token.
    count: how often it occurs.
    example: index of the first example with it.
    excerpt: of that example's text, around it.
  """

  text: str
  becomes: str | None
  count: int
  example: int
  excerpt: str


@dataclasses.dataclass(frozen=True)
class Split:
  """One split.

  Attributes:
    name: of the split.
    count: number of examples n.
    sides: by 'inputs' and 'targets'.
    targets: target text -> how many examples have it, the most frequent first.
    characters: what the vocabulary does not keep, the most frequent first.
    input_hashes: [n] uint64, equal for equal input texts.
    target_hashes: [n] uint64, the same for targets.
  """

  name: str
  count: int
  sides: Mapping[str, Side]
  targets: Mapping[str, int]
  characters: tuple[Character, ...]
  input_hashes: np.ndarray
  target_hashes: np.ndarray


def tokens_of(store: Store, side: str) -> dict[str, Any]:
  """Counts what is known without reading text.

  Args:
    store: the examples.
    side: 'inputs' or 'targets'.

  Returns:
    The fields `mean`, `percentiles`, `longest`, `cut` and `tokens` of `Side`.
  """
  lengths = getattr(store, f'{side[:-1]}_lengths')
  percentiles = np.percentile(lengths, PERCENTILES, method='inverted_cdf')
  return {
    'mean': float(lengths.mean()),
    'percentiles': tuple(percentiles.astype(int).tolist()),
    'longest': int(lengths.max()),
    'cut': store.counts.get(f'cut_{side}'),
    'tokens': len(getattr(store, f'{side[:-1]}_tokens')),
  }


def read(
  name: str,
  store: Store,
  vocabulary: Vocabulary,
  *,
  missing: Collection[str] = (),
  progress: Callable[[int], None] = lambda _: None,
) -> Split:
  """Reads all texts of a split.

  Args:
    name: of the split.
    store: its examples.
    vocabulary: that they were tokenised with.
    missing: texts that stand for a target which is not there, in which no
      characters and unknown tokens are counted.
    progress: called now and then with the number of examples read.
  """
  counter = _Counter(vocabulary, missing)
  for index in range(store.num_examples):
    counter.add(index, store)
    if index % 1000 == 0:
      progress(index)
  progress(store.num_examples)
  sides = {
    side: Side(
      **tokens_of(store, side),
      unknown=counter.unknown[side],
      empty=len(counter.empty[side]),
      first_empty=min(counter.empty[side], default=None),
    )
    for side in SIDES
  }
  return Split(
    name,
    store.num_examples,
    sides,
    dict(sorted(counter.targets.items(), key=lambda item: -item[1])),
    counter.characters(),
    *(np.array(counter.hashes[side], np.uint64) for side in SIDES),
  )


class _Counter:
  """Counts over the texts of a split, one example at a time."""

  def __init__(self, vocabulary: Vocabulary, missing: Collection[str]):
    self._vocabulary = vocabulary
    self._missing = missing
    self._readings: dict[str, str | None] = {}
    self._found: dict[str, Character] = {}
    self.unknown = dict.fromkeys(SIDES, 0)
    self.targets: dict[str, int] = {}
    self.empty: dict[str, list[int]] = {side: [] for side in SIDES}
    self.hashes: dict[str, list[int]] = {side: [] for side in SIDES}

  def add(self, index: int, store: Store):
    """Counts one example."""
    for side in SIDES:
      text = text_of(store, index, side)
      self.hashes[side].append(_hash(text))
      if side == 'targets':
        self.targets[text] = self.targets.get(text, 0) + 1
        if text in self._missing:
          continue
      if not text.strip():
        self.empty[side].append(index)
      ids = getattr(store, side)(index)
      unknown = int(np.count_nonzero(ids == self._vocabulary.unk_id))
      self.unknown[side] += unknown
      self._add_characters(index, text, unknown=unknown > 0)

  def _add_characters(self, index: int, text: str, *, unknown: bool):
    for character in set(text):
      if character not in self._readings:
        self._readings[character] = self._read(character)
      becomes = self._readings[character]
      # A mark that joins the letter before it may be known with that letter.
      if becomes == character or (becomes is None and not unknown):
        continue
      found = self._found.get(character)
      if found is None:
        excerpt = _excerpt(text, text.index(character))
        found = Character(character, becomes, 0, index, excerpt)
      count = found.count + text.count(character)
      self._found[character] = found._replace(count=count)

  def _read(self, character: str) -> str | None:
    """What the vocabulary makes of a character; None is the unknown token."""
    ids = self._vocabulary.encode(f'x{character}x')
    if self._vocabulary.unk_id in ids:
      return None
    return self._vocabulary.decode(ids)[1:-1]

  def characters(self) -> tuple[Character, ...]:
    """Returns what was found, the most frequent first."""
    found = self._found.values()
    return tuple(sorted(found, key=lambda c: (-c.count, c.text)))


def text_of(store: Store, index: int, side: str) -> str:
  """Returns the text of one example's inputs or targets."""
  return str(store.example(index)[f'{side}_pretokenized'])


def _hash(text: str) -> int:
  digest = hashlib.blake2b(
    text.encode('utf-8', 'surrogateescape'), digest_size=8
  )
  return int.from_bytes(digest.digest(), 'little')


def _excerpt(text: str, place: int) -> str:
  first = max(0, place - 20)
  return text[first : place + 20]


class Repeats(NamedTuple):
  """Examples with inputs that another example has too.

  Attributes:
    same: how many have the same targets too.
    other: how many have other targets.
    same_example: indices of the first pair with the same targets: the example
      that is repeated, and the one that repeats it; None without one.
    other_example: the first pair with other targets.
  """

  same: int
  other: int
  same_example: tuple[int, int] | None
  other_example: tuple[int, int] | None


def repeats_within(split: Split) -> Repeats:
  """Compares every example of a split with the ones before it."""
  return _repeats(split, split, earlier=True)


def repeats_between(first: Split, second: Split) -> Repeats:
  """Compares every example of `second` with those of `first`."""
  return _repeats(first, second, earlier=False)


def _repeats(first: Split, second: Split, *, earlier: bool) -> Repeats:
  """Looks for the examples of `second` in `first`.

  With `earlier`, only examples of a lower index count.
  """
  same = _matches(first, second, pairs=True)
  other = _matches(first, second, pairs=False)
  if earlier:
    places = np.arange(second.count)
    same = np.where(same < places, same, -1)
    other = np.where(other < places, other, -1)
  other = np.where(same >= 0, -1, other)
  return Repeats(
    int(np.count_nonzero(same >= 0)),
    int(np.count_nonzero(other >= 0)),
    _first_pair(same),
    _first_pair(other),
  )


def _matches(first: Split, second: Split, *, pairs: bool) -> np.ndarray:
  """First example of `first` equal to each of `second`, [n] int64; -1: none."""
  known, wanted = _keys(first, pairs=pairs), _keys(second, pairs=pairs)
  values, places = np.unique(known, return_index=True)
  at = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
  return np.where(values[at] == wanted, places[at], -1)


def _keys(split: Split, *, pairs: bool) -> np.ndarray:
  if not pairs:
    return split.input_hashes
  # An odd factor is a bijection of 64-bit numbers; the sum wraps around.
  return (
    split.input_hashes * np.uint64(0x9E3779B97F4A7C15) + split.target_hashes
  )


def _first_pair(matches: np.ndarray) -> tuple[int, int] | None:
  found = np.flatnonzero(matches >= 0)
  if not len(found):
    return None
  return int(matches[found[0]]), int(found[0])
