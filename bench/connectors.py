"""Speed of the connectors against their servers on loopback, and of other ways to ask the same server.

    python -m bench.connectors [--seconds 3] [--callers 256] [--json FILE]

Servers of its own are started (Redis on a Unix socket, PostgreSQL on TCP). Every row is measured for all ways
one after the other in the same run, in this process on uvloop. "per core" divides by the processor time of
this process instead of by the time that passed: a figure that does not depend on what else the machine does.

* dsfast: the connector, called as the server calls it (parsed values in and out)
* one command per call: upstream's semantics, ``MGET v d`` or ``MSET`` for each call; what one turn of the
  loop asks for goes as a redis-py pipeline
* redis-py: ``redis.asyncio`` used as its manual shows, every caller awaits its own command
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio
import uvloop

from dsfast.services.storage import TextSnapshot, WriteBehind, decode_json, encode_json
from dsfast.testing import MemoryLogger, started
from dsfast_plugins.postgres import PostgresStorage
from dsfast_plugins.redis import RedisCache
from tests.plugins.servers import PostgresProcess, RedisProcess

NAMES = [f"bench/record/{i}" for i in range(10_000)]
VALUE = {"name": "somebody", "city": "x" * 120, "tags": ["a", "b", "c"], "n": 12345}  # about 200 bytes
VERSIONS = [f"{name}_v" for name in NAMES]

Results = dict[str, dict[str, dict[str, float]]]
Call = Callable[[str], Awaitable[Any]]


class Naive:
    """redis-py, each call on its own."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def get(self, name: str) -> Any:
        version, text = await self._client.mget(f"{name}_v", f"{name}_d")
        return int(version), decode_json(text)

    async def set(self, name: str) -> None:
        await self._client.mset({f"{name}_v": 1, f"{name}_d": encode_json(VALUE)})

    async def head_bulk(self) -> None:
        versions = await asyncio.gather(*(self._client.get(key) for key in VERSIONS))
        assert len([int(version) for version in versions]) == len(NAMES)


class OneCommandPerCall:
    """What upstream's connector does, with redis-py: a pipeline per turn, one MGET or MSET per call."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._waiting: list[tuple[str, bool, asyncio.Future[Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def _ask(self, name: str, write: bool) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._start)
        future = loop.create_future()
        self._waiting.append((name, write, future))
        return future

    def _start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        pipeline = self._client.pipeline(transaction=False)
        for name, write, _ in waiting:
            if write:
                pipeline.mset({f"{name}_v": 1, f"{name}_d": encode_json(VALUE)})
            else:
                pipeline.mget(f"{name}_v", f"{name}_d")
        for (_, _, future), reply in zip(waiting, await pipeline.execute(), strict=True):
            future.set_result(reply)

    async def get(self, name: str) -> Any:
        version, text = await self._ask(name, False)
        return int(version), decode_json(text)

    async def set(self, name: str) -> None:
        await self._ask(name, True)

    async def head_bulk(self) -> None:
        versions = await self._client.mget(VERSIONS)
        assert len({name: int(v) for name, v in zip(NAMES, versions, strict=True)}) == len(NAMES)


class Dsfast:
    """The connector."""

    def __init__(self, cache: RedisCache) -> None:
        self.get: Call = cache.get
        self._cache = cache

    async def set(self, name: str) -> None:
        await self._cache.set(name, 1, VALUE)

    async def head_bulk(self) -> None:
        found, missing = await self._cache.head_bulk(NAMES)
        assert len(found) == len(NAMES)
        assert not missing


async def calls_per_second(call: Call, callers: int, seconds: float) -> dict[str, float]:
    """``callers`` that each wait for their answer before they ask again."""
    end = time.perf_counter() + seconds
    count = 0

    async def caller(seed: int) -> None:
        nonlocal count
        rng = random.Random(seed)
        while time.perf_counter() < end:
            await call(NAMES[int(rng.random() * len(NAMES))])
            count += 1

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller(i) for i in range(callers)))
    took, used = time.perf_counter() - start, time.process_time() - cpu
    return {"per_second": count / took, "per_core": count / used}


async def milliseconds(call: Callable[[], Awaitable[Any]], seconds: float) -> dict[str, float]:
    """How long one call takes: median, fastest, and its processor time."""
    await call()
    times, cpu, end = [], time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        await call()
        times.append((time.perf_counter() - start) * 1000)
    used = (time.process_time() - cpu) * 1000 / len(times)
    times.sort()
    return {"median_ms": times[len(times) // 2], "fastest_ms": times[0], "cpu_ms": used}


class Batches:
    """Records through the write-behind layer, as the server writes them; each caller waits for its own."""

    def __init__(self, storage: PostgresStorage) -> None:
        self._writer = WriteBehind(storage, logger=MemoryLogger(), write_ack_timeout=60_000)
        self._versions = dict.fromkeys(NAMES, 0)
        self.close = self._writer.close

    async def set(self, name: str) -> None:
        self._versions[name] += 1
        saved: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        snapshot = TextSnapshot(self._versions[name], encode_json(VALUE))
        self._writer.put(name, snapshot, waiter=saved.set_result)
        assert await saved is None


class OneStatementPerWrite:
    """asyncpg with a pool of ten, an upsert for each record."""

    UPSERT = (
        "INSERT INTO ds.bench VALUES ($1, 1, $2) ON CONFLICT (id) DO UPDATE SET"
        " version = EXCLUDED.version, val = EXCLUDED.val"
    )

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def set(self, name: str) -> None:
        await self._pool.execute(self.UPSERT, name, encode_json(VALUE).decode())


async def measure_postgres(callers: int, seconds: float) -> Results:
    """Acknowledged writes; the disk is not waited for (fsync is off)."""
    results: Results = {}
    async with contextlib.AsyncExitStack() as stack:
        server = PostgresProcess()
        stack.callback(server.remove)
        place = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "database": "postgres"}
        options = {**place, "notifications": {}}
        storage = await stack.enter_async_context(started(PostgresStorage, options))
        batches = Batches(storage)
        await batches.set(NAMES[0])
        results["postgres writes"] = {"dsfast": await calls_per_second(batches.set, callers, seconds)}
        await batches.close()
        pool = await stack.enter_async_context(asyncpg.create_pool(min_size=10, max_size=10, **place))
        single = OneStatementPerWrite(pool)
        results["postgres writes"]["one statement per write"] = await calls_per_second(
            single.set, callers, seconds
        )
    return results


async def measure_redis(callers: int, seconds: float) -> Results:
    """All rows for all ways."""
    results: Results = {}
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = RedisProcess(directory)
        stack.callback(server.stop)
        path = str(server.socket)
        cache = await stack.enter_async_context(
            started(RedisCache, {"path": path, "commandTimeout": 60_000, "maxQueueBytes": 1 << 30})
        )
        pool = redis.asyncio.BlockingConnectionPool.from_url(f"unix://{path}", max_connections=50, timeout=60)
        client = await stack.enter_async_context(redis.asyncio.Redis(connection_pool=pool))
        ways = {
            "dsfast": Dsfast(cache),
            "one command per call": OneCommandPerCall(client),
            "redis-py": Naive(client),
        }
        for name in NAMES:
            await cache.set(name, 1, VALUE)
        for way, subject in ways.items():
            results.setdefault("reads", {})[way] = await calls_per_second(subject.get, callers, seconds)
            results.setdefault("writes", {})[way] = await calls_per_second(subject.set, callers, seconds)
            results.setdefault("head_bulk of 10 000", {})[way] = await milliseconds(
                subject.head_bulk, seconds
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.connectors")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--callers", type=int, default=256)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = uvloop.run(measure_redis(args.callers, args.seconds))
    results |= uvloop.run(measure_postgres(args.callers, args.seconds))
    for row, ways in results.items():
        for way, values in ways.items():
            shown = "  ".join(f"{name} {value:,.1f}" for name, value in values.items())
            print(f"{row:22} {way:24} {shown}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
