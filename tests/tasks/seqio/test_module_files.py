"""Which files a module consists of, without importing any."""

import pathlib
import sys

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.seqio import module_files


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package whose import would fail, with modules that import each other."""
  files = {
    'pkg/__init__.py': 'raise RuntimeError',
    'pkg/tasks.py': (
      'import json, numpy\nfrom .deep import more\n'
      'def late():\n  import lonely\n  from hypergrid_jax import errors'
    ),
    'pkg/texts.py': 'from pkg.deep import words as Y\nimport nowhere',
    'pkg/deep/words.py': '',
    'pkg/deep/__init__.py': '',
    'pkg/deep/more.py': 'from .. import unknown\nfrom ..texts import Y',
    'pkg/unused.py': '',
    'pkg/data.txt': '',
    'lonely.py': 'this is not Python',
  }
  for name, text in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  return tmp_path


def names(paths, folder):
  return {str(path.relative_to(folder)) for path in paths}


def test_a_dotted_name_is_found_without_importing(package):
  assert module_files.find('pkg.tasks') == package / 'pkg' / 'tasks.py'
  assert module_files.find('pkg') == package / 'pkg' / '__init__.py'
  assert 'pkg' not in sys.modules


def test_the_working_directory_is_searched_last(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'json.py').write_text('')
  (tmp_path / 'mine.py').write_text('')
  assert module_files.find('mine') == tmp_path / 'mine.py'
  assert module_files.find('json').parent != tmp_path


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('pkg.taskss', "no module 'pkg.taskss'. Did you mean 'tasks'"),
    ('pkgg.tasks', "there is no module 'pkgg'"),
    ('pkg.tasks.more', "there is no module 'pkg.tasks.more'"),
    ('math', 'it is no Python file but'),
    ('{}/pkg/task.py', "there is no such file. Did you mean 'tasks.py'"),
    ('{}/nowhere/x.py', 'there is no such file.'),
  ],
)
def test_what_is_no_module(package, name, message):
  with pytest.raises(UserError) as error:
    module_files.find(name.format(package))
  assert message in str(error.value)


def test_own_files_are_what_the_sources_import(package):
  found = module_files.own_files(package / 'pkg' / 'tasks.py')
  assert names(found, package) == {
    'pkg/__init__.py',
    'pkg/tasks.py',
    'pkg/texts.py',
    'pkg/deep/__init__.py',
    'pkg/deep/more.py',
    'pkg/deep/words.py',
    'lonely.py',
  }


def test_a_file_finds_what_lies_beside_it(tmp_path):
  (tmp_path / 'a.py').write_text('import b_beside')
  (tmp_path / 'b_beside.py').write_text('')
  found = module_files.own_files(tmp_path / 'a.py')
  assert names(found, tmp_path) == {'a.py', 'b_beside.py'}


def test_installed_files_are_watched_for_their_own_package_alone(tmp_path):
  site = tmp_path / 'lib' / 'site-packages'
  root = site / 'theirs' / 'sub' / 'tasks.py'
  assert module_files.is_own(site / 'theirs' / 'texts.py', root)
  assert not module_files.is_own(site / 'numpy' / 'x.py', root)
  assert module_files.is_own(tmp_path / 'x.py', root)
  assert not module_files.is_own(pathlib.Path(pytest.__file__), tmp_path / 'x')
  assert not module_files.is_own(pathlib.Path(pathlib.__file__), tmp_path / 'x')
  ours = pathlib.Path(module_files.__file__)
  assert not module_files.is_own(ours, tmp_path / 'x.py')


def test_digests_follow_bytes(tmp_path):
  path = tmp_path / 'a.py'
  path.write_text('')
  empty = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
  assert module_files.digests([path]) == {str(path): empty}
  path.unlink()
  assert module_files.digests([str(path)]) == {str(path): 'absent'}


def test_a_loaded_module_is_found_by_its_file():
  assert module_files.loaded(pathlib.Path(__file__).resolve()) is not None
  assert module_files.loaded(pathlib.Path('/no/such.py')) is None
