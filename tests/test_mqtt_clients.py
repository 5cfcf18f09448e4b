"""MQTT client libraries and programs as they come: paho-mqtt, aiomqtt, mosquitto_pub and mosquitto_sub."""

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mqtt_client import MqttRunning, serve_mqtt
from wire import TIMEOUT, Users

from dsfast._core.protocol import RecordAction, Topic
from dsfast.plugin import AuthResult

aiomqtt = pytest.importorskip("aiomqtt")
paho = pytest.importorskip("paho.mqtt.client")

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None, reason="Debian's mosquitto-clients are not installed"
)


class Passwords(Users):
    """Everybody but those whose password is wrong."""

    async def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:
        if auth_data.get("password") == "wrong":
            return AuthResult(False)
        return await super().is_valid_user(connection_data, auth_data)


@pytest.fixture
async def s() -> AsyncIterator[MqttRunning]:
    async with serve_mqtt(authentication=Passwords) as running:
        yield running


class Paho:
    """A paho client; its callbacks run in its own thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client_id: str, **options: Any) -> None:
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, **options)
        self.client.username_pw_set("A", "secret")
        self._loop = loop
        self._happened: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.client.on_connect = lambda _, __, flags, code, ___: self._tell(
            "connect", flags.session_present, code.is_failure
        )
        self.client.on_message = lambda _, __, m: self._tell("message", m.topic, m.payload, m.qos, m.retain)
        self.client.on_subscribe = lambda _, __, ___, codes, ____: self._tell(
            "subscribe", [code.value for code in codes]
        )
        self.client.on_unsubscribe = lambda *_: self._tell("unsubscribe")
        self.client.on_publish = lambda *_: self._tell("publish")
        self.client.on_disconnect = lambda *_: self._tell("disconnect")

    def _tell(self, *event: Any) -> None:
        self._loop.call_soon_threadsafe(self._happened.put_nowait, event)

    async def next(self) -> tuple[Any, ...]:
        """What happened next."""
        async with asyncio.timeout(TIMEOUT):
            return await self._happened.get()

    async def connect(self, port: int, present: bool = False) -> None:
        await asyncio.to_thread(self.client.connect, "127.0.0.1", port)
        self.client.loop_start()
        assert await self.next() == ("connect", present, False)

    async def leave(self) -> None:
        self.client.disconnect()
        while await self.next() != ("disconnect",):
            pass
        await asyncio.to_thread(self.client.loop_stop)


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
@pytest.mark.parametrize("level", [3, 4])
async def test_paho(s: MqttRunning, transport: str, level: int) -> None:
    loop = asyncio.get_running_loop()
    port = s.port if transport == "tcp" else s.server.port
    a = Paho(loop, "a", transport=transport, protocol=level)
    b = Paho(loop, "b", transport=transport, protocol=level)
    for one in (a, b):
        if transport == "websockets":
            one.client.ws_set_options(path="/mqtt")
        await one.connect(port)
    a.client.subscribe([("t/1", 1), ("w/+", 0), ("r", 2)])
    assert await a.next() == ("subscribe", [1, 0, 1])
    for qos in (0, 1, 2):
        b.client.publish("t/1", b"hello %d" % qos, qos=qos)
        assert await b.next() == ("publish",)
        assert await a.next() == ("message", "t/1", b"hello %d" % qos, 1, False)
    b.client.publish("w/x", b"\xff")
    assert await a.next() == ("message", "w/x", b"\xff", 0, False)
    await b.next()
    b.client.publish("r", '{"a":1}', qos=1, retain=True)
    assert await a.next() == ("message", "r", b'{"a":1}', 1, False)
    await b.next()
    b.client.subscribe("r")
    assert await b.next() == ("message", "r", b'{"a":1}', 0, True)
    assert await b.next() == ("subscribe", [0])
    a.client.unsubscribe("t/1")
    assert await a.next() == ("unsubscribe",)
    await a.leave()
    await b.leave()
    assert threading.active_count() < 20
    assert s.server.log.errors() == []


async def test_a_kept_session_with_paho(s: MqttRunning) -> None:
    loop = asyncio.get_running_loop()
    a, b = Paho(loop, "a", clean_session=False), Paho(loop, "b")
    await a.connect(s.port)
    await b.connect(s.port)
    a.client.subscribe("t", 1)
    await a.next()
    await a.leave()
    b.client.publish("t", b"meanwhile", qos=1)
    assert await b.next() == ("publish",)
    again = Paho(loop, "a", clean_session=False)
    await again.connect(s.port, present=True)
    assert await again.next() == ("message", "t", b"meanwhile", 1, False)
    await again.leave()
    await b.leave()


async def test_aiomqtt(s: MqttRunning) -> None:
    will = aiomqtt.Will("gone", b"a", 1)
    async with aiomqtt.Client("127.0.0.1", s.port, username="V", identifier="v") as v:
        await v.subscribe("t/#")
        await v.subscribe("gone", qos=1)
        async with aiomqtt.Client("127.0.0.1", s.port, username="A", identifier="a", will=will) as a:
            for i in range(100):
                await a.publish("t/x", json.dumps({"n": i}), qos=i % 3)
            got = []
            async with asyncio.timeout(TIMEOUT):
                async for message in v.messages:
                    got.append(json.loads(message.payload)["n"])
                    if len(got) == 100:
                        break
            assert got == list(range(100))
        # It has left with a DISCONNECT: the next message is not its will.
        async with aiomqtt.Client("127.0.0.1", s.port, username="B") as b:
            await b.publish("t/end", b"end")
        assert str((await anext(aiter(v.messages))).topic) == "t/end"
    with pytest.raises(aiomqtt.MqttError, match="Not authorized"):
        async with aiomqtt.Client("127.0.0.1", s.port, username="A", password="wrong"):
            pass


async def run(*command: str, text: str = "") -> str:
    """Output of a program that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(TIMEOUT):
        out, _ = await process.communicate(text.encode())
    assert process.returncode == 0, out
    return out.decode()


@needs_mosquitto
async def test_mosquitto_pub_and_sub(s: MqttRunning) -> None:
    common = ["-h", "127.0.0.1", "-p", str(s.port), "-u", "A", "-P", "x", "-V", "mqttv311"]
    v = await s.server.login("V")
    await run("mosquitto_pub", *common, "-t", "r", "-m", '{"on": true}', "-q", "1", "-r")
    assert await run("mosquitto_sub", *common, "-t", "r", "-C", "1") == '{"on": true}\n'
    assert await run("mosquitto_sub", *common, "-t", "r", "-C", "1", "-F", "%t %q %r", "-q", "1") == "r 1 1\n"
    listening = asyncio.ensure_future(
        run("mosquitto_sub", *common, "-R", "-t", "lines/+", "-t", "r", "-q", "1", "-C", "4", "-v")
    )
    await s.server.until(lambda: s.broker.tree.count == 1)
    await run("mosquitto_pub", *common, "-t", "lines/1", "-q", "2", "-l", text="one\ntwo\nthree\n")
    v.message(Topic.RECORD, RecordAction.CREATEANDPATCH, name="r", path="on", data=b"false", version=-1)
    assert await listening == 'lines/1 one\nlines/1 two\nlines/1 three\nr {"on":false}\n'
    await run("mosquitto_pub", *common, "-t", "r", "-n", "-r", "-q", "1")
    v.message(Topic.RECORD, RecordAction.HEAD, name="r")
    await v.expect(Topic.RECORD, RecordAction.HEAD_RESPONSE, name="r", version=-1)
    assert s.server.log.errors() == []
