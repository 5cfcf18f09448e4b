"""Listening: clients that provide records or events on demand (spec/events-rpc-presence-listen.md section 5).

A client LISTENs with a pattern. Whenever somebody is subscribed to a name that matches, one listener after
the other is asked to provide it until one accepts. A single node starts a search at once; if the locks or
the cluster registry are a plugin's, it begins when the lock of the name is granted.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from dsfast._core.protocol import EventAction, Message, RecordAction, Topic
from dsfast.config import ListenConfig
from dsfast.handlers.locks import SearchLocks
from dsfast.handlers.patterns import Pattern, PatternIndex
from dsfast.handlers.permission import Decision
from dsfast.plugin import Logger, NamespacedLogger, Socket, StateRegistry
from dsfast.regexp import RegexpError
from dsfast.services.cluster_states import LocalStateRegistry
from dsfast.services.logger import FloodGuard

__all__ = ["ListenHandler"]

NAMES_PER_TURN = 2000
"""Subscribed names looked at in one turn of the loop; the rest waits, so that a LISTEN cannot stall it."""


class Timer(Protocol):
    """A running timer."""

    def cancel(self) -> None:
        """Never call the callback any more."""


class Timers(Protocol):
    """Starts timers."""

    def call_later(self, milliseconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once after `milliseconds`."""


class Registry(Protocol):
    """The subscriptions of one topic."""

    def names(self) -> list[str]:
        """All subscribed names."""

    def has(self, name: str) -> bool:
        """Whether anybody is subscribed to `name`."""

    def broadcast(self, name: str, message: Message, sender: Socket | None = None) -> None:
        """Send `message` to all subscribers of `name` but the sender."""

    def set_provided(self, name: str, provided: bool) -> None:
        """Whether later subscribers of `name` are told that it has a provider."""

    def set_listener(self, listener: ListenHandler | None) -> None:
        """Who is told about first subscriptions and last unsubscriptions; None: nobody."""


class Gate(Protocol):
    """Who is asked for permission."""

    def decide(self, connection: Any, message: Message) -> Coroutine[Any, Any, Decision]:
        """Decide about a message, within a time limit."""


class _Listener:
    """One pattern of one connection: a candidate."""

    __slots__ = ("asked_for", "connection", "live", "number", "pattern", "provides")

    def __init__(self, connection: Socket, pattern: Pattern, number: int) -> None:
        self.connection = connection
        self.pattern = pattern
        self.number = number  # LISTEN order
        self.live = True
        # Ordered sets of names: whose search waits for this candidate, and which it provides.
        self.asked_for: dict[str, None] = {}
        self.provides: dict[str, None] = {}


class _Search:
    """The candidates for one name, asked one at a time."""

    __slots__ = ("asked", "begun", "check", "current", "members", "newest", "queue", "timer")

    def __init__(self, candidates: list[_Listener], newest: int) -> None:
        self.begun = False  # before, it waits for the lock of the name
        self.newest = newest  # every matching listener up to this number was a candidate from the start
        self.queue = deque(candidates)
        self.members = set(candidates)
        self.asked: set[_Listener] = set()  # may still accept: the current one, and those that timed out
        self.current: _Listener | None = None
        self.check: asyncio.Task[Decision] | None = None  # whether the current one may be asked at all
        self.timer: Timer | None = None


class _Sweep:
    """A walk over all names that were subscribed when it began."""

    __slots__ = ("names", "position", "visit")

    def __init__(self, names: list[str], visit: Callable[[str], None]) -> None:
        self.names = names
        self.position = 0
        self.visit = visit


class ListenHandler:
    """Patterns, searches and providers of one topic.

    The handler is the listener of `registry` only while there is at least one pattern, so that servers
    without listening clients pay nothing for it. `clock` gives seconds and never goes back. With a `gate` and
    `options.check_names` a listener is only asked for names for which it has the permission to listen.

    What the cluster has to know is kept in two state registries: the `patterns` somebody listens with and the
    names that are `published` by a provider, here or elsewhere. With `locks` a search needs that of its name.
    """

    def __init__(
        self,
        topic: Topic,
        registry: Registry,
        timers: Timers,
        options: ListenConfig,
        logger: Logger | NamespacedLogger,
        *,
        gate: Gate | None = None,
        patterns: StateRegistry | None = None,
        published: StateRegistry | None = None,
        locks: SearchLocks | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._is_record = topic == Topic.RECORD
        self._actions: type[EventAction] | type[RecordAction] = (
            RecordAction if self._is_record else EventAction
        )
        self._registry = registry
        self._timers = timers
        self._options = options
        self._logger = logger
        self._guard = FloodGuard(logger)
        self._gate = gate if options.check_names else None
        self._pattern_states = patterns or LocalStateRegistry()
        self._published = published or LocalStateRegistry()
        self._published.on_add(self._on_published)
        self._published.on_remove(self._on_unpublished)
        self._locks = locks
        self._rng = rng or random.Random()
        self._clock = clock
        self._newest = 0  # number of the latest listener
        self._index = PatternIndex()
        self._patterns: dict[str, tuple[Pattern, dict[Socket, _Listener]]] = {}
        self._connections: dict[Socket, dict[str, _Listener]] = {}
        self._searches: dict[str, _Search] = {}
        self._providers: dict[str, _Listener] = {}
        # Subscribed names whose last search failed: when, and the newest listener that was asked.
        self._failed: dict[str, tuple[float, int]] = {}
        self._newcomers: list[_Listener] = []  # have not met the subscribed names yet
        self._sweeps: dict[str, _Sweep] = {}  # "listen" for newcomers, "rematch"; they take turns
        self._turn_timer: Timer | None = None  # runs while this turn of the loop has had its share of names
        self._rematch_timer: Timer | None = None
        self._close_callback = self._on_close  # one object, whatever connections compare callbacks by
        self._handlers: dict[int, Callable[[Socket, Message], None]] = {
            self._actions.LISTEN: self._listen,
            self._actions.UNLISTEN: self._unlisten,
            self._actions.LISTEN_ACCEPT: self._accept,
            self._actions.LISTEN_REJECT: self._reject,
        }
        if options.rematch_interval <= 1000:
            logger.warn(
                "INVALID_CONFIG_DATA",
                "Setting listen.rematchInterval to less than a second is not permitted.",
            )

    # What the core and the router call.

    def on_message(self, connection: Socket, message: Message) -> None:
        """LISTEN, UNLISTEN, LISTEN_ACCEPT or LISTEN_REJECT from a client."""
        if connection.is_closed:
            return
        handler = self._handlers[message.action]
        if not message.name or (handler in (self._accept, self._reject) and not message.subscription):
            self._send(
                connection,
                self._actions.INVALID_MESSAGE_DATA,
                original_action=message.action,
                is_error=True,
                correlation_id=message.correlation_id,
            )
            return
        handler(connection, message)

    def patterns(self) -> list[tuple[Socket, str]]:
        """Who listens to what."""
        return [(connection, text) for connection, held in self._connections.items() for text in held]

    def counts(self) -> tuple[int, int]:
        """How many different patterns there are, and how many names have a provider."""
        return len(self._patterns), len(self._providers)

    def remove(self, connection: Socket, pattern: str) -> bool:
        """End a LISTEN without telling its client; False if there is none."""
        held = self._connections.get(connection, {})
        listener = held.pop(pattern, None)
        if listener is None:
            return False
        if not held:
            del self._connections[connection]
            connection.remove_on_close(self._close_callback)
        self._withdraw([listener])
        return True

    def on_first_subscription(self, name: str) -> None:
        """Somebody is subscribed to `name`, for the first time or again."""
        self._start_search(name)

    def on_last_unsubscription(self, name: str) -> None:
        """Nobody is subscribed to `name` any more: its search ends, its provider may stop."""
        self._failed.pop(name, None)
        search = self._searches.get(name)
        if search is not None:
            self._end_search(name, search)
        provider = self._release(name)
        if provider is not None:
            self._send_removed(provider, name)

    def on_remote_search_failed(self, name: str) -> None:
        """Another node found no provider (LISTEN_UNSUCCESSFUL): try here, unless that failed lately."""
        failed = self._failed.get(name)
        if failed is not None and (self._clock() - failed[0]) * 1000 <= self._options.match_cooldown:
            return
        if self._registry.has(name):
            self._start_search(name)

    def close(self) -> None:
        """Forget everything, tell nobody; no timer or callback is left."""
        self._guard.close()
        for name, search in list(self._searches.items()):
            self._end_search(name, search)
        for connection in self._connections:
            connection.remove_on_close(self._close_callback)
        self._connections.clear()
        self._patterns.clear()
        self._index = PatternIndex()
        self._providers.clear()
        self._deactivate()
        if self._locks is not None:
            self._locks.close()

    # Patterns.

    def _listen(self, connection: Socket, message: Message) -> None:
        text = str(message.name)
        held = self._connections.get(connection, {})
        if text in held:
            self._send(
                connection,
                self._actions.MULTIPLE_SUBSCRIPTIONS,
                name=text,
                original_action=self._actions.LISTEN,
            )
            self._acknowledge(connection, message)
            return
        try:
            if len(held) >= self._options.max_patterns_per_client:
                raise RegexpError(f"the client has {len(held)} patterns, more are not allowed")
            pattern = self._pattern(text)
        except RegexpError as error:
            shown = repr(text[: self._options.max_pattern_length])
            self._guard.warn(connection.user_id or "nobody", "INVALID_LISTEN_REGEX", f"{shown}: {error}")
            self._send(connection, self._actions.INVALID_LISTEN_REGEX, name=text)
            return
        listener = self._add(connection, pattern)
        self._newcomers.append(listener)
        if self._turn_timer is None:
            self._turn()
        self._acknowledge(connection, message)

    def _pattern(self, text: str) -> Pattern:
        """The compiled pattern, shared by all its listeners. Raises RegexpError."""
        known = self._patterns.get(text)
        if known is not None:
            return known[0]
        if len(text.encode("utf-8", "surrogatepass")) > self._options.max_pattern_length:
            raise RegexpError(f"longer than {self._options.max_pattern_length} bytes")
        return Pattern(text)

    def _add(self, connection: Socket, pattern: Pattern) -> _Listener:
        self._newest += 1
        listener = _Listener(connection, pattern, self._newest)
        if not self._patterns:
            self._activate()
        if pattern.text not in self._patterns:
            self._patterns[pattern.text] = (pattern, {})
            self._index.add(pattern)
        self._patterns[pattern.text][1][connection] = listener
        held = self._connections.get(connection)
        if held is None:
            held = self._connections[connection] = {}
            connection.on_close(self._close_callback)
        held[pattern.text] = listener
        self._pattern_states.add(pattern.text)
        return listener

    def _unlisten(self, connection: Socket, message: Message) -> None:
        text = str(message.name)
        if self.remove(connection, text):
            self._acknowledge(connection, message)
        else:
            self._send(
                connection, self._actions.NOT_SUBSCRIBED, name=text, original_action=self._actions.UNLISTEN
            )

    def _on_close(self, connection: Socket) -> None:
        self._withdraw(list(self._connections.pop(connection, {}).values()))

    def _withdraw(self, listeners: list[_Listener]) -> None:
        """These listeners are gone: all of them leave before any name goes on to its next candidate."""
        for listener in listeners:
            listener.live = False
            pattern, others = self._patterns[listener.pattern.text]
            del others[listener.connection]
            self._pattern_states.remove(pattern.text)
            if not others:
                del self._patterns[pattern.text]
                self._index.discard(pattern)
        for listener in listeners:
            for name in list(listener.asked_for):
                search = self._searches.get(name)
                if search is not None and search.current is listener:
                    self._ask_next(name, search)
            for name in list(listener.provides):
                self._provider_stopped(name, listener)
        if not self._patterns:
            self._deactivate()

    def _activate(self) -> None:
        self._registry.set_listener(self)
        if self._options.rematch_interval > 1000:
            self._rematch_timer = self._timers.call_later(self._options.rematch_interval, self._rematch)

    def _deactivate(self) -> None:
        self._registry.set_listener(None)
        if self._rematch_timer is not None:
            self._rematch_timer.cancel()
            self._rematch_timer = None
        if self._turn_timer is not None:
            self._turn_timer.cancel()
            self._turn_timer = None
        self._sweeps.clear()
        self._newcomers.clear()
        self._failed.clear()  # without a listener nobody says which of these names are still subscribed

    # Searches.

    def _turn(self) -> None:
        """Look at the next names. All LISTENs that came meanwhile share one walk over the names."""
        self._turn_timer = None
        if self._newcomers and "listen" not in self._sweeps:
            self._sweeps["listen"] = _Sweep(self._registry.names(), self._introduce(self._newcomers))
            self._newcomers = []
        if not self._sweeps:
            return
        self._turn_timer = self._timers.call_later(0, self._turn)
        kind = next(iter(self._sweeps))
        sweep = self._sweeps.pop(kind)
        end = sweep.position + NAMES_PER_TURN
        for name in sweep.names[sweep.position : end]:
            if self._registry.has(name):
                sweep.visit(name)
        sweep.position = end
        if end < len(sweep.names) and self._patterns:
            self._sweeps[kind] = sweep

    def _rematch(self) -> None:
        self._rematch_timer = self._timers.call_later(self._options.rematch_interval, self._rematch)
        if "rematch" not in self._sweeps:
            self._sweeps["rematch"] = _Sweep(self._registry.names(), self._start_search)
        if self._turn_timer is None:
            self._turn()

    def _introduce(self, newcomers: list[_Listener]) -> Callable[[str], None]:
        """What is to be done with each subscribed name when these listeners are new."""
        index = PatternIndex()
        listeners: dict[Pattern, list[_Listener]] = {}
        for listener in newcomers:
            if listener.pattern not in listeners:
                listeners[listener.pattern] = []
                index.add(listener.pattern)
            listeners[listener.pattern].append(listener)

        def visit(name: str) -> None:
            if not self._is_provided(name):
                for pattern in index.match(name):
                    for listener in listeners[pattern]:
                        self._offer(listener, name)

        return visit

    def _offer(self, listener: _Listener, name: str) -> None:
        """A new listener meets a subscribed name that its pattern matches."""
        if not listener.live or self._is_provided(name):
            return
        search = self._searches.get(name)
        if search is None:
            failed = self._failed.get(name)
            if failed is None or failed[1] < listener.number:  # else it has been asked since it came
                self._start_search(name)
        elif listener not in search.members:
            search.members.add(listener)
            search.queue.append(listener)

    def _start_search(self, name: str) -> None:
        """Look for a provider of `name`, unless it has one or a search runs."""
        if name in self._searches or self._is_provided(name):
            return
        candidates = self._candidates(name)
        if not candidates:
            return
        search = self._searches[name] = _Search(candidates, self._newest)
        if self._locks is None:
            self._begin(name, search)
        else:
            decided = partial(self._on_lock, name, search)
            self._locks.acquire(self._lock(name), decided, partial(self._on_lock_lost, name, search))

    def _is_provided(self, name: str) -> bool:
        return name in self._providers or self._published.has(name)

    def _lock(self, name: str) -> str:
        return f"{int(self._topic)}_LISTEN_LOCK_{name}"

    def _on_lock(self, name: str, search: _Search, granted: bool) -> None:
        """Only the node that has the lock asks its listeners."""
        if self._searches.get(name) is not search:
            if granted:
                self._unlock(name)  # meanwhile nobody subscribes any more
        elif not granted or self._is_provided(name):
            self._end_search(name, search)
        else:
            self._begin(name, search)

    def _on_lock_lost(self, name: str, search: _Search) -> None:
        """Another node may be searching: this one stops."""
        if self._searches.get(name) is search:
            self._end_search(name, search)

    def _unlock(self, name: str) -> None:
        if self._locks is not None:
            self._locks.release(self._lock(name))

    def _begin(self, name: str, search: _Search) -> None:
        self._logger.debug("LOCAL_LISTEN", f"started for {self._topic.name}:{name}")
        search.begun = True
        self._ask_next(name, search)

    def _candidates(self, name: str) -> list[_Listener]:
        matching = self._index.match(name)
        candidates = [
            listener for pattern in matching for listener in self._patterns[pattern.text][1].values()
        ]
        candidates.sort(key=lambda listener: listener.number)
        if self._options.shuffle_providers:
            self._rng.shuffle(candidates)
        return candidates

    def _ask_next(self, name: str, search: _Search) -> None:
        """Leave the current candidate and ask the next one; without one the search has failed."""
        self._leave_current(name, search)
        while search.queue:
            listener = search.queue.popleft()
            if listener.live:
                search.current = listener
                listener.asked_for[name] = None
                if self._gate is None:
                    self._ask(name, search, listener)
                else:
                    self._check(name, search, listener, self._gate)
                return
        del self._searches[name]
        self._unlock(name)
        self._failed[name] = (self._clock(), search.newest)

    def _check(self, name: str, search: _Search, listener: _Listener, gate: Gate) -> None:
        """Ask `listener` if it is permitted to listen to `name`, too, and not only to its pattern (5.1)."""
        request = Message(self._topic, self._actions.LISTEN, name=name)
        search.check = asyncio.ensure_future(gate.decide(listener.connection, request))
        search.check.add_done_callback(partial(self._on_checked, name, search, listener))

    def _on_checked(
        self, name: str, search: _Search, listener: _Listener, check: asyncio.Task[Decision]
    ) -> None:
        # Whatever is no permission is a refusal; also a check that somebody else has cancelled.
        failed = check.cancelled() or check.exception() is not None
        if search.check is not check:
            return  # the listener has gone, or the search has ended
        search.check = None
        if not failed and check.result() is Decision.ALLOWED:
            self._ask(name, search, listener)
            return
        about = f"{self._topic.name}:{name} is not shown to the listener of {listener.pattern.text}"
        self._logger.debug("LOCAL_LISTEN", about)
        self._ask_next(name, search)

    def _ask(self, name: str, search: _Search, listener: _Listener) -> None:
        search.asked.add(listener)
        search.timer = self._timers.call_later(
            self._options.response_timeout, partial(self._on_response_timeout, name, search)
        )
        self._send(
            listener.connection,
            self._actions.SUBSCRIPTION_FOR_PATTERN_FOUND,
            name=listener.pattern.text,
            subscription=name,
        )

    def _leave_current(self, name: str, search: _Search) -> None:
        if search.check is not None:
            check, search.check = search.check, None
            check.cancel()
        if search.timer is not None:
            search.timer.cancel()
            search.timer = None
        if search.current is not None:
            search.current.asked_for.pop(name, None)
            search.current = None

    def _end_search(self, name: str, search: _Search) -> None:
        self._leave_current(name, search)
        del self._searches[name]
        self._unlock(name)

    def _on_response_timeout(self, name: str, search: _Search) -> None:
        late = search.current
        self._leave_current(name, search)
        if late is not None:
            self._send(late.connection, self._actions.LISTEN_RESPONSE_TIMEOUT, subscription=name)
        if self._searches.get(name) is search and search.current is None:
            self._ask_next(name, search)

    def _accept(self, connection: Socket, message: Message) -> None:
        name = str(message.subscription)
        listener = self._connections.get(connection, {}).get(str(message.name))
        if listener is None:
            return
        search = self._searches.get(name)
        if search is not None and listener in search.asked:
            self._leave_current(name, search)
            del self._searches[name]
            self._provider_found(name, listener)
            self._unlock(name)  # only now, or another node might begin a search
        elif name not in listener.provides and listener.pattern.matches(name):
            # Too late, or not its turn. It believes to be the provider now, so it must hear that it is not.
            self._send_removed(listener, name)

    def _reject(self, connection: Socket, message: Message) -> None:
        name = str(message.subscription)
        listener = self._connections.get(connection, {}).get(str(message.name))
        search = self._searches.get(name)
        if listener is None or search is None or listener not in search.asked:
            return
        search.asked.discard(listener)
        if search.current is listener:
            self._ask_next(name, search)

    # Providers.

    def _provider_found(self, name: str, listener: _Listener) -> None:
        self._providers[name] = listener
        listener.provides[name] = None
        self._failed.pop(name, None)
        self._published.add(name)

    def _on_published(self, name: str) -> None:
        """`name` has a provider, on this node or on another one."""
        if self._is_record:
            self._registry.set_provided(name, True)
            self._broadcast(name, RecordAction.SUBSCRIPTION_HAS_PROVIDER)

    def _on_unpublished(self, name: str) -> None:
        """`name` has no provider any more."""
        if self._is_record:
            self._registry.set_provided(name, False)
        if not self._registry.has(name):
            return
        if self._is_record:
            self._broadcast(name, RecordAction.SUBSCRIPTION_HAS_NO_PROVIDER)
        self._start_search(name)

    def _provider_stopped(self, name: str, listener: _Listener) -> None:
        """The provider unlistened or disconnected while `name` is subscribed."""
        if self._providers.get(name) is not listener:
            return
        self._logger.info("LISTEN_PROVIDER_STOPPED", f"{self._topic.name}:{name}")
        self._release(name)

    def _release(self, name: str) -> _Listener | None:
        """`name` has no provider any more; returns the one it had."""
        provider = self._providers.pop(name, None)
        if provider is not None:
            del provider.provides[name]
            self._published.remove(name)
        return provider

    # Messages.

    def _broadcast(self, name: str, action: RecordAction) -> None:
        self._registry.broadcast(name, Message(self._topic, action, name=name))

    def _send(self, connection: Socket, action: EventAction | RecordAction, **fields: object) -> None:
        connection.send(Message(self._topic, action, **fields))

    def _send_removed(self, listener: _Listener, name: str) -> None:
        self._send(
            listener.connection,
            self._actions.SUBSCRIPTION_FOR_PATTERN_REMOVED,
            name=listener.pattern.text,
            subscription=name,
        )

    def _acknowledge(self, connection: Socket, request: Message) -> None:
        connection.send(
            Message(
                self._topic,
                request.action,
                name=request.name,
                is_ack=True,
                correlation_id=request.correlation_id,
            )
        )
