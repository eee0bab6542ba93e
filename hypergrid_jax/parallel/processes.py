"""The processes of a run, and the messages between them.

Devices agree by themselves, in the collective operations of a step. What the
processes decide from files, clocks and signals they agree on through the
key-value store of JAX's coordination service, which runs in process 0.

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

# Work that only one process does may take long, such as tokenising.
_BARRIER_SECONDS = 24 * 3600
# How long process 0, which has the store, lets the others read before it ends.
_EXIT_GRACE_SECONDS = 5
# Waits are cut into pieces of this length, for Ctrl-C is not noticed in one.
_POLL_SECONDS = 1.0
_FAILED = 'failed'
_UNSUBSCRIBE = ''

_numbers = itertools.count()
_subscriptions: list[tuple[str, threading.Thread]] = []
_exit_lock = threading.Lock()


def count() -> int:
  """Returns the number of processes of the run."""
  return distributed.global_state.num_processes


def index() -> int:
  """Returns the rank of this process, from 0."""
  return distributed.global_state.process_id


def is_first() -> bool:
  """Returns whether this process is the one that writes files and prints."""
  return index() == 0


@contextlib.contextmanager
def connected(
  cluster: roll_call.Cluster, *, run: str, timeout_seconds: float
) -> Iterator[None]:
  """Connects the processes of a run while the block runs.

  When the block fails in one process, all end: this one with its own message,
  the others with the message that it failed.

  Args:
    cluster: the rank of this process, and where the others are.
    run: a text that says what is run, the same in every process.
    timeout_seconds: how long the others may take to start.

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
  subscribe(_FAILED, _follow_failure)
  try:
    yield
  except Exception as error:
    message, code = user_message(error), 2
    if message is None:
      message, code = f'{type(error).__name__}: {error}', 1
      sys.excepthook(*sys.exc_info())
    host = present[cluster.process_id]
    publish(_FAILED, json.dumps([cluster.process_id, host, message, code]))
    exit_with(message, code)
  _end_subscriptions()
  jax.distributed.shutdown()


def _follow_failure(text: str) -> None:
  number, host, message, code = json.loads(text)
  if number != index():
    exit_with(f'process {number} on {host} failed: {message}', code)


def exit_with(message: str, code: int) -> NoReturn:
  """Ends this process with one message.

  Processes that make the same mistake receive each other's failure while they
  report their own: only the first message of this process is printed.

  Args:
    message: why it ends.
    code: the exit code.
  """
  with _exit_lock:
    sys.stderr.write(f'hypergrid: {message}\n')
    exit(code)


def exit(code: int) -> NoReturn:
  """Ends this process without waiting for the others' devices.

  Args:
    code: the exit code.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if is_first() and count() > 1:
    time.sleep(_EXIT_GRACE_SECONDS)
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
    _get(key)
  yield
  if is_first():
    publish(key, 'done')


def barrier(topic: str) -> None:
  """Waits until every process has reached this point."""
  if count() > 1:
    distributed.global_state.client.wait_at_barrier(
      f'hypergrid/{topic}/{next(_numbers)}', _BARRIER_SECONDS * 1000
    )


def publish(topic: str, text: str) -> None:
  """Publishes a text under a topic, in place of an earlier one."""
  if count() > 1:
    distributed.global_state.client.key_value_set(
      f'hypergrid/{topic}', text, allow_overwrite=True
    )


def wait_for(topic: str, *, timeout_seconds: float) -> str | None:
  """Waits until something is published under a topic.

  Args:
    topic: the topic's name.
    timeout_seconds: how long to wait.

  Returns:
    The text, or None when nothing was published in time.
  """
  deadline = time.monotonic() + timeout_seconds
  while (remaining := deadline - time.monotonic()) > 0:
    try:
      return _get(topic, min(remaining, _POLL_SECONDS))
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
  return None


def delete(topic: str) -> None:
  """Deletes what is published under a topic and those below it, 'topic/...'."""
  if count() > 1:
    distributed.global_state.client.key_value_delete(f'hypergrid/{topic}')


def _end_subscriptions() -> None:
  """Ends the threads of subscriptions: Python must not end before they do."""
  barrier('end')
  for topic, thread in _subscriptions:
    publish(topic, _UNSUBSCRIBE)
    thread.join()
  _subscriptions.clear()


def subscribe(topic: str, callback: Callable[[str], None]) -> None:
  """Calls back in a thread once any process publishes under a topic."""
  if count() == 1:
    return

  def wait():
    try:
      text = _get(topic)
    except jax.errors.JaxRuntimeError:
      return  # process 0, which has the store, is gone
    if text != _UNSUBSCRIBE:
      callback(text)

  thread = threading.Thread(
    target=wait, name=f'subscription to {topic}', daemon=True
  )
  _subscriptions.append((topic, thread))
  thread.start()


def _get(key: str, seconds: float = _BARRIER_SECONDS) -> str:
  return distributed.global_state.client.blocking_key_value_get(
    f'hypergrid/{key}', math.ceil(seconds * 1000)
  )
