"""Where conditioning vectors come from: first tokens, means, task tables.

All work on packed rows: a state is [B, S, D], one vector per segment, and
`per_token` spreads it over the tokens of the segment.
"""

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hypergrid_jax import layers, types


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
