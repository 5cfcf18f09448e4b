"""The ws-json endpoint (protocol-json.md): its messages, bad input, and company of other protocols."""

import json
from contextlib import asynccontextmanager
from typing import Any

import pytest
from wire import BINARY, CLOSE, TEXT, Client, frame, serve

from dsfast._core.protocol import EventAction, RecordAction, Topic

CHALLENGE = {"topic": 2, "action": 5, "url": "ws://localhost/deepstream-json", "isAck": False}
ENDPOINTS = [{"type": "ws-binary"}, {"type": "ws-json"}]


class JsonClient:
    """Speaks JSON over a :class:`wire.Client`."""

    def __init__(self, client: Client) -> None:
        self.raw = client

    def send(self, *messages: Any) -> None:
        for message in messages:
            text = message if isinstance(message, str) else json.dumps(message)
            self.raw.write(frame(text.encode(), TEXT))

    async def receive(self) -> Any:
        opcode, payload = await self.raw.frame()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    async def closed(self) -> int:
        opcode, payload = await self.raw.frame()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big")


@asynccontextmanager
async def serve_both(config: dict[str, Any] | None = None):
    async with serve({"connectionEndpoints": ENDPOINTS, **(config or {})}) as s:
        yield s


async def connect(s: Any) -> JsonClient:
    return JsonClient(await s.websocket("/deepstream-json"))


async def login(s: Any, user: str = "A") -> JsonClient:
    client = await connect(s)
    client.send(CHALLENGE)
    assert await client.receive() == {"topic": 2, "action": 4}
    client.send({"topic": 3, "action": 2, "parsedData": {"username": user}, "isAck": False})
    assert await client.receive() == {"topic": 3, "action": 3}
    return client


async def test_the_sample_session() -> None:
    async with serve_both() as s:
        a, b = await login(s), await login(s, "B")
        a.send({"topic": 4, "action": 3, "names": ["e"], "correlationId": "0", "isAck": False})
        assert await a.receive() == {"topic": 4, "action": 3, "correlationId": "0", "isAck": True}
        b.send({"topic": 4, "action": 2, "name": "e", "parsedData": {"x": 1}, "data": '{"x":1}'})
        assert await a.receive() == {"topic": 4, "action": 2, "name": "e", "parsedData": {"x": 1}}
        a.send({"topic": 5, "action": 23, "names": ["r"], "correlationId": "0"})
        assert await a.receive() == {
            "topic": 5,
            "action": 23,
            "names": ["r"],
            "correlationId": "0",
            "isAck": True,
        }
        assert await a.receive() == {"topic": 5, "action": 4, "name": "r", "version": 0, "parsedData": {}}
        a.send(
            {
                "topic": 5,
                "version": 1.0,
                "name": "r",
                "action": 18,
                "parsedData": {"a": 1},
                "correlationId": "1",
                "isWriteAck": True,
                "data": '{"a":1}',
            }
        )
        assert await a.receive() == {
            "topic": 5,
            "action": 14,
            "name": "r",
            "correlationId": "1",
            "isWriteAck": True,
        }
        a.send({"topic": 2, "action": 2})
        assert await a.receive() == {"topic": 2, "action": 3}


@pytest.mark.parametrize("value", [None, 0, False, "", 1.5, "é\u2028", [1, {"a": None}]])
async def test_json_and_binary_clients_share_events(value: Any) -> None:
    async with serve_both() as s:
        a, b = await login(s), await s.login("B")
        b.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await b.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        a.send({"topic": 4, "action": 3, "names": ["e"], "correlationId": "0"})
        await a.receive()
        a.send({"topic": 4, "action": 2, "name": "e", "parsedData": value})
        assert json.loads((await b.receive()).data) == value
        b.message(Topic.EVENT, EventAction.EMIT, name="e", data=json.dumps(value).encode())
        assert await a.receive() == {"topic": 4, "action": 2, "name": "e", "parsedData": value}
        b.message(Topic.EVENT, EventAction.EMIT, name="e")
        assert await a.receive() == {"topic": 4, "action": 2, "name": "e"}


async def test_the_text_in_data_wins_over_the_parsed_value() -> None:
    async with serve_both() as s:
        a, b = await login(s), await login(s, "B")
        b.send({"topic": 4, "action": 3, "names": ["e"], "correlationId": "0"})
        await b.receive()
        a.send({"topic": 4, "action": 2, "name": "e", "data": "1", "parsedData": 2})
        assert (await b.receive())["parsedData"] == 1


async def test_both_see_each_change_of_a_record_and_an_erased_path() -> None:
    async with serve_both() as s:
        a, b = await login(s), await s.login("B")
        b.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1")
        for _ in range(2):
            await b.receive()
        a.send({"topic": 5, "action": 22, "names": ["r"], "correlationId": "0"})
        for _ in range(2):
            await a.receive()
        a.send({"topic": 5, "action": 19, "name": "r", "version": 1, "path": "n", "parsedData": None})
        update = await b.receive()
        assert (update.action, update.path, update.data) == (RecordAction.PATCH, "n", b"null")
        b.message(Topic.RECORD, RecordAction.ERASE, name="r", version=2, path="n")
        assert await a.receive() == {"topic": 5, "action": 19, "name": "r", "version": 2, "path": "n"}


@pytest.mark.parametrize("text", ["null", "5", "[]", '"x"', "{", '{"topic":2} x', "", "NaN"])
async def test_what_is_no_object_closes_the_connection(text: str) -> None:
    async with serve_both() as s:
        client = await connect(s)
        client.send(text)
        assert await client.closed() == 1007


async def test_binary_frames_and_invalid_utf8_close_the_connection() -> None:
    async with serve_both() as s:
        client = await connect(s)
        client.raw.write(frame(b"{}", BINARY))
        assert await client.closed() == 1003
        client = await connect(s)
        client.raw.write(frame(b'{"a":"\xff"}', TEXT))
        assert await client.closed() == 1007


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ({"topic": 77, "action": 1}, {"topic": 1, "action": 1, "originalTopic": 77}),
        ({"topic": "4", "action": 2}, {"topic": 1, "action": 1}),
        ({"topic": 4, "action": 77}, {"topic": 1, "action": 2, "originalTopic": 4, "originalAction": 77}),
        (
            {"topic": 5, "action": 25, "correlationId": 7},
            {"topic": 5, "action": 116, "originalAction": 25, "correlationId": "7", "isError": True},
        ),
        (
            {"topic": 4, "action": 3, "names": "abc", "correlationId": "x"},
            {"topic": 4, "action": 105, "originalAction": 3, "correlationId": "x", "isError": True},
        ),
        (
            {"topic": 7, "action": 10, "names": [1]},
            {"topic": 7, "action": 100, "originalAction": 10, "isError": True},
        ),
        ({"topic": 6, "action": 8}, {"topic": 6, "action": 108, "originalAction": 8, "isError": True}),
        (
            {"topic": 4, "action": 2, "name": "e", "data": "{"},
            {"topic": 4, "action": 105, "originalAction": 2, "name": "e", "isError": True},
        ),
        (
            {"topic": 4, "action": 2, "name": "\ud800"},
            {"topic": 4, "action": 105, "originalAction": 2, "isError": True},
        ),
        (
            {"topic": 5, "action": 18, "name": "r", "version": 1.5, "parsedData": {}},
            {"topic": 5, "action": 116, "originalAction": 18, "name": "r", "isError": True},
        ),
        (
            {"topic": 5, "action": 18, "name": "r", "version": 1, "isWriteAck": 1, "correlationId": "c"},
            {
                "topic": 5,
                "action": 116,
                "originalAction": 18,
                "name": "r",
                "correlationId": "c",
                "isError": True,
            },
        ),
        (
            {"topic": 5, "action": 18, "name": "r", "version": 1, "data": {}, "isWriteAck": True},
            {
                "topic": 5,
                "action": 116,
                "originalAction": 18,
                "name": "r",
                "isWriteAck": True,
                "isError": True,
            },
        ),
        (
            {"topic": 6, "action": 2, "name": 5, "correlationId": 1},
            {"topic": 6, "action": 108, "originalAction": 2, "correlationId": "1", "isError": True},
        ),
        (
            {"topic": 4, "action": 2.5, "name": "e"},
            {"topic": 1, "action": 2, "originalTopic": 4, "originalAction": 0},
        ),
        ({"topic": 7, "action": 2}, {"topic": 7, "action": 3, "names": []}),
        (
            {"topic": 5, "action": 18, "name": "r", "version": 2**40, "parsedData": {}},
            {"topic": 5, "action": 116, "originalAction": 18, "name": "r", "isError": True},
        ),
    ],
)
async def test_bad_input_is_answered_and_hurts_nobody(sent: Any, answer: Any) -> None:
    async with serve_both() as s:
        client = await login(s)
        client.send(sent)
        assert await client.receive() == answer
        client.send({"topic": 2, "action": 2})
        assert await client.receive() == {"topic": 2, "action": 3}


async def test_the_handshake_says_what_it_refused() -> None:
    async with serve_both() as s:
        client = await connect(s)
        client.send({"topic": 3, "action": 2, "parsedData": {}})
        assert await client.receive() == {"topic": 2, "action": 101, "originalTopic": 3, "originalAction": 2}
        client.send(CHALLENGE)
        await client.receive()
        client.send({"topic": 4, "action": 2, "name": "e"})
        assert await client.receive() == {"topic": 3, "action": 101, "originalTopic": 4, "originalAction": 2}
        client.send({"topic": 3, "action": 2, "parsedData": 5})
        assert await client.receive() == {"topic": 3, "action": 102, "originalAction": 2}
        await client.closed()


async def test_fields_of_other_messages_are_not_passed_on() -> None:
    async with serve_both() as s:
        a, b = await login(s), await s.login("B")
        b.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await b.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        a.send(
            {
                "topic": 4,
                "action": 2,
                "name": "e",
                "parsedData": 1,
                "isError": True,
                "requestorName": "root",
                "isWriteAck": True,
                "constructor": 1,
                "names": ["x"],
            }
        )
        await b.expect(Topic.EVENT, EventAction.EMIT, name="e", data=b"1")
