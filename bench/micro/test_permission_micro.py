"""What a permission check adds to a message: ``pytest bench/micro/test_permission_micro.py``.

Frames of events that nobody has subscribed to go into a connection as its transport would bring them, 100 per
call, so that the figures are those of frame, decoding, permission and routing, without a socket. Each figure
is for 100 messages; ``open`` has no permission at all, and the others are to be compared with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.micro.test_record_micro import FRAMES, UPGRADE, NoSocket, frames
from dsfast import Permission, Server
from dsfast.protocol import AuthAction, ConnectionAction, EventAction, Message, Topic

RULES = {
    "event": {
        "*": dict.fromkeys(("publish", "subscribe", "listen"), False),
        "user/$user": {"publish": "user.id === $user"},
    },
    "record": {"*": dict.fromkeys(("create", "read", "write", "delete", "listen", "notify"), True)},
    "rpc": {"*": {"provide": True, "request": True}},
    "presence": {"*": {"allow": True}},
}


class Synchronous(Permission):
    """Ten lines of Python that answer at once."""

    description = "answers at once"

    def can_perform_action(self, socket: Any, message: Message) -> bool:
        return message.name is None or socket.user_id in message.name


class Asynchronous(Permission):
    """The same as a coroutine: each answer takes a turn of the event loop."""

    description = "answers later"

    async def can_perform_action(self, socket: Any, message: Message) -> bool:
        return message.name is None or socket.user_id in message.name


class Bench:
    """A server without a port in use, and a client without a socket."""

    def __init__(self, permission: str, directory: Path) -> None:
        self.loop = uvloop.new_event_loop()
        rules = directory / "permission.json"
        rules.write_text(json.dumps(RULES))
        kinds = {
            "open": {"type": "none"},
            "valve": {"type": "config", "options": {"path": str(rules)}},
            "python": {"class": Synchronous},
            "python async": {"class": Asynchronous},
        }
        self.server = Server(
            {
                "httpServer": {"options": {"host": "127.0.0.1", "port": 0}},
                "connectionEndpoints": [{"type": "ws-binary"}],
                "storage": {"type": "none"},
                "logLevel": "ERROR",
                "permission": kinds[permission],
            }
        )
        self.loop.run_until_complete(self.server.start())
        services = self.server.get_services()
        endpoint: Any = services.connection_endpoints[0]
        self.hub = services.message_distributor.hub
        self.client = endpoint.core.make()
        self.client.connection_made(NoSocket())
        self.feed(UPGRADE)
        login = Message(Topic.AUTH, AuthAction.REQUEST, data=b"{}")
        self.feed(frames(Message(Topic.CONNECTION, ConnectionAction.CHALLENGE), login))
        assert self.client.user_id == "open"

    def feed(self, data: bytes) -> None:
        """What a read of the socket does, and the end of the loop turn."""
        self.client.get_buffer(-1)[: len(data)] = data
        self.client.buffer_updated(len(data))
        self.hub.flush_now()

    async def turn(self, data: bytes) -> None:
        """As :meth:`feed`, until every message has been decided about."""
        self.feed(data)
        while self.client.lane is not None:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)

    def close(self) -> None:
        self.client.connection_lost(None)
        self.loop.run_until_complete(self.server.stop())
        self.loop.close()


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(request.param, tmp_path)
    yield bench
    bench.close()


@pytest.mark.parametrize("bench", ["open", "valve", "python", "python async"], indirect=True)
def test_event(benchmark: Any, bench: Bench) -> None:
    message = Message(Topic.EVENT, EventAction.EMIT, name="user/open", data=b'"' + b"x" * 62 + b'"')
    data = frames(message) * FRAMES
    asked = bench.hub.messages_in
    benchmark(lambda: bench.loop.run_until_complete(bench.turn(data)))
    assert bench.hub.messages_in > asked
