"""The token store: a split tokenised once, then read from memory maps.

`open_stores` opens what is there and has the rest built; only building needs
TensorFlow.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import logging
import mmap
import os
import pathlib
from typing import Any
import zlib

import numpy as np

from hypergrid_jax.data import token_files
from hypergrid_jax.data.token_requests import TokenRequest, fingerprint
from hypergrid_jax.errors import UserError
from hypergrid_jax.tasks.vocabularies import Vocabulary, load_vocabulary

# Called with 'task/split', examples done, and examples in total (an estimate
# until the split is done).
Progress = Callable[[str, int, int], None]

_LOGGER = logging.getLogger(__name__)


class TokenStore:
  """The examples of one split as token ids.

  Attributes:
    task: name of the task.
    split: of the task.
    num_examples: number of examples n.
    input_tokens: ids of all examples' inputs, one after the other, unsigned or
      signed integers; a memory map where the store lies on a disk.
    input_offsets: [n + 1] int64, where each example's inputs begin.
    target_tokens: the same for the targets.
    target_offsets: [n + 1] int64.
    fingerprint: tells different tokens apart, however they were made.
    counts: how many examples' inputs and targets were cut, how many tokens
      there are, and how many of them are unknown; empty for a store in memory.
    directory: where the store lies on a disk; None for one in memory.
    maps: of the store's files into memory; none for one in memory.
  """

  def __init__(
    self,
    task: str,
    split: str,
    *,
    inputs: tuple[np.ndarray, np.ndarray],
    targets: tuple[np.ndarray, np.ndarray],
    read_example: Callable[[int], dict[str, Any]],
    fingerprint: str,
    counts: Mapping[str, int] | None = None,
    directory: pathlib.Path | None = None,
    maps: Sequence[mmap.mmap] = (),
  ):
    """Wraps flat arrays.

    Args:
      task: name of the task.
      split: of the task.
      inputs: tokens and offsets.
      targets: tokens and offsets.
      read_example: returns the other values of an example.
      fingerprint: differs between stores with different tokens.
      counts: numbers of cut, unknown and all tokens.
      directory: where the store lies on a disk.
      maps: the memory maps of the store's files.
    """
    self.task = task
    self.split = split
    self.input_tokens, self.input_offsets = inputs
    self.target_tokens, self.target_offsets = targets
    self.num_examples = len(self.input_offsets) - 1
    self.fingerprint = fingerprint
    self.counts = dict(counts or {})
    self.directory = directory
    self.maps = tuple(maps)
    self._read_example = read_example

  @property
  def input_lengths(self) -> np.ndarray:
    """Tokens of each example's inputs, [n] int32."""
    return np.diff(self.input_offsets).astype(np.int32)

  @property
  def target_lengths(self) -> np.ndarray:
    """Tokens of each example's targets, [n] int32."""
    return np.diff(self.target_offsets).astype(np.int32)

  def inputs(self, index: int) -> np.ndarray:
    """Returns the inputs of one example, [L] int32, with end of sequence."""
    return _piece(self.input_tokens, self.input_offsets, index)

  def targets(self, index: int) -> np.ndarray:
    """Returns the targets of one example, [L] int32, with end of sequence."""
    return _piece(self.target_tokens, self.target_offsets, index)

  def example(self, index: int) -> dict[str, Any]:
    """Returns what the task's example holds besides tokens.

    These are all values that postprocessors and metrics read, as plain Python:
    `inputs_pretokenized` and `targets_pretokenized`, and per task `idx`,
    `label`, `answers`, `idx/question` and so on; arrays are lists.
    """
    if not 0 <= index < self.num_examples:
      raise IndexError(f'{self.task}/{self.split} has no example {index}')
    return self._read_example(index)


def memory_store(
  task: str,
  split: str,
  inputs: Sequence[Sequence[int]],
  targets: Sequence[Sequence[int]],
  examples: Sequence[Mapping[str, Any]] | None = None,
) -> TokenStore:
  """Makes a store of examples that are already token ids.

  Args:
    task: name of the task.
    split: of the task.
    inputs: ids of each example's inputs, with end of sequence.
    targets: ids of each example's targets, with end of sequence.
    examples: the other values of each example.
  """
  if len(inputs) != len(targets):
    raise ValueError(f'{len(inputs)} inputs, but {len(targets)} targets')
  values = [{}] * len(inputs) if examples is None else examples
  arrays = {'inputs': _flat(inputs), 'targets': _flat(targets)}
  checksums = [
    f'{zlib.crc32(np.ascontiguousarray(array)):08x}'
    for pair in arrays.values()
    for array in pair
  ]
  return TokenStore(
    task,
    split,
    **arrays,
    read_example=lambda index: dict(values[index]),
    fingerprint='-'.join(checksums),
  )


def open_store(
  task: str,
  split: str,
  *,
  source: str,
  vocabulary: str,
  lengths: tuple[int, int],
  directory: str | os.PathLike,
  progress: Progress | None = None,
) -> TokenStore:
  """Opens one split's store and builds it first where it is missing.

  Args:
    task: name of a task.
    split: one of its splits.
    source: 'sample', 'tfds' or 'files:DIR'.
    vocabulary: 'sample', 'bytes' or the path of a SentencePiece model.
    lengths: tokens that inputs and targets are cut to.
    directory: of the token store; made where it is missing.
    progress: told how far building is.

  Raises:
    UserError: the split is missing or empty, a row is malformed, the
      vocabulary is none, or the store cannot be written.
  """
  request = TokenRequest(task, split, source, vocabulary, tuple(lengths))
  return open_stores([request], directory=directory, progress=progress)[0]


def open_stores(
  requests: Sequence[TokenRequest],
  *,
  directory: str | os.PathLike,
  progress: Progress | None = None,
) -> list[TokenStore]:
  """Opens several stores; the missing ones are built, large ones in parallel.

  A store that is damaged is built again, with a warning. See `open_store`.

  Returns:
    The stores, in the order of `requests`.
  """
  root = pathlib.Path(directory).expanduser()
  vocabularies = {
    spec: load_vocabulary(spec)
    for spec in dict.fromkeys(request.vocabulary for request in requests)
  }
  opened: dict[TokenRequest, TokenStore] = {}
  for request in requests:
    store = _open(request, root, vocabularies[request.vocabulary])
    if store is not None:
      opened[request] = store
  missing = [r for r in dict.fromkeys(requests) if r not in opened]
  if missing:
    from hypergrid_jax.data import token_workers

    token_workers.build_all(missing, root, progress or (lambda *_: None))
  for request in missing:
    store = _open(request, root, vocabularies[request.vocabulary])
    if store is None:
      raise UserError(
        f'{request.label}: its rows changed while they were tokenised. Run'
        ' again when nothing writes to the source any more.'
      )
    opened[request] = store
  return [opened[request] for request in requests]


def _open(
  request: TokenRequest, root: pathlib.Path, vocabulary: Vocabulary
) -> TokenStore | None:
  """Opens a ready store; removes a damaged one; None when there is none."""
  mark = fingerprint(request, vocabulary)
  path = request.directory(root, mark)
  try:
    manifest = token_files.read_manifest(path)
    if manifest.get('fingerprint') != mark:
      raise token_files.DamagedStoreError('it was made from something else')
    return _load(path, manifest)
  except FileNotFoundError:
    return None
  except token_files.DamagedStoreError as error:
    _LOGGER.warning(
      '%s: the token store %s is damaged (%s) and is built again.',
      request.label,
      path,
      error,
    )
    _discard(request, path)
    return None


def _discard(request: TokenRequest, path: pathlib.Path):
  try:
    token_files.discard(path)
  except OSError as error:
    raise UserError(
      f'{request.label}: the damaged token store {path} cannot be removed'
      f' ({error.strerror}). Remove it, or name another directory with'
      ' data.token_dir.'
    ) from error


def _load(path: pathlib.Path, manifest: Mapping[str, Any]) -> TokenStore:
  arrays, maps = token_files.open_arrays(path)
  offsets, lines = arrays['example_offsets'], arrays['examples']
  return TokenStore(
    manifest['task'],
    manifest['split'],
    inputs=(arrays['inputs'], arrays['input_offsets']),
    targets=(arrays['targets'], arrays['target_offsets']),
    read_example=lambda index: json.loads(
      lines[offsets[index] : offsets[index + 1]].tobytes()
    ),
    fingerprint='-'.join(
      f'{manifest["files"][name]["crc32"]:08x}' for name in token_files.TOKENS
    ),
    counts=manifest['counts'],
    directory=path,
    maps=maps,
  )


def _piece(tokens, offsets, index) -> np.ndarray:
  if not 0 <= index < len(offsets) - 1:
    raise IndexError(f'there is no example {index}')
  return tokens[offsets[index] : offsets[index + 1]].astype(np.int32)


def _flat(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
  offsets = np.zeros(len(rows) + 1, np.int64)
  np.cumsum([len(row) for row in rows], out=offsets[1:])
  tokens = np.concatenate(
    [np.asarray(row, np.int32) for row in rows] or [np.zeros(0, np.int32)]
  )
  return tokens, offsets
