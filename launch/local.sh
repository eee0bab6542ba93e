#!/usr/bin/env bash
#
# Several processes of `hypergrid` on the CPUs of this machine, as if they were
# hosts: to try a run of many hosts before paying for them.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes=2
devices=4
port=

usage() {
  cat <<TEXT
Usage: launch/local.sh [FLAGS] -- ARGUMENTS of hypergrid

Runs hypergrid in several processes on the CPUs of this machine.

  --processes N      how many (default 2)
  --devices M        devices that each of them has (default 4)
  --port P           P and P+1 have to be free (default: two that are)
$(common_help)

example:
  launch/local.sh --processes 2 --devices 4 -- train \\
    --gin_file=gin/runs/quickstart.gin --model_dir=runs/local
TEXT
}

parse_flags 'processes devices port' '' "$@"
whole_number processes 1
whole_number devices 1
[[ ! $port ]] || whole_number port 1
need "$hypergrid" "Install with 'pip install .', or name it: --hypergrid PATH."
make_logs

listening() {
  (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Below the ports that Linux hands out by itself.
free_port() {
  local found
  while :; do
    found=$((20000 + RANDOM % 12000))
    if ! listening "$found" && ! listening $((found + 1)); then
      echo "$found"
      return
    fi
  done
}

attempt() {
  local i at flags
  at=127.0.0.1:${port:-$(free_port)}
  flags="${XLA_FLAGS-} --xla_force_host_platform_device_count=$devices"
  for ((i = 0; i < processes; i++)); do
    start_host "process-$i" env JAX_PLATFORMS=cpu "XLA_FLAGS=${flags# }" \
      ${environment[@]+"${environment[@]}"} "$hypergrid" "${command[@]}" \
      "--coordinator=$at" "--num_processes=$processes" "--process_id=$i"
  done
  [[ $dry_run ]] && return
  show_first_host
  wait_for_hosts
}

with_retries
