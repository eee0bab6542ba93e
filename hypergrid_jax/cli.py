"""The `hypergrid` command: its exit codes, and what is said about a mistake.

Exit codes: 0 success; 2 a user's mistake, with one message; 1 anything else,
with a traceback, and `doctor` when something is missing; 130 after Ctrl-C.
"""

from collections.abc import Iterator, Sequence
import errno
import os
import sys

from hypergrid_jax import arguments, errors


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb.

  Args:
    argv: the arguments after the program's name; None for the process's own.

  Returns:
    The exit code; see the module.
  """
  try:
    options = arguments.parse(sys.argv[1:] if argv is None else argv)
    return options.run(options)
  except KeyboardInterrupt:
    sys.stderr.write('\nInterrupted.\n')
    return 130
  except BrokenPipeError:  # the reader of a pipe has left, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except Exception as error:
    message = _user_message(error)
    if message is None:
      raise
    sys.stderr.write(f'hypergrid: {message}\n')
    return 2


def _user_message(error: BaseException) -> str | None:
  """What to say about a mistake or an obstacle that the user can remove."""
  for cause in _chain(error):
    if isinstance(cause, errors.UserError):
      return str(cause)
    if not isinstance(cause, OSError):
      continue
    where = f'{cause.filename}: ' if cause.filename else ''
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
      return (
        f'{where}no space left on the disk. What was being written is not'
        ' used; free some space and run the same command again.'
      )
    if cause.errno in (errno.EACCES, errno.EROFS):
      return f'{where}{cause.strerror}. Choose a directory you can write to.'
  return None


def _chain(error: BaseException) -> Iterator[BaseException]:
  """The exception and those it was raised from."""
  current: BaseException | None = error
  while current is not None:
    yield current
    current = current.__cause__
