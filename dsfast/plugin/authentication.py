"""Authentication: who a client is (plugins.md B.2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from dsfast.plugin.base import Plugin

__all__ = ["AuthResult", "Authentication"]


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
