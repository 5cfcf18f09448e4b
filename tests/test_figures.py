"""Monitoring by HTTP and in the log (http.md section 8)."""

import json
from typing import Any

import pytest
from http_kit import JSON_TYPE, serve_http, text
from wire import Users, auth_request

from dsfast import ConfigError
from dsfast._core.protocol import EventAction, RpcAction, Topic

OPEN = {"monitoring": {"type": "http", "options": {"url": "/monitoring", "allowOpenPermissions": True}}}
CLOSED = {
    "monitoring": [
        {"type": "http", "options": {"url": "/monitoring", "headerKey": "X-Key", "headerValue": "sesame"}},
        {"type": "none"},
    ]
}
EMIT = {"topic": "event", "action": "emit", "eventName": "e"}


async def test_what_has_happened_since_the_last_time() -> None:
    async with serve_http(OPEN, authentication=Users) as (s, api):

        async def figures() -> Any:
            response = await api.get("/monitoring")
            assert response.status == 200
            return json.loads(response.body)

        first = await figures()
        assert first["received"] == {}
        assert first["errors"] == {"INVALID_CONFIG_DATA": 1}  # that it is open
        a, b = await s.login("A"), await s.login("B")
        refused = await s.challenged()
        refused.send(auth_request(b'{"refuse":1}'))
        await refused.payload()
        await api.post({"refuse": 1}, "/api/auth")
        await api.post({"username": "C"}, "/api/auth")
        for client in (a, b):
            client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e", "f"], correlation_id="1")
            await client.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        a.message(Topic.EVENT, EventAction.EMIT, name="e")
        await b.expect(Topic.EVENT, EventAction.EMIT)
        call = {"topic": "rpc", "action": "make", "rpcName": "nobody"}
        await api.batch(EMIT, call, authData={"username": "C"})
        await a.expect(Topic.EVENT, EventAction.EMIT)
        a.message(Topic.EVENT, 99)
        await a.receive()
        second = await figures()
        assert second["from"] == first["to"] <= second["to"]
        assert second["clusterSize"] == 1
        assert second["stateMetrics"] == {
            "STATE_REGISTRY": 2,
            "LOCK": 2,
            "EVENT_LISTEN_PATTERNS": 0,
            "EVENT_PUBLISHED_SUBSCRIPTIONS": 0,
            "RECORD_LISTEN_PATTERNS": 0,
            "RECORD_PUBLISHED_SUBSCRIPTIONS": 0,
            "EVENT_SUBSCRIPTIONS": 2,
            "RECORD_SUBSCRIPTIONS": 0,
            "RPC_SUBSCRIPTIONS": 0,
            "PRESENCE_SUBSCRIPTIONS": 0,
            "ONLINE_USERS": 2,
        }
        assert second["errors"] == {"NO_RPC_PROVIDER": 1, "UNKNOWN_ACTION": 1}
        assert second["received"] == {
            "EVENT": {"SUBSCRIBE": 2, "EMIT": 2, "UNKNOWN": 1},
            "RPC": {"REQUEST": 1},
        }
        assert second["send"] == {
            "PARSER": {"UNKNOWN_ACTION": 1},
            "CONNECTION": {"ACCEPT": 3},
            "AUTH": {"AUTH_SUCCESSFUL": 2, "AUTH_UNSUCCESSFUL": 1},
            "EVENT": {"SUBSCRIBE": 2, "EMIT": 3},
            "RPC": {"NO_RPC_PROVIDER": 1},
        }
        assert second["logins"] == {
            "websocket": {"allowed": 2, "declined": 1},
            "http": {"allowed": 1, "declined": 1},
        }
        third = await figures()
        assert (third["received"], third["send"], third["errors"], third["logins"]) == ({}, {}, {}, {})


async def test_calls_and_their_answers_are_counted() -> None:
    async with serve_http(OPEN) as (s, api):
        provider = await s.login("P")
        provider.message(Topic.RPC, RpcAction.PROVIDE, names=["x"], correlation_id="1")
        await provider.expect(Topic.RPC, RpcAction.PROVIDE)
        body = json.dumps({"body": [{"topic": "rpc", "action": "make", "rpcName": "x"}]}).encode()
        api.send("POST", "/api", body, JSON_TYPE)
        call = await provider.expect(Topic.RPC, RpcAction.REQUEST)
        answer = {"name": "x", "correlation_id": call.correlation_id, "data": b"1"}
        provider.message(Topic.RPC, RpcAction.RESPONSE, **answer)
        await api.client.response()
        figures = json.loads((await api.get("/monitoring")).body)
        assert figures["received"]["RPC"] == {"PROVIDE": 1, "REQUEST": 1, "RESPONSE": 1}
        assert figures["send"]["RPC"] == {"REQUEST": 1, "RESPONSE": 1, "PROVIDE": 1}


async def test_who_may_read() -> None:
    async with serve_http(CLOSED) as (s, api):
        for headers in ({}, {"X_Key": "Sesame"}, {"X_Key": ""}, {"X_Key": "s\xe9"}, {"X_Other": "sesame"}):
            response = await api.get("/monitoring", **headers)
            assert (response.status, text(response)) == (404, "Endpoint not found.")
        assert len(s.log.find("AUTH_ERROR")) == 5
        for headers in ({"X_Key": "sesame"}, {"x_kEY": "sesame"}):
            assert (await api.get("/monitoring", **headers)).status == 200
        assert (await api.get("/monitoringx", X_Key="sesame")).status == 404


@pytest.mark.parametrize(
    ("options", "problem"),
    [({}, "url"), ({"url": "/m"}, "headerKey"), ({"url": "/m", "headerKey": "x"}, "headerValue")],
)
async def test_options_that_are_missing(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        async with serve_http({"monitoring": {"type": "http", "options": options}}):
            pass


async def test_figures_in_the_log() -> None:
    options = {"logInterval": 20, "monitoringKey": "FIGURES"}
    async with serve_http({"monitoring": {"type": "log", "options": options}}) as (s, api):
        await api.one(EMIT)
        lines = [json.loads(line) for line in await s.log.wait_for("FIGURES", 3)]
        while not any(line["received"] for line in lines):
            lines = [json.loads(line) for line in await s.log.wait_for("FIGURES", len(lines) + 1)]
        (line,) = [line for line in lines if line["received"]]
        assert line["received"] == {"EVENT": {"EMIT": 1}}
        assert [line["to"] for line in lines[:-1]] == [line["from"] for line in lines[1:]]
