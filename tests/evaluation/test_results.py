import json

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.evaluation import results


def make(**tasks):
  return results.Results(
    step=30, tasks=tasks, max_decode_length=16, scoring='greedy'
  )


MRPC = results.TaskResult(
  split='validation',
  count=408,
  metrics={'f1': 90.0, 'accuracy': 85.0},
  majority={'f1': 81.0, 'accuracy': 68.0},
  limit=None,
  invalid_rate=0.25,
)
RTE = results.TaskResult('validation', 277, {'accuracy': 61.5})
AX = results.TaskResult('test', 1104, {}, limit=5)


def test_baseline_of_an_average_is_the_average_of_the_baselines():
  assert make(glue_mrpc=MRPC, glue_ax=AX).majority_averages == {
    'glue_partial': 74.5
  }
  # It needs the baselines of the same groups.
  assert make(glue_mrpc=MRPC, glue_rte=RTE).majority_averages == {}


def test_file_gives_back_the_results(tmp_path):
  before = make(glue_mrpc=MRPC, glue_ax=AX, glue_rte=RTE)
  path = tmp_path / 'eval' / '30.json'
  before.write(path)
  assert results.read_results(path) == before
  content = json.loads(path.read_text())
  assert content['averages'] == {'glue_partial': 74.5}
  assert content['groups'] == {'glue/mrpc': 87.5, 'glue/rte': 61.5}
  assert content['groups_per_average'] == {'glue_partial': 2}


def test_nan_is_never_written(tmp_path):
  broken = make(glue_rte=results.TaskResult('test', 3, {'f1': float('nan')}))
  with pytest.raises(ValueError, match='JSON compliant'):
    broken.write(tmp_path / 'eval' / '30.json')
  assert not list((tmp_path).rglob('*.json*'))


def test_missing_file_is_the_users_mistake(tmp_path):
  with pytest.raises(UserError, match=r'30\.json: cannot be read'):
    results.read_results(tmp_path / '30.json')


@pytest.mark.parametrize(
  'change',
  [
    lambda content: content.pop('step'),
    lambda content: content.update(tasks=[]),
    lambda content: content['tasks']['glue_rte'].pop('count'),
    lambda content: content['tasks']['glue_rte'].update(rank=3),
  ],
)
def test_other_content_is_the_users_mistake(tmp_path, change):
  path = tmp_path / '30.json'
  make(glue_rte=RTE).write(path)
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=r'30\.json: not the result'):
    results.read_results(path)


def test_cut_file_is_the_users_mistake(tmp_path):
  path = tmp_path / '30.json'
  make(glue_rte=RTE).write(path)
  path.write_text(path.read_text()[:40])
  with pytest.raises(UserError, match=r'30\.json: not the result'):
    results.read_results(path)
