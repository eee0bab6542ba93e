"""Adafactor as T5 trains with it, layer by layer in stacked parameters.

Layers are stacked on a leading axis. An optimiser that takes norms of a
parameter must not see that: every layer's slice of a stacked parameter is
treated exactly as if it were a parameter of its own, so that scanning over
layers changes nothing but speed.
"""

from collections.abc import Callable, Collection, Sequence
import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hypergrid_jax import trees
from hypergrid_jax.errors import UserError
from hypergrid_jax.types import Params

Moment = dict[str, jax.Array]


def check(name: str, value: Any, holds: bool, expected: str) -> None:
  """Raises UserError "name is value, but must be expected." unless it holds."""
  if not holds:
    raise UserError(f'{name} is {value}, but must be {expected}.')


@dataclasses.dataclass(frozen=True)
class Adafactor:
  """Adafactor as T5 uses it: no momentum, relative step size.

  Shazeer and Stern 2018 (arXiv:1804.04235), algorithms 4 and 5 with beta1 = 0
  and beta2 = 1 - t^-decay; Raffel et al. 2020 (arXiv:1910.10683), section
  3.1.2. Where T5 differs from the paper, T5's choice is the default.

  Attributes:
    decay: exponent of the second-moment decay.
    step_offset: updates before which t does not grow. For a run that goes on
      from a checkpoint together with its optimiser's count, the number of
      pre-training updates; the second moments then start over.
    min_dim: a parameter's second moments are factored over its two largest
      dimensions when both have at least this size.
    eps: added to the squared gradient.
    scale_floor: least parameter RMS that the learning rate is multiplied by,
      so that a parameter at zero can leave it.
    clip_threshold: largest RMS of a parameter's update, before the learning
      rate.
    multiply_by_parameter_scale: multiply each update by its parameter's RMS.

  Raises:
    UserError: a field is outside its range.
  """

  decay: float = 0.8
  step_offset: int = 0
  min_dim: int = 128
  eps: float = 1e-30
  scale_floor: float = 1e-3
  clip_threshold: float = 1.0
  multiply_by_parameter_scale: bool = True

  def __post_init__(self) -> None:
    check('Adafactor.decay', self.decay, self.decay > 0, 'above 0')
    offset = self.step_offset
    check('Adafactor.step_offset', offset, offset >= 0, 'at least 0')
    check('Adafactor.min_dim', self.min_dim, self.min_dim >= 2, 'at least 2')
    check('Adafactor.eps', self.eps, self.eps > 0, 'above 0')
    floor, clip = self.scale_floor, self.clip_threshold
    check('Adafactor.scale_floor', floor, floor > 0, 'above 0')
    check('Adafactor.clip_threshold', clip, clip > 0, 'above 0')

  def transformation(
    self,
    rate: optax.Schedule,
    *,
    stacked: Collection[str] = (),
    added: Collection[str] = (),
  ) -> optax.GradientTransformation:
    """Returns the update rule; see `optimizers.make_optimizer`."""
    return optax.chain(
      scale_by_adafactor(self, stacked=stacked, unscaled=added),
      optax.scale_by_learning_rate(rate),
    )


class AdafactorState(NamedTuple):
  """The state of Adafactor.

  Attributes:
    count: int32 [], updates made.
    moments: nested dict like the parameters. Under each parameter's path
      either {'full': second moment of its shape} or {'row', 'column'}: the
      second moment averaged over the second and the first of the two factored
      dimensions. All float32.
  """

  count: jax.Array
  moments: dict[str, Any]


def factored_dims(shape: Sequence[int], min_dim: int) -> tuple[int, int] | None:
  """Returns the (row, column) dimensions to factor over, None for neither.

  They are the two largest, the later ones among equals.

  Args:
    shape: the shape of one layer's slice.
    min_dim: the size that both must have.
  """
  order = np.argsort(shape, kind='stable')
  if len(shape) < 2 or shape[order[-2]] < min_dim:
    return None
  row, column = sorted(int(dim) for dim in order[-2:])
  return row, column


def without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
  """Returns the tuple without one item: shape or axes after a reduction."""
  return items[:index] + items[index + 1 :]


def _rms(x: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.mean(jnp.square(x)))


def _init_moment(config: Adafactor, param: jax.Array) -> Moment:
  dims = factored_dims(param.shape, config.min_dim)
  if dims is None:
    return {'full': jnp.zeros(param.shape, jnp.float32)}
  row, column = dims
  return {
    'row': jnp.zeros(without(param.shape, column), jnp.float32),
    'column': jnp.zeros(without(param.shape, row), jnp.float32),
  }


def _divide_by_root(
  config: Adafactor,
  grad: jax.Array,
  moment: Moment,
  beta: jax.Array,
) -> tuple[jax.Array, Moment]:
  """Divides one layer's gradient by the root of its second moment.

  The factored moment is the outer product row x column / mean(row). Its root
  is applied factor by factor: the product of two moments near eps would
  underflow.
  """
  square = jnp.square(grad) + config.eps

  def decayed(name: str, new: jax.Array) -> jax.Array:
    return beta * moment[name] + (1 - beta) * new

  dims = factored_dims(grad.shape, config.min_dim)
  if dims is None:
    full = decayed('full', square)
    return grad * jax.lax.rsqrt(full), {'full': full}
  row_dim, column_dim = dims
  row = decayed('row', jnp.mean(square, axis=column_dim))
  column = decayed('column', jnp.mean(square, axis=row_dim))
  # Of two dimensions row_dim is the earlier one: its index is still valid in
  # `row`, which lacks only column_dim.
  share = row / jnp.mean(row, axis=row_dim, keepdims=True)
  scaled = (
    grad
    * jnp.expand_dims(jax.lax.rsqrt(share), column_dim)
    * jnp.expand_dims(jax.lax.rsqrt(column), row_dim)
  )
  return scaled, {'row': row, 'column': column}


def _layer_update(
  config: Adafactor,
  beta: jax.Array,
  scale: bool,
  param: jax.Array,
  grad: jax.Array,
  moment: Moment,
) -> tuple[jax.Array, Moment]:
  """Returns one layer's update, before the learning rate, and its moment."""
  update, moment = _divide_by_root(
    config, grad.astype(jnp.float32), moment, beta
  )
  update /= jnp.maximum(_rms(update) / config.clip_threshold, 1.0)
  if scale:
    size = _rms(param.astype(jnp.float32))
    update *= jnp.maximum(size, config.scale_floor)
  return update.astype(param.dtype), moment


def scale_by_adafactor(
  config: Adafactor,
  *,
  stacked: Collection[str] = (),
  unscaled: Collection[str] = (),
) -> optax.GradientTransformation:
  """Returns Adafactor's update, before the learning rate and its sign.

  Args:
    config: the hyper-parameters.
    stacked: paths of parameters with a leading axis of layers.
    unscaled: paths of parameters whose update is not multiplied by their RMS.

  Returns:
    A transformation with an `AdafactorState`. Parameters and gradients are
    nested dicts; updates have the parameters' dtype.
  """

  def over_layers(fn: Callable[..., Any], path: str) -> Callable[..., Any]:
    return jax.vmap(fn) if path in stacked else fn

  def init(params: Params) -> AdafactorState:
    def moment(path: str, param: jax.Array) -> Moment:
      return over_layers(partial(_init_moment, config), path)(param)

    moments = trees.map_with_path(moment, params)
    return AdafactorState(jnp.zeros((), jnp.int32), moments)

  def update(
    grads: Params, state: AdafactorState, params: Params
  ) -> tuple[Params, AdafactorState]:
    time = jnp.maximum(state.count - config.step_offset, 0) + 1
    beta = 1 - time.astype(jnp.float32) ** -config.decay

    def step(
      path: str, param: jax.Array, grad: jax.Array, moment: Moment
    ) -> tuple[jax.Array, Moment]:
      scale = config.multiply_by_parameter_scale and path not in unscaled
      layer = partial(_layer_update, config, beta, scale)
      return over_layers(layer, path)(param, grad, moment)

    pairs = trees.map_with_path(step, params, grads, state.moments)
    updates = jax.tree.map(lambda _, pair: pair[0], params, pairs)
    moments = jax.tree.map(lambda _, pair: pair[1], params, pairs)
    return updates, AdafactorState(state.count + 1, moments)

  return optax.GradientTransformation(init, update)
