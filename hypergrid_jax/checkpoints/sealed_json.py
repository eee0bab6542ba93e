"""JSON files that tell whether they are as they were written."""

import json
import pathlib
from typing import Any
import zlib

from hypergrid_jax import files

_SEAL = 'crc32'


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes the content with a checksum, whole or not at all.

  Raises:
    UserError: the file cannot be written.
  """
  # As it will be read back: JSON turns tuples into lists and keys into text.
  content = json.loads(json.dumps(content))
  content[_SEAL] = zlib.crc32(_render(content).encode())
  files.write_text(path, _render(content))


def read(path: pathlib.Path) -> dict[str, Any]:
  """Returns what was written.

  Raises:
    ValueError: the file is not as it was written.
    FileNotFoundError: there is none.
  """
  text = path.read_text(encoding='utf-8')
  content = json.loads(text)
  if not isinstance(content, dict) or text != _render(content):
    raise ValueError('it is not as it was written')
  expected = content.pop(_SEAL, None)
  if zlib.crc32(_render(content).encode()) != expected:
    raise ValueError('CRC-32 differs')
  return content


def _render(content: dict[str, Any]) -> str:
  return json.dumps(content, indent=1, sort_keys=True) + '\n'
