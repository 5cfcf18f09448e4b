"""What the storage tests share: a clock that moves when told, a logger that remembers, bad storages."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from dsfast.plugin import Logger, LogLevel, Storage
from dsfast.services.storage import BatchStorage, WriteOp
from dsfast.services.storage.batch import encode_json


class FakeClock:
    """Replaces the loop's time and timers; nothing happens until :meth:`advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, SimpleNamespace]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        timer = SimpleNamespace(callback=callback)
        timer.cancel = lambda: setattr(timer, "callback", None)
        heapq.heappush(self._timers, (self.now + delay, next(self._order), timer))
        return timer

    @property
    def armed(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._timers)

    async def advance(self, seconds: float) -> None:
        """Let time pass; timers fire at their moments, with a few loop turns after each."""
        await turns()
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end + 1e-9:
            when, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if timer.callback is not None:
                timer.callback()
                await turns()
        self.now = end
        await turns()


async def turns(count: int = 8) -> None:
    """Let the event loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


class MemoryLogger(Logger):
    """Keeps its lines as (level, event, message)."""

    def __init__(self) -> None:
        self.fatal_calls = 0
        services = SimpleNamespace(report_log=lambda *_: None, notify_fatal_exception=self._fatal)
        super().__init__({}, services, None)  # type: ignore[arg-type]
        self.lines: list[tuple[LogLevel, str, str]] = []

    def _fatal(self) -> None:
        self.fatal_calls += 1

    def log(self, level: int, event: str, message: str, meta: Any = None) -> None:
        self.lines.append((LogLevel(level), event, message))

    def texts(self, level: LogLevel) -> list[str]:
        return [message for found, _, message in self.lines if found == level]


def services(logger: Logger | None = None) -> Any:
    """As much of the services registry as a storage uses."""
    return SimpleNamespace(logger=logger or MemoryLogger())


class Gate:
    """Holds calls until the test lets them go."""

    def __init__(self) -> None:
        self.open = True
        self.held: list[asyncio.Future[None]] = []

    async def passed(self) -> None:
        if not self.open:
            future = asyncio.get_running_loop().create_future()
            self.held.append(future)
            await future

    def release(self, error: Exception | None = None, count: int | None = None) -> int:
        """Let held calls go on, or fail; returns how many."""
        chosen = [future for future in self.held if not future.done()][:count]
        self.held.clear() if count is None else None
        for future in chosen:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self.held = [future for future in self.held if not future.done()]
        return len(chosen)


class MemoryBatches(BatchStorage):
    """A batch storage in memory that keeps the version rule and checks the contract of its caller."""

    flush_interval = 10.0

    def __init__(self) -> None:
        super().__init__({}, services(), None)  # type: ignore[arg-type]
        self.rows: dict[str, tuple[int, bytes]] = {}
        self.batches: list[list[str]] = []
        self.gate = Gate()
        self.reads = 0
        self.read_gate = Gate()
        self.errors: list[Exception] = []
        self.refuse: Callable[[WriteOp], Exception | None] = lambda op: None
        self._busy = False

    async def write_batch(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        assert not self._busy, "two batches at the same time"
        names = [op.name for op in ops]
        assert len(set(names)) == len(names), "a name twice in a batch"
        self.batches.append([repr(op) for op in ops])
        self._busy = True
        try:
            await self.gate.passed()
        finally:
            self._busy = False
        if self.errors:
            raise self.errors.pop(0)
        for op in ops:
            error = self.refuse(op)
            if error is not None:
                raise error
        for op in ops:
            stored = self.rows.get(op.name)
            if op.text is None:
                self.rows.pop(op.name, None)
            elif op.forced or stored is None or stored[0] <= op.version:
                self.rows[op.name] = (op.version, op.text)
        return [None] * len(ops)

    async def get_text(self, name: str) -> tuple[int, bytes | None]:
        self.reads += 1
        await self.read_gate.passed()
        return self.rows.get(name, (-1, None))


class MemoryPlain(Storage):
    """An ordinary storage plugin in memory."""

    def __init__(self) -> None:
        super().__init__({}, services(), None)  # type: ignore[arg-type]
        self.rows: dict[str, tuple[int, Any]] = {}
        self.gate = Gate()
        self.busy: set[str] = set()
        self.most_busy = 0
        self.errors: dict[str, list[Exception]] = {}
        self.handed: list[Any] = []

    async def _work(self, name: str) -> None:
        assert name not in self.busy, "two operations of one name at the same time"
        self.busy.add(name)
        self.most_busy = max(self.most_busy, len(self.busy))
        try:
            await self.gate.passed()
            if self.errors.get(name):
                raise self.errors[name].pop(0)
        finally:
            self.busy.discard(name)

    async def get(self, name: str) -> tuple[int, Any]:
        return self.rows.get(name, (-1, None))

    async def set(self, name: str, version: int, data: Any) -> None:
        self.handed.append(data)
        await self._work(name)
        self.rows[name] = (version, data)

    async def delete(self, name: str) -> None:
        await self._work(name)
        self.rows.pop(name, None)


class LiveRecord:
    """A record in memory as the server has it: a live snapshot that is queued once and changes on."""

    def __init__(self, version: int = 0, data: Any = None) -> None:
        self.version = version
        self.data = data
        self.taken_count = 0
        self.saved_versions: list[int] = []
        self.texts = 0

    def text(self) -> bytes:
        self.texts += 1
        return encode_json(self.data)

    def taken(self) -> None:
        self.taken_count += 1

    def saved(self, version: int) -> None:
        self.saved_versions.append(version)


class Answer:
    """A waiter that checks that it is called once."""

    def __init__(self) -> None:
        self.results: list[Exception | None] = []

    def __call__(self, error: Exception | None) -> None:
        assert not self.results, "answered twice"
        self.results.append(error)

    @property
    def done(self) -> bool:
        return bool(self.results)

    @property
    def error(self) -> Exception | None:
        [error] = self.results
        return error
