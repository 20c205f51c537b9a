"""`lamplighter.yaml` as one frozen tree. Reading the file is `load`; the tree is `model`; nothing else reads settings."""

from lamplighter.config.load import defaults, load, parse
from lamplighter.config.model import (
    Config,
    EngineKind,
    FakePool,
    GatewayConfig,
    KeeperConfig,
    LogConfig,
    ModelConfig,
    PoolConfig,
    ProcessPool,
    ServerConfig,
    StaticPool,
)

__all__ = [
    "Config", "EngineKind", "FakePool", "GatewayConfig", "KeeperConfig", "LogConfig", "ModelConfig", "PoolConfig", "ProcessPool",
    "ServerConfig", "StaticPool", "defaults", "load", "parse",
]  # fmt: skip
