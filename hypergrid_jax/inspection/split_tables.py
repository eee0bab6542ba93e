"""`split_facts` for a person to read: tables, and what looks wrong."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
import unicodedata

from rich.table import Table
from rich.text import Text

from hypergrid_jax import console as console_lib
from hypergrid_jax.inspection import split_statistics
from hypergrid_jax.inspection.row_locations import RowPlaces
from hypergrid_jax.inspection.split_statistics import SIDES, Character, Split
from hypergrid_jax.tasks.task_definition import NO_TARGETS, TaskDefinition

# Above these shares a split is warned about: one example in twenty loses text,
# one token in two hundred carries none.
CUT_SHARE = 0.05
UNKNOWN_SHARE = 0.005
MOST_TARGETS = 12  # different target texts that are listed
MOST_CHARACTERS = 12


@dataclasses.dataclass(frozen=True)
class Read:
  """The splits of a task that have been read, in order.

  Attributes:
    task: its definition.
    splits: what they are like.
    places: where their rows stand, by split name.
    limits: tokens that inputs and targets are cut to.
  """

  task: TaskDefinition
  splits: tuple[Split, ...]
  places: Mapping[str, RowPlaces]
  limits: tuple[int, int]

  def labelled(self, split: Split) -> bool:
    """Whether any example of a split has a target."""
    missing = missing_targets(self.task, split.name)
    return any(text not in missing for text in split.targets)

  def pairs(self) -> Iterator[tuple[Split, Split]]:
    """Yields every two splits, the earlier one first."""
    return itertools.combinations(self.splits, 2)

  def name(self, split: Split, index: int) -> str:
    """Names an example; see `RowPlaces.name`."""
    return self.places[split.name].name(index, split.count)


def missing_targets(task: TaskDefinition, split: str) -> tuple[str, ...]:
  """Returns the texts that stand for a target which is not there."""
  return NO_TARGETS if split == task.test_split else ()


def example(store, index: int, vocabulary) -> Table:
  """One example as text and token ids."""
  lines = Table.grid(padding=(0, 2))
  lines.add_column(style='dim')
  lines.add_column(overflow='fold')
  for side in SIDES:
    ids = getattr(store, side)(index)
    unknown = int((ids == vocabulary.unk_id).sum())
    note = f', {unknown} unknown' if unknown else ''
    text = split_statistics.text_of(store, index, side)
    lines.add_row(side, Text(text))
    lines.add_row(f'{len(ids)} ids{note}', ' '.join(map(str, ids.tolist())))
  return lines


def lengths(read: Read) -> Table:
  """Tokens per example, how many examples are cut, and unknown tokens."""
  headings = (
    'examples',
    'mean',
    *(f'{p} %' for p in split_statistics.PERCENTILES),
    'max',
    'limit',
    'cut',
    'unknown',
  )
  table = console_lib.table(('split', ''), headings, title='Lengths in tokens')
  for split in read.splits:
    for side, limit in zip(SIDES, read.limits, strict=True):
      facts = split.sides[side]
      table.add_row(
        split.name if side == 'inputs' else '',
        side,
        f'{split.count:,}' if side == 'inputs' else '',
        f'{facts.mean:.1f}',
        *(f'{tokens:,}' for tokens in facts.percentiles),
        f'{facts.longest:,}',
        f'{limit:,}',
        '?' if facts.cut is None else percent(facts.cut / split.count),
        percent(facts.unknown / facts.tokens),
      )
  return table


def targets(read: Read) -> Table:
  """How often each target occurs in each split."""
  labels = read.task.labels
  counts = {split.name: split.targets for split in read.splits}
  texts = _common_targets(labels, list(counts.values()))
  table = console_lib.table(('target',), tuple(counts), title='Targets')
  for text in texts[:MOST_TARGETS]:
    table.add_row(
      text,
      *(
        f'{counts[s.name].get(text, 0):,}'
        f' ({counts[s.name].get(text, 0) / s.count:.1%})'
        for s in read.splits
      ),
    )
  if len(texts) > MOST_TARGETS:
    table.add_row(
      f'... {len(texts) - MOST_TARGETS:,} more',
      *(f'{len(found):,} different' for found in counts.values()),
    )
  return table


def _common_targets(
  labels: Sequence[str] | None, counts: list[Mapping[str, int]]
) -> list[str]:
  """All targets: the labels in their order, or the most frequent first."""
  total: dict[str, int] = dict.fromkeys(labels or (), 0)
  for found in counts:
    for text, count in found.items():
      total[text] = total.get(text, 0) + count
  if labels is not None and len(labels) <= MOST_TARGETS:
    return list(total)
  return sorted(total, key=lambda text: -total[text])


def characters(read: Read) -> Table | None:
  """What the vocabulary does not keep; None when it keeps everything."""
  rows = _characters(read)
  if not rows:
    return None
  table = console_lib.table(
    ('character', 'becomes', 'times', 'for example', ''),
    title='Characters that the vocabulary does not keep',
  )
  for split, found in rows[:MOST_CHARACTERS]:
    table.add_row(
      describe_character(found.text),
      'unknown' if found.becomes is None else repr(found.becomes),
      f'{found.count:,}',
      read.name(split, found.example),
      repr(found.excerpt)[1:-1],
    )
  if len(rows) > MOST_CHARACTERS:
    table.add_row(f'... {len(rows) - MOST_CHARACTERS:,} more')
  return table


def _characters(read: Read) -> list[tuple[Split, Character]]:
  """Each character once, with the split it comes first in, frequent ones first.

  Unknown ones come before those that only become something else.
  """
  found: dict[str, tuple[Split, Character]] = {}
  for split in read.splits:
    for character in split.characters:
      first, known = found.get(character.text, (split, character))
      if known is not character:
        known = known._replace(count=known.count + character.count)
      found[character.text] = first, known
  return sorted(
    found.values(),
    key=lambda row: (row[1].becomes is not None, -row[1].count, row[1].text),
  )


def describe_character(character: str) -> str:
  """A character with its name: "'{' left curly bracket"."""
  names = {'\n': 'newline', '\t': 'tab', '\r': 'carriage return'}
  name = names.get(character) or unicodedata.name(character, '').lower()
  return f'{character!r} {name or f"U+{ord(character):04X}"}'


def repeats(read: Read) -> Table | None:
  """Inputs that occur more than once; None when none does."""
  table = console_lib.table(
    ('where', 'same target', 'other target', 'for example'),
    title='Examples whose inputs occur before',
  )
  for split in read.splits:
    found = split_statistics.repeats_within(split)
    _add_repeats(table, read, found, split, split, f'within {split.name}')
  for first, second in read.pairs():
    found = split_statistics.repeats_between(first, second)
    where = f'{second.name}, seen in {first.name}'
    _add_repeats(table, read, found, first, second, where)
  return table if table.row_count else None


def _add_repeats(table, read, found, first, second, where: str):
  pair = found.other_example or found.same_example
  if pair is None:
    return
  names = read.name(first, pair[0]), read.name(second, pair[1])
  counts = f'{found.same:,}', f'{found.other:,}'
  if not (read.labelled(first) and read.labelled(second)):
    counts = f'{found.same + found.other:,}', 'no targets'
  table.add_row(where, *counts, ' and '.join(names))


def blanks(read: Read) -> Table | None:
  """Fields and texts without content; None when there are none."""
  table = console_lib.table(
    ('what', 'times', 'for example'), title='Empty text'
  )
  for split in read.splits:
    places = read.places[split.name].blank
    for name in dict.fromkeys(name for _, name in places):
      found = [where for where, field in places if field == name]
      table.add_row(
        f'{split.name}: field {name!r}', f'{len(found):,}', found[0]
      )
    for side in SIDES:
      facts = split.sides[side]
      if facts.empty:
        where = read.name(split, facts.first_empty)
        table.add_row(f'{split.name}: {side}', f'{facts.empty:,}', where)
  return table if table.row_count else None


def percent(share: float) -> str:
  """A share of 1 in percent, '0' when it is none at all."""
  return '0' if not share else f'{share:.2%}'
