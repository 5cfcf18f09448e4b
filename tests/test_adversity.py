"""What networks and clients do to a server: slow readers, cut connections, crowds, churn, a sudden stop."""

import asyncio
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from pathlib import Path

import psutil
import pytest
from wire import (
    ACCEPT,
    AUTH_SUCCESSFUL,
    BINARY,
    CHALLENGE,
    CLOSE,
    CONTINUATION,
    END,
    PING_MESSAGE,
    PONG_MESSAGE,
    TIMEOUT,
    Client,
    auth_request,
    frame,
    serve,
    upgrade_request,
)

from dsfast._core.connection import Connection
from dsfast._core.protocol import (
    EventAction,
    Message,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
    decode,
    encode,
)

loops = ["uvloop"]

MIB = 1 << 20


def rss():
    """Memory of this process in bytes, after a collection."""
    gc.collect()
    return psutil.Process().memory_info().rss


async def subscribe(client, name):
    client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=[name], correlation_id="s")
    await client.expect(Topic.EVENT, EventAction.SUBSCRIBE, correlation_id="s", is_ack=True)


async def subscribe_record(client, name):
    """Subscribe to a record, and create it; returns its version."""
    client.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=[name], correlation_id="s")
    await client.expect(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD)
    return (await client.expect(Topic.RECORD, RecordAction.READ_RESPONSE)).version


def numbered(name, number, size):
    return encode(
        Message(Topic.EVENT, EventAction.EMIT, name=name, data=b'{"n":%d,"x":"%b"}' % (number, b"x" * size))
    )


# --- slow readers -----------------------------------------------------------------------


async def test_a_client_that_never_reads_is_closed_and_nobody_else_notices():
    async with serve(options={"maxOutgoingBytes": 256 * 1024}) as s:
        publisher, reader = await s.login("publisher"), await s.login("reader")
        sleeper = await s.login("sleeper", receive_buffer=4096)
        await subscribe(reader, "e")
        await subscribe(sleeper, "e")
        sent = 0
        while not s.log.find("CLOSED_SLOW_CONSUMER"):
            assert sent < 20_000, "a slow reader is kept for ever"
            publisher.send(*[numbered("e", n, 1000) for n in range(sent, sent + 100)])
            for n in range(sent, sent + 100):
                assert json.loads((await reader.receive()).data)["n"] == n
            sent += 100
        (text,) = s.log.find("CLOSED_SLOW_CONSUMER")
        assert text.startswith("sleeper: ")
        assert int(text.split()[1]) > 256 * 1024
        assert s.registries()["event"].count("e") == 1
        # What it does get is whole and in order, then it is told why there is no more.
        n = 0
        while (got := await sleeper.frame())[0] == BINARY:
            (message,) = decode(got[1])
            assert json.loads(message.data)["n"] == n
            n += 1
        assert got == (CLOSE, struct.pack(">H", 1013))
        assert 0 < n < sent
        await sleeper.ended()
        publisher.send(numbered("e", 0, 1))
        await reader.expect(Topic.EVENT, EventAction.EMIT)
        assert s.router.hub.stats()["slow_closed"] == 1


async def test_a_sleeper_that_does_not_even_close_is_cut_off():
    async with serve(options={"maxOutgoingBytes": 64 * 1024}) as s:
        publisher = await s.login("publisher")
        sleeper = await s.login("sleeper", receive_buffer=4096)
        await subscribe(sleeper, "e")
        while not s.log.find("CLOSED_SLOW_CONSUMER"):
            publisher.send(*[numbered("e", 0, 10_000)] * 50)
            await publisher.fence()
        await s.until(lambda: len(s.endpoint.core.connections) == 1)
        assert s.registries()["event"].names() == []


async def test_a_client_that_does_not_read_the_answers_to_its_own_questions_is_closed():
    async with serve(options={"maxOutgoingBytes": 64 * 1024}) as s:
        greedy = await s.login("greedy", receive_buffer=4096)
        other = await s.login("other")
        query = encode(Message(Topic.PRESENCE, PresenceAction.QUERY, names=["x" * 1000], correlation_id="1"))
        with contextlib.suppress(ConnectionError):
            while not s.log.find("CLOSED_SLOW_CONSUMER"):
                greedy.send(*[query] * 50)
                await greedy.drain()
                await other.fence()
        assert s.log.find("CLOSED_SLOW_CONSUMER")[0].startswith("greedy: ")


async def test_a_reader_that_lags_behind_for_ever_costs_no_more_memory_than_its_lag():
    async with serve(options={"maxOutgoingBytes": 4 * MIB}) as s:
        publisher, reader = await s.login("publisher"), await s.login("reader", receive_buffer=65536)
        await subscribe(reader, "e")
        size, lead, rounds = 65536, 90, 1600
        before = rss()
        for n in range(rounds):
            publisher.send(numbered("e", n, size))
            await publisher.fence()
            if n >= lead:
                assert json.loads((await reader.receive()).data)["n"] == n - lead
        # 100 MiB have passed.
        assert rss() - before < 40 * MIB
        for n in range(rounds - lead, rounds):
            assert json.loads((await reader.receive()).data)["n"] == n
        assert s.log.find("CLOSED_SLOW_CONSUMER") == []


async def test_the_answers_to_a_closing_client_are_dropped_in_silence():
    async with serve() as s:
        publisher, leaver = await s.login("publisher"), await s.login("leaver")
        await subscribe(leaver, "e")
        leaver.write(frame(PING_MESSAGE) * 100 + frame(b"", CLOSE) + frame(PING_MESSAGE) * 100)
        publisher.send(*[numbered("e", 0, 10)] * 100)
        await publisher.fence()
        opcode = BINARY
        while opcode != CLOSE:
            opcode, payload = await leaver.frame()
            if opcode == BINARY and payload != PONG_MESSAGE:
                assert decode(payload)[0].name == "e"
        await leaver.ended()
        assert s.log.errors() == []


# --- conflation of records --------------------------------------------------------------

CONFLATE = {"slowConsumerPolicy": "conflate", "maxOutgoingBytes": MIB}


def update(name, version, size):
    data = b'{"v":%d,"x":"%b"}' % (version, b"x" * size)
    return encode(Message(Topic.RECORD, RecordAction.UPDATE, name=name, version=version, data=data))


async def test_a_slow_reader_of_a_record_gets_its_newest_state():
    async with serve(options=CONFLATE) as s:
        writer, reader = await s.login("writer"), await s.login("reader")
        sleeper = await s.login("sleeper", receive_buffer=4096)
        assert await subscribe_record(sleeper, "r") == 0
        await subscribe_record(reader, "r")
        last = 4000
        for first in range(1, last, 100):
            writer.send(*[update("r", v, 2000) for v in range(first, first + 100)])
            for v in range(first, first + 100):
                message = await reader.expect(Topic.RECORD, RecordAction.UPDATE)
                assert message.version == v
        # Patches are conflated as well, into one whole state.
        for v in range(last + 1, last + 101):
            writer.message(Topic.RECORD, RecordAction.PATCH, name="r", version=v, path="p", data=b"%d" % v)
            assert (await reader.expect(Topic.RECORD, RecordAction.PATCH)).version == v
        last += 100
        assert s.router.hub.stats()["conflations"] > 0
        versions = []
        while not versions or versions[-1] < last:
            message = await sleeper.expect(Topic.RECORD, RecordAction.UPDATE)
            versions.append(message.version)
        assert versions == sorted(set(versions))
        assert len(versions) < last
        assert json.loads(message.data) == {"v": last - 100, "x": "x" * 2000, "p": last}
        # From here on it gets everything again.
        writer.send(update("r", last + 1, 10))
        assert (await sleeper.expect(Topic.RECORD, RecordAction.UPDATE)).version == last + 1
        assert s.log.find("CLOSED_SLOW_CONSUMER") == []


async def fall_behind(s, sleeper, writer, name):
    """Write to a record until the server conflates for the sleeper; returns the version."""
    version = 0
    while not s.router.hub.stats()["conflations"]:
        writer.send(*[update(name, v, 5000) for v in range(version + 1, version + 51)])
        await writer.fence()
        version += 50
    return version


async def test_each_of_many_conflated_records_comes_to_its_newest_state():
    async with serve(options=CONFLATE) as s:
        writer, sleeper = await s.login("writer"), await s.login("sleeper", receive_buffer=4096)
        names = [f"r{i}" for i in range(20)]
        for name in names:
            await subscribe_record(sleeper, name)
        await fall_behind(s, sleeper, writer, "r0")
        for name in names[1:]:
            writer.send(*[update(name, v, 100) for v in range(1, 101)])
        await writer.fence()
        state = {}
        while len(state) < 20 or any(version != 100 for name, version in state.items() if name != "r0"):
            message = await sleeper.expect(Topic.RECORD, RecordAction.UPDATE)
            assert state.get(message.name, 0) < message.version
            state[message.name] = message.version


async def test_a_slow_reader_is_told_of_a_deletion():
    """A deletion is no change that a newer state makes good: there is none."""
    async with serve(options=CONFLATE) as s:
        writer, sleeper = await s.login("writer"), await s.login("sleeper", receive_buffer=4096)
        await subscribe_record(sleeper, "r")
        await fall_behind(s, sleeper, writer, "r")
        writer.message(Topic.RECORD, RecordAction.DELETE, name="r")
        await writer.expect(Topic.RECORD, RecordAction.DELETE_SUCCESS, name="r")
        action = RecordAction.UPDATE
        while action == RecordAction.UPDATE:
            message = await sleeper.receive()
            action = message.action
        assert message.to_dict() == Message(Topic.RECORD, RecordAction.DELETED, name="r").to_dict()


async def test_a_conflated_reader_that_unsubscribes_is_owed_nothing():
    async with serve(options=CONFLATE) as s:
        writer, sleeper = await s.login("writer"), await s.login("sleeper", receive_buffer=4096)
        await subscribe_record(sleeper, "r")
        version = await fall_behind(s, sleeper, writer, "r")
        sleeper.message(Topic.RECORD, RecordAction.UNSUBSCRIBE, names=["r"], correlation_id="u")
        await s.until(lambda: not s.registries()["record"].has("r"))
        writer.send(update("r", version + 1, 10))
        await writer.fence()
        message = await sleeper.receive()
        while message.action == RecordAction.UPDATE:
            assert message.version <= version
            message = await sleeper.receive()
        assert message.is_ack
        await sleeper.fence()


async def test_events_are_not_conflated():
    async with serve(options=CONFLATE) as s:
        publisher, sleeper = await s.login("publisher"), await s.login("sleeper", receive_buffer=4096)
        await subscribe(sleeper, "e")
        with contextlib.suppress(ConnectionError):
            while not s.log.find("CLOSED_SLOW_CONSUMER"):
                publisher.send(*[numbered("e", 0, 10_000)] * 50)
                await publisher.fence()
        assert s.router.hub.stats()["conflations"] == 0


# --- connections that break -------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "end of stream", "close"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        frame(PING_MESSAGE)[:1],
        frame(PING_MESSAGE)[:-1],
        frame(b"x" * 100_000)[:50_000],
        frame(b"x" * 10, fin=False),
        frame(b"x" * 10, fin=False) + frame(b"x" * 70_000, CONTINUATION)[:-1],
        frame(numbered("e", 1, 10)) * 1000,
    ],
    ids=["idle", "one byte", "short", "big", "fragment", "second fragment", "busy"],
)
async def test_a_connection_that_breaks_leaves_nothing(how, data):
    async with serve() as s:
        client = await s.login("A")
        await subscribe(client, "e")
        client.write(data)
        await client.drain()
        if how == "reset":
            client.reset()
        elif how == "close":
            client.writer.close()
        else:
            client.writer.write_eof()
        await s.gone()
        s.assert_empty()
        assert s.log.errors() == []


@pytest.mark.parametrize("data", [b"", b"GET /deep", upgrade_request()[:-2], upgrade_request()])
async def test_a_connection_that_breaks_before_the_login_leaves_nothing(data):
    async with serve() as s:
        for how in ("reset", "close"):
            client = await s.connect()
            client.write(data)
            await client.drain()
            await s.until(lambda: len(s.endpoint.core.connections) == 1)
            client.reset() if how == "reset" else client.writer.close()
            await s.gone()
        assert s.log.errors() == []


async def test_a_broadcast_to_subscribers_that_are_just_being_cut_off():
    async with serve() as s:
        publisher, reader = await s.login("publisher"), await s.login("reader")
        await subscribe(reader, "e")
        for round_ in range(20):
            crowd = [await s.login(f"u{i}") for i in range(10)]
            for client in crowd:
                await subscribe(client, "e")
            for client in crowd:
                client.reset()
            publisher.send(*[numbered("e", n, 50_000) for n in range(5)])
            for n in range(5):
                assert json.loads((await reader.receive()).data)["n"] == n, round_
        await s.until(lambda: len(s.endpoint.core.connections) == 2)
        assert s.log.errors() == []


# --- churn ------------------------------------------------------------------------------


async def visit(port, i):
    """One client's life: login, a bit of everything, and one of several ways to leave."""
    client = await Client.connect(port)
    client.write(
        upgrade_request()
        + b"".join(
            frame(payload)
            for payload in (
                CHALLENGE,
                auth_request(b'{"username":"user%d"}' % (i % 50)),
                encode(Message(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL)),
                encode(
                    Message(Topic.PRESENCE, PresenceAction.SUBSCRIBE, names=["user1"], correlation_id="1")
                ),
                encode(
                    Message(Topic.EVENT, EventAction.SUBSCRIBE, names=["all", f"own{i}"], correlation_id="1")
                ),
                encode(Message(Topic.EVENT, EventAction.LISTEN, name=f"^own{i % 10}$")),
                encode(
                    Message(
                        Topic.RECORD,
                        RecordAction.SUBSCRIBECREATEANDREAD,
                        names=[f"r{i % 20}"],
                        correlation_id="1",
                    )
                ),
                encode(Message(Topic.RPC, RpcAction.PROVIDE, names=["p", f"p{i}"], correlation_id="1")),
                encode(Message(Topic.RPC, RpcAction.REQUEST, name="p", correlation_id=f"c{i}")),
                encode(Message(Topic.EVENT, EventAction.EMIT, name="all", data=b"%d" % i)),
                PING_MESSAGE,
            )
        )
    )
    assert (await client.response()).status == 101
    while (await client.payload()) != PONG_MESSAGE:
        pass
    if i % 3 == 0:
        client.reset()
    elif i % 3 == 1:
        client.writer.close()
    else:
        client.write(frame(b"", CLOSE))
        client.writer.close()


async def test_clients_that_come_and_go_leave_nothing_behind():
    logins = int(os.environ.get("DSFAST_CHURN", "3000"))
    async with serve({"rpc": {"ackTimeout": 200, "responseTimeout": 300}}) as s:
        before = 0
        for i in range(0, logins, 20):
            await asyncio.gather(*[visit(s.port, i + k) for k in range(20)])
            s.log.lines.clear()
            if i == logins // 3:
                before = rss()
        await s.gone()
        await s.until(lambda: s.router.handlers[Topic.RPC].open_calls == 0)
        s.assert_empty()
        assert rss() - before < 16 * MIB
        assert s.endpoint.core.stats()["logins"] >= logins
        assert [item for item in gc.get_objects() if isinstance(item, Connection)] == []
        assert s.router.wheel.count <= 2


# --- a crowd ----------------------------------------------------------------------------

CROWD = int(os.environ.get("DSFAST_CROWD", "10000"))
SERVER = """
import asyncio, json, signal, sys
import uvloop
from dsfast import Server

async def main():
    server = Server({
        "logLevel": "WARN", "showLogo": False, "storage": {"type": "default"},
        "httpServer": {"type": "default", "options": {"host": "127.0.0.1", "port": 0}},
    })
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    print(server.get_services().connection_endpoints[0].addresses[0][1], flush=True)
    await stop.wait()
    await server.stop()

uvloop.run(main())
"""


@pytest.fixture
def descriptors():
    """Enough file descriptors for the crowd, or no test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CROWD + 500
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"needs {needed} file descriptors, the hard limit is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Very many connections with as little as possible for each."""

    def __init__(self, port):
        self.port = port
        self.sockets = []

    def join(self, count):
        login = upgrade_request() + b"".join(
            frame(payload)
            for payload in (
                CHALLENGE,
                auth_request(),
                encode(Message(Topic.EVENT, EventAction.SUBSCRIBE, names=["all"], correlation_id="1")),
            )
        )
        fresh = [socket.create_connection(("127.0.0.1", self.port), TIMEOUT) for _ in range(count)]
        for sock in fresh:
            sock.sendall(login)
        ack = encode(Message(Topic.EVENT, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True))
        tail = b"".join(b"\x82" + bytes([len(part)]) + part for part in (ACCEPT, AUTH_SUCCESSFUL, ack))
        for sock in fresh:
            data = b""
            while not data.endswith(END + tail):
                data += receive(sock)
        self.sockets += fresh

    def leave(self):
        for sock in self.sockets:
            sock.close()

    def everybody_gets(self, expected):
        for sock in self.sockets:
            data = b""
            while len(data) < len(expected):
                data += receive(sock)
            assert data == expected

    def nobody_got_anything(self):
        poll = select.poll()
        for sock in self.sockets:
            poll.register(sock, select.POLLIN)
        assert poll.poll(0) == []


def receive(sock):
    part = sock.recv(4096)
    assert part, "the server has hung up"
    return part


def test_ten_thousand_idle_connections_stay_served(descriptors):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    import subprocess  # noqa: PLC0415 - only here

    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout is not None
        crowd = Crowd(int(server.stdout.readline()))
        try:
            crowd.join(100)
            memory = psutil.Process(server.pid).memory_info().rss
            for _ in range(CROWD // 100 - 1):
                crowd.join(100)
            per_connection = (psutil.Process(server.pid).memory_info().rss - memory) / (CROWD - 100)
            assert per_connection < 16 * 1024
            crowd.nobody_got_anything()

            async def work():
                client = await Client.login(crowd.port)
                for n in range(200):
                    client.send(numbered("nobody", n, 10))
                    await client.fence()
                client.send(numbered("all", 1, 100))
                await client.fence()
                client.writer.close()

            asyncio.run(work())
            message = numbered("all", 1, 100)
            crowd.everybody_gets(b"\x82\x7e" + struct.pack(">H", len(message)) + message)
            server.send_signal(signal.SIGTERM)
            crowd.everybody_gets(b"\x88\x02" + struct.pack(">H", 1001))
        finally:
            crowd.leave()
            server.terminate()
        assert server.wait(TIMEOUT) == 0


# --- the end of the server --------------------------------------------------------------


async def test_a_stop_tells_everybody_and_delivers_what_was_accepted():
    async with serve() as s:
        clients = [await s.login(f"u{i}") for i in range(200)]
        for client in clients:
            await subscribe(client, "e")
        waiting = [await s.connect(), await s.websocket(), await s.challenged()]
        # Where the kernel waits for the first bytes, a connection without any is none that could be told.
        waiting[0].write(b"GET /deep")
        await s.until(lambda: len(s.endpoint.core.connections) == 203)
        clients[0].send(*[numbered("e", n, 100) for n in range(10)])
        await clients[0].fence()
        stopping = asyncio.ensure_future(s.server.stop())

        async def told(client):
            for n in range(0 if client is clients[0] else 10):
                assert json.loads((await client.receive()).data)["n"] == n
            return await client.closed()

        assert await asyncio.gather(*map(told, clients)) == [1001] * 200
        await waiting[0].ended()
        assert [await client.closed() for client in waiting[1:]] == [1001, 1001]
        await stopping
        s.assert_empty()
        assert s.log.errors() == []
        with pytest.raises(ConnectionError):
            await s.connect()


async def test_clients_that_do_not_answer_do_not_hold_up_a_stop():
    async with serve() as s:
        for i in range(20):
            await s.login(f"u{i}")
        await s.server.stop()
        assert not s.endpoint.core.connections
