"""A matmul whose weight is gated block by block, with one gate per segment.

  y[t, n] = sum_k g[t, k // bk, n // bn] u[t, k] W[k, n]
  g[t, r, c] = offset + scale * sigmoid(row[t, r] * col[t, c])

W [K, N] is cut into Gr x Gc blocks of bk x bn. `row` and `col` are the gate's
rank-one factors, given per segment; tokens of a segment share them. The plain
HyperGrid gate is (offset, scale) = (0, 1), the residual one (1, 1), the one
that starts at identity (0, 2); (1, 0) switches the gate off.

`gated_matmul` never holds a gated weight per token, forward or backward, and
keeps only u, W and the gate's factors between the two, also where u is a ReLU
with dropout (`relu_dropout`). How it is computed depends on platform and shape
(`choices`): fused kernels on a TPU (`tpu_kernels`), plain operations elsewhere
(`xla_forms`). On a mesh every device computes its shard (`sharded`).
`reference` has the definition.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax.ops import (
  choices,
  reference,
  relu_dropout,
  scan_stash,
  xla_forms,
)
from hypergrid_jax.ops.relu_dropout import ReluDropout
from hypergrid_jax.ops.sharded import WHOLE, Partition, Sharded
from hypergrid_jax.parallel import current_mesh


def gated_matmul(
  u: Float[Array, 'B L K'] | ReluDropout,
  kernel: Float[Array, 'K N'],
  row: Float[Array, '#B S Gr'],
  col: Float[Array, '#B S2 Gc'],
  segment_ids: Int[Array, 'B L'],
  *,
  scale: Float[Array, ''] | float,
  offset: Float[Array, ''] | float,
  implementation: choices.Implementation = 'auto',
  partition: Partition = WHOLE,
  cut: xla_forms.Cut | None = None,
  interpret: bool = False,
) -> Float[Array, 'B L N']:
  """Multiplies by a kernel gated per segment, without per-example weights.

  Args:
    u: inputs, or ReLU and dropout of some; their dtype is the dtype of the
      matmuls, which accumulate in at least float32.
    kernel: the weight W, cast to u's dtype.
    row: the gate's factor over blocks of K, per segment; one row of the batch
      or one segment broadcasts.
    col: the gate's factor over blocks of N, in the same way.
    segment_ids: [B, L], 1-based; 0 (padding) uses segment 1's gate.
    scale: multiplies the sigmoid; not differentiated.
    offset: is added to it; not differentiated.
    implementation: 'auto' chooses; 'xla' takes plain operations, 'pallas' the
      TPU kernels, 'reference' a dense gated weight per token.
    partition: the axes of the current mesh that divide u and the kernel.
    cut: the side to cut into blocks; None takes the cheaper one.
    interpret: runs 'pallas' without a TPU; slow, for tests.

  Returns:
    y in u's dtype.

  Raises:
    ValueError: the grid does not divide the kernel.
    UserError: the implementation does not exist, or cannot run here.
  """
  step = u if isinstance(u, ReluDropout) else None
  x = u if step is None else step.x
  b, length, _ = x.shape
  k, n = kernel.shape
  rows, columns = row.shape[-1], col.shape[-1]
  if k % rows or n % columns:
    raise ValueError(
      f'a {rows} x {columns} grid does not divide a kernel of {k} x {n}'
    )
  if implementation == 'reference':
    return reference.reference_gated_matmul(
      x if step is None else step.value(),
      kernel,
      row,
      col,
      segment_ids,
      scale=scale,
      offset=offset,
    )
  axes = partition.on_current_mesh(b, k, n)
  shards = (
    current_mesh.axis_size(axes.inputs),
    current_mesh.axis_size(axes.outputs),
  )
  problem = choices.Problem(
    batch=b // current_mesh.axis_size(axes.batch),
    length=length,
    k=k // shards[0],
    n=n // shards[1],
    # A block that lies on several devices is several blocks of the same gate.
    rows=math.lcm(rows, shards[0]) // shards[0],
    columns=math.lcm(columns, shards[1]) // shards[1],
    gates=_gates_per(row, col),
    dtype=x.dtype,
  )
  form = choices.choose(problem, implementation, cut=cut, interpret=interpret)
  blocks = form.blocks(problem.rows, problem.columns)
  accumulate = jnp.promote_types(x.dtype, jnp.float32)

  def per_token(factor, count):
    factor = jnp.repeat(factor, count // factor.shape[-1], axis=-1)
    return form.per_token(factor.astype(accumulate), segment_ids)

  slot = None
  # Other inputs a policy of remat may want to compute again.
  if step is not None and form.reads_stacks(problem.batch * length):
    slot = scan_stash.slot(x.shape, x.dtype)
  y, stack = _gated(
    Sharded(form, axes, None if step is None else step.scale),
    x,
    None if step is None else step.keep,
    kernel.astype(x.dtype),
    per_token(row, blocks[0] * shards[0]),
    per_token(col, blocks[1] * shards[1]),
    jnp.stack([jnp.asarray(c, accumulate) for c in (offset, scale)]),
    None if slot is None else (slot.stack, slot.layer),
  )
  return y if slot is None else slot.fill(stack, y)


def _gates_per(row, col):
  """Returns what has a gate of its own: segment, row, or the whole batch."""
  if row.shape[:2] == col.shape[:2] == (1, 1):
    return 'batch'
  return 'row' if row.shape[1] == col.shape[1] == 1 else 'segment'


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated(form, x, keep, kernel, row, col, offset_scale, stash):
  """Returns y; with a stash (stack, layer) also the stack with u in it."""
  return _forward(form, x, keep, kernel, row, col, offset_scale, stash)[0]


def _forward(form, x, keep, kernel, row, col, offset_scale, stash):
  u = x
  if form.relu_scale is not None:
    u = relu_dropout.value(form.relu_scale, x, keep)
  others = kernel, row, col, offset_scale
  y = form.forward(u, *others)
  if stash is None:
    return (y, None), (u, None, *others)
  stack, layer = stash
  stack = jax.lax.dynamic_update_index_in_dim(stack, u, layer, 0)
  return (y, stack), (None, layer, *others)


def _backward(form, residuals, cotangents):
  u, layer, *others = residuals
  dy, stack = cotangents
  if layer is not None:
    u = stack  # all layers' inputs: see scan_stash
  du, dkernel, drow, dcol = form.backward(u, *others, dy, layer)
  doffset_scale = jnp.zeros_like(others[-1])
  dstash = None if layer is None else (stack, None)
  return du, None, dkernel, drow, dcol, doffset_scale, dstash


_gated.defvjp(_forward, _backward)
