"""A matmul whose weight is gated block by block, with one gate per segment.

  y[t, n] = sum_k g[t, k // bk, n // bn] u[t, k] W[k, n]
  g[t, r, c] = offset + scale * sigmoid(row[t, r] * col[t, c])

W [K, N] is cut into Gr x Gc blocks of bk x bn. `row` and `col` are the gate's
rank-one factors, given per segment; tokens of a segment share them. The plain
HyperGrid gate is (offset, scale) = (0, 1), the residual one (1, 1), the one
that starts at identity (0, 2); (1, 0) switches the gate off.

Two implementations. `reference_gated_matmul` writes the gated weight of every
token out: obviously right, and for tests only. `gated_matmul` goes through the
column blocks, scales the *inputs* of each and never holds a gated weight; its
backward pass costs two plain matmuls like any other, since while it has
`dy_c W_c^T` for the inputs' gradient, the row-dot of that with u is the
gradient of the gate.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Column blocks up to this many are unrolled; more are scanned, which keeps
# compile time flat and costs a copy of each block's output.
UNROLLED_COLUMNS = 8


def gated_matmul(
  u: Float[Array, 'B L K'],
  kernel: Float[Array, 'K N'],
  row: Float[Array, '#B S Gr'],
  col: Float[Array, '#B S2 Gc'],
  segment_ids: Int[Array, 'B L'],
  *,
  scale: Float[Array, ''] | float,
  offset: Float[Array, ''] | float,
) -> Float[Array, 'B L N']:
  """Multiplies by a kernel gated per segment, without per-example weights.

  Args:
    u: inputs; their dtype is the dtype of the matmuls, accumulated in at least
      float32.
    kernel: the weight, cast to u's dtype.
    row: gate factor over blocks of K, per segment; one row or one segment
      broadcasts.
    col: gate factor over blocks of N, likewise.
    segment_ids: [B, L], 1-based; 0 (padding) uses segment 1's gate.
    scale: of the sigmoid; not differentiated.
    offset: added to it; not differentiated.

  Returns:
    y in u's dtype.

  Raises:
    ValueError: the grid does not divide the kernel.
  """
  k, n = kernel.shape
  rows, columns = row.shape[-1], col.shape[-1]
  if k % rows or n % columns:
    raise ValueError(
      f'a {rows} x {columns} grid does not divide a kernel of {k} x {n}'
    )
  b, length, _ = u.shape
  spread = functools.partial(_per_token, segment_ids=segment_ids)
  accumulate = jnp.promote_types(u.dtype, jnp.float32)
  y = _columns(
    u.reshape(b * length, k),
    kernel.astype(u.dtype),
    spread(row.astype(accumulate)),
    spread(col.astype(accumulate)),
    jnp.asarray(scale, accumulate),
    jnp.asarray(offset, accumulate),
  )
  return y.reshape(b, length, n)


def reference_gated_matmul(
  u: Float[Array, 'B L K'],
  kernel: Float[Array, 'K N'],
  row: Float[Array, '#B S Gr'],
  col: Float[Array, '#B S2 Gc'],
  segment_ids: Int[Array, 'B L'],
  *,
  scale: float,
  offset: float,
) -> Float[Array, 'B L N']:
  """`gated_matmul` with a dense gated weight per token: B*L*K*N numbers."""
  k, n = kernel.shape
  b, length, _ = u.shape
  row = _per_token(row, segment_ids=segment_ids).reshape(b, length, -1)
  col = _per_token(col, segment_ids=segment_ids).reshape(b, length, -1)
  gate = offset + scale * jax.nn.sigmoid(
    row[:, :, :, None] * col[:, :, None, :]
  )
  gate = jnp.repeat(gate, k // row.shape[-1], axis=2)
  gate = jnp.repeat(gate, n // col.shape[-1], axis=3)
  return jnp.einsum('blk,blkn->bln', u, gate * kernel)


def _per_token(factor, *, segment_ids):
  """[#B, S, G] per segment -> [B * L, G] per token."""
  b, length = segment_ids.shape
  segments, width = factor.shape[1:]
  factor = jnp.broadcast_to(factor, (b, segments, width))
  if segments == 1:
    factor = jnp.broadcast_to(factor, (b, length, width))
  else:
    index = jnp.maximum(segment_ids - 1, 0)[:, :, None]
    factor = jnp.take_along_axis(factor, index, axis=1)
  return factor.reshape(b * length, width)


def _scaled(u, gate):
  """u [T, K] times gate [T, Gr], each entry repeated over its block of K."""
  blocks = u.reshape(*gate.shape, -1) * gate[:, :, None]
  return blocks.reshape(u.shape).astype(u.dtype)


def _column_blocks(matrix, columns):
  """[A, N] -> [Gc, A, N / Gc]."""
  return matrix.reshape(matrix.shape[0], columns, -1).transpose(1, 0, 2)


def _scan(body, carry, xs, columns):
  unroll = columns if columns <= UNROLLED_COLUMNS else 1
  return jax.lax.scan(body, carry, xs, unroll=unroll)


def _dot(a, b, contract, accumulate):
  dims = ((contract[:1], contract[1:]), ((), ()))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=accumulate)


@jax.custom_vjp
def _columns(u, kernel, row, col, scale, offset):
  columns = col.shape[1]

  def block(carry, inputs):
    weights, factor = inputs
    gate = offset + scale * jax.nn.sigmoid(row * factor[:, None])
    return carry, _dot(_scaled(u, gate), weights, (1, 0), row.dtype)

  inputs = (_column_blocks(kernel, columns), col.T)
  _, y = _scan(block, None, inputs, columns)
  return y.transpose(1, 0, 2).reshape(u.shape[0], -1).astype(u.dtype)


def _columns_forward(u, kernel, row, col, scale, offset):
  y = _columns(u, kernel, row, col, scale, offset)
  return y, (u, kernel, row, col, scale, offset)


def _columns_backward(residuals, dy):
  u, kernel, row, col, scale, offset = residuals
  columns, dtype = col.shape[1], row.dtype
  u_blocks = u.reshape(*row.shape, -1).astype(dtype)

  def block(carry, inputs):
    du, drow = carry
    weights, factor, dy_c = inputs
    sigmoid = jax.nn.sigmoid(row * factor[:, None])
    gate = offset + scale * sigmoid
    back = _dot(dy_c, weights, (1, 1), dtype).reshape(u_blocks.shape)
    du = du + back * gate[:, :, None]
    dgate = jnp.sum(back * u_blocks, axis=2)
    dz = dgate * scale * sigmoid * (1 - sigmoid)
    dweights = _dot(_scaled(u, gate), dy_c, (0, 0), dtype)
    return (du, drow + dz * factor[:, None]), (
      dweights.astype(kernel.dtype),
      jnp.sum(dz * row, axis=1),
    )

  inputs = (
    _column_blocks(kernel, columns),
    col.T,
    _column_blocks(dy, columns),
  )
  start = (jnp.zeros_like(u_blocks), jnp.zeros_like(row))
  (du, drow), (dkernel, dcol) = _scan(block, start, inputs, columns)
  dkernel = dkernel.transpose(1, 0, 2).reshape(kernel.shape)
  du = du.reshape(u.shape).astype(u.dtype)
  return du, dkernel, drow, dcol.T, jnp.zeros_like(scale), jnp.zeros_like(
    offset
  )


_columns.defvjp(_columns_forward, _columns_backward)
