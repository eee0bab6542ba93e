"""Writing parameters that are never in memory all at once.

The files are those of `checkpoint_reader`, without a training state.
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
from hypergrid_jax.checkpoints import layout, manifest

_PARAMS = 'params'


@dataclasses.dataclass(frozen=True)
class Deferred:
  """An array that is made when it is its turn to be written.

  Attributes:
    shape: of the array.
    dtype: of the array.
    load: makes it.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  load: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    """Bytes of the array."""
    return math.prod(self.shape) * self.dtype.itemsize


def of_array(value: Any) -> Deferred:
  """An array that is there already."""
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
    """Returns when everything is on the disk."""
    args = args or [ocp.SaveArgs()] * len(values)
    together = zip(values, infos, args, strict=True)
    for value, info, arg in sorted(together, key=lambda v: -v[0].nbytes):
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
    leaves: by path, see `tree_paths`.
    meta: JSON, to be kept beside them.
    step: the checkpoint's number.
    written: called after every leaf.

  Raises:
    UserError: the disk has no room for it.
  """
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler()),
    (Deferred, _OneByOne(written)),
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  tree = {_PARAMS: trees.unflatten(leaves)}
  files = layout.CheckpointFiles(directory.absolute() / 'checkpoints')
  files.check_space(step, sum(leaf.nbytes for leaf in leaves.values()))
  path = files.path(step)
  item = epath.Path(path / _PARAMS)
  item.mkdir(parents=True)
  with contextlib.closing(handler):
    handler.save(item, args=ocp.args.PyTreeSave(tree))
    handler.finalize(item)
  body = {
    'leaves': trees.layout(trees.flatten(tree)),
    'meta': {**meta, 'fingerprint': {}, 'step': step},
  }
  manifest.write(path, body)
