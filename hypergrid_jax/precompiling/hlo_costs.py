"""What a compiled program computes and moves: FLOPs and bytes of memory.

Counted per device, with the bodies of loops as often as they run.
"""

from collections.abc import Iterable
import dataclasses
import math
import re

from hypergrid_jax.precompiling import hlo_loops, hlo_text

KERNEL = 'tpu_custom_call'
# Operations that only name values: they read and write nothing.
_FREE = frozenset(
  {
    'after-all',
    'bitcast',
    'call',
    'conditional',
    'constant',
    'get-tuple-element',
    'iota',
    'opt-barrier',
    'parameter',
    'partition-id',
    'replica-id',
    'tuple',
    'while',
  }
)
# Operations that read only as much as they return.
_PARTIAL_READS = ('dynamic-slice', 'gather', 'slice')


@dataclasses.dataclass(frozen=True)
class Costs:
  """What one device does in one run of a program.

  Attributes:
    matmul_flops: of matrix products, two for each multiply-add.
    kernel_flops: of TPU kernels, as they declare it: the compiler does not see
      into them.
    uncounted_kernels: how many kernels run that declare nothing.
    bytes: read from and written to main memory, an estimate: without padding,
      and without what the compiler keeps in fast memory between operations.
    unbounded_loops: names of loops that were counted as running once.
  """

  matmul_flops: int
  kernel_flops: int
  uncounted_kernels: int
  bytes: int
  unbounded_loops: tuple[str, ...]

  @property
  def flops(self) -> int:
    """FLOPs of matrix products and of kernels."""
    return self.matmul_flops + self.kernel_flops


def costs(module: hlo_text.Module) -> Costs:
  """Counts a program's costs."""
  matmuls = kernels = uncounted = moved = 0
  for use in hlo_loops.uses(module):
    matmuls += use.times * matmul_flops(use.instruction, use.computation)
    if KERNEL in use.instruction.attributes:
      declared = kernel_flops(use.instruction)
      kernels += use.times * (declared or 0)
      uncounted += use.times * (declared is None)
    if not use.fused:
      moved += use.times * memory_bytes(
        module, use.instruction, use.computation
      )
  return Costs(
    matmul_flops=matmuls,
    kernel_flops=kernels,
    uncounted_kernels=uncounted,
    bytes=moved,
    unbounded_loops=tuple(hlo_loops.unbounded(module)),
  )


def matmul_flops(
  instruction: hlo_text.Instruction, computation: hlo_text.Computation
) -> int:
  """FLOPs of a matrix product or convolution; 0 of anything else."""
  if instruction.opcode == 'dot':
    left = computation.operands(instruction)[0].arrays[0]
    contracted = _numbers(instruction.attribute('lhs_contracting_dims') or '')
    products = math.prod(left.dims[n] for n in contracted)
    return 2 * instruction.arrays[0].size * products
  if instruction.opcode == 'convolution':
    left, right = (i.arrays[0] for i in computation.operands(instruction))
    return _convolution_flops(instruction, left, right)
  return 0


def kernel_flops(instruction: hlo_text.Instruction) -> int | None:
  """FLOPs that a TPU kernel declares to do; None when it does not."""
  return _declared('flops', instruction)


def _declared(what: str, kernel: hlo_text.Instruction) -> int | None:
  found = re.search(
    rf'"cost_estimate":\{{[^{{}}]*"{what}":"?(\d+)', kernel.attributes
  )
  return int(found[1]) if found else None


def memory_bytes(
  module: hlo_text.Module,
  instruction: hlo_text.Instruction,
  computation: hlo_text.Computation,
) -> int:
  """Bytes that one run of an instruction reads and writes in main memory.

  A fusion that takes a slice of an operand reads the slice; one that writes
  into an operand writes what it puts there. A TPU kernel, which may do the
  same, moves no more than it declares.
  """
  if instruction.opcode in _FREE or instruction.opcode.endswith('-done'):
    return 0
  operands = computation.operands(instruction)
  if instruction.opcode == 'fusion':
    called = module.computations[instruction.called('calls')]
    return _fusion_bytes(module, called, operands, instruction)
  if instruction.opcode in _PARTIAL_READS:
    return 2 * _main_memory(instruction.arrays)
  if instruction.opcode == 'dynamic-update-slice':
    return 2 * _main_memory(operands[1].arrays)
  moved = sum(_main_memory(operand.arrays) for operand in operands)
  moved += _main_memory(instruction.arrays)
  if KERNEL in instruction.attributes:
    declared = _declared('bytes_accessed', instruction)
    moved = moved if declared is None else min(moved, declared)
  return moved


def _fusion_bytes(module, called, operands, fusion) -> int:
  total = 0
  for parameter, operand in zip(called.parameters, operands, strict=True):
    whole = _main_memory(operand.arrays)
    total += whole and min(whole, _read(module, called, parameter))
  roots = [called.root]
  if called.root.opcode == 'tuple':
    roots = called.operands(called.root)
  for root, array in zip(roots, fusion.arrays, strict=False):
    while root.opcode in ('bitcast', 'copy', 'reshape'):
      root = called.operands(root)[0]
    if root.opcode == 'dynamic-update-slice' and not array.space:
      total += called.operands(root)[1].bytes
    else:
      total += _main_memory((array,))
  return total


def _read(module, called, value) -> int:
  """Bytes of a fusion's parameter, or of a view of it, that are read."""
  total = 0
  for user in called.users[value.name]:
    places = [n for n, name in enumerate(user.operands) if name == value.name]
    if user.opcode == 'bitcast':
      total += _read(module, called, user)
    elif user.opcode == 'fusion':
      inner = module.computations[user.called('calls')]
      for place in places:
        total += _read(module, inner, inner.parameters[place])
    elif user.opcode in _PARTIAL_READS and places == [0]:
      total += user.bytes
    elif user.opcode == 'dynamic-update-slice' and places == [0]:
      continue  # written into where it lies
    else:
      total += value.bytes
  return total


def _main_memory(arrays: Iterable[hlo_text.Array]) -> int:
  return sum(array.bytes for array in arrays if array.space == 0)


def _convolution_flops(instruction, left, right) -> int:
  """Counts the products of which both sides exist: the rest is padding.

  The compiler for TPUs writes every matrix product as a convolution; batches
  become spatial dimensions, in which each position meets only its own.
  """
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.attributes)
  _, kernel_labels, out_labels = labels.groups()
  kernel = dict(zip(kernel_labels, right.dims, strict=True))
  inputs = dict(zip(labels[1], left.dims, strict=True))
  out = dict(zip(out_labels, instruction.arrays[0].dims, strict=True))
  window = _window(instruction.attributes)
  groups = int(instruction.attribute('batch_group_count') or 1)
  products = out['b'] * out['f'] * kernel['i'] // groups
  spatial = [label for label in kernel_labels if label.isdigit()]
  for at, label in enumerate(sorted(spatial, key=int)):
    products *= _valid(
      inputs[label],
      kernel[label],
      out[label],
      **{name: values[at] for name, values in window.items() if values},
    )
  return 2 * products


def _window(attributes: str) -> dict[str, list]:
  found = re.search(r'window=\{([^}]*)\}', attributes)
  fields = dict(re.findall(r'(\w+)=(\S+)', found[1])) if found else {}
  result: dict[str, list] = {
    name: [int(n) for n in fields.get(name, '').split('x') if n]
    for name in ('stride', 'lhs_dilate', 'rhs_dilate')
  }
  result['pad'] = [
    int(low) for low, _ in re.findall(r'(-?\d+)_(-?\d+)', fields.get('pad', ''))
  ]
  return result


def _valid(
  size: int,
  kernel: int,
  out: int,
  *,
  stride: int = 1,
  lhs_dilate: int = 1,
  rhs_dilate: int = 1,
  pad: int = 0,
) -> int:
  """Pairs of output and kernel positions that meet an input."""
  return sum(
    0 <= at < lhs_dilate * (size - 1) + 1 and at % lhs_dilate == 0
    for position in range(out)
    for at in range(
      position * stride - pad,
      position * stride - pad + kernel * rhs_dilate,
      rhs_dilate,
    )
  )


def _numbers(text: str) -> list[int]:
  return [int(n) for n in re.findall(r'\d+', text)]
