"""A damaged checkpoint is noticed, or its values are right all the same."""

import logging
import shutil

import jax
import numpy as np
import pytest

from hypergrid_jax.checkpoints import layout
from hypergrid_jax.checkpoints.reader import CheckpointReader, named_steps
from hypergrid_jax.checkpoints.writer import Checkpointer
from hypergrid_jax.errors import UserError
from hypergrid_jax.model import Model
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.parallel import partitioning
from hypergrid_jax.training import optimizers, state
from tests.checkpoints.small_state import assert_same_bits, directory_of

CONFIG = T5Config(
  d_model=12,
  d_ff=20,
  num_heads=2,
  d_kv=5,
  num_layers=3,
  num_decoder_layers=2,
  vocab_size=34,
)


def make_states():
  """Abstract state of a T5 and its optimiser; two states far apart."""
  model = Model(CONFIG, None, num_tasks=3)
  tx = optimizers.make_optimizer(
    optimizers.AdamW(),
    optimizers.Constant(1e-3),
    logical_axes=model.logical_axes,
  )
  mesh = partitioning.make_mesh(partitioning.MeshConfig(), jax.devices()[:1])
  abstract = state.sharded_abstract_state(model, tx, mesh)
  rng = np.random.default_rng(0)

  def random(leaf):
    value = 100 * rng.normal(size=leaf.shape)
    return jax.device_put(value.astype(leaf.dtype), leaf.sharding)

  return abstract, [jax.tree.map(random, abstract) for _ in range(2)]


class Run:
  """A run with two checkpoints, and what is in them."""

  def __init__(self, directory):
    self.abstract, self.states = make_states()
    self.checkpoints = Checkpointer(directory, keep=2)
    for step, one in enumerate(self.states, start=1):
      self.checkpoints.save(step, one, {})
    self.checkpoints.wait()
    self.reader = CheckpointReader(directory)
    self.newest = directory_of(self.checkpoints, 2)
    self.files = sorted(p for p in self.newest.rglob('*') if p.is_file())

  def assert_reads(self, step):
    """Both ways of reading take this checkpoint, bit for bit."""
    expected = self.states[step - 1]
    got, meta = self.reader.restore(self.abstract)
    assert_same_bits(got, expected)
    assert meta['step'] == step
    params, meta = self.reader.restore_params(self.abstract.params)
    assert_same_bits(params, expected.params)
    assert meta['step'] == step


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  made = Run(tmp_path_factory.mktemp('run'))
  yield made
  made.checkpoints.close()


def damaged(files, rng, *, kinds=None):
  """Damages one file after the other, and puts it right again.

  Args:
    files: their paths.
    rng: chooses which bits are flipped.
    kinds: how many kinds of damage to do to each, chosen by `rng`; None for
      all.

  Yields:
    The path of a file, and what has been done to it.
  """
  for path in files:
    content = path.read_bytes()
    ways = list(damages(content, rng))
    if kinds is not None:
      ways = [ways[n] for n in rng.choice(len(ways), kinds, replace=False)]
    for name, bad in ways:
      path.unlink(missing_ok=True)
      if bad is not None:
        path.write_bytes(bad)
      yield path, name
    path.write_bytes(content)


def damages(content, rng):
  """Name and content of many damaged versions of a file; None deletes it."""
  yield 'deleted', None
  if not content:
    yield 'grown', b'\0'
    return
  yield 'emptied', b''
  yield 'cut by one', content[:-1]
  yield 'cut in half', content[: len(content) // 2]
  places = {0, len(content) // 2, len(content) - 1}
  for place in places | set(rng.integers(0, len(content), 3).tolist()):
    bit = int(rng.integers(0, 8))
    flipped = bytearray(content)
    flipped[place] ^= 1 << bit
    yield f'bit {bit} of byte {place} flipped', bytes(flipped)


def test_no_file_is_damaged_unnoticed(run):
  """Every file that there is counts, in whichever way it is damaged."""
  kinds = {path.name for path in run.files}
  assert {'manifest.json', '_METADATA', 'manifest.ocdbt'} <= kinds
  rng = np.random.default_rng(1)
  for path, name in damaged(run.files, rng):
    for read, target in (
      (run.reader.restore, run.abstract),
      (run.reader.restore_params, run.abstract.params),
    ):
      with pytest.raises(UserError, match='2 cannot be used') as caught:
        read(target, 2)
      never_finished = path.name == layout.MANIFEST and name == 'deleted'
      named = path.name in str(caught.value)
      assert named is not never_finished, (path, name)
  run.assert_reads(2)


def test_whichever_file_is_damaged_the_newest_whole_one_is_read(run, caplog):
  rng = np.random.default_rng(2)
  for path, name in damaged(run.files, rng, kinds=1):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      run.assert_reads(1)
    said = [r.message for r in caplog.records if 'Going on' in r.message]
    assert len(said) == 2, (path, name)
    assert f'Checkpoint {run.newest}: ' in said[0]


def test_files_that_do_not_belong_change_nothing(run):
  for name in ('params/d/00', 'params/extra', '.nfs0001', 'training/x/y'):
    path = run.newest / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'abc')
  run.assert_reads(2)


def copy_of(run, tmp_path):
  """A run with the same checkpoints, to be spoiled."""
  shutil.copytree(run.checkpoints.directory.parent, tmp_path / 'run')
  other = Run.__new__(Run)
  vars(other).update(vars(run))
  other.reader = CheckpointReader(tmp_path / 'run')
  return other, other.reader.directory


def test_a_manifest_of_another_step_is_not_believed(run, tmp_path):
  spoiled, directory = copy_of(run, tmp_path)
  shutil.copy(directory / '1/manifest.json', directory / '2/manifest.json')
  spoiled.assert_reads(1)


def test_a_directory_under_another_name_is_not_believed(run, tmp_path, caplog):
  spoiled, directory = copy_of(run, tmp_path)
  (directory / '2').rename(directory / '3')
  spoiled.assert_reads(1)
  assert 'it holds step 2' in caplog.text
  with pytest.raises(UserError, match='3 cannot be used: it holds step 2'):
    spoiled.reader.restore(run.abstract, 3)


def test_directories_that_were_swapped_are_refused(run, tmp_path):
  spoiled, directory = copy_of(run, tmp_path)
  (directory / '1').rename(directory / 'x')
  (directory / '2').rename(directory / '1')
  (directory / 'x').rename(directory / '2')
  with pytest.raises(UserError, match='No checkpoint is whole') as caught:
    spoiled.reader.restore(run.abstract)
  assert 'it holds step 1' in str(caught.value)
  assert 'it holds step 2' in str(caught.value)
  assert spoiled.reader.meta() is None


def test_parts_of_another_checkpoint_are_noticed(run, tmp_path):
  spoiled, directory = copy_of(run, tmp_path)
  shutil.rmtree(directory / '2/training')
  shutil.copytree(directory / '1/training', directory / '2/training')
  spoiled.assert_reads(1)


def test_a_damaged_list_of_the_best_names_none(run, tmp_path, caplog):
  """Never another checkpoint than the best: the newest, and a warning."""
  _, directory = copy_of(run, tmp_path)
  checkpoints = Checkpointer(tmp_path / 'run', keep=2)
  assert checkpoints.mark_best(1, 21.5)
  assert named_steps(checkpoints.reader, 'best') == [1]
  path = directory / 'best.json'
  content = path.read_bytes()
  for place in range(len(content)):
    flipped = bytearray(content)
    flipped[place] ^= 1 << (place % 8)
    path.write_bytes(flipped)
    assert checkpoints.reader.best() == {}, place
  for bad in (b'', content[:-1], content[: len(content) // 2]):
    path.write_bytes(bad)
    caplog.clear()
    assert named_steps(checkpoints.reader, 'best') == [2]
    assert 'best.json is damaged' in caplog.text
    with pytest.raises(UserError, match='best of nothing'):
      named_steps(checkpoints.reader, 'best:glue_rte')
  assert checkpoints.mark_best(1, 20.0)
  assert named_steps(checkpoints.reader, 'best') == [1]
  path.unlink()
  assert named_steps(checkpoints.reader, 'best') == [2]
  checkpoints.close()
