"""Asks the configured authentications one after the other (connection-and-auth.md section 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from dsfast._core.json_text import dumps
from dsfast.plugin import UNSET, Authentication, AuthResult
from dsfast.services.authentication.login_limiter import LoginLimiter
from dsfast.services.authentication.open import OpenAuthentication
from dsfast.services.combined import Combined

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["FAR", "FAULT", "TOO_MANY_FAILED", "AuthenticationCombiner"]

FAR = 1 << 40
"""A unix time that no server lives to see."""
TOO_MANY_FAILED = "too many failed logins, try again later"
FAULT = AuthResult(False)
"""The answer when an authentication has failed to do its work, for endpoints that can say so."""


class AuthenticationCombiner(Combined[Authentication], Authentication):
    """The authentication service: one or more authentications, asked in order until one knows the user.

    Whatever they do, there is an answer: an exception, an answer that is no :class:`AuthResult` or cannot be
    sent, or none within ``authenticationTimeout`` is logged as ``AUTH_ERROR`` and refuses the login.

    An address that has failed too often is refused without asking anybody (``login.maxFailedLogins``).
    """

    def __init__(self, entries: Sequence[Authentication], services: Services, config: Config) -> None:
        super().__init__(entries, services, config)
        self._limiter = LoginLimiter(config.login.max_failed_logins, config.login.failed_login_window)
        for entry in cast(Sequence[Any], self.entries):
            # Not asked by its class, whose module only those load who need it.
            if getattr(entry, "report_invalid_parameters", False) is None:
                entry.report_invalid_parameters = len(self.entries) == 1

    @property
    def is_open(self) -> bool:
        """True if everybody is let in without asking a plugin.

        The endpoint may then take :meth:`OpenAuthentication.user_id` without waiting.
        """
        return type(self.entries[0]) is OpenAuthentication

    async def is_valid_user(
        self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]
    ) -> AuthResult:
        """The first answer that is not None; a refusal without data if there is none. Never raises."""
        address = connection_data.get("remoteAddress")
        if not self._limiter.admit(address):
            if self._limiter.is_news(address):
                text = f"{address}: too many failed logins, more are refused for a while"
                self.logger.warn("TOO_MANY_AUTH_ATTEMPTS", text)
            return AuthResult(False, client_data={"error": TOO_MANY_FAILED})
        try:
            result = await self._ask(connection_data, auth_data)
        except _FaultError as fault:
            self.logger.error("AUTH_ERROR", str(fault))
            result = FAULT
            self._limiter.give_back(address)
        if result.is_valid:
            self._limiter.give_back(address)
        return result

    async def _ask(self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]) -> AuthResult:
        """As :meth:`is_valid_user`, but raises :class:`_FaultError` for what is not the client's fault."""
        for entry in self.entries:
            limit = asyncio.timeout(self.config.authentication_timeout / 1000)
            try:
                async with limit:
                    result = await entry.is_valid_user(connection_data, auth_data)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # Not this login was cancelled, only something the plugin was waiting for.
                raise _FaultError(entry, "was cancelled") from None
            except Exception as error:
                if limit.expired():
                    text = f"no answer within {self.config.authentication_timeout} ms"
                    raise _FaultError(entry, text) from None
                raise _FaultError(entry, f"{type(error).__name__}: {error}") from None
            if result is None:
                continue
            fault = _fault(result)
            if fault is not None:
                raise _FaultError(entry, fault)
            return result
        return AuthResult(False)

    def warn_if_readable(self, is_readable: Callable[[str], bool]) -> None:
        """Let the entries whose users are records warn if clients may read them.

        For the permission service, at its start and when its rules have changed; see
        :meth:`StorageAuthentication.warn_if_readable`.
        """
        for entry in self.entries:
            warn = getattr(entry, "warn_if_readable", None)
            if warn is not None:
                warn(is_readable)

    def on_client_disconnect(self, user_id: str) -> None:
        """Tell all entries; a failing one is logged."""
        for entry in self.entries:
            try:
                entry.on_client_disconnect(user_id)
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"{_name(entry)} failed in on_client_disconnect: {error!r}")


class _FaultError(Exception):
    """An authentication did not do its work."""

    def __init__(self, entry: Authentication, reason: str) -> None:
        super().__init__(f"{_name(entry)}: {reason}")


def _fault(result: Any) -> str | None:
    """What keeps an answer from being used, if anything."""
    if not isinstance(result, AuthResult):
        return f"answered {type(result).__name__} instead of AuthResult or None"
    if not isinstance(result.id, str | None):
        return f"gave an id of type {type(result.id).__name__} instead of str"
    try:
        (result.id or "").encode()
    except UnicodeEncodeError:
        return "gave an id that is not valid Unicode"
    if result.expires is not None and not _is_time(result.expires):
        return f"gave {result.expires!r} as the time of expiry"
    try:
        if result.client_data is not UNSET:
            dumps(result.client_data)
    except Exception as error:  # whatever a conversion of foreign objects raises
        return f"gave client data that are not JSON: {error}"
    return None


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < FAR


def _name(entry: Authentication) -> str:
    return entry.description or type(entry).__name__
