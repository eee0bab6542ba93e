"""A checkpoint of ours in memory, with all that tells what it computes."""

from collections.abc import Mapping
import dataclasses
import os
import typing
from typing import Any

import jax
import numpy as np

from hypergrid_jax import errors, trees
from hypergrid_jax.checkpoints import reader as reader_lib
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import run_files
from hypergrid_jax.model import Model
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.prediction import loaded_model

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class Trained:
  """Parameters and what belongs to them.

  Attributes:
    model: the architecture, in float32.
    method: as in `RunConfig`.
    params: NumPy arrays by path.
    step: of the checkpoint.
    task_ids: of the tasks that have one, by name; empty for a plain import.
    owners: every task that the model knows, and whose id it has.
    vocabulary: as in `DataConfig`; None for a plain import.
    vocabulary_rows: rows that belong to tokens, where that is known.
  """

  model: Model
  method: Any
  params: dict[str, np.ndarray]
  step: int
  task_ids: Mapping[str, int]
  owners: Mapping[str, str]
  vocabulary: str | None
  vocabulary_rows: int | None

  def task_id(self, task: str) -> int:
    """The id of a task.

    Raises:
      UserError: the model does not know it.
    """
    if task not in self.owners:
      raise UserError(
        f'The model has no task {task!r}.'
        f'{errors.closest(task, self.owners)} It has'
        f' {", ".join(self.owners) or "none"}.'
      )
    return self.task_ids[self.owners[task]]


def load(
  run: 'RunConfig | None',
  model_dir: str | os.PathLike[str],
  *,
  step: int | str = 'best',
) -> Trained:
  """Reads the parameters of one checkpoint.

  Args:
    run: the run's own configuration; None for a directory that was imported
      without one.
    model_dir: the directory.
    step: a step number or 'best'.

  Raises:
    UserError: there is no such checkpoint, or it is damaged.
  """
  reader = reader_lib.CheckpointReader(model_dir)
  (number,) = reader_lib.named_steps(reader, step)
  meta = reader.meta(number) or {}
  method = vocabulary = None
  task_ids: Mapping[str, int] = {}
  owners: dict[str, str] = {}
  if run is None:
    if 'model' not in meta:
      raise UserError(
        f'{model_dir} holds neither a run (run.json) nor what `hypergrid'
        ' import` writes.'
      )
    model = Model(_in_float32(_config(meta['model'])))
  else:
    run = dataclasses.replace(run, model=_in_float32(run.model))
    trained = loaded_model.read_run(run, model_dir)
    owners = {name: task.trained_as for name, task in trained.tasks.items()}
    task_ids = trained.task_ids
    model = run_files.model_of(run, directory=str(model_dir))
    method, vocabulary = run.method, run.data.vocabulary
  return Trained(
    model,
    method,
    read_params(reader, model, number),
    number,
    task_ids,
    owners,
    vocabulary,
    meta.get('vocabulary_rows'),
  )


def read_params(
  reader: reader_lib.CheckpointReader, model: Model, step: int
) -> dict[str, np.ndarray]:
  """The parameters of a checkpoint, by path.

  Raises:
    UserError: it is damaged or of another model.
  """
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  wanted = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
    model.abstract_params,
  )
  found = reader.restore_params(wanted, step)
  assert found is not None, 'the step is there'
  return {
    path: np.asarray(leaf) for path, leaf in trees.flatten(found[0]).items()
  }


def _config(fields: Mapping[str, Any]) -> T5Config:
  activations = tuple(fields['mlp_activations'])  # JSON has made a list of it
  return T5Config(**{**fields, 'mlp_activations': activations})


def _in_float32(config: T5Config) -> T5Config:
  return dataclasses.replace(config, dtype='float32')
