"""A permission plugin in Python: who is refused, how that is told, and that order is kept while it thinks."""

import asyncio
import json
from collections import deque
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import Users, auth_request, serve

from dsfast._core.protocol import (
    AuthAction,
    EventAction,
    Message,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
    encode,
)
from dsfast.plugin import Authentication, AuthResult, Permission

loops = ["uvloop"]

E, REC, R, P = Topic.EVENT, Topic.RECORD, Topic.RPC, Topic.PRESENCE


class Rules(Permission):
    """What a name says is done: refuse, fail, answer something odd, now or later; ``reader`` may do all.

    Words in a name: ``deny``, ``fail``, ``never``, ``cancel``; one of :data:`ODD` stands for that value; with
    ``later`` the answer comes after some turns of the loop, with ``gate`` when :attr:`gate` is set.
    """

    description = "rules in names"
    ODD = {"none": None, "zero": 0, "empty": "", "list": [], "text": "no", "one": 1}

    def init(self):
        self.gate = asyncio.Event()
        self.asked = []
        self.waiting = 0

    def can_perform_action(self, socket, message):
        name = message.name or ""
        if socket.user_id == "reader":
            return True
        self.asked.append(message)
        if "fail" in name and "later" not in name:
            raise RuntimeError("on purpose")
        if any(word in name for word in ("later", "gate", "never", "cancel")):
            return self.decide(name)
        return self.answer(name)

    def answer(self, name):
        if "fail" in name:
            raise RuntimeError("on purpose")
        for word, value in self.ODD.items():
            if word in name:
                return value
        return "deny" not in name

    async def decide(self, name):
        self.waiting += 1
        try:
            if "gate" in name:
                await self.gate.wait()
            if "never" in name:
                await asyncio.Event().wait()
            if "cancel" in name:
                raise asyncio.CancelledError
            for _ in range(len(name) % 4):
                await asyncio.sleep(0)
            return self.answer(name)
        finally:
            self.waiting -= 1


def serve_rules(config=None, **keywords):
    return serve(config, permission=Rules, **keywords)


async def subscribe(client, *names):
    client.message(E, EventAction.SUBSCRIBE, names=list(names), correlation_id="s")
    await client.expect(E, EventAction.SUBSCRIBE, correlation_id="s", is_ack=True)


# --- single messages --------------------------------------------------------------------

ERRORS = {
    E: (EventAction.MESSAGE_DENIED, EventAction.MESSAGE_PERMISSION_ERROR),
    REC: (RecordAction.MESSAGE_DENIED, RecordAction.MESSAGE_PERMISSION_ERROR),
    R: (RpcAction.MESSAGE_DENIED, RpcAction.MESSAGE_PERMISSION_ERROR),
    P: (PresenceAction.MESSAGE_DENIED, PresenceAction.MESSAGE_PERMISSION_ERROR),
}

SINGLE = {
    "emit": (E, EventAction.EMIT, {}),
    "listen": (E, EventAction.LISTEN, {}),
    "read": (REC, RecordAction.READ, {}),
    "head": (REC, RecordAction.HEAD, {}),
    "delete": (REC, RecordAction.DELETE, {}),
    "update": (REC, RecordAction.UPDATE, {"version": 1, "data": b"{}"}),
    "update with acknowledgement": (
        REC,
        RecordAction.UPDATE,
        {"version": 1, "data": b"{}", "is_write_ack": True, "correlation_id": "w"},
    ),
    "patch": (REC, RecordAction.PATCH, {"version": 1, "path": "a", "data": b"1", "correlation_id": "w"}),
    "request": (R, RpcAction.REQUEST, {"correlation_id": "c", "data": b"1"}),
}


@pytest.mark.parametrize(("topic", "action", "fields"), SINGLE.values(), ids=SINGLE)
@pytest.mark.parametrize("later", ["", "later"])
@pytest.mark.parametrize("word", ["deny", "fail", "none", "zero", "empty", "list"])
async def test_a_refusal_tells_what_was_refused(topic, action, fields, later, word):
    async with serve_rules() as s:
        client = await s.login()
        name = word + later
        client.message(topic, action, name=name, **fields)
        expected = {"name": name, "original_action": action, "is_error": True}
        if "correlation_id" in fields:
            expected["correlation_id"] = fields["correlation_id"]
        if fields.get("is_write_ack"):
            expected["is_write_ack"] = True
        await client.expect(topic, ERRORS[topic][word == "fail"], **expected)
        await client.fence()
        if word == "fail":
            assert s.log.find("MESSAGE_PERMISSION_ERROR")


@pytest.mark.parametrize("word", ["text", "one", "ok"])
@pytest.mark.parametrize("later", ["", "later"])
async def test_a_truthy_answer_allows(word, later):
    async with serve_rules() as s:
        client, reader = await s.login("a"), await s.login("b")
        await subscribe(reader, word + later)
        client.message(E, EventAction.EMIT, name=word + later)
        await reader.expect(E, EventAction.EMIT, name=word + later)


async def test_a_refused_event_reaches_nobody():
    async with serve_rules() as s:
        client, reader = await s.login("a"), await s.login("b")
        rules = s.services.permission
        s.registries()["event"].add("deny", s.connection("b"))
        client.message(E, EventAction.EMIT, name="deny", data=b"1")
        await client.expect(
            E, EventAction.MESSAGE_DENIED, name="deny", original_action=EventAction.EMIT, is_error=True
        )
        await reader.fence()
        assert [message.data for message in rules.asked] == [b"1"]


@pytest.mark.parametrize("config", [{}, {"permissionTimeout": 50}])
@pytest.mark.parametrize("word", ["never", "cancel"])
async def test_a_check_without_answer_refuses(config, word):
    async with serve_rules({"permissionTimeout": 50, **config}) as s:
        client = await s.login()
        client.message(E, EventAction.EMIT, name=word)
        await client.expect(
            E,
            EventAction.MESSAGE_PERMISSION_ERROR,
            name=word,
            original_action=EventAction.EMIT,
            is_error=True,
        )
        # The connection goes on.
        await subscribe(client, "ok")
        assert s.services.permission.waiting == 0


async def test_the_time_limit_counts_once_for_all_names_of_a_message():
    """One after the other, hundred names without answer would block the connection for a hundred limits."""
    async with serve_rules({"permissionTimeout": 500}) as s:
        client = await s.login()
        names = [f"never{i}" for i in range(100)]
        client.message(E, EventAction.SUBSCRIBE, names=names, correlation_id="1")
        for name in names:
            message = await client.expect(E, EventAction.MESSAGE_PERMISSION_ERROR)
            assert (message.name, message.correlation_id) == (name, "1")
        await client.fence()


# --- listening --------------------------------------------------------------------------

HIDDEN = ["deny", "later deny", "fail", "later fail", "never", "cancel", "zero", "none"]


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(("topic", "action"), [(E, EventAction), (REC, RecordAction)])
async def test_a_wide_pattern_shows_forbidden_names_only_without_the_check_of_names(check, topic, action):
    async with serve_rules({"permissionTimeout": 50, "listen": {"checkNames": check}}) as s:
        provider, reader = await s.login("provider"), await s.login("reader")
        provider.message(topic, action.LISTEN, name=".", correlation_id="1")
        await provider.expect(topic, action.LISTEN, name=".", correlation_id="1", is_ack=True)
        names = [*HIDDEN, "later ok", "plain"]
        reader.message(topic, action.SUBSCRIBE, names=names, correlation_id="1")
        await reader.expect(topic, action.SUBSCRIBE, correlation_id="1", is_ack=True)
        shown = {"later ok", "plain"} if check else set(names)
        for _ in shown.copy():
            message = await provider.expect(topic, action.SUBSCRIPTION_FOR_PATTERN_FOUND)
            shown.remove(message.subscription)
            provider.message(topic, action.LISTEN_ACCEPT, name=".", subscription=message.subscription)
        asked = {(message.action, message.name) for message in s.services.permission.asked}
        assert not check or asked >= {(action.LISTEN, name) for name in names}
        await s.until(lambda: s.services.permission.waiting == 0)
        await provider.fence()


@pytest.mark.parametrize("end", ["provider", "subscription"])
async def test_a_check_of_a_name_that_is_wanted_no_more_is_given_up(end):
    async with serve_rules({"permissionTimeout": 60_000, "listen": {"checkNames": True}}) as s:
        provider, reader = await s.login("provider"), await s.login("reader")
        provider.message(E, EventAction.LISTEN, name="gate", correlation_id="1")
        s.services.permission.gate.set()  # for the pattern
        await provider.expect(E, EventAction.LISTEN, name="gate", correlation_id="1", is_ack=True)
        s.services.permission.gate.clear()
        await subscribe(reader, "gate")
        await s.until(lambda: s.services.permission.waiting == 1)
        if end == "provider":
            await provider.close()
        else:
            reader.message(E, EventAction.UNSUBSCRIBE, names=["gate"], correlation_id="2")
        await s.until(lambda: s.services.permission.waiting == 0)
        if end == "subscription":
            await provider.fence()
        assert s.services.logger.errors() == []


# --- bulk requests ----------------------------------------------------------------------

BULK = {
    "events": (E, EventAction.SUBSCRIBE, "event"),
    "records": (REC, RecordAction.SUBSCRIBE, "record"),
    "providers": (R, RpcAction.PROVIDE, "rpc"),
    "presence": (P, PresenceAction.SUBSCRIBE, "presence"),
}


@pytest.mark.parametrize(("topic", "action", "registry"), BULK.values(), ids=BULK)
@pytest.mark.parametrize("later", ["", "later"])
async def test_exactly_the_refused_names_of_a_bulk_request_are_left_out(topic, action, registry, later):
    """Upstream removes the last name instead: the client gets the forbidden one and not the allowed one."""
    async with serve_rules() as s:
        client = await s.login()
        names = ["a", "deny1" + later, "b", "fail" + later, "deny2", "c" + later]
        client.message(topic, action, names=names, correlation_id="7")
        for name in names:
            if "deny" in name or "fail" in name:
                await client.expect(
                    topic,
                    ERRORS[topic]["fail" in name],
                    name=name,
                    original_action=action,
                    correlation_id="7",
                    is_error=True,
                )
        await client.expect(topic, action, correlation_id="7", is_ack=True)
        await client.fence()
        assert sorted(s.registries()[registry].names()) == ["a", "b", "c" + later]
        assert [message.name for message in s.services.permission.asked] == names


@pytest.mark.parametrize(("topic", "action", "registry"), BULK.values(), ids=BULK)
@pytest.mark.parametrize("later", ["", "later"])
async def test_a_bulk_request_without_an_allowed_name_gets_no_ack(topic, action, registry, later):
    async with serve_rules() as s:
        client = await s.login()
        client.message(topic, action, names=["deny1", "deny2" + later], correlation_id="7")
        for name in ("deny1", "deny2" + later):
            message = await client.expect(topic, ERRORS[topic][0])
            assert message.name == name
        await client.fence()
        assert s.registries()[registry].names() == []


async def test_a_repeated_name_is_asked_once_and_stays_repeated():
    async with serve_rules() as s:
        client = await s.login()
        client.message(E, EventAction.SUBSCRIBE, names=["a", "deny", "a", "deny"], correlation_id="7")
        message = await client.expect(E, EventAction.MESSAGE_DENIED)
        assert message.name == "deny"
        await client.expect(
            E, EventAction.MULTIPLE_SUBSCRIPTIONS, name="a", original_action=EventAction.SUBSCRIBE
        )
        await client.expect(E, EventAction.SUBSCRIBE, correlation_id="7", is_ack=True)


async def test_a_query_leaves_out_the_refused_names():
    async with serve_rules() as s:
        client = await s.login("ok")
        client.message(P, PresenceAction.QUERY, names=["deny", "ok", "fail", "x"], correlation_id="7")
        assert (await client.receive()).name == "deny"
        assert (await client.receive()).name == "fail"
        message = await client.expect(P, PresenceAction.QUERY_RESPONSE)
        assert json.loads(message.data) == {"ok": True, "x": False}


async def test_a_bulk_read_answers_the_allowed_names_in_their_order():
    async with serve_rules() as s:
        client = await s.login()
        client.message(
            REC, RecordAction.SUBSCRIBEANDREAD, names=["b", "deny", "later-a", "c"], correlation_id="7"
        )
        assert (await client.expect(REC, RecordAction.MESSAGE_DENIED)).name == "deny"
        ack = await client.expect(REC, RecordAction.SUBSCRIBEANDREAD)
        assert (ack.is_ack, ack.correlation_id) == (True, "7")
        read = {(await client.expect(REC, RecordAction.READ_RESPONSE)).name for _ in range(3)}
        assert read == {"b", "later-a", "c"}
        await client.fence()


# --- decoys -----------------------------------------------------------------------------


@pytest.mark.parametrize(("topic", "action", "fields"), SINGLE.values(), ids=SINGLE)
async def test_a_list_of_allowed_names_does_not_cover_a_forbidden_one(topic, action, fields):
    """Upstream checks the list and acts on the name."""
    async with serve_rules() as s:
        client = await s.login()
        client.message(topic, action, name="deny", names=["ok"], **fields)
        message = await client.expect(topic, ERRORS[topic][0])
        assert (message.name, message.original_action) == ("deny", action)
        await client.fence()
        assert [(message.name, message.names) for message in s.services.permission.asked] == [("deny", None)]


@pytest.mark.parametrize(("topic", "action", "registry"), BULK.values(), ids=BULK)
async def test_an_allowed_name_does_not_cover_a_list_of_forbidden_ones(topic, action, registry):
    async with serve_rules() as s:
        client = await s.login()
        client.message(topic, action, name="ok", names=["deny"], correlation_id="7")
        message = await client.expect(topic, ERRORS[topic][0])
        assert message.name == "deny"
        await client.fence()
        assert s.registries()[registry].names() == []


async def test_the_last_of_two_names_counts_for_check_and_action():
    async with serve_rules() as s:
        client, reader = await s.login("a"), await s.login("b")
        await subscribe(reader, "ok")
        one = encode(Message(E, EventAction.EMIT, name="ok"))
        # A second name field behind the first: 32 04 "deny".
        inner = one[5:] + b"\x32\x04deny"
        forged = bytes([4 + len(inner)]) + one[1:4] + bytes([len(inner)]) + inner
        client.send(forged)
        assert (await client.expect(E, EventAction.MESSAGE_DENIED)).name == "deny"
        await reader.fence()


# --- order ------------------------------------------------------------------------------


async def test_a_slow_check_delays_the_later_messages_of_its_connection_only():
    async with serve_rules() as s:
        slow, other, reader = await s.login("slow"), await s.login("other"), await s.login("reader")
        await subscribe(reader, "gate", "x", "y")
        slow.message(E, EventAction.EMIT, name="gate", data=b"1")
        slow.message(E, EventAction.EMIT, name="x", data=b"2")
        await s.until(lambda: s.services.permission.waiting == 1)
        other.message(E, EventAction.EMIT, name="y", data=b"3")
        await reader.expect(E, EventAction.EMIT, name="y", data=b"3")
        # A PING is answered meanwhile: the connection is alive.
        await slow.fence()
        await reader.fence()
        s.services.permission.gate.set()
        await reader.expect(E, EventAction.EMIT, name="gate", data=b"1")
        await reader.expect(E, EventAction.EMIT, name="x", data=b"2")


async def test_messages_are_checked_at_the_same_time_but_take_effect_in_order():
    async with serve_rules() as s:
        client, reader = await s.login("client"), await s.login("reader")
        await subscribe(reader, "gate", "next")
        client.message(E, EventAction.EMIT, name="gate")
        client.message(E, EventAction.EMIT, name="next")
        rules = s.services.permission
        await s.until(lambda: [message.name for message in rules.asked] == ["gate", "next"])
        await client.fence()
        assert rules.waiting == 1
        rules.gate.set()
        assert [(await reader.receive()).name for _ in range(2)] == ["gate", "next"]


async def test_what_follows_a_change_of_records_is_checked_after_it():
    async with serve_rules() as s:
        client = await s.login("client")
        rules = s.services.permission
        client.message(E, EventAction.EMIT, name="gate")
        client.message(REC, RecordAction.SUBSCRIBECREATEANDREAD, names=["r"], correlation_id="1")
        client.message(REC, RecordAction.READ, name="r")
        await s.until(lambda: [message.name for message in rules.asked] == ["gate", "r"])
        await client.fence()
        assert len(rules.asked) == 2
        rules.gate.set()
        await client.expect(REC, RecordAction.SUBSCRIBECREATEANDREAD)
        for _ in range(2):
            await client.expect(REC, RecordAction.READ_RESPONSE, name="r", version=0, data=b"{}")
        assert [message.action for message in rules.asked[1:]] == [
            RecordAction.SUBSCRIBECREATEANDREAD,
            RecordAction.CREATE,
            RecordAction.READ,
            RecordAction.READ,
        ]


async def test_reading_pauses_while_too_much_waits_and_goes_on_afterwards():
    async with serve_rules() as s:
        client, reader = await s.login("client"), await s.login("reader")
        await subscribe(reader, "e")
        client.message(E, EventAction.EMIT, name="gate")
        await s.until(lambda: s.services.permission.waiting == 1)
        count = 40_000
        payload = b'"' + b"x" * 1000 + b'"'
        for n in range(count // 100):
            client.send(
                *[
                    encode(Message(E, EventAction.EMIT, name="e", data=b"[%d,%b]" % (n * 100 + i, payload)))
                    for i in range(100)
                ]
            )
        # 40 MB do not fit into the buffers between the two: the server has stopped reading.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.writer.drain()
        s.services.permission.gate.set()
        for n in range(count):
            message = await reader.expect(E, EventAction.EMIT)
            assert json.loads(message.data)[0] == n
        await client.drain()
        await client.fence()
        assert s.log.errors() == []


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_while_a_check_waits(how):
    async with serve_rules() as s:
        client, reader = await s.login("A"), await s.login("reader")
        await subscribe(reader, "gate")
        client.message(E, EventAction.SUBSCRIBE, names=["gate", "x"], correlation_id="1")
        client.message(E, EventAction.SUBSCRIBE, names=["y"], correlation_id="1")
        client.message(R, RpcAction.PROVIDE, names=["p"], correlation_id="1")
        await s.until(lambda: s.services.permission.waiting == 1)
        client.reset() if how == "reset" else await client.close()
        await s.until(lambda: len(s.endpoint.core.connections) == 1)
        s.services.permission.gate.set()
        await s.until(lambda: s.services.permission.waiting == 0)
        await reader.fence()
        # It is nobody's subscriber any more.
        assert s.registries()["event"].names() == ["gate"]
        assert s.registries()["rpc"].names() == []
        await reader.close()
        await s.gone()
        s.assert_empty()
        assert s.log.errors() == []


async def test_stopping_the_server_while_checks_wait():
    async with serve_rules() as s:
        clients = [await s.login(f"u{i}") for i in range(5)]
        for client in clients:
            client.message(E, EventAction.EMIT, name="never")
        await s.until(lambda: s.services.permission.waiting == 5)
        await asyncio.gather(s.server.stop(), *[client.closed() for client in clients])
        assert s.log.errors() == []


class Shuffled(Permission):
    """Answers at once or later; what is later is decided in an order of its own."""

    description = "shuffled"

    def init(self):
        self.plan = deque()
        self.open = []

    def can_perform_action(self, socket, message):
        if not (message.name or "").startswith("n") or not self.plan.popleft():
            return True
        future = asyncio.get_running_loop().create_future()
        self.open.append(future)
        return future

    async def decide(self, random):
        """Answer what is waiting, in random order, until there is nothing more to come."""
        while self.plan or self.open:
            if self.open:
                self.open.pop(random.randrange(len(self.open))).set_result(True)
            await asyncio.sleep(0)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    plan=st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=30),
    seed=st.integers(0, 2**32),
)
def test_decisions_in_any_order_never_reorder_effects(plan, seed):
    """Each message subscribes to or emits numbers; a reader has to see them in the order they were sent."""

    async def run():
        async with serve(permission=Shuffled) as s:
            client, reader = await s.login("client"), await s.login("reader")
            permission = s.services.permission
            await subscribe(reader, "e")
            permission.plan.extend(later for message in plan for later in message)
            number = 0
            for message in plan:
                if len(message) == 1:
                    client.message(E, EventAction.EMIT, name=f"n{number}", data=b"%d" % number)
                else:
                    names = [f"n{number + i}" for i in range(len(message))]
                    client.message(E, EventAction.SUBSCRIBE, names=names, correlation_id=str(number))
                # What was sent before has its effect before this does.
                client.message(E, EventAction.EMIT, name="e", data=b"%d" % number)
                number += len(message)
            deciding = asyncio.ensure_future(permission.decide(Random(seed)))
            number = 0
            for message in plan:
                await reader.expect(E, EventAction.EMIT, name="e", data=b"%d" % number)
                if len(message) > 1:
                    await client.expect(E, EventAction.SUBSCRIBE, correlation_id=str(number), is_ack=True)
                number += len(message)
            await deciding
            await client.fence()

    asyncio.run(run())


# --- the plugins themselves -------------------------------------------------------------


class Told(Permission):
    """Remembers who asked."""

    description = "told"

    def init(self):
        self.sockets = []

    def can_perform_action(self, socket, message):
        self.sockets.append((socket.user_id, socket.server_data, message.topic, message.action, message.name))
        return socket.server_data != "reader" or message.action != EventAction.EMIT


async def test_a_permission_sees_who_asks():
    async with serve(permission=Told, authentication=Users) as s:
        for user, role in (("A", "writer"), ("B", "reader")):
            client = await s.challenged()
            client.send(auth_request(json.dumps({"username": user, "serverData": role}).encode()))
            await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
            client.message(E, EventAction.EMIT, name="e")
            if role == "reader":
                await client.expect(E, EventAction.MESSAGE_DENIED)
            await client.fence()
        assert s.services.permission.sockets == [
            ("A", "writer", E, EventAction.EMIT, "e"),
            ("B", "reader", E, EventAction.EMIT, "e"),
        ]


class Only(Authentication):
    """Knows one user."""

    description = "only"
    user = ""

    async def is_valid_user(self, connection_data, auth_data):
        if auth_data.get("username") != self.user:
            return None
        return AuthResult(auth_data.get("password") == "right", id=self.user, client_data={"by": self.user})


class OnlyA(Only):
    """Knows A."""

    user = "A"


class OnlyB(Only):
    """Knows B."""

    user = "B"


async def test_a_list_of_authentications_is_asked_in_order():
    async with serve(authentication=[OnlyA, OnlyB]) as s:
        client = await s.challenged()
        for data in (b'{"username":"C"}', b'{"username":"B"}'):
            client.send(auth_request(data))
            message = await client.expect(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL)
        assert json.loads(message.data) == {"by": "B"}
        client.send(auth_request(b'{"username":"B","password":"right"}'))
        message = await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
        assert json.loads(message.data) == {"by": "B"}
