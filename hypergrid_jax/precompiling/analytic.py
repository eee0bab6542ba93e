"""FLOPs of a T5 from its sizes: the check of what a compiled program counts.

Matrix products only, two FLOPs for each multiply-add, of every token of a row,
padding included. What a method adds to them is not in here.
"""

import dataclasses

from hypergrid_jax.model.config import T5Config

# The gradients of a product by its two factors are two products of its size.
TRAINING = 3


@dataclasses.dataclass(frozen=True)
class Flops:
  """Matrix products of one step, on all devices together.

  Attributes:
    attention: projections of queries, keys, values and outputs, and products of
      queries with keys and of weights with values; forward and backward.
    feed_forward: the same of the feed-forward layers.
    logits: the same of the output.
    recomputed: what the backward pass computes again; see
      `T5Config.remat_policy`.
  """

  attention: int
  feed_forward: int
  logits: int
  recomputed: int

  @property
  def model(self) -> int:
    """What training takes, however it is done."""
    return self.attention + self.feed_forward + self.logits

  @property
  def total(self) -> int:
    """What this way of training takes."""
    return self.model + self.recomputed


def training_flops(
  config: T5Config, *, rows: int, row_lengths: tuple[int, int]
) -> Flops:
  """Returns the FLOPs of one training step.

  Args:
    config: sizes, with `vocab_size`.
    rows: of the global batch.
    row_lengths: tokens of an encoder and of a decoder row.
  """
  projections, products = _attention(config, rows, row_lengths)
  feed_forward, last = _feed_forward(config, rows, row_lengths)
  tokens = rows * row_lengths[1]
  logits = 2 * tokens * config.d_model * config.vocab_size
  recomputed = {
    'none': 0,
    # Products of two activations; those with a parameter are kept.
    'minimal': products,
    # All but the last of a layer, whose result only the next layer needs.
    'full': projections + products + feed_forward - last,
  }[config.remat_policy]
  return Flops(
    attention=TRAINING * (projections + products),
    feed_forward=TRAINING * feed_forward,
    logits=TRAINING * logits,
    recomputed=recomputed,
  )


def _attention(config, rows, row_lengths) -> tuple[int, int]:
  """Forward: products with parameters, and of activations with each other."""
  encoder, decoder = row_lengths
  width = config.num_heads * config.d_kv
  per_token = 2 * config.d_model * width  # of one projection
  # Queries and outputs of the side that attends, keys and values of the other.
  sides = (
    (config.num_layers, encoder, encoder),
    (config.num_decoder_layers, decoder, decoder),
    (config.num_decoder_layers, decoder, encoder),
  )
  projections = sum(n * rows * (2 * q + 2 * k) * per_token for n, q, k in sides)
  products = sum(n * rows * 2 * 2 * q * k * width for n, q, k in sides)
  return projections, products


def _feed_forward(config, rows, row_lengths) -> tuple[int, int]:
  """Forward: all products, and of them the last of every layer."""
  encoder, decoder = row_lengths
  tokens = rows * (
    config.num_layers * encoder + config.num_decoder_layers * decoder
  )
  last = 2 * tokens * config.d_model * config.d_ff
  return last * (len(config.wi_names) + 1), last
