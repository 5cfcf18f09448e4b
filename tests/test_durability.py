"""What a write acknowledgement promises, kept by a real server process that is killed.

``DSFAST_KILL_ROUNDS`` sets how often the server is killed (default 5).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from tests.record_client import R, RecordClient
from tests.wire import CLOSE, TIMEOUT

loops = ["uvloop"]

ROOT = Path(__file__).parent.parent
READY = re.compile(rb"is ready at ws://127\.0\.0\.1:(\d+)/deepstream")
ROUNDS = int(os.environ.get("DSFAST_KILL_ROUNDS", "5"))
WRITERS = 4
RECORDS = 8
"""Per writer; nobody else writes to them."""
WINDOW = 32
"""Operations that one writer keeps open."""
GONE = (ConnectionError, asyncio.IncompleteReadError)


@contextmanager
def until_gone(client: RecordClient) -> Iterator[None]:
    """Ends quietly when the server goes, with or without a close frame."""
    try:
        yield
    except GONE:
        pass
    except AssertionError as error:
        if not str(error).startswith(f"({CLOSE}, "):
            raise
    finally:
        client.wire.writer.close()


class Process:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    async def ended(self) -> int:
        """Exit code, once the process has ended."""
        async with asyncio.timeout(TIMEOUT):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def serving(data: Path) -> AsyncIterator[Process]:
    command = ["-m", "dsfast", "serve", "--port", "0", "--data-dir", str(data)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        lines = []
        async with asyncio.timeout(TIMEOUT):
            while not (found := READY.search(line := await process.stdout.readline())):
                lines.append(line)
                assert line, b"".join(lines).decode()
        yield Process(process, int(found[1]))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


class Owned:
    """A record that one writer owns, and the states it has gone through since it was last read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: list[Any] = [None]  # None: missing
        self.confirmed = 0  # index of the newest state that was confirmed
        self.deletes: deque[int] = deque()  # indices of deletes without an answer

    def begin(self, state: Any) -> int:
        self.states.append(state)
        return len(self.states) - 1

    def confirm(self, index: int) -> None:
        self.confirmed = max(self.confirmed, index)

    def check(self, actual: Any) -> None:
        """A confirmed state must be there, or one that was sent after it."""
        assert actual in self.states[self.confirmed :], (
            self.name,
            actual,
            self.states[max(0, self.confirmed - 2) :],
        )
        self.states = [actual]
        self.confirmed = 0
        self.deletes.clear()


class Writer:
    """Writes to its records as fast as answers come, and notes what is confirmed."""

    def __init__(self, index: int, rng: random.Random, on_confirmed: Any) -> None:
        self.records = {name: Owned(name) for name in (f"{index}/{number}" for number in range(RECORDS))}
        self.rng = rng
        self.open: dict[str, tuple[Owned, int]] = {}
        self.number = 0
        self.on_confirmed = on_confirmed

    def send_one(self, client: RecordClient) -> None:
        record = self.rng.choice(list(self.records.values()))
        self.number += 1
        kind = self.rng.random()
        if kind < 0.05:
            record.deletes.append(record.begin(None))
            client.send(R.DELETE, name=record.name)
            return
        ack = {"is_write_ack": True, "correlation_id": str(self.number), "version": -1}
        if kind < 0.4:
            data: Any = {"n": self.number, "pad": "x" * self.rng.choice([0, 10, 5000])}
            client.send(R.CREATEANDUPDATE, name=record.name, data=data, **ack)
        else:
            data = {**(record.states[-1] or {}), "n": self.number}
            client.send(R.CREATEANDPATCH, name=record.name, path="n", data=self.number, **ack)
        self.open[str(self.number)] = (record, record.begin(data))

    async def work(self, port: int) -> None:
        """Until the connection ends."""
        self.open.clear()
        client = await RecordClient.connect(port)
        with until_gone(client):
            for _ in range(WINDOW):
                self.send_one(client)
            while True:
                message = await client.receive()
                if message.action == R.DELETE_SUCCESS:
                    record = self.records[message.name or ""]
                    record.confirm(record.deletes.popleft())
                elif message.action == R.WRITE_ACKNOWLEDGEMENT:
                    record, index = self.open.pop(message.correlation_id or "")
                    record.confirm(index)
                else:
                    raise RuntimeError(f"unexpected answer {message}")
                self.on_confirmed()
                self.send_one(client)

    async def check(self, client: RecordClient) -> int:
        for name, record in self.records.items():
            _, actual = await client.read(name)
            record.check(actual)
        return len(self.records)


def check_file(data: Path, copy: Path) -> None:
    """The files as the crash left them are a sound database; the server's own copy stays untouched."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(data, copy)
    for path in copy.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    data = tmp_path / "data"
    rng = random.Random(1)
    total = 0
    left = 0
    enough = asyncio.Event()

    def confirmed() -> None:
        nonlocal total, left
        total += 1
        left -= 1
        if left <= 0:
            enough.set()

    writers = [Writer(index, random.Random(index), confirmed) for index in range(WRITERS)]
    for _ in range(ROUNDS):
        async with serving(data) as server:
            reader = await RecordClient.connect(server.port)
            for writer in writers:
                await writer.check(reader)
            reader.wire.writer.close()
            left = rng.randrange(50, 1500)
            enough.clear()
            tasks = [asyncio.ensure_future(writer.work(server.port)) for writer in writers]
            async with asyncio.timeout(TIMEOUT):
                await enough.wait()
            server.process.send_signal(signal.SIGKILL)
            assert await server.ended() == -signal.SIGKILL
            await asyncio.gather(*tasks)
        check_file(data, tmp_path / "copy")
    async with serving(data) as server:
        reader = await RecordClient.connect(server.port)
        records = sum([await writer.check(reader) for writer in writers])
    print(f"{ROUNDS} kills, {total} confirmed operations on {records} records, none lost")
    assert total >= 50 * ROUNDS


async def test_stop_under_load_loses_nothing_that_was_told(tmp_path: Path) -> None:
    """Writes without acknowledgement count as accepted once a subscriber was told."""
    data = tmp_path / "data"
    names = [f"r{number}" for number in range(WRITERS)]
    seen: dict[str, tuple[int, int]] = {}
    enough = asyncio.Event()

    async def write(port: int, name: str) -> None:
        client = await RecordClient.connect(port)
        number = 0
        with until_gone(client):
            while True:
                number += 1
                client.send(R.CREATEANDPATCH, name=name, version=-1, path="n", data=number)
                if number % 50 == 0:
                    await client.read(name)  # not faster than the server

    async def watch(port: int) -> None:
        client = await RecordClient.connect(port)
        await client.subscribe(*names)
        watching.set()
        with until_gone(client):
            while True:
                message = await client.receive()
                assert message.action == R.PATCH, message
                before, _ = seen.get(message.name or "", (0, 0))
                assert message.version == before + 1
                seen[message.name or ""] = (message.version, json.loads(message.data or b""))
                if sum(version for version, _ in seen.values()) > 2000:
                    enough.set()

    async with serving(data) as server:
        watching = asyncio.Event()
        watcher = asyncio.ensure_future(watch(server.port))
        await watching.wait()
        tasks = [asyncio.ensure_future(write(server.port, name)) for name in names]
        async with asyncio.timeout(TIMEOUT):
            await enough.wait()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(watcher, *tasks)
        assert await server.ended() == 0
    check_file(data, tmp_path / "copy")
    async with serving(data) as server:
        reader = await RecordClient.connect(server.port)
        for name in names:
            version, now = await reader.read(name)
            assert version >= seen[name][0]
            assert now == {"n": version}
