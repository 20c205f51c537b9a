"""The smaller parts: what an assignment may be, how stages follow each other, what Docker is asked, and the one packed file."""

import ast
import gzip
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamplighter.node import docker as docker_module
from lamplighter.node.assignment import Assignment
from lamplighter.node.aws import Aws, Metadata
from lamplighter.node.basics import Broken, Settings, run, tail, write
from lamplighter.node.docker import Docker
from lamplighter.node.engine import downloading
from lamplighter.node.nebula import Nebula
from lamplighter.node.stages import Stage, Stages
from tests.node.cloud import INSTANCE, Cloud, assignment
from tools import pack_agent

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "deploy/terraform/aws/files"


def settings(root: Path, **testing: Any) -> Settings:
    """A node under `root`."""
    return Settings.parse(
        {
            "version": 1, "region": "eu-central-1", "nodes_queue_url": "q", "bucket": "b", "node_role_id": "A", "boot_deadline": 900, "lease": 300,
            "drain": 120, "testing": {"root": str(root), **testing}, "pool": "unknown names are left alone",
        }
    )  # fmt: skip


def test_settings_of_another_version_are_refused() -> None:
    """An AMI that was baked long ago must not half understand a new keeper."""
    with pytest.raises(ValueError, match="version 2"):
        Settings.parse({"version": 2})
    with pytest.raises(TypeError, match="lease"):
        Settings.parse({"version": 1})


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in assignment().items() if key != name}


BAD: list[dict[str, Any]] = [
    assignment() | {"version": 2},
    assignment() | {"instance": "i-other"},
    assignment() | {"overlay": "10.77.128.7; reboot"},
    assignment() | {"overlay": None},
    assignment() | {"agent_token": "short"},
    assignment() | {"agent_token": None},
    assignment() | {"nebula": {"node.key": "x"}},
    assignment() | {"nebula": []},
    assignment() | {"engine": None},
    assignment() | {"lease": "x"},
    assignment(port=0),
    assignment(port=70_000),
    assignment(port="8000"),
    assignment(image=""),
    assignment(image="--privileged"),
    assignment(environment={"A": "x\nVLLM_API_KEY=mine"}),
    assignment(environment={"A\nB": "x"}),
    assignment(environment=["A"]),
    assignment(key="a\nb"),
    assignment(arguments=7),
    *map(_without, ("version", "instance", "replica", "model", "overlay", "nebula", "agent_token", "engine")),
]


@pytest.mark.parametrize("raw", BAD)
def test_what_is_not_understood_whole_is_refused(raw: dict[str, Any]) -> None:
    """Half an assignment would be a node that nobody can dial, or an engine with the wrong rights."""
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        Assignment.parse(raw, INSTANCE)


def test_an_assignment_shows_no_secret_and_takes_unknown_names() -> None:
    """It is written into logs when something goes wrong; and a newer keeper may say more."""
    made = Assignment.parse(assignment() | {"future": 1}, INSTANCE)
    assert "a-token" not in repr(made)
    assert "engine-key" not in repr(made)
    assert made.limits == {"lease": 300, "boot_deadline": 900, "drain": 120}
    assert made.engine is not None
    assert made.engine.arguments == ("--port", "8000")


@pytest.fixture
def told() -> list[tuple[str, str]]:
    """What the keeper was told."""
    return []


@pytest.fixture
def stages(tmp_path: Path, told: list[tuple[str, str]]) -> Stages:
    """Fresh ones."""
    return Stages(tmp_path / "stages.json", lambda stage, state: told.append((stage.name, state)))


def test_a_stage_that_began_early_counts_from_the_end_of_the_one_before(stages: Stages, told: list[tuple[str, str]]) -> None:
    """The image is pulled while the mesh comes up: shown one after the other, with times that add up."""
    stages.skip("cluster")
    stages.begin("boot")
    stages.begin("pull")
    stages.end("boot")
    stages.begin("mesh")
    stages.end("pull")
    assert told == [("boot", "begin"), ("boot", "end"), ("mesh", "begin")]
    stages.end("mesh")
    stages.end("load")
    names = ("boot", "mesh", "pull", "load")
    assert told == [(name, state) for name in names for state in ("begin", "end")]
    listed = stages.listed()
    assert all(one["ended_at"] <= two["started_at"] for one, two in itertools.pairwise(listed))


def test_a_cluster_has_no_pull_and_no_load(stages: Stages, told: list[tuple[str, str]]) -> None:
    """Those are the pod's, which others run there: a node that waited for its own would never be ready."""
    stages.begin("boot")
    stages.begin("cluster")
    stages.end("boot")
    stages.begin("mesh")
    assert stages.current() == "mesh"
    stages.end("cluster")
    stages.end("mesh")
    assert told == [(name, state) for name in ("boot", "mesh", "cluster") for state in ("begin", "end")]


def test_progress_is_told_of_what_runs_alone(stages: Stages, told: list[tuple[str, str]]) -> None:
    """Else a stage that has not begun would seem to."""
    stages.update("pull", 0.5, "half")
    stages.begin("boot")
    stages.update("boot", None, "storage")
    assert told == [("boot", "begin"), ("boot", "progress")]
    assert stages.current() == "boot"


def test_stages_outlive_a_restart_and_a_damaged_file(stages: Stages, tmp_path: Path, told: list[tuple[str, str]]) -> None:
    """A restarted agent does not tell the whole wake anew, and rubbish on disk does not keep it from starting."""
    stages.begin("boot")
    stages.end("boot")
    again = Stages(tmp_path / "stages.json", lambda stage, state: told.append((stage.name, state)))
    again.begin("boot")
    again.end("boot")
    assert told == [("boot", "begin"), ("boot", "end")]
    for text in ("{", "[1]", '[{"name": "boot", "unknown": 1}]', '[{"name": "other"}]'):
        (tmp_path / "stages.json").write_text(text)
        assert _fresh(tmp_path / "stages.json").current() == "boot"


def _fresh(path: Path) -> Stages:
    def ignore(stage: Stage, state: str) -> None:
        """Nobody listens."""

    return Stages(path, ignore)


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a `docker` first on the PATH; its calls are written to a file."""

    def make(script: str) -> Path:
        program = tmp_path / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/bash\necho "$*" >>"{tmp_path}/calls"\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return tmp_path / "calls"

    return make


def made_docker(root: Path) -> Docker:
    """With no pause between its attempts."""
    given = settings(root, metadata_url="http://127.0.0.1:1")
    return Docker(given, Aws(given, Metadata("http://127.0.0.1:1")), pause=0)


def test_an_image_that_is_here_is_not_pulled(tmp_path: Path, fake_docker: Callable[[str], Path]) -> None:
    """That is what baking is for."""
    calls = fake_docker("exit 0")
    made_docker(tmp_path).pull("vllm:1", lambda share, detail: pytest.fail(f"{share} {detail}"))
    assert calls.read_text() == "image inspect vllm:1\n"


def test_the_layers_of_a_pull_are_its_progress(tmp_path: Path, fake_docker: Callable[[str], Path]) -> None:
    """Ten gigabytes take minutes: the person sees that something moves."""
    fake_docker(
        """[ "$1" = image ] && exit 1
printf '%s\\n' 'v1: Pulling from x/y' '0123456789ab: Pulling fs layer' 'ba9876543210: Already exists' \
  '0123456789ab: Verifying Checksum' '0123456789ab: Download complete' '0123456789ab: Pull complete' 'Digest: sha256:1'"""
    )
    told: list[tuple[float | None, str]] = []
    made_docker(tmp_path).pull("x/y:v1", lambda share, detail: told.append((share, detail)))
    assert [share for share, _ in told] == [0.0, 0.5, 0.5, 0.75, 1.0]
    assert told[-1][1] == "image: 2 of 2 layers"


@pytest.mark.parametrize(
    ("says", "reason", "times"),
    [
        ("Error response from daemon: manifest for x:1 not found: manifest unknown", "bad_image", 1),
        ("Error response from daemon: pull access denied for x", "bad_image", 1),
        ("failed to register layer: no space left on device", "disk_full", 3),
        ("Get https://registry/v2/: net/http: TLS handshake timeout", "download_failed", 3),
        ("Cannot connect to the Docker daemon", "download_failed", 3),
    ],
)
def test_why_an_image_did_not_come(
    tmp_path: Path, fake_docker: Callable[[str], Path], says: str, reason: str, times: int
) -> None:
    """A misspelt image fails at once; a network that stutters is tried again."""
    calls = fake_docker(f"[ $1 = image ] || echo '{says}'; exit 1")
    with pytest.raises(Broken) as caught:
        made_docker(tmp_path).pull("x:1", lambda share, detail: None)
    assert caught.value.reason == reason
    assert calls.read_text().count("pull x:1") == times


def test_without_docker_the_engine_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said as such, and not as a download that failed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Broken) as caught:
        made_docker(tmp_path).pull("x:1", lambda share, detail: None)
    assert caught.value.reason == "engine_missing"


def test_our_own_registry_is_logged_into_without_the_password_on_a_command_line(
    tmp_path: Path, fake_docker: Callable[[str], Path]
) -> None:
    """Every program of the machine can read command lines."""
    calls = fake_docker(f"""[ "$1" = login ] && cat >"{tmp_path}/password"; [ "$1" != image ]""")
    with Cloud() as cloud:
        given = Settings.parse(cloud.node_json(testing={"root": str(tmp_path)}))
        docker = Docker(given, Aws(given, Metadata(given.url("metadata", ""))), pause=0)
        docker.pull("123456789012.dkr.ecr.eu-central-1.amazonaws.com/engines:1", lambda share, detail: None)
    assert "login --username AWS --password-stdin 123456789012.dkr.ecr.eu-central-1.amazonaws.com\n" in calls.read_text()
    assert (tmp_path / "password").read_text() == "registry-password"
    assert "registry-password" not in calls.read_text()


def test_the_engine_is_started_with_its_secrets_in_a_file_that_is_gone(
    tmp_path: Path, fake_docker: Callable[[str], Path]
) -> None:
    """Published on the mesh's address alone, with the GPUs, without a restart of its own, its log bounded."""
    env = tmp_path / "run/lamplighter/engine.env"
    calls = fake_docker(f'[ "$1" = run ] && {{ stat -c %a "{env}"; cat "{env}"; }} >"{tmp_path}/seen"; true')
    given = Assignment.parse(assignment("10.77.128.7"), INSTANCE)
    made_docker(tmp_path).start(given, "10.77.128.7", {"VLLM_API_KEY": "engine-key", "A": "b c"}, tmp_path / "models")
    assert (tmp_path / "seen").read_text() == "600\nVLLM_API_KEY=engine-key\nA=b c\n"
    assert not env.exists()
    command = calls.read_text().splitlines()[-1]
    assert "engine-key" not in command
    for part in (
        "--gpus all", "--restart no", "--publish 10.77.128.7:8000:8000", "--log-opt max-size=20m", "--security-opt no-new-privileges",
        f"--volume {tmp_path}/models:/models vllm/vllm-openai:v0 --port 8000",
    ):  # fmt: skip
        assert part in command


def test_a_container_that_does_not_start_says_why(tmp_path: Path, fake_docker: Callable[[str], Path]) -> None:
    """A machine without a driver, most of all."""
    fake_docker("""[ "$1" = run ] && { echo 'could not select device driver "" with capabilities: [[gpu]]'; exit 125; }""")
    with pytest.raises(Broken) as caught:
        made_docker(tmp_path).start(Assignment.parse(assignment(), INSTANCE), "127.0.0.1", {}, tmp_path)
    assert caught.value.reason == "engine_missing"
    assert not (tmp_path / "run/lamplighter/engine.env").exists()


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("echo running 0 false", ("running", None)),
        ("echo created 0 false", ("running", None)),
        ("echo exited 1 false", ("exited", 1)),
        ("echo exited 0 true", ("exited", 137)),
        ("echo dead 139 false", ("exited", 139)),
        ("echo 'Error: No such object: lamplighter-engine'; exit 1", ("absent", None)),
        ("echo 'Cannot connect to the Docker daemon'; exit 1", ("unknown", None)),
    ],
)
def test_the_state_of_the_container(
    tmp_path: Path, fake_docker: Callable[[str], Path], script: str, state: tuple[str, int | None]
) -> None:
    """A Docker that does not answer is no engine that ended: that would end a node that serves."""
    fake_docker(script)
    assert made_docker(tmp_path).state() == state


def test_commands_and_logs(tmp_path: Path, fake_docker: Callable[[str], Path]) -> None:
    """The preparation and the last lines."""
    calls = fake_docker("echo said")
    docker = made_docker(tmp_path)
    assert docker.execute(("ollama", "pull", "m"), 5).stdout == "said\n"
    assert docker.logs() == "said\n"
    assert calls.read_text() == "exec lamplighter-engine ollama pull m\nlogs --tail 2000 lamplighter-engine\n"
    assert not docker.ready()
    assert docker_module.Docker.name == "lamplighter-engine"


@pytest.mark.parametrize(
    "name", ["blobs/abc.incomplete", "m.gguf.downloadInProgress", "blobs/sha256-ab-partial", "blobs/sha256-ab-partial-3"]
)
def test_half_downloaded_weights_are_seen(tmp_path: Path, name: str) -> None:
    """So that the pull is shown as what it is, and not as a load that takes ten minutes."""
    (tmp_path / "whole.safetensors").write_bytes(b"x" * 8192)
    assert downloading(tmp_path) is None
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x" * 4096)
    assert downloading(tmp_path) == 12_288
    assert downloading(tmp_path / "nothing") is None


def test_nebula_is_started_once_found_again_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlives a killed agent; the next one must not start a second on the same device, and a new certificate reaches it."""
    program = tmp_path / "bin" / "nebula"
    program.parent.mkdir()
    # No shell: one that was started with SIGHUP ignored (nohup) cannot trap it, and Nebula can.
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, signal, time\n"
        f"signal.signal(signal.SIGHUP, lambda *_: pathlib.Path({str(tmp_path / 'hups')!r}).touch())\n"
        "print('up', flush=True)\nwhile True:\n    time.sleep(0.05)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    first = Nebula(settings(tmp_path))
    assert first.installed()
    assert not first.alive()
    first.install({"config.yml": "a", "node.crt": "b"})
    assert stat.S_IMODE((tmp_path / "etc/nebula/node.crt").stat().st_mode) == 0o600
    first.start()
    pid = int((tmp_path / "run/lamplighter/nebula.pid").read_text())
    try:
        second = Nebula(settings(tmp_path))
        _wait(lambda: "up" in tail(tmp_path / "var/log/lamplighter/nebula.log", 100))
        assert second.alive()
        second.install({"node.crt": "c"})
        _wait((tmp_path / "hups").exists)
    finally:
        os.kill(pid, signal.SIGKILL)
    _wait(lambda: not first.alive())
    assert not second.alive()
    (tmp_path / "run/lamplighter/nebula.pid").write_text(str(os.getpid()))
    assert not second.alive(), "a number that is another program's by now"


def _wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_fingerprint_is_nebulas_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By it the keeper revokes; a wrong one would revoke nothing."""
    program = tmp_path / "nebula-cert"
    program.write_text(f"""#!/bin/bash\necho '{{"details":{{"name":"n"}},"fingerprint":"{"ab" * 32}","signature":"x"}}'\n""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    made = Nebula(settings(tmp_path))
    assert made.fingerprint() == "ab" * 32
    program.write_text("#!/bin/bash\nexit 1\n")
    assert made.fingerprint() == "ab" * 32
    made.install({"node.crt": "x"})
    assert made.fingerprint() is None


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    """A key that is half written would end the next wake."""
    path = tmp_path / "a" / "file"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert [one.name for one in path.parent.iterdir()] == ["file"]
    assert tail(tmp_path / "none", 10) == ""
    assert tail(path, 2) == "wo"


def test_commands_that_are_missing_or_hang_are_results() -> None:
    """Nothing that the agent runs may break it or hold it for ever."""
    assert run(("/nowhere/at-all",), 1).returncode == 127
    assert run(("sleep", "10"), 0.1).returncode == 124
    assert run(("cat",), 5, "in").stdout == "in"


# ---- the one file


def test_the_packed_file_is_of_this_package() -> None:
    """What is reviewed is what runs: a change that was not packed would reach no node."""
    assert pack_agent.PACKED.read_text() == pack_agent.packed(), "run tools/pack_agent.py"


def test_packing_changes_no_statement() -> None:
    """The same functions with the same number of statements each: only names that nobody outside knows, docstrings, annotations and the
    assertions that a type checker reads differ."""

    def shape(module: ast.Module) -> dict[str, int]:
        return {
            node.name: sum(isinstance(one, ast.stmt) and not _text(one) and not _assertion(one) for one in ast.walk(node)) - 1
            for node in ast.walk(module)
            if isinstance(node, ast.FunctionDef)
        }

    def _text(one: ast.AST) -> bool:
        return isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)

    def _assertion(one: ast.AST) -> bool:
        """Of a type alone: it can do nothing else."""
        if isinstance(one, ast.Assert):
            assert ast.unparse(one.test).endswith("is not None")
        return isinstance(one, ast.Assert)

    ours: dict[str, int] = {}
    for module in pack_agent.MODULES:
        ours |= shape(ast.parse((pack_agent.PACKAGE / f"{module}.py").read_text()))
    packed = shape(ast.parse(pack_agent.packed()))
    whole = ast.Module(
        [one for m in pack_agent.MODULES for one in ast.parse((pack_agent.PACKAGE / f"{m}.py").read_text()).body], []
    )
    short = pack_agent.private_names(pack_agent.tree(private=False))
    assert len(set(short.values())) == len(short)
    texts = {one.value for one in ast.walk(whole) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    assert not texts & set(short), "a text that is a private name would not be shortened with it"
    meant = {new: old for old, new in short.items()}
    for packed_name, count in packed.items():
        name = meant.get(packed_name, packed_name)
        assert count - ours[name] in (0, 1, -1, -2), name


def test_python_3_10_reads_the_packed_file() -> None:
    """Ubuntu 22.04 is what the Deep Learning AMI is made of."""
    ast.parse(pack_agent.packed(), feature_version=(3, 10))
    tree = ast.parse(pack_agent.packed())
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names
    assert "tomllib" not in imported


def test_the_packed_file_runs(tmp_path: Path) -> None:
    """Its command line, in a process of its own: unknown orders are refused with what there is."""
    text = (
        pack_agent.packed()
        .replace('"/etc/lamplighter/node.json"', "X")
        .replace("'/etc/lamplighter/node.json'", repr(str(tmp_path / "node.json")))
    )
    (tmp_path / "agent.py").write_text(text)
    (tmp_path / "node.json").write_text(json.dumps(Cloud.node_json(_cloud(), mode="bake", testing={"root": str(tmp_path)})))

    def agent(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (sys.executable, "-I", str(tmp_path / "agent.py"), *arguments), capture_output=True, text=True, check=False
        )

    assert agent("get", "mode").stdout == "bake\n"
    assert agent("get", "model_storage.kind").stdout == "none\n"
    assert agent("get", "model_storage.kind.deeper").stdout == "\n"
    assert agent("step", "runtime", "fail", 'line 3: "no" \\ driver\n', "engine_missing").returncode == 0
    (step,) = (tmp_path / "run/lamplighter/steps").iterdir()
    found = json.loads(step.read_text())
    assert (found["name"], found["state"], found["reason"]) == ("runtime", "fail", "engine_missing")
    assert found["detail"] == 'line 3: "no" \\ driver\n'
    refused = agent("reboot")
    assert refused.returncode == 2
    assert "agent.py run" in refused.stderr
    assert agent("attach", "vol-1").returncode == 1


def _cloud() -> Cloud:
    made = Cloud()
    made._server = type("Server", (), {"server_port": 1})()
    return made


def test_user_data_fits_into_what_ec2_takes() -> None:
    """16,384 bytes after gzip, with the longest names and a bake's order; one byte more and no node starts."""
    longest = Cloud.node_json(
        _cloud(),
        stack="s" * 30, installation="0" * 26, pool="p" * 40, region="ap-southeast-4",
        nodes_queue_url="https://sqs.ap-southeast-4.amazonaws.com/123456789012/" + "s" * 36, bucket="s" * 37 + "20261128000000000000000001",
        model_storage={"kind": "snapshot", "volume_id": "vol-0123456789abcdef0", "snapshot_id": "snap-0123456789abcdef0", "bucket_prefix": "models/"},
        mode="bake", bake={"images": ["vllm/vllm-openai:v0.30.0-cu129", "ollama/ollama:0.33.3"], "weights": []},
    )  # fmt: skip
    longest.pop("testing")
    script = (FILES / "bootstrap.sh").read_text()
    filled = script.replace("@NODE_JSON@", json.dumps(longest)).replace("@AGENT@", (FILES / "agent.py").read_text())
    assert script.count("@NODE_JSON@") == script.count("@AGENT@") == 1
    assert len(gzip.compress(filled.encode(), 6)) <= 16_384
    for mark in ("NODE_JSON", "AGENT_PY"):
        assert filled.splitlines().count(mark) == 1, "a line of the content would end its here-document"
