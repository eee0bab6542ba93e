import dataclasses
import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5.data import glue_utils, postprocessors
from t5.evaluation import metrics as t5_metrics

from hypergrid_jax.errors import UserError
from hypergrid_jax.evaluation import (
  evaluate,
  metrics,
  results,
)
from hypergrid_jax.model import decoding
from hypergrid_jax.tasks import vocabularies

VOCABULARY = vocabularies.ByteVocabulary()
TASK_IDS = {'glue_mnli': 4, 'super_glue_record': 2, 'glue_stsb': 7}
MNLI = ('entailment', 'neutral', 'contradiction')


@dataclasses.dataclass(frozen=True)
class Definition:
  name: str
  trained_as: str
  labels: tuple[str, ...] | None


class Store:
  """Rows whose inputs are what the fake decoders below are to say."""

  task, split = 'mine', 'validation'

  def __init__(self, says, targets, **fields):
    self.num_examples = len(says)
    self._rows = [
      {
        'inputs_pretokenized': text,
        'targets_pretokenized': target,
        **{k.replace('__', '/'): v[i] for k, v in fields.items()},
      }
      for i, (text, target) in enumerate(zip(says, targets, strict=True))
    ]
    self.input_lengths = self._lengths('inputs')
    self.target_lengths = self._lengths('targets')

  def _lengths(self, side):
    texts = [row[f'{side}_pretokenized'] for row in self._rows]
    return np.array([len(text) + 1 for text in texts], np.int32)

  def _ids(self, text):
    return np.array([*VOCABULARY.encode(text), VOCABULARY.eos_id], np.int32)

  def inputs(self, index):
    return self._ids(self._rows[index]['inputs_pretokenized'])

  def targets(self, index):
    return self._ids(self._rows[index]['targets_pretokenized'])

  def example(self, index):
    return self._rows[index]


MATCHED = (
  Definition('glue_mnli_matched', 'glue_mnli', MNLI),
  'validation_matched',
  Store(
    ['neutral', 'entailment', 'none of these', 'contradiction', 'neutral'],
    ['neutral', 'contradiction', 'entailment', 'contradiction', 'entailment'],
    idx=[30, 31, 32, 33, 34],
  ),
)
RECORD = (
  Definition('super_glue_record', 'super_glue_record', None),
  'validation',
  Store(
    ['the Nile', 'the Nile', 'Rome'],
    ['River Nile', 'Nile', 'Paris'],
    idx__passage=[8, 8, 9],
    idx__query=[1, 1, 1],
    answers=[['River Nile', 'Nile']] * 2 + [['Paris', 'Paris city']],
  ),
)
STSB = (
  Definition(
    'glue_stsb', 'glue_stsb', tuple(f'{i / 5:.1f}' for i in range(26))
  ),
  'validation',
  Store(['2.0', '2.0'], ['1.0', '4.0']),
)


def seqio_task(name):
  config = name.removeprefix('super_').removeprefix('glue_').split('_')[0]
  if config == 'record':
    metric_fns = glue_utils.get_super_glue_metric(config)
  else:
    metric_fns = glue_utils.get_glue_metric(config)
  builder = types.SimpleNamespace(name=config, label_classes=list(MNLI))
  return types.SimpleNamespace(
    name=name,
    metric_fns=metric_fns,
    predict_metric_fns=metric_fns,
    postprocess_fn=glue_utils.get_glue_postprocess_fn(builder),
  )


class Model:
  """Stands for an architecture; the fake decoders do not look at it."""

  def cast_kernels(self, params):
    return params


def copy(model, params, tokens, task_ids, *, max_decode_length):
  del model, params, task_ids
  return tokens[:, :max_decode_length]


def read(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def copying(monkeypatch):
  monkeypatch.setattr(decoding, 'greedy_decode', copy)


def run(directory, *stores, step=12, majority_targets=None, **options):
  progress = options.pop('progress', None)
  ids = options.pop('task_ids', TASK_IDS)
  return evaluate.evaluate(
    Model(),
    np.int32(0),
    stores=stores,
    vocabulary=VOCABULARY,
    task_ids=ids,
    seqio_task=options.pop('seqio_task', seqio_task),
    step=step,
    directory=directory,
    config=evaluate.EvaluateConfig(
      **{'batch_size': 2, 'length_buckets': (8, 16), **options}
    ),
    majority_targets=majority_targets,
    progress=progress,
  )


def test_metrics_by_hand_and_in_the_files(copying, tmp_path):
  found = run(
    tmp_path, MATCHED, RECORD, majority_targets={'glue_mnli': 'entailment'}
  )
  mnli = found.tasks['glue_mnli_matched']
  assert mnli == results.TaskResult(
    split='validation_matched',
    count=5,
    metrics={'accuracy': pytest.approx(40.0)},
    majority={'accuracy': pytest.approx(40.0)},
    limit=None,
    invalid_rate=pytest.approx(0.2),
  )
  record = found.tasks['super_glue_record']
  # Two queries: the first equals 'Nile' without its article, the second fails.
  assert record.metrics == {'em': 50.0, 'f1': 50.0}
  assert (record.majority, record.invalid_rate) == (None, None)

  content = json.loads((tmp_path / 'eval' / '12.json').read_text())
  assert content['step'] == 12
  assert content['tasks']['glue_mnli_matched']['metrics'] == mnli.metrics
  assert content['tasks']['super_glue_record']['count'] == 3
  assert content['averages'] == {'super_glue_partial': 50.0}
  assert content['groups'] == {'super_glue/record': 50.0}
  assert content['groups_per_average'] == {'super_glue_partial': 1}
  assert results.read_results(tmp_path / 'eval' / '12.json') == found


def test_metrics_equal_direct_calls_of_t5(copying, tmp_path):
  found = run(tmp_path, MATCHED, RECORD)
  rows = [RECORD[2].example(i) for i in range(3)]
  direct = t5_metrics.deduplicate_metric(t5_metrics.squad)(
    [postprocessors.record('', example=r, is_target=True) for r in rows],
    [{'value': r['inputs_pretokenized']} for r in rows],
  )
  assert found.tasks['super_glue_record'].metrics == direct
  rows = [MATCHED[2].example(i) for i in range(5)]
  assert found.tasks['glue_mnli_matched'].metrics == t5_metrics.accuracy(
    [r['targets_pretokenized'] for r in rows],
    [r['inputs_pretokenized'] for r in rows],
  )


def test_predictions_are_in_input_order_with_ids_and_verdicts(
  copying, tmp_path
):
  run(tmp_path, MATCHED, RECORD, step=7)
  folder = tmp_path / 'predictions' / '7'
  rows = read(folder / 'glue_mnli_matched.jsonl')
  assert [row['id'] for row in rows] == [30, 31, 32, 33, 34]
  assert rows[1] == {
    'id': 31,
    'inputs': 'entailment',
    'target': 'contradiction',
    'prediction': 'entailment',
    'correct': False,
  }
  assert [row['correct'] for row in rows] == [True, False, False, True, False]
  rows = read(folder / 'super_glue_record.jsonl')
  assert [row['id'] for row in rows] == [
    {'passage': passage, 'query': 1} for passage in (8, 8, 9)
  ]
  assert [row['score'] for row in rows] == [100.0, 100.0, 0.0]


def test_task_goes_by_the_id_it_was_trained_under(monkeypatch, tmp_path):
  seen = set()

  def record_ids(model, params, tokens, task_ids, *, max_decode_length):
    def note(ids):
      seen.update(ids.tolist())

    jax.debug.callback(note, task_ids)
    return tokens

  monkeypatch.setattr(decoding, 'greedy_decode', record_ids)
  run(tmp_path, MATCHED)
  assert seen == {4}


@pytest.mark.parametrize('limit', [1, 3, 4, 50])
def test_limit_takes_the_first_examples(copying, tmp_path, limit):
  found = run(tmp_path, MATCHED, limit=limit).tasks['glue_mnli_matched']
  assert (found.limit, found.count) == (limit, min(limit, 5))
  right = [True, False, False, True, False][:limit]
  expected = 100 * sum(right) / len(right)
  assert found.metrics['accuracy'] == pytest.approx(expected)


def test_decoding_length_is_the_longest_target_and_eight_more(
  monkeypatch, tmp_path
):
  lengths = set()

  def noting(model, params, tokens, task_ids, *, max_decode_length):
    lengths.add(max_decode_length)
    return tokens

  monkeypatch.setattr(decoding, 'greedy_decode', noting)
  # 'contradiction' has 13 bytes and its end.
  found = run(tmp_path, RECORD, MATCHED)
  assert found.max_decode_length == 22
  assert run(tmp_path, MATCHED, max_decode_length=6).max_decode_length == 6
  assert lengths == {22, 6}


def test_constant_predictions_give_finite_correlations(monkeypatch, tmp_path):
  monkeypatch.setattr(decoding, 'greedy_decode', copy)
  found = run(tmp_path, STSB)
  assert found.tasks['glue_stsb'].metrics == {
    'pearson_corrcoef': 0.0,
    'spearman_corrcoef': 0.0,
  }
  assert 'NaN' not in (tmp_path / 'eval' / '12.json').read_text()


def test_rank_leaves_no_prediction_invalid(monkeypatch, tmp_path):
  monkeypatch.setattr(decoding, 'greedy_decode', copy)

  def second(model, params, tokens, task_ids, labels):
    del model, params, task_ids
    scores = jnp.zeros((tokens.shape[0], labels.shape[0]))
    return scores.at[:, 1].set(1.0)

  monkeypatch.setattr(decoding, 'label_scores', second)
  found = run(tmp_path, MATCHED, RECORD, scoring='rank')
  assert found.scoring == 'rank'
  mnli = found.tasks['glue_mnli_matched']
  assert mnli.invalid_rate == 0.0
  assert mnli.metrics['accuracy'] == pytest.approx(20.0)  # always 'neutral'
  # Free text has no labels to choose from and is decoded.
  assert found.tasks['super_glue_record'].metrics['em'] == 50.0


def test_split_without_labels_is_predicted_and_not_scored(copying, tmp_path):
  definition, _, _ = MATCHED
  store = Store(['neutral', 'none'], ['<unk>', '<unk>'], idx=[1, 0])
  found = run(
    tmp_path,
    (definition, 'test', store),
    majority_targets={'glue_mnli': 'neutral'},
  )
  result = found.tasks['glue_mnli_matched']
  assert (result.metrics, result.majority) == ({}, None)
  assert result.invalid_rate == 0.5
  assert read(tmp_path / 'predictions' / '12' / 'glue_mnli_matched.jsonl')[
    1
  ] == {'id': 0, 'inputs': 'none', 'target': None, 'prediction': 'none'}


def test_progress_runs_over_all_tasks(copying, tmp_path):
  calls = []
  run(tmp_path, RECORD, MATCHED, progress=lambda *call: calls.append(call))
  assert calls[0][0] == 'super_glue_record'
  assert calls[-1] == ('glue_mnli_matched', 8, 8)
  done = [count for _, count, _ in calls]
  assert all(a < b for a, b in itertools.pairwise(done))


def test_nothing_is_decoded_when_a_task_cannot_be_scored(monkeypatch, tmp_path):
  def fail(*args, **kwargs):
    raise AssertionError('decoded')

  monkeypatch.setattr(decoding, 'greedy_decode', fail)
  definition, split, _ = RECORD
  with pytest.raises(UserError, match='record/validation: the split'):
    run(tmp_path, MATCHED, (definition, split, Store([], [])))
  with pytest.raises(UserError, match=r"goes by glue_mnli\).*'glue_mnl1'"):
    run(tmp_path, MATCHED, task_ids={'glue_mnl1': 0})
  with pytest.raises(ValueError, match='every task once'):
    run(tmp_path, MATCHED, MATCHED)
  with pytest.raises(ValueError, match='every task once'):
    run(tmp_path)
  assert not list(tmp_path.iterdir())


def test_failed_metric_leaves_no_result_and_the_old_one_untouched(
  copying, tmp_path
):
  run(tmp_path, MATCHED)
  before = (tmp_path / 'eval' / '12.json').read_bytes()

  def broken(name):
    task = seqio_task(name)
    twice = (*task.metric_fns, *task.metric_fns)
    return types.SimpleNamespace(
      **{**vars(task), 'metric_fns': twice, 'predict_metric_fns': twice}
    )

  with pytest.raises(UserError, match="give 'accuracy'"):
    run(tmp_path, MATCHED, seqio_task=broken)
  assert (tmp_path / 'eval' / '12.json').read_bytes() == before
  assert [p.name for p in (tmp_path / 'eval').iterdir()] == ['12.json']


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('batch_size', 0, 'batch_size is 0; expected a whole'),
    ('batch_size', None, 'batch_size is None; expected a whole'),
    ('batch_size', 2.0, r'batch_size is 2\.0; expected a whole'),
    ('limit', 0, 'limit is 0; expected a whole'),
    ('limit', True, 'limit is True; expected a whole'),
    ('max_decode_length', -1, 'max_decode_length is -1; expected'),
    ('split', 'valdation', "'valdation'; .* Did you mean 'validation'"),
    ('scoring', 'beam', "scoring is 'beam'; expected one of 'greedy', 'rank'"),
    ('length_buckets', (), 'expected increasing'),
    ('length_buckets', (8, 8), 'expected increasing'),
    ('length_buckets', (16, 8), 'expected increasing'),
    ('length_buckets', (0, 8), 'expected increasing'),
    ('length_buckets', 64, 'expected increasing'),
    ('length_buckets', ('8',), 'expected increasing'),
  ],
)
def test_value_that_cannot_be_used_is_named(field, value, message):
  with pytest.raises(UserError, match=rf'evaluate\.(?=.*{field}).*{message}'):
    evaluate.EvaluateConfig(**{field: value})


def test_length_buckets_may_be_a_list():
  config = evaluate.EvaluateConfig(length_buckets=[8, 16])
  assert config.length_buckets == (8, 16)


def test_perfect_copies_score_100_everywhere(copying, tmp_path):
  def perfect(entry):
    definition, split, store = entry
    texts = [row['targets_pretokenized'] for row in store._rows]
    fields = {
      key.replace('/', '__'): [row[key] for row in store._rows]
      for key in store._rows[0]
      if not key.endswith('_pretokenized')
    }
    return definition, split, Store(texts, texts, **fields)

  found = run(tmp_path, *map(perfect, (MATCHED, RECORD, STSB)))
  values = [v for each in found.scores.values() for v in each.values()]
  assert values == pytest.approx([100.0] * 5)
  assert metrics.averages(found.scores) == found.averages
