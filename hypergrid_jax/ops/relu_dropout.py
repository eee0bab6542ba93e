"""ReLU and dropout as one, whose gradient needs their result alone.

The result is 0 exactly where either made it 0. The product that follows keeps
its input anyway, so that neither what went into the ReLU nor the dropout's mask
is kept or computed again, and a kernel of that product can give the gradient
before the ReLU with no pass over memory of its own.
"""

import dataclasses
import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

NAME = 'rectified'  # of the result, for policies of remat


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['keep'],
  meta_fields=['scale'],
)
@dataclasses.dataclass(frozen=True)
class Rectifier:
  """What happens to activations x: where(keep & (x > 0), scale * x, 0).

  Attributes:
    keep: what dropout leaves, alike for all tokens of a row; None for all.
    scale: what it multiplies that by.
  """

  keep: Bool[Array, 'B 1 F'] | None
  scale: float


def make(
  shape: tuple[int, int, int], rate: float, key: jax.Array | None
) -> Rectifier:
  """Draws what dropout leaves.

  Args:
    shape: [B, L, F], of the activations.
    rate: in [0, 1), the probability of an entry to be dropped.
    key: None switches dropout off.
  """
  if key is None or not rate:
    return Rectifier(None, 1.0)
  keep = jax.random.bernoulli(key, 1.0 - rate, (shape[0], 1, shape[2]))
  return Rectifier(keep, 1.0 / (1.0 - rate))


def rectify(
  rectifier: Rectifier, x: Float[Array, 'B L F']
) -> Float[Array, 'B L F']:
  """Applies ReLU and dropout, to be differentiated by JAX."""
  x = rectifier.scale * jax.nn.relu(x)
  if rectifier.keep is None:
    return x
  return jnp.where(rectifier.keep, x, jnp.zeros_like(x))


def value(
  scale: float, x: Float[Array, 'B L F'], keep: Bool[Array, 'B 1 F'] | None
) -> Float[Array, 'B L F']:
  """`rectify` for those who differentiate with `gradient`; it has `NAME`."""
  kept = x > 0 if keep is None else (x > 0) & keep
  return checkpoint_name(jnp.where(kept, scale * x, jnp.zeros_like(x)), NAME)


def gradient(
  scale: float, result: Float[Array, '...'], dresult: Float[Array, '...']
) -> Float[Array, '...']:
  """Of x, from that of the result."""
  return jnp.where(result > 0, scale * dresult, jnp.zeros_like(dresult))
