"""The report of `hypergrid doctor`: what is missing and how to get it."""

import collections
from collections.abc import Callable, Iterator
import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
from typing import Literal, NamedTuple

from packaging import requirements, utils
from rich.console import Console
from rich.text import Text

from hypergrid_jax import console as console_lib
from hypergrid_jax import errors
from hypergrid_jax.tasks import tensorflow_guard

PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  't5',
  'seqio',
  'tensorflow',
  'tensorflow-text',
  'tensorflow-datasets',
  'importlib_resources',
  'gin-config',
  'jaxtyping',
  'sentencepiece',
  'rich',
  'typer',
  'tensorboardX',
)
OLDEST_PYTHON = (3, 11)
# A run's checkpoints and token store on a small scale; TFDS needs more.
DISK_GIB = 5
ACCELERATOR_FILES = {
  'GPU': ('/dev/nvidiactl', 'gpu'),
  'TPU': ('/dev/accel0', 'tpu'),
}
GIB = 2**30


class Finding(NamedTuple):
  """One line of the report.

  Attributes:
    subject: what was examined.
    state: 'ok'; 'note' for what a run can do with; 'missing' for what it
      cannot.
    detail: the result, and what to do about it.
  """

  subject: str
  state: Literal['ok', 'note', 'missing']
  detail: str


def report(data_source: str | None = None, *, console: Console) -> int:
  """Prints the report.

  Args:
    data_source: a source to check besides the sample corpus and TFDS.
    console: prints it.

  Returns:
    0 when nothing is missing, otherwise 1.
  """
  findings = list(_examine(data_source))
  table = console_lib.table(('state', 'subject', 'finding'))
  styles = {'ok': 'green', 'note': 'yellow', 'missing': 'bold red'}
  for finding in findings:
    state = Text(finding.state, style=styles[finding.state])
    table.add_row(state, finding.subject, finding.detail)
  console.print(table)
  missing = sum(finding.state == 'missing' for finding in findings)
  if missing:
    console_lib.say(console, f'{missing} to repair before a run.')
    return 1
  console_lib.say(console, 'Ready.')
  return 0


def tested_versions() -> dict[str, str]:
  """Reads constraints.txt for this Python; empty outside a checkout."""
  path = pathlib.Path(__file__).parents[2] / 'constraints.txt'
  if not path.is_file():
    return {}
  versions = {}
  for line in path.read_text(encoding='utf-8').splitlines():
    if not line.strip() or line.startswith('#'):
      continue
    pin = requirements.Requirement(line)
    if pin.marker is None or pin.marker.evaluate():
      (version,) = pin.specifier
      versions[utils.canonicalize_name(pin.name)] = version.version
  return versions


def _examine(data_source: str | None) -> Iterator[Finding]:
  yield _python()
  yield from _packages()
  yield _guarded('seqio and TFDS files', _release_files)
  yield _guarded('devices', _devices)
  yield from _accelerators()
  yield _memory()
  yield _disk()
  yield _guarded('source sample', lambda: _source('sample'))
  yield _guarded('source tfds', _tfds)
  if data_source is not None:
    subject = f'source {data_source}'
    yield _guarded(subject, lambda: _source(data_source))


def _guarded(subject: str, examine: Callable[[], Finding]) -> Finding:
  """Makes a failure a finding, so that the report goes on."""
  try:
    return examine()
  except Exception as error:
    text = str(error) or type(error).__name__
    return Finding(subject, 'missing', text)


def _python() -> Finding:
  version = f'{platform.python_version()} at {sys.executable}'
  if sys.version_info < OLDEST_PYTHON:
    return Finding('python', 'missing', f'{version}; 3.11 or newer is needed')
  return Finding('python', 'ok', version)


def _packages() -> Iterator[Finding]:
  versions = tested_versions()
  for name in PACKAGES:
    tested = versions.get(utils.canonicalize_name(name))
    try:
      version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      pin = f'{name}=={tested}' if tested else name
      yield Finding(name, 'missing', f'not installed: pip install {pin}')
      continue
    if tested in (None, version):
      yield Finding(name, 'ok', version)
    else:
      yield Finding(name, 'note', f'{version}; tested with {tested}')


def _release_files() -> Finding:
  tensorflow_guard.check()
  return Finding('seqio and TFDS files', 'ok', 'those of the releases')


def _devices() -> Finding:
  import jax

  kinds = collections.Counter(device.device_kind for device in jax.devices())
  devices = ', '.join(f'{count} x {kind}' for kind, count in kinds.items())
  return Finding('devices', 'ok', f'{jax.default_backend()}: {devices}')


def _accelerators() -> Iterator[Finding]:
  """Yields a finding per kind of hardware that JAX does not use."""
  jax = sys.modules.get('jax')
  if jax is None or jax.default_backend() != 'cpu':
    return
  for kind, (device, extra) in ACCELERATOR_FILES.items():
    if os.path.exists(device):
      yield Finding(
        kind,
        'note',
        f'there is a {kind} that JAX does not use; in a checkout: pip install'
        f" -c constraints.txt -e '.[{extra}]'",
      )


def _memory() -> Finding:
  size = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB
  return Finding('memory', 'ok', f'{size:.0f} GiB, {os.cpu_count()} CPU cores')


def _disk() -> Finding:
  directory = pathlib.Path.cwd()
  free = shutil.disk_usage(directory).free / GIB
  if not os.access(directory, os.W_OK):
    detail = f'{directory} cannot be written to; give --model_dir elsewhere'
    return Finding('disk', 'note', detail)
  state = 'ok' if free >= DISK_GIB else 'note'
  return Finding('disk', state, f'{free:.1f} GiB free in {directory}')


def _source(source: str) -> Finding:
  from hypergrid_jax.tasks import definitions
  from hypergrid_jax.tasks.rows import sources

  available = {
    task.name: sources.available_splits(source, task)
    for task in definitions.DEFINITIONS.values()
  }
  trained = sum('train' in splits for splits in available.values())
  absent = [name for name, splits in available.items() if not splits]
  detail = f'{trained} tasks with a training set'
  if absent:
    detail += f'; nothing of {", ".join(absent)}'
  if len(absent) == len(available):
    raise errors.UserError(
      f'{source} has no file of any task. Expected'
      ' DIR/{glue,super_glue}/TASK/SPLIT.{jsonl,tsv,csv}[.gz], for example'
      ' DIR/glue/sst2/train.jsonl.'
    )
  return Finding(f'source {source}', 'ok', detail)


def _tfds() -> Finding:
  from hypergrid_jax.tasks import definitions
  from hypergrid_jax.tasks.rows import sources

  prepared = {
    task.tfds
    for task in definitions.DEFINITIONS.values()
    if sources.tfds_directory(task).exists()
  }
  directory = sources.tfds_data_dir()
  if prepared:
    detail = f'{len(prepared)} data sets prepared in {directory}'
    return Finding('source tfds', 'ok', detail)
  return Finding(
    'source tfds',
    'note',
    f'nothing prepared in {directory}: a run downloads what it needs, or set'
    ' TFDS_DATA_DIR to where it is',
  )
