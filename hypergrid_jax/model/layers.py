"""The layers of a plain T5: norm, attention, feed-forward, position bias.

Every parameter is an `nnx.Param` in float32 with the metadata `logical_axes`,
one axis name per dimension. Kernels are [in, out]. Modules hold no state and no
random keys: dropout gets its key from the caller, and `None` switches it off.

Flax has layers of the same names, with other numbers: `nnx.RMSNorm` and
`nnx.LayerNorm` multiply the scale into the inverse deviation first, which
rounds otherwise; `nnx.Embed` casts the whole table before it looks tokens up,
so that gradients of a token add up in bfloat16; `nnx.Dropout` divides before
it masks, which on a TPU is a pass over memory of its own (see `dropout`).

Shapes: B rows, L tokens (Lq queries, Lk keys), D d_model, F d_ff, H heads, K
width of a head.
"""

import functools
import operator
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from hypergrid_jax import types
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.ops.matmul import matmul
from hypergrid_jax.ops.relu_dropout import ReluDropout, relu_dropout

MASKED = -1e9  # added to float32 logits of masked keys: exp() of it is 0

ACTIVATIONS = {
  'relu': jax.nn.relu,
  'gelu': jax.nn.gelu,  # the tanh form, as in T5 1.1
  'linear': lambda x: x,
}


def parameter(
  rngs: nnx.Rngs,
  shape: tuple[int, ...],
  axes: tuple[str, ...],
  *,
  stddev: float = 0.0,
  constant: float = 0.0,
  stream: str = 'params',
) -> nnx.Param:
  """Makes a float32 parameter: normal(0, stddev), or a constant.

  Args:
    rngs: holds the stream to draw from when stddev is not 0.
    shape: one size per logical axis.
    axes: logical axis names, see partitioning.py for where each may be split.
    stddev: standard deviation of the normal distribution.
    constant: the value of every entry when stddev is 0.
    stream: of random numbers. A method's own parameters use 'method', so that
      T5's have the same initial values with and without the method.

  Returns:
    The parameter, with `axes` as its `logical_axes` metadata.
  """
  if stddev:
    value = stddev * jax.random.normal(rngs[stream](), shape, jnp.float32)
  else:
    value = jnp.full(shape, constant, jnp.float32)
  return nnx.Param(value, logical_axes=axes)


def dropout(
  x: Float[Array, '...'],
  rate: float,
  key: jax.Array | None,
  *,
  broadcast_axis: int | None = None,
) -> Float[Array, '...']:
  """Zeroes entries with probability `rate` and scales the rest by 1/(1-rate).

  Args:
    x: any array.
    rate: in [0, 1).
    key: None switches dropout off.
    broadcast_axis: entries along this axis share their fate. T5 (Mesh
      TensorFlow and T5X) drops a feature for all tokens of a row alike, and
      an attention key for all queries alike.

  Returns:
    An array like x.
  """
  if key is None or rate == 0.0:
    return x
  shape = list(x.shape)
  if broadcast_axis is not None:
    shape[broadcast_axis] = 1
  keep = jax.random.bernoulli(key, 1.0 - rate, tuple(shape))
  # In this order, or XLA scales what comes out of a TPU kernel in a pass of its
  # own before the reshape that follows the kernel.
  return jnp.where(keep, x, jnp.zeros_like(x)) / (1.0 - rate)


class RMSNorm(nnx.Module):
  """T5's layer norm: no mean, no bias, computed in float32."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    self.scale = parameter(rngs, (config.d_model,), ('embed',), constant=1.0)
    self.epsilon = config.layer_norm_epsilon
    self.dtype = config.dtype

  def __call__(
    self, x: Float[Array, 'B L D'], conditioning=None
  ) -> Float[Array, 'B L D']:
    """Normalises the last axis; `conditioning` is for conditioned norms."""
    del conditioning
    return rms_normalize(x, self.scale[...], self.epsilon).astype(self.dtype)


def rms_normalize(
  x: Float[Array, '... D'], scale: Float[Array, '*#S D'], epsilon: float
) -> Float[Array, '... D']:
  """Divides by the RMS, times `scale` (broadcast), in at least float32."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
  scale = jnp.broadcast_to(scale, x.shape)
  return x * jax.lax.rsqrt(variance + epsilon) * scale


class Attention(nnx.Module):
  """Multi-head attention without biases and without 1/sqrt(d_kv) (T5).

  The missing factor is in the initialisation of `query` instead.
  """

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    d, heads, width = config.d_model, config.num_heads, config.d_kv
    joined = heads * width
    inward, outward = ('embed', 'joined_kv'), ('joined_kv', 'embed')
    self.query = parameter(
      rngs, (d, joined), inward, stddev=(d * width) ** -0.5
    )
    self.key = parameter(rngs, (d, joined), inward, stddev=d**-0.5)
    self.value = parameter(rngs, (d, joined), inward, stddev=d**-0.5)
    self.out = parameter(rngs, (joined, d), outward, stddev=joined**-0.5)
    self.num_heads = heads
    self.dropout_rate = config.dropout_rate
    self.dtype = config.dtype

  def keys_and_values(
    self, x: Float[Array, 'B Lk D']
  ) -> tuple[Float[Array, 'B Lk H K'], Float[Array, 'B Lk H K']]:
    """Projects `x` to keys and values, split into heads."""
    return self._project(x, self.key), self._project(x, self.value)

  def __call__(
    self,
    x: Float[Array, 'B Lq D'],
    keys: Float[Array, 'B Lk H K'],
    values: Float[Array, 'B Lk H K'],
    mask: Bool[Array, '#B 1 Lq Lk'],
    biases: tuple[Float[Array, '#B #H Lq Lk'] | None, ...] = (),
    *,
    dropout_key: jax.Array | None = None,
  ) -> Float[Array, 'B Lq D']:
    """Attends from `x`; biases are added to the logits, then the mask."""
    queries = self._project(x, self.query)
    logits = jnp.einsum(
      'bqhk,bshk->bhqs',
      queries,
      keys,
      preferred_element_type=jnp.promote_types(self.dtype, jnp.float32),
    )
    for bias in biases:
      if bias is not None:
        logits = logits + bias
    weights = jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1)
    weights = dropout(
      weights.astype(self.dtype),
      self.dropout_rate,
      dropout_key,
      broadcast_axis=2,
    )
    mixed = jnp.einsum('bhqs,bshk->bqhk', weights, values)
    mixed = mixed.reshape(*mixed.shape[:2], -1)
    return matmul(mixed, self.out[...].astype(self.dtype))

  def _project(self, x, kernel):
    projected = matmul(x.astype(self.dtype), kernel[...].astype(self.dtype))
    return projected.reshape(*x.shape[:2], self.num_heads, -1)


class MlpBlock(nnx.Module):
  """T5's feed-forward layer: `wo(dropout(relu(wi(x))))`, or the gated form.

  With two activations the hidden layer is `act0(wi_0 x) * act1(wi_1 x)`; T5
  1.1's gated GELU is ('gelu', 'linear').
  """

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    d, f = config.d_model, config.d_ff
    for name in config.wi_names:
      kernel = parameter(rngs, (d, f), ('embed', 'mlp'), stddev=d**-0.5)
      setattr(self, name, kernel)
    self.wo = parameter(rngs, (f, d), ('mlp', 'embed'), stddev=f**-0.5)
    self.wi_names = config.wi_names
    self.activations = config.mlp_activations
    self.dropout_rate = config.dropout_rate
    self.dtype = config.dtype

  def __call__(
    self,
    x: Float[Array, 'B L D'],
    conditioning: Any = None,
    segments: types.Segments | None = None,
    *,
    dropout_key: jax.Array | None = None,
  ) -> Float[Array, 'B L D']:
    """Applies the layer.

    Args:
      x: the layer's input, normalised.
      conditioning: handed to `project`; the plain layer ignores it.
      segments: the examples in the rows, also handed to `project`.
      dropout_key: None switches dropout off.
    """

    def project(name, u):
      return self.project(name, u, conditioning, segments)

    if self.activations == ('relu',):
      hidden = relu_dropout(project('wi', x), self.dropout_rate, dropout_key)
      return project('wo', hidden)
    factors = [
      ACTIVATIONS[activation](project(name, x))
      for name, activation in zip(self.wi_names, self.activations, strict=True)
    ]
    hidden = functools.reduce(operator.mul, factors)
    hidden = dropout(hidden, self.dropout_rate, dropout_key, broadcast_axis=1)
    return project('wo', hidden)

  def project(
    self,
    name: str,
    u: Float[Array, 'B L A'] | ReluDropout,
    conditioning: Any,
    segments: types.Segments | None,
  ) -> Float[Array, 'B L C']:
    """Returns `u @ W` in the activations' dtype.

    A method that conditions the layer's weights overrides this.

    Args:
      name: of the kernel W: 'wi', 'wi_0', 'wi_1' or 'wo'.
      u: the product's input.
      conditioning: as given to the layer.
      segments: as given to the layer.
    """
    del conditioning, segments
    kernel = getattr(self, name)[...]
    return matmul(u.astype(self.dtype), kernel.astype(self.dtype))


def relative_position_bucket(
  relative_position: Int[np.ndarray | Array, '...'],
  *,
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> Int[Array, '...']:
  """Maps key position minus query position to a bucket id (T5, section 2.1).

  Half of the buckets hold exact small distances, the other half logarithmic
  bins up to `max_distance`; with `bidirectional` the sign takes half of all.

  Args:
    relative_position: key position minus query position, in tokens.
    bidirectional: False folds positive distances (the future) into bucket 0.
    num_buckets: how many buckets there are.
    max_distance: from here on everything shares the last bucket.

  Returns:
    Bucket ids, int32, in [0, num_buckets).
  """
  offset = 0
  distance = -relative_position
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(distance < 0, num_buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(distance, 0)
  exact = num_buckets // 2
  ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact
  scaled = jnp.log(ratio) / np.log(max_distance / exact) * (num_buckets - exact)
  large = jnp.minimum(exact + scaled.astype(jnp.int32), num_buckets - 1)
  return offset + jnp.where(distance < exact, distance, large)


class RelativePositionBias(nnx.Module):
  """One learned scalar per head and distance bucket, shared by a stack."""

  def __init__(self, config: T5Config, *, bidirectional: bool, rngs: nnx.Rngs):
    stddev = config.relative_bias_stddev
    if stddev is None:
      stddev = ((config.relative_buckets + config.num_heads) / 2) ** -0.5
    self.embedding = parameter(
      rngs,
      (config.relative_buckets, config.num_heads),
      ('relpos_buckets', 'heads'),
      stddev=stddev,
    )
    self.bidirectional = bidirectional
    self.num_buckets = config.relative_buckets
    self.max_distance = config.relative_max_distance

  def __call__(
    self, query_positions: Int[Array, ' Lq'], key_positions: Int[Array, ' Lk']
  ) -> Float[Array, '1 H Lq Lk']:
    """Returns the bias to add to attention logits.

    Positions may be indices in a packed row: inside one segment they differ
    from the segment's own by a constant, which the difference cancels.
    """
    buckets = relative_position_bucket(
      key_positions[None, :] - query_positions[:, None],
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    bias = self.embedding[...][buckets]
    return jnp.transpose(bias, (2, 0, 1))[None]


class Embed(nnx.Module):
  """The token table [V, D], initialised N(0, 1) as T5's."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    shape = (config.vocab_size, config.d_model)
    self.embedding = parameter(rngs, shape, ('vocab', 'embed'), stddev=1.0)
    self.dtype = config.dtype

  def __call__(self, tokens: Int[Array, 'B L']) -> Float[Array, 'B L D']:
    """Looks tokens up, in the activation dtype."""
    return jnp.take(self.embedding[...], tokens, axis=0).astype(self.dtype)
