"""Training in one process and in memory: no gin, no files, no run directory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hypergrid_jax import types
from hypergrid_jax.data.loader import Loader
from hypergrid_jax.model import Model
from hypergrid_jax.training import freezing, loop, optimizers
from hypergrid_jax.training.state import TrainState


def train(
  model: Model,
  loader: Loader,
  *,
  num_steps: int,
  optimizer: optimizers.AnyOptimizer | None = None,
  schedule: optimizers.AnySchedule | None = None,
  params: types.Params | None = None,
  trainable: freezing.Trainable = 'all',
  seed: int = 0,
  log_period: int = 100,
  log: Callable[[int, dict[str, Any]], None] | None = None,
) -> types.Params:
  """Trains a model on the batches of a loader; the same seed, the same bits.

  What `hypergrid train` does beyond this, such as checkpoints, evaluation and
  several devices, belongs to a run; see docs/python.md for both.

  Args:
    model: what is trained.
    loader: gives the batches 0, 1, 2 and so on.
    num_steps: updates of the optimiser.
    optimizer: the update rule; None for Adafactor, as T5.
    schedule: the learning rate; None for the constant 0.001, as T5 fine-tunes.
    params: where to start from; None draws fresh parameters.
    trainable: a preset such as 'added', or regular expressions over parameter
      paths; the rest is frozen.
    seed: of parameters and dropout.
    log_period: steps between calls of `log`.
    log: gets the number of steps done and the mean loss in nats per target
      token since the last call, also per task; None prints a line.

  Returns:
    The trained parameters.

  Raises:
    UserError: the loss is no longer finite, or `trainable` fits no parameter.
  """
  config = loop.TrainConfig(num_steps, seed=seed, log_period=log_period)
  trained = freezing.trained_parameters(
    model.logical_axes, trainable, added=model.added
  )
  tx = optimizers.make_optimizer(
    optimizer or optimizers.Adafactor(),
    schedule or optimizers.Constant(),
    logical_axes=model.logical_axes,
    added=model.added,
    trained=trained,
  )
  step = loop.make_train_step(model, tx, config, trained=trained)
  if params is None:
    params = jax.jit(model.init)(jax.random.key(seed))
  # The step gives its buffers away, and the caller keeps his.
  params = jax.tree.map(jnp.array, params)
  state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
  for event in loop.train(
    config,
    state,
    step_fn=jax.jit(step, donate_argnums=0),
    batches=map(loader.batch, range(num_steps)),
    tasks=loader.tasks,
    save_due=lambda done: False,
  ):
    state = event.state
    if event.log is not None:
      (log or _print)(event.step, event.log)
  return state.params


def _print(step: int, values: dict[str, Any]) -> None:
  print(f'step {step}: loss {values["loss"]:.3f}')  # noqa: T201
