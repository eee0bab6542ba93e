"""A trained model, ready to predict rows of any mix of its tasks.

Neither the data of the run nor its token stores are needed. Rows given as
fields go through the task's own preprocessors, which load TensorFlow; formatted
text does not.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from hypergrid_jax import errors
from hypergrid_jax.checkpoints import manifest, reader
from hypergrid_jax.data import tokens
from hypergrid_jax.evaluation.predictor import Predictor
from hypergrid_jax.prediction import requests
from hypergrid_jax.prediction.requests import Row
from hypergrid_jax.runs import directory as directory_lib
from hypergrid_jax.runs import setup
from hypergrid_jax.tasks import task_files, tensorflow_guard, vocabularies
from hypergrid_jax.tasks.task_definition import TaskDefinition

# Room for predictions longer than the targets a run was configured for.
_DECODE_MARGIN = 8


class LoadedModel:
  """A model with the parameters of one checkpoint.

  Attributes:
    params: the parameters, a nested dict of arrays.
    step: of the checkpoint.
    fingerprint: tells different checkpoints and settings apart.
    tasks: the tasks it knows, by name.
    max_decode_length: tokens of a prediction at most, end of sequence included.
    batch_size: rows that are decoded at once.
  """

  def __init__(
    self,
    run: setup.Run,
    model_dir: str | os.PathLike[str],
    *,
    step: int | str = 'best',
  ):
    """Reads a checkpoint.

    Args:
      run: the run's own configuration.
      model_dir: the run's directory.
      step: a step number, 'best' or 'best:TASK'.

    Raises:
      UserError: there is no such checkpoint, or the configuration is not that
        of the run.
    """
    self._run = run = setup.on_these_devices(run)
    identity = _identity(model_dir)
    self._task_ids = identity['task_ids']
    self.tasks = tasks_of_run(run, model_dir)
    self._vocabulary = _vocabulary(run, identity['vocabulary'])
    built = setup.build(
      run, self._vocabulary.size, num_tasks=len(self._task_ids)
    )
    self._mesh = built.mesh
    checkpoints = reader.CheckpointReader(model_dir)
    (self.step,) = reader.named_steps(checkpoints, step)
    with jax.set_mesh(self._mesh):
      self.params, _ = checkpoints.restore_params(built.params, self.step)
    self.fingerprint = _fingerprint(run, checkpoints.directory, self.step)
    self.batch_size = run.evaluate.batch_size
    self.max_decode_length = _max_decode_length(run, model_dir, self.step)
    self._predictor = Predictor(
      built.model,
      self.params,
      self._vocabulary,
      self.batch_size,
      self.max_decode_length,
      run.evaluate.length_buckets,
      built.batch_sharding,
    )

  def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Predicts rows of any of the model's tasks, in any mix.

    Args:
      rows: objects with `task`, either `fields` or `inputs`, and `id` if
        wanted; see `prediction_rows`. The id of a row without is its position.

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
    inputs = self.inputs(checked)
    texts = self.texts(checked, [ids for _, ids in inputs])
    return [
      requests.answer(row, text, prediction)
      for row, (text, _), prediction in zip(checked, inputs, texts, strict=True)
    ]

  def inputs(self, rows: Sequence[Row]) -> list[tuple[str, np.ndarray]]:
    """Returns the inputs of rows: text, and ids [L] int32.

    Raises:
      UserError: a task's preprocessors cannot make inputs of a row.
    """
    found: dict[int, tuple[str, np.ndarray]] = {}
    unformatted: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
      if row.text is None:
        unformatted.setdefault(row.task.name, []).append(place)
      else:
        found[place] = row.text, self._ids(row.text)
    if unformatted:
      with tensorflow_guard.loading_tensorflow():
        from hypergrid_jax.tasks.seqio import given_rows
      for name, places in unformatted.items():
        make = functools.partial(
          given_rows.inputs,
          name,
          vocabulary=self._run.data.vocabulary,
          lengths=self._run.data.lengths,
          task_prefix=self._run.data.task_prefix,
        )
        made = _formatted(make, [rows[place] for place in places])
        found |= zip(places, made, strict=True)
    return [found[place] for place in range(len(rows))]

  def texts(
    self, rows: Sequence[Row], inputs: Sequence[np.ndarray]
  ) -> list[str]:
    """Returns the predictions of rows.

    Args:
      rows: for their tasks.
      inputs: ids of each row's inputs, [L] int32.
    """
    if not rows:
      return []
    groups: dict[tuple[str, ...] | None, list[int]] = {}
    for place, row in enumerate(rows):
      rank = self._run.evaluate.scoring == 'rank'
      groups.setdefault(row.task.labels if rank else None, []).append(place)
    found: dict[int, str] = {}
    for labels, places in groups.items():
      ids = [inputs[place] for place in places]
      task_ids = [self._task_ids[rows[p].task.trained_as] for p in places]
      with jax.set_mesh(self._mesh):
        texts = self._predictor.texts(
          tokens.memory_store('rows', 'given', ids, [()] * len(ids)),
          count=len(ids),
          task_id=np.array(task_ids, np.int32),
          labels=labels,
        )
      found |= zip(places, texts, strict=True)
    return [found[place] for place in range(len(rows))]

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


def tasks_of_run(
  run: setup.Run, model_dir: str | os.PathLike[str]
) -> dict[str, TaskDefinition]:
  """Returns the tasks that a run's model knows, by name.

  Raises:
    UserError: there is no run, or a task file of it cannot be read.
  """
  identity = _identity(model_dir)
  directory = setup.token_dir(run, model_dir)
  task_files.load(run.data.task_files, cache=directory)
  return requests.known_tasks(identity['task_ids'])


def _identity(model_dir: str | os.PathLike[str]) -> Mapping[str, Any]:
  """What run.json says of the run's tasks and vocabulary."""
  identity = directory_lib.read_facts(model_dir)['identity']
  for name in ('task_ids', 'vocabulary'):
    if name not in identity:
      raise errors.UserError(
        f'{pathlib.Path(model_dir, "run.json")} lacks identity.{name}; the file'
        ' was not written by `hypergrid train`.'
      )
  return identity


def _vocabulary(run: setup.Run, fingerprint: str):
  """Loads the vocabulary, if it is the one that the run was trained with."""
  vocabulary = vocabularies.load_vocabulary(run.data.vocabulary)
  if vocabulary.fingerprint != fingerprint:
    raise errors.UserError(
      f'The vocabulary {vocabulary.spec} is not the one that this run was'
      ' trained with: their contents differ. Name that one with --vocab.'
    )
  return vocabulary


def _fingerprint(run: setup.Run, directory: pathlib.Path, step: int) -> str:
  """Hashes what predictions follow from: parameters, lengths, task files."""
  digest = hashlib.sha256()
  paths = [directory / str(step) / manifest.NAME]
  paths += [pathlib.Path(name) for name in run.data.task_files]
  for path in paths:
    digest.update(path.read_bytes() if path.is_file() else bytes(path))
  data, scoring = run.data, run.evaluate.scoring
  settings = data.lengths, data.task_prefix, scoring
  digest.update(repr(settings).encode())
  return digest.hexdigest()


def _max_decode_length(
  run: setup.Run, model_dir: str | os.PathLike[str], step: int
) -> int:
  """As long as in the step's evaluation, so that predictions equal its own."""
  if run.evaluate.max_decode_length is not None:
    return run.evaluate.max_decode_length
  try:
    path = pathlib.Path(model_dir, 'eval', f'{step}.json')
    return int(json.loads(path.read_bytes())['max_decode_length'])
  except (OSError, ValueError, KeyError, TypeError):
    return run.data.targets_length + _DECODE_MARGIN
