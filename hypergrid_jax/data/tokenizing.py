"""Builds a token store through a seqio task; the one place that tokenises."""

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import errno
import pathlib
import shutil
from typing import Any

import numpy as np

from hypergrid_jax.data import token_files
from hypergrid_jax.data.token_requests import TokenRequest, fingerprint
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks import definitions, tensorflow_guard
from hypergrid_jax.tasks.rows import files, sources
from hypergrid_jax.tasks.task_definition import NO_TARGETS
from hypergrid_jax.tasks.vocabularies import Vocabulary, load_vocabulary

_REPORT_EVERY = 500
# For preprocessors that draw at random: a split is tokenised once, and every
# host that builds its store is to build the same one.
_SEED = 0
_STORAGE_ERRORS = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
)


def build(request: TokenRequest, root: pathlib.Path, progress):
  """Tokenises one split and puts its store into the token directory.

  Args:
    request: what to build.
    root: token directory.
    progress: called as `tokens.Progress`.

  Raises:
    UserError: the split does not exist or is empty, a row is malformed or its
      label unknown, or the store cannot be written.
  """
  vocabulary = load_vocabulary(request.vocabulary)
  # Provisional: reading data for the first time may change its fingerprint,
  # when TFDS prepares them.
  path = request.directory(root, fingerprint(request, vocabulary))
  partial = None
  try:
    partial = token_files.partial_directory(path)
    writer = token_files.StoreWriter(partial, vocabulary_size=vocabulary.size)
    try:
      counts = _write(request, vocabulary, writer, progress)
      mark = fingerprint(request, vocabulary)
      facts = {**dataclasses.asdict(request), 'counts': counts}
      writer.finish({**facts, 'fingerprint': mark})
    finally:
      writer.close()
    token_files.publish(partial, request.directory(root, mark))
  except OSError as error:
    # Why ever no directory could be made, it is not the rows' fault.
    if partial is not None and error.errno not in _STORAGE_ERRORS:
      raise
    raise UserError(
      f'{request.label}: the token store in {root} cannot be written:'
      f' {error.strerror}. Make room or name another directory with'
      ' data.token_dir.'
    ) from error
  finally:
    if partial is not None:
      shutil.rmtree(partial, ignore_errors=True)


def _write(request, vocabulary: Vocabulary, writer, progress) -> dict[str, int]:
  """Runs the seqio task into `writer`; returns the manifest's counts."""
  definition = definitions.definition(request.task)
  expected = expected_examples(request)
  counts = collections.Counter()
  ended = False
  for example in _examples(request, definition):
    inputs, targets = example.pop('inputs'), example.pop('targets')
    values = {name: _plain(value) for name, value in example.items()}
    where = f'{request.label}, example {counts["examples"]}'
    for name, tokens, limit in zip(
      ('inputs', 'targets'), (inputs, targets), request.lengths, strict=True
    ):
      _check_ids(tokens, vocabulary, f'{where}, {name}')
      text = values.get(f'{name}_pretokenized')
      counts[f'cut_{name}'] += _is_cut(tokens, text, limit, vocabulary)
      counts[f'{name}_tokens'] += len(tokens)
      unknown = int(np.count_nonzero(tokens == vocabulary.unk_id))
      counts[f'unknown_{name}_tokens'] += unknown
      if not isinstance(text, str):  # a preprocessor that makes ids itself
        values[f'{name}_pretokenized'] = vocabulary.decode(tokens)
    _check_label(values, definition, request.split, where)
    ended |= bool(targets[-1] == vocabulary.eos_id)
    writer.add(inputs, targets, values)
    counts['examples'] += 1
    if counts['examples'] % _REPORT_EVERY == 0:
      expected = max(expected, counts['examples'] + _REPORT_EVERY)
      progress(request.label, counts['examples'], expected)
  if not counts['examples']:
    where = request.source if definition.rows is None else 'its own source'
    raise UserError(
      f'{request.task}: the split {request.split!r} of {where} gives no'
      ' examples.'
    )
  if not ended:
    raise UserError(
      f'{request.label}: no target ends with the end-of-sequence id, so that a'
      ' model would never learn to stop. Add'
      ' seqio.preprocessors.append_eos_after_trim to its preprocessors.'
    )
  progress(request.label, counts['examples'], counts['examples'])
  return dict(counts)


def _examples(request: TokenRequest, definition) -> Iterator[dict[str, Any]]:
  """Yields the examples of the seqio task, as NumPy arrays and bytes.

  Raises:
    UserError: the examples lack inputs or targets, or code of a user's own
      fails.
  """
  task = _task(request)
  lengths = dict(zip(('inputs', 'targets'), request.lengths, strict=True))
  try:
    dataset = task.get_dataset(
      sequence_length=lengths,
      split=request.split,
      use_cached=False,
      shuffle=False,
      seed=_SEED,
      num_epochs=1,
      try_in_mem_cache=False,
    )
    for example in dataset.as_numpy_iterator():
      for name in lengths:
        if name not in example:
          raise UserError(
            f'{request.label}: its examples have no {name!r}, only'
            f' {", ".join(example)}.'
          )
      yield example
  except UserError:
    raise
  except Exception as error:
    if definition.benchmark != 'seqio':
      raise
    raise UserError(
      f'{request.label}: reading or preprocessing its examples fails, in'
      f' {definition.task_file or "code of this process"}:'
      f' {type(error).__name__}: {error}'
    ) from error


def _task(request: TokenRequest):
  """Returns the seqio task, with the wanted features and part of its rows."""
  with tensorflow_guard.loading_tensorflow():
    from hypergrid_jax.tasks.seqio import registry, split_parts
  task = registry.seqio_task(
    request.task,
    source=request.source,
    vocabulary=request.vocabulary,
    task_prefix=request.task_prefix,
  )
  if request.part:
    task = task.replace(
      source=split_parts.PartSource(
        task.source, request.part, task=request.task
      )
    )
  if request.split not in task.splits:
    raise UserError(
      f'{request.task} has no split {request.split!r}; it has'
      f' {", ".join(task.splits)}.'
    )
  return task


def _plain(value: Any) -> Any:
  """Turns what a tf.data iterator gives into values that JSON can hold."""
  if isinstance(value, bytes):
    # Bytes that are no UTF-8 become lone surrogates, and come back the same.
    return value.decode('utf-8', 'surrogateescape')
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, dict):
    return {name: _plain(item) for name, item in value.items()}
  if hasattr(value, 'to_list'):  # tf.RaggedTensorValue
    return _plain(value.to_list())
  return value


def _check_label(values: Mapping[str, Any], definition, split: str, where: str):
  # T5 writes '<unk>' for a missing label and '-1.0' for a missing score. In a
  # test split that is expected; elsewhere it would be trained on, or match a
  # prediction that is no label.
  if definition.labels is None:
    return
  label = values['targets_pretokenized']
  if label in definition.labels:
    return
  if split == definition.test_split and label in NO_TARGETS:
    return
  raise UserError(
    f'{where}: the target is {label!r}; expected one of'
    f' {", ".join(definition.labels)}.'
  )


def _check_ids(tokens: np.ndarray, vocabulary: Vocabulary, where: str):
  if not len(tokens):
    raise UserError(f'{where}: no tokens; every example needs at least one.')
  if tokens.min() < 0 or tokens.max() >= vocabulary.size:
    raise UserError(
      f'{where}: token ids from {tokens.min()} to {tokens.max()}, but the'
      f' vocabulary {vocabulary.spec} has 0 to {vocabulary.size - 1}.'
    )


def _is_cut(tokens, text, limit: int, vocabulary: Vocabulary) -> bool:
  """Whether an example lost tokens; tokens just as long as allowed may have."""
  if len(tokens) < limit:
    return False
  if not isinstance(text, str):
    return True
  return len(vocabulary.encode(text)) + 1 > limit


def expected_examples(request: TokenRequest) -> int:
  """Estimates the number of examples of a split without reading it."""
  definition = definitions.definition(request.task)
  known = sources.num_examples(request.source, definition, request.split)
  if known is not None:
    return known
  if definition.rows is not None:
    return definition.rows.estimate(request.split)
  parsed = sources.parse_source(request.source)
  if parsed.kind == 'tfds':
    is_train = request.split == definition.train_split
    return definition.train_examples if is_train else 0
  path = sources.find_file(parsed.directory, definition, request.split)
  return files.estimated_rows(path)
