"""A plugin without a server around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from dsfast.config import Config, load
from dsfast.plugin import Logger, LogLevel, Plugin
from dsfast.services import Services
from dsfast.services.cluster_node import SingleNode
from dsfast.services.cluster_registry import SingleServer
from dsfast.services.cluster_states import LocalStateRegistryFactory

__all__ = ["PATIENCE", "MemoryLogger", "plugin_services", "started"]

PATIENCE = 20.0
"""Seconds after which a test that waits for something fails."""

P = TypeVar("P", bound=Plugin)


class MemoryLogger(Logger):
    """Keeps its lines as (level, event, message)."""

    description = "memory"

    def __init__(self) -> None:
        super().__init__({}, Services(), load())
        self.lines: list[tuple[LogLevel, str, str]] = []
        self._written = asyncio.Event()

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """Keep the line."""
        self.lines.append((LogLevel(level), event, message))
        self._written.set()

    def texts(self, level: LogLevel) -> list[str]:
        """The messages of one level so far."""
        return [message for found, _, message in self.lines if found == level]

    async def wait_for(self, part: str) -> str:
        """The first line, present or future, whose message contains ``part``; TimeoutError without one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for _, _, message in self.lines:
                    if part in message:
                        return message
                self._written.clear()
                await self._written.wait()


def plugin_services(logger: Logger | None = None, config: Config | None = None) -> Services:
    """As much of a server's registry as a plugin uses: the logger, and the cluster of a single server."""
    services = Services()
    config = config or load()
    services.logger = logger or MemoryLogger()
    services.cluster_node = SingleNode({}, services, config)
    services.cluster_registry = SingleServer({}, services, config)
    services.cluster_states = LocalStateRegistryFactory({}, services, config)
    return services


@asynccontextmanager
async def started(
    plugin_class: type[P],
    options: Mapping[str, Any] | None = None,
    *,
    config: Config | Mapping[str, Any] | None = None,
    logger: Logger | None = None,
    services: Services | None = None,
) -> AsyncIterator[P]:
    """``async with started(MyCache, {...}) as cache``: built, ready, and closed at the end.

    ``config`` is the server's configuration, by default the defaults; ``services`` replaces those of
    :func:`plugin_services`.
    """
    loaded = load(config)
    plugin = plugin_class(options or {}, services or plugin_services(logger, loaded), loaded)
    try:
        plugin.init()
        async with asyncio.timeout(PATIENCE):
            await plugin.when_ready()
        yield plugin
    finally:
        await plugin.close()
