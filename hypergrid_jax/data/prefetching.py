"""Builds batches ahead of training, in a thread."""

from collections.abc import Iterator, Sequence
import queue
import threading
import time

import jax
import numpy as np

from hypergrid_jax.data.loader import Loader
from hypergrid_jax.types import Batch


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
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
  ):
    """Starts building; see `prefetch`."""
    self.wait_seconds = 0.0
    self._ready: queue.Queue = queue.Queue(maxsize=depth)
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._produce,
      args=(loader, range(start, stop), tuple(parts), num_parts),
      name='data-prefetch',
      daemon=True,
    )
    self._thread.start()

  def _produce(self, loader, steps, parts, num_parts):
    try:
      for step in steps:
        batches = [loader.batch(step, part, num_parts) for part in parts]
        if not self._put((_joined(batches), None)):
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


def _joined(batches: Sequence[Batch]) -> Batch:
  if len(batches) == 1:
    return batches[0]
  return jax.tree.map(lambda *rows: np.concatenate(rows), *batches)


def prefetch(
  loader: Loader,
  start: int,
  stop: int,
  depth: int = 2,
  *,
  parts: Sequence[int] = (0,),
  num_parts: int = 1,
) -> Prefetcher:
  """Returns batches start, start + 1, ..., stop - 1, built ahead of their use.

  Args:
    loader: builds the batches; an exception it raises reaches the consumer in
      place of the batch.
    start: number of the first batch.
    stop: number after the last batch.
    depth: batches that are kept ready.
    parts: which parts of every batch to build, one after the other.
    num_parts: equal parts into which the rows are divided.
  """
  return Prefetcher(
    loader, start, stop, depth=depth, parts=parts, num_parts=num_parts
  )
