import mmap
import pathlib

import numpy as np
import pytest

from hypergrid_jax.data import mapped_memory

SIZE = 8 * 2**20

pytestmark = pytest.mark.skipif(
  not mapped_memory._STATM.exists(), reason='the system does not tell'
)


@pytest.fixture
def mapped(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(np.arange(SIZE // 8).tobytes())
  with path.open('rb') as file:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def read(mapped):
  return int(np.frombuffer(mapped, np.int64).sum())


def test_pages_are_given_back_when_there_are_too_many(mapped, monkeypatch):
  memory = mapped_memory.MappedMemory([mapped])
  whole = read(mapped)
  filled = mapped_memory._resident()
  memory.trim()  # far below the limit
  assert mapped_memory._resident() > filled - SIZE / 2
  monkeypatch.setattr(mapped_memory, '_LIMIT', SIZE // 2)
  memory.trim()
  assert mapped_memory._resident() < filled - SIZE / 2
  assert read(mapped) == whole


def test_what_was_mapped_before_does_not_count(mapped, monkeypatch):
  monkeypatch.setattr(mapped_memory, '_LIMIT', SIZE // 2)
  read(mapped)
  filled = mapped_memory._resident()
  mapped_memory.MappedMemory([mapped]).trim()
  assert mapped_memory._resident() > filled - SIZE / 2


def test_where_the_system_does_not_tell_nothing_happens(mapped, monkeypatch):
  monkeypatch.setattr(mapped_memory, '_LIMIT', 0)
  monkeypatch.setattr(mapped_memory, '_STATM', pathlib.Path('/nowhere/statm'))
  memory = mapped_memory.MappedMemory([mapped])
  read(mapped)
  memory.trim()
