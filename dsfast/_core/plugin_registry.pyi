"""Registries that tell others, and registries of plugins, behind the interface that the handlers call."""

from collections.abc import Callable

from dsfast._core.fanout import Hub, Registry
from dsfast.plugin import SubscriptionListener, SubscriptionRegistry

class WatchedRegistry(Registry):
    """The built-in registry, which tells watchers about every subscription."""

    def watch(self, watcher: SubscriptionListener) -> None: ...
    def unwatch(self, watcher: SubscriptionListener) -> None: ...

class PluginHub(Hub):
    """The hub of a server with a registry that is a plugin."""

class PluginRegistry(Registry):
    """What the handlers see of a subscription registry that is a plugin."""

    plugin: SubscriptionRegistry
    def stand_for(
        self,
        plugin: SubscriptionRegistry,
        *,
        action: int,
        on_fault: Callable[[str, Exception], object],
        choosing: bool,
    ) -> PluginRegistry: ...
