"""SIGTERM at any moment ends the process after what it had is saved."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from hypergrid_jax.preemption import Preempted, Preemption


def run(program):
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(program)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=60)
  return process.returncode, out


def test_a_loop_that_polls_ends_by_itself():
  code, out = run("""
    import time
    from hypergrid_jax.preemption import Preemption
    with Preemption() as preemption:
      print('ready', flush=True)
      while not preemption.requested:
        time.sleep(0.01)
      print('saved')
  """)
  assert (code, out) == (0, 'saved\n')


def test_a_long_call_is_not_waited_for():
  code, out = run("""
    import ctypes
    from hypergrid_jax.preemption import Preemption
    with Preemption() as preemption:
      with preemption.unattended(lambda: print('saved')):
        print('ready', flush=True)
        ctypes.CDLL(None).sleep(3600)
        ctypes.CDLL(None).sleep(3600)  # a signal ends one sleep
      print('went on')
  """)
  assert (code, out) == (0, 'saved\n')


def test_a_failed_save_is_no_success():
  code, out = run("""
    import ctypes
    from hypergrid_jax.preemption import Preemption
    def save():
      raise OSError('disk full')
    with Preemption() as preemption, preemption.unattended(save):
      print('ready', flush=True)
      ctypes.CDLL(None).sleep(3600)
      ctypes.CDLL(None).sleep(3600)
  """)
  assert (code, out) == (1, '')


def test_no_unattended_stretch_begins_after_the_signal():
  saved = []
  with Preemption() as preemption:
    os.kill(os.getpid(), signal.SIGTERM)
    with (
      pytest.raises(Preempted),
      preemption.unattended(lambda: saved.append(1)),
    ):
      saved.append('went on')
  assert saved == [1]


def test_afterwards_the_handler_is_the_old_one():
  before = signal.getsignal(signal.SIGTERM)
  with Preemption() as preemption, preemption.unattended(lambda: None):
    assert not preemption.requested
  assert signal.getsignal(signal.SIGTERM) is before
