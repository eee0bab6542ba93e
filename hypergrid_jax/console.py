"""What a person sees while something long runs.

A bar with the time left on a terminal; elsewhere (a log file, a pipe) a plain
line every few seconds, so that the file stays readable.
"""

from collections.abc import Callable, Iterator
import contextlib
import time
from typing import Protocol

from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0


class Bar(Protocol):
  """One running activity."""

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
    self._console.print(
      f'{self._description}: {done}/{self._total}{left} {text}'.rstrip(),
      highlight=False,
      markup=False,
      soft_wrap=True,
    )


@contextlib.contextmanager
def bar(
  console: Console, description: str, total: int, *, done: int = 0
) -> Iterator[Bar]:
  """Shows progress of `total` things while the block runs.

  Args:
    console: where to; a terminal gets a bar, anything else plain lines.
    description: what is being done.
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
  """A bar over several things at once, which appears at the first report.

  Args:
    console: where to.
    description: what is being done.

  Yields:
    A function of (thing, done, total of that thing). The bar counts all things
    that have been reported.
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
