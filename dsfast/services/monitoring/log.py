"""Monitoring ``log``: the figures in the log, at intervals (http.md section 8)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dsfast._core.json_text import dumps
from dsfast.services.monitoring.figures import FiguresMonitoring

if TYPE_CHECKING:
    from dsfast.config.schema import LogMonitoringOptions

__all__ = ["LogMonitoring"]


class LogMonitoring(FiguresMonitoring):
    """Each line has what has happened since the one before, as JSON."""

    options: LogMonitoringOptions

    @property
    def description(self) -> str:  # type: ignore[override]
        """How often."""
        return f"figures in the log every {self.options.log_interval} ms"

    def init(self) -> None:
        """Begin to count."""
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._write)

    @property
    def _seconds(self) -> float:
        return self.options.log_interval / 1000

    def _write(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._write)
        if hasattr(self.services, "message_distributor"):
            self.logger.info(self.options.monitoring_key, dumps(self.figures.take()).decode())

    async def close(self) -> None:
        """Stop writing."""
        if hasattr(self, "_timer"):
            self._timer.cancel()
