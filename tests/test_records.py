"""Records, message by message: every rule of spec/records.md that needs no waiting."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dsfast._core.protocol import Message, ParserAction, Topic, encode
from dsfast._core.record_cache import RecordCache
from tests.record_client import GatedStorage, R, RecordClient
from tests.wire import TIMEOUT, Running, serve

loops = ["uvloop"]


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with serve() as running:
        yield running
        assert running.log.errors() == []


@pytest.fixture
async def a(running: Running) -> RecordClient:
    return await RecordClient.login(running, "a")


@pytest.fixture
async def b(running: Running) -> RecordClient:
    return await RecordClient.login(running, "b")


# --- reading and subscribing (section 4) ---


async def test_missing_record(a: RecordClient) -> None:
    a.send(R.READ, name="r", correlation_id="1")
    await a.expect(R.RECORD_NOT_FOUND, original_action=R.READ, name="r", is_error=True)
    a.send(R.HEAD, name="r")
    await a.expect(R.HEAD_RESPONSE, name="r", version=-1)


async def test_snapshot_and_head(a: RecordClient) -> None:
    await a.set("r", [1, {"a": None}])
    a.send(R.READ, name="r")
    await a.expect(R.READ_RESPONSE, name="r", version=1, data=[1, {"a": None}])
    a.send(R.HEAD, name="r")
    await a.expect(R.HEAD_RESPONSE, name="r", version=1)


async def test_head_bulk(a: RecordClient) -> None:
    await a.set("r", {})
    a.send(R.HEAD_BULK, names=["r", "missing"], correlation_id="1")
    await a.expect(R.HEAD_RESPONSE_BULK, versions={"r": 1, "missing": -1}, correlation_id="1")
    a.send(R.HEAD_BULK, names=[], correlation_id="2")
    await a.expect(R.HEAD_RESPONSE_BULK, correlation_id="2")


async def test_subscribe_create_and_read(a: RecordClient, b: RecordClient) -> None:
    a.send(R.SUBSCRIBECREATEANDREAD, names=["r", "s"], correlation_id="7")
    await a.expect(R.SUBSCRIBECREATEANDREAD, names=["r", "s"], correlation_id="7", is_ack=True)
    await a.expect(R.READ_RESPONSE, name="r", version=0, data={})
    await a.expect(R.READ_RESPONSE, name="s", version=0, data={})
    b.send(R.PATCH, name="r", version=1, path="a", data=1)
    await a.expect(R.PATCH, name="r", version=1, path="a", data=1, is_write_ack=False)


async def test_subscribe_and_read_creates_nothing(a: RecordClient, b: RecordClient) -> None:
    a.send(R.SUBSCRIBEANDREAD, names=["r"], correlation_id="7")
    await a.expect(R.SUBSCRIBEANDREAD, names=["r"], correlation_id="7", is_ack=True)
    await a.expect(R.READ_RESPONSE, name="r", version=-1, data={})
    assert await b.read("r") == (-1, None)
    b.send(R.CREATEANDUPDATE, name="r", version=-1, data={"a": 1})
    await a.expect(R.UPDATE, name="r", version=1, data={"a": 1}, is_write_ack=False)


async def test_subscribe_and_head(a: RecordClient, b: RecordClient) -> None:
    await b.set("r", {})
    a.send(R.SUBSCRIBEANDHEAD, names=["r", "missing"], correlation_id="7")
    await a.expect(R.HEAD_RESPONSE_BULK, versions={"r": 1})
    await a.expect(R.SUBSCRIBEANDHEAD, correlation_id="7", is_ack=True)
    await a.expect(R.HEAD_RESPONSE, name="missing", version=-1)
    a.send(R.SUBSCRIBEANDHEAD, names=["missing"], correlation_id="8")
    await a.expect(R.HEAD_RESPONSE_BULK)  # although it is empty
    await a.expect(R.MULTIPLE_SUBSCRIPTIONS, original_action=R.SUBSCRIBEANDHEAD, name="missing")
    await a.expect(R.SUBSCRIBEANDHEAD, correlation_id="8", is_ack=True)
    await a.expect(R.HEAD_RESPONSE, name="missing", version=-1)


async def test_subscribe_and_unsubscribe(a: RecordClient, b: RecordClient) -> None:
    await a.subscribe("r", "s")
    b.send(R.CREATEANDUPDATE, name="r", version=1, data=[])
    await a.expect(R.UPDATE, name="r", version=1, data=[], is_write_ack=False)
    a.send(R.UNSUBSCRIBE, names=["r", "never"], correlation_id="r")
    await a.expect(R.UNSUBSCRIBE, correlation_id="r", is_ack=True)
    await b.set("r", {})
    await a.fence()


@pytest.mark.parametrize("action", [R.SUBSCRIBE, R.SUBSCRIBEANDREAD, R.SUBSCRIBECREATEANDREAD])
async def test_repeated_subscription_is_told_before_the_data(
    running: Running, a: RecordClient, action: Any
) -> None:
    await a.set("r", {})
    data_follows = action != R.SUBSCRIBE
    ack = {"names": ["r", "r"]} if data_follows else {}
    a.send(action, names=["r", "r"], correlation_id="1")
    repeated = {"original_action": R.SUBSCRIBE, "name": "r"}
    if data_follows:
        await a.expect(action, correlation_id="1", is_ack=True, **ack)
        await a.expect(R.READ_RESPONSE, name="r", version=1, data={})
        await a.expect(R.MULTIPLE_SUBSCRIPTIONS, **repeated)
        await a.expect(R.READ_RESPONSE, name="r", version=1, data={})
    else:
        await a.expect(R.MULTIPLE_SUBSCRIPTIONS, **repeated)
        await a.expect(action, correlation_id="1", is_ack=True)
    await a.fence()
    assert 'repeat subscription to "r" by' in running.log.find("MULTIPLE_SUBSCRIPTIONS")[0]


async def test_order_with_a_provider(a: RecordClient, b: RecordClient) -> None:
    a.send(R.LISTEN, name="r.*")
    await a.expect(R.LISTEN, name="r.*", is_ack=True)
    b.send(R.SUBSCRIBECREATEANDREAD, names=["r1"], correlation_id="1")
    await b.expect(R.SUBSCRIBECREATEANDREAD, names=["r1"], correlation_id="1", is_ack=True)
    await b.expect(R.READ_RESPONSE, name="r1", version=0, data={})
    await a.expect(R.SUBSCRIPTION_FOR_PATTERN_FOUND, name="r.*", subscription="r1")
    a.send(R.LISTEN_ACCEPT, name="r.*", subscription="r1")
    await b.expect(R.SUBSCRIPTION_HAS_PROVIDER, name="r1")
    b.send(R.SUBSCRIBECREATEANDREAD, names=["r1"], correlation_id="2")
    await b.expect(R.SUBSCRIBECREATEANDREAD, names=["r1"], correlation_id="2", is_ack=True)
    await b.expect(R.SUBSCRIPTION_HAS_PROVIDER, name="r1")
    await b.expect(R.MULTIPLE_SUBSCRIPTIONS, original_action=R.SUBSCRIBE, name="r1")
    await b.expect(R.READ_RESPONSE, name="r1", version=0, data={})
    b.send(R.DELETE, name="r1")
    await b.expect(R.DELETE_SUCCESS, name="r1")
    await a.expect(R.SUBSCRIPTION_FOR_PATTERN_REMOVED, name="r.*", subscription="r1")


BULK = [
    R.SUBSCRIBE, R.SUBSCRIBEANDREAD, R.SUBSCRIBECREATEANDREAD, R.SUBSCRIBEANDHEAD, R.UNSUBSCRIBE, R.NOTIFY,
    R.HEAD_BULK,
]  # fmt: skip


@pytest.mark.parametrize("action", BULK)
async def test_empty_name_in_a_bulk_request_has_no_effect(
    running: Running, a: RecordClient, action: Any
) -> None:
    a.send(action, names=["r", ""], correlation_id="1")
    await a.expect(R.INVALID_MESSAGE_DATA, original_action=action, correlation_id="1", is_error=True)
    assert running.registries()["record"].names() == []
    assert await a.read("r") == (-1, None)


@pytest.mark.parametrize("action", BULK)
async def test_bulk_request_without_names_is_answered(a: RecordClient, action: Any) -> None:
    a.send(action, correlation_id="1")
    if action == R.HEAD_BULK:
        await a.expect(R.HEAD_RESPONSE_BULK, correlation_id="1")
        return
    if action == R.SUBSCRIBEANDHEAD:
        await a.expect(R.HEAD_RESPONSE_BULK)
    await a.expect(action, correlation_id="1", is_ack=True)


@pytest.mark.parametrize(
    "action", [R.READ, R.HEAD, R.DELETE, R.UPDATE, R.CREATEANDPATCH, R.PATCH_MULTI, R.ERASE]
)
@pytest.mark.parametrize("name", ["", None])
async def test_name_is_required(a: RecordClient, action: Any, name: str | None) -> None:
    a.send(action, correlation_id="1", **({} if name is None else {"name": name}))
    fields = {} if name is None else {"name": name}
    await a.expect(
        R.INVALID_MESSAGE_DATA, original_action=action, correlation_id="1", is_error=True, **fields
    )


@pytest.mark.parametrize("action", [R.READ, R.UPDATE, R.DELETE])
async def test_decoy_names_are_ignored(a: RecordClient, action: Any) -> None:
    await a.set("r", {})
    a.send(action, name="r", names=["decoy"], version=2, data={})
    if action == R.READ:
        await a.expect(R.READ_RESPONSE, name="r", version=1, data={})
    elif action == R.DELETE:
        await a.expect(R.DELETE_SUCCESS, name="r")
    else:
        assert await a.read("r") == (2, {})


@pytest.mark.parametrize("action", [11, 24, 15, 4, 14, 99, 200])
async def test_unknown_action(running: Running, a: RecordClient, action: int) -> None:
    a.wire.message(Topic.RECORD, action, name="r", names=["r"], data=b"{}", version=1)
    await a.wire.expect(
        Topic.PARSER, ParserAction.UNKNOWN_ACTION, original_topic=Topic.RECORD, original_action=action
    )
    assert await a.read("r") == (-1, None)
    assert running.log.find("UNKNOWN_ACTION")


# --- creating ---


async def test_create_race_does_not_lose_the_write(running: Running) -> None:
    """Upstream creates a second time over the first write."""
    clients = [await RecordClient.login(running, f"c{i}") for i in range(6)]
    create = (R.SUBSCRIBECREATEANDREAD, {"names": ["r"], "correlation_id": "1"})
    for i, client in enumerate(clients):
        client.send_all(create, (R.PATCH, {"name": "r", "path": f"c{i}", "data": i, "version": -1}))
    for i, client in enumerate(clients):
        await client.expect(R.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1", is_ack=True)
        message = await client.receive()
        assert message.action == R.READ_RESPONSE
        seen = set(json.loads(message.data or b"")) | {f"c{i}"}
        while len(seen) < 6:
            message = await client.receive()
            assert message.action == R.PATCH
            seen.add(message.path or "")
        await client.fence()
    assert await clients[0].read("r") == (6, {f"c{i}": i for i in range(6)})


@pytest.mark.parametrize(
    ("action", "extra", "after"),
    [
        (R.CREATEANDUPDATE, {"data": {"a": 1}}, {"a": 1}),
        (R.CREATEANDUPDATE, {"data": ["a"]}, ["a"]),
        (R.CREATEANDPATCH, {"data": 1, "path": "a.b"}, {"a": {"b": 1}}),
    ],
)
@pytest.mark.parametrize("version", [-1, 1])
async def test_upsert_of_a_missing_record_makes_version_1(  # noqa: PLR0917 - parameters of pytest
    a: RecordClient, b: RecordClient, action: Any, extra: dict[str, Any], after: Any, version: int
) -> None:
    await b.subscribe("r")
    a.send(action, name="r", version=version, **extra)
    assert await a.read("r") == (1, after)
    told = R.UPDATE if action == R.CREATEANDUPDATE else R.PATCH
    await b.expect(told, name="r", version=1, is_write_ack=False, **extra)
    await b.fence()


# --- validation (section 6.1) ---

DEEP = b"[" * 600 + b"]" * 600
NOT_JSON = [b"", b"{", b"nul", b"undefined", b"NaN", b"Infinity", b"[1,]", b"{}x", b'"\x01"', b"\xff", DEEP]


@pytest.mark.parametrize("data", NOT_JSON)
@pytest.mark.parametrize("action", [R.CREATEANDUPDATE, R.PATCH, R.PATCH_MULTI])
async def test_data_that_is_no_json_is_answered_in_json(
    running: Running, a: RecordClient, action: Any, data: bytes
) -> None:
    path = {"path": "a"} if action == R.PATCH else {}
    normal = {R.CREATEANDUPDATE: R.UPDATE}.get(action, action)
    a.send(action, name="r", version=1, data=data, is_write_ack=True, correlation_id="9", **path)
    await a.expect(
        R.INVALID_MESSAGE_DATA,
        original_action=normal,
        name="r",
        version=1,
        is_error=True,
        is_write_ack=True,
        correlation_id="9",
        **path,
    )
    assert running.router.record_handler.queues == {}
    assert await a.read("r") == (-1, None)


INVALID = [
    (R.UPDATE, {"data": 1}, R.UPDATE),
    (R.UPDATE, {"data": "x"}, R.UPDATE),
    (R.UPDATE, {"data": None}, R.UPDATE),
    (R.UPDATE, {}, R.UPDATE),
    (R.CREATEANDUPDATE, {"data": True}, R.UPDATE),
    (R.CREATEANDUPDATE, {}, R.UPDATE),
    # the action says one thing, the fields another: rules would look at the wrong one
    (R.UPDATE, {"path": "a", "data": {}}, R.PATCH),
    (R.CREATEANDUPDATE, {"path": "a", "data": {}}, R.PATCH),
    (R.PATCH, {"data": {}}, R.UPDATE),
    (R.CREATEANDPATCH, {"data": {}}, R.UPDATE),
    (R.CREATEANDPATCH, {"path": "a"}, R.PATCH),
    (R.ERASE, {}, R.UPDATE),
    (R.ERASE, {"path": "a", "data": 1}, R.PATCH),
    (R.PATCH_MULTI, {"path": "a", "data": [{"path": "a", "data": 1}]}, R.PATCH),
    (R.PATCH_MULTI, {"data": []}, R.PATCH_MULTI),
    (R.PATCH_MULTI, {"data": {}}, R.PATCH_MULTI),
    (R.PATCH_MULTI, {"data": [1]}, R.PATCH_MULTI),
    (R.PATCH_MULTI, {"data": [{}]}, R.PATCH_MULTI),
    (R.PATCH_MULTI, {"data": [{"path": 1}]}, R.PATCH_MULTI),
    (R.PATCH_MULTI, {"data": [{"path": "a"}, {"path": "a[x]"}]}, R.PATCH_MULTI),
    (R.PATCH_MULTI, {}, R.PATCH_MULTI),
]


@pytest.mark.parametrize(("action", "extra", "normal"), INVALID)
async def test_contradictory_or_incomplete_write(
    running: Running, a: RecordClient, action: Any, extra: dict[str, Any], normal: Any
) -> None:
    await a.set("r", {"a": {"b": 1}})
    a.send(action, name="r", version=2, correlation_id="9", is_write_ack=True, **extra)
    await a.expect(
        R.INVALID_MESSAGE_DATA,
        original_action=normal,
        name="r",
        version=2,
        is_error=True,
        is_write_ack=True,
        correlation_id="9",
        **extra,
    )
    assert await a.read("r") == (1, {"a": {"b": 1}})
    assert running.router.record_handler.queues == {}


BAD_PATHS = [
    "", ".", " . ", "[0]", "a[", "a]", "a[]", "a[x]", "a[-1]", "a[1.5]", "a[0]b", "a[0x1]", "__proto__.x",
    "constructor", "a.prototype", "a[100000]", "list.x", "list.length", "list.01", "list[20000]",
    "a" + "[0]" * 600,
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize("action", [R.PATCH, R.CREATEANDPATCH, R.ERASE])
async def test_bad_path_changes_nothing(a: RecordClient, action: Any, path: str) -> None:
    before = {"list": [1, 2]}
    await a.set("r", before)
    data = {} if action == R.ERASE else {"data": 1}
    a.send(action, name="r", version=-1, path=path, **data)
    await a.expect(
        R.INVALID_MESSAGE_DATA,
        original_action=R.PATCH,
        name="r",
        version=-1,
        path=path,
        is_error=True,
        **data,
    )
    assert await a.read("r") == (1, before)


async def test_null_on_the_way_is_replaced(a: RecordClient) -> None:
    """Upstream ends the process here."""
    await a.set("r", {"a": None})
    a.send(R.PATCH, name="r", version=2, path="a.b", data=1)
    assert await a.read("r") == (2, {"a": {"b": 1}})


async def test_depth_limit(a: RecordClient) -> None:
    await a.set("r", json.loads(b'{"a":' + b"[" * 511 + b"]" * 511 + b"}"))
    path = "a" + "[0]" * 510
    a.send(R.PATCH, name="r", version=-1, path=path, data=[])
    await a.fence()
    a.send(R.PATCH, name="r", version=-1, path=path, data=[[]])
    message = await a.receive()
    assert message.action == R.INVALID_MESSAGE_DATA
    assert (await a.read("r"))[0] == 2


# --- versions (section 6.2) ---


@pytest.mark.parametrize(
    "action", [R.UPDATE, R.PATCH, R.CREATEANDUPDATE, R.CREATEANDPATCH, R.ERASE, R.PATCH_MULTI]
)
@pytest.mark.parametrize("version", [-1, 4, 3, 1, 0, -2, None, 5, 100, 0x7FFFFFFF])
@pytest.mark.parametrize("acked", [True, False])
async def test_version_table(  # noqa: PLR0917 - parameters of pytest
    running: Running, a: RecordClient, b: RecordClient, action: Any, version: int | None, acked: bool
) -> None:
    for number in range(1, 4):
        await a.set("r", {"n": number, "a": 1})
    extra: dict[str, Any] = {
        R.UPDATE: {"data": {"x": 1}},
        R.CREATEANDUPDATE: {"data": {"x": 1}},
        R.PATCH: {"data": 2, "path": "a"},
        R.CREATEANDPATCH: {"data": 2, "path": "a"},
        R.ERASE: {"path": "a"},
        R.PATCH_MULTI: {"data": [{"path": "a", "data": 2}]},
    }[action]
    normal = R.PATCH_MULTI if action == R.PATCH_MULTI else R.PATCH if "path" in extra else R.UPDATE
    ack = {"is_write_ack": True, "correlation_id": "5"} if acked else {}
    sent = {} if version is None else {"version": version}
    await b.subscribe("r")
    a.send(action, name="r", **sent, **extra, **ack)
    if version in (-1, 4):
        if acked:
            await a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", **ack)
        await a.fence()
        told = {"name": "r", "version": 4, "is_write_ack": False}
        if action == R.PATCH_MULTI:
            await b.expect(R.UPDATE, data={"n": 3, "a": 2}, **told)
        else:
            await b.expect(normal, **extra, **told)
        assert (await a.read("r"))[0] == 4
    elif version is not None and version > 4:
        await a.expect(
            R.INVALID_VERSION, original_action=normal, name="r", version=3, is_error=True, **extra, **ack
        )
        assert (await a.read("r"))[0] == 3
        await b.fence()
    else:
        await a.expect(
            R.VERSION_EXISTS, original_action=normal, name="r", version=3, data={"n": 3, "a": 1}, **ack
        )
        assert (await a.read("r"))[0] == 3
        await b.fence()
        said = 0 if version is None else version
        text = f"a tried to update record r to version {said} but it already was 3"
        assert any(text.split(" ", 1)[1] in line for line in running.log.find("VERSION_EXISTS"))


async def test_upsert_of_a_missing_record_has_versions_too(a: RecordClient) -> None:
    a.send(R.CREATEANDUPDATE, name="r", version=0, data=[])
    await a.expect(R.VERSION_EXISTS, original_action=R.UPDATE, name="r", version=0, data={})
    a.send(R.CREATEANDPATCH, name="r", version=2, data=1, path="a")
    await a.expect(
        R.INVALID_VERSION, original_action=R.PATCH, name="r", version=0, data=1, path="a", is_error=True
    )
    assert await a.read("r") == (-1, None)


async def test_forced_and_explicit_versions_mix(a: RecordClient, b: RecordClient) -> None:
    """Upstream compares with the last explicit version only and refuses a correct client."""
    await a.set("r", {})
    for version in (2, -1, 4, -1, 6):
        a.send(R.PATCH, name="r", version=version, path="n", data=version)
    assert await a.read("r") == (6, {"n": 6})


async def test_versions_end_at_int32() -> None:
    async with serve(storage=GatedStorage) as running:
        storage: GatedStorage = running.services.storage  # type: ignore[assignment]
        storage.rows["r"] = (0x7FFFFFFF - 1, {})
        a = await RecordClient.login(running, "a")
        a.send(R.PATCH, name="r", version=-1, path="a", data=1)
        assert await a.read("r") == (0x7FFFFFFF, {"a": 1})
        a.send(R.PATCH, name="r", version=-1, path="a", data=2)
        await a.expect(
            R.INVALID_MESSAGE_DATA,
            original_action=R.PATCH,
            name="r",
            version=-1,
            path="a",
            data=2,
            is_error=True,
        )
        assert await a.read("r") == (0x7FFFFFFF, {"a": 1})


# --- missing records (section 6.3) ---


@pytest.mark.parametrize(
    ("action", "extra"),
    [
        (R.UPDATE, {"data": {}}),
        (R.PATCH, {"data": 1, "path": "a"}),
        (R.PATCH, {"path": "a"}),
        (R.ERASE, {"path": "a"}),
        (R.PATCH_MULTI, {"data": [{"path": "a", "data": 1}]}),
    ],
)
@pytest.mark.parametrize("acked", [True, False])
async def test_plain_write_never_creates(
    running: Running, a: RecordClient, action: Any, extra: dict[str, Any], acked: bool
) -> None:
    """Upstream creates the record if the write asks for an acknowledgement."""
    ack = {"is_write_ack": True, "correlation_id": "5"} if acked else {}
    for version in (-1, 1):
        a.send(action, name="r", version=version, **extra, **ack)
        await a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True, **ack)
    assert await a.read("r") == (-1, None)
    assert running.log.find("RECORD_UPDATE_ERROR")[0] == "Received update for non-existant record r"


async def test_refused_write_leaves_no_trace(a: RecordClient) -> None:
    a.send(R.CREATEANDPATCH, name="r", version=-1, path="a[99999]", data=1)
    assert (await a.receive()).action == R.INVALID_MESSAGE_DATA
    a.send(R.PATCH, name="r", version=1, path="a", data=1)
    await a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True)
    await a.set("r", {"a": 1}, version=1)


# --- applying and broadcasting (sections 6.4 and 6.6) ---


@pytest.mark.parametrize("value", [0, False, "", None, [], {}, 1.5, "x", {"a": [1]}])
async def test_falsy_values_are_values(a: RecordClient, b: RecordClient, value: Any) -> None:
    await a.set("r", {"a": 1})
    await b.subscribe("r")
    a.send(R.PATCH, name="r", version=2, path="a", data=value)
    await b.expect(R.PATCH, name="r", version=2, path="a", data=value, is_write_ack=False)
    assert await b.read("r") == (2, {"a": value})


@pytest.mark.parametrize("action", [R.ERASE, R.PATCH])
async def test_erase_is_told_as_patch_without_data(a: RecordClient, b: RecordClient, action: Any) -> None:
    await a.set("r", {"a": 1, "b": [1, 2]})
    await b.subscribe("r")
    a.send(action, name="r", version=2, path="a")
    await b.expect(R.PATCH, name="r", version=2, path="a", is_write_ack=False)
    a.send(action, name="r", version=3, path="b[1]")
    await b.expect(R.PATCH, name="r", version=3, path="b[1]", is_write_ack=False)
    assert await b.read("r") == (3, {"b": [1, None]})


async def test_sender_gets_no_echo(a: RecordClient, b: RecordClient) -> None:
    await a.set("r", {})
    a.send(R.SUBSCRIBE, names=["r", "r"])
    await a.expect(R.MULTIPLE_SUBSCRIPTIONS, original_action=R.SUBSCRIBE, name="r")
    await a.expect(R.SUBSCRIBE, is_ack=True)
    await b.subscribe("r")
    a.send(R.UPDATE, name="r", version=2, data={"a": 1})
    a.send(R.PATCH_MULTI, name="r", version=3, data=[{"path": "a"}])
    await a.fence()
    await b.expect(R.UPDATE, name="r", version=2, data={"a": 1}, is_write_ack=False)
    await b.expect(R.UPDATE, name="r", version=3, data={}, is_write_ack=False)


async def test_broadcast_is_built_from_known_fields(a: RecordClient, b: RecordClient) -> None:
    await a.set("r", {})
    await b.subscribe("r")
    a.send(
        R.UPDATE, name="r", version=-1, data={"a": 1}, correlation_id="3", is_write_ack=True, is_error=True,
        original_action=R.DELETE, names=["x"], subscription="s", is_ack=True,
    )  # fmt: skip
    await a.expect(R.WRITE_ACKNOWLEDGEMENT, name="r", correlation_id="3", is_write_ack=True)
    await b.expect(R.UPDATE, name="r", version=2, data={"a": 1}, is_write_ack=False)


async def test_patch_multi_is_one_step_for_every_generation_of_clients(
    running: Running, a: RecordClient
) -> None:
    await a.set("r", {"a": 1, "list": [1, 2]})
    old = await RecordClient.login(running, sdk="7.0.5")
    new = await RecordClient.login(running, sdk="7.1.0")
    newer = await RecordClient.login(running, sdk="10.0.0-rc.1")
    unknown = await RecordClient.login(running, sdk="next")
    for client in (old, new, newer, unknown):
        await client.subscribe("r")
    operations = [{"path": "b.c", "data": None}, {"path": "a"}, {"path": "list[3]", "data": "x"}]
    a.send(R.PATCH_MULTI, name="r", version=2, data=operations)
    after = {"list": [1, 2, None, "x"], "b": {"c": None}}
    for client in (new, newer):
        await client.expect(R.PATCH_MULTI, name="r", version=2, data=operations, is_write_ack=False)
    for client in (old, unknown):
        await client.expect(R.UPDATE, name="r", version=2, data=after, is_write_ack=False)
    assert await a.read("r") == (2, after)
    # Only such as know it: one message for all.
    for client in (old, unknown):
        client.send(R.UNSUBSCRIBE, names=["r"])
        await client.expect(R.UNSUBSCRIBE, is_ack=True)
    a.send(R.PATCH_MULTI, name="r", version=3, data=[{"path": "b", "data": 1}])
    for client in (new, newer):
        await client.expect(
            R.PATCH_MULTI, name="r", version=3, data=[{"path": "b", "data": 1}], is_write_ack=False
        )


async def test_patch_multi_is_all_or_nothing(a: RecordClient, b: RecordClient) -> None:
    before = {"a": 1, "list": [1]}
    await a.set("r", before)
    await b.subscribe("r")
    data = [{"path": "a", "data": 2}, {"path": "new.x", "data": 1}, {"path": "list.x", "data": 1}]
    a.send(R.PATCH_MULTI, name="r", version=2, data=data)
    await a.expect(
        R.INVALID_MESSAGE_DATA, original_action=R.PATCH_MULTI, name="r", version=2, data=data, is_error=True
    )
    assert await b.read("r") == (1, before)
    a.send(R.PATCH_MULTI, name="r", version=2, data=data[:2])
    await b.expect(
        R.UPDATE, name="r", version=2, data={"a": 2, "list": [1], "new": {"x": 1}}, is_write_ack=False
    )


async def test_numbers_are_written_as_javascript_does(a: RecordClient) -> None:
    await a.set("r", {})
    a.send(R.PATCH, name="r", version=-1, path="a", data=b"[1.0,-0.0,1e3,9007199254740993,1.5,1e400]")
    a.send(R.READ, name="r")
    message = await a.wire.receive()
    assert message.data == b'{"a":[1,0,1000,9007199254740993,1.5,null]}'


async def test_update_keeps_the_bytes_of_the_client(a: RecordClient) -> None:
    text = b'{ "a" : 1.0, "b":"\\u00e9" }'
    await a.set("r", text)
    a.send(R.READ, name="r")
    assert (await a.wire.receive()).data == text


async def test_lone_surrogates(a: RecordClient) -> None:
    await a.set("r", b'{"a":"\\ud800","b":"\xc3\xa4"}')
    a.send(R.PATCH, name="r", version=-1, path="c", data=b'"\\udfff"')
    assert await a.read("r") == (2, {"a": "\ud800", "b": "ä", "c": "\udfff"})


@pytest.mark.parametrize(
    "name", ["ä/ö", "日本語", "a b", "x_v", "{tag}", "'\";--", "\U0001f600", "n" * 3000, "\x00"]
)
async def test_names(a: RecordClient, b: RecordClient, name: str) -> None:
    await b.subscribe(name)
    a.send(R.CREATEANDPATCH, name=name, version=-1, path=f"k{name[:9]}".replace("[", ""), data=name)
    message = await b.receive()
    assert (message.name, json.loads(message.data or b"")) == (name, name)
    assert (await a.read(name))[0] == 1


async def test_bytes_that_are_no_text_are_refused(a: RecordClient) -> None:
    raw = encode(Message(Topic.RECORD, R.PATCH, name="rrrr", path="pppp", version=1, data=b"1"))
    for field in (b"rrrr", b"pppp"):
        a.wire.send(raw.replace(field, b"\xff\xfe\xc3\x28"))
        await a.wire.expect(Topic.PARSER, ParserAction.UNKNOWN_TOPIC)


async def test_read_response_is_of_one_moment(running: Running, a: RecordClient) -> None:
    await a.set("r", {"n": 1})
    readers = [await RecordClient.login(running, f"r{i}") for i in range(5)]
    for n in range(2, 60):
        a.send(R.PATCH, name="r", version=n, path="n", data=n)
        version, data = await readers[n % 5].read("r")
        assert data == {"n": version}


# --- limits ---


async def test_record_max_size() -> None:
    async with serve({"record": {"maxSize": 300}}) as running:
        a = await RecordClient.login(running, "a")
        too_big = {"a": "x" * 300}
        for version in (-1, 1):
            a.send(
                R.CREATEANDUPDATE,
                name="r",
                version=version,
                data=too_big,
                is_write_ack=True,
                correlation_id="1",
            )
            await a.expect(
                R.RECORD_UPDATE_ERROR, name="r", is_error=True, is_write_ack=True, correlation_id="1"
            )
        assert await a.read("r") == (-1, None)
        await a.set("r", {"list": [1, 2, 3]})
        a.send(R.PATCH, name="r", version=2, path="list[1]", data="y")  # far from the limit, with an index
        assert await a.read("r") == (2, {"list": [1, "y", 3]})
        a.send(R.PATCH, name="r", version=3, path="b", data="x" * 240)
        a.send(R.PATCH, name="r", version=4, path="c", data="x" * 40)
        await a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True)
        a.send(R.PATCH, name="r", version=4, path="list[60]", data=0)  # holes count
        await a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True)
        a.send(R.PATCH_MULTI, name="r", version=4, data=[{"path": "d", "data": "x" * 40}])
        await a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True)
        assert await a.read("r") == (3, {"list": [1, "y", 3], "b": "x" * 240})
        a.send(R.ERASE, name="r", version=4, path="b")
        assert await a.read("r") == (4, {"list": [1, "y", 3]})


async def test_a_record_over_the_limit_may_shrink() -> None:
    async with serve({"record": {"maxSize": 100}}, storage=GatedStorage) as running:
        running.services.storage.rows["r"] = (1, {"a": "x" * 200, "b": "x" * 200})  # type: ignore[attr-defined]
        a = await RecordClient.login(running, "a")
        a.send(R.PATCH, name="r", version=2, path="c", data=1)
        await a.expect(R.RECORD_UPDATE_ERROR, name="r", is_error=True)
        a.send(R.ERASE, name="r", version=2, path="a")
        assert await a.read("r") == (2, {"b": "x" * 200})


async def test_index_limits() -> None:
    async with serve({"record": {"maxIndexGrowth": 10, "maxArrayLength": 15}}) as running:
        a = await RecordClient.login(running, "a")
        await a.set("r", {"a": []})
        for path, good in [
            ("a[11]", False),
            ("a[10]", True),
            ("a[15]", False),
            ("a[14]", True),
            ("b[11]", False),
        ]:
            a.send(R.PATCH, name="r", version=-1, path=path, data=1)
            if good:
                await a.fence()
            else:
                assert (await a.receive()).action == R.INVALID_MESSAGE_DATA
        version, data = await a.read("r")
        assert (version, len(data["a"])) == (3, 15)


# --- hot path (section 8) ---

HOT = {"record": {"storageHotPathPrefixes": ["hot/"], "storageExclusionPrefixes": ["tmp/", "hot/tmp"]}}


async def test_hot_path() -> None:
    async with serve(HOT, storage=GatedStorage) as running:
        storage: GatedStorage = running.services.storage  # type: ignore[assignment]
        a, b = [await RecordClient.login(running, user) for user in "ab"]
        storage.rows["hot/r"] = (7, {"old": 1})
        await b.subscribe("hot/r")
        for number in range(3):
            a.send(
                R.CREATEANDUPDATE, name="hot/r", version=-1, data={"n": number}, is_write_ack=True,
                correlation_id=str(number),
            )  # fmt: skip
            await a.expect(
                R.WRITE_ACKNOWLEDGEMENT, name="hot/r", correlation_id=str(number), is_write_ack=True
            )
            await b.expect(R.UPDATE, name="hot/r", version=-1, data={"n": number}, is_write_ack=False)
        assert storage.rows["hot/r"] == (0, {"n": 2})
        assert storage.gate.count("get") == 0
        assert await a.read("hot/r") == (0, {"n": 2})
        # other writes of such a record are ordinary
        a.send(R.PATCH, name="hot/r", version=1, path="n", data=3)
        assert await a.read("hot/r") == (1, {"n": 3})
        for action, data in (
            (R.CREATEANDUPDATE, b'"x"'),
            (R.CREATEANDUPDATE, b"null"),
            (R.CREATEANDUPDATE, b"{"),
        ):
            a.send(action, name="hot/r", version=-1, data=data)
            assert (await a.receive()).action == R.INVALID_MESSAGE_DATA
        a.send(
            R.CREATEANDPATCH,
            name="hot/r",
            version=-1,
            path="a",
            data=1,
            correlation_id="p",
            is_write_ack=True,
        )
        await a.expect(
            R.INVALID_PATCH_ON_HOTPATH, original_action=R.CREATEANDPATCH, name="hot/r", correlation_id="p",
            is_error=True, is_write_ack=True,
        )  # fmt: skip


async def test_excluded_records_never_reach_the_storage() -> None:
    async with serve(HOT, storage=GatedStorage) as running:
        storage: GatedStorage = running.services.storage  # type: ignore[assignment]
        storage.rows["tmp/r"] = (5, {"stored": 1})
        a = await RecordClient.login(running, "a")
        for name in ("tmp/r", "hot/tmp/r"):
            assert await a.read(name) == (-1, None)
            await a.set(name, {"a": 1})
            a.send(R.DELETE, name=name)
            await a.expect(R.DELETE_SUCCESS, name=name)
            assert await a.read(name) == (-1, None)
        a.send(R.SUBSCRIBECREATEANDREAD, names=["tmp/r"])
        await a.expect(R.SUBSCRIBECREATEANDREAD, names=["tmp/r"], is_ack=True)
        await a.expect(R.READ_RESPONSE, name="tmp/r", version=0, data={})
        await running.services.storage_writer.flush()  # type: ignore[union-attr]
        assert storage.gate.calls == []


# --- delete (section 9) ---


async def test_delete(running: Running, a: RecordClient, b: RecordClient) -> None:
    await a.set("r", {"a": 1})
    await a.subscribe("r")
    await b.subscribe("r")
    a.send(R.DELETE, name="r", correlation_id="1")
    await a.expect(R.DELETE_SUCCESS, name="r")
    await b.expect(R.DELETED, name="r")
    assert running.registries()["record"].names() == []
    assert running.log.find("DELETE") == ["r"]
    await a.set("r", {"b": 1})
    assert await b.read("r") == (1, {"b": 1})


async def test_delete_of_a_missing_record_succeeds(a: RecordClient, b: RecordClient) -> None:
    await b.subscribe("r")
    a.send(R.DELETE, name="r")
    await a.expect(R.DELETE_SUCCESS, name="r")
    await b.expect(R.DELETED, name="r")


# --- notify (section 10) ---


async def test_notify() -> None:
    async with serve(storage=GatedStorage) as running:
        storage: GatedStorage = running.services.storage  # type: ignore[assignment]
        a, b = [await RecordClient.login(running, user) for user in "ab"]
        for name in ("r", "gone", "unwatched"):
            await a.set(name, {"a": 1})
        await a.subscribe("r", "gone")
        await b.subscribe("r", "gone")
        storage.rows["r"] = (5, {"changed": True})
        storage.rows["unwatched"] = (9, [])
        del storage.rows["gone"]
        a.send(R.NOTIFY, names=["r", "gone", "unwatched", "never"], correlation_id="1")
        for client in (a, b):
            await client.expect(R.UPDATE, name="r", version=5, data={"changed": True})
            await client.expect(R.DELETED, name="gone")
        await a.expect(R.NOTIFY, names=["r", "gone", "unwatched", "never"], correlation_id="1", is_ack=True)
        assert running.registries()["record"].names() == ["r"]
        assert await b.read("unwatched") == (9, [])
        a.send(R.PATCH, name="r", version=6, path="a", data=1)
        await b.expect(R.PATCH, name="r", version=6, path="a", data=1, is_write_ack=False)
        await running.services.storage_writer.flush()  # type: ignore[union-attr]
        assert storage.rows["r"] == (6, {"changed": True, "a": 1})


async def test_notify_does_not_undo_what_is_still_to_be_saved() -> None:
    async with serve(storage=GatedStorage) as running:
        storage: GatedStorage = running.services.storage  # type: ignore[assignment]
        a = await RecordClient.login(running, "a")
        storage.gate.block("set")
        a.send(R.CREATEANDUPDATE, name="r", version=-1, data={"a": 1})
        await a.subscribe("r")
        a.send(R.NOTIFY, names=["r"], correlation_id="1")
        await a.expect(R.UPDATE, name="r", version=1, data={"a": 1})
        await a.expect(R.NOTIFY, names=["r"], correlation_id="1", is_ack=True)
        storage.gate.release("set")
        await running.services.storage_writer.flush()  # type: ignore[union-attr]
        assert storage.rows["r"] == (1, {"a": 1})


# --- memory cache (caches.md section 3) ---


async def test_eviction_of_what_the_storage_holds_only() -> None:
    limits = {"cache": {"type": "default", "options": {"maxEntries": 3}}}
    excluded = {"record": {"storageExclusionPrefixes": ["tmp/"]}}
    async with serve({**limits, **excluded}, storage=GatedStorage) as running:
        storage: GatedStorage = running.services.storage  # type: ignore[assignment]
        cache = running.router.record_handler.cache
        a = await RecordClient.login(running, "a")
        for number in range(100):  # these stay, there is no other place for them
            a.send(R.CREATEANDUPDATE, name=f"tmp/{number}", version=-1, data={"n": number})
        storage.gate.block("set")
        for number in range(20):
            a.send(R.CREATEANDUPDATE, name=f"r{number}", version=-1, data={"n": number})
        await a.read("r19")
        assert len(cache) == 120
        storage.gate.release("set")
        await running.services.storage_writer.flush()  # type: ignore[union-attr]
        for number in range(20):
            a.send(R.PATCH, name=f"r{number}", version=2, path="x", data=1)
            assert await a.read(f"r{number}") == (2, {"n": number, "x": 1})
            await running.services.storage_writer.flush()  # type: ignore[union-attr]
        assert cache.evictions > 10
        assert len(cache) < 110
        for number in range(100):
            assert await a.read(f"tmp/{number}") == (1, {"n": number})
        for number in range(20):
            assert await a.read(f"r{number}") == (2, {"n": number, "x": 1})


@pytest.mark.parametrize("bound", [{"maxEntries": 1}, {"maxBytes": 1}])
async def test_cache_that_holds_nothing(bound: dict[str, int]) -> None:
    """A record that is evicted while it is in use was once touched through links that were gone."""
    async with serve({"cache": {"type": "default", "options": bound}}, storage=GatedStorage) as running:
        a, b = [await RecordClient.login(running, user) for user in "ab"]
        for number in range(5):
            await a.set(f"r{number}", {"n": number})
        await b.subscribe(*(f"r{number}" for number in range(5)))
        for version in range(2, 6):
            for number in range(5):
                a.send(R.PATCH, name=f"r{number}", version=version, path="v", data=version)
                await b.expect(
                    R.PATCH, name=f"r{number}", version=version, path="v", data=version, is_write_ack=False
                )
            await running.services.storage_writer.flush()  # type: ignore[union-attr]
        for number in range(5):
            assert await a.read(f"r{number}") == (5, {"n": number, "v": 5})
        cache = running.router.record_handler.cache
        cache.shrink()
        assert len(cache) == (1 if "maxEntries" in bound else 0)


def test_expiry_of_what_the_storage_holds_only() -> None:
    cache = RecordCache(ttl=1)
    for name in ("saved", "unsaved", "older"):
        cache.store(name, 2, b"{}")
    cache.lookup("saved").saved(2)  # type: ignore[union-attr]
    cache.lookup("older").saved(1)  # type: ignore[union-attr]
    end = time.monotonic() + TIMEOUT
    while not cache.expire() and time.monotonic() < end:
        pass
    assert [cache.lookup(name) is None for name in ("saved", "unsaved", "older")] == [True, False, False]
    assert cache.stats()["evictions"] == 1


async def test_burst_of_many_clients_on_one_record(running: Running) -> None:
    clients = [await RecordClient.login(running, f"c{i}") for i in range(20)]
    for client in clients:
        for _ in range(20):
            client.send(R.CREATEANDPATCH, name="r", version=-1, path="a", data=1)
    await asyncio.gather(*(client.fence() for client in clients))
    assert await clients[0].read("r") == (400, {"a": 1})
