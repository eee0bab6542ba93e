"""What the benchmarks compare computes the same."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.ops import dense


@pytest.mark.parametrize('segments', [1, 3])
def test_the_naive_way_is_the_gated_matmul(x64, script, segments):
  shape = (2, 12, segments, 6, 8, 3, 4)
  u, kernel, row, col, _, dy = dense.case(shape)
  ids = np.tile(1 + np.arange(12) * segments // 12, (2, 1))
  offset, scale = dense.FORMS['residual']
  y = script('models').weight_per_example(
    *map(jnp.asarray, (u, kernel, row, col)),
    ids,
    scale=scale,
    offset=offset,
  )
  desired, *_ = dense.value_and_gradients(
    u, kernel, row, col, ids, dy, offset, scale
  )
  np.testing.assert_allclose(y, desired, **tolerances.of(np.float64))
