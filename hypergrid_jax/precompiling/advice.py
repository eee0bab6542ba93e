"""What makes a program fit that does not: changes that were compiled.

Changes are tried from the cheapest to the dearest, in the order of what they
are expected to cost per step; nothing is advised that was not compiled.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import typing

from hypergrid_jax import errors
from hypergrid_jax.precompiling import measures, programs, topologies
from hypergrid_jax.runs import setup

if typing.TYPE_CHECKING:
  from hypergrid_jax.config.run_config import RunConfig

Measure = Callable[[setup.Setup, topologies.Topology], measures.Measures]

ENOUGH = 2  # changes that fit, after which no more are tried
_POLICIES = ('none', 'minimal', 'full')


@dataclasses.dataclass(frozen=True)
class Change:
  """A change of a run's configuration.

  Attributes:
    bindings: values by gin name, such as {'train.microbatches': 4}.
  """

  bindings: tuple[tuple[str, int | str], ...]

  def __str__(self) -> str:
    """As it is written on the command line."""
    return ' '.join(f'{name}={value}' for name, value in self.bindings)

  def apply(self, run: 'RunConfig') -> 'RunConfig':
    """The run with this change."""
    for name, value in self.bindings:
      owner, field = name.split('.')
      owner = 'model' if owner == 'T5Config' else owner
      part = dataclasses.replace(getattr(run, owner), **{field: value})
      run = dataclasses.replace(run, **{owner: part})
    return run


@dataclasses.dataclass(frozen=True)
class Tried:
  """A change, and what came of it.

  Attributes:
    change: what was changed.
    measures: None when it does not fit.
    why_not: why it does not.
  """

  change: Change
  measures: measures.Measures | None
  why_not: str = ''


def find(
  run: 'RunConfig',
  topology: topologies.Topology,
  *,
  changes: Iterable[Change],
  measure: Measure,
  report: Callable[[Tried], None],
) -> list[Tried]:
  """Tries changes until some fit.

  Args:
    run: what does not fit.
    topology: the devices.
    changes: what to try, the cheapest first.
    measure: `measures.training` or `measures.decoding`.
    report: called with every change that was tried.

  Returns:
    The changes that fit, the cheapest first by the largest time of their
    roofline; empty when none does.
  """
  fitting = []
  for change in changes:
    tried = _try(change, run, topology, measure)
    if tried is None:
      continue
    report(tried)
    if tried.measures is not None:
      fitting.append(tried)
    if len(fitting) == ENOUGH:
      break
  return sorted(fitting, key=lambda tried: tried.measures.roofline.seconds)


def for_training(run: 'RunConfig', devices: int) -> Iterator[Change]:
  """Yields changes from the cheapest: parts, recomputation, mesh, and all.

  More microbatches cost little but weights sent more often; recomputing 'full'
  costs a forward pass; dividing the parameters costs messages in every layer,
  and dividing the layers messages on the way of every activation.
  """
  later = _POLICIES[_POLICIES.index(run.model.remat_policy) + 1 :]
  parts = [
    (('train.microbatches', n),)
    for n in _doublings(run.train.microbatches, run.data.batch_size)
  ]
  policies = [(('T5Config.remat_policy', name),) for name in later]
  meshes = [_bindings(sizes) for sizes in _meshes(run, devices)]
  yield from map(Change, (*policies[:-1], *parts[:2], *meshes[:1]))
  yield from map(Change, policies[-1:])
  strongest = policies[-1] if policies else ()
  if strongest:
    yield from (Change(strongest + part) for part in parts[:3])
  for mesh in meshes:
    yield Change(mesh + strongest) if strongest else Change(mesh)
    yield from (Change(mesh + strongest + part) for part in parts[:3])


def for_decoding(run: 'RunConfig', devices: int) -> Iterator[Change]:
  """Yields smaller batches, then meshes that divide the parameters more."""
  rows = run.evaluate.batch_size
  while rows % 2 == 0:
    rows //= 2
    yield Change((('evaluate.batch_size', rows),))
  yield from (Change(_bindings(sizes)) for sizes in _meshes(run, devices))


def _doublings(now: int, rows: int) -> list[int]:
  found, count = [], 2 * now
  while rows % count == 0 and count <= rows:
    found.append(count)
    count *= 2
  return found


def _meshes(run, devices) -> Iterator[tuple[int, int, int]]:
  """(data, fsdp, model), dividing more of the parameters each time."""
  slices, data, fsdp, model = run.mesh.sizes(devices)
  inside = devices // slices
  seen = {(data, fsdp, model)}
  wide = model
  while wide <= inside:
    sizes = (1, inside // wide, wide)
    if inside % wide == 0 and sizes not in seen:
      seen.add(sizes)
      yield sizes
    wide *= 2


def _bindings(sizes) -> tuple[tuple[str, int], ...]:
  names = ('mesh.data', 'mesh.fsdp', 'mesh.model')
  return tuple(zip(names, sizes, strict=True))


def _try(change, run, topology, measure) -> Tried | None:
  """None for a change that the run or the devices do not allow."""
  try:
    parts = programs.build(change.apply(run), topology)
  except errors.UserError:
    return None
  held = programs.device_bytes(parts)['parameters']
  if held > topology.chip.memory:
    return Tried(
      change, None, f'the parameters alone take {held / 2**30:.1f} GiB'
    )
  try:
    return Tried(change, measure(parts, topology))
  except programs.DoesNotFitError as error:
    return Tried(change, None, f'needs {error.needed / 2**30:.1f} GiB')
