"""Proof that a directory of files is complete and undamaged.

A manifest lists size and CRC-32 of every file of a directory, and carries a
JSON body of the caller's under the same protection. It is written last: a
directory without one was never finished.
"""

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any

from hypergrid_jax import files as files_lib

NAME = 'manifest.json'

# Path below the directory -> [bytes, CRC-32].
Checksums = Mapping[str, list[int]]


def files_of(directory: pathlib.Path) -> list[str]:
  """Returns every file below the directory, the largest first."""
  sizes = {
    path.relative_to(directory).as_posix(): path.stat().st_size
    for path in directory.rglob('*')
    if path.is_file()
  }
  sizes.pop(NAME, None)
  return sorted(sizes, key=lambda name: (-sizes[name], name))


def checksums(
  directory: pathlib.Path, names: Iterable[str]
) -> dict[str, list[int]]:
  """Reads files and returns what a manifest says of them."""
  found = {}
  for name in names:
    path = directory / name
    found[name] = [path.stat().st_size, files_lib.crc32(path)]
  return found


def write(
  directory: pathlib.Path,
  body: Mapping[str, Any],
  files: Checksums | None = None,
) -> None:
  """Writes the manifest.

  Args:
    directory: whose files will not change any more.
    body: what to keep with them; JSON.
    files: of every file; None reads them all.

  Raises:
    UserError: it cannot be written.
  """
  if files is None:
    files = checksums(directory, files_of(directory))
  files_lib.write_sealed_json(directory / NAME, {'body': body, 'files': files})


def is_finished(directory: pathlib.Path) -> bool:
  """Tells whether the directory has a manifest, damaged or not."""
  return (directory / NAME).is_file()


def read(directory: pathlib.Path) -> tuple[dict[str, Any], Checksums]:
  """Returns the body that was given to `write`, and the files.

  Raises:
    ValueError: the manifest is damaged.
    FileNotFoundError: there is none.
  """
  try:
    content = files_lib.read_sealed_json(directory / NAME)
  except ValueError as error:
    raise ValueError(f'{NAME} is damaged ({error})') from error
  return content['body'], content['files']


def read_body(directory: pathlib.Path) -> dict[str, Any]:
  """Returns only the body; see `read`."""
  return read(directory)[0]


def problem(
  directory: pathlib.Path, files: Checksums | None = None
) -> str | None:
  """Reads files again and says what is wrong with them.

  Args:
    directory: with a manifest, or without.
    files: which to read, as in the manifest; None for all that it lists.

  Returns:
    None when all is as it was written, otherwise a short description of the
    first fault found.
  """
  if files is None:
    try:
      files = read(directory)[1]
    except FileNotFoundError:
      return 'it was never finished'
    except ValueError as error:
      return str(error)
  for name, (size, crc) in files.items():
    path = directory / name
    if not path.is_file():
      return f'{name} is missing'
    if path.stat().st_size != size:
      return f'{name} has {path.stat().st_size} bytes instead of {size}'
    if files_lib.crc32(path) != crc:
      return f'{name} is damaged (CRC-32 differs)'
  return None
