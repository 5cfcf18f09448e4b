"""A client connection for plugins that need no server around it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from dsfast.plugin import UNSET
from dsfast.protocol import Message

__all__ = ["FakeSocket"]


class FakeSocket:
    """A :class:`dsfast.plugin.Socket` that keeps what it is sent."""

    def __init__(
        self,
        user_id: str | None = "user",
        *,
        server_data: Any = None,
        client_data: Any = UNSET,
        handshake_data: Mapping[str, Any] | None = None,
    ) -> None:
        self.user_id = user_id
        self.server_data = server_data
        self.client_data = client_data
        self.uuid = uuid.uuid4().hex
        self.socket_type = "fake"
        self.is_remote = False
        self.is_closed = False
        self.handshake_data: Mapping[str, Any] = handshake_data or {
            "remoteAddress": "127.0.0.1",
            "headers": {},
            "referer": None,
        }
        self.sent: list[Message] = []
        self._callbacks: list[Callable[[Any], None]] = []

    def send(self, message: Message) -> None:
        """Keep the message, unless the socket is closed."""
        if not self.is_closed:
            self.sent.append(message)

    def on_close(self, callback: Callable[[Any], None]) -> None:
        """See :class:`dsfast.plugin.Socket`."""
        self._callbacks.append(callback)

    def remove_on_close(self, callback: Callable[[Any], None]) -> None:
        """See :class:`dsfast.plugin.Socket`."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def destroy(self) -> None:
        """Close: whoever wanted to know is told."""
        self.is_closed = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
