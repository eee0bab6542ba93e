import collections
import io
import pathlib

import numpy as np
import pytest
from rich.console import Console

from hypergrid_jax import task_pages
from hypergrid_jax.data import tokens
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions

INPUTS = [[7, 5, 1], [2, 9, 2, 4, 1]]
TARGETS = [[3, 1], [8, 2, 1]]
TEXTS = ['first text', 'second [red] text']


class Words:
  """A vocabulary of which id n is the word wn."""

  unk_id = 2

  def decode(self, ids):
    return ' '.join(f'w{i}' for i in ids)


@pytest.fixture
def opened(monkeypatch):
  """A store in memory, in place of one made by TensorFlow."""
  requests = []

  def open_store(task, split, **options):
    requests.append((task, split, options))
    examples = [
      {'inputs_pretokenized': text, 'targets_pretokenized': f'target {text}'}
      for text in TEXTS
    ]
    return tokens.memory_store(task, split, INPUTS, TARGETS, examples)

  monkeypatch.setattr(tokens, 'open_store', open_store)
  monkeypatch.setattr(
    task_pages.vocabularies, 'load_vocabulary', lambda spec: Words()
  )
  return requests


def shown(name='glue_rte', **options):
  console = Console(file=io.StringIO(), width=100)
  options = {'source': 'sample', 'vocabulary': 'sample', **options}
  task_pages.show(name, console=console, **options)
  return console.file.getvalue()


def rows_of(source):
  console = Console(file=io.StringIO(), width=200)
  console.print(task_pages.overview(source))
  cells = [
    [cell.strip() for cell in line.strip('│').split('│')]
    for line in console.file.getvalue().splitlines()
    if line.startswith('│')
  ]
  return {row[0]: row[1:] for row in cells}


class TestOverview:
  def test_every_task_has_a_row(self):
    assert set(rows_of('sample')) == set(definitions.DEFINITIONS)

  def test_what_the_source_has_is_marked(self, tmp_path):
    folder = tmp_path / 'glue' / 'cola'
    folder.mkdir(parents=True)
    (folder / 'validation.jsonl').touch()
    (tmp_path / 'super_glue' / 'wsc').mkdir(parents=True)
    (tmp_path / 'super_glue' / 'wsc' / 'train.tsv').touch()
    rows = rows_of(f'files:{tmp_path}')
    assert rows['glue_cola'] == [
      'glue/cola', 'validation', '-', '8,551', 'unacceptable, acceptable',
    ]  # fmt: skip
    assert rows['super_glue_wsc'] == [
      'super_glue/wsc', 'train', '?', '259', 'free text',
    ]  # fmt: skip
    assert rows['glue_ax'][:4] == ['-', '-', '-', '-']
    assert rows['glue_stsb'][4] == '0.0, 0.2, ... 5.0'

  def test_the_sample_s_training_rows_are_counted(self):
    from hypergrid_jax.tasks import sample

    rows = sample.rows('super_glue', 'cb', 'train')
    assert rows_of('sample')['super_glue_cb'][2] == f'{len(rows):,}'


class TestShow:
  def test_text_ids_and_unknown_tokens_are_shown(self, opened):
    text = shown()
    assert 'first text' in text
    assert 'target first text' in text
    assert '7 5 1' in text
    assert '2 9 2 4 1' in text
    assert '5 ids, 2 unknown' in text
    assert 'second [red] text' in text  # no markup

  def test_as_many_examples_as_asked_for(self, opened):
    assert 'second' not in shown(num=1)

  def test_lengths_and_rates_are_over_the_split(self, opened):
    text = shown(num=1)
    assert '2 examples' in text
    assert '4.0 tokens on average, 5 at most (cut at 512); 25.00% unk' in text
    assert '2.5 tokens on average, 3 at most (cut at 62); 20.00% unk' in text

  def test_targets_are_counted(self, opened, monkeypatch):
    targets = [[3, 1]] * 3 + [[4, 1]]
    store = tokens.memory_store('t', 's', targets, targets, [{}] * 4)
    table = task_pages._counts(store, Words(), (9, 9))
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    text = console.file.getvalue()
    assert '3 (75.0%)' in text
    assert text.index('w3 w1') < text.index('w4 w1')

  def test_many_targets_are_cut(self, opened):
    count = task_pages.MOST_TARGETS + 2
    targets = [[n, 1] for n in range(3, 3 + count)]
    store = tokens.memory_store('t', 's', targets, targets, [{}] * count)
    console = Console(file=io.StringIO(), width=100)
    console.print(task_pages._counts(store, Words(), (9, 9)))
    assert f'{count} different targets' in console.file.getvalue()

  @pytest.mark.parametrize(
    ('name', 'files', 'split'),
    [
      ('rte', ['train', 'validation', 'test'], 'validation'),
      ('rte', ['train', 'test'], 'train'),
      ('rte', ['test'], 'test'),
    ],
  )
  def test_the_evaluated_split_is_preferred(
    self, opened, tmp_path, name, files, split
  ):
    folder = tmp_path / 'glue' / name
    folder.mkdir(parents=True)
    for file in files:
      (folder / f'{file}.jsonl').touch()
    shown(f'glue_{name}', source=f'files:{tmp_path}')
    shown(f'glue_{name}', source=f'files:{tmp_path}', split='test')
    assert [request[1] for request in opened] == [split, 'test']

  def test_a_split_that_is_not_there_is_refused(self, opened, tmp_path):
    folder = tmp_path / 'glue' / 'rte'
    folder.mkdir(parents=True)
    (folder / 'test.jsonl').touch()
    source = f'files:{tmp_path}'
    with pytest.raises(UserError, match=r'no train of glue_rte. It has test'):
      shown(source=source, split='train')
    with pytest.raises(UserError, match="no split 'dev'"):
      shown(source=source, split='dev')
    assert not opened

  def test_tokens_are_kept_where_asked_and_nowhere_else(self, opened, tmp_path):
    shown(token_dir=str(tmp_path))
    shown()
    kept, made = (request[2]['directory'] for request in opened)
    assert kept == str(tmp_path)
    assert not pathlib.Path(made).exists()


@pytest.mark.slow
def test_a_task_of_the_sample_corpus_is_shown(tmp_path):
  text = shown('super_glue_copa', num=1, token_dir=str(tmp_path))
  assert 'copa choice1: ' in text
  assert '0.00% unknown' in text
  found = collections.Counter()
  store = tokens.open_store(
    'super_glue_copa',
    'validation',
    source='sample',
    vocabulary='sample',
    lengths=(512, 62),
    directory=tmp_path,
  )
  for index in range(store.num_examples):
    found[store.example(index)['targets_pretokenized']] += 1
  for label, count in found.items():
    assert f'{count:,} ({count / store.num_examples:.1%})' in text
    assert label in text
  assert int(np.sum(list(found.values()))) == store.num_examples
