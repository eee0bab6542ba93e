"""Which files a user's module consists of, and what they contain.

A module is named by the path of a `.py` file or by its dotted name. It is found
without importing it or its packages, so that nothing is loaded when only its
bytes are wanted.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
import hashlib
import importlib
import importlib.machinery
import os
import pathlib
import pkgutil
import sys
import sysconfig
from types import ModuleType

from hypergrid_jax.errors import UserError, closest

_PACKAGE = pathlib.Path(__file__).parents[1].resolve()
# In a checkout, the package's own directories lie side by side.
_OURS = (_PACKAGE, _PACKAGE.parent / 'hypergrid_jax')
_SITES = ('site-packages', 'dist-packages')


def find(name: str) -> pathlib.Path:
  """Returns the file of a module, of a package its `__init__.py`.

  The working directory is searched too, after `sys.path`.

  Args:
    name: a dotted module name, or the path of a `.py` file.

  Raises:
    UserError: there is no such module or file.
  """
  importlib.invalidate_caches()  # the file may have been written just now
  if not name.endswith('.py'):
    return _find_dotted(name)
  path = pathlib.Path(name).resolve()
  if not path.is_file():
    beside = path.parent.glob('*.py') if path.parent.is_dir() else ()
    raise UserError(
      f'Task module {name}: there is no such file.'
      f'{closest(path.name, [other.name for other in beside])}'
    )
  return path


def loaded(path: pathlib.Path) -> ModuleType | None:
  """Returns the module of a file if this process has imported it."""
  for module in list(sys.modules.values()):
    # The name first: resolving the paths of a thousand modules takes a second.
    name = os.path.basename(getattr(module, '__file__', None) or '')
    if name == path.name and _file(module) == path:
      return module
  return None


def is_own(path: pathlib.Path, root: pathlib.Path) -> bool:
  """Whether a file is to be watched for changes.

  Args:
    path: of a file.
    root: of the module in question. Of installed files, only those of its own
      package may change without a change of version that is known.
  """
  if any(path.is_relative_to(folder) for folder in _OURS):
    return False
  package = installed_package(path)
  return package is None or package == installed_package(root)


def own_files(root: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Returns the file of a module and those of all it imports, loaded or not.

  Imports are read from the source, those inside functions too; only files that
  `is_own` says are to be watched.
  """
  found: set[pathlib.Path] = set()
  waiting = [root]
  while waiting:
    path = waiting.pop()
    if path not in found and is_own(path, root):
      found.add(path)
      waiting += _imported(path)
  return tuple(sorted(found))


def own_modules(
  names: Iterable[str], root: pathlib.Path
) -> tuple[pathlib.Path, ...]:
  """Returns the files of imported modules that are to be watched."""
  paths = {_file(sys.modules[name]) for name in names} - {None}
  return tuple(sorted(path for path in paths if is_own(path, root)))


def installed_package(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the directory of the package that a file is installed in.

  Args:
    path: of a Python file.

  Returns:
    The top directory of the package, or of Python's own library; None for a
    file that is not installed.
  """
  for depth in range(len(path.parts) - 2, 0, -1):
    if path.parts[depth] in _SITES:
      return pathlib.Path(*path.parts[: depth + 2])
  for name in ('stdlib', 'platstdlib'):
    folder = pathlib.Path(sysconfig.get_path(name)).resolve()
    if path.is_relative_to(folder):
      return folder
  return None


def digests(paths: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
  """Returns the SHA-256 of each file's bytes; 'absent' for one that is gone."""
  result = {}
  for path in paths:
    try:
      content = pathlib.Path(path).read_bytes()
      result[os.fspath(path)] = hashlib.sha256(content).hexdigest()
    except OSError:
      result[os.fspath(path)] = 'absent'
  return result


def _find_dotted(name: str) -> pathlib.Path:
  places: Sequence[str] | None = None
  parts = name.split('.')
  for depth in range(1, len(parts) + 1):
    here = '.'.join(parts[:depth])
    spec = _spec(here, places) if parts[depth - 1] else None
    if spec is None:
      beside = [m.name for m in pkgutil.iter_modules(places or [os.getcwd()])]
      raise UserError(
        f'Task module {name}: there is no module {here!r}.'
        f'{closest(parts[depth - 1], beside)} Expected the path of a TOML or'
        ' Python file, or the name of a module that can be imported.'
      )
    places = list(spec.submodule_search_locations or [])
  if spec.origin is None or not spec.origin.endswith('.py'):
    raise UserError(
      f'Task module {name}: it is no Python file but'
      f' {spec.origin or "a directory without __init__.py"}.'
    )
  return pathlib.Path(spec.origin).resolve()


def _spec(
  name: str, places: Sequence[str] | None
) -> importlib.machinery.ModuleSpec | None:
  """Finds a module as an import would, but imports no package above it."""
  for finder in sys.meta_path:
    spec = finder.find_spec(name, places)
    if spec is not None:
      return spec
  if places is not None:
    return None
  return importlib.machinery.PathFinder.find_spec(name, [os.getcwd()])


def _file(module: ModuleType) -> pathlib.Path | None:
  path = getattr(module, '__file__', None)
  if not isinstance(path, str) or not path.endswith('.py'):
    return None
  return pathlib.Path(path).resolve()


def _imported(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the files that a Python file imports, whether loaded or not."""
  try:
    tree = ast.parse(path.read_bytes())
  except (OSError, SyntaxError, ValueError):
    return
  for node in ast.walk(tree):
    names: list[str] = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      module = node.module or ''
      names = [module, *(f'{module}.{alias.name}' for alias in node.names)]
    level = getattr(node, 'level', 0)
    for name in names:
      yield from _files_on_the_way(name.strip('.'), path, level)


def _files_on_the_way(
  name: str, importer: pathlib.Path, level: int
) -> Iterator[pathlib.Path]:
  """Yields the file of a module and of the packages above it, if there."""
  # Siblings of a file that is named by its path are found in its directory.
  places: Sequence[str] | None = None
  if level:
    places = [str(importer.parents[level - 1])]
    yield importer.parents[level - 1] / '__init__.py'
  parts = name.split('.') if name else []
  for depth in range(1, len(parts) + 1):
    here = '.'.join(parts[:depth])
    spec = _spec(here, places) or (
      importlib.machinery.PathFinder.find_spec(here, [str(importer.parent)])
      if places is None
      else None
    )
    if spec is None:
      return
    if spec.origin is not None and spec.origin.endswith('.py'):
      yield pathlib.Path(spec.origin).resolve()
    places = list(spec.submodule_search_locations or [])
