"""Clients of every protocol on one server: they share events, records, calls, presence and listening."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from http_kit import Api
from mqtt_client import MqttClient, MqttRunning, publish
from test_json_endpoint import JsonClient
from test_json_endpoint import login as json_login
from test_text_endpoint import TextClient
from test_text_endpoint import login as text_login
from wire import Client, Users, serve

from dsfast._core.protocol import EventAction, PresenceAction, RecordAction, RpcAction, Topic
from dsfast._core.text_protocol import to_json


class Everybody:
    """A server and a client of each protocol."""

    def __init__(self, binary: Client, text: TextClient, js: JsonClient, mqtt: MqttClient, http: Api) -> None:
        self.binary, self.text, self.json, self.mqtt, self.http = binary, text, js, mqtt, http


@asynccontextmanager
async def serve_everybody() -> AsyncIterator[Everybody]:
    endpoints: list[dict[str, Any]] = [
        *({"type": kind} for kind in ("ws-binary", "ws-text", "ws-json", "http")),
        {"type": "mqtt", "options": {"host": "127.0.0.1", "port": 0}},
    ]
    async with serve({"connectionEndpoints": endpoints}, authentication=Users) as s:
        yield Everybody(
            await s.login("binary"),
            await text_login(s, "text"),
            await json_login(s, "json"),
            await MqttRunning(s).login(user="mqtt"),
            Api(await s.connect()),
        )


@pytest.mark.parametrize("value", [None, 0, False, "", "x\x1e", 1.5, [1, {"a": None}]])
async def test_an_event_reaches_everybody_from_everybody(value: Any) -> None:
    data = json.dumps(value).encode()
    async with serve_everybody() as e:
        e.binary.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await e.binary.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        e.text.send("E|S|e")
        await e.text.expect("E|A|S|e")
        e.json.send({"topic": 4, "action": 3, "names": ["e"], "correlationId": "1"})
        await e.json.receive()
        await e.mqtt.subscribe("e")

        async def all_but(sender: str) -> None:
            if sender != "binary":
                assert json.loads((await e.binary.receive()).data) == value
            if sender != "text":
                line = await e.text.receive()
                assert line.startswith("E|EVT|e|")
                assert json.loads(to_json(line[8:].encode())) == value
            if sender != "json":
                assert (await e.json.receive())["parsedData"] == value
            if sender != "mqtt":
                assert json.loads((await e.mqtt.message()).payload) == value

        e.binary.message(Topic.EVENT, EventAction.EMIT, name="e", data=data)
        await all_but("binary")
        e.text.send(f"E|EVT|e|O{data.decode()}")
        await all_but("text")
        e.json.send({"topic": 4, "action": 2, "name": "e", "parsedData": value})
        await all_but("json")
        element = {"topic": "event", "action": "emit", "eventName": "e", "data": value}
        assert await e.http.one(element) == {"success": True}
        await all_but("http")
        if isinstance(value, list):  # what is no JSON text would be a string
            e.mqtt.send(publish("e", data))
            await all_but("mqtt")


async def test_everybody_changes_one_record() -> None:
    async with serve_everybody() as e:
        e.binary.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1")
        for _ in range(2):
            await e.binary.receive()
        e.text.send("R|CR|r")
        await e.text.expect("R|A|S|r", "R|R|r|0|{}")
        e.json.send({"topic": 5, "action": 22, "names": ["r"], "correlationId": "1"})
        for _ in range(2):
            await e.json.receive()

        e.binary.message(Topic.RECORD, RecordAction.PATCH, name="r", version=1, path="binary", data=b"null")
        await e.text.expect("R|P|r|1|binary|L")
        await e.json.receive()
        e.text.send('R|P|r|2|text|S"|{"writeSuccess":true}')
        await e.text.expect("R|WA|r|[2]|L")
        assert (await e.binary.receive()).data == b'"\\""'
        assert (await e.json.receive())["parsedData"] == '"'
        e.json.send({"topic": 5, "action": 19, "name": "r", "version": 3, "path": "json", "parsedData": 0})
        await e.text.expect("R|P|r|3|json|N0")
        assert (await e.binary.receive()).version == 3
        write = {"topic": "record", "action": "write", "recordName": "r", "path": "http", "data": False}
        assert (await e.http.one(write))["success"]
        await e.text.expect("R|P|r|4|http|F")
        assert (await e.json.receive())["parsedData"] is False
        assert (await e.binary.receive()).data == b"false"
        read = {"topic": "record", "action": "read", "recordName": "r"}
        whole = {"binary": None, "text": '"', "json": 0, "http": False}
        assert await e.http.one(read) == {"success": True, "version": 4, "data": whole}
        e.mqtt.send(publish("r", b'{"by":"mqtt"}', qos=1, retain=True))
        await e.text.expect('R|U|r|5|{"by":"mqtt"}')
        assert (await e.json.receive())["parsedData"] == {"by": "mqtt"}


async def test_a_call_goes_to_a_provider_of_any_protocol() -> None:
    async with serve_everybody() as e:
        e.text.send("P|S|text")
        await e.text.expect("P|A|S|text")
        e.json.send({"topic": 6, "action": 8, "names": ["json"], "correlationId": "1"})
        await e.json.receive()
        # Text to JSON.
        e.text.send("P|REQ|json|k|N1")
        request = await e.json.receive()
        assert (request["name"], request["parsedData"]) == ("json", 1)
        answer = {"topic": 6, "name": "json", "correlationId": request["correlationId"]}
        e.json.send({**answer, "action": 4}, {**answer, "action": 5, "parsedData": {"a": 1}})
        await e.text.expect("P|A|REQ|json|k", 'P|RES|json|k|O{"a":1}')
        # Binary to text, with an id that no text can carry, and a very long one.
        for id in ("x\x1f\x1e", "y" * 60_000):
            e.binary.message(Topic.RPC, RpcAction.REQUEST, name="text", correlation_id=id)
            line = await e.text.receive()
            assert line.startswith("P|REQ|text|") and line.endswith("|U")
            sent = line.split("|")[3]
            e.text.send(f"P|A|REQ|text|{sent}", f"P|RES|text|{sent}|Sdone")
            await e.binary.expect(Topic.RPC, RpcAction.ACCEPT, name="text", correlation_id=id)
            await e.binary.expect(
                Topic.RPC, RpcAction.RESPONSE, name="text", correlation_id=id, data=b'"done"'
            )
        # HTTP to text.
        e.http.send(
            "POST",
            "/api",
            json.dumps(
                {"body": [{"topic": "rpc", "action": "make", "rpcName": "text", "data": [1]}]}
            ).encode(),
            {"Content-Type": "application/json"},
        )
        line = await e.text.receive()
        sent = line.split("|")[3]
        assert line.endswith("|O[1]")
        e.text.send(f"P|A|REQ|text|{sent}", f"P|E|sorry|text|{sent}")
        response = await e.http.client.response()
        assert b"sorry" in response.body


async def test_presence_and_listening() -> None:
    async with serve_everybody() as e:
        e.text.send("U|Q|Q")
        assert sorted((await e.text.receive()).split("|")[2:]) == ["binary", "json", "mqtt"]
        e.json.send({"topic": 7, "action": 2})
        assert sorted((await e.json.receive())["names"]) == ["binary", "mqtt", "text"]
        e.binary.message(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL)
        await e.binary.expect(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL)
        e.text.raw.reset()
        await e.binary.expect(Topic.PRESENCE, PresenceAction.PRESENCE_LEAVE_ALL, name="text")
        # The one listens for what the other wants.
        e.json.send({"topic": 4, "action": 5, "name": "^live/"})
        assert (await e.json.receive())["isAck"] is True
        await e.mqtt.subscribe("live/1")
        assert await e.json.receive() == {
            "topic": 4,
            "action": 11,
            "name": "^live/",
            "subscription": "live/1",
        }
