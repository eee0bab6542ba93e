#!/usr/bin/env bash
#
# Prepares a host; done already, it is not done again.
#
#   set_up_host.sh install WHEEL       hypergrid with the extra `tpu`, into
#                                      ~/hypergrid
#   set_up_host.sh mount WHAT WHERE    gs://BUCKET or nfs://SERVER/SHARE

set -euo pipefail

# TPU software versions come with Python 3.10; uv fetches a newer one. The
# packages are installed by pip, which the order of seqio's files depends on.
install() {
  local wheel=$1 at=$HOME/hypergrid stamp
  stamp=$(cat "$wheel" constraints.txt | sha256sum)
  if [[ -e $at/.installed && $(<"$at/.installed") == "$stamp" ]]; then
    return
  fi
  python3 -m pip install --quiet --user uv
  rm -rf "$at"
  python3 -m uv venv --quiet --seed --python 3.12 "$at"
  "$at/bin/python" -m pip install --quiet -c constraints.txt "./${wheel}[tpu]"
  "$at/bin/python" -m hypergrid_jax.tasks.tensorflow_guard
  echo "$stamp" >"$at/.installed"
}

mount_shared() {
  local what=$1 where=$2
  if mountpoint --quiet "$where"; then
    return
  fi
  sudo mkdir -p "$where"
  sudo chown "$(id -u):$(id -g)" "$where"
  case $what in
    gs://*) mount_bucket "${what#gs://}" "$where" ;;
    nfs://*) mount_nfs "${what#nfs://}" "$where" ;;
  esac
}

# Hosts see what the others write at once only without cached metadata.
mount_bucket() {
  local key=/usr/share/keyrings/cloud.google.asc
  if ! command -v gcsfuse >/dev/null; then
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg |
      sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt" \
      "gcsfuse-$(lsb_release -c -s) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -qq update
    sudo apt-get -qq install --yes gcsfuse
  fi
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
    --metadata-cache-negative-ttl-secs=0 "${1%/}" "$2"
}

mount_nfs() {
  sudo apt-get -qq update
  sudo apt-get -qq install --yes nfs-common
  sudo mount -t nfs -o hard,actimeo=0,lookupcache=none "${1%%/*}:/${1#*/}" "$2"
  sudo chown "$(id -u):$(id -g)" "$2"
}

case $1 in
  install) install "$2" ;;
  mount) mount_shared "$2" "$3" ;;
  *) exit 2 ;;
esac
