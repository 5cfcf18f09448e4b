"""Configuration files: where they are looked for, YAML and JSON, macros, paths, what is wrong with them."""

import json
import os
from pathlib import Path

import pytest
import yaml

from dsfast.config import ConfigError, find_file, load, load_from, read_document
from dsfast.config import files as config_files
from dsfast.config.files import resolve_path
from dsfast.config.syntax import MAX_ALIASED, SyntaxProblem, parse_json, parse_yaml, scalar


@pytest.fixture
def write(tmp_path):
    """Writes a file below the directory of the test and returns its path."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def read(path, environ=None, **others):
    return load_from(path, environ=environ or {}, **others)


def error(path, environ=None):
    with pytest.raises(ConfigError) as caught:
        read(path, environ)
    return str(caught.value)


# Finding the file


def test_without_any_file_the_defaults_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(config_files, "_bases", lambda: [tmp_path / "conf/config"])
    config = load_from(environ={})
    assert (config.source.file, config.http.port) == (None, 6020)


@pytest.mark.parametrize("extension", ["yml", "yaml", "json"])
def test_the_working_directory_is_looked_in(write, tmp_path, monkeypatch, extension):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = write(f"conf/config.{extension}", '{"serverName": "outer"}')
    assert find_file({}).resolve() == path
    path = write(f"work/conf/config.{extension}", '{"serverName": "inner"}')
    assert find_file({}).resolve() == path
    assert load_from(environ={}).server_name == "inner"


def test_the_places_are_those_of_the_specification_in_this_order():
    bases = [str(base) for base in config_files._bases()]
    assert bases[:5] == [
        "/etc/deepstream/conf",
        "/etc/deepstream/conf/config",
        "/etc/deepstream/config",
        "conf/config",
        "../conf/config",
    ]


def test_the_first_extension_that_is_there_wins(write, tmp_path, monkeypatch):
    monkeypatch.setattr(config_files, "_bases", lambda: [tmp_path / "a", tmp_path / "b"])
    write("b.yml", "")
    write("a.json", "{}")
    assert find_file({}) == tmp_path / "a.json"
    write("a.yaml", "")
    assert find_file({}) == tmp_path / "a.yaml"


def test_the_variable_names_a_file_or_a_directory(write):
    path = write("sub/config.yml", "serverName: x")
    for value in (path, path.parent):
        environ = {"DEEPSTREAM_CONFIG_DIRECTORY": str(value)}
        assert load_from(environ=environ).server_name == "x"


def test_a_variable_that_leads_nowhere_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"Configuration file not found at: /nowhere/x\.yml"):
        load_from(environ={"DEEPSTREAM_CONFIG_DIRECTORY": "/nowhere/x.yml"})
    with pytest.raises(ConfigError, match=f"No config file found in {tmp_path}"):
        load_from(environ={"DEEPSTREAM_CONFIG_DIRECTORY": str(tmp_path)})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing.yml", "Configuration file not found at: {path}"),
        (
            "config.js",
            "JavaScript configuration files cannot be run, please convert it to YAML or JSON: {path}",
        ),
        ("config.toml", ".toml is not supported as configuration file"),
        ("config", "config is not supported as configuration file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, text):
    assert error(tmp_path / name) == text.format(path=tmp_path / name)


def test_a_directory_is_no_configuration_file(tmp_path):
    (tmp_path / "config.yml").mkdir()
    assert error(tmp_path / "config.yml").startswith("Configuration file not found at: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(write):
    path = write("config.yml", "")
    path.chmod(0)
    assert error(path) == f"{path} cannot be read: Permission denied"


def test_a_file_that_is_too_large(write, monkeypatch):
    monkeypatch.setattr(config_files, "MAX_FILE_SIZE", 10)
    path = write("config.yml", "# 456789\n#")
    assert read(path).source.file == path
    assert error(write("config.yml", "# 456789\n##")) == f"{path} is larger than 10 bytes"


def test_a_file_that_is_no_unicode(write):
    path = write("config.yml", b"serverName: a\nlogLevel: \xff")
    assert error(path) == f"not valid UTF-8 ({path}, line 2)"


def test_a_byte_order_mark_is_no_part_of_the_text(write):
    assert read(write("config.json", b'\xef\xbb\xbf{"serverName": "x"}')).server_name == "x"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_file_means_the_defaults(write, text):
    assert read(write("config.yml", text)).http.port == 6020


def test_a_list_is_no_configuration(write):
    path = write("config.yml", "- a")
    assert error(path).splitlines()[1] == f"1) must be a mapping ({path}, line 1)"


# YAML 1.2 and JSON


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("True", True), ("FALSE", False), ("yes", "yes"), ("on", "on"), ("Off", "Off"),
        ("null", None), ("~", None), ("", None), ("Null", None), ("nil", "nil"), ("n", "n"), ("12_", "12_"),
        ("12", 12), ("-3", -3), ("+4", 4), ("010", 10), ("0o17", 15), ("0xfF", 255), ("0b101", 5),
        ("1_000", 1000), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-.inf", float("-inf")),
        ("1:30", "1:30"), ("2001-12-14", "2001-12-14"), ("1.2.3", "1.2.3"), ("0x", "0x"),
        ("9" * 400, "9" * 400),
    ],
)  # fmt: skip
def test_unquoted_scalars_are_those_of_yaml_1_2(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)
    assert parse_yaml(f"a: {text}").value == {"a": value}


def test_comments_are_those_of_yaml():
    # Upstream cuts every line at "#", also in quotes.
    text = "a: \"node#1\" # comment\nb: x#y\nc: '#'\n# d: 1\n"
    assert parse_yaml(text).value == {"a": "node#1", "b": "x#y", "c": "#"}


def test_anchors_merge_keys_and_tags():
    text = "base: &base {a: 1, b: [x]}\none:\n  <<: *base\n  a: 2\ntwo: [*base, !!str 5, !!int '7']\n"
    assert parse_yaml(text).value == {
        "base": {"a": 1, "b": ["x"]},
        "one": {"a": 2, "b": ["x"]},
        "two": [{"a": 1, "b": ["x"]}, "5", 7],
    }


def test_an_alias_is_a_copy():
    value = parse_yaml("a: &a [1]\nb: *a").value
    value["a"].append(2)
    assert value["b"] == [1]


def test_keys_are_text_as_in_javascript():
    assert parse_yaml("1: a\ntrue: b\n007: c").value == {"1": "a", "true": "b", "007": "c"}


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: 1\nb: 2\na: 3", "the key a is there twice", 3),
        ("a:\n  x: 1\n  'x': 2", "the key x is there twice", 3),
        ("1: a\n'1': b", "the key 1 is there twice", 2),
        ("b: 2\na: [1}", "while parsing a flow sequence", 2),
        ("a: b: c", "mapping values are not allowed", 1),
        ("a:\n\tb: 1", "that cannot start any token", 2),
        ("a\n---\nb", "there is a second document", 2),
        ("a: *x", "the alias *x has no anchor", 1),
        ("a: &a\n - *a", "the alias *a contains itself", 2),
        ("? [a]\n: b", "a key must be a single value", 1),
        ("a: !!python/object:os.system x", "the tag python/object:os.system is not known here", 1),
        ("a: !own {}", "the tag !own is not known here", 1),
        ("a: !!int x", "x is no int", 1),
        ("a:\n  <<: 5", "<< needs a mapping or a list of mappings", 2),
        ("ä: ö\n\nb: \x07", "the character #x0007 is not allowed", 3),
        ("[" * 200 + "]" * 200, "nested deeper than 100 levels", 1),
        ("[" * 5000, "nest", 1),
        (BOMB, f"aliases add more than {MAX_ALIASED} values", 5),
        (f"a: &a {'[' * 90}{']' * 90}\nb: {'[' * 20}*a{']' * 20}", "nested deeper than 100 levels", 2),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_yaml_that_cannot_be_used(monkeypatch, compiled, text, problem, line):
    # PyYAML may come without libyaml, whose parser is another one.
    monkeypatch.setattr(yaml, "__with_libyaml__", compiled and yaml.__with_libyaml__)
    with pytest.raises(SyntaxProblem) as caught:
        parse_yaml(text)
    assert problem in str(caught.value)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ('{"a": 1,\n"a": 2}', "the key a is there twice", 2),
        ('{"a": 1,\n}', "Expecting property name", 2),
        ("{'a': 1}", "Expecting property name", 1),
        ('{"a": yes}', "Expecting value", 1),
        ('{"a": NaN}', "NaN is not JSON", 0),
        ("[" * 200 + "]" * 200, "nested deeper than 100 levels", 1),
        ("[" * 100_000, "nested deeper than 100 levels", 0),
        ("1" * 10_000, "", 0),
    ],
)
def test_json_that_cannot_be_used(text, problem, line):
    with pytest.raises(SyntaxProblem) as caught:
        parse_json(text)
    assert problem in str(caught.value)
    assert caught.value.line == line


def test_every_value_has_its_line():
    value = {"a": [1, {"b/c": "x"}], "d": {"e~f": None, "g": []}, "h": [[], [2]]}
    document = parse_json(json.dumps(value, indent=1))
    lines = json.dumps(value, indent=1).splitlines()
    assert document.value == value
    expected = {"/a": '"a"', "/a/0": "1", "/a/1/b~1c": '"b/c"', "/d/e~0f": '"e~f"', "/h/1/0": "2"}
    for pointer, text in expected.items():
        assert text in lines[document.lines[pointer] - 1], pointer
    assert parse_yaml(json.dumps(value, indent=1)).lines == document.lines


def test_a_text_that_is_no_yaml_or_json_names_file_and_line(write):
    path = write("config.yml", "rpc:\n  ackTimeout: 5\n  ackTimeout: 6\n")
    assert error(path) == f"the key ackTimeout is there twice ({path}, line 3)"
    path = write("config.json", '{"a":\n}')
    assert error(path) == f"Expecting value, column 1 ({path}, line 2)"


# Problems with the values


def test_problems_name_file_and_line(write):
    path = write(
        "config.yml",
        "rpc:\n  ackTimout: 5\n  responseTimeout: soon\nauth:\n  type: fil\nhttpServer:\n  options:\n"
        "    allowAllOrigins: no\n    origins: [http://a, b]\nmonitoring: 5\n"
        "plugins:\n  mine: {options: {}}\n",
    )
    assert error(path).splitlines() == [
        "There was an error validating your configuration:",
        f"1)/rpc: Property ackTimout is not expected to be here. Did you mean ackTimeout? ({path}, line 2)",
        f"2)/rpc/responseTimeout: Expected int, got str ({path}, line 3)",
        "3)/httpServer/options/allowAllOrigins: Expected bool, got str; in YAML 1.2 only true and false are "
        f"booleans ({path}, line 8)",
        f'4)/httpServer/options/origins: b must match format "uri" ({path}, line 9)',
        "5)/auth/0/type: Unknown authentication type fil, it can be "
        f"none, file, storage, http, jwt. Did you mean file? ({path}, line 5)",
        f"6)/monitoring: must be a list ({path}, line 10)",
        f"7)/plugins/mine: Neither name nor path property found for plugin type: undefined ({path}, line 12)",
    ]


def test_a_whole_number_may_be_written_with_a_point_or_an_exponent(write):
    assert read(write("config.yml", "rpc: {ackTimeout: 1e3, responseTimeout: 20.0}")).rpc.ack_timeout == 1000
    assert "/rpc/ackTimeout" in error(write("config.yml", "rpc: {ackTimeout: 1.5}"))


def test_a_problem_is_one_line_whatever_the_key(write):
    path = write("config.json", '{"a\\nb\\u001b[31m": 1, "auth": [{"type": "x\\ny\\ud800"}]}')
    lines = error(path).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("1) Property a\\nb\\x1b[31m is not expected to be here")
    assert "x\\ny\\ud800" in lines[2]
    error(path).encode()


# Macros


def test_variables_are_replaced_in_the_text_before_it_is_parsed(write):
    path = write(
        "config.yml",
        'httpServer: {options: {port: ${PORT}, host: "${HOST}"}}\n${SECTION}\n# ${COMMENT}\n',
    )
    environ = {"PORT": "7000", "HOST": "127.0.0.1", "SECTION": "rpc: {ackTimeout: 7}", "COMMENT": "a: b: c"}
    config = read(path, environ)
    assert (config.http.port, config.http.host, config.rpc.ack_timeout) == (7000, "127.0.0.1", 7)


def test_a_variable_that_is_not_set_is_empty_and_noted(write):
    path = write("config.yml", "serverName: x  # ${COMMENT}\nlibDir: ${LIBRARY}\n# ${COMMENT}\n")
    config = read(path)
    assert config.lib_dir is None
    assert [tuple(note) for note in config.source.notes] == [
        ("CONFIG_TRANSFORM", f"LIBRARY is not set and counts as empty ({path}, line 2)")
    ]
    path = write("config.yml", "httpServer: {options: {port: ${PORT}}}")
    assert f"/httpServer/options/port: Expected int, got null ({path}, line 1)" in error(path)


def test_a_variable_with_half_a_character_is_a_problem_not_a_crash(write):
    path = write("config.yml", "serverName: ${NAME}")
    assert error(path, {"NAME": "\udcff"}) == f"not valid Unicode ({path})"


def test_file_makes_a_path_absolute(write, tmp_path, monkeypatch):
    text = "dataDir: file(../${DIR})\nlibDir: ' file( /lib ) '\nserverName: a file(b)\n"
    path = write("conf/config.yml", text)
    monkeypatch.chdir("/")
    config = read(path, {"DIR": "data"})
    assert config.data_dir == str(tmp_path / "data")
    assert config.lib_dir == "/lib"
    assert config.server_name == "a file(b)"


def test_file_load_puts_the_content_there(write, tmp_path):
    write("conf/users.yml", "anna: {password: ${PASSWORD}}\n007: {password: x, serverData: {on: yes}}\n")
    write("conf/limits.json", '{"ackTimeout": 5}')
    write("conf/key.pem", "---KEY---\n${PASSWORD}\n")
    path = write(
        "conf/config.yml",
        "auth: {type: file, options: {users: fileLoad(users.yml)}}\n"
        "rpc: fileLoad(./limits.json)\n"
        f"cache: {{path: x.py, options: {{key: 'fileLoad({tmp_path}/conf/key.pem)'}}}}\n",
    )
    config = read(path, {"PASSWORD": "secret"})
    assert config.auth[0].options.users == {
        "anna": {"password": "secret"},
        "007": {"password": "x", "serverData": {"on": "yes"}},
    }
    assert config.rpc.ack_timeout == 5
    assert config.cache.options["key"] == "---KEY---\nsecret\n"
    assert config.source.loaded["/auth/options/users"] == tmp_path / "conf/users.yml"
    assert [note.text for note in config.source.notes] == [
        f"Loaded content from {tmp_path}/conf/users.yml for fileLoad(users.yml)",
        f"Loaded content from {tmp_path}/conf/limits.json for fileLoad(./limits.json)",
        f"Loaded content from {tmp_path}/conf/key.pem for fileLoad({tmp_path}/conf/key.pem)",
    ]
    assert {note.event for note in config.source.notes} == {"CONFIG_TRANSFORM"}


def test_problems_in_a_loaded_file_name_that_file(write, tmp_path):
    write("rpc.yml", "# limits\nackTimeout: soon\n")
    path = write("config.yml", "\nrpc: fileLoad(rpc.yml)\n")
    assert f"/rpc/ackTimeout: Expected int, got str ({tmp_path}/rpc.yml, line 2)" in error(path)


def test_loaded_files_that_cannot_be_used(write, tmp_path):
    path = write("config.yml", "serverName: a\nauth: {type: file, options: {users: fileLoad(users.yml)}}")
    users = tmp_path / "users.yml"
    where = f"({path}, line 2)"
    assert error(path) == (f"Error loading config file, missing file {users} for fileLoad(users.yml) {where}")
    users.write_text("a: 1\na: 2")
    assert error(path) == (
        f"Error loading config file, invalid format in file {users} for fileLoad(users.yml): "
        f"the key a is there twice ({users}, line 2) {where}"
    )
    path = write("config.yml", "rpc: fileLoad(rpc.js)")
    write("rpc.js", "module.exports = {}")
    assert "JavaScript cannot be run" in error(path)


def test_macros_do_not_apply_to_a_configuration_in_python():
    assert load({"serverName": "${HOME} file(x)"}).server_name == "${HOME} file(x)"


def test_read_document_gives_the_lines(write):
    path = write("permissions.yml", "record:\n  '*':\n    write: ${RULE}\n  a/$x:\n    read: false\n")
    document = read_document(path, {"RULE": "true"})
    assert document.value["record"]["*"]["write"] is True
    assert document.lines["/record/a~1$x/read"] == 5


@pytest.mark.parametrize(
    ("path", "prefix", "expected"),
    [
        ("/a/b", "/p", "/a/b"),
        ("/a/b", None, "/a/b"),
        ("./a", "/p", "/p/a"),
        ("../a", "/p/q", "/p/a"),
        ("./a", "p", str(Path.cwd() / "p/a")),
        ("./a", None, str(Path.cwd() / "a")),
        ("a/b", "/p", "/p/a/b"),
        ("a/b", None, "a/b"),
        ("foo", None, "foo"),
    ],
)
def test_paths_are_resolved_as_specified(path, prefix, expected):
    assert resolve_path(path, prefix) == expected


def test_the_library_directory(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    path = write("conf/config.yml", "libDir: ../lib")
    environ = {"DEEPSTREAM_LIBRARY_DIRECTORY": "usr/lib"}
    assert read(path, environ).library_directory == tmp_path / "lib"
    assert read(path, environ, flags={"libDir": "/flag"}).library_directory == Path("/flag")
    path = write("conf/config.yml", "")
    assert read(path, environ).library_directory == Path("/usr/lib")
    assert read(path).library_directory is None
