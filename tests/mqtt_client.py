"""An MQTT client that makes and reads its packets byte by byte, over TCP or in websockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from wire import BINARY, TIMEOUT, Client, Running, frame, serve

CONNECT, CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP = 0x10, 0x20, 0x40, 0x50, 0x62, 0x70
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x82, 0x90, 0xA2, 0xB0
PINGREQ, PINGRESP, DISCONNECT = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"


def text(value: str | bytes) -> bytes:
    """A string as it stands in packets."""
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def packet(first: int, body: bytes = b"") -> bytes:
    """A packet with its length."""
    length, n = bytearray(), len(body)
    while True:
        n, digit = n >> 7, n & 127
        length.append(digit | (128 if n else 0))
        if not n:
            return bytes([first]) + bytes(length) + body


def connect(
    client_id: str = "c",
    user: str | None = "A",
    password: str | None = None,
    *,
    clean: bool = True,
    keep_alive: int = 0,
    will: tuple[str, bytes, int, bool] | None = None,
    flags: int | None = None,
    level: int = 4,
    name: str = "MQTT",
) -> bytes:
    """A CONNECT; ``will`` is topic, payload, QoS and retain, ``flags`` replaces the flags."""
    made = clean << 1
    rest = text(client_id)
    if will is not None:
        made |= 4 | will[2] << 3 | will[3] << 5
        rest += text(will[0]) + text(will[1])
    if user is not None:
        made |= 0x80
        rest += text(user)
    if password is not None:
        made |= 0x40
        rest += text(password)
    head = text(name) + bytes([level, made if flags is None else flags])
    return packet(CONNECT, head + keep_alive.to_bytes(2, "big") + rest)


def publish(
    topic: str | bytes,
    payload: bytes = b"",
    *,
    qos: int = 0,
    retain: bool = False,
    dup: bool = False,
    id: int = 1,
) -> bytes:
    """A PUBLISH."""
    body = text(topic) + (id.to_bytes(2, "big") if qos else b"") + payload
    return packet(0x30 | dup << 3 | qos << 1 | retain, body)


def subscribe(*filters: str | tuple[str, int], id: int = 1) -> bytes:
    """A SUBSCRIBE; filters without a QoS have 0."""
    pairs = [(one, 0) if isinstance(one, str) else one for one in filters]
    return packet(SUBSCRIBE, id.to_bytes(2, "big") + b"".join(text(one) + bytes([qos]) for one, qos in pairs))


def unsubscribe(*filters: str, id: int = 1) -> bytes:
    """An UNSUBSCRIBE."""
    return packet(UNSUBSCRIBE, id.to_bytes(2, "big") + b"".join(map(text, filters)))


def ack(first: int, id: int) -> bytes:
    """A PUBACK or one of its like."""
    return packet(first, id.to_bytes(2, "big"))


class Publish:
    """A PUBLISH that came."""

    def __init__(self, first: int, body: bytes) -> None:
        n = int.from_bytes(body[:2], "big")
        self.qos, self.retain, self.dup = first >> 1 & 3, bool(first & 1), bool(first & 8)
        self.topic = body[2 : 2 + n].decode()
        at = 2 + n
        self.id = 0
        if self.qos:
            self.id = int.from_bytes(body[at : at + 2], "big")
            at += 2
        self.payload = body[at:]


class MqttClient:
    """One connection."""

    def __init__(self, client: Client, wrapped: bool = False) -> None:
        self.raw = client
        self._wrapped = wrapped
        self._stream = b""

    def send(self, *packets: bytes) -> None:
        """Send packets, all in one write."""
        data = b"".join(packets)
        self.raw.write(frame(data, BINARY) if self._wrapped else data)

    async def _exactly(self, n: int) -> bytes:
        if not self._wrapped:
            return await self.raw.reader.readexactly(n)
        while len(self._stream) < n:
            self._stream += await self.raw.payload()
        taken, self._stream = self._stream[:n], self._stream[n:]
        return taken

    async def receive(self) -> tuple[int, bytes]:
        """First byte and body of the next packet."""
        async with asyncio.timeout(TIMEOUT):
            first = (await self._exactly(1))[0]
            size = shift = 0
            while True:
                digit = (await self._exactly(1))[0]
                size |= (digit & 127) << shift
                shift += 7
                if digit < 128:
                    return first, await self._exactly(size)

    async def expect(self, *wanted: bytes) -> None:
        """The next packets are these, byte for byte."""
        for one in wanted:
            first, body = await self.receive()
            assert packet(first, body) == one, (packet(first, body).hex(), one.hex())

    async def message(self, acknowledge: bool = True) -> Publish:
        """The next packet, a PUBLISH."""
        first, body = await self.receive()
        assert first >> 4 == 3, (hex(first), body)
        message = Publish(first, body)
        if acknowledge and message.qos:
            self.send(ack(PUBACK, message.id))
        return message

    async def fence(self) -> None:
        """Everything sent before was handled, and nothing came back for it."""
        self.send(PINGREQ)
        await self.expect(PINGRESP)

    async def subscribe(self, *filters: str | tuple[str, int], id: int = 1) -> list[int]:
        """Subscribe; the codes of the SUBACK. Records that come before it are an error."""
        self.send(subscribe(*filters, id=id))
        first, body = await self.receive()
        assert (first, body[:2]) == (SUBACK, id.to_bytes(2, "big")), (hex(first), body)
        return list(body[2:])

    async def ended(self) -> None:
        """The server has ended the connection, with nothing more in it."""
        if self._wrapped:
            await self.raw.closed()
        else:
            await self.raw.ended()

    async def disconnect(self) -> None:
        """Leave with a DISCONNECT."""
        self.send(DISCONNECT)
        await self.ended()


class MqttRunning:
    """A server with an MQTT endpoint."""

    def __init__(self, running: Running) -> None:
        self.server = running
        (self.endpoint,) = [e for e in running.services.connection_endpoints if e.description == "mqtt"]
        self.port: int = self.endpoint.addresses[0][1] if self.endpoint.addresses else 0
        self.broker = self.endpoint.broker

    async def open(self, *, web: bool = False, **options: Any) -> MqttClient:
        """A connection on which nothing has been said."""
        if web:
            client = await self.server.websocket("/mqtt", Sec_WebSocket_Protocol="mqtt")
        else:
            client = await Client.connect(self.port, **options)
            self.server.clients.append(client)
        return MqttClient(client, web)

    async def login(
        self, client_id: str = "", *, present: bool = False, web: bool = False, **fields: Any
    ) -> MqttClient:
        """A client that has logged in."""
        client = await self.open(web=web)
        client.send(connect(client_id, **fields))
        await client.expect(bytes([CONNACK, 2, present, 0]))
        return client

    def connections(self) -> int:
        """How many there are on the MQTT port."""
        return len(self.endpoint.core.connections)

    async def gone(self, connections: int = 0) -> None:
        """Wait until no more than so many are left."""
        await self.server.until(lambda: self.connections() <= connections)


@contextlib.asynccontextmanager
async def serve_mqtt(
    config: dict[str, Any] | None = None,
    *,
    options: dict[str, Any] | None = None,
    endpoints: Sequence[dict[str, Any]] = (),
    **services: Any,
) -> AsyncIterator[MqttRunning]:
    """A server with binary, JSON and MQTT clients; ``options`` are those of the MQTT endpoint."""
    all_endpoints = [
        {"type": "ws-binary"},
        {"type": "ws-json"},
        {"type": "mqtt", "options": {"host": "127.0.0.1", "port": 0, **(options or {})}},
        *endpoints,
    ]
    async with serve({"connectionEndpoints": all_endpoints, **(config or {})}, **services) as running:
        yield MqttRunning(running)
