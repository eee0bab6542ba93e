"""HyperGrid's whole train step beside plain T5's on TPUs; no TPU is used.

  python benchmarks/train_step_tpu.py            compiles what is not kept yet
  python benchmarks/train_step_tpu.py --tpu v5e --models base

Compiles the train steps of T5 base and large with packed rows of 512 tokens for
one chip of each generation (extra `tpu`), with the grid that is fast there, and
keeps what the compiler says in benchmarks/results/train_step_tpu.json: FLOPs,
memory, and its own estimate of the cycles of every operation, those of loops as
often as they run. It does not see into kernels: their cycles are the static
schedules of `gated_matmul_tpu`, whose kernels are compiled where they are not
kept yet. Each program is compiled in a process of its own.
"""

import argparse
import dataclasses
import itertools
import pathlib
import re
import subprocess
import sys
from typing import Any

import gated_matmul_tpu
import jax
import kept_cells
import tpu_schedule

from hypergrid_jax.config import run_config
from hypergrid_jax.ops import tpu_plans
from hypergrid_jax.precompiling import (
  hlo_costs,
  hlo_loops,
  hlo_text,
  measures,
  programs,
  topologies,
)

FILE = 'train_step_tpu.json'
ROOT = pathlib.Path(__file__).parent.parent
TOPOLOGIES = {
  'v5e': 'v5e:1x1',
  'v6e': 'v6e:1x1',
  'v5p': 'v5p:1x1x1',
  'v4': 'v4:1x1x1',
}
FAST = {'v5e': 'v5', 'v6e': 'v6e', 'v5p': 'v5', 'v4': 'v6e'}
ROWS = {'base': 16, 'large': 8}
METHODS = ('hypergrid', 'plain')
BINDINGS = (
  'T5Config.remat_policy=minimal',
  'data.row_length=512',
  'data.row_targets_length=128',
  'data.vocabulary=sample',  # not read: the models say their vocabularies' size
  'train.num_steps=1000',
)
MODELLED = 'COST_MODEL_TYPE_CLASSIC'  # how the compiler marks its better guess
ATTEMPTS = 2  # the process sometimes dies in the compiler
TIMEOUT = 1800  # seconds
ABOUT = {
  'what': (
    'Output of a compiler and arithmetic on it: nothing was measured on a TPU.'
  ),
  'shapes': (
    'one train step on one chip: T5 1.0, packed rows of 512 tokens and decoder'
    f' rows of 128, {ROWS} rows, bfloat16 activations, dropout, Adafactor,'
    f' {", ".join(BINDINGS[:1])}; HyperGrid of gin/methods/hypergrid_v5.gin, on'
    ' v6e and v4 hypergrid_v6e.gin'
  ),
  'flops': 'of matrix products, those of kernels as they declare them',
  'memory': 'bytes of the chip when the step needs most',
  'xla_cycles': (
    "the compiler's estimated_cycles of all operations, times how often they"
    ' run; kernels have none'
  ),
  'kernels': (
    'calls of each kernel, and the cycles of one by gated_matmul_tpu.json: the'
    ' longest of static schedule, matmuls at peak and memory traffic'
  ),
  'xla_cycles_at_bandwidth': (
    'the same, but what the compiler has no model of, which only moves memory,'
    ' takes no more cycles than its bytes at the bandwidth of the chip'
  ),
  'cycles': 'xla_cycles and those of all calls of kernels',
  'cycles_at_bandwidth': 'likewise',
}


def cell_name(generation: str, model: str, method: str) -> str:
  """Such as 'v5e base plain'."""
  return f'{generation} {model} {method}'


def configured(generation: str, model: str, method: str):
  """The run of a cell."""
  method = f'hypergrid_{FAST[generation]}' if method != 'plain' else method
  names = (f'models/t5_1_0_{model}', f'methods/{method}', 'mixtures/glue')
  rows = ROWS[model]
  return run_config.parse(
    [str(ROOT / 'gin' / f'{name}.gin') for name in names],
    [
      *BINDINGS,
      f'data.batch_size={rows}',
      f'evaluate.batch_size={rows}',
    ],
  )


def compile_cell(generation: str, model: str, method: str) -> dict[str, Any]:
  """Compiles one train step and reads it."""
  run = configured(generation, model, method)
  topology = topologies.find(TOPOLOGIES[generation])
  parts = programs.build(run, topology)
  compiled = programs.compile_training(parts)
  found = measures.measure(
    compiled, parts, topology, programs.device_bytes(parts), 0
  )
  module = hlo_text.parse(compiled.as_text())
  with jax.set_mesh(parts.mesh):
    facts, chip = tpu_schedule.facts(), tpu_plans.current_chip()
  sizes = None
  if method != 'plain':
    k, n = run.model.d_ff, run.model.d_model
    sizes = tpu_plans.Sizes(0, k, n, *run.method.grid(run.model, 'wo'), 2)
  return {
    'flops': found.costs.flops,
    'memory': found.needed,
    **estimated_cycles(module, facts),
    'kernels': kernel_calls(module, chip, sizes),
    'clock': facts.clock,
    'uncounted_kernels': found.costs.uncounted_kernels,
    'unbounded_loops': found.costs.unbounded_loops,
  }


def estimated_cycles(module: hlo_text.Module, facts) -> dict[str, float]:
  """The compiler's estimate for a program, without what it cannot see into.

  Also as it is when what moves memory takes no more than the bandwidth allows.
  """
  total = at_bandwidth = 0
  for use in hlo_loops.uses(module):
    one = use.instruction
    known = re.search(r'"estimated_cycles":"(\d+)"', one.attributes)
    if not known or use.fused:
      continue
    cycles = int(known[1])
    total += use.times * cycles
    if MODELLED not in one.attributes:
      moved = hlo_costs.memory_bytes(module, one, use.computation)
      cycles = min(cycles, moved / facts.bytes_per_second * facts.clock)
    at_bandwidth += use.times * cycles
  return {'xla_cycles': total, 'xla_cycles_at_bandwidth': round(at_bandwidth)}


def kernel_calls(module, chip, sizes) -> list[dict[str, Any]]:
  """Name, tokens, plan and number of calls of every kernel."""
  found = []
  for use in hlo_loops.uses(module):
    if hlo_costs.KERNEL in use.instruction.attributes:
      name = use.instruction.name.partition('.')[0]
      tokens = use.instruction.arrays[0].dims[0]
      plan = tpu_plans.make_plan(
        chip, dataclasses.replace(sizes, tokens=tokens)
      )
      part, _, _ = gated_matmul_tpu.KERNELS[name]
      found.append(
        {
          'name': name,
          'tokens': tokens,
          'calls': use.times,
          'plan': dataclasses.asdict(getattr(plan, part)),
        }
      )
  return found


def add_kernel_cycles(generation: str, model: str, method: str) -> None:
  """Writes the cycles of a kept cell: the compiler's and those of kernels."""
  name = cell_name(generation, model, method)
  cell = kept_cells.of_these_versions(FILE)[name]
  total = 0
  for kernel in cell['kernels']:
    kept = kept_schedule(generation, model)
    kernel['cycles'] = kernel_cycles(kernel, kept, cell['clock'])
    total += kernel['calls'] * kernel['cycles']
  for field in ('cycles', 'cycles_at_bandwidth'):
    if f'xla_{field}' in cell:
      cell[field] = cell[f'xla_{field}'] + total
  kept_cells.keep(FILE, ABOUT, name, cell)


def kept_schedule(generation: str, model: str) -> dict[str, Any]:
  """Of the kernels of a model."""
  run = configured(generation, model, 'hypergrid')
  cell = gated_matmul_tpu.cell_name(
    generation,
    (run.model.d_ff, run.model.d_model),
    run.method.grid(run.model, 'wo'),
    rectified=True,
  )
  return kept_cells.of_these_versions(gated_matmul_tpu.FILE)[cell]


def kernel_cycles(kernel, kept, clock: float) -> int:
  """Cycles of one call, by the kept schedule of the same kernel.

  Raises:
    ValueError: another kernel was called than the kept one.
  """
  part, _, _ = gated_matmul_tpu.KERNELS[kernel['name']]
  for field in ('cut', 'tile', 'parts'):
    if kept[part][field] != kernel['plan'][field]:
      raise ValueError(f'no schedule of {kernel} is kept')
  limits = ('milliseconds', 'peak_milliseconds', 'memory_milliseconds')
  longest = max(kept[part][limit] for limit in limits)
  share = kernel['tokens'] / gated_matmul_tpu.TOKENS
  return round(1e-3 * longest * share * clock)


def in_a_process(script: str, *arguments: str) -> None:
  """Runs a script of this directory; libtpu's options are set only once.

  Raises:
    RuntimeError: it fails more than once.
  """
  command = [sys.executable, script, *arguments]
  directory = pathlib.Path(__file__).parent
  for _ in range(ATTEMPTS):
    done = subprocess.run(
      command, cwd=directory, timeout=TIMEOUT, capture_output=True, text=True
    )
    sys.stdout.write(done.stdout)
    sys.stdout.flush()
    if done.returncode == 0:
      return
  raise RuntimeError(f'{command} failed: {done.stderr[-2000:]}')


def compile_schedules(generation: str, model: str) -> None:
  """Compiles the kernels of a model's train step, where they are not kept."""
  run = configured(generation, model, 'hypergrid')
  rows, columns = run.method.grid(run.model, 'wo')
  in_a_process(
    'gated_matmul_tpu.py',
    f'--tpu={generation}',
    f'--kernel={run.model.d_ff}x{run.model.d_model}',
    f'--grid={rows}x{columns}',
    '--rectified',
  )


def ratios(cells: dict[str, Any], generation: str, model: str):
  """FLOPs, memory and cycles, HyperGrid's over plain T5's; None if missing."""
  pair = [cells.get(cell_name(generation, model, name)) for name in METHODS]
  if None in pair:
    return None
  return {
    field: pair[0][field] / pair[1][field]
    for field in ('flops', 'memory', 'cycles', 'cycles_at_bandwidth')
    if field in pair[0] and field in pair[1]
  }


def main() -> None:
  """Compiles what is asked for and not there yet."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--tpu', default=','.join(TOPOLOGIES))
  parser.add_argument('--models', default=','.join(ROWS))
  parser.add_argument('--cell', nargs=3, help='compile only this, here')
  options = parser.parse_args()
  if options.cell:
    name = cell_name(*options.cell)
    kept_cells.keep(FILE, ABOUT, name, compile_cell(*options.cell))
    return
  for generation, model in itertools.product(
    options.tpu.split(','), options.models.split(',')
  ):
    compile_schedules(generation, model)
    for method in METHODS:
      name = cell_name(generation, model, method)
      if name not in kept_cells.of_these_versions(FILE):
        in_a_process('train_step_tpu.py', '--cell', generation, model, method)
      add_kernel_cycles(generation, model, method)
    cells = kept_cells.read(FILE)
    print(generation, model, ratios(cells, generation, model), flush=True)


if __name__ == '__main__':
  main()
