"""New permission rules while a server runs: by signal, by a look at the file, in code; and what they end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from dsfast._core.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic, encode
from dsfast._core.valve_gate import RuleTable
from dsfast.services.permission.rules import RuleFileError
from tests.commands import LIMIT
from tests.record_client import R, RecordClient
from tests.valve_kit import DENIED, expect_refusal, login, permissions, record_login, serve_rules, storage_of
from tests.wire import Client, Running

loops = ["uvloop"]

E, REC, RPC, P = Topic.EVENT, Topic.RECORD, Topic.RPC, Topic.PRESENCE
EMIT = EventAction.EMIT


async def may_emit(client: Client, name: str = "e") -> bool:
    """Whether an event is not refused."""
    client.message(E, EMIT, name=name)
    client.message(E, EventAction.UNSUBSCRIBE, names=["end"], correlation_id="end")
    first = await client.receive()
    if first.action == EventAction.UNSUBSCRIBE:
        return True
    assert first.action == EventAction.MESSAGE_DENIED, first
    await client.expect(E, EventAction.UNSUBSCRIBE)
    return False


# --- in code ----------------------------------------------------------------------------


async def test_rules_given_in_code_hold_from_the_next_message_on() -> None:
    async with serve_rules({}) as s:
        client = await s.login("A")
        assert await may_emit(client)
        s.services.permission.use_config(permissions({"event.publish": False}))
        assert not await may_emit(client)
        s.services.permission.use_config(permissions({"event.publish": "name === 'e'"}))
        assert await may_emit(client)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({}, 'missing configuration section "record"'),
        (permissions({"event.publish": "data ="}), "SyntaxError"),
        (permissions({"event.listen": "data"}), "does not support data"),
        (None, "config should be an object literal"),
    ],
)
async def test_rules_that_are_not_valid_change_nothing(content: Any, text: str) -> None:
    async with serve_rules({"event.publish": False}) as s:
        client = await s.login("A")
        with pytest.raises(RuleFileError, match=text):
            s.services.permission.use_config(content)
        assert not await may_emit(client)


# --- what new rules end -----------------------------------------------------------------


async def hold_everything(client: Client, names: list[str]) -> None:
    """Subscribe to, listen to and provide these names."""
    requests: list[tuple[Topic, int, dict[str, Any]]] = [
        (E, EventAction.SUBSCRIBE, {"names": names}),
        (REC, R.SUBSCRIBE, {"names": names}),
        (RPC, RpcAction.PROVIDE, {"names": names}),
        (P, PresenceAction.SUBSCRIBE, {"names": names}),
        (P, PresenceAction.SUBSCRIBE_ALL, {}),
    ]
    # No name matches these, so that nobody is asked to provide.
    requests += [(E, EventAction.LISTEN, {"name": f"^{name}x$"}) for name in names]
    requests += [(REC, R.LISTEN, {"name": f"^{name}x$"}) for name in names]
    for topic, action, fields in requests:
        client.message(topic, action, correlation_id="c", **fields)
        answer = await client.expect(topic, action)
        assert answer.is_ack


HELD = {
    "event.subscribe": (E, EventAction.SUBSCRIBE, "event", "b"),
    "record.read": (REC, R.SUBSCRIBE, "record", "b"),
    "rpc.provide": (RPC, RpcAction.PROVIDE, "rpc", "b"),
    "presence.allow": (P, PresenceAction.SUBSCRIBE, "presence", "b"),
    "event.listen": (E, EventAction.LISTEN, None, "^bx$"),
    "record.listen": (REC, R.LISTEN, None, "^bx$"),
}


def held(s: Running) -> dict[str, list[str]]:
    """Everything that is held, by the registry or the topic of the pattern."""
    found = {topic: sorted(registry.names()) for topic, registry in s.registries().items()}
    for topic, listen in s.router._listens.items():
        found[f"{topic.name} patterns"] = sorted(text for _, text in listen.patterns())
    return found


@pytest.mark.parametrize(
    "rule", ["name !== 'b' && name !== '^bx$'", "name === 'b' || name === '^bx$' ? _('x').no : 1"]
)
@pytest.mark.parametrize(("topic", "action", "registry", "name"), HELD.values(), ids=HELD)
async def test_what_new_rules_forbid_is_ended_and_its_holder_is_told(
    topic: Topic, action: int, registry: str | None, name: str, rule: str
) -> None:
    kind = next(key for key, value in HELD.items() if value[:2] == (topic, action))
    async with serve_rules({}, storage=storage_of({"x": {}})) as s:
        client = await s.login("A")
        await hold_everything(client, ["a", "b", "c"])
        before = held(s)
        s.services.permission.use_config(permissions({kind: rule}))
        await expect_refusal(client, topic, "denied", action, name)
        await s.until(lambda: "new permission rules ended 1 subscriptions" in s.log.find("INFO"))
        after = held(s)
        changed = registry or f"{topic.name} patterns"
        assert after[changed] == [n for n in before[changed] if n != name]
        assert {key: names for key, names in after.items() if key != changed} == {
            key: names for key, names in before.items() if key != changed
        }
        await client.fence()


async def test_a_subscription_to_all_users_is_ended() -> None:
    async with serve_rules({}) as s:
        client = await s.login("A")
        client.message(P, PresenceAction.SUBSCRIBE_ALL)
        await client.expect(P, PresenceAction.SUBSCRIBE_ALL)
        s.services.permission.use_config(permissions({"presence.allow": "name !== undefined"}))
        await expect_refusal(client, P, "denied", PresenceAction.SUBSCRIBE_ALL)
        other = await s.login("B")
        await other.fence()
        await client.fence()
        assert s.registries()["everyone"].names() == []


async def test_a_rule_that_fails_ends_a_subscription_too() -> None:
    async with serve_rules({}) as s:
        client = await s.login("A")
        client.message(E, EventAction.SUBSCRIBE, names=["e"], correlation_id="c")
        await client.expect(E, EventAction.SUBSCRIBE)
        s.services.permission.use_config(permissions({"event.subscribe": "user.data.x"}))
        await expect_refusal(client, E, "failed", EventAction.SUBSCRIBE, "e")
        assert s.registries()["event"].names() == []


async def test_only_those_users_lose_a_subscription_whom_the_rule_forbids_it() -> None:
    async with serve_rules({}) as s:
        clients = {user: await login(s, user, {"level": level}) for level, user in enumerate(["A", "B", "C"])}
        for client in clients.values():
            client.message(E, EventAction.SUBSCRIBE, names=["e"], correlation_id="c")
            await client.expect(E, EventAction.SUBSCRIBE)
        s.services.permission.use_config(permissions({"event.subscribe": "user.data.level !== 1"}))
        await expect_refusal(clients["B"], E, "denied", EventAction.SUBSCRIBE, "e")
        clients["B"].message(E, EMIT, name="e", data=b"1")
        for user in ("A", "C"):
            await clients[user].expect(E, EMIT, name="e", data=b"1")
        await clients["B"].fence()


async def test_without_revalidation_what_is_held_stays() -> None:
    async with serve_rules({}, valve={"revalidateOnReload": False}) as s:
        client = await s.login("A")
        await hold_everything(client, ["a"])
        before = held(s)
        s.services.permission.use_config(permissions({}, False))
        assert not await may_emit(client)
        await client.fence()
        assert held(s) == before
        assert not any("ended" in line for line in s.log.find("INFO"))


@pytest.mark.parametrize("how", ["subscribe", "open", "listen", "in a row"])
async def test_what_was_being_decided_when_the_rules_changed_does_not_outlast_them(how: str) -> None:
    """A check finishes with the rule it started with; what it permits is looked at again afterwards."""
    slow = "_('slow').ok"
    old = {"event.subscribe": slow, "event.listen": slow, "record.create": slow}
    async with serve_rules(old, storage=storage_of({"slow": {"ok": True}})) as s:
        client, gate = await s.login("A"), s.services.storage.gate
        gate.block("get")
        if how == "listen":
            client.message(E, EventAction.LISTEN, name="e", correlation_id="c")
        elif how == "open":
            client.message(REC, R.SUBSCRIBECREATEANDREAD, names=["e"], correlation_id="c")
            await client.expect(REC, R.SUBSCRIBECREATEANDREAD)
        else:
            client.message(E, EventAction.SUBSCRIBE, names=["e"], correlation_id="c")
        if how == "in a row":
            client.message(REC, R.SUBSCRIBE, names=["r"], correlation_id="d")
        await gate.called("get")
        await client.fence()
        if how == "open":  # that of the record itself; then comes that of the rule
            gate.release("get", keep=True)
            await gate.called("get", 2)
        s.services.permission.use_config(permissions({}, "user.id === 'B'"))
        await s.until(lambda: any("ended 0" in line for line in s.log.find("INFO")))
        gate.release("get")
        told = []
        count = 2 if how == "in a row" else 1
        while sum(m.action == DENIED[m.topic] for m in told) < count:
            told.append(await client.receive())
        await client.fence()
        assert all(not names for names in held(s).values()), held(s)


async def test_a_read_that_was_waiting_when_the_rules_changed_is_decided_by_the_new_ones() -> None:
    async with serve_rules({"record.read": True}, storage=storage_of({"r": {"a": 1}})) as s:
        client, gate = await record_login(s, "A"), s.services.storage.gate
        gate.block("get")
        client.send(R.READ, name="r")
        await gate.called("get")
        s.services.permission.use_config(permissions({"record.read": False}))
        gate.release("get")
        await expect_refusal(client.wire, REC, "denied", R.READ, "r")


async def test_a_write_that_was_waiting_when_the_rules_changed_is_decided_by_the_new_ones() -> None:
    async with serve_rules({}, storage=storage_of({"r": {"a": 1}})) as s:
        client, gate = await record_login(s, "A"), s.services.storage.gate
        gate.block("get")
        client.send(R.UPDATE, name="r", version=-1, data={"a": 2})
        await gate.called("get")
        s.services.permission.use_config(permissions({"record.write": "oldData.a === 2"}))
        gate.release("get")
        await expect_refusal(client.wire, REC, "denied", R.UPDATE, "r")


# --- from a file ------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of rules that allow everything."""
    path = tmp_path / "permissions.yml"
    path.write_text(json.dumps(permissions({})))
    return path


def replace(file: Path, content: Any) -> None:
    """As editors and deployment tools do it: write another file and put it in the place of the old one."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    other = file.with_suffix(".new")
    other.write_bytes(text)
    os.replace(other, file)


BROKEN: dict[str, tuple[bytes, str]] = {
    "no YAML": (b"record: [", "permissions.yml"),
    "no UTF-8": (b"record: \xff\xfe", "not valid UTF-8"),
    "no sections": (b"a: 1\n", 'missing configuration section "record"'),
    "rule": (
        b"record: {'*': {}}\nevent:\n  '*':\n    publish: 'data ='\nrpc: {'*': {}}\npresence: {'*': {}}\n",
        "permissions.yml, line 4",
    ),
    "nothing": (b"", "config should be an object literal"),
    "deep": (b"[" * 100_000, "permissions.yml"),
}


@pytest.mark.parametrize(("content", "text"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_file_changes_nothing_and_is_named_in_the_log(
    file: Path, content: bytes, text: str
) -> None:
    async with serve_rules({}, valve={"path": str(file), "permissions": None}) as s:
        client = await s.login("A")
        replace(file, permissions({"event.publish": False}))
        assert await s.server.reload_permissions()
        assert not await may_emit(client)
        replace(file, content)
        assert not await s.server.reload_permissions()
        (line,) = s.log.find("INVALID_CONFIG_DATA")
        assert "the old permission rules stay: invalid permission config - " in line
        assert text in line
        assert not await may_emit(client)
        replace(file, permissions({}))
        assert await s.server.reload_permissions()
        assert await may_emit(client)


async def test_a_file_that_is_gone_changes_nothing(file: Path) -> None:
    async with serve_rules({}, valve={"path": str(file), "permissions": None}) as s:
        client = await s.login("A")
        os.unlink(file)
        assert not await s.server.reload_permissions()
        assert await may_emit(client)
        os.mkdir(file)
        assert not await s.server.reload_permissions()
        assert await may_emit(client)


async def test_of_several_reloads_the_newest_state_of_the_file_is_used(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has read the file and is slow must not undo a later one."""
    async with serve_rules({}, valve={"path": str(file), "permissions": None}) as s:
        client, service = await s.login("A"), s.services.permission
        read, slow, has_read = service._read, threading.Event(), threading.Event()

        def read_slowly() -> Any:
            rules = read()
            has_read.set()
            assert slow.wait(LIMIT)
            return rules

        monkeypatch.setattr(service, "_read", read_slowly)
        first = asyncio.ensure_future(s.server.reload_permissions())
        assert await asyncio.to_thread(has_read.wait, LIMIT)
        monkeypatch.setattr(service, "_read", read)
        replace(file, permissions({"event.publish": False}))
        second = asyncio.ensure_future(s.server.reload_permissions())
        await client.fence()
        slow.set()
        assert await first
        assert await second
        assert not await may_emit(client)


async def test_a_file_that_is_looked_at_is_read_again_when_it_changes(file: Path) -> None:
    options = {"path": str(file), "permissions": None, "watchInterval": 5}
    async with serve_rules({}, valve=options) as s:
        client = await s.login("A")

        async def used(times: int) -> None:
            await s.until(lambda: s.log.find("INFO").count("new permission rules are in use") >= times)

        replace(file, permissions({"event.publish": False}))
        await used(1)
        assert not await may_emit(client)
        replace(file, BROKEN["rule"][0])
        assert "line 4" in (await s.log.wait_for("INVALID_CONFIG_DATA"))[0]
        assert not await may_emit(client)
        os.unlink(file)
        replace(file, permissions({"event.publish": True}))
        await used(2)
        assert await may_emit(client)
        # Written in place.
        await asyncio.to_thread(file.write_text, json.dumps(permissions({"event.publish": "name !== 'e'"})))
        await used(3)
        assert not await may_emit(client)
        # What has not changed is not read again.
        count = len(s.log.lines)
        await asyncio.sleep(0.03)
        assert len(s.log.lines) == count


async def test_without_a_file_there_is_nothing_to_read_again() -> None:
    async with serve_rules({"event.publish": False}) as s:
        client = await s.login("A")
        assert await s.server.reload_permissions()
        assert not await may_emit(client)


def test_a_signal_reads_the_file_again(start: Any, tmp_path: Path) -> None:
    """The whole way: files, process, signal, log; with clients connected."""
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "config.yml").write_text(
        "logLevel: DEBUG\n"
        "httpServer: {type: default, options: {host: 127.0.0.1, port: 0}}\n"
        "permission: {type: config, options: {permissions: fileLoad(permissions.yml)}}\n"
        "storage: {type: default}\n"
    )
    rules = conf / "permissions.yml"
    rules.write_text(json.dumps(permissions({})))
    server = start("serve", "-c", conf / "config.yml", "--in-memory", cwd=tmp_path).ready()

    async def check(allowed: bool) -> None:
        client = await Client.login(server.port)
        assert await may_emit(client) == allowed
        await client.close()

    async def lose_subscription() -> None:
        client = await Client.login(server.port)
        client.message(E, EventAction.SUBSCRIBE, names=["a", "b"], correlation_id="c")
        await client.expect(E, EventAction.SUBSCRIBE)
        replace(rules, permissions({"event.publish": False, "event.subscribe": "name === 'a'"}))
        server.signal(signal.SIGHUP)
        await expect_refusal(client, E, "denied", EventAction.SUBSCRIBE, "b")
        await client.close()

    asyncio.run(check(True))
    asyncio.run(lose_subscription())
    server.wait_for("new permission rules ended 1 subscriptions")
    asyncio.run(check(False))
    replace(rules, BROKEN["rule"][0])
    server.signal(signal.SIGHUP)
    line = server.process.stderr.readline()
    assert "the old permission rules stay: invalid permission config - " in line
    assert f"{rules}, line 4" in line
    asyncio.run(check(False))
    replace(rules, permissions({}))
    server.signal(signal.SIGHUP)
    server.wait_for("new permission rules are in use")
    asyncio.run(check(True))
    code, errors = server.end(signal.SIGTERM)
    assert (code, errors) == (0, "")


# --- load and leaks ---------------------------------------------------------------------


async def test_new_rules_while_two_thousand_subscriptions_are_in_use() -> None:
    """Nothing of what stays allowed is lost or delivered twice, and all that is forbidden ends."""
    async with serve_rules({}) as s:
        writer, readers = await s.login("writer"), [await s.login(f"user{i}") for i in range(20)]
        names = [f"n{i}" for i in range(100)]
        for reader in readers:
            reader.message(E, EventAction.SUBSCRIBE, names=names, correlation_id="c")
            await reader.expect(E, EventAction.SUBSCRIBE)
        sent = 0

        async def write() -> None:
            nonlocal sent
            while sent < 400:
                payloads = [
                    encode(Message(E, EMIT, name=f"n{n % 50}", data=b"%d" % n))
                    for n in range(sent, sent + 10)
                ]
                writer.send(*payloads)
                sent += 10
                await writer.drain()
                await asyncio.sleep(0)

        writing = asyncio.ensure_future(write())
        for limit in (90, 70, 50):
            rule = f"name.match(/^n[0-9]$/) !== null || name < 'n{limit}' && name.length === 3"
            s.services.permission.use_config(permissions({"event.subscribe": rule}))
            await s.until(lambda limit=limit: len(s.registries()["event"].names()) == limit)
        await writing
        for reader in readers:
            got, refused = [], set()
            while len(got) < sent or len(refused) < 50:
                message = await reader.receive()
                if message.action == EMIT:
                    got.append(int(message.data or b""))
                else:
                    assert message.action == EventAction.MESSAGE_DENIED
                    refused.add(message.name)
            assert got == list(range(sent))
            assert refused == {f"n{i}" for i in range(50, 100)}


def tables() -> int:
    """How many rule tables there are in this process."""
    gc.collect()
    return sum(type(thing) is RuleTable for thing in gc.get_objects())


def resident() -> int:
    """Resident memory of this process in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


async def test_rules_that_were_replaced_are_freed() -> None:
    before = tables()
    async with serve_rules({}) as s:
        client = await RecordClient.login(s, "A")
        rules = {f"event.publish room/{i}/$id": f"$id === user.id && data.x === {i}" for i in range(200)}
        rules["record.write"] = "data.x === 1 && _(name) !== 1"
        resident_after_warmup = 0
        for turn in range(60):
            s.services.permission.use_config(permissions(rules))
            payload = b'{"x":1}'
            client.wire.send(
                *[encode(Message(E, EMIT, name=f"room/1/A{i}", data=payload)) for i in range(50)],
                encode(Message(REC, RecordAction.CREATEANDUPDATE, name="r", version=-1, data=payload)),
            )
            for i in range(50):
                await expect_refusal(client.wire, E, "denied", EMIT, f"room/1/A{i}")
            await client.read("r")
            if turn == 10:
                resident_after_warmup = resident()
        assert tables() == before + 1
        # One table of these rules is some hundred KiB; fifty of them would be seen.
        assert resident() - resident_after_warmup < 8 * 1024
    assert tables() <= before + 1
