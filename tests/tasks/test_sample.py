"""The sample corpus: real schemas, the same rows everywhere, honest splits."""

import collections
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hypergrid_jax import errors
from hypergrid_jax.tasks import sample

ALL = [
  (benchmark, config)
  for benchmark in ('glue', 'super_glue')
  for config in sample.configs(benchmark)
]
SIXTEEN = {
  'glue': ('cola', 'sst2', 'mrpc', 'qqp', 'stsb', 'mnli', 'qnli', 'rte'),
  'super_glue': (
    'boolq',
    'cb',
    'copa',
    'multirc',
    'record',
    'rte',
    'wic',
    'wsc',
  ),
}
# Where a split's text may not be shared: the text that is read, not the
# question about it.
CONTEXT = {
  'multirc': ('paragraph',),
  'record': ('passage',),
  'wsc': ('text',),
  'wnli': ('sentence1',),
}

GOLDEN = 'b848e310cc3f88ec138c8531cdcab1be9fd41da3e9c1970d92ff3d3b421e7d1e'


def _texts(row, config):
  fields = CONTEXT.get(config) or sorted(
    name for name, value in row.items() if isinstance(value, str)
  )
  return tuple(row[field] for field in fields)


def _digest():
  rows = {
    f'{b}/{c}/{s}': sample.rows(b, c, s)
    for b, c in ALL
    for s in sample.splits(b, c)
  }
  return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _conforms(feature, value):
  """Whether a value is what a TFDS feature holds; builds on names alone."""
  kind = type(feature).__name__
  if kind == 'FeaturesDict':
    return set(feature) == set(value) and all(
      _conforms(feature[name], value[name]) for name in feature
    )
  if kind == 'Sequence':
    return isinstance(value, list) and all(
      _conforms(feature.feature, item) for item in value
    )
  if kind == 'Text':
    return isinstance(value, str)
  if kind == 'ClassLabel':
    return type(value) is int and -1 <= value < feature.num_classes
  python = float if np.issubdtype(feature.np_dtype, np.floating) else int
  return type(value) is python


@pytest.mark.parametrize(('benchmark', 'config'), ALL)
def test_rows_have_the_fields_and_types_of_the_real_data(
  benchmark, config, tmp_path
):
  import tensorflow_datasets as tfds

  name = 'wsc.fixed' if config == 'wsc' else config
  builder = tfds.builder(f'{benchmark}/{name}', data_dir=str(tmp_path))
  features = builder.info.features
  for split in sample.splits(benchmark, config):
    rows = sample.rows(benchmark, config, split)
    bad = [row for row in rows if not _conforms(features, row)]
    assert not bad, f'{split}: {bad[0]} is not {features}'


def test_there_are_the_sixteen_tasks_with_the_real_splits():
  for benchmark, names in SIXTEEN.items():
    assert set(names) <= set(sample.configs(benchmark))
    for config in names:
      expected = ('train', 'validation', 'test')
      if config == 'mnli':
        expected = (
          'train',
          'validation_matched',
          'validation_mismatched',
          'test_matched',
          'test_mismatched',
        )
      assert sample.splits(benchmark, config) == expected
  for benchmark, config in (
    ('glue', 'ax'),
    ('super_glue', 'axb'),
    ('super_glue', 'axg'),
  ):
    assert sample.splits(benchmark, config) == ('test',)


def test_every_row_is_the_same_everywhere():
  assert _digest() == GOLDEN, 'Content changed: raise VERSION, renew GOLDEN.'


def test_rows_do_not_depend_on_the_hash_seed_or_the_order_of_calls():
  program = (
    'import json, sys\n'
    'from hypergrid_jax.tasks import sample\n'
    "print(json.dumps([sample.rows('super_glue', c, 'validation')"
    " for c in ('wsc', 'record', 'wic')]))"
  )
  outputs = {
    subprocess.run(
      [sys.executable, '-c', program],
      env={**os.environ, 'PYTHONHASHSEED': seed},
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for seed in ('1', '2')
  }
  wic_first = [
    sample.rows('super_glue', c, 'validation') for c in ('wic', 'record', 'wsc')
  ]
  assert [json.loads(text) for text in outputs] == [wic_first[::-1]]


def test_a_caller_cannot_change_the_corpus():
  rows = sample.rows('super_glue', 'record', 'validation')
  rows[0]['entities'].append('Nobody')
  rows[0]['idx']['query'] = -5
  again = sample.rows('super_glue', 'record', 'validation')
  assert 'Nobody' not in again[0]['entities']
  assert again[0]['idx'] == {'passage': 0, 'query': 0}


@pytest.mark.parametrize(('benchmark', 'config'), ALL)
def test_no_text_is_in_two_splits_or_twice_in_one(benchmark, config):
  home = {}
  for split in sample.splits(benchmark, config):
    for n, row in enumerate(sample.rows(benchmark, config, split)):
      # The candidate answers to one question share their paragraph.
      group = row['idx']['question'] if config == 'multirc' else n
      place = home.setdefault(_texts(row, config), (split, group))
      assert place == (split, group), f'{row} is in {place} too'


@pytest.mark.parametrize(
  ('diagnostic', 'trained'),
  [
    (('glue', 'ax'), ('glue', 'mnli')),
    (('super_glue', 'axb'), ('glue', 'rte')),
    (('super_glue', 'axg'), ('super_glue', 'rte')),
  ],
)
def test_a_diagnostic_has_no_text_of_what_it_diagnoses(diagnostic, trained):
  def texts(benchmark, config):
    return {
      _texts(row, config)
      for split in sample.splits(benchmark, config)
      for row in sample.rows(benchmark, config, split)
    }

  assert not texts(*diagnostic) & texts(*trained)


def test_both_rte_are_one_data_set():
  for split in sample.splits('glue', 'rte'):
    glue = sample.rows('glue', 'rte', split)
    super_glue = sample.rows('super_glue', 'rte', split)
    assert [(r['sentence1'], r['sentence2'], r['label']) for r in glue] == [
      (r['premise'], r['hypothesis'], r['label']) for r in super_glue
    ]


@pytest.mark.parametrize(('benchmark', 'config'), ALL)
def test_test_labels_are_withheld_but_for_the_diagnostics(benchmark, config):
  for split in sample.splits(benchmark, config):
    for row in sample.rows(benchmark, config, split):
      hidden = split.startswith('test') and config not in ('axb', 'axg')
      if config == 'record':
        assert bool(row['answers']) != hidden
      elif config == 'stsb':
        assert (row['label'] == -1.0) == hidden
        assert hidden or 0 <= row['label'] <= 5
      else:
        assert (row['label'] == -1) == hidden


@pytest.mark.parametrize(('benchmark', 'config'), ALL)
def test_no_label_is_much_more_frequent_than_the_others(benchmark, config):
  for split in sample.splits(benchmark, config):
    if config == 'record' or (split.startswith('test') and config != 'axb'):
      continue
    labels = [row['label'] for row in sample.rows(benchmark, config, split)]
    (_, most), *_ = collections.Counter(labels).most_common()
    assert most <= 0.62 * len(labels), split


@pytest.mark.parametrize(('benchmark', 'config'), ALL)
def test_rows_are_numbered_as_the_metrics_need_it(benchmark, config):
  for split in sample.splits(benchmark, config):
    rows = sample.rows(benchmark, config, split)
    if config == 'multirc':
      # The metric groups by question alone: its number is the split's own.
      assert [r['idx']['answer'] for r in rows] == list(range(len(rows)))
      questions = {}
      for row in rows:
        text = row['question'], row['paragraph']
        number = row['idx']['question']
        assert questions.setdefault(number, text) == text
      assert len(set(questions.values())) == len(questions)
    elif config == 'record':
      keys = {(r['idx']['passage'], r['idx']['query']) for r in rows}
      assert len(keys) == len(rows)
    else:
      assert [r['idx'] for r in rows] == list(range(len(rows)))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('superglue', 'wsc', 'train'), "'super_glue'"),
    (('super_glue', 'multirk', 'train'), "'multirc'"),
    (('glue', 'mnli', 'validation'), "'validation_matched'"),
  ],
)
def test_an_unknown_name_is_told_with_the_nearest_known(arguments, message):
  with pytest.raises(errors.UserError, match=message):
    sample.rows(*arguments)
