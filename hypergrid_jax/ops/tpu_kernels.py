"""Pallas kernels of the gated matmul for a TPU's tensor core.

There are two ways to do it. Both cut one side of W into *strips*, each one
matmul, and the other into *bands*, over which a gate is spread elementwise:

  columns  strips are blocks of W's columns, bands blocks of its rows:
             y_s  = (u g_s) W_s
             du   = sum_s g_s (dy_s W_s^T), dg_s = band sums of u (dy_s W_s^T)
             dW_s = (u g_s)^T dy_s
           three matmuls forward and backward, as many as without a gate.
  rows     strips are blocks of rows, bands blocks of columns:
             y    = sum_s g_s (u_s W_s)
             du_s = (dy g_s) W_s^T, dg_s = band sums of dy (u_s W_s)
             dW_s = u_s^T (dy g_s)
           a fourth matmul, u_s W_s once more.

Inside a kernel tokens lie on the 128 lanes and features on the sublanes: there
spreading a gate over the features of a band is a broadcast of sublanes, which
costs nothing. Gates exist only in registers, made from the factors [G, T].

The backward pass is one kernel: u and dy are read once, the gates are computed
once, and dW, in float32, stays in fast memory until all tokens are added. A
weight too large for that is cut into shards that are visited one after the
other: of N forward, of K backward.
"""

import dataclasses
import functools
import operator

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax.ops import relu_dropout, tpu_plans
from hypergrid_jax.ops.tpu_blocks import Grid


def forward(
  plan: tpu_plans.Plan,
  u: Float[Array, 'T K'],
  kernel: Float[Array, 'K N'],
  row: Float[Array, 'Gr T'],
  col: Float[Array, 'Gc T'],
  offset_scale: Float[Array, '2'],
) -> Float[Array, 'T N']:
  """Returns y in u's dtype.

  Args:
    plan: made for these sizes.
    u: inputs, of `plan.tokens` tokens.
    kernel: in u's dtype.
    row: gate factors of every token, float32.
    col: gate factors of every token, float32.
    offset_scale: the constants of the gate, float32.
  """
  grid = Grid(plan, plan.forward)
  y = jax.ShapeDtypeStruct((u.shape[0], kernel.shape[1]), u.dtype)
  if plan.forward.cut == 'columns':
    body = functools.partial(_forward_columns, plan.bfloat16)
    weights = grid.whole(kernel.T)
    factors = grid.factor(col, divided=True), grid.factor(row)
  else:
    body = _forward_rows
    weights = grid.strips(kernel.T, row.shape[0], divided='narrow')
    factors = grid.factor(row), grid.factor(col, divided=True)
  (y,) = grid.call(
    'forward',
    body,
    [grid.tokens(u), weights, *factors],
    [grid.tokens(y, divided=True)],
    offset_scale,
    work=_work(1, u, kernel, row, col),
  )
  return y


def backward(
  plan: tpu_plans.Plan,
  u: Float[Array, '*N T K'],
  kernel: Float[Array, 'K N'],
  row: Float[Array, 'Gr T'],
  col: Float[Array, 'Gc T'],
  offset_scale: Float[Array, '2'],
  dy: Float[Array, 'T N'],
  *,
  relu_scale: float | None = None,
  layer: Int[Array, ''] | None = None,
) -> tuple[
  Float[Array, 'T K'],
  Float[Array, 'K N'],
  Float[Array, 'Gr T'],
  Float[Array, 'Gc T'],
]:
  """Returns the gradients of u, in its dtype, and of the rest, in float32.

  With `relu_scale` the first is the gradient of x, where u is
  `relu_dropout.value(relu_scale, x, keep)`. With `layer` u is a stack of all
  layers' inputs, and that layer's is read in place.
  """
  if plan.backward.cut == 'columns':
    width, run = kernel.shape[1] // col.shape[0], _backward_columns
  else:
    width, run = kernel.shape[0] // row.shape[0], _backward_rows
  # dW_s has the strip on the right of its product, which narrow strips do not
  # fill, or else on the left, which takes turning its part of u or dy.
  on_the_right = width % plan.unit == 0
  transposed = on_the_right != (plan.backward.cut == 'columns')
  options = _BackwardOptions(transposed, plan.bfloat16, relu_scale)
  du, dkernel, drow, dcol = run(
    plan, options, u, kernel, row, col, offset_scale, dy, layer
  )
  # XLA does not take a sum over an axis into what follows.
  dkernel = functools.reduce(operator.add, dkernel)
  if transposed:
    dkernel = dkernel.T
  return du, dkernel, drow.reshape(row.shape), dcol.sum(0)


@dataclasses.dataclass(frozen=True)
class _BackwardOptions:
  """What a backward kernel is compiled for.

  Attributes:
    transposed: whether it adds up dW^T instead of dW.
    bfloat16: see `tpu_plans.Plan`.
    relu_scale: see `backward`.
  """

  transposed: bool
  bfloat16: bool
  relu_scale: float | None


def _backward_columns(
  plan, options, u, kernel, row, col, offset_scale, dy, layer
):
  grid = Grid(plan, plan.backward)
  du, dkernel, dcol, drow = grid.call(
    'backward',
    functools.partial(_columns_gradients, options),
    [
      grid.tokens(dy),
      grid.tokens(u, divided=True),
      grid.strips(kernel, col.shape[0], divided='narrow'),
      grid.factor(col),
      grid.factor(row, divided=True),
    ],
    [
      grid.tokens(_like_one_layer(u), divided=True),
      grid.kernel_gradient(kernel, options.transposed),
      grid.factor_gradient(col),
      grid.factor_gradient(row, divided=True),
    ],
    offset_scale,
    work=_work(2, u, kernel, row, col),
    layer=layer,
  )
  return du, dkernel, drow, dcol


def _backward_rows(plan, options, u, kernel, row, col, offset_scale, dy, layer):
  grid = Grid(plan, plan.backward)
  return grid.call(
    'backward',
    functools.partial(_rows_gradients, options),
    [
      grid.tokens(u, divided=True),
      grid.tokens(dy),
      grid.strips(kernel.T, row.shape[0], divided='wide'),
      grid.whole(kernel),
      grid.factor(row, divided=True),
      grid.factor(col),
    ],
    [
      grid.tokens(_like_one_layer(u), divided=True),
      grid.kernel_gradient(kernel, options.transposed),
      grid.factor_gradient(row, divided=True),
      grid.factor_gradient(col),
    ],
    offset_scale,
    work=_work(3, u, kernel, row, col),
    layer=layer,
  )


def _work(products, u, kernel, row, col):
  """Returns the FLOPs of the products and the number of gates computed."""
  flops = 2 * products * u.shape[-2] * kernel.size
  return flops, row.size * col.shape[0]


def _like_one_layer(u):
  """Returns the shape of one layer's array in a stack of them."""
  return jax.ShapeDtypeStruct(u.shape[-2:], u.dtype)


def _forward_columns(bfloat16, offset_scale, u, weights, strips, bands, y):
  x = _banded(u, bands, bfloat16)
  width = weights.shape[0] // strips.shape[0]
  for s in range(strips.shape[0]):
    span = slice(s * width, (s + 1) * width)
    gate, _ = _gate(offset_scale, strips[s : s + 1, :], bands[...])
    product = _dot(weights[span, :], _scaled(x, gate, u.dtype), (1, 0))
    y[:, span] = product.astype(y.dtype).T


def _forward_rows(offset_scale, u, weights, strips, bands, y):
  total = 0.0
  width = u.shape[1] // strips.shape[0]
  for s in range(strips.shape[0]):
    u_strip = u[:, s * width : (s + 1) * width]
    product = _dot(_strip(weights, s, width), u_strip, (1, 1))
    gate, _ = _gate(offset_scale, strips[s : s + 1, :], bands[...])
    total = total + product.reshape(_banded_shape(bands)) * gate[:, None, :]
  y[...] = total.reshape(y.shape[::-1]).T.astype(y.dtype)


def _columns_gradients(
  options,
  offset_scale,
  dy,
  u,
  weights,
  strips,
  bands,
  du,
  dkernel,
  dstrips,
  dbands,
):
  _zero_at_first_tile(dkernel)
  factor = _banded(u, bands, options.bfloat16)
  x, total, dband = factor.astype(jnp.float32), 0.0, 0.0
  width = dy.shape[1] // strips.shape[0]
  for s in range(strips.shape[0]):
    strip = strips[s : s + 1, :]
    span = slice(s * width, (s + 1) * width)
    gate, slope = _gate(offset_scale, strip, bands[...])
    product = _dot(_strip(weights, s, width), dy[:, span], (1, 1))
    product = product.reshape(x.shape)
    # A scale of all features costs nothing where it scales the gate.
    back = gate if options.relu_scale is None else options.relu_scale * gate
    total = total + product * back[:, None, :]
    dz = jnp.sum(product * x, axis=1) * slope
    dstrips[s : s + 1, :] = jnp.sum(dz * bands[...], axis=0, keepdims=True)
    dband = dband + dz * strip
    scaled = _scaled(factor, gate, u.dtype)
    if options.transposed:
      dkernel[span, :] += _dot(dy[:, span].T, scaled, (1, 1))
    else:
      dkernel[:, span] += _dot(scaled, dy[:, span], (1, 0))
  if options.relu_scale is not None:
    total = jnp.where(x > 0, total, 0.0)
  du[...] = total.reshape(du.shape[::-1]).T.astype(du.dtype)
  dbands[...] = dband


def _rows_gradients(
  options,
  offset_scale,
  u,
  dy,
  weights,
  kernel,
  strips,
  bands,
  du,
  dkernel,
  dstrips,
  dbands,
):
  _zero_at_first_tile(dkernel)
  factor = _banded(dy, bands, options.bfloat16)
  x, dband = factor.astype(jnp.float32), 0.0
  width = u.shape[1] // strips.shape[0]
  for s in range(strips.shape[0]):
    strip = strips[s : s + 1, :]
    span = slice(s * width, (s + 1) * width)
    gate, slope = _gate(offset_scale, strip, bands[...])
    product = _dot(_strip(weights, s, width), u[:, span], (1, 1))
    dz = jnp.sum(product.reshape(x.shape) * x, axis=1) * slope
    dstrips[s : s + 1, :] = jnp.sum(dz * bands[...], axis=0, keepdims=True)
    dband = dband + dz * strip
    scaled = _scaled(factor, gate, u.dtype)
    if options.transposed:
      dkernel[:, span] += _dot(scaled, u[:, span], (1, 0))
    else:
      dkernel[span, :] += _dot(u[:, span].T, scaled, (1, 1))
    back = _dot(kernel[span, :], scaled, (1, 0))
    if options.relu_scale is not None:
      u_strip = u[:, span].astype(jnp.float32).T
      back = relu_dropout.gradient(options.relu_scale, u_strip, back)
    du[:, span] = back.astype(du.dtype).T
  dbands[...] = dband


def _gate(offset_scale, strip, bands):
  """The gate [D, T] of one strip, and its derivative by strip * band."""
  offset, scale = offset_scale[0], offset_scale[1]
  tanh = jnp.tanh(0.5 * strip * bands)  # sigmoid(z) = (1 + tanh(z / 2)) / 2
  gate = (offset + 0.5 * scale) + (0.5 * scale) * tanh
  return gate, (0.25 * scale) * (1.0 - tanh * tanh)


def _banded_shape(bands):
  """Returns the shape [D, A / D, T] of features by band."""
  return bands.shape[0], -1, bands.shape[1]


def _banded(x, bands, bfloat16):
  """Turns [T, A] into [D, A / D, T], in float32 unless gated in bfloat16."""
  width = x.shape[1] // bands.shape[0]
  if not bfloat16 or width % tpu_plans.BFLOAT16_SUBLANES:
    return x[...].astype(jnp.float32).T.reshape(_banded_shape(bands))
  return x[...].T.reshape(_banded_shape(bands))


def _scaled(x, gate, dtype):
  """Multiplies [D, A / D, T] by a gate [D, T]; returns [A, T]."""
  gate = gate.astype(x.dtype)
  return (x * gate[:, None, :]).reshape(-1, x.shape[-1]).astype(dtype)


def _dot(a, b, contract):
  dims = ((contract[:1], contract[1:]), ((), ()))
  return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _strip(ref, s, width):
  if len(ref.shape) == 3:
    return ref[s]
  return ref[:, s * width : (s + 1) * width]


def _zero_at_first_tile(ref):
  @pl.when(pl.program_id(2) == 0)
  def _():
    ref[...] = jnp.zeros_like(ref)
