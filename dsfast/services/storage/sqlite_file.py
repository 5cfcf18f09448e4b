"""The SQLite file itself: layout, lock, connections and statements (storages.md 10.1, 10.2, 10.5).

Everything here is synchronous and belongs to one thread; :mod:`dsfast.services.storage.sqlite` adds the
threads, the command line uses it directly.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dsfast.services.storage import sqlite_driver
from dsfast.services.storage.batch import PermanentStorageError, StorageError, TransientStorageError, WriteOp
from dsfast.services.storage.sqlite_driver import Connection, SqliteError

__all__ = [
    "APPLICATION_ID",
    "SCHEMA_VERSION",
    "DatabaseDamaged",
    "LockFile",
    "RecordFile",
    "connect_reader",
    "connect_writer",
    "decode_value",
    "file_system_type",
    "is_file_damage",
    "is_sync_failure",
    "iterate_records",
    "prepare_file",
    "read_records",
    "set_busy_timeout",
    "write_error",
]

APPLICATION_ID = 0x64736673  # "dsfs"
SCHEMA_VERSION = 1
PAGE_SIZE = 8192

ENC_JSON, ENC_ZLIB, ENC_LZ4 = 0, 1, 2

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs",
        "fuse.nfs", "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip

# One statement writes this many records. Each statement gives up Python's global lock once, and getting it
# back from a busy event loop can take milliseconds; the sizes keep the number of prepared statements small.
ROWS_PER_STATEMENT = (64, 16, 4, 1)

_SCHEMA = (
    """CREATE TABLE records(
    name TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    val BLOB NOT NULL,
    enc INTEGER NOT NULL DEFAULT 0,
    updated_ms INTEGER NOT NULL
) STRICT""",
    "CREATE TABLE ds_meta(key TEXT PRIMARY KEY, value TEXT) STRICT",
    """CREATE VIEW records_json(name, version, data) AS
    SELECT name, version, CASE enc WHEN 0 THEN CAST(val AS TEXT) END FROM records""",
)


class DatabaseDamaged(StorageError):
    """The file's content is inconsistent; nothing more may be written to it."""


# ---- errors


_DAMAGE = frozenset({sqlite_driver.CORRUPT, sqlite_driver.NOTADB})
_ENVIRONMENT = frozenset(
    {
        sqlite_driver.BUSY,
        sqlite_driver.LOCKED,
        sqlite_driver.FULL,
        sqlite_driver.IOERR,
        sqlite_driver.CANTOPEN,
        sqlite_driver.READONLY,
        sqlite_driver.PERM,
        sqlite_driver.NOMEM,
        sqlite_driver.PROTOCOL,
    }
)
_SYNC_FAILURES = frozenset({sqlite_driver.IOERR_FSYNC, sqlite_driver.IOERR_DIR_FSYNC})


def is_file_damage(error: BaseException) -> bool:
    """True if SQLite found the file damaged, or not to be a database at all."""
    return isinstance(error, DatabaseDamaged) or (isinstance(error, SqliteError) and error.result in _DAMAGE)


def is_sync_failure(error: BaseException | None) -> bool:
    """True if the operating system failed to bring written data to the disk."""
    return isinstance(error, SqliteError) and error.code in _SYNC_FAILURES


def _is_environment(error: BaseException) -> bool:
    return isinstance(error, SqliteError) and error.result in _ENVIRONMENT


def write_error(error: Exception) -> StorageError:
    """The storage error for a failure while writing: the machine's trouble is transient, the rest
    permanent."""
    if isinstance(error, StorageError):
        return error
    if _is_environment(error):
        return TransientStorageError(f"SQLite: {error}")
    if isinstance(error, UnicodeEncodeError):
        return PermanentStorageError("the name has a lone surrogate, which UTF-8 cannot express")
    if isinstance(error, OverflowError):
        return PermanentStorageError("the version does not fit in 64 bits")
    return PermanentStorageError(f"SQLite: {error}" if isinstance(error, SqliteError) else repr(error))


# ---- the place


def file_system_type(path: Path, mountinfo: str | None = None) -> str:
    """Type of the file system that holds an existing path (``ext4``, ``nfs4``, ...); "" if it is unknown.

    ``mountinfo`` replaces the system's table, whose format is that of ``/proc/self/mountinfo``.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return ""
    place = os.path.realpath(path)
    best, found = -1, ""
    for line in mountinfo.splitlines():
        mount, separator, rest = line.partition(" - ")
        fields = mount.split(" ")
        if not separator or len(fields) < 5:
            continue
        # The table escapes blanks and backslashes as octal numbers.
        point = fields[4].encode("ascii", "backslashreplace").decode("unicode_escape")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # the later of two mounts on one point is the visible one
            best, found = len(point), rest.split(" ", 1)[0]
    return found


def prepare_file(path: Path, *, allow_network: bool = False) -> bool:
    """Make the directory (mode 0700) and an empty file (mode 0600) where they are missing.

    Returns True if the file is new. Raises StorageError if the place cannot be used or is on a network file
    system, whose locks and shared memory SQLite cannot rely on.
    """
    try:
        directory_is_new = not path.parent.exists()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kind = file_system_type(path.parent)
        if kind in NETWORK_FILE_SYSTEMS and not allow_network:
            raise StorageError(
                f"{path.parent} is on a network file system ({kind}), where SQLite files get damaged; "
                "choose a local directory (storage option path) or set the storage option "
                "allowNetworkFileSystem"
            )
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return path.stat().st_size == 0
        _sync_directory(path.parent)
        if directory_is_new:
            _sync_directory(path.parent.parent)
    except OSError as error:
        raise StorageError(f"cannot use {path}: {error.strerror or error}") from error
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LockFile:
    """``<path>.lock``: held by the one process that writes to the file, with its pid and boot id as content.

    The lock is an flock, so it ends with the process. The file itself stays: removing it would let two
    processes lock two different files of that name.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + ".lock")
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock. Raises StorageError, with the holder's pid, if another process has it."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot use {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 100).decode("ascii", "replace").split("\n")[0].strip()
            os.close(descriptor)
            who = f"process {holder}" if holder else "another process"
            raise StorageError(f"{self.path.with_suffix('')} is in use by {who} (lock {self.path})") from None
        except OSError as error:
            os.close(descriptor)
            raise StorageError(f"cannot lock {self.path}: {error.strerror}") from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n{_boot_id()}\n".encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise StorageError(f"cannot write {self.path}: {error.strerror}") from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> LockFile:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


# ---- connections


def _pragma(connection: Connection, text: str) -> Any:
    rows = connection.execute(f"PRAGMA {text}")
    return rows[0][0] if rows else None


def set_busy_timeout(connection: Connection, milliseconds: int) -> None:
    """How long to wait for somebody else's lock."""
    _pragma(connection, f"busy_timeout={milliseconds}")


def connect_writer(path: Path, synchronous: str, vfs: str | None = None) -> Connection:
    """Open the one writing connection (10.2). ``synchronous`` is ``FULL``, ``NORMAL`` or ``OFF``.

    Raises DatabaseDamaged if the file is not a database, StorageError if it is somebody else's or of a newer
    server.
    """
    try:
        connection = sqlite_driver.connect(path, vfs=vfs)
    except SqliteError as error:
        raise StorageError(f"cannot open {path}: {error}") from error
    try:
        set_busy_timeout(connection, 5000)
        _pragma(connection, f"page_size={PAGE_SIZE}")  # these two work only in a file that is still empty
        _pragma(connection, "auto_vacuum=INCREMENTAL")
        _check_ownership(connection, path)
        if vfs is not None:
            # A virtual file system written in Python has no shared memory; the tests have no readers.
            _pragma(connection, "locking_mode=EXCLUSIVE")
        mode = _pragma(connection, "journal_mode=WAL")
        if mode != "wal":
            raise StorageError(
                f"{path}: this file system cannot do write-ahead logging (journal mode {mode})"
            )
        _pragma(connection, f"synchronous={synchronous}")
        _pragma(connection, "wal_autocheckpoint=0")
        _pragma(connection, "cache_size=-65536")
        _pragma(connection, "temp_store=MEMORY")
        _pragma(connection, "mmap_size=0")
        _pragma(connection, f"journal_size_limit={64 << 20}")
        _ensure_schema(connection)
    except Exception as error:
        connection.close()
        if is_file_damage(error):
            raise DatabaseDamaged(f"{path}: {error}") from error
        if isinstance(error, SqliteError):
            raise StorageError(f"cannot open {path}: {error}") from error
        raise
    return connection


def connect_reader(path: Path) -> Connection:
    """Open a read-only connection (10.2) to an existing file of this server.

    Raises StorageError if it is missing or not one, DatabaseDamaged if it is not a database.
    """
    if not path.exists():
        raise StorageError(f"{path} does not exist")
    try:
        connection = sqlite_driver.connect(path, readonly=True)
    except SqliteError as error:
        raise StorageError(f"cannot open {path}: {error}") from error
    try:
        set_busy_timeout(connection, 1000)
        _pragma(connection, "query_only=1")
        _pragma(connection, "wal_autocheckpoint=0")
        _pragma(connection, "mmap_size=0")
        _check_ownership(connection, path)
        if _pragma(connection, "user_version") == 0:
            raise StorageError(f"{path} is empty")
    except Exception as error:
        connection.close()
        if is_file_damage(error):
            raise DatabaseDamaged(f"{path}: {error}") from error
        if isinstance(error, SqliteError):
            raise StorageError(f"cannot open {path}: {error}") from error
        raise
    return connection


def _check_ownership(connection: Connection, path: Path) -> None:
    """Refuse a database of another program or of a newer server. An empty file is fine."""
    owner = _pragma(connection, "application_id")
    in_use = owner != 0 or connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1")
    if owner != APPLICATION_ID and in_use:
        raise StorageError(f"{path} is a database, but not one of dsfast")
    schema = _pragma(connection, "user_version")
    if schema > SCHEMA_VERSION:
        raise StorageError(
            f"{path} was written by a newer dsfast (schema {schema}, this one knows {SCHEMA_VERSION})"
        )


def _ensure_schema(connection: Connection) -> None:
    """Create the tables in an empty file. Later schema versions add their steps here, each in the same
    transaction as the new ``user_version``."""
    if _pragma(connection, "user_version") == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA:
            connection.execute(statement)
        _pragma(connection, f"application_id={APPLICATION_ID}")
        _pragma(connection, f"user_version={SCHEMA_VERSION}")
        connection.execute(
            "INSERT INTO ds_meta VALUES"
            "('created_ms', ?), ('incarnation', '0'), ('last_clean_shutdown_ms', '0')",
            (str(now_ms()),),
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def now_ms() -> int:
    """Wall clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


# ---- values


def _lz4_block() -> Any:
    try:
        import lz4.block  # noqa: PLC0415 - optional
    except ImportError:
        raise StorageError("the storage option compress: lz4 needs the Python package lz4") from None
    return lz4.block


def encoder(compress: str, threshold: int) -> Callable[[bytes], tuple[bytes, int]]:
    """A function from JSON text to (``val``, ``enc``). Texts below ``threshold`` bytes, and those that do not
    get smaller, stay as they are. Raises StorageError if the compression is not available."""
    if compress == "none":
        return lambda text: (text, ENC_JSON)
    if compress == "zlib":
        pack: Callable[[bytes], bytes] = lambda text: zlib.compress(text, 1)  # noqa: E731
        enc = ENC_ZLIB
    else:
        block = _lz4_block()
        pack, enc = block.compress, ENC_LZ4

    def encode(text: bytes) -> tuple[bytes, int]:
        if len(text) < threshold:
            return text, ENC_JSON
        packed = pack(text)
        return (packed, enc) if len(packed) < len(text) else (text, ENC_JSON)

    return encode


def decode_value(val: bytes, enc: int) -> bytes:
    """JSON text of a stored value. Raises PermanentStorageError if it cannot be unpacked."""
    try:
        if enc == ENC_JSON:
            return val
        if enc == ENC_ZLIB:
            return zlib.decompress(val)
        if enc == ENC_LZ4:
            return bytes(_lz4_block().decompress(val))
    except StorageError as error:
        raise PermanentStorageError(str(error)) from error
    except Exception as error:
        raise PermanentStorageError(f"the stored value cannot be unpacked: {error}") from error
    raise PermanentStorageError(f"the stored value has the unknown encoding {enc}")


# ---- statements


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    """(start, length) of the statements for ``count`` records."""
    start = 0
    for length in ROWS_PER_STATEMENT:
        while count - start >= length:
            yield start, length
            start += length


def _upsert(rows: int, guarded: bool) -> str:
    return (
        f"INSERT INTO records(name,version,val,enc,updated_ms) VALUES {','.join(['(?,?,?,?,?)'] * rows)} "
        "ON CONFLICT(name) DO UPDATE SET version=excluded.version,val=excluded.val,"
        "enc=excluded.enc,updated_ms=excluded.updated_ms"
        + (" WHERE records.version<=excluded.version" if guarded else "")
    )


_UPSERT = {
    (rows, guarded): _upsert(rows, guarded) for rows in ROWS_PER_STATEMENT for guarded in (True, False)
}
_DELETE = {rows: f"DELETE FROM records WHERE name IN ({','.join('?' * rows)})" for rows in ROWS_PER_STATEMENT}
_SELECT = {
    rows: f"SELECT name,version,val,enc FROM records WHERE name IN ({','.join('?' * rows)})"
    for rows in ROWS_PER_STATEMENT
}


class RecordFile:
    """The statements of the writing connection; the caller brackets them in a transaction."""

    def __init__(
        self, connection: Connection, encode: Callable[[bytes], tuple[bytes, int]] | None = None
    ) -> None:
        self.connection = connection
        self._encode = encode or encoder("none", 0)
        self.guard_refused = 0
        """Normal sets that changed nothing because a newer version was stored; counted as success."""

    def begin(self) -> None:
        """Start a write transaction."""
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End it; durable on return as far as ``synchronous`` says."""
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo it, if SQLite has not already done so because of the error."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def apply(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        """Write operations inside the open transaction: sets, then forced sets, then deletes.

        The result has an error for each one that SQLite refuses. Raises what concerns the whole transaction,
        which must then be rolled back.
        """
        results: list[Exception | None] = [None] * len(ops)
        guarded: list[int] = []
        forced: list[int] = []
        deletes: list[int] = []
        for index, op in enumerate(ops):
            (deletes if op.text is None else forced if op.forced else guarded).append(index)
        self._each(ops, guarded, self._set_guarded, results)
        self._each(ops, forced, self._set_forced, results)
        self._each(ops, deletes, self._delete, results)
        return results

    def _each(
        self,
        ops: Sequence[WriteOp],
        indexes: list[int],
        write: Callable[[Sequence[WriteOp]], None],
        results: list[Exception | None],
    ) -> None:
        for start, length in _chunks(len(indexes)):
            chunk = indexes[start : start + length]
            try:
                write([ops[index] for index in chunk])
                continue
            except Exception as error:
                if is_file_damage(error) or _is_environment(error):
                    raise
                if length == 1:
                    results[chunk[0]] = write_error(error)
                    continue
            # The failed statement changed nothing: one by one, so that only the bad one fails.
            for index in chunk:
                self._each(ops, [index], write, results)

    def _set_guarded(self, ops: Sequence[WriteOp]) -> None:
        self.connection.execute(_UPSERT[len(ops), True], self._rows(ops))
        self.guard_refused += len(ops) - self.connection.changes

    def _set_forced(self, ops: Sequence[WriteOp]) -> None:
        self.connection.execute(_UPSERT[len(ops), False], self._rows(ops))

    def _delete(self, ops: Sequence[WriteOp]) -> None:
        self.connection.execute(_DELETE[len(ops)], [op.name for op in ops])

    def _rows(self, ops: Sequence[WriteOp]) -> list[Any]:
        now = now_ms()
        values: list[Any] = []
        for op in ops:
            assert op.text is not None
            val, enc = self._encode(op.text)
            values += (op.name, op.version, val, enc, now)
        return values

    def set_meta(self, key: str, value: str | None) -> None:
        """Write a row of ``ds_meta``, or delete it (None)."""
        if value is None:
            self.connection.execute("DELETE FROM ds_meta WHERE key=?", (key,))
        else:
            self.connection.execute("INSERT OR REPLACE INTO ds_meta VALUES(?,?)", (key, value))

    def get_meta(self, key: str) -> str | None:
        """A value of ``ds_meta``; None if it is missing."""
        rows = self.connection.execute("SELECT value FROM ds_meta WHERE key=?", (key,))
        return str(rows[0][0]) if rows else None


def read_records(
    connection: Connection, names: Sequence[str]
) -> dict[str, tuple[int, bytes | None] | Exception]:
    """Read records in as few statements as possible: name -> (version, JSON text), ``(-1, None)`` if it is
    not stored, or the error of that record alone."""
    found: dict[str, tuple[int, bytes | None] | Exception] = dict.fromkeys(names, (-1, None))
    unique = list(found)
    for start, length in _chunks(len(unique)):
        chunk = unique[start : start + length]
        try:
            rows = connection.execute(_SELECT[length], chunk)
        except UnicodeEncodeError as error:
            if length == 1:
                found[chunk[0]] = write_error(error)
            else:
                for name in chunk:
                    found.update(read_records(connection, [name]))
            continue
        for name, version, val, enc in rows:
            try:
                found[name] = (version, decode_value(val, enc))
            except StorageError as error:
                found[name] = error
    return found


def iterate_records(connection: Connection, chunk: int = 500) -> Iterator[tuple[str, int, bytes]]:
    """All records in the order of their names: (name, version, JSON text).

    Each ``chunk`` is a read transaction of its own, so a long export does not hold back the checkpoints of a
    running server. A record that is written meanwhile appears in its old or its new state.
    """
    after: str | None = None
    while True:
        where, values = ("", ()) if after is None else (" WHERE name > ?", (after,))
        rows = connection.execute(
            f"SELECT name,version,val,enc FROM records{where} ORDER BY name LIMIT {chunk}", values
        )
        for name, version, val, enc in rows:
            after = name
            yield name, version, decode_value(val, enc)
        if not rows:
            return


@contextlib.contextmanager
def transaction(file: RecordFile) -> Iterator[None]:
    """BEGIN IMMEDIATE ... COMMIT, with ROLLBACK on any exception."""
    file.begin()
    try:
        yield
        file.commit()
    except BaseException:
        file.rollback()
        raise


@contextlib.contextmanager
def open_exclusively(path: Path) -> Iterator[RecordFile]:
    """The file for a command that writes to it: locked, opened (made if missing), closed cleanly at the end.

    Raises StorageError if a server or another command has it.
    """
    prepare_file(path)
    with LockFile(path):
        file = RecordFile(connect_writer(path, "FULL"))
        try:
            yield file
            file.connection.checkpoint(truncate=True)
        finally:
            file.connection.close()
