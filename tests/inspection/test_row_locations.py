"""Rows in their files: lines, and fields without text."""

import json

from hypergrid_jax.inspection import row_locations
from hypergrid_jax.tasks import definitions, task_files
from tests.tasks import own_files

MRPC = definitions.definition('glue_mrpc')


def row(first, second='b'):
  values = {'sentence1': first, 'sentence2': second, 'label': 1, 'idx': 0}
  return json.dumps(values)


def test_rows_of_a_directory_are_named_by_line(tmp_path):
  folder = tmp_path / 'glue/mrpc'
  folder.mkdir(parents=True)
  lines = [row('a'), '', row(' ', '\t'), row('c'), row('d', '')]
  (folder / 'train.jsonl').write_text('\n'.join(lines))
  found = row_locations.read(MRPC, f'files:{tmp_path}', 'train')
  assert [line for _, line in found.places] == [1, 3, 4, 5]
  assert found.name(1, 4) == 'train.jsonl:3'
  assert found.blank == (
    ('train.jsonl:3', 'sentence1'),
    ('train.jsonl:3', 'sentence2'),
    ('train.jsonl:5', 'sentence2'),
  )


def test_examples_that_are_not_the_rows_are_named_by_number(tmp_path):
  folder = tmp_path / 'glue/mrpc'
  folder.mkdir(parents=True)
  (folder / 'train.jsonl').write_text(row('a') + '\n' + row('b'))
  found = row_locations.read(MRPC, f'files:{tmp_path}', 'train')
  assert found.name(1, 3) == 'train 1'


def test_the_sample_has_no_files():
  found = row_locations.read(MRPC, 'sample', 'train')
  assert (found.places, found.blank) == ((), ())
  assert found.name(7, 4000) == 'train 7'


def test_a_task_file_s_rows_lie_in_its_files(tmp_path):
  rows = [*own_files.ROWS, {'title': '', 'body': 'b', 'stars': 1, 'more': ''}]
  task_files.load([own_files.write_reviews(tmp_path, rows=rows)])
  reviews = definitions.definition('reviews')
  found = row_locations.read(reviews, 'sample', 'train')
  assert found.name(3, 4) == 'train.jsonl:4'
  assert found.blank == (('train.jsonl:4', 'title'),)
  found = row_locations.read(reviews, 'sample', 'validation')
  assert found.name(0, 2) == 'dev.tsv:2'
