"""What is known of one compiled program: memory, work, messages, time."""

from collections.abc import Mapping
import dataclasses
import time
from typing import Any

import jax

from hypergrid_jax.parallel import partitioning
from hypergrid_jax.precompiling import (
  collectives,
  hlo_costs,
  hlo_text,
  programs,
  topologies,
)
from hypergrid_jax.runs import compiled_step, setup

SECONDS_PER_HOUR = 3600


@dataclasses.dataclass(frozen=True)
class Roofline:
  """How long a program takes, in seconds, if only one thing limits it.

  The time of compute is FLOPs at the chip's published peak, and that of the
  networks takes all links of a chip as busy: both are lower bounds. The time of
  memory is from the estimate of `hlo_costs`, which can be too high. At best all
  of them overlap, and the largest is the time of the whole.

  Attributes:
    compute: matrix products.
    memory: reads and writes of main memory.
    ici: messages in a slice.
    dcn: messages between slices.
  """

  compute: float
  memory: float
  ici: float
  dcn: float

  @property
  def seconds(self) -> float:
    """The largest."""
    return max(dataclasses.astuple(self))

  @property
  def limit(self) -> str:
    """The name of the largest."""
    times = dataclasses.asdict(self)
    return max(times, key=times.get)


@dataclasses.dataclass(frozen=True)
class Measures:
  """One program compiled for one topology; sizes are of one device.

  Attributes:
    memory: bytes by kind; they add up to what the program needs.
    available: bytes that programs can use; None when not known.
    costs: FLOPs and bytes of memory.
    collectives: messages between devices.
    roofline: times by limit; None for CPUs.
    compile_seconds: how long compiling took on this machine.
  """

  memory: Mapping[str, int]
  available: int | None
  costs: hlo_costs.Costs
  collectives: tuple[collectives.Collective, ...]
  roofline: Roofline | None
  compile_seconds: float

  @property
  def needed(self) -> int:
    """Bytes of memory."""
    return sum(self.memory.values())

  def as_json(self) -> dict[str, Any]:
    """Plain values, for a file."""
    values = dataclasses.asdict(self)
    values['costs']['flops'] = self.costs.flops
    values['memory'] = dict(self.memory)
    values['needed'] = self.needed
    if self.roofline is not None:
      values['roofline'] |= {
        'seconds': self.roofline.seconds,
        'limit': self.roofline.limit,
      }
    return values


def training(parts: setup.Setup, topology: topologies.Topology) -> Measures:
  """Compiles and measures a training step.

  Raises:
    DoesNotFitError: it needs more memory than a device has.
  """
  begun = time.monotonic()
  compiled = programs.compile_training(parts)
  seconds = time.monotonic() - begun
  return measure(
    compiled, parts, topology, programs.device_bytes(parts), seconds
  )


def decoding(parts: setup.Setup, topology: topologies.Topology) -> Measures:
  """Compiles and measures decoding; its loop counts to the greatest length.

  Raises:
    DoesNotFitError: it needs more memory than a device has.
  """
  begun = time.monotonic()
  compiled = programs.compile_decoding(parts)
  seconds = time.monotonic() - begun
  held = {'parameters': partitioning.bytes_per_device(parts.params)}
  return measure(compiled, parts, topology, held, seconds)


def measure(
  compiled: jax.stages.Compiled,
  parts: setup.Setup,
  topology: topologies.Topology,
  held: Mapping[str, int],
  seconds: float,
) -> Measures:
  """Reads a compiled program.

  Args:
    compiled: the program.
    parts: for the mesh.
    topology: what it was compiled for.
    held: bytes of its inputs on each device, by kind.
    seconds: that compiling took.
  """
  module = hlo_text.parse(compiled.as_text())
  costs = hlo_costs.costs(module)
  found = collectives.collectives(
    module, dict(parts.mesh.shape), slice_axis=partitioning.SLICE
  )
  return Measures(
    memory=_memory(compiled.memory_analysis(), held),
    available=None if topology.chip is None else int(topology.chip.memory),
    costs=costs,
    collectives=found,
    roofline=_roofline(costs, found, topology.chip),
    compile_seconds=seconds,
  )


def _memory(stats, held: Mapping[str, int]) -> dict[str, int]:
  """Bytes by kind at the moment when the program needs most."""
  inputs = stats.argument_size_in_bytes
  outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
  return {
    **held,
    'batch, and padding of inputs': inputs - sum(held.values()),
    'outputs that reuse no input': outputs,
    'activations, gradients and other temporaries': (
      compiled_step.temporary_bytes(stats)
    ),
    'program': stats.generated_code_size_in_bytes,
  }


def _roofline(costs, found, chip) -> Roofline | None:
  if chip is None:
    return None
  slow = sum(
    one.sent
    for one in found
    if one.kind == collectives.DCN or partitioning.SLICE in one.axes
  )
  fast = sum(one.sent for one in found) - slow
  return Roofline(
    compute=costs.flops / chip.flops,
    memory=costs.bytes / chip.memory_bandwidth,
    ici=fast / chip.ici,
    dcn=slow / chip.dcn,
  )


def chip_hours(
  measures: Measures, topology: topologies.Topology, steps: int
) -> dict[str, float] | None:
  """Chip-hours of so many steps; None for CPUs.

  Returns:
    `estimate`, from the largest time of the roofline, and `least`, from the
    FLOPs at the chip's peak alone.
  """
  roofline = measures.roofline
  if roofline is None:
    return None
  hours = steps * len(topology.devices) / SECONDS_PER_HOUR
  return {
    'estimate': hours * roofline.seconds,
    'least': hours * roofline.compute,
  }
