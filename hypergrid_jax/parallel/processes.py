"""The processes of a run, connected: who speaks, and what all must agree on.

Devices agree by themselves, in the collective operations of a step. What the
processes decide from files, clocks and signals they agree on here, through the
key-value store of JAX's coordination service, which process 0 keeps.

With one process all of this does nothing.
"""

from collections.abc import Callable, Iterator
import contextlib
import itertools
import json
import math
import os
import sys
import threading
import time
from typing import NoReturn

import jax
from jax._src import distributed  # the store has no public name

from hypergrid_jax.errors import user_message
from hypergrid_jax.parallel import roll_call

# What only one process does may take long, such as tokenising a large mixture.
_PATIENCE_SECONDS = 24 * 3600
# How long process 0, who keeps the store, waits for the others to have read it.
_FAREWELL_SECONDS = 5
# Ctrl-C is not noticed while one lasts.
_SLICE_SECONDS = 1.0
_FAILED = 'failed'
_NOTHING = ''

_numbers = itertools.count()
_listeners: list[tuple[str, threading.Thread]] = []
_last_word = threading.Lock()


def count() -> int:
  """How many processes the run has."""
  return distributed.global_state.num_processes


def index() -> int:
  """Number of this process, from 0."""
  return distributed.global_state.process_id


def is_first() -> bool:
  """Whether this process is the one that writes files and speaks."""
  return index() == 0


@contextlib.contextmanager
def connected(
  cluster: roll_call.Cluster, *, run: str, timeout_seconds: float
) -> Iterator[None]:
  """Connects the processes of a run while the block runs.

  When the block fails in one process, all end: this one with its own message,
  the others with the message that it failed.

  Args:
    cluster: who this process is.
    run: what is run, the same text in every process.
    timeout_seconds: how long others may take to come.

  Raises:
    UserError: processes are missing or run something else.
  """
  present = roll_call.roll_call(
    cluster, run=run, timeout_seconds=timeout_seconds
  )
  # JAX's own would take the signal away from `preemption`.
  jax.config.update('jax_enable_preemption_service', False)
  local = cluster.local_device
  jax.distributed.initialize(
    cluster.coordinator,
    cluster.num_processes,
    cluster.process_id,
    local_device_ids=None if local is None else [local],
    initialization_timeout=int(timeout_seconds),
    cluster_detection_method='deactivate',
  )
  listen(_FAILED, _follow_failure)
  try:
    yield
  except Exception as error:
    message, code = user_message(error), 2
    if message is None:
      message, code = f'{type(error).__name__}: {error}', 1
      sys.excepthook(*sys.exc_info())
    host = present[cluster.process_id]
    tell(_FAILED, json.dumps([cluster.process_id, host, message, code]))
    end(message, code)
  _end_listening()
  jax.distributed.shutdown()


def _follow_failure(text: str) -> None:
  number, host, message, code = json.loads(text)
  if number != index():
    end(f'process {number} on {host} failed: {message}', code)


def end(message: str, code: int) -> NoReturn:
  """Ends this process with one message.

  Processes that make the same mistake hear of each other's while they tell
  their own: the first message that a thread of this process brings is its only
  one.

  Args:
    message: why it ends.
    code: the exit code.
  """
  with _last_word:
    sys.stderr.write(f'hypergrid: {message}\n')
    leave(code)


def leave(code: int) -> NoReturn:
  """Ends this process without waiting for the others' devices.

  Args:
    code: the exit code.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if is_first() and count() > 1:
    time.sleep(_FAREWELL_SECONDS)
  os._exit(code)


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
  """Lets process 0 through the block, then all others.

  For what process 0 prepares on disk and the others only read.
  """
  if count() == 1:
    yield
    return
  key = f'first_before_others/{next(_numbers)}'
  if not is_first():
    _wait_for(key)
  yield
  if is_first():
    tell(key, 'done')


def together(topic: str) -> None:
  """Waits until every process has come to this point."""
  if count() > 1:
    distributed.global_state.client.wait_at_barrier(
      f'hypergrid/{topic}/{next(_numbers)}', _PATIENCE_SECONDS * 1000
    )


def tell(topic: str, text: str) -> None:
  """Makes a text known under a topic; what was told before is replaced."""
  if count() > 1:
    distributed.global_state.client.key_value_set(
      f'hypergrid/{topic}', text, allow_overwrite=True
    )


def heard(topic: str, *, timeout_seconds: float) -> str | None:
  """Waits for what is told under a topic.

  Args:
    topic: any.
    timeout_seconds: how long to wait.

  Returns:
    The text, or None when there was none in time.
  """
  deadline = time.monotonic() + timeout_seconds
  while (left := deadline - time.monotonic()) > 0:
    try:
      return _wait_for(topic, min(left, _SLICE_SECONDS))
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
  return None


def forget(topic: str) -> None:
  """Removes what was told under a topic and those below it, 'topic/...'."""
  if count() > 1:
    distributed.global_state.client.key_value_delete(f'hypergrid/{topic}')


def _end_listening() -> None:
  """Ends the threads that listen: Python must not end before they do."""
  together('end')
  for topic, thread in _listeners:
    tell(topic, _NOTHING)
    thread.join()
  _listeners.clear()


def listen(topic: str, hear: Callable[[str], None]) -> None:
  """Calls `hear` in a thread once any process tells something of a topic."""
  if count() == 1:
    return

  def wait():
    try:
      text = _wait_for(topic)
    except jax.errors.JaxRuntimeError:
      return  # process 0, who keeps the store, is gone
    if text != _NOTHING:
      hear(text)

  thread = threading.Thread(target=wait, name=f'hears {topic}', daemon=True)
  _listeners.append((topic, thread))
  thread.start()


def _wait_for(key: str, seconds: float = _PATIENCE_SECONDS) -> str:
  return distributed.global_state.client.blocking_key_value_get(
    f'hypergrid/{key}', math.ceil(seconds * 1000)
  )
