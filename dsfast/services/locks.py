"""The built-in locks: granted by the leader of the cluster (plugins.md B.10, cluster.md section 1.9).

A single server is its own leader, and the search for a provider then does not ask at all. With a cluster
registry or a cluster node of somebody else these are the messages by which the servers ask their leader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from dsfast.plugin import LockRegistry

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["LeaderLocks"]

LOCK_TOPIC = 10


class LockAction(IntEnum):
    """Actions of the bus topic of locks (cluster.md section 1.2); RENEW is dsfast's own."""

    REQUEST = 2
    RESPONSE = 3
    RELEASE = 4
    RENEW = 5


class LeaderLocks(LockRegistry):
    """Asks the leader, or is it. What a leader has granted is forgotten when another one takes over."""

    description = "locks of the cluster's leader"

    def __init__(self, options: Any, services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._hold_seconds = options.get("holdTimeout", 1000) / 1000
        self._request_seconds = options.get("requestTimeout", 1000) / 1000
        self._held: dict[str, tuple[str, asyncio.TimerHandle]] = {}  # name -> holder and when it expires
        self._asked: dict[str, asyncio.Future[bool]] = {}

    def init(self) -> None:
        """Listen to what other servers ask."""
        self.services.cluster_node.subscribe(LOCK_TOPIC, self._on_message)

    async def close(self) -> None:
        """Forget all locks; whoever asks is refused."""
        for _, timer in self._held.values():
            timer.cancel()
        self._held.clear()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result(False)

    async def get(self, name: str) -> bool:
        """See :class:`LockRegistry`."""
        registry = self.services.cluster_registry
        if registry.is_leader():
            return self._grant(name, self.config.server_name)
        if name in self._asked:
            return False
        waiting = self._asked[name] = asyncio.get_running_loop().create_future()
        self._tell(registry.get_leader(), LockAction.REQUEST, name)
        try:
            async with asyncio.timeout(self._request_seconds):
                return bool(await waiting)
        except TimeoutError:
            self.logger.warn("LOCK_REQUEST_TIMEOUT", f"no answer of the leader for the lock {name}")
            return False
        finally:
            del self._asked[name]

    async def renew(self, name: str) -> bool:
        """See :class:`LockRegistry`; the answer of another leader is not waited for."""
        registry = self.services.cluster_registry
        if registry.is_leader():
            return self._extend(name, self.config.server_name)
        self._tell(registry.get_leader(), LockAction.RENEW, name)
        return True

    def release(self, name: str) -> None:
        """See :class:`LockRegistry`."""
        registry = self.services.cluster_registry
        if registry.is_leader():
            self._drop(name, self.config.server_name)
        else:
            self._tell(registry.get_leader(), LockAction.RELEASE, name)

    def _tell(self, server: str, action: LockAction, name: str, **fields: Any) -> None:
        message = {"topic": LOCK_TOPIC, "action": int(action), "name": name, **fields}
        self.services.cluster_node.send_direct(server, message)

    # The leader

    def _grant(self, name: str, server: str) -> bool:
        if name in self._held:
            return False
        self._held[name] = (server, self._expiry(name))
        return True

    def _extend(self, name: str, server: str) -> bool:
        holder, timer = self._held.get(name, (None, None))
        if holder != server or timer is None:
            return False
        timer.cancel()
        self._held[name] = (server, self._expiry(name))
        return True

    def _drop(self, name: str, server: str) -> None:
        holder, timer = self._held.get(name, (None, None))
        if holder == server and timer is not None:
            timer.cancel()
            del self._held[name]

    def _expiry(self, name: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._hold_seconds, self._expire, name)

    def _expire(self, name: str) -> None:
        del self._held[name]
        self.logger.warn("LOCK_RELEASE_TIMEOUT", f"lock {name} released due to timeout")

    def _on_message(self, message: Mapping[str, Any], server: str) -> None:
        action, name = message.get("action"), message.get("name")
        if not isinstance(name, str):
            return
        if action == LockAction.RESPONSE:
            waiting = self._asked.get(name)
            if waiting is not None and not waiting.done():
                waiting.set_result(message.get("locked") is True)
            elif message.get("locked") is True:
                self._tell(server, LockAction.RELEASE, name)  # it came too late, nobody holds it here
            return
        if not self.services.cluster_registry.is_leader():
            self.logger.warn("INVALID_LEADER_REQUEST", f"{server} asked for the lock {name} here")
        elif action == LockAction.REQUEST:
            self._tell(server, LockAction.RESPONSE, name, locked=self._grant(name, server))
        elif action == LockAction.RENEW:
            self._extend(name, server)
        elif action == LockAction.RELEASE:
            self._drop(name, server)
