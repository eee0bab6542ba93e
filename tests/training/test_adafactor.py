"""Adafactor against float64 NumPy written from the paper's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypergrid_jax import trees
from hypergrid_jax.training import optimizers
from tests.training.updates import STEPS, draw, run


def reference_adafactor(config, rate, param, grads):
  """Shazeer and Stern 2018, algorithms 4 and 5, for one parameter."""
  x = param.astype(np.float64)
  dims = sorted(np.argsort(x.shape, kind='stable')[-2:])
  factored = x.ndim > 1 and min(x.shape[d] for d in dims) >= config.min_dim
  total = row = column = 0.0
  for step, grad in enumerate(grads.astype(np.float64), start=1):
    t = max(step - config.step_offset, 1)
    beta = 1 - t**-config.decay
    square = grad**2 + config.eps
    if factored:
      r, c = dims
      row = beta * row + (1 - beta) * square.sum(axis=c, keepdims=True)
      column = beta * column + (1 - beta) * square.sum(axis=r, keepdims=True)
      second = row * column / row.sum(axis=r, keepdims=True)
    else:
      second = total = beta * total + (1 - beta) * square
    update = grad / np.sqrt(second)
    rms = np.sqrt((update**2).mean())
    update /= max(1.0, rms / config.clip_threshold)
    if config.multiply_by_parameter_scale:
      update *= max(config.scale_floor, np.sqrt((x**2).mean()))
    x = x - rate * update
  return x


ADAFACTORS = {
  'default': optimizers.Adafactor(),
  'small dims': optimizers.Adafactor(min_dim=4, decay=0.7),
  'tight clip': optimizers.Adafactor(min_dim=4, clip_threshold=0.3),
  'offset': optimizers.Adafactor(step_offset=2),
  'large floor': optimizers.Adafactor(scale_floor=0.5, eps=1e-2),
  'absolute': optimizers.Adafactor(multiply_by_parameter_scale=False),
}
SHAPES = {
  'factored': (128, 131),
  'transposed': (140, 129),
  'narrow': (127, 150),
  'deep': (5, 3, 6),
  'middle': (7, 2, 3, 6),
  'vector': (9,),
  'scalar': (),
}


@pytest.mark.parametrize('config', ADAFACTORS.values(), ids=ADAFACTORS)
def test_adafactor_follows_the_paper(config):
  drawn = {k: draw(s, i, scale=0.1) for i, (k, s) in enumerate(SHAPES.items())}
  tx = optimizers.make_optimizer(
    config,
    optimizers.Constant(0.02),
    logical_axes={k: ('embed',) * len(s) for k, s in SHAPES.items()},
  )
  params = {k: v[0] for k, v in drawn.items()}
  after, _ = run(tx, params, {k: v[1] for k, v in drawn.items()})
  for name, (param, grads) in drawn.items():
    expected = reference_adafactor(config, 0.02, param, grads)
    np.testing.assert_allclose(
      after[name] - param, expected - param, rtol=2e-4, atol=2e-7, err_msg=name
    )


def test_adafactor_of_stacked_layers_is_adafactor_of_each():
  config = optimizers.Adafactor(min_dim=16)
  shapes = {'kernel': (6, 16, 32), 'narrow': (18, 15, 17), 'scale': (20, 19)}
  axes = {'kernel': ('embed', 'mlp'), 'narrow': ('kv', 'mlp'), 'scale': ('kv',)}
  drawn = {k: draw(s, i) for i, (k, s) in enumerate(shapes.items())}
  # Layers of different size: a norm taken over all of them would be wrong.
  for param, grads in drawn.values():
    param *= 2.0 ** np.arange(len(param)).reshape(-1, *[1] * (param.ndim - 1))
    grads[:, ::2] *= 1e-3
  stacked = optimizers.make_optimizer(
    config,
    optimizers.Constant(0.1),
    logical_axes={k: ('layers', *v) for k, v in axes.items()},
  )
  params = {k: v[0] for k, v in drawn.items()}
  together, _ = run(stacked, params, {k: v[1] for k, v in drawn.items()})
  layers = [(k, n) for k, v in params.items() for n in (0, 1, len(v) - 1)]
  single = optimizers.make_optimizer(
    config,
    optimizers.Constant(0.1),
    logical_axes={f'{k}{n}': axes[k] for k, n in layers},
  )
  alone, _ = run(
    single,
    {f'{k}{n}': drawn[k][0][n] for k, n in layers},
    {f'{k}{n}': drawn[k][1][:, n] for k, n in layers},
  )
  for name, n in layers:
    before = params[name][n]
    # Equal but for the order in which XLA adds up a mean.
    np.testing.assert_allclose(
      together[name][n] - before,
      alone[f'{name}{n}'] - before,
      rtol=1e-5,
      atol=1e-6 * np.abs(before).max(),
    )


def test_factoring_is_decided_layer_by_layer():
  shapes = {
    'kernel': (6, 128, 256),
    'narrow': (130, 127, 129),
    'scale': (150, 140),
    'tasks': (2, 3, 200, 128),
  }
  tx = optimizers.make_optimizer(
    optimizers.Adafactor(),
    optimizers.Constant(),
    logical_axes={k: ('layers',) * len(s) for k, s in shapes.items()},
  )
  params = {k: jax.ShapeDtypeStruct(s, 'float32') for k, s in shapes.items()}
  moments = trees.flatten(jax.eval_shape(tx.init, params)[0].moments)
  assert {path: moment.shape for path, moment in moments.items()} == {
    'kernel/row': (6, 128),
    'kernel/column': (6, 256),
    'narrow/full': (130, 127, 129),
    'scale/full': (150, 140),
    'tasks/row': (2, 3, 200),
    'tasks/column': (2, 3, 128),
  }


def test_added_parameters_move_by_the_plain_learning_rate():
  param = {'zero': np.zeros((3, 5)), 'one': np.full((3, 5), 2.0)}
  grads = {k: np.full((STEPS, 3, 5), 7.0, np.float32) for k in param}
  tx = optimizers.make_optimizer(
    optimizers.Adafactor(),
    optimizers.Constant(0.01),
    logical_axes=dict.fromkeys(param, ('layers', 'embed')),
    added={'zero'},
  )
  params = jax.tree.map(jnp.float32, param)
  after, _ = run(tx, params, grads)
  np.testing.assert_allclose(after['zero'], -0.01 * STEPS, rtol=1e-6)
  np.testing.assert_allclose(after['one'], 2 * 0.99**STEPS, rtol=1e-6)


def test_adafactor_divides_by_the_root_even_where_gradients_are_zero():
  tx = optimizers.make_optimizer(
    optimizers.Adafactor(min_dim=2),
    optimizers.Constant(0.01),
    logical_axes={'x': ('embed', 'mlp')},
  )
  grads = np.zeros((STEPS, 3, 4), np.float32)
  grads[:, 1, 2] = 1e-6
  after, _ = run(tx, {'x': jnp.ones((3, 4))}, {'x': grads})
  moved = np.asarray(after['x']) != 1
  assert np.isfinite(after['x']).all()
  np.testing.assert_array_equal(np.argwhere(moved), [[1, 2]])
