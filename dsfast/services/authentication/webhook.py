"""Authentication ``http``: a web service decides about each login (connection-and-auth.md section 5.4)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsfast._core.js_values import number_text
from dsfast._core.json_text import JsonError, dumps, loads
from dsfast.config.schema import HttpAuthOptions
from dsfast.plugin import UNSET, AuthResult, PluginError
from dsfast.services.authentication.credentials import CredentialAuthentication, read_options
from dsfast.services.authentication.login_data import id_text, well_formed
from dsfast.services.authentication.web_client import Answer, WebClient, WebError, shown_url

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["HttpAuthentication"]

RETRIES_EXCEEDED = "AUTH_RETRY_ATTEMPTS_EXCEEDED"
SHOWN_BODY = 500
"""Characters of an answer that are logged."""

HEADERS = {"Content-Type": "application/json; charset=utf-8", "Accept": "application/json"}
_OWN_HEADERS = (*map(str.lower, HEADERS), "host", "content-length", "transfer-encoding", "connection")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class HttpAuthentication(CredentialAuthentication):
    """Posts handshake data and login data to ``endpointUrl`` and does what the answer says."""

    def __init__(self, options: Any, services: Services, config: Config) -> None:
        given = read_options(HttpAuthOptions, options)
        super().__init__(given, services, config)
        for name in given.promote_to_header:
            if name.lower() in _OWN_HEADERS or not _HEADER_NAME.fullmatch(name):
                raise PluginError(f"http auth: promoteToHeader cannot set the header {name!r}")
        self._url = given.endpoint_url
        self._permitted = frozenset(given.permitted_status_codes)
        self._retried = frozenset(given.retry_status_codes)
        self._tries = 1 + given.retry_attempts
        self._pause = given.retry_interval / 1000
        self._promoted = tuple(given.promote_to_header)
        self._longest = self._tries * given.request_timeout + given.retry_attempts * given.retry_interval
        self._client = WebClient(timeout=given.request_timeout, max_size=given.max_response_size)

    @property
    def description(self) -> str:  # type: ignore[override]
        """Names the URL."""
        return f"http webhook to {shown_url(self._url)}"

    def init(self) -> None:
        """Warn about settings that cannot work."""
        limit = self.config.authentication_timeout
        if self._longest > limit:
            text = (
                f"all tries may take {self._longest} ms, but authenticationTimeout ends them after {limit} ms"
            )
            self.logger.warn("AUTH_ERROR", f"http auth: {text}")
        if any(300 <= status <= 399 for status in self._permitted):
            text = "redirects are never permitted, whatever permittedStatusCodes says"
            self.logger.warn("AUTH_ERROR", f"http auth: {text}")

    async def close(self) -> None:
        """End the connections to the web service."""
        await self._client.close()
        await super().close()

    async def is_valid_user(self, connection_data: Mapping[str, Any], auth_data: Any) -> AuthResult | None:
        """Ask, as often as the options say."""
        headers = self._headers(auth_data)
        if headers is None:
            return self.refusal()
        known = {key: value for key, value in connection_data.items() if value is not None}
        body = dumps({"connectionData": known, "authData": auth_data})
        for number in range(self._tries):
            if number:
                await asyncio.sleep(self._pause)
            try:
                answer = await self._client.request("POST", self._url, body=body, headers=headers)
            except WebError as error:
                self._warn(f"http auth error: {error}")
                continue
            content = _content(answer)
            if 500 <= answer.status <= 599:
                self._warn(f"http auth server error: {_shown(content)}")
            if answer.status not in self._retried:
                return self._decide(answer.status, content)
        if self.report_invalid_parameters is False:
            self._warn(RETRIES_EXCEEDED)
        return self.refusal(RETRIES_EXCEEDED)

    def _headers(self, auth_data: Any) -> dict[str, str] | None:
        """The headers of the request; None if the client wants to send what no header may contain."""
        headers = dict(HEADERS)
        for name in self._promoted:
            value = _header_value(auth_data.get(name) if isinstance(auth_data, Mapping) else None)
            if _CONTROL.search(value):
                return None
            if value:
                headers[name] = value
        return headers

    def _decide(self, status: int, content: Any) -> AuthResult | None:
        if status not in self._permitted or 300 <= status <= 399:
            if isinstance(content, str) and content:
                return self.refusal(content)
            refusal = self.refusal()
            if refusal is not None and isinstance(content, dict) and content:
                refusal.client_data = content
            return refusal
        if isinstance(content, str) and content:
            return AuthResult(True, id=well_formed(content))
        return self._permit(content if isinstance(content, dict) else {})

    def _permit(self, answer: dict[str, Any]) -> AuthResult:
        """The login that a permitted answer describes; it may still say no."""
        client_data = answer.get("clientData", UNSET)
        valid = answer.get("isValid", True)
        if not valid and not isinstance(valid, dict | list):  # JavaScript's idea of false
            return AuthResult(False, client_data=client_data)
        given = answer.get("id")
        user_id = id_text(given)
        if user_id is None and given:
            self._warn(f"http auth: refused, since the id in the answer is of type {type(given).__name__}")
            return AuthResult(False)
        if not user_id:
            self._warn("http auth: a permitted answer has no id, so the user is OPEN")
        token = answer.get("token")
        return AuthResult(
            True,
            id=user_id,
            client_data=client_data,
            server_data=answer.get("serverData"),
            token=well_formed(token) if isinstance(token, str) else None,
        )

    def _warn(self, text: str) -> None:
        # Many logins may meet the same trouble.
        self._guard.warn("http auth", "AUTH_ERROR", text)


def _header_value(value: Any) -> str:
    """A promoted value as text; empty for what is not promoted."""
    if isinstance(value, str):
        return well_formed(value)
    if value is True:
        return "true"
    return number_text(value) if isinstance(value, int | float) and value else ""


def _content(answer: Answer) -> Any:
    """The body of an answer: text, or the value of the JSON; None if there is nothing usable."""
    kind = answer.content_type
    if not answer.body:
        return None
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return loads(answer.body)
        except JsonError:
            return answer.text()
    return answer.text() if kind.startswith("text/") else None


def _shown(content: Any) -> str:
    text = dumps(content).decode()
    return text if len(text) <= SHOWN_BODY else f"{text[:SHOWN_BODY]}..."
