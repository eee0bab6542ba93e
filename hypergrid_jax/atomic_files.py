"""Files that are written whole or not at all."""

from collections.abc import Iterable
import contextlib
import os
import pathlib

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
