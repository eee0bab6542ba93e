"""ReLU and dropout as one step, which the product that follows carries out.

T5's feed-forward layer is `wo(dropout(relu(wi(x))))`. `relu_dropout` draws the
dropout mask and nothing else; `matmul` and `gated_matmul` compute ReLU and
dropout when they read their input. That saves memory and time, because the
result is 0 exactly where either of the two made it 0: the product keeps its
input for its own gradient anyway, and that input alone says where the gradient
passes. So neither the ReLU's input nor the mask is kept or computed again, and
a kernel can return the gradient before the ReLU without a pass over memory.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

NAME = 'relu_dropout'  # of the result, for rematerialisation policies


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['x', 'keep'],
  meta_fields=['scale'],
)
@dataclasses.dataclass(frozen=True)
class ReluDropout:
  """`where(keep & (x > 0), scale * x, 0)`, not yet computed.

  Attributes:
    x: the ReLU's input, [B, L, F].
    keep: [B, 1, F] bool, the features that dropout keeps, alike for all tokens
      of a row; None keeps all.
    scale: 1 / (1 - rate), what dropout multiplies the kept features by.
  """

  x: Any
  keep: Any
  scale: float

  def astype(self, dtype: Any) -> 'ReluDropout':
    """Returns the same step on x in another dtype."""
    return dataclasses.replace(self, x=self.x.astype(dtype))

  def value(self) -> Float[Array, 'B L F']:
    """Computes ReLU and dropout, to be differentiated by JAX."""
    y = self.scale * jax.nn.relu(self.x)
    if self.keep is None:
      return y
    return jnp.where(self.keep, y, jnp.zeros_like(y))


def relu_dropout(
  x: Float[Array, 'B L F'], rate: float, key: jax.Array | None
) -> ReluDropout:
  """Returns the step `dropout(relu(x))` with its mask drawn.

  Args:
    x: the ReLU's input.
    rate: in [0, 1), the probability of a feature to be dropped for all tokens
      of a row.
    key: None switches dropout off.
  """
  if key is None or not rate:
    return ReluDropout(x, None, 1.0)
  keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, x.shape[2]))
  return ReluDropout(x, keep, 1.0 / (1.0 - rate))


def value(
  scale: float, x: Float[Array, 'B L F'], keep: Bool[Array, 'B 1 F'] | None
) -> Float[Array, 'B L F']:
  """Computes the step for a caller that differentiates it with `gradient`.

  The result has the checkpoint name `NAME`.
  """
  passes = x > 0 if keep is None else (x > 0) & keep
  return checkpoint_name(jnp.where(passes, scale * x, jnp.zeros_like(x)), NAME)


def gradient(
  scale: float, result: Float[Array, '...'], dresult: Float[Array, '...']
) -> Float[Array, '...']:
  """Returns the gradient of x, given the result and its gradient."""
  return jnp.where(result > 0, scale * dresult, jnp.zeros_like(dresult))
