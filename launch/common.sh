# shellcheck shell=bash
# shellcheck disable=SC2034  # the launchers read what is set here
#
# What the launchers and `on_host.sh` share; sourced, not run. A launcher sets
# the defaults of its flags, defines `usage` and `attempt`, and calls
# `parse_flags`, `make_logs` and `with_retries`.
#
# Exit codes, of a host and of a launcher, whose code is the worst of its hosts:
#   0    finished
#   1    a fault, with a traceback
#   2    a mistake of the user's; never repeated, and the worst of all
#   42   SIGTERM came, and the run is saved: start again to go on
#   128+ ended by a signal; 255: the connection is lost

set -euo pipefail

readonly SAVED=42 MISTAKE=2
LAUNCH_DIRECTORY=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$LAUNCH_DIRECTORY")

# The flags of every launcher.
retries=0
logs=
hypergrid=hypergrid
grace=60
dry_run=
environment=() # NAME=VALUE
command=()     # the arguments of hypergrid
stop_asked=

common_help() {
  cat <<TEXT
  --retries N        how often to repeat after a preemption or a lost host; the
                     run goes on from its checkpoint (default 0)
  --logs DIR         logs and exit codes (default launch_logs/TIME)
  --hypergrid PATH   the command on the hosts (default hypergrid)
  --env NAME=VALUE   set for hypergrid; may be repeated
  --grace SECONDS    how long the others may go on when a host has failed, and
                     all when they are told to stop (default $grace)
  --dry_run          print the commands, run none
  --help             this text

Exit code: the worst of the hosts. 0 finished, 2 a mistake (never repeated), 42
saved on SIGTERM (start again to go on), 1 or 128 and more a fault.
Ctrl-C or SIGTERM: all hosts save and end.
TEXT
}

note() {
  printf 'launch: %s\n' "$*" >&2
}

# Ends the launcher because of a mistake of the user's.
fail() {
  note "$*"
  exit "$MISTAKE"
}

# The arguments as a line of sh that gives back exactly them.
quote() {
  local argument line='' single="'\\''"
  for argument; do
    if [[ $argument =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      line+="$argument "
    else
      line+="'${argument//\'/"$single"}' "
    fi
  done
  printf '%s' "${line% }"
}

# parse_flags FLAGS SWITCHES ARGUMENT...: sets the variables named in FLAGS,
# which take a value, and SWITCHES, which take none; beside the common ones.
parse_flags() {
  local flags switches flag
  read -ra flags <<<"$1 retries logs hypergrid env grace"
  read -ra switches <<<"$2 dry_run"
  shift 2
  while (($#)); do
    flag=${1%%=*}
    flag=${flag#--}
    if [[ $1 == -- ]]; then
      shift
      command=("$@")
      break
    elif [[ $1 == --help || $1 == -h ]]; then
      usage
      exit 0
    elif [[ $1 == "--$flag" && " ${switches[*]} " == *" $flag "* ]]; then
      printf -v "$flag" yes
    elif [[ $1 != --* || " ${flags[*]} " != *" $flag "* ]]; then
      fail "$1: expected one of" \
        "$(printf -- '--%s ' "${flags[@]}" "${switches[@]}")and then --" \
        'and the arguments of hypergrid. See --help.'
    elif [[ $1 == *=* ]]; then
      set_flag "$flag" "${1#*=}"
    elif (($# > 1)); then
      set_flag "$flag" "$2"
      shift
    else
      fail "$1: expected a value."
    fi
    shift
  done
  ((${#command[@]})) || fail 'expected -- and the arguments of hypergrid, as' \
    'in -- train --gin_file=gin/runs/quickstart.gin. See --help.'
  whole_number retries 0
  whole_number grace 0
}

set_flag() {
  if [[ $1 == env ]]; then
    [[ $2 == [A-Za-z_]*=* ]] || fail "--env: got $2, expected NAME=VALUE."
    environment+=("$2")
  else
    printf -v "$1" '%s' "$2"
  fi
}

# whole_number FLAG LEAST
whole_number() {
  [[ ${!1} =~ ^[0-9]+$ && ${!1} -ge $2 ]] ||
    fail "--$1: got '${!1}', expected a whole number of at least $2."
}

# required FLAG...
required() {
  local flag
  for flag; do
    [[ ${!flag} ]] || fail "--$flag is missing. See --help."
  done
}

# need TOOL WHERE: the tool is there, or the message says where to get it.
need() {
  [[ $dry_run ]] || command -v "$1" >/dev/null || fail "$1 is not installed. $2"
}

# What hypergrid is given as --NAME VALUE or --NAME=VALUE.
argument_of() {
  local i found=
  for ((i = 0; i < ${#command[@]}; i++)); do
    case ${command[i]} in
      "--$1") found=${command[i + 1]-} ;;
      "--$1="*) found=${command[i]#*=} ;;
    esac
  done
  printf '%s' "$found"
}

make_logs() {
  if [[ $dry_run ]]; then
    logs=${logs:-LOGS}
    return
  fi
  logs=${logs:-launch_logs/$(date -u +%Y%m%d-%H%M%S)-$$}
  mkdir -p "$logs"
  logs=$(cd "$logs" && pwd)
  [[ ! -e $logs/attempt-1 ]] ||
    fail "--logs: $logs holds the logs of another launch. Choose another."
  note "logs and exit codes are in $logs"
}

# Prints a command in a dry run; otherwise notes it down and runs it.
run() {
  if [[ $dry_run ]]; then
    quote "$@"
    echo
  else
    note_down "$@"
    "$@"
  fi
}

note_down() {
  printf '%s\n' "$(quote "$@")" >>"$logs/commands.sh"
}

# Runs a command to its end. SIGTERM goes on to it; when it then exits with 0 it
# has saved but not finished, which schedulers must not take for success: 42.
run_forwarding() {
  local code child='' stopped='' interrupted
  trap 'stopped=yes interrupted=yes; stop_child' TERM INT
  "$@" &
  child=$!
  [[ ! $stopped ]] || stop_child
  while :; do
    interrupted='' code=0
    wait "$child" || code=$?
    [[ $interrupted ]] || break
  done
  if [[ $stopped && $code == 0 ]]; then
    code=$SAVED
  fi
  return "$code"
}

stop_child() {
  [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true
}

# start_host NAME COMMAND...: starts a host's command. Its log and exit code go
# into $directory.
start_host() {
  local name=$1
  shift
  if [[ $dry_run ]]; then
    run "$@"
    return
  fi
  note_down "$@"
  apart record_host "$directory/$name" "$@"
  hosts+=("$name")
  groups+=("$!")
}

record_host() {
  local file=$1 code=0
  shift
  set +m
  run_forwarding "$@" >"$file.log" 2>&1 || code=$?
  write_code "$file.exit" "$code"
}

# Starts a command in the background, in a process group of its own, so that
# Ctrl-C reaches the launcher alone.
apart() {
  set -m
  "$@" </dev/null &
  set +m
}

# write_code FILE CODE: the exit code of a host and when it came.
write_code() {
  printf '%s %s\n' "$2" "$(date +%s%N)" >"$1.new"
  mv "$1.new" "$1"
}

# Waits for the hosts that were started. When one has failed, the others get
# $grace seconds to end by themselves, and then $grace to save.
wait_for_hosts() {
  local deadline='' told='' name left failed
  while :; do
    left=0 failed=
    for name in "${hosts[@]}"; do
      if [[ ! -e $directory/$name.exit ]]; then
        left=$((left + 1))
      elif [[ $(<"$directory/$name.exit") != '0 '* ]]; then
        failed=$name
      fi
    done
    ((left)) || break
    if [[ $stop_asked && ! $told ]]; then
      note 'told to stop: the hosts save and end'
      tell_hosts
    elif [[ $failed && ! $deadline ]]; then
      deadline=$((SECONDS + grace))
    elif [[ $deadline ]] && ((SECONDS >= deadline)); then
      [[ $told ]] && kill_hosts && continue
      note "$failed has failed; the other hosts are told to stop"
      tell_hosts
    fi
    # A trap runs at once when the shell waits, and not while sleep does.
    sleep 0.2 &
    wait $! || true
  done
  wait "$watcher" || true
}

tell_hosts() {
  told=yes deadline=$((SECONDS + grace))
  stop_hosts
}

# Stops hosts on this machine; a launcher of others has its own.
stop_hosts() {
  local group
  for group in "${groups[@]}"; do
    kill -TERM "$group" 2>/dev/null || true
  done
}

# Comes before hosts are killed; for what runs on other machines.
kill_elsewhere() {
  :
}

# Kills what has not ended when it should.
kill_hosts() {
  local i
  kill_elsewhere
  for i in "${!hosts[@]}"; do
    if [[ ! -e $directory/${hosts[i]}.exit ]]; then
      kill -KILL -- "-${groups[i]}" 2>/dev/null || true
      write_code "$directory/${hosts[i]}.exit" 137
    fi
  done
}

# Copies the log of the first host to the terminal while it runs.
show_first_host() {
  touch "$directory/${hosts[0]}.log"
  tail -n +1 -s 0.2 -f --pid="${groups[0]}" "$directory/${hosts[0]}.log" &
  watcher=$!
}

# Sums up $directory: sets `worst`, and the code of the host that failed
# `first`.
summarise() {
  local file name code time first_name='' first_time=
  worst=0 first=0
  {
    for file in "$directory"/*.exit; do
      [[ -e $file ]] || break
      name=$(basename "$file" .exit)
      read -r code time <"$file"
      # Who asked for the end has what was wanted.
      [[ $stop_asked && $code == "$SAVED" ]] && code=0
      printf '%-28s exit code %s\n' "$name" "$code"
      if ((code == MISTAKE || (worst != MISTAKE && code > worst))); then
        worst=$code
      fi
      if ((code)) && [[ ! $first_time || $time -lt $first_time ]]; then
        first=$code first_name=$name first_time=$time
      fi
    done
    if [[ $first_name ]]; then
      printf '\nfirst to fail: %s, exit code %s; its log ends with:\n' \
        "$first_name" "$first"
      tail -n 20 "$directory/$first_name.log" 2>/dev/null | sed 's/^/  | /'
    fi
  } >"$directory/summary.txt"
  if ((worst)); then
    cat "$directory/summary.txt" >&2
  else
    note "all $(find "$directory" -name '*.exit' | wc -l) hosts have" \
      "${stop_asked:+saved or }finished"
  fi
}

# Whether a launch that ended in `worst` and `first` is worth repeating: only
# what happened to a host, not what the program did, goes away by itself.
retriable() {
  ((worst != MISTAKE)) && ((first == SAVED || first >= 128))
}

# Whether the hosts are gone, whatever their codes; a launcher may know better.
hosts_lost() {
  return 1
}

# Comes before the launcher ends.
clean_up() {
  :
}

# Runs `attempt`, again while that makes sense, and exits with the worst code.
with_retries() {
  local number
  trap 'stop_asked=yes' TERM INT
  for ((number = 1; ; number++)); do
    directory=$logs/attempt-$number hosts=() groups=()
    if [[ $dry_run ]]; then
      attempt
      clean_up
      exit 0
    fi
    mkdir -p "$directory"
    attempt
    summarise
    if [[ $stop_asked ]] || ((worst == 0)); then
      break
    elif ! hosts_lost && ! retriable; then
      break
    elif ((number > retries)); then
      note 'the same command goes on from the last checkpoint, and with' \
        "--retries=N by itself; this was attempt $number of $((retries + 1))"
      break
    fi
    note "attempt $((number + 1)) of $((retries + 1))"
  done
  clean_up
  exit "$worst"
}
