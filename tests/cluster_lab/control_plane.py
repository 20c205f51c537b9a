"""etcd, kube-apiserver (RBAC on), kube-controller-manager and kube-scheduler as real processes on free ports of loopback.

No kubelet: `lamplighter.testing.kubernetes.Kubelet` stands in for nodes. Everything ends with the test run, even when that is killed.
"""

import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from lamplighter.providers.kubernetes.client import Access
from tests.cluster_lab import programs
from tests.cluster_lab.pki import Authority

PATIENCE = 60.0
"""Seconds to wait for a program to serve; far above what it takes."""
_NAME = "lab"


class ControlPlane:
    """One control plane, its state in a temporary folder. `with ControlPlane() as cluster: cluster.access()`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lamplighter-cluster-"))
        self._pki = self.folder / "pki"
        self._ports = dict(zip(("etcd", "peers", "api", "controllers", "scheduler"), _free_ports(5), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._http: httpx.Client | None = None
        # The kernel ends a child with the *thread* that started it: one thread, as long-lived as this object, starts all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="control-plane")

    # ---- its life

    def start(self) -> Self:
        """Start all of it and wait until it works."""
        self._pki.mkdir(mode=0o700)
        authority = Authority(self._pki)
        authority.sign(
            "server", "kube-apiserver", addresses=("127.0.0.1", "10.96.0.1"), hosts=("localhost", "kubernetes.default.svc")
        )
        authority.sign("admin", "admin", "system:masters")
        authority.sign("controllers", "system:kube-controller-manager")
        authority.sign("scheduler", "system:kube-scheduler")
        authority.key_pair("accounts")
        for user in ("admin", "controllers", "scheduler"):
            file = self.folder / f"{user}.kubeconfig"
            file.touch(mode=0o600)
            file.write_text(
                yaml.safe_dump(
                    self._config(
                        {"client-certificate": str(self._pki / f"{user}.crt"), "client-key": str(self._pki / f"{user}.key")}
                    )
                )
            )
        self._start_etcd()
        self.start_api()
        self._start_others()
        self._until(self._has_accounts, "the controllers work", "controllers")
        return self

    def stop(self) -> None:
        """End all of it and delete its state."""
        if self._http is not None:
            self._http.close()
            self._http = None
        for name in ("scheduler", "controllers", "api", "etcd"):
            self._end(name)
        self._starter.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_etcd(self) -> None:
        url = f"http://127.0.0.1:{self._ports['etcd']}"
        program = programs.etcd()
        assert program is not None
        self._run(
            "etcd", program, "--data-dir", self.folder / "etcd", "--listen-client-urls", url, "--advertise-client-urls", url,
            "--listen-peer-urls", f"http://127.0.0.1:{self._ports['peers']}", "--unsafe-no-fsync", "--logger", "zap",
        )  # fmt: skip
        self._until(lambda: httpx.get(f"{url}/health", timeout=2).json()["health"] == "true", "etcd serves", "etcd")

    def start_api(self) -> None:
        """Start the API server (again), on the same port and with the same state."""
        pki = self._pki
        self._run(
            "api", self._program("kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{self._ports['etcd']}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={self._ports['api']}",
            f"--cert-dir={self.folder / 'certificates'}", f"--tls-cert-file={pki / 'server.crt'}", f"--tls-private-key-file={pki / 'server.key'}",
            f"--client-ca-file={pki / 'ca.crt'}", f"--service-account-key-file={pki / 'accounts.pub'}",
            f"--service-account-signing-key-file={pki / 'accounts.key'}", "--service-account-issuer=https://kubernetes.default.svc",
            f"--kubelet-client-certificate={pki / 'admin.crt'}", f"--kubelet-client-key={pki / 'admin.key'}",
            "--kubelet-preferred-address-types=InternalIP", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            "--service-cluster-ip-range=10.96.0.0/16", "--enable-admission-plugins=NodeRestriction", "--endpoint-reconciler-type=none",
        )  # fmt: skip
        self._until(lambda: self.http.get("/readyz").text == "ok", "the API server is ready", "api")

    def stop_api(self, *, kill: bool = False) -> None:
        """End the API server alone, in order or by `kill -9`: what a client sees of a failing control plane."""
        self._end("api", kill=kill)

    def restart_api(self, *, away: float = 0.0, kill: bool = False) -> None:
        """End it, wait `away` seconds, start it again.

        Controllers and scheduler begin anew with it: left alone they wait ever longer between two tries, and the next test would wait with them.
        """
        self.stop_api(kill=kill)
        time.sleep(away)
        self.start_api()
        for name in ("scheduler", "controllers"):
            self._end(name)
        self._start_others()
        space = f"after-restart-{time.monotonic_ns()}"
        self.http.post("/api/v1/namespaces", json={"metadata": {"name": space}}).raise_for_status()
        self._until(lambda: self._has_accounts(space), "the controllers work again", "controllers")
        self.http.delete(f"/api/v1/namespaces/{space}").raise_for_status()

    def compact(self) -> None:
        """Forget all history in etcd and in the API server's caches: older versions are answered 410."""
        url = f"http://127.0.0.1:{self._ports['etcd']}/v3"
        revision = httpx.post(f"{url}/maintenance/status", json={}, timeout=10).raise_for_status().json()["header"]["revision"]
        httpx.post(f"{url}/kv/compaction", json={"revision": revision, "physical": True}, timeout=30).raise_for_status()
        self.restart_api()

    def _start_others(self) -> None:
        for name, program, *more in (
            ("controllers", "kube-controller-manager", "--use-service-account-credentials", f"--service-account-private-key-file={self._pki / 'accounts.key'}",
             f"--root-ca-file={self._pki / 'ca.crt'}", "--horizontal-pod-autoscaler-sync-period=5s"),
            ("scheduler", "kube-scheduler"),
        ):  # fmt: skip
            file = self.folder / f"{name}.kubeconfig"
            self._run(
                name, self._program(program), f"--kubeconfig={file}", f"--authentication-kubeconfig={file}", f"--authorization-kubeconfig={file}",
                "--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={self._ports[name]}", "--port=0",
                f"--cert-dir={self.folder / 'certificates'}", *more,
            )  # fmt: skip

    def _has_accounts(self, namespace: str = "default") -> bool:
        """The controllers made the account that every pod needs."""
        return self.http.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default").status_code == 200

    @staticmethod
    def _program(name: str) -> str:
        found = shutil.which(name, path=str(programs.folder()))
        assert found is not None
        return found

    def _run(self, name: str, *command: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = self._starter.submit(
                subprocess.Popen,
                ["setpriv", "--pdeathsig=KILL", *map(str, command)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.folder,
                env={**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64", "HOME": str(self.folder)},
            ).result()  # fmt: skip

    def _end(self, name: str, *, kill: bool = False) -> None:
        process = self._processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # an API server waits for its watches
            process.kill()
            process.wait(10)

    def log(self, name: str) -> str:
        """The end of what `etcd`, `api`, `controllers` or `scheduler` wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def _until(self, look: Any, what: str, name: str) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(httpx.HTTPError, OSError, ValueError, KeyError):
                if look():
                    return
            assert self._processes[name].poll() is None, f"{name} ended:\n{self.log(name)}"
            assert time.monotonic() < end, f"waited {PATIENCE:g} s in vain: {what}\n{self.log(name)}"
            time.sleep(0.1)

    # ---- how to reach it

    @property
    def url(self) -> str:
        """The API server's URL."""
        return f"https://127.0.0.1:{self._ports['api']}"

    @property
    def http(self) -> httpx.Client:
        """A plain client of the administrator's, for looking and arranging."""
        if self._http is None:
            import ssl

            context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
            context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")
            self._http = httpx.Client(base_url=self.url, verify=context, timeout=15)
        return self._http

    def _config(self, user: Mapping[str, Any], namespace: str = "default") -> dict[str, Any]:
        authority = base64.b64encode((self._pki / "ca.crt").read_bytes()).decode()
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": _NAME, "preferences": {},
            "clusters": [{"name": _NAME, "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": _NAME, "user": dict(user)}],
            "contexts": [{"name": _NAME, "context": {"cluster": _NAME, "user": _NAME, "namespace": namespace}}],
        }  # fmt: skip

    def kubeconfig(self, token: str | None = None, namespace: str = "default") -> dict[str, Any]:
        """A kubeconfig as data: of the administrator, or of whoever has `token`."""
        if token is not None:
            return self._config({"token": token}, namespace)
        data = {f"{key}-data": base64.b64encode((self._pki / file).read_bytes()).decode()
                for key, file in (("client-certificate", "admin.crt"), ("client-key", "admin.key"))}  # fmt: skip
        return self._config(data, namespace)

    def write_kubeconfig(self, path: Path, token: str | None = None, namespace: str = "default") -> Path:
        """The same as a file for its owner only."""
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(self.kubeconfig(token, namespace)))
        return path

    def access(self, token: str | None = None, namespace: str | None = None) -> Access:
        """The same for our own client."""
        return Access(content=self.kubeconfig(token, namespace or "default"), namespace=namespace)

    def account(self, namespace: str, name: str) -> str:
        """A token of a ServiceAccount (TokenRequest), which is made when it is not there."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        if self.http.get(f"{path}/{name}").status_code == 404:
            self.http.post(
                path, json={"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
            ).raise_for_status()
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        return str(self.http.post(f"{path}/{name}/token", json=body).raise_for_status().json()["status"]["token"])


def _free_ports(count: int) -> list[int]:
    """Ports that nobody had a moment ago; all held at once, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


__all__ = ["ControlPlane"]
