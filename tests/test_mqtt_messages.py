"""What MQTT packets mean to clients of other protocols, and the reverse (protocol-mqtt.md 3 to 5, 9)."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest
from mqtt_client import (
    PINGRESP,
    PUBACK,
    SUBACK,
    MqttClient,
    MqttRunning,
    ack,
    packet,
    publish,
    serve_mqtt,
    subscribe,
    unsubscribe,
)
from test_json_endpoint import login as json_login
from wire import Client

from dsfast._core.protocol import EventAction, Message, RecordAction, Topic
from dsfast.plugin import Cache, Permission, Socket
from dsfast.services.permission.rules import SECTIONS


async def events(s: MqttRunning, *names: str, user: str = "V") -> Client:
    """A binary client that subscribes to events."""
    client = await s.server.login(user)
    client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=list(names), correlation_id="1")
    await client.expect(Topic.EVENT, EventAction.SUBSCRIBE)
    return client


async def emitted(client: Client, name: str = "t/1") -> Any:
    """Data of the next event."""
    message = await client.receive()
    assert (message.topic, message.action, message.name) == (Topic.EVENT, EventAction.EMIT, name), message
    assert message.correlation_id is None
    return message.data


def patch(client: Client, name: str, path: str, data: bytes) -> None:
    client.message(Topic.RECORD, RecordAction.CREATEANDPATCH, name=name, path=path, data=data, version=-1)


def update(client: Client, name: str, data: bytes) -> None:
    client.message(Topic.RECORD, RecordAction.CREATEANDUPDATE, name=name, data=data, version=-1)


async def test_the_cross_protocol_example() -> None:
    async with serve_mqtt() as s:
        m, v = await s.login("m"), await events(s, "t/1")
        assert await m.subscribe("t/1") == [0]
        v.message(Topic.EVENT, EventAction.EMIT, name="t/1", data=b'{"x":1}')
        assert (await m.message()).payload == b'{"x":1}'
        m.send(publish("t/1", b"hello"))
        assert await emitted(v) == b'"hello"'
        v.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["t/1"], correlation_id="2")
        await v.receive()
        assert (await v.receive()).version == 0
        m.send(publish("t/1", b'{"r":1}', qos=1, retain=True, id=4))
        assert json.loads(await emitted(v)) == {"r": 1}
        await v.expect(
            Topic.RECORD, RecordAction.UPDATE, name="t/1", data=b'{"r":1}', version=1, is_write_ack=False
        )
        await m.expect(ack(PUBACK, 4))
        update(v, "t/1", b'{"v":9}')
        assert (await m.message()).payload == b'{"v":9}'
        patch(v, "t/1", "p", b"1")
        assert json.loads((await m.message()).payload) == {"v": 9, "p": 1}
        v.message(Topic.RECORD, RecordAction.ERASE, name="t/1", path="v", version=-1)
        assert json.loads((await m.message()).payload) == {"p": 1}
        v.message(Topic.RECORD, RecordAction.DELETE, name="t/1")
        message = await m.message()
        assert (message.payload, message.retain, message.qos) == (b"", False, 0)
        await v.expect(Topic.RECORD, RecordAction.DELETE_SUCCESS)
        # The subscription outlives the record.
        update(v, "t/1", b'{"n":1}')
        assert (await m.message()).payload == b'{"n":1}'
        await m.fence()
        assert s.server.log.errors() == []


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (b"hello", b'"hello"'),
        (b'"hello"', b'"hello"'),
        (b'say "hi"\\\n\t', b'"say \\"hi\\"\\\\\\u000a\\u0009"'),
        (b' {"a" : 1.0}\n', b' {"a" : 1.0}\n'),
        (b"1e400", b"1e400"),
        (b"007", b'"007"'),
        (b"", b'""'),
        (b"\xff\x00\xfe", '"\ufffd\\u0000\ufffd"'.encode()),
        ("é\u2028".encode(), '"é\u2028"'.encode()),
        (b"x" * 100_000, b'"' + b"x" * 100_000 + b'"'),
        (b"\xff" * 70_000, ('"' + "\ufffd" * 70_000 + '"').encode()),
    ],
)
async def test_between_mqtt_clients_the_payload_stays_what_it_was(
    payload: bytes, data: bytes, qos: int
) -> None:
    async with serve_mqtt() as s:
        a, b, w = await s.login("a"), await s.login("b", web=True), await s.login("w")
        v, j = await events(s, "t/1"), await json_login_subscribed(s)
        await b.subscribe(("t/1", qos))
        await w.subscribe(("+/1", qos))
        a.send(publish("t/1", payload, qos=qos))
        assert (await b.message()).payload == payload
        assert (await w.message()).payload == payload
        assert await emitted(v) == data
        message = await j.receive()
        expected = None if payload == b"1e400" else json.loads(data)
        assert message.get("parsedData", "absent") == expected or payload == b"1e400"
        if qos:
            await a.expect(ack(PUBACK, 1))
        await a.fence()


async def json_login_subscribed(s: MqttRunning) -> Any:
    client = await json_login(s.server, "J")
    client.send({"topic": 4, "action": 3, "names": ["t/1"], "correlationId": "0"})
    await client.receive()
    return client


@pytest.mark.parametrize(
    ("data", "payload"),
    [(b'{"x":1}', b'{"x":1}'), (b'"str"', b'"str"'), (b"null", b"null"), (None, b""), (b"5", b"5")],
)
async def test_events_of_other_protocols_arrive_as_json_text(data: bytes | None, payload: bytes) -> None:
    async with serve_mqtt() as s:
        a, b = await s.login("a"), await s.login("b")
        await a.subscribe("t/1")
        await b.subscribe(("#", 1))
        v = await s.server.login("V")
        v.message(Topic.EVENT, EventAction.EMIT, name="t/1", data=data)
        assert (await a.message()).payload == payload
        assert (await b.message()).payload == payload
        j = await json_login(s.server)
        j.send({"topic": 4, "action": 2, "name": "t/1", **({} if data is None else {"data": data.decode()})})
        assert (await a.message()).payload == payload


async def test_a_correlation_id_of_another_protocol_does_not_change_a_payload() -> None:
    async with serve_mqtt() as s:
        a, v = await s.login("a"), await s.server.login("V")
        await a.subscribe("t/1")
        for mark in ("t", "tx", "bff", "bzz", "r"):
            v.message(Topic.EVENT, EventAction.EMIT, name="t/1", data=b'"x"', correlation_id=mark)
            assert (await a.message()).payload == b'"x"'
        assert s.server.log.errors() == []


async def test_nobody_gets_their_own_publishes() -> None:
    async with serve_mqtt() as s:
        a, b = await s.login("a"), await s.login("b")
        await a.subscribe("t", ("#", 1))
        await b.subscribe(("t", 1))
        a.send(publish("t", b"1"), publish("t", b'{"r":1}', retain=True))
        assert [(await b.message()).payload for _ in range(2)] == [b"1", b'{"r":1}']
        b.send(publish("t", b"2"))
        assert (await a.message()).payload == b"2"
        await a.fence()
        await b.fence()


async def test_what_else_clients_do_is_nothing_to_mqtt() -> None:
    async with serve_mqtt() as s:
        a, v = await s.login("a"), await s.server.login("V")
        await a.subscribe("t")
        v.message(Topic.RECORD, RecordAction.LISTEN, name="t", correlation_id="1")
        v.message(Topic.EVENT, EventAction.LISTEN, name="t", correlation_id="2")
        for _ in range(4):
            message = await v.receive()
            if (
                message.action == RecordAction.SUBSCRIPTION_FOR_PATTERN_FOUND
                and message.topic == Topic.RECORD
            ):
                v.message(Topic.RECORD, RecordAction.LISTEN_ACCEPT, name="t", subscription="t")
        await v.fence()
        await a.fence()


@pytest.mark.parametrize("name", ["a+b", "a#", "a\0b", "x" * 70_000])
async def test_names_that_mqtt_does_not_have_are_not_delivered(name: str) -> None:
    async with serve_mqtt() as s:
        a, v = await s.login("a"), await s.server.login("V")
        await a.subscribe("#", ("+", 1))
        v.message(Topic.EVENT, EventAction.EMIT, name=name, data=b"1")
        v.message(Topic.EVENT, EventAction.EMIT, name="good", data=b"2")
        assert (await a.message()).topic == "good"
        await a.fence()


async def test_http_and_mqtt_clients_share_events_and_records() -> None:
    async with serve_mqtt(endpoints=[{"type": "http"}]) as s:
        a, b = await s.login("a"), await s.login("b")
        await a.subscribe("t/1", ("r", 1))
        request = {
            "body": [
                {"topic": "event", "action": "emit", "eventName": "t/1", "data": {"x": 1}},
                {"topic": "record", "action": "write", "recordName": "r", "data": {"y": 2}},
                {"topic": "record", "action": "write", "recordName": "r", "path": "z", "data": 3},
                {"topic": "record", "action": "delete", "recordName": "r"},
            ]
        }
        answer = await post(s, request)
        assert answer["result"] == "SUCCESS", answer
        got = [(await a.message()).payload for _ in range(4)]
        assert [json.loads(payload) for payload in got[:3]] == [{"x": 1}, {"y": 2}, {"y": 2, "z": 3}]
        assert got[3] == b""
        b.send(publish("r", b'{"m": 4}', retain=True, qos=1))
        await b.expect(ack(PUBACK, 1))
        answer = await post(s, {"body": [{"topic": "record", "action": "read", "recordName": "r"}]})
        assert answer["body"][0]["data"] == {"m": 4}


async def post(s: MqttRunning, request: Any) -> Any:
    client = await s.server.connect()
    body = json.dumps(request).encode()
    head = f"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    client.write(head.encode() + body)
    response = await client.response()
    assert response.status == 200, response.body
    return json.loads(response.body)


# --- retained messages


async def test_a_retained_publish_reaches_each_mqtt_client_once() -> None:
    async with serve_mqtt() as s:
        sender = await s.login()
        both, twice, wild = await s.login("b"), await s.login("2"), await s.login("w", web=True)
        await both.subscribe("t")
        await twice.subscribe(("t", 1), "#")
        await wild.subscribe("+")
        for text in (b'{"r": 1}', b"[1,  2]"):
            sender.send(publish("t", text, retain=True))
            for client in (both, twice, wild):
                message = await client.message()
                assert (message.payload, message.retain) == (text, False)
        await sender.fence()
        for client in (both, twice, wild):
            await client.fence()


@pytest.mark.parametrize("qos", [0, 1])
async def test_who_subscribes_gets_the_record_of_that_name(qos: int) -> None:
    async with serve_mqtt() as s:
        v = await s.server.login("V")
        update(v, "t", b'{"a": 1}')
        await v.fence()
        a = await s.login()
        for number in (1, 2):
            a.send(subscribe(("t", qos), "missing", id=number))
            first = await a.message()
            assert (first.topic, first.payload, first.retain, first.qos) == ("t", b'{"a": 1}', True, qos)
            await a.expect(packet(SUBACK, bytes([0, number, qos, 0])))
        await a.fence()
        a.send(subscribe("+", id=3))
        await a.expect(packet(SUBACK, b"\0\3\0"))
        patch(v, "t", "b", b"2")
        assert json.loads((await a.message()).payload) == {"a": 1, "b": 2}


async def test_records_on_subscribe_can_be_switched_off() -> None:
    async with serve_mqtt(options={"sendRecordOnSubscribe": False}) as s:
        v = await s.server.login("V")
        update(v, "t", b'{"a": 1}')
        await v.fence()
        a = await s.login()
        assert await a.subscribe("t") == [0]
        await a.fence()


async def test_an_empty_retained_payload_deletes_the_record(tmp_path: Any) -> None:
    storage = {"type": "sqlite", "options": {"path": str(tmp_path / "x.db")}}
    async with serve_mqtt({"storage": storage}) as s:
        a, b, v = await s.login("a"), await s.login("b"), await events(s, "t")
        a.send(publish("t", b'{"a":1}', qos=1, retain=True, id=1))
        await a.expect(ack(PUBACK, 1))
        await emitted(v, "t")
        b.send(subscribe("t"))
        assert (await b.message()).payload == b'{"a":1}'
        assert (await b.receive())[0] == SUBACK
        a.send(publish("t", b"", qos=1, retain=True, id=2), publish("t", b"", qos=2, retain=True, id=3))
        await a.expect(ack(PUBACK, 2), bytes.fromhex("50020003"))
        message = await b.message()
        assert (message.payload, message.retain) == (b"", False)
        v.message(Topic.RECORD, RecordAction.READ, name="t")
        await v.expect(
            Topic.RECORD, RecordAction.RECORD_NOT_FOUND, name="t", original_action=3, is_error=True
        )


async def test_a_client_with_many_unanswered_writes_is_read_again_when_they_are(tmp_path: Any) -> None:
    storage = {"type": "sqlite", "options": {"path": str(tmp_path / "x.db")}}
    async with serve_mqtt({"storage": storage}) as s:
        a = await s.login("a")
        for _ in range(2):
            for i in range(3000):
                a.send(publish(f"t/{i % 10}", b'{"a":%d}' % i, retain=True))
            a.send(publish("t/0", b'{"a":0}', retain=True, qos=1))
            await a.expect(ack(PUBACK, 1))
            await a.fence()


async def test_acknowledgements_keep_the_order_of_the_publishes(tmp_path: Any) -> None:
    storage = {"type": "sqlite", "options": {"path": str(tmp_path / "x.db")}}
    async with serve_mqtt({"storage": storage}) as s:
        a = await s.login("a")
        for i in range(1, 61):
            a.send(publish(f"t/{i % 7}", b'{"a":1}', qos=1 + i % 2, retain=i % 3 == 0, id=i))
        for i in range(1, 61):
            await a.expect(ack(0x50 if i % 2 else 0x40, i))
        await a.fence()


class SlowCache(Cache):
    """Confirms each change only when the loop comes round, as a cache on another machine does."""

    description = "slow cache"

    def init(self) -> None:
        self.data: dict[str, tuple[int, Any]] = {}

    async def get(self, name: str) -> tuple[int, Any]:
        await asyncio.sleep(0)
        return self.data.get(name, (-1, None))

    async def set(self, name: str, version: int, data: Any) -> None:
        await asyncio.sleep(0)
        self.data[name] = version, data

    async def delete(self, name: str) -> None:
        self.data.pop(name, None)

    async def delete_bulk(self, names: Any) -> None:
        for name in names:
            self.data.pop(name, None)

    async def head(self, name: str) -> int:
        return self.data.get(name, (-1, None))[0]

    async def head_bulk(self, names: Any) -> tuple[dict[str, int], list[str]]:
        found = {name: self.data[name][0] for name in names if name in self.data}
        return found, [name for name in names if name not in found]


async def test_patches_arrive_as_whole_records_with_a_cache_plugin_too() -> None:
    async with serve_mqtt(cache=SlowCache) as s:
        a, b, v = await s.login("a"), await s.login("b"), await s.server.login("V")
        await a.subscribe("t")
        await b.subscribe(("t", 1))
        update(v, "t", b'{"a":1}')
        patch(v, "t", "b", b"2")
        for client in (a, b):
            assert json.loads((await client.message()).payload) == {"a": 1}
            assert json.loads((await client.message()).payload) == {"a": 1, "b": 2}


# --- wildcards


async def test_wildcards_match_concrete_names() -> None:
    async with serve_mqtt() as s:
        a, b = await s.login("a"), await s.login("b")
        assert await a.subscribe("sport/+/score", "home/#", "$data/#") == [0, 0, 0]
        for topic in ("sport/x/score", "home", "home/a/b", "$data/x", "sport/x", "sport/x/y/score", "other"):
            b.send(publish(topic, topic.encode()))
        await b.fence()
        got = [(await a.message()).topic for _ in range(4)]
        assert got == ["sport/x/score", "home", "home/a/b", "$data/x"]
        a.send(unsubscribe("home/#"))
        await a.receive()
        b.send(publish("home/c"), publish("sport/1/score"))
        assert (await a.message()).topic == "sport/1/score"
        await a.fence()


async def test_a_message_comes_once_with_the_highest_qos_of_what_matches() -> None:
    async with serve_mqtt() as s:
        a, b = await s.login("a"), await s.login("b")
        await a.subscribe("t/1", "t/+", ("#", 1), "+/1")
        b.send(publish("t/1", b"x"), publish("u/1", b"y"))
        assert [(await a.message()).qos for _ in range(2)] == [1, 1]
        await a.fence()
        a.send(unsubscribe("#"))
        await a.receive()
        b.send(publish("t/1", b"z"))
        message = await a.message()
        assert (message.qos, message.payload) == (0, b"z")


async def test_when_the_last_wildcard_is_gone_nothing_is_left() -> None:
    async with serve_mqtt() as s:
        a, b = await s.login("a"), await s.login("b")
        await a.subscribe("#", "a/+")
        await b.subscribe("#")
        assert s.broker.tree.count == 3
        a.send(unsubscribe("#", "a/+"))
        await a.receive()
        b.raw.reset()
        await s.gone(1)
        assert s.broker.tree.count == 0


# --- permission


class Rules(Permission):
    """Allows what :attr:`allow` says; with a :attr:`gate` only after that was set."""

    description = "rules"

    def init(self) -> None:
        self.asked: list[tuple[str, int, int, str]] = []
        self.gate: asyncio.Event | None = None
        self.denied: set[tuple[int, int, str]] = set()

    def can_perform_action(self, socket: Socket, message: Message) -> bool | Awaitable[bool]:
        assert message.name is not None
        self.asked.append((socket.user_id or "", message.topic, message.action, message.name))
        answer = (message.topic, message.action, message.name) not in self.denied
        if self.gate is None:
            return answer
        return self._later(answer)

    async def _later(self, answer: bool) -> bool:
        assert self.gate is not None
        await self.gate.wait()
        return answer

    def deny(self, topic: int, *actions: int, name: str) -> None:
        self.denied |= {(topic, action, name) for action in actions}


EMIT, EVENT_SUBSCRIBE = (Topic.EVENT, EventAction.EMIT), (Topic.EVENT, EventAction.SUBSCRIBE)


def rules_of(s: MqttRunning) -> Rules:
    return s.server.services.permission  # type: ignore[return-value]


@pytest.mark.parametrize("late", [False, True])
async def test_a_filter_is_granted_if_the_event_or_the_record_is(late: bool) -> None:
    async with serve_mqtt(permission=Rules) as s:
        rules = rules_of(s)
        rules.deny(Topic.EVENT, EventAction.SUBSCRIBE, name="record")
        rules.deny(Topic.RECORD, RecordAction.SUBSCRIBE, RecordAction.READ, name="event")
        for name in ("neither", "no2"):
            rules.deny(Topic.EVENT, EventAction.SUBSCRIBE, name=name)
            rules.deny(Topic.RECORD, RecordAction.SUBSCRIBE, RecordAction.READ, name=name)
        a = await s.login("a")
        if late:
            rules.gate = asyncio.Event()
        a.send(subscribe("record", ("event", 1), "neither", ("both", 1), "no2", id=9), b"\xc0\0")
        if late:
            await a.expect(PINGRESP)
            rules.gate.set()  # type: ignore[union-attr]
        await a.expect(packet(SUBACK, b"\0\x09" + bytes([0, 1, 128, 1, 128])))
        if not late:
            await a.expect(PINGRESP)
        registries = s.server.registries()
        assert sorted(registries["event"].names()) == ["both", "event"]
        assert sorted(registries["record"].names()) == ["both", "record"]
        a.send(unsubscribe("record", "event", "neither", "both"))
        await a.receive()
        assert registries["event"].names() == registries["record"].names() == []


async def test_many_filters_may_wait_for_their_permission() -> None:
    async with serve_mqtt(permission=Rules) as s:
        a = await s.login("a")
        rules_of(s).gate = gate = asyncio.Event()
        a.send(subscribe(*[f"t/{i}" for i in range(2000)]))
        for i in range(2, 5):
            a.send(subscribe("x" * i, id=i), b"\xc0\0")
        await s.server.until(lambda: len(rules_of(s).asked) >= 1000)
        gate.set()
        codes = 0
        for _ in range(7):
            first, body = await a.receive()
            codes += len(body[2:]) if first == SUBACK else 0
        assert codes == 2003
        await a.fence()


class Destroyer(Permission):
    """Ends another connection while it is asked about a message."""

    description = "destroyer"
    victims: list[Any] = []

    def can_perform_action(self, socket: Socket, message: Message) -> bool:
        if message.data is not None and b"now" in message.data and self.victims:
            self.victims.pop().destroy()
        return True


async def test_a_will_in_the_middle_of_a_publish() -> None:
    async with serve_mqtt(permission=Destroyer) as s:
        a, w = await s.login("a", user="A"), await s.login("w", user="W")
        await w.subscribe("t", ("gone", 1), "+")
        for i in range(5):
            await s.login(f"v{i}", user=f"V{i}", will=("gone", b"will " * 200 * i + b"\xff", 0, False))
            Destroyer.victims = [c for c in s.endpoint.core.connections if c.user_id == f"V{i}"]
            payload = b"now " * 50 * (5 - i) + b"\xfe"
            a.send(publish("t", payload))
            messages = [await w.message(), await w.message()]
            assert {m.topic: m.payload for m in messages} == {
                "gone": b"will " * 200 * i + b"\xff",
                "t": payload,
            }
        await w.fence()
        assert s.server.log.errors() == []


async def test_a_filter_that_is_refused_later_ends() -> None:
    async with serve_mqtt(permission=Rules) as s:
        rules, a, b = rules_of(s), await s.login("a"), await s.login("b")
        assert await a.subscribe("t") == [0]
        rules.deny(Topic.EVENT, EventAction.SUBSCRIBE, name="t")
        rules.deny(Topic.RECORD, RecordAction.SUBSCRIBE, RecordAction.READ, name="t")
        assert await a.subscribe("t") == [128]
        await s.server.until(lambda: s.server.registries()["event"].names() == [])
        assert s.server.registries()["record"].names() == []
        b.send(publish("t"))
        await b.fence()
        await a.fence()


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_refused_publish_is_acknowledged_logged_and_counted(qos: int) -> None:
    async with serve_mqtt(permission=Rules) as s:
        rules_of(s).deny(*EMIT, name="t")
        a, b = await s.login("a"), await s.login("b")
        await b.subscribe("t")
        a.send(publish("t", b"x", qos=qos, id=3))
        if qos:
            await a.expect(ack(0x40 if qos == 1 else 0x50, 3))
        await a.fence()
        await b.fence()
        assert s.server.log.find("MESSAGE_DENIED") == ["A published the event t"]
        assert s.broker.stats()["refused"] == 1


@pytest.mark.parametrize("denied", [RecordAction.CREATE, RecordAction.UPDATE])
async def test_if_the_record_may_not_be_written_the_event_is_told_all_the_same(denied: int) -> None:
    async with serve_mqtt(permission=Rules) as s:
        rules_of(s).deny(Topic.RECORD, denied, name="t")
        a, both, one, v = await s.login("a"), await s.login("b"), await s.login("1"), await events(s, "t")
        await both.subscribe(("t", 1))
        await one.subscribe("t")
        a.send(publish("t", b'{"r":1}', qos=1, retain=True, id=3))
        await a.expect(ack(PUBACK, 3))
        for client in (both, one):
            assert (await client.message()).payload == b'{"r":1}'
            await client.fence()
        assert await emitted(v, "t") == b'{"r":1}'
        assert s.server.log.find("MESSAGE_DENIED") == ["A published the record t"]


async def test_a_client_that_may_only_subscribe_to_events_gets_retained_publishes_as_such() -> None:
    async with serve_mqtt(permission=Rules) as s:
        rules_of(s).deny(Topic.RECORD, RecordAction.SUBSCRIBE, RecordAction.READ, name="t")
        a, b, c = await s.login("a"), await s.login("b"), await s.login("c")
        await b.subscribe("t")
        await c.subscribe(("t", 1))
        a.send(publish("t", b'{"r":1}', retain=True))
        for client in (b, c):
            assert (await client.message()).payload == b'{"r":1}'
            await client.fence()


@pytest.mark.parametrize("late", [False, True])
async def test_each_name_that_a_wildcard_matches_is_decided_about(late: bool) -> None:
    async with serve_mqtt(permission=Rules) as s:
        rules = rules_of(s)
        rules.deny(*EVENT_SUBSCRIBE, name="t/secret")
        a, v = await s.login("a", user="W"), await s.server.login("V")
        assert await a.subscribe("t/+") == [0]
        assert ("W", *EVENT_SUBSCRIBE, "t/+") not in rules.asked
        if late:
            rules.gate = asyncio.Event()
        for i, name in enumerate(["t/1", "t/secret", "t/2", "t/secret", "t/1"]):
            v.message(Topic.EVENT, EventAction.EMIT, name=name, data=str(i).encode())
        if late:
            await s.server.until(lambda: len(rules.asked) >= 5)
            rules.gate.set()  # type: ignore[union-attr]
        assert [(await a.message()).payload for _ in range(3)] == [b"0", b"2", b"4"]
        await a.fence()


RULES: dict[str, dict[str, Any]] = {
    section: {"*": dict.fromkeys(types, True)} for section, types in SECTIONS.items()
}
RULES["record"]["mine/$user"] = {"read": "user.id === $user", "write": "user.id === $user", "create": True}
RULES["event"] |= {
    "mine/$user": {"publish": "user.id === $user", "subscribe": "user.id === $user"},
    "small": {"publish": "data < 10", "subscribe": True},
    "gated": {"publish": True, "subscribe": "_('gate').open === true"},
}


async def test_valve_rules_hold_for_mqtt() -> None:
    permission = {"type": "config", "options": {"permissions": RULES, "maxRuleIterations": 3}}
    async with serve_mqtt({"permission": permission}) as s:
        a, b, w = await s.login("a", user="A"), await s.login("b", user="B"), await s.login("w", user="W")
        assert await a.subscribe("mine/A", "mine/B", "small") == [0, 128, 0]
        assert await w.subscribe("mine/+", ("#", 1)) == [0, 1]
        assert await b.subscribe("mine/B") == [0]
        b.send(
            publish("mine/A", b"1"), publish("mine/B", b"2"), publish("small", b"5"), publish("small", b"50")
        )
        b.send(publish("mine/A", b'{"x":1}', qos=1, retain=True, id=1))
        await b.expect(ack(PUBACK, 1))
        # W may have the event of nobody, A gets what B could publish.
        assert (await a.message()).payload == b"5"
        message = await w.message()
        assert (message.topic, message.payload, message.qos) == ("small", b"5", 1)
        a.send(publish("mine/A", b"own"), publish("other", b"x"))
        assert (await w.message()).topic == "other"
        # A rule about a record that has to be looked up.
        a.send(publish("gated", b"1"), publish("other"))
        assert (await w.message()).topic == "other"  # so that has been decided
        a.send(publish("gate", b'{"open":true}', retain=True), publish("gated", b"2"))
        assert (await w.message()).topic == "gate"
        message = await w.message()
        assert (message.topic, message.payload) == ("gated", b"2")
        for client in (a, b, w):
            await client.fence()
        assert s.server.log.errors() == []


# --- features that are off


@pytest.mark.parametrize(("feature", "left"), [("event", "record"), ("record", "event")])
async def test_with_one_feature_off_the_other_works(feature: str, left: str) -> None:
    async with serve_mqtt({"enabledFeatures": {feature: False}}) as s:
        a, b = await s.login("a"), await s.login("b")
        assert await a.subscribe("t", ("u", 1)) == [0, 1]
        b.send(publish("t", b'{"a":1}', qos=1, retain=True))
        await b.expect(ack(PUBACK, 1))
        assert (await a.message()).payload == b'{"a":1}'
        b.send(publish("t", b"x", qos=1))
        await b.expect(ack(PUBACK, 1))
        if left == "event":
            assert (await a.message()).payload == b"x"
        a.send(unsubscribe("t", "u"))
        await a.expect(bytes.fromhex("b0020001"))
        await a.fence()
        assert s.server.log.find("UNKNOWN_TOPIC") == []


async def test_with_both_features_off_nothing_is_granted() -> None:
    async with serve_mqtt({"enabledFeatures": {"event": False, "record": False}}) as s:
        a = await s.login("a")
        assert await a.subscribe("t", "#") == [128, 128]
        a.send(publish("t", b"x", qos=1), publish("t", b"{}", retain=True), unsubscribe("t", id=2))
        await a.expect(ack(PUBACK, 1), bytes.fromhex("b0020002"))
        await a.fence()


async def test_presence_and_monitoring_know_mqtt_clients() -> None:
    async with serve_mqtt() as s:
        v = await s.server.login("V")
        a: MqttClient = await s.login("a", user="A")
        assert s.server.router.presence.online == ["V", "A"]
        await a.disconnect()
        await s.gone()
        assert s.server.router.presence.online == ["V"]
        await v.fence()
