"""Checkpoints that are whole or absent, and never the wrong ones.

Orbax writes and reads the arrays. When a checkpoint counts is decided here and
not by Orbax's manager, which leaves the other processes at a barrier when one
of them fails: every process reports how its part went, and process 0 writes the
manifest when all went well.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import errno
import logging
import math
import pathlib
import threading
from typing import Any

from etils import epath
import orbax.checkpoint as ocp

from hypergrid_jax import trees
from hypergrid_jax.checkpoints import layout, manifest
from hypergrid_jax.checkpoints.reader import (
  AVERAGE,
  CheckpointReader,
  Differences,
  to_items,
)
from hypergrid_jax.errors import UserError
from hypergrid_jax.parallel import agreement, processes

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ('No space left on device', 'Disk quota exceeded')


class Checkpointer(CheckpointReader):
  """Writes and reads the checkpoints of one run directory.

  Only `save` and `mark_best` change anything on disk. A save is asynchronous:
  it returns as soon as the state has left the devices, and the checkpoint
  counts once its manifest is there, in all processes at once. A failure of any
  process is raised in all of them.
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
      fingerprint: JSON, what makes this run this run; kept with every
        checkpoint.
      differences: see `CheckpointReader`.

    Raises:
      UserError: `keep` is below 1.
    """
    if keep < 1:
      raise UserError(
        f'keep is {keep}, but at least 1 checkpoint must be kept to go on from.'
      )
    super().__init__(directory, differences=differences)
    self._fingerprint = dict(fingerprint or {})
    self._keep = keep
    self._handler = ocp.StandardCheckpointHandler()
    logging.getLogger('absl').addFilter(_is_news)
    self._worker = futures.ThreadPoolExecutor(1, 'checkpoint')
    self._saving: tuple[int, futures.Future[None]] | None = None
    self._saved: int | None = None
    # Process 0 may mark one checkpoint while its worker finishes another.
    self._lock = threading.RLock()

  def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
    """Starts to write a checkpoint; the state may be donated afterwards.

    Waits for the save before, so that its failure surfaces here.

    Args:
      step: updates made.
      state: pytree of arrays; its leaves under 'params' can be restored alone.
      meta: JSON, to be kept beside the state.

    Returns:
      False if this step is already there, whole; it is left as it is.

    Raises:
      UserError: the disk is full, or was during the save before; what that
        save had written is removed and all earlier checkpoints are kept.
    """
    self.wait()
    leaves = trees.flatten(state)
    items = to_items(leaves)
    own = {'fingerprint': self._fingerprint, 'step': step}
    body = {'leaves': trees.layout(leaves), 'meta': {**meta, **own}}
    size = sum(leaf.nbytes for leaf in leaves.values())
    writes: list[Any] = []
    with self._cleaning_up(writes):
      if not agreement.of_first(lambda: self._begin(step, size, list(items))):
        return False
      agreement.of_all(lambda: self._write(step, items, writes))
    exchanges = [agreement.Exchange() for _ in range(4)]
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
      with self._cleaning_up():
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

  def mark_best(self, step: int, value: float, *, name: str = AVERAGE) -> bool:
    """Keeps a checkpoint if its score is the highest so far.

    Args:
      step: a checkpoint that is there or being saved.
      value: its score; higher is better, NaN is never best.
      name: what the score is, such as a task's name; each name has a best
        checkpoint of its own.

    Returns:
      Whether it is the new best. An equal score leaves the earlier one.
    """
    return agreement.of_first(lambda: self._mark(step, value, name))

  def _begin(self, step: int, size: int, items: list[str]) -> bool:
    """Makes place for a checkpoint; False if it is there already."""
    files = self._files
    files.remove_unfinished()
    if step in files.started():
      if files.is_whole(step):
        return False
      files.remove(step)
    files.check_space(step, size)
    with self._naming_full_disk(step):
      files.begin(step, items)
    return True

  def _write(
    self, step: int, items: Mapping[str, Any], writes: list[Any]
  ) -> None:
    """Starts to write this process's part; adds to what is to be waited for."""
    with self._naming_full_disk(step):
      for name, tree in items.items():
        saving = self._handler.async_save(
          epath.Path(self._files.path(step) / name),
          args=ocp.args.StandardSave(tree),
        )
        # In the worker, as this thread may have an event loop: a notebook's.
        writes += self._worker.submit(_run, saving).result() or ()

  def _await(self, step: int, writes: list[Any]) -> None:
    """Waits until nothing is being written any more, and then raises."""
    if errors := _errors_of(writes):
      with self._naming_full_disk(step):
        raise errors[0]

  def _finish(
    self,
    step: int,
    body: Mapping[str, Any],
    writes: list[Any],
    exchanges: list[agreement.Exchange],
  ) -> None:
    """Waits for all processes, then makes the checkpoint count. In a thread."""
    written, merged, summed, sealed = exchanges
    path = self._files.path(step)
    index, count = processes.index(), processes.count()
    written.of_all(lambda: self._await(step, writes))
    names = merged.of_first(lambda: self._merge(step))
    sums = summed.of_all(lambda: manifest.checksums(path, names[index::count]))
    sealed.of_first(lambda: self._seal(step, body, sums))

  def _merge(self, step: int) -> list[str]:
    """Joins what all processes wrote; returns the files that came out of it."""
    path = self._files.path(step)
    with self._naming_full_disk(step):
      for item in path.iterdir():
        self._handler.finalize(epath.Path(item))
    return manifest.files_of(path)

  def _seal(
    self, step: int, body: Mapping[str, Any], sums: list[manifest.Checksums]
  ) -> None:
    files = {name: sizes for part in sums for name, sizes in part.items()}
    with self._naming_full_disk(step):
      manifest.write(self._files.path(step), body, files)
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
    """Makes a full disk a user's error, whatever reports it."""
    try:
      yield
    except Exception as error:
      if not _is_disk_full(error):
        raise
      path = self._files.path(step)
      raise layout.no_room(path, 'the disk is full') from error

  @contextlib.contextmanager
  def _cleaning_up(self, writes: Sequence[Any] = ()) -> Iterator[None]:
    """Removes what a failed save has written; all processes come here.

    Args:
      writes: what may still be written then, by this process.

    Raises:
      UserError: the save failed by a user's mistake; tells what is left.
    """
    try:
      yield
    except agreement.UnansweredError:
      raise  # there is nobody to agree with, and the next save cleans up
    except Exception as error:
      agreement.of_all(lambda: len(_errors_of(writes)))
      kept = agreement.of_first(self._clean)
      if not isinstance(error, UserError):
        raise
      last = (
        'There is no earlier checkpoint.'
        if kept is None
        else f'The last good one, of step {kept}, is kept.'
      )
      raise UserError(f'{error} {last}') from error

  def _clean(self) -> int | None:
    self._files.remove_unfinished()
    return max(self._files.steps(), default=None)


def _is_news(record: logging.LogRecord) -> bool:
  """Whether to log it: Orbax logs with traceback what it raises, too."""
  return '_SignalingThread.run() raised' not in str(record.msg)


def _run(coroutine: Any) -> Any:
  # Not asyncio.run: it cancels tasks of other threads' loops, Orbax's, too.
  loop = asyncio.new_event_loop()
  try:
    return loop.run_until_complete(coroutine)
  finally:
    loop.close()


def _errors_of(writes: Iterable[Any]) -> list[Exception]:
  """Waits for all of them; the first to fail is not the last to write."""
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
