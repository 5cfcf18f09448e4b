"""The schema, the loader and the document generated from the schema."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dsfast.config import Config, ConfigError, load, pending, set_value
from dsfast.config.document import render
from dsfast.plugin import LogLevel

ROOT = Path(__file__).parent.parent


def problems(given):
    with pytest.raises(ConfigError) as caught:
        load(given)
    return {problem.pointer: problem.text for problem in caught.value.problems}


def test_defaults_need_no_configuration():
    config = load()
    assert config.rpc.ack_timeout == 1000
    assert config.http_server.options.port == 6020
    assert config.websocket.url_path == "/deepstream"
    assert config.websocket.unauthenticated_client_timeout == 180_000
    assert config.record.max_size == 16 * 1024 * 1024
    assert config.storage.type == "sqlite"
    assert config.log_level is LogLevel.INFO


def test_mappings_merge_and_lists_replace():
    config = load({"rpc": {"ackTimeout": 5}, "record": {"storageExclusionPrefixes": ["tmp/"]}})
    assert (config.rpc.ack_timeout, config.rpc.response_timeout) == (5, 10_000)
    assert config.record.storage_exclusion_prefixes == ["tmp/"]


def test_a_configuration_reads_as_mapping_with_the_original_keys():
    config = load({"serverName": "a"})
    assert isinstance(config, Mapping)
    assert config["serverName"] == "a"
    assert config["rpc"]["ackTimeout"] == 1000
    assert "rpc" in config and "ackTimeout" not in config
    assert config.get("nothing", 7) == 7
    assert dict(config.enabled_features.items())["event"] is True
    assert len(config.rpc) == len(list(config.rpc)) == len(config.rpc.values())
    with pytest.raises(KeyError):
        config["server_name"]


def test_server_names_are_generated_and_differ():
    assert load().server_name != load().server_name
    assert load({"serverName": "UUID"}).server_name != "UUID"


@pytest.mark.parametrize("given", [2, "warn", "WARN", LogLevel.WARN])
def test_log_levels_by_number_and_name(given):
    assert load({"logLevel": given}).log_level is LogLevel.WARN


def test_every_problem_is_listed_with_its_place():
    found = problems(
        {
            "foo": 1,
            "logLevel": "loud",
            "rpc": {"responseTimeout": "x"},
            "record": {"storageExclusionPrefixes": ["a", 3]},
            "httpServer": {"options": {"host": "", "port": 70_000}},
            "cache": {"type": "redis"},
            "listen": None,
        }
    )
    assert set(found) == {
        "",
        "/logLevel",
        "/rpc/responseTimeout",
        "/record/storageExclusionPrefixes/1",
        "/httpServer/options/host",
        "/httpServer/options/port",
        "/cache/type",
        "/listen",
    }
    assert found[""] == "Property foo is not expected to be here"


def test_the_message_is_a_numbered_list():
    with pytest.raises(ConfigError) as caught:
        load({"foo": 1, "rpc": {"ackTimeout": None}})
    lines = str(caught.value).splitlines()
    assert lines[0] == "There was an error validating your configuration:"
    assert lines[1] == "1) Property foo is not expected to be here"
    assert lines[2].startswith("2)/rpc/ackTimeout: ")


@pytest.mark.parametrize(
    ("given", "pointer", "suggestion"),
    [
        ({"rcp": {}}, "", "Did you mean rpc?"),
        ({"rpc": {"ackTimout": 1}}, "/rpc", "Did you mean ackTimeout?"),
        ({"rpc": {"ack_timeout": 1}}, "/rpc", "Did you mean ackTimeout?"),
        ({"storage": {"type": "sqlit"}}, "/storage/type", "Did you mean sqlite?"),
    ],
)
def test_unknown_names_get_a_suggestion(given, pointer, suggestion):
    assert problems(given)[pointer].endswith(suggestion)


def test_pointers_escape_what_json_pointers_escape():
    assert "/auth/0/type" in problems({"auth": [{"type": "a/b~c"}]})


@pytest.mark.parametrize("given", [[], 5])
def test_something_else_than_a_mapping_is_refused(given):
    assert problems(given) == {"": "must be a mapping"}


def test_bounds_that_upstream_never_enforced_are_warnings():
    warnings = []
    config = load({"rpc": {"ackTimeout": 0}, "record": {"cacheRetrievalTimeout": 10}}, warnings=warnings)
    assert config.rpc.ack_timeout == 0
    assert {str(warning) for warning in warnings} == {
        "/rpc/ackTimeout: should be >= 1",
        "/record/cacheRetrievalTimeout: should be >= 50",
    }


def test_no_prefixes_may_be_written_as_null():
    assert load({"record": {"storageHotPathPrefixes": None}}).record.storage_hot_path_prefixes == []


@pytest.mark.parametrize(("given", "expected"), [(False, None), (None, None), (True, 180_000), (5, 5)])
def test_unauthenticated_client_timeout_may_be_switched_off(given, expected):
    options = {"unauthenticatedClientTimeout": given}
    config = load({"connectionEndpoints": [{"type": "ws-binary", "options": options}]})
    assert config.websocket.unauthenticated_client_timeout == expected


def test_a_mapping_where_a_list_is_expected_is_its_only_entry():
    assert [entry.type for entry in load({"auth": {"type": "file"}}).auth] == ["file"]
    config = load({"connectionEndpoints": {"type": "ws-binary", "options": {"urlPath": "/x"}}})
    assert [endpoint.options.url_path for endpoint in config.connection_endpoints] == ["/x"]


def test_null_entries_are_dropped_but_no_endpoint_is_an_error():
    config = load({"connectionEndpoints": [None, {"type": "ws-binary"}]})
    assert len(config.connection_endpoints) == 1
    expected = {"/connectionEndpoints": "No connection endpoints configured"}
    assert problems({"connectionEndpoints": [None]}) == problems({"connectionEndpoints": []}) == expected


def test_an_unknown_type_of_authentication_is_called_so():
    found = problems({"auth": [{"type": "none"}, {"type": "fil"}], "permission": {"type": "x"}})
    assert found["/auth/1/type"].startswith("Unknown authentication type fil, it can be none, file, ")
    assert found["/auth/1/type"].endswith(". Did you mean file?")
    assert found["/permission/type"].startswith("Unknown permission type x, it can be ")
    assert problems({"auth": []}) == {"/auth": "No authentication type specified"}


def test_two_endpoints_cannot_have_one_path():
    twice = [{"type": "ws-binary"}, {"type": "ws-binary"}]
    assert problems({"connectionEndpoints": twice}) == {
        "/connectionEndpoints/1/options/urlPath": "/deepstream is the path of entry 0 already"
    }
    twice[1]["options"] = {"urlPath": "/other"}
    assert len(load({"connectionEndpoints": twice}).connection_endpoints) == 2


def test_endpoints_that_cannot_be_served_yet_are_no_server(monkeypatch):
    monkeypatch.setattr(pending, "IGNORED", {"/connectionEndpoints/*/mqtt": "no mqtt"})
    monkeypatch.setattr(pending, "REFUSED", {})
    only = {"connectionEndpoints": [{"type": "mqtt"}]}
    assert problems(only) == {
        "/connectionEndpoints": "No connection endpoints configured that can be served yet"
    }
    only["connectionEndpoints"].append({"type": "ws-binary"})
    (warning,) = load(only).warnings
    assert (warning.pointer, warning.text) == ("/connectionEndpoints/0", "no mqtt")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"connectionEndpoints": [{"type": "ws-binary"}, {"type": "mqtt"}]}, "/connectionEndpoints/*/mqtt"),
        ({"httpServer": {"options": {"hostUrl": "a"}}}, "/httpServer/options/hostUrl/given"),
        ({"httpServer": {"path": "./x.py"}}, "/httpServer/plugin"),
        ({"clusterNode": {"name": "vertical"}, "storage": {"type": "none"}}, "/clusterNode/vertical"),
        ({"plugins": {"a": {"path": "x.py"}, "b": {"path": "y.py"}}}, "/plugins/*/plugin"),
        ({"enabledFeatures": {"monitoring": True}}, "/enabledFeatures/monitoring/true"),
    ],
)
def test_the_list_of_what_is_missing_reaches_every_kind_of_value(monkeypatch, given, path):
    monkeypatch.setattr(pending, "IGNORED", {})
    monkeypatch.setattr(pending, "REFUSED", {})
    assert load(given).warnings == []
    monkeypatch.setattr(pending, "REFUSED", {path: "not yet"})
    assert set(problems(given).values()) == {"not yet"}
    # What is not asked for is not missed.
    load({})


OPTIONS = {
    "/monitoring/*/http": {"url": "/monitoring", "allowOpenPermissions": True},
    "/plugins/*/heap-snapshot": {"interval": 10_000, "outputDir": "x"},
}
VALUES = {"ssl": {"key": "a", "cert": "b"}, "hostUrl": "a"}


@pytest.mark.parametrize("path", [*pending.REFUSED, *pending.IGNORED])
def test_everything_on_the_list_of_what_is_missing_is_found(path):
    # A path that names nothing would hide that something is missing.
    *keys, wanted = path.split("/")[1:]
    if wanted == "plugin":
        value = {"path": "x.py"}
    elif wanted == "given":
        value = VALUES[keys[-1]]
    elif wanted == "true":
        value = True
    else:
        value = {"name": wanted, "options": OPTIONS.get(path, {})}
    for key in reversed(keys):
        if key == "*" and wanted == "given":
            value["type"] = "mqtt"  # the endpoint that has such options
        value = ({"a": value} if keys[0] == "plugins" else [value]) if key == "*" else {key: value}
    if path in pending.REFUSED:
        assert pending.REFUSED[path] in problems(value).values()
    else:
        if keys[0] == "connectionEndpoints":
            value["connectionEndpoints"].append({"type": "ws-binary"})
        assert pending.IGNORED[path] in [warning.text for warning in load(value).warnings]


def test_an_auth_entry_without_type_does_not_open_the_server():
    assert problems({"auth": [{}]}) == {"/auth/0": "Property type is required"}
    assert "/auth" in problems({"auth": []})
    assert "/auth" in problems({"auth": None})


def test_a_built_in_implementation_may_be_chosen_by_name():
    config = load({"storage": {"name": "sqlite", "options": {"durability": "normal"}}})
    assert config.storage.options.durability == "normal"


def test_plugins_by_name_and_by_class():
    class Mine:
        pass

    config = load(
        {"cache": {"name": "my-cache", "options": {"a": 1}}, "storage": {"class": Mine, "type": "x"}}
    )
    assert (config.cache.name, config.cache.options) == ("my-cache", {"a": 1})
    assert config.storage.plugin_class is Mine


def test_the_database_lies_in_the_data_directory_unless_it_is_told_otherwise(tmp_path):
    assert load({"dataDir": str(tmp_path)}).sqlite_path == str(tmp_path / "dsfast.db")
    assert load({"storage": {"type": "sqlite", "options": {"path": "x.db"}}}).sqlite_path == "x.db"


def test_values_can_be_set_by_path_in_both_spellings():
    config = load()
    set_value(config, "record.storageExclusionPrefixes", ["tmp/"])
    set_value(config, "rpc.ack_timeout", 7)
    set_value(config, "connectionEndpoints.0.options.maxAuthAttempts", 9)
    set_value(config, "logLevel", "debug")
    assert config.record.storage_exclusion_prefixes == ["tmp/"]
    assert config.rpc.ack_timeout == 7
    assert config.websocket.max_auth_attempts == 9
    assert config.log_level is LogLevel.DEBUG


@pytest.mark.parametrize(
    "path", ["nothing", "rpc.nothing", "rpc.ackTimeout.x", "connectionEndpoints.7.options", ""]
)
def test_unknown_paths_cannot_be_set(path):
    with pytest.raises(KeyError):
        set_value(load(), path, 1)


def test_a_value_that_does_not_fit_cannot_be_set():
    config = load()
    with pytest.raises(ConfigError, match="/rpc/ackTimeout"):
        set_value(config, "rpc.ackTimeout", "x")
    assert config.rpc.ack_timeout == 1000


def test_a_config_object_is_used_as_it_is():
    config = Config()
    assert load(config) is config


def test_docs_configuration_md_is_current():
    assert (ROOT / "docs" / "configuration.md").read_text() == render(), "run `make docs`"


def test_the_document_module_prints_the_document():
    command = [sys.executable, "-m", "dsfast.config.document"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == render()
