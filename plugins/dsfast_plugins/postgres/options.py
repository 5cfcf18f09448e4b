"""Options of the PostgreSQL storage: upstream's, and node-postgres' for the connection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, field

from dsfast_plugins.options import Milliseconds, OptionError, Options, Port, Positive, read_options
from dsfast_plugins.tls import tls_context

__all__ = ["EVENTS", "PostgresOptions", "connect_arguments", "postgres_options"]

EVENTS = ("CREATE_TABLE", "DESTROY_TABLE", "INSERT", "UPDATE", "DELETE")

IGNORED = (
    "allowExitOnIdle", "binary", "client_encoding", "fallback_application_name", "keepAlive",
    "keepAliveInitialDelayMillis", "maxUses", "min", "options", "query_timeout", "stream", "types",
)  # fmt: skip


class PostgresOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/storage.md."""

    connection_string: str | None = None
    host: str | None = None
    port: Port | None = None
    user: str | None = None
    password: str | None = None
    database: str | None = None
    ssl: dict[str, Any] | bool | None = None
    application_name: str = field(default="dsfast", name="application_name")
    connection_timeout_millis: Milliseconds = 10_000
    max: Annotated[int, Meta(ge=2)] = 10
    idle_timeout_millis: Milliseconds = 30_000

    schema: str = "ds"
    default_table: str = "default"
    split_char: str = "/"
    write_interval: Milliseconds = 200
    use_jsonb: bool = False
    role: str | None = None
    notifications: dict[str, bool] | None = None

    command_timeout: Milliseconds = 30_000
    statement_cache_size: Annotated[int, Meta(ge=0)] = 100
    big_versions: bool = False
    drop_empty_tables: bool = False
    legacy_keys: bool = False
    batch: Positive = 1000

    def notifies(self, event: str) -> bool:
        """Whether an event is announced; an object that is given replaces the default as a whole."""
        return True if self.notifications is None else self.notifications.get(event, False)


def postgres_options(given: Mapping[str, Any]) -> tuple[PostgresOptions, list[str]]:
    """The checked options, and warnings. Raises OptionError."""
    options, warnings = read_options(PostgresOptions, given, known=IGNORED)
    if options.split_char != "/":
        warnings.append("option splitChar has no effect, names are split at /")
    for name, value in (("schema", options.schema), ("defaultTable", options.default_table)):
        if not value or "\0" in value:
            raise OptionError(f"option {name}: expected a name")
    text = options.connection_string
    if text is not None and not text.startswith(("postgres://", "postgresql://")):
        raise OptionError("option connectionString: expected postgresql://user:password@host:port/database")
    for event in options.notifications or ():
        if event not in EVENTS:
            warnings.append(f"option notifications: {event} is none of {', '.join(EVENTS)}")
    tls_context(options.ssl, "ssl")
    return options, warnings


def connect_arguments(options: PostgresOptions) -> dict[str, Any]:
    """What ``asyncpg.connect`` is given; what is absent comes from the environment (``PGHOST``, ...)."""
    host = options.host
    if host is None and options.connection_string is None and "PGHOST" not in os.environ:
        host = "localhost"
    arguments = {
        "dsn": options.connection_string,
        "host": host,
        "port": options.port,
        "user": options.user,
        "password": options.password,
        "database": options.database,
        "ssl": tls_context(options.ssl, "ssl") if options.ssl is not None else None,
        "timeout": options.connection_timeout_millis / 1000,
        "statement_cache_size": options.statement_cache_size,
        "server_settings": {"application_name": options.application_name},
    }
    return {name: value for name, value in arguments.items() if value is not None}
