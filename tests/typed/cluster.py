"""Plugins of the kinds that servers of a cluster need."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dsfast import (
    ClusterNode,
    ClusterRegistry,
    Config,
    LockRegistry,
    Server,
    Socket,
    StateRegistry,
    StateRegistryFactory,
    StateTopic,
    SubscriptionListener,
    SubscriptionRegistry,
    SubscriptionRegistryFactory,
    Telemetry,
)
from dsfast.plugin import BusCallback
from dsfast.protocol import EventAction, Message, Topic
from dsfast.services import Services
from dsfast.services.subscriptions import DefaultSubscriptionRegistryFactory


class Bus(ClusterNode):
    description = "bus"

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self.callbacks: defaultdict[int, list[BusCallback]] = defaultdict(list)

    def subscribe(self, topic: int, callback: BusCallback) -> None:
        self.callbacks[topic].append(callback)

    def send(self, message: Mapping[str, Any]) -> None:
        self.send_direct("other", message)

    def send_direct(self, server_name: str, message: Mapping[str, Any]) -> None:
        for callback in self.callbacks[message["topic"]]:
            callback(message, server_name)


class Files(LockRegistry):
    async def get(self, name: str) -> bool:
        return name == "free"

    def release(self, name: str) -> None: ...

    async def renew(self, name: str) -> bool:
        return await super().renew(name)


class Fixed(ClusterRegistry):
    def get_all(self) -> list[str]:
        return [self.config.server_name]

    def get_leader(self) -> str:
        return min(self.get_all())

    def on_server_added(self, callback: Callable[[str], object]) -> None: ...

    def on_server_removed(self, callback: Callable[[str], object]) -> None: ...


class Names(StateRegistry):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.names

    def get_all(self, server: str | None = None) -> list[str]:
        return sorted(self.names)

    def get_all_servers(self, name: str) -> list[str]:
        return []

    def add(self, name: str) -> None:
        self.names.add(name)

    def remove(self, name: str) -> None:
        self.names.discard(name)

    def on_add(self, callback: Callable[[str], object]) -> None: ...

    def on_remove(self, callback: Callable[[str], object]) -> None: ...

    async def when_ready(self) -> None: ...


class NamesFactory(StateRegistryFactory):
    def get_state_registry(self, topic: int) -> StateRegistry:
        return Names()

    def get_state_registries(self) -> Mapping[int, StateRegistry]:
        return {StateTopic.ONLINE_USERS: Names()}


class Lists(SubscriptionRegistry):
    def __init__(self) -> None:
        self.sockets: dict[str, list[Socket]] = {}

    def subscribe(self, name: str, message: Message, socket: Socket, silent: bool = False) -> bool:
        self.sockets.setdefault(name, []).append(socket)
        socket.on_close(self.forget)
        if not silent:
            socket.send(message.replace(is_ack=True))
        return True

    def forget(self, socket: Socket) -> None:
        for sockets in self.sockets.values():
            sockets.remove(socket)

    def unsubscribe(self, name: str, message: Message, socket: Socket, silent: bool = False) -> bool:
        return self.sockets.pop(name, None) is not None

    def send_to_subscribers(
        self,
        name: str,
        message: Message,
        no_delay: bool,
        sender: Socket | None,
        suppress_remote: bool = False,
    ) -> None:
        for socket in self.sockets[name]:
            if socket is not sender and not socket.is_closed:
                socket.send(message)

    def get_local_subscribers(self, name: str) -> Collection[Socket]:
        return self.sockets[name]

    def get_local_names(self) -> Collection[str]:
        return self.sockets.keys()

    def get_all_servers(self, name: str) -> list[str]:
        return []

    def set_subscription_listener(self, listener: SubscriptionListener) -> None:
        listener.on_first_subscription_made("a")


class ListsFactory(SubscriptionRegistryFactory):
    def get_subscription_registry(self, topic: int, cluster_topic: int) -> SubscriptionRegistry:
        return Lists()

    def get_subscription_registries(self) -> Mapping[tuple[int, int], SubscriptionRegistry]:
        return {(Topic.EVENT, StateTopic.EVENT_SUBSCRIPTIONS): Lists()}


class Some(DefaultSubscriptionRegistryFactory):
    def get_subscription_registry(self, topic: int, cluster_topic: int) -> SubscriptionRegistry:
        return Lists() if topic == Topic.EVENT else super().get_subscription_registry(topic, cluster_topic)


class Counting(Telemetry):
    async def when_ready(self) -> None:
        registry = self.services.subscriptions.get_subscription_registry(
            Topic.EVENT, StateTopic.EVENT_SUBSCRIPTIONS
        )
        registry.send_to_subscribers("a", Message(Topic.EVENT, EventAction.EMIT, name="a"), False, None)
        if await self.services.locks.get("a") and self.services.cluster_registry.is_leader():
            self.services.cluster_node.send({"topic": 4})
        self.services.cluster_states.get_state_registry(StateTopic.ONLINE_USERS).on_add(print)


def replace(server: Server) -> None:
    server.set("cluster_node", Bus)
    server.set("locks", Files)
    server.set("clusterRegistry", Fixed)
    server.set("clusterStates", NamesFactory)
    server.set("subscriptions", ListsFactory)
    server.set("telemetry", Counting)
