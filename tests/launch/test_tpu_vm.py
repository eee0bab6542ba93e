"""A TPU slice: created, set up, run on, and created anew after a preemption."""

import subprocess

import pytest

from tests.launch.stubs import ODD, interrupt, running, wait_until

# A cloud of one slice with two hosts, each a home directory, and its ssh. A
# test's own file `ssh` may end a connection.
GCLOUD = r"""
worker=; command=
for argument; do
  case $argument in
    --worker=*) worker=${argument#*=} ;;
    --command=*) command=${argument#*=} ;;
  esac
done
on_host() {
  (cd "$STUBS/host-$1" && HOME=$PWD WORKER=$1 bash -c "$command")
}
case "$*" in
  *'queued-resources create'*)
    mkdir -p "$STUBS/host-0" "$STUBS/host-1"
    echo ACTIVE >"$STUBS/queue"
    echo READY >"$STUBS/slice" ;;
  *'queued-resources delete'*)
    rm -rf "$STUBS/queue" "$STUBS/slice" "$STUBS"/host-* ;;
  *'queued-resources describe'*) cat "$STUBS/queue" ;;
  *'tpu-vm describe'*'value(state)'*) cat "$STUBS/slice" ;;
  *'value(networkEndpoints.len())'*) echo 2 ;;
  *'tpu-vm scp'*)
    for argument in "${@:5}"; do
      [[ -f $argument ]] || break
      for host in "$STUBS"/host-*; do cp "$argument" "$host"; done
    done
    # What it does is tested by itself.
    for host in "$STUBS"/host-*; do
      echo 'printf "%s " "$@" >>set_up; echo >>set_up' >"$host/set_up_host.sh"
    done ;;
  *'tpu-vm ssh'*)
    if [[ $worker == all ]]; then
      code=0
      on_host 0 || code=$?
      on_host 1 || code=$?
      exit "$code"
    fi
    for i in 1 2; do
      on_host "$worker" || { code=$?; ((code == 255)) && continue; exit $code; }
      exit 0
    done
    exit 255 ;;
esac
"""
SLICE = ('--name=hg', '--zone=z-a', '--type=v5litepod-16', '--poll=0')
TRAIN = ('train', '--model_dir=/mnt/hypergrid/x')
SAVES = (
  'trap "echo saved $WORKER; exit 0" TERM; touch "$STUBS/up-$WORKER"\n'
  'for ((i = 0; i < 300; i++)); do sleep 0.1 & wait $!; done\n'
)


@pytest.fixture
def cloud(stubs):
  stubs.add('gcloud', GCLOUD)
  stubs.add('hypergrid')
  # pip wheel --wheel-dir DIR SOURCE
  stubs.add('python3', 'mkdir -p "${@: -2:1}"; touch "${@: -2:1}/hg-1.whl"')
  return stubs


def asked(stubs):
  """What was asked of the cloud: two words of each call."""
  return [' '.join(call[2:4]) for call in stubs.calls('gcloud')]


def test_a_slice_is_created_set_up_used_and_deleted(cloud):
  done = cloud.launch(
    'tpu_vm.sh',
    *SLICE,
    '--project=p',
    '--spot',
    '--mount=gs://b',
    '--',
    *TRAIN,
  )
  assert done.returncode == 0, done.stderr
  assert asked(cloud) == [
    'queued-resources describe',
    'tpu-vm describe',
    'queued-resources create',
    'queued-resources describe',
    'tpu-vm describe',
    'tpu-vm scp',
    'tpu-vm ssh',
    'tpu-vm ssh',
    'tpu-vm describe',
    'tpu-vm ssh',
    'tpu-vm ssh',
    'queued-resources delete',
  ]
  calls = [call[2:] for call in cloud.calls('gcloud')]
  where = ['--zone=z-a', '--project=p']
  assert calls[2] == [
    *('queued-resources', 'create', 'hg', '--node-id=hg'),
    *('--accelerator-type=v5litepod-16',),
    *('--runtime-version=v2-alpha-tpuv5-lite', '--spot', '--quiet', *where),
  ]
  assert [call[-5:] for call in calls[6:8]] == [
    ['--worker=all', f'--command=bash set_up_host.sh {text}', '--quiet', *where]
    for text in ('install hg-1.whl', 'mount gs://b /mnt/hypergrid')
  ]
  assert calls[-1] == [
    *('queued-resources', 'delete', 'hg', '--force', '--quiet', *where),
  ]
  assert cloud.codes() == {'worker-0': 0, 'worker-1': 0}
  copied = [word.rpartition('/')[2] for word in calls[5][2:7]]
  assert copied == [
    *('common.sh', 'on_host.sh', 'set_up_host.sh', 'constraints.txt'),
    'hg-1.whl',
  ]


def test_arguments_and_variables_arrive_on_every_host_as_they_were(cloud):
  cloud.add('hypergrid', 'echo "$WORKER|$ONE"')
  done = cloud.launch('tpu_vm.sh', *SLICE, '--env', "ONE=a 'b", '--', *ODD)
  assert done.returncode == 0, done.stderr
  assert cloud.calls('hypergrid') == [list(ODD), list(ODD)]
  assert cloud.logs('attempt-1/worker*.log') == {
    f'attempt-1/worker-{i}.log': f"{i}|a 'b\n" for i in range(2)
  }


@pytest.mark.parametrize('code', [0, 1, 2, 137])
def test_a_preempted_slice_is_created_anew_and_the_run_goes_on(cloud, code):
  # Whatever the codes are: SIGTERM came, a partner was lost or did not come to
  # the start, all were killed.
  cloud.add(
    'hypergrid',
    'again=$STUBS/again-$WORKER; [[ -e $again ]] && exit; touch "$again"\n'
    'echo PREEMPTED >"$STUBS/slice"; echo SUSPENDED >"$STUBS/queue"\n'
    f'exit {code or 42}',
  )
  done = cloud.launch('tpu_vm.sh', *SLICE, '--retries=3', '--', 'train')
  assert done.returncode == 0, done.stderr
  assert cloud.codes(1) == dict.fromkeys(('worker-0', 'worker-1'), code or 42)
  assert cloud.codes(2) == {'worker-0': 0, 'worker-1': 0}
  assert asked(cloud).count('queued-resources create') == 2
  assert len(cloud.calls('python3')) == 1


@pytest.mark.parametrize('code', [1, 2])
def test_a_mistake_is_not_repeated_and_leaves_the_slice(cloud, code):
  cloud.add('hypergrid', f'echo no such file; exit {code}')
  done = cloud.launch('tpu_vm.sh', *SLICE, '--retries=3', '--', 'train')
  assert done.returncode == code
  assert 'queued-resources delete' not in asked(cloud)
  assert '  | no such file' in done.stderr
  assert 'queued-resources delete hg --force --zone=z-a' in done.stderr


def test_a_lost_host_of_a_healthy_slice_is_started_again(cloud):
  cloud.add(
    'hypergrid', '[[ -e $STUBS/again ]] && exit; touch "$STUBS/again"; exit 134'
  )
  done = cloud.launch('tpu_vm.sh', *SLICE, '--retries=1', '--', 'train')
  assert done.returncode == 0, done.stderr
  assert asked(cloud).count('queued-resources create') == 1


def test_a_lost_connection_is_taken_up_again(cloud):
  cloud.add('hypergrid', 'echo step 1; sleep 1; echo step 2')
  # The first connection to the second host breaks after a while.
  broken = (
    'if [[ $command == *follow* && $worker == 1 &&\n'
    '    ! -e $STUBS/broken ]]; then\n'
    '  touch "$STUBS/broken"\n'
    '  set -m; on_host 1 & sleep 0.5; { kill -- -$!; wait $!; } 2>/dev/null\n'
    '  on_host 1; exit\nfi\n'
  )
  cloud.add('gcloud', GCLOUD.replace('case "$*" in', broken + 'case "$*" in'))
  done = cloud.launch('tpu_vm.sh', *SLICE, '--', 'train')
  assert done.returncode == 0
  assert len(cloud.calls('hypergrid')) == 2
  (log,) = cloud.logs('attempt-1/worker-1.log').values()
  assert log.endswith('the log from its beginning:\nstep 1\nstep 2\n')


def test_all_hosts_save_when_it_is_told_to_stop(cloud):
  cloud.add('hypergrid', SAVES)
  process = cloud.start('tpu_vm.sh', *SLICE, '--retries=3', '--', 'train')
  wait_until(lambda: len(list(cloud.root.glob('up-*'))) == 2)
  interrupt(process)
  printed = process.communicate(timeout=30)[0]
  assert process.returncode == 0
  assert cloud.codes() == {'worker-0': 42, 'worker-1': 42}
  assert cloud.logs('attempt-1/worker*.log') == {
    f'attempt-1/worker-{i}.log': f'saved {i}\n' for i in range(2)
  }
  # It costs money, but who stops a run may want to go on.
  assert 'the slice is not deleted' in printed
  assert not cloud.codes(2)


def test_a_slice_that_is_there_is_used_and_left(cloud):
  cloud.launch('tpu_vm.sh', *SLICE, '--keep', '--', 'doctor')
  assert 'queued-resources delete' not in asked(cloud)
  done = cloud.launch('tpu_vm.sh', *SLICE, '--logs=again', '--', 'train')
  assert done.returncode == 0
  assert asked(cloud).count('queued-resources create') == 1
  assert 'queued-resources delete' not in asked(cloud)
  assert [call[0] for call in cloud.calls('hypergrid')] == [
    *['doctor'] * 2,
    *['train'] * 2,
  ]


def test_a_request_that_failed_is_made_anew(cloud):
  (cloud.root / 'queue').write_text('FAILED\n')
  done = cloud.launch('tpu_vm.sh', *SLICE, '--', 'train')
  assert done.returncode == 0
  changes = [text for text in asked(cloud) if 'describe' not in text]
  assert changes[:2] == ['queued-resources delete', 'queued-resources create']


def test_a_request_that_is_refused_is_made_three_times(cloud):
  cloud.add('gcloud', 'echo no quota >&2; exit 1')
  done = cloud.launch('tpu_vm.sh', *SLICE, '--retries=9', '--', 'train')
  assert done.returncode == 1
  assert asked(cloud).count('queued-resources create') == 3
  assert 'no quota' in done.stderr
  assert not cloud.calls('hypergrid')


def test_no_answer_of_the_cloud_is_no_reason_to_delete_a_slice(cloud):
  cloud.add(
    'hypergrid', '[[ -e $STUBS/again ]] && exit; touch "$STUBS/again"; exit 134'
  )
  cloud.add(
    'gcloud',
    'if [[ -e $STUBS/again && ! -e $STUBS/asked && $* == *describe* ]]; then\n'
    '  [[ $* == *queued* ]] && touch "$STUBS/asked"; exit 1\nfi\n' + GCLOUD,
  )
  done = cloud.launch(
    'tpu_vm.sh', *SLICE, '--keep', '--retries=1', '--', 'train'
  )
  assert done.returncode == 0
  assert asked(cloud).count('queued-resources create') == 1
  assert 'queued-resources delete' not in asked(cloud)


def test_what_does_not_stop_is_killed_on_its_host(cloud):
  cloud.add(
    'hypergrid',
    '((WORKER)) || exit 1\ntrap "" TERM\necho $$ >"$STUBS/pid"\nsleep 30',
  )
  done = cloud.launch('tpu_vm.sh', *SLICE, '--grace=1', '--', 'train')
  assert done.returncode == 137
  assert not running((cloud.root / 'pid').read_text().strip())


def test_a_failed_installation_is_a_fault_with_a_log(cloud):
  cloud.add(
    'gcloud',
    GCLOUD.replace(
      'on_host() {', 'on_host() {\n[[ $command == *install* ]] && exit 7\n'
    ),
  )
  done = cloud.launch('tpu_vm.sh', *SLICE, '--retries=2', '--', 'train')
  assert done.returncode == 7
  assert cloud.codes() == {'set-up': 7}
  assert not cloud.calls('hypergrid')


def test_a_dry_run_needs_no_gcloud_and_runs_nothing(stubs):
  done = stubs.launch(
    'tpu_vm.sh',
    *SLICE,
    '--dry_run',
    '--mount=nfs://10.0.0.2/share',
    '--',
    *TRAIN,
  )
  assert (done.returncode, done.stderr) == (0, '')
  lines = done.stdout.splitlines()
  assert [
    ' '.join(line.split()[2:5]) for line in lines if line[:6] == 'gcloud'
  ] == [
    'tpus queued-resources describe',
    'tpus queued-resources create',
    'tpus tpu-vm describe',
    'tpus tpu-vm scp',
    'tpus tpu-vm ssh',
    'tpus tpu-vm ssh',
    'tpus tpu-vm describe',
    'tpus tpu-vm ssh',
    'tpus queued-resources delete',
  ]
  assert not (stubs.root / 'LOGS').exists()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (SLICE, 'gcloud is not installed. Get it at https://cloud.google.com/sdk'),
    (('--name=hg', '--type=v4-8'), '--zone is missing.'),
    ((*SLICE, '--type=v9-1'), '--type: v9-1 is not known here. Give --runtime'),
    (
      (*SLICE, '--mount=bucket'),
      '--mount: got bucket, expected gs://BUCKET or',
    ),
    ((*SLICE, '--wheel=x.whl'), '--wheel: there is no file x.whl.'),
    (
      (*SLICE, '--mount=gs://b'),
      "--model_dir: got 'runs/x', which each host has for itself.",
    ),
  ],
)
def test_a_mistake_is_told_before_anything_is_asked_for(
  stubs, arguments, message
):
  done = stubs.launch(
    'tpu_vm.sh', *arguments, '--', 'train', '--model_dir=runs/x'
  )
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith(f'launch: {message}')


class TestSetUpHost:
  def test_a_bucket_is_mounted_once_and_without_cached_metadata(self, stubs):
    stubs.add('sudo')
    stubs.add('gcsfuse', 'touch "$STUBS/mounted"')
    stubs.add('mountpoint', '[[ -e $STUBS/mounted ]]')
    for _ in range(2):
      self.run(stubs, 'mount', 'gs://bucket/', '/mnt/x')
    assert stubs.calls('gcsfuse') == [
      [
        *('--implicit-dirs', '--metadata-cache-ttl-secs=0'),
        *('--metadata-cache-negative-ttl-secs=0', 'bucket', '/mnt/x'),
      ]
    ]

  def test_a_share_is_mounted(self, stubs):
    stubs.add('sudo')
    stubs.add('mountpoint', 'exit 1')
    self.run(stubs, 'mount', 'nfs://10.0.0.2/one/two', '/mnt/x')
    (call,) = (call for call in stubs.calls('sudo') if call[0] == 'mount')
    assert call[1:3] == ['-t', 'nfs']
    assert call[-2:] == ['10.0.0.2:/one/two', '/mnt/x']

  def test_a_wheel_is_installed_once_and_a_new_one_again(self, stubs):
    stubs.add('python3', MAKES_ENVIRONMENT)
    for content in ('one', 'one', 'two'):
      (stubs.root / 'constraints.txt').write_text('jax==1\n')
      (stubs.root / 'hg.whl').write_text(content)
      self.run(stubs, 'install', 'hg.whl')
    assert [call[1:3] for call in stubs.calls('python3')] == [
      ['pip', 'install'],
      ['uv', 'venv'],
    ] * 2
    assert (
      stubs.calls('python')
      == [
        ['-m', 'pip', 'install', '--quiet', '-c', 'constraints.txt', EXTRA],
        ['-m', 'hypergrid_jax.tasks.tensorflow_guard'],
      ]
      * 2
    )

  def run(self, stubs, *arguments):
    subprocess.run(
      stubs.command('set_up_host.sh', *arguments),
      check=True,
      cwd=stubs.root,
      env=stubs.environment,
    )


EXTRA = './hg.whl[tpu]'
MAKES_ENVIRONMENT = """
if [[ $2 == uv ]]; then
  at=${!#}; mkdir -p "$at/bin"; sed "s/[$][{]0##[*][/][}]/python/" "$0" |
    sed -n '1,/^mv/p' >"$at/bin/python"; chmod +x "$at/bin/python"
fi
"""
