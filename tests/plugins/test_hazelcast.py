"""The Hazelcast cache with a map in this process instead of a cluster: no server can be had."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from types import SimpleNamespace

import pytest
from hazelcast.core import HazelcastJsonValue
from hazelcast.errors import HazelcastError, IllegalStateError
from hazelcast.future import Future

from dsfast.config import load
from dsfast.plugin import LogLevel, PluginError
from dsfast.server import StartError
from dsfast.testing import CacheConformance, MemoryLogger, plugin_services, started
from dsfast_plugins.hazelcast import Entries, HazelcastCache
from dsfast_plugins.options import OptionError
from tests.record_client import R, RecordClient
from tests.wire import serve

loops = ["uvloop"]
PATIENCE = 20


class FakeMap:
    """As :class:`Entries`, without a cluster. Calls take a while each, so those of a name could overtake."""

    def __init__(self):
        self.entries = {}
        self.ttls = {}
        self.errors = []
        self.ended = False
        self.open = asyncio.Event()
        self.open.set()
        self._rng = random.Random(3)

    async def _work(self):
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)

    async def get(self, key):
        await self._work()
        return self.entries.get(key)

    async def get_all(self, keys):
        await self._work()
        return {key: self.entries[key] for key in keys if key in self.entries}

    async def set(self, key, value, ttl):
        await self._work()
        assert isinstance(value, HazelcastJsonValue)
        self.entries[key] = value
        self.ttls[key] = ttl

    async def delete(self, key):
        await self._work()
        self.entries.pop(key, None)

    async def close(self):
        self.ended = True


class WithFake(HazelcastCache):
    """The cache with a client that is none."""

    failures: list[Exception] = []

    async def connect(self):
        if self.failures:
            raise self.failures.pop(0)
        return FakeMap()


class TestFakeMap(CacheConformance):
    plugin_class = WithFake
    bulk = 3000

    @pytest.fixture
    def options(self):
        return {"mapName": "records", "commandTimeout": 20_000}


@pytest.fixture
async def cache():
    async with started(WithFake, {"mapName": "records", "commandTimeout": 100}) as cache:
        yield cache


async def test_writes_upstreams_entries(cache):
    await cache.set("user/1", 17, {"a": 1})
    assert cache._entries.entries["user/1"].to_string() == '{"_v":17,"_d":{"a":1}}'
    assert cache._entries.ttls == {"user/1": None}


async def test_reads_upstreams_entries(cache):
    cache._entries.entries["r"] = HazelcastJsonValue(json.dumps({"_d": [1], "_v": 0}))
    assert await cache.get("r") == (0, [1])
    assert await cache.head_bulk(["r", "s"]) == ({"r": 0}, ["s"])
    for value in (
        HazelcastJsonValue("5"),
        HazelcastJsonValue("{"),
        "text",
        HazelcastJsonValue('{"_v":"1","_d":{}}'),
    ):
        cache._entries.entries["r"] = value
        with pytest.raises(PluginError, match="entry of r cannot be read"):
            await cache.get("r")


async def test_ttl():
    async with started(WithFake, {"mapName": "records", "ttl": 5}) as cache:
        await cache.set("r", 1, {})
        assert cache._entries.ttls == {"r": 5}


async def test_errors_and_time_limits(cache):
    cache._entries.errors.append(HazelcastError("no"))
    with pytest.raises(PluginError, match="hazelcast: no"):
        await cache.get("r")
    cache._entries.open.clear()
    for call in (cache.get("r"), cache.set("r", 1, {}), cache.delete("r"), cache.head_bulk(["r"])):
        with pytest.raises(PluginError, match="did not answer within 100 ms"):
            await call
    cache._entries.open.set()
    await cache.set("r", 2, {})
    assert await cache.get("r") == (2, {})
    assert not cache._turns


async def test_who_gives_up_does_not_let_others_overtake(cache):
    cache._entries.open.clear()
    first = asyncio.create_task(cache.set("r", 1, {}))
    second = asyncio.create_task(cache.get("r"))
    third = asyncio.create_task(cache.set("r", 3, {}))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    await asyncio.sleep(0)
    assert not third.done()
    cache._entries.open.set()
    await asyncio.gather(first, third)
    assert await cache.get("r") == (3, {})


async def test_waits_at_the_start_and_says_so():
    logger = MemoryLogger()
    WithFake.failures.extend([IllegalStateError("no member"), OSError("refused")])
    async with started(WithFake, {"mapName": "records"}, logger=logger) as cache:
        assert "no member" in logger.texts(LogLevel.WARN)[0]
        assert logger.texts(LogLevel.INFO) == ["hazelcast is there"]
        entries = cache._entries
    assert entries.ended
    with pytest.raises(PluginError, match="closed"):
        await cache.get("r")


class FakeFuture(Future):
    """Of the library: done in another thread."""

    def __init__(self, work):
        super().__init__()
        threading.Timer(0.001, self._end, [work]).start()

    def _end(self, work):
        try:
            self.set_result(work())
        except Exception as error:
            self.set_exception(error)


class FakeLibraryMap:
    """The interface of the library's map that is used."""

    def __init__(self):
        self.rows = {}

    def get(self, key):
        return FakeFuture(lambda: self.rows.get(key))

    def get_all(self, keys):
        return FakeFuture(lambda: {key: self.rows[key] for key in keys if key in self.rows})

    def set(self, key, value, ttl):
        return FakeFuture(lambda: self.rows.update({key: value}))

    def delete(self, key):
        return FakeFuture(lambda: self.rows.__delitem__(key))


async def test_futures_of_the_librarys_threads():
    client = SimpleNamespace(get_map=lambda name: FakeLibraryMap(), shutdown=threading.Event().set)
    entries = Entries(client, "m")
    await entries.set("a", 1, None)
    assert await entries.get("a") == 1
    assert await entries.get_all(["a", "b"]) == {"a": 1}
    given_up = asyncio.create_task(entries.get("a"))
    await asyncio.sleep(0)
    given_up.cancel()
    await entries.delete("a")
    with pytest.raises(KeyError):
        await entries.delete("a")
    await entries.close()


async def test_a_real_client_that_finds_nobody():
    """The client of the library is made and gives up in time."""
    logger = MemoryLogger()
    options = {"mapName": "m", "networkConfig": {"addresses": ["127.0.0.1:1"]}, "connectTimeout": 200}
    cache = HazelcastCache(options, plugin_services(logger), load())
    starting = asyncio.create_task(cache.when_ready())
    await logger.wait_for("trying again")
    starting.cancel()
    await asyncio.wait([starting], timeout=PATIENCE)
    await cache.close()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "option mapName: is required"),
        ({"mapName": "m", "networkConfig": {"addresses": "h"}}, "networkConfig.addresses: expected a list"),
        (
            {"mapName": "m", "networkConfig": {"addresses": [5]}},
            "networkConfig.addresses: expected host:port",
        ),
        ({"mapName": "m", "ttl": -1}, "option ttl: expected float > 0"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(given, text):
    with pytest.raises(OptionError, match=text):
        HazelcastCache(given, plugin_services(), load())


def test_addresses_as_upstream_has_them():
    network = {"addresses": [{"host": "a", "port": 5702}, {"host": "b"}, "c:1"]}
    cache = HazelcastCache({"mapName": "m", "networkConfig": network}, plugin_services(), load())
    assert cache._addresses == ["a:5702", "b:5701", "c:1"]


async def test_a_server_with_hazelcast():
    config = {"cache": {"class": WithFake, "options": {"mapName": "records"}}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        entries = running.services.cache._entries.entries
        entries["prepared"] = HazelcastJsonValue('{"_v":7,"_d":{"by":"deepstream"}}')
        assert await client.read("prepared") == (7, {"by": "deepstream"})
        await client.set("written", {"a": 1})
        assert '"_d":{"a":1}}' in entries["written"].to_string()
        client.send(R.DELETE, name="written")
        await client.expect(R.DELETE_SUCCESS, name="written")
        assert list(entries) == ["prepared"]


async def test_a_server_with_wrong_options_does_not_start():
    with pytest.raises(StartError, match="cache: option mapName: is required"):
        async with serve({"cache": {"class": WithFake, "options": {}}}):
            pass
