"""Compiled programs are kept between processes, unless the user decides else.

A run that goes on, its evaluation, and other seeds of it are the same programs;
they are read from the disk instead of compiled again.
"""

import hashlib
import logging
import os
import pathlib
import platform

import jax

# The least recently used programs beyond this are removed.
MOST_BYTES = 4 * 2**30

_CPU_FACTS = pathlib.Path('/proc/cpuinfo')
_LOGGER = logging.getLogger(__name__)


def turn_on() -> pathlib.Path | None:
  """Has JAX keep compiled programs below the user's cache directory.

  JAX_COMPILATION_CACHE_DIR names another place, and
  JAX_ENABLE_COMPILATION_CACHE=false switches it off: what the user has set
  stays. A directory that cannot be written is no mistake; programs are then
  compiled each time. To be called when the processes of a run are connected:
  several on CPUs keep nothing, whatever is set, since a program that was read
  back waits for the others' messages in vain (JAX 0.10.2, Gloo).

  Returns:
    The directory; None where JAX's own settings hold, or none can be made.
  """
  config = jax.config
  if jax.process_count() > 1 and jax.default_backend() == 'cpu':
    config.update('jax_enable_compilation_cache', False)
  if (
    config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache
  ):
    return None
  directory = _directory()
  try:
    directory.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    _LOGGER.info('no compiled programs are kept: %s', error)
    return None
  if not os.access(directory, os.W_OK):
    _LOGGER.info('no compiled programs are kept: cannot write %s', directory)
    return None
  config.update('jax_compilation_cache_dir', str(directory))
  config.update('jax_compilation_cache_max_size', MOST_BYTES)
  return directory


def _directory() -> pathlib.Path:
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = pathlib.Path(base).expanduser() / 'hypergrid_jax' / 'xla'
  return folder / _this_cpu()


def _this_cpu() -> str:
  """Names the kind of processor.

  Programs for a CPU use its instructions, of which JAX's key says nothing: a
  home directory may be shared with older machines.
  """
  facts = platform.machine()
  try:
    lines = _CPU_FACTS.read_text().splitlines()
    # On x86 and on ARM; the same for every core.
    marks = ('flags', 'Features')
    facts += next(line for line in lines if line.startswith(marks))
  except (OSError, StopIteration):
    facts += platform.processor()
  digest = hashlib.sha256(facts.encode()).hexdigest()
  return f'{platform.machine()}-{digest[:12]}'
