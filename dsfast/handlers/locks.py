"""Locks for searches: the plugin's, with time limits, and held as long as a search takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from dsfast.plugin import LockRegistry, Logger

__all__ = ["SearchLocks"]


class SearchLocks:
    """``request_timeout`` bounds the wait for a lock; every half ``hold_timeout`` it is renewed (both ms)."""

    def __init__(
        self, plugin: LockRegistry, logger: Logger, *, request_timeout: float, hold_timeout: float
    ) -> None:
        self._plugin = plugin
        self._logger = logger
        self._request_seconds = request_timeout / 1000
        self._renew_seconds = hold_timeout / 2000
        self._tasks: set[asyncio.Task[Any]] = set()
        self._holds: dict[str, asyncio.Task[None]] = {}

    def acquire(self, name: str, decided: Callable[[bool], object], lost: Callable[[], object]) -> None:
        """Ask for a lock. ``decided(granted)`` follows, and later ``lost()`` if it cannot be held."""
        self._spawn(self._acquire(name, decided, lost))

    def release(self, name: str) -> None:
        """Give a lock back; nothing happens if it is not held."""
        hold = self._holds.pop(name, None)
        if hold is not None:
            hold.cancel()
            self._give_back(name)

    def close(self) -> None:
        """Give everything back, ask for nothing more."""
        for name in list(self._holds):
            self.release(name)
        for task in self._tasks:
            task.cancel()

    async def _acquire(
        self, name: str, decided: Callable[[bool], object], lost: Callable[[], object]
    ) -> None:
        request = self._spawn(self._get(name))
        await asyncio.wait([request], timeout=self._request_seconds)
        granted = request.done() and not request.cancelled() and request.result()
        if not request.done():
            # Not cancelled: whether it would have been granted then, nobody would know.
            self._logger.warn("LOCK_REQUEST_TIMEOUT", f"the lock {name} was not granted in time")
            request.add_done_callback(lambda late: self._came_too_late(name, late))
        if granted:
            self._holds[name] = self._spawn(self._hold(name, lost))
        decided(granted)

    async def _get(self, name: str) -> bool:
        try:
            return await self._plugin.get(name)
        except Exception as error:
            self._logger.error("PLUGIN_ERROR", f"locks failed in get: {error!r}")
            return False

    async def _hold(self, name: str, lost: Callable[[], object]) -> None:
        held = True
        while held:
            await asyncio.sleep(self._renew_seconds)
            try:
                async with asyncio.timeout(self._request_seconds):
                    held = await self._plugin.renew(name)
            except Exception as error:
                self._logger.error("PLUGIN_ERROR", f"locks failed in renew: {error!r}")
                held = False
        if self._holds.pop(name, None) is not None:
            lost()

    def _came_too_late(self, name: str, request: asyncio.Task[bool]) -> None:
        if not request.cancelled() and request.result():
            self._give_back(name)

    def _give_back(self, name: str) -> None:
        try:
            self._plugin.release(name)
        except Exception as error:
            self._logger.error("PLUGIN_ERROR", f"locks failed in release: {error!r}")

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
