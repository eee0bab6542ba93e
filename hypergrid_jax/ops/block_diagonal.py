"""The attention bias of CA-MTL: learned blocks on the diagonal, per task."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def attention_bias(
  blocks: Float[Array, 'H P W'],
  gamma: Float[Array, 'B W'],
  beta: Float[Array, 'B W'],
  positions: Int[Array, 'B L'],
  *,
  repeats: bool,
) -> Float[Array, 'B H L L']:
  """M[i, j] = (1 + gamma) A[i] + beta at j mod w; 0 across windows.

  Windows are w tokens long and begin at position 0 of an example: i and j are
  in the same one when floor(i / w) = floor(j / w). That is the paper's matrix,
  A (P rows, w wide) cut into pieces of w rows which are laid on a diagonal.
  Where i or j is P or more, the matrix is 0. Between different examples of a
  packed row the values mean nothing: attention's mask hides them.

  Args:
    blocks: A, for each head or once for all.
    gamma: the scale less 1 of each row of the batch.
    beta: the shift of each row of the batch.
    positions: the tokens' positions within their examples; query i and key j
      are in the same row of the batch.
    repeats: take row i mod w of A (P = w): a block for all windows alike.

  Returns:
    The bias of query i (third axis) and key j (fourth).
  """
  length, w = blocks.shape[1:]
  window, offset = positions // w, positions % w
  row = offset if repeats else jnp.minimum(positions, length - 1)
  rows = jnp.moveaxis(blocks[:, row], 0, 1)
  rows = (1 + gamma[:, None, None, :]) * rows + beta[:, None, None, :]
  # Picking column j mod w by a product with ones and zeros is exact, and needs
  # no gather of L x L numbers, nor a scatter of them in the backward pass.
  columns = jax.nn.one_hot(offset, w, dtype=rows.dtype)
  bias = jnp.einsum(
    'bhqw,bkw->bhqk', rows, columns, precision=jax.lax.Precision.HIGHEST
  )
  inside = window[:, :, None] == window[:, None, :]
  if not repeats:
    known = positions < length
    inside &= known[:, :, None] & known[:, None, :]
  return jnp.where(inside[:, None], bias, 0.0)
