"""The training loop: one step, and the loop around it.

The loop knows no method and no T5: it is given a model (`bind(params)(batch)`),
an optimiser and an iterator of batches. It writes nothing: it yields an `Event`
whenever something is to be logged, saved or evaluated.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from hypergrid_jax import errors, types
from hypergrid_jax.model import losses
from hypergrid_jax.training import freezing
from hypergrid_jax.training.state import TrainState

# Losses stay on the device until they are logged; this bounds how many steps
# may run on after a loss that is not finite.
MOST_PENDING_STEPS = 50
# Steps that are handed to the devices before the first of them is done: enough
# to keep them busy, and no more to wait for when the run is asked to stop.
MOST_STEPS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long and how to train.

  Attributes:
    num_steps: optimiser steps of the whole run, counted from 0.
    seed: of parameters, dropout and the order of the data.
    checkpoint_period: steps between checkpoints; what is evaluated is always
      saved before.
    eval_period: steps between evaluations; 0 evaluates at the end only.
    log_period: steps between lines of metrics.jsonl.
    checkpoint_minutes: also saves when so much time is over since the last
      checkpoint; None for steps alone.
    keep_checkpoints: how many of the newest to keep, beside the best.
    keep_best_per_task: keep the best checkpoint of every task too, beside that
      of the average; `hypergrid eval --step=best:TASK` names it.
    microbatches: number of microbatches of a step, whose gradients are
      accumulated to save memory; the gradient is the same.
    label_smoothing: see `losses.token_losses`.
    z_loss: see `losses.token_losses`; T5X fine-tunes with 1e-4.
    loss_normalization: 'tokens' divides the loss by the batch's target tokens,
      'sum' does not (HyperFormer's training does not).
    clip_norm: largest norm of the whole gradient; None does not clip.
    initial_checkpoint: directory of a run whose newest parameters this one
      starts from, such as a plain T5's; what the method adds starts fresh.
    trainable: what trains: a preset of `freezing.trained_parameters`, or
      regular expressions over parameter paths. The rest is frozen.
  """

  num_steps: int
  seed: int = 0
  checkpoint_period: int = 1000
  eval_period: int = 0
  log_period: int = 100
  checkpoint_minutes: float | None = None
  keep_checkpoints: int = 3
  keep_best_per_task: bool = True
  microbatches: int = 1
  label_smoothing: float = 0.0
  z_loss: float = 0.0
  loss_normalization: Literal['tokens', 'sum'] = 'tokens'
  clip_norm: float | None = None
  initial_checkpoint: str | None = None
  trainable: freezing.Preset | tuple[str, ...] = 'all'

  def __post_init__(self):
    for name, least in (
      ('num_steps', 1),
      ('seed', 0),
      ('checkpoint_period', 1),
      ('eval_period', 0),
      ('log_period', 1),
      ('keep_checkpoints', 1),
      ('microbatches', 1),
    ):
      value = getattr(self, name)
      if value < least:
        raise errors.UserError(
          f'train.{name}: got {value}, expected at least {least}.'
        )
    if self.checkpoint_minutes is not None and not self.checkpoint_minutes > 0:
      raise errors.UserError(
        f'train.checkpoint_minutes: got {self.checkpoint_minutes}, expected a'
        ' number above 0, or None.'
      )
    if not 0.0 <= self.label_smoothing < 1.0:
      raise errors.UserError(
        f'train.label_smoothing: got {self.label_smoothing}, expected a number'
        ' in [0, 1).'
      )
    if self.loss_normalization not in ('tokens', 'sum'):
      raise errors.UserError(
        f'train.loss_normalization: got {self.loss_normalization!r}, expected'
        " 'tokens' or 'sum'."
      )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMetrics:
  """The measurements of one step, on the device.

  Attributes:
    sums: [T, 2] float32: for every task its summed loss in nats and its target
      tokens in this batch.
    gradient_norm: of the gradient of all that trains, before clipping.
    chosen: [B] int32, which rows of the candidates were trained on; None where
      the step has no selector.
    learning_rate: the rate of the step's update; None where it was not asked
      for.
  """

  sums: jax.Array
  gradient_norm: jax.Array
  chosen: jax.Array | None = None
  learning_rate: jax.Array | None = None


Step = Callable[
  [TrainState, types.Batch, jax.Array], tuple[TrainState, StepMetrics]
]
# The operations of a selector have this scope in a program.
SELECTION = 'select_rows'
# `(params, candidates, key) -> [B] int32`: which rows of the candidates a step
# trains on. Traced into the step.
Selector = Callable[[types.Params, types.Batch, jax.Array], jax.Array]


def make_train_step(
  model: Any,
  tx: optax.GradientTransformation,
  config: TrainConfig,
  *,
  trained: freezing.Trained | None = None,
  learning_rate: Callable[[optax.OptState], jax.Array] | None = None,
  selector: Selector | None = None,
  row_sharding: jax.sharding.Sharding | None = None,
) -> Step:
  """Makes `(state, batch, key) -> (state, metrics)`, to be jitted.

  The key is folded with the step number, so that a resumed run draws the same
  dropout.

  Args:
    model: what is trained.
    tx: the optimiser.
    config: see `TrainConfig`.
    trained: what `tx` trains; the gradient of the rest is not computed. None
      computes all.
    learning_rate: returns the rate of the next update from the optimiser's
      state before it, for the metrics; None leaves it out.
    selector: looks at the parameters before the update and chooses which rows
      of the batch (`Loader.candidates`) the step trains on; None takes all.
    row_sharding: how the chosen rows lie on the devices, as from
      `partitioning.batch_sharding`; None leaves it to the compiler.
  """

  def summed_loss(params, batch, key):
    if trained is not None:
      params = freezing.stop_gradient_of_frozen(params, trained)
    logits = model.bind(params)(batch, dropout_key=key)
    tokens = losses.token_losses(
      logits,
      batch.decoder_target_tokens,
      label_smoothing=config.label_smoothing,
      z_loss=config.z_loss,
    )
    weights = batch.decoder_loss_weights
    rows = jnp.stack([(tokens * weights).sum(1), weights.sum(1)], axis=1)
    sums = jax.ops.segment_sum(rows, batch.task_ids, model.num_tasks)
    return sums[:, 0].sum(), sums

  gradient = jax.grad(summed_loss, has_aux=True)
  gradient = _accumulated(gradient, config.microbatches)

  def step(state, batch, key):
    key, chosen = jax.random.fold_in(key, state.step), None
    if selector is not None:
      key, selector_key = jax.random.split(key)
      with jax.named_scope(SELECTION):
        chosen = selector(state.params, batch, selector_key)
      batch = _take(batch, chosen, row_sharding)
    grads, sums = gradient(state.params, batch, key)
    if config.loss_normalization == 'tokens':
      tokens = jnp.maximum(sums[:, 1].sum(), 1.0)
      grads = jax.tree.map(lambda g: g / tokens, grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    rate = learning_rate and learning_rate(state.opt_state)
    metrics = StepMetrics(sums, optax.tree.norm(grads), chosen, rate)
    return TrainState(state.step + 1, params, opt_state), metrics

  return step


def _accumulated(gradient, microbatches: int):
  """Returns `gradient`, accumulated over microbatches of the rows."""
  if microbatches == 1:
    return gradient

  def accumulated(params, batch, key):
    batches = jax.tree.map(lambda leaf: _strided(leaf, microbatches), batch)
    keys = jax.random.split(key, microbatches)
    shapes = jax.eval_shape(gradient, params, batch, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(total, microbatch):
      values = gradient(params, *microbatch)
      return jax.tree.map(jnp.add, total, values), None

    return jax.lax.scan(body, zeros, (batches, keys))[0]

  return accumulated


def _take(batch, indices, sharding):
  """Returns the rows `indices`, [B] int32, of a batch."""
  taken = jax.tree.map(lambda leaf: leaf[indices], batch)
  if sharding is None:
    return taken
  return jax.lax.with_sharding_constraint(taken, sharding)


def _strided(leaf, microbatches: int):
  """Cuts [B, ...] to [M, B / M, ...]; each has rows of all devices."""
  rows, rest = leaf.shape[0], leaf.shape[1:]
  if rows % microbatches:
    raise errors.UserError(
      f'train.microbatches = {microbatches} does not divide data.batch_size ='
      f' {rows}.'
    )
  split = leaf.reshape(rows // microbatches, microbatches, *rest)
  return split.swapaxes(0, 1)


class NonFiniteLossError(errors.UserError):
  """The loss or its gradient became infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class Event:
  """A step after which the run has something to do.

  Attributes:
    step: number of steps done.
    state: the state after it. The next step donates its buffers, so it is
      valid only until the loop goes on.
    measured: what every step since the last event measured, in order, on the
      host; the last entry is of this step.
    log: values to log, or None: the mean loss in nats per target token since
      the last logged step, also of every task seen (`loss/<task>`); the mean
      norm of the gradient; and this step's learning rate.
    save: whether to write a checkpoint.
    evaluate: whether to evaluate, after saving.
  """

  step: int
  state: TrainState
  measured: Sequence[StepMetrics]
  log: dict[str, float] | None = None
  save: bool = False
  evaluate: bool = False

  def numbered(self) -> Iterator[tuple[int, StepMetrics]]:
    """Yields `measured`, each with the number of its step, from 0."""
    return enumerate(self.measured, start=self.step - len(self.measured))


def train(
  config: TrainConfig,
  state: TrainState,
  *,
  step_fn: Step,
  batches: Iterable[types.Batch],
  tasks: tuple[str, ...],
  save_due: Callable[[int], bool],
  stop: Callable[[int], bool] = lambda done: False,
) -> Iterator[Event]:
  """Trains from `state.step` to `config.num_steps`, or until told to stop.

  The last event's step is less than `num_steps` if and only if it was stopped;
  a state that has all its steps gives no event.

  Args:
    config: see `TrainConfig`.
    state: fresh or restored; its buffers are donated.
    step_fn: jitted, from `make_train_step`.
    batches: the batches from `state.step` on, on the devices.
    tasks: names by task id.
    save_due: called after every step with the number of steps done; returns
      whether to save. Before an evaluation the state is saved in any case.
    stop: called before every step with the number of steps done; True ends the
      loop with an event that saves.

  Yields:
    An event after every step that is to be logged, saved or evaluated.

  Raises:
    NonFiniteLossError: names the step; no event is at or after it.
  """
  key = jax.random.key(config.seed)
  pending: list[StepMetrics] = []
  window = _Window(tasks)

  def measured(done: int) -> list[StepMetrics]:
    """Waits for the pending steps, the last of which is step `done`."""
    metrics = jax.device_get(pending)
    for number, each in enumerate(metrics, start=done - len(metrics) + 1):
      window.add(number, each)
    pending.clear()
    return metrics

  for done, batch in enumerate(batches, start=int(state.step) + 1):
    if stop(done - 1):
      yield Event(done - 1, state, measured(done - 1), save=True)
      return
    state, metrics = step_fn(state, batch, key)
    pending.append(metrics)
    if len(pending) > MOST_STEPS_AHEAD:
      jax.block_until_ready(pending[-1 - MOST_STEPS_AHEAD])
    last = done == config.num_steps
    log = last or done % config.log_period == 0
    evaluate = last or bool(
      config.eval_period and done % config.eval_period == 0
    )
    save = save_due(done) or evaluate
    if log or save or len(pending) >= MOST_PENDING_STEPS:
      steps = measured(done)
      values = window.take() if log else None
      yield Event(done, state, steps, values, save, evaluate)


class _Window:
  """What was measured since the last logged step."""

  def __init__(self, tasks: tuple[str, ...]):
    self._tasks = tasks
    self._steps: list[StepMetrics] = []

  def add(self, step: int, metrics: StepMetrics):
    """Adds one step, or refuses it."""
    for task, (loss, _) in zip(self._tasks, metrics.sums, strict=True):
      if not math.isfinite(loss):
        raise _non_finite(f'The loss of task {task!r} is {loss}', step)
    if not math.isfinite(norm := float(metrics.gradient_norm)):
      raise _non_finite(f'The norm of the gradient is {norm}', step)
    self._steps.append(metrics)

  def take(self) -> dict[str, float]:
    """Returns the means and starts anew."""
    steps, self._steps = self._steps, []
    sums, weights = sum(step.sums for step in steps).T
    norms = [float(step.gradient_norm) for step in steps]
    values = {
      'loss': float(sums.sum() / max(weights.sum(), 1.0)),
      'gradient_norm': sum(norms) / len(norms),
    }
    for task, loss, weight in zip(self._tasks, sums, weights, strict=True):
      if weight:
        values[f'loss/{task}'] = float(loss / weight)
    if steps[-1].learning_rate is not None:
      values['learning_rate'] = float(steps[-1].learning_rate)
    return values


def _non_finite(what: str, step: int) -> NonFiniteLossError:
  return NonFiniteLossError(
    f'{what} at step {step}. Nothing was saved from this step on; the last'
    ' checkpoint is from before it. Lower the learning rate or set'
    ' train.clip_norm and start again, or run the same command to go on from'
    ' that checkpoint.'
  )
