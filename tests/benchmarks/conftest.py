"""The scripts import one another as files of one folder."""

import importlib
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def script(monkeypatch):
  """Imports a script by its name."""
  monkeypatch.syspath_prepend(str(FOLDER))
  return importlib.import_module
