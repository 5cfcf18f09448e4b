"""The storage plugin: whole batches in one statement per table, one connection pool for all."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from dsfast.services.storage import (
    PermanentStorageError,
    StorageClosed,
    StorageError,
    TransientStorageError,
    WriteOp,
)
from dsfast_plugins.postgres.old_layouts import from_old_value
from dsfast_plugins.postgres.options import connect_arguments, postgres_options
from dsfast_plugins.postgres.tables import Table, Tables
from dsfast_plugins.tables import Row, TableStorage

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["PostgresStorage"]

MAX_DELAY = 1.0
CLOSE_PATIENCE = 2.0
CREATE_TRIES = 5

# Trying again can help: resources, shutdown and failover, deadlock, the disk, two who create the same thing.
_TRANSIENT = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
)
# What this record holds can never be stored.
_PERMANENT = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)

_WAIT_FOR = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.InternalServerError,
    asyncpg.TooManyConnectionsError,
    asyncpg.PostgresConnectionError,
    asyncpg.TransactionRollbackError,
)
"""At the start: the server comes up, or somebody else creates the same things at this moment."""


class PostgresStorage(TableStorage):
    """See docs/plugins/storage.md for the options."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = postgres_options(options)
        self._tables = Tables(self._options)
        self._known: dict[str, Table] = {}
        self._long_names_warned = False
        self._pool: asyncpg.Pool | None = None
        self._timeout = self._options.command_timeout / 1000
        # At least one connection is left for those who read.
        self.tables_at_a_time = self._options.max // 2
        self.rows_at_a_time = self._options.batch
        self.flush_interval = float(self._options.write_interval)
        self.description = f"postgres storage, schema {self._tables.schema}"

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"postgres storage: {warning}")

    async def when_ready(self) -> None:
        """Connect and make the schema; waits for a server that is away and says so in the log."""
        options = self._options
        pool = asyncpg.create_pool(
            min_size=0,
            max_size=options.max,
            max_inactive_connection_lifetime=options.idle_timeout_millis / 1000,
            **connect_arguments(options),
        )
        self._pool = await pool
        delay, waiting = 0.05, False
        while True:
            try:
                async with self._connection() as connection:
                    await self._create_schema(connection)
                    await self._warn_about_old_tables(connection)
                break
            except ssl.SSLCertVerificationError:
                raise
            except _WAIT_FOR as error:
                if not waiting:
                    waiting = True
                    text = f"postgres cannot be used yet, trying again: {_text(error)}"
                    self.logger.warn("STORAGE_ERROR", text)
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
        if waiting:
            self.logger.info("INFO", "postgres is there")

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                await pool.close()
        except Exception:
            pool.terminate()

    # ---- places

    def place(self, name: str) -> tuple[str, str]:
        """Table and id. Names whose table is too long share one, as they always did."""
        if "\0" in name:
            raise PermanentStorageError("postgres: a name cannot hold a NUL character")
        table, key = self._tables.place(name)
        if not self._long_names_warned and len(table) < len(name) - len(key) - 1:
            self._long_names_warned = True
            text = f"postgres: tables share their first 63 bytes, the record {name[:100]} is in {table}"
            self.logger.warn("STORAGE_ERROR", text)
        return table, key

    def _stripped(self, name: str) -> tuple[str, str] | None:
        """Where upstream put a name with signs that it leaves out; None for other names."""
        table, key = self._tables.place(name)
        place = tuple(part.replace('"', "").replace(";", "") for part in (table, key))
        return (place[0], place[1]) if all(place) and place != (table, key) else None

    async def get_text(self, name: str) -> tuple[int, bytes | None]:
        """See :meth:`dsfast.services.storage.BatchStorage.get_text`."""
        found = await super().get_text(name)
        if found[1] is None and self._options.legacy_keys and (place := self._stripped(name)):
            return await self.read(*place)
        return found

    # ---- reading

    async def read(self, table: str, key: str) -> tuple[int, bytes | None]:
        """See :meth:`TableStorage.read`."""
        with _translated():
            async with self._connection() as connection:
                try:
                    row = await connection.fetchrow(self._tables.select(table), key)
                except asyncpg.UndefinedTableError:
                    return -1, None
                except asyncpg.UndefinedColumnError:
                    text = await connection.fetchval(self._tables.select_old(table), key)
                    return (-1, None) if text is None else from_old_value(text)
        if row is None:
            return -1, None
        if row[0] is None:  # not migrated yet
            return from_old_value(row[1])
        return row[0], row[1].encode()

    # ---- writing

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """See :meth:`TableStorage.write_rows`."""
        with _translated():
            await self._write_all(table, rows)

    async def _write_all(self, table: str, rows: Sequence[Row]) -> None:
        async with self._connection() as connection:
            for _ in range(CREATE_TRIES):
                known = await self._known_table(connection, table)
                if known is None:
                    if all(row.op.text is None for row in rows):
                        return
                    await self._create(connection, table)
                    continue
                if not known.has_version:
                    raise PermanentStorageError(
                        f"the table {table} has the layout of an old connector: run `dsfast migrate postgres`"
                    )
                try:
                    await self._write_known(connection, table, known, rows)
                    return
                except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
                    self._known.pop(table, None)  # somebody has dropped or changed it
                except asyncpg.DatatypeMismatchError:
                    self._known.pop(table, None)
        raise TransientStorageError(f"the table {table} is dropped as soon as it is made")

    async def _known_table(self, connection: Any, table: str) -> Table | None:
        known = self._known.get(table) or await self._tables.describe(connection, table)
        if known is not None and known.has_version:
            self._known[table] = known
        return known

    async def _create(self, connection: Any, table: str) -> None:
        # An upstream server, which takes no lock, may be faster.
        with suppress(
            asyncpg.DuplicateTableError, asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError
        ):
            await self._tables.create(connection, table)

    async def _write_known(self, connection: Any, table: str, known: Table, rows: Sequence[Row]) -> None:
        async with connection.transaction():
            for forced in (False, True):
                values = [
                    (row.key, row.op.version, row.op.text.decode())
                    for row in rows
                    if row.op.text is not None and row.op.forced is forced
                ]
                if values:
                    ids, versions, texts = zip(*values, strict=True)
                    statement = self._tables.upsert(table, known.value_type, forced=forced)
                    await connection.execute(statement, ids, versions, texts)
            deleted = [row for row in rows if row.op.text is None]
            if deleted:
                await self._delete_rows(connection, table, [row.key for row in deleted])
                if self._options.legacy_keys:
                    await self._delete_stripped(connection, [row.op for row in deleted])

    async def _delete_rows(self, connection: Any, table: str, ids: list[str]) -> None:
        await connection.execute(self._tables.delete(table), ids)
        if self._options.drop_empty_tables:
            function = f"{self._tables.full('delete_if_empty')}($1, $2)"
            await connection.execute(f"SELECT {function}", self._tables.schema, table)
            self._known.pop(table, None)

    async def _delete_stripped(self, connection: Any, ops: Sequence[WriteOp]) -> None:
        """What a name is read from has to go with it."""
        for op in ops:
            place = self._stripped(op.name)
            if place is not None and await self._tables.describe(connection, place[0]) is not None:
                await connection.execute(self._tables.delete(place[0]), [place[1]])

    # ---- connections

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection for at most ``commandTimeout``.

        Whatever ends its use early, other than an error that the server has answered with, leaves it in an
        unknown state; it is cut then, since waiting for a server that does not answer would cost its place in
        the pool.
        """
        pool = self._pool
        if pool is None:
            raise StorageClosed("the postgres storage is closed")
        connection = await pool.acquire(timeout=self._timeout)
        try:
            async with asyncio.timeout(self._timeout):
                yield connection
        except (asyncpg.PostgresError, StorageError):
            raise
        except BaseException:
            connection.terminate()
            raise
        finally:
            await pool.release(connection)

    async def _create_schema(self, connection: Any) -> None:
        await self._tables.create_schema(connection)
        try:
            await self._tables.create_functions(connection)
        except asyncpg.InsufficientPrivilegeError as error:  # somebody else's; they may be there already
            self.logger.warn("STORAGE_ERROR", f"postgres: the functions are left as they are: {_text(error)}")

    async def _warn_about_old_tables(self, connection: Any) -> None:
        found = await connection.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = $1 AND c.relkind = 'r'"
            " AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'val')"
            " AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'version')"
            " ORDER BY c.relname",
            self._tables.schema,
        )
        if found:
            some = ", ".join(row[0] for row in found[:10])
            text = f"postgres: {len(found)} tables have the layout of an old connector and cannot be written"
            self.logger.error("STORAGE_ERROR", f"{text} ({some}): run `dsfast migrate postgres`")


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the driver become those of the storage contract."""
    try:
        yield
    except StorageError:
        raise
    except _PERMANENT as error:
        raise PermanentStorageError(f"postgres: {_text(error)}") from error
    except _TRANSIENT as error:
        raise TransientStorageError(f"postgres: {_text(error)}") from error
    except Exception as error:
        raise StorageError(f"postgres: {_text(error)}") from error


def _text(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return text or type(error).__name__
