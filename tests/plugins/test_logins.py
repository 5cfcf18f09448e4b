"""Who is told about logins and logouts: the log, subscribers, a web service that may be away."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import pytest
from aiohttp import web

from dsfast import StartError
from dsfast.config import load
from dsfast.protocol import EventAction, Topic
from dsfast.testing import FaultProxy, plugin_services
from dsfast_plugins.logins import LoginNotifier, LoginWebhook
from dsfast_plugins.options import OptionError
from tests.plugins.receiver import Posted, Receiver
from tests.wire import Running, Users, auth_request, serve

loops = ["uvloop"]

SECRET = "a secret of many characters"


def notifier(**options: Any) -> dict[str, Any]:
    return {"plugins": {"logins": {"class": LoginNotifier, "options": options}}}


async def watch(running: Running, name: str = "dsfast/logins") -> Any:
    watcher = await running.login("watcher")
    watcher.message(Topic.EVENT, EventAction.SUBSCRIBE, names=[name], correlation_id="1")
    await watcher.expect(Topic.EVENT, EventAction.SUBSCRIBE)
    return watcher


async def event(watcher: Any, name: str = "dsfast/logins") -> dict[str, Any]:
    message = await watcher.expect(Topic.EVENT, EventAction.EMIT)
    assert message.name == name
    found: dict[str, Any] = json.loads(message.data)
    assert found.pop("time") > 1.7e12
    return found


async def test_logins_and_logouts_are_events_and_lines() -> None:
    async with serve(notifier(), authentication=Users) as s:
        watcher = await watch(s)
        one = await s.login("alice")
        assert await event(watcher) == {"type": "login", "user": "alice", "sessions": 1}
        two = await s.login("alice")
        assert await event(watcher) == {"type": "login", "user": "alice", "sessions": 2}
        await one.close()
        assert await event(watcher) == {"type": "logout", "user": "alice", "sessions": 1}
        two.reset()
        assert await event(watcher) == {"type": "logout", "user": "alice", "sessions": 0}
        protocol = s.connection("watcher").socket_type
        assert s.log.find("LOGIN") == [
            f"watcher from 127.0.0.1 ({protocol}), 1 open",
            f"alice from 127.0.0.1 ({protocol}), 1 open",
            f"alice from 127.0.0.1 ({protocol}), 2 open",
        ]
        assert s.log.find("LOGOUT") == [
            f"alice from 127.0.0.1 ({protocol}), 1 open",
            f"alice from 127.0.0.1 ({protocol}), 0 open",
        ]


async def test_details_are_for_those_who_ask() -> None:
    async with serve(notifier(details=True, topic="who", log=False), authentication=Users) as s:
        watcher = await watch(s, "who")
        await s.login("alice")
        found = await event(watcher, "who")
        assert (found["address"], found["protocol"]) == ("127.0.0.1", s.connection("alice").socket_type)
        assert s.log.find("LOGIN") == []


async def test_without_a_topic_there_is_no_event() -> None:
    async with serve(notifier(topic=None), authentication=Users) as s:
        watcher = await watch(s)
        await s.login("alice")
        await watcher.fence()
        assert len(s.log.find("LOGIN")) == 2


async def test_refused_logins_are_not_told() -> None:
    async with serve(notifier(), authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"refuse":true}'))
        await client.receive()
        assert s.log.find("LOGIN") == []


async def test_events_that_are_switched_off_end_the_start() -> None:
    features = {"enabledFeatures": {"event": False}}
    with pytest.raises(StartError, match="logins: option topic: events are switched off"):
        async with serve({**notifier(), **features}):
            pass
    async with serve({**notifier(topic=None), **features}) as s:
        await s.login()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"topic": ""}, "option topic: expected str of length >= 1"),
        ({"topic": 5}, "option topic: expected str | null, got int"),
        ({"log": "maybe"}, "option log: expected bool, got str"),
    ],
)
def test_wrong_options_of_the_notifier(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        LoginNotifier(options, plugin_services(), load())


# The webhook


@pytest.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


def webhook(url: str, **options: Any) -> dict[str, Any]:
    given = {"url": url, "retryInterval": 1, **options}
    return {"plugins": {"webhook": {"class": LoginWebhook, "options": given}}, "serverName": "one"}


def events(posted: list[Posted]) -> list[tuple[str, str, int]]:
    return [
        (entry["type"], entry["user"], entry["sessions"])
        for request in posted
        for entry in json.loads(request.body)["events"]
    ]


async def test_a_web_service_is_told(receiver: Receiver) -> None:
    config = webhook(receiver.url, secret=SECRET, headers={"x-key": "k"})
    async with serve(config, authentication=Users) as s:
        client = await s.login("alice")
        await receiver.wait_for(1)
        await client.close()
        await receiver.wait_for(2)
    assert events(receiver.requests) == [("login", "alice", 1), ("logout", "alice", 0)]
    posted = receiver.requests[0]
    body = json.loads(posted.body)
    assert body["server"] == "one"
    entry = body["events"][0]
    assert (entry["address"], len(entry["id"])) == ("127.0.0.1", 32)
    assert posted.headers["Content-Type"] == "application/json"
    assert posted.headers["x-key"] == "k"
    moment, _, signature = posted.headers["X-Dsfast-Signature"].partition(",")
    seconds = moment.removeprefix("t=")
    expected = hmac.new(SECRET.encode(), seconds.encode() + b"." + posted.body, hashlib.sha256).hexdigest()
    assert signature == f"v1={expected}"


async def test_without_a_secret_nothing_is_signed_and_details_can_be_left_out(receiver: Receiver) -> None:
    async with serve(webhook(receiver.url, details=False, events=["login"]), authentication=Users) as s:
        client = await s.login("alice")
        await client.close()
        await s.gone()
    assert events(receiver.requests) == [("login", "alice", 1)]
    assert "X-Dsfast-Signature" not in receiver.requests[0].headers
    assert set(json.loads(receiver.requests[0].body)["events"][0]) == {
        "id",
        "type",
        "user",
        "sessions",
        "time",
    }


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_what_fails_is_sent_again_with_the_same_id(receiver: Receiver, status: int) -> None:
    receiver.answers.append(status)
    async with serve(webhook(receiver.url), authentication=Users) as s:
        await s.login("alice")
        await receiver.wait_for(2)
        await s.log.wait_for("LOGIN_WEBHOOK", 2)
        assert receiver.requests[0].body == receiver.requests[1].body
        name = s.services.plugins["webhook"].description
        assert s.log.find("LOGIN_WEBHOOK") == [
            f"{name}: answered with status {status}",
            f"{name}: delivers again",
        ]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(receiver: Receiver, status: int) -> None:
    elsewhere = web.Response(status=status, headers={"Location": f"http://127.0.0.1:{receiver.port}/other"})
    receiver.answers.append(elsewhere)
    async with serve(webhook(receiver.url), authentication=Users) as s:
        await s.login("alice")
        (text,) = await s.log.wait_for("LOGIN_WEBHOOK")
        assert text.endswith(f"answered with status {status}; redirects are not followed")
        await s.login("bob")
        await s.log.wait_for("LOGIN_WEBHOOK", 2)
        assert s.log.find("LOGIN_WEBHOOK")[1].endswith("delivers again; 1 were lost")
    assert {posted.path for posted in receiver.requests} == {"/in"}


async def test_a_refusal_is_not_repeated(receiver: Receiver) -> None:
    receiver.answers.append(400)
    async with serve(webhook(receiver.url), authentication=Users) as s:
        await s.login("alice")
        await s.log.wait_for("LOGIN_WEBHOOK")
        await s.login("bob")
        await receiver.wait_for(2)
        assert events(receiver.requests) == [("login", "alice", 1), ("login", "bob", 1)]


async def test_a_service_that_is_away_slow_and_cut_off(receiver: Receiver) -> None:
    """Nobody waits for it, and everything arrives in the end, in order."""
    async with FaultProxy("127.0.0.1", receiver.port) as proxy:
        await proxy.stop()
        config = webhook(f"http://user:password@127.0.0.1:{proxy.port}/in", tries=1000)
        async with serve(config, authentication=Users) as s:
            for number in range(5):
                await (await s.login(f"user{number}")).fence()
            await s.log.wait_for("LOGIN_WEBHOOK")
            proxy.delay = 0.01
            await proxy.restart()
            await receiver.wait_for(1)
            proxy.cut()
            await s.login("last")
            await s.until(
                lambda: any(("login", "last", 1) in events([posted]) for posted in receiver.requests)
            )
            assert not any("password" in text for _, _, text in s.log.lines)
    seen = list(dict.fromkeys(events(receiver.requests)))
    assert [entry for entry in seen if entry[0] == "login"] == [
        *(("login", f"user{number}", 1) for number in range(5)),
        ("login", "last", 1),
    ]


async def test_memory_is_bounded_while_the_service_hangs(receiver: Receiver) -> None:
    receiver.open.clear()
    async with serve(webhook(receiver.url, maxWaiting=5, timeout=60_000), authentication=Users) as s:
        for number in range(10):
            await s.login(f"user{number}")
        delivery = s.services.plugins["webhook"]._delivery  # type: ignore[attr-defined]
        assert delivery.waiting == 5
        receiver.open.set()
        await s.log.wait_for("LOGIN_WEBHOOK")
        assert s.log.find("LOGIN_WEBHOOK")[0].endswith("delivers again; 5 were lost")


async def test_the_stop_does_not_wait_for_a_service_that_hangs(receiver: Receiver) -> None:
    receiver.open.clear()
    config = {**webhook(receiver.url, timeout=60_000), "shutdownTimeout": 1000}
    async with serve(config, authentication=Users) as s:
        await s.login("alice")
        await receiver.wait_for(1)
        await asyncio.wait_for(s.server.stop(), 20)
        texts = s.log.find("LOGIN_WEBHOOK")
    assert len(texts) == 1
    assert texts[0].endswith("2 were not delivered")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "option url: is required"),
        ({"url": "ftp://x"}, "option url: expected one that begins with http"),
        ({"url": 5}, "option url: expected str, got int"),
        ({"url": "http://x", "secret": "short"}, "option secret: expected str of length >= 16"),
        ({"url": "http://x", "events": ["login", "kick"]}, "option events: .*invalid enum value 'kick'"),
        ({"url": "http://x", "events": []}, "option events: expected array of length >= 1"),
        ({"url": "http://x", "headers": {"a b": "c"}}, "option headers: 'a b' cannot be sent"),
        ({"url": "http://x", "headers": {"a": "b\r\nc: d"}}, "option headers: 'a' cannot be sent"),
        ({"url": "http://x", "tries": 0}, "option tries: expected int >= 1"),
    ],
)
async def test_wrong_options_of_the_webhook(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        LoginWebhook(options, plugin_services(), load())
