"""What runs in a compiled program, and how often: loops counted fully."""

from collections.abc import Iterator
import dataclasses
import re

from hypergrid_jax.precompiling import hlo_text

# What passes a value on as it is.
_SAME = ('copy', 'bitcast', 'convert', 'reshape')


@dataclasses.dataclass(frozen=True)
class Use:
  """An instruction where it runs.

  Attributes:
    instruction: what runs.
    computation: where it stands.
    times: how often, in one run of the program.
    fused: inside a fusion: its operands and results do not reach memory.
  """

  instruction: hlo_text.Instruction
  computation: hlo_text.Computation
  times: int
  fused: bool


def uses(module: hlo_text.Module) -> Iterator[Use]:
  """Yields every instruction that runs, wherever it is called from.

  Of a conditional every branch is yielded. Functions that are applied to single
  elements, as a reduction's, are not entered.
  """
  yield from _uses(module, module.entry, 1, False)


def _uses(module, name, times, fused) -> Iterator[Use]:
  computation = module.computations[name]
  for instruction in computation:
    yield Use(instruction, computation, times, fused)
    if instruction.opcode == 'while':
      count = trip_count(module, computation, instruction) or 1
      for part in ('condition', 'body'):
        yield from _uses(module, instruction.called(part), times * count, fused)
      continue
    inside = fused or instruction.opcode == 'fusion'
    for called in _called(instruction):
      if called in module.computations:
        yield from _uses(module, called, times, inside)


def _called(instruction) -> list[str]:
  if instruction.opcode in ('fusion', 'async-start'):
    return [instruction.called('calls')]
  if instruction.opcode == 'call':
    return [instruction.called('to_apply')]
  if instruction.opcode == 'conditional':
    branches = instruction.attribute('branch_computations') or ''
    pair = [
      instruction.called(f'{which}_computation') for which in ('true', 'false')
    ]
    return re.findall(r'%([\w.-]+)', branches) or [p for p in pair if p]
  return []


def unbounded(module: hlo_text.Module) -> list[str]:
  """Names of loops that run an unknown number of times; counted once."""
  return [
    use.instruction.name
    for use in uses(module)
    if use.instruction.opcode == 'while'
    and trip_count(module, use.computation, use.instruction) is None
  ]


def trip_count(
  module: hlo_text.Module,
  computation: hlo_text.Computation,
  loop: hlo_text.Instruction,
) -> int | None:
  """Returns how often a loop runs, or at most runs; None when unknown.

  The compiler for CPUs writes it down. That for TPUs does not, and it follows
  from the start, the step and the limit of the counter that the condition
  compares. A loop that may also end for another reason, such as decoding,
  counts as if it did not.

  Args:
    module: the program.
    computation: where the loop stands.
    loop: the instruction.
  """
  known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
  if known:
    return int(known[1])
  condition = module.computations[loop.called('condition')]
  body = module.computations[loop.called('body')]
  counts = [
    _count(computation, loop, body, counter, limit)
    for counter, limit in _limits(module, condition)
  ]
  return min(counts, default=None)


def _limits(module, condition) -> Iterator[tuple[int, int]]:
  """Which elements of a loop's state must stay below which constants."""
  for instruction in condition:
    inside, arguments = condition, {}
    found = [instruction]
    if instruction.opcode == 'fusion':
      inside = module.computations[instruction.called('calls')]
      outer = condition.operands(instruction)
      arguments = dict(
        zip((p.name for p in inside.parameters), outer, strict=True)
      )
      found = list(inside)
    for compare in found:
      if (
        compare.opcode != 'compare' or 'direction=LT' not in compare.attributes
      ):
        continue
      left, right = (
        _through(
          condition,
          arguments.get(_through(inside, side).name) or _through(inside, side),
        )
        for side in inside.operands(compare)
      )
      limit = _constant(right)
      index = left.attribute('index')
      if left.opcode == 'get-tuple-element' and limit is not None:
        yield int(index), limit


def _count(computation, loop, body, counter: int, limit: int) -> int:
  """Runs of a loop whose counter, an element of its state, has a limit."""
  start, step = 0, 1
  (state,) = computation.operands(loop)
  if state.opcode == 'tuple':
    first = computation.instructions[state.operands[counter]]
    found = _constant(_through(computation, first))
    start = start if found is None else found
  if body.root.opcode == 'tuple':
    last = body.instructions[body.root.operands[counter]]
    if last.opcode == 'add':
      added = [_constant(_through(body, i)) for i in body.operands(last)]
      step = next((n for n in added if n), step)
  return max(0, -(-(limit - start) // step))


def _through(computation, instruction):
  """The instruction whose value this one passes on."""
  while instruction.opcode in _SAME and instruction.operands:
    operands = computation.operands(instruction)
    if not operands:
      break
    instruction = operands[0]
  return instruction


def _constant(instruction) -> int | None:
  """The value of a whole number."""
  if instruction.opcode != 'constant':
    return None
  text = instruction.operands[0]
  return int(text) if re.fullmatch(r'-?\d+', text) else None
