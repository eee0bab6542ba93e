"""`hypergrid tokenize`: what it builds and says, and that training need not.

The stores are of a few files; token counts are checked against the files.
"""

import json
import subprocess
import sys

import pytest

from hypergrid_jax.cli import main
from hypergrid_jax.data import token_workers
from tests.tasks import own_files

WORDS = 'wet dry rain sun cold snow wind mild'.split()
BINDINGS = (
  "data.mixture=('glue_rte', 'super_glue_copa', 'reviews')",
  'data.inputs_length=80',
  'data.targets_length=20',
  'data.row_length=160',
  'data.row_targets_length=40',
  'data.max_segments=4',
  'data.batch_size=8',
  'data.mixing=proportional',
  'data.missing_train=skip',
  'train.num_steps=50',
)


def rte(count, start=0):
  return [
    {
      'sentence1': f'It is {WORDS[i % 8]} {i}.',
      'sentence2': f'{WORDS[i % 5]}.',
      'label': i % 2,
      'idx': i,
    }
    for i in range(start, start + count)
  ]


def write(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


@pytest.fixture
def files(tmp_path, monkeypatch):
  """RTE and a user's own task; of COPA nothing."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('COLUMNS', '140')
  write(tmp_path / 'data/glue/rte/train.jsonl', rte(30))
  write(tmp_path / 'data/glue/rte/validation.jsonl', rte(6, 100))
  unlabelled = [{**row, 'label': -1} for row in rte(5, 200)]
  write(tmp_path / 'data/glue/rte/test.jsonl', unlabelled)
  return own_files.write_reviews(tmp_path / 'own')


def inputs_of_rte():
  """Tokens of the training set: its bytes, and an end each."""
  return [
    len(f'rte sentence1: {r["sentence1"]} sentence2: {r["sentence2"]}') + 1
    for r in rte(30)
  ]


@pytest.fixture
def tokenize(files, capsys):
  def run(*more):
    code = main.main(
      [
        *('tokenize', '--gin_file=gin/runs/quickstart.gin', *BINDINGS),
        *('--data_source=files:data', '--vocab=bytes', f'--task_file={files}'),
        *('--token_dir=tokens', *more),
      ]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out

  return run


def rows_of(text, *, after):
  """The cells of the lines below a heading, by the first one."""
  lines = text[text.index(after) :].splitlines()
  return {
    cells[0]: cells[1:]
    for line in lines
    if len(cells := line.replace('│', ' ').split()) > 1
  }


def stores(folder):
  return sorted(
    str(path.parent.relative_to(folder)).rpartition('-')[0]
    for path in folder.rglob('manifest.json')
  )


def test_all_splits_of_a_run_are_built(tokenize, tmp_path):
  text = tokenize()
  assert stores(tmp_path / 'tokens') == [
    'glue_rte/train',
    'glue_rte/validation',
    'reviews/train',
    'reviews/validation',
  ]
  rows = rows_of(text, after='Token stores')
  assert [rows[name][0] for name in ('glue_rte/train', 'glue_rte/validation')]
  inputs = inputs_of_rte()
  targets = [len(t) + 1 for t in ('entailment', 'not_entailment')] * 15
  assert rows['glue_rte/train'] == [
    '30',
    f'{sum(inputs) + sum(targets):,}',
    f'{sum(inputs) / 30:.1f}',
    str(max(inputs)),
    '13.0',
    '15',
    *('0', '0', 'built'),
  ]
  assert rows['reviews/validation'][0] == '2'
  assert 'super_glue_copa has no complete training set' in text
  assert '4 token stores are ready in tokens; 4 of them were built.' in text


def test_the_mixture_and_full_rows_are_said(tokenize):
  text = tokenize()
  rows = rows_of(text, after='Mixture')
  assert rows['glue_rte'][:2] == ['30', f'{30 / 33:.4f}']
  assert rows['reviews'][:2] == ['3', f'{3 / 33:.4f}']
  inputs = inputs_of_rte() + [
    len(f'review: {row["title"]} / {row["body"]}') + 1 for row in own_files.ROWS
  ]
  # Each row of any task is drawn alike, for rates are in proportion to sizes.
  packed_rows = sum(
    round(count / float(rows[name][3]))
    for name, count in (('glue_rte', 30), ('reviews', 3))
  )
  for name, fill in (
    ('packed', sum(inputs) / packed_rows / 160),
    ('one example each', sum(inputs) / len(inputs) / 80),
  ):
    table = text[text.index('Row positions that carry tokens') :]
    found = table[table.index(name) :].split('%')[0].split()[-1]
    assert float(found) == pytest.approx(100 * fill, abs=0.06)


def test_length_buckets_are_full_of_tokens(tokenize):
  text = tokenize(
    'data.pack=False',
    'data.length_buckets=(34, 48, 52, 80)',
    'data.row_targets_length=None',
  )
  table = text[text.index('Row positions that carry tokens') :]
  alone = table[table.index('one example each, as in this run') :].split('%')
  # A bucket for each of the few lengths there are.
  assert float(alone[0].split()[-1]) > 85
  assert alone[1].startswith(' of 34 to 80')
  assert 'packed  ' in table


def test_a_second_time_nothing_is_built(tokenize, monkeypatch):
  tokenize()

  def build_all(*_):
    raise AssertionError('a store was built')

  monkeypatch.setattr(token_workers, 'build_all', build_all)
  text = tokenize()
  assert rows_of(text, after='Token stores')['glue_rte/train'][-1] == 'ready'
  assert '4 token stores are ready in tokens; nothing was built.' in text


def test_test_splits_when_asked(tokenize, tmp_path):
  tokenize()
  text = tokenize('--test')
  assert 'glue_rte/test' in stores(tmp_path / 'tokens')
  rows = rows_of(text, after='Token stores')
  assert (rows['glue_rte/test'][0], rows['glue_rte/test'][-1]) == ('5', 'built')
  assert rows['glue_rte/train'][-1] == 'ready'
  assert '5 token stores are ready in tokens; 1 of them were built.' in text


def test_a_protocol_s_parts_are_named(tokenize, tmp_path):
  text = tokenize('data.protocol=hyperformer', '--test')
  rows = rows_of(text, after='Token stores')
  halves = [
    rows[f'glue_rte/validation[{part}]'][0] for part in (':half', 'half:')
  ]
  assert halves == ['3', '3']
  assert rows['glue_rte/validation[:half]'][-1] == 'built'


def test_what_is_cut_or_unknown_is_warned_of(tokenize):
  text = tokenize('data.inputs_length=44')
  assert 'Warning: glue_rte/train inputs: ' in text
  assert 'are cut at 44 tokens, more than 5%. Raise data.inputs_length.' in text
  assert 'Warning' not in tokenize()


def test_training_builds_nothing_then_and_loads_no_tensorflow(tokenize, files):
  """Up to the evaluation, whose metrics need it."""
  tokenize()
  program = f"""
import sys
sys.modules['tensorflow'] = None  # an import of it fails
from hypergrid_jax.cli import main
from hypergrid_jax.runs import experiment
from hypergrid_jax.data import tokens

class Evaluation(Exception):
  pass

def evaluate(setup, step, params, *rest):
  print('trained', step)
  raise Evaluation

experiment._evaluate_params = evaluate
try:
  main.main([
    'train', '--gin_file=gin/runs/quickstart.gin', *{BINDINGS!r},
    'train.num_steps=2', 'T5Config.d_model=16', 'T5Config.num_layers=1',
    'T5Config.num_decoder_layers=1', '--data_source=files:data',
    '--vocab=bytes', '--task_file={files}', '--token_dir=tokens',
    '--model_dir=run',
  ])
except Evaluation:
  print('evaluation')
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert 'tokenising' not in done.stdout
  assert done.stdout.split()[-3:] == ['trained', '2', 'evaluation']
