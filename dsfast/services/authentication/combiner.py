"""Asks the configured authentications one after the other (connection-and-auth.md section 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from dsfast._core.json_text import dumps
from dsfast.plugin import UNSET, Authentication, AuthResult
from dsfast.services.authentication.open import OpenAuthentication
from dsfast.services.combined import Combined

__all__ = ["AuthenticationCombiner"]


class AuthenticationCombiner(Combined[Authentication], Authentication):
    """The authentication service: one or more authentications, asked in order until one knows the user.

    Whatever they do, there is an answer: an exception, an answer that is no :class:`AuthResult` or cannot be
    sent, or none within ``authenticationTimeout`` is logged as ``AUTH_ERROR`` and refuses the login.
    """

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
                return self._refuse(entry, "was cancelled")
            except Exception as error:
                if limit.expired():
                    return self._refuse(entry, f"no answer within {self.config.authentication_timeout} ms")
                return self._refuse(entry, f"{type(error).__name__}: {error}")
            if result is None:
                continue
            fault = _fault(result)
            return result if fault is None else self._refuse(entry, fault)
        return AuthResult(False)

    def on_client_disconnect(self, user_id: str) -> None:
        """Tell all entries; a failing one is logged."""
        for entry in self.entries:
            try:
                entry.on_client_disconnect(user_id)
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"{_name(entry)} failed in on_client_disconnect: {error!r}")

    def _refuse(self, entry: Authentication, reason: str) -> AuthResult:
        self.logger.error("AUTH_ERROR", f"{_name(entry)}: {reason}")
        return AuthResult(False)


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
    try:
        if result.client_data is not UNSET:
            dumps(result.client_data)
    except Exception as error:  # whatever a conversion of foreign objects raises
        return f"gave client data that are not JSON: {error}"
    return None


def _name(entry: Authentication) -> str:
    return entry.description or type(entry).__name__
