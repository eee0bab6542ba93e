"""The directory of one run: its files, and which run it belongs to.

`run.json` states the run's identity: everything that decides what a step
computes. A directory whose identity differs belongs to another run and is
refused; `fresh` moves it aside.
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import socket
import time
from typing import Any

from hypergrid_jax import errors, files

PACKAGES = (
  'hypergrid_jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'seqio',
  't5',
  'tensorflow-datasets',
  'sentencepiece',
)
# From a saved identity to a line for everything that differs.
Differences = Callable[[Mapping[str, Any]], Sequence[str]]
_SEEN_SECONDS = 60  # for caches of network file systems to notice a file
_RUN_FILES = ('run.json', 'checkpoints')
TOKENS = 'tokens'  # the token store of a run without --token_dir


def versions() -> dict[str, str]:
  """Versions of Python and of the packages that results depend on."""
  installed = {'python': platform.python_version()}
  for name in PACKAGES:
    try:
      installed[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      installed[name] = 'missing'
  return installed


def check_address(flag: str, directory: str | os.PathLike[str]) -> None:
  """Refuses an address such as 'gs://bucket/run' in place of a directory.

  Args:
    flag: the flag that names the directory, for the message.
    directory: the directory as the user wrote it.

  Raises:
    UserError: the directory is an address.
  """
  if scheme := re.match(r'\w+:/', str(directory)):
    raise errors.UserError(
      f'{flag}={directory}: expected a directory, not an address'
      f' ({scheme[0]}...). Mount the bucket, for example with gcsfuse, and name'
      ' the directory where it is mounted; docs/tpu.md shows how.'
    )


def prepare(
  directory: str | os.PathLike[str],
  differences: Differences,
  *,
  fresh: bool = False,
) -> pathlib.Path | None:
  """Makes the directory ready for this run, new or going on.

  Args:
    directory: the run's directory.
    differences: returns a line for everything in which the identity that it is
      given, of the run in the directory, differs from this run's.
    fresh: move a directory that holds a run aside instead of going on.

  Returns:
    Where the old run was moved, or None.

  Raises:
    UserError: the directory holds another run; names every difference.
  """
  directory = pathlib.Path(directory)
  if directory.exists() and not directory.is_dir():
    raise errors.UserError(
      f'{directory} is a file; --model_dir must name a directory.'
    )
  holds_run = _holds_run(directory)
  if holds_run and fresh:
    aside = _unused(directory)
    directory.rename(aside)
    if (aside / TOKENS).exists():
      # Tokens are the data's, not the run's, and may already be open.
      directory.mkdir()
      (aside / TOKENS).rename(directory / TOKENS)
    return aside
  if holds_run:
    check(directory, differences)
  directory.mkdir(parents=True, exist_ok=True)
  return None


def check(directory: str | os.PathLike[str], differences: Differences) -> None:
  """Refuses a directory that holds another run; changes nothing.

  Args:
    directory: the run's directory; it need not exist.
    differences: see `prepare`.

  Raises:
    UserError: it does; names every difference.
  """
  if not _holds_run(pathlib.Path(directory)):
    return
  if lines := differences(read_facts(directory)['identity']):
    raise errors.UserError(
      f'{directory} holds another run. What differs:\n'
      + '\n'.join(f'  {line}' for line in lines)
      + '\nChoose another --model_dir, or pass --fresh to move the old run'
      ' aside and start anew.'
    )


def write(
  directory: str | os.PathLike[str],
  config: str,
  facts: Mapping[str, Any],
  *,
  modules: Mapping[str, str] | None = None,
) -> str:
  """Writes config.gin, the modules that it imports, and run.json.

  Args:
    directory: the run's directory.
    config: the text of config.gin.
    facts: the content of run.json, the identity among it.
    modules: texts of the user's .py files, by file name; None for none.

  Returns:
    The `digest` of run.json, for other hosts to `wait_for`.
  """
  directory = pathlib.Path(directory)
  for name, text in (modules or {}).items():
    files.write_text(directory / 'modules' / name, [text])
  files.write_text(directory / 'config.gin', [config])
  text = files.to_json(facts, indent=2)
  files.write_text(directory / 'run.json', [text, '\n'])
  return digest(directory)


def digest(directory: str | os.PathLike[str]) -> str | None:
  """Returns the SHA-256 of run.json, or None where there is none."""
  try:
    content = pathlib.Path(directory, 'run.json').read_bytes()
  except FileNotFoundError:
    return None
  return hashlib.sha256(content).hexdigest()


def wait_for(
  directory: str | os.PathLike[str],
  written: str,
  *,
  timeout_seconds: float = _SEEN_SECONDS,
) -> None:
  """Waits until this host sees the run.json that process 0 has written.

  Args:
    directory: the run's directory.
    written: the `digest` of run.json in process 0.
    timeout_seconds: how long a shared file system may take.

  Raises:
    UserError: it is still not seen; the directory is not shared.
  """
  deadline = time.monotonic() + timeout_seconds
  while digest(directory) != written:
    if time.monotonic() > deadline:
      raise errors.UserError(
        f'{socket.gethostname()} does not see the run.json that process 0 has'
        f' written to {directory}. --model_dir must name one directory that all'
        ' hosts share: a mounted bucket, or NFS.'
      )
    time.sleep(0.1)


def config_file(directory: str | os.PathLike[str]) -> str:
  """Returns the path of the config.gin of the run in a directory.

  Raises:
    UserError: there is no run in the directory.
  """
  if not pathlib.Path(directory, 'run.json').exists():
    raise _no_run(directory)
  return str(pathlib.Path(directory, 'config.gin'))


def read_facts(directory: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads run.json.

  Raises:
    UserError: there is no run in the directory, or its run.json is damaged.
  """
  path = pathlib.Path(directory) / 'run.json'
  try:
    facts = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise _no_run(directory) from None
  except (ValueError, OSError) as error:
    raise errors.UserError(f'{path} cannot be read: {error}') from error
  if not isinstance(facts, dict) or 'identity' not in facts:
    raise errors.UserError(f'{path} lacks the field "identity".')
  return facts


def _no_run(directory: str | os.PathLike[str]) -> errors.UserError:
  return errors.UserError(
    f'{directory} holds no run: there is no run.json in it. --model_dir must'
    ' name a directory that `hypergrid train` has made.'
  )


def _holds_run(directory: pathlib.Path) -> bool:
  return any((directory / name).exists() for name in _RUN_FILES)


def _unused(directory: pathlib.Path) -> pathlib.Path:
  number = 1
  while (
    path := directory.with_name(f'{directory.name}.old-{number}')
  ).exists():
    number += 1
  return path
