"""Storage in Elasticsearch or OpenSearch (storages.md section 6). Needs ``dsfast[elasticsearch]``.

A record is a document: its keys and ``__ds: {"_v": version}``; a list is in ``__dsList``. What a search
engine would take for something else is JSON text in ``__dsJson``. With ``dataField`` the whole record is in
one field that is not indexed.

A version is kept by comparing and swapping (``if_seq_no``), not by the engine's external versions: those
remember a deleted record for a minute and would refuse the one that is created in its place.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

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
from dsfast_plugins.tls import tls_context

try:
    import aiohttp
    from yarl import URL
except ModuleNotFoundError as error:
    text = f"the elasticsearch storage needs: pip install dsfast[elasticsearch] ({error})"
    raise ImportError(text) from error

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["ElasticsearchStorage", "document_id"]

MAX_ID = 512
MAX_INDEX = 200
BULK_BYTES = 5 << 20
MAX_DELAY = 1.0
MAX_ROUNDS = 10
HASHED = "sha256:"

CONFLICT = 409
REFUSED = (401, 403)
_BUSY = (408, 429, 502, 503, 504)
_RESERVED = ("__ds", "__dsList", "__dsJson")
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_UNSAFE = re.compile(r"[^a-z0-9_.~-]")

IGNORED = ("auth", "hosts", "defaultType", "pingTimeout", "log", "apiVersion")


class ElasticsearchOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/storage.md."""

    host: str
    username: str | None = None
    password: str | None = None
    ssl: dict[str, Any] | bool | None = None
    index: str = "deepstream"
    index_per_table: bool = False
    split_char: str = "/"
    index_settings: dict[str, Any] | str = {}
    index_mappings: dict[str, Any] | str = {}
    data_field: str | None = None
    write_interval: Milliseconds = 10
    command_timeout: Milliseconds = 30_000


class _Found:
    """What is stored of a record: its version, and what a write names so that nobody else comes between."""

    __slots__ = ("primary_term", "sequence", "version")

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.version = _version_of(document.get("_source") or {})
        self.sequence = document["_seq_no"]
        self.primary_term = document["_primary_term"]


class ElasticsearchStorage(TableStorage):
    """See docs/plugins/storage.md for the options."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = read_options(
            ElasticsearchOptions, options, known=IGNORED, required=("host",)
        )
        self._settings = _object("indexSettings", self._options.index_settings)
        self._mappings = _object("indexMappings", self._options.index_mappings)
        self._tls = tls_context(self._options.ssl, "ssl")
        if not self._options.host.startswith(("http://", "https://")):
            raise OptionError("option host: expected http://host:port or https://host:port")
        if not self._options.index or _UNSAFE.search(self._options.index) or self._options.index[0] in "_-.":
            raise OptionError("option index: expected small letters, digits, _, . and -")
        self.flush_interval = float(self._options.write_interval)
        self.description = f"elasticsearch storage, index {self._options.index}"
        self._session: aiohttp.ClientSession | None = None
        self._made: set[str] = set()

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"elasticsearch storage: {warning}")

    async def when_ready(self) -> None:
        """Connect; waits for a server that is away and says so in the log."""
        options = self._options
        self._session = aiohttp.ClientSession(
            options.host,
            headers=_login(options),
            connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True),
            timeout=aiohttp.ClientTimeout(total=options.command_timeout / 1000),
        )
        delay, waiting = 0.05, False
        while True:
            try:
                await self._ask("GET", "/")
                break
            except TransientStorageError as error:
                if not waiting:
                    waiting = True
                    self.logger.warn("STORAGE_ERROR", f"{error}; trying again")
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
        if waiting:
            self.logger.info("INFO", "elasticsearch is there")

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ---- the contract

    def place(self, name: str) -> tuple[str, str]:
        """Index and id."""
        index = self._options.index
        if self._options.index_per_table:
            table, _ = split_first(name, "", self._options.split_char)
            index = f"{index}-{_index_part(table)}" if table else index
        return index, document_id(name)

    async def read(self, table: str, key: str) -> tuple[int, bytes | None]:
        """See :meth:`TableStorage.read`."""
        # By the request for many, which has the id in its body: an URL cannot hold "..", for one.
        [document] = await self._get_many([{"_index": table, "_id": key}])
        if not document.get("found"):
            return -1, None
        source = document["_source"]
        return _version_of(source), self._data(source)

    async def write_rows(self, table: str, rows: Sequence[Row]) -> None:
        """See :meth:`TableStorage.write_rows`."""
        if table not in self._made and any(row.op.text is not None for row in rows):
            await self._make_index(table)
        documents = {row.key: self._document(row) for row in rows if row.op.text is not None}
        left = list(rows)
        for _ in range(MAX_ROUNDS):
            guarded = [row for row in left if row.op.text is not None and not row.op.forced]
            found = await self._look(table, guarded)
            left = [row for row in left if row.key not in found or found[row.key].version <= row.op.version]
            missed: list[Row] = []
            for part in self._portions(left, documents):
                missed += await self._bulk(table, part, found, documents)
            left = missed
            if not left:
                return
        raise TransientStorageError(f"elasticsearch: others write the same records of {table} all the time")

    # ---- documents

    def _document(self, row: Row) -> bytes:
        """The document of a write as JSON."""
        text = row.op.text
        assert text is not None
        own: dict[str, Any] = {"_v": row.op.version}
        if row.key.startswith(HASHED):
            own["name"] = row.op.name
        tail = b'"__ds":%b}' % encode_json(own)
        data = decode_json(text)
        if _HALF_PAIR.search(text) or (isinstance(data, dict) and any(key in data for key in _RESERVED)):
            return b'{"__dsJson":%b,' % encode_json(text.decode()) + tail
        if self._options.data_field:
            return b"{%b:%b," % (encode_json(self._options.data_field), text) + tail
        if isinstance(data, list):
            return b'{"__dsList":%b,' % text + tail
        return encode_json({**data, "__ds": own})

    def _data(self, source: dict[str, Any]) -> bytes:
        field = self._options.data_field
        if isinstance(source.get("__dsJson"), str):
            return str(source["__dsJson"]).encode()
        if field and isinstance(source.get(field), dict | list):
            return encode_json(source[field])
        if isinstance(source.get("__dsList"), list):
            return encode_json(source["__dsList"])
        source.pop("__ds", None)
        return encode_json(source)

    async def _make_index(self, table: str) -> None:
        mappings = dict(self._mappings)
        if self._options.data_field:
            hidden = {self._options.data_field: {"type": "object", "enabled": False}}
            mappings["properties"] = {**mappings.get("properties", {}), **hidden}
        body = encode_json({"settings": self._settings, "mappings": mappings})
        status, answer = await self._ask("PUT", f"/{quote(table, safe='')}", body, missing=True)
        if status >= 400 and "already_exists" not in str(answer):
            raise StorageError(f"elasticsearch: the index {table} cannot be made: {_reason(answer)}")
        self._made.add(table)

    # ---- requests

    async def _look(self, table: str, rows: Sequence[Row]) -> dict[str, _Found]:
        """What is stored of these records."""
        if not rows:
            return {}
        ask = [{"_index": table, "_id": row.key, "_source": ["__ds"]} for row in rows]
        documents = await self._get_many(ask)
        return {document["_id"]: _Found(document) for document in documents if document.get("found")}

    async def _get_many(self, ask: list[dict[str, Any]]) -> list[dict[str, Any]]:
        _, answer = await self._ask("POST", "/_mget", encode_json({"docs": ask}))
        return _listed(answer, "docs", len(ask))

    @staticmethod
    def _portions(rows: Sequence[Row], documents: Mapping[str, bytes]) -> Iterator[list[Row]]:
        part: list[Row] = []
        size = 0
        for row in rows:
            need = len(documents.get(row.key, b"")) + 2000
            if part and size + need > BULK_BYTES:
                yield part
                part, size = [], 0
            part.append(row)
            size += need
        if part:
            yield part

    async def _bulk(
        self, table: str, rows: Sequence[Row], found: Mapping[str, _Found], documents: Mapping[str, bytes]
    ) -> list[Row]:
        """Write; the rows for which somebody else came between."""
        lines: list[bytes] = []
        for row in rows:
            head: dict[str, Any] = {"_index": table, "_id": row.key}
            if row.op.text is None:
                lines.append(encode_json({"delete": head}))
                continue
            kind = "index"
            if row.key in found:
                there = found[row.key]
                head |= {"if_seq_no": there.sequence, "if_primary_term": there.primary_term}
            elif not row.op.forced:
                kind = "create"
            lines += (encode_json({kind: head}), documents[row.key])
        _, answer = await self._ask("POST", "/_bulk", b"\n".join(lines) + b"\n")
        missed: list[Row] = []
        for row, item in zip(rows, _listed(answer, "items", len(rows)), strict=True):
            [result] = item.values()
            status = result["status"]
            if status == CONFLICT:
                missed.append(row)
            elif status in _BUSY or status >= 500:
                raise TransientStorageError(f"elasticsearch: {_reason(result)}")
            elif status >= 400 and row.op.text is not None:
                self._made.discard(table)
                raise PermanentStorageError(f"elasticsearch: {_reason(result)}")
        return missed

    async def _ask(
        self, method: str, path: str, body: bytes | None = None, *, missing: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer; with ``missing`` statuses of the client's fault are given, not raised."""
        kind = "application/x-ndjson" if path == "/_bulk" else "application/json"
        headers = {} if body is None else {"Content-Type": kind}
        async with (
            self._translated() as session,
            session.request(method, URL(path, encoded=True), data=body, headers=headers) as response,
        ):
            status, text = response.status, await response.read()
            try:
                answer = decode_json(text) if text else {}
            except ValueError:
                answer = {}
            if not isinstance(answer, dict):
                answer = {}
            if status in _BUSY or status >= 500:
                raise TransientStorageError(f"elasticsearch: {status} {_reason(answer)}")
            if status == 413:
                raise PermanentStorageError("elasticsearch: the record is too large")
            if status in REFUSED or (status >= 400 and not missing):
                raise StorageError(f"elasticsearch: {status} {_reason(answer)}")
            return status, answer

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[aiohttp.ClientSession]:
        """The session; errors of the client become those of the storage contract."""
        if self._session is None:
            raise StorageClosed("the elasticsearch storage is closed")
        try:
            yield self._session
        except StorageError:
            raise
        except aiohttp.ClientConnectorCertificateError as error:
            raise StorageError(f"elasticsearch: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransientStorageError(f"elasticsearch: {error or type(error).__name__}") from error
        except Exception as error:
            raise StorageError(f"elasticsearch: {error!r}") from error


def _login(options: ElasticsearchOptions) -> dict[str, str]:
    if options.username is None:
        return {}
    login = f"{options.username}:{options.password or ''}".encode()
    return {"Authorization": "Basic " + base64.b64encode(login).decode()}


def document_id(name: str) -> str:
    """The id of a record's document: its name, or a hash of one that is too long or looks like a hash."""
    encoded = name.encode()
    if len(encoded) <= MAX_ID and not name.startswith(HASHED):
        return name
    return HASHED + hashlib.sha256(encoded).hexdigest()


def _index_part(table: str) -> str:
    """A table in the name of an index: small letters, everything unusual in hex."""
    part = _UNSAFE.sub(lambda found: "".join(f"%{byte:02x}" for byte in found[0].encode()), table.lower())
    return part if len(part) <= MAX_INDEX else hashlib.sha256(part.encode()).hexdigest()


def _version_of(source: Mapping[str, Any]) -> int:
    own = source.get("__ds")
    version = own.get("_v") if isinstance(own, dict) else None
    return int(version) if isinstance(version, int | float) else 0


def _object(option: str, given: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(given, dict):
        return given
    try:
        value = decode_json(given.encode())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise OptionError(f"option {option}: expected an object, or one as JSON text")
    return value


def _listed(answer: Mapping[str, Any], name: str, count: int) -> list[dict[str, Any]]:
    found = answer.get(name)
    if not isinstance(found, list) or len(found) != count:
        raise StorageError("elasticsearch: an answer that cannot be understood")
    return found


def _reason(answer: Mapping[str, Any]) -> str:
    """What an error says, in one line."""
    error = answer.get("error")
    if isinstance(error, dict):
        cause = error.get("caused_by")
        more = f" ({cause.get('reason')})" if isinstance(cause, dict) else ""
        return f"{error.get('reason') or error.get('type')}{more}"
    return str(error or "")
