"""Trains the runs of a comparison, one after the other in one process."""

from collections.abc import Sequence
import dataclasses
import gc
import pathlib

import jax
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import errors
from hypergrid_jax.checkpoints.reader import CheckpointReader
from hypergrid_jax.comparing.plan import PlannedRun
from hypergrid_jax.config import run_config
from hypergrid_jax.evaluation import results as results_lib
from hypergrid_jax.runs import directory, experiment, summary
from hypergrid_jax.runs import setup as setup_lib


@dataclasses.dataclass(frozen=True)
class Counts:
  """Parameters of one model.

  Attributes:
    total: all.
    trained: those that training changes.
    added: those that a plain T5 of this size lacks.
    tasks: how many tasks the model tells apart.
  """

  total: int
  trained: int
  added: int
  tasks: int


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of the runs.

  Attributes:
    results: of the runs that ended well.
    failures: what the others failed with.
  """

  results: dict[PlannedRun, results_lib.Results]
  failures: dict[PlannedRun, str]


def check(
  runs: Sequence[PlannedRun], *, console: Console
) -> dict[PlannedRun, Counts]:
  """Refuses, before anything is trained, what some run would refuse.

  Args:
    runs: of the comparison; those that differ in nothing but the seed follow
      from one.
    console: shows tokenising.

  Returns:
    The parameters of every run.

  Raises:
    UserError: a configuration does not fit the data or the devices; a directory
      holds another run, or one that was evaluated in another way; the
      checkpoint to start from is missing.
  """
  _check_starts(runs)
  setups: dict[tuple[str, str], setup_lib.Setup] = {}
  counts = {}
  for planned in runs:
    key = planned.method, planned.task
    if key not in setups:
      setups[key] = setup_lib.set_up(
        planned.run, planned.directory, console=console, train=True
      )
    setup = dataclasses.replace(
      setups[key], run=planned.run, directory=planned.directory
    )
    directory.check(planned.directory, setup.differences)
    _check_evaluation(planned)
    counts[planned] = counts_of(setup)
  return counts


def counts_of(setup: setup_lib.Setup) -> Counts:
  """Counts the parameters of a run's model."""
  found = summary.parameter_counts(setup.model, setup.trained)
  return Counts(
    total=found['total'],
    trained=found['trained'],
    added=found['added'],
    tasks=setup.model.num_tasks,
  )


def _check_evaluation(planned: PlannedRun) -> None:
  """Refuses a finished run whose scores were made in another way."""
  if not results_path(planned).exists():
    return
  config = planned.directory / 'config.gin'
  there = run_config.parse([str(config)]).evaluate
  here = planned.run.evaluate
  differences = [
    f'  evaluate.{field.name}: {before!r} there, {now!r} here'
    for field in dataclasses.fields(here)
    if (before := getattr(there, field.name))
    != (now := getattr(here, field.name))
  ]
  if differences:
    raise errors.UserError(
      f'{planned.directory} has been evaluated in another way:\n'
      + '\n'.join(differences)
      + '\nChoose another --model_dir, or the same settings.'
    )


def _check_starts(runs: Sequence[PlannedRun]) -> None:
  """Refuses to begin without the checkpoint that runs start from."""
  unfinished = [run for run in runs if not results_path(run).exists()]
  for start in {one.run.train.initial_checkpoint for one in unfinished}:
    if start is None:
      continue
    try:
      CheckpointReader(start).saved_params()
    except errors.UserError as error:
      raise errors.UserError(
        f'train.initial_checkpoint = {start!r}: {error} Train that run before,'
        ' or name another one.'
      ) from error


def results_path(planned: PlannedRun) -> pathlib.Path:
  """Where the last evaluation of a run lies once it is finished."""
  return planned.directory / 'eval' / f'{planned.run.train.num_steps}.json'


def train_all(
  runs: Sequence[PlannedRun], *, console: Console
) -> Outcome | None:
  """Trains what is not finished, and reads the scores of all.

  A run that fails, because its loss is no longer finite or it does not fit into
  the memory, does not keep the others from being trained.

  Args:
    runs: that have been checked.
    console: for what a person sees.

  Returns:
    What became of them; None when SIGTERM came: then everything is saved, and
    the same call goes on.
  """
  outcome = Outcome({}, {})
  for number, planned in enumerate(runs, start=1):
    path = results_path(planned)
    if path.exists():
      outcome.results[planned] = results_lib.read_results(path)
      continue
    console.rule(f'{number} of {len(runs)}: {planned.title}')
    try:
      found = experiment.train(
        planned.run,
        planned.directory,
        config_text=run_config.operative_config(planned.run),
        brief=True,
        console=console,
      )
    except (errors.UserError, jax.errors.JaxRuntimeError) as error:
      outcome.failures[planned] = str(error)
      console_lib.say(console, f'{planned.title} failed: {error}')
      continue
    finally:
      forget_programs()
    if found is None:
      return None
    outcome.results[planned] = found
  return outcome


def forget_programs() -> None:
  """Frees what was compiled for a run: the next one has programs of its own."""
  jax.clear_caches()
  gc.collect()
