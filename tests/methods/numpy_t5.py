"""T5 on one example, in float64 NumPy and from the papers, with adapters in it.

For tests of whole forward passes: token by token and head by head where that is
shorter to check than to vectorise. Nothing of the library is used but the names
of its parameters.
"""

import jax
import numpy as np

from hypergrid_jax.model import Model, t5
from hypergrid_jax.testing import batches
from tests import tolerances

SIZES = {
  'd_model': 12,
  'd_ff': 10,
  'num_heads': 2,
  'd_kv': 5,
  'num_layers': 3,
  'num_decoder_layers': 2,
  'vocab_size': 34,
  'dtype': 'float64',
  'relative_buckets': 6,
  'relative_max_distance': 7,
}
VERSIONS = {
  '1.0': {},
  '1.1': {
    'mlp_activations': ('gelu', 'linear'),
    'logits_via_embedding': False,
  },
}


def make(method, version, **overrides):
  """The small T5 of a version with a method in it."""
  return Model(
    t5.T5Config(**{**SIZES, **VERSIONS[version], **overrides}),
    method.extension_points(),
    num_tasks=batches.NUM_TASKS,
  )


def gelu(x):
  """The tanh form."""
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def relu(x):
  return np.where(x > 0, x, 0)


def layer_norm(x, gain, bias, epsilon):
  mean = x.mean(-1, keepdims=True)
  deviation = np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon)
  return gain * (x - mean) / deviation + bias


def adapter(y, weights):
  """A(y) = y + LN(U gelu(D y + b_D) + b_U)."""
  hidden = gelu(y @ weights['down'] + weights['down_bias'])
  z = hidden @ weights['up'] + weights['up_bias']
  gain, bias = weights['norm_scale'], weights['norm_bias']
  return y + layer_norm(z, gain, bias, 1e-5)


def rms_norm(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def bucket(offset, bidirectional, buckets, furthest):
  """The bucket of a key `offset` tokens after the query."""
  first = 0
  if bidirectional:
    buckets //= 2
    first = buckets if offset > 0 else 0
    distance = abs(offset)
  else:
    distance = max(-offset, 0)
  exact = buckets // 2
  if distance < exact:
    return first + distance
  share = np.log(distance / exact) / np.log(furthest / exact)
  return first + min(exact + int(share * (buckets - exact)), buckets - 1)


def attention(config, weights, x, source, bias, *, causal=False):
  heads, width = config.num_heads, config.d_kv
  queries, keys, values = (
    (of @ weights[name]).reshape(len(of), heads, width)
    for of, name in ((x, 'query'), (source, 'key'), (source, 'value'))
  )
  mixed = np.zeros((len(x), heads, width))
  for query, head in np.ndindex(len(x), heads):
    seen = query + 1 if causal else len(source)
    logits = keys[:seen, head] @ queries[query, head]
    if bias is not None:
      logits = logits + bias[head, query, :seen]
    shares = np.exp(logits - logits.max())
    mixed[query, head] = shares / shares.sum() @ values[:seen, head]
  return mixed.reshape(len(x), -1) @ weights['out']


def feed_forward(config, weights, x):
  if len(config.mlp_activations) == 1:
    return relu(x @ weights['wi']) @ weights['wo']
  return gelu(x @ weights['wi_0']) * (x @ weights['wi_1']) @ weights['wo']


def stack(config, name, params, x, encoded, after):
  """One stack; `after(stack, layer, 'attention' or 'feed_forward', y)`."""
  bidirectional = name == 'encoder'
  table = params['relative_bias']['embedding']
  bias = np.zeros((config.num_heads, len(x), len(x)))
  for query, key in np.ndindex(len(x), len(x)):
    bias[:, query, key] = table[
      bucket(
        key - query,
        bidirectional,
        config.relative_buckets,
        config.relative_max_distance,
      )
    ]
  for layer in range(len(params['layers']['attention']['query'])):

    def of(module, layer=layer):
      return {k: v[layer] for k, v in params['layers'][module].items()}

    y = rms_norm(x, of('attention_norm')['scale'])
    y = attention(config, of('attention'), y, y, bias, causal=not bidirectional)
    x = x + after(name, layer, 'attention', y)
    if encoded is not None:
      y = rms_norm(x, of('cross_attention_norm')['scale'])
      x = x + attention(config, of('cross_attention'), y, encoded, None)
    y = rms_norm(x, of('feed_forward_norm')['scale'])
    y = feed_forward(config, of('feed_forward'), y)
    x = x + after(name, layer, 'feed_forward', y)
  return rms_norm(x, params['final_norm']['scale'])


def forward(config, params, inputs, targets, after):
  """Logits [targets, V] of one example, teacher-forced."""
  table = params['token_embedder']['embedding']
  encoded = stack(
    config, 'encoder', params['encoder'], table[list(inputs)], None, after
  )
  shifted = [0, *targets[:-1]]
  x = stack(
    config, 'decoder', params['decoder'], table[shifted], encoded, after
  )
  if config.logits_via_embedding:
    return x / np.sqrt(config.d_model) @ table.T
  return x @ params['lm_head']


def assert_forward_equals(model, params, weights_of):
  """Compares a model's logits on packed rows of several tasks, at 1e-10.

  Args:
    model: has `bind(params)(batch)`.
    params: float64.
    weights_of: `(task, stack, layer, position) -> weights of the adapter`.
  """
  rows = batches.rows(vocab_size=model.config.vocab_size, seed=3)
  batch = batches.batch(rows)
  logits = jax.jit(lambda params, batch: model.bind(params)(batch))(
    params, batch
  )
  for b, row in enumerate(rows):
    for s, _, place in batches.spans(row):
      example = row[s]

      def after(stack, layer, position, y, task=example.task):
        return adapter(y, weights_of(task, stack, layer, position))

      np.testing.assert_allclose(
        logits[b, place],
        forward(model.config, params, example.inputs, example.targets, after),
        err_msg=f'row {b}, segment {s}',
        **tolerances.FLOAT64,
      )
