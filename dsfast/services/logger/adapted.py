"""A logger plugin that has nothing but ``log``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsfast.plugin import Logger

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["AdaptedLogger"]


class AdaptedLogger(Logger):
    """Gives an object that can ``log(level, event, message, meta)`` everything else that a logger has."""

    def __init__(self, inner: Any, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._inner = inner
        self.description = str(getattr(inner, "description", "") or type(inner).__name__)

    def init(self) -> None:
        """That of the plugin, if it has one."""
        if callable(init := getattr(self._inner, "init", None)):
            init()

    async def when_ready(self) -> None:
        """That of the plugin, if it has one."""
        if callable(when_ready := getattr(self._inner, "when_ready", None)):
            await when_ready()

    async def close(self) -> None:
        """That of the plugin, if it has one."""
        if callable(close := getattr(self._inner, "close", None)):
            await close()

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """The plugin's own."""
        self._inner.log(level, event, message, meta)
