"""What each verb of the `hypergrid` command calls.

A verb turns its flags into one call. Everything else is imported inside it, so
that `--help` stays quick and no verb pays for another.
"""

import argparse
import contextlib
import os
import pathlib
import typing
from typing import Any

if typing.TYPE_CHECKING:
  from collections.abc import Iterator

  from rich.console import Console

  from hypergrid_jax.config.run_config import RunConfig

PLAIN_WIDTH = 120  # columns of a table that is not written to a terminal


def train(options: argparse.Namespace) -> int:
  """Trains a run and evaluates it."""
  from hypergrid_jax.config import run_config

  run = _configured(options)

  with _together(options) as console:
    from hypergrid_jax.runs import experiment

    experiment.train(
      run,
      _model_dir(options),
      config_text=run_config.operative_config(run),
      fresh=options.fresh,
      console=console,
    )
  return 0


def evaluate(options: argparse.Namespace) -> int:
  """Evaluates checkpoints of a run."""
  run = _run_of_directory(options)

  with _together(options) as console:
    from hypergrid_jax.runs import experiment

    experiment.evaluate(
      run,
      options.model_dir,
      step=options.step,
      split=options.split,
      tasks=options.tasks,
      limit=options.limit,
      console=console,
    )
  return 0


def compare(options: argparse.Namespace) -> int:
  """Trains several methods on the same data, and writes one table."""
  from hypergrid_jax.comparing import plan

  planned = plan.make(
    options.methods,
    options.gin_file,
    options.bindings,
    _flags(options),
    directory=_model_dir(options),
    seeds=options.seeds,
    single_task_seeds=options.single_task_seeds,
  )

  from hypergrid_jax.comparing import command
  from hypergrid_jax.parallel import compilation_cache

  compilation_cache.turn_on()
  command.compare(
    planned,
    pairs=options.step_pairs,
    with_plot=not options.no_plot,
    console=_console(),
  )
  return 0


def predict(options: argparse.Namespace) -> int:
  """Predicts the rows of a file."""
  run = _run_of_directory(options)

  with _together(options) as console:
    from hypergrid_jax.prediction import files

    files.predict_file(
      run,
      options.model_dir,
      options.input,
      options.output,
      step=options.step,
      overwrite=options.overwrite,
      resume=options.resume,
      console=console,
    )
  return 0


def tokenize(options: argparse.Namespace) -> int:
  """Builds the token stores of a run."""
  run = _configured(options)

  from hypergrid_jax.inspection import tokenization

  tokenization.tokenize(
    run, _model_dir(options), test=options.test, console=_console()
  )
  return 0


def precompile(options: argparse.Namespace) -> int:
  """Compiles a run for devices that are not here."""
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # what is here is not used
  run = _configured(options)

  from hypergrid_jax.precompiling import command

  return command.precompile(
    run,
    options.topology,
    slices=options.slices,
    program=options.program,
    quick=options.quick,
    json_file=options.json,
    console=_console(),
  )


def list_tasks(options: argparse.Namespace) -> int:
  """Lists the tasks."""
  from hypergrid_jax.inspection import task_pages

  _load_task_files(options)
  _console().print(task_pages.overview(options.data_source))
  return 0


def show_task(options: argparse.Namespace) -> int:
  """Shows examples of one task."""
  from hypergrid_jax.inspection import task_pages

  _load_task_files(options)
  task_pages.show(options.name, split=options.split, **_page_options(options))
  return 0


def check_task(options: argparse.Namespace) -> int:
  """Checks the data of a task, or of all tasks of a file."""
  from hypergrid_jax.inspection import task_pages

  _load_task_files(options)
  for name in task_pages.resolve(options.name):
    task_pages.check(name, **_page_options(options))
  return 0


def import_weights(options: argparse.Namespace) -> int:
  """Imports T5 weights."""
  from hypergrid_jax import errors
  from hypergrid_jax.config import run_config

  run, text = None, ''
  if options.gin_file:
    run = _configured(options)
    text = run_config.operative_config(run)
  elif options.bindings:
    raise errors.UserError(
      f'{options.bindings[0]}: there is no run to set this in; name one with'
      ' --gin_file.'
    )
  if not options.plan and options.to is None:
    raise errors.UserError('--to is missing: the directory to write.')

  from hypergrid_jax.interop import importing

  given = {'run': run, 'vocab_rows': options.vocab_rows, 'console': _console()}
  if options.plan:
    importing.show_plan(options.source, **given)
  else:
    importing.import_weights(
      options.source, options.to, config_text=text, **given
    )
  return 0


def export_weights(options: argparse.Namespace) -> int:
  """Exports a checkpoint for transformers."""
  run = None
  if pathlib.Path(options.model_dir, 'run.json').exists():
    run = _run_of_directory(options)

  from hypergrid_jax.interop import exporting

  exporting.export(
    run,
    options.model_dir,
    options.output,
    task=options.task,
    step=options.step,
    max_shard_size=options.max_shard_size,
    vocab_rows=options.vocab_rows,
    console=_console(),
  )
  return 0


def edit(options: argparse.Namespace) -> int:
  """Writes a changed copy of a run."""
  from hypergrid_jax import errors
  from hypergrid_jax.config import run_config

  asked = ('add_tasks', 'remove_tasks', 'average', 'drop_optimizer')
  if not any(getattr(options, name) for name in asked):
    raise errors.UserError(
      'Nothing to change: name at least one of'
      f' {", ".join(f"--{name}" for name in asked)}.'
    )
  run = _run_of_directory(options)

  from hypergrid_jax.interop import editing

  editing.edit(
    run,
    options.model_dir,
    options.to,
    editing.Edit(
      add=options.add_tasks,
      like=options.like,
      remove=options.remove_tasks,
      average=options.average,
      step=options.step,
    ),
    config_text=run_config.operative_config,
    console=_console(),
  )
  return 0


def doctor(options: argparse.Namespace) -> int:
  """Checks the installation."""
  from hypergrid_jax.cli import doctor as doctor_lib

  return doctor_lib.report(options.data_source, console=_console())


def _configured(options: argparse.Namespace) -> 'RunConfig':
  """The run of gin files, bindings and flags."""
  from hypergrid_jax.config import run_config

  return run_config.parse(options.gin_file, options.bindings, _flags(options))


def _run_of_directory(options: argparse.Namespace) -> 'RunConfig':
  """The run that a directory holds, with what bindings and flags change."""
  from hypergrid_jax.config import run_config
  from hypergrid_jax.runs import directory

  directory.read_facts(options.model_dir)
  config = os.path.join(options.model_dir, 'config.gin')
  return run_config.parse([config], options.bindings, _flags(options))


def _model_dir(options: argparse.Namespace) -> str:
  stem = pathlib.Path(options.gin_file[-1]).stem
  return options.model_dir or os.path.join('runs', stem)


def _flags(options: argparse.Namespace) -> dict[str, str | list[str] | None]:
  from hypergrid_jax.config import run_config

  return {flag: getattr(options, flag) for flag in run_config.FLAGS}


def _load_task_files(options: argparse.Namespace):
  from hypergrid_jax.tasks import task_files

  task_files.load(options.task_file or ())


def _page_options(options: argparse.Namespace) -> dict[str, Any]:
  """What `tasks show` and `tasks check` have in common."""
  from hypergrid_jax.data import config

  given = {
    name: value
    for name in ('inputs_length', 'targets_length')
    if (value := getattr(options, name)) is not None
  }
  return {
    'source': options.data_source,
    'vocabulary': options.vocab,
    'num': options.num,
    'lengths': config.DataConfig(mixture=options.name, **given).lengths,
    'token_dir': options.token_dir,
    'console': _console(),
  }


@contextlib.contextmanager
def _together(options: argparse.Namespace) -> 'Iterator[Console]':
  """Connects the processes of a run; only the first one's console speaks.

  What they compile is kept.
  """
  from hypergrid_jax.parallel import clusters, compilation_cache

  cluster = clusters.find(
    options.distributed,
    coordinator=options.coordinator,
    num_processes=options.num_processes,
    process_id=options.process_id,
  )
  console = _console()
  if cluster is None:
    compilation_cache.turn_on()
    yield console
    return

  from hypergrid_jax.parallel import processes

  console.quiet = cluster.process_id > 0
  with processes.connected(
    cluster,
    run=' '.join(options.arguments),
    timeout_seconds=options.start_timeout,
  ):
    compilation_cache.turn_on()
    yield console


def _console() -> 'Console':
  from rich.console import Console

  console = Console()
  if console.is_terminal or 'COLUMNS' in os.environ:
    return console
  return Console(width=PLAIN_WIDTH)
