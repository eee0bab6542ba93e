"""Which form of the gated matmul runs, by platform and shape.

On a TPU a model of the kernels' cost decides, see `tpu_plans`. For the forms of
plain operations `python benchmarks/gated_matmul.py --write_choices` measures
them all and writes the fastest of each shape to choices.json; what is nearest
in it is taken. `HyperGrid.implementation` overrides either.
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from hypergrid_jax import errors
from hypergrid_jax.ops import tpu_form, tpu_plans, xla_forms
from hypergrid_jax.parallel import current_mesh

Implementation = Literal['auto', 'xla', 'pallas', 'reference']

# From here on tokens of a device fill the tiles of the TPU kernels.
LEAST_KERNEL_TOKENS = 512
# By platform; each a list of `Measured`.
TABLE = pathlib.Path(__file__).parent / 'choices.json'
KERNEL_DTYPES = ('bfloat16', 'float32')
INTERPRETED_CHIP = tpu_plans.Chip(cores=2, unit=128, units=4, vmem=2**26)


@dataclasses.dataclass(frozen=True)
class Problem:
  """What the choice depends on.

  Attributes:
    batch: rows of the batch on one device.
    length: tokens of a row.
    k: inputs on one device.
    n: outputs on one device.
    rows: blocks of all inputs.
    columns: blocks of all outputs.
    gates: 'segment', 'row' or 'one': what has a gate of its own.
    dtype: of the activations.
  """

  batch: int
  length: int
  k: int
  n: int
  rows: int
  columns: int
  gates: Literal['segment', 'row', 'one']
  dtype: Any

  def sizes(self) -> tpu_plans.Sizes:
    """What one device's TPU kernels have to do."""
    return tpu_plans.Sizes(
      tokens=self.batch * self.length,
      k=self.k,
      n=self.n,
      rows=self.rows,
      columns=self.columns,
      itemsize=jnp.dtype(self.dtype).itemsize,
    )


@dataclasses.dataclass(frozen=True)
class Measured:
  """A shape that was measured, and the form that was fastest.

  Attributes:
    gates: 'segment' or 'row', as in `Problem`.
    batch: rows of the batch.
    length: tokens of a row.
    form: 'loop' over blocks, 'weight' gated for every row.
    at_once: tokens that the loop takes at once; None for all.
  """

  gates: str
  batch: int
  length: int
  form: Literal['loop', 'weight']
  at_once: int | None = None

  def distance(self, problem: Problem) -> float:
    """How far another shape is: of its length first, then of its tokens."""
    tokens = problem.batch * problem.length
    return 4 * abs(math.log(problem.length / self.length)) + abs(
      math.log(tokens / (self.batch * self.length))
    )


@functools.cache
def table(platform: str) -> tuple[Measured, ...]:
  """What was measured on a platform; nothing where nothing was."""
  rows = json.loads(TABLE.read_text()).get(platform, ())
  return tuple(Measured(**row) for row in rows)


def choose(
  problem: Problem,
  implementation: Implementation,
  *,
  cut: xla_forms.Cut | None = None,
  interpret: bool = False,
) -> Any:
  """Returns the form that is to run.

  Args:
    problem: platform and shapes decide for 'auto'.
    implementation: what the user asked for.
    cut: which side to cut into blocks; None takes the cheaper one.
    interpret: runs 'pallas' without a TPU.

  Raises:
    UserError: the implementation does not exist, or cannot run here.
  """
  if implementation not in get_args(Implementation):
    known = get_args(Implementation)
    raise errors.UserError(
      f'HyperGrid.implementation: got {implementation!r}, expected one of'
      f' {known}.{errors.closest(str(implementation), known)}'
    )
  if implementation == 'pallas' or (
    implementation == 'auto' and _kernels_pay(problem)
  ):
    found = _kernels(problem, cut, interpret)
    if not isinstance(found, str):
      return found
    if implementation == 'pallas':
      raise errors.UserError(
        f"HyperGrid.implementation = 'pallas': {found}. 'auto' takes what runs"
        ' here.'
      )
  # On a mesh, the gradient of the one gate is a sum over devices, which the
  # other forms get from spreading it over the rows.
  if problem.gates == 'one' and jax.sharding.get_abstract_mesh().empty:
    return xla_forms.OneWeight()
  nearest = min(
    (
      row
      for row in table(current_mesh.platform())
      if row.gates == problem.gates
    ),
    key=lambda row: row.distance(problem),
    default=Measured(problem.gates, 1, 1, 'loop'),
  )
  if nearest.form == 'weight' and not cut:
    return xla_forms.WeightPerRow()
  cut = cut or cheaper_cut(problem)
  return xla_forms.BlockLoop(cut, nearest.at_once)


def cheaper_cut(problem: Problem) -> xla_forms.Cut:
  """The side to cut, by the elementwise work per token."""
  work_of_rows = problem.rows * problem.n
  return 'rows' if work_of_rows <= problem.columns * problem.k else 'columns'


def _kernels_pay(problem):
  """Whether to look for a way to run the TPU kernels."""
  if current_mesh.platform() != 'tpu' or problem.gates == 'one':
    return False
  # Outside jax.set_mesh the compiler may divide the arrays, and it cannot
  # divide a kernel.
  placed = not jax.sharding.get_abstract_mesh().empty
  enough = problem.batch * problem.length >= LEAST_KERNEL_TOKENS
  return enough and (placed or jax.device_count() == 1)


def _kernels(problem, cut, interpret):
  """The TPU kernels, or why they cannot run."""
  dtype = jnp.dtype(problem.dtype).name
  if current_mesh.platform() != 'tpu' and not interpret:
    return f'it needs a TPU, and this runs on {current_mesh.platform()}'
  if dtype not in KERNEL_DTYPES:
    return f'its activations are {" or ".join(KERNEL_DTYPES)}, not {dtype}'
  try:
    chip = INTERPRETED_CHIP if interpret else tpu_plans.current_chip()
  except ValueError:
    return 'this version of JAX does not know the TPU'
  sizes = problem.sizes()
  plan = tpu_plans.make_plan(chip, sizes, cut=cut, interpret=interpret)
  if plan is None:
    return (
      f'a kernel of {problem.k} x {problem.n} does not fit in the fast memory'
      ' of a core; divide it over more devices with mesh.model'
    )
  if not interpret:
    tpu_plans.warn_if_slow(chip, dataclasses.replace(sizes, tokens=1))
  return tpu_form.Kernels(plan)
