"""The files of a run that was not made by training it."""

import pathlib

from rich.console import Console

from hypergrid_jax import corpus, run_batches, run_directory, run_setup, summary
from hypergrid_jax.model import Model
from hypergrid_jax.tasks import task_files, vocabularies


def model_of(run: run_setup.Run, *, directory: str = '') -> Model:
  """The model of a run; no data is read.

  Args:
    run: the configuration.
    directory: of the run, if it is there; for what task files are kept in.

  Raises:
    UserError: the configuration does not fit the vocabulary or the tasks.
  """
  run = run_setup.on_these_devices(run)
  vocabulary = vocabularies.load_vocabulary(run.data.vocabulary)
  cache = run_setup.token_dir(run, directory) if directory else None
  task_files.load(run.data.task_files, cache=cache)
  num_tasks = len(corpus.task_ids(run.data.mixture))
  return run_setup.build(run, vocabulary.size, num_tasks=num_tasks)[0]


def write(
  run: run_setup.Run,
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
  setup = run_setup.set_up(
    run_setup.on_these_devices(run), directory, console=console, train=True
  )
  loader = run_batches.make_loader(setup.run, setup.corpus)
  facts = summary.run_facts(
    setup.model,
    setup.mesh,
    loader.summary(run.train.num_steps),
    trained=setup.trained,
  )
  run_directory.write(
    directory, config_text, {'identity': setup.identity, **facts}
  )
