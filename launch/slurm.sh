#!/usr/bin/env bash
#
# A SLURM job of `hypergrid` on GPUs, one process for each; waits for its end.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1
gpus_per_node=8
cpus_per_gpu=
# shellcheck disable=SC2034  # read by their names, as all flags of sbatch
partition='' account=
time=
name=hypergrid
notice=120
poll=10
grace=300

usage() {
  cat <<TEXT
Usage: launch/slurm.sh [FLAGS] -- ARGUMENTS of hypergrid

Submits a job that runs hypergrid on all GPUs of its nodes, one process for
each, and waits for its end. Call it on a login node; --logs and --model_dir
have to be on a disk that all nodes share. The job repeats itself: it also goes
on when this script is stopped with kill -KILL or its connection is lost.

  --nodes N          how many (default 1)
  --gpus_per_node N  on each of them (default 8)
  --cpus_per_gpu N   default: the cluster's
  --partition NAME, --account NAME, --time LIMIT, --name NAME   as in sbatch
  --notice SECONDS   before the time is over, the run saves (default 120)
  --poll SECONDS     how often to look for the end of the job (default 10)
$(common_help)

example:
  launch/slurm.sh --nodes 2 --gpus_per_node 8 --partition gpu --time 24:00:00 \\
    --retries 5 --logs /shared/logs/base -- train \\
    --gin_file=gin/runs/glue_super_glue_base.gin --model_dir=/shared/runs/base
TEXT
}

own='nodes gpus_per_node cpus_per_gpu partition account time name notice poll'
parse_flags "$own" '' "$@"
whole_number nodes 1
whole_number gpus_per_node 1
whole_number notice 30
whole_number poll 0
[[ ! $cpus_per_gpu ]] || whole_number cpus_per_gpu 1
for tool in sbatch squeue scancel; do
  need "$tool" 'Call this script on a login node of a SLURM cluster.'
done
make_logs

((retries)) && requeue=--requeue || requeue=--no-requeue
flags=(--parsable "$requeue" --open-mode=append --job-name="$name"
  --nodes="$nodes" --ntasks="$((nodes * gpus_per_node))"
  --ntasks-per-node="$gpus_per_node"
  --gpus-per-node="$gpus_per_node" --signal="B:TERM@$notice"
  --output="$logs/job.log")
for flag in cpus_per_gpu partition account time; do
  [[ ! ${!flag} ]] || flags+=("--${flag//_/-}=${!flag}")
done

job=(sbatch "${flags[@]}" "$LAUNCH_DIRECTORY/slurm_job.sh" "$LAUNCH_DIRECTORY"
  "$logs" "$retries" "$grace"
  env ${environment[@]+"${environment[@]}"} "$hypergrid" "${command[@]}")
if [[ $dry_run ]]; then
  run "${job[@]}"
  echo '# and on the first node of the job:'
  SLURM_JOB_ID=JOB bash "${job[@]:${#flags[@]}+1:1}" --dry_run \
    "${job[@]:${#flags[@]}+2}"
  exit 0
fi

trap 'stop_asked=yes' TERM INT
id=$(run "${job[@]}")
id=${id%%;*}
note "job $id is submitted"

# A job that waits is cancelled; one that runs saves and ends.
stop_job() {
  note "told to stop: job $id saves and ends"
  touch "$logs/stop"
  run scancel --state=PENDING "$id" || true
  run scancel --signal=TERM --batch "$id" || true
}

told='' missed=0
until [[ -e $logs/exit ]]; do
  if [[ $stop_asked && ! $told ]]; then
    told=yes
    stop_job
  fi
  # SLURM may fail to answer once, and files may take time to be seen.
  listed=$(squeue --noheader --jobs="$id" --format=%T 2>/dev/null) || true
  [[ $listed ]] && missed=0 || missed=$((missed + 1))
  if ((missed == 3)); then
    note "job $id is no longer queued and has left no exit code; see" \
      "sacct --jobs=$id and $logs/job.log"
    [[ ! $told ]] || exit "$SAVED"
    exit 137
  fi
  sleep "$poll" &
  wait $! || true
done
read -r code _ <"$logs/exit"
cat "$logs"/attempt-*/summary.txt >&2
exit "$code"
