"""What the record tests share: a client that speaks of records only, and plugins that wait for the test.

Nothing here sleeps: a test waits for a message, or for a plugin to have been called.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from dsfast._core.protocol import ConnectionAction, Message, RecordAction, Topic, encode
from dsfast.plugin import Cache, Permission, Storage
from tests.wire import ACCEPT, CHALLENGE, TIMEOUT, Client, Running, auth_request

R = RecordAction


class RecordClient:
    """A logged-in client of a server in this process."""

    def __init__(self, client: Client) -> None:
        self.wire = client

    @classmethod
    async def login(
        cls, running: Running, user: str | None = None, *, sdk: str | None = None
    ) -> RecordClient:
        """Log in; ``sdk`` is the version that the client says it has."""
        if sdk is None:
            return cls(await running.login(user))
        client = await running.websocket()
        challenge = Message(
            Topic.CONNECTION, ConnectionAction.CHALLENGE, sdk_version=sdk, sdk_type="javascript"
        )
        client.send(encode(challenge))
        assert await client.payload() == ACCEPT
        client.send(auth_request())
        await client.payload()
        return cls(client)

    @classmethod
    async def connect(cls, port: int) -> RecordClient:
        """Log in at a server in another process."""
        return cls(await Client.login(port))

    def send(self, action: RecordAction, **fields: Any) -> None:
        """Send one message; ``data`` may be any JSON value, bytes are sent as they are."""
        self.wire.message(Topic.RECORD, action, **_coded(fields))

    def send_all(self, *messages: tuple[RecordAction, dict[str, Any]]) -> None:
        """Send several messages in one write."""
        self.wire.send(
            *(encode(Message(Topic.RECORD, action, **_coded(fields))) for action, fields in messages)
        )

    async def receive(self) -> Message:
        """The next message, whose data has to be JSON: clients die of anything else."""
        message = await self.wire.receive()
        if message.data is not None:
            json.loads(message.data)
        return message

    async def expect(self, action: RecordAction, **fields: Any) -> None:
        """The next message has this action and exactly these fields."""
        message = await self.receive()
        assert message.topic == Topic.RECORD, message
        assert fields_of(message) == ({"action": action, **fields}), (
            RecordAction(message.action).name,
            message,
        )

    async def read(self, name: str) -> tuple[int, Any]:
        """Version and data by READ; (-1, None) if the record is missing."""
        self.send(R.READ, name=name)
        message = await self.receive()
        assert message.name == name, message
        if message.action == R.RECORD_NOT_FOUND:
            return -1, None
        assert message.action == R.READ_RESPONSE, message
        assert message.version is not None
        return message.version, json.loads(message.data or b"null")

    async def set(self, name: str, data: Any, version: int = -1) -> None:
        """Create or replace a record and wait until it is done."""
        self.send(
            R.CREATEANDUPDATE, name=name, version=version, data=data, is_write_ack=True, correlation_id="set"
        )
        await self.expect(R.WRITE_ACKNOWLEDGEMENT, name=name, correlation_id="set", is_write_ack=True)

    async def subscribe(self, *names: str) -> None:
        """SUBSCRIBE, which sends no data."""
        self.send(R.SUBSCRIBE, names=list(names), correlation_id="sub")
        await self.expect(R.SUBSCRIBE, correlation_id="sub", is_ack=True)

    async def fence(self) -> None:
        """Everything sent before was handled, and nothing else came back."""
        await self.wire.fence()


def _coded(fields: dict[str, Any]) -> dict[str, Any]:
    data = fields.get("data")
    if "data" in fields and not isinstance(data, bytes):
        return {**fields, "data": json.dumps(data, separators=(",", ":")).encode()}
    return fields


def fields_of(message: Message) -> dict[str, Any]:
    """The fields of a message without its topic, data as a value."""
    fields = message.to_dict()
    del fields["topic"]
    if "data" in fields:
        fields["data"] = json.loads(fields["data"])
    return fields


class Gate:
    """Counts calls, and holds or fails those that it was told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._blocked: set[str] = set()
        self._errors: dict[str, list[Exception]] = {}
        self._held: list[tuple[str, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    async def passed(self, operation: str, name: str) -> None:
        """Called by the plugin at the beginning of every operation."""
        self.calls.append((operation, name))
        self._changed.set()
        if operation in self._blocked:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._held.append((operation, future))
            await future
        elif self._errors.get(operation):
            raise self._errors[operation].pop(0)

    def block(self, *operations: str) -> None:
        """Hold these operations from now on."""
        self._blocked.update(operations)

    def recover(self, operation: str) -> None:
        """Hold no more calls; those that are held stay so, as if their answers were lost."""
        self._blocked.discard(operation)

    def fail(self, operation: str, *errors: Exception) -> None:
        """The next calls of an operation fail."""
        self._errors.setdefault(operation, []).extend(errors)

    def release(self, operation: str, error: Exception | None = None, *, keep: bool = False) -> None:
        """Let the held calls of an operation go on, or fail; with ``keep`` later ones are held again."""
        if not keep:
            self._blocked.discard(operation)
        held, self._held = self._held, []
        for held_operation, future in held:
            if held_operation != operation:
                self._held.append((held_operation, future))
            elif not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

    def count(self, operation: str) -> int:
        """How often an operation was called."""
        return sum(called == operation for called, _ in self.calls)

    async def called(self, operation: str, times: int = 1) -> None:
        """Wait until an operation was called so often."""
        async with asyncio.timeout(TIMEOUT):
            while self.count(operation) < times:
                self._changed.clear()
                await self._changed.wait()


class GatedStorage(Storage):
    """A storage in memory behind a gate."""

    description = "gated storage"

    def init(self) -> None:
        self.gate = Gate()
        self.rows: dict[str, tuple[int, Any]] = {}

    async def get(self, name: str) -> tuple[int, Any]:
        await self.gate.passed("get", name)
        return self.rows.get(name, (-1, None))

    async def set(self, name: str, version: int, data: Any) -> None:
        await self.gate.passed("set", name)
        self.rows[name] = (version, data)

    async def delete(self, name: str) -> None:
        await self.gate.passed("delete", name)
        self.rows.pop(name, None)


class GatedCache(Cache):
    """A cache plugin in memory behind a gate."""

    description = "gated cache"

    def init(self) -> None:
        self.gate = Gate()
        self.rows: dict[str, tuple[int, Any]] = {}

    async def get(self, name: str) -> tuple[int, Any]:
        await self.gate.passed("get", name)
        return self.rows.get(name, (-1, None))

    async def set(self, name: str, version: int, data: Any) -> None:
        await self.gate.passed("set", name)
        self.rows[name] = (version, data)

    async def delete(self, name: str) -> None:
        await self.gate.passed("delete", name)
        self.rows.pop(name, None)

    async def delete_bulk(self, names: Sequence[str]) -> None:
        await self.gate.passed("delete_bulk", ",".join(names))
        for name in names:
            self.rows.pop(name, None)

    async def head_bulk(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        await self.gate.passed("head_bulk", ",".join(names))
        found = {name: self.rows[name][0] for name in names if name in self.rows}
        return found, [name for name in names if name not in found]


class Rules(Permission):
    """Permission by a function of the test, ``decide(socket, message)``."""

    description = "rules of a test"

    def init(self) -> None:
        self.asked: list[tuple[RecordAction, str | None]] = []
        self.decide: Any = lambda socket, message: True
        self.records: Any = None

    def set_record_handler(self, handler: Any) -> None:
        self.records = handler

    def can_perform_action(self, socket: Any, message: Message) -> Any:
        if message.topic == Topic.RECORD:
            self.asked.append((RecordAction(message.action), message.name))
        return self.decide(socket, message)


__all__ = [
    "CHALLENGE", "Gate", "GatedCache", "GatedStorage", "R", "RecordClient", "Rules", "fields_of",
]  # fmt: skip
