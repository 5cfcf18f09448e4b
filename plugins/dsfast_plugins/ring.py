"""A logger that remembers what it does not write, and writes it when an error happens."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from dsfast.plugin import Logger, LogLevel
from dsfast.services.logger import DefaultLogger
from dsfast.services.logger.json import JsonLogger
from dsfast_plugins.options import Options, Positive, read_options

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["RingLogger"]

MAX_TEXT = 2048
"""Characters of a remembered text; what is beyond is cut off."""


class RingOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/logger.md."""

    size: Positive = 500
    trigger: Literal["warn", "error", "fatal"] = "error"
    format: Literal["text", "json"] = "text"
    colors: bool = True
    redact: tuple[str, ...] = ()


class RingLogger(Logger):
    """Writes lines as the built-in loggers do. The last ``size`` lines below the level are kept in memory.

    A line of the level ``trigger`` is preceded by them, each with its age; then the ring is empty again.
    """

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        given, self._warnings = read_options(RingOptions, options, known=("logLevel",))
        self._trigger = LogLevel[given.trigger.upper()]
        self._ring: deque[tuple[float, int, str, str, str | None]] = deque(maxlen=given.size)
        kind = DefaultLogger if given.format == "text" else JsonLogger
        self._output = kind({"colors": given.colors, "redact": given.redact}, services, config)
        self.description = f"ring of {given.size} lines in front of each {given.trigger}"

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            if "logLevel" not in warning:
                self.warn("INVALID_CONFIG_DATA", f"ring logger: {warning}")

    def should_log(self, level: int) -> bool:
        """True: what is not written is remembered. Only OFF means off."""
        return self.level < LogLevel.OFF

    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """Write a line, or remember it."""
        if level < self.level:
            # Nothing else of the metadata is kept: it may hold on to a connection or to somebody's data.
            namespace = meta.get("namespace") if meta else None
            self._ring.append((monotonic(), level, str(event), str(message)[:MAX_TEXT], namespace))
            return
        if level >= self._trigger and self._ring:
            self._write_ring()
        self._output.log(level, event, message, meta)

    async def close(self) -> None:
        """See :class:`dsfast.services.logger.DefaultLogger`."""
        await self._output.close()

    def _write_ring(self) -> None:
        now = monotonic()
        lines = list(self._ring)
        self._ring.clear()
        for moment, level, event, message, namespace in lines:
            age = round((now - moment) * 1000)
            meta: dict[str, Any] = {"ageMs": age}
            if namespace is not None:
                meta["namespace"] = namespace
            self._output.log(level, event, f"{message} [{age} ms before]", meta)
