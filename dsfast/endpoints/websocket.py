"""The websocket endpoints (connection-and-auth.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dsfast._core.connection import Protocol
from dsfast.endpoints.clients import ClientEndpoint
from dsfast.plugin import PluginError

if TYPE_CHECKING:
    from dsfast.config import WebSocketOptions

__all__ = ["WebSocketEndpoint"]


class WebSocketEndpoint(ClientEndpoint):
    """Serves clients of the binary protocol, on a path of the port.

    Subclasses serve other protocols: they name theirs.
    """

    description = "ws-binary"
    options: WebSocketOptions
    protocol: Callable[[int], Protocol] | None = None
    """The protocol in the core; None is the binary one."""

    def init(self) -> None:
        """Set up the core's part from the options."""
        self.prepare()
        options, router = self.options, self.services.message_distributor
        self.max_names = options.max_names_per_message
        self.shows_login_data = options.log_invalid_auth_data
        core = self.make_core(None if self.protocol is None else router.protocol(self.protocol))
        core.max_message_size = options.max_message_size
        core.heartbeat_interval = options.heartbeat_interval
        core.unauthenticated_timeout = options.unauthenticated_client_timeout or 0
        core.max_auth_attempts = options.max_auth_attempts
        core.max_bad_messages = options.max_bad_messages
        if options.per_message_deflate:
            core.deflate = router.deflate(
                core.protocol, options.compression_level, options.compression_threshold
            )
        self.core = core
        self._http = self.services.http_service
        try:
            self._http.register_websocket_endpoint(options.url_path, self)
        except ValueError as error:
            raise PluginError(str(error)) from None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Those of the port."""
        return self._http.addresses

    async def close(self) -> None:
        """Drop the logins that are being decided, and wait until the port has ended its connections."""
        self.cancel_logins()
        if hasattr(self, "_http"):
            await self._http.close()
            self._guard.close()

    # --- called by the core

    def on_empty(self) -> None:
        """The last connection is gone."""
        self._http.on_empty()

    def origin_allowed(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of this origin may open a websocket."""
        return self._http.origin_allowed(headers)
