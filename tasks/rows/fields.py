"""Checks the values of one row against the fields of a task.

The kinds of field are those of `hypergrid_jax.tasks.task_definition`. Every
message begins with where the row stands, normally `file:line`.
"""

from collections.abc import Mapping
import json
import math
import re
from typing import Any

from hypergrid_jax.errors import UserError, closest

ABSENT = object()
_UNLABELLED = {'label': -1, 'score': -1.0, 'texts': ()}
_TYPE_NAMES = {
  str: 'text',
  bool: 'true or false',
  int: 'a whole number',
  float: 'a number',
  list: 'a list',
  dict: 'an object',
  type(None): 'null',
}
_MAX_SCORE = 5.0


class Cell(str):
  """The text of a table's cell, whose type follows from the field's kind."""

  __slots__ = ()


class JsonFloat(float):
  """A number of a JSON row, which remembers how it was written."""

  def __new__(cls, text: str):
    """Reads the number."""
    number = super().__new__(cls, text)
    number.text = text
    return number


def checked_row(
  values: Mapping[str, Any], definition: Any, *, split: str, where: str
) -> dict[str, Any]:
  """Returns a row with exactly the task's fields, each of the right type.

  Args:
    values: a JSON object, or `Cell`s by column name.
    definition: the task's definition.
    split: the row's split; only in the test split may labels be missing or -1.
    where: 'file:line' for messages.

  Raises:
    UserError: a field is missing, of the wrong type, or out of range.
  """
  row: dict[str, Any] = {}
  may_lack_label = split == definition.test_split
  for name, kind in definition.fields.items():
    value = find(values, name)
    unlabelled = may_lack_label and _holds_label(name, kind)
    if value is ABSENT and unlabelled:
      value = _UNLABELLED[kind]
    if value is ABSENT:
      raise UserError(
        f'{missing(values, name, where)} Rows of {definition.name} have: '
        f'{", ".join(definition.fields)}.'
      )
    here = f'{where}: field {name!r}'
    if isinstance(value, Cell):
      value = _parse_cell(value, kind, here)
    value = _CHECKS[kind](value, here, definition, unlabelled)
    outer, _, inner = name.partition('/')
    if inner:
      row.setdefault(outer, {})[inner] = value
    else:
      row[outer] = value
  problem = definition.check(row) if definition.check else None
  if problem:
    raise UserError(f'{where}: {problem}.')
  return row


def parse_json_object(line: str, where: str) -> dict[str, Any]:
  """Parses one line of a JSON-lines file.

  Raises:
    UserError: the line is not one strict JSON object.
  """
  try:
    value = json.loads(
      line, parse_constant=_refuse_constant, parse_float=JsonFloat
    )
  except (ValueError, RecursionError) as error:
    raise UserError(f'{where}: not valid JSON: {error}.') from error
  if not isinstance(value, dict):
    raise UserError(
      f'{where}: expected a JSON object with the fields of the row, got '
      f'{type_name(value)}.'
    )
  return value


def _refuse_constant(name: str) -> None:
  raise ValueError(f'{name} is not JSON')


def find(values: Mapping[str, Any], name: str) -> Any:
  """Returns the value of a field, nested where its name has slashes.

  Args:
    values: a JSON object, or `Cell`s by column name.
    name: 'a/b' is values['a/b'] or else values['a']['b'].

  Returns:
    The value, or `ABSENT`.
  """
  if name in values:
    return values[name]
  outer, _, inner = name.partition('/')
  nested = values.get(outer) if inner else None
  return find(nested, inner) if isinstance(nested, dict) else ABSENT


def missing(values: Mapping[str, Any], name: str, where: str) -> str:
  """Returns the message for a field that a row does not have."""
  found = ', '.join(map(repr, values)) or 'none'
  return (
    f'{where}: field {name!r} is missing; fields found: {found}.'
    f'{closest(name, values)}'
  )


def as_text(value: Any, here: str) -> str:
  """Returns the text of a value: as it stands, numbers as JSON writes them.

  Args:
    value: of a JSON object, or a `Cell`.
    here: file, line and field for messages.

  Raises:
    UserError: the value is null, a list or an object, or no valid text.
  """
  if isinstance(value, str):
    return _check_text(str(value), here, None, False)
  if isinstance(value, bool):
    return 'true' if value else 'false'
  if isinstance(value, JsonFloat):
    return value.text
  if isinstance(value, int | float):
    return repr(value)
  hint = ''
  if isinstance(value, dict):
    inner = ', '.join(map(repr, value)) or 'nothing'
    hint = f' It holds {inner}; a nested field is written with a slash.'
  raise UserError(f'{wrong(here, "text or a number", value)}{hint}')


def _holds_label(name: str, kind: str) -> bool:
  return kind in ('label', 'score') or name == 'answers'


def type_name(value: Any) -> str:
  """Returns what a JSON or TOML value is, in words."""
  for kind in type(value).__mro__:
    if kind in _TYPE_NAMES:
      return _TYPE_NAMES[kind]
  return type(value).__name__


def wrong(here: str, expected: str, value: Any) -> UserError:
  """Returns the error for a value that is not what it should be."""
  shown = repr(value)
  shown = shown if len(shown) <= 60 else f'{shown[:60]}...'
  return UserError(
    f'{here}: expected {expected}, got {type_name(value)}: {shown}.'
  )


def _parse_cell(cell: Cell, kind: str, here: str) -> Any:
  text = str(cell)
  if kind in ('integer', 'label') and re.fullmatch('[+-]?[0-9]{1,18}', text):
    return int(text)
  if kind == 'score':
    try:
      return float(text)
    except ValueError:
      return text
  if kind == 'texts':
    try:
      return json.loads(text)
    except (ValueError, RecursionError) as error:
      raise UserError(f'{here}: not a JSON list of texts: {error}.') from error
  return text


def _check_text(value: Any, here: str, definition: Any, unlabelled: bool):
  del definition, unlabelled
  if not isinstance(value, str):
    raise wrong(here, 'text', value)
  try:
    value.encode('utf-8')
  except UnicodeEncodeError as error:
    raise UserError(
      f'{here}: character {error.start + 1} is half of a surrogate pair, '
      'which is no text.'
    ) from error
  return value


def _check_texts(value: Any, here: str, definition: Any, unlabelled: bool):
  if not isinstance(value, (list, tuple)):
    raise wrong(here, 'a list of texts', value)
  if not value and not unlabelled:
    raise UserError(f'{here}: the list is empty; expected at least one text.')
  return [
    _check_text(text, f'{here}, item {index}', definition, unlabelled)
    for index, text in enumerate(value)
  ]


def _check_integer(value: Any, here: str, definition: Any, unlabelled: bool):
  del definition, unlabelled
  if type(value) is not int:
    raise wrong(here, 'a whole number', value)
  if not -(2**31) <= value < 2**31:
    raise UserError(f'{here}: {value} does not fit into 32 bits.')
  return value


def _check_label(value: Any, here: str, definition: Any, unlabelled: bool):
  names = ', '.join(
    f'{index} ({name})' for index, name in enumerate(definition.classes)
  )
  expected = f'one of {names}' + (' or -1 (unlabelled)' if unlabelled else '')
  if type(value) is not int:
    raise wrong(here, expected, value)
  if not (0 <= value < len(definition.classes) or (unlabelled and value == -1)):
    raise UserError(f'{here}: {value} is out of range; expected {expected}.')
  return value


def _check_score(value: Any, here: str, definition: Any, unlabelled: bool):
  del definition
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise wrong(here, 'a number', value)
  in_range = math.isfinite(value) and 0 <= value <= _MAX_SCORE
  if not (in_range or (unlabelled and value == -1)):
    raise UserError(
      f'{here}: {value} is out of range; expected 0 to {_MAX_SCORE:g}'
      f'{", or -1 (unlabelled)" if unlabelled else ""}.'
    )
  return float(value)


_CHECKS = {
  'text': _check_text,
  'texts': _check_texts,
  'integer': _check_integer,
  'label': _check_label,
  'score': _check_score,
}
