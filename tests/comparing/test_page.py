"""The commands of the page and of the gin file are ones that can be run."""

import pathlib
import re
import shlex

import pytest

from hypergrid_jax.comparing import plan
from tests import commands

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'compare.md').read_text()
HEAD = (ROOT / 'gin' / 'runs' / 'compare.gin').read_text().partition('\n#\n')[0]
COMMANDS = [
  command
  for block in re.findall(r'```sh\n(.*?)```', PAGE, re.S)
  for command in block.replace('\\\n', ' ').splitlines()
]


@pytest.mark.parametrize(
  'command',
  [*COMMANDS, re.sub(r'\\\n# *', '', HEAD.removeprefix('# '))],
)
def test_a_command_makes_its_runs(command):
  name, *rest = shlex.split(command)
  options = commands.parsed(*rest)
  assert name == 'hypergrid'
  if options.verb == 'compare':
    planned = plan.make(
      options.methods,
      options.gin_file,
      options.bindings or (),
      {},
      directory='d',
      seeds=options.seeds,
      single_task_seeds=options.single_task_seeds,
    )
    runs = planned.runs(('glue_cola', 'glue_rte'))
    assert {run.method for run in runs} == set(options.methods)


def test_there_are_commands():
  assert sum(' compare ' in command for command in COMMANDS) >= 2
