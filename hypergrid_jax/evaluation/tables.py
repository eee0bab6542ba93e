"""Results as a table on the screen and in Markdown, one run or several."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import NamedTuple

from rich.table import Table

from hypergrid_jax import console as console_lib
from hypergrid_jax.evaluation import metrics
from hypergrid_jax.evaluation.results import Results, Row

_MISSING = '–'


class _Key(NamedTuple):
  """What makes two runs' rows one line."""

  average: bool
  task: str
  metric: str
  groups: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Line:
  """One line: texts of all columns, and whether it is an average."""

  cells: tuple[str, ...]
  average: bool


def screen(runs: Mapping[str, Results], *, title: str | None = None) -> Table:
  """Returns a table for a rich console.

  Args:
    runs: column name -> results; several runs stand side by side.
    title: above the table.
  """
  header = _header(runs)
  table = console_lib.table(
    header[:2], header[2:], title=title, caption=_caption(runs)
  )
  lines = _lines(runs)
  for line, after in zip(lines, [*lines[1:], None], strict=True):
    ends = after is not None and after.average != line.average
    table.add_row(
      *line.cells, style='bold' if line.average else None, end_section=ends
    )
  return table


def markdown(runs: Mapping[str, Results]) -> str:
  """Returns the same table as Markdown, ending in a newline.

  Args:
    runs: column name -> results; several runs stand side by side.
  """
  header = _header(runs)
  rule = ['---' if i < 2 else '---:' for i in range(len(header))]
  rows = [header, rule]
  for line in _lines(runs):
    mark = '**' if line.average else ''
    first, *others = line.cells
    rows.append([f'{mark}{first}{mark}', *others])
  text = ''.join(f'| {" | ".join(row)} |\n' for row in rows)
  caption = _caption(runs)
  return f'{text}\n{caption}\n' if caption else text


def _header(runs: Mapping[str, Results]) -> list[str]:
  return ['task', 'metric', *runs, 'majority', 'examples']


def _lines(runs: Mapping[str, Results]) -> list[_Line]:
  """One line per task and metric of any run, in the order of the first.

  Averages over different groups are different lines: they do not compare.
  """
  found: dict[_Key, dict[str, Row]] = {}
  for run, results in runs.items():
    groups = metrics.groups_of_averages(results.scores)
    for row in results.table():
      average = row.count is None
      key = _Key(
        average, row.task, row.metric, groups[row.task] if average else ()
      )
      found.setdefault(key, {})[run] = row
  # What only a later run has goes after the tasks, or averages, before it.
  order = {
    task: i for i, task in enumerate(dict.fromkeys(k.task for k in found))
  }
  keys = sorted(found, key=lambda key: (key.average, order[key.task]))
  lines, previous = [], None
  for key in keys:
    rows = found[key]
    cells = (
      '' if key.task == previous else _label(key),
      _detail(key),
      *(_number(rows[run].value if run in rows else None) for run in runs),
      _number(_agreed([row.majority for row in rows.values()])),
      _counts([row.count for row in rows.values()]),
    )
    lines.append(_Line(cells, key.average))
    previous = None if key.average else key.task
  return lines


def _label(key: _Key) -> str:
  return average_label(key.task) if key.average else key.task


def _detail(key: _Key) -> str:
  """Names the metric; of an average, how many groups it is over."""
  if not key.average:
    return key.metric or 'not scored'
  return average_detail(key.task, key.groups)


def average_label(name: str) -> str:
  """What a table calls one of `metrics.averages`."""
  return f'average {name.removesuffix("_partial")}'


def average_detail(name: str, groups: Sequence[str]) -> str:
  """Says how many groups an average is over.

  Args:
    name: one of `metrics.averages`.
    groups: of it, from `metrics.groups_of_averages`.
  """
  if name == 'avg11':
    return f'{len(metrics.AVG11)} values'
  if not name.endswith('_partial'):
    return f'{len(groups)} group{"s" * (len(groups) > 1)}'
  prefix = f'{name.removesuffix("_partial")}/'
  total = sum(group.startswith(prefix) for group in metrics.GROUPS)
  return f'{len(groups)} of {total or len(metrics.GROUPS)} groups'


def _agreed(values: list[float | None]) -> float | None:
  """Returns the one value of all runs that have it, None when they differ."""
  known = {value for value in values if value is not None}
  return known.pop() if len(known) == 1 else None


def _number(value: float | None) -> str:
  return _MISSING if value is None else f'{value:.2f}'


def _counts(counts: list[int | None]) -> str:
  return '/'.join(dict.fromkeys(str(n) for n in counts if n is not None))


def _caption(runs: Mapping[str, Results]) -> str | None:
  """Warns of scores that are not of whole splits."""
  limits = {
    result.limit
    for results in runs.values()
    for result in results.tasks.values()
    if result.limit is not None
  }
  if not limits:
    return None
  first = ' or '.join(map(str, sorted(limits)))
  return (
    f'Scored on the first {first} examples per task: not comparable with whole'
    ' splits.'
  )
