"""The MySQL storage against a real MariaDB server: the contract, the layout, faults."""

from __future__ import annotations

import asyncio
import hashlib

import asyncmy
import pytest

from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.server import StartError
from dsfast.services.storage import (
    PermanentStorageError,
    StorageError,
    TextSnapshot,
    TransientStorageError,
    WriteBehind,
    WriteOp,
)
from dsfast.testing import FaultProxy, MemoryLogger, StorageConformance, plugin_services, started
from dsfast_plugins.mysql import MysqlStorage
from dsfast_plugins.options import OptionError
from tests.plugins.servers import MariadbProcess, until
from tests.record_client import R, RecordClient
from tests.wire import serve

loops = ["uvloop"]
PATIENCE = 30


def options_for(server, **more):
    return {"host": "127.0.0.1", "port": server.port, "user": "root", "database": "records", **more}


@pytest.fixture
def options(mariadb_server):
    return options_for(mariadb_server)


class Raw:
    """A plain connection."""

    def __init__(self, connection):
        self.connection = connection

    async def all(self, statement, *arguments):
        async with self.connection.cursor() as cursor:
            await cursor.execute(statement, arguments or None)
            return [tuple(row) for row in await cursor.fetchall()]


@pytest.fixture
async def raw(mariadb_server):
    """A plain connection; the database is empty before and after the test."""
    connection = await asyncmy.connect(
        host="127.0.0.1", port=mariadb_server.port, user="root", autocommit=True, charset="utf8mb4"
    )
    raw = Raw(connection)
    await raw.all("CREATE OR REPLACE DATABASE records")
    await raw.all("USE records")
    yield raw
    await raw.all("CREATE OR REPLACE DATABASE records")
    connection.close()


@pytest.fixture
async def storage(options, raw):
    async with started(MysqlStorage, options) as storage:
        yield storage


class TestMariadb(StorageConformance):
    plugin_class = MysqlStorage

    @pytest.fixture
    def options(self, mariadb_server):
        return options_for(mariadb_server)


# ---- the layout


async def test_what_is_in_the_tables(storage, raw):
    await storage.set("user/1/2", 3, {"a": 1})
    await storage.set("plain", 0, ["x"])
    assert await raw.all("SELECT id, version, val, name FROM user") == [(b"1/2", 3, '{"a":1}', None)]
    assert await raw.all("SELECT id, version, val, name FROM `default`") == [(b"plain", 0, '["x"]', None)]
    query = "SELECT engine, table_collation FROM information_schema.tables WHERE table_schema = 'records'"
    assert await raw.all(query) == [("InnoDB", "utf8mb4_bin")] * 2


async def test_long_names_are_hashed(storage, raw):
    long = "ä" * 351
    hashed = b"\xff" + hashlib.sha256(long.encode()).hexdigest().encode()
    await storage.set(f"t/{long}", 1, {"long": True})
    await storage.set("t/" + "ä" * 350, 2, {"short": True})
    assert await raw.all("SELECT id, name FROM t ORDER BY version") == [
        (hashed, long),
        (b"\xc3\xa4" * 350, None),
    ]
    assert await storage.get(f"t/{long}") == (1, {"long": True})
    assert await storage.get("t/" + hashed[1:].decode()) == (-1, None)
    await storage.delete(f"t/{long}")
    assert await storage.get(f"t/{long}") == (-1, None)


async def test_what_is_no_table_is_in_the_default_one(storage, raw):
    names = ["\U0001f600/1", "t" * 65 + "/1", "ends with blank /1", "ä" * 64 + "/1", "nul\0/1"]
    names += ["/1", "default/1", "1"]
    ops = [WriteOp(name, i, b"{}") for i, name in enumerate(names)]
    assert await storage.write_batch(ops) == [None] * len(names)
    assert [await storage.get(name) for name in names] == [(i, {}) for i in range(len(names))]
    assert await raw.all("SHOW TABLES") == [("default",)]
    for name in ("ä" * 39 + "/1", "t" * 64 + "/1", "`%s`/1", "a.b/1"):
        await storage.set(name, 1, {})
        assert await storage.get(name) == (1, {})
    assert len(await raw.all("SHOW TABLES")) == 5


async def test_big_versions_and_bad_ones(storage):
    ops = [WriteOp("t/a", 2**63 - 1, b"{}"), WriteOp("t/b", 2**63, b"{}"), WriteOp("t/c", 1, b"{}")]
    results = await storage.write_batch(ops)
    assert [type(result) for result in results] == [type(None), PermanentStorageError, type(None)]
    assert await storage.get("t/a") == (2**63 - 1, {})


async def test_batches_are_cut_to_packets(storage, raw):
    storage._max_packet = 5000
    ops = [WriteOp(f"t/{i}", 1, b'{"x":"' + b'\\"' * 400 + b'"}') for i in range(40)]
    ops.insert(20, WriteOp("t/large", 1, b'{"x":"' + b"y" * 6000 + b'"}'))
    results = await storage.write_batch(ops)
    assert [i for i, result in enumerate(results) if result is not None] == [20]
    assert "max_allowed_packet" in str(results[20])
    assert await raw.all("SELECT COUNT(*) FROM t") == [(40,)]


async def test_a_value_that_the_server_refuses(raw, options):
    """A record that is larger than a packet is its own error, also where the server says so."""
    await raw.all("SET GLOBAL max_allowed_packet = 1048576")
    try:
        async with started(MysqlStorage, options) as storage:
            ops = [
                WriteOp("t/a", 1, b"{}"),
                WriteOp("t/b", 1, b'"' + b"x" * 1_100_000 + b'"'),
                WriteOp("t/c", 1, b"[]"),
            ]
            results = await storage.write_batch(ops)
            assert [type(result) for result in results] == [type(None), PermanentStorageError, type(None)]
    finally:
        await raw.all("SET GLOBAL max_allowed_packet = 16777216")


async def test_a_table_that_somebody_drops(storage, raw):
    await storage.set("t/r", 1, {"a": 1})
    await raw.all("DROP TABLE t")
    assert await storage.get("t/r") == (-1, None)
    with pytest.raises(TransientStorageError, match="dropped"):
        await storage.set("t/r", 2, {"a": 2})
    await storage.set("t/r", 2, {"a": 2})
    assert await storage.get("t/r") == (2, {"a": 2})
    await raw.all("DROP TABLE t")
    await storage.delete("no-table/r")


async def test_many_create_tables_at_the_same_time(options, raw):
    async def one(number):
        async with started(MysqlStorage, {**options, "connectionLimit": 3}) as storage:
            for _ in range(3):
                ops = [WriteOp(f"table{i}/{number}-{j}", 1, b"{}") for i in range(5) for j in range(20)]
                assert await storage.write_batch(ops) == [None] * 100

    await asyncio.gather(*(one(number) for number in range(5)))
    for i in range(5):
        assert await raw.all(f"SELECT COUNT(*) FROM table{i}") == [(100,)]


# ---- options and logging in


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "option user: is required; option database: is required"),
        ({"user": "u", "database": "d", "port": "x"}, "option port: expected int"),
        ({"user": "u", "database": "d", "connectionLimit": 1}, "option connectionLimit: expected int >= 2"),
        ({"user": "u", "database": "d", "defaultTable": ""}, "option defaultTable: expected the name"),
        ({"user": "u", "database": "d", "ssl": {"ca": "/no/such"}}, "option ssl: expected PEM"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(given, text):
    with pytest.raises(OptionError, match=text):
        MysqlStorage(given, plugin_services(), load())


def test_unknown_options_are_warned_about():
    logger = MemoryLogger()
    MysqlStorage({"user": "u", "database": "d", "socket": "x"}, plugin_services(logger), load()).init()
    assert logger.texts(LogLevel.WARN) == [
        "mysql storage: option socket is unknown, did you mean socketPath?"
    ]


@pytest.mark.parametrize("wrong", [{"database": "nowhere"}, {"user": "nobody"}, {"password": "wrong"}])
async def test_what_no_waiting_helps_with_ends_the_start(options, raw, wrong):
    with pytest.raises(StorageError, match=r"mysql: (Access denied|Unknown database)"):
        async with started(MysqlStorage, {**options, **wrong}):
            pass


async def test_a_unix_socket_and_a_password(mariadb_server, raw):
    await raw.all("CREATE OR REPLACE USER 'keeper'@'localhost' IDENTIFIED BY 's@cret'")
    await raw.all("GRANT ALL ON records.* TO 'keeper'@'localhost'")
    options = {"socketPath": str(mariadb_server.socket), "user": "keeper", "password": "s@cret"}
    async with started(MysqlStorage, {**options, "database": "records"}) as storage:
        await storage.set("t/r", 1, {})
        assert await storage.get("t/r") == (1, {})
    await raw.all("DROP USER 'keeper'@'localhost'")


async def test_tls(certificate):
    cert, _ = certificate
    server = MariadbProcess(certificate)
    try:
        with pytest.raises(StorageError, match="CERTIFICATE_VERIFY_FAILED"):
            async with started(MysqlStorage, options_for(server, ssl=True)):
                pass
        options = options_for(server, ssl={"ca": cert.read_text()})
        async with (
            started(MysqlStorage, options) as storage,
            storage._running.connection(PATIENCE) as connection,
            connection.cursor() as cursor,
        ):
            await cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
            assert (await cursor.fetchone())[1].startswith("TLS")
    finally:
        server.remove()


# ---- faults


@pytest.fixture
async def proxy(mariadb_server):
    async with FaultProxy("127.0.0.1", mariadb_server.port) as proxy:
        yield proxy


async def test_waits_at_the_start_and_says_so(raw, proxy):
    await proxy.stop()
    logger = MemoryLogger()
    storage = MysqlStorage(options_for(proxy), plugin_services(logger), load())
    starting = asyncio.create_task(storage.when_ready())
    await logger.wait_for("trying again")
    assert not starting.done()
    await proxy.restart()
    async with asyncio.timeout(PATIENCE):
        await starting
    await storage.set("t/r", 1, {})
    await storage.close()


async def test_a_lost_connection_is_a_transient_error(raw, proxy):
    async with started(MysqlStorage, options_for(proxy, commandTimeout=500)) as storage:
        await storage.set("t/r", 1, {})
        await proxy.stop()
        with pytest.raises(TransientStorageError):
            await storage.set("t/r", 2, {})
        with pytest.raises(TransientStorageError):
            await storage.get("t/r")
        await proxy.restart()
        await storage.set("t/r", 3, {})
        assert await storage.get("t/r") == (3, {})


async def test_a_server_that_says_nothing(raw, proxy):
    """Every call ends in time, and no place in the pool is lost."""
    async with started(MysqlStorage, options_for(proxy, commandTimeout=200, connectionLimit=3)) as storage:
        await storage.set("t/r", 1, {})
        proxy.stall()
        calls = [storage.get("t/r") for _ in range(9)] + [storage.set("t/r", 2, {})]
        async with asyncio.timeout(PATIENCE):
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {TransientStorageError}
        proxy.resume()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await storage.set("t/r", 5, {"a": 5})
                    break
                except TransientStorageError:
                    continue
        assert await asyncio.gather(*(storage.get("t/r") for _ in range(9))) == [(5, {"a": 5})] * 9


async def _write_for(writer, faults):
    """Write versions of records as fast as they are acknowledged until ``faults`` has ended."""
    acknowledged = {}
    loop = asyncio.get_running_loop()
    ending = asyncio.create_task(faults)

    async def work(name):
        version = 0
        while not ending.done():
            version += 1
            future = loop.create_future()
            writer.put(name, TextSnapshot(version, b'{"v":%d}' % version), waiter=future.set_result)
            assert await future is None
            acknowledged[name] = version

    async with asyncio.timeout(PATIENCE * 3):
        await asyncio.gather(ending, *(work(f"t{i % 3}/{i}") for i in range(30)))
    return acknowledged


async def _assert_stored(raw, acknowledged):
    assert len(acknowledged) == 30
    for name, version in acknowledged.items():
        table, key = name.split("/")
        [(stored, value)] = await raw.all(f"SELECT version, val FROM records.{table} WHERE id = %s", key)
        assert stored >= version
        assert value == f'{{"v":{stored}}}'


async def test_nothing_acknowledged_is_lost_when_connections_are_cut(raw, proxy):
    logger = MemoryLogger()
    async with started(MysqlStorage, options_for(proxy), logger=logger) as storage:
        writer = WriteBehind(storage, logger=logger, write_ack_timeout=60_000, shutdown_timeout=10_000)

        async def cuts():
            for number in range(15):
                seen = proxy.accepted
                proxy.cut_after(100 + number * 997)
                await proxy.wait_for_connections(seen + 1)

        acknowledged = await _write_for(writer, cuts())
        assert await writer.close() == []
    await _assert_stored(raw, acknowledged)


async def test_nothing_acknowledged_is_lost_when_the_server_dies():
    """kill -9 while it writes, several times."""
    server = MariadbProcess()
    try:
        logger = MemoryLogger()
        async with started(MysqlStorage, options_for(server), logger=logger) as storage:
            writer = WriteBehind(storage, logger=logger, write_ack_timeout=60_000, shutdown_timeout=10_000)

            async def kill():
                for _ in range(2):
                    before = writer.counters.saved
                    await until(lambda: writer.counters.saved >= before + 300)  # noqa: B023 - awaited
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)

            acknowledged = await _write_for(writer, kill())
            assert await writer.close() == []
        connection = await asyncmy.connect(host="127.0.0.1", port=server.port, user="root")
        await _assert_stored(Raw(connection), acknowledged)
        connection.close()
    finally:
        server.remove()


async def test_after_the_end_calls_fail(storage):
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await storage.get("t/r")
    with pytest.raises(StorageError, match="closed"):
        await storage.set("t/r", 1, {})


# ---- with a server


async def test_a_server_with_mysql(options, raw):
    config = {"storage": {"class": MysqlStorage, "options": options}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        await client.set("book/1", {"a": "'; DROP TABLE book; --"})
        await client.set("book/2", {"a": 2})
        assert await raw.all("SELECT val FROM book WHERE id = '1'") == [('{"a":"\'; DROP TABLE book; --"}',)]
        client.send(R.DELETE, name="book/2")
        await client.expect(R.DELETE_SUCCESS, name="book/2")
        assert await raw.all("SELECT COUNT(*) FROM book") == [(1,)]
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert (await client.read("book/1"))[1] == {"a": "'; DROP TABLE book; --"}


async def test_a_server_with_wrong_options_does_not_start():
    with pytest.raises(StartError, match="storage: option user: is required"):
        async with serve({"storage": {"class": MysqlStorage, "options": {"database": "d"}}}):
            pass
