"""The RethinkDB storage against a stand-in that speaks RethinkDB's protocol."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.server import StartError
from dsfast.services.storage import PermanentStorageError, StorageError, TransientStorageError, WriteOp
from dsfast.testing import FaultProxy, MemoryLogger, StorageConformance, plugin_services, started
from dsfast_plugins.options import OptionError
from dsfast_plugins.rethinkdb import RethinkdbStorage, document_id
from tests.plugins.rethink_fake import FakeRethink, ReqlError
from tests.record_client import R, RecordClient
from tests.wire import serve

loops = ["uvloop"]
PATIENCE = 30


@pytest.fixture
async def server():
    async with FakeRethink() as server:
        yield server


def options_for(server, **more):
    return {"host": "127.0.0.1", "port": server.port, **more}


@pytest.fixture
def options(server):
    return options_for(server)


@pytest.fixture
async def storage(options):
    async with started(RethinkdbStorage, options) as storage:
        yield storage


class TestUnsplit(StorageConformance):
    plugin_class = RethinkdbStorage
    bulk = 1000

    @pytest.fixture
    def options(self, server):
        return options_for(server)


class TestSplitWithVersionKey(StorageConformance):
    plugin_class = RethinkdbStorage
    bulk = 1000

    @pytest.fixture
    def options(self, server):
        return options_for(server, splitChar="/", versionKey="version", primaryKey="id")


# ---- the form


async def test_writes_upstreams_documents(storage, server):
    await storage.set("user/1", 3, {"a": {"b": 1}})
    await storage.set("list", 0, ["x"])
    assert server.table("deepstream_records") == {
        "user/1": {"ds_id": "user/1", "__ds": {"_v": 3}, "a": {"b": 1}},
        "list": {"ds_id": "list", "__ds": {"_v": 0}, "__dsList": ["x"]},
    }
    assert {"primary_key": "ds_id", "durability": "soft"} in server.options  # of the table
    assert server.options[-1]["durability"] == "hard"


async def test_tables_and_versions_in_a_field(server):
    options = options_for(server, db="app", splitChar="-", versionKey="v", primaryKey="id", durability="soft")
    async with started(RethinkdbStorage, options) as storage:
        for name in ("user-1", "us er-1", "-1", "plain", "ä-1"):
            await storage.set(name, 2, {"n": name})
            assert await storage.get(name) == (2, {"n": name})
    assert sorted(server.databases["app"]) == ["deepstream_records", "user"]
    assert server.table("user", "app") == {"1": {"id": "1", "v": 2, "n": "user-1"}}
    assert sorted(server.table("deepstream_records", "app")) == ["-1", "plain", "us er-1", "ä-1"]
    assert server.options[-1]["durability"] == "soft"


async def test_upstreams_documents_are_read_and_guarded(storage, server):
    table = server.table("deepstream_records")
    table["r"] = {"ds_id": "r", "__ds": {"_v": 7}, "a": 1}
    table["s"] = {"ds_id": "s", "__dsList": [1], "__ds": {"_v": 2}}
    table["t"] = {"ds_id": "t", "strange": True}
    assert await storage.get("r") == (7, {"a": 1})
    assert await storage.get("s") == (2, [1])
    assert await storage.get("t") == (0, {"strange": True})
    ops = [WriteOp("r", 6, b"{}"), WriteOp("s", 3, b'{"new":1}'), WriteOp("t", 0, b"[]")]
    assert await storage.write_batch(ops) == [None] * 3
    assert await storage.get("r") == (7, {"a": 1})
    assert table["s"] == {"ds_id": "s", "__ds": {"_v": 3}, "new": 1}
    assert await storage.get("t") == (0, [])


async def test_long_names_and_those_that_look_like_a_hash(storage, server):
    long = "\U0001f600" * 64
    hashed = hashlib.sha256(long.encode()).hexdigest()
    assert document_id(long) == hashed
    assert document_id("\U0001f600" * 63) == "\U0001f600" * 63
    await storage.set(long, 1, {"long": True})
    assert server.table("deepstream_records")[hashed]["__ds"] == {"_v": 1, "fullKey": long}
    assert await storage.get(hashed) == (-1, None)
    await storage.set(hashed, 2, {"long": False})
    assert await storage.get(long) == (1, {"long": True})


@pytest.mark.parametrize(
    "data", [{"__ds": 1}, {"ds_id": "x"}, {"n": 2**53 + 1}, {"a": {"$reql_type$": "TIME"}}]
)
async def test_what_would_mean_something_else_is_kept_as_text(storage, server, data):
    await storage.set("r", 1, data)
    assert sorted(server.table("deepstream_records")["r"]) == ["__ds", "__dsJson", "ds_id"]
    assert await storage.get("r") == (1, data)


async def test_errors_of_one_record(storage):
    ops = [WriteOp("a", 1, b"{}"), WriteOp("b", 2**53, b"{}"), WriteOp("c", 1, b"[]")]
    results = await storage.write_batch(ops)
    assert [type(result) for result in results] == [type(None), PermanentStorageError, type(None)]
    assert await storage.get("c") == (1, [])


async def test_a_table_that_somebody_drops(storage, server):
    await storage.set("r", 1, {})
    server.databases["deepstream"].clear()
    assert await storage.get("r") == (-1, None)
    await storage.delete("r")
    await storage.set("r", 2, {"a": 2})
    assert await storage.get("r") == (2, {"a": 2})


# ---- options and logging in


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "option host: is required; option port: is required"),
        ({"host": "h", "port": "x"}, "option port: expected int"),
        ({"host": "h", "port": 1, "db": "a b"}, "option db: expected letters"),
        ({"host": "h", "port": 1, "durability": "none"}, "option durability"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(given, text):
    with pytest.raises(OptionError, match=text):
        RethinkdbStorage(given, plugin_services(), load())


def test_options_without_effect_are_warned_about():
    logger = MemoryLogger()
    given = {"host": "h", "port": 1, "database": "d", "splitchar": "/"}
    RethinkdbStorage(given, plugin_services(logger), load()).init()
    assert logger.texts(LogLevel.WARN) == [
        "rethinkdb storage: option database has no effect",
        "rethinkdb storage: option splitchar is unknown, did you mean splitChar?",
    ]


async def test_a_password():
    async with FakeRethink("s@cret") as server:
        for login in ({"password": "s@cret"}, {"authKey": "s@cret"}):
            async with started(RethinkdbStorage, options_for(server, **login)) as storage:
                await storage.set("r", 1, {})
        with pytest.raises(StorageError, match="Wrong password"):
            async with started(RethinkdbStorage, options_for(server, password="wrong")):
                pass


# ---- faults


@pytest.fixture
async def proxy(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy


async def test_waits_at_the_start_and_says_so(proxy):
    await proxy.stop()
    logger = MemoryLogger()
    storage = RethinkdbStorage(options_for(proxy), plugin_services(logger), load())
    starting = asyncio.create_task(storage.when_ready())
    await logger.wait_for("trying again")
    assert not starting.done()
    await proxy.restart()
    async with asyncio.timeout(PATIENCE):
        await starting
    await storage.set("r", 1, {})
    await storage.close()


async def test_a_server_that_is_away_or_says_nothing(proxy):
    async with started(RethinkdbStorage, options_for(proxy, commandTimeout=300)) as storage:
        await storage.set("r", 1, {})
        for begin, end in ((proxy.stop, proxy.restart), (_async(proxy.stall), _async(proxy.resume))):
            await begin()
            async with asyncio.timeout(PATIENCE):
                results = await asyncio.gather(*(storage.get("r") for _ in range(9)), return_exceptions=True)
            assert {type(result) for result in results} == {TransientStorageError}
            with pytest.raises(TransientStorageError):
                await storage.set("r", 2, {})
            await end()
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        await storage.set("r", 3, {})
                        break
                    except TransientStorageError:
                        continue
            assert await storage.get("r") == (3, {})


def _async(function):
    async def call():
        function()

    return call


async def test_errors_that_go_away(storage, server):
    server.errors.append(ReqlError(4_100_000, "Cannot perform write: primary replica not available"))
    with pytest.raises(TransientStorageError, match="primary replica"):
        await storage.set("r", 1, {})
    await storage.set("r", 1, {})


async def test_after_the_end_calls_fail(storage):
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await storage.get("r")


# ---- with a server


async def test_a_server_with_rethinkdb(server, options):
    server.table("deepstream_records")["old"] = {"ds_id": "old", "__ds": {"_v": 7}, "by": "deepstream"}
    config = {"storage": {"class": RethinkdbStorage, "options": options}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert await client.read("old") == (7, {"by": "deepstream"})
        await client.set("book/1", {"a": 1})
        client.send(R.DELETE, name="old")
        await client.expect(R.DELETE_SUCCESS, name="old")
        assert list(server.table("deepstream_records")) == ["book/1"]
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert (await client.read("book/1"))[1] == {"a": 1}


async def test_a_server_with_wrong_options_does_not_start():
    with pytest.raises(StartError, match="storage: option host: is required"):
        async with serve({"storage": {"class": RethinkdbStorage, "options": {"port": 1}}}):
            pass
