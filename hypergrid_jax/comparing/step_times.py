"""How long a step of each method takes beside one of a plain T5.

Both take turns on the same batches, so that whatever else the machine does hits
them alike; only two states are held at a time.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from hypergrid_jax import console as console_lib
from hypergrid_jax import files, types
from hypergrid_jax.comparing import training
from hypergrid_jax.model import Model, extension
from hypergrid_jax.runs import batches, compiled_step
from hypergrid_jax.runs import directory as directory_lib
from hypergrid_jax.runs import setup as setup_lib
from hypergrid_jax.training import state as state_lib

_WARM_UP = 2  # pairs that are not counted
_VERSIONS = ('jax', 'jaxlib', 'flax', 'optax', 'hypergrid_jax')


@dataclasses.dataclass(frozen=True)
class StepTime:
  """What a method's step takes.

  Attributes:
    milliseconds: median.
    plain_milliseconds: median of the plain T5's steps in between.
    relative: median of each step's time over that of its plain neighbour.
    condition_milliseconds: median of making what the method's `condition`
      point makes, forward and backward, by itself: the generation of all
      adapters in HyperFormer. None for a method without it.
    selection_milliseconds: median of choosing the rows to train on, by itself;
      None for a method that trains on what it is given.
    pairs: how many were measured.
  """

  milliseconds: float
  plain_milliseconds: float
  relative: float
  condition_milliseconds: float | None
  selection_milliseconds: float | None
  pairs: int


def measure(
  plain: setup_lib.Setup, method: setup_lib.Setup, *, pairs: int
) -> StepTime:
  """Times a method against the plain T5 on the first batches of the data.

  Args:
    plain: run of the plain T5.
    method: run of the method, on the same data.
    pairs: steps of each.
  """
  own, other = _step(method), _step(plain)
  alone = {'condition': _condition(method), 'selection': _selection(method)}
  times: list[tuple[float, float]] = []
  parts: dict[str, list[float]] = {n: [] for n, part in alone.items() if part}
  for number in range(_WARM_UP + pairs):
    # Who goes first alternates: the second may find the caches warm.
    if number % 2:
      baseline, step = other(number), own(number)
    else:
      step, baseline = own(number), other(number)
    made = {name: alone[name](number) for name in parts}
    if number >= _WARM_UP:
      times.append((step, baseline))
      for name, milliseconds in made.items():
        parts[name].append(milliseconds)
  return summarised(times, **parts)


def summarised(
  times: Sequence[tuple[float, float]],
  *,
  condition: Sequence[float] | None = None,
  selection: Sequence[float] | None = None,
) -> StepTime:
  """The medians of milliseconds.

  Args:
    times: (method, plain) pairs.
    condition: of the `condition` point; None without one.
    selection: of choosing rows; None where none are chosen.
  """
  return StepTime(
    milliseconds=statistics.median(step for step, _ in times),
    plain_milliseconds=statistics.median(plain for _, plain in times),
    relative=statistics.median(step / plain for step, plain in times),
    condition_milliseconds=_median(condition),
    selection_milliseconds=_median(selection),
    pairs=len(times),
  )


def _median(values: Sequence[float] | None) -> float | None:
  return None if values is None else statistics.median(values)


def timed(function: Callable[..., Any]) -> Callable[..., float]:
  """Returns a function that calls, waits, and says the milliseconds it took."""

  @functools.wraps(function)
  def run(*arguments) -> float:
    began = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return 1e3 * (time.perf_counter() - began)

  return run


def _step(setup: setup_lib.Setup) -> Callable[[int], float]:
  """A function that times one step on a batch by its number."""
  loader = batches.make_loader(setup.run, setup.corpus)
  key = jax.random.key(setup.run.train.seed)
  with jax.set_mesh(setup.mesh):
    program = compiled_step.compile_step(setup, loader)
    state = state_lib.create_state(
      setup.model, setup.tx, key, setup.mesh, setup.run.mesh.axis_rules()
    )

  def step(batch):
    nonlocal state
    with jax.set_mesh(setup.mesh):
      state, metrics = program.step(state, batch, key)
    return state, metrics

  one = timed(step)
  return lambda number: one(program.rows.place(loader.batch(number)))


def _condition(setup: setup_lib.Setup) -> Callable[[int], float] | None:
  """A function that times the `condition` point alone; None without one."""
  points = extension.of_methods(setup.run.method)
  if not points.conditions:
    return None
  gradient = jax.jit(jax.grad(functools.partial(condition_size, setup.model)))
  return _alone(setup, gradient)


def _selection(setup: setup_lib.Setup) -> Callable[[int], float] | None:
  """A function that times the choice of rows; None where there is none."""
  loader = batches.make_loader(setup.run, setup.corpus)
  selector = batches.make_selector(
    setup.run, setup.model, loader.tasks, setup.corpus.vocabulary
  )
  if selector is None:
    return None
  key = jax.random.key(setup.run.train.seed)
  choose = jax.jit(lambda params, batch: selector(params, batch, key))
  return _alone(setup, choose)


def _alone(
  setup: setup_lib.Setup, function: Callable[[types.Params, types.Batch], Any]
) -> Callable[[int], float]:
  """A function that times `function` on a batch by its number."""
  loader = batches.make_loader(setup.run, setup.corpus)
  params = setup.model.init(jax.random.key(0))

  def call(batch):
    with jax.set_mesh(setup.mesh):
      return function(params, batch)

  one = timed(call)
  return lambda number: one(
    jax.device_put(loader.batch(number), setup.batch_sharding)
  )


def condition_size(
  model: Model, params: types.Params, batch: types.Batch
) -> jax.Array:
  """A number that depends on all that `condition` makes in both stacks.

  Its gradient costs what the making costs, forward and backward.
  """
  module = model.bind(params)
  segments = types.Segments(
    batch.encoder_segment_ids,
    batch.encoder_segment_starts,
    batch.encoder_positions,
  )
  tasks = module.task_vectors()
  encoded = module.token_embedder(batch.encoder_input_tokens)
  made = (
    module.encoder.condition(
      extension.ConditionInputs(batch.task_ids, segments, tasks)
    ),
    module.decoder.condition(
      extension.ConditionInputs(
        batch.task_ids, segments, tasks, encoded, segments
      )
    ),
  )
  leaves = [leaf for leaf in jax.tree.leaves(made) if leaf.dtype != jnp.int32]
  return sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), jnp.float32(0))


def circumstances(
  plain: setup_lib.Setup, method: setup_lib.Setup, *, pairs: int
) -> dict[str, Any]:
  """What a measurement holds for; with another value it is made again."""
  devices = jax.devices()
  versions = directory_lib.versions()
  return {
    'devices': f'{len(devices)} x {devices[0].device_kind}',
    'versions': {name: versions[name] for name in _VERSIONS},
    'pairs': pairs,
    'runs': hashlib.sha256(
      files.to_json([_program(plain), _program(method)]).encode()
    ).hexdigest(),
  }


def _program(setup: setup_lib.Setup) -> dict[str, Any]:
  """What decides how long a step takes."""
  run = setup.run
  return {
    'identity': setup.identity,
    'model': dataclasses.asdict(run.model),
    'mesh': dataclasses.asdict(run.mesh),
  }


class Store:
  """The measurements of a comparison, kept in a file."""

  def __init__(self, directory: pathlib.Path):
    self._path = directory / 'step_times.json'
    self._found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # then it is made again
      self._found = json.loads(self._path.read_text(encoding='utf-8'))

  def read(self, method: str, where: dict[str, Any]) -> StepTime | None:
    """What was measured under the same circumstances, if anything was."""
    entry = self._found.get(method)
    if entry is None or entry['circumstances'] != where:
      return None
    return StepTime(**entry['measured'])

  def write(self, method: str, where: dict[str, Any], measured: StepTime):
    """Keeps a measurement in place of an older one of the method."""
    self._found[method] = {
      'circumstances': where,
      'measured': dataclasses.asdict(measured),
    }
    text = files.to_json(self._found, indent=2)
    files.write_text(self._path, [text, '\n'])


def measure_all(
  plain: setup_lib.Setup,
  setups: dict[str, Callable[[], setup_lib.Setup]],
  directory: pathlib.Path,
  *,
  pairs: int,
  console: Console,
) -> dict[str, StepTime]:
  """Measures every method that was not yet measured here.

  Args:
    plain: run of the plain T5.
    setups: name of a method -> makes its run's setup.
    directory: of the comparison.
    pairs: steps of each method, and of the plain T5 in between.
    console: shows how far it is.
  """
  store = Store(directory)
  found = {}
  with console_lib.bar(console, 'timing steps', len(setups)) as bar:
    for number, (name, make) in enumerate(setups.items(), start=1):
      setup = make()
      where = circumstances(plain, setup, pairs=pairs)
      measured = store.read(name, where)
      if measured is None:
        measured = measure(plain, setup, pairs=pairs)
        store.write(name, where, measured)
        training.forget_programs()
      found[name] = measured
      bar.update(number, name)
  return found
