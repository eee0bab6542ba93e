"""The public names of the package."""

import ast
import pathlib
import subprocess
import sys

import pytest

import hypergrid_jax


@pytest.mark.parametrize('name', hypergrid_jax.__all__)
def test_a_public_name_is_documented_and_says_where_it_is_from(name):
  value = getattr(hypergrid_jax, name)
  assert value.__doc__
  assert value.__module__.startswith('hypergrid_jax')


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="'hypergrid_jax'.*'HyperGird'"):
    hypergrid_jax.HyperGird  # noqa: B018


def test_type_checkers_see_the_same_names():
  tree = ast.parse(pathlib.Path(hypergrid_jax.__file__).read_text())
  (block,) = (node for node in tree.body if isinstance(node, ast.If))
  seen = {alias.asname for node in block.body for alias in node.names}
  assert seen - {None} == set(hypergrid_jax.__all__) - {'load'}


def test_importing_the_package_loads_neither_jax_nor_tensorflow():
  program = (
    'import sys, hypergrid_jax\n'
    "assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)\n"
    'for name in hypergrid_jax.__all__: getattr(hypergrid_jax, name)\n'
    "assert 'jax' in sys.modules and 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', program], check=True)
