"""Small T5s on disk as other programs write them, from numbers of our own.

The weights are those whose logits transformers has computed, see
goldens/make_hf_golden.py. config.json is written here once more, by hand.
"""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

from tests.goldens import make_hf_golden as hf

WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'


def config_json(name, **changes):
  config = hf.CASES[name]
  gated = len(config.mlp_activations) == 2
  return {
    'model_type': 't5',
    'd_model': config.d_model,
    'd_ff': config.d_ff,
    'num_heads': config.num_heads,
    'd_kv': config.d_kv,
    'num_layers': config.num_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'vocab_size': config.vocab_size,
    'relative_attention_num_buckets': config.relative_buckets,
    'relative_attention_max_distance': config.relative_max_distance,
    'feed_forward_proj': 'gated-gelu' if gated else 'relu',
    'tie_word_embeddings': config.logits_via_embedding,
    'layer_norm_epsilon': 1e-6,
    'decoder_start_token_id': 0,
    **changes,
  }


def tensors(name):
  """The tensors of a case under transformers' names."""
  found = hf.state_dict(hf.CASES[name])
  return {key: np.ascontiguousarray(value) for key, value in found.items()}


def write_hf(directory, name='1.0', *, content=None, shards=1, **changes):
  """Writes a directory as transformers does; returns its path."""
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True)
  (directory / 'config.json').write_text(
    json.dumps(config_json(name, **changes))
  )
  content = tensors(name) if content is None else content
  if shards == 1:
    save_file(content, directory / WEIGHTS)
    return directory
  mapping = {}
  for number in range(shards):
    file = f'model-{number + 1:05}-of-{shards:05}.safetensors'
    part = dict(sorted(content.items())[number::shards])
    save_file(part, directory / file)
    mapping |= dict.fromkeys(part, file)
  (directory / INDEX).write_text(json.dumps({'weight_map': mapping}))
  return directory


def ours(name):
  """The same weights as our parameters, by path."""
  return hf.weights(hf.CASES[name])


def write_mesh_tf(prefix, name='1.0', *, leave_out=()):
  """Writes a checkpoint of T5's original program; returns its path."""
  import tensorflow as tf

  values = {}
  for key, value in tensors(name).items():
    values[mesh_tf_name(key)] = _original_orientation(key, value)
  slot = 'encoder/block_000/layer_000/SelfAttention/q_slot_vc'
  values |= {slot: np.ones(7, np.float32), 'global_step': np.int32(1)}
  for key in leave_out:
    del values[key]
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=list(values),
    shape_and_slices=[''] * len(values),
    tensors=list(values.values()),
  )
  return prefix


def mesh_tf_name(key):
  """'encoder.block.0.layer.1.DenseReluDense.wi.weight' in the original."""
  if key == 'lm_head.weight':
    return 'decoder/logits/kernel'
  if key == 'shared.weight':
    return 'shared/embedding'
  parts = key.removesuffix('.weight').split('.')
  if parts[1] == 'final_layer_norm':
    return f'{parts[0]}/rms_norm/scale'
  stack, _, block, _, layer, *rest = parts
  name = f'{stack}/block_{int(block):03}/layer_{int(layer):03}/{"/".join(rest)}'
  if rest == ['layer_norm']:  # under both of the names that there are
    norm = 'rms_norm' if stack == 'decoder' else 'layer_norm'
    return f'{name.removesuffix("layer_norm")}{norm}/scale'
  return f'{name}/kernel' if rest[0] == 'DenseReluDense' else name


def write_t5x(directory, name='1.0', *, dtype=np.float32):
  """Writes a checkpoint of T5X; returns its path."""
  import tensorstore

  directory = pathlib.Path(directory)
  for key, value in tensors(name).items():
    value = _original_orientation(key, value).astype(dtype)
    path = directory / f'target.{t5x_name(key)}'
    chunks = [max(size // 2, 1) for size in value.shape]
    store = tensorstore.open(
      {
        'driver': 'zarr',
        'kvstore': {'driver': 'file', 'path': str(path)},
        'metadata': {'chunks': chunks, 'compressor': {'id': 'gzip'}},
      },
      create=True,
      dtype=value.dtype,
      shape=value.shape,
    ).result()
    store.write(value).result()
  (directory / 'checkpoint').write_bytes(b'\x81')
  return directory


_T5X_KERNELS = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}


def t5x_name(key):
  """'encoder.block.0.layer.1.DenseReluDense.wi.weight' in T5X."""
  if key == 'lm_head.weight':
    return 'decoder.logits_dense.kernel'
  if key == 'shared.weight':
    return 'token_embedder.embedding'
  parts = key.removesuffix('.weight').split('.')
  stack = parts[0]
  if parts[1] == 'final_layer_norm':
    return f'{stack}.{stack}_norm.scale'
  if parts[-1] == 'relative_attention_bias':
    return f'{stack}.relpos_bias.rel_embedding'
  block, place, *rest = parts[2], int(parts[4]), *parts[5:]
  own = 'attention' if stack == 'encoder' else 'self_attention'
  middle = ['encoder_decoder_attention'] if stack == 'decoder' else []
  part = [own, *middle, 'mlp'][place]
  if rest == ['layer_norm']:
    short = {'encoder_decoder_attention': 'cross_attention'}.get(part, part)
    return f'{stack}.layers_{block}.pre_{short}_layer_norm.scale'
  name = _T5X_KERNELS.get(rest[1], rest[1])
  return f'{stack}.layers_{block}.{part}.{name}.kernel'


def _original_orientation(key, value):
  keep = 'shared' in key or value.ndim == 1
  return value if keep else value.T
