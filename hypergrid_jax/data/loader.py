"""`batch(n)`: this host's rows of global batch n, as arrays.

Which rows they are is `sampling`'s decision; here they are copied out of the
token stores. Nothing is kept between calls, so any batch can be asked for at
any time, by any number of hosts. `prefetch` builds batches ahead of training,
`eval_batches` gives a split's examples one per row.
"""

from collections.abc import Iterator, Mapping, Sequence
import queue
import threading
import time
from typing import Any

import numpy as np

from hypergrid_jax.data import packing
from hypergrid_jax.data.assembly import empty_batch, fill_rows
from hypergrid_jax.data.sampling import RowSampler, row_shares
from hypergrid_jax.data.tokens import TokenStore
from hypergrid_jax.errors import UserError
from hypergrid_jax.types import Batch


class Loader:
  """Batches of a mixture of tasks.

  Attributes:
    tasks: names of the tasks that are trained, in the order of `rates`.
    packed: task name to its rows.
    rates: share of examples per task, summing to 1.
    shares: share of rows per task, summing to 1.
    batch_size: rows of a global batch.
    row_lengths: tokens of an encoder and of a decoder row.
    max_segments: size of the segment axis of a batch.
  """

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

    Raises:
      UserError: a task id is not one of the model's, or an example is longer
        than a row.
    """
    self.tasks = tuple(rates)
    self.batch_size = batch_size
    self.row_lengths = tuple(row_lengths)
    self.max_segments = max_segments
    self._stores = [stores[name] for name in self.tasks]
    self._task_ids = _checked_ids(self.tasks, task_ids, num_tasks)
    self.packed = {
      name: self._pack(stores[name], seed=seed, packed=packed)
      for name in self.tasks
    }
    self._rows = list(self.packed.values())
    total = sum(rates.values())
    self.rates = {name: rate / total for name, rate in rates.items()}
    self.shares = row_shares(
      self.rates,
      {name: rows.segments_per_row for name, rows in self.packed.items()},
    )
    self._sampler = RowSampler(
      self.shares,
      {name: rows.num_rows for name, rows in self.packed.items()},
      batch_size=batch_size,
      seed=seed,
    )

  def _pack(self, store, *, seed: int, packed: bool) -> packing.PackedRows:
    return packing.pack(
      store.input_lengths,
      store.target_lengths,
      row_lengths=self.row_lengths,
      max_segments=self.max_segments if packed else 1,
      seed=seed,
      label=f'{store.task}/{store.split}',
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
      NumPy arrays with B / num_hosts rows.

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
    batch = empty_batch(size, self.row_lengths, self.max_segments)
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
    return batch

  def summary(self, num_steps: int) -> dict[str, Any]:
    """Returns what a run of `num_steps` steps reads, as JSON-able values.

    Means over an epoch of every task, exact from the packed rows.

    Returns:
      `tasks`, per task in order: `task`, `examples` in the training set, `rate`
      (its share of the examples drawn), `rows` they are packed into,
      `segments_per_row`, `examples_per_step`, and `epochs`, passes over the
      training set in the whole run. `rows_per_batch`; `tokens_per_batch`,
      encoder and decoder together without padding; and
      `encoder_padding_fraction` and `decoder_padding_fraction`, in [0, 1].
    """
    tasks, tokens = [], np.zeros(2)
    for name, store, rows in zip(
      self.tasks, self._stores, self._rows, strict=True
    ):
      per_step = self.batch_size * self.shares[name] * rows.segments_per_row
      tasks.append(
        {
          'task': name,
          'examples': store.num_examples,
          'rate': self.rates[name],
          'rows': rows.num_rows,
          'segments_per_row': rows.segments_per_row,
          'examples_per_step': per_step,
          'epochs': per_step * num_steps / store.num_examples,
        }
      )
      lengths = len(store.input_tokens), len(store.target_tokens)
      tokens += np.array(lengths) * self.shares[name] / rows.num_rows
    padding = 1 - tokens / self.row_lengths
    return {
      'tasks': tasks,
      'rows_per_batch': self.batch_size,
      'tokens_per_batch': float(tokens.sum() * self.batch_size),
      'encoder_padding_fraction': float(padding[0]),
      'decoder_padding_fraction': float(padding[1]),
    }


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


class Prefetcher:
  """Iterates over batches that a background thread builds ahead.

  Close it, or use it in a `with` statement, when it is not read to its end.

  Attributes:
    wait_seconds: how long the consumer has waited for batches so far.
  """

  def __init__(
    self,
    loader: Loader,
    start: int,
    stop: int,
    *,
    depth: int = 2,
    host: int = 0,
    num_hosts: int = 1,
  ):
    """Starts building; see `prefetch`."""
    self.wait_seconds = 0.0
    self._ready: queue.Queue = queue.Queue(maxsize=depth)
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._produce,
      args=(loader, range(start, stop), host, num_hosts),
      name='data-prefetch',
      daemon=True,
    )
    self._thread.start()

  def _produce(self, loader, steps, host, num_hosts):
    try:
      for step in steps:
        if not self._put((loader.batch(step, host, num_hosts), None)):
          return
      self._put((None, StopIteration()))
    except BaseException as error:
      self._put((None, error))

  def _put(self, item) -> bool:
    while not self._closed.is_set():
      try:
        self._ready.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    if self._closed.is_set():
      raise StopIteration
    began = time.perf_counter()
    batch, error = self._ready.get()
    self.wait_seconds += time.perf_counter() - began
    if error is not None:
      self.close()
      raise error
    return batch

  def close(self):
    """Stops the thread; no further batches come."""
    self._closed.set()
    self._thread.join()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def prefetch(
  loader: Loader,
  start: int,
  stop: int,
  depth: int = 2,
  *,
  host: int = 0,
  num_hosts: int = 1,
) -> Prefetcher:
  """Returns batches start, start + 1, ..., stop - 1, built ahead of their use.

  Args:
    loader: builds the batches; an exception it raises reaches the consumer in
      place of the batch.
    start: number of the first batch.
    stop: number after the last batch.
    depth: batches that are kept ready.
    host: number of this host.
    num_hosts: hosts among which the rows are divided.
  """
  return Prefetcher(
    loader, start, stop, depth=depth, host=host, num_hosts=num_hosts
  )


def length_buckets(longest: int, *, shortest: int = 32) -> tuple[int, ...]:
  """Returns row lengths for decoding: powers of 2, `longest` the last one.

  With few lengths little is compiled; less than half of a row is padding.
  """
  buckets = []
  length = shortest
  while length < longest:
    buckets.append(length)
    length *= 2
  return (*buckets, longest)


def eval_batches(
  store: TokenStore,
  *,
  batch_size: int,
  length_buckets: Sequence[int],
  limit: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields inputs, one example per row, in batches of few different shapes.

  Each example comes exactly once, in the shortest bucket that holds it; shorter
  buckets come first, and within a bucket the store's order is kept.

  Args:
    store: the examples.
    batch_size: rows of every batch.
    length_buckets: row lengths, ascending.
    limit: only the first so many examples of the store.

  Yields:
    Example indices [batch_size] int64 and tokens [batch_size, L] int32, padded
    with 0. Rows left over in a bucket's last batch have index -1 and hold
    padding alone, which decoding takes as ended.

  Raises:
    UserError: an example is longer than the last bucket.
  """
  count = (
    store.num_examples if limit is None else min(limit, store.num_examples)
  )
  lengths = store.input_lengths[:count]
  buckets = np.asarray(sorted(length_buckets))
  if count and lengths.max() > buckets[-1]:
    raise UserError(
      f'{store.task}/{store.split}: example {int(lengths.argmax())} has'
      f' {lengths.max()} tokens, but rows for evaluation hold {buckets[-1]}.'
    )
  bucket_of = np.searchsorted(buckets, lengths)
  for number, length in enumerate(buckets):
    members = np.flatnonzero(bucket_of == number)
    for first in range(0, len(members), batch_size):
      chosen = members[first : first + batch_size]
      indices = np.full(batch_size, -1, np.int64)
      indices[: len(chosen)] = chosen
      tokens = np.zeros((batch_size, length), np.int32)
      for row, index in enumerate(chosen):
        tokens[row, : lengths[index]] = store.inputs(index)
      yield indices, tokens
