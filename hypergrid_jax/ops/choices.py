"""Which form of the gated matmul runs, by platform and shape."""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from hypergrid_jax import errors
from hypergrid_jax.ops import tpu_form, tpu_plans, xla_forms

Implementation = Literal['auto', 'xla', 'pallas', 'reference']

# From here on tokens of a device fill the tiles of the TPU kernels.
LEAST_KERNEL_TOKENS = 512
# From here on gating W once per row of the batch is cheaper than a loop over
# blocks, measured on a CPU by `python benchmarks/gated_matmul.py`.
LEAST_ROW_LENGTH = 64
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
  if problem.gates == 'row' and problem.length >= LEAST_ROW_LENGTH and not cut:
    return xla_forms.WeightPerRow()
  return xla_forms.BlockLoop(cut or cheaper_cut(problem))


def cheaper_cut(problem: Problem) -> xla_forms.Cut:
  """The side to cut, by the elementwise work per token."""
  work_of_rows = problem.rows * problem.n
  return 'rows' if work_of_rows <= problem.columns * problem.k else 'columns'


def platform() -> str:
  """Of the devices that are computed on, or compiled for."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def _kernels_pay(problem):
  """Whether to look for a way to run the TPU kernels."""
  if platform() != 'tpu' or problem.gates == 'one':
    return False
  # Outside jax.set_mesh the compiler may divide the arrays, and it cannot
  # divide a kernel.
  placed = not jax.sharding.get_abstract_mesh().empty
  enough = problem.batch * problem.length >= LEAST_KERNEL_TOKENS
  return enough and (placed or jax.device_count() == 1)


def _kernels(problem, cut, interpret):
  """The TPU kernels, or why they cannot run."""
  dtype = jnp.dtype(problem.dtype).name
  if platform() != 'tpu' and not interpret:
    return f'it needs a TPU, and this runs on {platform()}'
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
      ' of a core; divide it over more devices with MeshConfig.model'
    )
  if not interpret:
    tpu_plans.warn_if_slow(chip, dataclasses.replace(sizes, tokens=1))
  return tpu_form.Kernels(plan)
