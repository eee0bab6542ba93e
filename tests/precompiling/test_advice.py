"""Changes that make a training step fit: which, and in which order."""

import dataclasses

import pytest

from hypergrid_jax.precompiling import advice, measures, programs, topologies
from tests.precompiling import runs

GIB = 2**30


def names(run, devices=8):
  return [str(change) for change in advice.for_training(run, devices)]


def test_a_change_is_applied_and_written_as_on_the_command_line():
  run = runs.configured()
  change = advice.Change(
    (('T5Config.remat_policy', 'full'), ('train.microbatches', 4))
  )
  changed = change.apply(run)
  assert changed.model.remat_policy == 'full'
  assert changed.train.microbatches == 4
  assert str(change) == 'T5Config.remat_policy=full train.microbatches=4'
  assert runs.configured(*str(change).split()) == changed


def test_cheap_changes_come_first_and_combinations_last():
  found = names(runs.configured('mesh.data=8'))
  full = 'T5Config.remat_policy=full'
  assert found[:6] == [
    'T5Config.remat_policy=minimal',
    'train.microbatches=2',
    'train.microbatches=4',
    'mesh.data=1 mesh.fsdp=8 mesh.model=1',
    full,
    f'{full} train.microbatches=2',
  ]
  assert found[-1] == (
    f'mesh.data=1 mesh.fsdp=1 mesh.model=8 {full} train.microbatches=8'
  )
  assert len(set(found)) == len(found)


def test_what_is_already_so_is_not_proposed():
  found = names(
    runs.configured(
      'mesh.data=1',
      'mesh.fsdp=8',
      'T5Config.remat_policy=full',
      'train.microbatches=4',
    )
  )
  assert found[:3] == [
    'train.microbatches=8',
    'train.microbatches=16',
    'mesh.data=1 mesh.fsdp=4 mesh.model=2',
  ]
  assert not any('remat_policy' in name for name in found)
  assert 'mesh.data=1 mesh.fsdp=8 mesh.model=1' not in found


def test_the_sizes_of_slices_stay():
  found = names(runs.configured('mesh.slices=2', 'mesh.data=4'))
  assert 'mesh.data=1 mesh.fsdp=4 mesh.model=1' in found
  assert not any('fsdp=8' in name for name in found)


def test_decoding_takes_smaller_batches_then_other_meshes():
  run = runs.configured('mesh.data=4', 'mesh.model=2', 'evaluate.batch_size=12')
  found = list(advice.for_decoding(run, 8))
  assert [str(change) for change in found] == [
    'evaluate.batch_size=6',
    'evaluate.batch_size=3',
    'mesh.data=1 mesh.fsdp=4 mesh.model=2',
    'mesh.data=1 mesh.fsdp=2 mesh.model=4',
    'mesh.data=1 mesh.fsdp=1 mesh.model=8',
  ]
  assert found[0].apply(run).evaluate.batch_size == 6


@pytest.fixture
def pretended():
  """A chip of 1 MiB, and programs whose needs follow from the run."""
  tried = []

  def training(parts, topology):
    run = parts.run
    tried.append(run)
    policy = ('none', 'minimal', 'full').index(run.model.remat_policy)
    needed = 12 / (1 + policy) / run.train.microbatches
    if needed > 2:
      raise programs.DoesNotFitError(int(needed * GIB), 2 * GIB, 'too large')
    roofline = measures.Roofline(1 / run.train.microbatches, 0, 0, 0)
    return measures.Measures(
      {'all': int(needed * GIB)}, 2 * GIB, None, (), roofline, 0.0
    )

  chip = dataclasses.replace(topologies.CHIPS['v5e'], memory=2 * GIB)
  cpu = topologies.find('cpu')

  def find(run, chip=chip):
    reported = []
    found = advice.find(
      run,
      dataclasses.replace(cpu, chip=chip),
      changes=advice.for_training(run, 8),
      measure=training,
      report=reported.append,
    )
    return found, reported

  return find, chip, tried


def test_what_fits_was_compiled_and_the_fastest_comes_first(pretended):
  find, _, tried = pretended
  found, reported = find(runs.configured('mesh.data=4', 'mesh.model=2'))
  # 16 rows on 4 devices take parts of 2 and 4 only; 12 GiB / 3 / 2 fits.
  assert [str(one.change) for one in found] == [
    'T5Config.remat_policy=full train.microbatches=4',
    'T5Config.remat_policy=full train.microbatches=2',
  ]
  assert len(tried) == len(reported)
  assert [one.why_not for one in reported if one.measures is None][0] == (
    'needs 6.0 GiB'
  )


def test_what_cannot_hold_its_parameters_is_not_compiled(pretended):
  find, chip, tried = pretended
  tiny = dataclasses.replace(chip, memory=1000)
  found, reported = find(runs.configured('mesh.data=8'), tiny)
  assert found == []
  assert tried == []
  assert all('parameters alone' in one.why_not for one in reported)
