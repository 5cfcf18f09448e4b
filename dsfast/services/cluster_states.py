"""The built-in state registries, of a single server (plugins.md B.12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dsfast.plugin import Logger, PluginError, Socket, StateRegistry, StateRegistryFactory

if TYPE_CHECKING:
    from dsfast._core.plugin_registry import WatchedRegistry

__all__ = ["GuardedStateRegistry", "LocalStateRegistry", "LocalStateRegistryFactory"]

Callback = Callable[[str], object]


class _Callbacks:
    """Those who are told about new and lost names; a failing one is logged and the others are still told."""

    def __init__(self, logger: Logger | None) -> None:
        self._logger = logger
        self.added: list[Callback] = []
        self.removed: list[Callback] = []

    def tell(self, callbacks: list[Callback], name: str) -> None:
        for callback in callbacks:
            try:
                callback(name)
            except Exception as error:
                if self._logger is not None:
                    self._logger.error("PLUGIN_ERROR", f"a callback of a state registry failed: {error!r}")


class LocalStateRegistry(StateRegistry):
    """The names of this server, counted."""

    def __init__(self, server_name: str = "", logger: Logger | None = None) -> None:
        self._server_name = server_name
        self._callbacks = _Callbacks(logger)
        self._counts: dict[str, int] = {}

    def has(self, name: str) -> bool:
        """See :class:`StateRegistry`."""
        return name in self._counts

    def get_all(self, server: str | None = None) -> list[str]:
        """See :class:`StateRegistry`."""
        return list(self._counts) if server is None or server == self._server_name else []

    def get_all_servers(self, name: str) -> list[str]:
        """See :class:`StateRegistry`."""
        return [self._server_name] if name in self._counts else []

    def add(self, name: str) -> None:
        """See :class:`StateRegistry`."""
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        if not count:
            self._callbacks.tell(self._callbacks.added, name)

    def remove(self, name: str) -> None:
        """See :class:`StateRegistry`."""
        count = self._counts.get(name, 0)
        if count > 1:
            self._counts[name] = count - 1
        elif count:
            del self._counts[name]
            self._callbacks.tell(self._callbacks.removed, name)

    def on_add(self, callback: Callback) -> None:
        """See :class:`StateRegistry`."""
        self._callbacks.added.append(callback)

    def on_remove(self, callback: Callback) -> None:
        """See :class:`StateRegistry`."""
        self._callbacks.removed.append(callback)


class SubscribedNames(StateRegistry):
    """The names of the core's subscriptions; the core counts them, nobody else can."""

    def __init__(self, core: WatchedRegistry, server_name: str, logger: Logger) -> None:
        self._core = core
        self._server_name = server_name
        self._callbacks = _Callbacks(logger)
        self._watching = False

    def has(self, name: str) -> bool:
        """See :class:`StateRegistry`."""
        return self._core.has(name)

    def get_all(self, server: str | None = None) -> list[str]:
        """See :class:`StateRegistry`."""
        return self._core.names() if server is None or server == self._server_name else []

    def get_all_servers(self, name: str) -> list[str]:
        """See :class:`StateRegistry`."""
        return [self._server_name] if self._core.has(name) else []

    def add(self, name: str) -> None:
        """Raises :class:`PluginError`."""
        raise PluginError("these names are those of subscriptions, nothing can be added to them")

    def remove(self, name: str) -> None:
        """Raises :class:`PluginError`."""
        raise PluginError("these names are those of subscriptions, they go with the last one")

    def on_add(self, callback: Callback) -> None:
        """See :class:`StateRegistry`."""
        self._watch()
        self._callbacks.added.append(callback)

    def on_remove(self, callback: Callback) -> None:
        """See :class:`StateRegistry`."""
        self._watch()
        self._callbacks.removed.append(callback)

    def _watch(self) -> None:
        # Only when somebody wants to know, so that the others' subscriptions cost nothing more.
        if not self._watching:
            self._watching = True
            self._core.watch(self)

    # What the core calls.

    def on_first_subscription_made(self, name: str) -> None:
        """See :class:`SubscriptionListener`."""
        self._callbacks.tell(self._callbacks.added, name)

    def on_subscription_made(self, name: str, socket: Socket) -> None:
        """See :class:`SubscriptionListener`."""

    def on_subscription_removed(self, name: str, socket: Socket) -> None:
        """See :class:`SubscriptionListener`."""

    def on_last_subscription_removed(self, name: str) -> None:
        """See :class:`SubscriptionListener`."""
        self._callbacks.tell(self._callbacks.removed, name)


class GuardedStateRegistry(StateRegistry):
    """A state registry of a plugin as the handlers use it: what it raises is logged, and goes no further."""

    def __init__(self, inner: StateRegistry, logger: Logger) -> None:
        self._inner = inner
        self._logger = logger

    def has(self, name: str) -> bool:
        """See :class:`StateRegistry`; False if it fails."""
        try:
            return self._inner.has(name)
        except Exception as error:
            self._failed("has", error)
            return False

    def get_all(self, server: str | None = None) -> list[str]:
        """See :class:`StateRegistry`; empty if it fails."""
        try:
            return list(self._inner.get_all(server))
        except Exception as error:
            self._failed("get_all", error)
            return []

    def get_all_servers(self, name: str) -> list[str]:
        """See :class:`StateRegistry`; empty if it fails."""
        try:
            return list(self._inner.get_all_servers(name))
        except Exception as error:
            self._failed("get_all_servers", error)
            return []

    def add(self, name: str) -> None:
        """See :class:`StateRegistry`."""
        try:
            self._inner.add(name)
        except Exception as error:
            self._failed("add", error)

    def remove(self, name: str) -> None:
        """See :class:`StateRegistry`."""
        try:
            self._inner.remove(name)
        except Exception as error:
            self._failed("remove", error)

    def on_add(self, callback: Callback) -> None:
        """See :class:`StateRegistry`; what it raises ends the start."""
        self._inner.on_add(callback)

    def on_remove(self, callback: Callback) -> None:
        """See :class:`StateRegistry`; what it raises ends the start."""
        self._inner.on_remove(callback)

    def _failed(self, method: str, error: Exception) -> None:
        self._logger.error("PLUGIN_ERROR", f"cluster_states failed in {method}: {error!r}")


class LocalStateRegistryFactory(StateRegistryFactory):
    """Makes registries that know this server only."""

    description = "single node"
    _registries: dict[int, StateRegistry] | None = None

    def get_state_registry(self, topic: int) -> StateRegistry:
        """See :class:`StateRegistryFactory`."""
        registries = self._all()
        if topic not in registries:
            registries[topic] = LocalStateRegistry(self.config.server_name, self.logger)
        return registries[topic]

    def get_state_registries(self) -> Mapping[int, StateRegistry]:
        """See :class:`StateRegistryFactory`."""
        return self._all()

    def show(self, topic: int, core: WatchedRegistry) -> None:
        """From now on the registry of ``topic`` is what the core knows."""
        self._all()[topic] = SubscribedNames(core, self.config.server_name, self.logger)

    def _all(self) -> dict[int, StateRegistry]:
        if self._registries is None:
            self._registries = {}
        return self._registries
