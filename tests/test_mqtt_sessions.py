"""MQTT connections and sessions: keep-alive, wills, take-over, QoS 1, slow readers, shutdown (section 7)."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import time
from typing import Any

import certificates
import psutil
import pytest
from mqtt_client import (
    DISCONNECT,
    PINGREQ,
    PUBACK,
    MqttClient,
    MqttRunning,
    ack,
    connect,
    packet,
    publish,
    serve_mqtt,
    subscribe,
    unsubscribe,
)
from test_mqtt_messages import RULES, Rules, rules_of, update
from wire import Client, Log, Users, serve

from dsfast import Server
from dsfast._core.protocol import EventAction, RecordAction, Topic
from dsfast.plugin import AuthResult


async def away(s: MqttRunning, client: MqttClient, connections: int) -> None:
    """The client is gone, without a DISCONNECT; so many are left."""
    client.raw.reset()
    await s.gone(connections)


# --- last wills


WILL = ("w", b"gone", 0, False)


async def watching(s: MqttRunning) -> MqttClient:
    watcher = await s.login("watcher", user="W")
    await watcher.subscribe("w")
    return watcher


async def test_a_will_is_published_after_a_reset() -> None:
    async with serve_mqtt() as s:
        watcher, client = await watching(s), await s.login("c", will=WILL)
        client.raw.reset()
        assert (await watcher.message()).payload == b"gone"


async def test_a_will_is_published_after_an_end_without_a_word() -> None:
    async with serve_mqtt() as s:
        watcher, client = await watching(s), await s.login("c", will=WILL)
        client.raw.writer.write_eof()
        assert (await watcher.message()).payload == b"gone"


async def test_a_will_is_published_after_a_violation() -> None:
    async with serve_mqtt() as s:
        watcher, client = await watching(s), await s.login("c", will=WILL)
        client.send(packet(0xF0))
        assert (await watcher.message()).payload == b"gone"


async def test_a_will_is_published_when_the_keep_alive_has_run_out() -> None:
    async with serve_mqtt() as s:
        watcher, client = await watching(s), await s.login("c", will=WILL, keep_alive=1)
        assert (await watcher.message()).payload == b"gone"
        await client.ended()


async def test_a_will_is_published_when_another_takes_over() -> None:
    async with serve_mqtt() as s:
        watcher, client = await watching(s), await s.login("c", will=WILL)
        await s.login("c")
        assert (await watcher.message()).payload == b"gone"
        await client.ended()


async def test_a_will_is_published_when_the_login_ends() -> None:
    class Short(Users):
        async def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:
            expires = time.time() + 0.05 if auth_data["username"] == "A" else None
            return AuthResult(True, id=auth_data["username"], expires=expires)

    async with serve_mqtt(authentication=Short) as s:
        watcher, client = await watching(s), await s.login("c", will=WILL)
        assert (await watcher.message()).payload == b"gone"
        await client.ended()


async def test_a_will_is_published_when_a_websocket_is_closed() -> None:
    async with serve_mqtt() as s:
        watcher, client = await watching(s), await s.login("c", will=WILL, web=True)
        await client.raw.close()
        assert (await watcher.message()).payload == b"gone"


async def test_a_will_is_published_when_a_slow_reader_is_cut_off() -> None:
    async with serve_mqtt(options={"maxQueuedMessages": 5, "maxInflight": 2}) as s:
        watcher, client, sender = await watching(s), await s.login("c", will=WILL), await s.login("s")
        await client.subscribe(("t", 1))
        sender.send(*[publish("t", b"x")] * 8)
        assert (await watcher.message()).payload == b"gone"


async def test_a_disconnect_drops_the_will() -> None:
    async with serve_mqtt() as s:
        watcher = await watching(s)
        for web in (False, True):
            client = await s.login("c", will=WILL, web=web)
            await client.disconnect()
        await watcher.fence()


async def test_a_refused_login_has_no_will() -> None:
    class Nobody(Users):
        async def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:
            return AuthResult(auth_data["username"] == "W", id=auth_data["username"])

    async with serve_mqtt(authentication=Nobody) as s:
        watcher, client = await watching(s), await s.open()
        client.send(connect("c", will=WILL))
        await client.expect(bytes.fromhex("20020005"))
        await client.ended()
        await watcher.fence()


async def test_a_will_needs_the_right_to_publish_when_it_is_published() -> None:
    async with serve_mqtt(permission=Rules) as s:
        watcher, client = await watching(s), await s.login("c", user="A", will=WILL)
        rules_of(s).deny(Topic.EVENT, EventAction.EMIT, name="w")
        await away(s, client, 1)
        await watcher.fence()
        assert ("A", Topic.EVENT, EventAction.EMIT, "w") in rules_of(s).asked
        assert s.server.log.find("MESSAGE_DENIED") == ["A published the event w"]


async def test_a_will_may_wait_for_its_permission() -> None:
    async with serve_mqtt(permission=Rules) as s:
        rules, watcher = rules_of(s), await watching(s)
        client = await s.login("c", will=("w", b'{"a":1}', 1, True))
        rules.gate = asyncio.Event()
        await away(s, client, 1)
        await watcher.fence()
        rules.gate.set()
        assert (await watcher.message()).payload == b'{"a":1}'
        await watcher.fence()


async def test_a_retained_will_is_a_record() -> None:
    async with serve_mqtt() as s:
        watcher, client = await watching(s), await s.login("c", will=("w", b'{"online": false}', 1, True))
        await away(s, client, 1)
        assert (await watcher.message()).payload == b'{"online": false}'
        watcher.send(subscribe("w", id=2))
        message = await watcher.message()
        assert (message.payload, message.retain) == (b'{"online": false}', True)


# --- keep-alive


async def test_any_packet_keeps_a_connection_alive() -> None:
    async with serve_mqtt() as s:
        client, silent = await s.login("c", keep_alive=1), await s.login("s", keep_alive=1)
        assert [c.extra.patience for c in s.endpoint.core.connections] == [1500, 1500]
        ending = asyncio.ensure_future(silent.ended())
        while not ending.done():
            await client.fence()
            await asyncio.wait([ending], timeout=0.2)
        await ending
        await client.fence()


async def test_without_a_keep_alive_the_idle_timeout_counts() -> None:
    async with serve_mqtt(options={"idleTimeout": 60}) as s:
        client, patient = await s.login("c"), await s.login("p", keep_alive=60)
        await client.ended()
        await patient.fence()


# --- take-over


async def test_the_same_id_of_another_user_is_another_client() -> None:
    async with serve_mqtt() as s:
        a, b = await s.login("c", user="A"), await s.login("c", user="B")
        await a.fence()
        await b.fence()
        again = await s.login("c", user="A", web=True)
        await a.ended()
        await again.fence()
        await b.fence()
        assert sorted(s.broker.sessions) == [("A", "c"), ("B", "c")]
        assert sorted(s.server.router.presence.online) == ["A", "B"]


async def test_of_many_logins_at_the_same_time_one_stays() -> None:
    async with serve_mqtt(authentication=Users) as s:
        users = s.server.services.authentication.entries[0]
        before = users.is_valid_user
        users.is_valid_user = lambda data, auth: before(data, {**auth, "gate": 1})
        clients = [await s.open(web=i % 2 == 1) for i in range(8)]
        for i, client in enumerate(clients):
            client.send(connect("c", clean=i % 3 == 0), subscribe(("t", 1)), PINGREQ)
        await users.wait_for(8)
        users.gate.set()
        await s.server.until(lambda: len(s.server.router.presence.online) == 1)
        await s.server.until(lambda: s.connections() + len(s.server.endpoint.core.connections) <= 1)
        assert list(s.broker.sessions) == [("A", "c")]
        assert s.server.registries()["event"].count("t") == 1
        assert s.server.log.errors() == []


# --- kept sessions


async def test_a_session_survives_its_connection() -> None:
    async with serve_mqtt() as s:
        sender = await s.login("s")
        v = await s.server.login("V")
        client = await s.login("c", clean=False)
        await client.subscribe(("t", 1), ("r", 1), ("x/+", 1), ("zero", 0))
        await away(s, client, 1)
        sender.send(
            publish("t", b"1"), publish("x/y", b"2"), publish("zero", b"lost"), publish("t", b"\xff", qos=1)
        )
        await sender.expect(ack(PUBACK, 1))
        update(v, "r", b'{"a":1}')
        v.message(Topic.RECORD, RecordAction.PATCH, name="r", path="b", data=b"2", version=2)
        v.message(Topic.RECORD, RecordAction.DELETE, name="r")
        await v.expect(Topic.RECORD, RecordAction.DELETE_SUCCESS)
        update(v, "r", b'{"n":1}')
        await v.fence()
        client = await s.login("c", clean=False, present=True, web=True)
        got = [await client.message() for _ in range(7)]
        payloads = [message.payload for message in got]
        assert payloads[:4] == [b"1", b"2", b"\xff", b'{"a":1}']
        assert json.loads(payloads[4]) == {"a": 1, "b": 2}
        assert payloads[5:] == [b"", b'{"n":1}']
        assert [message.qos for message in got] == [1] * 7
        assert len({message.id for message in got}) == 7
        sender.send(publish("zero", b"now"), publish("t", b"2"))
        assert [(await client.message()).payload for _ in range(2)] == [b"now", b"2"]
        await client.fence()
        assert s.server.registries()["event"].count("t") == 1
        await client.disconnect()
        await s.server.until(lambda: s.broker.stats()["away"] == 1)
        # Clean: the session and its subscriptions are over, now and later.
        client = await s.login("c", clean=True)
        sender.send(publish("t", b"3"))
        await sender.fence()
        await client.fence()
        await client.disconnect()
        client = await s.login("c", clean=False, present=False)
        await client.fence()
        assert s.server.registries()["event"].names() == []
        assert s.server.log.errors() == []


async def test_what_was_not_acknowledged_comes_again() -> None:
    async with serve_mqtt(options={"maxInflight": 3}) as s:
        sender, client = await s.login("s"), await s.login("c", clean=False)
        await client.subscribe(("t", 1))
        sender.send(*[publish("t", b"%d" % i) for i in range(6)])
        first = [await client.message(acknowledge=False) for _ in range(3)]
        assert [message.payload for message in first] == [b"0", b"1", b"2"]
        await client.fence()
        client.send(ack(PUBACK, first[1].id), ack(PUBACK, 9999))
        assert (await client.message(acknowledge=False)).payload == b"3"
        await away(s, client, 1)
        sender.send(publish("t", b"6"))
        await sender.fence()
        client = await s.login("c", clean=False, present=True)
        again = [await client.message(acknowledge=False) for _ in range(3)]
        assert [(message.payload, message.dup) for message in again] == [
            (b"0", True),
            (b"2", True),
            (b"3", True),
        ]
        assert [message.id for message in again[:2]] == [first[0].id, first[2].id]
        await client.fence()
        for message in again:
            client.send(ack(PUBACK, message.id))
        rest = [await client.message() for _ in range(3)]
        assert [(message.payload, message.dup) for message in rest] == [
            (b"4", False),
            (b"5", False),
            (b"6", False),
        ]
        await client.fence()


async def test_packet_ids_in_flight_are_not_used_again() -> None:
    async with serve_mqtt(options={"maxInflight": 100, "maxQueuedMessages": 100_000}) as s:
        sender, client = await s.login("s"), await s.login("c")
        await client.subscribe(("t", 1))
        sender.send(publish("t", b"first"))
        kept = await client.message(acknowledge=False)
        seen: set[int] = {kept.id}
        for _ in range(70):
            sender.send(*[publish("t", b"x")] * 1000)
            for _ in range(1000):
                message = await client.message()
                assert message.id not in (0, kept.id)
                seen.add(message.id)
        assert len(seen) == 65535


async def test_a_qos_2_publish_is_delivered_once_across_a_reconnect() -> None:
    async with serve_mqtt() as s:
        watcher, client = await s.login("w"), await s.login("c", clean=False)
        await watcher.subscribe("t")
        client.send(publish("t", b"1", qos=2, id=5))
        await client.expect(ack(0x50, 5))
        await away(s, client, 1)
        client = await s.login("c", clean=False, present=True)
        client.send(publish("t", b"1", qos=2, id=5, dup=True), ack(0x62, 5), publish("t", b"2", qos=2, id=5))
        await client.expect(ack(0x50, 5), ack(0x70, 5), ack(0x50, 5))
        assert [(await watcher.message()).payload for _ in range(2)] == [b"1", b"2"]
        await watcher.fence()


async def test_the_queue_of_an_absent_client_is_bounded() -> None:
    options = {"maxQueuedMessages": 5, "maxQueuedBytes": 10_000}
    async with serve_mqtt(options=options) as s:
        sender, client = await s.login("s"), await s.login("c", clean=False)
        await client.subscribe(("t", 1))
        await away(s, client, 1)
        sender.send(*[publish("t", b"%d" % i) for i in range(20)])
        await sender.fence()
        assert s.broker.stats()["dropped"] == 15
        client = await s.login("c", clean=False, present=True)
        assert [(await client.message()).payload for _ in range(5)] == [b"15", b"16", b"17", b"18", b"19"]
        await away(s, client, 1)
        sender.send(*[publish("t", b"x" * 4000) for i in range(20)])
        await sender.fence()
        client = await s.login("c", clean=False, present=True)
        assert [len((await client.message()).payload) for _ in range(2)] == [4000, 4000]
        await client.fence()


async def test_sessions_end_after_a_time() -> None:
    async with serve_mqtt(options={"sessionExpiry": 30}) as s:
        client = await s.login("c", clean=False)
        await client.subscribe(("t", 1), ("#", 1))
        await away(s, client, 0)
        await s.server.until(lambda: not s.broker.sessions)
        assert s.server.registries()["event"].names() == []
        assert s.broker.tree.count == 0
        await s.login("c", clean=False, present=False)


@pytest.mark.parametrize("options", [{"sessionExpiry": 0}, {"maxSessions": 0}])
async def test_sessions_that_are_not_kept_are_clean(options: dict[str, int]) -> None:
    async with serve_mqtt(options=options) as s:
        client = await s.login("c", clean=False)
        await client.subscribe(("t", 1))
        await s.login("c", clean=False, present=False)
        await s.gone(1)
        assert s.server.registries()["event"].names() == []


async def test_the_number_of_sessions_is_bounded() -> None:
    async with serve_mqtt(options={"maxSessions": 3}) as s:
        for i in range(6):
            client = await s.login(f"c{i}", clean=False)
            await client.subscribe((f"t{i}", 1))
            await client.disconnect()
            await s.gone()
        assert [client_id for _, client_id in s.broker.sessions] == ["c3", "c4", "c5"]
        assert sorted(s.server.registries()["event"].names()) == ["t3", "t4", "t5"]


async def test_a_kept_subscription_needs_todays_permission() -> None:
    for late in (False, True):
        async with serve_mqtt(permission=Rules) as s:
            rules, sender = rules_of(s), await s.login("s")
            client = await s.login("c", clean=False)
            await client.subscribe(("t", 1), ("u", 1))
            await away(s, client, 1)
            rules.deny(Topic.EVENT, EventAction.SUBSCRIBE, name="t")
            rules.deny(Topic.RECORD, RecordAction.SUBSCRIBE, name="t")
            if late:
                rules.gate = asyncio.Event()
            client = await s.login("c", clean=False, present=True)
            if late:
                rules.gate.set()  # type: ignore[union-attr]
                rules.gate = None
            await s.server.until(lambda: s.server.registries()["event"].names() == ["u"])
            await client.fence()
            sender.send(publish("t", b"1"), publish("u", b"2"))
            assert (await client.message()).topic == "u"
            await client.fence()


async def test_nothing_is_lost_while_the_permission_of_a_kept_subscription_is_decided() -> None:
    async with serve_mqtt(permission=Rules) as s:
        rules, sender = rules_of(s), await s.login("s")
        client = await s.login("c", clean=False)
        await client.subscribe(("t", 1))
        await away(s, client, 1)
        rules.gate = gate = asyncio.Event()
        client = await s.login("c", clean=False, present=True)
        rules.gate = None
        sender.send(publish("t", b"1"), publish("t", b"2"))
        assert [(await client.message()).payload for _ in range(2)] == [b"1", b"2"]
        gate.set()
        await s.server.until(lambda: s.server.registries()["record"].count("t") == 1)
        sender.send(publish("t", b"3"))
        assert (await client.message()).payload == b"3"
        await client.fence()


async def test_new_rules_end_the_subscriptions_of_those_who_are_away_too(tmp_path: Any) -> None:
    path = tmp_path / "permissions.json"
    path.write_text(json.dumps(RULES))
    permission = {"type": "config", "options": {"path": str(path), "revalidateOnReload": True}}
    async with serve_mqtt({"permission": permission}) as s:
        client, stays = await s.login("c", clean=False), await s.login("s")
        await client.subscribe(("t", 1), ("mine/A", 1))
        await stays.subscribe("t", "mine/A")
        await away(s, client, 1)
        rules = {
            **RULES,
            "event": {"*": {"publish": True, "subscribe": True}, "t": {"publish": True, "subscribe": False}},
            "record": {**RULES["record"], "t": {"read": False}},
        }
        path.write_text(json.dumps(rules))
        assert await s.server.server.reload_permissions()
        await s.server.until(lambda: s.server.registries()["event"].names() == ["mine/A"])
        await s.server.until(lambda: s.server.registries()["record"].names() == ["mine/A"])
        client = await s.login("c", clean=False, present=True)
        assert (await stays.subscribe("t", id=2)) == [128]
        await client.fence()
        assert s.server.log.errors() == []


async def test_unsubscribed_filters_are_not_kept() -> None:
    async with serve_mqtt() as s:
        sender, client = await s.login("s"), await s.login("c", clean=False)
        await client.subscribe(("t", 1), ("u/#", 1), ("t2", 1))
        client.send(unsubscribe("t", "u/#"))
        await client.receive()
        await client.subscribe(("t2", 0), id=2)
        await away(s, client, 1)
        assert s.server.registries()["event"].names() == []
        sender.send(publish("t", b"1"), publish("u/1", b"1"), publish("t2", b"1"))
        await sender.fence()
        client = await s.login("c", clean=False, present=True)
        sender.send(publish("t2", b"2"))
        assert (await client.message()).payload == b"2"


# --- slow readers


@pytest.mark.parametrize("more", [[], [("other", 1)]], ids=["plain", "personal"])
async def test_of_a_slow_reader_qos_0_is_dropped_and_it_goes_on_afterwards(more: list[Any]) -> None:
    async with serve_mqtt() as s:
        s.server.router.hub.max_outgoing_bytes = 200_000
        sender, slow = await s.login("s"), await s.open(receive_buffer=4096)
        slow.send(connect("slow"))
        await slow.receive()
        slow.send(subscribe("t", "r", *more))
        await slow.receive()
        payload = b"x" * 1000
        while not s.server.router.hub.stats()["dropped"]:
            sender.send(*[publish("t", payload)] * 500)
            await sender.fence()
        for i in range(50):
            sender.send(publish("r", b'{"n":%d}' % i, retain=True))
        await sender.fence()
        slow.send(PINGREQ)
        last = None
        while True:
            first, body = await slow.receive()
            if first == 0x30 and body[2:3] == b"r":
                last = body[3:]
            elif first == 0x30:
                assert body == b"\0\1t" + payload
            if last == b'{"n":49}':
                break
        assert s.endpoint.core.connections
        sender.send(publish("t", b"end"))
        while (await slow.receive())[1] != b"\0\1tend":
            pass
        assert s.server.log.find("CLOSED_SLOW_CONSUMER") == []


async def test_a_reader_that_never_acknowledges_is_cut_off_and_the_others_go_on() -> None:
    async with serve_mqtt(options={"maxInflight": 2, "maxQueuedMessages": 3}) as s:
        sender, bad, good = await s.login("s"), await s.login("b", clean=False), await s.login("g")
        await bad.subscribe(("t", 1))
        await good.subscribe(("t", 1))
        for i in range(20):
            sender.send(publish("t", b"%d" % i))
            assert (await good.message()).payload == b"%d" % i
        assert (await bad.message(acknowledge=False)).payload == b"0"
        await s.gone(2)
        assert len(s.server.log.find("CLOSED_SLOW_CONSUMER")) == 1
        bad = await s.login("b", clean=False, present=True)
        again = [await bad.message() for _ in range(5)]
        assert [message.dup for message in again] == [True, True, False, False, False]


# --- the end


async def test_a_shutdown_ends_the_connections_without_wills() -> None:
    async with serve_mqtt() as s:
        watcher = await watching(s)
        client, web = await s.login("c", will=WILL, clean=False), await s.login("d", will=WILL, web=True)
        await client.subscribe(("t", 1))
        await s.server.server.stop()
        for one in (watcher, client, web):
            await one.ended()
        assert s.server.log.errors() == []


async def test_everything_is_forgotten_when_everybody_has_gone() -> None:
    async with serve_mqtt() as s:
        clients = [await s.login(f"c{i}", will=WILL, web=i % 2 == 0) for i in range(6)]
        for client in clients:
            client.send(
                subscribe("a", ("b", 1), "c/+", ("#", 1)), publish("b", b'{"a":1}', retain=True, qos=1)
            )
            while (await client.receive())[0] != PUBACK:
                pass
        for client in clients:
            client.raw.reset()
        await s.server.until(
            lambda: not s.endpoint.core.connections and not s.server.endpoint.core.connections
        )
        s.server.assert_empty()
        assert s.broker.stats() | {"refused": 0, "dropped": 0} == {
            "sessions": 0,
            "away": 0,
            "refused": 0,
            "dropped": 0,
        }
        assert s.broker.tree.count == 0


async def test_the_port_is_told_when_it_is_taken() -> None:
    async with serve_mqtt() as s:
        with pytest.raises(
            Exception, match=f"Cannot listen on 127.0.0.1:{s.port}: the address is already in use"
        ):
            async with serve_mqtt(options={"port": s.port}):
                pass


async def test_two_endpoints_share_their_sessions() -> None:
    endpoints = [
        {"type": "ws-binary"},
        *[
            {"type": "mqtt", "options": {"host": "127.0.0.1", "port": 0, "urlPath": path}}
            for path in ("/mqtt", None)
        ],
    ]
    async with serve({"connectionEndpoints": endpoints}) as running:
        first, second = running.services.connection_endpoints[1:]
        assert first.broker is second.broker
        assert first.addresses != second.addresses


async def test_idle_connections_need_little_memory_and_stay_served() -> None:
    count = 5000
    async with serve_mqtt() as s:
        process = psutil.Process()
        loop = asyncio.get_running_loop()
        socks = []
        hello = connect("", user=None)

        async def one() -> None:
            sock = await raw_connection(loop, s.port)
            await loop.sock_sendall(sock, hello)
            assert await loop.sock_recv(sock, 4) == bytes.fromhex("20020000")
            socks.append(sock)

        for _ in range(100):
            await one()
        before = process.memory_info().rss
        for _ in range(count // 100):
            await asyncio.gather(*[one() for _ in range(100)])
        # The clients of this test are in the same process, with next to nothing but their sockets.
        each = (process.memory_info().rss - before) / count
        assert each < 12_000, f"{each:.0f} bytes for each connection"
        witness = await s.login("w")
        await witness.fence()
        for sock in socks:
            sock.close()
        await s.gone(1)
        assert len(s.broker.sessions) == 1


async def raw_connection(loop: asyncio.AbstractEventLoop, port: int) -> Any:
    sock = socket.socket()
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await loop.sock_connect(sock, ("127.0.0.1", port))
    return sock


async def test_a_disconnect_counts_at_once() -> None:
    async with serve_mqtt() as s:
        client = await s.login("c")
        client.send(publish("t"), DISCONNECT, publish("t"))
        await client.ended()
        await s.gone()


async def test_an_endpoint_that_nobody_asked_for_does_not_keep_the_server_from_starting() -> None:
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # in use is what it shall be
            other.bind(("0.0.0.0", 1883))
            other.listen()
        http = {"options": {"host": "127.0.0.1", "port": 0}}
        server = Server({"httpServer": http, "storage": {"type": "none"}, "showLogo": False})
        server.set("logger", Log)
        await server.start()
        try:
            (endpoint,) = [e for e in server.get_services().connection_endpoints if e.description == "mqtt"]
            assert endpoint.addresses == []
            lines = server.get_services().logger.find("INFO")  # type: ignore[attr-defined]
            assert "MQTT clients cannot connect: 0.0.0.0:1883 is already in use" in lines
        finally:
            await server.stop()


async def test_tls(tmp_path: Any) -> None:
    names = certificates.write(tmp_path)
    key, cert = [(tmp_path / names[part]).read_text() for part in ("key", "cert")]
    async with serve_mqtt(options={"ssl": {"key": key, "cert": cert}}) as s:
        context = ssl.create_default_context(cadata=cert)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", s.port, ssl=context, server_hostname="localhost"
        )
        client = MqttClient(Client(reader, writer))
        client.send(connect("c"), subscribe(("t", 1)))
        await client.expect(bytes.fromhex("20020000"), bytes.fromhex("9003000101"))
        client.send(publish("x", b"y" * 500_000, qos=1))
        await client.expect(ack(PUBACK, 1))
        other = await s.login("d", web=True)
        other.send(publish("t", b"z" * 500_000))
        assert (await client.message()).payload == b"z" * 500_000
        await client.disconnect()
