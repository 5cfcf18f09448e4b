"""Authentication ``none``: everybody is let in (connection-and-auth.md section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

from dsfast._core.js_values import number_text
from dsfast.plugin import Authentication, AuthResult
from dsfast.services.authentication.login_data import well_formed

__all__ = ["OPEN_USER", "OpenAuthentication"]

OPEN_USER = "open"
"""User id of those who gave no name."""


class OpenAuthentication(Authentication):
    """Lets everybody in, under the name the client gives."""

    description = "Open Authentication"

    async def is_valid_user(
        self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]
    ) -> AuthResult | None:
        """Always valid; see :meth:`user_id`."""
        return AuthResult(True, id=self.user_id(auth_data))

    @staticmethod
    def user_id(auth_data: Any) -> str:
        """The user id for what a client sent; never raises.

        ``username`` counts if it is a non-empty string, a number other than zero, or true; the text is
        JavaScript's, since that is where user ids are compared (``1.0`` is ``1``, True is ``true``). Half of
        a surrogate pair, which no message can carry, becomes U+FFFD as JavaScript does it.
        """
        name = auth_data.get("username") if isinstance(auth_data, Mapping) else None
        if isinstance(name, str):
            return well_formed(name) or OPEN_USER
        if name is True:
            return "true"
        if not isinstance(name, int | float) or not name or (isinstance(name, float) and isnan(name)):
            return OPEN_USER
        return number_text(name)
