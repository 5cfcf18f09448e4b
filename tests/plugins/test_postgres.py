"""The PostgreSQL storage against a real server: the contract, upstream's layouts, faults."""

from __future__ import annotations

import asyncio
import json
import random

import asyncpg
import pytest
from click.testing import CliRunner

from dsfast.cli.migrate import migrate as migrate_command
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
from dsfast_plugins.options import OptionError
from dsfast_plugins.postgres import PostgresStorage
from dsfast_plugins.postgres.migrate import migrate
from dsfast_plugins.postgres.options import connect_arguments, postgres_options
from tests.plugins.servers import PostgresProcess, until
from tests.record_client import R, RecordClient
from tests.wire import serve

loops = ["uvloop"]
PATIENCE = 30


def options_for(server, **more):
    return {"host": "127.0.0.1", "port": server.port, "user": "postgres", "database": "postgres", **more}


@pytest.fixture
def options(postgres_server):
    return options_for(postgres_server)


@pytest.fixture
async def raw(postgres_server):
    """A plain connection; the schema ds is gone before and after the test."""
    connection = await asyncpg.connect(host="127.0.0.1", port=postgres_server.port, user="postgres")
    await connection.execute('DROP SCHEMA IF EXISTS ds CASCADE; DROP SCHEMA IF EXISTS "Other" CASCADE')
    yield connection
    await connection.execute('DROP SCHEMA IF EXISTS ds CASCADE; DROP SCHEMA IF EXISTS "Other" CASCADE')
    await connection.close()


@pytest.fixture
async def storage(options, raw):
    async with started(PostgresStorage, options) as storage:
        yield storage


class TestText(StorageConformance):
    plugin_class = PostgresStorage

    @pytest.fixture
    def options(self, postgres_server):
        return options_for(postgres_server, schema="kit text")


class TestJsonbWithoutNotifications(StorageConformance):
    """jsonb refuses what SQL has no value for; empty tables are dropped."""

    plugin_class = PostgresStorage

    @pytest.fixture
    def options(self, postgres_server):
        more = {"schema": "kit-jsonb", "useJsonb": True, "notifications": {}, "dropEmptyTables": True}
        return options_for(postgres_server, **more)

    def refuses(self, value):
        return "surrogate" in value


# ---- the layout


async def test_writes_upstreams_layout(storage, raw):
    await storage.set("user/1/2", 3, {"a": 1})
    await storage.set("plain", 0, ["x"])
    assert [tuple(row) for row in await raw.fetch('SELECT id, version, val FROM ds."user"')] == [
        ("1/2", 3, '{"a":1}')
    ]
    assert [tuple(row) for row in await raw.fetch('SELECT id, version, val FROM ds."default"')] == [
        ("plain", 0, '["x"]')
    ]
    columns = await raw.fetch(
        "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_schema = 'ds' AND table_name = 'user' ORDER BY ordinal_position"
    )
    assert [tuple(row) for row in columns] == [
        ("id", "text", "NO", None),
        ("version", "integer", "YES", "0"),
        ("val", "text", "NO", None),
    ]
    triggers = await raw.fetch("SELECT tgname FROM pg_trigger WHERE tgrelid = 'ds.user'::regclass")
    assert [row[0] for row in triggers] == ["broadcast_update_ds_user"]


async def test_reads_what_upstream_has_made(storage, raw):
    """Tables and functions as connector 3.0.12 makes them."""
    await raw.execute(
        'CREATE TABLE ds."books" (id text NOT NULL, version int DEFAULT 0, val jsonb NOT NULL,'
        " PRIMARY KEY (id));"
        """INSERT INTO ds."books" (id, version, val) VALUES ('1', 4, '{"title": "a"}'), ('2', 0, '[1, 2]')"""
    )
    assert await storage.get("books/1") == (4, {"title": "a"})
    assert await storage.get("books/2") == (0, [1, 2])
    await storage.set("books/1", 5, {"title": "b"})
    assert await raw.fetchval("SELECT val->>'title' FROM ds.books WHERE id = '1'") == "b"


async def test_users_of_storage_login_are_found(storage, raw):
    user = {"username": "a", "password": "hash", "clientData": {"id": "u"}, "serverData": {"created": 1}}
    await raw.execute(
        'CREATE TABLE ds."Users" (id text PRIMARY KEY, version int DEFAULT 0, val text NOT NULL)'
    )
    await raw.execute('INSERT INTO ds."Users" VALUES ($1, 1, $2)', "a", json.dumps(user))
    assert await storage.get("Users/a") == (1, user)


OLD_VALUES = [
    ('{"_d": {"a": 1}, "_v": 7}', (7, {"a": 1})),
    ('{"_d": [1], "_v": 0}', (0, [1])),
    ('{"a": 1, "__ds": {"_v": 3}}', (3, {"a": 1})),
    ('{"__dsList": ["x"], "__ds": {"_v": 2}}', (2, ["x"])),
]


async def test_old_layouts_are_read_and_not_written(options, raw):
    await raw.execute("CREATE SCHEMA ds")
    for table, kind in (("text_old", "text"), ("jsonb_old", "jsonb")):
        await raw.execute(f"CREATE TABLE ds.{table} (id text PRIMARY KEY, val {kind} NOT NULL)")
        for number, (value, _) in enumerate(OLD_VALUES):
            await raw.execute(f"INSERT INTO ds.{table} VALUES ($1, $2)", str(number), value)
        await raw.execute(f"INSERT INTO ds.{table} VALUES ('strange', '[5]')")
    logger = MemoryLogger()
    async with started(PostgresStorage, options, logger=logger) as storage:
        assert "2 tables have the layout of an old connector" in logger.texts(LogLevel.ERROR)[0]
        for table in ("text_old", "jsonb_old"):
            for number, (_, expected) in enumerate(OLD_VALUES):
                assert await storage.get(f"{table}/{number}") == expected
            assert await storage.get(f"{table}/none") == (-1, None)
            with pytest.raises(PermanentStorageError, match="no known layout"):
                await storage.get(f"{table}/strange")
            with pytest.raises(PermanentStorageError, match="dsfast migrate postgres"):
                await storage.set(f"{table}/0", 9, {})
        await storage.set("elsewhere/0", 9, {})


async def test_old_layouts_are_migrated(options, raw):
    """In batches, interrupted and resumed, while a server reads; strange rows stay as they are."""
    await raw.execute("CREATE SCHEMA ds")
    for table, kind in (("text_old", "text"), ("jsonb_old", "jsonb")):
        await raw.execute(f"CREATE TABLE ds.{table} (id text PRIMARY KEY, val {kind} NOT NULL)")
        rows = [(f"{number}-{i}", value) for number, (value, _) in enumerate(OLD_VALUES) for i in range(25)]
        await raw.executemany(f"INSERT INTO ds.{table} VALUES ($1, $2)", rows)
    await raw.execute("INSERT INTO ds.jsonb_old VALUES ('0-strange', '[5]'), ('9-strange', '{}')")
    await raw.execute("ALTER TABLE ds.text_old ADD COLUMN version integer")  # interrupted right at the start
    reports = []
    async with started(PostgresStorage, options) as storage:
        assert await storage.get("text_old/0-0") == OLD_VALUES[0][1]
        await storage.set("text_old/0-1", 8, {"written": "meanwhile"})
        for _ in range(2):
            await migrate(postgres_options(options)[0], lambda *report: reports.append(report), batch=7)
        for table in ("text_old", "jsonb_old"):
            for number, (_, expected) in enumerate(OLD_VALUES):
                assert await storage.get(f"{table}/{number}-24") == expected
        assert await storage.get("text_old/0-1") == (8, {"written": "meanwhile"})
        await storage.set("text_old/0-0", 9, {})
        assert await storage.get("text_old/0-0") == (9, {})
    strange = ["0-strange", "9-strange"]
    assert reports == [("jsonb_old", 100, strange), ("text_old", 99, []), ("jsonb_old", 0, strange)]
    assert json.loads(await raw.fetchval("SELECT val FROM ds.text_old WHERE id = '1-3'")) == [1]


async def test_the_migration_as_a_command(options, raw):
    await raw.execute("CREATE SCHEMA ds")
    await raw.execute("CREATE TABLE ds.t (id text PRIMARY KEY, val text NOT NULL)")
    await raw.execute("""INSERT INTO ds.t VALUES ('a', '{"_v":1,"_d":{}}'), ('b', '5')""")
    url = f"postgresql://postgres@127.0.0.1:{options['port']}/postgres"
    result = await asyncio.to_thread(CliRunner().invoke, migrate_command, ["postgres", url])
    assert result.exit_code == 1
    assert "t: 1 records migrated, 1 in no known layout left: b" in result.output
    result = await asyncio.to_thread(
        CliRunner().invoke, migrate_command, ["postgres", "postgresql://127.0.0.1:1/x"]
    )
    assert result.exit_code == 1
    assert "Error: " in result.output
    assert "Traceback" not in result.output


# ---- names


async def test_what_upstream_strips_from_names(options, raw):
    async with started(PostgresStorage, options) as storage:
        await storage.set("sec/ret", 1, {"stored": True})
        assert await storage.get('se"c/ret;') == (-1, None), "one name must not read another's record"
    async with started(PostgresStorage, {**options, "legacyKeys": True}) as storage:
        assert await storage.get('se"c/ret;') == (1, {"stored": True})
        await storage.set('se"c/ret;', 2, {"exact": True})
        assert await storage.get('se"c/ret;') == (2, {"exact": True})
        await storage.delete('se"c/ret;')
        assert await storage.get('se"c/ret;') == (-1, None)


async def test_tables_with_long_names_share_one(options, raw):
    logger = MemoryLogger()
    async with started(PostgresStorage, options, logger=logger) as storage:
        long = "ä" * 40
        ops = [WriteOp(f"{long}{i}/x", i, b'{"i":%d}' % i) for i in range(3)]
        assert await storage.write_batch(ops) == [None] * 3
        assert await storage.get(f"{long}/x") == (2, {"i": 2})
        assert await raw.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'ds'") == 1
        assert "share their first 63 bytes" in logger.texts(LogLevel.WARN)[0]


async def test_names_that_cannot_be_stored_harm_nobody(storage):
    ops = [
        WriteOp("t/good", 1, b"{}"),
        WriteOp("t/nul\0", 1, b"{}"),
        WriteOp("nul\0/x", 1, b"{}"),
        WriteOp("t/" + random.Random(1).randbytes(9000).hex(), 1, b"{}"),  # too large for the index
        WriteOp("t/version", 2**31, b"{}"),
        WriteOp("t/fine", 2**31 - 1, b"[]"),
    ]
    results = await storage.write_batch(ops)
    assert [type(result) for result in results] == [
        type(None),
        PermanentStorageError,
        PermanentStorageError,
        PermanentStorageError,
        PermanentStorageError,
        type(None),
    ]
    assert await storage.get("t/good") == (1, {})
    assert await storage.get("t/fine") == (2**31 - 1, [])
    assert await storage.get("t/nul\0") == (-1, None)


async def test_big_versions(options, raw):
    async with started(PostgresStorage, {**options, "bigVersions": True}) as storage:
        await storage.set("t/r", 2**40, {})
        assert await storage.get("t/r") == (2**40, {})


async def test_one_bad_value_of_many(options, raw):
    async with started(PostgresStorage, {**options, "useJsonb": True}) as storage:
        ops = [WriteOp(f"t/{i}", 1, b'{"a":1}' if i != 37 else b'{"a":"\\u0000"}') for i in range(100)]
        results = await storage.write_batch(ops)
        assert [i for i, result in enumerate(results) if result is not None] == [37]
        assert await raw.fetchval("SELECT count(*) FROM ds.t") == 99


# ---- notifications


async def notified(raw, storage_options, work):
    """The payloads on channel ds while ``work(storage)`` runs."""
    payloads = []
    seen = asyncio.Event()

    def listener(_connection, _pid, _channel, payload):
        payloads.append(payload)
        seen.set()

    await raw.add_listener("ds", listener)
    async with started(PostgresStorage, storage_options) as storage:
        await work(storage)
    await raw.execute("NOTIFY ds, 'end'")
    async with asyncio.timeout(PATIENCE):
        while "end" not in payloads:
            seen.clear()
            await seen.wait()
    await raw.remove_listener("ds", listener)
    return payloads[:-1]


async def _a_life(storage):
    await storage.set("user/1", 1, {})
    await storage.set("user/1", 2, {})
    await storage.set("user/1", 1, {})
    await storage.delete("user/1")


async def test_notifications(options, raw):
    assert await notified(raw, {**options, "dropEmptyTables": True}, _a_life) == [
        "CREATE_TABLE:user",
        "INSERT:user:1",
        "UPDATE:user:1",
        "DELETE:user:1",
        'DESTROY_TABLE:"user"',
    ]


async def test_notifications_that_are_off(options, raw):
    assert await notified(raw, {**options, "notifications": {"UPDATE": True}}, _a_life) == ["UPDATE:user:1"]


async def test_a_name_that_is_too_long_to_be_announced_is_stored(options, raw):
    name = "user/" + "n" * 8000  # compresses well enough for the index
    assert await notified(raw, options, lambda storage: storage.set(name, 1, {})) == ["CREATE_TABLE:user"]


async def test_upstreams_functions(storage, raw):
    await storage.set("user/1", 1, {})
    assert await raw.fetchval("SELECT ds.count_rows('ds', 'user')") == 1
    await raw.execute("SELECT ds.delete_if_empty('ds', 'user')")
    assert await storage.get("user/1") == (1, {})
    await storage.delete("user/1")
    await raw.execute("SELECT ds.delete_if_empty('ds', 'user')")
    assert await raw.fetchval("SELECT to_regclass('ds.user')") is None
    await storage.set("user/1", 2, {})  # the table is made again
    assert await storage.get("user/1") == (2, {})


# ---- options


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"port": "x"}, "option port: expected int"),
        ({"schema": ""}, "option schema: expected a name"),
        ({"max": 1}, "option max: expected int >= 2"),
        ({"connectionString": "mysql://h"}, "option connectionString: expected postgresql://"),
        ({"notifications": {"INSERT": "yes please"}}, r"option notifications: \[...\]: expected bool"),
        ({"useJsonb": 5}, "option useJsonb: expected bool"),
        ({"ssl": {"ca": "/no/such"}}, "option ssl: expected PEM"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(given, text):
    with pytest.raises(OptionError, match=text):
        PostgresStorage(given, plugin_services(), load())


def test_options_without_effect_are_warned_about():
    given = {"splitChar": "-", "keepAlive": True, "notification": {}, "notifications": {"insert": True}}
    assert sorted(postgres_options(given)[1]) == [
        "option keepAlive has no effect",
        "option notification is unknown, did you mean notifications?",
        "option notifications: insert is none of CREATE_TABLE, DESTROY_TABLE, INSERT, UPDATE, DELETE",
        "option splitChar has no effect, names are split at /",
    ]


def test_where_to_connect(monkeypatch):
    monkeypatch.delenv("PGHOST", raising=False)
    assert connect_arguments(postgres_options({})[0])["host"] == "localhost"
    assert "host" not in connect_arguments(postgres_options({"connectionString": "postgres://h/d"})[0])
    monkeypatch.setenv("PGHOST", "h")
    assert "host" not in connect_arguments(postgres_options({})[0])


async def test_a_schema_and_a_role(options, raw):
    await raw.execute("DROP ROLE IF EXISTS keeper; CREATE ROLE keeper")
    await raw.execute('CREATE SCHEMA "Other" AUTHORIZATION keeper')
    more = {"schema": "Other", "role": "keeper", "defaultTable": "rest"}
    async with started(PostgresStorage, {**options, **more}) as storage:
        await storage.set("a", 1, {})
    query = "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'Other'"
    assert [tuple(row) for row in await raw.fetch(query)] == [("rest", "keeper")]
    await raw.execute('DROP SCHEMA "Other" CASCADE; DROP ROLE keeper')


async def test_a_user_without_rights(postgres_server, raw):
    await raw.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN")
    options = {**options_for(postgres_server), "user": "guest"}
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with started(PostgresStorage, options):
            pass
    logger = MemoryLogger()
    async with started(PostgresStorage, options_for(postgres_server)):
        pass
    await raw.execute("GRANT USAGE, CREATE ON SCHEMA ds TO guest")
    async with started(PostgresStorage, options, logger=logger) as storage:
        assert "left as they are" in logger.texts(LogLevel.WARN)[0]
        await storage.set("t/r", 1, {"by": "guest"})
        assert await storage.get("t/r") == (1, {"by": "guest"})
    await raw.execute("DROP SCHEMA ds CASCADE; DROP ROLE guest")


async def test_tls(certificate):
    cert, _ = certificate
    server = PostgresProcess(certificate=certificate)
    try:
        for ssl in (True, {"ca": "", "rejectUnauthorized": False}, {"ca": cert.read_text()}):
            starting = started(PostgresStorage, options_for(server, ssl=ssl))
            if ssl is True:
                with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
                    async with starting:
                        pass
                continue
            async with starting as storage, storage._connection() as connection:
                query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                assert await connection.fetchval(query) is True
    finally:
        server.remove()


@pytest.mark.parametrize("wrong", [{"database": "nowhere"}, {"user": "nobody-at-all"}])
async def test_what_no_waiting_helps_with_ends_the_start(options, wrong):
    with pytest.raises(asyncpg.PostgresError):
        async with started(PostgresStorage, {**options, **wrong}):
            pass


# ---- several at the same time


async def test_many_start_and_create_at_the_same_time(options, raw):
    async def one(number):
        async with started(PostgresStorage, {**options, "max": 3}) as storage:
            ops = [WriteOp(f"table{i}/{number}", 1, b"{}") for i in range(5)]
            assert await storage.write_batch(ops) == [None] * 5

    await asyncio.gather(*(one(number) for number in range(6)))
    for i in range(5):
        assert await raw.fetchval(f"SELECT count(*) FROM ds.table{i}") == 6


async def test_a_table_that_somebody_drops(storage, raw):
    await storage.set("t/r", 1, {"a": 1})
    await raw.execute("DROP TABLE ds.t")
    assert await storage.get("t/r") == (-1, None)
    await storage.set("t/r", 2, {"a": 2})
    assert await storage.get("t/r") == (2, {"a": 2})
    await raw.execute("ALTER TABLE ds.t ALTER val TYPE jsonb USING val::jsonb")
    await storage.set("t/r", 3, {"a": 3})
    assert await storage.get("t/r") == (3, {"a": 3})


# ---- faults


@pytest.fixture
async def proxy(postgres_server):
    async with FaultProxy("127.0.0.1", postgres_server.port) as proxy:
        yield proxy


async def test_waits_at_the_start_and_says_so(postgres_server, raw, proxy):
    await proxy.stop()
    logger = MemoryLogger()
    storage = PostgresStorage(options_for(proxy), plugin_services(logger), load())
    starting = asyncio.create_task(storage.when_ready())
    await logger.wait_for("trying again")
    assert not starting.done()
    await proxy.restart()
    async with asyncio.timeout(PATIENCE):
        await starting
    await storage.set("t/r", 1, {})
    await storage.close()


async def test_a_lost_connection_is_a_transient_error(raw, proxy):
    async with started(PostgresStorage, options_for(proxy, commandTimeout=500)) as storage:
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
    async with started(PostgresStorage, options_for(proxy, commandTimeout=200, max=3)) as storage:
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


async def test_callers_that_give_up_cost_no_connection(raw, proxy):
    async with started(PostgresStorage, options_for(proxy, max=2)) as storage:
        await storage.set("t/r", 1, {})
        for _ in range(5):
            proxy.stall()
            reading = [asyncio.create_task(storage.get("t/r")) for _ in range(4)]
            await asyncio.sleep(0.01)
            for task in reading:
                task.cancel()
            await asyncio.wait(reading, timeout=PATIENCE)
            assert all(task.cancelled() for task in reading)
            proxy.resume()
        async with asyncio.timeout(PATIENCE):
            assert await storage.get("t/r") == (1, {})


async def written_behind(storage, logger):
    return WriteBehind(storage, logger=logger, write_ack_timeout=60_000, shutdown_timeout=10_000)


async def test_nothing_acknowledged_is_lost_when_connections_are_cut(raw, proxy):
    logger = MemoryLogger()
    async with started(PostgresStorage, options_for(proxy), logger=logger) as storage:
        writer = await written_behind(storage, logger)
        acknowledged = await _write_for(writer, _cuts(proxy))
        assert await writer.close() == []
    await _assert_stored(raw, acknowledged)


async def _cuts(proxy):
    for number in range(15):
        proxy.cut_after(100 + number * 997)
        await proxy.wait_for_connections(proxy.accepted + 1)


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
        stored = await raw.fetchrow(f"SELECT version, val FROM ds.{table} WHERE id = $1", key)
        assert stored[0] >= version
        assert stored[1] == f'{{"v":{stored[0]}}}'


async def test_nothing_acknowledged_is_lost_when_the_server_dies():
    """kill -9 while it writes, several times."""
    server = PostgresProcess()
    try:
        logger = MemoryLogger()
        async with started(PostgresStorage, options_for(server), logger=logger) as storage:
            writer = await written_behind(storage, logger)

            async def kill():
                for _ in range(3):
                    before = writer.counters.saved
                    await until(lambda: writer.counters.saved >= before + 300)  # noqa: B023 - awaited
                    await asyncio.to_thread(server.kill_all)
                    await asyncio.to_thread(server.start)

            acknowledged = await _write_for(writer, kill())
            assert await writer.close() == []
        connection = await asyncpg.connect(host="127.0.0.1", port=server.port, user="postgres")
        await _assert_stored(connection, acknowledged)
        await connection.close()
        assert any("writing works again" in text for text in logger.texts(LogLevel.INFO))
    finally:
        server.remove()


async def test_after_the_end_calls_fail(storage):
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await storage.get("t/r")
    with pytest.raises(StorageError, match="closed"):
        await storage.set("t/r", 1, {})


# ---- with a server


async def test_a_server_with_postgres(options, raw):
    """Through the wire: what is acknowledged is in the database; what the database has is read."""
    await raw.execute("CREATE SCHEMA ds")
    await raw.execute(
        'CREATE TABLE ds."book" (id text PRIMARY KEY, version int DEFAULT 0, val text NOT NULL)'
    )
    await raw.execute("""INSERT INTO ds."book" VALUES ('1', 7, '{"by":"deepstream"}')""")
    config = {"storage": {"class": PostgresStorage, "options": options}}
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert await client.read("book/1") == (7, {"by": "deepstream"})
        await client.set("book/2", {"a": 1})
        stored = await raw.fetchrow("SELECT version, val FROM ds.book WHERE id = '2'")
        assert stored[1] == '{"a":1}'
        client.send(R.DELETE, name="book/1")
        await client.expect(R.DELETE_SUCCESS, name="book/1")
        assert await raw.fetchval("SELECT count(*) FROM ds.book") == 1
    async with serve(config) as running:
        client = await RecordClient.login(running)
        assert await client.read("book/2") == (stored[0], {"a": 1})


async def test_a_server_whose_postgres_goes_away(raw, proxy):
    """Acknowledgements wait until the database is back; reads of others fail; the server lives on."""
    config = {
        "storage": {"class": PostgresStorage, "options": options_for(proxy, commandTimeout=200)},
        "record": {"storageRetrievalTimeout": 500},
    }
    async with serve(config) as running:
        client = await RecordClient.login(running)
        await client.set("book/1", {"a": 1})
        await proxy.stop()
        write = {"version": -1, "data": {"a": 2}, "is_write_ack": True, "correlation_id": "w"}
        client.send(R.CREATEANDUPDATE, name="book/1", **write)
        client.send(R.READ, name="book/other")
        message = await client.receive()
        assert message.action in (R.RECORD_LOAD_ERROR, R.STORAGE_RETRIEVAL_TIMEOUT)
        assert message.name == "book/other"
        assert (await client.read("book/1"))[1] == {"a": 2}
        await running.log.wait_for("STORAGE_WRITE_ERROR")
        await proxy.restart()
        await client.expect(R.WRITE_ACKNOWLEDGEMENT, name="book/1", correlation_id="w", is_write_ack=True)
        assert await raw.fetchval("SELECT val FROM ds.book WHERE id = '1'") == '{"a":2}'
        assert (await client.read("book/other")) == (-1, None)
    assert running.log.errors() == []


async def test_a_server_with_wrong_options_does_not_start():
    with pytest.raises(StartError, match="storage: option schema: expected str, got int"):
        async with serve({"storage": {"class": PostgresStorage, "options": {"schema": 5}}}):
            pass
