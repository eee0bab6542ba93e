"""A run put together from its configuration: data, model, mesh, optimiser.

Nothing is allocated here; what a checkpoint, a compiler or a report needs to
know of a run is known from this alone.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import Any, Protocol

import jax
from rich.console import Console

from hypergrid_jax import corpus as corpus_lib
from hypergrid_jax import (
  errors,
  metrics,
  optim,
  partitioning,
  progress,
  run_directory,
)
from hypergrid_jax import evaluate as evaluate_lib
from hypergrid_jax import state as state_lib
from hypergrid_jax import train as train_lib
from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.data import sampling, vocabularies
from hypergrid_jax.extension import ExtensionPoints
from hypergrid_jax.model import Model
from hypergrid_jax.t5_config import T5Config

# Published T5 tables have rows a multiple of this, which the hardware likes.
VOCABULARY_MULTIPLE = 128


class Run(Protocol):
  """A run's configuration; `configuration.RunConfig` is one.

  Attributes:
    model: `T5Config`.
    method: has `extension_points()`; None for plain T5.
    data: `data.config.DataConfig`.
    optimizer: `optim.Adafactor` or `optim.AdamW`.
    schedule: one of `schedules`.
    train: `train.TrainConfig`.
    evaluate: `evaluate.EvaluateConfig`.
    mesh: `partitioning.MeshConfig`.
  """

  model: T5Config
  method: Any
  data: Any
  optimizer: Any
  schedule: Any
  train: train_lib.TrainConfig
  evaluate: evaluate_lib.EvaluateConfig
  mesh: partitioning.MeshConfig


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run with its data open and its model built, nothing allocated yet."""

  run: Run
  directory: pathlib.Path
  corpus: corpus_lib.Corpus
  model: Model
  mesh: jax.sharding.Mesh
  tx: Any

  @functools.cached_property
  def majority_targets(self) -> dict[str, str]:
    """The most frequent target of every training set, for the baselines."""
    return {
      name: metrics.majority_target(store)
      for name, store in self.corpus.train.items()
    }

  @functools.cached_property
  def identity(self) -> dict[str, Any]:
    """What must be the same for a run to go on in its directory."""
    data = dataclasses.asdict(self.run.data)
    for name in ('token_dir', 'vocabulary', 'source'):
      del data[name]  # where things lie; what they are is in the fingerprints
    train = dataclasses.asdict(self.run.train)
    for name in (
      'num_steps',
      'checkpoint_period',
      'eval_period',
      'log_period',
      'keep_checkpoints',
    ):
      del train[name]
    return {
      'model': dataclasses.asdict(self.model.config),
      'method': _described(self.run.method),
      'optimizer': _described(self.run.optimizer),
      'schedule': _described(self.run.schedule),
      'train': train,
      'data': data,
      'vocabulary': self.corpus.vocabulary.fingerprint,
      'task_ids': self.corpus.task_ids,
      'training_sets': {
        name: store.fingerprint for name, store in self.corpus.train.items()
      },
    }


def set_up(
  run: Run,
  model_dir: str | os.PathLike[str],
  *,
  console: Console,
  train: bool,
  only: tuple[str, ...] | None = None,
) -> Setup:
  """Opens the data and builds the model; allocates no parameters.

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
  vocabulary = vocabularies.load_vocabulary(run.data.vocabulary)
  points = ExtensionPoints()
  if run.method is not None:
    points = run.method.extension_points()
  model = Model(
    with_vocabulary(run.model, vocabulary.size),
    points,
    num_tasks=len(corpus_lib.task_ids(run.data.mixture)),
  )
  mesh = partitioning.make_mesh(run.mesh)
  partitioning.check_batch_size(run.data.batch_size, mesh, run.mesh.rules())
  tx = optim.make_optimizer(
    run.optimizer,
    run.schedule,
    logical_axes=model.logical_axes,
    added=model.added,
    trainable=run.train.trainable,
    clip_norm=run.train.clip_norm,
  )
  directory = pathlib.Path(model_dir)
  with _store_progress(console) as shown:
    corpus = corpus_lib.open_corpus(
      run.data,
      vocabulary,
      token_dir=run.data.token_dir or directory / run_directory.TOKENS,
      split=run.evaluate.split,
      train=train,
      only=only,
      progress=shown,
    )
  return Setup(run, directory, corpus, model, mesh, tx)


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


def make_loader(setup: Setup) -> loader_lib.Loader:
  """The batches of the run."""
  data, stores = setup.run.data, setup.corpus.train
  sizes = {name: store.num_examples for name, store in stores.items()}
  rates = sampling.mixing_rates(sizes, data)
  return loader_lib.Loader(
    {name: stores[name] for name in rates},
    task_ids=setup.corpus.task_ids,
    rates=rates,
    batch_size=data.batch_size,
    row_lengths=data.row_lengths,
    max_segments=data.segments,
    seed=setup.run.train.seed,
    packed=data.pack,
  )


def abstract_state(setup: Setup) -> state_lib.TrainState:
  """Shapes and shardings of the run's state: the target of a restore."""
  return state_lib.sharded_abstract_state(
    setup.model, setup.tx, setup.mesh, setup.run.mesh.rules()
  )


def _described(config: Any) -> Any:
  if config is None:
    return None
  return {'name': type(config).__name__, **dataclasses.asdict(config)}


@contextlib.contextmanager
def _store_progress(console) -> Iterator[Callable[[str, int, int], None]]:
  """A bar that appears when the first token store has to be built."""
  with contextlib.ExitStack() as stack:
    shown: list[progress.Bar] = []

    def update(what, done, total):
      if not shown:
        bar = progress.bar(console, 'tokenising', total)
        shown.append(stack.enter_context(bar))
      shown[0].update(done, what, total)

    yield update
