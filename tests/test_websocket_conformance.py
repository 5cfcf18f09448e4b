"""The case catalogue of the websocket test suite of Autobahn, in own words, on clients that hear each other.

The suite itself runs on Python 2 only, which Debian does not have any more. Its catalogue is public, and the
numbers here are those of its cases: 1 framing, 2 pings, 3 reserved bits, 4 opcodes, 5 fragments, 6 UTF-8,
7 closing, 9 and 10 sizes, 12 and 13 compression. Every case is the strict one: what came before a mistake is
answered, nothing behind it is, and the connection ends with the right code. Invalid text ends it with the
fragment that has it (6.4.1, 6.4.2); within a frame that is still coming it is not looked for (6.4.3, 6.4.4).
"""

import asyncio
import os
import random
import struct
import zlib

import pytest
from test_deflate import deflated
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, TIMEOUT, Client, frame, serve, upgrade_request

from dsfast._core.protocol import AuthAction, ConnectionAction, EventAction, Message, Topic, decode, encode

loops = ["uvloop"]

SIZE = int(os.environ.get("DSFAST_CONFORMANCE_SIZE", str(1 << 20)))
"""Largest message of group 9, in bytes; Autobahn goes to 16 MiB."""
OFFERS = {
    "13.1": "permessage-deflate",
    "13.2": "permessage-deflate; client_no_context_takeover",
    "13.3": "permessage-deflate; server_max_window_bits=9",
    "13.4": "permessage-deflate; server_max_window_bits=15",
    "13.5": "permessage-deflate; server_no_context_takeover; client_max_window_bits",
    "13.6": "permessage-deflate; server_max_window_bits=9; server_no_context_takeover",
    "13.7": "permessage-deflate; server_max_window_bits=9; client_max_window_bits, permessage-deflate",
}


class Echo:
    """A client whose messages come back, as data of an event.

    Text goes through the JSON endpoint, binary data through the binary one: the server as it is.
    """

    def __init__(self, client: Client, opcode: int) -> None:
        self.client = client
        self.opcode = opcode

    def message(self, text: str) -> bytes:
        """The message for a text, as it has to be sent so that it comes back."""
        if self.opcode == BINARY:
            return encode(Message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"%s"' % text.encode()))
        return b'{"topic":4,"action":%d,"name":"e","parsedData":"%s"}' % (EventAction.EMIT, text.encode())

    def is_echo(self, opcode: int, payload: bytes, text: str) -> bool:
        """Whether a frame is the echo of a text."""
        if opcode != self.opcode:
            return False
        if opcode == BINARY:
            (message,) = decode(payload)
            return message.data == b'"%s"' % text.encode()
        return b'"parsedData":"%s"' % text.encode() in payload


ENDPOINTS = [{"type": "ws-binary"}, {"type": "ws-json"}]
COMPRESSED = [
    {"type": kind, "options": {"perMessageDeflate": True, "compressionThreshold": 1}}
    for kind in ("ws-binary", "ws-json")
]


class Peer(Client):
    """A client that takes compressed frames too."""

    bits = 15
    compressed = 0

    async def frame(self):
        async with asyncio.timeout(TIMEOUT):
            head = await self.reader.readexactly(2)
            assert head[0] & 0xB0 == 0x80
            size = head[1]
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            payload = await self.reader.readexactly(size)
        if head[0] & 0x40:
            self.compressed += 1
            payload = zlib.decompressobj(-self.bits).decompress(payload + b"\0\0\xff\xff")
        return head[0] & 15, payload


async def connect(s, opcode, offer=None):
    """A sender, and the one who hears it: an event does not come back to its sender."""
    path = "/deepstream" if opcode == BINARY else "/deepstream-json"
    clients = []
    for _ in range(2):
        plain = await Client.connect(s.port)
        client = s._keep(Peer(plain.reader, plain.writer))
        client.write(upgrade_request(path, Sec_WebSocket_Extensions=offer))
        response = await client.response()
        assert response.status == 101
        if offer is not None:
            agreed = response.headers["sec-websocket-extensions"]
            client.bits = 9 if "server_max_window_bits=9" in agreed else 15
        clients.append(client)
        await login(client, opcode)
    sender, listener = clients
    await subscribe(listener, opcode)
    return Echo(sender, opcode), listener


async def login(client, opcode):
    if opcode == BINARY:
        client.send(encode(Message(Topic.CONNECTION, ConnectionAction.CHALLENGE, url="x")))
        await client.frame()
        client.send(encode(Message(Topic.AUTH, AuthAction.REQUEST, data=b"{}")))
    else:
        client.write(frame(b'{"topic":2,"action":%d,"url":"x"}' % ConnectionAction.CHALLENGE, TEXT))
        await client.frame()
        client.write(frame(b'{"topic":3,"action":%d,"parsedData":{}}' % AuthAction.REQUEST, TEXT))
    await client.frame()


async def subscribe(client, opcode):
    if opcode == BINARY:
        client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
    else:
        text = b'{"topic":4,"action":%d,"names":["e"],"correlationId":"1"}' % EventAction.SUBSCRIBE
        client.write(frame(text, TEXT))
    await client.frame()


async def expect_echo(echo, listener, text):
    opcode, payload = await listener.frame()
    assert echo.is_echo(opcode, payload, text), payload[:100]


@pytest.fixture(params=[TEXT, BINARY], ids=["text", "binary"])
def opcode(request):
    return request.param


# --- 1: framing; 9: sizes, in one frame and in pieces; 10: buffers


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 1000, 65_400, 65_535, 65_536, SIZE - 200])
async def test_1_and_9_messages_of_all_sizes(opcode, size):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        echo.client.write(frame(echo.message("*" * size), opcode))
        await expect_echo(echo, listener, "*" * size)


@pytest.mark.parametrize("piece", [1, 7, 997, 65_536])
async def test_1_and_9_a_frame_in_pieces(opcode, piece):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        size = min(SIZE - 200, piece * 400)
        data = frame(echo.message("*" * size), opcode)
        for at in range(0, len(data), piece):
            echo.client.write(data[at : at + piece])
            await echo.client.drain()
        await expect_echo(echo, listener, "*" * size)


@pytest.mark.parametrize("piece", [64, 256, 1024, 4096, 16_384, 65_536])
async def test_9_3_and_9_4_fragments_of_a_large_message(opcode, piece):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        size = min(SIZE - 200, piece * 2000)
        data = echo.message("*" * size)
        for at in range(0, len(data), piece):
            first = opcode if at == 0 else CONTINUATION
            echo.client.write(frame(data[at : at + piece], first, fin=at + piece >= len(data)))
        await expect_echo(echo, listener, "*" * size)


@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096])
async def test_9_7_and_9_8_a_thousand_messages(opcode, size):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        for number in range(1000):
            echo.client.write(frame(echo.message(f"{number}:" + "*" * size), opcode))
        for number in range(1000):
            await expect_echo(echo, listener, f"{number}:" + "*" * size)


async def test_10_fragments_of_a_message_that_is_sent_at_once(opcode):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        data = echo.message("*" * 65_536)
        pieces = [data[at : at + 1300] for at in range(0, len(data), 1300)]
        stream = b"".join(
            frame(piece, CONTINUATION if at else opcode, fin=at == len(pieces) - 1)
            for at, piece in enumerate(pieces)
        )
        echo.client.write(stream)
        await expect_echo(echo, listener, "*" * 65_536)


# --- 2: pings


@pytest.mark.parametrize("payload", [b"", b"Hello, world!", b"\0\xff\xfe\xfd\xfc\xfb\0\xff", b"\xfe" * 125])
async def test_2_1_to_2_4_a_ping_is_answered_with_its_payload(opcode, payload):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, opcode)
        echo.client.write(frame(payload, PING))
        assert await echo.client.frame() == (PONG, payload)


async def test_2_5_a_ping_that_is_too_long(opcode):
    await fails(opcode, frame(b"\xfe" * 126, PING), 1002)


async def test_2_6_a_ping_in_pieces_of_one_byte(opcode):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, opcode)
        for byte in frame(b"\xfe" * 125, PING):
            echo.client.write(bytes([byte]))
            await echo.client.drain()
        assert await echo.client.frame() == (PONG, b"\xfe" * 125)


async def test_2_7_to_2_9_pongs_that_nobody_asked_for(opcode):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, opcode)
        echo.client.write(frame(b"", PONG) + frame(b"unsolicited", PONG) + frame(b"ping", PING))
        assert await echo.client.frame() == (PONG, b"ping")


async def test_2_10_and_2_11_many_pings_are_answered_in_order(opcode):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, opcode)
        for number in range(10):
            for byte in frame(b"payload-%d" % number, PING):
                echo.client.write(bytes([byte]))
        for number in range(10):
            assert await echo.client.frame() == (PONG, b"payload-%d" % number)


# --- what ends a connection


async def fails(opcode, data, code, *, echoed=True):
    """Before the wrong frame all is answered, of what is behind it nothing, and the end has this code."""
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        good = frame(echo.message("before"), opcode) if echoed else b""
        echo.client.write(good + data + frame(b"after", PING) + frame(echo.message("after"), opcode))
        if echoed:
            await expect_echo(echo, listener, "before")
        assert await echo.client.closed() == code
        listener.write(frame(b"fence", PING))
        assert await listener.frame() == (PONG, b"fence")  # nothing of "after"
        assert s.log.errors() == []


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("kind", ["data", "empty", "ping", "close"])
async def test_3_reserved_bits(opcode, rsv, kind):
    data = {
        "data": frame(b"{}", opcode, rsv=rsv),
        "empty": frame(b"", opcode, rsv=rsv),
        "ping": frame(b"x", PING, rsv=rsv),
        "close": frame(b"\x03\xe8", CLOSE, rsv=rsv),
    }
    await fails(opcode, data[kind], 1002)


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"reserved opcode payload"])
async def test_4_reserved_opcodes(opcode, number, payload):
    await fails(opcode, frame(payload, number), 1002)


async def test_no_mask(opcode):
    await fails(opcode, frame(b"{}", opcode, masked=False), 1002)


@pytest.mark.parametrize("control", [PING, PONG])
async def test_5_1_and_5_2_a_control_frame_in_fragments(opcode, control):
    await fails(opcode, frame(b"a", control, fin=False) + frame(b"b", CONTINUATION), 1002)


@pytest.mark.parametrize("fin", [True, False])
async def test_5_9_to_5_17_a_continuation_of_nothing(opcode, fin):
    await fails(opcode, frame(b"x", CONTINUATION, fin=fin), 1002)


async def test_5_18_a_message_within_a_message(opcode):
    await fails(opcode, frame(b"{", opcode, fin=False) + frame(b"}", opcode), 1002)


# --- 5: fragments


@pytest.mark.parametrize("pings", [0, 1, 5])
@pytest.mark.parametrize("chop", [None, 1])
async def test_5_3_to_5_8_and_5_19_fragments_with_pings_between_them(opcode, pings, chop):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        data = echo.message("fragments")
        third = len(data) // 3
        between = b"".join(frame(b"pongme %d" % number, PING) for number in range(pings))
        stream = (
            frame(data[:third], opcode, fin=False)
            + between
            + frame(data[third : 2 * third], CONTINUATION, fin=False)
            + between
            + frame(data[2 * third :], CONTINUATION)
        )
        for at in range(0, len(stream), chop or len(stream)):
            echo.client.write(stream[at : at + (chop or len(stream))])
        for _ in range(2):
            for number in range(pings):
                assert await echo.client.frame() == (PONG, b"pongme %d" % number)
        await expect_echo(echo, listener, "fragments")


async def test_6_1_empty_fragments(opcode):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        empty = frame(b"", CONTINUATION, fin=False)
        data = echo.message("x")
        stream = frame(b"", opcode, fin=False) + empty + frame(data, CONTINUATION, fin=False) + empty
        echo.client.write(stream + frame(b"", CONTINUATION))
        await expect_echo(echo, listener, "x")


# --- 6: UTF-8

GOOD_TEXTS = [
    "Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff",
    "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\ufeff", "\U0001fffe", "\U0010fffe", "𝄞" * 100,
]  # fmt: skip

BAD_TEXTS = [
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",  # half of a surrogate pair
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",  # above U+10FFFF
    b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf",
    b"\x80", b"\xbf", b"\x80\xbf", b"\x80\xbf\x80\xbf", bytes(range(0x80, 0xC0)),
    b"\xc0 \xc1 \xdf ", b"\xe0 \xef ", b"\xf0 \xf7 ", b"\xf8 \xfb ", b"\xfc \xfd ",
    b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf",
    b"\xfe", b"\xff", b"\xfe\xfe\xff\xff",
    b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf",
    b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80",
    b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf4\x90\x80\x80",
]  # fmt: skip


def chopped(data, opcode, size):
    """A message in fragments."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(
        frame(piece, CONTINUATION if at else opcode, fin=at == len(pieces) - 1)
        for at, piece in enumerate(pieces)
    )


@pytest.mark.parametrize("text", GOOD_TEXTS, ids=ascii)
async def test_6_2_valid_text_whole_and_in_fragments_that_cut_characters(text):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, TEXT)
        data = echo.message(text)
        for stream in (frame(data, TEXT), chopped(data, TEXT, 1), chopped(data, TEXT, 3)):
            echo.client.write(stream)
            await expect_echo(echo, listener, text)


@pytest.mark.parametrize("text", BAD_TEXTS, ids=bytes.hex)
@pytest.mark.parametrize("size", [None, 1, 5])
async def test_6_3_to_6_22_invalid_text(text, size):
    data = b'{"topic":4,"action":2,"name":"e","parsedData":"' + text + b'"}'
    await fails(TEXT, frame(data, TEXT) if size is None else chopped(data, TEXT, size), 1007)


@pytest.mark.parametrize("end", [b"\xf4\x90", b"\xed\xa0", b"\xf5", b"\xe0\x9f", b"\xc0", b"\xff", b"\x80"])
@pytest.mark.parametrize("size", [None, 1, 4])
async def test_6_4_invalid_text_ends_it_without_waiting_for_the_rest(end, size):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, TEXT)
        for data, opcode in (("{κόσμε𝄞".encode(), TEXT), (end, CONTINUATION)):
            for at in range(0, len(data), size or len(data)):
                number = opcode if at == 0 else CONTINUATION
                echo.client.write(frame(data[at : at + (size or len(data))], number, fin=False))
        assert await echo.client.closed() == 1007


# --- 7: closing


async def test_7_1_1_to_7_1_4_nothing_is_answered_after_a_close(opcode):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        echo.client.write(frame(echo.message("x"), opcode) + frame(b"", CLOSE) * 2 + frame(b"", PING))
        echo.client.write(frame(echo.message("y"), opcode))
        await expect_echo(echo, listener, "x")
        assert await echo.client.closed() is None
        listener.write(frame(b"fence", PING))
        assert await listener.frame() == (PONG, b"fence")


async def test_7_1_5_a_close_within_a_message(opcode):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, opcode)
        echo.client.write(frame(b"{", opcode, fin=False) + frame(b"\x03\xe8", CLOSE))
        assert await echo.client.closed() == 1000


async def test_7_1_6_a_close_behind_a_large_message(opcode):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, listener = await connect(s, opcode)
        size = min(SIZE - 200, 256 * 1024)
        echo.client.write(frame(echo.message("*" * size), opcode) + frame(b"\x03\xe8", CLOSE))
        await expect_echo(echo, listener, "*" * size)
        assert await echo.client.closed() == 1000


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", None),
        (b"\x03", 1002),
        (b"\x03\xe8", 1000),
        (b"\x03\xe8Hello World!", 1000),
        (b"\x03\xe8" + b"*" * 123, 1000),
        (b"\x03\xe8" + b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", 1007),
    ],
)
async def test_7_3_and_7_5_the_payload_of_a_close(opcode, payload, code):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, opcode)
        echo.client.write(frame(payload, CLOSE))
        assert await echo.client.closed() == code


async def test_7_3_6_a_close_that_is_too_long(opcode):
    await fails(opcode, frame(b"\x03\xe8" + b"*" * 124, CLOSE), 1002)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
)
async def test_7_7_codes_that_may_be_used(opcode, code):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, opcode)
        echo.client.write(frame(struct.pack(">H", code), CLOSE))
        assert await echo.client.closed() == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
async def test_7_9_and_7_13_codes_that_may_not(opcode, code):
    async with serve({"connectionEndpoints": ENDPOINTS}) as s:
        echo, _ = await connect(s, opcode)
        echo.client.write(frame(struct.pack(">H", code), CLOSE))
        assert await echo.client.closed() == 1002


# --- 12 and 13: compression


@pytest.mark.parametrize("case", OFFERS)
@pytest.mark.parametrize("size", [16, 64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072])
async def test_12_and_13_compressed_messages(opcode, case, size):
    rng = random.Random(size)
    text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789 {}[]:,", k=size))
    async with serve({"connectionEndpoints": COMPRESSED}) as s:
        echo, listener = await connect(s, opcode, OFFERS[case])
        for number in range(50):
            data = deflated(echo.message(f"{number}{text}"))
            if number % 2:
                middle = len(data) // 2
                echo.client.write(frame(data[:middle], opcode, rsv=4, fin=False))
                echo.client.write(frame(data[middle:], CONTINUATION))
            else:
                echo.client.write(frame(data, opcode, rsv=4))
        for number in range(50):
            await expect_echo(echo, listener, f"{number}{text}")
        assert listener.compressed >= 50 or size < 256  # small ones do not always get smaller
