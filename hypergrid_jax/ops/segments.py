"""Gives every token the gate factor of its segment."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def per_token(
  factor: Float[Array, '#B S G'], segment_ids: Int[Array, 'B L']
) -> Float[Array, 'B L G']:
  """Looks factors up; padding, segment 0, gets segment 1's.

  Args:
    factor: per segment; one row or one segment broadcasts.
    segment_ids: 1-based.
  """
  b, length = segment_ids.shape
  count, width = factor.shape[1:]
  factor = jnp.broadcast_to(factor, (b, count, width))
  if count == 1:
    return jnp.broadcast_to(factor, (b, length, width))
  index = jnp.maximum(segment_ids - 1, 0)[:, :, None]
  return jnp.take_along_axis(factor, index, axis=1)


def tokens_last(
  factor: Float[Array, '#B S G'], segment_ids: Int[Array, 'B L']
) -> Float[Array, 'G B L']:
  """`per_token` with tokens last, as a product with zeros and ones.

  On a TPU looking rows up one by one, and adding their gradients up again,
  takes longer than the matmul that the factors are for.
  """
  b, length = segment_ids.shape
  count, width = factor.shape[1:]
  factor = jnp.broadcast_to(factor, (b, count, width))
  if count == 1:
    factor = jnp.broadcast_to(factor, (b, length, width))
    return factor.transpose(2, 0, 1)
  index = jnp.maximum(segment_ids - 1, 0)[:, None, :]
  chosen = index == jnp.arange(count)[None, :, None]
  return jnp.einsum(
    'bsg,bsl->gbl',
    factor,
    chosen.astype(factor.dtype),
    precision=jax.lax.Precision.HIGHEST,
  )
