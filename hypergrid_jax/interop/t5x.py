"""T5X's checkpoints: one zarr array for each parameter."""

import itertools
import math
import pathlib
from typing import Any

import numpy as np

from hypergrid_jax.errors import UserError
from hypergrid_jax.interop import architectures, json_files, names
from hypergrid_jax.interop.sources import Tensor

_PREFIX = 'target.'
_ARRAY = '.zarray'
_DTYPES = {'<f4': 'float32', '<f2': 'float16', 'bfloat16': 'bfloat16'}


def is_checkpoint(path: pathlib.Path) -> bool:
  """Tells whether this looks like one, or like a directory of some."""
  return path.is_dir() and (
    any(path.glob(f'{_PREFIX}*/{_ARRAY}')) or bool(_steps(path))
  )


def _steps(path: pathlib.Path) -> list[pathlib.Path]:
  return [
    step
    for step in sorted(path.glob('checkpoint_*'))
    if any(step.glob(f'{_PREFIX}*/{_ARRAY}'))
  ]


class T5XCheckpoint:
  """An opened checkpoint; see `sources.Source`."""

  format: names.Format = 't5x'

  def __init__(self, path: pathlib.Path):
    """Reads names and shapes.

    Args:
      path: of the checkpoint, `.../checkpoint_1000000`, or the directory with
        a single one of them.

    Raises:
      UserError: there are several, or it is damaged.
    """
    steps = _steps(path)
    if len(steps) > 1:
      shown = ', '.join(step.name for step in steps[-5:])
      raise UserError(
        f'{path} has {len(steps)} checkpoints: {shown}. Name one of them.'
      )
    self._path = path = steps[0] if steps else path
    self.place = str(path)
    self.tensors: dict[str, Tensor] = {}
    for file in sorted(path.glob(f'{_PREFIX}*/{_ARRAY}')):
      name = file.parent.name.removeprefix(_PREFIX)
      self.tensors[name] = _tensor(file)
    states = sum(1 for _ in path.glob(f'state.*/{_ARRAY}'))
    self.ignored = (f'{states} arrays of the optimiser',) if states else ()
    layout = {name: tensor.shape for name, tensor in self.tensors.items()}
    self.config = architectures.infer(layout, self.format)
    self.copies: dict[str, tuple[str, ...]] = {}

  def read(self, name: str) -> np.ndarray:
    """Reads one tensor, in its own dtype.

    Raises:
      UserError: its files are damaged.
    """
    import tensorstore

    path = self._path / f'{_PREFIX}{name}'
    spec = {
      'driver': 'zarr',
      'kvstore': {'driver': 'file', 'path': str(path.absolute())},
    }
    try:
      return tensorstore.open(spec, read=True).result().read().result()
    except (ValueError, OSError) as error:
      said = str(error).splitlines()[0][:300]
      raise UserError(
        f'{path} is damaged ({said}). Fetch the checkpoint again.'
      ) from error


def _tensor(file: pathlib.Path) -> Tensor:
  """Reads what an array is; all of its chunks must be there.

  Raises:
    UserError: they are not: zarr would read zeros in their place.
  """
  values = json_files.read_object(file)
  shape, chunks = _sizes(file, values, 'shape'), _sizes(file, values, 'chunks')
  if len(shape) != len(chunks) or 0 in chunks:
    raise UserError(f'{file}: chunks {chunks} do not fit the shape {shape}.')
  counts = [
    math.ceil(size / chunk) for size, chunk in zip(shape, chunks, strict=True)
  ]
  separator = values.get('dimension_separator', '.')
  present = {
    str(path.relative_to(file.parent)) for path in file.parent.rglob('*')
  }
  if math.prod(counts) > len(present):
    missing = math.prod(counts) - len(present) + 1
  else:
    places = itertools.product(*(range(count) for count in counts))
    wanted = {str(separator).join(map(str, place)) or '0' for place in places}
    missing = len(wanted - present)
  if missing:
    raise UserError(
      f'{file.parent} lacks {missing} of {math.prod(counts)} chunks. Fetch the'
      ' checkpoint again.'
    )
  dtype = str(values.get('dtype'))
  return Tensor(_DTYPES.get(dtype, dtype), shape, file.parent.name)


def _sizes(
  file: pathlib.Path, values: dict[str, Any], name: str
) -> tuple[int, ...]:
  sizes = values.get(name)
  if not isinstance(sizes, list) or not all(
    type(size) is int and size >= 0 for size in sizes
  ):
    raise UserError(f'{file}: {name} is {sizes!r}, expected a list of sizes.')
  return tuple(sizes)
