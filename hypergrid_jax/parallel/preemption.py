"""SIGTERM: what cloud schedulers send some seconds before they kill.

A loop asks `stop_at` between steps, and saves where it is told to stop. Where
it cannot ask for long, while XLA compiles or a split is decoded, it enters
`unattended`: everything is on the disk then, and a thread of its own ends the
process with exit code 0. Python runs a handler only between two of its
instructions, hence the thread: the signal reaches it through a file descriptor,
written by C code at once.

Of several processes each may get the signal, or only one. They tell each other,
and stop after the same step: the last that any of them has begun.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
from typing import Self

from hypergrid_jax.parallel import processes

_ASKED = 'preempted'
_STEP = 'preempted_at'
_LEAVING = 'leaving'
# How long the threads of others may take to say where they are, and this
# process to end the step it is in: longer than any step but those that never
# end, because a partner has gone.
_AGREE_SECONDS = 10
_STEP_SECONDS = 20


class Preempted(Exception):  # noqa: N818
  """The process was asked to end, and all it had is on the disk."""


class Preemption:
  """Watches for SIGTERM while its `with` statement lasts.

  Only the main thread can set signal handlers; in another one only what other
  processes of the run tell is heard.
  """

  def __init__(self):
    self._requested = threading.Event()
    self._lock = threading.RLock()
    self._unattended = ''
    self._begun = 0  # steps
    self._last: int | None = None
    self._noticed = threading.Event()
    self._watching = False

  @property
  def requested(self) -> bool:
    """Whether SIGTERM has come, here or to another process of the run."""
    return self._requested.is_set()

  def __enter__(self) -> Self:
    processes.subscribe(_ASKED, lambda _: self._ask())
    if threading.current_thread() is threading.main_thread():
      self._watching = True
      self._read, self._write = os.pipe()
      os.set_blocking(self._write, False)
      # A handler has to be set for the descriptor to be written to.
      self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
      self._wakeup = signal.set_wakeup_fd(
        self._write, warn_on_full_buffer=False
      )
      self._thread = threading.Thread(
        target=self._watch, name='preemption', daemon=True
      )
      self._thread.start()
    return self

  def __exit__(self, *_):
    self._noticed.set()
    if not self._watching:
      return
    signal.set_wakeup_fd(self._wakeup)
    signal.signal(signal.SIGTERM, self._handler)
    os.close(self._write)
    self._thread.join()
    os.close(self._read)

  @contextlib.contextmanager
  def unattended(self, what: str) -> Iterator[None]:
    """A stretch in which nobody asks, and all that was reached is on the disk.

    Args:
      what: is being done, for the message.

    Raises:
      Preempted: SIGTERM has come before.
    """
    with self._lock:
      if self.requested:
        self._leave(what)
      self._unattended = what
    try:
      yield
    finally:
      with self._lock:
        self._unattended = ''

  def stop_at(self, step: int) -> bool:
    """Whether to save and to end instead of beginning another step.

    Args:
      step: steps begun so far.
    """
    with self._lock:
      if not self.requested:
        self._begun = step + 1
        return False
    self._noticed.set()
    if self._last is None:
      self._last = self._last_of_all(step)
    return step >= self._last

  def _last_of_all(self, step: int) -> int:
    """After how many steps all processes stop.

    Their threads told how many they had begun; to wait for their loops could be
    to wait for each other, as they may be waiting for this one's next step.
    """
    if processes.count() == 1:
      return self._begun
    told = [
      processes.wait_for(f'{_STEP}/{number}', timeout_seconds=_AGREE_SECONDS)
      for number in range(processes.count())
    ]
    if None in told or _LEAVING in told:
      # A process that was compiling or evaluating is gone, and no step can be
      # done without it.
      self._exit(f'step {step}')
    return max(map(int, told))

  def _watch(self):
    while numbers := os.read(self._read, 64):
      if signal.SIGTERM in numbers:
        processes.publish(_ASKED, 'yes')
        self._ask()

  def _ask(self):
    with self._lock:
      if self.requested:
        return
      self._requested.set()
      answer = _LEAVING if self._unattended else str(self._begun)
      processes.publish(f'{_STEP}/{processes.index()}', answer)
      if self._unattended:
        # The main thread is inside a call that cannot be left.
        self._exit(self._unattended)
    if processes.count() > 1 and not self._noticed.wait(_STEP_SECONDS):
      self._give_up()

  def _give_up(self):
    """Ends a step that other processes no longer take part in."""
    with self._lock:
      if self._unattended or self._noticed.is_set():
        return
      sys.stderr.write(
        f'hypergrid: SIGTERM, but the step has not ended for {_STEP_SECONDS} s:'
        ' another process may be gone. The same command goes on from the last'
        ' checkpoint.\n'
      )
      processes.exit(1)

  def _leave(self, what: str):
    if processes.count() == 1:
      raise Preempted(what)
    processes.publish(f'{_STEP}/{processes.index()}', _LEAVING)
    self._exit(what)

  def _exit(self, what: str):
    if processes.is_first():
      sys.stdout.write(f'{message(what)}\n')
    processes.exit(0)


def message(what: str) -> str:
  """What to tell the user about where the process was when SIGTERM came."""
  return f'SIGTERM at {what}: all is saved; the same command goes on.'
