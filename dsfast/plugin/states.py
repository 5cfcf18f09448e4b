"""State registries: sets of names that all servers of a cluster share (plugins.md B.12)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import IntEnum

from dsfast.plugin.base import Plugin

__all__ = ["StateRegistry", "StateRegistryFactory", "StateTopic"]


class StateTopic(IntEnum):
    """What a state registry is about (cluster.md section 1.2)."""

    ONLINE_USERS = 10
    """User ids that are logged in."""
    EVENT_SUBSCRIPTIONS = 11
    RECORD_SUBSCRIPTIONS = 12
    RPC_SUBSCRIPTIONS = 13
    """Names of calls that are provided."""
    PRESENCE_SUBSCRIPTIONS = 14
    """User ids that somebody watches."""
    RECORD_LISTEN_PATTERNS = 15
    EVENT_LISTEN_PATTERNS = 16
    RECORD_PUBLISHED_SUBSCRIPTIONS = 17
    """Names that a listener provides."""
    EVENT_PUBLISHED_SUBSCRIPTIONS = 18
    PRESENCE_ALL_SUBSCRIPTIONS = 25
    """The subscription to all users; a number of dsfast's own."""


class StateRegistry(ABC):
    """A set of names, each held by any number of servers, with a count of its own on this one.

    All methods return at once.
    """

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether any server holds the name."""

    @abstractmethod
    def get_all(self, server: str | None = None) -> list[str]:
        """All names, or those that one server holds."""

    @abstractmethod
    def get_all_servers(self, name: str) -> list[str]:
        """The servers that hold a name."""

    @abstractmethod
    def add(self, name: str) -> None:
        """Count one up on this server; with the first one it holds the name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Count one down on this server; with the last one it holds the name no more. Below 0 never."""

    @abstractmethod
    def on_add(self, callback: Callable[[str], object]) -> None:
        """Call ``callback(name)`` whenever a name is new in the cluster, before :meth:`add` returns.

        Several callbacks are called in the order in which they were given. One that fails must keep neither
        the others nor the caller of :meth:`add` from going on.
        """

    @abstractmethod
    def on_remove(self, callback: Callable[[str], object]) -> None:
        """As :meth:`on_add`, whenever no server holds the name any more."""

    def remove_all(self, server: str) -> None:  # noqa: B027 - an optional hook
        """Forget what a server holds; it is gone. The default has nothing of other servers."""

    async def when_ready(self) -> None:  # noqa: B027 - an optional hook
        """Return when what the other servers hold is known."""


class StateRegistryFactory(Plugin):
    """Makes the state registries (plugins.md B.12)."""

    @abstractmethod
    def get_state_registry(self, topic: int) -> StateRegistry:
        """The registry of a :class:`StateTopic`: the same object whenever it is asked for."""

    @abstractmethod
    def get_state_registries(self) -> Mapping[int, StateRegistry]:
        """All registries that there are, by topic."""
