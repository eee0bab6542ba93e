from collections.abc import Mapping
from typing import Any, Literal

import pytest

from hypergrid_jax.config import field_types
from hypergrid_jax.config.field_types import WrongTypeError, convert, describe

Layers = Literal['all', 'upper_half'] | tuple[int, ...]


@pytest.mark.parametrize(
  ('value', 'annotation'),
  [
    (5, int),
    (5.5, float),
    (True, bool),
    ('a', str),
    (None, None),
    (None, int | None),
    (7, int | None),
    ('L2', Literal['L', 'L2']),
    ('all', Layers),
    ((0, 3), Layers),
    ((1, 'a'), tuple[int, str]),
    ((), tuple[int, ...]),
    ({'a': 0.5}, dict[str, float]),
    ({'a': 0.5}, Mapping[str, float] | None),
    (object, Any),
  ],
)
def test_what_fits_is_kept(value, annotation):
  assert convert(value, annotation) == value
  assert type(convert(value, annotation)) is type(value)


@pytest.mark.parametrize(
  ('value', 'annotation', 'result'),
  [
    (5, float, 5.0),
    (5, float | None, 5.0),
    (5, int | float, 5),
    (5, float | int, 5),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, 2], tuple[float, ...], (1.0, 2.0)),
    ({'a': 1}, Mapping[str, float], {'a': 1.0}),
  ],
)
def test_only_what_loses_nothing_is_converted(value, annotation, result):
  converted = convert(value, annotation)
  assert converted == result
  assert type(converted) is type(result)
  if isinstance(result, tuple):
    assert [type(item) for item in converted] == [type(r) for r in result]
  if isinstance(result, dict):
    assert type(converted['a']) is float


@pytest.mark.parametrize(
  ('value', 'annotation'),
  [
    ('5', int),
    (5.0, int),
    (True, int),
    (True, float),
    (1, bool),
    ('True', bool),
    ('1e-3', float),
    (None, str),
    (5, str),
    ('a', None),
    ('l2', Literal['L', 'L2']),
    (1, Literal[True]),
    ('lower', Layers),
    ((0, 1.5), Layers),
    ('ab', tuple[str, ...]),
    ((1,), tuple[int, str]),
    ((1, 2), tuple[int, str]),
    ({'a': 'x'}, dict[str, float]),
    ({1: 0.5}, dict[str, float]),
    ([], dict[str, float]),
  ],
)
def test_what_does_not_fit_is_refused(value, annotation):
  with pytest.raises(WrongTypeError, match='^expected '):
    convert(value, annotation)


@pytest.mark.parametrize(
  ('annotation', 'words'),
  [
    (int, 'an integer'),
    (float | None, 'a number or None'),
    (Literal['L', 'L2'], "one of 'L', 'L2'"),
    (Layers, "one of 'all', 'upper_half' or a tuple, each item an integer"),
    (tuple[int, str], 'a tuple (an integer, a string)'),
    (dict[str, float], 'a dictionary of a string to a number'),
  ],
)
def test_annotations_in_words(annotation, words):
  assert describe(annotation) == words


def test_a_near_choice_is_suggested():
  with pytest.raises(WrongTypeError, match="Did you mean 'upper_half'"):
    convert('uper_half', Layers)
  with pytest.raises(WrongTypeError) as error:
    convert('zzz', Layers)
  assert 'Did you mean' not in str(error.value)


def test_a_class_is_named():
  assert field_types.describe(WrongTypeError) == 'WrongTypeError'
