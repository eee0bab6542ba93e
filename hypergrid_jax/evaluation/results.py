"""The results of one evaluation: the content of `eval/<step>.json`."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from hypergrid_jax import files
from hypergrid_jax.errors import UserError
from hypergrid_jax.evaluation import metrics


@dataclasses.dataclass(frozen=True)
class TaskResult:
  """One task on one split.

  Attributes:
    split: name of the split.
    count: examples decoded; a ReCoRD query counts once per right answer, as it
      does in T5's data, though its metrics count it once.
    metrics: name -> value in percent; empty when the task has no metrics or
      its rows no labels.
    majority: the same metrics for predicting the most frequent training target
      everywhere; None when that target is not known.
    limit: how many examples were asked for; None for all. Metrics of some
      examples are not comparable: the limit cuts MultiRC's questions.
    invalid_rate: share of predictions, in [0, 1], that are none of the task's
      labels; None for a task with free text.
  """

  split: str
  count: int
  metrics: dict[str, float]
  majority: dict[str, float] | None = None
  limit: int | None = None
  invalid_rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Results:
  """All tasks of one evaluation.

  Attributes:
    step: optimiser steps behind the evaluated parameters.
    tasks: task name -> result, in the order of evaluation.
    max_decode_length: tokens that a prediction could have at most.
    scoring: 'greedy' (decoded text) or 'rank' (the likeliest label).
  """

  step: int
  tasks: dict[str, TaskResult]
  max_decode_length: int
  scoring: str = 'greedy'

  @property
  def scores(self) -> dict[str, dict[str, float]]:
    """Task name -> metric name -> value."""
    return {name: result.metrics for name, result in self.tasks.items()}

  @property
  def averages(self) -> dict[str, float]:
    """See `metrics.averages`."""
    return metrics.averages(self.scores)

  @property
  def majority_averages(self) -> dict[str, float]:
    """The averages of the baselines, where they cover the same groups."""
    scores = {name: task.majority or {} for name, task in self.tasks.items()}
    groups = metrics.groups_of_averages(scores)
    ours = metrics.groups_of_averages(self.scores)
    return {
      name: value
      for name, value in metrics.averages(scores).items()
      if groups[name] == ours.get(name)
    }

  def to_json(self) -> dict[str, Any]:
    """Returns the object that `eval/<step>.json` holds."""
    return {
      'step': self.step,
      'scoring': self.scoring,
      'max_decode_length': self.max_decode_length,
      'tasks': {
        name: dataclasses.asdict(result) for name, result in self.tasks.items()
      },
      'averages': self.averages,
      'groups': metrics.group_scores(self.scores),
      'groups_per_average': {
        name: len(groups)
        for name, groups in metrics.groups_of_averages(self.scores).items()
      },
    }

  def write(self, path: str | os.PathLike[str]) -> None:
    """Writes `to_json` to a file, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    text = files.to_json(self.to_json(), indent=2)
    files.write_text(path, [text, '\n'])


def read_results(path: str | os.PathLike[str]) -> Results:
  """Reads `eval/<step>.json`.

  Averages are computed anew from the tasks' metrics.

  Raises:
    UserError: the file is missing, or is not what `Results.write` makes.
  """
  path = pathlib.Path(path)
  try:
    content = json.loads(path.read_bytes())
    return Results(
      step=content['step'],
      tasks={
        name: TaskResult(**result) for name, result in content['tasks'].items()
      },
      max_decode_length=content['max_decode_length'],
      scoring=content['scoring'],
    )
  except OSError as error:
    raise UserError(
      f'{path}: cannot be read ({error.strerror}). Expected the result of an'
      ' evaluation, eval/<step>.json of a run.'
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path}: not the result of an evaluation ({error!r}). Evaluate again'
      ' to make it anew.'
    ) from error
