"""Builds a token store through a seqio task; the one place that tokenises."""

import collections
from collections.abc import Mapping
import dataclasses
import errno
import pathlib
import shutil
from typing import Any

import numpy as np

from hypergrid_jax import installation
from hypergrid_jax.data import sources, token_files
from hypergrid_jax.data.token_requests import TokenRequest, fingerprint
from hypergrid_jax.data.vocabularies import Vocabulary, load_vocabulary
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.definitions import DEFINITIONS

_REPORT_EVERY = 500
# Of GLUE's and SuperGLUE's files.
_BYTES_PER_EXAMPLE = 300
_GZIP_RATIO = 3
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
    if error.errno not in _STORAGE_ERRORS:
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
  task = _task(request)
  definition = DEFINITIONS.get(request.task)
  expected = expected_examples(request)
  dataset = task.get_dataset(
    sequence_length={
      'inputs': request.lengths[0],
      'targets': request.lengths[1],
    },
    split=request.split,
    use_cached=False,
    shuffle=False,
    num_epochs=1,
    try_in_mem_cache=False,
  )
  counts = collections.Counter()
  for example in dataset.as_numpy_iterator():
    inputs, targets = example.pop('inputs'), example.pop('targets')
    values = {name: _plain(value) for name, value in example.items()}
    where = f'{request.label}, example {counts["examples"]}'
    _check_label(values, definition, request.split, where)
    for name, tokens, limit in zip(
      ('inputs', 'targets'), (inputs, targets), request.lengths, strict=True
    ):
      _check_ids(tokens, vocabulary, f'{where}, {name}')
      text = values.get(f'{name}_pretokenized')
      counts[f'cut_{name}'] += _is_cut(tokens, text, limit, vocabulary)
      counts[f'{name}_tokens'] += len(tokens)
      unknown = int(np.count_nonzero(tokens == vocabulary.unk_id))
      counts[f'unknown_{name}_tokens'] += unknown
    writer.add(inputs, targets, values)
    counts['examples'] += 1
    if counts['examples'] % _REPORT_EVERY == 0:
      expected = max(expected, counts['examples'] + _REPORT_EVERY)
      progress(request.label, counts['examples'], expected)
  if not counts['examples']:
    raise UserError(
      f'{request.task}: the split {request.split!r} of {request.source} gives'
      ' no examples.'
    )
  progress(request.label, counts['examples'], counts['examples'])
  return dict(counts)


def _task(request: TokenRequest):
  """Returns the seqio task, with the wanted features and split."""
  with installation.loading_tensorflow():
    import tensorflow as tf

    from hypergrid_jax.tasks import registry
  _hide_accelerators(tf)
  task = registry.seqio_task(
    request.task, source=request.source, vocabulary=request.vocabulary
  )
  for name in ('inputs', 'targets'):
    feature = task.output_features.get(name)
    if feature is None or feature.rank != 1:
      raise UserError(
        f'{request.task} has no output feature {name!r} of rank 1, which a'
        ' text-to-text model needs. Its features are'
        f' {", ".join(task.output_features)}.'
      )
  if request.task not in DEFINITIONS and request.split not in task.splits:
    raise UserError(
      f'{request.task} has no split {request.split!r}; it has'
      f' {", ".join(task.splits)}.'
    )
  return task


def _hide_accelerators(tf):
  """Keeps TensorFlow from claiming the memory of JAX's devices."""
  try:
    tf.config.set_visible_devices([], 'GPU')
  except RuntimeError:
    return  # TensorFlow is in use already; what it claimed it has claimed.


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
  # T5 writes '<unk>' for a missing label. In a test split that is expected;
  # elsewhere it would be trained on, or match a prediction that is no label.
  if definition is None or definition.labels is None:
    return
  label = values['targets_pretokenized']
  if label in definition.labels:
    return
  if split == definition.test_split and label == '<unk>':
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
  definition = DEFINITIONS.get(request.task)
  if definition is None:
    return 0
  known = sources.num_examples(request.source, definition, request.split)
  if known is not None:
    return known
  parsed = sources.parse_source(request.source)
  if parsed.kind == 'tfds':
    is_train = request.split == definition.train_split
    return definition.train_examples if is_train else 0
  path = sources.find_file(parsed.directory, definition, request.split)
  packed = _GZIP_RATIO if path.suffix == '.gz' else 1
  return packed * path.stat().st_size // _BYTES_PER_EXAMPLE
