"""Runs the command on something malformed, and watches what it leaves."""

import pathlib

from hypergrid_jax.cli import main


def files(directory):
  """The bytes of every file below a directory, by path."""
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(pathlib.Path(directory).rglob('*'))
    if path.is_file()
  }


def refusal(capsys, arguments):
  """Runs the command in the working directory; returns its one message.

  It must exit with 2, say one thing without a traceback, and leave every file
  as it was, without new ones.
  """
  before = files('.')
  code = main.main(list(arguments))
  message = capsys.readouterr().err
  assert code == 2, (code, message)
  assert message.startswith('hypergrid: ')
  assert 'Traceback' not in message
  assert files('.') == before
  return message.removeprefix('hypergrid: ')


def write(path, content):
  """Writes text or bytes, and the directories above."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  data = content.encode() if isinstance(content, str) else content
  path.write_bytes(data)
