"""Logins by HTTP (connection-and-auth.md section 7): each request has its own."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dsfast._core.json_text import dumps
from dsfast.plugin import UNSET, AuthResult, HttpError
from dsfast.services.authentication import OpenAuthentication

if TYPE_CHECKING:
    from dsfast._core.connection import Connection
    from dsfast.services import Services
    from dsfast.services.http_service.routes import Request

__all__ = ["Login", "Logins", "auth_data_of"]


@dataclass(frozen=True, slots=True)
class Login:
    """Who sent a request."""

    user_id: str | None
    server_data: Any = None
    client_data: Any = UNSET
    ends_in: int | None = None
    """Milliseconds."""
    connection_data: dict[str, Any] = field(default_factory=dict)


class Logins:
    """Asks the authentication service on behalf of requests."""

    def __init__(self, services: Services, *, log_data: bool) -> None:
        self._services = services
        self._log_data = log_data
        open_login = getattr(services.authentication, "is_open", False)
        self._open_user: Callable[[Any], str] | None = OpenAuthentication.user_id if open_login else None

    def begin(
        self, connection: Connection, request: Request, auth_data: dict[str, Any]
    ) -> Login | Awaitable[Login]:
        """Who sent a request, if nobody has to be asked at once. Waiting for it may raise HttpError 401."""
        if self._open_user is not None:
            return Login(self._open_user(auth_data))
        return self._login(connection, request, auth_data)

    async def _login(self, connection: Connection, request: Request, auth_data: dict[str, Any]) -> Login:
        connection_data = self._connection_data(connection, request)
        result = await self.ask(connection_data, auth_data)
        if not result.is_valid:
            raise HttpError(401, _reason(result) or "Unsuccessful authentication attempt.")
        ends_in = None if result.expires is None else int((result.expires - time.time()) * 1000)
        return Login(result.id, result.server_data, result.client_data, ends_in, connection_data)

    async def ask(self, connection_data: dict[str, Any], auth_data: dict[str, Any]) -> AuthResult:
        """The authentication's answer."""
        logger = self._services.logger
        logger.debug("REQUEST", str(connection_data["remoteAddress"]))
        result = await self._services.authentication.is_valid_user(connection_data, auth_data)
        if result is None:
            result = AuthResult(False)
        if not result.is_valid:
            text = "invalid authentication data"
            if self._log_data:
                text += f": {dumps(auth_data).decode()}"
            logger.debug("AUTH_UNSUCCESSFUL", text)
        return result

    async def answer(self, connection: Connection, request: Request, auth_data: dict[str, Any]) -> Any:
        """The login endpoint: token and client data. Raises HttpError 401."""
        result = await self.ask(self._connection_data(connection, request), auth_data)
        try:
            self._services.monitoring.on_login(result.is_valid, "http")
        except Exception as error:
            self._services.logger.error("PLUGIN_ERROR", f"on_login: {error!r}")
        if not result.is_valid:
            raise HttpError(401, _reason(result) or "Invalid authentication data.")
        answer: dict[str, Any] = {}
        if result.token is not None:
            answer["token"] = result.token
        if result.client_data is not UNSET:
            answer["clientData"] = result.client_data
        return answer

    def _connection_data(self, connection: Connection, request: Request) -> dict[str, Any]:
        peer = connection.handshake_data["remoteAddress"]
        headers = request.headers
        return {
            "headers": headers,
            "referer": headers.get("referer"),
            "url": request.target.decode("latin-1"),
            "remoteAddress": self._services.http_service.remote_address(headers, peer),
        }


def auth_data_of(headers: Mapping[str, str], *, allow_passwords: bool) -> dict[str, Any]:
    """The login data in the header Authorization, for requests without a body. Raises HttpError 401."""
    given = headers.get("authorization")
    if not given:
        return {}  # perhaps there is a cookie; that is for the authentication to say
    scheme, _, value = given.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return {"token": value.strip()}
    if scheme.lower() == "basic" and allow_passwords:
        try:
            name, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (ValueError, binascii.Error):
            colon = ""
        if colon:
            return {"username": name, "password": password}
    schemes = "Bearer or Basic" if allow_passwords else "Bearer"
    raise HttpError(401, f'The "Authorization" header must have the scheme {schemes}.')


def _reason(result: AuthResult) -> str | None:
    """What the authentication says about a refusal, if it is a text."""
    reason = result.client_data
    if isinstance(reason, Mapping):
        reason = reason.get("error")
    return reason if isinstance(reason, str) and reason else None
