"""The gated matmul beside a plain one, measured on this machine.

  python benchmarks/gated_matmul.py > gated_matmul.json
  python benchmarks/gated_matmul.py --tpu v5e,v6e

Takes turns between a plain matmul, every implementation that runs here, and the
naive way: a weight per example. It prints medians and quartiles in
milliseconds, forward and forward with backward, in float32 or --dtype. With
--tpu nothing is measured: the kernels are compiled, see `gated_matmul_tpu`.
"""

import argparse
import json
import sys
import time

import gated_matmul_tpu
import jax
import jax.numpy as jnp
import numpy as np

from hypergrid_jax import run_directory
from hypergrid_jax.ops import gated_matmul

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


def main() -> None:
  """Measures or compiles, and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--kernel', type=gated_matmul_tpu.sizes, help='such as 3072x768'
  )
  parser.add_argument('--grid', type=gated_matmul_tpu.sizes, help='such as 8x6')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--tpu', help='generations, such as v4,v5e,v5p,v6e')
  options = parser.parse_args()
  if options.tpu:
    gated_matmul_tpu.compile_grids(
      options.tpu.split(','), options.kernel, options.grid
    )
    return
  report = {
    'options': vars(options),
    'device': str(jax.devices()[0]),
    'versions': run_directory.versions(),
    'results': list(measure(options)),
  }
  json.dump(report, sys.stdout, indent=2)
  sys.stdout.write('\n')


if __name__ == '__main__':
  main()
