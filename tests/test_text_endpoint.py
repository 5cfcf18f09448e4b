"""The ws-text endpoint (protocol-text-v3.md): its messages byte for byte, and company of other protocols."""

import json
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import BINARY, CLOSE, TEXT, Client, Users, frame, serve

from dsfast._core.protocol import EventAction, PresenceAction, RecordAction, RpcAction, Topic
from dsfast._core.text_protocol import to_json, to_typed

ENDPOINTS = [{"type": "ws-binary"}, {"type": "ws-text"}, {"type": "ws-json"}]


class TextClient:
    """Speaks the text protocol over a :class:`wire.Client`; ``|`` stands for 0x1F."""

    def __init__(self, client: Client) -> None:
        self.raw = client
        self._lines: list[str] = []

    def send(self, *messages: str) -> None:
        """All in one frame, as the client does in bursts."""
        text = "".join(message.replace("|", "\x1f") + "\x1e" for message in messages)
        self.raw.write(frame(text.encode(), TEXT))

    async def receive(self) -> str:
        while not self._lines:
            opcode, payload = await self.raw.frame()
            assert opcode == TEXT, (opcode, payload)
            text = payload.decode()
            assert text.endswith("\x1e")
            self._lines += text[:-1].replace("\x1f", "|").split("\x1e")
        return self._lines.pop(0)

    async def expect(self, *lines: str) -> None:
        for line in lines:
            assert await self.receive() == line

    async def closed(self) -> int:
        opcode, payload = await self.raw.frame()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big")


@asynccontextmanager
async def serve_all(config: dict[str, Any] | None = None, **services: Any):
    async with serve({"connectionEndpoints": ENDPOINTS, **(config or {})}, **services) as s:
        yield s


async def connect(s: Any) -> TextClient:
    client = TextClient(await s.websocket("/deepstream-v3"))
    await client.expect("C|A", "C|PI")
    return client


async def login(s: Any, user: str = "A") -> TextClient:
    client = await connect(s)
    client.send("C|PO", f'A|REQ|{{"username":"{user}"}}')
    await client.expect("A|A")
    return client


async def test_the_sample_session() -> None:
    async with serve_all() as s:
        a, d = await login(s), await s.login("D")
        a.send("E|S|news", "E|EVT|news|N1", "R|CR|r1")
        await a.expect("E|A|S|news", "R|A|S|r1", "R|R|r1|0|{}")
        a.send('R|U|r1|1|{"name":"x"}|{"writeSuccess":true}', "R|P|r1|2|n.a|Sstr", "R|P|r1|3|n.a|U")
        await a.expect("R|WA|r1|[1]|L")
        a.send('R|CU|r2|-1|b.c|O[1]|{"writeSuccess":true}', "R|HD|nope", "R|HD|r1", "R|SN|r1")
        await a.expect(
            "R|WA|r2|[-1]|L", "R|HD|nope|-1|null", "R|HD|r1|3|null", 'R|R|r1|3|{"name":"x","n":{}}'
        )
        a.send("P|S|add")
        await a.expect("P|A|S|add")
        d.message(Topic.RPC, RpcAction.REQUEST, name="add", correlation_id="k1", data=b'{"a":1,"b":2}')
        await a.expect('P|REQ|add|k1|O{"a":1,"b":2}')
        a.send("P|A|REQ|add|k1", "P|RES|add|k1|N3")
        await d.expect(Topic.RPC, RpcAction.ACCEPT)
        assert (await d.expect(Topic.RPC, RpcAction.RESPONSE)).data == b"3"
        a.send('U|S|1|["E"]', 'U|Q|2|["D","Z"]', "U|Q|Q", "U|S|S")
        await a.expect("U|A|S|1", 'U|Q|2|{"D":true,"Z":false}', "U|Q|D", "U|A|S|S")
        e = await s.login("E")
        await a.expect("U|PNJ|E")
        e.writer.close()
        await a.expect("U|PNL|E")


async def test_listening() -> None:
    async with serve_all() as s:
        a, b = await login(s), await login(s, "B")
        a.send("R|L|^live/.*")
        await a.expect("R|A|L|^live/.*")
        b.send("R|CR|live/1")
        await b.expect("R|A|S|live/1", "R|R|live/1|0|{}")
        await a.expect("R|SP|^live/.*|live/1")
        a.send("R|LA|^live/.*|live/1")
        await b.expect("R|SH|live/1|T")
        b.send("R|US|live/1")
        await b.expect("R|A|US|live/1")
        await a.expect("R|SR|^live/.*|live/1")
        a.send("R|UL|^live/.*", "R|L|(")
        await a.expect("R|A|UL|^live/.*", "R|E|INVALID_LISTEN_REGEX|(")


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("Shello", "hello"),
        ("S", ""),
        ('Sa"b\\', 'a"b\\'),
        ("Sé\n", "é\n"),
        ("N1.5", 1.5),
        ("N-3", -3),
        ("N1e+21", 1e21),
        ("T", True),
        ("F", False),
        ("L", None),
        ('O{"x":1}', {"x": 1}),
        ("O[1]", [1]),
    ],
)
async def test_typed_values_reach_every_protocol_and_come_back(typed: str, value: Any) -> None:
    async with serve_all() as s:
        a, c = await login(s), await login(s, "C")
        b = await s.login("B")
        b.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["e"], correlation_id="1")
        await b.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        c.send("E|S|e")
        await c.expect("E|A|S|e")
        a.send(f"E|EVT|e|{typed}")
        assert json.loads((await b.receive()).data) == value
        received = await c.receive()
        assert json.loads(to_json(received.removeprefix("E|EVT|e|").encode())) == value
        b.message(Topic.EVENT, EventAction.EMIT, name="e", data=json.dumps(value).encode())
        assert json.loads(to_json((await c.receive()).removeprefix("E|EVT|e|").encode())) == value
        a.send("E|EVT|e|U")
        assert (await b.receive()).data is None
        await c.expect("E|EVT|e|U")


texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children)
    ),
    max_leaves=10,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(json_values)
def test_a_value_survives_the_text_protocol(value: Any) -> None:
    typed = to_typed(json.dumps(value).encode())
    assert b"\x1e" not in typed and b"\x1f" not in typed
    assert json.loads(to_json(typed)) == value


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_nonsense_is_no_value(text: str) -> None:
    found = to_json(text.encode())
    if found:
        json.loads(found)


async def test_errors() -> None:
    rules = {
        "record": {"*": {"read": True, "create": True, "write": True}, "no/*": {}},
        "event": {"*": {"subscribe": True, "publish": True}, "no/*": {}},
        "rpc": {"*": {"request": True, "provide": True}, "no/*": {}},
        "presence": {"*": {"allow": False}},
    }
    for section, path in (("record", "no/*"), ("event", "no/*"), ("rpc", "no/*")):
        types = {"record": ("read", "create", "write", "delete"), "event": ("subscribe", "publish")}
        rules[section][path] = dict.fromkeys(types.get(section, ("request", "provide")), False)
    async with serve_all({"permission": {"type": "config", "options": {"permissions": rules}}}) as s:
        a = await login(s)
        a.send("E|S|no/1", "E|EVT|no/1|N1", "P|S|no/1", "P|REQ|no/1|c|N1", "P|REQ|none|c|N1")
        await a.expect(
            "E|E|MESSAGE_DENIED|no/1|S",
            "E|E|MESSAGE_DENIED|no/1|EVT",
            "P|E|MESSAGE_DENIED|no/1|S|no/1",
            "P|E|MESSAGE_DENIED|no/1|REQ|c",
            "P|E|NO_RPC_PROVIDER|none|c",
        )
        a.send("U|Q|Q", 'U|S|7|["x"]')
        await a.expect("U|E|MESSAGE_DENIED||Q", "U|E|MESSAGE_DENIED|x|S|7")
        a.send("R|HD|no/1", "R|H|no/1", "R|SN|no/1", "R|CR|no/1", "R|D|no/1")
        await a.expect(
            "R|E|HD|no/1|MESSAGE_DENIED",
            "R|E|MESSAGE_DENIED|no/1|HD",
            "R|E|H|no/1|MESSAGE_DENIED",
            "R|E|MESSAGE_DENIED|no/1|H",
            "R|E|SN|no/1|MESSAGE_DENIED",
            "R|E|MESSAGE_DENIED|no/1|SN",
            "R|A|S|no/1",
            "R|E|MESSAGE_DENIED|no/1|CR",
            "R|E|MESSAGE_DENIED|no/1|D",
        )
        a.send("R|U|no/1|1|{}", 'R|CU|no/1|-1|{}|{"writeSuccess":true}')
        await a.expect(
            "R|E|MESSAGE_DENIED|no/1|U|1",
            "R|WA|no/1|[-1]|SMESSAGE_DENIED",
            "R|E|MESSAGE_DENIED|no/1|CU|-1",
        )
        a.send("R|SN|none", "R|H|none", "E|S|e", "E|S|e")
        await a.expect(
            "R|E|SN|none|RECORD_NOT_FOUND",
            "R|E|RECORD_NOT_FOUND|none",
            "R|H|none|F",
            "E|A|S|e",
            "E|E|MULTIPLE_SUBSCRIPTIONS|e",
            "E|A|S|e",
        )
        a.send(
            "R|CR|r",
            "R|H|r",
            "R|U|r|9|{}",
            'R|U|r|0|{"a":1}|{"writeSuccess":true}',
            "R|U|r|x|{}",
            "E|EVT|e|?",
        )
        await a.expect(
            "R|A|S|r",
            "R|R|r|0|{}",
            "R|H|r|T",
            "R|E|VERSION_EXISTS|r|0|{}",
            'R|E|VERSION_EXISTS|r|0|{}|{"writeSuccess":true}',
            "R|E|INVALID_MESSAGE_DATA|r",
            "E|E|INVALID_MESSAGE_DATA|e",
        )


async def test_logins() -> None:
    async with serve_all(authentication=Users) as s:
        a = await connect(s)
        a.send("E|EVT|e|N1", 'A|REQ|{"refuse":1,"clientData":"no"}')
        await a.expect("A|E|INVALID_AUTH_DATA|Sno")
        a.send('A|REQ|{"username":"A","clientData":{"fav":"red"}}')
        await a.expect('A|A|O{"fav":"red"}')
        b = await connect(s)
        b.send("A|REQ|5")
        await b.expect("A|E|INVALID_AUTH_MSG|invalid authentication message")
        await b.closed()
        c = await connect(s)
        for _ in range(3):
            c.send('A|REQ|{"refuse":1}')
            await c.expect("A|E|INVALID_AUTH_DATA|U")
        await c.expect("A|E|TOO_MANY_AUTH_ATTEMPTS")
        await c.closed()


@pytest.mark.parametrize(
    "line",
    [
        "P|S",
        "E|S",
        "R|U|r",
        "R|P|r|1|a",
        "X|A|b",
        "E|undefined|a",
        "U|S|1|no",
        'U|S|1|{"a":1}',
        "U|S|1|[1]",
        "a",
        "ab",
        "||",
        "|||||||||||",
        "R|CU|a|1|2|3|4|5|6",
        "C|REJ",
        "A|RES|{}",
        "U|ZZ|a",
    ],
)
async def test_nonsense_hurts_nobody(line: str) -> None:
    async with serve_all() as s:
        a = await login(s)
        a.send(line, "C|PI")
        await a.expect("C|PO")


async def test_every_callback_of_a_failed_request_is_called() -> None:
    rules = {
        "record": {"*": {"read": False, "create": True, "write": True, "listen": True}},
        "event": {"*": {"publish": True}},
        "rpc": {"*": {"request": True, "provide": True}},
        "presence": {"*": {"allow": True}},
    }
    async with serve_all({"permission": {"type": "config", "options": {"permissions": rules}}}) as s:
        a = await login(s)
        a.send('R|U|none|1|{}|{"writeSuccess":true}', 'R|P|none|1|a||{"writeSuccess":true}')
        await a.expect(
            "R|WA|none|[1]|SRECORD_UPDATE_ERROR", "R|E|RECORD_UPDATE_ERROR|none",
            "R|WA|none|[1]|SINVALID_MESSAGE_DATA", "R|E|INVALID_MESSAGE_DATA|none",
        )  # fmt: skip
        # Of a conflict it would have to be shown the record, which it may not read.
        a.send("R|CU|r|-1|{}|{}", 'R|U|r|1|{}|{"writeSuccess":true}', "R|P|r|1|a|T")
        await a.expect(
            "R|WA|r|[1]|SMESSAGE_DENIED", "R|E|MESSAGE_DENIED|r|U|1",
            "R|E|MESSAGE_DENIED|r|P|1",
        )  # fmt: skip
        a.send("P|REQ|p|c|?", "P|RES|p|c|N1", "U|Q|2|[]", 'U|S|3|[""]')
        await a.expect(
            "P|E|INVALID_MESSAGE_DATA|p|c", "P|E|INVALID_RPC_CORRELATION_ID|p|c",
            "U|Q|2|{}", "U|E|INVALID_PRESENCE_USERS|",
        )  # fmt: skip
        assert s.connection("A").extra == {}


async def test_the_names_of_requests_are_forgotten_with_their_answers() -> None:
    async with serve_all() as s:
        a = await login(s)
        a.send("R|CR|r", "R|SN|r", "R|HD|r", "R|H|r", "R|H|x", "R|SN|x", "R|H|r", "R|R|r")
        await a.expect(
            "R|A|S|r", "R|R|r|0|{}", "R|R|r|0|{}", "R|HD|r|0|null", "R|H|r|T", "R|H|x|F",
            "R|E|SN|x|RECORD_NOT_FOUND", "R|E|RECORD_NOT_FOUND|x", "R|H|r|T", "R|R|r|0|{}",
        )  # fmt: skip
        assert s.connection("A").extra == {}


@pytest.mark.parametrize(
    "typed",
    ["", "Nx", "NxInfinity", "N0x1", "N1 2", "O", "O{", "TT", "X", "nul", "U1", "Lx", "N", 'N"1"', "N[1]"],
)
def test_no_typed_value(typed: str) -> None:
    assert to_json(typed.encode()) is None


@pytest.mark.parametrize("typed", ["L", "null", "NNaN", "NInfinity", "N-Infinity", "Onull"])
def test_typed_null(typed: str) -> None:
    assert to_json(typed.encode()) == b"null"


async def test_frames_that_are_no_text_close_the_connection() -> None:
    async with serve_all() as s:
        a = await login(s)
        a.raw.write(frame(b"E\x1fS\x1f\xff\x1e", TEXT))
        assert await a.closed() == 1007


async def test_what_cannot_be_sent_is_logged() -> None:
    async with serve_all() as s:
        a, b = await login(s), await s.login("B")
        a.send("R|L|^live", "U|S|S")
        await a.expect("R|A|L|^live", "U|A|S|S")
        b.message(Topic.RECORD, RecordAction.SUBSCRIBE, names=["live\x1f"], correlation_id="1")
        await s.log.wait_for("INVALID_MESSAGE")
        await s.login("x\\u001ey")
        assert len(await s.log.wait_for("INVALID_MESSAGE", 2)) == 2
        a.send("C|PI", "U|Q|Q")
        await a.expect("C|PO", "U|Q|B")


async def test_binary_frames_close_the_connection() -> None:
    async with serve_all() as s:
        a = await login(s)
        a.raw.write(frame(b"E\x1fS\x1fa\x1e", BINARY))
        assert await a.closed() == 1003


async def test_other_clients_cannot_forge_messages_for_text_clients() -> None:
    async with serve_all() as s:
        a, b = await login(s), await s.login("B")
        evil = "x\x1eE\x1fEVT\x1fe\x1fSforged\x1e"
        a.send("E|S|e", "R|CR|r", "P|S|p", "U|S|S")
        await a.expect("E|A|S|e", "R|A|S|r", "R|R|r|0|{}", "P|A|S|p", "U|A|S|S")
        b.message(Topic.EVENT, EventAction.EMIT, name="e", data=json.dumps(evil).encode())
        line = await a.receive()
        assert line.startswith('E|EVT|e|O"') and json.loads(line[9:]) == evil
        b.message(Topic.RECORD, RecordAction.PATCH, name="r", version=1, path=evil, data=b"1")
        line = await a.receive()
        assert line.startswith("R|U|r|1|{") and json.loads(line[8:]) == {evil: 1}
        b.message(Topic.RPC, RpcAction.REQUEST, name="p", correlation_id=evil, data=b"1")
        line = await a.receive()
        assert line.startswith("P|REQ|p|call-") and line.endswith("|N1")
        correlation_id = line.split("|")[3]
        a.send(f"P|A|REQ|p|{correlation_id}", f"P|E|no\x7f|p|{correlation_id}")
        assert (await b.receive()).correlation_id == evil
        assert (await b.receive()).to_dict()["correlation_id"] == evil
        await s.login(json.dumps(evil)[1:-1])
        a.send("C|PI")
        await a.expect("C|PO")  # of that user nothing was told
        b.message(Topic.PRESENCE, PresenceAction.QUERY_ALL)


async def test_text_and_binary_clients_share_records() -> None:
    async with serve_all() as s:
        a, b = await login(s), await s.login("B")
        a.send("R|CR|r")
        await a.expect("R|A|S|r", "R|R|r|0|{}")
        b.message(Topic.RECORD, RecordAction.PATCH, name="r", version=1, path="n", data=b"null")
        await a.expect("R|P|r|1|n|L")
        b.message(Topic.RECORD, RecordAction.ERASE, name="r", version=2, path="n")
        await a.expect("R|P|r|2|n|U")
        b.message(
            Topic.RECORD, RecordAction.PATCH_MULTI, name="r", version=3, data=b'[{"path":"a","data":1}]'
        )
        await a.expect('R|U|r|3|{"a":1}')
        b.message(Topic.RECORD, RecordAction.DELETE, name="r")
        await a.expect("R|A|D|r")


async def test_heartbeats_come_from_the_server() -> None:
    async with serve_all(
        {"connectionEndpoints": [{"type": "ws-text", "options": {"heartbeatInterval": 50}}]}
    ) as s:
        a = await connect(s)
        for _ in range(3):
            await a.expect("C|PI")
            a.send("C|PO")
