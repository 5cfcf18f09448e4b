"""What the servers of a cluster need of each other (plugins.md B.9 to B.11, cluster.md section 1.3)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from dsfast.plugin.base import Plugin

__all__ = ["BusCallback", "ClusterNode", "ClusterRegistry", "LockRegistry"]

BusCallback = Callable[[Mapping[str, Any], str], object]
"""``callback(message, name of the server that sent it)``."""


class ClusterNode(Plugin):
    """Carries messages between the servers of a cluster (plugins.md B.9).

    A message is a mapping of JSON values with the key ``topic``. Those of one sender arrive in the order in
    which they were sent; a server never receives its own; what is sent before the receiver is ready may be
    lost. ``self.config.server_name`` is the name of this server.
    """

    @abstractmethod
    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message for all other servers; returns at once and reports no failure."""

    @abstractmethod
    def send_direct(self, server_name: str, message: Mapping[str, Any]) -> None:
        """Queue a message for one server; lost if there is none of that name."""

    @abstractmethod
    def subscribe(self, topic: int, callback: BusCallback) -> None:
        """Call ``callback`` for each message of a topic, whoever else has subscribed to it.

        Called in constructors of other services, before :meth:`Plugin.init` of this one.
        """


class LockRegistry(Plugin):
    """Locks that one server of the cluster can hold (plugins.md B.10). Searches for providers need them.

    A lock that is not released expires by itself, after ``holdTimeout`` milliseconds in the built-in one.
    """

    @abstractmethod
    async def get(self, name: str) -> bool:
        """Take a lock; False if it is held, by whomever. Never waits for the holder.

        An exception, or no answer within the ``requestTimeout`` of the section ``locks`` (1000 ms), is a
        refusal; a lock that is granted later than that is released again.
        """

    @abstractmethod
    def release(self, name: str) -> None:
        """Give back a lock that this server holds; one that it does not hold is left alone."""

    async def renew(self, name: str) -> bool:
        """Hold a lock for another ``holdTimeout``; False if it is lost. Called while a search goes on.

        The default is for locks that do not expire while their holder lives.
        """
        return True


class ClusterRegistry(Plugin):
    """Who is in the cluster (plugins.md B.11). All methods return at once."""

    @abstractmethod
    def get_all(self) -> list[str]:
        """Names of all servers, this one included."""

    @abstractmethod
    def get_leader(self) -> str:
        """The server that decides what only one may decide."""

    def is_leader(self) -> bool:
        """Whether that is this one."""
        return self.get_leader() == self.config.server_name

    @abstractmethod
    def on_server_added(self, callback: Callable[[str], object]) -> None:
        """Call ``callback(name)`` when a server has come; several callbacks may be given."""

    @abstractmethod
    def on_server_removed(self, callback: Callable[[str], object]) -> None:
        """Call ``callback(name)`` when a server is gone; several callbacks may be given."""
