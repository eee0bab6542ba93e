"""Data that several tests of the tasks read: the same rows in two sources."""

import pytest

from hypergrid_jax.tasks import definitions
from tests.tasks import tiny_rows


@pytest.fixture(scope='session')
def files_source(tmp_path_factory):
  directory = tmp_path_factory.mktemp('files')
  for task in definitions.DEFINITIONS.values():
    tiny_rows.write_jsonl(directory, task)
  return f'files:{directory}'


@pytest.fixture(scope='session')
def tfds_dir(tmp_path_factory):
  """A TFDS data directory with every dataset that the tasks name."""
  import tensorflow_datasets as tfds

  directory = tmp_path_factory.mktemp('tfds')
  splits = {}
  for task in definitions.DEFINITIONS.values():
    for split in task.splits:
      rows = list(enumerate(tiny_rows.rows(task, split)))
      splits.setdefault(task.tfds, {})[split] = rows
  for name, datasets in splits.items():
    config_name, version = name.split(':')
    benchmark, config = config_name.split('/')
    builder = tfds.builder_cls(benchmark)(config=config, data_dir='/nowhere')
    tfds.dataset_builders.store_as_tfds_dataset(
      name=benchmark,
      config=config,
      version=version,
      features=builder.info.features,
      data_dir=directory,
      split_datasets=datasets,
    )
  return directory
