"""permessage-deflate (RFC 7692): what is agreed upon, what comes in, what goes out, and its bounds."""

import asyncio
import json
import os
import random
import zlib

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import (
    ACCEPT,
    AUTH_SUCCESSFUL,
    BINARY,
    CHALLENGE,
    CONTINUATION,
    PING,
    PING_MESSAGE,
    PONG,
    PONG_MESSAGE,
    TEXT,
    TIMEOUT,
    Client,
    auth_request,
    frame,
    serve,
    upgrade_request,
)

from dsfast._core.deflate import agreement, inflated, negotiate
from dsfast._core.protocol import (
    AuthAction,
    ConnectionAction,
    EventAction,
    Message,
    RecordAction,
    Topic,
    encode,
)

loops = ["uvloop"]

ROUNDS = int(os.environ.get("DSFAST_FUZZ", "20000"))
SEED = int(os.environ.get("DSFAST_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
EXTENSION = "permessage-deflate"
OFFER = f"{EXTENSION}; client_max_window_bits"
LIMIT = 1 << 20


def deflated(data, *, bits=15, flush=zlib.Z_SYNC_FLUSH, level=6):
    """A message as a client sends it compressed."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    out = compressor.compress(data) + compressor.flush(flush)
    return out if flush == zlib.Z_FINISH else out[:-4]


class Compressing(Client):
    """Compresses all it sends, and understands what is compressed."""

    opcode = BINARY
    bits = 15
    compressed = 0
    """Messages that came compressed."""

    def send(self, *payloads):
        self.writer.write(b"".join(frame(deflated(payload), self.opcode, rsv=4) for payload in payloads))

    async def frame(self):
        async with asyncio.timeout(TIMEOUT):
            head = await self.reader.readexactly(2)
            assert head[0] & 0xB0 == 0x80
            size = head[1] & 127
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            payload = await self.reader.readexactly(size)
        if head[0] & 0x40:
            assert head[0] & 15 < 8, "a control frame is never compressed"
            self.compressed += 1
            payload = zlib.decompressobj(-self.bits).decompress(payload + b"\0\0\xff\xff")
        return head[0] & 15, payload


async def compressing(s, offer=OFFER, path="/deepstream", *, login=True, receive_buffer=None):
    plain = await Client.connect(s.port, receive_buffer=receive_buffer)
    client = s._keep(Compressing(plain.reader, plain.writer))
    client.write(upgrade_request(path, Sec_WebSocket_Extensions=offer))
    response = await client.response()
    assert response.status == 101
    client.bits = 9 if "server_max_window_bits=9" in response.headers["sec-websocket-extensions"] else 15
    if login:
        client.send(CHALLENGE)
        assert await client.payload() == ACCEPT
        client.send(auth_request())
        assert await client.payload() == AUTH_SUCCESSFUL
    return client


async def subscribe(client):
    client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
    await client.receive()


def on(**options):
    return {"perMessageDeflate": True, "compressionThreshold": 100, **options}


# --- what is agreed upon


@pytest.mark.parametrize(
    ("offer", "bits"),
    [
        ("permessage-deflate", 15),
        (OFFER, 15),
        ("permessage-deflate; client_max_window_bits=8", 15),
        ("permessage-deflate;server_no_context_takeover;client_no_context_takeover", 15),
        ("permessage-deflate; server_max_window_bits=15", 15),
        ("permessage-deflate; server_max_window_bits=9", 9),
        ('permessage-deflate; server_max_window_bits="12"', 9),
        ("x-webkit-deflate-frame, permessage-deflate", 15),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", 15),
        ("permessage-deflate; unknown, permessage-deflate; server_max_window_bits=10", 9),
        ("permessage-deflate; server_max_window_bits = 10", 9),
        ("", None),
        ("x", None),
        ("Permessage-Deflate", None),
        ("permessage-deflate=1", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=09", None),
        ("permessage-deflate; server_max_window_bits=1\u0662", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits=", None),
        ("permessage-deflate; client_no_context_takeover=1", None),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        ("permessage-deflate; x=y", None),
        ("permessage-deflate;", None),
        ("permessage-deflate; ;", None),
    ],
)
def test_offers(offer, bits):
    assert negotiate(offer) == bits


PIECES = [
    EXTENSION,
    ";",
    ",",
    "=",
    " ",
    "server_max_window_bits",
    "client_max_window_bits",
    "9",
    "15",
    '"',
    "8",
]


@given(st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_offer(offer):
    assert negotiate(offer) in (None, 9, 15)


def test_the_answer():
    names = f"{EXTENSION}; server_no_context_takeover; client_no_context_takeover"
    always = f"Sec-WebSocket-Extensions: {names}".encode()
    assert agreement(15) == always + b"\r\n"
    assert agreement(9) == always + b"; server_max_window_bits=9\r\n"


async def test_off_unless_asked_for_by_both():
    async with serve() as s:
        client = await s.connect()
        client.write(upgrade_request(Sec_WebSocket_Extensions=OFFER))
        assert "sec-websocket-extensions" not in (await client.response()).headers
        client.write(frame(deflated(CHALLENGE), rsv=4))
        assert await client.closed() == 1002
    async with serve(options=on()) as s:
        client = await s.login()
        client.write(frame(deflated(PING_MESSAGE), rsv=4))
        assert await client.closed() == 1002


# --- what comes in


async def test_messages_of_all_sizes():
    async with serve(options=on()) as s:
        sender, reader, plain = await compressing(s), await compressing(s), await s.login("p")
        for client in (reader, plain):
            await subscribe(client)
        for size in (0, 1, 99, 100, 125, 126, 1000, 65535, 65536, 300_000):
            payload = encode(Message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"' + b"y" * size + b'"'))
            sender.send(payload)
            assert await reader.payload() == payload
            assert await plain.payload() == payload


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("level", [0, 1, 9])
async def test_whatever_a_client_compresses_with(bits, level):
    async with serve(options=on()) as s:
        client = await compressing(s)
        client.write(frame(deflated(PING_MESSAGE, bits=bits, level=level), rsv=4))
        assert await client.payload() == PONG_MESSAGE


async def test_fragments_with_control_frames_between_them():
    async with serve(options=on()) as s:
        client = await compressing(s)
        data = deflated(PING_MESSAGE)
        for at in range(len(data) + 1):
            client.write(frame(data[:at], rsv=4, fin=False) + frame(b"x", PING))
            client.write(frame(b"", CONTINUATION, fin=False) + frame(data[at:], CONTINUATION))
            client.write(frame(PING_MESSAGE))
            assert await client.frame() == (PONG, b"x")
            for _ in range(2):
                assert await client.payload() == PONG_MESSAGE


async def test_compressed_and_plain_messages_mixed_and_cut_anywhere():
    async with serve(options=on()) as s:
        client, other = await compressing(s), await s.login()
        stream = (frame(deflated(PING_MESSAGE), rsv=4) + frame(PING_MESSAGE)) * 3
        for at in range(1, len(stream), 3):
            client.write(stream[:at])
            await client.drain()
            await other.fence()
            client.write(stream[at:])
            for _ in range(6):
                assert await client.payload() == PONG_MESSAGE


async def test_a_stream_may_end_within_a_message():
    """RFC 7692 section 7.2.3.4: a last block, and then another one."""
    async with serve(options=on()) as s:
        client = await compressing(s)
        half = len(PING_MESSAGE) // 2
        for data in (
            deflated(PING_MESSAGE, flush=zlib.Z_FINISH) + b"\0",
            deflated(PING_MESSAGE, flush=zlib.Z_FINISH),
            deflated(PING_MESSAGE[:half], flush=zlib.Z_FINISH) + deflated(PING_MESSAGE[half:]),
        ):
            client.write(frame(data, rsv=4))
            assert await client.payload() == PONG_MESSAGE


WRONG = {
    "continuation": frame(b"", CONTINUATION, rsv=4),
    "control": frame(deflated(b"x"), PING, rsv=4),
    "continued": frame(deflated(b"x"), rsv=4, fin=False) + frame(b"", CONTINUATION, rsv=4),
    "nested": frame(deflated(b"x"), rsv=4, fin=False) + frame(deflated(b"x"), rsv=4),
    "RSV2 too": frame(deflated(b"x"), rsv=6),
    "RSV2": frame(deflated(b"x"), rsv=2),
    "opcode": frame(deflated(b"x"), 3, rsv=4),
    "unmasked": frame(deflated(b"x"), rsv=4, masked=False),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
async def test_where_the_bit_is_wrong(data):
    async with serve(options=on()) as s:
        client = await compressing(s)
        client.write(data)
        assert await client.closed() == 1002


async def test_a_text_frame_on_the_binary_endpoint():
    async with serve(options=on()) as s:
        client = await compressing(s)
        client.write(frame(deflated(b"x"), TEXT, rsv=4))
        assert await client.closed() == 1003


@pytest.mark.parametrize("data", [b"\xff" * 10, b"\x07", b"\x00\x01\x00\x00\x00x"])
async def test_damaged_data(data):
    async with serve(options=on()) as s:
        client = await compressing(s)
        client.write(frame(data, rsv=4))
        assert await client.closed() == 1007
        assert s.log.errors() == []


# --- bounds


async def test_the_limit_counts_what_comes_out():
    async with serve(options=on(maxMessageSize=10_000)) as s:
        start = encode(Message(Topic.EVENT, EventAction.EMIT, name="e", data=b'""'))
        fits = start + b"\0" * (10_000 - len(start))
        client = await compressing(s)
        client.send(fits)
        await client.payload()  # it makes no sense, but it was read
        client.send(fits + b"\0")
        assert await client.closed() == 1009


async def test_a_bomb_costs_no_more_than_the_limit():
    bomb = deflated(b"\0" * (500 << 20), level=9)
    assert len(bomb) < 1 << 20
    async with serve(options=on()) as s:
        client = await compressing(s)
        process = psutil.Process()
        before = process.memory_info().rss
        client.write(frame(bomb, rsv=4))
        assert await client.closed() == 1009
        assert process.memory_info().rss - before < 64 << 20


async def test_before_a_login_little_is_inflated():
    async with serve(options=on()) as s:
        client = await compressing(s, login=False)
        client.send(b"\0" * 65_537)
        assert await client.closed() == 1009


def test_many_streams_in_one_message_are_not_followed():
    """Each would cost little, but all of them much more than their bytes."""
    empty = deflated(b"", flush=zlib.Z_FINISH)
    assert inflated(empty * 10, LIMIT) == b""
    with pytest.raises(ValueError, match="too many streams"):
        inflated(empty * 100_000, LIMIT)


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_the_limit_is_exact(data, limit):
    assert inflated(deflated(data), limit) == (data if len(data) <= limit else None)


def test_mutated_data():
    rng = random.Random(SEED)
    samples = [
        deflated(bytes(rng.choices(b"abc{}", k=rng.randrange(1, 500))), level=level) for level in range(10)
    ]
    for _ in range(ROUNDS):
        data = bytearray(rng.choice(samples))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            result = inflated(bytes(data[: rng.randrange(len(data) + 1)]), 10_000)
        except ValueError:
            continue
        assert result is None or len(result) <= 10_000, SEED


async def test_random_compressed_frames_hurt_nobody_else():
    rng = random.Random(SEED)
    async with serve(options=on(maxBadMessages=10)) as s:
        other = await s.login("other")
        for _ in range(min(ROUNDS // 200, 2000)):
            client = await compressing(s)
            for _ in range(20):
                data = bytearray(deflated(PING_MESSAGE * rng.randrange(1, 50)))
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                client.write(frame(bytes(data), rsv=4, fin=rng.random() < 0.9))
            client.writer.close()
            await other.fence()
        assert s.log.errors() == [], SEED


# --- what goes out


async def test_only_what_is_long_enough_and_gets_shorter_is_compressed():
    async with serve(options=on()) as s:
        client, sender = await compressing(s), await s.login()
        await subscribe(client)
        noise = bytes(random.Random(1).choices([*range(35, 92), *range(93, 127)], k=100))
        for data, compressed in ((b"x" * 10, 0), (b"x" * 1000, 1), (noise, 0)):
            client.compressed = 0
            sender.message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"' + data + b'"')
            assert (await client.receive()).data == b'"' + data + b'"'
            assert client.compressed == compressed


@pytest.mark.parametrize("offer", [OFFER, "permessage-deflate; server_max_window_bits=9"])
async def test_records_and_their_changes(offer):
    """All ways in which something is sent: answers and broadcasts."""
    async with serve(options=on()) as s:
        client, plain = await compressing(s, offer), await s.login()
        data = b'{"text":"' + b"abcdefgh" * 200 + b'"}'
        plain.message(Topic.RECORD, RecordAction.CREATEANDUPDATE, name="r", version=1, data=data)
        await plain.fence()
        client.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="2")
        assert data in [(await client.receive()).data for _ in range(2)]
        assert client.compressed == 1
        plain.message(Topic.RECORD, RecordAction.UPDATE, name="r", version=2, data=data)
        message = await client.receive()
        assert (message.action, message.version, message.data) == (RecordAction.UPDATE, 2, data)
        assert client.compressed == 2


async def test_a_broadcast_is_compressed_once(monkeypatch):
    calls = 0
    real = zlib.compressobj

    class Counting:
        def __init__(self, *arguments):
            self._real = real(*arguments)

        def compress(self, data):
            nonlocal calls
            calls += 1
            return self._real.compress(data)

        def flush(self, *mode):
            return self._real.flush(*mode)

    monkeypatch.setattr(zlib, "compressobj", Counting)
    async with serve(options=on()) as s:
        clients = [await compressing(s) for _ in range(20)]
        for client in clients:
            await subscribe(client)
        sender = await s.login()
        calls = 0
        for _ in range(10):
            sender.message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"' + b"x" * 1000 + b'"')
        for client in clients:
            for _ in range(10):
                assert len((await client.receive()).data) == 1002
        assert calls == 10


async def test_a_slow_reader_gets_whole_frames():
    async with serve(options=on(maxOutgoingBytes=1 << 26)) as s:
        client, sender = await compressing(s, receive_buffer=4096), await s.login()
        await subscribe(client)
        rng = random.Random(1)
        texts = [bytes(rng.choices(b"0123456789abcdef", k=20_000)) for _ in range(20)]
        for number in range(500):
            sender.message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"' + texts[number % 20] + b'"')
        await sender.fence()
        for number in range(500):
            assert (await client.receive()).data == b'"' + texts[number % 20] + b'"'
        assert client.compressed == 500


def as_json(topic, action, **fields):
    return json.dumps({"topic": topic, "action": action, **fields}).encode()


JSON = (
    as_json(Topic.CONNECTION, ConnectionAction.CHALLENGE, url="x"),
    as_json(Topic.AUTH, AuthAction.REQUEST, parsedData={}),
    as_json(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlationId="1"),
)
V3 = (b"C\x1fCHR\x1fx\x1e", b"A\x1fREQ\x1f{}\x1e", b"E\x1fS\x1fe\x1e")


@pytest.mark.parametrize(
    ("kind", "path", "messages"),
    [("ws-json", "/deepstream-json", JSON), ("ws-text", "/deepstream-v3", V3)],
)
async def test_the_other_protocols_too(kind, path, messages):
    endpoints = [{"type": "ws-binary"}, {"type": kind, "options": on()}]
    async with serve({"connectionEndpoints": endpoints}) as s:
        client = await compressing(s, path=path, login=False)
        client.opcode = TEXT
        client.send(*messages)
        sender = await s.login()
        await s.until(lambda: s.registries()["event"].count("e") == 1)
        client.compressed = 0
        long = b"x" * 1000
        sender.message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"' + long + b'"')
        payload = b""
        while long not in payload:
            opcode, payload = await client.frame()
            assert opcode == TEXT
        assert client.compressed == 1
