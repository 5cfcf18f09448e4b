"""Services of plugins beside those of the core: each alone, all together, failing, and of one topic only.

tests/replaced runs the acceptance tests on them; here is what those cannot see.
"""

import asyncio

import pytest
from wire import Users, serve

from dsfast import LockRegistry, Server, StartError, StateTopic, SubscriptionRegistryFactory
from dsfast._core.plugin_registry import PluginRegistry, WatchedRegistry
from dsfast.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic
from dsfast.services.cluster_states import SubscribedNames
from dsfast.services.http_service import HttpService
from dsfast.services.subscriptions import CoreSubscriptionRegistry, DefaultSubscriptionRegistryFactory
from tests.replaced_services import (
    REPLACED,
    PythonLocks,
    PythonStateFactory,
    PythonStates,
    PythonSubscriptionFactory,
    PythonSubscriptions,
)

loops = ["uvloop"]

E, R = Topic.EVENT, Topic.RECORD


async def subscribe(client, name, topic=E):
    actions = RecordAction if topic == R else EventAction
    client.message(topic, actions.SUBSCRIBE, names=[name], correlation_id="1")
    return await client.expect(topic, actions.SUBSCRIBE, correlation_id="1", is_ack=True)


async def listen(client, pattern, topic=R):
    actions = RecordAction if topic == R else EventAction
    client.message(topic, actions.LISTEN, name=pattern)
    await client.expect(topic, actions.LISTEN, name=pattern, is_ack=True)


async def found(client, pattern, name):
    await client.expect(R, RecordAction.SUBSCRIPTION_FOR_PATTERN_FOUND, name=pattern, subscription=name)


def accept(client, pattern, name):
    client.message(R, RecordAction.LISTEN_ACCEPT, name=pattern, subscription=name)


CHOICES = [{}, REPLACED, *({key: plugin} for key, plugin in REPLACED.items())]


@pytest.mark.parametrize("services", CHOICES, ids=lambda services: "+".join(services) or "built-in")
async def test_the_story_of_a_provider(services):
    async with serve(**services) as s:
        provider, other, a, b = [await s.login(name) for name in ("p", "o", "a", "b")]
        await listen(provider, "^x")
        await subscribe(a, "x1", R)
        await found(provider, "^x", "x1")
        accept(provider, "^x", "x1")
        await a.expect(R, RecordAction.SUBSCRIPTION_HAS_PROVIDER, name="x1")
        b.message(R, RecordAction.SUBSCRIBE, names=["x1", "y"], correlation_id="1")
        await b.expect(R, RecordAction.SUBSCRIPTION_HAS_PROVIDER, name="x1")
        await b.expect(R, RecordAction.SUBSCRIBE, correlation_id="1", is_ack=True)
        states = s.services.cluster_states
        names = states.get_state_registry(StateTopic.RECORD_SUBSCRIPTIONS)
        patterns = states.get_state_registry(StateTopic.RECORD_LISTEN_PATTERNS)
        published = states.get_state_registry(StateTopic.RECORD_PUBLISHED_SUBSCRIPTIONS)
        assert sorted(names.get_all()) == ["x1", "y"]
        assert names.get_all_servers("x1") == [s.server.get_config().server_name]
        assert patterns.get_all() == ["^x"] and published.get_all() == ["x1"]
        await listen(other, "1$")
        provider.message(R, RecordAction.UNLISTEN, name="^x")
        await provider.expect(R, RecordAction.UNLISTEN, name="^x", is_ack=True)
        for client in (a, b):
            await client.expect(R, RecordAction.SUBSCRIPTION_HAS_NO_PROVIDER, name="x1")
        await found(other, "1$", "x1")
        accept(other, "1$", "x1")
        for client in (a, b):
            await client.expect(R, RecordAction.SUBSCRIPTION_HAS_PROVIDER, name="x1")
        a.message(R, RecordAction.UNSUBSCRIBE, names=["x1"], correlation_id="2")
        await a.expect(R, RecordAction.UNSUBSCRIBE, correlation_id="2", is_ack=True)
        await other.fence()  # somebody is still subscribed
        await b.close()
        await other.expect(R, RecordAction.SUBSCRIPTION_FOR_PATTERN_REMOVED, name="1$", subscription="x1")
        assert published.get_all() == [] and patterns.get_all() == ["1$"]
        for client in (provider, other, a):
            await client.close()
        await s.gone()
        s.assert_empty()
        assert names.get_all() == patterns.get_all() == []
        assert s.log.errors() == []


async def test_the_handlers_really_use_them():
    async with serve(**REPLACED, authentication=Users) as s:
        factory, states = s.services.subscriptions, s.services.cluster_states
        assert {type(registry) for registry in s.registries().values()} == {PluginRegistry}
        a, b = await s.login("A"), await s.login("B")
        assert states.registries[StateTopic.ONLINE_USERS].held == ["A", "B"]
        await subscribe(a, "news")
        events = factory.registries[E, StateTopic.EVENT_SUBSCRIPTIONS]
        assert list(events.sockets) == ["news"]
        assert [socket.user_id for socket in events.get_local_subscribers("news")] == ["A"]
        assert states.registries[StateTopic.EVENT_SUBSCRIPTIONS].held == ["news"]
        b.message(E, EventAction.EMIT, name="news", data=b"1")
        await a.expect(E, EventAction.EMIT, name="news", data=b"1")
        assert events.sent == 1
        b.message(E, EventAction.EMIT, name="nobody listens here, but perhaps on another server")
        await b.fence()
        assert events.sent == 2
        assert events.actions["MULTIPLE_SUBSCRIPTIONS"] == EventAction.MULTIPLE_SUBSCRIPTIONS
        rpc = factory.registries[Topic.RPC, StateTopic.RPC_SUBSCRIPTIONS]
        assert rpc.actions["SUBSCRIBE"] == RpcAction.PROVIDE
        await listen(b, "x")
        await subscribe(a, "x", R)
        await found(b, "x", "x")
        locks = s.services.locks
        assert locks.granted == ["5_LISTEN_LOCK_x"] and locks.held == {"5_LISTEN_LOCK_x"}
        accept(b, "x", "x")
        await a.expect(R, RecordAction.SUBSCRIPTION_HAS_PROVIDER, name="x")
        assert locks.held == set()


async def test_the_built_in_ones_are_the_core():
    async with serve() as s:
        assert {type(registry) for registry in s.registries().values()} == {WatchedRegistry}
        assert type(s.router.hub).__name__ == "Hub"
        names = s.services.cluster_states.get_state_registry(StateTopic.EVENT_SUBSCRIPTIONS)
        assert type(names) is SubscribedNames
        seen = []
        names.on_add(lambda name: seen.append(f"+{name}"))
        names.on_remove(lambda name: seen.append(f"-{name}"))
        names.on_add(lambda name: 1 / 0)
        client = await s.login()
        await subscribe(client, "a")
        await client.close()
        await s.gone()
        assert seen == ["+a", "-a"]
        assert "ZeroDivisionError" in s.log.find("PLUGIN_ERROR")[0]


# One topic


class Halved(CoreSubscriptionRegistry):
    """Every second event is dropped."""

    calls = 0

    def send_to_subscribers(self, name, message, no_delay, sender, suppress_remote=False):
        self.calls += 1
        if self.calls % 2:
            super().send_to_subscribers(name, message, no_delay, sender, suppress_remote)


class HalvedFactory(DefaultSubscriptionRegistryFactory):
    description = "drops every second event"

    def get_subscription_registry(self, topic, cluster_topic):
        registry = super().get_subscription_registry(topic, cluster_topic)
        if topic == E and not isinstance(registry, Halved):
            registry = Halved(self, topic, registry.core, None)
            self._registries[topic, cluster_topic] = registry
        return registry


async def test_a_registry_that_derives_from_the_built_in_one_for_one_topic():
    async with serve(subscriptions=HalvedFactory) as s:
        kinds = {topic: type(registry) for topic, registry in s.registries().items()}
        assert kinds.pop("event") is PluginRegistry
        assert set(kinds.values()) == {WatchedRegistry}
        a, b = await s.login("A"), await s.login("B")
        await listen(b, "^n", E)
        await subscribe(a, "n")
        found = await b.expect(E, EventAction.SUBSCRIPTION_FOR_PATTERN_FOUND)
        assert found.subscription == "n"
        for number in range(4):
            b.message(E, EventAction.EMIT, name="n", data=b"%d" % number)
        assert [(await a.receive()).data for _ in range(2)] == [b"0", b"2"]
        await a.fence()
        # Records are still sent by the core.
        await subscribe(a, "r", R)
        b.message(R, RecordAction.CREATEANDUPDATE, name="r", version=-1, data=b"{}")
        await a.expect(R, RecordAction.UPDATE)


# The plugin's own answers


async def test_a_registry_that_answers_itself():
    async with serve() as s:
        client = await s.login("A")
        (socket,) = s.endpoint.core.connections
        registry = s.services.subscriptions.get_subscription_registry(E, StateTopic.EVENT_SUBSCRIPTIONS)
        request = Message(E, EventAction.SUBSCRIBE, names=["a", "b"], correlation_id="1")
        single = request.replace(names=None, name="a")
        assert registry.subscribe("a", single, socket)
        await client.expect(E, EventAction.SUBSCRIBE, name="a", correlation_id="1", is_ack=True)
        assert not registry.subscribe("a", single, socket)
        await client.expect(
            E, EventAction.MULTIPLE_SUBSCRIPTIONS, name="a", original_action=EventAction.SUBSCRIBE
        )
        await client.expect(E, EventAction.SUBSCRIBE, name="a", correlation_id="1", is_ack=True)
        registry.subscribe_bulk(request, socket)
        await client.expect(E, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True)
        assert sorted(registry.get_names()) == ["a", "b"]
        registry.unsubscribe_bulk(request.replace(action=EventAction.UNSUBSCRIBE), socket)
        await client.expect(E, EventAction.UNSUBSCRIBE, correlation_id="1", is_ack=True)
        assert not registry.has_name("a") and registry.get_all_servers("a") == []
        with pytest.raises(TypeError, match="no connection"):
            registry.subscribe("a", single, object())


# Failures


class Broken(PythonSubscriptions):
    def subscribe(self, name, message, socket, silent=False):
        if name == "bad":
            raise RuntimeError("full")
        return super().subscribe(name, message, socket, silent)

    def send_to_subscribers(self, name, message, no_delay, sender, suppress_remote=False):
        if name == "unsendable":
            raise RuntimeError("no way")
        super().send_to_subscribers(name, message, no_delay, sender, suppress_remote)

    def has_local_subscribers(self, name):
        raise RuntimeError("unknown")


class BrokenFactory(PythonSubscriptionFactory):
    def get_subscription_registry(self, topic, cluster_topic):
        states = self.services.cluster_states.get_state_registry(cluster_topic)
        return self.registries.setdefault((topic, cluster_topic), Broken(states))


async def test_what_a_registry_raises_is_the_error_of_one_operation():
    async with serve(subscriptions=BrokenFactory) as s:
        client = await s.login()
        client.message(E, EventAction.SUBSCRIBE, names=["bad"], correlation_id="1")
        await client.fence()  # neither acknowledged nor closed
        assert any("full" in text for _, _, text in s.log.lines)
        client.message(E, EventAction.EMIT, name="unsendable")
        await client.fence()
        assert s.log.find("PLUGIN_ERROR")[-1] == (
            "subscriptions failed in send_to_subscribers: RuntimeError('no way')"
        )
        client.message(R, RecordAction.NOTIFY, names=["n"], correlation_id="1")
        await client.expect(R, RecordAction.NOTIFY, names=["n"], correlation_id="1", is_ack=True)
        assert "has_local_subscribers" in s.log.find("PLUGIN_ERROR")[-1]
        client.message(
            R, RecordAction.CREATEANDUPDATE, name="unsendable", version=-1, data=b"{}", is_write_ack=True
        )
        await client.expect(R, RecordAction.WRITE_ACKNOWLEDGEMENT)
        await subscribe(client, "good")


class BrokenStates(PythonStates):
    def has(self, name):
        raise RuntimeError("lost")

    def add(self, name):
        raise RuntimeError("full")

    remove = get_all = has


class BrokenStateFactory(PythonStateFactory):
    def get_state_registry(self, topic):
        return self.registries.setdefault(topic, BrokenStates("x"))


async def test_what_a_state_registry_raises_ends_nothing():
    async with serve(cluster_states=BrokenStateFactory, authentication=Users) as s:
        a, b = await s.login("A"), await s.login("B")
        await subscribe(a, "e")
        b.message(E, EventAction.EMIT, name="e")
        await a.expect(E, EventAction.EMIT, name="e")
        a.message(Topic.PRESENCE, PresenceAction.QUERY_ALL)
        await a.expect(Topic.PRESENCE, PresenceAction.QUERY_ALL_RESPONSE)
        await listen(a, "x")
        await b.close()
        await s.log.wait_for("CLIENT_DISCONNECTED")
        faults = set(s.log.find("PLUGIN_ERROR"))
        assert faults >= {f"cluster_states failed in {call}" for call in ("add: RuntimeError('full')",)}
        await a.fence()


class NeverReady(PythonStates):
    async def when_ready(self):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("services", "text"),
    [
        (
            {
                "subscriptions": type(
                    "F", (PythonSubscriptionFactory,), {"get_subscription_registry": lambda *_: 5}
                )
            },
            "subscriptions: 5 is no SubscriptionRegistry",
        ),
        ({"subscriptions": SubscriptionRegistryFactory}, "subscriptions needs to implement get_subscription"),
        ({"locks": LockRegistry}, "locks needs to implement get, release"),
    ],
)
async def test_what_ends_the_start(services, text):
    with pytest.raises(StartError, match=text):
        async with serve(**services):
            pass


async def test_presence_needs_two_registries():
    class One(PythonSubscriptionFactory):
        def get_subscription_registry(self, topic, cluster_topic):
            return super().get_subscription_registry(topic, 0)

    with pytest.raises(StartError, match="presence needs a registry for each"):
        async with serve(subscriptions=One):
            pass


async def test_states_that_are_not_ready_end_the_start():
    class Late(PythonStateFactory):
        def get_state_registry(self, topic):
            return self.registries.setdefault(topic, NeverReady("x"))

    with pytest.raises(StartError, match="cluster states weren't initialised in time"):
        async with serve({"dependencyInitializationTimeout": 1000}, cluster_states=Late):
            pass


# The rest of a cluster, as far as a state registry tells of it


class OtherServer(PythonStates):
    """What another server holds is added by the test."""

    def add_remote(self, name):
        self.remote = name
        self._tell(self.adds, name)

    def remove_remote(self):
        name, self.remote = self.remote, None
        self._tell(self.removes, name)

    remote = None

    def has(self, name):
        return name == self.remote or super().has(name)

    def get_all(self, server=None):
        return super().get_all(server) + ([self.remote] if self.remote and server is None else [])


class OtherServerFactory(PythonStateFactory):
    def get_state_registry(self, topic):
        return self.registries.setdefault(topic, OtherServer(self.config.server_name))


@pytest.mark.parametrize("subscriptions", [DefaultSubscriptionRegistryFactory, PythonSubscriptionFactory])
async def test_names_that_another_server_holds(subscriptions):
    async with serve(
        cluster_states=OtherServerFactory, subscriptions=subscriptions, authentication=Users
    ) as s:
        states = s.services.cluster_states.registries
        a, b = await s.login("A"), await s.login("B")
        # A user who is logged in elsewhere.
        a.message(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL)
        await a.expect(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL, is_ack=True)
        states[StateTopic.ONLINE_USERS].add_remote("far")
        await a.expect(Topic.PRESENCE, PresenceAction.PRESENCE_JOIN_ALL, name="far")
        a.message(Topic.PRESENCE, PresenceAction.QUERY_ALL)
        await a.expect(Topic.PRESENCE, PresenceAction.QUERY_ALL_RESPONSE, names=["B", "far"])
        states[StateTopic.ONLINE_USERS].remove_remote()
        await a.expect(Topic.PRESENCE, PresenceAction.PRESENCE_LEAVE_ALL, name="far")
        # A name that is provided elsewhere: nobody is asked here, subscribers are told.
        published = states[StateTopic.RECORD_PUBLISHED_SUBSCRIPTIONS]
        published.add_remote("x")
        await listen(b, "x")
        a.message(R, RecordAction.SUBSCRIBE, names=["x"], correlation_id="1")
        await a.expect(R, RecordAction.SUBSCRIPTION_HAS_PROVIDER, name="x")
        await a.expect(R, RecordAction.SUBSCRIBE, correlation_id="1", is_ack=True)
        await b.fence()
        # When that provider is gone, somebody here is asked.
        published.remove_remote()
        await a.expect(R, RecordAction.SUBSCRIPTION_HAS_NO_PROVIDER, name="x")
        await found(b, "x", "x")
        # A name that is subscribed to elsewhere only.
        await listen(b, "^far")
        states[StateTopic.RECORD_SUBSCRIPTIONS].add_remote("far")
        await found(b, "^far", "far")
        accept(b, "^far", "far")
        states[StateTopic.RECORD_SUBSCRIPTIONS].remove_remote()
        await b.expect(R, RecordAction.SUBSCRIPTION_FOR_PATTERN_REMOVED, name="^far", subscription="far")


# Locks


async def test_a_lock_that_is_refused_stops_the_search_and_the_next_reason_begins_one():
    class Refusing(PythonLocks):
        refuse = 1

        async def get(self, name):
            self.refuse -= 1
            return self.refuse < 0 and await super().get(name)

    async with serve(locks=Refusing) as s:
        provider, a = await s.login("p"), await s.login("a")
        await listen(provider, "x")
        await subscribe(a, "x", R)
        await s.until(lambda: s.services.locks.refuse == 0)
        await provider.fence()
        await listen(provider, "^x")  # another pattern: another search
        message = await provider.expect(R, RecordAction.SUBSCRIPTION_FOR_PATTERN_FOUND)
        assert message.subscription == "x"


async def test_a_lock_that_comes_too_late_is_given_back():
    class Late(PythonLocks):
        def init(self):
            self.now = asyncio.Event()
            self.released = []

        async def get(self, name):
            await self.now.wait()
            return True

        def release(self, name):
            self.released.append(name)

    async with serve({"locks": {"options": {"requestTimeout": 50}}}, locks=Late) as s:
        provider, a = await s.login("p"), await s.login("a")
        await listen(provider, "x")
        await subscribe(a, "x", R)
        await s.log.wait_for("LOCK_REQUEST_TIMEOUT")
        assert s.services.locks.released == []
        s.services.locks.now.set()
        await s.until(lambda: s.services.locks.released == ["5_LISTEN_LOCK_x"])
        await provider.fence()


async def test_a_lock_that_is_lost_ends_the_search():
    class Lost(PythonLocks):
        async def renew(self, name):
            self.held.discard(name)
            return False

    async with serve(
        {"locks": {"options": {"holdTimeout": 60}}, "listen": {"responseTimeout": 60_000}}, locks=Lost
    ) as s:
        provider, a = await s.login("p"), await s.login("a")
        await listen(provider, "x")
        await subscribe(a, "x", R)
        await found(provider, "x", "x")
        await s.until(lambda: not s.services.locks.held)
        accept(provider, "x", "x")
        await provider.expect(R, RecordAction.SUBSCRIPTION_FOR_PATTERN_REMOVED, name="x", subscription="x")
        await a.fence()


async def test_locks_that_fail_are_a_refusal():
    class Failing(PythonLocks):
        async def get(self, name):
            raise OSError("no locks today")

    async with serve(locks=Failing) as s:
        provider, a = await s.login("p"), await s.login("a")
        await listen(provider, "x")
        await subscribe(a, "x", R)
        assert "no locks today" in (await s.log.wait_for("PLUGIN_ERROR"))[0]
        await provider.fence()


async def test_a_registry_that_stands_for_no_plugin_is_no_crash():
    async with serve() as s:
        registry = PluginRegistry(s.router.hub, E)
        client = await s.login("A")
        with pytest.raises(AttributeError):
            registry.add("x", s.connection("A"))
        await client.fence()


async def test_all_services_can_be_set_in_both_spellings():
    server = Server({"connectionEndpoints": [{"type": "ws-binary"}]})
    for key in (
        *("clusterNode", "cluster_node", "clusterRegistry", "clusterStates", "locks", "subscriptions"),
        *("httpService", "http_service", "telemetry", "connectionEndpoints", "connection_endpoints"),
    ):
        server.set(key, object())


class OwnPort(HttpService):
    description = "an HTTP service of somebody else"


async def test_the_options_of_an_http_service_that_derives_from_the_built_in_one():
    section = {
        "class": OwnPort,
        "options": {"host": "127.0.0.1", "port": "0", "healthCheckPath": "/well", "x": 1},
    }
    async with serve({"httpServer": section}) as s:
        assert type(s.services.http_service) is OwnPort
        assert s.services.http_service.options["x"] == 1
        assert s.services.http_service.addresses[0][0] == "127.0.0.1"
        client = await s.connect()
        client.write(b"GET /well HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response()).status == 200
        assert (await (await s.login()).fence()) is None
    with pytest.raises(StartError, match="Expected `int`"):
        async with serve({"httpServer": {"class": OwnPort, "options": {"port": "many"}}}):
            pass
