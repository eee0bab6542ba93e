"""How the TPU kernels cut a weight and its tokens, and what a grid costs.

`tpu_kernels` says what strips and bands are. Two things cost time beside the
matmuls: strips that fill only part of a matrix unit, and the elementwise work
of spreading gates. `cost` is within a tenth of the kernels' static schedules,
as `python benchmarks/gated_matmul.py --tpu v5e` prints them, for grids up to
16 x 16.
"""

import dataclasses
import functools
import itertools
import math
from typing import Literal
import warnings

from jax.experimental.pallas import tpu as pltpu

Cut = Literal['rows', 'columns']
Direction = Literal['forward', 'backward']

LANES = 128
# Tokens per step by the side of a matrix unit, the best first: a forward pass
# with large units needs more of them to fill the waits of its schedule.
FORWARD_TILES = {128: (256, 128), 256: (512, 256, 128)}
BACKWARD_TILES = (256, 128)
MOST_SHARDS = 64
# From this generation on vector units multiply bfloat16 as it is, two numbers
# at a time. A band whose features do not fill registers is slow to gate so.
FIRST_BFLOAT16 = 6
BFLOAT16_SUBLANES = 16
# What a kernel needs of a core's fast memory, over its own blocks, for what the
# compiler spills: more where strips are many, or not whole registers. What it
# does not ask for holds results of other operations between them. A kernel that
# spills much is slow anyway, and asks for more than it needs.
FEW_STRIPS = 16
SPILLS = 1.25
MANY_SPILLS = 1.5
MANY_SPILLS_MARGIN = 2

# Multiply-adds of a matrix unit per cycle, by its side, and single numbers
# that the vector units take, by generation.
MULTIPLY_ADDS = {128: 128**2, 256: 2 * 256**2}
VECTOR_RATES = {4: 2 * 8 * LANES}
VECTOR_RATE = 4 * 8 * LANES  # of the others
# Vector operations per feature and token on the side that is not cut: these,
# and these more for every strip. Counted in the schedules, like what those
# leave idle beside the matmuls and beside vector work that overlaps with them,
# by generation.
OPERATIONS = {'forward': (8, 1.5), 'backward': (12, 4.5)}
BFLOAT16_OPERATIONS = {'forward': (4, 0.75), 'backward': (6, 3.5)}
IDLE = {4: (0.0, 0.4), 5: (0.0, 0.0), 6: (0.05, 0.15)}
FAST = 1.15  # times the cost of the same kernel with a single gate


@dataclasses.dataclass(frozen=True)
class Chip:
  """The properties of a TPU that plans depend on.

  Attributes:
    cores: tensor cores that share one kernel.
    unit: side of a matrix unit.
    units: matrix units of a core.
    vmem: bytes of a core's fast memory.
    generation: 4 for v4, 5 for v5e and v5p, 6 for v6e.
  """

  cores: int
  unit: int
  units: int
  vmem: int
  generation: int = 5


def current_chip() -> Chip:
  """Returns the TPU that is computed on, or compiled for.

  Raises:
    ValueError: it is no TPU, or one that this JAX does not know.
  """
  info = pltpu.get_tpu_info()
  return Chip(
    cores=info.num_cores,
    unit=info.mxu_column_size,
    units=info.num_mxus,
    vmem=info.vmem_capacity_bytes,
    generation=info.generation,
  )


@dataclasses.dataclass(frozen=True)
class Pass:
  """One kernel: y, or all gradients.

  Attributes:
    cut: the side of the weight that is cut into strips.
    tile: tokens per step, a multiple of 128.
    shards: shards that the weight is visited in, for each all tokens.
    vmem_limit: bytes of fast memory the kernel may use.
  """

  cut: Cut
  tile: int
  shards: int
  vmem_limit: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """How one gated matmul is computed.

  Attributes:
    cores: tensor cores; they split the tokens or the shards of the weight.
    unit: side of a matrix unit.
    tokens: number of tokens, after padding.
    forward: the kernel of y.
    backward: the kernel of the gradients.
    bfloat16: whether bfloat16 activations are gated in bfloat16.
    interpret: whether the kernels run on a CPU, for tests.
  """

  cores: int
  unit: int
  tokens: int
  forward: Pass
  backward: Pass
  bfloat16: bool = False
  interpret: bool = False


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The shard of a gated matmul that one device computes.

  Attributes:
    tokens: rows times length.
    k: inputs.
    n: outputs.
    rows: blocks of the inputs.
    columns: blocks of the outputs.
    itemsize: bytes of an activation.
  """

  tokens: int
  k: int
  n: int
  rows: int
  columns: int
  itemsize: int

  def strips(self, cut: Cut) -> tuple[int, int, int]:
    """Returns number and width of strips, and the size of the other side."""
    if cut == 'rows':
      return self.rows, self.k // self.rows, self.n
    return self.columns, self.n // self.columns, self.k


def make_plan(
  chip: Chip,
  sizes: Sizes,
  *,
  cut: Cut | None = None,
  interpret: bool = False,
) -> Plan | None:
  """Plans the kernels; None when the weight does not fit in any way.

  Args:
    chip: the TPU.
    sizes: what one device computes.
    cut: the side to cut; None takes the cheaper one, forward and backward.
    interpret: whether the kernels run on a CPU.
  """
  multiple = chip.cores * LANES
  padded = -(-sizes.tokens // multiple) * multiple
  sizes = dataclasses.replace(sizes, tokens=padded // chip.cores)
  forward = _cheapest_pass(chip, sizes, 'forward', cut)
  backward = _cheapest_pass(chip, sizes, 'backward', cut)
  if forward is None or backward is None:
    return None
  return Plan(
    chip.cores,
    chip.unit,
    padded,
    forward,
    backward,
    bfloat16=chip.generation >= FIRST_BFLOAT16,
    interpret=interpret,
  )


def refined(plan: Plan, rows: int, columns: int) -> tuple[int, int]:
  """Returns the next finer grid whose blocks each lie in one shard."""
  return (
    math.lcm(rows, plan.backward.shards),
    math.lcm(columns, plan.forward.shards),
  )


def cost(chip: Chip, sizes: Sizes, direction: Direction, cut: Cut) -> float:
  """Returns one kernel's time in plain matmuls at the chip's peak."""
  count, width, narrow = sizes.strips(cut)
  partial = -(-width // chip.unit) * chip.unit / width
  # A strip fills the units where it is the left side of a product.
  matmuls = {
    ('columns', 'forward'): 1,
    ('columns', 'backward'): partial + 1,
    ('rows', 'forward'): partial,
    ('rows', 'backward'): partial + 2,
  }[cut, direction]
  # Cycles per token.
  plain = sizes.k * sizes.n / (chip.units * MULTIPLY_ADDS[chip.unit])
  once, per_strip = _operations(chip, sizes, direction, cut)
  rate = VECTOR_RATES.get(chip.generation, VECTOR_RATE)
  vector = narrow * (once + per_strip * count) / rate / plain
  idle, overlapping = IDLE.get(chip.generation, IDLE[max(IDLE)])
  return (
    max(matmuls, vector) + idle * matmuls + overlapping * min(matmuls, vector)
  )


def _operations(chip, sizes, direction, cut):
  # Strips of rows gate the sums of a forward pass, which are float32.
  scales = (cut, direction) != ('rows', 'forward')
  bands = sizes.rows if cut == 'columns' else sizes.columns
  _, _, narrow = sizes.strips(cut)
  filled = narrow // bands % BFLOAT16_SUBLANES == 0
  bfloat16 = chip.generation >= FIRST_BFLOAT16 and sizes.itemsize == 2
  table = BFLOAT16_OPERATIONS if scales and filled and bfloat16 else OPERATIONS
  return table[direction]


def total_cost(chip: Chip, sizes: Sizes) -> float:
  """Returns the time of forward and backward over three plain matmuls."""
  return sum(
    min(cost(chip, sizes, direction, cut) for cut in ('columns', 'rows')) / 3
    for direction in ('forward', 'backward')
  )


def faster_neighbour(chip: Chip, sizes: Sizes) -> Sizes | None:
  """Returns the nearest fast grid to a slow one; None for a fast one."""

  def on_grid(rows, columns):
    return dataclasses.replace(sizes, rows=rows, columns=columns)

  most = FAST * total_cost(chip, on_grid(1, 1))
  if total_cost(chip, sizes) <= most:
    return None
  grids = itertools.product(_divisors(sizes.k), _divisors(sizes.n))
  return min(
    (
      other
      for other in itertools.starmap(on_grid, grids)
      if total_cost(chip, other) <= most
    ),
    key=lambda other: (
      abs(math.log(other.rows / sizes.rows))
      + abs(math.log(other.columns / sizes.columns))
    ),
  )


@functools.cache
def warn_if_slow(chip: Chip, sizes: Sizes) -> None:
  """Warns once that a grid is slow on this chip, and names a fast one."""
  other = faster_neighbour(chip, sizes)
  if other is not None:
    warnings.warn(
      f'A gate of {sizes.rows} x {sizes.columns} blocks on a kernel of'
      f' {sizes.k} x {sizes.n} makes its matmul about'
      f' {total_cost(chip, sizes):.1f} times as slow as a plain one on this'
      f' TPU; {other.rows} x {other.columns} about'
      f' {total_cost(chip, other):.1f} times.',
      stacklevel=2,
    )


def _divisors(size: int) -> list[int]:
  return [d for d in range(1, size + 1) if size % d == 0]


def _cheapest_pass(chip, sizes, direction, cut):
  """Returns the cheaper cut's pass, or the other's if only that one fits."""
  cuts = (cut,) if cut else ('columns', 'rows')
  for choice in sorted(cuts, key=lambda c: cost(chip, sizes, direction, c)):
    fitting = _fitting_pass(chip, sizes, direction, choice)
    if fitting is not None:
      return fitting
  return None


def _fitting_pass(chip, sizes, direction, cut):
  """Returns the pass that fits, with the fewest shards and the best tile."""
  if direction == 'forward':
    divided, tiles = sizes.n, FORWARD_TILES[chip.unit]
  else:
    divided, tiles = sizes.k, BACKWARD_TILES
  for shards in (2**i for i in range(MOST_SHARDS.bit_length())):
    if divided % shards or (shards > 1 and divided // shards % LANES):
      return None
    for tile in tiles:
      needed = _bytes(sizes, direction, cut, tile, shards)
      if sizes.tokens % tile == 0 and needed <= chip.vmem:
        margin = MANY_SPILLS_MARGIN if _spills_much(sizes, cut) else 1
        return Pass(cut, tile, shards, min(chip.vmem, margin * needed))
  return None


def _spills_much(sizes, cut):
  count, width, _ = sizes.strips(cut)
  return count > FEW_STRIPS or width % LANES != 0


def _bytes(sizes, direction, cut, tile, shards):
  """Returns the bytes of one step: blocks, larger results and spills."""
  _, width, _ = sizes.strips(cut)
  spills = MANY_SPILLS if _spills_much(sizes, cut) else SPILLS
  size, k, n = sizes.itemsize, sizes.k, sizes.n
  k, n = (k, n / shards) if direction == 'forward' else (k / shards, n)
  # Strips lie on whole registers; 4 bytes are a float32.
  striped = k * n * -(-width // LANES) * LANES / width
  spread = tile * (k if cut == 'columns' else n)
  if direction == 'forward':
    blocks = 2 * tile * (k + n) * size
    sums = 12
    if cut == 'columns':
      sums, spread = 8, max(spread, tile * min(width, n))
    return int(spills * (blocks + striped * size + spread * (sums + size)))
  weights = striped * size + 4 * k * n
  if cut == 'rows':
    weights += k * n * size
  blocks = 2 * tile * (2 * k + n) * size
  return int(spills * (blocks + weights + spread * (12 + size)))
