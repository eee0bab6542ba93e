#!/usr/bin/env bash
#
# What the launchers run on each host, around `hypergrid`.
#
#   on_host.sh run COMMAND...           forwards SIGTERM; what exits with 0 then
#                                       has saved but not finished: 42
#   on_host.sh record PREFIX COMMAND... the same, and notes the exit code in
#                                       PREFIX-$SLURM_PROCID.exit
#   on_host.sh follow ID COMMAND...     the same, detached: it outlives the
#                                       connection; prints its log to its end
#   on_host.sh stop ID                  sends SIGTERM to what `follow` started
#   on_host.sh kill ID                  ends it at once

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly JOBS=$HOME/.hypergrid_launch

record() {
  local file=$1-$SLURM_PROCID.exit code=0
  shift
  run_forwarding "$@" || code=$?
  write_code "$file" "$code"
  return "$code"
}

# A second `follow` with the same ID, which comes when a connection was lost,
# goes on watching what the first has started.
follow() {
  local job=$JOBS/$1 code
  shift
  # Where `set_up_host.sh` installs.
  export PATH=$HOME/hypergrid/bin:$PATH
  mkdir -p "$JOBS"
  if mkdir "$job" 2>/dev/null; then
    : >"$job/log"
    setsid bash "$0" job "$job" "$@" >>"$job/log" 2>&1 </dev/null &
    echo $! >"$job/pid.new"
    mv "$job/pid.new" "$job/pid"
  else
    echo 'launch: connected again; the log from its beginning:'
    until [[ -e $job/pid ]]; do sleep 0.1; done
  fi
  tail -n +1 -s 0.2 -f --pid="$(<"$job/pid")" "$job/log"
  # Without a code, it was killed, or the host was started anew.
  [[ -e $job/exit ]] || return 137
  read -r code _ <"$job/exit"
  return "$code"
}

# job DIRECTORY COMMAND...: the detached half of `follow`.
job() {
  local job=$1 code=0
  shift
  run_forwarding "$@" || code=$?
  write_code "$job/exit" "$code"
}

stop() {
  if [[ -e $JOBS/$1/pid ]]; then
    kill -TERM "$(<"$JOBS/$1/pid")" || true
  fi
}

verb=$1
shift
case $verb in
  kill) kill -KILL -- "-$(<"$JOBS/$1/pid")" ;;
  run) run_forwarding "$@" ;;
  record | follow | job | stop) "$verb" "$@" ;;
  *) exit 2 ;;
esac
