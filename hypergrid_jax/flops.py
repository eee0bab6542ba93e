"""How many FLOPs a traced program has in its matrix products.

From the program itself, before a compiler sees it: the same on every device.
"""

from collections.abc import Iterator
import math
from typing import Any

import jax
from jax.extend import core


def matmul_flops(jaxpr: core.Jaxpr) -> int:
  """Counts matrix products, two FLOPs for each multiply-add.

  The bodies of scans count as often as they run, other loops once; kernels as
  much as they declare. Elementwise work is not counted.

  Args:
    jaxpr: of a program, as in `jax.stages.Traced.jaxpr`.
  """
  return sum(
    times * _flops_of(equation) for equation, times in _equations(jaxpr, 1)
  )


def named_flops(jaxpr: core.Jaxpr, name: str) -> int:
  """Counts what the jitted functions of a name take inside a program."""
  return sum(
    times * matmul_flops(inner)
    for equation, times in _equations(jaxpr, 1)
    if equation.params.get('name') == name
    for inner in core.jaxprs_in_params(equation.params)
  )


def _equations(jaxpr: core.Jaxpr, times: int) -> Iterator[tuple[Any, int]]:
  """Yields every equation, and how often it runs."""
  for equation in jaxpr.eqns:
    yield equation, times
    kind, repeats = equation.primitive.name, times
    if kind == 'pallas_call':
      continue
    if kind == 'scan':
      repeats *= equation.params['length']
    if kind == 'shard_map':  # inside, shapes are those of one device
      repeats *= equation.params['mesh'].size
    for inner in core.jaxprs_in_params(equation.params):
      yield from _equations(inner, repeats)


def _flops_of(equation: Any) -> int:
  if equation.primitive.name == 'pallas_call':
    declared = equation.params.get('cost_estimate')
    return declared.flops if declared else 0
  if equation.primitive is not jax.lax.dot_general_p:
    return 0
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  depth = math.prod(left[axis] for axis in contracted)
  return 2 * depth * math.prod(equation.outvars[0].aval.shape)
