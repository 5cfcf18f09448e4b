"""The admin plugin in a server: who may ask, what they get, what they change."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dsfast import StartError
from dsfast.config import load
from dsfast.plugin import LogLevel
from dsfast.protocol import EventAction, RecordAction, RpcAction, Topic
from dsfast.testing import plugin_services
from dsfast_plugins.admin import CHANGEABLE, Admin, Allowance
from dsfast_plugins.options import OptionError
from tests.wire import Response, Running, Users, serve

loops = ["uvloop"]

TOKEN = "a token of many characters"
RULES = {
    section: {"*": dict.fromkeys(actions, True)}
    for section, actions in {
        "record": ("create", "read", "write", "delete", "listen", "notify"),
        "event": ("publish", "subscribe", "listen"),
        "rpc": ("provide", "request"),
        "presence": ("allow",),
    }.items()
}


@asynccontextmanager
async def administered(config: Any = None, **options: Any) -> AsyncIterator[Running]:
    given = {"tokens": {"ops": TOKEN, "ci": "another token of many characters"}, **options}
    plugins = {"admin": {"class": Admin, "options": given}}
    async with serve({"plugins": plugins, **(config or {})}, authentication=Users) as running:
        yield running


async def ask(running: Running, path: str, body: Any = None, token: str | None = TOKEN) -> tuple[int, Any]:
    """Status and JSON of a GET, or with a body of a POST."""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: x\r\n"
    if token is not None:
        head += f"Authorization: Bearer {token}\r\n"
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    client = await running.connect()
    client.write(head.encode() + b"\r\n" + data)
    response: Response = await client.response()
    text = response.body.decode().strip()
    is_json = response.headers["content-type"].startswith("application/json")
    return response.status, json.loads(text) if is_json and text else text


@pytest.mark.parametrize(
    "path", ["/admin/connections", "/admin/subscriptions", "/admin/config", "/admin", "/admin/nothing"]
)
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "ops", "\u00e4"])
async def test_without_a_token_there_is_nothing_to_see(path: str, token: str | None) -> None:
    async with administered() as s:
        assert await ask(s, path, token=token) == (401, "a token is needed")
        assert await ask(s, path, {}, token=token) == (401, "a token is needed")


async def test_other_schemes_are_no_tokens() -> None:
    async with administered() as s:
        client = await s.connect()
        client.write(
            f"GET /admin/config HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {TOKEN}\r\n\r\n".encode()
        )
        assert (await client.response()).status == 401


async def test_connections() -> None:
    async with administered() as s:
        await s.login("alice")
        await s.login("alice")
        bob = await s.login("bob")
        status, answer = await ask(s, "/admin/connections")
        assert (status, answer["total"]) == (200, 3)
        assert [entry["user"] for entry in answer["connections"]] == ["alice", "alice", "bob"]
        connection = s.connection("bob")
        entry = answer["connections"][2]
        since = entry.pop("since")
        assert entry == {
            "uuid": connection.uuid, "user": "bob", "protocol": connection.socket_type,
            "address": "127.0.0.1",
        }  # fmt: skip
        assert since > 1.7e12
        status, answer = await ask(s, "/admin/connections?user=alice&limit=1")
        assert (answer["total"], len(answer["connections"])) == (2, 1)
        await bob.close()
        await s.until(lambda: len(s.services.plugins["admin"]._sockets) == 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", ["0", "-1", "x", "10001", "9" * 5000, "%D9%A1"])
async def test_limits_are_checked(limit: str) -> None:
    async with administered() as s:
        status, text = await ask(s, f"/admin/connections?limit={limit}")
        assert (status, text) == (400, "limit has to be a number from 1 to 10000")


async def test_subscriptions() -> None:
    async with administered() as s:
        alice, bob = await s.login("alice"), await s.login("bob")
        alice.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["news", "chat"], correlation_id="1")
        bob.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["news"], correlation_id="1")
        await alice.receive()
        await bob.receive()
        bob.message(Topic.RECORD, RecordAction.CREATEANDUPDATE, name="r", version=1, data=b"{}")
        _, answer = await ask(s, "/admin/subscriptions")
        events = answer["EVENT_SUBSCRIPTIONS"]
        assert events["total"] == 2
        assert sorted((entry["name"], entry["subscribers"]) for entry in events["names"]) == [
            ("chat", 1),
            ("news", 2),
        ]
        assert answer["RECORD_SUBSCRIPTIONS"] == {"total": 0, "names": []}
        _, answer = await ask(s, "/admin/subscriptions?name=news")
        (entry,) = answer["EVENT_SUBSCRIPTIONS"]["names"]
        assert sorted(entry.pop("users")) == ["alice", "bob"]
        assert entry == {"name": "news", "subscribers": 2}
        _, answer = await ask(s, "/admin/subscriptions?limit=1")
        assert len(answer["EVENT_SUBSCRIPTIONS"]["names"]) == 1
        _, answer = await ask(s, "/admin/subscriptions?name=nobody")
        assert answer["EVENT_SUBSCRIPTIONS"] == {"total": 2, "names": []}


async def test_sessions_are_ended() -> None:
    async with administered() as s:
        alice, other, bob = [await s.login(user) for user in ("alice", "alice", "bob")]
        assert await ask(s, "/admin/sessions/end", {"user": "alice"}) == (200, {"ended": 2})
        assert await alice.closed() is None
        assert await other.closed() is None
        await bob.fence()
        assert s.log.find("ADMIN") == ["ops ended 2 sessions of alice"]
        uuid = s.connection("bob").uuid
        assert await ask(s, "/admin/sessions/end", {"uuid": uuid, "user": "alice"}) == (200, {"ended": 0})
        assert await ask(s, "/admin/sessions/end", {"uuid": uuid}) == (200, {"ended": 1})
        assert await bob.closed() is None
        for body in ({}, {"user": 5}, {"user": None, "uuid": None}):
            assert await ask(s, "/admin/sessions/end", body) == (400, "user or uuid has to be a text")
        assert await ask(s, "/admin/sessions/end", ["alice"]) == (400, "the body has to be a JSON object")
        status, text = await ask(s, "/admin/sessions/end", b"{")
        assert status == 400
        assert text.startswith("Failed to parse body of request: ")


async def test_rules_are_read_again(tmp_path: Any) -> None:
    rules = tmp_path / "permission.json"
    rules.write_text(json.dumps(RULES))
    config = {"permission": {"type": "config", "options": {"path": str(rules)}}}
    async with administered(config) as s:
        client = await s.login("alice")
        client.message(Topic.EVENT, EventAction.EMIT, name="x")
        await client.fence()
        no_publish = dict.fromkeys(("publish", "subscribe", "listen"), False)
        rules.write_text(json.dumps({**RULES, "event": {"*": no_publish}}))
        assert await ask(s, "/admin/rules/reload", {}) == (200, {"reloaded": True})
        client.message(Topic.EVENT, EventAction.EMIT, name="x")
        await client.expect(Topic.EVENT, EventAction.MESSAGE_DENIED)
        rules.write_text("{")
        status, text = await ask(s, "/admin/rules/reload", {})
        assert status == 409
        assert "those of before are still in use" in text
        assert s.log.find("ADMIN") == [
            "ops read the rules again",
            "ops tried to read the rules again: invalid",
        ]


async def test_without_rules_there_is_nothing_to_reload() -> None:
    async with administered() as s:
        status, text = await ask(s, "/admin/rules/reload", {})
        assert (status, text) == (409, "the permission service has no rules to be read again")


async def test_values_are_changed_while_the_server_runs() -> None:
    async with administered() as s:
        status, values = await ask(s, "/admin/config")
        assert status == 200
        assert list(values) == list(CHANGEABLE)
        assert values["rpc.ackTimeout"] == 1000
        change = {"key": "rpc.ackTimeout", "value": 250}
        assert await ask(s, "/admin/config", change, "another token of many characters") == (
            200, {"key": "rpc.ackTimeout", "previous": 1000, "value": 250},
        )  # fmt: skip
        assert s.server.get_config().rpc.ack_timeout == 250
        status, answer = await ask(s, "/admin/config", {"key": "logLevel", "value": "error"})
        assert (answer["previous"], answer["value"]) == (1, 3)
        assert s.log.level == LogLevel.ERROR
        status, answer = await ask(s, "/admin/config", {"key": "logLevel", "value": "info"})
        assert s.log.find("ADMIN")[0] == "ci changed rpc.ackTimeout from 1000 to 250"


async def test_a_changed_time_limit_holds_for_the_next_call() -> None:
    async with administered() as s:
        provider, caller = await s.login("a"), await s.login("b")
        provider.message(Topic.RPC, RpcAction.PROVIDE, names=["add"], correlation_id="1")
        await provider.receive()
        await ask(s, "/admin/config", {"key": "rpc.ackTimeout", "value": 1})
        caller.message(Topic.RPC, RpcAction.REQUEST, name="add", correlation_id="2", data=b"1")
        await caller.expect(Topic.RPC, RpcAction.ACCEPT_TIMEOUT)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"key": "rpc.ackTimeout", "value": "soon"}, "rpc/ackTimeout"),
        ({"key": "rpc.ackTimeout", "value": None}, "rpc/ackTimeout"),
        ({"key": "rpc.ackTimeout"}, "value is needed"),
        ({"key": "httpServer.options.port", "value": 1}, "key has to be one of"),
        ({"key": "auth.0.options", "value": 1}, "key has to be one of"),
        ({"key": 5, "value": 1}, "key has to be one of"),
        ({"key": ["logLevel"], "value": 1}, "key has to be one of"),
    ],
)
async def test_values_that_cannot_be_set(body: Any, text: str) -> None:
    async with administered() as s:
        status, answer = await ask(s, "/admin/config", body)
        assert status == 400
        assert text in answer
        assert s.server.get_config().rpc.ack_timeout == 1000
        assert s.log.errors() == []


async def test_only_what_the_options_name_can_be_changed() -> None:
    async with administered(changeable=["logLevel"]) as s:
        assert (await ask(s, "/admin/config"))[1] == {"logLevel": 1}
        assert (await ask(s, "/admin/config", {"key": "rpc.ackTimeout", "value": 5}))[0] == 400


async def test_too_many_requests_of_one_token() -> None:
    async with administered(requestsPerMinute=3) as s:
        answers = [(await ask(s, "/admin/config"))[0] for _ in range(4)]
        assert answers == [200, 200, 200, 429]
        assert (await ask(s, "/admin/config", token="another token of many characters"))[0] == 200


async def test_guesses_are_limited_and_lock_nobody_out() -> None:
    async with administered(failuresPerMinute=2) as s:
        answers = [(await ask(s, "/admin/config", token="guess"))[0] for _ in range(15)]
        assert answers == [401, 401] + [429] * 13
        assert (await ask(s, "/admin/config"))[0] == 200
        lines = s.log.find("ADMIN")
        assert lines == ["refused: GET /admin/config without a known token"] * 10
        assert not any("guess" in text or TOKEN in text for _, _, text in s.log.lines)


def test_an_allowance_comes_back_with_time() -> None:
    now = 0.0
    allowance = Allowance(2, lambda: now)
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    now = 30.0
    assert [allowance.take() for _ in range(2)] == [True, False]
    now = 6000.0
    assert [allowance.take() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "option tokens: is required"),
        ({"tokens": {}}, "option tokens: expected object of length >= 1"),
        ({"tokens": {"a": "short"}}, "option tokens: .*expected str of length >= 24"),
        ({"tokens": {"a": 5}}, "option tokens: .*expected str, got int"),
        ({"tokens": {"a": TOKEN}, "path": "admin"}, "option path: expected str matching regex"),
        ({"tokens": {"a": TOKEN}, "path": "/admin/"}, "option path: expected str matching regex"),
        ({"tokens": {"a": TOKEN}, "requestsPerMinute": 0}, "option requestsPerMinute: expected int >= 1"),
        ({"tokens": {"a": TOKEN}, "changeable": ["auth"]}, "auth cannot be changed at run time"),
    ],
)
def test_wrong_options(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text) as caught:
        Admin(options, plugin_services(), load())
    assert "short" not in str(caught.value)


async def test_a_path_that_is_taken_ends_the_start() -> None:
    with pytest.raises(
        StartError, match="admin: option path: GET /health-check is answered by somebody else"
    ):
        async with administered(path="/health-check"):
            pass
