"""The gated matmul beside a plain one: on this machine, or compiled for TPUs.

  python benchmarks/gated_matmul.py > gated_matmul.json
  python benchmarks/gated_matmul.py --tpu v5e,v6e > schedules.json

The first takes turns between a plain matmul, every implementation that runs
here, and the naive way: a weight per example. It prints medians and quartiles
in milliseconds, forward and forward with backward, in float32 or --dtype.

The second compiles ahead of time for each generation of TPU (extra `tpu`; no
TPU is used) and prints what `tpu_schedule` reads of the kernels, for 65,536
tokens in bfloat16. `ratio` is the sum over forward and backward kernel of the
longest of schedule, peak matmul rate and memory traffic, over three plain
matmuls at peak; `over_single_gate` is the sum of the schedules over that of the
same kernels with a 1 x 1 grid. `other_milliseconds` is XLA's own estimate for
what runs beside the kernels: casts and transposes of the weight and its
gradient, and the factors of every token.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import re
import sys
import tempfile
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import tpu_schedule

from hypergrid_jax import run_directory
from hypergrid_jax.ops import gated_matmul, tpu_plans

TPU_ROWS, TPU_LENGTH, TPU_SEGMENTS = 128, 512, 16
TPU_GRIDS = {
  (3072, 768): ((8, 6), (32, 6), (8, 3), (8, 8), (16, 16), (32, 32)),
  (768, 3072): ((8, 6), (32, 6), (8, 8), (16, 16), (32, 32)),
  (4096, 1024): ((8, 8), (32, 8), (8, 4), (16, 16), (32, 32)),
}
# By the name of each kernel: its part of the plan, the numbers it reads and
# writes per token, and how many plain matmuls it stands for.
KERNELS = {
  'gated_matmul_forward': ('forward', lambda k, n: k + n, 1),
  'gated_matmul_backward': ('backward', lambda k, n: 2 * k + n, 2),
}
# Rows, length, segments of a row: packed rows, rows of one example, short
# ones, and a step of decoding.
BATCHES = ((8, 512, 16), (8, 512, 1), (64, 64, 1), (32, 1, 1))


def naive(u, kernel, row, col):
  """A gated weight for every example, all at once."""
  b, segments, _ = row.shape
  factor = 2.0 * jax.nn.sigmoid(row[:, :, :, None] * col[:, :, None, :])
  factor = jnp.repeat(factor, kernel.shape[0] // row.shape[2], axis=2)
  factor = jnp.repeat(factor, kernel.shape[1] // col.shape[2], axis=3)
  y = jnp.einsum(
    'bslk,bskn->bsln',
    u.reshape(b, segments, -1, u.shape[2]),
    (factor * kernel[None, None]).astype(u.dtype),
  )
  return y.reshape(b, u.shape[1], -1)


def variants(batch):
  """Functions of u, kernel, row and col; the gate is 2 sigmoid."""
  rows, length, segments = batch
  ids = np.tile(1 + np.arange(length) * segments // length, (rows, 1))

  def gated(**choice):
    def run(u, kernel, row, col):
      return gated_matmul.gated_matmul(
        u, kernel, row, col, ids, offset=0.0, scale=2.0, **choice
      )

    return run

  return {
    'plain': lambda u, kernel, row, col: u @ kernel.astype(u.dtype),
    'naive': naive,
    'rows': gated(implementation='xla', cut='rows'),
    'columns': gated(implementation='xla', cut='columns'),
    'auto': gated(),
  }


def with_gradients(function):
  """The product and all its gradients."""

  def run(u, kernel, row, col, dy):
    y, pull = jax.vjp(function, u, kernel, row, col)
    return y, pull(dy)

  return run


def take_turns(functions, arguments, repeats):
  """Milliseconds of every function: quartiles over the turns."""
  functions = {name: jax.jit(f) for name, f in functions.items()}
  times = {name: [] for name in functions}
  for function in functions.values():
    jax.block_until_ready(function(*arguments))  # compiles
  for _ in range(repeats):
    for name, function in functions.items():
      began = time.perf_counter()
      jax.block_until_ready(function(*arguments))
      times[name].append(1e3 * (time.perf_counter() - began))
  plain = np.median(times['plain'])
  return {
    name: {
      'quartile_1': round(float(np.percentile(values, 25)), 3),
      'median': round(float(np.median(values)), 3),
      'quartile_3': round(float(np.percentile(values, 75)), 3),
      'over_plain': round(float(np.median(values) / plain), 3),
    }
    for name, values in times.items()
  }


def measure(options):
  """One record per shape of the batch."""
  rng = np.random.default_rng(0)
  k, n = options.kernel or (2048, 512)
  grid_rows, grid_cols = options.grid or (8, 8)

  def draw(*shape, dtype=np.float32):
    return jnp.asarray(rng.standard_normal(shape), dtype)

  for batch in BATCHES:
    rows, length, segments = batch
    arguments = (
      draw(rows, length, k, dtype=options.dtype),
      draw(k, n),
      draw(rows, segments, grid_rows),
      draw(rows, segments, grid_cols),
    )
    dy = draw(rows, length, n, dtype=options.dtype)
    functions = variants(batch)
    backward = {name: with_gradients(f) for name, f in functions.items()}
    yield {
      'rows': rows,
      'length': length,
      'segments': segments,
      'forward': take_turns(functions, arguments, options.repeats),
      'forward_and_backward': take_turns(
        backward, (*arguments, dy), options.repeats
      ),
    }


def compile_for_tpu(mesh, kernel, grid):
  """Compiles product and gradients for 65,536 tokens in bfloat16."""
  k, n = kernel
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=whole)

  def run(u, kernel, row, col, ids, dy):
    function = functools.partial(
      gated_matmul.gated_matmul,
      segment_ids=ids,
      offset=0.0,
      scale=2.0,
      implementation='pallas',
    )
    return with_gradients(function)(u, kernel, row, col, dy)

  with warnings.catch_warnings(), jax.set_mesh(mesh):
    warnings.simplefilter('ignore')  # slow grids are what we look at
    return (
      jax.jit(run)
      .lower(
        shape(TPU_ROWS, TPU_LENGTH, k, dtype=jnp.bfloat16),
        shape(k, n),
        shape(TPU_ROWS, TPU_SEGMENTS, grid[0]),
        shape(TPU_ROWS, TPU_SEGMENTS, grid[1]),
        shape(TPU_ROWS, TPU_LENGTH, dtype=jnp.int32),
        shape(TPU_ROWS, TPU_LENGTH, n, dtype=jnp.bfloat16),
      )
      .compile()
    )


def schedule(mesh, directory, kernel, grid):
  """What the compiler says of one kernel and grid on one chip."""
  k, n = kernel
  tokens = TPU_ROWS * TPU_LENGTH
  began = time.perf_counter()
  compiled = compile_for_tpu(mesh, kernel, grid)
  seconds = time.perf_counter() - began
  with jax.set_mesh(mesh):
    chip, facts = tpu_plans.current_chip(), tpu_schedule.facts()
  sizes = tpu_plans.Sizes(tokens, k, n, *grid, itemsize=2)
  plan = tpu_plans.make_plan(chip, sizes)
  peak = 1e3 * 2 * tokens * k * n / facts.peak
  record, total, longest = {}, 0.0, 0.0
  found = tpu_schedule.take_schedules(directory, list(KERNELS))
  for name, (work, moved, matmuls) in KERNELS.items():
    steps = getattr(plan, work)
    count = steps.parts * tokens // (facts.cores * steps.tile)
    static = 1e3 * found[name].bundles * count / facts.clock
    memory = 1e3 * 2 * tokens * moved(k, n) / facts.bytes_per_second
    total += static
    longest += max(static, matmuls * peak, memory)
    record[work] = {
      **dataclasses.asdict(steps),
      **dataclasses.asdict(found[name]),
      'milliseconds': round(static, 3),
      'memory_milliseconds': round(memory, 3),
    }
  memory = compiled.memory_analysis()
  activations = 2 * tokens * (k + n)
  cycles = re.findall(r'"estimated_cycles":"(\d+)"', compiled.as_text())
  return {
    'kernel': f'{k}x{n}',
    'grid': f'{grid[0]}x{grid[1]}',
    'ratio': round(longest / (3 * peak), 3),
    'predicted_ratio': round(tpu_plans.total_cost(chip, sizes), 3),
    'plain_milliseconds': round(3 * peak, 3),
    'milliseconds': round(total, 3),
    'other_milliseconds': round(1e3 * sum(map(int, cycles)) / facts.clock, 3),
    'temporary_bytes': memory.temp_size_in_bytes,
    'temporary_over_activations': round(
      memory.temp_size_in_bytes / activations, 4
    ),
    'compile_seconds': round(seconds, 1),
    **record,
  }


def schedules(options):
  """One record per generation, kernel and grid."""
  with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name) / 'dump'
    directory.mkdir()
    tpu_schedule.prepare(directory)
    for generation in options.tpu.split(','):
      mesh = tpu_schedule.mesh_of(generation)
      for kernel, grids in TPU_GRIDS.items():
        if options.kernel not in (None, kernel):
          continue
        single = schedule(mesh, directory, kernel, (1, 1))
        for grid in [options.grid] if options.grid else grids:
          record = schedule(mesh, directory, kernel, grid)
          over = record['milliseconds'] / single['milliseconds']
          yield {
            'tpu': generation,
            **record,
            'over_single_gate': round(over, 3),
          }


def sizes(text):
  """'8x6' -> (8, 6)."""
  first, second = text.split('x')
  return int(first), int(second)


def main() -> None:
  """Measures or compiles, and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kernel', type=sizes, help='such as 3072x768')
  parser.add_argument('--grid', type=sizes, help='such as 8x6')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--tpu', help='generations, such as v4,v5e,v5p,v6e')
  options = parser.parse_args()
  records = list(schedules(options) if options.tpu else measure(options))
  versions = run_directory.versions()
  if options.tpu:
    versions['libtpu'] = importlib.metadata.version('libtpu')
  report = {
    'options': vars(options),
    'device': options.tpu or str(jax.devices()[0]),
    'versions': versions,
    'results': records,
  }
  json.dump(report, sys.stdout, indent=2)
  sys.stdout.write('\n')


if __name__ == '__main__':
  main()
