"""The table of names, the sizes that it tells, and the published models."""

import dataclasses

import numpy as np
import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import architectures, hf_config, json_files, names
from tests.goldens import make_hf_golden as hf
from tests.interop import directories

FORMATS = ('hf', 'mesh_tf', 't5x')
NAMES = {
  'hf': lambda key: key,
  'mesh_tf': directories.mesh_tf_name,
  't5x': directories.t5x_name,
}


@pytest.mark.parametrize('name', hf.CASES)
@pytest.mark.parametrize('source', FORMATS)
def test_the_table_has_every_tensor(name, source):
  def usual(key):
    theirs = NAMES[source](key)
    norm = 'layer_norm' if '/block_' in theirs else 'final_layer_norm'
    return theirs.replace('/rms_norm/', f'/{norm}/')

  found = set(names.layout(hf.CASES[name], source))
  assert found == {usual(key) for key in directories.tensors(name)}


@pytest.mark.parametrize('name', hf.CASES)
def test_both_directions_are_the_same_table(name):
  ours, theirs = directories.ours(name), directories.tensors(name)
  for row in names.rows(hf.CASES[name]):
    for layer, key in enumerate(row.names['hf']):
      value = ours[row.path][layer] if row.is_stacked else ours[row.path]
      np.testing.assert_array_equal(row.to_theirs(value, 'hf'), theirs[key])
      np.testing.assert_array_equal(row.to_ours(theirs[key], 'hf'), value)


@pytest.mark.parametrize('source', FORMATS)
def test_the_published_models_are_recognised(source):
  published = architectures.published()
  assert len(published) == 10
  for name, config in published.items():
    found = architectures.infer(names.layout(config, source), source)
    assert architectures.nearest(found) == f'All sizes are those of {name}.'


@pytest.mark.parametrize('source', FORMATS)
def test_sizes_follow_from_shapes(source):
  for config in hf.CASES.values():
    found = architectures.infer(names.layout(config, source), source)
    fields = ('relative_max_distance', 'dtype')  # not told by shapes
    same = {field: getattr(config, field) for field in fields}
    assert dataclasses.replace(found, **same) == config


def test_the_nearest_is_named_with_what_differs():
  config = architectures.published()['t5_1_1_base']
  config = dataclasses.replace(config, d_ff=2000, num_layers=13)
  assert architectures.nearest(config) == (
    'The nearest published model is t5_1_1_base: d_ff 2000 instead of 2048,'
    ' num_layers 13 instead of 12.'
  )


def test_what_is_no_t5_has_no_sizes():
  assert architectures.infer({'bert.embeddings': (4, 5)}, 'hf') is None


class TestConfig:
  def write(self, tmp_path, **changes):
    path = tmp_path / 'config.json'
    values = directories.config_json('1.1', **changes)
    json_files.write(path, {k: v for k, v in values.items() if v is not None})
    return path

  def test_what_is_written_is_read(self, tmp_path):
    for config in hf.CASES.values():
      path = tmp_path / f'{config.num_heads}.json'
      json_files.write(path, hf_config.write(config, dtype='float32'))
      expected = dataclasses.replace(config, dtype='bfloat16')
      assert hf_config.read(path) == expected

  def test_old_files_leave_out_what_has_a_default(self, tmp_path):
    path = self.write(
      tmp_path,
      model_type='mt5',
      num_decoder_layers=None,
      relative_attention_max_distance=None,
      relative_attention_num_buckets=None,
      feed_forward_proj=None,
      tie_word_embeddings=None,
      decoder_start_token_id=None,
    )
    found = hf_config.read(path)
    assert found.num_decoder_layers == found.num_layers == 3
    assert found.relative_max_distance == 128
    assert found.relative_buckets == 32
    assert found.mlp_activations == ('relu',)
    assert found.logits_via_embedding

  @pytest.mark.parametrize(
    ('projection', 'activations'),
    [
      ('relu', ('relu',)),
      ('gated-gelu', ('gelu', 'linear')),
      ('gelu_new', ('gelu',)),
      ('gated-relu', ('relu', 'linear')),
    ],
  )
  def test_activations(self, tmp_path, projection, activations):
    path = self.write(tmp_path, feed_forward_proj=projection)
    assert hf_config.read(path).mlp_activations == activations

  def test_the_exact_gelu_is_not_t5_s(self, tmp_path):
    path = self.write(tmp_path, feed_forward_proj='gelu')
    with pytest.raises(UserError, match="is 'gelu', expected.*gelu_new"):
      hf_config.read(path)
