"""What looks wrong with a task's data, in sentences."""

from collections.abc import Iterator
from typing import Any

from hypergrid_jax import errors
from hypergrid_jax.inspection import split_statistics
from hypergrid_jax.inspection.split_statistics import SIDES
from hypergrid_jax.inspection.split_tables import (
  CUT_SHARE,
  UNKNOWN_SHARE,
  Read,
  describe_character,
  percent,
)
from hypergrid_jax.tasks.task_definition import TaskDefinition

_MOST_NAMES = 8


def check_labels(task: TaskDefinition, vocabulary: Any) -> None:
  """Refuses labels that a model could not tell apart.

  Raises:
    UserError: two labels are the same tokens, or one has none.
  """
  seen: dict[tuple[int, ...], str] = {}
  for label in task.labels or ():
    ids = tuple(vocabulary.encode(label))
    if not ids or ids in seen:
      other = f'the same tokens as {seen[ids]!r}' if ids else 'no tokens'
      where = task.task_file or task.name
      raise errors.UserError(
        f'{where}: the label {label!r} is {other} in the vocabulary'
        f' {vocabulary.spec}; choose other words.'
      )
    seen[ids] = label


def of_task(read: Read, vocabulary: Any) -> list[str]:
  """Returns what looks wrong, one sentence each, the gravest first."""
  return [
    *_missing_splits(read),
    *_labels(read, vocabulary),
    *_contradictions(read),
    *_leaks(read),
    *lost_text(read),
    *_blanks(read),
  ]


def lost_text(read: Read) -> Iterator[str]:
  """Yields what cutting and the vocabulary take away, where that is much."""
  for split in read.splits:
    for side, limit in zip(SIDES, read.limits, strict=True):
      facts = split.sides[side]
      yield from share_warnings(
        f'{split.name} {side}',
        cut=(facts.cut or 0) / split.count,
        unknown=facts.unknown / facts.tokens,
        limit=limit,
        flag=f'--{side}_length',
      )
  lost = {c.text for split in read.splits for c in split.characters}
  unknown = [
    describe_character(text)
    for text in sorted(lost)
    if _becomes(read, text) is None
  ]
  changed = [
    describe_character(text)
    for text in sorted(lost)
    if _becomes(read, text) is not None and text.isspace()
  ]
  if unknown:
    yield (
      f'The vocabulary does not know {_list(unknown)}: the model sees an'
      ' unknown token in their place.'
    )
  if changed:
    yield f'The vocabulary reads {_list(changed)} as spaces or not at all.'


def share_warnings(
  what: str, *, cut: float, unknown: float, limit: int, flag: str
) -> Iterator[str]:
  """Yields warnings of too many cut examples and unknown tokens.

  Args:
    what: 'split side' or the like.
    cut: share of the examples that lost tokens.
    unknown: share of the tokens that are unknown.
    limit: tokens that examples are cut to.
    flag: what to raise.
  """
  if cut > CUT_SHARE:
    yield (
      f'{what}: {percent(cut)} of the examples are cut at {limit} tokens, more'
      f' than {CUT_SHARE:.0%}. Raise {flag}.'
    )
  if unknown > UNKNOWN_SHARE:
    yield (
      f'{what}: {percent(unknown)} of the tokens are unknown, more than'
      f' {UNKNOWN_SHARE:.1%}. Take another vocabulary or other text.'
    )


def _becomes(read: Read, text: str) -> str | None:
  return next(
    c.becomes for s in read.splits for c in s.characters if c.text == text
  )


def _list(names: list[str]) -> str:
  shown = ', '.join(names[:_MOST_NAMES])
  more = len(names) - _MOST_NAMES
  return f'{shown} and {more} more' if more > 0 else shown


def _missing_splits(read: Read) -> Iterator[str]:
  names = {split.name for split in read.splits}
  if read.task.train_split not in names:
    yield 'There is no training split: the task can only be evaluated.'
  if not names & set(read.task.eval_splits):
    yield 'There is no validation split: the task is trained without scores.'


def _labels(read: Read, vocabulary: Any) -> Iterator[str]:
  labels = read.task.labels or ()
  for label in labels:
    ids = vocabulary.encode(label)
    if vocabulary.unk_id in ids or vocabulary.decode(ids) != label:
      yield (
        f'The vocabulary writes the label {label!r} as'
        f' {vocabulary.decode(ids)!r}: a model can never predict it.'
      )
  train = [s for s in read.splits if s.name == read.task.train_split]
  # A score that no row has is no mistake; a class is.
  if train and read.task.classes:
    unseen = [repr(label) for label in labels if label not in train[0].targets]
    if unseen:
      yield f'No training example has the label {_list(unseen)}.'


def _contradictions(read: Read) -> Iterator[str]:
  for split in read.splits:
    found = split_statistics.repeats_within(split)
    if found.other:
      first, second = found.other_example
      yield (
        f'{split.name}: the inputs of an earlier example with another target'
        f' come again in {found.other:,} of {split.count:,}, such as'
        f' {read.name(split, first)} in {read.name(split, second)}.'
      )


def _leaks(read: Read) -> Iterator[str]:
  for first, second in read.pairs():
    found = split_statistics.repeats_between(first, second)
    count = found.same + found.other
    if count:
      pair = found.same_example or found.other_example
      yield (
        f'{second.name}: inputs that are in {first.name} too in {count:,} of'
        f' {second.count:,}, such as {read.name(second, pair[1])} and'
        f' {read.name(first, pair[0])}.'
      )


def _blanks(read: Read) -> Iterator[str]:
  for split in read.splits:
    blank = read.places[split.name].blank
    if blank:
      where, field = blank[0]
      yield (
        f'{split.name}: empty fields: {len(blank):,}, such as {field!r} of'
        f' {where}.'
      )
    for side in SIDES:
      if split.sides[side].empty:
        index = split.sides[side].first_empty
        yield (
          f'{split.name}: empty {side}: {split.sides[side].empty:,}, such as'
          f' {read.name(split, index)}.'
        )
