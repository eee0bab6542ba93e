"""The gated matmul against loops, its gradients, and what it may hold."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.ops import relu_dropout
from hypergrid_jax.ops.gated_matmul import gated_matmul
from hypergrid_jax.ops.reference import reference_gated_matmul
from tests import tolerances
from tests.ops import dense

FORMS, OFF = dense.FORMS, dense.OFF
CUTS = {
  cut: functools.partial(gated_matmul, cut=cut) for cut in ('rows', 'columns')
}
KERNELS = {
  cut: functools.partial(
    gated_matmul, cut=cut, implementation='pallas', interpret=True
  )
  for cut in CUTS
}
# B, L, S, K, N, grid rows, grid columns; 9 blocks and more are scanned, and up
# to 64 tokens are multiplied by all blocks of rows at once.
SHAPES = {
  'one block': (2, 3, 1, 5, 7, 1, 1),
  'rows only': (2, 5, 2, 6, 7, 3, 1),
  'columns only': (3, 4, 2, 5, 8, 1, 4),
  'uneven': (3, 23, 4, 15, 8, 5, 2),
  'scanned': (2, 5, 3, 4, 18, 2, 9),
  'scanned rows': (3, 22, 2, 20, 6, 10, 3),
  'single entries': (2, 3, 2, 4, 6, 4, 6),
}
# For the TPU kernels and low precision. A block of the finest is 5 x 3.
GRIDS = {
  'one gate': (3, 50, 1, 24, 40, 1, 1),
  'rows only': (2, 40, 5, 48, 20, 6, 1),
  'columns only': (2, 40, 3, 20, 48, 1, 4),
  'wide blocks': (2, 70, 7, 256, 128, 4, 2),
  'fast grid': (1, 130, 40, 64, 96, 8, 6),
  'many rows': (1, 130, 40, 96, 64, 16, 4),
}
FINEST = (1, 70, 11, 320, 192, 64, 64)


@functools.partial(jax.jit, static_argnames=('form', 'function'))
def value_and_gradients(
  u, kernel, row, col, ids, dy, *, form, function=gated_matmul
):
  offset, scale = form
  y, pull = jax.vjp(
    lambda *x: function(*x, ids, offset=offset, scale=scale),
    *(u, kernel, row, col),
  )
  return y, *pull(dy.astype(y.dtype))


def assert_equal_to_dense(arguments, form, functions=CUTS, dtype=np.float64):
  """Compares with float64, given numbers rounded to the activations' dtype."""
  u, *parameters, ids, dy = arguments
  u, dy = u.astype(dtype), dy.astype(dtype)
  exact = (np.float64(x) for x in (u, *parameters))
  desired = dense.value_and_gradients(*exact, ids, np.float64(dy), *form)
  for name, function in functions.items():
    actual = value_and_gradients(
      u, *parameters, ids, dy, form=form, function=function
    )
    assert actual[0].dtype == actual[1].dtype == dtype
    assert {leaf.dtype for leaf in actual[2:]} == {parameters[0].dtype}
    close = tolerances.ONE_MATMUL[np.dtype(dtype)]
    dense.assert_close(actual, desired, close, name)


@pytest.mark.parametrize('form', FORMS)
def test_reference_and_dense_gates_equal_loops(x64, form):
  *inputs, ids, dy = dense.case(SHAPES['uneven'])
  offset, scale = FORMS[form]
  expected = dense.loops(*inputs, ids, offset, scale)
  y = jax.jit(reference_gated_matmul)(*inputs, ids, offset=offset, scale=scale)
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
  y, *_ = dense.value_and_gradients(*inputs, ids, dy, offset, scale)
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
  ('shape', 'form'),
  list(zip(SHAPES, [*FORMS, *FORMS, 'identity'], strict=True)),
)
def test_values_and_gradients_equal_the_dense_gate(x64, shape, form):
  assert_equal_to_dense(dense.case(SHAPES[shape]), FORMS[form])


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
@pytest.mark.parametrize('shape', GRIDS)
def test_the_tpu_kernels_equal_the_dense_gate(shape, dtype):
  """Activations in `dtype`, parameters and their gradients in float32."""
  arguments = dense.case(GRIDS[shape], dtype=np.float32)
  assert_equal_to_dense(arguments, FORMS['identity'], KERNELS, dtype)


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
@pytest.mark.parametrize('shape', ['fast grid', 'many rows'])
def test_low_precision_is_near_float64(shape, dtype):
  arguments = dense.case(GRIDS[shape], dtype=np.float32)
  assert_equal_to_dense(arguments, FORMS['residual'], CUTS, dtype)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
@pytest.mark.parametrize('functions', [CUTS, KERNELS], ids=['xla', 'pallas'])
def test_the_finest_grid_equals_the_dense_gate(functions, dtype):
  arguments = dense.case(FINEST, dtype=np.float32)
  assert_equal_to_dense(arguments, FORMS['plain'], functions, dtype)


@pytest.mark.parametrize(
  ('row_shape', 'col_shape'),
  [((1, 1), (3, 4)), ((3, 4), (1, 1)), ((3, 1), (1, 1)), ((1, 1), (1, 1))],
)
def test_broadcast_factors_get_the_sum_of_gradients(row_shape, col_shape):
  shapes = {'row_shape': row_shape, 'col_shape': col_shape}
  with jax.enable_x64(True):
    assert_equal_to_dense(
      dense.case(SHAPES['uneven'], **shapes), FORMS['identity']
    )
  arguments = dense.case(SHAPES['uneven'], **shapes, dtype=np.float32)
  kernel = {'kernel': KERNELS['columns']}
  assert_equal_to_dense(arguments, FORMS['identity'], kernel, np.float32)


@pytest.mark.parametrize(
  ('length', 'row_shape'),
  [(63, (2, 1)), (64, (2, 1)), (64, (1, 1))],
  ids=['blocks', 'weight per row', 'one weight'],
)
def test_gates_of_whole_rows_equal_the_dense_gate(x64, length, row_shape):
  arguments = dense.case(
    (2, length, 1, 6, 8, 3, 2), row_shape=row_shape, col_shape=(1, 1)
  )
  auto = {'auto': gated_matmul}
  assert_equal_to_dense(arguments, FORMS['residual'], auto)


@pytest.mark.parametrize(
  ('length', 'row_shape', 'function'),
  [
    (70, (3, 1), CUTS['columns']),
    (70, (3, 1), gated_matmul),
    (70, (1, 1), gated_matmul),
    (70, (3, 4), KERNELS['columns']),
    (70, (3, 4), KERNELS['rows']),
    (5, (3, 4), functools.partial(gated_matmul, implementation='reference')),
  ],
  ids=['blocks', 'weight per row', 'one weight', 'columns', 'rows', 'dense'],
)
def test_relu_and_dropout_come_before_the_product(length, row_shape, function):
  *inputs, ids, dy = dense.case(
    (3, length, row_shape[1], 24, 16, 4, 2),
    row_shape=row_shape,
    col_shape=(1, 1),
    dtype=np.float32,
  )
  keep = np.random.default_rng(1).random((3, 1, 24)) < 0.7

  def with_relu_dropout(x, *arguments, **options):
    step = relu_dropout.ReluDropout(x, jnp.asarray(keep), 1.5)
    return function(step, *arguments, **options)

  through = keep & (inputs[0] > 0)
  u = np.where(through, 1.5 * np.float64(inputs[0]), 0)
  exact = (u, *map(np.float64, inputs[1:]))
  y, du, *others = dense.value_and_gradients(*exact, ids, dy, *FORMS['plain'])
  desired = y, np.where(through, 1.5 * du, 0), *others
  actual = value_and_gradients(
    *(*inputs, ids, dy.astype(np.float32)),
    form=FORMS['plain'],
    function=with_relu_dropout,
  )
  close = tolerances.ONE_MATMUL[np.dtype(np.float32)]
  dense.assert_close(actual, desired, close)


@given(
  sizes=st.tuples(*(st.integers(1, 4) for _ in range(5))),
  grid=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 8, 9])),
  form=st.sampled_from(sorted(FORMS)),
)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_any_shape_equals_the_dense_gate(sizes, grid, form):
  b, length, segments, block_rows, block_cols = sizes
  shape = (b, length, segments, grid[0] * block_rows, grid[1] * block_cols)
  with jax.enable_x64(True):
    assert_equal_to_dense(dense.case((*shape, *grid)), FORMS[form])


@given(
  rows=st.tuples(st.integers(1, 3), st.integers(1, 200), st.integers(1, 40)),
  blocks=st.tuples(st.integers(1, 12), st.integers(1, 12)),
  grid=st.tuples(*[st.sampled_from([1, 2, 3, 4, 6, 8, 12])] * 2),
  form=st.sampled_from(sorted(FORMS)),
  cut=st.sampled_from(sorted(KERNELS)),
  dtype=st.sampled_from([np.float32, jnp.bfloat16]),
)
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
def test_the_tpu_kernels_take_any_shape(rows, blocks, grid, form, cut, dtype):
  shape = (*rows, grid[0] * blocks[0], grid[1] * blocks[1], *grid)
  arguments = dense.case(shape, dtype=np.float32)
  kernel = {cut: KERNELS[cut]}
  assert_equal_to_dense(arguments, FORMS[form], kernel, dtype)


def test_jax_differentiates_the_reference_to_the_same_gradients(x64):
  *inputs, ids, dy = dense.case(SHAPES['scanned'])
  results = [
    value_and_gradients(
      *inputs,
      ids,
      dy,
      form=FORMS['residual'],
      function=functools.partial(gated_matmul, implementation=implementation),
    )
    for implementation in ('xla', 'reference')
  ]
  dense.assert_close(*results, 1e-12)


@pytest.mark.parametrize(
  'function', [gated_matmul, KERNELS['columns']], ids=['xla', 'pallas']
)
def test_switched_off_it_is_the_plain_matmul_and_leaves_the_factors(function):
  *inputs, ids, dy = dense.case(SHAPES['uneven'], dtype=np.float32)
  y, du, _, drow, dcol = value_and_gradients(
    *inputs, ids, dy, form=OFF, function=function
  )
  u, kernel = inputs[:2]
  np.testing.assert_allclose(y, u @ kernel, **tolerances.FLOAT32)
  np.testing.assert_allclose(du, dy @ kernel.T, **tolerances.FLOAT32)
  assert not np.any(drow)
  assert not np.any(dcol)


@pytest.mark.parametrize(
  'function', [gated_matmul, KERNELS['rows']], ids=['xla', 'pallas']
)
def test_gates_that_overflow_the_exponential_stay_finite(function):
  u, kernel, row, col, ids, dy = dense.case(SHAPES['uneven'], dtype=np.float32)
  y, *gradients = value_and_gradients(
    *(u, kernel, 1e3 * row, 1e3 * col, ids, dy),
    form=FORMS['plain'],
    function=function,
  )
  with np.errstate(over='ignore'):
    expected = dense.loops(
      u, kernel, 1e3 * row, 1e3 * col, ids, *FORMS['plain']
    )
  np.testing.assert_allclose(y, expected, **tolerances.FLOAT32)
  assert all(np.all(np.isfinite(leaf)) for leaf in gradients)


@pytest.mark.parametrize('grid', [(4, 5), (8, 10)])
def test_holds_no_weight_per_example(grid):
  """Nothing in forward or backward is larger than one kernel."""
  b, length, k, n = 7, 10, 96, 80
  arguments = dense.case((b, length, 2, k, n, *grid), dtype=np.float32)

  def largest(function):
    jaxpr = jax.make_jaxpr(
      functools.partial(
        value_and_gradients, form=FORMS['plain'], function=function
      )
    )(*arguments)
    return max(map(np.prod, _shapes(jaxpr.jaxpr)))

  assert {cut: largest(CUTS[cut]) for cut in CUTS} == dict.fromkeys(CUTS, k * n)
  assert largest(reference_gated_matmul) == b * length * k * n


def _shapes(jaxpr):
  for equation in jaxpr.eqns:
    yield from (variable.aval.shape for variable in equation.outvars)
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from _shapes(inner)


@pytest.mark.parametrize('function', [gated_matmul, KERNELS['columns']])
def test_keeps_the_inputs_and_factors_between_the_passes(function):
  *inputs, ids, _ = dense.case((2, 64, 3, 32, 48, 4, 6), dtype=np.float32)
  _, pull = jax.vjp(
    lambda *x: function(*x, jnp.asarray(ids), offset=0.0, scale=2.0),
    *map(jnp.asarray, inputs),
  )
  kept = sum(leaf.size for leaf in jax.tree.leaves(pull))
  tokens = ids.size
  factors = tokens * (4 + 6)
  indices = 2 * tokens * 3  # of every token's segment, for either factor
  assert kept <= inputs[0].size + inputs[1].size + factors + 2 * indices


def test_a_grid_that_does_not_divide_the_kernel_is_refused():
  *inputs, ids, _ = dense.case((2, 3, 2, 6, 8, 3, 2), dtype=np.float32)
  with pytest.raises(ValueError, match='3 x 2 grid .* 6 x 7'):
    gated_matmul(
      jnp.asarray(inputs[0]),
      jnp.asarray(inputs[1][:, :7]),
      jnp.asarray(inputs[2]),
      jnp.asarray(inputs[3]),
      jnp.asarray(ids),
      scale=1.0,
      offset=0.0,
    )
