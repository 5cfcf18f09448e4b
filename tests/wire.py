"""A server in this process and a client that speaks to it byte by byte, for the tests of the wire.

The client is pull based: nothing is read from its socket unless a test asks for it, so a client that does not
read is simply one that is not asked. It makes its frames itself, so that malformed ones can be made too.
"""

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

from dsfast import Server
from dsfast._core.protocol import (
    AuthAction,
    ConnectionAction,
    Message,
    Topic,
    decode,
    encode,
)
from dsfast.plugin import UNSET, Authentication, AuthResult, Logger, LogLevel

TIMEOUT = float(os.environ.get("DSFAST_TEST_TIMEOUT", "20"))
"""Seconds until a test that waits for something gives up."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
END = b"\r\n\r\n"

# What the server answers, byte for byte (spec/protocol-binary.md sections 8 and 11).
ACCEPT = bytes.fromhex("0610021a020804")
CONNECTION_INVALID_MESSAGE = bytes.fromhex("0610021a020865")
AUTHENTICATION_TIMEOUT = bytes.fromhex("0610021a020864")
PONG_MESSAGE = bytes.fromhex("0610021a020803")
AUTH_INVALID_MESSAGE = bytes.fromhex("0610031a020865")
AUTH_INVALID_MESSAGE_DATA = bytes.fromhex("0610031a020866")
AUTH_SUCCESSFUL = bytes.fromhex("0610031a020803")
AUTH_UNSUCCESSFUL = bytes.fromhex("0610031a020804")
TOO_MANY_AUTH_ATTEMPTS = bytes.fromhex("0610031a020864")
UNKNOWN_TOPIC = bytes.fromhex("0610011a020801")

CHALLENGE = encode(
    Message(
        Topic.CONNECTION,
        ConnectionAction.CHALLENGE,
        url="ws://localhost/deepstream",
        protocol_version="0.1a",
        sdk_version="7.0.5",
        sdk_type="javascript",
    )
)
PING_MESSAGE = encode(Message(Topic.CONNECTION, ConnectionAction.PING))


def auth_request(data: bytes | None = b"{}") -> bytes:
    """An AUTH REQUEST with this text as data."""
    return encode(Message(Topic.AUTH, AuthAction.REQUEST, data=data))


def mask(payload: bytes, key: bytes) -> bytes:
    """The payload as it travels from client to server."""
    if not payload:
        return b""
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(payload), "big")


def frame(
    payload: bytes,
    opcode: int = BINARY,
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length_bytes: int | None = None,
    key: bytes | None = None,
) -> bytes:
    """One websocket frame; ``length_bytes`` (0, 2 or 8) forces how its length is written."""
    n = len(payload)
    if length_bytes is None:
        length_bytes = 0 if n < 126 else 2 if n < 65536 else 8
    head = bytes([fin << 7 | rsv << 4 | opcode])
    flag = masked << 7
    if length_bytes == 0:
        head += bytes([flag | n])
    elif length_bytes == 2:
        head += bytes([flag | 126]) + struct.pack(">H", n)
    else:
        head += bytes([flag | 127]) + struct.pack(">Q", n)
    if not masked:
        return head + payload
    key = os.urandom(4) if key is None else key
    return head + key + mask(payload, key)


def upgrade_request(path: str = "/deepstream", **changes: str | None) -> bytes:
    """A websocket handshake; keyword arguments replace headers (``_`` for ``-``) or, if None, omit them."""
    headers: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    lines = [f"GET {path} HTTP/1.1"] + [
        f"{name}: {value}" for name, value in headers.items() if value is not None
    ]
    return "\r\n".join(lines).encode("latin-1") + END


class Response:
    """An HTTP answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Client:
    """One TCP connection to a server, used as HTTP client, websocket or deepstream client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoded: list[Message] = []
        self.user = ""

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int | None = None) -> "Client":
        """Only the TCP connection. ``receive_buffer`` makes the kernel's buffer small, for slow readers."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        limit = 1 << 16 if receive_buffer is None else receive_buffer
        return cls(*await asyncio.open_connection(sock=sock, limit=limit))

    @classmethod
    async def websocket(cls, port: int, path: str = "/deepstream", **changes: Any) -> "Client":
        """A connection after the websocket handshake."""
        client = await cls.connect(port, receive_buffer=changes.pop("receive_buffer", None))
        client.write(upgrade_request(path, **changes))
        response = await client.response()
        assert response.status == 101, response.status
        return client

    @classmethod
    async def login(cls, port: int, user: str | None = None, **changes: Any) -> "Client":
        """A client that has logged in."""
        client = await cls.websocket(port, **changes)
        data = b"{}" if user is None else f'{{"username":"{user}"}}'.encode()
        client.send(CHALLENGE)
        assert await client.payload() == ACCEPT
        client.send(auth_request(data))
        await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
        client.user = user or "open"
        return client

    # --- sending

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    def send(self, *payloads: bytes) -> None:
        """Send each payload as a frame, all in one write."""
        self.writer.write(b"".join(frame(payload) for payload in payloads))

    def message(self, topic: int, action: int, **fields: Any) -> None:
        """Send one protocol message."""
        self.send(encode(Message(topic, action, **fields)))

    async def drain(self) -> None:
        """Wait until the socket has taken most of what was written."""
        async with asyncio.timeout(TIMEOUT):
            await self.writer.drain()

    # --- receiving

    async def response(self, *, head_only: bool = False) -> Response:
        """The next HTTP answer."""
        async with asyncio.timeout(TIMEOUT):
            head = (await self.reader.readuntil(END)).decode("latin-1").split("\r\n")
            headers = {}
            for line in head[1:-2]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            length = 0 if head_only else int(headers.get("content-length", 0))
            body = await self.reader.readexactly(length)
        return Response(int(head[0].split(" ")[1]), headers, body)

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which has to be one a server may send."""
        async with asyncio.timeout(TIMEOUT):
            head = await self.reader.readexactly(2)
            assert head[0] & 0xF0 == 0x80, "a fragment or a reserved bit"
            assert not head[1] & 0x80, "a server does not mask"
            size = head[1] & 127
            if size == 126:
                (size,) = struct.unpack(">H", await self.reader.readexactly(2))
                assert size >= 126
            elif size == 127:
                (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
                assert size >= 65536
            return head[0] & 15, await self.reader.readexactly(size)

    async def payload(self) -> bytes:
        """Payload of the next frame, which has to be a binary one."""
        opcode, payload = await self.frame()
        assert opcode == BINARY, (opcode, payload)
        return payload

    async def receive(self) -> Message:
        """The next protocol message."""
        if not self._decoded:
            self._decoded = decode(await self.payload())
        return self._decoded.pop(0)

    async def expect(self, topic: int, action: int, **fields: Any) -> Message:
        """The next message; topic and action have to be these, and if fields are given exactly those."""
        message = await self.receive()
        if fields:
            assert message.to_dict() == Message(topic, action, **fields).to_dict()
        else:
            assert (message.topic, message.action) == (topic, action), message
        return message

    async def fence(self) -> None:
        """Everything sent before was handled, and nothing came back for it. Logged-in clients only."""
        self.send(PING_MESSAGE)
        assert await self.payload() == PONG_MESSAGE

    async def closed(self) -> int | None:
        """Wait for the server's close frame and the end of the connection; its code (None: no status)."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        await self.ended()
        return struct.unpack(">H", payload[:2])[0] if payload else None

    async def ended(self) -> None:
        """The server has ended the connection, with nothing more in it."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionError):
                assert await self.reader.read(100) == b""
        self.writer.close()

    # --- the end

    async def close(self) -> None:
        """Leave as a client does: close frame, then wait for the server to hang up."""
        self.write(frame(b"", CLOSE))
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass
            self.writer.close()
            with contextlib.suppress(ConnectionError):
                await self.writer.wait_closed()

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Log(Logger):
    """Keeps the lines, so that tests can look at them and wait for one."""

    description = "test log"

    def init(self) -> None:
        self.lines: list[tuple[int, str, str]] = []
        self.level = LogLevel.DEBUG
        self._changed = asyncio.Event()

    def should_log(self, level: int) -> bool:
        return level >= self.level

    def set_log_level(self, level: int) -> None:
        self.level = LogLevel(level)

    def log(self, level: int, event: str, message: str, meta: Any = None) -> None:
        if self.should_log(level):
            self.lines.append((level, event, message))
            self._changed.set()

    def find(self, event: str) -> list[str]:
        """Texts of all lines of an event."""
        return [text for _, name, text in self.lines if name == event]

    def errors(self) -> list[tuple[int, str, str]]:
        """Lines that tell of a fault of the server itself."""
        return [line for line in self.lines if "exception" in line[2] or line[1] == "PLUGIN_ERROR"]

    async def wait_for(self, event: str, times: int = 1) -> list[str]:
        """Wait until an event was logged so often."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.find(event)) < times:
                self._changed.clear()
                await self._changed.wait()
        return self.find(event)


class Users(Authentication):
    """Everybody may log in under the name they say, unless the login data asks for something else.

    ``refuse``: refused. ``clientData``, ``serverData``: returned. ``crash``: fails. ``gate``: the decision
    waits until :attr:`gate` is set, and :attr:`asked` counts those who came so far.
    """

    description = "test users"

    def init(self) -> None:
        self.gate = asyncio.Event()
        self.came = asyncio.Condition()
        self.asked = 0
        self.gone: list[str] = []
        self.seen: list[Any] = []

    async def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:
        self.seen.append((connection_data, auth_data))
        if "crash" in auth_data:
            raise RuntimeError("crashed on purpose")
        if "gate" in auth_data:
            async with self.came:
                self.asked += 1
                self.came.notify_all()
            await self.gate.wait()
        if "unknown" in auth_data:
            return None
        data = {"client_data": auth_data.get("clientData", UNSET), "server_data": auth_data.get("serverData")}
        return AuthResult("refuse" not in auth_data, id=auth_data.get("username"), **data)

    def on_client_disconnect(self, user_id: str) -> None:
        self.gone.append(user_id)

    async def wait_for(self, count: int) -> None:
        """Wait until so many logins are waiting at the gate."""
        async with asyncio.timeout(TIMEOUT), self.came:
            await self.came.wait_for(lambda: self.asked >= count)


class Running:
    """A started server with what tests look at."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.services = server.get_services()
        self.log: Log = self.services.logger  # type: ignore[assignment]
        self.endpoint: Any = self.services.connection_endpoints[0]
        self.port: int = self.endpoint.addresses[0][1]
        self.router: Any = self.services.message_distributor
        self.clients: list[Client] = []

    async def connect(self, **options: Any) -> Client:
        """See :meth:`Client.connect`."""
        return self._keep(await Client.connect(self.port, **options))

    async def websocket(self, path: str = "/deepstream", **changes: Any) -> Client:
        """See :meth:`Client.websocket`."""
        return self._keep(await Client.websocket(self.port, path, **changes))

    async def challenged(self) -> Client:
        """A websocket that has passed the challenge."""
        client = await self.websocket()
        client.send(CHALLENGE)
        assert await client.payload() == ACCEPT
        return client

    async def login(self, user: str | None = None, **changes: Any) -> Client:
        """See :meth:`Client.login`."""
        return self._keep(await Client.login(self.port, user, **changes))

    def _keep(self, client: Client) -> Client:
        self.clients.append(client)
        return client

    def connection(self, user: str) -> Any:
        """The server's connection of a user."""
        (found,) = [c for c in self.endpoint.core.connections if c.user_id == user]
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until a condition holds; for what no message and no log line tells."""
        async with asyncio.timeout(TIMEOUT):
            while not condition():  # noqa: ASYNC110 - there is nothing to be told by
                await asyncio.sleep(0.001)

    async def gone(self) -> None:
        """Wait until no connection is left."""
        await self.until(lambda: not self.endpoint.core.connections)

    def registries(self) -> dict[str, Any]:
        """The subscription registries by topic; presence has two."""
        handlers = self.router.handlers
        presence = handlers[Topic.PRESENCE]
        return {
            "event": handlers[Topic.EVENT].registry,
            "record": handlers[Topic.RECORD].registry,
            "rpc": handlers[Topic.RPC].registry,
            "presence": presence._users,
            "everyone": presence._everyone,
        }

    def assert_empty(self) -> None:
        """Nobody is connected, so no table may hold anything."""
        assert not self.endpoint.core.connections
        assert {topic: registry.names() for topic, registry in self.registries().items()} == {
            topic: [] for topic in self.registries()
        }
        assert self.router.handlers[Topic.RPC].open_calls == 0
        assert self.router.presence.online == []

    async def stop(self) -> None:
        """Stop the server, if the test has not."""
        for client in self.clients:
            client.writer.close()
        if self.server.is_running():
            await self.server.stop()


@contextlib.asynccontextmanager
async def serve(
    config: dict[str, Any] | None = None, *, options: dict[str, Any] | None = None, **services: Any
) -> AsyncIterator[Running]:
    """A server on a free port; ``options`` are the endpoint's, ``services`` plugins or their classes."""
    server = Server(
        {
            "httpServer": {"type": "default", "options": {"host": "127.0.0.1", "port": 0}},
            "connectionEndpoints": [{"type": "ws-binary", "options": options or {}}],
            "storage": {"type": "default"},
            "showLogo": False,
            **(config or {}),
        }
    )
    server.set("logger", Log)
    for name, plugin in services.items():
        server.set(name, plugin)
    await server.start()
    running = Running(server)
    try:
        yield running
    finally:
        await running.stop()


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept for a key (RFC 6455 section 4.2.2)."""
    text = key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(text.encode()).digest()).decode()
