"""T5's encoder and decoder (Raffel et al. 2020) around the extension points."""

from collections.abc import Mapping
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax import types
from hypergrid_jax.model import extension, layers
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.model.stack import Cache, Stack, StackInputs, swap_heads
from hypergrid_jax.parallel import partitioning


def segment_mask(
  query_ids: Int[Array, 'B Lq'], key_ids: Int[Array, 'B Lk']
) -> Array:
  """Returns True where query and key are of one segment and not padding."""
  same = query_ids[:, :, None] == key_ids[:, None, :]
  return (same & (key_ids[:, None, :] > 0))[:, None]


class T5(nnx.Module):
  """The encoder-decoder (Raffel et al. 2020) with a method's modules in it."""

  def __init__(
    self,
    config: T5Config,
    points: extension.ExtensionPoints,
    *,
    num_tasks: int,
    rules: partitioning.Rules = partitioning.DEFAULT_RULES,
    rngs: nnx.Rngs,
  ):
    site = extension.Site(config, 'both', num_tasks, rules=rules)
    self.config = config
    self.token_embedder = layers.Embed(config, rngs=rngs)
    self.task_vectors = points.task_vectors(site, rngs=rngs)
    self.encoder = Stack(
      dataclasses.replace(site, stack='encoder'), points, rngs=rngs
    )
    self.decoder = Stack(
      dataclasses.replace(site, stack='decoder'), points, rngs=rngs
    )
    self.constrain = site.constrain('batch', 'length', 'vocab')
    if not config.logits_via_embedding:
      self.lm_head = layers.parameter(
        rngs,
        (config.d_model, config.vocab_size),
        ('embed', 'vocab'),
        stddev=config.d_model**-0.5,
      )

  def __call__(
    self, batch: types.Batch, *, dropout_key: jax.Array | None = None
  ) -> Float[Array, 'B Ld V']:
    """Returns the teacher-forced logits of a batch, float32.

    Args:
      batch: packed or unpacked rows.
      dropout_key: None switches dropout off.
    """
    encoder_key = decoder_key = None
    if dropout_key is not None:
      encoder_key, decoder_key = jax.random.split(dropout_key)
    segments = types.Segments(
      batch.encoder_segment_ids,
      batch.encoder_segment_starts,
      batch.encoder_positions,
    )
    encoded = self.encode(
      batch.encoder_input_tokens,
      segments,
      batch.task_ids,
      dropout_key=encoder_key,
    )
    decoder_segments = types.Segments(
      batch.decoder_segment_ids,
      batch.encoder_segment_starts,
      batch.decoder_positions,
    )
    return self.decode(
      batch.decoder_input_tokens,
      decoder_segments,
      encoded,
      segments,
      batch.task_ids,
      dropout_key=decoder_key,
    )

  def encode(
    self,
    tokens: Int[Array, 'B Le'],
    segments: types.Segments,
    task_ids: Int[Array, ' B'],
    *,
    dropout_key: jax.Array | None = None,
  ) -> Float[Array, 'B Le D']:
    """Returns the encoder's output after the final norm."""
    conditioning = self.encoder.condition(
      extension.ConditionInputs(task_ids, segments, self.task_vectors())
    )
    index = jnp.arange(tokens.shape[1])
    inputs = StackInputs(
      segments=segments,
      self_mask=segment_mask(segments.ids, segments.ids),
      relative_bias=self.encoder.relative_bias(index, index),
      conditioning=conditioning,
    )
    x = self.token_embedder(tokens)
    return self.encoder(x, inputs, dropout_key=dropout_key)[0]

  def decoder_conditioning(
    self,
    segments: types.Segments,
    encoded: Float[Array, 'B Le D'],
    encoder_segments: types.Segments,
    task_ids: Int[Array, ' B'],
  ) -> dict[str, types.Conditioning]:
    """Returns the decoder's conditioning, for training and for decoding."""
    return self.decoder.condition(
      extension.ConditionInputs(
        task_ids, segments, self.task_vectors(), encoded, encoder_segments
      )
    )

  def decode(
    self,
    tokens: Int[Array, 'B Ld'],
    segments: types.Segments,
    encoded: Float[Array, 'B Le D'],
    encoder_segments: types.Segments,
    task_ids: Int[Array, ' B'],
    *,
    dropout_key: jax.Array | None = None,
  ) -> Float[Array, 'B Ld V']:
    """Returns the logits of all positions, each seeing only those before it."""
    index = jnp.arange(tokens.shape[1])
    causal = index[:, None] >= index[None, :]
    inputs = StackInputs(
      segments=segments,
      self_mask=segment_mask(segments.ids, segments.ids) & causal[None, None],
      relative_bias=self.decoder.relative_bias(index, index),
      conditioning=self.decoder_conditioning(
        segments, encoded, encoder_segments, task_ids
      ),
      cross_mask=segment_mask(segments.ids, encoder_segments.ids),
      encoder_output=encoded,
    )
    x = self.token_embedder(tokens)
    x, _ = self.decoder(x, inputs, dropout_key=dropout_key)
    return self.logits(x)

  def start_cache(
    self, encoded: Float[Array, 'B Le D'], *, length: int
  ) -> Cache:
    """Returns a cache for `length` positions, with the encoder's keys in it."""
    graph, parameters = nnx.split(self.decoder.layers)

    def project(parameters):
      layer = nnx.merge(graph, parameters)
      both = layer.cross_attention.keys_and_values(encoded)
      return tuple(map(swap_heads, both))

    keys, values = jax.lax.map(project, parameters)
    n, b, h, _, k = keys.shape
    empty = jnp.zeros((n, b, h, length, k), keys.dtype)
    return Cache(empty, empty, keys, values)

  def decode_step(
    self,
    tokens: Int[Array, 'B 1'],
    index: Int[Array, ''],
    cache: Cache,
    conditioning: Mapping[str, types.Conditioning],
    encoder_segments: types.Segments,
  ) -> tuple[Float[Array, 'B V'], Cache]:
    """Decodes one position of one-segment rows, given the earlier ones' cache.

    Args:
      tokens: the token at `index`.
      index: position being fed, from 0.
      cache: from `start_cache`, updated by the steps before.
      conditioning: from `decoder_conditioning`.
      encoder_segments: the encoder's, one segment per row.

    Returns:
      Logits of the next token, and the updated cache.
    """
    length = cache.self_keys.shape[3]
    at = jnp.arange(length)
    ones = jnp.ones(tokens.shape, jnp.int32)
    inputs = StackInputs(
      segments=types.Segments(
        ones, encoder_segments.starts, jnp.broadcast_to(index, tokens.shape)
      ),
      self_mask=(at <= index)[None, None, None, :],
      relative_bias=self.decoder.relative_bias(index[None], at),
      conditioning=conditioning,
      cross_mask=segment_mask(ones, encoder_segments.ids),
      cache_index=index,
    )
    x = self.token_embedder(tokens)
    x, cache = self.decoder(x, inputs, cache=cache)
    return self.logits(x)[:, 0], cache

  def logits(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L V']:
    """Returns the scores of all tokens, in at least float32."""
    if self.config.logits_via_embedding:
      x = x * self.config.d_model**-0.5
      kernel = self.token_embedder.embedding[...].T
    else:
      kernel = self.lm_head[...]
    logits = jax.lax.dot_general(
      x,
      kernel.astype(self.config.dtype),
      (((2,), (0,)), ((), ())),
      preferred_element_type=jnp.promote_types(self.config.dtype, jnp.float32),
    )
    return self.constrain(logits)
