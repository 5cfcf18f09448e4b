"""The Elasticsearch storage against a stand-in with real sequence numbers.

``DSFAST_ELASTICSEARCH_URL`` names a real server to run the contract against as well.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os

import pytest
from aiohttp import web

from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.server import StartError
from dsfast.services.storage import PermanentStorageError, StorageError, TransientStorageError, WriteOp
from dsfast.testing import FaultProxy, MemoryLogger, StorageConformance, plugin_services, started
from dsfast_plugins.elasticsearch import ElasticsearchStorage, document_id
from dsfast_plugins.options import OptionError
from tests.plugins.elastic_fake import FakeElastic
from tests.record_client import R, RecordClient
from tests.wire import serve

loops = ["uvloop"]
PATIENCE = 30
REAL = os.environ.get("DSFAST_ELASTICSEARCH_URL")


@pytest.fixture
async def server():
    async with FakeElastic() as server:
        yield server


def options_for(server, **more):
    return {"host": f"http://127.0.0.1:{server.port}", **more}


@pytest.fixture
def options(server):
    return options_for(server)


@pytest.fixture
async def storage(options):
    async with started(ElasticsearchStorage, options) as storage:
        yield storage


class TestStandIn(StorageConformance):
    plugin_class = ElasticsearchStorage
    bulk = 1000

    @pytest.fixture
    def options(self, server):
        return options_for(server, dataField="d")


class TestIndexPerTable(StorageConformance):
    """Without ``dataField`` a search engine refuses some records, each by itself."""

    plugin_class = ElasticsearchStorage
    bulk = 1000

    @pytest.fixture
    def options(self, server):
        return options_for(server, indexPerTable=True)

    def refuses(self, value):
        mixed = {"a": {"b": {"c": [1, 2, {"d": True}]}}}
        return value == mixed or (isinstance(value, dict) and ("" in value or "_id" in value))


@pytest.mark.skipif(not REAL, reason="DSFAST_ELASTICSEARCH_URL is not set")
class TestReal(StorageConformance):
    plugin_class = ElasticsearchStorage

    @pytest.fixture
    def options(self):
        return {"host": REAL, "index": "dsfast-test", "dataField": "d"}


# ---- the form


async def test_what_is_in_the_index(storage, server):
    await storage.set("user/1", 3, {"a": {"b": 1}})
    await storage.set("list", 0, ["x", 1])
    documents = {key: document["_source"] for key, document in server.indices["deepstream"].items()}
    assert documents == {
        "user/1": {"a": {"b": 1}, "__ds": {"_v": 3}},
        "list": {"__dsList": ["x", 1], "__ds": {"_v": 0}},
    }


async def test_upstreams_documents_are_read(storage, server):
    server.put("deepstream", "r", {"a": 1, "__ds": {"_v": 7}})
    server.put("deepstream", "s", {"__dsList": [1], "__ds": {"_v": 2}})
    assert await storage.get("r") == (7, {"a": 1})
    assert await storage.get("s") == (2, [1])
    await storage.set("r", 6, {"older": True})
    assert await storage.get("r") == (7, {"a": 1})
    await storage.set("r", 8, {"a": 2})
    assert await storage.get("r") == (8, {"a": 2})


async def test_settings_mappings_and_names_of_indices(server):
    options = options_for(
        server,
        index="app",
        indexPerTable=True,
        indexSettings='{"number_of_replicas": 0}',
        indexMappings={"dynamic": False},
        dataField="d",
    )
    async with started(ElasticsearchStorage, options) as storage:
        for name in ("User/1", "user/1", "a b/1", "plain", "ö/1", "t" * 300 + "/1"):
            await storage.set(name, 1, {})
            assert await storage.get(name) == (1, {})
    long = hashlib.sha256(b"t" * 300).hexdigest()
    assert sorted(server.indices) == sorted(["app", "app-user", "app-a%20b", "app-%c3%b6", f"app-{long}"])
    assert server.bodies["app"] == {
        "settings": {"number_of_replicas": 0},
        "mappings": {"dynamic": False, "properties": {"d": {"type": "object", "enabled": False}}},
    }


async def test_long_names_and_those_that_look_like_a_hash(storage, server):
    long = "ä" * 257
    pretender = document_id(long)
    await storage.set(long, 1, {"long": True})
    assert await storage.get(pretender) == (-1, None)
    await storage.set(pretender, 2, {"long": False})
    assert await storage.get(long) == (1, {"long": True})
    assert server.indices["deepstream"][pretender]["_source"]["__ds"] == {"_v": 1, "name": long}


async def test_a_record_that_does_not_fit_the_mapping_is_its_own_error(storage):
    await storage.set("a", 1, {"field": 1})
    ops = [WriteOp(f"b{i}", 1, b'{"field":{"x":1}}' if i == 7 else b'{"field":2}') for i in range(20)]
    results = await storage.write_batch(ops)
    assert [i for i, result in enumerate(results) if result is not None] == [7]
    assert isinstance(results[7], PermanentStorageError)
    assert "tried to parse as object" in str(results[7])


async def test_created_again_right_after_a_deletion(storage):
    await storage.set("r", 50, {})
    await storage.delete("r")
    await storage.set("r", 0, {"new": True})
    assert await storage.get("r") == (0, {"new": True})


# ---- races


async def test_another_server_is_faster(storage, server):
    await storage.set("r", 1, {})
    await storage.set("s", 1, {})

    def meanwhile():
        server.put("deepstream", "r", {"theirs": True, "__ds": {"_v": 9}})
        server.put("deepstream", "t", {"theirs": True, "__ds": {"_v": 1}})
        del server.indices["deepstream"]["s"]

    server.before["/_bulk"] = meanwhile
    ops = [WriteOp("r", 3, b"{}"), WriteOp("s", 3, b"[]"), WriteOp("t", 2, b"{}")]
    assert await storage.write_batch(ops) == [None] * 3
    assert await storage.get("r") == (9, {"theirs": True})
    assert await storage.get("s") == (3, [])
    assert await storage.get("t") == (2, {})


# ---- options


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "option host: is required"),
        ({"host": "localhost:9200"}, "option host: expected http://"),
        ({"host": "http://h", "index": "Upper"}, "option index: expected small letters"),
        ({"host": "http://h", "indexSettings": "[]"}, "option indexSettings: expected an object"),
        ({"host": "http://h", "writeInterval": []}, "option writeInterval: expected int"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(given, text):
    with pytest.raises(OptionError, match=text):
        ElasticsearchStorage(given, plugin_services(), load())


def test_options_without_effect_are_warned_about():
    logger = MemoryLogger()
    given = {"host": "http://h", "defaultType": "x", "indexes": 1}
    ElasticsearchStorage(given, plugin_services(logger), load()).init()
    assert logger.texts(LogLevel.WARN) == [
        "elasticsearch storage: option defaultType has no effect",
        "elasticsearch storage: option indexes is unknown, did you mean index?",
    ]


async def test_logging_in(server):
    server.login = "Basic " + base64.b64encode(b"me:secret").decode()
    async with started(
        ElasticsearchStorage, options_for(server, username="me", password="secret")
    ) as storage:
        await storage.set("r", 1, {})
    with pytest.raises(StorageError, match="401 missing credentials"):
        async with started(ElasticsearchStorage, options_for(server)):
            pass


# ---- faults


@pytest.fixture
async def proxy(server):
    async with FaultProxy("127.0.0.1", server.port) as proxy:
        yield proxy


async def test_waits_at_the_start_and_says_so(proxy):
    await proxy.stop()
    logger = MemoryLogger()
    storage = ElasticsearchStorage(options_for(proxy), plugin_services(logger), load())
    starting = asyncio.create_task(storage.when_ready())
    await logger.wait_for("trying again")
    assert not starting.done()
    await proxy.restart()
    async with asyncio.timeout(PATIENCE):
        await starting
    await storage.set("r", 1, {})
    await storage.close()


async def test_a_server_that_is_away_or_says_nothing(proxy):
    async with started(ElasticsearchStorage, options_for(proxy, commandTimeout=300)) as storage:
        await storage.set("r", 1, {})
        for begin, end in ((proxy.stop, proxy.restart), (_async(proxy.stall), _async(proxy.resume))):
            await begin()
            with pytest.raises(TransientStorageError):
                await storage.set("r", 2, {})
            with pytest.raises(TransientStorageError):
                await storage.get("r")
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


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server(storage, server, status):
    await storage.set("r", 1, {})
    server.failures.append(("/_bulk", web.json_response({"error": {"reason": "busy"}}, status=status)))
    with pytest.raises(TransientStorageError, match="busy"):
        await storage.set("r", 2, {})
    server.item_failures.append(("r", status))
    with pytest.raises(TransientStorageError, match="not now"):
        await storage.set("r", 2, {})
    await storage.set("r", 2, {})
    assert await storage.get("r") == (2, {})


async def test_a_request_that_is_too_large(storage, server):
    server.failures.append(("/_bulk", web.Response(status=413)))
    assert await storage.write_batch([WriteOp("a", 1, b"{}"), WriteOp("b", 1, b"{}")]) == [None, None]
    server.failures.append(("/_bulk", web.Response(status=413)))
    with pytest.raises(PermanentStorageError, match="too large"):
        await storage.set("a", 2, {})


async def test_an_answer_of_somebody_else(storage, server):
    server.failures.append(("/_mget", web.Response(text="<html>", status=502)))
    with pytest.raises(TransientStorageError):
        await storage.get("r")
    server.failures.append(("/_mget", web.Response(text="<html>")))
    with pytest.raises(StorageError, match="cannot be understood"):
        await storage.set("r", 1, {})


async def test_after_the_end_calls_fail(storage):
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await storage.get("r")


# ---- with a server


async def test_a_server_with_elasticsearch(server, options):
    config = {"storage": {"class": ElasticsearchStorage, "options": options}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        await client.set("book/1", {"a": 1})
        await client.set("book/2", {"a": 2})
        assert server.indices["deepstream"]["book/1"]["_source"]["a"] == 1
        client.send(R.DELETE, name="book/2")
        await client.expect(R.DELETE_SUCCESS, name="book/2")
        assert list(server.indices["deepstream"]) == ["book/1"]
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert (await client.read("book/1"))[1] == {"a": 1}


async def test_a_server_with_wrong_options_does_not_start():
    with pytest.raises(StartError, match="storage: option host: is required"):
        async with serve({"storage": {"class": ElasticsearchStorage, "options": {}}}):
            pass
