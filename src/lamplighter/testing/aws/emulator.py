"""The pretended AWS as one object: start it, point boto3 or Terraform at it, steer what a real AWS does by itself.

moto in server mode answers; where it lacks or differs, this package's other modules take its place. Nothing here proves what the real AWS does: prices,
capacity, timing and the completeness of permissions are made up. One per process, since moto's state is the process's.
"""

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer, make_server

from lamplighter.testing.aws import (
    buckets,
    budgets,
    callers,
    events,
    groups,
    guard,
    machines,
    metadata,
    prices,
    queues,
    schedule,
    templates,
)  # fmt: skip
from lamplighter.testing.aws.capacity import Capacity
from lamplighter.testing.aws.front import Front
from lamplighter.testing.aws.guard import ACCOUNT, KEY, REGION
from lamplighter.testing.aws.metadata import MetadataServer
from lamplighter.testing.aws.world import Pace, Record, World, current

NOTICE_SECONDS = 120.0
_running = threading.Lock()
_LIVE = ("pending", "running", "shutting-down")
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Machine:
    """One instance as it is now. `sender`: what SQS tells of its messages; "" without a role."""

    id: str
    state: str
    group: str | None
    market: str
    instance_type: str
    zone: str
    private_ip: str
    launched_at: float
    tags: Mapping[str, str]
    sender: str
    user_data: bytes
    region: str

    @property
    def pool(self) -> str | None:
        """The pool in its tags."""
        return self.tags.get("lamplighter:pool")


class Emulator:
    """A pretended AWS on this machine's loopback; `with Emulator() as aws`.

    `threaded`: whether things happen by themselves as time passes; without, only `advance()` makes them happen, which is what unit tests want.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, region: str = REGION, pace: Pace | None = None, threaded: bool = True
    ) -> None:
        guard.check_address(host)
        self.region = region
        self._bind = (host, port)
        self._threaded = threaded
        self._world: World = current()
        self._pace = pace
        self._servers: list[tuple[BaseWSGIServer, threading.Thread]] = []
        self._metadata: list[MetadataServer] = []
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None
        self._clients: dict[tuple[str, str], Any] = {}
        self.url = ""

    # ---- its life

    def start(self) -> "Emulator":
        """Listen, with nothing in it. Raises RuntimeError when another one runs in this process."""
        if not _running.acquire(blocking=False):
            message = "Another emulator runs in this process; moto's state is one per process."
            raise RuntimeError(message)
        _install()
        self._world.pace = self._pace or Pace()
        self.reset()
        self._ended.clear()
        self.url = self._serve(*self._bind)
        if self._threaded:
            self._ticker = threading.Thread(target=self._tick, daemon=True, name="emulated-aws")
            self._ticker.start()
        return self

    def stop(self) -> None:
        """Stop listening and forget everything."""
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join(_PATIENCE)
        for service in self._metadata:
            service.close()
        for server, thread in self._servers:
            server.shutdown()
            server.server_close()
            thread.join(_PATIENCE)
        self._metadata, self._servers, self._clients, self._ticker = [], [], {}, None
        self._world.appeared.clear()
        self._world.vanished.clear()
        self.reset()
        _running.release()

    def __enter__(self) -> "Emulator":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reset(self) -> None:
        """An empty account, at the real time, with capacity for everything. Who listens to instances stays."""
        with self._world.lock:
            moto_api_backend.reset()
            self._world.clear()
            self._world.clock.offset = 0.0

    def listen(self, listening: socket.socket, tls: ssl.SSLContext | None = None) -> str:
        """Also answer on a socket that the caller bound, such as one inside of a network namespace; its URL. `tls`: as AWS's own endpoints do."""
        host = str(listening.getsockname()[0])
        guard.check_address(host)
        return self._serve(host, int(listening.getsockname()[1]), listening.detach(), tls)

    def _serve(self, host: str, port: int, fd: int | None = None, tls: ssl.SSLContext | None = None) -> str:
        server = make_server(host, port, Front(self._control), threaded=True, request_handler=_Quiet, fd=fd, ssl_context=tls)
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True, name="emulated-aws-http"
        )
        thread.start()
        self._servers.append((server, thread))
        bound_host, bound_port = server.server_address[:2]
        return f"http{'s' if tls else ''}://{bound_host!s}:{bound_port}"

    def _tick(self) -> None:
        while not self._ended.wait(max(0.005, self._world.tick())):
            pass

    # ---- how it is reached

    def environment(self, url: str | None = None) -> dict[str, str]:
        """Variables for boto3 and Terraform: this endpoint, dummy keys, no way to a real account. Put them over, and take the others' out."""
        return {
            "AWS_ENDPOINT_URL": url or self.url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region, "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "2", "CHECKPOINT_DISABLE": "1",
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
        }  # fmt: skip

    def client(self, service: str, region: str | None = None) -> Any:
        """A boto3 client of a person."""
        key = (service, region or self.region)
        if key not in self._clients:
            self._clients[key] = _SESSION.client(
                service,
                region_name=key[1],
                endpoint_url=self.url,
                aws_access_key_id=KEY,
                aws_secret_access_key=KEY,
                config=_CONFIG,
            )
        return self._clients[key]

    def node_client(self, service: str, instance_id: str) -> Any:
        """A boto3 client with the credentials of an instance's role."""
        record = self._record(instance_id)
        with self._world.lock:
            keys = callers.credentials(record)
        return _SESSION.client(
            service, region_name=record.region, endpoint_url=self.url, aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"], aws_session_token=keys["Token"], config=_CONFIG,
        )  # fmt: skip

    def seed_stack(
        self, stack: str = "lamplighter", installation: str = "test", region: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Make by boto3 what Terraform would; the manifest. See `stack.seed`."""
        from lamplighter.testing.aws.stack import seed

        return seed(self, stack=stack, installation=installation, region=region or self.region, **options)

    # ---- what is in it

    @property
    def capacity(self) -> Capacity:
        """What machines can be had."""
        return self._world.capacity

    @property
    def pace(self) -> Pace:
        """How quick it is."""
        return self._world.pace

    @property
    def quotas(self) -> dict[str, float]:
        """vCPU quotas by code, where they differ from the usual ones."""
        return self._world.quotas

    @property
    def history(self) -> list[tuple[float, str, str]]:
        """When (Unix seconds) what happened to which group or instance: `desired N`, `pending`, `running`, ..."""
        return list(self._world.history)

    @property
    def calls(self) -> list[str]:
        """What people (the keeper) asked for so far, such as `autoscaling:SetDesiredCapacity`."""
        return self._world.calls

    def cut_off(self, away: bool = True) -> None:
        """Nobody but nodes reaches AWS any more: the keeper is dead, or home's internet is down."""
        self._world.cut_off = away

    def cut_off_after(self, action: str, count: int = 1) -> None:
        """Cut off right behind the next `count`-th call whose name ends so."""
        self._world.cut_after = (action, count)

    def hold_to(self, policy: dict[str, Any] | None) -> None:
        """From now on people (the keeper) may do only what this IAM policy allows; None: everything again."""
        self._world.keeper_policy = policy

    @property
    def is_cut_off(self) -> bool:
        """Whether it is so."""
        return self._world.cut_off

    @property
    def denied(self) -> list[str]:
        """What nodes were refused, in AWS's words."""
        return self._world.denied

    def now(self) -> float:
        """Unix seconds as the emulated AWS has them."""
        return self._world.now()

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass for AWS (not for SQS's visibility and not for anybody's own clock)."""
        self._world.advance(seconds)

    def instances(self, *, live: bool = False) -> list[Machine]:
        """All instances, also the terminated that are still shown; `live`: only what is billed or on its way out."""
        with self._world.lock:
            found = [_machine(record) for record in self._world.records.values()]
        return [machine for machine in found if not live or machine.state in _LIVE]

    def instance(self, instance_id: str) -> Machine:
        """One of them. Raises KeyError."""
        with self._world.lock:
            return _machine(self._record(instance_id))

    def activities(self, group: str, region: str | None = None) -> list[dict[str, Any]]:
        """A group's scaling activities, newest first."""
        return list(self._world.activities.get((region or self.region, group), []))

    def _record(self, instance_id: str) -> Record:
        return self._world.records[instance_id]

    # ---- what a real one does by itself

    def on_instance(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of each instance that begins to run. It must be quick: AWS waits for it."""
        self._world.appeared.append(listener)

    def on_end(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of each instance as it stops, whoever ended it."""
        self._world.vanished.append(listener)

    def forget(self, *listeners: Callable[[str], None]) -> None:
        """Call these no more."""
        with self._world.lock:
            for told in (self._world.appeared, self._world.vanished):
                told[:] = [one for one in told if one not in listeners]

    def reclaim(self, instance_id: str, seconds: float = NOTICE_SECONDS, *, announced: bool = True) -> None:
        """Take a spot instance back in `seconds`: the event, the notice in its metadata, then its end. `announced`: False takes it without a word."""
        with self._world.lock:
            record = self._record(instance_id)
            if announced:
                record.notice = self._world.now() + seconds
                events.interrupted(record)
            self._world.after(seconds, lambda: machines.end(record, machines.RECLAIMED))

    def rebalance(self, instance_id: str) -> None:
        """Warn of a higher risk to be taken: the event, and the notice in its metadata."""
        with self._world.lock:
            record = self._record(instance_id)
            record.rebalance = self._world.now()
            events.rebalance(record)

    def shut_down(self, instance_id: str) -> None:
        """The machine shut itself down (`shutdown -h now`), which terminates it; its group notices and replaces it."""
        with self._world.lock:
            machines.end(self._record(instance_id), machines.INSIDE)

    def run_scheduled(self, group: str, name: str = "dead-man") -> int:
        """How often a scheduled action has run."""
        action = self._world.actions.get((self.region, group, name))
        return 0 if action is None else int(action.runs)

    def metadata(
        self, instance_id: str, host: str = "127.0.0.1", port: int = 0, *, listening: socket.socket | None = None
    ) -> MetadataServer:
        """The metadata service of one instance, until it is closed or the emulator stops."""
        service = MetadataServer(self._record(instance_id), host, port, listening=listening)
        self._metadata.append(service)
        return service

    def metadata_text(self, instance_id: str, path: str) -> str | bytes | None:
        """What the metadata service would tell for `path`."""
        with self._world.lock:
            return metadata.look_up(self._record(instance_id), path)

    # ---- by HTTP, for whoever runs in another process

    def _control(self, method: str, path: str, body: dict[str, Any]) -> Any:
        verbs: dict[str, Callable[[], Any]] = {
            "POST reset": self.reset,
            "POST advance": lambda: self.advance(float(body["seconds"])),
            "POST reclaim": lambda: self.reclaim(body["instance"], float(body.get("seconds", NOTICE_SECONDS))),
            "POST rebalance": lambda: self.rebalance(body["instance"]),
            "POST shut-down": lambda: self.shut_down(body["instance"]),
            "POST capacity/none": lambda: self.capacity.none(**body),
            "POST capacity/plenty": lambda: self.capacity.plenty(**body),
            "POST seed": lambda: self.seed_stack(**body),
            "GET instances": lambda: [_shown(machine) for machine in self.instances()],
            "GET denied": lambda: self.denied,
            "GET calls": lambda: self.calls,
            "POST cut-off": lambda: self.cut_off(bool(body.get("away", True))),
            "GET environment": self.environment,
        }
        return verbs[f"{method} {path}"]()


class _Quiet(MotoRequestHandler):
    def log(self, *_: Any) -> None:
        """Nothing: a test's output stays readable."""


_SESSION = boto3.session.Session(aws_access_key_id=KEY, aws_secret_access_key=KEY, region_name=REGION)
_CONFIG = Config(
    retries={"max_attempts": 1}, connect_timeout=5, read_timeout=60, s3={"addressing_style": "path"}, max_pool_connections=32
)


def _install() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for module in (buckets, budgets, callers, events, groups, machines, prices, queues, schedule, templates):
        module.install()


def _machine(record: Record) -> Machine:
    instance = record.instance
    role = machines.role_of(record)
    return Machine(
        id=instance.id, state=instance.state, group=record.group, market=record.market, instance_type=instance.instance_type,
        zone=instance.placement.zone, private_ip=instance.private_ip, launched_at=instance.launch_time.timestamp(),
        tags={tag["key"]: tag["value"] for tag in instance.get_tags()}, sender=f"{role.id}:{instance.id}" if role else "",
        user_data=metadata.user_data(record), region=record.region,
    )  # fmt: skip


def _shown(machine: Machine) -> dict[str, Any]:
    return {
        "id": machine.id, "state": machine.state, "group": machine.group, "market": machine.market, "type": machine.instance_type,
        "zone": machine.zone, "private_ip": machine.private_ip, "tags": dict(machine.tags), "sender": machine.sender,
    }  # fmt: skip


__all__ = ["ACCOUNT", "NOTICE_SECONDS", "Emulator", "Machine"]
