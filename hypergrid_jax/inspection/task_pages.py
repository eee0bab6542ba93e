"""What `hypergrid tasks` prints: all tasks, one with examples, or a check."""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import tempfile
from typing import Any

from rich.console import Console
from rich.table import Table

from hypergrid_jax import console as console_lib
from hypergrid_jax import errors
from hypergrid_jax.data import token_requests, tokenizing, tokens
from hypergrid_jax.inspection import (
  row_locations,
  split_statistics,
  split_tables,
  task_warnings,
)
from hypergrid_jax.tasks import (
  definitions,
  task_definition,
  task_files,
  vocabularies,
)
from hypergrid_jax.tasks.catalogue import benchmarks
from hypergrid_jax.tasks.rows import sources

# Examples of other splits that `show` reads for repeated inputs.
_QUICK = 20_000


def overview(source: str) -> Table:
  """Makes the table of all tasks.

  Args:
    source: 'sample', 'tfds' or 'files:DIR'; what it has is marked.

  Raises:
    UserError: the source does not exist.
  """
  sources.parse_source(source)
  table = console_lib.table(
    ('task', 'in average', 'splits', 'targets'),
    ('training rows', 'published'),
    title=f'Tasks, with what {source} has of them',
    caption='published: training examples of the full data set',
  )
  for task in definitions.DEFINITIONS.values():
    found = sources.available_splits(source, task)
    rows = None
    if task.train_split in found:
      rows = sources.num_examples(source, task, task.train_split)
    table.add_row(
      task.name,
      task.group or '-',
      ', '.join(found) or '-',
      _targets(task.labels),
      '?' if rows is None and task.train_split in found else _count(rows),
      _count(task.train_examples or None),
      end_section=task in (benchmarks.GLUE[-1], benchmarks.SUPER_GLUE[-1]),
    )
  return table


def show(
  name: str,
  *,
  source: str,
  vocabulary: str,
  split: str | None = None,
  num: int = 3,
  lengths: tuple[int, int],
  token_dir: str | None = None,
  console: Console,
) -> None:
  """Prints examples of a split of a task, and what the split is like.

  The other splits are looked at too, for repeated inputs, when that is quick.

  Args:
    name: of the task.
    source: 'sample', 'tfds' or 'files:DIR'.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    split: of the task; None for the first there of evaluation, training, test.
    num: how many examples to print.
    lengths: tokens that inputs and targets are cut to.
    token_dir: where the tokens are kept; None to make them for this call.
    console: the console to print on.

  Raises:
    UserError: there is no such task, source, vocabulary or split.
  """
  task = definitions.definition(name)
  reader = _Reader(source, vocabulary, lengths, token_dir, console)
  split = _chosen_split(task, source, split)
  splits = _splits(task, source)
  if reader.estimate(task, set(splits) - {split}) > _QUICK:
    splits = [split]
  with reader.opened(task, splits) as stores:
    console_lib.say(
      console, f'{name} · {split} · {_where(task, source)}', style='bold'
    )
    _print_examples(stores[split], num, reader.vocabulary, console)
    read = reader.read(task, stores)
    repeats = split_tables.repeats(read)
    alone = tuple(found for found in read.splits if found.name == split)
    read = dataclasses.replace(read, splits=alone)
    for table in (
      split_tables.lengths(read),
      split_tables.targets(read),
      split_tables.characters(read),
      repeats,
    ):
      _print_present(table, console)


def check(
  name: str,
  *,
  source: str,
  vocabulary: str,
  num: int = 2,
  lengths: tuple[int, int],
  token_dir: str | None = None,
  console: Console,
) -> None:
  """Reads all rows of a task and prints what they are like and what is odd.

  Args:
    name: of the task.
    source: 'sample', 'tfds' or 'files:DIR'; for a task without rows of its own.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    num: how many examples of each split to print.
    lengths: tokens that inputs and targets are cut to.
    token_dir: where the tokens are kept; None to make them for this call.
    console: the console to print on.

  Raises:
    UserError: something would break training: the task cannot be used, a row is
      malformed, the source has nothing of the task, or two labels are the same
      tokens.
  """
  task = definitions.definition(name)
  reader = _Reader(source, vocabulary, lengths, token_dir, console)
  task_warnings.check_labels(task, reader.vocabulary)
  splits = _splits(task, source)
  if not splits:
    raise errors.UserError(f'{source} has no split of {name}.')
  with reader.opened(task, splits) as stores:
    console_lib.say(console, f'{name} · {_where(task, source)}', style='bold')
    for split, store in stores.items():
      console_lib.say(
        console, f'\n{split}, {store.num_examples:,} examples', style='bold'
      )
      _print_examples(store, num, reader.vocabulary, console)
    read = reader.read(task, stores)
    for table in (
      split_tables.lengths,
      split_tables.targets,
      split_tables.characters,
      split_tables.repeats,
      split_tables.blanks,
    ):
      _print_present(table(read), console)
    found = task_warnings.of_task(read, reader.vocabulary)
    for warning in found:
      console_lib.say(console, f'Warning: {warning}', style='yellow')
    console_lib.say(
      console, f'{name}: every row can be used; {len(found)} warnings.'
    )


def resolve(name: str) -> tuple[str, ...]:
  """Returns the names of the tasks that `check` is asked for.

  Args:
    name: of a known task; or of a TOML file, Python file or module, whose tasks
      become known. Those that cannot be used come last.

  Raises:
    UserError: it is none of these, or the file defines no task.
  """
  if definitions.find(name) is not None:
    return (name,)
  # A bare word that is no module is a mistyped task.
  if name.isidentifier() and importlib.util.find_spec(name) is None:
    definitions.definition(name)
  refused = dict(definitions.REFUSED)
  found = task_files.load([name])
  unusable = (
    task
    for task, reason in definitions.REFUSED.items()
    if refused.get(task) != reason
  )
  return (*found, *unusable)


class _Reader:
  """Opens and reads the splits of tasks."""

  def __init__(self, source, vocabulary, lengths, token_dir, console):
    self.vocabulary = vocabularies.load_vocabulary(vocabulary)
    self._source, self._spec = source, vocabulary
    self._lengths = lengths
    self._token_dir = token_dir
    self._console = console

  def estimate(self, task: task_definition.TaskDefinition, splits) -> int:
    """Estimates the examples of some splits without reading them."""
    requests = (self._request(task, split) for split in splits)
    return sum(map(tokenizing.expected_examples, requests))

  @contextlib.contextmanager
  def opened(
    self, task: task_definition.TaskDefinition, splits: Iterable[str]
  ) -> Iterator[dict[str, tokens.TokenStore]]:
    """Opens the token stores of splits for the length of a `with` block."""
    splits = tuple(splits)
    with contextlib.ExitStack() as stack:
      directory = self._token_dir
      if directory is None:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
      with console_lib.on_demand(self._console, 'tokenising') as shown:
        stores = tokens.open_stores(
          [self._request(task, split) for split in splits],
          directory=directory,
          progress=shown,
        )
      yield dict(zip(splits, stores, strict=True))

  def read(
    self,
    task: task_definition.TaskDefinition,
    stores: Mapping[str, tokens.TokenStore],
  ) -> split_tables.Read:
    """Reads all examples of some splits."""
    total = sum(store.num_examples for store in stores.values())
    splits, before = [], 0
    with console_lib.bar(self._console, 'reading', total) as bar:
      for name, store in stores.items():
        report = functools.partial(_report, bar, before)
        splits.append(
          split_statistics.read(
            name,
            store,
            self.vocabulary,
            missing=split_tables.missing_targets(task, name),
            progress=report,
          )
        )
        before += store.num_examples
    places = {
      name: row_locations.read(task, self._source, name) for name in stores
    }
    return split_tables.Read(task, tuple(splits), places, self._lengths)

  def _request(self, task, split: str) -> token_requests.TokenRequest:
    return token_requests.TokenRequest(
      task.name,
      split,
      self._source,
      self._spec,
      self._lengths,
      task_file=task.task_file,
    )


def _report(bar: console_lib.Bar, before: int, done: int) -> None:
  bar.update(before + done)


def _splits(task: task_definition.TaskDefinition, source: str) -> list[str]:
  """The splits that are there, in the order train, evaluation, test."""
  found = sources.available_splits(source, task)
  return [split for split in task.splits if split in found]


def _where(task: task_definition.TaskDefinition, source: str) -> str:
  return task.task_file or source


def _print_examples(store, num: int, vocabulary, console: Console) -> None:
  for index in range(min(num, store.num_examples)):
    console_lib.say(console, f'\n{index}', style='bold')
    console.print(split_tables.example(store, index, vocabulary))


def _print_present(table: Table | None, console: Console) -> None:
  if table is not None:
    console.print(table)


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


def _count(number: int | None) -> str:
  return '-' if number is None else f'{number:,}'


def _targets(labels: tuple[str, ...] | None) -> str:
  if labels is None:
    return 'free text'
  if len(labels) > 4:
    return f'{labels[0]}, {labels[1]}, ... {labels[-1]}'
  return ', '.join(itertools.chain(labels))
