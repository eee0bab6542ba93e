"""The tables of docs/performance_tpu.md, from the results that are kept.

python benchmarks/tables_tpu.py    writes them into the page
"""

import pathlib
import re
from typing import Any

import gated_matmul_tpu
import kept_cells
import train_step_tpu

from hypergrid_jax import files

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'performance_tpu.md'


def tables() -> dict[str, str]:
  """Markdown by the name that the page has for each table."""
  kernels = kept_cells.read(gated_matmul_tpu.FILE)
  steps = kept_cells.read(train_step_tpu.FILE)
  return {
    'kernels': kernel_table(kernels),
    'units': unit_table(kernels),
    'train steps': step_table(steps),
  }


def kernel_table(cells: dict[str, Any]) -> str:
  """R and R' of every kernel, grid and generation."""
  names = gated_matmul_tpu.GENERATIONS
  heads = [f'{name} {ratio}' for ratio in ('R', "R'") for name in names]
  lines = [
    f'| kernel | grid | {" | ".join(heads)} |',
    f'|---|---|{"---:|" * 2 * len(names)}',
  ]
  for kernel, grids in gated_matmul_tpu.GRIDS.items():
    for grid in grids:
      found = [
        cells.get(gated_matmul_tpu.cell_name(name, kernel, grid))
        for name in names
      ]
      if any(found):
        values = [
          f'{cell[field]:.2f}' if cell else ''
          for field in ('ratio', 'over_single_gate')
          for cell in found
        ]
        start = f'| {kernel[0]} x {kernel[1]} | {grid[0]} x {grid[1]}'
        lines.append(f'{start} | {" | ".join(values)} |')
  return '\n'.join(lines)


def unit_table(cells: dict[str, Any]) -> str:
  """How full each unit is, of the fast grids of T5 base's wo."""
  lines = [
    '| TPU | grid | kernel | schedule, ms | matmuls at peak, ms | memory, ms'
    ' | matrix units, % | vector units, % | loads, % | stores, % |',
    f'|---|---|---|{"---:|" * 7}',
  ]
  kernel = (3072, 768)
  for name in gated_matmul_tpu.GENERATIONS:
    grid = (8, 3) if train_step_tpu.FAST[name] == 'v6e' else (8, 6)
    cell = cells.get(gated_matmul_tpu.cell_name(name, kernel, grid))
    for part in ('forward', 'backward') if cell else ():
      one = cell[part]
      times = ('milliseconds', 'peak_milliseconds', 'memory_milliseconds')
      values = [f'{one[time]:.2f}' for time in times]
      units = ('MXU', 'VALU', 'VLOAD', 'VSTORE')
      values += [str(one['utilization'][unit]) for unit in units]
      start = f'| {name} | {grid[0]} x {grid[1]} | {part}'
      lines.append(f'{start} | {" | ".join(values)} |')
  return '\n'.join(lines)


def step_table(cells: dict[str, Any]) -> str:
  """HyperGrid's train step over plain T5's."""
  lines = [
    '| model | TPU | rows | FLOPs | HBM | cycles | cycles, moves at bandwidth'
    ' | cycles of HyperGrid, millions | of them kernels |',
    f'|---|---|{"---:|" * 7}',
  ]
  for model, rows in train_step_tpu.ROWS.items():
    for name in gated_matmul_tpu.GENERATIONS:
      found = train_step_tpu.ratios(cells, name, model)
      if found is None:
        continue
      gated = cells[train_step_tpu.cell_name(name, model, 'hypergrid')]
      kernels = gated['cycles'] - gated['xla_cycles']
      lines.append(
        f'| {model} | {name} | {rows} | {found["flops"]:.3f}'
        f' | {found["memory"]:.3f} | {found["cycles"]:.3f}'
        f' | {_three_digits(found.get("cycles_at_bandwidth"))}'
        f' | {gated["cycles"] / 1e6:.1f} | {kernels / 1e6:.1f} |'
      )
  return '\n'.join(lines)


def _three_digits(value: float | None) -> str:
  return '' if value is None else f'{value:.3f}'


def filled(page: str) -> str:
  """The page with the tables between its marks."""
  for name, table in tables().items():
    marks = f'<!-- {name} -->', f'<!-- end of {name} -->'
    block = f'{marks[0]}\n{table}\n{marks[1]}'
    page = re.sub(
      f'{marks[0]}.*?{marks[1]}', lambda _, block=block: block, page, flags=re.S
    )
  return page


def main() -> None:
  """Writes the tables into the page."""
  files.write_text(PAGE, [filled(PAGE.read_text())])


if __name__ == '__main__':
  main()
