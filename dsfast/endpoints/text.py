"""The ws-text endpoint (protocol-text-v3.md)."""

from __future__ import annotations

from dsfast._core.text_protocol import TextProtocol
from dsfast.endpoints.websocket import WebSocketEndpoint

__all__ = ["TextEndpoint"]


class TextEndpoint(WebSocketEndpoint):
    """Websockets for the clients of deepstream.io before version 4, npm ``deepstream.io-client-js``."""

    description = "ws-text"
    protocol = TextProtocol

    def init(self) -> None:
        """As of the other endpoints; the protocol is told who logs for it."""
        super().init()
        protocol = self.services.message_distributor.protocol(TextProtocol)
        if isinstance(protocol, TextProtocol):
            protocol.owner = self

    def log_unsendable(self, text: str) -> None:
        """A message was not sent: a client of another protocol has used a separator in a name."""
        self._guard.warn("text protocol", "INVALID_MESSAGE", f"not sent, a name has a separator: {text}")
