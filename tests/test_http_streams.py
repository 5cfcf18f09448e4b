"""Records and events as server-sent events (docs/http.md)."""

import asyncio
import json
from contextlib import suppress
from time import time
from typing import Any

import pytest
from http_kit import Api, serve_http, text
from record_client import GatedCache
from wire import TIMEOUT, Client

from dsfast._core.protocol import EventAction, Message, RecordAction, Topic
from dsfast.plugin import Authentication, AuthResult, Permission

loops = ["asyncio", "uvloop"]


class Stream:
    """Reads the events of one stream."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    async def open(cls, s: Any, path: str, receive_buffer: int | None = None, **headers: str) -> "Stream":
        client = await s.connect(receive_buffer=receive_buffer)
        Api(client).send("GET", path, None, {k.replace("_", "-"): v for k, v in headers.items()})
        response = await client.response()
        assert response.status == 200, response.body
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["connection"] == "close"
        return cls(client)

    async def event(self, *, comments: bool = False) -> dict[str, str]:
        """The fields of the next event."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                lines = (await self.client.reader.readuntil(b"\n\n")).decode()[:-2].split("\n")
                if comments and lines == [":"]:
                    return {}
                if lines != [":"]:
                    break
        fields = dict(line.partition(":")[::2] for line in lines)
        return {name: value.removeprefix(" ") for name, value in fields.items()}


def record(action: str, name: str = "r", **fields: Any) -> dict[str, Any]:
    return {"topic": "record", "action": action, "recordName": name, **fields}


def emit(data: Any) -> dict[str, Any]:
    return {"topic": "event", "action": "emit", "eventName": "e", "data": data}


async def test_a_record() -> None:
    async with serve_http() as (s, api):
        await api.one(record("write", data={"a": 1}))
        stream = await Stream.open(s, "/api/stream/record/r")
        assert await stream.event() == {"id": "1", "data": '{"a":1}'}
        await api.one(record("write", path="b", data=[1]))
        assert await stream.event() == {"id": "2", "data": '{"a":1,"b":[1]}'}
        a = await s.login("A")
        a.message(Topic.RECORD, RecordAction.UPDATE, name="r", version=3, data=b'{\n "a":\r2}')
        assert await stream.event() == {"id": "3", "data": '{  "a": 2}'}
        a.message(Topic.RECORD, RecordAction.ERASE, name="r", version=4, path="a")
        assert await stream.event() == {"id": "4", "data": "{}"}
        await api.batch(record("delete"), record("write", data={"new": 1}))
        assert await stream.event() == {"event": "deleted", "id": "", "data": "null"}
        assert await stream.event() == {"id": "1", "data": '{"new":1}'}
        await api.one(record("write", data=[1]))
        assert await stream.event() == {"id": "2", "data": "[1]"}


async def test_a_record_that_is_not_there_yet() -> None:
    async with serve_http() as (s, api):
        stream = await Stream.open(s, "/api/stream/record/a%2Fb/c")
        assert await stream.event() == {"event": "deleted", "id": "", "data": "null"}
        await api.one(record("write", "a/b/c", data={}))
        assert await stream.event() == {"id": "1", "data": "{}"}
        await api.one(record("delete", "a/b/c"))
        assert (await stream.event())["event"] == "deleted"
        await api.one(record("write", "a/b/c", data={"a": 1}))
        assert await stream.event() == {"id": "1", "data": '{"a":1}'}


async def test_a_stream_goes_on_where_it_ended() -> None:
    async with serve_http() as (s, api):
        await api.batch(record("write", data={"n": 1}), record("write", data={"n": 2}))
        current = await Stream.open(s, "/api/stream/record/r", Last_Event_ID="2")
        behind = await Stream.open(s, "/api/stream/record/r", Last_Event_ID="1")
        nonsense = await Stream.open(s, "/api/stream/record/r", Last_Event_ID="2" * 5000)
        assert await behind.event() == {"id": "2", "data": '{"n":2}'}
        assert await nonsense.event() == {"id": "2", "data": '{"n":2}'}
        await api.one(record("write", data={"n": 3}))
        for stream in (current, behind, nonsense):
            assert await stream.event() == {"id": "3", "data": '{"n":3}'}


async def test_hot_records_have_no_version_to_go_on_from() -> None:
    async with serve_http({"record": {"storageHotPathPrefixes": ["hot"]}}) as (s, api):
        await api.one(record("write", "hot/r", data={"n": 1}))
        stream = await Stream.open(s, "/api/stream/record/hot/r")
        assert await stream.event() == {"id": "", "data": '{"n":1}'}
        await api.one(record("write", "hot/r", data={"n": 2}))
        assert await stream.event() == {"id": "", "data": '{"n":2}'}


async def test_patches_of_records_that_only_a_cache_plugin_has() -> None:
    async with serve_http(cache=GatedCache) as (s, api):
        await api.one(record("write", data={"n": 1}))
        stream = await Stream.open(s, "/api/stream/record/r")
        assert await stream.event() == {"id": "1", "data": '{"n":1}'}
        await api.one(record("write", path="m", data=2))
        assert await stream.event() == {"id": "2", "data": '{"n":1,"m":2}'}


async def test_an_event() -> None:
    async with serve_http() as (s, api):
        streams = [await Stream.open(s, "/api/stream/event/e") for _ in range(3)]
        a = await s.login("A")
        a.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await a.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        silent = {"topic": "event", "action": "emit", "eventName": "e"}
        await api.batch(emit({"x": "a\nb"}), silent, {**silent, "eventName": "other"}, emit("é"))
        for stream in streams:
            assert await stream.event() == {"data": '{"x":"a\\nb"}'}
            assert await stream.event() == {"data": "null"}
            assert json.loads((await stream.event())["data"]) == "é"
        assert [(await a.receive()).payload() for _ in range(3)] == [{"x": "a\nb"}, None, "é"]
        for stream in streams:
            stream.client.writer.close()
        await s.until(lambda: s.registries()["event"].count("e") == 1)
        assert not s.log.errors()


async def test_a_stream_that_has_nothing_to_say_shows_that_it_lives() -> None:
    async with serve_http(options={"streamHeartbeatInterval": 20}) as (s, api):
        stream = await Stream.open(s, "/api/stream/event/e")
        for _ in range(5):  # longer than a websocket client may be silent
            assert await stream.event(comments=True) == {}
        await api.one(emit(1))
        assert await stream.event() == {"data": "1"}


async def test_head_and_wrong_paths() -> None:
    async with serve_http() as (s, api):
        response = await api.request("HEAD", "/api/stream/event/e")
        assert (response.status, response.headers["content-type"]) == (
            200,
            "text/event-stream; charset=utf-8",
        )
        for path in ("/api/stream/event/", "/api/stream/event", "/api/stream/rpc/x", "/api/stream"):
            assert (await api.get(path)).status in (400, 404)
        assert s.registries()["event"].names() == []


class Rules(Permission):
    """Denies some names; the rules can change."""

    description = "rules"

    def init(self) -> None:
        self.denied = {"no"}
        self.changed: Any = None

    def can_perform_action(self, socket: Any, message: Any) -> bool:
        return message.name not in self.denied and socket.server_data != "nothing"

    async def reload(self) -> bool:
        return True

    def on_change(self, callback: Any) -> None:
        self.changed = callback


class Cookies(Authentication):
    """Takes users from a cookie or a token; the login of "short" ends soon."""

    description = "cookies"

    async def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:
        token = auth_data.get("token") or connection_data["headers"].get("cookie", "").removeprefix("user=")
        if not token:
            return None
        expires = time() + 0.2 if token == "short" else None
        return AuthResult(True, id=token, server_data="nothing" if token == "X" else None, expires=expires)


async def test_who_may_listen() -> None:
    async with serve_http(permission=Rules, authentication=Cookies) as (s, api):
        for path in ("/api/stream/record/no", "/api/stream/event/no"):
            response = await api.get(path, Cookie="user=A")
            refusal = 'Message denied. Action "SUBSCRIBE" is not permitted.'
            assert (response.status, text(response)) == (403, refusal)
        for path in ("/api/stream/record/r", "/api/stream/event/e"):
            assert (await api.get(path)).status == 401
            assert (await api.get(path, Authorization="Bearer X")).status == 403
            assert (await api.get(path + "?token=A")).status == 401  # tokens do not belong in addresses
            await Stream.open(s, path, Authorization="Bearer A")
            await Stream.open(s, path, Cookie="user=B")
        assert {c.user_id for c in s.registries()["event"].subscribers("e")} == {"A", "B"}
        assert {c.user_id for c in s.registries()["record"].subscribers("r")} == {"A", "B"}
        assert s.router.presence.online == []


async def test_new_rules_end_streams() -> None:
    async with serve_http(permission=Rules) as (s, api):
        await api.one(record("write", "secret", data={}))
        ended = [await Stream.open(s, f"/api/stream/{kind}/secret") for kind in ("record", "event")]
        kept = await Stream.open(s, "/api/stream/event/e")
        assert (await ended[0].event())["id"] == "1"
        s.services.permission.denied.add("secret")
        s.services.permission.changed()
        for stream in ended:
            assert await stream.event() == {"event": "ended", "data": '{"reason":"MESSAGE_DENIED"}'}
            await stream.client.ended()
        await api.one(emit(1))
        assert await kept.event() == {"data": "1"}


async def test_a_login_that_ends_ends_its_stream() -> None:
    async with serve_http(authentication=Cookies) as (s, _):
        stream = await Stream.open(s, "/api/stream/event/e", Authorization="Bearer short")
        assert await stream.event() == {"event": "ended", "data": '{"reason":"the login has expired"}'}
        await stream.client.ended()
        await s.until(lambda: s.registries()["event"].names() == [])


async def test_the_end_of_the_server_ends_streams() -> None:
    async with serve_http() as (s, _):
        stream = await Stream.open(s, "/api/stream/event/e")
        await s.server.stop()
        await stream.client.ended()


async def test_a_reader_that_is_too_slow_is_cut_off() -> None:
    websocket = {"type": "ws-binary", "options": {"maxOutgoingBytes": 100_000}}
    async with serve_http({"connectionEndpoints": [websocket, {"type": "http"}]}) as (s, api):
        slow = await Stream.open(s, "/api/stream/event/e", receive_buffer=4096)
        other = await Stream.open(s, "/api/stream/event/e")
        data = "x" * 20_000
        for _ in range(1000):
            await api.one(emit(data))
            assert json.loads((await other.event())["data"]) == data
            if s.log.find("CLOSED_SLOW_CONSUMER"):
                break
        else:
            pytest.fail("what waits for it grows without end")
        async with asyncio.timeout(TIMEOUT):
            with suppress(ConnectionError):
                received = await slow.client.reader.read(-1)
                # What it got are whole events.
                assert received.endswith(b"\n\n") or not received
        await s.until(lambda: s.registries()["event"].count("e") == 1)


async def test_whatever_the_client_sends_is_ignored() -> None:
    async with serve_http() as (s, api):
        stream = await Stream.open(s, "/api/stream/event/e")
        stream.client.write(b"GET /health-check HTTP/1.1\r\n\r\n" + bytes(range(256)) * 1000)
        await stream.client.drain()
        await api.one(emit(1))
        assert await stream.event() == {"data": "1"}
        assert not s.log.errors()


async def test_messages_that_streams_do_not_have() -> None:
    async with serve_http() as (s, api):
        await api.one(record("write", data={"n": 1}))
        stream = await Stream.open(s, "/api/stream/record/r")
        await stream.event()
        (connection,) = s.registries()["record"].subscribers("r")
        connection.send(Message(Topic.RECORD, RecordAction.SUBSCRIPTION_HAS_PROVIDER, name="r"))
        connection.send(Message(Topic.RECORD, RecordAction.SUBSCRIBE, is_ack=True))
        connection.handle(
            Message(Topic.RECORD, RecordAction.SUBSCRIBE, names=["r"])
        )  # told that it is repeated
        await api.one(record("write", data={"n": 2}))
        assert await stream.event() == {"id": "2", "data": '{"n":2}'}
