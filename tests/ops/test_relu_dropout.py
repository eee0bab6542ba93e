"""ReLU with dropout: values by hand, and the gradient from the result alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.ops import relu_dropout
from tests import tolerances

X = np.array([[[1.0, -2.0, 3.0], [0.0, 4.0, -5.0]], [[6.0, 7.0, 0.5]] * 2])
KEEP = np.array([[[True, True, False]], [[False, True, True]]])


def test_value_and_gradient_by_hand(x64):
  result = relu_dropout.value(2.0, jnp.asarray(X), jnp.asarray(KEEP))
  expected = [[[2, 0, 0], [0, 8, 0]], [[0, 14, 1]] * 2]
  np.testing.assert_array_equal(result, expected)
  gradient = relu_dropout.gradient(2.0, result, jnp.full(X.shape, 5.0))
  expected = [[[10, 0, 0], [0, 10, 0]], [[0, 10, 10]] * 2]
  np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize('keep', [KEEP, None])
def test_both_ways_to_differentiate_agree(x64, keep):
  keep = None if keep is None else jnp.asarray(keep)
  dresult = np.random.default_rng(0).standard_normal(X.shape)
  result, pull = jax.vjp(
    lambda x: relu_dropout.ReluDropout(x, keep, 1.7).value(), jnp.asarray(X)
  )
  np.testing.assert_allclose(
    relu_dropout.value(1.7, jnp.asarray(X), keep), result, **tolerances.FLOAT64
  )
  np.testing.assert_allclose(
    relu_dropout.gradient(1.7, result, jnp.asarray(dresult)),
    *pull(dresult),
    **tolerances.FLOAT64,
  )


def test_dropout_keeps_the_mean_and_drops_features_of_all_tokens():
  x = jnp.ones((40, 3, 50))
  step = relu_dropout.relu_dropout(x, 0.25, jax.random.key(0))
  y = np.asarray(step.value())
  np.testing.assert_array_equal(y, np.repeat(y[:, :1], 3, axis=1))
  assert set(np.unique(y)) == {0, np.float32(4 / 3)}
  # 2000 draws: three standard deviations of the mean are 0.04.
  assert abs(y.mean() - 1) < 0.04


@pytest.mark.parametrize(('rate', 'key'), [(0.5, None), (0.0, 0)])
def test_without_a_key_or_a_rate_nothing_is_dropped(rate, key):
  key = None if key is None else jax.random.key(key)
  x = jnp.asarray(X)
  step = relu_dropout.relu_dropout(x, rate, key)
  assert step.keep is None
  np.testing.assert_array_equal(step.value(), np.maximum(X, 0))
