"""A stack of T5 layers: what they share, what differs, and how they run.

One layer is written once and scanned over the stacked parameters. It knows no
method: it calls the points of `extension.ExtensionPoints` and hands them a
`types.Conditioning`.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax import types
from hypergrid_jax.model import extension, layers
from hypergrid_jax.ops import relu_dropout, scan_stash

REMAT_POLICIES: dict[str, Callable[..., Any]] = {
  'minimal': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(
      relu_dropout.NAME, scan_stash.NAME
    ),
  ),
  'full': jax.checkpoint_policies.nothing_saveable,
}


# Of the residual stream, which every sublayer adds to.
RESIDUAL_AXES = ('batch', 'length', 'activation_embed')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of all decoder layers while decoding.

  They lie with the heads before the positions, as the products of attention
  read them: every step reads all of them again.

  Attributes:
    self_keys: [N, B, H, Ld, K], filled up to the current position.
    self_values: like `self_keys`.
    cross_keys: [N, B, H, Le, K], of the encoder output, fixed.
    cross_values: like `cross_keys`.
  """

  self_keys: Array
  self_values: Array
  cross_keys: Array
  cross_values: Array

  def with_position(
    self,
    keys: Float[Array, 'B 1 H K'],
    values: Float[Array, 'B 1 H K'],
    index: Int[Array, ''],
  ) -> 'Cache':
    """One layer's cache, [B, H, Ld, K], with a position written into it."""
    zero = jnp.zeros_like(index)
    at = (zero, zero, index, zero)
    write = jax.lax.dynamic_update_slice
    return dataclasses.replace(
      self,
      self_keys=write(self.self_keys, swap_heads(keys), at),
      self_values=write(self.self_values, swap_heads(values), at),
    )


def swap_heads(x: Float[Array, 'B X Y K']) -> Float[Array, 'B Y X K']:
  """From positions before heads to heads before positions, or back."""
  return jnp.swapaxes(x, 1, 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StackInputs:
  """What every layer of one stack shares.

  Attributes:
    segments: of the stack's tokens.
    self_mask: [B, 1, Lq, Lk] bool, who may attend to whom.
    relative_bias: [1, H, Lq, Lk].
    conditioning: the stack's, before slicing by layer.
    cross_mask: [B, 1, Lq, Le] bool; None in the encoder.
    encoder_output: [B, Le, D]; None in the encoder and with a cache.
    cache_index: position being decoded, int32 scalar; None without a cache.
  """

  segments: types.Segments
  self_mask: Array
  relative_bias: Array
  conditioning: types.Conditioning
  cross_mask: Array | None = None
  encoder_output: Array | None = None
  cache_index: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerInputs:
  """What differs between the layers of a stack; leaves are [N, ...].

  Attributes:
    conditioning: `Conditioning.per_layer`.
    dropout_keys: one key per layer, or None.
    cache: a `Cache`, or None.
  """

  conditioning: Any = None
  dropout_keys: Array | None = None
  cache: Cache | None = None


class Layer(nnx.Module):
  """Self-attention, in the decoder cross-attention, feed-forward.

  Each is `x + dropout(after(sublayer(norm(x))))` (pre-norm). Beside the
  residual stream x runs the side, in a plain T5 nothing.
  """

  def __init__(
    self,
    site: extension.Site,
    points: extension.ExtensionPoints,
    *,
    rngs: nnx.Rngs,
  ):
    def norm(position):
      return points.norm(
        dataclasses.replace(site, position=position), rngs=rngs
      )

    self.attention_norm = norm('attention')
    self.attention = layers.Attention(site.config, rngs=rngs)
    self.attention_bias = points.attention_bias(site, rngs=rngs)
    self.after_attention = points.after_attention(site, rngs=rngs)
    self.has_cross_attention = site.stack == 'decoder'
    if self.has_cross_attention:
      self.cross_attention_norm = norm('cross_attention')
      self.cross_attention = layers.Attention(site.config, rngs=rngs)
    self.feed_forward_norm = norm('feed_forward')
    self.feed_forward = points.feed_forward(site, rngs=rngs)
    self.after_feed_forward = points.after_feed_forward(site, rngs=rngs)
    self.after_layer = points.after_layer(site, rngs=rngs)
    self.parts = points.parts
    self.placed = site.placed(*RESIDUAL_AXES)
    self.dropout_rate = site.config.dropout_rate

  def __call__(
    self,
    carry: tuple[Float[Array, 'B L D'], Any],
    stack: StackInputs,
    layer: LayerInputs,
  ) -> tuple[tuple[Float[Array, 'B L D'], Any], Cache | None]:
    """Maps (x, side) to the next; also returns the updated cache slice."""
    x, side = carry
    cond = extension.conditionings(
      extension.layer_slice(stack.conditioning, layer.conditioning), self.parts
    )
    keys = [None] * 6
    if layer.dropout_keys is not None:
      keys = list(jax.random.split(layer.dropout_keys, 6))
    cache = layer.cache

    y = self.attention_norm(x, cond['norm'])
    k, v = self.attention.keys_and_values(y)
    if cache is not None:
      cache = cache.with_position(k, v, stack.cache_index)
      k, v = map(swap_heads, (cache.self_keys, cache.self_values))
    bias = self.attention_bias(stack.segments, cond['attention_bias'])
    biases = (stack.relative_bias, bias)
    y = self.attention(y, k, v, stack.self_mask, biases, dropout_key=keys[0])
    y = self.after_attention(y, cond['after_attention'])
    x = self._add(x, y, keys[1])

    if self.has_cross_attention:
      y = self.cross_attention_norm(x, cond['norm'])
      if cache is None:
        k, v = self.cross_attention.keys_and_values(stack.encoder_output)
      else:
        k, v = map(swap_heads, (cache.cross_keys, cache.cross_values))
      y = self.cross_attention(y, k, v, stack.cross_mask, dropout_key=keys[2])
      x = self._add(x, y, keys[3])

    y = self.feed_forward_norm(x, cond['norm'])
    y = self.feed_forward(
      y, cond['feed_forward'], stack.segments, dropout_key=keys[4]
    )
    y = self.after_feed_forward(y, cond['after_feed_forward'])
    x = self._add(x, y, keys[5])
    side = self.after_layer(x, side, cond['after_layer'])
    return (x, side), cache

  def _add(self, x, y, key):
    y = layers.dropout(y, self.dropout_rate, key, broadcast_axis=1)
    return self.placed(x + y)


class Stack(nnx.Module):
  """The layers of an encoder or a decoder, with their position bias and norm.

  Parameters of the layers are stacked on a leading `layers` axis.
  """

  def __init__(
    self,
    site: extension.Site,
    points: extension.ExtensionPoints,
    *,
    rngs: nnx.Rngs,
  ):
    @nnx.split_rngs(splits=site.num_layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make_layers(rngs):
      return Layer(site, points, rngs=rngs)

    self.layers = make_layers(rngs)
    for _, variable in nnx.iter_graph(self.layers):
      if isinstance(variable, nnx.Param):
        axes = variable.get_metadata()['logical_axes']
        variable.set_metadata(logical_axes=('layers', *axes))
    self.relative_bias = layers.RelativePositionBias(
      site.config, bidirectional=site.stack == 'encoder', rngs=rngs
    )
    self.condition = points.condition(site, rngs=rngs)
    self.after_embed = points.after_embed(site, rngs=rngs)
    self.side_start = points.side_start(site, rngs=rngs)
    self.after_layers = points.after_layers(site, rngs=rngs)
    self.final_norm = points.norm(
      dataclasses.replace(site, position='final'), rngs=rngs
    )
    self.parts = points.parts
    self.placed = site.placed(*RESIDUAL_AXES)
    self.num_layers = site.num_layers
    self.remat_policy = site.config.remat_policy
    self.scan_layers = site.config.scan_layers
    self.dropout_rate = site.config.dropout_rate

  def __call__(
    self,
    x: Float[Array, 'B L D'],
    inputs: StackInputs,
    *,
    cache: Cache | None = None,
    dropout_key: jax.Array | None = None,
  ) -> tuple[Float[Array, 'B L D'], Cache | None]:
    """Runs all layers and the final norm on embedded tokens.

    Args:
      x: embedded tokens.
      inputs: what the layers share.
      cache: decoding cache of all layers, or None.
      dropout_key: None switches dropout off.

    Returns:
      The normalised output and the updated cache (None without one).
    """
    keys = [None] * 3
    if dropout_key is not None and self.dropout_rate:
      keys = list(jax.random.split(dropout_key, 3))
    cond = extension.conditionings(inputs.conditioning, self.parts)
    x = self.placed(self.after_embed(self.placed(x), cond['after_embed']))
    x = layers.dropout(x, self.dropout_rate, keys[0], broadcast_axis=1)
    per_layer = LayerInputs(
      conditioning=inputs.conditioning.per_layer,
      dropout_keys=(
        None if keys[1] is None else jax.random.split(keys[1], self.num_layers)
      ),
      cache=cache,
    )
    carry = x, self.side_start(x, cond['side_start'])
    (x, side), cache = self._run_layers(carry, inputs, per_layer)
    x = self.after_layers(x, side, cond['after_layers'])
    x = self.final_norm(x, cond['norm'])
    x = layers.dropout(x, self.dropout_rate, keys[2], broadcast_axis=1)
    return self.placed(x), cache

  def _run_layers(self, carry, inputs, per_layer):
    graph, parameters = nnx.split(self.layers)

    def body(carry, scanned):
      parameters, layer = scanned
      return nnx.merge(graph, parameters)(carry, inputs, layer)

    def again(body):
      if self.remat_policy == 'none':
        return body
      policy = REMAT_POLICIES[self.remat_policy]
      # Outside of a loop the compiler would merge the second computation of
      # what is not kept with the first, and keep it.
      return jax.checkpoint(
        body, policy=policy, prevent_cse=not self.scan_layers
      )

    if self.scan_layers:
      scanned = parameters, per_layer
      if self.remat_policy == 'full':  # nothing is kept
        return jax.lax.scan(again(body), carry, scanned)
      return scan_stash.scan(body, carry, scanned, wrap=again)
    body = again(body)
    caches = []
    for n in range(self.num_layers):
      one = jax.tree.map(lambda leaf, n=n: leaf[n], (parameters, per_layer))
      carry, cache = body(carry, one)
      caches.append(cache)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches)
