"""Websockets that speak a protocol of a plugin (plugins.md B.7)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from dsfast._core.plugin_protocol import PluginProtocol
from dsfast.config import WebSocketOptions
from dsfast.endpoints.websocket import WebSocketEndpoint
from dsfast.plugin import PluginError

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.protocol import Message
    from dsfast.services import Services

__all__ = ["OwnProtocolEndpoint"]


class OwnProtocolEndpoint(WebSocketEndpoint):
    """A new protocol only reads and writes messages: logins, permission, limits and order are the server's.

    A client begins as in the other protocols: CONNECTION/CHALLENGE, AUTH/REQUEST, then what it likes. The
    options are those of ``ws-binary``; ``urlPath`` has to be one that no other endpoint has. The plugin finds
    its own options beside them in ``own_options``.
    """

    socket_type: str = "own"
    """What plugins see as the type of these connections."""
    binary: bool = False
    """Whether messages travel in binary frames, as bytes, or in text frames, as str."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        self.own_options = options
        try:
            typed = msgspec.convert(dict(options), WebSocketOptions, strict=False)
        except msgspec.ValidationError as error:
            raise PluginError(f"options: {error}") from None
        super().__init__(cast(Any, typed), services, config)

    def init(self) -> None:
        """As of the other endpoints, with the protocol of this one."""
        self.protocol = lambda number: PluginProtocol(number, self, self.socket_type, self.binary)
        super().init()

    @abstractmethod
    def parse(self, frame: Any) -> Iterable[Message]:
        """The messages that a client has sent in one frame, str or bytes.

        Whatever it raises counts as a bad message of the client: it is told so, and its connection is closed
        after ``maxBadMessages``.
        """

    @abstractmethod
    def encode(self, message: Message) -> str | bytes | Iterable[str | bytes] | None:
        """A message for clients as one frame or several; None if the protocol has no such message.

        Called once for all clients of this endpoint that are to get it. It must not send anything itself.
        What it raises is logged, and nothing is sent.
        """
