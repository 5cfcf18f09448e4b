"""The DynamoDB storage against moto, which carries out the conditions of writes."""

from __future__ import annotations

import asyncio
import threading

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.server import StartError
from dsfast.services.storage import PermanentStorageError, StorageError, TransientStorageError, WriteOp
from dsfast.testing import FaultProxy, MemoryLogger, StorageConformance, plugin_services, started
from dsfast_plugins.dynamodb import DynamodbStorage
from dsfast_plugins.options import OptionError
from tests.record_client import R, RecordClient
from tests.wire import serve

loops = ["uvloop"]
PATIENCE = 30
LOGIN = {"region": "eu-central-1", "accessKeyId": "test", "secretAccessKey": "test"}


@pytest.fixture(scope="module")
def server():
    """moto in a thread; its port."""
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()


def options_for(port, **more):
    return {**LOGIN, "endpointUrl": f"http://127.0.0.1:{port}", "createTable": True, **more}


@pytest.fixture
def options(server):
    return options_for(server)


@pytest.fixture
def raw(server):
    """A plain client; there are no tables before the test."""
    raw = boto3.client(
        "dynamodb",
        endpoint_url=f"http://127.0.0.1:{server}",
        region_name="eu-central-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    for table in raw.list_tables()["TableNames"]:
        raw.delete_table(TableName=table)
    yield raw
    raw.close()


@pytest.fixture
async def storage(options, raw):
    async with started(DynamodbStorage, options) as storage:
        yield storage


class TestMoto(StorageConformance):
    plugin_class = DynamodbStorage
    bulk = 200
    large = {"text": "x" * 390_000}

    @pytest.fixture
    def options(self, server):
        return options_for(server)


async def test_what_is_in_the_table(storage, raw):
    await storage.set("user/1", 3, {"a": 1})
    items = raw.scan(TableName="deepstream")["Items"]
    assert items == [{"ds_id": {"S": "user/1"}, "ds_version": {"N": "3"}, "ds_data": {"S": '{"a":1}'}}]
    raw.put_item(TableName="deepstream", Item={"ds_id": {"S": "strange"}, "a": {"N": "1"}})
    with pytest.raises(PermanentStorageError, match="is no record"):
        await storage.get("strange")


async def test_errors_of_one_record(storage):
    ops = [
        WriteOp("a", 1, b"{}"),
        WriteOp("b", 1, b'{"x":"' + b"y" * 410_000 + b'"}'),
        WriteOp("n" * 2049, 1, b"{}"),
        WriteOp("d", 2**70, b"[]"),
    ]
    results = await storage.write_batch(ops)
    assert [type(result) for result in results] == [
        type(None), PermanentStorageError, PermanentStorageError, type(None),
    ]  # fmt: skip
    assert await storage.get("d") == (2**70, [])


async def test_a_table_that_is_missing(raw, server):
    with pytest.raises(StorageError, match="there is no table mine; createTable: true makes it"):
        async with started(DynamodbStorage, options_for(server, createTable=False, table="mine")):
            pass


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "option region: is required"),
        ({"region": "r", "maxInFlight": 0}, "option maxInFlight: expected int >= 1"),
        ({"region": "r", "createTable": "perhaps"}, "option createTable: expected bool"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(given, text):
    with pytest.raises(OptionError, match=text):
        DynamodbStorage(given, plugin_services(), load())


def test_unknown_options_are_warned_about():
    logger = MemoryLogger()
    DynamodbStorage({"region": "r", "bufferTimeout": 5}, plugin_services(logger), load()).init()
    assert logger.texts(LogLevel.WARN) == ["dynamodb storage: option bufferTimeout is unknown"]


@pytest.fixture
async def proxy(server):
    async with FaultProxy("127.0.0.1", server) as proxy:
        yield proxy


async def test_waits_at_the_start_and_says_so(raw, proxy):
    await proxy.stop()
    logger = MemoryLogger()
    storage = DynamodbStorage(options_for(proxy.port), plugin_services(logger), load())
    starting = asyncio.create_task(storage.when_ready())
    await logger.wait_for("trying again")
    assert not starting.done()
    await proxy.restart()
    async with asyncio.timeout(PATIENCE):
        await starting
    await storage.set("r", 1, {})
    await storage.close()


async def test_a_service_that_is_away_or_says_nothing(raw, proxy):
    async with started(DynamodbStorage, options_for(proxy.port, commandTimeout=500)) as storage:
        await storage.set("r", 1, {})
        for begin, end in ((proxy.stop, proxy.restart), (_async(proxy.stall), _async(proxy.resume))):
            await begin()
            results = await storage.write_batch([WriteOp(f"r{i}", 1, b"{}") for i in range(100)])
            assert {type(result) for result in results} == {TransientStorageError}
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


async def test_after_the_end_calls_fail(storage):
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await storage.get("r")


async def test_a_server_with_dynamodb(options, raw):
    config = {"storage": {"class": DynamodbStorage, "options": options}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        await client.set("book/1", {"a": 1})
        await client.set("book/2", {"a": 2})
        assert raw.get_item(TableName="deepstream", Key={"ds_id": {"S": "book/1"}})["Item"]["ds_data"] == {
            "S": '{"a":1}'
        }
        client.send(R.DELETE, name="book/2")
        await client.expect(R.DELETE_SUCCESS, name="book/2")
        assert raw.scan(TableName="deepstream")["Count"] == 1
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert (await client.read("book/1"))[1] == {"a": 1}


async def test_a_server_with_wrong_options_does_not_start():
    with pytest.raises(StartError, match="storage: option region: is required"):
        async with serve({"storage": {"class": DynamodbStorage, "options": {}}}):
            pass
