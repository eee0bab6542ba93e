"""Whole runs that choose what they train on: said, killed and resumed."""

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from hypergrid_jax.config import run_config
from hypergrid_jax.errors import UserError
from hypergrid_jax.runs import experiment
from tests import commands
from tests.runs import test_experiment

# Programs are compiled for whole runs.
pytestmark = pytest.mark.slow

TASKS = ('glue_stsb', 'super_glue_wsc', 'glue_rte')
BINDINGS = (
  f'data.mixture={TASKS!r}',
  'train.log_period=1',
  'UncertaintySampling.candidates_per_task=8',
  'UncertaintySampling.score=code',
  'evaluate.limit=2',
)
TIMES = ('tokens_per_second', 'input_wait_fraction')


def train(directory, token_dir, *more):
  """Returns what was printed."""
  run = run_config.parse(
    ['gin/runs/quickstart.gin', 'gin/methods/ca_mtl_uncertainty.gin'],
    test_experiment.bindings_of(token_dir, *BINDINGS, *more),
  )
  console = Console(file=io.StringIO(), width=120)
  experiment.train(
    run,
    directory,
    config_text=run_config.operative_config(run),
    console=console,
  )
  return console.file.getvalue()


@pytest.fixture(scope='module')
def token_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('tokens')


@pytest.fixture(scope='module')
def straight(tmp_path_factory, token_dir):
  directory = tmp_path_factory.mktemp('runs') / 'straight'
  return directory, train(directory, token_dir)


def lines(directory):
  """What was logged, but for what depends on the clock."""
  text = (directory / 'metrics.jsonl').read_text()
  return [
    {k: v for k, v in json.loads(line).items() if k not in TIMES}
    for line in text.splitlines()
  ]


def test_the_run_says_what_it_looks_at(straight):
  directory, text = straight
  assert 'Candidates' in text
  assert 'looks at 24 rows' in ' '.join(text.split())
  facts = json.loads((directory / 'run.json').read_text())
  flops = facts['flops_per_step']
  share = flops['selection'] / flops['step']
  assert 0.1 < share < 0.9
  assert f'Choosing the rows takes {share:.0%} of the' in text
  assert facts['data']['candidates']['rows'] == 24
  assert facts['identity']['sampler']['score'] == 'code'
  logged = lines(directory)
  assert [line['step'] for line in logged] == [1, 2, 3, 4, 5, 6]
  for before, line in zip(logged, logged[1:], strict=False):
    assert before['chosen'] < line['chosen'] < line['candidates'] < 1
    for task in TASKS:
      assert line[f'chosen/{task}'] <= line[f'candidates/{task}']
  assert set(logged[-1]) >= {f'candidates/{task}' for task in TASKS}


def test_killed_and_resumed_it_picks_the_same_examples(
  straight, token_dir, tmp_path
):
  directory = tmp_path / 'run'
  shutil.copytree(straight[0], directory)
  for name in ('checkpoints/6', 'eval', 'predictions'):
    shutil.rmtree(directory / name)
  text = train(directory, token_dir)
  assert 'Going on from the checkpoint of step 4' in text
  assert lines(directory) == lines(straight[0])
  for one, other in zip(
    test_experiment.leaves(directory, 6),
    test_experiment.leaves(straight[0], 6),
    strict=True,
  ):
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture(scope='module')
def one_device(tmp_path_factory, token_dir, straight):
  del straight  # which has made the tokens
  return command(tmp_path_factory.mktemp('one'), token_dir, devices=1)


def command(directory, token_dir, *more, **places):
  """Trains with the real command; returns what was logged."""
  commands.succeeds(
    'train',
    '--gin_file=gin/runs/quickstart.gin',
    '--gin_file=gin/methods/ca_mtl_uncertainty.gin',
    f'--model_dir={directory}',
    *test_experiment.bindings_of(token_dir, *BINDINGS),
    'evaluate.batch_size=8',
    *more,
    **places,
  )
  return lines(directory)


@pytest.mark.parametrize('places', [{'processes': 2, 'devices': 4}, {}])
def test_processes_and_meshes_pick_the_same(
  one_device, token_dir, tmp_path, places
):
  mesh = 'mesh.data=1', 'mesh.fsdp=4', 'mesh.model=2'
  found = command(tmp_path, token_dir, *mesh, **places)
  for line, expected in zip(found, one_device, strict=True):
    assert line['loss'] == pytest.approx(expected['loss'], rel=1e-5)
    for name, share in expected.items():
      if name.startswith(('chosen', 'candidates')):
        assert line[name] == share


def test_with_another_sampler_it_is_another_run(straight, token_dir):
  with pytest.raises(UserError, match='sampler/score: .code. there, .paper.'):
    train(straight[0], token_dir, 'UncertaintySampling.score=paper')
