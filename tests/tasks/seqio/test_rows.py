"""Where rows of registered tasks lie: files and prepared TFDS data."""

import json

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.seqio import rows as rows_lib


def rows(kind, parts, **changes):
  values = {
    'task': 'mine',
    'code': 'abc',
    'kind': kind,
    'source': 'TextLineDataSource',
    'parts': parts,
    'counts': {},
    'place': '',
  }
  return rows_lib.SeqioRows(**{**values, **changes})


class TestFiles:
  """Patterns are matched as seqio matches them."""

  @pytest.fixture(autouse=True)
  def _files(self, tmp_path):
    for name in ('b_2.txt', 'b_1.txt', 'a.txt'):
      (tmp_path / name).write_text(f'{name}\n' * 100)
    self.folder = tmp_path

  def part(self, *patterns):
    return [str(self.folder / pattern) for pattern in patterns]

  def test_splits_are_those_with_files(self):
    found = rows(
      'files',
      {'train': self.part('b_*', 'a.txt'), 'validation': self.part('c*')},
    )
    assert dict(found.splits()) == {
      'train': ', '.join(self.part('b_1.txt', 'b_2.txt', 'a.txt'))
    }

  def test_the_fingerprint_follows_bytes_code_and_split(self):
    def mark(pattern='b_*', split='train', **changes):
      return rows('files', {split: self.part(pattern)}, **changes).fingerprint(
        split
      )

    start = mark()
    marks = {start, mark('a.txt'), mark(split='test'), mark(code='abd')}
    assert mark(counts={'train': 5}, place='x.py:3') == start
    (self.folder / 'b_2.txt').write_text('other\n')
    marks.add(mark())
    (self.folder / 'b_3.txt').write_text('')
    marks.add(mark())
    assert len(marks) == 6

  def test_no_file(self):
    found = rows('files', {'train': self.part('c_*')})
    with pytest.raises(UserError) as error:
      found.fingerprint('train')
    assert "mine, split 'train': no file" in str(error.value)
    assert str(self.folder / 'c_*') in str(error.value)

  def test_files_in_buckets_are_known_by_name_alone(self):
    found = rows('files', {'train': ['gs://no-such-bucket/x*']})
    assert dict(found.splits()) == {'train': 'gs://no-such-bucket/x*'}
    assert found.fingerprint('train') == found.fingerprint('train')
    assert found.estimate('train') == 0

  def test_counts(self):
    parts = {'train': self.part('b_*')}
    assert rows('files', parts).count('train') is None
    assert rows('files', parts).estimate('train') == 2 * (800 // 300)
    told = rows('files', parts, counts={'train': 70})
    assert told.count('train') == told.estimate('train') == 70


def prepare(folder, *parts, **splits):
  """Writes what is read of prepared TFDS data."""
  directory = folder.joinpath(*parts)
  directory.mkdir(parents=True)
  info = [
    {'name': name, 'shardLengths': [str(size), '1']}
    for name, size in splits.items()
  ]
  (directory / 'dataset_info.json').write_text(json.dumps({'splits': info}))
  return directory / 'dataset_info.json'


class TestTfds:
  """Prepared data are known by their directory."""

  @pytest.mark.parametrize(
    ('dataset', 'version'),
    [
      ('qa/main:1.9.0', '1.9.0'),
      ('qa/main', '1.10.0'),
      ('qa', '1.10.0'),
      ('qa/main:1.*.*', '1.10.0'),
      ('qa/main:3.0.0', None),
      ('qa/side', None),
      ('nothing', None),
    ],
  )
  def test_versions(self, tmp_path, dataset, version):
    for name in ('1.9.0', '1.10.0', '1.2.0'):
      prepare(tmp_path, 'qa', 'main', name, train=4)
    found = rows_lib.prepared(dataset, str(tmp_path))
    assert (found and found.parent.name) == version

  def test_of_two_configurations_none_is_guessed(self, tmp_path):
    for name in ('main', 'side'):
      prepare(tmp_path, 'qa', name, '1.0.0', train=4)
    assert rows_lib.prepared('qa', str(tmp_path)) is None

  def test_a_directory_of_one_dataset(self, tmp_path):
    info = prepare(tmp_path, 'here', train=4)
    assert str(rows_lib.prepared(None, str(info.parent))) == str(info)
    assert rows_lib.prepared(None, str(tmp_path)) is None

  def test_fingerprint_and_counts(self, tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    part = {'dataset': 'qa:1.0.0', 'data_dir': None, 'split': 'train'}
    cut = {**part, 'split': 'train[:50%]'}
    found = rows('tfds', {'train': part, 'validation': cut})
    missing = found.fingerprint('train')
    assert found.splits()['train'] == 'not prepared: qa:1.0.0'
    assert found.count('train') is None
    assert found.estimate('train') == 0
    info = prepare(tmp_path, 'qa', '1.0.0', train=40)
    assert rows_lib.split_names(info) == ('train',)
    assert found.splits()['train'] == str(info.parent)
    assert (found.count('train'), found.count('validation')) == (41, None)
    there = found.fingerprint('train')
    info.write_text(info.read_text() + ' ')
    assert len({missing, there, found.fingerprint('train')}) == 3


def test_what_code_gives_cannot_be_seen():
  found = rows('code', {'train': None}, source='FunctionDataSource')
  assert dict(found.splits()) == {'train': 'what its FunctionDataSource gives'}
  assert found.fingerprint('train') != rows(
    'code', {'train': None}, code='abd'
  ).fingerprint('train')
  with pytest.raises(ValueError, match='read through seqio'):
    found.read('train')
