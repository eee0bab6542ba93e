"""Looks into what JAX has traced."""

import jax.extend


def equations(jaxpr, inside=()):
  """Yields every equation, with the names of what it is nested in."""
  for equation in jaxpr.eqns:
    yield equation, inside
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from equations(inner, (*inside, equation.primitive.name))
