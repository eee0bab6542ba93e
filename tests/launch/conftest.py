"""An empty directory of stubs for each test."""

import pytest

from tests.launch.stubs import Stubs


@pytest.fixture
def stubs(tmp_path):
  return Stubs(tmp_path)
