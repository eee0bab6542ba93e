"""What a row to predict becomes; test_malformed_rows has what is refused."""

import gzip
import json

import pytest

from hypergrid_jax.prediction import requests
from hypergrid_jax.tasks import definitions, task_files
from tests.tasks import own_files

TASKS = definitions.DEFINITIONS


def parse(values, *, number=4):
  return requests.parse(values, TASKS, number=number, where='here')


def test_a_task_is_known_by_the_one_it_is_trained_as():
  known = requests.known_tasks({'glue_mnli': 0, 'super_glue_rte': 1})
  assert set(known) == {
    'glue_mnli',
    'glue_mnli_matched',
    'glue_mnli_mismatched',
    'glue_ax',
    'super_glue_rte',
    'super_glue_axb',
    'super_glue_axg',
  }


@pytest.mark.parametrize('given', ['a', 0, 17, {'paragraph': 1, 'answer': 2}])
def test_an_id_is_given_back(given):
  row = parse({'task': 'glue_sst2', 'inputs': 'text', 'id': given})
  assert requests.answer(row, 'text', 'x')['id'] == given


@pytest.mark.parametrize('values', [{}, {'id': None}])
def test_without_an_id_it_is_the_number(values):
  assert parse({'task': 'glue_sst2', 'inputs': 'text', **values}).id == 4


def test_text_is_taken_as_it_is():
  text = ' sst2 sentence:\ta  "film"\r\n '
  row = parse({'task': 'glue_sst2', 'inputs': text, 'fields': None})
  assert (row.text, row.fields) == (text, None)


def test_what_a_user_cannot_know_is_filled_in():
  fields = {'paragraph': 'P.', 'question': 'Q?', 'answer': 'A'}
  row = parse({'task': 'super_glue_multirc', 'fields': fields}, number=8)
  assert row.fields == {
    **fields,
    'idx': {'paragraph': 8, 'question': 8, 'answer': 8},
    'label': -1,
  }
  fields = {'sentence1': 'a', 'sentence2': 'b', 'idx': 3}
  row = parse({'task': 'glue_stsb', 'fields': fields})
  assert row.fields == {**fields, 'label': -1.0}


def test_answers_may_be_left_out():
  fields = {'passage': 'P.', 'query': 'Q', 'entities': ['A']}
  row = parse({'task': 'super_glue_record', 'fields': fields})
  assert list(row.fields['answers']) == []


def test_a_label_may_be_there():
  row = parse({'task': 'glue_rte', 'fields': {
    'sentence1': 'a', 'sentence2': '', 'label': 1,
  }})  # fmt: skip
  assert row.fields['label'] == 1


def test_a_task_without_a_test_split_needs_no_label_either():
  row = parse(
    {'task': 'glue_mnli', 'fields': {'premise': 'a', 'hypothesis': 'b'}}
  )
  assert row.fields['label'] == -1


class TestOwnTasks:
  @pytest.fixture(autouse=True)
  def _reviews(self, tmp_path):
    task_files.load([own_files.write_reviews(tmp_path)])

  def test_the_template_makes_the_text(self):
    fields = {'title': 'A {film}', 'body': 3.50, 'more': None}
    row = parse({'task': 'reviews', 'fields': fields})
    assert row.text == 'review: A {film} / 3.5'

  def test_numbers_are_written_as_in_the_file(self, tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_text(
      '{"task": "reviews", "fields": {"title": 1.50, "body": true}}\n'
    )
    (row,) = requests.read(path, TASKS)
    assert row.text == 'review: 1.50 / true'

  @pytest.mark.parametrize(
    ('said', 'label'),
    [('negative', '1'), ('positive', '5'), ('Positive', None), ('', None)],
  )
  def test_a_label_is_the_field_s_value(self, said, label):
    row = parse({'task': 'reviews', 'inputs': 'a'})
    assert requests.answer(row, 'a', said) == {
      'id': 4,
      'task': 'reviews',
      'inputs': 'a',
      'prediction': said,
      'label': label,
    }

  def test_a_list_of_labels_gives_the_text(self, tmp_path):
    toml = own_files.TOML.replace(
      "{1 = 'negative', 5 = 'positive'}", "['bad', 'good']"
    ).replace("'reviews'", "'listed'")
    task_files.load([own_files.write_reviews(tmp_path / 'listed', toml)])
    row = parse({'task': 'listed', 'inputs': 'a'})
    assert requests.answer(row, 'a', 'good')['label'] == 'good'

  @pytest.mark.parametrize(
    ('said', 'score'), [('4', 4.0), ('4.25', 4.25), ('nan', None), ('x', None)]
  )
  def test_a_number_is_read(self, tmp_path, said, score):
    toml = own_files.TOML.replace(
      "labels = {1 = 'negative', 5 = 'positive'}",
      'number = {min = 1, max = 5, step = 1}',
    ).replace("'reviews'", "'numbered'")
    task_files.load([own_files.write_reviews(tmp_path / 'numbered', toml)])
    row = parse({'task': 'numbered', 'inputs': 'a'})
    answer = requests.answer(row, 'a', said)
    assert answer['score'] == score
    assert 'label' not in answer


@pytest.mark.parametrize(
  ('task', 'said', 'found'),
  [
    ('glue_mnli', 'contradiction', {'label': 2}),
    ('glue_mnli_matched', 'neutral', {'label': 1}),
    ('glue_mnli', 'Neutral', {'label': None}),
    ('super_glue_multirc', 'True', {'label': 1}),
    ('glue_stsb', '3.8', {'score': 3.8}),
    ('glue_stsb', 'three', {'score': None}),
    ('super_glue_record', 'Ann', {}),
    ('super_glue_wsc', 'the dog', {}),
  ],
)
def test_a_prediction_is_read(task, said, found):
  answer = requests.answer(parse({'task': task, 'inputs': 'i'}), 'i', said)
  rest = {'id': 4, 'task': task, 'inputs': 'i', 'prediction': said}
  assert answer == {**rest, **found}


@pytest.mark.parametrize('name', ['rows.jsonl', 'rows.jsonl.gz'])
def test_a_file_is_read_line_by_line(tmp_path, name):
  lines = [
    '\ufeff' + json.dumps({'task': 'glue_cola', 'inputs': 'a\u2028b'}),
    '',
    json.dumps({'task': 'glue_rte', 'inputs': 'c', 'id': 'x'}),
  ]
  content = '\r\n'.join(lines).encode()
  if name.endswith('.gz'):
    content = gzip.compress(content)
  (tmp_path / name).write_bytes(content)
  rows = list(requests.read(tmp_path / name, TASKS))
  assert [(row.id, row.task.name, row.text) for row in rows] == [
    (1, 'glue_cola', 'a\u2028b'),
    ('x', 'glue_rte', 'c'),
  ]
