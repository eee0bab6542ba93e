import types

import numpy as np
import pytest
import seqio
from t5.data import glue_utils, postprocessors
from t5.evaluation import metrics as t5_metrics
import tensorflow as tf

from hypergrid_jax.data import tokens
from hypergrid_jax.errors import UserError
from hypergrid_jax.evaluation import metrics
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.seqio import registry


def task(name):
  return registry.seqio_task(name, source='files:.', vocabulary='bytes')


def rows(targets, **fields):
  return [
    {
      'inputs_pretokenized': f'row {i}',
      'targets_pretokenized': target,
      **{name.replace('__', '/'): values[i] for name, values in fields.items()},
    }
    for i, target in enumerate(targets)
  ]


def test_mrpc_by_hand():
  # 'maybe' is read as the wrong class: 2 true positives, 1 false positive, 1
  # false negative; 3 of 5 right.
  examples = rows(
    ['equivalent', 'equivalent', 'not_equivalent', 'not_equivalent']
    + ['equivalent'],
    idx=[5, 6, 7, 8, 9],
  )
  found = metrics.task_metrics(
    task('glue_mrpc'),
    examples,
    ['equivalent', 'maybe', 'equivalent', 'not_equivalent', 'equivalent'],
  )
  assert found == pytest.approx({'f1': 100 * 4 / 6, 'accuracy': 60.0})


def test_multirc_exact_match_is_per_question():
  # Questions 3, 3, 8, 8, 8 in mixed order. Question 3 is all right; question 8
  # misses one answer: F1 from 2 true positives and 1 false negative.
  examples = rows(
    ['True', 'False', 'True', 'False', 'True'],
    idx__paragraph=[0] * 5,
    idx__question=[3, 8, 8, 3, 8],
    idx__answer=[0, 0, 1, 1, 2],
  )
  found = metrics.task_metrics(
    task('super_glue_multirc'),
    examples,
    ['True', 'False', 'False', 'False', 'True'],
  )
  assert found == pytest.approx({'f1': 100 * 4 / 5, 'exact_match': 50.0})


def test_record_counts_a_query_once_and_the_best_answer():
  # Query (1, 4) stands there twice, for its two answers; only its first
  # prediction counts. Query (2, 4) is another one.
  examples = rows(
    ['New York City', 'the Yankees', 'Paris'],
    idx__passage=[1, 1, 2],
    idx__query=[4, 4, 4],
    answers=[['New York City', 'the Yankees']] * 2 + [['Paris', 'Rome']],
  )
  found = metrics.task_metrics(
    task('super_glue_record'), examples, ['York City', 'Paris', 'rome!']
  )
  assert found == pytest.approx({'em': 50.0, 'f1': (100 * 4 / 5 + 100) / 2})


def test_wsc_compares_the_referent_with_the_label():
  # Determiners and capitals do not matter; a lone apostrophe does.
  examples = rows(
    ['The City Council', 'Bob', 'Mary', 'Mary', 'Ann'],
    label=[1, 1, 0, 1, 0],
    idx=[0, 1, 2, 3, 4],
  )
  found = metrics.task_metrics(
    task('super_glue_wsc'),
    examples,
    ['city council', "Bob's", 'Anna', 'Anna', ''],
  )
  assert found == pytest.approx({'accuracy': 100 * 2 / 5})


@pytest.mark.parametrize('count', [1, 4])
def test_undefined_correlation_is_zero(count):
  examples = rows(['0.0', '1.2', '3.4', '5.0'][:count], idx=range(4))
  found = metrics.task_metrics(task('glue_stsb'), examples, ['2.0'] * count)
  assert found == {'pearson_corrcoef': 0.0, 'spearman_corrcoef': 0.0}


def test_unreadable_score_counts_as_minus_one():
  examples = rows(['0.0', '2.0', '4.0'], idx=range(3))
  # Targets 0, 2, 4 and predictions -1, 2, 2: both centred by hand.
  found = metrics.task_metrics(task('glue_stsb'), examples, ['?', '2.0', '2'])
  assert found['pearson_corrcoef'] == pytest.approx(100 * 6 / np.sqrt(8 * 6))


def _text_task(name, postprocess_fn, metric_fns, examples):
  """A seqio task over ready texts, for seqio's own evaluator."""
  vocabulary = seqio.ByteVocabulary()

  def dataset(split, shuffle_files, seed=None):
    del split, shuffle_files, seed
    keys = [
      (key.removesuffix('_pretokenized'), [e[key] for e in examples])
      for key in examples[0]
    ]
    return tf.data.Dataset.from_tensor_slices(dict(keys))

  return seqio.Task(
    name,
    source=seqio.FunctionDataSource(dataset, splits=['validation']),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features={
      key: seqio.Feature(vocabulary, add_eos=True)
      for key in ('inputs', 'targets')
    },
    postprocess_fn=postprocess_fn,
    metric_fns=metric_fns,
  )


def _builder(name, classes):
  return types.SimpleNamespace(name=name, label_classes=classes)


CASES = {
  'cola': (
    rows(['acceptable', 'acceptable', 'unacceptable', 'unacceptable', 'x'])[:4],
    ['acceptable', 'unacceptable', 'unacceptable', 'none'],
    glue_utils.get_glue_postprocess_fn(
      _builder('cola', ['unacceptable', 'acceptable'])
    ),
    glue_utils.get_glue_metric('cola'),
  ),
  'cb': (
    rows(['entailment', 'neutral', 'contradiction', 'neutral']),
    ['entailment', 'entailment', 'contradiction', 'maybe'],
    glue_utils.get_glue_postprocess_fn(
      _builder('cb', ['entailment', 'contradiction', 'neutral'])
    ),
    glue_utils.get_super_glue_metric('cb'),
  ),
  'multirc': (
    rows(['True', 'False', 'True'], idx__question=[6, 2, 6]),
    ['True', 'True', 'yes'],
    postprocessors.multirc,
    glue_utils.get_super_glue_metric('multirc'),
  ),
  'record': (
    rows(
      ['an apple', 'a pear', 'figs'],
      idx__passage=[0, 0, 1],
      idx__query=[3, 3, 3],
      answers=[['an apple', 'a pear']] * 2 + [['figs', 'the figs']],
    ),
    ['the apple tree', 'a pear', 'Figs.'],
    postprocessors.record,
    glue_utils.get_super_glue_metric('record'),
  ),
  'stsb': (
    rows(['0.4', '5.0', '2.2', '3.8']),
    ['1.0', '4.4', 'two', '1.6'],
    postprocessors.string_to_float,
    glue_utils.get_glue_metric('stsb'),
  ),
}


@pytest.mark.parametrize('name', CASES)
def test_equals_seqios_own_evaluator(name, request):
  examples, texts, postprocess_fn, metric_fns = CASES[name]
  text_task = _text_task(f'text_{name}', postprocess_fn, metric_fns, examples)
  seqio.TaskRegistry.add_provider(text_task.name, text_task)
  request.addfinalizer(lambda: seqio.TaskRegistry.remove(text_task.name))
  evaluator = seqio.Evaluator(
    text_task.name,
    seqio.EncDecFeatureConverter(pack=False),
    eval_split='validation',
  )
  vocabulary = seqio.ByteVocabulary()

  def predict_fn(dataset):
    indices = [int(i) for i, _ in dataset.as_numpy_iterator()]
    ids = [vocabulary.encode(text) + [1] for text in texts]
    return [(i, (ids[i] + [0] * 20)[:20]) for i in reversed(indices)]

  future, _ = evaluator.evaluate(
    compute_metrics=True, step=3, predict_fn=predict_fn
  )
  expected = {
    metric: getattr(value, 'value', value)
    for metric, value in future.result()[text_task.name].items()
  }
  dataset = text_task.get_dataset(None, 'validation', shuffle=False)
  decoded = list(dataset.as_numpy_iterator())
  assert metrics.task_metrics(text_task, decoded, texts) == pytest.approx(
    expected
  )
  assert metrics.task_metrics(text_task, examples, texts) == pytest.approx(
    expected
  )


def fake_task(*metric_fns, predict=None):
  return types.SimpleNamespace(
    name='mine',
    metric_fns=metric_fns,
    predict_metric_fns=metric_fns if predict is None else predict,
    postprocess_fn=lambda text, **_: text,
  )


def test_value_that_is_no_number_is_refused_by_name():
  with pytest.raises(UserError, match="mine: metric 'story' is of type str"):
    metrics.score(fake_task(lambda t, p: {'story': 'x'}), ['a'], ['a'])


def test_what_seqio_only_displays_is_left_out():
  found = metrics.score(
    fake_task(
      lambda t, p: {
        'story': seqio.metrics.Text('x'),
        'spread': seqio.metrics.Histogram(np.arange(3)),
        'share': seqio.metrics.Scalar(7),
      }
    ),
    ['a'],
    ['a'],
  )
  assert found == {'share': 7.0}


def test_scalar_of_seqio_is_read_and_nan_is_zero():
  found = metrics.score(
    fake_task(
      lambda t, p: {'a': seqio.metrics.Scalar(12.5), 'b': float('nan')},
      lambda t, p: {'c': np.float32('inf')},
    ),
    ['a'],
    ['a'],
  )
  assert found == {'a': 12.5, 'b': 0.0, 'c': 0.0}


def test_two_functions_with_one_name_are_refused():
  with pytest.raises(UserError, match="mine: two .* give 'accuracy'"):
    metrics.score(
      fake_task(t5_metrics.accuracy, t5_metrics.accuracy), ['a'], ['a']
    )


def test_metric_of_scores_is_refused():
  with pytest.raises(UserError, match='mine: a metric function takes more'):
    metrics.score(fake_task(t5_metrics.score_auc, predict=[]), ['a'], ['a'])


def test_nothing_to_score_is_refused():
  with pytest.raises(UserError, match='mine: no examples'):
    metrics.score(fake_task(t5_metrics.accuracy), [], [])


def test_predictions_and_examples_must_be_as_many():
  with pytest.raises(ValueError, match='zip'):
    metrics.task_metrics(task('glue_rte'), rows(['entailment'] * 2), ['x'])


@pytest.mark.parametrize(
  ('name', 'example', 'prediction', 'verdict'),
  [
    ('glue_rte', {'idx': 3}, 'entailment', {'correct': True}),
    ('glue_rte', {'idx': 3}, 'entailment.', {'correct': False}),
    ('super_glue_wsc', {'label': 0}, 'Bob', {'correct': True}),
    ('super_glue_wsc', {'label': 1}, 'the entailment', {'correct': True}),
    ('super_glue_multirc', {'idx/question': 2}, 'x', {'correct': True}),
    (
      'super_glue_record',
      {'idx/passage': 1, 'idx/query': 2, 'answers': ['red fox', 'dog']},
      'the fox',
      {'score': pytest.approx((200 / 3 + 0) / 2)},
    ),
  ],
)
def test_verdict_of_one_example(name, example, prediction, verdict):
  target = 'entailment'  # MultiRC reads neither text as a class: both are -1
  example = {'targets_pretokenized': target, **example}
  targets, outputs = metrics.postprocess(task(name), [example], [prediction])
  found = metrics.example_verdict(task(name), targets[0], outputs[0])
  assert found == verdict


def test_verdict_of_a_target_with_parts_is_the_score_alone():
  made = fake_task(lambda t, p: {'half': 100 * (t[0]['a'] == p[0]), 'no': 0.0})
  assert metrics.example_verdict(made, {'a': 'x'}, 'x') == {'score': 50.0}
  without = fake_task()
  assert metrics.example_verdict(without, {'a': 'x'}, 'x') == {'correct': False}
  assert metrics.example_verdict(without, ['x'], ['x']) == {'correct': True}


@pytest.mark.parametrize(
  ('target', 'prediction', 'correct'),
  [
    (np.array([1, 2]), np.array([1, 2]), True),
    (np.array([1, 2]), np.array([1, 2, 2]), False),
    (np.array([1, 1]), 1, False),
    ((1, 'a'), (1, 'a'), True),
    ('a', 'a\x00', False),
  ],
)
def test_verdict_of_other_values(target, prediction, correct):
  found = metrics.example_verdict(fake_task(), target, prediction)
  assert found == {'correct': correct}


def test_verdict_of_equal_numbers_written_differently():
  target, prediction = metrics.postprocess(
    task('glue_stsb'), rows(['3.0']), ['3']
  )
  assert metrics.example_verdict(
    task('glue_stsb'), target[0], prediction[0]
  ) == {'correct': True}


@pytest.mark.parametrize(
  ('examples', 'expected'),
  [
    (rows(['<unk>', '<unk>'], label=[-1, -1]), False),
    (rows(['-1.0', '-1.0']), False),
    (rows(['Bob', 'Ann'], label=[-1, -1]), False),
    (rows([b'<unk>', b'<unk>']), False),
    (rows(['Bob', 'Ann'], label=[0, 1]), True),
    (rows(['-1.0', '0.4']), True),
  ],
)
def test_a_split_without_labels_is_seen(examples, expected):
  assert metrics.labelled(examples) is expected


def store(targets):
  ids = [[*text.encode(), 1] for text in targets]
  return tokens.memory_store('t', 'train', ids, ids, rows(targets))


def test_majority_target_is_the_most_frequent_and_the_first_of_equals():
  for texts, expected in (
    (['b', 'a', 'c', 'a', 'b', 'a'], 'a'),
    (['c', 'b', 'a', 'a', 'b'], 'b'),
    (['c', 'long', 'a', 'a', 'long'], 'long'),
    (['long', 'b', 'b', 'other', 'other', 'other', 'b'], 'b'),
  ):
    assert metrics.majority_target(store(texts)) == expected
  with pytest.raises(UserError, match='without rows'):
    metrics.majority_target(store([]))


def test_majority_baseline_by_hand():
  examples = rows(['equivalent'] * 3 + ['not_equivalent'] * 2)
  found = metrics.majority_baseline(task('glue_mrpc'), examples, 'equivalent')
  assert found == pytest.approx({'accuracy': 60.0, 'f1': 100 * 6 / 8})
  examples = rows(['unacceptable', 'acceptable', 'acceptable'])
  found = metrics.majority_baseline(task('glue_cola'), examples, 'acceptable')
  assert found == {'matthews_corrcoef': 0.0}


@pytest.mark.parametrize(
  'name', sorted({n for values in metrics.GROUPS.values() for n, _ in values})
)
def test_groups_name_the_metrics_that_the_tasks_give(name):
  targets = definitions.DEFINITIONS[name].labels or ('x', 'y')
  examples = rows(
    targets,
    label=[0] * len(targets),
    answers=[['x']] * len(targets),
    **dict.fromkeys(
      ('idx__question', 'idx__passage', 'idx__query'), range(len(targets))
    ),
  )
  found = metrics.task_metrics(task(name), examples, targets)
  expected = {
    metric
    for values in metrics.GROUPS.values()
    for task_name, metric in values
    if task_name == name
  }
  assert set(found) == expected
