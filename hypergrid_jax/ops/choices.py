"""Which form of the gated matmul runs, by platform and shape.

TPU: the fused kernels, once a device has enough tokens to fill their tiles; a
model of their cost picks how they cut the weight (`tpu_plans`). Elsewhere plain
operations: a loop over the weight's blocks, or a gated weight per row where all
tokens of a long row share one gate. `HyperGrid.implementation` overrides this.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from hypergrid_jax import errors
from hypergrid_jax.ops import tpu_form, tpu_plans, xla_forms
from hypergrid_jax.parallel import current_mesh

Implementation = Literal['auto', 'xla', 'pallas', 'reference']

# From so many tokens on a device's tokens fill the tiles of the TPU kernels.
LEAST_KERNEL_TOKENS = 512
# Measured on CPUs (`benchmarks/gated_matmul.py`): the sums of 512 tokens over
# the blocks stay in the cache, and in rows of 256 tokens and more gating the
# weight once per row costs less than gating every token's activations.
CPU_CHUNK = 512
CPU_LONG_ROW = 256
KERNEL_DTYPES = ('bfloat16', 'float32')
INTERPRETED_CHIP = tpu_plans.Chip(cores=2, unit=128, units=4, vmem=2**26)


@dataclasses.dataclass(frozen=True)
class Problem:
  """The shapes that the choice depends on.

  Attributes:
    batch: rows of the batch on one device.
    length: tokens of a row.
    k: inputs on one device.
    n: outputs on one device.
    rows: blocks of all inputs.
    columns: blocks of all outputs.
    gates: 'segment', 'row' or 'batch', whichever has a gate of its own.
    dtype: of the activations.
  """

  batch: int
  length: int
  k: int
  n: int
  rows: int
  columns: int
  gates: Literal['segment', 'row', 'batch']
  dtype: Any

  def sizes(self) -> tpu_plans.Sizes:
    """Returns what one device's TPU kernels compute."""
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
    implementation: 'auto', or the form that the user asked for.
    cut: which side to cut into blocks; None takes the cheaper one.
    interpret: runs 'pallas' without a TPU.

  Raises:
    UserError: the implementation does not exist, or cannot run here.
  """
  errors.check_choice(
    'HyperGrid.implementation', implementation, get_args(Implementation)
  )
  if implementation == 'pallas' or (
    implementation == 'auto' and _kernels_pay(problem)
  ):
    kernels = _kernels(problem, cut, interpret)
    if not isinstance(kernels, str):
      return kernels
    if implementation == 'pallas':
      raise errors.UserError(
        f"HyperGrid.implementation = 'pallas': {kernels}. 'auto' takes what"
        ' runs here.'
      )
  # On a mesh, the gradient of the batch's gate is a sum over devices, which the
  # other forms get from the broadcast of the gate over the rows.
  if problem.gates == 'batch' and jax.sharding.get_abstract_mesh().empty:
    return xla_forms.WeightPerBatch()
  on_cpu = current_mesh.platform() == 'cpu'
  long_rows = on_cpu and problem.length >= CPU_LONG_ROW
  if problem.gates == 'row' and long_rows and not cut:
    return xla_forms.WeightPerRow()
  cut = cut or cheaper_cut(problem)
  return xla_forms.BlockLoop(cut, CPU_CHUNK if on_cpu else None)


def cheaper_cut(problem: Problem) -> xla_forms.Cut:
  """Returns the side whose cut takes less elementwise work per token."""
  work_of_rows = problem.rows * problem.n
  return 'rows' if work_of_rows <= problem.columns * problem.k else 'columns'


def _kernels_pay(problem):
  """Returns whether the TPU kernels can be faster than plain operations."""
  if current_mesh.platform() != 'tpu' or problem.gates == 'batch':
    return False
  # Outside jax.set_mesh the compiler may divide the arrays, and it cannot
  # divide a kernel.
  has_mesh = not jax.sharding.get_abstract_mesh().empty
  enough = problem.batch * problem.length >= LEAST_KERNEL_TOKENS
  return enough and (has_mesh or jax.device_count() == 1)


def _kernels(problem, cut, interpret):
  """Returns the TPU kernels, or a text that says why they cannot run."""
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
