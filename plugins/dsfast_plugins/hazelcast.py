"""Cache in a Hazelcast map (caches.md section 6). Needs ``dsfast[hazelcast]``.

Experimental: no server could be had to test it with.

An entry has the name of the record as key and the JSON ``{"_v":version,"_d":data}`` as value, as upstream's
connector for deepstream 3 wrote it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dsfast.plugin import Cache, PluginError
from dsfast.services.storage import decode_json, encode_json
from dsfast_plugins.options import Milliseconds, OptionError, Options, Seconds, read_options

try:
    from hazelcast.client import HazelcastClient
    from hazelcast.config import Config as ClientConfig
    from hazelcast.config import ReconnectMode
    from hazelcast.core import HazelcastJsonValue
    from hazelcast.errors import HazelcastError
except ModuleNotFoundError as error:
    raise ImportError(f"the hazelcast cache needs: pip install dsfast[hazelcast] ({error})") from error

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["HazelcastCache"]

# The library would write a traceback to standard error at every attempt to connect.
logging.getLogger("hazelcast").addHandler(logging.NullHandler())
logging.getLogger("hazelcast").propagate = False

NAMES_PER_CALL = 1000
MAX_DELAY = 1.0


class HazelcastOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/cache.md."""

    map_name: str
    network_config: dict[str, Any] = {}
    cluster_name: str = "dev"
    username: str | None = None
    password: str | None = None
    ttl: Seconds | None = None
    connect_timeout: Milliseconds = 10_000
    command_timeout: Milliseconds | None = None


class Entries:
    """A map of a cluster. The library works in threads of its own; its asyncio client is a preview still."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._map = client.get_map(name)
        self._loop = asyncio.get_running_loop()

    async def get(self, key: str) -> Any:
        """The value, or None."""
        return await self._result(self._map.get(key))

    async def get_all(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values of those that are there."""
        found: dict[str, Any] = await self._result(self._map.get_all(keys))
        return found

    async def set(self, key: str, value: Any, ttl: float | None) -> None:
        """Store a value, for so many seconds."""
        await self._result(self._map.set(key, value, ttl))

    async def delete(self, key: str) -> None:
        """Remove a value, if it is there."""
        await self._result(self._map.delete(key))

    async def close(self) -> None:
        """End the client."""
        await asyncio.to_thread(self._client.shutdown)

    async def _result(self, future: Any) -> Any:
        result: asyncio.Future[Any] = self._loop.create_future()

        def done(finished: Any) -> None:
            self._loop.call_soon_threadsafe(hand_over, finished)

        def hand_over(finished: Any) -> None:
            if result.done():
                return  # the caller has given up
            try:
                result.set_result(finished.result())
            except Exception as error:
                result.set_exception(error)

        future.add_done_callback(done)
        return await result


class HazelcastCache(Cache):
    """See docs/plugins/cache.md for the options."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = read_options(HazelcastOptions, options, required=("mapName",))
        self._addresses = _addresses(self._options.network_config)
        self.description = f"hazelcast cache, map {self._options.map_name}"
        self._entries: Any = None
        self._turns: dict[str, asyncio.Future[None]] = {}
        timeout = self._options.command_timeout or config.record.cache_retrieval_timeout
        self._timeout = timeout / 1000

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"hazelcast cache: {warning}")

    async def when_ready(self) -> None:
        """Connect; waits for a cluster that is away and says so in the log."""
        delay, waiting = 0.05, False
        while True:
            try:
                self._entries = await self.connect()
                break
            except (HazelcastError, OSError) as error:
                if not waiting:
                    waiting = True
                    text = f"hazelcast cannot be used, trying again: {error or type(error).__name__}"
                    self.logger.warn("CACHE_ERROR", text)
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
        if waiting:
            self.logger.info("INFO", "hazelcast is there")

    async def connect(self) -> Any:
        """The map of a client that is connected; it reconnects by itself, its calls fail meanwhile."""
        options = self._options
        settings = ClientConfig()  # type: ignore[no-untyped-call]
        settings.cluster_name = options.cluster_name
        settings.cluster_members = self._addresses
        settings.connection_timeout = options.connect_timeout / 1000
        # Short, since a thread that waits keeps the process from ending; the attempt is made again.
        settings.cluster_connect_timeout = min(options.connect_timeout / 1000, 2.0)
        settings.reconnect_mode = ReconnectMode.ASYNC
        settings.retry_initial_backoff = 0.05
        settings.retry_max_backoff = MAX_DELAY
        settings.invocation_timeout = self._timeout
        if options.username is not None:
            settings.creds_username = options.username
            settings.creds_password = options.password or ""
        connecting = asyncio.create_task(asyncio.to_thread(HazelcastClient, settings))
        try:
            client = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_end_client)  # the thread cannot be stopped
            raise
        return Entries(client, options.map_name)

    async def close(self) -> None:
        """End the client."""
        entries, self._entries = self._entries, None
        if entries is not None:
            await entries.close()

    # ---- the contract

    async def get(self, name: str) -> tuple[int, Any]:
        """See :meth:`dsfast.plugin.Cache.get`."""
        async with self._turn(name), self._limited() as entries:
            return _parsed(name, await entries.get(name))

    async def set(self, name: str, version: int, data: Any) -> None:
        """See :meth:`dsfast.plugin.Cache.set`."""
        text = b'{"_v":%d,"_d":%b}' % (version, encode_json(data))
        async with self._turn(name), self._limited() as entries:
            await entries.set(name, HazelcastJsonValue(text.decode()), self._options.ttl)

    async def delete(self, name: str) -> None:
        """See :meth:`dsfast.plugin.Cache.delete`."""
        async with self._turn(name), self._limited() as entries:
            await entries.delete(name)

    async def delete_bulk(self, names: Sequence[str]) -> None:
        """See :meth:`dsfast.plugin.Cache.delete_bulk`."""
        results = await asyncio.gather(
            *(self.delete(name) for name in dict.fromkeys(names)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def head_bulk(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """See :meth:`dsfast.plugin.Cache.head_bulk`. Entries are moved as a whole."""
        if before := [self._turns[name] for name in names if name in self._turns]:
            await asyncio.wait(before)
        found: dict[str, int] = {}
        for at in range(0, len(names), NAMES_PER_CALL):
            async with self._limited() as entries:
                some = await entries.get_all(list(dict.fromkeys(names[at : at + NAMES_PER_CALL])))
            for name, value in some.items():
                version, data = _parsed(name, value)
                if data is not None:
                    found[name] = version
        return found, [name for name in names if name not in found]

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """Calls of one name one after the other: the client does not promise their order."""
        before = self._turns.get(name)
        mine = self._turns[name] = asyncio.get_running_loop().create_future()

        def end(_: object) -> None:
            mine.set_result(None)
            if self._turns.get(name) is mine:
                del self._turns[name]

        if before is not None:
            try:
                await asyncio.wait([before])
            except BaseException:
                before.add_done_callback(end)  # who comes next still waits for those before us
                raise
        try:
            yield
        finally:
            end(None)

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[Any]:
        """The map, for as long as a call may take; errors of the client become PluginError."""
        if self._entries is None:
            raise PluginError("the hazelcast cache is closed")
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                yield self._entries
        except TimeoutError as error:
            text = f"hazelcast did not answer within {self._timeout * 1000:g} ms"
            raise PluginError(text) from error
        except (HazelcastError, OSError) as error:
            raise PluginError(f"hazelcast: {error or type(error).__name__}") from error


def _end_client(connecting: asyncio.Task[Any]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        threading.Thread(target=connecting.result().shutdown, daemon=True).start()


def _parsed(name: str, value: Any) -> tuple[int, Any]:
    if value is None:
        return -1, None
    try:
        entry = decode_json(value.to_string().encode())
        version, data = entry["_v"], entry["_d"]
        if not isinstance(version, int):
            raise TypeError("its version is no number")
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise PluginError(f"hazelcast: the entry of {name} cannot be read: {error!r}") from error
    return (-1, None) if data is None else (version, data)


def _addresses(network: Mapping[str, Any]) -> list[str]:
    """``networkConfig.addresses`` as ``host:port``."""
    given = network.get("addresses") or ["127.0.0.1:5701"]
    if not isinstance(given, list):
        raise OptionError("option networkConfig.addresses: expected a list")
    addresses = []
    for entry in given:
        address = entry
        if isinstance(entry, Mapping):
            address = f"{entry.get('host', '127.0.0.1')}:{entry.get('port', 5701)}"
        if not isinstance(address, str) or not address.rpartition(":")[2].isdecimal():
            raise OptionError("option networkConfig.addresses: expected host:port, or host and port")
        addresses.append(address)
    return addresses
