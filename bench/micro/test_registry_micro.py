"""Cost of subscribing, unsubscribing, looking up and broadcasting, without sockets."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dsfast._core.connection import Connection, Dispatcher, Endpoint
from dsfast._core.fanout import Hub, Registry
from dsfast._core.protocol import Message, Topic
from dsfast._core.timers import TimingWheel

EMIT = Message(Topic.EVENT, 2, name="news", data=b'"' + b"x" * 62 + b'"')


@pytest.fixture
def parts() -> Iterator[tuple[Hub, Registry, Endpoint]]:
    """A hub whose connections have no socket: what is flushed to them is dropped."""
    loop = asyncio.new_event_loop()
    hub = Hub(loop)
    wheel = TimingWheel(loop)
    yield hub, Registry(hub, Topic.EVENT), Endpoint(hub, wheel, Dispatcher(), None)
    wheel.close()
    loop.close()


def connections(endpoint: Endpoint, count: int) -> list[Connection]:
    """Connections without a transport."""
    return [endpoint.make() for _ in range(count)]


@pytest.mark.parametrize("others", [0, 100_000])
def test_subscribe_and_unsubscribe(benchmark: Any, parts: Any, others: int) -> None:
    """The cost must not depend on how many subscribe to the same name."""
    _, registry, endpoint = parts
    kept = connections(endpoint, others)
    for connection in kept:
        registry.add("news", connection)
    (one,) = connections(endpoint, 1)

    def turn() -> None:
        registry.add("news", one)
        registry.remove("news", one)

    benchmark(turn)


@pytest.mark.parametrize("names", [10, 100_000])
def test_lookup(benchmark: Any, parts: Any, names: int) -> None:
    """The cost must not depend on how many names there are."""
    _, registry, endpoint = parts
    (one,) = connections(endpoint, 1)
    for i in range(names):
        registry.add(f"name/{i}", one)
    benchmark(registry.has, "name/7")


@pytest.mark.parametrize("subscribers", [1, 100, 1000])
def test_broadcast_of_64_in_a_turn(benchmark: Any, parts: Any, subscribers: int) -> None:
    """64 broadcasts and their flush: ranges are made per subscriber and turn, not per message."""
    hub, registry, endpoint = parts
    kept = connections(endpoint, subscribers)
    for connection in kept:
        registry.add("news", connection)

    def turn() -> None:
        for _ in range(64):
            registry.broadcast("news", EMIT)
        hub.flush_now()

    benchmark(turn)
