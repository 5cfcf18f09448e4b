"""The MongoDB storage: the contract and upstream's form against a stand-in that speaks MongoDB's protocol.

``DSFAST_MONGODB_URL`` names a real server to run the contract against as well.
"""

from __future__ import annotations

import asyncio
import datetime
import os

import bson
import pytest

from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.server import StartError
from dsfast.services.storage import PermanentStorageError, StorageError, TransientStorageError, WriteOp
from dsfast.testing import FaultProxy, MemoryLogger, StorageConformance, plugin_services, started
from dsfast_plugins.mongodb import MongodbStorage
from dsfast_plugins.options import OptionError
from tests.plugins.mongo_fake import FakeMongo
from tests.record_client import R, RecordClient
from tests.wire import serve

loops = ["uvloop"]
PATIENCE = 30
REAL = os.environ.get("DSFAST_MONGODB_URL")


@pytest.fixture
async def server():
    async with FakeMongo() as server:
        yield server


def options_for(server, **more):
    return {"connectionString": f"mongodb://127.0.0.1:{server.port}/", **more}


@pytest.fixture
def options(server):
    return options_for(server)


@pytest.fixture
async def storage(options):
    async with started(MongodbStorage, options) as storage:
        yield storage


class TestStandIn(StorageConformance):
    plugin_class = MongodbStorage
    bulk = 1000

    @pytest.fixture
    def options(self, server):
        return options_for(server)


@pytest.mark.skipif(not REAL, reason="DSFAST_MONGODB_URL is not set")
class TestReal(StorageConformance):
    plugin_class = MongodbStorage

    @pytest.fixture
    def options(self):
        return {"connectionString": REAL, "db": "dsfast_test"}


# ---- the form


async def test_writes_upstreams_documents(storage, server):
    await storage.set("user/1/2", 3, {"a": {"b": 1}})
    await storage.set("plain", 0, ["x", {"y": None}])
    assert server.docs("user") == [{"_id": "1/2", "ds_key": "1/2", "ds_version": 3, "a": {"b": 1}}]
    assert server.docs("deepstream_docs") == [
        {"_id": "plain", "ds_key": "plain", "ds_version": 0, "ds_list": ["x", {"y": None}]}
    ]
    assert server.indexes == {("test", "user"): ["ds_key_1"], ("test", "deepstream_docs"): ["ds_key_1"]}
    assert server.concerns[-1] == {"w": "majority", "j": True}


async def test_no_key_of_an_older_version_comes_back(storage, server):
    await storage.set("t/r", 1, {"old": 1, "both": 1})
    await storage.set("t/r", 2, {"both": 2})
    assert server.docs("t") == [{"_id": "r", "ds_key": "r", "ds_version": 2, "both": 2}]
    await storage.set("t/r", 3, [1])
    await storage.set("t/r", 4, {"object": True})
    assert await storage.get("t/r") == (4, {"object": True})


UPSTREAM = [
    ({"ds_key": "r", "ds_version": 4, "a": 1}, (4, {"a": 1})),
    ({"ds_key": "r", "ds_version": 4.0, "ds_list": [1]}, (4, [1])),
    ({"ds_key": "r", "ds_version": 0}, (0, {})),
    ({"ds_key": "r", "__ds": {"_v": 7}, "a": 1}, (7, {"a": 1})),
    ({"ds_key": "r", "__ds": {"_v": 7}, "__dsList": ["x"]}, (7, ["x"])),
]


@pytest.mark.parametrize(("document", "expected"), UPSTREAM)
async def test_reads_upstreams_documents_and_replaces_them(storage, server, document, expected):
    identity = bson.ObjectId()
    server.docs("t").append({"_id": identity, **document})
    assert await storage.get("t/r") == expected
    await storage.set("t/r", expected[0] + 1, {"new": 1})
    assert server.docs("t") == [{"_id": identity, "ds_key": "r", "ds_version": expected[0] + 1, "new": 1}]


async def test_several_documents_of_one_record(storage, server):
    """Upstream's servers could make them; the highest version counts, the next write tidies up."""
    server.docs("t").extend(
        {"_id": bson.ObjectId(), "ds_key": "r", "ds_version": version, "v": version} for version in (3, 9, 5)
    )
    assert await storage.get("t/r") == (9, {"v": 9})
    await storage.set("t/r", 8, {"older": True})
    assert await storage.get("t/r") == (9, {"v": 9})
    await storage.set("t/r", 10, {"v": 10})
    assert [document["ds_version"] for document in server.docs("t")] == [10]


@pytest.mark.parametrize(
    "data",
    [
        {"_id": 1},
        {"ds_version": 5},
        {"ds_list": [1]},
        {"__ds": {}},
        {"a.b": 1},
        {"a": [{"$set": 1}]},
        [{"x": {"\0": 1}}],
        {"n": 2**64 - 1},
        {"s": "\ud800"},
    ],
)
async def test_what_would_mean_something_else_is_kept_as_text(storage, server, data):
    await storage.set("t/r", 1, data)
    [document] = server.docs("t")
    assert sorted(document) == ["_id", "ds_json", "ds_key", "ds_version"]
    assert await storage.get("t/r") == (1, data)


async def test_values_that_others_have_written(storage, server):
    identity = bson.ObjectId()
    values = {
        "date": datetime.datetime(2020, 1, 2, 3, 4, 5, 678000),
        "id": identity,
        "long": bson.Int64(5),
        "binary": b"\x01",
        "decimal": bson.Decimal128("1.50"),
        "nested": [{"id": identity}],
    }
    server.docs("t").append({"_id": 1, "ds_key": "r", "ds_version": 1, **values})
    assert await storage.get("t/r") == (
        1,
        {
            "date": "2020-01-02T03:04:05.678Z",
            "id": str(identity),
            "long": 5,
            "binary": "AQ==",
            "decimal": "1.50",
            "nested": [{"id": str(identity)}],
        },
    )


async def test_names_that_are_no_collection(storage, server):
    names = ["/x", "$a/x", "system.users/x", "n" * 300 + "/x", "nul\0/x", "a..b/x"]
    for number, name in enumerate(names):
        await storage.set(name, number, {})
        assert await storage.get(name) == (number, {})
    assert [document["ds_key"] for document in server.docs("deepstream_docs")] == names


async def test_errors_of_one_record(storage):
    ops = [
        WriteOp("t/a", 1, b"{}"),
        WriteOp("t/b", 2**63, b"{}"),
        WriteOp("t/c", 1, b'{"x":"' + b"y" * 17_000_000 + b'"}'),
        WriteOp("t/d", 2**62, b"[]"),
    ]
    results = await storage.write_batch(ops)
    assert [type(result) for result in results] == [
        type(None), PermanentStorageError, PermanentStorageError, type(None),
    ]  # fmt: skip
    assert await storage.get("t/a") == (1, {})
    assert await storage.get("t/d") == (2**62, [])


# ---- races


async def test_another_server_creates_the_record_first(storage, server):
    await storage.set("t/other", 1, {})
    theirs = {"_id": "r", "ds_key": "r", "ds_version": 5, "theirs": True}
    server.before["insert"] = lambda: server.docs("t").append(dict(theirs))
    assert await storage.write_batch([WriteOp("t/r", 3, b"{}"), WriteOp("t/s", 1, b"{}")]) == [None, None]
    assert await storage.get("t/r") == (5, {"theirs": True})
    assert await storage.get("t/s") == (1, {})
    server.before["insert"] = lambda: server.docs("t").append({**theirs, "_id": "q", "ds_key": "q"})
    await storage.set("t/q", 6, {"ours": True})
    assert await storage.get("t/q") == (6, {"ours": True})


async def test_another_server_writes_or_deletes_meanwhile(storage, server):
    await storage.set("t/r", 1, {})
    await storage.set("t/s", 1, {})

    def meanwhile():
        server.docs("t")[0]["ds_version"] = 9
        del server.docs("t")[1]

    server.before["update"] = meanwhile
    assert await storage.write_batch([WriteOp("t/r", 3, b"{}"), WriteOp("t/s", 3, b"[]")]) == [None, None]
    assert (await storage.get("t/r"))[0] == 9
    assert await storage.get("t/s") == (3, [])


# ---- options


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "option connectionString: is required"),
        ({"connectionString": 5}, "option connectionString: expected str"),
        ({"connectionString": "http://x"}, "options connectionString, writeConcern"),
        (
            {"connectionString": "mongodb://x", "writeConcern": {"k": 1}},
            "options .*writeConcern",
        ),
        ({"connectionString": "mongodb://x", "writeInterval": "x"}, "option writeInterval: expected int"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(given, text):
    with pytest.raises(OptionError, match=text):
        MongodbStorage(given, plugin_services(), load())


async def test_names_of_upstreams_documentation(server):
    logger = MemoryLogger()
    wrong = {"database": "app", "defaultTable": "docs"}
    async with started(MongodbStorage, options_for(server, **wrong), logger=logger) as storage:
        await storage.set("r", 1, {})
    assert [text.partition(" has no effect")[0] for text in logger.texts(LogLevel.WARN)] == [
        "mongodb storage: option database",
        "mongodb storage: option defaultTable",
    ]
    assert server.docs("deepstream_docs", "test")
    async with started(MongodbStorage, options_for(server, **wrong, honourDocumentedNames=True)) as storage:
        await storage.set("r", 1, {})
    assert server.docs("docs", "app")
    url = {"connectionString": f"mongodb://127.0.0.1:{server.port}/of_the_url"}
    async with started(MongodbStorage, {**url, "splitChar": "-", "defaultCollection": "rest"}) as storage:
        await storage.set("a-b", 1, {})
        await storage.set("a/b", 1, {})
    assert server.docs("a", "of_the_url")
    assert server.docs("rest", "of_the_url")
    async with started(MongodbStorage, {**url, "db": "named"}) as storage:
        await storage.set("r", 1, {})
    assert server.docs("deepstream_docs", "named")


async def test_a_wrong_password_ends_the_start(server, options):
    server.failures.append(("ping", {"ok": 0.0, "code": 18, "errmsg": "Authentication failed."}))
    with pytest.raises(StorageError, match="Authentication failed"):
        async with started(MongodbStorage, options):
            pass


# ---- faults


@pytest.fixture
async def proxy(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy


async def test_waits_at_the_start_and_says_so(proxy):
    await proxy.stop()
    logger = MemoryLogger()
    storage = MongodbStorage(options_for(proxy), plugin_services(logger), load())
    starting = asyncio.create_task(storage.when_ready())
    await logger.wait_for("trying again")
    assert not starting.done()
    await proxy.restart()
    async with asyncio.timeout(PATIENCE):
        await starting
    await storage.set("t/r", 1, {})
    await storage.close()


async def test_a_lost_server_is_a_transient_error(proxy):
    async with started(MongodbStorage, options_for(proxy, commandTimeout=500)) as storage:
        await storage.set("t/r", 1, {})
        await proxy.stop()
        with pytest.raises(TransientStorageError):
            await storage.set("t/r", 2, {})
        with pytest.raises(TransientStorageError):
            await storage.get("t/r")
        await proxy.restart()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await storage.set("t/r", 3, {})
                    break
                except TransientStorageError:
                    continue
        assert await storage.get("t/r") == (3, {})


async def test_a_server_that_says_nothing(proxy):
    async with started(MongodbStorage, options_for(proxy, commandTimeout=200)) as storage:
        await storage.set("t/r", 1, {})
        proxy.stall()
        async with asyncio.timeout(PATIENCE):
            for call in (storage.get("t/r"), storage.set("t/r", 2, {})):
                with pytest.raises(TransientStorageError):
                    await call
        proxy.resume()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await storage.set("t/r", 5, {"a": 5})
                    break
                except TransientStorageError:
                    continue
        assert await storage.get("t/r") == (5, {"a": 5})


@pytest.mark.parametrize("code", [189, 11600, 64])
async def test_errors_that_go_away(storage, server, code):
    await storage.set("t/r", 1, {})
    server.failures.append(("update", {"ok": 0.0, "code": code, "errmsg": "not now"}))
    server.failures.append(("update", {"ok": 0.0, "code": code, "errmsg": "not now"}))
    with pytest.raises(TransientStorageError, match="not now"):
        await storage.set("t/r", 2, {})


async def test_after_the_end_calls_fail(storage):
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await storage.get("t/r")


# ---- with a server


async def test_a_server_with_mongodb(server, options):
    server.docs("book").append({"_id": bson.ObjectId(), "ds_key": "1", "ds_version": 7, "by": "deepstream"})
    config = {"storage": {"class": MongodbStorage, "options": options}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert await client.read("book/1") == (7, {"by": "deepstream"})
        await client.set("book/2", {"a": 1})
        assert server.docs("book")[1]["a"] == 1
        client.send(R.DELETE, name="book/1")
        await client.expect(R.DELETE_SUCCESS, name="book/1")
        assert len(server.docs("book")) == 1
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert (await client.read("book/2"))[1] == {"a": 1}


async def test_a_server_with_wrong_options_does_not_start():
    with pytest.raises(StartError, match="storage: option connectionString: is required"):
        async with serve({"storage": {"class": MongodbStorage, "options": {}}}):
            pass
