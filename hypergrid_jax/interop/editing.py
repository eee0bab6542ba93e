"""Tasks added to a trained model and removed from it; checkpoints averaged.

What is written is a run directory at step 0 with parameters alone: the
optimiser's state is dropped. Parameters of a task are those with a `tasks`
axis, whatever the method.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import typing
from typing import Any

import jax
import numpy as np
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import errors, files, trees
from hypergrid_jax.checkpoints import reader as reader_lib
from hypergrid_jax.checkpoints import streaming
from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import importing, run_files, trained
from hypergrid_jax.model import Model
from hypergrid_jax.runs import datasets

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class Edit:
  """What is to be changed.

  Attributes:
    add: names of tasks to add after the others.
    like: a task of the model whose parameters the new ones start from; None
      draws them as those of a new run.
    remove: names of tasks to remove.
    average: steps whose parameters are averaged; empty takes one step.
    step: that one, a number or 'best'.
  """

  add: tuple[str, ...] = ()
  like: str | None = None
  remove: tuple[str, ...] = ()
  average: tuple[int, ...] = ()
  step: int | str = 'best'


def edit(
  run: 'RunConfig',
  model_dir: str | os.PathLike[str],
  target: str | os.PathLike[str],
  change: Edit,
  *,
  config_text: Any,
  console: Console,
) -> None:
  """Writes a changed copy of a run's checkpoint.

  Args:
    run: the run's own configuration.
    model_dir: the run.
    target: the directory to make.
    change: what to change.
    config_text: `(run) -> text` of the operative configuration.
    console: for what a person sees.

  Raises:
    UserError: a task is not there or there already, no such checkpoint, or the
      data of the changed run cannot be read. Nothing is written.
  """
  files.check_is_free(target)
  model = run_files.model_of(run, directory=str(model_dir))
  old_tasks = datasets.task_names(run.data.mixture)
  mixture = changed_mixture(tuple(old_tasks), run.data.mixture, change)
  data = dataclasses.replace(run.data, mixture=mixture)
  new_run = dataclasses.replace(run, data=data)
  new_model = run_files.model_of(new_run, directory=str(model_dir))
  old_ids = datasets.task_ids(run.data.mixture)
  new_ids = datasets.task_ids(mixture)
  reader = reader_lib.CheckpointReader(model_dir)
  params = averaged(reader, model, change)
  params = moved(
    params,
    new_model,
    sources(old_ids, new_ids, like=change.like),
    seed=run.train.seed,
  )
  leaves = {p: streaming.of_array(v) for p, v in params.items()}
  with files.new_directory(target) as directory:
    run_files.write(new_run, directory, config_text(new_run), console=console)
    importing.write(directory, leaves, {}, console=console)
  added = [name for name in new_ids if name not in old_ids]
  gone = [name for name in old_ids if name not in new_ids]
  console_lib.say(
    console,
    f'Wrote {target}: {len(new_ids)} tasks, added {", ".join(added) or "none"},'
    f' removed {", ".join(gone) or "none"}; parameters of'
    f' {", ".join(map(str, change.average)) or change.step}, no optimiser'
    ' state.',
  )


def changed_mixture(
  tasks: Sequence[str], mixture: str | tuple[str, ...], change: Edit
) -> str | tuple[str, ...]:
  """The mixture with tasks added at the end and others left out.

  Raises:
    UserError: a task is there already, is not there, or none would be left.
  """
  if not change.add and not change.remove:
    return mixture
  for name in change.remove:
    if name not in tasks:
      raise UserError(
        f'The run has no task {name!r} to remove.{errors.closest(name, tasks)}'
        f' It has {", ".join(tasks)}.'
      )
  kept = tuple(name for name in tasks if name not in change.remove)
  for name in change.add:
    if name in tasks:
      raise UserError(f'The run has the task {name!r} already.')
  if not kept and not change.add:
    raise UserError('No task would be left.')
  return kept + change.add


def sources(
  old: Mapping[str, int], new: Mapping[str, int], *, like: str | None
) -> list[int | None]:
  """For each new task id the old one it continues; None for a fresh start.

  Raises:
    UserError: `like` is no task with an id.
  """
  if like is not None and like not in old:
    raise UserError(
      f'The run has no task {like!r} to start from.'
      f'{errors.closest(like, old)} It has {", ".join(old)}.'
    )
  start = None if like is None else old[like]
  return [old.get(name, start) for name in new]


def averaged(
  reader: reader_lib.CheckpointReader, model: Model, change: Edit
) -> dict[str, np.ndarray]:
  """The mean of the parameters of several checkpoints, or those of one.

  Sums are in float64, so that equal parameters stay as they are.

  Raises:
    UserError: a checkpoint is missing or damaged.
  """
  steps = [
    number
    for step in change.average or (change.step,)
    for number in reader_lib.named_steps(reader, step)
  ]
  total = trained.read_params(reader, model, steps[0])
  if len(steps) == 1:
    return total
  dtypes = {path: value.dtype for path, value in total.items()}
  total = {path: value.astype(np.float64) for path, value in total.items()}
  for step in steps[1:]:
    for path, value in trained.read_params(reader, model, step).items():
      total[path] += value
  return {
    path: (value / len(steps)).astype(dtypes[path])
    for path, value in total.items()
  }


def moved(
  params: Mapping[str, np.ndarray],
  model: Model,
  origins: Sequence[int | None],
  *,
  seed: int,
) -> dict[str, np.ndarray]:
  """Gives every task of a changed model the parameters of its origin.

  Args:
    params: of the old model, by path.
    model: the changed one; equal but for its tasks.
    origins: for each of its task ids the id in the old model; None for
      parameters as a new run draws them.
    seed: of that draw.

  Returns:
    The parameters of the changed model, by path.
  """
  axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
  of_tasks = {path for path, names in axes.items() if 'tasks' in names}
  drawn: dict[str, Any] = {}
  if None in origins and of_tasks:
    draw = jax.jit(lambda key: trees.select(model.init(key), of_tasks))
    drawn = trees.flatten(draw(jax.random.key(seed)))
  changed = dict(params)
  for path in of_tasks:
    axis = axes[path].index('tasks')
    slices = [
      np.take(np.asarray(drawn[path]), number, axis)
      if origin is None
      else np.take(params[path], origin, axis)
      for number, origin in enumerate(origins)
    ]
    changed[path] = np.stack(slices, axis)
  return changed
