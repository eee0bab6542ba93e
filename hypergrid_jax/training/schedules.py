"""Learning-rate schedules: functions of the number of updates already made."""

from collections.abc import Callable
import dataclasses
import math

import jax
import jax.numpy as jnp

from hypergrid_jax.errors import UserError, closest

Step = int | jax.Array
Schedule = Callable[[Step], jax.Array]

DECAYS = ('none', 'linear', 'rsqrt')


def _check_learning_rate(name: str, value: float) -> None:
  if not 0 < value < math.inf:
    raise UserError(f'{name}.learning_rate is {value}, but must be above 0.')


@dataclasses.dataclass(frozen=True)
class Constant:
  """The same learning rate at every step.

  Raffel et al. 2020 (arXiv:1910.10683), section 3.1.2, fine-tune with 0.001.

  Attributes:
    learning_rate: the rate; Adafactor multiplies it by each parameter's RMS.

  Raises:
    UserError: the rate is not a positive number.
  """

  learning_rate: float = 1e-3

  def __post_init__(self) -> None:
    _check_learning_rate('Constant', self.learning_rate)

  def schedule(self) -> Schedule:
    """Returns step -> float32 []."""
    return lambda step: jnp.full((), self.learning_rate, jnp.float32)


@dataclasses.dataclass(frozen=True)
class RsqrtDecay:
  """learning_rate / sqrt(max(step, warmup_steps)): T5's pre-training schedule.

  Raffel et al. 2020 (arXiv:1910.10683), section 3.1.2: with the defaults the
  rate is 0.01 for 10,000 steps and then falls as 1 / sqrt(step).

  Attributes:
    learning_rate: the numerator; not the peak, which is
      learning_rate / sqrt(warmup_steps).
    warmup_steps: how long the rate stays at its peak.

  Raises:
    UserError: the rate or the number of steps is not positive.
  """

  learning_rate: float = 1.0
  warmup_steps: int = 10_000

  def __post_init__(self) -> None:
    _check_learning_rate('RsqrtDecay', self.learning_rate)
    if self.warmup_steps < 1:
      raise UserError(
        f'RsqrtDecay.warmup_steps is {self.warmup_steps}, but must be at least '
        '1: at step 0 the rate divides by its square root.'
      )

  def schedule(self) -> Schedule:
    """Returns step -> float32 []."""

    def rate(step: Step) -> jax.Array:
      reached = jnp.maximum(jnp.asarray(step, jnp.float32), self.warmup_steps)
      return self.learning_rate / jnp.sqrt(reached)

    return rate


@dataclasses.dataclass(frozen=True)
class LinearWarmup:
  """Rises linearly from 0 to learning_rate, then stays or decays.

  The rate is 0 at step 0, reaches `learning_rate` at step `warmup_steps`, and
  with linear decay is 0 again at step `total_steps`, one past the last update.

  Attributes:
    learning_rate: the peak.
    warmup_steps: length of the rise; 0 starts at the peak.
    decay: what follows: 'none', 'linear' (to 0 at `total_steps`) or 'rsqrt'
      (learning_rate * sqrt(warmup_steps / step)).
    total_steps: updates in the whole run; for linear decay only.

  Raises:
    UserError: an unknown decay, or numbers of steps that do not fit it.
  """

  learning_rate: float = 1e-3
  warmup_steps: int = 500
  decay: str = 'none'
  total_steps: int | None = None

  def __post_init__(self) -> None:
    _check_learning_rate('LinearWarmup', self.learning_rate)
    if self.decay not in DECAYS:
      raise UserError(
        f'LinearWarmup.decay is {self.decay!r}, but must be one of '
        f'{", ".join(DECAYS)}.{closest(self.decay, DECAYS)}'
      )
    least = 1 if self.decay == 'rsqrt' else 0
    if self.warmup_steps < least:
      raise UserError(
        f'LinearWarmup.warmup_steps is {self.warmup_steps}, but must be at '
        f'least {least} when decay is {self.decay!r}.'
      )
    if self.decay != 'linear':
      return
    if self.total_steps is None:
      raise UserError(
        "LinearWarmup.total_steps is not set, but decay 'linear' ends there. "
        'Give the number of updates of the run.'
      )
    if self.total_steps <= self.warmup_steps:
      raise UserError(
        f'LinearWarmup.total_steps is {self.total_steps}, but must be above '
        f'warmup_steps, {self.warmup_steps}.'
      )

  def schedule(self) -> Schedule:
    """Returns step -> float32 []."""

    def rate(step: Step) -> jax.Array:
      step = jnp.asarray(step, jnp.float32)
      factor = jnp.minimum(step / max(self.warmup_steps, 1), 1.0)
      if self.warmup_steps == 0:
        factor = jnp.ones_like(step)
      if self.decay == 'rsqrt':
        reached = jnp.maximum(step, self.warmup_steps)
        factor = factor * jnp.sqrt(self.warmup_steps / reached)
      if self.decay == 'linear':
        span = self.total_steps - self.warmup_steps
        left = (self.total_steps - step) / span
        factor = factor * jnp.clip(left, 0.0, 1.0)
      return self.learning_rate * factor

    return rate
