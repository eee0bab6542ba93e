"""Token stores of tasks that this process has registered with seqio."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from hypergrid_jax.data import tokens
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, vocabularies
from hypergrid_jax.tasks.seqio import registry

BYTES = vocabularies.load_vocabulary('bytes')
FEATURES = {
  name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
  for name in ('inputs', 'targets')
}
ENDS = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]
ROWS = {'inputs': [f'row {n}' for n in range(5)], 'targets': list('abcde')}


def rows(split, shuffle_files):  # without a seed, as seqio allows
  assert not shuffle_files
  return tf.data.Dataset.from_tensor_slices(ROWS)


def register(name, preprocessors, source=None, **values):
  source = source or seqio.FunctionDataSource(rows, splits=('train', 'test'))
  seqio.TaskRegistry.add(
    name,
    **{
      'source': source,
      'preprocessors': preprocessors,
      'output_features': FEATURES,
      **values,
    },
  )


def open_store(name, directory, lengths=(32, 8), split='train'):
  return tokens.open_store(
    name,
    split,
    source='sample',
    vocabulary='bytes',
    lengths=lengths,
    directory=directory,
  )


def test_examples_are_those_of_the_task_with_our_vocabulary(tmp_path):
  pieces = seqio.SentencePieceVocabulary('/no/such.model')
  register(
    'mine',
    ENDS,
    output_features=dict.fromkeys(FEATURES, seqio.Feature(pieces)),
  )
  store = open_store('mine', tmp_path)
  assert [BYTES.decode(store.inputs(n)) for n in range(5)] == ROWS['inputs']
  assert store.example(3) == {
    'inputs_pretokenized': 'row 3',
    'targets_pretokenized': 'd',
  }
  assert store.targets(3).tolist() == [ord('d') + 3, 1]


def test_random_preprocessors_give_the_same_tokens_on_every_host(tmp_path):
  @seqio.map_over_dataset(num_seeds=1)
  def noise(example, seed):
    number = tf.random.stateless_uniform([], seed, 0, 10**6, tf.int32)
    return {**example, 'inputs': tf.strings.as_string(number)}

  register('noisy', [noise, *ENDS])
  one, two = (open_store('noisy', tmp_path / name) for name in 'ab')
  texts = [one.example(n)['inputs_pretokenized'] for n in range(5)]
  assert texts == [two.example(n)['inputs_pretokenized'] for n in range(5)]
  assert len(set(texts)) == 5


def test_ids_without_texts_are_decoded(tmp_path):
  register(
    'ids_alone',
    [
      lambda dataset, output_features: seqio.preprocessors.tokenize(
        dataset, output_features, copy_pretokenized=False
      ),
      seqio.preprocessors.append_eos_after_trim,
    ],
  )
  assert open_store('ids_alone', tmp_path).example(2) == {
    'inputs_pretokenized': 'row 2',
    'targets_pretokenized': 'c',
  }


def broken(dataset):
  return dataset.map(
    lambda row: {**row, 'inputs': tf.ensure_shape(row['inputs'], [3])}
  )


def fails_at_row_3(dataset):
  def check(row):
    with tf.control_dependencies(
      [tf.debugging.assert_none_equal(row['targets'], 'd', message='a bad row')]
    ):
      return {name: tf.identity(value) for name, value in row.items()}

  return dataset.map(check)


@pytest.mark.parametrize(
  ('preprocessors', 'values', 'message'),
  [
    ([seqio.preprocessors.tokenize], {}, 'no target ends with the end-of-seq'),
    ([broken, *ENDS], {}, 'reading or preprocessing its examples fails'),
    ([fails_at_row_3, *ENDS], {}, 'InvalidArgumentError: .*a bad row'),
    ([], {}, 'ValueError: .*incorrect type for feature .inputs'),
    (
      [lambda data: data.map(lambda row: {'targets': row['targets']}), *ENDS],
      {
        'output_features': {
          'inputs': seqio.Feature(seqio.ByteVocabulary(), required=False),
          'targets': FEATURES['targets'],
        }
      },
      "its examples have no 'inputs', only targets_pretokenized, targets",
    ),
    ([lambda data: data.take(0), *ENDS], {}, 'gives no examples'),
  ],
)
def test_what_goes_wrong_is_told_and_leaves_nothing(
  tmp_path, preprocessors, values, message
):
  register('bad', preprocessors, **values)
  with pytest.raises(UserError, match=f'(?s)bad.*{message}'):
    open_store('bad', tmp_path)
  assert [path for path in tmp_path.rglob('*') if path.is_file()] == []


def test_prepared_tfds_data_say_which_splits_there_are(tmp_path, tfds_dir):
  source = seqio.TfdsDataSource('glue/sst2:2.0.0', str(tfds_dir))
  rename = seqio.preprocessors.rekey
  register(
    'sentiment',
    [
      lambda data: rename(data, {'inputs': 'sentence', 'targets': 'sentence'}),
      *ENDS,
    ],
    source,
  )
  task = definitions.definition('sentiment')
  assert set(task.splits) == {'train', 'validation', 'test'}
  assert str(tfds_dir / 'glue/sst2/2.0.0') in task.rows.splits().values()
  store = open_store('sentiment', tmp_path, split='validation')
  assert store.num_examples == task.rows.count('validation') > 0


def test_missing_tfds_data_are_said_at_once(tmp_path):
  source = seqio.TfdsDataSource(
    'glue/sst2:2.0.0', str(tmp_path), splits=('train',)
  )
  register('sentiment', ENDS, source)
  made = registry.seqio_task(
    'sentiment', source='tfds', vocabulary='bytes', allow_download=False
  )
  with pytest.raises(
    UserError, match='not prepared: there is no .*glue/sst2/2'
  ):
    made.get_dataset(split='train')


def test_a_part_of_a_registered_task(tmp_path):
  """A protocol that divides splits finds the source's rows in order."""
  from hypergrid_jax.tasks.catalogue import protocols
  from hypergrid_jax.tasks.seqio import split_parts

  register('mine', ENDS)
  made = registry.seqio_task('mine', source='sample', vocabulary='bytes')
  source = split_parts.PartSource(made.source, '[:half]', task='mine')
  found = list(source.get_dataset('train', shuffle=False).as_numpy_iterator())
  mask = protocols.chosen_rows('[:half]', 5)
  wanted = np.array(ROWS['targets'])[mask].tolist()
  assert [row['targets'].decode() for row in found] == wanted
