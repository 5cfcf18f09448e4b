"""Which layer of the configuration wins: defaults, file, environment variables, flags, and Server.set."""

import pytest

from dsfast import Server
from dsfast.config import ConfigError, load, load_from
from dsfast.config import files as config_files
from dsfast.config.schema import NoStorageSection, PluginSection, SqliteSection
from dsfast.plugin import LogLevel


@pytest.fixture(autouse=True)
def _no_other_file(monkeypatch):
    monkeypatch.setattr(config_files, "_bases", list)


@pytest.fixture
def with_file(tmp_path):
    """Loads a file with this text, and the other layers."""

    def with_file(text, *, flags=None, **environ):
        path = tmp_path / "config.yml"
        path.write_text(text)
        return load_from(path, flags=flags, environ=prefixed(environ))

    return with_file


def prefixed(environ):
    return {f"DSFAST_{key}": value for key, value in environ.items()}


def with_variables(**environ):
    return load_from(environ=prefixed(environ))


def problems(**environ):
    with pytest.raises(ConfigError) as caught:
        with_variables(**environ)
    return [str(problem).strip() for problem in caught.value.problems]


def test_the_later_layer_wins(with_file):
    text = "rpc: {ackTimeout: 2, responseTimeout: 2, maxOpenCalls: 2}"
    flags = {"rpc": {"maxOpenCalls": 4}}
    config = with_file(text, flags=flags, RPC__RESPONSE_TIMEOUT="3", RPC__MAX_OPEN_CALLS="3")
    assert config.rpc.provide_requestor_name is False
    assert config.rpc.ack_timeout == 2
    assert config.rpc.response_timeout == 3
    assert config.rpc.max_open_calls == 4
    server = Server(config)
    server.set("rpc.maxOpenCalls", 5)
    assert server.get_config().rpc.max_open_calls == 5


def test_a_path_given_to_the_server_takes_the_environment_with_it(tmp_path, monkeypatch):
    path = tmp_path / "config.yml"
    path.write_text("serverName: x\nrpc: {ackTimeout: 2}")
    monkeypatch.setenv("DSFAST_RPC__ACK_TIMEOUT", "3")
    assert Server(path).get_config().rpc.ack_timeout == 3
    assert Server(str(path)).get_config().server_name == "x"


def test_a_mapping_given_to_the_server_is_all_there_is(monkeypatch):
    monkeypatch.setenv("DSFAST_RPC__ACK_TIMEOUT", "3")
    assert Server({}).get_config().rpc.ack_timeout == 1000
    assert Server().get_config().rpc.ack_timeout == 1000


# Environment variables


def test_the_type_of_the_option_decides_what_the_text_means():
    config = with_variables(
        SERVER_NAME="12",
        LOG_LEVEL="warn",
        SHOW_LOGO="true",
        SHUTDOWN_TIMEOUT="0x10",
        STORAGE__OPTIONS__PATH="007",
        STORAGE__OPTIONS__DURABILITY="off",
        CACHE__OPTIONS__TTL="null",
        CACHE__OPTIONS__MAX_BYTES="",
        LIB_DIR="",
    )
    assert config.server_name == "12"
    assert config.log_level is LogLevel.WARN
    assert config.show_logo is True
    assert config.shutdown_timeout == 16
    assert (config.storage.options.path, config.storage.options.durability) == ("007", "off")
    assert (config.cache.options.ttl, config.cache.options.max_bytes) == (None, None)
    assert config.lib_dir is None
    assert with_variables(LOG_LEVEL="3").log_level is LogLevel.ERROR


def test_false_switches_off_what_a_file_could_switch_off():
    options = "CONNECTION_ENDPOINTS__0__OPTIONS__UNAUTHENTICATED_CLIENT_TIMEOUT"
    assert with_variables(**{options: "false"}).websocket.unauthenticated_client_timeout is None


def test_lists_and_mappings_are_json_or_yaml():
    config = with_variables(
        RECORD__STORAGE_EXCLUSION_PREFIXES='["a/", "b/"]',
        RECORD__STORAGE_HOT_PATH_PREFIXES="[c/, d/]",
        RPC='{"ackTimeout": 5}',
        RPC__RESPONSE_TIMEOUT="6",
        PLUGINS="{audit: {path: company.audit}}",
    )
    assert config.record.storage_exclusion_prefixes == ["a/", "b/"]
    assert config.record.storage_hot_path_prefixes == ["c/", "d/"]
    assert (config.rpc.ack_timeout, config.rpc.response_timeout) == (5, 6)
    assert config.plugins["audit"].path == "company.audit"


def test_a_variable_for_a_part_comes_after_that_for_the_whole():
    config = with_variables(
        AUTH='[{"type": "none"}, {"type": "none"}]',
        AUTH__1__TYPE="file",
        STORAGE='{"type": "none"}',
        STORAGE__TYPE="sqlite",
        STORAGE__OPTIONS='{"path": "a"}',
        STORAGE__OPTIONS__PATH="b",
    )
    assert [entry.type for entry in config.auth] == ["none", "file"]
    assert (config.storage.type, config.storage.options.path) == ("sqlite", "b")


def test_a_mapping_merges_with_that_of_the_file(with_file):
    config = with_file("rpc: {ackTimeout: 2, responseTimeout: 2}", RPC='{"ackTimeout": 5}')
    assert (config.rpc.ack_timeout, config.rpc.response_timeout) == (5, 2)
    assert with_file("rpc: {ackTimeout: 2}", RPC="{}").rpc.ack_timeout == 2


def test_entries_of_lists_have_numbers(with_file):
    text = (
        "auth: [{type: file, options: {users: {}}}, {type: none}]\nrecord: {storageExclusionPrefixes: [a, b]}"
    )
    config = with_file(
        text, AUTH__0__OPTIONS__HASH="md5", AUTH__1__TYPE="file", RECORD__STORAGE_EXCLUSION_PREFIXES__2="c"
    )
    assert [entry.type for entry in config.auth] == ["file", "file"]
    assert config.auth[0].options.hash == "md5"
    assert config.record.storage_exclusion_prefixes == ["a", "b", "c"]


def test_a_mapping_in_the_place_of_a_list_is_entry_number_0(with_file):
    config = with_file("auth: {type: file, options: {users: {}}}", AUTH__0__OPTIONS__HASH="md5")
    assert config.auth[0].options.hash == "md5"


def test_an_entry_of_a_list_that_no_file_has_is_one_of_the_default():
    config = with_variables(
        CONNECTION_ENDPOINTS__0__OPTIONS__URL_PATH="/x", RECORD__STORAGE_EXCLUSION_PREFIXES__0="a"
    )
    assert len(config.connection_endpoints) == len(load().connection_endpoints)
    endpoint = config.connection_endpoints[0]
    assert (endpoint.type, endpoint.options.url_path) == ("ws-binary", "/x")
    assert config.record.storage_exclusion_prefixes == ["a"]


def test_the_options_of_a_plugin_are_found_whatever_their_spelling(with_file):
    text = "cache: {name: redis, options: {HOST: a, max_retries: 1, apiKey: b, users: {0: x}}}"
    config = with_file(
        text,
        CACHE__OPTIONS__HOST="c",
        CACHE__OPTIONS__MAX_RETRIES="2",
        CACHE__OPTIONS__API_KEY='"5"',
        CACHE__OPTIONS__NEW_OPTION="1.5",
        CACHE__OPTIONS__USERS__0="true",
        CACHE__OPTIONS__PASSWORD="@: x",
    )
    assert config.cache.options == {
        "HOST": "c",
        "max_retries": 2,
        "apiKey": "5",
        "newOption": 1.5,
        "users": {"0": True},
        "password": "@: x",
    }


def test_a_wrong_variable_is_named():
    assert problems(
        RPC__ACK_TIMEOUT="soon",
        RPC__ACK_TIMOUT="5",
        LISTEN="[]",
        RECORD__STORAGE_EXCLUSION_PREFIXES="a",
        AUTH='[{"type": "fil"}]',
    ) == [
        "/rpc: Property ackTimout is not expected to be here. Did you mean ackTimeout? "
        "(DSFAST_RPC__ACK_TIMOUT)",
        "/rpc/ackTimeout: Expected int, got str (DSFAST_RPC__ACK_TIMEOUT)",
        "/record/storageExclusionPrefixes: Expected array, got str "
        "(DSFAST_RECORD__STORAGE_EXCLUSION_PREFIXES)",
        "/listen: must be a mapping (DSFAST_LISTEN)",
        "/auth/0/type: Unknown authentication type fil, it can be none, file, storage, http, jwt. "
        "Did you mean file? (DSFAST_AUTH)",
    ]


def test_all_variables_that_cannot_be_placed_are_listed():
    found = problems(AUTH__7__TYPE="none", RPC____X="1", RECORD="{a", AUTH__X="1")
    assert "neither JSON nor YAML" in found.pop(2)
    assert found == [
        "7 is no index of a list with 1 entries (DSFAST_AUTH__7__TYPE)",
        "X is no index of a list with 1 entries (DSFAST_AUTH__X)",
        "there have to be two underscores between two keys, not more (DSFAST_RPC____X)",
    ]


def test_other_variables_are_told_but_do_not_matter():
    config = with_variables(RCP__ACK_TIMEOUT="5", FOO="1", PORT_6020_TCP="x", SERVICE_HOST="y", PORT="z")
    assert [tuple(note) for note in config.source.notes] == [
        ("INVALID_CONFIG_DATA", f"DSFAST_{text}")
        for text in (
            "RCP__ACK_TIMEOUT is no option of the configuration. Did you mean rpc?",
            "FOO is no option of the configuration",
        )
    ]


def test_a_variable_replaces_what_is_wrong_in_the_file(with_file):
    assert with_file("rpc: {ackTimeout: soon}", RPC__ACK_TIMEOUT="5").rpc.ack_timeout == 5
    assert with_file("rpc: 5\nauth: 7", RPC__ACK_TIMEOUT="5", AUTH='[{"type": "none"}]').rpc.ack_timeout == 5


# Another implementation


@pytest.mark.parametrize("section", ["{type: sqlite, options: {path: x.db}}", "{options: {path: x.db}}"])
def test_options_stay_while_the_implementation_stays(with_file, section):
    config = with_file(f"storage: {section}", STORAGE__TYPE="sqlite", STORAGE__OPTIONS__MAX_BATCH="7")
    assert (config.storage.options.path, config.storage.options.max_batch) == ("x.db", 7)


@pytest.mark.parametrize(
    "section",
    [
        "{type: sqlite, options: {path: x.db}}",
        "{name: postgres, options: {host: a}}",
        "{path: ./mine.py, options: {host: a}}",
        "{path: ./mine.py, name: postgres, type: sqlite}",
    ],
)
@pytest.mark.parametrize("layer", ["variable", "flag"])
def test_another_implementation_comes_without_the_old_options(with_file, section, layer):
    text = f"storage: {section}"
    if layer == "flag":
        config = with_file(text, flags={"storage": {"type": "none"}})
    else:
        config = with_file(text, STORAGE__TYPE="none")
    assert isinstance(config.storage, NoStorageSection)


def test_a_plugin_by_variables(with_file):
    config = with_file(
        "storage: {type: sqlite, options: {path: x.db}}",
        STORAGE__PATH="./mine.py",
        STORAGE__NAME="postgres",
        STORAGE__OPTIONS__HOST="a",
    )
    assert isinstance(config.storage, PluginSection)
    assert (config.storage.path, config.storage.options) == ("./mine.py", {"host": "a"})


def test_open_permission_can_be_forced_over_a_plugin_by_path(with_file):
    config = with_file("permission: {path: ./mine.py}", flags={"permission": {"type": "none"}})
    assert config.permission.type == "none"


def test_entries_of_lists_and_mappings_change_their_implementation_too(with_file):
    config = with_file(
        "auth: [{type: file, options: {users: {a: {}}}}]\nplugins: {mine: {name: a, options: {x: 1}}}",
        AUTH__0__TYPE="none",
        PLUGINS__MINE__PATH="b.c",
    )
    assert config.auth[0].type == "none"
    assert (config.plugins["mine"].path, config.plugins["mine"].options) == ("b.c", {})


def test_an_option_named_path_chooses_nothing(with_file):
    config = with_file("storage: {options: {path: x.db, maxBatch: 7}}", STORAGE__OPTIONS__PATH="y.db")
    assert isinstance(config.storage, SqliteSection)
    assert (config.storage.options.path, config.storage.options.max_batch) == ("y.db", 7)


# Flags


def test_flags_replace_lists_and_merge_mappings(with_file):
    text = (
        "auth: [{type: file, options: {users: {}}}, {type: none}]\nhttpServer: {options: {port: 1, host: a}}"
    )
    config = with_file(text, flags={"auth": [{"type": "none"}], "httpServer": {"options": {"port": 2}}})
    assert [entry.type for entry in config.auth] == ["none"]
    assert (config.http.port, config.http.host) == (2, "a")


def test_a_wrong_flag_is_named(with_file):
    with pytest.raises(ConfigError, match=r"/httpServer/options/port: .* \(command line\)"):
        with_file("serverName: x", flags={"httpServer": {"options": {"port": -1}}})


# What several values say together


def test_sqlite_is_the_storage_of_a_single_node_only():
    assert isinstance(load({}).storage, SqliteSection)
    assert isinstance(load({"clusterNode": {"type": "default"}}).storage, SqliteSection)
    assert isinstance(load({"storage": {"type": "default"}}).storage, NoStorageSection)
    with pytest.raises(ConfigError, match="several servers cannot work together yet"):
        load({"clusterNode": {"name": "redis"}})


def test_a_cluster_without_a_storage_section_stores_nothing_and_says_so(monkeypatch):
    monkeypatch.setattr("dsfast.config.pending.REFUSED", {})
    given = {"clusterNode": {"name": "redis"}}
    config = load(given)
    assert isinstance(config.storage, NoStorageSection)
    assert "/clusterNode: there is no storage section, so records are not stored" in map(str, config.warnings)
    given["storage"] = {"type": "sqlite"}
    assert isinstance(load(given).storage, SqliteSection)


def test_a_rematch_interval_that_switches_off_is_told():
    (warning,) = load({"listen": {"rematchInterval": 1000}}).warnings
    assert warning.pointer == "/listen/rematchInterval"
