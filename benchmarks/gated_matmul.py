"""The gated matmul beside a plain one, measured on this machine.

  python benchmarks/gated_matmul.py > gated_matmul.json
  python benchmarks/gated_matmul.py --write_choices > gated_matmul.json
  python benchmarks/gated_matmul.py --tpu v5e,v6e

Takes turns between a plain matmul, every form of the gated one that runs here,
and the naive way: a weight per example. Prints the spreads of the product and
of its gradients in milliseconds, in float32 or --dtype.

--write_choices puts the fastest form of every shape into
hypergrid_jax/ops/choices.json, in place of what that has of this platform. It
counts the gradients of packed rows; of the others, which are those of
evaluation, only the product. With --tpu nothing is measured: the kernels are
compiled, see `gated_matmul_tpu`.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import json
from typing import Any
from unittest import mock

import gated_matmul_tpu
import jax
import jax.numpy as jnp
import measuring
import models
import numpy as np

from hypergrid_jax import files
from hypergrid_jax.ops import choices, gated_matmul, xla_forms
from hypergrid_jax.parallel import current_mesh

PLAIN, NAIVE, TABLE = 'plain', 'naive', 'auto'
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
AT_ONCE = (256, 512, 1024)  # tokens


def forms(segments: int, tokens: int) -> dict[str, dict[str, Any]]:
  """What can be chosen for a shape: fields of `choices.Measured`, by name."""
  found: dict[str, dict[str, Any]] = {'loop': {'form': 'loop'}}
  for at_once in AT_ONCE:
    if at_once < tokens:
      found[f'loop_{at_once}'] = {'form': 'loop', 'at_once': at_once}
  if segments == 1:
    found['weight'] = {'form': 'weight'}
  return found


def form_of(fields: dict[str, Any]) -> Callable[..., Any]:
  """In place of `choices.choose`."""

  def choose(problem, *arguments, **options):
    del arguments, options
    if fields['form'] == 'weight':
      return xla_forms.WeightPerRow()
    cut = choices.cheaper_cut(problem)
    return xla_forms.BlockLoop(cut, fields.get('at_once'))

  return choose


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
    TABLE: gated(choices.choose),
    NAIVE: lambda *x: models.weight_per_example(*x, ids, **gate),
    **{
      name: gated(form_of(fields))
      for name, fields in forms(segments, rows * length).items()
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


def fastest(record: dict[str, Any]) -> choices.Measured:
  """The form to choose for a shape, by the median of processor time.

  Of a form's work that of all threads counts: it is what other programs on the
  machine disturb least.
  """
  rows, length, segments = (record[x] for x in ('rows', 'length', 'segments'))
  packed = segments > 1
  parts = ('product', 'gradients') if packed else ('product',)
  candidates = forms(segments, rows * length)

  def cost(name: str) -> float:
    return sum(
      record[part][name]['processor_milliseconds']['median'] for part in parts
    )

  return choices.Measured(
    gates='segment' if packed else 'row',
    batch=rows,
    length=length,
    **candidates[min(candidates, key=cost)],
  )


def write_choices(records: list[dict[str, Any]]) -> None:
  """Replaces what the table has of this platform."""
  table = json.loads(choices.TABLE.read_text())
  table[current_mesh.platform()] = [
    dataclasses.asdict(fastest(record)) for record in records
  ]
  text = json.dumps(table, indent=1, sort_keys=True) + '\n'
  files.write_text(choices.TABLE, [text])


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
  parser.add_argument('--write_choices', action='store_true')
  parser.add_argument('--tpu', help='generations, such as v4,v5e,v5p,v6e')
  options = parser.parse_args()
  if options.tpu:
    gated_matmul_tpu.compile_grids(
      options.tpu.split(','), options.kernel, options.grid
    )
    return
  begun = measuring.machine()
  records = list(measure(options))
  if options.write_choices:
    write_choices(records)
  measuring.write({'options': vars(options), **begun, 'results': records})


if __name__ == '__main__':
  main()
