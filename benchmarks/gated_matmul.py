"""The gated matmul beside a plain one, measured on this machine.

  python benchmarks/gated_matmul.py > gated_matmul.json
  python benchmarks/gated_matmul.py --tpu v5e,v6e

Takes turns between a plain matmul, every form of the gated one that runs here,
and the naive way: a weight per example. Prints the spreads of the product and
of its gradients in milliseconds, in float32 or --dtype.

With --tpu nothing is measured: the kernels are compiled, see
`gated_matmul_tpu`.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import gated_matmul_tpu
import jax
import jax.numpy as jnp
import measuring
import models
import numpy as np

from hypergrid_jax.ops import choices, gated_matmul, xla_forms

PLAIN, NAIVE, CHOSEN = 'plain', 'naive', 'auto'
# Rows, length, segments of a row: packed rows, rows of one example, and the
# steps of decoding.
BATCHES = (
  (8, 512, 16),
  (8, 128, 16),
  (8, 512, 1),
  (64, 128, 1),
  (64, 64, 1),
  (64, 32, 1),
  (64, 1, 1),
  (8, 1, 1),
)
CHUNKS = (256, 512, 1024)  # tokens


def forms(segments: int, tokens: int) -> dict[str, Callable[..., Any]]:
  """Returns stand-ins for `choices.choose`, one per form that a shape has."""

  def loop(chunk):
    def choose(problem, *arguments, **options):
      del arguments, options
      return xla_forms.BlockLoop(choices.cheaper_cut(problem), chunk)

    return choose

  by_name = {'loop': loop(None)}
  for chunk in CHUNKS:
    if chunk < tokens:
      by_name[f'loop_{chunk}'] = loop(chunk)
  if segments == 1:
    by_name['weight'] = lambda *arguments, **options: xla_forms.WeightPerRow()
  return by_name


def functions(batch: tuple[int, int, int]) -> dict[str, Callable[..., Any]]:
  """Functions of u, kernel, row and col; the gate is 2 sigmoid."""
  rows, length, segments = batch
  line = 1 + np.arange(length) * segments // length
  ids = jnp.asarray(np.tile(line, (rows, 1)), jnp.int32)
  gate = {'offset': 0.0, 'scale': 2.0}

  def gated(choose):
    def run(*arguments):
      with mock.patch.object(choices, 'choose', choose):
        return gated_matmul.gated_matmul(*arguments, ids, **gate)

    return run

  return {
    PLAIN: lambda u, kernel, row, col: u @ kernel.astype(u.dtype),
    CHOSEN: gated(choices.choose),
    NAIVE: lambda *x: models.weight_per_example(*x, ids, **gate),
    **{
      name: gated(choose)
      for name, choose in forms(segments, rows * length).items()
    },
  }


def calls(function, arguments, dy, *, gradients: bool) -> Callable[[], Any]:
  """Compiles the product, or the gradients alone of what it kept."""
  if not gradients:
    compiled = jax.jit(function).lower(*arguments).compile()
    return lambda: compiled(*arguments)
  # In one program with the product, the compiler would share its work.
  _, pull = jax.vjp(jax.jit(function), *arguments)
  compiled = jax.jit(lambda pull, dy: pull(dy))
  return lambda: compiled(pull, dy)


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
  """One record per shape of the batch."""
  rng = np.random.default_rng(0)
  k, n = options.kernel or (2048, 512)
  grid_rows, grid_cols = options.grid or (8, 8)

  def draw(*shape, dtype=np.float32):
    return jnp.asarray(rng.standard_normal(shape), dtype)

  for batch in options.batches:
    rows, length, segments = batch
    measuring.say(f'{rows} rows of {length} tokens, {segments} segments')
    arguments = (
      draw(rows, length, k, dtype=options.dtype),
      draw(k, n),
      draw(rows, segments, grid_rows),
      draw(rows, segments, grid_cols),
    )
    dy = draw(rows, length, n, dtype=options.dtype)
    record = {'rows': rows, 'length': length, 'segments': segments}
    for part, gradients in (('product', False), ('gradients', True)):
      turns = {
        name: calls(function, arguments, dy, gradients=gradients)
        for name, function in functions(batch).items()
      }
      times = measuring.take_turns(
        turns,
        options.turns,
        fewer={NAIVE: measuring.LEAST_TURNS},
        seconds=options.seconds,
      )
      record[part] = measuring.compared(times, PLAIN)
    yield record


def shape(text: str) -> tuple[int, ...]:
  """'8x512x16' -> (8, 512, 16)."""
  return tuple(map(int, text.split('x')))


def main() -> None:
  """Measures or compiles, and prints."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kernel', type=shape, help='such as 3072x768')
  parser.add_argument('--grid', type=shape, help='such as 8x6')
  parser.add_argument(
    '--batches',
    type=shape,
    nargs='+',
    default=BATCHES,
    help='rows x tokens x segments of a row, such as 8x512x16',
  )
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--turns', type=int, default=9)
  parser.add_argument('--seconds', type=int, default=60, help='of a shape')
  parser.add_argument('--tpu', help='generations, such as v4,v5e,v5p,v6e')
  options = parser.parse_args()
  if options.tpu:
    gated_matmul_tpu.compile_grids(
      options.tpu.split(','), options.kernel, options.grid
    )
    return
  begun = measuring.machine()
  records = list(measure(options))
  measuring.write({'options': vars(options), **begun, 'results': records})


if __name__ == '__main__':
  main()
