"""Brings what happens here to somebody elsewhere who may be slow or away: in order, in batches, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Delivery", "DeliveryRefused", "NotDelivered"]

MAX_PAUSE = 60.0
"""Seconds between two attempts, at most."""

T = TypeVar("T")


class NotDelivered(Exception):
    """The receiver could not be reached or had no time; the same batch is sent again later.

    ``pause`` is the number of seconds after which the receiver wants to see us again, if it said so.
    """

    def __init__(self, text: str, pause: float | None = None) -> None:
        super().__init__(text)
        self.pause = pause


class DeliveryRefused(Exception):
    """The receiver does not want this batch; sending it again would not help."""


class Delivery(Generic[T]):
    """A queue with a sender behind it.

    ``send(batch)`` delivers up to ``max_batch`` things or raises :class:`NotDelivered` or
    :class:`DeliveryRefused`. What fails is tried ``tries`` times (None: without end), first after ``pause``
    ms, then after twice as long each time. At most ``max_waiting`` things wait; what comes then is lost, and
    so is what was refused. ``report(text, True)`` is called once when trouble begins, ``report(text, False)``
    when it is over, with the number of things that were lost. ``interval`` ms are waited for a batch to grow.
    """

    def __init__(
        self,
        send: Callable[[Sequence[T]], Awaitable[None]],
        report: Callable[[str, bool], None],
        *,
        max_waiting: int,
        max_batch: int,
        tries: int | None,
        pause: int,
        interval: int = 0,
    ) -> None:
        self._send = send
        self._report = report
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._tries = tries
        self._pause = pause / 1000
        self._interval = interval / 1000
        self._waiting: deque[T] = deque()
        self._lost = 0
        self._in_trouble = False
        self._work = asyncio.Event()
        self._closing = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Things that are not delivered yet."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to deliver; needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._worker = asyncio.create_task(self._run())

    def put(self, thing: T) -> bool:
        """Deliver a thing, as soon as possible; False if it is lost. May be called by other threads."""
        if self._closing.is_set() or len(self._waiting) >= self._max_waiting:
            self._lost += 1
            return False
        self._waiting.append(thing)
        if not self._work.is_set() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._work.set)
        return True

    async def close(self) -> None:
        """Try once more to deliver what waits, and end. What is left is lost, which is reported."""
        self._closing.set()
        self._work.set()
        worker, self._worker = self._worker, None
        try:
            if worker is not None:
                await worker
        finally:
            self._lost += len(self._waiting)
            self._waiting.clear()
            if self._lost:
                self._report(f"{self._lost} were not delivered", True)
                self._lost = 0

    async def _run(self) -> None:
        while not (self._closing.is_set() and not self._waiting):
            if not self._waiting:
                self._work.clear()
                if not self._waiting:  # a thread may have put something in between
                    await self._work.wait()
                continue
            if self._interval and len(self._waiting) < self._max_batch:
                await self._rest(self._interval)
            batch = [self._waiting[i] for i in range(min(self._max_batch, len(self._waiting)))]
            if not await self._deliver(batch) and self._closing.is_set():
                return
            for _ in batch:
                self._waiting.popleft()

    async def _deliver(self, batch: Sequence[T]) -> bool:
        """Send a batch until it has arrived; False if it is given up."""
        pause = self._pause
        tried = 0
        while True:
            wanted: float | None = None
            try:
                await self._send(batch)
            except NotDelivered as error:
                wanted = error.pause
                self._trouble(str(error))
            except Exception as error:
                # Refused, or it cannot even be sent: the next one may be welcome.
                self._lost += len(batch)
                self._trouble(str(error) if isinstance(error, DeliveryRefused) else repr(error))
                return True
            else:
                self._all_is_well()
                return True
            tried += 1
            if self._closing.is_set():
                return False
            if tried == self._tries:
                self._lost += len(batch)
                return False
            await self._rest(min(MAX_PAUSE, pause if wanted is None else wanted) * random.uniform(0.75, 1.0))
            pause = min(MAX_PAUSE, 2 * pause)

    async def _rest(self, seconds: float) -> None:
        """Pause, unless the end comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _trouble(self, text: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._report(text, True)

    def _all_is_well(self) -> None:
        if self._in_trouble or self._lost:
            self._report(f"delivers again; {self._lost} were lost" if self._lost else "delivers again", False)
        self._in_trouble = False
        self._lost = 0
