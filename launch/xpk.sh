#!/usr/bin/env bash
#
# A job of `hypergrid` on one slice or several of a GKE cluster, through xpk.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cluster=
workload=
type=
slices=1
image=
zone=
project=
storage=
poll=15
# Where launch/Dockerfile puts this directory.
readonly IN_IMAGE=/opt/hypergrid_jax/launch
readonly CONTAINER=jax-tpu

usage() {
  cat <<TEXT
Usage: launch/xpk.sh [FLAGS] -- ARGUMENTS of hypergrid

Runs hypergrid on TPU slices of a GKE cluster, and waits for its end. GKE itself
repeats the job after a preemption: it also goes on when this script is stopped
with kill -KILL or its connection is lost.

  --cluster NAME     of the cluster, made by 'xpk cluster create'
  --workload NAME    of the job; a new one each time
  --type TYPE        of each slice, such as v5litepod-256 or v5p-128
  --slices N         how many (default 1)
  --image IMAGE      made from launch/Dockerfile and pushed to a registry
  --zone ZONE, --project PROJECT   default: gcloud's configuration
  --storage NAME     made by 'xpk storage attach'; holds --model_dir
  --poll SECONDS     how often to look at the job (default 15)
$(common_help)

example:
  launch/xpk.sh --cluster my-cluster --workload hg-1 --type v5litepod-256 \\
    --slices 2 --image us-docker.pkg.dev/my-project/my-repo/hypergrid:1 \\
    --storage runs --retries 20 -- train \\
    --gin_file=gin/runs/glue_super_glue_base.gin \\
    --gin_file=gin/partitioning/v5e_256_x2.gin --model_dir=/runs/base
TEXT
}

parse_flags 'cluster workload type slices image zone project storage poll' '' \
  "$@"
required cluster workload type image
whole_number slices 1
whole_number poll 0
for argument in ${environment[@]+"${environment[@]}"} "${command[@]}"; do
  [[ $argument != *$'\n'* ]] ||
    fail "$(quote "$argument"): a line break does not pass through xpk."
done
need xpk "Get it with 'pip install xpk'."
need kubectl "Get it with 'gcloud components install kubectl'."
make_logs

where=()
[[ ! $zone ]] || where+=(--zone="$zone")
[[ ! $project ]] || where+=(--project="$project")

# xpk runs the command in a subshell and signals what it started: `exec` makes
# that on_host.sh. Kubernetes reads $$ in a command as $, and $(NAME) as a
# variable.
in_container() {
  local line
  line="exec bash $IN_IMAGE/on_host.sh run $(
    quote env ${environment[@]+"${environment[@]}"} "$hypergrid" "${command[@]}"
  )"
  printf '%s' "${line//\$/\$\$}"
}

submit() {
  local flags=()
  [[ ! $storage ]] || flags+=(--storage="$storage")
  run xpk workload create --workload="$workload" --cluster="$cluster" \
    --tpu-type="$type" --num-slices="$slices" --docker-image="$image" \
    --max-restarts="$retries" --termination-grace-period-seconds="$grace" \
    ${where[@]+"${where[@]}"} ${flags[@]+"${flags[@]}"} \
    --command="$(in_container)"
}

# shellcheck disable=SC2329  # `apart` calls it
delete() {
  run xpk workload delete --workload="$workload" --cluster="$cluster" --force \
    ${where[@]+"${where[@]}"}
}

# The conditions of the job that hold, such as Completed or Failed.
job_state() {
  local each='{.type}{"\n"}'
  kubectl get jobset "$workload" --output=jsonpath="$(
    printf '{range .status.conditions[?(@.status=="True")]}%s{end}' "$each"
  )"
}

# ATTEMPT NAME PHASE CODE of each host; every attempt has pods of its own.
pods() {
  local each='{.metadata.labels.jobset\.sigs\.k8s\.io/restart-attempt} '
  each+='{.metadata.name} {.status.phase} {.status.containerStatuses'
  each+="[?(@.name==\"$CONTAINER\")].state.terminated.exitCode}{\"\\n\"}"
  kubectl get pods --selector="xpk.google.com/workload=$workload" \
    --output=jsonpath="{range .items[*]}$each{end}"
}

# Follows the logs of new pods, and notes the codes of those that have ended.
collect() {
  local restart pod phase code
  while read -r restart pod phase code; do
    directory=$logs/attempt-$((restart + 1))
    mkdir -p "$directory"
    if [[ $phase != Pending && ! -e $directory/$pod.log ]]; then
      apart kubectl logs --follow --container="$CONTAINER" "$pod" \
        >"$directory/$pod.log" 2>&1
    fi
    if [[ $code && ! -e $directory/$pod.exit ]]; then
      write_code "$directory/$pod.exit" "$code"
    fi
  done < <(pods 2>>"$logs/kubectl.log" | sort -n || true)
}

# Waits for the job, or for its deletion when this script is told to stop.
watch_job() {
  local state='' deleting='' waited
  until [[ $state == *Completed* || $state == *Failed* ]]; do
    if [[ $stop_asked && ! $deleting ]]; then
      note 'told to stop: the hosts save and end, and the job is deleted'
      apart delete >>"$logs/xpk.log" 2>&1
      deleting=$!
    fi
    collect
    if [[ $deleting ]] && ! kill -0 "$deleting" 2>/dev/null; then
      break
    fi
    sleep "$poll" &
    wait $! || true
    state=$(job_state 2>>"$logs/kubectl.log") || true
  done
  collect
  # The logs end when the pods do.
  for ((waited = 0; waited < 10; waited++)); do
    [[ $(jobs -r) ]] || break
    sleep 1
  done
  summarise
  # A host may end between two looks.
  case $state in
    *Completed*) worst=0 ;;
    *Failed*) ((worst)) || worst=1 ;;
  esac
}

if [[ $dry_run ]]; then
  submit
  echo '# and then, again and again:'
  run kubectl get jobset "$workload"
  run kubectl get pods --selector="xpk.google.com/workload=$workload"
  run kubectl logs --follow --container="$CONTAINER" POD
  exit 0
fi

directory=$logs/attempt-1
mkdir -p "$directory"
trap 'stop_asked=yes' TERM INT
submit >"$logs/xpk.log" 2>&1 || {
  cat "$logs/xpk.log" >&2
  fail 'xpk has not created the job.'
}
note "job $workload is submitted"
watch_job
exit "$worst"
