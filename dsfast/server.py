"""The server: builds its parts in order, starts them, stops them in reverse (configuration.md section 7)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec

import dsfast
from dsfast.config import Config, load, set_value
from dsfast.config.pending import is_pending
from dsfast.config.schema import NoStorageSection, SqliteSection
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
    ReloadablePermission,
    StateRegistryFactory,
    Storage,
    SubscriptionRegistryFactory,
)
from dsfast.services import Services
from dsfast.services.authentication import AuthenticationCombiner
from dsfast.services.factory import KINDS, ContractError, PluginLoadError, build, register_plugin
from dsfast.services.monitoring import CombinedMonitoring

if TYPE_CHECKING:
    from dsfast.services.storage.write_behind import WriteBehind

__all__ = ["Server", "StartError", "State", "StateError", "register_plugin"]


def _camel_case(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(word.capitalize() for word in rest)


class State(StrEnum):
    """Where a server is in its life."""

    STOPPED = "STOPPED"
    CONFIG_LOADED = "CONFIG_LOADED"
    LOGGER_INIT = "LOGGER_INIT"
    SERVICE_INIT = "SERVICE_INIT"
    HANDLER_INIT = "HANDLER_INIT"
    PLUGIN_INIT = "PLUGIN_INIT"
    CONNECTION_ENDPOINT_INIT = "CONNECTION_ENDPOINT_INIT"
    RUNNING = "RUNNING"
    CONNECTION_ENDPOINT_SHUTDOWN = "CONNECTION_ENDPOINT_SHUTDOWN"
    PLUGIN_SHUTDOWN = "PLUGIN_SHUTDOWN"
    HANDLER_SHUTDOWN = "HANDLER_SHUTDOWN"
    SERVICE_SHUTDOWN = "SERVICE_SHUTDOWN"
    LOGGER_SHUTDOWN = "LOGGER_SHUTDOWN"


class StateError(RuntimeError):
    """The call does not fit the state of the server."""


class StartError(RuntimeError):
    """The server could not start; the text is one line for people.

    ``logged`` is True if the logger has already written it as a fatal line.
    """

    def __init__(self, text: str, *, logged: bool = False) -> None:
        super().__init__(text)
        self.logged = logged


@dataclass(slots=True)
class _Part:
    """Something that was started and has to be closed."""

    name: str
    close: Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class _Phase:
    """One step of the shutdown: its parts are closed at the same time, within a share of shutdownTimeout."""

    begun_by: State
    """From this state of the start on there is something to close."""
    state: State
    transition: str
    share: float
    parts: list[_Part] = field(default_factory=list)


# Names under which a service may be replaced, in upstream's and in Python's spelling: its kind.
_REPLACEABLE = {
    spelling: kind
    for kind, names in {
        **{kind: (kind,) for kind in KINDS if kind not in ("plugin", "connection_endpoint")},
        "connection_endpoint": ("connection_endpoints",),
    }.items()
    for name in names
    for spelling in (name, _camel_case(name))
}

_MOVED = {
    "auth": "auth has been replaced with authentication",
    "storageExclusion": (
        "storageExclusion has been replace with record.storageExclusionPrefixes instead, "
        "which is an array of prefixes"
    ),
}

STARTING = "=====================   starting   ====================="

Listener = Callable[..., None]


class Server:
    """A realtime server in the running event loop.

    ``config`` is a mapping as described in ``docs/configuration.md``, the path of a configuration file (then
    environment variables count too), a :class:`Config`, or None for the defaults. Raises
    :class:`dsfast.ConfigError` if it does not fit. A server runs once: after :meth:`stop` make a new one.
    """

    def __init__(self, config: Mapping[str, Any] | str | Path | Config | None = None) -> None:
        self._config = load(config)
        self._services = Services(self._on_fatal)
        self._replaced: dict[str, Any] = {}  # by kind
        self._own_plugins: dict[str, Any] = {}
        self._listeners: dict[str, list[Listener]] = {}
        self._state = State.CONFIG_LOADED
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stop_requested = False
        self._stopped = asyncio.Event()
        self._endpoints = _Phase(
            State.CONNECTION_ENDPOINT_INIT,
            State.CONNECTION_ENDPOINT_SHUTDOWN,
            "connection-endpoints-closed",
            0.3,
        )
        self._plugins = _Phase(State.PLUGIN_INIT, State.PLUGIN_SHUTDOWN, "plugins-closed", 0.05)
        self._handlers = _Phase(State.HANDLER_INIT, State.HANDLER_SHUTDOWN, "handlers-closed", 0.05)
        self._ordinary_services = _Phase(State.SERVICE_INIT, State.SERVICE_SHUTDOWN, "services-closed", 0.05)
        self._storage = _Phase(State.SERVICE_INIT, State.SERVICE_SHUTDOWN, "services-closed", 0.5)
        self._logger = _Phase(State.LOGGER_INIT, State.LOGGER_SHUTDOWN, "logger-closed", 0.05)

    # Questions and settings

    @property
    def state(self) -> State:
        """Where the server is in its life."""
        return self._state

    def is_running(self) -> bool:
        """True between the end of :meth:`start` and the beginning of :meth:`stop`."""
        return self._state is State.RUNNING

    def get_services(self) -> Services:
        """The registry of services; it is filled while the server starts."""
        return self._services

    def get_config(self) -> Config:
        """The merged configuration. Values that are read at use (time limits) may be changed in it."""
        return self._config

    def set(self, key: str, value: Any) -> None:
        """Replace a service, or change a value of the configuration.

        ``key`` is the name of a service (``permission``, ``cache``, ``cluster_states``, ...; upstream's
        spelling will do) with a plugin or a plugin class, for ``authentication``, ``monitoring`` and
        ``connection_endpoints`` a list of them, for ``plugins`` a mapping of them; or a dotted path of the
        configuration with its value. Services can be replaced before the start only. Raises
        :class:`KeyError` for an unknown key, :class:`dsfast.ConfigError` for a value that does not fit and
        :class:`StateError`.
        """
        if key in _MOVED:
            raise KeyError(_MOVED[key])
        if key in _REPLACEABLE and not _is_configuration(value):
            self._require_unstarted(key)
            self._replaced[_REPLACEABLE[key]] = value
            return
        if key == "plugins" and isinstance(value, Mapping) and not _is_configuration([*value.values()]):
            self._require_unstarted(key)
            self._own_plugins = dict(value)
            return
        try:
            set_value(self._config, key, value)
        except KeyError:
            raise KeyError(f'Unknown option or service "{key}"') from None
        if key in ("logLevel", "log_level") and self._state not in (State.CONFIG_LOADED, State.STOPPED):
            self._services.logger.set_log_level(self._config.log_level)

    def _require_unstarted(self, key: str) -> None:
        if self._state is not State.CONFIG_LOADED:
            raise StateError(f"{key} can only be replaced before the server is started")

    async def reload(self) -> None:
        """Read the permission rules and the certificates again, as far as there are any.

        What is not valid changes nothing and is logged as ``INVALID_CONFIG_DATA``.
        """
        endpoints = [self._services.http_service, *self._services.connection_endpoints]
        reloads = [endpoint.reload() for endpoint in endpoints if hasattr(endpoint, "reload")]
        reloaded = await asyncio.gather(*reloads)
        if isinstance(self._services.permission, ReloadablePermission) or not any(
            done is not None for done in reloaded
        ):
            await self.reload_permissions()

    async def reload_permissions(self) -> bool:
        """Read the permission rules again; True if they are in use now.

        Rules that are not valid change nothing; what is wrong with them is logged as ``INVALID_CONFIG_DATA``.
        """
        permission = getattr(self._services, "permission", None)
        if isinstance(permission, ReloadablePermission):
            return await permission.reload()
        if self._log is not None:
            self._log.warn("INVALID_CONFIG_DATA", "the permission service has no rules to be read again")
        return False

    @staticmethod
    def register_plugin(name: str, plugin_class: type[Plugin]) -> None:
        """See :func:`dsfast.register_plugin`."""
        register_plugin(name, plugin_class)

    def on(self, event: str, callback: Listener) -> None:
        """Call ``callback`` at each ``event``.

        The events are ``started``, ``stopped``, ``FATAL_EXCEPTION``, and ``DEEPSTREAM_STATE_CHANGED``, which
        passes the new state.
        """
        self._listeners.setdefault(event, []).append(callback)

    # Life cycle

    async def start(self) -> None:
        """Start everything; return when clients can connect.

        Raises :class:`StartError` after everything that had been started was closed again, and
        :class:`StateError` if the server was started before.
        """
        if self._state is not State.CONFIG_LOADED or self._starting is not None:
            raise StateError(f'Invalid state transition: {{"transition":"start","state":"{self._state}"}}')
        self._starting = asyncio.create_task(self._bring_up())
        try:
            await self._starting
        except asyncio.CancelledError:
            if self._stop_requested:
                raise StartError("The server was stopped while it was starting.") from None
            raise

    async def stop(self) -> None:
        """Stop accepting clients, let those connected go, save everything, close.

        Takes at most ``shutdownTimeout`` milliseconds. A part that fails or takes too long is logged and does
        not keep the others from closing. A call while the server is stopping waits for that; a call after it
        raises :class:`StateError`; a call during the start ends the start.
        """
        if self._state is State.STOPPED:
            raise StateError("The server is already stopped.")
        if self._stopping is not None:
            if self._log is not None:
                state = f"currently in state {self._state}"
                self._log.info("INFO", f"Server is currently shutting down, {state}")
            await asyncio.shield(self._stopping)
            return
        self._stop_requested = True
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
            return
        await self._shut_down_once()

    async def run(self) -> None:
        """Start, and return when the server has been stopped; cancelling stops it."""
        try:
            # The start belongs here too: it may be cancelled in the moment in which it has just succeeded.
            await self.start()
            await self._stopped.wait()
        except asyncio.CancelledError:
            if self._stopping is None and self._state is not State.STOPPED:
                await self.stop()
            raise

    async def _bring_up(self) -> None:
        try:
            await self._start_logger()
            await self._start_services()
            await self._start_handlers()
            await self._start_plugins()
            await self._start_endpoints()
        except BaseException:
            await self._shut_down_once()
            raise
        self._enter(State.RUNNING, "connection-endpoints-started")
        self._config.source.forget_values()
        self._announce()
        self._emit("started")

    async def _start_logger(self) -> None:
        if self._config.show_logo:
            print(f"dsfast {dsfast.__version__}\n{STARTING}", flush=True)
        self._enter(State.LOGGER_INIT, "start")
        section = self._config.logger
        logger = cast(Logger, self._build("logger", section))
        self._services.logger = logger
        level = section.options.get("logLevel")
        logger.set_log_level(self._config.log_level if level is None else level)
        self._logger.parts.append(_Part("logger", logger.close))
        await self._make_ready("logger", logger)
        self._announce_config(logger)

    async def _start_services(self) -> None:
        self._enter(State.SERVICE_INIT, "logger-started")
        self._construct()
        services = self._services
        self._storage.parts.append(_Part("storage", self._close_storage))
        started: dict[str, Plugin] = {
            "subscriptions": services.subscriptions,
            "storage": services.storage,
            "cache": services.cache,
            "permission": services.permission,
            "locks": services.locks,
            "cluster node": services.cluster_node,
            "cluster registry": services.cluster_registry,
            "cluster states": services.cluster_states,
            "http service": services.http_service,
            "telemetry": services.telemetry,
            "monitoring": services.monitoring,
            "authentication": services.authentication,
        }
        for name, plugin in started.items():
            if name not in ("storage", "http service"):
                self._ordinary_services.parts.append(_Part(name, plugin.close))
        await _all([self._make_ready(name, plugin) for name, plugin in started.items()])
        services.storage_writer = self._build_storage_writer()

    def _construct(self) -> None:
        """Make all services and plugins; a constructor sees those that were made before it."""
        services, config = self._services, self._config
        monitorings = cast(list[Monitoring], self._build_list("monitoring", config.monitoring))
        services.monitoring = (
            monitorings[0] if len(monitorings) == 1 else CombinedMonitoring(monitorings, services, config)
        )
        services.subscriptions = cast(
            SubscriptionRegistryFactory, self._build("subscriptions", config.subscriptions)
        )
        services.storage = self._build_storage()
        services.cache = cast(Cache, self._build("cache", config.cache))
        entries = cast(list[Authentication], self._build_list("authentication", config.auth))
        services.authentication = AuthenticationCombiner(entries, services, config)
        services.permission = cast(Permission, self._build("permission", config.permission))
        endpoints = [
            section
            for section in config.connection_endpoints
            if not is_pending(f"/connectionEndpoints/*/{section.get('type')}")
        ]
        if endpoints or "connection_endpoint" in self._replaced:
            services.connection_endpoints += cast(
                list[ConnectionEndpoint], self._build_list("connection_endpoint", endpoints)
            )
        services.locks = cast(LockRegistry, self._build("locks", config.locks))
        services.cluster_node = cast(ClusterNode, self._build("cluster_node", config.cluster_node))
        services.cluster_registry = cast(
            ClusterRegistry, self._build("cluster_registry", config.cluster_registry)
        )
        services.cluster_states = cast(
            StateRegistryFactory, self._build("cluster_states", config.cluster_states)
        )
        services.http_service = cast(HttpService, self._build("http_service", config.http_server))
        services.telemetry = self._build("telemetry", config.telemetry)
        for name, section in config.plugins.items():
            if not is_pending(f"/plugins/*/{section.get('type')}"):
                services.plugins[name] = self._build("plugin", section, name=name)
        for name, plugin in self._own_plugins.items():
            services.plugins[name] = self._build("plugin", plugin, name=name)

    async def _start_handlers(self) -> None:
        self._enter(State.HANDLER_INIT, "services-started")
        try:
            from dsfast.handlers import create_router  # noqa: PLC0415 - loads the compiled core

            router = create_router(self._services, self._config)
        except Exception as error:
            self._fail("PLUGIN_INITIALIZATION_ERROR", f"handlers: {_text(error)}", error)
        self._services.message_distributor = router
        self._handlers.parts.append(_Part("handlers", router.close))
        await self._states_ready()
        permission = self._services.permission
        if isinstance(permission, ReloadablePermission) and router.revalidation is not None:
            permission.on_change(router.revalidation.start)
        if router.record_handler is None:
            return
        try:
            self._services.permission.set_record_handler(router.record_handler)
        except Exception as error:
            self._fail("PLUGIN_INITIALIZATION_ERROR", f"permission: {_text(error)}", error)

    async def _states_ready(self) -> None:
        """Wait until what other servers hold is known; without that, clients would be told wrong things."""
        limit = asyncio.timeout(self._config.dependency_initialization_timeout / 1000)
        try:
            async with limit:
                for registry in list(self._services.cluster_states.get_state_registries().values()):
                    await registry.when_ready()
        except Exception as error:
            if limit.expired():
                text = "cluster states weren't initialised in time"
                self._fail("PLUGIN_INITIALIZATION_TIMEOUT", text, error)
            self._fail("PLUGIN_INITIALIZATION_ERROR", f"cluster states: {_text(error)}", error)

    async def _start_plugins(self) -> None:
        self._enter(State.PLUGIN_INIT, "handlers-started")
        plugins = self._services.plugins
        self._plugins.parts += [_Part(name, plugin.close) for name, plugin in plugins.items()]
        await _all([self._make_ready(name, plugin) for name, plugin in plugins.items()])

    async def _start_endpoints(self) -> None:
        self._enter(State.CONNECTION_ENDPOINT_INIT, "plugins-started")
        http = self._services.http_service
        http.open(self._services.message_distributor)
        self._endpoints.parts.append(_Part("http service", http.close))
        for endpoint in self._services.connection_endpoints:
            self._endpoints.parts.append(_Part("connection endpoint", endpoint.close))
            await self._make_ready("connection endpoint", endpoint)
        try:
            await http.listen()
        except OSError as error:
            raise StartError(self._listen_error(error)) from error

    async def _shut_down_once(self) -> None:
        # A task of its own: whoever waits for it may be cancelled, the shutdown goes on.
        self._stopping = asyncio.create_task(self._shut_down())
        await asyncio.shield(self._stopping)

    async def _shut_down(self) -> None:
        http = getattr(self._services, "http_service", None)
        for endpoint in [*([http] if http else []), *self._services.connection_endpoints]:
            try:
                endpoint.stop_accepting()
            except Exception as error:
                self._services.logger.error("PLUGIN_ERROR", f"an endpoint goes on accepting: {error!r}")
        transition = "stop"
        phases = (
            self._endpoints,
            self._plugins,
            self._handlers,
            self._ordinary_services,
            self._storage,
            self._logger,
        )
        reached = list(State).index(self._state)
        for phase in phases:
            if reached < list(State).index(phase.begun_by):
                continue
            if self._state is not phase.state:
                self._enter(phase.state, transition)
            await self._close(phase)
            transition = phase.transition
        self._enter(State.STOPPED, transition)
        self._stopped.set()
        self._emit("stopped")

    async def _close(self, phase: _Phase) -> None:
        """Close the parts of a phase at the same time; whatever happens, return in time."""
        tasks = {asyncio.ensure_future(_call(part.close)): part.name for part in phase.parts}
        phase.parts = []
        if not tasks:
            return
        timeout = self._config.shutdown_timeout * phase.share
        _, late = await asyncio.wait(tasks, timeout=timeout / 1000)
        for task, name in tasks.items():
            if task in late:
                task.cancel()
                self._services.logger.error("PLUGIN_ERROR", f"{name} did not close within {timeout:g} ms")
            elif not task.cancelled() and (error := task.exception()) is not None:
                self._services.logger.error("PLUGIN_ERROR", f"{name} failed to close: {error!r}")

    # Building

    def _build(self, kind: str, section: Any, options: Any = None, name: str = "") -> Plugin:
        """The plugin of a kind: what :meth:`set` was given, else what the configuration says."""
        try:
            return build(kind, self._replaced.get(kind, section), self._services, self._config, options)
        except PluginLoadError as error:
            self._fail("CONFIG_ERROR", str(error), error)
        except ContractError as error:
            text = f"{name}: {error}" if name else str(error)
            self._fail("PLUGIN_INITIALIZATION_ERROR", text, error)
        except Exception as error:
            self._fail("PLUGIN_INITIALIZATION_ERROR", f"{name or kind}: {_text(error)}", error)

    def _build_list(self, kind: str, sections: list[Any]) -> list[Plugin]:
        sources = self._replaced.pop(kind, sections)
        if not isinstance(sources, list | tuple):
            sources = [sources]
        if not sources:
            self._fail("PLUGIN_INITIALIZATION_ERROR", f"No {kind} type specified", None)
        return [self._build(kind, source) for source in sources]

    def _build_storage(self) -> Storage:
        section = self._config.storage
        options: Any = None
        if isinstance(section, SqliteSection) and "storage" not in self._replaced:
            options = msgspec.structs.replace(section.options, path=self._config.sqlite_path)
        return cast(Storage, self._build("storage", section, options))

    def _build_storage_writer(self) -> WriteBehind | None:
        section = self._config.storage
        replaced = "storage" in self._replaced
        if isinstance(section, NoStorageSection) and not replaced:
            return None
        from dsfast.services.storage.write_behind import WriteBehind  # noqa: PLC0415 - not needed without storage

        settings: dict[str, Any] = {}
        if isinstance(section, SqliteSection) and not replaced:
            settings = {
                "flush_interval": section.options.flush_interval,
                "max_pending": section.options.max_pending,
                "max_pending_bytes": section.options.max_pending_bytes,
                "batch_entries": section.options.max_batch,
            }
        return WriteBehind(
            self._services.storage,
            logger=self._services.logger,
            write_ack_timeout=self._config.record.write_ack_timeout,
            # A little earlier than the server's own limit, so that the writer can still report what it lost.
            shutdown_timeout=self._config.shutdown_timeout * self._storage.share * 0.9,
            **settings,
        )

    async def _close_storage(self) -> None:
        try:
            if self._services.storage_writer is not None:
                await self._services.storage_writer.close()
        finally:
            await self._services.storage.close()

    async def _make_ready(self, name: str, plugin: Plugin) -> None:
        """Initialise a plugin and wait until it is ready; any failure ends the start."""
        limit = asyncio.timeout(self._config.dependency_initialization_timeout / 1000)
        try:
            plugin.init()
            async with limit:
                await plugin.when_ready()
        except Exception as error:
            if limit.expired():
                self._fail("PLUGIN_INITIALIZATION_TIMEOUT", f"{name} wasn't initialised in time", error)
            if isinstance(plugin, ConnectionEndpoint) and isinstance(error, OSError):
                raise StartError(self._listen_error(error, getattr(plugin, "options", None))) from error
            self._fail("PLUGIN_INITIALIZATION_ERROR", f"{name}: {_text(error)}", error)
        description = plugin.description or "no dependency description provided"
        self._services.logger.info("INFO", f"{name} ready: {description}")

    def _listen_error(self, error: OSError, options: Any = None) -> str:
        """Why a port could not be opened; ``options``: those of an endpoint with a port of its own."""
        if error.errno == errno.EADDRINUSE:
            reason = "the address is already in use"
        elif isinstance(error, socket.gaierror):
            reason = "the host is unknown"
        else:
            reason = os.strerror(error.errno) if error.errno else str(error)
        http = self._config.http
        if hasattr(options, "port"):
            where = _address(options.host, options.port)
        else:
            where = ", ".join(http.listen) or _address(http.host, http.port)
        return f"Cannot listen on {where}: {reason}"

    def _fail(self, event: str, text: str, cause: BaseException | None) -> NoReturn:
        """Log a fatal line and end the start."""
        if self._log is not None:
            if cause is not None:
                trace = "".join(traceback.format_exception(cause)).rstrip()
                self._log.debug("PLUGIN_ERROR", trace.replace("\n", "\n\t"))
            self._log.fatal(event, text)
        raise StartError(text, logged=self._log is not None) from cause

    # Telling

    def _announce_config(self, logger: Logger) -> None:
        config = self._config
        logger.info("INFO", f"server name: {config.server_name}")
        logger.info("INFO", f"deepstream version: dsfast {dsfast.__version__}")
        if config.source.file is not None:
            logger.info("INFO", f"configuration file loaded from {config.source.file}")
        if config.library_directory is not None:
            logger.info("INFO", f"library directory set to: {config.library_directory}")
        for note in config.source.notes:
            write = logger.warn if note.event == "INVALID_CONFIG_DATA" else logger.info
            write(note.event, note.text)
        for warning in config.warnings:
            logger.warn("INVALID_CONFIG_DATA", str(warning).strip())

    @property
    def _log(self) -> Logger | None:
        """The logger, once there is one."""
        return getattr(self._services, "logger", None)

    def _announce(self) -> None:
        logger, config, services = self._services.logger, self._config, self._services
        http = config.http
        listening = services.http_service.listening or [_address(http.host, http.port)]
        for address in listening:
            logger.info("INFO", f"Listening for http connections on {address}")
        logger.info("INFO", f"Listening for health checks on path {http.health_check_path}")
        logger.info("INFO", "Deepstream started")
        active = "; ".join(
            f"{name}: {plugin.description.strip() or type(plugin).__name__}"
            for name, plugin in (
                ("auth", services.authentication),
                ("permission", services.permission),
                ("cache", services.cache),
                ("storage", services.storage),
            )
        )
        scheme = "ws" if http.ssl is None else "wss"
        where = f"{scheme}://{listening[0]}{config.websocket.url_path}"
        logger.info("INFO", f"dsfast {dsfast.__version__} is ready at {where} ({active})")

    def _enter(self, state: State, transition: str) -> None:
        previous, self._state = self._state, state
        if self._log is not None:
            self._log.debug("INFO", f"State transition ({transition}): {previous} -> {state}")
        self._emit("DEEPSTREAM_STATE_CHANGED", state)

    def _on_fatal(self) -> None:
        if self._config.exit_on_fatal_error:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        self._emit("FATAL_EXCEPTION")

    def _emit(self, event: str, *arguments: Any) -> None:
        for callback in self._listeners.get(event, ()):
            try:
                callback(*arguments)
            except Exception as error:
                if self._log is not None:
                    self._log.error("PLUGIN_ERROR", f"a listener of {event} failed: {error!r}")


async def _all(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Run them at the same time; the first failure ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _call(close: Callable[[], Awaitable[Any]]) -> None:
    await close()


def _is_configuration(value: Any) -> bool:
    """Whether a value for a service is a section of the configuration (or a list of them), and no plugin."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(entry, Mapping) for entry in value)
    return isinstance(value, Mapping)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
