"""Podman in storage of its own under `.cache`: builds our Dockerfiles unmodified and runs what comes out, without a registry.

The base is a stand-in: Debian with its own Python, made by mmdebstrap and tagged as the official image. What this machine's pip and npm are
configured with is mounted into builds, never copied. Containers of a test end with it; images stay for the next run.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "deploy" / "images"
CACHE = ROOT / ".cache" / "images"
BASE = "docker.io/library/python:3.12-slim"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_CONFIG = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=30000:30000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""
_STAND_IN = """\
FROM scratch
ADD base.tar /
RUN ln -sf /usr/bin/python3 /usr/local/bin/python && ln -sf /usr/bin/pip3 /usr/local/bin/pip
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
CMD ["python"]
"""


@functools.cache
def missing() -> str | None:
    """Why no container can be run here, as a sentence; None when one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "containers are built and run as root on Linux"
    lacking = [name for name in ("podman", "runc", "mmdebstrap") if shutil.which(name) is None]
    if not any(
        Path(folder, "netavark").exists() for folder in ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman")
    ):
        lacking.append("netavark")
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    try:
        _base()
        podman("run", "--rm", "--network", "none", BASE, "true")
    except subprocess.CalledProcessError as error:
        return f"podman cannot run a container here: {str(error.stderr)[-300:]}"
    return None


def podman(*words: str | Path, timeout: float = 600, check: bool = True, into: str | None = None) -> str:
    """What podman prints. Raises CalledProcessError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    config = CACHE / "containers.conf"
    config.write_text(_CONFIG)
    done = subprocess.run(
        ["podman", "--root", CACHE / "storage", "--runroot", "/run/lamplighter-images", *words],
        env={**os.environ, "CONTAINERS_CONF": str(config)},
        input=into,
        stdin=subprocess.DEVNULL if into is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise subprocess.CalledProcessError(
            done.returncode, ["podman", *map(str, words)], done.stdout[-3000:], done.stderr[-3000:]
        )
    return done.stdout


def build(dockerfile: Path, tag: str, context: Path = ROOT, **arguments: str) -> None:
    """Build an image as a person would. AssertionError with the end of the log when that fails."""
    given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    try:
        podman(
            "build", "--pull=never", "--network", "host", "--format", "docker", "--file", dockerfile, "--tag", tag, *_here(), *given,
            context, timeout=1200,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise AssertionError(f"{dockerfile} cannot be built:\n{error.stdout}\n{error.stderr}") from error


def size(image: str) -> int:
    """Bytes of an image, unpacked, the base's included."""
    return int(podman("image", "inspect", "--format", "{{.Size}}", image))


@contextlib.contextmanager
def running(image: str, *words: str, options: Sequence[str] = ()) -> Iterator[str]:
    """A container with the security context of the chart: no root, nothing writable but /tmp and what `options` mount. Yields its id."""
    hard = (
        "--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,size=64m,mode=1777", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--user", "10001:10001", "--memory", "1500m", "--no-healthcheck",
    )  # fmt: skip
    container = podman("run", "--detach", *hard, *options, image, *words).strip()
    try:
        yield container
    finally:
        podman("rm", "--force", "--time", "5", container, check=False)


def logs(container: str) -> str:
    """Both streams of a container."""
    words: list[str | Path] = ["podman", "--root", CACHE / "storage", "--runroot", "/run/lamplighter-images", "logs", container]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def address(container: str) -> str:
    """Its address on the bridge of this machine."""
    told = json.loads(podman("container", "inspect", container))
    (network,) = told[0]["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def _base() -> None:
    """Make the stand-in for the official Python image, once."""
    if podman("images", "--quiet", BASE).strip():
        return
    folder = CACHE / "base"
    folder.mkdir(parents=True, exist_ok=True)
    tar = folder / "base.tar"
    if not tar.exists():
        packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
        made = folder / "making.tar"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", made],
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        )
        made.rename(tar)
    (folder / "Dockerfile").write_text(_STAND_IN)
    podman("build", "--quiet", "--network", "none", "--format", "docker", "--tag", BASE, folder)


def _here() -> list[str]:
    """What lets a build reach the package indexes as this machine does: certificates, pip's and npm's settings, folders with wheels."""
    settings = CACHE / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    given, folders = dict[str, str](), list[str]()
    for line in listed.splitlines():
        key, equals, value = line.partition("=")
        name = key.rpartition(".")[2]
        if equals and name in ("index-url", "extra-index-url", "find-links", "constraint", "trusted-host"):
            value = value.strip("'\"")
            given[name] = value  # pip lists the environment last, and it wins
            folders += [word.removeprefix("file://") for word in value.split() if word.startswith(("/", "file://"))]
    mounts = []
    bundle = os.environ.get("SSL_CERT_FILE", BUNDLE)
    npm = [
        line for file in (Path.home() / ".npmrc", Path("/etc/npmrc")) if file.is_file() for line in file.read_text().splitlines()
    ]
    npm = [line for line in npm if line.strip() and not line.startswith(("cafile", "nodedir"))]
    if Path(bundle).is_file():
        given["cert"] = BUNDLE
        npm.append(f"cafile={BUNDLE}")
        mounts.append(f"{bundle}:{BUNDLE}:ro")
    (settings / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in given.items()))
    (settings / "npmrc").write_text("\n".join(npm) + "\n")
    mounts += [f"{settings / 'pip.conf'}:/etc/pip.conf:ro", f"{settings / 'npmrc'}:{Path('~root').expanduser() / '.npmrc'}:ro"]
    mounts += [
        f"{path}:{path}:ro"
        for path in {str(Path(folder).parent if "/simple" in folder else folder) for folder in folders}
        if Path(path).exists()
    ]
    return [word for mount in mounts for word in ("--volume", mount)]
