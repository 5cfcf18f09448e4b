"""An endpoint whose protocol is a plugin's: all but the form of the messages is as for the others."""

import json
from contextlib import asynccontextmanager

import pytest
from wire import CLOSE, TEXT, frame, serve

from dsfast import StartError
from dsfast._core.protocol import decode, encode
from dsfast.endpoints.own_protocol import OwnProtocolEndpoint
from dsfast.protocol import (
    AuthAction,
    ConnectionAction,
    EventAction,
    Message,
    ParserAction,
    RecordAction,
    Topic,
)

loops = ["uvloop"]

E = Topic.EVENT


class Lines(OwnProtocolEndpoint):
    """``topic|action|name|data``; names of a bulk request are separated by commas."""

    description = "lines"
    socket_type = "lines"

    def parse(self, frame):
        for line in frame.split("\n"):
            topic, action, name, data = line.split("|", 3)
            names = name.removeprefix("*").split(",") if name.startswith("*") else None
            yield Message(
                int(topic),
                int(action),
                name=None if names else name or None,
                names=names,
                data=data.encode() or None,
            )

    def encode(self, message):
        if message.topic == Topic.PRESENCE:
            return None
        if message.action == EventAction.EMIT and message.name == "unspeakable":
            raise ValueError("cannot be said")
        data = (message.data or b"").decode()
        return f"{message.topic}|{message.action}|{message.name or ''}|{data}"


class Binary(OwnProtocolEndpoint):
    """The same messages as the binary protocol, each with a frame of its name before it."""

    description = "binary"
    socket_type = "ownBinary"
    binary = True

    def parse(self, frame):
        return decode(frame)

    def encode(self, message):
        return [b"next", encode(message)] if message.topic == E else encode(message)


class LineClient:
    def __init__(self, client):
        self.client = client

    async def say(self, *lines):
        for line in lines:
            self.client.write(frame(line.encode(), TEXT))

    async def hear(self):
        opcode, payload = await self.client.frame()
        assert opcode == TEXT, (opcode, payload)
        return payload.decode()


@asynccontextmanager
async def lines(options=None, endpoint=Lines, **services):
    section = {"class": endpoint, "options": {"urlPath": "/lines", **(options or {})}}
    async with serve({"connectionEndpoints": [{"type": "ws-binary"}, section]}, **services) as s:
        yield s


async def login(s, name="L"):
    client = LineClient(await s.websocket("/lines"))
    await client.say(f"{Topic.CONNECTION}|{ConnectionAction.CHALLENGE}||")
    assert await client.hear() == f"{Topic.CONNECTION}|{ConnectionAction.ACCEPT}||"
    data = json.dumps({"username": name})
    await client.say(f"{Topic.AUTH}|{AuthAction.REQUEST}||{data}")
    assert (await client.hear()).startswith(f"{Topic.AUTH}|{AuthAction.AUTH_SUCCESSFUL}|")
    return client


async def test_clients_of_both_protocols_meet():
    async with lines() as s:
        ours, theirs = await login(s), await s.login("B")
        (socket,) = s.services.http_service.get_sockets_for_user("L")
        assert socket.socket_type == "lines"
        await ours.say(f"{E}|{EventAction.SUBSCRIBE}|*n|")
        assert await ours.hear() == f"{E}|{EventAction.SUBSCRIBE}||"
        theirs.message(E, EventAction.EMIT, name="n", data=b'{"a":1}')
        assert await ours.hear() == f'{E}|{EventAction.EMIT}|n|{{"a":1}}'
        theirs.message(E, EventAction.SUBSCRIBE, names=["m"], correlation_id="1")
        await theirs.expect(E, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True)
        # Two messages in one frame, in their order.
        await ours.say(f'{E}|{EventAction.EMIT}|m|1\n{E}|{EventAction.EMIT}|m|"é"')
        await theirs.expect(E, EventAction.EMIT, name="m", data=b"1")
        await theirs.expect(E, EventAction.EMIT, name="m", data='"é"'.encode())
        # A record with its version, and the answer that names it.
        await ours.say(f"{Topic.RECORD}|{RecordAction.READ}|r|")
        assert await ours.hear() == f"{Topic.RECORD}|{RecordAction.RECORD_NOT_FOUND}|r|"
        assert s.log.errors() == []


@pytest.mark.parametrize("nonsense", ["", "x", "4|x||", "4|2", "99999999999|1||", "4|2|\ud83d|", "-1|-1||"])
async def test_what_cannot_be_parsed_is_a_bad_message(nonsense):
    async with lines({"maxBadMessages": 3}) as s:
        client = await login(s)
        for _ in range(5):
            client.client.write(frame(nonsense.encode("utf-8", "surrogatepass"), TEXT))
        while True:
            opcode, payload = await client.client.frame()
            if opcode == CLOSE:
                break
            assert payload.decode().split("|")[0] in {f"{Topic.PARSER}", f"{E}"}
        await (await s.login()).fence()


async def test_what_cannot_be_encoded_is_not_sent_and_harms_nobody():
    async with lines() as s:
        ours, theirs = await login(s), await s.login("B")
        await ours.say(f"{E}|{EventAction.SUBSCRIBE}|*n,unspeakable|")
        await ours.hear()
        theirs.message(E, EventAction.SUBSCRIBE, names=["unspeakable"], correlation_id="1")
        await theirs.expect(E, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True)
        third = await s.login("C")
        third.message(E, EventAction.EMIT, name="unspeakable", data=b"1")
        third.message(E, EventAction.EMIT, name="n", data=b"2")
        await theirs.expect(E, EventAction.EMIT, name="unspeakable", data=b"1")
        assert await ours.hear() == f"{E}|{EventAction.EMIT}|n|2"
        assert any("cannot be said" in text for _, _, text in s.log.lines)


async def test_binary_frames_and_several_of_them():
    async with lines(endpoint=Binary) as s:
        client = await s.login("A", path="/lines")
        client.message(E, EventAction.SUBSCRIBE, names=["n"])
        assert await client.payload() == b"next"
        assert await client.payload() == encode(Message(E, EventAction.SUBSCRIBE, is_ack=True))


async def test_a_frame_of_the_wrong_type_is_a_fault_of_the_plugin():
    class Wrong(Lines):
        def encode(self, message):
            line = super().encode(message)
            return line.encode() if message.topic == E else line

    async with lines(endpoint=Wrong) as s:
        client = await login(s)
        await client.say(f"{E}|{EventAction.SUBSCRIBE}|*n|", f"{Topic.RPC}|1||")
        assert (await client.hear()).startswith(f"{Topic.PARSER}|{ParserAction.UNKNOWN_ACTION}|")
        assert any("a frame is bytes" in text for _, _, text in s.log.lines)


async def test_an_encoder_that_sends_does_not_mix_messages_up():
    class Sending(Lines):
        def encode(self, message):
            if message.topic == E and message.action == EventAction.EMIT:
                (other,) = self.services.http_service.get_sockets_for_user("secret")
                other.send(Message(E, EventAction.EMIT, name="secret", data=b"1"))
            return super().encode(message)

    async with lines(endpoint=Sending) as s:
        ours, theirs, secret = await login(s), await s.login("B"), await s.login("secret")
        await ours.say(f"{E}|{EventAction.SUBSCRIBE}|*n|")
        await ours.hear()
        theirs.message(E, EventAction.EMIT, name="n", data=b"2")
        await secret.expect(E, EventAction.EMIT, name="secret", data=b"1")
        await ours.say(f"{Topic.RPC}|1||")
        assert (await ours.hear()).startswith(f"{Topic.PARSER}|")  # the event was lost, the secret kept
        assert any("encode must not send" in text for _, _, text in s.log.lines)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"heartbeatInterval": "often"}, "options: Expected `int`, got `str`"),
        ({"urlPath": "/deepstream"}, "/deepstream"),
    ],
)
async def test_options_that_do_not_fit(options, text):
    with pytest.raises(StartError, match=text):
        async with lines(options):
            pass


async def test_its_own_options_and_its_missing_methods():
    async with lines({"colour": "red"}) as s:
        (endpoint,) = [e for e in s.services.connection_endpoints if isinstance(e, Lines)]
        assert endpoint.own_options["colour"] == "red"
    with pytest.raises(StartError, match="connection_endpoint needs to implement encode, parse"):
        async with lines(endpoint=OwnProtocolEndpoint):
            pass
