"""Eight fake CPU devices, no silent rank promotion, and what tests may skip."""

import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile

# Before anything imports TensorFlow; a hundred lines otherwise.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import hypothesis
import jax
import jaxtyping
import pytest

from tests import commands

REAL_DATA = 'HYPERGRID_REAL_DATA'
TORCH_PYTHON = 'HYPERGRID_TORCH_PYTHON'  # has torch where this one has not
NUM_DEVICES = 8


def pytest_configure(config):
  # What is compiled is kept there, too; a session has what it has made itself.
  caches = tempfile.mkdtemp(prefix='hypergrid-tests-')
  os.environ['XDG_CACHE_HOME'] = caches
  config.add_cleanup(lambda: shutil.rmtree(caches, ignore_errors=True))
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', NUM_DEVICES)
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  _compile_faster()
  # No test is timed: a busy machine is not a failure.
  hypothesis.settings.register_profile('untimed', deadline=None)
  hypothesis.settings.load_profile('untimed')


def _compile_faster():
  """Has XLA compile quickly in this process, where programs run for moments.

  Commands do not inherit it and are compiled as a user's are, but for those of
  `tests.commands`, which asks for it, too.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XLA_FLAGS', commands.COMPILE_FASTER, prepend=' ')
    jax.devices()  # reads it


def pytest_runtest_setup(item):
  if item.get_closest_marker('real_data') and not os.environ.get(REAL_DATA):
    pytest.skip(f'{REAL_DATA} does not name a directory of GLUE files')
  if item.get_closest_marker('torch') and not (
    os.environ.get(TORCH_PYTHON) or importlib.util.find_spec('torch')
  ):
    pytest.skip("PyTorch is not installed: pip install -e '.[torch]'")
  if item.get_closest_marker('tpu') and not importlib.util.find_spec('libtpu'):
    pytest.skip("libtpu is not installed: pip install -e '.[tpu]'")


@pytest.fixture(autouse=True, scope='module')
def _own_tasks_stay_in_their_module():
  """Forgets what fixtures of the whole module have brought, too."""
  yield from _forgetting()


@pytest.fixture(autouse=True)
def _own_tasks_stay_in_their_test():
  yield from _forgetting()


def _forgetting():
  """Forgets the tasks, mixtures and modules that came since it began."""
  from hypergrid_jax.tasks import definitions
  from hypergrid_jax.tasks.catalogue import mixtures

  tables = definitions.DEFINITIONS, mixtures.MIXTURES
  before = [set(names) for names in _registered()] or [set(), set()]
  modules, path = set(sys.modules), list(sys.path)
  yield
  for table in tables:
    for name, value in list(table.items()):
      if getattr(value, 'rows', None) or getattr(value, 'rates', None):
        del table[name]
  definitions.REFUSED.clear()
  for names, known, table in zip(_registered(), before, tables, strict=False):
    for name in set(names) - known - set(table):
      del names[name]
  for name in set(sys.modules) - modules:
    if name.startswith('user_tasks_'):
      del sys.modules[name]
  sys.path[:] = path


def _registered():
  seqio = sys.modules.get('seqio')
  if seqio is None:
    return []
  return [seqio.TaskRegistry._REGISTRY, seqio.MixtureRegistry._REGISTRY]


@pytest.fixture
def real_data() -> pathlib.Path:
  """The directory of real files; for tests marked real_data."""
  return pathlib.Path(os.environ[REAL_DATA])


@pytest.fixture
def x64():
  """Computes in float64 for the length of one test."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope='module')
def compile_quickly():
  """For programs that run for milliseconds; optimising them takes longer."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture
def unchecked():
  """Switches the tests' own type checks off: a user has only ours."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)
