"""Storage in RethinkDB, in the form of upstream's connector (storages.md section 7).

Needs ``dsfast[rethinkdb]``. Experimental: no server could be had to test it with.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from dsfast.services.storage import (
    PermanentStorageError,
    StorageClosed,
    StorageError,
    TransientStorageError,
    decode_json,
    encode_json,
)
from dsfast_plugins.options import Milliseconds, OptionError, Options, Port, Positive, read_options
from dsfast_plugins.pool import Pool
from dsfast_plugins.tables import Row, TableStorage

try:
    from rethinkdb import RethinkDB
    from rethinkdb import errors as reql_errors
except ModuleNotFoundError as error:
    raise ImportError(f"the rethinkdb storage needs: pip install dsfast[rethinkdb] ({error})") from error

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["RethinkdbStorage", "document_id"]

r = RethinkDB()
r.set_loop_type("asyncio")

MAX_ID = 127
"""UTF-16 units of a primary key."""
MAX_DELAY = 1.0
CREATE_TRIES = 5

_HASH = re.compile(r"[0-9a-f]{64}")
_NO_TABLE = re.compile(r"Table `.*` does not exist")
_EXISTS = re.compile(r"`.*` already exists")


class RethinkdbOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/storage.md."""

    host: str
    port: Port
    user: str = "admin"
    password: str = ""
    auth_key: str | None = None
    ssl: dict[str, str] = {}
    db: str = "deepstream"
    default_table: str = "deepstream_records"
    split_char: str | None = None
    primary_key: str = "ds_id"
    version_key: str | None = None
    durability: Literal["hard", "soft"] = "hard"
    connections: Positive = 4
    write_interval: Milliseconds = 10
    command_timeout: Milliseconds = 30_000


class RethinkdbStorage(TableStorage):
    """See docs/plugins/storage.md for the options."""

    rows_at_a_time = 200

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = read_options(
            RethinkdbOptions, options, known=("database", "readOnly"), required=("host", "port")
        )
        for name, value in (("db", self._options.db), ("defaultTable", self._options.default_table)):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
                raise OptionError(f"option {name}: expected letters, digits, _ and -")
        sign = self._options.split_char
        self._table = re.compile(rf"(\w+){re.escape(sign)}", re.ASCII) if sign else None
        self._reserved = {"__ds", "__dsList", "__dsJson", "$reql_type$", self._options.primary_key}
        if self._options.version_key:
            self._reserved.add(self._options.version_key)
        self.flush_interval = float(self._options.write_interval)
        self.description = f"rethinkdb storage, database {self._options.db}"
        self._timeout = self._options.command_timeout / 1000
        self._pool: Pool[Any] | None = None
        self._closing: set[asyncio.Future[None]] = set()

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"rethinkdb storage: {warning}")

    async def when_ready(self) -> None:
        """Connect and make the database; waits for a server that is away and says so in the log."""
        self._pool = Pool(self._connect, self._close_one, self._options.connections, 3600.0)
        delay, waiting = 0.05, False
        while True:
            try:
                await self._make_database()
                break
            except TransientStorageError as error:
                if not waiting:
                    waiting = True
                    self.logger.warn("STORAGE_ERROR", f"{error}; trying again")
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
        if waiting:
            self.logger.info("INFO", "rethinkdb is there")

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        if self._closing:
            await asyncio.wait(self._closing, timeout=1.0)

    async def _connect(self) -> Any:
        options = self._options
        password = options.auth_key if options.auth_key is not None else options.password
        return await r.connect(
            host=options.host,
            port=options.port,
            user=options.user,
            password=password,
            ssl=options.ssl,
            db=options.db,
            timeout=min(20, self._timeout),
        )

    def _close_one(self, connection: Any) -> None:
        # The driver can only close politely, which a server that says nothing would hold up.
        closing = asyncio.ensure_future(connection.close(noreply_wait=False))
        self._closing.add(closing)
        closing.add_done_callback(self._closed)

    def _closed(self, closing: asyncio.Future[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled():
            closing.exception()  # seen: what an end goes wrong with is of no interest

    @property
    def _running(self) -> Pool[Any]:
        if self._pool is None:
            raise StorageClosed("the rethinkdb storage is closed")
        return self._pool

    # ---- the contract

    def place(self, name: str) -> tuple[str, str]:
        """Table and primary key."""
        found = self._table.match(name) if self._table is not None else None
        table = found[1] if found else self._options.default_table
        return table, document_id(name[len(table) + 1 :] if found else name)

    async def read(self, table: str, key: str) -> tuple[int, bytes | None]:
        """See :meth:`TableStorage.read`."""
        with _translated():
            async with self._running.connection(self._timeout) as connection:
                try:
                    document = await r.table(table).get(key).run(connection)
                except reql_errors.ReqlOpFailedError as error:
                    if not _NO_TABLE.search(str(error)):
                        raise
                    document = None
        return (-1, None) if document is None else self._from_document(document)

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """See :meth:`TableStorage.write_rows`."""
        durability = self._options.durability
        queries = []
        for forced in (False, True):
            documents = [
                r.json(self._document(row).decode())
                for row in rows
                if row.op.text is not None and row.op.forced is forced
            ]
            if documents:
                conflict = "replace" if forced else self._keep_newer()
                queries.append(r.table(table).insert(documents, conflict=conflict, durability=durability))
        deleted = [row.key for row in rows if row.op.text is None]
        if deleted:
            queries.append(r.table(table).get_all(*deleted).delete(durability=durability))
        with _translated():
            async with self._running.connection(self._timeout) as connection:
                for query in queries:
                    await self._carry_out(connection, table, query, only_deletes=len(deleted) == len(rows))

    def _keep_newer(self) -> Any:
        """A function for the server: what to keep of an old and a new document."""
        version_key = self._options.version_key

        def version_of(document: Any) -> Any:
            return (document[version_key] if version_key else document["__ds"]["_v"]).default(0)

        return lambda _key, old, new: r.branch(version_of(old) <= version_of(new), new, old)

    async def _write_query(self, connection: Any, table: str, query: Any, only_deletes: bool) -> Any:
        for _ in range(CREATE_TRIES):
            try:
                return await query.run(connection)
            except reql_errors.ReqlOpFailedError as error:
                if not _NO_TABLE.search(str(error)):
                    raise
            if only_deletes:
                return {"errors": 0}
            await self._make_table(connection, table)
        raise TransientStorageError(f"rethinkdb: the table {table} cannot be made")

    async def _carry_out(self, connection: Any, table: str, query: Any, *, only_deletes: bool) -> None:
        result = await self._write_query(connection, table, query, only_deletes)
        if result["errors"]:
            raise PermanentStorageError(f"rethinkdb: {result.get('first_error')}")

    async def _make_database(self) -> None:
        with _translated():
            async with self._running.connection(self._timeout) as connection:
                try:
                    await r.db_create(self._options.db).run(connection)
                except reql_errors.ReqlOpFailedError as error:
                    if not _EXISTS.search(str(error)):
                        raise

    async def _make_table(self, connection: Any, table: str) -> None:
        create = r.table_create(table, primary_key=self._options.primary_key, durability="soft")
        try:
            await create.run(connection)
        except reql_errors.ReqlOpFailedError as error:
            if not _EXISTS.search(str(error)):
                raise
        await r.table(table).wait().run(connection)

    # ---- documents

    def _document(self, row: Row) -> bytes:
        """The document of a write as JSON; the server parses it."""
        op, options = row.op, self._options
        assert op.text is not None
        if op.version >= 2**53:
            raise PermanentStorageError("rethinkdb: the version is beyond 53 bits")
        own: dict[str, Any] = {} if options.version_key else {"_v": op.version}
        if _HASH.fullmatch(row.key):
            own["fullKey"] = op.name if self._table is None else self._full_key(op.name)
        document: dict[str, Any] = {options.primary_key: row.key}
        if own:
            document["__ds"] = own
        if options.version_key:
            document[options.version_key] = op.version
        data = decode_json(op.text)
        if not _is_plain(data) or (isinstance(data, dict) and not self._reserved.isdisjoint(data)):
            return encode_json({**document, "__dsJson": op.text.decode()})
        if isinstance(data, list):
            return encode_json({**document, "__dsList": data})
        return encode_json({**data, **document})

    def _full_key(self, name: str) -> str:
        found = self._table.match(name) if self._table is not None else None
        return name[found.end() :] if found else name

    def _from_document(self, document: dict[str, Any]) -> tuple[int, bytes]:
        own = document.pop("__ds", None)
        document.pop(self._options.primary_key, None)
        version = own.get("_v") if isinstance(own, dict) else None
        if self._options.version_key:
            version = document.pop(self._options.version_key, version)
        number = int(version) if isinstance(version, int | float) else 0
        if isinstance(document.get("__dsJson"), str):
            return number, document["__dsJson"].encode()
        if isinstance(document.get("__dsList"), list):
            return number, encode_json(document["__dsList"])
        return number, encode_json(document)


def document_id(key: str) -> str:
    """The primary key: the id, or the hash of one that is too long or looks like a hash."""
    if len(key.encode("utf-16-le")) // 2 <= MAX_ID and not _HASH.fullmatch(key):
        return key
    return hashlib.sha256(key.encode()).hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether RethinkDB keeps a value as it is: its numbers are doubles, its texts whole."""
    if isinstance(value, dict):
        return all("\0" not in key and key != "$reql_type$" and _is_plain(v) for key, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, int):
        return abs(value) <= 2**53
    if isinstance(value, str):
        return not any("\ud800" <= sign <= "\udfff" for sign in value)
    return True


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the driver become those of the storage contract."""
    try:
        yield
    except StorageError:
        raise
    except reql_errors.ReqlAuthError as error:
        raise StorageError(f"rethinkdb: {_text(error)}") from error
    except (reql_errors.ReqlDriverError, reql_errors.ReqlAvailabilityError, OSError) as error:
        raise TransientStorageError(f"rethinkdb: {_text(error)}") from error
    except reql_errors.ReqlQueryLogicError as error:
        raise PermanentStorageError(f"rethinkdb: {_text(error)}") from error
    except Exception as error:
        raise StorageError(f"rethinkdb: {_text(error)}") from error


def _text(error: BaseException) -> str:
    """The first line; the rest shows the query, which has the data."""
    return str(error).partition("\n")[0].partition(" in:")[0] or type(error).__name__
