"""Rows that predictions are asked for: read, checked, and answered.

A row is a JSON object with

* `task`: name of a task of the run;
* either `fields`: an object with the fields of the task's rows, of which the
  target and indices may be left out; or `inputs`: the text as the task formats
  it;
* `id`, if wanted: text, a whole number or an object, given back as it is.

Nothing here needs TensorFlow.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import os
import pathlib
from typing import Any

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.rows import fields, files
from hypergrid_jax.tasks.task_definition import TaskDefinition
from hypergrid_jax.tasks.toml import targets

KEYS = ('task', 'fields', 'inputs', 'id')
_SUFFIXES = ('.jsonl', '.jsonl.gz')


@dataclasses.dataclass(frozen=True)
class Row:
  """One row, checked.

  Attributes:
    id: the row's own id, or its number.
    task: the task's definition.
    text: the formatted inputs; None where the task's preprocessors are to make
      them of `fields`.
    fields: values of the types in the definition, where `text` is None.
    where: file and line of the row, or its position, for messages.
  """

  id: Any
  task: TaskDefinition
  text: str | None
  fields: Mapping[str, Any] | None = None
  where: str = ''


def known_tasks(task_ids: Mapping[str, int]) -> dict[str, TaskDefinition]:
  """Returns the definitions of the tasks that a model knows, by name.

  Args:
    task_ids: name of a trained task -> its id.
  """
  return {
    name: task
    for name, task in definitions.DEFINITIONS.items()
    if task.trained_as in task_ids
  }


def read(
  path: str | os.PathLike[str], tasks: Mapping[str, TaskDefinition]
) -> Iterator[Row]:
  """Reads the rows of a file; a row's number is its line's, from 1.

  Args:
    path: a .jsonl or .jsonl.gz file; see `tasks.rows.files`.
    tasks: the tasks that the model knows, by name.

  Raises:
    UserError: the file or a row is not as this module says; with the line.
  """
  path = pathlib.Path(path)
  if not path.name.endswith(_SUFFIXES):
    raise UserError(
      f'{path}: expected a file of JSON lines, named .jsonl or .jsonl.gz.'
    )
  if not path.is_file():
    what = 'a directory' if path.is_dir() else 'not there'
    raise UserError(f'{path}: this file of rows is {what}.')
  for line, values in files.read(path):
    yield parse(values, tasks, number=line, where=f'{path}:{line}')


def parse(
  values: Any,
  tasks: Mapping[str, TaskDefinition],
  *,
  number: int,
  where: str,
) -> Row:
  """Checks one row.

  Args:
    values: a JSON object.
    tasks: the tasks that the model knows, by name.
    number: the row's number; its id where it has none.
    where: file and line of the row, or its position, for messages.

  Raises:
    UserError: the row is not as this module says.
  """
  if not isinstance(values, Mapping):
    raise fields.wrong(where, f'an object with {", ".join(KEYS)}', values)
  for key in values:
    if key not in KEYS:
      raise UserError(
        f'{where}: unknown key {key!r}.{closest(str(key), KEYS)} A row has'
        f' {", ".join(KEYS)}.'
      )
  task = _task(values, tasks, where)
  row_id = values.get('id')
  if row_id is None:
    row_id = number
  elif not _is_id(row_id):
    raise fields.wrong(
      f"{where}: 'id'", 'text, a whole number or an object', row_id
    )
  keys = [key for key in ('fields', 'inputs') if values.get(key) is not None]
  if len(keys) != 1:
    raise UserError(
      f'{where}: it has {" and ".join(map(repr, keys)) or "neither"}; expected'
      " one of 'fields' and 'inputs'."
    )
  if keys == ['inputs']:
    text = _text(values['inputs'], f"{where}: 'inputs'")
    return Row(row_id, task, text, where=where)
  text, row = _from_fields(task, values['fields'], number, where)
  return Row(row_id, task, text, row, where)


def _task(values, tasks, where: str) -> TaskDefinition:
  name = values.get('task')
  if not isinstance(name, str):
    raise fields.wrong(f"{where}: 'task'", 'the name of a task', name)
  if name not in tasks:
    raise UserError(
      f'{where}: {name!r} is no task of this run.{closest(name, tasks)} It has'
      f' {", ".join(tasks)}.'
    )
  return tasks[name]


def _is_id(value: Any) -> bool:
  return isinstance(value, str | int | Mapping) and not isinstance(value, bool)


def _text(value: Any, here: str) -> str:
  if not isinstance(value, str):
    raise fields.wrong(here, 'text', value)
  text = fields.as_text(value, here)
  if not text.strip():
    raise UserError(f'{here}: the text is empty.')
  return text


def _from_fields(
  task: TaskDefinition, values: Any, number: int, where: str
) -> tuple[str | None, Mapping[str, Any] | None]:
  """Returns the formatted text, or else the checked fields."""
  if not isinstance(values, Mapping):
    raise fields.wrong(f"{where}: 'fields'", 'an object', values)
  here = f"{where}: 'fields'"
  if task.benchmark == 'toml':
    text = task.rows.inputs.fill(values, here)
    if not text.strip():
      raise UserError(f'{here}: the inputs that they make are blank: {text!r}.')
    return text, None
  if not task.fields:  # its source alone knows them
    if not values:
      raise UserError(f'{here}: the object is empty.')
    return None, values
  for name, kind in task.fields.items():
    if kind == 'text' and fields.find(values, name) is fields.ABSENT:
      raise UserError(fields.missing(values, name, here))
  indices = {
    name: number
    for name in task.fields
    if name.partition('/')[0] == 'idx'
    and fields.find(values, name) is fields.ABSENT
  }
  row = fields.checked_row(
    {**values, **indices}, task, split=task.test_split, where=here
  )
  texts = [name for name, kind in task.fields.items() if kind == 'text']
  if not any(fields.find(row, name).strip() for name in texts):
    raise UserError(f'{here}: {", ".join(texts)} hold no text.')
  return None, row


def answer(row: Row, inputs: str, prediction: str) -> dict[str, Any]:
  """Returns the object that is written for a row.

  Returns:
    `id`, `task`, `inputs`, `prediction`; for a task with classes also `label`,
    as the label field of the task's rows has it, and for a task whose target is
    a number `score`, both null where the prediction is none.
  """
  return {
    'id': row.id,
    'task': row.task.name,
    'inputs': inputs,
    'prediction': prediction,
    **_parsed(row.task, prediction),
  }


def _parsed(task: TaskDefinition, prediction: str) -> dict[str, Any]:
  """Returns the label or the score that a prediction is, if it can be one."""
  target = task.rows.target if task.benchmark == 'toml' else None
  if isinstance(target, targets.Number) or 'score' in task.fields.values():
    return {'score': _number(prediction)}
  if not (task.classes and task.labels):
    return {}
  if prediction not in task.labels:
    return {'label': None}
  number = task.labels.index(prediction)
  if isinstance(target, targets.Labels):
    return {'label': next(v for v, n in target.ids.items() if n == number)}
  return {'label': number}


def _number(text: str) -> float | None:
  try:
    value = float(text)
  except ValueError:
    return None
  return value if math.isfinite(value) else None
