"""A trained model, ready to predict rows of any mix of its tasks.

Neither the data of the run nor its token stores are needed. Rows given as
fields go through the task's own preprocessors, which load TensorFlow; formatted
text does not.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import typing
from typing import Any

import jax
import numpy as np

from hypergrid_jax import errors
from hypergrid_jax.checkpoints import layout, reader
from hypergrid_jax.evaluation import predictor
from hypergrid_jax.prediction import requests
from hypergrid_jax.prediction.requests import Row
from hypergrid_jax.runs import directory as directory_lib
from hypergrid_jax.runs import setup
from hypergrid_jax.tasks import task_files, tensorflow_guard, vocabularies
from hypergrid_jax.tasks.task_definition import TaskDefinition

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """What is known of a trained run without reading its parameters.

  Attributes:
    run: the configuration.
    directory: the run's directory.
    task_ids: name of a trained task -> its id in the model.
    tasks: the tasks that the model knows, by name.
    vocabulary: fingerprint of the vocabulary that it was trained with.
  """

  run: 'RunConfig'
  directory: pathlib.Path
  task_ids: Mapping[str, int]
  tasks: Mapping[str, TaskDefinition]
  vocabulary: str


def read_run(run: 'RunConfig', model_dir: str | os.PathLike[str]) -> TrainedRun:
  """Reads run.json and the run's task files.

  Args:
    run: the run's own configuration.
    model_dir: the run's directory.

  Raises:
    UserError: there is no run, or a task file of it cannot be read.
  """
  identity = directory_lib.read_facts(model_dir)['identity']
  for name in ('task_ids', 'vocabulary'):
    if name not in identity:
      raise errors.UserError(
        f'{pathlib.Path(model_dir, "run.json")} lacks identity.{name}; the file'
        ' was not written by `hypergrid train`.'
      )
  task_files.load(run.data.task_files, cache=setup.token_dir(run, model_dir))
  task_ids = identity['task_ids']
  return TrainedRun(
    run=run,
    directory=pathlib.Path(model_dir),
    task_ids=task_ids,
    tasks=requests.known_tasks(task_ids),
    vocabulary=identity['vocabulary'],
  )


class LoadedModel:
  """A model with the parameters of one checkpoint.

  Attributes:
    params: the parameters, a nested dict of arrays.
    step: step of the checkpoint.
    fingerprint: tells different checkpoints and settings apart.
    tasks: the tasks it knows, by name.
    max_decode_length: tokens of a prediction at most, end of sequence included.
    batch_size: rows that are decoded at once.
  """

  def __init__(self, trained: TrainedRun, *, step: int | str = 'best'):
    """Reads a checkpoint.

    Args:
      trained: the run.
      step: a step number, 'best' or 'best:TASK'.

    Raises:
      UserError: there is no such checkpoint, or the configuration is not that
        of the run.
    """
    run = setup.on_these_devices(trained.run)
    vocabulary = vocabularies.load_vocabulary(run.data.vocabulary)
    if vocabulary.fingerprint != trained.vocabulary:
      raise errors.UserError(
        f'The vocabulary {vocabulary.spec} is not the one that this run was'
        ' trained with: their contents differ. Name that one with --vocab.'
      )
    self._run, self._vocabulary = run, vocabulary
    self._task_ids, self.tasks = trained.task_ids, trained.tasks
    built = setup.build(run, vocabulary.size, num_tasks=len(trained.task_ids))
    checkpoints = reader.CheckpointReader(trained.directory)
    (self.step,) = reader.named_steps(checkpoints, step)
    self._mesh = built.mesh
    with jax.set_mesh(built.mesh):
      self.params, _ = checkpoints.restore_params(built.params, self.step)
    self.fingerprint = _fingerprint(run, checkpoints.directory, self.step)
    self.batch_size = run.evaluate.batch_size
    self.max_decode_length = _max_decode_length(
      run, trained.directory, self.step
    )
    self._predictor = predictor.Predictor(
      built.model,
      self.params,
      vocabulary,
      self.batch_size,
      self.max_decode_length,
      run.evaluate.length_buckets,
      built.batch_sharding,
    )

  def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Predicts rows of any of the model's tasks, in any mix.

    Args:
      rows: objects with `task`, either `fields` or `inputs`, and `id` if
        wanted; see `requests`. The id of a row without is its position.

    Returns:
      For each row, in order: `id`, `task`, `inputs` (the formatted text),
      `prediction`, and `label` or `score` where the prediction is one.

    Raises:
      UserError: a row is not as described; with its position.
    """
    checked = [
      requests.parse(values, self.tasks, number=number, where=f'row {number}')
      for number, values in enumerate(rows)
    ]
    return self.answers(checked, self.inputs(checked))

  def answers(
    self, rows: Sequence[Row], inputs: Sequence[tuple[str, np.ndarray]]
  ) -> list[dict[str, Any]]:
    """Returns what `predict` does, for rows whose inputs are made.

    Args:
      rows: checked rows.
      inputs: their `inputs`.
    """
    texts = self.texts([row.task for row in rows], [ids for _, ids in inputs])
    return [
      requests.answer(row, text, prediction)
      for row, (text, _), prediction in zip(rows, inputs, texts, strict=True)
    ]

  def inputs(self, rows: Sequence[Row]) -> list[tuple[str, np.ndarray]]:
    """Returns the inputs of rows: text, and ids [L] int32.

    Raises:
      UserError: a task's preprocessors cannot make inputs of a row.
    """
    inputs: dict[int, tuple[str, np.ndarray]] = {}
    unformatted: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
      if row.text is None:
        unformatted.setdefault(row.task.name, []).append(index)
      else:
        inputs[index] = row.text, self._ids(row.text)
    if unformatted:
      with tensorflow_guard.loading_tensorflow():
        from hypergrid_jax.tasks.seqio import given_rows
      for name, indices in unformatted.items():
        make = functools.partial(
          given_rows.inputs,
          name,
          vocabulary=self._run.data.vocabulary,
          lengths=self._run.data.lengths,
          task_prefix=self._run.data.task_prefix,
        )
        made = _formatted(make, [rows[index] for index in indices])
        inputs |= zip(indices, made, strict=True)
    return [inputs[index] for index in range(len(rows))]

  def texts(
    self, tasks: Sequence[TaskDefinition], inputs: Sequence[np.ndarray]
  ) -> list[str]:
    """Returns the texts that the model predicts.

    Args:
      tasks: the task of each input.
      inputs: ids of each input, [L] int32, with end of sequence.
    """
    groups: dict[tuple[str, ...] | None, list[int]] = {}
    for index, task in enumerate(tasks):
      rank = self._run.evaluate.scoring == 'rank'
      groups.setdefault(task.labels if rank else None, []).append(index)
    texts = [''] * len(inputs)
    for labels, indices in groups.items():
      task_ids = [self._task_ids[tasks[i].trained_as] for i in indices]
      with jax.set_mesh(self._mesh):
        predictions = self._predictor.texts(
          [inputs[i] for i in indices], np.array(task_ids), labels=labels
        )
      for index, text in zip(indices, predictions, strict=True):
        texts[index] = text
    return texts

  def _ids(self, text: str) -> np.ndarray:
    # As seqio's append_eos_after_trim does it.
    limit = self._run.data.inputs_length - 1
    ids = self._vocabulary.encode(text)[:limit]
    return np.array([*ids, self._vocabulary.eos_id], np.int32)


def _formatted(
  make: Callable[[Sequence[Any]], list[tuple[str, np.ndarray]]],
  rows: Sequence[Row],
) -> list[tuple[str, np.ndarray]]:
  """Makes inputs of all rows at once; when that fails, finds the row."""
  try:
    return make([row.fields for row in rows])
  except errors.UserError as error:
    if len(rows) == 1:
      raise errors.UserError(f'{rows[0].where}: {error}') from error
  half = len(rows) // 2
  return _formatted(make, rows[:half]) + _formatted(make, rows[half:])


def _fingerprint(run: 'RunConfig', directory: pathlib.Path, step: int) -> str:
  """Hashes what predictions follow from: parameters, lengths, task files."""
  digest = hashlib.sha256()
  paths = [directory / str(step) / layout.MANIFEST]
  paths += [pathlib.Path(name) for name in run.data.task_files]
  for path in paths:
    digest.update(path.read_bytes() if path.is_file() else bytes(path))
  data, scoring = run.data, run.evaluate.scoring
  settings = data.lengths, data.task_prefix, scoring
  digest.update(repr(settings).encode())
  return digest.hexdigest()


def _max_decode_length(
  run: 'RunConfig', directory: pathlib.Path, step: int
) -> int:
  """As long as in the step's evaluation, so that predictions equal its own."""
  if run.evaluate.max_decode_length is not None:
    return run.evaluate.max_decode_length
  try:
    content = (directory / 'eval' / f'{step}.json').read_bytes()
    return int(json.loads(content)['max_decode_length'])
  except (OSError, ValueError, KeyError, TypeError):
    return run.data.targets_length + predictor.DECODE_MARGIN
