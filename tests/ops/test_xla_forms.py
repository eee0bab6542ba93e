"""The block loop in chunks against dense gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax.ops import choices, gated_matmul, xla_forms
from tests import tolerances
from tests.ops import dense

# B, L, S, K, N, grid rows, grid columns: 42 tokens.
SHAPE = (3, 14, 4, 15, 8, 5, 2)


@pytest.mark.parametrize('cut', ['rows', 'columns'])
@pytest.mark.parametrize(
  ('chunk', 'chunks'),
  [
    (7, 6),
    (20, 3),  # the largest part up to 20 that divides 42 is 14
    (41, 2),
    (5, 14),
    (100, 1),
  ],
)
def test_chunks_equal_dense_gates(x64, monkeypatch, cut, chunk, chunks):
  form = xla_forms.BlockLoop(cut, chunk)
  monkeypatch.setattr(choices, 'choose', lambda *args, **options: form)
  *arguments, ids, dy = dense.case(SHAPE)
  offset, scale = dense.FORMS['residual']
  segment_ids = jnp.asarray(ids)

  @jax.jit
  def value_and_gradients(*arguments):
    y, pull = jax.vjp(
      lambda *x: gated_matmul.gated_matmul(
        *x, segment_ids, offset=offset, scale=scale
      ),
      *arguments,
    )
    return y, *pull(dy)

  desired = dense.value_and_gradients(*arguments, ids, dy, offset, scale)
  close = tolerances.ONE_MATMUL[np.dtype(np.float64)]
  dense.assert_close(value_and_gradients(*arguments), desired, close)
  (u,) = form._chunks(arguments[0])
  assert u.shape == (chunks, 42 // chunks, 15)


def test_tokens_that_divide_badly_are_taken_together():
  (u,) = xla_forms.BlockLoop('rows', 10)._chunks(np.zeros((1, 13, 3)))
  assert u.shape == (1, 13, 3)
