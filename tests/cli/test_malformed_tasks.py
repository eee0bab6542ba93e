"""Malformed task files, and files of rows that they name.

Each through the command: exit code 2, one message that says where, no
traceback, and no file written or changed.
"""

import os

import pytest

from tests.refusals import refusal, write

HEAD = "name = 'reviews'\ninputs = 'review: {title} / {body}'\n"
TARGET = "[target]\nfield = 'stars'\nlabels = {1 = 'bad', 5 = 'good'}\n"
SPLITS = "[splits]\ntrain = 'train.jsonl'\nvalidation = 'dev.tsv'\n"
WHOLE = f'{HEAD}{TARGET}{SPLITS}'
ROW = '{"title": "a", "body": "b", "stars": 1}\n'
TSV = 'title\tbody\tstars\na\tb\t5\n'


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write('train.jsonl', ROW)
  write('dev.tsv', TSV)


def number(text):
  return f"[target]\nfield = 'stars'\nnumber = {{{text}}}\n"


# What the file holds, and what the message says.
TOML = {
  'nothing': ('', ['mine.toml', 'is missing']),
  'no TOML': (f'{WHOLE}[', ['mine.toml:', 'not valid TOML']),
  'a text without its end': ("name = 'reviews\n", ['mine.toml:1', 'TOML']),
  'a key twice': (f"name = 'a'\n{WHOLE}", ['mine.toml:2', 'TOML']),
  'JSON': ('{"name": "reviews"}', ['mine.toml:1', 'TOML']),
  'not UTF-8': (WHOLE.encode() + b'# caf\xe9\n', ['mine.toml', 'not UTF-8']),
  'no name': (WHOLE.replace('name', 'nmae'), ["'nmae'", "mean 'name'"]),
  'a number for a name': (
    WHOLE.replace("'reviews'", '5'),
    ['mine.toml:1', 'expected text', '5'],
  ),
  'a name with spaces': (
    WHOLE.replace("'reviews'", "'my reviews'"),
    ['mine.toml:1', "'my reviews' is no name"],
  ),
  "somebody else's name": (
    WHOLE.replace("'reviews'", "'glue_sst2'"),
    ['mine.toml', "'glue_sst2'", 'Choose another name'],
  ),
  'no inputs': (
    WHOLE.replace('inputs', '# inputs'),
    ['mine.toml', "'inputs' is missing"],
  ),
  'inputs without a field': (
    WHOLE.replace('{title} / {body}', 'text'),
    ['mine.toml:2', 'names no field'],
  ),
  'a brace without its partner': (
    WHOLE.replace('{title}', '{title'),
    ['mine.toml:2', 'has no partner'],
  ),
  'no target': (f'{HEAD}{SPLITS}', ['mine.toml', "'target' is missing"]),
  'two kinds of target': (
    WHOLE.replace('field =', "text = '{title}'\nfield ="),
    ['mine.toml:3', 'labels and text'],
  ),
  'one label': (
    WHOLE.replace(", 5 = 'good'", ''),
    ['mine.toml:5', 'two at least'],
  ),
  'one text for two labels': (
    WHOLE.replace("'good'", "'bad'"),
    ['mine.toml:5', "'bad' stands for two"],
  ),
  'a label without text': (
    WHOLE.replace("'good'", "''"),
    ['mine.toml:5', 'empty'],
  ),
  'an unknown key of the target': (
    WHOLE.replace('field =', "feild = 'a'\nfield ="),
    ['mine.toml:4', "'feild'", "mean 'field'"],
  ),
  'numbers that go down': (
    HEAD + number('min = 5, max = 1, step = 1') + SPLITS,
    ['mine.toml:5', 'min < max'],
  ),
  'numbers without a step': (
    HEAD + number('min = 1, max = 5') + SPLITS,
    ['mine.toml', "'target.number.step' is missing"],
  ),
  'a step that does not fit': (
    HEAD + number('min = 1, max = 5, step = 0.3') + SPLITS,
    ['mine.toml:5', 'whole number of'],
  ),
  'an unknown metric': (
    WHOLE.replace('[target]', "metrics = ['acuracy']\n[target]"),
    ['mine.toml:3', "'acuracy'", "mean 'accuracy'"],
  ),
  'a metric of another kind': (
    WHOLE.replace('[target]', "metrics = ['bleu']\n[target]"),
    ['mine.toml:3', 'bleu does not score'],
  ),
  'no splits': (f'{HEAD}{TARGET}', ['mine.toml', "'splits' is missing"]),
  'an unknown split': (
    WHOLE.replace('validation', 'valid'),
    ['mine.toml:8', "'valid'", "mean 'validation'"],
  ),
  'a file that is not there': (
    WHOLE.replace('train.jsonl', 'trian.jsonl'),
    ['mine.toml:7', 'trian.jsonl', "mean 'train.jsonl'"],
  ),
  'a directory for a file': (
    WHOLE.replace('train.jsonl', 'folder.jsonl'),
    ['mine.toml:7', 'folder.jsonl'],
  ),
  'a file of another kind': (
    WHOLE.replace('train.jsonl', 'train.parquet'),
    ['mine.toml:7', 'train.parquet', '.jsonl'],
  ),
  'one file for two splits': (
    WHOLE.replace('dev.tsv', 'train.jsonl'),
    ['mine.toml:8', 'there twice'],
  ),
}


@pytest.mark.parametrize('case', TOML)
def test_a_toml_file(capsys, case):
  content, fragments = TOML[case]
  os.mkdir('folder.jsonl')
  write('train.parquet', 'PAR1')
  write('mine.toml', content)
  said = refusal(capsys, ['tasks', 'check', 'mine.toml'])
  for fragment in fragments:
    assert fragment in said
  assert refusal(capsys, ['tasks', 'list', '--task_file=mine.toml']) == said
  assert said == refusal(
    capsys,
    ['train', '--gin_file=gin/runs/quickstart.gin', '--task_file=mine.toml'],
  )


# A file that is written in place of a good one, and what the message says.
ROWS = {
  'a field that is missing': (
    'train.jsonl',
    ROW + '{"title": "a", "stars": 1}\n',
    ['train.jsonl:2', "'body' is missing", "'title', 'stars'"],
  ),
  'null for a text': (
    'train.jsonl',
    ROW + '{"title": null, "body": "b", "stars": 1}\n',
    ['train.jsonl:2', "field 'title'", 'null'],
  ),
  'a list for a text': (
    'train.jsonl',
    '{"title": ["a"], "body": "b", "stars": 1}\n',
    ['train.jsonl:1', "field 'title'", 'a list'],
  ),
  'an object for a text': (
    'train.jsonl',
    '{"title": {"en": "a"}, "body": "b", "stars": 1}\n',
    ['train.jsonl:1', "field 'title'", "'en'"],
  ),
  'a value that is no label': (
    'train.jsonl',
    ROW + ROW.replace('1', '4'),
    ['train.jsonl:2', "field 'stars' is '4'", "'1', '5'"],
  ),
  'no label': (
    'train.jsonl',
    ROW + '{"title": "a", "body": "b"}\n',
    ['train.jsonl:2', "'stars'"],
  ),
  'no label in a table': (
    'dev.tsv',
    TSV + 'a\tb\t\n',
    ['dev.tsv:3', "'stars'"],
  ),
  'another column': (
    'dev.tsv',
    TSV.replace('title', 'heading'),
    ['dev.tsv:2', "'title' is missing", "'heading'"],
  ),
  'a row too long': (
    'dev.tsv',
    TSV + 'a\tb\tc\t1\n',
    ['dev.tsv:3', '4 fields'],
  ),
  'not JSON': ('train.jsonl', ROW + 'title: a\n', ['train.jsonl:2', 'JSON']),
  'not UTF-8': ('dev.tsv', TSV.encode() + b'\xff\tb\t1\n', ['dev.tsv:3']),
  'nothing': ('train.jsonl', '', ['train.jsonl', 'no rows']),
}


@pytest.mark.parametrize('case', ROWS)
def test_rows_of_a_toml_file(capsys, case):
  name, content, fragments = ROWS[case]
  write('mine.toml', WHOLE)
  write(name, content)
  said = refusal(capsys, ['tasks', 'check', 'mine.toml', '--vocab=bytes'])
  for fragment in fragments:
    assert fragment in said


MODULES = {
  'a file that is not there': (None, 'mine.py', ['mine.py', 'no such file']),
  'a module that is not there': (None, 'my.tasks', ['my.tasks', 'no']),
  'a mistyped task': (None, 'glue_sst', ["'glue_sst'", "mean 'glue_sst2'"]),
  'a mistake in the syntax': (
    'import seqio\n\ndef f(:\n',
    'mine.py',
    ['mine.py:3', 'SyntaxError'],
  ),
  'no task': ('import json\n', 'mine.py', ['mine.py', 'registers no task']),
}


@pytest.mark.parametrize('case', MODULES)
def test_a_python_module(capsys, case):
  content, name, fragments = MODULES[case]
  if content:
    write(name, content)
  said = refusal(capsys, ['tasks', 'check', name])
  for fragment in fragments:
    assert fragment in said


@pytest.mark.parametrize('name', ['', '.', 'folder', 'a.txt', '/no/where.toml'])
def test_what_is_no_task_file(capsys, name):
  os.mkdir('folder')
  write('a.txt', WHOLE)
  for arguments in (
    ['tasks', 'check', name],
    ['tasks', 'list', f'--task_file={name}'],
  ):
    assert name in refusal(capsys, arguments)
