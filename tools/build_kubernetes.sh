#!/usr/bin/env bash
# Builds a real Kubernetes control plane (kube-apiserver, kube-controller-manager, kube-scheduler, v1.20.2) from Debian's source package, for the
# tests that ask a real API server (tests/cluster_lab). Needs apt with Debian bookworm's sources, root, 4 GB of disk and some minutes; nothing from
# elsewhere. Does nothing when the programs are there. Not for production: that version is long out of support.
#
# usage: tools/build_kubernetes.sh [--if-possible] [FOLDER]
#   FOLDER         default: lamplighter/kubernetes-1.20.2 in the user's cache folder
#   --if-possible  where it cannot be built, say so and end well: the tests then skip
set -euo pipefail

possible=1
if [ "${1:-}" = --if-possible ]; then
  possible=0
  shift
fi
version=1.20.2
programs=(kube-apiserver kube-controller-manager kube-scheduler)
out=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/lamplighter/kubernetes-$version}

say() { printf 'build_kubernetes: %s\n' "$*" >&2; }
fail() {
  say "$1"
  [ $# -lt 2 ] || say "  $2"
  exit 1
}

cannot() {
  say "$1"
  say "  $2"
  exit "$possible"
}

there() {
  local program
  for program in "${programs[@]}"; do
    [ -x "$out/$program" ] && [ "$("$out/$program" --version 2>/dev/null)" = "Kubernetes v$version" ] || return 1
  done
}

if there; then
  say "already in $out"
  command -v etcd >/dev/null || say "etcd is missing: apt-get install etcd-server"
  exit 0
fi

command -v apt-get >/dev/null || cannot "there is no apt-get: this builds on Debian bookworm" "elsewhere set LAMPLIGHTER_TEST_KUBECONFIG to any cluster of yours"
[ "$(id -u)" = 0 ] || cannot "must be root, to install a compiler" "sudo $0 $out"
# shellcheck source=/dev/null
. /etc/os-release
[ "${VERSION_CODENAME:-}" = bookworm ] || cannot "this is ${PRETTY_NAME:-no Debian}; only bookworm has kubernetes $version as a source package" \
  "elsewhere set LAMPLIGHTER_TEST_KUBECONFIG to any cluster of yours"

mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
free=$(df -Pk "$work" | awk 'NR == 2 {print int($4 / 1024)}')
[ "$free" -ge 4000 ] || fail "only $free MB are free below ${TMPDIR:-/tmp}; 4000 are needed" "set TMPDIR to a folder with more room"

say "1/4 compiler and etcd"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends golang-1.19-go make gcc libc6-dev rsync dpkg-dev etcd-server >"$work/apt.log" 2>&1 ||
  { cat "$work/apt.log" >&2; fail "apt-get could not install the compiler" "apt-get update, then again"; }

say "2/4 source"
# A view of apt's own with source entries, so that the machine's lists stay as they are.
mkdir -p "$work/lists/partial" "$work/sources"
for file in /etc/apt/sources.list.d/*.sources; do
  [ ! -e "$file" ] || sed 's/^Types:.*/Types: deb deb-src/' "$file" >"$work/sources/$(basename "$file")"
done
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [ ! -s "$file" ] || sed -n 's/^deb[[:space:]]\(.*\)/deb \1\ndeb-src \1/p' "$file" >"$work/sources/$(basename "$file")"
done
apt=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources" -o "Dir::State::lists=$work/lists")
apt-get "${apt[@]}" update >"$work/apt.log" 2>&1 || cannot "apt has no source packages here: $(tail -1 "$work/apt.log")" "elsewhere set LAMPLIGHTER_TEST_KUBECONFIG to any cluster of yours"
cd "$work"
apt-get "${apt[@]}" source --download-only "kubernetes" >"$work/apt.log" 2>&1 || { cat "$work/apt.log" >&2; fail "the source package kubernetes cannot be had"; }
archive=("$work"/kubernetes_*"$version".orig.tar.*) # Debian calls it 1.20.5+really1.20.2
[ -e "${archive[0]}" ] || fail "apt's source package is not version $version: $(find "$work" -maxdepth 1 -name 'kubernetes_*' -printf '%f ')"
mkdir source
tar -xf "${archive[0]}" -C source --strip-components=1
# Its own reflect2 1.0.1 crashes on writes of custom resources when built with Go >= 1.18; Debian has 1.0.2.
apt-get "${apt[@]}" download golang-github-modern-go-reflect2-dev >"$work/apt.log" 2>&1 || { cat "$work/apt.log" >&2; fail "reflect2 cannot be had"; }
dpkg -x golang-github-modern-go-reflect2-dev_*.deb reflect2
rm -rf source/vendor/github.com/modern-go/reflect2
cp -r reflect2/usr/share/gocode/src/github.com/modern-go/reflect2 source/vendor/github.com/modern-go/
rm -f source/vendor/github.com/modern-go/reflect2/go.mod

say "3/4 build, about 5 minutes on two cores"
cd source
export PATH=/usr/lib/go-1.19/bin:$PATH HOME=$work GOPATH=$work/source/.go GOCACHE=$work/go-cache CGO_ENABLED=0 FORCE_HOST_GO=y
export KUBE_GIT_VERSION=v$version KUBE_GIT_COMMIT=debian KUBE_GIT_TREE_STATE=clean KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20
mkdir -p .go/src/k8s.io
ln -s ../../.. .go/src/k8s.io/kubernetes
make GOFLAGS=-p=2 WHAT="${programs[*]/#/cmd/}" >"$work/build.log" 2>&1 || { tail -40 "$work/build.log" >&2; fail "the build failed"; }

say "4/4 install"
for program in "${programs[@]}"; do
  install -m 755 "_output/bin/$program" "$out/$program.new"
  mv "$out/$program.new" "$out/$program"
done
there || fail "what was built does not tell version $version"
say "done: $out"
