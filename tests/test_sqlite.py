"""The SQLite storage: layout, promises, and what happens when the process, the disk or the file fails."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import lz4.block
import pytest
import sqlite_drivers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_fakes import Answer, MemoryLogger, services

from dsfast.config import ConfigError
from dsfast.plugin import LogLevel
from dsfast.services.storage import (
    PermanentStorageError,
    StorageClosed,
    StorageError,
    TextSnapshot,
    TransientStorageError,
    WriteBehind,
    WriteOp,
    sqlite_driver,
    sqlite_recovery,
)
from dsfast.services.storage import sqlite as sqlite_module
from dsfast.services.storage.sqlite import SqliteStorage
from dsfast.services.storage.sqlite_driver import SqliteError
from dsfast.services.storage.sqlite_file import (
    APPLICATION_ID,
    LockFile,
    RecordFile,
    connect_reader,
    file_system_type,
    iterate_records,
)

TESTS = Path(__file__).parent
KILL_ROUNDS = int(os.environ.get("DSFAST_KILL_ROUNDS", "20"))
EXAMPLES = int(os.environ.get("DSFAST_STORAGE_EXAMPLES", "60"))


class Opened:
    """``async with Opened(path, ...) as storage``"""

    def __init__(self, path, logger=None, **options):
        self.logger = logger or MemoryLogger()
        self.storage = SqliteStorage({"path": str(path), **options}, services(self.logger), None)

    async def __aenter__(self):
        await self.storage.when_ready()
        return self.storage

    async def __aexit__(self, *_):
        await self.storage.close()


@pytest.fixture(params=sqlite_drivers.DRIVERS, autouse=True)
def driver(request, monkeypatch):
    sqlite_drivers.use(monkeypatch, request.param)
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "dsfast.db"


def sql(path, statement, *values):
    # By the driver of the storage: a second library would take away the locks of the first.
    with contextlib.closing(sqlite_driver.connect(path)) as connection:
        return connection.execute(statement, values)


def pragma(path, name):
    return sql(path, f"PRAGMA {name}")[0][0]


# ---- the file


async def test_layout_is_the_one_of_the_specification(path):
    async with Opened(path) as storage:
        await storage.set("user/wolfram", 3, {"name": "Wolfram"})
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        for name in ("dsfast.db", "dsfast.db-wal", "dsfast.db-shm", "dsfast.db.lock"):
            assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600
    assert pragma(path, "application_id") == APPLICATION_ID == 0x64736673
    assert pragma(path, "user_version") == 1
    assert pragma(path, "page_size") == 8192
    assert pragma(path, "journal_mode") == "wal"
    assert pragma(path, "auto_vacuum") == 2
    columns = [(row[1], row[2], row[3]) for row in sql(path, "PRAGMA table_info(records)")]
    assert columns == [
        ("name", "TEXT", 1),
        ("version", "INTEGER", 1),
        ("val", "BLOB", 1),
        ("enc", "INTEGER", 1),
        ("updated_ms", "INTEGER", 1),
    ]
    assert sql(path, "SELECT name, version, val, enc FROM records") == [
        ("user/wolfram", 3, b'{"name":"Wolfram"}', 0)
    ]
    assert sql(path, "SELECT json_extract(data, '$.name') FROM records_json") == [("Wolfram",)]
    keys = {row[0] for row in sql(path, "SELECT key FROM ds_meta")}
    assert {"created_ms", "server_version", "last_clean_shutdown_ms", "incarnation"} <= keys


async def test_close_leaves_one_file_and_a_free_lock(path):
    async with Opened(path) as storage:
        await storage.set("a", 1, {})
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["dsfast.db", "dsfast.db.lock"]
    with LockFile(path):
        pass


async def test_second_server_on_the_same_file_is_refused_and_told_by_whom(path, driver):
    async with Opened(path) as storage:
        with pytest.raises(StorageError, match=f"in use by process {os.getpid()}"):
            await Opened(path).storage.when_ready()
        program = "import sys, pathlib; from dsfast.services.storage.sqlite_file import LockFile\n"
        program += "LockFile(pathlib.Path(sys.argv[1])).acquire()"
        environment = sqlite_drivers.environment(driver)
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, path, stderr=subprocess.PIPE, env=environment
        )
        _output, errors = await other.communicate()
        assert f"in use by process {os.getpid()}" in errors.decode()
        await storage.set("a", 1, {})
    async with Opened(path) as storage:
        assert await storage.get("a") == (1, {})


async def test_foreign_newer_and_damaged_files_are_refused_and_not_touched(path):
    path.parent.mkdir()
    sql(path, "CREATE TABLE theirs(x)")
    with pytest.raises(StorageError, match="not one of dsfast"):
        await Opened(path).storage.when_ready()
    path.unlink()
    path.write_bytes(b"this is a letter, not a database. " * 100)
    with pytest.raises(StorageError, match="dsfast sqlite recover"):
        await Opened(path).storage.when_ready()
    path.unlink()
    async with Opened(path):
        pass
    sql(path, "PRAGMA user_version=2")
    with pytest.raises(StorageError, match="newer dsfast"):
        await Opened(path).storage.when_ready()
    with LockFile(path):  # a failed start gives the lock back
        pass


async def test_unclean_end_leads_to_a_check(path):
    async with Opened(path) as storage:
        await storage.set("a", 1, {})
    logger = MemoryLogger()
    async with Opened(path, logger):
        pass
    assert logger.lines == []
    sql(path, "DELETE FROM ds_meta WHERE key='last_clean_shutdown_ms'")
    async with Opened(path, logger):
        pass
    assert "was not closed cleanly; checked, it is intact" in logger.texts(LogLevel.INFO)[0]
    sql(path, "DELETE FROM ds_meta WHERE key='last_clean_shutdown_ms'")
    async with Opened(path, logger, checkOnCrash=False):
        pass
    assert "without a check" in logger.texts(LogLevel.WARN)[0]


async def test_damage_found_after_an_unclean_end_stops_the_start(path):
    await fill(path, 5000)
    sql(path, "DELETE FROM ds_meta WHERE key='last_clean_shutdown_ms'")
    overwrite_pages(path, first=10, count=5)
    with pytest.raises(StorageError, match="dsfast sqlite recover"):
        await Opened(path).storage.when_ready()


class SlowCheck:
    """Holds the check of a file until :meth:`go`."""

    def __init__(self, monkeypatch):
        self._allowed = threading.Event()
        self.go = self._allowed.set
        real = sqlite_module._Check._run

        def run(check):
            self._allowed.wait()
            real(check)

        monkeypatch.setattr(sqlite_module._Check, "_run", run)
        monkeypatch.setattr(sqlite_module, "CHECK_PATIENCE", 0.0)


@pytest.mark.parametrize("damaged", [False, True])
async def test_long_check_does_not_hold_up_the_start_and_its_result_counts_all_the_same(
    path, monkeypatch, damaged
):
    check = SlowCheck(monkeypatch)
    await fill(path, 5000)
    sql(path, "DELETE FROM ds_meta WHERE key='last_clean_shutdown_ms'")
    if damaged:
        overwrite_pages(path, first=10, count=5)
    logger = NoisyLogger()
    async with Opened(path, logger) as storage:
        assert "being checked" in logger.texts(LogLevel.INFO)[0]
        await storage.get("nobody")
        check.go()
        await asyncio.wait([storage._check.result])
        if damaged:
            await logger.failed.wait()
            assert not storage.healthy
            assert len(logger.texts(LogLevel.FATAL)) == 1
    clean = sql(path, "SELECT value FROM ds_meta WHERE key='last_clean_shutdown_ms'") != []
    assert clean != damaged


async def test_check_that_is_cut_short_by_the_end_is_made_at_the_next_start(path, monkeypatch):
    await fill(path, 5000)
    sql(path, "DELETE FROM ds_meta WHERE key='last_clean_shutdown_ms'")
    with monkeypatch.context() as patch:
        check = SlowCheck(patch)
        patch.setattr(sqlite_module, "CHECK_STEPS", 10)
        opened = Opened(path)
        storage = await opened.__aenter__()
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        check.go()
        await closing
    logger = MemoryLogger()
    async with Opened(path, logger):
        assert "checked, it is intact" in logger.texts(LogLevel.INFO)[0]


async def test_incarnation_counts_the_starts(path):
    for _ in range(3):
        async with Opened(path):
            pass
    assert sql(path, "SELECT value FROM ds_meta WHERE key='incarnation'") == [("3",)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"durability": "some"}, "durability"),
        ({"compress": "gzip"}, "compress"),
        ({"flushInterval": -1}, "flushInterval"),
        ({"durabilty": "full"}, "durabilty"),
        ({"path": ""}, "path"),
    ],
)
def test_wrong_options_are_named(options, text):
    with pytest.raises(ConfigError, match=text):
        SqliteStorage(options, services(), None)


def test_network_file_systems_are_recognised(tmp_path):
    table = "\n".join(
        [
            "22 1 8:1 / / rw - ext4 /dev/sda rw",
            f"23 22 0:40 / {tmp_path} rw - nfs4 server:/x rw",
            f"24 22 0:41 / {tmp_path}/local\\040disk rw - xfs /dev/sdb rw",
        ]
    )
    assert file_system_type(tmp_path / "a", table) == "nfs4"
    assert file_system_type(tmp_path / "local disk" / "a", table) == "xfs"
    assert file_system_type(Path("/elsewhere"), table) == "ext4"
    assert file_system_type(tmp_path, "") == ""


async def test_network_file_system_is_refused_unless_forced(path, monkeypatch):
    monkeypatch.setattr("dsfast.services.storage.sqlite_file.file_system_type", lambda _: "nfs4")
    with pytest.raises(StorageError, match=r"network file system.*allowNetworkFileSystem"):
        await Opened(path).storage.when_ready()
    async with Opened(path, allowNetworkFileSystem=True) as storage:
        await storage.set("a", 1, {})


async def test_trouble_at_the_start_is_one_clear_error_and_gives_the_lock_back(path, monkeypatch):
    failing = FailingCommits(monkeypatch, lambda: SqliteError("database or disk is full", sqlite_driver.FULL))
    failing.left = 1
    with pytest.raises(StorageError, match=r"cannot use .*: database or disk is full"):
        await Opened(path).storage.when_ready()
    async with Opened(path) as storage:
        await storage.set("a", 1, {})


async def test_unusable_directory_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot use"):
        await Opened(tmp_path / "file" / "dsfast.db").storage.when_ready()


# ---- records


ODD_NAMES = [
    "a b", "ä/ö", "x_v", "{tag}", "n" * 1000, "it's", 'say "hi"', "a;b", "--", "$x", "a.b", "\x01\t\n",
    "日本", "😀", "nul\0inside", "nul", "%", "_", "a/b/c", "/leading", " ", "A", "a",
]  # fmt: skip


@pytest.mark.parametrize("compress", ["none", "zlib", "lz4"])
async def test_names_and_values_come_back_as_they_were(path, compress):
    values = [
        {},
        [],
        [1, "x", None],
        {"ä": "😀\ud800"},
        {"big": 2**60},
        {"long": "x" * (1 << 20)},
        [[["y"]]],
    ]
    async with Opened(path, compress=compress) as storage:
        for version, name in enumerate(ODD_NAMES):
            await storage.set(name, version, values[version % len(values)])
        for version, name in enumerate(ODD_NAMES):
            assert await storage.get(name) == (version, values[version % len(values)])
        assert await storage.get("nul\0") == (-1, None)
        for name in ODD_NAMES:
            await storage.delete(name)
            assert await storage.get(name) == (-1, None)
    assert sql(path, "SELECT count(*) FROM records") == [(0,)]


async def test_missing_record_and_deleting_it(path):
    async with Opened(path) as storage:
        assert await storage.get("nobody") == (-1, None)
        await storage.delete("nobody")
        await storage.set("a", 0, {})
        assert await storage.get("a") == (0, {})
        await storage.delete_bulk(["a", "a", "nobody"])
        assert await storage.get("a") == (-1, None)


@pytest.mark.parametrize(("compress", "enc", "noise_enc"), [("zlib", 1, 1), ("lz4", 2, 0)])
async def test_compressed_values_can_be_read_whatever_the_option_says_now(path, compress, enc, noise_enc):
    text = b'{"x":"' + b"abc" * 1000 + b'"}'
    # lz4 does not make this any smaller, so it is kept as it is.
    noise = b'"' + random.Random(1).randbytes(600).hex().encode() + b'"'
    ops = [WriteOp("long", 1, text), WriteOp("noise", 1, noise), WriteOp("short", 1, b"{}")]
    async with Opened(path, compress=compress) as storage:
        await storage.write_batch(ops)
    rows = sql(path, "SELECT name, enc, length(val) FROM records ORDER BY name")
    assert [(name, found) for name, found, _ in rows] == [("long", enc), ("noise", noise_enc), ("short", 0)]
    assert rows[0][2] < len(text) / 10
    [(packed,)] = sql(path, "SELECT val FROM records WHERE name='long'")
    assert (zlib.decompress(packed) if compress == "zlib" else lz4.block.decompress(packed)) == text
    for now in ("none", "zlib", "lz4"):
        async with Opened(path, compress=now) as storage:
            assert [await storage.get_text(op.name) for op in ops] == [(1, op.text) for op in ops]
    sql(path, "UPDATE records SET val=x'00' WHERE name='long'")
    async with Opened(path) as storage:
        both = await asyncio.gather(
            storage.get_text("long"), storage.get_text("short"), return_exceptions=True
        )
        assert isinstance(both[0], PermanentStorageError)
        assert both[1] == (1, b"{}")


@pytest.mark.parametrize("compress", ["zlib", "lz4"])
async def test_compressed_values_survive_export_backup_and_recovery(path, compress, tmp_path):
    values = {f"r{number}": b'{"n":%d,"x":"%b"}' % (number, b"y" * number * 10) for number in range(300)}
    async with Opened(path, compress=compress) as storage:
        await storage.write_batch([WriteOp(name, 1, text) for name, text in values.items()])
        sqlite_recovery.backup(path, tmp_path / "copy.db")
    assert sqlite_recovery.recover(path, tmp_path / "rescued.db").records == 300
    for copy in ("copy.db", "rescued.db"):
        with contextlib.closing(connect_reader(tmp_path / copy)) as reader:
            assert {name: text for name, _, text in iterate_records(reader)} == values


def test_lz4_without_its_package_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    with pytest.raises(StorageError, match="compress: lz4 needs the Python package lz4"):
        SqliteStorage({"compress": "lz4"}, services(), None)


async def test_version_guard_and_forced_writes(path):
    async with Opened(path) as storage:
        assert await storage.write_batch([WriteOp("a", 5, b'"5"')]) == [None]
        assert await storage.write_batch([WriteOp("a", 4, b'"4"')]) == [None]
        assert await storage.get("a") == (5, "5")
        assert storage.guard_refused == 1
        await storage.write_batch([WriteOp("a", 5, b'"again"')])
        assert await storage.get("a") == (5, "again")
        await storage.write_batch([WriteOp("a", 0, b'"forced"', forced=True)])
        assert await storage.get("a") == (0, "forced")


async def test_version_guard_with_eight_writers_of_shuffled_versions(path):
    names = [f"r{number}" for number in range(100)]
    async with Opened(path) as storage:

        async def writer(seed):
            order = [(name, version) for name in names for version in range(seed, 80, 8)]
            random.Random(seed).shuffle(order)
            await asyncio.gather(*(storage.set(name, version, {"v": version}) for name, version in order))

        await asyncio.gather(*(writer(seed) for seed in range(8)))
        for name in names:
            assert await storage.get(name) == (79, {"v": 79})


async def test_refused_operation_does_not_break_the_batch(path):
    ops = [WriteOp(f"r{number}", number, b"{}") for number in range(100)]
    ops[30] = WriteOp("lone \ud800", 1, b"{}")
    ops[70] = WriteOp("big version", 2**63, b"{}")
    async with Opened(path) as storage:
        results = await storage.write_batch(ops)
        bad = {index for index, error in enumerate(results) if error is not None}
        assert bad == {30, 70}
        assert all(isinstance(results[index], PermanentStorageError) for index in bad)
        found = await asyncio.gather(
            *(storage.get(f"r{number}") for number in range(100) if number not in bad)
        )
        assert all(row[1] == {} for row in found)
        with pytest.raises(PermanentStorageError):
            await storage.get("lone \ud800")


async def test_writes_that_wait_together_are_committed_together(path):
    async with Opened(path) as storage:
        await asyncio.gather(*(storage.set(f"r{number}", 1, {}) for number in range(3000)))
        assert storage.commits <= 30


async def test_reads_that_wait_together_are_answered_right(path):
    await fill(path, 1000)
    async with Opened(path) as storage:
        names = [f"r{number}" for number in range(1500)] * 2
        found = await asyncio.gather(*(storage.get(name) for name in names))
        expected = [(1, {"n": number}) if number < 1000 else (-1, None) for number in range(1500)] * 2
        assert found == expected


async def test_readers_never_wait_for_writers_nor_see_an_error(path):
    async with Opened(path) as storage:
        layer = WriteBehind(storage, logger=storage.logger)
        done = False

        async def write():
            for version in range(1, 200):
                for number in range(50):
                    layer.put(f"r{number}", TextSnapshot(version, b'{"v":%d}' % version))
                await layer.flush()

        async def read():
            seen = dict.fromkeys(range(50), -1)
            while not done:
                for number in range(50):
                    version, _text = await storage.get_text(f"r{number}")
                    assert version >= seen[number]
                    seen[number] = version

        readers = [asyncio.create_task(read()) for _ in range(4)]
        await write()
        done = True
        await asyncio.gather(*readers)
        assert await layer.close() == []


async def test_closed_storage_says_so(path):
    async with Opened(path) as storage:
        pass
    with pytest.raises(StorageClosed):
        await storage.set("a", 1, {})
    with pytest.raises(StorageClosed):
        await storage.get("a")
    await storage.close()


# ---- durability levels


@pytest.mark.parametrize("durability", ["full", "normal", "async", "off"])
async def test_every_level_stores(path, durability):
    async with Opened(path, durability=durability) as storage:
        layer = WriteBehind(storage, logger=storage.logger)
        answer = Answer()
        layer.put("a", TextSnapshot(1, b"{}"), waiter=answer)
        assert storage.acks_when_queued == (durability == "async")
        assert await layer.close() == []
        assert answer.error is None
    async with Opened(path) as storage:
        assert await storage.get("a") == (1, {})


@pytest.mark.parametrize("durability", ["normal", "async"])
async def test_relaxed_levels_synchronise_at_intervals(path, durability):
    async with Opened(path, durability=durability, syncInterval=1) as storage:
        reader = connect_reader(path)
        for version in range(100_000):
            await storage.set("a", version, {})
            if reader.execute("SELECT 1 FROM ds_meta WHERE key='last_sync_ms'"):
                break
        else:
            pytest.fail("never synchronised")
        reader.close()


# ---- the write-ahead log


def incompressible(version, size=50_000):
    """A large value of which no page equals one of another version."""
    return {"x": random.Random(version).randbytes(size).hex()}


async def test_log_is_copied_back_while_writing_goes_on(path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "CHECKPOINT_BYTES", 1 << 20)
    async with Opened(path) as storage:
        for version in range(100):
            await storage.set(f"r{version % 10}", version, incompressible(version))
        assert path.with_name("dsfast.db-wal").stat().st_size < 3 << 20


async def test_log_that_a_reader_holds_up_is_emptied_when_he_is_gone(path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "CHECKPOINT_BYTES", 1 << 20)
    monkeypatch.setattr(sqlite_module, "TRUNCATE_BYTES", 4 << 20)
    monkeypatch.setattr(sqlite_module, "CHECKPOINT_INTERVAL", 0.0)
    log = path.with_name("dsfast.db-wal")
    async with Opened(path) as storage:
        await storage.set("a", 0, {})
        reader = connect_reader(path)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records")
        for version in range(12):
            await storage.set(f"r{version % 10}", version, incompressible(version, 250_000))
        assert log.stat().st_size > 4 << 20
        reader.execute("ROLLBACK")
        reader.close()
        await storage.set("b", 1, {})
        await storage.set("b", 2, {})
        assert log.stat().st_size < 1 << 20


# ---- failures


async def fill(path, count):
    async with Opened(path) as storage:
        await storage.write_batch([WriteOp(f"r{number}", 1, b'{"n":%d}' % number) for number in range(count)])


def overwrite_pages(path, first, count):
    with path.open("r+b") as file:
        file.seek(8192 * first)
        file.write(os.urandom(8192 * count))


def sync_failure():
    return SqliteError("disk I/O error", sqlite_driver.IOERR_FSYNC)


class FailingCommits:
    """Replaces RecordFile.commit: the first ``count`` commits after arming fail after having been written."""

    def __init__(self, monkeypatch, make_error):
        self.left = 0
        real = RecordFile.commit

        def commit(file):
            if self.left:
                self.left -= 1
                raise make_error()
            real(file)

        monkeypatch.setattr(RecordFile, "commit", commit)


async def test_failed_fsync_is_never_counted_as_success_and_the_file_is_opened_again(path, monkeypatch):
    failing = FailingCommits(monkeypatch, sync_failure)
    logger = MemoryLogger()
    async with Opened(path, logger) as storage:
        await storage.set("a", 1, {})
        failing.left = 2
        await storage.set("a", 2, {})
        assert failing.left == 0
        assert await storage.get("a") == (2, {})
        assert storage.healthy
        assert len(logger.texts(LogLevel.ERROR)) == 2
        await storage.set("a", 3, {})
    assert sql(path, "SELECT version FROM records") == [(3,)]


async def test_three_failed_fsyncs_end_the_writing_but_not_the_reading(path, monkeypatch):
    failing = FailingCommits(monkeypatch, sync_failure)
    logger = MemoryLogger()
    async with Opened(path, logger) as storage:
        await storage.set("a", 1, {"kept": True})
        failing.left = 3
        with pytest.raises(PermanentStorageError, match="disk fails to keep data"):
            await storage.set("a", 2, {})
        assert not storage.healthy
        assert len(logger.texts(LogLevel.FATAL)) == 1
        with pytest.raises(PermanentStorageError):
            await storage.set("b", 1, {})
        assert await storage.get("a") == (1, {"kept": True})
        writer = storage._writer
        writer._next_checkpoint = 0.0
    assert writer._idle_time() > 0, "a writer that has stopped must not run in circles"


async def test_file_that_cannot_be_opened_again_is_tried_later(path, monkeypatch):
    failing = FailingCommits(monkeypatch, sync_failure)
    async with Opened(path) as storage:
        await storage.set("a", 1, {})
        failing.left = 1
        real = sqlite_module.connect_writer

        def refuse(*_):
            monkeypatch.setattr(sqlite_module, "connect_writer", real)
            raise StorageError("cannot open")

        monkeypatch.setattr(sqlite_module, "connect_writer", refuse)
        with pytest.raises(TransientStorageError):
            await storage.set("a", 2, {})
        await storage.set("a", 3, {})
        assert await storage.get("a") == (3, {})


@pytest.mark.parametrize("code", ["FULL", "BUSY", "IOERR", "READONLY", "NOMEM"])
async def test_trouble_of_the_machine_is_transient_and_leaves_nothing_behind(path, monkeypatch, code):
    failing = FailingCommits(monkeypatch, lambda: SqliteError("trouble", getattr(sqlite_driver, code)))
    async with Opened(path) as storage:
        failing.left = 1
        with pytest.raises(TransientStorageError):
            await storage.set("a", 1, {})
        assert await storage.get("a") == (-1, None)
        assert storage.healthy
        await storage.set("a", 1, {})


class NoisyLogger(MemoryLogger):
    """Tells when an error is logged."""

    def __init__(self):
        super().__init__()
        self.failed = asyncio.Event()

    def log(self, level, event, message, meta=None):
        super().log(level, event, message, meta)
        if level >= LogLevel.ERROR:
            self.failed.set()


async def test_full_disk_acknowledges_nothing_and_writing_resumes_when_there_is_space(path):
    logger = NoisyLogger()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with Opened(path, logger) as storage:
        layer = WriteBehind(storage, logger=logger)
        await storage.set("before", 1, {"x": "y"})
        answers = [asyncio.get_running_loop().create_future() for _ in range(50)]
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (path.with_name("dsfast.db-wal").stat().st_size + 8192, hard)
        )
        try:
            for number, answer in enumerate(answers):
                layer.put(
                    f"r{number}", TextSnapshot(1, b'"' + b"x" * 10_000 + b'"'), waiter=answer.set_result
                )
            await logger.failed.wait()
            assert not any(answer.done() for answer in answers)
            assert layer.degraded
            assert await layer.get("before") == (1, b'{"x":"y"}')
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await asyncio.gather(*answers) == [None] * 50
        assert await layer.close() == []
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert sql(path, "SELECT count(*) FROM records") == [(51,)]


async def test_damage_found_while_running_ends_the_writing_with_one_fatal_line(path):
    await fill(path, 5000)
    overwrite_pages(path, first=10, count=20)
    logger = MemoryLogger()
    async with Opened(path, logger) as storage:
        found = await asyncio.gather(
            *(storage.get(f"r{number}") for number in range(5000)), return_exceptions=True
        )
        assert any(isinstance(result, PermanentStorageError) for result in found)
        assert not storage.healthy
        assert len(logger.texts(LogLevel.FATAL)) == 1
        assert f"dsfast sqlite recover --path {path}" in logger.texts(LogLevel.FATAL)[0]
        with pytest.raises(PermanentStorageError, match="damaged"):
            await storage.set("new", 1, {})
        layer = WriteBehind(storage, logger=logger)
        answer = Answer()
        layer.put("a", TextSnapshot(1, b"{}"), waiter=answer)
        await layer.flush()
        assert isinstance(answer.error, PermanentStorageError)


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_kill_9_at_any_moment_loses_nothing_acknowledged(path, durability, driver):
    rounds = KILL_ROUNDS // 4
    chance = random.Random(f"{durability} {rounds}")
    acknowledged: dict[str, int] = {}
    for _ in range(rounds):
        child = subprocess.Popen(
            [sys.executable, TESTS / "storage_child.py", path, durability],
            stdout=subprocess.PIPE,
            env=sqlite_drivers.environment(driver),
        )
        try:
            assert child.stdout.readline() == b"ready\n"
            wanted = chance.randrange(1, 3000)
            lines = [child.stdout.readline() for _ in range(wanted)]
        finally:
            child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        for line in lines:
            name, version = line.decode().split()
            acknowledged[name] = max(int(version), acknowledged.get(name, -1))
        stored = dict(sql(path, "SELECT name, version FROM records"))
        missing = {name: version for name, version in acknowledged.items() if stored.get(name, -1) < version}
        assert missing == {}
        assert sql(path, "PRAGMA integrity_check") == [("ok",)]


# ---- storms


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["set", "set", "set", "delete", "forced", "flush", "turn"]), st.integers(0, 4)
        ),
        max_size=60,
    )
)
def test_storm_of_sets_and_deletes_ends_as_the_model(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("storm") / "dsfast.db"

    async def run():
        expected: dict[str, tuple[int, bytes | None]] = {f"r{number}": (-1, None) for number in range(5)}
        async with Opened(path, durability="off") as storage:
            layer = WriteBehind(storage, logger=storage.logger)
            for count, (step, number) in enumerate(steps):
                name = f"r{number}"
                text = b'{"step":%d}' % count
                if step == "set":
                    expected[name] = (expected[name][0] + 1, text)
                    layer.put(name, TextSnapshot(expected[name][0], text))
                elif step == "forced":
                    expected[name] = (0, text)
                    layer.put(name, TextSnapshot(0, text), forced=True)
                elif step == "delete":
                    expected[name] = (-1, None)
                    layer.delete(name)
                elif step == "flush":
                    await layer.flush()
                else:
                    await asyncio.sleep(0)
                assert await layer.get(name) == expected[name]
            assert await layer.close() == []
            for name, state in expected.items():
                assert await storage.get_text(name) == state

    asyncio.run(run())
