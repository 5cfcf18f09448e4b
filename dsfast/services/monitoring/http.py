"""Monitoring ``http``: the figures by HTTP, for those who send a certain header (http.md section 8)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsfast.plugin import HttpError, HttpMeta, PluginError
from dsfast.services.monitoring.figures import FiguresMonitoring

if TYPE_CHECKING:
    from dsfast.config.schema import HttpMonitoringOptions

__all__ = ["HttpMonitoring"]


class HttpMonitoring(FiguresMonitoring):
    """Each read begins a new interval. Whoever may not read them does not even learn that they are there."""

    options: HttpMonitoringOptions

    @property
    def description(self) -> str:  # type: ignore[override]
        """Where the figures are."""
        return f"HTTP monitoring on {self.options.url}"

    def init(self) -> None:
        """Warn about what may be unwise."""
        if self.options.allow_open_permissions:
            self.logger.warn("INVALID_CONFIG_DATA", "everybody may read the figures of the HTTP monitoring")

    async def when_ready(self) -> None:
        """Register the path. Raises :class:`PluginError` if it is taken."""
        try:
            self.services.http_service.register_get_path_prefix(self.options.url, self._answer)
        except ValueError as error:
            raise PluginError(str(error)) from None

    def _answer(self, meta: HttpMeta) -> Any:
        if not self._may_read(meta.headers):
            self.logger.warn("AUTH_ERROR", "the figures were asked for without the right header")
            raise HttpError(404, "Endpoint not found.")
        return self.figures.take()

    def _may_read(self, headers: Mapping[str, str]) -> bool:
        options = self.options
        if options.allow_open_permissions:
            return True
        given = headers.get((options.header_key or "").lower(), "")
        return hmac.compare_digest(given.encode(), (options.header_value or "").encode())
