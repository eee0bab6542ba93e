import os
import subprocess
import sys

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import tensorflow_guard

RELEASE = {
  'seqio': ('0.0.20', {'seqio/version.py': "__version__ = '0.0.20'\n"}),
  'tensorflow-datasets': (
    '4.9.10',
    {
      'tensorflow_datasets/version.py': "_PATCH = '10'\n",
      'tensorflow_datasets/core/reader.py': 'def read(): ...\n',
      'tensorflow_datasets/data.txt': 'not code\n',
    },
  ),
}


@pytest.fixture
def site(tmp_path):
  """A site directory with both releases, as pip leaves them."""
  for name, (version, files) in RELEASE.items():
    info = tmp_path / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
    record = [f'{info.name}/METADATA,,']
    for path, text in files.items():
      target = tmp_path / path
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_text(text)
      record.append(f'{path},sha256=x,{len(text)}')
    (info / 'RECORD').write_text('\n'.join(record) + '\n')
  return tmp_path


REPAIR = (
  'pip install --force-reinstall --no-deps seqio==0.0.20'
  ' tensorflow-datasets==4.9.10'
)


def check(site):
  tensorflow_guard.check((str(site),))


def test_the_releases_pass(site):
  check(site)


@pytest.mark.parametrize(
  'path',
  [
    'seqio/version.py',
    'tensorflow_datasets/version.py',
    # A mixture: the version is the release's, another file is not.
    'tensorflow_datasets/core/reader.py',
  ],
)
def test_a_replaced_file_is_refused_with_the_repair(site, path):
  (site / path).write_text("__version__ = '4.9.2.dev202308090034'\n")
  with pytest.raises(UserError) as error:
    check(site)
  assert REPAIR in str(error.value)
  assert path in str(error.value)


def test_a_removed_file_is_refused_with_the_repair(site):
  (site / 'seqio/version.py').unlink()  # what uninstalling the nightly does
  with pytest.raises(UserError, match='removed') as error:
    check(site)
  assert REPAIR in str(error.value)


def test_other_files_than_python_do_not_matter(site):
  (site / 'tensorflow_datasets/data.txt').write_text('edited by hand\n')
  check(site)


def test_all_differing_files_are_listed_in_their_order(site):
  for path in RELEASE['tensorflow-datasets'][1]:
    (site / path).write_text('')
  found = tensorflow_guard.differing_files('tensorflow-datasets', [str(site)])
  assert found == [
    'tensorflow_datasets/version.py',
    'tensorflow_datasets/core/reader.py',
  ]


def test_a_missing_distribution_is_named(tmp_path):
  with pytest.raises(UserError, match='seqio is not installed'):
    check(tmp_path)


def test_this_environment_has_the_releases():
  tensorflow_guard.check()


def test_as_a_program_it_exits_with_2_and_one_message(site):
  (site / 'seqio/version.py').write_text('')
  done = subprocess.run(
    [sys.executable, '-m', 'hypergrid_jax.tasks.tensorflow_guard'],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, 'PYTHONPATH': str(site)},
  )
  assert done.returncode == 2
  assert REPAIR in done.stderr
  assert 'Traceback' not in done.stderr


def test_loading_keeps_what_libraries_write_to_stderr(capfd):
  with tensorflow_guard.loading_tensorflow():
    os.write(2, b'a greeting')
  os.write(2, b'after')
  assert capfd.readouterr().err == 'after'


def _failing_import():
  with tensorflow_guard.loading_tensorflow():
    os.write(2, b'the reason')
    raise ImportError


def test_loading_shows_it_when_the_import_fails(capfd):
  with pytest.raises(ImportError):
    _failing_import()
  assert capfd.readouterr().err == 'the reason'
