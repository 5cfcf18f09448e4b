"""The ws-binary endpoint: the port, logins, and what is logged about connections (connection-and-auth.md)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsfast._core.connection import Connection, Endpoint
from dsfast.endpoints.http import HttpResponse, HttpRoutes, Request
from dsfast.endpoints.proxies import Proxies
from dsfast.plugin import ConnectionEndpoint, ConnectionListener, PluginError
from dsfast.services.authentication import OpenAuthentication
from dsfast.services.logger import FloodGuard
from dsfast.services.monitoring import NoMonitoring

if TYPE_CHECKING:
    from dsfast.config import WebSocketOptions

__all__ = ["WebSocketEndpoint"]

BACKLOG = 4096
CLOSE_SLICE = 500
"""Connections closed in one turn of the loop, so that a shutdown does not stall those still being served."""
GOING_AWAY = 1001


class WebSocketEndpoint(ConnectionEndpoint):
    """Serves the binary protocol, and plain HTTP beside it, on one port.

    The connections are those of the core; this class makes the decisions that are rare enough for Python.
    """

    description = "ws-binary"
    options: WebSocketOptions

    def init(self) -> None:
        """Set up the core's part from the options."""
        services, options = self.services, self.options
        router = services.message_distributor
        self._presence = router.presence
        self._proxies = Proxies(self.config.http.trusted_proxies, self._log_unknown_proxy)
        self._guard = FloodGuard(services.logger)
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        self._logins: set[asyncio.Task[None]] = set()
        self._routes = HttpRoutes(
            self.config.http.health_check_path,
            self._trouble,
            self.config.http.allow_all_origins,
        )
        self._listeners = [
            plugin for plugin in services.plugins.values() if isinstance(plugin, ConnectionListener)
        ]
        # The built-in service has nothing to be told, so that a login costs no call.
        self._monitoring = None if type(services.monitoring) is NoMonitoring else services.monitoring
        self.max_names = options.max_names_per_message
        opened = OpenAuthentication.user_id if getattr(services.authentication, "is_open", False) else None
        core = Endpoint(router.hub, router.wheel, router, self, open_user_id=opened)
        core.url_path = options.url_path.encode()
        core.max_message_size = options.max_message_size
        core.max_body_size = self.config.http.max_message_size
        core.heartbeat_interval = options.heartbeat_interval
        core.unauthenticated_timeout = options.unauthenticated_client_timeout or 0
        core.max_auth_attempts = options.max_auth_attempts
        core.max_bad_messages = options.max_bad_messages
        self.core = core

    async def when_ready(self) -> None:
        """Open the port."""
        http = self.config.http
        if not http.allow_all_origins and not http.origins:
            raise PluginError("HTTP allowAllOrigins set to false but no origins provided")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.core.make, http.host, http.port, backlog=BACKLOG)
        for listening in self._server.sockets:
            _accept_when_data_came(listening.fileno())

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses and ports that are listened on; empty before the start and after the stop."""
        if self._server is None:
            return []
        return [sock.getsockname()[:2] for sock in self._server.sockets]

    def stop_accepting(self) -> None:
        """Refuse new clients from now on."""
        server = getattr(self, "_server", None)
        if server is not None:
            server.close()

    async def close(self) -> None:
        """Send everybody what is queued for them and a close frame, and wait until they are gone.

        Those that have not gone after two seconds are cut off.
        """
        self.stop_accepting()
        core: Endpoint | None = getattr(self, "core", None)
        if core is None:
            return
        for task in self._logins:
            task.cancel()
        try:
            while core.open_connections():
                core.close_connections(GOING_AWAY, CLOSE_SLICE)
                await asyncio.sleep(0)
            while core.connections:
                self._empty.clear()
                await self._empty.wait()
        finally:
            core.abort_connections()
            self._guard.close()

    def _trouble(self) -> tuple[int, bytes] | None:
        """What the health check has to say: nothing while all is well (storages.md section 10.5).

        A storage whose writes are being retried makes it ``degraded``, with status 200, since clients are
        served; one that has given up makes it ``unhealthy``, with status 503.
        """
        if not getattr(self.services.storage, "healthy", True):
            return 503, b'{"status":"unhealthy"}'
        writer = self.services.storage_writer
        return (200, b'{"status":"degraded"}') if writer is not None and writer.degraded else None

    def on_empty(self) -> None:
        """The last connection is gone."""
        self._empty.set()

    # --- called by the core

    def on_http(self, connection: Connection, request: Request) -> HttpResponse:
        """Answer a request that is no upgrade."""
        return self._routes.answer(request)

    def origin_allowed(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of this origin may open a websocket (protocol-binary.md section 1).

        Browsers send cookies with an upgrade whatever page asks for it, so the rules of HTTP hold here too.
        """
        http = self.config.http
        return http.allow_all_origins or (headers.get("origin") or headers.get("referer")) in http.origins

    def remote_address(self, headers: Mapping[str, str], peer: str | None) -> str | None:
        """Address of a client: that of its socket, or what a trusted proxy says (``trustedProxies``)."""
        return self._proxies.client(headers, peer)

    def authenticate(self, connection: Connection, auth_data: Any) -> None:
        """Ask the authentication service; the connection is told when it has decided."""
        task = asyncio.ensure_future(self._authenticate(connection, auth_data))
        self._logins.add(task)
        task.add_done_callback(self._logins.discard)

    async def _authenticate(self, connection: Connection, auth_data: Any) -> None:
        handshake = connection.handshake_data
        self.logger.debug("REQUEST", str(handshake["remoteAddress"]))
        result = await self.services.authentication.is_valid_user(handshake, auth_data)
        accepted = result is not None and result.is_valid
        if not accepted:
            self._report_login(False)
            text = "invalid authentication data"
            if self.options.log_invalid_auth_data:
                text += f": {auth_data!r}"
            self._guard.info(self._who(connection), "AUTH_UNSUCCESSFUL", text)
        if result is not None:
            connection.finish_login(accepted, result.id, result.server_data, result.client_data)

    def _report_login(self, allowed: bool) -> None:
        if self._monitoring is not None:
            try:
                self._monitoring.on_login(allowed, "websocket")
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"on_login: {error!r}")

    def on_open(self, connection: Connection) -> None:
        """A client has logged in."""
        if self._presence is not None:
            self._presence.connected(connection)
        self._report_login(True)
        for listener in self._listeners:
            try:
                listener.on_client_connected(connection)
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"on_client_connected: {error!r}")
        self.logger.info("AUTH_SUCCESSFUL", connection.user_id)

    def on_closed(self, connection: Connection) -> None:
        """A client that had logged in is gone."""
        self.logger.info("CLIENT_DISCONNECTED", connection.user_id)
        self.services.authentication.on_client_disconnect(connection.user_id)
        if self._presence is not None:
            self._presence.disconnected(connection)
        for listener in self._listeners:
            try:
                listener.on_client_disconnected(connection)
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"on_client_disconnected: {error!r}")

    # --- log lines (connection-and-auth.md section 9)

    def _who(self, connection: Connection) -> str:
        """By whom the log counts repeated lines: the user, before login the address."""
        return connection.user_id or str(connection.handshake_data["remoteAddress"])

    def log_exception(self, text: str, error: Exception) -> None:
        """A fault of the server itself; the message that met it is lost, nothing else is."""
        self._guard.error("server", "ERROR", f"{text}: {error!r}")

    def log_connection(self, connection: Connection) -> None:
        """A websocket was opened."""
        if self.logger.should_log(1):
            data = connection.handshake_data
            referer = data["referer"] or "undefined"
            self.logger.info("INCOMING_CONNECTION", f"from {referer} ({data['remoteAddress']})")

    def _log_unknown_proxy(self, peer: str) -> None:
        """A proxy on this machine forwards clients that cannot be told apart."""
        text = f"{peer} forwards clients, but httpServer.options.trustedProxies does not have it"
        self.logger.warn("INVALID_CONFIG_DATA", f"{text}, so they all have its address")

    def log_limited(self, connection: Connection, event: str, text: str) -> None:
        """A message made no sense; a client can send many of them."""
        self._guard.warn(self._who(connection), event, text)

    def log_repeated(self, connection: Connection, what: str, name: str) -> None:
        """A client subscribed twice."""
        self._guard.warn(
            self._who(connection),
            "MULTIPLE_SUBSCRIPTIONS",
            f'repeat {what} to "{name}" by {connection.user_id}',
        )

    def log_version_exists(self, connection: Connection, name: str, version: int, current: int) -> None:
        """A write lost against another one."""
        text = f"tried to update record {name} to version {version} but it already was {current}"
        self._guard.warn(self._who(connection), "VERSION_EXISTS", f"{connection.user_id} {text}")

    def log_invalid_auth_data(self, connection: Connection) -> None:
        """A login request could not be read."""
        self._guard.warn(self._who(connection), "INVALID_MESSAGE_DATA", "")

    def log_too_many_attempts(self, connection: Connection) -> None:
        """A connection is closed after its last refused login."""
        self._guard.info(self._who(connection), "TOO_MANY_AUTH_ATTEMPTS", "too many authentication attempts")

    def log_auth_timeout(self, connection: Connection) -> None:
        """A connection did not log in."""
        self._guard.info(
            self._who(connection),
            "AUTHENTICATION_TIMEOUT",
            "connection has not authenticated successfully in the expected time",
        )

    def log_heartbeat(self, connection: Connection) -> None:
        """A connection has gone silent."""
        self._guard.error(
            self._who(connection), "INFO", "Heartbeat missing on websocket, terminating connection"
        )

    def log_too_large(self, connection: Connection) -> None:
        """A message exceeded maxMessageSize."""
        limit = self.core.max_message_size
        text = f"Error on websocket: message of {self._who(connection)} exceeds {limit} bytes"
        self._guard.error(self._who(connection), "ERROR", text)

    def log_wrong_frame(self, connection: Connection) -> None:
        """A text frame came on a binary endpoint, or the other way round."""
        text = f"Received an invalid message type on {connection.uuid}"
        self._guard.error(self._who(connection), "ERROR", text)

    def log_slow(self, connection: Connection, waiting: int) -> None:
        """A client does not read what it is sent."""
        self.logger.warn(
            "CLOSED_SLOW_CONSUMER",
            f"{connection.user_id}: {waiting} bytes were waiting, "
            f"maxOutgoingBytes is {self.options.max_outgoing_bytes}",
        )


def _accept_when_data_came(fd: int) -> None:
    """Let the kernel hold new connections back until their first bytes are there, where it can.

    All clients speak first here. A login then costs one wake-up less (a quarter more logins per second), and
    a client that says nothing costs no connection for the first second.
    """
    if hasattr(socket, "TCP_DEFER_ACCEPT"):
        # The option belongs to the listening socket, not to this name of it; a Unix socket does not have it.
        with socket.socket(fileno=os.dup(fd)) as listening:
            if listening.family in (socket.AF_INET, socket.AF_INET6):
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
