"""What the compiled core must survive: failing listeners and transports, code that calls back, misuse.

Nothing here is a way to use the core. Each case was, or could easily be, an object that is used after it was
freed.
"""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from wire import CHALLENGE, auth_request, frame, serve, upgrade_request

from dsfast._core.connection import Connection, Dispatcher, Endpoint
from dsfast._core.events import EventHandler
from dsfast._core.fanout import Hub, Peer, Registry
from dsfast._core.protocol import EventAction, Message, RecordAction, Topic, decode
from dsfast._core.record_cache import Record, RecordCache
from dsfast._core.records import Step
from dsfast._core.router import Router
from dsfast._core.timers import TimingWheel


class FakeTransport:
    """Takes everything at once, unless ``on_write`` does something else."""

    def __init__(self, on_write: Callable[[bytes], None] | None = None) -> None:
        self.on_write = on_write
        self.data = bytearray()
        self.waiting = 0
        self.aborted = False

    def get_extra_info(self, name: str) -> Any:
        return True if name == "sslcontext" else None

    def set_write_buffer_limits(self, high: int, low: int = 0) -> None:
        assert high in (0, 1)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        if self.on_write is not None:
            self.on_write(data)
        self.data += data

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.aborted = True

    abort = close

    def messages(self) -> list[Message]:
        """The messages of all frames written so far, each shorter than 126 bytes."""
        found, data = [], bytes(self.data)
        while data:
            assert data[0] == 0x82
            found += decode(data[2 : 2 + data[1]])
            data = data[2 + data[1] :]
        return found


class Owner:
    """The endpoint's Python half, as far as these tests need it."""

    max_names = 100

    def __init__(self) -> None:
        self.faults: list[str] = []

    def log_exception(self, text: str, error: Exception) -> None:
        self.faults.append(f"{text}: {error}")

    def origin_allowed(self, headers: Any) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


class Core:
    """Hub, registry of events and endpoint without any socket."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.hub = Hub(loop)
        self.wheel = TimingWheel(loop)
        self.registry = Registry(self.hub, Topic.EVENT)
        self.owner = Owner()
        router = Router({Topic.EVENT: EventHandler(self.registry, None)})
        self.endpoint = Endpoint(self.hub, self.wheel, router, self.owner, open_user_id=str)

    def connect(self) -> tuple[Connection, FakeTransport]:
        """A connection that has logged in."""
        connection, transport = self.endpoint.make(), FakeTransport()
        connection.connection_made(transport)
        for data in (upgrade_request(), frame(CHALLENGE), frame(auth_request())):
            feed(connection, data)
        self.hub.flush_now()
        assert connection.user_id == "open"
        transport.data.clear()
        return connection, transport


def feed(connection: Connection, data: bytes) -> None:
    """Let a connection read these bytes."""
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


def event(name: str) -> Message:
    """An EMIT."""
    return Message(Topic.EVENT, EventAction.EMIT, name=name)


# --- failing listeners


async def test_a_failing_listener_leaves_no_subscription_of_a_lost_connection() -> None:
    class Failing:
        def on_first_subscription(self, name: str) -> None:
            pass

        def on_last_unsubscription(self, name: str) -> None:
            raise RuntimeError("on purpose")

    core = Core()
    core.registry.set_listener(Failing())
    connection, _ = core.connect()
    for name in "abc":
        assert core.registry.add(name, connection)
    connection.connection_lost(None)
    assert core.registry.names() == []
    assert core.registry.subscriptions == 0
    assert core.owner.faults == ["exception while ending subscriptions: on purpose"]
    for name in "abc":
        core.registry.broadcast(name, event(name))
    core.hub.flush_now()


async def test_a_failing_close_callback_and_listener_do_not_keep_the_user_online() -> None:
    async with serve() as running:
        client = await running.login("anna")
        registry = running.registries()["event"]
        client.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["a", "b"], correlation_id="1")
        await client.expect(Topic.EVENT, EventAction.SUBSCRIBE)

        class Failing:
            def on_last_unsubscription(self, name: str) -> None:
                raise RuntimeError("on purpose")

        registry.set_listener(Failing())
        await client.close()
        await running.gone()
        running.assert_empty()


async def test_a_failing_logger_does_not_keep_a_lost_connection() -> None:
    core = Core()
    connection, _ = core.connect()
    core.registry.add("a", connection)

    def fail(*arguments: Any) -> None:
        raise RuntimeError("on purpose")

    core.owner.log_exception = fail  # type: ignore[method-assign]
    core.owner.on_closed = fail
    connection.on_close(fail)
    connection.connection_lost(None)
    assert core.registry.names() == []
    assert core.endpoint.connections == set()


async def test_a_closed_connection_cannot_subscribe_any_more() -> None:
    core = Core()
    connection, _ = core.connect()
    connection.connection_lost(None)
    assert not core.registry.add("a", connection)
    assert core.registry.names() == []


async def test_a_subscribed_connection_is_freed_when_it_is_lost() -> None:
    core = Core()
    connection, _ = core.connect()
    core.registry.add("a", connection)
    gone = weakref.ref(connection)
    connection.connection_lost(None)
    del connection
    gc.collect()
    assert gone() is None


async def test_a_connection_of_another_server_cannot_subscribe() -> None:
    connection, _ = Core().connect()
    registry = Core().registry
    with pytest.raises(ValueError, match="another server"):
        registry.add("a", connection)
    with pytest.raises(ValueError, match="another server"):
        registry.add("a", Peer())
    assert registry.names() == []


# --- transports


async def test_a_failing_write_ends_only_its_connection() -> None:
    core = Core()
    peers = [core.connect() for _ in range(5)]
    for connection, _ in peers:
        core.registry.add("a", connection)

    def fail(data: bytes) -> None:
        raise MemoryError("on purpose")

    peers[2][1].on_write = fail
    core.registry.broadcast("a", event("a"))
    core.hub.flush_now()
    await asyncio.sleep(0)
    assert [transport.aborted for _, transport in peers] == [False, False, True, False, False]
    assert [len(transport.messages()) for _, transport in peers] == [1, 1, 0, 1, 1]
    assert core.owner.faults == ["exception while writing to a connection: on purpose"]
    assert core.registry.count("a") == 4


async def test_frames_queued_by_a_transport_are_written_with_the_next_flush() -> None:
    """A transport may lead to foreign code, such as the loop's exception handler."""
    core = Core()
    first, one = core.connect()
    second, two = core.connect()
    core.registry.add("a", first)
    core.registry.add("a", second)

    def more(data: bytes) -> None:
        one.on_write = None
        for i in range(20_000):
            first.send(event(f"to first {i}"))
        core.registry.broadcast("a", event("again"))
        core.hub.flush_now()

    one.on_write = more
    core.registry.broadcast("a", event("a"))
    core.hub.flush_now()
    assert [message.name for message in two.messages()] == ["a"]
    core.hub.flush_now()
    assert [message.name for message in one.messages()] == [
        "a",
        *(f"to first {i}" for i in range(20_000)),
        "again",
    ]
    assert [message.name for message in two.messages()] == ["a", "again"]


async def test_frames_queued_while_a_backlog_is_written_come_behind_it() -> None:
    core = Core()
    connection, transport = core.connect()
    transport.waiting = 1
    connection.send(event("held by the transport"))
    core.hub.flush_now()
    for i in range(50):
        connection.send(event(f"backlog {i}"))
        core.hub.flush_now()

    def more(data: bytes) -> None:
        transport.on_write = None
        connection.resume_writing()
        for i in range(20_000):
            connection.send(event(f"late {i}"))
            core.hub.flush_now()

    transport.waiting = 0
    transport.on_write = more
    connection.resume_writing()
    await asyncio.sleep(0)
    core.hub.flush_now()
    assert [message.name for message in transport.messages()] == [
        "held by the transport",
        *(f"backlog {i}" for i in range(50)),
        *(f"late {i}" for i in range(20_000)),
    ]


async def test_bytes_for_a_connection_that_is_not_connected_are_ignored() -> None:
    core = Core()
    connection = core.endpoint.make()
    feed(connection, b"GET / HTTP/1.1\r\n\r\n")
    connection, _ = core.connect()
    connection.connection_lost(None)
    feed(connection, frame(CHALLENGE))
    assert core.owner.faults == []


# --- misuse from Python


@pytest.mark.parametrize("kind", [Connection, Endpoint, Hub, Record, Registry, TimingWheel])
def test_no_core_object_without_what_it_works_on(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind.__new__(kind)


async def test_none_is_refused_where_the_core_needs_an_object() -> None:
    core = Core()
    attempts: list[Callable[[], Any]] = [
        lambda: Registry(None, Topic.EVENT),
        lambda: Connection(None),
        lambda: Endpoint(None, core.wheel, Dispatcher(), None),
        lambda: Endpoint(core.hub, None, Dispatcher(), None),
        lambda: Endpoint(core.hub, core.wheel, None, None),
        lambda: Router({Topic.EVENT: object()}),
        lambda: Record(b"a", 0, None),
        lambda: core.registry.add("a", None),
        lambda: core.registry.broadcast("a", None),
        lambda: setattr(core.hub, "state_writer", object()),
    ]
    for attempt in attempts:
        with pytest.raises(TypeError):
            attempt()
    assert len(RecordCache.__new__(RecordCache)) == 0


async def test_a_message_without_handler_is_refused_by_the_router() -> None:
    connection, _ = Core().connect()
    router = Router({})
    for message in (
        Message(Topic.EVENT, EventAction.EMIT, name="a"),
        Message(Topic.LOCK, 1),
        Message(Topic.STATE_REGISTRY, 1),
        Message(Topic.RECORD, RecordAction.UPDATE, name="a", version=2**40),
    ):
        with pytest.raises(ValueError, match="no handler"):
            router.forward(connection, message)
    with pytest.raises(IndexError):
        Router({8: EventHandler(Core().registry, None)})


async def test_release_without_hold_is_an_error() -> None:
    connection, _ = Core().connect()
    with pytest.raises(RuntimeError):
        connection.release()
    connection.hold()
    connection.release()


async def test_steps_need_a_connection() -> None:
    async with serve() as running:
        handler = running.router.record_handler
        with pytest.raises(TypeError):
            handler.make_step(3, None, RecordAction.READ, b"a")
        with pytest.raises(TypeError):
            handler.make_step(11, None, RecordAction.READ, None)
    with pytest.raises(TypeError):
        Step()


async def test_timers_far_in_the_future() -> None:
    wheel = TimingWheel(asyncio.get_running_loop())
    timers = [wheel.call_later(delay, print) for delay in (1e300, float("inf"), 2.0**63, 2.0**64)]
    assert all(timer.active for timer in timers)
    wheel.call_later(float("nan"), (fired := asyncio.Event()).set)
    await asyncio.wait_for(fired.wait(), 20)
    wheel.close()


async def test_timers_cancelled_rearmed_and_made_by_a_timer() -> None:
    wheel = TimingWheel(asyncio.get_running_loop())
    fired: list[str] = []
    done = asyncio.Event()
    victims: list[Any] = []

    def killer() -> None:
        fired.append("killer")
        for victim in victims:
            victim.cancel()
        victims.clear()
        gc.collect()
        wheel.call_later(0, done.set)

    wheel.call_later(0, killer)
    victims += [wheel.call_later(0, lambda: fired.append("victim")) for _ in range(100)]
    await asyncio.wait_for(done.wait(), 20)
    assert fired == ["killer"]
    closed = asyncio.Event()

    def close() -> None:
        wheel.close()
        closed.set()

    wheel.call_later(0, close)
    other = wheel.call_later(0, lambda: fired.append("other"))
    await asyncio.wait_for(closed.wait(), 20)
    assert not other.active
    assert fired == ["killer"]
