"""TPU slices by name: devices to compile for, and what they can do.

Nothing here was measured: the numbers of a chip are the published ones.
"""

from collections.abc import Sequence
import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from hypergrid_jax import errors

CPU = 'cpu'


@dataclasses.dataclass(frozen=True)
class Chip:
  """A generation of TPUs; all numbers are of one chip.

  Attributes:
    dims: of its slices: 2 for a plane of chips, 3 for a block.
    most_chips: of a slice.
    cores: tensor cores, by which slices of v4 and v5p are named.
    flops: per second, bfloat16.
    memory: bytes of HBM.
    memory_bandwidth: bytes per second.
    link: bytes per second of one link to a neighbour, one way; a chip has two
      links per dimension.
    dcn: bytes per second to other slices.
    options: what the compiler needs to know to take a chip as one device.
  """

  dims: int
  most_chips: int
  cores: int
  flops: float
  memory: float
  memory_bandwidth: float
  link: float
  dcn: float
  options: tuple[tuple[str, Any], ...] = ()

  @property
  def ici(self) -> float:
    """Bytes per second that a chip can send to its neighbours."""
    return 2 * self.dims * self.link


# FLOPs, HBM and the largest slices: cloud.google.com/tpu/docs, the page of each
# generation. Links and DCN: "How to Scale Your Model", chapter "How to Think
# About TPUs" (jax-ml.github.io/scaling-book/tpus); v4's DCN is not given there
# and taken as v5e's.
CHIPS = {
  'v4': Chip(
    dims=3,
    most_chips=4096,
    cores=2,
    flops=275e12,
    memory=32 * 2**30,
    memory_bandwidth=1228e9,
    link=45e9,
    dcn=3.125e9,
    options=(('chip_config_name', 'megacore'),),
  ),
  'v5e': Chip(
    dims=2,
    most_chips=256,
    cores=1,
    flops=197e12,
    memory=16 * 2**30,
    memory_bandwidth=819e9,
    link=45e9,
    dcn=3.125e9,
  ),
  'v5p': Chip(
    dims=3,
    most_chips=8960,
    cores=2,
    flops=459e12,
    memory=95 * 2**30,
    memory_bandwidth=2765e9,
    link=90e9,
    dcn=6.25e9,
  ),
  'v6e': Chip(
    dims=2,
    most_chips=256,
    cores=1,
    flops=918e12,
    memory=32 * 2**30,
    memory_bandwidth=1640e9,
    link=90e9,
    dcn=12.5e9,
  ),
}
# Chips by the number in an accelerator type; v4's and v5p's counts cores.
PLANES = {
  1: (1, 1),
  4: (2, 2),
  8: (2, 4),
  16: (4, 4),
  32: (4, 8),
  64: (8, 8),
  128: (8, 16),
  256: (16, 16),
}
BLOCKS = {
  8: (2, 2, 1),
  16: (2, 2, 2),
  32: (2, 2, 4),
  64: (2, 4, 4),
  128: (4, 4, 4),
  256: (4, 4, 8),
  512: (4, 8, 8),
  1024: (8, 8, 8),
  2048: (8, 8, 16),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to compile for.

  Attributes:
    name: such as 'v5e:4x4', or 'cpu'.
    chip: what each device is; None for CPUs.
    slices: how many slices there are, each of the name's size.
    devices: of all slices; nothing can be put on those of a TPU.
  """

  name: str
  chip: Chip | None
  slices: int
  devices: Sequence[jax.Device]

  def __str__(self) -> str:
    """The name, with the number of slices if there are several."""
    return self.name if self.slices == 1 else f'{self.slices} x {self.name}'


def known() -> tuple[str, ...]:
  """Names of topologies: one for every slice that is offered, and 'cpu'."""
  names = [
    f'{name}:{"x".join(map(str, dims))}'
    for name, chip in CHIPS.items()
    for dims in _sizes(chip).values()
  ]
  return (*names, CPU)


def find(name: str, *, slices: int = 1) -> Topology:
  """Returns the devices of a topology.

  Args:
    name: chips by dimension, 'v5e:4x4' or 'v5p:4x4x8'; an accelerator type,
      'v5e-16' or 'v5p-256'; or 'cpu', the CPU devices of this machine.
    slices: how many such slices, connected by DCN.

  Raises:
    UserError: there is no such topology, or libtpu is missing.
  """
  if name == CPU:
    return _cpu(slices)
  generation, dims = parse(name)
  chip = CHIPS[generation]
  full = f'{generation}:{"x".join(map(str, dims))}'
  options = dict(chip.options)
  if math.prod(dims) == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  if slices > 1:
    options['num_slices'] = slices
  _check_libtpu()
  _prepare_compiler()
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=full, **options
    )
  except jax.errors.JaxRuntimeError as error:
    raise errors.UserError(
      f'--topology={name}: the compiler refuses it: {error}.{_known_of(chip)}'
    ) from error
  return Topology(full, chip, slices, tuple(found.devices))


def _prepare_compiler():
  """Sets what libtpu reads when it is loaded."""
  # Two processes may compile at once, as two shells or tests do; the next two
  # silence messages about the TPU that is not here.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  # With the compiler's own 64 KiB, programs of wide layers kill the process.
  given = os.environ.get('LIBTPU_INIT_ARGS', '')
  if 'fibers_default_thread_stack_size' not in given:
    more = f'--fibers_default_thread_stack_size={2**20}'
    os.environ['LIBTPU_INIT_ARGS'] = f'{given} {more}'.strip()


def larger(topology: Topology) -> str | None:
  """The next larger slice of the same generation, if there is one."""
  if topology.chip is None:
    return None
  generation = topology.name.partition(':')[0]
  count = len(topology.devices) // topology.slices
  for dims in _sizes(topology.chip).values():
    if math.prod(dims) > count:
      return f'{generation}:{"x".join(map(str, dims))}'
  return None


def _cpu(slices: int) -> Topology:
  devices = jax.devices(CPU)
  if len(devices) % slices:
    raise errors.UserError(
      f'mesh.slices = {slices} does not divide the {len(devices)} CPU devices'
      ' of this machine. XLA_FLAGS=--xla_force_host_platform_device_count=8'
      ' makes it pretend to have 8.'
    )
  return Topology(CPU, None, slices, devices)


def parse(name: str) -> tuple[str, tuple[int, ...]]:
  """Returns generation and chips by dimension.

  Raises:
    UserError: there is no such topology.
  """
  match = re.fullmatch(r'(\w+?)(?:litepod)?(?:-(\d+)|:([\dx]+))', name.lower())
  generation = match[1] if match else name.lower().partition(':')[0]
  if match and name.lower().startswith('v5litepod'):
    generation = 'v5e'
  chip = CHIPS.get(generation)
  if match is None or chip is None:
    raise errors.UserError(
      f'--topology={name}: there is no such topology.'
      f'{errors.closest(name, known())} Expected chips by dimension, such as'
      f' v5e:4x4 or v5p:4x4x8, of {", ".join(CHIPS)}; an accelerator type such'
      ' as v5e-16; or cpu.'
    )
  if match[2]:
    dims = _sizes(chip).get(int(match[2]))
  else:
    dims = tuple(int(n) for n in match[3].split('x') if n)
    most = math.prod(dims) <= chip.most_chips
    if len(dims) != chip.dims or not (most and all(dims)):
      dims = None
  if dims is None:
    raise errors.UserError(
      f'--topology={name}: {generation} has no such slice.{_known_of(chip)}'
    )
  return generation, dims


def _sizes(chip: Chip) -> dict[int, tuple[int, ...]]:
  return PLANES if chip.dims == 2 else BLOCKS


def _known_of(chip: Chip) -> str:
  generation = next(name for name, other in CHIPS.items() if other == chip)
  names = [n for n in known() if n.startswith(f'{generation}:')]
  return f' There are {", ".join(names)}.'


def _check_libtpu():
  if importlib.util.find_spec('libtpu') is None:
    raise errors.UserError(
      "The TPU's compiler is not installed. It needs no TPU: pip install"
      " 'hypergrid_jax[tpu]', or pip install -e '.[tpu]' in a checkout."
    )
