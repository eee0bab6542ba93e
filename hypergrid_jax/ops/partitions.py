"""The gated matmul on a mesh: each device does its part, sums cross devices.

The compiler could divide the plain operations by itself, but not a Pallas
kernel, and it would gather what the loops over blocks slice. So each device
runs the whole form on its own part: its rows of the batch, and its part of K
or N with the blocks of the grid that lie there.
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import PartitionSpec

from hypergrid_jax.parallel import current_mesh
from hypergrid_jax.parallel.current_mesh import MeshAxes


@dataclasses.dataclass(frozen=True)
class Partition:
  """The mesh axes that divide a gated matmul, each one, several or None.

  Names that the current mesh (`jax.set_mesh`) lacks, and axes that do not
  divide a size, are ignored.

  Attributes:
    batch: divides the rows of u.
    inputs: divides K.
    outputs: divides N; other axes than `inputs`.
  """

  batch: MeshAxes = None
  inputs: MeshAxes = None
  outputs: MeshAxes = None

  def on_current_mesh(self, batch: int, k: int, n: int) -> 'Partition':
    """Only what the current mesh has and divides."""
    return Partition(
      current_mesh.dividing(self.batch, batch),
      current_mesh.dividing(self.inputs, k),
      current_mesh.dividing(self.outputs, n),
    )


WHOLE = Partition()


@dataclasses.dataclass(frozen=True)
class Divided:
  """A form run on every device's part.

  Attributes:
    form: how one device does its part.
    axes: the axes in use.
    slope: None, or u is `rectifying.value(slope, x, keep)`, and the gradient of
      x is what is asked for.
  """

  form: Any
  axes: Partition
  slope: float | None = None

  def forward(self, u, kernel, row, col, gate):
    """The product, of all devices."""

    def local(*arguments):
      return _sum(self.form.forward(*arguments), self.axes.inputs)

    return self._run(local, self._arguments, self._result)(
      u, kernel, row, col, gate
    )

  def backward(self, u, kernel, row, col, gate, dy, layer=None):
    """Gradients of u, or of x, and of kernel, row and col, of all devices.

    With a layer u is its part of a given stack [N, B, L, K].
    """
    batch, inputs, outputs = dataclasses.astuple(self.axes)

    def local(*arguments):
      du, dkernel, drow, dcol = self.form.backward(*arguments, slope=self.slope)
      dkernel = dkernel.astype(kernel.dtype)  # fewer bytes to send
      return (
        _sum(du, outputs),
        _sum(dkernel, batch),
        _sum(drow, outputs),
        _sum(dcol, inputs),
      )

    of_u, *others = self._arguments
    if layer is not None:
      of_u = PartitionSpec(None, *of_u)
    specs = (of_u, *others, self._result, PartitionSpec())
    return self._run(local, specs, self._arguments[:4])(
      u, kernel, row, col, gate, dy, layer
    )

  @property
  def _arguments(self):
    batch, inputs, outputs = dataclasses.astuple(self.axes)
    return (
      PartitionSpec(batch, None, inputs),
      PartitionSpec(inputs, outputs),
      self.form.factor_spec(batch, inputs),
      self.form.factor_spec(batch, outputs),
      PartitionSpec(),
    )

  @property
  def _result(self):
    return PartitionSpec(self.axes.batch, None, self.axes.outputs)

  def _run(self, local, in_specs, out_specs):
    if current_mesh.devices() == 1:
      return local
    return jax.shard_map(
      local, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def _sum(x, axis):
  return x if axis is None else jax.lax.psum(x, axis)
