"""The handlers of the topics, and the router that brings messages to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dsfast._core.connection import Protocol
from dsfast._core.deflate import Deflate, DeflateCodec
from dsfast._core.events import EventHandler
from dsfast._core.fanout import Codec, Hub, Registry
from dsfast._core.protocol import EventAction, PresenceAction, RecordAction, RpcAction, Topic
from dsfast._core.router import Gate, Handler, Router
from dsfast._core.rpc import RpcHandler
from dsfast._core.timers import TimingWheel
from dsfast.handlers.listen import ListenHandler
from dsfast.handlers.locks import SearchLocks
from dsfast.handlers.observer import Observer, observer_of
from dsfast.handlers.permission import PermissionGate
from dsfast.handlers.presence import PresenceHandler
from dsfast.handlers.record import RecordHandler
from dsfast.handlers.revalidation import Grants, Revalidation
from dsfast.handlers.subscriptions import Subscriptions
from dsfast.plugin import PluginError, StateRegistry, StateTopic
from dsfast.services.cache.memory import MemoryCache
from dsfast.services.cluster_node import SingleNode
from dsfast.services.cluster_registry import SingleServer
from dsfast.services.cluster_states import GuardedStateRegistry, LocalStateRegistryFactory
from dsfast.services.locks import LeaderLocks
from dsfast.services.permission import OpenPermission

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["MessageRouter", "create_router"]

T = TypeVar("T", bound=Codec)


class MessageRouter(Router):
    """The core's router together with what the endpoints share: hub, timing wheel, presence."""

    def __init__(
        self,
        handlers: dict[int, Handler],
        gate: PermissionGate | None,
        hub: Hub,
        wheel: TimingWheel,
        *,
        listens: dict[Topic, ListenHandler],
        revalidation: Revalidation | None,
        core_gate: Gate | None = None,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(_observed(handlers, observer), gate, core_gate)
        self._observer = observer
        self.hub = hub
        self.wheel = wheel
        presence = handlers.get(Topic.PRESENCE)
        self.presence = presence if isinstance(presence, PresenceHandler) else None
        record = handlers.get(Topic.RECORD)
        self.record_handler = record if isinstance(record, RecordHandler) else None
        self.revalidation = revalidation
        self.figures: dict[str, Callable[[], dict[str, Any]]] = {}
        """More counters for :meth:`stats`, by what they are about."""
        self._listens = listens
        self._codecs: dict[Any, Codec] = {}
        if gate is not None:
            gate.router = self

    def protocol(self, kind: Callable[[int], Protocol]) -> Protocol:
        """The protocol of that class, made at the first call; all its endpoints share it."""
        return self._codec(kind, kind)

    def deflate(self, base: Protocol | None, level: int, threshold: int) -> Deflate:
        """Compression for a protocol (None: the binary one), see :class:`DeflateCodec`."""

        def codec(window_bits: int) -> DeflateCodec:
            settings = (base, window_bits, level, threshold)
            return self._codec(settings, lambda number: DeflateCodec(number, *settings))

        return Deflate(codec)

    def _codec(self, key: Any, make: Callable[[int], T]) -> T:
        if key not in self._codecs:
            codec = make(len(self._codecs) + 1)
            self.hub.add_codec(codec)
            self._codecs[key] = codec
        return cast(T, self._codecs[key])

    async def close(self) -> None:
        """Let what has been accepted come to its end, then stop all timers."""
        if self.record_handler is not None:
            await self.record_handler.close()
        if self.revalidation is not None:
            await self.revalidation.close()
        if self.gate is not None:
            await self.gate.close()
        for listen in self._listens.values():
            listen.close()
        if self._observer is not None:
            self._observer.close()
        self.wheel.close()

    def state_metrics(self) -> dict[str, int]:
        """How many names each registry has (http.md section 8).

        Two of deepstream's own names are not what they seem; those who read them may go on doing so.
        """
        metrics: dict[str, int] = {}
        for topic, prefix in ((Topic.EVENT, "EVENT"), (Topic.RECORD, "RECORD")):
            patterns, published = self._listens[topic].counts() if topic in self._listens else (0, 0)
            metrics[f"{prefix}_LISTEN_PATTERNS"] = patterns
            metrics[f"{prefix}_PUBLISHED_SUBSCRIPTIONS"] = published
        for topic in (Topic.EVENT, Topic.RECORD, Topic.RPC, Topic.PRESENCE):
            handler = self.handlers[topic]
            names = 0 if handler is None else handler.registry.subjects
            metrics[f"{topic.name}_SUBSCRIPTIONS"] = names
        metrics["ONLINE_USERS"] = 0 if self.presence is None else len(self.presence.online)
        return {
            "STATE_REGISTRY": metrics["EVENT_SUBSCRIPTIONS"],
            "LOCK": metrics["ONLINE_USERS"],
            **metrics,
        }

    def stats(self) -> dict[str, Any]:
        """Counters of the hub, the memory cache and others."""
        stats: dict[str, Any] = {"hub": self.hub.stats()}
        stats |= {name: figures() for name, figures in self.figures.items()}
        if self.record_handler is not None and self.record_handler.cache is not None:
            stats["cache"] = self.record_handler.cache.stats()
        return stats


_LISTEN_STATES = {
    Topic.EVENT: (
        StateTopic.EVENT_SUBSCRIPTIONS,
        StateTopic.EVENT_LISTEN_PATTERNS,
        StateTopic.EVENT_PUBLISHED_SUBSCRIPTIONS,
    ),
    Topic.RECORD: (
        StateTopic.RECORD_SUBSCRIPTIONS,
        StateTopic.RECORD_LISTEN_PATTERNS,
        StateTopic.RECORD_PUBLISHED_SUBSCRIPTIONS,
    ),
}
"""What the cluster knows of a topic: subscribed names, patterns, provided names."""

_RPC_NAMES = {
    "SUBSCRIBE": "PROVIDE",
    "UNSUBSCRIBE": "UNPROVIDE",
    "MULTIPLE_SUBSCRIPTIONS": "MULTIPLE_PROVIDERS",
    "NOT_SUBSCRIBED": "NOT_PROVIDED",
}


def _registry_actions(actions: type[IntEnum]) -> dict[str, int]:
    """The actions of a topic that a subscription registry may need, under the names that they have there."""
    names = {key: rpc if actions is RpcAction else key for key, rpc in _RPC_NAMES.items()}
    return {key: int(actions[name]) for key, name in names.items()}


def _states(services: Services, topic: StateTopic) -> StateRegistry:
    factory = services.cluster_states
    registry = factory.get_state_registry(topic)
    if type(factory) is LocalStateRegistryFactory:
        return registry
    return GuardedStateRegistry(registry, services.logger)


def _search_locks(services: Services, config: Config) -> SearchLocks | None:
    """None where nobody else can search: then a search needs no lock."""
    built_in = (
        type(services.locks) is LeaderLocks
        and type(services.cluster_registry) is SingleServer
        and type(services.cluster_node) is SingleNode
    )
    if built_in:
        return None
    options = config.locks.options
    return SearchLocks(
        services.locks,
        services.logger,
        request_timeout=options.get("requestTimeout", 1000),
        hold_timeout=options.get("holdTimeout", 1000),
    )


def _same(first: Registry, second: Registry) -> bool:
    """Whether two registries are fronts of one."""
    plugins = [getattr(registry, "plugin", registry) for registry in (first, second)]
    return plugins[0] is plugins[1]


def create_router(services: Services, config: Config) -> MessageRouter:
    """Build the handlers of the enabled features around the services of a server."""
    loop = asyncio.get_running_loop()
    options = config.websocket
    observer = observer_of(services.monitoring, services.logger)
    subscriptions = Subscriptions(
        services,
        loop,
        observer,
        buffer_timeout=options.outgoing_buffer_timeout / 1000,
        max_buffer_bytes=options.max_buffer_byte_size,
        max_outgoing_bytes=options.max_outgoing_bytes,
        conflate=options.slow_consumer_policy == "conflate",
    )
    hub = subscriptions.hub
    wheel = TimingWheel(loop)
    features = config.enabled_features
    logger = services.logger
    gate = core_gate = None
    # Asked once, here: the hot path of a server with open permission knows no permission at all.
    if type(services.permission) is not OpenPermission:
        gate = PermissionGate(services.permission, logger, config.permission_timeout)
        core_gate = getattr(services.permission, "core_gate", None)
    handlers: dict[int, Handler] = {}
    listens: dict[Topic, ListenHandler] = {}
    grants: list[Grants] = []

    def subscribed(topic: Topic, state: StateTopic, actions: type[IntEnum], subscribe: int) -> Registry:
        """The registry of a topic, to which ``subscribe`` is the way in."""
        registry = subscriptions.registry(topic, state, _registry_actions(actions))
        grants.append(Grants(topic, subscribe, registry, named=subscribe != PresenceAction.SUBSCRIBE_ALL))
        return registry

    def listen(topic: Topic, registry: Registry) -> ListenHandler:
        subscribed, patterns, published = _LISTEN_STATES[topic]
        listens[topic] = ListenHandler(
            topic,
            subscriptions.listened(topic, subscribed, registry),
            wheel,
            config.listen,
            logger,
            gate=gate,
            patterns=_states(services, patterns),
            published=_states(services, published),
            locks=_search_locks(services, config),
        )
        return listens[topic]

    if features.event:
        registry = subscribed(Topic.EVENT, StateTopic.EVENT_SUBSCRIPTIONS, EventAction, EventAction.SUBSCRIBE)
        handlers[Topic.EVENT] = EventHandler(registry, listen(Topic.EVENT, registry))
    if features.record:
        registry = subscribed(
            Topic.RECORD, StateTopic.RECORD_SUBSCRIPTIONS, RecordAction, RecordAction.SUBSCRIBE
        )
        cache = services.cache
        handlers[Topic.RECORD] = RecordHandler(
            registry,
            cache,
            cache.core if type(cache) is MemoryCache else None,
            services.storage_writer,
            listen(Topic.RECORD, registry),
            gate,
            core_gate,
            logger,
            config.record,
        )
    if features.rpc:
        registry = subscribed(Topic.RPC, StateTopic.RPC_SUBSCRIPTIONS, RpcAction, RpcAction.PROVIDE)
        handlers[Topic.RPC] = RpcHandler(registry, wheel, config.rpc)
    if features.presence:
        users, everyone = (
            subscribed(Topic.PRESENCE, state, PresenceAction, action)
            for state, action in (
                (StateTopic.PRESENCE_SUBSCRIPTIONS, PresenceAction.SUBSCRIBE),
                (StateTopic.PRESENCE_ALL_SUBSCRIPTIONS, PresenceAction.SUBSCRIBE_ALL),
            )
        )
        if _same(users, everyone):
            # Who may subscribe to single users could by a certain name subscribe to all of them.
            raise PluginError("subscriptions: presence needs a registry for each of its two cluster topics")
        handlers[Topic.PRESENCE] = PresenceHandler(
            users, everyone, _states(services, StateTopic.ONLINE_USERS)
        )
    revalidation = None
    if gate is not None:
        listen_actions = {Topic.EVENT: EventAction.LISTEN, Topic.RECORD: RecordAction.LISTEN}
        patterns = [(topic, listen_actions[topic], handler) for topic, handler in listens.items()]
        revalidation = Revalidation(gate, grants, patterns, logger)
    return MessageRouter(
        handlers,
        gate,
        hub,
        wheel,
        listens=listens,
        revalidation=revalidation,
        core_gate=core_gate,
        observer=observer,
    )


def _observed(handlers: dict[int, Handler], observer: Observer | None) -> Mapping[int, Handler]:
    """The handlers as the router gets them."""
    if observer is None:
        return handlers
    from dsfast._core.observed import ObservedHandler  # noqa: PLC0415 - rarely needed

    return {topic: ObservedHandler(handler, observer) for topic, handler in handlers.items()}
