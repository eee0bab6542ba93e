#!/usr/bin/env bash
#
# The batch script that slurm.sh submits; runs on the first node of the job.
#
#   slurm_job.sh [--dry_run] LAUNCH_DIRECTORY LOGS RETRIES GRACE COMMAND...
#
# SLURM sends it SIGTERM some time before the time is over; it also asks for a
# new start when a node was lost. A preempted job is started anew by SLURM.

if [[ $1 == --dry_run ]]; then
  rehearsal=yes
  shift
fi
# SLURM runs a copy of this script from a directory of its own.
# shellcheck source=launch/common.sh
source "$1/common.sh"
dry_run=${rehearsal-} logs=$2 retries=$3 grace=$4
shift 4
number=$((${SLURM_RESTART_COUNT:-0} + 1))
directory=$logs/attempt-$number

# --wait is for tasks that do not end when another has failed. None is killed at
# once, because it may be saving.
tasks=(srun --kill-on-bad-exit=0 --wait="$grace"
  --output="$directory/task-%t.log"
  bash "$LAUNCH_DIRECTORY/on_host.sh" record "$directory/task" "$@")
if [[ $dry_run ]]; then
  run "${tasks[@]}"
  exit 0
fi

mkdir -p "$directory"
# srun hands a SIGTERM on to all tasks.
note_down "${tasks[@]}"
run_forwarding "${tasks[@]}" || true
for ((task = 0; task < SLURM_NTASKS; task++)); do
  # A task without a code was killed, or its node was lost.
  [[ -e $directory/task-$task.exit ]] ||
    write_code "$directory/task-$task.exit" 137
done
summarise
if ((worst && number <= retries)) && retriable && [[ ! -e $logs/stop ]]; then
  run scontrol requeue "$SLURM_JOB_ID"
  exit "$worst"
fi
if [[ -e $logs/stop && $worst == "$SAVED" ]]; then
  worst=0
fi
write_code "$logs/exit" "$worst"
exit "$worst"
