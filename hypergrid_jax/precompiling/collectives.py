"""What the devices of a compiled program send to each other.

Every collective is given its kind, the mesh axes that it crosses, and bytes per
device and run, with loops counted fully.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import math
import re

from hypergrid_jax.precompiling import hlo_loops, hlo_text

KINDS = (
  'all-reduce',
  'reduce-scatter',
  'all-gather',
  'all-to-all',
  'collective-permute',
)
# Between slices a TPU's program hands its data to the host's network.
DCN = 'dcn-transfer'
_BETWEEN_SLICES = 'xla_megascale_runtime'


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind over the same axes.

  Attributes:
    kind: one of `KINDS`, or `DCN`.
    axes: names of the mesh axes it crosses, in the mesh's order.
    count: how many run.
    bytes: of the array that is reduced, gathered or exchanged, on one device.
    sent: bytes that one device sends, around a ring: a reduced array goes
      around it twice.
  """

  kind: str
  axes: tuple[str, ...]
  count: int
  bytes: int
  sent: int


def collectives(
  module: hlo_text.Module, mesh: dict[str, int], *, slice_axis: str
) -> tuple[Collective, ...]:
  """Returns a program's collectives, summed by kind and axes.

  Args:
    module: compiled for the devices of a mesh, in its order.
    mesh: sizes of its axes, by name.
    slice_axis: the axis that crosses the network between slices.
  """
  found: dict[tuple[str, tuple[str, ...]], Collective] = {}
  seen = set()
  for use in hlo_loops.uses(module):
    one = _collective(use, mesh, slice_axis)
    if one is None or not one.axes:
      continue
    # One that runs beside other work stands in several fusions.
    channel = use.instruction.attribute('channel_id')
    if channel is not None:
      key = (one.kind, channel, use.times)
      if key in seen:
        continue
      seen.add(key)
    before = found.get((one.kind, one.axes))
    if before is not None:
      one = dataclasses.replace(
        one,
        count=before.count + one.count,
        bytes=before.bytes + one.bytes,
        sent=before.sent + one.sent,
      )
    found[one.kind, one.axes] = one
  return tuple(sorted(found.values(), key=lambda one: -one.sent))


def _collective(use, mesh, slice_axis) -> Collective | None:
  instruction = use.instruction
  opcode = instruction.opcode.removesuffix('-start')
  if opcode == 'send' and _BETWEEN_SLICES in instruction.attributes:
    size = instruction.arrays[0].bytes
    return Collective(
      DCN, (slice_axis,), use.times, use.times * size, use.times * size
    )
  if opcode not in KINDS:
    return None
  group = _group(instruction, math.prod(mesh.values()))
  size = _bytes(use, opcode)
  kind = opcode
  if kind == 'all-reduce' and _is_scattered(use):
    kind = 'reduce-scatter'
  return Collective(
    kind,
    crossed(group, mesh),
    use.times,
    use.times * size,
    use.times * _sent(kind, size, len(group)),
  )


def _bytes(use, opcode) -> int:
  """Returns the bytes of the whole array: the larger of input and output."""
  read = sum(i.bytes for i in use.computation.operands(use.instruction))
  written = use.instruction.bytes
  if use.instruction.opcode.endswith('-start'):
    written = max(written - read, 0)  # the result names the operands again
  return max(read, written) if opcode != 'all-reduce' else read


def _is_scattered(use) -> bool:
  """Whether of a reduced array only this device's part is kept."""
  if not use.fused:
    return False
  users = use.computation.users[use.instruction.name]
  return bool(users) and all(user.opcode == 'dynamic-slice' for user in users)


def _sent(kind: str, size: int, devices: int) -> int:
  if kind == 'collective-permute':
    return size
  times = 2 if kind == 'all-reduce' else 1
  return times * size * (devices - 1) // devices


def crossed(group: Sequence[int], mesh: dict[str, int]) -> tuple[str, ...]:
  """Returns the axes along which the devices of a group differ.

  Args:
    group: positions in the mesh, in the order of its axes.
    mesh: sizes of the axes, by name.
  """
  places = [_place(device, tuple(mesh.values())) for device in group]
  return tuple(
    name
    for name, values in zip(mesh, zip(*places, strict=True), strict=True)
    if len(set(values)) > 1
  )


def _place(device: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
  place = []
  for size in reversed(sizes):
    device, at = divmod(device, size)
    place.append(at)
  return tuple(reversed(place))


def _group(instruction, devices: int) -> list[int]:
  """The devices of one group, the widest if they differ."""
  pairs = instruction.attribute('source_target_pairs')
  if pairs is not None:
    found = _braces(pairs)
    return max(found, key=lambda pair: len(set(pair)), default=[0])
  # The third way has a comma in it, where an attribute ends otherwise.
  found = re.search(
    r'replica_groups=(mesh[^{]*\{[^}]*\})', instruction.attributes
  )
  text = found[1] if found else instruction.attribute('replica_groups')
  groups = replica_groups(text) if text not in (None, '{}') else []
  return groups[0] if groups else list(range(devices))


def replica_groups(text: str) -> list[list[int]]:
  """Reads groups of devices in any of the three ways that XLA writes them.

  '{{0,1},{2,3}}' lists them. '[2,4]<=[4,2]T(1,0)' numbers an array of sizes
  4 x 2, transposes it and cuts it into rows. "mesh['a'=4,'b'=2] {'a'}" takes
  the devices along axes of an array, numbered as 'device_ids=([8]T(0))' says
  after a comma; "'a':(2)2" is the part of size 2 of an axis, after a part of
  size 2.

  Raises:
    ValueError: the text is none of these.
  """
  if text.startswith('mesh') and '{' in text:
    return _mesh_groups(text)
  if '<=' in text:
    shape, order = text.split('<=')
    _, width = _numbers(shape)
    flat = _iota(order)
    return [flat[n : n + width] for n in range(0, len(flat), width)]
  if text.startswith('{'):
    return _braces(text)
  raise ValueError(f'no groups of devices: {text!r}')


def _mesh_groups(text: str) -> list[list[int]]:
  head, _, chosen = text.rpartition('{')
  axes = [
    (name, int(size)) for name, size in re.findall(r"'(\w+)'=(\d+)", head)
  ]
  numbering = re.search(r'device_ids=\((.*?)\)(?:,|\s|$)', head)
  parts = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen)
  # Every axis is split into the parts that the groups name, and the rest.
  sizes, picked = [], []
  for name, size in axes:
    cuts = [(int(a), int(b)) for n, a, b in parts if n == name and b]
    whole = any(n == name and not b for n, _, b in parts)
    if whole or not cuts:
      sizes.append(size)
      picked += [len(sizes) - 1] * whole
      continue
    done = 1
    for before, width in sorted(cuts):
      sizes += [before // done, width]
      picked.append(len(sizes) - 1)
      done = before * width
    sizes.append(size // done)
  count = math.prod(sizes)
  ids = _iota(numbering[1]) if numbering else list(range(count))
  groups: dict[tuple[int, ...], list[int]] = {}
  for position, device in enumerate(ids):
    place = _place(position, tuple(sizes))
    rest = tuple(n for at, n in enumerate(place) if at not in picked)
    groups.setdefault(rest, []).append(device)
  return list(groups.values())


def _iota(text: str) -> list[int]:
  """'[4,2]T(1,0)': the numbers of an array of these sizes, transposed."""
  shape, _, order = text.partition('T')
  sizes = _numbers(shape)
  if not order:
    return list(range(math.prod(sizes)))
  axes = _numbers(order)
  strides = [math.prod(sizes[at + 1 :]) for at in range(len(sizes))]
  return [
    sum(n * strides[axis] for n, axis in zip(place, axes, strict=True))
    for place in itertools.product(*(range(sizes[axis]) for axis in axes))
  ]


def _braces(text: str) -> list[list[int]]:
  return [_numbers(one) for one in re.findall(r'\{([\d,]+)\}', text)]


def _numbers(text: str) -> list[int]:
  return [int(n) for n in re.findall(r'\d+', text)]
