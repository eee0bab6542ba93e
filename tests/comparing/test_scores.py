"""Means and deviations over seeds, against values computed by hand."""

import pytest

from hypergrid_jax.comparing import scores
from hypergrid_jax.comparing.scores import Line, Statistic
from hypergrid_jax.evaluation import results


def evaluation(tasks, step=9):
  return results.Results(
    step,
    {
      name: results.TaskResult('validation', 10, dict(values))
      for name, values in tasks.items()
    },
    max_decode_length=8,
  )


MRPC = {'f1': 80.0, 'accuracy': 70.0}
MNLI = {
  'glue_mnli_matched': {'accuracy': 60.0},
  'glue_mnli_mismatched': {'accuracy': 50.0},
}


def test_deviation_is_that_of_a_sample():
  # Mean 4; squares of differences 9 + 1 + 4 + 0, over 4 - 1.
  statistic = Statistic((1.0, 5.0, 6.0, 4.0))
  assert statistic.mean == 4.0
  assert statistic.deviation == pytest.approx((14 / 3) ** 0.5)
  assert str(statistic) == '4.00 ± 2.16'


def test_one_seed_has_no_deviation():
  statistic = Statistic((12.25,))
  assert statistic.deviation is None
  assert str(statistic) == '12.25'


def test_lines_are_metrics_groups_and_averages():
  found = scores.values(
    evaluation({'glue_mrpc': MRPC, **MNLI, 'own': {'a': 1.0, 'b': 4.0}})
  )
  assert found == {
    Line('glue_mrpc', 'f1'): 80.0,
    Line('glue_mrpc', 'accuracy'): 70.0,
    Line('glue/mrpc', 'mean'): 75.0,
    Line('glue_mnli_matched', 'accuracy'): 60.0,
    Line('glue_mnli_mismatched', 'accuracy'): 50.0,
    Line('glue/mnli', 'mean'): 55.0,
    Line('own', 'a'): 1.0,
    Line('own', 'b'): 4.0,
    Line('own', 'mean'): 2.5,
    Line('glue_partial', '2 of 8 groups', average=True): 65.0,
    Line('all', '3 groups', average=True): (75.0 + 55.0 + 2.5) / 3,
  }


def test_an_average_is_taken_within_a_seed_and_then_over_seeds():
  seeds = [
    evaluation({'glue_mrpc': MRPC, 'glue_cola': {'matthews_corrcoef': 15.0}}),
    evaluation(
      {
        'glue_mrpc': {'f1': 90.0, 'accuracy': 84.0},
        'glue_cola': {'matthews_corrcoef': 33.0},
      }
    ),
  ]
  found = scores.over_seeds(seeds)
  assert found[Line('glue/mrpc', 'mean')].values == (75.0, 87.0)
  average = found[Line('glue_partial', '2 of 8 groups', average=True)]
  assert average.values == (45.0, 60.0)
  assert average.mean == 52.5
  assert average.deviation == pytest.approx(15 / 2**0.5)


def test_a_line_that_one_seed_lacks_is_left_out():
  whole = evaluation({'glue_mrpc': MRPC, 'glue_rte': {'accuracy': 5.0}})
  part = evaluation({'glue_rte': {'accuracy': 7.0}})
  found = scores.over_seeds([whole, part])
  assert found == {Line('glue_rte', 'accuracy'): Statistic((5.0, 7.0))}
  assert scores.over_seeds([]) == {}


def test_single_task_results_become_one_in_the_order_of_the_mixture():
  parts = [
    evaluation({'glue_rte': {'accuracy': 5.0}}),
    evaluation(dict(reversed(MNLI.items()))),
  ]
  order = ['glue_mnli_matched', 'glue_mnli_mismatched', 'cola', 'glue_rte']
  found = scores.merged(parts, order)
  assert found.scores == {**MNLI, 'glue_rte': {'accuracy': 5.0}}
  assert list(found.scores) == [*MNLI, 'glue_rte']
  assert found.step == 9
