"""Damaged checkpoints of the original T5 and of T5X, refused as a whole."""

import json
import pathlib
import shutil

import pytest

from tests import refusals
from tests.interop import directories

Q = 'encoder.block.1.layer.0.SelfAttention.q.weight'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def refused(capsys, source):
  return refusals.refusal(capsys, ['import', '--from', source, '--to', 'ck'])


def test_a_missing_variable(capsys):
  directories.write_mesh_tf('ckpt-5', leave_out=['shared/embedding'])
  assert 'holds no T5: it has' in refused(capsys, 'ckpt-5')


def test_a_missing_layer(capsys):
  name = directories.mesh_tf_name(Q)
  directories.write_mesh_tf('ckpt-5', leave_out=[name])
  assert f'1 missing: {name}' in refused(capsys, 'ckpt-5')


def test_a_truncated_data_file(capsys):
  directories.write_mesh_tf('ckpt-5')
  (data,) = pathlib.Path('.').glob('ckpt-5.data*')
  data.write_bytes(data.read_bytes()[:-5000])
  assert 'TensorFlow cannot read this checkpoint' in refused(capsys, 'ckpt-5')


def test_a_damaged_index_file(capsys):
  directories.write_mesh_tf('ckpt-5')
  pathlib.Path('ckpt-5.index').write_bytes(b'no table of TensorFlow' * 9)
  assert 'TensorFlow cannot read this checkpoint' in refused(capsys, 'ckpt-5')


def test_several_checkpoints(capsys):
  for step in (5, 6):
    refusals.write(f'run/ckpt-{step}.index', 'x')
  assert '2 checkpoints: ckpt-5, ckpt-6' in refused(capsys, 'run')


def test_a_missing_chunk_is_not_read_as_zeros(capsys):
  path = directories.write_t5x('run/checkpoint_5')
  chunk = path / 'target.encoder.layers_1.attention.query.kernel' / '0.1'
  chunk.unlink()
  said = refused(capsys, 'run')
  assert 'query.kernel lacks 1 of 6 chunks' in said


def test_a_damaged_chunk(capsys):
  path = directories.write_t5x('run/checkpoint_5')
  chunk = path / 'target.encoder.layers_1.attention.query.kernel' / '0.1'
  chunk.write_bytes(chunk.read_bytes()[:20])
  assert 'query.kernel is damaged' in refused(capsys, 'run')


def test_a_missing_array(capsys):
  path = directories.write_t5x('run/checkpoint_5')
  shutil.rmtree(path / 'target.encoder.layers_1.attention.query.kernel')
  assert '1 missing: encoder.layers_1.attention.query' in refused(capsys, 'run')


def test_a_shape_that_needs_more_chunks_than_there_are(capsys):
  path = directories.write_t5x('run/checkpoint_5')
  file = path / 'target.encoder.encoder_norm.scale/.zarray'
  values = json.loads(file.read_text())
  file.write_text(json.dumps({**values, 'shape': [10**15]}))
  assert 'scale lacks' in refused(capsys, 'run')
