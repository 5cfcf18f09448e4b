"""A realtime data server that speaks deepstream.io's protocol.

    from dsfast import Server

    server = Server({"httpServer": {"options": {"port": 6020}}})
    await server.start()
    ...
    await server.stop()

The names below are loaded when they are first used, so that ``import dsfast`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsfast.config import Config, ConfigError
    from dsfast.plugin import (
        UNSET,
        Authentication,
        AuthResult,
        Cache,
        ClusterNode,
        ClusterRegistry,
        ConnectionEndpoint,
        HttpError,
        HttpMeta,
        HttpService,
        LockRegistry,
        Logger,
        LogLevel,
        Monitoring,
        NamespacedLogger,
        Permission,
        Plugin,
        PluginError,
        Socket,
        StateRegistry,
        StateRegistryFactory,
        StateTopic,
        Storage,
        SubscriptionListener,
        SubscriptionRegistry,
        SubscriptionRegistryFactory,
        Telemetry,
    )
    from dsfast.server import Server, StartError, register_plugin

__version__ = "0.1.0"

__all__ = [
    "UNSET",
    "AuthResult",
    "Authentication",
    "Cache",
    "ClusterNode",
    "ClusterRegistry",
    "Config",
    "ConfigError",
    "ConnectionEndpoint",
    "HttpError",
    "HttpMeta",
    "HttpService",
    "LockRegistry",
    "LogLevel",
    "Logger",
    "Monitoring",
    "NamespacedLogger",
    "Permission",
    "Plugin",
    "PluginError",
    "Server",
    "Socket",
    "StartError",
    "StateRegistry",
    "StateRegistryFactory",
    "StateTopic",
    "Storage",
    "SubscriptionListener",
    "SubscriptionRegistry",
    "SubscriptionRegistryFactory",
    "Telemetry",
    "__version__",
    "register_plugin",
]

_MODULES = {
    "Config": "dsfast.config",
    "ConfigError": "dsfast.config",
    "Server": "dsfast.server",
    "StartError": "dsfast.server",
    "register_plugin": "dsfast.server",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "dsfast.plugin")), name)
