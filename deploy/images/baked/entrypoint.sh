#!/bin/sh
# Links the baked model into the folder where the engine looks for downloads, then becomes the engine: with-baked-model PROGRAM...
set -eu
models=${LAMPLIGHTER_MODELS:-/models}
for baked in /baked/models--*; do
  place=$models/${baked##*/}
  # What is there stays: a volume may hold another revision of the model, and the hub's layout keeps both apart only when it makes them itself.
  [ -e "$place" ] || ln -s "$baked" "$place"
done
exec "$@"
