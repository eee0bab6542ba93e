"""A part of a split as a seqio data source; see `protocols.chosen_rows`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.catalogue import protocols


class PartSource(seqio.DataSource):
  """The rows of one part of a split, in the order of the split."""

  def __init__(self, source: seqio.DataSource, part: str, *, task: str):
    """Makes the source; nothing is read yet.

    Args:
      source: of whole splits.
      part: such as '[:half]'; the same for every split.
      task: whose rows they are, in messages.
    """
    self._whole = source
    self._part = part
    self._task = task
    super().__init__(splits=source.splits)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """False: which rows belong to the part is known of the whole split only."""
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    """Returns the split itself, the only shard."""
    return [split]

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **options: Any,
  ) -> tf.data.Dataset:
    """Returns the part's rows, in the split's order unless shuffled.

    Args:
      split: a split of the source.
      shuffle: whether to shuffle the rows.
      seed: of the shuffle.
      shard_info: only the single shard that there is.
      **options: passed on to the source.

    Raises:
      UserError: the split has too few rows for the part to have any.
    """
    if shard_info and shard_info.num_shards > 1:
      raise ValueError('a part of a split is a single shard')
    dataset = self._whole.get_dataset(split, shuffle=False, **options)
    count = int(dataset.reduce(np.int64(0), lambda n, _: n + 1))
    mask = protocols.chosen_rows(self._part, count)
    if not mask.any():
      raise UserError(
        f'{self._task}: the split {split!r} has {count} rows, too few for'
        f" {split}{self._part} to have any. Choose data.protocol = 't5'."
      )
    wanted = tf.constant(mask)
    dataset = dataset.enumerate().filter(lambda index, _: wanted[index])
    dataset = dataset.map(lambda _, row: row)
    if shuffle:
      dataset = dataset.shuffle(int(mask.sum()), seed=seed)
    return dataset
