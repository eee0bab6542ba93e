"""Where conditioning vectors come from, and how they act on the model.

They come from first tokens, means or task tables. All work on packed rows: a
state is [B, S, D], one vector per segment, and `per_token` spreads it over the
tokens of the segment. A vector of the row's task is [B, E].
"""

from typing import Literal

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax import errors, types
from hypergrid_jax.model import layers

Layers = Literal['all', 'upper_half'] | tuple[int, ...]


def check_layers(choice: Layers, field: str) -> None:
  """Refuses what is no choice of layers; `field` is the option's name.

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
  """Numbers of the chosen layers of a stack, ascending.

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
  """The state of each segment's first token.

  For segments that a row does not have this is the row's first token; no
  token refers to them.
  """
  return jnp.take_along_axis(x, segments.starts[:, :, None], axis=1)


def mean_state(
  x: Float[Array, 'B L D'], segments: types.Segments
) -> Float[Array, 'B S D']:
  """The mean over each segment's tokens; zero for absent segments."""
  names = jnp.arange(1, segments.starts.shape[1] + 1)
  member = segments.ids[:, :, None] == names[None, None, :]
  count = jnp.maximum(jnp.sum(member, axis=1), 1)
  total = jnp.einsum(
    'bls,bld->bsd',
    member.astype(x.dtype),
    x,
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )
  return (total / count[:, :, None]).astype(x.dtype)


def per_token(
  state: Float[Array, '#B S A'], segment_ids: Int[Array, 'B L']
) -> Float[Array, '#B _ A']:
  """Gives every token its segment's vector.

  Args:
    state: one vector per segment; B or 1 rows, S or 1 segments.
    segment_ids: 1-based; padding tokens get segment 1's vector, which is
      harmless because nothing attends to them.

  Returns:
    [B, L, A], or [B, 1, A] to broadcast when there is only one segment.
  """
  if state.shape[1] == 1:
    return state
  index = jnp.maximum(segment_ids - 1, 0)[:, :, None]
  return jnp.take_along_axis(state, index, axis=1)


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
  """`x @ kernel + bias`, in the dtype of x; on request one for each layer."""

  def __init__(
    self,
    sizes: tuple[int, int],
    axes: tuple[str, str],
    *,
    rngs: nnx.Rngs,
    stddev: float = 0.0,
    num_layers: int | None = None,
  ):
    """Makes kernel and bias, the bias of zeros.

    Args:
      sizes: inputs and outputs.
      axes: their logical axes.
      rngs: the stream 'method' is drawn from.
      stddev: of the kernel; 0 starts it at zero.
      num_layers: None for one layer; N for N of them on a leading axis.
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
  """Makes a scale and a shift per feature from a vector (arXiv:1709.07871).

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
    """Makes both; for the arguments see `Dense`."""
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
  """(1 + gamma) x + beta, alike for all tokens of a row; in x's dtype."""
  return ((1 + gamma[:, None, :]) * x + beta[:, None, :]).astype(x.dtype)
