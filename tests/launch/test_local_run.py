"""The real command through the launcher of this machine."""

import json
import sys

import pytest

from tests.launch.stubs import LAUNCH

# Enough to go the whole way, in a minute less than the file of the run.
SMALL = (
  'data.mixture=glue_rte',
  'T5Config.d_model=24',
  'T5Config.d_ff=32',
  'T5Config.num_layers=1',
  'T5Config.num_decoder_layers=1',
  'data.batch_size=8',
  'data.max_segments=3',
  'train.num_steps=3',
  'train.log_period=1',
  'evaluate.batch_size=8',
  'evaluate.limit=8',
  'evaluate.max_decode_length=6',
)
RUN = (
  'train',
  '--gin_file=gin/runs/quickstart.gin',
  '--gin_file=gin/partitioning/fsdp.gin',
  '--model_dir=run',
)


@pytest.fixture
def machine(stubs):
  """The command of this interpreter and checkout, on the PATH."""
  command = stubs.root / 'bin' / 'hypergrid'
  command.write_text(
    f'#!/bin/bash\nexec {sys.executable} -m hypergrid_jax "$@"\n'
  )
  command.chmod(0o755)
  stubs.environment['PYTHONPATH'] = str(LAUNCH.parent)
  return stubs


@pytest.mark.slow
def test_two_processes_of_four_devices_train_one_run(machine):
  done = machine.launch('local.sh', '--', *RUN, *SMALL, timeout=300)
  assert done.returncode == 0, done.stdout + done.stderr
  assert machine.codes() == {'process-0': 0, 'process-1': 0}
  lines = (machine.root / 'run' / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 2, 3]
  assert 'fsdp 8' in done.stdout
  assert 'average' in done.stdout


def test_what_it_refuses_is_not_repeated(machine):
  done = machine.launch('local.sh', '--retries=3', '--', *RUN, 'train.steps=3')
  assert done.returncode == 2
  assert machine.codes() == {'process-0': 2, 'process-1': 2}
  assert not machine.codes(2)
  assert 'num_steps' in done.stderr
