"""Stands between the core and a monitoring plugin that wants to see every message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dsfast.plugin import Logger, Monitoring, Socket
from dsfast.protocol import Message
from dsfast.services.combined import Combined
from dsfast.services.logger import FloodGuard

__all__ = ["Observer", "observer_of"]

_METHODS = ("on_message_received", "on_message_send", "on_broadcast")


def observer_of(monitoring: Monitoring, logger: Logger) -> Observer | None:
    """An observer for a monitoring that has written one of the methods about messages, else None."""
    entries = monitoring.entries if isinstance(monitoring, Combined) else (monitoring,)
    wants = any(
        getattr(type(entry), method, None) not in (None, getattr(Monitoring, method))
        for entry in entries
        for method in _METHODS
    )
    return Observer(monitoring, logger) if wants else None


class Observer:
    """Passes messages on; what the monitoring raises is logged, and goes no further."""

    def __init__(self, monitoring: Monitoring, logger: Logger) -> None:
        self._monitoring = monitoring
        self._guard = FloodGuard(logger)

    def received(self, message: Message, socket: Socket) -> None:
        """A permitted message is about to be handled."""
        self._call(self._monitoring.on_message_received, message, socket)

    def sent(self, message: Message) -> None:
        """A message is sent to one client."""
        self._call(self._monitoring.on_message_send, message)

    def broadcast(self, message: Message, count: int) -> None:
        """A message is about to be sent to all subscribers of its name on this server."""
        self._call(self._monitoring.on_broadcast, message, count)

    def close(self) -> None:
        """No more lines about faults."""
        self._guard.close()

    def _call(self, method: Callable[..., None], *arguments: Any) -> None:
        try:
            method(*arguments)
        except Exception as error:
            # A client may cause this as often as it likes.
            self._guard.error(
                "monitoring", "PLUGIN_ERROR", f"monitoring failed in {method.__name__}: {error!r}"
            )
