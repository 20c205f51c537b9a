"""The life of one pod on a pretended node: pull, init, start, ready, fail, end, told as a kubelet tells it by status, events and logs."""

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING, Any

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes.api import Api
from lamplighter.testing.kubernetes.engines import (
    PodEngine,
    answered,
    counters_of,
    free_address,
    made_up_address,
    make_engine,
    port_of,
    serves_model,
)
from lamplighter.testing.kubernetes.outcomes import Fault, Outcome
from lamplighter.testing.kubernetes.podstatus import PodStatus

if TYPE_CHECKING:
    from lamplighter.testing.kubernetes.kubelet import Kubelet

_POLL = 0.02
_RETRY = 0.2


class _Ended(Exception):
    """The pod is gone, or ended for good."""


class _Refused(Exception):
    """The container cannot be made of what the pod names."""


class PodLife:
    """One pod. `heard` and `end_container` are called while `run` runs."""

    def __init__(self, kubelet: "Kubelet", api: Api, pod: Manifest, outcome: Outcome) -> None:
        self.name = pod["metadata"]["name"]
        self.engine: PodEngine | None = None
        self._kubelet = kubelet
        self._api = api
        self._pod = pod
        self._space = pod["metadata"]["namespace"]
        self._outcome = outcome
        self._starts = 0
        self._address = ""
        self._ending = asyncio.Event()
        self._struck: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        self._status = PodStatus(pod, kubelet.logs)
        self.heard(pod)

    def heard(self, pod: Manifest) -> None:
        """The pod's newest state."""
        self._pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._ending.set()

    def end_container(self, exit: int, reason: str) -> None:
        """Its container ends now."""
        self._struck.put_nowait((exit, reason))

    async def cut(self) -> None:
        """Its engine is gone, without a word."""
        if self.engine is not None:
            await self.engine.stop()

    async def run(self) -> None:
        """Live until it ended."""
        living = asyncio.create_task(self._live())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({living, ending}, return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                await ending
            await self._end(living)
        finally:
            for task in (living, ending):
                task.cancel()
            await asyncio.gather(living, ending, return_exceptions=True)
            await self.cut()
            self.engine = None

    # ---- to life

    async def _live(self) -> None:
        spec = self._pod["spec"]
        for one in [*(spec.get("initContainers") or []), *spec["containers"]]:
            self._status.waiting(
                one, "PodInitializing" if spec.get("initContainers") and one in spec["containers"] else "ContainerCreating"
            )
        self._status.condition("Initialized", not spec.get("initContainers"))
        self._status.condition("Ready", False)
        with contextlib.suppress(_Ended):
            if self._outcome.fault is Fault.REJECTED:
                await self._fail("UnexpectedAdmissionError", self._outcome.told())
            await self._write("Pending")
            for container in spec.get("initContainers") or []:
                await self._initialise(container)
            self._status.condition("Initialized", True)
            serving = port_of(self._pod)
            main = next(one for one in spec["containers"] if serving is None or one["name"] == serving[0])
            for container in spec["containers"]:
                if container is not main:
                    await self._pull(container)
                    await self._started(container)
            await self._pull(main)
            if spec.get("restartPolicy") != "Always":
                await self._finish(main)
            while True:
                await self._once(main, serving[1] if serving is not None else None)

    async def _pull(self, container: Manifest) -> None:
        image = container["image"]
        if image in self._kubelet.images and container.get("imagePullPolicy") != "Always":
            await self._event("Pulled", f'Container image "{image}" already present on machine')
            return
        await self._event("Pulling", f'Pulling image "{image}"')
        await asyncio.sleep(self._outcome.pull)
        while self._faulty(Fault.IMAGE_PULL):
            told = f'Failed to pull image "{image}": {self._outcome.told()}'
            await self._event("Failed", told, warning=True)
            await self._event("Failed", "Error: ErrImagePull", warning=True)
            self._status.waiting(container, "ErrImagePull", self._outcome.told())
            await self._write("Pending")
            await asyncio.sleep(_RETRY)
            await self._event("BackOff", f'Back-off pulling image "{image}"')
            self._status.waiting(
                container, "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {self._outcome.told()}'
            )
            await self._write("Pending")
            await asyncio.sleep(_RETRY)
            self._starts += 1
            self._outcome = self._kubelet.outcomes.of(self._pod)
        self._kubelet.images.add(image)
        took = f"{self._outcome.pull:.3f}s"
        await self._event(
            "Pulled", f'Successfully pulled image "{image}" in {took} ({took} including waiting). Image size: 4831838208 bytes.'
        )

    def _faulty(self, fault: Fault) -> bool:
        return self._outcome.fault is fault and (self._outcome.times is None or self._starts < self._outcome.times)

    async def _initialise(self, container: Manifest) -> None:
        await self._pull(container)
        while True:
            await self._environment(container)
            await self._event("Created", f"Created container: {container['name']}")
            await self._event("Started", f"Started container {container['name']}")
            self._status.running(container, ready=False)
            await self._write("Pending")
            self._status.log(container, *(self._outcome.logs if self._outcome.fault is Fault.PRELOAD else ("done",)))
            await asyncio.sleep(self._outcome.preload)
            if not self._faulty(Fault.PRELOAD):
                self._status.terminated(container, 0, "Completed", again=False)
                await self._write("Pending")
                return
            self._starts += 1
            await self._back_off(container, self._outcome.exit, "Error")

    async def _once(self, container: Manifest, port: int | None) -> None:
        """One run of the container, until it ends."""
        environment = await self._environment(container)
        if not self._address:
            self._address = free_address(port) if self._listens(port) and port is not None else made_up_address()
        await self._started(container)
        self._status.log(container, *(self._outcome.logs or (f"pretended engine of {self._pod['metadata']['name']}: loading",)))
        for fault, code, reason in ((Fault.OOM_KILLED, 137, "OOMKilled"), (Fault.CRASH, self._outcome.exit, "Error")):
            if self._faulty(fault):
                await asyncio.sleep(self._outcome.after)
                self._starts += 1
                await self._back_off(container, code, reason)
                return
        self._starts += 1
        await self._serve(container, environment, port)

    def _listens(self, port: int | None) -> bool:
        return self._kubelet.engines_wanted and port is not None and serves_model(self._pod)

    async def _finish(self, container: Manifest) -> None:
        """A Job's pod: its container does its work once, and the pod is over."""
        await self._environment(container)
        await self._started(container)
        self._status.log(container, *self._outcome.logs)
        await asyncio.sleep(self._outcome.load)
        failed = self._outcome.fault is Fault.CRASH
        self._status.terminated(container, self._outcome.exit if failed else 0, "Error" if failed else "Completed", again=False)
        await self._write("Failed" if failed else "Succeeded")
        raise _Ended

    async def _serve(self, container: Manifest, environment: dict[str, str], port: int | None) -> None:
        struck = asyncio.create_task(self._struck.get())
        try:
            await asyncio.wait({struck}, timeout=self._outcome.load)
            if not struck.done():
                if self._listens(port) and port is not None:
                    self.engine = make_engine(self._pod, container, environment, self._address, port, self._outcome.engine)
                    await self.engine.start()
                if self._outcome.fault is not Fault.NEVER_READY:
                    await self._become_ready(container)
                if self._outcome.fault is Fault.EVICTED:
                    await asyncio.sleep(self._outcome.after)
                    await self.cut()
                    await self._fail("Evicted", self._outcome.told())
            code, reason = await struck
        finally:
            struck.cancel()
        if self.engine is not None:
            self.engine.crash()
            await self.engine.stop()
            self.engine = None
        await self._back_off(container, code, reason)

    async def _become_ready(self, container: Manifest) -> None:
        probe = (container.get("readinessProbe") or {}).get("httpGet")
        if probe and self.engine is not None:
            said = ""
            while not (said := await answered(self._address, self._port(probe["port"]), probe.get("path", "/"))).startswith("2"):
                await self._event(
                    "Unhealthy", f"Readiness probe failed: HTTP probe failed with statuscode: {said or 'none'}", warning=True
                )
                await asyncio.sleep(_POLL * 5)
        self._status.running(container, ready=True)
        self._status.condition("ContainersReady", True)
        self._status.condition("Ready", True)
        await self._write("Running")

    def _port(self, told: Any) -> int:
        if isinstance(told, int):
            return told
        return next(
            int(port["containerPort"])
            for one in self._pod["spec"]["containers"]
            for port in one.get("ports") or []
            if port.get("name") == told
        )

    async def _started(self, container: Manifest) -> None:
        await self._event("Created", f"Created container: {container['name']}")
        await self._event("Started", f"Started container {container['name']}")
        self._status.running(container, ready=port_of(self._pod) is not None and container["name"] != port_of(self._pod)[0])  # type: ignore[index]
        await self._write("Running")

    async def _back_off(self, container: Manifest, exit: int, reason: str) -> None:
        """It ended, and waits to be started again."""
        meta = self._pod["metadata"]
        self._status.condition("Ready", False)
        self._status.condition("ContainersReady", False)
        self._status.terminated(container, exit, reason, again=True)
        await self._write("Pending" if container in (self._pod["spec"].get("initContainers") or []) else "Running")
        await asyncio.sleep(self._kubelet.backoff / 2)
        told = f"back-off 10s restarting failed container={container['name']} pod={meta['name']}_{self._space}({meta['uid']})"
        self._status.backs_off(container, told)
        await self._event(
            "BackOff",
            f"Back-off restarting failed container {container['name']} in pod {meta['name']}_{self._space}({meta['uid']})",
            warning=True,
        )
        await self._write("Pending" if container in (self._pod["spec"].get("initContainers") or []) else "Running")
        await asyncio.sleep(self._kubelet.backoff / 2)
        self._outcome = self._kubelet.outcomes.of(self._pod)

    # ---- what it is made of

    async def _environment(self, container: Manifest) -> dict[str, str]:
        """Its variables, with those of Secrets; waits as a kubelet does while one is missing."""
        while True:
            try:
                return await self._resolved(container)
            except _Refused as error:
                self._status.waiting(container, "CreateContainerConfigError", str(error))
                await self._event("Failed", f"Error: {error}", warning=True)
                await self._write("Pending")
                await asyncio.sleep(_RETRY)

    async def _resolved(self, container: Manifest) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in container.get("env") or []:
            source = (one.get("valueFrom") or {}).get("secretKeyRef")
            if source is None:
                found[one["name"]] = str(one.get("value", ""))
                continue
            secret = await self._api.cluster.get_or_none(known.SECRET, source["name"], self._space)
            value = ((secret or {}).get("data") or {}).get(source["key"])
            if value is not None:
                found[one["name"]] = base64.b64decode(value).decode()
            elif not source.get("optional"):
                raise _Refused(_missing(self._space, source, there=secret is not None))
        return found

    # ---- to its end

    async def _end(self, living: "asyncio.Task[None]") -> None:
        """SIGTERM, grace, and the last deletion."""
        containers = self._pod["spec"]["containers"]
        serving = self._status.running_now(containers)
        for name in serving:
            await self._event("Killing", f"Stopping container {name}")
        self._status.condition("Ready", False)
        with contextlib.suppress(_Ended):
            await self._write(None)
        if self.engine is not None:
            await self._stop_engine(containers)
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        for one in containers:
            self._status.terminated(one, 0, "Completed", again=False)
        with contextlib.suppress(_Ended):
            await self._write("Succeeded" if serving else None)
        while True:
            with contextlib.suppress(KubernetesError):
                await self._api.delete(known.POD, self._pod, 0)
                return
            await asyncio.sleep(_RETRY)

    async def _stop_engine(self, containers: list[Manifest]) -> None:
        grace = float(self._pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        for one in containers:
            if (one.get("lifecycle") or {}).get("preStop"):
                await asyncio.sleep(min(self._kubelet.pre_stop, grace))
        while self._busy() and loop.time() < end:  # noqa: ASYNC110 - the engine has nothing to wait for
            await asyncio.sleep(_POLL)
        await self.cut()
        self.engine = None

    def _busy(self) -> bool:
        return self._outcome.drain and self.engine is not None and counters_of(self.engine).running > 0

    async def _fail(self, reason: str, message: str) -> None:
        """The whole pod ended for good."""
        await self._event(reason, message, warning=True)
        self._status.condition("Ready", False)
        await self._write("Failed", reason=reason, message=message)
        raise _Ended

    # ---- what it tells

    async def _write(self, phase: str | None, **more: str) -> None:
        """Write the status. Raises _Ended when the pod is gone; waits while the API server cannot be reached."""
        status = {**self._status.body(self._pod, self._address), **more, **({"phase": phase} if phase is not None else {})}
        while True:
            with contextlib.suppress(KubernetesError):
                kept = await self._api.merge(known.POD, self._space, self.name, {"status": status}, "status")
                if kept is None:
                    raise _Ended
                self._pod = {**self._pod, "status": kept.get("status", {})}
                return
            await asyncio.sleep(_RETRY)

    async def _event(self, reason: str, message: str, *, warning: bool = False) -> None:
        with contextlib.suppress(KubernetesError):
            await self._api.event(self._pod, reason, message, warning=warning)


def _missing(space: str, source: Manifest, *, there: bool) -> str:
    """What a kubelet says of a variable whose Secret or key is not there."""
    if there:
        return f"couldn't find key {source['key']} in Secret {space}/{source['name']}"
    return f'secret "{source["name"]}" not found'


__all__ = ["PodLife"]
