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
  """Of one method; for single-task models, of all of them together.

  Attributes:
    trained: in all.
    added: what the method needs beyond one plain T5, in all.
    tasks: among which both are divided.
    plain: parameters of one plain T5.
  """

  trained: int
  added: int
  tasks: int
  plain: int

  @property
  def trained_per_task(self) -> float:
    """An equal share of what trains."""
    return self.trained / self.tasks

  @property
  def added_per_task(self) -> float:
    """An equal share of what is added."""
    return self.added / self.tasks

  def to_json(self) -> dict[str, float]:
    """All numbers."""
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
  """One method.

  Attributes:
    scores: over the seeds.
    parameters: see `Parameters`.
    steps: of each model.
    seeds: those that are in the scores.
    time: of a step; None if it was not measured.
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
    """Everything that is known of the method."""
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
    columns: name of a method -> its column.
    facts: about how it was made, for the JSON file.
  """

  columns: dict[str, Column]
  facts: dict[str, Any]

  def to_json(self) -> dict[str, Any]:
    """The object of compare.json."""
    return {
      **self.facts,
      'methods': {
        name: column.to_json() for name, column in self.columns.items()
      },
    }

  def notes(self) -> list[str]:
    """What has to be known to read the table."""
    found = [
      'Scores in percent: mean ± sample standard deviation over the seeds. Per'
      ' task: an equal share for each task.'
    ]
    if any(column.time for column in self.columns.values()):
      found.append(
        'Time: median of pairs of steps, one of the method and one of the plain'
        ' T5, on the same batches; alone: the same work by itself.'
      )
    for name, column in self.columns.items():
      if column.changes:
        found.append(f'{name} also sets {", ".join(column.changes)}.')
      for run, message in column.failures.items():
        found.append(f'{name}, {run}, failed and is left out: {message}')
    return found


def lines(comparison: Comparison) -> list[Line]:
  """The lines that any method has, averages last."""
  found: dict[Line, None] = {}
  for column in comparison.columns.values():
    found |= dict.fromkeys(column.scores)
  order = {
    task: i for i, task in enumerate(dict.fromkeys(x.task for x in found))
  }
  return sorted(found, key=lambda line: (line.average, order[line.task]))


def cells(comparison: Comparison) -> Iterator[tuple[str, str, list[str]]]:
  """The rows of the table: two labels, and a text for each method."""
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
  """Writes one number of the step's time."""

  def text(column: Column) -> str:
    value = None if column.time is None else getattr(column.time, field)
    return _MISSING if value is None else f'{value:.{digits}f}'

  return text


def _share(column: Column) -> str:
  found = column.parameters
  return f'{100 * found.trained_per_task / found.plain:.2f}'


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
  """The table and its notes as Markdown, ending in a newline."""
  header = ['task', 'metric', *comparison.columns]
  rows = [header, ['---', '---', *['---:'] * len(comparison.columns)]]
  for task, metric, texts in cells(comparison):
    mark = '**' if task.startswith('average ') else ''
    rows.append([f'{mark}{task}{mark}', metric, *texts])
  table = ''.join(f'| {" | ".join(row)} |\n' for row in rows)
  notes = ''.join(f'\n{note}\n' for note in comparison.notes())
  return table + notes


def as_csv(comparison: Comparison) -> str:
  """The table with means and deviations in columns of their own."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  names = [n for m in comparison.columns for n in (m, f'{m} deviation')]
  writer.writerow(['task', 'metric', *names])
  columns = comparison.columns.values()
  for line in lines(comparison):
    found = [column.scores.get(line) for column in columns]
    pairs = [(s.mean, s.deviation) if s else (None, None) for s in found]
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
    some = names[first : first + room]
    part = Comparison({name: comparison.columns[name] for name in some}, {})
    table = console_lib.table(('task', 'metric'), some)
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
  """The average over the most groups that every method with scores has."""
  scored = [column for column in columns if column.scores]
  shared = [
    line
    for line in (scored[0].scores if scored else ())
    if line.average and all(line in column.scores for column in scored)
  ]
  wide = ('all', 'glue_super_glue', 'glue_super_glue_partial')
  shared.sort(key=lambda line: line.task not in wide)
  return shared[0] if shared else None
