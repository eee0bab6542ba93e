"""SIGTERM: what cloud schedulers send some seconds before they kill.

A loop polls `requested` between steps. Where it cannot poll for long, while XLA
compiles or a split is decoded, it enters `unattended` and says how to save:
then a thread of its own saves and ends the process with exit code 0. Python
runs a handler only between two of its instructions, hence the thread: the
signal reaches it through a file descriptor, written by C code at once.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
import traceback
from typing import Self


class Preempted(Exception):  # noqa: N818
  """The process was asked to end; what the loop had is saved or worthless."""


class Preemption:
  """Watches for SIGTERM while its `with` statement lasts.

  Only the main thread can make one, as only it can set signal handlers.
  """

  def __init__(self):
    self._requested = threading.Event()
    self._lock = threading.Lock()
    self._save: Callable[[], None] | None = None

  @property
  def requested(self) -> bool:
    """Whether SIGTERM has come."""
    return self._requested.is_set()

  def __enter__(self) -> Self:
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    # A handler has to be set for the descriptor to be written to.
    self._handler = signal.signal(signal.SIGTERM, self._note)
    self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    self._thread = threading.Thread(
      target=self._watch, name='preemption', daemon=True
    )
    self._thread.start()
    return self

  def __exit__(self, *_):
    signal.set_wakeup_fd(self._wakeup)
    signal.signal(signal.SIGTERM, self._handler)
    os.close(self._write)
    self._thread.join()
    os.close(self._read)

  def _note(self, number, frame):
    del number, frame
    self._requested.set()

  @contextlib.contextmanager
  def unattended(self, save: Callable[[], None]) -> Iterator[None]:
    """A stretch in which nobody polls.

    Args:
      save: makes sure that what the loop has is on the disk; called from
        another thread.

    Raises:
      Preempted: SIGTERM had come already; `save` has been called.
    """
    with self._lock:
      if not self.requested:
        self._save = save
    if self._save is None:
      save()
      raise Preempted
    try:
      yield
    finally:
      # Waits for the thread when it is saving, which then ends the process.
      with self._lock:
        self._save = None

  def _watch(self):
    while numbers := os.read(self._read, 64):
      if signal.SIGTERM not in numbers:
        continue
      with self._lock:
        self._requested.set()
        if self._save is not None:
          self._save_and_exit(self._save)

  def _save_and_exit(self, save):
    code = 0
    try:
      save()
    except BaseException:
      traceback.print_exc()
      code = 1
    finally:
      sys.stdout.flush()
      sys.stderr.flush()
      # The main thread is inside a call that cannot be left.
      os._exit(code)
