"""The gated matmul against loops, its gradients, and what it may hold."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.ops import gated_matmul as ops
from tests import tolerances

FORMS = {'plain': (0.0, 1.0), 'residual': (1.0, 1.0), 'identity': (0.0, 2.0)}
OFF = (1.0, 0.0)
CUTS = {
  cut: functools.partial(ops.gated_matmul, cut=cut)
  for cut in ('rows', 'columns')
}
# B, L, S, K, N, grid rows, grid columns; 9 blocks and more are scanned.
SHAPES = {
  'one block': (2, 3, 1, 5, 7, 1, 1),
  'rows only': (2, 5, 2, 6, 7, 3, 1),
  'columns only': (3, 4, 2, 5, 8, 1, 4),
  'uneven': (3, 7, 4, 15, 8, 5, 2),
  'scanned': (2, 5, 3, 4, 18, 2, 9),
  'scanned rows': (3, 4, 2, 20, 6, 10, 3),
  'single entries': (2, 3, 2, 4, 6, 4, 6),
}


def case(shape, *, row_shape=None, col_shape=None, seed=0, dtype=np.float64):
  """Random arguments and a cotangent; uneven segments, one padding token."""
  b, length, segments, k, n, grid_rows, grid_cols = shape
  rng = np.random.default_rng(seed)
  row_shape = (b, segments) if row_shape is None else row_shape
  col_shape = (b, segments) if col_shape is None else col_shape
  ids = np.sort(rng.integers(1, segments + 1, (b, length)), axis=1)
  ids[0, -1] = 0
  arguments = (
    rng.standard_normal((b, length, k)),
    rng.standard_normal((k, n)),
    2 * rng.standard_normal((*row_shape, grid_rows)),
    2 * rng.standard_normal((*col_shape, grid_cols)),
  )
  dy = rng.standard_normal((b, length, n))
  return *(x.astype(dtype) for x in arguments), ids.astype(np.int32), dy


def loops(u, kernel, row, col, ids, offset, scale):
  """The definition, one multiplication at a time."""
  b, length, k = u.shape
  n = kernel.shape[1]
  block_rows, block_cols = k // row.shape[-1], n // col.shape[-1]
  y = np.zeros((b, length, n))
  for at, t in np.ndindex(b, length):
    segment = max(ids[at, t] - 1, 0)
    r = row[at % row.shape[0], segment % row.shape[1]]
    c = col[at % col.shape[0], segment % col.shape[1]]
    for j in range(n):
      for i in range(k):
        z = r[i // block_rows] * c[j // block_cols]
        gate = offset + scale / (1 + np.exp(-z))
        y[at, t, j] += gate * u[at, t, i] * kernel[i, j]
  return y


def dense_gradients(u, kernel, row, col, ids, offset, scale, dy):
  """Gradients by hand, with the dense gate of every token; NumPy only."""
  k, n = kernel.shape
  segment = np.maximum(ids - 1, 0)
  at = np.arange(len(u))[:, None]

  def spread(factor):
    b, s = factor.shape[:2]
    return factor[at % b, segment % s], (at % b, segment % s)

  (r, row_place), (c, col_place) = spread(row), spread(col)
  sigmoid = 1 / (1 + np.exp(-r[..., :, None] * c[..., None, :]))
  tile = np.ones((k // row.shape[-1], n // col.shape[-1]))
  gate = np.kron(offset + scale * sigmoid, tile)
  outer = u[..., :, None] * dy[..., None, :]
  blocks = (outer * kernel).reshape(
    *u.shape[:2], row.shape[-1], -1, col.shape[-1], tile.shape[1]
  )
  dz = blocks.sum((3, 5)) * scale * sigmoid * (1 - sigmoid)
  drow, dcol = np.zeros_like(row), np.zeros_like(col)
  np.add.at(drow, row_place, (dz * c[..., None, :]).sum(-1))
  np.add.at(dcol, col_place, (dz * r[..., :, None]).sum(-2))
  du = np.einsum('bln,blkn->blk', dy, gate * kernel)
  return du, (gate * outer).sum((0, 1)), drow, dcol


@functools.partial(jax.jit, static_argnames=('form', 'function'))
def value_and_gradients(
  u, kernel, row, col, ids, dy, *, form, function=ops.gated_matmul
):
  offset, scale = form
  y, pull = jax.vjp(
    lambda *x: function(*x, ids, offset=offset, scale=scale),
    *(u, kernel, row, col),
  )
  return y, pull(dy.astype(y.dtype))


def assert_equal_to_dense(arguments, form, cuts=tuple(CUTS)):
  *inputs, ids, dy = arguments
  expected = loops(*inputs, ids, *form)
  dense = dense_gradients(*inputs, ids, *form, dy)
  for cut in cuts:
    y, gradients = value_and_gradients(
      *arguments, form=form, function=CUTS[cut]
    )
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12, err_msg=cut)
    for name, actual, desired in zip(
      ('u', 'kernel', 'row', 'col'), gradients, dense, strict=True
    ):
      np.testing.assert_allclose(
        actual, desired, rtol=1e-12, atol=1e-12, err_msg=f'{cut} {name}'
      )


@pytest.mark.parametrize(
  ('rows', 'columns', 'k', 'n', 'cut'),
  [
    (8, 8, 512, 128, 'rows'),  # 8 * 128 numbers per token, not 8 * 512
    (8, 8, 128, 512, 'columns'),
    (16, 2, 512, 128, 'columns'),
    (1, 4, 96, 96, 'rows'),
  ],
)
def test_the_side_with_less_elementwise_work_is_cut(rows, columns, k, n, cut):
  assert ops.cheaper_cut(rows, columns, k, n) == cut


@pytest.mark.parametrize('form', FORMS)
def test_reference_equals_loops(x64, form):
  *inputs, ids, _ = case(SHAPES['uneven'])
  offset, scale = FORMS[form]
  reference = functools.partial(
    ops.reference_gated_matmul, offset=offset, scale=scale
  )
  y = jax.jit(reference)(*inputs, ids)
  expected = loops(*inputs, ids, offset, scale)
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
  ('shape', 'form'),
  list(zip(SHAPES, [*FORMS, *FORMS, 'identity'], strict=True)),
)
def test_values_and_gradients_equal_the_dense_gate(x64, shape, form):
  assert_equal_to_dense(case(SHAPES[shape]), FORMS[form])


@pytest.mark.parametrize(
  ('row_shape', 'col_shape'),
  [((1, 1), (3, 4)), ((3, 4), (1, 1)), ((3, 1), (1, 1))],
)
def test_broadcast_factors_get_the_sum_of_gradients(x64, row_shape, col_shape):
  arguments = case(SHAPES['uneven'], row_shape=row_shape, col_shape=col_shape)
  assert_equal_to_dense(arguments, FORMS['identity'])


@given(
  sizes=st.tuples(*(st.integers(1, 4) for _ in range(5))),
  grid=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 8, 9])),
  form=st.sampled_from(sorted(FORMS)),
)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
def test_any_shape_equals_the_dense_gate(sizes, grid, form):
  b, length, segments, block_rows, block_cols = sizes
  shape = (b, length, segments, grid[0] * block_rows, grid[1] * block_cols)
  with jax.enable_x64(True):
    assert_equal_to_dense(case((*shape, *grid)), FORMS[form])


def test_jax_differentiates_the_reference_to_the_same_gradients(x64):
  *inputs, ids, dy = case(SHAPES['scanned'])
  results = [
    value_and_gradients(
      *inputs, ids, dy, form=FORMS['residual'], function=function
    )
    for function in (ops.gated_matmul, ops.reference_gated_matmul)
  ]
  for actual, desired in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(actual, desired, rtol=1e-12, atol=1e-12)


def test_switched_off_it_is_the_plain_matmul_and_leaves_the_factors(x64):
  *inputs, ids, dy = case(SHAPES['uneven'])
  y, gradients = value_and_gradients(*inputs, ids, dy, form=OFF)
  u, kernel = inputs[:2]
  np.testing.assert_allclose(y, u @ kernel, rtol=0, atol=1e-12)
  np.testing.assert_allclose(gradients[0], dy @ kernel.T, rtol=0, atol=1e-12)
  assert not np.any(gradients[2])
  assert not np.any(gradients[3])


def test_gates_that_overflow_the_exponential_stay_finite(x64):
  u, kernel, row, col, ids, dy = case(SHAPES['uneven'])
  y, gradients = value_and_gradients(
    u, kernel, 1e3 * row, 1e3 * col, ids, dy, form=FORMS['plain']
  )
  with np.errstate(over='ignore'):
    expected = loops(u, kernel, 1e3 * row, 1e3 * col, ids, *FORMS['plain'])
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
  assert all(np.all(np.isfinite(leaf)) for leaf in gradients)


@pytest.mark.parametrize('cut', CUTS)
@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
def test_low_precision_is_near_float64(dtype, cut):
  """Activations in `dtype`, parameters and their gradients in float32."""
  shape = (3, 7, 4, 24, 16, 4, 8)
  u, *parameters, ids, dy = case(shape, dtype=np.float32)
  u = np.asarray(u, dtype)
  y, gradients = value_and_gradients(
    u, *parameters, ids, dy, form=FORMS['identity'], function=CUTS[cut]
  )
  assert y.dtype == gradients[0].dtype == dtype
  exact = [np.float64(x) for x in (u, *parameters)]
  desired = (
    loops(*exact, ids, *FORMS['identity']),
    *dense_gradients(*exact, ids, *FORMS['identity'], dy),
  )
  for actual, expected in zip((y, *gradients), desired, strict=True):
    size = np.abs(expected).max()
    np.testing.assert_allclose(
      np.float64(actual) / size, expected / size, **tolerances.of(dtype)
    )
  assert {leaf.dtype for leaf in gradients[1:]} == {np.dtype(np.float32)}


@pytest.mark.parametrize('grid', [(4, 5), (8, 10)])
def test_holds_no_weight_per_example(grid):
  """Nothing in forward or backward is larger than one kernel."""
  b, length, k, n = 6, 2, 32, 40
  arguments = case((b, length, 2, k, n, *grid), dtype=np.float32)

  def largest(function):
    jaxpr = jax.make_jaxpr(
      functools.partial(
        value_and_gradients, form=FORMS['plain'], function=function
      )
    )(*arguments)
    return max(map(np.prod, _shapes(jaxpr.jaxpr)))

  assert {cut: largest(CUTS[cut]) for cut in CUTS} == dict.fromkeys(CUTS, k * n)
  assert largest(ops.reference_gated_matmul) == b * length * k * n


def _shapes(jaxpr):
  for equation in jaxpr.eqns:
    yield from (variable.aval.shape for variable in equation.outvars)
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from _shapes(inner)


def test_a_grid_that_does_not_divide_the_kernel_is_refused():
  *inputs, ids, _ = case((2, 3, 2, 6, 8, 3, 2), dtype=np.float32)
  with pytest.raises(ValueError, match='3 x 2 grid .* 6 x 7'):
    ops.gated_matmul(
      jnp.asarray(inputs[0]),
      jnp.asarray(inputs[1][:, :7]),
      jnp.asarray(inputs[2]),
      jnp.asarray(inputs[3]),
      jnp.asarray(ids),
      scale=1.0,
      offset=0.0,
    )
