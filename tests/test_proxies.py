"""Whose address a client has behind proxies: ``httpServer.options.trustedProxies``."""

import json

import pytest
from wire import ACCEPT, AUTH_SUCCESSFUL, AUTH_UNSUCCESSFUL, CHALLENGE, Users, auth_request, serve

from dsfast import StartError
from dsfast._core.protocol import AuthAction, Topic
from dsfast.plugin import PluginError
from dsfast.services.authentication.combiner import TOO_MANY_FAILED
from dsfast.services.http_service.proxies import Proxies

TRUSTED = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.1.1.1", "203.0.113.5", "203.0.113.5"),
        ("192.0.2.1", " 203.0.113.5 ", "203.0.113.5"),
        ("::ffff:10.1.1.1", "203.0.113.5", "203.0.113.5"),
        ("2001:db8::7", "2a00::1", "2a00::1"),
        # Only the part that trusted proxies have written counts; the client may have put anything in front.
        ("10.1.1.1", "6.6.6.6, 203.0.113.5", "203.0.113.5"),
        ("10.1.1.1", "6.6.6.6, 203.0.113.5, 10.2.2.2", "203.0.113.5"),
        ("10.1.1.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),
        # With port or brackets.
        ("10.1.1.1", "203.0.113.5:1234", "203.0.113.5"),
        ("10.1.1.1", "[2a00::1]:1234", "2a00::1"),
        # Nobody is trusted about others.
        ("203.0.113.9", "6.6.6.6", "203.0.113.9"),
        ("192.0.2.2", "6.6.6.6", "192.0.2.2"),
        ("10.1.1.1", None, "10.1.1.1"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", ",", "10.1.1.1"),
        ("10.1.1.1", "unknown", "unknown"),
        ("10.1.1.1", "x" * 1000, "x" * 64),
        (None, "6.6.6.6", None),
    ],
)
def test_the_address_of_a_client(peer, forwarded, client):
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert Proxies(TRUSTED, lambda peer: None).client(headers, peer) == client


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.0/99", "10.0.0.1/8/8"])
def test_a_proxy_has_to_be_an_address(text):
    with pytest.raises(PluginError, match="trustedProxies"):
        Proxies([text], lambda peer: None)


async def test_a_wrong_proxy_stops_the_start():
    with pytest.raises(StartError, match="trustedProxies"):
        async with serve({"httpServer": {"options": {"trustedProxies": ["nonsense"]}}}):
            pass


def http(**options):
    return {"httpServer": {"options": {"host": "127.0.0.1", "port": 0, **options}}}


async def test_an_authentication_is_told_the_address_that_a_trusted_proxy_gives():
    async with serve(http(trustedProxies=["127.0.0.1"]), authentication=Users) as s:
        client = await s.websocket(X_Forwarded_For="203.0.113.5")
        client.send(CHALLENGE, auth_request(b'{"username":"A"}'))
        assert await client.payload() == ACCEPT
        assert await client.payload() == AUTH_SUCCESSFUL
        ((connection_data, _),) = s.services.authentication.entries[0].seen
        assert connection_data["remoteAddress"] == "203.0.113.5"
        assert s.log.find("INCOMING_CONNECTION") == ["from undefined (203.0.113.5)"]
        assert s.log.find("INVALID_CONFIG_DATA") == []


async def test_a_local_proxy_that_is_not_trusted_is_noticed_once():
    async with serve(http()) as s:
        for _ in range(3):
            await s.websocket(X_Forwarded_For="203.0.113.5")
        await s.log.wait_for("INCOMING_CONNECTION", 3)
        assert s.log.find("INCOMING_CONNECTION") == ["from undefined (127.0.0.1)"] * 3
        (warning,) = s.log.find("INVALID_CONFIG_DATA")
        assert warning.startswith("127.0.0.1 forwards clients, but httpServer.options.trustedProxies")


async def test_failed_logins_are_counted_by_the_address_behind_the_proxy():
    config = http(trustedProxies=["127.0.0.1"]) | {
        "login": {"maxFailedLogins": 2, "failedLoginWindow": 3_600_000},
        "auth": {"type": "file", "options": {"users": {"peter": {"password": "secret"}}}},
    }
    right = auth_request(b'{"username":"peter","password":"secret"}')
    wrong = auth_request(b'{"username":"peter","password":"guess"}')
    limited = json.dumps({"error": TOO_MANY_FAILED}, separators=(",", ":")).encode()
    async with serve(config, options={"maxAuthAttempts": 10}) as s:
        guesser = await s.websocket(X_Forwarded_For="203.0.113.5")
        guesser.send(CHALLENGE)
        assert await guesser.payload() == ACCEPT
        for _ in range(2):
            guesser.send(wrong)
            assert await guesser.payload() == AUTH_UNSUCCESSFUL
        guesser.send(right)
        await guesser.expect(Topic.AUTH, AuthAction.AUTH_UNSUCCESSFUL, data=limited)
        other = await s.websocket(X_Forwarded_For="203.0.113.6")
        other.send(CHALLENGE, right)
        assert await other.payload() == ACCEPT
        await other.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL, data=b"null")
        assert len(s.log.find("TOO_MANY_AUTH_ATTEMPTS")) == 1


async def test_failed_logins_from_this_machine_are_not_limited():
    config = {
        "login": {"maxFailedLogins": 1},
        "auth": {"type": "file", "options": {"users": {"peter": {"password": "secret"}}}},
    }
    async with serve(config, options={"maxAuthAttempts": 100}) as s:
        client = await s.challenged()
        for _ in range(20):
            client.send(auth_request(b'{"username":"peter","password":"guess"}'))
            assert await client.payload() == AUTH_UNSUCCESSFUL
