"""The verbs that train and use runs, and `doctor`.

A verb turns its flags into one call. Everything else is imported inside it, so
that `--help` stays quick and no verb pays for another.
"""

from collections.abc import Iterator, Sequence
import contextlib
import os
import pathlib
import typing
from typing import Annotated, Literal

import typer

from hypergrid_jax.cli import flags

if typing.TYPE_CHECKING:
  from rich.console import Console

app = flags.make_app()


@flags.verb(app, 'train')
def train(
  context: typer.Context,
  *,
  gin_file: flags.Files,
  model_dir: flags.Directory | None = None,
  fresh: bool = False,
  settings: flags.Settings,
  processes: flags.Processes,
) -> None:
  """Train, or go on training, and evaluate.

  Goes on when DIR holds the same run.

  Flags:
    gin_file: the configuration; looked for here, then among the installed
      files. May be repeated.
    model_dir: the run; by default runs/NAME for NAME.gin.
    fresh: move what DIR holds aside and start anew.

  Example:
    hypergrid train --gin_file=gin/runs/quickstart.gin train.seed=1
  """
  from hypergrid_jax.config import run_config

  run = settings.run(gin_file)

  with _connected(context, processes) as console:
    from hypergrid_jax.runs import experiment

    experiment.train(
      run,
      model_dir or _default_directory(gin_file),
      config_text=run_config.operative_config(run),
      fresh=fresh,
      console=console,
    )


@flags.verb(app, 'eval')
def evaluate(
  context: typer.Context,
  *,
  model_dir: flags.Directory,
  step: flags.Steps = 'best',
  split: flags.Name | None = None,
  tasks: flags.Names = None,
  limit: flags.Count | None = None,
  settings: flags.Settings,
  processes: flags.Processes,
) -> None:
  """Evaluate checkpoints of a run: metrics, predictions, table.

  Flags:
    model_dir: the run.
    step: the checkpoints; best is by the average.
    split: 'validation', 'test' or 'train'.
    tasks: by default all of the mixture.
    limit: examples per task.

  Example:
    hypergrid eval --model_dir=runs/quickstart --tasks=glue_sst2
  """
  run = settings.run_of(model_dir)

  with _connected(context, processes) as console:
    from hypergrid_jax.runs import experiment

    experiment.evaluate(
      run,
      model_dir,
      step=step,
      split=split,
      tasks=tasks,
      limit=limit,
      console=console,
    )


@flags.verb(app, 'compare')
def compare(
  *,
  gin_file: flags.Files,
  methods: flags.Names,
  model_dir: flags.Directory | None = None,
  seeds: flags.Numbers = '0',
  single_task_seeds: flags.Numbers = None,
  step_pairs: Annotated[int, typer.Option(metavar='N', min=0)] = 20,
  no_plot: bool = False,
  settings: flags.Settings,
) -> None:
  """Train several methods on the same data, and write one table.

  Every method is a run of its own in DIR/METHOD/seedN; the same command goes
  on. Writes compare.md, .csv, .json and .png.

  Flags:
    gin_file: what all runs share. May be repeated.
    methods: files of gin/methods without .gin, paths of gin files, or classes
      of your own, MODULE.CLASS; A+B for two in one model; single_task for a
      plain T5 per task.
    model_dir: the comparison; by default runs/NAME for NAME.gin.
    seeds: one run of each method for each.
    single_task_seeds: those of single_task; by default the first of --seeds.
    step_pairs: steps of each method to time beside as many of a plain T5.
    no_plot: do without matplotlib.

  Example:
    hypergrid compare --gin_file=gin/runs/compare.gin --methods=plain,hypergrid
  """
  from hypergrid_jax.comparing import plan

  planned = plan.make(
    methods,
    gin_file,
    settings.bindings or (),
    settings.short_bindings,
    imports=settings.import_ or (),
    directory=model_dir or _default_directory(gin_file),
    seeds=seeds,
    single_task_seeds=single_task_seeds,
  )

  from hypergrid_jax.comparing import command
  from hypergrid_jax.parallel import compilation_cache

  compilation_cache.turn_on()
  command.compare(
    planned,
    pairs=step_pairs,
    with_plot=not no_plot,
    console=flags.console(),
  )


@flags.verb(app, 'predict')
def predict(
  context: typer.Context,
  *,
  model_dir: flags.Directory,
  input_: flags.File,
  output: flags.File,
  step: flags.Step = 'best',
  resume: bool = False,
  overwrite: bool = False,
  settings: flags.Settings,
  processes: flags.Processes,
) -> None:
  """Predict rows of any mix of tasks.

  A row is {"task": NAME, "fields": {...}} or {"task": NAME, "inputs": TEXT},
  with an "id" if wanted.

  Flags:
    model_dir: the run.
    input_: rows, as .jsonl or .jsonl.gz.
    output: where predictions go.
    step: the checkpoint; best is by the average.
    resume: go on where a stopped run was.
    overwrite: replace an output that is there.

  Example:
    hypergrid predict --model_dir=runs/quickstart --input rows.jsonl
      --output answers.jsonl
  """
  run = settings.run_of(model_dir)

  with _connected(context, processes) as console:
    from hypergrid_jax.prediction import files

    files.predict_file(
      run,
      model_dir,
      input_,
      output,
      step=step,
      overwrite=overwrite,
      resume=resume,
      console=console,
    )


@flags.verb(app, 'tokenize')
def tokenize(
  *,
  gin_file: flags.Files,
  model_dir: flags.Directory | None = None,
  test: bool = False,
  settings: flags.Settings,
) -> None:
  """Build the token stores of a run, and say what is in them.

  Flags:
    gin_file: the configuration. May be repeated.
    model_dir: the run; by default runs/NAME for NAME.gin.
    test: build the test splits too.

  Example:
    hypergrid tokenize --gin_file=gin/runs/quickstart.gin --token_dir=tokens
  """
  run = settings.run(gin_file)

  from hypergrid_jax.inspection import tokenization

  tokenization.tokenize(
    run,
    model_dir or _default_directory(gin_file),
    test=test,
    console=flags.console(),
  )


@flags.verb(app, 'precompile')
def precompile(
  *,
  gin_file: flags.Files,
  topology: flags.Name,
  slices: flags.Count | None = None,
  program: Literal['train', 'decode'] | None = None,
  quick: bool = False,
  json: flags.File | None = None,
  settings: flags.Settings,
) -> int:
  """Compile a run for a TPU slice without one: what it takes and costs.

  Needs neither data nor a TPU, only its compiler: the extra tpu. Exit code 1
  when a step does not fit; changes that make it fit are tried then.

  Flags:
    gin_file: the configuration. May be repeated.
    topology: chips by dimension, such as v5e:4x4 or v5p:4x4x8; an accelerator
      type, such as v5e-16 or v4-128; or cpu.
    slices: how many such slices; by default mesh.slices.
    program: compile only this one; by default both.
    quick: optimise less, which takes a fifth of the time: the same FLOPs, more
      memory and traffic.
    json: write all numbers there, too.

  Example:
    hypergrid precompile --gin_file=gin/runs/glue_super_glue_base.gin
      --vocab=t5.model --topology=v5e:2x4
  """
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # what is here is not used
  run = settings.run(gin_file)

  from hypergrid_jax.precompiling import command

  return command.precompile(
    run,
    topology,
    slices=slices,
    program=program,
    quick=quick,
    json_file=json,
    console=flags.console(),
  )


@flags.verb(app, 'doctor')
def doctor(*, data_source: flags.Name | None = None) -> int:
  """Check versions, devices and data, and say how to get what is missing.

  Exit code 0 when everything needed is there, 1 otherwise.

  Flags:
    data_source: check this too: 'sample' (bundled), 'tfds' or 'files:DIR'.

  Example:
    hypergrid doctor --data_source=files:DIR
  """
  from hypergrid_jax.cli import doctor as doctor_lib

  return doctor_lib.report(data_source, console=flags.console())


def _default_directory(gin_files: Sequence[str]) -> str:
  return os.path.join('runs', pathlib.Path(gin_files[-1]).stem)


@contextlib.contextmanager
def _connected(
  context: typer.Context, options: flags.Processes
) -> 'Iterator[Console]':
  """Connects the processes of a run; only the first one's console prints.

  Keeps what they compile.
  """
  from hypergrid_jax.parallel import clusters, compilation_cache

  cluster = clusters.find(
    options.distributed,
    coordinator=options.coordinator,
    num_processes=options.num_processes,
    process_id=options.process_id,
  )
  console = flags.console()
  if cluster is None:
    compilation_cache.turn_on()
    yield console
    return

  from hypergrid_jax.parallel import processes

  console.quiet = cluster.process_id > 0
  with processes.connected(
    cluster,
    run=_as_typed(context),
    timeout_seconds=options.start_timeout,
  ):
    compilation_cache.turn_on()
    yield console


def _as_typed(context: typer.Context) -> str:
  """The command line, but for what tells the processes of a run apart."""
  words = [context.info_name]
  for name, value in context.params.items():
    if name != 'process_id' and value not in (None, False):
      values = value if isinstance(value, list | tuple) else [value]
      flag = '' if name == 'bindings' else f'--{name}='
      words += [f'{flag}{each}' for each in values]
  return ' '.join(words)
