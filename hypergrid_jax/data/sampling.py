"""Which task, and which of its rows, fills each row of each global batch.

Everything is a pure function of (seed, step): there is no state to save, and
any step is reached at once. Random numbers come from PCG64's raw output, which
NumPy keeps unchanged between releases (its shuffles it does not), so a run
resumed under another NumPy draws the same rows.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
import zlib

import numpy as np

from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.errors import UserError, closest

# Rows of a block: the least, and the most when a task is very rare.
_MIN_BLOCK = 2**16
_MAX_BLOCK = 2**24
# Row shares are kept as whole multiples of 2^-40.
_SHARE_BITS = 40

# Training examples per task -> rates.
Rates = Callable[[Mapping[str, int]], Mapping[str, float]]


def permutation(count: int, *key: int | str) -> np.ndarray:
  """Returns a permutation of range(count), [count] int64, fixed by `key`."""
  words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key]
  bits = np.random.PCG64(np.random.SeedSequence(words)).random_raw(count)
  return _argsort(bits)


def _argsort(words: np.ndarray) -> np.ndarray:
  """Returns `np.argsort(words, kind='stable')` of [n] uint64, but sooner.

  A plain sort is several times faster than one that returns indices. The index
  therefore takes the place of each word's lowest bits; the few words that are
  equal above those are put into order afterwards.
  """
  low = np.uint64(max(len(words) - 1, 1).bit_length())
  mask = (np.uint64(1) << low) - np.uint64(1)
  mixed = words & ~mask | np.arange(len(words), dtype=np.uint64)
  mixed.sort()
  order = (mixed & mask).astype(np.int64)
  high = mixed >> low
  equal = np.flatnonzero(high[1:] == high[:-1])
  equal = np.union1d(equal, equal + 1)
  members = order[equal]
  order[equal] = members[np.argsort(words[members], kind='stable')]
  return order


def mixing_rates(
  sizes: Mapping[str, int],
  config: DataConfig,
  registered: Rates | None = None,
) -> dict[str, float]:
  """Returns the share of examples that each task contributes.

  Args:
    sizes: training examples per task.
    config: `mixing`, `rate_cap`, `temperature` and `weights` are used.
    registered: gives the rates that the mixture is registered with, from the
      sizes; None for a mixture without rates of its own.

  Returns:
    Rates per task of `sizes`, summing to 1; tasks with weight 0 are left out.

  Raises:
    UserError: `config.weights` does not name exactly the tasks of `sizes`, or
      there are no registered rates, and they are asked for.
  """
  if not sizes:
    raise UserError('No task of the mixture has a training set.')
  mixing = config.mixing or ('registered' if registered else 'proportional')
  if config.weights is not None:
    raw = _fixed_weights(sizes, config.weights)
  elif mixing == 'registered':
    raw = _registered_rates(sizes, config, registered)
  elif mixing == 'equal':
    raw = dict.fromkeys(sizes, 1.0)
  else:
    cap = math.inf if config.rate_cap is None else config.rate_cap
    raw = {
      name: min(size, cap) ** (1 / config.temperature)
      for name, size in sizes.items()
    }
  total = math.fsum(raw.values())
  return {name: rate / total for name, rate in raw.items() if rate > 0}


def _registered_rates(sizes, config, registered) -> dict[str, float]:
  if registered is None:
    raise UserError(
      f"data.mixing is 'registered', but data.mixture = {config.mixture!r} is"
      ' no mixture that is registered with seqio. Choose another data.mixing,'
      ' or name such a mixture alone.'
    )
  found = registered(sizes)
  raw = {name: found[name] for name in sizes}
  if not any(raw.values()):
    raise UserError(
      f'The registered rates of {", ".join(raw)} are all 0; nothing would be'
      ' trained on. Choose another data.mixing.'
    )
  return raw


def _fixed_weights(sizes, weights) -> dict[str, float]:
  for name in weights:
    if name not in sizes:
      raise UserError(
        f'data.weights names {name!r}, which is not a trained task of the'
        f' mixture.{closest(name, sizes)} Trained tasks:'
        f' {", ".join(sizes)}.'
      )
  missing = [name for name in sizes if name not in weights]
  if missing:
    raise UserError(
      f'data.weights gives no rate for {", ".join(missing)}. Name every trained'
      ' task; a rate of 0 leaves one out of training.'
    )
  if not any(weights.values()):
    raise UserError('data.weights are all 0; nothing would be trained on.')
  return {name: float(weights[name]) for name in sizes}


def row_shares(
  rates: Mapping[str, float], segments_per_row: Mapping[str, float]
) -> dict[str, float]:
  """Turns shares of examples into shares of rows, summing to 1.

  A task whose examples are short packs more of them into a row and therefore
  needs fewer rows: the share of rows is proportional to rate / segments per
  row.
  """
  raw = {name: rate / segments_per_row[name] for name, rate in rates.items()}
  total = math.fsum(raw.values())
  return {name: share / total for name, share in raw.items()}


class RowSampler:
  """Assigns rows of tasks to rows of global batches.

  The rows of all batches form one endless sequence, cut into blocks of M rows.
  Within a block every task has a whole number of places, and the places are
  shuffled by (seed, block). A task's places in the sequence are numbered
  through: number j takes row `order[j % R]` of epoch `j // R`, where R is the
  number of its rows and the order is shuffled by (seed, task, epoch). Within an
  epoch of a task every row comes exactly once.

  The places of task t in the first b blocks differ from b M p_t, p_t being its
  share of rows, by less than 1 for every b; in between the difference is that
  of drawing without replacement, at most sqrt(M p_t (1 - p_t)) / 2 on
  (root-mean-square) average. M is 65,536, or larger when a task would have
  fewer than two places.
  """

  def __init__(
    self,
    shares: Mapping[str, float],
    num_rows: Mapping[str, int],
    *,
    batch_size: int,
    seed: int,
  ):
    """Lays out the blocks.

    Args:
      shares: of rows per task, summing to 1, each above 0.
      num_rows: rows of one epoch of each task, at least 1.
      batch_size: rows of a global batch.
      seed: of all shuffles.

    Raises:
      UserError: a task is too rare to be sampled.
    """
    self.tasks: Sequence[str] = tuple(shares)
    self.shares = dict(shares)
    self._batch_size = batch_size
    self._seed = seed
    self._num_rows = [num_rows[name] for name in self.tasks]
    self._bounds = _bounds([shares[name] for name in self.tasks])
    self.block_size = _block_size(shares)
    # Bound per instance, so that the arrays go when the sampler does.
    self._block = functools.lru_cache(maxsize=2)(self._make_block)
    self._epoch = functools.lru_cache(maxsize=2 * len(self.tasks))(
      self._make_epoch
    )

  def rows(
    self, step: int, start: int = 0, stop: int | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns what fills rows [start, stop) of global batch `step`.

    Args:
      step: number of the batch, from 0.
      start: first row of the batch that is wanted.
      stop: end of the rows wanted; None is the end of the batch.

    Returns:
      Index into `tasks` and row within that task, both [stop - start] int64.
    """
    stop = self._batch_size if stop is None else stop
    first = step * self._batch_size
    return self.places(first + start, first + stop)

  def places(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns what fills places [start, stop) of the one sequence of rows."""
    tasks, numbers = self.numbered(start, stop)
    rows = np.empty_like(numbers)
    for task in np.unique(tasks):
      mine = tasks == task
      rows[mine] = self.task_rows(int(task), numbers[mine])
    return tasks, rows

  def numbered(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns whose places [start, stop) of the one sequence are.

    Returns:
      Index into `tasks`, and the place's number among those of that task from
      the beginning of the sequence, both [stop - start] int64.
    """
    places = np.arange(start, stop, dtype=np.int64)
    tasks = np.empty(len(places), np.int64)
    numbers = np.empty(len(places), np.int64)
    blocks = places // self.block_size
    for block in np.unique(blocks):
      here = blocks == block
      block_tasks, block_numbers, before = self._block(int(block))
      inside = places[here] - block * self.block_size
      tasks[here] = block_tasks[inside]
      numbers[here] = block_numbers[inside] + before[block_tasks[inside]]
    return tasks, numbers

  def task_rows(self, task: int, numbers: np.ndarray) -> np.ndarray:
    """Returns which rows a task's own sequence has at some places.

    Args:
      task: index into `tasks`.
      numbers: [k] int64, places in the task's sequence of epochs, from 0.

    Returns:
      [k] int64.
    """
    epochs, positions = np.divmod(numbers, self._num_rows[task])
    rows = np.empty_like(positions)
    for epoch in np.unique(epochs):
      now = epochs == epoch
      rows[now] = self._epoch(task, int(epoch))[positions[now]]
    return rows

  def drawn(self, num_steps: int) -> np.ndarray:
    """Returns how many rows of each task the first batches have, [T] int64."""
    block, inside = divmod(num_steps * self._batch_size, self.block_size)
    counts = self._places_before(block)
    if inside:
      tasks, _, _ = self._block(block)
      counts = counts + np.bincount(tasks[:inside], minlength=len(counts))
    return counts

  def _make_epoch(self, task: int, epoch: int) -> np.ndarray:
    # By the task's name: adding a task to a mixture leaves the others' order.
    order = permutation(
      self._num_rows[task], 'epoch', self._seed, self.tasks[task], epoch
    )
    return order.astype(np.int32 if len(order) < 2**31 else np.int64)

  def _make_block(self, block: int):
    """Returns task [M] and number within the block [M] per place, and before.

    `before` [T] is how many places each task has in all earlier blocks.
    """
    before = self._places_before(block)
    quotas = self._places_before(block + 1) - before
    order = permutation(self.block_size, 'block', self._seed, block)
    tasks = np.repeat(np.arange(len(quotas), dtype=np.int16), quotas)
    tasks = tasks[order]
    by_task = np.argsort(tasks, kind='stable')
    firsts = np.repeat(np.cumsum(quotas) - quotas, quotas)
    numbers = np.empty(self.block_size, np.int32)
    numbers[by_task] = np.arange(self.block_size) - firsts
    return tasks, numbers, before

  def _places_before(self, block: int) -> np.ndarray:
    """Returns how many places each task has in the first `block` blocks, [T].

    Cumulative shares are rounded down, in whole numbers: both the sum over
    tasks and the number of any one task are exact to less than one place.
    """
    total = block * self.block_size
    cuts = [total * bound >> _SHARE_BITS for bound in self._bounds]
    return np.diff(np.array(cuts, np.int64))


def _bounds(shares: Sequence[float]) -> list[int]:
  """Returns cumulative shares as multiples of 2^-40, from 0 to 2^40."""
  one = 1 << _SHARE_BITS
  bounds = [round(math.fsum(shares[:k]) * one) for k in range(len(shares))]
  return [*bounds, one]


def _block_size(shares: Mapping[str, float]) -> int:
  """Returns the smallest block in which every task has two places or more.

  With fewer, rounding could take a place away from a task in some block.
  """
  rarest = min(shares, key=shares.__getitem__)
  size = _MIN_BLOCK
  while size * shares[rarest] < 2:
    size *= 2
    if size > _MAX_BLOCK:
      raise UserError(
        f'{rarest} has a share of {shares[rarest]:.1e} of all rows, too little'
        ' to be sampled. Give it a larger rate, or leave it out of training.'
      )
  return size
