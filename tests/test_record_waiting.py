"""Records while something is slow, fails or hangs: storage, cache plugin, permission (spec/records.md)."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dsfast._core.protocol import EventAction, Topic
from dsfast.services.storage import PermanentStorageError
from tests.record_client import GatedCache, GatedStorage, R, RecordClient, Rules
from tests.wire import Running, serve

loops = ["uvloop"]

ACK = {"is_write_ack": True, "correlation_id": "9"}
BROKEN = PermanentStorageError("broken on purpose")


class Scene:
    """A server with three clients and what stands behind it."""

    def __init__(self, running: Running, clients: list[RecordClient]) -> None:
        self.running = running
        self.a, self.b, self.c = clients
        services = running.services
        self.storage: Any = services.storage
        self.cache: Any = services.cache
        self.rules: Any = services.permission
        self.writer: Any = services.storage_writer
        self.log = running.log

    async def saved(self) -> None:
        """Everything accepted so far is in the storage."""
        await self.writer.flush()

    def subscribed(self) -> list[str]:
        """Names with subscribers."""
        return self.running.registries()["record"].names()


async def scene(config: dict[str, Any] | None = None, **services: Any) -> AsyncIterator[Scene]:
    async with serve(config, **services) as running:
        yield Scene(running, [await RecordClient.login(running, user) for user in "abc"])
        assert running.log.errors() == []
        assert running.router.record_handler.queues == {}


@pytest.fixture
async def s(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """A plain storage plugin, whose answers are waited for without a limit."""
    async for it in scene({"record": {"storageRetrievalTimeout": 60_000}}, storage=GatedStorage):
        yield it


@pytest.fixture
async def hasty() -> AsyncIterator[Scene]:
    """A storage and a cache plugin that must answer at once."""
    limits = {"storageRetrievalTimeout": 50, "cacheRetrievalTimeout": 50}
    async for it in scene({"record": limits}, storage=GatedStorage):
        yield it


@pytest.fixture
async def cached() -> AsyncIterator[Scene]:
    """A cache plugin in front of a storage plugin."""
    limits = {"storageRetrievalTimeout": 60_000, "cacheRetrievalTimeout": 60_000}
    config = {"record": {**limits, "storageHotPathPrefixes": ["hot/"]}}
    async for it in scene(config, storage=GatedStorage, cache=GatedCache):
        yield it


@pytest.fixture
async def hasty_cache() -> AsyncIterator[Scene]:
    """A cache plugin that must answer at once, no storage."""
    async for it in scene({"record": {"cacheRetrievalTimeout": 50}}, cache=GatedCache):
        yield it


@pytest.fixture
async def guarded() -> AsyncIterator[Scene]:
    """A permission plugin, no storage."""
    async for it in scene({"permissionTimeout": 60_000}, permission=Rules):
        yield it


# --- loading (section 3) ---


async def test_concurrent_loads_are_one_request(s: Scene) -> None:
    s.storage.gate.block("get")
    for client in (s.a, s.b, s.c):
        client.send(R.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1")
        client.send(R.READ, name="r")
        client.send(R.HEAD, name="r")
        await client.expect(R.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1", is_ack=True)
        await client.fence()
    s.storage.gate.release("get")
    for client in (s.a, s.b, s.c):
        await client.expect(R.READ_RESPONSE, name="r", version=0, data={})
        await client.expect(R.READ_RESPONSE, name="r", version=0, data={})
        await client.expect(R.HEAD_RESPONSE, name="r", version=0)
    await s.saved()
    assert s.storage.gate.calls == [("get", "r"), ("set", "r")]


@pytest.mark.parametrize(
    "action", [R.READ, R.HEAD, R.SUBSCRIBEANDREAD, R.SUBSCRIBECREATEANDREAD, R.SUBSCRIBEANDHEAD, R.NOTIFY]
)
@pytest.mark.parametrize("late", [True, False])
async def test_readers_are_told_why(hasty: Scene, action: Any, late: bool) -> None:
    gate = hasty.storage.gate
    if late:
        gate.block("get")
    else:
        gate.fail("get", BROKEN)
    if action == R.NOTIFY:
        await hasty.a.subscribe("r")
    single = action in (R.READ, R.HEAD)
    fields = {"name": "r"} if single else {"names": ["r"]}
    hasty.a.send(action, correlation_id="1", **fields)
    if action == R.SUBSCRIBEANDHEAD:
        await hasty.a.expect(R.HEAD_RESPONSE_BULK)
        await hasty.a.expect(action, correlation_id="1", is_ack=True)
    elif not single and action != R.NOTIFY:
        await hasty.a.expect(action, names=["r"], correlation_id="1", is_ack=True)
    error = R.STORAGE_RETRIEVAL_TIMEOUT if late else R.RECORD_LOAD_ERROR
    await hasty.a.expect(error, original_action=action, name="r", is_error=True)
    if action == R.NOTIFY:
        await hasty.a.expect(action, names=["r"], correlation_id="1", is_ack=True)
    text = "r" if late else "error while loading r from storage:broken on purpose"
    assert hasty.log.find(error.name) == [text]
    gate.release("get")
    assert await hasty.a.read("r") == (-1, None)


async def test_a_request_that_is_never_answered_does_not_block_its_record(hasty: Scene) -> None:
    hasty.storage.rows["r"] = (3, {"a": 1})
    hasty.storage.gate.block("get")
    hasty.a.send(R.READ, name="r")
    await hasty.a.expect(R.STORAGE_RETRIEVAL_TIMEOUT, original_action=R.READ, name="r", is_error=True)
    hasty.storage.gate.recover("get")
    assert await hasty.a.read("r") == (3, {"a": 1})


@pytest.mark.parametrize("late", [True, False])
async def test_queued_writers_are_told_when_the_record_cannot_be_loaded(hasty: Scene, late: bool) -> None:
    """Upstream writes a log line and answers nobody."""
    gate = hasty.storage.gate
    gate.block("get")
    hasty.a.send(R.UPDATE, name="r", version=1, data={}, **ACK)
    hasty.b.send(
        R.CREATEANDPATCH, name="r", version=1, path="a", data=1, is_write_ack=True, correlation_id="b"
    )
    hasty.c.send(R.DELETE, name="r", correlation_id="c")
    await gate.called("get")
    if not late:
        await hasty.c.fence()
        gate.release("get", BROKEN)
    await hasty.a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, **ACK)
    await hasty.b.expect(
        R.RECORD_UPDATE_ERROR, name="r", is_error=True, is_write_ack=True, correlation_id="b"
    )
    await hasty.c.expect(R.RECORD_DELETE_ERROR, original_action=R.DELETE, name="r", is_error=True)
    gate.release("get")
    await hasty.a.set("r", {"a": 1}, version=1)


@pytest.mark.parametrize("stored", ["text", 5, True])
async def test_what_is_no_document_never_reaches_a_client(s: Scene, stored: Any) -> None:
    s.storage.rows["r"] = (3, stored)
    s.a.send(R.READ, name="r")
    await s.a.expect(R.RECORD_LOAD_ERROR, original_action=R.READ, name="r", is_error=True)
    s.a.send(R.PATCH, name="r", version=4, path="a", data=1)
    await s.a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True)


async def test_null_is_a_missing_record(s: Scene) -> None:
    s.storage.rows["r"] = (3, None)
    assert await s.a.read("r") == (-1, None)


# --- order ---


async def test_writes_of_one_connection_wait_for_each_other(s: Scene) -> None:
    await s.b.set("cached", {})
    event = {"name": "e", "correlation_id": "1"}
    s.c.wire.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"])
    await s.c.wire.receive()
    s.storage.rows["r"] = (1, {})
    s.storage.gate.block("get")
    s.a.send(R.PATCH, name="r", version=2, path="a", data=1)
    s.a.send(R.PATCH, name="cached", version=2, path="a", data=1)
    s.a.wire.message(Topic.EVENT, EventAction.EMIT, name=event["name"], data=b"1")
    s.a.send(R.READ, name="cached")
    await s.storage.gate.called("get", 2)
    assert await s.b.read("cached") == (1, {})  # others do not wait
    await s.c.fence()
    s.storage.gate.release("get")
    await s.a.expect(R.READ_RESPONSE, name="cached", version=2, data={"a": 1})
    await s.c.wire.expect(Topic.EVENT, EventAction.EMIT, name="e", data=b"1")
    assert await s.b.read("r") == (2, {"a": 1})


async def test_unsubscribe_behind_a_pending_subscription_wins(s: Scene) -> None:
    s.storage.gate.block("get")
    s.a.send(R.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1")
    s.a.send(R.UNSUBSCRIBE, names=["r"], correlation_id="r")
    await s.a.expect(R.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1", is_ack=True)
    await s.a.expect(R.UNSUBSCRIBE, correlation_id="r", is_ack=True)
    s.storage.gate.release("get")
    await s.a.expect(R.READ_RESPONSE, name="r", version=0, data={})
    await s.b.set("r", {"a": 1})
    await s.a.fence()
    assert s.subscribed() == []


async def test_subscription_behind_a_pending_unsubscribe_wins(s: Scene) -> None:
    s.storage.gate.block("get")
    s.a.send(R.SUBSCRIBEANDREAD, names=["r"])
    s.a.send(R.UNSUBSCRIBE, names=["r"])
    s.a.send(R.SUBSCRIBEANDHEAD, names=["r"])
    await s.a.expect(R.SUBSCRIBEANDREAD, names=["r"], is_ack=True)
    await s.a.expect(R.UNSUBSCRIBE, is_ack=True)
    await s.a.expect(R.HEAD_RESPONSE_BULK)
    await s.a.expect(R.SUBSCRIBEANDHEAD, is_ack=True)
    s.storage.gate.release("get")
    await s.a.expect(R.READ_RESPONSE, name="r", version=-1, data={})
    await s.a.expect(R.HEAD_RESPONSE, name="r", version=-1)
    await s.b.set("r", {"a": 1})
    await s.a.expect(R.UPDATE, name="r", version=1, data={"a": 1}, is_write_ack=False)


async def test_write_of_a_client_that_has_gone_counts(s: Scene) -> None:
    s.storage.gate.block("get")
    s.a.send(R.CREATEANDUPDATE, name="r", version=-1, data={"a": 1}, **ACK)
    s.a.send(R.SUBSCRIBE, names=["r"])
    await s.storage.gate.called("get")
    await s.a.wire.close()
    s.storage.gate.release("get")
    assert await s.b.read("r") == (1, {"a": 1})
    assert s.subscribed() == []


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("reset", [False, True])
async def test_what_a_client_wrote_before_it_left_is_written(guarded: bool, reset: bool) -> None:
    """Its first write waits for the storage, the others wait for the first."""
    services: dict[str, Any] = {"permission": Rules} if guarded else {}
    async for s in scene({"record": {"storageRetrievalTimeout": 60_000}}, storage=GatedStorage, **services):
        await s.c.set("old", {})
        s.c.wire.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"])
        await s.c.wire.receive()
        s.storage.gate.block("get")
        for number in range(20):
            s.a.send(R.CREATEANDPATCH, name=f"r{number}", version=-1, path="n", data=number)
        s.a.send(R.SUBSCRIBE, names=["r1", "r2"])
        s.a.send(R.DELETE, name="old")
        s.a.wire.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"])
        s.a.wire.message(Topic.EVENT, EventAction.EMIT, name="e", data=b"1")
        await s.a.fence()
        if reset:
            s.a.wire.reset()
            await s.running.until(lambda s=s: len(s.running.endpoint.core.connections) == 2)
        else:
            await s.a.wire.close()
        s.storage.gate.release("get")
        await s.c.wire.expect(Topic.EVENT, EventAction.EMIT, name="e", data=b"1")
        for number in range(20):
            assert await s.b.read(f"r{number}") == (1, {"n": number})
        assert await s.b.read("old") == (-1, None)
        assert s.subscribed() == []
        assert s.running.registries()["event"].count("e") == 1


async def test_subscriber_that_goes_while_its_record_is_loaded(s: Scene) -> None:
    s.storage.gate.block("get")
    s.a.send(R.SUBSCRIBECREATEANDREAD, names=["r"])
    await s.storage.gate.called("get")
    s.a.wire.reset()
    await s.running.until(lambda: len(s.running.endpoint.core.connections) == 2)
    s.storage.gate.release("get")
    assert (await s.b.read("r"))[0] in (-1, 0)
    assert s.subscribed() == []


# --- acknowledgements (section 6.5) ---


async def test_acknowledgement_waits_for_the_storage(s: Scene) -> None:
    s.storage.gate.block("set")
    await s.b.subscribe("r")
    s.a.send(R.CREATEANDUPDATE, name="r", version=1, data={"a": 1}, **ACK)
    await s.b.expect(R.UPDATE, name="r", version=1, data={"a": 1}, is_write_ack=False)
    s.b.send(R.PATCH, name="r", version=2, path="b", data=1, is_write_ack=True, correlation_id="b")
    await s.b.fence()
    assert await s.a.read("r") == (2, {"a": 1, "b": 1})  # no acknowledgement came before
    s.storage.gate.release("set")
    await s.a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ACK)
    await s.b.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", is_write_ack=True, correlation_id="b")
    assert s.storage.rows["r"] == (2, {"a": 1, "b": 1})


async def test_storage_gets_what_belongs_to_the_version(s: Scene) -> None:
    """Upstream hands out the live object, and a slow storage saves later data under an earlier version."""
    s.storage.gate.block("set")
    s.a.send(R.CREATEANDUPDATE, name="r", version=1, data={"n": 1})
    await s.storage.gate.called("set")
    s.a.send(R.PATCH, name="r", version=2, path="n", data=2)
    await s.a.read("r")
    s.storage.gate.release("set", keep=True)
    await s.storage.gate.called("set", 2)
    assert s.storage.rows["r"] == (1, {"n": 1})
    s.storage.gate.release("set")
    await s.saved()
    assert s.storage.rows["r"] == (2, {"n": 2})


async def test_failed_write_is_not_acknowledged(s: Scene) -> None:
    """Upstream acknowledges a write that the storage has refused."""
    s.storage.gate.block("set")
    s.a.send(R.CREATEANDUPDATE, name="r", version=1, data={}, **ACK)
    await s.storage.gate.called("set")
    s.b.send(R.PATCH, name="r", version=2, path="a", data=1, is_write_ack=True, correlation_id="b")
    s.c.send(R.PATCH, name="r", version=3, path="b", data=1, is_write_ack=True, correlation_id="c")
    await s.c.fence()
    s.storage.gate.release("set", BROKEN, keep=True)
    await s.a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, **ACK)
    await s.storage.gate.called("set", 2)
    s.storage.gate.release("set", BROKEN)
    await s.b.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, is_write_ack=True, correlation_id="b")
    await s.c.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, is_write_ack=True, correlation_id="c")
    await s.a.set("r", {"again": 1})
    assert s.storage.rows["r"] == (4, {"again": 1})


async def test_full_storage_queue_refuses_at_once(s: Scene) -> None:
    await s.a.set("old", {})
    s.storage.gate.block("set")
    s.writer._max_pending = 1
    s.a.send(R.CREATEANDUPDATE, name="r", version=-1, data={}, correlation_id="1")
    for number, name in enumerate(["new", "old"]):
        correlation = {"correlation_id": str(number)}
        s.a.send(R.CREATEANDUPDATE, name=name, version=-1, data={"a": 1}, is_write_ack=True, **correlation)
        await s.a.expect(R.RECORD_UPDATE_ERROR, name=name, is_error=True, is_write_ack=True, **correlation)
    s.a.send(R.CREATEANDUPDATE, name="r", version=2, data={"a": 1})  # queued already
    assert await s.a.read("old") == (1, {})
    assert await s.a.read("new") == (-1, None)
    assert await s.a.read("r") == (2, {"a": 1})
    s.storage.gate.release("set")
    await s.saved()
    assert {name: version for name, (version, _) in s.storage.rows.items()} == {"old": 1, "r": 2}


async def test_create_that_cannot_be_stored_is_only_logged(s: Scene) -> None:
    s.storage.gate.fail("set", BROKEN)
    s.a.send(R.SUBSCRIBECREATEANDREAD, names=["r"])
    await s.a.expect(R.SUBSCRIBECREATEANDREAD, names=["r"], is_ack=True)
    await s.a.expect(R.READ_RESPONSE, name="r", version=0, data={})
    await s.saved()
    await s.log.wait_for("STORAGE_WRITE_ERROR")
    await s.a.set("r", {"a": 1}, version=1)
    assert s.storage.rows["r"] == (1, {"a": 1})


# --- delete (section 9) ---


async def test_write_in_flight_does_not_bring_a_deleted_record_back(s: Scene) -> None:
    s.storage.gate.block("set")
    s.a.send(R.CREATEANDUPDATE, name="r", version=1, data={"a": 1}, **ACK)
    await s.storage.gate.called("set")
    await s.c.subscribe("r")
    s.b.send(R.DELETE, name="r")
    s.b.send(R.READ, name="r")
    await s.running.until(lambda: s.running.router.record_handler.queues != {})
    await s.b.fence()
    assert s.storage.gate.count("delete") == 0
    s.storage.gate.release("set")
    await s.a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ACK)
    await s.b.expect(R.DELETE_SUCCESS, name="r")
    await s.c.expect(R.DELETED, name="r")
    await s.b.expect(R.RECORD_NOT_FOUND, original_action=R.READ, name="r", is_error=True)
    await s.saved()
    assert s.storage.rows == {}


async def test_writes_behind_a_delete(s: Scene) -> None:
    await s.a.set("r", {"old": 1})
    s.storage.gate.block("delete")
    s.a.send(R.DELETE, name="r")
    await s.storage.gate.called("delete")
    s.b.send(R.PATCH, name="r", version=2, path="a", data=1, **ACK)
    s.c.send(R.CREATEANDPATCH, name="r", version=1, path="new", data=1, **ACK)
    await s.c.fence()
    s.storage.gate.release("delete")
    await s.a.expect(R.DELETE_SUCCESS, name="r")
    await s.b.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, **ACK)
    await s.c.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ACK)
    assert s.storage.rows["r"] == (1, {"new": 1})


async def test_writes_before_a_delete_are_answered(s: Scene) -> None:
    """Upstream drops them without a word."""
    s.storage.rows["r"] = (1, {})
    s.storage.gate.block("get")
    for client, key in ((s.a, "a"), (s.b, "b")):
        client.send(R.PATCH, name="r", version=-1, path=key, data=1, **ACK)
        await client.fence()
    s.c.send(R.DELETE, name="r")
    await s.c.fence()
    s.storage.gate.release("get")
    await s.c.expect(R.DELETE_SUCCESS, name="r")
    for client in (s.a, s.b):
        assert (await client.receive()).correlation_id == "9"
    await s.saved()
    assert s.storage.rows == {}


async def test_refused_delete_loses_nothing(s: Scene) -> None:
    await s.a.set("r", {"a": 1})
    await s.b.subscribe("r")
    s.storage.gate.fail("delete", BROKEN)
    # The delete takes the place of the queued change before that is saved.
    s.a.send_all(
        (R.PATCH, {"name": "r", "version": 2, "path": "b", "data": 1}),
        (R.DELETE, {"name": "r"}),
    )
    await s.b.expect(R.PATCH, name="r", version=2, path="b", data=1, is_write_ack=False)
    await s.a.expect(R.RECORD_DELETE_ERROR, original_action=R.DELETE, name="r", is_error=True)
    assert s.log.find("RECORD_DELETE_ERROR") == ["broken on purpose"]
    assert await s.b.read("r") == (2, {"a": 1, "b": 1})  # and nothing was broadcast
    await s.saved()
    assert s.storage.rows["r"] == (2, {"a": 1, "b": 1})


async def test_late_delete(hasty: Scene) -> None:
    await hasty.a.set("r", {"a": 1})
    hasty.storage.gate.block("delete")
    await hasty.b.subscribe("r")
    hasty.a.send(R.DELETE, name="r", correlation_id="1")
    await hasty.a.expect(R.RECORD_DELETE_ERROR, original_action=R.DELETE, name="r", is_error=True)
    assert hasty.log.find("RECORD_DELETE_ERROR") == ["storage timeout"]
    assert await hasty.b.read("r") == (-1, None)
    hasty.storage.gate.release("delete")
    await hasty.saved()
    assert hasty.storage.rows == {}
    await hasty.b.fence()


# --- cache plugin ---


async def test_change_is_told_when_the_cache_has_it(cached: Scene) -> None:
    await cached.a.set("r", {"a": 1})
    await cached.b.subscribe("r")
    cached.cache.gate.block("set")
    cached.a.send(R.PATCH, name="r", version=2, path="a", data=2, **ACK)
    cached.c.send(R.PATCH, name="r", version=3, path="c", data=3)
    await cached.cache.gate.called("set", 2)
    await cached.b.fence()
    cached.cache.gate.release("set")
    await cached.b.expect(R.PATCH, name="r", version=2, path="a", data=2, is_write_ack=False)
    await cached.b.expect(R.PATCH, name="r", version=3, path="c", data=3, is_write_ack=False)
    await cached.a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ACK)
    assert cached.cache.rows["r"] == (3, {"a": 2, "c": 3})
    await cached.saved()
    assert cached.storage.rows["r"] == (3, {"a": 2, "c": 3})


async def test_failed_cache_write_ends_the_queue(cached: Scene) -> None:
    await cached.a.set("r", {"a": 1})
    await cached.c.subscribe("r")
    cached.cache.gate.block("set")
    cached.a.send(R.PATCH, name="r", version=2, path="a", data=2, **ACK)
    await cached.cache.gate.called("set", 2)
    cached.b.send(R.PATCH, name="r", version=3, path="b", data=3)
    cached.b.send(R.READ, name="r")
    await cached.b.fence()
    cached.cache.gate.release("set", RuntimeError("no room"))
    await cached.a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, **ACK)
    await cached.b.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True)
    await cached.b.expect(R.READ_RESPONSE, name="r", version=1, data={"a": 1})
    await cached.c.fence()
    assert cached.log.find("RECORD_UPDATE_ERROR") == ["r: no room"]
    await cached.a.set("r", {"a": 4}, version=2)
    await cached.c.expect(R.UPDATE, name="r", version=2, data={"a": 4}, is_write_ack=False)
    assert cached.storage.rows["r"] == (2, {"a": 4})


async def test_hanging_cache(hasty_cache: Scene) -> None:
    s = hasty_cache
    gate = s.cache.gate
    gate.block("set", "get", "delete", "delete_bulk", "head_bulk")
    s.a.send(R.READ, name="r")
    await s.a.expect(R.CACHE_RETRIEVAL_TIMEOUT, original_action=R.READ, name="r", is_error=True)
    s.a.send(R.SUBSCRIBEANDHEAD, names=["r", "s"], correlation_id="1")
    for name in ("r", "s"):
        await s.a.expect(R.RECORD_LOAD_ERROR, original_action=R.SUBSCRIBEANDHEAD, name=name, is_error=True)
    s.a.send(R.NOTIFY, names=["r"], correlation_id="1")
    text = "Error deleting messages in bulk when attempting to notify of remote changes"
    await s.a.expect(R.RECORD_NOTIFY_ERROR, is_error=True, data=text, correlation_id="1")
    gate.release("get")
    s.a.send(R.CREATEANDUPDATE, name="r", version=-1, data={}, **ACK)
    await s.a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, **ACK)
    s.a.send(R.SUBSCRIBECREATEANDREAD, names=["r"])
    await s.a.expect(R.SUBSCRIBECREATEANDREAD, names=["r"], is_ack=True)
    await s.a.expect(R.RECORD_CREATE_ERROR, original_action=R.SUBSCRIBECREATEANDREAD, name="r", is_error=True)
    s.a.send(R.DELETE, name="r")
    await s.a.expect(R.RECORD_DELETE_ERROR, original_action=R.DELETE, name="r", is_error=True)
    assert s.log.find("RECORD_DELETE_ERROR") == ["cache timeout"]
    assert s.subscribed() == []


async def test_failing_cache(cached: Scene) -> None:
    gate = cached.cache.gate
    error = RuntimeError("broken on purpose")
    gate.fail("get", error)
    cached.a.send(R.HEAD, name="r")
    await cached.a.expect(R.RECORD_LOAD_ERROR, original_action=R.HEAD, name="r", is_error=True)
    assert cached.log.find("RECORD_LOAD_ERROR") == ["error while loading r from cache:broken on purpose"]
    gate.fail("set", error)
    cached.a.send(R.SUBSCRIBECREATEANDREAD, names=["r"])
    await cached.a.expect(R.SUBSCRIBECREATEANDREAD, names=["r"], is_ack=True)
    await cached.a.expect(
        R.RECORD_CREATE_ERROR, original_action=R.SUBSCRIBECREATEANDREAD, name="r", is_error=True
    )
    gate.fail("delete", error)
    cached.a.send(R.DELETE, name="r")
    await cached.a.expect(R.RECORD_DELETE_ERROR, original_action=R.DELETE, name="r", is_error=True)


async def test_stored_record_is_copied_to_the_cache(cached: Scene) -> None:
    cached.storage.rows["r"] = (4, [1])
    assert await cached.a.read("r") == (4, [1])
    assert cached.cache.rows["r"] == (4, [1])
    assert await cached.b.read("r") == (4, [1])
    assert cached.storage.gate.count("get") == 1


async def test_heads_from_the_cache_plugin(cached: Scene) -> None:
    cached.cache.rows["r"] = (4, {})
    cached.storage.rows["stored"] = (2, {})
    cached.a.send(R.SUBSCRIBEANDHEAD, names=["r", "stored", "missing"], correlation_id="1")
    cached.a.send(R.UNSUBSCRIBE, names=["missing"], correlation_id="2")
    await cached.a.expect(R.HEAD_RESPONSE_BULK, versions={"r": 4})
    await cached.a.expect(R.SUBSCRIBEANDHEAD, correlation_id="1", is_ack=True)
    heads = {}
    for _ in range(3):
        message = await cached.a.receive()
        if message.action == R.HEAD_RESPONSE:
            heads[message.name] = message.version
    assert heads == {"stored": 2, "missing": -1}
    await cached.a.fence()
    assert sorted(cached.subscribed()) == ["r", "stored"]
    assert cached.cache.gate.count("head_bulk") == 1


async def test_head_that_is_out_of_date_when_it_comes(cached: Scene) -> None:
    await cached.b.set("r", {"n": 1})
    cached.cache.gate.block("head_bulk")
    cached.a.send(R.SUBSCRIBEANDHEAD, names=["r"], correlation_id="1")
    await cached.cache.gate.called("head_bulk")
    await cached.b.set("r", {"n": 2})
    cached.cache.gate.release("head_bulk")
    await cached.a.expect(R.HEAD_RESPONSE_BULK)
    await cached.a.expect(R.SUBSCRIBEANDHEAD, correlation_id="1", is_ack=True)
    await cached.a.expect(R.HEAD_RESPONSE, name="r", version=2)


async def test_notify_with_a_cache_plugin(cached: Scene) -> None:
    await cached.a.set("r", {"a": 1})
    await cached.a.subscribe("r")
    cached.storage.rows["r"] = (7, {"new": 1})
    cached.a.send(R.NOTIFY, names=["r", "s"], correlation_id="1")
    await cached.a.expect(R.UPDATE, name="r", version=7, data={"new": 1})
    await cached.a.expect(R.NOTIFY, names=["r", "s"], correlation_id="1", is_ack=True)
    assert ("delete_bulk", "r,s") in cached.cache.gate.calls


async def test_hot_path_with_a_cache_plugin(cached: Scene) -> None:
    cached.cache.gate.fail("get", RuntimeError("is not asked"))
    await cached.a.set("hot/r", {"a": 1})
    assert cached.cache.rows["hot/r"] == (0, {"a": 1})
    assert cached.storage.rows["hot/r"] == (0, {"a": 1})


async def test_cache_that_answers_nonsense(cached: Scene) -> None:
    cached.cache.rows["r"] = (None, {})
    cached.a.send(R.READ, name="r")
    await cached.a.expect(R.RECORD_LOAD_ERROR, original_action=R.READ, name="r", is_error=True)
    cached.cache.rows["r"] = (1, {"a": object()})
    cached.a.send(R.READ, name="r")
    await cached.a.expect(R.RECORD_LOAD_ERROR, original_action=R.READ, name="r", is_error=True)


# --- permission ---


def denied(action: Any, **fields: Any) -> dict[str, Any]:
    return {"action": R.MESSAGE_DENIED, "original_action": action, "is_error": True, **fields}


@pytest.mark.parametrize("waits", [True, False])
async def test_upsert_asks_for_create_and_then_for_write(guarded: Scene, waits: bool) -> None:
    async def later(answer: bool) -> bool:
        await asyncio.sleep(0)
        return answer

    rules = guarded.rules
    refused: list[R] = []

    def decide(socket: Any, message: Any) -> Any:
        allowed = message.action not in refused
        return later(allowed) if waits else allowed

    rules.decide = decide
    await guarded.a.set("r", {})
    assert rules.asked == [(R.CREATEANDUPDATE, "r"), (R.CREATE, "r"), (R.UPDATE, "r")]
    rules.asked.clear()
    guarded.a.send(R.CREATEANDPATCH, name="r", version=-1, path="a", data=1, **ACK)
    await guarded.a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ACK)
    assert rules.asked == [(R.CREATEANDPATCH, "r"), (R.CREATE, "r"), (R.PATCH, "r")]
    for step in (R.CREATEANDPATCH, R.CREATE, R.PATCH):
        refused[:] = [step]
        guarded.a.send(R.CREATEANDPATCH, name="r", version=-1, path="a", data=2, **ACK)
        await guarded.a.expect(**denied(R.CREATEANDPATCH, name="r", **ACK))
    refused.clear()
    assert await guarded.a.read("r") == (2, {"a": 1})


@pytest.mark.parametrize(
    ("action", "extra", "asked"),
    [
        (R.UPDATE, {"data": {}}, R.UPDATE),
        (R.PATCH, {"path": "a", "data": 1}, R.PATCH),
        (R.PATCH, {"path": "a"}, R.ERASE),  # a patch without data erases
        (R.ERASE, {"path": "a"}, R.ERASE),
        (R.PATCH_MULTI, {"data": [{"path": "a"}]}, R.PATCH_MULTI),
        (R.DELETE, {}, R.DELETE),
        (R.READ, {}, R.READ),
        (R.HEAD, {}, R.HEAD),
    ],
)
async def test_single_actions_are_asked_about_once(
    guarded: Scene, action: Any, extra: dict[str, Any], asked: Any
) -> None:
    await guarded.a.set("r", {"a": 1})
    guarded.rules.asked.clear()
    guarded.rules.decide = lambda socket, message: message.action != asked
    guarded.a.send(action, name="r", version=2, **extra, **ACK)
    await guarded.a.expect(**denied(action, name="r", **ACK))
    assert guarded.rules.asked == [(asked, "r")]
    guarded.rules.decide = lambda socket, message: True
    assert await guarded.a.read("r") == (1, {"a": 1})


async def test_both_are_asked_before_a_record_is_created(guarded: Scene) -> None:
    """Upstream creates a record and then refuses to show it to its creator."""
    for refused in (R.READ, R.CREATE):
        guarded.rules.decide = lambda socket, message, refused=refused: message.action != refused
        guarded.a.send(R.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="4")
        await guarded.a.expect(R.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="4", is_ack=True)
        await guarded.a.expect(**denied(R.SUBSCRIBECREATEANDREAD, name="r", correlation_id="4"))
    guarded.rules.decide = lambda socket, message: True
    assert await guarded.a.read("r") == (-1, None)
    assert guarded.subscribed() == []


@pytest.mark.parametrize(
    "action",
    [R.SUBSCRIBE, R.SUBSCRIBEANDREAD, R.SUBSCRIBECREATEANDREAD, R.SUBSCRIBEANDHEAD, R.NOTIFY, R.HEAD_BULK],
)
async def test_exactly_the_allowed_names_go_on(guarded: Scene, action: Any) -> None:
    """Upstream drops the last name instead of the forbidden one."""
    guarded.rules.decide = lambda socket, message: "secret" not in (message.name or "")
    guarded.a.send(action, names=["secret/1", "r"], correlation_id="4")
    await guarded.a.expect(**denied(action, name="secret/1", correlation_id="4"))
    messages = []
    while (
        not messages
        or messages[-1].action not in (action, R.HEAD_RESPONSE_BULK)
        or (action == R.SUBSCRIBEANDHEAD and messages[-1].action != action)
    ):
        messages.append(await guarded.a.receive())
    assert all("secret/1" not in [message.name, *(message.names or [])] for message in messages)
    if action not in (R.NOTIFY, R.HEAD_BULK):
        assert (await guarded.a.read("other"))[0] == -1 if action == R.SUBSCRIBE else True
        assert guarded.subscribed() == ["r"]
    else:
        assert guarded.subscribed() == []
    guarded.b.send(action, names=["secret/1"], correlation_id="5")
    await guarded.b.expect(**denied(action, name="secret/1", correlation_id="5"))
    await guarded.b.fence()  # no acknowledgement if none is left


@pytest.mark.parametrize("answer", [None, 0, "", False, float("nan") - float("nan") and 0])
async def test_falsy_is_no(guarded: Scene, answer: Any) -> None:
    guarded.rules.decide = lambda socket, message: answer
    guarded.a.send(R.READ, name="r")
    await guarded.a.expect(**denied(R.READ, name="r"))
    guarded.a.send(R.UPDATE, name="r", version=1, data={})
    await guarded.a.expect(**denied(R.UPDATE, name="r"))


@pytest.mark.parametrize("when", ["arrival", "turn"])
async def test_failing_rule(guarded: Scene, when: str) -> None:
    await guarded.a.set("r", {})

    def decide(socket: Any, message: Any) -> bool:
        raise RuntimeError("broken on purpose")

    guarded.rules.decide = decide
    action = R.READ if when == "arrival" else R.UPDATE
    guarded.a.send(action, name="r", version=2, data={}, **ACK)
    await guarded.a.expect(R.MESSAGE_PERMISSION_ERROR, original_action=action, name="r", is_error=True, **ACK)


async def test_rule_that_never_answers() -> None:
    async for s in scene({"permissionTimeout": 50}, permission=Rules):
        s.rules.decide = lambda socket, message: asyncio.get_running_loop().create_future()
        for action in (R.READ, R.DELETE):
            s.a.send(action, name="r")
            await s.a.expect(R.MESSAGE_PERMISSION_ERROR, original_action=action, name="r", is_error=True)


async def test_conflict_shows_the_record_only_to_those_who_may_read_it(guarded: Scene) -> None:
    """Upstream shows the whole record to whoever may write."""
    await guarded.a.set("r", {"secret": 1})
    for version in (1, 0, None):
        sent = {} if version is None else {"version": version}
        guarded.a.send(R.UPDATE, name="r", data={}, **sent, **ACK)
        await guarded.a.expect(
            R.VERSION_EXISTS, original_action=R.UPDATE, name="r", version=1, data={"secret": 1}, **ACK
        )
    guarded.rules.decide = lambda socket, message: message.action != R.READ
    for version in (1, 0, None):
        sent = {} if version is None else {"version": version}
        guarded.a.send(R.UPDATE, name="r", data={}, **sent, **ACK)
        await guarded.a.expect(R.VERSION_EXISTS, original_action=R.UPDATE, name="r", version=1, **ACK)


async def test_hot_path_asks_for_create_and_then_for_write() -> None:
    async for s in scene(
        {"record": {"storageHotPathPrefixes": ["hot/"]}}, permission=Rules, storage=GatedStorage
    ):
        await s.a.set("hot/r", {"a": 1})
        assert s.rules.asked == [(R.CREATEANDUPDATE, "hot/r"), (R.CREATE, "hot/r"), (R.UPDATE, "hot/r")]
        s.rules.decide = lambda socket, message: message.action != R.UPDATE
        s.a.send(R.CREATEANDUPDATE, name="hot/r", version=-1, data={}, **ACK)
        await s.a.expect(**denied(R.CREATEANDUPDATE, name="hot/r", **ACK))
        s.a.send(R.CREATEANDUPDATE, name="hot/new", version=-1, data={}, **ACK)
        await s.a.expect(**denied(R.CREATEANDUPDATE, name="hot/new", **ACK))
        # A refused one says nothing about what the storage holds.
        s.storage.rows["hot/stored"] = (4, {"b": 1})
        s.a.send(R.CREATEANDUPDATE, name="hot/stored", version=-1, data={}, **ACK)
        s.b.send(R.READ, name="hot/stored")
        await s.a.expect(**denied(R.CREATEANDUPDATE, name="hot/stored", **ACK))
        await s.b.expect(R.READ_RESPONSE, name="hot/stored", version=4, data={"b": 1})
        assert s.storage.rows["hot/r"] == (0, {"a": 1})


async def test_nonsense_is_answered_before_anybody_is_asked(guarded: Scene) -> None:
    guarded.a.send(R.UPDATE, name="r", version=1, path="a", data={})
    guarded.a.send(R.ERASE, name="r", version=1)
    guarded.a.send(R.PATCH, name="r", version=1, path="", data=1)
    guarded.a.send(R.CREATEANDUPDATE, name="r", version=1, data=b"{")
    guarded.a.send(R.READ)
    guarded.a.send(R.SUBSCRIBE, names=["r", ""])
    for _ in range(6):
        assert (await guarded.a.receive()).action == R.INVALID_MESSAGE_DATA
    assert guarded.rules.asked == []


async def test_rule_about_the_present_data_cannot_be_outrun(guarded: Scene) -> None:
    """Upstream reads the cache while earlier writes wait: an only-increment rule can be beaten."""
    await guarded.a.set("r", {"n": 1})

    async def increments(name: str, value: int) -> bool:
        _, data = await guarded.rules.records.get_record(name)
        for _ in range(5):
            await asyncio.sleep(0)
        return bool(value == data["n"] + 1)

    def decide(socket: Any, message: Any) -> Any:
        if message.action != R.PATCH:
            return True
        return increments(message.name, json.loads(message.data))

    guarded.rules.decide = decide
    clients = (guarded.a, guarded.b, guarded.c)
    for client in clients:
        client.send(R.PATCH, name="r", version=-1, path="n", data=2)
    answers = []
    for client in clients:
        client.send(R.HEAD, name="r")
        message = await client.receive()
        if message.action == R.MESSAGE_DENIED:
            answers.append(message.action)
            message = await client.receive()
        assert (message.action, message.version) == (R.HEAD_RESPONSE, 2)
    assert len(answers) == 2
    assert await guarded.a.read("r") == (2, {"n": 2})


async def test_rule_that_asks_for_its_own_record(guarded: Scene) -> None:
    seen: list[tuple[R, int]] = []

    async def look(message: Any) -> bool:
        version, _ = await guarded.rules.records.get_record(message.name)
        seen.append((R(message.action), version))
        return True

    guarded.rules.decide = lambda socket, message: look(message)
    guarded.a.send_all(
        (R.SUBSCRIBECREATEANDREAD, {"names": ["r"]}),
        (R.UPDATE, {"name": "r", "version": 1, "data": {"a": 1}}),
        (R.READ, {"name": "r"}),
        (R.DELETE, {"name": "r"}),
    )
    await guarded.a.expect(R.SUBSCRIBECREATEANDREAD, names=["r"], is_ack=True)
    await guarded.a.expect(R.READ_RESPONSE, name="r", version=0, data={})
    await guarded.a.expect(R.READ_RESPONSE, name="r", version=1, data={"a": 1})
    await guarded.a.expect(R.DELETE_SUCCESS, name="r")
    assert seen == [
        (R.SUBSCRIBECREATEANDREAD, -1), (R.CREATE, -1), (R.READ, -1),
        (R.UPDATE, 0), (R.READ, 1), (R.DELETE, 1),
    ]  # fmt: skip


async def test_rules_that_ask_for_each_others_records(guarded: Scene) -> None:
    await guarded.a.set("r", {})
    await guarded.a.set("s", {})

    async def look(name: str) -> bool:
        return bool((await guarded.rules.records.get_record({"r": "s", "s": "r"}[name]))[0] > 0)

    guarded.rules.decide = lambda socket, message: look(message.name)
    for client in (guarded.a, guarded.b, guarded.c):
        for name in ("r", "s"):
            client.send(R.PATCH, name=name, version=-1, path="a", data=1, **ACK)
    for client in (guarded.a, guarded.b, guarded.c):
        for name in ("r", "s"):
            await client.expect(R.WRITE_ACKNOWLEDGEMENT, name=name, **ACK)


async def test_slow_rule_is_not_overtaken(guarded: Scene) -> None:
    go = asyncio.Event()

    async def wait() -> bool:
        return await go.wait()

    guarded.rules.decide = lambda socket, message: wait() if message.name == "slow" else True
    guarded.a.send(R.CREATEANDUPDATE, name="slow", version=1, data={})
    guarded.a.send(R.CREATEANDUPDATE, name="quick", version=1, data={})
    guarded.a.send(R.HEAD, name="quick")
    await guarded.b.fence()
    assert await guarded.b.read("quick") == (-1, None)
    go.set()
    await guarded.a.expect(R.HEAD_RESPONSE, name="quick", version=1)
    assert await guarded.b.read("slow") == (1, {})


async def test_get_record_that_cannot_be_read() -> None:
    async for s in scene({}, permission=Rules, cache=GatedCache):
        s.cache.gate.fail("get", RuntimeError("broken"), RuntimeError("broken"))
        with pytest.raises(RuntimeError):
            await s.rules.records.get_record("r")

        async def look(message: Any, s: Scene = s) -> bool:
            return (await s.rules.records.get_record(message.name)) is not None

        s.rules.decide = lambda socket, message, look=look: look(message)
        s.a.send(R.READ, name="r")
        await s.a.expect(R.MESSAGE_PERMISSION_ERROR, original_action=R.READ, name="r", is_error=True)
