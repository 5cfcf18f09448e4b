"""The Redis cache against real servers: the contract, upstream's layout, faults, sentinels and a cluster."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest
import redis
import xxhash

from dsfast.config import load
from dsfast.plugin import LogLevel, PluginError
from dsfast.server import StartError
from dsfast.testing import CacheConformance, FaultProxy, MemoryLogger, plugin_services, started
from dsfast_plugins.options import OptionError
from dsfast_plugins.pipeline import Refused
from dsfast_plugins.redis import RedisCache
from dsfast_plugins.redis.options import redis_options
from tests.plugins.servers import RedisProcess, free_port, until
from tests.record_client import GatedStorage, R, RecordClient
from tests.wire import serve

loops = ["uvloop"]  # as the server
PATIENCE = 20


@pytest.fixture
def raw(redis_server):
    """A plain client; the database is empty before and after the test."""
    client = redis.Redis(port=redis_server.port)
    client.flushall()
    yield client
    client.flushall()
    client.close()


@pytest.fixture
async def cache(redis_server, raw):
    async with started(RedisCache, {"port": redis_server.port}) as cache:
        yield cache


class TestStandalone(CacheConformance):
    plugin_class = RedisCache

    @pytest.fixture
    def options(self, redis_server):
        return {"port": redis_server.port, "commandTimeout": 20_000}


class TestUnixSocketWithTtl(CacheConformance):
    plugin_class = RedisCache

    @pytest.fixture
    def options(self, redis_server):
        return {
            "path": str(redis_server.socket),
            "ttl": 600,
            "db": 3,
            "keyPrefix": "kit:",
            "commandTimeout": 20_000,
        }


# ---- the layout


async def test_writes_upstreams_layout(cache, raw):
    await cache.set("user/1", 17, {"a": 1})
    await cache.set("a list", 0, ["x", "y"])
    assert raw.mget("user/1_v", "user/1_d", "a list_v", "a list_d") == [b"17", b'{"a":1}', b"0", b'["x","y"]']
    assert raw.dbsize() == 4
    assert raw.ttl("user/1_v") == -1
    await cache.delete("user/1")
    assert sorted(raw.keys()) == [b"a list_d", b"a list_v"]


async def test_reads_upstreams_layout(cache, raw):
    raw.mset({"r_v": "0", "r_d": "{}", "s_v": "12", "s_d": ' { "a" : [1] } ', "half_v": "3", "other_d": "{}"})
    assert await cache.get("r") == (0, {})
    assert await cache.get("s") == (12, {"a": [1]})
    assert await cache.get("half") == (-1, None)
    assert await cache.get("other") == (-1, None)
    assert await cache.head_bulk(["r", "s", "t"]) == ({"r": 0, "s": 12}, ["t"])


async def test_an_entry_that_is_none(cache, raw):
    raw.mset({"text_v": "1", "text_d": "{no json", "number_v": "one", "number_d": "{}"})
    raw.lpush("list_v", "1")
    with pytest.raises(PluginError, match="entry of text cannot be read"):
        await cache.get("text")
    with pytest.raises(PluginError, match="its version is no number"):
        await cache.get("number")
    assert await cache.get("list") == (-1, None)  # MGET takes a key of another type for none


async def test_key_prefix_and_database(redis_server, raw):
    async with started(RedisCache, {"port": redis_server.port, "keyPrefix": "app:", "db": 2}) as cache:
        await cache.set("r", 1, {})
    with redis.Redis(port=redis_server.port, db=2) as second:
        assert sorted(second.keys()) == [b"app:r_d", b"app:r_v"]


async def test_ttl_is_that_of_both_keys(redis_server, raw):
    async with started(RedisCache, {"port": redis_server.port, "ttl": 0.2}) as cache:
        await cache.set("r", 1, {"a": 1})
        assert 0 < raw.pttl("r_v") <= 200
        assert 0 < raw.pttl("r_d") <= 200
        assert await cache.get("r") == (1, {"a": 1})
        await until(lambda: not raw.exists("r_v", "r_d"))
        assert await cache.get("r") == (-1, None)
        assert await cache.head("r") == -1


async def test_the_form_of_server_3(redis_server, raw, cache):
    old = {"_v": 5, "_d": {"a": 1}}
    raw.mset({"old": json.dumps(old), "strange": "5", "other": '{"_v":1}'})
    assert await cache.get("old") == (-1, None)
    async with started(RedisCache, {"port": redis_server.port, "legacyRead": True}) as reader:
        assert await reader.get("old") == (5, {"a": 1})
        assert await reader.get("strange") == (-1, None)
        assert await reader.get("other") == (-1, None)
        assert await reader.get("none") == (-1, None)
    assert raw.mget("old_v", "old_d") == [b"5", b'{"a":1}']


async def test_what_upstreams_mongodb_storage_leaves_in_the_cache(redis_server, raw):
    raw.mset({"r_v": "1", "r_d": '{"ds_key":"r","ds_version":1,"a":2}'})
    config = {"storage": {"name": "mongodb"}}
    async with started(RedisCache, {"port": redis_server.port}, config=config) as cache:
        assert await cache.get("r") == (1, {"a": 2})


async def test_reads_of_one_turn_are_one_command(cache, raw):
    await cache.set("r", 1, {})
    raw.config_resetstat()
    await asyncio.gather(*(cache.get(name) for name in ["r", "r", "s", "t"] * 10))
    await asyncio.gather(*(cache.set(f"w{i}", i, {}) for i in range(50)))
    stats = raw.info("commandstats")
    assert stats["cmdstat_mget"]["calls"] == 1
    assert stats["cmdstat_mset"]["calls"] == 1


# ---- options


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"port": "many"}, "option port: expected int, got str"),
        ({"port": 70000}, "option port: expected int <= 65535"),
        ({"host": 5}, "option host: expected str, got int"),
        ({"ttl": 0}, "option ttl: expected float > 0"),
        ({"sentinels": [{"port": "x"}]}, r"option sentinels: \[0\].port: expected int, got str"),
        ({"nodes": []}, "option nodes: expected at least one entry"),
        ({"nodes": [{}], "sentinels": [{}]}, "only one of the two"),
        ({"nodes": [{}], "db": 1}, "option db: expected 0"),
        ({"role": "slave"}, "option role"),
        ({"url": "http://x"}, "option url: expected redis://"),
        ({"url": "redis://x:port/"}, "option url"),
        ({"tls": {"ca": "/no/such/file"}}, "option tls: expected PEM text or the path"),
        ({"redisOptions": 5}, "option redisOptions: expected object"),
        ({"host": 1, "db": -1}, "option host.*; option db: expected int >= 0"),
        ([], "options: expected a mapping"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(options, text):
    with pytest.raises(OptionError, match=text):
        RedisCache(options, plugin_services(), None)


def test_options_of_the_environment_are_text():
    assert redis_options({"port": "6380", "db": "2", "family": "6", "legacyRead": "true"})[0].port == 6380


def test_a_url_in_full():
    options, _ = redis_options({"url": "rediss://me:s%40cret@example.org:6380/4", "host": "elsewhere"})
    assert (options.host, options.port, options.db) == ("example.org", 6380, 4)
    assert (options.username, options.password, options.tls) == ("me", "s@cret", True)
    assert redis_options({"url": "unix:///run/redis.sock"})[0].path == "/run/redis.sock"


def test_unknown_options_are_warned_about():
    logger = MemoryLogger()
    options = {"keepAlive": 1, "keyprefix": "x", "password": "secret"}
    RedisCache(options, plugin_services(logger), load()).init()
    assert logger.texts(LogLevel.WARN) == [
        "redis cache: option keepAlive has no effect",
        "redis cache: option keyprefix is unknown, did you mean keyPrefix?",
    ]


# ---- logging in


async def test_a_wrong_password_ends_the_start(redis_server, raw):
    raw.config_set("requirepass", "secret")
    raw.execute_command("AUTH", "secret")
    try:
        for options in ({"password": "wrong"}, {}):
            with pytest.raises(Refused, match="refuses the connection"):
                async with started(RedisCache, {"port": redis_server.port, **options}):
                    pass
        options = {"port": redis_server.port, "password": "secret", "connectionName": "dsfast-test"}
        async with started(RedisCache, options) as cache:
            await cache.set("r", 1, {})
            assert "dsfast-test" in [client["name"] for client in raw.client_list()]
    finally:
        raw.config_set("requirepass", "")


async def test_a_user_with_a_password(redis_server, raw):
    raw.acl_setuser("app", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"])
    try:
        async with started(RedisCache, {"url": f"redis://app:pw@127.0.0.1:{redis_server.port}"}) as cache:
            await cache.set("r", 1, {})
            assert "app" in [client["user"] for client in raw.client_list()]
    finally:
        raw.acl_deluser("app")


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory, certificate):
    cert, key = (str(path) for path in certificate)
    port = free_port()
    settings = ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert]
    server = RedisProcess(tmp_path_factory.mktemp("redis-tls"), *settings, "--tls-port", str(port))
    server.tls_port = port
    yield server
    server.stop()


async def test_tls(tls_server, certificate):
    cert, key = certificate
    by_file = {"ca": str(cert), "cert": str(cert), "key": str(key)}
    by_text = {"ca": cert.read_text(), "cert": cert.read_text(), "key": key.read_text()}
    for tls in (by_file, by_text, {**by_text, "ca": None, "rejectUnauthorized": False}):
        async with started(RedisCache, {"port": tls_server.tls_port, "tls": tls}) as cache:
            await cache.set("r", 1, {"tls": True})
            assert await cache.get("r") == (1, {"tls": True})
    with pytest.raises(Refused, match="CERTIFICATE_VERIFY_FAILED"):
        async with started(RedisCache, {"port": tls_server.tls_port, "tls": {}}):
            pass


# ---- eviction


async def test_a_server_that_evicts_is_refused(redis_server, raw):
    options = {"port": redis_server.port}
    raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(OptionError, match="allowEviction"):
            async with started(RedisCache, options):
                pass
        async with started(RedisCache, {**options, "allowEviction": True}):
            pass
        logger = MemoryLogger()
        async with started(RedisCache, options, config={"record": {"durability": "cache"}}, logger=logger):
            assert "allkeys-lru" in logger.texts(LogLevel.WARN)[0]
    finally:
        raw.config_set("maxmemory-policy", "noeviction")


# ---- faults


@pytest.fixture
async def proxy(redis_server):
    async with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


async def test_waits_at_the_start_and_says_so(redis_server, raw, proxy):
    await proxy.stop()
    logger = MemoryLogger()
    cache = RedisCache({"port": proxy.port}, plugin_services(logger), load())
    cache.init()
    starting = asyncio.create_task(cache.when_ready())
    assert "cannot be used, trying again" in await logger.wait_for("trying again")
    assert not starting.done()
    await proxy.restart()
    async with asyncio.timeout(PATIENCE):
        await starting
    await logger.wait_for("redis is back")
    await cache.set("r", 1, {})
    await cache.close()


async def test_a_start_that_waits_in_vain_can_be_given_up(proxy):
    await proxy.stop()
    cache = RedisCache({"port": proxy.port}, plugin_services(), load())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await cache.when_ready()
    await cache.close()


async def test_commands_survive_a_lost_connection(raw, proxy):
    """Nothing is acknowledged that did not happen, nothing hangs, order holds: cuts in the middle of work."""
    options = {"port": proxy.port, "commandTimeout": 20_000, "maxRetriesPerRequest": None}
    async with started(RedisCache, options) as cache:
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
        assert cache.client._bytes == 0
        assert len(cache.client._links) == 1
        for name, version in written.items():
            assert raw.mget(f"{name}_v", f"{name}_d") == [b"%d" % version, b'{"version":%d}' % version]


async def test_connections_that_are_killed(redis_server, raw):
    options = {"port": redis_server.port, "commandTimeout": 20_000, "maxRetriesPerRequest": None}
    async with started(RedisCache, options) as cache:
        done = 0

        async def work(name):
            nonlocal done
            version = 0
            while killed < 100:
                version += 1
                await cache.set(name, version, {"v": version})
                assert (await cache.get(name))[0] == version
                done += 1

        killed = 0
        tasks = [asyncio.create_task(work(f"k{i}")) for i in range(10)]
        while killed < 100:
            killed += raw.client_kill_filter(_type="normal", skipme=True)
            before = done
            await until(lambda: done > before)  # noqa: B023 - awaited at once
        await asyncio.gather(*tasks)


async def test_a_server_that_says_nothing(redis_server, proxy):
    async with started(RedisCache, {"port": proxy.port, "commandTimeout": 200}) as cache:
        await cache.set("r", 1, {"a": 1})
        proxy.stall()
        for call in (cache.get("r"), cache.set("r", 2, {}), cache.head_bulk(["r"]), cache.delete("r")):
            with pytest.raises(PluginError, match="did not answer within 200 ms"):
                async with asyncio.timeout(PATIENCE):
                    await call
        proxy.resume()
        await _recovers(cache, proxy)


async def _recovers(cache, proxy):
    """The next calls may still fail; then all is well without a restart."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await cache.set("again", 3, {"a": 3})
                break
            except PluginError:
                continue
    assert await cache.get("again") == (3, {"a": 3})


async def test_a_server_that_is_away_for_a_while(proxy):
    logger = MemoryLogger()
    options = {"port": proxy.port, "commandTimeout": 100}
    async with started(RedisCache, options, logger=logger) as cache:
        await proxy.stop()
        for _ in range(3):
            with pytest.raises(PluginError, match="did not answer within 100 ms"):
                await cache.get("r")
        await proxy.restart()
        await _recovers(cache, proxy)
        await logger.wait_for("redis is back")
        assert len(logger.texts(LogLevel.WARN)) == 1  # once per outage


async def test_memory_is_bounded_while_the_server_is_away(proxy):
    options = {"port": proxy.port, "maxQueueBytes": 10_000}
    async with started(RedisCache, options) as cache:
        await proxy.stop()
        calls = []
        for i in range(30):
            calls.append(asyncio.create_task(cache.set(f"r{i}", 1, {"x": "y" * 1000})))
            await asyncio.sleep(0)
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if "too slow" in str(result)]
        assert 15 < len(refused) < 30
        assert all(isinstance(result, PluginError) for result in results)


async def test_without_an_offline_queue_calls_fail_at_once(proxy):
    async with started(RedisCache, {"port": proxy.port, "enableOfflineQueue": False}) as cache:
        await proxy.stop()
        with pytest.raises(PluginError, match="is away"):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await cache.get("r")


async def test_a_slow_server_is_only_slow(proxy):
    async with started(RedisCache, {"port": proxy.port, "commandTimeout": 10_000}) as cache:
        proxy.delay = 0.02
        await cache.set("r", 1, {"a": "b" * 300_000})
        assert (await cache.get("r"))[0] == 1
        assert proxy.accepted == 1


async def test_errors_of_the_server_belong_to_their_call(redis_server, raw, cache):
    raw.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(PluginError, match="OOM"):
            await cache.set("r", 1, {"x": 1})
        assert await cache.get("r") == (-1, None)
    finally:
        raw.config_set("maxmemory", "0")


async def test_what_is_no_redis(echo_server):
    logger = MemoryLogger()
    cache = RedisCache({"port": echo_server}, plugin_services(logger), load())
    starting = asyncio.create_task(cache.when_ready())
    assert "cannot be understood" in await logger.wait_for("trying again")
    starting.cancel()
    await cache.close()


@pytest.fixture
async def echo_server():
    async def answer(reader, writer):
        while await reader.read(1000):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_after_the_end_calls_fail(redis_server, cache):
    await cache.close()
    with pytest.raises(PluginError, match="closed"):
        await cache.get("r")
    with pytest.raises(PluginError, match="closed"):
        await cache.head_bulk(["r"])


# ---- sentinels


@pytest.fixture
def sentinels(tmp_path):
    """A primary, a replica, and a sentinel that looks after them."""
    primary = RedisProcess(tmp_path)
    replica = RedisProcess(
        tmp_path, "--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0"
    )
    sentinel = RedisProcess(
        tmp_path,
        f"sentinel monitor mine 127.0.0.1 {primary.port} 1",
        "sentinel down-after-milliseconds mine 500",
        "sentinel failover-timeout mine 2000",
        sentinel=True,
    )
    yield primary, replica, sentinel
    for server in (sentinel, replica, primary):
        server.kill()


def _sentinel_options(sentinel):
    nobody = free_port()
    return {
        "sentinels": [{"host": "127.0.0.1", "port": nobody}, {"host": "127.0.0.1", "port": sentinel.port}],
        "name": "mine",
    }


async def test_sentinels_lead_to_the_new_primary(sentinels):
    primary, replica, sentinel = sentinels
    with redis.Redis(port=sentinel.port) as asked, redis.Redis(port=replica.port) as other:
        await until(lambda: asked.sentinel_slaves("mine"))
        await until(lambda: other.info("replication")["master_link_status"] == "up")
        async with started(RedisCache, _sentinel_options(sentinel)) as cache:
            await cache.set("r", 1, {"a": 1})
            await until(lambda: other.get("r_v") == b"1")
            primary.kill()
            async with asyncio.timeout(60):
                while True:
                    try:
                        await cache.set("r", 2, {"a": 2})
                        break
                    except PluginError:
                        continue
            assert await cache.get("r") == (2, {"a": 2})
            assert other.info("replication")["role"] == "master"
            assert other.mget("r_v", "r_d") == [b"2", b'{"a":2}']


async def test_a_primary_that_became_a_replica_is_left(sentinels):
    """A switch by hand: the old primary lives on and refuses writes."""
    primary, replica, sentinel = sentinels
    with (
        redis.Redis(port=sentinel.port) as asked,
        redis.Redis(port=primary.port) as old,
        redis.Redis(port=replica.port) as new,
    ):
        await until(lambda: asked.sentinel_slaves("mine"))
        await until(lambda: new.info("replication")["master_link_status"] == "up")
        async with started(RedisCache, {**_sentinel_options(sentinel), "commandTimeout": 20_000}) as cache:
            await cache.set("r", 1, {"a": 1})
            await until(lambda: new.get("r_v") == b"1")
            await until(lambda: asked.sentinel_slaves("mine")[0]["is_slave"])
            new.replicaof("NO", "ONE")
            old.replicaof("127.0.0.1", replica.port)
            asked.execute_command("SENTINEL", "REMOVE", "mine")
            asked.execute_command("SENTINEL", "MONITOR", "mine", "127.0.0.1", replica.port, 1)
            await cache.set("r", 2, {"a": 2})
            assert new.mget("r_v", "r_d") == [b"2", b'{"a":2}']


async def test_a_group_that_no_sentinel_knows(sentinels):
    logger = MemoryLogger()
    options = {**_sentinel_options(sentinels[2]), "name": "other"}
    cache = RedisCache(options, plugin_services(logger), load())
    starting = asyncio.create_task(cache.when_ready())
    await logger.wait_for("trying again")
    starting.cancel()
    await cache.close()


# ---- a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three primaries without replicas."""
    directory = tmp_path_factory.mktemp("cluster")
    nodes = []
    for i in range(3):
        bus = str(free_port())
        settings = ["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000"]
        nodes.append(RedisProcess(directory / str(i), *settings, "--cluster-require-full-coverage", "no"))
        nodes[-1].bus = bus
    clients = [redis.Redis(port=node.port) for node in nodes]
    for i, client in enumerate(clients):
        first, last = 16384 * i // 3, 16384 * (i + 1) // 3 - 1
        client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        if i:
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, nodes[0].bus)
    deadline = time.monotonic() + 60
    while any(_cluster_view(client) != (3, "ok") for client in clients):
        assert time.monotonic() < deadline, "the cluster does not come together"
        time.sleep(0.05)
    yield nodes
    for client, node in zip(clients, nodes, strict=True):
        client.close()
        node.kill()


def _cluster_view(client):
    info = client.execute_command("CLUSTER INFO")
    info = (
        info
        if isinstance(info, dict)
        else dict(line.split(":") for line in info.decode().split("\r\n") if line)
    )
    return int(info["cluster_known_nodes"]), info["cluster_state"]


def _cluster_options(cluster):
    return {"nodes": [{"host": "127.0.0.1", "port": cluster[0].port}], "redisOptions": {"keyPrefix": "k:"}}


class TestCluster(CacheConformance):
    plugin_class = RedisCache

    @pytest.fixture
    def options(self, cluster):
        return {**_cluster_options(cluster), "commandTimeout": 20_000}


async def test_cluster_keys_carry_the_tag_of_their_part(cluster):
    async with started(RedisCache, _cluster_options(cluster)) as cache:
        names = [f"tagged/{i}" for i in range(100)]
        await asyncio.gather(*(cache.set(name, 1, {}) for name in names))
        keys = set()
        for node in cluster:
            with redis.Redis(port=node.port) as client:
                found = {key.decode() for key in client.keys("*tagged/*")}
                assert found, "every node has some"
                keys |= found
        assert len(keys) == 200
        assert keys == {
            f"{{ds:{xxhash.xxh3_64_intdigest(name.encode()) % 16}}}k:{name}_{end}"
            for name in names
            for end in "vd"
        }
        await cache.delete_bulk(names)


async def test_slots_may_move_while_in_use(cluster):
    """A slot goes from one node to another key by key; its records wait for that, nothing is lost."""
    options = {**_cluster_options(cluster), "commandTimeout": 20_000}
    async with started(RedisCache, options) as cache, AsyncExitStack() as stack:
        names = [name for i in range(400) if cache.lane((name := f"moving/{i}").encode()) == 3]
        assert len(names) > 10
        await asyncio.gather(*(cache.set(name, 1, {"n": name}) for name in names))
        clients = [stack.enter_context(redis.Redis(port=node.port)) for node in cluster]
        ids = [client.execute_command("CLUSTER MYID").decode() for client in clients]
        slot = clients[0].execute_command("CLUSTER KEYSLOT", "{ds:3}")
        source = min(slot * 3 // 16384, 2)
        target = (source + 1) % 3
        old, new = clients[source], clients[target]
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
        keys = old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000)
        moves = [("MIGRATE", "127.0.0.1", cluster[target].port, key, 0, 5000) for key in keys]
        for move in moves[: len(moves) // 2]:
            old.execute_command(*move)
        calls = [asyncio.create_task(cache.get(name)) for name in names]
        calls += [asyncio.create_task(cache.set(name, 2, {})) for name in names]
        assert await cache.get("elsewhere") == (-1, None)
        for move in moves[len(moves) // 2 :]:
            old.execute_command(*move)
            await asyncio.sleep(0)
        for client in (new, old):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])
        results = await asyncio.gather(*calls)
        assert results == [(1, {"n": name}) for name in names] + [None] * len(names)
        assert await cache.head_bulk(names) == (dict.fromkeys(names, 2), [])


async def test_nodes_that_are_no_cluster(redis_server):
    with pytest.raises(Refused, match="no node of a Redis Cluster"):
        async with started(RedisCache, {"nodes": [{"host": "127.0.0.1", "port": redis_server.port}]}):
            pass


async def test_one_node_of_a_cluster_is_away(cluster):
    """Its part of the records fails, the others do not notice; a restart brings it back."""
    async with started(RedisCache, {**_cluster_options(cluster), "commandTimeout": 300}) as cache:
        names = [f"away/{i}" for i in range(64)]
        await asyncio.gather(*(cache.set(name, 1, {}) for name in names))
        cluster[1].kill()
        results = await asyncio.gather(*(cache.get(name) for name in names), return_exceptions=True)
        lost = {name for name, result in zip(names, results, strict=True) if isinstance(result, PluginError)}
        kept = [result for result in results if not isinstance(result, PluginError)]
        assert lost
        assert kept == [(1, {})] * (64 - len(lost))
        cluster[1].start()
        async with asyncio.timeout(60):
            for name in lost:
                while True:
                    try:
                        await cache.set(name, 2, {})
                        break
                    except PluginError:
                        continue
        assert (await cache.head_bulk(names))[1] == []


# ---- with a server


async def test_a_server_with_redis(redis_server, raw):
    """Through the wire: what clients write is in Redis, and what Redis has is what they read."""
    raw.mset({"prepared_v": "7", "prepared_d": '{"by":"deepstream"}'})
    config = {"cache": {"class": RedisCache, "options": {"port": redis_server.port}}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert await client.read("prepared") == (7, {"by": "deepstream"})
        await client.set("written", {"a": [1, 2]})
        assert raw.get("written_d") == b'{"a":[1,2]}'
        client.send(R.PATCH, name="written", version=int(raw.get("written_v")) + 1, path="b", data=1.0)
        assert (await client.read("written"))[1] == {"a": [1, 2], "b": 1}
        assert raw.get("written_d") == b'{"a":[1,2],"b":1}'
        client.send(R.DELETE, name="written")
        await client.expect(R.DELETE_SUCCESS, name="written")
        assert not raw.exists("written_v", "written_d")
        client.send(R.SUBSCRIBEANDHEAD, names=["prepared", "nothing"], correlation_id="h")
        heads = await client.receive()
        assert heads.action in (R.HEAD_RESPONSE_BULK, R.SUBSCRIBE)


async def test_a_record_whose_cache_entry_expired_before_it_was_stored(redis_server, raw):
    """A ttl never loses what the storage does not have yet."""
    options = {"port": redis_server.port, "ttl": 0.1}
    async with serve({"cache": {"class": RedisCache, "options": options}}, storage=GatedStorage) as running:
        storage = running.services.storage
        storage.gate.block("set")
        client = await RecordClient.login(running)
        client.send(R.CREATEANDUPDATE, name="r", version=-1, data={"a": 1})
        await storage.gate.called("set")
        await until(lambda: not raw.exists("r_v", "r_d"))
        assert (await client.read("r"))[1] == {"a": 1}
        storage.gate.release("set")


async def test_a_server_whose_redis_goes_away(redis_server, raw, proxy):
    config = {
        "cache": {"class": RedisCache, "options": {"port": proxy.port}},
        "record": {"cacheRetrievalTimeout": 100},
    }
    async with serve(config) as running:
        client = await RecordClient.login(running)
        await client.set("r", {"a": 1})
        await proxy.stop()
        client.send(R.READ, name="r")
        message = await client.receive()
        assert message.action in (R.CACHE_RETRIEVAL_TIMEOUT, R.RECORD_LOAD_ERROR)
        await client.fence()
        await proxy.restart()
        await running.log.wait_for("INFO")
        await running.until(lambda: any("redis is back" in text for text in running.log.find("INFO")))
        assert (await client.read("r"))[1] == {"a": 1}
    assert not [line for line in running.log.lines if "exception" in line[2].lower()]


async def test_a_server_with_wrong_options_does_not_start(redis_server):
    with pytest.raises(StartError, match="cache: option port: expected int, got str"):
        async with serve({"cache": {"class": RedisCache, "options": {"port": "six"}}}):
            pass
