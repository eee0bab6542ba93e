"""The benchmarks run, at sizes that say nothing of their figures."""

import json
import subprocess
import sys

import pytest

from tests.benchmarks.conftest import FOLDER

TINY = (
  '--d_model=24 --d_ff=48 --num_heads=2 --num_layers=1 --vocab_size=90'
  ' --grid_rows=4 --grid_cols=3 --turns=2'
).split()


def run(name, *options):
  done = subprocess.run(
    [sys.executable, FOLDER / f'{name}.py', *options],
    stdout=subprocess.PIPE,
    check=True,
    text=True,
    cwd=FOLDER.parent,
  )
  return json.loads(done.stdout)


@pytest.mark.slow
def test_train_steps_are_measured():
  report = run(
    'train_step',
    *TINY,
    *'--rows=2 --length=32 --segments=4 --num_tasks=3'.split(),
  )
  (first,) = report['groups']
  assert [*first] == ['plain', 'hypergrid', 'hypergrid_naive']
  flops = {name: one['matmul_flops'] for name, one in first.items()}
  assert flops['plain'] == first['plain']['model_flops']
  # The fourth product of a gated matrix, and the factors.
  assert 1.0 < flops['hypergrid'] / flops['plain'] < 1.2
  assert first['hypergrid']['over_plain']['by_turn']['count'] == 2


@pytest.mark.slow
def test_decoding_is_measured():
  (shape,) = run('decode', *TINY, '--shapes', '3x8x4')['shapes']
  assert (shape['rows'], shape['length'], shape['written']) == (3, 8, 4)
  assert {*shape['variants']} == {'plain', 'hypergrid'}
