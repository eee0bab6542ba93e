"""The checkpoints of a run on disk, as one process sees and changes them.

A run directory holds:

  checkpoints/<step>/params/      parameters, written by Orbax
  checkpoints/<step>/training/    step and optimiser state, written by Orbax
  checkpoints/<step>/manifest.json  written last: fingerprint, leaves, checksums
  checkpoints/best.json           which steps are the best, and their scores

A manifest lists size and CRC-32 of every file of its checkpoint. A checkpoint
without one was never finished.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import logging
import pathlib
import shutil
from typing import Any

from hypergrid_jax import files as files_lib
from hypergrid_jax import trees
from hypergrid_jax.errors import UserError

_LOG = logging.getLogger(__name__)

MANIFEST = 'manifest.json'
PARAMS = 'params'
TRAINING = 'training'

# Path below the checkpoint's directory -> [bytes, CRC-32].
Checksums = Mapping[str, list[int]]


def item_of(path: str) -> str:
  """Returns the Orbax item that holds a leaf, PARAMS or TRAINING."""
  return PARAMS if path.split('/')[0] == PARAMS else TRAINING


def to_items(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the Orbax items of a checkpoint as nested dicts."""
  items: dict[str, dict[str, Any]] = {}
  for path, leaf in leaves.items():
    items.setdefault(item_of(path), {})[path] = leaf
  return {name: trees.unflatten(items[name]) for name in sorted(items)}


def files_of(directory: pathlib.Path) -> list[str]:
  """Returns all files below the directory but the manifest, largest first."""
  sizes = {
    path.relative_to(directory).as_posix(): path.stat().st_size
    for path in directory.rglob('*')
    if path.is_file()
  }
  sizes.pop(MANIFEST, None)
  return sorted(sizes, key=lambda name: (-sizes[name], name))


def checksums(
  directory: pathlib.Path, names: Iterable[str]
) -> dict[str, list[int]]:
  """Reads files and returns their sizes and CRC-32s."""
  return {
    name: [(directory / name).stat().st_size, files_lib.crc32(directory / name)]
    for name in names
  }


def write_manifest(
  directory: pathlib.Path,
  body: Mapping[str, Any],
  files: Checksums | None = None,
) -> None:
  """Writes the manifest of a checkpoint, after which the checkpoint counts.

  Args:
    directory: the checkpoint's, whose files will not change any more.
    body: JSON: 'leaves', the `trees.layout`; 'meta', with 'fingerprint' and
      'step'.
    files: checksums of all files; None reads them all.

  Raises:
    UserError: it cannot be written.
  """
  if files is None:
    files = checksums(directory, files_of(directory))
  content = {'body': body, 'files': files}
  files_lib.write_sealed_json(directory / MANIFEST, content)


def is_finished(directory: pathlib.Path) -> bool:
  """Returns whether a checkpoint has a manifest, damaged or not."""
  return (directory / MANIFEST).is_file()


def read_manifest(directory: pathlib.Path) -> tuple[dict[str, Any], Checksums]:
  """Returns body and checksums, as passed to `write_manifest`.

  Raises:
    ValueError: the manifest is missing or damaged.
  """
  try:
    content = files_lib.read_sealed_json(directory / MANIFEST)
  except FileNotFoundError:
    raise ValueError('it was never finished') from None
  except ValueError as error:
    raise ValueError(f'{MANIFEST} is damaged ({error})') from error
  return content['body'], content['files']


def problem(directory: pathlib.Path, files: Checksums) -> str | None:
  """Reads files again and compares them with their checksums.

  Args:
    directory: a checkpoint's.
    files: the files to read, with what the manifest says of them.

  Returns:
    A short description of the first fault; None when there is none.
  """
  for name, (size, crc) in files.items():
    path = directory / name
    if not path.is_file():
      return f'{name} is missing'
    if path.stat().st_size != size:
      return f'{name} has {path.stat().st_size} bytes instead of {size}'
    if files_lib.crc32(path) != crc:
      return f'{name} is damaged (CRC-32 differs)'
  return None


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
  """Files of a run's checkpoints; only process 0 changes them.

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
    return [s for s in self.started() if is_finished(self.path(s))]

  def read(self, step: int) -> tuple[dict[str, Any], Checksums]:
    """Returns body and checksums of a checkpoint's manifest.

    Raises:
      ValueError: it is damaged, missing, or that of another checkpoint.
    """
    body, files = read_manifest(self.path(step))
    if body['meta']['step'] != step:
      raise ValueError(f'it holds step {body["meta"]["step"]}')
    return body, files

  def is_whole(self, step: int) -> bool:
    """Reads all files of a checkpoint and returns whether all are good."""
    try:
      _, files = self.read(step)
    except ValueError:
      return False
    return problem(self.path(step), files) is None

  def best(self) -> dict[str, tuple[int, float]]:
    """Returns step and score of every best checkpoint, even if deleted."""
    path = self.directory / 'best.json'
    try:
      content = files_lib.read_sealed_json(path)
    except FileNotFoundError:
      return {}
    except ValueError as error:
      _LOG.warning(
        '%s is damaged (%s); no checkpoint counts as the best.', path, error
      )
      return {}
    return {k: (v['step'], v['value']) for k, v in content.items()}

  def write_best(self, best: Mapping[str, tuple[int, float]]) -> None:
    """Writes what `best` reads.

    Raises:
      UserError: it cannot be written.
    """
    content = {
      name: {'step': step, 'value': value}
      for name, (step, value) in best.items()
    }
    files_lib.write_sealed_json(self.directory / 'best.json', content)

  def remove(self, step: int) -> None:
    """Deletes a checkpoint, its manifest first, so that no half counts."""
    (self.path(step) / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(self.path(step))

  def remove_unfinished(self) -> None:
    """Deletes what interrupted saves left behind."""
    for step in set(self.started()) - set(self.steps()):
      self.remove(step)

  def prune(self, last: int, keep: int) -> None:
    """Deletes checkpoints that are neither best nor among the newest.

    Args:
      last: the step that was saved last. Later ones are neither deleted nor
        counted: a run that resumed from an earlier step had skipped them as
        damaged.
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
    existing = self.directory
    while not existing.exists():
      existing = existing.parent
    free = shutil.disk_usage(existing).free
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
