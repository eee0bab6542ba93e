"""Where conditioning vectors come from, and how they act on the model.

They come from first tokens, means or task tables. All work on packed rows: a
state is [B, S, D], one vector per segment. A vector of the row's task is
[B, E].
"""

from typing import Literal

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax import errors, types
from hypergrid_jax.model import layers

Layers = Literal['all', 'upper_half'] | tuple[int, ...]


def check_layers(choice: Layers, field: str) -> None:
  """Refuses a value that selects no layers; `field` is the option's name.

  Raises:
    UserError: it is neither of the names nor layer numbers.
  """
  named = ('all', 'upper_half')
  if not choice or (isinstance(choice, str) and choice not in named):
    raise errors.UserError(
      f"{field}: got {choice!r}, expected 'all', 'upper_half' or a tuple of at"
      ' least one layer number.'
    )


def selected_layers(
  choice: Layers, num_layers: int, field: str
) -> tuple[int, ...]:
  """Returns the numbers of the selected layers of a stack, ascending.

  Raises:
    UserError: a number is not a layer of the stack.
  """
  if choice == 'all':
    return tuple(range(num_layers))
  if choice == 'upper_half':
    return tuple(range(num_layers // 2, num_layers))
  for number in choice:
    if not 0 <= number < num_layers:
      raise errors.UserError(
        f'{field}: there is no layer {number} in a stack of {num_layers}'
        f' (0..{num_layers - 1}).'
      )
  return tuple(sorted(set(choice)))


def first_token_state(
  x: Float[Array, 'B L D'], segments: types.Segments
) -> Float[Array, 'B S D']:
  """Returns the state of each segment's first token.

  For segments that a row does not have this is the row's first token; no
  token refers to them.
  """
  return jnp.take_along_axis(x, segments.starts[:, :, None], axis=1)


def mean_state(
  x: Float[Array, 'B L D'], segments: types.Segments
) -> Float[Array, 'B S D']:
  """Returns the mean over each segment's tokens; zero for absent segments."""
  segment_ids = jnp.arange(1, segments.starts.shape[1] + 1)
  member = segments.ids[:, :, None] == segment_ids[None, None, :]
  count = jnp.maximum(jnp.sum(member, axis=1), 1)
  total = jnp.einsum(
    'bls,bld->bsd',
    member.astype(x.dtype),
    x,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )
  return (total / count[:, :, None]).astype(x.dtype)


class TaskEmbedding(nnx.Module):
  """A trained vector per task."""

  def __init__(
    self, num_tasks: int, width: int, *, rngs: nnx.Rngs, stddev: float = 1.0
  ):
    self.embedding = layers.parameter(
      rngs,
      (num_tasks, width),
      ('tasks', 'task_embed'),
      stddev=stddev,
      stream='method',
    )

  def __call__(self, task_ids: Int[Array, ' B']) -> Float[Array, 'B E']:
    """Looks task ids up; ids are checked on the host by the loader."""
    return jnp.take(self.embedding[...], task_ids, axis=0)


class Dense(nnx.Module):
  """`x @ kernel + bias`, in the dtype of x; for one layer or for N."""

  def __init__(
    self,
    sizes: tuple[int, int],
    axes: tuple[str, str],
    *,
    rngs: nnx.Rngs,
    stddev: float = 0.0,
    num_layers: int | None = None,
  ):
    """Makes the kernel, and a bias of zeros.

    Args:
      sizes: number of inputs and of outputs.
      axes: their logical axes.
      rngs: random numbers; the stream 'method' is used.
      stddev: standard deviation of the kernel; 0 starts it at zero.
      num_layers: None for one layer; N for N layers on a leading axis.
    """
    stack, layer_axes = (
      ((), ()) if num_layers is None else ((num_layers,), ('layers',))
    )
    self.kernel = layers.parameter(
      rngs,
      (*stack, *sizes),
      (*layer_axes, *axes),
      stddev=stddev,
      stream='method',
    )
    self.bias = layers.parameter(
      rngs, (*stack, sizes[1]), (*layer_axes, axes[1])
    )

  def __call__(self, x: Float[Array, 'B *L A']) -> Float[Array, '... C']:
    """Returns [B, ..., C]; with N layers x is [B, A] and this is [N, B, C]."""
    kernel, bias = (p[...].astype(x.dtype) for p in (self.kernel, self.bias))
    if kernel.ndim == 3:
      return jnp.einsum('ba,nac->nbc', x, kernel) + bias[:, None, :]
    return x @ kernel + jnp.broadcast_to(bias, (*x.shape[:-1], bias.shape[0]))


class FiLM(nnx.Module):
  """Computes a scale and a shift per feature from a vector (arXiv:1709.07871).

  gamma and beta are linear in the vector. They start at zero, so that what
  they act on is as it was; see `modulate`.
  """

  def __init__(
    self,
    sizes: tuple[int, int],
    axes: tuple[str, str],
    *,
    rngs: nnx.Rngs,
    num_layers: int | None = None,
  ):
    """Makes both maps; the arguments are those of `Dense`."""
    self.gamma = Dense(sizes, axes, rngs=rngs, num_layers=num_layers)
    self.beta = Dense(sizes, axes, rngs=rngs, num_layers=num_layers)

  def __call__(
    self, vector: Float[Array, 'B E']
  ) -> tuple[Float[Array, '*N B C'], Float[Array, '*N B C']]:
    """Returns gamma and beta of every row."""
    return self.gamma(vector), self.beta(vector)


def modulate(
  x: Float[Array, 'B L D'],
  gamma: Float[Array, 'B D'],
  beta: Float[Array, 'B D'],
) -> Float[Array, 'B L D']:
  """Returns (1 + gamma) x + beta, alike for all tokens of a row."""
  return ((1 + gamma[:, None, :]) * x + beta[:, None, :]).astype(x.dtype)
