"""Compiled programs are kept, and are the same programs."""

import json
import os

import jax
import pytest

from hypergrid_jax.parallel import compilation_cache
from tests.commands import Command

NAMES = (
  'jax_compilation_cache_dir',
  'jax_compilation_cache_max_size',
  'jax_enable_compilation_cache',
)


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
  """JAX's settings as of a user who has set none."""
  before = {name: getattr(jax.config, name) for name in NAMES}
  jax.config.update('jax_compilation_cache_dir', None)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_programs_go_into_the_users_cache(tmp_path):
  found = compilation_cache.turn_on()
  assert found.is_relative_to(tmp_path / 'cache' / 'hypergrid_jax')
  assert jax.config.jax_compilation_cache_dir == str(found)
  assert found.is_dir()


def test_without_one_it_is_in_the_home(tmp_path, monkeypatch):
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path))
  found = compilation_cache.turn_on()
  assert found.is_relative_to(tmp_path / '.cache')


def test_what_the_user_has_set_stays(tmp_path):
  jax.config.update('jax_compilation_cache_dir', '/elsewhere')
  assert compilation_cache.turn_on() is None
  assert jax.config.jax_compilation_cache_dir == '/elsewhere'


def test_it_can_be_switched_off(tmp_path):
  jax.config.update('jax_enable_compilation_cache', False)
  assert compilation_cache.turn_on() is None
  assert not (tmp_path / 'cache').exists()


def test_several_processes_on_cpus_keep_nothing(tmp_path, monkeypatch):
  jax.config.update('jax_compilation_cache_dir', '/elsewhere')
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert compilation_cache.turn_on() is None
  assert not jax.config.jax_enable_compilation_cache
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  jax.config.update('jax_enable_compilation_cache', True)
  jax.config.update('jax_compilation_cache_dir', None)
  assert compilation_cache.turn_on() is not None


def test_a_place_that_cannot_be_written_is_no_mistake(tmp_path):
  (tmp_path / 'cache').write_text('a file')
  assert compilation_cache.turn_on() is None
  assert jax.config.jax_compilation_cache_dir is None


def test_another_processor_has_programs_of_its_own(tmp_path, monkeypatch):
  facts = tmp_path / 'cpuinfo'
  monkeypatch.setattr(compilation_cache, '_CPU_FACTS', facts)
  names = set()
  for flags in ('flags : fpu avx2', 'flags : fpu avx2 avx512f', None):
    facts.write_text(f'processor : 0\n{flags}\n')
    if flags is None:
      facts.unlink()
    jax.config.update('jax_compilation_cache_dir', None)
    names.add(compilation_cache.turn_on().name)
  assert len(names) == 3


def test_a_second_run_compiles_nothing_and_has_the_same_bits(tmp_path):
  losses, programs = [], []
  for name in ('first', 'second'):
    ((code, _, messages),) = Command(
      'train',
      '--gin_file=gin/runs/quickstart.gin',
      f'--model_dir={tmp_path / name}',
      f'--token_dir={tmp_path / "tokens"}',
      'data.mixture=glue_rte',
      'train.num_steps=3',
      'train.log_period=1',
      'evaluate.limit=5',
      devices=1,
    ).wait()
    assert code == 0, messages
    lines = (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
    losses.append([json.loads(line)['loss'] for line in lines])
    kept = (tmp_path / 'cache').rglob('*-cache')
    programs.append({os.path.basename(path) for path in kept})
  assert losses[0] == losses[1]
  assert any(name.startswith('jit_step') for name in programs[0])
  assert programs[0] == programs[1]
