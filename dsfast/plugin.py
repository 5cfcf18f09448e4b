"""The plugin contract: one typed base class for every kind of plugin that can be replaced.

Rules that hold for all of them (plugins.md part A):

* Every method runs on the event loop thread and must not block; :func:`asyncio.to_thread` is for what does.
* Methods that are not coroutines are on the hot path and must return at once.
* An exception that leaves a method is the error of that one operation. It is logged and answered; it never
  ends the server. :class:`PluginError` is the exception for an error whose text may be shown to a client.
* The constructor may only use ``options``; the other services exist from :meth:`Plugin.init` on.
"""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from msgspec import UNSET, UnsetType

if TYPE_CHECKING:
    from dsfast._core.protocol import Message
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = [
    "UNSET",
    "AuthResult",
    "Authentication",
    "Cache",
    "ConnectionEndpoint",
    "ConnectionListener",
    "HttpError",
    "HttpMeta",
    "LogLevel",
    "Logger",
    "Monitoring",
    "NamespacedLogger",
    "Permission",
    "Plugin",
    "PluginError",
    "RecordHandler",
    "ReloadablePermission",
    "Socket",
    "Storage",
    "UnsetType",
]


class PluginError(Exception):
    """An error of one plugin operation whose text may be logged and sent to the client."""


class HttpError(Exception):
    """Raised by a handler of HTTP requests: the answer has this status and text (plugins.md B.14)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpMeta:
    """What a handler of HTTP requests may know of one.

    ``headers`` have lower case names, ``url`` is path and query as they were sent.
    """

    headers: Mapping[str, str]
    url: str


class LogLevel(IntEnum):
    """Severity of a log line; a line is written when its level is at least the level that is set."""

    DEBUG = 0
    INFO = 1
    WARN = 2
    ERROR = 3
    FATAL = 4
    OFF = 100

    @classmethod
    def _missing_(cls, value: object) -> LogLevel | None:
        """``LogLevel("warn")`` is a level too, in any case."""
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class Plugin(ABC):
    """What every plugin is.

    ``options`` is the plugin's own section of the configuration (``{}`` when absent), ``services`` the shared
    registry, ``config`` the merged configuration. Order of calls: constructor, :meth:`init`,
    :meth:`when_ready`, work, :meth:`close`.
    """

    description: str = ""
    """Text of the start-up line ``<service> ready: <description>``."""

    options: Any
    """A mapping with the original keys; the built-in plugins get the typed section of the configuration."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        self.options = options
        self.services = services
        self.config = config

    @property
    def logger(self) -> Logger:
        """The server's logger. ``fatal`` declares the plugin dead (plugins.md A.1)."""
        return self.services.logger

    def init(self) -> None:  # noqa: B027 - an optional hook
        """Called once when the server starts, right before :meth:`when_ready`."""

    async def when_ready(self) -> None:  # noqa: B027 - an optional hook
        """Return when the plugin can work.

        It must do so within ``dependencyInitializationTimeout`` milliseconds. An exception, or a timeout,
        makes the start of the server fail.
        """

    async def close(self) -> None:  # noqa: B027 - an optional hook
        """Release everything. May be called on a plugin whose start failed half way."""


@runtime_checkable
class Socket(Protocol):
    """One logged-in client connection as plugins see it (plugins.md A.3). Hashable by identity."""

    @property
    def user_id(self) -> str | None:
        """Id given by authentication; None before login."""

    @property
    def server_data(self) -> Any:
        """Data of the login for the server's own use (permission rules); never sent to the client."""

    @property
    def client_data(self) -> Any:
        """Data of the login that the client received; UNSET when it received none."""

    @property
    def uuid(self) -> str:
        """Random id of this connection."""

    @property
    def socket_type(self) -> str:
        """Protocol of the connection, for example ``wsBinary``."""

    @property
    def is_remote(self) -> bool:
        """True if the connection is held by another node."""

    @property
    def is_closed(self) -> bool:
        """True once the connection is closed; everything sent from then on is dropped."""

    @property
    def handshake_data(self) -> Mapping[str, Any]:
        """``remoteAddress``, ``headers`` (lower case names) and ``referer`` of the connection."""

    def send(self, message: Message) -> None:
        """Queue a message for this client; dropped silently if the connection is closed."""

    def on_close(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback(socket)`` once when the connection closes, whatever the cause."""

    def remove_on_close(self, callback: Callable[[Any], None]) -> None:
        """Take back :meth:`on_close`; unknown callbacks are ignored."""

    def destroy(self) -> None:
        """Close the connection now."""


@dataclass(slots=True)
class AuthResult:
    """Answer of an authentication plugin to one login attempt.

    ``client_data`` UNSET means that the field is absent from the answer to the client, None that it is JSON
    null. An empty ``id`` of a valid result becomes the user id ``OPEN`` (connection-and-auth.md section 2).
    ``token`` is handed out by the HTTP login endpoint. ``expires`` (seconds since 1970) ends the connection
    at that time, unless the client has logged in again on it with a later one (docs/authentication.md).
    """

    is_valid: bool
    id: str | None = None
    client_data: Any = UNSET
    server_data: Any = None
    token: str | None = None
    expires: float | None = None


class Authentication(Plugin):
    """Decides who a client is (plugins.md B.2)."""

    @abstractmethod
    async def is_valid_user(
        self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]
    ) -> AuthResult | None:
        """Check one login attempt.

        ``connection_data`` is the handshake data of the socket, ``auth_data`` the JSON object the client
        sent. None means "not my user": the next authentication of the list is asked. An exception refuses the
        login.
        """

    def on_client_disconnect(self, user_id: str) -> None:
        """Called when an authenticated connection of ``user_id`` has closed."""


@runtime_checkable
class RecordHandler(Protocol):
    """What a permission plugin may ask the server's records."""

    async def get_record(self, name: str) -> tuple[int, Any]:
        """Version and data as of all changes accepted so far; ``(-1, None)`` if there is no such record."""


class Permission(Plugin):
    """Decides what an authenticated client may do (plugins.md B.3)."""

    @abstractmethod
    def can_perform_action(self, socket: Socket, message: Message) -> bool | Awaitable[bool]:
        """True allows the message.

        Called once per message, for messages with several names once per name, and again for the steps of
        compound record actions with ``message.action`` CREATE, READ, UPDATE or PATCH. Changes and deletions
        of records are asked about when it is their turn, so that ``get_record`` shows what they will change;
        a patch without data is an ERASE. A plain bool is the fast way; an awaitable delays the later messages
        of the same connection until it is done. An exception, or no answer in time, denies with
        ``MESSAGE_PERMISSION_ERROR``.
        """

    def set_record_handler(self, handler: RecordHandler) -> None:
        """Receive access to the records; called once before the first message."""


@runtime_checkable
class ReloadablePermission(Protocol):
    """What a permission plugin may offer beside :class:`Permission`: rules that can be replaced."""

    async def reload(self) -> bool:
        """Read the rules again; False (and a line in the log) if they are not valid: the old ones stay."""

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever the rules were replaced: the server then ends what they forbid."""


class Cache(Plugin):
    """Holds the records in use (plugins.md B.4).

    ``data`` is the parsed JSON value and must be treated as immutable. Time limits are the server's job.
    """

    @abstractmethod
    async def get(self, name: str) -> tuple[int, Any]:
        """Version and data of a record; ``(-1, None)`` if it is not here."""

    @abstractmethod
    async def set(self, name: str, version: int, data: Any) -> None:
        """Keep a version of a record."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Forget a record; a missing one is no error."""

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """Forget several records. The default deletes one after the other."""
        for name in names:
            await self.delete(name)

    async def head(self, name: str) -> int:
        """Version of a record, -1 if it is not here. The default reads the whole record."""
        return (await self.get(name))[0]

    async def head_bulk(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """Versions of the records that are here, and the names of those that are not."""
        found: dict[str, int] = {}
        missing: list[str] = []
        for name in names:
            version = await self.head(name)
            if version >= 0:
                found[name] = version
            else:
                missing.append(name)
        return found, missing


class Storage(Plugin):
    """Keeps records for good (plugins.md B.5, storages.md section 1).

    The server never runs two writes of one name at the same time. ``data`` is the parsed JSON value.
    """

    @abstractmethod
    async def get(self, name: str) -> tuple[int, Any]:
        """Version and data of a record; ``(-1, None)`` if it is not stored."""

    @abstractmethod
    async def set(self, name: str, version: int, data: Any) -> None:
        """Return when this version is as durable as the storage promises."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Remove a record for good; a missing one is no error."""

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """Remove several records. The default deletes one after the other."""
        for name in names:
            await self.delete(name)


class Logger(Plugin):
    """Writes the server's log (plugins.md B.6).

    Only :meth:`log` has to be written. The methods of the five levels filter by level, report warnings and
    errors to monitoring whatever the level, and let a fatal line end the server; a failing :meth:`log` is
    contained.
    """

    level: int = LogLevel.INFO

    def should_log(self, level: int) -> bool:
        """True if lines of this level are written at present."""
        return level >= self.level

    def set_log_level(self, level: int | str) -> None:
        """Change the level, at start and at run time; a number or a name. Raises :class:`ValueError`."""
        self.level = LogLevel(cast(int, level))  # names are known to LogLevel, but not to its type

    @abstractmethod
    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """Write one line. ``meta["namespace"]`` is the namespace of a :class:`NamespacedLogger`."""

    def debug(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """For those who look for a fault."""
        self._emit(LogLevel.DEBUG, event, message, meta)

    def info(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """Ordinary events."""
        self._emit(LogLevel.INFO, event, message, meta)

    def warn(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """Something was refused or looks wrong."""
        self._emit(LogLevel.WARN, event, message, meta)

    def error(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """An operation failed."""
        self._emit(LogLevel.ERROR, event, message, meta)

    def fatal(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """The server cannot go on; after the line it is told to end."""
        self._emit(LogLevel.FATAL, event, message, meta)

    def get_namespace(self, namespace: str) -> NamespacedLogger:
        """A logger whose lines carry the name of a part of the server."""
        return NamespacedLogger(self, namespace)

    def _emit(self, level: LogLevel, event: str, message: str, meta: Mapping[str, Any] | None) -> None:
        if self.should_log(level):
            try:
                self.log(level, event, message, meta)
            except Exception as error:
                # There is no other place left to report to.
                line = f"PLUGIN_ERROR | the logger failed: {error!r}; line: {event!r} {message!r}"
                with contextlib.suppress(OSError, ValueError):
                    print(line, file=sys.stderr)
        if level >= LogLevel.WARN:
            self.services.report_log(level, event, message, meta)
        if level == LogLevel.FATAL:
            self.services.notify_fatal_exception()


class NamespacedLogger:
    """A view of a :class:`Logger` that adds ``namespace`` to the metadata of each line."""

    __slots__ = ("_logger", "namespace")

    def __init__(self, logger: Logger, namespace: str) -> None:
        self._logger = logger
        self.namespace = namespace

    def should_log(self, level: int) -> bool:
        """True if lines of this level are written at present."""
        return self._logger.should_log(level)

    def debug(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.debug`."""
        self._logger.debug(event, message, self._tagged(meta))

    def info(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.info`."""
        self._logger.info(event, message, self._tagged(meta))

    def warn(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.warn`."""
        self._logger.warn(event, message, self._tagged(meta))

    def error(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.error`."""
        self._logger.error(event, message, self._tagged(meta))

    def fatal(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.fatal`."""
        self._logger.fatal(event, message, self._tagged(meta))

    def _tagged(self, meta: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"namespace": self.namespace, **(meta or {})}


class Monitoring(Plugin):
    """Is told what happens (plugins.md B.8). Every method is on the hot path; the defaults do nothing."""

    def on_error_log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None) -> None:
        """A line of level WARN or above was logged, whatever the level that is set."""

    def on_login(self, allowed: bool, endpoint_type: str) -> None:
        """A login was answered; ``endpoint_type`` is ``websocket`` or ``http``."""

    def on_message_received(self, message: Message, socket: Socket) -> None:
        """A permitted message is about to be handled."""

    def on_message_send(self, message: Message) -> None:
        """A message was sent to one client."""

    def on_broadcast(self, message: Message, count: int) -> None:
        """A message is about to be sent to ``count`` local subscribers, the sender included."""


@runtime_checkable
class ConnectionListener(Protocol):
    """Is told about every authenticated client; a custom plugin becomes one by having both methods."""

    def on_client_connected(self, socket: Socket) -> None:
        """The client has been told that its login succeeded."""

    def on_client_disconnected(self, socket: Socket) -> None:
        """The client's connection has closed."""


class ConnectionEndpoint(Plugin):
    """Accepts clients (plugins.md B.7): opens its port in :meth:`when_ready`, drains in :meth:`close`."""

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses and ports that are listened on; empty before the start and after the stop."""
        return []

    def stop_accepting(self) -> None:
        """Refuse new clients from now on; those connected stay until :meth:`close`."""

    def get_client_versions(self) -> Mapping[str, Set[str]]:
        """Versions of the client libraries that have logged in since the start, by kind of library."""
        return {}
