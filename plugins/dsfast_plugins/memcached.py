"""Cache in memcached, in the form of upstream's connector (caches.md section 5).

An item is ``{"version":…,"data":…}`` under the name of the record. Items can vanish at any time, so a storage
is needed. Several servers share the items as upstream's library (npm memcached) spreads them.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from dsfast.plugin import PluginError
from dsfast.services.storage import decode_json, encode_json
from dsfast.services.storage.none import NoStorage
from dsfast_plugins.options import Milliseconds, OptionError, Options, Positive, read_options
from dsfast_plugins.pipeline import (
    Address,
    Client,
    Limits,
    Link,
    PipelinedCache,
    Result,
    ServerError,
    answer,
    answer_all,
    open_link,
)
from dsfast_plugins.pipeline.link import NOTHING

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.plugin import Logger
    from dsfast.services import Services

__all__ = ["MemcachedCache", "Ring"]

DEFAULT_PORT = 11211
MAX_LIFETIME = 2_592_000
"""Seconds; memcached takes more for a date."""
MAX_KEY = 250
JSON_FLAG = 2
POINTS = 40
"""Digests per server of average weight; each is four points of the ring."""

_UNFIT = re.compile(rb"[\x00-\x20\x7f]")
_VERSION = re.compile(rb'\s*\{\s*"version"\s*:\s*(\d+)\s*,')
_DELETED = (b"DELETED", b"NOT_FOUND")


class MemcachedOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/cache.md."""

    server_location: str | list[str] | dict[str, Positive]
    lifetime: Annotated[int, Meta(ge=0, le=MAX_LIFETIME)] = 60_000
    memcached_options: dict[str, Any] = {}
    command_timeout: Milliseconds | None = None
    max_queue_bytes: Positive = 64 << 20


class LibraryOptions(Options, frozen=True, kw_only=True):
    """What is understood of ``memcachedOptions``."""

    namespace: str = ""
    timeout: Milliseconds = 5000
    max_value: Positive = 1_048_576


IGNORED = (
    "algorithm", "compatibility", "debug", "factor", "failOverServers", "failures", "failuresTimeout", "idle",
    "keyCompression", "maxExpiration", "maxKeySize", "maxQueueSize", "maxTimeout", "minTimeout", "poolSize",
    "randomize", "reconnect", "redundancy", "remove", "retries", "retry",
)  # fmt: skip


class Ring:
    """Which server has a key: the ring of npm's hashring in its mode ``ketama``."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        self.servers = list(weights)
        total = sum(weights.values())
        points: list[tuple[int, int]] = []
        for index, (server, weight) in enumerate(weights.items()):
            label = server.removesuffix(f":{DEFAULT_PORT}")
            for number in range(weight * POINTS * len(weights) // total):
                digest = hashlib.md5(f"{label}-{number}".encode(), usedforsecurity=False).digest()
                points += [(int.from_bytes(digest[at : at + 4], "little"), index) for at in (0, 4, 8, 12)]
        points.sort()
        self._points = [point for point, _ in points]
        self._owners = [owner for _, owner in points]

    def index(self, key: bytes) -> int:
        """The server of a key, as an index of :attr:`servers`."""
        if len(self.servers) == 1:
            return 0
        digest = hashlib.md5(key, usedforsecurity=False).digest()
        at = bisect.bisect_left(self._points, int.from_bytes(digest[:4], "little"))
        return self._owners[at % len(self._owners)]


class MemcachedReader:
    """Cuts what memcached sends into answers: a word, or the items of a ``get`` by key."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._items: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> None:
        """More bytes have arrived."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def gets(self) -> Any:
        """The next answer, an error as ServerError, or NOTHING."""
        while True:
            end = self._buffer.find(b"\r\n", self._at)
            if end < 0:
                return NOTHING
            line = bytes(self._buffer[self._at : end])
            if line.startswith(b"VALUE "):
                _, key, _, size, *_ = line.split(b" ")
                stop = end + 2 + int(size)
                if len(self._buffer) < stop + 2:
                    return NOTHING
                if self._buffer[stop : stop + 2] != b"\r\n":
                    raise ServerError("an item without an end")
                self._items[key] = bytes(self._buffer[end + 2 : stop])
                self._at = stop + 2
                continue
            self._at = end + 2
            if line == b"END":
                items, self._items = self._items, {}
                return items
            if line.startswith((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")):
                self._items = {}
                return ServerError(line.decode(errors="replace"))
            return line


class MemcachedClient(Client):
    """One lane per server; places never change."""

    name = "memcached"

    def __init__(self, addresses: Sequence[Address], limits: Limits, logger: Logger) -> None:
        self._addresses = addresses
        self.description = ", ".join(str(address) for address in addresses)
        super().__init__(len(addresses), limits, logger)

    def address(self, lane: int) -> Address:
        """Where a server is."""
        return self._addresses[lane]

    async def connect(self, address: Address) -> Link:
        """A connection that has said its version."""

        async def greet(link: Link) -> None:
            reply = await link.call(b"version\r\n")
            if not isinstance(reply, bytes) or not reply.startswith(b"VERSION"):
                raise ServerError(f"{address} is no memcached")

        def make() -> Link:
            return Link(address, MemcachedReader(), self.on_reply, self.on_lost)

        return await open_link(make, address, greet, timeout=self._limits.connect_timeout)


class MemcachedCache(PipelinedCache):
    """See docs/plugins/cache.md for the options."""

    names_per_command = 100

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = read_options(MemcachedOptions, options, required=("serverLocation",))
        try:
            self._library, warnings = read_options(
                LibraryOptions, self._options.memcached_options, known=IGNORED
            )
        except OptionError as error:
            raise OptionError(f"memcachedOptions: {error}") from error
        self._warnings += [f"memcachedOptions: {warning}" for warning in warnings]
        self._ring = Ring(_weights(self._options.server_location))
        self._addresses = [_address(server) for server in self._ring.servers]
        self._namespace = self._library.namespace.encode()

    def init(self) -> None:
        """Report options that have no effect. Raises OptionError if nothing is stored."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"memcached cache: {warning}")
        if isinstance(getattr(self.services, "storage", None), NoStorage):
            raise OptionError("memcached may drop any record at any time: it needs a storage")

    async def when_ready(self) -> None:
        """Connect to all servers; waits for one that is away and says so in the log."""
        timeout = self._options.command_timeout or self.config.record.cache_retrieval_timeout
        limits = Limits(
            timeout=timeout / 1000,
            connect_timeout=self._library.timeout / 1000,
            max_queue_bytes=self._options.max_queue_bytes,
        )
        client = MemcachedClient(self._addresses, limits, self.logger)
        self.description = f"memcached cache, {client.description}"
        await self.start(client, len(self._addresses))

    # ---- the contract

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """See :meth:`dsfast.plugin.Cache.delete_bulk`."""
        calls = [
            self.client.call(lane, b"delete %b\r\n" % self._item_key(name.encode()))
            for lane, part in self.parts(names)
            for name in part
        ]
        await self.all(calls)

    async def head_bulk(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """See :meth:`dsfast.plugin.Cache.head_bulk`. Items are moved as a whole, only versions are parsed."""
        parts = self.parts(names)
        keys = [[self._item_key(name.encode()) for name in part] for _, part in parts]
        calls = [
            self.client.call(lane, b"get %b\r\n" % b" ".join(part))
            for (lane, _), part in zip(parts, keys, strict=True)
        ]
        found: dict[str, int] = {}
        for (_, part), items, its_keys in zip(parts, await self.all(calls), keys, strict=True):
            for name, key in zip(part, its_keys, strict=True):
                item = items.get(key)
                if item is not None:
                    found[name] = _version(name, item)
        return found, [] if len(found) == len(names) else [name for name in names if name not in found]

    # ---- commands

    def _item_key(self, key: bytes) -> bytes:
        """What memcached is told; a hash for what is too long for it or has blanks."""
        whole = self._namespace + key
        if len(whole) > MAX_KEY or _UNFIT.search(whole):
            return hashlib.md5(whole, usedforsecurity=False).hexdigest().encode()
        return whole

    def lane(self, key: bytes) -> int:
        """The server of a record."""
        return self._ring.index(self._item_key(key))

    def encode(self, name: str, version: int, data: Any) -> bytes:
        """Version and data in one. Raises PluginError for what is too large."""
        item = b'{"version":%d,"data":%b}' % (version, encode_json(data))
        if len(item) > self._library.max_value:
            limit = self._library.max_value
            raise PluginError(f"memcached: {name} has {len(item)} bytes, more than maxValue ({limit})")
        return item

    def send_sets(self, lane: int, sets: dict[bytes, tuple[int, bytes, list[Result]]]) -> None:
        """One command each, all in one packet."""
        for key, (_, item, results) in sets.items():
            head = b"set %b %d %d %d\r\n" % (
                self._item_key(key),
                JSON_FLAG,
                self._options.lifetime,
                len(item),
            )
            self.client.submit(lane, head + item + b"\r\n", self._expecting((b"STORED",), results))

    def send_deletes(self, lane: int, deletes: dict[bytes, list[Result]]) -> None:
        """One command each, all in one packet."""
        for key, results in deletes.items():
            packed = b"delete %b\r\n" % self._item_key(key)
            self.client.submit(lane, packed, self._expecting(_DELETED, results))

    def send_gets(self, lane: int, gets: dict[bytes, list[Result]]) -> None:
        """All in one command."""
        keys = [self._item_key(key) for key in gets]
        self.client.submit(lane, b"get %b\r\n" % b" ".join(keys), _on_gets(keys, gets))

    @staticmethod
    def _expecting(words: tuple[bytes, ...], results: list[Result]) -> Callable[[Any], None]:
        say = answer_all(results)

        def done(reply: Any) -> None:
            if not isinstance(reply, Exception) and reply not in words:
                reply = PluginError(f"memcached: an unexpected answer: {reply!r:.100}")
            say(reply)

        return done


def _on_gets(keys: Iterable[bytes], gets: dict[bytes, list[Result]]) -> Callable[[Any], None]:
    def done(reply: Any) -> None:
        for key, (name, results) in zip(keys, gets.items(), strict=True):
            if not isinstance(reply, dict):
                answer(results, reply if isinstance(reply, Exception) else PluginError("memcached: no items"))
                continue
            item = reply.get(key)
            found: tuple[int, Any] | Exception = (-1, None)
            if item is not None:
                try:
                    found = _parsed(item)
                except (ValueError, TypeError, KeyError) as error:
                    found = PluginError(f"memcached: the item of {name.decode()} cannot be read: {error!r}")
            answer(results, found)

    return done


def _parsed(item: bytes) -> tuple[int, Any]:
    entry = decode_json(item)
    version, data = entry["version"], entry["data"]
    if not isinstance(version, int):
        raise TypeError("its version is no number")
    return (-1, None) if data is None else (version, data)


def _version(name: str, item: bytes) -> int:
    match = _VERSION.match(item)
    if match is not None:
        return int(match[1])
    try:
        return _parsed(item)[0]
    except (ValueError, TypeError, KeyError) as error:
        raise PluginError(f"memcached: the item of {name} cannot be read: {error!r}") from error


def _weights(location: str | list[str] | dict[str, int]) -> dict[str, int]:
    if isinstance(location, str):
        location = [location]
    weights = location if isinstance(location, dict) else dict.fromkeys(location, 1)
    if not weights:
        raise OptionError("option serverLocation: expected at least one server")
    return weights


def _address(server: str) -> Address:
    host, sign, port = server.rpartition(":")
    if not sign or "]" in port:
        host, port = server, str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OptionError("option serverLocation: expected host:port")
    return Address(host.strip("[]"), int(port))
