"""From decoded text to scores: per task, per average group, and the averages.

A task's metrics are the functions of its seqio task, called as seqio calls
them; for GLUE and SuperGLUE these are the `t5` package's own. This file imports
neither package: the task is handed in. All values are in percent, 0 to 100
(correlations -100 to 100).

Average groups (Raffel et al. 2020, arXiv:1910.10683, section 2.3): a task with
two metrics counts once, by their mean, and MNLI's two validation sets are one
group. GLUE has 8 groups (no WNLI, no AX), SuperGLUE 8 (no AX-b, no AX-g). Every
task of a user's own is a group, by the mean of its metrics.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, Protocol
import warnings

import numpy as np

from hypergrid_jax.data.tokens import TokenStore
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.task_definition import NO_TARGETS

Scores = Mapping[str, Mapping[str, float]]  # task name -> metric name -> value

_ACCURACY = ('accuracy',)
_F1_ACCURACY = ('f1', 'accuracy')
_CORRELATIONS = ('pearson_corrcoef', 'spearman_corrcoef')


def _values(task: str, metrics: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
  return tuple((task, metric) for metric in metrics)


GROUPS: dict[str, tuple[tuple[str, str], ...]] = {
  'glue/cola': _values('glue_cola', ('matthews_corrcoef',)),
  'glue/sst2': _values('glue_sst2', _ACCURACY),
  'glue/mrpc': _values('glue_mrpc', _F1_ACCURACY),
  'glue/stsb': _values('glue_stsb', _CORRELATIONS),
  'glue/qqp': _values('glue_qqp', _F1_ACCURACY),
  'glue/mnli': (
    *_values('glue_mnli_matched', _ACCURACY),
    *_values('glue_mnli_mismatched', _ACCURACY),
  ),
  'glue/qnli': _values('glue_qnli', _ACCURACY),
  'glue/rte': _values('glue_rte', _ACCURACY),
  'super_glue/boolq': _values('super_glue_boolq', _ACCURACY),
  'super_glue/cb': _values('super_glue_cb', ('mean_3class_f1', 'accuracy')),
  'super_glue/copa': _values('super_glue_copa', _ACCURACY),
  'super_glue/multirc': _values('super_glue_multirc', ('f1', 'exact_match')),
  'super_glue/record': _values('super_glue_record', ('f1', 'em')),
  'super_glue/rte': _values('super_glue_rte', _ACCURACY),
  'super_glue/wic': _values('super_glue_wic', _ACCURACY),
  'super_glue/wsc': _values('super_glue_wsc', _ACCURACY),
}

# The GLUE values of Karimi Mahabadi et al. 2021 (arXiv:2106.04489), whose MNLI
# score is the matched one. They average the 11 values as they are, so that
# MRPC, QQP and STS-B count twice; T5 would average the 8 groups.
AVG8: dict[str, tuple[tuple[str, str], ...]] = {
  group: tuple(value for value in values if value[0] != 'glue_mnli_mismatched')
  for group, values in GROUPS.items()
  if group.startswith('glue/')
}
AVG11 = tuple(value for values in AVG8.values() for value in values)

_SIZES = {'glue': 8, 'super_glue': 8}  # groups of each average

# Tasks of this package that belong to no group.
OUTSIDE = (
  'glue_mnli',
  'glue_wnli',
  'glue_ax',
  'super_glue_axb',
  'super_glue_axg',
)
_GROUPED = frozenset(task for values in GROUPS.values() for task, _ in values)


class MetricTask(Protocol):
  """A `seqio.Task`, as far as it turns text into scores."""

  name: str
  metric_fns: Sequence[Callable[..., Mapping[str, Any]]]
  predict_metric_fns: Sequence[Callable[..., Mapping[str, Any]]]

  def postprocess_fn(self, decoded_model_output: Any, **kwargs: Any) -> Any:
    """Reads a class, number or answer out of a text."""


def text(value: str | bytes) -> str:
  """Returns `value` as a string; bytes are read as UTF-8."""
  return value.decode('utf-8') if isinstance(value, bytes) else value


def target_text(example: Mapping[str, Any]) -> str:
  """Returns the example's target before tokenisation."""
  return text(example['targets_pretokenized'])


def labelled(examples: Sequence[Mapping[str, Any]]) -> bool:
  """Whether any of a split's rows has a target to be compared with.

  A public test set has none. Its metrics would mislead: an unreadable
  prediction (class -1) would count as right, for the missing label is -1 too.
  """
  return any(
    target_text(e) not in NO_TARGETS and e.get('label') != -1 for e in examples
  )


def postprocess(
  task: MetricTask,
  examples: Sequence[Mapping[str, Any]],
  predictions: Sequence[str],
) -> tuple[list[Any], list[Any]]:
  """Applies the task's postprocessor to targets and predictions.

  Args:
    task: its postprocessor reads the texts.
    examples: with 'targets_pretokenized' and what the postprocessor needs.
    predictions: decoded text of each example.

  Returns:
    Postprocessed targets and predictions, in the given order.

  Raises:
    ValueError: the two sequences differ in length.
  """
  targets = [
    task.postprocess_fn(target_text(e), example=e, is_target=True)
    for e in examples
  ]
  outputs = [
    task.postprocess_fn(p, example=e, is_target=False)
    for e, p in zip(examples, predictions, strict=True)
  ]
  return targets, outputs


def score(
  task: MetricTask, targets: list[Any], predictions: list[Any]
) -> dict[str, float]:
  """Computes the task's metrics of postprocessed targets and predictions.

  Args:
    task: its metric functions are called.
    targets: postprocessed targets.
    predictions: postprocessed predictions, as many.

  Returns:
    Metric name -> value, always finite: a correlation that is undefined (one
    example, or a constant side) is 0.0. What seqio only displays, such as
    `seqio.metrics.Text`, is left out.

  Raises:
    UserError: there is nothing to score, a metric function wants more than
      predictions, two of them give one name, or a value is not a number.
  """
  if not targets:
    raise UserError(
      f'{task.name}: no examples to score; the split is empty. Give it rows,'
      ' or leave the task out of the evaluation.'
    )
  if len(task.metric_fns) != len(task.predict_metric_fns):
    raise UserError(
      f'{task.name}: a metric function takes more than (targets,'
      ' predictions), and only predictions are made here. Leave metrics of'
      ' scores and auxiliary values out of the task.'
    )
  values: dict[str, float] = {}
  for metric_fn in task.predict_metric_fns:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # what is undefined becomes 0.0 below
      scores = metric_fn(targets, predictions)
    for name, value in scores.items():
      if _is_display(value):
        continue
      if name in values:
        raise UserError(
          f'{task.name}: two of its metric functions give {name!r}; rename'
          ' one of them.'
        )
      values[name] = _finite(task, name, value)
  return values


def _is_display(value: Any) -> bool:
  """Whether a value is a text, image or the like, for seqio's own loggers."""
  kinds = {(kind.__module__, kind.__name__) for kind in type(value).__mro__}
  is_metric = ('seqio.metrics', 'MetricValue') in kinds
  return is_metric and not hasattr(value, 'value')


def _finite(task: MetricTask, name: str, value: Any) -> float:
  """Returns a metric's value as a finite float; undefined is 0.0."""
  value = getattr(value, 'value', value)  # seqio.metrics.Scalar
  try:
    number = float(value)
  except (TypeError, ValueError):
    raise UserError(
      f'{task.name}: metric {name!r} is of type {type(value).__name__},'
      ' expected one number.'
    ) from None
  return number if math.isfinite(number) else 0.0


def task_metrics(
  task: MetricTask,
  examples: Sequence[Mapping[str, Any]],
  predictions: Sequence[str],
) -> dict[str, float]:
  """Computes the task's metrics of decoded predictions.

  Args:
    task: a seqio task.
    examples: the rows, with 'targets_pretokenized' and what the task's
      postprocessor needs.
    predictions: decoded text of each row.

  Returns:
    As `score`.

  Raises:
    UserError: as `score`.
  """
  return score(task, *postprocess(task, examples, predictions))


def example_verdict(
  task: MetricTask, target: Any, prediction: Any
) -> dict[str, bool | float]:
  """Judges one postprocessed prediction.

  Args:
    task: its metrics judge an example that has several right answers.
    target: postprocessed target.
    prediction: postprocessed prediction.

  Returns:
    {'correct': bool}: the two are the same class, number or text; or, where
    the target is a list of right answers or a mapping, and the task has
    metrics, {'score': mean of them on this example alone, in percent}.
  """
  expected, given = _unwrap(target), _unwrap(prediction)
  if isinstance(expected, list | Mapping):
    alone = score(task, [target], [prediction])
    if alone:
      return {'score': sum(alone.values()) / len(alone)}
  if isinstance(expected, np.ndarray) or isinstance(given, np.ndarray):
    return {'correct': bool(np.array_equal(expected, given))}
  return {'correct': bool(expected == given)}


def _unwrap(postprocessed: Any) -> Any:
  """Drops the grouping key that t5 keeps beside a value."""
  if isinstance(postprocessed, Mapping) and 'value' in postprocessed:
    return postprocessed['value']
  return postprocessed


def majority_target(store: TokenStore) -> str:
  """Returns the most frequent target text of a token store.

  Texts are counted by their token ids, without reading the rows; of equally
  frequent ones the first in the store counts.

  Raises:
    UserError: the store is empty.
  """
  if not store.num_examples:
    raise UserError(
      'a training split without rows has no most frequent target; give it'
      ' rows or leave its task out.'
    )
  lengths, starts = store.target_lengths, store.target_offsets[:-1]
  candidates = []  # (minus the frequency, first example), per length
  for length in np.unique(lengths):
    examples = np.flatnonzero(lengths == length)
    positions = starts[examples, None] + np.arange(length)
    _, first, counts = np.unique(
      store.target_tokens[positions],
      axis=0,
      return_index=True,
      return_counts=True,
    )
    candidates += zip(-counts, examples[first], strict=True)
  _, first = min(candidates)
  return target_text(store.example(int(first)))


def majority_baseline(
  task: MetricTask, examples: Sequence[Mapping[str, Any]], target: str
) -> dict[str, float]:
  """Scores the constant prediction `target` with the task's own metrics."""
  return task_metrics(task, examples, [target] * len(examples))


def group_scores(scores: Scores) -> dict[str, float]:
  """Averages within each average group.

  Args:
    scores: task name -> metric name -> value.

  Returns:
    Group name ('glue/mrpc') -> mean of its values, for the groups of `GROUPS`
    of which every value is there, in the order of `GROUPS`; then name of a
    user's own task -> mean of its metrics, for those that have any.
  """
  means = {group: _mean(scores, values) for group, values in GROUPS.items()}
  means |= {
    name: _mean(scores, _values(name, tuple(values)))
    for name, values in scores.items()
    if values and name not in _GROUPED and name not in OUTSIDE
  }
  return {group: mean for group, mean in means.items() if mean is not None}


def _mean(scores: Scores, values: Sequence[tuple[str, str]]) -> float | None:
  """Returns the mean of (task, metric) values, None when one is missing."""
  numbers = [scores.get(task, {}).get(metric) for task, metric in values]
  return None if None in numbers else sum(numbers) / len(numbers)


def groups_of_averages(scores: Scores) -> dict[str, tuple[str, ...]]:
  """Returns the groups behind each of `averages`, under the same names.

  An average under its own name has all of its groups. Those of avg8 and avg11
  are GLUE's.
  """
  everything = tuple(group_scores(scores))
  there = tuple(group for group in everything if group in GROUPS)
  benchmarks = {
    name: tuple(group for group in there if group.startswith(f'{name}/'))
    for name in _SIZES
  }
  result = {
    name if len(groups) == _SIZES[name] else f'{name}_partial': groups
    for name, groups in benchmarks.items()
    if groups
  }
  if len(result) == len(benchmarks):
    whole = len(there) == len(GROUPS)
    result['glue_super_glue' if whole else 'glue_super_glue_partial'] = there
  if _mean(scores, AVG11) is not None:
    result['avg11'] = result['avg8'] = tuple(AVG8)
  if len(everything) > len(there):
    result['all'] = everything
  return result


def averages(scores: Scores) -> dict[str, float]:
  """Averages over groups.

  Args:
    scores: task name -> metric name -> value.

  Returns:
    'glue' and 'super_glue', means over 8 groups; 'glue_super_glue', mean over
    the 16; 'avg11', HyperFormer's plain mean of 11 GLUE values, and 'avg8', the
    same values averaged over GLUE's 8 groups. An average is there under its
    name only when all its values are. With some of its groups the mean over
    those is called 'glue_partial', 'super_glue_partial' or
    'glue_super_glue_partial' (`groups_of_averages` has the groups), the last
    only with groups of both benchmarks; avg8 and avg11 have no partial form.
    With tasks of a user's own, 'all' is the mean over every group that is
    there.
  """
  means = group_scores(scores)
  special = {
    'avg11': [_mean(scores, AVG11)],
    'avg8': [_mean(scores, values) for values in AVG8.values()],
  }
  result = {}
  for name, groups in groups_of_averages(scores).items():
    values = special.get(name) or [means[group] for group in groups]
    result[name] = sum(values) / len(values)
  return result
