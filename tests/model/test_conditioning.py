"""Conditioning vectors of packed rows, worked out by hand."""

import jax.numpy as jnp
import numpy as np

from hypergrid_jax import types
from hypergrid_jax.model import conditioning

IDS = jnp.array([[1, 1, 2, 2, 2], [1, 0, 0, 0, 0]], jnp.int32)
STARTS = jnp.array([[0, 2, 0], [0, 0, 0]], jnp.int32)
SEGMENTS = types.Segments(IDS, STARTS, jnp.zeros_like(IDS))
X = jnp.array(
  [[[1.0], [3.0], [5.0], [6.0], [10.0]], [[2.0], [9.0], [9.0], [9.0], [9.0]]]
)


def test_first_token_state():
  state = conditioning.first_token_state(X, SEGMENTS)
  # Absent segments read the row's first token.
  assert state[..., 0].tolist() == [[1, 5, 1], [2, 2, 2]]


def test_mean_state():
  state = conditioning.mean_state(X, SEGMENTS)
  assert state[..., 0].tolist() == [[2, 7, 0], [2, 0, 0]]


def test_mean_state_of_a_long_bfloat16_segment_counts_every_token():
  """A count kept in bfloat16 would turn 257 into 256."""
  ids = jnp.ones((1, 257), jnp.int32)
  segments = types.Segments(ids, jnp.zeros((1, 1), jnp.int32), ids)
  x = jnp.zeros((1, 257, 1), jnp.bfloat16).at[0, 0].set(512)
  mean = conditioning.mean_state(x, segments)
  np.testing.assert_allclose(np.float32(mean), 512 / 257, rtol=1e-3)
