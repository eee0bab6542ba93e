"""The floor plan: a room imports rooms of lower floors only.

A room is a directory of the library, or `words`, the files beside them. What
TensorFlow and gin may be imported by is said here too.
"""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

FLOORS = {
  'words': 0,
  'parallel': 1,
  'tasks': 1,
  'config': 1,
  'ops': 2,
  'data': 2,
  'model': 3,
  'methods': 4,
  'training': 4,
  'checkpoints': 4,
  'evaluation': 4,
  'runs': 5,
  'prediction': 6,
  'inspection': 6,
  'precompiling': 6,
  'comparing': 6,
  'interop': 7,
  'testing': 7,
  'cli': 8,
}
# The package itself hands out the public names, and `python -m` the command.
ABOVE_ALL = ('', '__main__')
WORDS = {'errors', 'types', 'trees', 'files', 'console'}

# Rooms and files that alone may import a package.
SEQIO = ('tasks.seqio',)
EXTERNAL = {
  'gin': ('config',),
  # interop reads the checkpoints of TensorFlow itself.
  'tensorflow': (*SEQIO, 'interop.locations', 'interop.mesh_tf'),
  'tensorflow_datasets': SEQIO,
  'seqio': SEQIO,
  't5': SEQIO,
  'orbax': ('checkpoints',),
  'tensorboardX': ('runs',),
  'safetensors': ('interop',),
  'tensorstore': ('interop',),
  'matplotlib': ('comparing',),
  'huggingface_hub': ('interop',),
  'torch': (),
  'transformers': (),
}


@functools.cache
def _files():
  found = {}
  for folder, package in (('hypergrid_jax', ()), ('tasks', ('tasks',))):
    for path in (ROOT / folder).rglob('*.py'):
      parts = (*package, *path.relative_to(ROOT / folder).with_suffix('').parts)
      found['.'.join(p for p in parts if p != '__init__')] = path
  return found


def _room(name):
  first = name.partition('.')[0]
  return 'words' if first in WORDS else first


def _imports(source):
  """Dotted names that a file imports anywhere in it, but for types alone."""
  tree = ast.parse(source)
  for node in tree.body:
    if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
      node.body = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _violations(name, source):
  if name in ABOVE_ALL:
    return []
  room = _room(name)
  if room not in FLOORS:
    return [f'{name} lies in no room']
  violations = []
  for imported in _imports(source):
    top, _, rest = imported.partition('.')
    other = _room(rest)
    if top == 'hypergrid_jax':
      if room != other and FLOORS.get(other, -1) >= FLOORS[room]:
        violations.append(f'{name} must not import {rest}')
    elif not any(
      f'{name}.'.startswith(f'{p}.') for p in EXTERNAL.get(top, (name,))
    ):
      violations.append(f'{name} must not import {top}')
  return violations


@pytest.mark.parametrize('name', sorted(_files()))
def test_a_file_imports_only_what_lies_below_it(name):
  assert not _violations(name, _files()[name].read_text())


@pytest.mark.parametrize(
  ('name', 'source'),
  [
    ('training.loop', 'from hypergrid_jax.methods import hypergrid'),
    ('model.t5', 'from hypergrid_jax.methods.hypergrid import HyperGrid'),
    ('tasks.definitions', 'from hypergrid_jax.data import loader'),
    ('errors', 'def f():\n  from hypergrid_jax.model import layers'),
    ('ops.matmul', 'import hypergrid_jax.model.layers'),
    ('cli.main', 'import gin'),
    ('data.loader', 'from seqio import Feature'),
    ('tasks.definitions', 'import tensorflow as tf'),
    ('new_file', ''),
  ],
)
def test_the_check_notices(name, source):
  assert _violations(name, source)


def _loaded_by(names, packages):
  """Which of the packages a new process has after importing the files."""
  modules = [f'hypergrid_jax.{name}'.rstrip('.') for name in names]
  program = (
    'import importlib, sys\n'
    f'for name in {modules!r}: importlib.import_module(name)\n'
    f'print(*(p for p in {packages!r} if p in sys.modules))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  return done.stdout.split()


def test_only_seqio_loads_tensorflow_and_only_the_command_gin():
  names = [
    name
    for name in _files()
    if not name.startswith(('tasks.seqio.', 'tasks.sample.build', '__main__'))
    and _room(name) not in ('config', 'comparing', 'cli')
  ]
  packages = ('tensorflow', 'seqio', 't5', 'tensorflow_datasets', 'gin')
  assert _loaded_by(names, packages) == []


def test_the_model_loads_no_part_of_training():
  packages = ('flax', 'sentencepiece', 'tensorboardX', 'tensorflow', 'gin')
  methods = [name for name in _files() if name.startswith('methods.')]
  assert _loaded_by(['model.t5', *methods], packages) == ['flax']
