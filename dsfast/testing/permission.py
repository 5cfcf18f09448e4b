"""What every permission plugin has to do (plugins.md B.3)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from dsfast.plugin import Permission
from dsfast.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic
from dsfast.testing.plugins import PATIENCE, started
from dsfast.testing.samples import NAMES
from dsfast.testing.sockets import FakeSocket

__all__ = ["PermissionConformance"]

ACTIONS = {
    Topic.EVENT: EventAction,
    Topic.RECORD: RecordAction,
    Topic.RPC: RpcAction,
    Topic.PRESENCE: PresenceAction,
}


class Records:
    """A server without records."""

    async def get_record(self, name: str) -> tuple[int, Any]:
        """There is none."""
        return -1, None


class PermissionConformance:
    """Subclass it, name the class in ``plugin_class``, and override ``allowed`` and ``refused``."""

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[Permission]]

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest.fixture
    def socket(self) -> FakeSocket:
        """Who asks."""
        return FakeSocket("user")

    @pytest.fixture
    def allowed(self) -> list[Message]:
        """Messages that ``socket`` may send."""
        return []

    @pytest.fixture
    def refused(self) -> list[Message]:
        """Messages that ``socket`` may not send."""
        return []

    @pytest_asyncio.fixture
    async def permission(self, options: Mapping[str, Any]) -> AsyncIterator[Permission]:
        """The plugin, ready, with access to the records."""
        async with started(self.plugin_class, options) as permission:
            permission.set_record_handler(Records())
            yield permission

    async def test_describes_itself(self, permission: Permission) -> None:
        assert permission.description

    async def test_what_is_allowed_and_what_is_not(
        self, permission: Permission, socket: FakeSocket, allowed: list[Message], refused: list[Message]
    ) -> None:
        for expected, messages in ((True, allowed), (False, refused)):
            for message in messages:
                for _ in range(2):
                    assert await _decision(permission, socket, message) is expected, message.to_dict()

    async def test_every_message_gets_an_answer(self, permission: Permission, socket: FakeSocket) -> None:
        """One exception is one refused message; but a plugin should know all that can be asked."""
        for message in _messages():
            await _decision(permission, socket, message)

    async def test_any_name_will_do(self, permission: Permission, socket: FakeSocket) -> None:
        for name in NAMES:
            await _decision(permission, socket, Message(Topic.EVENT, EventAction.EMIT, name=name, data=b"1"))
            await _decision(permission, socket, Message(Topic.RECORD, RecordAction.READ, name=name))

    async def test_any_user_will_do(self, permission: Permission) -> None:
        for user in ("OPEN", "open", "", "\x00", "x" * 100_000, "$user", "a/b", "../.."):
            socket = FakeSocket(user, server_data={"role": ["a"]}, client_data=None)
            await _decision(permission, socket, Message(Topic.EVENT, EventAction.SUBSCRIBE, name="a"))

    async def test_it_changes_nothing_and_answers_nobody(
        self, permission: Permission, socket: FakeSocket
    ) -> None:
        for message in _messages():
            before = message.to_dict()
            await _decision(permission, socket, message)
            assert message.to_dict() == before
        assert socket.sent == [] and not socket.is_closed

    async def test_questions_do_not_meet(self, permission: Permission, socket: FakeSocket) -> None:
        """The same answers, asked one after the other and all at once."""
        messages = list(_messages())
        single = [await _decision(permission, socket, message) for message in messages]
        together = await asyncio.gather(*[_decision(permission, socket, message) for message in messages])
        assert together == single

    async def test_close_without_a_start_and_twice(
        self, options: Mapping[str, Any], permission: Permission
    ) -> None:
        other = self.plugin_class(options, permission.services, permission.config)
        other.init()
        await other.close()
        await other.close()


async def _decision(permission: Permission, socket: FakeSocket, message: Message) -> bool:
    answer = permission.can_perform_action(socket, message)
    if inspect.isawaitable(answer):
        async with asyncio.timeout(PATIENCE):
            answer = await answer
    return bool(answer)


def _messages() -> Iterator[Message]:
    """Every action of every topic, with and without a name, data and a path."""
    for topic, actions in ACTIONS.items():
        for action in actions:
            yield Message(topic, action, name="a/b", data=b'{"a":1}', version=1, path="a", correlation_id="1")
            yield Message(topic, action, name="a/b")
            yield Message(topic, action)
            yield Message(topic, action, name="a/b", data=b"not JSON")
