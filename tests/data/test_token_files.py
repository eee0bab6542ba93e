import json
import os
import pathlib
import shutil
import time

import numpy as np
import pytest

from hypergrid_jax import files
from hypergrid_jax.data import token_files

EXAMPLES = [
  ([5, 900, 1], [4, 1], {'idx': 3, 'text': 'ümläut\u2028'}),
  ([7, 1], [65_535, 6, 6, 1], {'idx': 0, 'answers': ['a', 'b']}),
  ([8, 8, 8, 8, 1], [1], {'idx': 2, 'label': 1.5}),
]
FILES = (*token_files.FILES, token_files.MANIFEST)


def write(directory, *, vocabulary_size=65_536):
  writer = token_files.StoreWriter(directory, vocabulary_size=vocabulary_size)
  for inputs, targets, values in EXAMPLES:
    writer.add(np.array(inputs), np.array(targets), values)
  writer.finish({'task': 't', 'counts': {'examples': 3}})


@pytest.fixture
def store(tmp_path):
  path = tmp_path / 'train-0123'
  path.mkdir()
  write(path)
  return path


@pytest.mark.parametrize(
  ('vocabulary_size', 'dtype'), [(65_536, np.uint16), (65_537, np.int32)]
)
def test_arrays_hold_what_was_added(tmp_path, vocabulary_size, dtype):
  write(tmp_path, vocabulary_size=vocabulary_size)
  ids = np.load(tmp_path / 'inputs.npy')
  assert ids.dtype == dtype
  assert ids.tolist() == [5, 900, 1, 7, 1, 8, 8, 8, 8, 1]
  assert np.load(tmp_path / 'input_offsets.npy').tolist() == [0, 3, 5, 10]
  assert np.load(tmp_path / 'targets.npy').tolist() == [
    4,
    1,
    65_535,
    6,
    6,
    1,
    1,
  ]
  assert np.load(tmp_path / 'target_offsets.npy').tolist() == [0, 2, 6, 7]
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_the_manifest_comes_back(store):
  manifest = token_files.read_manifest(store)
  assert manifest['task'] == 't'
  assert manifest['counts'] == {'examples': 3}
  assert set(manifest['files']) == set(token_files.FILES)


def flip(path, position):
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize('name', FILES)
def test_one_changed_bit_anywhere_is_noticed(store, name):
  whole = (store / name).read_bytes()
  for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 2}:
    flip(store / name, position)
    with pytest.raises(token_files.DamagedStoreError, match=name):
      token_files.read_manifest(store)
    (store / name).write_bytes(whole)
  token_files.read_manifest(store)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('share', [0.0, 0.5, 0.99, 1.01])
def test_a_cut_or_lengthened_file_is_noticed(store, name, share):
  size = int((store / name).stat().st_size * share)
  os.truncate(store / name, size)
  what = name if name == token_files.MANIFEST else rf'{name} has {size} bytes'
  with pytest.raises(token_files.DamagedStoreError, match=what):
    token_files.read_manifest(store)


@pytest.mark.parametrize('name', FILES)
def test_a_missing_file_is_noticed(store, name):
  (store / name).unlink()
  with pytest.raises(token_files.DamagedStoreError, match=name):
    token_files.read_manifest(store)


@pytest.mark.parametrize('text', ['[]', '{}', '{"crc32": 0}', 'null', '{'])
def test_a_manifest_that_is_something_else_is_noticed(store, text):
  (store / token_files.MANIFEST).write_text(text)
  with pytest.raises(token_files.DamagedStoreError, match='manifest.json'):
    token_files.read_manifest(store)


def test_no_directory_is_not_damage(tmp_path):
  with pytest.raises(FileNotFoundError):
    token_files.read_manifest(tmp_path / 'nothing')


@pytest.fixture
def reads(monkeypatch):
  """Lists the files whose CRC-32 is computed; no file is too fresh."""
  names, real = [], files.crc32

  def checksum(path):
    names.append(path.name)
    return real(path)

  monkeypatch.setattr(files, 'crc32', checksum)
  monkeypatch.setattr(token_files, '_SETTLED_NS', -(10**12))
  return names


def test_files_that_nobody_touched_are_read_once(store, reads):
  first = token_files.read_manifest(store)
  assert sorted(reads) == sorted(token_files.FILES)
  assert token_files.read_manifest(store) == first
  assert len(reads) == len(token_files.FILES)


def _flip_and_hide(path):
  times = path.stat().st_atime_ns, path.stat().st_mtime_ns
  time.sleep(0.02)  # several ticks of the clock that files are stamped with
  flip(path, 130)
  os.utime(path, ns=times)


def _touch(path):
  time.sleep(0.02)
  os.utime(path)


def _copy(path):
  shutil.copy2(path, path.with_name('copy'))
  path.with_name('copy').rename(path)


def _copy_all(path):
  shutil.copytree(path.parent, path.parent.with_name('copy'))
  shutil.rmtree(path.parent)
  path.parent.with_name('copy').rename(path.parent)


@pytest.mark.parametrize('touch', [_touch, _copy, _copy_all])
@pytest.mark.parametrize('name', token_files.FILES)
def test_files_that_somebody_touched_are_read_again(store, reads, name, touch):
  first = token_files.read_manifest(store)
  reads.clear()
  touch(store / name)
  assert token_files.read_manifest(store) == first
  assert sorted(reads) == sorted(token_files.FILES)
  token_files.read_manifest(store)
  assert len(reads) == len(token_files.FILES)


@pytest.mark.parametrize('name', token_files.TOKENS)
def test_a_change_that_hides_its_time_is_noticed(store, reads, name):
  token_files.read_manifest(store)
  _flip_and_hide(store / name)
  with pytest.raises(token_files.DamagedStoreError, match=name):
    token_files.read_manifest(store)


def test_fresh_files_are_read_every_time(store, reads, monkeypatch):
  # They could change again without a later time.
  monkeypatch.setattr(token_files, '_SETTLED_NS', 3600 * 10**9)
  for _ in range(2):
    reads.clear()
    token_files.read_manifest(store)
    assert sorted(reads) == sorted(token_files.FILES)
  assert not (store / token_files.VERIFIED).exists()


@pytest.mark.parametrize('content', [b'', b'[', b'null', b'[1, {}]', b'\xff'])
def test_what_is_known_of_files_may_be_lost(store, reads, content):
  token_files.read_manifest(store)
  (store / token_files.VERIFIED).write_bytes(content)
  reads.clear()
  token_files.read_manifest(store)
  assert sorted(reads) == sorted(token_files.FILES)


def test_what_is_known_of_files_holds_for_their_manifest_only(store, reads):
  token_files.read_manifest(store)
  body = json.loads((store / token_files.MANIFEST).read_text())
  del body['crc32']
  body['counts'] = {'examples': 4}
  body['crc32'] = token_files._body_checksum(body)
  (store / token_files.MANIFEST).write_text(json.dumps(body))
  reads.clear()
  token_files.read_manifest(store)
  assert sorted(reads) == sorted(token_files.FILES)


def test_a_store_may_be_read_only(store, reads, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'replace', refuse)
  for _ in range(2):
    reads.clear()
    token_files.read_manifest(store)
    assert sorted(reads) == sorted(token_files.FILES)
  assert sorted(path.name for path in store.iterdir()) == sorted(FILES)


class _Killed(BaseException):
  pass


def test_a_process_killed_at_any_point_leaves_nothing_visible(
  tmp_path, monkeypatch
):
  final = tmp_path / 'task' / 'train-0123'
  real_fsync = os.fsync
  for survived in range(20):
    left = survived

    def fsync(descriptor):
      nonlocal left
      if left == 0:
        raise _Killed
      left -= 1
      real_fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', fsync)
    partial = token_files.partial_directory(final)
    try:
      write(partial)
      token_files.publish(partial, final)
    except _Killed:
      if final.exists():  # killed after the rename: all of it is there
        token_files.read_manifest(final)
        break
      continue
    pytest.fail('was never killed after publishing')
  # Five arrays, the lines, the manifest, the directory: each could be the last.
  assert survived == 8
  others = {path.name[:9] for path in final.parent.iterdir()} - {'train-012'}
  assert others == {'.partial-'}


def test_the_slower_of_two_builders_keeps_the_others_store(tmp_path):
  final = tmp_path / 'task' / 'train-0123'
  first, second = (token_files.partial_directory(final) for _ in range(2))
  write(first)
  token_files.publish(first, final)
  inode = (final / 'inputs.npy').stat().st_ino
  write(second)
  token_files.publish(second, final)
  assert (final / 'inputs.npy').stat().st_ino == inode
  assert [path.name for path in final.parent.iterdir()] == ['train-0123']


def test_what_was_abandoned_a_day_ago_is_removed(tmp_path):
  final = tmp_path / 'task' / 'train-0123'
  old, fresh = (token_files.partial_directory(final) for _ in range(2))
  write(old)
  os.utime(old, (0, time.time() - 25 * 3600))
  token_files.partial_directory(final)
  assert not old.exists()
  assert fresh.exists()


def test_an_abandoned_file_is_removed_too(tmp_path):
  old, fresh = (tmp_path / f'.partial-{name}' for name in ('old', 'fresh'))
  for path in (old, fresh):
    path.write_text('half')
  os.utime(old, (0, time.time() - 25 * 3600))
  token_files.partial_path(tmp_path)
  assert not old.exists()
  assert fresh.exists()


def test_discard_removes_a_store_and_minds_no_missing_one(store):
  token_files.discard(store)
  token_files.discard(store)
  assert list(store.parent.iterdir()) == []
