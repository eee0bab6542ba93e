"""Cross-entropy over target tokens, in nats."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_losses(
  logits: Float[Array, 'B L V'],
  targets: Int[Array, 'B L'],
  *,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
) -> Float[Array, 'B L']:
  """Cross-entropy of every target token, plus `z_loss * log(Z)**2`.

  With label smoothing e the target distribution is 1 - e on the target and
  e / (V - 1) on each other token, and the entropy of that distribution is
  subtracted, so that a perfect prediction costs 0 (as in T5X).

  Args:
    logits: float32.
    targets: ids in [0, V).
    label_smoothing: e, in [0, 1).
    z_loss: keeps the normaliser near 1; T5X uses 1e-4.

  Returns:
    Nats per token, for padding too: weigh it away.
  """
  log_z = jax.nn.logsumexp(logits, axis=-1)
  target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  loss = log_z - target
  if label_smoothing:
    v = logits.shape[-1]
    low = label_smoothing / (v - 1)
    high = 1.0 - label_smoothing
    others = jnp.sum(logits, axis=-1) - target
    loss = log_z - high * target - low * others
    loss = loss + high * jnp.log(high) + (v - 1) * low * jnp.log(low)
  if z_loss:
    loss = loss + z_loss * jnp.square(log_z)
  return loss


def sequence_log_probability(
  logits: Float[Array, 'B L V'],
  targets: Int[Array, 'B L'],
  weights: Float[Array, 'B L'],
) -> Float[Array, ' B']:
  """Sum of the targets' log-probabilities over the weighted positions."""
  return -jnp.sum(token_losses(logits, targets) * weights, axis=-1)
