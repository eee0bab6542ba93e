"""Copies rows of one task out of a token store into the arrays of a batch.

All tokens of all rows are moved by one indexed copy per array; there is no loop
over rows or segments.
"""

import numpy as np

from hypergrid_jax.data.packing import PackedRows
from hypergrid_jax.data.tokens import TokenStore
from hypergrid_jax.types import Batch


def empty_batch(
  size: int, row_lengths: tuple[int, int], max_segments: int
) -> Batch:
  """Returns `size` rows of padding, as NumPy arrays.

  Args:
    size: number of rows.
    row_lengths: tokens of an encoder and of a decoder row.
    max_segments: size of the segment axis.
  """

  def zeros(length: int, dtype=np.int32) -> np.ndarray:
    return np.zeros((size, length), dtype)

  encoder, decoder = row_lengths
  return Batch(
    encoder_input_tokens=zeros(encoder),
    encoder_segment_ids=zeros(encoder),
    encoder_positions=zeros(encoder),
    encoder_segment_starts=zeros(max_segments),
    decoder_input_tokens=zeros(decoder),
    decoder_target_tokens=zeros(decoder),
    decoder_segment_ids=zeros(decoder),
    decoder_positions=zeros(decoder),
    decoder_loss_weights=zeros(decoder, np.float32),
    task_ids=np.zeros(size, np.int32),
  )


def fill_rows(
  batch: Batch,
  lines: np.ndarray,
  *,
  store: TokenStore,
  packed: PackedRows,
  rows: np.ndarray,
):
  """Writes packed rows of one task into a batch; all but `task_ids`.

  Args:
    batch: from `empty_batch`; changed.
    lines: [k] which rows of the batch to write.
    store: the task's examples.
    packed: which examples lie in which row.
    rows: [k] which of the task's rows to write there.
  """
  firsts = packed.offsets[rows]
  counts = packed.offsets[rows + 1] - firsts
  examples = packed.examples[_ranges(firsts, counts)]
  line = np.repeat(lines, counts)
  segment = _ranges(np.zeros_like(counts), counts)

  length = batch.encoder_input_tokens.shape[1]
  at = _Segments(store.input_offsets, examples, counts, line, length)
  batch.encoder_segment_starts[line, segment] = at.columns
  batch.encoder_input_tokens.flat[at.places] = store.input_tokens[at.sources]
  batch.encoder_segment_ids.flat[at.places] = at.spread(segment + 1)
  batch.encoder_positions.flat[at.places] = at.positions

  length = batch.decoder_target_tokens.shape[1]
  at = _Segments(store.target_offsets, examples, counts, line, length)
  targets = store.target_tokens[at.sources]
  batch.decoder_target_tokens.flat[at.places] = targets
  batch.decoder_segment_ids.flat[at.places] = at.spread(segment + 1)
  batch.decoder_positions.flat[at.places] = at.positions
  batch.decoder_loss_weights.flat[at.places] = 1
  # A segment's first input stays the padding id; its last target is no input.
  later = np.flatnonzero(at.positions)
  batch.decoder_input_tokens.flat[at.places[later]] = targets[later - 1]


class _Segments:
  """Where the tokens of some segments lie in a store and in a batch.

  Attributes:
    columns: [S] column of each segment's first token.
    places: [t] flat index into a [B, L] array, per token.
    sources: [t] index into the store's flat tokens, per token.
    positions: [t] position within its segment, per token.
  """

  def __init__(self, offsets, examples, counts, line, row_length: int):
    begins = offsets[examples]
    self._lengths = offsets[examples + 1] - begins
    ends = np.cumsum(self._lengths)
    before = ends - self._lengths
    # Tokens of earlier rows: the value of `before` at each row's first segment.
    row_begins = before[np.cumsum(counts) - counts]
    self.columns = before - np.repeat(row_begins, counts)
    self.positions = np.arange(self._lengths.sum()) - self.spread(before)
    self.sources = self.positions + self.spread(begins)
    self.places = self.positions + self.spread(line * row_length + self.columns)

  def spread(self, values: np.ndarray) -> np.ndarray:
    """Repeats a value per segment [S] for each of its tokens, [t]."""
    return np.repeat(values, self._lengths)


def _ranges(firsts: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """Concatenates the ranges [first, first + count)."""
  before = np.cumsum(counts) - counts
  return np.arange(counts.sum()) + np.repeat(firsts - before, counts)
