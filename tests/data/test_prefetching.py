import time

import pytest

from hypergrid_jax.data import prefetching
from hypergrid_jax.errors import UserError


class _Slow:
  def __init__(self, *, fails_at=None, seconds=0.0):
    self.built = []
    self._fails_at = fails_at
    self._seconds = seconds

  def batch(self, n, host, num_hosts):
    time.sleep(self._seconds)
    if n == self._fails_at:
      raise UserError(f'row {n} of host {host}/{num_hosts}')
    self.built.append(n)
    return n


def test_prefetch_gives_the_batches_in_order():
  with prefetching.prefetch(_Slow(), 3, 9) as batches:
    assert list(batches) == [3, 4, 5, 6, 7, 8]
    assert list(batches) == []


def test_prefetch_hands_on_what_the_loader_raises():
  batches = prefetching.prefetch(
    _Slow(fails_at=2), 0, 9, parts=[1], num_parts=3
  )
  assert [next(batches), next(batches)] == [0, 1]
  with pytest.raises(UserError, match='row 2 of host 1/3'):
    next(batches)
  assert list(batches) == []


def test_prefetch_measures_waiting_and_builds_no_more_than_asked():
  with prefetching.prefetch(_Slow(seconds=0.05), 0, 3) as batches:
    assert list(batches) == [0, 1, 2]
    assert batches.wait_seconds > 0.1
  source = _Slow()
  with prefetching.prefetch(source, 0, 1_000, depth=4) as batches:
    next(batches)
    time.sleep(0.3)
    assert len(source.built) <= 6  # one taken, four ready, one in the making
  built = len(source.built)
  time.sleep(0.2)
  assert len(source.built) == built
