"""Rows of a task from a TOML file: its own files, as inputs and targets.

Text is formatted here, row by row as files are read, so that every mistake is
reported with file and line.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import pathlib
from typing import Any

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.rows import fields
from hypergrid_jax.tasks.rows import files as files_lib
from hypergrid_jax.tasks.toml import targets
from hypergrid_jax.tasks.toml.templates import Template

_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class FileRows:
  """The rows of a task's own files; a `definitions.OwnRows`.

  Attributes:
    files: split -> its files, read one after the other.
    inputs: template of the inputs.
    target: what the targets are.
    id: field whose text names a row in prediction files; None for its position.
  """

  files: Mapping[str, tuple[pathlib.Path, ...]]
  inputs: Template
  target: targets.Target
  id: str | None = None

  @property
  def fields(self) -> dict[str, str]:
    """The fields of a row with their kinds, as in a task's definition."""
    found = {'inputs': 'text', 'targets': 'text'}
    if isinstance(self.target, targets.Labels):
      found['label'] = 'label'
    if self.id is not None:
      found['idx'] = 'text'
    return found

  def splits(self) -> Mapping[str, str]:
    """Returns the splits that are there, and their files."""
    return {
      split: ', '.join(map(str, paths)) for split, paths in self.files.items()
    }

  def fingerprint(self, split: str) -> str:
    """Returns a text that changes when an example of the split may have.

    It follows the files' bytes and what is made of them; metrics, comments and
    the other splits' files leave it as it is.
    """
    digest = hashlib.sha256(repr((self.inputs, self.target, self.id)).encode())
    for path in self.files[split]:
      digest.update(path.name.encode())
      try:
        with path.open('rb') as file:
          while block := file.read(_BLOCK):
            digest.update(block)
      except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror}.') from error
    return f'toml {split} {digest.hexdigest()}'

  def count(self, split: str) -> None:
    """Returns None: files would have to be read."""
    del split

  def estimate(self, split: str) -> int:
    """Returns about how many rows there are."""
    return sum(map(files_lib.estimated_rows, self.files[split]))

  def read(self, split: str) -> Iterator[dict[str, Any]]:
    """Yields the rows: `inputs`, `targets`, and perhaps `label` and `idx`.

    Rows without a target have '<unk>' and label -1.

    Raises:
      UserError: a file or row is malformed, a field is missing, the inputs or
        the target are blank, only some rows of the test split have a target,
        or the split has no rows; with file and line.
    """
    first: tuple[str, bool] | None = None
    for path in self.files[split]:
      for line, values in files_lib.read(path):
        where = f'{path}:{line}'
        row = self._row(values, where)
        labelled = row['targets'] != targets.NO_TARGET
        if not labelled and split != 'test':
          raise targets.missing(self.target, values, where)
        first = first or (where, labelled)
        if labelled != first[1]:
          raise UserError(
            f'{where}: this row has {_a_target(labelled)}, but {first[0]} has'
            f' {_a_target(first[1])}. Either all rows of a test split have one,'
            ' or none.'
          )
        yield row
    if first is None:
      names = ', '.join(map(str, self.files[split]))
      raise UserError(f'{names}: the split {split!r} has no rows.')

  def _row(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    row: dict[str, Any] = {'inputs': self.inputs.fill(values, where)}
    if not row['inputs'].strip():
      raise UserError(f'{where}: the inputs are blank: {row["inputs"]!r}.')
    target = self.target.read(values, where)
    row['targets'] = targets.NO_TARGET if target is None else target
    if isinstance(self.target, targets.Labels):
      row['label'] = self.target.labels.index(target) if target else -1
    if self.id is not None:
      row['idx'] = self._id(values, where)
    return row

  def _id(self, values: Mapping[str, Any], where: str) -> str:
    value = fields.find(values, self.id)
    if value is fields.ABSENT:
      raise UserError(fields.missing(values, self.id, where))
    text = fields.as_text(value, f'{where}: field {self.id!r}')
    if not text:
      raise UserError(f'{where}: field {self.id!r} is empty; expected an id.')
    return text


def _a_target(labelled: bool) -> str:
  return 'a target' if labelled else 'no target'
