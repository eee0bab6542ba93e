"""Packed rows kept on the disk beside the examples they hold.

Packing takes about half a second per million examples, reading the result no
time. It is kept in the token store as `packed-*.npz`, whose name follows from
everything the rows depend on. A zip archive carries the CRC-32 of its members,
so that a damaged one is noticed, and packed again.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib

import numpy as np

from hypergrid_jax.data import packing, token_files
from hypergrid_jax.data.tokens import TokenStore

# Files of a store at most, for as many seeds and row lengths; 4 bytes and a bit
# per example each.
_KEPT = 16
_LOGGER = logging.getLogger(__name__)


def packed_rows(
  store: TokenStore,
  *,
  row_lengths: tuple[int, int],
  max_segments: int,
  seed: int,
) -> packing.PackedRows:
  """Returns what `packing.pack` makes of a store, or made of it before.

  Args:
    store: the examples.
    row_lengths: tokens of an encoder row and of a decoder row.
    max_segments: examples in a row at most.
    seed: of packing.

  Raises:
    UserError: an example is longer than a row.
  """
  path = None
  if max_segments > 1 and store.directory is not None:
    path = store.directory / _name(store, row_lengths, max_segments, seed)
    rows = _read(path, store)
    if rows is not None:
      return rows
  rows = packing.pack(
    store.input_lengths,
    store.target_lengths,
    row_lengths=row_lengths,
    max_segments=max_segments,
    seed=seed,
    label=f'{store.task}/{store.split}',
  )
  if path is not None:
    _write(path, rows)
  return rows


def _name(store, row_lengths, max_segments, seed) -> str:
  parts = packing.VERSION, store.fingerprint, row_lengths, max_segments, seed
  key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
  return f'packed-{key[:32]}.npz'


def _read(path: pathlib.Path, store: TokenStore) -> packing.PackedRows | None:
  try:
    with np.load(path) as arrays:
      return packing.PackedRows(arrays['offsets'], arrays['examples'])
  except FileNotFoundError:
    return None
  except Exception as error:  # a damaged archive fails in many ways
    _LOGGER.warning(
      '%s/%s: the packed rows %s are damaged (%s) and are made again.',
      store.task,
      store.split,
      path,
      error,
    )
    return None


def _write(path: pathlib.Path, rows: packing.PackedRows):
  """Writes the rows whole or not at all; a read-only directory is no matter."""
  partial = None
  try:
    partial = token_files.partial_path(path.parent)
    with partial.open('xb') as file:
      np.savez(file, offsets=rows.offsets, examples=rows.examples)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  except OSError as error:
    _LOGGER.info(
      'The packed rows %s cannot be written (%s); the next run packs again.',
      path,
      error.strerror,
    )
    if partial is not None:
      with contextlib.suppress(OSError):  # the first error is the one to tell
        partial.unlink()
  else:
    _remove_oldest(path.parent)


def _remove_oldest(folder: pathlib.Path):
  with contextlib.suppress(OSError):  # another process removes them too
    plans = folder.glob('packed-*.npz')
    for old in sorted(plans, key=lambda plan: plan.stat().st_mtime)[:-_KEPT]:
      old.unlink()
