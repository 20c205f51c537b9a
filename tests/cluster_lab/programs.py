"""Finds the control plane's programs, or the cluster that somebody lends to the tests. Where there is neither, tests skip and say why."""

import os
import shutil
from pathlib import Path

from platformdirs import user_cache_path

VERSION = "1.20.2"
NEEDED = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def folder() -> Path:
    """Where the programs are looked for: $LAMPLIGHTER_KUBERNETES_BIN, else the cache folder that tools/build_kubernetes.sh fills."""
    told = os.environ.get("LAMPLIGHTER_KUBERNETES_BIN")
    return Path(told) if told else user_cache_path("lamplighter") / f"kubernetes-{VERSION}"


def etcd() -> str | None:
    """The etcd on the PATH, or beside the programs."""
    return shutil.which("etcd") or shutil.which("etcd", path=str(folder()))


def lent() -> Path | None:
    """The kubeconfig of a cluster whose whole content the tests may use up."""
    told = os.environ.get("LAMPLIGHTER_TEST_KUBECONFIG")
    return Path(told) if told else None


def missing() -> str | None:
    """What a control plane of our own lacks on this machine, as a sentence; None when it can be started."""
    if etcd() is None:
        return "etcd is not installed (Debian: etcd-server)"
    lacking = [program for program in NEEDED if shutil.which(program, path=str(folder())) is None]
    if lacking:
        return f"{', '.join(lacking)} not in {folder()}: run tools/build_kubernetes.sh, or set LAMPLIGHTER_KUBERNETES_BIN or LAMPLIGHTER_TEST_KUBECONFIG"
    return None


__all__ = ["VERSION", "etcd", "folder", "lent", "missing"]
