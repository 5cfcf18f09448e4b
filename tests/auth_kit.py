"""Authentications as a server builds them, without the server: for tests of what they answer and log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsfast.config import Config, load
from dsfast.plugin import AuthResult, Logger
from dsfast.services import Services
from dsfast.services.authentication import AuthenticationCombiner
from dsfast.services.factory import build
from dsfast.services.permission import OpenPermission

HANDSHAKE = {"remoteAddress": "192.0.2.1", "headers": {}, "referer": None}


class Lines(Logger):
    """Keeps the lines."""

    def init(self) -> None:
        self.lines: list[str] = []

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        self.lines.append(f"{event} {message}")
        if meta and "namespace" in meta:
            self.lines[-1] = f"{meta['namespace']} | {self.lines[-1]}"


class Login:
    """A combiner of the entries of ``auth``, with what stands around it in a server."""

    def __init__(self, auth: Any, config: Mapping[str, Any] | None = None) -> None:
        self.config: Config = load({"logLevel": "debug", **(config or {}), "auth": auth})
        self.services = Services()
        self.log = Lines({}, self.services, self.config)
        self.log.init()
        self.log.set_log_level(self.config.log_level)
        self.services.logger = self.log
        self.services.permission = OpenPermission({}, self.services, self.config)

    def build(self) -> Any:
        """The combiner; it is kept as ``combiner``, its entries as ``entries``."""
        entries: Any = [
            build("authentication", section, self.services, self.config) for section in self.config.auth
        ]
        self.combiner = AuthenticationCombiner(entries, self.services, self.config)
        self.services.authentication = self.combiner
        self.entries = self.combiner.entries
        return self.combiner

    async def __aenter__(self) -> Login:
        self.build().init()
        await self.combiner.when_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.combiner.close()

    async def __call__(self, data: Any, handshake: Mapping[str, Any] = HANDSHAKE) -> AuthResult:
        """One login."""
        return await self.combiner.is_valid_user(handshake, data)

    def warnings(self) -> list[str]:
        """Texts of the AUTH_ERROR lines."""
        return [line.partition("AUTH_ERROR ")[2] for line in self.log.lines if "AUTH_ERROR" in line]
