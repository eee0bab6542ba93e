"""What transformers reads: the same tensors, or one task's function."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file

from hypergrid_jax import trees
from hypergrid_jax.cli import main
from hypergrid_jax.config import run_config
from hypergrid_jax.interop import exporting, importing, names, opening, trained
from hypergrid_jax.methods.hypergrid import HyperGrid
from hypergrid_jax.model import Model
from tests import refusals
from tests.goldens import make_hf_golden as hf
from tests.interop import directories, runs

pytestmark = pytest.mark.usefixtures('compile_quickly')


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def export(*flags, model_dir='run'):
  arguments = ['export', f'--model_dir={model_dir}', '--output=out', *flags]
  assert main.main(arguments) == 0


def read(path='out'):
  """Model and parameters of what was written."""
  source = opening.open_source(pathlib.Path(path))
  config = opening.check_tensors(source)
  leaves = importing.of_source(source, config, config.vocab_size)
  config = dataclasses.replace(config, dtype='float32')
  return Model(config), {p: leaf.load() for p, leaf in leaves.items()}


def logits(model, params, task_id=0):
  batch = exporting.sample_rows(model.config.vocab_size, task_id)
  values = exporting.logits(model, trees.unflatten(params), batch)
  return values[batch.decoder_segment_ids > 0]


@pytest.mark.parametrize('name', hf.CASES)
def test_the_round_trip_keeps_every_bit_and_name(name, tmp_path):
  source = directories.write_hf(tmp_path / 'hf', name)
  assert main.main(['import', '--from', str(source), '--to', 'ck']) == 0
  export(model_dir='ck')
  found = load_file('out/model.safetensors')
  expected = directories.tensors(name)
  assert set(found) == set(expected)
  for key, value in expected.items():
    assert found[key].dtype == value.dtype
    np.testing.assert_array_equal(found[key], value, err_msg=key)
  written = json.loads(pathlib.Path('out/config.json').read_text())
  wanted = directories.config_json(name)
  assert {key: written[key] for key in wanted} == wanted


def test_large_files_are_divided(tmp_path):
  source = directories.write_hf(tmp_path / 'hf', '1.1')
  assert main.main(['import', '--from', str(source), '--to', 'ck']) == 0
  export('--max_shard_size=9KB', model_dir='ck')
  files = sorted(pathlib.Path('out').glob('model-*'))
  index = json.loads(pathlib.Path('out', directories.INDEX).read_text())
  assert len(files) == len(set(index['weight_map'].values())) > 2
  together = {}
  for file in files:
    part = load_file(file)
    assert sum(v.nbytes for v in part.values()) <= 9000
    assert {index['weight_map'][key] for key in part} == {file.name}
    together |= part
  expected = directories.tensors('1.1')
  assert set(together) == set(expected)
  total = sum(value.nbytes for value in expected.values())
  assert index['metadata']['total_size'] == total
  np.testing.assert_array_equal(
    together['lm_head.weight'], expected['lm_head.weight']
  )


def test_a_plain_run_needs_no_task_and_brings_its_tokenizer():
  _, expected = runs.write('run')
  export()
  written = {path.name for path in pathlib.Path('out').iterdir()}
  assert written == {
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'spiece.model',
    'tokenizer.json',
    'tokenizer_config.json',
  }
  model, params = read()
  assert model.config.vocab_size == 640
  for path, value in params.items():
    np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_rows_that_were_added_are_left_out_on_request():
  runs.write('run')
  export('--vocab_rows=579')
  assert load_file('out/model.safetensors')['shared.weight'].shape == (579, 24)


GATES = HyperGrid(grid_rows=4, grid_cols=3, state='task')


@pytest.fixture(scope='module')
def gated(tmp_path_factory):
  """A directory with a run whose gates depend on the task."""
  folder = tmp_path_factory.mktemp('gated')
  runs.write(folder / 'run', GATES)
  return folder


def test_a_task_s_plain_t5_computes_what_the_model_does(capsys, gated):
  export('--task=glue_cola', model_dir=gated / 'run')
  run = run_config.parse([str(gated / 'run/config.gin')])
  source = trained.load(run, gated / 'run')
  of_tasks = [
    logits(source.model, source.params, source.task_ids[task])
    for task in ('glue_cola', 'glue_rte')
  ]
  found = logits(*read())
  scale = np.abs(of_tasks[0]).max()
  assert np.abs(found - of_tasks[0]).max() < 1e-5 * max(scale, 1)
  assert np.abs(found - of_tasks[1]).max() > 1e-2 * scale
  assert 'logits differ by at most' in capsys.readouterr().out


def test_what_has_no_plain_t5_is_named(capsys):
  runs.write('run', dataclasses.replace(GATES, state='mean'))
  arguments = ['export', '--model_dir=run', '--output=out', '--task=glue_rte']
  said = refusals.refusal(capsys, arguments)
  assert "HyperGrid.state = 'mean' cannot be folded into a plain T5" in said


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    ([], 'another function for each task. Name one with --task'),
    (['--task=glue_rtee'], "no task 'glue_rtee'. Did you mean 'glue_rte'"),
    (['--task=glue_rte', '--step=8'], 'no checkpoint of step 8'),
    (['--task=glue_rte', '--vocab_rows=578'], 'the vocabulary has 579 ids'),
    (['--task=glue_rte', '--vocab_rows=641'], 'the model 640 rows'),
    (['--task=glue_rte', '--max_shard_size=5TB'], 'max_shard_size'),
    (['--task=glue_rte', '--output=run'], 'run is there already'),
  ],
)
def test_flags_that_do_not_fit(flags, said, capsys, gated, monkeypatch):
  monkeypatch.chdir(gated)
  arguments = ['export', '--model_dir=run', '--output=out', *flags]
  assert said in refusals.refusal(capsys, arguments)


def test_activations_that_transformers_lacks(capsys):
  runs.write('run', mlp_activations=('gelu', 'relu'))
  arguments = ['export', '--model_dir=run', '--output=out']
  assert 'no such feed-forward layer' in refusals.refusal(capsys, arguments)


def test_neither_a_run_nor_an_import(capsys):
  refusals.write('run/notes.txt', 'x')
  arguments = ['export', '--model_dir=run', '--output=out']
  assert 'There is no checkpoint in' in refusals.refusal(capsys, arguments)


def test_what_differs_is_not_written(monkeypatch):
  runs.write('run')
  before = refusals.files('.')
  to_theirs = names.Row.to_theirs

  def wrong(row, value, target):
    value = to_theirs(row, value, target)
    return value[::-1] if row.path.endswith('wo') else value

  monkeypatch.setattr(names.Row, 'to_theirs', wrong)
  with pytest.raises(RuntimeError, match='differs from the original by'):
    main.main(['export', '--model_dir=run', '--output=out'])
  assert refusals.files('.') == before
