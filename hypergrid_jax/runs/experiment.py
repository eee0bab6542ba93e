"""Trains and evaluates a run in its directory.

This is the one place where the data, the loop, checkpoints and evaluation meet;
each of them knows nothing of the others. All processes of a run do the same;
process 0 alone writes files and prints.
"""

import contextlib
import dataclasses
import os
import typing

import jax
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import errors
from hypergrid_jax.checkpoints import reader, writer
from hypergrid_jax.config import registry
from hypergrid_jax.data import prefetching
from hypergrid_jax.evaluation import evaluate as evaluate_lib
from hypergrid_jax.evaluation import metrics, results, tables
from hypergrid_jax.parallel import agreement, preemption, processes
from hypergrid_jax.runs import batches as batches_lib
from hypergrid_jax.runs import compiled_step, summary
from hypergrid_jax.runs import directory as directory_lib
from hypergrid_jax.runs import log as log_lib
from hypergrid_jax.runs import setup as setup_lib
from hypergrid_jax.runs.setup import Setup
from hypergrid_jax.tasks import tensorflow_guard
from hypergrid_jax.training import loop
from hypergrid_jax.training import state as state_lib

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

# Beside the state in a checkpoint: see `data.use`.
_DATA_USE = 'data_use'


def train(
  run: 'RunConfig',
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
    console: shows what is done and the scores.

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
    modules = registry.module_texts(
      run.imports
    )  # before anything is moved aside
    agreement.of_first(lambda: _prepare(setup, fresh, console))
    facts = summary.run_facts(setup, loader)
    facts['flops_per_step'] = compiled_step.step_flops(traced)
    written = agreement.of_first(
      lambda: directory_lib.write(
        setup.directory, config_text, facts, modules=modules
      )
    )
    agreement.of_all(lambda: directory_lib.wait_for(setup.directory, written))
    summary.show(facts, setup.notes, mixture=not brief, console=console)
  checkpoints = writer.Checkpointer(
    setup.directory,
    keep=run.train.keep_checkpoints,
    fingerprint=setup.identity,
    differences=setup.differences,
  )
  with jax.set_mesh(setup.mesh), contextlib.closing(checkpoints):
    result = _train_and_evaluate(
      setup,
      loader,
      traced,
      checkpoints,
      facts['majority_targets'],
      console,
      preempted,
    )
  if not brief:
    console.print(_table(setup, result))
  return result


def _prepare(setup, fresh, console):
  aside = directory_lib.prepare(setup.directory, setup.differences, fresh=fresh)
  if aside is not None:
    console_lib.say(
      console, f'Moved the run that was in {setup.directory} to {aside}.'
    )


def evaluate(
  run: 'RunConfig',
  model_dir: str | os.PathLike[str],
  *,
  step: int | str = 'best',
  split: str | None = None,
  tasks: tuple[str, ...] | None = None,
  limit: int | None = None,
  console: Console,
) -> list[results.Results]:
  """Evaluates checkpoints of a run; opens the evaluated splits alone.

  Args:
    run: the run's own configuration.
    model_dir: the run's directory.
    step: a step number, 'best' (by the average over the run's tasks),
      'best:TASK' or 'all'.
    split: 'validation', 'test' or 'train'; None as configured.
    tasks: names of the tasks to evaluate; None for all.
    limit: examples per task; None as configured.
    console: shows what is done and the scores.

  Returns:
    One result per evaluated checkpoint.

  Raises:
    UserError: there is no such checkpoint, task or split.
  """
  config = run.evaluate
  if split is not None:
    config = dataclasses.replace(config, split=split)
  if limit is not None:
    config = dataclasses.replace(config, limit=limit)
  run = dataclasses.replace(setup_lib.on_these_devices(run), evaluate=config)
  facts = directory_lib.read_facts(model_dir)
  setup = setup_lib.set_up(
    run, model_dir, console=console, train=False, only=tasks
  )
  directory_lib.check(model_dir, setup.differences)
  if not setup.corpus.evaluation:
    raise errors.UserError(
      f'No task has a {config.split} split in {run.data.source}; there is'
      ' nothing to evaluate.'
    )
  majority_targets = facts.get('majority_targets')
  if majority_targets is None:
    console_lib.say(
      console,
      f'Note: run.json in {model_dir} does not have the most frequent targets'
      ' of the training sets, as an earlier version wrote it: there are no'
      ' scores of that baseline.',
    )
  checkpoints = reader.CheckpointReader(setup.directory)
  evaluated = []
  with jax.set_mesh(setup.mesh):
    for number in reader.named_steps(checkpoints, step):
      params, _ = checkpoints.restore_params(setup.params, number)
      result = _evaluate_params(
        setup, number, params, majority_targets or {}, console
      )
      evaluated.append(result)
      console.print(_table(setup, result))
  return evaluated


def _start_state(setup, checkpoints, console):
  """The newest whole checkpoint and what is beside it, or a fresh state."""
  restored = checkpoints.reader.restore(setup.state)
  if restored is not None:
    state, meta = restored
    console_lib.say(
      console, f'Going on from the checkpoint of step {int(state.step)}.'
    )
    return state, meta
  key = jax.random.key(setup.run.train.seed)
  state = state_lib.create_state(
    setup.model, setup.tx, key, setup.mesh, setup.run.mesh.axis_rules()
  )
  initial = setup.run.train.initial_checkpoint
  if initial is None:
    return state, {}
  params, fresh = reader.load_params(initial, setup.model, state.params)
  console_lib.say(
    console,
    f'Starting from the parameters of {initial}; new are {len(fresh)}:'
    f' {", ".join(fresh) or "none"}.',
  )
  return dataclasses.replace(state, params=params), {}


def _train_and_evaluate(
  setup, loader, traced, checkpoints, majority_targets, console, preempted
) -> results.Results:
  """Runs the training loop, and returns the last evaluation."""
  config = setup.run.train
  with preempted.unattended('the start'):
    state, meta = _start_state(setup, checkpoints, console)
  done, result = int(state.step), None
  data_use = loader.data_use(meta.get(_DATA_USE, {}))
  with preempted.unattended('compiling'):
    program = compiled_step.compile_traced(setup, traced)
  console_lib.say(console, summary.program_line(program))
  rows = program.rows

  def evaluate(step, params):
    # Once saved, a signal finds everything on the disk, however long it takes.
    checkpoints.wait()
    with preempted.unattended(f'the evaluation of step {step}'):
      scored = _evaluate_params(setup, step, params, majority_targets, console)
      _keep_best(checkpoints, scored, per_task=config.keep_best_per_task)
      for task, scores in scored.scores.items():
        log.write_scalars(step, scores, prefix=f'eval/{task}/')
      log.write_scalars(step, scored.averages, prefix='eval/average/')
      processes.barrier('evaluated')
    return scored

  with contextlib.ExitStack() as stack:
    silent = not processes.is_first()
    log = log_lib.Log(setup.directory, start_step=done, silent=silent)
    stack.enter_context(contextlib.closing(log))
    stack.callback(checkpoints.wait)
    batches = stack.enter_context(
      prefetching.prefetch(
        loader,
        done,
        config.num_steps,
        parts=rows.parts,
        num_parts=rows.num_parts,
      )
    )
    bar = stack.enter_context(
      console_lib.bar(console, 'training', config.num_steps, done=done)
    )
    meter = log_lib.InputMeter(
      batches, share=rows.share, trained=loader.trained_fraction
    )
    times = writer.CheckpointTimes(
      done, steps=config.checkpoint_period, minutes=config.checkpoint_minutes
    )
    for event in loop.train(
      config,
      state,
      step_fn=program.step,
      batches=map(rows.place, meter),
      tasks=setup.corpus.task_names,
      save_due=times.due,
      stop=preempted.stop_at,
    ):
      done, state = event.step, event.state
      for number, metrics in event.numbered():
        data_use.add(number, metrics.chosen)
      if event.log:
        values = {**event.log, **meter.take(), **data_use.shares()}
        log.write(done, values)
        speed = f'{values["tokens_per_second"]:,.0f} tokens/s'
        bar.update(done, f'loss {values["loss"]:.3f} {speed}')
      if event.save:
        checkpoints.save(done, state, {_DATA_USE: data_use.saved()})
      if event.evaluate:
        result = evaluate(done, state.params)
    if done < config.num_steps:
      checkpoints.wait()
      raise preemption.Preempted(f'step {done}')
    # A run that had ended before, and was perhaps killed after.
    return result or evaluate(done, state.params)


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
  return tables.screen(result, title=title)


def _evaluate_params(
  setup, step, params, majority_targets, console
) -> results.Results:
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
      majority_targets=majority_targets,
      batch_sharding=setup.batch_sharding,
      progress=lambda task, done, all_: bar.update(done, task, all_),
    )


def mean_score(result: results.Results) -> float | None:
  """The number that 'best' compares: the mean over all tasks' group scores."""
  groups = metrics.group_scores(result.scores)
  return sum(groups.values()) / len(groups) if groups else None
