"""How SuperGLUE rows become text and how predictions are scored.

Text formats, label words, postprocessing and metrics are those of the `t5`
package, called, not rewritten. Imports seqio and t5, hence TensorFlow.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from t5.data import glue_utils, postprocessors, preprocessors
from t5.evaluation import metrics as t5_metrics
import tensorflow_datasets as tfds

from hypergrid_jax.tasks.definitions import TaskDefinition

Metric = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, float]]


def text_preprocessors(task: TaskDefinition) -> list[Callable]:
  """Returns what turns a dataset of rows into `inputs` and `targets` texts.

  WSC is T5's simplified form: the referent of a marked pronoun is to be
  written. A row whose noun is not the referent cannot be trained on; the
  registry leaves such rows out of the training split.
  """
  if task.config == 'wsc':
    return [
      functools.partial(preprocessors.wsc_simple, correct_referent_only=False)
    ]
  to_text = glue_utils.get_glue_text_preprocessor(_builder_config(task))
  if task.config == 'axb':
    # AX-b is asked in RTE's words.
    renamed = {
      'premise': 'sentence1',
      'hypothesis': 'sentence2',
      'label': 'label',
      'idx': 'idx',
    }
    return [functools.partial(preprocessors.rekey, key_map=renamed), to_text]
  return [to_text]


def postprocessor(task: TaskDefinition) -> Callable:
  """Returns what turns a decoded prediction or target into a metric's input.

  For WSC, MultiRC and ReCoRD it also needs the example (`label`, `answers`,
  `idx/...`, `targets_pretokenized`).
  """
  if task.config == 'wsc':
    return postprocessors.wsc_simple
  return glue_utils.get_glue_postprocess_fn(_builder_config(task))


def metrics(task: TaskDefinition) -> list[Metric]:
  """Returns the task's metric functions, in percent.

  They take targets and predictions, both postprocessed and in the same order.
  Diagnostic tasks have none.
  """
  if task.config == 'wsc':
    return [t5_metrics.accuracy]
  return list(glue_utils.get_super_glue_metric(_builder_config(task).name))


def _builder_config(task: TaskDefinition) -> tfds.core.BuilderConfig:
  return tfds.builder_cls('super_glue').builder_configs[task.config]
