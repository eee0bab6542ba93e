"""Which file may import what. Nothing points up.

The table names every file of the library, so that a new one has to be given
its place before it can be imported by another.
"""

import ast
import fnmatch
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# What every file may import; among themselves too.
BASE = ('', 'errors', 'types', 'tree_paths', 't5_config', 'atomic_files')

MAY_IMPORT = {
  # The model. t5 imports no method: it is given extension points.
  'layers': ('ops.matmul', 'rectifying'),
  'rectifying': (),
  'extension': ('layers', 'partitioning'),
  'scan_stash': ('current_mesh',),
  'stacks': (
    'layers',
    'extension',
    'partitioning',
    'rectifying',
    'scan_stash',
  ),
  't5': ('layers', 'extension', 'partitioning', 'stacks'),
  'model': ('extension', 'partitioning', 't5'),
  'conditioning': ('layers',),
  'folding': ('conditioning',),
  # A method is one file on the extension points; methods never meet.
  'methods.*': (
    'layers',
    'extension',
    'conditioning',
    'folding',
    'bottleneck',
    'gated_mlp',
    'partitioning',
    'ops.*',
  ),
  'bottleneck': (),
  'gated_mlp': (
    'conditioning',
    'extension',
    'layers',
    'ops.*',
    'partitioning',
  ),
  'ops.*': ('current_mesh', 'ops.*', 'rectifying', 'scan_stash'),
  'losses': (),
  'decoding': ('losses', 'model'),
  # What a step trains on, when it asks the model; a model is given.
  'uncertainty_labels': (),
  'uncertainty': ('losses', 'uncertainty_labels'),
  # The optimiser and where arrays lie.
  'current_mesh': (),
  'partitioning': ('current_mesh',),
  'schedules': (),
  'adafactor': (),
  'trainable': (),
  'optim': ('adafactor', 'schedules', 'trainable'),
  'state': ('optim', 'partitioning'),
  'agreement': ('processes',),
  'sealed_json': (),
  'manifest': ('sealed_json',),
  'checkpoint*': (
    'agreement',
    'checkpoint*',
    'manifest',
    'processes',
    'sealed_json',
  ),
  # Text to tokens to rows; tasks and their sources know each other.
  'data.*': ('data.*', 'tasks.*', 'installation'),
  'tasks.sample.*': ('tasks.sample.*',),
  'tasks.*': ('data.*', 'tasks.*', 'installation'),
  # The loop is given a model, batches and callbacks.
  'train': ('losses', 'state', 'trainable'),
  'metrics': (),
  'predictions': (),
  'results': ('metrics', 'predictions'),
  'tables': ('metrics', 'results'),
  'predict': ('data.*', 'decoding', 'model'),
  'evaluate': (
    'data.*',
    'metrics',
    'model',
    'partitioning',
    'predict',
    'predictions',
    'results',
  ),
  # Several processes, and signals to them.
  'hosts': (),
  'clusters': ('hosts',),
  'processes': ('hosts',),
  'preemption': ('processes',),
  'row_parts': (),
  # A run put together.
  'progress': (),
  'recorder': ('predictions',),
  'run_directory': ('predictions',),
  'flops': (),
  'step_program': (
    'data.*',
    'flops',
    'partitioning',
    'row_parts',
    'run_batches',
    'run_setup',
    'state',
    'train',
  ),
  'summary': (
    'model',
    'partitioning',
    'run_directory',
    'state',
    'step_program',
    'trainable',
  ),
  'corpus': (
    'data.*',
    'tasks.definitions',
    'tasks.mixtures',
    'tasks.protocols',
  ),
  'meter': ('data.*',),
  'warm_start': ('checkpoint*', 'model'),
  'run_setup': (
    'corpus',
    'data.*',
    'evaluate',
    'extension',
    'metrics',
    'model',
    'optim',
    'partitioning',
    'processes',
    'progress',
    'run_directory',
    'state',
    'tasks.task_files',
    'train',
    'trainable',
    'uncertainty',
  ),
  'run_batches': (
    'corpus',
    'data.*',
    'model',
    'run_setup',
    'tasks.definitions',
    'uncertainty',
  ),
  'experiment': (
    'agreement',
    'checkpoint*',
    'data.*',
    'evaluate',
    'installation',
    'meter',
    'metrics',
    'optim',
    'partitioning',
    'preemption',
    'processes',
    'progress',
    'recorder',
    'results',
    'run_directory',
    'run_batches',
    'run_setup',
    'state',
    'step_program',
    'summary',
    'tables',
    'tasks.registry',
    'train',
    'warm_start',
  ),
  # Weights of other programs, and changes to trained models.
  'interop.*': ('gin_reader', 'installation', 'interop.*'),
  'interop.run_files': (
    'corpus',
    'data.vocabularies',
    'model',
    'run_directory',
    'run_batches',
    'run_setup',
    'summary',
    'tasks.task_files',
  ),
  'interop.importing': (
    'checkpoint*',
    'interop.*',
    'model',
    'progress',
    'run_setup',
  ),
  'interop.trained': (
    'checkpoint*',
    'inference',
    'interop.*',
    'model',
    'run_directory',
    'run_setup',
  ),
  'interop.hf_tokenizer': ('data.vocabularies', 'interop.*'),
  'interop.exporting': (
    'data.vocabularies',
    'folding',
    'interop.*',
    'model',
    'run_setup',
  ),
  'interop.editing': (
    'checkpoint*',
    'corpus',
    'interop.*',
    'model',
    'run_setup',
  ),
  # The command. configuration names the library's dataclasses as text.
  'installation': (),
  'field_types': (),
  'gin_reader': (),
  'configuration': ('field_types', 'gin_reader'),
  'doctor': ('data.*', 'installation', 'tasks.definitions'),
  'split_facts': (),
  'row_places': ('data.*', 'tasks.task_definition'),
  'split_tables': ('row_places', 'split_facts', 'tasks.task_definition'),
  'task_warnings': (
    'row_places',
    'split_facts',
    'split_tables',
    'tasks.task_definition',
  ),
  'prediction_rows': ('data.*', 'tasks.*'),
  'inference': (
    'checkpoint*',
    'data.*',
    'installation',
    'manifest',
    'partitioning',
    'predict',
    'prediction_rows',
    'run_directory',
    'run_setup',
    'state',
    'tasks.*',
  ),
  'predict_file': (
    'agreement',
    'inference',
    'prediction_rows',
    'predictions',
    'processes',
    'progress',
    'run_setup',
  ),
  'tokenization': (
    'corpus',
    'data.*',
    'progress',
    'run_batches',
    'run_setup',
    'split_facts',
    'split_tables',
    'summary',
    'task_warnings',
    'tasks.*',
  ),
  # Compiled for devices that are not here.
  'precompiling.*': (
    'corpus',
    'data.*',
    'decoding',
    'model',
    'partitioning',
    'precompiling.*',
    'predict',
    'run_batches',
    'run_setup',
    'state',
    'step_program',
    'tasks.definitions',
    'tasks.task_files',
    'trainable',
  ),
  # Several runs and one table.
  'comparing.scores': ('metrics', 'results', 'tables'),
  'comparing.plan': (
    'configuration',
    'corpus',
    'gin_reader',
    'tasks.definitions',
  ),
  'comparing.training': (
    'checkpoint*',
    'comparing.plan',
    'configuration',
    'experiment',
    'results',
    'run_directory',
    'run_setup',
    'summary',
  ),
  'comparing.step_times': (
    'comparing.training',
    'extension',
    'model',
    'predictions',
    'progress',
    'run_directory',
    'run_batches',
    'run_setup',
    'state',
    'step_program',
  ),
  'comparing.report': (
    'comparing.scores',
    'comparing.step_times',
    'predictions',
    'tables',
  ),
  'comparing.plot': ('comparing.report', 'tables'),
  'comparing.command': (
    'comparing.*',
    'configuration',
    'preemption',
    'run_directory',
    'run_batches',
    'run_setup',
  ),
  'comparing': (),
  'task_pages': (
    'data.*',
    'progress',
    'row_places',
    'split_facts',
    'split_tables',
    'task_warnings',
    'tasks.*',
  ),
  'compilation_cache': (),
  'verbs': (
    'clusters',
    'comparing.*',
    'compilation_cache',
    'configuration',
    'doctor',
    'data.config',
    'experiment',
    'precompiling.*',
    'predict_file',
    'processes',
    'run_directory',
    'task_pages',
    'tasks.task_files',
    'tokenization',
    'interop.importing',
    'interop.exporting',
    'interop.editing',
  ),
  'shared_flags': (),
  'weight_arguments': ('shared_flags', 'verbs'),
  'arguments': ('shared_flags', 'verbs', 'weight_arguments'),
  'cli': ('arguments',),
  '__main__': ('cli',),
  # The package itself: `load`, which imports when it is called.
  '': ('configuration', 'inference', 'run_directory'),
}

# Packages that only these files may import.
_TEXT_TO_TOKENS = ('tasks.*', 'data.tokenizing', 'metrics')
_OTHERS_FILES = ('interop.locations', 'interop.mesh_tf')
EXTERNAL = {
  'gin': ('gin_reader',),
  'tensorflow': (*_TEXT_TO_TOKENS, *_OTHERS_FILES),
  'tensorflow_text': _TEXT_TO_TOKENS,
  'tensorflow_datasets': _TEXT_TO_TOKENS,
  'seqio': _TEXT_TO_TOKENS,
  't5': _TEXT_TO_TOKENS,
  'orbax': ('checkpoint*',),
  'tensorboardX': ('recorder',),
  'safetensors': ('interop.hf_files', 'interop.hf_writer'),
  'tensorstore': ('interop.t5x',),
  'matplotlib': ('comparing.plot',),
  'huggingface_hub': ('interop.locations',),
  'torch': (),
  'transformers': (),
}

# Files whose import loads TensorFlow, and those that make up the command.
LOADS_TENSORFLOW = (
  'tasks.given_rows',
  'tasks.registry',
  'tasks.glue',
  'tasks.super_glue',
  'tasks.seqio_sources',
  'tasks.prefixes',
  'tasks.split_parts',
  'tasks.seqio_facts',
  'tasks.toml_scores',
)
COMMAND = (
  'gin_reader',
  'configuration',
  'comparing.plan',
  'comparing.training',
  'comparing.step_times',
  'comparing.report',
  'comparing.plot',
  'comparing.command',
  'verbs',
  'shared_flags',
  'weight_arguments',
  'arguments',
  'cli',
  '__main__',
)


def _matches(name, patterns):
  # 'data.*' is the package `data` too.
  return any(
    fnmatch.fnmatchcase(name, pattern) or pattern == f'{name}.*'
    for pattern in patterns
  )


def _allowed(name):
  """The table's row for a file; the longest pattern wins."""
  rows = [pattern for pattern in MAY_IMPORT if _matches(name, (pattern,))]
  if name in BASE:
    return (*BASE, *MAY_IMPORT.get(name, ()))
  if not rows:
    return None
  return (*BASE, *MAY_IMPORT[max(rows, key=len)])


@functools.cache
def _files():
  found = {}
  for folder, package in (('hypergrid_jax', ()), ('tasks', ('tasks',))):
    for path in (ROOT / folder).rglob('*.py'):
      parts = (*package, *path.relative_to(ROOT / folder).with_suffix('').parts)
      found['.'.join(p for p in parts if p != '__init__')] = path
  return found


def _imports(source, names):
  """Dotted names that a file imports anywhere in it, functions included."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      for alias in node.names:
        member = f'{node.module}.{alias.name}'
        inside = member.removeprefix('hypergrid_jax.') in names
        yield member if inside else node.module


def _violations(name, source, names):
  allowed = _allowed(name)
  if allowed is None:
    return [f'{name} has no row in MAY_IMPORT']
  found = []
  for imported in _imports(source, names):
    top, _, rest = imported.partition('.')
    if top == 'hypergrid_jax':
      if not _matches(rest, allowed):
        found.append(f'{name} must not import {rest}')
    elif not _matches(name, EXTERNAL.get(top, ('*',))):
      found.append(f'{name} must not import {top}')
  return found


@pytest.mark.parametrize('name', sorted(_files()))
def test_a_file_imports_only_what_lies_below_it(name):
  assert not _violations(name, _files()[name].read_text(), _files())


@pytest.mark.parametrize(
  ('name', 'source'),
  [
    ('train', 'from hypergrid_jax import t5'),
    ('train', 'from hypergrid_jax.methods import hypergrid'),
    ('t5', 'from hypergrid_jax.methods.hypergrid import HyperGridConfig'),
    ('methods.a', 'import hypergrid_jax.methods.b'),
    ('losses', 'def f():\n  from hypergrid_jax import train'),
    ('errors', 'from hypergrid_jax import layers'),
    ('tasks.sample.world', 'from hypergrid_jax.data import sources'),
    ('cli', 'import gin'),
    ('train', 'import tensorflow as tf'),
    ('data.loader', 'from seqio import Feature'),
    ('new_file', ''),
  ],
)
def test_the_check_notices(name, source):
  names = {*_files(), 'methods.a', 'methods.b'}
  assert _violations(name, source, names)


@pytest.mark.parametrize(
  ('name', 'source'),
  [
    ('methods.a', 'from hypergrid_jax.ops import gated_matmul'),
    ('t5', 'from hypergrid_jax import layers'),
    ('tasks.glue', 'import seqio'),
    ('gin_reader', 'from gin import config_parser'),
    ('layers', 'import numpy'),
  ],
)
def test_the_check_lets_pass(name, source):
  assert not _violations(name, source, _files())


def _loaded_by(names, packages):
  """Which of the packages a new process has after importing the files."""
  modules = [f'hypergrid_jax.{name}'.rstrip('.') for name in names]
  program = (
    'import importlib, sys\n'
    f'for name in {modules!r}: importlib.import_module(name)\n'
    f'print(*(p for p in {packages!r} if p in sys.modules))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  )
  return done.stdout.split()


def test_the_library_loads_neither_tensorflow_nor_gin():
  names = [
    name
    for name in _files()
    if name not in (*LOADS_TENSORFLOW, *COMMAND)
    and not name.startswith('tasks.sample.build')
  ]
  assert 'train' in names
  assert 'experiment' in names
  packages = (
    'tensorflow',
    'seqio',
    't5',
    'tensorflow_datasets',
    'torch',
    'gin',
  )
  assert _loaded_by(names, packages) == []


def test_the_model_loads_no_part_of_training():
  packages = ('flax', 'sentencepiece', 'tensorboardX', 'tensorflow', 'gin')
  methods = [name for name in _files() if name.startswith('methods.')]
  assert _loaded_by(['t5', *methods], packages) == ['flax']
