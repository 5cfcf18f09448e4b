"""A pool of database connections from which nothing is lost, whatever a server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

__all__ = ["Pool"]

C = TypeVar("C")


class Pool(Generic[C]):
    """At most ``size`` connections, made when they are needed, closed when not used for ``max_idle`` seconds.

    ``connect`` makes one; ``close`` ends one at once, without waiting for the server.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[C]], close: Callable[[C], None], size: int, max_idle: float
    ) -> None:
        self._connect = connect
        self._close_one = close
        self._places = asyncio.Semaphore(size)
        self._max_idle = max_idle
        self._idle: list[tuple[float, C]] = []
        self._loop = asyncio.get_running_loop()
        self._closed = False

    @asynccontextmanager
    async def connection(self, timeout: float) -> AsyncIterator[C]:
        """A connection for at most ``timeout`` seconds, waiting for it included.

        An exception inside ends the connection: its state is unknown then, and waiting for a server that does
        not answer would cost its place. Raises TimeoutError and what ``connect`` raises.
        """
        async with asyncio.timeout(timeout), self._places:
            connection = self._fresh() or await self._connect()
            try:
                yield connection
            except BaseException:
                self._close_one(connection)
                raise
            if self._closed:
                self._close_one(connection)
            else:
                self._idle.append((self._loop.time(), connection))

    def _fresh(self) -> C | None:
        """The connection that was used last; servers drop those that are idle for long."""
        while self._idle:
            since, connection = self._idle.pop()
            if self._loop.time() - since < self._max_idle:
                return connection
            self._close_one(connection)
        return None

    def close(self) -> None:
        """End the idle connections now, the others when they are given back."""
        self._closed = True
        while self._idle:
            self._close_one(self._idle.pop()[1])
