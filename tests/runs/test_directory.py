"""A directory belongs to one run; another one is refused, never overwritten."""

import json

import pytest

from hypergrid_jax.errors import UserError
from hypergrid_jax.runs import directory as directory_lib

IDENTITY = {'seed': 3, 'task_ids': {'glue_cola': 0, 'glue_rte': 1}}


def start(directory, identity=IDENTITY, **options):
  aside = directory_lib.prepare(
    directory,
    lambda saved: [key for key in saved if saved[key] != identity[key]],
    **options,
  )
  directory_lib.write(
    directory, 'train.num_steps = 3\n', {'identity': identity}
  )
  return aside


def test_the_same_run_goes_on(tmp_path):
  start(tmp_path / 'run')
  assert start(tmp_path / 'run') is None
  facts = directory_lib.read_facts(tmp_path / 'run')
  assert facts['identity']['task_ids'] == {'glue_cola': 0, 'glue_rte': 1}


def test_another_run_is_refused_with_every_difference(tmp_path):
  start(tmp_path / 'run')
  before = (tmp_path / 'run/run.json').read_bytes()
  with pytest.raises(UserError) as error:
    start(tmp_path / 'run', {'seed': 4, 'task_ids': {}})
  message = str(error.value)
  assert 'holds another run. What differs:\n  seed\n  task_ids\n' in message
  assert '--fresh' in message
  assert (tmp_path / 'run/run.json').read_bytes() == before


def test_fresh_moves_the_old_run_aside_and_never_over_an_older_one(tmp_path):
  start(tmp_path / 'run')
  (tmp_path / 'run/mark').write_text('first')
  assert start(tmp_path / 'run', fresh=True) == tmp_path / 'run.old-1'
  assert start(tmp_path / 'run', fresh=True) == tmp_path / 'run.old-2'
  assert (tmp_path / 'run.old-1/mark').read_text() == 'first'


def test_fresh_keeps_the_tokens_that_it_may_use_again(tmp_path):
  start(tmp_path / 'run')
  (tmp_path / 'run/tokens').mkdir()
  (tmp_path / 'run/tokens/store').write_text('ids')
  start(tmp_path / 'run', fresh=True)
  assert (tmp_path / 'run/tokens/store').read_text() == 'ids'
  assert not (tmp_path / 'run.old-1/tokens').exists()
  assert (tmp_path / 'run.old-1/run.json').exists()


def test_fresh_in_an_empty_place_moves_nothing(tmp_path):
  assert start(tmp_path / 'run', fresh=True) is None


def test_a_directory_with_other_things_is_not_a_run(tmp_path):
  (tmp_path / 'tokens').mkdir()
  assert start(tmp_path) is None


@pytest.mark.parametrize('content', ['{"identity": ', '[]', '{}'])
def test_a_damaged_run_json_is_said_to_be_one(tmp_path, content):
  start(tmp_path)
  (tmp_path / 'run.json').write_text(content)
  with pytest.raises(UserError, match='run.json'):
    directory_lib.read_facts(tmp_path)


def test_no_run_and_no_directory(tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    directory_lib.read_facts(tmp_path / 'nowhere')
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='is a file'):
    start(tmp_path / 'file')


@pytest.mark.parametrize('name', ['gs://bucket/run', 's3://bucket'])
def test_an_address_is_no_directory(name):
  with pytest.raises(UserError, match=f'--token_dir={name}: .* Mount'):
    directory_lib.check_address('--token_dir', name)
  directory_lib.check_address('--token_dir', '/gcs/bucket/run')


def test_a_run_that_another_host_wrote_has_to_be_seen(tmp_path):
  start(tmp_path / 'there')
  start(tmp_path / 'here')
  written = directory_lib.digest(tmp_path / 'there')
  directory_lib.wait_for(tmp_path / 'there', written)
  (tmp_path / 'here/run.json').write_text('{}')
  for place in ('here', 'nowhere'):
    with pytest.raises(UserError, match=f'does not see .*{place}.* share'):
      directory_lib.wait_for(tmp_path / place, written, timeout_seconds=0.2)


def test_versions_name_what_results_depend_on():
  found = directory_lib.versions()
  assert set(found) >= {'python', 'jax', 'flax', 't5', 'seqio'}
  assert json.loads(json.dumps(found)) == found
