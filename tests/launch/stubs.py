"""Stand-ins for the tools of a cloud: they note their arguments and obey."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

LAUNCH = pathlib.Path(__file__).parent.parent.parent / 'launch'
# All that the launchers may take for granted on a machine; no cloud tool.
TOOLS = (
  'basename bash cat chmod cp cut date dirname env find id kill mkdir mktemp mv'
  ' ps rm sed setsid sha256sum sleep sort tail touch wc'
)
STUB = """#!/bin/bash
call=$STUBS/calls/$(date +%s%N)-$$
printf '%s\\0' "${0##*/}" "$@" >"$call.new"
mv "$call.new" "$call"
"""
# Arguments that a shell on the way would change.
ODD = ('a b', "it's", '"q"', '$HOME', '`id`', '*', '\\', '', 'a;b&c|d', '$(id)')


class Stubs:
  """A directory of stubs, and nothing else on the PATH.

  Attributes:
    root: where the stubs and what they write are.
  """

  def __init__(self, root: pathlib.Path):
    self.root = root
    (root / 'bin').mkdir()
    (root / 'calls').mkdir()
    for tool in TOOLS.split():
      (root / 'bin' / tool).symlink_to(shutil.which(tool))
    self.environment = {
      'PATH': str(root / 'bin'),
      'HOME': str(root),
      'STUBS': str(root),
      'LC_ALL': 'C.UTF-8',
    }

  def add(self, name: str, body: str = '') -> None:
    """A tool that notes its arguments and then does as the body says."""
    path = self.root / 'bin' / name
    path.write_text(STUB + body)
    path.chmod(0o755)

  def calls(self, name: str) -> list[list[str]]:
    """The arguments of each call of a tool, in their order."""
    paths = sorted((self.root / 'calls').glob('*[0-9]'))
    found = [path.read_bytes().decode().split('\0')[:-1] for path in paths]
    return [call[1:] for call in found if call[0] == name]

  def command(self, script: str, *arguments: str) -> list[str]:
    return ['bash', str(LAUNCH / script), *arguments]

  def launch(self, script: str, *arguments: str, timeout: float = 60):
    """Runs a launcher to its end; logs go to root/logs."""
    return subprocess.run(
      self.command(script, *self.with_logs(arguments)),
      capture_output=True,
      text=True,
      check=False,
      cwd=self.root,
      env=self.environment,
      timeout=timeout,
    )

  def with_logs(self, arguments):
    return ['--logs', str(self.root / 'logs'), *arguments]

  def start(self, script: str, *arguments: str) -> subprocess.Popen:
    """Starts a launcher, in a process group of its own as a terminal does."""
    return subprocess.Popen(
      self.command(script, *self.with_logs(arguments)),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      cwd=self.root,
      env=self.environment,
      start_new_session=True,
    )

  def logs(self, pattern: str) -> dict[str, str]:
    """What the log files whose names fit hold."""
    root = self.root / 'logs'
    return {
      str(path.relative_to(root)): path.read_text()
      for path in sorted(root.glob(pattern))
    }

  def codes(self, attempt: int = 1) -> dict[str, int]:
    """The exit code of each host of an attempt."""
    found = self.logs(f'attempt-{attempt}/*.exit')
    return {
      pathlib.Path(name).stem: int(text.split()[0])
      for name, text in found.items()
    }


def wait_until(condition, seconds: float = 30) -> None:
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


def interrupt(process: subprocess.Popen) -> None:
  """Ctrl-C: the whole foreground group gets SIGINT."""
  os.killpg(process.pid, signal.SIGINT)


def running(process_id: str) -> bool:
  """Whether a process has not ended; nobody may have asked for its code."""
  state = pathlib.Path(f'/proc/{process_id}/stat')
  return state.exists() and state.read_text().split()[2] != 'Z'
