"""Laws that every method keeps, for one's own methods too.

Three lines of a test file run them:

  from hypergrid_jax import testing
  from my_module import MyMethod

  TestMyMethod = testing.method_laws(MyMethod(width=3))

pytest collects the class; each law is one test. See `laws.MethodLaws`.
"""

from hypergrid_jax.testing.laws import method_laws

__all__ = ['method_laws']
