"""Runs of 1, 2 and 4 processes, killed and resumed, read the same batches."""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys

import numpy as np

from tests.data import host_process

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 220
NUM_HOSTS = (1, 2, 4, 1)


class Host:
  """A process that reads its rows of the steps it is told."""

  def __init__(self, directory, host, num_hosts):
    self._process = subprocess.Popen(
      [
        sys.executable,
        '-m',
        'tests.data.host_process',
        *map(str, (directory, host, num_hosts)),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=ROOT,
    )

  def ask(self, step):
    self._process.stdin.write(f'{step}\n')
    self._process.stdin.flush()

  def answer(self):
    return json.loads(self._process.stdout.readline())

  def kill(self):
    self._process.kill()
    assert self._process.wait() == -signal.SIGKILL
    self._process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()


def test_killed_and_resumed_with_other_hosts_batches_are_the_same(tmp_path):
  host_process.write_stores(tmp_path)
  loaders = host_process.make_loaders(tmp_path)
  expected = [
    [host_process.row_digests(made, step, 0, 1) for made in loaders]
    for step in range(STEPS)
  ]
  assert len({str(rows) for step in expected for rows in step}) == 3 * STEPS
  rng = np.random.default_rng(4)
  seen, first = [], 0
  for phase, num_hosts in enumerate(NUM_HOSTS, start=1):
    hosts = [Host(tmp_path, number, num_hosts) for number in range(num_hosts)]
    killed = phase * STEPS // len(NUM_HOSTS) - int(rng.integers(0, 30))
    last = phase == len(NUM_HOSTS)
    for step in range(first, STEPS if last else killed):
      for host in hosts:
        host.ask(step)
      parts = [host.answer() for host in hosts]
      rows = [sum(of_hosts, []) for of_hosts in zip(*parts, strict=True)]
      assert rows == expected[step], (num_hosts, step)
      seen.append(step)
    for host in hosts:
      host.ask(killed)  # some are through with it when they are killed
    for host in hosts[: int(rng.integers(0, num_hosts + 1))]:
      host.answer()
    for host in hosts:
      host.kill()
    # Training goes on from a checkpoint, some steps before it was killed.
    first = killed - int(rng.integers(1, 9))
  assert set(seen) == set(range(STEPS))
  assert len(seen) > STEPS  # some steps were made again by other hosts
