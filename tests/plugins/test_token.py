"""Authentication by preconfigured tokens, permission by the user id in the name: alone and in a server."""

from __future__ import annotations

from typing import Any

import pytest

from dsfast.config import load
from dsfast.plugin import UNSET
from dsfast.protocol import AuthAction, EventAction, Message, PresenceAction, RecordAction, Topic
from dsfast.testing import AuthenticationConformance, PermissionConformance, plugin_services
from dsfast_plugins.options import OptionError
from dsfast_plugins.own_names import OwnNamesPermission
from dsfast_plugins.token import TokenAuthentication
from tests.wire import auth_request, serve

loops = ["uvloop"]

TOKENS = {
    "secret of alice": "alice",
    "secret of the service": {"id": "service", "clientData": {"n": 1}, "serverData": {"role": "admin"}},
    "none for the client": {"id": "null", "clientData": None},
}


class TestTokens(AuthenticationConformance):
    plugin_class = TokenAuthentication

    @pytest.fixture
    def options(self) -> Any:
        return {"tokens": TOKENS}

    @pytest.fixture
    def login(self) -> Any:
        return {"token": "secret of alice"}

    @pytest.fixture
    def refused_logins(self) -> Any:
        return [{"token": "secret of bob"}, {"token": "SECRET OF ALICE"}]


class TestOwnNames(PermissionConformance):
    plugin_class = OwnNamesPermission

    @pytest.fixture
    def allowed(self) -> Any:
        return [Message(Topic.EVENT, EventAction.EMIT, name=name) for name in ("user", "chat/user")]

    @pytest.fixture
    def refused(self) -> Any:
        return [Message(Topic.EVENT, EventAction.EMIT, name=name) for name in ("users", "chat/other")]


def tokens(**options: Any) -> TokenAuthentication:
    return TokenAuthentication({"tokens": TOKENS, **options}, plugin_services(), load())


async def answer(plugin: TokenAuthentication, **auth_data: Any) -> Any:
    result = await plugin.is_valid_user({}, auth_data)
    return result and (result.is_valid, result.id, result.client_data, result.server_data)


async def test_tokens() -> None:
    plugin = tokens()
    assert await answer(plugin, token="secret of alice") == (True, "alice", UNSET, None)
    assert await answer(plugin, token="secret of the service") == (
        True, "service", {"n": 1}, {"role": "admin"},
    )  # fmt: skip
    assert await answer(plugin, token="none for the client") == (True, "null", None, None)
    for wrong in ("secret of Alice", "", "alice", 5, ["secret of alice"], True, "\ud800"):
        assert await answer(plugin, token=wrong) == (False, None, UNSET, None)
    assert await answer(plugin, username="alice") is None
    assert await answer(plugin, token=None) is None
    assert await answer(tokens(key="pass"), **{"pass": "secret of alice"}) == (True, "alice", UNSET, None)
    assert await answer(tokens(key="pass"), token="secret of alice") is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "option tokens: is required"),
        ({"tokens": {}}, "option tokens: expected object of length >= 1"),
        ({"tokens": ["a"]}, "option tokens: expected object, got array"),
        ({"tokens": {"secret": 5}}, "option tokens: .*expected str | object, got int"),
        ({"tokens": {"secret": {"id": ""}}}, "option tokens: .*id: expected str of length >= 1"),
        ({"tokens": {"secret": {"data": 1}}}, "option tokens: "),
        ({"tokens": {"a": "b"}, "key": 1}, "option key: expected str, got int"),
    ],
)
def test_wrong_tokens_are_named_without_showing_them(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text) as caught:
        TokenAuthentication(options, plugin_services(), load())
    assert "secret" not in str(caught.value)


async def test_tokens_in_a_server() -> None:
    config = {"auth": [{"class": TokenAuthentication, "options": {"tokens": TOKENS, "tokn": 1}}]}
    async with serve(config) as s:
        assert "token authentication: option tokn is unknown, did you mean tokens?" in s.log.find(
            "INVALID_CONFIG_DATA"
        )
        client = await s.challenged()
        client.send(auth_request(b'{"token":"guess"}'))
        await client.expect(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL)
        client.send(auth_request(b'{"token":"secret of the service"}'))
        assert (await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)).data == b'{"n":1}'
        assert not any("secret of" in text for _, _, text in s.log.lines)


class Somebody:
    def __init__(self, user_id: str | None) -> None:
        self.user_id = user_id


E, R, P = Topic.EVENT, Topic.RECORD, Topic.PRESENCE


@pytest.mark.parametrize(
    ("user", "topic", "action", "name", "allowed"),
    [
        ("alice", E, EventAction.EMIT, "chat/alice", True),
        ("alice", E, EventAction.EMIT, "alice", True),
        ("alice", E, EventAction.EMIT, "alice/a/b", True),
        ("alice", E, EventAction.EMIT, "chat/bob", False),
        ("alice", E, EventAction.EMIT, "malice", False),
        ("alice", E, EventAction.EMIT, "chat/alice2", False),
        ("a/b", R, RecordAction.READ, "x/a/b/y", True),
        ("a/b", R, RecordAction.READ, "x/a/c/b", False),
        ("alice", E, EventAction.EMIT, "news/today", True),  # shared
        ("alice", R, RecordAction.LISTEN, ".*|/alice/", False),
        ("alice", E, EventAction.LISTEN, "alice", False),
        ("root", E, EventAction.LISTEN, ".*", True),  # an admin
        ("root", R, RecordAction.DELETE, "chat/bob", True),
        ("alice", P, PresenceAction.QUERY_ALL, None, True),
        ("", E, EventAction.EMIT, "a//b", False),
        (None, E, EventAction.EMIT, "news/today", False),
    ],
)
def test_names(user: str | None, topic: int, action: int, name: str | None, allowed: bool) -> None:
    options = {"shared": ["news/"], "admins": ["root"]}
    plugin = OwnNamesPermission(options, plugin_services(), load())
    assert plugin.can_perform_action(Somebody(user), Message(topic, action, name=name)) is allowed  # type: ignore[arg-type]


def test_a_user_anywhere_in_the_name() -> None:
    plugin = OwnNamesPermission({"match": "anywhere"}, plugin_services(), load())
    allowed = [
        plugin.can_perform_action(Somebody("al"), Message(E, EventAction.EMIT, name=name))  # type: ignore[arg-type]
        for name in ("alice", "malice", "bob")
    ]
    assert allowed == [True, True, False]
    dots = OwnNamesPermission({"separator": "."}, plugin_services(), load())
    assert dots.can_perform_action(Somebody("al"), Message(E, EventAction.EMIT, name="x.al"))  # type: ignore[arg-type]
    assert not dots.can_perform_action(Somebody("al"), Message(E, EventAction.EMIT, name="x/al"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"match": "some"}, "option match: invalid enum value 'some'"),
        ({"separator": ""}, "option separator: expected str of length >= 1"),
        ({"shared": "news/"}, "option shared: expected array, got str"),
        ({"admins": [1]}, "option admins: .*expected str, got int"),
        ({"shared": [""]}, "option shared: .*expected str of length >= 1"),
    ],
)
def test_wrong_options_of_the_permission(options: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        OwnNamesPermission(options, plugin_services(), load())


async def test_names_in_a_server() -> None:
    config = {
        "auth": [{"class": TokenAuthentication, "options": {"tokens": TOKENS}}],
        "permission": {"class": OwnNamesPermission, "options": {"admins": ["service"]}},
    }
    async with serve(config) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"token":"secret of alice"}'))
        await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
        names = ["chat/alice", "chat/bob"]
        client.message(E, EventAction.SUBSCRIBE, names=names, correlation_id="1")
        denied = await client.expect(E, EventAction.MESSAGE_DENIED)
        assert denied.name == "chat/bob"
        await client.expect(E, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True)
        client.message(R, RecordAction.CREATEANDUPDATE, name="bob", version=1, data=b"{}", correlation_id="2")
        assert (await client.expect(R, RecordAction.MESSAGE_DENIED)).name == "bob"
        assert s.registries()["event"].names() == ["chat/alice"]
