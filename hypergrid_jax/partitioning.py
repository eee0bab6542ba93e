"""Where arrays live: the mesh, and every rule from logical axes to mesh axes.

A parameter names one logical axis per dimension. Each of those names has a rule
here; none is replicated by silence. The mesh has two axes: 'data', over which
the rows of a batch are divided, and 'model', over which wide layers are.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hypergrid_jax import tree_paths
from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.types import Params

DATA = 'data'
MODEL = 'model'
MESH_AXES = (DATA, MODEL)

Rules = Mapping[str, str | None]

DEFAULT_RULES: Rules = {
  'batch': DATA,
  'length': None,
  'embed': None,
  'mlp': MODEL,
  'heads': MODEL,
  'kv': None,
  'joined_kv': MODEL,
  'layers': None,
  'vocab': MODEL,
  'relpos_buckets': None,
  'tasks': None,
  'task_embed': None,
  'bottleneck': None,
  'window': None,
  'grid_row': None,
  'grid_col': None,
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How the devices of a run are divided.

  Attributes:
    data: devices that share the rows of a batch; -1 takes all that `model`
      leaves.
    model: devices that share each wide layer.
    fsdp: also divide parameters and optimiser state over the data axis, along
      'embed', instead of keeping a copy on every data device.

  Raises:
    UserError: a size is neither positive nor, for `data`, -1.
  """

  data: int = -1
  model: int = 1
  fsdp: bool = False

  def __post_init__(self) -> None:
    if self.data < 1 and self.data != -1:
      raise UserError(
        f'MeshConfig.data is {self.data}, but must be at least 1, or -1 for '
        'all remaining devices.'
      )
    if self.model < 1:
      raise UserError(
        f'MeshConfig.model is {self.model}, but must be at least 1.'
      )

  def rules(self) -> Rules:
    """Returns the rules from logical axes to mesh axes for this mesh."""
    if self.fsdp:
      return {**DEFAULT_RULES, 'embed': DATA}
    return DEFAULT_RULES


def make_mesh(
  config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns the mesh over all devices of all processes, or over `devices`.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  data = config.data
  if data == -1:
    data = max(len(devices) // config.model, 1)
  if data * config.model != len(devices):
    raise UserError(
      f'MeshConfig asks for data={config.data} x model={config.model} devices, '
      f'but there are {len(devices)}. Choose sizes whose product is '
      f'{len(devices)}, or data=-1 with a divisor of it as model.'
    )
  return jax.make_mesh(
    (data, config.model),
    MESH_AXES,
    axis_types=(AxisType.Auto,) * len(MESH_AXES),
    devices=devices,
  )


def partition_spec(
  name: str,
  shape: Sequence[int],
  axes: Sequence[str],
  mesh: Mesh,
  rules: Rules = DEFAULT_RULES,
) -> PartitionSpec:
  """Returns how one array is divided over the mesh.

  When two of its axes map to the same mesh axis the first is divided and the
  other is not: a mesh axis can divide an array only once.

  Args:
    name: path of the array, for error messages.
    shape: its shape.
    axes: one logical axis name per dimension.
    mesh: the devices.
    rules: logical axis to mesh axis, or None to keep the dimension whole.

  Raises:
    UserError: an axis has no rule, a rule names no axis of the mesh, or a
      dimension is not a multiple of the devices it is divided over.
  """
  if len(axes) != len(shape):
    raise ValueError(f'{name} has shape {tuple(shape)} but axes {tuple(axes)}')
  spec: list[str | None] = []
  for size, axis in zip(shape, axes, strict=True):
    if axis not in rules:
      raise UserError(
        f'{name}: its axis {axis!r} of size {size} has no partitioning rule; '
        f'there are rules for {", ".join(sorted(rules))}.{closest(axis, rules)}'
      )
    target = rules[axis]
    if target is not None and target not in mesh.shape:
      raise UserError(
        f'{name}: the rule {axis!r} -> {target!r} of its axis of size {size} '
        f'names no axis of the mesh ({", ".join(mesh.shape)}).'
      )
    if target is None or target in spec:
      spec.append(None)
      continue
    if size % mesh.shape[target]:
      raise UserError(
        f'{name}: its axis {axis!r} of size {size} cannot be divided over the '
        f'{mesh.shape[target]} devices of mesh axis {target!r}. Choose a '
        f'number of {target} devices that divides {size}.'
      )
    spec.append(target)
  return PartitionSpec(*spec)


def shardings(
  abstract: Any, logical_axes: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> Any:
  """Returns the sharding of every leaf of a tree, parameters or state.

  Args:
    abstract: tree of arrays; shapes suffice.
    logical_axes: the same tree, of tuples of axis names.
    mesh: the devices.
    rules: see `partition_spec`.

  Raises:
    UserError: see `partition_spec`.
  """

  def one(path: str, axes: tuple[str, ...], leaf: Any) -> NamedSharding:
    spec = partition_spec(path, leaf.shape, axes, mesh, rules)
    return NamedSharding(mesh, spec)

  return tree_paths.map_with_path(
    one, logical_axes, abstract, is_leaf=tree_paths.is_axes
  )


def param_shardings(
  logical_axes: Params,
  abstract: Params,
  mesh: Mesh,
  rules: Rules = DEFAULT_RULES,
) -> Params:
  """Returns the sharding of every parameter; see `shardings`."""
  return shardings(abstract, logical_axes, mesh, rules)


def batch_sharding(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
  """Returns the sharding of arrays whose first dimension is rows of a batch."""
  return NamedSharding(mesh, PartitionSpec(rules['batch']))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch_size(
  batch_size: int, mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> None:
  """Checks that the rows of a batch can be divided over the mesh.

  Raises:
    UserError: they cannot.
  """
  partition_spec('batch_size', [batch_size], ['batch'], mesh, rules)
