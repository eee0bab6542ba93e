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

The backward pass is one kernel: u and dy are read once, the gates made once,
and dW, in float32, stays in fast memory until all tokens are added. A weight
too large for that is visited in parts: of N forward, of K backward.
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
  form: Float[Array, '2'],
) -> Float[Array, 'T N']:
  """Returns y in u's dtype.

  Args:
    plan: made for these sizes.
    u: inputs, of `plan.tokens` tokens.
    kernel: in u's dtype.
    row: gate factors of every token, float32.
    col: likewise.
    form: (offset, scale) of the gate, float32.
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
    form,
    work=_work(1, u, kernel, row, col),
  )
  return y


def backward(
  plan: tpu_plans.Plan,
  u: Float[Array, '*N T K'],
  kernel: Float[Array, 'K N'],
  row: Float[Array, 'Gr T'],
  col: Float[Array, 'Gc T'],
  form: Float[Array, '2'],
  dy: Float[Array, 'T N'],
  *,
  u_slope: float | None = None,
  layer: Int[Array, ''] | None = None,
) -> tuple[
  Float[Array, 'T K'],
  Float[Array, 'K N'],
  Float[Array, 'Gr T'],
  Float[Array, 'Gc T'],
]:
  """Returns the gradients of u, in its dtype, and of the rest, in float32.

  With `u_slope` the first is that of x, which u is the `rectifying.value` of.
  With `layer` u is that layer's part of the given stack.
  """
  if plan.backward.cut == 'columns':
    width, run = kernel.shape[1] // col.shape[0], _backward_columns
  else:
    width, run = kernel.shape[0] // row.shape[0], _backward_rows
  # dW_s has the strip on the right of its product, which narrow strips do not
  # fill, or else on the left, which takes turning its part of u or dy.
  on_the_right = width % plan.unit == 0
  transposed = on_the_right != (plan.backward.cut == 'columns')
  how = _How(transposed, plan.bfloat16, u_slope)
  du, dkernel, drow, dcol = run(plan, how, u, kernel, row, col, form, dy, layer)
  # XLA does not take a sum over an axis into what follows.
  dkernel = functools.reduce(operator.add, dkernel)
  if transposed:
    dkernel = dkernel.T
  return du, dkernel, drow.reshape(row.shape), dcol.sum(0)


@dataclasses.dataclass(frozen=True)
class _How:
  """What a backward kernel is made for.

  Attributes:
    transposed: it adds up dW^T.
    bfloat16: see `tpu_plans.Plan`.
    u_slope: see `backward`.
  """

  transposed: bool
  bfloat16: bool
  u_slope: float | None


def _backward_columns(plan, how, u, kernel, row, col, form, dy, layer):
  grid = Grid(plan, plan.backward)
  du, dkernel, dcol, drow = grid.call(
    'backward',
    functools.partial(_columns_gradients, how),
    [
      grid.tokens(dy),
      grid.tokens(u, divided=True),
      grid.strips(kernel, col.shape[0], divided='narrow'),
      grid.factor(col),
      grid.factor(row, divided=True),
    ],
    [
      grid.tokens(_like_one_layer(u), divided=True),
      grid.kernel_gradient(kernel, how.transposed),
      grid.factor_gradient(col),
      grid.factor_gradient(row, divided=True),
    ],
    form,
    work=_work(2, u, kernel, row, col),
    layer=layer,
  )
  return du, dkernel, drow, dcol


def _backward_rows(plan, how, u, kernel, row, col, form, dy, layer):
  grid = Grid(plan, plan.backward)
  return grid.call(
    'backward',
    functools.partial(_rows_gradients, how),
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
      grid.kernel_gradient(kernel, how.transposed),
      grid.factor_gradient(row, divided=True),
      grid.factor_gradient(col),
    ],
    form,
    work=_work(3, u, kernel, row, col),
    layer=layer,
  )


def _work(products, u, kernel, row, col):
  """FLOPs of so many products of tokens and weight; gates, made once each."""
  flops = 2 * products * u.shape[-2] * kernel.size
  return flops, row.size * col.shape[0]


def _like_one_layer(u):
  """The shape of one layer's part of a stack."""
  return jax.ShapeDtypeStruct(u.shape[-2:], u.dtype)


def _forward_columns(bfloat16, form, u, weights, strips, bands, y):
  x = _bands(u, bands, bfloat16)
  width = weights.shape[0] // strips.shape[0]
  for s in range(strips.shape[0]):
    place = slice(s * width, (s + 1) * width)
    gate, _ = _gate(form, strips[s : s + 1, :], bands[...])
    part = _dot(weights[place, :], _scaled(x, gate, u.dtype), (1, 0))
    y[:, place] = part.astype(y.dtype).T


def _forward_rows(form, u, weights, strips, bands, y):
  total = 0.0
  width = u.shape[1] // strips.shape[0]
  for s in range(strips.shape[0]):
    part = u[:, s * width : (s + 1) * width]
    product = _dot(_strip(weights, s, width), part, (1, 1))
    gate, _ = _gate(form, strips[s : s + 1, :], bands[...])
    total = total + product.reshape(_spread(bands)) * gate[:, None, :]
  y[...] = total.reshape(y.shape[::-1]).T.astype(y.dtype)


def _columns_gradients(
  how,
  form,
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
  factor = _bands(u, bands, how.bfloat16)
  x, total, dband = factor.astype(jnp.float32), 0.0, 0.0
  width = dy.shape[1] // strips.shape[0]
  for s in range(strips.shape[0]):
    strip = strips[s : s + 1, :]
    place = slice(s * width, (s + 1) * width)
    gate, slope = _gate(form, strip, bands[...])
    product = _dot(_strip(weights, s, width), dy[:, place], (1, 1))
    product = product.reshape(x.shape)
    # A slope of all features costs nothing where it scales the gate.
    back = gate if how.u_slope is None else how.u_slope * gate
    total = total + product * back[:, None, :]
    dz = jnp.sum(product * x, axis=1) * slope
    dstrips[s : s + 1, :] = jnp.sum(dz * bands[...], axis=0, keepdims=True)
    dband = dband + dz * strip
    scaled = _scaled(factor, gate, u.dtype)
    if how.transposed:
      dkernel[place, :] += _dot(dy[:, place].T, scaled, (1, 1))
    else:
      dkernel[:, place] += _dot(scaled, dy[:, place], (1, 0))
  if how.u_slope is not None:
    total = jnp.where(x > 0, total, 0.0)
  du[...] = total.reshape(du.shape[::-1]).T.astype(du.dtype)
  dbands[...] = dband


def _rows_gradients(
  how,
  form,
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
  factor = _bands(dy, bands, how.bfloat16)
  x, dband = factor.astype(jnp.float32), 0.0
  width = u.shape[1] // strips.shape[0]
  for s in range(strips.shape[0]):
    strip = strips[s : s + 1, :]
    place = slice(s * width, (s + 1) * width)
    gate, slope = _gate(form, strip, bands[...])
    product = _dot(_strip(weights, s, width), u[:, place], (1, 1))
    dz = jnp.sum(product.reshape(x.shape) * x, axis=1) * slope
    dstrips[s : s + 1, :] = jnp.sum(dz * bands[...], axis=0, keepdims=True)
    dband = dband + dz * strip
    scaled = _scaled(factor, gate, u.dtype)
    if how.transposed:
      dkernel[:, place] += _dot(scaled, u[:, place], (1, 0))
    else:
      dkernel[place, :] += _dot(u[:, place].T, scaled, (1, 1))
    back = _dot(kernel[place, :], scaled, (1, 0))
    if how.u_slope is not None:
      part = u[:, place].astype(jnp.float32).T
      back = relu_dropout.gradient(how.u_slope, part, back)
    du[:, place] = back.astype(du.dtype).T
  dbands[...] = dband


def _gate(form, strip, bands):
  """The gate [D, T] of one strip, and its derivative by strip * band."""
  offset, scale = form[0], form[1]
  tanh = jnp.tanh(0.5 * strip * bands)  # sigmoid(z) = (1 + tanh(z / 2)) / 2
  gate = (offset + 0.5 * scale) + (0.5 * scale) * tanh
  return gate, (0.25 * scale) * (1.0 - tanh * tanh)


def _spread(bands):
  """The shape [D, A / D, T] of features by band."""
  return bands.shape[0], -1, bands.shape[1]


def _bands(x, bands, bfloat16):
  """[T, A] -> [D, A / D, T], to be gated as it is or else in float32."""
  width = x.shape[1] // bands.shape[0]
  if not bfloat16 or width % tpu_plans.BFLOAT16_SUBLANES:
    return x[...].astype(jnp.float32).T.reshape(_spread(bands))
  return x[...].T.reshape(_spread(bands))


def _scaled(x, gate, dtype):
  """[D, A / D, T] times a gate [D, T] -> [A, T]."""
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
