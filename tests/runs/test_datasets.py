"""Which tasks are trained and evaluated with the files that are there."""

import json

import pytest

from hypergrid_jax.data.config import DataConfig
from hypergrid_jax.errors import UserError
from hypergrid_jax.runs import datasets
from hypergrid_jax.tasks import vocabularies
from hypergrid_jax.tasks.catalogue import mixtures

MIXTURE = ('glue_rte', 'glue_mnli', 'glue_mnli_matched', 'super_glue_copa')


def write(directory, path, rows):
  file = directory / f'{path}.jsonl'
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def rte_rows(count):
  return [
    {'sentence1': f'It rains {i}.', 'sentence2': 'Wet.', 'label': 0, 'idx': i}
    for i in range(count)
  ]


@pytest.fixture
def files(tmp_path):
  """RTE whole, of MNLI only a validation set, of COPA nothing."""
  write(tmp_path, 'glue/rte/train', rte_rows(5))
  write(tmp_path, 'glue/rte/validation', rte_rows(3))
  premises = [
    {'premise': f'It rains {i}.', 'hypothesis': 'Dry.', 'label': 2, 'idx': i}
    for i in range(4)
  ]
  write(tmp_path, 'glue/mnli/validation_matched', premises)
  return tmp_path


def open_corpus(files, tmp_path, missing='skip', **options):
  data = DataConfig(
    mixture=MIXTURE,
    source=f'files:{files}',
    vocabulary='bytes',
    missing_train=missing,
  )
  return datasets.open_corpus(
    data,
    vocabularies.load_vocabulary('bytes'),
    token_dir=tmp_path / 'tokens',
    **options,
  )


def test_what_is_missing_is_skipped_and_said(files, tmp_path):
  opened = open_corpus(files, tmp_path)
  assert {n: s.num_examples for n, s in opened.train.items()} == {'glue_rte': 5}
  assert [
    (task.name, split, store.num_examples)
    for task, split, store in opened.evaluation
  ] == [
    ('glue_rte', 'validation', 3),
    ('glue_mnli_matched', 'validation_matched', 4),
  ]
  said = '\n'.join(opened.notes)
  assert 'glue_mnli has no complete training set' in said
  assert 'super_glue_copa has no complete training set' in said
  assert 'super_glue_copa has no validation split' in said
  assert len(opened.notes) == 3


def test_task_ids_do_not_depend_on_the_files(files, tmp_path):
  opened = open_corpus(files, tmp_path)
  assert opened.task_ids == {
    'glue_rte': 0,
    'glue_mnli': 1,
    'super_glue_copa': 2,
  }
  assert opened.task_names == ('glue_rte', 'glue_mnli', 'super_glue_copa')


def test_by_default_what_is_missing_is_an_error_before_any_work(
  files, tmp_path
):
  with pytest.raises(UserError, match='glue/mnli'):
    open_corpus(files, tmp_path, missing='error')
  assert not (tmp_path / 'tokens').exists()


def test_nothing_to_train_on(files, tmp_path):
  (files / 'glue/rte/train.jsonl').unlink()
  with pytest.raises(UserError, match='nothing to train on'):
    open_corpus(files, tmp_path)


def test_only_some_tasks_are_evaluated(files, tmp_path):
  opened = open_corpus(files, tmp_path, only=('glue_mnli_matched',))
  assert [task.name for task, _, _ in opened.evaluation] == [
    'glue_mnli_matched'
  ]
  with pytest.raises(UserError, match="Did you mean 'glue_rte'"):
    open_corpus(files, tmp_path, only=('glue_rtee',))


def test_mixtures_and_tasks_in_one_run():
  named = ('glue_mnli_matched', 'super_glue', 'super_glue_cb', 'glue_rte')
  found = datasets.task_names(named)
  assert found[0] == 'glue_mnli_matched'
  assert found[1:9] == mixtures.MIXTURES['super_glue'].tasks
  assert found[9:] == ('glue_rte',)


def test_nothing_to_evaluate_beside_training(files, tmp_path):
  for name in ('glue/rte/validation', 'glue/mnli/validation_matched'):
    (files / f'{name}.jsonl').unlink()
  with pytest.raises(UserError, match='has a validation split; there is noth'):
    open_corpus(files, tmp_path)
  assert open_corpus(files, tmp_path, train=False).evaluation == []
  opened = open_corpus(files, tmp_path, split='train')
  assert [split for _, split, _ in opened.evaluation] == ['train']


@pytest.mark.parametrize(
  ('mixing', 'note'),
  [
    ({}, 'Tasks are mixed at the registered rates of mine.'),
    (
      {'mixing': 'equal'},
      "data.mixing = 'equal' replaces the registered rates of mine.",
    ),
    (
      {'weights': {'glue_rte': 1}},
      'data.weights replaces the registered rates of mine.',
    ),
  ],
)
def test_whether_registered_rates_are_used_is_said(
  files, tmp_path, mixing, note
):
  def rates(_):
    return {'glue_rte': 3.0}

  mixtures.add(mixtures.MixtureDefinition('mine', ('glue_rte',), rates))
  data = DataConfig(
    mixture=('mine',),
    source=f'files:{files}',
    vocabulary='bytes',
    **mixing,
  )
  opened = datasets.open_corpus(
    data, vocabularies.load_vocabulary('bytes'), token_dir=tmp_path / 'tokens'
  )
  assert opened.rates is rates
  assert opened.notes == (note,)


def test_a_mixture_by_name():
  assert len(datasets.task_ids('glue_super_glue')) == 16
  with pytest.raises(UserError, match='super_glue'):
    datasets.task_ids('super_glu')
