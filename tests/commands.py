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
  """A port that is free now, and the next one with it, most likely."""
  with socket.create_server(('', 0)) as probe:
    return probe.getsockname()[1]


class Command:
  """`hypergrid` with the same arguments in every process."""

  def __init__(self, *arguments, processes=1, devices=8, own=None):
    """Starts it.

    Args:
      *arguments: verb and flags.
      processes: how many.
      devices: fake ones in each.
      own: arguments that one process has beside them, by its number.
    """
    place = ['--coordinator', f'localhost:{free_port()}']
    place += ['--num_processes', str(processes)]
    self.processes = []
    for number in range(processes):
      mine = [*place, '--process_id', str(number)] if processes > 1 else []
      mine += (own or {}).get(number, [])
      self.processes.append(
        subprocess.Popen(
          [sys.executable, '-m', 'hypergrid_jax', *arguments, *mine],
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
    ended = []
    try:
      for process in self.processes:
        left = deadline - time.monotonic()
        out, err = process.communicate(timeout=max(left, 1))
        ended.append((process.returncode, out, err))
    finally:
      for process in self.processes:
        process.kill()
    return ended

  def read_until(self, text: str) -> str:
    """Reads what process 0 says until a line with `text` comes."""
    lines = []
    for line in self.processes[0].stdout:
      lines.append(line)
      if text in line:
        return ''.join(lines)
    raise AssertionError(f'{text!r} did not come:\n{"".join(lines)}')


def succeeds(*arguments, **places) -> list[str]:
  """Runs it to its end; returns what every process said."""
  ended = Command(*arguments, **places).wait()
  for number, (code, out, err) in enumerate(ended):
    assert code == 0, f'process {number}: {code}\n{out}\n{err}'
  return [out for _, out, _ in ended]


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
