"""Several servers of one cluster in one process, without a network."""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsfast.plugin import BusCallback, ClusterNode

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["MemoryNode"]


class MemoryNode(ClusterNode):
    """The cluster node of one server. All with the same object in the option ``bus`` reach each other.

    A message arrives in a later turn of the loop, as a copy.
    """

    description = "in the memory of one process"

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._nodes: dict[str, MemoryNode] = options["bus"]
        self._callbacks: defaultdict[int, list[BusCallback]] = defaultdict(list)

    def init(self) -> None:
        """Be reached from now on."""
        self._nodes[self.config.server_name] = self

    async def close(self) -> None:
        """Be reached no more."""
        if self._nodes.get(self.config.server_name) is self:
            del self._nodes[self.config.server_name]

    def subscribe(self, topic: int, callback: BusCallback) -> None:
        """See :class:`ClusterNode`."""
        self._callbacks[topic].append(callback)

    def send(self, message: Mapping[str, Any]) -> None:
        """See :class:`ClusterNode`."""
        for name in self._nodes:
            if name != self.config.server_name:
                self.send_direct(name, message)

    def send_direct(self, server_name: str, message: Mapping[str, Any]) -> None:
        """See :class:`ClusterNode`."""
        node = self._nodes.get(server_name)
        if node is not None and node is not self:
            letter = copy.deepcopy(dict(message))
            asyncio.get_running_loop().call_soon(node._deliver, letter, self.config.server_name)

    def _deliver(self, message: Mapping[str, Any], sender: str) -> None:
        for callback in self._callbacks[message["topic"]]:
            try:
                callback(message, sender)
            except Exception as error:
                self.logger.error("PLUGIN_ERROR", f"a callback of the cluster node failed: {error!r}")
