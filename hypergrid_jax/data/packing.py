"""Examples to rows: first-fit decreasing over windows of shuffled examples.

All windows are packed side by side, one example of each at a time, so that the
work is a thousand vector operations whatever the number of examples.
"""

import dataclasses

import numpy as np

from hypergrid_jax.data.sampling import permutation
from hypergrid_jax.errors import UserError

# Raise when `pack` gives other rows for the same arguments.
VERSION = 1

# Windows packed side by side: bounds the working memory to some 10 MB.
_WINDOWS_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class PackedRows:
  """Which examples of one task lie in which row.

  Attributes:
    offsets: [R + 1] int32, int64 from 2^31 examples on; row r holds the
      examples `examples[offsets[r]:offsets[r + 1]]`, segment 1 first.
    examples: [n] of the same type, every example of the task exactly once.
  """

  offsets: np.ndarray
  examples: np.ndarray

  @property
  def num_rows(self) -> int:
    """Number of rows R."""
    return len(self.offsets) - 1

  @property
  def segments_per_row(self) -> float:
    """Mean number of examples in a row."""
    return len(self.examples) / self.num_rows

  def row(self, index: int) -> np.ndarray:
    """Returns the examples of one row, [s]."""
    return self.examples[self.offsets[index] : self.offsets[index + 1]]


def one_per_row(num_examples: int) -> PackedRows:
  """Returns rows of one example each, in order: no packing."""
  numbers = np.arange(num_examples + 1, dtype=_index_type(num_examples))
  return PackedRows(numbers, numbers[:-1])


def pack(
  input_lengths: np.ndarray,
  target_lengths: np.ndarray,
  *,
  row_lengths: tuple[int, int],
  max_segments: int,
  window: int = 1000,
  seed: int = 0,
  label: str = 'examples',
) -> PackedRows:
  """Packs the examples of one task into rows.

  The examples are shuffled, cut into windows, and each window is packed for
  itself: longest example first, each into the first row that has room in the
  encoder, in the decoder and among the segments. The same arguments give the
  same rows.

  Args:
    input_lengths: [n] tokens of each example's inputs, at least 1.
    target_lengths: [n] tokens of each example's targets.
    row_lengths: tokens of an encoder row and of a decoder row.
    max_segments: examples in a row at most.
    window: examples that are packed together.
    seed: of the shuffle before windows are cut.
    label: of the examples, in messages.

  Returns:
    The rows; every example is in exactly one.

  Raises:
    UserError: an example is longer than a row.
  """
  inputs, targets = np.asarray(input_lengths), np.asarray(target_lengths)
  if max_segments < 1:
    raise UserError(f'max_segments is {max_segments}; expected at least 1.')
  _check_lengths(inputs, targets, row_lengths, label)
  if max_segments == 1:
    return one_per_row(len(inputs))
  order = permutation(len(inputs), 'pack', seed)
  dtype = _index_type(len(inputs))
  examples, counts = [np.zeros(0, dtype)], [np.zeros(1, dtype)]
  span = window * _WINDOWS_AT_ONCE
  for start in range(0, len(order), span):
    part = _longest_first(
      order[start : start + span], inputs, targets, row_lengths, window
    )
    placed, used = _first_fit(
      inputs, targets, part, row_lengths=row_lengths, max_segments=max_segments
    )
    row = placed + (np.cumsum(used) - used)[:, None]
    # Column-major: the k-th longest of every window, so that a stable sort by
    # row keeps each row's examples in the order they were placed.
    filled = part.T >= 0
    row = row.T[filled]
    by_row = np.argsort(row, kind='stable')
    examples.append(part.T[filled][by_row].astype(dtype))
    counts.append(np.bincount(row).astype(dtype))
  offsets = np.cumsum(np.concatenate(counts), dtype=dtype)
  return PackedRows(offsets, np.concatenate(examples))


def _index_type(num_examples: int) -> type[np.signedinteger]:
  return np.int32 if num_examples < 2**31 else np.int64


def _check_lengths(inputs, targets, row_lengths, label):
  for name, lengths, row in (
    ('inputs', inputs, row_lengths[0]),
    ('targets', targets, row_lengths[1]),
  ):
    if len(lengths) and lengths.max() > row:
      index = int(lengths.argmax())
      raise UserError(
        f'{label}: the {name} of example {index} have {lengths[index]} tokens,'
        f' but a row holds {row}. Lower data.{name}_length or lengthen the'
        ' rows.'
      )


def _longest_first(order, inputs, targets, row_lengths, window) -> np.ndarray:
  """Cuts `order` into windows [W, window], longest first, -1 at the end."""
  count = -(-len(order) // window)
  part = np.full(count * window, -1, np.int64)
  part[: len(order)] = order
  part = part.reshape(count, window)
  size = np.maximum(
    inputs[part] / row_lengths[0], targets[part] / row_lengths[1]
  )
  key = np.where(part >= 0, -size, 1.0)
  return np.take_along_axis(
    part, np.argsort(key, axis=1, kind='stable'), axis=1
  )


def _first_fit(inputs, targets, part, *, row_lengths, max_segments):
  """Places each window's examples; returns rows [W, window] and counts [W]."""
  count, window = part.shape
  placed = np.zeros((count, window), np.int64)
  used = np.zeros(count, np.int64)
  sizes = (part >= 0).sum(axis=1)
  room = [
    np.full((count, 64), limit, np.int32)
    for limit in (*row_lengths, max_segments)
  ]
  for k in range(int(sizes.max(initial=0))):
    # Only the last window may be short: windows still filling come first.
    active = int(np.count_nonzero(sizes > k))
    if used[:active].max() == room[0].shape[1]:
      room = [
        _widen(r, limit)
        for r, limit in zip(room, (*row_lengths, max_segments), strict=True)
      ]
    open_rows = int(used[:active].max()) + 1
    example = part[:active, k]
    need = (inputs[example], targets[example], np.ones(active, np.int32))
    fits = np.ones((active, open_rows), bool)
    for space, tokens in zip(room, need, strict=True):
      fits &= space[:active, :open_rows] >= tokens[:, None]
    row = fits.argmax(axis=1)
    windows = np.arange(active)
    for space, tokens in zip(room, need, strict=True):
      space[windows, row] -= tokens
    placed[:active, k] = row
    used[:active] = np.maximum(used[:active], row + 1)
  return placed, used


def _widen(room: np.ndarray, limit: int) -> np.ndarray:
  return np.concatenate([room, np.full_like(room, limit)], axis=1)
