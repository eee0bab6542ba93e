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
    times * _flops_of(equation) for equation, times, _ in _equations(jaxpr)
  )


def scoped_flops(jaxpr: core.Jaxpr, scope: str) -> int:
  """Counts what stands under a `jax.named_scope`; see `matmul_flops`."""
  return sum(
    times * _flops_of(equation)
    for equation, times, scopes in _equations(jaxpr)
    if scope in scopes
  )


def _equations(
  jaxpr: core.Jaxpr, times: int = 1, outer: tuple[str, ...] = ()
) -> Iterator[tuple[Any, int, tuple[str, ...]]]:
  """Yields every equation, how often it runs, and under which scopes."""
  for equation in jaxpr.eqns:
    scopes = (*outer, *str(equation.source_info.name_stack).split('/'))
    yield equation, times, scopes
    kind, repeats = equation.primitive.name, times
    if kind == 'pallas_call':
      continue
    if kind == 'scan':
      repeats *= equation.params['length']
    if kind == 'shard_map':  # inside, shapes are those of one device
      repeats *= equation.params['mesh'].size
    for inner in core.jaxprs_in_params(equation.params):
      yield from _equations(inner, repeats, scopes)


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
