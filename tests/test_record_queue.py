"""Random record operations of several clients against a sequential model (spec/records.md section 6).

The storage answers late at random points, the cache holds next to nothing, records change behind the server's
back. For every client and record the messages have to be exactly those of the model, in its order.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from dsfast._core.json_path import PathError, apply_multi, erase_value, set_value
from dsfast._core.protocol import Message, Topic
from tests.record_client import GatedCache, GatedStorage, R, RecordClient, Rules, fields_of
from tests.wire import PING_MESSAGE, serve

CLIENTS = 3
NAMES = ["r", "s", "t", "tmp/x"]
PATHS = ["a", "b.c", "list[0]", "list[2]", "1"]
VALUES: list[Any] = [0, None, "x", {}, {"c": 1}, [1, 2]]
DOCUMENTS: list[Any] = [{}, {"a": 1}, {"list": [1]}, [1], {"b": None}]
WRITES = [R.CREATEANDUPDATE, R.CREATEANDPATCH, R.UPDATE, R.PATCH, R.ERASE, R.PATCH_MULTI]
IN_TURN = [R.CREATE, R.UPDATE, R.PATCH, R.ERASE, R.PATCH_MULTI, R.DELETE]
SUBSCRIBING = [R.SUBSCRIBE, R.SUBSCRIBEANDREAD, R.SUBSCRIBECREATEANDREAD]

clients = st.integers(0, CLIENTS - 1)
names = st.sampled_from(NAMES)


class Model:
    """What records and subscriptions are, and what each client is told, one operation after the other."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[int, Any]] = {}
        self.subscribers: dict[str, set[int]] = defaultdict(set)
        self.told: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
        self.new: set[int] = set()  # clients that know PATCH_MULTI

    def version(self, name: str) -> int:
        return self.records.get(name, (-1, None))[0]

    def tell(self, client: int, name: str, action: R, **fields: Any) -> None:
        self.told[client, name].append({"action": action, "name": name, **copy.deepcopy(fields)})

    def subscribe(self, client: int, name: str, action: R) -> None:
        if client in self.subscribers[name]:
            self.tell(client, name, R.MULTIPLE_SUBSCRIPTIONS, original_action=R.SUBSCRIBE)
        if action == R.SUBSCRIBECREATEANDREAD:
            self.records.setdefault(name, (0, {}))
        self.subscribers[name].add(client)
        if action != R.SUBSCRIBE:
            version, data = self.records.get(name, (-1, {}))
            self.tell(client, name, R.READ_RESPONSE, version=version, data=data)

    def read(self, client: int, name: str) -> None:
        if name not in self.records:
            self.tell(client, name, R.RECORD_NOT_FOUND, original_action=R.READ, is_error=True)
        else:
            version, data = self.records[name]
            self.tell(client, name, R.READ_RESPONSE, version=version, data=data)

    def delete(self, client: int, name: str) -> None:
        self.records.pop(name, None)
        self.tell(client, name, R.DELETE_SUCCESS)
        for other in self.subscribers.pop(name, set()) - {client}:
            self.tell(other, name, R.DELETED)

    def notify(self, name: str, now: tuple[int, Any] | None) -> None:
        if now is None:
            self.records.pop(name, None)
            for client in self.subscribers.pop(name, set()):
                self.tell(client, name, R.DELETED)
        else:
            self.records[name] = now
            for client in self.subscribers[name]:
                self.tell(client, name, R.UPDATE, version=now[0], data=now[1])

    def write(self, client: int, name: str, action: R, fields: dict[str, Any]) -> bool:
        """Whether the write was accepted."""
        ack = {key: fields[key] for key in ("is_write_ack", "correlation_id") if key in fields}
        sent = {key: fields[key] for key in ("data", "path") if key in fields}
        normal = R.PATCH if "path" in fields else R.PATCH_MULTI if action == R.PATCH_MULTI else R.UPDATE
        if name not in self.records and action not in (R.CREATEANDUPDATE, R.CREATEANDPATCH):
            self.tell(client, name, R.RECORD_UPDATE_ERROR, is_error=True, **ack)
            return False
        current, data = copy.deepcopy(self.records.get(name, (0, {})))
        version = fields.get("version")
        echo = {"original_action": normal, "is_error": True, **sent, **ack}
        if version is not None and version > current + 1:
            self.tell(client, name, R.INVALID_VERSION, version=current, **echo)
            return False
        if version not in (-1, current + 1):
            self.tell(
                client, name, R.VERSION_EXISTS, original_action=normal, version=current, data=data, **ack
            )
            return False
        try:
            if normal == R.UPDATE:
                data = sent["data"]
            elif normal == R.PATCH_MULTI:
                operations = copy.deepcopy(sent["data"])
                apply_multi(
                    data, [(entry["path"], "data" in entry, entry.get("data")) for entry in operations]
                )
            elif "data" in sent:
                set_value(data, sent["path"], copy.deepcopy(sent["data"]))
            else:
                erase_value(data, sent["path"])
        except PathError:
            self.tell(client, name, R.INVALID_MESSAGE_DATA, version=version, **echo)
            return False
        self.records[name] = (current + 1, data)
        told = {"version": current + 1, "is_write_ack": False}
        for other in self.subscribers[name] - {client}:
            if normal == R.PATCH_MULTI and other not in self.new:
                self.tell(other, name, R.UPDATE, data=data, **told)
            else:
                self.tell(other, name, normal, **sent, **told)
        return True


class Allowing(Rules):
    """Allows everything; what is decided in its turn now or later, the rest at once: order is known."""

    def can_perform_action(self, socket: Any, message: Message) -> Any:
        super().can_perform_action(socket, message)
        return self.later(message) if message.action in IN_TURN and len(self.asked) % 2 else True

    async def later(self, message: Message) -> bool:
        await self.records.get_record(message.name)
        return True


class Records(RuleBasedStateMachine):
    """One server, some clients."""

    services: ClassVar[dict[str, Any]] = {}
    durability = "storage"

    def __init__(self) -> None:
        super().__init__()
        self.loop = uvloop.new_event_loop()
        self.stack = AsyncExitStack()
        self.model = Model()
        self.number = 0
        self.heard: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
        self.acks: list[tuple[int, str]] = []
        self.expected_acks: list[tuple[int, str]] = []
        self.busy: set[int] = set()  # clients whose last message may still be waiting
        self.blocked: set[str] = set()
        self.run(self.start())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def start(self) -> None:
        config = {
            "cache": {"type": "default", "options": {"maxEntries": 1}},
            "permissionTimeout": 60_000,
            "record": {
                "storageRetrievalTimeout": 60_000,
                "storageExclusionPrefixes": ["tmp/"],
                "durability": self.durability,
            },
            "logLevel": "OFF",
        }
        self.running = await self.stack.enter_async_context(
            serve(config, storage=GatedStorage, **self.services)
        )
        self.storage: Any = self.running.services.storage
        self.writer: Any = self.running.services.storage_writer
        self.clients = [await self.login(index) for index in range(CLIENTS)]

    async def login(self, index: int) -> RecordClient:
        if index % 2:
            self.model.new.add(index)
        return await RecordClient.login(self.running, sdk="7.1.0" if index % 2 else "7.0.5")

    # --- talking ---

    async def send(self, client: int, action: R, **fields: Any) -> None:
        self.clients[client].send(action, **fields)
        await self.hear(client)
        if self.blocked:
            self.busy.add(client)
        else:
            await self.settle()

    async def hear(self, client: int) -> None:
        """Everything the server has sent to a client until now."""
        wire = self.clients[client].wire
        wire.send(PING_MESSAGE)
        while True:
            message = await wire.receive()
            if message.topic == Topic.CONNECTION:
                return
            self.note(client, message)

    def note(self, client: int, message: Message) -> None:
        if message.is_ack or message.action == R.WRITE_ACKNOWLEDGEMENT:
            self.acks.append((client, message.correlation_id or ""))
            return
        assert message.name is not None
        self.heard[client, message.name].append(fields_of(message))

    async def settle(self) -> None:
        """Nothing is waiting any more: everybody must have heard what the model says."""
        handler = self.running.router.record_handler
        await self.running.until(lambda: handler.queues == {} and self.writer.pending == 0)
        for client in range(CLIENTS):
            await self.hear(client)
        self.busy.clear()
        for client, name in {*self.model.told, *self.heard}:
            assert self.heard[client, name] == self.model.told[client, name], (client, name)
        self.heard.clear()
        self.model.told.clear()
        assert sorted(self.acks) == sorted(self.expected_acks)
        stored = {name: row for name, row in self.model.records.items() if not name.startswith("tmp/")}
        assert self.storage.rows == stored
        registry = self.running.registries()["record"]
        assert {name: registry.count(name) for name in registry.names()} == {
            name: len(subscribers) for name, subscribers in self.model.subscribers.items() if subscribers
        }
        assert self.running.log.errors() == []

    def correlate(self) -> str:
        self.number += 1
        return str(self.number)

    def free(self, client: int) -> bool:
        return client not in self.busy

    # --- operations ---

    @rule(
        client=clients, name=names, action=st.sampled_from(WRITES), path=st.sampled_from(PATHS),
        value=st.sampled_from(VALUES), document=st.sampled_from(DOCUMENTS), erase=st.booleans(),
        version=st.sampled_from(["next", "next", "forced", "forced", "low", "high", "none"]),
        acked=st.booleans(),
    )  # fmt: skip
    def write(self, client, name, action, path, value, document, erase, version, acked):  # noqa: PLR0917
        if not self.free(client):
            return
        fields: dict[str, Any] = {}
        if action in (R.CREATEANDUPDATE, R.UPDATE):
            fields["data"] = document
        elif action == R.PATCH_MULTI:
            fields["data"] = [
                {"path": path, "data": value},
                {"path": "b.c"} if erase else {"path": "n", "data": 1},
            ]
        else:
            fields["path"] = path
            if action == R.CREATEANDPATCH or (action == R.PATCH and not erase):
                fields["data"] = value
        current = max(self.model.version(name), 0)
        if version != "none":
            fields["version"] = {"next": current + 1, "forced": -1, "low": current, "high": current + 2}[
                version
            ]
        if acked:
            fields |= {"is_write_ack": True, "correlation_id": self.correlate()}
        if self.model.write(client, name, action, fields) and acked:
            self.expected_acks.append((client, fields["correlation_id"]))
        self.run(self.send(client, action, name=name, **fields))

    @rule(client=clients, name=names, action=st.sampled_from(SUBSCRIBING))
    def subscribe(self, client, name, action):
        if self.free(client):
            self.model.subscribe(client, name, action)
            correlation = self.correlate()
            self.expected_acks.append((client, correlation))
            self.run(self.send(client, action, names=[name], correlation_id=correlation))

    @rule(client=clients, name=names)
    def unsubscribe(self, client, name):
        if self.free(client):
            self.model.subscribers[name].discard(client)
            correlation = self.correlate()
            self.expected_acks.append((client, correlation))
            self.run(self.send(client, R.UNSUBSCRIBE, names=[name], correlation_id=correlation))

    @rule(client=clients, name=names, head=st.booleans())
    def read(self, client, name, head):
        if self.free(client):
            if head:
                self.model.tell(client, name, R.HEAD_RESPONSE, version=self.model.version(name))
            else:
                self.model.read(client, name)
            self.run(self.send(client, R.HEAD if head else R.READ, name=name))

    @rule(client=clients, name=names)
    def delete(self, client, name):
        if self.free(client):
            self.model.delete(client, name)
            self.run(self.send(client, R.DELETE, name=name))

    @precondition(lambda self: not self.blocked)
    @rule(client=clients, name=names, change=st.sampled_from(["none", "gone", "newer", "older"]))
    def notify(self, client, name, change):
        if name.startswith("tmp/"):
            now = None  # the cache was the only place that had it
        else:
            now = self.storage.rows.get(name)
            if change == "gone":
                now = None
            elif change != "none" and now is not None:
                now = (now[0] + 5 if change == "newer" else max(now[0] - 1, 0), {"changed": self.number})
            if now is None:
                self.storage.rows.pop(name, None)
            else:
                self.storage.rows[name] = now
        self.model.notify(name, now)
        correlation = self.correlate()
        self.expected_acks.append((client, correlation))
        self.run(self.send(client, R.NOTIFY, names=[name], correlation_id=correlation))

    @precondition(lambda self: not self.blocked)
    @rule(client=clients)
    def reconnect(self, client):
        async def work() -> None:
            await self.clients[client].wire.close()
            self.clients[client] = await self.login(client)

        self.run(work())
        for subscribers in self.model.subscribers.values():
            subscribers.discard(client)

    # --- a storage that is late ---

    @rule(operation=st.sampled_from(["get", "set", "delete"]))
    def block(self, operation):
        self.blocked.add(operation)
        self.storage.gate.block(operation)

    @precondition(lambda self: self.blocked)
    @rule(keep=st.booleans())
    def release(self, keep):
        """Let what is held go on; with ``keep`` the next calls are held again."""

        async def work() -> None:
            for operation in self.blocked:
                self.storage.gate.release(operation, keep=keep)
            if not keep:
                self.blocked.clear()
                await self.settle()

        self.run(work())

    def teardown(self) -> None:
        async def work() -> None:
            try:
                for operation in self.blocked:
                    self.storage.gate.release(operation)
                await self.settle()
            finally:
                await self.stack.aclose()

        try:
            self.run(work())
        finally:
            self.loop.close()
            asyncio.set_event_loop(None)


class WithPermission(Records):
    services: ClassVar[dict[str, Any]] = {"permission": Allowing}


class WithCachePlugin(Records):
    services: ClassVar[dict[str, Any]] = {"cache": GatedCache}


class WithBoth(Records):
    services: ClassVar[dict[str, Any]] = {"cache": GatedCache, "permission": Allowing}


class Strict(Records):
    durability = "strict"


class AcknowledgedFromTheCache(Records):
    durability = "cache"


MACHINES = [Records, WithPermission, WithCachePlugin, WithBoth, Strict, AcknowledgedFromTheCache]


@pytest.mark.parametrize("machine", MACHINES)
def test_random_operations(machine: Any) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_model_agrees_with_json() -> None:
    """The model compares values, so they have to survive a trip as JSON."""
    for value in [*VALUES, *DOCUMENTS]:
        assert json.loads(json.dumps(value)) == value
