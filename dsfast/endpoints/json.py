"""The ws-json endpoint (protocol-json.md)."""

from __future__ import annotations

from dsfast._core.json_protocol import JsonProtocol
from dsfast.endpoints.websocket import WebSocketEndpoint

__all__ = ["JsonEndpoint"]


class JsonEndpoint(WebSocketEndpoint):
    """Websockets that carry one JSON object per message: the easiest protocol to write a client for."""

    description = "ws-json"
    protocol = JsonProtocol
