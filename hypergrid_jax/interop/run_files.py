"""The files of a run that was not made by training it."""

import pathlib
import typing

from rich.console import Console

from hypergrid_jax.config import registry
from hypergrid_jax.model import Model
from hypergrid_jax.runs import batches, datasets, summary
from hypergrid_jax.runs import directory as directory_lib
from hypergrid_jax.runs import setup as setup_lib
from hypergrid_jax.tasks import task_files, vocabularies

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig


def model_of(run: 'RunConfig', *, directory: str = '') -> Model:
  """The model of a run; no data is read.

  Args:
    run: the configuration.
    directory: of the run, if it is there; for what task files are kept in.

  Raises:
    UserError: the configuration does not fit the vocabulary or the tasks.
  """
  run = setup_lib.on_these_devices(run)
  vocabulary = vocabularies.load_vocabulary(run.data.vocabulary)
  cache = setup_lib.token_dir(run, directory) if directory else None
  task_files.load(run.data.task_files, cache=cache)
  num_tasks = len(datasets.task_ids(run.data.mixture))
  return setup_lib.build(run, vocabulary.size, num_tasks=num_tasks).model


def write(
  run: 'RunConfig',
  directory: pathlib.Path,
  config_text: str,
  *,
  console: Console,
) -> None:
  """Writes config.gin and run.json as training does; opens the data for that.

  Args:
    run: the configuration.
    directory: of the run.
    config_text: its operative configuration.
    console: shows tokenising.

  Raises:
    UserError: the data cannot be read, or do not fit the configuration.
  """
  setup = setup_lib.set_up(
    setup_lib.on_these_devices(run), directory, console=console, train=True
  )
  loader = batches.make_loader(setup.run, setup.corpus)
  directory_lib.write(
    directory,
    config_text,
    summary.run_facts(setup, loader),
    modules=registry.module_texts(run.imports),
  )
