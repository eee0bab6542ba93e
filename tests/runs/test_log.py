"""The log: every step once, whatever happened between; input by hand."""

import dataclasses
import json
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from hypergrid_jax.data import assembly
from hypergrid_jax.runs import log


def logged(directory):
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def write(directory, start, steps, loss):
  written = log.Log(directory, start_step=start)
  for step in steps:
    written.write(step, {'loss': loss, 'loss/glue_cola': 2 * loss})
  written.close()


def test_steps_done_again_replace_those_after_the_checkpoint(tmp_path):
  write(tmp_path, 0, [5, 10, 15], 3.0)
  write(tmp_path, 10, [15, 20], 1.0)
  assert [(line['step'], line['loss']) for line in logged(tmp_path)] == [
    (5, 3.0),
    (10, 3.0),
    (15, 1.0),
    (20, 1.0),
  ]


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
  write(tmp_path, 0, [5, 10], 3.0)
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 12, "lo')
  write(tmp_path, 12, [15], 1.0)
  assert [line['step'] for line in logged(tmp_path)] == [5, 10, 15]


def test_a_number_that_json_lacks_is_never_written(tmp_path):
  written = log.Log(tmp_path, start_step=0)
  with pytest.raises(ValueError, match='JSON'):
    written.write(1, {'loss': float('nan')})
  written.close()
  assert logged(tmp_path) == []


def test_a_silent_log_writes_nothing(tmp_path):
  written = log.Log(tmp_path / 'run', start_step=0, silent=True)
  written.write(1, {'loss': 2.0})
  written.close()
  assert list(tmp_path.iterdir()) == []


def events(path):
  """Reads TensorBoard's records: length, its crc, the event, its crc."""
  content = path.read_bytes()
  while content:
    (length,) = struct.unpack('<Q', content[:8])
    yield event_pb2.Event.FromString(content[12 : 12 + length])
    content = content[16 + length :]


def test_tensorboard_gets_the_same_scalars(tmp_path):
  write(tmp_path, 0, [5, 10], 3.0)
  (file,) = (tmp_path / 'tensorboard').iterdir()
  scalars = {
    (value.tag, event.step): value.simple_value
    for event in events(file)
    for value in event.summary.value
  }
  assert scalars['train/loss', 5] == 3.0
  assert scalars['train/loss/glue_cola', 10] == 6.0


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
  """2 rows of 6 and 3 positions with so many tokens in them."""
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
  monkeypatch.setattr(log.time, 'perf_counter', lambda: now[0])
  measured = log.InputMeter(
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
