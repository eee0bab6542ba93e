"""Checkpoints that are whole or absent, and never the wrong ones.

The files of a checkpoint are described in `checkpoint_reader`.
"""

from collections.abc import Mapping
from concurrent import futures
import errno
import json
import logging
import math
import pathlib
import shutil
import threading
from typing import Any

import jax
import orbax.checkpoint as ocp

from hypergrid_jax import atomic_files, manifest, tree_paths
from hypergrid_jax.checkpoint_reader import CheckpointReader, to_items
from hypergrid_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ('No space left on device', 'Disk quota exceeded')


def _readable(size: int) -> str:
  return f'{size / 1e9:.3g} GB' if size >= 1e9 else f'{size / 1e6:.3g} MB'


def _is_disk_full(error: BaseException | None) -> bool:
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    if any(text in str(error) for text in _FULL_TEXTS):
      return True
    error = error.__cause__ or error.__context__
  return False


class Checkpointer(CheckpointReader):
  """Writes and reads the checkpoints of one run directory.

  Only `save` and `mark_best` change anything on disk. A save is asynchronous:
  it returns as soon as the state has left the devices, and the checkpoint
  counts once its manifest is there. Every process of a run calls every method
  with the same arguments; all see the same files.
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    *,
    keep: int = 2,
    fingerprint: Mapping[str, Any] | None = None,
  ):
    """Describes the checkpoints of a run; touches no file.

    Args:
      directory: the run directory; checkpoints are in its `checkpoints`.
      keep: how many of the latest checkpoints to keep, besides the best ones.
        With 2 or more, a damaged newest one costs only one period.
      fingerprint: JSON, what makes this run this run; kept with every
        checkpoint and handed out by `meta` and `restore` to be compared.

    Raises:
      UserError: `keep` is below 1.
    """
    if keep < 1:
      raise UserError(
        f'keep is {keep}, but at least 1 checkpoint must be kept to go on from.'
      )
    super().__init__(directory)
    self.fingerprint = json.loads(json.dumps(fingerprint or {}))
    self._keep = keep
    self._manager: ocp.CheckpointManager | None = None
    self._worker = futures.ThreadPoolExecutor(1, 'checkpoint')
    self._saving: tuple[int, futures.Future[None]] | None = None
    self._saved: int | None = None
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
    self._remove_leftovers()
    if self._path(step).exists():
      if manifest.problem(self._path(step)) is None:
        return False
      self._remove(step)
    leaves = tree_paths.flatten(state)
    self._check_space(step, sum(leaf.nbytes for leaf in leaves.values()))
    own = {'fingerprint': self.fingerprint, 'step': step}
    body = {'leaves': tree_paths.layout(leaves), 'meta': {**meta, **own}}
    items = {
      name: ocp.args.StandardSave(tree)
      for name, tree in to_items(leaves).items()
    }
    try:
      manager = self._manager = self._manager or self._create()
      # Orbax remembers which steps it has seen; some may be deleted by now.
      manager.reload()
      manager.save(step, args=ocp.args.Composite(**items), force=True)
    except Exception as error:
      self._fail(step, error)
      raise
    self._saving = step, self._worker.submit(self._finish, manager, step, body)
    return True

  def wait(self) -> None:
    """Blocks until the save in progress is finished, manifest included.

    Raises:
      UserError: the disk was full; see `save`.
    """
    if self._saving is None:
      return
    step, saved = self._saving
    try:
      saved.result()
    except Exception as error:
      self._fail(step, error)
      raise
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
      if self._manager is not None:
        self._manager.close()
        self._manager = None

  def mark_best(
    self, step: int, value: float, *, name: str = 'average'
  ) -> bool:
    """Keeps a checkpoint if its score is the highest so far.

    Args:
      step: a checkpoint that is there or being saved.
      value: its score; higher is better, NaN is never best.
      name: what the score is; each name has a best checkpoint of its own.

    Returns:
      Whether it is the new best. An equal score leaves the earlier one.
    """
    steps = self.steps() + ([self._saving[0]] if self._saving else [])
    if step not in steps:
      raise ValueError(f'there is no checkpoint of step {step} to mark')
    with self._lock:
      best = self._best()
      former, highest = best.get(name, (None, -math.inf))
      if math.isnan(value) or (former in steps and value <= highest):
        return False
      best[name] = step, float(value)
      self._write_best(best)
    self._prune()
    return True

  def _create(self) -> ocp.CheckpointManager:
    self.directory.mkdir(parents=True, exist_ok=True)
    return self._open(writable=True)

  def _finish(
    self, manager: ocp.CheckpointManager, step: int, body: dict[str, Any]
  ) -> None:
    """Waits for Orbax, then makes the checkpoint count. In a thread."""
    manager.wait_until_finished()
    if jax.process_index() == 0:
      manifest.write(self._path(step), body)
    self._saved = step
    self._prune()

  def _check_space(self, step: int, size: int) -> None:
    place = self.directory
    while not place.exists():
      place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
      raise self._disk_full(
        step, f'needs {_readable(size)}, has {_readable(free)}'
      )

  def _disk_full(self, step: int, reason: str) -> UserError:
    kept = self.latest()
    last = (
      'There is no earlier checkpoint.'
      if kept is None
      else f'The last good one, of step {kept}, is kept.'
    )
    return UserError(
      f'No room for the checkpoint of step {step} in {self.directory}: '
      f'{reason}. {last} Free some space and start again.'
    )

  def _fail(self, step: int, error: Exception) -> None:
    """Removes what a failed save has written.

    Raises:
      UserError: it failed because the disk is full.
    """
    manager, self._manager = self._manager, None
    if manager is not None:
      try:
        manager.close()
      except Exception as second:
        _LOG.debug('closing after a failed save: %r', second)
    self._remove_leftovers()
    if _is_disk_full(error):
      raise self._disk_full(step, 'the disk is full') from error

  def _write_best(self, best: Mapping[str, tuple[int, float]]) -> None:
    if jax.process_index() != 0:
      return
    content = {
      name: {'step': step, 'value': value}
      for name, (step, value) in best.items()
    }
    text = json.dumps(content, indent=1) + '\n'
    atomic_files.write_text(self.directory / 'best.json', text)

  def _remove(self, step: int) -> None:
    """Deletes a checkpoint, its manifest first: a half is never taken whole."""
    if jax.process_index() != 0:
      return
    (self._path(step) / manifest.NAME).unlink(missing_ok=True)
    shutil.rmtree(self._path(step))

  def _remove_leftovers(self) -> None:
    """Deletes what interrupted saves left behind.

    Those are steps without a manifest, and directories that Orbax writes to
    before it renames them, '<step>.<some text>'.
    """
    if jax.process_index() != 0 or not self.directory.is_dir():
      return
    for path in self.directory.iterdir():
      step, dot, _ = path.name.partition('.')
      if dot and step.isdecimal() and path.is_dir():
        shutil.rmtree(path)
    for step in set(self._directories()) - set(self.steps()):
      self._remove(step)

  def _prune(self) -> None:
    """Deletes checkpoints that are neither best nor among the last saved.

    Later ones than this object's last are left alone, and do not count: a run
    that went on from an earlier checkpoint found them damaged.
    """
    if self._saved is None:
      return
    with self._lock:
      steps = [step for step in self.steps() if step <= self._saved]
      best = {step for step, _ in self._best().values()}
      for step in steps[: -self._keep]:
        if step not in best:
          self._remove(step)
