"""`lamplighter.yaml` as one frozen tree. Reading the file is `load`; the tree is `model`; nothing else reads settings."""

from lamplighter.config.cloud import CloudConfig
from lamplighter.config.federation import FederationConfig
from lamplighter.config.kubernetes import KubernetesPool
from lamplighter.config.load import defaults, load, parse
from lamplighter.config.mesh import MeshConfig
from lamplighter.config.model import (
    Config,
    EngineKind,
    GatewayConfig,
    KeeperConfig,
    LogConfig,
    ModelConfig,
    PoolConfig,
    ServerConfig,
)
from lamplighter.config.pools import AwsPool, CommandPool, FakePool, ProcessPool, StaticPool

__all__ = [
    "AwsPool", "CloudConfig", "CommandPool", "Config", "EngineKind", "FakePool", "FederationConfig", "GatewayConfig", "KeeperConfig",
    "KubernetesPool", "LogConfig", "MeshConfig", "ModelConfig", "PoolConfig", "ProcessPool", "ServerConfig", "StaticPool", "defaults", "load", "parse",
]  # fmt: skip
