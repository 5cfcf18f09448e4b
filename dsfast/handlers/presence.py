"""Presence: who is logged in (spec/events-rpc-presence-listen.md section 4)."""

from __future__ import annotations

from dsfast._core.connection import Connection
from dsfast._core.fanout import Registry
from dsfast._core.json_text import dumps
from dsfast._core.protocol import Message, PresenceAction, Topic
from dsfast._core.router import Handler
from dsfast.plugin import StateRegistry

__all__ = ["EVERYONE", "NOBODY", "PresenceHandler"]

EVERYONE = "%_EVERYONE_%"
"""What MULTIPLE_SUBSCRIPTIONS calls the subscription to all users."""

TEXT = "wsText"
"""Socket type of the clients for which a user's joining is one line, whatever they have subscribed to."""

NOBODY = "OPEN"
"""User id of logins that authentication gave no id; they are not a user."""


class PresenceHandler(Handler):
    """Tells subscribers about first logins and last logouts of a user id.

    ``online`` is the state registry that counts the connections of each.
    """

    def __init__(self, users: Registry, everyone: Registry, online: StateRegistry) -> None:
        self._users = users
        # A registry of its own: a client may not reach it by subscribing to a user of that name.
        self._everyone = everyone
        self._online = online
        online.on_add(self._joined)
        online.on_remove(self._left)

    @property
    def registry(self) -> Registry:
        """The subscriptions to single users."""
        return self._users

    @property
    def online(self) -> list[str]:
        """User ids with at least one connection."""
        return self._online.get_all()

    def connected(self, connection: Connection) -> None:
        """A connection has logged in."""
        user = connection.user_id
        if user is not None and user != NOBODY:
            self._online.add(user)

    def disconnected(self, connection: Connection) -> None:
        """A connection that had logged in is gone."""
        user = connection.user_id
        if user is not None and user != NOBODY:
            self._online.remove(user)

    def _joined(self, user: str) -> None:
        self._tell(PresenceAction.PRESENCE_JOIN_ALL, PresenceAction.PRESENCE_JOIN, user)

    def _left(self, user: str) -> None:
        self._tell(PresenceAction.PRESENCE_LEAVE_ALL, PresenceAction.PRESENCE_LEAVE, user)

    def _tell(self, to_all: PresenceAction, to_single: PresenceAction, user: str) -> None:
        self._everyone.broadcast(EVERYONE, Message(Topic.PRESENCE, to_all, name=user))
        message = Message(Topic.PRESENCE, to_single, name=user)
        if not self._users.hub.is_polyglot or not self._users.has(user):
            self._users.broadcast(user, message)
            return
        for connection in self._users.subscribers(user):
            # To a text client both are the same line, which it has just had.
            if connection.socket_type != TEXT or not self._everyone.is_subscribed(EVERYONE, connection):
                connection.send(message)

    def on_message(self, connection: Connection, message: Message) -> None:
        """Handle one permitted message."""
        action = message.action
        names = message.names or []
        limit: int = connection.max_names
        if len(names) > limit or "" in names:
            connection.send(
                Message(
                    Topic.PRESENCE,
                    PresenceAction.INVALID_PRESENCE_USERS,
                    original_action=action,
                    correlation_id=message.correlation_id,
                    is_error=True,
                )
            )
        elif action == PresenceAction.QUERY_ALL:
            others = [user for user in self.online if user != connection.user_id]
            connection.send(Message(Topic.PRESENCE, PresenceAction.QUERY_ALL_RESPONSE, names=others or None))
        elif action == PresenceAction.QUERY:
            data = dumps({user: self._online.has(user) for user in names})
            connection.send(
                Message(
                    Topic.PRESENCE,
                    PresenceAction.QUERY_RESPONSE,
                    correlation_id=message.correlation_id,
                    data=data,
                )
            )
        elif action == PresenceAction.SUBSCRIBE:
            for name in names:
                if not self._users.add(name, connection):
                    self._repeated(connection, name, action)
            self._ack(connection, message)
        elif action == PresenceAction.UNSUBSCRIBE:
            for name in names:
                self._users.remove(name, connection)
            self._ack(connection, message)
        elif action == PresenceAction.SUBSCRIBE_ALL:
            if not self._everyone.add(EVERYONE, connection):
                self._repeated(connection, EVERYONE, action)
            # Clients find this acknowledgement by its action alone.
            connection.send(Message(Topic.PRESENCE, action, is_ack=True))
        elif action == PresenceAction.UNSUBSCRIBE_ALL:
            self._everyone.remove(EVERYONE, connection)
            connection.send(Message(Topic.PRESENCE, action, is_ack=True))
        else:
            self.unknown_action(connection, message)

    @staticmethod
    def _ack(connection: Connection, message: Message) -> None:
        ack = Message(Topic.PRESENCE, message.action, correlation_id=message.correlation_id, is_ack=True)
        connection.send(ack)

    @staticmethod
    def _repeated(connection: Connection, name: str, action: int) -> None:
        connection.send(
            Message(Topic.PRESENCE, PresenceAction.MULTIPLE_SUBSCRIPTIONS, name=name, original_action=action)
        )
