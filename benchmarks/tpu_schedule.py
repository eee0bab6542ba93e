"""Static schedules of TPU kernels, from compiling ahead of time; no TPU needed.

libtpu writes the final bundles of instructions of every kernel to files. One
bundle takes one cycle when nothing waits, so that bundles per step times steps
over the clock is a lower bound of a kernel's time: it knows no waits for memory
and none inside a matrix unit. Nothing here is measured on a TPU.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import types

import jax
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu

from hypergrid_jax.ops import tpu_plans

# A topology with the fewest chips that libtpu takes; v4 and v5p come with two
# cores to a chip and a kernel uses both.
TOPOLOGIES = {
  'v4': ('v4:2x2x1', {'chip_config_name': 'megacore'}),
  'v5e': ('v5e:1x1', {'chips_per_host_bounds': (1, 1, 1)}),
  'v5p': ('v5p:2x2x1', {}),
  'v6e': ('v6e:1x1', {'chips_per_host_bounds': (1, 1, 1)}),
}
# Blocks that branches skip are shorter where they only start transfers.
LEAST_SKIPPED_BUNDLES = 100


@dataclasses.dataclass(frozen=True)
class Schedule:
  """What the compiler made of one kernel.

  Attributes:
    bundles: of one step.
    first_step_bundles: more of them in the first step only, which zeroes an
      accumulator.
    utilization: percent of each unit's slots that a step fills.
  """

  bundles: int
  first_step_bundles: int
  utilization: dict[str, int]


def prepare(directory: pathlib.Path) -> None:
  """Has libtpu write to a directory; to be called before anything compiles."""
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  # These two only silence messages about a missing TPU.
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ['LIBTPU_INIT_ARGS'] = (
    f'--xla_jf_dump_to={directory} --xla_jf_dump_llo_text=true'
  )


def mesh_of(generation: str) -> jax.sharding.Mesh:
  """One chip, to compile for under `jax.set_mesh`."""
  name, options = TOPOLOGIES[generation]
  found = topologies.get_topology_desc(
    platform='tpu', topology_name=name, **options
  )
  return jax.make_mesh(
    (1, 1),
    ('data', 'model'),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=found.devices[:1],
  )


def facts() -> types.SimpleNamespace:
  """Peak, clock, cores and memory speed of the chip of the current mesh."""
  info = pltpu.get_tpu_info()
  per_cycle = info.num_mxus * tpu_plans.MULTIPLY_ADDS[info.mxu_column_size]
  return types.SimpleNamespace(
    cores=info.num_cores,
    peak=info.num_cores * info.bf16_ops_per_second,
    clock=info.bf16_ops_per_second / (2 * per_cycle),
    bytes_per_second=info.num_cores * info.mem_bw_bytes_per_second,
  )


def take_schedules(directory: pathlib.Path, names: list[str]):
  """Reads and removes what libtpu wrote of the kernels with these names."""
  found = {}
  for path in sorted(directory.glob('*-final_bundles.txt')):
    name = next((name for name in names if name in path.name), None)
    if name and 'schedule-analysis' not in path.name:
      found[name] = _schedule(path)
  shutil.rmtree(directory)
  directory.mkdir()
  return found


def _schedule(path: pathlib.Path) -> Schedule:
  first, last, skipped = _loop(path.read_text())
  prefix = path.name.split('-', 1)[1].rsplit('-', 2)[0]
  table = next(
    other
    for other in path.parent.glob(
      f'*-{prefix}-*final_hlo-static-per-bundle-utilization.txt'
    )
    if 'pre-delay' not in other.name
  )
  lines = table.read_text().splitlines()
  units, slots = lines[1].split(','), [int(n) for n in lines[2].split()]
  rows = [[int(n) for n in line.split()] for line in lines[4:] if line]
  steady = [i for i in range(first, last + 1) if i not in skipped]
  return Schedule(
    bundles=len(steady),
    first_step_bundles=len(skipped),
    utilization={
      unit.strip(): round(
        100 * sum(rows[i][at] for i in steady) / (slots[at] * len(steady))
      )
      for at, unit in enumerate(units)
    },
  )


def _loop(text: str) -> tuple[int, int, set[int]]:
  """First and last bundle of the loop over steps; those of the first only."""
  starts, branches = {}, []
  for line in text.splitlines():
    place = re.match(r'\s*(0x[0-9a-f]+|0)\s+[A-Z ]*:', line)
    if not place:
      continue
    at = int(place[1], 16)
    for region in re.findall(r'Start(?:/End empty)? region (\d+)', line):
      starts.setdefault(region, at)
    jump = re.search(r'sbr\.rel \(!?%\w+\) target = \$region(\d+)', line)
    if jump:
      branches.append((at, jump[1]))
  jumps = [(at, starts[to]) for at, to in branches if to in starts]
  back = [(to, at) for at, to in jumps if to <= at]
  first, last = max(back, key=lambda loop: loop[1] - loop[0])
  # One branch skips a step's whole work, while the pipeline fills and drains.
  inner = [
    range(at + 1, to)
    for at, to in jumps
    if first < at < to <= last
    and LEAST_SKIPPED_BUNDLES < to - at < 0.9 * (last - first)
  ]
  return first, last, set().union(*inner)
