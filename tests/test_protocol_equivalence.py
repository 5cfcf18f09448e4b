"""The same session over the binary protocol, text and JSON has the same effects.

A random session of one client beside another one, which always speaks the binary protocol. What both receive
is brought into one form, in which the sessions over the three protocols must not differ.
"""

import asyncio
import json
import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import TEXT, TIMEOUT, Client, Users, frame, serve

from dsfast._core.protocol import (
    EventAction,
    Message,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
    decode,
    encode,
)
from dsfast._core.text_protocol import to_json, to_typed

EXAMPLES = int(os.environ.get("DSFAST_EQUIVALENCE", "25"))

ENDPOINTS = [{"type": "ws-binary"}, {"type": "ws-text"}, {"type": "ws-json"}]
RULES: dict[str, dict[str, dict[str, bool]]] = {
    "record": {"*": dict.fromkeys(("create", "read", "write", "delete", "listen", "notify"), True)},
    "event": {"*": dict.fromkeys(("publish", "subscribe", "listen"), True)},
    "rpc": {"*": dict.fromkeys(("provide", "request"), True)},
    "presence": {"*": {"allow": True}},
}
for rules in RULES.values():
    rules["no"] = dict.fromkeys(rules["*"], False)

ABSENT = "(absent)"
LETTERS = {
    **{(Topic.EVENT, 3): "S", (Topic.EVENT, 4): "US", (Topic.EVENT, 5): "L", (Topic.EVENT, 6): "UL"},
    **{(Topic.RECORD, 23): "S", (Topic.RECORD, 26): "US", (Topic.RECORD, 27): "L", (Topic.RECORD, 28): "UL"},
    **{(Topic.RPC, 8): "S", (Topic.RPC, 9): "US", (Topic.PRESENCE, 10): "S", (Topic.PRESENCE, 11): "US"},
    **{(Topic.PRESENCE, 12): "S", (Topic.PRESENCE, 13): "US"},
}  # fmt: skip
ACTIONS: dict[int, Any] = {
    Topic.EVENT: EventAction,
    Topic.RECORD: RecordAction,
    Topic.RPC: RpcAction,
    Topic.PRESENCE: PresenceAction,
}
OLD_NAMES = {"MULTIPLE_PROVIDERS": "MULTIPLE_SUBSCRIPTIONS", "NOT_PROVIDED": "NOT_SUBSCRIBED"}
PONG = ("pong",)


def value_of(data: bytes | None) -> Any:
    return ABSENT if data is None else json.loads(data)


def meaning(m: Message) -> tuple[Any, ...]:
    """What a message of the server says, as far as every protocol can say it."""
    topic, action = m.topic, m.action
    if topic == Topic.CONNECTION:
        return PONG
    name = ACTIONS[topic](action).name
    name = OLD_NAMES.get(name, name)
    if name in ("VERSION_EXISTS", "INVALID_VERSION"):
        return ("conflict", m.name, m.version)
    if name == "INVALID_MESSAGE_DATA" and topic != Topic.RPC:
        return ("error", int(topic), name)
    if action >= 100:
        return ("error", int(topic), name, m.name)
    if m.is_ack:
        everybody = topic == Topic.PRESENCE and action in (12, 13)
        letters = LETTERS[topic, action]
        return ("ack", int(topic), letters, letters if everybody else m.correlation_id or m.name)
    if name in ("DELETE_SUCCESS", "DELETED"):
        return ("deleted", m.name)
    if name in ("PRESENCE_JOIN", "PRESENCE_JOIN_ALL", "PRESENCE_LEAVE", "PRESENCE_LEAVE_ALL"):
        return (name.removesuffix("_ALL"), m.name)
    if name == "QUERY_ALL_RESPONSE":
        return (name, sorted(m.names or []))
    if name == "QUERY_RESPONSE":
        return (name, m.correlation_id, value_of(m.data))
    if name == "WRITE_ACKNOWLEDGEMENT":
        return (name, m.name)
    if name == "HEAD_RESPONSE":
        return (name, m.name, m.version)
    if name in ("UPDATE", "READ_RESPONSE"):
        return (name, m.name, m.version, value_of(m.data))
    if name in ("PATCH", "ERASE"):
        return ("PATCH", m.name, m.version, m.path, value_of(m.data))
    if name == "EMIT":
        return (name, m.name, value_of(m.data))
    if name.startswith("SUBSCRIPTION_FOR"):
        return (name, int(topic), m.name, m.subscription)
    if name.startswith("SUBSCRIPTION_HAS"):
        return (name, m.name)
    return (name, m.name, m.correlation_id, value_of(m.data))


def meaning_of_line(line: str) -> tuple[Any, ...] | None:
    """The same for a line of the text protocol; None for one that only the text protocol has."""
    topic, *rest = line.split("\x1f")
    number = {"C": 2, "E": 4, "R": 5, "P": 6, "U": 7}[topic]
    match topic, rest:
        case "C", ["PI"]:
            return None
        case "C", ["PO"]:
            return PONG
        case "R", ["E", "SN" | "HD" | "H", *_]:
            return None
        case "R", ["E", "VERSION_EXISTS", name, version, *_]:
            return ("conflict", name, int(version))
        case "E" | "R", ["E", "INVALID_MESSAGE_DATA", *_]:
            return ("error", number, "INVALID_MESSAGE_DATA")
        case _, ["E", error, name, *_] if error in ERRORS[number]:
            return ("error", number, error, name or None)
        case "P", ["E", text, name, corr]:
            return ("REQUEST_ERROR", name, corr, text)
        case "R", ["A", "D", name]:
            return ("deleted", name)
        case "P", ["A", "REQ", name, corr]:
            return ("ACCEPT", name, corr, ABSENT)
        case _, ["A", letters, found]:
            return ("ack", number, letters, found)
        case "E", ["EVT", name, typed]:
            return ("EMIT", name, typed_value(typed))
        case _, ["SP" | "SR" as letters, name, match]:
            what = "SUBSCRIPTION_FOR_PATTERN_" + ("FOUND" if letters == "SP" else "REMOVED")
            return (what, number, name, match)
        case "R", ["SH", name, yes]:
            return ("SUBSCRIPTION_HAS_PROVIDER" if yes == "T" else "SUBSCRIPTION_HAS_NO_PROVIDER", name)
        case "R", ["R" | "U" as letters, name, version, data]:
            what = "READ_RESPONSE" if letters == "R" else "UPDATE"
            return (what, name, int(version), json.loads(data))
        case "R", ["P", name, version, path, typed]:
            return ("PATCH", name, int(version), path, typed_value(typed))
        case "R", ["WA", name, _, "L"]:
            return ("WRITE_ACKNOWLEDGEMENT", name)
        case "R", ["WA", *_]:
            return None
        case "R", ["HD", name, version, "null"]:
            return ("HEAD_RESPONSE", name, int(version))
        case "P", ["REQ" | "RES" as letters, name, corr, typed]:
            return ("REQUEST" if letters == "REQ" else "RESPONSE", name, corr, typed_value(typed))
        case "U", ["PNJ" | "PNL" as letters, user]:
            return ("PRESENCE_JOIN" if letters == "PNJ" else "PRESENCE_LEAVE", user)
        case "U", ["Q", corr, data] if data.startswith("{"):
            return ("QUERY_RESPONSE", corr, json.loads(data))
        case "U", ["Q", *users]:
            return ("QUERY_ALL_RESPONSE", sorted(users))
    raise AssertionError(line)


ERRORS = {
    int(topic): {OLD_NAMES.get(action.name, action.name) for action in actions if action >= 100}
    for topic, actions in ACTIONS.items()
}


def typed_value(typed: str) -> Any:
    text = to_json(typed.encode())
    assert text is not None, typed
    return json.loads(text) if text else ABSENT


# --- three ways to say the same


class Binary:
    path = "/deepstream"

    def __init__(self, client: Client) -> None:
        self.client = client

    async def login(self, user: str) -> None:
        self.say(Message(Topic.CONNECTION, 5))
        self.say(Message(Topic.AUTH, 2, data=json.dumps({"username": user}).encode()))
        await self.client.frame()
        await self.client.frame()

    def say(self, message: Message) -> None:
        self.client.send(encode(message))

    async def hear(self) -> list[tuple[Any, ...]]:
        _, payload = await self.client.frame()
        return [meaning(message) for message in decode(payload)]


class Json(Binary):
    path = "/deepstream-json"
    KEYS = {"correlationId": "correlation_id", "isAck": "is_ack", "isWriteAck": "is_write_ack"}

    def say(self, message: Message) -> None:
        fields = message.to_dict()
        data = fields.pop("data", None)
        for key, name in self.KEYS.items():
            if name in fields:
                fields[key] = fields.pop(name)
        if data is not None:
            fields["parsedData"] = json.loads(data)
        self.client.write(frame(json.dumps(fields).encode(), TEXT))

    async def hear(self) -> list[tuple[Any, ...]]:
        _, payload = await self.client.frame()
        fields = json.loads(payload)
        known = {
            self.KEYS.get(key, key): value for key, value in fields.items()
            if key in ("name", "names", "version", "path", "subscription", *self.KEYS)
        }  # fmt: skip
        data = json.dumps(fields["parsedData"]).encode() if "parsedData" in fields else None
        return [meaning(Message(fields["topic"], fields["action"], data=data, **known))]


class Text(Binary):
    path = "/deepstream-v3"

    async def login(self, user: str) -> None:
        await self.client.frame()
        await self.client.frame()
        self.line("A", "REQ", json.dumps({"username": user}))
        await self.client.frame()

    def line(self, *parts: str) -> None:
        self.client.write(frame("\x1f".join(parts).encode() + b"\x1e", TEXT))

    def say(self, message: Message) -> None:
        self.line(*self.parts(message))

    def parts(self, m: Message) -> list[str]:
        typed = "U" if m.data is None else to_typed(m.data).decode()
        config = ['{"writeSuccess":true}'] if m.is_write_ack else []
        name, version = str(m.name), str(m.version)
        first = (m.names or [""])[0]
        match m.topic, m.action:
            case Topic.CONNECTION, _:
                return ["C", "PI"]
            case Topic.EVENT, EventAction.EMIT:
                return ["E", "EVT", name, typed]
            case Topic.RECORD, RecordAction.UPDATE:
                return ["R", "U", name, version, bytes(m.data).decode(), *config]
            case Topic.RECORD, RecordAction.CREATEANDUPDATE:
                return ["R", "CU", name, version, bytes(m.data).decode(), *(config or ["{}"])]
            case Topic.RECORD, RecordAction.CREATEANDPATCH:
                return ["R", "CU", name, version, str(m.path), typed, *(config or ["{}"])]
            case Topic.RECORD, RecordAction.PATCH | RecordAction.ERASE:
                return ["R", "P", name, version, str(m.path), typed, *config]
            case Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD:
                return ["R", "CR", first]
            case Topic.RECORD, RecordAction.READ | RecordAction.HEAD | RecordAction.DELETE as action:
                return ["R", {3: "SN", 5: "HD", 9: "D"}[action], name]
            case Topic.RPC, RpcAction.REQUEST | RpcAction.RESPONSE as action:
                return ["P", "REQ" if action == RpcAction.REQUEST else "RES", name, m.correlation_id, typed]
            case Topic.RPC, RpcAction.ACCEPT:
                return ["P", "A", "REQ", name, m.correlation_id]
            case Topic.RPC, RpcAction.REJECT:
                return ["P", "REJ", name, m.correlation_id]
            case Topic.RPC, RpcAction.REQUEST_ERROR:
                return ["P", "E", json.loads(m.data), name, m.correlation_id]
            case Topic.PRESENCE, PresenceAction.QUERY_ALL:
                return ["U", "Q", "Q"]
            case Topic.PRESENCE, PresenceAction.QUERY:
                return ["U", "Q", m.correlation_id, json.dumps(m.names)]
            case Topic.PRESENCE, action if action in (12, 13):
                return ["U", LETTERS[m.topic, action], "S"]
            case Topic.PRESENCE, action:
                return ["U", LETTERS[m.topic, action], m.correlation_id, json.dumps(m.names)]
            case Topic.EVENT | Topic.RECORD as topic, EventAction.LISTEN_ACCEPT | RecordAction.LISTEN_ACCEPT:
                return ["ER"[topic - 4], "LA", name, str(m.subscription)]
            case topic, action:
                return ["ERP"[topic - 4], LETTERS[topic, action], first or name]
        raise AssertionError(m)

    async def hear(self) -> list[tuple[Any, ...]]:
        _, payload = await self.client.frame()
        lines = payload.decode().removesuffix("\x1e").split("\x1e")
        return [found for line in lines if (found := meaning_of_line(line)) is not None]


# --- sessions

values = st.sampled_from(
    [None, 0, -1.5, True, False, "", "x", 'q"\\\x1e', "é😀", [], [1, None], {"a": {"b": 1}}]
)
events = st.sampled_from(["e1", "e2", "no"])
records = st.sampled_from(["r1", "r2", "r3", "no"])
versions = st.sampled_from([-1, -1, -1, 1, 2, 3, 9])
paths = st.sampled_from(["a", "a.b", "c[0]", "c[1].d", "a[99999999]", ""])
documents = st.sampled_from([{}, {"a": 1}, {"c": [1, {"d": 2}]}, []])


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def message(topic: int, action: int, **fields: Any) -> st.SearchStrategy[Message]:
    return st.fixed_dictionaries(fields).map(lambda given: Message(topic, action, **given))


def one_name(topic: int, action: int, names: Any) -> st.SearchStrategy[Message]:
    """A bulk request of the text protocol: of one name, which is the correlation id too."""
    return names.map(lambda name: Message(topic, action, names=[name], correlation_id=name))


def write(action: int, **fields: Any) -> st.SearchStrategy[Message]:
    acks = st.sampled_from([None, True])
    return message(Topic.RECORD, action, name=records, version=versions, is_write_ack=acks, **fields).map(
        lambda m: m.replace(correlation_id=str(m.version))
    )


data = values.map(dumps)
messages = st.one_of(
    one_name(Topic.EVENT, EventAction.SUBSCRIBE, events),
    one_name(Topic.EVENT, EventAction.UNSUBSCRIBE, events),
    message(Topic.EVENT, EventAction.EMIT, name=events, data=st.one_of(st.none(), data)),
    one_name(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, records),
    one_name(Topic.RECORD, RecordAction.UNSUBSCRIBE, records),
    message(Topic.RECORD, RecordAction.READ, name=records),
    message(Topic.RECORD, RecordAction.HEAD, name=records),
    message(Topic.RECORD, RecordAction.DELETE, name=records),
    write(RecordAction.UPDATE, data=documents.map(dumps)),
    write(RecordAction.CREATEANDUPDATE, data=documents.map(dumps)),
    write(RecordAction.CREATEANDPATCH, path=paths, data=data),
    write(RecordAction.PATCH, path=paths, data=data),
    write(RecordAction.PATCH, path=paths, data=data),
    write(RecordAction.ERASE, path=paths),
    one_name(Topic.RPC, RpcAction.PROVIDE, st.just("no")),
    one_name(Topic.RPC, RpcAction.UNPROVIDE, st.sampled_from(["actor", "other"])),
    message(Topic.RPC, RpcAction.REQUEST, name=st.sampled_from(["actor", "other", "no"]),
            data=st.one_of(st.none(), data), correlation_id=st.sampled_from(["k1", "k2"])),
    message(Topic.PRESENCE, PresenceAction.QUERY_ALL),
    message(Topic.PRESENCE, PresenceAction.QUERY, names=st.sampled_from([[], ["A"], ["A", "X"]]),
            correlation_id=st.just("5")),
    *(message(Topic.PRESENCE, action, names=st.just(["guest"]), correlation_id=st.just("6"))
      for action in (PresenceAction.SUBSCRIBE, PresenceAction.UNSUBSCRIBE)),
    message(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL),
    message(Topic.PRESENCE, PresenceAction.UNSUBSCRIBE_ALL),
    message(Topic.EVENT, EventAction.LISTEN, name=st.sampled_from(["e.", "("])),
    message(Topic.EVENT, EventAction.UNLISTEN, name=st.sampled_from(["e."])),
    message(Topic.RECORD, RecordAction.LISTEN, name=st.sampled_from(["r.", "no"])),
    message(Topic.RECORD, RecordAction.UNLISTEN, name=st.sampled_from(["r.", "x"])),
)  # fmt: skip
steps = st.lists(
    st.tuples(st.sampled_from(["actor", "actor", "other", "guest"]), messages), min_size=1, max_size=25
)


BEGINNING = [
    (who, message)
    for who in ("actor", "other")
    for message in (
        Message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e1"], correlation_id="e1"),
        Message(Topic.RECORD, RecordAction.SUBSCRIBECREATEANDREAD, names=["r1"], correlation_id="r1"),
        # Each its own: which of several providers is asked is a matter of chance.
        Message(Topic.RPC, RpcAction.PROVIDE, names=[who], correlation_id=who),
    )
]


def reaction(heard: tuple[Any, ...]) -> list[Message]:
    """What a client does of its own accord: answer calls, provide what it is asked for."""
    match heard:
        case "REQUEST", name, corr, value:
            answers = [Message(Topic.RPC, RpcAction.ACCEPT, name=name, correlation_id=corr)]
            text = None if value == ABSENT else dumps(value)
            if isinstance(value, str) and value:
                error = dumps(value.replace("\x1e", ""))  # which the text protocol cannot carry
                return [
                    Message(Topic.RPC, RpcAction.REQUEST_ERROR, name=name, correlation_id=corr, data=error)
                ]
            if value == 0:
                return [Message(Topic.RPC, RpcAction.REJECT, name=name, correlation_id=corr)]
            return [
                *answers,
                Message(Topic.RPC, RpcAction.RESPONSE, name=name, correlation_id=corr, data=text),
            ]
        case "SUBSCRIPTION_FOR_PATTERN_FOUND", topic, name, match:
            action = EventAction.LISTEN_ACCEPT if topic == Topic.EVENT else RecordAction.LISTEN_ACCEPT
            return [Message(topic, action, name=name, subscription=match)]
    return []


async def settle(speaker: Binary, log: list[Any]) -> bool:
    """Take in what is there and react; whether there was anything."""
    speaker.say(Message(Topic.CONNECTION, 2))
    heard: list[tuple[Any, ...]] = []
    while PONG not in heard:
        heard += await speaker.hear()
    heard.remove(PONG)
    for item in heard:
        if not (item[0].startswith("PRESENCE") and log and log[-1] == item):  # said twice by other protocols
            log.append(item)
        for answer in reaction(item):
            speaker.say(answer)
    return bool(heard)


async def listening_settled(s: Any) -> None:
    """New listeners meet the subscribed names in some later turn, if others have just come."""
    async with asyncio.timeout(TIMEOUT):
        while any(listen._turn_timer is not None for listen in s.router._listens.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def session(kind: type[Binary], script: list[tuple[str, Message]]) -> dict[str, list[Any]]:
    """What everybody has received, and the records at the end."""
    config = {
        "connectionEndpoints": ENDPOINTS,
        "permission": {"type": "config", "options": {"permissions": RULES}},
        "listen": {"shuffleProviders": False},
    }
    async with serve(config, authentication=Users) as s:
        speakers = {"actor": kind(await s.websocket(kind.path)), "other": Binary(await s.websocket())}
        for name, speaker in speakers.items():
            await speaker.login(name)
        logs: dict[str, list[Any]] = {"actor": [], "other": []}
        guest: Client | None = None
        for number, (who, message) in enumerate([*BEGINNING, *script]):
            if who == "guest":
                if guest is None:
                    guest = await s.login("guest")
                else:
                    await guest.close()
                    guest = None
            else:
                speakers[who].say(message)
            quiet = False
            while not quiet:
                await listening_settled(s)
                quiet = True
                for name, speaker in speakers.items():
                    logs[name].append(number)
                    quiet = not await settle(speaker, logs[name]) and quiet
                    if logs[name][-1] == number:
                        logs[name].pop()
        final = Binary(await s.websocket())
        await final.login("final")
        logs["records"] = []
        for name in ("r1", "r2", "r3"):
            final.say(Message(Topic.RECORD, RecordAction.READ, name=name))
        await settle(final, logs["records"])
        assert s.log.errors() == []
    return logs


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_a_session_has_the_same_effects_over_every_protocol(script: list[tuple[str, Message]]) -> None:
    expected = asyncio.run(session(Binary, script))
    for kind in (Text, Json):
        assert asyncio.run(session(kind, script)) == expected, kind.__name__
