"""One pod's status as a kubelet writes it: states of containers, conditions, and what the logs have to do with them. Talks to nobody."""

from collections.abc import Sequence

from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.testing.kubernetes.logs import LogServer
from lamplighter.testing.kubernetes.times import now_text


class PodStatus:
    """Of one pod. `body` is what goes to the API server."""

    def __init__(self, pod: Manifest, logs: LogServer) -> None:
        self._space = pod["metadata"]["namespace"]
        self._name = pod["metadata"]["name"]
        self._logs = logs
        self._containers: dict[str, Manifest] = {}
        before = (pod.get("status") or {}).get("conditions") or []
        self._conditions: dict[str, Manifest] = {one["type"]: one for one in before if one["type"] == "PodScheduled"}

    def log(self, container: Manifest, *lines: str) -> None:
        """A container wrote lines."""
        self._logs.write(self._key(container), *lines)

    def waiting(self, container: Manifest, reason: str, message: str = "") -> None:
        """It has not started."""
        state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        self._containers[container["name"]] = {**self._base(container), "state": state}
        why = "trying and failing to pull image" if "ImagePull" in reason else reason
        self._logs.waits(self._key(container), why)

    def running(self, container: Manifest, *, ready: bool) -> None:
        """It runs; `ready`: its probe says so."""
        started = self._started(container)
        self._logs.waits(self._key(container), None)
        identity = f"{container['image']}@sha256:{'0' * 64}"
        told = {"state": {"running": {"startedAt": started}}, "ready": ready, "started": ready, "imageID": identity}
        self._containers[container["name"]] = {**self._base(container), **told}

    def terminated(self, container: Manifest, exit: int, reason: str, *, again: bool) -> None:
        """It ended; `again`: it will be started again, which is counted."""
        base = self._base(container)
        words = exit and container.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        message = self._logs.last(self._key(container)) if words else ""
        state = {"exitCode": exit, "reason": reason, "startedAt": self._started(container), "finishedAt": now_text()}
        if message:
            state["message"] = message
        self._logs.ended(self._key(container))
        told = {"state": {"terminated": state}, "restartCount": base["restartCount"] + int(again)}
        self._containers[container["name"]] = {**base, **told}

    def backs_off(self, container: Manifest, message: str) -> None:
        """It ended and waits to be started again."""
        status = self._containers[container["name"]]
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        self._containers[container["name"]] = {**status, "state": state, "lastState": status["state"]}

    def running_now(self, containers: Sequence[Manifest]) -> set[str]:
        """The names of those that run."""
        return {one["name"] for one in containers if "running" in (self._containers.get(one["name"]) or {}).get("state", {})}

    def condition(self, kind: str, holds: bool) -> None:
        """Set a condition of the pod; its moment changes with its status alone."""
        told = {"type": kind, "status": str(holds), "lastProbeTime": None}
        if not holds:
            told |= {"reason": "ContainersNotReady", "message": "containers with unready status"}
        old = self._conditions.get(kind)
        moment = old["lastTransitionTime"] if old is not None and old["status"] == told["status"] else now_text()
        self._conditions[kind] = {**told, "lastTransitionTime": moment}

    def body(self, pod: Manifest, address: str) -> Manifest:
        """The whole of it, but for the phase."""
        spec = pod["spec"]
        status: Manifest = {
            "conditions": list(self._conditions.values()),
            "hostIP": self._logs.host,
            "containerStatuses": self._of(spec["containers"]),
            "startTime": (pod.get("status") or {}).get("startTime") or now_text(),
        }
        if address:
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
        if spec.get("initContainers"):
            status["initContainerStatuses"] = self._of(spec["initContainers"])
        return status

    def _of(self, containers: Sequence[Manifest]) -> list[Manifest]:
        return [self._containers[one["name"]] for one in containers if one["name"] in self._containers]

    def _key(self, container: Manifest) -> tuple[str, str, str]:
        return (self._space, self._name, container["name"])

    def _started(self, container: Manifest) -> str:
        state = (self._containers.get(container["name"]) or {}).get("state", {})
        return str((state.get("running") or {}).get("startedAt") or now_text())

    def _base(self, container: Manifest) -> Manifest:
        old = self._containers.get(container["name"]) or {"restartCount": 0, "lastState": {}}
        return {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "started": False,
            "restartCount": old["restartCount"],
            "lastState": old["lastState"],
        }


__all__ = ["PodStatus"]
