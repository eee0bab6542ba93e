"""Prediction files: one JSON object per example, in input order.

`predictions/<step>/<task>.jsonl`, each line an object with

* `id`: the dataset's own index where the row has one (MultiRC and ReCoRD: an
  object of their several indices), otherwise the row's position from 0;
* `inputs`, `target`, `prediction`: text; `target` is null where the row has no
  label;
* `correct` (bool) or, where several answers are right, `score` (percent);
  neither where the row has no label.
"""

from collections.abc import Iterable, Iterator, Mapping
import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from hypergrid_jax import files
from hypergrid_jax.errors import UserError

_REQUIRED = ('id', 'inputs', 'target', 'prediction')
_VERDICTS = ('correct', 'score')


def example_id(example: Mapping[str, Any], position: int) -> Any:
  """Returns the id of a row.

  Args:
    example: the row's values; its index is 'idx', or several under 'idx/NAME'.
    position: 0-based position of the row in its split.

  Returns:
    A JSON value: the row's own index, or `position` when it has none.
  """
  if 'idx' in example:
    return _plain(example['idx'])
  nested = {
    key.removeprefix('idx/'): _plain(value)
    for key, value in example.items()
    if key.startswith('idx/')
  }
  return nested or position


def _plain(value: Any) -> Any:
  """Returns numpy scalars, arrays and bytes as what JSON can hold."""
  if isinstance(value, Mapping):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  if isinstance(value, bytes):
    return value.decode('utf-8')
  return value


def write_predictions(
  path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]
) -> None:
  """Writes prediction rows, whole or not at all.

  Args:
    path: the file; its directory is made when it is missing.
    rows: objects as in this module's docstring.

  Raises:
    UserError: the file cannot be written.
    ValueError: a number is not finite.
  """
  files.write_text(path, (files.to_json(row) + '\n' for row in rows))


def read_predictions(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Reads a prediction file strictly.

  Args:
    path: a file as `write_predictions` makes it.

  Returns:
    Its objects, in order.

  Raises:
    UserError: the file is missing or not UTF-8, or a line is not an object
      with the fields of this module's docstring; names the file and the line.
  """
  path = pathlib.Path(path)
  try:
    lines = path.read_bytes().split(b'\n')
  except OSError as error:
    raise UserError(
      f'{path}: cannot be read ({error.strerror}). Expected a prediction'
      ' file, predictions/<step>/<task>.jsonl of a run.'
    ) from error
  if lines[-1]:
    raise UserError(
      f'{path}:{len(lines)}: the last line has no end; the file was cut.'
      ' Evaluate again to make it anew.'
    )
  return list(_parse(path, lines[:-1]))


def _parse(
  path: pathlib.Path, lines: Iterable[bytes]
) -> Iterator[dict[str, Any]]:
  for number, line in enumerate(lines, start=1):
    where = f'{path}:{number}'
    try:
      row = json.loads(line.decode('utf-8'), parse_constant=_refuse_constant)
    except ValueError as error:  # both UnicodeDecodeError and JSONDecodeError
      raise UserError(
        f'{where}: not a line of JSON ({error}). Expected one object with'
        f' {", ".join(_REQUIRED)}.'
      ) from error
    _check(where, row)
    yield row


def _refuse_constant(name: str) -> None:
  raise ValueError(f'{name} is not JSON')


def _check(where: str, row: Any) -> None:
  """Raises UserError unless `row` is a prediction row."""
  if not isinstance(row, dict):
    raise UserError(
      f'{where}: got {type(row).__name__}, expected an object with'
      f' {", ".join(_REQUIRED)}.'
    )
  missing = [name for name in _REQUIRED if name not in row]
  if missing:
    raise UserError(
      f'{where}: lacks {", ".join(missing)}; the fields are'
      f' {", ".join(_REQUIRED)} and correct or score.'
    )
  unknown = [name for name in row if name not in _REQUIRED + _VERDICTS]
  if unknown:
    raise UserError(
      f'{where}: unknown field {unknown[0]!r}; the fields are'
      f' {", ".join(_REQUIRED)} and correct or score.'
    )
  for name in ('inputs', 'prediction', 'target'):
    optional = name == 'target'
    if not (isinstance(row[name], str) or (optional and row[name] is None)):
      raise UserError(
        f'{where}: {name} is {row[name]!r}, expected text'
        + (' or null.' if optional else '.')
      )
  _check_verdict(where, row)


def _check_verdict(where: str, row: dict[str, Any]) -> None:
  """Raises UserError unless a labelled row has one verdict, another none."""
  verdicts = [name for name in _VERDICTS if name in row]
  if len(verdicts) != (row['target'] is not None):
    raise UserError(
      f'{where}: has {" and ".join(verdicts) or "neither correct nor score"}'
      ', expected one of correct and score, and neither when target is null.'
    )
  value = row[verdicts[0]] if verdicts else None
  if 'correct' in row and not isinstance(value, bool):
    raise UserError(f'{where}: correct is {value!r}, expected true or false.')
  if 'score' in row and (
    isinstance(value, bool)
    or not isinstance(value, int | float)
    or not math.isfinite(value)
  ):
    raise UserError(f'{where}: score is {value!r}, expected a number.')
