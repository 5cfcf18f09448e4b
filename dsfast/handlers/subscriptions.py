"""Which subscription registry a topic has: the core's, or one of a plugin (DESIGN.md section 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dsfast._core.fanout import Hub, Registry
from dsfast._core.plugin_registry import PluginHub, PluginRegistry
from dsfast._core.protocol import Message, Topic
from dsfast.handlers.listen import ListenHandler
from dsfast.handlers.listen import Registry as ListenRegistry
from dsfast.handlers.observer import Observer
from dsfast.plugin import Socket, StateTopic, SubscriptionRegistry
from dsfast.services.logger import FloodGuard
from dsfast.services.subscriptions import CoreSubscriptionRegistry, DefaultSubscriptionRegistryFactory

if TYPE_CHECKING:
    from dsfast.services import Services

__all__ = ["Subscriptions"]


class Subscriptions:
    """The registries of one server. ``hub_options`` are those of :class:`Hub`."""

    def __init__(
        self,
        services: Services,
        loop: asyncio.AbstractEventLoop,
        observer: Observer | None = None,
        **hub_options: Any,
    ) -> None:
        self._services = services
        self._guard = FloodGuard(services.logger)
        factory = services.subscriptions
        # Asked once, here: a server with the built-in registries knows no others.
        make_hub = Hub if type(factory) is DefaultSubscriptionRegistryFactory else PluginHub
        self.hub = _observed_hub(loop, observer, hub_options) if observer else make_hub(loop, **hub_options)
        if isinstance(factory, DefaultSubscriptionRegistryFactory):
            factory.open(self.hub)

    def registry(self, topic: Topic, cluster_topic: StateTopic, actions: dict[str, int]) -> Registry:
        """What the handler of a topic works on. ``actions`` are those a registry may need for its answers.

        Raises TypeError if the factory gives anything but a registry.
        """
        registry = self._of_factory(topic, cluster_topic)
        for key, action in actions.items():
            registry.set_action(key, action)
        if type(registry) is CoreSubscriptionRegistry:
            return registry.core
        return PluginRegistry(self.hub, topic).stand_for(
            registry,
            action=actions["SUBSCRIBE"],
            on_fault=self._fault,
            # Only calls, and records for older clients, look at single subscribers.
            choosing=topic in (Topic.RPC, Topic.RECORD),
        )

    def listened(self, topic: Topic, cluster_topic: StateTopic, core: Registry) -> ListenRegistry:
        """The same as the listen handler sees it: names that anybody in the cluster subscribes to."""
        registry = self._of_factory(topic, cluster_topic)
        if type(registry) is not CoreSubscriptionRegistry:
            return _ClusterNames(registry, core, core.set_provided, self._fault)
        if registry.knows_cluster:
            return _ClusterNames(registry, core, registry.set_provided, self._fault)
        return core

    def close(self) -> None:
        """No more lines about faults."""
        self._guard.close()

    def _of_factory(self, topic: Topic, cluster_topic: StateTopic) -> SubscriptionRegistry:
        registry = self._services.subscriptions.get_subscription_registry(topic, cluster_topic)
        if not isinstance(registry, SubscriptionRegistry):
            raise TypeError(f"subscriptions: {registry!r} is no SubscriptionRegistry")
        return registry

    def _fault(self, method: str, error: Exception) -> None:
        # A client may cause this as often as it likes.
        self._guard.error("subscriptions", "PLUGIN_ERROR", f"subscriptions failed in {method}: {error!r}")


class _ClusterNames:
    """The names of a topic for the listen handler, which is told about them while it wants to."""

    def __init__(
        self,
        registry: SubscriptionRegistry,
        core: Registry,
        set_provided: Callable[[str, bool], object],
        on_fault: Callable[[str, Exception], object],
    ) -> None:
        self._registry = registry
        self._core = core
        self._set_provided = set_provided
        self._on_fault = on_fault
        self._listener: ListenHandler | None = None
        registry.set_subscription_listener(self)

    def names(self) -> list[str]:
        """All names that are subscribed to in the cluster."""
        return list(self._ask("get_names", self._registry.get_names, ()))

    def has(self, name: str) -> bool:
        """Whether anybody in the cluster is subscribed to the name."""
        return bool(self._ask("has_name", partial(self._registry.has_name, name), False))

    def broadcast(self, name: str, message: Message, sender: Socket | None = None) -> None:
        """Tell the subscribers of this server."""
        self._core.broadcast(name, message, sender)

    def set_provided(self, name: str, provided: bool) -> None:
        """Whether later subscribers are told that there is a provider."""
        self._set_provided(name, provided)

    def set_listener(self, listener: ListenHandler | None) -> None:
        """Who is told from now on."""
        self._listener = listener

    def _ask(self, method: str, call: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return call()
        except Exception as error:
            self._on_fault(method, error)
            return otherwise

    # What the registry calls.

    def on_first_subscription_made(self, name: str) -> None:
        """See :class:`dsfast.plugin.SubscriptionListener`."""
        if self._listener is not None:
            self._listener.on_first_subscription(name)

    def on_subscription_made(self, name: str, socket: Socket) -> None:
        """See :class:`dsfast.plugin.SubscriptionListener`."""

    def on_subscription_removed(self, name: str, socket: Socket) -> None:
        """See :class:`dsfast.plugin.SubscriptionListener`."""

    def on_last_subscription_removed(self, name: str) -> None:
        """See :class:`dsfast.plugin.SubscriptionListener`."""
        if self._listener is not None:
            self._listener.on_last_unsubscription(name)


def _observed_hub(loop: asyncio.AbstractEventLoop, observer: Observer, options: dict[str, Any]) -> Hub:
    """A hub for all registries that tells a monitoring about every message."""
    from dsfast._core.observed import ObservedHub  # noqa: PLC0415 - rarely needed

    hub = ObservedHub(loop, **options)
    hub.tell(observer)
    return hub
