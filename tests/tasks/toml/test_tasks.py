"""TOML files that describe a task, and those that do not."""

import re

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, task_files
from hypergrid_jax.tasks.toml import targets, tasks
from tests.tasks.own_files import TOML, write_reviews


def read(folder, toml=TOML):
  return tasks.read(write_reviews(folder, toml))


def message(folder, toml):
  """The error, with the folder's name taken out."""
  with pytest.raises(UserError) as error:
    read(folder, toml)
  return str(error.value).replace(f'{folder}/', '')


def test_a_small_file_is_a_whole_task(tmp_path):
  task = read(tmp_path)
  assert task.name == task.trained_as == task.group == 'reviews'
  assert task.splits == ('train', 'validation')
  assert task.eval_splits == ('validation',)
  assert task.test_split is None
  assert task.labels == task.classes == ('negative', 'positive')
  assert task.metrics == ('accuracy',)
  assert dict(task.fields) == {
    'inputs': 'text',
    'targets': 'text',
    'label': 'label',
  }
  assert task.task_file == str(tmp_path / 'reviews.toml')
  assert dict(task.rows.splits()) == {
    'train': str(tmp_path / 'train.jsonl'),
    'validation': str(tmp_path / 'dev.tsv'),
  }


TARGETS = [
  (
    "field = 'stars'\nlabels = ['bad', 'good', 'so so']",
    {'0': 0, '1': 1, '2': 2, 'bad': 0, 'good': 1, 'so so': 2},
    ('accuracy',),
  ),
  (
    "field = 'stars'\nlabels = ['0', '1']",
    {'0': 0, '1': 1},
    ('accuracy',),
  ),
  (
    "field = 'stars'\n[target.labels]\n'very bad' = 'bad'\ntrue = 'good'",
    {'very bad': 0, 'true': 1},
    ('accuracy',),
  ),
]


@pytest.mark.parametrize(('target', 'ids', 'metrics'), TARGETS)
def test_labels_are_a_table_or_a_list(tmp_path, target, ids, metrics):
  task = read(tmp_path, with_target(target))
  assert dict(task.rows.target.ids) == ids
  assert task.metrics == metrics


def with_target(target):
  return re.sub(
    r'\[target\].*?\n\n(?=\[splits)',
    f'[target]\n{target}\n\n',
    TOML,
    flags=re.S,
  )


def test_free_text_and_numbers(tmp_path):
  text = read(tmp_path, with_target("text = '{title}'"))
  assert isinstance(text.rows.target, targets.FreeText)
  assert (text.labels, text.classes, text.metrics) == (None, (), ('squad',))
  grid = 'number = {min = 1, max = 2, step = 0.25}'
  number = read(tmp_path, with_target(f"field = 'stars'\n{grid}"))
  assert number.labels == ('1.00', '1.25', '1.50', '1.75', '2.00')
  assert number.classes == ()
  assert number.metrics == ('pearson_corrcoef', 'spearman_corrcoef')
  assert 'label' not in number.fields


def test_several_files_a_test_split_and_ids(tmp_path):
  (tmp_path / 'more').mkdir()
  (tmp_path / 'more' / 'test.csv.gz').write_bytes(b'')
  toml = f"id = 'key'\nmetrics = ['f1', 'accuracy']\n{TOML}".replace(
    "train = 'train.jsonl'", "test = ['train.jsonl', 'more/test.csv.gz']"
  )
  task = read(tmp_path, toml)
  assert (task.train_split, task.test_split) == (None, 'test')
  assert [path.name for path in task.rows.files['test']] == [
    'train.jsonl',
    'test.csv.gz',
  ]
  assert task.fields['idx'] == 'text'
  assert task.metrics == ('f1', 'accuracy')


def test_bom_and_crlf_are_no_matter(tmp_path):
  path = write_reviews(tmp_path)
  text = TOML.replace('\n', '\r\n').encode()
  (tmp_path / 'reviews.toml').write_bytes(b'\xef\xbb\xbf' + text)
  assert tasks.read(path).rows == read(tmp_path).rows


def replaced(old, new):
  assert TOML.count(old) == 1
  return TOML.replace(old, new)


LABELS = "labels = {1 = 'negative', 5 = 'positive'}"
TRAIN = "train = 'train.jsonl'"
MISTAKES = {
  'syntax': (
    replaced("name = 'reviews'", 'name = reviews'),
    'reviews.toml:1: not valid TOML',
  ),
  'cut': (TOML + "test = 'x", 'reviews.toml:11: not valid TOML'),
  'key twice': (TOML + TRAIN, 'reviews.toml:11: not valid TOML'),
  'no name': (
    replaced("name = 'reviews'\n", ''),
    "reviews.toml: 'name' is missing.",
  ),
  'name with a slash': (
    replaced("'reviews'", "'a/b'"),
    "reviews.toml:1: name: 'a/b' is no name for a task",
  ),
  'name with a hyphen': (
    replaced("'reviews'", "'my-task'"),
    "reviews.toml:1: name: 'my-task' is no name",
  ),
  'name is a number': (
    replaced("'reviews'", '3'),
    'reviews.toml:1: name: expected text, got a whole number: 3',
  ),
  'unknown key': (
    replaced('inputs =', 'input ='),
    "reviews.toml:2: unknown input: 'input'. Did you mean 'inputs'?",
  ),
  'no inputs': (
    replaced("inputs = 'review: {title} / {body}'\n", ''),
    "reviews.toml: 'inputs' is missing.",
  ),
  'empty inputs': (
    replaced("'review: {title} / {body}'", "''"),
    'reviews.toml:2: inputs: the text is empty',
  ),
  'open brace': (
    replaced('{body}', '{body'),
    "reviews.toml:2: inputs: the '{' at character 19 has no partner",
  ),
  'no field': (
    replaced('{title} / {body}', 'none'),
    'reviews.toml:2: inputs: the template names no field of a row',
  ),
  'no target': (
    with_target('').replace('[target]', ''),
    "reviews.toml: 'target' is missing.",
  ),
  'target is text': (
    with_target('').replace('[target]', "target = 'stars'"),
    'reviews.toml:4: target: expected a table, got text',
  ),
  'empty target': (
    with_target(''),
    'reviews.toml:4: target: it has none of them; expected one of labels',
  ),
  'two kinds': (
    with_target(f"field = 'stars'\n{LABELS}\ntext = '{{title}}'"),
    'reviews.toml:4: target: it has labels and text; expected one',
  ),
  'mistyped kind': (
    replaced('labels', 'lables'),
    "reviews.toml:6: unknown target.lables: 'lables'. Did you mean 'labels'?",
  ),
  'no field of labels': (
    replaced("field = 'stars'\n", ''),
    "reviews.toml:4: 'target.field' is missing",
  ),
  'field with text': (
    with_target("field = 'stars'\ntext = '{title}'"),
    'reviews.toml:5: target.field: it does not go with text',
  ),
  'empty labels': (
    replaced(LABELS, 'labels = {}'),
    'reviews.toml:6: target.labels: it has 0 label; expected two at least',
  ),
  'one label': (
    replaced(LABELS, "labels = ['a']"),
    'reviews.toml:6: target.labels: it has 1 label',
  ),
  'same text twice': (
    replaced('positive', 'negative'),
    "reviews.toml:6: target.labels: the text 'negative' stands for two labels",
  ),
  'label is a number': (
    replaced("'negative'", '0'),
    'reviews.toml:6: target.labels.1: expected text, got a whole number: 0',
  ),
  'labels are a text': (
    replaced(LABELS, "labels = 'negative'"),
    'reviews.toml:6: target.labels: expected a table, got text',
  ),
  'label with spaces': (
    replaced("'negative'", "'very  bad'"),
    "reviews.toml:6: target.labels: 'very  bad' cannot be a label",
  ),
  'label for no target': (
    replaced("'negative'", "'<unk>'"),
    "reviews.toml:6: target.labels: '<unk>' cannot be a label",
  ),
  'list of ambiguous labels': (
    replaced(LABELS, "labels = ['1', '0']"),
    "reviews.toml:6: target.labels: the value '0' could be a text of the list",
  ),
  'number without step': (
    replaced(LABELS, 'number = {min = 0, max = 5}'),
    "reviews.toml:6: 'target.number.step' is missing",
  ),
  'unknown key of number': (
    replaced(LABELS, 'number = {min = 0, max = 5, stp = 1}'),
    "reviews.toml:6: unknown target.number.stp: 'stp'. Did you mean 'step'?",
  ),
  'min above max': (
    replaced(LABELS, 'number = {min = 5, max = 0, step = 1}'),
    'reviews.toml:6: target.number: expected min < max and step > 0, got 5, 0',
  ),
  'step that does not fit': (
    replaced(LABELS, 'number = {min = 0, max = 5, step = 0.3}'),
    'target.number: max = 5 is not min = 0 and a whole number of 0.3',
  ),
  'tiny step': (
    replaced(LABELS, 'number = {min = 0, max = 5, step = 0.001}'),
    'target.number: there are 5,001 numbers from 0 to 5',
  ),
  'infinite': (
    replaced(LABELS, 'number = {min = 0, max = inf, step = 1}'),
    'reviews.toml:6: target.number.max: expected a finite number',
  ),
  'min is a text': (
    replaced(LABELS, "number = {min = '0', max = 5, step = 1}"),
    'reviews.toml:6: target.number.min: expected a number, got text',
  ),
  'unknown metric': (
    f"metrics = ['acuracy']\n{TOML}",
    "reviews.toml:1: unknown metrics: 'acuracy'. Did you mean 'accuracy'",
  ),
  'metric of another kind': (
    f"metrics = ['rouge']\n{TOML}",
    'reviews.toml:1: metrics: rouge does not score this kind of target;'
    ' expected some of accuracy, f1, macro_f1, matthews_corrcoef',
  ),
  'metrics are a text': (
    f"metrics = 'accuracy'\n{TOML}",
    'reviews.toml:1: metrics: expected a list of texts, got text',
  ),
  'no metrics': (
    f'metrics = []\n{TOML}',
    'reviews.toml:1: metrics: the list is empty',
  ),
  'metric twice': (
    f"metrics = ['f1', 'f1']\n{TOML}",
    'reviews.toml:1: metrics: f1 is there twice',
  ),
  'f1 of three': (
    "metrics = ['f1']\n" + replaced(LABELS, "labels = ['a', 'b', 'c']"),
    'reviews.toml:1: metrics: f1 is of the second of two labels, but there are'
    ' 3',
  ),
  'id is a list': (
    f"id = ['a']\n{TOML}",
    'reviews.toml:1: id: expected text, got a list',
  ),
  'no splits': (
    TOML.partition('[splits]')[0],
    "reviews.toml: 'splits' is missing.",
  ),
  'empty splits': (
    TOML.partition('[splits]')[0] + '[splits]\n',
    'reviews.toml:8: splits: no split has a file',
  ),
  'unknown split': (
    replaced('validation', 'valid'),
    "reviews.toml:10: unknown splits.valid: 'valid'. Did you mean 'validation'",
  ),
  'no such file': (
    replaced('train.jsonl', 'trian.jsonl'),
    'reviews.toml:9: splits.train: there is no file trian.jsonl. Did you mean'
    " 'train.jsonl'",
  ),
  'no such directory': (
    replaced('train.jsonl', 'data/train.jsonl'),
    'reviews.toml:9: splits.train: there is no directory data',
  ),
  'a directory': (
    replaced('train.jsonl', 'folder.jsonl'),
    'reviews.toml:9: splits.train: there is no file folder.jsonl',
  ),
  'another ending': (
    replaced('train.jsonl', 'train.json'),
    'reviews.toml:9: splits.train: train.json has none of the endings .jsonl',
  ),
  'empty list': (
    replaced(TRAIN, 'train = []'),
    'reviews.toml:9: splits.train: the list of files is empty',
  ),
  'file is a number': (
    replaced(TRAIN, 'train = [1]'),
    'reviews.toml:9: splits.train: expected text, got a whole number',
  ),
  'file in two splits': (
    replaced('dev.tsv', 'train.jsonl'),
    'reviews.toml:10: splits.validation: train.jsonl is there twice, in train'
    ' and in validation',
  ),
  'file twice': (
    replaced(TRAIN, "train = ['dev.tsv', './dev.tsv']"),
    'reviews.toml:9: splits.train: dev.tsv is there twice',
  ),
}


@pytest.mark.parametrize(
  'case', MISTAKES, ids=lambda case: case.replace(' ', '-')
)
def test_mistakes_are_told_by_line_and_key(tmp_path, case):
  toml, expected = MISTAKES[case]
  (tmp_path / 'folder.jsonl').mkdir(parents=True)
  assert expected in message(tmp_path, toml)


def test_a_file_that_is_no_text(tmp_path):
  path = write_reviews(tmp_path)
  (tmp_path / 'reviews.toml').write_bytes(b"name = '\xff'")
  with pytest.raises(UserError, match=r'reviews.toml: not UTF-8 \(byte 9\)'):
    tasks.read(path)


def test_a_file_that_is_not_there(tmp_path):
  write_reviews(tmp_path)
  with pytest.raises(UserError) as error:
    task_files.load([str(tmp_path / 'review.toml')])
  assert 'there is no such file' in str(error.value)
  assert "Did you mean 'reviews.toml'?" in str(error.value)
  (tmp_path / 'folder.toml').mkdir()
  with pytest.raises(UserError, match='cannot be read: Is a directory'):
    tasks.read(str(tmp_path / 'folder.toml'))


class TestNames:
  """Names are for all tasks of a process, wherever they come from."""

  def test_loading_twice_replaces(self, tmp_path, monkeypatch):
    path = write_reviews(tmp_path)
    assert task_files.load([path, path]) == ('reviews',)
    monkeypatch.chdir(tmp_path)
    assert task_files.load(['reviews.toml']) == ('reviews',)
    write_reviews(tmp_path, TOML.replace('review:', 'opinion:'))
    task_files.load([path])
    rows = definitions.definition('reviews').rows
    assert rows.inputs.pieces[0] == ('opinion: ', 'title')

  def test_two_files_with_one_name(self, tmp_path):
    one, two = (write_reviews(tmp_path / name) for name in ('one', 'two'))
    task_files.load([one])
    with pytest.raises(UserError) as error:
      task_files.load([two])
    assert str(error.value) == (
      f"{two}: the name 'reviews' belongs to a task of {one}. Choose another"
      ' name.'
    )

  @pytest.mark.parametrize(
    ('name', 'owner'),
    [('glue_sst2', 'a task of this package'), ('super_glue', 'a mixture')],
  )
  def test_names_of_this_package(self, tmp_path, name, owner):
    path = write_reviews(tmp_path, TOML.replace("'reviews'", f"'{name}'"))
    with pytest.raises(UserError, match=f'{name}. belongs to {owner}'):
      task_files.load([path])
    if name in definitions.DEFINITIONS:
      assert definitions.definition(name).rows is None
