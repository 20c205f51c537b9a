#!/bin/sh
# Puts the bundled model where Lamplighter looks for it, in the data folder, then becomes Lamplighter.
set -eu
data=${LAMPLIGHTER_DATA:-/var/lib/lamplighter}
before=
for word in "$@"; do
  [ "$before" != --data ] || data=$word
  before=$word
done
if [ "${1:-}" = up ]; then
  umask 077
  mkdir -p "$data/models/bundled"
  for model in /bundled/*.gguf; do
    [ -e "$data/models/bundled/${model##*/}" ] || ln -s "$model" "$data/models/bundled/"
  done
fi
exec lamplighter "$@"
