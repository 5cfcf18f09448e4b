"""Listening: every row of the search state machine, every "do better", and a model of the whole."""

import asyncio
import json
import random
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dsfast._core.protocol import EventAction, Message, RecordAction, Topic
from dsfast.config import ListenConfig
from dsfast.handlers import listen as listen_module
from dsfast.handlers.listen import ListenHandler
from dsfast.handlers.patterns import Pattern, PatternIndex
from dsfast.handlers.permission import Decision
from dsfast.regexp import Matcher, RegexpError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "listen-patterns.json").read_text())


class FakeTimer:
    def __init__(self, timers, due, callback):
        self.timers, self.due, self.callback = timers, due, callback

    def cancel(self):
        self.timers.active.discard(self)


class FakeTimers:
    """Time that passes only by `advance`."""

    def __init__(self):
        self.now = 0.0
        self.active = set()

    def call_later(self, milliseconds, callback):
        timer = FakeTimer(self, self.now + milliseconds, callback)
        self.active.add(timer)
        return timer

    def advance(self, milliseconds):
        end = self.now + milliseconds
        while due := [timer for timer in self.active if timer.due <= end]:
            timer = min(due, key=lambda timer: timer.due)
            self.active.remove(timer)
            self.now = max(self.now, timer.due)
            timer.callback()
            if milliseconds == 0:  # one turn of the loop: what it starts belongs to the next
                break
        self.now = end

    def seconds(self):
        return self.now / 1000


class FakeConnection:
    def __init__(self, name="?"):
        self.name = name
        self.user_id = name
        self.sent = []
        self.callbacks = []
        self.is_closed = False

    def send(self, message):
        if not self.is_closed:
            self.sent.append(message)

    def on_close(self, callback):
        self.callbacks.append(callback)

    def remove_on_close(self, callback):
        self.callbacks.remove(callback)

    def close(self):
        self.is_closed = True
        for callback in list(self.callbacks):
            callback(self)

    def take(self):
        """The messages since the last call, as (action name, fields)."""
        sent, self.sent = self.sent, []
        result = []
        for message in sent:
            fields = message.to_dict()
            actions = RecordAction if fields.pop("topic") == Topic.RECORD else EventAction
            result.append((actions(fields.pop("action")).name, fields))
        return result


class FakeRegistry:
    """Subscriptions, with the notice for late subscribers that the core gives for records."""

    def __init__(self, topic):
        self.topic = topic
        self.subscribers = {}
        self.provided = set()
        self.listener = None

    def names(self):
        return list(self.subscribers)

    def has(self, name):
        return name in self.subscribers

    def broadcast(self, name, message, sender=None):
        for connection in list(self.subscribers.get(name, ())):
            if connection is not sender:
                connection.send(message)

    def set_provided(self, name, provided):
        (self.provided.add if provided else self.provided.discard)(name)

    def set_listener(self, listener):
        self.listener = listener

    def subscribe(self, connection, name):
        first = name not in self.subscribers
        self.subscribers.setdefault(name, {})[connection] = None
        if first and self.listener is not None:
            self.listener.on_first_subscription(name)
        elif name in self.provided:
            connection.send(Message(self.topic, RecordAction.SUBSCRIPTION_HAS_PROVIDER, name=name))

    def unsubscribe(self, connection, name):
        names = self.subscribers.get(name, {})
        if names.pop(connection, self) is not self and not names:
            del self.subscribers[name]
            if self.listener is not None:
                self.listener.on_last_unsubscription(name)

    def drop(self, connection):
        for name in list(self.subscribers):
            self.unsubscribe(connection, name)


class FakeLogger:
    def __init__(self):
        self.lines = []

    def debug(self, event, message="", meta=None):
        self.lines.append(("debug", event, message))

    def info(self, event, message="", meta=None):
        self.lines.append(("info", event, message))

    def warn(self, event, message="", meta=None):
        self.lines.append(("warn", event, message))

    def error(self, event, message="", meta=None):
        self.lines.append(("error", event, message))


class House:
    """A handler among fakes, and short words for what clients do."""

    def __init__(self, topic=Topic.RECORD, rng=None, gate=None, **options):
        self.topic = topic
        self.actions = RecordAction if topic == Topic.RECORD else EventAction
        self.timers = FakeTimers()
        self.registry = FakeRegistry(topic)
        self.logger = FakeLogger()
        self.options = ListenConfig(**({"shuffle_providers": False} | options))
        self.handler = ListenHandler(
            topic,
            self.registry,
            self.timers,
            self.options,
            self.logger,
            gate=gate,
            rng=rng,
            clock=self.timers.seconds,
        )

    def client(self, name="?"):
        return FakeConnection(name)

    def send(self, connection, action, **fields):
        self.handler.on_message(connection, Message(self.topic, self.actions[action], **fields))

    def listen(self, connection, pattern, **fields):
        self.send(connection, "LISTEN", name=pattern, **fields)

    def unlisten(self, connection, pattern, **fields):
        self.send(connection, "UNLISTEN", name=pattern, **fields)

    def accept(self, connection, pattern, name):
        self.send(connection, "LISTEN_ACCEPT", name=pattern, subscription=name)

    def reject(self, connection, pattern, name):
        self.send(connection, "LISTEN_REJECT", name=pattern, subscription=name)

    def provided(self, pattern="^a", name="a1"):
        """A provider that has accepted, and a subscriber, both with their messages taken."""
        provider, subscriber = self.client("provider"), self.client("subscriber")
        self.listen(provider, pattern)
        self.registry.subscribe(subscriber, name)
        self.accept(provider, pattern, name)
        provider.take()
        subscriber.take()
        return provider, subscriber


@pytest.fixture(params=[Topic.RECORD, Topic.EVENT], ids=["record", "event"])
def house(request):
    return House(request.param)


def found(pattern, name):
    return ("SUBSCRIPTION_FOR_PATTERN_FOUND", {"name": pattern, "subscription": name})


def removed(pattern, name):
    return ("SUBSCRIPTION_FOR_PATTERN_REMOVED", {"name": pattern, "subscription": name})


def timeout(name):
    return ("LISTEN_RESPONSE_TIMEOUT", {"subscription": name})


HAS = "SUBSCRIPTION_HAS_PROVIDER"
HAS_NOT = "SUBSCRIPTION_HAS_NO_PROVIDER"


def notices(house, *expected):
    """Has-provider notices exist for records only."""
    return list(expected) if house.topic == Topic.RECORD else []


# Requests and their answers.


def test_listen_is_acknowledged_with_name_and_correlation_id(house):
    client = house.client()
    house.listen(client, "a/.*")
    assert client.take() == [("LISTEN", {"name": "a/.*", "is_ack": True})]
    house.listen(client, "b", correlation_id="7")
    assert client.take() == [("LISTEN", {"name": "b", "is_ack": True, "correlation_id": "7"})]
    house.unlisten(client, "b", correlation_id="8")
    assert client.take() == [("UNLISTEN", {"name": "b", "is_ack": True, "correlation_id": "8"})]


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "a**", "[z-a]", "x" * 1025, "é" * 513])
def test_a_pattern_that_cannot_run_is_refused(house, pattern):
    client = house.client()
    house.listen(client, pattern)
    assert client.take() == [("INVALID_LISTEN_REGEX", {"name": pattern})]
    ((level, event, text),) = house.logger.lines
    assert (level, event) == ("warn", "INVALID_LISTEN_REGEX")
    assert len(text) < 1200
    assert house.registry.listener is None
    assert not client.callbacks


def test_a_client_that_goes_on_sending_bad_patterns_does_not_fill_the_log(house):
    client, other = house.client("peter"), house.client("mary")
    for _ in range(50):
        house.listen(client, "(")
    assert len(client.take()) == 50
    assert len(house.logger.lines) == 10
    house.listen(other, "(")
    assert len(house.logger.lines) == 11
    house.handler.close()
    assert house.logger.lines[-1][2] == "40 more of these from peter in the last 10 s"


def test_patterns_per_client_are_limited():
    house = House(max_patterns_per_client=2)
    client = house.client()
    for pattern in ("a", "b", "c"):
        house.listen(client, pattern)
    assert client.take()[-1] == ("INVALID_LISTEN_REGEX", {"name": "c"})
    assert "2 patterns, more are not allowed" in house.logger.lines[-1][2]
    house.listen(client, "a")
    assert client.take()[0][0] == "MULTIPLE_SUBSCRIPTIONS"
    house.unlisten(client, "a")
    house.listen(client, "c")
    assert client.take()[-1] == ("LISTEN", {"name": "c", "is_ack": True})
    house.listen(house.client(), "a")
    assert len(house.logger.lines) == 1


def test_a_second_listen_with_the_same_pattern_is_answered_and_changes_nothing(house):
    """Upstream crashes on the binary endpoint."""
    client, subscriber = house.client(), house.client()
    house.listen(client, "a")
    client.take()
    house.listen(client, "a", correlation_id="1")
    listen = house.actions.LISTEN
    assert client.take() == [
        ("MULTIPLE_SUBSCRIPTIONS", {"name": "a", "original_action": listen}),
        ("LISTEN", {"name": "a", "is_ack": True, "correlation_id": "1"}),
    ]
    house.registry.subscribe(subscriber, "a")
    assert client.take() == [found("a", "a")]
    house.reject(client, "a", "a")
    assert client.take() == []
    house.unlisten(client, "a")
    assert house.registry.listener is None


def test_unlisten_of_an_unknown_pattern_is_answered(house):
    """Upstream says nothing and the client runs into its timeout."""
    client = house.client()
    house.listen(client, "a")
    client.take()
    house.unlisten(client, "b")
    house.unlisten(house.client(), "a")
    unlisten = house.actions.UNLISTEN
    assert client.take() == [("NOT_SUBSCRIBED", {"name": "b", "original_action": unlisten})]


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("LISTEN", {}),
        ("LISTEN", {"name": ""}),
        ("UNLISTEN", {"correlation_id": "1"}),
        ("LISTEN_ACCEPT", {"name": "a"}),
        ("LISTEN_REJECT", {"subscription": "a"}),
    ],
)
def test_missing_fields_are_answered(house, action, fields):
    client = house.client()
    house.send(client, action, **fields)
    expected = {"original_action": house.actions[action], "is_error": True}
    if "correlation_id" in fields:
        expected["correlation_id"] = "1"
    assert client.take() == [("INVALID_MESSAGE_DATA", expected)]


def test_a_message_of_a_closed_connection_leaves_nothing_behind(house):
    client = house.client()
    client.close()
    house.listen(client, "a")
    assert house.registry.listener is None
    assert not client.callbacks
    assert not house.timers.active


# Servers without listeners pay nothing.


def test_the_registry_reports_only_while_there_are_patterns(house):
    first, second = house.client(), house.client()
    assert house.registry.listener is None
    assert not house.timers.active
    house.listen(first, "a")
    house.listen(second, "a")
    assert house.registry.listener is house.handler
    house.unlisten(first, "a")
    assert house.registry.listener is house.handler
    assert not first.callbacks
    second.close()
    assert house.registry.listener is None
    assert not house.timers.active


def test_close_leaves_no_timers_and_callbacks(house):
    provider, _ = house.provided()
    other = house.client()
    house.listen(other, ".")
    house.registry.subscribe(other, "b")
    assert house.timers.active
    house.handler.close()
    assert not house.timers.active
    assert not provider.callbacks
    assert not other.callbacks
    assert house.registry.listener is None


# idle -> asking.


def test_first_subscription_asks_a_listener(house):
    provider, subscriber = house.client(), house.client()
    house.listen(provider, "a/.*")
    provider.take()
    house.registry.subscribe(subscriber, "xa/1")  # unanchored
    assert provider.take() == [found("a/.*", "xa/1")]
    assert subscriber.take() == []
    assert house.logger.lines == [("debug", "LOCAL_LISTEN", f"started for {house.topic.name}:xa/1")]


def test_without_candidates_nothing_happens(house):
    provider = house.client()
    house.listen(provider, "^b")
    provider.take()
    house.registry.subscribe(house.client(), "a")
    assert provider.take() == []
    assert house.logger.lines == []


def test_a_new_listener_is_asked_for_names_that_are_already_subscribed(house):
    provider, subscriber = house.client(), house.client()
    for name in ("a1", "b1", "a2"):
        house.registry.subscribe(subscriber, name)
    house.listen(provider, "^a")
    messages = provider.take()
    assert sorted(messages[:2], key=str) == [found("^a", "a1"), found("^a", "a2")]
    assert messages[2:] == [("LISTEN", {"name": "^a", "is_ack": True})]


def test_many_subscribed_names_are_matched_in_slices(house, monkeypatch):
    monkeypatch.setattr(listen_module, "NAMES_PER_TURN", 3)
    provider, second, subscriber = house.client(), house.client(), house.client()
    for i in range(10):
        house.registry.subscribe(subscriber, f"a{i}")
    house.listen(provider, "^a")
    assert len(provider.take()) == 4
    house.listen(second, "^a[0-5]")
    house.registry.unsubscribe(subscriber, "a4")
    for expected in (2, 3, 1):
        house.timers.advance(0)
        assert len(provider.take()) == expected
    for _ in range(6):
        house.timers.advance(0)
    for i in (0, 2):
        house.reject(provider, "^a", f"a{i}")
    assert second.take() == [
        ("LISTEN", {"name": "^a[0-5]", "is_ack": True}),
        *(found("^a[0-5]", f"a{i}") for i in (0, 2)),
    ]
    assert len(house.timers.active) == 9 + 1  # one per search, and the rematch timer


def test_candidates_are_asked_in_listen_order_or_shuffled():
    def order(**options):
        house = House(**options)
        clients = [house.client(str(i)) for i in range(6)]
        for i, client in enumerate(clients):
            house.listen(client, "ab"[i % 2])
            client.take()
        house.registry.subscribe(house.client(), "ab")
        asked = []
        for _ in clients:
            ((client, messages),) = [(client, sent) for client in clients if (sent := client.take())]
            asked.append(client.name)
            house.reject(client, messages[0][1]["name"], "ab")
        return "".join(asked)

    assert order() == "012345"
    shuffled = {order(shuffle_providers=True, rng=random.Random(seed)) for seed in range(5)}
    assert len(shuffled) > 1
    assert all(sorted(names) == list("012345") for names in shuffled)


def test_a_subscriber_may_be_asked_itself(house):
    client = house.client()
    house.listen(client, "a")
    house.registry.subscribe(client, "a")
    house.accept(client, "a", "a")
    assert client.take()[1:] == [found("a", "a"), *notices(house, (HAS, {"name": "a"}))]


def test_each_matching_pattern_of_a_client_is_a_candidate(house):
    client = house.client()
    house.listen(client, "a")
    house.listen(client, "1")
    house.registry.subscribe(house.client(), "a1")
    house.reject(client, "a", "a1")
    assert client.take()[2:] == [found("a", "a1"), found("1", "a1")]


# asking -> provided, asking, failed.


def test_accept_makes_the_provider(house):
    provider, subscriber = house.client(), house.client()
    house.listen(provider, "a")
    house.registry.subscribe(subscriber, "a")
    house.accept(provider, "a", "a")
    assert subscriber.take() == notices(house, (HAS, {"name": "a"}))
    late = house.client()
    house.registry.subscribe(late, "a")
    assert late.take() == notices(house, (HAS, {"name": "a"}))
    assert house.registry.provided == ({"a"} if house.topic == Topic.RECORD else set())
    assert len(house.timers.active) == 1 + 1  # rematch, and the turn of the LISTEN
    provider.take()
    house.accept(provider, "a", "a")
    house.reject(provider, "a", "a")
    house.listen(house.client(), "a")
    assert provider.take() == subscriber.take() == []


def test_reject_asks_the_next_and_then_fails(house):
    first, second, subscriber = house.client(), house.client(), house.client()
    house.listen(first, "a")
    house.listen(second, "a.*")
    house.registry.subscribe(subscriber, "a")
    first.take(), second.take()
    house.reject(first, "a", "a")
    assert second.take() == [found("a.*", "a")]
    house.reject(second, "a.*", "a")
    house.timers.advance(5000)
    assert first.take() == second.take() == subscriber.take() == []


def test_silence_is_told_and_the_next_is_asked(house):
    first, second = house.client(), house.client()
    house.listen(first, "a")
    house.listen(second, "a")
    house.registry.subscribe(house.client(), "a")
    first.take(), second.take()
    house.timers.advance(499)
    assert second.take() == []
    house.timers.advance(1)
    assert first.take() == [timeout("a")]
    assert second.take() == [found("a", "a")]
    house.timers.advance(500)
    assert second.take() == [timeout("a")]
    assert first.take() == []


def test_the_timeout_comes_before_the_next_question_to_the_same_client(house):
    client = house.client()
    house.listen(client, "a")
    house.listen(client, "b|a")
    house.registry.subscribe(house.client(), "a")
    client.take()
    house.timers.advance(500)
    assert client.take() == [timeout("a"), found("b|a", "a")]


def test_a_listener_that_comes_during_a_search_is_appended(house):
    first, second = house.client(), house.client()
    house.listen(first, "a")
    house.registry.subscribe(house.client(), "a")
    house.timers.advance(0)
    house.listen(second, "a|b")
    assert [name for name, _ in second.take()] == ["LISTEN"]
    house.reject(first, "a", "a")
    assert second.take() == [found("a|b", "a")]


def test_a_late_accept_during_the_search_wins_and_the_one_being_asked_is_told(house):
    first, second = house.client(), house.client()
    house.listen(first, "a")
    house.listen(second, "a")
    house.registry.subscribe(house.client(), "a")
    house.timers.advance(500)
    first.take(), second.take()
    house.accept(first, "a", "a")
    house.accept(second, "a", "a")
    assert first.take() == []
    assert second.take() == [removed("a", "a")]
    second.close()
    assert house.registry.provided == ({"a"} if house.topic == Topic.RECORD else set())


def test_an_accept_after_the_search_has_failed_or_ended_is_answered_with_removed(house):
    """Such a client believes to be the provider and would publish for ever."""
    client, subscriber = house.client(), house.client()
    house.listen(client, "a")
    house.registry.subscribe(subscriber, "a")
    house.timers.advance(500)
    client.take()
    house.accept(client, "a", "a")
    assert client.take() == [removed("a", "a")]
    house.registry.unsubscribe(subscriber, "a")
    house.registry.subscribe(subscriber, "a")
    house.registry.unsubscribe(subscriber, "a")
    client.take()
    house.accept(client, "a", "a")
    assert client.take() == [removed("a", "a")]
    assert subscriber.take() == []


def test_only_who_was_asked_can_accept(house):
    """Upstream lets any client take over a name by LISTEN_ACCEPT."""
    provider, waiting, stranger, subscriber = (house.client() for _ in range(4))
    house.listen(provider, "a")
    house.listen(waiting, "a|b")
    house.registry.subscribe(subscriber, "a")
    for client in (provider, waiting):
        client.take()
    house.accept(stranger, "a", "a")
    house.accept(provider, "b", "a")
    house.reject(stranger, "a", "a")
    house.reject(waiting, "a|b", "a")
    assert stranger.take() == provider.take() == subscriber.take() == waiting.take() == []
    house.accept(waiting, "a|b", "a")
    assert waiting.take() == [removed("a|b", "a")]
    assert house.registry.provided == set()
    house.accept(provider, "a", "a")
    assert subscriber.take() == notices(house, (HAS, {"name": "a"}))


def test_a_rejected_offer_cannot_be_accepted_later(house):
    first, second = house.client(), house.client()
    house.listen(first, "a")
    house.listen(second, "a")
    house.registry.subscribe(house.client(), "a")
    house.reject(first, "a", "a")
    first.take()
    house.accept(first, "a", "a")
    assert first.take() == [removed("a", "a")]
    assert house.registry.provided == set()


def test_answers_for_unknown_searches_are_ignored(house):
    client = house.client()
    house.listen(client, "^a")
    client.take()
    for name in ("b", "zz"):
        house.accept(client, "^a", name)
        house.reject(client, "^a", name)
    house.accept(client, "nope", "a")
    assert client.take() == []


# Searches and listeners that go away.


@pytest.mark.parametrize("how", ["unlisten", "close"])
def test_only_the_entries_of_the_leaving_listener_are_removed(house, how):
    """Upstream clears the candidates of all running searches."""
    clients = [house.client(str(i)) for i in range(4)]
    for client in clients:
        house.listen(client, "a")
    house.listen(clients[0], "b")
    house.registry.subscribe(house.client(), "a")
    house.registry.subscribe(house.client(), "b")
    for client in clients:
        client.take()

    def leave(client):
        house.unlisten(client, "a") if how == "unlisten" else client.close()
        client.take()

    leave(clients[2])  # still waiting
    assert clients[1].take() == []
    house.reject(clients[0], "a", "a")
    assert clients[1].take() == [found("a", "a")]
    leave(clients[1])  # being asked: the next one is asked at once
    assert clients[3].take() == [found("a", "a")]
    house.accept(clients[3], "a", "a")
    house.accept(clients[0], "b", "b")
    assert clients[3].take() == clients[0].take() == []
    assert house.registry.provided == ({"a", "b"} if house.topic == Topic.RECORD else set())


def test_a_dead_client_with_several_patterns_is_not_asked_again(house):
    client, other = house.client(), house.client()
    for pattern in ("a", "a1", "1"):
        house.listen(client, pattern)
    house.listen(other, "a")
    house.registry.subscribe(house.client(), "a1")
    house.accept(client, "a", "a1")
    client.take(), other.take()
    client.close()
    assert client.sent == []
    assert other.take() == [found("a", "a1")]
    house.reject(other, "a", "a1")
    assert len([timer for timer in house.timers.active if timer.due > 0]) == 1


def test_a_listener_that_listens_again_during_the_search_starts_afresh(house):
    client = house.client()
    house.listen(client, "a")
    house.registry.subscribe(house.client(), "a")
    house.timers.advance(0)
    house.unlisten(client, "a")
    client.take()
    house.listen(client, "a")
    assert client.take()[0] == found("a", "a")
    house.accept(client, "a", "a")
    assert client.take() == []


@pytest.mark.parametrize("how", ["unlisten", "close"])
def test_a_lost_provider_is_replaced_by_one_search(house, how):
    provider, subscriber = house.provided()
    others = [house.client(), house.client()]
    for other in others:
        house.listen(other, "a")
        other.take()
    house.logger.lines.clear()
    if how == "unlisten":
        house.unlisten(provider, "^a")
        assert provider.take() == [("UNLISTEN", {"name": "^a", "is_ack": True})]
    else:
        provider.close()
    assert not provider.callbacks or how == "close"
    assert subscriber.take() == notices(house, (HAS_NOT, {"name": "a1"}))
    assert [other.take() for other in others] == [[found("a", "a1")], []]
    name = f"{house.topic.name}:a1"
    assert house.logger.lines == [
        ("info", "LISTEN_PROVIDER_STOPPED", name),
        ("debug", "LOCAL_LISTEN", f"started for {name}"),
    ]
    house.accept(others[0], "a", "a1")
    assert subscriber.take() == notices(house, (HAS, {"name": "a1"}))


def test_unlisten_of_one_pattern_keeps_what_another_pattern_provides(house):
    provider, subscriber = house.provided()
    house.listen(provider, "b")
    house.unlisten(provider, "b")
    assert subscriber.take() == []
    assert len(provider.callbacks) == 1


def test_the_last_unsubscription_stops_the_provider(house):
    provider, subscriber = house.provided()
    second = house.client()
    house.registry.subscribe(second, "a1")
    house.registry.unsubscribe(subscriber, "a1")
    assert provider.take() == []
    house.registry.unsubscribe(second, "a1")
    assert provider.take() == [removed("^a", "a1")]
    assert house.registry.provided == set()
    assert not any(event == "LISTEN_PROVIDER_STOPPED" for _, event, _ in house.logger.lines)
    house.registry.subscribe(subscriber, "a1")
    assert subscriber.take() == []
    assert provider.take() == [found("^a", "a1")]


def test_the_last_unsubscription_ends_a_search(house):
    provider, subscriber = house.client(), house.client()
    house.listen(provider, "a")
    house.registry.subscribe(subscriber, "a")
    provider.take()
    house.registry.unsubscribe(subscriber, "a")
    house.timers.advance(1000)
    assert provider.take() == []
    assert len(house.timers.active) == 1


@pytest.mark.parametrize("order", [0, 1])
def test_a_provider_that_is_the_last_subscriber_may_disconnect(house, order):
    client = house.client()
    house.listen(client, "a")
    house.registry.subscribe(client, "a")
    house.accept(client, "a", "a")
    steps = [client.close, lambda: house.registry.drop(client)]
    for step in (steps, steps[::-1])[order]:
        step()
    assert house.registry.provided == set()
    assert house.registry.listener is None
    assert not house.timers.active


def test_close_callbacks_do_not_pile_up(house):
    provider, subscriber = house.provided()
    for _ in range(50):
        house.registry.unsubscribe(subscriber, "a1")
        house.registry.subscribe(subscriber, "a1")
        house.accept(provider, "^a", "a1")
        house.listen(provider, "b")
        house.unlisten(provider, "b")
    assert len(provider.callbacks) == 1
    house.unlisten(provider, "^a")
    assert provider.callbacks == []


def test_a_connection_that_dies_while_it_is_being_asked_does_not_stop_the_search(house):
    """A full outbox closes the connection inside send()."""

    class Fragile(FakeConnection):
        def send(self, message):
            if message.action == house.actions.SUBSCRIPTION_FOR_PATTERN_FOUND:
                self.close()

    fragile, other = Fragile(), house.client()
    house.listen(fragile, "a")
    house.listen(fragile, "a1")
    house.listen(other, "a")
    other.take()
    house.registry.subscribe(house.client(), "a1")
    assert other.take() == [found("a", "a1")]
    house.timers.advance(500)
    assert other.take() == [timeout("a1")]


def test_subscribers_that_die_during_a_notice_do_no_harm():
    house = House()

    class Fragile(FakeConnection):
        def send(self, message):
            if not self.is_closed:
                self.close()
                house.registry.drop(self)

    provider, fragile = house.client(), Fragile()
    house.listen(provider, "a")
    house.registry.subscribe(fragile, "a")
    house.accept(provider, "a", "a")
    assert provider.take()[-1] == removed("a", "a")
    assert house.registry.provided == set()


class Trap(FakeConnection):
    """Dies of the first message of one action, together with its subscriptions."""

    def __init__(self, house, action):
        super().__init__()
        self.house, self.action = house, action

    def send(self, message):
        super().send(message)
        if message.action == self.house.actions[self.action] and not self.is_closed:
            self.house.registry.drop(self)
            self.close()


def test_the_last_subscriber_that_dies_of_its_own_timeout_ends_the_search(house):
    trap, other = Trap(house, "LISTEN_RESPONSE_TIMEOUT"), house.client()
    house.listen(trap, "a")
    house.listen(other, "a")
    house.registry.subscribe(trap, "a")
    other.take()
    house.timers.advance(500)
    assert other.take() == []
    assert len(house.timers.active) == 1


def test_a_search_that_ends_while_its_listener_leaves(house):
    leaving, trap = house.client(), Trap(house, "SUBSCRIPTION_FOR_PATTERN_FOUND")
    house.listen(leaving, "a")
    house.listen(trap, "a")
    for name in ("a1", "a2"):
        house.registry.subscribe(house.client() if name == "a1" else trap, name)
    leaving.close()
    assert trap.is_closed
    assert house.registry.listener is None
    assert not house.timers.active


def test_a_name_that_ends_while_its_provider_leaves():
    house = House()
    provider, trap = house.client(), Trap(house, HAS_NOT)
    house.listen(provider, "a")
    for name in ("a1", "a2", "a3"):
        house.registry.subscribe(trap, name)
        house.accept(provider, "a", name)
    house.logger.lines.clear()
    house.unlisten(provider, "a")
    assert [event for _, event, _ in house.logger.lines] == ["LISTEN_PROVIDER_STOPPED"]
    assert house.registry.provided == set()


def test_the_last_listener_that_dies_while_it_meets_the_names(house, monkeypatch):
    monkeypatch.setattr(listen_module, "NAMES_PER_TURN", 1)
    for name in ("a1", "a2", "a3"):
        house.registry.subscribe(house.client(), name)
    trap = Trap(house, "SUBSCRIPTION_FOR_PATTERN_FOUND")
    house.listen(trap, "a")
    assert trap.is_closed
    assert not house.timers.active
    provider = house.client()
    house.listen(provider, "a")
    for _ in range(3):
        house.timers.advance(0)
    assert [fields.get("subscription") for _, fields in provider.take()] == ["a1", None, "a2", "a3"]


# Rematch and cool-down.


def test_unprovided_names_are_searched_again_every_interval(house):
    provider, _subscriber = house.provided()
    silent = house.client()
    house.registry.subscribe(silent, "a2")
    house.reject(provider, "^a", "a2")
    house.registry.subscribe(silent, "b")
    provider.take()
    house.timers.advance(29_000)
    assert provider.take() == []
    house.timers.advance(1000)
    assert provider.take() == [found("^a", "a2")]
    house.timers.advance(30_000)
    assert provider.take() == [timeout("a2"), found("^a", "a2")]
    house.accept(provider, "^a", "a2")
    house.timers.advance(60_000)
    assert provider.take() == []


@pytest.mark.parametrize("interval", [50, 1000])
def test_rematch_of_a_second_or_less_is_off(interval):
    house = House(rematch_interval=interval)
    assert house.logger.lines == [
        (
            "warn",
            "INVALID_CONFIG_DATA",
            "Setting listen.rematchInterval to less than a second is not permitted.",
        )
    ]
    house.listen(house.client(), "a")
    house.timers.advance(0)
    assert not house.timers.active
    assert House(rematch_interval=1001).logger.lines == []


def test_after_a_failed_search_a_node_cools_down():
    """The upstream test is inverted: a node that failed once never reacts again."""
    house = House(rematch_interval=1000)
    provider = house.client()
    house.listen(provider, "a")
    house.registry.subscribe(house.client(), "a")
    house.reject(provider, "a", "a")
    provider.take()
    house.timers.advance(10_000)
    house.handler.on_remote_search_failed("a")
    assert provider.take() == []
    house.timers.advance(1)
    house.handler.on_remote_search_failed("a")
    assert provider.take() == [found("a", "a")]
    house.handler.on_remote_search_failed("a")
    house.handler.on_remote_search_failed("never subscribed")
    assert provider.take() == []


def test_the_cool_down_ends_with_the_subscription():
    house = House()
    provider, subscriber = house.client(), house.client()
    house.listen(provider, "a")
    house.registry.subscribe(subscriber, "a")
    house.reject(provider, "a", "a")
    assert "a" in house.handler._failed
    house.registry.unsubscribe(subscriber, "a")
    assert not house.handler._failed
    house.registry.subscribe(subscriber, "a")
    house.reject(provider, "a", "a")
    house.unlisten(provider, "a")
    assert not house.handler._failed


# Patterns.


@pytest.mark.parametrize("vector", VECTORS["patterns"], ids=[ascii(text) for text, _ in VECTORS["patterns"]])
def test_patterns_mean_what_they_mean_in_javascript(vector):
    text, expected = vector
    lacking = ("(?=", "(?!", "(?<=", "(?<!", "(a)\\1", "\\k<n>")  # what RE2 cannot do
    if expected is None or (any(part in text for part in lacking) and text not in ("\\k<n>", "(a)\\2")):
        with pytest.raises(RegexpError):
            Pattern(text)
    else:
        pattern = Pattern(text)
        assert [i for i, name in enumerate(VECTORS["subjects"]) if pattern.matches(name)] == expected


def test_patterns_that_explode_elsewhere_run_in_linear_time():
    pattern = Pattern("^(a+)+$")
    assert not pattern.matches("a" * 100_000 + "b")
    with pytest.raises(RegexpError):
        Pattern("((((a{0,100}){0,100}){0,100}){0,100})")
    with pytest.raises(RegexpError):
        Pattern("[^/]{1000}" * 20)


def test_a_matcher_that_runs_out_of_memory_still_answers_rightly(monkeypatch):
    """RE2 reports "no match" then, even for the empty pattern, and the sources are asked one by one."""

    class Exhausted:
        def Match(self, text):
            return None

    matcher = Matcher(["^a", "b", "c$"], 1 << 18)
    expected = [matcher.match(name) for name in ("abc", "b", "x")]
    monkeypatch.setattr(matcher, "_set", Exhausted())
    assert [matcher.match(name) for name in ("abc", "b", "x")] == expected == [[0, 1, 2], [1], []]


def test_the_index_agrees_with_the_single_patterns():
    rng = random.Random(5)
    index, patterns = PatternIndex(), []
    names = [f"t{i}/{i % 7}" for i in range(60)]
    for step in range(600):
        if patterns and rng.random() < (0.3 if step < 400 else 0.7):
            index.discard(patterns.pop(rng.randrange(len(patterns))))
        else:
            patterns.append(
                Pattern(rng.choice(["^t{}/", "{}$", "t.*{}", "/[{}-9]"]).format(rng.randrange(10)))
            )
            index.add(patterns[-1])
        name = rng.choice(names)
        assert set(index.match(name)) == {pattern for pattern in patterns if pattern.matches(name)}


def test_an_index_too_large_for_one_automaton_still_answers(monkeypatch):
    monkeypatch.setattr("dsfast.handlers.patterns.INDEX_MEMORY", 5000)
    index = PatternIndex()
    patterns = [Pattern(f"^topic{i}/[a-z]+") for i in range(100)]
    for pattern in patterns:
        index.add(pattern)
    assert index.match("topic77/x") == [patterns[77]]
    index.discard(patterns[77])
    assert index.match("topic77/x") == []


# The permission to listen to a name itself (5.1).


class FakeGate:
    """Lets the test decide: of each open question the future, in the order of asking."""

    def __init__(self):
        self.questions = {}
        self.cancelled = []

    async def decide(self, connection, message):
        assert message.action == (RecordAction if message.topic == Topic.RECORD else EventAction).LISTEN
        key = (connection.name, message.name)
        assert key not in self.questions, "the same question twice at a time"
        self.questions[key] = asyncio.get_running_loop().create_future()
        try:
            return await self.questions[key]
        except asyncio.CancelledError:
            self.cancelled.append(key)
            raise
        finally:
            del self.questions[key]

    async def asked(self):
        """The open questions, once everything that is ready has run."""
        await turns()
        return list(self.questions)

    async def answer(self, decision, who, name):
        """Answer one question; an exception is raised in the place of an answer."""
        await turns()
        future = self.questions[who, name]
        if isinstance(decision, BaseException):
            future.set_exception(decision)
        else:
            future.set_result(decision)
        await turns()


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


ALLOWED, DENIED, FAILED = Decision.ALLOWED, Decision.DENIED, Decision.FAILED


@pytest.fixture(params=[Topic.RECORD, Topic.EVENT], ids=["record", "event"])
def checked(request):
    """A house with the option on, and two listeners: first and second."""
    house = House(request.param, gate=FakeGate(), check_names=True)
    house.gate = house.handler._gate
    house.first, house.second, house.subscriber = (house.client(name) for name in ("first", "second", "s"))
    house.listen(house.first, "^a", correlation_id="1")
    house.listen(house.second, ".*", correlation_id="1")
    house.first.take()
    house.second.take()
    return house


async def test_name_is_shown_only_after_it_is_permitted(checked):
    checked.registry.subscribe(checked.subscriber, "a1")
    assert await checked.gate.asked() == [("first", "a1")]
    checked.timers.advance(2000)
    assert checked.first.take() == []
    await checked.gate.answer(ALLOWED, "first", "a1")
    assert checked.first.take() == [found("^a", "a1")]
    checked.timers.advance(499)
    assert checked.first.take() == [], "the time to respond begins with the question"
    checked.timers.advance(1)
    assert checked.first.take() == [timeout("a1")]
    await checked.gate.answer(ALLOWED, "second", "a1")
    assert checked.second.take() == [found(".*", "a1")]
    checked.accept(checked.second, ".*", "a1")
    assert checked.subscriber.take() == notices(checked, (HAS, {"name": "a1"}))


@pytest.mark.parametrize("answer", [DENIED, FAILED, RuntimeError("x"), asyncio.CancelledError()])
async def test_who_is_not_permitted_does_not_learn_of_the_name(checked, answer):
    checked.registry.subscribe(checked.subscriber, "a1")
    await checked.gate.answer(answer, "first", "a1")
    await checked.gate.answer(answer, "second", "a1")
    assert await checked.gate.asked() == []
    checked.timers.advance(1000)
    assert checked.first.take() == checked.second.take() == checked.subscriber.take() == []
    checked.timers.advance(30_000)  # the next search asks again: permission may have changed
    checked.timers.advance(0)
    await checked.gate.answer(ALLOWED, "first", "a1")
    assert checked.first.take() == [found("^a", "a1")]


@pytest.mark.parametrize("how", ["close", "unlisten"])
async def test_listener_that_goes_during_the_check_is_forgotten_and_the_next_is_checked(checked, how):
    checked.registry.subscribe(checked.subscriber, "a1")
    assert await checked.gate.asked() == [("first", "a1")]
    checked.first.close() if how == "close" else checked.unlisten(checked.first, "^a")
    assert await checked.gate.asked() == [("second", "a1")]
    assert checked.gate.cancelled == [("first", "a1")]
    await checked.gate.answer(ALLOWED, "second", "a1")
    assert checked.second.take() == [found(".*", "a1")]
    assert (
        "SUBSCRIPTION_FOR_PATTERN_FOUND",
        {"name": "^a", "subscription": "a1"},
    ) not in checked.first.take()


async def test_listener_that_goes_when_its_permission_has_just_been_given_is_not_asked(checked):
    checked.registry.subscribe(checked.subscriber, "a1")
    await checked.gate.asked()
    checked.gate.questions["first", "a1"].set_result(ALLOWED)
    await asyncio.sleep(0)  # the check is done, its callback is not
    checked.first.close()
    assert await checked.gate.asked() == [("second", "a1")]
    assert checked.first.sent == []


async def test_subscription_that_ends_during_the_check_ends_the_search(checked):
    checked.registry.subscribe(checked.subscriber, "a1")
    assert await checked.gate.asked() == [("first", "a1")]
    checked.registry.unsubscribe(checked.subscriber, "a1")
    assert await checked.gate.asked() == []
    assert checked.gate.cancelled == [("first", "a1")]
    checked.registry.subscribe(checked.subscriber, "a1")
    await checked.gate.answer(ALLOWED, "first", "a1")
    assert checked.first.take() == [found("^a", "a1")]


async def test_nobody_can_answer_for_a_name_it_was_not_shown(checked):
    checked.registry.subscribe(checked.subscriber, "a1")
    assert await checked.gate.asked() == [("first", "a1")]
    checked.reject(checked.first, "^a", "a1")
    assert await checked.gate.asked() == [("first", "a1")]
    checked.accept(checked.first, "^a", "a1")
    assert checked.first.take() == [removed("^a", "a1")]
    assert checked.subscriber.take() == []
    assert await checked.gate.asked() == [("first", "a1")]


async def test_late_accept_of_another_ends_the_check(checked):
    checked.registry.subscribe(checked.subscriber, "a1")
    await checked.gate.answer(ALLOWED, "first", "a1")
    checked.timers.advance(500)
    assert await checked.gate.asked() == [("second", "a1")]
    checked.accept(checked.first, "^a", "a1")
    assert await checked.gate.asked() == []
    assert checked.gate.cancelled == [("second", "a1")]
    assert checked.subscriber.take() == notices(checked, (HAS, {"name": "a1"}))


async def test_new_listener_is_checked_for_the_names_that_are_subscribed(checked):
    checked.registry.subscribe(checked.subscriber, "b")
    await checked.gate.answer(DENIED, "second", "b")
    third = checked.client("third")
    checked.listen(third, "b")
    checked.timers.advance(0)
    await checked.gate.answer(DENIED, "second", "b")
    await checked.gate.answer(ALLOWED, "third", "b")
    assert third.take()[-1] == found("b", "b")
    assert checked.second.take() == []


async def test_close_ends_the_checks(checked):
    checked.registry.subscribe(checked.subscriber, "a1")
    assert await checked.gate.asked() == [("first", "a1")]
    checked.handler.close()
    assert await checked.gate.asked() == []
    assert checked.gate.cancelled == [("first", "a1")]


async def test_without_the_option_only_the_pattern_counts():
    house = House(gate=FakeGate())
    listener, subscriber = house.client(), house.client()
    house.listen(listener, "^a", correlation_id="1")
    house.registry.subscribe(subscriber, "a1")
    assert listener.take()[-1] == found("^a", "a1")


class RandomGate:
    """Refuses by a fixed choice, now or later."""

    def __init__(self, chance):
        self.chance = chance
        self.choices = {}

    def permits(self, connection, name):
        return self.choices.setdefault((connection, name), self.chance.random() < 0.5)

    async def decide(self, connection, message):
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        return ALLOWED if self.permits(connection, message.name) else DENIED


@pytest.mark.parametrize("seed", range(30))
async def test_names_are_shown_to_all_who_are_permitted_and_to_nobody_else(seed):
    chance = random.Random(seed)
    gate = RandomGate(chance)
    house = House(gate=gate, check_names=True, shuffle_providers=True, rng=chance)
    clients = [Client() for _ in range(4)]

    def settle():
        for client in clients:
            assert all(gate.permits(client, name) for _, name in client.ever_asked)
            for pattern, name in sorted(client.offers):
                client.offers.discard((pattern, name))
                client.providing.add((pattern, name))
                house.accept(client, pattern, name)

    for _ in range(150):
        number, name, pattern = chance.randrange(4), chance.choice(NAMES), chance.choice(PATTERNS)
        client = clients[number]
        match chance.randrange(6):
            case 0 | 1:
                client.patterns.add(pattern)
                house.listen(client, pattern)
            case 2:
                house.unlisten(client, pattern)
                client.patterns.discard(pattern)
                client.offers = {offer for offer in client.offers if offer[0] != pattern}
            case 3:
                if client not in house.registry.subscribers.get(name, ()):
                    house.registry.subscribe(client, name)
            case 4:
                client.sees_provider.discard(name)
                house.registry.unsubscribe(client, name)
            case 5:
                client.close()
                house.registry.drop(client)
                clients[number] = Client()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        if chance.random() < 0.2:
            settle()
    for _ in range(130):  # one rematch, with answers in time
        house.timers.advance(250)
        await turns()
        settle()
    for name in house.registry.subscribers:
        permitted = any(
            Pattern(text).matches(name) and gate.permits(client, name)
            for client in clients
            for text in client.patterns
        )
        assert (name in house.registry.provided) == permitted
    house.handler.close()
    assert not house.timers.active


# The whole against a model.

NAMES = ["a", "b", "ab", "c", "xa"]
PATTERNS = ["a", "^b", "^ab?$", "c|a", "."]


class Client(FakeConnection):
    """A client that keeps what it was told: offers, what it provides, which names have a provider."""

    def __init__(self):
        super().__init__()
        self.patterns = set()
        self.offers = set()
        self.ever_asked = set()
        self.providing = set()
        self.sees_provider = set()

    def send(self, message):
        if self.is_closed:
            return
        action = RecordAction(message.action)
        offer = (message.name, message.subscription)
        if action == RecordAction.SUBSCRIPTION_FOR_PATTERN_FOUND:
            assert message.name in self.patterns, "asked for a pattern it does not listen to"
            self.offers.add(offer)
            self.ever_asked.add(offer)
        elif action == RecordAction.SUBSCRIPTION_FOR_PATTERN_REMOVED:
            self.providing.discard(offer)
        elif action == RecordAction.SUBSCRIPTION_HAS_PROVIDER:
            assert message.name not in self.sees_provider, "told twice"
            self.sees_provider.add(message.name)
        elif action == RecordAction.SUBSCRIPTION_HAS_NO_PROVIDER:
            self.sees_provider.remove(message.name)


class Listening(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.house = House(shuffle_providers=True, rng=random.Random(3))
        self.registry = self.house.registry
        self.clients = [Client() for _ in range(4)]
        self.subscriptions = {}
        self.matches = {text: {name for name in NAMES if Pattern(text).matches(name)} for text in PATTERNS}

    who = st.integers(0, 3)

    @rule(who=who, pattern=st.sampled_from(PATTERNS))
    def listen(self, who, pattern):
        self.clients[who].patterns.add(pattern)
        self.house.listen(self.clients[who], pattern)

    @rule(who=who, pattern=st.sampled_from(PATTERNS))
    def unlisten(self, who, pattern):
        client = self.clients[who]
        self.house.unlisten(client, pattern)
        client.patterns.discard(pattern)
        client.offers = {offer for offer in client.offers if offer[0] != pattern}
        client.providing = {offer for offer in client.providing if offer[0] != pattern}

    @rule(who=who, name=st.sampled_from(NAMES))
    def subscribe(self, who, name):
        client = self.clients[who]
        if client not in self.registry.subscribers.get(name, ()):
            self.registry.subscribe(client, name)

    @rule(who=who, name=st.sampled_from(NAMES))
    def unsubscribe(self, who, name):
        self.clients[who].sees_provider.discard(name)
        self.registry.unsubscribe(self.clients[who], name)

    @rule(who=who, order=st.booleans())
    def reconnect(self, who, order):
        client = self.clients[who]
        client.is_closed = True
        steps = [client.close, lambda: self.registry.drop(client)]
        for step in steps if order else reversed(steps):
            step()
        self.clients[who] = Client()

    @precondition(lambda self: any(client.offers for client in self.clients))
    @rule(data=st.data(), accept=st.booleans())
    def answer(self, data, accept):
        client = data.draw(st.sampled_from([client for client in self.clients if client.offers]))
        self.reply(client, data.draw(st.sampled_from(sorted(client.offers))), accept)

    def reply(self, client, offer, accept):
        client.offers.discard(offer)
        if accept:
            client.providing.add(offer)
            self.house.accept(client, *offer)
        else:
            self.house.reject(client, *offer)

    @rule(who=who, pattern=st.sampled_from([*PATTERNS, "zz"]), name=st.sampled_from([*NAMES, "zz"]))
    def accept_unasked(self, who, pattern, name):
        client = self.clients[who]
        if (pattern, name) not in client.offers:
            self.house.accept(client, pattern, name)

    @rule(milliseconds=st.sampled_from([0, 100, 500, 2000, 30_000]))
    def wait(self, milliseconds):
        self.house.timers.advance(milliseconds)

    @rule(name=st.sampled_from(NAMES))
    def remote_failure(self, name):
        self.house.handler.on_remote_search_failed(name)

    @rule()
    def settle(self):
        """With willing listeners every subscribed name that can have a provider gets one."""
        for _ in range(30_000 // 250 + 1):  # one rematch, with answers in time
            self.house.timers.advance(250)
            for client in self.clients:
                for offer in sorted(client.offers):
                    self.reply(client, offer, True)
        for name in self.registry.subscribers:
            willing = any(name in self.matches[text] for client in self.clients for text in client.patterns)
            assert (name in self.registry.provided) == willing

    @invariant()
    def consistent(self):
        handler, timers = self.house.handler, self.house.timers
        assert self.registry.provided == set(handler._providers)
        for name, listener in handler._providers.items():
            client = listener.connection
            assert client in self.clients
            assert not client.is_closed
            assert listener.pattern.text in client.patterns
            assert name in self.matches[listener.pattern.text]
            assert (listener.pattern.text, name) in client.ever_asked
            assert name in self.registry.subscribers
            assert name not in handler._searches
        believed = {(client, *offer) for client in self.clients for offer in client.providing}
        actual = {(entry.connection, entry.pattern.text, name) for name, entry in handler._providers.items()}
        assert believed == actual
        for name, subscribers in self.registry.subscribers.items():
            for client in subscribers:
                assert (name in client.sees_provider) == (name in self.registry.provided)
        for name, search in handler._searches.items():
            assert name in self.registry.subscribers
            assert search.current is not None
            assert search.current.live
            assert search.timer in timers.active
        listening = any(client.patterns for client in self.clients)
        assert (self.registry.listener is handler) == listening
        extra = [handler._turn_timer, handler._rematch_timer]
        expected = {search.timer for search in handler._searches.values()} | {
            t for t in extra if t is not None
        }
        assert timers.active == expected
        assert bool(timers.active) == listening
        for client in self.clients:
            assert len(client.callbacks) == bool(client.patterns)
            assert set(handler._connections.get(client, {})) == client.patterns
        assert set(handler._failed) <= set(self.registry.subscribers)

    def teardown(self):
        self.house.handler.close()
        assert not self.house.timers.active


Listening.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestListening = Listening.TestCase
