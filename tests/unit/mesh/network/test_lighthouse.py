"""The lighthouse in EC2: its user data, and the program that keeps it up to date, run against a pretended Parameter Store on loopback."""

import ast
import hashlib
import http.server
import io
import json
import re
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from lamplighter.core.errors import LamplighterError
from lamplighter.mesh import lighthouse
from lamplighter.mesh.files import lighthouse as program
from tests.mesh_lab.certificates import Authority
from tests.unit.mesh.network.files import CONFIG, TWO

_ROLE = {"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "not-a-secret", "Token": "a-token"}


class Aws:
    """The metadata service, the Parameter Store and a download, as far as the program asks. Checks each signature as AWS does."""

    def __init__(self) -> None:
        self.parameters: dict[str, str] = {}
        self.download = b""
        self.refused: list[str] = []
        aws = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._say(b"imds-token" if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else b"")

            def do_GET(self) -> None:
                if self.path == "/archive":
                    self._say(aws.download)
                elif self.headers["X-aws-ec2-metadata-token"] != "imds-token":
                    aws.refused.append(self.path)
                    self._say(b"", 401)
                else:
                    self._say(b"role" if self.path.endswith("/") else json.dumps(_ROLE).encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if problem := aws.forged(dict(self.headers), body):
                    aws.refused.append(problem)
                    self._say(b"{}", 403)
                    return
                self._say(json.dumps(aws.page(json.loads(body))).encode())

            def _say(self, content: bytes, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forged(self, headers: dict[str, str], body: bytes) -> str | None:
        """What is wrong with the signature, judged by AWS's own library."""
        lower = {name.lower(): value for name, value in headers.items()}
        signed = lower["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        request = AWSRequest("POST", f"{self.url}/", data=body, headers={name: lower[name] for name in signed})
        request.context["timestamp"] = lower["x-amz-date"]
        auth = SigV4Auth(Credentials(_ROLE["AccessKeyId"], _ROLE["SecretAccessKey"], _ROLE["Token"]), "ssm", "eu-central-1")
        expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        return None if lower["authorization"].endswith(f"Signature={expected}") else "forged"

    def page(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Two parameters at a time, as AWS gives a part at a time."""
        assert asked["WithDecryption"] is True
        names = sorted(name for name in self.parameters if name.startswith(asked["Path"]))
        begin = int(asked.get("NextToken", 0))
        page = [{"Name": name, "Value": self.parameters[name]} for name in names[begin : begin + 2]]
        return {"Parameters": page} | ({"NextToken": str(begin + 2)} if begin + 2 < len(names) else {})


@pytest.fixture
def aws() -> Iterator[Aws]:
    made = Aws()
    yield made
    made.close()


@pytest.fixture
def settings(tmp_path: Path, aws: Aws) -> Path:
    """The program's settings, as in user data but for its places."""
    script = lighthouse.user_data(stack="lamplighter", region="eu-central-1")
    text = script.partition("END_OF_SETTINGS'\n")[2].partition("\nEND_OF_SETTINGS")[0]
    folder, programs = tmp_path / "etc", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    found = shutil.which("nebula")
    (programs / "nebula").write_text(f'#!/bin/sh\nexec {found} "$@"\n' if found else "#!/bin/sh\ngrep -q '^pki:' $3/config.yml\n")
    (programs / "nebula").chmod(0o755)
    given = json.loads(text) | {
        "folder": str(folder),
        "programs": str(programs),
        "owner": None,
        "reload": ["sh", "-c", f"echo reloaded >> {tmp_path}/reloads"],
        "endpoint": f"{aws.url}/",
        "metadata": aws.url,
        "archive": f"{aws.url}/archive",
    }
    file = tmp_path / "lighthouse.json"
    file.write_text(json.dumps(given))
    return file


def _parameters(tmp_path: Path, authority: Authority, blocklist: tuple[str, ...] = ()) -> dict[str, str]:
    node = authority.node("one", "10.77.0.1/16", "lighthouse")
    made = lighthouse.parameters(
        CONFIG, stack="lamplighter", bundle=node["ca.crt"], certificate=node["node.crt"], key=node["node.key"],
        blocklist=blocklist, lighthouse_addresses=TWO,
    )  # fmt: skip
    return {name: text.replace("/etc/nebula", str(tmp_path / "etc")) for name, text in made.items()}


def _reloads(tmp_path: Path) -> int:
    file = tmp_path / "reloads"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_user_data_fits_is_clean_and_holds_no_secret(tmp_path: Path) -> None:
    """EC2 refuses more than 16 KB; whoever may describe the instance reads it; a mistake in it is found only by its boot."""
    script = lighthouse.user_data(stack="lamplighter", region="eu-central-1")
    assert len(script.encode()) <= lighthouse.MOST_USER_DATA
    assert "PRIVATE KEY" not in script
    assert not re.search(r"^@[A-Z]+@$", script, re.MULTILINE)
    file = tmp_path / "user-data.sh"
    file.write_text(script)
    assert subprocess.run(["bash", "-n", str(file)], check=False, timeout=20).returncode == 0
    if shutil.which("shellcheck"):
        said = subprocess.run(["shellcheck", str(file)], check=False, capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stdout
    # Amazon Linux 2023 has Python 3.9.
    text = script.partition("END_OF_PROGRAM'\n")[2].partition("\nEND_OF_PROGRAM")[0]
    ast.parse(text, feature_version=(3, 9))


def test_user_data_leaves_a_machine_that_starts_its_nebula(tmp_path: Path) -> None:
    """Executed, with its places moved into a folder and the system's own programs standing in: a slip shows here, not after a boot in EC2."""
    stubs, root = tmp_path / "stubs", tmp_path / "root"
    stubs.mkdir()
    for folder in ("etc/systemd/system", "usr/local/bin"):
        (root / folder).mkdir(parents=True)
    for name in ("systemctl", "useradd", "chown", "python3", "id"):
        fails = "exit 1" if name == "id" else "exit 0"  # there is no such user yet
        (stubs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{fails}\n')
        (stubs / name).chmod(0o755)
    (root / "usr/local/bin/nebula").write_text("#!/bin/sh\n")
    (root / "usr/local/bin/nebula").chmod(0o755)
    script = lighthouse.user_data(stack="lamplighter", region="eu-central-1")
    head, mark, rest = script.partition("set -euo pipefail")
    moved = head + mark + re.sub(r"(?<![\w/])/(etc|usr/local)/", rf"{root}/\1/", rest)
    said = subprocess.run(
        ["bash", "-c", moved], check=False, capture_output=True, text=True, timeout=30, env={"PATH": f"{stubs}:/usr/bin:/bin"}
    )
    assert said.returncode == 0, said.stderr
    calls = (tmp_path / "calls").read_text()
    for call in (
        "useradd --system",
        "lighthouse.py install",
        "systemctl enable nebula.service",
        "enable --now lighthouse-refresh.timer",
    ):
        assert call in calls
    made = {path.name for path in (root / "etc/systemd/system").iterdir()}
    assert made == {"nebula.service", "lighthouse-refresh.service", "lighthouse-refresh.timer"}
    json.loads((root / "usr/local/lib/lamplighter/lighthouse.json").read_text())
    if shutil.which("systemd-analyze"):
        units = sorted(str(path) for path in (root / "etc/systemd/system").iterdir())
        judged = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *units], check=False, capture_output=True, text=True, timeout=60
        )
        ours = [line for line in (judged.stdout + judged.stderr).splitlines() if any(name in line for name in made)]
        assert [line for line in ours if "is not executable" not in line] == []


def test_only_machines_with_a_pinned_release_are_served() -> None:
    """A download without a checksum would run as whatever came."""
    with pytest.raises(LamplighterError):
        lighthouse.user_data(stack="s", region="r", machine="riscv64")


def test_files_arrive_and_nebula_is_told_only_when_something_changed(tmp_path: Path, aws: Aws, settings: Path) -> None:
    """A reload every minute would be noise; a revocation that does not arrive leaves a lighthouse that introduces the revoked."""
    authority = Authority("a")
    aws.parameters = _parameters(tmp_path, authority)
    program.main([], settings)
    assert _reloads(tmp_path) == 1
    key = tmp_path / "etc" / "node.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert {path.name for path in (tmp_path / "etc").iterdir()} == {
        "ca.crt",
        "node.crt",
        "node.key",
        "config.yml",
        "blocklist.yml",
    }
    program.main([], settings)
    assert _reloads(tmp_path) == 1
    aws.parameters["/lamplighter/lighthouse/blocklist.yml"] = 'pki:\n  blocklist:\n    - "aa"\n'
    program.main([], settings)
    assert _reloads(tmp_path) == 2
    assert "aa" in (tmp_path / "etc" / "blocklist.yml").read_text()
    assert aws.refused == []


def test_what_nebula_refuses_never_replaces_what_it_runs_with(tmp_path: Path, aws: Aws, settings: Path) -> None:
    """A slip at home must not take the signpost of the whole mesh down."""
    aws.parameters = _parameters(tmp_path, Authority("a"))
    program.main([], settings)
    before = (tmp_path / "etc" / "config.yml").read_text()
    aws.parameters["/lamplighter/lighthouse/config.yml"] = "- no: configuration\n"
    with pytest.raises(SystemExit) as ended:
        program.main([], settings)
    assert "refuses" in str(ended.value)
    assert (tmp_path / "etc" / "config.yml").read_text() == before
    assert _reloads(tmp_path) == 1
    assert not list((tmp_path / "etc").glob(".*"))


def test_a_reload_that_failed_is_tried_again(tmp_path: Path, aws: Aws, settings: Path) -> None:
    """systemd refuses a restart that comes too often; the next minute must not believe that Nebula knows already."""
    aws.parameters = _parameters(tmp_path, Authority("a"))
    good = settings.read_text()
    settings.write_text(json.dumps(json.loads(good) | {"reload": ["false"]}))
    with pytest.raises(subprocess.CalledProcessError):
        program.main([], settings)
    settings.write_text(good)
    program.main([], settings)
    program.main([], settings)
    assert _reloads(tmp_path) == 1


def test_a_half_written_set_of_files_is_waited_for(tmp_path: Path, aws: Aws, settings: Path) -> None:
    """The machine may boot before home has written them: a timer asks again."""
    aws.parameters = _parameters(tmp_path, Authority("a"))
    del aws.parameters["/lamplighter/lighthouse/node.key"]
    with pytest.raises(SystemExit) as ended:
        program.main([], settings)
    assert "node.key" in str(ended.value)
    assert list((tmp_path / "etc").iterdir()) == []


def _archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            content = b"#!/bin/sh\n"
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_the_release_is_installed_only_when_it_is_the_pinned_one(tmp_path: Path, aws: Aws, settings: Path) -> None:
    """A lighthouse runs on the open internet: it must not run what somebody put in between."""
    (tmp_path / "bin" / "nebula").unlink()
    aws.download = _archive("nebula", "nebula-cert")
    with pytest.raises(SystemExit) as ended:
        program.main(["install"], settings)
    assert "not" in str(ended.value)
    assert list((tmp_path / "bin").iterdir()) == []
    given = json.loads(settings.read_text()) | {"sha256": hashlib.sha256(aws.download).hexdigest()}
    settings.write_text(json.dumps(given))
    program.main(["install"], settings)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "bin").iterdir()} == {
        "nebula": 0o755,
        "nebula-cert": 0o755,
    }


def test_a_long_blocklist_keeps_its_newest_entries(tmp_path: Path) -> None:
    """A parameter takes 4 KB. Every node refuses the revoked by itself; the lighthouse must not lose the latest for the oldest."""
    many = tuple(f"{number:064x}" for number in range(200))
    made = lighthouse.parameters(
        CONFIG, stack="s", bundle="b", certificate="c", key="k", blocklist=many, lighthouse_addresses=TWO
    )
    assert set(made) == {f"/s/lighthouse/{name}" for name in ("config.yml", "ca.crt", "node.crt", "node.key", "blocklist.yml")}
    text = made["/s/lighthouse/blocklist.yml"]
    assert len(text.encode()) <= lighthouse.MOST_PARAMETER
    assert many[-1] in text
    assert many[0] not in text
    with pytest.raises(LamplighterError):
        lighthouse.parameters(CONFIG, stack="s", bundle="b" * 5000, certificate="c", key="k", lighthouse_addresses=TWO)
