"""The subscription registry against a dict: random subscriptions, broadcasts, flushes and broken connections.

Real connections over socket pairs; what each peer was sent is read from the other end and compared, in order,
with what the model says.
"""

import asyncio
import socket

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from wire import ACCEPT, AUTH_SUCCESSFUL, CHALLENGE, auth_request, frame, upgrade_request

from dsfast._core.connection import Connection, Endpoint
from dsfast._core.fanout import Hub, Registry
from dsfast._core.protocol import EventAction, Message, Topic, decode
from dsfast._core.router import Router
from dsfast._core.timers import TimingWheel

NAMES = ["a", "b", "c", "ü", "long" * 50]
PEERS = 5
BIG = 70_000
"""Size of the messages that do not fit into a small socket buffer."""


class Owner:
    """The Python side of an endpoint, as far as connections need it here."""

    max_names = 1000

    def __init__(self):
        self.faults = []

    def on_empty(self):
        pass

    def on_closed(self, connection):
        pass

    def on_open(self, connection):
        pass

    def log_connection(self, connection):
        pass

    def origin_allowed(self, headers):
        return True

    def remote_address(self, headers, peer):
        return peer

    def log_exception(self, text, error):
        self.faults.append((text, error))

    def log_slow(self, connection, waiting):
        self.faults.append(("slow", waiting))


LOGIN = upgrade_request() + frame(CHALLENGE) + frame(auth_request())
ANSWER = b"".join(b"\x82" + bytes([len(part)]) + part for part in (ACCEPT, AUTH_SUCCESSFUL))


class Listener:
    """Checks that first and last subscriptions are told in turn."""

    def __init__(self):
        self.subscribed = set()

    def on_first_subscription(self, name):
        assert name not in self.subscribed
        self.subscribed.add(name)

    def on_last_unsubscription(self, name):
        self.subscribed.remove(name)


class RegistryMachine(RuleBasedStateMachine):
    """Every rule changes the registry and the model alike."""

    @initialize()
    def start(self):
        self.loop = asyncio.new_event_loop()
        self.hub = Hub(self.loop)
        self.wheel = TimingWheel(self.loop)
        self.owner = Owner()
        self.endpoint = Endpoint(self.hub, self.wheel, Router({}), self.owner, open_user_id=str)
        self.registry = Registry(self.hub, Topic.EVENT)
        self.listener = Listener()
        self.registry.set_listener(self.listener)
        self.model = {}
        self.peers = {}
        self.far = {}
        self.expected = {}
        self.number = 0
        for key in range(PEERS):
            self.connect(key)

    def turn(self):
        """One turn of the loop, with everything that is due in it."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def connect(self, key):
        near, far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        near.setblocking(False)
        far.setblocking(False)

        async def attach():
            _, connection = await self.loop.connect_accepted_socket(self.endpoint.make, near)
            far.sendall(LOGIN)
            head = b""
            while not head.endswith(ANSWER):
                head += await self.loop.sock_recv(far, 1000)
            return connection

        self.peers[key] = self.loop.run_until_complete(attach())
        self.far[key] = far
        self.expected[key] = []

    @rule(key=st.integers(0, PEERS - 1), name=st.sampled_from(NAMES))
    def subscribe(self, key, name):
        fresh = self.registry.add(name, self.peers[key])
        assert fresh == (key not in self.model.get(name, []))
        if fresh:
            self.model.setdefault(name, []).append(key)

    @rule(key=st.integers(0, PEERS - 1), name=st.sampled_from(NAMES))
    def unsubscribe(self, key, name):
        known = key in self.model.get(name, [])
        assert self.registry.remove(name, self.peers[key]) == known
        if known:
            self.model[name].remove(key)
            if not self.model[name]:
                del self.model[name]

    @rule(name=st.sampled_from(NAMES))
    def remove_all(self, name):
        self.registry.remove_all(name)
        self.model.pop(name, None)

    @rule(
        name=st.sampled_from(NAMES),
        sender=st.none() | st.integers(0, PEERS - 1),
        size=st.sampled_from([0, 1, 200, BIG]),
        times=st.integers(1, 5),
    )
    def broadcast(self, name, sender, size, times):
        for _ in range(times):
            self.number += 1
            data = b'[%d,"%b"]' % (self.number, b"x" * size)
            message = Message(Topic.EVENT, EventAction.EMIT, name=name, data=data)
            self.registry.broadcast(name, message, None if sender is None else self.peers[sender])
            for key in self.model.get(name, []):
                if key != sender:
                    self.expected[key].append(data)

    @rule(key=st.integers(0, PEERS - 1))
    def unicast(self, key):
        self.number += 1
        data = b"%d" % self.number
        self.peers[key].send(Message(Topic.EVENT, EventAction.EMIT, name="own", data=data))
        self.expected[key].append(data)

    @rule()
    def flush(self):
        self.hub.flush_now()

    @rule()
    def next_turn(self):
        self.turn()

    @rule(key=st.integers(0, PEERS - 1), how=st.sampled_from(["abort", "far end", "destroy"]))
    def leave(self, key, how):
        """A connection ends; another one takes its place in the model."""
        if how == "far end":
            self.far[key].close()
            while not self.peers[key].is_closed:
                self.turn()
        elif how == "abort":
            self.peers[key].abort()
        else:
            self.peers[key].destroy()
        self.far[key].close()
        for name in [name for name, keys in self.model.items() if key in keys]:
            self.model[name].remove(key)
            if not self.model[name]:
                del self.model[name]
        self.connect(key)

    @rule(key=st.integers(0, PEERS - 1))
    def read(self, key):
        """Everything that was sent so far arrives, whole and in order."""
        self.hub.flush_now()
        data = b""
        wanted = self.expected[key]
        while True:
            got, rest = take(data)
            if len(got) >= len(wanted):
                break
            self.turn()
            try:
                part = self.far[key].recv(1 << 20)
            except BlockingIOError:
                continue
            assert part, "hung up"
            data += part
        assert rest == b""
        assert got == wanted
        self.expected[key] = []

    @invariant()
    def agrees(self):
        if not hasattr(self, "model"):
            return
        assert sorted(self.registry.names()) == sorted(self.model)
        assert self.registry.subscriptions == sum(map(len, self.model.values()))
        assert self.listener.subscribed == set(self.model)
        for name in NAMES:
            keys = self.model.get(name, [])
            assert self.registry.has(name) == bool(keys)
            assert self.registry.count(name) == len(keys)
            subscribers = self.registry.subscribers(name)
            assert {id(peer) for peer in subscribers} == {id(self.peers[key]) for key in keys}
        assert self.owner.faults == []

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        for key in list(self.peers):
            self.read(key)
            self.far[key].close()
        while self.endpoint.connections:
            self.turn()
        assert self.registry.names() == []
        self.wheel.close()
        self.loop.close()


def take(data):
    """The events in the whole frames of ``data``, and what is left."""
    found = []
    while len(data) >= 2:
        size, head = data[1] & 127, 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[2:10], "big"), 10
        if len(data) < head + size:
            break
        (message,) = decode(data[head : head + size])
        found.append(message.data)
        data = data[head + size :]
    return found, data


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


async def test_many_names_and_many_subscribers():
    """The tables grow and shrink by thousands; pairs stay findable through every removal."""
    loop = asyncio.get_running_loop()
    hub = Hub(loop)
    endpoint = Endpoint(hub, TimingWheel(loop), Router({}), Owner())
    registry = Registry(hub, Topic.EVENT)
    pairs = [socket.socketpair() for _ in range(30)]
    peers = []
    for near, _ in pairs:
        near.setblocking(False)
        _, peer = await loop.connect_accepted_socket(endpoint.make, near)
        peers.append(peer)
    names = [f"name/{i}" for i in range(2000)]
    for i, peer in enumerate(peers):
        for name in names[i::3]:
            assert registry.add(name, peer)
    assert registry.subscriptions == sum(len(names[i::3]) for i in range(30))
    for i, peer in enumerate(peers):
        for name in names[i % 7 :: 7]:
            present = (names.index(name) - i) % 3 == 0 and names.index(name) >= i
            assert registry.remove(name, peer) == present
    for peer in peers[:20]:
        for name in names:
            registry.remove(name, peer)
    for name in names:
        registry.remove_all(name)
    assert registry.names() == []
    assert registry.subscriptions == 0
    for _, far in pairs:
        far.close()
    assert isinstance(peers[0], Connection)


@pytest.mark.parametrize("bad", [None, 5, b"bytes"])
def test_names_are_text(bad):
    loop = asyncio.new_event_loop()
    registry = Registry(Hub(loop), Topic.EVENT)
    with pytest.raises(TypeError):
        registry.has(bad)
    loop.close()
