"""A TOML file whose mistakes are reported by line and key."""

from collections.abc import Iterable, Sequence
import decimal
import pathlib
import re
import tomllib
from typing import Any

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks.rows import fields

_ABSENT = object()
_PLACE = re.compile(r'\(at line (\d+), column \d+\)|\(at end of document\)')


class Document:
  """The values of a TOML file, each asked for with the type it has to have.

  A key is given as its parts: ('splits', 'train') is `train` in `[splits]`.

  Attributes:
    path: of the file.
  """

  def __init__(self, path: str):
    """Reads the file.

    Raises:
      UserError: it cannot be read, or is no TOML.
    """
    self.path = pathlib.Path(path)
    try:
      self._text = self.path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
      raise UserError(
        f'{path}: not UTF-8 (byte {error.start + 1}). TOML files are.'
      ) from error
    except FileNotFoundError:
      beside = _names(self.path.parent, '.toml')
      raise UserError(
        f'Task file {path}: there is no such file.'
        f'{closest(self.path.name, beside)}'
      ) from None
    except OSError as error:
      raise UserError(
        f'Task file {path}: cannot be read: {error.strerror}.'
      ) from error
    try:
      self._values = tomllib.loads(self._text, parse_float=decimal.Decimal)
    except tomllib.TOMLDecodeError as error:
      raise UserError(
        f'{self._where_broken(str(error))}: not valid TOML: {error}.'
      ) from error

  def has(self, *key: str) -> bool:
    """Whether the key is there."""
    return self._find(key) is not _ABSENT

  def get(self, *key: str) -> Any:
    """Returns a value of any type.

    Raises:
      UserError: it is not there.
    """
    value = self._find(key)
    if value is _ABSENT:
      raise UserError(
        f'{self._where(key[:-1])}: {".".join(key)!r} is missing.'
        f'{closest(key[-1], self._find(key[:-1]))}'
      )
    return value

  def text(self, *key: str) -> str:
    """Returns a text that is not blank; raises as `get`, and for others."""
    return self._checked(self.get(*key), key)

  def texts(self, *key: str) -> list[str]:
    """Returns a list of texts, none blank; raises as `get`, and for others."""
    value = self.get(*key)
    if not isinstance(value, list):
      raise self._wrong(key, 'a list of texts', value)
    return [self._checked(item, key) for item in value]

  def table(self, *key: str) -> dict[str, Any]:
    """Returns a table; raises as `get`, and for other values."""
    value = self.get(*key)
    if not isinstance(value, dict):
      raise self._wrong(key, 'a table', value)
    return value

  def number(self, *key: str) -> decimal.Decimal:
    """Returns a finite number; raises as `get`, and for other values."""
    value = self.get(*key)
    if isinstance(value, bool) or not isinstance(value, int | decimal.Decimal):
      raise self._wrong(key, 'a number', value)
    number = decimal.Decimal(value)
    if not number.is_finite():
      raise self.error(key, f'expected a finite number, got {value}')
    return number

  def check_keys(self, key: Sequence[str], known: Iterable[str]) -> None:
    """Refuses keys of a table that mean nothing.

    Raises:
      UserError: with the closest of the keys that are known.
    """
    for name in self._find(key):
      if name not in tuple(known):
        raise self.unknown((*key, name), name, known)

  def unknown(
    self, key: Sequence[str], name: str, known: Iterable[str]
  ) -> UserError:
    """Returns the error for a name that is none of the known ones."""
    known = tuple(known)
    return UserError(
      f'{self._where(key)}: unknown {".".join(key)}: {name!r}.'
      f'{closest(name, known)} There are {", ".join(known)}.'
    )

  def error(self, key: Sequence[str], problem: str) -> UserError:
    """Returns the error that says what is wrong with a key's value."""
    return UserError(f'{self._where(key)}: {".".join(key)}: {problem}.')

  def no_file(self, key: Sequence[str], path: pathlib.Path) -> UserError:
    """Returns the error for a file that is not there, with what is."""
    if not path.parent.is_dir():
      return self.error(key, f'there is no directory {path.parent}')
    hint = closest(path.name, _names(path.parent, ''))
    return UserError(
      f'{self._where(key)}: {".".join(key)}: there is no file {path}.{hint}'
      ' Paths are relative to the TOML file.'
    )

  def _checked(self, value: Any, key: Sequence[str]) -> str:
    if not isinstance(value, str):
      raise self._wrong(key, 'text', value)
    if not value.strip():
      raise self.error(key, 'the text is empty')
    return value

  def _wrong(self, key: Sequence[str], expected: str, value: Any) -> UserError:
    value = float(value) if isinstance(value, decimal.Decimal) else value
    return fields.wrong(f'{self._where(key)}: {".".join(key)}', expected, value)

  def _find(self, key: Sequence[str]) -> Any:
    value: Any = self._values
    for name in key:
      if not isinstance(value, dict) or name not in value:
        return _ABSENT
      value = value[name]
    return value

  def _where_broken(self, message: str) -> str:
    found = _PLACE.search(message)
    lines = self._text.count('\n') + (not self._text.endswith('\n'))
    line = found[1] if found and found[1] else lines
    return f'{self.path}:{line}'

  def _where(self, key: Sequence[str]) -> str:
    """Returns 'file:line' of a key or of the nearest table around it.

    The parser keeps no lines; keys written in other ways than as `name =`
    below `[table]` are looked for in vain, and the table's line is given.
    """
    table: list[str] = []
    found = None
    for number, line in enumerate(self._text.splitlines(), 1):
      if header := re.match(r'\s*\[([^\[\]]+)\]', line):
        table = [part.strip(' "\'') for part in header[1].split('.')]
        name = []
      elif entry := re.match(r"""\s*["']?([^\s"'=]+)["']?\s*=""", line):
        name = entry[1].split('.')
      else:
        continue
      # A key stands below its table, so that the last match is the nearest.
      place = [*table, *name]
      if place == list(key[: len(place)]):
        found = number
    return f'{self.path}:{found}' if found else str(self.path)


def _names(folder: pathlib.Path, ending: str) -> list[str]:
  if not folder.is_dir():
    return []
  return [path.name for path in folder.iterdir() if path.name.endswith(ending)]
