"""docs/methods.md: its method keeps the laws, and its commands run."""

import pathlib
import re
import shlex
import sys
import types

import pytest

from hypergrid_jax import testing
from hypergrid_jax.cli import main
from hypergrid_jax.config import registry

TEXT = (pathlib.Path(__file__).parents[1] / 'docs' / 'methods.md').read_text()
FILES = dict(re.findall(r'```python file=(\S+)\n(.*?)```', TEXT, re.DOTALL))
COMMANDS = re.findall(r'```sh run\n(.*?)\n```', TEXT, re.DOTALL)


def _module():
  module = types.ModuleType('task_scale_of_the_page')
  sys.modules[module.__name__] = module  # dataclasses look it up
  exec(FILES['task_scale.py'], module.__dict__)
  return module


TestTaskScale = testing.method_laws(_module().TaskScale())
TestTaskScale = pytest.mark.usefixtures('compile_quickly')(TestTaskScale)


@pytest.fixture
def page(tmp_path, monkeypatch):
  """The page's files in the working directory; what they register goes."""
  for name, content in FILES.items():
    (tmp_path / name).write_text(content)
  monkeypatch.chdir(tmp_path)
  kept = {kind: dict(names) for kind, names in registry.COMPONENTS.items()}
  yield tmp_path
  registry.COMPONENTS.clear()
  registry.COMPONENTS.update(kept)
  sys.modules.pop('task_scale', None)


def test_the_page_trains_evaluates_and_compares(page, capsys):
  assert [command.split()[1] for command in COMMANDS] == [
    'train',
    'eval',
    'compare',
  ]
  for command in COMMANDS:
    arguments = shlex.split(command.replace('\\\n', ' '))[1:]
    assert main.main(arguments) == 0, capsys.readouterr().err
  assert (page / 'runs' / 'scale' / 'modules' / 'task_scale.py').exists()
  config = (page / 'runs' / 'scale' / 'config.gin').read_text()
  assert 'import task_scale' in config
  assert 'task_scale.TaskScale.shift = False' in config
  table = (page / 'runs' / 'compare' / 'compare.md').read_text()
  assert 'task_scale.TaskScale' in table


def test_the_laws_file_of_the_page_is_the_one_that_runs_here():
  assert 'testing.method_laws(TaskScale())' in FILES['test_task_scale.py']
