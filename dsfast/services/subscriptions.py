"""The built-in subscription registries: the core's, for everybody else (plugins.md B.13).

The handlers work on ``core`` directly; the methods here are for plugins, and for registries that derive from
these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dsfast._core.connection import Connection
from dsfast._core.fanout import Hub
from dsfast._core.plugin_registry import WatchedRegistry
from dsfast._core.protocol import Message, Topic
from dsfast.plugin import (
    Socket,
    StateRegistry,
    SubscriptionListener,
    SubscriptionRegistry,
    SubscriptionRegistryFactory,
)
from dsfast.services.cluster_states import LocalStateRegistryFactory

__all__ = ["CoreSubscriptionRegistry", "DefaultSubscriptionRegistryFactory"]

_MULTIPLE = {Topic.EVENT: 106, Topic.RECORD: 117, Topic.RPC: 109, Topic.PRESENCE: 103}
"""MULTIPLE_SUBSCRIPTIONS of each topic, for RPC MULTIPLE_PROVIDERS."""


class CoreSubscriptionRegistry(SubscriptionRegistry):
    """A front for the core's registry of one topic.

    ``states`` is the state registry of somebody else that has to know the names, None with the built-in one:
    that looks into the core.
    """

    def __init__(
        self,
        factory: SubscriptionRegistryFactory,
        topic: int,
        core: WatchedRegistry,
        states: StateRegistry | None,
    ) -> None:
        self.core = core
        self.topic = topic
        self._server_name = factory.config.server_name
        self._logger = factory.logger
        self._states = states
        self._listener: SubscriptionListener | None = None
        self._provided: set[str] = set()
        self._actions = {"MULTIPLE_SUBSCRIPTIONS": _MULTIPLE.get(Topic(topic), 0)}
        if states is not None:
            core.watch(self)
            states.on_add(self._on_name_added)
            states.on_remove(self._on_name_removed)

    @property
    def knows_cluster(self) -> bool:
        """Whether the names are those of a state registry, and not only the core's."""
        return self._states is not None

    def subscribe(self, name: str, message: Message, socket: Socket, silent: bool = False) -> bool:
        """See :class:`SubscriptionRegistry`."""
        fresh = self.core.add(name, _connection(socket))
        if not silent:
            if not fresh:
                repeated = self._actions["MULTIPLE_SUBSCRIPTIONS"]
                socket.send(Message(self.topic, repeated, name=name, original_action=message.action))
            socket.send(message.replace(is_ack=True))
        return fresh

    def unsubscribe(self, name: str, message: Message, socket: Socket, silent: bool = False) -> bool:
        """See :class:`SubscriptionRegistry`."""
        removed = self.core.remove(name, _connection(socket))
        if not silent:
            socket.send(message.replace(is_ack=True))
        return removed

    def send_to_subscribers(
        self,
        name: str,
        message: Message,
        no_delay: bool,
        sender: Socket | None,
        suppress_remote: bool = False,
    ) -> None:
        """See :class:`SubscriptionRegistry`."""
        self.core.broadcast(name, message, sender)
        if no_delay:
            self.core.hub.flush_now()

    def get_local_subscribers(self, name: str) -> Collection[Socket]:
        """See :class:`SubscriptionRegistry`."""
        return self.core.subscribers(name)

    def has_local_subscribers(self, name: str) -> bool:
        """See :class:`SubscriptionRegistry`."""
        return self.core.has(name)

    def get_local_names(self) -> Collection[str]:
        """See :class:`SubscriptionRegistry`."""
        return self.core.names()

    def get_names(self) -> Collection[str]:
        """See :class:`SubscriptionRegistry`."""
        return self.core.names() if self._states is None else self._states.get_all()

    def has_name(self, name: str) -> bool:
        """See :class:`SubscriptionRegistry`."""
        return self.core.has(name) if self._states is None else self._states.has(name)

    def get_all_servers(self, name: str) -> list[str]:
        """See :class:`SubscriptionRegistry`."""
        if self._states is not None:
            return self._states.get_all_servers(name)
        return [self._server_name] if self.core.has(name) else []

    def get_all_remote_servers(self, name: str) -> list[str]:
        """See :class:`SubscriptionRegistry`."""
        return [server for server in self.get_all_servers(name) if server != self._server_name]

    def set_subscription_listener(self, listener: SubscriptionListener) -> None:
        """See :class:`SubscriptionRegistry`."""
        if self._states is None:
            if self._listener is not None:
                self.core.unwatch(self._listener)
            self.core.watch(listener)
        self._listener = listener

    def set_action(self, key: str, action: int) -> None:
        """See :class:`SubscriptionRegistry`."""
        self._actions[key.upper()] = action

    def set_provided(self, name: str, provided: bool) -> None:
        """Whether later subscribers of ``name`` are told that it has a provider, on whichever server."""
        if provided:
            self._provided.add(name)
        else:
            self._provided.discard(name)
        self.core.set_provided(name, provided)

    # What the core calls if the names belong into a state registry of somebody else.

    def on_first_subscription_made(self, name: str) -> None:
        """The first one on this server."""
        if name in self._provided:
            self.core.set_provided(name, True)
        self._count("add", name)

    def on_subscription_made(self, name: str, socket: Socket) -> None:
        """See :class:`SubscriptionListener`."""
        if self._listener is not None:
            self._listener.on_subscription_made(name, socket)

    def on_subscription_removed(self, name: str, socket: Socket) -> None:
        """See :class:`SubscriptionListener`."""
        if self._listener is not None:
            self._listener.on_subscription_removed(name, socket)

    def on_last_subscription_removed(self, name: str) -> None:
        """The last one on this server."""
        self._count("remove", name)

    def _count(self, method: str, name: str) -> None:
        try:
            getattr(self._states, method)(name)
        except Exception as error:
            self._logger.error("PLUGIN_ERROR", f"cluster_states failed in {method}: {error!r}")

    def _on_name_added(self, name: str) -> None:
        if self._listener is not None:
            self._listener.on_first_subscription_made(name)

    def _on_name_removed(self, name: str) -> None:
        if self._listener is not None:
            self._listener.on_last_subscription_removed(name)


class DefaultSubscriptionRegistryFactory(SubscriptionRegistryFactory):
    """Makes the registries of the core. To replace that of one topic, derive from it."""

    description = "subscriptions of the core"
    _hub: Hub | None = None
    _registries: dict[tuple[int, int], SubscriptionRegistry] | None = None

    def open(self, hub: Hub) -> None:
        """The handlers are being made; their connections share ``hub``."""
        self._hub = hub
        self._registries = {}

    def get_subscription_registry(self, topic: int, cluster_topic: int) -> SubscriptionRegistry:
        """See :class:`SubscriptionRegistryFactory`. Raises RuntimeError before the handlers are made."""
        if self._hub is None or self._registries is None:
            raise RuntimeError("there are no subscriptions before the handlers are made")
        key = (int(topic), int(cluster_topic))
        if key not in self._registries:
            self._registries[key] = self._make(self._hub, *key)
        return self._registries[key]

    def get_subscription_registries(self) -> Mapping[tuple[int, int], SubscriptionRegistry]:
        """See :class:`SubscriptionRegistryFactory`."""
        return self._registries or {}

    def _make(self, hub: Hub, topic: int, cluster_topic: int) -> SubscriptionRegistry:
        core = WatchedRegistry(hub, topic, topic == Topic.RECORD)
        factory = self.services.cluster_states
        if type(factory) is LocalStateRegistryFactory:
            factory.show(cluster_topic, core)
            return CoreSubscriptionRegistry(self, topic, core, None)
        return CoreSubscriptionRegistry(self, topic, core, factory.get_state_registry(cluster_topic))


def _connection(socket: Socket) -> Connection:
    if not isinstance(socket, Connection):
        raise TypeError(f"{socket!r} is no connection of this server")
    return socket
