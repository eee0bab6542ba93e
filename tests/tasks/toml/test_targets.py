import decimal

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.rows import fields
from hypergrid_jax.tasks.toml import targets, templates

WHERE = 'f.jsonl:3'
STARS = targets.Labels('stars', {'1': 0, '5': 1}, ('bad', 'good'))


def number(least, most, step):
  return targets.Number('x', *map(decimal.Decimal, (least, most, step)))


def read(target, text):
  values = fields.parse_json_object(text, WHERE)
  return target.read(values, WHERE)


@pytest.mark.parametrize(
  ('row', 'expected'),
  [
    ('{"stars": 5}', 'good'),
    ('{"stars": "1"}', 'bad'),
    ('{}', None),
    ('{"stars": null}', None),
    ('{"stars": ""}', None),
    ('{"stars": -1}', None),
  ],
)
def test_labels_by_the_text_of_their_value(row, expected):
  assert read(STARS, row) == expected


def test_minus_one_may_be_a_label():
  signs = targets.Labels('stars', {'-1': 0, '1': 1}, ('down', 'up'))
  assert read(signs, '{"stars": -1}') == 'down'


def test_a_value_that_is_no_label():
  with pytest.raises(UserError) as error:
    read(STARS, '{"stars": 5.0}')
  assert str(error.value) == (
    "f.jsonl:3: field 'stars' is '5.0', which stands for no label. Did you"
    " mean '5'? Known values: '1', '5'."
  )


def test_free_text_needs_all_its_fields():
  target = targets.FreeText(templates.parse('{a}, {b}'))
  assert read(target, '{"a": "x", "b": 2}') == 'x, 2'
  assert read(target, '{"a": "x"}') is None
  assert read(target, '{"a": "x", "b": null}') is None


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('{"a": " "}', 'the target is blank'),
    ('{"a": "<unk>"}', "the target is '<unk>', which stands for a target"),
  ],
)
def test_free_text_that_is_no_target(row, message):
  with pytest.raises(UserError, match=message):
    read(targets.FreeText(templates.parse('{a}')), row)


def test_numbers_are_written_as_t5_writes_stsb_scores():
  from t5.data import preprocessors
  import tensorflow as tf

  grid = number('0', '5', '0.2')
  texts = [f'{n / 20:.2f}' for n in range(101)] + ['3.833', '4.05', '0.1']
  columns = {
    'sentence1': ['a'] * len(texts),
    'sentence2': ['b'] * len(texts),
    'label': tf.constant([float(text) for text in texts], tf.float32),
    'idx': [0] * len(texts),
  }
  expected = [
    row['targets'].decode()
    for row in preprocessors.stsb(
      tf.data.Dataset.from_tensor_slices(columns)
    ).as_numpy_iterator()
  ]
  assert [read(grid, f'{{"x": {text}}}') for text in texts] == expected
  assert grid.labels == tuple(f'{n / 5:.1f}' for n in range(26))
  assert grid.unreadable == -1.0


@pytest.mark.parametrize(
  ('grid', 'value', 'expected'),
  [
    (('-1', '1', '0.5'), '-1', '-1.0'),
    (('-1', '1', '0.5'), '0.24', '0.0'),
    (('-1', '1', '0.5'), '"0.76"', '1.0'),
    # 5.5 and 6.5 steps above 1 both go to the even one, the 6th.
    (('1', '10', '1'), '6.5', '7'),
    (('1', '10', '1'), '7.5', '7'),
    (('0', '1000', '250'), '1e3', '1000'),
    (('10', '20', '5'), '-1', None),
    (('10', '20', '5'), 'null', None),
  ],
)
def test_numbers_on_other_grids(grid, value, expected):
  assert read(number(*grid), f'{{"x": {value}}}') == expected


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ('5.01', "field 'x': 5.01 is out of range; expected 0 to 5"),
    ('-0.1', 'out of range'),
    ('"nan"', 'nan is out of range'),
    ('"-inf"', 'out of range'),
    ('"five"', "expected a number, got 'five'"),
    ('true', "expected a number, got 'true'"),
  ],
)
def test_what_is_no_number_in_range(value, message):
  with pytest.raises(UserError) as error:
    read(number('0', '5', '0.2'), f'{{"x": {value}}}')
  assert str(error.value).startswith(WHERE)
  assert message in str(error.value)
