"""`batch(n)`: this host's rows of global batch n, as arrays.

Which rows they are is `sampling`'s decision; here they are copied out of the
token stores. Nothing is kept between calls, so any batch can be asked for at
any time, by any number of hosts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hypergrid_jax.data import description, own_rows, use
from hypergrid_jax.data.assembly import empty_batch, fill_rows
from hypergrid_jax.data.bucketing import BucketSampler
from hypergrid_jax.data.mapped_memory import MappedMemory
from hypergrid_jax.data.one_task import OneTaskSampler
from hypergrid_jax.data.packing_plans import packed_rows
from hypergrid_jax.data.sampling import RowSampler, row_shares
from hypergrid_jax.data.tokens import TokenStore
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.vocabularies import Vocabulary
from hypergrid_jax.types import Batch


class Loader:
  """Batches of a mixture of tasks.

  Attributes:
    tasks: names of the tasks that are trained, in the order of `rates`.
    packed: task name to its rows.
    rates: share of examples per task, summing to 1.
    shares: share of rows per task, summing to 1.
    batch_size: rows of a global batch.
    row_lengths: tokens of an encoder and of a decoder row; with length buckets
      of the longest.
    max_segments: size of the segment axis of a batch.
    trained_fraction: the share of a batch's rows that a step trains on: 1.
  """

  trained_fraction = 1.0

  def __init__(
    self,
    stores: Mapping[str, TokenStore],
    *,
    task_ids: Mapping[str, int],
    num_tasks: int | None = None,
    rates: Mapping[str, float],
    batch_size: int,
    row_lengths: tuple[int, int],
    max_segments: int,
    seed: int,
    packed: bool = True,
    length_buckets: Sequence[int] | None = None,
    one_task: bool = False,
  ):
    """Packs the examples and lays out the sequence of rows.

    Args:
      stores: training split per task; those without a rate are not read.
      task_ids: id per task, in [0, num_tasks); several tasks may share one.
      num_tasks: tasks that the model tells apart; None for as many as
        `task_ids` has ids.
      rates: share of examples per task, as from `sampling.mixing_rates`.
      batch_size: rows of a global batch.
      row_lengths: tokens of an encoder and of a decoder row.
      max_segments: examples in a row at most; without packing only the size of
        the segment axis.
      seed: of packing and of all shuffles.
      packed: whether to put several examples into a row.
      length_buckets: without packing, lengths of encoder rows; the last is that
        of `row_lengths`. A batch has the shortest that holds its examples.
      one_task: whether all rows of a batch are of one task.

    Raises:
      UserError: a task id is not one of the model's, or an example is longer
        than a row.
    """
    if length_buckets is not None and packed:
      raise ValueError('packed rows have one length')
    if length_buckets is not None and one_task:
      raise ValueError('length buckets mix the tasks of a batch')
    self.tasks = tuple(rates)
    self.batch_size = batch_size
    self.row_lengths = tuple(row_lengths)
    self.max_segments = max_segments
    self._stores = [stores[name] for name in self.tasks]
    self._memory = MappedMemory(m for store in self._stores for m in store.maps)
    self._task_ids = _checked_ids(self.tasks, task_ids, num_tasks)
    self.packed = {
      name: packed_rows(
        stores[name],
        row_lengths=self.row_lengths,
        max_segments=max_segments if packed else 1,
        seed=seed,
      )
      for name in self.tasks
    }
    self._rows = list(self.packed.values())
    self._lay_out(rates, seed, length_buckets, one_task)

  @classmethod
  def from_rows(
    cls,
    rows: Mapping[str, Sequence[Mapping[str, str]]],
    vocabulary: Vocabulary,
    *,
    batch_size: int,
    row_lengths: tuple[int, int] = (512, 64),
    max_segments: int = 32,
    rates: Mapping[str, float] | None = None,
    seed: int = 0,
  ) -> 'Loader':
    """Returns a loader of rows that a program holds, packed.

    Args:
      rows: by task, mappings with the texts 'inputs' and 'targets'. Task ids
        are in the order of the tasks.
      vocabulary: from `load_vocabulary`.
      batch_size: rows of a batch.
      row_lengths: tokens of an encoder and of a decoder row; longer texts are
        cut.
      max_segments: examples in a row at most.
      rates: share of examples per task; None for in proportion to their rows.
      seed: of packing and of all shuffles.

    Raises:
      UserError: a task has no rows, or a row lacks one of the two texts.
    """
    sizes = {task: float(len(task_rows)) for task, task_rows in rows.items()}
    return cls(
      own_rows.stores(rows, vocabulary, lengths=row_lengths),
      task_ids={task: number for number, task in enumerate(rows)},
      rates=sizes if rates is None else rates,
      batch_size=batch_size,
      row_lengths=row_lengths,
      max_segments=max_segments,
      seed=seed,
    )

  def _lay_out(self, rates, seed, length_buckets, one_task):
    """Sets `rates`, `shares` and the samplers."""
    total = sum(rates.values())
    self.rates = {name: rate / total for name, rate in rates.items()}
    self.shares = row_shares(
      self.rates,
      {name: rows.segments_per_row for name, rows in self.packed.items()},
    )
    self._in_order = RowSampler(
      self.shares,
      {name: rows.num_rows for name, rows in self.packed.items()},
      batch_size=self.batch_size,
      seed=seed,
    )
    self._bucketed = None
    if length_buckets is not None:
      self._bucketed = BucketSampler(
        self._in_order,
        [store.input_offsets for store in self._stores],
        buckets=length_buckets,
        batch_size=self.batch_size,
        seed=seed,
      )
    self._sampler = self._bucketed or self._in_order
    if one_task:
      self._sampler = OneTaskSampler(
        self._in_order, batch_size=self.batch_size, seed=seed
      )

  def batch(self, n: int, host: int = 0, num_hosts: int = 1) -> Batch:
    """Returns this host's rows of global batch n.

    The hosts' rows, one host after the other, are the global batch, whatever
    their number.

    Args:
      n: number of the batch, from 0.
      host: number of this host.
      num_hosts: hosts among which the rows are divided.

    Returns:
      NumPy arrays with B / num_hosts rows. With length buckets the encoder's
      length is one of them, the same for all hosts.

    Raises:
      UserError: the batch cannot be divided among the hosts.
    """
    if self.batch_size % num_hosts:
      raise UserError(
        f'data.batch_size is {self.batch_size}, which {num_hosts} hosts cannot'
        ' divide evenly. Make it a multiple of the number of hosts.'
      )
    size = self.batch_size // num_hosts
    tasks, rows = self._sampler.rows(n, host * size, (host + 1) * size)
    length, decoder_length = self.row_lengths
    if self._bucketed is not None:
      length = self._bucketed.row_length(n)
    return self._assembled(tasks, rows, (length, decoder_length))

  def data_use(self, saved: Mapping[str, Any]) -> use.NotMeasured:
    """Returns what measures the use of the data: nothing."""
    del saved
    return use.NotMeasured()

  def shapes(self) -> list[Batch]:
    """Returns batches of padding, one of each shape that `batch` may have."""
    encoder, decoder = self.row_lengths
    lengths = [encoder] if self._bucketed is None else self._bucketed.buckets
    return [
      empty_batch(self.batch_size, (length, decoder), self.max_segments)
      for length in lengths
    ]

  def candidates(
    self, n: int, per_task: int, host: int = 0, num_hosts: int = 1
  ) -> Batch:
    """Returns this host's part of the rows among which step n may choose.

    For training steps that look at the model before they choose, see
    `loop.make_train_step`. Every task offers equally many rows and walks
    through epochs of its own whatever is chosen; `rates` play no part. The
    tasks take turns, in the order of `tasks`, so that every host has rows of
    all of them. A pure function of (seed, n), as `batch` is.

    Args:
      n: number of the step, from 0.
      per_task: rows of each task.
      host: number of this host.
      num_hosts: hosts among which the rows are divided.

    Returns:
      NumPy arrays with T per_task / num_hosts rows.

    Raises:
      UserError: the rows cannot be divided among the hosts.
    """
    total = len(self.tasks) * per_task
    if total % num_hosts:
      raise UserError(
        f'{len(self.tasks)} tasks with {per_task} candidates each give {total}'
        f' rows, which {num_hosts} hosts cannot divide evenly. Change the'
        ' number of candidates per task.'
      )
    size = total // num_hosts
    mine = slice(host * size, (host + 1) * size)
    tasks, rows = self.candidate_rows(n, per_task)
    return self._assembled(tasks[mine], rows[mine], self.row_lengths)

  def candidate_rows(
    self, n: int, per_task: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns which rows `candidates` gives to all hosts together.

    Returns:
      Index into `tasks` and row within that task, both [T per_task] int64.
    """
    count = len(self.tasks)
    numbers = n * per_task + np.arange(per_task)
    rows = [self._in_order.task_rows(task, numbers) for task in range(count)]
    return np.tile(np.arange(count), per_task), np.stack(rows, axis=1).ravel()

  def _assembled(self, tasks, rows, row_lengths) -> Batch:
    batch = empty_batch(len(rows), row_lengths, self.max_segments)
    for task in np.unique(tasks):
      mine = np.flatnonzero(tasks == task)
      batch.task_ids[mine] = self._task_ids[task]
      fill_rows(
        batch,
        mine,
        store=self._stores[task],
        packed=self._rows[task],
        rows=rows[mine],
      )
    self._memory.trim()
    return batch

  def measured_rates(self, num_steps: int) -> dict[str, float]:
    """Returns each task's share of the examples of the first batches.

    Counted, not estimated: `rates` are what these come close to.

    Args:
      num_steps: number of batches, at least 1.
    """
    return self.example_shares(self._sampler.drawn(num_steps))

  def example_shares(self, drawn: np.ndarray) -> dict[str, float]:
    """Returns each task's share of the examples in its first `drawn` rows."""
    return description.example_shares(self.packed, self._in_order, drawn)

  def summary(self, num_steps: int) -> dict[str, Any]:
    """Returns what a run of `num_steps` steps reads, as JSON-able values.

    Means over an epoch of every task, exact from the packed rows, but for what
    is said to be otherwise.

    Returns:
      `tasks`, per task in order: `task`, `examples` in the training set, `rate`
      (its stated share of the examples drawn), `measured_rate` (its share in
      the batches of this run, counted), `rows` they are packed into,
      `segments_per_row`, `examples_per_step`, and `epochs`, passes over the
      training set in the whole run. `rows_per_batch`; `tokens_per_batch`,
      encoder and decoder together without padding; and
      `encoder_padding_fraction` and `decoder_padding_fraction`, in [0, 1], the
      former with length buckets that of the first 1,024 batches.
    """
    said = self.described(
      self.shares,
      self.measured_rates(num_steps),
      num_steps=num_steps,
      batch_size=self.batch_size,
    )
    if self._bucketed is not None:
      padding = self._bucketed.padding_fraction()
      said['encoder_padding_fraction'] = float(padding)
    return said

  def described(
    self,
    shares: Mapping[str, float],
    measured: Mapping[str, float],
    *,
    num_steps: int,
    batch_size: int,
  ) -> dict[str, Any]:
    """Returns `summary` for another choice of rows; see `description`."""
    return description.described(
      dict(zip(self.tasks, self._stores, strict=True)),
      self.packed,
      shares,
      measured,
      num_steps=num_steps,
      batch_size=batch_size,
      row_lengths=self.row_lengths,
    )


def _checked_ids(tasks, task_ids, num_tasks) -> list[int]:
  if num_tasks is None:
    num_tasks = len(set(task_ids.values()))
  names: dict[int, str] = {}
  for name, number in task_ids.items():
    names.setdefault(number, name)
  for task in tasks:
    number = task_ids.get(task)
    if number is None or not 0 <= number < num_tasks:
      known = ', '.join(names[i] for i in sorted(names) if 0 <= i < num_tasks)
      raise UserError(
        f'{task}: task_ids contains [{number}], but the model has {num_tasks}'
        f' tasks (0..{num_tasks - 1}: {known}). Add the task to the mixture or'
        ' drop it from the data.'
      )
  return [task_ids[task] for task in tasks]
