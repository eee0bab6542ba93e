"""Whether the installed seqio and TFDS are the releases they say they are.

t5 requires the nightly builds of seqio and of TensorFlow Datasets, and both
share their directories with the releases that this project requires. Whichever
is unpacked last wins, file by file, while the metadata of all four stays: with
the nightly's files `import seqio` works and every data set read fails. Neither
package is imported here; the files are held against the release's own list.
"""

from collections.abc import Iterator, Sequence
import contextlib
import csv
import functools
import importlib.metadata
import os
import sys
import tempfile
from types import ModuleType

from hypergrid_jax import errors

RELEASES = ('seqio', 'tensorflow-datasets')


def differing_files(
  distribution: str, search_path: Sequence[str] | None = None
) -> list[str]:
  """Lists Python files that are not those of the installed release.

  Args:
    distribution: name of the distribution, as pip knows it.
    search_path: directories to look in; None for `sys.path`.

  Returns:
    Paths relative to the site directory, missing files included, in the order
    of the distribution's RECORD.

  Raises:
    UserError: if the distribution is not installed.
  """
  found = _find(distribution, search_path)
  return [
    name
    for name, size in _recorded_sizes(found)
    if _size(os.fspath(found.locate_file(name))) != size
  ]


def repair_command(search_path: Sequence[str] | None = None) -> str:
  """The command that puts the releases' files back."""
  pins = [f'{n}=={_find(n, search_path).version}' for n in RELEASES]
  return f'pip install --force-reinstall --no-deps {" ".join(pins)}'


@functools.lru_cache
def check(search_path: tuple[str, ...] | None = None) -> None:
  """Refuses an installation whose seqio or TFDS is a mixture.

  To be called before the first import of either; later calls cost nothing.

  Args:
    search_path: directories to look in; None for `sys.path`.

  Raises:
    UserError: with the command that repairs it.
  """
  for distribution in RELEASES:
    wrong = differing_files(distribution, search_path)
    if wrong:
      version = _find(distribution, search_path).version
      raise errors.UserError(
        f'{distribution} {version}: {len(wrong)} of its files were replaced or'
        f' removed, by the nightly build that t5 requires ({wrong[0]} is the'
        ' first). Reading data would fail. Repair:\n'
        f'  {repair_command(search_path)}'
      )


@contextlib.contextmanager
def loading_tensorflow() -> Iterator[None]:
  """For the block that imports seqio, and with it TensorFlow.

  Checks the installation, and keeps what TensorFlow's libraries write to the
  process's standard error as they load, unless the import fails. Accelerators
  are hidden from TensorFlow, which would claim the memory of JAX's devices.

  Raises:
    UserError: see `check`.
  """
  check()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as kept:
    os.dup2(kept.fileno(), 2)
    try:
      yield
      _hide_accelerators(sys.modules.get('tensorflow'))
    except BaseException:
      kept.seek(0)
      os.write(stderr, kept.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)


def _hide_accelerators(tensorflow: ModuleType | None) -> None:
  if tensorflow is None:
    return
  # In use already, it has claimed what it has claimed.
  with contextlib.suppress(RuntimeError):
    tensorflow.config.set_visible_devices([], 'GPU')


def _find(
  distribution: str, search_path: Sequence[str] | None
) -> importlib.metadata.Distribution:
  where = {} if search_path is None else {'path': list(search_path)}
  for found in importlib.metadata.distributions(name=distribution, **where):
    return found
  raise errors.UserError(
    f'{distribution} is not installed. Install the project with its'
    ' dependencies: pip install hypergrid_jax'
  )


def _recorded_sizes(
  found: importlib.metadata.Distribution,
) -> Iterator[tuple[str, int]]:
  """Python files and their sizes, bytes; none for an editable install."""
  record = found.read_text('RECORD') or ''
  for name, _, size in csv.reader(record.splitlines()):
    if name.endswith('.py') and size:
      yield name, int(size)


def _size(path: str) -> int | None:
  try:
    return os.stat(path).st_size
  except FileNotFoundError:
    return None


def main() -> int:
  """Exits 2, with the repair on stderr, when the installation is damaged."""
  try:
    check()
  except errors.UserError as error:
    sys.stderr.write(f'{error}\n')
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
