"""Several processes save, restore and fail as one."""

import contextlib
import json
import pathlib
import socket
import subprocess
import sys

import pytest

from hypergrid_jax.checkpoints.writer import Checkpointer
from tests.checkpoints.small_state import (
  abstract_of,
  assert_same_bits,
  directory_of,
  flip_a_bit,
  largest_file,
  make_state,
  save,
)

ROOT = pathlib.Path(__file__).parents[2]


class Cluster:
  """Processes that do what they are told, side by side."""

  def __init__(self, processes, devices):
    with socket.create_server(('', 0)) as probe:
      port = probe.getsockname()[1]
    self.processes = [
      subprocess.Popen(
        [
          sys.executable,
          '-m',
          'tests.checkpoints.save_process',
          *map(str, (port, number, processes, devices)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
      )
      for number in range(processes)
    ]

  def answers(self, *command):
    for process in self.processes:
      process.stdin.write(json.dumps(command) + '\n')
      process.stdin.flush()
    return [json.loads(p.stdout.readline()) for p in self.processes]

  def __call__(self, *command):
    """Returns what all of them return."""
    first, *others = self.answers(*command)
    assert others == [first] * len(others)
    return first['value']

  def close(self):
    for process in self.processes:
      process.kill()
    for process in self.processes:
      process.wait()
      process.stdout.close()
      with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


@pytest.fixture(scope='module')
def two():
  cluster = Cluster(processes=2, devices=4)
  yield cluster
  cluster.close()


def names(directory):
  return sorted(p.name for p in (directory / 'checkpoints').iterdir())


def test_what_one_process_saved_many_read_and_back(two, tmp_path):
  alone = Checkpointer(tmp_path)
  save(alone, 3)
  assert two('restore', str(tmp_path), None, 4) == [3, True, []]
  assert two('save', str(tmp_path), 5) == [True]
  two('wait', str(tmp_path))
  got, meta = alone.reader.restore(abstract_of(make_state(5)))
  assert_same_bits(got, make_state(5))
  assert (meta['step'], meta['seen']) == (5, 5)
  four = Cluster(processes=4, devices=2)
  assert four('restore', str(tmp_path), 5, 2) == [5, True, []]
  four.close()
  alone.close()


def test_all_know_what_process_0_sees(two, tmp_path):
  run = str(tmp_path)
  two('save', run, 1, 2)
  two('wait', run)
  assert two('mark_best', run, 1, 0.5, 'glue_rte')
  two('blind', 1, True)
  best = {'glue_rte': 1}
  meta = {'seen': 2, 'fingerprint': {}, 'step': 2}
  assert two('look', run) == [[1, 2], best, meta]
  assert two('restore', run, None, 2) == [2, True, []]
  assert two('save', run, 2, 3, 4) == [False, True, True]
  two('wait', run)
  assert not two('mark_best', run, 4, 0.5, 'glue_rte')
  two('blind', 1, False)
  assert names(tmp_path) == ['1', '3', '4', 'best.json']


def test_nobody_goes_on_before_the_slowest_has_written(two, tmp_path):
  two('delay', 1, 1.0)
  two('save', str(tmp_path), 6)
  assert names(tmp_path) == ['6']
  assert two('look', str(tmp_path))[0] == []
  two('wait', str(tmp_path))
  assert two('look', str(tmp_path))[0] == [6]


def test_damage_is_found_whoever_reads_the_file(two, tmp_path):
  run = Checkpointer(tmp_path)
  save(run, 1, 2)
  files = [p for p in directory_of(run, 2).rglob('*') if p.is_file()]
  for file in files:
    good = file.read_bytes()
    flip_a_bit(file)
    error, other = two.answers('restore', str(tmp_path), 2, 2)
    assert error == other
    assert error['kind'] == 'UserError'
    assert file.name in error['error']
    file.write_bytes(good)
  flip_a_bit(largest_file(directory_of(run, 2)))
  step, same, (warning,) = two('restore', str(tmp_path), None, 2)
  assert (step, same) == (1, True)
  assert f'Going on from {directory_of(run, 1)}' in warning
  run.close()


@pytest.mark.parametrize('process', [0, 1])
def test_a_disk_that_is_full_for_one_process_stops_all(two, tmp_path, process):
  run = str(tmp_path)
  two('save', run, 1)
  two('wait', run)
  two('fill_disk', process)
  two('save', run, 2)
  answers = two.answers('wait', run)
  for answer in answers:
    assert answer['kind'] == 'UserError'
    assert 'of step 1, is kept' in answer['error']
    assert f'{tmp_path}/checkpoints/2: the disk is full' in answer['error']
  assert answers[1 - process]['error'].startswith(f'Process {process}: ')
  assert names(tmp_path) == ['1']
  two('save', run, 2)
  two('wait', run)
  assert two('restore', run, None, 2) == [2, True, []]


def test_a_write_that_cannot_begin_stops_all(two, tmp_path):
  run = str(tmp_path)
  two('break_writing', 1)
  two('save', run, 1)
  first, second = two.answers('wait', run)
  assert second['kind'] == 'PermissionError'
  assert first['kind'] == 'OtherProcessError'
  assert first['error'].startswith('Process 1: PermissionError: ')
  assert names(tmp_path) == []
  two('save', run, 1)
  two('wait', run)
  assert names(tmp_path) == ['1']


def test_a_process_that_stays_away_is_named(tmp_path):
  alone = Checkpointer(tmp_path)
  save(alone, 1)
  alone.close()
  pair = Cluster(processes=2, devices=1)
  run = str(tmp_path)
  assert pair('saved_params', run) == ['bfloat', 'layers/norm', 'layers/wo']
  first, _ = pair.answers('skip', 1, 1.0, 'saved_params', run)
  assert first['kind'] == 'UnansweredError'
  assert 'Process 1 has not answered for 1 s' in first['error']
  pair.close()
