"""From the first byte to the login, and what ends a connection (spec/protocol-binary.md sections 8 to 10)."""

import asyncio

import pytest
from wire import (
    ACCEPT,
    AUTH_INVALID_MESSAGE,
    AUTH_INVALID_MESSAGE_DATA,
    AUTH_SUCCESSFUL,
    AUTH_UNSUCCESSFUL,
    AUTHENTICATION_TIMEOUT,
    BINARY,
    CHALLENGE,
    CONNECTION_INVALID_MESSAGE,
    PING_MESSAGE,
    PONG_MESSAGE,
    TIMEOUT,
    TOO_MANY_AUTH_ATTEMPTS,
    UNKNOWN_TOPIC,
    Users,
    auth_request,
    frame,
    serve,
)

from dsfast._core.protocol import (
    AuthAction,
    ConnectionAction,
    EventAction,
    Message,
    ParserAction,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
    encode,
)
from dsfast.plugin import Authentication, AuthResult, LogLevel, Monitoring

loops = ["uvloop", "asyncio"]

EMIT = encode(Message(Topic.EVENT, EventAction.EMIT, name="e"))
SUBSCRIBE_ALL = encode(Message(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL))


def connection_message(action):
    return encode(Message(Topic.CONNECTION, action))


MALFORMED = {
    "empty frame": b"",
    "length only": b"\x06",
    "length without an end": b"\xff" * 11,
    "truncated message": CHALLENGE[:-1],
    "topic 0": bytes.fromhex("061000") + bytes.fromhex("1a020802"),
    "topic 12": bytes.fromhex("06100c1a020802"),
    "topic 100": bytes.fromhex("0610641a020802"),
    "no topic": bytes.fromhex("041a020802"),
    "topic of the wrong type": bytes.fromhex("0612001a020802"),
    "a bad field": bytes.fromhex("0610021a020a7f"),
    "a name that is not UTF-8": bytes.fromhex("0910041a0508023201ff"),
}

OTHER_TOPICS = {
    "EVENT": EMIT,
    "RECORD": encode(Message(Topic.RECORD, RecordAction.READ, name="r")),
    "RPC": encode(Message(Topic.RPC, RpcAction.PROVIDE, names=["p"], correlation_id="1")),
    "PRESENCE": SUBSCRIBE_ALL,
    "PARSER": encode(Message(Topic.PARSER, ParserAction.UNKNOWN_TOPIC)),
    "MONITORING": bytes.fromhex("0610081a020800"),
    "CLUSTER": bytes.fromhex("0610091a020801"),
    "LOCK": bytes.fromhex("06100a1a020802"),
    "STATE_REGISTRY": bytes.fromhex("06100b1a020802"),
}


# --- the answers, byte for byte ---------------------------------------------------------


async def test_the_login_of_a_client():
    async with serve() as s:
        client = await s.websocket()
        client.send(CHALLENGE)
        assert await client.payload() == ACCEPT
        client.send(auth_request())
        assert await client.payload() == AUTH_SUCCESSFUL
        client.send(PING_MESSAGE)
        assert await client.payload() == PONG_MESSAGE
        assert s.connection("open").sdk_type == "javascript"
        assert s.connection("open").sdk_version == "7.0.5"


async def test_every_field_of_the_challenge_is_optional():
    async with serve() as s:
        client = await s.websocket()
        client.send(connection_message(ConnectionAction.CHALLENGE))
        assert await client.payload() == ACCEPT


@pytest.mark.parametrize("version", ["", "7", "7.x", "7.1.0-rc.1", "-", ".", "99999999999999999999.1", "७.१"])
async def test_any_sdk_version_is_accepted(version):
    async with serve() as s:
        client = await s.websocket()
        client.message(Topic.CONNECTION, ConnectionAction.CHALLENGE, sdk_version=version)
        assert await client.payload() == ACCEPT


async def test_malformed_messages_before_the_challenge():
    async with serve(options={"maxBadMessages": 1000}) as s:
        client = await s.websocket()
        for payload in (MALFORMED | OTHER_TOPICS).values():
            client.send(payload)
            assert await client.payload() == CONNECTION_INVALID_MESSAGE
        client.send(auth_request())
        assert await client.payload() == CONNECTION_INVALID_MESSAGE
        # The connection is still good.
        client.send(CHALLENGE)
        assert await client.payload() == ACCEPT


async def test_malformed_messages_before_the_login():
    async with serve(options={"maxBadMessages": 1000}) as s:
        client = await s.challenged()
        for payload in (MALFORMED | OTHER_TOPICS).values():
            client.send(payload)
            assert await client.payload() == AUTH_INVALID_MESSAGE
        client.send(CHALLENGE)
        assert await client.payload() == AUTH_INVALID_MESSAGE
        client.send(connection_message(ConnectionAction.ACCEPT))
        assert await client.payload() == AUTH_INVALID_MESSAGE
        client.send(auth_request())
        assert await client.payload() == AUTH_SUCCESSFUL


async def test_malformed_messages_after_the_login():
    async with serve(options={"maxBadMessages": 1000}) as s:
        client = await s.login()
        without_handler = ("PARSER", "MONITORING", "CLUSTER", "LOCK", "STATE_REGISTRY")
        for payload in [*MALFORMED.values(), *(OTHER_TOPICS[topic] for topic in without_handler)]:
            client.send(payload)
            assert await client.payload() == UNKNOWN_TOPIC
        for payload in (CHALLENGE, connection_message(ConnectionAction.ACCEPT), auth_request()):
            client.send(payload)
            assert await client.payload() == UNKNOWN_TOPIC
        await client.fence()


@pytest.mark.parametrize("topic", ["event", "record", "rpc", "presence"])
async def test_a_feature_that_is_off_is_an_unknown_topic(topic):
    async with serve({"enabledFeatures": {topic: False}}) as s:
        client = await s.login()
        client.send(OTHER_TOPICS[topic.upper()])
        assert await client.payload() == UNKNOWN_TOPIC


async def test_ping_is_silent_until_the_login():
    """An early PONG would keep a client waiting that had better connect again (section 10)."""
    async with serve() as s:
        client = await s.websocket()
        client.send(PING_MESSAGE, CHALLENGE)
        assert await client.payload() == ACCEPT
        client.send(PING_MESSAGE, auth_request())
        assert await client.payload() == AUTH_SUCCESSFUL


async def test_pings_during_a_login_are_silent_and_no_fault():
    async with serve(authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"gate":1,"username":"A"}'), *[PING_MESSAGE] * 50)
        users = s.services.authentication.entries[0]
        await users.wait_for(1)
        users.gate.set()
        assert await client.payload() == AUTH_SUCCESSFUL


@pytest.mark.parametrize("action", [0, 1, 3, 4, 6, 7, 8, 9, 100, 101, 55])
async def test_other_connection_actions_before_the_challenge_are_silent(action):
    async with serve() as s:
        client = await s.websocket()
        client.send(connection_message(action), CHALLENGE)
        assert await client.payload() == ACCEPT


async def test_closing_and_pong_are_accepted_silently():
    """The client library sends CLOSING when it leaves; it is no unknown topic."""
    async with serve(options={"maxBadMessages": 1}) as s:
        client = await s.login()
        client.send(
            *[connection_message(ConnectionAction.CLOSING)] * 10,
            *[connection_message(ConnectionAction.PONG)] * 10,
        )
        await client.fence()
        assert s.log.find("UNKNOWN_TOPIC") == []


@pytest.mark.parametrize(
    ("topic", "actions"),
    [
        (Topic.EVENT, [0, 1, 9, 10, 11, 12, 13, 99, 100, 103, 104, 106, 255, -1, 2**31 - 1]),
        (Topic.RECORD, [0, 1, 4, 6, 8, 10, 13, 14, 15, 31, 36, 102, 117, -(2**31)]),
        (Topic.RPC, [0, 1, 3, 10, 100, 102, 110]),
        (Topic.PRESENCE, [0, 1, 3, 5, 6, 14, 104]),
    ],
)
async def test_an_unknown_action_is_told_with_topic_and_action(topic, actions):
    async with serve(options={"maxBadMessages": 1000}) as s:
        client = await s.login()
        for action in actions:
            client.message(topic, action, correlation_id="1")
            await client.expect(
                Topic.PARSER, ParserAction.UNKNOWN_ACTION, original_topic=topic, original_action=action
            )
        await client.fence()


async def test_a_message_without_action_is_an_unknown_action():
    async with serve() as s:
        client = await s.login()
        client.send(bytes.fromhex("0410041a00"))
        await client.expect(
            Topic.PARSER, ParserAction.UNKNOWN_ACTION, original_topic=Topic.EVENT, original_action=0
        )


# --- several messages in one frame, and frames in a row ---------------------------------


async def test_several_messages_in_one_frame_are_taken_in_order():
    async with serve() as s:
        client = await s.websocket()
        client.send(CHALLENGE + auth_request() + PING_MESSAGE + EMIT + PING_MESSAGE)
        for payload in (ACCEPT, AUTH_SUCCESSFUL, PONG_MESSAGE, PONG_MESSAGE):
            assert await client.payload() == payload


async def test_what_is_before_a_malformed_message_in_a_frame_counts():
    async with serve() as s:
        client = await s.login()
        client.send(PING_MESSAGE + PING_MESSAGE + b"\x06\x10")
        for payload in (PONG_MESSAGE, PONG_MESSAGE, UNKNOWN_TOPIC):
            assert await client.payload() == payload
        await client.fence()


async def test_nothing_after_a_fatal_message_counts():
    async with serve() as s:
        watcher = await s.login("watcher")
        watcher.send(SUBSCRIBE_ALL)
        await watcher.expect(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL, is_ack=True)
        client = await s.challenged()
        client.write(frame(auth_request(b"null") + auth_request()) + frame(auth_request()))
        assert await client.payload() == AUTH_INVALID_MESSAGE_DATA
        assert await client.closed() is None
        await watcher.fence()


# --- bad login data ---------------------------------------------------------------------

BAD_DATA = {
    "missing": None,
    "null": b"null",
    "number": b"1",
    "string": b'"user"',
    "boolean": b"true",
    "empty": b"",
    "open object": b"{",
    "trailing comma": b'{"a":1,}',
    "two values": b"{}{}",
    "text behind": b"{} x",
    "not UTF-8": b'{"a":"\xff"}',
    "single quotes": b"{'a':1}",
    "control character": b'{"a":"\x00"}',
    "NaN": b'{"a":NaN}',
    "bad escape": b'{"a":"\\x"}',
    "too deep": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("data", BAD_DATA.values(), ids=BAD_DATA)
@pytest.mark.parametrize("authentication", [None, Users], ids=["open", "plugin"])
async def test_login_data_that_is_no_object_ends_the_connection(data, authentication):
    """Invalid JSON here ends the upstream process."""
    services = {} if authentication is None else {"authentication": authentication}
    async with serve(**services) as s:
        client = await s.challenged()
        client.send(auth_request(data))
        assert await client.payload() == AUTH_INVALID_MESSAGE_DATA
        assert await client.closed() is None
        assert s.log.find("INVALID_MESSAGE_DATA") == [""]
        assert s.log.errors() == []
        assert s.router.presence.online == []


@pytest.mark.parametrize("action", [0, 1, 3, 4, 100, 101, 102, 77])
async def test_an_auth_action_other_than_request_ends_the_connection(action):
    async with serve() as s:
        client = await s.challenged()
        client.message(Topic.AUTH, action, data=b"{}")
        assert await client.payload() == AUTH_INVALID_MESSAGE_DATA
        assert await client.closed() is None


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"[1]",
        b" {} ",
        b'{"username":{"toString":1}}',
        b'{"username":"__proto__"}',
        b'{"username":"constructor"}',
        b'{"username":null}',
        b'{"username":1e999}',
        b'{"username":123456789012345678901234567890}',
        b'{"username":"\\ud800"}',
        b'{"username":""}',
        b'{"username":[1,{"a":2}]}',
        b'{"username":true}',
        b'{"a":1,"a":2}',
    ],
)
@pytest.mark.parametrize("authentication", [None, Users], ids=["open", "plugin"])
async def test_odd_login_data_is_answered(data, authentication):
    """``{"username":{"toString":1}}`` ends the upstream process."""
    services = {} if authentication is None else {"authentication": authentication}
    async with serve(**services) as s:
        client = await s.challenged()
        client.send(auth_request(data))
        message = await client.receive()
        assert message.topic == Topic.AUTH
        assert s.log.errors() == []
        other = await s.login("other") if authentication else await s.login()
        await other.fence()


# --- what the login answers -------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b'{"username":"A"}', Message(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)),
        (b'{"clientData":null}', Message(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data=b"null")),
        (
            b'{"clientData":{"fav":"red"}}',
            Message(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data=b'{"fav":"red"}'),
        ),
        (b'{"clientData":0}', Message(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data=b"0")),
        (
            '{"clientData":"é"}'.encode(),
            Message(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data='"é"'.encode()),
        ),
        (b'{"refuse":1}', Message(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL)),
        (b'{"refuse":1,"clientData":null}', Message(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL, data=b"null")),
        (
            b'{"refuse":1,"clientData":{"error":"x"}}',
            Message(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL, data=b'{"error":"x"}'),
        ),
        (b'{"unknown":1}', Message(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL)),
        (b'{"crash":1}', Message(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL)),
    ],
)
async def test_client_data_null_is_not_client_data_absent(data, answer):
    async with serve(authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(data))
        assert await client.payload() == encode(answer)


async def test_what_a_login_sets():
    async with serve(authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"username":"A","serverData":{"role":"x"},"clientData":1}'))
        await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data=b"1")
        connection = s.connection("A")
        assert connection.server_data == {"role": "x"}
        assert connection.client_data == 1
        assert connection.socket_type == "wsBinary"
        assert not connection.is_remote
        assert not connection.is_closed


async def test_a_login_without_id_is_called_OPEN_and_is_no_user():
    async with serve(authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(b"{}"))
        assert await client.payload() == AUTH_SUCCESSFUL
        assert s.connection("OPEN")
        assert s.router.presence.online == []
        client.writer.close()
        await s.gone()
        assert s.services.authentication.entries[0].gone == ["OPEN"]


async def test_the_plugin_is_told_about_the_handshake():
    async with serve(authentication=Users) as s:
        client = await s.websocket(Cookie="a=1", Referer="http://x/", X_Forwarded_For="6.6.6.6")
        client.send(CHALLENGE, auth_request(b'{"username":"A","b":[1]}'))
        assert await client.payload() == ACCEPT
        assert await client.payload() == AUTH_SUCCESSFUL
        ((connection_data, auth_data),) = s.services.authentication.entries[0].seen
        assert auth_data == {"username": "A", "b": [1]}
        assert connection_data["headers"]["cookie"] == "a=1"
        assert connection_data["referer"] == "http://x/"
        # The header is the client's own word: nobody was configured to be trusted about it.
        assert connection_data["remoteAddress"] == "127.0.0.1"


class Broken(Authentication):
    """Answers what no plugin should."""

    description = "broken"
    answer = None

    async def is_valid_user(self, connection_data, auth_data):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("on purpose"),
        TimeoutError(),
        True,
        {"isValid": True},
        AuthResult(True, id=5),
        AuthResult(True, id="A", client_data=object()),
        AuthResult(True, id="A", client_data={1: {2}}),
        AuthResult(False, client_data=object()),
        AuthResult(True, id="\ud800"),
        asyncio.CancelledError(),
    ],
    ids=[
        "exception",
        "timeout",
        "bool",
        "dict",
        "number as id",
        "object as client data",
        "set in client data",
        "object as reason",
        "half a character as id",
        "cancelled",
    ],
)
async def test_whatever_a_plugin_answers_the_client_is_told(answer, monkeypatch):
    monkeypatch.setattr(Broken, "answer", answer)
    async with serve(authentication=Broken) as s:
        client = await s.challenged()
        client.send(auth_request())
        assert await client.payload() == AUTH_UNSUCCESSFUL
        assert s.router.presence.online == []
        assert s.log.find("AUTH_ERROR")
        # It may try again.
        monkeypatch.setattr(Broken, "answer", AuthResult(True, id="A"))
        client.send(auth_request())
        assert await client.payload() == AUTH_SUCCESSFUL


class BrokenMonitoring(Monitoring):
    """Fails at every login."""

    description = "broken"

    def on_login(self, allowed, endpoint_type):
        raise RuntimeError("on purpose")


async def test_a_failing_monitoring_does_not_stop_logins():
    async with serve(authentication=Users, monitoring=BrokenMonitoring) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"refuse":1}'))
        assert await client.payload() == AUTH_UNSUCCESSFUL
        client.send(auth_request(b'{"username":"A"}'))
        assert await client.payload() == AUTH_SUCCESSFUL
        await client.fence()
        assert s.log.find("PLUGIN_ERROR")


# --- attempts and time limits -----------------------------------------------------------


async def test_too_many_attempts():
    async with serve(authentication=Users) as s:
        client = await s.challenged()
        for _ in range(3):
            client.send(auth_request(b'{"refuse":1}'))
            assert await client.payload() == AUTH_UNSUCCESSFUL
        assert await client.payload() == TOO_MANY_AUTH_ATTEMPTS
        assert await client.closed() is None
        assert s.log.find("TOO_MANY_AUTH_ATTEMPTS") == ["too many authentication attempts"]
        assert len(s.log.find("AUTH_UNSUCCESSFUL")) == 3


async def test_the_number_of_attempts_is_an_option():
    async with serve(options={"maxAuthAttempts": 1}, authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"refuse":1}'))
        assert await client.payload() == AUTH_UNSUCCESSFUL
        assert await client.payload() == TOO_MANY_AUTH_ATTEMPTS
        assert await client.closed() is None


async def test_passwords_are_not_logged():
    async with serve(authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"refuse":1,"password":"hush"}'))
        assert await client.payload() == AUTH_UNSUCCESSFUL
        client.send(auth_request(b'{"password":"hush"'))
        assert await client.payload() == AUTH_INVALID_MESSAGE_DATA
        assert "hush" not in repr(s.log.lines)


@pytest.mark.parametrize("stage", ["nothing", "challenge", "failed login", "pending login"])
async def test_the_login_time_limit(stage):
    """Upstream ends the limit at the first refused login, so that one wrong password keeps a socket open."""
    async with serve(options={"unauthenticatedClientTimeout": 300}, authentication=Users) as s:
        client = await s.websocket()
        if stage != "nothing":
            client.send(CHALLENGE)
            assert await client.payload() == ACCEPT
        if stage == "failed login":
            client.send(auth_request(b'{"refuse":1}'))
            assert await client.payload() == AUTH_UNSUCCESSFUL
        if stage == "pending login":
            client.send(auth_request(b'{"gate":1,"username":"A"}'))
        assert await client.payload() == AUTHENTICATION_TIMEOUT
        assert await client.closed() is None
        assert len(s.log.find("AUTHENTICATION_TIMEOUT")) == 1
        await s.gone()
        s.assert_empty()


async def test_the_login_ends_the_time_limit():
    async with serve(options={"unauthenticatedClientTimeout": 150}) as s:
        client = await s.login()
        late = await s.websocket()
        # That one's limit ends after this one's would have.
        assert await late.payload() == AUTHENTICATION_TIMEOUT
        await client.fence()


async def test_without_a_login_time_limit():
    options = {"unauthenticatedClientTimeout": False, "heartbeatInterval": 100}
    async with serve(options=options) as s:
        client = await s.websocket()
        # Only the heartbeat watchdog ends it.
        assert await client.closed() is None
        assert s.log.find("AUTHENTICATION_TIMEOUT") == []


# --- logins that overlap ----------------------------------------------------------------


async def test_a_second_login_while_one_is_pending_is_refused():
    """Upstream registers such a client twice, and its ghost stays in presence."""
    async with serve(authentication=Users) as s:
        watcher = await s.login("watcher")
        watcher.send(SUBSCRIBE_ALL)
        await watcher.expect(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL, is_ack=True)
        client = await s.challenged()
        client.send(auth_request(b'{"gate":1,"username":"A"}'), auth_request(b'{"gate":1,"username":"A"}'))
        assert await client.payload() == AUTH_INVALID_MESSAGE
        users = s.services.authentication.entries[0]
        users.gate.set()
        assert await client.payload() == AUTH_SUCCESSFUL
        await client.fence()
        assert users.asked == 1
        await watcher.expect(Topic.PRESENCE, PresenceAction.PRESENCE_JOIN_ALL, name="A")
        await client.close()
        await watcher.expect(Topic.PRESENCE, PresenceAction.PRESENCE_LEAVE_ALL, name="A")
        assert s.router.presence.online == ["watcher"]


@pytest.mark.parametrize("how", ["close frame", "end of stream", "reset"])
async def test_a_client_that_leaves_during_its_login_is_no_ghost(how):
    async with serve(authentication=Users) as s:
        users = s.services.authentication.entries[0]
        watcher = await s.login("watcher")
        watcher.send(SUBSCRIBE_ALL)
        await watcher.expect(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL, is_ack=True)
        client = await s.challenged()
        client.send(auth_request(b'{"gate":1,"username":"A"}'))
        await users.wait_for(1)
        if how == "close frame":
            await client.close()
        elif how == "end of stream":
            client.writer.close()
        else:
            client.reset()
        await s.until(lambda: len(s.endpoint.core.connections) == 1)
        users.gate.set()
        # A later login shows that the earlier one has been decided.
        await s.login("B")
        await watcher.expect(Topic.PRESENCE, PresenceAction.PRESENCE_JOIN_ALL, name="B")
        await watcher.fence()
        assert s.router.presence.online == ["watcher", "B"]
        assert users.gone == []


async def test_the_versions_of_client_libraries_are_known_within_bounds():
    async with serve() as s:
        assert s.endpoint.get_client_versions() == {}
        for kind, version in [
            ("javascript", "7.0.5"),
            ("javascript", "7.1.0"),
            ("java", "3"),
            ("x" * 999, "y" * 999),
        ]:
            client = await s.websocket()
            client.message(Topic.CONNECTION, ConnectionAction.CHALLENGE, sdk_type=kind, sdk_version=version)
            assert await client.payload() == ACCEPT
            client.send(auth_request())
            assert await client.payload() == AUTH_SUCCESSFUL
        known = {"javascript": {"7.0.5", "7.1.0"}, "java": {"3"}, "x" * 64: {"y" * 64}}
        assert s.endpoint.get_client_versions() == known
        for number in range(1000):
            s.endpoint._note_version(f"kind{number}", "1")
            s.endpoint._note_version("java", str(number))
        assert len(s.endpoint.get_client_versions()) == 100
        assert len(s.endpoint.get_client_versions()["java"]) == 100


async def test_messages_sent_behind_the_login_do_not_pass_it():
    async with serve(authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"username":"A"}'), EMIT)
        assert await client.payload() == AUTH_INVALID_MESSAGE
        assert await client.payload() == AUTH_SUCCESSFUL


async def test_stopping_the_server_during_a_login():
    async with serve(authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request(b'{"gate":1,"username":"A"}'))
        await s.services.authentication.entries[0].wait_for(1)
        await asyncio.gather(s.server.stop(), client.closed())
        assert s.log.errors() == []


# --- bad messages are counted -----------------------------------------------------------


@pytest.mark.parametrize("stage", ["websocket", "challenged", "login"])
async def test_too_many_bad_messages_close_with_1002(stage):
    answer = {
        "websocket": CONNECTION_INVALID_MESSAGE,
        "challenged": AUTH_INVALID_MESSAGE,
        "login": UNKNOWN_TOPIC,
    }
    async with serve() as s:
        client = await getattr(s, stage)()
        client.send(*[b"\x00"] * 25)
        for _ in range(21):
            assert await client.payload() == answer[stage]
        assert await client.closed() == 1002


async def test_unknown_actions_count_as_bad():
    async with serve(options={"maxBadMessages": 3}) as s:
        client = await s.login()
        for _ in range(4):
            client.message(Topic.RPC, 3)
            await client.expect(Topic.PARSER, ParserAction.UNKNOWN_ACTION)
        assert await client.closed() == 1002


async def test_a_flood_of_bad_messages_does_not_flood_the_log():
    async with serve(options={"maxBadMessages": 100_000}) as s:
        client = await s.login()
        client.send(*[b"\x00"] * 5000)
        for _ in range(5000):
            assert await client.payload() == UNKNOWN_TOPIC
        assert len(s.log.find("UNKNOWN_TOPIC")) <= 20


# --- heartbeat --------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["websocket", "challenged", "login"])
async def test_a_silent_connection_is_closed(stage):
    async with serve(options={"heartbeatInterval": 100}) as s:
        client = await getattr(s, stage)()
        assert await client.closed() is None
        texts = await s.log.wait_for("INFO")
        assert "Heartbeat missing on websocket, terminating connection" in texts


@pytest.mark.parametrize(
    "sign",
    [frame(PING_MESSAGE), frame(b"", 9), frame(b"", 10), frame(b"\x00")],
    ids=["PING", "websocket ping", "websocket pong", "malformed message"],
)
async def test_any_frame_is_a_sign_of_life(sign):
    """One client goes on sending until another, silent from the same moment on, has been closed."""
    async with serve(options={"heartbeatInterval": 250, "maxBadMessages": 1000}) as s:
        living = await s.login("living")
        silent = await s.login("silent")
        closing = asyncio.ensure_future(silent.closed())
        while not closing.done():
            living.write(sign)
            await asyncio.wait([closing], timeout=0.05)
        assert await closing is None
        living.send(PING_MESSAGE)
        async with asyncio.timeout(TIMEOUT):
            while await living.frame() != (BINARY, PONG_MESSAGE):
                pass


async def test_the_watchdog_ends_a_connection_whose_peer_is_gone_without_a_word():
    """Half open: the peer answers nothing, not even our close frame."""
    async with serve(options={"heartbeatInterval": 100}) as s:
        await s.login("A")
        await s.gone()
        s.assert_empty()


# --- the log ----------------------------------------------------------------------------


async def test_the_lines_of_a_connection():
    async with serve(authentication=Users) as s:
        client = await s.login("A", Referer="http://page/")
        await client.close()
        await s.gone()
        assert s.log.find("INCOMING_CONNECTION") == ["from http://page/ (127.0.0.1)"]
        assert s.log.find("REQUEST") == ["127.0.0.1"]
        assert s.log.find("AUTH_SUCCESSFUL") == ["A"]
        assert s.log.find("CLIENT_DISCONNECTED") == ["A"]
        assert s.services.authentication.entries[0].gone == ["A"]


async def test_wrong_messages_are_warnings_without_their_data():
    async with serve() as s:
        client = await s.websocket()
        client.send(EMIT, CHALLENGE, encode(Message(Topic.EVENT, EventAction.EMIT, name="e", data=b'"hush"')))
        for payload in (CONNECTION_INVALID_MESSAGE, ACCEPT, AUTH_INVALID_MESSAGE):
            assert await client.payload() == payload
        assert s.log.find("INVALID_MESSAGE") == ["invalid connection message", "invalid auth message"]
        assert {level for level, event, _ in s.log.lines if event == "INVALID_MESSAGE"} == {LogLevel.WARN}
        assert "hush" not in repr(s.log.lines)


class FailingGoodbye(Users):
    """Fails when a client leaves."""

    def on_client_disconnect(self, user_id):
        raise RuntimeError("on purpose")


async def test_a_plugin_that_fails_at_the_end_of_a_connection_leaves_no_ghost():
    async with serve(authentication=FailingGoodbye) as s:
        client = await s.login("A")
        await client.close()
        await s.gone()
        s.assert_empty()
        assert s.log.find("PLUGIN_ERROR")
