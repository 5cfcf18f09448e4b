"""The test kit, as the author of a plugin uses it."""

from collections.abc import Mapping
from typing import Any

import pytest

from dsfast.protocol import EventAction, Message, Topic
from dsfast.testing import (
    AuthenticationConformance,
    FakeSocket,
    LocalClient,
    LockConformance,
    PermissionConformance,
    served,
    started,
)
from tests.typed.cluster import Files
from tests.typed.services import OwnNames, Tokens


class TestTokens(AuthenticationConformance):
    plugin_class = Tokens

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        return {"tokens": {"a": "b"}}

    @pytest.fixture
    def login(self) -> Mapping[str, Any]:
        return {"token": "a"}


class TestOwnNames(PermissionConformance):
    plugin_class = OwnNames

    @pytest.fixture
    def allowed(self) -> list[Message]:
        return [Message(Topic.EVENT, EventAction.EMIT, name="a")]


class TestFiles(LockConformance):
    plugin_class = Files
    expires = True


async def use() -> None:
    async with started(Files, {"a": 1}) as locks:
        assert await locks.get("a")
    async with served({"serverName": "a"}, locks=Files) as server:
        client = LocalClient(server.services, "a")
        client.send(Topic.EVENT, EventAction.EMIT, name="a")
        assert (await client.receive()).name == "a"
    permission = OwnNames({}, server.services, server.server.get_config())
    permission.can_perform_action(FakeSocket("a"), Message(Topic.EVENT, EventAction.EMIT))
