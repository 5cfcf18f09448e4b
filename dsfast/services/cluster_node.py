"""The built-in cluster node: there is no other server (plugins.md B.9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsfast.plugin import BusCallback, ClusterNode

__all__ = ["SingleNode"]


class SingleNode(ClusterNode):
    """Has nobody to talk to."""

    description = "single node"

    def send(self, message: Mapping[str, Any]) -> None:
        """Nobody is there."""

    def send_direct(self, server_name: str, message: Mapping[str, Any]) -> None:
        """Nobody is there."""

    def subscribe(self, topic: int, callback: BusCallback) -> None:
        """Nothing will come."""
