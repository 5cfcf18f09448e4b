"""Presence on the wire (events-rpc-presence-listen.md section 4)."""

import json

import pytest
from wire import Users, auth_request, serve

from dsfast._core.protocol import AuthAction, Message, ParserAction, PresenceAction, Topic, encode

loops = ["uvloop"]

P = Topic.PRESENCE


async def subscribe_all(client):
    client.message(P, PresenceAction.SUBSCRIBE_ALL)
    await client.expect(P, PresenceAction.SUBSCRIBE_ALL, is_ack=True)


async def subscribe(client, *names):
    client.message(P, PresenceAction.SUBSCRIBE, names=list(names), correlation_id="1")
    await client.expect(P, PresenceAction.SUBSCRIBE, correlation_id="1", is_ack=True)


async def query(client, *names):
    client.message(P, PresenceAction.QUERY, names=list(names), correlation_id="q")
    message = await client.expect(P, PresenceAction.QUERY_RESPONSE)
    assert set(message.to_dict()) == {"topic", "action", "correlation_id", "data"}
    assert message.correlation_id == "q"
    return json.loads(message.data)


async def test_join_and_leave_tell_subscribers_of_all_then_those_of_the_user():
    async with serve() as s:
        watcher = await s.login("W")
        await subscribe_all(watcher)
        await subscribe(watcher, "A", "B")
        user = await s.login("A")
        assert await watcher.payload() == bytes.fromhex("0910071a050807420141")
        assert await watcher.payload() == bytes.fromhex("0910071a050806420141")
        await user.close()
        await watcher.expect(P, PresenceAction.PRESENCE_LEAVE_ALL, name="A")
        await watcher.expect(P, PresenceAction.PRESENCE_LEAVE, name="A")
        await watcher.fence()


async def test_only_the_first_login_and_the_last_logout_count():
    async with serve() as s:
        watcher = await s.login("W")
        await subscribe(watcher, "A")
        one = await s.login("A")
        await watcher.expect(P, PresenceAction.PRESENCE_JOIN, name="A")
        two = await s.login("A")
        await one.close()
        await watcher.fence()
        assert await query(watcher, "A") == {"A": True}
        await two.close()
        await watcher.expect(P, PresenceAction.PRESENCE_LEAVE, name="A")
        assert await query(watcher, "A") == {"A": False}


async def test_a_users_other_connections_are_told_too():
    async with serve() as s:
        first = await s.login("A")
        await subscribe(first, "A", "B")
        await subscribe_all(first)
        second = await s.login("B")
        await subscribe(second, "B", "A")
        await first.expect(P, PresenceAction.PRESENCE_JOIN_ALL, name="B")
        await first.expect(P, PresenceAction.PRESENCE_JOIN, name="B")
        await first.close()
        await second.expect(P, PresenceAction.PRESENCE_LEAVE, name="A")
        await second.fence()


async def test_a_client_that_leaves_hears_nothing_of_its_own_leaving():
    async with serve() as s:
        client = await s.login("A")
        await subscribe(client, "A")
        await subscribe_all(client)
        client.write(b"\x88\x80abcd")
        assert await client.closed() is None


async def test_the_login_is_answered_before_it_is_announced():
    async with serve() as s:
        other = await s.login("A")
        await subscribe(other, "A")
        client = await s.challenged()
        client.send(auth_request(b'{"username":"B"}') + encode(Message(P, PresenceAction.QUERY_ALL)))
        await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
        await client.expect(P, PresenceAction.QUERY_ALL_RESPONSE, names=["A"])


async def test_query_all():
    async with serve() as s:
        client = await s.login("A")
        client.message(P, PresenceAction.QUERY_ALL, correlation_id="7", names=["decoy"], name="decoy")
        assert await client.payload() == encode(Message(P, PresenceAction.QUERY_ALL_RESPONSE))
        await s.login("B")
        await s.login("B")
        await s.login("C")
        await s.login("A")
        client.message(P, PresenceAction.QUERY_ALL)
        message = await client.expect(P, PresenceAction.QUERY_ALL_RESPONSE)
        assert set(message.to_dict()) == {"topic", "action", "names"}
        assert sorted(message.names) == ["B", "C"]


async def test_query():
    async with serve() as s:
        client = await s.login("A")
        await s.login("B")
        assert await query(client, "B", "Z", "A", "B") == {"B": True, "Z": False, "A": True}
        assert await query(client) == {}
        assert await query(client, "__proto__", 'q"uote', "ü", "\0") == {
            "__proto__": False,
            'q"uote': False,
            "ü": False,
            "\0": False,
        }
        client.message(P, PresenceAction.QUERY, names=["B", "Z"], correlation_id="0")
        assert await client.payload() == bytes.fromhex(
            "1f10071a1b080522147b2242223a747275652c225a223a66616c73657d2a0130"
        )


async def test_the_anonymous_user_is_a_user_and_the_nameless_is_not():
    async with serve(authentication=Users) as s:
        watcher = await s.login("W")
        await subscribe_all(watcher)
        nameless = await s.challenged()
        nameless.send(auth_request(b"{}"))
        await nameless.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
        await watcher.fence()
        assert await query(watcher, "OPEN", "open") == {"OPEN": False, "open": False}
        await nameless.close()
        await watcher.fence()
    async with serve() as s:
        watcher = await s.login("W")
        await subscribe_all(watcher)
        anonymous = await s.login()
        await watcher.expect(P, PresenceAction.PRESENCE_JOIN_ALL, name="open")
        await anonymous.close()
        await watcher.expect(P, PresenceAction.PRESENCE_LEAVE_ALL, name="open")


async def test_repeated_subscriptions_are_told_before_the_ack():
    async with serve() as s:
        client = await s.login("A")
        await subscribe(client, "B")
        client.message(P, PresenceAction.SUBSCRIBE, names=["B", "C", "C"], correlation_id="2")
        for name in ("B", "C"):
            await client.expect(
                P, PresenceAction.MULTIPLE_SUBSCRIPTIONS, name=name, original_action=PresenceAction.SUBSCRIBE
            )
        await client.expect(P, PresenceAction.SUBSCRIBE, correlation_id="2", is_ack=True)
        await subscribe_all(client)
        client.message(P, PresenceAction.SUBSCRIBE_ALL)
        await client.expect(
            P,
            PresenceAction.MULTIPLE_SUBSCRIPTIONS,
            name="%_EVERYONE_%",
            original_action=PresenceAction.SUBSCRIBE_ALL,
        )
        await client.expect(P, PresenceAction.SUBSCRIBE_ALL, is_ack=True)
        await s.login("B")
        await client.expect(P, PresenceAction.PRESENCE_JOIN_ALL, name="B")
        await client.expect(P, PresenceAction.PRESENCE_JOIN, name="B")
        await client.fence()


async def test_unsubscribing():
    async with serve() as s:
        client = await s.login("A")
        await subscribe(client, "B")
        await subscribe_all(client)
        client.message(P, PresenceAction.UNSUBSCRIBE, names=["B", "never"], correlation_id="2")
        await client.expect(P, PresenceAction.UNSUBSCRIBE, correlation_id="2", is_ack=True)
        client.message(P, PresenceAction.UNSUBSCRIBE_ALL, correlation_id="3")
        await client.expect(P, PresenceAction.UNSUBSCRIBE_ALL, is_ack=True)
        client.message(P, PresenceAction.UNSUBSCRIBE_ALL)
        await client.expect(P, PresenceAction.UNSUBSCRIBE_ALL, is_ack=True)
        await s.login("B")
        await client.fence()


async def test_subscribing_to_a_user_called_like_everybody_is_not_subscribing_to_everybody():
    async with serve() as s:
        client = await s.login("A")
        await subscribe(client, "%_EVERYONE_%")
        await s.login("B")
        await client.fence()
        await s.login("%_EVERYONE_%")
        await client.expect(P, PresenceAction.PRESENCE_JOIN, name="%_EVERYONE_%")
        client.message(P, PresenceAction.UNSUBSCRIBE_ALL)
        await client.expect(P, PresenceAction.UNSUBSCRIBE_ALL, is_ack=True)
        assert s.registries()["presence"].names() == ["%_EVERYONE_%"]


@pytest.mark.parametrize(
    "action", [PresenceAction.SUBSCRIBE, PresenceAction.UNSUBSCRIBE, PresenceAction.QUERY]
)
async def test_names_that_cannot_be_are_refused_as_a_whole(action):
    async with serve(options={"maxNamesPerMessage": 3}) as s:
        client = await s.login("A")
        for names in (["a", ""], ["a", "b", "c", "d"]):
            client.message(P, action, names=names, correlation_id="1")
            await client.expect(
                P,
                PresenceAction.INVALID_PRESENCE_USERS,
                original_action=action,
                correlation_id="1",
                is_error=True,
            )
        assert s.registries()["presence"].names() == []


async def test_an_empty_user_name_is_anonymous():
    async with serve() as s:
        client = await s.login("")
        assert await query(client, "open") == {"open": True}


async def test_actions_of_the_server_are_refused():
    async with serve() as s:
        client = await s.login("A")
        await subscribe(client, "B")
        client.message(P, PresenceAction.PRESENCE_JOIN, name="B")
        await client.expect(
            Topic.PARSER,
            ParserAction.UNKNOWN_ACTION,
            original_topic=P,
            original_action=PresenceAction.PRESENCE_JOIN,
        )
        await client.fence()
