"""The gated matmul as TPU kernels: a form like those of `xla_forms`."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from hypergrid_jax.ops import segments, tpu_kernels, tpu_plans, xla_forms


@dataclasses.dataclass(frozen=True)
class Kernels(xla_forms.Form):
  """Fused kernels that make every token's gate from its factors.

  Attributes:
    plan: how the kernels cut the sizes of one device.
  """

  plan: tpu_plans.Plan

  def blocks(self, rows: int, columns: int) -> tuple[int, int]:
    """Returns the next finer grid that the visits of the weight divide."""
    return tpu_plans.refined(self.plan, rows, columns)

  def per_token(self, factor, segment_ids):
    """Gives every token its segment's factor: [#B, S, G] to [G, B, L]."""
    return segments.tokens_last(factor, segment_ids)

  def factor_spec(self, batch, grid):
    """Returns how the mesh divides the result of `per_token`."""
    return PartitionSpec(grid, batch, None)

  def forward(self, u, kernel, row, col, offset_scale):
    """Returns the product [B, L, N] in u's dtype."""
    tokens = u.shape[0] * u.shape[1]
    y = tpu_kernels.forward(
      self.plan,
      self._padded(u.reshape(tokens, -1), 0),
      kernel,
      self._padded(row.reshape(-1, tokens), 1),
      self._padded(col.reshape(-1, tokens), 1),
      offset_scale,
    )
    return y[:tokens].reshape(*u.shape[:2], -1)

  def reads_stacks(self, tokens: int) -> bool:
    """Returns whether the tokens need no padding, which would move them."""
    return tokens == self.plan.tokens

  def backward(
    self,
    u,
    kernel,
    row,
    col,
    offset_scale,
    dy,
    layer=None,
    *,
    relu_scale=None,
  ):
    """Returns the gradients of u, kernel, row and col; see `Form.backward`."""
    shape = u.shape[-3:]
    tokens = shape[0] * shape[1]
    if layer is None:
      u = self._padded(u.reshape(tokens, -1), 0)
    else:
      u = u.reshape(-1, tokens, shape[2])
    du, dkernel, drow, dcol = tpu_kernels.backward(
      self.plan,
      u,
      kernel,
      self._padded(row.reshape(-1, tokens), 1),
      self._padded(col.reshape(-1, tokens), 1),
      offset_scale,
      self._padded(dy.reshape(tokens, -1), 0),
      relu_scale=relu_scale,
      layer=layer,
    )
    return (
      du[:tokens].reshape(shape),
      dkernel,
      drow[:, :tokens].reshape(row.shape),
      dcol[:, :tokens].reshape(col.shape),
    )

  def _padded(self, x: jax.Array, axis: int) -> jax.Array:
    """Appends tokens of zeros, which add nothing to any gradient."""
    widths = [(0, 0), (0, 0)]
    widths[axis] = (0, self.plan.tokens - x.shape[axis])
    return jnp.pad(x, widths)
