"""The configuration: one typed schema, what is checked by it and what is generated from it.

Attribute access is snake_case (``config.rpc.ack_timeout``), keys of a configuration are camelCase.
"""

from dsfast.config.files import Note, Place, Source, find_file, read_document
from dsfast.config.layers import load_from
from dsfast.config.loader import load, set_value
from dsfast.config.problems import ConfigError, Problem
from dsfast.config.schema import (
    CacheOptions,
    Config,
    HttpServerOptions,
    ListenConfig,
    MqttOptions,
    RecordConfig,
    RpcConfig,
    SqliteOptions,
    WebSocketOptions,
)
from dsfast.config.syntax import Document

__all__ = [
    "CacheOptions",
    "Config",
    "ConfigError",
    "Document",
    "HttpServerOptions",
    "ListenConfig",
    "MqttOptions",
    "Note",
    "Place",
    "Problem",
    "RecordConfig",
    "RpcConfig",
    "Source",
    "SqliteOptions",
    "WebSocketOptions",
    "find_file",
    "load",
    "load_from",
    "read_document",
    "set_value",
]
