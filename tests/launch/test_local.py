"""Several processes on this machine; what all launchers have in common."""

import signal
import subprocess

import pytest

from tests.launch.stubs import ODD, interrupt, running, wait_until

# The process's own number, from its last flag.
RANK = 'rank=${!#}; rank=${rank#*=}\n'
# Saves on SIGTERM, as `hypergrid train` does.
SAVES = (
  'trap "echo saved $rank; exit 0" TERM; touch "$STUBS/up-$rank"\n'
  'for ((i = 0; i < 300; i++)); do sleep 0.1 & wait $!; done\n'
)


def test_every_process_gets_its_command(stubs):
  stubs.add('hypergrid', 'env >"$STUBS/env-${!#}"')
  done = stubs.launch(
    'local.sh', '--processes=3', '--devices', '5', '--port=7000', '--', *ODD
  )
  assert (done.returncode, done.stdout) == (0, '')
  connect = ['--coordinator=127.0.0.1:7000', '--num_processes=3']
  assert sorted(stubs.calls('hypergrid')) == [
    [*ODD, *connect, f'--process_id={rank}'] for rank in range(3)
  ]
  lines = (stubs.root / 'env---process_id=2').read_text().splitlines()
  assert 'JAX_PLATFORMS=cpu' in lines
  assert 'XLA_FLAGS=--xla_force_host_platform_device_count=5' in lines


def test_variables_reach_the_processes_and_flags_of_xla_stay(stubs):
  stubs.environment['XLA_FLAGS'] = '--xla_dump_to=here'
  stubs.add('hypergrid', 'echo "$ONE|$TWO|$XLA_FLAGS"')
  done = stubs.launch(
    'local.sh', '--processes=1', '--env', "ONE=a b'c", '--env=TWO=', '--', 'x'
  )
  assert done.stdout == (
    "a b'c||--xla_dump_to=here --xla_force_host_platform_device_count=4\n"
  )


def test_processes_meet_at_a_port_that_is_free(stubs):
  stubs.add('hypergrid')
  stubs.launch('local.sh', '--', 'train')
  one, other = stubs.calls('hypergrid')
  assert one[1] == other[1]
  assert one[1].startswith('--coordinator=127.0.0.1:')


def test_logs_and_codes_of_all_are_collected_and_the_worst_is_the_result(stubs):
  stubs.add(
    'hypergrid',
    RANK + 'echo "out $rank"; echo "err $rank" >&2\n'
    'case $rank in 1) sleep 0.4; exit 3 ;; 2) exit 1 ;; esac',
  )
  done = stubs.launch('local.sh', '--processes=3', '--retries=2', '--', 'train')
  assert done.returncode == 3
  assert stubs.codes() == {'process-0': 0, 'process-1': 3, 'process-2': 1}
  assert stubs.logs('attempt-1/*.log') == {
    f'attempt-1/process-{rank}.log': f'out {rank}\nerr {rank}\n'
    for rank in range(3)
  }
  assert 'first to fail: process-2, exit code 1;' in done.stderr
  assert '  | err 2\n' in done.stderr
  assert not stubs.codes(2)
  # The first process is also shown while it runs.
  assert done.stdout == 'out 0\nerr 0\n'


@pytest.mark.parametrize('code', [42, 134, 255])
def test_a_lost_host_is_a_reason_to_repeat(stubs, code):
  stubs.add(
    'hypergrid',
    RANK + '[[ $rank == 0 || -e $STUBS/second ]] && exit\n'
    f'touch "$STUBS/second"; exit {code}',
  )
  done = stubs.launch('local.sh', '--retries=5', '--', 'train')
  assert done.returncode == 0
  assert stubs.codes(1) == {'process-0': 0, 'process-1': code}
  assert stubs.codes(2) == {'process-0': 0, 'process-1': 0}
  assert not stubs.codes(3)


@pytest.mark.parametrize('code', [1, 2, 3])
def test_a_fault_or_a_mistake_is_none(stubs, code):
  stubs.add('hypergrid', f'exit {code}')
  done = stubs.launch('local.sh', '--retries=5', '--', 'train')
  assert done.returncode == code
  assert not stubs.codes(2)


def test_a_mistake_weighs_more_than_what_follows_from_it(stubs):
  stubs.add(
    'hypergrid', RANK + '((rank)) && sleep 0.3; exit $((rank ? 2 : 134))'
  )
  done = stubs.launch('local.sh', '--retries=5', '--', 'train')
  assert done.returncode == 2
  assert stubs.codes() == {'process-0': 134, 'process-1': 2}
  assert not stubs.codes(2)


def test_it_is_repeated_as_often_as_was_said(stubs):
  stubs.add('hypergrid', 'exit 137')
  done = stubs.launch('local.sh', '--retries=2', '--processes=1', '--', 'train')
  assert done.returncode == 137
  assert len(stubs.calls('hypergrid')) == 3
  assert stubs.codes(3) == {'process-0': 137}


@pytest.mark.parametrize('stop', ['Ctrl-C', 'SIGTERM'])
def test_all_processes_save_when_it_is_told_to_stop(stubs, stop):
  stubs.add('hypergrid', RANK + SAVES)
  process = stubs.start(
    'local.sh', '--retries=5', '--processes=3', '--', 'train'
  )
  wait_until(lambda: len(list(stubs.root.glob('up-*'))) == 3)
  if stop == 'Ctrl-C':
    interrupt(process)
  else:
    process.send_signal(signal.SIGTERM)
  process.communicate(timeout=30)
  assert process.returncode == 0
  assert stubs.codes() == {f'process-{rank}': 42 for rank in range(3)}
  assert stubs.logs('*/*.log') == {
    f'attempt-1/process-{rank}.log': f'saved {rank}\n' for rank in range(3)
  }
  assert not stubs.codes(2)


def test_the_others_are_stopped_when_one_has_failed(stubs):
  stubs.add('hypergrid', RANK + '((rank)) || exit 1\n' + SAVES)
  done = stubs.launch('local.sh', '--grace=1', '--', 'train')
  assert done.returncode == 42
  assert stubs.codes() == {'process-0': 1, 'process-1': 42}
  assert 'first to fail: process-0, exit code 1;' in done.stderr


def test_what_does_not_stop_is_killed(stubs):
  stubs.add(
    'hypergrid',
    RANK + '((rank)) || exit 1\ntrap "" TERM\necho $$ >"$STUBS/pid"\nsleep 30',
  )
  done = stubs.launch('local.sh', '--grace=1', '--', 'train')
  assert done.returncode == 137
  assert stubs.codes() == {'process-0': 1, 'process-1': 137}
  assert not running((stubs.root / 'pid').read_text().strip())


def test_a_dry_run_prints_the_commands_and_runs_none(stubs):
  done = stubs.launch('local.sh', '--dry_run', '--port=7000', '--', *ODD)
  assert done.returncode == 0
  lines = done.stdout.splitlines()
  assert len(lines) == 2
  assert not (stubs.root / 'logs').exists()
  # Printed so that a shell can run them.
  stubs.add('hypergrid')
  subprocess.run(['bash', '-c', lines[1]], env=stubs.environment, check=True)
  (call,) = stubs.calls('hypergrid')
  assert call[: len(ODD)] == list(ODD)
  assert call[-1] == '--process_id=1'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      ['--', 'train'],
      "hypergrid is not installed. Install with 'pip install .'",
    ),
    (
      ['--processes=0', '--', 'train'],
      "--processes: got '0', expected a whole",
    ),
    (
      ['--devices=two', '--', 'train'],
      "--devices: got 'two', expected a whole",
    ),
    (
      ['--proceses=2', '--', 'train'],
      '--proceses=2: expected one of --processes',
    ),
    (['train'], 'train: expected one of --processes --devices'),
    (['--port'], '--port: expected a value'),
    (['--env', 'x', '--', 'train'], '--env: got x, expected NAME=VALUE'),
    ([], 'expected -- and the arguments of hypergrid'),
    (['--'], 'expected -- and the arguments of hypergrid'),
  ],
)
def test_a_mistake_is_told_in_one_line(stubs, arguments, message):
  done = stubs.launch('local.sh', *arguments)
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith(f'launch: {message}')
  assert done.stderr.count('\n') == 1


def test_logs_of_another_launch_are_not_mixed_with_it(stubs):
  stubs.add('hypergrid')
  assert stubs.launch('local.sh', '--', 'train').returncode == 0
  done = stubs.launch('local.sh', '--', 'train')
  assert done.returncode == 2
  assert 'holds the logs of another launch' in done.stderr
