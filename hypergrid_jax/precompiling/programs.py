"""The two programs of a run, compiled without data, parameters or a TPU.

They are made as `experiment` and `predict` make them, from shapes alone.
"""

import re
import typing

import jax
import jax.numpy as jnp

from hypergrid_jax.data import assembly
from hypergrid_jax.evaluation import predictor
from hypergrid_jax.model import decoding
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.precompiling.topologies import Topology
from hypergrid_jax.runs import batches, compiled_step, datasets, setup
from hypergrid_jax.tasks import definitions, task_files, vocabularies

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

# The compiler's units in messages about memory.
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class DoesNotFitError(Exception):
  """A program needs more memory than a device has.

  Attributes:
    needed: bytes, as far as the compiler says.
    available: bytes of the device that programs can use.
  """

  def __init__(self, needed: int, available: int, message: str):
    """Keeps the compiler's numbers and its message."""
    super().__init__(message)
    self.needed = needed
    self.available = available


def device_bytes(parts: setup.Setup) -> dict[str, int]:
  """Returns the bytes of the training state on each device, by kind."""
  return {
    'parameters': partitioning.bytes_per_device(parts.params),
    'optimiser state': partitioning.bytes_per_device(parts.state.opt_state),
  }


def build(run: 'RunConfig', topology: Topology) -> setup.Setup:
  """Makes what a run's programs are made of; reads no data.

  Raises:
    UserError: the configuration does not fit the devices, the vocabulary or the
      mixture.
  """
  task_files.load(run.data.task_files)
  size = run.model.vocab_size
  if size is None:
    size = vocabularies.load_vocabulary(run.data.vocabulary).size
  built = setup.build(
    run,
    size,
    num_tasks=len(datasets.task_ids(run.data.mixture)),
    devices=topology.devices,
  )
  setup.check_rows(run, built.mesh)
  rows = [run.evaluate.batch_size]
  partitioning.partition_spec(
    'evaluate.batch_size', rows, ['batch'], built.mesh, run.mesh.axis_rules()
  )
  return built


def compile_training(parts: setup.Setup) -> jax.stages.Compiled:
  """Compiles one training step.

  Raises:
    DoesNotFitError: it needs more memory than a device has.
  """
  selector = None
  if parts.run.sampler is not None:
    data = parts.run.data
    selector = batches.make_selector(
      parts.run,
      parts.model,
      trained_tasks(data.mixture),
      vocabularies.load_vocabulary(data.vocabulary),
    )
  return _compile(
    parts,
    lambda: compiled_step.trace_step(
      parts, batch_shapes(parts), selector=selector
    ).lower(),
  )


def trained_tasks(mixture: str | tuple[str, ...]) -> tuple[str, ...]:
  """The tasks of a mixture that have a training set."""
  names = datasets.task_names(mixture)
  return tuple(n for n in names if definitions.definition(n).train_split)


def compile_decoding(parts: setup.Setup) -> jax.stages.Compiled:
  """Compiles greedy decoding of one evaluation batch of the longest rows.

  Raises:
    DoesNotFitError: it needs more memory than a device has.
  """
  config, data = parts.run.evaluate, parts.run.data
  length = config.max_decode_length or data.targets_length
  decode = predictor.compiled(
    decoding.greedy_decode,
    parts.model,
    parts.batch_sharding,
    max_decode_length=length,
  )
  rows = config.batch_size
  arguments = (
    parts.params,
    _rows(parts, (rows, config.length_buckets[-1]), jnp.int32),
    _rows(parts, (rows,), jnp.int32),
  )
  return _compile(parts, lambda: decode.lower(*arguments))


def batch_shapes(parts: setup.Setup):
  """Shapes and shardings of a training batch, or of its candidates."""
  data, sampler = parts.run.data, parts.run.sampler
  rows = data.batch_size
  if sampler is not None:
    rows = sampler.per_task(rows) * len(trained_tasks(data.mixture))
  # One row is made, so that a large batch takes no memory.
  one = assembly.empty_batch(1, data.row_lengths, data.segments)
  return jax.tree.map(
    lambda a: _rows(parts, (rows, *a.shape[1:]), a.dtype), one
  )


def _rows(parts, shape, dtype):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=parts.batch_sharding)


def _compile(parts, lower):
  try:
    with jax.set_mesh(parts.mesh):
      return lower().compile()
  except jax.errors.JaxRuntimeError as error:
    needed = _overflow(str(error))
    if needed is None:
      raise
    raise DoesNotFitError(*needed, str(error)) from error


def _overflow(message: str) -> tuple[int, int] | None:
  """Bytes needed and there, if memory is what the compiler lacks."""
  number = r'([\d.]+)([KMGT]?)'
  for pattern in (
    rf'[Uu]sed {number} of {number} hbm',
    rf'\({number}\) exceeds available HBM \({number}\)',
  ):
    found = re.search(pattern, message)
    if found:
      used, unit, there, unit_there = found.groups()
      return (
        int(float(used) * _UNITS[unit]),
        int(float(there) * _UNITS[unit_there]),
      )
  return None
