"""Plugins named by a configuration: by class, path and name; and what is said about those that fail."""

import importlib.metadata
import sys

import pytest

from dsfast import Server, StartError, register_plugin
from dsfast.config import load, load_from
from dsfast.plugin import Cache, Logger, LogLevel, Plugin
from dsfast.services import factory
from dsfast.services.factory import PluginLoadError
from dsfast.services.plugin_loader import class_by_name, class_by_path, entry_point_group

CACHE = '''
from dsfast import Cache

class {name}(Cache):
    """A cache."""
    description = "{name} of a file"
    async def get(self, name): return -1, None
    async def set(self, name, version, data): pass
    async def delete(self, name): pass
'''


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch, tmp_path):
    """Neither modules nor registrations of a test are seen by the next."""
    monkeypatch.setattr(factory, "_registered", {})
    path = list(sys.path)
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    assert sys.path == path


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def find(path, kind="cache", base=Cache, **config):
    return class_by_path(kind, base, path, load(config))


def failure(path, kind="cache", base=Cache, **config):
    with pytest.raises(PluginLoadError) as caught:
        find(path, kind, base, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# By path


def test_the_only_class_of_a_file(write, tmp_path):
    write("mine.py", CACHE.format(name="Mine"))
    for path in ("./mine.py", "mine.py", "./mine", str(tmp_path / "mine.py")):
        assert find(path, libDir=str(tmp_path)).__name__ == "Mine"
    assert find("./mine.py", libDir=str(tmp_path)) is find("mine.py", libDir=str(tmp_path))


def test_a_class_of_a_file_by_name(write, tmp_path):
    write("two.py", CACHE.format(name="One") + CACHE.format(name="Two"))
    assert find(f"{tmp_path}/two.py:Two").__name__ == "Two"
    assert "there are several classes in it (One, Two), write :Class behind" in failure(f"{tmp_path}/two.py")
    assert failure(f"{tmp_path}/two.py:Three") == (
        f"Error loading cache plugin via path {tmp_path}/two.py:Three: there is no Three in it"
    )


def test_the_attribute_plugin_comes_before_the_only_class(write, tmp_path):
    write("two.py", CACHE.format(name="One") + CACHE.format(name="Two") + "plugin = Two\n")
    assert find(f"{tmp_path}/two.py").__name__ == "Two"


def test_a_class_of_the_right_kind_comes_before_others(write, tmp_path):
    helper = "from dsfast import Plugin\nclass Helper(Plugin): pass\n"
    write("two.py", helper + CACHE.format(name="Mine"))
    assert find(f"{tmp_path}/two.py").__name__ == "Mine"
    assert find(f"{tmp_path}/two.py:Helper", "plugin", Plugin).__name__ == "Helper"


def test_an_abstract_base_in_the_same_file_is_not_the_plugin(write, tmp_path):
    base = "from dsfast import Cache\nclass Base(Cache): pass\n"
    write("mine.py", base + CACHE.format(name="Mine").replace("(Cache)", "(Base)"))
    assert find(f"{tmp_path}/mine.py").__name__ == "Mine"


def test_relative_files_belong_to_the_library_or_the_configuration(write, tmp_path, monkeypatch):
    write("conf/mine.py", CACHE.format(name="OfConf"))
    write("lib/mine.py", CACHE.format(name="OfLib"))
    path = write("conf/config.yml", "cache: {path: ./mine.py}")
    monkeypatch.chdir("/")
    config = load_from(path, environ={})
    assert class_by_path("cache", Cache, "./mine.py", config).__name__ == "OfConf"
    config = load_from(path, environ={}, flags={"libDir": str(tmp_path / "lib")})
    assert class_by_path("cache", Cache, "./mine.py", config).__name__ == "OfLib"


def test_a_file_may_import_its_neighbours(write, tmp_path):
    write("neighbour_of_plugin.py", "NAME = 'x'")
    write("mine.py", "from neighbour_of_plugin import NAME\n" + CACHE.format(name="Mine"))
    assert find(f"{tmp_path}/mine.py").__name__ == "Mine"


def test_a_directory_that_is_a_package(write, tmp_path):
    write("package/__init__.py", "from .inner import Mine as plugin")
    write("package/inner.py", CACHE.format(name="Mine"))
    assert find(f"{tmp_path}/package").__name__ == "Mine"


def test_a_module_in_the_library_directory_or_on_the_path(write, tmp_path):
    write("company_for_test/__init__.py", "")
    write("company_for_test/caches.py", CACHE.format(name="Mine"))
    assert find("company_for_test.caches:Mine", libDir=str(tmp_path)).__name__ == "Mine"
    assert find("company_for_test.caches", libDir=str(tmp_path)).__name__ == "Mine"
    assert find("dsfast.services.cache.memory:MemoryCache").__name__ == "MemoryCache"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("./no.py", "there is no file {directory}/no.py"),
        ("./mine.js", "JavaScript plugins are not supported"),
        ("mine.TS", "JavaScript plugins are not supported"),
        ("./mine.js:Class", "JavaScript plugins are not supported"),
        ("no_such_module_at_all:X", "No module named 'no_such_module_at_all'"),
        ("./syntax.py", "invalid syntax"),
        ("./broken.py", "No module named 'redis_of_the_future'"),
        ("./exits.py", "3"),
        ("./silent.py", "AssertionError"),
        ("./empty.py", "there is no class in it that derives from Cache"),
        ("./empty.py:thing", "5 is no class"),
        ("./lines.py", "one two"),
    ],
)
def test_what_is_wrong_with_a_path_is_one_line(write, tmp_path, path, text):
    write("syntax.py", "def (:\n")
    write("broken.py", "import redis_of_the_future\n")
    write("exits.py", "import sys\nsys.exit(3)\n")
    write("silent.py", "assert False\n")
    write("empty.py", "from dsfast import Cache\nthing = 5\n")
    write("lines.py", "raise ValueError('one\\n two')\n")
    message = failure(path, libDir=str(tmp_path))
    assert message.startswith(f"Error loading cache plugin via path {path}: ")
    assert text.format(directory=tmp_path) in message


def test_a_file_that_failed_is_read_again(write, tmp_path):
    path = write("mine.py", "import redis_of_the_future\n")
    failure(str(path))
    path.write_text(CACHE.format(name="Mine") + "# longer, so that no cached code is taken for it\n")
    assert find(str(path)).__name__ == "Mine"


# By name


class FakeEntryPoint:
    def __init__(self, name, value, target):
        self.name, self.value, self._target = name, value, target

    def load(self):
        if isinstance(self._target, Exception):
            raise self._target
        return self._target


@pytest.fixture
def installed(monkeypatch):
    """Entry points by group, as if packages had brought them."""
    groups = {}
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: groups.get(group, []))
    return groups


class Installed(Cache):
    """A cache of a package."""

    async def get(self, name):
        return -1, None

    async def set(self, name, version, data):
        pass

    async def delete(self, name):
        pass


def by_name(name, kind="cache", base=Cache, **config):
    return class_by_name(kind, base, name, load(config))


def test_an_installed_plugin_whatever_the_case(installed):
    installed["dsfast.cache"] = [FakeEntryPoint("Redis", "x:Installed", Installed)]
    assert by_name("redis") is Installed
    assert by_name("REDIS") is Installed


def test_an_entry_point_may_be_a_module(installed):
    installed["dsfast.cache"] = [FakeEntryPoint("here", "x", sys.modules[__name__])]
    assert by_name("here") is Installed


def test_the_groups_are_those_of_the_documentation():
    groups = {entry_point_group(kind) for kind in factory.KINDS}
    assert groups == {
        f"dsfast.{kind}"
        for kind in (
            *("logger", "monitoring", "storage", "cache", "authentication", "permission"),
            *("connection", "subscriptions", "locks", "cluster_node", "cluster_registry", "cluster_states"),
            *("http_server", "telemetry", "plugin"),
        )
    }


def test_a_module_in_the_library_directory_by_name(write, tmp_path, installed):
    write("dsfast_cache_my_own.py", CACHE.format(name="Mine"))
    assert by_name("My-own", libDir=str(tmp_path)).__name__ == "Mine"


def test_names_that_lead_nowhere(tmp_path, installed):
    with pytest.raises(PluginLoadError) as caught:
        by_name("redis", libDir=str(tmp_path))
    assert str(caught.value) == (
        "unable to resolve cache plugin redis: no such name is registered or installed (entry points "
        f"dsfast.cache), and there is no dsfast_cache_redis.py in {tmp_path}"
    )


def test_one_name_of_two_packages(installed):
    installed["dsfast.cache"] = [FakeEntryPoint("a", "x:A", Installed), FakeEntryPoint("A", "y:B", Installed)]
    with pytest.raises(PluginLoadError, match="the cache plugin a is installed more than once: x:A, y:B"):
        by_name("a")


@pytest.mark.parametrize(
    ("target", "text"),
    [(ImportError("No module named 'x'"), "No module named 'x'"), (5, "5 is no class")],
)
def test_an_installed_plugin_that_cannot_be_loaded(installed, target, text):
    installed["dsfast.cache"] = [FakeEntryPoint("a", "x:A", target)]
    with pytest.raises(PluginLoadError, match=rf"Error loading cache plugin a \(x:A\): {text}"):
        by_name("a")


# In a server


class Lines(Logger):
    """Keeps its lines."""

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.lines = []

    def log(self, level, event, message, meta=None):
        self.lines.append(f"{LogLevel(level).name} {event} {message}")


def quiet(**config):
    http = {"options": {"host": "127.0.0.1", "port": 0}}
    return {"storage": {"type": "none"}, "httpServer": http, **config}


async def start(config):
    server = Server(config)
    server.set("logger", Lines)
    await server.start()
    return server


async def refused(config):
    server = Server(config)
    server.set("logger", Lines)
    with pytest.raises(StartError) as caught:
        await server.start()
    return str(caught.value), server.get_services().logger.lines


async def test_a_plugin_by_path_gets_its_options_and_works(write, tmp_path):
    write("mine.py", CACHE.format(name="Mine"))
    section = {"path": f"{tmp_path}/mine.py", "options": {"a": 1}, "name": "no-such", "type": "whatever"}
    server = await start(quiet(cache=section))
    cache = server.get_services().cache
    assert (type(cache).__name__, cache.options, cache.config) == ("Mine", {"a": 1}, server.get_config())
    assert "INFO INFO cache ready: Mine of a file" in server.get_services().logger.lines
    await server.stop()


async def test_a_registered_name_comes_before_a_path(write, tmp_path):
    register_plugin("My-Cache", Installed)
    write("mine.py", CACHE.format(name="Mine"))
    server = await start(quiet(cache={"name": "my-cache", "path": f"{tmp_path}/mine.py"}))
    assert type(server.get_services().cache) is Installed
    await server.stop()


async def test_custom_plugins_have_names_of_their_own(write, tmp_path):
    write(
        "audit.py",
        "from dsfast import Plugin\n"
        "class Audit(Plugin):\n"
        "    description = 'audit'\n"
        "    def init(self): self.seen = list(self.services.plugins)\n",
    )
    section = {"path": f"{tmp_path}/audit.py", "options": {"topic": "a"}}
    server = await start(quiet(plugins={"first": section, "second": section, "off": None}))
    plugins = server.get_services().plugins
    assert list(plugins) == ["first", "second"]
    # All are constructed before the first is initialised.
    assert plugins["first"].seen == ["first", "second"]
    assert plugins["first"].options == {"topic": "a"}
    assert "INFO INFO first ready: audit" in server.get_services().logger.lines
    await server.stop()


async def test_authentications_by_path_stand_beside_built_in_ones(write, tmp_path):
    write(
        "tokens.py",
        "from dsfast import Authentication\n"
        "class Tokens(Authentication):\n"
        "    async def is_valid_user(self, connection_data, auth_data): return None\n",
    )
    server = await start(quiet(auth=[{"path": f"{tmp_path}/tokens.py"}, {"type": "none"}]))
    names = [type(entry).__name__ for entry in server.get_services().authentication.entries]
    assert names == ["Tokens", "OpenAuthentication"]
    await server.stop()


async def test_a_plugin_that_cannot_be_loaded_is_one_fatal_line_with_the_traceback_at_debug(write, tmp_path):
    path = write("mine.py", "import redis_of_the_future\n")
    text, lines = await refused(quiet(cache={"path": str(path)}, logLevel="debug"))
    assert text == (f"Error loading cache plugin via path {path}: No module named 'redis_of_the_future'")
    assert f"FATAL CONFIG_ERROR {text}" in lines
    (trace,) = [line for line in lines if line.startswith("DEBUG PLUGIN_ERROR")]
    assert f'File "{path}", line 1' in trace
    text, lines = await refused(quiet(cache={"path": str(path)}))
    assert not any("Traceback" in line for line in lines)


async def test_a_plugin_that_lacks_methods_is_named(write, tmp_path):
    write("mine.py", "from dsfast import Cache\nclass Mine(Cache): pass\n")
    text, lines = await refused(quiet(cache={"path": f"{tmp_path}/mine.py"}))
    assert text == "cache needs to implement delete, get, set"
    assert f"FATAL PLUGIN_INITIALIZATION_ERROR {text}" in lines


async def test_a_custom_plugin_that_fails_is_named_by_its_own_name(write, tmp_path):
    write(
        "mine.py",
        "from dsfast import Plugin\n"
        "class Mine(Plugin):\n"
        "    def __init__(self, options, services, config): raise ValueError('no topic')\n"
        "class NoPlugin: pass\n",
    )
    text, _ = await refused(quiet(plugins={"audit": {"path": f"{tmp_path}/mine.py:Mine"}}))
    assert text == "audit: no topic"
    text, _ = await refused(quiet(plugins={"audit": {"path": f"{tmp_path}/mine.py:NoPlugin"}}))
    assert text.startswith("audit: plugin needs to implement ")


async def test_a_class_that_is_none_is_refused():
    text, _ = await refused(quiet(cache={"class": "mine"}))
    assert text == "cache: class is 'mine', which is no class"


# A logger that only writes lines


class OnlyLogs:
    description = "only logs"

    def __init__(self, options, services, config):
        self.options, self.lines, self.closed = options, [], False

    def log(self, level, event, message, meta):
        self.lines.append((level, event, message, meta))

    async def close(self):
        self.closed = True


async def test_a_logger_that_only_writes_lines_gets_the_rest():
    server = Server(quiet(logger={"class": OnlyLogs, "options": {"a": 1}}, logLevel="warn"))
    await server.start()
    logger = server.get_services().logger
    inner = logger._inner
    assert inner.options == {"a": 1}
    assert inner.lines == []
    logger.get_namespace("PART").warn("X", "y")
    logger.info("X", "not this one")
    assert inner.lines == [(LogLevel.WARN, "X", "y", {"namespace": "PART"})]
    await server.stop()
    assert inner.closed


async def test_such_a_logger_may_be_an_object():
    inner = OnlyLogs({}, None, None)
    server = Server(quiet())
    server.set("logger", inner)
    await server.start()
    assert (LogLevel.INFO, "INFO", "logger ready: only logs", None) in inner.lines
    await server.stop()
