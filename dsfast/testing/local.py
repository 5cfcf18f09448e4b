"""Clients of a server in the same process that need no network."""

from __future__ import annotations

import asyncio
from typing import Any

from dsfast._core.connection import VirtualConnection
from dsfast.plugin import UNSET
from dsfast.protocol import Message
from dsfast.services import Services
from dsfast.testing.plugins import PATIENCE

__all__ = ["LocalClient"]


class LocalClient:
    """A logged-in client inside the server: what it sends goes through permission and handlers as always.

    ``services`` are those of a running server. It has no websocket, so presence does not count it.
    """

    def __init__(
        self,
        services: Services,
        user_id: str = "user",
        *,
        server_data: Any = None,
        client_data: Any = UNSET,
    ) -> None:
        endpoint: Any = services.connection_endpoints[0]
        self.received: list[Message] = []
        """What it was sent and nobody has taken yet."""
        self._came = asyncio.Event()
        self.socket = VirtualConnection(
            endpoint.core, self._take, user_id=user_id, server_data=server_data, client_data=client_data
        )
        """What plugins see of it."""

    def send(self, topic: int, action: int, **fields: Any) -> None:
        """Send one message."""
        self.socket.handle(Message(topic, action, **fields))

    async def receive(self) -> Message:
        """The next message; TimeoutError if none comes."""
        async with asyncio.timeout(PATIENCE):
            while not self.received:
                self._came.clear()
                await self._came.wait()
        return self.received.pop(0)

    async def expect(self, topic: int, action: int, **fields: Any) -> Message:
        """The next message, which has to be this one; if fields are given, exactly with those."""
        message = await self.receive()
        if fields:
            assert message == Message(topic, action, **fields), message.to_dict()
        else:
            assert (message.topic, message.action) == (topic, action), message.to_dict()
        return message

    def close(self) -> None:
        """Leave."""
        self.socket.end()

    def _take(self, message: Message) -> None:
        self.received.append(message)
        self._came.set()
