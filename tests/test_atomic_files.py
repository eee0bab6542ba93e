"""The old content or the new, and nothing beside it."""

import pytest

from hypergrid_jax import atomic_files
from hypergrid_jax.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
  tmp_path, monkeypatch
):
  path = tmp_path / 'best.json'
  atomic_files.write_text(path, 'old')

  def fail(_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(atomic_files.os, 'fsync', fail)
  with pytest.raises(UserError, match=r'best.json.*No space') as error:
    atomic_files.write_text(path, 'new')
  assert isinstance(error.value.__cause__, OSError)
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_parts_that_fail_half_way_leave_the_old_file(tmp_path):
  path = tmp_path / 'rows.jsonl'
  atomic_files.write_text(path, ['one\n', 'two\n'])

  def parts():
    yield 'three\n'
    raise KeyError('four')

  with pytest.raises(KeyError):
    atomic_files.write_text(path, parts())
  assert path.read_text() == 'one\ntwo\n'
  assert list(tmp_path.iterdir()) == [path]


def test_missing_directories_are_made(tmp_path):
  atomic_files.write_text(tmp_path / 'a/b/c.txt', 'text')
  assert (tmp_path / 'a/b/c.txt').read_text() == 'text'
