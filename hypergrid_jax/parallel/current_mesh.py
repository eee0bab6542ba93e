"""What the mesh in force (`jax.set_mesh`) is and divides, asked inside jit."""

import math

import jax
from jax.sharding import AxisType

# Mesh axes as an entry of a PartitionSpec: one, several, or none.
MeshAxes = str | tuple[str, ...] | None


def as_tuple(axes: MeshAxes) -> tuple[str, ...]:
  """The same axes, always as a tuple."""
  if axes is None:
    return ()
  return (axes,) if isinstance(axes, str) else tuple(axes)


def as_entry(axes: tuple[str, ...]) -> MeshAxes:
  """Returns the axes as a `PartitionSpec` writes them."""
  return axes if len(axes) > 1 else axes[0] if axes else None


def platform() -> str:
  """Returns the platform of the devices computed on, or compiled for."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def devices() -> int:
  """Over how many devices the current mesh divides the work."""
  return axis_size(tuple(jax.sharding.get_abstract_mesh().axis_names))


def axis_size(axes: MeshAxes) -> int:
  """Devices along axes of the current mesh that are not yet divided."""
  sizes = _sizes()
  return math.prod(sizes.get(axis, 1) for axis in as_tuple(axes))


def dividing(axes: MeshAxes, size: int) -> MeshAxes:
  """Those of `axes` that the current mesh has, if they divide `size` evenly.

  Args:
    axes: names that the current mesh may lack.
    size: of the dimension to divide.

  Returns:
    The axes of more than one device; None if they do not divide `size`.
  """
  sizes = _sizes()
  present = tuple(axis for axis in as_tuple(axes) if sizes.get(axis, 1) > 1)
  if size % axis_size(present):
    return None
  return as_entry(present)


def _sizes() -> dict[str, int]:
  """Size of every axis that shard_map has not already divided."""
  mesh = jax.sharding.get_abstract_mesh()
  return {
    name: size
    for name, size, kind in zip(
      mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True
    )
    if kind != AxisType.Manual
  }
