"""Start and stop: order, deadlines, failures half way, the states and what each call does in them.

The parts are fakes here, since the order of calls and their failures are what is tested. The real parts start
and stop in test_server_embedded.py and test_cli.py.
"""

import asyncio
import errno
import socket

import pytest

import dsfast.handlers
from dsfast import ConfigError, Server, StartError
from dsfast.config import pending
from dsfast.plugin import (
    Authentication,
    AuthResult,
    Cache,
    ConnectionEndpoint,
    HttpService,
    Logger,
    LogLevel,
    Monitoring,
    Permission,
    Plugin,
    Storage,
)
from dsfast.server import State, StateError
from dsfast.services import factory, http_service
from dsfast.services.authentication import AuthenticationCombiner
from dsfast.services.monitoring import CombinedMonitoring


class Journal:
    """What happened, in order; and what should go wrong: a step's exception, or an event it waits for."""

    def __init__(self):
        self.steps = []
        self.wrong = {}
        self.reached = {}

    def note(self, step):
        self.steps.append(step)
        self.reached.setdefault(step, asyncio.Event()).set()
        if isinstance(self.wrong.get(step), BaseException):
            raise self.wrong[step]

    async def pause(self, step):
        self.note(step)
        if isinstance(self.wrong.get(step), asyncio.Event):
            await self.wrong[step].wait()

    async def wait_for(self, step):
        await asyncio.wait_for(self.reached.setdefault(step, asyncio.Event()).wait(), 10)


journal = Journal()


class Noted:
    """A plugin that writes its life into the journal."""

    part = ""

    def init(self):
        journal.note(f"{self.part} init")

    async def when_ready(self):
        await journal.pause(f"{self.part} ready")

    async def close(self):
        await journal.pause(f"{self.part} close")


class FakeCache(Noted, Cache):
    part = description = "cache"

    async def get(self, name):
        return -1, None

    async def set(self, name, version, data):
        pass

    async def delete(self, name):
        pass


class FakeStorage(Noted, Storage):
    part = description = "storage"
    get, set, delete = FakeCache.get, FakeCache.set, FakeCache.delete


class FakeAuthentication(Noted, Authentication):
    part = description = "authentication"

    async def is_valid_user(self, connection_data, auth_data):
        return AuthResult(True, id="a")


class FakePermission(Noted, Permission):
    part = description = "permission"

    def set_record_handler(self, handler):
        journal.note(f"permission got the {handler}")

    def can_perform_action(self, socket, message):
        return True


class FakeMonitoring(Noted, Monitoring):
    part = description = "monitoring"


class FakeLogger(Noted, Logger):
    part = description = "logger"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.lines = []

    def log(self, level, event, message, meta=None):
        self.lines.append(f"{LogLevel(level).name} {event} {message}")


class FakePlugin(Noted, Plugin):
    part = description = "plugin"


class FakeEndpoint(Noted, ConnectionEndpoint):
    part = "endpoint"
    description = "fake endpoint"

    def stop_accepting(self):
        journal.note("endpoint stop accepting")


class FakeHttpService(HttpService):
    """Opens no port."""

    description = "http"

    def register_get_path_prefix(self, prefix, handler):
        pass

    def register_post_path_prefix(self, prefix, handler):
        pass

    def register_websocket_endpoint(self, path, endpoint):
        pass

    def get_sockets_for_user(self, user_id):
        return []

    async def listen(self):
        pass


class FakeRouter:
    revalidation = None
    record_handler = "record handler"

    def __init__(self, services, config):
        journal.note("handlers made")

    async def close(self):
        await journal.pause("handlers close")


FAKES = {
    "logger": FakeLogger,
    "cache": FakeCache,
    "storage": FakeStorage,
    "authentication": FakeAuthentication,
    "permission": FakePermission,
    "monitoring": FakeMonitoring,
}


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    journal.__init__()
    endpoint = ("connection_endpoint", "ws-binary")
    monkeypatch.setitem(factory._BUILT_IN, endpoint, f"{__name__}:FakeEndpoint")
    # One endpoint is enough, however many there are by default.
    others = ("ws-text", "ws-json", "http", "mqtt")
    monkeypatch.setattr(pending, "IGNORED", {f"/connectionEndpoints/*/{name}": "" for name in others})
    monkeypatch.setattr(dsfast.handlers, "create_router", FakeRouter, raising=False)
    monkeypatch.setattr(http_service, "HttpService", FakeHttpService)


def make_server(config=None):
    server = Server(config)
    for key, plugin in FAKES.items():
        server.set(key, plugin)
    server.get_services().plugins["mine"] = FakePlugin({}, server.get_services(), server.get_config())
    return server


def lines(server, level):
    return [line for line in server.get_services().logger.lines if line.startswith(level)]


def test_the_order_of_start_and_stop():
    # In a plain asyncio loop, as in somebody else's program.
    async def program():
        server = make_server()
        assert not server.is_running()
        await server.start()
        assert server.is_running()
        await server.stop()
        assert not server.is_running()

    asyncio.run(program())
    services = {"storage", "cache", "permission", "monitoring", "authentication"}
    steps = journal.steps
    assert steps[:2] == ["logger init", "logger ready"]
    assert set(steps[2:12]) == {f"{name} {step}" for name in services for step in ("init", "ready")}
    for name in services:
        assert steps.index(f"{name} init") < steps.index(f"{name} ready")
    assert steps[12:19] == [
        "handlers made",
        "permission got the record handler",
        "plugin init",
        "plugin ready",
        "endpoint init",
        "endpoint ready",
        "endpoint stop accepting",
    ]
    assert steps[19:22] == ["endpoint close", "plugin close", "handlers close"]
    assert set(steps[22:26]) == {f"{name} close" for name in services - {"storage"}}
    assert steps[26:] == ["storage close", "logger close"]


async def test_the_states_are_told_in_order():
    states, events = [], []
    server = make_server({"logLevel": "debug"})
    server.on("DEEPSTREAM_STATE_CHANGED", states.append)
    server.on("started", lambda: events.append("started"))
    server.on("stopped", lambda: events.append("stopped"))
    assert server.state is State.CONFIG_LOADED
    await server.start()
    await server.stop()
    assert states == [
        State.LOGGER_INIT,
        State.SERVICE_INIT,
        State.HANDLER_INIT,
        State.PLUGIN_INIT,
        State.CONNECTION_ENDPOINT_INIT,
        State.RUNNING,
        State.CONNECTION_ENDPOINT_SHUTDOWN,
        State.PLUGIN_SHUTDOWN,
        State.HANDLER_SHUTDOWN,
        State.SERVICE_SHUTDOWN,
        State.LOGGER_SHUTDOWN,
        State.STOPPED,
    ]
    assert events == ["started", "stopped"]
    assert lines(server, "DEBUG")[0] == (
        "DEBUG INFO State transition (logger-started): LOGGER_INIT -> SERVICE_INIT"
    )


async def test_what_is_logged_at_the_start():
    server = make_server({"serverName": "alpha", "rpc": {"ackTimeout": 0}})
    await server.start()
    written = server.get_services().logger.lines
    assert "INFO INFO server name: alpha" in written
    assert "WARN INVALID_CONFIG_DATA /rpc/ackTimeout: should be >= 1" in written
    for name in ("logger", "storage", "cache", "permission", "monitoring", "authentication"):
        assert f"INFO INFO {name} ready: {name}" in written
    assert "INFO INFO Deepstream started" in written
    assert "is ready at ws://0.0.0.0:6020/deepstream" in written[-1]
    for part in ("auth: authentication", "permission: permission", "cache: cache", "storage: storage"):
        assert part in written[-1]
    await server.stop()


async def test_where_the_configuration_comes_from_is_logged(tmp_path, monkeypatch):
    (tmp_path / "config.yml").write_text("libDir: lib\nrpc: fileLoad(rpc.json)\nserverName: ${NO_NAME}x\n")
    (tmp_path / "rpc.json").write_text("{}")
    monkeypatch.setenv("DSFAST_NONSENSE", "1")
    server = make_server(tmp_path / "config.yml")
    await server.start()
    written = server.get_services().logger.lines
    assert f"INFO INFO configuration file loaded from {tmp_path}/config.yml" in written
    assert f"INFO INFO library directory set to: {tmp_path}/lib" in written
    assert f"INFO CONFIG_TRANSFORM Loaded content from {tmp_path}/rpc.json for fileLoad(rpc.json)" in written
    assert any(line.startswith("INFO CONFIG_TRANSFORM NO_NAME is not set") for line in written)
    assert "WARN INVALID_CONFIG_DATA DSFAST_NONSENSE is no option of the configuration" in written
    source = server.get_config().source
    assert (source.file, source.values, source.places) == (tmp_path / "config.yml", {}, {})
    await server.stop()


async def test_what_is_not_there_yet_is_told_at_the_start(monkeypatch):
    ignored = {"/connectionEndpoints/*/mqtt": "no mqtt", "/plugins/*/heap-snapshot": "no snapshots"}
    monkeypatch.setattr(pending, "IGNORED", ignored)
    monkeypatch.setattr(pending, "REFUSED", {})
    server = make_server(
        {
            "connectionEndpoints": [{"type": "ws-binary"}, {"type": "mqtt"}],
            "plugins": {"heap": {"name": "heap-snapshot", "options": {"interval": 10_000, "outputDir": "x"}}},
        }
    )
    await server.start()
    assert len(server.get_services().connection_endpoints) == 1
    assert list(server.get_services().plugins) == ["mine"]
    assert lines(server, "WARN") == [
        "WARN INVALID_CONFIG_DATA /connectionEndpoints/1: no mqtt",
        "WARN INVALID_CONFIG_DATA /plugins/heap: no snapshots",
    ]
    await server.stop()


async def test_telemetry_is_off_whatever_is_configured():
    server = make_server({"telemetry": {"options": {"enabled": True}}})
    await server.start()
    assert "INFO INFO Telemetry disabled" in server.get_services().logger.lines
    await server.stop()


async def test_the_banner_is_shown_on_request(capsys):
    for wanted in (False, True):
        server = make_server({"showLogo": wanted})
        await server.start()
        await server.stop()
        assert ("=   starting   =" in capsys.readouterr().out) is wanted


async def test_the_storage_gets_a_write_behind_layer_that_is_flushed_before_it_closes():
    server = make_server()
    await server.start()
    writer = server.get_services().storage_writer
    close = writer.close

    async def noted_close():
        journal.note("writer close")
        return await close()

    writer.close = noted_close
    await server.stop()
    assert journal.steps[-3:] == ["writer close", "storage close", "logger close"]


async def test_without_storage_there_is_no_writer():
    server = Server({"storage": {"type": "none"}})
    server.set("cache", FakeCache)
    await server.start()
    assert server.get_services().storage_writer is None
    await server.stop()


async def test_a_server_can_be_stopped_before_it_was_started():
    server = make_server()
    await server.stop()
    assert server.state is State.STOPPED
    assert journal.steps == []


async def test_a_stopped_server_cannot_be_stopped_or_started_again():
    server = make_server()
    await server.start()
    await server.stop()
    with pytest.raises(StateError, match=r"The server is already stopped\."):
        await server.stop()
    with pytest.raises(StateError, match=r'"transition":"start","state":"STOPPED"'):
        await server.start()


async def test_a_running_server_cannot_be_started_again():
    server = make_server()
    starting = asyncio.create_task(server.start())
    await journal.wait_for("logger init")
    with pytest.raises(StateError, match="Invalid state transition"):
        await server.start()
    await starting
    with pytest.raises(StateError, match='"state":"RUNNING"'):
        await server.start()
    await server.stop()


async def test_a_second_stop_waits_for_the_first():
    server = make_server()
    await server.start()
    journal.wrong["plugin close"] = asyncio.Event()
    first = asyncio.create_task(server.stop())
    await journal.wait_for("plugin close")
    second = asyncio.create_task(server.stop())
    await asyncio.wait([second], timeout=0)
    assert not second.done()
    journal.wrong["plugin close"].set()
    await asyncio.gather(first, second)
    assert journal.steps.count("logger close") == 1
    text = "INFO INFO Server is currently shutting down, currently in state PLUGIN_SHUTDOWN"
    assert text in server.get_services().logger.lines


@pytest.mark.parametrize("step", ["logger ready", "storage ready", "plugin ready", "endpoint ready"])
async def test_stop_during_the_start_closes_what_was_started(step):
    server = make_server()
    journal.wrong[step] = asyncio.Event()
    starting = asyncio.create_task(server.start())
    await journal.wait_for(step)
    await server.stop()
    with pytest.raises(StartError, match="stopped while it was starting"):
        await starting
    assert server.state is State.STOPPED
    opened = {name.removesuffix(" init") for name in journal.steps if name.endswith(" init")}
    assert {name.removesuffix(" close") for name in journal.steps if name.endswith(" close")} >= opened
    assert journal.steps[-1] == "logger close"


SHUTDOWN = [
    State.CONNECTION_ENDPOINT_SHUTDOWN,
    State.PLUGIN_SHUTDOWN,
    State.HANDLER_SHUTDOWN,
    State.SERVICE_SHUTDOWN,
    State.LOGGER_SHUTDOWN,
    State.STOPPED,
]


@pytest.mark.parametrize(
    ("step", "first"),
    [
        ("logger ready", State.LOGGER_SHUTDOWN),
        ("cache ready", State.SERVICE_SHUTDOWN),
        ("plugin ready", State.PLUGIN_SHUTDOWN),
        ("endpoint ready", State.CONNECTION_ENDPOINT_SHUTDOWN),
    ],
)
async def test_stop_during_the_start_enters_the_matching_state(step, first):
    server = make_server()
    journal.wrong[step] = asyncio.Event()
    starting = asyncio.create_task(server.start())
    await journal.wait_for(step)
    states = []
    server.on("DEEPSTREAM_STATE_CHANGED", states.append)
    await server.stop()
    assert states == SHUTDOWN[SHUTDOWN.index(first) :]
    await asyncio.gather(starting, return_exceptions=True)


async def test_handlers_that_fail_are_shut_down_too():
    # Upstream cannot stop in this state.
    server = make_server()
    journal.wrong["handlers made"] = RuntimeError("boom")
    states = []
    server.on("DEEPSTREAM_STATE_CHANGED", states.append)
    with pytest.raises(StartError):
        await server.start()
    assert states[states.index(State.HANDLER_INIT) + 1 :] == SHUTDOWN[2:]


async def test_a_server_that_was_never_started_goes_straight_to_the_end():
    server = make_server()
    states = []
    server.on("DEEPSTREAM_STATE_CHANGED", states.append)
    await server.stop()
    assert states == [State.STOPPED]


async def test_constructors_see_the_services_made_before_them():
    seen = {}

    def noting(name, base):
        class Noting(base):
            def __init__(self, options, services, config):
                super().__init__(options, services, config)
                known = (
                    "logger",
                    "monitoring",
                    "storage",
                    "cache",
                    "authentication",
                    "permission",
                    "telemetry",
                )
                seen[name] = {part for part in known if hasattr(services, part)} | set(services.plugins)

        return Noting

    order = ["logger", "monitoring", "storage", "cache", "authentication", "permission"]
    server = Server(
        {
            "telemetry": {"class": noting("telemetry", FakePlugin)},
            "plugins": {name: {"class": noting(name, FakePlugin)} for name in ("one", "two")},
        }
    )
    for name in order:
        server.set(name, noting(name, FAKES[name]))
    await server.start()
    await server.stop()
    order += ["telemetry", "one", "two"]
    assert seen == {name: set(order[:index]) for index, name in enumerate(order)}


async def test_a_cancelled_start_closes_what_was_started():
    server = make_server()
    journal.wrong["endpoint ready"] = asyncio.Event()
    starting = asyncio.create_task(server.start())
    await journal.wait_for("endpoint ready")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.state is State.STOPPED
    assert journal.steps[-1] == "logger close"


@pytest.mark.parametrize(
    "step",
    [
        *(f"{name} {step}" for name in FAKES for step in ("init", "ready")),
        "plugin init",
        "plugin ready",
        "endpoint init",
        "endpoint ready",
    ],
)
async def test_a_part_that_fails_to_start_ends_the_start(step):
    server = make_server()
    journal.wrong[step] = RuntimeError("boom")
    with pytest.raises(StartError) as caught:
        await server.start()
    name = {"endpoint": "connection endpoint", "plugin": "mine"}.get(step.split()[0], step.split()[0])
    assert str(caught.value) == f"{name}: boom"
    assert caught.value.logged
    assert f"FATAL PLUGIN_INITIALIZATION_ERROR {name}: boom" in server.get_services().logger.lines
    assert server.state is State.STOPPED
    opened = {name.removesuffix(" init") for name in journal.steps if name.endswith(" init")}
    assert {name.removesuffix(" close") for name in journal.steps if name.endswith(" close")} >= opened
    assert journal.steps[-1] == "logger close"


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("handlers made", "handlers: boom"),
        ("permission got the record handler", "permission: boom"),
    ],
)
async def test_handlers_that_fail_to_start_end_the_start(step, text):
    server = make_server()
    journal.wrong[step] = RuntimeError("boom")
    with pytest.raises(StartError, match=text):
        await server.start()
    assert journal.steps[-1] == "logger close"


async def test_a_part_that_is_not_ready_in_time_ends_the_start():
    server = make_server()
    server.get_config().dependency_initialization_timeout = 1
    journal.wrong["cache ready"] = asyncio.Event()
    with pytest.raises(StartError, match="cache wasn't initialised in time"):
        await server.start()
    fatal = "FATAL PLUGIN_INITIALIZATION_TIMEOUT cache wasn't initialised in time"
    assert fatal in server.get_services().logger.lines


async def test_a_plugin_that_lacks_a_method_ends_the_start():
    class Half(Cache):
        async def get(self, name):
            return -1, None

    server = make_server()
    server.set("cache", Half)
    with pytest.raises(StartError, match="cache needs to implement delete, set"):
        await server.start()
    fatal = "FATAL PLUGIN_INITIALIZATION_ERROR cache needs to implement delete, set"
    assert fatal in server.get_services().logger.lines


async def test_a_plugin_whose_constructor_fails_ends_the_start():
    class Failing(FakeCache):
        def __init__(self, options, services, config):
            raise ValueError("no size")

    server = make_server()
    server.set("cache", Failing)
    with pytest.raises(StartError, match="cache: no size"):
        await server.start()


async def test_a_logger_that_cannot_be_made_is_not_asked_to_log_that():
    server = make_server()
    server.set("logger", Logger)
    with pytest.raises(StartError, match="logger needs to implement log") as caught:
        await server.start()
    assert not caught.value.logged


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.EADDRINUSE, "x"),
            "Cannot listen on 0.0.0.0:6020: the address is already in use",
        ),
        (OSError(errno.EACCES, "x"), "Cannot listen on 0.0.0.0:6020: Permission denied"),
        (socket.gaierror(-2, "x"), "Cannot listen on 0.0.0.0:6020: the host is unknown"),
    ],
)
async def test_a_port_that_cannot_be_opened_is_one_clear_line(error, text):
    server = make_server()
    journal.wrong["endpoint ready"] = error
    with pytest.raises(StartError) as caught:
        await server.start()
    assert str(caught.value) == text
    assert not caught.value.logged


@pytest.mark.parametrize(
    "step",
    ["endpoint close", "plugin close", "handlers close", "cache close", "storage close", "logger close"],
)
async def test_a_part_that_fails_to_close_does_not_keep_the_others_open(step):
    server = make_server()
    await server.start()
    journal.wrong[step] = RuntimeError("boom")
    await server.stop()
    assert server.state is State.STOPPED
    closed = [name for name in journal.steps if name.endswith(" close")]
    assert len(closed) == len(FAKES) + 3
    assert any("failed to close: RuntimeError('boom')" in line for line in lines(server, "ERROR"))


async def test_an_endpoint_that_cannot_stop_accepting_is_still_closed():
    server = make_server()
    await server.start()
    journal.wrong["endpoint stop accepting"] = RuntimeError("boom")
    await server.stop()
    assert "endpoint close" in journal.steps


async def test_a_part_that_does_not_close_in_time_is_left_behind():
    server = make_server({"shutdownTimeout": 1})
    await server.start()
    journal.wrong["endpoint close"] = asyncio.Event()
    await server.stop()
    assert server.state is State.STOPPED
    assert any("connection endpoint did not close within" in line for line in lines(server, "ERROR"))


async def test_a_cancelled_stop_goes_on_in_the_background():
    server = make_server()
    stopped = asyncio.Event()
    server.on("stopped", stopped.set)
    await server.start()
    journal.wrong["handlers close"] = asyncio.Event()
    stopping = asyncio.create_task(server.stop())
    await journal.wait_for("handlers close")
    stopping.cancel()
    await asyncio.wait([stopping])
    journal.wrong["handlers close"].set()
    await asyncio.wait_for(stopped.wait(), 10)
    assert journal.steps[-1] == "logger close"


async def test_run_ends_when_the_server_is_stopped():
    server = make_server()
    started = asyncio.Event()
    server.on("started", started.set)
    running = asyncio.create_task(server.run())
    await asyncio.wait_for(started.wait(), 10)
    await server.stop()
    await asyncio.wait_for(running, 10)


async def test_cancelling_run_stops_the_server():
    server = make_server()
    started = asyncio.Event()
    server.on("started", started.set)
    running = asyncio.create_task(server.run())
    await asyncio.wait_for(started.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert server.state is State.STOPPED


async def test_a_fatal_line_is_told_to_the_program():
    told = []
    server = make_server()
    server.on("FATAL_EXCEPTION", lambda: told.append(1))
    await server.start()
    server.get_services().logger.fatal("X", "dead")
    server.get_services().logger.fatal("X", "still dead")
    assert told == [1]
    assert server.is_running()
    await server.stop()


async def test_a_failing_listener_is_logged():
    def failing():
        raise RuntimeError("boom")

    server = make_server()
    server.on("started", failing)
    await server.start()
    assert any("a listener of started failed" in line for line in lines(server, "ERROR"))
    await server.stop()


async def test_services_can_be_instances_classes_and_lists():
    server = Server({"storage": {"type": "none"}})
    services, config = server.get_services(), server.get_config()
    cache = FakeCache({"a": 1}, services, config)
    server.set("cache", cache)
    server.set("permission", FakePermission)
    server.set("authentication", [FakeAuthentication, FakeAuthentication({}, services, config)])
    server.set("monitoring", [FakeMonitoring, FakeMonitoring])
    await server.start()
    assert services.cache is cache
    assert isinstance(services.authentication, AuthenticationCombiner)
    assert len(services.authentication.entries) == 2
    assert isinstance(services.monitoring, CombinedMonitoring)
    with pytest.raises(StateError):
        server.set("cache", FakeCache)
    await server.stop()


async def test_one_authentication_is_wrapped_too():
    server = make_server()
    await server.start()
    assert isinstance(server.get_services().authentication, AuthenticationCombiner)
    await server.stop()


async def test_no_authentication_at_all_is_refused():
    server = make_server()
    server.set("authentication", [])
    with pytest.raises(StartError, match="No authentication type specified"):
        await server.start()


async def test_values_can_be_set_at_run_time():
    server = make_server()
    server.set("record.storageExclusionPrefixes", ["tmp/"])
    server.set("logLevel", "warn")
    await server.start()
    assert server.get_services().logger.level is LogLevel.WARN
    server.set("rpc.ackTimeout", 5)
    server.set("log_level", "debug")
    assert server.get_config().rpc.ack_timeout == 5
    assert server.get_services().logger.level is LogLevel.DEBUG
    await server.stop()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("auth", "auth has been replaced with authentication"),
        ("storageExclusion", r"record\.storageExclusionPrefixes"),
        ("nothing", 'Unknown option or service "nothing"'),
        ("rpc.nothing", 'Unknown option or service "rpc.nothing"'),
    ],
)
def test_keys_that_cannot_be_set(key, text):
    with pytest.raises(KeyError, match=text):
        Server().set(key, 1)


def test_a_wrong_configuration_is_refused_at_once():
    with pytest.raises(ConfigError, match="foo"):
        Server({"foo": 1})
    with pytest.raises(ConfigError, match="/rpc/ackTimeout"):
        Server().set("rpc.ackTimeout", "soon")


async def test_the_loggers_own_level_wins():
    server = Server({"logger": {"type": "default", "options": {"logLevel": "debug"}}, "logLevel": "off"})
    for key in ("cache", "storage"):
        server.set(key, FAKES[key])
    await server.start()
    assert server.get_services().logger.level is LogLevel.DEBUG
    await server.stop()
