"""Options of the Redis cache: ioredis's names, as upstream's connector passes them through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from dsfast_plugins.options import Milliseconds, OptionError, Options, Port, Positive, Seconds, read_options
from dsfast_plugins.tls import tls_context

__all__ = ["Endpoint", "RedisOptions", "redis_options"]

# Accepted by ioredis and without meaning here.
IGNORED = (
    "autoResubscribe", "autoResendUnfulfilledCommands", "keepAlive", "lazyConnect", "noDelay",
    "reconnectOnError", "retryStrategy", "showFriendlyErrorStack", "enableReadyCheck", "dropBufferSupport",
    "stringNumbers",
    "sentinelRetryStrategy", "natMap", "scaleReads", "clusterRetryStrategy", "retryDelayOnFailover",
    "retryDelayOnClusterDown", "retryDelayOnTryAgain", "slotsRefreshTimeout", "slotsRefreshInterval",
    "enableAutoPipelining", "commandQueue", "offlineQueue", "serverName",
)  # fmt: skip


class Endpoint(Struct, frozen=True, rename="camel"):
    """A sentinel, or one node of a cluster to begin with."""

    host: str = "localhost"
    port: Port = 6379
    password: str | None = None


class RedisOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/cache.md."""

    host: str = "localhost"
    port: Port = 6379
    path: str | None = None
    url: str | None = None
    username: str | None = None
    password: str | None = None
    db: Annotated[int, Meta(ge=0)] = 0
    tls: dict[str, Any] | bool | None = None
    family: Literal[0, 4, 6] = 4
    connect_timeout: Milliseconds = 10_000
    connection_name: str | None = None
    key_prefix: str = ""
    max_retries_per_request: Annotated[int, Meta(ge=0)] | None = 20
    enable_offline_queue: bool = True
    ttl: Seconds | None = None

    sentinels: list[Endpoint] | None = None
    name: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    sentinel_tls: dict[str, Any] | bool | None = field(default=None, name="sentinelTLS")
    role: Literal["master"] = "master"

    nodes: list[Endpoint] | None = None
    redis_options: dict[str, Any] | None = None
    max_redirections: Positive = 16

    prefix: str = "ds"
    legacy_read: bool = False
    allow_eviction: bool = False
    command_timeout: Milliseconds | None = None
    max_queue_bytes: Positive = 64 << 20


def redis_options(given: Mapping[str, Any]) -> tuple[RedisOptions, list[str]]:
    """The checked options with ``url`` and ``redisOptions`` worked in, and warnings. Raises OptionError."""
    nested = given.get("redisOptions") if isinstance(given, Mapping) else None
    if isinstance(nested, Mapping):
        given = {**nested, **given}
    options, warnings = read_options(RedisOptions, given, known=IGNORED)
    if options.url is not None:
        options = _with_url(options, options.url)
    for name, endpoints in (("sentinels", options.sentinels), ("nodes", options.nodes)):
        if endpoints is not None and not endpoints:
            raise OptionError(f"option {name}: expected at least one entry")
    if options.sentinels and options.nodes:
        raise OptionError("options sentinels, nodes: only one of the two is possible")
    if options.nodes and options.db:
        raise OptionError("option db: expected 0, a Redis Cluster has no other")
    if any(sign in options.prefix for sign in "{}"):
        raise OptionError("option prefix: expected no braces")
    tls_context(options.tls, "tls")
    tls_context(options.sentinel_tls, "sentinelTLS")
    return options, warnings


def _with_url(options: RedisOptions, url: str) -> RedisOptions:
    """A URL goes before the single options, as with upstream."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        port = parts.port
    except ValueError as error:
        raise OptionError("option url: expected redis://user:password@host:port/db") from error
    if parts.scheme not in ("", "redis", "rediss", "unix") or not (parts.hostname or parts.scheme == "unix"):
        raise OptionError("option url: expected redis://, rediss:// or unix://")
    database = parts.path.strip("/")
    changes: dict[str, Any] = {}
    if parts.scheme == "unix":
        changes["path"] = unquote(parts.path)
    else:
        changes = {"host": parts.hostname, "port": port or options.port, "path": None}
        if database:
            if not database.isdecimal():
                raise OptionError("option url: expected a number as the database")
            changes["db"] = int(database)
    if parts.username:
        changes["username"] = unquote(parts.username)
    if parts.password:
        changes["password"] = unquote(parts.password)
    if parts.scheme == "rediss" and not options.tls:
        changes["tls"] = True
    return replace(options, **changes)
