"""Where arrays live: the mesh, and every rule from logical axes to mesh axes.

A parameter names one logical axis per dimension. Each of those names has a rule
here; none is replicated by silence. The mesh has four axes:

  slice  slices of a pod that only a data-centre network (DCN) connects: each
         holds all parameters and takes its share of the rows;
  data   replicas within a slice: the same, over the fast network;
  fsdp   fully sharded data parallelism: devices that share the rows, and keep
         only their part of the parameters and of the optimiser state;
  model  tensor parallelism: devices that share each wide layer.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from hypergrid_jax import trees
from hypergrid_jax.errors import UserError, closest
from hypergrid_jax.parallel import current_mesh
from hypergrid_jax.parallel.current_mesh import MeshAxes
from hypergrid_jax.types import Params

SLICE = 'slice'
DATA = 'data'
FSDP = 'fsdp'
MODEL = 'model'
MESH_AXES = (SLICE, DATA, FSDP, MODEL)
ROWS = (SLICE, DATA, FSDP)  # what divides the rows of a batch

Rules = Mapping[str, MeshAxes]

DEFAULT_RULES: Rules = {
  'batch': ROWS,
  'length': None,
  'activation_embed': None,
  'embed': FSDP,
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
  """How the devices of a run are divided; see the module for the four axes.

  One of `data` and `fsdp` may be -1, for all devices that the others leave.

  Attributes:
    slices: slices connected by DCN.
    data: replicas within a slice.
    fsdp: devices that share rows and parameters.
    model: devices that share each wide layer.
    rules: pairs (logical axis, mesh axis) that replace those of
      `DEFAULT_RULES`. In place of a mesh axis, a tuple of several divides by
      all of them, and None keeps the dimension whole.

  Raises:
    UserError: a size that cannot be, or a rule for or to an axis that does not
      exist.
  """

  slices: int = 1
  data: int = -1
  fsdp: int = 1
  model: int = 1
  rules: tuple[tuple[str, str | tuple[str, ...] | None], ...] = ()

  def __post_init__(self) -> None:
    for name in ('slices', 'data', 'fsdp', 'model'):
      value = getattr(self, name)
      open_ = name in ('data', 'fsdp')
      if value < 1 and not (open_ and value == -1):
        more = ', or -1 for all remaining devices' if open_ else ''
        raise UserError(
          f'mesh.{name} is {value}, but must be at least 1{more}.'
        )
    if self.data == self.fsdp == -1:
      raise UserError(
        'mesh.data and mesh.fsdp are both -1; only one of them can'
        ' take all remaining devices. Set the other one to 1.'
      )
    for logical, target in self.rules:
      _check_rule(logical, target)

  def axis_rules(self) -> Rules:
    """Returns the rules from logical axes to mesh axes for this mesh."""
    return {**DEFAULT_RULES, **dict(self.rules)}

  def sizes(self, num_devices: int) -> tuple[int, int, int, int]:
    """Returns the size of every mesh axis for so many devices.

    Raises:
      UserError: they do not multiply to the number of devices.
    """
    sizes = [self.slices, self.data, self.fsdp, self.model]
    fixed = math.prod(size for size in sizes if size != -1)
    sizes = [max(num_devices // fixed, 1) if n == -1 else n for n in sizes]
    if math.prod(sizes) != num_devices:
      asked = ' x '.join(
        f'{name}={getattr(self, name)}'
        for name in ('slices', 'data', 'fsdp', 'model')
      )
      raise UserError(
        f'mesh asks for {asked} devices, but there are {num_devices}.'
        f' Choose sizes whose product is {num_devices}, or data=-1 or fsdp=-1'
        ' with divisors of it as the others.'
      )
    return tuple(sizes)


def _check_rule(logical: str, target: MeshAxes) -> None:
  if logical not in DEFAULT_RULES:
    raise UserError(
      f'mesh.rules: no array has an axis {logical!r}; there are'
      f' {", ".join(DEFAULT_RULES)}.{closest(logical, DEFAULT_RULES)}'
    )
  axes = current_mesh.as_tuple(target)
  for axis in axes:
    if axis not in MESH_AXES:
      raise UserError(
        f'mesh.rules: {logical!r} -> {axis!r} names no axis of the mesh,'
        f' which has {", ".join(MESH_AXES)}.{closest(axis, MESH_AXES)}'
      )
  if len(set(axes)) < len(axes):
    raise UserError(
      f'mesh.rules: {logical!r} -> {target} names a mesh axis twice.'
    )


def make_mesh(
  config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns the mesh over all devices of all processes, or over `devices`.

  Raises:
    UserError: the sizes do not multiply to the number of devices, or `slices`
      is not how many slices there are.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = config.sizes(len(devices))
  found = {getattr(device, 'slice_index', 0) for device in devices}
  if len(found) > 1 and len(found) != config.slices:
    raise UserError(
      f'mesh.slices is {config.slices}, but the devices belong to'
      f' {len(found)} slices. Set mesh.slices = {len(found)}.'
    )
  types = (AxisType.Auto,) * len(MESH_AXES)
  if len(found) > 1:
    inside, across = (1, *shape[1:]), (config.slices, 1, 1, 1)
    placed = mesh_utils.create_hybrid_device_mesh(
      inside, across, devices=devices
    )
    return Mesh(placed, MESH_AXES, axis_types=types)
  if config.slices > 1:  # pretended, on devices that are one slice or none
    placed = np.array(devices).reshape(shape)
    return Mesh(placed, MESH_AXES, axis_types=types)
  try:
    placed = mesh_utils.create_device_mesh(shape, devices)
  except NotImplementedError:  # an axis is no product of the slice's own
    placed = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  return Mesh(placed, MESH_AXES, axis_types=types)


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
    rules: logical axis to mesh axes; see `MeshConfig.rules`.

  Raises:
    UserError: an axis has no rule, a rule names no axis of the mesh, or a
      dimension is not a multiple of the devices it is divided over.
  """
  if len(axes) != len(shape):
    raise ValueError(f'{name} has shape {tuple(shape)} but axes {tuple(axes)}')
  spec: list[MeshAxes] = []
  used: set[str] = set()
  for size, axis in zip(shape, axes, strict=True):
    if axis not in rules:
      raise UserError(
        f'{name}: its axis {axis!r} of size {size} has no partitioning rule; '
        f'there are rules for {", ".join(sorted(rules))}.{closest(axis, rules)}'
      )
    targets = [t for t in current_mesh.as_tuple(rules[axis]) if t not in used]
    for target in targets:
      if target not in mesh.shape:
        raise UserError(
          f'{name}: the rule {axis!r} -> {target!r} of its axis of size {size}'
          f' names no axis of the mesh ({", ".join(mesh.shape)}).'
        )
    count = math.prod(mesh.shape[target] for target in targets)
    if size % count:
      over = ' x '.join(map(repr, targets))
      raise UserError(
        f'{name}: its axis {axis!r} of size {size} cannot be divided over the '
        f'{count} devices of mesh axis {over}. Choose a number of '
        f'{" x ".join(targets)} devices that divides {size}.'
      )
    used.update(targets)
    spec.append(current_mesh.as_entry(tuple(targets)))
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

  return trees.map_with_path(one, logical_axes, abstract, is_leaf=trees.is_axes)


def param_shardings(
  logical_axes: Params,
  abstract: Params,
  mesh: Mesh,
  rules: Rules = DEFAULT_RULES,
) -> Params:
  """Returns the sharding of every parameter; see `shardings`."""
  return shardings(abstract, logical_axes, mesh, rules)


def constrain(
  x: jax.Array, axes: Sequence[str], rules: Rules = DEFAULT_RULES
) -> jax.Array:
  """Says inside of jit how an intermediate value lies on the current mesh.

  Left alone, the compiler may carry the residual stream the way a parameter
  lies, and send activations around in every layer. What the current mesh
  (`jax.set_mesh`) does not have or cannot divide evenly stays whole; without a
  mesh nothing happens.

  Args:
    x: the value.
    axes: one logical axis name per dimension.
    rules: see `partition_spec`.
  """
  if current_mesh.devices() == 1:
    return x
  spec: list[Any] = []
  used: set[str] = set()
  for size, axis in zip(x.shape, axes, strict=True):
    wanted = current_mesh.as_tuple(rules[axis])
    free = tuple(target for target in wanted if target not in used)
    found = current_mesh.dividing(free, size)
    uneven = found is None and current_mesh.axis_size(free) > 1
    spec.append(PartitionSpec.UNCONSTRAINED if uneven else found)
    used.update(current_mesh.as_tuple(found))
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def batch_sharding(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
  """Returns the sharding of arrays whose first dimension is rows of a batch."""
  return NamedSharding(mesh, PartitionSpec(rules['batch']))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch_size(
  batch_size: int,
  mesh: Mesh,
  rules: Rules = DEFAULT_RULES,
  *,
  microbatches: int = 1,
) -> None:
  """Checks that the rows of a batch can be divided over the mesh.

  Args:
    batch_size: rows of a batch.
    mesh: the devices.
    rules: see `partition_spec`.
    microbatches: parts it is cut into before.

  Raises:
    UserError: they cannot.
  """
  partition_spec('data.batch_size', [batch_size], ['batch'], mesh, rules)
  if batch_size % microbatches:
    raise UserError(
      f'train.microbatches = {microbatches} does not divide data.batch_size ='
      f' {batch_size}.'
    )
  part = f'data.batch_size / train.microbatches = {batch_size}/{microbatches}'
  partition_spec(part, [batch_size // microbatches], ['batch'], mesh, rules)


def bytes_per_device(tree: Any) -> int:
  """Returns how many bytes of a tree one device holds.

  Args:
    tree: arrays or `jax.ShapeDtypeStruct`s with shardings.
  """
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
