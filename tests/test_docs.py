"""The page on tasks of one's own: its files and commands do what it says."""

import json
import pathlib
import re
import shlex

import pytest

from hypergrid_jax.cli import main
from hypergrid_jax.tasks.toml import tasks
from tests import commands

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'tasks.md'
TEXT = PAGE.read_text()
FILES = dict(re.findall(r'```\w+ (\S+)\n(.*?)```', TEXT, re.S))
COMMANDS = re.findall(r'```sh\n(.*?)\n```', TEXT, re.S)
# Enough to go the whole way; the page's models take a minute each.
SMALL = (
  'T5Config.d_model=24',
  'T5Config.d_ff=32',
  'T5Config.num_layers=1',
  'T5Config.num_decoder_layers=1',
  'data.batch_size=8',
  'data.max_segments=3',
  'train.num_steps=3',
  'evaluate.batch_size=8',
  'evaluate.limit=8',
  'evaluate.max_decode_length=6',
)


@pytest.fixture
def page(tmp_path, monkeypatch):
  """The page's files in the working directory."""
  for name, content in FILES.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('COLUMNS', '120')
  return tmp_path


def command(verb, name):
  """The page's command of a verb that names something, as arguments."""
  (found,) = (c for c in COMMANDS if c.split()[1] == verb and name in c)
  return shlex.split(found)[1:]


def shown_after(text):
  """Lines of the output that the page shows below a text."""
  block = TEXT[TEXT.index(text) :].partition('```console\n')[2]
  return [line for line in block.partition('```')[0].splitlines() if line]


def test_every_command_is_one():
  assert len(COMMANDS) == 6
  for text in COMMANDS:
    name, *arguments_ = shlex.split(text)
    assert name == 'hypergrid'
    commands.parsed(*arguments_)


@pytest.mark.parametrize('file', ['reviews/reviews.toml', 'words/words.py'])
def test_check_prints_what_the_page_shows(page, capsys, file):
  wanted = command('tasks', file)
  assert main.main(wanted) == 0
  printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
  for line in shown_after(shlex.join(['hypergrid', *wanted])):
    assert line in (*printed, '...')


def test_the_page_goes_from_files_to_predictions(page, capsys):
  assert main.main([*command('train', '=runs/both'), *SMALL]) == 0
  printed = capsys.readouterr().out
  assert 'average all' in printed
  folder = page / 'runs' / 'both' / 'predictions' / '3'
  rows = [
    json.loads(line)
    for line in (folder / 'reviews.jsonl').read_text().splitlines()
  ]
  shown = [json.loads(line) for line in shown_after('The predictions are in')]
  same = ('id', 'inputs', 'target')
  assert [[row[key] for key in same] for row in rows] == [
    [row[key] for key in same] for row in shown
  ]
  counts = (folder / 'word_count.jsonl').read_text().splitlines()
  assert [json.loads(line)['target'] for line in counts] == ['3', '5']
  wanted = [
    argument.replace('runs/reviews', 'runs/both')
    for argument in command('predict', 'new.jsonl')
  ]
  assert main.main(wanted) == 0
  answer = json.loads((page / 'answers.jsonl').read_text())
  (shown,) = map(json.loads, shown_after('hypergrid predict'))
  same = ('id', 'task', 'inputs')
  assert [answer[key] for key in same] == [shown[key] for key in same]


def test_the_page_names_every_metric_and_key():
  table = TEXT[TEXT.index('### What the file may say') :]
  table = table[: table.index('Rules for rows')]
  named = set(re.findall(r'`(\w+)`', table))
  assert set(tasks.METRICS) <= named
  assert {'name', 'inputs', 'metrics', 'id', *tasks.SPLITS} <= named
