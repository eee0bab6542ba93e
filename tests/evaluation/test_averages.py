import pytest

from hypergrid_jax.evaluation import metrics
from hypergrid_jax.tasks import definitions

# HyperFormer++ base, test columns: CoLA, SST-2, MRPC accuracy and F1, QQP the
# same, STS-B Pearson and Spearman, MNLI, QNLI, RTE (Karimi Mahabadi et al.
# 2021, table 1), with the published mean of the eleven.
HYPERFORMER_BASE = {
  'glue_cola': {'matthews_corrcoef': 63.73},
  'glue_sst2': {'accuracy': 94.03},
  'glue_mrpc': {'accuracy': 89.66, 'f1': 92.63},
  'glue_qqp': {'accuracy': 90.28, 'f1': 87.20},
  'glue_stsb': {'pearson_corrcoef': 90.00, 'spearman_corrcoef': 89.66},
  'glue_mnli_matched': {'accuracy': 85.74},
  'glue_mnli_mismatched': {'accuracy': 85.74},
  'glue_qnli': {'accuracy': 93.02},
  'glue_rte': {'accuracy': 75.36},
}
SUPER_GLUE = {
  'super_glue_boolq': {'accuracy': 71.0},
  'super_glue_cb': {'mean_3class_f1': 60.0, 'accuracy': 70.0},
  'super_glue_copa': {'accuracy': 53.0},
  'super_glue_multirc': {'f1': 66.0, 'exact_match': 20.0},
  'super_glue_record': {'f1': 58.0, 'em': 57.0},
  'super_glue_rte': {'accuracy': 61.0},
  'super_glue_wic': {'accuracy': 59.0},
  'super_glue_wsc': {'accuracy': 67.0},
}


def test_published_averages_of_hyperformer():
  found = metrics.averages(HYPERFORMER_BASE)
  assert round(found['avg11'], 2) == 86.48
  assert round(found['avg8'], 2) == 85.20
  assert found['glue'] == found['avg8']  # MNLI's two values are the same here
  assert list(found) == ['glue', 'avg11', 'avg8']


def test_hyperformers_averages_need_all_its_values_and_no_other():
  scores = dict(HYPERFORMER_BASE)
  del scores['glue_mnli_mismatched']
  found = metrics.averages(scores)
  assert list(found) == ['glue_partial', 'avg11', 'avg8']
  assert round(found['avg8'], 2) == 85.20
  assert len(metrics.groups_of_averages(scores)['avg8']) == 8
  del scores['glue_rte']
  assert list(metrics.averages(scores)) == ['glue_partial']


def test_averages_weigh_groups_alike():
  scores = {**HYPERFORMER_BASE, **SUPER_GLUE}
  groups = metrics.group_scores(scores)
  assert groups['super_glue/cb'] == 65.0
  assert groups['super_glue/multirc'] == 43.0
  assert groups['super_glue/record'] == 57.5
  found = metrics.averages(scores)
  super_glue = (71 + 65 + 53 + 43 + 57.5 + 61 + 59 + 67) / 8
  assert found['super_glue'] == pytest.approx(super_glue)
  assert found['glue_super_glue'] == pytest.approx(
    (found['glue'] + super_glue) / 2
  )


def test_mnli_counts_both_sets_and_only_matched_for_hyperformer():
  changed = {**HYPERFORMER_BASE, 'glue_mnli_mismatched': {'accuracy': 5.74}}
  before, after = (metrics.averages(s) for s in (HYPERFORMER_BASE, changed))
  assert after['glue'] == pytest.approx(before['glue'] - 80 / 2 / 8)
  assert after['avg11'] == before['avg11']
  assert after['avg8'] == before['avg8']


@pytest.mark.parametrize(
  ('task_name', 'metric'),
  [value for values in metrics.GROUPS.values() for value in values],
)
def test_an_average_without_one_value_is_only_partial(task_name, metric):
  scores = {**HYPERFORMER_BASE, **SUPER_GLUE}
  scores[task_name] = {
    k: v for k, v in scores[task_name].items() if k != metric
  }
  benchmark = 'super_glue' if task_name.startswith('super') else 'glue'
  found = metrics.averages(scores)
  assert benchmark not in found
  assert 'glue_super_glue' not in found
  assert {f'{benchmark}_partial', 'glue_super_glue_partial'} < set(found)
  groups = metrics.groups_of_averages(scores)
  assert list(groups) == list(found)
  assert len(groups[f'{benchmark}_partial']) == 7
  assert len(groups['glue_super_glue_partial']) == 15


def test_partial_average_is_over_the_groups_that_are_there():
  found = metrics.averages(
    {
      'glue_mrpc': {'f1': 80.0, 'accuracy': 60.0},
      'glue_rte': {'accuracy': 50.0},
      'glue_mnli_matched': {'accuracy': 99.0},
      'glue_wnli': {'accuracy': 1.0},
    }
  )
  assert found == {'glue_partial': 60.0}
  assert metrics.averages({'glue_wnli': {'accuracy': 1.0}}) == {}


def test_groups_are_those_of_the_task_definitions():
  ours = {
    name: group
    for group, values in metrics.GROUPS.items()
    for name, _ in values
  }
  theirs = {
    name: definition.group
    for name, definition in definitions.DEFINITIONS.items()
    if definition.group and definition.eval_splits
  }
  assert ours == theirs


def test_a_task_of_a_users_own_is_a_group():
  scores = {
    'reviews': {'accuracy': 40.0, 'f1': 60.0},
    'glue_rte': {'accuracy': 70.0},
    'glue_wnli': {'accuracy': 1.0},
    'unscored': {},
    'words': {'em': 90.0},
  }
  assert metrics.group_scores(scores) == {
    'glue/rte': 70.0,
    'reviews': 50.0,
    'words': 90.0,
  }
  assert metrics.averages(scores) == {'glue_partial': 70.0, 'all': 70.0}
  groups = metrics.groups_of_averages(scores)
  assert groups['glue_partial'] == ('glue/rte',)
  assert groups['all'] == ('glue/rte', 'reviews', 'words')
  del scores['glue_rte']
  assert metrics.averages(scores) == {'all': 70.0}


def test_own_tasks_leave_the_other_averages_as_they_are():
  scores = {**HYPERFORMER_BASE, **SUPER_GLUE}
  before = metrics.averages(scores)
  after = metrics.averages({**scores, 'reviews': {'accuracy': 0.0}})
  assert list(after) == [*before, 'all']
  assert {name: after[name] for name in before} == before
  assert after['all'] == pytest.approx(before['glue_super_glue'] * 16 / 17)


def test_tasks_outside_every_group_are_those_of_the_definitions():
  ours = {
    name
    for name, definition in definitions.DEFINITIONS.items()
    if definition.group is None or not definition.eval_splits
  }
  assert set(metrics.OUTSIDE) == ours
