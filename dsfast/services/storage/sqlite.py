"""dsfast's own default storage: one SQLite file, one writing thread, group commit (storages.md section
10)."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dsfast.config import SqliteOptions, load
from dsfast.config.schema import SqliteSection
from dsfast.plugin import LogLevel
from dsfast.services.storage import sqlite_driver
from dsfast.services.storage.batch import (
    BatchStorage,
    PermanentStorageError,
    StorageClosed,
    StorageError,
    TransientStorageError,
    WriteOp,
)
from dsfast.services.storage.sqlite_driver import Connection, SqliteError
from dsfast.services.storage.sqlite_file import (
    LockFile,
    RecordFile,
    connect_reader,
    connect_writer,
    encoder,
    is_file_damage,
    is_sync_failure,
    now_ms,
    prepare_file,
    read_records,
    set_busy_timeout,
    transaction,
    write_error,
)

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["DEFAULT_PATH", "SqliteStorage"]

SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL", "async": "NORMAL", "off": "OFF"}

DEFAULT_PATH = "./data/dsfast.db"
COMPRESS_THRESHOLD = 1024
READERS = 2
MAX_BATCH_BYTES = 8 << 20
READS_PER_TURN = 64
CHECKPOINT_BYTES = 16 << 20
TRUNCATE_BYTES = 128 << 20
CHECKPOINT_INTERVAL = 30.0
AUTOMATIC_CHECK_BYTES = 1 << 30
MAX_SYNC_FAILURES = 3
CHECK_PATIENCE = 1.0
"""Seconds that a start waits for the check; the time limit of a start is 2 s by default."""
CHECK_STEPS = 100_000
"""Steps of SQLite's machine after which the check looks whether it should end: some milliseconds."""


def _settings(options: Mapping[str, Any] | SqliteOptions) -> SqliteOptions:
    """The checked options. Raises ConfigError, which names what is wrong, when given a plain mapping."""
    if isinstance(options, SqliteOptions):
        return options
    section = load({"storage": {"type": "sqlite", "options": dict(options)}}).storage
    assert isinstance(section, SqliteSection)
    return section.options


class _Job:
    """One call of write_batch on its way through the writer thread."""

    __slots__ = ("done", "ops")

    def __init__(self, ops: Sequence[WriteOp], done: asyncio.Future[list[Exception | None]]) -> None:
        self.ops = ops
        self.done = done


Outcome = list[Exception | None] | Exception


class SqliteStorage(BatchStorage):
    """Records in one SQLite file.

    Started by :meth:`when_ready`, which takes the lock file, opens or makes the database and, after an
    unclean end, checks it. It fails with StorageError when another process has the file, when the file
    belongs to another program, is damaged or lies on a network file system.
    """

    def __init__(
        self, options: Mapping[str, Any] | SqliteOptions, services: Services, config: Config
    ) -> None:
        super().__init__(cast(Mapping[str, Any], options), services, config)
        self.settings = _settings(options)
        self._encode = encoder(self.settings.compress, COMPRESS_THRESHOLD)
        self.flush_interval = self.settings.flush_interval
        self.acks_when_queued = self.settings.durability == "async"
        self.path = Path(self.settings.path or DEFAULT_PATH)
        self.description = f"SQLite file {self.path}, durability {self.settings.durability}"
        self._lock = LockFile(self.path)
        self._writer: _Writer | None = None
        self._readers: _Readers | None = None
        self._check: _Check | None = None
        self._suspect = False  # its last user did not close the file, and it has not been checked since
        self.failure: str | None = None
        """Why nothing is written any more; None while all is well."""

    @property
    def healthy(self) -> bool:
        """False once the file is damaged or the disk fails to keep data: writes are refused from then on."""
        return self.failure is None

    @property
    def guard_refused(self) -> int:
        """Writes that changed nothing because a newer version was stored."""
        return 0 if self._writer is None else self._writer.guard_refused

    @property
    def commits(self) -> int:
        """Transactions committed; the writes of each were acknowledged together."""
        return 0 if self._writer is None else self._writer.commits

    async def when_ready(self) -> None:
        """Open the file and start the threads."""
        warning = sqlite_driver.warning()
        if warning is not None:
            self._log(LogLevel.WARN, warning)
        self._writer = _Writer(self)
        try:
            await self._writer.start()
        except StorageError:
            self._writer = None
            raise
        try:
            self._readers = _Readers(self)
            await self._readers.start()
            if self._suspect:
                await self._check_after_crash()
        except StorageError:
            await self.close()
            raise

    async def _check_after_crash(self) -> None:
        """Look for damage (10.5). A check that takes long goes on while the server works already."""
        size = self.path.stat().st_size
        if not self.settings.check_on_crash or size >= AUTOMATIC_CHECK_BYTES:
            message = f"{self.path} was not closed cleanly; it is used without a check ({size >> 20} MiB)"
            self._log(LogLevel.WARN, message)
            self._suspect = False
            return
        self._check = _Check(self)
        self._check.start()
        await asyncio.wait([self._check.result], timeout=CHECK_PATIENCE)
        if not self._check.result.done():
            self._log(LogLevel.INFO, f"{self.path} was not closed cleanly; it is being checked")
            self._check.result.add_done_callback(self._late_check_result)
            return
        problem = self._check.result.result()
        if problem is not None:
            raise StorageError(self._damage_message(problem))
        self._suspect = False
        self._log(LogLevel.INFO, f"{self.path} was not closed cleanly; checked, it is intact")

    def _late_check_result(self, result: asyncio.Future[str | None]) -> None:
        if result.cancelled():
            return
        error = result.exception()
        if error is not None:
            self._log(LogLevel.ERROR, f"{self.path} could not be checked: {error}")
            return
        problem = result.result()
        if problem is None:
            self._suspect = False
            self._log(LogLevel.INFO, f"{self.path} is checked, it is intact")
        else:
            self._fail(self._damage_message(problem))

    async def close(self) -> None:
        """Finish what was given to write, mark the file as cleanly closed and give it free."""
        check, self._check = self._check, None
        if check is not None:
            await check.stop()
        readers, self._readers = self._readers, None
        if readers is not None:
            await readers.stop()
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.stop()

    async def write_batch(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        """Commit the operations, together with whatever else waits; see the base class.

        Raises TransientStorageError for trouble of the machine (disk full, I/O error, file locked), after
        which nothing of the batch is stored, and PermanentStorageError once the storage has stopped writing.
        """
        if self.failure is not None:
            raise PermanentStorageError(self.failure)
        if self._writer is None:
            raise StorageClosed("the storage is closed")
        return await self._writer.write(ops)

    async def get_text(self, name: str) -> tuple[int, bytes | None]:
        """Version and JSON text as last committed. Raises StorageError."""
        if self._readers is None:
            raise StorageClosed("the storage is closed")
        return await self._readers.get(name)

    def _log(self, level: LogLevel, message: str) -> None:
        logger = self.logger
        write = {LogLevel.INFO: logger.info, LogLevel.WARN: logger.warn, LogLevel.ERROR: logger.error}
        write.get(level, logger.fatal)("STORAGE_SQLITE", message)

    def _fail(self, message: str) -> None:
        """Stop writing for good, once (on the loop thread)."""
        if self.failure is None:
            self.failure = message
            self._log(LogLevel.FATAL, message)

    def _damage_message(self, problem: str) -> str:
        return (
            f"{self.path} is damaged ({problem}); nothing more is written to it. Save what can be read with: "
            f"dsfast sqlite recover --path {self.path} NEW_FILE"
        )


class _Thread:
    """A thread that reports to the event loop that started it."""

    def __init__(self, storage: SqliteStorage) -> None:
        self.storage = storage
        self.loop = asyncio.get_running_loop()

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Call on the loop thread; dropped when the loop is gone."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if not self.loop.is_closed():
                raise


def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # its waiter was cancelled
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class _Writer(_Thread):
    """The one thread that writes and checkpoints (10.3)."""

    def __init__(self, storage: SqliteStorage) -> None:
        super().__init__(storage)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="dsfast-sqlite-writer", daemon=True)
        self._ready: asyncio.Future[None] = self.loop.create_future()
        self._file: RecordFile | None = None
        self._held: _Job | None = None  # did not fit in the last batch
        self._broken: str | None = None
        self.guard_refused = 0
        self.commits = 0
        self._wal_bytes = 0
        self._checkpoint_at = CHECKPOINT_BYTES
        self._next_checkpoint = 0.0
        self._no_truncate_before = 0.0
        self._unsynced_since: float | None = None

    # ---- the loop's side

    async def start(self) -> None:
        self._thread.start()
        await self._ready

    async def stop(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def write(self, ops: Sequence[WriteOp]) -> asyncio.Future[list[Exception | None]]:
        done: asyncio.Future[list[Exception | None]] = self.loop.create_future()
        self._jobs.put(_Job(ops, done))
        return done

    @staticmethod
    def _deliver(outcomes: list[tuple[_Job, Outcome]]) -> None:
        for job, outcome in outcomes:
            _resolve(job.done, outcome)

    # ---- the thread's side

    def _run(self) -> None:
        try:
            self._open()
        except BaseException as error:
            self._close_connection()
            self.storage._lock.release()
            self.post(_resolve, self._ready, self._start_error(error))
            return
        self.post(_resolve, self._ready, None)
        running = True
        while running:
            jobs, running = self._gather()
            if jobs:
                outcomes = self._commit(jobs)
                self.post(self._deliver, outcomes)
            self._housekeeping()
        self._finish()

    def _start_error(self, error: BaseException) -> BaseException:
        """What to tell whoever waits for the start."""
        if not isinstance(error, SqliteError):
            return error
        if is_file_damage(error):
            return StorageError(self.storage._damage_message(str(error)))
        return StorageError(f"cannot use {self.storage.path}: {error}")

    def _open(self) -> None:
        storage = self.storage
        prepare_file(storage.path, allow_network=storage.settings.allow_network_file_system)
        storage._lock.acquire()
        self._connect()
        file = self._file
        assert file is not None
        storage._suspect = file.get_meta("last_clean_shutdown_ms") is None
        with transaction(file):
            file.set_meta("last_clean_shutdown_ms", None)
            file.set_meta("incarnation", str(int(file.get_meta("incarnation") or 0) + 1))
            file.set_meta("server_version", _server_version())
        self._next_checkpoint = time.monotonic() + CHECKPOINT_INTERVAL

    def _connect(self) -> None:
        storage = self.storage
        try:
            connection = connect_writer(storage.path, SYNCHRONOUS[storage.settings.durability])
        except StorageError as error:
            if is_file_damage(error):
                raise StorageError(storage._damage_message(str(error))) from error
            raise
        self._file = RecordFile(connection, storage._encode)
        self._note_log(self._file)

    def _note_log(self, file: RecordFile) -> None:
        """After each commit: how much there is to checkpoint."""
        size = file.connection.log_bytes()
        if size < self._wal_bytes:  # SQLite has started the log anew
            self._checkpoint_at = CHECKPOINT_BYTES
        self._wal_bytes = size

    def _gather(self) -> tuple[list[_Job], bool]:
        """What to commit together, and False when the end was asked for. Waits for work until the next
        checkpoint or synchronisation is due."""
        jobs: list[_Job] = []
        entries = size = 0
        job: _Job | None
        while True:
            if self._held is not None:
                job, self._held = self._held, None
            else:
                try:
                    job = self._jobs.get_nowait() if jobs else self._jobs.get(timeout=self._idle_time())
                except queue.Empty:
                    return jobs, True
            if job is None:
                return jobs, False
            length = sum(len(op.text) for op in job.ops if op.text is not None)
            full = entries + len(job.ops) > self.storage.settings.max_batch or size + length > MAX_BATCH_BYTES
            if jobs and full:
                self._held = job
                return jobs, True
            jobs.append(job)
            entries += len(job.ops)
            size += length

    def _idle_time(self) -> float:
        due = self._next_checkpoint
        if self._unsynced_since is not None:
            due = min(due, self._unsynced_since + self.storage.settings.sync_interval / 1000)
        return max(0.0, due - time.monotonic())

    def _commit(self, jobs: list[_Job]) -> list[tuple[_Job, Outcome]]:
        """Write all jobs in one transaction; the same outcome for all if that fails."""
        if self._broken is not None or self.storage.failure is not None:
            reason = PermanentStorageError(self._broken or self.storage.failure or "")
            return [(job, reason) for job in jobs]
        failures = 0
        while True:
            try:
                if self._file is None:
                    self._reopen()
                return self._transaction(jobs)
            except Exception as error:
                source = error.__cause__ if isinstance(error, StorageError) else error
                if source is not None and is_file_damage(source):
                    return self._give_up(jobs, self.storage._damage_message(str(source)))
                if not is_sync_failure(source):
                    failure = write_error(error)
                    return [(job, failure) for job in jobs]
                # The pages that could not be synchronised are lost to the system, and the next fsync would
                # report success: only a new connection that writes everything again can be trusted.
                failures += 1
                self._close_connection()
                if failures >= MAX_SYNC_FAILURES:
                    return self._give_up(
                        jobs,
                        f"{self.storage.path}: the disk fails to keep data ({error}); "
                        "nothing more is written",
                    )
                self.post(
                    self.storage._log, LogLevel.ERROR, f"fsync failed ({error}); the file is opened again"
                )

    def _transaction(self, jobs: list[_Job]) -> list[tuple[_Job, Outcome]]:
        file = self._file
        assert file is not None
        with transaction(file):
            outcomes: list[tuple[_Job, Outcome]] = [(job, file.apply(job.ops)) for job in jobs]
        self._note_log(file)
        self.guard_refused += file.guard_refused
        file.guard_refused = 0
        self.commits += 1
        if self._unsynced_since is None and self.storage.settings.durability in ("normal", "async"):
            self._unsynced_since = time.monotonic()
        return outcomes

    def _give_up(self, jobs: list[_Job], message: str) -> list[tuple[_Job, Outcome]]:
        self._broken = message
        self.post(self.storage._fail, message)
        return [(job, PermanentStorageError(message)) for job in jobs]

    def _reopen(self) -> None:
        try:
            self._connect()
            file = self._file
            assert file is not None
            # What is in the log may exist in the system's cache only: copy it to the database and start anew.
            if not file.connection.checkpoint(truncate=True):
                raise TransientStorageError("the write-ahead log cannot be emptied while it is being read")
        except Exception as error:
            self._close_connection()
            if type(error) is StorageError:  # the file cannot be opened at the moment
                raise TransientStorageError(str(error)) from error.__cause__
            raise

    def _close_connection(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.connection.close()
            except SqliteError as error:
                self.post(self.storage._log, LogLevel.ERROR, f"closing the database failed: {error}")

    def _housekeeping(self) -> None:
        """Synchronise and checkpoint when due. Failures show up, and are handled, at the next commit."""
        file = self._file
        if file is None or self._broken is not None:
            self._unsynced_since = None
            self._next_checkpoint = time.monotonic() + CHECKPOINT_INTERVAL
            return
        now = time.monotonic()
        try:
            settings = self.storage.settings
            since = self._unsynced_since
            if since is not None and now - since >= settings.sync_interval / 1000:
                self._unsynced_since = time.monotonic()  # when to try again, should it fail
                self._synchronise(file)
                self._unsynced_since = None
            if self._wal_bytes >= TRUNCATE_BYTES and now >= self._no_truncate_before:
                # Somebody has been reading one state for long; try seldom, each try waits for him.
                self._no_truncate_before = now + CHECKPOINT_INTERVAL
                self._checkpoint(file, truncate=True)
            elif self._wal_bytes >= self._checkpoint_at:
                self._checkpoint(file, truncate=False)
            elif now >= self._next_checkpoint:
                if self._wal_bytes:
                    self._checkpoint(file, truncate=False)
                self._next_checkpoint = time.monotonic() + CHECKPOINT_INTERVAL
        except Exception as error:
            self._next_checkpoint = time.monotonic() + CHECKPOINT_INTERVAL
            self._checkpoint_at = self._wal_bytes + CHECKPOINT_BYTES
            if is_file_damage(error):
                self._give_up([], self.storage._damage_message(str(error)))
                return
            self.post(self.storage._log, LogLevel.ERROR, f"synchronising or checkpointing failed: {error}")
            if is_sync_failure(error):
                self._close_connection()  # the next commit opens it again

    def _synchronise(self, file: RecordFile) -> None:
        """A commit with FULL synchronisation makes all earlier ones durable, too."""
        file.connection.execute("PRAGMA synchronous=FULL")
        try:
            with transaction(file):
                file.set_meta("last_sync_ms", str(now_ms()))
        finally:
            file.connection.execute("PRAGMA synchronous=NORMAL")
        self._note_log(file)

    def _checkpoint(self, file: RecordFile, truncate: bool) -> None:
        set_busy_timeout(file.connection, 200)
        try:
            complete = file.connection.checkpoint(truncate)
        finally:
            set_busy_timeout(file.connection, 5000)
        if truncate and complete:
            self._wal_bytes = 0
            self._checkpoint_at = CHECKPOINT_BYTES
        else:
            # A complete log is reused from its start by the next commit; one in use by readers grows on.
            self._checkpoint_at = self._wal_bytes + CHECKPOINT_BYTES

    def _finish(self) -> None:
        file = self._file
        try:
            if file is not None and self._broken is None:
                file.connection.execute("PRAGMA synchronous=FULL")
                if not self.storage._suspect and self.storage.failure is None:
                    with transaction(file):
                        file.set_meta("last_clean_shutdown_ms", str(now_ms()))
                file.connection.checkpoint(truncate=True)
        except SqliteError as error:
            self.post(self.storage._log, LogLevel.ERROR, f"the file could not be closed cleanly: {error}")
        self._close_connection()
        self.storage._lock.release()


def _server_version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow, needed once

    try:
        return version("dsfast")
    except PackageNotFoundError:
        return "unknown"


class _Readers(_Thread):
    """A few threads with read-only connections; whoever is free takes all reads that wait."""

    def __init__(self, storage: SqliteStorage) -> None:
        super().__init__(storage)
        self._waiting: deque[tuple[str, asyncio.Future[tuple[int, bytes | None]]]] = deque()
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._idle = READERS
        self._scheduled = False
        self._threads: list[threading.Thread] = []

    # ---- the loop's side

    async def start(self) -> None:
        for number in range(self._idle):
            # Opened here, off the loop, so that a failure ends the start and not a thread.
            connection = await asyncio.to_thread(connect_reader, self.storage.path)
            name = f"dsfast-sqlite-reader-{number}"
            thread = threading.Thread(target=self._run, args=(connection,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    async def stop(self) -> None:
        for _ in self._threads:
            self._calls.put(False)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        while self._waiting:
            _resolve(self._waiting.popleft()[1], StorageClosed("the storage is closed"))

    def get(self, name: str) -> asyncio.Future[tuple[int, bytes | None]]:
        future: asyncio.Future[tuple[int, bytes | None]] = self.loop.create_future()
        self._waiting.append((name, future))
        if not self._scheduled and self._idle:
            # At the end of the loop turn, so that its other reads go along.
            self._scheduled = True
            self.loop.call_soon(self._wake)
        return future

    def _wake(self) -> None:
        self._scheduled = False
        for _ in range(min(self._idle, -(-len(self._waiting) // READS_PER_TURN))):
            self._idle -= 1
            self._calls.put(True)

    def _deliver(self, results: list[tuple[asyncio.Future[Any], Any]], finished: bool) -> None:
        for future, outcome in results:
            _resolve(future, outcome)
        if finished:
            self._idle += 1
            if self._waiting:  # came after the thread had looked
                self._wake()

    # ---- the threads' side

    def _run(self, connection: Connection) -> None:
        while self._calls.get():
            while True:
                taken = self._take()
                results = self._read(connection, taken)
                # A partly filled turn means that nothing was waiting any more.
                finished = len(taken) < READS_PER_TURN
                self.post(self._deliver, results, finished)
                if finished:
                    break
        connection.close()

    def _take(self) -> list[tuple[str, asyncio.Future[Any]]]:
        taken: list[tuple[str, asyncio.Future[Any]]] = []
        try:
            while len(taken) < READS_PER_TURN:
                taken.append(self._waiting.popleft())
        except IndexError:
            pass
        return taken

    def _read(
        self, connection: Connection, wanted: list[tuple[str, asyncio.Future[Any]]]
    ) -> list[tuple[asyncio.Future[Any], Any]]:
        try:
            found = read_records(connection, [name for name, _ in wanted])
        except Exception as error:
            if is_file_damage(error):
                message = self.storage._damage_message(str(error))
                self.post(self.storage._fail, message)
                return [(future, PermanentStorageError(message)) for _, future in wanted]
            failure = TransientStorageError(f"SQLite: {error}")
            return [(future, failure) for _, future in wanted]
        return [(future, found[name]) for name, future in wanted]


class _Check(_Thread):
    """The check of the file after an unclean end, with a connection of its own."""

    def __init__(self, storage: SqliteStorage) -> None:
        super().__init__(storage)
        self.result: asyncio.Future[str | None] = self.loop.create_future()
        """The first problem, or None."""
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="dsfast-sqlite-check", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stopped = True
        self.result.cancel()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        outcome: str | StorageError | None
        try:
            connection = connect_reader(self.storage.path)
            connection.interrupt_when(lambda: self._stopped, CHECK_STEPS)
            with contextlib.closing(connection):
                rows = connection.execute("PRAGMA quick_check(1)")
            outcome = None if not rows or rows[0][0] == "ok" else str(rows[0][0])
        except Exception as error:
            if isinstance(error, SqliteError) and error.result == sqlite_driver.INTERRUPT:
                return
            outcome = str(error) if is_file_damage(error) else write_error(error)
        self.post(_resolve, self.result, outcome)
