"""Rows of tasks that others register with seqio: where they lie, without seqio.

The rows themselves are read by the task's own seqio source.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import glob
import hashlib
import json
import pathlib
from typing import Any

from etils import epath

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.rows import files, sources

_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class SeqioRows:
  """Where the rows of a registered task lie; a `definitions.OwnRows`.

  Attributes:
    task: name of the task.
    code: changes when the code that makes the examples may have changed.
    kind: 'files', 'tfds', or 'code' for a source whose data nobody can see.
    source: class of the seqio source.
    parts: by split what the source reads for it: for files their patterns, for
      TFDS an object with 'dataset', 'data_dir' and 'split', otherwise None.
    counts: number of rows by split, where the task says it.
    place: file and line of the registration, empty where it is not known.
  """

  task: str
  code: str
  kind: str
  source: str
  parts: Mapping[str, Any]
  counts: Mapping[str, int]
  place: str

  def splits(self) -> Mapping[str, str]:
    """Returns the splits that are there, and where each lies."""
    places = {split: self._place(split) for split in self.parts}
    return {split: place for split, place in places.items() if place}

  def fingerprint(self, split: str) -> str:
    """Returns a text that changes when an example of the split may have.

    It follows the module's code and, for files on disks, their bytes, for TFDS
    the prepared directory's description. Data that a function reads cannot be
    seen.

    Raises:
      UserError: no file matches, or one cannot be read.
    """
    digest = hashlib.sha256(json.dumps([self.code, split]).encode())
    part = self.parts[split]
    if self.kind == 'files':
      for path in self._files(split):
        digest.update(path.encode())
        if not _is_remote(path):
          _add_bytes(digest, pathlib.Path(path))
    if self.kind == 'tfds':
      found = prepared(part['dataset'], part['data_dir'])
      digest.update(json.dumps(part).encode())
      digest.update(found.read_bytes() if found else b'not prepared')
    return f'seqio {self.task} {split} {digest.hexdigest()}'

  def count(self, split: str) -> int | None:
    """Returns the number of rows where that is cheap to know."""
    if split in self.counts:
      return self.counts[split]
    if self.kind != 'tfds':
      return None
    part = self.parts[split]
    found = prepared(part['dataset'], part['data_dir'])
    return _sizes(found).get(part['split']) if found else None

  def estimate(self, split: str) -> int:
    """Returns about how many rows there are; 0 where nobody can say."""
    known = self.count(split)
    if known is not None or self.kind != 'files':
      return known or 0
    paths = [pathlib.Path(p) for p in self._files(split) if not _is_remote(p)]
    return sum(map(files.estimated_rows, paths))

  def read(self, split: str) -> Iterator[dict[str, Any]]:
    """Refuses: only the task's own seqio source can read its rows."""
    raise ValueError(f'the rows of {self.task}/{split} are read through seqio')

  def _place(self, split: str) -> str:
    """Returns where a split lies, empty where it is not there."""
    part = self.parts[split]
    if self.kind == 'files':
      return ', '.join(_matching(part))
    if self.kind == 'tfds':
      found = prepared(part['dataset'], part['data_dir'])
      return str(found.parent) if found else f'not prepared: {part["dataset"]}'
    return f'what its {self.source} gives'

  def _files(self, split: str) -> Sequence[str]:
    found = _matching(self.parts[split])
    if not found:
      raise UserError(
        f'{self.task}, split {split!r}: no file. Its {self.source} reads'
        f' {", ".join(self.parts[split])} (working directory:'
        f' {pathlib.Path.cwd()}).'
      )
    return found


def prepared(dataset: str | None, data_dir: str | None) -> Any:
  """Returns the description of prepared TFDS data, None where there is none.

  Args:
    dataset: name with configuration and version, each of which may be left out
      where the directory leaves no doubt; of several versions the highest is
      meant. None for data that `data_dir` itself holds.
    data_dir: TFDS data directory; None for TFDS's default.

  Returns:
    The path of `dataset_info.json`, local or in a bucket.
  """
  if dataset is None:
    info = epath.Path(data_dir) / 'dataset_info.json'
    return info if info.exists() else None
  name, _, version = dataset.partition(':')
  folder = epath.Path(data_dir or sources.tfds_data_dir()) / name
  if not folder.exists():
    return None
  # The versions of the dataset, or of its only configuration.
  for versions in (folder, *_only_directory(folder)):
    names = [path.name for path in versions.iterdir() if _version(path.name)]
    chosen = (
      version if version in names else max(names, key=_version, default='')
    )
    if version and '*' not in version and chosen != version:
      continue
    info = versions / chosen / 'dataset_info.json'
    if chosen and info.exists():
      return info
  return None


def split_names(info: Any) -> tuple[str, ...]:
  """Returns the splits of prepared TFDS data.

  Args:
    info: as `prepared` returns it.
  """
  return tuple(_sizes(info))


def _only_directory(folder: Any) -> list[Any]:
  inside = [path for path in folder.iterdir() if path.is_dir()]
  inside = [path for path in inside if not _version(path.name)]
  return inside if len(inside) == 1 else []


def _version(name: str) -> tuple[int, ...]:
  """Returns '1.10.0' as numbers; empty for a name that is no version."""
  parts = name.split('.')
  if len(parts) != 3 or not all(part.isdigit() for part in parts):
    return ()
  return tuple(map(int, parts))


def _sizes(info: Any) -> dict[str, int]:
  splits = json.loads(info.read_text()).get('splits', [])
  return {
    split['name']: sum(int(length) for length in split.get('shardLengths', []))
    for split in splits
  }


def _matching(patterns: Sequence[str]) -> list[str]:
  """Returns the files that patterns stand for, as seqio finds them."""
  found: list[str] = []
  for pattern in patterns:
    if _is_remote(pattern):
      found.append(pattern)
    elif glob.has_magic(pattern):
      found += sorted(glob.glob(pattern))
    elif pathlib.Path(pattern).exists():
      found.append(pattern)
  return found


def _is_remote(path: str) -> bool:
  return '://' in path


def _add_bytes(digest: Any, path: pathlib.Path) -> None:
  try:
    with path.open('rb') as file:
      while block := file.read(_BLOCK):
        digest.update(block)
  except OSError as error:
    raise UserError(f'{path}: cannot be read: {error.strerror}.') from error
