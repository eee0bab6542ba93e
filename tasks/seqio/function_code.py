"""What functions are made of, to notice when one that has no module changes."""

from collections.abc import Iterable, Iterator
import contextlib
import functools
import hashlib
import inspect
import os
import pathlib
from typing import Any

from hypergrid_jax.tasks.seqio import module_files

_PLAIN = (str, bytes, int, float, type(None))


def fingerprint(functions: Iterable[Any]) -> str:
  """Returns a text that changes when what functions do may have changed.

  It follows the files that the functions come from and what those import; the
  source of functions without a file, as in a notebook; and the values bound to
  a function, by `functools.partial` or as a closure. Of other values only the
  class counts.

  Args:
    functions: and whatever else belongs to them.
  """
  digest = hashlib.sha256()
  files: set[pathlib.Path] = set()
  for value in _parts(list(functions), set()):
    if isinstance(value, _PLAIN):
      digest.update(repr(value).encode())
      continue
    path = None
    with contextlib.suppress(TypeError):  # built into Python
      path = inspect.getsourcefile(value)
    if path is not None and os.path.isfile(path):
      root = pathlib.Path(path).resolve()
      files.add(root)
      if module_files.installed_package(root) is None:
        files |= set(module_files.own_files(root))
      digest.update(value.__qualname__.encode())
    else:
      with contextlib.suppress(OSError, TypeError):  # nobody has its source
        digest.update(inspect.getsource(value).encode())
      digest.update(getattr(value, '__qualname__', '').encode())
  for path, content in module_files.digests(sorted(files)).items():
    digest.update(f'{path} {content}'.encode())
  return digest.hexdigest()


def _parts(values: Iterable[Any], seen: set[int]) -> Iterator[Any]:
  """Yields functions, classes and plain values inside the values, in order."""
  for value in values:
    if isinstance(value, _PLAIN):
      yield value
      continue
    if id(value) in seen:
      continue
    seen.add(id(value))
    if isinstance(value, functools.partial):
      inside = [value.func, value.args, value.keywords]
    elif isinstance(value, dict):
      inside = [*value, *value.values()]
    elif isinstance(value, tuple | list):
      inside = value
    elif inspect.isfunction(value) or inspect.ismethod(value):
      function = inspect.unwrap(value)
      yield function
      inside = _bound(function)
    else:
      yield value if inspect.isclass(value) else type(value)
      continue
    yield from _parts(inside, seen)


def _bound(function: Any) -> list[Any]:
  values = []
  for cell in getattr(function, '__closure__', None) or ():
    with contextlib.suppress(ValueError):  # a name that has no value yet
      values.append(cell.cell_contents)
  return values
