"""Runs the real command in one or several processes, each with fake devices."""

import contextlib
import functools
import os
import pathlib
import socket
import subprocess
import sys
import time
import types
from unittest import mock

from hypergrid_jax.cli import main, tasks, verbs, weights

ROOT = pathlib.Path(__file__).parents[1]
TIMEOUT_SECONDS = 400
# XLA's older way of generating code, which takes half the time.
COMPILE_FASTER = '--xla_cpu_use_fusion_emitters=false'


def free_port() -> int:
  """Returns a port that is free now, and most likely the next one too."""
  with socket.create_server(('', 0)) as probe:
    return probe.getsockname()[1]


class Command:
  """Runs `hypergrid` with the same arguments in every process."""

  def __init__(self, *arguments, processes=1, devices=8, own=None):
    """Starts it.

    Args:
      *arguments: the verb and its flags.
      processes: how many to start.
      devices: how many fake devices each process has.
      own: further arguments of single processes, by their numbers.
    """
    address = ['--coordinator', f'localhost:{free_port()}']
    address += ['--num_processes', str(processes)]
    self.processes = []
    for number in range(processes):
      more = [*address, '--process_id', str(number)] if processes > 1 else []
      more += (own or {}).get(number, [])
      self.processes.append(
        subprocess.Popen(
          [sys.executable, '-m', 'hypergrid_jax', *arguments, *more],
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
          cwd=ROOT,
          env={
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            'PYTHONUNBUFFERED': '1',
            'XLA_FLAGS': (
              f'--xla_force_host_platform_device_count={devices}'
              f' {COMPILE_FASTER}'
            ),
          },
        )
      )

  def wait(self) -> list[tuple[int, str, str]]:
    """Returns exit code, output and messages of every process."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    results = []
    try:
      for process in self.processes:
        left = deadline - time.monotonic()
        out, err = process.communicate(timeout=max(left, 1))
        results.append((process.returncode, out, err))
    finally:
      for process in self.processes:
        process.kill()
    return results

  def read_until(self, text: str) -> str:
    """Reads the output of process 0 up to a line with `text`."""
    lines = []
    for line in self.processes[0].stdout:
      lines.append(line)
      if text in line:
        return ''.join(lines)
    raise AssertionError(f'{text!r} did not come:\n{"".join(lines)}')


def succeeds(*arguments, **options) -> list[str]:
  """Runs a command to its end; returns the output of every process."""
  results = Command(*arguments, **options).wait()
  for number, (code, out, err) in enumerate(results):
    assert code == 0, f'process {number}: {code}\n{out}\n{err}'
  return [out for _, out, _ in results]


def parsed(*arguments) -> types.SimpleNamespace:
  """Returns the verb and the options of a command line, without running it."""
  calls = []

  def recorder(info):
    def record(**options):
      calls.append(types.SimpleNamespace(verb=info.name, **options))
      return 0

    return functools.wraps(info.callback)(record)

  with contextlib.ExitStack() as stack:
    for app in (verbs.app, tasks.app, weights.app):
      for info in app.registered_commands:
        patch = mock.patch.object(info, 'callback', recorder(info))
        stack.enter_context(patch)
    assert main.main(arguments) == 0
  (call,) = calls
  return call
