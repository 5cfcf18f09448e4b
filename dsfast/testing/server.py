"""A server in the test's own process, and a client to use it with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import aiohttp

from dsfast.plugin import LogLevel
from dsfast.protocol import AuthAction, ConnectionAction, Topic
from dsfast.server import Server
from dsfast.services import Services
from dsfast.testing.plugins import PATIENCE, MemoryLogger

__all__ = ["LoginRefused", "ServedClient", "ServedServer", "served"]

_ENDPOINTS = [{"type": "ws-binary"}, {"type": "ws-json"}, {"type": "http"}]


class LoginRefused(Exception):
    """The server did not let the client in; ``data`` is what it said."""

    def __init__(self, data: Any) -> None:
        super().__init__(f"the login was refused: {data!r}")
        self.data = data


class ServedClient:
    """A client that has logged in. Messages are dicts with the keys of the protocol (``name``, ``names``,
    ``version``, ``correlationId``, ...) and their JSON value in ``parsedData``.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.client_data: Any = None
        """What the authentication sent."""

    async def send(self, topic: int, action: int, **fields: Any) -> None:
        """Send one message."""
        await self._socket.send_json({"topic": int(topic), "action": int(action), **fields})

    async def receive(self) -> dict[str, Any]:
        """The next message. Raises TimeoutError, and ConnectionError if the connection has ended."""
        async with asyncio.timeout(PATIENCE):
            frame = await self._socket.receive()
        if frame.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(f"the connection has ended with code {self._socket.close_code}")
        message: dict[str, Any] = frame.json()
        return message

    async def expect(self, topic: int, action: int) -> dict[str, Any]:
        """The next message, which has to be of this topic and action."""
        message = await self.receive()
        assert (message["topic"], message["action"]) == (topic, action), message
        return message

    async def ended(self) -> int | None:
        """Wait until the server has ended the connection; the code it gave."""
        async with asyncio.timeout(PATIENCE):
            while not self._socket.closed:
                await self._socket.receive()
        return self._socket.close_code

    async def close(self) -> None:
        """Leave."""
        await self._socket.close()

    async def login(self, auth_data: Mapping[str, Any]) -> None:
        """Log in. Raises :class:`LoginRefused`."""
        await self.send(Topic.CONNECTION, ConnectionAction.CHALLENGE, url="ws://localhost")
        await self.expect(Topic.CONNECTION, ConnectionAction.ACCEPT)
        await self.send(Topic.AUTH, AuthAction.REQUEST, parsedData=dict(auth_data))
        answer = await self.receive()
        if answer["action"] != AuthAction.AUTH_SUCCESSFUL:
            raise LoginRefused(answer.get("parsedData"))
        self.client_data = answer.get("parsedData")


class ServedServer:
    """A running server on a free port of this machine."""

    def __init__(self, server: Server, log: MemoryLogger) -> None:
        self.server = server
        self.services: Services = server.get_services()
        self.log = log
        self.port: int = self.services.http_service.addresses[0][1]
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")

    async def connect(self, auth_data: Mapping[str, Any] | None = None) -> ServedClient:
        """A client over ws-json, logged in. Raises :class:`LoginRefused`."""
        client = ServedClient(await self._session.ws_connect("/deepstream-json"))
        await client.login(auth_data or {})
        return client

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status of a GET, and the JSON value or the text that came with it."""
        return await self._request("GET", path, None, headers)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """As :meth:`get`, for a POST with a JSON body."""
        return await self._request("POST", path, body, headers)

    async def _request(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        async with (
            asyncio.timeout(PATIENCE),
            self._session.request(method, path, json=body, headers=headers) as answer,
        ):
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, (await answer.text()).strip()

    async def __aenter__(self) -> ServedServer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        if self.server.is_running():
            await self.server.stop()


@asynccontextmanager
async def served(config: Mapping[str, Any] | None = None, **services: Any) -> AsyncIterator[ServedServer]:
    """``async with served({...}, permission=Mine) as s``: a server with plugins, stopped at the end.

    ``config`` is a configuration; unless it says otherwise nothing is stored. ``services`` are plugins or
    their classes under the names that :meth:`dsfast.Server.set` takes. Raises :class:`dsfast.StartError`.
    """
    server = Server(
        {
            "httpServer": {"options": {"host": "127.0.0.1", "port": 0}},
            "connectionEndpoints": _ENDPOINTS,
            "storage": {"type": "none"},
            **(config or {}),
        }
    )
    log = MemoryLogger()
    log.services, log.config, log.level = server.get_services(), server.get_config(), LogLevel.DEBUG
    for name, plugin in {"logger": log, **services}.items():
        server.set(name, plugin)
    await server.start()
    async with ServedServer(server, log) as running:
        yield running
