"""The suites of dsfast.testing on what is built in, on plain Python, and on mistakes they have to find."""

import asyncio

import pytest
import pytest_asyncio

from dsfast import Authentication, AuthResult, Permission, PluginError
from dsfast.config import load
from dsfast.protocol import EventAction, Message, RecordAction, Topic
from dsfast.services.authentication import OpenAuthentication
from dsfast.services.authentication.file import FileAuthentication
from dsfast.services.cluster_registry import SingleServer
from dsfast.services.cluster_states import LocalStateRegistryFactory
from dsfast.services.locks import LeaderLocks
from dsfast.services.permission import OpenPermission
from dsfast.services.subscriptions import DefaultSubscriptionRegistryFactory
from dsfast.testing import (
    AuthenticationConformance,
    ClusterNodeConformance,
    ClusterRegistryConformance,
    FakeSocket,
    LockConformance,
    MemoryNode,
    PermissionConformance,
    StateRegistryConformance,
    SubscriptionRegistryConformance,
    plugin_services,
    started,
)
from tests.replaced_services import (
    PythonCluster,
    PythonLocks,
    PythonStateFactory,
    PythonSubscriptionFactory,
)

loops = ["asyncio", "uvloop"]


# Authentication


class TestOpenAuthentication(AuthenticationConformance):
    plugin_class = OpenAuthentication
    lets_everybody_in = True

    @pytest.fixture
    def login(self):
        return {"username": "a"}


class TestFileAuthentication(AuthenticationConformance):
    plugin_class = FileAuthentication

    @pytest.fixture
    def options(self):
        section = {"type": "file", "options": {"users": {"a": {"password": "secret"}}, "hash": False}}
        return load({"auth": [section]}).auth[0].options

    @pytest.fixture
    def login(self):
        return {"username": "a", "password": "secret"}

    @pytest.fixture
    def refused_logins(self):
        return [{"username": "a", "password": "Secret"}, {"username": "b", "password": "secret"}]


class Tokens(Authentication):
    description = "tokens"

    async def is_valid_user(self, connection_data, auth_data):
        token = auth_data.get("token")
        if not isinstance(token, str):
            return None
        return AuthResult(token == "right", id="a", client_data={"a": [1]}, expires=2e9)


class TestTokens(AuthenticationConformance):
    plugin_class = Tokens

    @pytest.fixture
    def login(self):
        return {"token": "right"}

    @pytest.fixture
    def refused_logins(self):
        return [{"token": "wrong"}]


# Permission


class TestOpenPermission(PermissionConformance):
    plugin_class = OpenPermission

    @pytest.fixture
    def allowed(self):
        return [Message(Topic.EVENT, EventAction.EMIT, name="a")]


class OwnNames(Permission):
    description = "own names"

    def can_perform_action(self, socket, message):
        return message.name is None or self.ask(message.name, socket.user_id)

    async def ask(self, name, user):
        await asyncio.sleep(0)
        return (user or "") in name


class TestOwnNames(PermissionConformance):
    plugin_class = OwnNames

    @pytest.fixture
    def allowed(self):
        return [Message(Topic.RECORD, RecordAction.READ, name="of/user")]

    @pytest.fixture
    def refused(self):
        return [Message(Topic.RECORD, RecordAction.READ, name="of/others")]


# The cluster


class TestLeaderLocks(LockConformance):
    plugin_class = LeaderLocks
    expires = True

    @pytest.fixture
    def options(self):
        return {"holdTimeout": 200, "requestTimeout": 5000}


class LeaderOne(SingleServer):
    def get_all(self):
        return ["one", "two"]

    def get_leader(self):
        return "one"


class TestLocksOfAnotherLeader(LockConformance):
    """This server asks its leader by messages; the other one is the leader."""

    plugin_class = LeaderLocks
    expires = True

    @pytest.fixture
    def options(self):
        return {"holdTimeout": 300, "requestTimeout": 5000}

    @pytest.fixture
    def bus(self):
        return {}

    @pytest_asyncio.fixture
    async def other(self, bus, options):
        async with self.server("one", bus, options) as locks:
            yield locks

    @pytest_asyncio.fixture
    async def locks(self, bus, options, other):
        async with self.server("two", bus, options) as locks:
            yield locks

    def server(self, name, bus, options):
        config = load({"serverName": name})
        services = plugin_services(config=config)
        services.cluster_node = MemoryNode({"bus": bus}, services, config)
        services.cluster_node.init()
        services.cluster_registry = LeaderOne({}, services, config)
        return started(LeaderLocks, options, config=config, services=services)


class TestPythonLocks(LockConformance):
    plugin_class = PythonLocks


class TestMemoryNode(ClusterNodeConformance):
    plugin_class = MemoryNode

    @pytest.fixture
    def options(self):
        return {"bus": {}}


class TestSingleServer(ClusterRegistryConformance):
    plugin_class = SingleServer


class TestPythonCluster(ClusterRegistryConformance):
    plugin_class = PythonCluster


class TestLocalStates(StateRegistryConformance):
    plugin_class = LocalStateRegistryFactory


class TestPythonStates(StateRegistryConformance):
    plugin_class = PythonStateFactory


class TestCoreSubscriptions(SubscriptionRegistryConformance):
    plugin_class = DefaultSubscriptionRegistryFactory


class Derived(DefaultSubscriptionRegistryFactory):
    """The same, but behind the door for plugins."""


class TestDerivedSubscriptions(SubscriptionRegistryConformance):
    plugin_class = Derived


class TestPythonSubscriptions(SubscriptionRegistryConformance):
    plugin_class = PythonSubscriptionFactory


# Mistakes


async def the_suite_finds(suite, plugin, test, *arguments, options=None):
    async with started(plugin, options) as made:
        with pytest.raises((AssertionError, TypeError, KeyError, AttributeError)):
            await getattr(suite(), test)(made, *arguments)


class Careless(Authentication):
    description = "careless"

    async def is_valid_user(self, connection_data, auth_data):
        return AuthResult(auth_data["username"] == "a", id=5)


async def test_the_suite_for_authentications_finds_mistakes():
    await the_suite_finds(
        AuthenticationConformance, Careless, "test_the_login_is_accepted", {"username": "a"}
    )
    await the_suite_finds(
        AuthenticationConformance, Careless, "test_nonsense_is_refused_without_an_exception", {}
    )


class Nameless(Permission):
    description = "cannot live without a name"

    def can_perform_action(self, socket, message):
        message.data = None
        return message.name.startswith("a")


async def test_the_suite_for_permissions_finds_mistakes():
    for test in ("test_every_message_gets_an_answer", "test_it_changes_nothing_and_answers_nobody"):
        await the_suite_finds(PermissionConformance, Nameless, test, FakeSocket())


class Forgetful(PythonLocks):
    async def get(self, name):
        return True


class Grudging(PythonLocks):
    def release(self, name):
        raise PluginError("never")


async def test_the_suite_for_locks_finds_mistakes():
    for test in ("test_a_lock_is_held_once", "test_one_of_many_gets_it"):
        await the_suite_finds(LockConformance, Forgetful, test)
    async with started(Grudging) as locks:
        with pytest.raises(PluginError):
            await LockConformance().test_what_is_not_held_can_be_released(locks)
