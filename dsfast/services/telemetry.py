"""Telemetry: there is none (plugins.md B.15)."""

from __future__ import annotations

from dsfast.plugin import Telemetry

__all__ = ["NoTelemetry"]


class NoTelemetry(Telemetry):
    """Stands where deepstream.io reports its use to its makers; nothing is ever sent to anybody."""

    description = "none"

    async def when_ready(self) -> None:
        """Say so."""
        self.logger.get_namespace("TELEMETRY").info("INFO", "Telemetry disabled")
