"""The data that passes between the parts: batches, segments, conditioning.

Letters in shapes: B rows, L tokens of a row (Le encoder, Ld decoder), S
segments of a row, D model width, N layers. A *row* is one line of a batch; a
packed row holds several *segments*, each one example, all of one task.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = dict[str, Any]  # nested dict of arrays; leaves are float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Rows of token ids for one step, in T5X's feature names.

  Segment ids count from 1 within a row; 0 is padding. Segment s of the encoder
  and segment s of the decoder are the same example. Positions restart at 0 in
  every segment. In a row without packing the only segment id is 1.

  Attributes:
    encoder_input_tokens: [B, Le] int32.
    encoder_segment_ids: [B, Le] int32.
    encoder_positions: [B, Le] int32.
    encoder_segment_starts: [B, S] int32, index of the first token of segment
      s + 1; 0 where the row has fewer segments. S is the same for every batch
      of a run, so that nothing recompiles.
    decoder_input_tokens: [B, Ld] int32, targets shifted right by one within
      each segment; every segment begins with the padding id 0.
    decoder_target_tokens: [B, Ld] int32, with the end-of-sequence id.
    decoder_segment_ids: [B, Ld] int32.
    decoder_positions: [B, Ld] int32.
    decoder_loss_weights: [B, Ld] float32, 1 on target tokens, 0 on padding.
    task_ids: [B] int32, in [0, T); checked on the host by the loader.
  """

  encoder_input_tokens: Array
  encoder_segment_ids: Array
  encoder_positions: Array
  encoder_segment_starts: Array
  decoder_input_tokens: Array
  decoder_target_tokens: Array
  decoder_segment_ids: Array
  decoder_positions: Array
  decoder_loss_weights: Array
  task_ids: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segments:
  """Which segment every token of a stack belongs to.

  Attributes:
    ids: [B, L] int32, 1-based, 0 for padding.
    starts: [B, S] int32, see `Batch.encoder_segment_starts`. In the decoder
      these are still the encoder's: S is what the two sides share.
    positions: [B, L] int32, position of each token inside its segment.
  """

  ids: Array
  starts: Array
  positions: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditioning:
  """What a stack's modules are conditioned on.

  Attributes:
    shared: pytree that every layer of the stack receives whole.
    per_layer: pytree whose leaves have a leading axis of N layers; layer n
      receives slice n. Differences between layers travel here, as data, never
      as Python numbers: one scanned layer serves all.
  """

  shared: Any = None
  per_layer: Any = None
