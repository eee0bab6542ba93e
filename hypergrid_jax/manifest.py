"""Proof that a directory of files is complete and undamaged.

A manifest lists size and CRC-32 of every file of a directory, and carries a
JSON body of the caller's under the same protection. It is written last: a
directory without one was never finished.
"""

import json
import pathlib
from typing import Any
import zlib

from hypergrid_jax import atomic_files

NAME = 'manifest.json'
_CHUNK = 1 << 24


def _crc32(path: pathlib.Path) -> int:
  value = 0
  with path.open('rb') as file:
    while chunk := file.read(_CHUNK):
      value = zlib.crc32(chunk, value)
  return value


def _render(content: dict[str, Any]) -> str:
  return json.dumps(content, indent=1, sort_keys=True) + '\n'


def write(directory: pathlib.Path, body: dict[str, Any]) -> None:
  """Reads every file under `directory` and writes their manifest into it.

  Args:
    directory: whose files will not change any more.
    body: what to keep with them; JSON.
  """
  files = {
    path.relative_to(directory).as_posix(): [
      path.stat().st_size,
      _crc32(path),
    ]
    for path in sorted(directory.rglob('*'))
    if path.is_file()
  }
  # As it will be read back: JSON turns tuples into lists and keys into text.
  content = json.loads(json.dumps({'body': body, 'files': files}))
  content['crc32'] = zlib.crc32(_render(content).encode())
  atomic_files.write_text(directory / NAME, _render(content))


def is_finished(directory: pathlib.Path) -> bool:
  """Tells whether the directory has a manifest, damaged or not."""
  return (directory / NAME).is_file()


def _load(directory: pathlib.Path) -> dict[str, Any]:
  """Returns a manifest whose own checksum holds.

  Raises:
    ValueError: the file is not as it was written.
  """
  text = (directory / NAME).read_text(encoding='utf-8')
  content = json.loads(text)
  if not isinstance(content, dict) or text != _render(content):
    raise ValueError('it is not as it was written')
  expected = content.pop('crc32', None)
  if zlib.crc32(_render(content).encode()) != expected:
    raise ValueError('CRC-32 differs')
  return content


def read_body(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the body that was given to `write`.

  Raises:
    ValueError: the manifest is damaged.
    FileNotFoundError: there is none.
  """
  return _load(directory)['body']


def problem(directory: pathlib.Path) -> str | None:
  """Reads everything again and says what is wrong with it.

  Returns:
    None when all is as it was written, otherwise a short description of the
    first fault found.
  """
  if not is_finished(directory):
    return 'it was never finished'
  try:
    files = _load(directory)['files']
  except ValueError as error:
    return f'{NAME} is damaged ({error})'
  for name, (size, crc) in files.items():
    path = directory / name
    if not path.is_file():
      return f'{name} is missing'
    if path.stat().st_size != size:
      return f'{name} has {path.stat().st_size} bytes instead of {size}'
    if _crc32(path) != crc:
      return f'{name} is damaged (CRC-32 differs)'
  return None
