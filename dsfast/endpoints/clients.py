"""Endpoints with lasting connections: logins, and what is logged (connection-and-auth.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Set
from typing import Any

from dsfast._core.connection import Connection, Endpoint, Protocol
from dsfast._core.json_text import dumps
from dsfast.endpoints.core_endpoint import CoreEndpoint
from dsfast.plugin import AuthResult, ConnectionListener
from dsfast.services.authentication import OpenAuthentication
from dsfast.services.logger import FloodGuard
from dsfast.services.monitoring import NoMonitoring

__all__ = ["ClientEndpoint"]

MAX_VERSIONS = 100
MAX_VERSION_TEXT = 64
NOBODY = "OPEN"
"""User id of a login that gave none."""
OTHER_USER = "the login of an open connection can only be renewed for the same user"


class ClientEndpoint(CoreEndpoint):
    """Base of the endpoints whose clients log in and stay.

    The connections are those of the core; this class makes the decisions that are rare enough for Python.
    """

    max_names = 0
    """Names that one message may carry."""
    monitored_as = "websocket"
    """What monitoring calls the logins."""
    shows_login_data = False
    """Whether refused login data may be written to the log."""

    def prepare(self) -> None:
        """Set up what logins need; the first thing an endpoint does."""
        services = self.services
        self._presence = services.message_distributor.presence
        self._guard = FloodGuard(services.logger)
        self._logins: set[asyncio.Task[None]] = set()
        self._renewing: set[Connection] = set()
        self._versions: dict[str, set[str]] = {}
        self._listeners = [
            plugin for plugin in services.plugins.values() if isinstance(plugin, ConnectionListener)
        ]
        # The built-in service has nothing to be told, so that a login costs no call.
        self._monitoring = None if type(services.monitoring) is NoMonitoring else services.monitoring

    def make_core(self, protocol: Protocol | None) -> Endpoint:
        """The core's part for one protocol (None: the binary one)."""
        router = self.services.message_distributor
        opened = (
            OpenAuthentication.user_id if getattr(self.services.authentication, "is_open", False) else None
        )
        core = Endpoint(router.hub, router.wheel, router, self, open_user_id=opened)
        core.protocol = protocol
        return core

    def cancel_logins(self) -> None:
        """Drop the logins that are being decided."""
        for task in getattr(self, "_logins", ()):
            task.cancel()

    def remote_address(self, headers: Mapping[str, str], peer: str | None) -> str | None:
        """Address of a client."""
        return self.services.http_service.remote_address(headers, peer)

    def get_client_versions(self) -> Mapping[str, Set[str]]:
        """Versions of the client libraries that have logged in, by kind; both are bounded."""
        return self._versions

    def _note_version(self, sdk_type: str, sdk_version: str) -> None:
        sdk_type = sdk_type[:MAX_VERSION_TEXT]
        versions = self._versions.get(sdk_type)
        if versions is None:
            if len(self._versions) >= MAX_VERSIONS:
                return
            versions = self._versions[sdk_type] = set()
        if len(versions) < MAX_VERSIONS:
            versions.add(sdk_version[:MAX_VERSION_TEXT])

    # --- called by the core

    def authenticate(self, connection: Connection, auth_data: Any) -> None:
        """Ask the authentication service; the connection is told when it has decided."""
        self._begin(self._authenticate(connection, auth_data))

    def renew(self, connection: Connection, auth_data: Any) -> bool:
        """As :meth:`authenticate`, for an open connection whose login ends; False while that is going on."""
        if connection in self._renewing:
            return False
        self._renewing.add(connection)
        self._begin(self._renew(connection, auth_data))
        return True

    def _begin(self, login: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(login)
        self._logins.add(task)
        task.add_done_callback(self._logins.discard)

    async def _authenticate(self, connection: Connection, auth_data: Any) -> None:
        self._finish(connection, auth_data, await self._ask(connection, auth_data))

    async def _renew(self, connection: Connection, auth_data: Any) -> None:
        try:
            result = await self._ask(connection, auth_data)
        finally:
            self._renewing.discard(connection)
        if connection.is_closed:
            return
        if result.is_valid and (result.id or NOBODY) != connection.user_id:
            result = AuthResult(False, client_data={"error": OTHER_USER})
        if result.is_valid:
            self._report_login(True)
            self.logger.info("AUTH_SUCCESSFUL", f"{connection.user_id} (renewed)")
        self._finish(connection, auth_data, result)

    async def _ask(self, connection: Connection, auth_data: Any) -> AuthResult:
        handshake = connection.handshake_data
        self.logger.debug("REQUEST", str(handshake["remoteAddress"]))
        result = await self.services.authentication.is_valid_user(handshake, auth_data)
        return AuthResult(False) if result is None else result

    def _finish(self, connection: Connection, auth_data: Any, result: AuthResult) -> None:
        """Tell the connection, and if the login is refused everybody else."""
        if not result.is_valid:
            self._report_login(False)
            text = "invalid authentication data"
            if self.shows_login_data:
                text += f": {dumps(auth_data).decode()}"
            self._guard.info(self._who(connection), "AUTH_UNSUCCESSFUL", text)
        ends_in = None if result.expires is None else int((result.expires - time.time()) * 1000)
        connection.finish_login(result.is_valid, result.id, result.server_data, result.client_data, ends_in)

    def _report_login(self, allowed: bool) -> None:
        if self._monitoring is not None:
            try:
                self._monitoring.on_login(allowed, self.monitored_as)
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"on_login: {error!r}")

    def on_open(self, connection: Connection) -> None:
        """A client has logged in."""
        if connection.sdk_type and connection.sdk_version:
            self._note_version(connection.sdk_type, connection.sdk_version)
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
