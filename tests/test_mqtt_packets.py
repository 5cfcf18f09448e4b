"""MQTT packets byte by byte: the tables of protocol-mqtt.md sections 2, 6 and 8."""

import asyncio
import contextlib
import itertools
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mqtt_client import (
    CONNACK,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    MqttClient,
    MqttRunning,
    ack,
    connect,
    packet,
    publish,
    serve_mqtt,
    subscribe,
    text,
    unsubscribe,
)
from wire import Users

from dsfast._core.protocol import EventAction, Topic
from dsfast.plugin import Authentication, AuthResult

WELCOME = bytes.fromhex("20020000")
REFUSED = bytes.fromhex("20020005")


@pytest.fixture(params=[False, True], ids=["tcp", "websocket"])
def web(request: Any) -> bool:
    return request.param


async def test_the_observed_bytes(web: bool) -> None:
    async with serve_mqtt() as s:
        a, b = await s.open(web=web), await s.login("b")
        a.send(bytes.fromhex("101400044d51545404c2000a00026341000141000161"))
        await a.expect(WELCOME)
        a.send(bytes.fromhex("820e00010003742f31010003742f3200"))
        await a.expect(bytes.fromhex("900400010100"))
        await b.subscribe("t/1")
        a.send(bytes.fromhex("320d0003742f31000768656c6c6f31"))
        await a.expect(bytes.fromhex("40020007"))
        await b.expect(bytes.fromhex("300b0003742f3168656c6c6f31"))
        a.send(bytes.fromhex("330e0003742f3100097b2272223a317d"))
        await a.expect(bytes.fromhex("40020009"))
        await b.expect(bytes.fromhex("300c0003742f317b2272223a317d"))
        a.send(bytes.fromhex("c000"))
        await a.expect(bytes.fromhex("d000"))


# --- CONNECT


@pytest.mark.parametrize(
    "first", [DISCONNECT, PINGREQ, publish("t"), subscribe("t"), unsubscribe("t"), b"\0\0"]
)
async def test_any_packet_before_connect_ends_the_connection(web: bool, first: bytes) -> None:
    async with serve_mqtt() as s:
        watcher = await s.login()
        await watcher.subscribe("t")
        client = await s.open(web=web)
        client.send(first, connect())
        await client.ended()
        await watcher.fence()


async def test_one_byte_that_is_no_connect_is_enough(web: bool) -> None:
    async with serve_mqtt() as s:
        client = await s.open(web=web)
        client.send(b"\x30")
        await client.ended()


async def test_levels_3_and_4_are_spoken(web: bool) -> None:
    async with serve_mqtt() as s:
        for fields in ({"name": "MQIsdp", "level": 3}, {"name": "MQTT", "level": 4}):
            client = await s.open(web=web)
            client.send(connect(**fields))
            await client.expect(WELCOME)


@pytest.mark.parametrize(
    ("name", "level", "answer"),
    [
        ("MQTT", 5, "2003008400"),
        ("MQTT", 3, "20020001"),
        ("MQTT", 6, "20020001"),
        ("MQIsdp", 4, "20020001"),
        ("MQIsdp", 5, "20020001"),
        ("HTTP", 4, None),
    ],
)
async def test_other_levels_are_refused(web: bool, name: str, level: int, answer: str | None) -> None:
    async with serve_mqtt() as s:
        client = await s.open(web=web)
        client.send(connect(name=name, level=level))
        if answer is not None:
            await client.expect(bytes.fromhex(answer))
        await client.ended()


async def test_a_connect_of_level_5_need_not_look_like_one_of_level_4() -> None:
    async with serve_mqtt() as s:
        client = await s.open()
        client.send(packet(0x10, text("MQTT") + bytes([5, 2, 0, 60]) + b"\x05\x11\0\0\0\x0a" + text("c")))
        await client.expect(bytes.fromhex("2003008400"))
        await client.ended()


@pytest.mark.parametrize(
    "malformed",
    [
        connect(flags=0x83),  # the reserved bit
        connect(flags=0x82 | 0x08),  # the QoS of a will without a will
        connect(flags=0x82 | 0x20),
        connect(will=("w", b"", 3, False)),
        connect(user=None, password="p"),
        connect(will=("", b"", 0, False)),
        connect(will=("a/#", b"", 0, False)),
        packet(0x10, connect()[2:-1]),
        packet(0x10, connect()[2:] + b"x"),
        packet(0x10, b""),
        packet(0x10, text("MQTT")),
        packet(0x10, text("MQTT") + b"\x04\x02\x00"),
        packet(0x11, connect()[2:]),
        packet(0x10, text("MQTT") + b"\x04\x02\0\0" + text(b"\xff")),
        packet(0x10, text("MQTT") + b"\x04\x02\0\0" + text(b"a\0")),
        packet(0x10, text("MQTT") + b"\x04\x82\0\0" + text("a") + text(b"\xc0\x80")),
    ],
)
async def test_a_malformed_connect_ends_the_connection(malformed: bytes) -> None:
    async with serve_mqtt() as s:
        client = await s.open()
        client.send(malformed)
        await client.ended()
        assert s.server.log.errors() == []


async def test_a_second_connect_ends_the_connection(web: bool) -> None:
    async with serve_mqtt() as s:
        client = await s.login(web=web)
        client.send(connect(), PINGREQ)
        await client.ended()


async def test_an_empty_client_id_needs_a_clean_session() -> None:
    async with serve_mqtt() as s:
        client = await s.open()
        client.send(connect("", clean=False))
        await client.expect(bytes.fromhex("20020002"))
        await client.ended()
        a, b = await s.login(""), await s.login("")
        await a.fence()
        await b.fence()
        client = await s.open()
        client.send(connect("x" * 2000))
        await client.expect(bytes.fromhex("20020002"))
        await client.ended()


async def test_what_authentication_is_asked() -> None:
    async with serve_mqtt(authentication=Users) as s:
        await s.login("one", user="A", password="pässwörd")
        await s.login("two", user=None)
        await s.login("three", web=True)
        (first, data), (second, none), (third, _) = s.server.services.authentication.entries[0].seen
        assert first == {"remoteAddress": "127.0.0.1", "headers": {}, "clientId": "one"}
        assert (data, none) == ({"username": "A", "password": "pässwörd"}, {})
        assert second["clientId"] == "two"
        assert third["headers"]["upgrade"] == "websocket"


class Answers(Authentication):
    """Refuses B, fails for C, everybody else may come in."""

    description = "answers"

    async def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:
        if auth_data["username"] == "C":
            raise RuntimeError("no database")
        return AuthResult(auth_data["username"] != "B", id=auth_data["username"], client_data={"a": 1})


async def test_refused_and_failed_logins(web: bool) -> None:
    async with serve_mqtt(authentication=Answers) as s:
        for user, code in (("B", 5), ("C", 3)):
            client = await s.open(web=web)
            client.send(connect(user=user), subscribe("t"), PINGREQ)
            await client.expect(bytes([CONNACK, 2, 0, code]))
            await client.ended()
        assert s.server.registries()["event"].names() == []
        assert s.server.log.find("AUTH_UNSUCCESSFUL") == ["invalid authentication data"] * 2
        assert "TOO_MANY_AUTH_ATTEMPTS" not in [event for _, event, _ in s.server.log.lines]
        await s.login(user="A")


async def test_packets_behind_a_connect_wait_for_the_decision(web: bool) -> None:
    async with serve_mqtt(authentication=Answers) as s:
        client = await s.open(web=web)
        client.send(connect(), subscribe("t", id=5), PINGREQ)
        await client.expect(WELCOME, bytes.fromhex("9003000500"), PINGRESP)


async def test_a_client_that_goes_on_before_it_is_let_in_is_not_read_for_ever(web: bool) -> None:
    async with serve_mqtt(authentication=Users, options={"maxMessageSize": 1 << 20}) as s:
        users = s.server.services.authentication.entries[0]
        users.is_valid_user_before = users.is_valid_user

        async def slow(connection_data: Any, auth_data: Any) -> AuthResult | None:
            return await users.is_valid_user_before(connection_data, {**auth_data, "gate": 1})

        users.is_valid_user = slow
        client = await s.open(web=web)
        client.send(connect(user="slow"), *[publish("t", b"x" * 1000)] * 500)
        client.send(PINGREQ)
        await users.wait_for(1)
        users.gate.set()
        await client.expect(WELCOME, PINGRESP)


async def test_nobody_stays_behind_when_a_client_leaves_during_its_login() -> None:
    async with serve_mqtt(authentication=Users) as s:
        users = s.server.services.authentication.entries[0]
        before = users.is_valid_user
        users.is_valid_user = lambda data, auth: before(data, {**auth, "gate": 1})
        client = await s.open()
        client.send(connect("c", will=("w", b"gone", 0, False)))
        await users.wait_for(1)
        client.raw.reset()
        await s.gone()
        users.gate.set()
        await s.server.until(lambda: not s.endpoint._logins)
        assert s.server.router.presence.online == []
        assert s.broker.sessions == {}


# --- the other packets


@pytest.mark.parametrize(
    "violation",
    [
        packet(0x36, text("t") + b"\0\1x"),  # QoS 3
        publish(""),
        publish("a/+"),
        publish("a/#"),
        publish(b"\xff"),
        publish("a\0b"),
        publish("t", qos=1, id=0),
        publish("t", qos=2, id=0),
        packet(0x32, text("t")),
        packet(0x30, b"\0"),
        packet(0x30, b"\0\5abc"),
        packet(0x30),
        packet(0x80, b"\0\1" + text("t") + b"\0"),  # SUBSCRIBE with other flags
        packet(0x82, b"\0\1"),
        packet(0x82, b"\0\0" + text("t") + b"\0"),
        packet(0x82, b"\0\1" + text("t") + b"\3"),
        packet(0x82, b"\0\1" + text("t")),
        packet(0x82, b"\0\1" + text("")),
        packet(0x82, b"\0\1" + text("a#") + b"\0"),
        packet(0xA2, b"\0\1"),
        packet(0xA2, b"\0\1" + text("a/#/b")),
        packet(0xA0, b"\0\1" + text("t")),
        packet(0x41, b"\0\1"),
        packet(0x40, b"\0"),
        packet(0x51, b"\0\1"),
        packet(0x60, b"\0\1"),  # PUBREL has flags
        packet(0x71, b"\0\1"),
        packet(0xC0, b"x"),
        packet(0xC1),
        packet(0xE0, b"x"),
        packet(0xE1),
        packet(0x20, b"\0\0"),
        packet(0x90, b"\0\1\0"),
        packet(0xB0, b"\0\1"),
        packet(0xD0),
        packet(0x00),
        packet(0xF0),
        b"\x30\x80\x80\x80\x80\x01",  # a length of five bytes
        b"\x30\xff\xff\xff\x7f",  # 256 MiB
    ],
)
async def test_wrong_input_ends_that_connection_and_no_other(violation: bytes) -> None:
    async with serve_mqtt() as s:
        watcher, client = await s.login("w"), await s.login("c")
        await watcher.subscribe("t", "#")
        client.send(violation, publish("t"))
        await client.ended()
        await watcher.fence()
        assert s.server.log.errors() == []


async def test_acknowledgements_of_what_was_never_sent(web: bool) -> None:
    async with serve_mqtt() as s:
        client = await s.login(web=web)
        client.send(ack(PUBACK, 7), ack(PUBREC, 7), ack(PUBCOMP, 7), ack(PUBREL, 9))
        await client.expect(ack(PUBCOMP, 9))
        await client.fence()


async def test_a_packet_that_is_too_large_ends_the_connection(web: bool) -> None:
    async with serve_mqtt(options={"maxMessageSize": 100}) as s:
        client = await s.login(web=web)
        client.send(publish("t", b"x" * 97), PINGREQ)
        await client.expect(PINGRESP)
        client.send(publish("t", b"x" * 98))
        await client.ended()


async def test_limits_of_topics_and_filters() -> None:
    async with serve_mqtt(options={"maxTopicLength": 5, "maxFilters": 2}) as s:
        client = await s.login()
        assert await client.subscribe("12345", "123456", "b", "c", "+") == [0, 128, 0, 128, 128]
        assert await client.subscribe("12345", ("b", 1)) == [0, 1]
        client.send(unsubscribe("b"))
        await client.expect(bytes.fromhex("b0020001"))
        assert await client.subscribe("+") == [0]
        client.send(publish("12345"))
        await client.fence()
        client.send(publish("123456"))
        await client.ended()


async def test_a_connection_that_does_not_log_in_is_closed() -> None:
    async with serve_mqtt(options={"unauthenticatedClientTimeout": 50}) as s:
        client = await s.open()
        client.send(b"\x10")
        await client.ended()


# --- section 8: none of upstream's faults


async def test_unsubscribe_works_for_known_and_unknown_filters(web: bool) -> None:
    async with serve_mqtt() as s:
        a, b = await s.login(web=web), await s.login()
        await a.subscribe("t", "u/+")
        a.send(unsubscribe("t", "unknown", "u/+", "+/x", id=77))
        await a.expect(bytes.fromhex("b002004d"))
        b.send(publish("t"), publish("u/1"), publish("t", b'{"a":1}', retain=True))
        await b.fence()
        await a.fence()
        assert {name: r.names() for name, r in s.server.registries().items() if r.names()} == {}


@pytest.mark.parametrize(
    "payload", [b"hello", b"5", b'"x"', b"null", b"{", b"\xff\xfe", b"[" * 600 + b"]" * 600]
)
async def test_a_retained_payload_that_is_no_document_is_an_event_only(payload: bytes) -> None:
    async with serve_mqtt() as s:
        a, b = await s.login(), await s.login()
        await b.subscribe("t")
        a.send(publish("t", payload, qos=1, retain=True, id=3))
        await a.expect(ack(PUBACK, 3))
        message = await b.message()
        assert (message.payload, message.retain) == (payload, False)
        assert await b.subscribe("t", id=2) == [0]
        assert len(s.server.log.find("INVALID_MESSAGE_DATA")) == 1


async def test_qos_1_and_qos_2_are_answered_and_delivered_once(web: bool) -> None:
    async with serve_mqtt() as s:
        a, b = await s.login(web=web), await s.login()
        await b.subscribe("t")
        a.send(publish("t", b"1", qos=1, id=7))
        await a.expect(ack(PUBACK, 7))
        a.send(publish("t", b"2", qos=2, id=7), publish("t", b"2", qos=2, id=7, dup=True))
        await a.expect(ack(PUBREC, 7), ack(PUBREC, 7))
        a.send(ack(PUBREL, 7), ack(PUBREL, 7))
        await a.expect(ack(PUBCOMP, 7), ack(PUBCOMP, 7))
        a.send(publish("t", b"3", qos=2, id=7))
        await a.expect(ack(PUBREC, 7))
        assert [(await b.message()).payload for _ in range(3)] == [b"1", b"2", b"3"]
        await b.fence()


async def test_one_suback_with_a_code_for_each_filter(web: bool) -> None:
    async with serve_mqtt() as s:
        client = await s.login(web=web)
        codes = await client.subscribe(
            ("a", 0), ("b", 1), ("c", 2), ("a", 0), "$SYS/x", "$share/g/t", "+/#", id=0xFFFF
        )
        assert codes == [0, 1, 1, 0, 128, 128, 0]
        await client.fence()


async def test_a_refused_connack_is_the_end_of_the_connection() -> None:
    async with serve_mqtt(authentication=Answers) as s:
        client = await s.open()
        client.send(connect(user="B"), connect(user="A"))
        await client.expect(REFUSED)
        await client.ended()


# --- bytes cut anywhere


SESSION = [
    connect("c", keep_alive=100, will=("w", b"gone", 1, True)),
    subscribe("t", ("u/+", 1), id=1),
    publish("v", b"x" * 200),
    publish("v", b'{"a":1}', qos=1, retain=True, id=2),
    publish("v", b"", qos=2, id=3),
    ack(PUBREL, 3),
    unsubscribe("t", id=4),
    PINGREQ,
]
ANSWERS = [
    WELCOME,
    bytes.fromhex("900400010001"),
    ack(PUBACK, 2),
    ack(PUBREC, 3),
    ack(PUBCOMP, 3),
    bytes.fromhex("b0020004"),
    PINGRESP,
]


async def replay(s: MqttRunning, cuts: list[int], web: bool) -> None:
    data = b"".join(SESSION)
    client = await s.open(web=web)
    marks = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(marks):
        client.send(data[start:end])
        await asyncio.sleep(0)
    await client.expect(*ANSWERS)
    await client.disconnect()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, sum(map(len, SESSION))), max_size=12))
def test_packets_may_be_cut_anywhere(web: bool, cuts: list[int]) -> None:
    async def run() -> None:
        async with serve_mqtt() as s:
            await replay(s, cuts, web)

    asyncio.run(run())


async def test_every_byte_on_its_own(web: bool) -> None:
    async with serve_mqtt() as s:
        await replay(s, list(range(sum(map(len, SESSION)))), web)


async def shut(client: MqttClient) -> None:
    client.raw.writer.write_eof()
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while await client.raw.reader.read(65536):
                pass
    client.raw.writer.close()


def mutated(at: int, value: int) -> bytes:
    """A session with one byte changed."""
    data = bytearray(b"".join(SESSION))
    data[at % len(data)] = value
    return bytes(data)


PIECES = st.one_of(
    st.sampled_from([*SESSION, publish("t", qos=1), subscribe("#"), DISCONNECT, b"\x82\x04\0\1\0\0"]),
    st.binary(max_size=20),
    st.builds(packet, st.integers(0, 255), st.binary(max_size=30)),
    st.builds(mutated, st.integers(0, 200), st.integers(0, 255)),
)


@settings(max_examples=int(os.environ.get("DSFAST_FUZZ_EXAMPLES", "150")), deadline=None)
@given(st.lists(st.lists(PIECES, max_size=6), min_size=1, max_size=8), st.booleans())
def test_no_bytes_do_any_harm(sessions: list[list[bytes]], logged_in: bool) -> None:
    async def run() -> None:
        async with serve_mqtt() as s:
            v = await s.server.login("V")
            for pieces in sessions:
                client = await s.open()
                client.send(connect("c") if logged_in else b"", *pieces)
                await shut(client)
            await s.gone()
            witness = await s.login("witness")
            await witness.fence()
            v.message(Topic.EVENT, EventAction.EMIT, name="x")
            await v.fence()
            assert s.server.log.errors() == []

    asyncio.run(run())
