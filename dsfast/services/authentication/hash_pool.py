"""Where passwords are checked: a few threads, so that neither the loop waits nor the machine is overrun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["HashPool", "HashPoolFull"]

T = TypeVar("T")


class HashPoolFull(Exception):
    """Too many are waiting already."""


class HashPool:
    """At most ``threads`` functions run at the same time and ``max_waiting`` wait for their turn."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "dsfast-password")
        self._bound = threads + max_waiting
        self._max_waiting = max_waiting
        self._accepted = 0

    @classmethod
    def shared(cls, services: Services, config: Config) -> HashPool:
        """The pool of a server: one for all authentications, so that they share its bounds."""
        if services.hash_pool is None:
            services.hash_pool = cls(config.login.hashing_threads, config.login.max_waiting_hashes)
        return services.hash_pool

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns or raises. Raises :class:`HashPoolFull` without having called it."""
        if self._accepted >= self._bound:
            raise HashPoolFull(f"{self._max_waiting} logins are waiting for their password to be checked")
        work = asyncio.wrap_future(self._threads.submit(function, *arguments))
        self._accepted += 1
        work.add_done_callback(self._finished)
        # Whoever gives up waiting does not stop the thread, so the place is taken until that is done.
        return await asyncio.shield(work)

    def close(self) -> None:
        """Forget what is waiting; what runs ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _finished(self, work: asyncio.Future[Any]) -> None:
        self._accepted -= 1
        if not work.cancelled():
            work.exception()  # seen, also when nobody waits any more
