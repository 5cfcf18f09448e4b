"""Keeps a misbehaving client from filling the log: repeated lines are counted and summed up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from time import monotonic
from typing import Any

from dsfast.plugin import Logger, LogLevel, NamespacedLogger

__all__ = ["FloodGuard"]

OTHERS = "other clients"


class _Window:
    """The lines of one event of one source since the first of them."""

    __slots__ = ("held_back", "level", "started", "written")

    def __init__(self, started: float, level: LogLevel) -> None:
        self.started = started
        self.level = level
        self.written = 0
        self.held_back = 0


class FloodGuard:
    """Passes lines on to a logger, at most ``limit`` per source and event in ``interval`` milliseconds.

    The rest is counted; when the interval is over, one line says how many there were. A source is anything
    hashable that stands for one client (the user id, the address, the connection), and is named in that line
    by ``str``. At most ``max_sources`` pairs of source and event are told apart at a time; those beyond share
    one allowance, so the memory stays bounded whatever clients do.
    """

    def __init__(
        self,
        logger: Logger | NamespacedLogger,
        *,
        limit: int = 10,
        interval: int = 10_000,
        max_sources: int = 10_000,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._logger = logger
        self._limit = limit
        self._seconds = interval / 1000
        self._max_sources = max_sources
        self._clock = clock
        self._windows: dict[tuple[Hashable, str], _Window] = {}
        self._timer: asyncio.TimerHandle | None = None

    def warn(
        self, source: Hashable, event: str, message: str = "", meta: Mapping[str, Any] | None = None
    ) -> None:
        """Log a warning caused by ``source``, or count it."""
        if self._admit(source, event, LogLevel.WARN):
            self._logger.warn(event, message, meta)

    def error(
        self, source: Hashable, event: str, message: str = "", meta: Mapping[str, Any] | None = None
    ) -> None:
        """Log an error caused by ``source``, or count it."""
        if self._admit(source, event, LogLevel.ERROR):
            self._logger.error(event, message, meta)

    def info(
        self, source: Hashable, event: str, message: str = "", meta: Mapping[str, Any] | None = None
    ) -> None:
        """Log an ordinary event caused by ``source``, or count it."""
        if self._admit(source, event, LogLevel.INFO):
            self._logger.info(event, message, meta)

    def flush(self) -> None:
        """Sum up every interval that is over; runs by itself in an event loop."""
        now = self._clock()
        for key, window in list(self._windows.items()):
            if now - window.started >= self._seconds:
                del self._windows[key]
                self._sum_up(key, window)

    def close(self) -> None:
        """Sum up everything that was held back and stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        windows, self._windows = self._windows, {}
        for key, window in windows.items():
            self._sum_up(key, window)

    def _admit(self, source: Hashable, event: str, level: LogLevel) -> bool:
        now = self._clock()
        key = (source, event)
        window = self._windows.get(key)
        if window is None and len(self._windows) >= self._max_sources:
            key = (OTHERS, event)
            window = self._windows.get(key)
        if window is not None and now - window.started >= self._seconds:
            self._sum_up(key, window)
            window = None
        if window is None:
            window = self._windows[key] = _Window(now, level)
            self._schedule()
        if window.written < self._limit:
            window.written += 1
            return True
        window.held_back += 1
        return False

    def _sum_up(self, key: tuple[Hashable, str], window: _Window) -> None:
        if window.held_back:
            source, event = key
            text = f"{window.held_back} more of these from {source} in the last {self._seconds:g} s"
            log = {LogLevel.INFO: self._logger.info, LogLevel.WARN: self._logger.warn}
            meta = {"repeated": window.held_back, "source": str(source)}
            log.get(window.level, self._logger.error)(event, text, meta)

    def _schedule(self) -> None:
        if self._timer is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # Used outside of an event loop (a command): sums appear with the next line or at close.
            return
        self._timer = loop.call_later(self._seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()
        if self._windows:
            self._schedule()
