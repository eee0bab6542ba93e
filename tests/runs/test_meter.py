"""Tokens, padding and waiting, counted by hand."""

import dataclasses

import numpy as np
import pytest

from hypergrid_jax.runs import meter
from hypergrid_jax.data import assembly


class Batches:
  """Three batches of which the consumer waited 0.5 seconds for each."""

  def __init__(self, batches):
    self.wait_seconds = 0.0
    self._batches = batches

  def __iter__(self):
    for batch in self._batches:
      self.wait_seconds += 0.5
      yield batch


def make_batch(encoder, decoder):
  """2 rows of 6 and 3 places with so many tokens in them."""
  empty = assembly.empty_batch(2, (6, 3), 2)
  encoder_ids, decoder_ids = np.zeros(12, np.int32), np.zeros(6, np.int32)
  encoder_ids[:encoder], decoder_ids[:decoder] = 1, 1
  return dataclasses.replace(
    empty,
    encoder_segment_ids=encoder_ids.reshape(2, 6),
    decoder_segment_ids=decoder_ids.reshape(2, 3),
  )


def test_measures_since_the_last_take(monkeypatch):
  now = [10.0]
  monkeypatch.setattr(meter.time, 'perf_counter', lambda: now[0])
  measured = meter.Meter(
    Batches([make_batch(9, 2), make_batch(12, 6), make_batch(3, 1)])
  )
  passed = iter(measured)
  next(passed)
  next(passed)
  now[0] += 4.0
  first = measured.take()
  assert first['tokens_per_second'] == (9 + 2 + 12 + 6) / 4.0
  assert first['padding_fraction'] == pytest.approx(1 - 29 / 36)
  assert first['input_wait_fraction'] == 2 * 0.5 / 4.0
  next(passed)
  now[0] += 2.0
  second = measured.take()
  assert second['tokens_per_second'] == 4 / 2.0
  assert second['padding_fraction'] == pytest.approx(1 - 4 / 18)
  assert second['input_wait_fraction'] == 0.5 / 2.0
