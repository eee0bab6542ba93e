"""Every logged step stands in metrics.jsonl once, whatever happened between."""

import json
import struct

import pytest
from tensorboardX.proto import event_pb2

from hypergrid_jax.runs import recorder


def logged(directory):
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def write(directory, start, steps, loss):
  record = recorder.Recorder(directory, start_step=start)
  for step in steps:
    record.log(step, {'loss': loss, 'loss/glue_cola': 2 * loss})
  record.close()


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
  record = recorder.Recorder(tmp_path, start_step=0)
  with pytest.raises(ValueError, match='JSON'):
    record.log(1, {'loss': float('nan')})
  record.close()
  assert logged(tmp_path) == []


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
