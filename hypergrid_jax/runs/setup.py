"""A run put together from its configuration: data, model, mesh, optimiser.

Nothing is allocated here; what a checkpoint, a compiler or a report needs to
know of a run is known from this alone.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import os
import pathlib
import typing
from typing import Any

import jax
import optax
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import errors, types
from hypergrid_jax.evaluation import metrics
from hypergrid_jax.model import Model, extension
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.parallel import partitioning, processes
from hypergrid_jax.runs import datasets, identity
from hypergrid_jax.runs import directory as directory_lib
from hypergrid_jax.tasks import task_files, vocabularies
from hypergrid_jax.training import freezing, optimizers
from hypergrid_jax.training import state as state_lib

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

# Published T5 tables have rows a multiple of this, which the hardware likes.
VOCABULARY_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run's model on its devices: no data are read and nothing is allocated.

  What follows from these is made when it is first asked for; predicting, for
  one, never makes an optimiser.

  Attributes:
    run: the configuration.
    model: the architecture.
    mesh: the devices.
    params: shapes and shardings of the parameters: the target of a restore.
  """

  run: 'RunConfig'
  model: Model
  mesh: jax.sharding.Mesh
  params: types.Params

  @functools.cached_property
  def trained(self) -> freezing.Trained:
    """Which parameters train."""
    return freezing.trained_parameters(
      self.model.logical_axes,
      self.run.train.trainable,
      added=self.model.added,
    )

  @functools.cached_property
  def tx(self) -> optax.GradientTransformation:
    """The optimiser.

    Raises:
      UserError: the configuration of what trains does not fit the model.
    """
    return optimizers.make_optimizer(
      self.run.optimizer,
      self.run.schedule,
      logical_axes=self.model.logical_axes,
      added=self.model.added,
      trained=self.trained,
      clip_norm=self.run.train.clip_norm,
    )

  @functools.cached_property
  def state(self) -> state_lib.TrainState:
    """Shapes and shardings of the training state: the target of a restore."""
    return state_lib.sharded_abstract_state(
      self.model, self.tx, self.mesh, self.run.mesh.axis_rules()
    )

  @property
  def batch_sharding(self) -> jax.sharding.NamedSharding:
    """How the rows of a batch are divided over the devices."""
    return partitioning.batch_sharding(self.mesh, self.run.mesh.axis_rules())


@dataclasses.dataclass(frozen=True)
class SetupWithData(Setup):
  """A setup whose data are open: what training and evaluation start from.

  Attributes:
    directory: the run's directory.
    corpus: vocabulary, task ids and token stores.
  """

  directory: pathlib.Path
  corpus: datasets.Corpus

  @functools.cached_property
  def notes(self) -> tuple[str, ...]:
    """Sentences about what is worth knowing before the first step."""
    train, notes = self.run.train, tuple(self.corpus.notes)
    if train.trainable == 'all' or train.initial_checkpoint is not None:
      return notes
    return (
      *notes,
      f'train.trainable is {train.trainable!r} and there is no'
      ' train.initial_checkpoint: what is frozen stays at random values.',
    )

  @property
  def majority_targets(self) -> dict[str, str]:
    """The most frequent target of every training set, for the baselines."""
    return {
      name: metrics.majority_target(store)
      for name, store in self.corpus.train.items()
    }

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """What must be the same for a run to go on in its directory, as JSON."""
    return identity.described(self._configs, self._data)

  def differences(self, saved: Mapping[str, Any]) -> list[str]:
    """Returns a line for everything in which a saved identity differs."""
    return identity.differences(saved, self._configs, self._data)

  @property
  def _configs(self) -> dict[str, Any]:
    run, data = self.run, self.run.data
    return {
      'model': self.model.config,
      'method': run.method,
      'sampler': run.sampler,
      'optimizer': run.optimizer,
      'schedule': run.schedule,
      'train': run.train,
      # As numbers: another default would make other rows.
      'data': dataclasses.replace(
        data,
        row_targets_length=data.row_lengths[1],
        max_segments=data.segments,
      ),
    }

  @property
  def _data(self) -> dict[str, Any]:
    """What was read; without training sets these are not compared."""
    corpus = self.corpus
    sets = {name: store.fingerprint for name, store in corpus.train.items()}
    return {
      'vocabulary': corpus.vocabulary.fingerprint,
      'task_ids': corpus.task_ids,
      **({'training_sets': sets} if sets else {}),
    }


def set_up(
  run: 'RunConfig',
  model_dir: str | os.PathLike[str],
  *,
  console: Console,
  train: bool,
  only: tuple[str, ...] | None = None,
) -> SetupWithData:
  """Builds the model and opens the data; allocates no parameters.

  Args:
    run: the configuration.
    model_dir: the run's directory.
    console: shows tokenising.
    train: open the training sets too.
    only: names of the tasks to evaluate; None for all.

  Raises:
    UserError: the configuration does not fit the data or the devices.
  """
  # What can be refused without reading data is refused before reading it.
  directory_lib.check_address('--model_dir', model_dir)
  if run.data.token_dir is not None:
    directory_lib.check_address('--token_dir', run.data.token_dir)
  vocabulary = vocabularies.load_vocabulary(run.data.vocabulary)
  tokens = token_dir(run, model_dir)
  task_files.load(run.data.task_files, cache=tokens)
  num_tasks = len(datasets.task_ids(run.data.mixture))
  setup = build(run, vocabulary.size, num_tasks=num_tasks)
  if train:
    setup.tx  # noqa: B018 (made for what it refuses)
    check_rows(run, setup.mesh)
  # Process 0 makes the token stores, the others then find them.
  with (
    console_lib.on_demand(console, 'tokenising') as shown,
    processes.first_before_others(),
  ):
    corpus = datasets.open_corpus(
      run.data,
      vocabulary,
      token_dir=tokens,
      split=run.evaluate.split,
      train=train,
      only=only,
      progress=shown,
    )
  return SetupWithData(
    run,
    setup.model,
    setup.mesh,
    setup.params,
    pathlib.Path(model_dir),
    corpus,
  )


def build(
  run: 'RunConfig',
  vocabulary_size: int,
  *,
  num_tasks: int,
  devices: Sequence[jax.Device] | None = None,
) -> Setup:
  """Builds a run's model on its devices; reads no data.

  Args:
    run: the configuration.
    vocabulary_size: number of ids of the vocabulary.
    num_tasks: number of tasks that the model tells apart.
    devices: devices of the mesh; None takes all that are here.

  Raises:
    UserError: the configuration does not fit the vocabulary or the devices.
  """
  points = extension.of_methods(run.method)
  check_positions(points, run.data.inputs_length)
  rules = run.mesh.axis_rules()
  model = Model(
    with_vocabulary(run.model, vocabulary_size),
    points,
    num_tasks=num_tasks,
    rules=rules,
  )
  mesh = partitioning.make_mesh(run.mesh, devices)
  params = state_lib.sharded_abstract_params(model, mesh, rules)
  return Setup(run, model, mesh, params)


def on_these_devices(run: 'RunConfig') -> 'RunConfig':
  """Returns the run with a mesh for the devices of this machine.

  A mesh that fits them stays. Otherwise parameters stay divided over 'fsdp' and
  'model' as far as the devices go, since they may not fit on one.
  """
  count, mesh = jax.device_count(), run.mesh
  fixed = [n for n in dataclasses.astuple(mesh)[:4] if n != -1]
  if count % math.prod(fixed) == 0 and (
    len(fixed) < 4 or count == math.prod(fixed)
  ):
    return run
  model = mesh.model if count % mesh.model == 0 else 1
  data, fsdp = (-1, 1) if mesh.fsdp == 1 else (1, -1)
  mesh = dataclasses.replace(mesh, slices=1, data=data, fsdp=fsdp, model=model)
  return dataclasses.replace(run, mesh=mesh)


def token_dir(
  run: 'RunConfig', model_dir: str | os.PathLike[str]
) -> pathlib.Path:
  """Returns the directory of a run's token stores."""
  return pathlib.Path(
    run.data.token_dir or pathlib.Path(model_dir, directory_lib.TOKENS)
  )


def check_positions(
  points: extension.ExtensionPoints, inputs_length: int
) -> None:
  """Refuses inputs that are longer than what a method has parameters for.

  Raises:
    UserError: inputs may be longer.
  """
  limit = points.max_positions
  if limit is not None and inputs_length > limit:
    raise errors.UserError(
      f'data.inputs_length = {inputs_length}, but run.method has parameters for'
      f' positions up to its max_length = {limit} only. Raise max_length to'
      f' {inputs_length}, or lower data.inputs_length to {limit}.'
    )


def with_vocabulary(config: T5Config, size: int) -> T5Config:
  """Sets the embedding's rows from the vocabulary, or checks what is set.

  Raises:
    UserError: the table has fewer rows than the vocabulary has ids.
  """
  if config.vocab_size is None:
    rows = -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return dataclasses.replace(config, vocab_size=rows)
  if config.vocab_size < size:
    raise errors.UserError(
      f'T5Config.vocab_size = {config.vocab_size}, but the vocabulary has'
      f' {size} ids. Leave it out to fit the vocabulary, or choose the'
      ' vocabulary that belongs to this model.'
    )
  return config


def check_rows(run: 'RunConfig', mesh: jax.sharding.Mesh) -> None:
  """Checks that the rows of a step can be chosen and divided over the mesh.

  Raises:
    UserError: they cannot; names the setting.
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
  shares = (
    mesh.size
    // partitioning.batch_sharding(mesh, rules).shard_shape((mesh.size,))[0]
  )
  if per_task % shares:
    raise errors.UserError(
      f'UncertaintySampling.candidates_per_task = {per_task} cannot be divided'
      f' over the {shares} groups of devices that share the rows. Make it a'
      f' multiple of {shares}.'
    )
