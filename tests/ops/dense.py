"""The gated matmul in NumPy: loops for values, dense gates for gradients."""

import numpy as np

FORMS = {'plain': (0.0, 1.0), 'residual': (1.0, 1.0), 'identity': (0.0, 2.0)}
OFF = (1.0, 0.0)
NAMES = ('y', 'u', 'kernel', 'row', 'col')


def case(shape, *, row_shape=None, col_shape=None, seed=0, dtype=np.float64):
  """Random arguments and a cotangent; uneven segments, one padding token.

  Args:
    shape: B, L, S, K, N, grid rows, grid columns.
    row_shape: rows and segments of the row factors, when not B and S.
    col_shape: likewise of the column factors.
    seed: of the numbers.
    dtype: of all but the cotangent.
  """
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


def value_and_gradients(u, kernel, row, col, ids, dy, offset, scale):
  """y and its gradients by hand, with the dense gate of every token."""
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
  weights = gate * kernel
  y = np.einsum('blk,blkn->bln', u, weights)
  du = np.einsum('bln,blkn->blk', dy, weights)
  return y, du, (gate * outer).sum((0, 1)), drow, dcol


def assert_close(actual, desired, close, message=''):
  """Differences relative to the largest number of each array."""
  for name, one, other in zip(NAMES, actual, desired, strict=True):
    size = np.abs(other).max()
    np.testing.assert_allclose(
      np.float64(one) / size,
      other / size,
      rtol=0,
      atol=close,
      err_msg=f'{message} {name}',
    )
