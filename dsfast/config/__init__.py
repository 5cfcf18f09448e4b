"""The configuration: one typed schema, a loader and the generated document.

Attribute access is snake_case (``config.rpc.ack_timeout``), keys of a configuration are camelCase.
"""

from dsfast.config.loader import ConfigError, Problem, load, set_value
from dsfast.config.schema import (
    CacheOptions,
    Config,
    HttpServerOptions,
    ListenConfig,
    RecordConfig,
    RpcConfig,
    SqliteOptions,
    WebSocketOptions,
)

__all__ = [
    "CacheOptions",
    "Config",
    "ConfigError",
    "HttpServerOptions",
    "ListenConfig",
    "Problem",
    "RecordConfig",
    "RpcConfig",
    "SqliteOptions",
    "WebSocketOptions",
    "load",
    "set_value",
]
