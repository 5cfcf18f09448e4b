"""The frames of RFC 6455 and plain HTTP on the same port, by a client that makes every byte itself."""

import asyncio
import base64
import contextlib
import struct

import pytest
from wire import (
    ACCEPT,
    AUTH_SUCCESSFUL,
    BINARY,
    CHALLENGE,
    CLOSE,
    CONTINUATION,
    END,
    PING,
    PING_MESSAGE,
    PONG,
    PONG_MESSAGE,
    TEXT,
    accept_key,
    auth_request,
    frame,
    mask,
    serve,
    upgrade_request,
)

from dsfast._core.protocol import EventAction, Message, Topic, encode

loops = ["uvloop", "asyncio"]

KEY = base64.b64encode(b"0123456789abcdef").decode()


def emit(size, name="e"):
    """An EMIT message of exactly this many bytes."""
    data = b'""'
    for _ in range(4):
        short = size - len(encode(Message(Topic.EVENT, EventAction.EMIT, name=name, data=data)))
        data = b'"' + b"x" * (len(data) - 2 + short) + b'"'
    payload = encode(Message(Topic.EVENT, EventAction.EMIT, name=name, data=data))
    assert len(payload) == size
    return payload


async def subscribe(client, *names):
    client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=list(names), correlation_id="1")
    await client.expect(Topic.EVENT, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True)


# --- frames -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 125, 126, 127, 1000, 65535, 65536, 70000, 300_000])
async def test_messages_of_all_sizes_arrive_as_they_were_sent(size):
    async with serve() as s:
        sender, reader = await s.login("a"), await s.login("b")
        await subscribe(reader, "e")
        payload = encode(Message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"' + b"y" * size + b'"'))
        sender.send(payload)
        assert await reader.payload() == payload


@pytest.mark.parametrize("key", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04", b"\x80\0\0\0"])
async def test_masking_keys(key):
    async with serve() as s:
        client = await s.login()
        client.write(frame(PING_MESSAGE, key=key))
        assert await client.payload() == PONG_MESSAGE


async def test_many_frames_in_one_write():
    async with serve() as s:
        client = await s.login()
        client.write(frame(PING_MESSAGE) * 20_000)
        for _ in range(20_000):
            assert await client.payload() == PONG_MESSAGE


async def test_frames_split_at_every_byte():
    async with serve() as s:
        sender, reader = await s.login("a"), await s.login("b")
        await subscribe(reader, "e")
        other = await s.login("c")
        payload = emit(200)
        stream = frame(PING_MESSAGE) + frame(payload) + frame(b"x", PING) + frame(PING_MESSAGE)
        for at in range(1, len(stream)):
            sender.write(stream[:at])
            await sender.drain()
            # The first part has been read when another client has been answered.
            await other.fence()
            sender.write(stream[at:])
            for expected in ((BINARY, PONG_MESSAGE), (PONG, b"x"), (BINARY, PONG_MESSAGE)):
                assert await sender.frame() == expected
            assert await reader.payload() == payload


async def test_frames_byte_by_byte():
    async with serve() as s:
        sender, reader = await s.login("a"), await s.login("b")
        other = await s.login("c")
        await subscribe(reader, "e")
        payload = emit(150)
        for byte in frame(payload) + frame(b"x", PING):
            sender.write(bytes([byte]))
            await other.fence()
        assert await sender.frame() == (PONG, b"x")
        assert await reader.payload() == payload


async def test_a_big_frame_in_small_pieces_among_others():
    async with serve() as s:
        sender, reader = await s.login("a"), await s.login("b")
        other = await s.login("c")
        await subscribe(reader, "e")
        payload = emit(1_000_000)
        stream = frame(PING_MESSAGE) + frame(payload) + frame(PING_MESSAGE)
        for at in range(0, len(stream), 10_007):
            sender.write(stream[at : at + 10_007])
            await sender.drain()
            await other.fence()
        for _ in range(2):
            assert await sender.payload() == PONG_MESSAGE
        assert await reader.payload() == payload


async def test_memory_is_not_kept_for_a_frame_that_never_comes():
    """The head of a frame promises much; nothing is set aside before something came."""
    async with serve() as s:
        clients = [await s.websocket() for _ in range(20)]
        for client in clients:
            client.write(frame(b"\0" * 1_000_000)[:-1])
            await client.drain()
        other = await s.login()
        await other.fence()
        for client in clients:
            client.writer.close()
        await s.until(lambda: len(s.endpoint.core.connections) == 1)


# --- fragments --------------------------------------------------------------------------


async def test_fragments_are_put_together():
    async with serve() as s:
        client = await s.login()
        client.write(
            frame(PING_MESSAGE[:3], fin=False)
            + frame(b"", CONTINUATION, fin=False)
            + frame(PING_MESSAGE[3:5], CONTINUATION, fin=False)
            + frame(PING_MESSAGE[5:], CONTINUATION)
        )
        assert await client.payload() == PONG_MESSAGE
        await client.fence()


async def test_control_frames_between_fragments():
    async with serve() as s:
        client = await s.login()
        client.write(
            frame(PING_MESSAGE[:2], fin=False)
            + frame(b"a", PING)
            + frame(b"", PONG)
            + frame(PING_MESSAGE[2:], CONTINUATION, fin=False)
            + frame(b"b", PING)
            + frame(b"", CONTINUATION)
        )
        assert await client.frame() == (PONG, b"a")
        assert await client.frame() == (PONG, b"b")
        assert await client.payload() == PONG_MESSAGE


async def test_a_fragmented_message_of_only_empty_frames_is_an_empty_message():
    async with serve() as s:
        client = await s.login()
        client.write(frame(b"", fin=False) + frame(b"", CONTINUATION))
        assert (await client.receive()).topic == Topic.PARSER
        await client.fence()


async def test_close_between_fragments():
    async with serve() as s:
        client = await s.login()
        client.write(frame(PING_MESSAGE[:2], fin=False) + frame(struct.pack(">H", 1001), CLOSE))
        assert await client.closed() == 1001


@pytest.mark.parametrize(
    "stream",
    [
        frame(PING_MESSAGE, CONTINUATION),
        frame(PING_MESSAGE, CONTINUATION, fin=False),
        frame(PING_MESSAGE[:2], fin=False) + frame(PING_MESSAGE),
        frame(PING_MESSAGE[:2], fin=False) + frame(PING_MESSAGE, fin=False),
        frame(PING_MESSAGE[:2], fin=False) + frame(PING_MESSAGE[2:], CONTINUATION) + frame(b"", CONTINUATION),
    ],
    ids=["continuation first", "open continuation first", "new message", "new fragments", "one too many"],
)
async def test_fragments_out_of_order(stream):
    async with serve() as s:
        client = await s.login()
        client.write(stream)
        opcode, payload = await client.frame()
        if opcode == BINARY:
            opcode, payload = await client.frame()
        assert (opcode, payload) == (CLOSE, struct.pack(">H", 1002))
        await client.ended()


# --- limits -----------------------------------------------------------------------------


async def test_a_message_of_exactly_the_limit_is_accepted():
    async with serve(options={"maxMessageSize": 5000}) as s:
        sender, reader = await s.login("a"), await s.login("b")
        await subscribe(reader, "e")
        payload = emit(5000)
        sender.send(payload)
        assert await reader.payload() == payload
        sender.write(frame(payload[:4000], fin=False) + frame(payload[4000:], CONTINUATION))
        assert await reader.payload() == payload
        await sender.fence()


@pytest.mark.parametrize(
    "stream",
    [
        frame(b"x" * 5001),
        frame(b"x" * 5001)[:20],
        frame(b"x" * 5000, fin=False) + frame(b"x", CONTINUATION),
        frame(b"x" * 3000, fin=False)
        + frame(b"x" * 1000, CONTINUATION, fin=False) * 2
        + frame(b"x", CONTINUATION),
        b"\x82\xff" + struct.pack(">Q", 2**63 - 1) + b"\0\0\0\0",
        b"\x02\xff" + struct.pack(">Q", 2**62) + b"\0\0\0\0",
    ],
    ids=["one frame", "its head alone", "two fragments", "many fragments", "2**63-1", "2**62 fragment"],
)
@pytest.mark.parametrize("stage", ["websocket", "challenged", "login"])
async def test_a_message_over_the_limit_closes_with_1009(stream, stage):
    async with serve(options={"maxMessageSize": 5000}) as s:
        client = await getattr(s, stage)()
        client.write(stream)
        assert await client.closed() == 1009
        (text,) = s.log.find("ERROR")
        assert "5000 bytes" in text


async def test_control_frames_do_not_count_for_the_limit():
    async with serve(options={"maxMessageSize": 100}) as s:
        client = await s.login()
        client.write(frame(PING_MESSAGE[:1], fin=False) + frame(b"p" * 125, PING))
        assert await client.frame() == (PONG, b"p" * 125)
        client.write(frame(PING_MESSAGE[1:], CONTINUATION))
        assert await client.payload() == PONG_MESSAGE


# --- frames that no client may send -----------------------------------------------------

FORBIDDEN = {
    "unmasked": frame(PING_MESSAGE, masked=False),
    "unmasked close": frame(b"", CLOSE, masked=False),
    "RSV1": frame(PING_MESSAGE, rsv=4),
    "RSV2": frame(PING_MESSAGE, rsv=2),
    "RSV3": frame(PING_MESSAGE, rsv=1),
    "RSV1 on a ping": frame(b"", PING, rsv=4),
    **{f"opcode {opcode}": frame(b"", opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "ping of 126 bytes": frame(b"x" * 126, PING),
    "pong of 126 bytes": frame(b"x" * 126, PONG),
    "close of 126 bytes": frame(b"\x03\xe8" + b"x" * 124, CLOSE),
    "ping with a long length": frame(b"x", PING, length_bytes=2),
    "ping of 64 KiB": frame(b"x" * 65536, PING),
    "fragmented ping": frame(b"", PING, fin=False),
    "fragmented close": frame(b"", CLOSE, fin=False),
    "125 in two bytes": frame(b"x" * 125, length_bytes=2),
    "0 in two bytes": frame(b"", length_bytes=2),
    "125 in eight bytes": frame(b"x" * 125, length_bytes=8),
    "65535 in eight bytes": frame(b"x" * 65535, length_bytes=8),
    "length 2**63": b"\x82\xff" + struct.pack(">Q", 2**63) + b"\0\0\0\0",
    "length 2**64-1": b"\x82\xff" + struct.pack(">Q", 2**64 - 1) + b"\0\0\0\0",
    "close with one byte": frame(b"\x03", CLOSE),
}
for bad in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
    FORBIDDEN[f"close code {bad}"] = frame(struct.pack(">H", bad), CLOSE)


@pytest.mark.parametrize("data", FORBIDDEN.values(), ids=FORBIDDEN)
@pytest.mark.parametrize("stage", ["websocket", "login"])
async def test_a_breach_of_the_protocol_closes_with_1002(data, stage):
    async with serve() as s:
        client = await getattr(s, stage)()
        client.write(data + frame(PING_MESSAGE))
        assert await client.closed() == 1002
        assert s.log.errors() == []


async def test_what_came_before_a_breach_is_answered():
    async with serve() as s:
        client = await s.login()
        client.write(frame(PING_MESSAGE) * 3 + b"\xff" * 200)
        for _ in range(3):
            assert await client.payload() == PONG_MESSAGE
        assert await client.closed() == 1002


async def test_a_close_reason_that_is_not_UTF8_closes_with_1007():
    async with serve() as s:
        client = await s.login()
        client.write(frame(struct.pack(">H", 1000) + b"\xc3", CLOSE))
        assert await client.closed() == 1007


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("stage", ["websocket", "challenged", "login"])
async def test_a_text_frame_closes_with_1003(stage, fin):
    async with serve() as s:
        client = await getattr(s, stage)()
        client.write(frame(b"hello", TEXT, fin=fin))
        assert await client.closed() == 1003
        (text,) = s.log.find("ERROR")
        assert text.startswith("Received an invalid message type on ")


# --- closing and pings ------------------------------------------------------------------


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
async def test_a_close_is_echoed(code):
    async with serve() as s:
        client = await s.login()
        client.write(frame(struct.pack(">H", code) + "gone, tschüss".encode(), CLOSE))
        assert await client.closed() == code


async def test_a_close_without_status_is_echoed_without_status():
    async with serve() as s:
        client = await s.login("A")
        client.write(frame(b"", CLOSE) + frame(PING_MESSAGE) + b"garbage")
        assert await client.closed() is None
        await s.gone()
        s.assert_empty()


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))])
@pytest.mark.parametrize("stage", ["websocket", "login"])
async def test_a_ping_is_answered_with_its_payload(stage, payload):
    async with serve() as s:
        client = await getattr(s, stage)()
        client.write(frame(payload, PING) + frame(payload, PONG) + frame(b"2", PING))
        assert await client.frame() == (PONG, payload)
        assert await client.frame() == (PONG, b"2")


async def test_pongs_keep_their_place_among_messages():
    async with serve() as s:
        client = await s.login()
        client.write((frame(PING_MESSAGE) + frame(b"p", PING)) * 500)
        for _ in range(500):
            assert await client.frame() == (BINARY, PONG_MESSAGE)
            assert await client.frame() == (PONG, b"p")


async def test_a_peer_that_does_not_answer_our_close_is_cut_off():
    async with serve(options={"maxBadMessages": 1}) as s:
        client = await s.login()
        client.send(b"", b"")
        for _ in range(2):
            await client.payload()
        assert await client.frame() == (CLOSE, struct.pack(">H", 1002))
        # It says nothing and keeps its half open.
        await s.gone()


# --- the upgrade ------------------------------------------------------------------------


async def test_the_upgrade_answer():
    async with serve() as s:
        client = await s.connect()
        client.write(upgrade_request())
        response = await client.response()
        assert response.status == 101
        assert response.headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": accept_key(KEY),
        }


@pytest.mark.parametrize(
    "changes",
    [
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "keep-alive,upgrade"},
        {"Upgrade": "WebSocket"},
        {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"},
        {"Origin": "http://elsewhere"},
        {"Cookie": "a=" + "b" * 4000},
        {"X_Latin": "caf\xe9"},
    ],
    ids=repr,
)
async def test_upgrades_of_all_kinds_of_clients(changes):
    async with serve() as s:
        client = await s.websocket(**changes)
        client.send(CHALLENGE)
        assert await client.payload() == ACCEPT


@pytest.mark.parametrize("path", ["/deepstream?x=1", "/deepstream?", "/deepstream?a=/b?c"])
async def test_a_query_behind_the_path_is_ignored(path):
    async with serve() as s:
        client = await s.websocket(path)
        client.send(CHALLENGE)
        assert await client.payload() == ACCEPT


async def test_the_path_is_an_option():
    async with serve(options={"urlPath": "/other"}) as s:
        await s.websocket("/other")
        client = await s.connect()
        client.write(upgrade_request("/deepstream"))
        assert (await client.response()).status == 404


@pytest.mark.parametrize(
    "path", ["/", "/deepstream/", "/deepstreamx", "/DEEPSTREAM", "/health-check", "/%64eepstream"]
)
async def test_an_upgrade_on_an_unknown_path_is_answered_404(path):
    """Upstream drops the connection without a word."""
    async with serve() as s:
        client = await s.connect()
        client.write(upgrade_request(path))
        assert (await client.response()).status == 404
        await client.ended()


@pytest.mark.parametrize("version", [None, "8", "12", "14", "13, 8", "x"])
async def test_another_websocket_version_is_answered_426(version):
    async with serve() as s:
        client = await s.connect()
        client.write(upgrade_request(Sec_WebSocket_Version=version))
        response = await client.response()
        assert response.status == 426
        assert response.headers["sec-websocket-version"] == "13"
        await client.ended()


@pytest.mark.parametrize(
    "key", [None, "", "x", KEY[:-4], KEY + "AAAA", "!" * 24, "é" * 24, KEY[:10] + " " + KEY[10:]]
)
async def test_a_bad_key_is_answered_400(key):
    async with serve() as s:
        client = await s.connect()
        client.write(upgrade_request(Sec_WebSocket_Key=key))
        assert (await client.response()).status == 400
        await client.ended()


async def test_two_keys_are_answered_400():
    async with serve() as s:
        client = await s.connect()
        client.write(upgrade_request().replace(END, f"\r\nSec-WebSocket-Key: {KEY}".encode() + END))
        assert (await client.response()).status == 400


async def test_an_upgrade_by_post_is_refused():
    async with serve() as s:
        client = await s.connect()
        client.write(upgrade_request().replace(b"GET", b"POST"))
        assert (await client.response()).status == 400


async def test_a_client_that_does_not_wait_for_the_upgrade():
    async with serve() as s:
        client = await s.connect()
        client.write(upgrade_request() + frame(CHALLENGE) + frame(auth_request()) + frame(PING_MESSAGE))
        assert (await client.response()).status == 101
        for payload in (ACCEPT, AUTH_SUCCESSFUL, PONG_MESSAGE):
            assert await client.payload() == payload


async def test_the_upgrade_request_split_at_every_byte():
    async with serve() as s:
        stream = upgrade_request() + frame(CHALLENGE)
        other = await s.login()
        for at in range(1, len(stream)):
            client = await s.connect()
            client.write(stream[:at])
            await client.drain()
            await other.fence()
            client.write(stream[at:])
            assert (await client.response()).status == 101
            assert await client.payload() == ACCEPT
            client.writer.close()


async def test_a_frame_in_pieces_right_behind_the_upgrade():
    async with serve() as s:
        other = await s.login()
        data = frame(CHALLENGE)
        for at in range(1, len(data)):
            client = await s.connect()
            client.write(upgrade_request() + data[:at])
            assert (await client.response()).status == 101
            await other.fence()
            client.write(data[at:])
            assert await client.payload() == ACCEPT
            client.writer.close()


# --- plain HTTP -------------------------------------------------------------------------


def get(path, method="GET", **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + END


@pytest.mark.parametrize("path", ["/health-check", "/health-check?x=1"])
async def test_the_health_check(path):
    async with serve() as s:
        client = await s.connect()
        client.write(get(path))
        response = await client.response()
        assert response.status == 200
        assert response.body == b""
        assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/deepstream", "/x", "/health-checkX"])
async def test_an_unknown_path_is_answered_404(path):
    async with serve() as s:
        client = await s.connect()
        client.write(get(path))
        response = await client.response()
        assert (response.status, response.body) == (404, b"Endpoint not found.\r\n\r\n")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
async def test_other_methods_are_answered_405(method):
    async with serve() as s:
        client = await s.connect()
        client.write(get("/health-check", method))
        assert (await client.response()).status == 405


async def test_head_is_answered_as_get_without_a_body():
    async with serve() as s:
        client = await s.connect()
        for path, status, length in [("/health-check", 200, "0"), ("/x", 404, "23")]:
            client.write(get(path, "HEAD"))
            response = await client.response(head_only=True)
            assert (response.status, response.headers["content-length"]) == (status, length)
        # The next answer would begin with a body, if there had been one.
        client.write(get("/health-check"))
        assert (await client.response()).status == 200


async def test_a_connection_is_kept_for_more_requests():
    async with serve() as s:
        client = await s.connect()
        for path, status in [("/health-check", 200), ("/x", 404)] * 3:
            client.write(get(path))
            assert (await client.response()).status == status
        client.write(get("/health-check", Connection="close"))
        response = await client.response()
        assert response.headers["connection"] == "close"
        await client.ended()


async def test_pipelined_requests_are_answered_in_order():
    async with serve() as s:
        client = await s.connect()
        client.write((get("/health-check") + get("/x")) * 50 + upgrade_request() + frame(CHALLENGE))
        for _ in range(50):
            assert (await client.response()).status == 200
            assert (await client.response()).status == 404
        assert (await client.response()).status == 101
        assert await client.payload() == ACCEPT


async def test_http_1_0_is_answered_and_closed():
    async with serve() as s:
        client = await s.connect()
        client.write(b"GET /health-check HTTP/1.0" + END)
        assert (await client.response()).status == 200
        await client.ended()


async def test_an_upgrade_to_something_else_is_ignored():
    """RFC 9110 section 7.8: a server may ignore it; curl --http2 sends this with every first request."""
    async with serve() as s:
        client = await s.connect()
        client.write(
            get("/health-check", Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMA")
        )
        assert (await client.response()).status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x00" * 50,
    ],
    ids=["TLS", "hello", "no path", "version", "header", "length", "smuggling", "zeros"],
)
async def test_what_is_no_http_is_answered_400(request_bytes):
    async with serve() as s:
        client = await s.connect()
        client.write(request_bytes)
        assert (await client.response()).status == 400
        await client.ended()
        assert s.log.errors() == []


@pytest.mark.parametrize("how", ["one write", "small pieces", "one line", "complete"])
async def test_a_head_over_the_limit_is_answered_431(how):
    async with serve() as s:
        client = await s.connect()
        other = await s.login()
        lines = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 100) for i in range(300))
        if how == "one write":
            client.write(b"GET / HTTP/1.1\r\n" + lines)
        elif how == "small pieces":
            client.write(b"GET / HTTP/1.1\r\n")
            for at in range(0, 17_000, 1000):
                client.write(lines[at : at + 1000])
                await other.fence()
        elif how == "one line":
            client.write(b"GET /" + b"x" * 30_000)
        else:
            client.write(upgrade_request().replace(END, b"\r\n" + lines + b"\r\n"))
        assert (await client.response()).status == 431
        await client.ended()


async def test_a_head_that_does_not_come_to_its_end_is_cut_off():
    async with serve() as s:
        s.services.http_service.core.head_timeout = 100
        silent, slow = await s.connect(), await s.connect()
        slow.write(b"GET / HTTP/1.1\r\n")
        assert (await slow.response()).status == 408
        await asyncio.gather(silent.ended(), slow.ended())


async def test_a_body_has_a_time_limit_of_its_own():
    async with serve() as s:
        core = s.services.http_service.core
        core.head_timeout, core.body_timeout = 60_000, 100
        client = await s.connect()
        client.write(b"POST /x HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        assert (await client.response()).status == 408
        await client.ended()


async def test_a_body_may_take_longer_than_a_head():
    async with serve() as s:
        core = s.services.http_service.core
        core.head_timeout, core.body_timeout = 100, 60_000
        slow, silent = await s.connect(), await s.connect()
        slow.write(b"POST /x HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        await silent.ended()  # it came later, and its time is over
        slow.write(b"67890")
        assert (await slow.response()).status in (404, 405)


async def test_who_reads_an_answer_slowly_is_not_cut_off():
    async with serve() as s:
        service = s.services.http_service
        service.core.head_timeout = 100
        size = 8 << 20
        service.register_get_path_prefix("/big", lambda meta: (200, {}, b"x" * size))
        client = await s.connect(receive_buffer=4096)
        client.write(get("/big"))
        assert (await client.reader.readuntil(END)).startswith(b"HTTP/1.1 200")
        read = 0
        while read < size:
            piece = await client.reader.read(1 << 16)
            assert piece, f"cut off after {read} bytes"
            read += len(piece)
            if read < 1 << 20:
                await asyncio.sleep(0.005)  # this is what makes it slow


async def test_who_stops_reading_an_answer_is_cut_off():
    async with serve() as s:
        service = s.services.http_service
        service.core.head_timeout = 100
        service.register_get_path_prefix("/big", lambda meta: (200, {}, b"x" * (32 << 20)))
        client = await s.connect(receive_buffer=4096)
        client.write(get("/big"))
        await s.gone()


async def test_a_kept_connection_without_a_request_is_cut_off():
    async with serve() as s:
        s.services.http_service.core.head_timeout = 200
        client = await s.connect()
        client.write(get("/health-check"))
        assert (await client.response()).status == 200
        await client.ended()


async def test_a_client_that_asks_and_never_reads_is_cut_off():
    async with serve() as s:
        client = await s.connect(receive_buffer=4096)
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.write(get("/x") * 1000)
                await client.drain()
                if not s.endpoint.core.connections:
                    break
            else:
                pytest.fail("its answers are kept without end")
        await s.gone()


async def test_half_a_close_by_a_client_that_waits_for_its_answer():
    async with serve() as s:
        client = await s.connect()
        client.write(get("/health-check"))
        client.writer.write_eof()
        assert (await client.response()).status == 200
        await client.ended()


def test_the_mask_of_this_client():
    assert mask(mask(b"hello", b"abcd"), b"abcd") == b"hello"
    # RFC 6455 section 5.7
    assert frame(b"Hello", TEXT, key=bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
