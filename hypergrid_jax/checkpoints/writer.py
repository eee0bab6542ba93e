"""Writing the checkpoints of a run: when, how, and which of them stay.

Orbax writes the arrays. When a checkpoint counts is decided here and not by
`orbax.checkpoint.CheckpointManager`, because of its barriers: when one process
fails, the others wait at one until it times out, or meet it at another one, and
no later save succeeds. Here every process reports how its own write went, and
process 0 writes the manifest only when all went well.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import contextlib
import errno
import logging
import math
import pathlib
import threading
import time
from typing import Any

from etils import epath
import orbax.checkpoint as ocp

from hypergrid_jax import trees
from hypergrid_jax.checkpoints import layout
from hypergrid_jax.checkpoints.reader import (
  AVERAGE,
  CheckpointReader,
  Differences,
)
from hypergrid_jax.errors import UserError
from hypergrid_jax.parallel import agreement, processes

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ('No space left on device', 'Disk quota exceeded')


class Checkpointer:
  """Writes the checkpoints of one run directory.

  Every process of the run calls every method, in the same order and with the
  same arguments. A save is asynchronous: it returns as soon as the state has
  left the devices, and the checkpoint counts once its manifest is written, in
  all processes at once. A failure of any process is raised in all of them.

  Attributes:
    directory: where the checkpoints are, `checkpoints` in the run directory.
    reader: reads the same checkpoints.
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    *,
    keep: int = 2,
    fingerprint: Mapping[str, Any] | None = None,
    differences: Differences | None = None,
  ):
    """Describes the checkpoints of a run; touches no file.

    Args:
      directory: the run directory; checkpoints are in its `checkpoints`.
      keep: how many of the latest checkpoints to keep, besides the best ones.
        With 2 or more, a damaged newest one costs only one period.
      fingerprint: JSON that identifies the run; saved with every checkpoint.
      differences: see `CheckpointReader`.

    Raises:
      UserError: `keep` is below 1.
    """
    if keep < 1:
      raise UserError(
        f'keep is {keep}, but at least 1 checkpoint must be kept to go on from.'
      )
    self.reader = CheckpointReader(directory, differences=differences)
    self.directory = self.reader.directory
    self._files = layout.CheckpointFiles(self.directory)
    self._fingerprint = dict(fingerprint or {})
    self._keep = keep
    self._handler = ocp.StandardCheckpointHandler()
    self._worker = futures.ThreadPoolExecutor(1, 'checkpoint')
    self._saving: tuple[int, futures.Future[None]] | None = None
    self._saved: int | None = None
    # Process 0 may mark one checkpoint while its worker finishes another.
    self._lock = threading.RLock()
    self._log_filter = _RaisedAnyway()
    logging.getLogger('absl').addFilter(self._log_filter)

  def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
    """Starts to write a checkpoint; the state may be donated afterwards.

    Waits for the save before, so that its failure surfaces here.

    Args:
      step: updates made.
      state: pytree of arrays; its leaves under 'params' can be restored alone.
      meta: JSON to save beside the state.

    Returns:
      False if this step has a whole checkpoint already, which stays as it is.

    Raises:
      UserError: the disk is too full, or was during the save before; what that
        save had written is removed and all earlier checkpoints are kept.
    """
    self.wait()
    leaves = trees.flatten(state)
    items = layout.to_items(leaves)
    own = {'fingerprint': self._fingerprint, 'step': step}
    body = {'leaves': trees.layout(leaves), 'meta': {**meta, **own}}
    size = sum(leaf.nbytes for leaf in leaves.values())
    if not agreement.of_first(lambda: self._begin(step, size, items)):
      return False
    writes = self._write(step, items)
    exchanges = agreement.Exchange(), agreement.Exchange()
    finished = self._worker.submit(self._finish, step, body, writes, exchanges)
    self._saving = step, finished
    return True

  def wait(self) -> None:
    """Blocks until the save in progress is finished, manifest included.

    Raises:
      UserError: the disk was full; see `save`.
    """
    if self._saving is None:
      return
    _, finished = self._saving
    try:
      finished.result()
    finally:
      self._saving = None

  def close(self) -> None:
    """Waits, and ends the threads of this object.

    Raises:
      UserError: see `wait`.
    """
    try:
      self.wait()
    finally:
      self._worker.shutdown()
      self._handler.close()
      logging.getLogger('absl').removeFilter(self._log_filter)

  def mark_best(self, step: int, value: float, *, name: str = AVERAGE) -> bool:
    """Keeps a checkpoint if its score is the highest so far.

    Args:
      step: a checkpoint that is finished or being saved.
      value: its score; higher is better, NaN is never best.
      name: what the score is, such as a task's name; each name has a best
        checkpoint of its own.

    Returns:
      Whether it is the new best. An equal score leaves the earlier one.
    """
    return agreement.of_first(lambda: self._mark(step, value, name))

  def _begin(self, step: int, size: int, items: Iterable[str]) -> bool:
    """Makes a checkpoint's directories; False if it is already whole."""
    files = self._files
    with self._undoing(self._clean), self._naming_full_disk(step):
      files.remove_unfinished()
      if step in files.started():
        if files.is_whole(step):
          return False
        files.remove(step)
      files.check_space(step, size)
      for name in items:
        (files.path(step) / name).mkdir(parents=True)
    return True

  def _write(
    self, step: int, items: Mapping[str, Any]
  ) -> list[futures.Future[Any]]:
    """Starts to write this process's shards.

    Returns:
      What to wait for. A failure to start is a future too, so that the other
      processes learn of it as of any other.
    """
    writes: list[Any] = []
    for name, tree in items.items():
      saving = self._handler.async_save(
        epath.Path(self._files.path(step) / name),
        args=ocp.args.StandardSave(tree),
      )
      # In the worker, as this thread may have an event loop: a notebook's.
      started = self._worker.submit(_run, saving)
      if started.exception() is not None:
        return [*writes, started]
      writes += started.result() or ()
    return writes

  def _finish(
    self,
    step: int,
    body: Mapping[str, Any],
    writes: list[futures.Future[Any]],
    exchanges: tuple[agreement.Exchange, agreement.Exchange],
  ) -> None:
    """Waits for all processes, then makes the checkpoint count; in a thread."""
    written, sealed = exchanges
    with self._undoing(lambda: sealed.of_first(self._clean)):
      sums = written.of_all(lambda: self._await(step, writes))
    sealed.of_first(lambda: self._seal(step, body, sums))

  def _await(
    self, step: int, writes: list[futures.Future[Any]]
  ) -> layout.Checksums:
    """Waits for this process's writes; returns the checksums of its files."""
    with self._naming_full_disk(step):
      if errors := _errors_of(writes):
        raise errors[0]
    path = self._files.path(step)
    own = f'/ocdbt.process_{processes.index()}/'
    names = [name for name in layout.files_of(path) if own in name]
    return layout.checksums(path, names)

  def _seal(
    self, step: int, body: Mapping[str, Any], sums: list[layout.Checksums]
  ) -> None:
    """Merges what all processes wrote, and writes the manifest."""
    path = self._files.path(step)
    with self._undoing(self._clean), self._naming_full_disk(step):
      for item in path.iterdir():
        self._handler.finalize(epath.Path(item))
      names = layout.files_of(path)
      written = {name: s for own in sums for name, s in own.items()}
      merged = layout.checksums(path, [n for n in names if n not in written])
      files = {**written, **merged}
      layout.write_manifest(path, body, {name: files[name] for name in names})
    self._saved = step
    with self._lock:
      self._files.prune(step, self._keep)

  def _mark(self, step: int, value: float, name: str) -> bool:
    files = self._files
    steps = files.steps() + ([self._saving[0]] if self._saving else [])
    if step not in steps:
      raise ValueError(f'there is no checkpoint of step {step} to mark')
    with self._lock:
      best = files.best()
      former, highest = best.get(name, (None, -math.inf))
      if math.isnan(value) or (former in steps and value <= highest):
        return False
      files.write_best({**best, name: (step, float(value))})
      if self._saved is not None:
        files.prune(self._saved, self._keep)
    return True

  @contextlib.contextmanager
  def _naming_full_disk(self, step: int) -> Iterator[None]:
    """Makes a full disk a UserError, whatever library reports it."""
    try:
      yield
    except Exception as error:
      if isinstance(error, UserError) or not _is_disk_full(error):
        raise
      path = self._files.path(step)
      raise layout.no_room(path, 'the disk is full') from error

  @contextlib.contextmanager
  def _undoing(self, clean: Callable[[], int | None]) -> Iterator[None]:
    """Removes what a failed save has written.

    Args:
      clean: runs `_clean` in process 0, when no process writes any more.

    Raises:
      UserError: the save failed with one; names the last good checkpoint.
    """
    try:
      yield
    except agreement.UnansweredError:
      raise  # one process may still be writing; the next save cleans up
    except Exception as error:
      last = clean()
      if not isinstance(error, UserError):
        raise
      text = (
        'There is no earlier checkpoint.'
        if last is None
        else f'The last good one, of step {last}, is kept.'
      )
      raise UserError(f'{error} {text}') from error

  def _clean(self) -> int | None:
    """Deletes unfinished checkpoints; returns the last finished step."""
    self._files.remove_unfinished()
    return max(self._files.steps(), default=None)


class _RaisedAnyway(logging.Filter):
  """Drops the tracebacks that Orbax logs of errors that it raises as well."""

  def filter(self, record: logging.LogRecord) -> bool:
    return '_SignalingThread.run() raised' not in str(record.msg)


def _run(coroutine: Any) -> Any:
  # Not asyncio.run: it cancels tasks of other threads' loops, Orbax's, too.
  loop = asyncio.new_event_loop()
  try:
    return loop.run_until_complete(coroutine)
  finally:
    loop.close()


def _errors_of(writes: Iterable[futures.Future[Any]]) -> list[Exception]:
  """Waits for all writes: the first to fail is not the last to write."""
  errors = []
  for write in writes:
    try:
      write.result()
    except Exception as error:
      errors.append(error)
  return errors


def _is_disk_full(error: BaseException | None) -> bool:
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    if any(text in str(error) for text in _FULL_TEXTS):
      return True
    error = error.__cause__ or error.__context__
  return False


class CheckpointTimes:
  """Decides after which steps to save; every process decides the same.

  Minutes are those of process 0's clock. The other processes do not ask for it
  at every step: each answer says how many steps to make before the next
  question, enough for half of the time left, and at most as many as since the
  last save. So there are a few dozen questions between two saves, and a save is
  late by not much more than the steps that the host is ahead of its devices.
  """

  def __init__(
    self,
    start: int,
    *,
    steps: int,
    minutes: float | None = None,
    agree: Callable[[int], int] = lambda value: agreement.of_first(
      lambda: value
    ),
    clock: Callable[[], float] = time.monotonic,
  ):
    """Begins to count.

    Args:
      start: the step that was saved or begun with.
      steps: save when the step's number is a multiple of this.
      minutes: save when so much time has passed since the last save; None for
        never.
      agree: returns process 0's argument; all processes call it together.
      clock: returns seconds.
    """
    self._steps = steps
    self._seconds = None if minutes is None else 60.0 * minutes
    self._agree = agree
    self._clock = clock
    self._count_from(start)

  def due(self, step: int) -> bool:
    """Returns whether to save now; called after every step, in order."""
    due = step % self._steps == 0
    if not due and self._seconds is not None and step == self._question:
      steps = self._agree(self._steps_to_wait(step))
      self._question = step + steps
      due = steps == 0
    if due:
      self._count_from(step)
    return due

  def _count_from(self, step: int) -> None:
    self._saved, self._time = step, self._clock()
    self._question = step + 1

  def _steps_to_wait(self, step: int) -> int:
    passed = self._clock() - self._time
    left = self._seconds - passed
    if left <= 0:
      return 0
    steps = step - self._saved
    if left >= 2 * passed:
      return steps
    return max(1, int(steps * left / passed / 2))
