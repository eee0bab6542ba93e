"""Activations times a weight, in the form that the platform is fast at.

XLA for CPUs gives a bfloat16 product to the processor's matrix instructions
only when its result is float32. One with a bfloat16 result it computes in
float32 and rounds: the same numbers, several times slower where there are such
instructions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hypergrid_jax.ops.relu_dropout import ReluDropout
from hypergrid_jax.parallel import current_mesh


def matmul(
  x: Float[Array, '*B K'] | ReluDropout, kernel: Float[Array, 'K N']
) -> Float[Array, '*B N']:
  """Returns `x @ kernel`, accumulated in at least float32.

  Args:
    x: activations, or ReLU and dropout of some, which are computed first.
    kernel: the weight, in the dtype of x.

  Returns:
    The product in the dtype of x. So are the gradients, which round as those of
    `x @ kernel` do.
  """
  if isinstance(x, ReluDropout):
    x = x.value()
  if x.dtype == jnp.bfloat16 and current_mesh.platform() == 'cpu':
    return _widened(x, kernel)
  return x @ kernel


@jax.custom_vjp
def _widened(x, kernel):
  return _product(x, kernel, kernel_axis=0).astype(x.dtype)


def _forward(x, kernel):
  return _widened(x, kernel), (x, kernel)


def _backward(residuals, dy):
  x, kernel = residuals
  dx = _product(dy, kernel, kernel_axis=1).astype(x.dtype)
  tokens = tuple(range(x.ndim - 1))
  dkernel = jax.lax.dot_general(
    x, dy, ((tokens, tokens), ((), ())), preferred_element_type=jnp.float32
  )
  return dx, dkernel.astype(kernel.dtype)


_widened.defvjp(_forward, _backward)


def _product(x, kernel, *, kernel_axis):
  dims = ((x.ndim - 1,), (kernel_axis,)), ((), ())
  return jax.lax.dot_general(
    x, kernel, dims, preferred_element_type=jnp.float32
  )
