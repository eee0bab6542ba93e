"""A matmul whose weight is gated block by block, with one gate per segment.

  y[t, n] = sum_k g[t, k // bk, n // bn] u[t, k] W[k, n]
  g[t, r, c] = offset + scale * sigmoid(row[t, r] * col[t, c])

W [K, N] is cut into Gr x Gc blocks of bk x bn. `row` and `col` are the gate's
rank-one factors, given per segment; tokens of a segment share them. The plain
HyperGrid gate is (offset, scale) = (0, 1), the residual one (1, 1), the one
that starts at identity (0, 2); (1, 0) switches the gate off.

`reference_gated_matmul` writes the gated weight of every token out: obviously
right, and for tests only. `gated_matmul` never holds a gated weight, forward or
backward. It cuts W along one side and does one matmul per block:

  columns  scales the *inputs* of each block of columns. Its backward pass costs
           two plain matmuls like any other: while it has `dy_c W_c^T` for the
           inputs' gradient, the row-dot of that with u is the gate's gradient.
  rows     scales the *partial outputs* of each block of rows. Its backward pass
           computes these once more, a fourth matmul.

The elementwise work per token is Gc * K numbers for columns and Gr * N for
rows, and that decides, see `cheaper_cut`.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Blocks up to this many are unrolled; more are scanned, which keeps compile
# time flat and costs a copy of each block's part.
UNROLLED_BLOCKS = 8

Cut = Literal['rows', 'columns']


def cheaper_cut(rows: int, columns: int, k: int, n: int) -> Cut:
  """Chooses the side to cut by the elementwise work per token.

  Measured on a CPU in float32, forward and backward over a plain matmul's, for
  4096 tokens, K = 512, N = 128 and an 8 x 8 grid: rows 2.9, columns 6.1. The
  fourth matmul of rows is the cheaper one unless the other side has much less
  elementwise work.
  """
  return 'rows' if rows * n <= columns * k else 'columns'


def gated_matmul(
  u: Float[Array, 'B L K'],
  kernel: Float[Array, 'K N'],
  row: Float[Array, '#B S Gr'],
  col: Float[Array, '#B S2 Gc'],
  segment_ids: Int[Array, 'B L'],
  *,
  scale: Float[Array, ''] | float,
  offset: Float[Array, ''] | float,
  cut: Cut | None = None,
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
    cut: the side to cut into blocks; None chooses, see `cheaper_cut`.

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
  y = _gated(
    cut or cheaper_cut(rows, columns, k, n),
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
  return jnp.einsum('blk,blkn->bln', u, gate * kernel[None, None])


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


def _blocks(x, gate):
  """[T, A] -> [T, G, A / G], to be multiplied by gate[:, :, None]."""
  return x.reshape(*gate.shape, -1)


def _scaled(x, gate):
  """Multiplies x [T, A] by gate [T, G], each entry over its block of A."""
  scaled = _blocks(x, gate) * gate[:, :, None]
  return scaled.reshape(x.shape)


def _split(matrix, count):
  """[A, count * b] -> [count, A, b]."""
  return matrix.reshape(matrix.shape[0], count, -1).transpose(1, 0, 2)


def _join(blocks):
  """The inverse of `_split`."""
  return blocks.transpose(1, 0, 2).reshape(blocks.shape[1], -1)


def _scan(body, carry, xs, count):
  unroll = count if count <= UNROLLED_BLOCKS else 1
  return jax.lax.scan(body, carry, xs, unroll=unroll)


def _dot(a, b, contract, accumulate):
  dims = ((contract[:1], contract[1:]), ((), ()))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=accumulate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated(cut, u, kernel, row, col, scale, offset):
  forward = _rows if cut == 'rows' else _columns
  return forward(u, kernel, row, col, scale, offset).astype(u.dtype)


def _forward(cut, *arguments):
  return _gated(cut, *arguments), arguments


def _backward(cut, residuals, dy):
  backward = _rows_backward if cut == 'rows' else _columns_backward
  u, kernel, _, _, scale, offset = residuals
  du, dkernel, drow, dcol = backward(residuals, dy)
  du, dkernel = du.astype(u.dtype), dkernel.astype(kernel.dtype)
  zeros = jnp.zeros_like(scale), jnp.zeros_like(offset)
  return du, dkernel, drow, dcol, *zeros


_gated.defvjp(_forward, _backward)


def _columns(u, kernel, row, col, scale, offset):
  count = col.shape[1]

  def block(carry, inputs):
    weights, factor = inputs
    gate = offset + scale * jax.nn.sigmoid(row * factor[:, None])
    scaled = _scaled(u, gate).astype(u.dtype)
    return carry, _dot(scaled, weights, (1, 0), row.dtype)

  return _join(_scan(block, None, (_split(kernel, count), col.T), count)[1])


def _columns_backward(residuals, dy):
  u, kernel, row, col, scale, offset = residuals
  count, dtype = col.shape[1], row.dtype

  def block(carry, inputs):
    du, drow = carry
    weights, factor, dy_c = inputs
    sigmoid = jax.nn.sigmoid(row * factor[:, None])
    gate = offset + scale * sigmoid
    back = _dot(dy_c, weights, (1, 1), dtype)
    dgate = jnp.sum(_blocks(back, gate) * _blocks(u.astype(dtype), gate), 2)
    dz = dgate * scale * sigmoid * (1 - sigmoid)
    dweights = _dot(_scaled(u, gate).astype(u.dtype), dy_c, (0, 0), dtype)
    carry = du + _scaled(back, gate), drow + dz * factor[:, None]
    return carry, (dweights, jnp.sum(dz * row, axis=1))

  inputs = _split(kernel, count), col.T, _split(dy, count)
  start = jnp.zeros(u.shape, dtype), jnp.zeros_like(row)
  (du, drow), (dkernel, dcol) = _scan(block, start, inputs, count)
  return du, _join(dkernel), drow, dcol.T


def _rows(u, kernel, row, col, scale, offset):
  count, n = row.shape[1], kernel.shape[1]

  def block(y, inputs):
    part, weights, factor = inputs
    gate = offset + scale * jax.nn.sigmoid(factor[:, None] * col)
    return y + _scaled(_dot(part, weights, (1, 0), row.dtype), gate), None

  inputs = _split(u, count), kernel.reshape(count, -1, n), row.T
  start = jnp.zeros((u.shape[0], n), row.dtype)
  return _scan(block, start, inputs, count)[0]


def _rows_backward(residuals, dy):
  u, kernel, row, col, scale, offset = residuals
  count, n, dtype = row.shape[1], kernel.shape[1], row.dtype
  dy_blocks = _blocks(dy.astype(dtype), col)

  def block(dcol, inputs):
    part, weights, factor = inputs
    sigmoid = jax.nn.sigmoid(factor[:, None] * col)
    gate = offset + scale * sigmoid
    product = _dot(part, weights, (1, 0), dtype)
    dgate = jnp.sum(_blocks(product, gate) * dy_blocks, axis=2)
    dz = dgate * scale * sigmoid * (1 - sigmoid)
    scaled = _scaled(dy, gate).astype(u.dtype)
    du = _dot(scaled, weights, (1, 1), dtype)
    dweights = _dot(part, scaled, (0, 0), dtype)
    return dcol + dz * factor[:, None], (du, dweights, jnp.sum(dz * col, 1))

  inputs = _split(u, count), kernel.reshape(count, -1, n), row.T
  dcol, (du, dkernel, drow) = _scan(block, jnp.zeros_like(col), inputs, count)
  return _join(du), dkernel.reshape(kernel.shape), drow.T, dcol
