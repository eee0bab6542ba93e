"""Postprocessing and metrics against the t5 package's, and by hand."""

import math
import warnings

import pytest

from hypergrid_jax.tasks import definitions
from tests.tasks.reference import examples, t5_task

SCORED = [task for task in definitions.DEFINITIONS.values() if task.eval_splits]
LENGTHS = {'inputs': 2000, 'targets': 50}

# By hand from tests.tasks.tiny_rows: the metrics of answering every row of the
# validation set with the first row's target. Labels are 0 1 0 1, for three
# classes 0 1 2 0.
CONSTANT = {
  'glue_cola': {'matthews_corrcoef': 0.0},
  'glue_sst2': {'accuracy': 50.0},
  'glue_mrpc': {'f1': 0.0, 'accuracy': 50.0},
  'glue_qqp': {'f1': 0.0, 'accuracy': 50.0},
  'glue_stsb': {'pearson_corrcoef': 0.0, 'spearman_corrcoef': 0.0},
  'glue_mnli_matched': {'accuracy': 50.0},
  'glue_mnli_mismatched': {'accuracy': 50.0},
  'glue_qnli': {'accuracy': 50.0},
  'glue_rte': {'accuracy': 50.0},
  'glue_wnli': {'accuracy': 50.0},
  'super_glue_boolq': {'accuracy': 50.0},
  # F1 of the first class: precision 1/2, recall 1; the others have none.
  'super_glue_cb': {'mean_3class_f1': 100 * (2 / 3) / 3, 'accuracy': 50.0},
  'super_glue_copa': {'accuracy': 50.0},
  # Each of the two questions has one answer of each class.
  'super_glue_multirc': {'f1': 0.0, 'exact_match': 0.0},
  # Of four queries, the first and the last have the answer 'Ann'.
  'super_glue_record': {'em': 50.0, 'f1': 50.0},
  'super_glue_rte': {'accuracy': 50.0},
  'super_glue_wic': {'accuracy': 50.0},
  # 'Ann' is the noun of the first row alone, which has label 0; in the others
  # "not the referent" is right for the one row with label 0.
  'super_glue_wsc': {'accuracy': 25.0},
}


def _scores(task, rows, predictions):
  targets = [
    task.postprocess_fn(
      row['targets_pretokenized'].decode(), example=row, is_target=True
    )
    for row in rows
  ]
  predictions = [
    task.postprocess_fn(text, example=row, is_target=False)
    for row, text in zip(rows, predictions, strict=True)
  ]
  scores = {}
  for metric in task.metric_fns:
    scores.update(metric(targets, predictions))
  return {name: float(getattr(s, 'value', s)) for name, s in scores.items()}


@pytest.mark.parametrize('task', SCORED, ids=lambda task: task.name)
def test_equal_to_t5_and_to_a_count_by_hand(task, files_source):
  from hypergrid_jax.tasks.seqio import registry

  ours = registry.seqio_task(task.name, source=files_source, vocabulary='bytes')
  split = task.eval_splits[0]
  theirs = t5_task(task, split)
  rows = examples(ours, split, LENGTHS)
  targets = [row['targets_pretokenized'].decode() for row in rows]
  cases = {
    'perfect': targets,
    'reversed': targets[::-1],
    'one wrong': ['nothing', *targets[1:]],
    'invalid': ['nothing at all'] * len(targets),
    'case': [text.upper() for text in targets],
    'constant': [targets[0]] * len(targets),
  }
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for case, predictions in cases.items():
      found = _scores(ours, rows, predictions)
      wanted = _scores(theirs, rows, predictions)
      wanted = {
        name: 0.0 if math.isnan(value) else value
        for name, value in wanted.items()
      }
      assert found == pytest.approx(wanted, nan_ok=False), case
    assert _scores(ours, rows, cases['constant']) == pytest.approx(
      CONSTANT[task.name]
    )
    perfect = _scores(ours, rows, targets)
  # Half of WSC's nouns are not the referent, yet are the perfect text.
  best = 50.0 if task.config == 'wsc' else 100.0
  assert perfect == pytest.approx(dict.fromkeys(perfect, best))


class TestCorrelationOfStsb:
  """Correlations without a value are 0.0, all others are T5's."""

  @pytest.fixture
  def score(self, files_source):
    from hypergrid_jax.tasks.seqio import registry

    task = registry.seqio_task(
      'glue_stsb', source=files_source, vocabulary='bytes'
    )

    def score(targets, texts):
      predictions = [task.postprocess_fn(text) for text in texts]
      scores = {}
      for metric in task.metric_fns:
        scores.update(metric(targets, predictions))
      return scores

    return score

  @pytest.mark.parametrize(
    ('targets', 'texts'),
    [
      ([3.0], ['3.0']),
      ([3.0], ['nan']),
      ([1.0, 2.0, 4.0], ['2.0', '2.0', '2.0']),
      ([2.0, 2.0, 2.0], ['1.0', '2.0', '4.0']),
      ([1.0, 2.0, 4.0], ['a', 'b', 'c']),
      ([1.0, 2.0, 4.0], ['nan', 'inf', '-inf']),
      ([], []),
    ],
  )
  def test_undefined_is_zero(self, score, targets, texts):
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      assert score(targets, texts) == {
        'pearson_corrcoef': 0.0,
        'spearman_corrcoef': 0.0,
      }

  def test_what_is_no_number_counts_as_minus_one(self, score):
    targets = [0.0, 1.0, 5.0]
    assert score(targets, ['nan', '2.0', '4.0']) == score(
      targets, ['-1.0', '2.0', '4.0']
    )

  def test_by_hand(self, score):
    # Deviations (-1, 0, 1) and (-1, 1, 0): both correlations are 1/2.
    assert score([1.0, 2.0, 3.0], ['1.0', '3.0', '2.0']) == {
      'pearson_corrcoef': pytest.approx(50.0),
      'spearman_corrcoef': pytest.approx(50.0),
    }
