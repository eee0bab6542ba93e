"""Forms of the gated matmul in plain JAX operations.

`BlockLoop` cuts W along one side and does one matmul per block, for any gates:

  columns  scales the *inputs* of each block of columns. Its backward pass costs
           two plain matmuls like any other: while it has `dy_c W_c^T` for the
           inputs' gradient, the row-dot of that with u is the gate's gradient.
  rows     scales the *partial outputs* of each block of rows. Its backward pass
           computes these once more, a fourth matmul.

The elementwise work per token is Gc * K numbers for columns and Gr * N for
rows. The rows of a decoding step are so few that one batched matmul does all.
Where caches are small, the tokens are taken a chunk at a time, so that what
the blocks add up stays in the cache.

`WeightPerRow` and `WeightPerBatch` gate W itself, where all tokens of a row,
or of the batch, share their gate.

A form's `per_token` makes the gate factors of tokens from those of segments,
`factor_spec` says how a mesh divides them, and `gradients` returns those of u,
kernel, row and col. `offset_scale` are the two constants of the gate.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from hypergrid_jax.ops import relu_dropout, segments
from hypergrid_jax.ops.matmul import matmul

# Blocks up to this many are unrolled; more are scanned, which keeps compile
# time flat and costs a copy of each block.
UNROLLED_BLOCKS = 8

# Up to this many tokens all blocks of rows are multiplied at once.
FEW_TOKENS = 64

Cut = Literal['rows', 'columns']


class Form:
  """What all forms of the gated matmul share."""

  def blocks(self, rows: int, columns: int) -> tuple[int, int]:
    """Returns the grid that the form computes on: this one or a finer one."""
    return rows, columns

  def reads_stacks(self, tokens: int) -> bool:
    """Whether `backward` reads u of one layer in place in a stack of them."""
    del tokens
    return False

  def backward(
    self,
    u,
    kernel,
    row,
    col,
    offset_scale,
    dy,
    layer=None,
    *,
    relu_scale=None,
  ):
    """Returns the gradients of u, kernel, row and col.

    With a layer, u is a stack [N, B, L, K] of all layers' inputs. With
    `relu_scale` the first gradient is that of the ReLU's input, see `Sharded`.
    """
    if layer is not None:
      u = jax.lax.dynamic_index_in_dim(u, layer, keepdims=False)
    du, *others = self.gradients(u, kernel, row, col, offset_scale, dy)
    if relu_scale is not None:
      du = relu_dropout.gradient(relu_scale, u, du)
    return du, *others


@dataclasses.dataclass(frozen=True)
class BlockLoop(Form):
  """One matmul per block of one side of W.

  Attributes:
    cut: the side.
    chunk: most tokens taken at once; None takes all together. Chunks are of
      equal size, the largest up to this one; if that is less than half of it,
      all tokens are taken together.
  """

  cut: Cut
  chunk: int | None = None

  def per_token(self, factor, segment_ids):
    """Gives every token its segment's factor: [#B, S, G] to [B, L, G]."""
    return segments.per_token(factor, segment_ids)

  def factor_spec(self, batch, grid):
    """Returns how the mesh divides the result of `per_token`."""
    return PartitionSpec(batch, None, grid)

  def forward(self, u, kernel, row, col, offset_scale):
    """Returns the product [B, L, N] in u's dtype."""
    forward = _rows if self.cut == 'rows' else _columns

    def one_chunk(_, chunk):
      u, row, col = chunk
      return None, forward(u, kernel, row, col, offset_scale).astype(u.dtype)

    _, y = jax.lax.scan(one_chunk, None, self._chunks(u, row, col))
    return y.reshape(*u.shape[:2], -1)

  def gradients(self, u, kernel, row, col, offset_scale, dy):
    """Returns the gradients of u, kernel, row and col."""
    backward = _rows_backward if self.cut == 'rows' else _columns_backward

    def one_chunk(dkernel, chunk):
      u, row, col, dy = chunk
      du, more, drow, dcol = backward(u, kernel, row, col, offset_scale, dy)
      return dkernel + more, (du.astype(u.dtype), drow, dcol)

    start = jnp.zeros(kernel.shape, row.dtype)
    dkernel, (du, drow, dcol) = jax.lax.scan(
      one_chunk, start, self._chunks(u, row, col, dy)
    )
    return (
      du.reshape(u.shape),
      dkernel,
      drow.reshape(row.shape),
      dcol.reshape(col.shape),
    )

  def _chunks(self, *arrays):
    """Reshapes [B, L, A] to [chunks, tokens, A]."""
    tokens = arrays[0].shape[0] * arrays[0].shape[1]
    most = min(self.chunk or tokens, tokens)
    size = max(n for n in range(1, most + 1) if tokens % n == 0)
    if 2 * size < most:
      size = tokens
    return tuple(x.reshape(-1, size, x.shape[-1]) for x in arrays)


@dataclasses.dataclass(frozen=True)
class WeightPerRow(Form):
  """Gates W for one row of the batch after the other; one segment per row."""

  def per_token(self, factor, segment_ids):
    """Gives every row its factor: [#B, 1, G] to [B, G]."""
    shape = segment_ids.shape[0], factor.shape[2]
    return jnp.broadcast_to(factor[:, 0], shape)

  def factor_spec(self, batch, grid):
    """Returns how the mesh divides the result of `per_token`."""
    return PartitionSpec(batch, grid)

  def forward(self, u, kernel, row, col, offset_scale):
    """Returns the product [B, L, N] in u's dtype."""

    def one_row(_, inputs):
      u, row, col = inputs
      return None, matmul(u, _gated_weight(kernel, row, col, offset_scale))

    return jax.lax.scan(one_row, None, (u, row, col))[1]

  def gradients(self, u, kernel, row, col, offset_scale, dy):
    """Returns the gradients of u, kernel, row and col."""

    def one_row(dkernel, inputs):
      *arguments, dy = inputs

      def product(u, kernel, row, col):
        return matmul(u, _gated_weight(kernel, row, col, offset_scale))

      u, row, col = arguments
      _, pull = jax.vjp(product, u, kernel, row, col)
      du, more, drow, dcol = pull(dy)
      return dkernel + more.astype(dkernel.dtype), (du, drow, dcol)

    start = jnp.zeros(kernel.shape, row.dtype)
    dkernel, (du, drow, dcol) = jax.lax.scan(one_row, start, (u, row, col, dy))
    return du, dkernel, drow, dcol


@dataclasses.dataclass(frozen=True)
class WeightPerBatch(Form):
  """Gates W once, for the whole batch."""

  def per_token(self, factor, segment_ids):
    """Drops the axes of rows and segments: [1, 1, G] to [G]."""
    del segment_ids
    return factor[0, 0]

  def factor_spec(self, batch, grid):
    """Returns how the mesh divides the result of `per_token`."""
    del batch
    return PartitionSpec(grid)

  def forward(self, u, kernel, row, col, offset_scale):
    """Returns the product [B, L, N] in u's dtype."""
    return matmul(u, _gated_weight(kernel, row, col, offset_scale))

  def gradients(self, u, kernel, row, col, offset_scale, dy):
    """Returns the gradients of u, kernel, row and col."""

    def product(u, kernel, row, col):
      return self.forward(u, kernel, row, col, offset_scale)

    return jax.vjp(product, u, kernel, row, col)[1](dy)


def _gated_weight(kernel, row, col, offset_scale):
  """Multiplies [K, N] by a gate [Gr, Gc], each entry over its block."""
  offset, scale = offset_scale
  blocks = kernel.astype(row.dtype).reshape(row.size, -1, kernel.shape[1])
  factor = offset + scale * jax.nn.sigmoid(row[:, None] * col[None, :])
  width = kernel.shape[1] // col.size
  # Spreading along N first keeps the long last axis whole.
  factor = jnp.repeat(factor, width, axis=1)[:, None, :]
  return (blocks * factor).reshape(kernel.shape).astype(kernel.dtype)


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


def _columns(u, kernel, row, col, offset_scale):
  (offset, scale), count = offset_scale, col.shape[1]

  def block(carry, inputs):
    weights, factor = inputs
    gate = offset + scale * jax.nn.sigmoid(row * factor[:, None])
    scaled = _scaled(u, gate).astype(u.dtype)
    return carry, _dot(scaled, weights, (1, 0), row.dtype)

  return _join(_scan(block, None, (_split(kernel, count), col.T), count)[1])


def _columns_backward(u, kernel, row, col, offset_scale, dy):
  (offset, scale), count, dtype = offset_scale, col.shape[1], row.dtype

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


def _rows(u, kernel, row, col, offset_scale):
  (offset, scale), count, n = offset_scale, row.shape[1], kernel.shape[1]

  def block(y, inputs):
    u_block, weights, factor = inputs
    gate = offset + scale * jax.nn.sigmoid(factor[:, None] * col)
    return y + _scaled(_dot(u_block, weights, (1, 0), row.dtype), gate), None

  if u.shape[0] <= FEW_TOKENS:
    return _few_rows(u, kernel, row, col, offset_scale)
  inputs = _split(u, count), kernel.reshape(count, -1, n), row.T
  start = jnp.zeros((u.shape[0], n), row.dtype)
  return _scan(block, start, inputs, count)[0]


def _few_rows(u, kernel, row, col, offset_scale):
  offset, scale = offset_scale
  tokens, count = row.shape
  partial_sums = jax.lax.platform_dependent(
    u.reshape(tokens, count, -1),
    kernel.reshape(count, -1, kernel.shape[1]),
    # XLA has no batched product of bfloat16 into float32 for CPUs.
    cpu=lambda u, kernel: _batched(
      u.astype(row.dtype), kernel.astype(row.dtype), row.dtype
    ),
    default=lambda u, kernel: _batched(u, kernel, row.dtype),
  )
  gate = offset + scale * jax.nn.sigmoid(row.T[:, :, None] * col[None])
  scaled = partial_sums.reshape(*gate.shape, -1) * gate[:, :, :, None]
  return jnp.sum(scaled, axis=0).reshape(tokens, -1)


def _batched(u, kernel, accumulate):
  # With the blocks first no partial product has to be transposed.
  return jnp.einsum(
    'trk,rkn->rtn', u, kernel, preferred_element_type=accumulate
  )


def _rows_backward(u, kernel, row, col, offset_scale, dy):
  (offset, scale), dtype = offset_scale, row.dtype
  count, n = row.shape[1], kernel.shape[1]
  dy_blocks = _blocks(dy.astype(dtype), col)

  def block(dcol, inputs):
    u_block, weights, factor = inputs
    sigmoid = jax.nn.sigmoid(factor[:, None] * col)
    gate = offset + scale * sigmoid
    product = _dot(u_block, weights, (1, 0), dtype)
    dgate = jnp.sum(_blocks(product, gate) * dy_blocks, axis=2)
    dz = dgate * scale * sigmoid * (1 - sigmoid)
    scaled = _scaled(dy, gate).astype(u.dtype)
    du = _dot(scaled, weights, (1, 1), dtype)
    dweights = _dot(u_block, scaled, (0, 0), dtype)
    return dcol + dz * factor[:, None], (du, dweights, jnp.sum(dz * col, 1))

  inputs = _split(u, count), kernel.reshape(count, -1, n), row.T
  dcol, (du, dkernel, drow) = _scan(block, jnp.zeros_like(col), inputs, count)
  return _join(du), dkernel.reshape(kernel.shape), drow.T, dcol
