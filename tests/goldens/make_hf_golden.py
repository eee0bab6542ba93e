"""Records what Hugging Face transformers' T5 computes on fixed weights.

  python -m tests.goldens.make_hf_golden

writes hf_t5.npz beside this file and needs the extra `torch`. The weights are
not stored: they are functions of their names. NumPy promises that the raw bits
of PCG64 never change.
"""

import pathlib
import zlib

import numpy as np

from hypergrid_jax import trees
from hypergrid_jax.model import architecture, t5

GOLDEN = pathlib.Path(__file__).with_name('hf_t5.npz')

ODD_SIZES = {
  'd_model': 24,
  'd_ff': 40,
  'num_heads': 3,
  'd_kv': 7,
  'num_layers': 3,
  'num_decoder_layers': 2,
  'vocab_size': 83,
  'dtype': 'float32',
}
CASES = {
  '1.0': t5.T5Config(**ODD_SIZES),
  '1.1': t5.T5Config(
    **ODD_SIZES,
    mlp_activations=('gelu', 'linear'),
    logits_via_embedding=False,
    relative_buckets=12,
    relative_max_distance=20,
  ),
}
# Rows of 37, 21 and 5 input and 19, 7 and 13 target tokens: long enough for
# the logarithmic buckets, and padded on both sides.
INPUT_LENGTHS, TARGET_LENGTHS = (37, 21, 5), (19, 7, 13)


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Numbers in [-1, 1) that depend on nothing but the name."""
  bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(np.prod(shape))
  return ((bits >> np.uint64(11)) * 2.0**-52 - 1).reshape(shape)


def weights(config: t5.T5Config) -> dict[str, np.ndarray]:
  """Float32 parameters by path, of the size of T5's initial values."""
  abstract = trees.flatten(architecture.Model(config).abstract_params)
  values = {}
  for path, leaf in abstract.items():
    value = uniform(path, leaf.shape)
    if path.endswith('scale'):
      value = 1 + 0.3 * value
    elif not path.endswith('embedding'):
      value = value * (3 / leaf.shape[-2]) ** 0.5
      if path.endswith('query'):
        value = value * config.d_kv**-0.5
    values[path] = value.astype(np.float32)
  return values


def tokens(config: t5.T5Config) -> tuple[np.ndarray, np.ndarray]:
  """Encoder and decoder input ids, padded with 0; decoders start with 0."""

  def rows(name, lengths):
    draws = uniform(name, (len(lengths), max(lengths)))
    ids = 2 + ((draws + 1) / 2 * (config.vocab_size - 2)).astype(np.int32)
    return np.where(_mask(lengths), ids, 0)

  targets = rows('targets', TARGET_LENGTHS)
  targets[:, 0] = 0
  return rows('inputs', INPUT_LENGTHS), targets


def masks() -> tuple[np.ndarray, np.ndarray]:
  """True at the tokens of each row, encoder and decoder."""
  return _mask(INPUT_LENGTHS), _mask(TARGET_LENGTHS)


def _mask(lengths):
  return np.arange(max(lengths)) < np.array(lengths)[:, None]


def state_dict(config: t5.T5Config) -> dict[str, np.ndarray]:
  """The weights under transformers' names and orientations."""
  ours = weights(config)
  theirs = {'shared.weight': ours['token_embedder/embedding']}
  if 'lm_head' in ours:
    theirs['lm_head.weight'] = ours['lm_head'].T
  for stack, count, sublayers in (
    ('encoder', config.num_layers, ('attention', 'feed_forward')),
    (
      'decoder',
      config.num_decoder_layers,
      ('attention', 'cross_attention', 'feed_forward'),
    ),
  ):
    theirs[f'{stack}.final_layer_norm.weight'] = ours[
      f'{stack}/final_norm/scale'
    ]
    bias = 'block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    theirs[f'{stack}.{bias}'] = ours[f'{stack}/relative_bias/embedding']
    for place, sublayer in enumerate(sublayers):
      norm = ours[f'{stack}/layers/{sublayer}_norm/scale']
      stacked = {'layer_norm': norm}
      for name, their_name in _KERNELS.items():
        path = f'{stack}/layers/{sublayer}/{name}'
        if path in ours:
          kernel = ours[path].swapaxes(1, 2)
          stacked[f'{_MODULES[sublayer]}.{their_name}'] = kernel
      for name, value in stacked.items():
        for n in range(count):
          layer = f'{stack}.block.{n}.layer.{place}'
          theirs[f'{layer}.{name}.weight'] = value[n]
  return theirs


_MODULES = {
  'attention': 'SelfAttention',
  'cross_attention': 'EncDecAttention',
  'feed_forward': 'DenseReluDense',
}
_KERNELS = {
  'query': 'q',
  'key': 'k',
  'value': 'v',
  'out': 'o',
  'wi': 'wi',
  'wi_0': 'wi_0',
  'wi_1': 'wi_1',
  'wo': 'wo',
}


def hf_outputs(config: t5.T5Config) -> tuple[np.ndarray, np.ndarray]:
  """Encoder output and logits of transformers' T5, float32."""
  import torch
  import transformers

  gated = len(config.mlp_activations) == 2
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      d_model=config.d_model,
      d_ff=config.d_ff,
      num_heads=config.num_heads,
      d_kv=config.d_kv,
      num_layers=config.num_layers,
      num_decoder_layers=config.num_decoder_layers,
      vocab_size=config.vocab_size,
      relative_attention_num_buckets=config.relative_buckets,
      relative_attention_max_distance=config.relative_max_distance,
      feed_forward_proj='gated-gelu' if gated else 'relu',
      tie_word_embeddings=config.logits_via_embedding,
    )
  ).eval()
  if not config.logits_via_embedding:
    # Version 5 ties the two whatever the configuration says.
    model.lm_head.weight = torch.nn.Parameter(
      torch.empty(config.vocab_size, config.d_model)
    )
  state = {
    name: torch.from_numpy(np.array(value))
    for name, value in state_dict(config).items()
  }
  missing, unexpected = model.load_state_dict(state, strict=False)
  copies = {'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'}
  if config.logits_via_embedding:
    copies.add('lm_head.weight')
  if unexpected or set(missing) != copies:
    raise ValueError(f'missing {missing}, unexpected {unexpected}')
  inputs, targets = map(torch.from_numpy, tokens(config))
  mask, target_mask = (torch.from_numpy(m.astype(np.int64)) for m in masks())
  with torch.no_grad():
    output = model(
      input_ids=inputs.long(),
      attention_mask=mask,
      decoder_input_ids=targets.long(),
      decoder_attention_mask=target_mask,
      use_cache=False,
    )
  return output.encoder_last_hidden_state.numpy(), output.logits.numpy()


def main() -> None:
  """Writes the golden file."""
  arrays = {}
  for name, config in CASES.items():
    encoded, logits = hf_outputs(config)
    arrays[f'{name}/encoded'] = encoded
    arrays[f'{name}/logits'] = logits
  np.savez_compressed(GOLDEN, **arrays)


if __name__ == '__main__':
  main()
