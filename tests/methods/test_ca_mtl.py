"""CA-MTL in T5 against a forward pass in NumPy, one example at a time."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

from hypergrid_jax import errors, trees
from hypergrid_jax.methods.ca_mtl import CAMTL
from hypergrid_jax.model import architecture, extension, t5
from hypergrid_jax.testing import batches
from tests import tolerances
from tests.ops.test_block_diagonal import pieces_on_a_diagonal

pytestmark = pytest.mark.usefixtures('compile_quickly')

D, F, H, K = 12, 14, 3, 4
VOCAB, BUCKETS, DISTANCE = 34, 6, 7
CONFIG = t5.T5Config(
  d_model=D,
  d_ff=F,
  num_heads=H,
  d_kv=K,
  num_layers=4,
  num_decoder_layers=3,
  vocab_size=VOCAB,
  relative_buckets=BUCKETS,
  relative_max_distance=DISTANCE,
  dtype='float64',
)
OFF = {'alignment': False, 'attention': None, 'norm': False, 'bottleneck': None}
# Examples have up to 6 tokens, so three windows of 2 or one and a half of 4.
CASES = {
  'alignment': {**OFF, 'alignment': True},
  'alignment of both': {**OFF, 'alignment': True, 'decoder_alignment': True},
  'window': {**OFF, 'attention': 'window', 'window': 4, 'max_length': 6},
  'window per head': {
    **OFF,
    'attention': 'window',
    'window': 2,
    'max_length': 9,
    'attention_per_head': True,
  },
  'shared block': {**OFF, 'attention': 'shared_block', 'window': 4},
  'norm': {**OFF, 'norm': True},
  'all norms': {
    **OFF,
    'norm': True,
    'norm_layers': (2, 0),
    'final_norm': True,
    'decoder_norm': True,
  },
  'top': {**OFF, 'bottleneck': 'top', 'bottleneck_width': 5},
  'ladder': {
    **OFF,
    'bottleneck': 'ladder',
    'bottleneck_activation': 'gelu',
  },
  'base': {'window': 4, 'max_length': 6},
  'everything': {
    'attention': 'shared_block',
    'window': 2,
    'attention_per_head': True,
    'norm_layers': 'all',
    'final_norm': True,
    'bottleneck': 'ladder',
    'decoder_alignment': True,
    'decoder_norm': True,
  },
}


def dense(p, x):
  return x @ p['kernel'] + p['bias']


def film(p, vector, x):
  return (1 + dense(p['gamma'], vector)) * x + dense(p['beta'], vector)


def rms(x):
  return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def gelu(x):
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def bucket(offset, bidirectional):
  """T5's bucket of a key `offset` tokens behind the query."""
  count, first = BUCKETS, 0
  if bidirectional:
    count //= 2
    first = count if offset > 0 else 0
  distance = abs(offset) if bidirectional else max(-offset, 0)
  exact = count // 2
  if distance < exact:
    return first + distance
  share = math.log(distance / exact) / math.log(DISTANCE / exact)
  return first + min(exact + int(share * (count - exact)), count - 1)


def layer_of(p, n):
  return jax.tree.map(lambda leaf: leaf[n], p)


class Reference:
  """One stack, for one example of one task."""

  def __init__(self, params, stack, method, task):
    self.p, self.method, self.task = params[stack], method, task
    self.is_encoder = stack == 'encoder'
    self.num_layers = 4 if self.is_encoder else 3
    own = self.p.get('condition')
    self.conditioned = own is not None
    if self.conditioned:
      self.z = own['task_vectors']['embedding'][task]
    if self.conditioned and 'task_projection' in own:
      self.z1 = dense(own['task_projection'], self.z)
    on = method.norm and (self.is_encoder or method.decoder_norm)
    self.norm_layers = []
    if on:
      chosen = method.norm_layers
      self.norm_layers = {
        'all': list(range(self.num_layers)),
        'upper_half': list(range(self.num_layers // 2, self.num_layers)),
      }.get(chosen, sorted(chosen))
    self.final = on and method.final_norm

  def norm(self, n, position, x):
    scale = self.p['layers'][f'{position}_norm']['scale'][n]
    if n in self.norm_layers:
      own = self.p['condition'][f'{position}_norm']
      own = layer_of(own, self.norm_layers.index(n))
      scale = film(own, self.z1, scale)
    return rms(x) * scale

  def final_norm(self, x):
    scale = self.p['final_norm']['scale']
    if self.final:
      scale = film(self.p['condition']['final_norm'], self.z1, scale)
    return rms(x) * scale

  def task_bias(self, n, length):
    """[H or 1, L, L] of conditional attention."""
    if not (self.is_encoder and self.method.attention):
      return np.zeros((1, length, length))
    own = layer_of(self.p['layers']['attention_bias'], n)
    blocks = own['blocks'].reshape(-1, *own['blocks'].shape[-2:])
    blocks = [film(own['film'], self.z1, a) for a in blocks]
    if self.method.attention == 'shared_block':
      blocks = [np.tile(a, (9, 1)) for a in blocks]
    return np.stack([pieces_on_a_diagonal(a) for a in blocks])[
      :, :length, :length
    ]

  def attend(self, p, x, others, bias):
    q, k, v = (
      (y @ p[name]).reshape(len(y), H, K).transpose(1, 0, 2)
      for y, name in ((x, 'query'), (others, 'key'), (others, 'value'))
    )
    weights = softmax(q @ k.transpose(0, 2, 1) + bias)
    return (weights @ v).transpose(1, 0, 2).reshape(len(x), H * K) @ p['out']

  def bottleneck(self, p, x):
    y = film(p['film'], dense(p['task_projection'], self.z1), rms(x))
    y = dense(p['down'], y)
    if self.method.bottleneck_activation == 'gelu':
      y = gelu(y)
    return dense(p['up'], y)

  def __call__(self, x, encoded=None):
    if 'after_embed' in self.p:
      x = film(self.p['after_embed']['film'], self.z, x)
    length, side = len(x), np.zeros_like(x)
    table = self.p['relative_bias']['embedding']
    position_bias = np.empty((H, length, length))
    for i, j in np.ndindex(length, length):
      position_bias[:, i, j] = table[bucket(j - i, self.is_encoder)]
      if not self.is_encoder and j > i:
        position_bias[:, i, j] = -np.inf
    for n in range(self.num_layers):
      p = layer_of(self.p['layers'], n)
      y = self.norm(n, 'attention', x)
      bias = position_bias + self.task_bias(n, length)
      x = x + self.attend(p['attention'], y, y, bias)
      if not self.is_encoder:
        y = self.norm(n, 'cross_attention', x)
        x = x + self.attend(p['cross_attention'], y, encoded, 0.0)
      y = self.norm(n, 'feed_forward', x)
      p_ff = p['feed_forward']
      x = x + np.maximum(y @ p_ff['wi'], 0) @ p_ff['wo']
      if self.is_encoder and self.method.bottleneck == 'ladder':
        side = self.bottleneck(p['after_layer'], x + side)
    if self.is_encoder and self.method.bottleneck == 'top':
      side = self.bottleneck(self.p['after_layers'], x)
    return self.final_norm(x + side)


def reference(params, method, example):
  """Logits of one example."""
  table = params['token_embedder']['embedding']
  inputs = (0, *example.targets[:-1])
  encoder, decoder = (
    Reference(params, stack, method, example.task)
    for stack in ('encoder', 'decoder')
  )
  encoded = encoder(table[list(example.inputs)])
  return decoder(table[list(inputs)], encoded) * D**-0.5 @ table.T


@pytest.mark.parametrize('name', CASES)
def test_packed_mixed_task_forward_equals_numpy(x64, name):
  method = CAMTL(**CASES[name])
  model = architecture.Model(
    CONFIG, method.extension_points(), num_tasks=batches.NUM_TASKS
  )
  params = batches.random_params(model.abstract_params, seed=len(name))
  packed = batches.rows(vocab_size=VOCAB, seed=3)
  logits = jax.jit(lambda p, b: model.bind(p)(b))(params, batches.batch(packed))
  for b, row in enumerate(packed):
    for s, _, place in batches.spans(row):
      np.testing.assert_allclose(
        logits[b, place],
        reference(params, method, row[s]),
        err_msg=f'row {b}, example {s}',
        **tolerances.FLOAT64,
      )


def test_where_it_starts_from_zero_it_is_plain_to_the_last_bit_in_bfloat16():
  config = dataclasses.replace(CONFIG, dtype='bfloat16')
  batch = batches.batch(batches.rows(vocab_size=VOCAB))
  method = CAMTL(**CASES['everything'])

  def forward(points):
    model = architecture.Model(config, points, num_tasks=batches.NUM_TASKS)
    return model, jax.jit(lambda p, b: model.bind(p)(b))

  (model, conditioned), (_, plain) = map(
    forward, (method.extension_points(), extension.ExtensionPoints())
  )
  params = trees.flatten(
    batches.random_params(model.abstract_params, dtype=np.float32)
  )
  for path, leaf in params.items():
    if re.search('/(gamma|beta|up|blocks)(/|$)', path):
      leaf[...] = 0.0
  np.testing.assert_array_equal(
    conditioned(trees.unflatten(params), batch),
    plain(
      trees.unflatten(
        {path: params[path] for path in params.keys() - model.added}
      ),
      batch,
    ),
  )


def film_size(inputs, outputs):
  """Kernels and biases of gamma and beta."""
  return 2 * (inputs * outputs + outputs)


def added(size, method, num_tasks):
  model = architecture.Model(
    size, CAMTL(**method).extension_points(), num_tasks=num_tasks
  )
  leaves = trees.flatten(model.abstract_params)
  return sum(leaves[path].size for path in model.added)


def t5_1_0(d, f, heads, num_layers):
  return t5.T5Config(
    d_model=d,
    d_ff=f,
    num_heads=heads,
    d_kv=64,
    num_layers=num_layers,
    num_decoder_layers=num_layers,
    vocab_size=32128,
  )


def by_hand(d, num_layers, num_tasks, *, rows, w, width, bottlenecks):
  """What the paper's parts add up to; the upper half has two norms a layer."""
  square = d * d + d
  vectors = num_tasks * d + square
  alignment = film_size(d, d)
  attention = num_layers * (rows * w + film_size(d, w))
  norms = num_layers // 2 * 2 * film_size(d, d)
  narrow = d * width + width + width * d + d
  bottleneck = bottlenecks * (square + film_size(d, d) + narrow)
  return vectors + alignment + attention + norms + bottleneck


@pytest.mark.parametrize(
  ('size', 'method', 'num_tasks', 'numbers', 'total'),
  [
    (
      (512, 2048, 8, 6),
      {},
      9,
      {'rows': 512, 'w': 22, 'width': 170, 'bottlenecks': 1},
      5_110_194,
    ),
    (
      (768, 3072, 12, 12),
      {},
      16,
      {'rows': 512, 'w': 22, 'width': 256, 'bottlenecks': 1},
      18_665_488,
    ),
    # The authors' code at 8 tasks has 19,739,152: the norm behind the top
    # layer's bottleneck, which T5 has not, is conditioned there too.
    (
      (768, 3072, 12, 12),
      {'max_length': 128},
      8,
      {'rows': 128, 'w': 22, 'width': 256, 'bottlenecks': 1},
      19_739_152 - film_size(768, 768),
    ),
    # And these are the large model's there.
    (
      (1024, 4096, 16, 24),
      {'max_length': 128, 'window': 16, 'bottleneck': 'ladder'},
      8,
      {'rows': 128, 'w': 16, 'width': 341, 'bottlenecks': 24},
      146_738_936,
    ),
    (
      (768, 3072, 12, 12),
      {'attention': 'shared_block'},
      8,
      {'rows': 22, 'w': 22, 'width': 256, 'bottlenecks': 1},
      18_557_968 - 12 * (128 - 22) * 22,
    ),
  ],
)
def test_added_parameters(size, method, num_tasks, numbers, total):
  d, _, _, num_layers = size
  assert by_hand(d, num_layers, num_tasks, **numbers) == total
  assert added(t5_1_0(*size), method, num_tasks) == total


def test_only_parts_in_use_have_parameters():
  base = t5_1_0(768, 3072, 12, 12)
  vectors, square = 8 * 768, 768 * 769
  assert added(base, CASES['alignment'], 8) == vectors + film_size(768, 768)
  assert added(base, {**OFF, 'norm': True}, 8) == (
    vectors + square + 12 * film_size(768, 768)
  )
  heads = {'attention_per_head': True, 'window': 16, 'max_length': 64}
  assert added(base, {**OFF, 'attention': 'window', **heads}, 8) == (
    vectors + square + 12 * (12 * 64 * 16 + film_size(768, 16))
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'attention': 'windows'}, "attention: got 'windows'.*mean 'window'"),
    ({'bottleneck': 'laddr'}, "bottleneck: got 'laddr'.*mean 'ladder'"),
    ({'bottleneck_activation': 'relu'}, "bottleneck_activation: got 'relu'"),
    ({'window': 0}, 'window: got 0, expected at least 1'),
    ({'max_length': -1}, 'max_length: got -1'),
    ({'bottleneck_width': 0}, 'bottleneck_width: got 0'),
    ({'norm_layers': 'lower'}, "norm_layers: got 'lower'.*upper_half"),
    (
      {'attention': None, 'attention_per_head': True},
      'attention_per_head is True, but CAMTL.attention is off',
    ),
    ({'norm': False, 'final_norm': True}, 'final_norm .* CAMTL.norm is off'),
    ({'norm': False, 'decoder_norm': True}, 'decoder_norm .* CAMTL.norm'),
    (
      {'alignment': False, 'decoder_alignment': True},
      'decoder_alignment .* CAMTL.alignment is off',
    ),
    (OFF, 'alignment, .*CAMTL.bottleneck are all off: nothing would be'),
  ],
)
def test_what_makes_no_sense_is_refused(unchecked, options, message):
  with pytest.raises(errors.UserError, match=rf'CAMTL\.{message}'):
    CAMTL(**options)


def test_a_layer_that_does_not_exist_is_refused():
  points = CAMTL(norm_layers=(1, 3), decoder_norm=True).extension_points()
  with pytest.raises(
    errors.UserError, match=r'norm_layers: .*no layer 3 in a stack of 3'
  ):
    architecture.Model(CONFIG, points)


def test_only_the_window_form_ends_at_a_position():
  def limit(**options):
    return CAMTL(**options).extension_points().max_positions

  assert limit(max_length=77) == 77
  assert limit(attention='shared_block', max_length=77) is None
  assert limit(attention=None, max_length=77) is None


def test_points_of_parts_that_are_off_are_free_for_another_method():
  plain = extension.ExtensionPoints()
  points = CAMTL(**CASES['alignment']).extension_points()
  replaced = {
    name
    for name in extension.POINTS
    if getattr(points, name) is not getattr(plain, name)
  }
  assert replaced == {'condition', 'after_embed'}
