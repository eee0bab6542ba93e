"""Prediction files: one JSON object per example, in input order.

`predictions/<step>/<task>.jsonl`, each line an object with

* `id`: the dataset's own index where the row has one (MultiRC and ReCoRD: an
  object of their several indices), otherwise the row's position from 0;
* `inputs`, `target`, `prediction`: text; `target` is null where the row has no
  label;
* `correct` (bool) or, where several answers are right, `score` (percent);
  neither where the row has no label.
"""

from collections.abc import Iterable, Mapping
import os
from typing import Any

import numpy as np

from hypergrid_jax import files


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
