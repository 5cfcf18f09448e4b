"""Storage in MySQL or MariaDB (storages.md section 9). Needs ``dsfast[mysql]``.

A record is a row of the table before the first ``/`` of its name: ``id`` (UTF-8 bytes), ``version``, ``val``
(JSON text), and ``name`` for those whose id is a hash.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from dsfast.services.storage import (
    PermanentStorageError,
    StorageClosed,
    StorageError,
    TransientStorageError,
)
from dsfast_plugins.names import split_first
from dsfast_plugins.options import Milliseconds, OptionError, Options, Port, read_options
from dsfast_plugins.pool import Pool
from dsfast_plugins.tables import Row, TableStorage
from dsfast_plugins.tls import tls_context

try:
    import asyncmy
    from asyncmy import errors as mysql_errors
except ModuleNotFoundError as error:
    raise ImportError(f"the mysql storage needs: pip install dsfast[mysql] ({error})") from error

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["MysqlStorage"]

MAX_ID = 700
"""Bytes of the column ``id``: with four bytes per character InnoDB's index ends at 768 characters."""
MAX_TABLE = 64
MAX_FILE = 200
"""Bytes of a table's file, in which most characters take five."""
MAX_DELAY = 1.0

NO_TABLE = 1146
TABLE_EXISTS = 1050
ACCESS_DENIED = (1044, 1045, 1049, 1142, 1227, 1698)
# Too long, out of range, not UTF-8, no JSON, a constraint, a row or packet that is too large.
_PERMANENT = (1118, 1153, 1264, 1300, 1301, 1366, 1406, 3140, 3141, 3819, 4025)

_CREATE = (
    "CREATE TABLE IF NOT EXISTS {table} (id VARBINARY({max_id}) NOT NULL PRIMARY KEY,"
    " version BIGINT NOT NULL, val LONGTEXT NOT NULL, name MEDIUMTEXT NULL)"
    " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
)
_INSERT = "INSERT INTO {table} (id, version, val, name) VALUES {rows} ON DUPLICATE KEY UPDATE "
# MySQL assigns from left to right, so val has to look at version before it changes.
_GUARDED = (
    "val = IF(version <= VALUES(version), VALUES(val), val), version = GREATEST(version, VALUES(version))"
)
_FORCED = "val = VALUES(val), version = VALUES(version)"


class MysqlOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/storage.md."""

    host: str = "localhost"
    port: Port = 3306
    socket_path: str | None = None
    user: str
    password: str = ""
    database: str
    ssl: dict[str, Any] | bool | None = None
    connect_timeout: Milliseconds = 10_000
    connection_limit: Annotated[int, Meta(ge=2)] = 10
    idle_timeout: Milliseconds = 30_000
    default_table: str = "default"
    write_interval: Milliseconds = 10
    command_timeout: Milliseconds = 30_000


class MysqlStorage(TableStorage):
    """See docs/plugins/storage.md for the options."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = read_options(MysqlOptions, options, required=("user", "database"))
        self._tls = tls_context(self._options.ssl, "ssl")
        if _is_table(self._options.default_table, False) is False:
            raise OptionError("option defaultTable: expected the name of a table")
        # At least one connection is left for those who read.
        self.tables_at_a_time = self._options.connection_limit // 2
        self.flush_interval = float(self._options.write_interval)
        self.description = f"mysql storage, database {self._options.database}"
        self._timeout = self._options.command_timeout / 1000
        self._pool: Pool[Any] | None = None
        self._known: set[str] = set()
        self._max_packet = 1 << 20
        self._folds_case = False

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"mysql storage: {warning}")

    async def when_ready(self) -> None:
        """Connect; waits for a server that is away and says so in the log."""
        options = self._options
        self._pool = Pool(self._connect, _close, options.connection_limit, options.idle_timeout / 1000)
        delay, waiting = 0.05, False
        while True:
            try:
                await self._ask_limits()
                break
            except TransientStorageError as error:
                if not waiting:
                    waiting = True
                    self.logger.warn("STORAGE_ERROR", f"{error}; trying again")
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
        if waiting:
            self.logger.info("INFO", "mysql is there")

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def _connect(self) -> Any:
        options = self._options
        place: dict[str, Any] = {"host": options.host, "port": options.port}
        if options.socket_path is not None:
            place = {"unix_socket": options.socket_path}
        async with asyncio.timeout(options.connect_timeout / 1000):
            return await asyncmy.connect(
                **place,
                user=options.user,
                password=options.password,
                database=options.database,
                charset="utf8mb4",
                ssl=self._tls,
                autocommit=True,
                binary_prefix=True,
                # Nothing may be cut off silently, and a backslash has to be one.
                init_command="SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
            )

    async def _ask_limits(self) -> None:
        with _translated():
            async with self._running.connection(self._timeout) as connection, connection.cursor() as cursor:
                await cursor.execute("SELECT @@max_allowed_packet, @@lower_case_table_names")
                packet, folding = await cursor.fetchone()
        self._max_packet = int(packet)
        self._folds_case = bool(folding)

    @property
    def _running(self) -> Pool[Any]:
        if self._pool is None:
            raise StorageClosed("the mysql storage is closed")
        return self._pool

    # ---- the contract

    def place(self, name: str) -> tuple[str, str]:
        """Table and id. What is no name of a table goes to the default table as a whole.

        So does a name that begins with the default table's: it must not be taken for what stands after that.
        """
        default = self._options.default_table
        table, key = split_first(name, default)
        is_own = table != default and _is_table(table, self._folds_case)
        return (table, key) if is_own else (default, name)

    async def read(self, table: str, key: str) -> tuple[int, bytes | None]:
        """See :meth:`TableStorage.read`."""
        query = f"SELECT version, val FROM {_marked(table)} WHERE id = %s"
        with _translated():
            async with self._running.connection(self._timeout) as connection, connection.cursor() as cursor:
                try:
                    await cursor.execute(query, (_row_id(key)[0],))
                    row = await cursor.fetchone()
                except mysql_errors.ProgrammingError as error:
                    if error.args[0] != NO_TABLE:
                        raise
                    row = None
        return (-1, None) if row is None else (row[0], row[1].encode())

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """See :meth:`TableStorage.write_rows`."""
        with _translated():
            async with self._running.connection(self._timeout) as connection:
                if table not in self._known and any(row.op.text is not None for row in rows):
                    await self._create(connection, table)
                try:
                    await self._write_all(connection, table, rows)
                except mysql_errors.ProgrammingError as error:
                    if error.args[0] != NO_TABLE:
                        raise
                    await connection.rollback()
                    if table not in self._known:
                        return  # there is nothing to delete
                    self._known.discard(table)
                    raise TransientStorageError(f"mysql: somebody has dropped the table {table}") from error

    async def _create(self, connection: Any, table: str) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(_CREATE.format(table=_quoted(table), max_id=MAX_ID))
        self._known.add(table)

    async def _write_all(self, connection: Any, table: str, rows: Sequence[Row]) -> None:
        # In one order for all servers, so that two of them do not wait for each other.
        rows = sorted(rows, key=_by_key)
        await connection.begin()
        async with connection.cursor() as cursor:
            for forced, update in ((False, _GUARDED), (True, _FORCED)):
                chosen = [row for row in rows if row.op.text is not None and row.op.forced is forced]
                for part in self._portions(chosen):
                    values = [value for row in part for value in _values(row)]
                    insert = _INSERT.format(
                        table=_marked(table), rows=", ".join(["(%s, %s, %s, %s)"] * len(part))
                    )
                    await cursor.execute(insert + update, values)
            deleted = [_row_id(row.key)[0] for row in rows if row.op.text is None]
            if deleted:
                marks = ", ".join(["%s"] * len(deleted))
                await cursor.execute(f"DELETE FROM {_marked(table)} WHERE id IN ({marks})", deleted)
        await connection.commit()

    def _portions(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Parts that fit into a packet, of which quoting can take up to twice the bytes."""
        part: list[Row] = []
        size, limit = 0, self._max_packet - 1024
        for row in rows:
            need = 2 * (len(row.op.text or b"") + len(row.op.name.encode())) + 100
            if need > limit and _quoted_size(row) > limit:
                raise PermanentStorageError(f"mysql: larger than max_allowed_packet ({self._max_packet})")
            if part and size + need > limit:
                yield part
                part, size = [], 0
            part.append(row)
            size += need
        if part:
            yield part


def _row_id(key: str) -> tuple[bytes, str | None]:
    """The column ``id``, and ``name`` if that cannot tell.

    The hash of a long name begins with a byte that UTF-8 does not have: no name can be mistaken for it.
    """
    encoded = key.encode()
    if len(encoded) <= MAX_ID:
        return encoded, None
    return b"\xff" + hashlib.sha256(encoded).hexdigest().encode(), key


def _values(row: Row) -> tuple[bytes, int, str, str | None]:
    key, name = _row_id(row.key)
    assert row.op.text is not None
    return key, row.op.version, row.op.text.decode(), name


def _quoted_size(row: Row) -> int:
    """Bytes of a row in a statement: quotes, backslashes and the like take two."""
    assert row.op.text is not None
    text = row.op.text
    return (
        len(text) + sum(text.count(sign) for sign in b"\"'\\\n\r\0\x1a") + 2 * len(row.op.name.encode()) + 100
    )


def _by_key(row: Row) -> str:
    return row.key


def _is_table(name: str, folds_case: bool) -> bool:
    """Whether something can be the name of a table: its length, its characters, and that of its file."""
    return (
        0 < len(name) <= MAX_TABLE
        and all("\0" < sign <= "\uffff" for sign in name)
        and not name.endswith(" ")
        and sum(1 if sign.isascii() and (sign.isalnum() or sign == "_") else 5 for sign in name) <= MAX_FILE
        and not (folds_case and name != name.lower())
    )


def _quoted(table: str) -> str:
    """A table's name in a statement."""
    return "`" + table.replace("`", "``") + "`"


def _marked(table: str) -> str:
    """A table's name in a statement that has ``%s`` for values."""
    return _quoted(table).replace("%", "%%")


def _close(connection: Any) -> None:
    connection.close()


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the driver become those of the storage contract."""
    try:
        yield
    except StorageError:
        raise
    except (mysql_errors.MySQLError, OSError) as error:
        code = error.args[0] if error.args else None
        text = f"mysql: {error.args[1] if len(error.args) > 1 else str(error) or type(error).__name__}"
        if code in _PERMANENT or isinstance(error, mysql_errors.DataError):
            raise PermanentStorageError(text) from error
        is_final = isinstance(error, mysql_errors.ProgrammingError) or "CERTIFICATE_VERIFY_FAILED" in text
        if code in ACCESS_DENIED or is_final:
            raise StorageError(text) from error
        raise TransientStorageError(text) from error
    except Exception as error:
        raise StorageError(f"mysql: {error!r}") from error
