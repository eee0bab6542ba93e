"""Puts a run together from its configuration, and trains or evaluates it.

This is the one place where data, model, optimiser, checkpoints and evaluation
meet; each of them knows nothing of the others.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from typing import Any, Protocol

import jax
from rich.console import Console

from hypergrid_jax import checkpoint as checkpoint_lib
from hypergrid_jax import (
  checkpoint_reader,
  errors,
  installation,
  metrics,
  optim,
  partitioning,
  progress,
  run_directory,
  summary,
  tables,
  types,
)
from hypergrid_jax import corpus as corpus_lib
from hypergrid_jax import evaluate as evaluate_lib
from hypergrid_jax import recorder as recorder_lib
from hypergrid_jax import results as results_lib
from hypergrid_jax import state as state_lib
from hypergrid_jax import train as train_lib
from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.data import sampling
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


def train(
  run: Run,
  model_dir: str | os.PathLike[str],
  *,
  config_text: str,
  fresh: bool = False,
  console: Console,
) -> results_lib.Results:
  """Trains a run from where its directory stands, and evaluates it.

  Args:
    run: the configuration.
    model_dir: the run's directory.
    config_text: the operative configuration, for config.gin.
    fresh: move another run in the directory aside.
    console: for what a person sees.

  Returns:
    The last evaluation.

  Raises:
    UserError: anything the user can mend; nothing is half-written.
  """
  setup = set_up(run, model_dir, console=console, train=True)
  loader = make_loader(setup)
  aside = run_directory.prepare(setup.directory, setup.identity, fresh=fresh)
  if aside is not None:
    console.print(f'Moved the run that was in {setup.directory} to {aside}.')
  facts = summary.run_facts(
    setup.model,
    setup.mesh,
    loader.summary(run.train.num_steps),
    trained=optim.trained_paths(
      summary.paths(setup.model), run.train.trainable
    ),
  )
  run_directory.write(
    setup.directory, config_text, {'identity': setup.identity, **facts}
  )
  summary.show(facts, setup.corpus.notes, console=console)
  checkpoints = checkpoint_lib.Checkpointer(
    setup.directory,
    keep=run.train.keep_checkpoints,
    fingerprint=setup.identity,
  )
  with jax.set_mesh(setup.mesh), contextlib.closing(checkpoints):
    state = _start_state(setup, checkpoints, console)
    return _train_and_evaluate(setup, loader, checkpoints, state, console)


def evaluate(
  run: Run,
  model_dir: str | os.PathLike[str],
  *,
  step: int | str = 'best',
  split: str | None = None,
  tasks: tuple[str, ...] | None = None,
  limit: int | None = None,
  console: Console,
) -> list[results_lib.Results]:
  """Evaluates checkpoints of a run.

  Args:
    run: the run's own configuration.
    model_dir: the run's directory.
    step: a step number, 'best' (by the average over the run's tasks) or 'all'.
    split: 'validation', 'test' or 'train'; None as configured.
    tasks: names of the tasks to evaluate; None for all.
    limit: examples per task; None as configured.
    console: for what a person sees.

  Returns:
    One result per evaluated checkpoint.

  Raises:
    UserError: no such checkpoint, task or split.
  """
  config = run.evaluate
  if split is not None:
    config = dataclasses.replace(config, split=split)
  if limit is not None:
    config = dataclasses.replace(config, limit=limit)
  run = dataclasses.replace(run, evaluate=config)
  run_directory.read_facts(model_dir)
  setup = set_up(run, model_dir, console=console, train=True, only=tasks)
  run_directory.prepare(setup.directory, setup.identity)
  checkpoints = checkpoint_reader.CheckpointReader(setup.directory)
  with jax.set_mesh(setup.mesh):
    found = []
    for number in _steps(checkpoints, step):
      params, _ = checkpoints.restore_params(
        abstract_state(setup).params, number
      )
      found.append(_evaluate_params(setup, number, params, console))
      console.print(_table(setup, found[-1]))
    return found


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
  directory = pathlib.Path(model_dir)
  token_dir = run.data.token_dir or directory / 'tokens'
  with _store_progress(console) as shown:
    corpus = corpus_lib.open_corpus(
      run.data,
      token_dir=token_dir,
      split=run.evaluate.split,
      train=train,
      only=only,
      progress=shown,
    )
  points = ExtensionPoints()
  if run.method is not None:
    points = run.method.extension_points()
  model = Model(
    with_vocabulary(run.model, corpus.vocabulary.size),
    points,
    num_tasks=len(corpus.task_ids),
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


def _start_state(setup, checkpoints, console) -> state_lib.TrainState:
  """The newest whole checkpoint, or fresh parameters."""
  restored = checkpoints.restore(abstract_state(setup))
  if restored is not None:
    state, _ = restored
    console.print(f'Going on from the checkpoint of step {int(state.step)}.')
    return state
  key = jax.random.key(setup.run.train.seed)
  return state_lib.create_state(
    setup.model, setup.tx, key, setup.mesh, setup.run.mesh.rules()
  )


def _train_and_evaluate(setup, loader, checkpoints, state, console):
  """Runs the loop with its callbacks; returns the last evaluation."""
  config = setup.run.train
  start, last = int(state.step), None
  recorder = recorder_lib.Recorder(setup.directory, start_step=start)
  learning_rate = setup.run.schedule.schedule()
  rows = partitioning.batch_sharding(setup.mesh)

  def save(step, state):
    checkpoints.save(step, state, {})

  def evaluate(step, state):
    nonlocal last
    last = _evaluate_params(setup, step, state.params, console)
    average = mean_score(last)
    checkpoints.wait()
    if average is not None and step in checkpoints.steps():
      checkpoints.mark_best(step, average)
    for name, scores in last.scores.items():
      recorder.scalars(step, scores, prefix=f'eval/{name}/')
    recorder.scalars(step, last.averages, prefix='eval/average/')

  step_fn = jax.jit(
    train_lib.make_train_step(setup.model, setup.tx, config), donate_argnums=0
  )
  with contextlib.ExitStack() as stack:
    stack.callback(recorder.close)
    stack.callback(checkpoints.wait)
    batches = stack.enter_context(
      loader_lib.prefetch(loader, start, config.num_steps)
    )
    meter = _Meter(batches)
    bar = stack.enter_context(
      progress.bar(console, 'training', config.num_steps, done=start)
    )

    def log(step, values):
      values = {
        **values,
        'learning_rate': float(learning_rate(step - 1)),
        **meter.take(),
      }
      recorder.log(step, values)
      bar.update(
        step,
        f'loss {values["loss"]:.3f}'
        f' {values["tokens_per_second"]:,.0f} tokens/s',
      )

    state = train_lib.train(
      config,
      state,
      step_fn=step_fn,
      batches=meter,
      place=lambda batch: jax.device_put(batch, rows),
      tasks=setup.corpus.task_names,
      save=save,
      evaluate=evaluate,
      log=log,
    )
  if last is None:  # the run had already ended when this start began
    last = _evaluate_params(setup, start, state.params, console)
  console.print(_table(setup, last))
  return last


class _Meter:
  """Passes batches on and measures them: tokens, padding, waiting."""

  def __init__(self, batches: loader_lib.Prefetcher):
    self._batches = batches
    self._reset()

  def _reset(self):
    self._started = time.perf_counter()
    self._waited = self._batches.wait_seconds
    self._tokens = self._places = 0

  def __iter__(self) -> Iterator[types.Batch]:
    for batch in self._batches:
      for ids in (batch.encoder_segment_ids, batch.decoder_segment_ids):
        self._tokens += int((ids > 0).sum())
        self._places += ids.size
      yield batch

  def take(self) -> dict[str, float]:
    """Measures since the last call."""
    seconds = time.perf_counter() - self._started
    waited = self._batches.wait_seconds - self._waited
    values = {
      'tokens_per_second': self._tokens / seconds,
      'padding_fraction': 1 - self._tokens / max(self._places, 1),
      'input_wait_fraction': min(waited / seconds, 1.0),
    }
    self._reset()
    return values


def _table(setup: Setup, result: results_lib.Results):
  title = f'{setup.directory}, step {result.step}'
  return tables.screen({'score': result}, title=title)


def _evaluate_params(setup, step, params, console) -> results_lib.Results:
  run, corpus = setup.run, setup.corpus
  total = sum(
    min(store.num_examples, run.evaluate.limit or store.num_examples)
    for _, _, store in corpus.evaluation
  )
  with installation.loading_tensorflow():  # nothing before this needs it
    from hypergrid_jax.tasks import registry

  with progress.bar(console, f'evaluating step {step}', total) as bar:
    return evaluate_lib.evaluate(
      setup.model,
      params,
      stores=corpus.evaluation,
      vocabulary=corpus.vocabulary,
      task_ids=corpus.task_ids,
      seqio_task=lambda name: registry.seqio_task(
        name, source=run.data.source, vocabulary=run.data.vocabulary
      ),
      step=step,
      directory=setup.directory,
      config=run.evaluate,
      majority_targets={
        name: metrics.majority_target(store)
        for name, store in corpus.train.items()
      },
      batch_sharding=partitioning.batch_sharding(setup.mesh),
      progress=lambda task, done, all_: bar.update(done, task, all_),
    )


def mean_score(result: results_lib.Results) -> float | None:
  """The number that 'best' compares: the mean over all tasks' group scores."""
  groups = metrics.group_scores(result.scores)
  return sum(groups.values()) / len(groups) if groups else None


def _steps(checkpoints, step: int | str) -> list[int]:
  steps = checkpoints.steps()
  if not steps:
    raise errors.UserError(
      f'There is no checkpoint in {checkpoints.directory}. Train first, or'
      ' name another --model_dir.'
    )
  if step == 'all':
    return steps
  if step == 'best':
    best = checkpoints.best()
    return [steps[-1] if best is None else best]
  if int(step) not in steps:
    raise errors.UserError(
      f'There is no checkpoint of step {step} in {checkpoints.directory}; there'
      f' are {steps}.'
    )
  return [int(step)]


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
