"""Malformed rows to predict, and files and runs that they do not fit.

Each through the command: exit code 2, one message that says where, no
traceback, and no file written or changed. No model is needed: every row is
checked before one is loaded.
"""

import gzip
import json
import os

import pytest

from hypergrid_jax.config import run_config
from hypergrid_jax.tasks import vocabularies
from tests.refusals import refusal, write

TASKS = ('glue_sst2', 'glue_stsb', 'glue_mnli', 'super_glue_multirc', 'reviews')
GOOD = {'task': 'glue_sst2', 'fields': {'sentence': 'a film'}}
TOML = """\
name = 'reviews'
inputs = 'review: {title} / {body}'
[target]
field = 'stars'
labels = {1 = 'bad', 5 = 'good'}
[splits]
train = 'train.jsonl'
"""


@pytest.fixture(autouse=True)
def run_dir(tmp_path, monkeypatch):
  """The directory of a run without checkpoints."""
  monkeypatch.chdir(tmp_path)
  write('mine.toml', TOML)
  write('train.jsonl', '{"title": "a", "body": "b", "stars": 1}\n')
  run = run_config.parse(
    ['gin/runs/quickstart.gin'],
    [f'data.mixture={TASKS!r}', 'data.vocabulary=bytes'],
    {'task_file': ['mine.toml']},
  )
  identity = {
    'task_ids': {name: number for number, name in enumerate(TASKS)},
    'vocabulary': vocabularies.load_vocabulary('bytes').fingerprint,
  }
  write('run/config.gin', run_config.operative_config(run))
  write('run/run.json', json.dumps({'identity': identity}))


def predict(capsys, *more, name='rows.jsonl'):
  arguments = ['--model_dir=run', f'--input={name}', '--output=out/a.jsonl']
  return refusal(capsys, ['predict', *arguments, *more])


def sst2(**fields):
  return {'task': 'glue_sst2', 'fields': {'sentence': 'a film', **fields}}


MULTIRC = {'paragraph': 'It rained.', 'question': 'Did it?', 'answer': 'yes'}
# The second row of a file, and what the message says after 'rows.jsonl:2'.
ROWS = {
  'not JSON': ('{"task": "glue_sst2"', ['not valid JSON']),
  'a text': ('"a film"', ['a JSON object', 'text']),
  'NaN': ('{"task": "glue_sst2", "inputs": "a", "id": NaN}', ['NaN']),
  'no task': ({'inputs': 'a film'}, ["'task'", 'null']),
  'a mistyped task': (
    {'task': 'glue_sst', 'inputs': 'a'},
    ["'glue_sst' is no task of this run", "Did you mean 'glue_sst2'"],
  ),
  'a task that the run lacks': (
    {'task': 'glue_cola', 'inputs': 'a'},
    ["'glue_cola' is no task of this run", 'glue_mnli_matched'],
  ),
  'neither text nor fields': (
    {'task': 'glue_sst2'},
    ["it has neither; expected one of 'fields' and 'inputs'"],
  ),
  'both': ({**GOOD, 'inputs': 'a'}, ["'fields' and 'inputs'; expected one"]),
  'a mistyped key': (
    {'task': 'glue_sst2', 'input': 'a'},
    ["unknown key 'input'", "Did you mean 'inputs'"],
  ),
  'a key too many': ({**GOOD, 'label': 1}, ["unknown key 'label'"]),
  'a list for an id': ({**GOOD, 'id': [1]}, ["'id'", 'a list']),
  'a number for a text': (
    {'task': 'glue_sst2', 'inputs': 5},
    ["'inputs'", 'expected text', '5'],
  ),
  'a blank text': ({'task': 'glue_sst2', 'inputs': ' \n'}, ['text is empty']),
  'half of a surrogate pair': (
    '{"task": "glue_sst2", "inputs": "a\\ud800"}',
    ["'inputs'", 'surrogate'],
  ),
  'a text for fields': (
    {'task': 'glue_sst2', 'fields': 'a film'},
    ["'fields'", 'an object', 'a film'],
  ),
  'fields without the text': (
    {'task': 'glue_sst2', 'fields': {'sentense': 'a'}},
    ["'fields'", "'sentence' is missing", "Did you mean 'sentense'"],
  ),
  'a number for a field': (sst2(sentence=5), ["field 'sentence'", '5']),
  'an empty field': (sst2(sentence=' '), ['sentence hold no text']),
  'a label out of range': (sst2(label=2), ["field 'label'", 'out of range']),
  'a nested index in words': (
    {
      'task': 'super_glue_multirc',
      'fields': {**MULTIRC, 'idx': {'paragraph': 'x'}},
    },
    ["field 'idx/paragraph'", "'x'"],
  ),
  "a user's task without a field": (
    {'task': 'reviews', 'fields': {'title': 'a'}},
    ["'body' is missing"],
  ),
  "a list in a user's task": (
    {'task': 'reviews', 'fields': {'title': 'a', 'body': ['b']}},
    ["field 'body'", 'a list'],
  ),
}


@pytest.mark.parametrize('case', ROWS)
def test_a_row(capsys, case):
  row, fragments = ROWS[case]
  line = row if isinstance(row, str) else json.dumps(row)
  write('rows.jsonl', f'{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n')
  message = predict(capsys)
  assert message.startswith('rows.jsonl:2: ')
  for fragment in fragments:
    assert fragment in message


FILES = {
  'not there': (None, 'rows.jsonl: this file of rows is not there'),
  'blank': ('\n\n', 'rows.jsonl: there are no rows in it'),
  'Latin-1': (b'{"task": "caf\xe9"}\n', 'rows.jsonl:1: not UTF-8'),
  'cut off': (json.dumps(GOOD)[:-1], 'rows.jsonl:1: not valid JSON'),
}


@pytest.mark.parametrize('case', FILES)
def test_a_file_of_rows(capsys, case):
  content, message = FILES[case]
  if content is not None:
    write('rows.jsonl', content)
  assert predict(capsys).startswith(message)


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('rows.csv', 'task,inputs\n', 'rows.csv: expected a file of JSON lines'),
    (
      'rows.jsonl.gz',
      gzip.compress(json.dumps(GOOD).encode(), mtime=0)[:-6],
      'rows.jsonl.gz:1: the gzip data are damaged',
    ),
    ('rows.jsonl/x', '', 'rows.jsonl: this file of rows is a directory'),
  ],
)
def test_another_kind_of_file(capsys, name, content, message):
  write(name, content)
  assert predict(capsys, name=name.removesuffix('/x')).startswith(message)


class TestOutput:
  @pytest.fixture(autouse=True)
  def _rows(self):
    write('rows.jsonl', json.dumps(GOOD) + '\n')

  def test_one_that_exists(self, capsys):
    write('out/a.jsonl', 'mine\n')
    message = predict(capsys)
    assert 'out/a.jsonl exists already' in message
    assert '--overwrite' in message

  def test_one_that_a_stopped_run_left(self, capsys):
    write('out/a.jsonl.partial', 'half\n')
    message = predict(capsys)
    assert 'a.jsonl.partial was left' in message
    assert '--resume' in message

  def test_a_directory(self, capsys):
    os.makedirs('out/a.jsonl')
    assert 'out/a.jsonl is a directory' in predict(capsys)

  def test_the_input_itself(self, capsys):
    message = refusal(
      capsys,
      [
        *('predict', '--model_dir=run', '--input=rows.jsonl'),
        *('--output=./rows.jsonl', '--overwrite'),
      ],
    )
    assert 'is the input' in message

  def test_two_wishes_at_once(self, capsys):
    assert 'exclude each other' in predict(capsys, '--overwrite', '--resume')


class TestRun:
  @pytest.fixture(autouse=True)
  def _rows(self):
    write('rows.jsonl', json.dumps(GOOD) + '\n')

  def test_no_checkpoint(self, capsys):
    assert 'There is no checkpoint in' in predict(capsys)

  def test_no_run(self, capsys):
    os.remove('run/run.json')
    assert 'run holds no run' in predict(capsys)

  @pytest.mark.parametrize('content', ['', '{', '[]', '{"identity": {}}'])
  def test_a_damaged_run(self, capsys, content):
    write('run/run.json', content)
    assert 'run.json' in predict(capsys)

  def test_another_vocabulary(self, capsys):
    message = predict(capsys, '--vocab=sample')
    assert 'is not the one that this run was trained with' in message

  def test_a_task_file_that_has_gone(self, capsys):
    os.remove('mine.toml')
    assert 'mine.toml: there is no such file' in predict(capsys)
