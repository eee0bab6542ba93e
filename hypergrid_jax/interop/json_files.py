"""JSON of other programs, read without trust, and written for them."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from hypergrid_jax import files
from hypergrid_jax.errors import UserError

_LARGEST = 100_000_000  # bytes; what safetensors allows for its headers


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Raises:
    UserError: it is missing, too large, not JSON, no object, or has a key
      twice.
  """
  try:
    size = path.stat().st_size
    if size > _LARGEST:
      raise UserError(f'{path}: {size} bytes are too many for such a file.')
    content = path.read_bytes()
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from error
  return parse_object(content, str(path))


def write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes one object, whole or not at all."""
  text = json.dumps(content, indent=2, ensure_ascii=False)
  files.write_text(path, [text, '\n'])


def parse_object(content: bytes, where: str) -> dict[str, Any]:
  """Reads one JSON object.

  Args:
    content: its text.
    where: for messages.

  Raises:
    UserError: it is no JSON, no object, or has a key twice.
  """
  try:
    value = json.loads(content.decode(), object_pairs_hook=_without_doubles)
  except (ValueError, RecursionError) as error:
    raise UserError(
      f'{where} is not JSON ({error}). Fetch it again.'
    ) from error
  if not isinstance(value, dict):
    raise UserError(f'{where}: expected an object, got {str(value)[:40]}.')
  return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    (twice, *_) = (name for name in names if names.count(name) > 1)
    raise ValueError(f'the key {twice!r} is there twice')
  return found
