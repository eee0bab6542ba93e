"""Damaged, forged and foreign weights: one clear message, nothing written."""

import json
import pathlib
import pickle
import re
import shutil
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import refusals
from tests.interop import directories

Q = 'encoder.block.1.layer.0.SelfAttention.q.weight'
NORM = 'encoder.final_layer_norm.weight'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def refused(capsys, source='hf'):
  said = refusals.refusal(capsys, ['import', '--from', source, '--to', 'ck'])
  assert not pathlib.Path('ck').exists()
  return said


def weights():
  return pathlib.Path('hf', directories.WEIGHTS)


def split():
  """The header of the file as an object, and its data."""
  content = weights().read_bytes()
  (length,) = struct.unpack('<Q', content[:8])
  return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header, data, length=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  length = len(text) if length is None else length
  weights().write_bytes(struct.pack('<Q', length) + text + data)


def truncated_data():
  weights().write_bytes(weights().read_bytes()[:-1])


def truncated_header():
  weights().write_bytes(weights().read_bytes()[:100])


def empty_file():
  weights().write_bytes(b'')


def trailing_bytes():
  weights().write_bytes(weights().read_bytes() + b'more')


def huge_header():
  header, data = split()
  join(header, data, length=1 << 50)


def header_is_not_json():
  _, data = split()
  join(b'{"shared.weight": ', data)


def header_is_a_list():
  _, data = split()
  join([1, 2], data)


def key_twice():
  header, data = split()
  text = json.dumps(header)
  entry = f'{json.dumps(Q)}: {json.dumps(header[Q])}'
  assert entry in text
  join(text.replace(entry, f'{entry}, {entry}').encode(), data)


def offsets_beyond_the_file():
  header, data = split()
  begin, end = header[Q]['data_offsets']
  header[Q]['data_offsets'] = [begin + (1 << 40), end + (1 << 40)]
  join(header, data)


def offsets_overlap():
  header, data = split()
  begin, end = header[Q]['data_offsets']
  header[Q]['data_offsets'] = [begin - 4, end - 4]
  join(header, data)


def offsets_do_not_fit_the_shape():
  header, data = split()
  header[Q]['shape'] = [header[Q]['shape'][0] - 1, header[Q]['shape'][1]]
  join(header, data)


def negative_shape():
  header, data = split()
  header[Q]['shape'] = [-21, 24]
  join(header, data)


def swapped_offsets():
  header, data = split()
  header[Q]['data_offsets'].reverse()
  join(header, data)


def unknown_dtype():
  header, data = split()
  header[Q]['dtype'] = 'F33'
  join(header, data)


def with_tensors(**changed):
  def change():
    content = directories.tensors('1.0')
    for name, value in changed.items():
      name = {'q': Q, 'norm': NORM, 'head': 'lm_head.weight'}.get(name, name)
      if value is None:
        del content[name]
      else:
        content[name] = value(content.get(name))
    save_file(content, weights())

  return change


def a_bert():
  save_file(
    {'bert.embeddings.word_embeddings.weight': np.ones((9, 4), np.float32)},
    weights(),
  )


def a_t5_1_1_under_the_config_of_a_1_0():
  save_file(directories.tensors('1.1'), weights())


def an_untied_t5_without_its_output():
  content = directories.tensors('1.1')
  del content['lm_head.weight']
  save_file(content, weights())
  values = directories.config_json('1.1')
  pathlib.Path('hf/config.json').write_text(json.dumps(values))


def not_a_number(value):
  value = value.copy()
  value[3, 5] = np.nan
  return value


def infinite(value):
  return np.where(value == value.max(), np.inf, value).astype(np.float16)


def other_copy(value):
  value = directories.tensors('1.0')['shared.weight'].copy()
  value[7, 1] += 1e-3
  return value


def pickle_in_disguise():
  weights().write_bytes(pickle.dumps({'shared.weight': [1.0]}))


def zip_in_disguise():
  weights().write_bytes(b'PK\x03\x04' + bytes(60))


def only_a_pickle(name):
  def change():
    weights().unlink()
    pathlib.Path('hf', name).write_bytes(pickle.dumps({}))

  return change


def config(**changes):
  def change():
    path = pathlib.Path('hf/config.json')
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(
      json.dumps({k: v for k, v in values.items() if v is not ...})
    )

  return change


def config_text(text):
  return lambda: pathlib.Path('hf/config.json').write_bytes(text)


def no_config():
  pathlib.Path('hf/config.json').unlink()


def no_weights():
  weights().unlink()


CASES = {
  truncated_data: r'safetensors is not a whole safetensors file .*Fetch it',
  truncated_header: 'not a whole safetensors file',
  empty_file: 'not a whole safetensors file',
  trailing_bytes: 'not a whole safetensors file',
  huge_header: 'header too large',
  header_is_not_json: 'invalid JSON in header',
  header_is_a_list: 'not a whole safetensors file',
  key_twice: f"its header is not JSON .*'{Q}' is there twice",
  offsets_beyond_the_file: 'not a whole safetensors file',
  offsets_overlap: 'invalid offset',
  offsets_do_not_fit_the_shape: 'not a whole safetensors file',
  negative_shape: 'invalid JSON in header',
  swapped_offsets: 'not a whole safetensors file',
  unknown_dtype: 'unknown variant `F33`',
  with_tensors(q=None): f'1 missing: {Q}',
  with_tensors(extra=lambda _: np.ones(3, np.float32)): '1 unexpected: extra',
  with_tensors(q=lambda v: v.T.copy()): (
    rf'1 of another shape: {Q} \(\[24, 21\] instead of \[21, 24\]\)'
  ),
  with_tensors(q=lambda v: v.astype(np.int8)): (
    rf'1 of another dtype: {Q} \(I8 instead of one of float32'
  ),
  with_tensors(norm=lambda v: v.astype(np.float64)): 'F64 instead of',
  a_bert: r'missing: shared.weight.*unexpected: bert.*not those of any T5',
  a_t5_1_1_under_the_config_of_a_1_0: (
    r'wi.weight.*unexpected: .*wi_0.weight.*published model is t5_1_1_small'
  ),
  an_untied_t5_without_its_output: '1 missing: lm_head.weight',
  with_tensors(q=not_a_number): f'{Q} has 1 values that are infinite or not a',
  with_tensors(q=infinite): f'{Q} has 1 values that are infinite or not a',
  with_tensors(head=other_copy): 'lm_head.weight and shared.weight differ',
  pickle_in_disguise: 'a pickle or a zip of PyTorch under another name',
  zip_in_disguise: 'a pickle or a zip of PyTorch under another name',
  only_a_pickle('pytorch_model.bin'): (
    r'pytorch_model.bin is a pickle, which can run any program.*save_pretrained'
  ),
  only_a_pickle('t5.pt'): 't5.pt is a pickle',
  only_a_pickle('tf_model.h5'): "transformers' TensorFlow models",
  only_a_pickle('flax_model.msgpack'): "transformers' Flax models",
  config(model_type='umt5'): "'umt5'.*position bias in every layer",
  config(model_type='longt5'): 'attends locally',
  config(model_type='bert'): "model_type is 'bert', expected one of",
  config(model_type=...): 'model_type is None',
  config(model_type=['t5']): r"model_type is \['t5'\]",
  config(d_ff=...): "lacks the field 'd_ff'",
  config(d_ff='40'): "d_ff is '40', expected a positive integer",
  config(d_ff=True): 'd_ff is True',
  config(d_ff=41): r'40\] instead of \[24, 41\]',
  config(num_layers=10**8): 'more than 1000 layers',
  config(num_layers=4): 'missing: encoder.block.3.layer',
  config(
    num_heads=7
  ): r'another shape: encoder.block.0.layer.0.SelfAttention.q',
  config(layer_norm_epsilon='small'): 'layer_norm_epsilon',
  config(feed_forward_proj='gated-silu'): 'gated-silu.*Did you mean',
  config(feed_forward_proj=None): 'feed_forward_proj is None',
  config(pad_token_id=5): 'pad_token_id is 5',
  config_text(b''): 'config.json is not JSON',
  config_text(b'[1]'): 'expected an object',
  config_text(b'\xff\xfe'): 'config.json is not JSON',
  config_text(b'{"a": 1, "a": 2}'): "the key 'a' is there twice",
  config_text(b'[' * 100_000): 'config.json is not JSON',
  no_config: 'hf has no config.json',
  no_weights: 'hf has neither model.safetensors nor',
}


@pytest.mark.parametrize(
  ('damage', 'said'),
  [
    pytest.param(damage, said, id=f'{number}-{said[:30]}')
    for number, (damage, said) in enumerate(CASES.items())
  ],
)
def test_a_damaged_directory(damage, said, capsys):
  directories.write_hf('hf')
  damage()
  assert re.search(said, refused(capsys), re.DOTALL)


def no_shard(index, mapping):
  pathlib.Path('hf', sorted(set(mapping.values()))[1]).unlink()


def mapped_to(file):
  def change(index, mapping):
    mapping[Q] = file
    index.write_text(json.dumps({'weight_map': mapping}))

  return change


def swapped_shards(index, mapping):
  first, second = sorted(set(mapping.values()))[:2]
  swap = {first: second, second: first}
  mapping = {name: swap.get(file, file) for name, file in mapping.items()}
  index.write_text(json.dumps({'weight_map': mapping}))


def not_in_the_index(index, mapping):
  del mapping[Q]
  index.write_text(json.dumps({'weight_map': mapping}))


def no_map(index, mapping):
  index.write_text('{"metadata": {}}')


def map_of_numbers(index, mapping):
  index.write_text(json.dumps({'weight_map': dict.fromkeys(mapping, 1)}))


def twice_in_the_index(index, mapping):
  text = json.dumps({'weight_map': mapping})
  entry = f'{json.dumps(Q)}: {json.dumps(mapping[Q])}'
  index.write_text(text.replace(entry, f'{entry}, {entry}'))


def a_shard_is_a_directory(index, mapping):
  path = pathlib.Path('hf', mapping[Q])
  path.unlink()
  path.mkdir()


@pytest.mark.parametrize(
  ('damage', 'said'),
  [
    (no_shard, 'lacks 1 of the 3 files .*model-00002-of-00003.safetensors'),
    (a_shard_is_a_directory, 'lacks 1 of the 3 files'),
    (swapped_shards, 'is not the file that .*missing: .*unexpected: '),
    (not_in_the_index, f'1 unexpected: {Q}'),
    (no_map, 'lacks "weight_map"'),
    (map_of_numbers, 'is 1; expected the name of a safetensors file'),
    (twice_in_the_index, f"'{Q}' is there twice"),
    (mapped_to('../secret.safetensors'), 'index was tampered with'),
    (mapped_to('/etc/passwd'), 'index was tampered with'),
    (mapped_to('/tmp/x.safetensors'), 'index was tampered with'),
    (mapped_to('a/../../x.safetensors'), 'index was tampered with'),
    (mapped_to('..\\x.safetensors'), 'index was tampered with'),
    (mapped_to('x.safetensors\n'), 'index was tampered with'),
    (mapped_to('pytorch_model.bin'), 'index was tampered with'),
    (mapped_to(''), 'index was tampered with'),
  ],
)
def test_a_damaged_index(damage, said, capsys):
  directories.write_hf('hf', shards=3)
  # What a traversal would read is there.
  shutil.copy('hf/model-00001-of-00003.safetensors', 'secret.safetensors')
  index = pathlib.Path('hf', directories.INDEX)
  damage(index, json.loads(index.read_text())['weight_map'])
  assert re.search(said, refused(capsys), re.DOTALL)


def test_quantised_weights_are_no_floats(capsys):
  content = directories.tensors('1.0')
  content[Q] = content[Q].astype(jnp.float8_e4m3fn)
  directories.write_hf('hf', content=content)
  assert 'instead of one of float32, float16, bfloat16' in refused(capsys)


def test_no_weights_at_all(capsys):
  refusals.write('hf/readme.txt', 'nothing')
  assert 'holds no weights that are known here' in refused(capsys)
