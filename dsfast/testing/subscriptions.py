"""What every subscription registry has to do (plugins.md B.13, events-rpc-presence-listen.md section 1)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from dsfast.plugin import Socket, StateTopic, SubscriptionRegistry, SubscriptionRegistryFactory
from dsfast.protocol import EventAction, Message, Topic
from dsfast.testing.local import LocalClient
from dsfast.testing.samples import NAMES
from dsfast.testing.server import ServedServer, served

__all__ = ["SubscriptionRegistryConformance"]

E = Topic.EVENT


class Told:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Socket | None]] = []

    def on_first_subscription_made(self, name: str) -> None:
        """Note it."""
        self.calls.append(("first", name, None))

    def on_subscription_made(self, name: str, socket: Socket) -> None:
        """Note it."""
        self.calls.append(("made", name, socket))

    def on_subscription_removed(self, name: str, socket: Socket) -> None:
        """Note it."""
        self.calls.append(("removed", name, socket))

    def on_last_subscription_removed(self, name: str) -> None:
        """Note it."""
        self.calls.append(("last", name, None))


class SubscriptionRegistryConformance:
    """Subclass it and name the factory in ``plugin_class``; it is tried in a server."""

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[SubscriptionRegistryFactory]]

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest_asyncio.fixture
    async def server(self, options: Mapping[str, Any]) -> AsyncIterator[ServedServer]:
        """A server with the plugin."""
        section = {"class": self.plugin_class, "options": dict(options)}
        async with served({"subscriptions": section}) as server:
            yield server
            assert [line for line in server.log.lines if line[1] == "PLUGIN_ERROR"] == []

    @pytest.fixture
    def registry(self, server: ServedServer) -> SubscriptionRegistry:
        """Its registry of events."""
        return server.services.subscriptions.get_subscription_registry(E, StateTopic.EVENT_SUBSCRIPTIONS)

    @pytest.fixture
    def a(self, server: ServedServer) -> LocalClient:
        """A client."""
        return LocalClient(server.services, "a")

    @pytest.fixture
    def b(self, server: ServedServer) -> LocalClient:
        """Another one."""
        return LocalClient(server.services, "b")

    async def test_describes_itself(self, server: ServedServer) -> None:
        assert server.services.subscriptions.description

    async def test_each_pair_of_topics_has_one(self, server: ServedServer) -> None:
        factory = server.services.subscriptions
        users = (Topic.PRESENCE, StateTopic.PRESENCE_SUBSCRIPTIONS)
        everybody = (Topic.PRESENCE, StateTopic.PRESENCE_ALL_SUBSCRIPTIONS)
        assert factory.get_subscription_registry(*users) is factory.get_subscription_registry(*users)
        assert factory.get_subscription_registry(*users) is not factory.get_subscription_registry(*everybody)
        assert {(int(a), int(b)) for a, b in factory.get_subscription_registries()} >= {users, everybody}

    async def test_subscribing_and_unsubscribing(
        self, registry: SubscriptionRegistry, a: LocalClient, b: LocalClient
    ) -> None:
        request = _request("n")
        assert registry.subscribe("n", request, a.socket, True) is True
        assert registry.subscribe("n", request, a.socket, True) is False
        assert registry.subscribe("n", request, b.socket, True) is True
        assert set(registry.get_local_subscribers("n")) == {a.socket, b.socket}
        assert registry.has_local_subscribers("n") and registry.has_name("n")
        assert list(registry.get_names()) == list(registry.get_local_names()) == ["n"]
        assert len(registry.get_all_servers("n")) == 1 and registry.get_all_remote_servers("n") == []
        assert registry.unsubscribe("n", request, a.socket, True) is True
        assert registry.unsubscribe("n", request, a.socket, True) is False
        assert list(registry.get_local_subscribers("n")) == [b.socket]
        assert registry.unsubscribe("n", request, b.socket, True) is True
        assert registry.unsubscribe("other", request, b.socket, True) is False
        assert not registry.has_name("n") and not registry.has_local_subscribers("n")
        assert list(registry.get_names()) == [] and registry.get_all_servers("n") == []
        assert a.received == b.received == [], "silent means that clients are told nothing"

    async def test_it_answers_when_it_is_asked_to(
        self, registry: SubscriptionRegistry, a: LocalClient
    ) -> None:
        request = _request("n")
        repeated = Message(
            E, EventAction.MULTIPLE_SUBSCRIPTIONS, name="n", original_action=EventAction.SUBSCRIBE
        )
        ack = request.replace(is_ack=True)
        registry.subscribe("n", request, a.socket)
        registry.subscribe("n", request, a.socket)
        assert a.received == [ack, repeated, ack]
        a.received.clear()
        leave = request.replace(action=EventAction.UNSUBSCRIBE)
        registry.unsubscribe("n", leave, a.socket)
        assert a.received == [leave.replace(is_ack=True)]

    async def test_many_names_at_once(self, registry: SubscriptionRegistry, a: LocalClient) -> None:
        names = [f"n{i}" for i in range(500)]
        request = Message(E, EventAction.SUBSCRIBE, names=names, correlation_id="1")
        registry.subscribe_bulk(request, a.socket)
        assert sorted(registry.get_names()) == sorted(names)
        assert a.received == [Message(E, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True)]
        registry.unsubscribe_bulk(request.replace(action=EventAction.UNSUBSCRIBE), a.socket, True)
        assert list(registry.get_names()) == [] and len(a.received) == 1

    async def test_everybody_but_the_sender_gets_it_in_order(
        self, server: ServedServer, registry: SubscriptionRegistry, a: LocalClient, b: LocalClient
    ) -> None:
        for client in (a, b):
            registry.subscribe("n", _request("n"), client.socket, True)
        c = LocalClient(server.services, "c")
        messages = [Message(E, EventAction.EMIT, name="n", data=b"%d" % i) for i in range(100)]
        for index, message in enumerate(messages):
            sender = (a.socket, c.socket, None)[index % 3]
            registry.send_to_subscribers("n", message, index % 2 == 0, sender)
        registry.send_to_subscribers("nobody", messages[0], False, None)
        assert a.received == [message for index, message in enumerate(messages) if index % 3]
        assert b.received == messages
        assert c.received == []

    async def test_a_client_that_is_gone_is_forgotten(
        self, registry: SubscriptionRegistry, a: LocalClient, b: LocalClient
    ) -> None:
        told = Told()
        registry.set_subscription_listener(told)
        for name in ("x", "y"):
            registry.subscribe(name, _request(name), a.socket, True)
        registry.subscribe("x", _request("x"), b.socket, True)
        told.calls.clear()
        a.close()
        assert list(registry.get_names()) == ["x"]
        assert list(registry.get_local_subscribers("x")) == [b.socket]
        assert sorted(call[:2] for call in told.calls) == [("last", "y"), ("removed", "x"), ("removed", "y")]

    async def test_a_listener_is_told_what_happens(
        self, registry: SubscriptionRegistry, a: LocalClient, b: LocalClient
    ) -> None:
        before, told = Told(), Told()
        registry.set_subscription_listener(before)
        registry.set_subscription_listener(told)
        request = _request("n")
        registry.subscribe("n", request, a.socket, True)
        registry.subscribe("n", request, b.socket, True)
        registry.subscribe("n", request, b.socket, True)
        assert told.calls == [("first", "n", None), ("made", "n", a.socket), ("made", "n", b.socket)]
        told.calls.clear()
        registry.unsubscribe("n", request, a.socket, True)
        registry.unsubscribe("n", request, a.socket, True)
        assert told.calls == [("removed", "n", a.socket)]
        told.calls.clear()
        registry.unsubscribe("n", request, b.socket, True)
        assert sorted(call[0] for call in told.calls) == ["last", "removed"]
        assert before.calls == []

    async def test_names_do_not_meet(self, registry: SubscriptionRegistry, a: LocalClient) -> None:
        for name in NAMES:
            registry.subscribe(name, _request(name), a.socket, True)
        assert sorted(registry.get_names()) == sorted(NAMES)
        for name in NAMES:
            message = Message(E, EventAction.EMIT, name=name)
            registry.send_to_subscribers(name, message, False, None)
            assert a.received.pop() == message
        assert a.received == []

    async def test_random_subscriptions_agree_with_a_dictionary(
        self, server: ServedServer, registry: SubscriptionRegistry
    ) -> None:
        rng = random.Random(4)
        clients = [LocalClient(server.services, f"c{i}") for i in range(6)]
        model: dict[str, set[LocalClient]] = {name: set() for name in "abcd"}
        for step in range(2000):
            name, client = rng.choice("abcd"), rng.choice(clients)
            kind = rng.random()
            if kind < 0.45:
                fresh = registry.subscribe(name, _request(name), client.socket, True)
                assert fresh is (client not in model[name])
                model[name].add(client)
            elif kind < 0.8:
                removed = registry.unsubscribe(name, _request(name), client.socket, True)
                assert removed is (client in model[name])
                model[name].discard(client)
            elif kind < 0.98:
                message = Message(E, EventAction.EMIT, name=name, data=b"%d" % step)
                registry.send_to_subscribers(name, message, False, client.socket)
                for other in clients:
                    expected = [message] if other in model[name] and other is not client else []
                    assert other.received == expected
                    other.received.clear()
            else:
                clients.remove(client)
                client.close()
                clients.append(LocalClient(server.services, "new"))
                for subscribers in model.values():
                    subscribers.discard(client)
            assert set(registry.get_local_subscribers(name)) == {c.socket for c in model[name]}
            assert set(registry.get_names()) == {n for n, subscribers in model.items() if subscribers}

    async def test_the_handlers_use_it(
        self, registry: SubscriptionRegistry, a: LocalClient, b: LocalClient
    ) -> None:
        a.send(E, EventAction.SUBSCRIBE, names=["n"], correlation_id="1")
        await a.expect(E, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True)
        assert list(registry.get_local_subscribers("n")) == [a.socket]
        b.send(E, EventAction.EMIT, name="n", data=b"1")
        await a.expect(E, EventAction.EMIT, name="n", data=b"1")
        a.send(E, EventAction.UNSUBSCRIBE, names=["n"], correlation_id="2")
        await a.expect(E, EventAction.UNSUBSCRIBE, correlation_id="2", is_ack=True)
        assert list(registry.get_names()) == []


def _request(name: str) -> Message:
    return Message(E, EventAction.SUBSCRIBE, name=name, correlation_id="1")
