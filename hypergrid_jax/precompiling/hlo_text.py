"""Compiled programs (HLO) as text, read into instructions.

Only what costs need is read: shapes, opcodes, operands, and attributes as the
text they are.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

# Bytes of the types whose names do not end with their bits.
_ODD_SIZES = {'pred': 1, 'token': 0, 'opaque': 0}
_ARRAY = re.compile(r'\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\](?:\{([^{}]*)\})?')
_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) .*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.-]+) = ')
_OPCODE = re.compile(r' ?([\w-]+)\(')
_OPERAND = re.compile(r'%([\w.-]+)')
# What can end or nest a piece of text; escaped quotes are one mark.
_MARK = re.compile(r'\\.|[()\[\]{}"\', ]')
_SPACE = re.compile(r'S\((\d+)\)')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's result.

  Attributes:
    dtype: such as 'bf16'.
    dims: its sizes.
    space: the memory it lies in; 0 is a device's main memory.
  """

  dtype: str
  dims: tuple[int, ...]
  space: int = 0

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """Size in bytes, without padding."""
    return math.ceil(self.size * _bits(self.dtype) / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program.

  Attributes:
    name: unique in its computation.
    opcode: such as 'fusion'.
    result: text of its type.
    operands: names of the instructions it uses; for a constant its value.
    attributes: the rest of the line.
    root: whether it is what its computation returns.
  """

  name: str
  opcode: str
  result: str
  operands: tuple[str, ...]
  attributes: str
  root: bool

  @functools.cached_property
  def arrays(self) -> tuple[Array, ...]:
    """The arrays of the result; several for a tuple."""
    return arrays(self.result)

  @property
  def bytes(self) -> int:
    """Bytes of all arrays of the result."""
    return sum(array.bytes for array in self.arrays)

  def attribute(self, name: str) -> str | None:
    """The text after `name=`, up to the next comma outside of brackets."""
    at = re.search(rf'(?:^|[ ,]){name}=', self.attributes)
    if at is None:
      return None
    return self.attributes[at.end() : _end(self.attributes, at.end(), ',')]

  def called(self, name: str) -> str | None:
    """The name of the computation in an attribute, if there is one."""
    text = self.attribute(name)
    return None if text is None else text.lstrip('%')


@dataclasses.dataclass(frozen=True)
class Computation:
  """A function of a program.

  Attributes:
    name: unique in the program.
    instructions: by name, in order.
  """

  name: str
  instructions: dict[str, Instruction]

  @functools.cached_property
  def root(self) -> Instruction:
    """What it returns."""
    return next(i for i in self if i.root)

  @functools.cached_property
  def parameters(self) -> tuple[Instruction, ...]:
    """Its parameters, by number."""
    found = [i for i in self if i.opcode == 'parameter']
    return tuple(sorted(found, key=lambda i: int(i.operands[0])))

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    """Which instructions use each instruction."""
    found: dict[str, list[Instruction]] = {
      name: [] for name in self.instructions
    }
    for instruction in self:
      for operand in dict.fromkeys(instruction.operands):
        if operand in found:
          found[operand].append(instruction)
    return found

  def __iter__(self) -> Iterator[Instruction]:
    return iter(self.instructions.values())

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """The instructions that one uses."""
    return [
      self.instructions[name]
      for name in instruction.operands
      if name in self.instructions
    ]


@dataclasses.dataclass(frozen=True)
class Module:
  """A program.

  Attributes:
    computations: by name.
    entry: name of the one that runs.
  """

  computations: dict[str, Computation]
  entry: str


def arrays(text: str) -> tuple[Array, ...]:
  """Returns the arrays of a type, such as '(f32[2,3]{1,0}, s32[])'."""
  found = []
  for dtype, dims, layout in _ARRAY.findall(text):
    space = _SPACE.search(layout)
    found.append(
      Array(
        dtype,
        tuple(int(n) for n in dims.split(',') if n),
        int(space[1]) if space else 0,
      )
    )
  return tuple(found)


def parse(text: str) -> Module:
  """Reads a compiled program, as from `compiled.as_text()`.

  Raises:
    ValueError: the text has no entry.
  """
  computations: dict[str, Computation] = {}
  entry, current = None, None
  for line in text.splitlines():
    if line.startswith((' ', '\t')) and current is not None:
      instruction = _instruction(line)
      if instruction is not None:
        current.instructions[instruction.name] = instruction
      continue
    header = _HEADER.match(line)
    if header and ' = ' not in line.partition(' -> ')[0].partition('(')[0]:
      current = Computation(header[2], {})
      computations[current.name] = current
      if header[1]:
        entry = current.name
    elif line.startswith('}'):
      current = None
  if entry is None:
    raise ValueError('the text is no HLO program: it has no ENTRY')
  return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
  start = _INSTRUCTION.match(line)
  if start is None:
    return None
  end = _end(line, start.end(), ' ')
  opcode = _OPCODE.match(line, end)
  if opcode is None:
    return None
  close = _end(line, opcode.end(), ')')
  inside = line[opcode.end() : close]
  named = opcode[1] not in ('constant', 'parameter')
  return Instruction(
    name=start[2],
    opcode=opcode[1],
    result=line[start.end() : end],
    operands=tuple(_OPERAND.findall(inside)) if named else (inside,),
    attributes=line[close + 1 :].removeprefix(', '),
    root=bool(start[1]),
  )


def _end(text: str, start: int, stop: str) -> int:
  """Where a character comes next outside of brackets and quotes."""
  depth, quoted = 0, ''
  for found in _MARK.finditer(text, start):
    mark = found[0]
    if quoted:
      quoted = '' if mark == quoted else quoted
    elif mark == stop and depth == 0:
      return found.start()
    elif mark in '([{':
      depth += 1
    elif mark in ')]}':
      depth -= 1
    elif mark in '"\'':
      quoted = mark
  return len(text)


def _bits(dtype: str) -> int:
  if dtype in _ODD_SIZES:
    return 8 * _ODD_SIZES[dtype]
  found = re.search(r'\d+', dtype)  # as in bf16, f8e4m3fn, c64
  return int(found[0]) if found else 0
