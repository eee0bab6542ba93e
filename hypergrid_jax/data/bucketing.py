"""Batches of rows of similar length, for runs with one example per row.

The order of rows is that of `sampling`, changed only within stretches of 64
batches, so that examples keep their rates and epochs.
"""

from collections.abc import Sequence
import functools

import numpy as np

from hypergrid_jax.data.sampling import RowSampler, permutation

# Batches of a stretch. At most one of them per bucket holds rows of two
# buckets, whose shorter ones are padded to the longer length.
STRETCH = 64


class BucketSampler:
  """Sorts the rows of a `RowSampler` into batches of similar length.

  The sequence of rows is cut into stretches of 64 batches. The rows of a
  stretch are ordered by the bucket that holds them and otherwise left in the
  order drawn; they are cut into batches, and the batches are shuffled by (seed,
  stretch). After each stretch every task has had the rows it would have had
  without buckets, but the tasks within one batch are those whose rows are that
  long. Any batch is still a pure function of (seed, step).
  """

  def __init__(
    self,
    sampler: RowSampler,
    input_offsets: Sequence[np.ndarray],
    *,
    buckets: Sequence[int],
    batch_size: int,
    seed: int,
  ):
    """Keeps what batches follow from; nothing is drawn yet.

    Args:
      sampler: draws the rows; row i of a task is its example i.
      input_offsets: [n + 1] of each task, where its examples' inputs begin.
      buckets: lengths of encoder rows, increasing; the last one holds the
        longest example.
      batch_size: rows of a global batch.
      seed: of the shuffle of batches.
    """
    self._sampler = sampler
    self._offsets = list(input_offsets)
    self.buckets = tuple(int(length) for length in buckets)
    self._buckets = np.asarray(buckets)
    self._batch_size = batch_size
    self._seed = seed
    # Bound per instance, so that the arrays go when the sampler does.
    self._stretch = functools.lru_cache(maxsize=2)(self._make_stretch)

  def rows(
    self, step: int, start: int = 0, stop: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns what fills rows [start, stop) of a batch; as `RowSampler`."""
    tasks, rows, _ = self._stretch(step // STRETCH)
    batch = slice(start, stop)
    return tasks[step % STRETCH][batch], rows[step % STRETCH][batch]

  def row_length(self, step: int) -> int:
    """Returns the length of the batch's encoder rows, one of the buckets."""
    _, _, lengths = self._stretch(step // STRETCH)
    return int(lengths[step % STRETCH])

  def padding_fraction(self) -> float:
    """Returns how much of the encoder rows of 1,024 batches is padding."""
    tokens = places = 0
    for stretch in range(1024 // STRETCH):
      tasks, rows, row_lengths = self._make_stretch(stretch)
      tokens += int(self._lengths(tasks.ravel(), rows.ravel()).sum())
      places += int(row_lengths.sum()) * self._batch_size
    return 1 - tokens / places

  def drawn(self, num_steps: int) -> np.ndarray:
    """Returns how many rows of each task the first batches have, [T] int64."""
    whole = num_steps - num_steps % STRETCH
    counts = self._sampler.drawn(whole)
    for step in range(whole, num_steps):
      counts = counts + np.bincount(self.rows(step)[0], minlength=len(counts))
    return counts

  def _make_stretch(self, stretch: int):
    """Returns tasks and rows [64, B], and row lengths [64], of its batches."""
    size = STRETCH * self._batch_size
    tasks, rows = self._sampler.places(stretch * size, (stretch + 1) * size)
    bucket = np.searchsorted(self._buckets, self._lengths(tasks, rows))
    by_bucket = np.argsort(bucket, kind='stable').reshape(STRETCH, -1)
    shuffled = permutation(STRETCH, 'buckets', self._seed, stretch)
    order = by_bucket[shuffled]
    # The last row of a batch is one of its longest bucket.
    return tasks[order], rows[order], self._buckets[bucket[order[:, -1]]]

  def _lengths(self, tasks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the tokens of the inputs of some rows, [k] int64."""
    lengths = np.empty(len(rows), np.int64)
    for task in np.unique(tasks):
      mine = tasks == task
      offsets, chosen = self._offsets[task], rows[mine]
      lengths[mine] = offsets[chosen + 1] - offsets[chosen]
    return lengths
