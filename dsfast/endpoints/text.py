"""The ws-text endpoint (protocol-text-v3.md)."""

from __future__ import annotations

from dsfast._core.text_protocol import TextProtocol
from dsfast.endpoints.websocket import WebSocketEndpoint

__all__ = ["TextEndpoint"]


class TextEndpoint(WebSocketEndpoint):
    """Websockets for the clients of deepstream.io before version 4, npm ``deepstream.io-client-js``."""

    description = "ws-text"
    protocol = TextProtocol
