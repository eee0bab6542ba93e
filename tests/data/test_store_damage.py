"""A store damaged anywhere is noticed, said, and built again."""

import io
import json
import logging
import os
import pathlib
import shutil
import zlib

import numpy as np
import pytest

from hypergrid_jax.data import token_files, token_workers, tokens
from hypergrid_jax.data.token_requests import TokenRequest
from hypergrid_jax.errors import UserError

MARK = 'ab12' * 10
REQUEST = TokenRequest('glue_sst2', 'train', 'sample', 'bytes', (30, 9))
EXAMPLES = [
  ([5, 200, 1], [4, 1], {'idx': 3}),
  ([7, 1], [35, 6, 6, 1], {'idx': 0, 'answers': ['a', 'ü']}),
  ([8, 8, 8, 8, 1], [1], {'idx': 2, 'label': 1.5}),
]
FILES = (*token_files.FILES, token_files.MANIFEST)


@pytest.fixture
def builds(monkeypatch):
  """Stores come from EXAMPLES; lists how often they were built."""
  calls = []

  def build_all(requests, root, progress):
    calls.append(list(requests))
    final = REQUEST.directory(root, MARK)
    partial = token_files.partial_directory(final)
    writer = token_files.StoreWriter(partial, vocabulary_size=300)
    for inputs, targets, values in EXAMPLES:
      writer.add(np.array(inputs), np.array(targets), values)
    writer.finish(
      {
        'task': REQUEST.task,
        'split': REQUEST.split,
        'counts': {'examples': len(EXAMPLES)},
        'fingerprint': MARK,
      }
    )
    token_files.publish(partial, final)

  monkeypatch.setattr(token_workers, 'build_all', build_all)
  monkeypatch.setattr(tokens, 'fingerprint', lambda *_: MARK)
  monkeypatch.setattr(token_files.os, 'fsync', lambda _: None)  # is slow
  return calls


def open_it(root):
  (store,) = tokens.open_stores([REQUEST], directory=root)
  return store


def check(store):
  for index, (inputs, targets, values) in enumerate(EXAMPLES):
    assert store.inputs(index).tolist() == inputs
    assert store.targets(index).tolist() == targets
    assert store.example(index) == values


@pytest.fixture
def path(tmp_path, builds):
  """A store that is whole."""
  check(open_it(tmp_path))
  check(open_it(tmp_path))
  assert len(builds) == 1
  return REQUEST.directory(tmp_path, MARK)


def check_rebuilt(path, builds, caplog, reason):
  root = path.parent.parent
  with caplog.at_level(logging.WARNING):
    check(open_it(root))
  assert len(builds) == 2
  (record,) = caplog.records
  message = record.getMessage()
  assert message.startswith(f'glue_sst2/train: the token store {path} is')
  assert reason in message
  assert 'is built again' in message
  caplog.clear()
  check(open_it(root))
  assert len(builds) == 2
  assert not caplog.records
  assert list(path.parent.iterdir()) == [path]


def flip(path, share):
  content = bytearray(path.read_bytes())
  content[int(share * (len(content) - 2))] ^= 4
  path.write_bytes(content)


def resize(path, share):
  os.truncate(path, int(share * path.stat().st_size))


def in_place_of(path, make):
  path.unlink()
  make()


DAMAGES = {
  'first byte': lambda path: flip(path, 0),
  'a byte inside': lambda path: flip(path, 0.5),
  'last byte': lambda path: flip(path, 1),
  'emptied': lambda path: resize(path, 0),
  'cut in half': lambda path: resize(path, 0.5),
  'cut by a little': lambda path: resize(path, 0.99),
  'zeros at its end': lambda path: resize(path, 1.02),
  'text at its end': lambda path: path.write_bytes(path.read_bytes() + b'xy'),
  'only zeros': lambda path: path.write_bytes(bytes(path.stat().st_size)),
  'missing': lambda path: path.unlink(),
  'a directory': lambda path: in_place_of(path, path.mkdir),
  'a link to nothing': lambda path: in_place_of(
    path, lambda: path.symlink_to('nothing')
  ),
  # Fails as a file does that the system cannot read.
  'unreadable': lambda path: in_place_of(path, lambda: path.symlink_to(path)),
}


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('name', FILES)
def test_a_damaged_file_is_noticed(path, builds, caplog, name, damage):
  DAMAGES[damage](path / name)
  check_rebuilt(path, builds, caplog, name)


def rewrite_manifest(path, change):
  """Changes the manifest so that it is right in itself."""
  body = json.loads((path / token_files.MANIFEST).read_text())
  del body['crc32']
  change(body)
  body['crc32'] = token_files._body_checksum(body)
  (path / token_files.MANIFEST).write_text(json.dumps(body))


def drop(*keys):
  def change(body):
    for key in keys[:-1]:
      body = body[key]
    del body[keys[-1]]

  return change


MANIFESTS = {
  'of something else': (
    lambda body: body.update(fingerprint='cd34' * 10),
    'was made from something else',
  ),
  'without fingerprint': (drop('fingerprint'), 'made from something else'),
  'without files': (drop('files'), 'manifest.json'),
  'without a file': (drop('files', 'targets.npy'), 'manifest.json'),
  'without a size': (drop('files', 'inputs.npy', 'bytes'), 'manifest.json'),
  'with another size': (
    lambda body: body['files']['inputs.npy'].update(bytes=1),
    'inputs.npy has',
  ),
  'with another checksum': (
    lambda body: body['files']['examples.jsonl'].update(crc32=1),
    'CRC-32 of examples.jsonl',
  ),
  'with a list of files': (
    lambda body: body.update(files=['inputs.npy']),
    'manifest.json',
  ),
}


@pytest.mark.parametrize('case', MANIFESTS)
def test_a_manifest_of_another_kind_is_noticed(path, builds, caplog, case):
  change, reason = MANIFESTS[case]
  rewrite_manifest(path, change)
  check_rebuilt(path, builds, caplog, reason)


@pytest.mark.parametrize(
  'content',
  [b'[]', b'{}', b'null', b'3', b'"text"', b'{"crc32": 0}', b'\xff\xfe', b'{'],
)
def test_a_manifest_that_is_none_is_noticed(path, builds, caplog, content):
  (path / token_files.MANIFEST).write_bytes(content)
  check_rebuilt(path, builds, caplog, 'manifest.json cannot be read')


def npy(values, **header):
  """An array as a file, with a header that says something else."""
  values = np.asarray(values)
  file = io.BytesIO()
  truth = {
    'descr': np.lib.format.dtype_to_descr(values.dtype),
    'fortran_order': False,
    'shape': values.shape,
  }
  np.lib.format.write_array_header_1_0(file, {**truth, **header})
  return file.getvalue() + values.tobytes()


IDS = np.array([5, 200, 1, 7, 1, 8, 8, 8, 8, 1], np.uint16)
STARTS = np.array([0, 3, 5, 10])
LIES = {
  'longer than it is': ('inputs', npy(IDS, shape=(99,))),
  'shorter than it is': ('inputs', npy(IDS, shape=(9,))),
  'of negative length': ('inputs', npy(IDS, shape=(-1,))),
  'of no length': ('inputs', npy(IDS, shape=(0,))),
  'two-dimensional': ('inputs', npy(IDS.reshape(2, 5))),
  'ids as floats': ('inputs', npy(IDS.view(np.float16))),
  'ids as half as many': ('inputs', npy(IDS, descr='<i4', shape=(5,))),
  'ids of another sign': ('inputs', npy(IDS.view(np.int16))),
  'objects': ('inputs', npy(IDS, descr='|O')),
  'a type that is none': ('inputs', npy(IDS, descr='what')),
  'no header': ('inputs', IDS.tobytes() * 9),
  'an archive': ('inputs', b'PK\x03\x04' + bytes(200)),
  'a later version': ('inputs', b'\x93NUMPY\x09\x00' + npy(IDS)[8:]),
  'offsets in 4 bytes': ('input_offsets', npy(STARTS.astype(np.int32))),
  'offsets of fewer': ('input_offsets', npy(STARTS[[0, 1, 3]])),
  'no offsets': ('input_offsets', npy(STARTS[:0])),
  'offsets from elsewhere': ('input_offsets', npy(STARTS + [1, 0, 0, 0])),
  'offsets to elsewhere': ('input_offsets', npy(STARTS + [0, 0, 0, 1])),
  'offsets of other lines': ('example_offsets', npy(STARTS)),
}


@pytest.mark.parametrize('lie', LIES)
def test_an_array_that_lies_with_a_right_checksum_is_noticed(
  path, builds, caplog, lie
):
  name, content = LIES[lie]
  (path / f'{name}.npy').write_bytes(content)
  rewrite_manifest(
    path,
    lambda body: body['files'].update(
      {f'{name}.npy': {'bytes': len(content), 'crc32': zlib.crc32(content)}}
    ),
  )
  check_rebuilt(path, builds, caplog, '.npy')


def test_an_array_that_tells_the_truth_is_no_lie(path, builds):
  # The cases above fail for the lie alone.
  assert (path / 'inputs.npy').read_bytes() == npy(IDS)
  assert (path / 'input_offsets.npy').read_bytes() == npy(STARTS)


PLACES = {
  'a file': lambda path: path.write_bytes(b'text'),
  'an empty directory': lambda path: path.mkdir(),
  'a link to nothing': lambda path: path.symlink_to('nothing'),
  'a link to itself': lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize('place', PLACES)
def test_something_else_in_place_of_the_store_is_noticed(
  path, builds, caplog, place
):
  shutil.rmtree(path)
  PLACES[place](path)
  check_rebuilt(path, builds, caplog, 'damaged')


def test_a_damaged_store_that_cannot_be_removed_is_a_users_matter(
  path, builds, monkeypatch
):
  flip(path / 'inputs.npy', 0.5)

  def refuse(*_):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'rename', refuse)
  with pytest.raises(
    UserError,
    match=r'glue_sst2/train: the damaged token store .* cannot be removed'
    r' \(Permission denied\)\. Remove it, or .*token_dir',
  ):
    open_it(path.parent.parent)
  assert len(builds) == 1


def test_why_a_store_is_built_again_is_said_before_that_fails(
  path, monkeypatch, caplog
):
  flip(path / 'targets.npy', 0.5)

  def fail(*_):
    raise UserError('the source is gone')

  monkeypatch.setattr(token_workers, 'build_all', fail)
  with pytest.raises(UserError, match='the source is gone'):
    open_it(path.parent.parent)
  assert 'targets.npy' in caplog.text
