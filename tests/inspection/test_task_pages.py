import io
import json
import pathlib

import pytest
from rich.console import Console

from hypergrid_jax.data import tokens
from hypergrid_jax.errors import UserError
from hypergrid_jax.inspection import task_pages
from hypergrid_jax.tasks import definitions, task_files
from tests.inspection.split_stores import Letters, store
from tests.tasks import own_files

ROWS = {
  'train': [('a {b}', 'entailment'), ('c', 'not_entailment'), ('c', 'x')],
  'validation': [
    ('first text', 'entailment'),
    ('second [red] text', 'not_entailment'),
    ('c', 'not_entailment'),
  ],
  'test': [('a {b}', '<unk>')],
}


@pytest.fixture
def opened(monkeypatch):
  """Stores in memory, in place of those made by TensorFlow."""
  calls = []

  def open_stores(requests, *, directory, progress):
    progress('mine', 7, 7)
    calls.append((requests, directory))
    return [store(r.split, ROWS[r.split], limit=9) for r in requests]

  monkeypatch.setattr(tokens, 'open_stores', open_stores)
  monkeypatch.setattr(
    task_pages.vocabularies, 'load_vocabulary', lambda spec: Letters()
  )
  return calls


@pytest.fixture
def source(tmp_path):
  """A directory with all splits of RTE."""
  folder = tmp_path / 'data' / 'glue' / 'rte'
  folder.mkdir(parents=True)
  for split, rows in ROWS.items():
    line = {'sentence1': 'a', 'sentence2': 'b', 'label': 1, 'idx': 0}
    (folder / f'{split}.jsonl').write_text(
      (json.dumps(line) + '\n') * len(rows)
    )
  return f'files:{tmp_path / "data"}'


def page(function, name='glue_rte', **options):
  console = Console(file=io.StringIO(), width=120)
  options = {
    'source': 'sample', 'vocabulary': 'letters', 'lengths': (9, 9), **options
  }  # fmt: skip
  function(name, console=console, **options)
  return console.file.getvalue()


def shown(name='glue_rte', **options):
  return page(task_pages.show, name, **options)


def checked(name='glue_rte', **options):
  return page(task_pages.check, name, **options)


def line_of(text, *words):
  """The first line that holds all words, with single spaces."""
  for line in text.splitlines():
    if all(word in line for word in words):
      return ' '.join(line.split())
  raise AssertionError(f'no line with {words} in:\n{text}')


def rows_of(source):
  columns = task_pages.overview(source).columns
  cells = zip(*(map(str, column.cells) for column in columns), strict=True)
  return {name: others for name, *others in cells}


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
      'glue/cola', 'validation', 'unacceptable, acceptable', '-', '8,551',
    ]  # fmt: skip
    assert rows['super_glue_wsc'] == [
      'super_glue/wsc', 'train', 'free text', '?', '259',
    ]  # fmt: skip
    assert [rows['glue_ax'][i] for i in (0, 1, 3, 4)] == ['-'] * 4
    assert rows['glue_stsb'][2] == '0.0, 0.2, ... 5.0'

  def test_the_sample_s_training_rows_are_counted(self):
    from hypergrid_jax.tasks import sample

    rows = sample.rows('super_glue', 'cb', 'train')
    assert rows_of('sample')['super_glue_cb'][3] == f'{len(rows):,}'

  def test_a_task_of_a_file_is_there_under_any_source(self, tmp_path):
    task_files.load([own_files.write_reviews(tmp_path)])
    assert rows_of('tfds')['reviews'] == [
      'reviews', 'train, validation', 'negative, positive', '?', '-',
    ]  # fmt: skip


class TestShow:
  def test_text_ids_and_unknown_tokens_are_shown(self, opened, source):
    text = shown(split='train', source=source)
    assert 'inputs a {b}' in line_of(text, 'a {b}')
    assert '6 ids, 2 unknown 97 32 2 98 2 1' in line_of(text, '6 ids')
    assert 'second [red]' in shown(source=source)  # no markup

  def test_as_many_examples_as_asked_for(self, opened, source):
    assert 'second' not in shown(num=1, source=source)

  def test_the_split_s_lengths_are_shown_and_no_other_s(self, opened, source):
    text = shown(source=source)
    # 9 and 9 tokens, both cut, and 2: a third of 20 is 6.7.
    assert line_of(text, 'validation', 'inputs', '3') == (
      'validation inputs 3 6.7 9 9 9 9 9 66.67% 0'
    )
    assert 'train inputs' not in ' '.join(text.split())

  def test_targets_are_counted(self, opened, source):
    text = shown(source=source)
    assert line_of(text, 'not_entailment', '%') == 'not_entailment 2 (66.7%)'

  def test_repeats_in_other_splits_are_shown_when_that_is_quick(
    self, opened, source, monkeypatch
  ):
    text = shown(source=source, num=1)
    assert line_of(text, 'validation, seen in train') == (
      'validation, seen in train 1 0 train.jsonl:2 and validation.jsonl:3'
    )
    monkeypatch.setattr(task_pages, '_QUICK', -1)
    text = shown(source=source, num=1)
    assert 'seen in' not in text
    assert [request.split for request in opened[-1][0]] == ['validation']

  def test_unknown_characters_are_shown_with_their_place(self, opened, source):
    text = shown(split='train', source=source)
    assert "'{' left curly bracket unknown 1 train.jsonl:1 a {b}" in line_of(
      text, "'{'"
    )

  @pytest.mark.parametrize(
    ('files', 'split'),
    [
      (['train', 'validation', 'test'], 'validation'),
      (['train', 'test'], 'train'),
      (['test'], 'test'),
    ],
  )
  def test_the_evaluated_split_is_preferred(
    self, opened, source, tmp_path, files, split
  ):
    for file in set(ROWS) - set(files):
      (tmp_path / f'data/glue/rte/{file}.jsonl').unlink()
    assert f'glue_rte · {split} · files:' in shown(source=source)
    assert 'glue_rte · test' in shown(source=source, split='test')

  def test_a_split_that_is_not_there_is_refused(self, opened, source, tmp_path):
    (tmp_path / 'data/glue/rte/train.jsonl').unlink()
    with pytest.raises(UserError, match=r'no train of glue_rte. It has valid'):
      shown(source=source, split='train')
    with pytest.raises(UserError, match="no split 'dev'"):
      shown(source=source, split='dev')
    assert not opened

  def test_tokens_are_kept_where_asked_and_nowhere_else(
    self, opened, source, tmp_path
  ):
    shown(token_dir=str(tmp_path), source=source)
    shown(source=source)
    kept, made = (directory for _, directory in opened)
    assert kept == str(tmp_path)
    assert not pathlib.Path(made).exists()


class TestCheck:
  def test_all_splits_are_read(self, opened, source):
    text = checked(source=source, num=1)
    ((requests, _),) = opened
    assert [r.split for r in requests] == ['train', 'validation', 'test']
    assert [(r.lengths, r.task_file) for r in requests] == [((9, 9), None)] * 3
    for name, rows in ROWS.items():
      assert f'{name}, {len(rows)} examples' in text
      assert rows[0][0] in text
    assert 'second' not in text
    assert line_of(text, 'test', 'inputs') == (
      'test inputs 1 6.0 6 6 6 6 9 0 33.33%'
    )

  def test_targets_stand_side_by_side(self, opened, source):
    text = checked(source=source)
    assert line_of(text, 'not_entailment', '%') == (
      'not_entailment 1 (33.3%) 2 (66.7%) 0 (0.0%)'
    )
    assert line_of(text, '<unk>', '%') == '<unk> 0 (0.0%) 0 (0.0%) 1 (100.0%)'

  def test_repeats_and_warnings_are_said(self, opened, source):
    text = checked(source=source)
    assert line_of(text, 'within train') == (
      'within train 0 1 train.jsonl:2 and train.jsonl:3'
    )
    assert line_of(text, 'test, seen in train') == (
      'test, seen in train 1 no targets train.jsonl:1 and test.jsonl:1'
    )
    warnings = [w for w in text.splitlines() if w.startswith('Warning: ')]
    assert any('left curly bracket' in warning for warning in warnings)
    last = text.splitlines()[-1]
    assert last == (
      f'glue_rte: every row can be used; {len(warnings)} warnings.'
    )

  def test_a_source_without_the_task_is_refused(self, opened, tmp_path):
    with pytest.raises(UserError, match='no split of glue_rte'):
      checked(source=f'files:{tmp_path}')

  def test_empty_fields_are_shown_by_line(self, opened, source, tmp_path):
    path = tmp_path / 'data/glue/rte/train.jsonl'
    path.write_text(path.read_text().replace('"b"', '" "', 2))
    text = checked(source=source)
    assert line_of(text, "train: field 'sentence2'", 'train.jsonl') == (
      "train: field 'sentence2' 2 train.jsonl:1"
    )


class TestResolve:
  def test_a_known_task(self):
    assert task_pages.resolve('glue_rte') == ('glue_rte',)

  def test_a_file(self, tmp_path):
    path = own_files.write_reviews(tmp_path)
    assert task_pages.resolve(path) == ('reviews',)
    assert task_pages.resolve('reviews') == ('reviews',)

  def test_tasks_that_cannot_be_used_come_last(self, monkeypatch):
    def load(names):
      definitions.refuse('bad', 'mine.py', 'Task bad: no inputs.')
      return ('glue_rte',)

    monkeypatch.setattr(task_files, 'load', load)
    assert task_pages.resolve('mine.py') == ('glue_rte', 'bad')
    with pytest.raises(UserError, match='Task bad: no inputs'):
      task_pages.check(
        'bad', source='sample', vocabulary='bytes', lengths=(9, 9),
        console=Console(file=io.StringIO()),
      )  # fmt: skip

  def test_a_mistyped_task_is_no_module(self):
    with pytest.raises(UserError, match=r"Did you mean 'glue_rte'"):
      task_pages.resolve('glue_rt')


def test_a_task_of_the_sample_corpus_is_checked():
  text = page(
    task_pages.check, 'super_glue_copa', vocabulary='sample', lengths=(64, 8)
  )
  assert 'copa choice1: ' in text
  assert line_of(text, 'train', 'inputs', '3,000')
  assert 'super_glue_copa: every row can be used' in text
