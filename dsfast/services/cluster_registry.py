"""The built-in cluster registry, of a server without others (plugins.md B.11)."""

from __future__ import annotations

from collections.abc import Callable

from dsfast.plugin import ClusterRegistry

__all__ = ["SingleServer"]


class SingleServer(ClusterRegistry):
    """This server is everybody, and leads."""

    description = "single node"

    def get_all(self) -> list[str]:
        """This server."""
        return [self.config.server_name]

    def get_leader(self) -> str:
        """This server."""
        return self.config.server_name

    def on_server_added(self, callback: Callable[[str], object]) -> None:
        """Nobody will come."""

    def on_server_removed(self, callback: Callable[[str], object]) -> None:
        """Nobody can go."""
