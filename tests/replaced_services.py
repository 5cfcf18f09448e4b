"""Subscription registry, state registry, locks and cluster registry in plain Python, as an author does it.

Nothing of the built-in ones is used: the acceptance tests run on these as well (test_replaced_services.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from dsfast import (
    ClusterRegistry,
    LockRegistry,
    Socket,
    StateRegistry,
    StateRegistryFactory,
    SubscriptionListener,
    SubscriptionRegistry,
    SubscriptionRegistryFactory,
)
from dsfast.protocol import Message


class PythonSubscriptions(SubscriptionRegistry):
    """name -> sockets in a dict; the names are counted in the state registry of the topic."""

    def __init__(self, states: StateRegistry) -> None:
        self.states = states
        self.sockets: dict[str, dict[Socket, None]] = {}
        self.names: dict[Socket, dict[str, None]] = {}
        self.listener: SubscriptionListener | None = None
        self.actions: dict[str, int] = {}
        self.sent = 0
        states.on_add(self._added)
        states.on_remove(self._removed)

    def _added(self, name: str) -> None:
        if self.listener is not None:
            self.listener.on_first_subscription_made(name)

    def _removed(self, name: str) -> None:
        if self.listener is not None:
            self.listener.on_last_subscription_removed(name)

    def subscribe(self, name: str, message: Message, socket: Socket, silent: bool = False) -> bool:
        sockets = self.sockets.setdefault(name, {})
        fresh = socket not in sockets
        if fresh:
            sockets[socket] = None
            if socket not in self.names:
                self.names[socket] = {}
                socket.on_close(self._closed)
            self.names[socket][name] = None
            self.states.add(name)
            if self.listener is not None:
                self.listener.on_subscription_made(name, socket)
        if not silent:
            if not fresh:
                repeated = self.actions["MULTIPLE_SUBSCRIPTIONS"]
                original = message.action
                socket.send(Message(message.topic, repeated, name=name, original_action=original))
            socket.send(message.replace(is_ack=True))
        return fresh

    def unsubscribe(self, name: str, message: Message, socket: Socket, silent: bool = False) -> bool:
        removed = self._remove(name, socket)
        if not silent:
            socket.send(message.replace(is_ack=True))
        return removed

    def _remove(self, name: str, socket: Socket) -> bool:
        sockets = self.sockets.get(name, {})
        if socket not in sockets:
            return False
        del sockets[socket]
        if not sockets:
            del self.sockets[name]
        names = self.names[socket]
        del names[name]
        if not names:
            del self.names[socket]
            socket.remove_on_close(self._closed)
        self.states.remove(name)
        if self.listener is not None:
            self.listener.on_subscription_removed(name, socket)
        return True

    def _closed(self, socket: Socket) -> None:
        for name in list(self.names.get(socket, ())):
            self._remove(name, socket)

    def send_to_subscribers(
        self,
        name: str,
        message: Message,
        no_delay: bool,
        sender: Socket | None,
        suppress_remote: bool = False,
    ) -> None:
        self.sent += 1
        for socket in list(self.sockets.get(name, ())):
            if socket is not sender:
                socket.send(message)

    def get_local_subscribers(self, name: str) -> Collection[Socket]:
        return self.sockets.get(name, {}).keys()

    def get_local_names(self) -> Collection[str]:
        return self.sockets.keys()

    def get_names(self) -> Collection[str]:
        return self.states.get_all()

    def has_name(self, name: str) -> bool:
        return self.states.has(name)

    def get_all_servers(self, name: str) -> list[str]:
        return self.states.get_all_servers(name)

    def set_subscription_listener(self, listener: SubscriptionListener) -> None:
        self.listener = listener

    def set_action(self, key: str, action: int) -> None:
        self.actions[key.upper()] = action


class PythonSubscriptionFactory(SubscriptionRegistryFactory):
    description = "subscriptions in Python"

    def __init__(self, options: Any, services: Any, config: Any) -> None:
        super().__init__(options, services, config)
        self.registries: dict[tuple[int, int], PythonSubscriptions] = {}

    def get_subscription_registry(self, topic: int, cluster_topic: int) -> SubscriptionRegistry:
        key = (topic, cluster_topic)
        if key not in self.registries:
            states = self.services.cluster_states.get_state_registry(cluster_topic)
            self.registries[key] = PythonSubscriptions(states)
        return self.registries[key]

    def get_subscription_registries(self) -> Mapping[tuple[int, int], SubscriptionRegistry]:
        return self.registries


class PythonStates(StateRegistry):
    """A list with a name for each count: as plain as can be."""

    def __init__(self, server_name: str) -> None:
        self.server_name = server_name
        self.held: list[str] = []
        self.adds: list[Callable[[str], object]] = []
        self.removes: list[Callable[[str], object]] = []

    def has(self, name: str) -> bool:
        return name in self.held

    def get_all(self, server: str | None = None) -> list[str]:
        return list(dict.fromkeys(self.held)) if server in (None, self.server_name) else []

    def get_all_servers(self, name: str) -> list[str]:
        return [self.server_name] if name in self.held else []

    def add(self, name: str) -> None:
        fresh = name not in self.held
        self.held.append(name)
        if fresh:
            self._tell(self.adds, name)

    def remove(self, name: str) -> None:
        if name in self.held:
            self.held.remove(name)
            if name not in self.held:
                self._tell(self.removes, name)

    def _tell(self, callbacks: list[Callable[[str], object]], name: str) -> None:
        for callback in callbacks:
            try:
                callback(name)
            except Exception as error:
                print("a callback failed:", error)

    def on_add(self, callback: Callable[[str], object]) -> None:
        self.adds.append(callback)

    def on_remove(self, callback: Callable[[str], object]) -> None:
        self.removes.append(callback)


class PythonStateFactory(StateRegistryFactory):
    description = "states in Python"

    def __init__(self, options: Any, services: Any, config: Any) -> None:
        super().__init__(options, services, config)
        self.registries: dict[int, PythonStates] = {}

    def get_state_registry(self, topic: int) -> StateRegistry:
        return self.registries.setdefault(topic, PythonStates(self.config.server_name))

    def get_state_registries(self) -> Mapping[int, StateRegistry]:
        return self.registries


class PythonLocks(LockRegistry):
    description = "locks in Python"

    def __init__(self, options: Any, services: Any, config: Any) -> None:
        super().__init__(options, services, config)
        self.held: set[str] = set()
        self.granted: list[str] = []

    async def get(self, name: str) -> bool:
        if name in self.held:
            return False
        self.held.add(name)
        self.granted.append(name)
        return True

    def release(self, name: str) -> None:
        self.held.discard(name)


class PythonCluster(ClusterRegistry):
    description = "a cluster in Python"

    def get_all(self) -> list[str]:
        return [self.config.server_name]

    def get_leader(self) -> str:
        return self.config.server_name

    def on_server_added(self, callback: Callable[[str], object]) -> None: ...

    def on_server_removed(self, callback: Callable[[str], object]) -> None: ...


REPLACED: dict[str, Any] = {
    "subscriptions": PythonSubscriptionFactory,
    "cluster_states": PythonStateFactory,
    "locks": PythonLocks,
    "cluster_registry": PythonCluster,
}
