"""The checkpoints of a run as one process sees and changes them.

A run directory holds:

  checkpoints/<step>/params/      parameters, written by Orbax
  checkpoints/<step>/training/    step and optimiser state, written by Orbax
  checkpoints/<step>/manifest.json  written last: fingerprint, leaves, checksums
  checkpoints/best.json           which steps are the best, and their scores
"""

from collections.abc import Mapping
import dataclasses
import logging
import pathlib
import shutil
from typing import Any

from hypergrid_jax import files
from hypergrid_jax.checkpoints import manifest
from hypergrid_jax.errors import UserError

_LOG = logging.getLogger(__name__)

Best = Mapping[str, tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
  """Files of checkpoints; only process 0 changes them, or decides by them.

  Attributes:
    directory: where the checkpoints are, `checkpoints` in the run directory.
  """

  directory: pathlib.Path

  def path(self, step: int) -> pathlib.Path:
    """Returns the directory of a checkpoint, which may not exist."""
    return self.directory / str(step)

  def started(self) -> list[int]:
    """Returns the steps that have a directory, finished or not, ascending."""
    if not self.directory.is_dir():
      return []
    names = [path.name for path in self.directory.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())

  def steps(self) -> list[int]:
    """Returns the steps of all finished checkpoints, ascending."""
    return [s for s in self.started() if manifest.is_finished(self.path(s))]

  def read(self, step: int) -> tuple[dict[str, Any], manifest.Checksums]:
    """Returns body and files of a checkpoint's manifest.

    Raises:
      ValueError: it is damaged, missing, or that of another checkpoint.
    """
    try:
      body, files = manifest.read(self.path(step))
    except FileNotFoundError:
      raise ValueError('it was never finished') from None
    if body['meta']['step'] != step:
      raise ValueError(f'it holds step {body["meta"]["step"]}')
    return body, files

  def is_whole(self, step: int) -> bool:
    """Reads all files of a checkpoint again and tells whether they are good."""
    try:
      _, files = self.read(step)
    except ValueError:
      return False
    return manifest.problem(self.path(step), files) is None

  def best(self) -> dict[str, tuple[int, float]]:
    """Returns step and score of every best checkpoint, there still or not."""
    path = self.directory / 'best.json'
    try:
      content = files.read_sealed_json(path)
    except FileNotFoundError:
      return {}
    except ValueError as error:
      _LOG.warning(
        '%s is damaged (%s); no checkpoint counts as the best.', path, error
      )
      return {}
    return {k: (v['step'], v['value']) for k, v in content.items()}

  def write_best(self, best: Best) -> None:
    """Writes what `best` reads.

    Raises:
      UserError: it cannot be written.
    """
    content = {
      name: {'step': step, 'value': value}
      for name, (step, value) in best.items()
    }
    files.write_sealed_json(self.directory / 'best.json', content)

  def begin(self, step: int, items: list[str]) -> None:
    """Makes the directories of a new checkpoint."""
    for name in items:
      (self.path(step) / name).mkdir(parents=True)

  def remove(self, step: int) -> None:
    """Deletes a checkpoint, its manifest first: a half is never taken whole."""
    (self.path(step) / manifest.NAME).unlink(missing_ok=True)
    shutil.rmtree(self.path(step))

  def remove_unfinished(self) -> None:
    """Deletes what interrupted saves left behind."""
    for step in set(self.started()) - set(self.steps()):
      self.remove(step)

  def prune(self, last: int, keep: int) -> None:
    """Deletes checkpoints that are neither best nor among the newest.

    Args:
      last: the step that was saved last. Later ones are left alone, and do not
        count: a run that went on from an earlier one found them damaged.
      keep: how many of the newest stay.
    """
    best = {step for step, _ in self.best().values()}
    for step in [s for s in self.steps() if s <= last][:-keep]:
      if step not in best:
        self.remove(step)

  def check_space(self, step: int, size: int) -> None:
    """Checks that so many bytes can be written for a checkpoint.

    Raises:
      UserError: they cannot.
    """
    place = self.directory
    while not place.exists():
      place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
      reason = f'it needs {_readable(size)}, there is {_readable(free)}'
      raise no_room(self.path(step), reason)


def no_room(path: pathlib.Path, reason: str) -> UserError:
  """Returns the error of a disk that is too full for a checkpoint."""
  return UserError(
    f'No room for checkpoint {path}: {reason}. Free some space and start again.'
  )


def _readable(size: int) -> str:
  return f'{size / 1e9:.3g} GB' if size >= 1e9 else f'{size / 1e6:.3g} MB'
