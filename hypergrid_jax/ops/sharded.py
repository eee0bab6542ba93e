"""The gated matmul on a mesh: each device computes its shard.

The compiler could divide the plain operations by itself, but not a Pallas
kernel, and it would gather what the loops over blocks slice. So each device
runs the whole computation on its own shard: its rows of the batch, and its
shard of K or N with the blocks of the grid that lie there. Sums over a divided
side go over the devices.
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
    """Returns the axes that the current mesh has and that divide the sizes."""
    return Partition(
      current_mesh.dividing(self.batch, batch),
      current_mesh.dividing(self.inputs, k),
      current_mesh.dividing(self.outputs, n),
    )


WHOLE = Partition()


@dataclasses.dataclass(frozen=True)
class Sharded:
  """A form that runs on every device's shard.

  Attributes:
    form: how one device computes its shard.
    axes: the mesh axes in use.
    relu_scale: None, or u is `relu_dropout.value(relu_scale, x, keep)` and
      `backward` returns the gradient of x in place of u's.
  """

  form: Any
  axes: Partition
  relu_scale: float | None = None

  def forward(self, u, kernel, row, col, offset_scale):
    """Returns the product over all devices."""

    def local(*arguments):
      return _sum(self.form.forward(*arguments), self.axes.inputs)

    return self._run(local, self._arguments, self._result)(
      u, kernel, row, col, offset_scale
    )

  def backward(self, u, kernel, row, col, offset_scale, dy, layer=None):
    """Returns the gradients of u (or x), kernel, row and col.

    With a layer, u is a stack [N, B, L, K] of all layers' inputs.
    """
    batch, inputs, outputs = dataclasses.astuple(self.axes)

    def local(*arguments):
      du, dkernel, drow, dcol = self.form.backward(
        *arguments, relu_scale=self.relu_scale
      )
      dkernel = dkernel.astype(kernel.dtype)  # fewer bytes to send
      return (
        _sum(du, outputs),
        _sum(dkernel, batch),
        _sum(drow, outputs),
        _sum(dcol, inputs),
      )

    u_spec, *others = self._arguments
    if layer is not None:
      u_spec = PartitionSpec(None, *u_spec)
    specs = (u_spec, *others, self._result, PartitionSpec())
    return self._run(local, specs, self._arguments[:4])(
      u, kernel, row, col, offset_scale, dy, layer
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
