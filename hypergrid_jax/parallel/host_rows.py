"""Which rows of a batch this process loads, and how they get to its devices."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
from jax.sharding import NamedSharding
import numpy as np


@dataclasses.dataclass(frozen=True)
class RowParts:
  """The rows that the devices of this process hold.

  Where several processes share a wide layer, they hold the same rows.

  Attributes:
    sharding: of arrays whose first dimension is rows of a batch.
    parts: numbers of the equal parts of every batch that this process holds,
      ascending.
    num_parts: into which a batch is cut.
  """

  sharding: NamedSharding
  parts: tuple[int, ...]
  num_parts: int

  @property
  def share(self) -> float:
    """How much of a batch this process holds, in (0, 1]."""
    return len(self.parts) / self.num_parts

  def place(self, batch: Any) -> Any:
    """Puts rows on the devices.

    Args:
      batch: pytree of NumPy arrays whose first dimension is the rows of
        `parts`, one part after the other.

    Returns:
      The same tree of arrays of all rows of all processes.
    """
    if len(self.parts) == self.num_parts:
      return jax.device_put(batch, self.sharding)
    return jax.tree.map(self._place_one, batch)

  def _place_one(self, leaf: np.ndarray) -> jax.Array:
    size = leaf.shape[0] // len(self.parts)
    shape = (size * self.num_parts, *leaf.shape[1:])

    def rows(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(shape[0])
      first = self.parts.index(start // size) * size + start % size
      return leaf[first : first + stop - start]

    return jax.make_array_from_callback(shape, self.sharding, rows)


def row_parts(
  sharding: NamedSharding, devices: Sequence[jax.Device] | None = None
) -> RowParts:
  """Finds the rows that this process holds.

  Args:
    sharding: from `partitioning.batch_sharding`.
    devices: those of this process; None asks the sharding.
  """
  mesh = sharding.mesh
  probe = sharding.shard_shape((mesh.size,))[0]
  count = mesh.size // probe  # equal shares of the rows
  if devices is None:
    devices = sharding.addressable_devices
  places = sharding.devices_indices_map((count,))
  held = sorted({places[device][0].indices(count)[0] for device in devices})
  width = len(held)
  together = held == list(range(held[0], held[0] + width))
  if together and held[0] % width == 0 and count % width == 0:
    return RowParts(sharding, (held[0] // width,), count // width)
  return RowParts(sharding, tuple(held), count)
