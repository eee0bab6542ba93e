"""The tasks as seqio tasks, on any source and any vocabulary.

Importing this module registers every task and mixture with seqio under its own
name, reading TFDS with T5's vocabulary, so that seqio's own tools can name
them. Runs use `seqio_task`, which puts a task on the wanted source and
vocabulary. Imports seqio and t5, hence TensorFlow.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import importlib
import importlib.util
import pathlib
import sys
from types import ModuleType

import seqio
from t5.data.utils import get_default_vocabulary

from hypergrid_jax.data import sources, vocabularies
from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.tasks import glue, super_glue
from hypergrid_jax.tasks.definitions import DEFINITIONS, TaskDefinition
from hypergrid_jax.tasks.mixtures import MIXTURES, MixtureDefinition
from hypergrid_jax.tasks.seqio_sources import RowsSource, TfdsSource

_BENCHMARKS = {'glue': glue, 'super_glue': super_glue}


def seqio_task(
  name: str, *, source: str, vocabulary: str, allow_download: bool = True
) -> seqio.Task:
  """Returns a task that reads a source and writes a vocabulary's ids.

  The task itself is not registered. Its examples carry `inputs`, `targets`,
  `inputs_pretokenized`, `targets_pretokenized`, and whatever the postprocessor
  and the metrics need.

  Args:
    name: one of `definitions.DEFINITIONS`, or any task registered with seqio;
      the latter keeps its own source and only changes its vocabulary.
    source: 'tfds', 'sample' or 'files:DIR'.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    allow_download: whether data that TFDS has not prepared may be downloaded,
      which is announced on the logger and first checks that the server
      answers; otherwise missing data are an error at once.

  Raises:
    UserError: unknown name, source or vocabulary. Missing data and malformed
      rows raise it from the task's `get_dataset`.
  """
  vocab = seqio_vocabulary(vocabulary)
  if name in DEFINITIONS:
    task = DEFINITIONS[name]
    return _make(task, _source(task, source, allow_download), vocab)
  if name not in seqio.TaskRegistry.names():
    known = (*DEFINITIONS, *seqio.TaskRegistry.names())
    raise UserError(
      f'Unknown task {name!r}.{closest(name, known)} Known tasks: '
      f'{", ".join(DEFINITIONS)}. A task of your own has to be registered '
      'first: name the Python module that calls seqio.TaskRegistry.add.'
    )
  registered = seqio.TaskRegistry.get(name)
  return registered.replace(
    output_features=_with_vocabulary(registered.output_features, vocab)
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
      per process, however often it is named.

  Raises:
    UserError: there is no such module or file, or importing it fails.
  """
  try:
    if not name.endswith('.py'):
      return importlib.import_module(name)
    path = pathlib.Path(name).resolve()
    if not path.is_file():
      raise UserError(f'Task module {name}: there is no such file.')
    digest = hashlib.sha256(str(path).encode()).hexdigest()
    module_name = f'user_tasks_{path.stem}_{digest[:16]}'
    if module_name in sys.modules:
      return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[module_name] = module
    return module
  except UserError:
    raise
  except Exception as error:
    raise UserError(
      f'Task module {name} cannot be imported: {type(error).__name__}: {error}.'
    ) from error


def register() -> None:
  """Registers the tasks and mixtures with seqio, those that are not yet.

  Mixtures mix in proportion to the published sizes of the training sets, as
  T5's do, uncapped; tasks without training split have rate 0.
  """
  vocab = get_default_vocabulary()
  known = set(seqio.TaskRegistry.names())
  for task in DEFINITIONS.values():
    if task.name not in known:
      made = _make(task, TfdsSource(task, allow_download=True), vocab)
      seqio.TaskRegistry.add_provider(task.name, made)
  known = set(seqio.MixtureRegistry.names())
  for mixture in MIXTURES.values():
    if mixture.name not in known:
      seqio.MixtureRegistry.add(mixture.name, _rates(mixture))


def _rates(mixture: MixtureDefinition) -> list[tuple[str, float]]:
  return [
    (name, float(DEFINITIONS[name].train_examples)) for name in mixture.tasks
  ]


def _source(
  task: TaskDefinition, source: str, allow_download: bool
) -> seqio.DataSource:
  if sources.parse_source(source).kind != 'tfds':
    return RowsSource(task, source)
  return TfdsSource(
    task, data_dir=sources.tfds_data_dir(), allow_download=allow_download
  )


def _make(
  task: TaskDefinition, source: seqio.DataSource, vocab: seqio.Vocabulary
) -> seqio.Task:
  benchmark = _BENCHMARKS[task.benchmark]
  return seqio.Task(
    task.name,
    source=source,
    preprocessors=[
      *benchmark.text_preprocessors(task),
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


register()
