"""Evaluation: predict every example, score the texts, write both down."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any, Literal

import jax

from hypergrid_jax import types
from hypergrid_jax.data.tokens import TokenStore
from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.evaluation import metrics, prediction_files
from hypergrid_jax.evaluation.predictor import DECODE_MARGIN, Predictor
from hypergrid_jax.evaluation.results import Results, TaskResult
from hypergrid_jax.model import Model
from hypergrid_jax.tasks.task_definition import TaskDefinition
from hypergrid_jax.tasks.vocabularies import Vocabulary

_SPLITS = ('validation', 'test', 'train')

# Called with (task, examples done, examples in all); both counts run over all
# tasks of the evaluation.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """How to evaluate.

  Attributes:
    batch_size: rows decoded at once, the same for every length.
    limit: examples per task, from the start of the split; None for all.
    max_decode_length: tokens of a prediction at most, end of sequence
      included; None takes the longest target of the evaluated splits and 8
      more.
    split: 'validation', 'test' or 'train'.
    length_buckets: row lengths in tokens, increasing. Each one that occurs is
      compiled once; a batch has the shortest that holds its longest example.
      Longer ones go into the next multiple of the last.
    scoring: 'greedy' decodes text; 'rank' takes the likeliest label of tasks
      with a closed set of labels, so that no prediction is invalid, and decodes
      the others.

  Raises:
    UserError: a field has a value that cannot be used.
  """

  batch_size: int = 64
  limit: int | None = None
  max_decode_length: int | None = None
  split: str = 'validation'
  length_buckets: tuple[int, ...] = (32, 64, 96, 128, 192, 256, 384, 512)
  scoring: Literal['greedy', 'rank'] = 'greedy'

  def __post_init__(self):
    _check_count('batch_size', self.batch_size)
    for field in ('limit', 'max_decode_length'):
      if getattr(self, field) is not None:
        _check_count(field, getattr(self, field))
    for field, choices in (
      ('split', _SPLITS),
      ('scoring', ('greedy', 'rank')),
    ):
      value = getattr(self, field)
      if value not in choices:
        raise UserError(
          f'evaluate.{field} is {value!r}; expected one of'
          f' {", ".join(map(repr, choices))}.{closest(str(value), choices)}'
        )
    buckets = self.length_buckets
    if isinstance(buckets, list):
      buckets = tuple(buckets)
      object.__setattr__(self, 'length_buckets', buckets)
    if (
      not isinstance(buckets, tuple)
      or not buckets
      or not all(type(length) is int and length > 0 for length in buckets)
      or list(buckets) != sorted(set(buckets))
    ):
      raise UserError(
        f'evaluate.length_buckets is {buckets!r}; expected increasing whole'
        ' numbers of tokens, such as (64, 128, 256, 512).'
      )


def _check_count(field: str, value: Any):
  if type(value) is not int or value < 1:
    raise UserError(
      f'evaluate.{field} is {value!r}; expected a whole number of at least 1.'
    )


@dataclasses.dataclass(frozen=True)
class _Job:
  """One task to evaluate; all that can be wrong with it has been checked."""

  definition: TaskDefinition
  split: str
  store: TokenStore
  count: int  # examples to predict, from the first
  task_id: int
  metric_task: metrics.MetricTask


def evaluate(
  model: Model,
  params: types.Params,
  *,
  stores: Sequence[tuple[TaskDefinition, str, TokenStore]],
  vocabulary: Vocabulary,
  task_ids: Mapping[str, int],
  seqio_task: Callable[[str], metrics.MetricTask],
  step: int,
  directory: str | os.PathLike[str],
  config: EvaluateConfig,
  majority_targets: Mapping[str, str] | None = None,
  batch_sharding: jax.sharding.NamedSharding | None = None,
  progress: Progress | None = None,
) -> Results:
  """Evaluates one set of parameters on many tasks.

  Writes `predictions/<step>/<task>.jsonl` and then `eval/<step>.json`, each
  whole or not at all. Of several processes, which all call this, one writes.

  Args:
    model: the architecture.
    params: its parameters.
    stores: (task definition, split, token store), each task once.
    vocabulary: turns ids into text.
    task_ids: name of a trained task -> its id in the model.
    seqio_task: name -> seqio task, for its postprocessor and metric functions.
    step: optimiser steps behind `params`.
    directory: the run's directory.
    config: how to evaluate.
    majority_targets: name of a trained task -> its most frequent training
      target (`metrics.majority_target`); tasks without one get no baseline.
    batch_sharding: see `Predictor`.
    progress: called after every batch.

  Raises:
    UserError: a task is none of the model's, a split is empty, a metric cannot
      be computed, or a file cannot be written.
    ValueError: a task is given twice, or none is given.
  """
  jobs = [_job(*store, task_ids, seqio_task, config) for store in stores]
  names = [job.definition.name for job in jobs]
  if not jobs or len(set(names)) < len(names):
    raise ValueError(f'expected every task once, got {names}')
  # One decoding length for all tasks, so that each bucket compiles once.
  longest = max(int(job.store.target_lengths.max()) for job in jobs)
  length = config.max_decode_length or longest + DECODE_MARGIN
  predictor = Predictor(
    model,
    params,
    vocabulary,
    config.batch_size,
    length,
    config.length_buckets,
    batch_sharding,
  )
  total = sum(job.count for job in jobs)
  results: dict[str, TaskResult] = {}
  for job in jobs:
    name = job.definition.name
    done = sum(result.count for result in results.values())

    def report(more: int, name: str = name, done: int = done):
      if progress:
        progress(name, done + more, total)

    texts = predictor.texts(
      [job.store.inputs(index) for index in range(job.count)],
      job.task_id,
      labels=job.definition.labels if config.scoring == 'rank' else None,
      progress=report,
    )
    results[name], rows = _judge(job, texts, majority_targets or {}, config)
    if jax.process_index() == 0:
      folder = pathlib.Path(directory, 'predictions', str(step))
      prediction_files.write_predictions(folder / f'{name}.jsonl', rows)
  outcome = Results(step, results, length, config.scoring)
  if jax.process_index() == 0:
    outcome.write(pathlib.Path(directory, 'eval', f'{step}.json'))
  return outcome


def _job(
  definition: TaskDefinition,
  split: str,
  store: TokenStore,
  task_ids: Mapping[str, int],
  seqio_task: Callable[[str], metrics.MetricTask],
  config: EvaluateConfig,
) -> _Job:
  """Checks one task before anything is decoded."""
  name, trained_as = definition.name, definition.trained_as
  if trained_as not in task_ids:
    under = '' if name == trained_as else f' (it goes by {trained_as})'
    raise UserError(
      f'{name}{under} is none of the tasks this model was trained on:'
      f' {", ".join(task_ids)}.{closest(trained_as, task_ids)} Leave it out of'
      ' the evaluation, or train with it.'
    )
  if not store.num_examples:
    raise UserError(
      f'{name}/{split}: the split is empty. Give it rows, or leave the task out'
      ' of the evaluation.'
    )
  count = min(config.limit or store.num_examples, store.num_examples)
  task_id = task_ids[trained_as]
  return _Job(definition, split, store, count, task_id, seqio_task(name))


def _judge(
  job: _Job,
  texts: list[str],
  majority_targets: Mapping[str, str],
  config: EvaluateConfig,
) -> tuple[TaskResult, list[dict[str, Any]]]:
  """Scores one task's predictions.

  Returns:
    The task's result and its rows for the prediction file.
  """
  task, labels = job.metric_task, job.definition.labels
  examples = [job.store.example(i) for i in range(job.count)]
  labelled = metrics.labelled(examples)
  values, majority = {}, None
  verdicts: list[dict[str, bool | float]] = [{}] * job.count
  if labelled:
    targets, outputs = metrics.postprocess(task, examples, texts)
    values = metrics.score(task, targets, outputs)
    if job.definition.trained_as in majority_targets:
      target = majority_targets[job.definition.trained_as]
      majority = metrics.majority_baseline(task, examples, target)
    verdicts = [
      metrics.example_verdict(task, target, output)
      for target, output in zip(targets, outputs, strict=True)
    ]
  result = TaskResult(
    split=job.split,
    count=job.count,
    metrics=values,
    majority=majority,
    limit=config.limit,
    invalid_rate=labels and sum(x not in labels for x in texts) / job.count,
  )
  rows = [
    {
      'id': prediction_files.example_id(example, i),
      'inputs': metrics.text(example['inputs_pretokenized']),
      'target': metrics.target_text(example) if labelled else None,
      'prediction': texts[i],
      **verdicts[i],
    }
    for i, example in enumerate(examples)
  ]
  return result, rows
