"""A matmul whose weight is gated block by block, with one gate per segment.

  y[t, n] = sum_k g[t, k // bk, n // bn] u[t, k] W[k, n]
  g[t, r, c] = offset + scale * sigmoid(row[t, r] * col[t, c])

W [K, N] is cut into Gr x Gc blocks of bk x bn. `row` and `col` are the gate's
rank-one factors, given per segment; tokens of a segment share them. The plain
HyperGrid gate is (offset, scale) = (0, 1), the residual one (1, 1), the one
that starts at identity (0, 2); (1, 0) switches the gate off.

`gated_matmul` never holds a gated weight per token, forward or backward, and
keeps only u, W and the gate's factors between the two; so does a ReLU with
dropout on u, when it is done here (`rectifying`). How it is done is chosen by
platform and shape (`choices`): fused kernels on a TPU (`tpu_kernels`), plain
operations elsewhere (`xla_forms`). On a mesh every device does its part
(`partitions`). `reference` has the definition.
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
from hypergrid_jax.ops.partitions import WHOLE, Divided, Partition
from hypergrid_jax.parallel import current_mesh


def gated_matmul(
  u: Float[Array, 'B L K'],
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
  rectifier: relu_dropout.Rectifier | None = None,
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
    implementation: 'auto' chooses; 'xla' takes plain operations, 'pallas' the
      TPU kernels, 'reference' a dense gated weight per token.
    partition: the axes of the current mesh that divide u and the kernel.
    cut: the side to cut into blocks; None takes the cheaper one.
    interpret: runs 'pallas' without a TPU; slow, for tests.
    rectifier: what u goes through first; here, because the backward pass then
      needs neither its input nor a pass over memory.

  Returns:
    y in u's dtype.

  Raises:
    ValueError: the grid does not divide the kernel.
    UserError: the implementation does not exist, or cannot run here.
  """
  b, length, _ = u.shape
  k, n = kernel.shape
  rows, columns = row.shape[-1], col.shape[-1]
  if k % rows or n % columns:
    raise ValueError(
      f'a {rows} x {columns} grid does not divide a kernel of {k} x {n}'
    )
  if implementation == 'reference':
    if rectifier is not None:
      u = relu_dropout.rectify(rectifier, u)
    return reference.reference_gated_matmul(
      u, kernel, row, col, segment_ids, scale=scale, offset=offset
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
    gates=_gates(row, col),
    dtype=u.dtype,
  )
  form = choices.choose(problem, implementation, cut=cut, interpret=interpret)
  blocks = form.blocks(problem.rows, problem.columns)
  accumulate = jnp.promote_types(u.dtype, jnp.float32)

  def spread(factor, count):
    factor = jnp.repeat(factor, count // factor.shape[-1], axis=-1)
    return form.spread(factor.astype(accumulate), segment_ids)

  place = None
  # Other inputs a policy of remat may want to compute again.
  if rectifier is not None and form.reads_stacks(problem.batch * length):
    place = scan_stash.place(u.shape, u.dtype)
  y, stack = _gated(
    Divided(form, axes, None if rectifier is None else rectifier.scale),
    u,
    None if rectifier is None else rectifier.keep,
    kernel.astype(u.dtype),
    spread(row, blocks[0] * shards[0]),
    spread(col, blocks[1] * shards[1]),
    jnp.stack([jnp.asarray(x, accumulate) for x in (offset, scale)]),
    None if place is None else (place.stack, place.layer),
  )
  return y if place is None else place.fill(stack, y)


def _gates(row, col):
  """What has a gate of its own."""
  if row.shape[:2] == col.shape[:2] == (1, 1):
    return 'one'
  return 'row' if row.shape[1] == col.shape[1] == 1 else 'segment'


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated(form, x, keep, kernel, row, col, gate, stash):
  """y, and with a stash, (stack, layer), the stack with u in it."""
  return _forward(form, x, keep, kernel, row, col, gate, stash)[0]


def _forward(form, x, keep, kernel, row, col, gate, stash):
  u = x if form.slope is None else relu_dropout.value(form.slope, x, keep)
  others = kernel, row, col, gate
  y = form.forward(u, *others)
  if stash is None:
    return (y, None), (u, None, *others)
  stack, layer = stash
  stack = jax.lax.dynamic_update_index_in_dim(stack, u, layer, 0)
  return (y, stack), (None, layer, *others)


def _backward(form, kept, cotangents):
  u, layer, *others = kept
  dy, stack = cotangents
  if layer is not None:
    u = stack  # see scan_stash
  du, dkernel, drow, dcol = form.backward(u, *others, dy, layer)
  dgate = jnp.zeros_like(others[-1])
  dstash = None if layer is None else (stack, None)
  return du, None, dkernel, drow, dcol, dgate, dstash


_gated.defvjp(_forward, _backward)
