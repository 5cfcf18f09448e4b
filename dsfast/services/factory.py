"""From a section of the configuration, a class or an instance to a plugin that fulfils its contract."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from dsfast.config.schema import PluginSection, Section
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
    Telemetry,
)

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = [
    "KINDS",
    "ContractError",
    "PluginLoadError",
    "build",
    "built_in",
    "missing_methods",
    "register_plugin",
]

KINDS: dict[str, type[Plugin]] = {
    "logger": Logger,
    "monitoring": Monitoring,
    "storage": Storage,
    "cache": Cache,
    "authentication": Authentication,
    "permission": Permission,
    "connection_endpoint": ConnectionEndpoint,
    "subscriptions": SubscriptionRegistryFactory,
    "locks": LockRegistry,
    "cluster_node": ClusterNode,
    "cluster_registry": ClusterRegistry,
    "cluster_states": StateRegistryFactory,
    "http_service": HttpService,
    "telemetry": Telemetry,
    "plugin": Plugin,
}
"""The base class of each kind of plugin."""

# Named by text, so that a start loads only what it uses.
_BUILT_IN = {
    ("logger", "default"): "dsfast.services.logger:DefaultLogger",
    ("logger", "json"): "dsfast.services.logger.json:JsonLogger",
    ("logger", "pino"): "dsfast.services.logger.json:JsonLogger",
    ("monitoring", "none"): "dsfast.services.monitoring:NoMonitoring",
    ("monitoring", "log"): "dsfast.services.monitoring.log:LogMonitoring",
    ("monitoring", "http"): "dsfast.services.monitoring.http:HttpMonitoring",
    ("storage", "sqlite"): "dsfast.services.storage.sqlite:SqliteStorage",
    ("storage", "none"): "dsfast.services.storage.none:NoStorage",
    ("storage", "default"): "dsfast.services.storage.none:NoStorage",
    ("cache", "default"): "dsfast.services.cache.memory:MemoryCache",
    ("authentication", "none"): "dsfast.services.authentication:OpenAuthentication",
    ("authentication", "file"): "dsfast.services.authentication.file:FileAuthentication",
    ("authentication", "storage"): "dsfast.services.authentication.storage:StorageAuthentication",
    ("authentication", "http"): "dsfast.services.authentication.webhook:HttpAuthentication",
    ("authentication", "jwt"): "dsfast.services.authentication.jwt:JwtAuthentication",
    ("permission", "none"): "dsfast.services.permission:OpenPermission",
    ("permission", "config"): "dsfast.services.permission.valve:ValvePermission",
    ("connection_endpoint", "ws-binary"): "dsfast.endpoints.websocket:WebSocketEndpoint",
    ("connection_endpoint", "http"): "dsfast.endpoints.http:HttpEndpoint",
    ("connection_endpoint", "ws-json"): "dsfast.endpoints.json:JsonEndpoint",
    ("connection_endpoint", "ws-text"): "dsfast.endpoints.text:TextEndpoint",
    ("connection_endpoint", "mqtt"): "dsfast.endpoints.mqtt:MqttEndpoint",
    ("plugin", "heap-snapshot"): "dsfast.services.heap_snapshot:HeapSnapshot",
    ("subscriptions", "default"): "dsfast.services.subscriptions:DefaultSubscriptionRegistryFactory",
    ("locks", "default"): "dsfast.services.locks:LeaderLocks",
    ("cluster_node", "default"): "dsfast.services.cluster_node:SingleNode",
    ("cluster_registry", "default"): "dsfast.services.cluster_registry:SingleServer",
    ("cluster_states", "default"): "dsfast.services.cluster_states:LocalStateRegistryFactory",
    ("http_service", "default"): "dsfast.services.http_service:HttpService",
    ("http_service", "uws"): "dsfast.services.http_service:HttpService",
    ("telemetry", "deepstreamIO"): "dsfast.services.telemetry:NoTelemetry",
}

_registered: dict[str, type[Plugin]] = {}


class ContractError(Exception):
    """A plugin cannot be used: it lacks a method, or it is no plugin at all."""


class PluginLoadError(ContractError):
    """There is no such plugin, or its code cannot be loaded.

    The text is one line for people; the cause of the exception is that of the plugin's own code.
    """


def register_plugin(name: str, plugin_class: type[Plugin]) -> None:
    """Make a class usable as ``name: <name>`` in a configuration.

    Case does not count, and the last registration of a name holds. Raises :class:`TypeError` if it is no
    class and :class:`ValueError` for the name of a built-in implementation.
    """
    if not name or not inspect.isclass(plugin_class):
        raise TypeError("register_plugin needs a name and a class")
    if any(name.lower() == built_in for _, built_in in _BUILT_IN):
        raise ValueError(f"{name} is the name of a built-in implementation")
    _registered[name.lower()] = plugin_class


def built_in() -> list[tuple[str, str]]:
    """Kind and type of every built-in implementation."""
    return list(_BUILT_IN)


def build(kind: str, source: Any, services: Services, config: Config, options: Any = None) -> Plugin:
    """The plugin for ``source``: a section of the configuration, a class, or an instance, which is returned.

    ``options`` replaces the options of a section. Raises :class:`ContractError`; what the constructor raises
    is passed on.
    """
    base = KINDS[kind]
    if isinstance(source, Section):
        plugin_class: type[Any] = _class_for(kind, base, source, config)
        if options is None:
            options = source.get("options", {})
    elif inspect.isclass(source):
        plugin_class = source
    else:
        if _only_logs(base, source):
            return _adapted(source, {}, services, config)
        _check(kind, base, source)
        return cast(Plugin, source)
    options = {} if options is None else options
    if _only_logs(base, plugin_class):
        return _adapted(plugin_class(options, services, config), options, services, config)
    _check(kind, base, plugin_class)
    plugin: Plugin = plugin_class(options, services, config)
    return plugin


def missing_methods(base: type[Plugin], candidate: Any) -> list[str]:
    """What a class or an instance lacks of its contract.

    A subclass of ``base`` has to implement the abstract methods, any other class all public methods.
    """
    plugin_class = candidate if inspect.isclass(candidate) else type(candidate)
    if issubclass(plugin_class, base):
        return sorted(getattr(plugin_class, "__abstractmethods__", ()))
    public = [name for name, member in inspect.getmembers(base, callable) if not name.startswith("_")]
    return [name for name in public if not callable(getattr(candidate, name, None))]


def _check(kind: str, base: type[Plugin], candidate: Any) -> None:
    missing = missing_methods(base, candidate)
    if missing:
        raise ContractError(f"{kind} needs to implement {', '.join(missing)}")


def _only_logs(base: type[Plugin], candidate: Any) -> bool:
    """Whether this is a logger that leaves all but writing a line to others (configuration.md section 4)."""
    plugin_class = candidate if inspect.isclass(candidate) else type(candidate)
    return (
        base is Logger
        and not issubclass(plugin_class, Logger)
        and callable(getattr(plugin_class, "log", None))
        and not callable(getattr(plugin_class, "should_log", None))
    )


def _adapted(inner: Any, options: Any, services: Services, config: Config) -> Logger:
    from dsfast.services.logger.adapted import AdaptedLogger  # noqa: PLC0415 - rarely needed

    return AdaptedLogger(inner, options, services, config)


def _class_for(kind: str, base: type[Plugin], section: Section, config: Config) -> type[Any]:
    if not isinstance(section, PluginSection):
        module, _, name = _BUILT_IN[kind, section["type"]].partition(":")
        loaded: type[Any] = getattr(import_module(module), name)
        return loaded
    if section.plugin_class is not None:
        if not isinstance(section.plugin_class, type):
            raise ContractError(f"{kind}: class is {section.plugin_class!r}, which is no class")
        return section.plugin_class
    if section.name is not None and (registered := _registered.get(section.name.lower())):
        return registered
    from dsfast.services.plugin_loader import class_by_name, class_by_path  # noqa: PLC0415 - rarely needed

    if section.path is not None:
        return class_by_path(kind, base, section.path, config)
    return class_by_name(kind, base, section.name or "", config)
