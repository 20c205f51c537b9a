#!/usr/bin/env bash
# Runs a command on a fresh Debian 12 that has only Python, make and git, to prove that nothing else is assumed.
#
#   sudo tools/fresh_machine.sh [--root TARBALL] [--keep] [--bind FOLDER]... [COMMAND]
#
# COMMAND (default: make setup) runs in a clone of this checkout's last commit. The root is made with mmdebstrap, or
# unpacked from TARBALL (made there when it does not exist yet, so that the next run is quick). Needs root, for chroot.
# The network is the host's. Certificates and package index settings come from the environment (PIP_*, NPM_CONFIG_*,
# SSL_CERT_FILE, ...) and the user's pip and npm files; --bind shows the root more folders, read-only.
set -euo pipefail

source_tree=$(cd "$(dirname "$0")/.." && pwd)
tarball="" keep="" binds=()
while [ $# -gt 0 ]; do
  case "$1" in
    --root) tarball=$2; shift 2 ;;
    --keep) keep=yes; shift ;;
    --bind) binds+=("$2"); shift 2 ;;
    --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) break ;;
  esac
done
command=${*:-make setup}
[ "$(id -u)" = 0 ] || { echo "fresh_machine: needs root, for chroot: sudo $0 ..." >&2; exit 1; }

machine=$(mktemp -d "${TMPDIR:-/tmp}/fresh-machine.XXXXXX")
clean_up() { # everything is mounted inside the private namespace, so there is nothing to unmount here
  if [ -n "$keep" ]; then echo "Kept: $machine" >&2; else rm -rf --one-file-system "$machine"; fi
}
trap clean_up EXIT

if [ -z "$tarball" ] || [ ! -f "$tarball" ]; then
  command -v mmdebstrap >/dev/null || { echo "fresh_machine: needs mmdebstrap: apt-get install mmdebstrap" >&2; exit 1; }
  made=${tarball:-$machine.tar}
  mmdebstrap --quiet --variant=minbase --include=python3,make,git bookworm "$made"
  tar -xf "$made" -C "$machine"
  [ -n "$tarball" ] || rm -f "$made"
else
  tar -xf "$tarball" -C "$machine"
fi

home=$machine/srv
git clone --quiet --no-hardlinks "$source_tree" "$home/lamplighter"
cp -L /etc/resolv.conf /etc/hosts "$machine/etc/"
for file in .npmrc .config/pip/pip.conf .pip/pip.conf; do
  [ -f "$HOME/$file" ] && install -D -m 600 "$HOME/$file" "$home/$file"
done
[ -f /etc/pip.conf ] && cp /etc/pip.conf "$machine/etc/"
# Twice, because installing ca-certificates inside makes the bundle anew from the certificates that it finds there.
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
if [ -f "$bundle" ]; then
  install -D -m 644 "$bundle" "$machine$bundle"
  install -D -m 644 "$bundle" "$machine/usr/local/share/ca-certificates/host.crt"
fi

settings=()
while IFS='=' read -r -d '' name value; do
  case "$name" in
    PIP_*|NPM_CONFIG_*|npm_config_*|SSL_CERT_FILE|NODE_EXTRA_CA_CERTS|REQUESTS_CA_BUNDLE|GIT_SSL_CAINFO|*_PROXY|*_proxy|CI)
      settings+=("$name=$value") ;;
  esac
done < <(env -0)

inside() {
  mount --make-rprivate /
  mount -t proc proc "$machine/proc"
  mount --rbind /dev "$machine/dev"
  mount -t tmpfs tmpfs "$machine/tmp"
  for folder in "${binds[@]}"; do
    mkdir -p "$machine$folder"
    mount --rbind -o ro "$folder" "$machine$folder"
  done
  exec chroot "$machine" /usr/bin/env -i HOME=/srv TERM="${TERM:-dumb}" LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${settings[@]}" \
    /bin/bash -c "cd /srv/lamplighter && $command"
}
export machine command
export -f inside
started=$(date +%s)
status=0
unshare --mount --pid --fork --kill-child -- /bin/bash -c "
  $(declare -p binds settings)
  inside" </dev/null || status=$?
echo "fresh_machine: \`$command\` exited $status after $(($(date +%s) - started)) s" >&2
exit "$status"
