"""What a task from a TOML file wants to be written: a label, text, a number.

Each kind turns the values of a row into the target's text. A row without a
target, which only test splits may have, is one whose field is left out, null or
empty; for labels and numbers also -1, where that is neither a label nor in
range.
"""

from collections.abc import Mapping
import dataclasses
import decimal
import functools
from typing import Any

from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks import task_definition
from hypergrid_jax.tasks.rows import fields
from hypergrid_jax.tasks.toml.templates import Template

# What stands for a target that is not there, as in the tasks of GLUE.
NO_TARGET = task_definition.NO_TARGETS[0]
_UNLABELLED = '-1'


@dataclasses.dataclass(frozen=True)
class Labels:
  """One of several texts, found by the value of a field.

  Attributes:
    field: of a row.
    ids: the field's value as text -> class id.
    labels: the target's text by class id.
  """

  field: str
  ids: Mapping[str, int]
  labels: tuple[str, ...]

  @property
  def fields(self) -> tuple[str, ...]:
    """The names of the row's fields that are read."""
    return (self.field,)

  def read(self, values: Mapping[str, Any], where: str) -> str | None:
    """Returns the target of a row, None where it has none.

    Raises:
      UserError: the field's value stands for no label.
    """
    text = _given(values, self.field, where)
    if text in self.ids:
      return self.labels[self.ids[text]]
    if text in (None, _UNLABELLED):
      return None
    raise UserError(
      f'{where}: field {self.field!r} is {text!r}, which stands for no label.'
      f'{closest(text, self.ids)} Known values:'
      f' {", ".join(map(repr, self.ids))}.'
    )


@dataclasses.dataclass(frozen=True)
class FreeText:
  """Any text.

  Attributes:
    template: of the target.
    labels: None, for there is no closed set.
  """

  template: Template
  labels: None = None

  @property
  def fields(self) -> tuple[str, ...]:
    """The names of the row's fields that are read."""
    return self.template.fields

  def read(self, values: Mapping[str, Any], where: str) -> str | None:
    """Returns the target of a row, None where it has none.

    Raises:
      UserError: a field is a list or an object, or the target is blank.
    """
    given = [_given(values, name, where) for name in self.fields]
    if None in given:
      return None
    text = self.template.fill(values, where)
    if not text.strip():
      raise UserError(f'{where}: the target is blank: {text!r}.')
    if text == NO_TARGET:
      raise UserError(
        f'{where}: the target is {NO_TARGET!r}, which stands for a target that'
        ' is not there.'
      )
    return text


@dataclasses.dataclass(frozen=True)
class Number:
  """A number, written on a grid like STS-B's.

  Attributes:
    field: of a row.
    min: smallest number.
    max: largest number; a whole number of steps above `min`.
    step: distance of the numbers that are written. Others are rounded to the
      nearest of them, halves to the even multiple.
  """

  field: str
  min: decimal.Decimal
  max: decimal.Decimal
  step: decimal.Decimal

  @property
  def fields(self) -> tuple[str, ...]:
    """The names of the row's fields that are read."""
    return (self.field,)

  @functools.cached_property
  def labels(self) -> tuple[str, ...]:
    """Every text that a target can be, ascending."""
    count = int((self.max - self.min) / self.step)
    return tuple(self._written(place) for place in range(count + 1))

  @property
  def unreadable(self) -> float:
    """What a prediction that is no number counts as.

    It lies a fifth of the range below it, as T5's -1 below STS-B's 0 to 5.
    """
    return float(self.min - (self.max - self.min) / 5)

  def read(self, values: Mapping[str, Any], where: str) -> str | None:
    """Returns the target of a row, None where it has none.

    Raises:
      UserError: the field's value is no number, or out of range.
    """
    text = _given(values, self.field, where)
    if text is None:
      return None
    here = f'{where}: field {self.field!r}'
    try:
      number = decimal.Decimal(text)
    except decimal.InvalidOperation:
      raise UserError(f'{here}: expected a number, got {text!r}.') from None
    if number.is_finite() and self.min <= number <= self.max:
      place = (number - self.min) / self.step
      return self._written(int(place.to_integral(decimal.ROUND_HALF_EVEN)))
    if text == _UNLABELLED:
      return None
    raise UserError(
      f'{here}: {text} is out of range; expected {self.min} to {self.max}.'
    )

  def _written(self, place: int) -> str:
    return f'{self.min + place * self.step:f}'


Target = Labels | FreeText | Number


def missing(target: Target, values: Mapping[str, Any], where: str) -> UserError:
  """Returns the error for a row that has no target and needs one."""
  for name in target.fields:
    if fields.find(values, name) is fields.ABSENT:
      return UserError(fields.missing(values, name, where))
  names = ', '.join(map(repr, target.fields))
  return UserError(
    f'{where}: no target: field {names} has no value. Only the test split may'
    ' be without targets.'
  )


def _given(values: Mapping[str, Any], name: str, where: str) -> str | None:
  """Returns the text of a field, None where it is absent, null or empty."""
  value = fields.find(values, name)
  if value is fields.ABSENT or value is None or value == '':
    return None
  return fields.as_text(value, f'{where}: field {name!r}')
