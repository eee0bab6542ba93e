"""Writing parameters that are never in memory all at once.

Their checkpoint is like any other, without a training state.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import math
import pathlib
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from hypergrid_jax import trees
from hypergrid_jax.checkpoints import layout


@dataclasses.dataclass(frozen=True)
class Deferred:
  """An array that is made just before it is written.

  Attributes:
    shape: the array's shape.
    dtype: the array's dtype.
    load: returns the array.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  load: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    """The size of the array in bytes."""
    return math.prod(self.shape) * self.dtype.itemsize


def of_array(value: Any) -> Deferred:
  """Returns an array that is in memory already as a `Deferred`."""
  dtype = np.dtype(value.dtype)
  return Deferred(tuple(value.shape), dtype, lambda: np.asarray(value))


class _OneByOne(ocp.type_handlers.NumpyHandler):
  """Makes and writes one array after the other, largest first.

  Orbax would copy all of them before it writes the first.
  """

  def __init__(self, written: Callable[[Deferred], None]):
    super().__init__()
    self._written = written

  async def serialize(
    self,
    values: Sequence[Deferred],
    infos: Sequence[ocp.type_handlers.ParamInfo],
    args: Sequence[ocp.SaveArgs] | None = None,
  ) -> list[Any]:
    """Writes all arrays before it returns."""
    args = args or [ocp.SaveArgs()] * len(values)
    arrays = zip(values, infos, args, strict=True)
    for value, info, arg in sorted(arrays, key=lambda a: -a[0].nbytes):
      for saved in await super().serialize([value.load()], [info], [arg]):
        saved.result()
      self._written(value)
    return []


def write_params(
  directory: pathlib.Path,
  leaves: Mapping[str, Deferred],
  meta: Mapping[str, Any],
  *,
  step: int = 0,
  written: Callable[[Deferred], None] = lambda leaf: None,
) -> None:
  """Writes a checkpoint of parameters alone.

  Memory: the largest leaf, and what writing it takes.

  Args:
    directory: the run directory; it has no checkpoint yet.
    leaves: arrays by path, see `trees`.
    meta: JSON to save beside them.
    step: the checkpoint's number.
    written: callback after every leaf.

  Raises:
    UserError: the disk has no room for it.
  """
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler()),
    (Deferred, _OneByOne(written)),
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  tree = {layout.PARAMS: trees.unflatten(leaves)}
  files = layout.CheckpointFiles(directory.absolute() / 'checkpoints')
  files.check_space(step, sum(leaf.nbytes for leaf in leaves.values()))
  path = files.path(step)
  item = epath.Path(path / layout.PARAMS)
  item.mkdir(parents=True)
  with contextlib.closing(handler):
    handler.save(item, args=ocp.args.PyTreeSave(tree))
    handler.finalize(item)
  body = {
    'leaves': trees.layout(trees.flatten(tree)),
    'meta': {**meta, 'fingerprint': {}, 'step': step},
  }
  layout.write_manifest(path, body)
