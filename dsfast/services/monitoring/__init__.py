"""What is told about the server's work: nothing by default, or every monitoring plugin in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dsfast.plugin import Monitoring, Socket
from dsfast.services.combined import Combined

if TYPE_CHECKING:
    from dsfast._core.protocol import Message

__all__ = ["CombinedMonitoring", "NoMonitoring"]


class NoMonitoring(Monitoring):
    """Monitoring ``none``. The core knows it and does not call it."""

    description = "none"


class CombinedMonitoring(Combined[Monitoring], Monitoring):
    """Passes everything to several monitorings, in the order of the list.

    A failing one is logged and the others are still called.
    """

    def on_error_log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None) -> None:
        """See :class:`Monitoring`."""
        self._each(lambda entry: entry.on_error_log(level, event, message, meta))

    def on_login(self, allowed: bool, endpoint_type: str) -> None:
        """See :class:`Monitoring`."""
        self._each(lambda entry: entry.on_login(allowed, endpoint_type))

    def on_message_received(self, message: Message, socket: Socket) -> None:
        """See :class:`Monitoring`."""
        self._each(lambda entry: entry.on_message_received(message, socket))

    def on_message_send(self, message: Message) -> None:
        """See :class:`Monitoring`."""
        self._each(lambda entry: entry.on_message_send(message))

    def on_broadcast(self, message: Message, count: int) -> None:
        """See :class:`Monitoring`."""
        self._each(lambda entry: entry.on_broadcast(message, count))

    def _each(self, call: Callable[[Monitoring], None]) -> None:
        for entry in self.entries:
            try:
                call(entry)
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"monitoring {type(entry).__name__} failed: {error!r}")
