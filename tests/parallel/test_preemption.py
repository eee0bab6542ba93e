"""SIGTERM at any moment ends the process with nothing lost.

Several processes are in test_several_processes.py.
"""

import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from hypergrid_jax.parallel.preemption import Preempted, Preemption


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
    from hypergrid_jax.parallel.preemption import Preemption
    with Preemption() as preemption:
      print('ready', flush=True)
      step = 0
      while not preemption.stop_at(step):
        step += 1
        time.sleep(0.01)
      assert preemption.stop_at(step)
      print('saved')
  """)
  assert (code, out) == (0, 'saved\n')


def test_a_long_call_is_not_waited_for():
  code, out = run("""
    import ctypes
    from hypergrid_jax.parallel.preemption import Preemption
    with Preemption() as preemption:
      with preemption.unattended('a long call'):
        print('ready', flush=True)
        ctypes.CDLL(None).sleep(3600)
        ctypes.CDLL(None).sleep(3600)  # a signal ends one sleep
      print('went on')
  """)
  assert code == 0
  assert out == (
    'SIGTERM at a long call: all is saved; the same command goes on.\n'
  )


def test_no_unattended_stretch_begins_after_the_signal():
  went_on = False
  with Preemption() as preemption:
    os.kill(os.getpid(), signal.SIGTERM)
    while not preemption.requested:
      time.sleep(0.01)
    with (
      pytest.raises(Preempted, match='compiling'),
      preemption.unattended('compiling'),
    ):
      went_on = True
  assert not went_on


def test_without_a_signal_nothing_stops():
  before = signal.getsignal(signal.SIGTERM)
  with Preemption() as preemption, preemption.unattended('compiling'):
    assert not preemption.requested
    assert not preemption.stop_at(7)
  assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_may_train_too():
  with concurrent.futures.ThreadPoolExecutor(1) as pool:

    def train():
      with Preemption() as preemption, preemption.unattended('compiling'):
        return preemption.stop_at(0)

    assert pool.submit(train).result() is False
