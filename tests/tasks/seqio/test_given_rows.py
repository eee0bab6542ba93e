"""Rows that are handed in become what the task's own test set would hold."""

import numpy as np
import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.prediction import requests
from hypergrid_jax.tasks import definitions, task_files
from hypergrid_jax.tasks.rows import sources
from hypergrid_jax.tasks.seqio import given_rows, registry
from tests.tasks import own_files

LENGTHS = (40, 12)
TASKS = [
  task.name for task in definitions.DEFINITIONS.values() if task.test_split
]


@pytest.mark.parametrize('name', TASKS)
def test_they_are_as_in_the_test_set(files_source, name):
  task = definitions.definition(name)
  rows = list(sources.read_rows(files_source, task, task.test_split))
  found = given_rows.inputs(name, rows, vocabulary='bytes', lengths=LENGTHS)
  dataset = registry.seqio_task(
    name, source=files_source, vocabulary='bytes'
  ).get_dataset({'inputs': 40, 'targets': 12}, task.test_split, shuffle=False)
  expected = list(dataset.as_numpy_iterator())
  assert len(found) == len(expected) == len(rows) > 0
  for (text, ids), example in zip(found, expected, strict=True):
    assert text == example['inputs_pretokenized'].decode()
    np.testing.assert_array_equal(ids, example['inputs'])
    assert ids.dtype == np.int32


@pytest.mark.parametrize('name', TASKS)
def test_a_prediction_is_read_as_the_metrics_read_it(name):
  """A class id or a score; -1 where the text is neither."""
  task = definitions.definition(name)
  if task.labels is None:
    return
  postprocess = registry.seqio_task(
    name, source='sample', vocabulary='bytes'
  ).postprocess_fn
  row = requests.Row(0, task, 'a')
  for text in (*task.labels, 'nothing', task.labels[0].upper() + ' '):
    answer = requests.answer(row, 'a', text)
    ours = answer.get('label', answer.get('score'))
    theirs = postprocess(text, example={'idx': {}}, is_target=False)
    theirs = theirs['value'] if isinstance(theirs, dict) else theirs
    assert (-1 if ours is None else ours) == theirs, text


def module(folder, more):
  path = own_files.write_module(folder, more=more, name='given_words')
  return task_files.load([path])


TEMPLATE = """

seqio.TaskRegistry.add(
  '{name}',
  source=seqio.FunctionDataSource(
    lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors(
      {{'text': 'a', 'size': tf.constant(3, tf.int32), 'tags': ['b', 'c'],
       'label': tf.constant(1, tf.int64)}}
    ),
    splits=('train',),
  ),
  preprocessors=[
    seqio.map_over_dataset(
      lambda row: {{
        'inputs': tf.strings.join(
          [row['text'], tf.strings.as_string(row['size']),
           tf.strings.reduce_join(row['tags'], separator='+')], ' '),
        'targets': {targets},
      }}
    ),
    {more}
    seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos_after_trim,
  ],
  metric_fns=[],
  output_features=FEATURES,
)
"""


@pytest.mark.slow
def test_tasks_that_a_module_registers(tmp_path):
  """One test of many, because describing a module takes seconds."""
  label = "tf.strings.as_string(row['label'])"
  chosen = "tf.gather(['no', 'yes'], row['label'])"
  twice = 'lambda dataset: dataset.repeat(2),'
  module(
    tmp_path,
    TEMPLATE.format(name='given_good', targets=label, more='')
    + TEMPLATE.format(name='given_chosen', targets=chosen, more='')
    + TEMPLATE.format(name='given_twice', targets=label, more=twice),
  )

  def inputs(name, *rows):
    return given_rows.inputs(name, rows, vocabulary='bytes', lengths=LENGTHS)

  rows = {'text': 'x', 'size': 5, 'tags': ['d']}, {'size': 7, 'tags': []}
  found = inputs('given_good', *rows)
  assert [text for text, _ in found] == ['x 5 d', ' 7 ']
  assert found[0].ids.tolist() == [*(b + 3 for b in b'x 5 d'), 1]
  for name, row, message in (
    ('given_good', {'txt': 'x'}, r"no field 'txt'.*'text'.*are text, size"),
    ('given_good', {'size': 'five'}, r"'size': expected int32.*'five'"),
    ('given_good', {'tags': 'b'}, r"'tags': expected string of 1"),
    ('given_chosen', {'text': 'x'}, r'given_words\.py fail.*"inputs"'),
    ('given_twice', {'text': 'x'}, r'make 2 examples of 1 rows.*"inputs"'),
    ('first_word', {'text': 'x'}, r'first_word.*no named fields'),
  ):
    with pytest.raises(UserError, match=message):
      inputs(name, row)
