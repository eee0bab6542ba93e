"""The table of a comparison: as JSON, CSV, Markdown and on the screen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import csv
import dataclasses
import io
import pathlib
from typing import Any

from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import files
from hypergrid_jax.comparing.scores import Line, Statistic
from hypergrid_jax.comparing.step_times import StepTime
from hypergrid_jax.evaluation import tables

_MISSING = '–'
_LABEL_WIDTH, _COLUMN_WIDTH = 52, 17  # of a table on the screen


@dataclasses.dataclass(frozen=True)
class Parameters:
  """Parameters of one method; of single-task models, of all together.

  Attributes:
    trained: number of those that train.
    added: number of those that the method needs beyond one plain T5.
    tasks: number of tasks among which both are divided.
    plain: number of parameters of one plain T5.
  """

  trained: int
  added: int
  tasks: int
  plain: int

  @property
  def trained_per_task(self) -> float:
    """Each task's equal share of what trains."""
    return self.trained / self.tasks

  @property
  def added_per_task(self) -> float:
    """Each task's equal share of what is added."""
    return self.added / self.tasks

  def to_json(self) -> dict[str, float]:
    """Returns all numbers by name."""
    return {
      'trained': self.trained,
      'trained_per_task': self.trained_per_task,
      'added': self.added,
      'added_per_task': self.added_per_task,
      'one_plain_t5': self.plain,
      'tasks': self.tasks,
    }


@dataclasses.dataclass(frozen=True)
class Column:
  """One method's column of the table.

  Attributes:
    scores: statistics over the seeds, by line.
    parameters: the method's numbers of parameters.
    steps: number of steps of each model.
    seeds: the seeds that are in the scores.
    time: how long a step takes; None if it was not measured.
    failures: what happened to seeds that are not in the scores.
    changes: what its gin file sets beside the method itself.
  """

  scores: Mapping[Line, Statistic]
  parameters: Parameters
  steps: int
  seeds: tuple[int, ...]
  time: StepTime | None = None
  failures: Mapping[str, str] = dataclasses.field(default_factory=dict)
  changes: tuple[str, ...] = ()

  def to_json(self) -> dict[str, Any]:
    """Returns all of the column as JSON."""
    return {
      'scores': [
        {**line._asdict(), **statistic.to_json()}
        for line, statistic in self.scores.items()
      ],
      'parameters': self.parameters.to_json(),
      'steps': self.steps,
      'seeds': list(self.seeds),
      'step_time': None if self.time is None else dataclasses.asdict(self.time),
      'failures': dict(self.failures),
      'changes': list(self.changes),
    }


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The whole table.

  Attributes:
    columns: each method's column by its name.
    facts: how the table was made, for the JSON file.
  """

  columns: dict[str, Column]
  facts: dict[str, Any]

  def to_json(self) -> dict[str, Any]:
    """Returns the object of compare.json."""
    return {
      **self.facts,
      'methods': {
        name: column.to_json() for name, column in self.columns.items()
      },
    }

  def notes(self) -> list[str]:
    """Returns what one has to know to read the table."""
    notes = [
      'Scores in percent: mean ± sample standard deviation over the seeds. Per'
      ' task: an equal share for each task.'
    ]
    if any(column.time for column in self.columns.values()):
      notes.append(
        'Time: median of pairs of steps, one of the method and one of the plain'
        ' T5, on the same batches; alone: the same work by itself.'
      )
    for name, column in self.columns.items():
      if column.changes:
        notes.append(f'{name} also sets {", ".join(column.changes)}.')
      for run, message in column.failures.items():
        notes.append(f'{name}, {run}, failed and is left out: {message}')
    return notes


def lines(comparison: Comparison) -> list[Line]:
  """Returns the lines that any method has, averages last."""
  scored: dict[Line, None] = {}
  for column in comparison.columns.values():
    scored |= dict.fromkeys(column.scores)
  order = {
    task: i
    for i, task in enumerate(dict.fromkeys(line.task for line in scored))
  }
  return sorted(scored, key=lambda line: (line.average, order[line.task]))


def cells(comparison: Comparison) -> Iterator[tuple[str, str, list[str]]]:
  """Yields the rows of the table: two labels, and a text for each method."""
  columns = list(comparison.columns.values())
  previous = None
  for line in lines(comparison):
    task = _label(line)
    texts = [str(c.scores.get(line, _MISSING)) for c in columns]
    yield '' if task == previous else task, line.metric, texts
    previous = task
  for label, detail, number in _NUMBERS:
    texts = [number(column) for column in columns]
    if any(text != _MISSING for text in texts):
      yield label, detail, texts


def _label(line: Line) -> str:
  return tables.average_label(line.task) if line.average else line.task


def _of_step(field: str, digits: int) -> Callable[[Column], str]:
  """Returns a function that writes one number of a column's step time."""

  def text(column: Column) -> str:
    value = None if column.time is None else getattr(column.time, field)
    return _MISSING if value is None else f'{value:.{digits}f}'

  return text


def _share(column: Column) -> str:
  counts = column.parameters
  return f'{100 * counts.trained_per_task / counts.plain:.2f}'


_NUMBERS = (
  ('trained parameters', 'all', lambda c: f'{c.parameters.trained:,}'),
  ('', 'per task', lambda c: f'{c.parameters.trained_per_task:,.0f}'),
  ('', 'per task, % of a T5', _share),
  ('added parameters', 'all', lambda c: f'{c.parameters.added:,}'),
  ('', 'per task', lambda c: f'{c.parameters.added_per_task:,.0f}'),
  ('time per step', 'over plain T5', _of_step('relative', 2)),
  ('', 'milliseconds', _of_step('milliseconds', 1)),
  ('', 'conditioning alone, ms', _of_step('condition_milliseconds', 1)),
  ('', 'choosing rows alone, ms', _of_step('selection_milliseconds', 1)),
  ('steps', '', lambda c: f'{c.steps:,}'),
  ('seeds', '', lambda c: ', '.join(map(str, c.seeds))),
)


def markdown(comparison: Comparison) -> str:
  """Returns the table and its notes as Markdown, ending in a newline."""
  header = ['task', 'metric', *comparison.columns]
  rows = [header, ['---', '---', *['---:'] * len(comparison.columns)]]
  for task, metric, texts in cells(comparison):
    mark = '**' if task.startswith('average ') else ''
    rows.append([f'{mark}{task}{mark}', metric, *texts])
  table = ''.join(f'| {" | ".join(row)} |\n' for row in rows)
  notes = ''.join(f'\n{note}\n' for note in comparison.notes())
  return table + notes


def as_csv(comparison: Comparison) -> str:
  """Returns the table as CSV, means and deviations in separate columns."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  names = [n for m in comparison.columns for n in (m, f'{m} deviation')]
  writer.writerow(['task', 'metric', *names])
  columns = comparison.columns.values()
  for line in lines(comparison):
    scores = [column.scores.get(line) for column in columns]
    pairs = [(s.mean, s.deviation) if s else (None, None) for s in scores]
    writer.writerow(
      [_label(line), line.metric, *(x for pair in pairs for x in pair)]
    )
  label = ''
  for name, detail, number in _NUMBERS:
    label = name or label
    texts = [number(column).replace(',', '') for column in columns]
    texts = ['' if text == _MISSING else text for text in texts]
    writer.writerow([label, detail, *(x for text in texts for x in (text, ''))])
  return file.getvalue()


def show(comparison: Comparison, *, console: Console) -> None:
  """Prints the table, as many methods side by side as there is room for."""
  names = list(comparison.columns)
  room = max(1, (console.width - _LABEL_WIDTH) // _COLUMN_WIDTH)
  for first in range(0, len(names), room):
    shown = names[first : first + room]
    part = Comparison({name: comparison.columns[name] for name in shown}, {})
    table = console_lib.table(('task', 'metric'), shown)
    for task, metric, texts in cells(part):
      bold = 'bold' if task.startswith('average ') else None
      table.add_row(task, metric, *texts, style=bold)
    console.print(table)
  for note in comparison.notes():
    console_lib.say(console, note)


def write(comparison: Comparison, directory: pathlib.Path) -> None:
  """Writes compare.json, compare.csv and compare.md.

  Raises:
    UserError: a file cannot be written.
  """
  text = files.to_json(comparison.to_json(), indent=2)
  files.write_text(directory / 'compare.json', [text, '\n'])
  files.write_text(directory / 'compare.csv', [as_csv(comparison)])
  files.write_text(directory / 'compare.md', [markdown(comparison)])


def common_average(columns: Sequence[Column]) -> Line | None:
  """Returns the widest average that every method with scores has."""
  scored = [column for column in columns if column.scores]
  shared = [
    line
    for line in (scored[0].scores if scored else ())
    if line.average and all(line in column.scores for column in scored)
  ]
  wide = ('all', 'glue_super_glue', 'glue_super_glue_partial')
  shared.sort(key=lambda line: line.task not in wide)
  return shared[0] if shared else None
