"""What a person sees: lines, tables, and the progress of long work.

Progress is a bar with the time left on a terminal; elsewhere (a log file, a
pipe) it is a plain line every few seconds, so that the file stays readable.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import time
from typing import Protocol

from rich import box
from rich.console import Console, RenderableType
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
_PLAIN_WIDTH = 120  # columns of a table that is not written to a terminal


def for_output() -> Console:
  """Makes a console of the standard output, wide enough for tables."""
  console = Console()
  if console.is_terminal or 'COLUMNS' in os.environ:
    return console
  return Console(width=_PLAIN_WIDTH)


def say(console: Console, text: str, *, style: str | None = None) -> None:
  """Prints text as it is: square brackets are no markup, and nothing wraps.

  Args:
    console: prints it.
    text: one or several lines.
    style: a style of rich for all of it, such as 'bold'.
  """
  console.print(
    text, style=style, highlight=False, markup=False, soft_wrap=True
  )


def table(
  text_columns: Sequence[str],
  number_columns: Sequence[str] = (),
  *,
  title: str | None = None,
  caption: str | None = None,
) -> Table:
  """Returns a table without rows, for `add_row` and `console.print`.

  Its texts are plain: square brackets in them are no markup. On a narrow
  terminal it folds texts and loses no figures.

  Args:
    text_columns: headings of the first columns, aligned to the left.
    number_columns: headings of the other columns, aligned to the right.
    title: a line above.
    caption: a line below.
  """
  plain = _PlainTable(
    title=title and Text(title, 'table.title'),
    title_justify='left',
    caption=caption and Text(caption, 'table.caption'),
    caption_justify='left',
    box=box.SIMPLE_HEAD,
    pad_edge=False,
    collapse_padding=True,
  )
  for heading in text_columns:
    plain.add_column(Text(heading), overflow='fold')
  for heading in number_columns:
    plain.add_column(Text(heading), justify='right', no_wrap=True)
  return plain


class _PlainTable(Table):
  def add_row(self, *cells: RenderableType | None, **options) -> None:
    super().add_row(
      *(Text(cell) if isinstance(cell, str) else cell for cell in cells),
      **options,
    )


class Bar(Protocol):
  """The progress of one activity."""

  def update(self, done: int, text: str = '', total: int | None = None) -> None:
    """Shows how much is done and a short text beside it."""


class _RichBar:
  def __init__(self, progress: Progress, description: str, total: int):
    self._progress = progress
    self._task = progress.add_task(description, total=total, text='')

  def update(self, done: int, text: str = '', total: int | None = None) -> None:
    self._progress.update(self._task, completed=done, text=text, total=total)


class _PlainBar:
  def __init__(self, console: Console, description: str, total: int, done: int):
    self._console = console
    self._description = description
    self._total = total
    self._first = done
    self._start = self._last = time.monotonic()

  def update(self, done: int, text: str = '', total: int | None = None) -> None:
    self._total = self._total if total is None else total
    now = time.monotonic()
    finished = 0 < self._total <= done
    if now - self._last < SECONDS_BETWEEN_LINES and not finished:
      return
    self._last = now
    left = ''
    if self._first < done < self._total:
      rate = (now - self._start) / (done - self._first)
      left = f', {_clock(rate * (self._total - done))} left'
    say(
      self._console,
      f'{self._description}: {done}/{self._total}{left} {text}'.rstrip(),
    )


@contextlib.contextmanager
def bar(
  console: Console, description: str, total: int, *, done: int = 0
) -> Iterator[Bar]:
  """Shows progress of `total` things while the block runs.

  Args:
    console: a terminal gets a bar, anything else plain lines.
    description: names the activity.
    total: how many things there are.
    done: how many were done before, for the estimate of the time left.
  """
  if not console.is_terminal:
    yield _PlainBar(console, description, total, done)
    return
  columns = (
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    TextColumn('{task.fields[text]}'),
  )
  with Progress(*columns, console=console) as progress:
    shown = _RichBar(progress, description, total)
    shown.update(done)
    yield shown


@contextlib.contextmanager
def on_demand(
  console: Console, description: str
) -> Iterator[Callable[[str, int, int], None]]:
  """Shows one bar over several things, from the first report on.

  Args:
    console: a terminal gets a bar, anything else plain lines.
    description: names the activity.

  Yields:
    A function of (thing, done, total of that thing). The bar counts everything
    that has been reported.
  """
  with contextlib.ExitStack() as stack:
    shown: list[Bar] = []
    counts: dict[str, tuple[int, int]] = {}

    def report(thing: str, done: int, total: int) -> None:
      counts[thing] = done, total
      if not shown:
        shown.append(stack.enter_context(bar(console, description, total)))
      done, total = map(sum, zip(*counts.values(), strict=True))
      shown[0].update(done, thing, total)

    yield report


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02}:{seconds:02}'
  return f'{minutes}:{seconds:02}'
