import pytest
from my_authentication import Tokens
from my_permission import OwnNames

from dsfast.protocol import EventAction, Message, RecordAction, Topic
from dsfast.testing import PermissionConformance, served

CONFIG = {
    "auth": [{"class": Tokens, "options": {"tokens": {"secret a": "alice", "secret b": "bob"}}}],
    "permission": {"class": OwnNames},
}


class TestOwnNames(PermissionConformance):
    """What every permission has to do; the socket is that of "user"."""

    plugin_class = OwnNames

    @pytest.fixture
    def allowed(self):
        return [Message(Topic.EVENT, EventAction.EMIT, name=name) for name in ("user", "chat/user")]

    @pytest.fixture
    def refused(self):
        return [Message(Topic.EVENT, EventAction.EMIT, name=name) for name in ("chat", "users", "chat/other")]


async def test_names():
    async with served(CONFIG) as s:
        alice = await s.connect({"token": "secret a"})
        names = ["chat/alice", "chat/bob"]
        await alice.send(Topic.EVENT, EventAction.SUBSCRIBE, names=names, correlationId="1")
        denied = await alice.expect(Topic.EVENT, EventAction.MESSAGE_DENIED)
        assert denied["name"] == "chat/bob"
        await alice.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        await alice.send(Topic.EVENT, EventAction.LISTEN, name=".*|alice")
        await alice.expect(Topic.EVENT, EventAction.MESSAGE_DENIED)


async def test_owners():
    async with served(CONFIG) as s:
        alice, bob = await s.connect({"token": "secret a"}), await s.connect({"token": "secret b"})
        shared = {"name": "alice/shared", "version": 1, "parsedData": {"owner": "bob"}}
        await alice.send(
            Topic.RECORD, RecordAction.CREATEANDUPDATE, **shared, isWriteAck=True, correlationId="1"
        )
        await alice.expect(Topic.RECORD, RecordAction.WRITE_ACKNOWLEDGEMENT)
        await bob.send(Topic.RECORD, RecordAction.READ, name="alice/shared")
        await bob.expect(Topic.RECORD, RecordAction.READ_RESPONSE)
        await bob.send(Topic.RECORD, RecordAction.READ, name="alice/other")
        await bob.expect(Topic.RECORD, RecordAction.MESSAGE_DENIED)
