"""Files and directories that are written whole or not at all, and checksums."""

from collections.abc import Iterable, Iterator
import contextlib
import json
import os
import pathlib
import shutil
from typing import Any
import zlib

from hypergrid_jax.errors import UserError

_CRC = 'crc32'  # the field of a sealed JSON file that holds its checksum
_BLOCK = 1 << 24  # bytes


def write_text(path: str | os.PathLike[str], text: Iterable[str]) -> None:
  """Writes text under a temporary name and renames it when it is on the disk.

  A crash leaves the old content or the new, never a piece of it.

  Args:
    path: the file; its directory is made when it is missing.
    text: one string, or an iterable of strings that are joined.

  Raises:
    UserError: the file cannot be written; its former content is unchanged.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open('w', encoding='utf-8', newline='\n') as file:
      file.writelines(text)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
  except BaseException as error:
    with contextlib.suppress(OSError):  # the first error is the one to raise
      temporary.unlink(missing_ok=True)
    if isinstance(error, OSError):
      raise UserError(
        f'{path}: cannot be written ({error.strerror}). Free some space or'
        ' choose another directory; nothing there was changed.'
      ) from error
    raise


def sync_directory(path: pathlib.Path) -> None:
  """Makes a rename in the directory survive a power failure."""
  directory = os.open(path, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


def to_json(value: Any, *, indent: int | None = None) -> str:
  """Returns `value` as JSON; raises ValueError on NaN and infinities."""
  return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def crc32(path: str | os.PathLike[str]) -> int:
  """Returns the CRC-32 of a file's bytes, reading a block at a time."""
  value = 0
  with open(path, 'rb') as file:
    while block := file.read(_BLOCK):
      value = zlib.crc32(block, value)
  return value


def write_sealed_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes a JSON object with a checksum of itself, whole or not at all.

  Raises:
    UserError: the file cannot be written.
  """
  # As it will be read back: JSON turns tuples into lists and keys into text.
  content = json.loads(json.dumps(content))
  content[_CRC] = zlib.crc32(_canonical_json(content).encode())
  write_text(path, _canonical_json(content))


def read_sealed_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns the object that `write_sealed_json` wrote.

  Raises:
    ValueError: the file is not as it was written.
    FileNotFoundError: there is no such file.
  """
  text = path.read_text(encoding='utf-8')
  content = json.loads(text)
  if not isinstance(content, dict) or text != _canonical_json(content):
    raise ValueError('it is not as it was written')
  expected = content.pop(_CRC, None)
  if zlib.crc32(_canonical_json(content).encode()) != expected:
    raise ValueError('CRC-32 differs')
  return content


def _canonical_json(content: dict[str, Any]) -> str:
  return json.dumps(content, indent=1, sort_keys=True) + '\n'


@contextlib.contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Makes a directory appear with all of its files, or not at all.

  Args:
    path: the directory; nothing may be there but an empty one.

  Yields:
    A temporary directory beside it, which is renamed when the block ends and
    removed when it fails.

  Raises:
    UserError: something is there already, or it cannot be written.
  """
  path = pathlib.Path(path).absolute()
  check_is_free(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    try:
      temporary.mkdir(parents=True)
    except OSError as error:
      raise UserError(
        f'{path}: cannot be written ({error.strerror}). Choose another'
        ' directory.'
      ) from error
    yield temporary
    check_is_free(path)
    temporary.replace(path)
    sync_directory(path.parent)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def check_is_free(path: str | os.PathLike[str]) -> None:
  """Checks that a new directory can be made under this name.

  Raises:
    UserError: something is there already.
  """
  path = pathlib.Path(path)
  if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
    raise UserError(
      f'{path} is there already. Choose another directory, or move it away;'
      ' nothing is overwritten.'
    )
