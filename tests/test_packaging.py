"""What is installed: all gin files and tasks, and nothing beside them."""

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PARTS = (
  'hypergrid_jax',
  'tasks',
  'gin',
  'launch',
  'setup.py',
  'pyproject.toml',
  'LICENSE',
)
PYTHON = f'{sys.version_info[0]}.{sys.version_info[1]}'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """A wheel built from a copy, without network: with this setuptools."""
  source = tmp_path_factory.mktemp('source')
  for name in PARTS:
    if (ROOT / name).is_dir():
      ignored = shutil.ignore_patterns('__pycache__')
      shutil.copytree(ROOT / name, source / name, ignore=ignored)
    else:
      shutil.copy(ROOT / name, source)
  out = tmp_path_factory.mktemp('wheel')
  command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps']
  command += ['--no-build-isolation', '--no-index', '-w', str(out), '.']
  subprocess.run(command, cwd=source, check=True)
  return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
  site = tmp_path_factory.mktemp('site')
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(site)
  return site


@pytest.fixture(scope='module')
def metadata(installed):
  path = next(installed.glob('*.dist-info')) / 'METADATA'
  return email.message_from_string(path.read_text())


def run_installed(installed, directory, *arguments):
  """Runs the installed package, outside the checkout."""
  return subprocess.run(
    [sys.executable, *arguments],
    capture_output=True,
    text=True,
    check=False,
    cwd=directory,
    env={**os.environ, 'PYTHONPATH': str(installed), 'COLUMNS': '160'},
  )


def expected_files(folder, pattern):
  return {
    str(path.relative_to(ROOT / folder))
    for path in (ROOT / folder).rglob(pattern)
  }


@pytest.mark.parametrize(
  ('folder', 'pattern', 'inside'),
  [
    ('gin', '*.gin', 'hypergrid_jax/gin'),
    ('tasks', '*.py', 'hypergrid_jax/tasks'),
    ('tasks', '*.model', 'hypergrid_jax/tasks'),
    ('hypergrid_jax', '*.py', 'hypergrid_jax'),
  ],
)
def test_every_file_is_in_the_wheel(wheel, folder, pattern, inside):
  expected = expected_files(folder, pattern)
  assert expected
  names = set(zipfile.ZipFile(wheel).namelist())
  assert {f'{inside}/{name}' for name in expected} <= names


def test_nothing_else_is_in_the_wheel(wheel):
  tops = {name.split('/')[0] for name in zipfile.ZipFile(wheel).namelist()}
  assert len(tops) == 2
  assert all(re.match(r'hypergrid_jax(-.*\.dist-info)?$', top) for top in tops)


def test_the_license_and_the_command_are_in_the_wheel(installed):
  info = next(installed.glob('*.dist-info'))
  assert next(info.rglob('LICENSE')).read_bytes() == (
    (ROOT / 'LICENSE').read_bytes()
  )
  text = (info / 'entry_points.txt').read_text()
  assert 'hypergrid = hypergrid_jax.cli.main:main' in text


def test_the_version_is_the_package_s(metadata):
  init = (ROOT / 'hypergrid_jax' / '__init__.py').read_text()
  assert f"__version__ = '{metadata['Version']}'" in init
  assert metadata['Requires-Python'] == '>=3.11'


def test_the_extras_exist(metadata):
  extras = {'tpu', 'gpu', 'test', 'plots', 'torch', 'peers', 'hub'}
  assert set(metadata.get_all('Provides-Extra')) == extras


def test_the_lines_that_keep_the_releases_in_place(metadata):
  required = metadata.get_all('Requires-Dist')
  for line in (
    't5==0.9.4',
    'seqio>=0.0.20',
    'tensorflow-datasets>=4.9.10',
    'importlib_resources',
  ):
    assert line in required
  assert not [line for line in required if 'nightly' in line]


def test_the_installed_package_finds_its_gin_files(installed, tmp_path):
  program = (
    'import hypergrid_jax; print(hypergrid_jax.__file__)\n'
    'from hypergrid_jax.config import run_config\n'
    "run = run_config.parse(['gin/runs/quickstart.gin'])\n"
    "assert run == run_config.parse(['runs/quickstart.gin'])\n"
    'print(run.data.mixture)\n'
  )
  done = run_installed(installed, tmp_path, '-c', program)
  assert done.stderr == ''
  assert done.stdout.split() == [
    str(installed / 'hypergrid_jax' / '__init__.py'),
    'glue_super_glue',
  ]


def test_the_installed_command_has_the_sample_corpus(installed, tmp_path):
  done = run_installed(
    installed, tmp_path, '-m', 'hypergrid_jax', 'tasks', 'list'
  )
  assert done.returncode == 0
  for name in ('glue_cola', 'super_glue_wsc'):
    line = next(line for line in done.stdout.splitlines() if name in line)
    assert 'train, validation' in line


def constraints():
  """(name, version, marker) of every line."""
  for line in (ROOT / 'constraints.txt').read_text().splitlines():
    if not line.startswith('#'):
      pin, _, marker = line.partition(';')
      name, version = pin.strip().split('==')
      yield name, version, marker.strip()


def test_every_package_is_pinned_once_for_each_python():
  pinned = {}
  for name, _, marker in constraints():
    pinned.setdefault(name, []).append(marker)
  both = ['python_version < "3.12"', 'python_version >= "3.12"']
  assert all(sorted(m) in ([''], both) for m in pinned.values())


def test_what_the_project_asks_for_is_pinned(metadata):
  pinned = {name for name, _, _ in constraints()}
  required = [
    line
    for line in metadata.get_all('Requires-Dist')
    if not re.search(r"extra == ['\"](tpu|gpu|torch|peers)['\"]", line)
  ]
  names = {re.match(r'[\w.-]+', line)[0].lower() for line in required}
  assert {name.replace('_', '-') for name in names} <= pinned


def make(directory, *arguments, **variables):
  if shutil.which('make') is None:
    pytest.skip('there is no make on this machine')
  # What a make that runs these tests hands down would decide instead.
  outer = ('PYTHON', 'VENV', 'MAKEFLAGS', 'MFLAGS', 'MAKEOVERRIDES')
  environment = {k: v for k, v in os.environ.items() if k not in outer}
  return subprocess.run(
    ['make', '-n', *arguments],
    capture_output=True,
    text=True,
    check=False,
    cwd=directory,
    env={**environment, **variables},
  )


@pytest.fixture
def checkout(tmp_path):
  for name in ('Makefile', 'setup.py', 'pyproject.toml', 'constraints.txt'):
    shutil.copy(ROOT / name, tmp_path)
  return tmp_path


def environment_of(checkout, python):
  bin_directory = checkout / '.venv' / 'bin'
  bin_directory.mkdir(parents=True)
  (bin_directory / python).touch()


class TestMake:
  def test_a_fresh_checkout_installs_into_venv(self, checkout):
    commands = make(checkout, 'test').stdout
    assert 'python3 -m venv .venv;' in commands
    assert (
      ".venv/bin/python -m pip install -c constraints.txt -e '.[test]'"
      in (commands)
    )
    assert '.venv/bin/python -m pytest -n 2 tests' in commands

  def test_python_picks_the_interpreter(self, checkout):
    commands = make(checkout, 'install', PYTHON=sys.executable).stdout
    assert f'{sys.executable} -m venv .venv;' in commands

  def test_an_environment_of_that_python_is_used(self, checkout):
    environment_of(checkout, f'python{PYTHON}')
    commands = make(checkout, 'test', PYTHON=sys.executable).stdout
    assert ' .venv/bin/python -m pytest' in f' {commands}'.replace('\n', ' ')

  def test_another_python_gets_an_environment_beside_it(self, checkout):
    environment_of(checkout, 'python3.99')
    commands = make(checkout, 'test', PYTHON=sys.executable).stdout
    assert f'.venv-{PYTHON}/bin/python -m pytest' in commands
    # Without a wish, the environment that is there is used.
    assert '.venv/bin/python -m pytest' in make(checkout, 'test').stdout

  def test_a_python_that_does_not_run_is_refused(self, checkout):
    done = make(checkout, 'test', PYTHON='no-such-python')
    assert done.returncode != 0
    assert 'PYTHON=no-such-python does not run' in done.stderr

  def test_a_second_run_does_not_install_again(self, checkout):
    environment_of(checkout, f'python{PYTHON}')
    (checkout / '.venv' / '.installed').touch()
    assert 'pip install' not in make(checkout, 'test').stdout
    os.utime(checkout / 'setup.py', (2**31, 2**31))
    assert 'pip install' in make(checkout, 'test').stdout
