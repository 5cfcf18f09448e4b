"""What the built-in authentications have in common: reading login data, refusing, checking passwords."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dsfast.config.schema import Section
from dsfast.plugin import UNSET, Authentication, AuthResult, PluginError
from dsfast.services.authentication.hash_pool import HashPool, HashPoolFull
from dsfast.services.authentication.passwords import Passwords
from dsfast.services.logger import FloodGuard

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.config.schema import FileAuthOptions, StorageAuthOptions
    from dsfast.services import Services

__all__ = [
    "TOO_BUSY",
    "BusyError",
    "CredentialAuthentication",
    "PasswordAuthentication",
    "read_options",
]

S = TypeVar("S", bound=Section)
T = TypeVar("T")

TOO_BUSY = "too many logins at the moment, try again later"


class CredentialAuthentication(Authentication):
    """An authentication that needs credentials, and may be one of several.

    ``report_invalid_parameters`` says whether it refuses who has none or wrong ones, or leaves them to the
    next of the list (connection-and-auth.md section 4); None until the combiner has decided.
    """

    def __init__(self, options: Any, services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self.report_invalid_parameters: bool | None = options.report_invalid_parameters
        self._guard = FloodGuard(self.logger)

    def refusal(self, error: str | None = None) -> AuthResult | None:
        """The answer to credentials that are missing or wrong; ``error`` is shown to the client."""
        if self.report_invalid_parameters is False:
            return None
        return AuthResult(False, client_data=UNSET if error is None else {"error": error})

    async def close(self) -> None:
        """Write what the log still owes."""
        self._guard.close()


class PasswordAuthentication(CredentialAuthentication):
    """An authentication with user names and stored passwords."""

    def __init__(
        self,
        options: FileAuthOptions | StorageAuthOptions,
        services: Services,
        config: Config,
        *,
        kind: str,
    ) -> None:
        super().__init__(options, services, config)
        try:
            self._passwords = Passwords(options.hash, options.iterations, options.key_length)
        except PluginError as error:
            raise PluginError(f"Validating settings failed for {kind} auth: {error}") from None
        self._kind = kind
        self._pool = HashPool.shared(services, config)

    def init(self) -> None:
        """Warn about weak ways to store passwords."""
        for weakness in self._passwords.weaknesses():
            self.logger.warn("AUTH_ERROR", f"{self._kind} auth: {weakness}")

    async def close(self) -> None:
        """Stop checking passwords."""
        self._pool.close()
        await super().close()

    async def _matches(self, password: str, stored: str) -> bool:
        """Whether a password belongs to a stored text. Raises :class:`BusyError`."""
        if not self._passwords.is_slow(stored):
            return self._passwords.matches(password, stored)
        return await self._in_pool(self._passwords.matches, password, stored)

    async def _hash(self, password: str) -> str:
        """What to store for a password. Raises :class:`BusyError`."""
        return await self._in_pool(self._passwords.hash, password)

    async def _in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._pool.run(function, *arguments)
        except HashPoolFull as error:
            self._guard.warn(self._kind, "AUTH_ERROR", f"{self._kind} auth refuses logins: {error}")
            raise BusyError from None


class BusyError(Exception):
    """Too many passwords are waiting to be checked; it has been logged."""


def read_options(kind: type[S], options: Any) -> S:
    """The options as typed section; a plain mapping is what a class that is built in code gets."""
    if isinstance(options, kind):
        return options
    try:
        return msgspec.convert(dict(options), kind)
    except msgspec.ValidationError as error:
        raise PluginError(str(error)) from None
