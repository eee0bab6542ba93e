"""Where the rows of a split stand in its files, and which have empty fields.

A token store knows examples by number only; a person looks for a line.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

from hypergrid_jax.tasks.rows import fields, files, sources
from hypergrid_jax.tasks.task_definition import TaskDefinition


@dataclasses.dataclass(frozen=True)
class RowPlaces:
  """The rows of a split in their files.

  Attributes:
    split: its name.
    places: (file, line) of every row; empty where rows come from no files.
    blank: ('file:line', field) of every field of the inputs without text.
  """

  split: str
  places: tuple[tuple[pathlib.Path, int], ...] = ()
  blank: tuple[tuple[str, str], ...] = ()

  def name(self, index: int, count: int) -> str:
    """Names an example for a person to find.

    Args:
      index: of the example.
      count: examples of the split. When there are more or fewer than rows, an
        example's line is not known and its number is given.
    """
    if count != len(self.places):
      return f'{self.split} {index}'
    path, line = self.places[index]
    return f'{path.name}:{line}'


def read(task: TaskDefinition, source: str, split: str) -> RowPlaces:
  """Reads the files of a split once more.

  Args:
    task: whose rows they are.
    source: 'sample', 'tfds' or 'files:DIR'.
    split: one that is there.
  """
  places, blank = [], []
  paths, names = _files(task, source, split)
  for path, line, values in _rows(paths):
    places.append((path, line))
    for name in names:
      value = fields.find(values, name)
      if isinstance(value, str) and not value.strip():
        blank.append((f'{path.name}:{line}', name))
  return RowPlaces(split, tuple(places), tuple(blank))


def _files(
  task: TaskDefinition, source: str, split: str
) -> tuple[tuple[pathlib.Path, ...], tuple[str, ...]]:
  """Returns the files of a split, and the fields that its inputs are of."""
  if task.benchmark == 'toml':
    return task.rows.files[split], task.rows.inputs.fields
  parsed = sources.parse_source(source)
  if task.rows is not None or parsed.kind != 'files':
    return (), ()
  texts = (name for name, kind in task.fields.items() if kind == 'text')
  return (sources.find_file(parsed.directory, task, split),), tuple(texts)


def _rows(
  paths: tuple[pathlib.Path, ...],
) -> Iterator[tuple[pathlib.Path, int, Any]]:
  for path in paths:
    for line, values in files.read(path):
      yield path, line, values
