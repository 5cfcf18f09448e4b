"""The plugin contract: one typed base class for every kind of plugin that can be replaced.

Rules that hold for all of them (plugins.md part A):

* Every method runs on the event loop thread and must not block; :func:`asyncio.to_thread` is for what does.
* Methods that are not coroutines are on the hot path and must return at once.
* An exception that leaves a method is the error of that one operation. It is logged and answered; it never
  ends the server. :class:`PluginError` is the exception for an error whose text may be shown to a client.
* The constructor may only use ``options``; the other services exist from :meth:`Plugin.init` on.
"""

from msgspec import UNSET, UnsetType

from dsfast.plugin.authentication import Authentication, AuthResult
from dsfast.plugin.base import Plugin, PluginError
from dsfast.plugin.cache import Cache
from dsfast.plugin.cluster import BusCallback, ClusterNode, ClusterRegistry, LockRegistry
from dsfast.plugin.connection import ConnectionEndpoint, ConnectionListener
from dsfast.plugin.http import HttpError, HttpMeta, HttpService
from dsfast.plugin.logger import Logger, LogLevel, NamespacedLogger
from dsfast.plugin.monitoring import Monitoring
from dsfast.plugin.permission import Permission, RecordHandler, ReloadablePermission
from dsfast.plugin.socket import Socket
from dsfast.plugin.states import StateRegistry, StateRegistryFactory, StateTopic
from dsfast.plugin.storage import Storage
from dsfast.plugin.subscriptions import (
    SubscriptionListener,
    SubscriptionRegistry,
    SubscriptionRegistryFactory,
)
from dsfast.plugin.telemetry import Telemetry

__all__ = [
    "UNSET",
    "AuthResult",
    "Authentication",
    "BusCallback",
    "Cache",
    "ClusterNode",
    "ClusterRegistry",
    "ConnectionEndpoint",
    "ConnectionListener",
    "HttpError",
    "HttpMeta",
    "HttpService",
    "LockRegistry",
    "LogLevel",
    "Logger",
    "Monitoring",
    "NamespacedLogger",
    "Permission",
    "Plugin",
    "PluginError",
    "RecordHandler",
    "ReloadablePermission",
    "Socket",
    "StateRegistry",
    "StateRegistryFactory",
    "StateTopic",
    "Storage",
    "SubscriptionListener",
    "SubscriptionRegistry",
    "SubscriptionRegistryFactory",
    "Telemetry",
    "UnsetType",
]
