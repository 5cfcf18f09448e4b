"""What a record operation costs from the frame on: ``pytest bench/micro/test_record_micro.py``.

Frames go into a connection as its transport would bring them, 100 per call, so that the figures are those of
frame, decoding, routing, the record itself and the flush, without a socket. The storage is switched off. Each
figure is for 100 operations; those of paths are for the document alone, one operation each.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from dsfast import Server
from dsfast._core.connection import Connection
from dsfast._core.json_path import erase_value, set_value
from dsfast._core.json_text import dumps, loads
from dsfast._core.protocol import AuthAction, ConnectionAction, Message, RecordAction, Topic, encode

FRAMES = 100
R = RecordAction
SMALL = {"a": 1, "b": {"c": [1, 2, 3]}}
LARGE = {f"key{number}": {"name": f"item {number}", "values": [number] * 5} for number in range(1000)}
UPGRADE = (
    b"GET /deepstream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


class NoSocket(asyncio.Transport):
    """Takes everything at once, as a socket that is never full; counts the bytes."""

    written = 0

    def write(self, data: Any) -> None:
        self.written += len(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "sslcontext" else default  # a TLS transport is always written to by write()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


def frames(*messages: Message) -> bytes:
    """The messages as a client would send them; the masking key is zero."""
    out = b""
    for message in messages:
        payload = encode(message)
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        out += b"\x82" + length + bytes(4) + payload
    return out


class Bench:
    """A server without a port in use, and clients without sockets."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.server = Server(
            {
                "httpServer": {"type": "default", "options": {"host": "127.0.0.1", "port": 0}},
                "storage": {"type": "none"},
                "logLevel": "ERROR",
                "showLogo": False,
            }
        )
        self.loop.run_until_complete(self.server.start())
        services = self.server.get_services()
        self.hub = services.message_distributor.hub
        self.endpoint: Any = services.connection_endpoints[0]
        self.transport = NoSocket()
        self.client = self.login(self.transport)

    def login(self, transport: NoSocket) -> Connection:
        connection = Connection(self.endpoint.core)
        connection.connection_made(transport)
        self.feed(connection, UPGRADE)
        challenge = Message(Topic.CONNECTION, ConnectionAction.CHALLENGE)
        login = Message(Topic.AUTH, AuthAction.REQUEST, data=b"{}")
        self.feed(connection, frames(challenge, login))
        assert connection.user_id == "open"
        return connection

    def feed(self, connection: Connection, data: bytes) -> None:
        """What a read of the socket does, and the end of the loop turn."""
        connection.get_buffer(-1)[: len(data)] = data
        connection.buffer_updated(len(data))
        self.hub.flush_now()

    def send(self, *messages: Message) -> None:
        self.feed(self.client, frames(*messages))

    def subscribe(self, count: int) -> None:
        for _ in range(count):
            reader = self.login(NoSocket())
            self.feed(reader, frames(Message(Topic.RECORD, R.SUBSCRIBE, names=["r"])))

    def close(self) -> None:
        self.loop.run_until_complete(self.server.stop())
        self.loop.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def write(action: RecordAction, data: Any, path: str | None = None) -> Message:
    text = json.dumps(data, separators=(",", ":")).encode()
    return Message(Topic.RECORD, action, name="r", version=-1, data=text, path=path)


OPERATIONS = {
    "update": write(R.UPDATE, SMALL),
    "patch": write(R.PATCH, 5, "b.x"),
    "patch of an element": write(R.PATCH, 5, "list[3]"),
    "upsert": write(R.CREATEANDUPDATE, SMALL),
    "patch multi": write(R.PATCH_MULTI, [{"path": "b.x", "data": 5}, {"path": "a"}]),
    "read": Message(Topic.RECORD, R.READ, name="r"),
    "head": Message(Topic.RECORD, R.HEAD, name="r"),
    "conflict": Message(Topic.RECORD, R.UPDATE, name="r", version=1, data=b"{}"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(benchmark: Any, bench: Bench, operation: str) -> None:
    bench.send(write(R.CREATEANDUPDATE, SMALL), write(R.PATCH, 1, "a"))
    data = frames(OPERATIONS[operation]) * FRAMES
    before = bench.transport.written
    benchmark(bench.feed, bench.client, data)
    assert (bench.transport.written > before) == (operation in ("read", "head", "conflict"))


@pytest.mark.parametrize("subscribers", [1, 100])
def test_patch_with_subscribers(benchmark: Any, bench: Bench, subscribers: int) -> None:
    bench.send(write(R.CREATEANDUPDATE, SMALL))
    bench.subscribe(subscribers)
    benchmark(bench.feed, bench.client, frames(OPERATIONS["patch"]) * FRAMES)


def test_patch_of_a_large_record(benchmark: Any, bench: Bench) -> None:
    """Must cost what the patch of a small record costs."""
    bench.send(write(R.CREATEANDPATCH, 1, "a"))
    for key, value in LARGE.items():
        bench.send(write(R.PATCH, value, key))
    benchmark(bench.feed, bench.client, frames(write(R.PATCH, 5, "key500.values[2]")) * FRAMES)


def test_patch_and_read_of_a_large_record(benchmark: Any, bench: Bench) -> None:
    """The text is made once for each state that is read."""
    bench.send(write(R.CREATEANDPATCH, 1, "a"))
    for key, value in LARGE.items():
        bench.send(write(R.PATCH, value, key))
    pair = frames(write(R.PATCH, 5, "key500.values[2]"), OPERATIONS["read"])
    benchmark(bench.feed, bench.client, pair)


@pytest.mark.parametrize("document", [SMALL, LARGE], ids=["small", "large"])
def test_set_path(benchmark: Any, document: Any) -> None:
    benchmark(set_value, loads(dumps(document)), "b.c[1]", 5)


def test_erase_path(benchmark: Any) -> None:
    benchmark(erase_value, loads(dumps(LARGE)), "b.c")


@pytest.mark.parametrize("document", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("operation", [loads, dumps])
def test_text(benchmark: Any, operation: Any, document: Any) -> None:
    """What the first patch of a record and the first read after a patch cost besides."""
    benchmark(operation, dumps(document) if operation is loads else document)
