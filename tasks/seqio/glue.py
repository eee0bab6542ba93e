"""How GLUE rows become text and how predictions are scored, by T5's functions.

Text formats, label words, postprocessing and metrics are those of the `t5`
package, called, not rewritten. Imports seqio and t5, hence TensorFlow.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
from typing import Any
import warnings

from t5.data import glue_utils
import tensorflow_datasets as tfds

from hypergrid_jax.tasks.definitions import TaskDefinition

Metric = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]


def text_preprocessors(task: TaskDefinition) -> list[Callable]:
  """Returns what turns a dataset of rows into `inputs` and `targets` texts."""
  return [glue_utils.get_glue_text_preprocessor(_builder_config(task))]


def postprocessor(task: TaskDefinition) -> Callable:
  """Returns what turns a decoded prediction or target into a metric's input."""
  return glue_utils.get_glue_postprocess_fn(_builder_config(task))


def metrics(task: TaskDefinition) -> list[Metric]:
  """Returns the task's metric functions, in percent.

  They take targets and predictions, both postprocessed and in the same order,
  and give finite numbers for every prediction: see `defined_correlation`.
  Diagnostic tasks have none.
  """
  functions = glue_utils.get_glue_metric(_builder_config(task).name)
  if task.config == 'stsb':
    return [defined_correlation(function) for function in functions]
  return list(functions)


def defined_correlation(metric: Metric) -> Metric:
  """Makes a correlation metric give 0.0 where the correlation is undefined.

  The correlation of a single pair, or with predictions that are all equal, has
  no value; T5's functions raise or return NaN there, and an untrained model
  does predict the same score for every row. A prediction that reads as NaN or
  infinite counts as -1.0, like every other text that is no score.

  Args:
    metric: takes targets and predictions and returns names with correlations.
  """

  @functools.wraps(metric)
  def wrapped(targets, predictions):
    predictions = [
      value if math.isfinite(value) else -1.0 for value in predictions
    ]
    if len(targets) < 2:
      # Two different pairs, for the metric's names alone.
      return dict.fromkeys(metric([0.0, 1.0], [0.0, 1.0]), 0.0)
    with warnings.catch_warnings():
      # "The correlation coefficient is not defined" and overflows.
      warnings.simplefilter('ignore')
      scores = metric(targets, predictions)
    return {
      name: float(score) if math.isfinite(score) else 0.0
      for name, score in scores.items()
    }

  return wrapped


def _builder_config(task: TaskDefinition) -> tfds.core.BuilderConfig:
  # T5's functions go by TFDS's configurations, of which MNLI's two validation
  # sets have their own.
  configs = tfds.builder_cls('glue').builder_configs
  return configs[task.name.removeprefix('glue_')]
