#!/usr/bin/env bash
#
# One run of `hypergrid` on all hosts of a Cloud TPU slice: creates the slice,
# installs, runs, watches, and creates it anew when it was preempted.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly MOUNT_POINT=/mnt/hypergrid

name=
zone=
project=
type=
runtime=
mount=
wheel=
poll=30
spot=
keep=

usage() {
  cat <<TEXT
Usage: launch/tpu_vm.sh [FLAGS] -- ARGUMENTS of hypergrid

Runs hypergrid on every host of a Cloud TPU slice. The slice is created when
there is none of that name, and deleted when the run is finished; after a
mistake or a fault it stays, and costs money, until you delete it.

  --name NAME        of the slice
  --zone ZONE        such as us-west4-a
  --project PROJECT  default: that of gcloud's configuration
  --type TYPE        such as v5litepod-16, v5p-128 or v6e-64
  --runtime VERSION  software of the hosts (default: what the type asks for)
  --spot             cheaper, and may be preempted: use --retries
  --keep             do not delete the slice at the end
  --mount WHAT       gs://BUCKET or nfs://SERVER/SHARE, seen by all hosts as
                     $MOUNT_POINT; --model_dir belongs there
  --wheel FILE       installed on the hosts (default: built from this checkout)
  --poll SECONDS     how often to ask for the state of the slice (default 30)
$(common_help)

example:
  launch/tpu_vm.sh --name hg --zone us-west4-a --type v5litepod-16 --spot \\
    --retries 20 --mount gs://my-bucket -- train \\
    --gin_file=gin/runs/glue_super_glue_base.gin \\
    --model_dir=$MOUNT_POINT/runs/base --token_dir=$MOUNT_POINT/tokens
TEXT
}

# The software that Google's table of TPU software versions names for a type.
runtime_of() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--type: $1 is not known here. Give --runtime too." ;;
  esac
}

parse_flags 'name zone project type runtime mount wheel poll' 'spot keep' "$@"
required name zone type
whole_number poll 0
runtime=${runtime:-$(runtime_of "$type")}
[[ ! $mount || $mount == gs://?* || $mount == nfs://?*/?* ]] ||
  fail "--mount: got $mount, expected gs://BUCKET or nfs://SERVER/SHARE."
model_dir=$(argument_of model_dir)
[[ ! $mount || $model_dir == "$MOUNT_POINT"/* ]] ||
  [[ ! $model_dir && ${command[0]} != train ]] ||
  fail "--model_dir: got '$model_dir', which each host has for itself. With" \
    "--mount, what all hosts see is below $MOUNT_POINT."
[[ ! $wheel || -f $wheel ]] || fail "--wheel: there is no file $wheel."
need gcloud 'Get it at https://cloud.google.com/sdk/docs/install.'
make_logs

where=(--zone="$zone")
[[ ! $project ]] || where+=(--project="$project")
created=
errors=$logs/gcloud.log
[[ ! $dry_run ]] || errors=/dev/stderr

gcloud_tpus() {
  run gcloud compute tpus "$@" "${where[@]}"
}

# The state of the slice's queued resource, and of the slice; empty: none.
queue_state() {
  gcloud_tpus queued-resources describe "$name" \
    --format='value(state.state)' 2>>"$errors" || true
}

slice_state() {
  gcloud_tpus tpu-vm describe "$name" \
    --format='value(state)' 2>>"$errors" || true
}

# Runs a command on one host, or on all of them with the worker `all`.
on_worker() {
  local worker=$1
  shift
  gcloud_tpus tpu-vm ssh "$name" --worker="$worker" --command="$*" --quiet
}

create() {
  local flags=()
  [[ ! $spot ]] || flags=(--spot)
  gcloud_tpus queued-resources create "$name" --node-id="$name" \
    --accelerator-type="$type" --runtime-version="$runtime" \
    ${flags[@]+"${flags[@]}"} --quiet && created=yes
}

delete() {
  gcloud_tpus queued-resources delete "$name" --force --quiet
}

# Waits until the slice is there; creates it when there is none. A quota of
# nothing refuses for good, a network only once.
await_slice() {
  local state refused=0
  while [[ ! $stop_asked ]]; do
    state=$(queue_state) || true
    if [[ $state == ACTIVE || ! $state ]] && [[ $(slice_state) == READY ]]; then
      note "slice $name is ready"
      return
    fi
    if [[ ! $state ]]; then
      create || refused=$((refused + 1))
    elif hosts_lost; then
      { delete && create; } || refused=$((refused + 1))
    fi
    ((refused < 3)) || exit 1
    note "slice $name: ${state:-asked for}"
    sleep "$poll" &
    wait $! || true
  done
}

build_wheel() {
  [[ ! $wheel ]] || return 0
  run python3 -m pip wheel --quiet --no-deps --wheel-dir "$logs/wheel" \
    "$ROOT"
  wheel=$(printf '%s\n' "$logs"/wheel/*.whl)
  [[ ! $dry_run ]] || wheel=$logs/wheel/WHEEL
}

set_up() {
  local files=("$LAUNCH_DIRECTORY"/{common,on_host,set_up_host}.sh
    "$ROOT/constraints.txt" "$wheel")
  gcloud_tpus tpu-vm scp "${files[@]}" "$name:" --worker=all --quiet || return
  on_worker all "bash set_up_host.sh install $(quote "${wheel##*/}")" || return
  [[ ! $mount ]] ||
    on_worker all "bash set_up_host.sh mount $(quote "$mount" "$MOUNT_POINT")"
}

count_hosts() {
  gcloud_tpus tpu-vm describe "$name" --format='value(networkEndpoints.len())'
}

attempt() {
  local i workers=1 code=0
  # Hosts take up again what has the same name.
  job=$name-$(date -u +%Y%m%d-%H%M%S)-$$-$number
  build_wheel
  if [[ $dry_run ]]; then
    queue_state
    create
    slice_state
    set_up
    count_hosts
    echo '# for every host:'
    start_worker 0
    return
  fi
  await_slice
  if [[ $stop_asked ]]; then
    write_code "$directory/set-up.exit" "$SAVED"
    return
  fi
  note 'installing on all hosts'
  { set_up && workers=$(count_hosts); } >"$directory/set-up.log" 2>&1 || code=$?
  if ((code)); then
    # 2 would be gcloud's mistake or the script's, not the run's.
    write_code "$directory/set-up.exit" $((code == MISTAKE ? 1 : code))
    return
  fi
  for ((i = 0; i < workers; i++)); do
    start_worker "$i"
  done
  show_first_host
  wait_for_hosts
}

start_worker() {
  local variables
  variables=$(quote ${environment[@]+"${environment[@]}"})
  start_host "worker-$1" gcloud compute tpus tpu-vm ssh "$name" \
    "${where[@]}" --worker="$1" --quiet --command="$(
      printf 'bash on_host.sh follow %s env %s%s' "$(quote "$job")" \
        "${variables:+$variables }" "$(quote "$hypergrid" "${command[@]}")"
    )"
}

stop_hosts() {
  on_worker all "bash on_host.sh stop $(quote "$job")" >>"$errors" 2>&1 || true
}

kill_elsewhere() {
  on_worker all "bash on_host.sh kill $(quote "$job")" >>"$errors" 2>&1 || true
}

# Whether Google says so; no answer is none.
hosts_lost() {
  [[ $(slice_state) =~ ^(PREEMPTED|TERMINATED|STOPPED)$ ||
    $(queue_state) =~ ^(SUSPENDING|SUSPENDED|FAILED)$ ]]
}

# Deletes the slice after success, and says how to otherwise.
clean_up() {
  if [[ $dry_run ]]; then
    [[ $keep ]] || delete
  elif [[ $created && ! $keep && ! $stop_asked ]] && ((worst == 0)); then
    delete
  else
    note 'the slice is not deleted, and costs money until you run:'
    note "gcloud compute tpus queued-resources delete $name --force" \
      "$(quote "${where[@]}")"
  fi
}

with_retries
