"""What `hypergrid tasks` shows: all tasks in a table, or one with examples."""

import collections
import contextlib
import itertools
import tempfile
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hypergrid_jax import errors, progress
from hypergrid_jax.data import config, sources, tokens, vocabularies
from hypergrid_jax.tasks import definitions

MOST_TARGETS = 12  # different target texts that are listed


def overview(source: str) -> Table:
  """Makes the table of all tasks.

  Args:
    source: 'sample', 'tfds' or 'files:DIR'; what it has is marked.

  Raises:
    UserError: the source does not exist.
  """
  sources.parse_source(source)
  table = Table(
    title=f'Tasks, with what {source} has of them',
    caption='published: training examples of the full data set',
  )
  for heading in ('task', 'in average', 'splits'):
    table.add_column(heading, overflow='fold')
  table.add_column('training rows', justify='right')
  table.add_column('published', justify='right')
  table.add_column('targets', overflow='fold')
  for task in definitions.DEFINITIONS.values():
    found = sources.available_splits(source, task)
    rows = None
    if task.train_split in found:
      rows = sources.num_examples(source, task, task.train_split)
    table.add_row(
      task.name,
      task.group or '-',
      ', '.join(found) or '-',
      '?' if rows is None and task.train_split in found else _count(rows),
      _count(task.train_examples or None),
      _targets(task.labels),
      end_section=task is definitions.GLUE[-1],
    )
  return table


def show(
  name: str,
  *,
  source: str,
  vocabulary: str,
  split: str | None = None,
  num: int = 3,
  token_dir: str | None = None,
  console: Console,
) -> None:
  """Prints examples of a task as text and ids, and counts over the split.

  Args:
    name: of the task.
    source: 'sample', 'tfds' or 'files:DIR'.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    split: of the task; None for the first there of evaluation, training, test.
    num: how many examples to print.
    token_dir: where the tokens are kept; None to make them for this call.
    console: where to.

  Raises:
    UserError: there is no such task, source, vocabulary or split.
  """
  task = definitions.definition(name)
  vocab = vocabularies.load_vocabulary(vocabulary)
  split = _chosen_split(task, source, split)
  lengths = config.DataConfig(mixture=name).lengths
  with contextlib.ExitStack() as stack:
    if token_dir is None:
      token_dir = stack.enter_context(tempfile.TemporaryDirectory())
    bar = stack.enter_context(progress.bar(console, f'reading {name}', 0))
    store = tokens.open_store(
      name,
      split,
      source=source,
      vocabulary=vocabulary,
      lengths=lengths,
      directory=token_dir,
      progress=lambda what, done, total: bar.update(done, what, total),
    )
  console.print(f'[bold]{name}[/] · {split} · {source}')
  for index in range(min(num, store.num_examples)):
    _show_example(store, index, vocab, console)
  console.print(_counts(store, vocab, lengths))


def _chosen_split(task: Any, source: str, split: str | None) -> str:
  """Returns the split to show.

  Raises:
    UserError: the task, or the source, does not have it.
  """
  if split is not None and split not in task.splits:
    raise errors.UserError(
      f'{task.name} has no split {split!r}.'
      f'{errors.closest(split, task.splits)} It has {", ".join(task.splits)}.'
    )
  found = sources.available_splits(source, task)
  preferred = [*task.eval_splits, task.train_split, task.test_split]
  if split is None:
    split = next((name for name in preferred if name in found), None)
  if split is None or split not in found:
    raise errors.UserError(
      f'{source} has no {split or "split"} of {task.name}. It has'
      f' {", ".join(found) or "nothing"}.'
    )
  return split


def _show_example(store, index: int, vocab, console: Console) -> None:
  example = store.example(index)
  lines = Table.grid(padding=(0, 2))
  lines.add_column(style='dim')
  lines.add_column(overflow='fold')
  for side, ids in (
    ('inputs', store.inputs(index)),
    ('targets', store.targets(index)),
  ):
    unknown = _unknown(ids, vocab)
    note = f', {unknown} unknown' if unknown else ''
    lines.add_row(side, Text(str(example[f'{side}_pretokenized'])))
    lines.add_row(f'{len(ids)} ids{note}', ' '.join(map(str, ids.tolist())))
  console.print(f'\n[bold]{index}[/]')
  console.print(lines)


def _counts(store, vocab, lengths: tuple[int, int]) -> Table:
  """The table of what the whole split looks like."""
  table = Table(title=f'{store.num_examples:,} examples', show_header=False)
  for side, sizes, limit in (
    ('inputs', store.input_lengths, lengths[0]),
    ('targets', store.target_lengths, lengths[1]),
  ):
    ids = getattr(store, f'{side[:-1]}_tokens')
    table.add_row(
      side,
      f'{sizes.mean():.1f} tokens on average, {sizes.max()} at most'
      f' (cut at {limit}); {_unknown(ids, vocab) / len(ids):.2%} unknown',
    )
  targets = collections.Counter(
    tuple(store.targets(index).tolist()) for index in range(store.num_examples)
  )
  for ids, count in targets.most_common(MOST_TARGETS):
    share = f'{count:,} ({count / store.num_examples:.1%})'
    table.add_row(Text(vocab.decode(ids)), share)
  if len(targets) > MOST_TARGETS:
    table.add_row('...', f'{len(targets):,} different targets')
  return table


def _unknown(ids, vocab) -> int:
  return int((ids == vocab.unk_id).sum())


def _count(number: int | None) -> str:
  return '-' if number is None else f'{number:,}'


def _targets(labels: tuple[str, ...] | None) -> str:
  if labels is None:
    return 'free text'
  if len(labels) > 4:
    return f'{labels[0]}, {labels[1]}, ... {labels[-1]}'
  return ', '.join(itertools.chain(labels))
