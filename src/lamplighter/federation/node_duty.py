"""What the nodes of a federated pool are there for: each becomes a cluster of its own (`node_cluster`), in which home runs the engine as a pod.

Pure but for the templates that others made. Not responsible for the peering, nor for the pod.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lamplighter.config import ModelConfig
from lamplighter.config.federation import FederationConfig
from lamplighter.config.mesh import MeshConfig
from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.engines.base import Accelerator, Container, Containerised, Engine
from lamplighter.federation.install import values
from lamplighter.federation.node_cluster import K3S_VERSION, NodeCluster, render
from lamplighter.federation.peering import slice_for
from lamplighter.federation.slice import Slice
from lamplighter.providers.aws.duty import Given, Work, configured
from lamplighter.providers.aws.machines import accelerator


def cluster_id(instance: str) -> str:
    """The id of the cluster that a node becomes: another one for every machine, since Liqo never forgets one that was lost quite at once."""
    return f"gpu-{instance}"


class Clustered:
    """The node becomes a cluster. See `providers.aws.duty.Duty`."""

    stages: tuple[str, ...] = ("boot", "mesh", "cluster")
    serves = False

    def __init__(
        self,
        config: FederationConfig,
        models: Callable[[], Mapping[str, ModelConfig]],
        engines: Mapping[str, Engine],
        mesh: MeshConfig,
    ) -> None:
        self._config = config
        self._models = models
        self._engines = engines
        self._mesh = mesh

    def prepare(self, model: str, kind: str) -> Work:
        """See `Duty`. The slice and the engine's container are made too: what can never be asked of the machine is refused before it costs."""
        self.container(model, kind)
        gpus = self.slice(kind).gpus

        def body(given: Given) -> Mapping[str, Any]:
            config = self._config
            suffix = "amazonaws.com" + (".cn" if given.region.startswith("cn-") else "")
            name = cluster_id(given.instance)
            cluster = NodeCluster(
                name=name,
                overlay=str(given.overlay),
                values=self._values(name, str(given.overlay)),
                liqo_version=config.liqo_version,
                pod_cidr=str(config.node_pod_cidr),
                service_cidr=str(config.node_service_cidr),
                api_port=config.api_port,
                gpus=gpus,
                registry=f"{given.account}.dkr.ecr.{given.region}.{suffix}",
                k3s_version=config.k3s_version or K3S_VERSION,
            )
            return {"cluster": render(cluster)}

        return Work(self._config.api_port, None, body)

    def _values(self, name: str, overlay: str) -> Mapping[str, Any]:
        """Of Liqo's chart on the node."""
        config = self._config
        return values(
            "k3s",
            cluster_id=name,
            api_server=f"https://{overlay}:{config.api_port}",
            pod_cidr=config.node_pod_cidr,
            service_cidr=config.node_service_cidr,
            reserved=(self._mesh.network,),
            version=config.liqo_version,
        )

    def slice(self, kind: str) -> Slice:
        """What home may use of a machine. Raises ProviderError for a type that is not known."""
        return slice_for(kind, self._config.share)

    def container(self, model: str, kind: str) -> tuple[ModelConfig, Container]:
        """What the pod runs. Raises ProviderError, SourceError when it can never work."""
        config = configured(self._models(), model)
        engine: object = self._engines.get(config.engine)
        if not isinstance(engine, Containerised):
            raise ProviderError(
                f"The engine {config.engine!r} of the model {model!r} cannot run in a cluster.",
                reason=WakeFailure.ENGINE_MISSING,
                next_step="Use the engine `vllm` or `ollama` there.",
            )
        return config, engine.container(model, config, self._accelerator(config, kind))

    def _accelerator(self, config: ModelConfig, kind: str) -> Accelerator | None:
        found = accelerator(kind)
        if found is None or config.gpus is None:
            return found
        if config.gpus > found.count:
            raise ProviderError(
                f"The model wants {config.gpus} GPUs; a {kind} has {found.count}.",
                reason=WakeFailure.ENGINE_REFUSED,
                next_step="Choose larger `instance_types`, or lower the model's `gpus`.",
            )
        return Accelerator(found.name, config.gpus, found.memory, found.bf16) if config.gpus else None
