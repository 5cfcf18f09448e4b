"""A monitoring plugin that wants to see messages sees each of them, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from dsfast.plugin import Monitoring, Permission
from dsfast.protocol import EventAction, Message, RecordAction, RpcAction, Topic
from dsfast.services.monitoring import NoMonitoring
from tests.replaced_services import REPLACED
from tests.wire import Users, serve

loops = ["uvloop"]


class Seen(Monitoring):
    description = "sees everything"

    def init(self) -> None:
        self.received: list[tuple[int, int, str | None, str | None]] = []
        self.sent: list[tuple[int, int, str | None]] = []
        self.broadcasts: list[tuple[int, int, str | None, int]] = []

    def on_message_received(self, message: Message, socket: Any) -> None:
        self.received.append((message.topic, message.action, message.name, socket.user_id))

    def on_message_send(self, message: Message) -> None:
        self.sent.append((message.topic, message.action, message.name))

    def on_broadcast(self, message: Message, count: int) -> None:
        self.broadcasts.append((message.topic, message.action, message.name, count))


class OnlyBroadcasts(Monitoring):
    description = "sees broadcasts"
    seen = 0

    def on_broadcast(self, message: Message, count: int) -> None:
        self.seen += 1


class Failing(Seen):
    description = "fails"

    def on_message_received(self, message: Message, socket: Any) -> None:
        raise RuntimeError("received")

    def on_message_send(self, message: Message) -> None:
        raise RuntimeError("sent")

    def on_broadcast(self, message: Message, count: int) -> None:
        raise RuntimeError("broadcast")


async def exchange(s: Any) -> tuple[Any, Any]:
    """An event, a record and a call between two clients, each of which gets what it should."""
    a, b = await s.login("a"), await s.login("b")
    for client in (a, b):
        client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["news"], correlation_id="1")
        await client.expect(Topic.EVENT, EventAction.SUBSCRIBE)
    a.message(Topic.EVENT, EventAction.EMIT, name="news", data=b"1")
    await b.expect(Topic.EVENT, EventAction.EMIT, name="news", data=b"1")
    b.message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="2")
    await b.expect(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD)
    await b.expect(Topic.RECORD, RecordAction.READ_RESPONSE)
    a.message(Topic.RECORD, RecordAction.PATCH, name="r", path="x", version=1, data=b"1")
    assert (await b.expect(Topic.RECORD, RecordAction.PATCH)).path == "x"
    b.message(Topic.RPC, RpcAction.PROVIDE, names=["add"], correlation_id="3")
    await b.expect(Topic.RPC, RpcAction.PROVIDE)
    a.message(Topic.RPC, RpcAction.REQUEST, name="add", correlation_id="4", data=b"1")
    await b.expect(Topic.RPC, RpcAction.REQUEST)
    await a.fence()
    return a, b


async def test_every_message_is_seen_once() -> None:
    async with serve(monitoring=Seen, authentication=Users) as s:
        await exchange(s)
        seen: Any = s.services.monitoring
        assert seen.received == [
            (Topic.EVENT, EventAction.SUBSCRIBE, None, "a"),
            (Topic.EVENT, EventAction.SUBSCRIBE, None, "b"),
            (Topic.EVENT, EventAction.EMIT, "news", "a"),
            (Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, None, "b"),
            (Topic.RECORD, RecordAction.PATCH, "r", "a"),
            (Topic.RPC, RpcAction.PROVIDE, None, "b"),
            (Topic.RPC, RpcAction.REQUEST, "add", "a"),
        ]
        assert seen.broadcasts == [
            (Topic.EVENT, EventAction.EMIT, "news", 2),
            (Topic.RECORD, RecordAction.PATCH, "r", 1),
        ]
        assert [entry for entry in seen.sent if entry[0] in (Topic.EVENT, Topic.RECORD)] == [
            (Topic.EVENT, EventAction.SUBSCRIBE, None),
            (Topic.EVENT, EventAction.SUBSCRIBE, None),
            (Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, None),
            (Topic.RECORD, RecordAction.READ_RESPONSE, "r"),
        ]
        assert (Topic.RPC, RpcAction.REQUEST, "add") in seen.sent
        assert s.router.state_metrics()["EVENT_SUBSCRIPTIONS"] == 1
        assert s.log.errors() == []


async def test_refused_messages_are_not_received() -> None:
    class Refuse(Permission):
        description = "no news"

        def can_perform_action(self, socket: Any, message: Message) -> bool:
            return message.name != "news"

    async with serve(monitoring=Seen, permission=Refuse, authentication=Users) as s:
        client = await s.login("a")
        client.message(Topic.EVENT, EventAction.EMIT, name="news")
        await client.expect(Topic.EVENT, EventAction.MESSAGE_DENIED)
        client.message(Topic.EVENT, EventAction.EMIT, name="other")
        await client.fence()
        seen: Any = s.services.monitoring
        assert seen.received == [(Topic.EVENT, EventAction.EMIT, "other", "a")]


async def test_a_failing_monitoring_changes_nothing_and_does_not_fill_the_log() -> None:
    async with serve(monitoring=Failing, authentication=Users) as s:
        a, b = await exchange(s)
        for _ in range(100):
            a.message(Topic.EVENT, EventAction.EMIT, name="news")
        for _ in range(100):
            await b.expect(Topic.EVENT, EventAction.EMIT)
        texts = s.log.find("PLUGIN_ERROR")
        assert "monitoring failed in on_message_received: RuntimeError('received')" in texts
        assert "monitoring failed in on_message_send: RuntimeError('sent')" in texts
        assert len(texts) <= 10


@pytest.mark.parametrize("monitoring", [NoMonitoring, [NoMonitoring, NoMonitoring]])
async def test_others_cost_nothing(monitoring: Any) -> None:
    async with serve(monitoring=monitoring, authentication=Users) as s:
        await exchange(s)
        assert type(s.router.hub).__name__ == "Hub"
        assert type(s.router.handlers[Topic.EVENT]).__name__ == "EventHandler"


async def test_one_of_several_is_enough() -> None:
    async with serve(monitoring=[NoMonitoring, OnlyBroadcasts], authentication=Users) as s:
        await exchange(s)
        assert s.services.monitoring.entries[1].seen == 2  # type: ignore[attr-defined]


async def test_together_with_subscriptions_of_a_plugin() -> None:
    async with serve(monitoring=Seen, authentication=Users, **REPLACED) as s:
        await exchange(s)
        seen: Any = s.services.monitoring
        assert [entry[:3] for entry in seen.broadcasts] == [
            (Topic.EVENT, EventAction.EMIT, "news"),
            (Topic.RECORD, RecordAction.PATCH, "r"),
        ]
        assert [entry[3] for entry in seen.broadcasts] == [2, 1]
