"""A user's module, named once: the run keeps it for every later verb."""

import pathlib
import subprocess
import sys

MODULE = """
import dataclasses

from hypergrid_jax import Adapters, register_method


@register_method
@dataclasses.dataclass(frozen=True)
class OwnAdapters(Adapters):
  '''The library's adapters under a name of one's own.'''
"""
SMALL = (
  *('data.mixture=glue_rte', 'data.batch_size=4', 'evaluate.limit=4'),
  *('train.num_steps=1', 'train.eval_period=0', 'T5Config.num_layers=1'),
  *('T5Config.num_decoder_layers=1', 'T5Config.d_model=16'),
)


def hypergrid(directory, *arguments):
  """Runs the command in a process of its own; returns code and messages."""
  done = subprocess.run(
    [sys.executable, '-m', 'hypergrid_jax', *arguments],
    capture_output=True,
    text=True,
    cwd=directory,
  )
  return done.returncode, done.stderr


def test_a_run_keeps_the_module_of_its_method(tmp_path):
  path = tmp_path / 'somewhere' / 'own_adapters.py'
  path.parent.mkdir()
  path.write_text(MODULE)
  train = ['train', '--gin_file=gin/runs/quickstart.gin', '--model_dir=run']
  train += ['run.method=OwnAdapters', 'OwnAdapters.reduction_factor=4', *SMALL]
  code, message = hypergrid(tmp_path, *train)
  assert code == 2
  assert 'OwnAdapters' in message
  code, message = hypergrid(tmp_path, *train, f'--import={path}')
  assert code == 0, message
  assert 'import own_adapters\n' in (tmp_path / 'run/config.gin').read_text()
  path.unlink()
  code, message = hypergrid(tmp_path, 'eval', '--model_dir=run')
  assert code == 0, message
  copy = pathlib.Path(tmp_path / 'run' / 'modules' / 'own_adapters.py')
  assert copy.read_text() == MODULE
