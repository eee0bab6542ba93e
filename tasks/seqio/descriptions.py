"""Tasks and mixtures that Python modules register with seqio, without seqio.

A module is imported once, by a process of its own (`facts`); what it
registers is kept beside the token store, so that a run with ready tokens loads
no TensorFlow. The description holds as long as the bytes of the module, of all
files that it imports, and the versions of seqio, t5 and TFDS stay the same.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
from importlib import metadata
import json
import logging
import os
import pathlib
import re
import subprocess
from typing import Any

from hypergrid_jax import files
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, subprocesses, task_definition
from hypergrid_jax.tasks.catalogue import mixtures
from hypergrid_jax.tasks.seqio import module_files
from hypergrid_jax.tasks.seqio import rows as rows_lib

# Below the token directory.
DIRECTORY = '.modules'
_PROGRAM = 'hypergrid_jax.tasks.seqio.facts'
_EVALUATED = re.compile('valid|dev|eval')

_LOGGER = logging.getLogger(__name__)


def load(
  name: str, *, cache: str | os.PathLike[str] | None = None
) -> tuple[str, ...]:
  """Makes what a module registers known to `definitions` and `mixtures`.

  Args:
    name: the path of a `.py` file, or a dotted module name.
    cache: directory that keeps the description; None to make it every time.

  Returns:
    The names of the tasks that can be used. Others are known to `definitions`
    with the reason why not.

  Raises:
    UserError: there is no such module, it cannot be imported or registers no
      task, or a name belongs to a task or mixture of another file.
  """
  path = module_files.find(name)
  task_file = str(path) if name.endswith('.py') else name
  described = _described(task_file, cache)
  if not described['tasks'] and not described['mixtures']:
    raise UserError(
      f'Task module {name} registers no task with seqio. It has to call'
      ' seqio.TaskRegistry.add when it is imported.'
    )
  code = _digest([described['files'], described['versions']])
  found = []
  for facts in described['tasks']:
    task = define(facts, task_file=task_file, code=code)
    found += [task.name] if task else []
  for facts in described['mixtures']:
    rates = RegisteredRates(
      task_file, facts['name'], facts['rates'], code, cache
    )
    mixtures.add(
      mixtures.MixtureDefinition(
        facts['name'],
        tuple(facts['tasks']),
        rates,
        task_file,
        facts['place'],
      )
    )
  return tuple(found)


def define(
  facts: Mapping[str, Any], *, task_file: str | None, code: str
) -> task_definition.TaskDefinition | None:
  """Makes a described task known; returns None when it cannot be used.

  Args:
    facts: see `facts.task_facts`; and 'place', file and line of the
      registration.
    task_file: the module, None when only this process knows the task.
    code: changes when the code that makes the examples may have changed.

  Raises:
    UserError: another file has a task of this name.
  """
  name, place = facts['name'], facts['place']
  known = definitions.DEFINITIONS.get(name)
  if (
    known is not None
    and known.task_file != task_file
    and place
    and getattr(known.rows, 'place', '') == place
  ):
    return known  # registered by a module that both task files import
  problem, parts = facts['problem'], facts.get('parts')
  if problem is None and not parts:
    parts, problem = _prepared_parts(facts['source'])
  if problem is not None:
    definitions.refuse(
      name, task_file, f'Task {name} of {place or "this process"}: {problem}.'
    )
    return None
  rows = rows_lib.SeqioRows(
    task=name,
    code=code,
    kind=facts['source']['kind'],
    source=facts['source']['class'],
    parts=parts,
    counts=facts['counts'],
    place=place,
  )
  task = task_definition.own_task(
    name, 'seqio', rows=rows, task_file=task_file, splits=_splits(parts)
  )
  definitions.add(task)
  return task


@dataclasses.dataclass(frozen=True)
class RegisteredRates:
  """The rates that a module registers a mixture with.

  Attributes:
    task_file: the module.
    mixture: name of the mixture.
    fixed: the rates by task; None where functions of the tasks compute them.
    code: see `define`.
    cache: see `load`.
  """

  task_file: str
  mixture: str
  fixed: Mapping[str, float] | None
  code: str
  cache: str | os.PathLike[str] | None

  def __call__(self, sizes: Mapping[str, int]) -> Mapping[str, float]:
    """Returns the rate of every task of the mixture.

    Args:
      sizes: training examples per task, for rates that follow from them.

    Raises:
      UserError: a rate cannot be computed.
    """
    if self.fixed is not None:
      return self.fixed
    key = _digest([self.code, self.mixture, dict(sizes)])
    file = _cache_file(self.cache, self.task_file, self.mixture)
    kept = _read(file)
    if kept is None or kept.get('key') != key:
      rates = _ask(self.task_file, self.mixture, json.dumps(dict(sizes)))
      kept = {'key': key, 'rates': rates}
      _write(file, kept)
    return kept['rates']


def _described(task_file: str, cache: Any) -> dict[str, Any]:
  """Returns the module's description, kept or made anew."""
  file = _cache_file(cache, task_file, '')
  kept = _read(file)
  versions = _versions()
  if (
    kept is not None
    and kept.get('versions') == versions
    and kept['files'] == module_files.digests(kept['files'])
  ):
    return kept
  made = {**_ask(task_file), 'versions': versions}
  _write(file, made)
  return made


def _ask(*arguments: str) -> Any:
  """Runs `facts` in a new process and returns its answer."""
  done = subprocess.run(
    [*subprocesses.command(_PROGRAM), *arguments],
    env=subprocesses.environment(),
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    check=False,
  )
  try:
    answer = json.loads(done.stdout)
  except ValueError:
    raise RuntimeError(
      f'{arguments[0]} could not be described; the process ended with code'
      f' {done.returncode}. Its last words:\n{done.stderr[-2000:]}'
    ) from None
  if 'user error' in answer:
    raise UserError(answer['user error'])
  return answer['result']


def _prepared_parts(
  source: Mapping[str, Any],
) -> tuple[dict[str, Any] | None, str | None]:
  """Finds the splits of TFDS data in their directory.

  Returns:
    The parts by split, or None and the problem.
  """
  dataset, data_dir = source['dataset'], source['data_dir']
  info = rows_lib.prepared(dataset, data_dir)
  if info is not None:
    part = {'dataset': dataset, 'data_dir': data_dir}
    splits = rows_lib.split_names(info)
    return {split: {**part, 'split': split} for split in splits}, None
  return None, (
    f'TFDS data {dataset} are not prepared in'
    f' {data_dir or rows_lib.sources.tfds_data_dir()}, so its splits are not'
    ' known. Prepare them where there is a network:\n'
    f'  python -c "import tensorflow_datasets as tfds; tfds.builder('
    f'{dataset!r}, data_dir={data_dir!r}).download_and_prepare()"\n'
    'or set TFDS_DATA_DIR to a directory that has them'
  )


def _splits(parts: Mapping[str, Any]) -> tuple[str | None, ...]:
  """Returns which split is trained on, evaluated on and tested on."""
  evaluated = [split for split in parts if _EVALUATED.match(split)]
  tested = [split for split in parts if split.startswith('test')]
  return (
    'train' if 'train' in parts else None,
    'validation' if 'validation' in parts else next(iter(evaluated), None),
    'test' if 'test' in parts else next(iter(tested), None),
  )


def _versions() -> dict[str, str]:
  names = ('seqio', 't5', 'tensorflow-datasets')
  ours = pathlib.Path(__file__).with_name('facts.py')
  return {
    **{name: metadata.version(name) for name in names},
    ours.name: module_files.digests([ours])[str(ours)],
  }


def _digest(value: Any) -> str:
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _cache_file(
  cache: Any, task_file: str, mixture: str
) -> pathlib.Path | None:
  if cache is None:
    return None
  name = task_file.removesuffix('.py').rpartition('/')[2]
  plain = re.sub(r'\W', '_', f'{name}-{mixture}' if mixture else name)
  folder = pathlib.Path(cache).expanduser() / DIRECTORY
  return folder / f'{plain}-{_digest([task_file, mixture])[:16]}.json'


def _read(file: pathlib.Path | None) -> dict[str, Any] | None:
  """Returns what was kept; None where it is missing or damaged."""
  if file is None:
    return None
  try:
    content = json.loads(file.read_bytes())
    body = content['body']
    whole = content['sha256'] == _digest(body)
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError):
    whole = False
  if not whole:
    _LOGGER.warning('%s is damaged and is made again.', file)
  return body if whole else None


def _write(file: pathlib.Path | None, body: Mapping[str, Any]) -> None:
  if file is None:
    return
  content = {'sha256': _digest(body), 'body': body}
  try:
    files.write_text(file, json.dumps(content, indent=1))
  except UserError as error:
    # A store that is only read still serves; the module is imported each time.
    _LOGGER.warning('%s', error)
