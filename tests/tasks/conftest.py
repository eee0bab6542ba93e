"""Data that several tests of the tasks read: the same rows in two sources."""

import json
import pathlib
import sys

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.seqio import descriptions
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


@pytest.fixture
def fresh_process():
  """Returns what makes a folder's modules as if they were never imported."""
  import seqio

  from hypergrid_jax.tasks.seqio import registry

  kinds = (seqio.TaskRegistry, seqio.MixtureRegistry)
  before = {name for kind in kinds for name in kind.names()}

  def forget(folder):
    for name, module in list(sys.modules.items()):
      file = getattr(module, '__file__', None) or ''
      if pathlib.Path(file).parent == folder:
        del sys.modules[name]
    for kind in kinds:
      for name in set(kind.names()) - before:
        kind.remove(name)
    registry._IMPORTED.clear()

  return forget


@pytest.fixture
def asked(monkeypatch, fresh_process):
  """Describes modules in this process; returns what was asked for."""
  from hypergrid_jax.tasks.seqio import facts

  calls = []

  def ask(*arguments):
    calls.append(arguments)
    fresh_process(pathlib.Path(arguments[0]).resolve().parent)
    answer = json.loads(json.dumps(facts.main(list(arguments))))
    if 'user error' in answer:
      raise UserError(answer['user error'])
    return answer['result']

  monkeypatch.setattr(descriptions, '_ask', ask)
  return calls
