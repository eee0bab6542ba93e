"""The TPU kernels, interpreted: every way of cutting weight and tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.ops import tpu_kernels
from hypergrid_jax.ops.tpu_plans import Pass, Plan
from tests import tolerances
from tests.ops import dense

TOKENS = 512
FORM = (0.3, 1.7)
# K, N, grid rows, grid columns; shards take whole blocks of the divided side.
WIDE = (48, 40, 4, 8)
SQUARE = (24, 24, 4, 2)


def one_pass(cut, tile=128, shards=1):
  return Pass(cut, tile, shards, vmem_limit=0)


def plan(forward, backward, *, cores=1, unit=4, **choice):
  return Plan(cores, unit, TOKENS, forward, backward, interpret=True, **choice)


def case(shape, dtype):
  """Every token is a segment of its own."""
  k, n, rows, columns = shape
  u, kernel, row, col, _, dy = dense.case(
    (1, TOKENS, TOKENS, k, n, rows, columns), dtype=np.float32
  )
  ids = 1 + np.arange(TOKENS)[None]
  u, kernel, dy = (np.asarray(x, dtype) for x in (u, kernel, dy))
  exact = [np.float64(x) for x in (u, kernel, row, col)]
  y, du, dkernel, drow, dcol = dense.value_and_gradients(
    *exact, ids, np.float64(dy), *FORM
  )
  arguments = u[0], kernel, row[0].T, col[0].T
  return arguments, dy[0], (y[0], du[0], dkernel, drow[0].T, dcol[0].T)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(plan, arguments, dy, relu_scale=None):
  form = jnp.array(FORM, jnp.float32)
  return (
    tpu_kernels.forward(plan, *arguments, form),
    *tpu_kernels.backward(plan, *arguments, form, dy, relu_scale=relu_scale),
  )


def assert_equal_to_dense(plan, shape, dtype=np.float32):
  arguments, dy, desired = case(shape, dtype)
  actual = run(plan, arguments, dy)
  assert actual[0].dtype == actual[1].dtype == dtype
  dense.assert_close(actual, desired, tolerances.ONE_MATMUL[np.dtype(dtype)])


# A strip of `columns` is 5 wide in WIDE and one of `rows` 12: with units of 5
# and 12 strips fill them, and dW is added up without turning it.
@pytest.mark.parametrize('unit', [4, 5, 12])
@pytest.mark.parametrize('cut', ['columns', 'rows'])
def test_strips_that_fill_matrix_units_and_others(cut, unit):
  assert_equal_to_dense(plan(one_pass(cut), one_pass(cut), unit=unit), WIDE)


@pytest.mark.parametrize('unit', [1, 5])
@pytest.mark.parametrize('cut', ['columns', 'rows'])
def test_a_square_kernel_is_not_taken_for_its_transpose(cut, unit):
  assert_equal_to_dense(plan(one_pass(cut), one_pass(cut), unit=unit), SQUARE)


# Two cores split the tokens of one shard, and more shards evenly.
@pytest.mark.parametrize('shards', [(4, 2), (1, 4), (2, 1)])
@pytest.mark.parametrize('cut', ['columns', 'rows'])
def test_shards_of_the_weight_and_cores_add_up(cut, shards):
  forward, backward = shards
  passes = (
    one_pass(cut, shards=forward),
    one_pass(cut, tile=256, shards=backward),
  )
  assert_equal_to_dense(plan(*passes, cores=2), WIDE)
  assert_equal_to_dense(plan(*passes, cores=2, unit=5), WIDE)


def test_the_passes_may_cut_different_sides():
  passes = one_pass('rows', tile=512), one_pass('columns')
  assert_equal_to_dense(plan(*passes), WIDE)


@pytest.mark.parametrize('cut', ['columns', 'rows'])
def test_strips_of_whole_registers_are_sliced_where_they_lie(cut):
  shape = {'columns': (16, 256, 4, 2), 'rows': (256, 16, 2, 4)}[cut]
  passes = one_pass(cut, shards=2), one_pass(cut, shards=2)
  assert_equal_to_dense(plan(*passes), shape, jnp.bfloat16)


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
@pytest.mark.parametrize('cut', ['columns', 'rows'])
def test_the_gradient_before_a_relu_is_scaled_where_it_let_through(cut, dtype):
  arguments, dy, (y, du, *others) = case(WIDE, dtype)
  slope = 1.5
  passes = one_pass(cut, shards=2), one_pass(cut, tile=256, shards=2)
  actual = run(plan(*passes), arguments, dy, slope)
  # What let u through has not changed the product: u is negative, too.
  desired = y, np.where(np.float64(arguments[0]) > 0, slope * du, 0), *others
  dense.assert_close(actual, desired, tolerances.ONE_MATMUL[np.dtype(dtype)])


@pytest.mark.parametrize('cut', ['columns', 'rows'])
def test_gates_of_bfloat16_activations_may_be_bfloat16(cut):
  passes = one_pass(cut, shards=2), one_pass(cut)
  shape = (64, 96, 4, 6)  # bands of 16 are whole registers
  assert_equal_to_dense(plan(*passes, bfloat16=True), shape, jnp.bfloat16)
  assert_equal_to_dense(plan(*passes, bfloat16=True), shape, np.float32)
