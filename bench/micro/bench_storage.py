"""Speed of the SQLite storage behind the write-behind layer (figures wanted: storages.md 10.6).

    python bench/micro/bench_storage.py [--dir DIRECTORY] [--seconds 3] [--million]

The directory decides which disk is measured; a temporary one is used by default.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop

from dsfast.services.storage import TextSnapshot, WriteBehind, WriteOp, sqlite_driver
from dsfast.services.storage.none import NoStorage
from dsfast.services.storage.sqlite import SqliteStorage

WRITERS = 100
READERS = 4
VALUE = b'{"x":"' + b"v" * 192 + b'"}'


class PrintingLogger:
    """Lines of the storage, should there be any."""

    def __getattr__(self, level: str) -> Any:
        return lambda *parts: print(level, *parts)


SERVICES: Any = SimpleNamespace(logger=PrintingLogger())
NO_CONFIG: Any = None


class Live:
    """A record that is put again and again, as the server does it."""

    __slots__ = ("version",)
    size = len(VALUE)

    def __init__(self) -> None:
        self.version = 0

    def text(self) -> bytes:
        return VALUE

    def taken(self) -> None:
        pass

    def saved(self, version: int) -> None:
        pass


def row(what: str, rate: float, unit: str, times: list[float] | None = None, note: str = "") -> None:
    """One line of the table; ``times`` in seconds."""
    latency = ""
    if times:
        times.sort()
        p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
        latency = f"{p50:8.2f} {p99:8.2f}"
    print(f"{what:<46} {rate:>12,.0f} {unit:<9} {latency:<17} {note}")


async def opened(path: Path, **options: Any) -> SqliteStorage:
    storage = SqliteStorage({"path": str(path), **options}, SERVICES, NO_CONFIG)
    await storage.when_ready()
    return storage


async def acknowledged_writes(directory: Path, durability: str, seconds: float) -> None:
    """100 writers, each waiting for its acknowledgement before the next write."""
    storage = await opened(directory / f"write-{durability}.db", durability=durability)
    layer = WriteBehind(storage, logger=SERVICES.logger)
    loop = asyncio.get_running_loop()
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def writer(number: int) -> None:
        count = 0
        while (start := time.perf_counter()) < end:
            count += 1
            done = loop.create_future()
            name = f"writer/{number}/{count}"
            layer.put(name, TextSnapshot(1, VALUE), waiter=done.set_result)
            if (error := await done) is not None:
                raise error
            times.append(time.perf_counter() - start)

    await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    note = f"{layer.counters.saved / storage.commits:.0f} records a commit"
    row(
        f"acknowledged writes, {WRITERS} writers, {durability}", len(times) / seconds, "writes/s", times, note
    )
    await layer.close()
    await storage.close()


async def reads_beside_writes(directory: Path, seconds: float) -> None:
    """4 readers of random names, one request each, while 100 writers work."""
    names = 100_000
    storage = await opened(directory / "read.db")
    for start in range(0, names, 2000):
        await storage.write_batch([WriteOp(f"r{n}", 0, VALUE) for n in range(start, start + 2000)])
    layer = WriteBehind(storage, logger=SERVICES.logger)
    loop = asyncio.get_running_loop()
    for writers in (0, WRITERS):
        times: list[float] = []
        writes = 0
        end = time.perf_counter() + seconds

        async def reader(times: list[float] = times, end: float = end) -> None:
            while (start := time.perf_counter()) < end:
                await storage.get_text(f"r{random.randrange(names)}")
                times.append(time.perf_counter() - start)

        async def writer(number: int, end: float = end) -> None:
            nonlocal writes
            version = 0
            while time.perf_counter() < end:
                version += 1
                done = loop.create_future()
                layer.put(f"r{random.randrange(names)}", TextSnapshot(version, VALUE), waiter=done.set_result)
                await done
                writes += 1

        await asyncio.gather(*(reader() for _ in range(READERS)), *(writer(n) for n in range(writers)))
        note = f"beside {writes / seconds:,.0f} writes/s" if writers else ""
        row(f"reads, {READERS} readers", len(times) / seconds, "reads/s", times, note)
    start = time.perf_counter()
    wanted = [f"r{random.randrange(names)}" for _ in range(50_000)]
    await asyncio.gather(*(storage.get_text(name) for name in wanted))
    row("reads, 50 000 at once", len(wanted) / (time.perf_counter() - start), "reads/s")
    await layer.close()
    await storage.close()


async def puts() -> None:
    """What queueing a change costs the event loop."""
    layer = WriteBehind(NoStorage({}, SERVICES, NO_CONFIG), logger=SERVICES.logger, max_pending=10**9)
    record = Live()
    count = 500_000
    put = layer.put
    start = time.perf_counter()
    for _ in range(count):
        put("name", record)
    row("put of a record that is already queued", count / (time.perf_counter() - start), "puts/s")
    names = [f"r{number}" for number in range(100_000)]
    records = [Live() for _ in names]
    start = time.perf_counter()
    for name, live in zip(names, records, strict=True):
        put(name, live)
    row("put of a record that is not", len(names) / (time.perf_counter() - start), "puts/s")
    await layer.close()


async def million(directory: Path) -> None:
    """One million records of 300 bytes: size, start, reads."""
    path = directory / "million.db"
    storage = await opened(path, durability="off")
    value = json.dumps({"x": "v" * 292}).encode()
    start = time.perf_counter()
    for first in range(0, 1_000_000, 2000):
        await storage.write_batch([WriteOp(f"user/{n:07}", 1, value) for n in range(first, first + 2000)])
    row("filling with 1 000 000 records", 1_000_000 / (time.perf_counter() - start), "writes/s")
    await storage.close()
    row("size of the file", path.stat().st_size / 1e6, "MB")
    start = time.perf_counter()
    storage = await opened(path)
    await storage.get_text("user/0500000")
    row("start to first read", (time.perf_counter() - start) * 1000, "ms")
    times = []
    for _ in range(20_000):
        start = time.perf_counter()
        await storage.get_text(f"user/{random.randrange(1_000_000):07}")
        times.append(time.perf_counter() - start)
    row("reads one after the other", len(times) / sum(times), "reads/s", times)
    await storage.close()


async def main(directory: Path, seconds: float, with_million: bool) -> None:
    print(f"{sqlite_driver.driver.library}, {directory}, {len(VALUE)}-byte values, {seconds:g} s a row")
    print(f"{'':<46} {'rate':>12} {'':<9} {'p50 ms':>8} {'p99 ms':>8}")
    await puts()
    for durability in ("full", "normal"):
        await acknowledged_writes(directory, durability, seconds)
    await reads_beside_writes(directory, seconds)
    if with_million:
        await million(directory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument(
        "--million", action="store_true", help="also with 1 000 000 records (600 MB, a minute)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.dir) as made:
        uvloop.run(main(Path(made), given.seconds, given.million))
