"""Tokens per second, padding and waiting, measured on the batches as they pass.

All of it on the host, from the arrays the loader made: measuring does not wait
for the devices.
"""

from collections.abc import Iterator
import time

from hypergrid_jax import types
from hypergrid_jax.data import prefetching


class Meter:
  """Passes batches on and measures them: tokens, padding, waiting."""

  def __init__(
    self,
    batches: prefetching.Prefetcher,
    *,
    share: float = 1.0,
    trained: float = 1.0,
  ):
    """Measures from now on.

    Args:
      batches: the batches of this process.
      share: how much of every batch they are; the others' rows are taken to be
        as full.
      trained: the share of a batch's rows that a step trains on, and that are
        taken to be as full as the others: the tokens of these count.
    """
    self._batches = batches
    self._counted = trained / share
    self._reset()

  def _reset(self):
    self._started = time.perf_counter()
    self._waited = self._batches.wait_seconds
    self._tokens = self._places = 0

  def __iter__(self) -> Iterator[types.Batch]:
    for batch in self._batches:
      for ids in (batch.encoder_segment_ids, batch.decoder_segment_ids):
        self._tokens += int((ids > 0).sum())
        self._places += ids.size
      yield batch

  def take(self) -> dict[str, float]:
    """Measures since the last call."""
    seconds = time.perf_counter() - self._started
    waited = self._batches.wait_seconds - self._waited
    values = {
      'tokens_per_second': self._tokens * self._counted / seconds,
      'padding_fraction': 1 - self._tokens / max(self._places, 1),
      'input_wait_fraction': min(waited / seconds, 1.0),
    }
    self._reset()
    return values
