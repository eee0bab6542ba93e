"""How close two ways of computing the same thing have to be, by dtype.

For `np.testing.assert_allclose(actual, desired, **tolerances.of(dtype))`.
float64 is for laws: there a difference is a mistake, not rounding. float32 and
bfloat16 leave a few dozen units of rounding to sums of a hundred terms.
"""

import jax.numpy as jnp
import numpy as np

FLOAT64 = {'rtol': 1e-10, 'atol': 1e-12}
FLOAT32 = {'rtol': 1e-5, 'atol': 1e-5}
BFLOAT16 = {'rtol': 1e-2, 'atol': 1e-2}

# What one matmul and its gradients may differ by, over the largest number.
ONE_MATMUL = {
  np.dtype(np.float64): 1e-13,
  np.dtype(np.float32): 2e-6,
  np.dtype(jnp.bfloat16): 1e-2,
}

_BY_DTYPE = {
  np.dtype(np.float64): FLOAT64,
  np.dtype(np.float32): FLOAT32,
  np.dtype(jnp.bfloat16): BFLOAT16,
}


def of(dtype) -> dict[str, float]:
  """Keyword arguments for `assert_allclose`."""
  return _BY_DTYPE[np.dtype(dtype)]
