"""The page on TPUs shows the kept results, which are within their bounds."""

import importlib
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / 'benchmarks'
# Widths of blocks of outputs that are fast, with how many rows of the grid, and
# R of the kernels with them.
BOUNDS = {
  'v4': (128, 16, 1.35),
  'v5e': (128, 32, 1.15),
  'v5p': (128, 32, 1.15),
  'v6e': (256, 32, 1.35),
}


@pytest.fixture
def tables(monkeypatch):
  """The module that makes the tables; scripts import each other by name."""
  monkeypatch.syspath_prepend(BENCHMARKS)
  return importlib.import_module('tables_tpu')


def test_the_page_has_the_tables(tables):
  page = tables.PAGE.read_text()
  assert tables.filled(page) == page
  for table in tables.tables().values():
    assert table in page


def test_kernels_on_fast_grids_are_near_the_plain_matmul(tables):
  cells = tables.kept_cells.read(tables.gated_matmul_tpu.FILE)
  fast = []
  for name, cell in cells.items():
    tpu, kernel, grid, *rectified = name.split()
    (_, n), (rows, columns) = (map(int, x.split('x')) for x in (kernel, grid))
    width, most_rows, most = BOUNDS[tpu]
    if n // columns % width == 0 and rows <= most_rows:
      fast.append(name)
      assert cell['ratio'] <= most, name
      # By itself a rectified product has to make its input. Every token has the
      # factors of all rows, and on v5p each core its gradient of the weight.
      more = 1.0 if rectified else 0.06 if (tpu, rows) == ('v5p', 32) else 0.05
      assert cell['temporary_over_activations'] <= more, name
  assert len(fast) > len(cells) / 3


def test_train_steps_cost_little_more_than_plain_t5s(tables):
  steps = tables.train_step_tpu
  cells = tables.kept_cells.read(steps.FILE)
  assert cells
  for name, cell in cells.items():
    generation, model, _ = name.split()
    assert (cell['uncounted_kernels'], cell['unbounded_loops']) == (0, [])
    ratios = steps.ratios(cells, generation, model)
    assert ratios['flops'] <= 1.02
    assert ratios['memory'] <= 1.05
    assert ratios['cycles'] <= 1.05
    assert ratios['cycles_at_bandwidth'] <= 1.05
