"""How predictions for a task from a TOML file are scored, by T5's functions.

Postprocessing and metrics are those of the `t5` package, called, not rewritten.
Imports t5, hence TensorFlow.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from typing import Any

import numpy as np
from t5.data import postprocessors
from t5.evaluation import metrics as t5_metrics

from hypergrid_jax.tasks.seqio.glue import defined_correlation
from hypergrid_jax.tasks.task_definition import TaskDefinition
from hypergrid_jax.tasks.toml import targets

Metric = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]


def text_preprocessors(task: TaskDefinition) -> list[Callable]:
  """Returns nothing: the rows already are `inputs` and `targets` texts."""
  del task
  return []


def postprocessor(task: TaskDefinition) -> Callable | None:
  """Returns what turns a decoded prediction or target into a metric's input.

  Labels become class ids, -1 for a text that is no label; numbers become
  floats; free text stays as it is.
  """
  target = task.rows.target
  if isinstance(target, targets.Labels):
    return functools.partial(
      postprocessors.string_label_to_class_id, label_classes=target.labels
    )
  if isinstance(target, targets.Number):
    return functools.partial(_read_number, unreadable=target.unreadable)
  return None


def metrics(task: TaskDefinition) -> list[Metric]:
  """Returns the task's metric functions, in percent.

  They take targets and predictions, both postprocessed and in the same order,
  and give the same numbers for the same predictions.
  """
  return [_metric(name, task.labels) for name in task.metrics]


def _metric(name: str, labels: tuple[str, ...] | None) -> Metric:
  if name == 'macro_f1':
    return t5_metrics.mean_multiclass_f1(num_classes=len(labels))
  if name == 'matthews_corrcoef':
    return t5_metrics.sklearn_metrics_wrapper(
      name, metric_post_process_fn=lambda value: 100 * value
    )
  return {
    'accuracy': t5_metrics.accuracy,
    'f1': t5_metrics.f1_score_with_invalid,
    'squad': _squad,
    'rouge': _rouge,
    'bleu': t5_metrics.bleu,
    'pearson_corrcoef': defined_correlation(t5_metrics.pearson_corrcoef),
    'spearman_corrcoef': defined_correlation(t5_metrics.spearman_corrcoef),
  }[name]


def _read_number(text: str, unreadable: float, **unused: Any) -> float:
  del unused
  number = postprocessors.string_to_float(text, default=unreadable)
  return number if math.isfinite(number) else unreadable


def _squad(targets, predictions):
  return t5_metrics.squad([[target] for target in targets], predictions)


def _rouge(targets, predictions):
  # rouge_score resamples the examples with NumPy's global generator, and the
  # score is the median of the resamples.
  state = np.random.get_state()  # noqa: NPY002
  np.random.seed(0)  # noqa: NPY002
  try:
    return t5_metrics.rouge(targets, predictions)
  finally:
    np.random.set_state(state)  # noqa: NPY002
