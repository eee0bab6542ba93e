"""The `hypergrid` command: its exit codes, and what is said about a mistake.

Exit codes: 0 success; 2 a user's mistake, with one message; 1 anything else,
with a traceback, and `doctor` when something is missing; 130 after Ctrl-C.
"""

from collections.abc import Sequence
import os
import sys

from hypergrid_jax import errors
from hypergrid_jax.cli import arguments


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
    message = errors.user_message(error)
    if message is None:
      raise
    sys.stderr.write(f'hypergrid: {message}\n')
    return 2
