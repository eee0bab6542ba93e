"""Losses against values worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.model import losses

# exp of these are 1, 2, 4, 1: probabilities 1/8, 2/8, 4/8, 1/8.
LOGITS = np.log([[[1.0, 2.0, 4.0, 1.0], [1.0, 1.0, 1.0, 3.0]]])
TARGETS = np.array([[2, 0]], np.int32)


def token_losses(**settings):
  return losses.token_losses(
    jnp.asarray(LOGITS), jnp.asarray(TARGETS), **settings
  )


def test_cross_entropy_in_nats(x64):
  expected = [[np.log(2), np.log(6)]]  # probabilities 1/2 and 1/6
  np.testing.assert_allclose(token_losses(), expected, rtol=1e-14)


def test_z_loss_is_the_squared_log_normaliser(x64):
  first = np.log(2) + 0.5 * np.log(8) ** 2
  second = np.log(6) + 0.5 * np.log(6) ** 2
  expected = [[first, second]]
  np.testing.assert_allclose(token_losses(z_loss=0.5), expected, rtol=1e-14)


def test_label_smoothing_is_a_divergence(x64):
  """KL of (0.7 on the target, 0.1 on each other) from the prediction."""
  predictions = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
  expected = np.zeros((1, 2))
  for t, target in enumerate(TARGETS[0]):
    for v in range(4):
      share = 0.7 if v == target else 0.1
      expected[0, t] += share * np.log(share / predictions[0, t, v])
  np.testing.assert_allclose(
    token_losses(label_smoothing=0.3), expected, rtol=1e-13
  )


def test_predicting_the_smoothed_target_costs_nothing(x64):
  logits = jnp.log(jnp.array([[[0.1, 0.7, 0.1, 0.1]]]))
  loss = losses.token_losses(
    logits, jnp.array([[1]], jnp.int32), label_smoothing=0.3
  )
  np.testing.assert_allclose(loss, 0, atol=1e-14)


def test_large_logits_stay_finite():
  logits = jnp.array([[[1e4, -1e4, 0.0]]], jnp.float32)
  loss = losses.token_losses(logits, jnp.array([[1]], jnp.int32))
  np.testing.assert_allclose(loss, 2e4)


@pytest.mark.parametrize(
  ('weights', 'expected'),
  [([1.0, 1.0], -np.log(2) - np.log(6)), ([0.0, 1.0], -np.log(6))],
)
def test_sequence_log_probability_sums_the_weighted(x64, weights, expected):
  actual = losses.sequence_log_probability(
    jnp.asarray(LOGITS), jnp.asarray(TARGETS), jnp.array([weights])
  )
  np.testing.assert_allclose(actual, [expected], rtol=1e-14)
