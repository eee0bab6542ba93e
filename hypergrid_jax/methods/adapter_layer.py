"""The adapter: a bottleneck with its own skip and its own LayerNorm.

Karimi Mahabadi et al. 2021 (arXiv:2106.04489), section 2.2. A method
either trains its weights as parameters or generates them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hypergrid_jax import errors

EPSILON = 1e-5  # the LayerNorm's, the authors' and PyTorch's default
STDDEV = 0.01  # standard deviation of an adapter's initial weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdapterWeights:
  """One adapter per entry of the first axis: per task, per row, or just one.

  Letters: G adapters, D d_model, R bottleneck.

  Attributes:
    down: [G, D, R].
    down_bias: [G, R].
    up: [G, R, D].
    up_bias: [G, D].
    norm_scale: [G, D], gain of the LayerNorm.
    norm_bias: [G, D], of the LayerNorm.
  """

  down: Any
  down_bias: Any
  up: Any
  up_bias: Any
  norm_scale: Any
  norm_bias: Any


KERNELS = ('down', 'up')
NORM = ('norm_scale', 'norm_bias')


def weight_shapes(d_model: int, bottleneck: int) -> dict[str, dict[str, int]]:
  """Returns the size by logical axis of every weight of one adapter."""
  wide, narrow = {'embed': d_model}, {'bottleneck': bottleneck}
  return {
    'down': wide | narrow,
    'down_bias': narrow,
    'up': narrow | wide,
    'up_bias': wide,
    'norm_scale': wide,
    'norm_bias': wide,
  }


def width(owner: str, d_model: int, reduction_factor: int) -> int:
  """Returns R = d_model // reduction_factor, as in the authors' code.

  Args:
    owner: name of the method, for the message.
    d_model: width of the model.
    reduction_factor: how much narrower the adapter is than the model.

  Raises:
    UserError: nothing is left.
  """
  if not 1 <= reduction_factor <= d_model:
    raise errors.UserError(
      f'{owner}.reduction_factor = {reduction_factor}, but must be in'
      f' [1, {d_model}]: the bottleneck is T5Config.d_model // reduction_factor'
      f' wide, and d_model is {d_model}.'
    )
  return d_model // reduction_factor


def of_rows(weights: Any, rows: Array) -> Any:
  """Gathers every row's own entry [B, ...] from leaves [G, ...].

  Args:
    weights: any pytree of arrays.
    rows: [B] int32, in [0, G); task ids are checked on the host by the loader,
      because under jit JAX would clamp a bad one to the last task.
  """
  return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), weights)


def apply_adapter(
  y: Float[Array, 'B L D'], weights: AdapterWeights
) -> Float[Array, 'B L D']:
  """Returns y + LN(gelu(y down + b_down) up + b_up), row by row.

  gelu is the tanh form, as in the authors' configurations; their class
  default, swish, is not used. The two matmuls multiply in y's dtype and add up
  in float32 at least; bias, gelu and LayerNorm are in that too.

  Args:
    y: output of a sub-layer, before dropout and the residual add.
    weights: B adapters, one for each row, or one for all rows.

  Returns:
    An array like y; equal to it when norm_scale and norm_bias are zero.
  """
  wide = jnp.promote_types(y.dtype, jnp.float32)

  def dense(x, kernel, bias):
    product = jnp.matmul(
      x.astype(y.dtype), kernel.astype(y.dtype), preferred_element_type=wide
    )
    return product + bias[:, None]

  hidden = jax.nn.gelu(dense(y, weights.down, weights.down_bias))
  z = dense(hidden, weights.up, weights.up_bias)
  z -= jnp.mean(z, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(z), axis=-1, keepdims=True)
  z *= jax.lax.rsqrt(variance + EPSILON) * weights.norm_scale[:, None]
  return y + (z + weights.norm_bias[:, None]).astype(y.dtype)
