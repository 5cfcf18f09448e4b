"""The queue in front of a receiver that may be slow, away, or of another opinion."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from dsfast_plugins.delivery import Delivery, DeliveryRefused, NotDelivered
from tests.wire import TIMEOUT


class Other:
    """The receiver; ``faults`` are raised by the next deliveries, in turn."""

    def __init__(self, **settings: Any) -> None:
        self.faults: list[Exception] = []
        self.batches: list[list[int]] = []
        self.reports: list[tuple[str, bool]] = []
        self.open = asyncio.Event()
        self.open.set()
        self._changed = asyncio.Condition()
        options = {"max_waiting": 10, "max_batch": 4, "tries": 3, "pause": 1, **settings}
        self.delivery: Delivery[int] = Delivery(self.send, self.report, **options)

    async def send(self, batch: Sequence[int]) -> None:
        await self.open.wait()
        async with self._changed:
            self._changed.notify_all()
            if self.faults:
                raise self.faults.pop(0)
            self.batches.append(list(batch))

    def report(self, text: str, trouble: bool) -> None:
        self.reports.append((text, trouble))

    @property
    def numbers(self) -> list[int]:
        return [number for batch in self.batches for number in batch]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(TIMEOUT), self._changed:
            await self._changed.wait_for(condition)


async def test_everything_arrives_in_order_and_in_batches() -> None:
    other = Other()
    for number in range(3):
        assert other.delivery.put(number)
    other.delivery.start()
    await other.until(lambda: other.numbers == [0, 1, 2])
    other.open.clear()
    for number in range(3, 12):
        assert other.delivery.put(number)
    other.open.set()
    await other.delivery.close()
    assert other.numbers == list(range(12))
    assert max(len(batch) for batch in other.batches) == 4
    assert other.reports == []


async def test_what_failed_is_sent_again() -> None:
    other = Other()
    other.faults = [NotDelivered("away"), NotDelivered("busy", pause=0.001)]
    other.delivery.start()
    other.delivery.put(1)
    await other.until(lambda: other.numbers == [1])
    await other.delivery.close()
    assert other.reports == [("away", True), ("delivers again", False)]


async def test_after_the_last_attempt_a_batch_is_lost_and_the_next_one_goes() -> None:
    other = Other(max_batch=1)
    other.faults = [NotDelivered("away")] * 3
    other.delivery.put(1)
    other.delivery.put(2)
    other.delivery.start()
    await other.until(lambda: other.numbers == [2])
    await other.delivery.close()
    assert other.reports == [("away", True), ("delivers again; 1 were lost", False)]


@pytest.mark.parametrize(
    ("fault", "text"), [(DeliveryRefused("no"), "no"), (RuntimeError("a bug"), "RuntimeError('a bug')")]
)
async def test_what_is_refused_is_not_sent_again(fault: Exception, text: str) -> None:
    other = Other(max_batch=1, tries=None)
    other.faults = [fault]
    other.delivery.put(1)
    other.delivery.put(2)
    other.delivery.start()
    await other.until(lambda: other.numbers == [2])
    await other.delivery.close()
    assert other.reports == [(text, True), ("delivers again; 1 were lost", False)]


async def test_a_full_queue_loses_what_is_new() -> None:
    other = Other(max_batch=100)
    assert [other.delivery.put(number) for number in range(13)] == [True] * 10 + [False] * 3
    other.delivery.start()
    await other.delivery.close()
    assert other.numbers == list(range(10))
    assert other.reports == [("delivers again; 3 were lost", False)]
    assert not other.delivery.put(1)


async def test_the_end_does_not_wait_for_a_receiver_that_is_away() -> None:
    other = Other(tries=None, pause=60_000)
    other.faults = [NotDelivered("away")] * 5
    other.delivery.start()
    for number in range(6):
        other.delivery.put(number)
    await other.until(lambda: len(other.faults) == 4)
    async with asyncio.timeout(TIMEOUT):
        await other.delivery.close()
    assert other.reports == [("away", True), ("6 were not delivered", True)]


async def test_an_end_that_takes_too_long_tells_what_is_lost() -> None:
    other = Other()
    other.open.clear()
    other.delivery.start()
    other.delivery.put(1)
    closing = asyncio.create_task(other.delivery.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert other.reports == [("1 were not delivered", True)]


async def test_without_a_start_there_is_nothing_to_wait_for() -> None:
    other = Other()
    await other.delivery.close()
    await other.delivery.close()
    assert other.reports == []


async def test_threads_may_put() -> None:
    other = Other(max_waiting=10_000, max_batch=100)
    other.delivery.start()
    threads = [
        threading.Thread(target=lambda n=n: [other.delivery.put(n * 1000 + i) for i in range(1000)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    await other.until(lambda: len(other.numbers) == 4000)
    assert sorted(other.numbers) == sorted(n * 1000 + i for n in range(4) for i in range(1000))
    for n in range(4):
        own = [number for number in other.numbers if number // 1000 == n]
        assert own == sorted(own)
    await other.delivery.close()
