"""Every task against the t5 package's own, on the same rows."""

import importlib
import json
import multiprocessing
import os

import numpy as np
import pytest
import seqio

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, task_files
from hypergrid_jax.tasks.catalogue import mixtures
from tests.tasks import own_files, tiny_rows
from tests.tasks.reference import examples, t5_task

ALL = list(definitions.DEFINITIONS.values())
BY_NAME = pytest.mark.parametrize('task', ALL, ids=lambda task: task.name)


@pytest.fixture(scope='module')
def registry():
  from hypergrid_jax.tasks.seqio import registry

  return registry


def assert_same_examples(found, wanted):
  assert len(found) == len(wanted)
  for one, other in zip(found, wanted, strict=True):
    assert set(one) == set(other)
    for name, value in other.items():
      assert np.asarray(one[name]).dtype == np.asarray(value).dtype, name
      np.testing.assert_array_equal(one[name], value, err_msg=name)


@BY_NAME
def test_equals_t5_on_the_same_rows(task, registry, tfds_dir, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tfds_dir))
  ours = registry.seqio_task(task.name, source='tfds', vocabulary='bytes')
  # One labelled and one unlabelled split; WSC has a form of its own in each.
  ends = {task.splits[0], task.splits[-1]}
  for split in task.splits if task.config == 'wsc' else ends:
    theirs = t5_task(task, split).replace(
      name='reference',
      source=seqio.TfdsDataSource(task.tfds, str(tfds_dir), splits=[split]),
      output_features=ours.output_features,
    )
    found, wanted = examples(ours, split), examples(theirs, split)
    assert wanted, split
    assert_same_examples(found, wanted)
    if split != task.test_split and task.labels is not None:
      targets = {row['targets_pretokenized'].decode() for row in found}
      assert targets <= set(task.labels)


@BY_NAME
def test_files_give_the_rows_that_tfds_gives(
  task, registry, tfds_dir, files_source, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tfds_dir))
  files, tfds = (
    registry.seqio_task(task.name, source=source, vocabulary='bytes').source
    for source in (files_source, 'tfds')
  )
  for split in task.splits:
    datasets = [
      source.get_dataset(split, shuffle=False) for source in (files, tfds)
    ]
    found, wanted = (list(data.as_numpy_iterator()) for data in datasets)
    # Preparing a dataset shuffles it; every row has its own numbers.
    found, wanted = (
      sorted(map(_flat, rows), key=_numbers) for rows in (found, wanted)
    )
    assert_same_examples(found, wanted)


def _flat(row):
  flat = {name: value for name, value in row.items() if name != 'idx'}
  index = row['idx'] if isinstance(row['idx'], dict) else {'': row['idx']}
  return flat | {f'idx/{name}': value for name, value in index.items()}


def _numbers(row):
  return [int(row[name]) for name in sorted(row) if name.startswith('idx/')]


def test_rows_of_files_arrive_in_file_order(registry, files_source):
  task = definitions.definition('glue_mrpc')
  ours = registry.seqio_task(
    'glue_mrpc', source=files_source, vocabulary='bytes'
  )
  assert [int(row['idx']) for row in examples(ours, 'train')] == [
    row['idx'] for row in tiny_rows.rows(task, 'train')
  ]


def test_wsc_trains_on_referents_and_is_evaluated_on_all_rows(
  registry, files_source
):
  task = definitions.definition('super_glue_wsc')
  ours = registry.seqio_task(task.name, source=files_source, vocabulary='bytes')
  labels = {
    split: [int(row['label']) for row in examples(ours, split)]
    for split in task.splits
  }
  assert labels == {
    'train': [1, 1],
    'validation': [0, 1, 0, 1],
    'test': [-1, -1],
  }
  first = examples(ours, 'train')[0]
  assert first['inputs_pretokenized'].decode() == (
    "wsc: Bob's hat saw that *he* , or Eve ,  left  early ."
  )
  assert first['targets_pretokenized'].decode() == "Bob's hat"


def test_sample_rows_pass_through_unchanged(registry):
  from hypergrid_jax.tasks import sample

  rows = sample.rows('glue', 'mrpc', 'validation')
  ours = registry.seqio_task('glue_mrpc', source='sample', vocabulary='sample')
  found = examples(ours, 'validation', {'inputs': 1000, 'targets': 50})
  labels = ('not_equivalent', 'equivalent')
  assert [row['inputs_pretokenized'].decode() for row in found] == [
    f'mrpc sentence1: {row["sentence1"]} sentence2: {row["sentence2"]}'
    for row in rows
  ]
  assert [row['targets_pretokenized'].decode() for row in found] == [
    labels[row['label']] for row in rows
  ]
  vocabulary = ours.output_features['inputs'].vocabulary
  texts = [vocabulary.decode(row['inputs'].tolist()) for row in found]
  assert texts == [row['inputs_pretokenized'].decode() for row in found]


def test_a_matched_set_answers_to_validation_too(registry, files_source):
  ours = registry.seqio_task(
    'glue_mnli_mismatched', source=files_source, vocabulary='bytes'
  )
  assert_same_examples(
    examples(ours, 'validation'), examples(ours, 'validation_mismatched')
  )


def test_registered_names_and_rates(registry):
  assert set(definitions.DEFINITIONS) <= set(seqio.TaskRegistry.names())
  for name, mixture in mixtures.MIXTURES.items():
    registered = seqio.MixtureRegistry.get(name)
    rates = {task.name: registered.get_rate(task) for task in registered.tasks}
    assert rates == {
      task: definitions.DEFINITIONS[task].train_examples
      for task in mixture.tasks
    }


def test_registering_again_changes_nothing(registry):
  before = {
    name: seqio.TaskRegistry.get(name) for name in definitions.DEFINITIONS
  }
  registry.register()
  importlib.reload(registry)
  assert before == {name: seqio.TaskRegistry.get(name) for name in before}


def test_a_forked_process_can_register_and_read(registry, files_source):
  context = multiprocessing.get_context('fork')
  with context.Pool(1) as pool:
    child, count = pool.apply(_count_in_child, (files_source,))
  assert (child != os.getpid(), count) == (True, 5)


def _count_in_child(source):
  from hypergrid_jax.tasks.seqio import registry

  registry.register()
  task = registry.seqio_task('glue_sst2', source=source, vocabulary='bytes')
  return os.getpid(), task.source.num_input_examples('train') or len(
    list(_rows(source))
  )


def _rows(source):
  from hypergrid_jax.tasks.rows import sources

  return sources.read_rows(source, definitions.definition('glue_sst2'), 'train')


def test_a_users_module_is_usable_by_name(registry, tmp_path):
  module = tmp_path / 'my_tasks.py'
  module.write_text(
    'import seqio, tensorflow as tf\n'
    'def rows(split, shuffle_files, seed=None):\n'
    '  return tf.data.Dataset.from_tensor_slices(\n'
    '    {"inputs": [split + " a", "b"], "targets": ["c", "d"]})\n'
    'seqio.TaskRegistry.add(\n'
    '  "my_own_task", source=seqio.FunctionDataSource(rows, ["train"]),\n'
    '  preprocessors=[seqio.preprocessors.tokenize,\n'
    '                 seqio.preprocessors.append_eos],\n'
    '  output_features={n: seqio.Feature(\n'
    '    seqio.SentencePieceVocabulary("/no/such.model"))\n'
    '    for n in ("inputs", "targets")})\n'
  )
  registry.import_task_module(str(module))
  registry.import_task_module(str(module))
  task = registry.seqio_task('my_own_task', source='tfds', vocabulary='bytes')
  found = examples(task, 'train')
  vocabulary = task.output_features['inputs'].vocabulary
  assert [vocabulary.decode(row['inputs'].tolist()) for row in found] == [
    'train a',
    'b',
  ]


@pytest.mark.parametrize(
  ('content', 'message'),
  [(None, 'no such file'), ('import nothing_there', 'ModuleNotFoundError')],
)
def test_a_users_module_that_cannot_be_imported(
  registry, tmp_path, content, message
):
  module = tmp_path / 'broken.py'
  if content is not None:
    module.write_text(content)
  with pytest.raises(UserError, match=message):
    registry.import_task_module(str(module))


def test_a_module_that_breaks_leaves_nothing_registered(registry, tmp_path):
  path = own_files.write_module(
    tmp_path,
    more="seqio.MixtureRegistry.add('m', [('first_word', 1)])\nbreaks_here\n",
  )
  before = seqio.TaskRegistry.names(), seqio.MixtureRegistry.names()
  before = [set(names) for names in before]
  with pytest.raises(UserError, match='breaks_here'):
    registry.import_task_module(path)
  assert [
    set(seqio.TaskRegistry.names()),
    set(seqio.MixtureRegistry.names()),
  ] == before


def test_an_unknown_task_gives_the_closest_names(registry):
  with pytest.raises(UserError, match="mean 'super_glue_boolq'"):
    registry.seqio_task('super_glue_bolq', source='tfds', vocabulary='bytes')


@pytest.mark.parametrize(
  'value',
  [
    b'text \xff',
    np.int64(3),
    np.float64(0.5),
    np.bool_(True),
    np.array([1, 2], np.int64),
    np.array([b'a', b'bc'], object),
    np.array([[0.5, 1.0]]),
  ],
  ids=repr,
)
def test_values_of_a_store_become_what_seqio_gives(registry, value):
  from hypergrid_jax.data import tokenizing

  kept = json.loads(json.dumps(tokenizing._plain(value)))
  found = registry.as_tensor(kept)
  assert type(found) is type(value)
  np.testing.assert_array_equal(found, value)
  if not isinstance(value, bytes):
    assert found.dtype == value.dtype


def test_ragged_and_nested_values_of_a_store(registry):
  found = registry.as_tensor({'a': [[1], [2, 3]], 'b': {'c': []}})
  assert [row.tolist() for row in found['a']] == [[1], [2, 3]]
  assert found['b']['c'].shape == (0,)


def test_a_name_that_somebody_else_has_registered(registry, tmp_path):
  task = seqio.TaskRegistry.get('glue_sst2')
  source = seqio.TextLineDataSource({'train': 'x'})
  seqio.TaskRegistry.add_provider('reviews', task.replace(source=source))
  with pytest.raises(UserError, match='belongs to a task that is registered'):
    task_files.load([own_files.write_reviews(tmp_path)])
  assert 'reviews' not in definitions.DEFINITIONS


class TestMissingTfdsData:
  """Data that are not prepared: said at once, or downloaded after saying so."""

  def get(self, registry, allow_download):
    task = registry.seqio_task(
      'glue_sst2',
      source='tfds',
      vocabulary='bytes',
      allow_download=allow_download,
    )
    return examples(task, 'train')

  @pytest.fixture(autouse=True)
  def _empty(self, tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    (tmp_path / 'glue' / 'sst2' / '1.0.0').mkdir(parents=True)
    self.tmp_path = tmp_path

  def test_without_download(self, registry):
    with pytest.raises(UserError, match='downloads are off') as error:
      self.get(registry, allow_download=False)
    message = str(error.value)
    for part in ('glue/sst2:2.0.0', '1.0.0', 'TFDS_DATA_DIR', 'files:DIR'):
      assert part in message

  def test_without_network(self, registry, monkeypatch, caplog):
    from hypergrid_jax.tasks.seqio import sources as sources_lib

    # A port that nothing listens on: refused at once.
    server = 'http://127.0.0.1:9'
    monkeypatch.setattr(sources_lib, 'DOWNLOAD_SERVER', server)
    with pytest.raises(UserError, match='the download failed: URLError'):
      self.get(registry, allow_download=True)
    assert f'downloading from {server}' in caplog.text

  def test_with_network(self, registry, monkeypatch, tfds_dir):
    import tensorflow_datasets as tfds

    from hypergrid_jax.tasks.seqio import sources as sources_lib

    def prepare(builder):
      (self.tmp_path / 'glue' / 'sst2' / '2.0.0').symlink_to(
        tfds_dir / 'glue' / 'sst2' / '2.0.0'
      )
      assert builder.info.full_name == 'glue/sst2/2.0.0'

    monkeypatch.setattr(sources_lib, '_probe', lambda url: None)
    monkeypatch.setattr(
      tfds.core.DatasetBuilder, 'download_and_prepare', prepare
    )
    assert len(self.get(registry, allow_download=True)) == 5
