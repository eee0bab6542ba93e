"""Metrics of TOML tasks against values computed by hand."""

import numpy as np
import pytest
from t5.evaluation import metrics as t5_metrics

from hypergrid_jax.evaluation import metrics
from hypergrid_jax.tasks import task_files
from hypergrid_jax.tasks.toml import targets, tasks
from tests.tasks.own_files import TOML, write_reviews

NUMBER = 'number = {min = -2, max = 2, step = 0.5}'
TARGETS = {
  'labels': "field = 'stars'\nlabels = {1 = 'a', 5 = 'b'}",
  'three': "field = 'stars'\nlabels = {1 = 'a', 5 = 'b', 3 = 'c'}",
  'text': "text = '{title}'",
  'number': f"field = 'stars'\n{NUMBER}",
}


@pytest.fixture
def task(tmp_path):
  """Makes the seqio task of a kind of target with the metrics of a list."""

  def make(kind, names):
    start, _, end = TOML.partition('[target]')
    splits = end[end.index('[splits]') :]
    toml = (
      f'metrics = {list(names)}\n{start}[target]\n{TARGETS[kind]}\n{splits}'
    )
    task_files.load([write_reviews(tmp_path, toml)])
    from hypergrid_jax.tasks.seqio import registry

    return registry.seqio_task('reviews', source='sample', vocabulary='bytes')

  return make


def scores(task, wanted, predictions):
  examples = [
    {'targets_pretokenized': target, 'inputs_pretokenized': 'x'}
    for target in wanted
  ]
  return metrics.task_metrics(task, examples, predictions)


def test_labels(task):
  names = ('accuracy', 'f1', 'macro_f1', 'matthews_corrcoef')
  found = scores(
    task('labels', names), ['b', 'b', 'b', 'a', 'a'], ['b', 'b', 'a', 'b', 'a']
  )
  # Of 'b': 2 hits, 1 miss, 1 false alarm; of 'a': 1, 1, 1.
  f1 = {'b': 4 / 6, 'a': 2 / 4}
  correlation = (2 * 1 - 1 * 1) / np.sqrt(3 * 3 * 2 * 2)
  assert found == pytest.approx(
    {
      'accuracy': 60.0,
      'f1': 100 * f1['b'],
      'mean_2class_f1': 100 * (f1['a'] + f1['b']) / 2,
      'matthews_corrcoef': 100 * correlation,
    }
  )


def test_a_prediction_that_is_no_label_is_wrong(task):
  names = ('accuracy', 'f1')
  found = scores(task('labels', names), ['b', 'a', 'b'], ['B', '', 'b'])
  # The invalid ones count as the opposite of their targets.
  assert found == pytest.approx({'accuracy': 100 / 3, 'f1': 100 * 2 / 4})
  found = scores(task('three', ('macro_f1',)), ['c', 'a', 'b'], ['c', '', 'b'])
  assert found == pytest.approx({'mean_3class_f1': 100 * 2 / 3})


def test_numbers(task):
  names = ('pearson_corrcoef', 'spearman_corrcoef')
  made = task('number', names)
  # Unreadable ones lie a fifth of the range below it, at -2.8.
  found = scores(made, ['-2.0', '0.0', '2.0'], ['?', '-1.0', '0.8'])
  assert found['pearson_corrcoef'] == pytest.approx(100.0)
  found = scores(made, ['-1.0', '0.0', '1.0'], ['nan', 'inf', '-2.0'])
  assert found['spearman_corrcoef'] == pytest.approx(100 * np.sqrt(3) / 2)
  assert scores(made, ['-1.0', '1.0'], ['0.5', '0.5']) == dict.fromkeys(
    names, 0
  )


def test_free_text(task):
  found = scores(
    task('text', ('accuracy', 'squad')),
    ['The red hat', 'a cat', 'no'],
    ['red hat!', 'a cat', 'one two no'],
  )
  # squad drops articles and punctuation: f1 of 'no' is 2 * 1 / (3 + 1).
  assert found == pytest.approx(
    {'accuracy': 100 / 3, 'em': 200 / 3, 'f1': 100 * (1 + 1 + 0.5) / 3}
  )


def test_rouge_and_bleu_are_t5s(task):
  wanted = ['the cat sat on the mat', 'a dog ran far away', 'rain falls now']
  outputs = ['the cat sat on a mat', 'one dog ran', 'rain falls here now']
  made = task('text', ('rouge', 'bleu'))
  found = scores(made, wanted, outputs)
  assert found['bleu'] == t5_metrics.bleu(wanted, outputs)['bleu']
  rouge = {name: found[name] for name in ('rouge1', 'rouge2', 'rougeLsum')}
  # t5's own vary with the resampling, by a few points for three texts.
  theirs = t5_metrics.rouge(wanted, outputs)
  assert rouge == pytest.approx(theirs, abs=10)
  np.random.random()  # noqa: NPY002
  state = np.random.get_state()[1].copy()  # noqa: NPY002
  assert scores(made, wanted, outputs) == found
  assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize('name', tasks.METRICS)
def test_every_metric_is_whole_for_a_right_prediction(task, name):
  kinds = {
    targets.Labels: ('labels', ['a', 'b', 'b']),
    targets.FreeText: ('text', ['one two three four', 'five six seven eight']),
    targets.Number: ('number', ['-1.0', '0.5', '2.0']),
  }
  for kind in tasks.METRICS[name]:
    target, texts = kinds[kind]
    found = scores(task(target, [name]), texts, texts)
    assert found == pytest.approx(dict.fromkeys(found, 100.0))
    assert found


def test_the_task_is_registered_with_seqio(task):
  import seqio

  made = task('labels', ('accuracy',))
  registered = seqio.get_mixture_or_task('reviews')
  assert registered.splits == ('train', 'validation')
  rows = list(
    made.get_dataset(split='train', shuffle=False).as_numpy_iterator()
  )
  assert [row['inputs_pretokenized'].decode() for row in rows] == [
    'review: A film / It moves.',
    'review: A book / It drags.',
    'review: A play / It drags on.',
  ]
  # An edited file replaces what was registered.
  task('three', ('accuracy',))
  assert seqio.get_mixture_or_task('reviews') is not registered
