"""The optimiser of a run.

Every name that a run's configuration can choose from is here: the optimisers
`Adafactor` and `AdamW` and the schedules `Constant`, `RsqrtDecay` and
`LinearWarmup`.
"""

from collections.abc import Collection
import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax

from hypergrid_jax import trees
from hypergrid_jax.training import freezing
from hypergrid_jax.training.adafactor import (
  Adafactor,
  check,
  factored_dims,
  without,
)
from hypergrid_jax.training.freezing import LAYERS
from hypergrid_jax.training.schedules import Constant, LinearWarmup, RsqrtDecay
from hypergrid_jax.types import Params

__all__ = [
  'Adafactor',
  'AdamW',
  'Constant',
  'LinearWarmup',
  'RsqrtDecay',
  'make_optimizer',
  'state_axes',
]

Axes = tuple[str, ...]
AnySchedule = Constant | RsqrtDecay | LinearWarmup


@dataclasses.dataclass(frozen=True)
class AdamW:
  """Adam with decoupled weight decay, Loshchilov and Hutter (arXiv:1711.05101).

  Attributes:
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decay per unit of learning rate. It applies to parameters
      with at least two dimensions per layer: not to the scales of norms.

  Raises:
    UserError: a field is outside its range.
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0

  def __post_init__(self) -> None:
    check('AdamW.b1', self.b1, 0 <= self.b1 < 1, 'in [0, 1)')
    check('AdamW.b2', self.b2, 0 <= self.b2 < 1, 'in [0, 1)')
    check('AdamW.eps', self.eps, self.eps > 0, 'above 0')
    decay = self.weight_decay
    check('AdamW.weight_decay', decay, decay >= 0, 'at least 0')

  def transformation(
    self,
    rate: optax.Schedule,
    *,
    stacked: Collection[str] = (),
    added: Collection[str] = (),
  ) -> optax.GradientTransformation:
    """Returns the update rule; see `make_optimizer`."""
    del added
    return optax.adamw(
      rate,
      b1=self.b1,
      b2=self.b2,
      eps=self.eps,
      weight_decay=self.weight_decay,
      mask=lambda params: trees.map_with_path(
        lambda path, param: param.ndim - (path in stacked) >= 2, params
      ),
    )


AnyOptimizer = Adafactor | AdamW


def _train_only(
  inner: optax.GradientTransformation, trained: freezing.Trained
) -> optax.GradientTransformation:
  """Hides frozen parameters from `inner`; see `freezing.expand_updates`."""

  def init(params: Params) -> optax.OptState:
    return inner.init(freezing.select(params, trained))

  def update(
    grads: Params, state: optax.OptState, params: Params
  ) -> tuple[Params, optax.OptState]:
    updates, state = inner.update(
      freezing.select(grads, trained),
      state,
      freezing.select(params, trained),
    )
    return freezing.expand_updates(updates, params, trained), state

  return optax.GradientTransformation(init, update)


def make_optimizer(
  optimizer: AnyOptimizer,
  schedule: AnySchedule,
  *,
  logical_axes: Params,
  added: Collection[str] = (),
  trained: freezing.Trained | None = None,
  clip_norm: float | None = None,
) -> optax.GradientTransformation:
  """Returns the transformation from gradients to updates of a whole model.

  Parameters that a method adds to T5 mostly start at or near zero: gates,
  adapters and generators of adapters do, so that the model starts as, or near,
  the plain T5. Adafactor's step is relative to
  a parameter's size: at zero, they would creep away at a thousandth of the
  learning rate (`scale_floor`), and generators, normal(0, 0.01^2), would move
  at a hundredth. Updates of all parameters that a method adds are therefore
  not multiplied by their RMS; they move by the learning rate itself.

  Args:
    optimizer: the update rule; one of a user's own has `transformation(rate,
      stacked=, added=)`, as `AdamW` has, and applies the rate as optax does.
    schedule: the learning rate; one of a user's own has `schedule()`.
    logical_axes: nested dict like the parameters, of tuples of axis names; a
      parameter whose first axis is 'layers' is updated layer by layer.
    added: paths of the parameters that the plain T5 does not have.
    trained: which parameters train, from `freezing.trained_parameters`; None
      for all. Frozen parameters have no state and keep their bits; gradients
      for them need not be given. Of a parameter that trains in the upper layers
      alone, the optimiser sees, and has state for, these layers alone.
    clip_norm: largest global norm of the gradients of all trained parameters.

  Returns:
    An optax transformation over nested dicts. `update` needs the parameters.

  Raises:
    UserError: `clip_norm` is not positive.
  """
  axes = trees.flatten(logical_axes, is_leaf=trees.is_axes)
  unknown = sorted(set(added) - set(axes))
  if unknown:
    raise ValueError(f'added names parameters that do not exist: {unknown}')
  if trained is None:
    trained = freezing.trained_parameters(logical_axes)
  stacked = {path for path, names in axes.items() if names[:1] == (LAYERS,)}
  rate = schedule.schedule()
  rule = optimizer.transformation(rate, stacked=stacked, added=added)
  if clip_norm is not None:
    check('clip_norm', clip_norm, clip_norm > 0, 'above 0, or None')
    rule = optax.chain(optax.clip_by_global_norm(clip_norm), rule)
  return _train_only(rule, trained)


def learning_rate(
  schedule: AnySchedule, opt_state: optax.OptState
) -> jax.Array:
  """Returns the learning rate of the next update, float32 [].

  Args:
    schedule: the one that the optimiser was made with.
    opt_state: state of a `make_optimizer` transformation before the update.
  """
  counts = [
    node.count
    for node in jax.tree.leaves(opt_state, is_leaf=_is_schedule_state)
    if _is_schedule_state(node)
  ]
  (count,) = counts
  return jnp.asarray(schedule.schedule()(count), jnp.float32)


def _is_schedule_state(node: Any) -> bool:
  return isinstance(node, optax.ScaleByScheduleState)


def _parameter_of(path: str, axes: dict[str, Axes]) -> tuple[str, str]:
  """Splits a state leaf's path where a parameter's path begins in it.

  Returns:
    The parameter's path and what follows it, '' or the name of a moment. Both
    are empty if the leaf belongs to no parameter.
  """
  keys = path.split('/')
  for start in range(len(keys)):
    for end in (len(keys), len(keys) - 1):
      name, kind = '/'.join(keys[start:end]), '/'.join(keys[end:])
      if name in axes and kind in ('', 'full', 'row', 'column'):
        return name, kind
  return '', ''


def _factor_layout(
  shape: tuple[int, ...], axes: Axes, kind: str
) -> tuple[tuple[int, ...], Axes]:
  """Returns shape and axes of the 'row' or 'column' moment of a parameter."""
  lead = 1 if axes[:1] == (LAYERS,) else 0
  dims = factored_dims(shape[lead:], 0)
  if dims is None:
    return (), ()
  dropped = lead + (dims[1] if kind == 'row' else dims[0])
  return without(shape, dropped), without(axes, dropped)


def state_axes(opt_state: Any, params: Params, logical_axes: Params) -> Any:
  """Returns the logical axes of every leaf of an optimiser's state.

  A leaf that stands for a parameter has that parameter's axes; Adafactor's
  factored moments have those that their averaging left over; a count has none.

  Args:
    opt_state: state of a `make_optimizer` transformation; shapes suffice.
    params: nested dict of parameters; shapes suffice.
    logical_axes: nested dict like `params`.

  Returns:
    A tree like `opt_state` of tuples of axis names.

  Raises:
    ValueError: a leaf is neither a scalar nor recognisably a parameter's: no
      layout for it can be more than a guess.
  """
  axes = trees.flatten(logical_axes, is_leaf=trees.is_axes)
  shapes = {k: v.shape for k, v in trees.flatten(params).items()}

  def leaf_axes(path: str, leaf: Any) -> Axes:
    if not leaf.shape:
      return ()
    parameter, kind = _parameter_of(path, axes)
    portions = get_args(freezing.Portion) if parameter else ()
    for portion in portions:
      shape = freezing.trained_shape(shapes[parameter], portion)
      layout = shape, axes[parameter]
      if kind in ('row', 'column'):
        layout = _factor_layout(*layout, kind)
      if leaf.shape == layout[0]:
        return layout[1]
    raise ValueError(f'optimiser state {path} {leaf.shape}: unknown layout')

  return trees.map_with_path(leaf_axes, opt_state)
