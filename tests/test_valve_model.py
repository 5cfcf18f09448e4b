"""The permission path against models: who is allowed what, and in which order it takes effect.

A decision is made in three ways, which have to agree: by a server on the wire (in the core if nothing has to
be loaded), by the permission service when a plugin asks it, and by a slow model of the specification,
valve.md sections 3, 5 and 8, with the evaluator of valve_reference.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valve_reference import UNDEF, Evaluator, Object, Parser, Thrown, truth, units, value_of

from dsfast._core.protocol import EventAction, Message, RecordAction, Topic, encode
from dsfast.plugin import PluginError
from tests.record_client import GatedStorage, RecordClient
from tests.valve_kit import DENIED, FAILED, login, permissions, serve_rules, storage_of

E, REC = Topic.EVENT, Topic.RECORD
R = RecordAction

# --- decisions --------------------------------------------------------------------------

RECORDS: dict[str, Any] = {
    "r1": {"x": 1, "ref": "r2", "list": ["a", "b"]},
    "r2": {"x": 2, "ref": "r3", "owner": "alice"},
    "r3": {"x": 3, "ref": "r1"},
    "a/r1": {"x": 1, "owner": "bob"},
    "a/b": [1, 2],
}
NAMES = ["r1", "r2", "missing", "a/r1", "a/b", "a/b/c", "a", "a\nb", "undefined", "A", "axb"]
PATHS = ["*", "a/*", "a/$a", "$a", "$a/$b", "a/r1", "r$a", "*b", "a.b", "*/*"]
ATOMS = [
    "true", "false", "null", "0", "''", "data.x === 1", "data === undefined", "data.owner === user.id",
    "data", "name === 'r1'", "name.length > 2", "action === 2", "action === 3", "action > 17",
    "user.id === 'alice'", "user.data.level > 1", "user.data && user.data.level", "user.isAuthenticated",
    "typeof data === 'object'", "_('r1').x === 1", "_(name).x", "_('a/' + name).x === 1",
    "_(_('r1').ref).x === 2", "_(data)", "_(user.id)", "_(_(_('r1').ref).ref).x", "_('missing') === null",
    "_('missing').x", "_(data.ref).x === 1", "now > 0", "_('r1').list.includes(name)",
    "name.match(/^a.*r/) !== null", "nothing", "data[name]", "_()",
]  # fmt: skip
OLD_ATOMS = [
    "oldData === null",
    "oldData.x === 1",
    "oldData.owner === user.id",
    "oldData && oldData.x",
    "!oldData",
]
WRITE_ATOMS = [*OLD_ATOMS, "data.x > oldData.x", "data.x === oldData.x", "_(name) === null"]
VARIABLE_ATOMS = ["$a === 'r1'", "$a === user.id", "_('a/' + $a).x === 1", "_($a).x"]
PAYLOADS: list[Any] = [
    {"x": 1},
    {"x": 2, "owner": "alice"},
    {"ref": "r1", "r1": True},
    [],
    {"x": 1, "ref": "missing"},
]
EVENT_PAYLOADS: list[Any] = [*PAYLOADS, 1, "r1", None, "", False, UNDEF]
USERS = [("alice", {"level": 2}), ("bob", None), ("open", {"level": 0})]


def rules_of(atoms: list[str], variables: bool) -> st.SearchStrategy[Any]:
    """Rules, the text or a boolean."""
    atom = st.sampled_from(atoms + (VARIABLE_ATOMS if variables else []))
    text = st.recursive(
        atom,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["&&", "||", "==="]), inner).map(
                lambda t: f"({t[0]}) {t[1]} ({t[2]})"
            ),
            inner.map(lambda t: f"!({t})"),
            st.tuples(inner, inner, inner).map(lambda t: f"({t[0]}) ? ({t[1]}) : ({t[2]})"),
        ),
        max_leaves=4,
    )
    return st.one_of(st.booleans(), text)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """Rules for publishing, reading and writing, at some paths, in some order."""
    kinds = {"event.publish": [], "record.read": OLD_ATOMS, "record.write": WRITE_ATOMS}
    rules = {}
    for path in draw(st.permutations(PATHS)):
        for kind, more in kinds.items():
            if draw(st.integers(0, 2)):
                atoms = ATOMS + more
                if kind == "record.read":
                    atoms = [atom for atom in atoms if not re.search(r"(?<![\w.])data\b", atom)]
                rules[f"{kind} {path}"] = draw(rules_of(atoms, "$a" in path))
    return rules


def found(file: dict[str, Any], kind: str, name: str) -> tuple[Any, dict[str, str]] | None:
    """The rule for a name and its path variables (section 3)."""
    section, rule_type = kind.split(".")
    best: tuple[int, Any, dict[str, str]] | None = None
    for path, rules in file[section].items():
        if rule_type not in rules:
            continue
        variables = re.findall(r"\$(\w+)", path)
        source = re.sub(r"\*", lambda _: "[^\n\r\u2028\u2029]*", re.sub(r"\$\w+", "([^/]+)", path))
        match = re.fullmatch(source, name)
        if match and (best is None or len(path) >= best[0]):
            best = (len(path), rules[rule_type], dict(zip(variables, match.groups(), strict=True)))
    return None if best is None else best[1:]


class Loads:
    """The records known so far; asking for another one notes it."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.wanted: set[str] = set()

    def get(self, name: str) -> Any:
        if name in self.known:
            return self.known[name]
        self.wanted.add(name)
        return UNDEF


def expected(file: dict[str, Any], kind: str, message: Message, user: tuple[str, Any]) -> str:
    """What the specification says (sections 5 and 8)."""
    name = message.name or ""
    hit = found(file, kind, name)
    if hit is None:
        return "denied"
    rule, variables = hit
    if isinstance(rule, bool):
        return "allowed" if rule else "denied"
    uses_old = kind != "event.publish" and re.search(r"\boldData\b", rule) is not None
    payload = UNDEF if message.data is None else value_of(json.loads(message.data))
    inputs = {
        "data": payload if kind != "record.read" else UNDEF,
        "oldData": UNDEF,
        "now": 1.7e12,
        "action": float(message.action),
        "name": units(name),
        "user": Object(
            {"id": units(user[0]), "isAuthenticated": user[0] != "open", "data": value_of(user[1])}
        ),
        **{f"${variable}": units(text) for variable, text in variables.items()},
    }
    loads = Loads()
    for _ in range(3):
        loads.wanted = set()
        if uses_old:
            inputs["oldData"] = UNDEF
            if name in loads.known:
                inputs["oldData"] = loads.known[name]
            else:
                loads.wanted.add(name)
        try:
            result: bool | None = truth(Evaluator(inputs, loads).value(Parser(rule).rule()))  # type: ignore[arg-type]
        except Thrown:
            result = None
        if not loads.wanted:
            return "failed" if result is None else "allowed" if result else "denied"
        loads.known |= {wanted: value_of(RECORDS.get(wanted)) for wanted in loads.wanted}
    return "failed"


ACTIONS: dict[str, tuple[Topic, int]] = {
    "event.publish": (E, EventAction.EMIT),
    "record.read": (REC, R.READ),
    "record.write": (REC, R.UPDATE),
}


def message_of(kind: str, name: str, payload: Any) -> Message:
    """A message that changes nothing even if it is allowed."""
    topic, action = ACTIONS[kind]
    fields: dict[str, Any] = {}
    if kind != "record.read" and payload is not UNDEF:
        fields["data"] = json.dumps(payload).encode()
    if kind == "record.write":
        fields["version"] = 0  # taken
    return Message(topic, action, name=name, **fields)


# Its acknowledgement tells that an event that was sent before has been decided about.
LAST = encode(Message(E, EventAction.UNSUBSCRIBE, names=["last"], correlation_id="last"))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rules=files(),
    user=st.sampled_from(USERS),
    cached=st.sets(st.sampled_from(sorted(RECORDS))),
    questions=st.lists(
        st.one_of(
            st.tuples(st.just("event.publish"), st.sampled_from(NAMES), st.sampled_from(EVENT_PAYLOADS)),
            st.tuples(st.just("record.read"), st.sampled_from(NAMES), st.just(UNDEF)),
            st.tuples(st.just("record.write"), st.sampled_from(NAMES), st.sampled_from(PAYLOADS)),
        ),
        min_size=1,
        max_size=40,
    ),
)
async def test_server_service_and_specification_decide_alike(
    rules: dict[str, Any], user: tuple[str, Any], cached: set[str], questions: list[tuple[str, str, Any]]
) -> None:
    file = permissions(rules)
    for kind in ("event.publish", "record.read", "record.write"):
        if f"{kind} *" not in rules:
            section, rule_type = kind.split(".")
            del file[section]["*"][rule_type]
    everything = permissions({})
    config = {
        "permission": {"type": "config", "options": {"permissions": everything, "revalidateOnReload": False}}
    }
    async with serve_rules({}, config=config, storage=storage_of(RECORDS)) as s:
        reader, client = await RecordClient.login(s, "reader"), await login(s, *user)
        for name in cached:
            await reader.read(name)
        service = s.services.permission
        service.use_config(file)
        for kind, name, payload in questions:
            message = message_of(kind, name, payload)
            wanted = expected(file, kind, message, user)
            client.send(encode(message), LAST)
            answers = [await client.receive()]
            if (
                kind != "event.publish"
                or answers[0].topic != E
                or answers[0].action != EventAction.UNSUBSCRIBE
            ):
                answers.append(await client.receive())
            told = "allowed"
            for answer in answers:
                if answer.topic == message.topic and answer.action in (
                    DENIED[message.topic],
                    FAILED[message.topic],
                ):
                    told = "denied" if answer.action == DENIED[message.topic] else "failed"
            try:
                allowed = service.can_perform_action(s.connection(user[0]), message)
                asked = "allowed" if (allowed if isinstance(allowed, bool) else await allowed) else "denied"
            except PluginError:
                asked = "failed"
            assert (told, asked) == (wanted, wanted), (file, message)


# --- order ------------------------------------------------------------------------------


class SlowStorage(GatedStorage):
    """Answers each question after as many turns of the loop as the end of the name says."""

    async def get(self, name: str) -> tuple[int, Any]:
        turns = int(name.rpartition("~")[2]) if "~" in name else 0
        for _ in range(turns):
            await asyncio.sleep(0)
        return (1, {"ok": True}) if name.startswith("s") else (-1, None)


# Constant, decided in the core, and after some turns: each with its outcome.
BY_DATA = "data.deny ? false : data.boom ? data.boom.x.y : data.k === undefined ? true : _(data.k)[data.f]"
ORDER_RULES = {
    "event.publish": BY_DATA,
    "record.write": BY_DATA,
    "record.read": "oldData === null || oldData.n >= 0",
    "event.subscribe deny/*": False,
    "event.subscribe boom/*": "user.data.x.y",
    "event.subscribe slow/$k/$f": "_($k)[$f]",
    "rpc.provide deny/*": False,
    "rpc.provide slow/$k/$f": "_($k)[$f]",
}
KINDS = ["ok", "ok", "deny", "boom", "slow ok", "slow no"]
OUTCOMES = {"ok": "allowed", "slow ok": "allowed", "deny": "denied", "slow no": "denied", "boom": "failed"}
operations = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.sampled_from(KINDS), st.integers(0, 6)),
        st.tuples(st.just("update"), st.sampled_from(KINDS), st.integers(0, 6)),
        st.tuples(st.just("read"), st.just("ok"), st.just(0)),
        st.tuples(
            st.sampled_from(["subscribe", "provide"]),
            st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
            st.integers(0, 6),
        ),
        st.tuples(st.just("unsubscribe"), st.just("ok"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=operations, in_one_write=st.booleans())
async def test_what_one_client_does_takes_effect_in_the_order_in_which_it_was_sent(
    operations: list[tuple[str, Any, int]], in_one_write: bool
) -> None:
    """Whatever the checks take; seen by the client itself and by another one."""
    config = {"record": {"storageExclusionPrefixes": ["rec"]}}
    async with serve_rules(ORDER_RULES, config=config, storage=SlowStorage) as s:
        reader, client = await RecordClient.login(s, "reader"), await s.login("A")
        await reader.set("rec", {"n": 0})
        await reader.subscribe("rec")
        reader.wire.message(E, EventAction.SUBSCRIBE, names=["e"], correlation_id="s")
        await reader.wire.expect(E, EventAction.SUBSCRIBE)
        messages: list[Message] = []
        told: list[tuple[Any, ...]] = []  # to the client
        seen: list[tuple[Any, ...]] = []  # by the reader
        state = {"n": 0}
        version = 1
        for number, (what, kinds, turns) in enumerate(operations):
            slow = f"s{number}~{turns}"
            if what in ("emit", "update"):
                data = {"n": number, **PAYLOAD_OF[kinds](slow)}
                outcome = OUTCOMES[kinds]
                if what == "emit":
                    message = Message(E, EventAction.EMIT, name="e", data=json.dumps(data).encode())
                else:
                    text = json.dumps(data).encode()
                    message = Message(
                        REC, R.UPDATE, name="rec", version=-1, data=text, correlation_id=f"{number}"
                    )
                if outcome != "allowed":
                    told.append((message.topic, outcome, message.name))
                elif what == "emit":
                    seen.append((E, number))
                else:
                    version += 1
                    state = data
                    seen.append((REC, version, number))
            elif what == "read":
                message = Message(REC, R.READ, name="rec")
                told.append((REC, "read", version, state["n"]))
            elif what == "unsubscribe":
                message = Message(E, EventAction.UNSUBSCRIBE, names=["x"], correlation_id=f"{number}")
                told.append((E, "ack", f"{number}"))
            else:
                topic, action = (E, EventAction.SUBSCRIBE) if what == "subscribe" else (Topic.RPC, 8)
                names = [
                    NAME_OF[kind](f"{number}.{i}", f"s{number}.{i}~{turns}") for i, kind in enumerate(kinds)
                ]
                message = Message(topic, action, names=names, correlation_id=f"{number}")
                # Providing has no rule that raises.
                outcomes = ["allowed" if topic != E and k == "boom" else OUTCOMES[k] for k in kinds]
                told += [(topic, o, n) for o, n in zip(outcomes, names, strict=True) if o != "allowed"]
                if "allowed" in outcomes:
                    told.append((topic, "ack", f"{number}"))
            messages.append(message)
        if in_one_write:
            client.send(*(encode(message) for message in messages))
        else:
            for message in messages:
                client.send(encode(message))
                await asyncio.sleep(0)
        answers = [summary(await client.receive()) for _ in told]
        # A read does not hold up what comes after it: its answer may come later, but shows what it came to.
        for is_read in (True, False):
            assert [a for a in answers if (a[1] == "read") == is_read] == [
                a for a in told if (a[1] == "read") == is_read
            ]
        for wanted in seen:
            message = await reader.receive()
            n = json.loads(message.data or b"")["n"]
            assert ((E, n) if message.topic == E else (REC, message.version, n)) == wanted
        await client.fence()
        await reader.fence()
        assert s.connection("A").lane is None


PAYLOAD_OF: dict[str, Any] = {
    "ok": lambda slow: {},
    "deny": lambda slow: {"deny": True},
    "boom": lambda slow: {"boom": True},
    "slow ok": lambda slow: {"k": slow, "f": "ok"},
    "slow no": lambda slow: {"k": slow, "f": "no"},
}
NAME_OF: dict[str, Any] = {
    "ok": lambda number, slow: f"ok/{number}",
    "deny": lambda number, slow: f"deny/{number}",
    "boom": lambda number, slow: f"boom/{number}",
    "slow ok": lambda number, slow: f"slow/{slow}/ok",
    "slow no": lambda number, slow: f"slow/{slow}/no",
}


def summary(message: Message) -> tuple[Any, ...]:
    """What the model says of an answer."""
    if message.is_ack:
        return message.topic, "ack", message.correlation_id
    if message.action == DENIED[message.topic]:
        return message.topic, "denied", message.name
    if message.action == FAILED[message.topic]:
        return message.topic, "failed", message.name
    return message.topic, "read", message.version, json.loads(message.data or b"")["n"]
