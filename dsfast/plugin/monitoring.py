"""Monitoring: is told what happens (plugins.md B.8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsfast.plugin.base import Plugin

if TYPE_CHECKING:
    from dsfast._core.protocol import Message
    from dsfast.plugin.socket import Socket

__all__ = ["Monitoring"]


class Monitoring(Plugin):
    """Is told what happens (plugins.md B.8). Every method is on the hot path; the defaults do nothing.

    Whoever overrides one of the methods about messages is called for every message, which makes an object of
    it; for all others they are only counted, in the core.
    """

    def on_error_log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None) -> None:
        """A line of level WARN or above was logged, whatever the level that is set."""

    def on_login(self, allowed: bool, endpoint_type: str) -> None:
        """A login was answered; ``endpoint_type`` is ``websocket`` or ``http``."""

    def on_message_received(self, message: Message, socket: Socket) -> None:
        """A permitted message is about to be handled."""

    def on_message_send(self, message: Message) -> None:
        """A message was sent to one client."""

    def on_broadcast(self, message: Message, count: int) -> None:
        """A message is about to be sent to ``count`` local subscribers, the sender included."""
