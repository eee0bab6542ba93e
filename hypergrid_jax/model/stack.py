"""A stack of T5 layers: what they share, what differs, and how they run.

One layer is written once and scanned over the stacked parameters. It knows no
method: it calls the points of `extension.ExtensionPoints` and hands each the
`types.Conditioning` of its method.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

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


# Logical axes of the residual stream, which every sublayer adds to.
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
    """Writes one position into one layer's cache, [B, H, Ld, K]."""
    zero = jnp.zeros_like(index)
    at = (zero, zero, index, zero)
    write = jax.lax.dynamic_update_slice
    return dataclasses.replace(
      self,
      self_keys=write(self.self_keys, swap_heads(keys), at),
      self_values=write(self.self_values, swap_heads(values), at),
    )


def swap_heads(x: Float[Array, 'B X Y K']) -> Float[Array, 'B Y X K']:
  """Swaps the axes of positions and heads."""
  return jnp.swapaxes(x, 1, 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StackInputs:
  """What every layer of one stack shares.

  Attributes:
    segments: of the stack's tokens.
    self_mask: [B, 1, Lq, Lk] bool, who may attend to whom.
    relative_bias: [1, H, Lq, Lk].
    conditioning: each method's, by its name, before slicing by layer.
    cross_mask: [B, 1, Lq, Le] bool; None in the encoder.
    encoder_output: [B, Le, D]; None in the encoder and with a cache.
    cache_index: position being decoded, int32 scalar; None without a cache.
  """

  segments: types.Segments
  self_mask: Array
  relative_bias: Array
  conditioning: Mapping[str, types.Conditioning]
  cross_mask: Array | None = None
  encoder_output: Array | None = None
  cache_index: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerInputs:
  """What differs between the layers of a stack; leaves are [N, ...].

  Attributes:
    conditioning: `Conditioning.per_layer` of each method, by its name.
    dropout_keys: one key per layer, or None.
    cache: a `Cache`, or None.
  """

  conditioning: Any = None
  dropout_keys: Array | None = None
  cache: Cache | None = None


class LayerKeys(NamedTuple):
  """The dropout keys of one layer; all None switches dropout off."""

  attention_weights: Array | None = None
  attention_output: Array | None = None
  cross_attention_weights: Array | None = None
  cross_attention_output: Array | None = None
  feed_forward_hidden: Array | None = None
  feed_forward_output: Array | None = None


class StackKeys(NamedTuple):
  """The dropout keys of one stack; all None switches dropout off."""

  embedded: Array | None = None
  layers: Array | None = None
  output: Array | None = None


def split_key(keys: type[tuple], key: Array | None) -> Any:
  """Splits a key into the fields of `LayerKeys` or `StackKeys`."""
  if key is None:
    return keys()
  return keys(*jax.random.split(key, len(keys._fields)))


class Layer(nnx.Module):
  """Self-attention, in the decoder cross-attention, and feed-forward.

  Each is `x + dropout(after(sublayer(norm(x))))` (pre-norm). A method may carry
  a side path beside the residual stream x; a plain T5 has none.
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
    self.owners = points.owners
    self.constrain = site.constrain(*RESIDUAL_AXES)
    self.dropout_rate = site.config.dropout_rate

  def __call__(
    self,
    carry: tuple[Float[Array, 'B L D'], Any],
    stack: StackInputs,
    layer: LayerInputs,
  ) -> tuple[tuple[Float[Array, 'B L D'], Any], Cache | None]:
    """Maps (x, side) to the next; also returns the updated cache slice."""
    x, side = carry
    cond = extension.by_point(
      extension.of_layer(stack.conditioning, layer.conditioning), self.owners
    )
    keys = split_key(LayerKeys, layer.dropout_keys)
    cache = layer.cache

    y = self.attention_norm(x, cond['norm'])
    k, v = self.attention.keys_and_values(y)
    if cache is not None:
      cache = cache.with_position(k, v, stack.cache_index)
      k, v = map(swap_heads, (cache.self_keys, cache.self_values))
    bias = self.attention_bias(stack.segments, cond['attention_bias'])
    biases = (stack.relative_bias, bias)
    y = self.attention(
      y, k, v, stack.self_mask, biases, dropout_key=keys.attention_weights
    )
    y = self.after_attention(y, cond['after_attention'])
    x = self._add(x, y, keys.attention_output)

    if self.has_cross_attention:
      y = self.cross_attention_norm(x, cond['norm'])
      if cache is None:
        k, v = self.cross_attention.keys_and_values(stack.encoder_output)
      else:
        k, v = map(swap_heads, (cache.cross_keys, cache.cross_values))
      y = self.cross_attention(
        y, k, v, stack.cross_mask, dropout_key=keys.cross_attention_weights
      )
      x = self._add(x, y, keys.cross_attention_output)

    y = self.feed_forward_norm(x, cond['norm'])
    y = self.feed_forward(
      y,
      cond['feed_forward'],
      stack.segments,
      dropout_key=keys.feed_forward_hidden,
    )
    y = self.after_feed_forward(y, cond['after_feed_forward'])
    x = self._add(x, y, keys.feed_forward_output)
    side = self.after_layer(x, side, cond['after_layer'])
    return (x, side), cache

  def _add(self, x, y, key):
    y = layers.dropout(y, self.dropout_rate, key, broadcast_axis=1)
    return self.constrain(x + y)


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
    self.condition = extension.Conditions(points, site, rngs=rngs)
    self.after_embed = points.after_embed(site, rngs=rngs)
    self.side_start = points.side_start(site, rngs=rngs)
    self.after_layers = points.after_layers(site, rngs=rngs)
    self.final_norm = points.norm(
      dataclasses.replace(site, position='final'), rngs=rngs
    )
    self.owners = points.owners
    self.constrain = site.constrain(*RESIDUAL_AXES)
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
    keys = split_key(StackKeys, dropout_key if self.dropout_rate else None)
    cond = extension.by_point(inputs.conditioning, self.owners)
    x = self.constrain(self.after_embed(self.constrain(x), cond['after_embed']))
    x = layers.dropout(x, self.dropout_rate, keys.embedded, broadcast_axis=1)
    layer_keys = keys.layers
    if layer_keys is not None:
      layer_keys = jax.random.split(layer_keys, self.num_layers)
    per_layer = LayerInputs(
      conditioning=extension.per_layer(inputs.conditioning),
      dropout_keys=layer_keys,
      cache=cache,
    )
    carry = x, self.side_start(x, cond['side_start'])
    (x, side), cache = self._run_layers(carry, inputs, per_layer)
    x = self.after_layers(x, side, cond['after_layers'])
    x = self.final_norm(x, cond['norm'])
    x = layers.dropout(x, self.dropout_rate, keys.output, broadcast_axis=1)
    return self.constrain(x), cache

  def _run_layers(self, carry, inputs, per_layer):
    graph, parameters = nnx.split(self.layers)

    def body(carry, scanned):
      parameters, layer = scanned
      return nnx.merge(graph, parameters)(carry, inputs, layer)

    def remat(body):
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
        return jax.lax.scan(remat(body), carry, scanned)
      return scan_stash.scan(body, carry, scanned, wrap=remat)
    body = remat(body)
    caches = []
    for n in range(self.num_layers):
      scanned = jax.tree.map(lambda leaf, n=n: leaf[n], (parameters, per_layer))
      carry, cache = body(carry, scanned)
      caches.append(cache)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches)
