"""Authentication ``file``: users and their passwords from the configuration (connection-and-auth.md 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsfast.config.files import read_document
from dsfast.config.problems import ConfigError
from dsfast.config.schema import FileAuthOptions
from dsfast.plugin import AuthResult, PluginError
from dsfast.services.authentication.credentials import (
    TOO_BUSY,
    BusyError,
    PasswordAuthentication,
    read_options,
)
from dsfast.services.authentication.login_data import text_parameter
from dsfast.services.authentication.passwords import Decoys

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["FileAuthentication"]

MISSING = "missing authentication parameter: username or/and password"


@dataclass(frozen=True, slots=True)
class _User:
    """One entry of the user file."""

    password: str
    client_data: Any
    server_data: Any


class FileAuthentication(PasswordAuthentication):
    """Knows the users of its ``users`` option; their number and names do not show in the time it takes."""

    description = "File Authentication"

    def __init__(self, options: Any, services: Services, config: Config) -> None:
        given = read_options(FileAuthOptions, options)
        super().__init__(given, services, config, kind="file")
        users = given.users if given.path is None else _load_users(given.path, config)
        if not users:
            raise PluginError("no users present in user file")
        self._users = {name: _user(name, entry) for name, entry in users.items()}
        self._decoys = Decoys([user.password for user in self._users.values()])

    def init(self) -> None:
        """Warn about weak hashing, and about users who can never log in."""
        super().init()
        for name, user in self._users.items():
            if not self._passwords.is_plausible(user.password):
                self.logger.warn(
                    "AUTH_ERROR", f"file auth: the stored password of {name} does not have the format of hash"
                )

    async def is_valid_user(self, connection_data: Mapping[str, Any], auth_data: Any) -> AuthResult | None:
        """Check name and password; None for a name that is not in the file."""
        name, password = text_parameter(auth_data, "username"), text_parameter(auth_data, "password")
        if name is None or password is None:
            return self.refusal(MISSING)
        user = self._users.get(name)
        try:
            matches = await self._matches(password, user.password if user else self._decoys.choose(name))
        except BusyError:
            return AuthResult(False, client_data={"error": TOO_BUSY})
        if user is None:
            return None
        if not matches:
            return self.refusal()
        return AuthResult(True, id=name, client_data=user.client_data, server_data=user.server_data)


def _user(name: str, entry: Any) -> _User:
    password = entry.get("password") if isinstance(entry, Mapping) else None
    if password is None or password == "":
        raise PluginError(f"missing password for {name}")
    if not isinstance(password, str):
        # YAML has read 1234 or true. Its text may have been another one (0x10, 1_000).
        raise PluginError(f"password for {name} is no text, put it in quotes")
    return _User(password, entry.get("clientData"), entry.get("serverData"))


def _load_users(path: str, config: Config) -> Mapping[str, Any]:
    """The users of a YAML or JSON file; the path is relative to that of the configuration."""
    try:
        users = read_document(Path(config.source.directory or ".") / path).value
    except ConfigError as error:
        raise PluginError(f"Error loading user file: {error}") from None
    if not isinstance(users, Mapping):
        raise PluginError("no users present in user file")
    return {str(name): entry for name, entry in users.items()}
