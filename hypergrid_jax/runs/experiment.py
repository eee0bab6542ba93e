"""Trains and evaluates a run in its directory.

This is the one place where the run's parts, the loop, checkpoints and
evaluation meet; each of them knows nothing of the others. Several processes all
do the same; process 0 alone writes files and speaks.
"""

import contextlib
import dataclasses
import os

import jax
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax.runs import recorder as recorder_lib
from hypergrid_jax.runs import batches as batches_lib
from hypergrid_jax.runs import directory as directory_lib
from hypergrid_jax.runs import setup as setup_lib
from hypergrid_jax.runs import compiled_step
from hypergrid_jax.runs import summary
from hypergrid_jax.checkpoints import reader, schedule, warm_start, writer
from hypergrid_jax.data import prefetching
from hypergrid_jax.evaluation import evaluate as evaluate_lib
from hypergrid_jax.evaluation import metrics, results, tables
from hypergrid_jax.runs.meter import Meter
from hypergrid_jax.parallel import agreement, preemption, processes
from hypergrid_jax.runs.setup import Run, Setup
from hypergrid_jax.tasks import tensorflow_guard
from hypergrid_jax.training import loop
from hypergrid_jax.training import state as state_lib

# Beside the state in a checkpoint: see `data.use`.
_DATA_USE = 'data_use'


def train(
  run: Run,
  model_dir: str | os.PathLike[str],
  *,
  config_text: str,
  fresh: bool = False,
  brief: bool = False,
  console: Console,
) -> results.Results | None:
  """Trains a run from where its directory stands, and evaluates it.

  Args:
    run: the configuration.
    model_dir: the run's directory.
    config_text: the operative configuration, for config.gin.
    fresh: move another run in the directory aside.
    brief: show neither the mixture nor the scores as a table.
    console: for what a person sees.

  Returns:
    The last evaluation; None when SIGTERM came: then everything is saved, and
    the same call goes on.

  Raises:
    UserError: anything the user can mend; nothing is half-written.
  """
  with preemption.Preemption() as preempted:
    try:
      return _train(
        run, model_dir, config_text, fresh, brief, console, preempted
      )
    except preemption.Preempted as reason:
      console_lib.say(console, preemption.message(str(reason)))
      return None


def _train(run, model_dir, config_text, fresh, brief, console, preempted):
  with preempted.unattended('the start'):
    setup = setup_lib.set_up(run, model_dir, console=console, train=True)
    loader = batches_lib.make_loader(run, setup.corpus)
    with jax.set_mesh(setup.mesh):
      traced = compiled_step.trace_steps(setup, loader)
    agreement.of_first(lambda: _prepare(setup, fresh, console))
    facts = {
      'identity': setup.identity,
      **summary.run_facts(
        setup.model,
        setup.mesh,
        loader.summary(run.train.num_steps),
        trained=setup.trained,
      ),
      'per_device': summary.per_device(
        setup.state,
        run.data.batch_size,
        setup.batch_sharding,
      ),
      'flops_per_step': compiled_step.step_flops(traced),
    }
    written = agreement.of_first(
      lambda: directory_lib.write(setup.directory, config_text, facts)
    )
    agreement.of_all(lambda: directory_lib.wait_for(setup.directory, written))
    summary.show(facts, setup.notes, mixture=not brief, console=console)
  checkpoints = writer.Checkpointer(
    setup.directory,
    keep=run.train.keep_checkpoints,
    fingerprint=setup.identity,
  )
  with jax.set_mesh(setup.mesh), contextlib.closing(checkpoints):
    with preempted.unattended('the start'):
      state, meta = _start_state(setup, checkpoints, console)
    data_use = loader.data_use(meta.get(_DATA_USE, {}))
    found = _train_and_evaluate(
      setup, loader, traced, data_use, checkpoints, state, console, preempted
    )
  if not brief:
    console.print(_table(setup, found))
  return found


def _prepare(setup, fresh, console):
  aside = directory_lib.prepare(setup.directory, setup.identity, fresh=fresh)
  if aside is not None:
    console_lib.say(console, f'Moved the run that was in {setup.directory} to {aside}.')


def evaluate(
  run: Run,
  model_dir: str | os.PathLike[str],
  *,
  step: int | str = 'best',
  split: str | None = None,
  tasks: tuple[str, ...] | None = None,
  limit: int | None = None,
  console: Console,
) -> list[results.Results]:
  """Evaluates checkpoints of a run.

  Args:
    run: the run's own configuration.
    model_dir: the run's directory.
    step: a step number, 'best' (by the average over the run's tasks),
      'best:TASK' or 'all'.
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
  run = dataclasses.replace(setup_lib.on_these_devices(run), evaluate=config)
  directory_lib.read_facts(model_dir)
  setup = setup_lib.set_up(
    run, model_dir, console=console, train=True, only=tasks
  )
  agreement.of_first(lambda: _prepare(setup, False, console))
  checkpoints = reader.CheckpointReader(setup.directory)
  wanted = setup.state.params
  with jax.set_mesh(setup.mesh):
    found = []
    for number in reader.named_steps(checkpoints, step):
      params, _ = checkpoints.restore_params(wanted, number)
      found.append(_evaluate_params(setup, number, params, console))
      console.print(_table(setup, found[-1]))
    return found


def _start_state(setup, checkpoints, console):
  """The newest whole checkpoint and what is beside it, or a fresh state."""
  restored = checkpoints.restore(setup.state)
  if restored is not None:
    state, meta = restored
    console_lib.say(console, f'Going on from the checkpoint of step {int(state.step)}.')
    return state, meta
  key = jax.random.key(setup.run.train.seed)
  state = state_lib.create_state(
    setup.model, setup.tx, key, setup.mesh, setup.run.mesh.axis_rules()
  )
  initial = setup.run.train.initial_checkpoint
  if initial is None:
    return state, {}
  params, fresh = warm_start.load_params(initial, setup.model, state.params)
  console_lib.say(console, f'Starting from the parameters of {initial}; new are {len(fresh)}:'
    f' {", ".join(fresh) or "none"}.')
  return dataclasses.replace(state, params=params), {}


def _train_and_evaluate(
  setup, loader, traced, data_use, checkpoints, state, console, preempted
) -> results.Results:
  """Compiles the step, runs the loop, and returns the last evaluation."""
  config, start = setup.run.train, int(state.step)
  with preempted.unattended('compiling'):
    program = compiled_step.compile_traced(setup, traced)
  console_lib.say(console, summary.program_line(program))
  rows = program.rows
  with contextlib.ExitStack() as stack:
    recorder = stack.enter_context(
      contextlib.closing(_recorder(setup.directory, start))
    )
    stack.callback(checkpoints.wait)
    batches = stack.enter_context(
      prefetching.prefetch(
        loader,
        start,
        config.num_steps,
        parts=rows.parts,
        num_parts=rows.num_parts,
      )
    )
    bar = stack.enter_context(
      console_lib.bar(console, 'training', config.num_steps, done=start)
    )
    meter = Meter(batches, share=rows.share, trained=loader.trained_fraction)
    hooks = _Hooks(
      setup, data_use, checkpoints, recorder, meter, bar, preempted, console
    )
    state = loop.train(
      config,
      state,
      step_fn=program.step,
      batches=meter,
      place=rows.place,
      tasks=setup.corpus.task_names,
      save=hooks.save,
      evaluate=hooks.evaluate,
      log=hooks.log,
      due=schedule.CheckpointTimes(
        start,
        steps=config.checkpoint_period,
        minutes=config.checkpoint_minutes,
      ).due,
      observe=hooks.observe,
      stop=preempted.stop_at,
    )
    done = int(state.step)
    if done < config.num_steps:
      checkpoints.wait()
      raise preemption.Preempted(f'step {done}')
    if hooks.last is None:  # the run had ended before, perhaps killed after
      hooks.evaluate(done, state)
  return hooks.last


class _Hooks:
  """What the loop calls.

  Attributes:
    last: the last evaluation.
  """

  def __init__(
    self, setup, data_use, checkpoints, recorder, meter, bar, preempted, console
  ):
    self.last: results.Results | None = None
    self._setup = setup
    self._data_use = data_use
    self._checkpoints = checkpoints
    self._recorder = recorder
    self._meter = meter
    self._bar = bar
    self._preempted = preempted
    self._console = console
    self._learning_rate = setup.run.schedule.schedule()

  def observe(self, step, metrics):
    self._data_use.add(step - 1, metrics.chosen)

  def save(self, step, state):
    meta = {_DATA_USE: self._data_use.saved()}
    self._checkpoints.save(step, state, meta)

  def evaluate(self, step, state):
    # Then a signal finds everything on the disk, however long it takes.
    self._checkpoints.wait()
    with self._preempted.unattended(f'the evaluation of step {step}'):
      found = _evaluate_params(self._setup, step, state.params, self._console)
      per_task = self._setup.run.train.keep_best_per_task
      _keep_best(self._checkpoints, found, per_task=per_task)
      for name, scores in found.scores.items():
        self._recorder.scalars(step, scores, prefix=f'eval/{name}/')
      self._recorder.scalars(step, found.averages, prefix='eval/average/')
      processes.together('evaluated')
    self.last = found

  def log(self, step, values):
    values = {
      **values,
      'learning_rate': float(self._learning_rate(step - 1)),
      **self._meter.take(),
      **self._data_use.shares(),
    }
    self._recorder.log(step, values)
    self._bar.update(
      step,
      f'loss {values["loss"]:.3f} {values["tokens_per_second"]:,.0f} tokens/s',
    )


def _recorder(directory, start):
  if processes.is_first():
    return recorder_lib.Recorder(directory, start_step=start)
  return recorder_lib.Silent()


def _keep_best(checkpoints, result: results.Results, *, per_task: bool):
  average = mean_score(result)
  if average is not None:
    checkpoints.mark_best(result.step, average)
  if not per_task:
    return
  for task, scores in result.scores.items():
    if scores:
      mean = sum(scores.values()) / len(scores)
      checkpoints.mark_best(result.step, mean, name=task)


def _table(setup: Setup, result: results.Results):
  title = f'{setup.directory}, step {result.step}'
  return tables.screen({'score': result}, title=title)


def _evaluate_params(setup, step, params, console) -> results.Results:
  run, corpus = setup.run, setup.corpus
  with tensorflow_guard.loading_tensorflow():  # nothing before this needs it
    from hypergrid_jax.tasks.seqio import registry

  # The first report brings the total.
  with console_lib.bar(console, f'evaluating step {step}', 0) as bar:
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
      majority_targets=setup.majority_targets,
      batch_sharding=setup.batch_sharding,
      progress=lambda task, done, all_: bar.update(done, task, all_),
    )


def mean_score(result: results.Results) -> float | None:
  """The number that 'best' compares: the mean over all tasks' group scores."""
  groups = metrics.group_scores(result.scores)
  return sum(groups.values()) / len(groups) if groups else None
