"""Files and directories that are written whole or not at all."""

from collections.abc import Iterable, Iterator
import contextlib
import os
import pathlib
import shutil

from hypergrid_jax.errors import UserError


def write_text(path: str | os.PathLike[str], parts: Iterable[str]) -> None:
  """Writes text under a temporary name and renames it when it is on the disk.

  A crash leaves the old content or the new, never a part of it.

  Args:
    path: the file; its directory is made when it is missing.
    parts: the text, in pieces; a single string is one too.

  Raises:
    UserError: the file cannot be written; what stood there before still does.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open('w', encoding='utf-8', newline='\n') as file:
      file.writelines(parts)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)
  except BaseException as error:
    with contextlib.suppress(OSError):  # the first error is the one to tell
      temporary.unlink(missing_ok=True)
    if isinstance(error, OSError):
      raise UserError(
        f'{path}: cannot be written ({error.strerror}). Free some space or'
        ' choose another directory; nothing there was changed.'
      ) from error
    raise


def _sync_directory(path: pathlib.Path) -> None:
  """Makes a rename in the directory survive a power failure."""
  directory = os.open(path, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


@contextlib.contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Makes a directory appear with all of its files, or not at all.

  Args:
    path: the directory; nothing may be there but an empty one.

  Yields:
    A temporary directory beside it, which is renamed when the block ends and
    removed when it fails.

  Raises:
    UserError: something is there already, or it cannot be written.
  """
  path = pathlib.Path(path).absolute()
  check_is_free(path)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  try:
    try:
      temporary.mkdir(parents=True)
    except OSError as error:
      raise UserError(
        f'{path}: cannot be written ({error.strerror}). Choose another'
        ' directory.'
      ) from error
    yield temporary
    check_is_free(path)
    temporary.replace(path)
    _sync_directory(path.parent)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def check_is_free(path: str | os.PathLike[str]) -> None:
  """Checks that a new directory can take this place.

  Raises:
    UserError: something is there already.
  """
  path = pathlib.Path(path)
  if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
    raise UserError(
      f'{path} is there already. Choose another directory, or move it away;'
      ' nothing is overwritten.'
    )
