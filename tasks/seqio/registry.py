"""The tasks as seqio tasks, on any source and any vocabulary.

Importing this module registers every task and mixture with seqio under its own
name, reading TFDS with T5's vocabulary, so that seqio's own tools can name
them. Runs use `seqio_task`, which puts a task on the wanted source and
vocabulary. Imports seqio and t5, hence TensorFlow.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import os
import pathlib
import sys
import traceback
from types import ModuleType
from typing import Any

import numpy as np
import seqio
from t5.data.utils import get_default_vocabulary

from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, vocabularies
from hypergrid_jax.tasks.catalogue.mixtures import MIXTURES, MixtureDefinition
from hypergrid_jax.tasks.definitions import DEFINITIONS
from hypergrid_jax.tasks.rows import sources
from hypergrid_jax.tasks.seqio import (
  glue,
  module_files,
  prefixes,
  super_glue,
  toml_scores,
)
from hypergrid_jax.tasks.seqio.sources import (
  RegisteredSource,
  RowsSource,
  TfdsSource,
)
from hypergrid_jax.tasks.task_definition import TaskDefinition

_BENCHMARKS = {'glue': glue, 'super_glue': super_glue, 'toml': toml_scores}
_REGISTRIES = (seqio.TaskRegistry, seqio.MixtureRegistry)
# Task modules that this process has imported, with what their files held.
_IMPORTED: dict[pathlib.Path, dict[str, str]] = {}


def seqio_task(
  name: str,
  *,
  source: str,
  vocabulary: str,
  task_prefix: bool = True,
  allow_download: bool = True,
) -> seqio.Task:
  """Returns a task that reads a source and writes a vocabulary's ids.

  The task itself is not registered. Its examples carry `inputs`, `targets`,
  `inputs_pretokenized`, `targets_pretokenized`, and whatever the postprocessor
  and the metrics need.

  Args:
    name: one of `definitions.DEFINITIONS`, or any task registered with seqio.
    source: 'tfds', 'sample' or 'files:DIR'; a task that brings its own rows
      reads those, and only changes its vocabulary.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    task_prefix: whether texts begin with the name of their data set, see
      `prefixes`; tasks of a user's own keep their text.
    allow_download: whether data that TFDS has not prepared may be downloaded,
      which is announced on the logger and first checks that the server
      answers; otherwise missing data are an error at once.

  Raises:
    UserError: unknown name, source or vocabulary. Missing data and malformed
      rows raise it from the task's `get_dataset`.
  """
  vocab = seqio_vocabulary(vocabulary)
  task = definitions.definition(name)
  if task.benchmark != 'seqio':
    return _make(
      task, _source(task, source, allow_download), vocab, task_prefix
    )
  if task.task_file is not None:
    import_task_module(task.task_file)
  registered = seqio.TaskRegistry.get(name)
  return registered.replace(
    source=RegisteredSource(name, registered.source, allow_download),
    output_features=_with_vocabulary(registered.output_features, vocab),
    postprocess_fn=_with_tensors(registered.postprocessor),
  )


def seqio_vocabulary(spec: str) -> seqio.Vocabulary:
  """Returns seqio's form of a vocabulary, the same id for the same text.

  Args:
    spec: 'sample', 'bytes' or the path of a SentencePiece model.

  Raises:
    UserError: `spec` is a path that cannot be used.
  """
  vocab = vocabularies.load_vocabulary(spec)
  if isinstance(vocab, vocabularies.ByteVocabulary):
    return seqio.ByteVocabulary()
  return seqio.SentencePieceVocabulary(vocab.spec, vocab.extra_ids)


def import_task_module(name: str) -> ModuleType:
  """Imports a user's module, which registers its tasks with seqio.

  Args:
    name: a dotted module name, or the path of a `.py` file. A file is run once
      per process, however often and under whatever name it is imported.

  Raises:
    UserError: there is no such module or file, importing it fails, or its files
      have changed since they were imported.
  """
  path = module_files.find(name)
  module = module_files.loaded(path)
  if module is None:
    # Files beside a named file; the working directory for a dotted name.
    folder = str(path.parent) if name.endswith('.py') else os.getcwd()
    if folder not in sys.path:
      sys.path.append(folder)
    module = _import(name, path)
  found = module_files.digests(module_files.own_files(path))
  if _IMPORTED.setdefault(path, found) != found:
    raise UserError(
      f'{name} or a file that it imports has changed since this process'
      ' imported it. Start a new process.'
    )
  return module


def register() -> None:
  """Registers the tasks and mixtures with seqio, those that are not yet.

  Mixtures mix in proportion to the published sizes of the training sets, as
  T5's do, uncapped; tasks without training split have rate 0.
  """
  for task in DEFINITIONS.values():
    if task.benchmark != 'seqio':
      register_task(task)
  known = set(seqio.MixtureRegistry.names())
  for mixture in MIXTURES.values():
    if mixture.rates is None and mixture.name not in known:
      seqio.MixtureRegistry.add(mixture.name, _rates(mixture))


def register_task(task: TaskDefinition) -> None:
  """Registers one task with seqio, in place of an older one from its file.

  Raises:
    UserError: the name belongs to a task that somebody else has registered.
  """
  if task.name in seqio.TaskRegistry.names():
    source = seqio.TaskRegistry.get(task.name).source
    if not isinstance(source, RowsSource | TfdsSource):
      raise UserError(
        f'{task.task_file}: the name {task.name!r} belongs to a task that is'
        ' registered with seqio. Choose another name.'
      )
    if source.definition == task:
      return
    seqio.TaskRegistry.remove(task.name)
  source = TfdsSource(task, allow_download=True)
  if task.rows is not None:
    source = RowsSource(task, 'sample')
  made = _make(task, source, get_default_vocabulary())
  seqio.TaskRegistry.add_provider(task.name, made)


def _import(name: str, path: pathlib.Path) -> ModuleType:
  before = {*seqio.TaskRegistry.names()}, {*seqio.MixtureRegistry.names()}
  try:
    if not name.endswith('.py'):
      return importlib.import_module(name)
    digest = hashlib.sha256(str(path).encode()).hexdigest()
    module_name = f'user_tasks_{path.stem}_{digest[:16]}'
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and pickle look their module up.
    sys.modules[module_name] = module
    try:
      spec.loader.exec_module(module)
    except BaseException:
      del sys.modules[module_name]
      raise
    return module
  except (Exception, SystemExit) as error:
    # What a half-run module has registered would be in the way of the next try.
    for registry, names in zip(_REGISTRIES, before, strict=True):
      for new in {*registry.names()} - names:
        registry.remove(new)
    raise UserError(_import_failure(name, path, error)) from error


def _import_failure(name: str, path: pathlib.Path, error: BaseException) -> str:
  """Says what went wrong, with the innermost line that is the user's own."""
  lines = [
    f'{frame.filename}:{frame.lineno}'
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename.endswith('.py')
    and module_files.is_own(pathlib.Path(frame.filename).resolve(), path)
  ]
  if isinstance(error, SyntaxError) and error.filename:
    lines.append(f'{error.filename}:{error.lineno}')
  where = lines[-1] if lines else name
  hint = ''
  if 'duplicate provider' in str(error):
    hint = ' Choose another name for it.'
  if 'no known parent package' in str(error):
    hint = ' A file of a package is named with dots, such as my_package.tasks.'
  return (
    f'Task module {name} cannot be imported: {where}: {type(error).__name__}:'
    f' {error}.{hint}'
  )


def _rates(mixture: MixtureDefinition) -> list[tuple[str, float]]:
  return [
    (name, float(DEFINITIONS[name].train_examples)) for name in mixture.tasks
  ]


def _source(
  task: TaskDefinition, source: str, allow_download: bool
) -> seqio.DataSource:
  if task.rows is not None or sources.parse_source(source).kind != 'tfds':
    return RowsSource(task, source)
  return TfdsSource(
    task, data_dir=sources.tfds_data_dir(), allow_download=allow_download
  )


def _make(
  task: TaskDefinition,
  source: seqio.DataSource,
  vocab: seqio.Vocabulary,
  task_prefix: bool = True,
) -> seqio.Task:
  benchmark = _BENCHMARKS[task.benchmark]
  left_out = not task_prefix and prefixes.has_prefix(task)
  return seqio.Task(
    task.name,
    source=source,
    preprocessors=[
      *benchmark.text_preprocessors(task),
      *([prefixes.leave_out] if left_out else []),
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    ],
    postprocess_fn=benchmark.postprocessor(task),
    metric_fns=benchmark.metrics(task),
    output_features={
      name: seqio.Feature(vocabulary=vocab, add_eos=True)
      for name in ('inputs', 'targets')
    },
  )


def _with_vocabulary(
  features: Mapping[str, seqio.Feature], vocab: seqio.Vocabulary
) -> dict[str, seqio.Feature]:
  return {
    name: feature
    if isinstance(feature.vocabulary, seqio.PassThroughVocabulary)
    else dataclasses.replace(feature, vocabulary=vocab)
    for name, feature in features.items()
  }


def _with_tensors(postprocess_fn: Callable | None) -> Callable | None:
  """Gives a registered task's function examples as seqio would."""
  if postprocess_fn is None:
    return None

  @functools.wraps(postprocess_fn)
  def wrapped(text, **kwargs):
    if kwargs.get('example') is not None:
      kwargs['example'] = {
        name: as_tensor(value) for name, value in kwargs['example'].items()
      }
    return postprocess_fn(text, **kwargs)

  return wrapped


def as_tensor(value: Any) -> Any:
  """Returns what TensorFlow gives for a value of a token store.

  Texts are bytes, lists arrays, and numbers NumPy's; numbers that the store
  keeps as Python's may have come from a narrower type.
  """
  if isinstance(value, str):
    return value.encode('utf-8', 'surrogateescape')
  if isinstance(value, dict):
    return {name: as_tensor(item) for name, item in value.items()}
  if isinstance(value, list):
    items = [as_tensor(item) for item in value]
    lengths = {np.shape(item) for item in items}
    is_text = bool(items) and isinstance(items[0], bytes)
    if is_text or len(lengths) > 1:
      array = np.empty(len(items), object)
      array[:] = items
      return array
    return np.array(items)
  return np.asarray(value)[()]


register()
