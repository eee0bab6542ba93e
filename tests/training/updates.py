"""Runs an optimiser for a few steps, for the tests of every update rule."""

import jax
import numpy as np
import optax

STEPS = 4


def draw(shape, seed, *, scale=1.0):
  """Gradients of very uneven size, so that clipping is active in some steps."""
  rng = np.random.default_rng(seed)
  param = (scale * rng.normal(size=shape)).astype(np.float32)
  size = np.exp(1.5 * rng.normal(size=(STEPS, *shape)))
  growth = 3.0 ** np.arange(STEPS).reshape(-1, *[1] * len(shape))
  grads = (rng.normal(size=size.shape) * size * growth).astype(np.float32)
  return param, grads


def run(tx, params, grads):
  """Applies one update per step; `grads` have a leading axis of steps."""

  @jax.jit
  def update(params, state, grad):
    updates, state = tx.update(grad, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for step in range(STEPS):
    grad = jax.tree.map(lambda g, step=step: g[step], grads)
    params, state = update(params, state, grad)
  return params, state
