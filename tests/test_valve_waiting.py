"""Permission rules that have to wait: for records that are not in memory, for each other, in vain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dsfast._core.protocol import ConnectionAction, EventAction, Topic
from tests.record_client import GatedCache, R
from tests.valve_kit import (
    expect_refusal,
    permissions,
    record_login,
    serve_rules,
    storage_of,
)
from tests.wire import Client, Running

loops = ["uvloop"]

E, REC = Topic.EVENT, Topic.RECORD
EMIT = EventAction.EMIT

# Where the records are, and what has to confirm a write before anybody is told.
PLACES = ["memory", "storage", "cache plugin", "strict"]


@asynccontextmanager
async def placed(
    place: str, rules: dict[str, Any], rows: dict[str, Any], **options: Any
) -> AsyncIterator[tuple[Running, Any]]:
    """A server whose records are in that place, and the gate before it (None: nothing is waited for)."""
    services: dict[str, Any] = {}
    config: dict[str, Any] = dict(options.pop("config", {}))
    if place != "memory":
        services["storage"] = storage_of(rows)
    if place == "cache plugin":
        services["cache"] = GatedCache
    if place == "strict":
        config["record"] = {"durability": "strict", **config.get("record", {})}
    async with serve_rules(rules, config=config, **options, **services) as s:
        if place == "memory":
            s.services.permission.use_config(permissions({}))
            root = await record_login(s, "root")
            for name, data in rows.items():
                await root.set(name, data)
            s.services.permission.use_config(permissions(rules))
            yield s, None
        elif place == "cache plugin":
            s.services.cache.rows = {name: (1, data) for name, data in rows.items()}
            yield s, s.services.cache.gate
        else:
            yield s, s.services.storage.gate


async def listening(s: Running, *names: str) -> Client:
    """A client that gets these events."""
    reader = await s.login("reader")
    reader.message(E, EventAction.SUBSCRIBE, names=list(names), correlation_id="s")
    await reader.expect(E, EventAction.SUBSCRIBE, correlation_id="s", is_ack=True)
    return reader


# --- where records are ------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
async def test_rules_see_records_wherever_they_are(place: str) -> None:
    rules = {
        "event.publish": "_('a').x === 1 && _('b/' + name).y === user.id",
        "record.read": "oldData === null || oldData.owner === user.id",
        "record.write": "oldData.owner === user.id && data.owner === user.id && _('a').x === 1",
        "record.delete": "oldData.owner === user.id",
    }
    rows = {"a": {"x": 1}, "b/e": {"y": "A"}, "mine": {"owner": "A"}, "other": {"owner": "B"}}
    async with placed(place, rules, rows) as (s, _):
        reader = await listening(s, "e", "f")
        client = await record_login(s, "A")
        for name in ("e", "f"):
            client.wire.message(E, EMIT, name=name)
        await expect_refusal(client.wire, E, "failed", EMIT, "f")
        await reader.expect(E, EMIT, name="e")
        await reader.fence()
        for name, allowed in (("mine", True), ("other", False)):
            client.send(R.READ, name=name)
            if allowed:
                await client.expect(R.READ_RESPONSE, name=name, version=1, data=rows[name])
            else:
                await expect_refusal(client.wire, REC, "denied", R.READ, name)
            client.send(R.HEAD, name=name)
            if allowed:
                await client.expect(R.HEAD_RESPONSE, name=name, version=1)
            else:
                await expect_refusal(client.wire, REC, "denied", R.HEAD, name)
            change = {"version": -1, "path": "x", "data": 5, "is_write_ack": True, "correlation_id": "c"}
            client.send(R.PATCH, name=name, **change)
            fields = {"is_write_ack": True, "correlation_id": "c"}
            if allowed:
                await client.expect(R.WRITE_ACKNOWLEDGEMENT, name=name, **fields)
            else:
                await expect_refusal(client.wire, REC, "denied", R.PATCH, name, **fields)
            client.send(R.DELETE, name=name)
            if allowed:
                await client.expect(R.DELETE_SUCCESS, name=name)
            else:
                await expect_refusal(client.wire, REC, "denied", R.DELETE, name)
        client.send(R.READ, name="mine")
        await client.expect(R.RECORD_NOT_FOUND, name="mine", original_action=R.READ, is_error=True)


@pytest.mark.parametrize("place", PLACES)
async def test_a_counter_that_may_only_grow_is_not_beaten_by_writes_in_a_row(place: str) -> None:
    """Upstream shows the rule of each the record as it was before all of them (records.md section 6.2)."""
    async with placed(place, {"record.write": "data.n > oldData.n"}, {"r": {"n": 10}}) as (s, gate):
        one, two = await record_login(s, "A"), await record_login(s, "B")
        if gate is not None:
            gate.block("get")
        writes = [(one, 15), (one, 12), (two, 14), (two, 16), (one, 16), (one, 17)]
        for position, (client, n) in enumerate(writes):
            client.send(
                R.PATCH,
                name="r",
                version=-1,
                path="n",
                data=n,
                is_write_ack=True,
                correlation_id=str(position),
            )
            if gate is None:
                await client.wire.drain()
        if gate is not None:
            await gate.called("get")
            gate.release("get")
        outcome: dict[str, int] = {}
        for client in (one, two):
            for _ in range(sum(sender is client for sender, _ in writes)):
                message = await client.receive()
                assert message.correlation_id is not None
                outcome[message.correlation_id] = message.action
        # Whose writes come first is open, but the accepted values grow.
        version, data = await one.read("r")
        taken = sorted(
            writes[int(key)][1] for key, action in outcome.items() if action == R.WRITE_ACKNOWLEDGEMENT
        )
        assert data == {"n": 17}
        assert len(set(taken)) == len(taken) == version - 1
        assert outcome["5"] == R.WRITE_ACKNOWLEDGEMENT
        assert outcome["1"] == R.MESSAGE_DENIED


@pytest.mark.parametrize("place", PLACES)
async def test_exactly_the_writes_of_a_row_that_grow_are_accepted(place: str) -> None:
    async with placed(place, {"record.write": "data.n > oldData.n"}, {"r": {"n": 10}}) as (s, _):
        client = await record_login(s, "A")
        values = [11, 11, 9, 13, 12, 14]
        client.send_all(
            *(
                (
                    R.UPDATE,
                    {
                        "name": "r",
                        "version": -1,
                        "data": {"n": n},
                        "is_write_ack": True,
                        "correlation_id": str(n),
                    },
                )
                for n in values
            )
        )
        answers = [await client.receive() for _ in values]
        accepted = [m.correlation_id for m in answers if m.action == R.WRITE_ACKNOWLEDGEMENT]
        assert accepted == ["11", "13", "14"]
        assert await client.read("r") == (4, {"n": 14})


# --- reads and changes ------------------------------------------------------------------

OPEN, CLOSED = {"open": True}, {"open": False, "secret": 1}
READS = {
    "read": (R.READ, {"name": "r"}, "r"),
    "head": (R.HEAD, {"name": "r"}, "r"),
    "subscribe and read": (R.SUBSCRIBEANDREAD, {"names": ["r"], "correlation_id": "c"}, "r"),
    "open": (R.SUBSCRIBECREATEANDREAD, {"names": ["r"], "correlation_id": "c"}, "r"),
}


@pytest.mark.parametrize("place", ["storage", "cache plugin", "strict"])
@pytest.mark.parametrize(("action", "fields", "name"), READS.values(), ids=READS)
async def test_a_read_that_waited_does_not_show_what_its_rule_has_not_allowed(
    action: Any, fields: dict[str, Any], name: str, place: str
) -> None:
    """It was allowed when it came, on another state; an earlier message held it up, and somebody wrote."""
    rules = {"record.read": "oldData.open || user.id === 'root'", "event.publish": "_('slow').ok"}
    async with placed(place, rules, {"r": OPEN}) as (s, gate):
        root, client = await record_login(s, "root"), await record_login(s, "A")
        assert await root.read("r") == (1, OPEN)  # now it is in memory
        # The rule of the event waits for a record, and what comes behind it waits for its turn.
        gate.block("get")
        client.wire.message(E, EMIT, name="e")
        await gate.called("get", gate.count("get") + 1)
        client.send(action, **fields)
        client.send(R.READ, name="end")
        await client.fence()
        if place == "cache plugin":
            s.services.cache.rows["r"] = (2, CLOSED)
        else:
            root.send(R.UPDATE, name="r", version=-1, data=CLOSED)
            assert await root.read("r") == (2, CLOSED)
        gate.release("get")
        told = []
        while (message := await client.receive()).name != "end":
            told.append(message)
        assert not any(message.data is not None and b"secret" in message.data for message in told)
        answers = [
            m.action
            for m in told
            if m.topic == REC and m.action not in (R.SUBSCRIBEANDREAD, R.SUBSCRIBECREATEANDREAD)
        ]
        assert answers == [R.MESSAGE_DENIED]
        assert "r" not in s.registries()["record"].names()


@pytest.mark.parametrize(("action", "fields", "name"), READS.values(), ids=READS)
async def test_a_read_behind_a_write_that_waits_is_decided_on_what_it_shows(
    action: Any, fields: dict[str, Any], name: str
) -> None:
    rules = {"record.read": "oldData.open"}
    async with placed("strict", rules, {"r": OPEN}) as (s, gate):
        root, client = await record_login(s, "root"), await record_login(s, "A")
        assert await root.read("r") == (1, OPEN)
        gate.block("set")
        root.send(R.UPDATE, name="r", version=-1, data=CLOSED)
        await gate.called("set")
        client.send(action, **fields)
        client.wire.message(Topic.CONNECTION, ConnectionAction.PING)
        gate.release("set")
        told = []
        while not told or told[-1].action != R.MESSAGE_DENIED:
            told.append(await client.receive())
        assert all(message.data is None for message in told)


async def test_a_read_that_did_not_wait_is_asked_about_once() -> None:
    """With a rule about the record it is decided when the record is read, with any other when it came."""
    async with serve_rules({"record.read": "oldData.x.y === 1", "record.read b": "user.data.x === 1"}) as s:
        client = await record_login(s, "A")
        s.services.permission.use_config(permissions({}))
        for name in ("a", "b"):
            await client.set(name, {"x": {"y": 2}})
        rules = {"record.read": "oldData.x.z.y === 1", "record.read b": "user.data.x === 1"}
        s.services.permission.use_config(permissions(rules))
        for name in ("a", "b"):
            client.send(R.READ, name=name)
            await expect_refusal(client.wire, REC, "failed", R.READ, name)
        assert len(s.log.find("MESSAGE_PERMISSION_ERROR")) == 2


# --- hot paths --------------------------------------------------------------------------

HOT = {"record": {"storageHotPathPrefixes": ["hot/"]}}


@pytest.mark.parametrize("place", ["memory", "storage", "cache plugin"])
async def test_hot_paths_have_rules_as_other_records(place: str) -> None:
    rules = {"record.write": "data.by === user.id && _('a').x === 1", "record.create": "user.id !== 'B'"}
    async with placed(place, rules, {"a": {"x": 1}}, config=HOT) as (s, _):
        one, two = await record_login(s, "A"), await record_login(s, "B")
        for client, by, verdict in ((one, "A", "allowed"), (one, "B", "denied"), (two, "B", "denied")):
            fields = {"is_write_ack": True, "correlation_id": "c"}
            client.send(R.CREATEANDUPDATE, name="hot/1", version=-1, data={"by": by}, **fields)
            if verdict == "allowed":
                await client.expect(R.WRITE_ACKNOWLEDGEMENT, name="hot/1", **fields)
            else:
                await expect_refusal(client.wire, REC, verdict, R.CREATEANDUPDATE, "hot/1", **fields)
        one.send(R.CREATEANDPATCH, name="hot/1", version=-1, path="x", data=1)
        answer = await one.receive()
        assert answer.action == R.INVALID_PATCH_ON_HOTPATH
        assert await one.read("hot/1") == (0, {"by": "A"})


async def test_the_rule_of_a_hot_write_sees_the_newest_data_as_old() -> None:
    rules = {"record.write": "oldData === null || data.n > oldData.n"}
    async with serve_rules(rules, config=HOT, storage=storage_of({})) as s:
        client = await record_login(s, "A")
        for n, allowed in ((1, True), (1, False), (2, True)):
            fields = {"is_write_ack": True, "correlation_id": "c"}
            client.send(R.CREATEANDUPDATE, name="hot/1", version=-1, data={"n": n}, **fields)
            message = await client.receive()
            assert (message.action == R.WRITE_ACKNOWLEDGEMENT) == allowed, message


# --- failures and limits ----------------------------------------------------------------


@pytest.mark.parametrize("place", ["storage", "cache plugin"])
@pytest.mark.parametrize("rule", ["_('a').x === 1", "true || _('a').x", "_('a') === null || true"])
async def test_a_record_that_cannot_be_loaded_is_a_failure_if_the_rule_asks_for_it(
    rule: str, place: str
) -> None:
    """Not a refusal, and never a record that seems not to exist (section 8)."""
    async with placed(place, {"event.publish": rule}, {"a": {"x": 1}}) as (s, gate):
        reader, client = await listening(s, "e"), await s.login("A")
        gate.fail("get", RuntimeError("disk on fire"))
        client.message(E, EMIT, name="e")
        if rule.startswith("true"):
            await reader.expect(E, EMIT, name="e")
            return
        await expect_refusal(client, E, "failed", EMIT, "e")
        (line,) = s.log.find("MESSAGE_PERMISSION_ERROR")
        assert "failed to load record a for permissioning:" in line
        assert any("disk on fire" in text for _, _, text in s.log.lines)
        # It was that time only.
        client.message(E, EMIT, name="e")
        await reader.expect(E, EMIT, name="e")


async def test_one_record_that_fails_fails_the_rule_even_if_it_needs_it_no_more() -> None:
    rule = "(_('broken') || true) && _('a').x === 1"
    async with placed("storage", {"event.publish": rule}, {"a": {"x": 1}}) as (s, gate):
        client = await s.login("A")
        gate.block("get")
        client.message(E, EMIT, name="e")
        await gate.called("get", 2)
        gate.release("get", RuntimeError("on purpose"))
        await expect_refusal(client, E, "failed", EMIT, "e")


@pytest.mark.parametrize("action", [R.UPDATE, R.READ, R.DELETE])
async def test_a_record_whose_own_load_fails_is_not_decided_about(action: Any) -> None:
    rules = {f"record.{kind}": "oldData === null" for kind in ("read", "write", "delete")}
    async with placed("storage", rules, {"r": {"x": 1}}) as (s, gate):
        client = await record_login(s, "A")
        gate.fail("get", RuntimeError("on purpose"))
        fields = {"version": -1, "data": {}} if action == R.UPDATE else {}
        client.send(action, name="r", **fields)
        answer = await client.receive()
        assert answer.is_error, answer
        assert answer.action not in (R.MESSAGE_DENIED, R.READ_RESPONSE, R.DELETE_SUCCESS)
        assert s.services.storage.rows["r"] == (1, {"x": 1})


@pytest.mark.parametrize("kind", ["emit", "update", "read"])
async def test_a_check_that_takes_too_long_is_a_failure(kind: str) -> None:
    rules = {"event.publish": "_('a').x", "record.write": "_('a').x", "record.read": "_('a').x"}
    config = {"permissionTimeout": 50}
    async with placed("storage", rules, {"a": {"x": 1}, "r": {}}, config=config) as (s, gate):
        client = await record_login(s, "A")
        gate.block("get")
        if kind == "emit":
            client.wire.message(E, EMIT, name="e")
            await expect_refusal(client.wire, E, "failed", EMIT, "e")
        elif kind == "read":
            client.send(R.READ, name="x")
            await expect_refusal(client.wire, REC, "failed", R.READ, "x")
        else:
            client.send(R.UPDATE, name="x", version=-1, data={})
            await gate.called("get")
            gate.release("get", keep=True)
            await expect_refusal(client.wire, REC, "failed", R.UPDATE, "x")
        assert "no answer in time" in s.log.find("MESSAGE_PERMISSION_ERROR")[-1]
        gate.release("get")
        client.wire.message(E, EMIT, name="e")
        await client.fence()


CHAIN = "_('a').x === 1 && _('b').x === 1 && _('c').x === 1"
NESTED = "_(_(_('n1').next).next).x === 1"


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        (CHAIN, 4),
        (NESTED, 4),
        (f"[_('a'), _('b'), _('c')].length && {CHAIN}", 2),
        (f"oldData.x === 1 && {CHAIN}", 5),
        (f"_('a').x === oldData.x && {CHAIN}", 4),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_the_number_of_runs_is_limited_wherever_the_records_are(
    limit: int, rule: str, needed: int, cached: bool
) -> None:
    """What is allowed must not depend on what happens to be in the cache (section 8)."""
    rows = {name: {"x": 1, "next": following} for name, following in zip("abc", "bc-", strict=True)}
    rows |= {"n1": {"next": "n2"}, "n2": {"next": "n3"}, "n3": {"x": 1}, "r": {"x": 1}}
    rules = {"record.delete": rule, "record.read": True}
    async with placed("storage", rules, rows, valve={"maxRuleIterations": limit}) as (s, _):
        client = await record_login(s, "A")
        if cached:
            for name in rows:
                await client.read(name)
        client.send(R.DELETE, name="r")
        if needed <= limit:
            await client.expect(R.DELETE_SUCCESS, name="r")
        else:
            await expect_refusal(client.wire, REC, "failed", R.DELETE, "r")
            assert "Exceeded max iteration count" in s.log.find("MESSAGE_PERMISSION_ERROR")[-1]


@pytest.mark.parametrize("place", ["storage", "strict", "cache plugin"])
async def test_rules_that_refer_to_each_others_records_do_not_wait_for_each_other(place: str) -> None:
    rules = {
        "record.write a": "_('b').n >= 0 && _('c').n >= 0",
        "record.write b": "_('c').n >= 0 && _('a').n >= 0",
        "record.write c": "_('a').n >= 0 && _('b').n >= 0",
    }
    rows = {name: {"n": 0} for name in "abc"}
    async with placed(place, rules, rows) as (s, gate):
        clients = [await record_login(s, f"user{i}") for i in range(6)]
        gate.block("get")
        for number, client in enumerate(clients):
            for turn in range(3):
                name = "abc"[(number + turn) % 3]
                client.send(
                    R.PATCH, name=name, version=-1, path="n", data=number + 1, is_write_ack=True,
                    correlation_id=f"{turn}",
                )  # fmt: skip
        await gate.called("get", 3)
        gate.release("get")
        for client in clients:
            answers = [await client.receive() for _ in range(3)]
            # The storage confirms in any order.
            assert {(m.action, m.correlation_id) for m in answers} == {
                (R.WRITE_ACKNOWLEDGEMENT, str(turn)) for turn in range(3)
            }
        for name in "abc":
            assert (await clients[0].read(name))[0] == 7


async def test_a_rule_that_refers_to_the_record_it_decides_about() -> None:
    rules = {
        "record.write": "_(name).n < 3 && (_(name) === oldData || true)",
        "record.read": "_(name) !== null",
    }
    async with placed("storage", rules, {"r": {"n": 1}}) as (s, _):
        client = await record_login(s, "A")
        for n in (2, 3):
            client.send(R.PATCH, name="r", version=-1, path="n", data=n)
        client.send(R.PATCH, name="r", version=-1, path="n", data=4)
        await expect_refusal(client.wire, REC, "denied", R.PATCH, "r")
        assert await client.read("r") == (3, {"n": 3})
        client.send(R.READ, name="nowhere")
        await expect_refusal(client.wire, REC, "denied", R.READ, "nowhere")
