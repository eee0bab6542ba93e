"""A comparison that is killed goes on to the same table."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from hypergrid_jax.checkpoints import layout
from tests.comparing import scored

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 8
FILES = ('compare.md', 'compare.csv', 'compare.json')


def start(directory, cache):
  options = [
    scored.GIN_FILE,
    '--methods=plain,hypergrid',
    f'--model_dir={directory}',
    f'--token_dir={cache}/tokens',
    '--no_plot',
    '--step_pairs=0',
    *scored.BINDINGS,
    f'train.num_steps={STEPS}',
  ]
  return subprocess.Popen(
    [sys.executable, '-m', 'tests.comparing.scored', 'compare', *options],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_NUM_CPU_DEVICES': '1',
      'JAX_COMPILATION_CACHE_DIR': str(cache / 'programs'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
  )


def finish(directory, cache):
  process = start(directory, cache)
  output = process.communicate()[0]
  assert process.returncode == 0, output
  return output


@pytest.mark.slow
def test_a_killed_comparison_ends_with_the_table_of_a_straight_one(tmp_path):
  straight, killed = tmp_path / 'straight', tmp_path / 'killed'
  finish(straight, tmp_path)
  process = start(killed, tmp_path)
  checkpoint = killed / 'hypergrid' / 'seed0' / 'checkpoints' / '2'
  deadline = time.monotonic() + 300
  while not layout.is_finished(checkpoint):
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.002)
  process.kill()
  assert process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert (killed / 'plain/seed0/eval' / f'{STEPS}.json').exists()
  assert not (killed / 'hypergrid/seed0/eval' / f'{STEPS}.json').exists()
  before = (killed / 'plain' / 'seed0' / 'run.json').stat().st_mtime_ns
  output = finish(killed, tmp_path)
  assert 'Going on from the checkpoint of step' in output
  assert (killed / 'plain/seed0/run.json').stat().st_mtime_ns == before
  for name in FILES:
    assert (killed / name).read_bytes() == (straight / name).read_bytes(), name
