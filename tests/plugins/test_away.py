"""A server whose cache or storage is away at the start says so, gives up in time, leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from dsfast import Server
from dsfast.plugin import LogLevel
from dsfast.server import StartError
from dsfast_plugins.dynamodb import DynamodbStorage
from dsfast_plugins.elasticsearch import ElasticsearchStorage
from dsfast_plugins.hazelcast import HazelcastCache
from dsfast_plugins.memcached import MemcachedCache
from dsfast_plugins.mongodb import MongodbStorage
from dsfast_plugins.mysql import MysqlStorage
from dsfast_plugins.postgres import PostgresStorage
from dsfast_plugins.redis import RedisCache
from dsfast_plugins.rethinkdb import RethinkdbStorage
from tests.plugins.servers import free_port
from tests.record_client import GatedStorage
from tests.wire import Log

loops = ["uvloop"]

CONNECTORS = {
    "redis": (RedisCache, lambda port: {"port": port}),
    "redis-sentinel": (RedisCache, lambda port: {"sentinels": [{"port": port}]}),
    "redis-cluster": (RedisCache, lambda port: {"nodes": [{"port": port}]}),
    "memcached": (MemcachedCache, lambda port: {"serverLocation": f"127.0.0.1:{port}"}),
    "hazelcast": (
        HazelcastCache,
        lambda port: {
            "mapName": "m",
            "networkConfig": {"addresses": [f"127.0.0.1:{port}"]},
            "connectTimeout": 200,
        },
    ),
    "postgres": (PostgresStorage, lambda port: {"host": "127.0.0.1", "port": port, "user": "u"}),
    "mysql": (MysqlStorage, lambda port: {"port": port, "user": "u", "database": "d"}),
    "mongodb": (
        MongodbStorage,
        lambda port: {"connectionString": f"mongodb://127.0.0.1:{port}", "commandTimeout": 200},
    ),
    "dynamodb": (
        DynamodbStorage,
        lambda port: {
            "region": "r",
            "endpointUrl": f"http://127.0.0.1:{port}",
            "accessKeyId": "x",
            "secretAccessKey": "y",
        },
    ),
    "elasticsearch": (ElasticsearchStorage, lambda port: {"host": f"http://127.0.0.1:{port}"}),
    "rethinkdb": (RethinkdbStorage, lambda port: {"host": "127.0.0.1", "port": port}),
}


@pytest.mark.parametrize("name", CONNECTORS)
async def test_a_start_without_the_other_server(name):
    plugin_class, options = CONNECTORS[name]
    kind = (
        "cache"
        if name in ("redis", "redis-sentinel", "redis-cluster", "memcached", "hazelcast")
        else "storage"
    )
    config = {
        kind: {"class": plugin_class, "options": options(free_port())},
        "httpServer": {"type": "default", "options": {"host": "127.0.0.1", "port": 0}},
        "dependencyInitializationTimeout": 1000,
        "showLogo": False,
        "exitOnFatalError": False,
    }
    server = Server(config)
    server.set("logger", Log)
    if kind == "cache":
        server.set("storage", GatedStorage)
    before = asyncio.all_tasks()
    problems = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    with pytest.raises(StartError, match=f"{kind} wasn't initialised in time"):
        await server.start()
    waiting = [text for level, _, text in server.get_services().logger.lines if level == LogLevel.WARN]
    assert len(waiting) == 1
    assert "trying again" in waiting[0]
    for _ in range(20):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert problems == []
