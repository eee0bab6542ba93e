"""The page on weights: its commands, one after the other, on a tiny T5."""

import json
import math
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from hypergrid_jax.cli import main
from hypergrid_jax.interop import names
from hypergrid_jax.model.config import T5Config
from hypergrid_jax.tasks import vocabularies
from tests import commands
from tests.interop import directories, runs

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'weights.md'
TEXT = PAGE.read_text()
COMMANDS = [
  shlex.split(text.replace('\\\n', ' '))
  for text in re.findall(r'```sh\n(.*?)\n```', TEXT, re.S)
]
VERBS = ['import', 'import', 'train', 'import', 'edit', 'edit', 'export']
# Enough to go the whole way.
SMALL = (
  "data.mixture=('glue_rte', 'glue_cola')",
  'data.batch_size=8',
  'HyperGrid.grid_rows=4',
  'HyperGrid.grid_cols=3',
  'train.num_steps=4',
  'train.checkpoint_period=2',
  'train.eval_period=0',
  'evaluate.batch_size=8',
  'evaluate.limit=8',
)


def test_every_command_is_one():
  assert [command[1] for command in COMMANDS] == VERBS
  for name, *rest in COMMANDS:
    assert name == 'hypergrid'
    commands.parsed(*rest)


@pytest.fixture
def page(tmp_path, monkeypatch):
  """A directory with the page's t5-small, as small as can be."""
  monkeypatch.chdir(tmp_path)
  sizes = {**runs.SIZES, 'vocab_size': 600}
  rng = np.random.default_rng(0)
  content = {
    name: rng.normal(scale=math.prod(shape[1:]) ** -0.5, size=shape)
    for name, shape in names.layout(T5Config(**sizes), 'hf').items()
  }
  content = {name: value.astype('f') for name, value in content.items()}
  path = directories.write_hf('t5-small', content={}, **sizes)
  save_file(content, path / directories.WEIGHTS)
  sample = vocabularies.vocabulary_path('sample')
  shutil.copy(sample, path / 'spiece.model')
  return tmp_path


@pytest.mark.slow  # loads TensorFlow, trains and evaluates
def test_the_page_goes_the_whole_way(page, capsys):
  for command in COMMANDS:
    small = SMALL if '--gin_file=gin/runs/quickstart.gin' in command else ()
    assert main.main([*command[1:], *small]) == 0, command
  printed = capsys.readouterr().out
  assert 'Starting from the parameters of checkpoints/t5-small; new are' in (
    printed
  )
  written = {path.name for path in (page / 'out/rte').iterdir()}
  assert {'model.safetensors', 'tokenizer.json', 'spiece.model'} <= written
  config = json.loads((page / 'out/rte/config.json').read_text())
  assert config['vocab_size'] == 640
  assert main.main(['eval', '--model_dir=runs/start', '--limit=2']) == 0
