"""The old content or the new, and nothing beside it."""

import itertools
import zlib

import pytest

from hypergrid_jax import files
from hypergrid_jax.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
  tmp_path, monkeypatch
):
  path = tmp_path / 'best.json'
  files.write_text(path, 'old')

  def fail(_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(files.os, 'fsync', fail)
  with pytest.raises(UserError, match=r'best.json.*No space') as error:
    files.write_text(path, 'new')
  assert isinstance(error.value.__cause__, OSError)
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_parts_that_fail_half_way_leave_the_old_file(tmp_path):
  path = tmp_path / 'rows.jsonl'
  files.write_text(path, ['one\n', 'two\n'])

  def parts():
    yield 'three\n'
    raise KeyError('four')

  with pytest.raises(KeyError):
    files.write_text(path, parts())
  assert path.read_text() == 'one\ntwo\n'
  assert list(tmp_path.iterdir()) == [path]


def test_missing_directories_are_made(tmp_path):
  files.write_text(tmp_path / 'a/b/c.txt', 'text')
  assert (tmp_path / 'a/b/c.txt').read_text() == 'text'


class TestNewDirectory:
  def test_it_appears_whole(self, tmp_path):
    path = tmp_path / 'a' / 'new'
    with files.new_directory(path) as made:
      (made / 'one.txt').write_text('1')
      assert not path.exists()
    assert [p.name for p in path.iterdir()] == ['one.txt']
    assert [p.name for p in path.parent.iterdir()] == ['new']

  def test_a_failure_leaves_nothing(self, tmp_path):
    def fail():
      with files.new_directory(tmp_path / 'new') as made:
        (made / 'one.txt').write_text('1')
        raise KeyError('two')

    with pytest.raises(KeyError):
      fail()
    assert list(tmp_path.iterdir()) == []

  def test_an_empty_directory_is_taken_and_a_full_one_is_not(self, tmp_path):
    (tmp_path / 'empty').mkdir()
    with files.new_directory(tmp_path / 'empty') as made:
      (made / 'one.txt').write_text('1')
    with (
      pytest.raises(UserError, match='empty is there already'),
      files.new_directory(tmp_path / 'empty'),
    ):
      pass
    assert (tmp_path / 'empty/one.txt').read_text() == '1'

  def test_what_appears_meanwhile_is_not_overwritten(self, tmp_path):
    def race():
      with files.new_directory(tmp_path / 'new') as made:
        (made / 'ours.txt').write_text('1')
        (tmp_path / 'new').mkdir()
        (tmp_path / 'new/theirs.txt').write_text('2')

    with pytest.raises(UserError, match='new is there already'):
      race()
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['theirs.txt']


def test_the_checksum_of_a_file_is_that_of_its_bytes(tmp_path):
  (tmp_path / 'a').write_bytes(bytes(range(250)))
  assert files.crc32(tmp_path / 'a') == zlib.crc32(bytes(range(250)))


@pytest.mark.parametrize('value', [float('nan'), float('-inf')])
def test_json_has_no_number_that_is_not_finite(value):
  with pytest.raises(ValueError, match='not JSON compliant'):
    files.to_json({'loss': value})
  assert files.to_json({'text': 'ä'}) == '{"text": "ä"}'


class TestSealedJson:
  CONTENT = {'b': [1, 2.5, None], 'a': {'ä': 'text'}}

  def test_it_comes_back_as_json_makes_it(self, tmp_path):
    path = tmp_path / 'x.json'
    files.write_sealed_json(path, {**self.CONTENT, 'c': (1, {3: 4})})
    expected = {**self.CONTENT, 'c': [1, {'3': 4}]}
    assert files.read_sealed_json(path) == expected

  def test_no_change_of_any_byte_goes_unnoticed(self, tmp_path):
    path = tmp_path / 'x.json'
    files.write_sealed_json(path, self.CONTENT)
    content = path.read_bytes()
    damaged = [content[:end] for end in range(len(content))]
    damaged += [content + b'\n', b'{\n "a": 1\n}\n']
    for position, bit in itertools.product(range(len(content)), (0, 3, 7)):
      flipped = bytearray(content)
      flipped[position] ^= 1 << bit
      damaged.append(bytes(flipped))
    for bad in damaged:
      path.write_bytes(bad)
      with pytest.raises(ValueError, match='.'):
        files.read_sealed_json(path)
