#!/usr/bin/env bash
# User data of a cloud node: from a bare image to one that can run an engine. The agent comes first, because it is what ends the machine;
# then each step, told with its time. May be run again at any point. Explained in docs/guides/node.md.
set -Eeuo pipefail
umask 077
export LC_ALL=C HOME=/root PATH="${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" DEBIAN_FRONTEND=noninteractive
log=/var/log/lamplighter run=/run/lamplighter opt=/opt/lamplighter models=/var/lib/lamplighter/models
mkdir -p /etc/lamplighter "$opt" "$log" "$run/steps" "$models"
exec > >(tee -a "$log/bootstrap.log") 2>&1

cat >/etc/lamplighter/node.json <<'NODE_JSON'
@NODE_JSON@
NODE_JSON
cat >"$opt/agent.new" <<'AGENT_PY'
@AGENT@
AGENT_PY
mv "$opt/agent.new" "$opt/agent.py"

agent() { python3 "$opt/agent.py" "$@"; }

start_agent() {
  if [ -d /run/systemd/system ]; then
    cat >/etc/systemd/system/lamplighter-agent.service <<'UNIT'
[Unit]
Description=Lamplighter: ends this machine when nobody renews its lease
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/env python3 /opt/lamplighter/agent.py run
Environment=HOME=/root
Restart=always
RestartSec=1
WatchdogSec=60
NotifyAccess=main
KillMode=process
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable lamplighter-agent
    systemctl start lamplighter-agent
  elif ! pgrep -f "$opt/agent.py run" >/dev/null; then
    setsid bash -c "until python3 $opt/agent.py run; do sleep 1; done" </dev/null >>"$log/agent.out" 2>&1 &
  fi
}

report() { # NAME STATE: a file that the agent reads
  local at=$EPOCHREALTIME
  printf '{"name":"%s","state":"%s","at":%s}' "$1" "$2" "$at" >"$run/step.new"
  mv "$run/step.new" "$run/steps/0${at/./}000.json"
}

step() { # NAME REASON COMMAND: REASON is the keeper's word for its failure
  name=$1 reason=$2
  echo "$(date -u +%T) $name"
  report "$name" begin
  "$3"
  report "$name" end
}

failed() { # the agent tells why and ends the node; where it cannot, this does
  trap - ERR
  agent step "$name" fail "line $1, status $2: $(tail -n 3 "$log/bootstrap.log" | tr '\n' ' ')" "$reason" || true
  setsid bash -c 'sleep 60; shutdown -h now' </dev/null >/dev/null 2>&1 &
  exit 1
}

install_nebula() {
  if command -v nebula; then return; fi
  local version=1.11.2 sum=6140d33f2ec21ce7f6b655b5bc820e93a684d97e51d0ddcf907324b5b28aac1e at=$opt/nebula.tar.gz
  curl -fsSL --retry 5 --retry-connrefused -m 120 -o "$at" \
    "https://github.com/slackhq/nebula/releases/download/v$version/nebula-linux-amd64.tar.gz"
  echo "$sum  $at" | sha256sum -c
  tar -xzf "$at" -C "$opt" nebula nebula-cert
  mv "$opt/nebula-cert" /usr/local/bin/
  mv "$opt/nebula" /usr/local/bin/ # last: the agent waits for it
}

prepare_runtime() {
  nvidia-smi -L
  if ! command -v docker; then
    apt-get -q update
    apt-get -qy install docker.io
  fi
  docker info >/dev/null 2>&1 || systemctl start docker
  if ! docker info --format '{{json .Runtimes}}' | grep -q nvidia; then
    nvidia-ctk runtime configure --runtime=docker
    systemctl restart docker
  fi
  # The engine has no business with the node's role.
  local rule=(DOCKER-USER -d 169.254.169.254 -j REJECT)
  iptables -C "${rule[@]}" 2>/dev/null || iptables -I "${rule[@]}" || echo "the engine can reach the metadata service"
}

mount_models() {
  if mountpoint -q "$models"; then return; fi
  local kind device='' id
  kind=$(agent get model_storage.kind)
  case $kind in
  volume)
    id=$(agent get model_storage.volume_id)
    device=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${id/-/}
    for _ in {1..20}; do # another node may be about to let go of it
      if [ -e "$device" ]; then break; fi
      agent attach "$id" || true
      sleep 1
    done
    if [ ! -e "$device" ]; then
      echo "the volume $id is not to be had: weights go to the node's own disk"
      device=
    fi
    ;;
  snapshot)
    for id in /dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol*; do
      if [[ $id != *-part* && $id != *_1 ]] && ! lsblk -no MOUNTPOINT "$id" | grep -q /; then device=$id; fi
    done
    ;;
  *)
    # The instance's own fast disk; but baked weights are on the image's.
    if mountpoint -q /opt/dlami/nvme && [ -z "$(ls -A "$models")" ] && [ "$(agent get mode)" != bake ]; then
      mkdir -p /opt/dlami/nvme/models
      mount --bind /opt/dlami/nvme/models "$models"
    fi
    ;;
  esac
  if [ -n "$device" ]; then
    if cmp -s -n 1048576 "$device" /dev/zero; then mkfs.ext4 -q -m 0 -L lamplighter "$device"; fi # only what is blank
    mount -o noatime "$device" "$models"
  fi
  if [ "$kind" = s3 ]; then
    aws s3 sync --only-show-errors "s3://$(agent get bucket)/$(agent get model_storage.bucket_prefix)" "$models"
  fi
}

bring_images() { agent bake; }

finish_bake() { # an image must carry nothing that was this machine's own
  report baked begin
  report baked end
  for _ in {1..60}; do
    if [ -e "$run/baked" ]; then break; fi
    sleep 1
  done
  [ -e "$run/baked" ]
  if [ -d /run/systemd/system ]; then systemctl disable lamplighter-agent; fi
  rm -rf /etc/lamplighter /etc/nebula /etc/systemd/system/lamplighter-agent.service /etc/ssh/ssh_host_* "$HOME/.docker" "$HOME/.ssh" \
    /var/lib/lamplighter/deadman.json "${log:?}"/*
  cloud-init clean --logs || true
  truncate -s 0 /etc/machine-id
  shutdown -h now
}

name=agent reason=provider_error
trap 'failed $LINENO $?' ERR
start_agent
step nebula download_failed install_nebula
step runtime engine_missing prepare_runtime
step storage provider_error mount_models
if [ "$(agent get mode)" = bake ]; then
  step images bad_image bring_images
  finish_bake
else
  touch "$run/runtime.ready" # now the agent may run the engine
fi
