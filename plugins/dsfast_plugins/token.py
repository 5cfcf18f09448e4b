"""Authentication by preconfigured tokens: who knows one of them is its user."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from dsfast.plugin import Authentication, AuthResult
from dsfast_plugins.options import OptionError, Options, read_options

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["TokenAuthentication"]

Text = Annotated[str, Meta(min_length=1)]


class User(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a token stands for."""

    id: Text
    client_data: Any | UnsetType = UNSET
    server_data: Any = None


class TokenOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/authentication.md."""

    tokens: Annotated[dict[Text, Text | User], Meta(min_length=1)]
    key: Text = "token"


class TokenAuthentication(Authentication):
    """Logs in the user of ``authData.token``.

    Login data without a token are left to the next authentication; a token that nobody has is refused, since
    asking others about it could only help those who guess.
    """

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        given, self._warnings = read_options(TokenOptions, options, required=("tokens",))
        self._key = given.key
        # Found by their hash: how long that takes tells nothing about how much of a guess is right.
        self._users = {
            _digest(token): User(id=user) if isinstance(user, str) else user
            for token, user in given.tokens.items()
        }
        if len(self._users) < len(given.tokens):
            raise OptionError("option tokens: two of them are equal")
        self.description = f"{len(self._users)} preconfigured token{'s' if len(self._users) > 1 else ''}"

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"token authentication: {warning}")

    async def is_valid_user(
        self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]
    ) -> AuthResult | None:
        """See :class:`dsfast.Authentication`."""
        token = auth_data.get(self._key)
        if token is None:
            return None
        user = self._users.get(_digest(token)) if isinstance(token, str) else None
        if user is None:
            return AuthResult(False)
        return AuthResult(True, id=user.id, client_data=user.client_data, server_data=user.server_data)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
