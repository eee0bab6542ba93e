"""The files of a token store: written in one pass, checked when opened.

A store is a directory of four NumPy arrays (`inputs.npy`, `targets.npy`: all
token ids one after the other; `input_offsets.npy`, `target_offsets.npy`: where
each example begins, one more than there are examples), the other values of each
example as JSON lines (`examples.jsonl`, `example_offsets.npy`), and
`manifest.json` with the size and CRC-32 of each file and of itself. A directory
gets its final name when all of it is on the disk.

Files whose CRC-32 was once right are not read again as long as the system says
that nobody has touched them: `verified.json` keeps the size, both times and the
inode that each of them had. Remove it to have all of them read.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import mmap
import os
import pathlib
import shutil
import time
from typing import Any, BinaryIO
import uuid
import zlib

import numpy as np

from hypergrid_jax import files as files_lib
from hypergrid_jax.errors import UserError

MANIFEST = 'manifest.json'
VERIFIED = 'verified.json'
ARRAYS = (
  'inputs',
  'input_offsets',
  'targets',
  'target_offsets',
  'example_offsets',
)
TOKENS = tuple(f'{name}.npy' for name in ARRAYS[:-1])
FILES = (*TOKENS, 'examples.jsonl', 'example_offsets.npy')
_TOKEN_TYPES = (np.dtype(np.uint16), np.dtype(np.int32))
_PARTIAL = '.partial-'
# A directory that nobody has written to for a day was left by a killed process.
_ABANDONED_SECONDS = 24 * 3600
# File systems keep times in steps of up to 2 s (FAT): a file changed later than
# that ago could change again without its times showing it.
_SETTLED_NS = 2_000_000_000


class DamagedStoreError(Exception):
  """A token store is not what was written; the text says what is wrong."""


class _ArrayWriter:
  """Writes a one-dimensional .npy file whose length is not known before."""

  def __init__(self, path: pathlib.Path, dtype: np.dtype):
    self._dtype = np.dtype(dtype)
    self._count = 0
    self._file = path.open('wb')
    self._write_header()
    self._start = self._file.tell()

  def _write_header(self):
    header = {
      'descr': np.lib.format.dtype_to_descr(self._dtype),
      'fortran_order': False,
      'shape': (self._count,),
    }
    np.lib.format.write_array_header_1_0(self._file, header)

  def append(self, values: np.ndarray):
    """Adds the values of [n] to the file."""
    self._file.write(values.astype(self._dtype).tobytes())
    self._count += len(values)

  def finish(self):
    """Puts the true length into the header and the file on the disk."""
    self._file.seek(0)
    self._write_header()
    if self._file.tell() != self._start:
      raise RuntimeError('NumPy left no room in the header for a longer array')
    _sync_and_close(self._file)

  def close(self):
    """Closes the file as it is."""
    self._file.close()


class StoreWriter:
  """Writes one store, example by example, into an empty directory."""

  def __init__(self, directory: pathlib.Path, *, vocabulary_size: int):
    """Opens the files.

    Args:
      directory: exists and is empty.
      vocabulary_size: decides whether ids are kept in 2 or 4 bytes.
    """
    self._directory = directory
    ids = np.uint16 if vocabulary_size <= 2**16 else np.int32
    self._arrays = {
      name: _ArrayWriter(
        directory / f'{name}.npy', np.int64 if 'offsets' in name else ids
      )
      for name in ARRAYS
    }
    self._examples = (directory / 'examples.jsonl').open('wb')
    self._ends = {'input': 0, 'target': 0, 'example': 0}
    for name in self._ends:
      self._arrays[f'{name}_offsets'].append(np.zeros(1, np.int64))

  def add(
    self, inputs: np.ndarray, targets: np.ndarray, values: Mapping[str, Any]
  ):
    """Adds an example: ids [Li] and [Lt], and its other values as JSON."""
    self._arrays['inputs'].append(inputs)
    self._arrays['targets'].append(targets)
    line = json.dumps(values).encode() + b'\n'
    self._examples.write(line)
    for name, length in (
      ('input', len(inputs)),
      ('target', len(targets)),
      ('example', len(line)),
    ):
      self._ends[name] += length
      self._arrays[f'{name}_offsets'].append(np.array([self._ends[name]]))

  def finish(self, facts: Mapping[str, Any]):
    """Puts everything on the disk, the manifest with `facts` last."""
    for array in self._arrays.values():
      array.finish()
    _sync_and_close(self._examples)
    files = {
      name: {
        'bytes': (self._directory / name).stat().st_size,
        'crc32': files_lib.crc32(self._directory / name),
      }
      for name in FILES
    }
    body = {**facts, 'files': files}
    text = json.dumps({**body, 'crc32': _body_checksum(body)}, indent=2)
    with (self._directory / MANIFEST).open('w') as file:
      file.write(text + '\n')
      _sync_and_close(file)

  def close(self):
    """Closes the files; harmless after `finish`."""
    for array in self._arrays.values():
      array.close()
    self._examples.close()


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  """Reads the manifest and compares every file with it.

  Raises:
    FileNotFoundError: there is nothing of this name.
    DamagedStoreError: a file is missing, cut, or not what was written.
  """
  if not os.path.lexists(directory):
    raise FileNotFoundError(directory)
  try:
    body = json.loads((directory / MANIFEST).read_bytes())
    checksum = body.pop('crc32')
    wanted = {
      name: (body['files'][name]['bytes'], body['files'][name]['crc32'])
      for name in FILES
    }
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise DamagedStoreError(f'{MANIFEST} cannot be read ({error})') from error
  if checksum != _body_checksum(body):
    raise DamagedStoreError(f'{MANIFEST} has been changed')
  now = time.time_ns()
  stamps = {}
  for name, (size, _) in wanted.items():
    with _reading(name):
      status = (directory / name).stat()
    if status.st_size != size:
      raise DamagedStoreError(
        f'{name} has {status.st_size} bytes instead of {size}'
      )
    times = status.st_mtime_ns, status.st_ctime_ns
    stamps[name] = [size, *times, status.st_ino]
  if _verified(directory) == [checksum, stamps]:
    return body
  for name, (_, crc32) in wanted.items():
    with _reading(name):
      if files_lib.crc32(directory / name) != crc32:
        raise DamagedStoreError(f'the CRC-32 of {name} is wrong')
  if all(max(s[1:3]) < now - _SETTLED_NS for s in stamps.values()):
    with contextlib.suppress(UserError):  # the directory may be read only
      text = json.dumps([checksum, stamps])
      files_lib.write_text(directory / VERIFIED, text)
  return body


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise DamagedStoreError(
      f'{name} cannot be read ({error.strerror})'
    ) from error


def _verified(directory: pathlib.Path) -> Any:
  """Returns what `read_manifest` wrote when it last read all files."""
  try:
    return json.loads((directory / VERIFIED).read_bytes())
  except (OSError, ValueError):
    return None


def open_arrays(
  directory: pathlib.Path,
) -> tuple[dict[str, np.ndarray], list[mmap.mmap]]:
  """Maps the arrays of a store into memory.

  Returns:
    The arrays by their names in `ARRAYS`, and 'examples', the bytes of
    `examples.jsonl`; and the maps that they lie in.

  Raises:
    DamagedStoreError: a file is not the array that it should be.
  """
  arrays, maps = {}, []
  for name in (*ARRAYS, 'examples'):
    file = 'examples.jsonl' if name == 'examples' else f'{name}.npy'
    try:
      with (directory / file).open('rb') as content:
        mapped = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
        length, dtype = len(mapped), np.dtype(np.uint8)
        if name != 'examples':
          length, dtype = _read_header(content)
        arrays[name] = np.frombuffer(mapped, dtype, length, content.tell())
    except (OSError, ValueError) as error:
      raise DamagedStoreError(f'{file} cannot be read ({error})') from error
    maps.append(mapped)
  _check_arrays(arrays)
  return arrays, maps


def _read_header(content: BinaryIO) -> tuple[int, np.dtype]:
  """Reads what `_ArrayWriter` wrote: length and type of one dimension."""
  version = np.lib.format.read_magic(content)
  if version != (1, 0):
    raise ValueError(f'it has version {version}')
  shape, _, dtype = np.lib.format.read_array_header_1_0(content)
  if len(shape) != 1 or shape[0] < 0:
    raise ValueError(f'it has the shape {shape}')
  return shape[0], dtype


def _check_arrays(arrays: Mapping[str, np.ndarray]):
  for values, name in (
    ('inputs', 'input_offsets'),
    ('targets', 'target_offsets'),
    ('examples', 'example_offsets'),
  ):
    offsets = arrays[name]
    if offsets.dtype != np.int64 or not len(offsets):
      raise DamagedStoreError(f'{name}.npy does not hold offsets')
    if len(offsets) != len(arrays['input_offsets']):
      raise DamagedStoreError(f'{name}.npy has another number of examples')
    if offsets[0] != 0 or offsets[-1] != arrays[values].size:
      raise DamagedStoreError(f'{name}.npy does not end where {values} end')
  for name in ('inputs', 'targets'):
    if arrays[name].dtype not in _TOKEN_TYPES:
      raise DamagedStoreError(f'{name}.npy does not hold token ids')


def partial_directory(final: pathlib.Path) -> pathlib.Path:
  """Makes a directory beside `final` in which a store can be written."""
  final.parent.mkdir(parents=True, exist_ok=True)
  path = partial_path(final.parent)
  path.mkdir()
  return path


def partial_path(folder: pathlib.Path) -> pathlib.Path:
  """Returns a new name for what is being written; removes abandoned ones."""
  for left in folder.glob(f'{_PARTIAL}*'):
    with contextlib.suppress(OSError):  # renamed meanwhile, or not ours
      if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
        _remove(left)
  return folder / f'{_PARTIAL}{uuid.uuid4().hex[:12]}'


def _remove(path: pathlib.Path):
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      path.unlink()


def publish(partial: pathlib.Path, final: pathlib.Path):
  """Gives a finished store its name, unless another process was faster."""
  files_lib.sync_directory(partial)
  try:
    partial.rename(final)
  except OSError:
    if not (final / MANIFEST).is_file():
      raise
    shutil.rmtree(partial, ignore_errors=True)
  files_lib.sync_directory(final.parent)


def discard(directory: pathlib.Path):
  """Removes a store, or what lies in its place; nobody sees a part of it."""
  gone = partial_path(directory.parent)
  try:
    directory.rename(gone)
  except FileNotFoundError:
    return
  _remove(gone)


def _sync_and_close(file):
  file.flush()
  os.fsync(file.fileno())
  file.close()


def _body_checksum(body: Mapping[str, Any]) -> int:
  return zlib.crc32(json.dumps(body, sort_keys=True).encode())
