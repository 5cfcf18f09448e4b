"""The one schema of the configuration: names, types, defaults, bounds and their meaning (configuration.md 2).

Everything else is derived from it: the loader (:mod:`dsfast.config.loader`) validates by it and fills in the
defaults, :mod:`dsfast.config.document` writes ``docs/configuration.md`` from it.

Attributes are snake_case, keys of a configuration the same names in camelCase (``rpc.ack_timeout`` is the key
``rpc.ackTimeout``). Times are milliseconds and sizes bytes unless the description says otherwise.

``Meta(extra=...)`` carries what msgspec has no word for:

* ``before``: function applied to a given value before its type is checked;
* ``check``: function that is given the converted value and returns what is wrong with it, or None;
* ``secret``: True for what must not be shown;
* ``advisory_minimum``: a bound that upstream declares but never enforced; passing it is a warning, so that
  configurations that worked go on working.

An integer without an upper bound may be as large as ``INTEGER_LIMIT``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, field

from dsfast.config.files import Source, resolve_path
from dsfast.config.pending import is_pending
from dsfast.config.problems import Problem
from dsfast.plugin import LogLevel

__all__ = [
    "AuthSection",
    "CacheOptions",
    "CacheSection",
    "Config",
    "EnabledFeatures",
    "FileAuthOptions",
    "FileAuthSection",
    "HttpAuthOptions",
    "HttpAuthSection",
    "HttpServerOptions",
    "HttpServerSection",
    "JsonLoggerOptions",
    "JsonLoggerSection",
    "JwtAuthOptions",
    "JwtAuthSection",
    "ListenConfig",
    "LoggerOptions",
    "LoggerSection",
    "LoginConfig",
    "MonitoringSection",
    "NoStorageSection",
    "OpenPermissionSection",
    "PluginSection",
    "RecordConfig",
    "RpcConfig",
    "Section",
    "SqliteOptions",
    "SqliteSection",
    "StorageAuthOptions",
    "StorageAuthSection",
    "WebSocketOptions",
    "WebSocketSection",
]

KIB = 1024
MIB = 1024 * KIB
INTEGER_LIMIT = 2**31 - 1
"""Largest integer where nothing else is said: the core and the timers count in 32 bits."""
MEMORY_LIMIT = 2**53 - 1
"""Largest amount of memory: what JSON can carry exactly."""


class Section(msgspec.Struct, kw_only=True, rename="camel"):
    """A part of the configuration; also readable as a mapping with the original keys (plugins.md A.2)."""

    ignores_unknown: ClassVar[bool] = False
    """Unknown keys are only warned about: they are options of what this stands in for."""

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self, self.__struct_fields__[self.__struct_encode_fields__.index(key)])
        except ValueError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.__struct_encode_fields__)

    def __len__(self) -> int:
        return len(self.__struct_encode_fields__)

    def __contains__(self, key: object) -> bool:
        return key in self.__struct_encode_fields__

    def get(self, key: str, default: Any = None) -> Any:
        """Value of a key, ``default`` for an unknown key."""
        return self[key] if key in self else default  # noqa: SIM401 - this is get

    def keys(self) -> list[str]:
        """The original (camelCase) keys."""
        return list(self.__struct_encode_fields__)

    def values(self) -> list[Any]:
        """The values in the order of :meth:`keys`."""
        return [self[key] for key in self]

    def items(self) -> list[tuple[str, Any]]:
        """Pairs of key and value."""
        return [(key, self[key]) for key in self]


# A base class would bring its own metaclass, which msgspec's does not combine with.
Mapping.register(Section)


def _log_level(value: Any) -> Any:
    if isinstance(value, str) and value.upper() in LogLevel.__members__:
        return LogLevel[value.upper()]
    return value


def _empty_for_none(value: Any) -> Any:
    return [] if value is None else value


def _none_for_false(value: Any) -> Any:
    return None if value is False else value


def _text_keys(value: Any) -> Any:
    # YAML reads the user name 007 as a number.
    return {str(key): entry for key, entry in value.items()} if isinstance(value, Mapping) else value


def _list_of(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _server_name(value: Any) -> Any:
    return generated_server_name() if value == "UUID" else value


def _unauthenticated_timeout(value: Any) -> Any:
    # Upstream takes booleans too: false = never. There, true means one millisecond, which nobody wants.
    if value is False:
        return None
    return DEFAULT_UNAUTHENTICATED_TIMEOUT if value is True else value


ALSO_ACCEPTED: dict[Any, dict[str, Any]] = {
    _empty_for_none: {"type": "null"},
    _none_for_false: {"const": False},
    _list_of: {"type": "string"},
    _unauthenticated_timeout: {"type": "boolean"},
}
"""What functions ``before`` accept beside the type of their field, as JSON Schema."""


def generated_server_name() -> str:
    """A name for a server that was given none; unique for all practical purposes."""
    return os.urandom(8).hex()


def _is_uri(value: str) -> str | None:
    from urllib.parse import urlsplit  # noqa: PLC0415 - not needed at most starts

    try:
        parts = urlsplit(value)
        absolute = bool(parts.scheme and (parts.netloc or parts.path))
    except ValueError:
        absolute = False
    return None if absolute else 'must match format "uri"'


def _are_uris(values: list[str]) -> str | None:
    wrong = next((value for value in values if _is_uri(value)), None)
    return None if wrong is None else f'{wrong} must match format "uri"'


def _is_uuid(value: str | None) -> str | None:
    form = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    return None if value is None or re.fullmatch(form, value) else 'must match format "uuid"'


def _has_key_and_cert(ssl: SslOptions | None) -> str | None:
    if ssl is None or (ssl.key and ssl.cert):
        return None
    if ssl.key:
        return "Must also include ssl cert in order to use SSL"
    if ssl.cert:
        return "Must also include ssl key in order to use SSL"
    return "To enable HTTP please provide a key and cert"


def _are_addresses(values: list[str]) -> str | None:
    for value in values:
        try:
            parse_address(value)
        except ValueError as error:
            return str(error)
    return None


def parse_address(text: str) -> str | tuple[str, int]:
    """The path of a Unix socket, or host and port of TCP. Raises ValueError."""
    if text.startswith("unix:"):
        if not text[5:] or "\0" in text:
            raise ValueError(f"{text} has no path")
        return text[5:]
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text} needs brackets around the address")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"{text} is no host:port, and no unix:/path")
    return host, int(port)


def _has_origins(options: HttpServerOptions) -> str | None:
    if options.allow_all_origins or options.origins:
        return None
    return "HTTP allowAllOrigins set to false but no origins provided"


def _has_header(options: HttpMonitoringOptions) -> str | None:
    if options.allow_open_permissions or (options.header_key and options.header_value):
        return None
    return 'Missing "headerKey" and/or "headerValue"'


DEFAULT_UNAUTHENTICATED_TIMEOUT = 180_000

Positive = Annotated[int, Meta(ge=1)]
Memory = Annotated[int, Meta(ge=1, le=MEMORY_LIMIT)]
Text = Annotated[str, Meta(min_length=1)]

Level = Annotated[
    LogLevel,
    Meta(
        description="Lowest level logged: 0 debug, 1 info, 2 warn, 3 error, 4 fatal, 100 off; or the name.",
        extra={"before": _log_level},
    ),
]


class EnabledFeatures(Section):
    """Which topics the server answers; messages of a disabled one get `UNKNOWN_TOPIC`."""

    record: Annotated[bool, Meta(description="Records and lists.")] = True
    event: Annotated[bool, Meta(description="Events.")] = True
    rpc: Annotated[bool, Meta(description="Remote procedure calls.")] = True
    presence: Annotated[bool, Meta(description="Presence.")] = True
    monitoring: Annotated[bool, Meta(description="Monitoring by clients.")] = False


class RpcConfig(Section):
    """Remote procedure calls."""

    ack_timeout: Annotated[
        int,
        Meta(description="Time in which a provider has to accept a call.", extra={"advisory_minimum": 1}),
    ] = 1000
    response_timeout: Annotated[
        int,
        Meta(description="Time in which a provider has to answer a call.", extra={"advisory_minimum": 1}),
    ] = 10_000
    max_open_calls: Annotated[
        int,
        Meta(
            description="Calls without an answer that one connection may have made; more are refused.",
            ge=1,
        ),
    ] = 10_000
    provide_requestor_name: Annotated[
        bool, Meta(description="Tell the provider the user id of the caller.")
    ] = False
    provide_requestor_data: Annotated[
        bool, Meta(description="Tell the provider the client data of the caller.")
    ] = False


class RecordConfig(Section):
    """Records."""

    cache_retrieval_timeout: Annotated[
        int, Meta(description="Time limit of a read from the cache.", extra={"advisory_minimum": 50})
    ] = 1000
    storage_retrieval_timeout: Annotated[
        int, Meta(description="Time limit of a read from the storage.", extra={"advisory_minimum": 50})
    ] = 2000
    storage_exclusion_prefixes: Annotated[
        list[str],
        Meta(
            description="Records whose names start so are never stored, only cached.",
            extra={"before": _empty_for_none},
        ),
    ] = field(default_factory=list)
    storage_hot_path_prefixes: Annotated[
        list[str],
        Meta(
            description="Whole updates of records whose names start so skip loading and version checks.",
            extra={"before": _empty_for_none},
        ),
    ] = field(default_factory=list)
    durability: Annotated[
        Literal["cache", "storage", "strict"],
        Meta(
            description="When a write is acknowledged: in the cache, or confirmed by the storage too; with "
            "`strict` its broadcast also waits for the storage."
        ),
    ] = "storage"
    write_ack_timeout: Annotated[
        int,
        Meta(description="Time after which a write that is not durable yet is answered by an error.", ge=1),
    ] = 30_000
    max_size: Annotated[int, Meta(description="Largest size of a record as JSON text.", ge=1)] = 16 * MIB
    max_index_growth: Annotated[
        int, Meta(description="Elements that one path may add to an array beyond its end.", ge=0)
    ] = 10_000
    max_array_length: Annotated[
        int, Meta(description="Elements an array may have after a path has written to it.", ge=1)
    ] = 1_000_000


class ListenConfig(Section):
    """Listening: clients that provide records or events on demand."""

    shuffle_providers: Annotated[
        bool, Meta(description="Ask the matching providers in random order instead of the order they came.")
    ] = True
    response_timeout: Annotated[
        int,
        Meta(description="Time in which a provider has to accept or reject.", extra={"advisory_minimum": 50}),
    ] = 500
    rematch_interval: Annotated[
        int,
        Meta(
            description="Time between two searches for names without a provider; 1000 and less: never.",
            extra={"advisory_minimum": 50},
        ),
    ] = 30_000
    match_cooldown: Annotated[
        int,
        Meta(
            description="Time for which failed searches of other nodes for a name are not repeated.",
            extra={"advisory_minimum": 50},
        ),
    ] = 10_000
    check_names: Annotated[
        bool,
        Meta(
            description="Before a listener is asked for a name, check that it may listen to that name, too, "
            "and not only to its pattern."
        ),
    ] = False
    max_pattern_length: Annotated[int, Meta(description="Longest pattern, in bytes.", ge=1)] = 1024
    max_patterns_per_client: Annotated[int, Meta(description="Patterns one connection may hold.", ge=1)] = (
        1000
    )


class SslOptions(Section):
    """A certificate. Each value is PEM text (`fileLoad`) or the path of a file (`file`)."""

    key: Annotated[Text | None, Meta(description="Private key.", extra={"secret": True})] = None
    cert: Annotated[Text | None, Meta(description="Certificate and those that lead to its root.")] = None
    ca: Annotated[Text | None, Meta(description="Certificates that clients have to be signed with.")] = None
    dh_params: Annotated[Text | None, Meta(description="Parameters for Diffie-Hellman.")] = None
    passphrase: Annotated[Text | None, Meta(description="Of the key.", extra={"secret": True})] = None
    client_certificates: Annotated[
        Literal["none", "optional", "required"],
        Meta(description="Whether clients are asked for a certificate that `ca` has signed."),
    ] = "none"
    min_version: Annotated[
        Literal["TLSv1.2", "TLSv1.3"], Meta(description="Oldest version of TLS that is spoken.")
    ] = "TLSv1.2"
    watch_interval: Annotated[
        Positive | None, Meta(description="Time between looks at the files; changed ones are read again.")
    ] = None


class HttpServerOptions(Section):
    """The port that serves websockets and HTTP."""

    host: Annotated[str, Meta(description="Address to listen on.", min_length=1)] = "0.0.0.0"
    port: Annotated[int, Meta(description="Port to listen on; 0 takes any free one.", ge=0, le=65_535)] = 6020
    health_check_path: Annotated[
        str, Meta(description="`GET` of this path answers 200 while the server works.", min_length=1)
    ] = "/health-check"
    max_message_size: Annotated[int, Meta(description="Largest body of a request.", ge=0)] = MIB
    allow_all_origins: Annotated[
        bool, Meta(description="Pages of every origin may connect; false: only those of `origins`.")
    ] = True
    origins: Annotated[
        list[str],
        Meta(
            description="Origins that may connect, compared with `Origin`, or that of `Referer` without one.",
            extra={"before": _empty_for_none, "check": _are_uris},
        ),
    ] = field(default_factory=list)
    listen: Annotated[
        list[str],
        Meta(
            description="What to listen on instead of `host` and `port`: `127.0.0.1:6020`, `[::1]:6020` or "
            "`unix:/run/dsfast.sock`, several if wanted.",
            extra={"before": _empty_for_none, "check": _are_addresses},
        ),
    ] = field(default_factory=list)
    unix_socket_mode: Annotated[
        str, Meta(description="Permissions of Unix sockets, in octal.", pattern="^[0-7]{3}$")
    ] = "660"
    trusted_proxies: Annotated[
        list[str],
        Meta(
            description="Addresses and networks of proxies that are believed about whom they speak for; "
            "`unix` for those that use a Unix socket.",
            extra={"before": _empty_for_none},
        ),
    ] = field(default_factory=list)
    proxy_protocol: Annotated[
        bool,
        Meta(
            description="Connections of trusted proxies begin with a header of the PROXY protocol (1 or 2)."
        ),
    ] = False
    max_connections: Annotated[
        Positive | None, Meta(description="Connections at once; those beyond are cut off.")
    ] = None
    max_connections_per_address: Annotated[
        Positive | None,
        Meta(description="The same for one address (/64 for IPv6), except loopback and trusted proxies."),
    ] = None
    head_timeout: Annotated[
        int,
        Meta(
            description="Time for the head of a request, and before it for the PROXY header and for TLS.",
            ge=1,
        ),
    ] = 10_000
    body_timeout: Annotated[int, Meta(description="Time for the body of a request.", ge=1)] = 30_000
    host_url: Annotated[
        Text | None, Meta(description="The only `Host` that is answered (health checks: any).")
    ] = None
    ssl: Annotated[SslOptions | None, Meta(extra={"check": _has_key_and_cert})] = None
    headers: Annotated[
        list[str],
        Meta(
            description="Accepted without effect: plugins see all headers of a handshake.",
            extra={"before": _empty_for_none},
        ),
    ] = field(default_factory=list)
    max_backpressure: Annotated[
        int, Meta(description="Accepted without effect: see `maxOutgoingBytes` of the endpoint.", ge=0)
    ] = MIB

    @property
    def addresses(self) -> list[str | tuple[str, int]]:
        """What to listen on: paths of Unix sockets, and hosts with ports."""
        return [parse_address(text) for text in self.listen] or [(self.host, self.port)]


class HttpServerSection(Section):
    """The HTTP server. dsfast has one; both types of deepstream.io select it."""

    type: Literal["default", "uws"] = "default"
    options: Annotated[HttpServerOptions, Meta(extra={"check": _has_origins})] = field(
        default_factory=HttpServerOptions
    )


class WebSocketOptions(Section):
    """Options of a websocket endpoint."""

    url_path: Annotated[str, Meta(description="Path of the websocket.", min_length=1)] = "/deepstream"
    heartbeat_interval: Annotated[
        int, Meta(description="Time between pings; a client silent for twice as long is cut off.", ge=1)
    ] = 30_000
    outgoing_buffer_timeout: Annotated[
        int,
        Meta(
            description="Time for which outgoing messages are collected; 0: one turn of the event loop.", ge=0
        ),
    ] = 0
    max_buffer_byte_size: Annotated[
        int, Meta(description="Collected bytes that are written at once, without waiting.", ge=0)
    ] = 100_000
    unauthenticated_client_timeout: Annotated[
        Positive | None,
        Meta(
            description="Time a client has for its login; false or null: unlimited.",
            extra={"before": _unauthenticated_timeout},
        ),
    ] = DEFAULT_UNAUTHENTICATED_TIMEOUT
    max_auth_attempts: Annotated[
        int, Meta(description="Refused logins after which the connection is closed.", ge=1)
    ] = 3
    log_invalid_auth_data: Annotated[
        bool, Meta(description="Write refused login data to the log. That includes passwords.")
    ] = False
    max_message_size: Annotated[int, Meta(description="Largest incoming websocket message.", ge=0)] = MIB
    max_outgoing_bytes: Annotated[
        int, Meta(description="Bytes that may wait for a client that reads slowly.", ge=1, le=MEMORY_LIMIT)
    ] = 8 * MIB
    slow_consumer_policy: Annotated[
        Literal["close", "conflate"],
        Meta(
            description="Beyond that: close the connection (code 1013), or first replace the waiting changes "
            "of records by their newest version."
        ),
    ] = "close"
    per_message_deflate: Annotated[
        bool, Meta(description="Compress messages for clients that offer it, and accept compressed ones.")
    ] = False
    compression_threshold: Annotated[
        int, Meta(description="Smaller messages are sent as they are.", ge=1)
    ] = 512
    compression_level: Annotated[int, Meta(description="From 1, fast, to 9, small.", ge=1, le=9)] = 1
    max_bad_messages: Annotated[
        int, Meta(description="Undecodable messages after which the connection is closed.", ge=1)
    ] = 20
    max_names_per_message: Annotated[
        int, Meta(description="Names that one message may carry (bulk subscriptions).", ge=1)
    ] = 100_000


class WebSocketSection(Section):
    """An endpoint for clients; the binary websocket protocol."""

    type: Literal["ws-binary"] = "ws-binary"
    options: WebSocketOptions = field(default_factory=WebSocketOptions)


class WebSocketTextOptions(WebSocketOptions):
    """The options of `ws-binary`, on another path."""

    url_path: Annotated[str, Meta(description="Path of the websocket.", min_length=1)] = "/deepstream-v3"


class WebSocketTextSection(Section):
    """An endpoint for clients that speak the text protocol of version 3."""

    type: Literal["ws-text"] = "ws-text"
    options: WebSocketTextOptions = field(default_factory=WebSocketTextOptions)


class WebSocketJsonOptions(WebSocketOptions):
    """The options of `ws-binary`, on another path."""

    url_path: Annotated[str, Meta(description="Path of the websocket.", min_length=1)] = "/deepstream-json"


class WebSocketJsonSection(Section):
    """An endpoint for clients that send each message as JSON."""

    type: Literal["ws-json"] = "ws-json"
    options: WebSocketJsonOptions = field(default_factory=WebSocketJsonOptions)


class HttpEndpointOptions(Section):
    """The HTTP API."""

    enable_auth_endpoint: Annotated[bool, Meta(description="Logins by HTTP.")] = True
    auth_path: Annotated[str, Meta(description="Path of logins.", min_length=1)] = "/api/auth"
    post_path: Annotated[str, Meta(description="Path of requests.", min_length=1)] = "/api"
    get_path: Annotated[str, Meta(description="Path of reads.", min_length=1)] = "/api"
    allow_auth_data: Annotated[bool, Meta(description="Take `authData` instead of a token.")] = True
    log_invalid_auth_data: Annotated[
        bool, Meta(description="Write refused login data to the log. That includes passwords.")
    ] = False
    request_timeout: Annotated[
        int, Meta(description="Time after which messages of a request without an answer get an error.", ge=1)
    ] = 20_000
    error_names: Annotated[
        bool, Meta(description="Errors name their event (`RECORD_NOT_FOUND`) instead of its number.")
    ] = False
    max_batch_length: Annotated[int, Meta(description="Messages that one request may carry.", ge=1)] = 10_000
    stream_heartbeat_interval: Annotated[
        int, Meta(description="Time between two comments on a stream that has nothing else to say.", ge=1)
    ] = 15_000


class HttpEndpointSection(Section):
    """An endpoint for requests by HTTP."""

    type: Literal["http"] = "http"
    options: HttpEndpointOptions = field(default_factory=HttpEndpointOptions)


class MqttOptions(Section):
    """MQTT 3.1.1."""

    host: Annotated[str, Meta(description="Address to listen on.", min_length=1)] = "0.0.0.0"
    port: Annotated[int, Meta(description="Port to listen on; 0 takes any free one.", ge=0, le=65_535)] = 1883
    idle_timeout: Annotated[
        int, Meta(description="Time without traffic until a client is cut off.", ge=1)
    ] = 180_000
    unauthenticated_client_timeout: Annotated[
        Positive | None,
        Meta(
            description="Time a client has for its login; false or null: unlimited.",
            extra={"before": _unauthenticated_timeout},
        ),
    ] = DEFAULT_UNAUTHENTICATED_TIMEOUT
    max_message_size: Annotated[int, Meta(description="Largest packet.", ge=0)] = MIB
    ssl: Annotated[SslOptions | None, Meta(extra={"check": _has_key_and_cert})] = None
    url_path: Annotated[
        Text | None, Meta(description="Path of MQTT in websockets, on the HTTP port; null: none.")
    ] = "/mqtt"
    send_record_on_subscribe: Annotated[
        bool, Meta(description="Whoever subscribes gets the record of that name, as a retained message.")
    ] = True
    max_topic_length: Annotated[int, Meta(description="Longest topic and filter.", ge=1, le=65_535)] = 4096
    max_filters: Annotated[int, Meta(description="Filters that one client may have.", ge=1)] = 10_000
    max_inflight: Annotated[
        int,
        Meta(description="QoS 1 messages to a client that it has not acknowledged yet.", ge=1, le=65_535),
    ] = 20
    max_queued_messages: Annotated[
        int,
        Meta(
            description="QoS 1 messages that wait for a client. Beyond that it is cut off, or if it is away "
            "the oldest are lost.",
            ge=1,
        ),
    ] = 1000
    max_queued_bytes: Annotated[int, Meta(description="The same in bytes.", ge=1, le=MEMORY_LIMIT)] = MIB
    session_expiry: Annotated[
        int,
        Meta(
            description="Time for which the session of a client that asked for one (clean session 0) is kept "
            "while it is away; 0: not at all.",
            ge=0,
        ),
    ] = 3_600_000
    max_sessions: Annotated[
        int, Meta(description="Sessions kept for clients that are away; beyond that the oldest ends.", ge=0)
    ] = 10_000


class MqttSection(Section):
    """An endpoint for MQTT clients, on a port of its own."""

    type: Literal["mqtt"] = "mqtt"
    options: MqttOptions = field(default_factory=MqttOptions)


class PluginSection(Section):
    """An implementation of your own. Of `path`, `name` and `type`, the first one that is given counts.

    A `path` with a slash, or that ends in `.py`, is a file, relative to `libDir` if that is set, else to the
    configuration file; any other is a module. `:Class` behind it names the class; without it the attribute
    `plugin` of the module is taken, or the only class in it that fits. A `name` is that of a class registered
    with `register_plugin`, of an entry point in the group `dsfast.<kind>`, or it is that of a module
    `dsfast_<kind>_<name>` in `libDir`.
    """

    path: Annotated[Text | None, Meta(description="File or module, with the class or without.")] = None
    name: Annotated[Text | None, Meta(description="Name of an installed or registered plugin.")] = None
    plugin_class: Annotated[Any, Meta(description="The class itself (configurations in Python only).")] = (
        field(default=None, name="class")
    )
    options: Annotated[dict[str, Any], Meta(description="Handed to the plugin as they are.")] = field(
        default_factory=dict
    )


class LoggerOptions(Section):
    """Options of the built-in logger."""

    colors: Annotated[bool, Meta(description="Colour the lines, if written to a terminal.")] = True
    log_level: Annotated[
        LogLevel | None,
        Meta(description="Own level; without it `logLevel` holds.", extra={"before": _log_level}),
    ] = None


class LoggerSection(Section):
    """The built-in logger: lines of text on standard output, warnings and errors on standard error."""

    type: Literal["default"] = "default"
    options: LoggerOptions = field(default_factory=LoggerOptions)


class JsonLoggerOptions(Section):
    """Options of the JSON logger. Those of pino that are not here are accepted without effect."""

    ignores_unknown: ClassVar[bool] = True

    colors: Annotated[bool, Meta(description="Without effect; the type can be changed alone.")] = False
    log_level: Annotated[
        LogLevel | None,
        Meta(description="Own level; without it `logLevel` holds.", extra={"before": _log_level}),
    ] = None
    redact: Annotated[
        list[str],
        Meta(
            description="Paths in the metadata whose values are replaced, names separated by dots, `*` for "
            "any name. Passwords, tokens, cookies and login data are replaced in any case.",
            extra={"before": _empty_for_none},
        ),
    ] = field(default_factory=lambda: ["socketWrapper.config"])


class JsonLoggerSection(Section):
    """One JSON object per line with the fields of pino, on standard output."""

    type: Literal["json", "pino"] = "json"
    options: JsonLoggerOptions = field(default_factory=JsonLoggerOptions)


class CacheOptions(Section):
    """Options of the memory cache. Only what the storage holds is ever evicted."""

    max_entries: Annotated[Memory | None, Meta(description="Records kept; null: unlimited.")] = None
    max_bytes: Annotated[Memory | None, Meta(description="Bytes kept; null: unlimited.")] = None
    ttl: Annotated[Positive | None, Meta(description="Seconds an unused record is kept; null: for ever.")] = (
        None
    )


class CacheSection(Section):
    """The built-in cache, in the memory of the server."""

    type: Literal["default"] = "default"
    options: CacheOptions = field(default_factory=CacheOptions)


class SqliteOptions(Section):
    """Options of the SQLite storage."""

    path: Annotated[Text | None, Meta(description="Database file; without it `<dataDir>/dsfast.db`.")] = None
    durability: Annotated[
        Literal["full", "normal", "async", "off"],
        Meta(
            description="What a write acknowledgement promises: on the disk (full), handed to the operating "
            "system (normal), nothing (async); off may destroy the file in a power failure."
        ),
    ] = "full"
    sync_interval: Annotated[
        int, Meta(description="With durability normal: time between two commits that reach the disk.", ge=1)
    ] = 1000
    flush_interval: Annotated[
        int,
        Meta(description="Time that a write without acknowledgement may wait for others to join it.", ge=0),
    ] = 5
    max_batch: Annotated[int, Meta(description="Records written in one transaction.", ge=1)] = 2000
    compress: Annotated[
        Literal["none", "zlib", "lz4"], Meta(description="How values of 1 KiB and more are compressed.")
    ] = "none"
    check_on_crash: Annotated[
        bool, Meta(description="Check the file at a start after a crash, if it is smaller than 1 GiB.")
    ] = True
    allow_network_file_system: Annotated[
        bool, Meta(description="Accept a path on a network file system, where locks may not hold.")
    ] = False
    max_pending: Annotated[
        int, Meta(description="Writes that may wait; beyond that new ones are refused.", ge=1)
    ] = 200_000
    max_pending_bytes: Annotated[
        int, Meta(description="Bytes that may wait to be written.", ge=1, le=MEMORY_LIMIT)
    ] = 256 * MIB


class SqliteSection(Section):
    """The built-in storage: one SQLite file."""

    type: Literal["sqlite"] = "sqlite"
    options: SqliteOptions = field(default_factory=SqliteOptions)


class NoStorageSection(Section):
    """Nothing is stored; records live as long as the server."""

    type: Literal["none", "default"] = "none"


class AuthSection(Section):
    """Open login: everybody is let in."""

    # Required: an entry that forgot its type must not open the server to everybody.
    type: Literal["none"]


Hash = Annotated[
    Text | None,
    Meta(
        description="How passwords are hashed: the name of an OpenSSL digest, which PBKDF2 then uses, or "
        "`argon2id`; null or false: they are stored as they are.",
        extra={"before": _none_for_false},
    ),
]
Iterations = Annotated[
    Annotated[int, Meta(ge=1, le=2**31 - 1)] | None,
    Meta(description="Rounds of PBKDF2; required with a digest."),
]
KeyLength = Annotated[
    Annotated[int, Meta(ge=1, le=4096)] | None,
    Meta(description="Bytes PBKDF2 makes; required with a digest."),
]
ReportInvalid = Annotated[
    bool | None,
    Meta(
        description="Refuse whoever gives wrong or no credentials, instead of asking the next entry; null: "
        "only if there is no other entry."
    ),
]


class FileAuthOptions(Section):
    """Users from a file. A stored password that begins with `$argon2id$` is one, whatever `hash` says."""

    users: Annotated[
        dict[str, Any],
        Meta(
            description="User names with `password`, `serverData`, `clientData`; usually "
            "`fileLoad(users.yml)`.",
            extra={"before": _text_keys},
        ),
    ] = field(default_factory=dict)
    path: Annotated[
        Text | None, Meta(description="The older way to give `users`: a YAML or JSON file that has them.")
    ] = None
    hash: Hash = None
    iterations: Iterations = None
    key_length: KeyLength = None
    report_invalid_parameters: ReportInvalid = None


class FileAuthSection(Section):
    """Login with name and password; the users are in the configuration or a file."""

    type: Literal["file"] = "file"
    options: FileAuthOptions = field(default_factory=FileAuthOptions)


class StorageAuthOptions(Section):
    """Users kept as records in the storage."""

    table: Annotated[str, Meta(description="Users are the records `<table>/<name>`.", min_length=1)]
    table_split_char: Annotated[
        str | None, Meta(description="Accepted and ignored, as it always was; the separator is `/`.")
    ] = None
    create_user: Annotated[bool, Meta(description="An unknown name is registered by its first login.")] = (
        False
    )
    hash: Hash = None
    iterations: Iterations = None
    key_length: KeyLength = None
    report_invalid_parameters: ReportInvalid = None


class StorageAuthSection(Section, kw_only=True):
    """Login with name and password; the users are records in the storage."""

    type: Literal["storage"] = "storage"
    options: StorageAuthOptions


class HttpAuthOptions(Section):
    """A web service of yours that is asked about every login."""

    endpoint_url: Annotated[
        str, Meta(description="Receives a POST per attempt.", pattern=r"^https?://[^/?#]", min_length=1)
    ]
    permitted_status_codes: Annotated[
        list[int], Meta(description="Status codes that let the client in.", min_length=1)
    ]
    request_timeout: Annotated[
        int, Meta(description="Time limit to connect, for the first byte, and for each pause after it.", ge=1)
    ]
    retry_status_codes: Annotated[
        list[int],
        Meta(description="Status codes after which it is tried again.", extra={"before": _empty_for_none}),
    ] = field(default_factory=list)
    retry_attempts: Annotated[int, Meta(description="Tries after the first one.", ge=0)] = 0
    retry_interval: Annotated[int, Meta(description="Pause before each of them.", ge=0)] = 5000
    promote_to_header: Annotated[
        list[str],
        Meta(
            description="Keys of the login data that are sent as headers too.",
            extra={"before": _empty_for_none},
        ),
    ] = field(default_factory=list)
    max_response_size: Annotated[int, Meta(description="Largest body of an answer.", ge=1)] = MIB
    report_invalid_parameters: ReportInvalid = None


class HttpAuthSection(Section, kw_only=True):
    """Login decided by a webhook."""

    type: Literal["http"] = "http"
    options: HttpAuthOptions


class JwtAuthOptions(Section):
    """JSON web tokens; exactly one of `secret`, `publicKey`, `jwksUrl` and `jwksFile` has their keys."""

    algorithms: Annotated[
        list[
            Literal[
                "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
                "ES256", "ES384", "ES512", "EdDSA",
            ]
        ],
        Meta(description="Signatures that are accepted.", min_length=1),
    ]  # fmt: skip
    secret: Annotated[
        Text | None, Meta(description="Key of HS256, HS384, HS512.", extra={"secret": True})
    ] = None
    public_key: Annotated[Text | None, Meta(description="Public key as PEM text, or its file.")] = None
    jwks_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^/?#]")] | None,
        Meta(description="Where the JSON web key set is published."),
    ] = None
    jwks_file: Annotated[Text | None, Meta(description="File with a JSON web key set.")] = None
    jwks_cache_lifetime: Annotated[
        int, Meta(description="Time after which the key set is read again.", ge=1)
    ] = 600_000
    jwks_refresh_interval: Annotated[
        int, Meta(description="Least time between two readings that unknown keys or failures cause.", ge=1)
    ] = 10_000
    jwks_request_timeout: Annotated[int, Meta(description="Time limit of a request for it.", ge=1)] = 5000
    issuer: Annotated[
        list[str],
        Meta(description="Accepted values of `iss`; empty: any.", extra={"before": _list_of}),
    ] = field(default_factory=list)
    audience: Annotated[
        list[str],
        Meta(
            description="`aud` has to contain one of these; empty: not checked.", extra={"before": _list_of}
        ),
    ] = field(default_factory=list)
    clock_skew: Annotated[
        int, Meta(description="By how much the clock of the issuer may be wrong.", ge=0)
    ] = 5000
    require_expiry: Annotated[bool, Meta(description="Refuse tokens without `exp`.")] = True
    end_on_expiry: Annotated[
        bool, Meta(description="Close the connection when the token expires, unless it was renewed.")
    ] = True
    id_claim: Annotated[str, Meta(description="Claim that is the user id.", min_length=1)] = "sub"
    server_data_claims: Annotated[
        dict[str, str] | list[str] | None,
        Meta(
            description="Claims that become server data, or a mapping of keys to claims; null: all of them."
        ),
    ] = None
    client_data_claims: Annotated[
        dict[str, str] | list[str], Meta(description="Claims that are told to the client, the same way.")
    ] = field(default_factory=list)
    token_parameter: Annotated[
        str, Meta(description="Key of the login data that holds the token.", min_length=1)
    ] = "token"
    token_header: Annotated[
        Text | None,
        Meta(description="Header of the handshake to look in as well; `Bearer` before the token is dropped."),
    ] = None
    token_cookie: Annotated[Text | None, Meta(description="Cookie of the handshake to look in as well.")] = (
        None
    )
    report_invalid_parameters: ReportInvalid = None


class JwtAuthSection(Section, kw_only=True):
    """Login with a JSON web token."""

    type: Literal["jwt"] = "jwt"
    options: JwtAuthOptions


class OpenPermissionSection(Section):
    """Open permission: everybody may do everything."""

    type: Literal["none"] = "none"


class ValveOptions(Section):
    """Options of the permission rules (docs/valve.md)."""

    permissions: Annotated[
        Any,
        Meta(
            description="Rules for `record`, `event`, `rpc` and `presence`; usually "
            "`fileLoad(permissions.yml)`."
        ),
    ] = None
    path: Annotated[
        Text | None,
        Meta(description="The older way to give `permissions`: a YAML or JSON file that has them."),
    ] = None
    max_rule_iterations: Annotated[
        int,
        Meta(
            description="Evaluations of one rule, each of which may find further records to load.",
            ge=1,
            le=1000,
        ),
    ] = 3
    cache_evacuation_interval: Annotated[
        Positive,
        Meta(description="Time after which it is forgotten which rule holds for a name that nobody used."),
    ] = 60_000
    revalidate_on_reload: Annotated[
        bool,
        Meta(description="New rules end the subscriptions, listen patterns and provided RPCs they forbid."),
    ] = True
    watch_interval: Annotated[
        Positive | None,
        Meta(description="Time between two looks whether the file of the rules has changed; null: never."),
    ] = None


class ValveSection(Section):
    """Rules of a permission file."""

    type: Literal["config"] = "config"
    options: ValveOptions = field(default_factory=ValveOptions)


class LoginConfig(Section):
    """Limits of logins, shared by all entries of `auth`."""

    max_failed_logins: Annotated[
        Positive | None,
        Meta(
            description="Failed logins per address and `failedLoginWindow`; more are refused unseen. "
            "Loopback addresses are exempt. null or false: unlimited.",
            extra={"before": _none_for_false},
        ),
    ] = 100
    failed_login_window: Annotated[
        int, Meta(description="Time in which a used-up allowance is whole again.", ge=1)
    ] = 60_000
    hashing_threads: Annotated[int, Meta(description="Passwords checked at the same time.", ge=1)] = 2
    max_waiting_hashes: Annotated[
        int, Meta(description="Logins that may wait for that; more are refused.", ge=0)
    ] = 1000


class MonitoringSection(Section):
    """No monitoring."""

    type: Literal["none"] = "none"


class LogMonitoringOptions(Section):
    """Figures in the log."""

    log_interval: Annotated[int, Meta(description="Time between two lines.", ge=1)] = 15_000
    monitoring_key: Annotated[str, Meta(description="Event of the lines.", min_length=1)] = "LOG_MONITORING"


class LogMonitoringSection(Section):
    """Figures in the log."""

    type: Literal["log"] = "log"
    options: LogMonitoringOptions = field(default_factory=LogMonitoringOptions)


class HttpMonitoringOptions(Section):
    """Figures by HTTP, for those who send a certain header."""

    url: Annotated[str, Meta(description="Path of the figures.", min_length=1)]
    header_key: Annotated[Text | None, Meta(description="Header that has to be sent.")] = None
    header_value: Annotated[Text | None, Meta(description="Its value.", extra={"secret": True})] = None
    allow_open_permissions: Annotated[bool, Meta(description="Everybody may read the figures.")] = False


class HttpMonitoringSection(Section, kw_only=True):
    """Figures by HTTP."""

    type: Literal["http"] = "http"
    options: Annotated[HttpMonitoringOptions, Meta(extra={"check": _has_header})]


class TelemetryOptions(Section):
    """Accepted without effect: dsfast never reports to anybody."""

    enabled: Annotated[bool, Meta(description="No effect.")] = False
    debug: Annotated[bool, Meta(description="No effect.")] = False
    deployment_id: Annotated[str | None, Meta(description="No effect.", extra={"check": _is_uuid})] = None


class TelemetrySection(Section):
    """No telemetry."""

    type: Literal["deepstreamIO"] = "deepstreamIO"
    options: TelemetryOptions = field(default_factory=TelemetryOptions)


class SubscriptionsOptions(Section):
    """Options of the subscription registries."""

    subscriptions_sanity_timer: Annotated[
        int, Meta(description="Accepted without effect: nothing has to be swept.", ge=50)
    ] = 10_000


class SubscriptionsSection(Section):
    """Who subscribes to what."""

    type: Literal["default"] = "default"
    options: SubscriptionsOptions = field(default_factory=SubscriptionsOptions)


class LocksOptions(Section):
    """Locks between the nodes of a cluster."""

    hold_timeout: Annotated[int, Meta(description="Time after which a lock is released.", ge=50)] = 1000
    request_timeout: Annotated[int, Meta(description="Time limit of a request for a lock.", ge=50)] = 1000


class LocksSection(Section):
    """Locks between the nodes of a cluster; a single node needs none."""

    type: Literal["default"] = "default"
    options: LocksOptions = field(default_factory=LocksOptions)


class ClusterNodeSection(Section):
    """A single node."""

    type: Literal["default"] = "default"
    options: Annotated[dict[str, Any], Meta(description="No effect.")] = field(default_factory=dict)


class VerticalNodeSection(Section):
    """Several processes on this machine."""

    type: Literal["vertical"] = "vertical"
    options: Annotated[dict[str, Any], Meta(description="No effect.")] = field(default_factory=dict)


class ClusterRegistryOptions(Section):
    """Who is in the cluster."""

    keep_alive_interval: Annotated[int, Meta(description="Time between two signs of life.", ge=1)] = 5000
    active_check_interval: Annotated[int, Meta(description="Time between two looks for them.", ge=1)] = 1000
    node_inactive_timeout: Annotated[
        int, Meta(description="Silence after which a node is taken out.", ge=1)
    ] = 6000
    role: Annotated[str, Meta(description="Role that this node announces.")] = "deepstream"


class ClusterRegistrySection(Section):
    """Who is in the cluster; a single node knows only itself."""

    type: Literal["default"] = "default"
    options: ClusterRegistryOptions = field(default_factory=ClusterRegistryOptions)


class ClusterStatesOptions(Section):
    """What the nodes of a cluster know of each other's subscriptions."""

    reconciliation_timeout: Annotated[
        int, Meta(description="Time for which a difference may last.", ge=1)
    ] = 500


class ClusterStatesSection(Section):
    """What the nodes of a cluster know of each other's subscriptions."""

    type: Literal["default"] = "default"
    options: ClusterStatesOptions = field(default_factory=ClusterStatesOptions)


class HeapSnapshotOptions(Section):
    """Snapshots of the memory, for those who look for a leak."""

    interval: Annotated[int, Meta(description="Time between two snapshots.", ge=10_000)]
    output_dir: Annotated[str, Meta(description="Directory for the snapshots.", min_length=1)]
    max_files: Annotated[int, Meta(description="Files that are kept; older ones are removed.", ge=1)] = 100
    trace_frames: Annotated[
        int,
        Meta(
            description="Frames of each allocation that are remembered, at the cost of speed; 0: none.",
            ge=0,
            le=100,
        ),
    ] = 0


class HeapSnapshotSection(Section, kw_only=True):
    """Snapshots of the memory."""

    type: Literal["heap-snapshot"] = "heap-snapshot"
    options: HeapSnapshotOptions


Endpoint = (
    WebSocketSection
    | WebSocketTextSection
    | WebSocketJsonSection
    | HttpEndpointSection
    | MqttSection
    | PluginSection
)


class DefaultEndpoints(list[Endpoint]):
    """The endpoints of a server that was not told which to have."""


def _default_endpoints() -> list[Endpoint]:
    every = (WebSocketSection, WebSocketTextSection, WebSocketJsonSection, HttpEndpointSection, MqttSection)
    return DefaultEndpoints(
        made for section in every if not is_pending(f"/connectionEndpoints/*/{(made := section()).type}")
    )


class Config(Section, dict=True):
    """The whole configuration."""

    server_name: Annotated[
        str,
        Meta(
            description="Name of this server, unique among its peers; absent or `UUID`: a generated one.",
            min_length=1,
            extra={"before": _server_name, "shown_default": "generated"},
        ),
    ] = field(default_factory=generated_server_name)
    show_logo: Annotated[bool, Meta(description="Print a start-up banner.")] = False
    log_level: Level = LogLevel.INFO
    data_dir: Annotated[
        str, Meta(description="Directory for what the server keeps on disk.", min_length=1)
    ] = "./data"
    lib_dir: Annotated[
        Text | None,
        Meta(description="Directory of plugins, relative to the configuration file."),
    ] = None
    dependency_initialization_timeout: Annotated[
        int, Meta(description="Time in which each service has to become ready.", ge=1000)
    ] = 2000
    shutdown_timeout: Annotated[
        int, Meta(description="Time in which the server stops, the last writes included.", ge=1)
    ] = 10_000
    permission_timeout: Annotated[
        int, Meta(description="Time after which a permission check that waits counts as an error.", ge=1)
    ] = 10_000
    authentication_timeout: Annotated[
        int, Meta(description="Time after which a login check that waits is refused.", ge=1)
    ] = 60_000
    exit_on_fatal_error: Annotated[
        bool, Meta(description="End the process at once, with code 1, when a fatal line is logged.")
    ] = False
    enabled_features: EnabledFeatures = field(default_factory=EnabledFeatures)
    rpc: RpcConfig = field(default_factory=RpcConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    listen: ListenConfig = field(default_factory=ListenConfig)
    http_server: HttpServerSection | PluginSection = field(default_factory=HttpServerSection)
    connection_endpoints: Annotated[
        list[Endpoint],
        Meta(description="The protocols that are served.", min_length=1),
    ] = field(default_factory=_default_endpoints)
    logger: LoggerSection | JsonLoggerSection | PluginSection = field(default_factory=LoggerSection)
    cache: CacheSection | PluginSection = field(default_factory=CacheSection)
    storage: SqliteSection | NoStorageSection | PluginSection = field(default_factory=SqliteSection)
    login: LoginConfig = field(default_factory=LoginConfig)
    auth: Annotated[
        list[
            AuthSection
            | FileAuthSection
            | StorageAuthSection
            | HttpAuthSection
            | JwtAuthSection
            | PluginSection
        ],
        Meta(description="Asked one after the other until one knows the user.", min_length=1),
    ] = field(default_factory=lambda: [AuthSection(type="none")])
    permission: OpenPermissionSection | ValveSection | PluginSection = field(
        default_factory=OpenPermissionSection
    )
    monitoring: Annotated[
        list[MonitoringSection | LogMonitoringSection | HttpMonitoringSection | PluginSection],
        Meta(description="Each is told everything."),
    ] = field(default_factory=lambda: [MonitoringSection()])
    telemetry: TelemetrySection | PluginSection = field(default_factory=TelemetrySection)
    subscriptions: SubscriptionsSection | PluginSection = field(default_factory=SubscriptionsSection)
    locks: LocksSection | PluginSection = field(default_factory=LocksSection)
    cluster_node: ClusterNodeSection | VerticalNodeSection | PluginSection = field(
        default_factory=ClusterNodeSection
    )
    cluster_registry: ClusterRegistrySection | PluginSection = field(default_factory=ClusterRegistrySection)
    cluster_states: ClusterStatesSection | PluginSection = field(default_factory=ClusterStatesSection)
    plugins: Annotated[
        dict[str, PluginSection | HeapSnapshotSection],
        Meta(description="Plugins beside the services, each under a name of your choice."),
    ] = field(default_factory=dict)

    @property
    def source(self) -> Source:
        """Where the values come from."""
        source: Source = self.__dict__.setdefault("_source", Source())
        return source

    @source.setter
    def source(self, source: Source) -> None:
        self.__dict__["_source"] = source

    @property
    def warnings(self) -> list[Problem]:
        """What was accepted but is unwise."""
        warnings: list[Problem] = self.__dict__.setdefault("_warnings", [])
        return warnings

    @property
    def library_directory(self) -> Path | None:
        """Where plugins are looked for: `libDir`, else DEEPSTREAM_LIBRARY_DIRECTORY."""
        if self.lib_dir is None:
            return self.source.library_directory
        return Path(resolve_path(self.lib_dir, self.source.directory or "."))

    @property
    def sqlite_path(self) -> str:
        """Where the SQLite storage keeps its file."""
        options = self.storage.options if isinstance(self.storage, SqliteSection) else SqliteOptions()
        return options.path or str(Path(self.data_dir) / "dsfast.db")

    @property
    def http(self) -> HttpServerOptions:
        """Options of the port for websockets and HTTP."""
        section = self.http_server
        return section.options if isinstance(section, HttpServerSection) else HttpServerOptions()

    @property
    def websocket(self) -> WebSocketOptions:
        """Options of the (first) endpoint for binary websockets."""
        found = (entry.options for entry in self.connection_endpoints if isinstance(entry, WebSocketSection))
        return next(found, WebSocketOptions())
