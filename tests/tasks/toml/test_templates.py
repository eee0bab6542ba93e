import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.rows import fields
from hypergrid_jax.tasks.toml import templates


def fill(text, values, where='f.jsonl:3'):
  return templates.parse(text).fill(values, where)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('{a}', 'x'),
    ('say {a}!', 'say x!'),
    ('{a}{b c}{a}', 'xyx'),
    ('{{{a}}}', '{x}'),
    ('{{a}} {a}', '{a} x'),
    ('}}{{{a}', '}{x'),
    ('{d/e} {d/f/g} {h/i}', 'one two three'),
    ('{n} {m} {t} {f}', '7 1.50 true 1e-3'),
    ('{a!r} {b:>4}', 'bang colon'),
  ],
)
def test_fields_stand_in_braces(text, expected):
  values = {
    'a': 'x',
    'b c': 'y',
    'd': {'e': 'one', 'f': {'g': 'two'}},
    'h/i': 'three',
    'h': {'i': 'hidden by the flat name'},
    'a!r': 'bang',
    'b:>4': 'colon',
    **fields.parse_json_object(
      '{"n": 7, "m": 1.50, "t": true, "f": 1e-3}', 'here'
    ),
  }
  assert fill(text, values) == expected


@pytest.mark.parametrize(
  'text',
  ['', ' \t', 'line\nbreak', '{not a field}', 'ü \U0001f600 \x00 \ufffd'],
)
def test_text_of_a_row_is_not_changed(text):
  assert fill('<{a}>', {'a': text}) == f'<{text}>'
  assert fill('<{a}>', {'a': fields.Cell(text)}) == f'<{text}>'


def test_fields_are_named_once_in_order():
  found = templates.parse('{b} {{c}} {a/x} {b}').fields
  assert found == ('b', 'a/x')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{a', "the '{' at character 1 has no partner"),
    ('ab}', "the '}' at character 3 has no partner"),
    ('{a}}', "the '}' at character 4 has no partner"),
    ('{a{b}', "the '{' at character 1 has no partner"),
    ('x {} y', 'the braces at character 3 name no field'),
    ('x { } y', 'the braces at character 3 name no field'),
  ],
)
def test_braces_without_sense(text, message):
  with pytest.raises(templates.TemplateError) as error:
    templates.parse(text)
  assert message in str(error.value)


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    (None, "field 'a': expected text or a number, got null"),
    (['x'], "field 'a': expected text or a number, got a list"),
    ({'b': 1}, "It holds 'b'; a nested field is written with a slash"),
    ('half \ud800', "field 'a': character 6 is half of a surrogate pair"),
  ],
)
def test_values_that_are_no_text(value, message):
  with pytest.raises(UserError) as error:
    fill('{a}', {'a': value})
  assert str(error.value).startswith('f.jsonl:3: ')
  assert message in str(error.value)


def test_a_missing_field_is_named_with_those_found():
  with pytest.raises(UserError) as error:
    fill('{body}', {'bodi': 'x', 'title': 'y'})
  assert str(error.value) == (
    "f.jsonl:3: field 'body' is missing; fields found: 'bodi', 'title'."
    " Did you mean 'bodi'?"
  )
