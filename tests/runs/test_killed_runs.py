"""Killed at any moment, in the midst of a checkpoint too, a run loses nothing.

Three kills here, of runs that leave out the evaluation at the end, which takes
longer than all the rest. HYPERGRID_KILLS=24 kills the whole command so often.
"""

import itertools
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest

from hypergrid_jax import trees
from hypergrid_jax.checkpoints import layout
from hypergrid_jax.checkpoints.reader import CheckpointReader
from tests.runs.test_experiment import bindings_of

ASKED = os.environ.get('HYPERGRID_KILLS')
KILLS = int(ASKED or 3)
STEPS_BETWEEN_KILLS, PERIOD = 24, 3
AIMS = ('write', 'steps', 'start', 'write')
_LOG = logging.getLogger(__name__)

COMMAND = """
import sys
from hypergrid_jax.cli import main
sys.exit(main.main(sys.argv[1:]))
"""
WITHOUT_EVALUATION = """
import sys
from hypergrid_jax.cli import main
from hypergrid_jax.evaluation import results
from hypergrid_jax.runs import experiment
rte = results.TaskResult('validation', 1, {'accuracy': 50.0})
experiment._evaluate_params = (
  lambda setup, step, *_: results.Results(step, {'glue_rte': rte}, 1)
)
sys.exit(main.main(sys.argv[1:]))
"""


class Kill(NamedTuple):
  """How a start of the run ended.

  Attributes:
    aim: 'start', 'steps' or 'write'.
    begun: the checkpoint it could go on from; 0 for none.
    newest: the newest finished checkpoint when it was killed.
    unfinished: steps of checkpoints that were being written.
    seconds: from its start to the kill.
  """

  aim: str
  begun: int
  newest: int
  unfinished: list[int]
  seconds: float


def checkpoints_of(directory):
  """Returns the steps that are finished, and those that are not."""
  try:
    paths = [p for p in (directory / 'checkpoints').iterdir() if p.is_dir()]
  except FileNotFoundError:
    return [], []
  finished = {int(p.name) for p in paths if layout.is_finished(p)}
  return sorted(finished), sorted({int(p.name) for p in paths} - finished)


def start(directory, bindings, cache):
  """Starts the command on one device."""
  program = COMMAND if ASKED else WITHOUT_EVALUATION
  options = ['--gin_file=gin/runs/quickstart.gin', f'--model_dir={directory}']
  return subprocess.Popen(
    [sys.executable, '-c', program, 'train', *options, *bindings],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
    env={
      **os.environ,
      'JAX_NUM_CPU_DEVICES': '1',
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
  )


def finish(directory, bindings, cache):
  process = start(directory, bindings, cache)
  output = process.communicate()[0]
  assert process.returncode == 0, output


def kill(directory, bindings, cache, aim, rng, longest):
  """Starts the run and kills it; returns how that went, and its output.

  Args:
    directory: of the run.
    bindings: of the run.
    cache: of compiled programs.
    aim: see `Kill`.
    rng: chooses the moment.
    longest: seconds to wait at most when the aim is the start.
  """
  finished, left = checkpoints_of(directory)
  begun = max(finished, default=0)
  process, began = start(directory, bindings, cache), time.monotonic()

  def writes():
    return set(checkpoints_of(directory)[1]) - set(left)

  def has_saved(steps=1):
    return max(checkpoints_of(directory)[0], default=0) >= begun + steps

  if aim == 'start':
    end = began + rng.uniform(0.0, longest)
    wait_until(process, lambda: time.monotonic() > end or has_saved())
  elif aim == 'write':
    wait_until(process, writes)
    time.sleep(rng.uniform(0.0, 0.03))
  else:
    steps = PERIOD * int(rng.integers(1, 4))
    wait_until(process, lambda: has_saved(steps))
    time.sleep(rng.uniform(0.0, 0.05))
  process.kill()
  seconds = time.monotonic() - began
  output = process.communicate()[0]
  assert process.returncode == -signal.SIGKILL, output
  finished, unfinished = checkpoints_of(directory)
  return (
    Kill(aim, begun, max(finished, default=0), unfinished, round(seconds, 2)),
    output,
  )


def wait_until(process, reached):
  deadline = time.monotonic() + 300
  while not reached():
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.0005)


def logged(directory):
  """The steps of metrics.jsonl with their losses."""
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  return [(line['step'], line['loss']) for line in map(json.loads, lines)]


def arrays(directory, step):
  """All arrays of a checkpoint by path: parameters and the optimiser's."""
  found = layout.read_manifest(directory / 'checkpoints' / str(step))[0][
    'leaves'
  ]
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = {
    path: jax.ShapeDtypeStruct(shape, dtype, sharding=device)
    for path, (dtype, shape) in found.items()
  }
  state, _ = CheckpointReader(directory).restore(trees.unflatten(target), step)
  return {p: np.asarray(x) for p, x in trees.flatten(state).items()}


@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_a_straight_one(tmp_path):
  rng = np.random.default_rng(7)
  num_steps = STEPS_BETWEEN_KILLS * KILLS
  straight, killed = tmp_path / 'straight', tmp_path / 'killed'
  bindings = bindings_of(
    tmp_path / 'tokens',
    f'train.num_steps={num_steps}',
    f'train.checkpoint_period={PERIOD}',
    'train.keep_checkpoints=2',
    'train.log_period=1',
    'evaluate.limit=4',
  )
  cache = tmp_path / 'cache'
  finish(straight, bindings, cache)
  kills = []
  for aim in itertools.islice(itertools.cycle(AIMS), KILLS):
    # A start takes about as long as the shortest way to a kill while saving.
    longest = min((k.seconds for k in kills if k.aim != 'start'), default=0)
    one, output = kill(killed, bindings, cache, aim, rng, longest)
    _LOG.info('%s', one)
    for step in re.findall(r'the checkpoint of step (\d+)', output):
      assert int(step) == one.begun
    kills.append(one)
  assert any(one.unfinished for one in kills)
  finish(killed, bindings, cache)
  for run in (straight, killed):
    assert checkpoints_of(run) == ([num_steps - PERIOD, num_steps], [])
  assert logged(killed) == logged(straight)
  expected, found = arrays(straight, num_steps), arrays(killed, num_steps)
  assert {path.split('/')[0] for path in found} == {
    'step',
    'params',
    'opt_state',
  }
  assert list(found) == list(expected)
  for path, value in found.items():
    assert value.tobytes() == expected[path].tobytes(), path
