"""Parameters written one by one are read as any checkpoint."""

import shutil

import jax
import numpy as np
import pytest

from hypergrid_jax.checkpoints import reader as reader_lib
from hypergrid_jax.checkpoints import streaming
from hypergrid_jax.errors import UserError
from hypergrid_jax.training.state import TrainState
from tests.checkpoints import small_state as checkpoints

SHAPES = {'a/small': (3,), 'a/large': (7, 5, 2), 'b': (4, 4)}


def values():
  rng = np.random.default_rng(0)
  return {p: rng.normal(size=s).astype('f') for p, s in SHAPES.items()}


def write(directory, **more):
  order = []

  def deferred(path, value):
    def load():
      order.append(path)
      return value

    return streaming.Deferred(value.shape, value.dtype, load)

  leaves = {path: deferred(path, value) for path, value in values().items()}
  streaming.write_params(directory, leaves, {'seen': 3}, **more)
  return order


def abstract():
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

  def leaf(path):
    return jax.ShapeDtypeStruct(SHAPES[path], 'f', sharding=here)

  return {
    'a': {'small': leaf('a/small'), 'large': leaf('a/large')},
    'b': leaf('b'),
  }


def test_what_is_read_is_what_was_written(tmp_path):
  sizes = []
  order = write(
    tmp_path, step=4, written=lambda leaf: sizes.append(leaf.nbytes)
  )
  assert order == ['a/large', 'b', 'a/small']
  assert sizes == [280, 64, 12]
  reader = reader_lib.CheckpointReader(tmp_path)
  assert reader.steps() == [4]
  assert reader.saved_params() == set(SHAPES)
  params, meta = reader.restore_params(abstract())
  assert meta == {'seen': 3, 'step': 4, 'fingerprint': {}}
  expected = values()
  np.testing.assert_array_equal(params['a']['large'], expected['a/large'])
  np.testing.assert_array_equal(params['a']['small'], expected['a/small'])
  np.testing.assert_array_equal(params['b'], expected['b'])


def test_damage_is_found(tmp_path):
  write(tmp_path)
  checkpoints.flip_a_bit(
    checkpoints.largest_file(tmp_path / 'checkpoints' / '0')
  )
  reader = reader_lib.CheckpointReader(tmp_path)
  with pytest.raises(UserError, match='damaged'):
    reader.restore_params(abstract(), 0)


def test_training_cannot_go_on_from_parameters_alone(tmp_path):
  write(tmp_path)
  reader = reader_lib.CheckpointReader(tmp_path)
  state = TrainState(jax.ShapeDtypeStruct((), 'int32'), abstract(), {})
  with pytest.raises(UserError, match='holds parameters alone.*initial_check'):
    reader.restore(state)


def test_a_disk_without_room_is_refused_before_anything_is_read(
  tmp_path, monkeypatch
):
  usage = type('Usage', (), {'free': 355})  # of 356 bytes
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(UserError, match='No room for checkpoint'):
    write(tmp_path)
  assert list(tmp_path.iterdir()) == []
