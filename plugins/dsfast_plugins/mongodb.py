"""Storage in MongoDB, in the form of upstream's connector (storages.md section 5).

Needs ``dsfast[mongodb]``.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dsfast.services.storage import (
    PermanentStorageError,
    StorageClosed,
    StorageError,
    TransientStorageError,
    decode_json,
    encode_json,
)
from dsfast_plugins.names import split_first
from dsfast_plugins.options import Milliseconds, OptionError, Options, read_options
from dsfast_plugins.tables import Row, TableStorage

try:
    import bson
    import pymongo
    from bson.errors import BSONError
    from pymongo import errors as mongo_errors
except ModuleNotFoundError as error:
    raise ImportError(f"the mongodb storage needs: pip install dsfast[mongodb] ({error})") from error

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["MongodbStorage", "from_document", "to_document"]

RESERVED = frozenset(("_id", "ds_key", "ds_version", "ds_list", "ds_json", "__ds", "__dsList"))
"""Names that mean something to a reader when they stand at the top of a document."""
MAX_NAMESPACE = 255
MAX_DOCUMENT = (16 << 20) - 4096
MAX_DELAY = 1.0
MAX_ROUNDS = 10
DUPLICATE_KEY = 11000
# Host or network away, shutdown, stepping down, no primary, time limits, conflicts, too few confirmations.
TRANSIENT = frozenset((
    6, 7, 24, 46, 50, 64, 79, 89, 91, 100, 112, 133, 134, 189, 202, 234, 251, 262, 314, 9001, 10058, 10107,
    11600, 11602, 13435, 13436,
))  # fmt: skip
CLOSE_PATIENCE = 2.0

Document = dict[str, Any]


class MongodbOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/storage.md."""

    connection_string: str
    db: str | None = None
    default_collection: str = "deepstream_docs"
    split_char: str = "/"
    database: str | None = None
    default_table: str | None = None
    honour_documented_names: bool = False
    write_concern: dict[str, Any] = {}
    write_interval: Milliseconds = 10
    command_timeout: Milliseconds = 30_000


class MongodbStorage(TableStorage):
    """See docs/plugins/storage.md for the options."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = read_options(MongodbOptions, options, required=("connectionString",))
        self._concern = {"w": "majority", "j": True, **self._options.write_concern}
        self._database_name, self._default = self._documented_names()
        self.flush_interval = float(self._options.write_interval)
        self.description = "mongodb storage"
        self._timeout = self._options.command_timeout / 1000
        self._client: pymongo.AsyncMongoClient[Document] | None = None
        self._indexed: set[str] = set()
        self._json_noted: set[str] = set()
        try:
            pymongo.uri_parser.parse_uri(self._options.connection_string, warn=True)
            pymongo.WriteConcern(**self._concern)
        except (mongo_errors.InvalidURI, mongo_errors.ConfigurationError, ValueError, TypeError) as error:
            raise OptionError(f"options connectionString, writeConcern: {error}") from error

    def _documented_names(self) -> tuple[str | None, str]:
        """Database and default collection; upstream's documentation names options that its code ignores."""
        options = self._options
        if options.honour_documented_names:
            return options.db or options.database, options.default_table or options.default_collection
        for name, value, real in (
            ("database", options.database, "db"),
            ("defaultTable", options.default_table, "defaultCollection"),
        ):
            if value is not None:
                self._warnings.append(
                    f"option {name} has no effect, as with upstream:"
                    f" use {real}, or honourDocumentedNames: true"
                )
        return options.db, options.default_collection

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"mongodb storage: {warning}")

    async def when_ready(self) -> None:
        """Connect; waits for a server that is away and says so in the log."""
        self._client = pymongo.AsyncMongoClient(
            self._options.connection_string,
            serverSelectionTimeoutMS=min(self._options.command_timeout, 2000),
            appname="dsfast",
        )
        self._database = self._client.get_default_database("test")
        if self._database_name:
            self._database = self._client.get_database(self._database_name)
        self._database = self._database.with_options(write_concern=pymongo.WriteConcern(**self._concern))
        self.description = f"mongodb storage, database {self._database.name}"
        delay, waiting = 0.05, False
        while True:
            try:
                async with self._translated():
                    await self._database.command("ping")
                break
            except TransientStorageError as error:
                if not waiting:
                    waiting = True
                    self.logger.warn("STORAGE_ERROR", f"{error}; trying again")
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
        if waiting:
            self.logger.info("INFO", "mongodb is there")

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(CLOSE_PATIENCE):
                    await client.close()
            except TimeoutError:
                pass  # a server that does not answer is left

    # ---- the contract

    def place(self, name: str) -> tuple[str, str]:
        """Collection and id. What is no name of a collection goes to the default one as a whole."""
        collection, key = split_first(name, self._default, self._options.split_char)
        return (collection, key) if self._is_collection(collection) else (self._default, name)

    def _is_collection(self, name: str) -> bool:
        whole = f"{self._database_name or ''}.{name}".encode()
        is_refused = "$" in name or "\0" in name or name.startswith(("system.", ".")) or name.endswith(".")
        return not is_refused and ".." not in name and len(whole) <= MAX_NAMESPACE

    async def read(self, table: str, key: str) -> tuple[int, bytes | None]:
        """See :meth:`TableStorage.read`."""
        async with self._translated():
            found = await self._database[table].find({"ds_key": key}).to_list(100)
        if not found:
            return -1, None
        version, data = from_document(max(found, key=_version_of))
        return version, encode_json(data)

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """See :meth:`TableStorage.write_rows`."""
        documents = {row.key: to_document(row) for row in rows if row.op.text is not None}
        if any("ds_json" in document for document in documents.values()):
            self._note_json(table)
        async with self._translated():
            if documents and table not in self._indexed:
                await self._create_index(table)
            deleted = [row.key for row in rows if row.op.text is None]
            if deleted:
                await self._database[table].delete_many({"ds_key": {"$in": deleted}})
            left = [row for row in rows if row.op.text is not None]
            for _ in range(MAX_ROUNDS):
                if not left:
                    return
                left = await self._write_round(table, left, documents)
        raise TransientStorageError(f"mongodb: others write the same records of {table} all the time")

    async def _create_index(self, table: str) -> None:
        # As upstream: not unique, since its data may hold an id twice; without it everything works, slowly.
        try:
            await self._database[table].create_index("ds_key")
        except mongo_errors.OperationFailure as error:
            self.logger.warn("STORAGE_ERROR", f"mongodb: {table} has no index on ds_key: {_text(error)}")
        self._indexed.add(table)

    async def _write_round(
        self, table: str, rows: Sequence[Row], documents: Mapping[str, Document]
    ) -> list[Row]:
        """Look what is there, replace or insert; the rows for which somebody else was faster."""
        collection = self._database[table]
        fields = {"ds_key": 1, "ds_version": 1, "__ds": 1}
        found: dict[str, list[Document]] = {}
        async for document in collection.find({"ds_key": {"$in": [row.key for row in rows]}}, fields):
            found.setdefault(document["ds_key"], []).append(document)
        requests: list[Any] = []
        inserts: dict[int, Row] = {}
        replaced: list[Row] = []
        for row in rows:
            there = sorted(found.get(row.key, ()), key=_version_of)
            requests += [pymongo.DeleteOne({"_id": extra["_id"]}) for extra in there[:-1]]
            document = documents[row.key]
            if not there:
                inserts[len(requests)] = row
                # The id makes it unique; upstream does not look at it.
                requests.append(pymongo.InsertOne({"_id": row.key, **document}))
            elif row.op.forced or _version_of(there[-1]) <= row.op.version:
                replaced.append(row)
                requests.append(pymongo.ReplaceOne(_same(there[-1], row), document))
        if not requests:
            return []
        missed: list[Row] = []
        try:
            matched = (await collection.bulk_write(requests, ordered=False)).matched_count
        except mongo_errors.BulkWriteError as error:
            _raise_others(error)
            matched = error.details["nMatched"]
            missed = [inserts[problem["index"]] for problem in error.details["writeErrors"]]
        # Totals do not say which ones were missed: all of them are looked at again.
        return [*missed, *(replaced if matched < len(replaced) else ())]

    def _note_json(self, table: str) -> None:
        if table not in self._json_noted:
            self._json_noted.add(table)
            text = f"mongodb: {table} has records that deepstream cannot read, kept as text in ds_json"
            self.logger.info("INFO", text)

    # ---- errors

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """A time limit, and errors of the driver as those of the storage contract."""
        if self._client is None:
            raise StorageClosed("the mongodb storage is closed")
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except StorageError:
            raise
        except (mongo_errors.DocumentTooLarge, BSONError, OverflowError) as error:
            raise PermanentStorageError(f"mongodb: {_text(error)}") from error
        except mongo_errors.OperationFailure as error:
            if error.code in TRANSIENT:
                raise TransientStorageError(f"mongodb: {_text(error)}") from error
            raise StorageError(f"mongodb: {_text(error)}") from error
        except (mongo_errors.ConnectionFailure, OSError) as error:
            raise TransientStorageError(f"mongodb: {_text(error)}") from error
        except Exception as error:
            raise StorageError(f"mongodb: {_text(error)}") from error


def to_document(row: Row) -> Document:
    """The document of a write, without ``_id``. Raises PermanentStorageError.

    Data that MongoDB or upstream would take for something else is kept as JSON text.
    """
    op = row.op
    assert op.text is not None
    if not -(2**63) <= op.version < 2**63:
        raise PermanentStorageError("mongodb: the version is beyond 64 bits")
    head: Document = {"ds_key": row.key, "ds_version": bson.Int64(op.version)}
    if op.version < 2**31:
        head["ds_version"] = op.version
    data = decode_json(op.text)
    if not _is_plain(data) or (isinstance(data, dict) and not RESERVED.isdisjoint(data)):
        text = op.text.decode("ascii") if op.text.isascii() else op.text.decode()
        document = {**head, "ds_json": text}
    else:
        document = {**head, "ds_list": data} if isinstance(data, list) else {**head, **data}
    if len(op.text) > MAX_DOCUMENT // 4 and len(bson.encode(document)) > MAX_DOCUMENT:
        raise PermanentStorageError("mongodb: the record is larger than 16 MiB")
    return document


def _is_plain(value: Any) -> bool:
    """Whether a value means the same as BSON."""
    if isinstance(value, dict):
        return all(
            not key.startswith("$") and "." not in key and "\0" not in key and _is_plain(inner)
            for key, inner in value.items()
        )
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    if isinstance(value, str):
        return not any("\ud800" <= sign <= "\udfff" for sign in value)
    return True


def from_document(document: Document) -> tuple[int, Any]:
    """Version and data of a document in any of the forms. Raises PermanentStorageError."""
    version = _version_of(document)
    if isinstance(document.get("ds_json"), str):
        try:
            return version, decode_json(document["ds_json"].encode())
        except ValueError as error:
            raise PermanentStorageError("mongodb: ds_json holds no JSON") from error
    for name in ("ds_list", "__dsList"):
        if isinstance(document.get(name), list):
            return version, _json_value(document[name])
    own = ("_id", "ds_key", "ds_version", "__ds")
    return version, {key: _json_value(value) for key, value in document.items() if key not in own}


def _version_of(document: Mapping[str, Any]) -> int:
    version = document.get("ds_version")
    if version is None and isinstance(document.get("__ds"), dict):
        version = document["__ds"].get("_v")
    return int(version) if isinstance(version, int | float) else 0


def _json_value(value: Any) -> Any:
    """What others have written is made JSON: dates as ISO text, ids as hex, bytes as base64."""
    if isinstance(value, dict):
        return {key: _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json_value(inner) for inner in value]
    if isinstance(value, bson.Int64):
        return int(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _raise_others(error: mongo_errors.BulkWriteError) -> None:
    """Somebody else has inserted a record meanwhile: that is no error. Everything else is."""
    for problem in error.details["writeErrors"]:
        if problem["code"] != DUPLICATE_KEY:
            kind = TransientStorageError if problem["code"] in TRANSIENT else PermanentStorageError
            raise kind(f"mongodb: {problem.get('errmsg')}")
    for problem in error.details["writeConcernErrors"]:
        raise TransientStorageError(f"mongodb: {problem.get('errmsg')}")


def _same(document: Document, row: Row) -> Document:
    """A filter for the document that was read, as long as nobody has written a newer version."""
    if row.op.forced:
        return {"_id": document["_id"]}
    version = {"$lte": row.op.version} if "ds_version" in document else {"$exists": False}
    return {"_id": document["_id"], "ds_version": version}


def _text(error: BaseException) -> str:
    return str(error).partition(", full error")[0].partition(", Timeout:")[0] or type(error).__name__
