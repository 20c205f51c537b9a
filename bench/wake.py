"""`python -m bench.wake`: how long a person waits for the first token of a model that is asleep, with the real bundled model.

Starts `lamplighter up` in a folder of its own, then puts the model to sleep and asks it again and again. The engine shares the cores with
everything else, as on a laptop. Not part of the gateway's own figures (`python -m bench`).
"""

import argparse
import contextlib
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

KEY = "lk-bench-0123456789abcdefghij"
ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / ".cache" / "models"
CONFIG = "models: {small: {engine: llamacpp, pool: here, source: bundled}}\npools: {here: {kind: process}}\ngateway: {early_headers: 0s}\n"
BODY = {"model": "small", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8, "stream": True}
_LIMIT = 120.0


@contextlib.contextmanager
def lamplighter() -> Iterator[tuple[httpx.Client, Path]]:
    """A client of a server that has the model's file and has never woken it, and its data folder."""
    with tempfile.TemporaryDirectory(prefix="lamplighter-bench-") as folder:
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        MODELS.mkdir(parents=True, exist_ok=True)
        (data / "models").symlink_to(MODELS)  # fetched once, by whichever run comes first
        file = Path(folder) / "lamplighter.yaml"
        file.write_text(CONFIG)
        command = [sys.executable, "-m", "lamplighter", "up", "--port", "0", "--data", str(data), "--config", str(file)]
        with (Path(folder) / "log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, env={"LAMPLIGHTER_ADMIN_KEY": KEY, "PATH": ""})
            try:
                yield _ready(server, data), data
            finally:
                server.terminate()
                server.wait(60)


def _ready(server: subprocess.Popen[bytes], data: Path) -> httpx.Client:
    end = time.monotonic() + _LIMIT
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
            url = json.loads((data / "run" / "server.json").read_text())["url"]
            client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=_LIMIT)
            if client.get("/ready").status_code == 200:
                return client
        time.sleep(0.05)
    sys.exit("lamplighter did not start")


def state(client: httpx.Client) -> dict[str, Any]:
    """The model's status."""
    return dict(client.get("/api/status").raise_for_status().json()["models"][0])


def asleep(client: httpx.Client) -> None:
    """Put the model to sleep and wait until nothing of it is left."""
    client.post("/api/models/small/sleep", json={}).raise_for_status()
    end = time.monotonic() + _LIMIT
    while state(client)["state"] != "asleep":
        if time.monotonic() > end:
            sys.exit("the model does not go to sleep")
        time.sleep(0.05)


def ask(client: httpx.Client) -> tuple[float, float, float]:
    """Seconds from asking until the headers, the first line (a heartbeat) and the first token."""
    began = time.perf_counter()
    line_after = 0.0
    with client.stream("POST", "/v1/chat/completions", json=BODY) as answer:
        headers_after = time.perf_counter() - began
        answer.raise_for_status()
        for line in answer.iter_lines():
            line_after = line_after or time.perf_counter() - began
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return headers_after, line_after, time.perf_counter() - began
    sys.exit("the answer had no token")


def overheads(data: Path) -> list[tuple[float, float]]:
    """Of each wake, from the store: seconds from asked to ready, and what of them was no stage of the engine's."""
    with contextlib.closing(sqlite3.connect(f"file:{data / 'lamplighter.db'}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT started_at, ended_at, stages FROM wakes WHERE outcome = 'ready' ORDER BY started_at"
        ).fetchall()
    found = []
    for started_at, ended_at, stages in rows:
        spent = sum(stage["ended_at"] - stage["started_at"] for stage in json.loads(stages) if stage["ended_at"])
        found.append((ended_at - started_at, ended_at - started_at - spent))
    return found


def main() -> int:
    """Prints a table of medians and maxima."""
    parser = argparse.ArgumentParser(prog="python -m bench.wake", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    found: list[tuple[float, ...]] = []
    with lamplighter() as (client, data):
        ask(client)  # reads the file from the disk once; every later wake finds it in the page cache, as at home
        for _ in range(rounds):
            asleep(client)
            found.append(ask(client))
        whole = overheads(data)[1:]
    found = [(*times, *wake) for times, wake in zip(found, whole, strict=True)]
    print(f"asleep to first token, {rounds} wakes of the bundled model, seconds")
    print("|                                      | median |   max |\n|--------------------------------------|--------|-------|")
    names = ("headers", "first heartbeat", "first token", "the wake, from asked to ready", "of it not the engine's own stages")
    for name, column in zip(names, zip(*found, strict=True), strict=True):
        print(f"| {name:36} | {statistics.median(column):6.2f} | {max(column):5.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
