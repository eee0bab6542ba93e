"""One run in several processes: the same batches, losses and predictions."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest

from hypergrid_jax.checkpoints.reader import CheckpointReader
from tests import commands

pytestmark = pytest.mark.slow

STEPS = 4
TASKS = ('super_glue_cb', 'super_glue_wsc')


@pytest.fixture(scope='module')
def tokens(tmp_path_factory):
  return tmp_path_factory.mktemp('tokens')


def arguments(directory, tokens, *more):
  return (
    'train',
    '--gin_file=gin/runs/quickstart.gin',
    f'--model_dir={directory}',
    f'--token_dir={tokens}',
    f'data.mixture={TASKS!r}',
    'T5Config.d_model=32',
    'T5Config.num_layers=2',
    'T5Config.num_decoder_layers=1',
    'T5Config.dropout_rate=0.1',
    'mesh.data=1',
    'mesh.fsdp=4',
    'mesh.model=2',
    f'train.num_steps={STEPS}',
    'train.log_period=1',
    'train.checkpoint_period=2',
    # No multiple of the devices, nor of what they decode at once.
    'evaluate.limit=21',
    'evaluate.batch_size=16',
    *more,
  )


def losses(directory):
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  return {row['step']: row['loss'] for row in map(json.loads, lines)}


def evaluation(directory):
  """The scores, and every prediction in its order."""
  scores = json.loads((directory / 'eval' / f'{STEPS}.json').read_text())
  folder = directory / 'predictions' / str(STEPS)
  return scores, {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(scope='module')
def straight(tmp_path_factory, tokens):
  directory = tmp_path_factory.mktemp('straight')
  commands.succeeds(*arguments(directory, tokens))
  return directory


@pytest.fixture(scope='module')
def two_by_four(tmp_path_factory, tokens, straight):
  del straight  # which has made the tokens
  directory = tmp_path_factory.mktemp('two')
  said = commands.succeeds(
    *arguments(directory, tokens), processes=2, devices=4
  )
  assert f'step {STEPS}' in said[0]
  assert 'step' not in said[1].replace('Gloo', '')
  return directory


def assert_same_run(directory, straight):
  assert losses(directory) == pytest.approx(losses(straight), rel=1e-5)
  scores, predicted = evaluation(directory)
  expected, expected_predictions = evaluation(straight)
  assert predicted == expected_predictions
  assert scores == expected
  for name in TASKS:
    lines = predicted[f'{name}.jsonl'].splitlines()
    ids = [json.loads(line)['id'] for line in lines]
    assert len(ids) == len(set(ids)) == scores['tasks'][name]['count'] == 21


def test_two_processes_of_four_devices_equal_one_of_eight(
  two_by_four, straight
):
  assert_same_run(two_by_four, straight)


@pytest.mark.parametrize(('processes', 'devices'), [(1, 8), (4, 2)])
def test_a_run_goes_on_with_other_processes(
  two_by_four, straight, tokens, tmp_path, processes, devices
):
  directory = tmp_path / 'run'
  shutil.copytree(two_by_four, directory)
  shutil.rmtree(directory / 'checkpoints' / str(STEPS))
  shutil.rmtree(directory / 'eval')
  shutil.rmtree(directory / 'predictions')
  said = commands.succeeds(
    *arguments(directory, tokens), processes=processes, devices=devices
  )
  assert 'Going on from the checkpoint of step 2' in said[0]
  assert_same_run(directory, straight)


def test_evaluating_and_predicting_too(two_by_four, straight, tmp_path):
  directory = tmp_path / 'run'
  shutil.copytree(two_by_four, directory)
  shutil.rmtree(directory / 'eval')
  shutil.rmtree(directory / 'predictions')
  places = {'processes': 2, 'devices': 4}
  commands.succeeds(
    'eval', f'--model_dir={directory}', f'--step={STEPS}', **places
  )
  assert evaluation(directory) == evaluation(straight)
  rows = [
    {'task': TASKS[number % 2], 'inputs': f'text {number}', 'id': number}
    for number in range(13)
  ]
  source = tmp_path / 'rows.jsonl'
  source.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  answers = {}
  for name, where in {'two': places, 'one': {}}.items():
    output = tmp_path / f'{name}.jsonl'
    commands.succeeds(
      'predict',
      f'--model_dir={directory}',
      f'--input={source}',
      f'--output={output}',
      **where,
    )
    answers[name] = output.read_text()
  assert answers['two'] == answers['one']
  lines = map(json.loads, answers['one'].splitlines())
  assert [line['id'] for line in lines] == list(range(13))


@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize(
  ('moment', 'more'),
  [
    ('A step has', ()),
    ('training:', ()),
    ('evaluating', ('train.eval_period=2', 'evaluate.limit=2000')),
  ],
)
def test_a_signal_to_one_process_saves_and_ends_all(
  tokens, straight, tmp_path, moment, more, processes
):
  del straight
  command = commands.Command(
    *arguments(tmp_path, tokens, *more),
    'train.num_steps=100000',
    processes=processes,
    devices=8 // processes,
  )
  command.read_until(moment)
  command.processes[-1].send_signal(signal.SIGTERM)
  ended = command.wait()
  assert {code for code, _, _ in ended} == {0}, ended
  assert 'all is saved' in ended[0][1]
  said, saved = ended[0][1], CheckpointReader(tmp_path)
  if stopped := re.search(
    r'SIGTERM at (?:the evaluation of )?step (\d+)', said
  ):
    assert saved.meta()['step'] == max(saved.steps()) == int(stopped[1])
  else:
    assert 'SIGTERM at the start' in said or 'at compiling' in said
    assert not saved.steps()


def test_processes_with_other_arguments_do_not_start(tokens, tmp_path):
  ended = commands.Command(
    *arguments(tmp_path, tokens),
    processes=2,
    own={1: ['train.seed=7']},
  ).wait()
  assert [code for code, _, _ in ended] == [2, 2]
  assert all(
    'Start all of them with the same arguments' in e for _, _, e in ended
  )
  assert not list(tmp_path.iterdir())


def test_a_mistake_is_told_once_by_each(tokens, tmp_path):
  (tmp_path / 'run.json').write_text('{"identity": {"seed": 3}}')
  ended = commands.Command(
    *arguments(tmp_path, tokens), processes=2, devices=4
  ).wait()
  for code, _, said in ended:
    assert code == 2
    assert said.count('holds another run') == 1
    assert 'Traceback' not in said


def test_a_process_ends_with_one_message():
  program = """
import os, threading, time
from hypergrid_jax.parallel import processes

def slowly(code):
  time.sleep(0.5)
  os._exit(code)

processes.exit = slowly
threading.Thread(target=processes.exit_with, args=('the first', 2)).start()
processes.exit_with('the second', 3)
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert (done.stderr, done.returncode) in [
    ('hypergrid: the first\n', 2),
    ('hypergrid: the second\n', 3),
  ]
