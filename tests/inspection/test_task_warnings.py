"""What looks wrong with a task's data is said, and nothing else."""

import dataclasses
import pathlib

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.inspection import (
  split_statistics,
  split_tables,
  task_warnings,
)
from hypergrid_jax.inspection.row_locations import RowPlaces
from hypergrid_jax.tasks import definitions
from tests.inspection.split_stores import Letters, store

# Labels 'False' and 'True'; the test set has none.
TASK = definitions.definition('super_glue_boolq')
GOOD = {
  'train': [('a b', 'False'), ('c', 'True'), ('d', 'True')],
  'validation': [('e', 'True')],
  'test': [('f', '<unk>')],
}


def said(rows, *, task=TASK, places=None, limit=40):
  splits = tuple(
    split_statistics.read(
      name,
      store(name, found, limit=limit),
      Letters(),
      missing=split_tables.missing_targets(task, name),
    )
    for name, found in rows.items()
  )
  places = {name: RowPlaces(name) for name in rows} | (places or {})
  read = split_tables.Read(task, splits, places, (limit, limit))
  return task_warnings.of_task(read, Letters())


def changed(**splits):
  rows = {**GOOD, **splits}
  return {name: found for name, found in rows.items() if found is not None}


def test_nothing_is_said_of_good_data():
  assert said(GOOD) == []
  assert said(changed(test=None)) == []


@pytest.mark.parametrize(
  ('rows', 'fragments'),
  [
    (changed(train=None), ['no training split']),
    (changed(validation=None), ['no validation split']),
    (
      changed(train=[('a', 'True'), ('b', 'True')]),
      ["No training example has the label 'False'"],
    ),
    (
      changed(train=[*GOOD['train'], ('c', 'False')]),
      ['another target come again in 1 of 4', 'train 1 in train 3'],
    ),
    (
      changed(validation=[('e', 'True'), ('c', 'True')]),
      [
        'validation: inputs that are in train too in 1 of 2',
        'validation 1 and',
      ],
    ),
    (
      changed(test=[('f', '<unk>'), ('e', '<unk>')]),
      ['test: inputs that are in validation too in 1 of 2'],
    ),
    (
      changed(validation=[('e {f} g', 'True')]),
      ["does not know '{' left curly bracket, '}' right curly bracket"],
    ),
    (
      changed(validation=[('e\nf', 'True')]),
      [r"reads '\n' newline as spaces"],
    ),
    (
      changed(train=[*GOOD['train'], (' ', 'True')]),
      ['train: empty inputs: 1, such as train 3'],
    ),
  ],
)
def test_what_is_odd_is_said(rows, fragments):
  warnings = said(rows)
  for fragment in fragments:
    assert any(fragment in warning for warning in warnings), warnings


def test_repeats_with_the_same_target_within_a_split_are_no_matter():
  assert said(changed(train=[*GOOD['train'], ('c', 'True')])) == []


def test_unlabelled_rows_contradict_nothing():
  rows = changed(test=[('f', '<unk>'), ('f', '<unk>')])
  assert said(rows) == []


def test_unused_scores_are_no_matter():
  task = definitions.definition('glue_stsb')
  rows = {'train': [('a', '3.0')], 'validation': [('b', '2.0')]}
  assert said(rows, task=task) == []


def test_cut_examples_are_warned_of_above_their_share():
  long, short = ('x' * 30, 'True'), [(f'text {i}', 'True') for i in range(19)]
  assert said(changed(validation=[*short, long]), limit=20) == []  # 5 %
  assert said(changed(validation=[*short[1:], long]), limit=20) == [
    'validation inputs: 5.26% of the examples are cut at 20 tokens, more than'
    ' 5%. Raise --inputs_length.'
  ]


@pytest.mark.parametrize(('unknown', 'share'), [(2, None), (3, '0.75%')])
def test_unknown_tokens_are_warned_of_above_their_share(unknown, share):
  text = 'x' * (399 - unknown) + '{' * unknown  # 400 tokens with the end
  warnings = said(changed(validation=[(text, 'True')]), limit=500)
  shares = [w for w in warnings if 'of the tokens are unknown' in w]
  assert len(shares) == (share is not None)
  assert all(f'validation inputs: {share}' in warning for warning in shares)


def test_places_are_named_by_file_and_line():
  path = pathlib.Path('d/train.jsonl')
  places = RowPlaces(
    'train',
    tuple((path, line) for line in (1, 2, 5)),
    (('train.jsonl:5', 'passage'),),
  )
  rows = changed(train=[('a', 'True'), ('b', 'True'), ('a', 'False')])
  warnings = said(rows, places={'train': places})
  assert any('train.jsonl:1 in train.jsonl:5' in w for w in warnings)
  empty = "train: empty fields: 1, such as 'passage' of train.jsonl:5."
  assert empty in warnings


class Coarse(Letters):
  """A vocabulary that reads capitals as small letters, and no digits."""

  def encode(self, text):
    return [ord(c) for c in text.lower() if not c.isdigit()]


def with_labels(*labels):
  return dataclasses.replace(
    TASK, labels=labels, classes=labels, task_file='mine.toml'
  )


def test_labels_that_a_model_could_not_tell_apart_are_refused():
  task_warnings.check_labels(with_labels('yes', 'no'), Coarse())
  with pytest.raises(UserError, match="mine.toml: the label 'Yes' is the s"):
    task_warnings.check_labels(with_labels('yes', 'Yes'), Coarse())
  with pytest.raises(UserError, match=r"the label '5' is no tokens"):
    task_warnings.check_labels(with_labels('yes', '5'), Coarse())


def test_a_label_that_cannot_be_written_is_said():
  task = with_labels('False', '{True}')
  warnings = said(GOOD, task=task)
  assert any("writes the label '{True}' as '?True?'" in w for w in warnings)
