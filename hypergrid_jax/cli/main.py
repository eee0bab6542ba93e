"""The `hypergrid` command: its exit codes, and what is said about a mistake.

Exit codes: 0 success; 2 a user's mistake, with one message; 1 anything else,
with a traceback, and `doctor` when something is missing; 130 after Ctrl-C.
"""

from collections.abc import Sequence
import sys

import typer

import hypergrid_jax
from hypergrid_jax import errors
from hypergrid_jax.cli import flags, tasks, verbs, weights

app = flags.make_app(
  'Trains and evaluates one T5 on many tasks. `--version` prints its version.',
  example='hypergrid train --gin_file=gin/runs/quickstart.gin',
)
app.add_typer(verbs.app)
app.add_typer(tasks.app, name='tasks')
app.add_typer(weights.app)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb.

  Args:
    argv: the arguments after the program's name; None for the process's own.

  Returns:
    The exit code; see the module.
  """
  arguments = sys.argv[1:] if argv is None else argv
  if list(arguments) == ['--version']:
    sys.stdout.write(f'{hypergrid_jax.__version__}\n')
    return 0
  command = typer.main.get_command(app)
  try:
    code = command.main(
      [argument.removeprefix('--gin.') for argument in arguments],
      prog_name='hypergrid',
      standalone_mode=False,
    )
  except Exception as error:
    message = _message(error)
    if message is None:
      raise
    sys.stderr.write(f'hypergrid: {message}\n')
    return 2
  if code == 130:
    sys.stderr.write('\nInterrupted.\n')
  return code


def _message(error: Exception) -> str | None:
  """What to say about a user's mistake; None for any other error."""
  if not isinstance(error, typer.TyperException):
    return errors.user_message(error)
  context = getattr(error, 'ctx', None)
  path = context.command_path if context else 'hypergrid'
  message = error.format_message()
  end = '' if message.endswith(('.', '?')) else '.'
  return f'{message}{end} See {path} --help.'
