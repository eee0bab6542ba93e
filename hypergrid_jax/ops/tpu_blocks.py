"""How the TPU kernels' arrays are cut into the blocks of their steps."""

import dataclasses
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from hypergrid_jax.ops import tpu_plans

_ONE_BUFFER = pl.Buffered(1)  # for what stays while the tokens pass


def by_strip(matrix, count):
  """Returns [A, S * width], or [S, A, width] if strips cross registers.

  A slice of lanes that does not start at a register's edge is slow.
  """
  width = matrix.shape[1] // count
  if width % tpu_plans.LANES == 0:
    return matrix
  return matrix.reshape(-1, count, width).transpose(1, 0, 2)


@dataclasses.dataclass(frozen=True)
class Operand:
  """An array, or the shape of a result, and how it is cut into blocks.

  Attributes:
    value: the array.
    spec: its blocks.
    layers: number of layers in the array; a kernel reads one of them.
  """

  value: Any
  spec: pl.BlockSpec
  layers: int = 1

  @property
  def bytes(self) -> int:
    """Bytes that a kernel reads or writes."""
    return self.value.size * self.value.dtype.itemsize // self.layers


@dataclasses.dataclass(frozen=True)
class Grid:
  """The steps of one kernel: (core, shard of the weight, tile of tokens).

  Cores split the shards where there is a multiple of them, because then each
  core has the whole gradient of its shards; else they split the tokens.
  """

  plan: tpu_plans.Plan
  visit: tpu_plans.Pass

  @property
  def sums(self) -> int:
    """Number of sums, one per core, that add up to the weight's gradient."""
    return 1 if self._cores_split_shards else self.plan.cores

  @property
  def _cores_split_shards(self) -> bool:
    return self.visit.shards % self.plan.cores == 0

  @property
  def _steps(self) -> tuple[int, int, int]:
    """Cores, and the shards and tiles of each."""
    cores, shards = self.plan.cores, self.visit.shards
    tiles = self.plan.tokens // self.visit.tile
    if self._cores_split_shards:
      return cores, shards // cores, tiles
    return cores, shards, tiles // cores

  def _spec(self, block, index, **options):
    """Returns blocks by `index(sum, shard, tile, *layer)`."""
    _, shards, tiles = self._steps

    def at(p, q, t, *layer):
      if self._cores_split_shards:
        return index(0, p * shards + q, t, *layer)
      return index(p, q, p * tiles + t, *layer)

    return pl.BlockSpec(block, at, **options)

  def tokens(self, x, *, divided=False):
    """Cuts [T, A] into tiles; with `divided`, each into shards of its features.

    Of a stack [N, T, A], the `layer` that `call` is given is cut so.
    """
    width = x.shape[-1] // (self.visit.shards if divided else 1)
    block = (self.visit.tile, width)

    def index(_, q, t, *layer):
      return *(one[0] for one in layer), t, q if divided else 0

    if len(x.shape) == 3:
      return Operand(x, self._spec((None, *block), index), len(x))
    return Operand(x, self._spec(block, lambda s, q, t, *_: index(s, q, t)))

  def factor(self, x, *, divided=False):
    """Cuts [G, T] into tiles; with `divided`, also its blocks into shards."""
    shards = self.visit.shards if divided else 1
    x = x.reshape(shards, -1, x.shape[1])
    return Operand(x, self._factor_spec(x.shape[1], divided))

  def factor_gradient(self, factor, *, divided=False):
    """Returns a factor's gradient: with `divided` by shard, else summed."""
    shards = self.visit.shards
    blocks = factor.shape[0] // (shards if divided else 1)
    shape = (shards, blocks, factor.shape[1])
    return Operand(
      jax.ShapeDtypeStruct(shape, jnp.float32), self._factor_spec(blocks, True)
    )

  def whole(self, matrix):
    """Cuts a weight's rows into the shards."""
    block = (matrix.shape[0] // self.visit.shards, matrix.shape[1])
    return self._weight(matrix, block, lambda q: (q, 0))

  def strips(self, matrix, count, *, divided):
    """Cuts a weight [narrow, wide] by strip; `divided` is the sharded side."""
    matrix = by_strip(matrix, count)
    return self._weight(matrix, *self._strip_block(matrix.shape, divided))

  def _weight(self, matrix, block, index):
    spec = self._spec(
      block, lambda s, q, t, *_: index(q), pipeline_mode=_ONE_BUFFER
    )
    return Operand(matrix, spec)

  def kernel_gradient(self, kernel, transposed):
    """Returns all sums, [sums, K, N] or [sums, N, K], with K in shards."""
    k, n = kernel.shape
    size = k // self.visit.shards
    if transposed:
      shape, block = (n, k), (n, size)
    else:
      shape, block = (k, n), (size, n)

    def index(s, q, *_):
      return (s, 0, q) if transposed else (s, q, 0)

    return Operand(
      jax.ShapeDtypeStruct((self.sums, *shape), jnp.float32),
      self._spec((None, *block), index, pipeline_mode=_ONE_BUFFER),
    )

  def call(
    self, name, body, inputs, outputs, offset_scale, *, work, layer=None
  ):
    """Runs a kernel on the gate's constants and the operands.

    `work` is for the compiler, which does not see into a kernel: its FLOPs of
    matmuls, and how many gates it makes. `layer` is the one to read of operands
    that have all of them, int32 scalar.
    """
    # Prefetched before the first step, because the blocks depend on it.
    numbers = () if layer is None else (layer.reshape(1),)

    def run(*refs):
      body(*refs[len(numbers) :])

    return pl.pallas_call(
      run,
      grid_spec=pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=len(numbers),
        grid=self._steps,
        in_specs=[
          pl.BlockSpec(memory_space=pltpu.SMEM),
          *(operand.spec for operand in inputs),
        ],
        out_specs=[operand.spec for operand in outputs],
      ),
      out_shape=[
        jax.ShapeDtypeStruct(operand.value.shape, operand.value.dtype)
        for operand in outputs
      ],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=('parallel', 'arbitrary', 'arbitrary'),
        vmem_limit_bytes=self.visit.vmem_limit,
      ),
      cost_estimate=pl.CostEstimate(
        flops=work[0],
        transcendentals=work[1],
        bytes_accessed=sum(one.bytes for one in (*inputs, *outputs)),
      ),
      interpret=self.plan.interpret,
      name=f'gated_matmul_{name}',
    )(*numbers, offset_scale, *(operand.value for operand in inputs))

  def _factor_spec(self, blocks, divided):
    return self._spec(
      (None, blocks, self.visit.tile),
      lambda s, q, t, *_: (q if divided else 0, 0, t),
    )

  def _strip_block(self, shape, divided):
    """Returns block shape and index of a weight laid out by `by_strip`."""
    axis = {'narrow': len(shape) - 2, 'wide': 0 if len(shape) == 3 else 1}
    axis = axis[divided]
    block = list(shape)
    block[axis] //= self.visit.shards
    return tuple(block), lambda q: tuple(
      q if i == axis else 0 for i in range(len(shape))
    )
