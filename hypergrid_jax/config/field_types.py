"""Values from a configuration file against the annotations of a dataclass.

gin binds whatever it reads; here `'5'` is no integer and `5.0` neither. Only
two conversions are made, both without loss: an integer where a number is
expected becomes a float, and a list where a tuple is expected becomes a tuple.
Annotations outside the table below are not checked.
"""

import collections.abc
import types
import typing
from typing import Any

from hypergrid_jax import errors

_SCALARS = {
  int: 'an integer',
  float: 'a number',
  bool: 'True or False',
  str: 'a string',
  type(None): 'None',
}
_DICTS = (dict, collections.abc.Mapping)


class WrongTypeError(Exception):
  """The value does not fit the annotation; the argument says how it should."""


def convert(value: Any, annotation: Any) -> Any:
  """Returns `value` as `annotation` wants it.

  Args:
    value: a literal: number, string, bool, None, list, tuple or dict of them.
    annotation: int, float, bool, str, None, Literal, tuple, dict, or a union.

  Raises:
    WrongTypeError: if it does not fit, with a sentence on what would.
  """
  origin = typing.get_origin(annotation)
  if origin in (typing.Union, types.UnionType):
    return _convert_union(value, annotation)
  if origin is typing.Literal:
    fits = any(
      type(value) is type(choice) and value == choice
      for choice in typing.get_args(annotation)
    )
    return _accept(value, fits, annotation)
  if origin is tuple:
    return _convert_tuple(value, annotation)
  if origin in _DICTS:
    return _convert_dict(value, annotation)
  annotation = type(None) if annotation is None else annotation
  if annotation not in _SCALARS:
    return value
  if annotation is float and type(value) is int:
    return float(value)
  return _accept(value, type(value) is annotation, annotation)


def describe(annotation: Any) -> str:
  """What a field accepts, in words: "one of 'L', 'L2' or None"."""
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType):
    return ' or '.join(map(describe, arguments))
  if origin is typing.Literal:
    return f'one of {", ".join(map(repr, arguments))}'
  if origin is tuple and arguments[-1] is Ellipsis:
    return f'a tuple, each item {describe(arguments[0])}'
  if origin is tuple:
    return f'a tuple ({", ".join(map(describe, arguments))})'
  if origin in _DICTS:
    key, item = map(describe, arguments)
    return f'a dictionary of {key} to {item}'
  annotation = type(None) if annotation is None else annotation
  return _SCALARS.get(annotation, getattr(annotation, '__name__', 'anything'))


def _accept(value: Any, fits: bool, annotation: Any) -> Any:
  if fits:
    return value
  hint = ''
  if isinstance(value, str):
    hint = errors.closest(value, _choices(annotation))
  raise WrongTypeError(f'expected {describe(annotation)}.{hint}')


def _choices(annotation: Any) -> list[str]:
  """Every string that some Literal inside the annotation allows."""
  if typing.get_origin(annotation) is typing.Literal:
    return [c for c in typing.get_args(annotation) if isinstance(c, str)]
  return [c for a in typing.get_args(annotation) for c in _choices(a)]


def _convert_union(value: Any, annotation: Any) -> Any:
  # An exact fit first, so that 3 stays an integer in `int | float`.
  members = typing.get_args(annotation)
  members = sorted(members, key=lambda member: member is not type(value))
  for member in members:
    try:
      return convert(value, member)
    except WrongTypeError:
      continue
  return _accept(value, False, annotation)


def _convert_tuple(value: Any, annotation: Any) -> tuple[Any, ...]:
  arguments = typing.get_args(annotation)
  _accept(value, isinstance(value, tuple | list), annotation)
  if arguments[-1] is Ellipsis:
    arguments = (arguments[0],) * len(value)
  _accept(value, len(value) == len(arguments), annotation)
  return tuple(map(convert, value, arguments))


def _convert_dict(value: Any, annotation: Any) -> dict[Any, Any]:
  key_type, item_type = typing.get_args(annotation)
  _accept(value, isinstance(value, dict), annotation)
  return {
    convert(key, key_type): convert(item, item_type)
    for key, item in value.items()
  }
