"""All rows of a directory of real data against the t5 package.

Set HYPERGRID_REAL_DATA to a directory for `files:`; its incomplete splits,
`<split>.partial.jsonl.gz`, are compared too. `vocab/t5.sentencepiece.model`
below it is used when it is there, and the byte vocabulary otherwise.
"""

import gzip
import json
import os
import pathlib

import numpy as np
import pytest

from hypergrid_jax.tasks import definitions
from tests.tasks.reference import t5_task

pytestmark = pytest.mark.real_data
LENGTHS = {'inputs': 512, 'targets': 62}


@pytest.fixture(scope='module')
def directory():
  name = os.environ.get('HYPERGRID_REAL_DATA')
  if not name:
    pytest.skip('HYPERGRID_REAL_DATA names no directory')
  return pathlib.Path(name)


@pytest.mark.parametrize(
  'task', definitions.DEFINITIONS.values(), ids=lambda task: task.name
)
def test_every_row_equals_t5s(task, directory, tmp_path, record_property):
  from hypergrid_jax.tasks.seqio import registry

  files = _complete_splits(task, directory, tmp_path)
  if not files:
    pytest.skip('the directory has nothing of this task')
  model = directory / 'vocab' / 't5.sentencepiece.model'
  ours = registry.seqio_task(
    task.name,
    source=f'files:{tmp_path}',
    vocabulary=str(model) if model.exists() else 'bytes',
  )
  for split, path in files.items():
    theirs = t5_task(task, split).replace(
      name='reference',
      source=_source(task, split, path),
      output_features=ours.output_features,
    )
    count = 0
    pairs = zip(*(_read(t, split) for t in (ours, theirs)), strict=True)
    for found, wanted in pairs:
      assert set(found) == set(wanted)
      for name, value in wanted.items():
        assert np.array_equal(found[name], value), (split, count, name)
      count += 1
    assert count
    record_property(split, count)


def _complete_splits(task, directory, tmp_path):
  """Links the task's files into a directory under names that are read."""
  there = directory / task.benchmark / task.config
  folder = tmp_path / task.benchmark / task.config
  folder.mkdir(parents=True)
  files = {}
  for split in task.splits:
    for name in (f'{split}.jsonl.gz', f'{split}.partial.jsonl.gz'):
      if (there / name).exists() and split not in files:
        (folder / f'{split}.jsonl.gz').symlink_to(there / name)
        files[split] = there / name
  return files


def _read(task, split):
  dataset = task.get_dataset(
    LENGTHS, split=split, shuffle=False, use_cached=False
  )
  return dataset.as_numpy_iterator()


def _source(task, split, path):
  """Returns the rows of a JSON-lines file, typed by TFDS's own schema."""
  import seqio
  import tensorflow as tf
  import tensorflow_datasets as tfds

  benchmark, config = task.tfds.split(':')[0].split('/')
  builder = tfds.builder_cls(benchmark)(config=config, data_dir='/nowhere')
  signature = tf.nest.map_structure(
    lambda info: tf.TensorSpec(info.shape, info.dtype),
    builder.info.features.get_tensor_info(),
  )

  def dataset(split, shuffle_files, seed=None):
    del split, shuffle_files, seed

    def rows():
      with gzip.open(path, 'rt', encoding='utf-8') as file:
        yield from map(json.loads, file)

    return tf.data.Dataset.from_generator(rows, output_signature=signature)

  return seqio.FunctionDataSource(dataset, splits=[split])
