"""A product with a weight: the same numbers on every platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.ops.matmul import matmul
from hypergrid_jax.parallel import current_mesh
from tests import tolerances

SHAPES = [((7,), 5, 3), ((2, 9), 4, 6), ((1, 1), 8, 2)]


def drawn(lead, k, n, dtype):
  rng = np.random.default_rng(k)
  shapes = (*lead, k), (k, n), (*lead, n)
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def results(x, kernel, dy):
  y, pull = jax.vjp(matmul, x, kernel)
  return [y, *pull(dy)]


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32', 'float64'])
@pytest.mark.parametrize(('lead', 'k', 'n'), SHAPES)
def test_values_and_gradients_are_those_of_numpy(x64, lead, k, n, dtype):
  arrays = drawn(lead, k, n, dtype)
  x, kernel, dy = (np.asarray(array, np.float64) for array in arrays)
  flat, flat_dy = x.reshape(-1, k), dy.reshape(-1, n)
  expected = x @ kernel, dy @ kernel.T, flat.T @ flat_dy
  for found, wanted in zip(results(*arrays), expected, strict=True):
    assert found.dtype == dtype
    np.testing.assert_allclose(
      np.asarray(found, np.float64) / np.abs(wanted).max(),
      wanted / np.abs(wanted).max(),
      rtol=0,
      atol=tolerances.ONE_MATMUL[np.dtype(dtype)],
    )


@pytest.mark.parametrize(
  ('platform', 'dtype', 'widened'),
  [
    ('cpu', 'bfloat16', True),
    ('cpu', 'float32', False),
    ('tpu', 'bfloat16', False),
    ('gpu', 'bfloat16', False),
  ],
)
def test_only_a_cpu_is_asked_for_wide_results(
  monkeypatch, platform, dtype, widened
):
  monkeypatch.setattr(current_mesh, 'platform', lambda: platform)
  arrays = drawn((2, 3), 4, 5, dtype)
  products = [
    line
    for line in jax.jit(lambda *x: results(*x))
    .lower(*arrays)
    .as_text()
    .splitlines()
    if 'dot_general' in line
  ]
  assert len(products) == 3
  results_of = [line.rpartition('->')[2] for line in products]
  narrow = 'bf16' if dtype == 'bfloat16' else 'f32'
  wanted = 'f32' if widened else narrow
  assert all(f'x{wanted}>' in result for result in results_of), products
  assert all(line.count(f'x{narrow}>') >= 2 for line in products)
