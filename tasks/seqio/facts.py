"""What tasks and mixtures registered with seqio are, as plain values.

A user's module is described by a process of its own, `python -m` of this file,
so that the answer does not depend on what the caller has imported, and the
caller need not load TensorFlow. Tasks that only the caller's code has
registered are described in the caller. Imports seqio, hence TensorFlow.
"""

from collections.abc import Mapping
import contextlib
import functools
import json
import math
import os
import sys
import traceback
from typing import Any
import weakref

import seqio

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions
from hypergrid_jax.tasks.catalogue import mixtures
from hypergrid_jax.tasks.seqio import (
  descriptions,
  function_code,
  module_files,
  registry,
)

_SEQIO = os.path.dirname(seqio.__file__) + os.sep
# The code of tasks that only this process knows, when it was first seen.
_ADOPTED: weakref.WeakKeyDictionary[seqio.Task, str] = (
  weakref.WeakKeyDictionary()
)


def describe(name: str) -> dict[str, Any]:
  """Imports a module and returns what it registers.

  Args:
    name: a dotted module name, or the path of a `.py` file, that this process
      has not imported yet.

  Returns:
    'tasks' and 'mixtures', lists of `task_facts` and `mixture_facts`, each with
    its 'place', file and line of the registration; and 'files', SHA-256 by path
    of the files that the module consists of.

  Raises:
    UserError: the module cannot be imported.
  """
  before = {*seqio.TaskRegistry.names()}, {*seqio.MixtureRegistry.names()}
  modules = set(sys.modules)
  places: dict[str, str] = {}
  with _noting_places(places):
    registry.import_task_module(name)
  root = module_files.find(name)
  imported = module_files.own_modules(set(sys.modules) - modules, root)
  files = {*module_files.own_files(root), *imported}
  return {
    'tasks': [
      {
        **task_facts(seqio.TaskRegistry.get(task)),
        'place': places.get(task, ''),
      }
      for task in seqio.TaskRegistry.names()
      if task not in before[0]
    ],
    'mixtures': [
      {
        **mixture_facts(seqio.MixtureRegistry.get(mixture)),
        'place': places.get(mixture, ''),
      }
      for mixture in seqio.MixtureRegistry.names()
      if mixture not in before[1]
    ],
    'files': module_files.digests(sorted(files)),
  }


def task_facts(task: seqio.Task) -> dict[str, Any]:
  """Returns what has to be known of a task before its rows are read.

  Returns:
    'name'; 'problem', why it cannot be used, or None; and if it can: 'source',
    see `rows.SeqioRows`; 'parts', by split what the source reads for it,
    None where only prepared TFDS data say which splits there are; 'counts', by
    split the number of rows where the task says it.
  """
  facts = {'name': task.name, 'problem': None}
  try:
    facts |= {'problem': _problem(task), **_source_facts(task.source)}
  except Exception as error:  # of whatever classes the task is made
    facts['problem'] = f'it fails: {type(error).__name__}: {error}'
  return facts


def _source_facts(source: seqio.DataSource) -> dict[str, Any]:
  kind = type(source).__name__
  if isinstance(source, seqio.TfdsDataSource):
    return {**_tfds_facts(source), 'counts': {}}
  if isinstance(source, seqio.FileDataSource):
    patterns = source._split_to_filepattern
    parts = {
      split: [patterns[split]]
      if isinstance(patterns[split], str)
      else [os.fspath(pattern) for pattern in patterns[split]]
      for split in source.splits
    }
    facts = {'source': {'kind': 'files', 'class': kind}, 'parts': parts}
  else:
    parts = dict.fromkeys(source.splits)
    facts = {'source': {'kind': 'code', 'class': kind}, 'parts': parts}
  counts = {split: source.num_input_examples(split) for split in parts}
  return {**facts, 'counts': {k: int(n) for k, n in counts.items() if n}}


def mixture_facts(mixture: seqio.Mixture) -> dict[str, Any]:
  """Returns a mixture's 'name', 'tasks' and 'rates'.

  The rates are None where functions compute them, see `rates`, or where they
  are none.
  """
  fixed = None
  with contextlib.suppress(UserError):  # told when the mixture is used
    fixed = rates(mixture, {}) if _fixed(mixture) else None
  return {
    'name': mixture.name,
    'tasks': [task.name for task in mixture.tasks],
    'rates': fixed,
  }


def rates(mixture: seqio.Mixture, sizes: Mapping[str, int]) -> dict[str, float]:
  """Returns the rate of each task of a mixture, as registered.

  Args:
    mixture: whose rates.
    sizes: training examples per task, which functions of the task are given as
      its cached and as its input examples; 0 for tasks that are not named.

  Raises:
    UserError: a function fails, or gives no rate.
  """
  found = {}
  with _counting(mixture.tasks, sizes):
    for task in mixture.tasks:
      try:
        rate = float(mixture.get_rate(task))
        if not 0 <= rate < math.inf:
          raise ValueError(f'{rate} is no rate')
      except Exception as error:
        inside = task.name not in mixture.rate_per_task_name
        if isinstance(error, ZeroDivisionError) and inside:
          found[task.name] = 0.0  # of a mixture none of whose tasks is trained
          continue
        raise UserError(
          f'Mixture {mixture.name}: the rate of {task.name} cannot be computed:'
          f' {type(error).__name__}: {error}. Set data.mixing to'
          " 'proportional', or give data.weights."
        ) from error
      found[task.name] = rate
  return found


def adopt_task(name: str) -> None:
  """Defines a task that the caller's own code has registered, if so.

  Raises:
    UserError: the files of its code have changed meanwhile.
  """
  if name not in seqio.TaskRegistry.names():
    return
  task = seqio.TaskRegistry.get(name)
  code = _code(task)
  if _ADOPTED.get(task, code) != code:
    raise UserError(
      f'Task {name}: its code has changed since this process registered it.'
      ' Register it anew, or start a new process.'
    )
  _ADOPTED[task] = code
  facts = {**task_facts(task), 'place': ''}
  descriptions.define(facts, task_file=None, code=code)


def adopt_mixture(name: str) -> None:
  """Defines a mixture that the caller's own code has registered, if so."""
  if name in seqio.MixtureRegistry.names():
    mixture = seqio.MixtureRegistry.get(name)
    tasks = tuple(task.name for task in mixture.tasks)
    for task in tasks:
      definitions.definition(task)
    mixtures.add(
      mixtures.MixtureDefinition(
        name, tasks, functools.partial(rates, mixture), task_file=None
      )
    )


def _problem(task: seqio.Task) -> str | None:
  """Returns why a task cannot be used, None if it can."""
  for name in ('inputs', 'targets'):
    feature = task.output_features.get(name)
    if feature is None or feature.rank != 1 or not feature.dtype.is_integer:
      return (
        f'it has no output feature {name!r} of token ids and rank 1, which a'
        ' text-to-text model needs. Its features are'
        f' {", ".join(task.output_features)}'
      )
  if task.requires_caching:
    return "it requires seqio's own cache, which is not read here"
  if task._metric_objs_constructor_args:
    return (
      'it has metric objects (metric_objs), and only functions of targets and'
      ' predictions (metric_fns) are called here'
    )
  try:
    refused = [*task.score_metric_fns, *task.predict_with_aux_metric_fns]
  except ValueError as error:
    return str(error).rstrip('.')
  if refused:
    names = ', '.join(getattr(fn, '__name__', str(fn)) for fn in refused)
    return (
      f'its metric functions {names} take scores or auxiliary values of the'
      ' model, and only predictions are made here. Register it with functions'
      ' of (targets, predictions)'
    )
  if (
    not isinstance(task.source, seqio.TfdsDataSource) and not task.source.splits
  ):
    return 'its source has no splits'
  return None


def _tfds_facts(source: seqio.TfdsDataSource) -> dict[str, Any]:
  loader = source.tfds_dataset
  names = loader.tfds_splits or source._splits
  parts = {}
  for split in names:
    dataset, data_dir = loader.get_split_params(split)
    part = {'dataset': dataset, 'data_dir': data_dir}
    parts[split] = {**part, 'split': str(loader._map_split(split))}
  whole = {} if parts else {'dataset': loader.name, 'data_dir': loader.data_dir}
  return {
    'source': {'kind': 'tfds', 'class': type(source).__name__, **whole},
    'parts': parts or None,
  }


def _fixed(mixture: seqio.Mixture) -> bool:
  """Whether all rates are numbers, those of mixtures inside it included."""
  own = {task.name for task in mixture.tasks}
  for name, rate in mixture.rate_per_task_name.items():
    if callable(rate):
      return False
    if name in own:
      continue
    if name not in seqio.MixtureRegistry.names():
      return False  # an unregistered mixture, which is not looked into
    if not _fixed(seqio.MixtureRegistry.get(name)):
      return False
  return True


@contextlib.contextmanager
def _counting(tasks: list[seqio.Task], sizes: Mapping[str, int]):
  """Makes tasks report the given sizes, whatever their sources say."""
  for task in tasks:
    size = sizes.get(task.name, 0)
    task.num_input_examples = lambda split, size=size: size
    task.get_cached_stats = lambda split='train', size=size: {'examples': size}
  try:
    yield
  finally:
    for task in tasks:
      del task.num_input_examples, task.get_cached_stats


@contextlib.contextmanager
def _noting_places(places: dict[str, str]):
  """Notes the file and line that registers each task and mixture."""
  noted = (seqio.TaskRegistry, seqio.MixtureRegistry)

  def noting(original):

    def add_provider(cls, name, provider):
      del cls
      lines = [
        f'{frame.filename}:{frame.lineno}'
        for frame in traceback.extract_stack()
        if not frame.filename.startswith((_SEQIO, __file__))
      ]
      original(name, provider)
      places[name] = lines[-1]

    return classmethod(add_provider)

  for kind in noted:
    kind.add_provider = noting(kind.add_provider)
  try:
    yield
  finally:
    for kind in noted:
      del kind.add_provider


def _code(task: seqio.Task) -> str:
  source = task.source
  if isinstance(source, seqio.FunctionDataSource):
    source = source._dataset_fn
  functions = [source, *task.preprocessors, task.postprocessor]
  return function_code.fingerprint([*functions, *task.metric_fns])


def main(arguments: list[str]) -> dict[str, Any]:
  """Describes a module, or computes the rates of one of its mixtures.

  Args:
    arguments: a module; then perhaps a mixture, and sizes of tasks as JSON.

  Returns:
    What is asked for under 'result', or a message under 'user error'.
  """
  try:
    if len(arguments) == 1:
      return {'result': describe(arguments[0])}
    module, mixture, sizes = arguments
    registry.import_task_module(module)
    found = seqio.MixtureRegistry.get(mixture)
    return {'result': rates(found, json.loads(sizes))}
  except UserError as error:
    return {'user error': str(error)}


if __name__ == '__main__':
  # What the module writes to the standard output must not mix with the answer.
  answer = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  answer.write(json.dumps(main(sys.argv[1:])))
