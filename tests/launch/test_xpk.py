"""A GKE job: its command, its pods' logs and codes, and how it ends."""

import subprocess

import pytest

from tests.launch.stubs import LAUNCH, ODD, interrupt, wait_until

JOB = ('--cluster=c', '--workload=w', '--type=v5litepod-256', '--image=i:1')
# Each look at the job advances it by a line of the test's file `story`:
# conditions of the job, a bar, and its pods.
KUBECTL = r"""
case "$*" in
  'get pods'*) head -n 1 "$STUBS/story" | sed 's/.*|//; s/; */\n/g' ;;
  'get jobset'*)
    sed -i 1d "$STUBS/story"
    head -n 1 "$STUBS/story" | sed 's/|.*//' ;;
  logs*) echo "log of ${!#}"; [[ ! -e $STUBS/logs_last ]] || sleep 1 ;;
esac
"""


@pytest.fixture
def cluster(stubs):
  (stubs.root / 'bin' / 'head').symlink_to('/usr/bin/head')
  stubs.add('xpk')
  stubs.add('kubectl', KUBECTL)
  return stubs


def launch(cluster, story, *arguments):
  (cluster.root / 'story').write_text('\n'.join(story) + '\n')
  return cluster.launch('xpk.sh', *JOB, '--poll=0', *arguments)


def decoded(command):
  """What Kubernetes makes of a command, and then the shell in the container."""
  assert '$' not in command.replace('$$', '')
  return command.replace('$$', '$')


def test_the_job_is_created_as_told(cluster):
  story = [
    '|0 a Running ; 0 b Pending ',
    'Completed|0 a Succeeded 0; 0 b Succeeded 0',
  ]
  done = launch(
    cluster,
    story,
    '--slices=2',
    '--retries=4',
    '--zone=z',
    '--project=p',
    '--storage=runs',
    '--',
    'train',
  )
  assert done.returncode == 0, done.stderr
  assert cluster.calls('xpk') == [
    [
      *('workload', 'create', '--workload=w', '--cluster=c'),
      *('--tpu-type=v5litepod-256', '--num-slices=2', '--docker-image=i:1'),
      *('--max-restarts=4', '--termination-grace-period-seconds=60'),
      *('--zone=z', '--project=p', '--storage=runs'),
      '--command=exec bash /opt/hypergrid_jax/launch/on_host.sh run env'
      ' hypergrid train',
    ]
  ]
  assert cluster.codes() == {'a': 0, 'b': 0}
  assert cluster.logs('attempt-1/*.log') == {
    'attempt-1/a.log': 'log of a\n',
    'attempt-1/b.log': 'log of b\n',
  }


def test_arguments_arrive_in_the_container_as_they_were(cluster):
  cluster.add('hypergrid', 'printf "%s\\0" "$ONE" >"$STUBS/one"')
  launch(cluster, ['|', 'Completed|'], '--env', "ONE=$HOME 'b", '--', *ODD)
  (call,) = cluster.calls('xpk')
  command = decoded(call[-1].removeprefix('--command='))
  there = command.replace('/opt/hypergrid_jax/launch', str(LAUNCH))
  # As xpk's container runs it.
  subprocess.run(
    ['bash', '-c', f'({there}) & wait $!'], env=cluster.environment, check=True
  )
  assert cluster.calls('hypergrid') == [list(ODD)]
  assert (cluster.root / 'one').read_text() == "$HOME 'b\0"


def test_a_preempted_host_that_has_saved_does_not_count_as_finished(cluster):
  cluster.add(
    'hypergrid',
    'trap "exit 0" TERM; touch "$STUBS/up"\n'
    'for ((i = 0; i < 300; i++)); do sleep 0.1 & wait $!; done\n',
  )
  launch(cluster, ['|', 'Completed|'], '--', 'train')
  (call,) = cluster.calls('xpk')
  command = decoded(call[-1].removeprefix('--command='))
  there = command.replace('/opt/hypergrid_jax/launch', str(LAUNCH))
  container = subprocess.Popen(
    # xpk signals what it started in the background.
    [
      'bash',
      '-c',
      f'trap "kill -TERM \\$!" TERM; ({there}) & wait $!; wait $!',
    ],
    env=cluster.environment,
  )
  wait_until((cluster.root / 'up').exists)
  container.terminate()
  assert container.wait(timeout=30) == 42


def test_every_attempt_of_the_job_has_its_logs(cluster):
  story = [
    '|0 a Running ; 0 b Running ',
    '|0 a Running ; 0 b Failed 137',
    '|1 c Running ; 1 d Running ',
    'Completed|1 c Succeeded 0; 1 d Succeeded 0',
  ]
  done = launch(cluster, story, '--retries=1', '--', 'train')
  assert done.returncode == 0
  assert cluster.codes(1) == {'b': 137}
  assert cluster.codes(2) == {'c': 0, 'd': 0}
  assert set(cluster.logs('*/*.log')) == {
    'attempt-1/a.log',
    'attempt-1/b.log',
    'attempt-2/c.log',
    'attempt-2/d.log',
  }


@pytest.mark.parametrize(
  ('pods', 'code'),
  [
    ('0 a Failed 2; 0 b Failed 134', 2),
    ('0 a Failed 1; 0 b Succeeded 0', 1),
    # A host that vanished leaves no code, but the job has failed.
    ('0 a Succeeded 0', 1),
  ],
)
def test_a_failed_job_ends_with_the_worst_code(cluster, pods, code):
  done = launch(cluster, ['|0 a Running ', f'Failed|{pods}'], '--', 'train')
  assert done.returncode == code


def test_the_job_is_deleted_when_it_is_told_to_stop(cluster):
  (cluster.root / 'story').write_text('|0 a Running \n' * 1000)
  cluster.add(
    'xpk', '[[ $2 != delete ]] || { touch "$STUBS/gone"; sleep 0.5; }'
  )
  process = cluster.start(
    'xpk.sh', *JOB, '--poll=0', '--project=p', '--', 'train'
  )
  wait_until(lambda: cluster.logs('attempt-1/a.log'))
  interrupt(process)
  process.communicate(timeout=30)
  assert process.returncode == 0
  assert cluster.calls('xpk')[1] == [
    *('workload', 'delete', '--workload=w', '--cluster=c', '--force'),
    '--project=p',
  ]


def test_a_job_that_xpk_refuses_is_a_mistake(cluster):
  cluster.add('xpk', 'echo "no cluster c"; exit 1')
  done = launch(cluster, ['|'], '--', 'train')
  assert done.returncode == 2
  assert done.stderr.endswith(
    'no cluster c\nlaunch: xpk has not created the job.\n'
  )


def test_a_line_break_is_refused_for_xpk_would_lose_it(cluster):
  done = launch(cluster, ['|'], '--', 'train', 'a\nb')
  assert done.returncode == 2
  assert "'a\nb': a line break does not pass through xpk." in done.stderr


def test_a_dry_run_needs_neither_xpk_nor_kubectl(stubs):
  done = stubs.launch('xpk.sh', *JOB, '--dry_run', '--', 'train')
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith('xpk workload create --workload=w --cluster=c ')


def test_without_xpk_it_says_where_to_get_it(stubs):
  done = stubs.launch('xpk.sh', *JOB, '--', 'train')
  assert done.returncode == 2
  assert "xpk is not installed. Get it with 'pip install xpk'." in done.stderr
