"""The SQLite storage and its disk: one that is really full, and the write-ahead log in the long run.

``DSFAST_WAL_SECONDS`` (600 for the run that storages.md 10.6 asks for) turns the long run on.
"""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest
import sqlite_drivers
from storage_fakes import MemoryLogger, services

from dsfast.plugin import LogLevel
from dsfast.services.storage import StorageError, TextSnapshot, WriteBehind, sqlite_driver
from dsfast.services.storage.sqlite import SqliteStorage
from dsfast.services.storage.sqlite_file import connect_reader
from dsfast.services.storage.sqlite_recovery import backup

TESTS = Path(__file__).parent
WAL_SECONDS = float(os.environ.get("DSFAST_WAL_SECONDS", "0"))
WAL_LIMIT = 256 << 20
MIB_PER_SECOND = 4
VALUE_BYTES = 20_000
HELD = 35.0
"""Seconds for which one reader holds on to a state: with what is written meanwhile beyond TRUNCATE_BYTES."""
TICK = 0.05


@pytest.fixture(params=sqlite_drivers.DRIVERS, autouse=True)
def driver(request, monkeypatch):
    sqlite_drivers.use(monkeypatch, request.param)
    return request.param


# ---- a full disk

DISK_BYTES = 16 << 20


class SmallDisk:
    """A file system of its own, and a file that takes what is left of it."""

    def __init__(self, directory):
        self.directory = directory
        self.path = directory / "dsfast.db"
        self._ballast = directory / "ballast"

    def fill(self):
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def make_space(self):
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "dsfast-test", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mounting is not permitted here: {error.stderr.strip()}")
    yield SmallDisk(place)
    subprocess.run(["umount", str(place)], check=True)


class FailureLogger(MemoryLogger):
    """Tells when an error is logged."""

    def __init__(self):
        super().__init__()
        self.failed = asyncio.Event()

    def log(self, level, event, message, meta=None):
        super().log(level, event, message, meta)
        if level >= LogLevel.ERROR:
            self.failed.set()


def open_storage(path, logger=None, **options):
    return SqliteStorage({"path": str(path), **options}, services(logger or MemoryLogger()), None)


def stored(path):
    """Versions by name, of a file that is not in use and has to be intact."""
    with contextlib.closing(sqlite_driver.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check") == [("ok",)]
        return dict(connection.execute("SELECT name, version FROM records"))


async def test_full_disk_acknowledges_nothing_and_writing_resumes_when_there_is_space(disk):
    logger = FailureLogger()
    storage = open_storage(disk.path, logger)
    await storage.when_ready()
    layer = WriteBehind(storage, logger=logger)
    await storage.set("before", 1, {"x": "y"})
    disk.fill()
    answers = [asyncio.get_running_loop().create_future() for _ in range(200)]
    for number, answer in enumerate(answers):
        layer.put(f"r{number}", TextSnapshot(1, b'"' + b"x" * 10_000 + b'"'), waiter=answer.set_result)
    await logger.failed.wait()
    assert not any(answer.done() for answer in answers)
    assert layer.degraded
    assert storage.healthy
    assert await layer.get("before") == (1, b'{"x":"y"}')
    disk.make_space()
    assert await asyncio.gather(*answers) == [None] * 200
    assert not layer.degraded
    assert await layer.close() == []
    await storage.close()
    assert len(stored(disk.path)) == 201


async def test_start_on_a_full_disk_says_so_and_the_next_one_succeeds(disk):
    disk.fill()
    with pytest.raises(StorageError, match=f"{disk.directory}.*(No space left|disk is full)"):
        await open_storage(disk.path).when_ready()
    disk.make_space()
    storage = open_storage(disk.path)
    await storage.when_ready()
    await storage.set("a", 1, {})
    await storage.close()
    assert stored(disk.path) == {"a": 1}


async def test_what_was_acknowledged_before_the_disk_was_full_survives_kill_9(disk, driver):
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        TESTS / "storage_child.py",
        disk.path,
        "full",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=sqlite_drivers.environment(driver),
    )
    acknowledged = {}

    async def follow():
        async for line in child.stdout:
            if line != b"ready\n":
                name, version = line.decode().split()
                acknowledged[name] = max(int(version), acknowledged.get(name, -1))
                if len(acknowledged) == 100:
                    disk.fill()

    following = asyncio.create_task(follow())
    try:
        # The child's only words are those of its storage when the disk is full.
        assert b"disk is full" in await child.stderr.readline()
    finally:
        child.kill()
        await child.wait()
    await following
    with contextlib.suppress(StorageError):
        # On the full disk a start succeeds or says why not; it does not harm the file.
        storage = open_storage(disk.path)
        await storage.when_ready()
        await storage.close()
    disk.make_space()
    storage = open_storage(disk.path)
    await storage.when_ready()
    await storage.set("after", 1, {})
    await storage.close()
    found = stored(disk.path)
    assert len(acknowledged) >= 100
    assert {name: v for name, v in acknowledged.items() if found.get(name, -1) < v} == {}
    assert found["after"] == 1


# ---- the log in the long run


class LoggedRun:
    """Writers, readers and backups on one storage; sees how large the write-ahead log gets."""

    def __init__(self, storage, seconds):
        self.storage = storage
        self.layer = WriteBehind(storage, logger=storage.logger)
        self.log = storage.path.with_name(storage.path.name + "-wal")
        self.end = monotonic() + seconds
        self.written = self.reads = self.backups = 0
        self.sizes: list[int] = []
        self.shrunk = 0
        self.read_times: list[float] = []
        self.errors: list[Exception] = []

    @property
    def running(self):
        return monotonic() < self.end

    async def write(self):
        """A fixed rate, so that the length of the run decides how much is written and not the disk."""
        chance = random.Random(1)
        begun = monotonic()
        version = 0
        while self.running:
            version += 1
            while self.written < (monotonic() - begun) * MIB_PER_SECOND * (1 << 20):
                name = f"r{chance.randrange(2000)}"
                text = b'"' + chance.randbytes(VALUE_BYTES // 2).hex().encode() + b'"'
                self.layer.put(name, TextSnapshot(version, text), waiter=self._answer)
                self.written += len(text)
            await asyncio.sleep(TICK)

    def _answer(self, error):
        if error is not None:
            self.errors.append(error)

    async def read(self, seed):
        chance = random.Random(seed)
        while self.running:
            begun = monotonic()
            try:
                await self.storage.get_text(f"r{chance.randrange(2000)}")
            except Exception as error:
                self.errors.append(error)
            self.read_times.append(monotonic() - begun)
            self.reads += 1
            await asyncio.sleep(TICK / 5)

    async def hold(self):
        """A reader that looks at one state for long, which is what makes a log grow."""
        reader = connect_reader(self.storage.path)
        while self.running:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM records")
            await self._pause(HELD)
            reader.execute("ROLLBACK")
            await self._pause(2 * HELD)
        reader.close()

    async def _pause(self, seconds):
        await asyncio.sleep(max(0.0, min(seconds, self.end - monotonic())))

    async def back_up(self):
        target = self.storage.path.with_name("copy.db")
        while self.running:
            try:
                await asyncio.to_thread(backup, self.storage.path, target)
            except Exception as error:
                self.errors.append(error)
            self.backups += 1
            await self._pause(15)

    async def watch(self):
        while self.running:
            size = self.log.stat().st_size
            self.shrunk += bool(self.sizes) and size < self.sizes[-1]
            self.sizes.append(size)
            await asyncio.sleep(TICK)

    async def run(self):
        await asyncio.gather(
            self.write(), *(self.read(seed) for seed in range(4)), self.back_up(), self.hold(), self.watch()
        )
        assert await self.layer.close() == []

    def __str__(self):
        times = sorted(self.read_times)
        sizes = sorted(self.sizes)
        return (
            f"{self.written >> 20} MiB written in {self.storage.commits} commits, {self.reads} reads "
            f"(p99 {times[int(len(times) * 0.99)] * 1000:.2f} ms), {self.backups} backups; write-ahead log: "
            f"median {sizes[len(sizes) // 2] / (1 << 20):.1f} MiB, largest {sizes[-1] / (1 << 20):.1f} MiB, "
            f"shrunk {self.shrunk} times; database {self.storage.path.stat().st_size >> 20} MiB"
        )


@pytest.mark.skipif(not WAL_SECONDS, reason="long: DSFAST_WAL_SECONDS is not set")
async def test_log_stays_bounded_in_a_long_run_with_readers_and_backups(tmp_path):
    logger = MemoryLogger()
    storage = open_storage(tmp_path / "dsfast.db", logger)
    await storage.when_ready()
    try:
        run = LoggedRun(storage, WAL_SECONDS)
        await run.run()
        print(run)
    finally:
        await storage.close()
    assert run.errors == []
    assert logger.texts(LogLevel.ERROR) == []
    assert max(run.sizes) <= WAL_LIMIT
    assert run.written > 2 * WAL_LIMIT or WAL_SECONDS < 300, (
        "too little was written for the log to outgrow it"
    )
