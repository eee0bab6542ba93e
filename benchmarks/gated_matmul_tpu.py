"""The gated matmul's TPU kernels as they are scheduled; no TPU is used.

  python benchmarks/gated_matmul_tpu.py            compiles what is not kept yet
  python benchmarks/gated_matmul_tpu.py --tpu v5e --kernel 3072x768 --grid 8x6

Compiles product and gradients for 65,536 tokens in bfloat16 ahead of time, for
each generation of TPU (extra `tpu`), and keeps what `tpu_schedule` reads of the
kernels in benchmarks/results/gated_matmul_tpu.json. With --rectified the
kernels are those behind a ReLU, in a scan; see
`hypergrid_jax.ops.relu_dropout`.
"""

import argparse
import dataclasses
import functools
import pathlib
import re
import tempfile
import time
from typing import Any
import warnings

import jax
import jax.numpy as jnp
import kept_cells
import tpu_schedule

from hypergrid_jax.ops import gated_matmul, relu_dropout, scan_stash, tpu_plans

FILE = 'gated_matmul_tpu.json'
GENERATIONS = ('v5e', 'v6e', 'v5p', 'v4')
ROWS, LENGTH, SEGMENTS = 128, 512, 16
TOKENS = ROWS * LENGTH
# wo and wi of T5 base and large. The first grids are the fast ones.
GRIDS = {
  (3072, 768): ((8, 6), (32, 6), (8, 3), (8, 8), (16, 16), (32, 32)),
  (768, 3072): ((8, 6), (32, 6), (8, 8), (16, 16), (32, 32)),
  (4096, 1024): ((8, 8), (8, 4), (32, 8), (16, 16), (32, 32)),
  (1024, 4096): ((8, 8), (8, 16), (16, 16), (32, 32)),
}
SLOPE = 1 / 0.9  # of dropout at T5's rate
# By the name of each kernel: its part of the plan, the numbers it reads and
# writes per token, and how many plain matmuls it stands for.
KERNELS = {
  'gated_matmul_forward': ('forward', lambda k, n: k + n, 1),
  'gated_matmul_backward': ('backward', lambda k, n: 2 * k + n, 2),
}
ABOUT = {
  'what': (
    'Output of a compiler and arithmetic on it: nothing was measured on a TPU.'
  ),
  'shapes': (
    f'{TOKENS} tokens in bfloat16: {ROWS} rows of {LENGTH} with {SEGMENTS}'
    ' segments; kernels are inputs x outputs, grids rows x columns; one chip'
  ),
  'ratio': (
    'R: over the forward and the backward kernel, the sum of the longest of'
    ' static schedule, matmuls at peak and memory traffic, over three plain'
    ' matmuls at peak'
  ),
  'over_single_gate': (
    "R': the sum of the static schedules, over that of the same kernels with a"
    ' 1 x 1 grid'
  ),
  'milliseconds': 'sum of the static schedules: bundles x steps / clock',
  'other_milliseconds': (
    'estimate by XLA of what runs beside the kernels: casts and transposes of'
    " the weight and its gradient, and every token's factors"
  ),
  'temporary_over_activations': 'temporary memory over that of u and y',
  'utilization': "percent of each unit's slots that a step of the kernel fills",
}


def cell_name(generation, kernel, grid, *, rectified=False) -> str:
  """Such as 'v5e 3072x768 8x6'."""
  name = f'{generation} {kernel[0]}x{kernel[1]} {grid[0]}x{grid[1]}'
  return f'{name} rectified' if rectified else name


def compile_for_tpu(mesh, kernel, grid, rectified) -> jax.stages.Compiled:
  """Compiles product and gradients."""
  k, n = kernel
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=whole)

  def run(u, kernel, row, col, ids, dy):
    def function(x, *others):
      if rectified:
        x = relu_dropout.ReluDropout(x, None, SLOPE)
      return gated_matmul.gated_matmul(
        x, *others, ids, offset=0.0, scale=2.0, implementation='pallas'
      )

    # As in a train step, where the kernels read one layer's array in a stack.
    first = functools.partial(in_a_scan, function) if rectified else function
    y, pull = jax.vjp(first, u, kernel, row, col)
    return y, pull(dy)

  with warnings.catch_warnings(), jax.set_mesh(mesh):
    warnings.simplefilter('ignore')  # slow grids are what we look at
    return (
      jax.jit(run)
      .lower(
        shape(ROWS, LENGTH, k, dtype=jnp.bfloat16),
        shape(k, n),
        shape(ROWS, SEGMENTS, grid[0]),
        shape(ROWS, SEGMENTS, grid[1]),
        shape(ROWS, LENGTH, dtype=jnp.int32),
        shape(ROWS, LENGTH, n, dtype=jnp.bfloat16),
      )
      .compile()
    )


def in_a_scan(function, u, *weights):
  """Of a single layer."""

  def body(_, weights):
    return None, function(u, *weights)

  stacked = jax.tree.map(lambda x: x[None], weights)
  return scan_stash.scan(body, None, stacked)[1][0]


def schedule(mesh, directory, kernel, grid, rectified) -> dict[str, Any]:
  """What the compiler says of one kernel and grid on one chip."""
  k, n = kernel
  began = time.perf_counter()
  compiled = compile_for_tpu(mesh, kernel, grid, rectified)
  seconds = time.perf_counter() - began
  with jax.set_mesh(mesh):
    chip, facts = tpu_plans.current_chip(), tpu_schedule.facts()
  sizes = tpu_plans.Sizes(TOKENS, k, n, *grid, itemsize=2)
  plan = tpu_plans.make_plan(chip, sizes)
  found = tpu_schedule.take_schedules(directory, list(KERNELS))
  peak = 1e3 * 2 * TOKENS * k * n / facts.peak
  record, total, longest = {}, 0.0, 0.0
  for name, (work, moved, matmuls) in KERNELS.items():
    steps = getattr(plan, work)
    count = steps.shards * TOKENS // (facts.cores * steps.tile)
    static = 1e3 * found[name].bundles * count / facts.clock
    memory = 1e3 * 2 * TOKENS * moved(k, n) / facts.bytes_per_second
    total += static
    longest += max(static, matmuls * peak, memory)
    record[work] = {
      **dataclasses.asdict(steps),
      **dataclasses.asdict(found[name]),
      'milliseconds': round(static, 4),
      'peak_milliseconds': round(matmuls * peak, 4),
      'memory_milliseconds': round(memory, 4),
    }
  cycles = re.findall(r'"estimated_cycles":"(\d+)"', compiled.as_text())
  temporary = compiled.memory_analysis().temp_size_in_bytes
  return {
    'ratio': round(longest / (3 * peak), 3),
    'predicted_ratio': round(tpu_plans.total_cost(chip, sizes), 3),
    'plain_milliseconds': round(3 * peak, 4),
    'milliseconds': round(total, 4),
    'other_milliseconds': round(1e3 * sum(map(int, cycles)) / facts.clock, 3),
    'temporary_bytes': temporary,
    'temporary_over_activations': round(temporary / (2 * TOKENS * (k + n)), 4),
    'compile_seconds': round(seconds, 1),
    **record,
  }


def compile_missing(wanted) -> None:
  """Compiles the cells that are not kept: generation, kernel, grid, rectified.

  Prints a line for each.
  """
  with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name) / 'dump'
    directory.mkdir()
    tpu_schedule.prepare(directory)
    for generation, kernel, grid, rectified in wanted:
      cell = cell_name(generation, kernel, grid, rectified=rectified)
      cells = kept_cells.of_these_versions(FILE)
      if cell in cells:
        continue
      mesh = tpu_schedule.mesh_of(generation)
      values = schedule(mesh, directory, kernel, grid, rectified)
      single = cells.get(cell_name(generation, kernel, (1, 1)), values)
      over = values['milliseconds'] / single['milliseconds']
      values['over_single_gate'] = round(over, 3)
      kept_cells.keep(FILE, ABOUT, cell, values)
      print(cell, values['ratio'], values['over_single_gate'], flush=True)


def compile_grids(generations, kernel, grid, *, rectified=False) -> None:
  """Compiles one kernel or all, with one grid or all, where not kept."""
  compile_missing(
    (generation, shape, each, rectified and each != (1, 1))
    for generation in generations
    for shape in ([kernel] if kernel else GRIDS)
    for each in ((1, 1), *([grid] if grid else GRIDS[shape]))
  )


def sizes(text: str) -> tuple[int, int]:
  """'8x6' -> (8, 6)."""
  first, second = text.split('x')
  return int(first), int(second)


def main() -> None:
  """Compiles what is asked for and not there yet."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--tpu', default=','.join(GENERATIONS))
  parser.add_argument('--kernel', type=sizes, help='such as 3072x768')
  parser.add_argument('--grid', type=sizes, help='such as 8x6')
  parser.add_argument('--rectified', action='store_true')
  options = parser.parse_args()
  compile_grids(
    options.tpu.split(','),
    options.kernel,
    options.grid,
    rectified=options.rectified,
  )


if __name__ == '__main__':
  main()
