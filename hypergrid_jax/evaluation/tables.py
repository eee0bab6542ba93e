"""Results as a table on the screen."""

from collections.abc import Sequence

from rich.table import Table

from hypergrid_jax import console as console_lib
from hypergrid_jax.evaluation import metrics
from hypergrid_jax.evaluation.results import Results

_MISSING = '–'


def screen(results: Results, *, title: str | None = None) -> Table:
  """Returns a table for a rich console: the metrics of tasks, then averages.

  Args:
    results: the results of one evaluation.
    title: a line above the table.
  """
  limits = {task.limit for task in results.tasks.values()} - {None}
  table = console_lib.table(
    ('task', 'metric'),
    ('score', 'majority', 'examples'),
    title=title,
    caption=limits and _warning(sorted(limits)) or None,
  )
  for name, task in results.tasks.items():
    majority = task.majority or {}
    scores = task.metrics or {'not scored': None}
    for label, (metric, value) in zip(
      [name, *[''] * len(scores)], scores.items(), strict=False
    ):
      numbers = _number(value), _number(majority.get(metric)), str(task.count)
      table.add_row(label, metric, *numbers)
  table.add_section()
  groups = metrics.groups_of_averages(results.scores)
  baselines = results.majority_averages
  for name, value in results.averages.items():
    table.add_row(
      average_label(name),
      average_detail(name, groups[name]),
      _number(value),
      _number(baselines.get(name)),
      style='bold',
    )
  return table


def average_label(name: str) -> str:
  """Returns what a table calls one of `metrics.averages`."""
  return f'average {name.removesuffix("_partial")}'


def average_detail(name: str, groups: Sequence[str]) -> str:
  """Says how many groups an average is over.

  Args:
    name: one of `metrics.averages`.
    groups: its groups, from `metrics.groups_of_averages`.
  """
  if name == 'avg11':
    return f'{len(metrics.AVG11)} values'
  if not name.endswith('_partial'):
    return f'{len(groups)} group{"s" * (len(groups) > 1)}'
  prefix = f'{name.removesuffix("_partial")}/'
  total = sum(group.startswith(prefix) for group in metrics.GROUPS)
  return f'{len(groups)} of {total or len(metrics.GROUPS)} groups'


def _number(value: float | None) -> str:
  return _MISSING if value is None else f'{value:.2f}'


def _warning(limits: Sequence[int]) -> str:
  """Warns of scores that are not of whole splits."""
  first = ' or '.join(map(str, limits))
  return (
    f'Scored on the first {first} examples per task: not comparable with whole'
    ' splits.'
  )
