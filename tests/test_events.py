"""Events on the wire: what the JavaScript client hides (events-rpc-presence-listen.md sections 1 and 2)."""

import pytest
from wire import serve

from dsfast._core.protocol import EventAction, Message, ParserAction, Topic, decode, encode

loops = ["uvloop"]

E = Topic.EVENT


async def subscribe(client, *names, correlation="1"):
    client.message(E, EventAction.SUBSCRIBE, names=list(names), correlation_id=correlation)
    await client.expect(E, EventAction.SUBSCRIBE, correlation_id=correlation, is_ack=True)


@pytest.mark.parametrize("action", [EventAction.SUBSCRIBE, EventAction.UNSUBSCRIBE])
@pytest.mark.parametrize("correlation", ["1", "", "x" * 500, "ü€😀", "0 or 1=1", "\0"])
async def test_the_ack_echoes_the_correlation_id_and_nothing_else(action, correlation):
    async with serve() as s:
        client = await s.login()
        client.message(E, action, names=["a", "b"], correlation_id=correlation)
        await client.expect(E, action, correlation_id=correlation, is_ack=True)
        await client.fence()


@pytest.mark.parametrize("action", [EventAction.SUBSCRIBE, EventAction.UNSUBSCRIBE])
async def test_without_correlation_id_the_ack_has_none(action):
    async with serve() as s:
        client = await s.login()
        client.message(E, action, names=["a"])
        assert await client.payload() == encode(Message(E, action, is_ack=True))


@pytest.mark.parametrize("action", [EventAction.SUBSCRIBE, EventAction.UNSUBSCRIBE])
async def test_no_names_are_acknowledged_and_do_nothing(action):
    async with serve() as s:
        client = await s.login()
        client.message(E, action, correlation_id="1")
        await client.expect(E, action, correlation_id="1", is_ack=True)
        assert s.registries()["event"].names() == []


async def test_what_belongs_to_single_names_is_ignored_in_bulk_requests():
    async with serve() as s:
        client = await s.login()
        client.message(
            E,
            EventAction.SUBSCRIBE,
            names=["a"],
            name="decoy",
            data=b"not json",
            is_ack=True,
            is_error=True,
            subscription="x",
            original_action=5,
            correlation_id="1",
        )
        await client.expect(E, EventAction.SUBSCRIBE, correlation_id="1", is_ack=True)
        assert s.registries()["event"].names() == ["a"]


async def test_repeated_subscriptions_are_told_before_the_ack():
    async with serve() as s:
        client = await s.login()
        await subscribe(client, "a", "b")
        client.message(E, EventAction.SUBSCRIBE, names=["b", "c", "a", "c"], correlation_id="2")
        for name in ("b", "a", "c"):
            await client.expect(
                E, EventAction.MULTIPLE_SUBSCRIPTIONS, name=name, original_action=EventAction.SUBSCRIBE
            )
        await client.expect(E, EventAction.SUBSCRIBE, correlation_id="2", is_ack=True)
        # Once more is once.
        other = await s.login("other")
        other.message(E, EventAction.EMIT, name="c")
        await client.expect(E, EventAction.EMIT, name="c")
        await client.fence()
        client.message(E, EventAction.UNSUBSCRIBE, names=["a", "b", "c"], correlation_id="3")
        await client.expect(E, EventAction.UNSUBSCRIBE, correlation_id="3", is_ack=True)
        assert s.registries()["event"].names() == []


async def test_unsubscribing_what_is_not_subscribed_is_acknowledged():
    async with serve() as s:
        client = await s.login()
        client.message(E, EventAction.UNSUBSCRIBE, names=["a", "a"], correlation_id="1")
        await client.expect(E, EventAction.UNSUBSCRIBE, correlation_id="1", is_ack=True)


async def test_an_empty_name_in_a_bulk_request_refuses_it_as_a_whole():
    async with serve() as s:
        client = await s.login()
        for action in (EventAction.SUBSCRIBE, EventAction.UNSUBSCRIBE):
            client.message(E, action, names=["a", "", "b"], correlation_id="1")
            await client.expect(
                E, EventAction.INVALID_MESSAGE_DATA, original_action=action, correlation_id="1", is_error=True
            )
        assert s.registries()["event"].names() == []


async def test_too_many_names_are_refused_as_a_whole():
    async with serve(options={"maxNamesPerMessage": 10}) as s:
        client = await s.login()
        await subscribe(client, *[f"n{i}" for i in range(10)])
        client.message(E, EventAction.SUBSCRIBE, names=[f"m{i}" for i in range(11)], correlation_id="2")
        await client.expect(
            E,
            EventAction.INVALID_MESSAGE_DATA,
            original_action=EventAction.SUBSCRIBE,
            correlation_id="2",
            is_error=True,
        )
        assert len(s.registries()["event"].names()) == 10


async def test_an_event_reaches_all_but_its_sender():
    async with serve() as s:
        a, b, c, bystander = [await s.login(name) for name in "abcd"]
        for client in (a, b, c):
            await subscribe(client, "news")
        await subscribe(bystander, "other")
        a.message(E, EventAction.EMIT, name="news", data=b'{"x":1}')
        for client in (b, c):
            assert await client.payload() == bytes.fromhex("1510041a11080212077b2278223a317d32046e657773")
        for client in (a, bystander):
            await client.fence()
        # An own subscription alone makes no echo either.
        bystander.message(E, EventAction.EMIT, name="other")
        await bystander.fence()


async def test_an_event_without_data_stays_without():
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        await subscribe(b, "news")
        a.message(E, EventAction.EMIT, name="news")
        assert await b.payload() == bytes.fromhex("0c10041a08080232046e657773")


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b"0",
        b"-1.5e+300",
        b'""',
        b"[]",
        b" { } ",
        b'"\\u0000\\ud800"',
        '"ü€😀"'.encode(),
        b"[[[[]]]]",
    ],
)
async def test_the_data_arrive_as_the_very_bytes_that_were_sent(data):
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        await subscribe(b, "news")
        a.message(E, EventAction.EMIT, name="news", data=data)
        assert (await b.receive()).data == data


@pytest.mark.parametrize(
    "data",
    [b"", b" ", b"{", b"nul", b"undefined", b"NaN", b"01", b"{}{}", b'"\xff"', b"'a'", b'{"a":}', b"\0"],
)
async def test_data_that_is_no_json_goes_nowhere(data):
    """It would end the process of every JavaScript subscriber."""
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        await subscribe(b, "news")
        a.message(E, EventAction.EMIT, name="news", data=data)
        await a.expect(
            E,
            EventAction.INVALID_MESSAGE_DATA,
            name="news",
            original_action=EventAction.EMIT,
            is_error=True,
        )
        await b.fence()


@pytest.mark.parametrize("fields", [{}, {"name": ""}, {"names": ["news"]}])
async def test_an_event_without_name_is_invalid(fields):
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        await subscribe(b, "news")
        a.message(E, EventAction.EMIT, data=b"1", **fields)
        message = await a.expect(E, EventAction.INVALID_MESSAGE_DATA)
        assert message.is_error
        await b.fence()


async def test_only_known_fields_of_an_event_are_passed_on():
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        await subscribe(b, "news")
        a.message(
            E,
            EventAction.EMIT,
            name="news",
            data=b"1",
            correlation_id="7",
            names=["news"],
            is_ack=True,
            is_error=True,
            subscription="x",
            original_action=3,
            original_topic=5,
        )
        await b.expect(E, EventAction.EMIT, name="news", data=b"1")


@pytest.mark.parametrize(
    "raw",
    [
        "1710041a13080212077b2278223a317d32046e657773a00601",  # an unknown field behind
        "1710041a13" + "080212077b2278223a317d32046e657773" + "0802",  # the action again
        "1510041a1132046e657773080212077b2278223a317d",  # another order
        "151a11080212077b2278223a317d32046e6577731004",  # the topic behind the message
        "1610041a1288000212077b2278223a317d32046e657773",  # a tag longer than it needs to be
        "1b10041a17080212077b2278223a317d320578787878783204" + "6e657773",  # two names, the last one counts
    ],
)
async def test_an_unusual_encoding_is_passed_on_in_the_usual_one(raw):
    """Or a subscriber's parser, stricter or more lenient than this one, would see another message."""
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        await subscribe(b, "news")
        data = bytes.fromhex(raw)
        length = len(data) - 1
        a.send(bytes([length]) + data[1:])
        if decodes(bytes([length]) + data[1:]):
            assert await b.payload() == bytes.fromhex("1510041a11080212077b2278223a317d32046e657773")
        else:
            await a.expect(Topic.PARSER, ParserAction.UNKNOWN_TOPIC)
            await b.fence()


def decodes(data):
    try:
        return bool(decode(data))
    except ValueError:
        return False


async def test_two_messages_in_one_frame_become_two_frames():
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        await subscribe(b, "news")
        one, two = [encode(Message(E, EventAction.EMIT, name="news", data=b"%d" % n)) for n in (1, 2)]
        a.send(one + two)
        assert await b.payload() == one
        assert await b.payload() == two


async def test_names_are_compared_byte_by_byte():
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        names = ["e", "E", "e ", "\u00e9", "e\u0301", "e\0", "__proto__", "constructor", "😀", "e" * 5000]
        await subscribe(b, *names)
        assert sorted(s.registries()["event"].names()) == sorted(names)
        for name in names:
            a.message(E, EventAction.EMIT, name=name)
            await b.expect(E, EventAction.EMIT, name=name)


async def test_events_of_one_name_keep_their_order_between_publishers_and_subscribers():
    async with serve() as s:
        a, b = await s.login("a"), await s.login("b")
        readers = [await s.login(f"r{i}") for i in range(5)]
        for reader in readers:
            await subscribe(reader, "x", "y")
        for n in range(300):
            publisher = (a, b)[n % 2]
            publisher.message(E, EventAction.EMIT, name="xy"[n % 3 == 0], data=b"%d" % n)
            if n % 7 == 0:
                await publisher.fence()
        received = [[(await reader.receive()).to_dict() for _ in range(300)] for reader in readers]
        assert all(messages == received[0] for messages in received)


async def test_a_subscriber_gets_what_was_sent_between_its_acks():
    async with serve() as s:
        client, other = await s.login("a"), await s.login("b")
        sub = encode(Message(E, EventAction.SUBSCRIBE, names=["e"], correlation_id="1"))
        unsub = encode(Message(E, EventAction.UNSUBSCRIBE, names=["e"], correlation_id="1"))
        await subscribe(other, "e")
        # All in one turn of the loop: a change of the subscriptions may not reorder what was sent around it.
        client.send(*[sub, unsub] * 50)
        for n in range(50):
            other.message(E, EventAction.EMIT, name="e", data=b"%d" % n)
        subscribed = False
        acks = 0
        while acks < 100:
            message = await client.receive()
            if message.is_ack:
                acks += 1
                subscribed = message.action == EventAction.SUBSCRIBE
            else:
                assert subscribed
        await client.fence()


@pytest.mark.parametrize(
    "action",
    [EventAction.LISTEN, EventAction.UNLISTEN, EventAction.LISTEN_ACCEPT, EventAction.LISTEN_REJECT],
)
async def test_listening_without_a_pattern_is_invalid(action):
    async with serve() as s:
        client = await s.login()
        for fields in ({}, {"name": ""}, {"names": ["a"]}):
            client.message(E, action, **fields)
            assert (await client.expect(E, EventAction.INVALID_MESSAGE_DATA)).original_action == action


async def test_listening_on_the_wire():
    async with serve() as s:
        provider, client = await s.login("provider"), await s.login("client")
        provider.message(E, EventAction.LISTEN, name="^live/.*", correlation_id="9", names=["decoy"])
        message = await provider.expect(E, EventAction.LISTEN)
        assert (message.name, message.is_ack) == ("^live/.*", True)
        await subscribe(client, "live/1", "dead/1")
        await provider.expect(
            E, EventAction.SUBSCRIPTION_FOR_PATTERN_FOUND, name="^live/.*", subscription="live/1"
        )
        provider.message(E, EventAction.LISTEN_ACCEPT, name="^live/.*", subscription="live/1")
        await provider.fence()
        # Events tell their subscribers nothing about providers.
        await client.fence()
        client.message(E, EventAction.UNSUBSCRIBE, names=["live/1"], correlation_id="2")
        await client.expect(E, EventAction.UNSUBSCRIBE, correlation_id="2", is_ack=True)
        await provider.expect(
            E, EventAction.SUBSCRIPTION_FOR_PATTERN_REMOVED, name="^live/.*", subscription="live/1"
        )
        provider.message(E, EventAction.LISTEN, name="^live/.*")
        await provider.expect(
            E, EventAction.MULTIPLE_SUBSCRIPTIONS, name="^live/.*", original_action=EventAction.LISTEN
        )
