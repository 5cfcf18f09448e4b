"""SQLite itself, by one of two drivers (storages.md 10.2).

``apsw`` brings a recent library of its own. Where it cannot be imported, the standard module ``sqlite3``
takes its place, with the library that the interpreter was built for. All of a process use one driver: two
libraries that open the same file would take each other's locks away.
"""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

try:
    import apsw

    WHY_NOT_APSW = ""
except ImportError as problem:  # pragma: no cover - it is a dependency
    apsw = None  # type: ignore[assignment,unused-ignore]
    WHY_NOT_APSW = str(problem)

__all__ = ["ApswConnection", "Connection", "SqliteError", "StandardConnection", "connect", "driver"]

MINIMUM_VERSION = (3, 37, 0)
"""The first with strict tables."""

AFFECTED_BY_WAL_RESET = ((3, 7, 0), (3, 51, 2))
FIXED_WITHIN = ((3, 44, 6), (3, 50, 7))

MEASURE_BYTES = 1 << 20
"""After so much has been written, about, the standard driver looks how long the write-ahead log is."""
ROW_BYTES = 2 * 8192
"""What a written row adds to the log beside its value, at most: a page of the table and one of the index."""

# Result codes (https://sqlite.org/rescode.html); the extended ones have more than eight bits.
PERM, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT = 3, 5, 6, 7, 8, 9, 10, 11
FULL, CANTOPEN, PROTOCOL, NOTADB = 13, 14, 15, 26
IOERR_FSYNC, IOERR_DIR_FSYNC = 1034, 1290


class SqliteError(Exception):
    """An error of SQLite, by whichever driver; ``code`` is its extended result code, 0 if unknown."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    @property
    def result(self) -> int:
        """The primary result code: what kind of error it is."""
        return self.code & 0xFF


class Connection(ABC):
    """A connection to one database file; used by one thread at a time.

    Every method raises SqliteError. Texts that are not UTF-8 and integers beyond 64 bits are refused with
    UnicodeEncodeError and OverflowError.
    """

    library: ClassVar[str]
    """Which SQLite this is, for people."""
    version: ClassVar[tuple[int, ...]]

    @abstractmethod
    def __init__(self, path: Path, *, readonly: bool = False, vfs: str | None = None) -> None:
        """Open the file, which is made if it is missing and `readonly` is false."""

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement to its end; all rows of its result, as tuples."""

    @property
    @abstractmethod
    def changes(self) -> int:
        """Rows that the latest INSERT, UPDATE or DELETE changed."""

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    @abstractmethod
    def log_bytes(self) -> int:
        """Length of the write-ahead log after the latest commit of this connection, in bytes, about."""

    @abstractmethod
    def interrupt_when(self, asked: Callable[[], bool], steps: int) -> None:
        """End a running statement with the code INTERRUPT once `asked`, called every `steps`, says so."""

    @abstractmethod
    def copy_to(self, target: Path, pages: int, progress: Callable[[int, int], object] | None) -> None:
        """Copy the database, with SQLite's online backup in steps; ``progress(done, total)`` counts pages."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def checkpoint(self, truncate: bool) -> bool:
        """Copy the write-ahead log into the database: all that readers permit, or (``truncate``) everything,
        emptying the log. False if readers prevented it from being complete."""
        mode = "TRUNCATE" if truncate else "PASSIVE"
        [(blocked, in_log, copied)] = self.execute(f"PRAGMA wal_checkpoint({mode})")
        return not blocked and bool(in_log == copied)


class ApswConnection(Connection):
    """By ``apsw``."""

    if apsw is not None:
        library = f"SQLite {apsw.sqlite_lib_version()}"
        version = tuple(int(part) for part in apsw.sqlite_lib_version().split(".")[:3])

    def __init__(self, path: Path, *, readonly: bool = False, vfs: str | None = None) -> None:
        flags = (
            apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )
        try:
            self._connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
        except apsw.Error as error:
            raise _from_apsw(error) from error
        self._log_bytes = 0
        self._watching = False

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except apsw.Error as error:
            raise _from_apsw(error) from error

    @property
    def changes(self) -> int:
        return self._connection.changes()

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def log_bytes(self) -> int:
        if not self._watching:
            self._watching = True  # from the next commit on; earlier, a pragma would have removed the hook
            self._connection.set_wal_hook(self._note_log)
        return self._log_bytes

    def _note_log(self, _connection: Any, _schema: str, pages: int) -> int:
        self._log_bytes = pages * 8192
        return apsw.SQLITE_OK

    def interrupt_when(self, asked: Callable[[], bool], steps: int) -> None:
        self._connection.set_progress_handler(asked, steps)

    def copy_to(self, target: Path, pages: int, progress: Callable[[int, int], object] | None) -> None:
        try:
            with (
                closing(apsw.Connection(str(target))) as other,
                other.backup("main", self._connection, "main") as copy,
            ):
                while not copy.done:
                    copy.step(pages)
                    if progress is not None:
                        progress(copy.page_count - copy.remaining, copy.page_count)
        except apsw.Error as error:
            raise _from_apsw(error) from error

    def close(self) -> None:
        try:
            self._connection.close()
        except apsw.Error as error:
            raise _from_apsw(error) from error


def _from_apsw(error: Any) -> SqliteError:
    return SqliteError(str(error), getattr(error, "extendedresult", 0))


class StandardConnection(Connection):
    """By the standard module ``sqlite3``."""

    library = f"SQLite {sqlite3.sqlite_version} of this Python"
    version = sqlite3.sqlite_version_info

    def __init__(self, path: Path, *, readonly: bool = False, vfs: str | None = None) -> None:
        uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}{f'&vfs={vfs}' if vfs else ''}"
        try:
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise _from_standard(error) from error
        self._log = path.with_name(path.name + "-wal")
        self._log_bytes = 0
        self._unmeasured = MEASURE_BYTES  # a crash may have left a log
        self._changes = 0

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            cursor = self._connection.execute(statement, values)
            rows = cursor.fetchall()
        except sqlite3.Error as error:
            raise _from_standard(error) from error
        except MemoryError as error:  # this is how the module reports NOMEM
            raise SqliteError("out of memory", NOMEM) from error
        if cursor.rowcount > 0:
            self._changes = cursor.rowcount
            self._unmeasured += cursor.rowcount * ROW_BYTES
            self._unmeasured += sum(len(value) for value in values if isinstance(value, bytes))
        elif cursor.rowcount == 0:
            self._changes = 0
        return rows

    @property
    def changes(self) -> int:
        return self._changes

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def log_bytes(self) -> int:
        # The module does not tell, and looking costs some system calls; so not after each small commit.
        if self._unmeasured >= MEASURE_BYTES:
            self._unmeasured = 0
            self._log_bytes = used_log_bytes(self._log)
        return self._log_bytes

    def checkpoint(self, truncate: bool) -> bool:
        self._unmeasured = MEASURE_BYTES
        return super().checkpoint(truncate)

    def interrupt_when(self, asked: Callable[[], bool], steps: int) -> None:
        self._connection.set_progress_handler(asked, steps)

    def copy_to(self, target: Path, pages: int, progress: Callable[[int, int], object] | None) -> None:
        def report(_status: int, remaining: int, total: int) -> None:
            if progress is not None:
                progress(total - remaining, total)

        try:
            with closing(sqlite3.connect(target)) as other:
                self._connection.backup(other, pages=pages, progress=report)
        except sqlite3.Error as error:
            raise _from_standard(error) from error

    def close(self) -> None:
        try:
            self._connection.close()
        except sqlite3.Error as error:
            raise _from_standard(error) from error


def _from_standard(error: sqlite3.Error) -> SqliteError:
    return SqliteError(str(error), getattr(error, "sqlite_errorcode", 0))


def used_log_bytes(path: Path) -> int:
    """Bytes of a write-ahead log up to its last frame; 0 if there is none.

    The file itself may be longer: after a checkpoint it is written anew from its start, and what is left of
    earlier rounds has another salt in its frame headers (https://sqlite.org/fileformat2.html section 4.1).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        header = os.pread(descriptor, 32, 0)
        if len(header) < 32:
            return 0
        frame = int.from_bytes(header[8:12], "big") + 24
        low, high = 0, (os.fstat(descriptor).st_size - 32) // frame
        while low < high:
            middle = (low + high) // 2
            if os.pread(descriptor, 8, 32 + middle * frame + 8) == header[16:24]:
                low = middle + 1
            else:
                high = middle
        return low * frame
    finally:
        os.close(descriptor)


driver: type[Connection] = StandardConnection if apsw is None else ApswConnection
"""The driver of this process."""


def connect(path: Path, *, readonly: bool = False, vfs: str | None = None) -> Connection:
    """Open a database file with the driver of this process. Raises SqliteError."""
    if driver.version < MINIMUM_VERSION:
        raise SqliteError(f"{driver.library} is too old, 3.37 is needed{_remedy()}", 0)
    return driver(path, readonly=readonly, vfs=vfs)


def warning() -> str | None:
    """What an operator has to know about the library; None if there is nothing to say."""
    version = driver.version
    first, last = AFFECTED_BY_WAL_RESET
    fixed = any(version[:2] == line[:2] and version >= line for line in FIXED_WITHIN)
    if first <= version <= last and not fixed:
        return f"{driver.library} can damage files in rare cases; use 3.51.3 or newer{_remedy()}"
    return None


def _remedy() -> str:
    if driver is ApswConnection:
        return ""
    return f": install the package apsw ({WHY_NOT_APSW})" if WHY_NOT_APSW else ": install the package apsw"
