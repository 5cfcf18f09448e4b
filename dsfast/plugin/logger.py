"""Logger: the lines of the server (plugins.md B.6)."""

from __future__ import annotations

import contextlib
import sys
from abc import abstractmethod
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, cast

from dsfast.plugin.base import Plugin

__all__ = ["LogLevel", "Logger", "NamespacedLogger"]


class LogLevel(IntEnum):
    """Severity of a log line; a line is written when its level is at least the level that is set."""

    DEBUG = 0
    INFO = 1
    WARN = 2
    ERROR = 3
    FATAL = 4
    OFF = 100

    @classmethod
    def _missing_(cls, value: object) -> LogLevel | None:
        """``LogLevel("warn")`` is a level too, in any case."""
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class Logger(Plugin):
    """Writes the server's log (plugins.md B.6).

    Only :meth:`log` has to be written. The methods of the five levels filter by level, report warnings and
    errors to monitoring whatever the level, and let a fatal line end the server; a failing :meth:`log` is
    contained.
    """

    level: int = LogLevel.INFO

    def should_log(self, level: int) -> bool:
        """True if lines of this level are written at present."""
        return level >= self.level

    def set_log_level(self, level: int | str) -> None:
        """Change the level, at start and at run time; a number or a name. Raises :class:`ValueError`."""
        self.level = LogLevel(cast(int, level))  # names are known to LogLevel, but not to its type

    @abstractmethod
    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        """Write one line. ``meta["namespace"]`` is the namespace of a :class:`NamespacedLogger`."""

    def debug(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """For those who look for a fault."""
        self._emit(LogLevel.DEBUG, event, message, meta)

    def info(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """Ordinary events."""
        self._emit(LogLevel.INFO, event, message, meta)

    def warn(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """Something was refused or looks wrong."""
        self._emit(LogLevel.WARN, event, message, meta)

    def error(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """An operation failed."""
        self._emit(LogLevel.ERROR, event, message, meta)

    def fatal(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """The server cannot go on; after the line it is told to end."""
        self._emit(LogLevel.FATAL, event, message, meta)

    def get_namespace(self, namespace: str) -> NamespacedLogger:
        """A logger whose lines carry the name of a part of the server."""
        return NamespacedLogger(self, namespace)

    def _emit(self, level: LogLevel, event: str, message: str, meta: Mapping[str, Any] | None) -> None:
        if self.should_log(level):
            try:
                self.log(level, event, message, meta)
            except Exception as error:
                # There is no other place left to report to.
                line = f"PLUGIN_ERROR | the logger failed: {error!r}; line: {event!r} {message!r}"
                with contextlib.suppress(OSError, ValueError):
                    print(line, file=sys.stderr)
        if level >= LogLevel.WARN:
            self.services.report_log(level, event, message, meta)
        if level == LogLevel.FATAL:
            self.services.notify_fatal_exception()


class NamespacedLogger:
    """A view of a :class:`Logger` that adds ``namespace`` to the metadata of each line."""

    __slots__ = ("_logger", "namespace")

    def __init__(self, logger: Logger, namespace: str) -> None:
        self._logger = logger
        self.namespace = namespace

    def should_log(self, level: int) -> bool:
        """True if lines of this level are written at present."""
        return self._logger.should_log(level)

    def debug(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.debug`."""
        self._logger.debug(event, message, self._tagged(meta))

    def info(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.info`."""
        self._logger.info(event, message, self._tagged(meta))

    def warn(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.warn`."""
        self._logger.warn(event, message, self._tagged(meta))

    def error(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.error`."""
        self._logger.error(event, message, self._tagged(meta))

    def fatal(self, event: str, message: str = "", meta: Mapping[str, Any] | None = None) -> None:
        """See :meth:`Logger.fatal`."""
        self._logger.fatal(event, message, self._tagged(meta))

    def _tagged(self, meta: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"namespace": self.namespace, **(meta or {})}
