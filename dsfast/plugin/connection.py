"""Connection endpoints, and who is told about clients (plugins.md B.1 and B.7)."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dsfast.plugin.base import Plugin

if TYPE_CHECKING:
    from dsfast.plugin.socket import Socket

__all__ = ["ConnectionEndpoint", "ConnectionListener"]


@runtime_checkable
class ConnectionListener(Protocol):
    """Is told about every authenticated client; a custom plugin becomes one by having both methods."""

    def on_client_connected(self, socket: Socket) -> None:
        """The client has been told that its login succeeded."""

    def on_client_disconnected(self, socket: Socket) -> None:
        """The client's connection has closed."""


class ConnectionEndpoint(Plugin):
    """Accepts clients (plugins.md B.7): opens its port in :meth:`when_ready`, drains in :meth:`close`."""

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses and ports that are listened on; empty before the start and after the stop."""
        return []

    def stop_accepting(self) -> None:
        """Refuse new clients from now on; those connected stay until :meth:`close`."""

    def get_client_versions(self) -> Mapping[str, Set[str]]:
        """Versions of the client libraries that have logged in since the start, by kind of library."""
        return {}
