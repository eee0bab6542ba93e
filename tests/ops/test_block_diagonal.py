"""The block-diagonal bias against matrices put together from pieces."""

import jax
import numpy as np
import pytest

from hypergrid_jax.ops import block_diagonal
from tests import tolerances

bias_of = jax.jit(block_diagonal.attention_bias, static_argnames='repeats')


def pieces_on_a_diagonal(a):
  """Cuts A [S, w] into pieces of w rows, lays them out, cuts to S columns."""
  size, w = a.shape
  pieces = [a[first : first + w] for first in range(0, size, w)]
  matrix = np.zeros((size, w * len(pieces)))
  for n, piece in enumerate(pieces):
    matrix[n * w : n * w + len(piece), n * w : (n + 1) * w] = piece
  return matrix[:, :size]


def draw(heads, rows, w, batch):
  rng = np.random.default_rng(rows + w)
  shapes = (heads, rows, w), (batch, w), (batch, w)
  return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize(
  ('size', 'w', 'heads', 'pieces'),
  [
    (128, 22, 1, [22] * 5 + [18]),  # the paper's base model
    (128, 16, 1, [16] * 8),  # its large model
    (512, 22, 1, [22] * 23 + [6]),  # T5's length, which d_model does not fill
    (7, 3, 2, [3, 3, 1]),
    (5, 9, 1, [5]),
  ],
)
def test_gathering_equals_pieces_on_a_diagonal(x64, size, w, heads, pieces):
  blocks, gamma, beta = draw(heads, size, w, batch=2)
  positions = np.tile(np.arange(size), (2, 1))
  bias = bias_of(blocks, gamma, beta, positions, repeats=False)
  assert bias.shape == (2, heads, size, size)
  for b, h in np.ndindex(2, heads):
    matrix = pieces_on_a_diagonal((1 + gamma[b]) * blocks[h] + beta[b])
    edges = np.cumsum([0, *pieces])
    for first, last in zip(edges, edges[1:], strict=False):
      assert np.all(matrix[first:last, first:last])
    assert np.count_nonzero(matrix) == sum(n * n for n in pieces)
    np.testing.assert_allclose(bias[b, h], matrix, **tolerances.FLOAT64)


def test_positions_count_in_each_example_and_end_with_the_parameters(x64):
  """Two examples in a row; the second one is longer than A."""
  (w, rows), positions = (3, 5), np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]])
  blocks, gamma, beta = draw(1, rows, w, batch=1)
  bias = bias_of(blocks, gamma, beta, positions, repeats=False)[0, 0]
  matrix = pieces_on_a_diagonal((1 + gamma[0]) * blocks[0] + beta[0])
  expected = np.zeros((7, 7))  # of the second example, 0 from position 5 on
  expected[:rows, :rows] = matrix
  np.testing.assert_allclose(bias[:4, :4], matrix[:4, :4], **tolerances.FLOAT64)
  np.testing.assert_allclose(bias[4:, 4:], expected, **tolerances.FLOAT64)


def test_a_shared_block_is_the_same_in_every_window(x64):
  w, length = 3, 8
  blocks, gamma, beta = draw(2, w, w, batch=2)
  positions = np.tile(np.arange(length), (2, 1))
  bias = bias_of(blocks, gamma, beta, positions, repeats=True)
  for b, h in np.ndindex(2, 2):
    block = (1 + gamma[b]) * blocks[h] + beta[b]
    matrix = np.kron(np.eye(3), block)[:length, :length]
    np.testing.assert_allclose(bias[b, h], matrix, **tolerances.FLOAT64)


def test_in_float32_columns_are_picked_without_rounding():
  blocks, _, beta = (a.astype(np.float32) for a in draw(1, 6, 4, batch=1))
  gamma, positions = np.zeros((1, 4), np.float32), np.arange(6)[None]
  bias = bias_of(blocks, gamma, beta, positions, repeats=False)[0, 0]
  np.testing.assert_array_equal(
    bias, pieces_on_a_diagonal(blocks[0] + beta[0]).astype(np.float32)
  )
