"""Random, mutated and truncated messages and frames against a server process that others are using.

In the binary protocol, the text protocol and JSON.

``DSFAST_FUZZ`` is the number of messages (default 50 000), ``DSFAST_FUZZ_SEED`` makes a run repeatable.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
from wire import BINARY, CHALLENGE, CLOSE, TEXT, TIMEOUT, Client, auth_request, frame, upgrade_request

from dsfast._core.protocol import (
    AuthAction,
    ConnectionAction,
    EventAction,
    Message,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
    encode,
)

loops = ["uvloop"]

MESSAGES = int(os.environ.get("DSFAST_FUZZ", "50000"))
SEED = int(os.environ.get("DSFAST_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
BATCH = 200
MIB = 1 << 20

SERVER = """
import asyncio, faulthandler, signal
import uvloop
from dsfast import Server
from dsfast.plugin import Permission

class Mixed(Permission):
    description = "some now, some later, some never"

    def can_perform_action(self, socket, message):
        name = message.name or ""
        if name.startswith("later"):
            return self.later()
        return not name.startswith("deny")

    async def later(self):
        await asyncio.sleep(0)
        return True

async def main():
    server = Server({
        "logLevel": "WARN", "showLogo": False, "storage": {"type": "default"},
        "httpServer": {"type": "default", "options": {"host": "127.0.0.1", "port": 0}},
        "connectionEndpoints": [
            {"type": kind, "options": {"maxBadMessages": 1000000000}}
            for kind in ("ws-binary", "ws-text", "ws-json")
        ],
        "rpc": {"ackTimeout": 20, "responseTimeout": 40},
        "listen": {"responseTimeout": 20},
        "record": {"maxSize": 100000, "maxArrayLength": 1000},
    })
    if %(permission)r:
        server.set("permission", Mixed)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    print(server.get_services().connection_endpoints[0].addresses[0][1], flush=True)
    await stop.wait()
    await server.stop()

faulthandler.enable()
uvloop.run(main())
"""

TEXTS = [
    "",
    "a",
    "b",
    "c",
    "deny",
    "later",
    "user",
    "%_EVERYONE_%",
    "__proto__",
    "ü€😀",
    "\0",
    "x" * 300,
    "list/1",
]
PATTERNS = ["a", ".*", "^b$", "(", "[a-", "(?=a)", "(a+)+$", "\\1", "a{1000}{1000}", "x" * 2000, "(?<n>a)"]
PATHS = [
    "a",
    "a.b",
    "a[0]",
    "[0]",
    "a[999]",
    "a[99999999999]",
    "a..b",
    "",
    ".",
    "a.",
    "a[-1]",
    "a[x",
    "b.c[2].d",
]
DATA = [
    *(b"null", b"1", b"-0.5e10", b'"x"', b"{}", b"[]", b'{"a":1}', b'{"a":{"b":[1,2]}}', b"[[[[1]]]]"),
    *(b"", b"{", b"nul", b"1e999", b'"\\ud800"', b'"\xff"', b"[" * 3000, b'{"a":1,}', b"\0", b"9" * 400),
    b'[{"path":"a","data":1},{"path":"b.c"}]',
]
ACTIONS = {
    Topic.CONNECTION: ConnectionAction,
    Topic.AUTH: AuthAction,
    Topic.EVENT: EventAction,
    Topic.RECORD: RecordAction,
    Topic.RPC: RpcAction,
    Topic.PRESENCE: PresenceAction,
}
WEIGHTS = [1, 1, 6, 12, 6, 4]


def fields_of_a_message(rng):
    """Topic, action and fields of a message that can be encoded, sensible or not."""
    topic = rng.choices(list(ACTIONS), WEIGHTS)[0]
    action = rng.choice(list(ACTIONS[topic])) if rng.random() < 0.95 else rng.randrange(-5, 300)
    fields = {}
    if rng.random() < 0.8:
        fields["name"] = rng.choice(TEXTS if rng.random() < 0.9 else PATTERNS)
    if rng.random() < 0.5:
        fields["names"] = [rng.choice(TEXTS[1:]) for _ in range(rng.randrange(6))]
    if rng.random() < 0.6:
        fields["data"] = rng.choice(DATA)
    if rng.random() < 0.6:
        fields["correlation_id"] = rng.choice(["0", "1", "a-1", "", "x" * 100])
    if rng.random() < 0.6:
        fields["version"] = rng.choice([-1, -1, 0, 1, 2, 3, 7, 2**31 - 1, -(2**31)])
    if rng.random() < 0.4:
        fields["path"] = rng.choice(PATHS)
    for flag in ("is_ack", "is_error", "is_write_ack"):
        if rng.random() < 0.2:
            fields[flag] = rng.random() < 0.5
    if rng.random() < 0.2:
        fields["subscription"] = rng.choice(TEXTS)
    if rng.random() < 0.1:
        fields["versions"] = {rng.choice(TEXTS): rng.randrange(-3, 10) for _ in range(3)}
    if rng.random() < 0.1:
        fields["requestor_name"] = rng.choice(TEXTS)
        fields["requestor_data"] = "1"
    return topic, action, fields


def message(rng):
    """A message of the binary protocol, sensible or not."""
    topic, action, fields = fields_of_a_message(rng)
    return encode(Message(topic, action, **fields))


def json_message(rng):
    """The same as an object, now and then with a value of a wrong type."""
    topic, action, fields = fields_of_a_message(rng)
    names = {"correlation_id": "correlationId", "is_ack": "isAck", "is_error": "isError"}
    names |= {
        "is_write_ack": "isWriteAck",
        "requestor_name": "requestorName",
        "requestor_data": "requestorData",
    }
    fields = {names.get(key, key): value for key, value in fields.items()}
    data = fields.pop("data", b"").decode("utf-8", "replace")
    if rng.random() < 0.5:
        fields["data"] = data
    else:
        with contextlib.suppress(ValueError, RecursionError):
            fields["parsedData"] = json.loads(data)
    if rng.random() < 0.1:
        fields[rng.choice([*fields, "name", "names", "data"])] = rng.choice(
            [None, 1, -1.5, 1e300, 2**70, True, [], [1], {}, {"length": 1e9}, "\ud800", "x"]
        )
    if rng.random() < 0.05:
        topic = rng.choice([0, 1, 77, 2**40, "4", None, 4.0])
    return json.dumps({"topic": topic, "action": action, **fields}).encode()


# Topic, action and parts of the text protocol's messages: the letters are those of MAKERS.
TEXT_FORMS = [
    *("CPI", "CPO", "CCHRn", "AREQj", "EEVTnt", "ESn", "EUSn", "ELr", "EULr", "ELArn", "ELRrn"),
    *(
        "RUnvj",
        "RUnvjw",
        "RPnvpt",
        "RPnvptw",
        "RCUnvjw",
        "RCUnvptw",
        "RCRn",
        "RSNn",
        "RRn",
        "RHDn",
        "RHn",
        "RDn",
    ),
    *(
        "RSn",
        "RUSn",
        "RLr",
        "RULr",
        "RLArn",
        "RLRrn",
        "PREQnct",
        "PAcnc",
        "PRESnct",
        "PREJnc",
        "PEtnc",
        "PSn",
    ),
    *("PUSn", "UQc", "UQcu", "USc", "UScu", "UUSc", "UUScu"),
]
MAKERS = {
    "n": lambda rng: rng.choice(TEXTS),
    "r": lambda rng: rng.choice(PATTERNS),
    "p": lambda rng: rng.choice(PATHS),
    "c": lambda rng: rng.choice(["1", "2", "", "REQ", "x" * 100]),
    "v": lambda rng: rng.choice(["-1", "0", "1", "2", "3", "2147483647", "2147483648", "x", "", "-", "1.5"]),
    "j": lambda rng: rng.choice(DATA).decode("utf-8", "replace"),
    "t": lambda rng: rng.choice(["T", "F", "L", "U", "S", "N1", "N", "NNaN", "null", "", "?", "Ttt"])
    if rng.random() < 0.4 else rng.choice("OSN") + MAKERS["j"](rng),
    "u": lambda rng: rng.choice(['["a"]', '["user","b"]', "[]", '[""]', "[1]", "{", '"a"', '["\\ud800"]']),
    "w": lambda rng: rng.choice(['{"writeSuccess":true}', "{}", "", "x"]),
}  # fmt: skip


def text_message(rng):
    """A message of the text protocol, sensible or not."""
    topic, action, parts = re.fullmatch("(.)([A-Z]+)([a-z]*)", rng.choice(TEXT_FORMS)).groups()
    parts = [MAKERS[rng.choice([*MAKERS]) if rng.random() < 0.03 else kind](rng) for kind in parts]
    if rng.random() < 0.05:
        topic = rng.choice("XZCAERPU")
    if rng.random() < 0.05:
        parts = parts[: rng.randrange(len(parts) + 1)] + parts[: rng.randrange(len(parts) + 1)]
    return "\x1f".join([topic, action, *parts]).encode() + b"\x1e"


def other_payload(rng, make):
    """What goes into one websocket message of the text protocol or of JSON."""
    kind = rng.random()
    if kind < 0.85:
        return make(rng)
    if kind < 0.95:
        return b"".join(make(rng) for _ in range(rng.randrange(2, 6)))
    if kind < 0.99:
        # Mostly still UTF-8, without which nobody looks at it.
        return mutate(rng, make(rng)).decode("utf-8", "ignore").encode()
    return mutate(rng, make(rng))


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def mutate(rng, data):
    """A few random changes of some bytes."""
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 8)]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 8))
        elif kind == 3 and at < len(data):
            data[at] = rng.choice([0, 1, 127, 128, 255])
        else:
            data[at:at] = data[at : at + rng.randrange(1, 20)]
    return bytes(data)


def payload(rng):
    """What goes into one websocket message."""
    kind = rng.random()
    if kind < 0.45:
        return message(rng)
    if kind < 0.6:
        return mutate(rng, message(rng))
    if kind < 0.85:
        # The lengths are right again, so that the change is met by the decoder of the fields.
        topic, inner = split(message(rng))
        inner = mutate(rng, inner)
        outer = b"\x10" + bytes([topic]) + b"\x1a" + varint(len(inner)) + inner
        return varint(len(outer)) + outer
    if kind < 0.9:
        return b"".join(message(rng) for _ in range(rng.randrange(2, 6)))
    if kind < 0.95:
        raw = message(rng)
        return raw[: rng.randrange(len(raw) + 1)]
    return rng.randbytes(rng.randrange(60))


def split(raw):
    """Topic and inner bytes of an encoded message."""
    at = 1
    while raw[at - 1] & 128:
        at += 1
    topic = raw[at + 1]
    at += 3
    while raw[at] & 128:
        at += 1
    return topic, raw[at + 1 :]


class Target:
    """The server process and the clients that watch whether it serves as it should."""

    def __init__(self, tmp_path, permission):
        self.log = tmp_path / "log"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER % {"permission": permission}],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def rss(self):
        return psutil.Process(self.process.pid).memory_info().rss

    async def watch(self):
        """Two clients nobody attacks."""
        self.a, self.b = await Client.login(self.port, "watch-a"), await Client.login(self.port, "watch-b")
        self.b.message(Topic.EVENT, EventAction.SUBSCRIBE, names=["watch"], correlation_id="1")
        await self.b.expect(Topic.EVENT, EventAction.SUBSCRIBE)
        self.count = 0

    async def check(self):
        """The server is there and does its work."""
        self.count += 1
        self.a.message(Topic.EVENT, EventAction.EMIT, name="watch", data=b"%d" % self.count)
        await self.b.expect(Topic.EVENT, EventAction.EMIT, name="watch", data=b"%d" % self.count)
        assert self.process.poll() is None, f"the server died (seed {SEED})"

    def stop(self):
        """Stop it as an operator does; everything it logged must be an ordinary line."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        rest = self.process.stdout.read()
        assert self.process.wait(TIMEOUT) == 0, f"seed {SEED}"
        text = (self.log.read_bytes() + rest).decode("utf-8", "replace")
        found = [line for line in text.splitlines() if is_fault(line)]
        assert found == [], f"seed {SEED}"


def is_fault(line):
    """Whether a log line tells of a fault of the server."""
    return any(
        word in line for word in ("exception", "Traceback", "Error(", "PLUGIN_ERROR", "never retrieved")
    )


@pytest.fixture(params=[False, True], ids=["open", "permission"])
def target(request, tmp_path):
    target = Target(tmp_path, request.param)
    yield target
    if target.process.poll() is None:
        target.process.kill()
    target.process.wait()
    target.process.stdout.close()


async def swallow(client):
    """Read whatever comes, until the server hangs up."""
    with contextlib.suppress(ConnectionError):
        while await client.reader.read(1 << 16):
            pass
    client.writer.close()


async def binary_client(port):
    return await Client.login(port, "user")


async def text_client(port):
    client = await Client.websocket(port, "/deepstream-v3")
    client.write(frame(b'A\x1fREQ\x1f{"username":"user"}\x1e', TEXT))
    return client


async def json_client(port):
    client = await Client.websocket(port, "/deepstream-json")
    client.write(frame(b'{"topic":2,"action":5}', TEXT))
    client.write(frame(b'{"topic":3,"action":2,"parsedData":{"username":"user"}}', TEXT))
    return client


@pytest.mark.parametrize(
    ("login", "make", "opcode", "count"),
    [
        pytest.param(binary_client, payload, BINARY, MESSAGES // 2, id="binary"),
        pytest.param(text_client, partial(other_payload, make=text_message), TEXT, MESSAGES // 4, id="text"),
        pytest.param(json_client, partial(other_payload, make=json_message), TEXT, MESSAGES // 8, id="json"),
    ],
)
async def test_messages_of_all_kinds(target, login, make, opcode, count):
    rng = random.Random(SEED)
    await target.watch()
    clients = []
    memory = 0
    for batch in range(0, count, BATCH):
        clients = [item for item in clients if not item[1].done()]
        while len(clients) < 4:
            client = await login(target.port)
            clients.append((client, asyncio.ensure_future(swallow(client))))
        client, _ = rng.choice(clients)
        if client.writer.is_closing():
            continue
        client.write(b"".join(frame(make(rng), opcode) for _ in range(BATCH)))
        with contextlib.suppress(ConnectionError):
            await client.drain()
        if rng.random() < 0.05:
            client.reset()
        await target.check()
        if batch <= count // 3:
            memory = target.rss()
    assert target.rss() - memory < 32 * MIB
    for client, swallowing in clients:
        if not client.writer.is_closing():
            client.write(frame(b"", CLOSE))
        await asyncio.wait_for(swallowing, TIMEOUT)
    await target.check()
    await asyncio.to_thread(target.stop)


async def attack(port, data):
    """One connection that sends this and is gone when the server hangs up or has had time to."""
    client = await Client.connect(port)
    client.write(data)
    with contextlib.suppress(ConnectionError):
        await client.drain()
        client.writer.write_eof()
    await asyncio.wait_for(swallow(client), TIMEOUT)


async def test_frames_and_requests_of_all_kinds(target):
    rng = random.Random(SEED)
    await target.watch()
    login = frame(CHALLENGE) + frame(auth_request(b'{"username":"user"}'))
    memory = 0
    rounds = max(1, MESSAGES // 2 // 200)
    for turn in range(rounds):
        attacks = []
        for _ in range(8):
            stream = b"".join(
                frame(
                    message(rng),
                    BINARY if rng.random() < 0.9 else rng.randrange(16),
                    fin=rng.random() < 0.9,
                    rsv=0 if rng.random() < 0.97 else rng.randrange(8),
                    masked=rng.random() < 0.98,
                )
                for _ in range(rng.randrange(1, 25))
            )
            if rng.random() < 0.5:
                stream = mutate(rng, stream)
            data = upgrade_request() + (login if rng.random() < 0.8 else b"") + stream
            if rng.random() < 0.2:
                data = mutate(rng, data)
            if rng.random() < 0.2:
                data = data[: rng.randrange(len(data))]
            attacks.append(attack(target.port, data))
        await asyncio.gather(*attacks)
        await target.check()
        if turn <= rounds // 3:
            memory = target.rss()
    assert target.rss() - memory < 32 * MIB
    await asyncio.to_thread(target.stop)


@pytest.mark.parametrize(
    "text", ["exception while handling a message: X", "Traceback (most recent call last):"]
)
def test_faults_are_found_in_the_log(text):
    assert is_fault(text)
