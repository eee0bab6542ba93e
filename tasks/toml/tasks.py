"""Tasks from TOML files: one file, one task.

    name = 'reviews'
    inputs = 'review: {title} / {body}'

    [target]
    field = 'stars'
    labels = {1 = 'negative', 5 = 'positive'}

    [splits]
    train = 'train.jsonl'
    validation = 'dev.tsv'

The target is one of several `labels` (a table from the field's value to the
text that is to be written, or a list of texts, for fields that hold the text or
its number from 0), free `text` (a template), or a `number`. Nothing here needs
TensorFlow; `toml_scores` has the metrics.
"""

from collections.abc import Mapping
import decimal
import itertools
import pathlib
import re
from typing import Any

from hypergrid_jax.tasks import task_definition
from hypergrid_jax.tasks.rows import files as files_lib
from hypergrid_jax.tasks.toml import targets, templates
from hypergrid_jax.tasks.toml.document import Document
from hypergrid_jax.tasks.toml.rows import FileRows

SPLITS = ('train', 'validation', 'test')
# Name -> the kinds of target that it scores.
METRICS = {
  'accuracy': (targets.Labels, targets.FreeText),
  'f1': (targets.Labels,),
  'macro_f1': (targets.Labels,),
  'matthews_corrcoef': (targets.Labels,),
  'squad': (targets.FreeText,),
  'rouge': (targets.FreeText,),
  'bleu': (targets.FreeText,),
  'pearson_corrcoef': (targets.Number,),
  'spearman_corrcoef': (targets.Number,),
}
_DEFAULT_METRICS = {
  targets.Labels: ('accuracy',),
  targets.FreeText: ('squad',),
  targets.Number: ('pearson_corrcoef', 'spearman_corrcoef'),
}
_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]{0,99}')
# More different numbers than anyone writes as text; a smaller step is a slip.
_MOST_NUMBERS = 1001


def read(path: str) -> task_definition.TaskDefinition:
  """Reads the task of a TOML file; the rows themselves are not read yet.

  Args:
    path: of the file. Files that it names are relative to its directory.

  Raises:
    UserError: the file is no TOML, or describes no task; with line and key.
  """
  document = Document(path)
  document.check_keys(
    (), ('name', 'inputs', 'metrics', 'id', 'target', 'splits')
  )
  target = _target(document)
  rows = FileRows(
    files=_files(document),
    inputs=_template(document, 'inputs'),
    target=target,
    id=document.text('id') if document.has('id') else None,
  )
  labels = target.labels
  is_labels = isinstance(target, targets.Labels)
  return task_definition.own_task(
    _name(document),
    'toml',
    rows=rows,
    task_file=str(pathlib.Path(path).resolve()),
    splits=tuple(name if name in rows.files else None for name in SPLITS),
    labels=labels,
    classes=labels if is_labels else (),
    fields=rows.fields,
    metrics=_metrics(document, target),
  )


def _name(document: Document) -> str:
  name = document.text('name')
  if not _NAME.fullmatch(name):
    raise document.error(
      ('name',),
      f'{name!r} is no name for a task; expected letters, digits and'
      ' underscores, a letter first, at most 100',
    )
  return name


def _template(document: Document, *key: str) -> templates.Template:
  try:
    template = templates.parse(document.text(*key))
  except templates.TemplateError as error:
    raise document.error(key, str(error)) from error
  if not template.fields:
    raise document.error(
      key, 'the template names no field of a row, such as {text}'
    )
  return template


def _target(document: Document) -> targets.Target:
  document.table('target')
  kinds = [k for k in ('labels', 'text', 'number') if document.has('target', k)]
  known = ('field', 'labels', 'text', 'number')
  document.check_keys(('target',), known)
  if len(kinds) != 1:
    raise document.error(
      ('target',),
      f'it has {" and ".join(kinds) or "none of them"}; expected one of labels,'
      ' text and number',
    )
  if kinds == ['text']:
    if document.has('target', 'field'):
      raise document.error(
        ('target', 'field'),
        "it does not go with text, whose template names fields: '{summary}'",
      )
    return targets.FreeText(_template(document, 'target', 'text'))
  field = document.text('target', 'field')
  return (_labels if kinds == ['labels'] else _number)(document, field)


def _labels(document: Document, field: str) -> targets.Labels:
  key = ('target', 'labels')
  given = document.get(*key)
  if isinstance(given, list):
    texts = document.texts(*key)
    ids = {text: number for number, text in enumerate(texts)}
    for number, _ in enumerate(texts):
      if ids.setdefault(str(number), number) != number:
        raise document.error(
          key,
          f'the value {str(number)!r} could be a text of the list or a place in'
          " it; expected a table, {'value' = 'text'}",
        )
  else:
    document.table(*key)
    texts = [document.text(*key, value) for value in given]
    ids = {value: number for number, value in enumerate(given)}
  for text in texts:
    if text != ' '.join(text.split()) or text == targets.NO_TARGET:
      raise document.error(
        key,
        f'{text!r} cannot be a label: vocabularies lose spaces at the ends and'
        f' doubled ones, and {targets.NO_TARGET!r} stands for no target',
      )
    if texts.count(text) > 1:
      raise document.error(key, f'the text {text!r} stands for two labels')
  if len(texts) < 2:
    raise document.error(
      key, f'it has {len(texts)} label; expected two at least'
    )
  return targets.Labels(field, ids, tuple(texts))


def _number(document: Document, field: str) -> targets.Number:
  key = ('target', 'number')
  document.table(*key)
  document.check_keys(key, ('min', 'max', 'step'))
  least, most, step = (
    document.number(*key, name) for name in ('min', 'max', 'step')
  )
  if step <= 0 or least >= most:
    raise document.error(
      key, f'expected min < max and step > 0, got {least}, {most} and {step}'
    )
  steps = (most - least) / step
  if steps != steps.to_integral(decimal.ROUND_FLOOR):
    raise document.error(
      key, f'max = {most} is not min = {least} and a whole number of {step}'
    )
  if steps >= _MOST_NUMBERS:
    raise document.error(
      key,
      f'there are {int(steps) + 1:,} numbers from {least} to {most}; expected'
      f' {_MOST_NUMBERS:,} at most, so a larger step',
    )
  return targets.Number(field, least, most, step)


def _metrics(document: Document, target: targets.Target) -> tuple[str, ...]:
  if not document.has('metrics'):
    return _DEFAULT_METRICS[type(target)]
  names = document.texts('metrics')
  fitting = [name for name, kinds in METRICS.items() if type(target) in kinds]
  for name in names:
    if name not in METRICS:
      raise document.unknown(('metrics',), name, METRICS)
    if name not in fitting:
      raise document.error(
        ('metrics',),
        f'{name} does not score this kind of target; expected some of'
        f' {", ".join(fitting)}',
      )
    if names.count(name) > 1:
      raise document.error(('metrics',), f'{name} is there twice')
  if 'f1' in names and len(target.labels) != 2:
    raise document.error(
      ('metrics',),
      f'f1 is of the second of two labels, but there are {len(target.labels)};'
      ' macro_f1 is the mean over all',
    )
  if not names:
    raise document.error(
      ('metrics',), f'the list is empty; expected some of {", ".join(fitting)}'
    )
  return tuple(names)


def _files(document: Document) -> Mapping[str, tuple[pathlib.Path, ...]]:
  table = document.table('splits')
  document.check_keys(('splits',), SPLITS)
  if not table:
    raise document.error(
      ('splits',), f'no split has a file; expected some of {", ".join(SPLITS)}'
    )
  files = {
    split: tuple(_split_files(document, split))
    for split in SPLITS
    if split in table
  }
  seen: dict[pathlib.Path, str] = {}
  for split, path in itertools.chain.from_iterable(
    ((split, path) for path in paths) for split, paths in files.items()
  ):
    before = seen.setdefault(path.resolve(), split)
    if before != split or files[split].count(path) > 1:
      raise document.error(
        ('splits', split),
        f'{path.name} is there twice, in {before} and in {split}',
      )
  return files


def _split_files(document: Document, split: str) -> list[pathlib.Path]:
  key = ('splits', split)
  given: Any = document.get(*key)
  names = (
    document.texts(*key) if isinstance(given, list) else [document.text(*key)]
  )
  if not names:
    raise document.error(key, 'the list of files is empty')
  folder = document.path.parent
  paths = [folder / pathlib.Path(name).expanduser() for name in names]
  for path in paths:
    if not path.name.endswith(files_lib.SUFFIXES):
      raise document.error(
        key,
        f'{path.name} has none of the endings {", ".join(files_lib.SUFFIXES)}',
      )
    if not path.is_file():
      raise document.no_file(key, path)
  return paths
