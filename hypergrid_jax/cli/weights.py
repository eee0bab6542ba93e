"""The verbs that bring weights in, write them for others, and edit runs."""

import pathlib

from hypergrid_jax import errors
from hypergrid_jax.cli import flags

app = flags.make_app()


@flags.verb(app, 'import')
def import_weights(
  *,
  from_: flags.Name,
  to: flags.Directory | None = None,
  plan: bool = False,
  gin_file: flags.Files | None = None,
  vocab_rows: flags.Count | None = None,
  settings: flags.Settings,
) -> None:
  """Make a checkpoint of T5 weights from elsewhere.

  The weights are a directory of Hugging Face transformers (config.json and
  safetensors), a checkpoint of T5X or of the original T5 (TensorFlow), a gs://
  URL of one of them, or a model of the Hugging Face hub.

  With --gin_file, DIR is that run at step 0, its method included. Without, it
  is a plain T5 for train.initial_checkpoint; its sizes are in DIR/model.gin.

  Flags:
    from_: the weights.
    to: the directory to write.
    plan: list every tensor and where it would go; read and write no weights.
    gin_file: the configuration of a run to prepare. May be repeated.
    vocab_rows: rows of the vocabulary; by default the next multiple of 128.

  Example:
    hypergrid import --from google-t5/t5-small --to checkpoints/small
  """
  from hypergrid_jax.config import run_config

  run, text = None, ''
  if gin_file:
    run = settings.run(gin_file)
    text = run_config.operative_config(run)
  elif settings.bindings:
    raise errors.UserError(
      f'{settings.bindings[0]}: there is no run to set this in; name one with'
      ' --gin_file.'
    )
  if not plan and to is None:
    raise errors.UserError('--to is missing: the directory to write.')

  from hypergrid_jax.interop import importing

  console = flags.console()
  if plan:
    importing.show_plan(from_, run=run, vocab_rows=vocab_rows, console=console)
    return
  importing.import_weights(
    from_,
    to,
    run=run,
    config_text=text,
    vocab_rows=vocab_rows,
    console=console,
  )


@flags.verb(app, 'export')
def export_weights(
  *,
  model_dir: flags.Directory,
  output: flags.Directory,
  step: flags.Step = 'best',
  task: flags.Name | None = None,
  max_shard_size: flags.Size = '5GB',
  vocab_rows: flags.Count | None = None,
  settings: flags.Settings,
) -> None:
  """Write a model for Hugging Face transformers.

  With --task, what depends on the task alone is multiplied into a plain T5;
  where that is not exact, the component is named and nothing written.

  Flags:
    model_dir: the run.
    output: the directory to write.
    step: the checkpoint; best is by the average.
    task: the task of the plain T5.
    max_shard_size: the largest file of tensors, such as 300MB.
    vocab_rows: rows of the vocabulary; by default all, or as many as were
      imported.

  Example:
    hypergrid export --model_dir=runs/quickstart_plain --output out
  """
  run = None
  if pathlib.Path(model_dir, 'run.json').exists():
    run = settings.run_of(model_dir)

  from hypergrid_jax.interop import exporting

  exporting.export(
    run,
    model_dir,
    output,
    task=task,
    step=step,
    max_shard_size=max_shard_size,
    vocab_rows=vocab_rows,
    console=flags.console(),
  )


@flags.verb(app, 'edit')
def edit(
  *,
  model_dir: flags.Directory,
  to: flags.Directory,
  step: flags.Step = 'best',
  add_tasks: flags.Names = None,
  like: flags.Name | None = None,
  remove_tasks: flags.Names = None,
  average: flags.Numbers = None,
  drop_optimizer: bool = False,
  settings: flags.Settings,
) -> None:
  """Add tasks to a trained model, remove some, or average checkpoints.

  Writes a run at step 0 with the parameters and no optimizer state. What the
  model does on the tasks it keeps does not change.

  Flags:
    model_dir: the run.
    to: the directory to write.
    step: the checkpoint; best is by the average.
    add_tasks: tasks to add at the end.
    like: a task whose parameters the added ones start from; by default they are
      drawn.
    remove_tasks: tasks to leave out.
    average: steps whose parameters are averaged.
    drop_optimizer: change nothing else: a copy with the parameters alone.

  Example:
    hypergrid edit --model_dir=runs/quickstart --to runs/more
      --add_tasks=glue_wnli --like=glue_rte
  """
  if not (add_tasks or remove_tasks or average or drop_optimizer):
    raise errors.UserError(
      'Nothing to change: name at least one of --add_tasks, --remove_tasks,'
      ' --average, --drop_optimizer.'
    )
  from hypergrid_jax.config import run_config

  run = settings.run_of(model_dir)

  from hypergrid_jax.interop import editing

  editing.edit(
    run,
    model_dir,
    to,
    editing.Edit(
      add=add_tasks or (),
      like=like,
      remove=remove_tasks or (),
      average=average or (),
      step=step,
    ),
    config_text=run_config.operative_config,
    console=flags.console(),
  )
