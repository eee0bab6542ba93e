"""Greedy decoding with a key-value cache, and scoring of given labels."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax import types
from hypergrid_jax.model import architecture, losses

EOS_ID = 1


def single_segments(tokens: Int[Array, 'B L']) -> types.Segments:
  """One segment per row, ending where the padding (id 0) begins."""
  return types.Segments(
    ids=(tokens > 0).astype(jnp.int32),
    starts=jnp.zeros((tokens.shape[0], 1), jnp.int32),
    positions=jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
  )


def greedy_decode(
  model: architecture.Model,
  params: types.Params,
  tokens: Int[Array, 'B Le'],
  task_ids: Int[Array, ' B'],
  *,
  max_decode_length: int,
) -> Int[Array, 'B Ld']:
  """Decodes the likeliest token at every step until all rows have ended.

  Args:
    model: the architecture.
    params: its parameters.
    tokens: one example per row, padded with 0; rows of padding alone count as
      ended from the start.
    task_ids: of the rows.
    max_decode_length: tokens written at most, end-of-sequence included.

  Returns:
    Token ids with the end-of-sequence id, then 0.
  """
  module = model.bind(model.cast_kernels(params))
  segments = single_segments(tokens)
  encoded = module.encode(tokens, segments, task_ids)
  conditioning = module.decoder_conditioning(
    segments, encoded, segments, task_ids
  )
  cache = module.start_cache(encoded, length=max_decode_length)
  rows = tokens.shape[0]

  def unfinished(carry):
    index, ended, _, _, _ = carry
    return (index < max_decode_length) & ~jnp.all(ended)

  def step(carry):
    index, ended, last, output, cache = carry
    logits, cache = module.decode_step(
      last, index, cache, conditioning, segments
    )
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    token = jnp.where(ended, 0, token)
    at = (jnp.zeros_like(index), index)
    output = jax.lax.dynamic_update_slice(output, token[:, None], at)
    return index + 1, ended | (token == EOS_ID), token[:, None], output, cache

  start = (
    jnp.int32(0),
    jnp.all(tokens == 0, axis=1),
    jnp.zeros((rows, 1), jnp.int32),
    jnp.zeros((rows, max_decode_length), jnp.int32),
    cache,
  )
  return jax.lax.while_loop(unfinished, step, start)[3]


def label_scores(
  model: architecture.Model,
  params: types.Params,
  tokens: Int[Array, 'B Le'],
  task_ids: Int[Array, ' B'],
  labels: Int[Array, 'C Ll'],
) -> Float[Array, 'B C']:
  """Log-likelihood of each label as the whole target, end included.

  Args:
    model: the architecture.
    params: its parameters.
    tokens: one example per row, padded with 0; encoded once.
    task_ids: of the rows.
    labels: token ids of the candidates with end-of-sequence, padded with 0.

  Returns:
    Sums of log-probabilities, in nats, not normalised by length.
  """
  module = model.bind(params)
  segments = single_segments(tokens)
  encoded = module.encode(tokens, segments, task_ids)
  rows, (count, length) = tokens.shape[0], labels.shape

  def per_label(leaf):
    return jnp.repeat(leaf, count, axis=0)

  targets = jnp.tile(labels, (rows, 1))
  inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))
  ones = jnp.ones((rows * count, length), jnp.int32)
  segments = jax.tree.map(per_label, segments)
  logits = module.decode(
    inputs,
    types.Segments(
      ones, segments.starts, jnp.broadcast_to(jnp.arange(length), ones.shape)
    ),
    per_label(encoded),
    segments,
    per_label(task_ids),
  )
  scores = losses.sequence_log_probability(
    logits, targets, (targets > 0).astype(logits.dtype)
  )
  return scores.reshape(rows, count)
