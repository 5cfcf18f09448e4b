"""The plugin contract as a plugin author uses it: at run time and for a type checker."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dsfast
from dsfast.config import load
from dsfast.plugin import (
    Authentication,
    Cache,
    Logger,
    Monitoring,
    Permission,
    Plugin,
    Storage,
)
from dsfast.services import Services
from dsfast.services.factory import ContractError, build, missing_methods, register_plugin

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config():
    return load()


@pytest.fixture
def services():
    return Services()


class Rows(Cache):
    description = "rows"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        self.rows = {}

    async def get(self, name):
        return self.rows.get(name, (-1, None))

    async def set(self, name, version, data):
        self.rows[name] = (version, data)

    async def delete(self, name):
        self.rows.pop(name, None)


@pytest.mark.parametrize(
    ("base", "missing"),
    [
        (Authentication, ["is_valid_user"]),
        (Permission, ["can_perform_action"]),
        (Cache, ["delete", "get", "set"]),
        (Storage, ["delete", "get", "set"]),
        (Logger, ["log"]),
        (Monitoring, []),
        (Plugin, []),
    ],
)
def test_what_each_kind_has_to_implement(base, missing):
    assert missing_methods(base, base) == missing


async def test_the_defaults_of_a_cache_work_on_its_three_methods(services, config):
    cache = Rows({}, services, config)
    await cache.set("a", 1, {})
    await cache.set("b", 0, [])
    assert await cache.head("a") == 1
    assert await cache.head("x") == -1
    assert await cache.head_bulk(["a", "x", "b"]) == ({"a": 1, "b": 0}, ["x"])
    await cache.delete_bulk(["a", "x"])
    assert await cache.get("a") == (-1, None)


async def test_the_defaults_of_a_storage_work_on_its_three_methods(services, config):
    class Shelf(Storage):
        get, set, delete = Rows.get, Rows.set, Rows.delete
        rows = {}

    shelf = Shelf({}, services, config)
    await shelf.set("a", 1, {})
    await shelf.delete_bulk(["a", "b"])
    assert await shelf.get("a") == (-1, None)


async def test_the_hooks_of_a_plugin_are_optional(services, config):
    plugin = Rows({"a": 1}, services, config)
    plugin.init()
    await plugin.when_ready()
    await plugin.close()
    assert plugin.options == {"a": 1}


def test_a_class_is_built_with_empty_options_and_an_instance_is_taken(services, config):
    built = build("cache", Rows, services, config)
    assert isinstance(built, Rows) and built.options == {}
    assert build("cache", built, services, config) is built


def test_a_class_that_lacks_methods_is_refused_with_their_names(services, config):
    class Half(Cache):
        async def get(self, name):
            return -1, None

    with pytest.raises(ContractError, match=r"^cache needs to implement delete, set$"):
        build("cache", Half, services, config)


class Duck:
    """No subclass, but everything a permission has."""

    description = "duck"
    logger = None

    def __init__(self, options, services, config):
        pass

    def init(self):
        pass

    async def when_ready(self):
        pass

    async def close(self):
        pass

    def can_perform_action(self, socket, message):
        return True

    def set_record_handler(self, handler):
        pass


def test_a_class_of_another_family_needs_all_the_methods(services, config):
    assert isinstance(build("permission", Duck, services, config), Duck)
    duck = Duck({}, services, config)
    assert build("permission", duck, services, config) is duck
    with pytest.raises(ContractError, match="cache needs to implement"):
        build("cache", duck, services, config)
    with pytest.raises(ContractError, match="can_perform_action"):
        build("permission", "text", services, config)


def test_registered_classes_are_found_by_name(services, config):
    register_plugin("My-Rows", Rows)
    section = load({"cache": {"name": "my-rows", "options": {"size": 3}}}).cache
    assert build("cache", section, services, config).options == {"size": 3}
    with pytest.raises(ContractError, match="unable to resolve cache plugin nothing"):
        build("cache", load({"cache": {"name": "nothing"}}).cache, services, config)
    with pytest.raises(ContractError, match="which is no class"):
        build("cache", load({"cache": {"class": 5}}).cache, services, config)
    assert isinstance(build("cache", load({"cache": {"class": Rows}}).cache, services, config), Rows)
    with pytest.raises(TypeError):
        register_plugin("", Rows)
    with pytest.raises(TypeError):
        register_plugin("x", Rows({}, services, config))
    with pytest.raises(ValueError, match="built-in"):
        register_plugin("SQLite", Rows)


def test_the_names_of_the_package():
    for name in dsfast.__all__:
        assert getattr(dsfast, name) is not None
    with pytest.raises(AttributeError):
        dsfast.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, dsfast; print([m for m in ('asyncio', 'msgspec', 'dsfast.server') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


GOOD = """
from collections.abc import Awaitable, Mapping
from typing import Any

from dsfast import Authentication, AuthResult, Cache, Logger, LogLevel, Monitoring, Permission, Server
from dsfast import UNSET, Config, Plugin, PluginError, Storage, register_plugin
from dsfast.plugin import RecordHandler, Socket


class Tokens(Authentication):
    description = "tokens"

    async def is_valid_user(
        self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]
    ) -> AuthResult | None:
        user = self.options["tokens"].get(auth_data.get("token"))
        return AuthResult(True, id=user, client_data=UNSET, server_data={"via": "token"}) if user else None


class OwnNames(Permission):
    def set_record_handler(self, handler: RecordHandler) -> None:
        self.records = handler

    def can_perform_action(self, socket: Socket, message: Any) -> bool | Awaitable[bool]:
        if message.name is None:
            return True
        return self.ask(message.name, socket.user_id)

    async def ask(self, name: str, user: str | None) -> bool:
        version, data = await self.records.get_record(name)
        return version >= 0 and data["owner"] == user


class Rows(Cache):
    async def get(self, name: str) -> tuple[int, Any]:
        return -1, None

    async def set(self, name: str, version: int, data: Any) -> None:
        raise PluginError("full")

    async def delete(self, name: str) -> None:
        self.logger.fatal("INFO", f"{name} {self.config.rpc.ack_timeout}")


class Shelf(Storage):
    get = Rows.get
    set = Rows.set

    async def delete(self, name: str) -> None: ...


class Ring(Logger):
    def log(self, level: int, event: str, message: str, meta: Mapping[str, Any] | None = None) -> None:
        if level >= LogLevel.ERROR:
            print(event, message, meta)


class Count(Monitoring):
    def on_login(self, allowed: bool, endpoint_type: str) -> None: ...


async def main() -> None:
    server = Server({"rpc": {"ackTimeout": 5}})
    services, config = server.get_services(), server.get_config()
    server.set("authentication", [Tokens({"tokens": {}}, services, config)])
    server.set("permission", OwnNames)
    register_plugin("rows", Rows)
    await server.start()
    assert server.is_running()
    await server.stop()


def port(config: Config) -> int:
    return config.http.port


def kinds() -> list[type[Plugin]]:
    return [Tokens, OwnNames, Rows, Shelf, Ring, Count]
"""

BAD = """
from typing import Any

from dsfast import Authentication, AuthResult, Cache, Config, Permission, Services


class Synchronous(Authentication):
    def is_valid_user(self, connection_data: Any, auth_data: Any) -> AuthResult | None:  # E: override
        return None


class Half(Cache):
    async def get(self, name: str) -> tuple[int, Any]:
        return -1, None


def make(services: Services, config: Config) -> None:
    Half({}, services, config)  # E: abstract
    AuthResult("yes")  # E: arg-type
    print(config.rpc.ack_timout)  # E: attr-defined


class Text(Permission):
    def can_perform_action(self, socket: Any, message: Any) -> str:  # E: override
        return "no"
"""


def mypy(path):
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-error-codes"]
    command += ["--config-file", "/dev/null", "--cache-dir", str(path.parent / "cache"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line.startswith(str(path)) and ": error: " in line]


def test_a_plugin_author_passes_a_strict_type_check(tmp_path):
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    assert mypy(path) == []


def test_a_type_checker_finds_what_breaks_the_contract(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(textwrap.dedent(BAD).replace(", Services\n", "\nfrom dsfast.services import Services\n"))
    lines = path.read_text().splitlines()
    expected = {
        (number, line.rpartition("# E: ")[2]) for number, line in enumerate(lines, 1) if "# E: " in line
    }
    found = {(int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]")) for line in mypy(path)}
    assert found == expected
