"""How the steps of a run choose their rows, from its configuration."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from hypergrid_jax import errors, partitioning, types, uncertainty
from hypergrid_jax.data import candidates, loader, vocabularies
from hypergrid_jax.model import Model
from hypergrid_jax.tasks import definitions

# `(params, candidates, key) -> [B] int32`, see `train.make_train_step`.
Selector = Callable[[types.Params, types.Batch, jax.Array], jax.Array]


class Run(Protocol):
  """The part of a run's configuration that is used here.

  Attributes:
    sampler: None for rows drawn at the rates of `data`.
    data: `data.config.DataConfig`.
    train: `train.TrainConfig`.
    mesh: `partitioning.MeshConfig`.
  """

  sampler: uncertainty.UncertaintySampling | None
  data: Any
  train: Any
  mesh: partitioning.MeshConfig


def check_rows(run: Run, mesh: jax.sharding.Mesh) -> None:
  """Checks that the rows of a step can be chosen, and divided over the mesh.

  Raises:
    UserError: they cannot.
  """
  data, rules = run.data, run.mesh.axis_rules()
  partitioning.check_batch_size(
    data.batch_size, mesh, rules, microbatches=run.train.microbatches
  )
  if run.sampler is None:
    return
  if data.length_buckets is not None or data.tasks_per_batch == 'one':
    raise errors.UserError(
      'run.sampler = @UncertaintySampling() chooses among rows of all tasks and'
      ' of one length. Leave data.length_buckets and data.tasks_per_batch ='
      " 'one' out."
    )
  per_task = run.sampler.per_task(data.batch_size)
  rows = partitioning.batch_sharding(mesh, rules)
  groups = mesh.size // rows.shard_shape((mesh.size,))[0]
  if per_task % groups:
    raise errors.UserError(
      f'UncertaintySampling.candidates_per_task = {per_task} cannot be divided'
      f' over the {groups} groups of devices that share the rows. Make it a'
      f' multiple of {groups}.'
    )


def batches(
  run: Run, rows: loader.Loader, vocabulary: vocabularies.Vocabulary
) -> loader.Loader | candidates.CandidateLoader:
  """Returns what the run's steps are given: rows, or candidates.

  Raises:
    UserError: the sampler does not fit the tasks.
  """
  if run.sampler is None:
    return rows
  _labels(run, rows.tasks, vocabulary)  # refuses before anything is written
  per_task = run.sampler.per_task(run.data.batch_size)
  return candidates.CandidateLoader(rows, per_task)


def make_selector(
  run: Run,
  model: Model,
  tasks: Sequence[str],
  vocabulary: vocabularies.Vocabulary,
) -> Selector | None:
  """Returns how a step chooses among its rows; None where it takes all.

  Args:
    run: the configuration.
    model: what is asked.
    tasks: the names of the trained tasks, in the order of the candidates.
    vocabulary: of the run.

  Raises:
    UserError: the sampler does not fit the tasks.
  """
  if run.sampler is None:
    return None
  return run.sampler.selector(
    model,
    _labels(run, tasks, vocabulary),
    batch_size=run.data.batch_size,
    most_rows=run.data.batch_size // run.train.microbatches,
  )


def trained_tasks(names: Sequence[str]) -> tuple[str, ...]:
  """Those of some tasks that have a training set."""
  return tuple(n for n in names if definitions.definition(n).train_split)


def abstract_rows(run: Run, names: Sequence[str]) -> int:
  """Returns how many rows a step is given, without reading data.

  Args:
    run: the configuration.
    names: the tasks of its mixture.
  """
  if run.sampler is None:
    return run.data.batch_size
  count = len(trained_tasks(names))
  return count * run.sampler.per_task(run.data.batch_size)


def _labels(run, tasks, vocabulary) -> uncertainty.TaskLabels:
  known: Mapping[str, Any] = {n: definitions.definition(n) for n in tasks}
  return run.sampler.labels(
    known, vocabulary, targets_length=run.data.targets_length
  )
