"""The pipelined client by itself: what no real server can be brought to do on demand."""

from __future__ import annotations

import asyncio

import pytest

from dsfast.plugin import PluginError
from dsfast.testing import MemoryLogger
from dsfast_plugins.pipeline import Action, Address, Client, Limits, Link, Refused, ServerError, open_link
from dsfast_plugins.pipeline.link import NOTHING

loops = ["asyncio", "uvloop"]
PATIENCE = 20


class Lines:
    """A reader of lines; one that begins with ``-`` is an error."""

    def __init__(self):
        self.data = b""

    def feed(self, data):
        self.data += data

    def gets(self):
        line, end, rest = self.data.partition(b"\n")
        if not end:
            return NOTHING
        self.data = rest
        if line.startswith(b"!"):
            raise ServerError("nonsense")
        return ServerError(line[1:].decode()) if line.startswith(b"-") else line


class Server:
    """Answers each line with itself, or as ``answers`` says."""

    def __init__(self):
        self.seen = []
        self.answers = {}
        self.writers = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.address = Address(*self.server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.cut()

    def cut(self):
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader, writer):
        self.writers.append(writer)
        while line := await reader.readline():
            self.seen.append(line.strip())
            answer = self.answers.get(line.strip(), line.strip())
            if isinstance(answer, list):
                answer = answer.pop(0) if answer else line.strip()
            if answer is not None:
                writer.write(answer + b"\n")


class LineClient(Client):
    """Two lanes, each at a server."""

    name = "lines"
    description = "two servers"

    def __init__(self, places, logger, **limits):
        super().__init__(len(places), Limits(**{"timeout": 10.0, "connect_timeout": 5.0, **limits}), logger)
        self.places = places
        self.spoil = 0

    def address(self, lane):
        return self.places[lane]

    def judge(self, lane, error):
        return Action[str(error)] if str(error) in Action.__members__ else Action.FAIL

    async def connect(self, address):
        async def greet(link):
            await link.call(b"hello\n")

        def make():
            return Link(address, Lines(), self.on_reply, self.on_lost)

        link = await open_link(make, address, greet, timeout=5.0)
        if self.spoil:
            self.spoil -= 1
            link.abort(ConnectionError("spoiled"))
            while link.lost is None:  # noqa: ASYNC110 - the loop has to say it
                await asyncio.sleep(0)
        return link


@pytest.fixture
async def servers():
    async with Server() as first, Server() as second:
        yield first, second


@pytest.fixture
async def client(servers):
    client = LineClient([server.address for server in servers], MemoryLogger())
    await client.start()
    yield client
    await client.close()
    assert client._bytes == 0, "every command is answered, and forgotten"
    assert not client._links


async def ask(client, lane, text):
    async with asyncio.timeout(PATIENCE):
        return await client.call(lane, text + b"\n")


async def test_a_connection_that_ends_while_it_is_announced(client, servers):
    client.spoil = 2
    servers[0].cut()
    assert await ask(client, 0, b"a") == b"a"
    assert client.spoil == 0


async def test_a_lane_that_has_moved_keeps_its_order(client, servers):
    """The first server sends one command of three away; the other two follow it in their order."""
    first, second = servers
    first.answers[b"b"] = [b"-ELSEWHERE"]
    first.answers[b"c"] = [b"-ELSEWHERE"]
    calls = [client.call(0, text + b"\n") for text in (b"a", b"b", b"c")]
    client.places[0] = second.address
    later = []
    calls[0].add_done_callback(lambda _: later.append(client.call(0, b"d\n")))
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*calls) == [b"a", b"b", b"c"]
        assert await later[0] == b"d"
    sent = [text for text in second.seen if text != b"hello"]
    assert sent.index(b"b") < sent.index(b"c")
    assert b"d" in first.seen or sent.index(b"c") < sent.index(b"d")


async def test_a_lane_that_moves_for_ever_is_an_error(client, servers):
    servers[0].answers[b"a"] = b"-ELSEWHERE"
    with pytest.raises(PluginError, match="ELSEWHERE"):
        await ask(client, 0, b"a")
    assert await ask(client, 0, b"b") == b"b"


async def test_errors_that_go_away_and_wrong_servers(client, servers):
    servers[0].answers[b"a"] = [b"-LATER", b"-LATER", b"-RECONNECT"]
    assert await ask(client, 0, b"a") == b"a"
    assert servers[0].seen.count(b"a") == 4
    assert len(servers[0].writers) == 2
    with pytest.raises(PluginError, match="lines: other"):
        servers[0].answers[b"x"] = b"-other"
        await ask(client, 0, b"x")


async def test_an_answer_that_cannot_be_understood_ends_the_connection(client, servers):
    servers[0].answers[b"a"] = [b"!"]
    assert await ask(client, 0, b"a") == b"a"
    assert len(servers[0].writers) == 2


async def test_a_late_answer_is_nobody_elses(servers):
    logger = MemoryLogger()
    client = LineClient([server.address for server in servers], logger, timeout=0.2)
    await client.start()
    servers[0].answers[b"late"] = [None]
    with pytest.raises(PluginError, match="did not answer within 200 ms"):
        await ask(client, 0, b"late")
    servers[0].writers[-1].write(b"late\n")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                assert await ask(client, 0, b"next") == b"next"
                break
            except PluginError:
                continue
    await client.close()


async def test_one_lane_does_not_wait_for_another(client, servers):
    servers[0].server.close()
    servers[0].cut()
    waiting = client.call(0, b"a\n")
    for number in range(50):
        assert await ask(client, 1, b"%d" % number) == b"%d" % number
    assert not waiting.done()
    await client.close()
    with pytest.raises(PluginError, match="closed"):
        await waiting


async def test_a_refusal_ends_the_start_only(servers):
    client = LineClient([server.address for server in servers], MemoryLogger())

    async def refuse(_address):
        raise Refused("no")

    connect, client.connect = client.connect, refuse
    with pytest.raises(Refused):
        await client.start()
    client.connect = connect
    await client.start()
    client.connect = refuse
    servers[0].cut()
    answer = client.call(0, b"a\n")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not answer.done()
    client.connect = connect
    async with asyncio.timeout(PATIENCE):
        assert await answer == b"a"
    await client.close()
