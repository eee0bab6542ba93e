import jax
import numpy as np
import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.training import optimizers


def rates(config, steps):
  schedule = jax.jit(config.schedule())
  return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    (optimizers.Constant(3e-3), {0: 3e-3, 7: 3e-3, 10**6: 3e-3}),
    (
      optimizers.RsqrtDecay(),
      {0: 1e-2, 10_000: 1e-2, 40_000: 5e-3, 1_000_000: 1e-3},
    ),
    (optimizers.RsqrtDecay(0.6, 9), {0: 0.2, 8: 0.2, 9: 0.2, 36: 0.1}),
    (
      optimizers.LinearWarmup(0.8, 4),
      {0: 0.0, 1: 0.2, 3: 0.6, 4: 0.8, 99: 0.8},
    ),
    (optimizers.LinearWarmup(0.8, 0), {0: 0.8, 5: 0.8}),
    (
      optimizers.LinearWarmup(0.8, 4, 'linear', 20),
      {0: 0.0, 2: 0.4, 4: 0.8, 8: 0.6, 16: 0.2, 19: 0.05, 20: 0.0, 25: 0.0},
    ),
    (optimizers.LinearWarmup(0.8, 0, 'linear', 10), {0: 0.8, 5: 0.4, 9: 0.08}),
    (
      optimizers.LinearWarmup(0.8, 4, 'rsqrt'),
      {0: 0.0, 3: 0.6, 4: 0.8, 16: 0.4, 64: 0.2},
    ),
  ],
)
def test_values_worked_out_by_hand(config, expected):
  np.testing.assert_allclose(
    rates(config, expected), list(expected.values()), rtol=1e-6, atol=1e-9
  )


@pytest.mark.parametrize(
  ('make', 'named'),
  [
    (lambda: optimizers.Constant(0.0), 'Constant.learning_rate'),
    (lambda: optimizers.Constant(float('nan')), 'Constant.learning_rate'),
    (lambda: optimizers.RsqrtDecay(1.0, 0), 'RsqrtDecay.warmup_steps'),
    (lambda: optimizers.LinearWarmup(decay='rsqr'), "Did you mean 'rsqrt'"),
    (lambda: optimizers.LinearWarmup(1.0, -1), 'warmup_steps'),
    (lambda: optimizers.LinearWarmup(1.0, 0, 'rsqrt'), 'warmup_steps'),
    (
      lambda: optimizers.LinearWarmup(1.0, 4, 'linear'),
      'total_steps is not set',
    ),
    (lambda: optimizers.LinearWarmup(1.0, 4, 'linear', 4), 'total_steps is 4'),
  ],
)
def test_impossible_values_are_refused_by_name(make, named):
  with pytest.raises(UserError, match=named):
    make()
