"""The plugin contract as a plugin author uses it: at run time and for a type checker."""

import subprocess
import sys
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
