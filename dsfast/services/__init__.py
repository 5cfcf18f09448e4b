"""The registry of services that every part of the server and every plugin shares (plugins.md A.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsfast.plugin import (
        Authentication,
        Cache,
        ClusterNode,
        ClusterRegistry,
        ConnectionEndpoint,
        HttpService,
        LockRegistry,
        Logger,
        Monitoring,
        Permission,
        Plugin,
        StateRegistryFactory,
        Storage,
        SubscriptionRegistryFactory,
    )
    from dsfast.services.authentication.hash_pool import HashPool
    from dsfast.services.storage.write_behind import WriteBehind

__all__ = ["Services"]


class Services:
    """One attribute per service; filled in the order of construction, complete from ``Plugin.init`` on.

    ``storage`` is the plugin itself. ``storage_writer`` is the write-behind layer in front of it, which the
    record handler uses; it is None when nothing is stored. ``hash_pool`` checks passwords; it is None until
    an authentication needs it.
    """

    logger: Logger
    monitoring: Monitoring
    storage: Storage
    cache: Cache
    authentication: Authentication
    permission: Permission
    subscriptions: SubscriptionRegistryFactory
    locks: LockRegistry
    cluster_node: ClusterNode
    cluster_registry: ClusterRegistry
    cluster_states: StateRegistryFactory
    telemetry: Plugin
    http_service: HttpService
    message_distributor: Any
    """The router; exists from the handler phase of the start on."""

    def __init__(self, on_fatal: Callable[[], None] | None = None) -> None:
        self.storage_writer: WriteBehind | None = None
        self.hash_pool: HashPool | None = None
        self.connection_endpoints: list[ConnectionEndpoint] = []
        self.plugins: dict[str, Plugin] = {}
        self._on_fatal = on_fatal
        self._fatal_reported = False
        self._reporting = False

    def notify_fatal_exception(self) -> None:
        """A part of the server is dead: end the server, or signal it, per ``exitOnFatalError``.

        Only the first call counts; a server ends once.
        """
        if not self._fatal_reported:
            self._fatal_reported = True
            if self._on_fatal is not None:
                self._on_fatal()

    def report_log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None) -> None:
        """Pass a line of level WARN or above to monitoring, if that exists already.

        A failing monitoring is logged once per line; the log line about the failure is not reported again.
        """
        monitoring: Monitoring | None = getattr(self, "monitoring", None)
        if monitoring is None or self._reporting:
            return
        self._reporting = True
        try:
            monitoring.on_error_log(level, event, message, meta)
        except Exception as error:
            self.logger.error("PLUGIN_ERROR", f"monitoring failed in on_error_log: {error!r}")
        finally:
            self._reporting = False
