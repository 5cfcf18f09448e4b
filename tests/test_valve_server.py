"""Permission rules on a server: every rule type for every action, and the holes of upstream, closed.

Section numbers are those of the specification of the rules (valve.md), of records.md where it says so.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from dsfast._core.protocol import (
    ConnectionAction,
    EventAction,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
)
from dsfast._core.valve_gate import rule_type
from tests.record_client import R, RecordClient
from tests.valve_kit import (
    DENIED,
    expect_refusal,
    login,
    permissions,
    record_login,
    serve_rules,
    state,
    storage_of,
)

loops = ["uvloop"]

E, REC, RPC, P = Topic.EVENT, Topic.RECORD, Topic.RPC, Topic.PRESENCE
TOPICS: dict[Topic, Any] = {E: EventAction, REC: RecordAction, RPC: RpcAction, P: PresenceAction}

# --- section 9: the rule of every action ------------------------------------------------

RULES: dict[tuple[int, int], str] = {
    (REC, R.SUBSCRIBE): "record.read",
    (REC, R.SUBSCRIBEANDHEAD): "record.read",
    (REC, R.SUBSCRIBEANDREAD): "record.read",
    (REC, R.READ): "record.read",
    (REC, R.HEAD): "record.read",
    (REC, R.HEAD_BULK): "record.read",  # upstream leaves it out, but never answers it
    (REC, R.CREATE): "record.create",  # a step of the server; clients cannot send it
    (REC, R.UPDATE): "record.write",
    (REC, R.PATCH): "record.write",
    (REC, R.PATCH_MULTI): "record.write",
    (REC, R.DELETE): "record.delete",
    (REC, R.ERASE): "record.delete",
    (REC, R.LISTEN): "record.listen",
    (REC, R.NOTIFY): "record.notify",
    (E, EventAction.EMIT): "event.publish",
    (E, EventAction.SUBSCRIBE): "event.subscribe",
    (E, EventAction.LISTEN): "event.listen",
    (RPC, RpcAction.PROVIDE): "rpc.provide",
    (RPC, RpcAction.REQUEST): "rpc.request",
    (P, PresenceAction.SUBSCRIBE): "presence.allow",
    (P, PresenceAction.SUBSCRIBE_ALL): "presence.allow",
    (P, PresenceAction.QUERY): "presence.allow",
    (P, PresenceAction.QUERY_ALL): "presence.allow",
}
FREE: dict[int, set[int]] = {
    # Their steps are decided about one by one, see the tests of creating.
    REC: {R.SUBSCRIBECREATEANDREAD, R.CREATEANDUPDATE, R.CREATEANDPATCH}
    # Giving up, and answers to what the server asked: needs no rule.
    | {R.UNSUBSCRIBE, R.UNLISTEN, R.LISTEN_ACCEPT, R.LISTEN_REJECT}
    # No action of a client, refused by its handler.
    | {R.DELETE_BULK, R.SUBSCRIBECREATEANDUPDATE, R.UNKNOWN, R.ERROR}
    | {R.READ_RESPONSE, R.HEAD_RESPONSE, R.HEAD_RESPONSE_BULK, R.DELETE_SUCCESS, R.DELETE_BULK_SUCCESS}
    | {R.DELETED, R.WRITE_ACKNOWLEDGEMENT}
    | set(range(R.SUBSCRIPTION_HAS_PROVIDER, R.PATCH_MULTI))
    | {action for action in R if action >= 100},
    E: {EventAction.UNSUBSCRIBE, EventAction.UNLISTEN, EventAction.LISTEN_ACCEPT, EventAction.LISTEN_REJECT}
    | {EventAction.UNKNOWN, EventAction.ERROR}
    | {action for action in EventAction if action >= EventAction.SUBSCRIPTION_HAS_PROVIDER},
    RPC: {
        RpcAction.UNPROVIDE,
        RpcAction.ACCEPT,
        RpcAction.RESPONSE,
        RpcAction.REJECT,
        RpcAction.REQUEST_ERROR,
    }
    | {RpcAction.UNKNOWN, RpcAction.ERROR}
    | {action for action in RpcAction if action >= 100},
    P: {PresenceAction.UNSUBSCRIBE, PresenceAction.UNSUBSCRIBE_ALL}
    | {PresenceAction.UNKNOWN, PresenceAction.ERROR, PresenceAction.QUERY_ALL_RESPONSE}
    | {PresenceAction.QUERY_RESPONSE}
    | set(range(PresenceAction.PRESENCE_JOIN, PresenceAction.SUBSCRIBE))
    | {action for action in PresenceAction if action >= 100},
}
ALL_ACTIONS = [(topic, action) for topic, actions in TOPICS.items() for action in actions]


@pytest.mark.parametrize(("topic", "action"), ALL_ACTIONS, ids=[f"{t.name} {a.name}" for t, a in ALL_ACTIONS])
def test_every_action_has_its_rule_or_explicitly_none(topic: Topic, action: Any) -> None:
    """A new action of the protocol fails here until somebody has thought about it."""
    named = RULES.get((topic, action))
    assert (named is None) == (action in FREE[topic]), "in exactly one of the tables"
    assert rule_type(topic, action) == (None if named is None else tuple(named.split(".")))


@pytest.mark.parametrize("topic", [t for t in Topic if t not in TOPICS])
def test_other_topics_have_no_rules(topic: Topic) -> None:
    assert all(rule_type(topic, action) is None for action in range(256))


async def test_whatever_a_client_sends_nothing_happens_without_permission() -> None:
    """Every number of every topic, with everything a message can have, where everything is refused.

    What needs a rule is denied; what needs none is answered by its handler, and changes nothing either.
    """
    async with serve_rules({}, False, options={"maxBadMessages": 100_000}) as s:
        client = await s.login("A")
        before = state(s, "r")
        contents: list[dict[str, Any]] = [
            {"name": "r", "names": ["r"], "data": b'{"a":1}', "version": -1, "subscription": "r"},
            {"name": "r", "data": b'[{"path":"a","data":1}]', "path": "a", "version": -1},
            {"name": "r", "data": b'[{"path":"a","data":1}]', "version": -1},
            {"name": "r", "path": "a", "is_write_ack": True},
            {"names": ["r", "r"]},
        ]
        answers: dict[tuple[int, int], set[int]] = {}
        for topic, content in itertools.product(TOPICS, contents):
            for action in range(128):
                client.message(topic, action, correlation_id="c", **content)
                client.message(Topic.CONNECTION, ConnectionAction.PING)
                while (message := await client.receive()).topic != Topic.CONNECTION:
                    if message.topic == topic:
                        answers.setdefault((topic, action), set()).add(message.action)
                assert state(s, "r") == before, (topic, action, content)
        for (topic, action), needed in RULES.items():
            if needed != "record.create":
                assert DENIED[topic] in answers[topic, action], (topic, action)
        for topic, actions in FREE.items():
            denied = {action for action in actions if DENIED[topic] in answers.get((topic, action), set())}
            steps = {R.SUBSCRIBECREATEANDREAD, R.CREATEANDUPDATE, R.CREATEANDPATCH}
            assert denied == (steps if topic == REC else set())
        successes = {R.READ_RESPONSE, R.HEAD_RESPONSE, R.WRITE_ACKNOWLEDGEMENT, R.DELETE_SUCCESS}
        assert not any(found & successes for (topic, _), found in answers.items() if topic == REC)


# --- every rule type, every verdict -----------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A message on the name ``r``, the rule types it needs, and what its sender gets if it is allowed."""

    topic: Topic
    action: int
    needs: tuple[str, ...]
    answers: tuple[int, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    first: tuple[int, ...] = ()
    """What comes even if it is refused."""
    name: str | None = "r"

    def refused(self) -> dict[str, Any]:
        """Fields of the refusal, beside the usual ones."""
        copied = {key: self.fields[key] for key in ("correlation_id", "is_write_ack") if key in self.fields}
        return {"name": self.name, **copied} if self.name is not None else copied


NAMES = {"names": ["r"], "correlation_id": "c"}
ACKED: dict[str, Any] = {"name": "r", "version": -1, "is_write_ack": True, "correlation_id": "c"}
MULTI = json.dumps([{"path": "b", "data": 2}]).encode()
DONE = (R.WRITE_ACKNOWLEDGEMENT,)
UPSERT = ("record.create", "record.write")

REQUESTS = {
    "read": Request(REC, R.READ, ("record.read",), (R.READ_RESPONSE,), {"name": "r"}),
    "head": Request(REC, R.HEAD, ("record.read",), (R.HEAD_RESPONSE,), {"name": "r"}),
    "heads": Request(REC, R.HEAD_BULK, ("record.read",), (R.HEAD_RESPONSE_BULK,), NAMES),
    "subscribe": Request(REC, R.SUBSCRIBE, ("record.read",), (R.SUBSCRIBE,), NAMES),
    "subscribe and head": Request(
        REC, R.SUBSCRIBEANDHEAD, ("record.read",), (R.HEAD_RESPONSE_BULK, R.SUBSCRIBEANDHEAD), NAMES
    ),
    "subscribe and read": Request(
        REC, R.SUBSCRIBEANDREAD, ("record.read",), (R.SUBSCRIBEANDREAD, R.READ_RESPONSE), NAMES
    ),
    "open existing": Request(
        REC,
        R.SUBSCRIBECREATEANDREAD,
        ("record.read",),
        (R.READ_RESPONSE,),
        NAMES,
        (R.SUBSCRIBECREATEANDREAD,),
    ),
    "open missing": Request(
        REC,
        R.SUBSCRIBECREATEANDREAD,
        ("record.create", "record.read"),
        (R.READ_RESPONSE,),
        {"names": ["new"], "correlation_id": "c"},
        (R.SUBSCRIBECREATEANDREAD,),
        "new",
    ),
    "upsert": Request(REC, R.CREATEANDUPDATE, UPSERT, DONE, {**ACKED, "data": b'{"b":2}'}),
    "upsert missing": Request(
        REC, R.CREATEANDUPDATE, UPSERT, DONE, {**ACKED, "data": b'{"b":2}', "name": "new"}, name="new"
    ),
    "upsert patch": Request(REC, R.CREATEANDPATCH, UPSERT, DONE, {**ACKED, "path": "b", "data": b"2"}),
    "update": Request(REC, R.UPDATE, ("record.write",), DONE, {**ACKED, "data": b'{"b":2}'}),
    "patch": Request(REC, R.PATCH, ("record.write",), DONE, {**ACKED, "path": "b", "data": b"2"}),
    "several patches": Request(REC, R.PATCH_MULTI, ("record.write",), DONE, {**ACKED, "data": MULTI}),
    "erase": Request(REC, R.ERASE, ("record.delete",), DONE, {**ACKED, "path": "a"}),
    "patch without data": Request(REC, R.PATCH, ("record.delete",), DONE, {**ACKED, "path": "a"}),
    "delete": Request(REC, R.DELETE, ("record.delete",), (R.DELETE_SUCCESS,), {"name": "r"}),
    "listen to records": Request(
        REC, R.LISTEN, ("record.listen",), (R.LISTEN,), {"name": "r", "correlation_id": "c"}
    ),
    "notify": Request(REC, R.NOTIFY, ("record.notify",), (R.NOTIFY,), NAMES),
    "emit": Request(E, EventAction.EMIT, ("event.publish",), (), {"name": "r", "data": b"1"}),
    "subscribe to event": Request(
        E, EventAction.SUBSCRIBE, ("event.subscribe",), (EventAction.SUBSCRIBE,), NAMES
    ),
    "listen to events": Request(
        E, EventAction.LISTEN, ("event.listen",), (EventAction.LISTEN,), {"name": "r", "correlation_id": "c"}
    ),
    "provide": Request(RPC, RpcAction.PROVIDE, ("rpc.provide",), (RpcAction.PROVIDE,), NAMES),
    "request": Request(
        RPC,
        RpcAction.REQUEST,
        ("rpc.request",),
        (RpcAction.NO_RPC_PROVIDER,),
        {"name": "r", "correlation_id": "c", "data": b"1"},
    ),
    "subscribe to user": Request(
        P, PresenceAction.SUBSCRIBE, ("presence.allow",), (PresenceAction.SUBSCRIBE,), NAMES
    ),
    "subscribe to all users": Request(
        P, PresenceAction.SUBSCRIBE_ALL, ("presence.allow",), (PresenceAction.SUBSCRIBE_ALL,), name=None
    ),
    "query": Request(P, PresenceAction.QUERY, ("presence.allow",), (PresenceAction.QUERY_RESPONSE,), NAMES),
    "query all": Request(
        P, PresenceAction.QUERY_ALL, ("presence.allow",), (PresenceAction.QUERY_ALL_RESPONSE,), name=None
    ),
}
# Nothing of these can be seen in the state of the server.
WITHOUT_TRACE = {"read", "head", "heads", "emit", "request", "query", "query all"}
VERDICTS: dict[str, tuple[Any, str]] = {
    "yes": (True, "allowed"),
    "truthy": ("user.id", "allowed"),
    "no": (False, "denied"),
    "false": ("user.id === 'B'", "denied"),
    "null": ("user.data && user.data.role", "denied"),
    "undefined": ("user.nothing", "denied"),
    "zero": ("user.id.length - 1", "denied"),
    "no text": ("user.id.trim() && ''", "denied"),
    "NaN": ("user.id * 1", "denied"),
    "raises": ("user.data.role === 'admin'", "failed"),
    # These cannot be decided at once: the record is only in the storage.
    "later true": ("_('later').ok === true && user.id === 'A'", "allowed"),
    "later false": ("_('later').ok === true && user.id === 'B'", "denied"),
    "later undefined": ("_('later').nothing", "denied"),
    "later raises": ("_('later').nothing.more === 1", "failed"),
    "missing record": ("_('nowhere').x === 1", "failed"),
    "too deep": ("_(_(_('later').next).next).ok", "failed"),
}
REQUEST_CASES = [(title, needed) for title, request in REQUESTS.items() for needed in request.needs]


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize(("title", "needed"), REQUEST_CASES, ids=[f"{t}, {n}" for t, n in REQUEST_CASES])
async def test_the_rule_of_its_type_decides_about_a_request(title: str, needed: str, verdict: str) -> None:
    """All other rules allow everything. Falsy is refused, whatever it is (section 5)."""
    request = REQUESTS[title]
    rule, outcome = VERDICTS[verdict]
    rows = {"later": {"ok": True, "next": "more"}, "more": {"next": "end"}, "end": {"ok": True}}
    async with serve_rules({}, valve={"revalidateOnReload": False}, storage=storage_of(rows)) as s:
        reader, client = await RecordClient.login(s, "B"), await s.login("A")
        await reader.set("r", {"a": 1})
        if title == "emit":
            reader.wire.message(E, EventAction.SUBSCRIBE, names=["r"], correlation_id="s")
            await reader.wire.expect(E, EventAction.SUBSCRIBE, correlation_id="s", is_ack=True)
        s.services.permission.use_config(permissions({needed: rule}))
        before = state(s, "r", "new")
        client.message(request.topic, request.action, **request.fields)
        for answer in request.first:
            await client.expect(request.topic, answer)
        if outcome == "allowed":
            for answer in request.answers:
                await client.expect(request.topic, answer)
            if title == "emit":
                await reader.wire.expect(E, EventAction.EMIT, name="r", data=b"1")
        else:
            await expect_refusal(client, request.topic, outcome, request.action, **request.refused())
        await client.fence()
        await reader.wire.fence()
        if outcome != "allowed" or title in WITHOUT_TRACE:
            assert state(s, "r", "new") == before
        elif title != "notify":  # whether that makes the cache forget the record depends on the storage
            assert state(s, "r", "new") != before
        failures = s.log.find("MESSAGE_PERMISSION_ERROR")
        assert bool(failures) == (outcome == "failed")


# --- holes of upstream, each closed -----------------------------------------------------

SECRET = {"record.read secret/*": False, "record.write secret/*": False, "record.create secret/*": False}
SINGLE: dict[str, tuple[Topic, Any, str, dict[str, Any]]] = {
    "read": (REC, R.READ, "record.read", {}),
    "head": (REC, R.HEAD, "record.read", {}),
    "delete": (REC, R.DELETE, "record.delete", {}),
    "update": (REC, R.UPDATE, "record.write", {"version": 1, "data": b"{}"}),
    "patch": (REC, R.PATCH, "record.write", {"version": 1, "data": b"1", "path": "a"}),
    "several patches": (REC, R.PATCH_MULTI, "record.write", {"version": 1, "data": MULTI}),
    "erase": (REC, R.ERASE, "record.delete", {"version": 1, "path": "a"}),
    "upsert": (REC, R.CREATEANDUPDATE, "record.create", {"version": 1, "data": b"{}"}),
    "upsert patch": (REC, R.CREATEANDPATCH, "record.create", {"version": 1, "data": b"1", "path": "a"}),
    "listen to records": (REC, R.LISTEN, "record.listen", {}),
    "emit": (E, EventAction.EMIT, "event.publish", {}),
    "listen to events": (E, EventAction.LISTEN, "event.listen", {}),
    "request": (RPC, RpcAction.REQUEST, "rpc.request", {"correlation_id": "c"}),
}
LISTS: dict[str, tuple[Topic, Any, str]] = {
    "heads": (REC, R.HEAD_BULK, "record.read"),
    "subscribe": (REC, R.SUBSCRIBE, "record.read"),
    "subscribe and head": (REC, R.SUBSCRIBEANDHEAD, "record.read"),
    "subscribe and read": (REC, R.SUBSCRIBEANDREAD, "record.read"),
    "notify": (REC, R.NOTIFY, "record.notify"),
    "events": (E, EventAction.SUBSCRIBE, "event.subscribe"),
    "provide": (RPC, RpcAction.PROVIDE, "rpc.provide"),
    "users": (P, PresenceAction.SUBSCRIBE, "presence.allow"),
    "query": (P, PresenceAction.QUERY, "presence.allow"),
}
# In the core, and where a record has to be loaded first.
SPEED = {"at once": "false", "later": "_('later').no"}


@pytest.mark.parametrize("rule", SPEED.values(), ids=SPEED)
@pytest.mark.parametrize(("topic", "action", "needed", "fields"), SINGLE.values(), ids=SINGLE)
async def test_a_decoy_list_of_names_does_not_cover_the_name(
    topic: Topic, action: Any, needed: str, fields: dict[str, Any], rule: str
) -> None:
    """Upstream asks about the list and acts on the name (records.md section 2)."""
    async with serve_rules({f"{needed} secret/*": rule}, storage=storage_of({"later": {}})) as s:
        client = await s.login("A")
        client.message(topic, action, name="secret/1", names=["harmless"], **fields)
        copied = {"correlation_id": "c"} if "correlation_id" in fields else {}
        await expect_refusal(client, topic, "denied", action, "secret/1", **copied)
        await client.fence()


@pytest.mark.parametrize("rule", SPEED.values(), ids=SPEED)
@pytest.mark.parametrize(("topic", "action", "needed"), LISTS.values(), ids=LISTS)
async def test_a_decoy_name_does_not_cover_the_list_of_names(
    topic: Topic, action: Any, needed: str, rule: str
) -> None:
    async with serve_rules({f"{needed} secret/*": rule}, storage=storage_of({"later": {}})) as s:
        client = await s.login("A")
        before = state(s)
        client.message(topic, action, names=["secret/1"], name="harmless", correlation_id="c")
        await expect_refusal(client, topic, "denied", action, "secret/1", correlation_id="c")
        await client.fence()
        assert state(s) == before


@pytest.mark.parametrize("rule", SPEED.values(), ids=SPEED)
@pytest.mark.parametrize(("topic", "action", "needed"), LISTS.values(), ids=LISTS)
async def test_the_denial_of_some_names_of_a_list_removes_exactly_these(
    topic: Topic, action: Any, needed: str, rule: str
) -> None:
    """Upstream removes the last name instead, and the forbidden one goes through (records.md section 2)."""
    rules = {f"{needed} secret/*": rule, f"{needed} broken/*": "user.data.x.y"}
    async with serve_rules(rules, storage=storage_of({"later": {}})) as s:
        client = await s.login("A")
        names = ["a", "secret/1", "b", "broken/1", "secret/2", "c"]
        client.message(topic, action, names=names, correlation_id="c")
        for name in ("secret/1", "broken/1", "secret/2"):
            verdict = "failed" if "broken" in name else "denied"
            await expect_refusal(client, topic, verdict, action, name, correlation_id="c")
        if action == R.SUBSCRIBEANDHEAD:
            await client.expect(REC, R.HEAD_RESPONSE_BULK)
        if topic == REC and action == R.HEAD_BULK:
            heads = await client.expect(REC, R.HEAD_RESPONSE_BULK)
            assert heads.versions == {"a": -1, "b": -1, "c": -1}
            return
        if topic == P and action == PresenceAction.QUERY:
            answer = await client.expect(P, PresenceAction.QUERY_RESPONSE)
            assert json.loads(answer.data or b"") == {"a": False, "b": False, "c": False}
            return
        ack = await client.expect(topic, action)
        assert (ack.is_ack, ack.correlation_id) == (True, "c")
        if action == R.NOTIFY:
            assert ack.names == ["a", "b", "c"]
            return
        registry = {E: "event", REC: "record", RPC: "rpc", P: "presence"}[topic]
        await s.until(lambda: sorted(s.registries()[registry].names()) == ["a", "b", "c"])


CONTRADICTIONS: dict[str, tuple[RecordAction, dict[str, Any]]] = {
    "UPDATE with a path": (R.UPDATE, {"path": "a", "data": b'{"ok":true}'}),
    "CREATEANDUPDATE with a path": (R.CREATEANDUPDATE, {"path": "a", "data": b'{"ok":true}'}),
    "UPDATE with a path, value no object": (R.UPDATE, {"path": "a", "data": b"1"}),
    "ERASE with data": (R.ERASE, {"path": "a", "data": b"1"}),
    "ERASE with data, without path": (R.ERASE, {"data": b'{"ok":true}'}),
    "ERASE without path": (R.ERASE, {}),
    "PATCH without path": (R.PATCH, {"data": b'{"ok":true}'}),
    "CREATEANDPATCH without path": (R.CREATEANDPATCH, {"data": b'{"ok":true}'}),
    "CREATEANDPATCH without data": (R.CREATEANDPATCH, {"path": "a"}),
    "PATCH_MULTI with a path": (R.PATCH_MULTI, {"path": "a", "data": MULTI}),
    "PATCH of __proto__": (R.PATCH, {"path": "__proto__.ok", "data": b"true"}),
    "PATCH of a.constructor": (R.PATCH, {"path": "a.constructor", "data": b"true"}),
    "PATCH_MULTI of __proto__": (R.PATCH_MULTI, {"data": b'[{"path":"__proto__","data":{"ok":true}}]'}),
}


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(("action", "fields"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
async def test_a_write_whose_fields_contradict_its_action_is_invalid_whatever_its_rule_says(
    action: RecordAction, fields: dict[str, Any], busy: bool
) -> None:
    """Upstream asks the rule about the action as sent and does something else (records.md section 6.1)."""
    rules = {"record.write": "data.ok === true", "event.publish slow": "_('later').ok"}
    async with serve_rules(rules, storage=storage_of({"later": {"ok": True}})) as s:
        client = await record_login(s, "A")
        await client.set("r", {"ok": True, "a": {"b": 1}})
        if busy:  # then the message queues up behind one that waits for its decision
            client.wire.message(E, EventAction.EMIT, name="slow")
        client.send(action, name="r", version=-1, is_write_ack=True, correlation_id="c", **fields)
        answer = await client.receive()
        assert (answer.action, answer.is_write_ack, answer.correlation_id) == (
            R.INVALID_MESSAGE_DATA,
            True,
            "c",
        )
        assert await client.read("r") == (1, {"ok": True, "a": {"b": 1}})


async def test_who_may_delete_but_not_write_cannot_write_by_an_erase_with_data() -> None:
    async with serve_rules(
        {"record.write": "user.id === 'root'", "record.create": "user.id === 'root'"}
    ) as s:
        root, client = await record_login(s, "root"), await record_login(s, "A")
        await root.set("r", {"a": 1, "b": 2})
        client.send(R.ERASE, name="r", version=-1, path="a", data=3)
        assert (await client.receive()).action == R.INVALID_MESSAGE_DATA
        client.send(R.ERASE, name="r", version=-1, path="a")
        assert await client.read("r") == (2, {"b": 2})


async def test_who_may_write_but_not_delete_cannot_erase_by_a_patch_without_data() -> None:
    async with serve_rules({"record.delete": False}) as s:
        client = await record_login(s, "A")
        await client.set("r", {"a": 1})
        client.send(R.PATCH, name="r", version=-1, path="a", is_write_ack=True, correlation_id="c")
        fields = {"correlation_id": "c", "is_write_ack": True}
        await expect_refusal(client.wire, REC, "denied", R.PATCH, "r", **fields)
        assert await client.read("r") == (1, {"a": 1})


@pytest.mark.parametrize("action", [R.PATCH, R.CREATEANDPATCH, R.PATCH_MULTI])
async def test_the_rule_of_a_patch_sees_the_whole_record_as_it_would_be(action: RecordAction) -> None:
    """Upstream shows a rule only the value of an upsert's patch (records.md section 7)."""
    rule = "data.owner === user.id && data.price === 5 && (oldData === null || oldData.price !== 5)"
    async with serve_rules({"record.write": f"user.id === 'root' || ({rule})"}) as s:
        root, client = await record_login(s, "root"), await record_login(s, "A")
        await root.set("mine", {"owner": "A", "price": 1})
        await root.set("other", {"owner": "B", "price": 1})
        change: dict[str, Any] = {"path": "price", "data": 5}
        if action == R.PATCH_MULTI:
            change = {"data": [{"path": "price", "data": 4}, {"path": "price", "data": 5}]}
        client.send(action, name="other", version=-1, **change)
        await expect_refusal(client.wire, REC, "denied", action, "other")
        client.send(action, name="mine", version=-1, **change)
        assert await client.read("mine") == (2, {"owner": "A", "price": 5})
        client.send(action, name="mine", version=-1, **change)  # oldData.price is 5 now
        await expect_refusal(client.wire, REC, "denied", action, "mine")


async def test_an_upsert_of_a_missing_record_is_merged_onto_an_empty_one() -> None:
    async with serve_rules({"record.write": "data.a.b === 1 && oldData === null"}) as s:
        client = await record_login(s, "A")
        client.send(R.CREATEANDPATCH, name="new", version=-1, path="a.b", data=2)
        await expect_refusal(client.wire, REC, "denied", R.CREATEANDPATCH, "new")
        client.send(R.CREATEANDPATCH, name="new", version=-1, path="a.b", data=1)
        assert await client.read("new") == (1, {"a": {"b": 1}})


@pytest.mark.parametrize(
    "rule", ["data.list[0] === 9 && oldData.list[0] === 9", "data.list[0] === 9 && !data.x"]
)
async def test_a_rule_that_looked_at_a_patched_record_has_not_changed_it(rule: str) -> None:
    async with serve_rules({"record.write": f"user.id === 'root' || {rule} && _('r').list[0] === 9"}) as s:
        root, client = await record_login(s, "root"), await record_login(s, "A")
        await root.set("r", {"list": [1, {"x": 2}]})
        for change in ({"path": "list[0]", "data": 9}, {"path": "list[1].x", "data": 9}):
            client.send(R.PATCH, name="r", version=-1, **change)
            await expect_refusal(client.wire, REC, "denied", R.PATCH, "r")
        assert await client.read("r") == (1, {"list": [1, {"x": 2}]})


@pytest.mark.parametrize("place", ["payload", "user", "record"])
async def test_a_member_called_proto_does_not_pass_its_members_on(place: str) -> None:
    """To a rule only own members exist, also where JSON is full of such names."""
    poison = {"__proto__": {"admin": True}, "constructor": {"prototype": {"admin": True}}}
    rule = {"payload": "data.admin", "user": "user.data.admin", "record": "_('poison').admin"}[place]
    async with serve_rules({"event.publish": rule}, storage=storage_of({"poison": poison})) as s:
        client = await login(s, "A", poison)
        client.message(E, EventAction.EMIT, name="e", data=json.dumps(poison).encode())
        await expect_refusal(client, E, "denied", EventAction.EMIT, "e")


# --- what is told to whom ---------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 0, -5])
@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (True, True),
        (False, False),
        ("oldData.open", False),
        ("oldData.a === 1", True),
        ("oldData.a.b.c", False),
        ("_('later').ok", True),
        ("_('later').no", False),
    ],
)
async def test_a_version_conflict_tells_the_record_only_to_who_may_read_it(
    rule: Any, told: bool, version: int
) -> None:
    async with serve_rules({"record.read": rule}, storage=storage_of({"later": {"ok": True}})) as s:
        client = await record_login(s, "A")
        await client.set("r", {"a": 1})
        data = {"data": {"mine": 1}, "is_write_ack": True, "correlation_id": "c"}
        client.send(R.UPDATE, name="r", version=version, **data)
        fields = {"name": "r", "version": 1, "is_write_ack": True, "correlation_id": "c"}
        if told:
            fields["data"] = {"a": 1}
        await client.expect(R.VERSION_EXISTS, original_action=R.UPDATE, **fields)


@pytest.mark.parametrize("version", [2, -1])
async def test_a_write_that_meets_no_taken_version_needs_no_permission_to_read(version: int) -> None:
    async with serve_rules({"record.read": "oldData.x.y"}) as s:
        client = await record_login(s, "A")
        await client.set("r", {"a": 1})
        client.send(R.UPDATE, name="r", version=version, data={"b": 1}, is_write_ack=True, correlation_id="c")
        await client.wire.expect(REC, R.WRITE_ACKNOWLEDGEMENT)
        assert s.log.find("MESSAGE_PERMISSION_ERROR") == []


async def test_nothing_is_created_for_who_may_create_but_not_read() -> None:
    """Upstream creates the record and then refuses to show it (records.md section 2)."""
    async with serve_rules({"record.read": False}) as s:
        client = await record_login(s, "A")
        client.send(R.SUBSCRIBECREATEANDREAD, names=["new"], correlation_id="c")
        await client.wire.expect(REC, R.SUBSCRIBECREATEANDREAD)
        await expect_refusal(client.wire, REC, "denied", R.SUBSCRIBECREATEANDREAD, "new", correlation_id="c")
        assert state(s, "new")["records"] == {}
        assert s.registries()["record"].names() == []


async def test_an_existing_record_is_opened_without_permission_to_create() -> None:
    async with serve_rules({"record.create": "user.id === 'root'"}) as s:
        root, client = await record_login(s, "root"), await record_login(s, "A")
        await root.set("r", {"a": 1})
        client.send(R.SUBSCRIBECREATEANDREAD, names=["r", "new"], correlation_id="c")
        await client.wire.expect(REC, R.SUBSCRIBECREATEANDREAD)
        await client.expect(R.READ_RESPONSE, name="r", version=1, data={"a": 1})
        await expect_refusal(client.wire, REC, "denied", R.SUBSCRIBECREATEANDREAD, "new", correlation_id="c")


@pytest.mark.parametrize("action", [R.CREATEANDUPDATE, R.CREATEANDPATCH])
async def test_an_upsert_of_an_existing_record_needs_the_permission_to_create(action: RecordAction) -> None:
    """Deployments rely on it to deny set-data (records.md section 7)."""
    async with serve_rules({"record.create": "user.id === 'root'"}) as s:
        root, client = await record_login(s, "root"), await record_login(s, "A")
        await root.set("r", {"a": 1})
        path = {"path": "a"} if action == R.CREATEANDPATCH else {}
        client.send(action, name="r", version=-1, data={"a": 2}, **path)
        await expect_refusal(client.wire, REC, "denied", action, "r")
        client.send(R.UPDATE, name="r", version=-1, data={"a": 2})
        assert await client.read("r") == (2, {"a": 2})


async def test_without_permission_to_create_nobody_creates_by_an_acknowledged_update() -> None:
    """Upstream creates the record (records.md section 6.3)."""
    async with serve_rules({"record.create": False}) as s:
        client = await record_login(s, "A")
        for action, change in (
            (R.UPDATE, {"data": {}}),
            (R.PATCH, {"path": "a", "data": 1}),
            (R.PATCH_MULTI, {"data": [{"path": "a", "data": 1}]}),
            (R.ERASE, {"path": "a"}),
        ):
            client.send(action, name="new", version=1, is_write_ack=True, correlation_id="c", **change)
            fields = {"name": "new", "is_error": True, "is_write_ack": True, "correlation_id": "c"}
            await client.expect(R.RECORD_UPDATE_ERROR, **fields)
        assert state(s, "new")["records"] == {}


# --- events, RPC, presence: inputs ------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("rule", ["data.x === 1", "data === undefined || true", "_('later').ok && data.x"])
@pytest.mark.parametrize(
    "payload", [b"{broken", b"\xff", b"", b"undefined", b"{'x':1}", b"1 2", b"[" * 100_000]
)
async def test_an_event_that_is_no_json_has_one_outcome_and_reaches_nobody(
    payload: bytes, rule: str, busy: bool
) -> None:
    """Upstream refuses it and then forwards it all the same."""
    rules = {"event.publish e": rule, "event.publish slow": "_('later').ok"}
    async with serve_rules(rules, storage=storage_of({"later": {"ok": True}})) as s:
        client, reader = await s.login("A"), await s.login("B")
        reader.message(E, EventAction.SUBSCRIBE, names=["e", "slow"], correlation_id="s")
        await reader.expect(E, EventAction.SUBSCRIBE, correlation_id="s", is_ack=True)
        if busy:
            client.message(E, EventAction.EMIT, name="slow")
        client.message(E, EventAction.EMIT, name="e", data=payload)
        answer = await client.receive()
        assert answer.topic == E
        assert answer.action in (EventAction.INVALID_MESSAGE_DATA, EventAction.MESSAGE_PERMISSION_ERROR)
        assert (answer.name, answer.original_action, answer.is_error) == ("e", EventAction.EMIT, True)
        await client.fence()
        if busy:
            await reader.expect(E, EventAction.EMIT, name="slow")
        await reader.fence()


async def test_an_event_without_payload_has_undefined_data() -> None:
    rules = {"event.publish a": "data === undefined", "event.publish b": "data === null"}
    async with serve_rules(rules) as s:
        client = await s.login("A")
        client.message(E, EventAction.EMIT, name="b", data=b"null")
        client.message(E, EventAction.EMIT, name="a")
        await client.fence()
        client.message(E, EventAction.EMIT, name="a", data=b"null")
        await expect_refusal(client, E, "denied", EventAction.EMIT, "a")
        client.message(E, EventAction.EMIT, name="b")
        await expect_refusal(client, E, "denied", EventAction.EMIT, "b")


async def test_the_data_of_a_request_are_those_of_its_caller() -> None:
    async with serve_rules({"rpc.request": "data.from === user.id && user.data.level > 2"}) as s:
        high, low = await login(s, "A", {"level": 3}), await login(s, "B", {"level": 2})
        for client, verdict in ((high, "no provider"), (low, "denied")):
            data = json.dumps({"from": client.user}).encode()
            client.message(RPC, RpcAction.REQUEST, name="f", correlation_id="c", data=data)
            if verdict == "denied":
                await expect_refusal(client, RPC, "denied", RpcAction.REQUEST, "f", correlation_id="c")
            else:
                await client.expect(RPC, RpcAction.NO_RPC_PROVIDER)


@pytest.mark.parametrize("separator", ["\n", "\r", "\u2028", "\u2029", "\r\n"])
async def test_a_star_matches_no_line_break_so_such_names_are_refused(separator: str) -> None:
    """Whether its path is the only one of its rule type or not, and for names seen before (section 3)."""
    rules = {"event.publish a*": True, "record.read $name": True}
    async with serve_rules(rules) as s:
        client = await s.login("A")
        name = f"a{separator}b"
        for _ in range(2):
            client.message(E, EventAction.EMIT, name=name)
            await expect_refusal(client, E, "denied", EventAction.EMIT, name)
            client.message(E, EventAction.LISTEN, name=name)
            await expect_refusal(client, E, "denied", EventAction.LISTEN, name)
            client.message(REC, R.READ, name=name)  # a variable matches them
            await client.expect(REC, R.RECORD_NOT_FOUND)
        client.message(E, EventAction.EMIT, name="a\u2027b")
        await client.fence()


async def test_names_made_of_path_characters_are_ordinary_names() -> None:
    rules = {"event.publish $x": "$x === '$x' || $x === '*'", "event.publish a.b": False}
    async with serve_rules(rules) as s:
        client = await s.login("A")
        for name in ("*", "$x", "x/y"):
            client.message(E, EventAction.EMIT, name=name)
        await client.fence()
        for name in ("a.b", "axb", "other"):  # a path is a regular expression
            client.message(E, EventAction.EMIT, name=name)
            await expect_refusal(client, E, "denied", EventAction.EMIT, name)


async def test_a_request_about_all_users_has_no_name_but_finds_its_rule_as_if_it_were_undefined() -> None:
    rules = {
        "presence.allow": "name !== undefined",
        "presence.allow $user": "name === undefined && $user === undefined",
    }
    async with serve_rules(rules) as s:
        client = await s.login("A")
        client.message(P, PresenceAction.QUERY_ALL)
        await client.expect(P, PresenceAction.QUERY_ALL_RESPONSE)
        client.message(P, PresenceAction.SUBSCRIBE_ALL)
        await client.expect(P, PresenceAction.SUBSCRIBE_ALL)
        client.message(P, PresenceAction.QUERY, names=["a/b"], correlation_id="c")
        await client.expect(P, PresenceAction.QUERY_RESPONSE)
        client.message(P, PresenceAction.QUERY, names=["b"], correlation_id="c")
        await expect_refusal(client, P, "denied", PresenceAction.QUERY, "b", correlation_id="c")


@pytest.mark.parametrize("action", [PresenceAction.QUERY_ALL, PresenceAction.SUBSCRIBE_ALL])
async def test_a_name_given_to_a_request_about_all_users_does_not_choose_its_rule(
    action: PresenceAction,
) -> None:
    """A decoy of another kind: the action is about everybody, whatever the message carries."""
    async with serve_rules({"presence.allow": False, "presence.allow harmless": True}) as s:
        client = await s.login("A")
        client.message(P, action, name="harmless", names=["harmless"])
        assert (await client.receive()).action == PresenceAction.MESSAGE_DENIED
        await client.fence()


# --- who asks, and rules that cannot be found or read -----------------------------------


async def test_the_user_of_a_rule_is_who_logged_in() -> None:
    rules = {
        "event.publish id/$id": "user.id === $id",
        "event.publish in": "user.isAuthenticated",
        "event.publish data": "user.data === null",
        "event.publish role/$role": "user.data.role === $role",
    }
    async with serve_rules(rules) as s:
        alice, nobody = await login(s, "alice", {"role": "admin"}), await s.login()
        for name in ("id/alice", "in", "role/admin"):
            alice.message(E, EventAction.EMIT, name=name)
        nobody.message(E, EventAction.EMIT, name="data")
        await alice.fence()
        await nobody.fence()
        for name in ("id/bob", "data", "role/x"):
            alice.message(E, EventAction.EMIT, name=name)
            await expect_refusal(alice, E, "denied", EventAction.EMIT, name)
        nobody.message(E, EventAction.EMIT, name="id/alice")
        await expect_refusal(nobody, E, "denied", EventAction.EMIT, "id/alice")
        nobody.message(E, EventAction.EMIT, name="role/x")
        await expect_refusal(nobody, E, "failed", EventAction.EMIT, "role/x")


@pytest.mark.parametrize("rule", ["user.id === 'A'", "user.id !== 'B' && $x", "name && !(user.id === 'B')"])
async def test_a_decision_for_one_user_is_not_that_for_another(rule: str) -> None:
    """What depends on the user's id and the name alone is remembered, for each name and the last user."""
    async with serve_rules({"event.publish $x": rule, "event.publish $x.no": f"!({rule})"}) as s:
        clients = {user: await s.login(user) for user in ("A", "B")}
        for user in "AABBABBA":
            for name, allowed in (("e", user == "A"), ("e.no", user == "B"), ("f", user == "A")):
                clients[user].message(E, EventAction.EMIT, name=name)
                if not allowed:
                    await expect_refusal(clients[user], E, "denied", EventAction.EMIT, name)
            await clients[user].fence()
        # New rules begin anew.
        s.services.permission.use_config(permissions({"event.publish": "user.id === 'B'"}))
        clients["A"].message(E, EventAction.EMIT, name="e")
        await expect_refusal(clients["A"], E, "denied", EventAction.EMIT, "e")


@pytest.mark.parametrize("user", ["ä", "漢\U0001f600", "\x00", "a" * 10_000, " "], ids=ascii)
async def test_rules_compare_every_user_id(user: str) -> None:
    rules = {"event.publish": "user.id === data", "record.write": "_('later').id !== user.id"}
    async with serve_rules(rules, storage=storage_of({"later": {"id": "x"}})) as s:
        client = await login(s, user)
        client.message(E, EventAction.EMIT, name="e", data=json.dumps(user).encode())
        await client.fence()
        client.message(E, EventAction.EMIT, name="e", data=b'"x"')
        await expect_refusal(client, E, "denied", EventAction.EMIT, "e")
        await RecordClient(client).set("r", {})


SLOW_PATH = "(?:a|aa)+(?=b)b$"
"""Needs the engine that goes back and forth, and much of it."""


@pytest.mark.parametrize("action", ["emit", "read", "update", "open", "subscribe"])
async def test_a_path_that_takes_too_long_to_match_is_a_failure(action: str) -> None:
    """Not an allowance by the next path, not a message without an answer."""
    kind = {"emit": "event.publish", "subscribe": "event.subscribe", "update": "record.write"}.get(
        action, "record.read"
    )
    async with serve_rules({f"{kind} {SLOW_PATH}": False}) as s:
        client = await record_login(s, "A")
        name = "a" * 60
        verdict = "failed"
        if action == "emit":
            client.wire.message(E, EventAction.EMIT, name=name)
            await expect_refusal(client.wire, E, verdict, EventAction.EMIT, name)
        elif action == "subscribe":
            client.wire.message(E, EventAction.SUBSCRIBE, names=[name], correlation_id="c")
            await expect_refusal(client.wire, E, verdict, EventAction.SUBSCRIBE, name, correlation_id="c")
        elif action == "read":
            client.send(R.READ, name=name)
            await expect_refusal(client.wire, REC, verdict, R.READ, name)
        elif action == "open":
            client.send(R.SUBSCRIBECREATEANDREAD, names=[name], correlation_id="c")
            await client.wire.expect(REC, R.SUBSCRIBECREATEANDREAD)
            fields = {"correlation_id": "c"}
            await expect_refusal(client.wire, REC, verdict, R.SUBSCRIBECREATEANDREAD, name, **fields)
        else:
            client.send(R.UPDATE, name=name, version=-1, data={})
            await expect_refusal(client.wire, REC, verdict, R.UPDATE, name)
        await client.fence()


async def test_a_rule_that_computes_too_long_is_a_failure() -> None:
    steps = "data" + ".toUpperCase()" * 500
    rule = "data.match(/^(a|aa)+$/) && true"
    async with serve_rules({"event.publish": rule, "event.publish long": steps}) as s:
        client = await s.login("A")
        client.message(E, EventAction.EMIT, name="e", data=b'"' + b"a" * 60 + b'b"')
        await expect_refusal(client, E, "denied", EventAction.EMIT, "e")  # RE2 does not go back and forth
        client.message(E, EventAction.EMIT, name="long", data=b'"x"')
        await client.fence()


async def test_failures_are_logged_with_rule_name_and_reason() -> None:
    async with serve_rules({"event.publish a/$b": "user.data.role === $b"}) as s:
        client = await s.login("A")
        client.message(E, EventAction.EMIT, name="a/1")
        await expect_refusal(client, E, "failed", EventAction.EMIT, "a/1")
        (line,) = s.log.find("MESSAGE_PERMISSION_ERROR")
        assert "error when executing user.data.role === $b for a/1: " in line


def test_the_tables_of_this_file_are_complete() -> None:
    """Every rule type and every action that needs one is in the cases above."""
    asked = {(request.topic, request.action) for request in REQUESTS.values()}
    assert asked >= {key for key, needed in RULES.items() if needed != "record.create"}
    assert {needed for request in REQUESTS.values() for needed in request.needs} == set(RULES.values())
    single = {(topic, action) for topic, action, *_ in SINGLE.values()}
    lists = {(topic, action) for topic, action, _ in LISTS.values()}
    without = {(P, PresenceAction.QUERY_ALL), (P, PresenceAction.SUBSCRIBE_ALL), (REC, R.CREATE)}
    assert single | lists | without == set(RULES) | {(REC, R.CREATEANDUPDATE), (REC, R.CREATEANDPATCH)}
    assert not single & lists
