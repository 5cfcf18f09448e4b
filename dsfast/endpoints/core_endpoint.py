"""Endpoints whose connections are those of the core, and what they log (connection-and-auth.md section 9)."""

from __future__ import annotations

from typing import Any

from dsfast._core.connection import Connection, Endpoint
from dsfast.plugin import ConnectionEndpoint
from dsfast.services.logger import FloodGuard

__all__ = ["CoreEndpoint"]


class CoreEndpoint(ConnectionEndpoint):
    """The core reports here. A line that clients can cause repeatedly is bounded."""

    options: Any
    core: Endpoint
    _guard: FloodGuard

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

    def log_invalid_auth_data(self, connection: Connection, data: bytes) -> None:
        """A login request could not be read; ``data`` is the beginning of what it carries."""
        text = ""
        if self.options.log_invalid_auth_data:
            given = data.decode("utf-8", "replace")
            text = f'Error parsing auth message "{given}": it is no JSON object'
        self._guard.warn(self._who(connection), "INVALID_MESSAGE_DATA", text)

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

    def log_login_ended(self, connection: Connection) -> None:
        """A login has expired and was not renewed."""
        self.logger.info("AUTHENTICATION_TIMEOUT", f"the login of {connection.user_id} has expired")

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
        limit = self.core.hub.max_outgoing_bytes
        text = f"{connection.user_id}: {waiting} bytes were waiting, maxOutgoingBytes is {limit}"
        self.logger.warn("CLOSED_SLOW_CONSUMER", text)
