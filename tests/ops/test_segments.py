"""Factors of tokens: looked up, or as a product with ones and zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.ops import segments

IDS = np.array([[1, 1, 2, 3, 0], [2, 2, 1, 1, 1]])


@pytest.mark.parametrize('rows', [1, 2])
@pytest.mark.parametrize('count', [1, 3])
def test_every_token_gets_its_segments_factor_and_padding_the_first(
  rows, count
):
  factor = np.arange(rows * count * 4.0).reshape(rows, count, 4)
  expected = np.zeros((2, 5, 4))
  for b, t in np.ndindex(IDS.shape):
    segment = max(IDS[b, t] - 1, 0) if count > 1 else 0
    expected[b, t] = factor[b % rows, segment]
  factor = jnp.asarray(factor, jnp.float32)
  ids = jnp.asarray(IDS)
  found = segments.per_token(factor, ids)
  np.testing.assert_array_equal(found, expected)
  turned = segments.tokens_last(factor, ids)
  np.testing.assert_array_equal(turned, expected.transpose(2, 0, 1))


def test_a_segments_gradient_is_the_sum_over_its_tokens():
  weights = np.random.default_rng(0).standard_normal((2, 5, 4))
  expected = np.zeros((2, 3, 4))
  np.add.at(expected, (np.arange(2)[:, None], np.maximum(IDS - 1, 0)), weights)
  weights = jnp.asarray(weights, jnp.float32)

  def weighted(spread, order):
    return jax.grad(
      lambda factor: jnp.sum(
        spread(factor, jnp.asarray(IDS)) * weights.transpose(order)
      )
    )(jnp.ones((2, 3, 4), jnp.float32))

  for gradient in (
    weighted(segments.per_token, (0, 1, 2)),
    weighted(segments.tokens_last, (2, 0, 1)),
  ):
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)
