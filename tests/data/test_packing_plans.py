import json
import logging
import os
import pathlib

import numpy as np
import pytest

from hypergrid_jax.data import packing, packing_plans, token_files, tokens
from hypergrid_jax.errors import UserError

ROW, S = (40, 9), 4
COUNT = 61


@pytest.fixture
def packs(monkeypatch):
  """Lists the seeds with which rows were packed, not read."""
  calls, real = [], packing.pack

  def pack(*args, **options):
    calls.append(options['seed'])
    return real(*args, **options)

  monkeypatch.setattr(packing, 'pack', pack)
  return calls


def make_store(directory, *, count=COUNT, longest=30):
  directory.mkdir()
  writer = token_files.StoreWriter(directory, vocabulary_size=99)
  rng = np.random.default_rng(count)
  for _ in range(count):
    inputs, targets = rng.integers(1, longest), rng.integers(1, 6)
    writer.add(np.full(inputs, 7), np.full(targets, 8), {})
  writer.finish({'task': 't', 'split': 'train', 'counts': {}})
  return open_store(directory)


def open_store(directory):
  return tokens._load(directory, token_files.read_manifest(directory))


@pytest.fixture
def store(tmp_path):
  return make_store(tmp_path / 'train-01')


def rows_of(store, *, row_lengths=ROW, max_segments=S, seed=3):
  rows = packing_plans.packed_rows(
    store, row_lengths=row_lengths, max_segments=max_segments, seed=seed
  )
  return rows.offsets.tolist(), rows.examples.tolist()


def plans(store):
  return sorted(store.directory.glob('packed-*'))


def test_rows_are_packed_once_and_then_read(packs, store):
  made = rows_of(store)
  assert packs == [3]
  assert rows_of(open_store(store.directory)) == made
  assert packs == [3]
  expected = packing.pack(
    store.input_lengths,
    store.target_lengths,
    row_lengths=ROW,
    max_segments=S,
    seed=3,
  )
  assert made == (expected.offsets.tolist(), expected.examples.tolist())
  assert [p for p in store.directory.iterdir() if p.name[0] == '.'] == []


def test_everything_rows_depend_on_has_a_plan_of_its_own(
  packs, tmp_path, store, monkeypatch
):
  rows_of(store)
  for changes in (
    {'seed': 4},
    {'max_segments': 3},
    {'row_lengths': (41, 9)},
    {'row_lengths': (40, 10)},
  ):
    rows_of(store, **changes)
  assert len(packs) == len(plans(store)) == 5
  monkeypatch.setattr(packing, 'VERSION', packing.VERSION + 1)
  rows_of(store)
  assert len(packs) == len(plans(store)) == 6
  # Even where the files of another store are put beside these tokens.
  other = make_store(tmp_path / 'train-02', longest=29)
  for path in plans(store):
    path.rename(other.directory / path.name)
  rows_of(other)
  assert len(packs) == len(plans(other)) == 7


def test_single_examples_and_stores_in_memory_keep_nothing(packs, store):
  rows_of(store, max_segments=1)
  assert plans(store) == []
  in_memory = tokens.memory_store('t', 'train', [[5]] * COUNT, [[6]] * COUNT)
  for _ in range(2):
    rows_of(in_memory)
  assert len(packs) == 3


def test_the_oldest_of_many_plans_are_removed(packs, store, monkeypatch):
  monkeypatch.setattr(packing_plans, '_KEPT', 3)
  for seed in (5, 1, 4, 2):
    rows_of(store, seed=seed)
    for path in plans(store):  # as if time had passed
      os.utime(path, (0, path.stat().st_mtime - 10))
  assert len(plans(store)) == 3
  packs.clear()
  for seed in (1, 4, 2, 5):
    rows_of(store, seed=seed)
  assert packs == [5]


def test_a_damaged_plan_is_noticed_and_made_again(
  packs, store, caplog, monkeypatch
):
  monkeypatch.setattr(packing_plans.os, 'fsync', lambda _: None)  # is slow
  made = rows_of(store)
  (path,) = plans(store)
  whole = path.read_bytes()
  harmless = 0  # a date, or another field that nothing follows from
  for position in range(0, len(whole), 5):
    changed = bytearray(whole)
    changed[position] ^= 8
    path.write_bytes(changed)
    packs.clear()
    caplog.clear()
    assert rows_of(store) == made, position
    assert len(caplog.records) == len(packs)
    harmless += not packs
  assert harmless < len(whole) / 5 / 4
  for content in (b'', whole[:-1], whole[: len(whole) // 2], b'[]'):
    path.write_bytes(content)
    packs.clear()
    with caplog.at_level(logging.WARNING):
      assert rows_of(store) == made
    assert packs == [3]
    assert f'{path} are damaged' in caplog.text
    assert path.read_bytes() != content


def test_a_plan_that_lacks_an_array_is_made_again(packs, store):
  made = rows_of(store)
  (path,) = plans(store)
  np.savez(path, offsets=np.arange(3))
  assert rows_of(store) == made
  assert packs == [3, 3]


def test_a_directory_in_place_of_the_plan_is_no_end(store, caplog):
  caplog.set_level(logging.INFO)
  made = rows_of(store)
  (path,) = plans(store)
  path.unlink()
  path.mkdir()
  assert rows_of(store) == made
  assert 'are damaged' in caplog.text
  assert 'cannot be written' in caplog.text
  assert [p for p in store.directory.iterdir() if p.name[0] == '.'] == []


def test_a_store_that_cannot_be_written_is_packed_every_time(
  packs, store, caplog, monkeypatch
):
  def refuse(*_):
    raise PermissionError(13, 'Permission denied')

  caplog.set_level(logging.INFO)
  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'open', refuse)
    made = rows_of(store)
    assert rows_of(store) == made
  assert packs == [3, 3]
  assert 'cannot be written (Permission denied)' in caplog.text
  assert plans(store) == []


def test_plans_do_not_make_the_store_look_damaged(store):
  rows_of(store)
  manifest = token_files.read_manifest(store.directory)
  assert json.dumps(manifest['files'])


def test_an_example_longer_than_the_row_is_refused_by_its_task(store):
  with pytest.raises(UserError, match=r't/train: the inputs of example'):
    rows_of(store, row_lengths=(20, 9))
  assert plans(store) == []
