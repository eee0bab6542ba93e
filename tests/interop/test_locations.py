"""Paths, buckets and the hub; without a network, what to fetch by hand."""

import os
import pathlib
import sys

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import locations


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def test_what_is_here_is_taken_first():
  os.makedirs('google-t5/t5-small')
  path = pathlib.Path('google-t5/t5-small')
  assert locations.resolve('google-t5/t5-small') == path
  pathlib.Path('model.ckpt-5.index').touch()
  assert locations.resolve('model.ckpt-5') == pathlib.Path('model.ckpt-5')


def test_a_path_that_is_not_here():
  with pytest.raises(UserError, match='There is no runs/a/b'):
    locations.resolve('runs/a/b')


class TestHub:
  def hub(self, monkeypatch, download):
    module = type(sys)('huggingface_hub')
    module.snapshot_download = download
    monkeypatch.setitem(sys.modules, 'huggingface_hub', module)

  def test_only_what_cannot_run_is_fetched(self, monkeypatch):
    asked = {}

    def download(name, *, allow_patterns):
      asked[name] = allow_patterns
      return '/cache/there'

    self.hub(monkeypatch, download)
    path = locations.resolve('google-t5/t5-small')
    assert path == pathlib.Path('/cache/there')
    assert asked == {
      'google-t5/t5-small': [
        'config.json',
        'model.safetensors',
        'model.safetensors.index.json',
        'model-*-of-*.safetensors',
      ]
    }

  def test_without_a_network_it_says_what_to_fetch(self, monkeypatch):
    def download(name, **_):
      raise ConnectionError('no route to host')

    self.hub(monkeypatch, download)
    with pytest.raises(UserError) as refusal:
      locations.resolve('t5-smal')
    said = str(refusal.value)
    assert 'There is no t5-smal in this directory' in said
    assert 'no route to host' in said
    assert 'https://huggingface.co/t5-smal/tree/main' in said
    assert 'config.json and model.safetensors' in said

  def test_without_the_library_too(self, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(UserError, match='pip install huggingface_hub'):
      locations.resolve('google-t5/t5-small')


class TestBuckets:
  @pytest.fixture(scope='class')
  def bucket(self):
    """TensorFlow's file system in memory, in the place of a bucket."""
    tf = pytest.importorskip('tensorflow')
    files = {
      'run/checkpoint_5/checkpoint': 'x',
      'run/checkpoint_5/target.a/.zarray': '{}',
      'run/checkpoint_5/state.b/.zarray': 'not copied',
      'old/model.ckpt-5.index': 'i',
      'old/model.ckpt-5.data-0-of-1': 'd',
      'old/model.ckpt-55.index': 'another',
    }
    for name, text in files.items():
      tf.io.gfile.makedirs(f'ram://bucket/{os.path.dirname(name)}')
      with tf.io.gfile.GFile(f'ram://bucket/{name}', 'w') as file:
        file.write(text)
    return 'ram://bucket'

  def copied(self, path):
    return {
      str(file.relative_to(path)): file.read_text()
      for file in path.rglob('*')
      if file.is_file()
    }

  def test_a_directory_is_copied_once_without_the_optimiser(
    self, bucket, tmp_path
  ):
    path = locations.resolve(f'{bucket}/run/checkpoint_5', cache=tmp_path)
    assert self.copied(path) == {'checkpoint': 'x', 'target.a/.zarray': '{}'}
    (path / 'checkpoint').write_text('kept')
    again = locations.resolve(f'{bucket}/run/checkpoint_5', cache=tmp_path)
    assert again == path
    assert (path / 'checkpoint').read_text() == 'kept'

  def test_of_several_checkpoints_one_is_copied(self, bucket, tmp_path):
    path = locations.resolve(f'{bucket}/old/model.ckpt-5', cache=tmp_path)
    assert path.name == 'model.ckpt-5'
    assert self.copied(path.parent) == {
      'model.ckpt-5.index': 'i',
      'model.ckpt-5.data-0-of-1': 'd',
    }

  def test_nothing_there(self, bucket, tmp_path):
    with pytest.raises(UserError, match='(?s)nothing at ram.*gcloud'):
      locations.resolve(f'{bucket}/none', cache=tmp_path / 'c')
    assert not (tmp_path / 'c').exists() or not any((tmp_path / 'c').iterdir())

  def test_a_file_system_that_fails(self, tmp_path):
    pytest.importorskip('tensorflow')
    with pytest.raises(UserError, match='(?s)cannot be fetched.*gcloud'):
      locations.resolve('nosuch://bucket/x', cache=tmp_path / 'c')
