"""How the tests of operations are compiled."""

import jax
import pytest


@pytest.fixture(autouse=True, scope='module')
def compile_quickly():
  """The programs run for milliseconds; optimising them would take minutes."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)
