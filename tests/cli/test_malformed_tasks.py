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
  'not UTF-8': (WHOLE.encode() + b'# caf\xe9\n', ['mine.toml', 'not UTF-8']),
  'no name': (WHOLE.replace('name', 'nmae'), ["'nmae'", "mean 'name'"]),
  'a name with spaces': (
    WHOLE.replace("'reviews'", "'my reviews'"),
    ['mine.toml:1', "'my reviews' is no name"],
  ),
  "somebody else's name": (
    WHOLE.replace("'reviews'", "'glue_sst2'"),
    ['mine.toml', "'glue_sst2'", 'Choose another name'],
  ),
  'inputs without a field': (
    WHOLE.replace('{title} / {body}', 'text'),
    ['mine.toml:2', 'names no field'],
  ),
  'two kinds of target': (
    WHOLE.replace('field =', "text = '{title}'\nfield ="),
    ['mine.toml:3', 'labels and text'],
  ),
  'one text for two labels': (
    WHOLE.replace("'good'", "'bad'"),
    ['mine.toml:5', "'bad' stands for two"],
  ),
  'numbers that go down': (
    HEAD + number('min = 5, max = 1, step = 1') + SPLITS,
    ['mine.toml:5', 'min < max'],
  ),
  'an unknown metric': (
    WHOLE.replace('[target]', "metrics = ['acuracy']\n[target]"),
    ['mine.toml:3', "'acuracy'", "mean 'accuracy'"],
  ),
  'an unknown split': (
    WHOLE.replace('validation', 'valid'),
    ['mine.toml:8', "'valid'", "mean 'validation'"],
  ),
  'a file that is not there': (
    WHOLE.replace('train.jsonl', 'trian.jsonl'),
    ['mine.toml:7', 'trian.jsonl', "mean 'train.jsonl'"],
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
  message = refusal(capsys, ['tasks', 'check', 'mine.toml'])
  for fragment in fragments:
    assert fragment in message
  assert refusal(capsys, ['tasks', 'list', '--task_file=mine.toml']) == message
  assert message == refusal(
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
  'no label in a table': (
    'dev.tsv',
    TSV + 'a\tb\t\n',
    ['dev.tsv:3', "'stars'"],
  ),
  'not UTF-8': ('dev.tsv', TSV.encode() + b'\xff\tb\t1\n', ['dev.tsv:3']),
  'nothing': ('train.jsonl', '', ['train.jsonl', 'no rows']),
}


@pytest.mark.parametrize('case', ROWS)
def test_rows_of_a_toml_file(capsys, case):
  name, content, fragments = ROWS[case]
  write('mine.toml', WHOLE)
  write(name, content)
  message = refusal(capsys, ['tasks', 'check', 'mine.toml', '--vocab=bytes'])
  for fragment in fragments:
    assert fragment in message


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
  message = refusal(capsys, ['tasks', 'check', name])
  for fragment in fragments:
    assert fragment in message


@pytest.mark.parametrize('name', ['', '.', 'folder', 'a.txt', '/no/where.toml'])
def test_what_is_no_task_file(capsys, name):
  os.mkdir('folder')
  write('a.txt', WHOLE)
  for arguments in (
    ['tasks', 'check', name],
    ['tasks', 'list', f'--task_file={name}'],
  ):
    assert name in refusal(capsys, arguments)
