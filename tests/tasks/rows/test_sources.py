"""Where rows come from: missing files, splits, fingerprints, TFDS.

Rows are read without seqio and TensorFlow.
"""

import json

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.definitions import definition
from hypergrid_jax.tasks.rows import sources
from tests.data.task_files import GOOD, RTE, lines, place


class TestMissingFiles:
  """Messages say what was looked for and what is there."""

  def message(self, directory, task=RTE, split='train'):
    with pytest.raises(UserError) as error:
      sources.read_rows(f'files:{directory}', task, split)
    return str(error.value)

  def test_partial_files_are_never_used(self, tmp_path):
    place(tmp_path, RTE, 'train.partial.jsonl.gz', lines(GOOD))
    message = self.message(tmp_path)
    folder = tmp_path / 'super_glue' / 'rte'
    assert f'Looked for {folder}/train.{{jsonl,tsv,csv}}[.gz]' in message
    assert 'train.partial.jsonl.gz is incomplete by its name' in message
    assert sources.available_splits(f'files:{tmp_path}', RTE) == {}

  def test_a_similar_name(self, tmp_path):
    place(tmp_path, RTE, 'trian.jsonl', lines(GOOD))
    place(tmp_path, RTE, 'notes.txt', 'x')
    message = self.message(tmp_path)
    assert 'The directory has: notes.txt, trian.jsonl.' in message
    assert "Did you mean 'trian.jsonl'?" in message

  def test_no_directory_of_the_task(self, tmp_path):
    place(tmp_path, definition('super_glue_cb'), 'train.jsonl', lines(GOOD))
    (tmp_path / 'super_glue' / 'RTE').mkdir()
    message = self.message(tmp_path)
    assert f'no directory {tmp_path}/super_glue/rte' in message
    assert 'has: RTE, cb.' in message

  def test_no_directory_of_the_benchmark(self, tmp_path):
    assert f'no directory {tmp_path}/super_glue.' in self.message(tmp_path)

  def test_two_files_of_one_split(self, tmp_path):
    place(tmp_path, RTE, 'train.jsonl', lines(GOOD))
    place(tmp_path, RTE, 'train.tsv.gz', lines(GOOD))
    message = self.message(tmp_path)
    assert 'train.jsonl, train.tsv.gz' in message
    assert 'Keep one' in message

  def test_a_directory_in_place_of_a_file(self, tmp_path):
    (tmp_path / 'super_glue' / 'rte' / 'train.jsonl').mkdir(parents=True)
    assert 'no file' in self.message(tmp_path)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('file:/tmp', "Did you mean 'files'"),
    ('tdfs', "Did you mean 'tfds'"),
    ('files', 'files:DIR'),
    ('files:', 'names no directory'),
    ('files:/no/such/place', '/no/such/place is not a directory'),
    ('', "Unknown data source ''"),
  ],
)
def test_names_that_are_no_source(text, message):
  with pytest.raises(UserError) as error:
    sources.parse_source(text)
  assert message in str(error.value)


def test_available_splits_of_files(tmp_path):
  place(tmp_path, RTE, 'test.csv.gz', '')
  path = place(tmp_path, RTE, 'train.tsv', '')
  found = sources.available_splits(f'files:{tmp_path}', RTE)
  assert list(found.items())[0] == ('train', str(path))
  assert list(found) == ['train', 'test']


def test_a_split_that_is_there_twice_is_not_available(tmp_path):
  place(tmp_path, RTE, 'train.jsonl', lines(GOOD))
  place(tmp_path, RTE, 'train.csv', lines(GOOD))
  with pytest.raises(UserError, match='several files'):
    sources.available_splits(f'files:{tmp_path}', RTE)


def test_fingerprint_follows_the_bytes_and_not_the_place(tmp_path):
  def fingerprint(directory, split='train'):
    return sources.source_fingerprint(f'files:{directory}', RTE, split)

  one, two = tmp_path / 'one', tmp_path / 'two'
  place(one, RTE, 'train.jsonl', lines(GOOD))
  place(two, RTE, 'train.jsonl', lines(GOOD))
  place(one, RTE, 'validation.jsonl', lines(GOOD))
  assert fingerprint(one) == fingerprint(two)
  assert fingerprint(one) != fingerprint(one, 'validation')
  place(two, RTE, 'train.jsonl', lines({**GOOD, 'idx': 8}))
  assert fingerprint(one) != fingerprint(two)


def test_sample_source():
  from hypergrid_jax.tasks import sample

  assert list(sources.read_rows('sample', RTE, 'validation')) == list(
    sample.rows('super_glue', 'rte', 'validation')
  )
  assert sources.num_examples('sample', RTE, 'validation') == len(
    sample.rows('super_glue', 'rte', 'validation')
  )
  there = set(sample.splits('super_glue', 'rte'))
  assert list(sources.available_splits('sample', RTE)) == [
    split for split in RTE.splits if split in there
  ]
  assert sample.VERSION in sources.source_fingerprint('sample', RTE, 'train')
  axb = definition('super_glue_axb')
  if 'test' not in sample.splits('super_glue', 'axb'):
    with pytest.raises(UserError, match="no split 'test'"):
      sources.read_rows('sample', axb, 'test')


class TestTfds:
  """What is known of prepared data without TensorFlow."""

  @pytest.fixture(autouse=True)
  def _data_dir(self, tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    self.directory = tmp_path / 'super_glue' / 'rte' / '1.0.2'

  def prepare(self, *sizes):
    self.directory.mkdir(parents=True, exist_ok=True)
    splits = [
      {'name': name, 'shardLengths': [str(size), '3']}
      for name, size in zip(('validation', 'train'), sizes, strict=True)
    ]
    info = json.dumps({'splits': splits})
    (self.directory / 'dataset_info.json').write_text(info)

  def test_not_prepared(self):
    found = sources.available_splits('tfds', RTE)
    assert list(found) == ['train', 'validation', 'test']
    assert f'not prepared yet: {self.directory}' in found.values()
    assert sources.num_examples('tfds', RTE, 'train') is None

  def test_prepared(self):
    self.prepare(5, 8)
    assert sources.available_splits('tfds', RTE) == {
      'train': str(self.directory),
      'validation': str(self.directory),
    }
    assert sources.num_examples('tfds', RTE, 'train') == 11

  def test_fingerprint(self):
    before = sources.source_fingerprint('tfds', RTE, 'train')
    self.prepare(5, 8)
    first = sources.source_fingerprint('tfds', RTE, 'train')
    self.prepare(5, 9)
    second = sources.source_fingerprint('tfds', RTE, 'train')
    assert len({before, first, second}) == 3
    assert 'super_glue/rte:1.0.2' in first

  def test_rows_are_for_the_seqio_task_to_read(self):
    with pytest.raises(ValueError, match='not .tfds.'):
      sources.read_rows('tfds', RTE, 'train')
