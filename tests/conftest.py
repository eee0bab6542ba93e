"""Eight fake CPU devices, no silent rank promotion, and what tests may skip."""

import importlib.util
import os
import pathlib

# Before anything imports TensorFlow; a hundred lines otherwise.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax
import pytest

REAL_DATA = 'HYPERGRID_REAL_DATA'
NUM_DEVICES = 8


def pytest_configure():
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', NUM_DEVICES)
  jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_runtest_setup(item):
  if item.get_closest_marker('real_data') and not os.environ.get(REAL_DATA):
    pytest.skip(f'{REAL_DATA} does not name a directory of GLUE files')
  if item.get_closest_marker('torch') and not importlib.util.find_spec('torch'):
    pytest.skip("PyTorch is not installed: pip install -e '.[torch]'")


@pytest.fixture
def real_data() -> pathlib.Path:
  """The directory of real files; for tests marked real_data."""
  return pathlib.Path(os.environ[REAL_DATA])


@pytest.fixture
def x64():
  """Computes in float64 for the length of one test."""
  with jax.enable_x64(True):
    yield
