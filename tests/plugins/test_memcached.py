"""The memcached cache against real servers: the contract, upstream's items and ring, faults."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from dsfast.config import load
from dsfast.plugin import LogLevel, PluginError
from dsfast.server import StartError
from dsfast.testing import CacheConformance, FaultProxy, MemoryLogger, plugin_services, started
from dsfast_plugins.memcached import MemcachedCache, MemcachedReader, Ring
from dsfast_plugins.options import OptionError
from dsfast_plugins.pipeline.link import NOTHING
from tests.plugins.servers import MemcachedProcess
from tests.record_client import GatedStorage, R, RecordClient
from tests.wire import serve

loops = ["uvloop"]
PATIENCE = 20
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "memcached-ring.json").read_text())


class Raw:
    """A plain client of one server."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, server):
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    async def say(self, command, end=b"\r\n"):
        self.writer.write(command)
        return await asyncio.wait_for(self.reader.readuntil(end), PATIENCE)

    async def get(self, key):
        return await self.say(b"get %b\r\n" % key, b"END\r\n")

    async def put(self, key, value, flags=2):
        line = b"set %b %d 0 %d\r\n%b\r\n" % (key, flags, len(value), value)
        assert await self.say(line) == b"STORED\r\n"


@pytest.fixture
async def raw(memcached_servers):
    """A plain client of the first server; all are empty before the test."""
    for server in memcached_servers:
        client = await Raw.connect(server)
        await client.say(b"flush_all\r\n")
        client.writer.close()
    client = await Raw.connect(memcached_servers[0])
    yield client
    client.writer.close()


@pytest.fixture
async def cache(memcached_servers, raw):
    async with started(MemcachedCache, {"serverLocation": memcached_servers[0].location}) as cache:
        yield cache


class TestOneServer(CacheConformance):
    plugin_class = MemcachedCache
    bulk = 10_000
    large = {"text": "x" * 1_000_000}

    @pytest.fixture
    def options(self, memcached_servers):
        return {"serverLocation": memcached_servers[0].location, "commandTimeout": 20_000}


class TestThreeServers(CacheConformance):
    plugin_class = MemcachedCache
    bulk = 10_000
    large = {"text": "x" * 1_000_000}

    @pytest.fixture
    def options(self, memcached_servers):
        return {
            "serverLocation": {server.location: i + 1 for i, server in enumerate(memcached_servers)},
            "memcachedOptions": {"namespace": "kit:"},
            "commandTimeout": 20_000,
        }


# ---- the form


@pytest.mark.parametrize("ring", VECTORS["rings"], ids=lambda ring: str(len(ring["servers"])))
def test_keys_are_where_upstreams_library_puts_them(ring):
    servers = ring["servers"]
    found = Ring(servers if isinstance(servers, dict) else dict.fromkeys(servers, 1))
    places = {key: found.servers[found.index(key.encode())] for key in ring["places"]}
    assert places == ring["places"]


async def test_writes_upstreams_items(cache, raw):
    await cache.set("user/1", 17, {"a": 1})
    assert await raw.get(b"user/1") == b'VALUE user/1 2 29\r\n{"version":17,"data":{"a":1}}\r\nEND\r\n'
    await cache.set("a b", 0, [])
    digest = hashlib.md5(b"a b").hexdigest().encode()
    assert b'{"version":0,"data":[]}' in await raw.get(digest)
    long = "ä" * 126
    await cache.set(long, 0, {})
    assert b'"version":0' in await raw.get(hashlib.md5(long.encode()).hexdigest().encode())
    await cache.delete("user/1")
    assert await raw.get(b"user/1") == b"END\r\n"


async def test_reads_upstreams_items(cache, raw):
    await raw.put(b"r", b'{"version":0,"data":{}}')
    await raw.put(b"s", b' { "data" : [1] , "version" : 12 } ')
    await raw.put(b"gone", b'{"version":3,"data":null}')
    assert await cache.get("r") == (0, {})
    assert await cache.get("s") == (12, [1])
    assert await cache.get("gone") == (-1, None)
    assert await cache.head_bulk(["r", "s", "t"]) == ({"r": 0, "s": 12}, ["t"])


async def test_an_item_that_is_none(cache, raw):
    for value in (b"", b"5", b"[]", b'{"data":{}}', b'{"version":"1","data":{}}', b"{"):
        await raw.put(b"r", value)
        with pytest.raises(PluginError, match="item of r cannot be read"):
            await cache.get("r")
        with pytest.raises(PluginError, match="item of r cannot be read"):
            await cache.head_bulk(["r"])


async def test_lifetime_and_namespace(memcached_servers, raw):
    options = {
        "serverLocation": memcached_servers[0].location,
        "lifetime": 1,
        "memcachedOptions": {"namespace": "app:"},
    }
    async with started(MemcachedCache, options) as cache:
        await cache.set("r", 1, {})
        assert (await raw.get(b"app:r")).startswith(b"VALUE app:r")
        async with asyncio.timeout(PATIENCE):
            while await cache.get("r") != (-1, None):  # noqa: ASYNC110 - memcached tells nobody
                await asyncio.sleep(0.05)


async def test_values_that_are_too_large(memcached_servers, cache):
    with pytest.raises(PluginError, match=r"more than maxValue \(1048576\)"):
        await cache.set("r", 1, {"x": "y" * 1_048_576})
    options = {"serverLocation": memcached_servers[0].location, "memcachedOptions": {"maxValue": 1 << 30}}
    async with started(MemcachedCache, options) as other:
        calls = [other.set("r", 1, {"x": "y" * 1_100_000}), other.set("s", 1, {"a": 1})]
        refused, stored = await asyncio.gather(*calls, return_exceptions=True)
        assert "too large" in str(refused)
        assert stored is None
        assert await other.get("s") == (1, {"a": 1})


def test_answers_in_pieces():
    """However the bytes are cut."""
    data = b"STORED\r\nVALUE a 2 4\r\n\r\n\r\n\r\nVALUE b 0 0\r\n\r\nEND\r\n"
    data += b"SERVER_ERROR out\r\nEND\r\nDELETED\r\n"
    for size in range(1, len(data) + 1):
        reader = MemcachedReader()
        found = []
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
            while (reply := reader.gets()) is not NOTHING:
                found.append(reply if not isinstance(reply, Exception) else str(reply))
        assert found == [b"STORED", {b"a": b"\r\n\r\n", b"b": b""}, "SERVER_ERROR out", {}, b"DELETED"]


# ---- options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "option serverLocation: is required"),
        ({"serverLocation": 5}, "option serverLocation: expected"),
        ({"serverLocation": []}, "option serverLocation: expected at least one"),
        ({"serverLocation": "host:port"}, "option serverLocation: expected host:port"),
        ({"serverLocation": {"h:1": 0}}, "option serverLocation"),
        ({"serverLocation": "h:1", "lifetime": 2_592_001}, "option lifetime: expected int <= 2592000"),
        ({"serverLocation": "h:1", "memcachedOptions": {"timeout": "x"}}, "memcachedOptions: option timeout"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(options, text):
    with pytest.raises(OptionError, match=text):
        MemcachedCache(options, plugin_services(), load())


def test_options_without_effect_are_warned_about():
    logger = MemoryLogger()
    options = {"serverLocation": "h", "memcachedOptions": {"poolSize": 3, "name_space": "x"}, "expires": 1}
    MemcachedCache(options, plugin_services(logger), load()).init()
    assert logger.texts(LogLevel.WARN) == [
        "memcached cache: option expires is unknown",
        "memcached cache: memcachedOptions: option poolSize has no effect",
        "memcached cache: memcachedOptions: option name_space is unknown, did you mean namespace?",
    ]


async def test_a_storage_is_needed(memcached_servers):
    options = {"serverLocation": memcached_servers[0].location}
    with pytest.raises(StartError, match="it needs a storage"):
        async with serve({"cache": {"class": MemcachedCache, "options": options}}):
            pass


# ---- faults


@pytest.fixture
async def proxy(memcached_servers):
    async with FaultProxy("127.0.0.1", memcached_servers[0].port) as proxy:
        yield proxy


def through(proxy, **more):
    return {"serverLocation": f"127.0.0.1:{proxy.port}", **more}


async def test_waits_at_the_start_and_says_so(raw, proxy):
    await proxy.stop()
    logger = MemoryLogger()
    cache = MemcachedCache(through(proxy), plugin_services(logger), load())
    starting = asyncio.create_task(cache.when_ready())
    await logger.wait_for("trying again")
    assert not starting.done()
    await proxy.restart()
    async with asyncio.timeout(PATIENCE):
        await starting
    await cache.set("r", 1, {})
    await cache.close()


async def test_commands_survive_a_lost_connection(raw, proxy):
    async with started(MemcachedCache, through(proxy, commandTimeout=20_000)) as cache:
        running = True
        written = {}

        async def work(name):
            version = 0
            while running:
                version += 1
                await cache.set(name, version, {"version": version})
                written[name] = version
                assert await cache.get(name) == (version, {"version": version})

        workers = [asyncio.create_task(work(f"r{i}")) for i in range(20)]
        for cuts in range(40):
            seen = proxy.accepted
            proxy.cut_after(1 + cuts * 97)
            await proxy.wait_for_connections(seen + 1)
        running = False
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*workers)
        for name, version in written.items():
            item = b'{"version":%d,"data":{"version":%d}}' % (version, version)
            assert item in await raw.get(name.encode())


async def test_a_server_that_says_nothing(raw, proxy):
    async with started(MemcachedCache, through(proxy, commandTimeout=200)) as cache:
        await cache.set("r", 1, {"a": 1})
        proxy.stall()
        for call in (cache.get("r"), cache.set("r", 2, {}), cache.head_bulk(["r"]), cache.delete("r")):
            with pytest.raises(PluginError, match="did not answer within 200 ms"):
                async with asyncio.timeout(PATIENCE):
                    await call
        proxy.resume()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await cache.set("again", 3, {"a": 3})
                    break
                except PluginError:
                    continue
        assert await cache.get("again") == (3, {"a": 3})


async def test_one_of_several_servers_dies_and_comes_back_empty():
    """Its items are missing afterwards, which the storage makes good; the others do not notice."""
    servers = [MemcachedProcess() for _ in range(2)]
    try:
        logger = MemoryLogger()
        options = {"serverLocation": [server.location for server in servers], "commandTimeout": 300}
        async with started(MemcachedCache, options, logger=logger) as cache:
            names = [f"r{i}" for i in range(40)]
            await asyncio.gather(*(cache.set(name, 1, {}) for name in names))
            servers[0].kill()
            results = await asyncio.gather(*(cache.get(name) for name in names), return_exceptions=True)
            lost = [
                name for name, result in zip(names, results, strict=True) if isinstance(result, PluginError)
            ]
            assert 0 < len(lost) < 40
            assert [result for result in results if not isinstance(result, PluginError)] == [(1, {})] * (
                40 - len(lost)
            )
            servers[0].start()
            await logger.wait_for("memcached is back")
            assert (await cache.head_bulk(names))[1] == lost
            await cache.set(lost[0], 2, {})
            assert await cache.get(lost[0]) == (2, {})
    finally:
        for server in servers:
            server.kill()


async def test_memory_is_bounded_while_the_server_is_away(raw, proxy):
    async with started(MemcachedCache, through(proxy, maxQueueBytes=10_000)) as cache:
        await proxy.stop()
        calls = []
        for i in range(30):
            calls.append(asyncio.create_task(cache.set(f"r{i}", 1, {"x": "y" * 1000})))
            await asyncio.sleep(0)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert 15 < len([result for result in results if "too slow" in str(result)]) < 30


# ---- with a server


async def test_a_server_with_memcached(memcached_servers, raw):
    await raw.put(b"prepared", b'{"version":7,"data":{"by":"deepstream"}}')
    options = {"serverLocation": memcached_servers[0].location}
    config = {"cache": {"class": MemcachedCache, "options": options}}
    async with serve(config, storage=GatedStorage) as running:
        client = await RecordClient.login(running)
        assert await client.read("prepared") == (7, {"by": "deepstream"})
        await client.set("written", {"a": [1, 2]})
        assert b'"data":{"a":[1,2]}}' in await raw.get(b"written")
        await raw.say(b"flush_all\r\n")  # memcached forgets what it likes
        assert (await client.read("written"))[1] == {"a": [1, 2]}
        client.send(R.DELETE, name="written")
        await client.expect(R.DELETE_SUCCESS, name="written")
        assert await raw.get(b"written") == b"END\r\n"
