"""What a run says of itself before its first step: parameters and rates."""

from collections.abc import Iterable
import math
from typing import Any

from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import trees
from hypergrid_jax.data import candidates
from hypergrid_jax.data import loader as loader_lib
from hypergrid_jax.model import Model
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.runs import directory
from hypergrid_jax.runs.compiled_step import StepProgram
from hypergrid_jax.runs.setup import SetupWithData
from hypergrid_jax.training import freezing

_NAMED_DEVICES = 8


def parameter_counts(model: Model, trained: freezing.Trained) -> dict[str, Any]:
  """Counts parameters.

  Args:
    model: the architecture.
    trained: from `freezing.trained_parameters`.

  Returns:
    `total`, `trained`, `added` (that a plain T5 of this size lacks),
    `per_task` (what one more task would add: parameters with a `tasks` axis,
    divided by the number of tasks), and `groups`: the same count for each
    group of the model's parameters, two levels deep.
  """
  leaves = trees.flatten(model.abstract_params)
  sizes = {path: math.prod(leaf.shape) for path, leaf in leaves.items()}
  axes = trees.flatten(model.logical_axes, is_leaf=trees.is_axes)
  groups: dict[str, int] = {}
  for path, size in sizes.items():
    group = '/'.join(path.split('/')[:-1][:3])
    groups[group] = groups.get(group, 0) + size
  by_task = sum(size for path, size in sizes.items() if 'tasks' in axes[path])
  return {
    'total': sum(sizes.values()),
    'trained': sum(
      math.prod(freezing.trained_shape(leaves[path].shape, part))
      for path, part in trained.items()
    ),
    'added': sum(sizes[path] for path in model.added),
    'per_task': by_task // model.num_tasks,
    'groups': groups,
  }


def run_facts(
  setup: SetupWithData, loader: loader_lib.Loader | candidates.CandidateLoader
) -> dict[str, Any]:
  """Returns the facts of a run for run.json.

  Args:
    setup: the run.
    loader: its batches.

  Returns:
    Among others `identity`, which decides whether a run may go on in the
    directory; `majority_targets`, the most frequent target of every training
    set, which evaluation compares with; and `data`, see `Loader.summary`.
  """
  rows = setup.batch_sharding.shard_shape((setup.run.data.batch_size,))[0]
  return {
    'identity': setup.identity,
    'versions': directory.versions(),
    'mesh': dict(setup.mesh.shape),
    'devices': [str(device) for device in setup.mesh.devices.flat],
    'parameters': parameter_counts(setup.model, setup.trained),
    'data': loader.summary(setup.run.train.num_steps),
    'majority_targets': setup.majority_targets,
    'per_device': {
      'parameter_bytes': partitioning.bytes_per_device(setup.params),
      'optimizer_bytes': partitioning.bytes_per_device(setup.state.opt_state),
      'rows': rows,
    },
  }


def program_line(program: StepProgram) -> str:
  """Says what the compiled step needs beside the state."""
  size = program.temporary_bytes
  needs = 'unknown' if size is None else f'{size / 1e6:,.0f} MB'
  return f'Activations and other temporaries per device: {needs}.'


def show(
  facts: dict[str, Any],
  notes: Iterable[str],
  *,
  mixture: bool = True,
  console: Console,
) -> None:
  """Prints the facts before step 0.

  Args:
    facts: the facts of run.json.
    notes: sentences, each for a line of its own.
    mixture: show the tasks as well.
    console: prints them.
  """
  counts = facts['parameters']
  console_lib.say(
    console,
    f'Parameters: {counts["total"]:,} in all, {counts["trained"]:,} trained,'
    f' {counts["added"]:,} added by the method, {counts["per_task"]:,} per'
    ' task.',
  )
  mesh = ' x '.join(f'{axis} {size}' for axis, size in facts['mesh'].items())
  console_lib.say(console, f'Devices: {_some(facts["devices"])}; mesh {mesh}.')
  share = facts['per_device']
  console_lib.say(
    console,
    f'Per device: parameters {share["parameter_bytes"] / 1e6:,.1f} MB,'
    f' optimiser {share["optimizer_bytes"] / 1e6:,.1f} MB, {share["rows"]} of'
    f' the {facts["data"]["rows_per_batch"]} rows of a batch.',
  )
  if mixture:
    show_mixture(facts['data'], console=console)
  flops = facts['flops_per_step']
  if flops['selection']:
    console_lib.say(
      console,
      f'Choosing the rows takes {flops["selection"] / flops["step"]:.0%} of the'
      f' {flops["step"] / 1e9:,.1f} GFLOPs of a step: its matrix products,'
      ' counted in the program.',
    )
  for note in notes:
    console_lib.say(console, f'Note: {note}')


def _some(devices: list[str]) -> str:
  """Names few devices, and of a whole slice the first."""
  if len(devices) <= _NAMED_DEVICES:
    return ', '.join(devices)
  return f'{len(devices)}, the first {devices[0]}'


def show_mixture(data: dict[str, Any], *, console: Console) -> None:
  """Prints what `Loader.summary` says: the tasks, and how full rows are."""
  looked_at = data.get('candidates')
  table = console_lib.table(
    ('task',),
    ('examples', 'rate', 'drawn', 'examples/row', 'examples/step', 'epochs'),
    title='Candidates' if looked_at else 'Mixture',
  )
  for row in data['tasks']:
    table.add_row(
      row['task'],
      f'{row["examples"]:,}',
      f'{row["rate"]:.4f}',
      f'{row["measured_rate"]:.4f}',
      f'{row["segments_per_row"]:.2f}',
      f'{row["examples_per_step"]:.2f}',
      f'{row["epochs"]:.2f}',
    )
  console.print(table)
  if looked_at:
    console_lib.say(
      console,
      f'A step looks at {looked_at["rows"]} rows with'
      f' {looked_at["tokens"]:,.0f} tokens, {looked_at["per_task"]} of each'
      ' task, and trains on those that the model is least certain of: the table'
      ' says what it looks at.',
    )
  console_lib.say(
    console,
    f'A step has {data["rows_per_batch"]} rows and'
    f' {data["tokens_per_batch"]:,.0f} tokens; padding:'
    f' {data["encoder_padding_fraction"]:.1%} of the encoder,'
    f' {data["decoder_padding_fraction"]:.1%} of the decoder.',
  )
