"""The real user data, executed as root on a machine of its own: every step, every failure, twice over, and the ways in which such a node ends."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.cloud import INSTANCE, ROLE, Cloud, assignment
from tests.node.parts import next_host
from tests.node.sandbox import FILES, Sandbox, possible, render

pytestmark = pytest.mark.skipif(possible() is not None, reason=str(possible()))
SHUTDOWN = {"shutdown": ["shutdown", "-h", "now"]}  # the stand-in of the machine


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """AWS on loopback."""
    with Cloud() as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Sandbox]:
    """A fresh one, with all stand-ins."""
    with Sandbox(tmp_path / "machine") as one:
        yield one


def steps(cloud: Cloud) -> list[str]:
    """The steps that the keeper was shown while it could not ask."""
    return [message["detail"] for message in cloud.kinds("stage") if message["state"] == "progress"]


def ended(cloud: Cloud) -> dict[str, Any]:
    """The node's last words."""
    return cloud.kinds("end")[-1]


def test_the_script_has_no_fault_that_shellcheck_knows() -> None:
    """A missing quote in user data is found by nobody else before a machine is paid for."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ("shellcheck", "--severity", "style", str(FILES / "bootstrap.sh")), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_from_user_data_to_a_served_engine_and_again(cloud: Cloud, machine: Sandbox) -> None:
    """The whole node: agent first, steps, hello, mesh, image, engine; and the same script once more changes nothing."""
    host = next_host()
    data = render(cloud.node_json(testing=SHUTDOWN))
    done = machine.boot(data)
    assert done.returncode == 0, done.stdout
    machine.wait(lambda: cloud.kinds("hello"))
    cloud.assign(assignment(host))
    machine.wait(lambda: machine.run("python3", "-c", _ASK, host, "/health").stdout.strip() == "200")
    assert machine.run("python3", "-c", _ASK, host, "/status").stdout.strip() == "200"
    machine.wait(lambda: any(m["name"] == "load" and m["state"] == "end" for m in cloud.kinds("stage")))
    private = machine.path("/etc/nebula/node.key")
    key = private.read_text()
    assert private.stat().st_mode & 0o777 == 0o600
    assert machine.path("/etc/lamplighter/node.json").stat().st_mode & 0o077 == 0
    container = json.loads(machine.path("/standins/containers/container.json").read_text())
    assert f"{host}:8000:8000" in container["arguments"]
    assert container["environment"]["VLLM_API_KEY"] == "engine-key"
    assert "engine-key" not in json.dumps(machine.calls("docker"))
    assert ["-I", "DOCKER-USER", "-d", "169.254.169.254", "-j", "REJECT"] in machine.calls("iptables") or machine.calls(
        "iptables"
    )
    agents, meshes = machine.processes("agent.py run"), machine.processes("/standins/nebula -config")

    again = machine.boot(data)
    assert again.returncode == 0, again.stdout
    time.sleep(1)
    assert machine.processes("agent.py run") == agents
    assert machine.processes("/standins/nebula -config") == meshes
    assert private.read_text() == key
    assert sum(call[0] == "run" for call in machine.calls("docker")) == 1
    assert not cloud.kinds("end")
    assert not cloud.unsigned


_ASK = """
import sys, urllib.request
request = urllib.request.Request(f"http://{sys.argv[1]}:7443{sys.argv[2]}", headers={"Authorization": "Bearer a-token-of-some-length"})
try:
    print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5).status)
except OSError as error:
    print(error)
"""


def test_each_step_is_told_with_its_time(cloud: Cloud, machine: Sandbox) -> None:
    """Where the minutes of a wake go is measured on the node itself, and shown."""
    host = next_host()
    assert machine.boot(render(cloud.node_json(testing=SHUTDOWN))).returncode == 0
    cloud.assign(assignment(host))
    ask = _ASK.replace(".status)", ".read().decode())")
    machine.wait(lambda: '"storage"' in machine.run("python3", "-c", ask, host, "/status").stdout)
    status = json.loads(machine.run("python3", "-c", ask, host, "/status").stdout)
    assert list(status["steps"]) == ["nebula", "runtime", "storage"]
    for step in status["steps"].values():
        assert 0 <= step["ended_at"] - step["started_at"] < 30


@pytest.mark.parametrize(
    ("behaviour", "reason", "says"),
    [
        ({"nvidia_smi": {"exit": 9, "says": "NVIDIA-SMI has failed"}}, "engine_missing", "NVIDIA-SMI has failed"),
        ({"docker": {"exit": 1}, "systemctl": {"exit": 1, "says": "no such unit"}}, "engine_missing", "no such unit"),
    ],
)
def test_a_step_that_fails_says_why_and_ends_the_node(
    cloud: Cloud, machine: Sandbox, behaviour: dict[str, Any], reason: str, says: str
) -> None:
    """The person reads the step and its last lines within seconds, and the machine is gone: it does not bill until a deadline."""
    machine.behave(**behaviour)
    done = machine.boot(render(cloud.node_json(testing=SHUTDOWN)))
    assert done.returncode == 1
    machine.wait(cloud.terminated)
    assert ended(cloud)["reason"] == "failed"
    assert ended(cloud)["failure"]["reason"] == reason
    assert ended(cloud)["detail"].startswith("runtime: line ")
    assert says in ended(cloud)["detail"]
    assert says.encode() in cloud.objects[f"nodes/{ROLE}:{INSTANCE}/logs/bootstrap.log"]
    machine.wait(machine.path("/standins/down").exists)


def _archive(*names: str) -> bytes:
    """A release of Nebula whose programs are the stand-ins."""
    content = (Path(__file__).parent / "standins/standin.py").read_bytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def test_nebula_is_downloaded_and_checked(cloud: Cloud, tmp_path: Path) -> None:
    """A machine without it gets the pinned release, and nothing else: here the sum is of the stand-in's archive."""
    with Sandbox(tmp_path / "machine", without=("nebula", "nebula-cert")) as machine:
        archive = _archive("nebula", "nebula-cert")
        machine.path("/standins/download").write_bytes(archive)
        data = render(cloud.node_json(testing=SHUTDOWN))
        pinned = next(line for line in data.splitlines() if "local version=" in line).split("sum=")[1].split()[0]
        assert len(pinned) == 64
        done = machine.boot(data.replace(pinned, hashlib.sha256(archive).hexdigest()))
        assert done.returncode == 0, done.stdout
        (call,) = machine.calls("curl")
        assert call[-1].startswith("https://github.com/slackhq/nebula/releases/download/v1.")
        assert machine.path("/usr/local/bin/nebula").stat().st_mode & 0o111


def test_a_download_that_is_not_what_was_pinned_is_not_run(cloud: Cloud, tmp_path: Path) -> None:
    """A release that was replaced, or a network in between, ends the wake and not the mesh's safety."""
    with Sandbox(tmp_path / "machine", without=("nebula", "nebula-cert")) as machine:
        machine.path("/standins/download").write_bytes(_archive("nebula", "nebula-cert"))
        assert machine.boot(render(cloud.node_json(testing=SHUTDOWN))).returncode == 1
        machine.wait(cloud.terminated)
        assert ended(cloud)["failure"]["reason"] == "download_failed"
        assert "nebula: line" in ended(cloud)["detail"]
        assert not machine.path("/usr/local/bin/nebula").exists()


def test_an_image_that_does_not_exist_ends_the_node(cloud: Cloud, machine: Sandbox) -> None:
    """A misspelt image is known a second after the pull begins."""
    machine.behave(docker={"missing": ["vllm/vllm-openai:v0"]})
    assert machine.boot(render(cloud.node_json(testing=SHUTDOWN))).returncode == 0
    cloud.assign(assignment(next_host()))
    machine.wait(cloud.terminated)
    assert ended(cloud)["failure"]["reason"] == "bad_image"


def test_killed_again_and_again_it_lives_no_longer(cloud: Cloud, machine: Sandbox) -> None:
    """`kill -9` of the agent every second: it comes back each time, and ends when it would have ended."""
    began = time.monotonic()
    assert machine.boot(render(cloud.node_json(boot_deadline=8, testing=SHUTDOWN))).returncode == 0
    killed = 0
    while not cloud.terminated() and time.monotonic() - began < 30:
        killed += machine.run("pkill", "-KILL", "-f", "^python3 /opt/lamplighter/agent.py run").returncode == 0
        time.sleep(1.4)
        if time.monotonic() - began > 8:
            break
    machine.wait(cloud.terminated)
    assert killed >= 3
    assert time.monotonic() - began < 16
    assert ended(cloud)["reason"] == "boot_deadline"


def test_under_systemd_the_agent_is_watched_and_always_started_again(cloud: Cloud, tmp_path: Path) -> None:
    """Under systemd the agent is a unit that is always started again, is watched, and takes nothing else with it when it goes."""
    with Sandbox(tmp_path / "machine", systemd=True) as machine:
        assert machine.boot(render(cloud.node_json(testing=SHUTDOWN))).returncode == 0
        machine.wait(lambda: cloud.kinds("hello"))
        unit = machine.path("/etc/systemd/system/lamplighter-agent.service").read_text()
        for line in ("Restart=always", "StartLimitIntervalSec=0", "WatchdogSec=60", "KillMode=process", "OOMScoreAdjust=-1000"):
            assert line in unit
        assert ["enable", "lamplighter-agent"] in machine.calls("systemctl")
        if shutil.which("systemd-analyze"):
            copy = tmp_path / "lamplighter-agent.service"
            copy.write_text(unit)
            checked = subprocess.run(("systemd-analyze", "verify", str(copy)), capture_output=True, text=True, check=False)
            assert "lamplighter-agent" not in checked.stderr, checked.stderr


def test_aws_out_of_reach_it_shuts_itself_down(cloud: Cloud, machine: Sandbox) -> None:
    """No route, no permission, no service: the machine's own shutdown ends the bill."""
    cloud.broken |= {"autoscaling", "sqs", "s3"}
    assert machine.boot(render(cloud.node_json(boot_deadline=1, testing=SHUTDOWN))).returncode == 0
    machine.wait(machine.path("/standins/down").exists, 40)
    assert machine.path("/standins/down").read_text() == "-h now"


def test_a_machine_on_which_the_agent_cannot_run_ends_by_the_script_alone(cloud: Cloud, tmp_path: Path) -> None:
    """No Python, a broken disk: the script's own last resort. (And if not even the script runs, AWS's scheduled action.)"""
    with Sandbox(tmp_path / "machine") as machine:
        # Only the agent's Python is gone: the stand-ins are written in it too.
        data = render(cloud.node_json(testing=SHUTDOWN)).replace("python3 ", "no-such-python ")
        assert "sleep 60; shutdown -h now" in data
        done = machine.boot(data.replace("sleep 60; shutdown", "sleep 1; shutdown"))
        assert done.returncode == 1
        machine.wait(machine.path("/standins/down").exists)


def test_a_bake_leaves_an_image_without_identity(cloud: Cloud, machine: Sandbox) -> None:
    """Keys, host keys, logs and the dead-man's file of the builder would be every node's; its step times are on record."""
    machine.path("/etc/ssh").mkdir(exist_ok=True)
    machine.path("/etc/ssh/ssh_host_ed25519_key").write_text("secret")
    bake = {"images": ["vllm/vllm-openai:v0", "other:1"], "weights": [["vllm/vllm-openai:v0", "hf", "download", "a/b"]]}
    done = machine.boot(render(cloud.node_json(mode="bake", bake=bake, testing=SHUTDOWN)))
    assert done.returncode == 0, done.stdout
    (baked,) = cloud.kinds("baked")
    assert set(baked["steps"]) == {
        "nebula", "runtime", "storage", "images", "image vllm/vllm-openai:v0", "image other:1", "weights download a/b", "baked",
    }  # fmt: skip
    assert ["pull", "other:1"] in machine.calls("docker")
    for gone in ("/etc/ssh/ssh_host_ed25519_key", "/etc/lamplighter", "/etc/nebula", "/var/lib/lamplighter/deadman.json"):
        assert not machine.path(gone).exists(), gone
    assert machine.path("/etc/machine-id").read_text() == ""
    assert list(machine.path("/var/log/lamplighter").iterdir()) == []
    assert machine.calls("cloud-init") == [["clean", "--logs"]]
    assert machine.path("/standins/down").exists()
    assert not cloud.kinds("hello")
    assert not cloud.terminated()


def test_a_bake_that_fails_shuts_its_builder_down(cloud: Cloud, machine: Sandbox) -> None:
    """A builder that nobody ends would bill like any other machine."""
    machine.behave(docker={"missing": ["other:1"]})
    done = machine.boot(render(cloud.node_json(mode="bake", bake={"images": ["other:1"]}, testing=SHUTDOWN)))
    assert done.returncode == 1
    machine.wait(machine.path("/standins/down").exists)
    assert ended(cloud)["failure"]["reason"] == "bad_image"
    assert not cloud.terminated()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A block device of 64 MB, blank as a new volume."""
    image = tmp_path / "volume.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    done = subprocess.run(("losetup", "--find", "--show", str(image)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    device = done.stdout.strip()
    yield device
    subprocess.run(("losetup", "--detach", device), check=True)


VOLUME = {"kind": "volume", "volume_id": "vol-0123456789abcdef0", "snapshot_id": None, "bucket_prefix": None}
BY_ID = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"


def _plug(machine: Sandbox, device: str) -> None:
    """The volume appears in the machine."""
    subprocess.run(("cp", "-a", device, str(machine.path(device))), check=True)
    machine.path(BY_ID).symlink_to(device)


def test_a_blank_volume_is_formatted_once_and_weights_stay_on_it(cloud: Cloud, tmp_path: Path, loop: str) -> None:
    """Formatting it again at the next wake would download everything again; formatting what is not blank would lose it."""
    data = render(cloud.node_json(model_storage=VOLUME, testing=SHUTDOWN))
    with Sandbox(tmp_path / "first") as machine:
        _plug(machine, loop)
        done = machine.boot(data)
        assert done.returncode == 0, done.stdout
        assert machine.run("mountpoint", "/var/lib/lamplighter/models").returncode == 0
        machine.path("/var/lib/lamplighter/models/weights").write_text("precious")
        assert machine.boot(data).returncode == 0
        machine.run("umount", "/var/lib/lamplighter/models")
    with Sandbox(tmp_path / "second") as machine:
        _plug(machine, loop)
        assert machine.boot(data).returncode == 0
        assert machine.path("/var/lib/lamplighter/models/weights").read_text() == "precious"
        machine.run("umount", "/var/lib/lamplighter/models")


def test_a_volume_with_something_foreign_on_it_is_never_formatted(cloud: Cloud, machine: Sandbox, loop: str) -> None:
    """Somebody's data under the wrong id: the wake fails, the data stays."""
    Path(loop).write_bytes(b"somebody's data" + b"\0" * 4081)
    _plug(machine, loop)
    assert machine.boot(render(cloud.node_json(model_storage=VOLUME, testing=SHUTDOWN))).returncode == 1
    machine.wait(cloud.terminated)
    assert ended(cloud)["detail"].startswith("storage: ")
    assert Path(loop).read_bytes()[:15] == b"somebody's data"


def test_a_volume_that_is_not_to_be_had_costs_time_and_no_wake(cloud: Cloud, machine: Sandbox) -> None:
    """Still with the node that is being replaced: this one serves from its own disk, and says so."""
    data = render(cloud.node_json(model_storage=VOLUME, testing=SHUTDOWN)).replace("{1..20}", "{1..2}")
    assert machine.boot(data).returncode == 0
    assert "weights go to the node's own disk" in machine.log("bootstrap")
    assert [form["VolumeId"] for _, action, form in cloud.calls if action == "AttachVolume"] == ["vol-0123456789abcdef0"] * 2
    assert machine.path("/run/lamplighter/runtime.ready").exists()


def test_weights_in_s3_are_copied_first(cloud: Cloud, machine: Sandbox) -> None:
    """The engine must find them when it starts."""
    storage = {"kind": "s3", "volume_id": None, "snapshot_id": None, "bucket_prefix": "models/"}
    assert machine.boot(render(cloud.node_json(model_storage=storage, testing=SHUTDOWN))).returncode == 0
    assert machine.calls("aws") == [
        ["s3", "sync", "--only-show-errors", "s3://lamplighter-bucket/models/", "/var/lib/lamplighter/models"]
    ]


@pytest.mark.parametrize(("baked", "fast"), [(False, True), (True, False)])
def test_without_storage_weights_go_to_the_fastest_disk_that_lasts(
    cloud: Cloud, machine: Sandbox, *, baked: bool, fast: bool
) -> None:
    """The instance's own disk is faster and empty at every wake; weights that were baked are on the image's and must not be hidden."""
    machine.path("/opt/dlami/nvme").mkdir(parents=True)
    assert machine.run("mount", "-t", "tmpfs", "tmpfs", "/opt/dlami/nvme").returncode == 0
    if baked:
        machine.path("/var/lib/lamplighter/models").mkdir(parents=True)
        machine.path("/var/lib/lamplighter/models/weights").write_text("baked")
    assert machine.boot(render(cloud.node_json(testing=SHUTDOWN))).returncode == 0
    assert (machine.run("mountpoint", "-q", "/var/lib/lamplighter/models").returncode == 0) is fast


def test_python_3_10_runs_the_node(cloud: Cloud, machine: Sandbox) -> None:
    """The Python of the Deep Learning AMI; where there is one on this machine."""
    found = sorted(Path("~/.pyenv/versions").expanduser().glob("3.10.*/bin/python3.10"))
    if not found or not machine.path(str(found[0])).exists():
        pytest.skip("there is no Python 3.10 on this machine")
    machine.path("/standins/python3").symlink_to(found[0])
    assert machine.boot(render(cloud.node_json(boot_deadline=6, testing=SHUTDOWN))).returncode == 0
    assert machine.run("python3", "--version").stdout.startswith("Python 3.10")
    machine.wait(lambda: cloud.kinds("hello"))
    machine.wait(cloud.terminated)
