"""The gated matmul as it is defined; for tests."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax.ops import segments


def reference_gated_matmul(
  u: Float[Array, 'B L K'],
  kernel: Float[Array, 'K N'],
  row: Float[Array, '#B S Gr'],
  col: Float[Array, '#B S2 Gc'],
  segment_ids: Int[Array, 'B L'],
  *,
  scale: Float[Array, ''] | float,
  offset: Float[Array, ''] | float,
) -> Float[Array, 'B L N']:
  """`gated_matmul` with a dense gated weight per token: B*L*K*N numbers."""
  k, n = kernel.shape
  row = segments.per_token(row, segment_ids)
  col = segments.per_token(col, segment_ids)
  gate = offset + scale * jax.nn.sigmoid(
    row[:, :, :, None] * col[:, :, None, :]
  )
  gate = jnp.repeat(gate, k // row.shape[-1], axis=2)
  gate = jnp.repeat(gate, n // col.shape[-1], axis=3)
  return jnp.einsum('blk,blkn->bln', u, gate * kernel[None, None])
