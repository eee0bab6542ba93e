"""What the verbs import, export and edit call; see `verbs`."""

import argparse

from hypergrid_jax import verbs
from hypergrid_jax.errors import UserError


def import_weights(options: argparse.Namespace) -> int:
  """Imports T5 weights."""
  from hypergrid_jax import configuration

  run = text = None
  if options.gin_file:
    run = verbs.configured(options)
    text = configuration.operative_config(run)
  elif options.bindings:
    raise UserError(
      f'{options.bindings[0]}: there is no run to set this in; name one with'
      ' --gin_file.'
    )
  if not options.plan and options.to is None:
    raise UserError('--to is missing: the directory to write.')

  from hypergrid_jax.interop import importing

  given = {'run': run, 'vocab_rows': options.vocab_rows}
  if options.plan:
    importing.show_plan(options.source, **given, console=verbs.console())
  else:
    importing.import_weights(
      options.source,
      options.to,
      **given,
      config_text=text or '',
      console=verbs.console(),
    )
  return 0


def export_weights(options: argparse.Namespace) -> int:
  """Exports a checkpoint for transformers."""
  from hypergrid_jax.interop import trained

  run = None
  if trained.directory_has_run(options.model_dir):
    run = verbs.run_of_directory(options)

  from hypergrid_jax.interop import exporting

  exporting.export(
    run,
    options.model_dir,
    options.output,
    task=options.task,
    step=options.step,
    max_shard_size=options.max_shard_size,
    vocab_rows=options.vocab_rows,
    console=verbs.console(),
  )
  return 0


def edit(options: argparse.Namespace) -> int:
  """Writes a changed copy of a run."""
  from hypergrid_jax import configuration

  if not (
    options.add_tasks
    or options.remove_tasks
    or options.average
    or options.drop_optimizer
  ):
    raise UserError(
      'Nothing to change: name at least one of --add_tasks, --remove_tasks,'
      ' --average and --drop_optimizer.'
    )
  run = verbs.run_of_directory(options)

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
    config_text=configuration.operative_config,
    console=verbs.console(),
  )
  return 0
