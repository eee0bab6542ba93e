"""A SLURM job: submitted, its tasks watched, saved when its time is over."""

import os
import signal

import pytest

from tests.launch.stubs import LAUNCH, ODD, interrupt, wait_until

JOB = ('--nodes=2', '--gpus_per_node=2', '--poll=0')
# A cluster that starts a job at once, and again when it asks for it.
SBATCH = r"""
for argument; do
  case $argument in
    --*) shift ;;
    *) break ;;
  esac
done
touch "$STUBS/batch"
echo 17
export SLURM_JOB_ID=17 SLURM_NTASKS=4
(
  cp "$1" "$STUBS/copy"; shift
  while :; do
    rm -f "$STUBS/requeued"
    bash "$STUBS/copy" "$@" &
    echo $! >"$STUBS/batch"
    wait $!
    [[ -e $STUBS/requeued ]] || break
    export SLURM_RESTART_COUNT=$((${SLURM_RESTART_COUNT-0} + 1))
  done
  rm "$STUBS/batch"
) >"$STUBS/job.log" 2>&1 &
"""
SRUN = r"""
while [[ $1 == --* ]]; do
  [[ $1 != --output=* ]] || output=${1#*=}
  shift
done
for ((i = 0; i < 4; i++)); do
  SLURM_PROCID=$i "$@" >"${output//%t/$i}" 2>&1 &
  tasks+=($!)
done
trap 'kill -TERM "${tasks[@]}"' TERM
for ((i = 0; i < 2; i++)); do wait; done
"""
SAVES = (
  'trap "echo saved; exit 0" TERM; touch "$STUBS/up-$SLURM_PROCID"\n'
  'for ((i = 0; i < 300; i++)); do sleep 0.1 & wait $!; done\n'
)


@pytest.fixture
def cluster(stubs):
  stubs.add('sbatch', SBATCH)
  stubs.add('srun', SRUN)
  stubs.add('squeue', '[[ ! -e $STUBS/batch ]] || echo RUNNING')
  stubs.add('scontrol', 'touch "$STUBS/requeued"')
  stubs.add(
    'scancel', '[[ $1 != --signal=* ]] || kill -TERM $(<"$STUBS/batch")'
  )
  stubs.add('hypergrid')
  return stubs


def tasks(*codes):
  return {f'task-{i}': code for i, code in enumerate(codes)}


def test_the_job_is_asked_for_as_told(cluster):
  done = cluster.launch(
    'slurm.sh',
    *JOB,
    '--partition=gpu',
    '--account=a',
    '--time=1-0',
    '--cpus_per_gpu=8',
    '--name=n',
    '--notice=90',
    '--',
    'train',
  )
  assert done.returncode == 0, done.stderr
  (call,) = cluster.calls('sbatch')
  assert call[: call.index('hypergrid')] == [
    *('--parsable', '--no-requeue', '--open-mode=append', '--job-name=n'),
    *('--nodes=2', '--ntasks=4', '--ntasks-per-node=2', '--gpus-per-node=2'),
    *('--signal=B:TERM@90', f'--output={cluster.root}/logs/job.log'),
    *('--cpus-per-gpu=8', '--partition=gpu', '--account=a', '--time=1-0'),
    *(str(path) for path in (LAUNCH / 'slurm_job.sh', LAUNCH)),
    *(f'{cluster.root}/logs', '0', '300', 'env'),
  ]
  assert cluster.codes() == tasks(0, 0, 0, 0)


def test_arguments_and_variables_arrive_as_they_were(cluster):
  cluster.add('hypergrid', 'echo "$SLURM_PROCID|$ONE"')
  done = cluster.launch('slurm.sh', *JOB, '--env', "ONE=a 'b", '--', *ODD)
  assert done.returncode == 0
  assert cluster.calls('hypergrid') == [list(ODD)] * 4
  assert cluster.logs('attempt-1/*.log') == {
    f'attempt-1/task-{i}.log': f"{i}|a 'b\n" for i in range(4)
  }


@pytest.mark.parametrize('code', [1, 2])
def test_a_fault_or_a_mistake_ends_the_job(cluster, code):
  cluster.add(
    'hypergrid', f'((SLURM_PROCID == 2)) || exit 0; echo why; exit {code}'
  )
  done = cluster.launch('slurm.sh', *JOB, '--retries=3', '--', 'train')
  assert done.returncode == code
  assert cluster.codes() == tasks(0, 0, code, 0)
  assert f'first to fail: task-2, exit code {code};' in done.stderr
  assert '  | why' in done.stderr
  assert not cluster.calls('scontrol')


def test_a_job_whose_time_is_over_saves_and_is_queued_again(cluster):
  # SLURM tells the batch script alone, some time before the end.
  over = 'if [[ ! -e $STUBS/over ]]; then\n' + SAVES + 'fi\nexit 0'
  cluster.add('hypergrid', over)
  process = cluster.start('slurm.sh', *JOB, '--retries=1', '--', 'train')
  wait_until(lambda: len(list(cluster.root.glob('up-*'))) == 4)
  (cluster.root / 'over').touch()
  kill(cluster)
  printed = process.communicate(timeout=30)[0]
  assert process.returncode == 0, printed
  assert cluster.codes(1) == tasks(42, 42, 42, 42)
  assert cluster.codes(2) == tasks(0, 0, 0, 0)
  assert cluster.calls('scontrol') == [['requeue', '17']]
  assert cluster.calls('sbatch')[0][1] == '--requeue'


def test_without_retries_it_ends_saved(cluster):
  cluster.add('hypergrid', SAVES)
  process = cluster.start('slurm.sh', *JOB, '--', 'train')
  wait_until(lambda: len(list(cluster.root.glob('up-*'))) == 4)
  kill(cluster)
  process.communicate(timeout=30)
  assert process.returncode == 42


def test_ctrl_c_saves_and_does_not_queue_again(cluster):
  cluster.add('hypergrid', SAVES)
  process = cluster.start('slurm.sh', *JOB, '--retries=3', '--', 'train')
  wait_until(lambda: len(list(cluster.root.glob('up-*'))) == 4)
  interrupt(process)
  process.communicate(timeout=30)
  assert process.returncode == 0
  assert cluster.codes() == tasks(42, 42, 42, 42)
  assert cluster.calls('scancel') == [
    ['--state=PENDING', '17'],
    ['--signal=TERM', '--batch', '17'],
  ]
  assert not cluster.calls('scontrol')


def test_a_task_without_a_code_was_lost(cluster):
  cluster.add('hypergrid', '((SLURM_PROCID)) || kill -KILL $PPID; exit 0')
  done = cluster.launch('slurm.sh', *JOB, '--', 'train')
  assert done.returncode == 137
  assert cluster.codes() == tasks(137, 0, 0, 0)


def test_a_job_that_vanishes_is_not_waited_for(cluster):
  cluster.add('sbatch', 'echo 17')
  done = cluster.launch('slurm.sh', *JOB, '--', 'train')
  assert done.returncode == 137
  assert 'sacct --jobs=17' in done.stderr


def test_a_dry_run_needs_no_slurm(stubs):
  done = stubs.launch('slurm.sh', *JOB, '--dry_run', '--', 'train', 'a b')
  assert (done.returncode, done.stderr) == (0, '')
  submit, _, step = done.stdout.splitlines()
  assert submit.startswith('sbatch --parsable ')
  assert step.startswith('srun --kill-on-bad-exit=0 --wait=300 --output=')
  assert step.endswith(" env hypergrid train 'a b'")


def test_without_slurm_it_says_where_to_call_it(stubs):
  done = stubs.launch('slurm.sh', *JOB, '--', 'train')
  assert done.returncode == 2
  assert done.stderr == (
    'launch: sbatch is not installed. Call this script on a login node of a'
    ' SLURM cluster.\n'
  )


def kill(cluster):
  os.kill(int((cluster.root / 'batch').read_text()), signal.SIGTERM)
