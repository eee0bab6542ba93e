"""The plain parts of T5 against tables by hand and NumPy loops."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.model import layers, t5
from tests import tolerances

CONFIG = t5.T5Config(
  d_model=6,
  d_ff=10,
  num_heads=2,
  d_kv=5,
  num_layers=1,
  num_decoder_layers=1,
  vocab_size=8,
  dtype='float64',
)
B, LQ, LK = 3, 4, 7


def bound(make, seed=0):
  """A module with random float64 parameters, and those by name."""
  module = nnx.eval_shape(lambda: make(nnx.Rngs(params=0)))
  rng = np.random.default_rng(seed)
  values = {}
  for path, variable in nnx.to_flat_state(nnx.state(module)):
    values[path[0]] = rng.standard_normal(variable.get_raw_value().shape)
    variable.set_raw_value(jnp.asarray(values[path[0]]))
  return module, values


# Distances of T5's 32 buckets and 128 tokens, worked out by hand: past the
# exact ones, bucket m of n begins at 8 * 16**(m/8) = 8 * 2**(m/2) tokens in
# the encoder and at 16 * 8**(m/16) in the decoder.
BIDIRECTIONAL = {
  **{d: d for d in range(8)},
  **dict.fromkeys((8, 11), 8),
  **dict.fromkeys((12, 15), 9),
  **dict.fromkeys((17, 22), 10),
  **dict.fromkeys((23, 31), 11),
  **dict.fromkeys((33, 45), 12),
  **dict.fromkeys((46, 63), 13),
  **dict.fromkeys((65, 90), 14),
  **dict.fromkeys((91, 127, 128, 500), 15),
}
CAUSAL = {
  **{d: d for d in range(16)},
  **dict.fromkeys((16, 18), 16),
  **dict.fromkeys((19, 20), 17),
  **dict.fromkeys((21, 23), 18),
  **dict.fromkeys((24, 26), 19),
  **dict.fromkeys((27, 30), 20),
  **dict.fromkeys((46, 51), 24),
  **dict.fromkeys((52, 58), 25),
  **dict.fromkeys((113, 127, 128, 1000), 31),
}


def buckets(positions, **settings):
  kwargs = {'num_buckets': 32, 'max_distance': 128, **settings}
  positions = np.array(positions, np.int32)
  return layers.relative_position_bucket(positions, **kwargs).tolist()


def test_bidirectional_buckets_equal_the_table():
  distances = list(BIDIRECTIONAL)
  behind = buckets([-d for d in distances], bidirectional=True)
  ahead = buckets(distances, bidirectional=True)
  assert dict(zip(distances, behind, strict=True)) == BIDIRECTIONAL
  assert dict(zip(distances, ahead, strict=True)) == {
    d: bucket + 16 * (d > 0) for d, bucket in BIDIRECTIONAL.items()
  }


def test_causal_buckets_equal_the_table_and_fold_the_future():
  distances = list(CAUSAL)
  behind = buckets([-d for d in distances], bidirectional=False)
  assert dict(zip(distances, behind, strict=True)) == CAUSAL
  assert buckets(distances, bidirectional=False) == [0] * len(distances)


def test_small_bucket_table():
  """Six causal buckets up to 12 tokens: 0 1 2, then from 3, 4.8 and 7.6."""
  positions = [0, -1, -2, -3, -4, -5, -7, -8, -11, -12, -90, 3]
  expected = [0, 1, 2, 3, 3, 4, 4, 5, 5, 5, 5, 0]
  actual = buckets(
    positions, bidirectional=False, num_buckets=6, max_distance=12
  )
  assert actual == expected


def test_relative_bias_looks_up_key_minus_query(x64):
  config = dataclasses.replace(
    CONFIG, relative_buckets=4, relative_max_distance=6
  )
  module, values = bound(
    lambda rngs: layers.RelativePositionBias(
      config, bidirectional=True, rngs=rngs
    )
  )
  table = values['embedding']
  bias = module(jnp.array([5, 2]), jnp.array([2, 5, 4]))
  # Of each direction's two buckets the first is distance 0, the second more.
  expected = np.array([[1, 0, 1], [0, 3, 3]])
  np.testing.assert_array_equal(bias[0], table[expected].transpose(2, 0, 1))


def test_rms_norm_equals_numpy(x64):
  module, values = bound(lambda rngs: layers.RMSNorm(CONFIG, rngs=rngs))
  x = 3 + np.random.default_rng(1).standard_normal((2, 3, CONFIG.d_model))
  x[0, 0] = 0
  x[0, 1] *= 1e-3  # where epsilon matters
  expected = np.empty_like(x)
  for at in np.ndindex(2, 3):
    mean_square = sum(x[at] ** 2) / CONFIG.d_model
    expected[at] = x[at] / np.sqrt(mean_square + 1e-6) * values['scale']
  np.testing.assert_allclose(
    module(jnp.asarray(x)), expected, **tolerances.FLOAT64
  )


def test_rms_norm_of_bfloat16_is_computed_in_float32():
  x = np.random.default_rng(4).standard_normal((3, 5))
  x = jnp.asarray(x, jnp.bfloat16)
  exact = np.float64(x)
  expected = exact / np.sqrt(np.mean(exact**2, axis=-1, keepdims=True))
  y = layers.rms_normalize(x, jnp.ones(5), 1e-12)
  np.testing.assert_allclose(y, expected, rtol=1e-6)


def attention_loops(values, x, source, mask, bias):
  """Attention of one query, head and key at a time."""
  heads, width = CONFIG.num_heads, CONFIG.d_kv
  y = np.zeros((B, LQ, CONFIG.d_model))
  for b, q in np.ndindex(B, LQ):
    mixed = np.zeros((heads, width))
    for h in range(heads):
      part = slice(h * width, (h + 1) * width)
      query = x[b, q] @ values['query'][:, part]
      keys = [k for k in range(LK) if mask[b, 0, q, k]]
      scores = [
        query @ (source[b, k] @ values['key'][:, part]) + bias[0, h, q, k]
        for k in keys
      ]
      weights = np.exp(np.array(scores) - max(scores))
      weights /= weights.sum()
      for weight, k in zip(weights, keys, strict=True):
        mixed[h] += weight * (source[b, k] @ values['value'][:, part])
    y[b, q] = mixed.reshape(-1) @ values['out']
  return y


def test_attention_equals_loops(x64):
  module, values = bound(lambda rngs: layers.Attention(CONFIG, rngs=rngs))
  rng = np.random.default_rng(2)
  x = rng.standard_normal((B, LQ, CONFIG.d_model))
  source = rng.standard_normal((B, LK, CONFIG.d_model))
  bias = rng.standard_normal((1, CONFIG.num_heads, LQ, LK))
  extra = rng.standard_normal((B, 1, LQ, LK))
  mask = rng.random((B, 1, LQ, LK)) < 0.6
  mask[:, :, :, 3] = True

  @jax.jit
  def run(x, source, mask, biases):
    keys, values = module.keys_and_values(source)
    return module(x, keys, values, mask, biases)

  expected = np.stack(
    [
      attention_loops(values, x, source, mask, bias + extra[b : b + 1])[b]
      for b in range(B)
    ]
  )
  np.testing.assert_allclose(
    run(x, source, mask, (bias, None, extra)), expected, **tolerances.FLOAT64
  )


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize('activations', [('relu',), ('gelu', 'linear')])
def test_feed_forward_equals_numpy(x64, activations):
  config = dataclasses.replace(CONFIG, mlp_activations=activations)
  module, values = bound(lambda rngs: layers.MlpBlock(config, rngs=rngs))
  x = np.random.default_rng(3).standard_normal((2, 3, config.d_model))
  if activations == ('relu',):
    hidden = np.maximum(x @ values['wi'], 0)
  else:
    hidden = gelu(x @ values['wi_0']) * (x @ values['wi_1'])
  np.testing.assert_allclose(
    module(jnp.asarray(x)), hidden @ values['wo'], **tolerances.FLOAT64
  )


def test_dropout_keeps_the_mean_and_drops_features_of_all_tokens():
  x = jnp.full((4, 5, 3000), 2.0)
  y = np.asarray(layers.dropout(x, 0.25, jax.random.key(0), broadcast_axis=1))
  np.testing.assert_allclose(np.unique(y), [0.0, 2.0 / 0.75], rtol=1e-6)
  np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
  dropped = np.mean(y[:, 0] == 0, axis=1)
  np.testing.assert_allclose(dropped, 0.25, atol=0.04)  # 5 standard errors
  assert np.any(y[0] != y[1])


def test_dropout_without_a_key_or_a_rate_is_the_identity():
  x = jnp.arange(6.0).reshape(2, 3)
  assert layers.dropout(x, 0.5, None) is x
  assert layers.dropout(x, 0.0, jax.random.key(0)) is x


def test_initial_values_have_t5s_deviations():
  """Mesh TensorFlow's: the query kernel holds the missing 1/sqrt(d_kv)."""
  config = dataclasses.replace(
    CONFIG, d_model=64, d_ff=96, num_heads=4, d_kv=25, vocab_size=50
  )

  @jax.jit
  def draw():
    rngs = nnx.Rngs(params=0)
    modules = {
      'attention': layers.Attention(config, rngs=rngs),
      'mlp': layers.MlpBlock(config, rngs=rngs),
      'embed': layers.Embed(config, rngs=rngs),
    }
    return {
      f'{name}/{path[0]}': jnp.std(variable[...])
      for name, module in modules.items()
      for path, variable in nnx.to_flat_state(nnx.state(module))
    }

  expected = {
    'attention/query': (64 * 25) ** -0.5,
    'attention/key': 64**-0.5,
    'attention/value': 64**-0.5,
    'attention/out': 100**-0.5,
    'mlp/wi': 64**-0.5,
    'mlp/wo': 96**-0.5,
    'embed/embedding': 1.0,
  }
  actual = draw()
  assert actual.keys() == expected.keys()
  for name, stddev in expected.items():
    np.testing.assert_allclose(actual[name], stddev, rtol=0.06, err_msg=name)
