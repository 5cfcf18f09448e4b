"""Logins that end (docs/authentication.md): the connection is closed unless the login is renewed on it."""

import asyncio
import json
import math
import time

import jwt
import pytest
from wire import (
    ACCEPT,
    AUTH_INVALID_MESSAGE,
    AUTH_INVALID_MESSAGE_DATA,
    AUTH_SUCCESSFUL,
    AUTH_UNSUCCESSFUL,
    BINARY,
    CHALLENGE,
    PING_MESSAGE,
    TIMEOUT,
    TOO_MANY_AUTH_ATTEMPTS,
    UNKNOWN_TOPIC,
    Users,
    auth_request,
    serve,
)

from dsfast._core.protocol import AuthAction, PresenceAction, Topic
from dsfast.plugin import Authentication, AuthResult

loops = ["uvloop", "asyncio"]

EXPIRED = 3000
HOUR = 3_600_000
SECRET = "0123456789abcdef" * 4
OTHER_USER = json.dumps(
    {"error": "the login of an open connection can only be renewed for the same user"}, separators=(",", ":")
).encode()


class Expiring(Users):
    """As Users; ``lives`` (ms) is how long the login holds."""

    async def is_valid_user(self, connection_data, auth_data):
        result = await super().is_valid_user(connection_data, auth_data)
        if result is not None and "lives" in auth_data:
            result.expires = time.time() + auth_data["lives"] / 1000
        return result


def login(user="A", **data):
    return auth_request(json.dumps({"username": user, **data}).encode())


async def logged_in(s, **data):
    client = await s.challenged()
    client.send(login(**data))
    await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
    return client


async def closed_meanwhile(client):
    """Wait for the close; whatever else comes is passed over."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            opcode, payload = await client.frame()
            if opcode != BINARY:
                return int.from_bytes(payload[:2], "big")


async def test_a_connection_ends_with_its_login():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=80)
        assert await client.closed() == EXPIRED
        assert s.log.find("AUTHENTICATION_TIMEOUT") == ["the login of A has expired"]
        await s.gone()
        s.assert_empty()
        assert s.services.authentication.entries[0].gone == ["A"]


async def test_busy_connections_end_too():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=150)

        async def talk():
            while True:
                client.send(PING_MESSAGE)
                await asyncio.sleep(0.005)

        talking = asyncio.create_task(talk())
        assert await closed_meanwhile(client) == EXPIRED
        talking.cancel()


async def test_a_login_that_is_over_already():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=-5000)
        assert await client.closed() == EXPIRED


async def test_a_login_that_ends_later_does_not_keep_a_silent_connection_open():
    async with serve(options={"heartbeatInterval": 100}, authentication=Expiring) as s:
        client = await logged_in(s, lives=HOUR)
        assert await client.closed() is None


async def test_the_time_for_the_first_login_is_another_one():
    """Once it was made, only its own end counts."""
    options = {"unauthenticatedClientTimeout": 1000}
    async with serve(options=options, authentication=Expiring) as s:
        ending, endless = await logged_in(s, user="A", lives=HOUR), await logged_in(s, user="B")
        late = await s.websocket()
        await late.frame()
        # Its limit was later than those of the two.
        await ending.fence()
        await endless.fence()


async def test_a_renewed_login_goes_on():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=1500, serverData={"role": "old"}, clientData=1)
        short = await logged_in(s, user="B", lives=2000)
        client.send(login(lives=HOUR, serverData={"role": "new"}, clientData=2))
        await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data=b"2")
        # Another one, that ends later than this one would have, is over now.
        assert await short.closed() == EXPIRED
        await client.fence()
        connection = s.connection("A")
        assert (connection.server_data, connection.client_data) == ({"role": "new"}, 2)
        assert s.log.find("AUTH_SUCCESSFUL") == ["A", "B", "A (renewed)"]


async def test_a_renewal_may_take_the_end_away_and_bring_it_forward():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=HOUR)
        client.send(login(lives=1500))
        assert await client.payload() == AUTH_SUCCESSFUL
        client.send(login())
        assert await client.payload() == AUTH_SUCCESSFUL
        other = await logged_in(s, user="B", lives=HOUR)
        other.send(login(user="B", lives=2000))
        assert await other.payload() == AUTH_SUCCESSFUL
        assert await other.closed() == EXPIRED
        await client.fence()
        # From now on there is nothing to renew.
        client.send(login())
        assert await client.payload() == UNKNOWN_TOPIC


async def test_presence_does_not_notice_a_renewal():
    async with serve(authentication=Expiring) as s:
        watcher = await s.login("watcher")
        watcher.message(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL)
        await watcher.expect(Topic.PRESENCE, PresenceAction.SUBSCRIBE_ALL, is_ack=True)
        client = await logged_in(s, lives=HOUR)
        await watcher.expect(Topic.PRESENCE, PresenceAction.PRESENCE_JOIN_ALL, name="A")
        client.send(login(lives=HOUR))
        assert await client.payload() == AUTH_SUCCESSFUL
        await watcher.fence()
        await client.close()
        await watcher.expect(Topic.PRESENCE, PresenceAction.PRESENCE_LEAVE_ALL, name="A")
        await watcher.fence()
        assert s.services.authentication.entries[0].gone == ["A"]


@pytest.mark.parametrize("user", ["B", "", None])
async def test_a_renewal_cannot_change_the_user(user):
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=HOUR, serverData=1)
        client.send(login(user=user, lives=2 * HOUR, serverData=2))
        await client.expect(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL, data=OTHER_USER)
        await client.fence()
        assert s.connection("A").server_data == 1


async def test_a_user_without_a_name_can_be_renewed():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, user=None, lives=HOUR)
        client.send(login(user="", lives=HOUR))
        assert await client.payload() == AUTH_SUCCESSFUL


async def test_a_refused_renewal_leaves_the_login_as_it_is():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=1500)
        client.send(login(refuse=1))
        assert await client.payload() == AUTH_UNSUCCESSFUL
        await client.fence()
        assert await client.closed() == EXPIRED


async def test_refused_renewals_are_counted():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=HOUR)
        for _ in range(2):
            client.send(login(refuse=1))
            assert await client.payload() == AUTH_UNSUCCESSFUL
        client.send(login(lives=HOUR))  # starts the count again
        assert await client.payload() == AUTH_SUCCESSFUL
        for _ in range(3):
            client.send(login(refuse=1))
            assert await client.payload() == AUTH_UNSUCCESSFUL
        assert await client.payload() == TOO_MANY_AUTH_ATTEMPTS
        assert await client.closed() is None
        await s.gone()
        s.assert_empty()


@pytest.mark.parametrize("data", [None, b"", b"null", b"7", b"{", b'"x"'])
async def test_a_renewal_that_makes_no_sense_ends_the_connection(data):
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=HOUR)
        client.send(auth_request(data))
        assert await client.payload() == AUTH_INVALID_MESSAGE_DATA
        assert await client.closed() is None
        assert s.log.errors() == []


async def test_one_renewal_at_a_time_and_the_rest_goes_on_meanwhile():
    async with serve(authentication=Expiring) as s:
        users = s.services.authentication.entries[0]
        client = await logged_in(s, lives=HOUR)
        client.send(login(gate=1, lives=HOUR))
        await users.wait_for(1)
        client.send(login(lives=HOUR))
        assert await client.payload() == AUTH_INVALID_MESSAGE
        await client.fence()
        users.gate.set()
        assert await client.payload() == AUTH_SUCCESSFUL
        client.send(login(lives=HOUR))
        assert await client.payload() == AUTH_SUCCESSFUL


@pytest.mark.parametrize("how", ["expires", "leaves"])
async def test_a_connection_that_ends_during_a_renewal(how):
    async with serve(authentication=Expiring) as s:
        users = s.services.authentication.entries[0]
        client = await logged_in(s, lives=1500 if how == "expires" else HOUR)
        client.send(login(gate=1, lives=HOUR))
        await users.wait_for(1)
        if how == "expires":
            assert await client.closed() == EXPIRED
        else:
            await client.close()
        await s.gone()
        users.gate.set()
        await s.until(lambda: not s.endpoint._logins)
        assert not s.endpoint._renewing
        s.assert_empty()
        assert users.gone == ["A"]


async def test_a_crash_during_a_renewal_is_a_refusal():
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=HOUR)
        client.send(login(crash=1))
        assert await client.payload() == AUTH_UNSUCCESSFUL
        client.send(login(lives=HOUR))
        assert await client.payload() == AUTH_SUCCESSFUL


@pytest.mark.parametrize("action", [0, 1, 3, 4, 100])
async def test_other_auth_actions_are_no_renewal(action):
    async with serve(authentication=Expiring) as s:
        client = await logged_in(s, lives=HOUR)
        client.message(Topic.AUTH, action, data=b"{}")
        assert await client.payload() == UNKNOWN_TOPIC


class Strange(Authentication):
    description = "strange"
    expires = None

    async def is_valid_user(self, connection_data, auth_data):
        return AuthResult(True, id="A", expires=self.expires)


@pytest.mark.parametrize("expires", [math.nan, math.inf, 1e300, 10**400, -1, "soon", True, [], 1 + 0j])
async def test_an_end_that_is_no_time_refuses_the_login(expires, monkeypatch):
    monkeypatch.setattr(Strange, "expires", expires)
    async with serve(authentication=Strange) as s:
        client = await s.challenged()
        client.send(auth_request())
        assert await client.payload() == AUTH_UNSUCCESSFUL
        assert "time of expiry" in s.log.find("AUTH_ERROR")[0]


@pytest.mark.parametrize("expires", [2**40 - 1, 0, 0.5])
async def test_an_end_that_is_far_away(expires, monkeypatch):
    monkeypatch.setattr(Strange, "expires", expires)
    async with serve(authentication=Strange) as s:
        client = await s.challenged()
        client.send(auth_request())
        assert await client.payload() == AUTH_SUCCESSFUL
        if expires > 1:
            await client.fence()
        else:
            assert await client.closed() == EXPIRED


async def test_a_token_and_its_successor():
    def token(seconds, **claims):
        claims = {"sub": "A", "exp": time.time() + seconds, **claims}
        return auth_request(json.dumps({"token": jwt.encode(claims, SECRET, "HS256")}).encode())

    options = {"algorithms": ["HS256"], "secret": SECRET, "clockSkew": 0, "clientDataClaims": ["n"]}
    async with serve({"auth": {"type": "jwt", "options": options}}) as s:
        client = await s.websocket()
        client.send(CHALLENGE, token(3600, role="x"))
        assert await client.payload() == ACCEPT
        assert await client.payload() == AUTH_SUCCESSFUL
        assert s.connection("A").server_data["role"] == "x"
        client.send(token(3600, role="y", n=1))
        await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data=b'{"n":1}')
        assert s.connection("A").server_data["role"] == "y"
        client.send(token(-3600))
        await client.expect(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL, data=b'{"error":"token expired"}')
        await client.fence()
        client.send(token(1))
        assert await client.payload() == AUTH_SUCCESSFUL
        assert await client.closed() == EXPIRED
        assert SECRET not in repr(s.log.lines) and "eyJ" not in repr(s.log.lines)


# --- what logInvalidAuthData adds to the log ---------------------------------------------


async def test_refused_login_data_are_logged_if_that_is_wanted():
    async with serve(options={"logInvalidAuthData": True}, authentication=Users) as s:
        client = await s.challenged()
        client.send(auth_request('{"refuse":1,"password":"schlüssel"}'.encode()))
        assert await client.payload() == AUTH_UNSUCCESSFUL
        client.send(auth_request(b'{"password":'))
        assert await client.payload() == AUTH_INVALID_MESSAGE_DATA
        assert s.log.find("AUTH_UNSUCCESSFUL") == [
            'invalid authentication data: {"refuse":1,"password":"schlüssel"}'
        ]
        assert s.log.find("INVALID_MESSAGE_DATA") == [
            'Error parsing auth message "{"password":": it is no JSON object'
        ]


@pytest.mark.parametrize("data", [None, b"", b"\xff" * 10, b"x" * 100_000])
async def test_unreadable_login_data_are_logged_within_bounds(data):
    async with serve(options={"logInvalidAuthData": True}) as s:
        client = await s.challenged()
        client.send(auth_request(data))
        assert await client.payload() == AUTH_INVALID_MESSAGE_DATA
        (text,) = s.log.find("INVALID_MESSAGE_DATA")
        assert text.startswith("Error parsing auth message") and len(text) < 1100
