"""The agent's interface over the mesh: who may ask what, and what hostile input does. (Nothing.)"""

import concurrent.futures
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.cloud import Cloud, assignment
from tests.node.parts import TOKEN, Node, next_host, node, until


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """AWS on loopback."""
    with Cloud() as running:
        yield running


@pytest.fixture(scope="module")
def made(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with a ready engine; these tests leave it as it is."""
    host = next_host()
    root = tmp_path_factory.mktemp("node")
    with node(cloud, root, host) as one:
        cloud.assign(assignment(host))
        one.start()
        until(lambda: one.agent.engine.state == "ready")
        until(lambda: _open(host))
        (root / "var/log/lamplighter").mkdir(parents=True, exist_ok=True)
        (root / "var/log/lamplighter/bootstrap.log").write_text("first line\n" + "x" * 1000 + "\nlast ü\n")
        yield one


def _open(host: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, 7443)) == 0


def raw(one: Node, data: bytes, *, wait: float = 8.0) -> bytes:
    """What comes back for these very bytes."""
    with socket.create_connection((one.host, 7443), timeout=wait) as connection:
        connection.sendall(data)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except ConnectionResetError:
            pass
    return found


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/status"),
        ("GET", "/logs?name=agent"),
        ("POST", "/lease"),
        ("POST", "/nebula"),
        ("POST", "/end"),
        ("GET", "/nothing"),
    ],
)
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "ü"])
def test_only_the_token_opens_it(made: Node, method: str, path: str, token: str | None) -> None:
    """Whoever reaches the address without it learns nothing, not even which paths there are."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
    data = (
        f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(f"{k}: ".encode() + v + b"\r\n" for k, v in headers.items()) + b"\r\n"
    )
    assert raw(made, data).startswith(b"HTTP/1.0 401")


def test_health_is_open_and_says_nothing(made: Node) -> None:
    """A check of the mesh needs no secret and learns none."""
    assert made.ask("GET", "/health", token=None).json() == {"ok": True}


def test_the_status_is_what_the_keeper_reads(made: Node) -> None:
    """These names are a contract with the provider."""
    status = made.ask("GET", "/status").json()
    assert {
        "version", "instance", "boot_id", "uptime", "stages", "lease", "notice", "engine", "failure", "certificate", "public_key",
    } <= set(status)  # fmt: skip
    assert status["version"] == 1
    assert [stage["name"] for stage in status["stages"]] == ["boot", "mesh", "pull", "load"]
    assert set(status["stages"][0]) == {"name", "started_at", "ended_at", "progress", "detail"}
    assert status["certificate"] == {"fingerprint": "ab" * 32}


def test_a_lease_is_renewed_and_capped(made: Node) -> None:
    """Nobody can make a node live longer than the pool's lease at a time."""
    assert made.ask("POST", "/lease", {"seconds": 60}).json() == {"remaining": 60}
    assert made.ask("POST", "/lease", {"seconds": 300_000}).json() == {"remaining": 300}


@pytest.mark.parametrize("seconds", [0, -1, True, "60", None, [], {}, 1e300])
def test_a_lease_of_rubbish_changes_nothing(made: Node, seconds: Any) -> None:
    """A wrong renewal is refused and the old lease stays."""
    made.ask("POST", "/lease", {"seconds": 100})
    assert made.ask("POST", "/lease", {"seconds": seconds}).status_code == 400
    assert 90 < made.ask("GET", "/status").json()["lease"]["remaining"] <= 100


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"seconds": NaN}', b'{"seconds": Infinity}', b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(made: Node, body: bytes) -> None:
    """A scanner on the mesh, or a broken keeper."""
    head = f"POST /lease HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert raw(made, head + body).split(b" ")[1:2] in ([b"400"], [])
    assert made.ask("GET", "/health", token=None).status_code == 200


@pytest.mark.parametrize("length", ["-1", "x", "99999999999", "1e3", "2000000"])
def test_a_length_that_lies_is_refused_unread(made: Node, length: str) -> None:
    """No body is ever read beyond a mebibyte."""
    data = f"POST /lease HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n".encode()
    assert raw(made, data).startswith(b"HTTP/1.0 400")


def test_a_body_that_never_comes_is_given_up(made: Node) -> None:
    """A client that stalls holds one of sixteen places for five seconds, not for ever."""
    began = time.monotonic()
    data = f"POST /lease HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 10\r\n\r\n".encode()
    raw(made, data)
    assert time.monotonic() - began < 7


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"../../etc/cron.d/job": "x"},
        {"node.key": "mine"},
        {"/etc/passwd": "x"},
        {"ca.crt": ""},
        {"ca.crt": None},
        {"ca.crt": ["x"]},
        "ca.crt",
        None,
        ["ca.crt"],
    ],
)
def test_only_nebulas_own_files_are_written(made: Node, files: Any) -> None:
    """Not the key, and nothing outside the folder, whoever holds the token."""
    before = dict(made.mesh.files)
    assert made.ask("POST", "/nebula", {"files": files}).status_code == 400
    assert made.mesh.files == before


def test_a_renewed_certificate_is_taken(made: Node) -> None:
    """At half its life the keeper brings a new one; the running mesh reads it again."""
    reloads = made.mesh.reloads
    assert made.ask("POST", "/nebula", {"files": {"node.crt": "new\n"}}).json() == {"fingerprint": "ab" * 32}
    assert made.mesh.files["node.crt"] == "new\n"
    assert made.mesh.reloads == reloads + 1


def test_logs_are_read_from_their_end(made: Node) -> None:
    """The last lines say why."""
    assert made.ask("GET", "/logs?name=bootstrap&bytes=8").text.endswith("last ü\n")
    assert made.ask("GET", "/logs?name=bootstrap").text.startswith("first line")
    assert made.ask("GET", "/logs?name=engine").text == "the engine's log"


@pytest.mark.parametrize(
    "query", ["", "name=", "name=../../etc/shadow", "name=agent&bytes=-1", "name=agent&bytes=x", "name=agent&bytes=0", "bytes=1"]
)
def test_no_other_file_is_read(made: Node, query: str) -> None:
    """The interface reads four logs and nothing else of the machine."""
    assert made.ask("GET", f"/logs?{query}").status_code == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "GET\0"])
def test_other_methods_are_refused(made: Node, method: str) -> None:
    """There are two."""
    found = raw(made, f"{method} /status HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert found.split(b" ")[1] in (b"400", b"501")


def test_paths_that_are_not_there(made: Node) -> None:
    """With the token one may know it."""
    for method, path in (("GET", "/"), ("POST", "/status"), ("GET", "/lease"), ("POST", "/" + "x" * 5000)):
        assert made.ask(method, path).status_code == 404


def test_endless_headers_end(made: Node) -> None:
    """The library's own limits hold: a hundred headers, and no line beyond 64 KiB."""
    assert b" 431 " in raw(made, b"GET /health HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(200)) + b"\r\n")[:40]
    assert b" 414 " in raw(made, b"GET /" + b"x" * 70_000)[:40]


def test_one_too_many_at_a_time_is_turned_away_and_the_rest_served(made: Node) -> None:
    """Idle connections cannot use up the machine's threads, and leave by themselves."""
    idle = [socket.create_connection((made.host, 7443), timeout=5) for _ in range(40)]
    try:
        time.sleep(0.3)
        assert sum(_closed(one) for one in idle) >= 20
    finally:
        for one in idle:
            one.close()
    until(lambda: made.ask("GET", "/health", token=None).status_code == 200)


def _closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_many_at_once_are_answered(made: Node) -> None:
    """Several keepers' loops, and a person who looks."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: made.ask("GET", "/status").status_code, range(40)))
    assert set(found) == {200}


def test_asked_to_end_it_answers_and_ends(cloud: Cloud, tmp_path: Path) -> None:
    """The keeper has its answer before the machine goes; a lease that comes too late changes nothing."""
    host = next_host()
    with node(cloud, tmp_path, host) as one:
        cloud.assign(assignment(host))
        one.start()
        until(lambda: _open(host))
        assert one.ask("POST", "/end", {"reason": "idle"}).status_code == 202
        until(lambda: one.result)
        assert one.agent.deadman.ending == "asked"
    assert cloud.kinds("end")[-1]["reason"] == "asked"
    assert cloud.terminated()
    assert json.dumps(cloud.messages).count(TOKEN) == 0
