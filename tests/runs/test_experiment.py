"""Whole runs on a little data: going on after a stop, refusing, evaluating."""

import dataclasses
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from rich.console import Console

from hypergrid_jax.checkpoints import layout
from hypergrid_jax.checkpoints import reader as reader_lib
from hypergrid_jax.cli import main
from hypergrid_jax.config import run_config
from hypergrid_jax.errors import UserError
from hypergrid_jax.runs import experiment
from hypergrid_jax.runs import setup as setup_lib
from hypergrid_jax.tasks import definitions
from tests.tasks import tiny_rows

BINDINGS = (
  "data.mixture = ('glue_cola', 'glue_rte', 'super_glue_copa')",
  'data.batch_size = 8',
  'data.row_length = 64',
  'data.inputs_length = 64',
  'T5Config.d_model = 24',
  'T5Config.d_ff = 32',
  'T5Config.num_layers = 1',
  'T5Config.num_decoder_layers = 1',
  'T5Config.dropout_rate = 0.1',
  'LinearWarmup.total_steps = 200',
  'train.num_steps = 6',
  'train.log_period = 2',
  'train.checkpoint_period = 4',
  'evaluate.limit = 20',
  'evaluate.length_buckets = (64,)',
)


@pytest.fixture(scope='module')
def token_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('tokens')


def bindings_of(token_dir, *more):
  return [
    *(binding.replace(' = ', '=', 1) for binding in BINDINGS),
    f'data.token_dir="{token_dir}"',
    *more,
  ]


def train(directory, token_dir, *more, fresh=False):
  """Returns the result and what was printed."""
  run = run_config.parse(
    ['gin/runs/quickstart.gin'], bindings_of(token_dir, *more)
  )
  console = Console(file=io.StringIO(), width=120)
  result = experiment.train(
    run,
    directory,
    config_text=run_config.operative_config(run),
    fresh=fresh,
    console=console,
  )
  return result, console.file.getvalue()


def leaves(directory, step):
  """All arrays of a checkpoint, as bytes."""
  reader = reader_lib.CheckpointReader(directory)
  meta = reader.meta(step)
  assert meta is not None
  run = run_config.parse([str(directory / 'config.gin')])
  setup = setup_lib.set_up(
    run, directory, console=Console(file=io.StringIO()), train=True
  )
  state, _ = reader.restore(setup.state, step)
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope='module')
def finished(tmp_path_factory, token_dir):
  directory = tmp_path_factory.mktemp('runs') / 'straight'
  result, text = train(directory, token_dir)
  return directory, result, text


def test_a_run_writes_what_its_directory_promises(finished):
  directory, result, text = finished
  facts = json.loads((directory / 'run.json').read_text())
  counts = facts['parameters']
  # Two gated feed-forward layers, each (grid rows + grid cols) * d_model.
  run = run_config.parse([str(directory / 'config.gin')])
  grid = run.method.grid_rows + run.method.grid_cols
  assert counts['added'] == 2 * grid * 24
  assert counts['trained'] == counts['total'] == sum(counts['groups'].values())
  assert [task['task'] for task in facts['data']['tasks']] == [
    'glue_cola',
    'glue_rte',
    'super_glue_copa',
  ]
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [2, 4, 6]
  assert {
    'loss',
    'learning_rate',
    'tokens_per_second',
    'padding_fraction',
    'input_wait_fraction',
    'loss/glue_cola',
  } <= set(json.loads(lines[-1]))
  evaluation = json.loads((directory / 'eval/6.json').read_text())
  assert evaluation['tasks']['glue_rte']['count'] == 20
  assert result.step == 6
  predictions = directory / 'predictions/6/super_glue_copa.jsonl'
  assert len(predictions.read_text().splitlines()) == 20
  assert f'{counts["total"]:,}' in text
  assert 'super_glue_copa' in text


def test_stopped_and_resumed_is_the_same_run_bit_for_bit(
  finished, tmp_path, token_dir
):
  straight, _, _ = finished
  train(tmp_path / 'run', token_dir, 'train.num_steps=4')
  _, text = train(tmp_path / 'run', token_dir)
  assert 'checkpoint of step 4' in text
  for one, other in zip(
    leaves(straight, 6), leaves(tmp_path / 'run', 6), strict=True
  ):
    assert one.tobytes() == other.tobytes()
  logs = [
    [
      {k: v for k, v in json.loads(line).items() if k in ('step', 'loss')}
      for line in (directory / 'metrics.jsonl').read_text().splitlines()
    ]
    for directory in (straight, tmp_path / 'run')
  ]
  assert logs[0] == logs[1]


def test_another_run_in_the_directory_is_refused(finished, token_dir):
  directory, _, _ = finished
  before = sorted(directory.rglob('*'))
  with pytest.raises(UserError) as error:
    train(directory, token_dir, 'T5Config.d_model=32')
  assert 'model/d_model: 24 there, 32 here' in str(error.value)
  assert sorted(directory.rglob('*')) == before


def test_evaluating_again_gives_what_training_found(finished):
  directory, result, _ = finished
  run = run_config.parse([str(directory / 'config.gin')])
  console = Console(file=io.StringIO(), width=120)
  evaluated = experiment.evaluate(run, directory, step='all', console=console)
  assert [one.step for one in evaluated] == [4, 6]
  assert evaluated[1].scores == result.scores
  (best,) = experiment.evaluate(run, directory, console=console)
  assert best.step == 6  # the only one that training had evaluated


@pytest.mark.parametrize('earlier', [False, True])
def test_evaluation_needs_the_evaluated_splits_alone(
  finished, tmp_path, earlier
):
  """Targets of the majority baseline come from training, if it wrote them."""
  directory = shutil.copytree(finished[0], tmp_path / 'run')
  run = run_config.parse([str(directory / 'config.gin')])
  for name in run.data.mixture:
    task = definitions.definition(name)
    tiny_rows.write_jsonl(tmp_path / 'data', task)
    for split in {*task.splits} - {*task.eval_splits}:
      (tmp_path / f'data/{task.benchmark}/{task.config}/{split}.jsonl').unlink()
  if earlier:
    facts = json.loads((directory / 'run.json').read_text())
    del facts['majority_targets']
    (directory / 'run.json').write_text(json.dumps(facts))
  data = dataclasses.replace(
    run.data,
    source=f'files:{tmp_path / "data"}',
    token_dir=str(tmp_path / 'tokens'),
  )
  console = Console(file=io.StringIO(), width=200)
  (evaluated,) = experiment.evaluate(
    dataclasses.replace(run, data=data), directory, console=console
  )
  assert {task.count for task in evaluated.tasks.values()} == {4}
  without = [task.majority is None for task in evaluated.tasks.values()]
  assert without == [earlier] * 3
  assert ('no scores of that baseline' in console.file.getvalue()) == earlier


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'step': 5}, 'no checkpoint of step 5'),
    ({'tasks': ('glue_col',)}, "Did you mean 'glue_cola'"),
    ({'tasks': ('glue_sst2',)}, 'not in this run'),
  ],
)
def test_evaluating_what_is_not_there(finished, options, message):
  directory, _, _ = finished
  run = run_config.parse([str(directory / 'config.gin')])
  with pytest.raises(UserError, match=message):
    experiment.evaluate(
      run, directory, console=Console(file=io.StringIO()), **options
    )


@pytest.mark.parametrize(
  ('binding', 'message'),
  [
    ('T5Config.vocab_size=128', 'T5Config.vocab_size = 128'),
    ('HyperGrid.grid_cols=7', r'grid_cols = 7 does not .* \[4, 6, 8\]'),
    ('data.batch_size=12', 'batch'),  # 8 devices
    ("train.trainable=('decoder/.*', 'gates')", "'gates' matches no"),
  ],
)
def test_what_needs_no_data_is_refused_before_data_is_read(
  tmp_path, token_dir, binding, message
):
  with pytest.raises(UserError, match=message):
    train(tmp_path, tmp_path / 'tokens', binding)
  assert list(tmp_path.iterdir()) == []


def test_the_vocabulary_decides_the_rows():
  config = run_config.parse(
    ['gin/runs/quickstart.gin'], bindings_of('unused')
  ).model
  assert setup_lib.with_vocabulary(config, 32100).vocab_size == 32128
  assert setup_lib.with_vocabulary(config, 256).vocab_size == 256


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
  tmp_path, token_dir, monkeypatch, capsys
):
  free = iter([1 << 40, 1000])  # enough for step 4, not for step 6
  monkeypatch.setattr(
    layout.shutil,
    'disk_usage',
    lambda _: types.SimpleNamespace(free=next(free)),
  )
  code = main.main(
    [
      'train',
      '--gin_file=gin/runs/quickstart.gin',
      f'--model_dir={tmp_path / "run"}',
      *bindings_of(token_dir),
    ]
  )
  message = capsys.readouterr().err
  assert code == 2
  assert f'No room for checkpoint {tmp_path}/run/checkpoints/6: ' in message
  assert 'of step 4, is kept' in message
  assert 'Traceback' not in message
  assert [path.name for path in (tmp_path / 'run/checkpoints').iterdir()] == [
    '4'
  ]
  monkeypatch.undo()
  _, text = train(tmp_path / 'run', token_dir)
  assert 'checkpoint of step 4' in text


@pytest.mark.slow
def test_training_imports_no_tensorflow(finished, token_dir):
  """With a ready token store nothing needs it until metrics are computed."""
  directory, _, _ = finished
  program = f"""
import io, sys
from rich.console import Console
from hypergrid_jax.config import run_config
from hypergrid_jax.runs import batches, setup
run = run_config.parse([{str(directory / 'config.gin')!r}])
opened = setup.set_up(
  run, {str(directory)!r}, console=Console(file=io.StringIO()), train=True
)
batches.make_loader(run, opened.corpus).batch(0)
print(sorted({{'tensorflow', 'seqio', 't5'}} & set(sys.modules)))
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip().splitlines()[-1] == '[]'


def test_no_file_speaks_of_nan(finished):
  directory, _, _ = finished
  for path in pathlib.Path(directory).rglob('*.json*'):
    assert not re.search(r'\bNaN\b|Infinity', path.read_text()), path
