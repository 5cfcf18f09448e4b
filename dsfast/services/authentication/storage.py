"""Authentication ``storage``: users are records of the storage (connection-and-auth.md section 5.3)."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from dsfast._core.json_text import dumps, loads
from dsfast.config.schema import StorageAuthOptions
from dsfast.plugin import AuthResult, PluginError
from dsfast.services.authentication.credentials import (
    TOO_BUSY,
    BusyError,
    PasswordAuthentication,
    read_options,
)
from dsfast.services.authentication.login_data import id_text, text_parameter
from dsfast.services.logger import FloodGuard
from dsfast.services.permission import OpenPermission
from dsfast.services.storage.none import NoStorage
from dsfast.services.storage.write_behind import TextSnapshot, WriteBehind

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["StorageAuthentication"]

MAX_NAME = 1024
"""Longest user name, in characters."""


class StorageAuthentication(PasswordAuthentication):
    """Finds the user ``peter`` in the record ``<table>/peter`` and may register who is new.

    Reads and writes go through the write-behind layer, past the cache. A registration is answered when the
    storage has confirmed it.
    """

    def __init__(self, options: Any, services: Services, config: Config) -> None:
        given = read_options(StorageAuthOptions, options)
        if given.hash is None:
            raise PluginError("Validating settings failed for storage auth: Missing key hash")
        super().__init__(given, services, config, kind="storage")
        self._table = given.table
        self._creates = given.create_user
        self._decoy = ""
        # A lock lives as long as somebody holds or awaits it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._faults = FloodGuard(self.logger.get_namespace("STORAGE_AUTH"))

    @property
    def description(self) -> str:  # type: ignore[override]
        """Names the table."""
        return f"Storage Authentication using table {self._table}"

    async def when_ready(self) -> None:
        """Make sure that there is a storage; warn if clients may read the password hashes."""
        if isinstance(self.services.storage, NoStorage):
            raise PluginError("storage auth needs a storage that keeps what is written to it")
        if isinstance(self.services.permission, OpenPermission):
            self.warn_if_readable(lambda name: True)
        self._decoy = await self._pool.run(self._passwords.hash, secrets.token_hex())

    async def close(self) -> None:
        """Stop checking passwords."""
        self._faults.close()
        await super().close()

    def warn_if_readable(self, is_readable: Callable[[str], bool]) -> None:
        """Warn if clients may read the users' records, which contain the password hashes.

        For the permission service, at its start and when its rules have changed: ``is_readable(name)`` says
        whether the rules let everybody read the record of that name.
        """
        if is_readable(f"{self._table}/{secrets.token_hex(8)}"):
            self.logger.warn(
                "AUTH_ERROR",
                f"storage auth: permissions let clients read {self._table}/..., which are the users with "
                "their password hashes",
            )

    async def is_valid_user(self, connection_data: Mapping[str, Any], auth_data: Any) -> AuthResult | None:
        """Check name and password, or register a new name if that is allowed."""
        name, password = text_parameter(auth_data, "username"), text_parameter(auth_data, "password")
        if not name or password is None:
            missing = [] if name else ["username"]
            missing += ["password"] if password is None else []
            return self.refusal(f"missing authentication parameters: {' '.join(missing)}")
        if len(name) > MAX_NAME:
            return self.refusal("the username is too long")
        try:
            return await self._login(name, password)
        except BusyError:
            return _refused(TOO_BUSY)

    async def _login(self, name: str, password: str) -> AuthResult | None:
        try:
            user = await self._read(name)
        except Exception as error:  # whatever a storage raises
            return self._failed("retrieving user from storage", error)
        if user is None and self._creates:
            lock = self._locks.setdefault(name, asyncio.Lock())
            async with lock:
                return await self._register(name, password)
        if user is None:
            await self._matches(password, self._decoy)
            return None
        return await self._check(name, user, password)

    async def _register(self, name: str, password: str) -> AuthResult | None:
        """Create a user, or check the password if another login has created it meanwhile."""
        try:
            user = await self._read(name)
        except Exception as error:  # whatever a storage raises
            return self._failed("retrieving user from storage", error)
        if user is not None:
            return await self._check(name, user, password)
        self.logger.info("REGISTERING_USER", f"Adding new user {name}")
        row = {
            "username": name,
            "password": await self._hash(password),
            "clientData": {"id": str(uuid.uuid4())},
            "serverData": {"created": int(time.time() * 1000)},
        }
        try:
            await self._write(name, dumps(row))
        except Exception as error:  # whatever a storage raises
            return self._failed("creating user", error)
        return _accepted(row)

    async def _check(self, name: str, user: Any, password: str) -> AuthResult | None:
        stored = user.get("password") if isinstance(user, dict) else None
        if not isinstance(stored, str) or not self._passwords.is_plausible(stored):
            text = f"storage auth: the record of user {name} has no usable password"
            self._guard.warn(name, "AUTH_ERROR", text)
            await self._matches(password, self._decoy)
            return self.refusal()
        if not await self._matches(password, stored):
            return self.refusal()
        result = _accepted(user)
        if not result.id:
            text = f"storage auth: the record of user {name} has no clientData.id"
            self._guard.warn(name, "AUTH_ERROR", text)
        return result

    async def _read(self, name: str) -> Any:
        """What is stored about a user; None if there is no such record."""
        async with asyncio.timeout(self.config.record.storage_retrieval_timeout / 1000):
            _, text = await self._writer.get(f"{self._table}/{name}")
        return None if text is None else loads(text)

    async def _write(self, name: str, text: bytes) -> None:
        """Return when a new user is stored."""
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(error: Exception | None) -> None:
            if saved.done():
                return
            if error is None:
                saved.set_result(None)
            else:
                saved.set_exception(error)

        self._writer.put(f"{self._table}/{name}", TextSnapshot(1, text), waiter=told)
        await saved

    @property
    def _writer(self) -> WriteBehind:
        writer = self.services.storage_writer
        assert writer is not None, "there is a storage, when_ready has looked"
        return writer

    def _failed(self, what: str, error: Exception) -> AuthResult:
        self._faults.error("storage", "AUTH_ERROR", f"Error {what}: {str(error) or type(error).__name__}")
        return _refused(f"Error {what}")


def _accepted(user: dict[str, Any]) -> AuthResult:
    client_data = user.get("clientData")
    user_id = id_text(client_data.get("id")) if isinstance(client_data, dict) else None
    return AuthResult(True, id=user_id, client_data=client_data, server_data=user.get("serverData"))


def _refused(error: str) -> AuthResult:
    return AuthResult(False, client_data={"error": error})
