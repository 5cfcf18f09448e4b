"""What every cluster node and every cluster registry has to do (plugins.md B.9 and B.11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from dsfast.plugin import ClusterNode, ClusterRegistry
from dsfast.testing.plugins import PATIENCE, plugin_services, started

__all__ = ["ClusterNodeConformance", "ClusterRegistryConformance"]

SERVERS = ("one", "two", "three")
EVENT, RECORD = 4, 5


class Inbox:
    """What one node has received on a topic."""

    def __init__(self) -> None:
        self.messages: list[tuple[Mapping[str, Any], str]] = []
        self._came = asyncio.Event()

    def __call__(self, message: Mapping[str, Any], sender: str) -> None:
        self.messages.append((message, sender))
        self._came.set()

    async def take(self) -> tuple[Mapping[str, Any], str]:
        """The next message; TimeoutError if none comes."""
        async with asyncio.timeout(PATIENCE):
            while not self.messages:
                self._came.clear()
                await self._came.wait()
        return self.messages.pop(0)


class ClusterNodeConformance:
    """Subclass it, name the class in ``plugin_class``, and give options by which three of it meet.

    Their servers are called ``one``, ``two`` and ``three``. Nobody else may be there.
    """

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[ClusterNode]]

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest_asyncio.fixture
    async def nodes(self, options: Mapping[str, Any]) -> AsyncIterator[list[ClusterNode]]:
        """Three of them, ready."""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    started(self.plugin_class, options, config={"serverName": name})
                )
                for name in SERVERS
            ]

    @pytest_asyncio.fixture
    async def inboxes(self, nodes: list[ClusterNode]) -> list[Inbox]:
        """What they receive on the topic of events, once each hears all others."""
        inboxes = [Inbox() for _ in nodes]
        for node, inbox in zip(nodes, inboxes, strict=True):
            node.subscribe(EVENT, inbox)
        # What is sent before the receiver is ready may be lost: greet until everybody has heard everybody.
        missing = {(a, b) for a in SERVERS for b in SERVERS if a != b}
        async with asyncio.timeout(PATIENCE):
            while missing:
                for node in nodes:
                    node.send({"topic": EVENT, "hello": True})
                await asyncio.sleep(0.01)
                for name, inbox in zip(SERVERS, inboxes, strict=True):
                    missing -= {(sender, name) for _, sender in inbox.messages}
        for node in nodes:
            node.send({"topic": EVENT, "last": True})
        for inbox in inboxes:
            left = {"one", "two", "three"} - {SERVERS[inboxes.index(inbox)]}
            while left:
                message, sender = await inbox.take()
                if "last" in message:
                    left.discard(sender)
        return inboxes

    async def test_describes_itself(self, nodes: list[ClusterNode]) -> None:
        assert all(node.description for node in nodes)

    async def test_all_others_get_it_once_and_the_sender_does_not(
        self, nodes: list[ClusterNode], inboxes: list[Inbox]
    ) -> None:
        nodes[0].send({"topic": EVENT, "n": 1})
        for inbox in inboxes[1:]:
            message, sender = await inbox.take()
            assert message["n"] == 1 and sender == "one"
        nodes[1].send({"topic": EVENT, "n": 2})
        for inbox in (inboxes[0], inboxes[2]):
            message, sender = await inbox.take()
            assert (message["n"], sender) == (2, "two")
        assert [inbox.messages for inbox in inboxes] == [[], [], []]

    async def test_one_server_gets_what_is_for_it(
        self, nodes: list[ClusterNode], inboxes: list[Inbox]
    ) -> None:
        nodes[0].send_direct("two", {"topic": EVENT, "n": 1})
        nodes[0].send_direct("nobody", {"topic": EVENT, "n": 2})
        nodes[0].send({"topic": EVENT, "n": 3})
        assert [(await inboxes[1].take())[0]["n"] for _ in range(2)] == [1, 3]
        assert (await inboxes[2].take())[0]["n"] == 3
        assert [inbox.messages for inbox in inboxes] == [[], [], []]

    async def test_the_order_of_a_sender_is_kept(
        self, nodes: list[ClusterNode], inboxes: list[Inbox]
    ) -> None:
        for n in range(200):
            if n % 3:
                nodes[0].send({"topic": EVENT, "n": n})
            else:
                nodes[0].send_direct("three", {"topic": EVENT, "n": n})
        assert [(await inboxes[2].take())[0]["n"] for _ in range(200)] == list(range(200))

    async def test_values_arrive_as_they_were(self, nodes: list[ClusterNode], inboxes: list[Inbox]) -> None:
        message = {
            "topic": EVENT, "action": 2, "name": "ä/\U0001f600\n\x01", "data": [None, True, 1.5, {"": []}],
            "names": [], "leaderScore": 0.1234567890123, "big": 2**53, "text": "x" * 100_000,
        }  # fmt: skip
        nodes[0].send(message)
        received, _ = await inboxes[1].take()
        assert dict(received) == message

    async def test_topics_are_apart_and_have_several_callbacks(
        self, nodes: list[ClusterNode], inboxes: list[Inbox]
    ) -> None:
        second, records = Inbox(), Inbox()
        nodes[1].subscribe(EVENT, second)
        nodes[1].subscribe(RECORD, records)
        async with asyncio.timeout(PATIENCE):
            while not records.messages:  # the new topic has to be known to whatever is between them
                nodes[0].send({"topic": RECORD, "n": 1})
                await asyncio.sleep(0.01)
        nodes[0].send({"topic": EVENT, "n": 2})
        assert (await second.take())[0]["n"] == 2
        assert (await inboxes[1].take())[0]["n"] == 2
        assert all(message["n"] == 1 for message, _ in records.messages)

    async def test_a_callback_that_fails_stops_nobody(
        self, nodes: list[ClusterNode], inboxes: list[Inbox]
    ) -> None:
        def fail(message: Mapping[str, Any], sender: str) -> None:
            raise RuntimeError("on purpose")

        behind = Inbox()
        nodes[1].subscribe(EVENT, fail)
        nodes[1].subscribe(EVENT, behind)
        for n in range(3):
            nodes[0].send({"topic": EVENT, "n": n})
        assert [(await behind.take())[0]["n"] for _ in range(3)] == [0, 1, 2]
        assert [(await inboxes[2].take())[0]["n"] for _ in range(3)] == [0, 1, 2]

    async def test_subscribe_comes_before_init(self, options: Mapping[str, Any]) -> None:
        """Other services subscribe in their constructors."""
        node = self.plugin_class(options, plugin_services(), _config("four"))
        node.subscribe(EVENT, Inbox())
        await node.close()
        await node.close()


class ClusterRegistryConformance:
    """Subclass it, name the class in ``plugin_class`` and give its options in a fixture ``options``."""

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[ClusterRegistry]]
    meet: ClassVar[bool] = False
    """True if several with the same options find each other, and notice when one is gone."""

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest_asyncio.fixture
    async def registry(self, options: Mapping[str, Any]) -> AsyncIterator[ClusterRegistry]:
        """The plugin of a server called ``one``, ready."""
        async with started(self.plugin_class, options, config={"serverName": "one"}) as registry:
            yield registry

    async def test_describes_itself(self, registry: ClusterRegistry) -> None:
        assert registry.description

    async def test_this_server_is_there_and_one_of_them_leads(self, registry: ClusterRegistry) -> None:
        servers = registry.get_all()
        assert isinstance(servers, list) and "one" in servers and len(set(servers)) == len(servers)
        assert registry.get_leader() in servers
        assert registry.is_leader() is (registry.get_leader() == "one")

    async def test_nobody_can_change_it_from_outside(self, registry: ClusterRegistry) -> None:
        servers = registry.get_all()
        registry.get_all().clear()
        assert registry.get_all() == servers

    async def test_several_may_want_to_know(self, registry: ClusterRegistry) -> None:
        for _ in range(2):
            registry.on_server_added(lambda name: None)
            registry.on_server_removed(lambda name: None)

    async def test_others_come_and_go(self, options: Mapping[str, Any], registry: ClusterRegistry) -> None:
        if not self.meet:
            pytest.skip("these do not find each other")
        added: list[str] = []
        removed: list[str] = []
        registry.on_server_added(added.append)
        registry.on_server_removed(removed.append)
        async with started(self.plugin_class, options, config={"serverName": "two"}) as other:
            await _until(lambda: sorted(registry.get_all()) == sorted(other.get_all()) == ["one", "two"])
            await _until(lambda: registry.get_leader() == other.get_leader())
            assert added.count("two") == 1
        await _until(lambda: registry.get_all() == ["one"])
        await _until(lambda: removed == ["two"])
        assert registry.is_leader()

    async def test_close_without_a_start_and_twice(
        self, options: Mapping[str, Any], registry: ClusterRegistry
    ) -> None:
        other = self.plugin_class(options, registry.services, registry.config)
        other.init()
        await other.close()
        await other.close()


def _config(server_name: str) -> Any:
    from dsfast.config import load  # noqa: PLC0415 - only here

    return load({"serverName": server_name})


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is nothing to be told by
            await asyncio.sleep(0.005)
