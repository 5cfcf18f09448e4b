"""Subscription registries: who is subscribed to what, and who is sent it (plugins.md B.13)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from dsfast.plugin.base import Plugin

if TYPE_CHECKING:
    from dsfast._core.protocol import Message
    from dsfast.plugin.socket import Socket

__all__ = ["SubscriptionListener", "SubscriptionRegistry", "SubscriptionRegistryFactory"]


class SubscriptionListener(Protocol):
    """Is told by a registry about its subscriptions."""

    def on_first_subscription_made(self, name: str) -> None:
        """The name is subscribed to for the first time in the cluster."""

    def on_subscription_made(self, name: str, socket: Socket) -> None:
        """A client of this server has subscribed."""

    def on_subscription_removed(self, name: str, socket: Socket) -> None:
        """A client of this server has unsubscribed, or is gone."""

    def on_last_subscription_removed(self, name: str) -> None:
        """Nobody in the cluster is subscribed to the name any more."""


class SubscriptionRegistry(ABC):
    """The subscriptions of one topic (events-rpc-presence-listen.md section 1). All methods return at once.

    A socket that closes loses its subscriptions: the registry asks for that with ``socket.on_close``.

    The handlers of the server call :meth:`subscribe` and :meth:`unsubscribe` once for each name and always
    ``silent``: they write the answers to the client themselves, which so are the same for every registry.
    """

    @abstractmethod
    def subscribe(self, name: str, message: Message, socket: Socket, silent: bool = False) -> bool:
        """Subscribe a client; False if it was subscribed already.

        ``message`` is what it sent. Unless ``silent`` the registry answers: a repeated subscription with
        MULTIPLE_SUBSCRIPTIONS, then in any case the message is sent back as an acknowledgement. An exception
        means that the client is not subscribed; the request is not acknowledged.
        """

    @abstractmethod
    def unsubscribe(self, name: str, message: Message, socket: Socket, silent: bool = False) -> bool:
        """End a subscription; False if there was none. Unless ``silent`` the message is sent back."""

    def subscribe_bulk(self, message: Message, socket: Socket, silent: bool = False) -> None:
        """Subscribe a client to all ``message.names``, with one acknowledgement."""
        for name in message.names or ():
            self.subscribe(name, message, socket, True)
        if not silent:
            self._acknowledge_bulk(message, socket)

    def unsubscribe_bulk(self, message: Message, socket: Socket, silent: bool = False) -> None:
        """End the subscriptions to all ``message.names``, with one acknowledgement."""
        for name in message.names or ():
            self.unsubscribe(name, message, socket, True)
        if not silent:
            self._acknowledge_bulk(message, socket)

    @staticmethod
    def _acknowledge_bulk(message: Message, socket: Socket) -> None:
        socket.send(message.replace(names=None, is_ack=True))

    @abstractmethod
    def send_to_subscribers(
        self,
        name: str,
        message: Message,
        no_delay: bool,
        sender: Socket | None,
        suppress_remote: bool = False,
    ) -> None:
        """Send a message to all subscribers on this server but ``sender``, in the order of the calls.

        With a sender, and unless ``suppress_remote``, it is for the subscribers on other servers as well.
        ``no_delay`` asks not to wait for ``outgoingBufferTimeout``.
        """

    @abstractmethod
    def get_local_subscribers(self, name: str) -> Collection[Socket]:
        """The clients of this server that are subscribed to a name."""

    def has_local_subscribers(self, name: str) -> bool:
        """Whether there are any."""
        return bool(self.get_local_subscribers(name))

    @abstractmethod
    def get_local_names(self) -> Collection[str]:
        """The names that clients of this server are subscribed to."""

    def get_names(self) -> Collection[str]:
        """All names that are subscribed to in the cluster. The default knows this server only."""
        return self.get_local_names()

    def has_name(self, name: str) -> bool:
        """Whether anybody in the cluster is subscribed to the name. The default knows this server only."""
        return self.has_local_subscribers(name)

    def get_all_remote_servers(self, name: str) -> list[str]:
        """The other servers with subscribers of a name. The default knows of none."""
        return []

    @abstractmethod
    def get_all_servers(self, name: str) -> list[str]:
        """The servers with subscribers of a name, this one included."""

    @abstractmethod
    def set_subscription_listener(self, listener: SubscriptionListener) -> None:
        """Who is told about subscriptions from now on, instead of whoever was before.

        The server sets one for events and records; listening depends on it.
        """

    def set_action(self, key: str, action: int) -> None:  # noqa: B027 - an optional hook
        """Which action of the topic is used for ``key``, in any case of its letters.

        The keys are SUBSCRIBE, UNSUBSCRIBE, MULTIPLE_SUBSCRIPTIONS and NOT_SUBSCRIBED. Called by the server
        before the first subscription. Only who answers clients needs it.
        """


class SubscriptionRegistryFactory(Plugin):
    """Makes the subscription registries (plugins.md B.13)."""

    @abstractmethod
    def get_subscription_registry(self, topic: int, cluster_topic: int) -> SubscriptionRegistry:
        """The registry of a topic, about which ``cluster_topic`` (:class:`StateTopic`) tells the cluster.

        The same object for the same pair. Presence has two: one for the subscriptions to single users, one
        for those to all of them. Called by the handlers at the start, when all services are ready.
        """

    @abstractmethod
    def get_subscription_registries(self) -> Mapping[tuple[int, int], SubscriptionRegistry]:
        """All registries that there are, by their pair of topics."""
