"""What is restored is bit for bit what was saved, or it is refused."""

import shutil

import jax
import jax.numpy as jnp
import pytest

from hypergrid_jax.checkpoints.reader import CheckpointReader, named_steps
from hypergrid_jax.checkpoints.writer import Checkpointer
from hypergrid_jax.errors import UserError
from hypergrid_jax.parallel import partitioning
from tests.checkpoints.small_state import (
  MESH,
  abstract_of,
  assert_same_bits,
  directory_of,
  flip_a_bit,
  largest_file,
  make_state,
  save,
)


@pytest.fixture
def checkpointer(tmp_path):
  with_two = Checkpointer(tmp_path, keep=2, fingerprint={'model': 'tiny'})
  yield with_two
  with_two.close()


@pytest.mark.parametrize(
  ('config', 'rows'),
  [
    (MESH, 'data'),
    (partitioning.MeshConfig(model=4), 'data'),
    (partitioning.MeshConfig(), 'data'),
    (partitioning.MeshConfig(fsdp=4), 'fsdp'),
    (partitioning.MeshConfig(slices=2, fsdp=2), ('slice', 'data')),
    (partitioning.MeshConfig(slices=2, fsdp=2, model=2), ('slice', 'fsdp')),
  ],
)
def test_restores_the_same_bits_onto_any_mesh(checkpointer, config, rows):
  save(checkpointer, 7)
  target = abstract_of(make_state(7), config, rows)
  got, meta = checkpointer.reader.restore(target)
  assert_same_bits(got, make_state(7))
  assert meta == {'fingerprint': {'model': 'tiny'}, 'seen': 70, 'step': 7}
  for leaf, wanted in zip(
    jax.tree.leaves(got), jax.tree.leaves(target), strict=True
  ):
    assert leaf.sharding == wanted.sharding


def test_parameters_can_be_read_alone(checkpointer):
  save(checkpointer, 3, 4)
  target = abstract_of(make_state(3).params)
  params, meta = CheckpointReader(checkpointer.directory.parent).restore_params(
    target, step=3
  )
  assert_same_bits(params, make_state(3).params)
  assert meta['seen'] == 30


def test_without_checkpoints_there_is_nothing_and_nothing_is_made(tmp_path):
  reader = CheckpointReader(tmp_path / 'run')
  assert reader.restore(abstract_of(make_state(1))) is None
  assert reader.restore_params(abstract_of(make_state(1).params)) is None
  assert (reader.steps(), reader.best()) == ([], {})
  assert reader.meta() is None
  assert not (tmp_path / 'run').exists()


def test_what_a_checkpoint_belongs_to_is_kept_as_json(tmp_path):
  writer = Checkpointer(tmp_path, fingerprint={'sizes': (4, 5), 'rate': 0.1})
  save(writer, 1)
  writer.close()
  reader = CheckpointReader(tmp_path)
  assert reader.meta()['fingerprint'] == {'sizes': [4, 5], 'rate': 0.1}
  assert reader.meta(step=9) is None


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
  writer = Checkpointer(tmp_path, fingerprint={'rate': 0.1})
  save(writer, 1)
  writer.close()
  wanted = abstract_of(make_state(1))

  def restore(*lines):
    def differences(saved):
      assert saved == {'rate': 0.1}
      return lines

    return CheckpointReader(tmp_path, differences=differences).restore(wanted)

  assert restore() is not None
  with pytest.raises(UserError, match=r'1 belongs .* differs:\n  a: 1\n  b: 2'):
    restore('a: 1', 'b: 2')


def test_parameters_may_be_rounded_and_nothing_else(checkpointer):
  save(checkpointer, 4)
  wanted = abstract_of(make_state(4))
  layers = wanted.params['layers']
  for name in ('wo', 'norm'):
    layers[name] = jax.ShapeDtypeStruct(
      layers[name].shape, jnp.bfloat16, sharding=layers[name].sharding
    )
  params, _ = checkpointer.reader.restore_params(wanted.params)
  expected = make_state(4).params
  expected['layers'] = jax.tree.map(
    lambda leaf: leaf.astype(jnp.bfloat16), expected['layers']
  )
  assert_same_bits(params, expected)
  with pytest.raises(UserError, match='2 of another dtype: params/layers/norm'):
    checkpointer.reader.restore(wanted)
  for path, dtype in (('bfloat', jnp.float32), ('wo', jnp.float16)):
    others = abstract_of(make_state(4).params)
    place = others if path in others else others['layers']
    place[path] = jax.ShapeDtypeStruct(place[path].shape, dtype)
    with pytest.raises(UserError, match=f'1 of another dtype: params/.*{path}'):
      checkpointer.reader.restore_params(others)


def test_only_float32_is_rounded(tmp_path):
  run = Checkpointer(tmp_path)
  saved = {'half': jnp.ones(3, jnp.float16), 'count': jnp.arange(4)}
  run.save(1, {'params': saved}, {})
  run.close()
  for path, leaf in saved.items():
    wanted = {**saved, path: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16)}
    with pytest.raises(UserError, match=f'1 of another dtype: params/{path}'):
      CheckpointReader(tmp_path).restore_params(wanted)


def test_steps_that_a_person_names(checkpointer):
  save(checkpointer, 1, 2)
  assert named_steps(checkpointer.reader, 'best') == [2]
  checkpointer.mark_best(1, 7.0)
  checkpointer.mark_best(1, 3.0, name='glue_rte')
  checkpointer.mark_best(2, 5.0, name='glue_rte')
  checkpointer.mark_best(1, 5.0, name='glue_cola')
  save(checkpointer, 3)
  for name, steps in {
    'best': [1],
    'best:average': [1],
    'best:glue_rte': [2],
    'best:glue_cola': [1],
    'all': [1, 2, 3],
    2: [2],
    '3': [3],
  }.items():
    assert named_steps(checkpointer.reader, name) == steps
  with pytest.raises(UserError) as caught:
    named_steps(checkpointer.reader, 'best:glue_rtx')
  message = str(caught.value)
  assert "best of 'glue_rtx'; there is a best of average, glue_cola" in message
  assert "Did you mean 'glue_rte'" in message
  with pytest.raises(UserError, match=r'step 4 .*; there are \[1, 2, 3\]'):
    named_steps(checkpointer.reader, 4)


def test_a_best_without_its_checkpoint_has_no_name(checkpointer):
  save(checkpointer, 1, 2)
  checkpointer.mark_best(1, 7.0, name='glue_rte')
  shutil.rmtree(directory_of(checkpointer, 1))
  with pytest.raises(UserError, match='there is a best of nothing'):
    named_steps(checkpointer.reader, 'best:glue_rte')


def test_differences_are_listed_on_both_sides(checkpointer):
  save(checkpointer, 1)
  wanted = abstract_of(make_state(1))
  layers = wanted.params['layers']
  wanted.params['new'] = layers.pop('norm')
  wanted.params['bfloat'] = jax.ShapeDtypeStruct((8, 16), jnp.float32)
  layers['wo'] = jax.ShapeDtypeStruct((3, 16, 9), jnp.float32)
  with pytest.raises(UserError) as caught:
    checkpointer.reader.restore(wanted)
  message = str(caught.value)
  assert str(directory_of(checkpointer, 1)) in message
  for line in (
    '1 missing: params/new\n',
    '1 unexpected: params/layers/norm\n',
    'dtype: params/bfloat (bfloat16 instead of float32)\n',
    'shape: params/layers/wo ([3, 16, 8] instead of [3, 16, 9])\n',
  ):
    assert line in message


def test_parameters_alone_are_compared_alone(checkpointer):
  save(checkpointer, 1)
  wanted = abstract_of(make_state(1).params)
  wanted['new'] = wanted.pop('bfloat')
  with pytest.raises(UserError) as caught:
    checkpointer.reader.restore_params(wanted)
  assert '1 missing: params/new' in str(caught.value)
  assert '1 unexpected: params/bfloat' in str(caught.value)


def test_a_damaged_checkpoint_that_is_asked_for_is_refused(checkpointer):
  save(checkpointer, 1, 2)
  flip_a_bit(largest_file(directory_of(checkpointer, 2)))
  with pytest.raises(UserError, match=r'2 cannot be used: .* damaged'):
    checkpointer.reader.restore(abstract_of(make_state(2)), step=2)
  with pytest.raises(UserError, match=r'no checkpoint of step 3; it has 1, 2'):
    checkpointer.reader.restore(abstract_of(make_state(2)), step=3)


def test_when_all_are_damaged_nothing_is_begun_anew(checkpointer):
  save(checkpointer, 1, 2)
  for step in (1, 2):
    flip_a_bit(largest_file(directory_of(checkpointer, step)))
  with pytest.raises(UserError, match='No checkpoint is whole') as caught:
    checkpointer.reader.restore(abstract_of(make_state(2)))
  for step in (1, 2):
    assert str(directory_of(checkpointer, step)) in str(caught.value)
