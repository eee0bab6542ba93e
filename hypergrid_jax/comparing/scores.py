"""What the runs of a comparison scored: means and deviations over seeds."""

from collections.abc import Iterable, Sequence
import dataclasses
import statistics
from typing import Any, NamedTuple

from hypergrid_jax.evaluation import metrics, tables
from hypergrid_jax.evaluation.results import Results


class Line(NamedTuple):
  """Names a line of the table.

  Attributes:
    task: name of a task, a group of tasks or an average.
    metric: name of the metric; 'mean' of a group; of an average, what it is
      over.
    average: whether it is an average over groups.
  """

  task: str
  metric: str
  average: bool = False


@dataclasses.dataclass(frozen=True)
class Statistic:
  """A score over the seeds of a method.

  Attributes:
    values: in percent, one per seed.
  """

  values: tuple[float, ...]

  @property
  def mean(self) -> float:
    """Over the seeds."""
    return statistics.fmean(self.values)

  @property
  def deviation(self) -> float | None:
    """The sample standard deviation (n - 1 below); None of one seed."""
    if len(self.values) < 2:
      return None
    return statistics.stdev(self.values)

  def __str__(self):
    if self.deviation is None:
      return f'{self.mean:.2f}'
    return f'{self.mean:.2f} ± {self.deviation:.2f}'

  def to_json(self) -> dict[str, Any]:
    """Mean, deviation and the values themselves."""
    return {
      'mean': self.mean,
      'deviation': self.deviation,
      'values': list(self.values),
    }


def merged(parts: Sequence[Results], order: Iterable[str]) -> Results:
  """The results of models for different tasks as if they were one model's.

  Args:
    parts: their evaluations; no task is in two of them.
    order: of the tasks; those that no part has are left out.
  """
  tasks = {name: task for part in parts for name, task in part.tasks.items()}
  return Results(
    step=parts[0].step,
    tasks={name: tasks[name] for name in order if name in tasks},
    max_decode_length=max(part.max_decode_length for part in parts),
    scoring=parts[0].scoring,
  )


def values(results: Results) -> dict[Line, float]:
  """Every line of the table that an evaluation has a value for.

  Each metric of each task; the mean of each group that has several values,
  after the last of them; and the averages.
  """
  scores = results.scores
  groups = metrics.group_scores(scores)
  ends = {
    list(metrics.GROUPS[group])[-1][0]: group
    for group in groups
    if group in metrics.GROUPS and len(metrics.GROUPS[group]) > 1
  }
  found = {}
  for task, of_task in scores.items():
    for metric, value in of_task.items():
      found[Line(task, metric)] = value
    if task in ends:
      group = ends[task]
      found[Line(group, 'mean')] = groups[group]
    elif task in groups and len(of_task) > 1:  # a task of the user's own
      found[Line(task, 'mean')] = groups[task]
  over = metrics.groups_of_averages(scores)
  for name, value in results.averages.items():
    detail = tables.average_detail(name, over[name])
    found[Line(name, detail, average=True)] = value
  return found


def over_seeds(results: Sequence[Results]) -> dict[Line, Statistic]:
  """Statistics of every line that all seeds have a value for."""
  each = [values(result) for result in results]
  return {
    line: Statistic(tuple(of_seed[line] for of_seed in each))
    for line in (each[0] if each else ())
    if all(line in of_seed for of_seed in each)
  }
