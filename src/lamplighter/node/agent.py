"""The agent of a cloud node: the first thing that runs there, and what ends the node. Standard library only, Python 3.10 or newer.

It makes the node's key, asks for an assignment through AWS's own authenticated channels, joins the mesh, runs the one engine in a container
(or the script that makes the machine a cluster, where others run it), tells the keeper how that goes, and ends the machine when its lease is
not renewed. It decides nothing: it has one assignment in its life. Not responsible for mounting disks or installing programs: that is
`bootstrap.sh`, which starts the agent first and tells it each step. The protocol is described in docs/guides/node.md. What a node gets is one
file that `tools/pack_agent.py` makes of this package.

The main thread is the dead-man and nothing else; all other work is in daemon threads, so that whatever hangs or breaks there, the node ends.
"""

from __future__ import annotations

import calendar
import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lamplighter.node.api import LOGS, Server
from lamplighter.node.assignment import Assignment, Cluster
from lamplighter.node.aws import METADATA, Aws, Metadata
from lamplighter.node.basics import LOG_LIMIT, VERSION, Broken, Settings, boottime, judge, last_lines, log, run, tail, write
from lamplighter.node.deadman import Deadman, watchdog
from lamplighter.node.docker import Docker
from lamplighter.node.engine import EngineState, Launch
from lamplighter.node.keys import own_key
from lamplighter.node.nebula import Nebula
from lamplighter.node.stages import Stage, Stages

SPOT_MARGIN = 20.0
"""Seconds before AWS takes the machine at which it ends itself: only so is the group's desired capacity lowered, and nothing launched anew."""
FAREWELL, TERMINATE = 10.0, 15.0
"""Seconds that `end` gives to the last words, and to AWS's answer; then comes `shutdown`."""


class Agent:
    """One node's life. `docker` and `nebula` may be stand-ins with the same methods."""

    def __init__(
        self,
        settings: Settings,
        *,
        docker: Docker | None = None,
        nebula: Nebula | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.settings = settings
        self.metadata = Metadata(settings.url("metadata", METADATA))
        self.aws = Aws(settings, self.metadata)
        self.docker = docker or Docker(settings, self.aws)
        self.nebula = nebula or Nebula(settings)
        self.boot_id = tail(Path("/proc/sys/kernel/random/boot_id"), 64).strip()
        self.deadman = Deadman(settings.path("/var/lib/lamplighter/deadman.json"), settings, clock=clock, boot_id=self.boot_id)
        self.instance, self.public_key = "", ""
        self.assignment: Assignment | None = None
        self.engine = EngineState()
        self.notice: dict[str, Any] | None = None
        self.failure: dict[str, str] | None = None
        self.steps: dict[str, dict[str, Any]] = {}
        self._clock = clock
        self._outbox: queue.Queue[dict[str, Any]] = queue.Queue(256)
        self._told = 0.0
        self._threads = set[str]()
        self._wake, self._stopped = threading.Event(), threading.Event()
        self.stages = Stages(settings.path("/run/lamplighter/stages.json"), self._tell)

    # -- the dead-man

    def run(self) -> int:
        """Until the node has ended; 0 when AWS or the machine itself has taken the order."""
        for work in (self._follow_steps, self._send, self._live, self._watch_spot):
            self._spawn(work)
        while not self._stopped.is_set():
            if reason := self.deadman.due():
                return self.end(reason)
            watchdog()
            self._wake.wait(1.0)
            self._wake.clear()
        return 0

    def stop(self) -> None:
        """Leave off without ending the node, as a killed agent does (tests)."""
        self._stopped.set()
        self._wake.set()

    def end(self, reason: str) -> int:
        """Last words, AWS, `shutdown`: each with a limit, and none can keep the next from its turn. Even a log or a disk that hangs cannot."""
        self.deadman.end(reason)
        self._limited(FAREWELL, lambda: self._farewell(reason))
        taken = self.settings.mode == "node" and self._limited(TERMINATE, self._terminate)
        command = self.settings.testing.get("shutdown", ()) if self.settings.testing else ("shutdown", "-h", "now")
        taken = (bool(command) and run(command, 5).returncode == 0) or taken
        self._stopped.set()
        return 0 if taken else 1

    def _limited(self, seconds: float, work: Callable[[], None]) -> bool:
        done = threading.Event()

        def whole() -> None:
            work()
            done.set()

        try:
            threading.Thread(target=whole, daemon=True).start()
        except RuntimeError:  # no more threads: then without it
            return False
        return done.wait(seconds)

    def _farewell(self, reason: str) -> None:
        log.warning("the node ends: %s", reason)
        self.deadman.keep()
        detail = self.failure["detail"] if self.failure else None
        with contextlib.suppress(OSError, ValueError, KeyError):
            self._identify()
            self.aws.send(self._message("end", reason=reason, detail=detail, failure=self.failure), timeout=3)
            for name in LOGS:
                if text := self.log(name, LOG_LIMIT):
                    self.aws.put(f"nodes/{self.sender}/logs/{name}.log", text.encode(), timeout=3)

    def _terminate(self) -> None:
        while not self._stopped.is_set():
            try:
                self._identify()
                self.aws.terminate(self.instance)
                return
            except (OSError, ValueError, KeyError) as error:
                log.warning("AWS does not end this instance: %s", error)
            self._stopped.wait(1)

    # -- the life of a node

    @property
    def sender(self) -> str:
        """How AWS names this node to the keeper."""
        return f"{self.settings.node_role_id}:{self.instance}"

    def _identify(self) -> None:
        """Who this is. Raises OSError."""
        self.instance = self.instance or self.metadata.get("instance-id") or ""

    @property
    def host(self) -> str:
        """Where the node listens: the mesh's address alone."""
        assert self.assignment is not None  # noqa: S101 - only asked once there is one
        return str(self.settings.testing.get("agent_host", self.assignment.overlay))

    def _live(self) -> None:
        self.stages.begin("boot")
        while not self.instance:
            try:
                self._identify()
            except OSError as error:
                log.warning("who am I? %s", error)
                self._pause(1)
        if self.settings.mode == "bake":
            return
        self.public_key = own_key(self.settings.path("/etc/nebula/node.key"))
        self._read_assignment()
        self.stages.end("boot")
        self.stages.begin("mesh")
        if self.assignment and self.assignment.engine:
            self.stages.skip("cluster")
        for work in (self._run_engine, self._run_mesh, self._serve):
            self._spawn(work)

    def _read_assignment(self) -> None:
        """From S3, or after a restart from before: then Nebula's files on disk may be newer than those in it."""
        kept = self.settings.path("/run/lamplighter/assignment.json")
        with contextlib.suppress(OSError, ValueError):
            self.assignment = Assignment.parse(json.loads(kept.read_text()), self.instance)
        hello = -15.0
        while self.assignment is None:
            if time.monotonic() - hello >= 15:
                self._post(self._message("hello", public_key=self.public_key))
                hello = time.monotonic()
            try:
                if found := self.aws.get(f"nodes/{self.sender}/assignment.json"):
                    assignment = Assignment.parse(json.loads(found), self.instance)
                    self.nebula.install(assignment.nebula)
                    write(kept, found.decode())
                    self.assignment = assignment
                    break
            except (OSError, ValueError) as error:
                log.warning("no assignment: %s", error)
            self._pause(0.5)
        for name, seconds in self.assignment.limits.items():
            if 0 < seconds < 86_400:
                setattr(self.deadman, name, seconds)

    def _run_mesh(self) -> None:
        failed = 0
        while True:
            if self.nebula.installed() and not self.nebula.alive():
                with contextlib.suppress(OSError):
                    self.nebula.start()
                self._pause(0.3)
                failed = 0 if self.nebula.alive() else failed + 1
                if failed >= 5 and self.stages.current() == "mesh":
                    raise Broken("mesh_timeout", "nebula does not run: " + last_lines(self.log("nebula", 4096)))
            self._pause(2 if self.nebula.alive() else 0.3)

    def _await_overlay(self) -> None:
        """Until the mesh has given this machine its address."""
        while True:
            with contextlib.suppress(OSError), socket.create_server((self.host, 0)):
                return
            self._pause(0.1)

    def _run_engine(self) -> None:
        assert self.assignment is not None  # noqa: S101 - started once there is one
        if cluster := self.assignment.cluster:
            return self._run_cluster(cluster)
        launch = Launch(self.settings, self.assignment, self.docker, self.aws, self.stages, self.host, self.engine, self._pause)
        try:
            launch.pull()
            self._await_overlay()
            launch.start()
            launch.watch()
        except Broken as broken:  # whatever stage is shown: it may be still the mesh's turn
            self.fail(broken.reason, broken.detail, "pull" if self.engine.state == "pulling" else "load")

    def _run_cluster(self, cluster: Cluster) -> None:
        """Its script waits for the mesh by itself, so that downloads need not; and writes its own log, so that it outlives this process."""
        while not self.docker.ready():
            self._pause(0.2)
        self.stages.begin("cluster")
        self.engine.state = "starting"
        for name, text in cluster.files.items():
            write(self.settings.path(name), text)
        script = self.settings.path("/run/lamplighter/cluster.sh")
        write(script, cluster.script)
        # The one of an agent that was killed may still run: then this one waits, and finds everything done.
        done = run(("flock", f"{script}.lock", "bash", str(script)), 86_400)
        if done.returncode != 0:
            text = self.log("cluster", 4096) + done.stdout
            self.fail(judge(text, "provider_error"), last_lines(text), "cluster")
            return
        self.stages.end("cluster")
        self.engine.state = "ready"

    def kubeconfig(self) -> str:
        """As k3s wrote it, but with the mesh's address."""
        text = self.settings.path("/etc/rancher/k3s/k3s.yaml").read_text()
        return text.replace("127.0.0.1", self.host)

    def _serve(self) -> None:
        self._await_overlay()
        with Server((self.host, self.settings.agent_port), self) as server:
            server.timeout = 0.2
            while not self._stopped.is_set():
                server.handle_request()

    def met(self) -> None:
        """The keeper dialled: the mesh works in both directions."""
        self.stages.end("mesh")

    @property
    def token(self) -> str:
        """Which the keeper shows."""
        assert self.assignment is not None  # noqa: S101 - nobody can ask before
        return self.assignment.agent_token

    # -- spot, bootstrap's steps

    def _watch_spot(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError, KeyError):
                if (text := self.metadata.get("spot/instance-action")) is not None:
                    at = calendar.timegm(time.strptime(json.loads(text)["time"], "%Y-%m-%dT%H:%M:%SZ"))
                    self.notice = {"kind": "interruption", "at": at, "detail": text[:200]}
                    if time.time() >= at - SPOT_MARGIN:
                        self.ask_end("spot")
                elif self.notice is None and (text := self.metadata.get("events/recommendations/rebalance")) is not None:
                    self.notice = {"kind": "rebalance", "at": None, "detail": text[:200]}
            self._pause(2)

    def _follow_steps(self) -> None:
        folder = self.settings.path("/run/lamplighter/steps")
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            for path in sorted(folder.glob("*.json")):
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    found = json.loads(path.read_text())
                    self.step(found["name"], found["state"], found["at"], found.get("detail", ""), found.get("reason", ""))
                path.unlink()  # after an OSError, as when AWS does not answer, it is tried again
            self._pause(0.3)

    def step(self, name: str, state: str, at: float, detail: str = "", reason: str = "") -> None:
        """A step of bootstrap.sh begins, ends or fails."""
        step = self.steps.setdefault(name, {"started_at": at, "ended_at": None})
        log.info("step %s: %s %s", name, state, detail)
        if state == "begin":
            self.stages.update(self.stages.current(), None, f"{name}: {detail}" if detail else name)
        elif state == "end":
            step["ended_at"] = at
            if name == "baked":
                self._baked()
        elif state == "fail":
            self.fail(reason or "provider_error", f"{name}: {detail}")

    def _baked(self) -> None:
        """Say what each step of a bake cost, and let bootstrap.sh go on to clear what is this machine's own."""
        steps = {name: round(one["ended_at"] - one["started_at"], 1) for name, one in self.steps.items() if one["ended_at"]}
        message = self._message("baked", steps=steps)
        self.aws.put(f"nodes/{self.sender}/logs/baked.json", json.dumps(message).encode())
        self.aws.send(message)
        write(self.settings.path("/run/lamplighter/baked"), "")

    # -- what is told, and asked

    def fail(self, reason: str, detail: str, stage: str = "") -> None:
        """The node will never serve: say why, and end."""
        if self.failure is None:
            stage = stage or self.stages.current()
            log.error("%s fails (%s): %s", stage, reason, detail)
            self.failure = {"stage": stage, "reason": reason, "detail": detail}
            self._post(self._message("stage", name=stage, state="fail", progress=None, detail=detail, reason=reason))
            self.ask_end("failed")

    def ask_end(self, reason: str) -> None:
        """The main thread ends the node at once."""
        self.deadman.end(reason)
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """What `/status` answers."""
        return {
            "version": VERSION,
            "instance": self.instance,
            "boot_id": self.boot_id,
            "uptime": round(self._clock() - self.deadman.born, 1),
            "stages": self.stages.listed(),
            "steps": dict(self.steps),
            "lease": {"remaining": round(self.deadman.remaining(), 1)},
            "notice": self.notice,
            "engine": vars(self.engine),
            "failure": self.failure,
            "certificate": {"fingerprint": self.nebula.fingerprint()},
            "public_key": self.public_key,
        }

    def log(self, name: str, limit: int) -> str:
        """The end of one of the node's logs."""
        if name == "engine" and not (self.assignment and self.assignment.cluster):
            return self.docker.logs().encode()[-limit:].decode(errors="replace")
        return tail(self.settings.path(f"/var/log/lamplighter/{name}.log"), limit)

    def _tell(self, stage: Stage, state: str) -> None:
        """Progress only while the keeper cannot ask, and not too often."""
        if state == "progress":
            if self.stages.current() not in ("boot", "mesh") or time.monotonic() - self._told < 3:
                return
            self._told = time.monotonic()
        self._post(self._message("stage", name=stage.name, state=state, progress=stage.progress, detail=stage.detail))

    def _message(self, kind: str, **content: Any) -> dict[str, Any]:
        return {"version": VERSION, "kind": kind, "instance": self.instance, "at": time.time(), **content}

    def _post(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(queue.Full):
            self._outbox.put_nowait(message)

    def _send(self) -> None:
        while True:
            message = self._outbox.get()
            while not self.instance:
                self._pause(0.2)
            for attempt in range(10):
                try:
                    self.aws.send(message | {"instance": self.instance})
                    break
                except OSError as error:
                    log.warning("not sent (%s): %s", message["kind"], error)
                    self._pause(min(10, 0.5 * 2**attempt))

    # -- threads

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise SystemExit

    def _spawn(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread of its own, once; one that breaks is started again, a little later each time."""

        def keep() -> None:
            wait = 0.5
            while not self._stopped.wait(wait - 0.5):
                try:
                    return work()
                except SystemExit:  # by `_pause`
                    return None
                except Broken as broken:
                    return self.fail(broken.reason, broken.detail)
                except Exception:  # noqa: BLE001 - whatever it is, it is written down, and the thread must go on
                    log.exception("a thread broke and is started again")
                wait = min(30, 2 * wait)
            return None

        if work.__name__ not in self._threads:
            self._threads.add(work.__name__)
            threading.Thread(target=keep, daemon=True).start()
