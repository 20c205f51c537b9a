"""What makes a cloud node a cluster of its own: k3s, its GPU as a resource, Liqo, as files and one script. Pure.

It travels in the node's assignment, which only that node can read, because user data has no room for it and should not: what is in user data
changes with Terraform, this with the keeper. The node's agent writes the files and runs the script as the stage `cluster`. Not responsible for
the mesh (there before k3s starts), nor for anything that is done in the cluster later (`peering`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from lamplighter.federation.install import CHART, REPOSITORY

K3S_VERSION = "v1.36.4+k3s1"
K3S_SHA256 = {
    "x86_64": ("k3s", "835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f"),
    "aarch64": ("k3s-arm64", "c920706346d5ad4e5cd3c7bf1bb09ce71ebe07fec829e513e40f1caf98aed8bb"),
}
"""Of `K3S_VERSION`, by architecture: the release's file and its SHA-256, as many independent public repositories state them alike."""
DEVICE_PLUGIN = "nvcr.io/nvidia/k8s-device-plugin:v0.18.2"
"""NVIDIA's plain device plugin: it boots faster than the whole GPU operator, and the driver is the image's."""
INTERFACE = "nebula1"
KUBECONFIG = "/etc/rancher/k3s/k3s.yaml"
_GIVEN = "/etc/lamplighter/cluster"
_PLUGIN = "lamplighter-ecr"
_DISABLED = ("traefik", "servicelb", "metrics-server")


@dataclass(frozen=True, slots=True)
class NodeCluster:
    """`name`: the cluster's id in the federation. `overlay`: the node's address in the mesh. `values`: of Liqo's chart. `gpus`: how many to wait for.

    `registry`: host of the account's own registry, from which the node may pull by its role; None: none.
    """

    name: str
    overlay: str
    values: Mapping[str, Any]
    liqo_version: str
    pod_cidr: str = "10.42.0.0/16"
    service_cidr: str = "10.43.0.0/16"
    api_port: int = 6443
    gpus: int = 1
    registry: str | None = None
    k3s_version: str = K3S_VERSION
    labels: Mapping[str, str] = field(default_factory=dict)


def render(cluster: NodeCluster) -> dict[str, Any]:
    """The assignment's `cluster`: `files`, texts by their paths on the node, and `script`, for bash."""
    files = {
        "/etc/rancher/k3s/config.yaml": _yaml(k3s_config(cluster)),
        "/etc/systemd/system/k3s.service": _unit(cluster),
        f"{_GIVEN}/manifests/lamplighter-liqo.yaml": _yaml(liqo_chart(cluster)),
    }
    if cluster.gpus:
        files[f"{_GIVEN}/manifests/lamplighter-device-plugin.yaml"] = _yaml(device_plugin())
    if cluster.registry is not None:
        files[f"{_GIVEN}/credentials/config.yaml"] = _yaml(credential_config(cluster.registry))
        files[f"{_GIVEN}/credentials/{_PLUGIN}"] = CREDENTIAL_PLUGIN
    return {"files": files, "script": _script(cluster)}


def k3s_config(cluster: NodeCluster) -> dict[str, Any]:
    """`/etc/rancher/k3s/config.yaml`. Every address is the mesh's: Liqo would take a public one for its gateway, and bypass the mesh."""
    settings: dict[str, Any] = {
        "node-name": cluster.name,
        "node-ip": cluster.overlay,
        "node-external-ip": cluster.overlay,
        "advertise-address": cluster.overlay,
        "tls-san": [cluster.overlay],
        "https-listen-port": cluster.api_port,
        "flannel-iface": INTERFACE,
        "cluster-cidr": cluster.pod_cidr,
        "service-cidr": cluster.service_cidr,
        "disable": list(_DISABLED),
        "write-kubeconfig-mode": "0600",
    }
    if cluster.gpus:
        settings["default-runtime"] = "nvidia"
    if cluster.labels:
        settings["node-label"] = [f"{key}={value}" for key, value in sorted(cluster.labels.items())]
    if cluster.registry is not None:
        settings["image-credential-provider-bin-dir"] = "/var/lib/rancher/credentialprovider/bin"
        settings["image-credential-provider-config"] = "/var/lib/rancher/credentialprovider/config.yaml"
    return settings


def liqo_chart(cluster: NodeCluster) -> dict[str, Any]:
    """For k3s's own Helm controller, which installs it as soon as the API server is up."""
    return {
        "apiVersion": "helm.cattle.io/v1",
        "kind": "HelmChart",
        "metadata": {"name": "liqo", "namespace": "kube-system"},
        "spec": {
            "repo": REPOSITORY,
            "chart": CHART,
            "version": cluster.liqo_version,
            "targetNamespace": "liqo",
            "createNamespace": True,
            "valuesContent": _yaml(cluster.values),
        },
    }


def device_plugin() -> dict[str, Any]:
    """Makes the GPU a resource that pods can ask for."""
    name = {"name": "nvidia-device-plugin"}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {**name, "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": name},
            "template": {
                "metadata": {"labels": name},
                "spec": {
                    "runtimeClassName": "nvidia",
                    "priorityClassName": "system-node-critical",
                    "automountServiceAccountToken": False,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [
                        {
                            **name,
                            "image": DEVICE_PLUGIN,
                            "env": [
                                {"name": "FAIL_ON_INIT_ERROR", "value": "true"},
                                {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
                                {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"},
                            ],
                            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                            "volumeMounts": [{"name": "plugins", "mountPath": "/var/lib/kubelet/device-plugins"}],
                        }
                    ],
                    "volumes": [{"name": "plugins", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}}],
                },
            },
        },
    }


def credential_config(registry: str) -> dict[str, Any]:
    """Tells the kubelet for which images to ask our plugin."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [
            {
                "name": _PLUGIN,
                "matchImages": [registry],
                "defaultCacheDuration": "6h",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            }
        ],
    }


CREDENTIAL_PLUGIN = '''#!/usr/bin/env python3
"""For the kubelet: the password of the account's own registry, by the node's role. The agent beside it knows how to ask AWS."""

import json
import sys

sys.path.insert(0, "/opt/lamplighter")
import agent

request = json.load(sys.stdin)
settings = agent.Settings.parse(json.loads(agent.CONFIG.read_text()))
aws = agent.Aws(settings, agent.Metadata(settings.url("metadata", agent.METADATA)))
answer = {
    "apiVersion": request["apiVersion"],
    "kind": "CredentialProviderResponse",
    "cacheKeyType": "Registry",
    "cacheDuration": "6h",
    "auth": {request["image"].partition("/")[0]: {"username": "AWS", "password": aws.registry_password()}},
}
json.dump(answer, sys.stdout)
'''


def _unit(cluster: NodeCluster) -> str:
    """Not before the mesh has its address: k3s takes what is there when it starts, and keeps it. It looks for NVIDIA's runtime then, too."""
    has_address = f"until ip -4 -o address show dev {INTERFACE} | grep -qF ' {cluster.overlay}/'; do sleep 0.2; done"
    return f"""[Unit]
Description=k3s, a cluster of this one node
After=network-online.target lamplighter-agent.service
Wants=network-online.target
[Service]
Type=notify
ExecStartPre=/bin/sh -c "{has_address}"
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/k3s server
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=2
[Install]
WantedBy=multi-user.target
"""


def _script(cluster: NodeCluster) -> str:
    sums = "".join(
        f"    {machine}) file={file} sum={digest if cluster.k3s_version == K3S_VERSION else ''} ;;\n"
        for machine, (file, digest) in K3S_SHA256.items()
    )
    release = f"https://github.com/k3s-io/k3s/releases/download/{cluster.k3s_version.replace('+', '%2B')}"
    return (
        _SCRIPT.replace("@VERSION@", cluster.k3s_version)
        .replace("@RELEASE@", release)
        .replace("@SUMS@", sums)
        .replace("@GPUS@", str(cluster.gpus))
        .replace("@GIVEN@", _GIVEN)
        .replace("@PLUGIN@", _PLUGIN)
    )


_SCRIPT = r"""#!/usr/bin/env bash
# Makes this machine a cluster: k3s, its GPU, Liqo. Run by the agent, which reads the end of the log when it fails. May be run again at any point.
set -Eeuo pipefail
umask 022
export LC_ALL=C HOME=/root PATH="${PATH:-}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
mkdir -p /var/log/lamplighter
exec >>/var/log/lamplighter/cluster.log 2>&1
data=/var/lib/rancher/k3s gpus=@GPUS@ name=files

agent() { python3 /opt/lamplighter/agent.py "$@"; }
kubectl() { k3s kubectl --request-timeout=10s "$@"; }

step() { # NAME COMMAND
  name=$1
  echo "$(date -u +%T) $name"
  agent step "$name" begin
  "$2"
  agent step "$name" end
}

within() { # SECONDS COMMAND...: until it succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    if [ "$SECONDS" -ge "$end" ]; then
      echo "$name: not within its time: $*"
      return 1
    fi
    sleep 0.5
  done
}

failed() { # what a person needs to see comes last
  trap - ERR
  case $name in
  k3s) journalctl -u k3s -n 15 --no-pager -o cat || true ;;
  gpu) kubectl -n kube-system get events --field-selector type=Warning -o 'custom-columns=:.message' --no-headers | tail -n 3 || true ;;
  liqo)
    kubectl -n kube-system logs job/helm-install-liqo --tail=5 || true
    kubectl -n liqo get events --field-selector type=Warning -o 'custom-columns=:.message' --no-headers | tail -n 3 || true
    ;;
  esac
  echo "$name failed in line $1 with status $2"
  exit 1
}
trap 'failed $LINENO $?' ERR

files() {
  local part
  if mountpoint -q /opt/dlami/nvme; then # images and pods' own space belong on the fast disk
    for part in rancher kubelet; do
      mkdir -p "/opt/dlami/nvme/$part" "/var/lib/$part"
      if ! mountpoint -q "/var/lib/$part"; then mount --bind "/opt/dlami/nvme/$part" "/var/lib/$part"; fi
    done
  fi
  mkdir -p "$data/server/manifests" "$data/agent/images"
  install -m 0600 @GIVEN@/manifests/* "$data/server/manifests/"
  if [ -d @GIVEN@/credentials ]; then
    install -D -m 0600 @GIVEN@/credentials/config.yaml /var/lib/rancher/credentialprovider/config.yaml
    install -D -m 0755 @GIVEN@/credentials/@PLUGIN@ /var/lib/rancher/credentialprovider/bin/@PLUGIN@
  fi
  if [ -d /opt/lamplighter/images ]; then cp -lf /opt/lamplighter/images/* "$data/agent/images/" || cp -f /opt/lamplighter/images/* "$data/agent/images/"; fi
}

download() {
  if [ "$(k3s --version 2>/dev/null | cut -d ' ' -f 3 | head -n 1)" = "@VERSION@" ]; then return; fi
  local file sum at=/opt/lamplighter/k3s.new
  case $(uname -m) in
@SUMS@    *)
      echo "k3s: not for $(uname -m)"
      return 1
      ;;
  esac
  curl -fsSL --retry 5 --retry-connrefused -m 300 -o "$at" "@RELEASE@/$file"
  if [ -z "$sum" ]; then # another version than the one that is pinned here: then as the release itself says
    local list=sha256sum-amd64.txt
    if [ "$file" = k3s-arm64 ]; then list=sha256sum-arm64.txt; fi
    sum=$(curl -fsSL --retry 5 -m 60 "@RELEASE@/$list" | awk -v file="$file" '$2 == file { print $1 }')
  fi
  echo "$sum  $at" | sha256sum -c
  chmod 0755 "$at"
  mv "$at" /usr/local/bin/k3s
}

start() {
  # Pods have no business with the node's role. In `raw`, before anything that Kubernetes writes; what the machine itself sends does not pass it.
  local rule=(PREROUTING -d 169.254.169.254 -j DROP)
  iptables -t raw -C "${rule[@]}" 2>/dev/null || iptables -t raw -I "${rule[@]}"
  systemctl daemon-reload
  systemctl start k3s
  within 120 kubectl wait --for=condition=Ready node --all --timeout=5s
}

enough() { # no number at all while the plugin is still to come
  local found
  found=$(kubectl get nodes -o 'jsonpath={.items[0].status.allocatable.nvidia\.com/gpu}')
  [ "${found:-0}" -ge "$gpus" ]
}

gpu() {
  if [ "$gpus" = 0 ]; then return; fi
  within 300 enough
}

liqo() {
  within 600 kubectl -n liqo rollout status deployment/liqo-controller-manager --timeout=5s
  within 300 kubectl -n liqo wait --for=condition=Available deployment --all --timeout=5s
}

step files files
step download download
step k3s start
step gpu gpu
step liqo liqo
echo "$(date -u +%T) ready"
"""


def _yaml(document: Mapping[str, Any]) -> str:
    """Round-tripped through JSON: what a person gave as a tuple or an address must not become a tag."""
    return yaml.safe_dump(json.loads(json.dumps(document, default=str)), sort_keys=False, width=160)
