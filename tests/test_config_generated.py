"""What is made from the schema (JSON Schema, sample file, effective values), and random configurations."""

import json
import re

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsfast.config import Config, ConfigError, load, load_from
from dsfast.config.annotations import hints_of, members_of, plain_kinds, sections_of, unwrapped, upper_bound
from dsfast.config.effective import MASK, effective
from dsfast.config.json_schema import json_schema
from dsfast.config.sample import sample
from dsfast.config.schema import INTEGER_LIMIT, MEMORY_LIMIT, PluginSection, Section
from dsfast.config.syntax import SyntaxProblem, parse_json, parse_yaml

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def all_sections(section=Config, seen=None):
    """The sections of the schema, the whole included."""
    seen = {} if seen is None else seen
    if section not in seen:
        seen[section] = None
        for annotation in hints_of(section).values():
            kind = unwrapped(annotation)[0]
            for part in (kind, *(unwrapped(member)[0] for member in getattr(kind, "__args__", ()))):
                for inner in sections_of(part):
                    all_sections(inner, seen)
    return list(seen)


def integer_options():
    return [
        (section, attribute)
        for section in all_sections()
        for attribute, annotation in hints_of(section).items()
        if int in plain_kinds(annotation) and attribute not in ("log_level", "__struct_config__")
    ]


def accepts(schema_value):
    return not list(VALIDATOR.iter_errors(schema_value))


def defaults():
    return {**effective(load({"serverName": "x"}), mask=False)}


# The schema itself


def test_every_option_has_a_meaning():
    silent = [
        f"{section.__name__}.{field.encode_name}"
        for section in all_sections()
        for field in msgspec.structs.fields(section)
        if field.encode_name != "type"
        and not any(meta.description for meta in unwrapped(hints_of(section)[field.name])[1])
        and not sections_of(unwrapped(hints_of(section)[field.name])[0])
    ]
    assert silent == []
    assert [section.__name__ for section in all_sections() if not section.__doc__] == []


def test_no_integer_can_overflow_the_core_or_a_timer():
    options = integer_options()
    assert len(options) > 60
    for section, attribute in options:
        assert upper_bound(hints_of(section)[attribute]) in range(1, MEMORY_LIMIT + 1)
    for value in (2**31, -(2**31), 10**400):
        with pytest.raises(ConfigError, match="/rpc/ackTimeout"):
            load({"rpc": {"ackTimeout": value}})
    assert load({"rpc": {"ackTimeout": INTEGER_LIMIT}}).rpc.ack_timeout == INTEGER_LIMIT


# JSON Schema


def test_the_json_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_the_defaults_fit_the_json_schema_and_load_again():
    values = json.loads(json.dumps(defaults()))
    assert [error.message for error in VALIDATOR.iter_errors(values)] == []
    assert effective(load(values), mask=False) == values


@pytest.mark.parametrize(
    "fits",
    [
        {},
        {"logLevel": "Warn", "plugins": None, "libDir": None},
        {"auth": {"type": "file", "options": {"hash": False, "users": {"a": {}}}}},
        {"auth": [None, {"type": "none"}], "connectionEndpoints": [None, {"type": "ws-binary"}]},
        {"connectionEndpoints": {"type": "ws-binary", "options": None}},
        {"record": {"storageExclusionPrefixes": None}},
        {"storage": {"name": "sqlite", "options": {"path": "x"}}},
        {"cache": {"path": "x.py", "type": "whatever"}},
        {"logger": {"name": "pino", "options": {"base": 1}}},
        {"httpServer": {"type": "uws", "options": {"port": 1, "origins": ["http://a"]}}},
        {"plugins": {"a": {"name": "b", "options": {"x": 1}}, "c": None}},
        {"connectionEndpoints": [{"options": {"unauthenticatedClientTimeout": False}}]},
    ],
)
def test_what_fits_both(fits):
    load(fits)
    assert [error.message for error in VALIDATOR.iter_errors(fits)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"foo": 1},
        {"logLevel": "loud"},
        {"rpc": {"ackTimeout": "soon"}},
        {"rpc": {"ackTimeout": 2**31}},
        {"rpc": None},
        {"auth": [{}]},
        {"auth": {"type": "fil"}},
        {"connectionEndpoints": []},
        {"storage": {"type": "none", "options": {"path": "x"}}},
        {"storage": {"name": "none", "options": {"path": "x"}}},
        {"cache": {"name": ""}},
        {"cache": {"path": "x.py", "foo": 1}},
        {"httpServer": {"options": {"port": 70_000}}},
        {"plugins": {"a": {"options": {}}}},
        {"monitoring": [{"type": "http"}]},
        {"record": {"storageExclusionPrefixes": [1]}},
    ],
)
def test_what_fits_neither(wrong):
    with pytest.raises(ConfigError):
        load(wrong)
    assert not accepts(wrong)


@pytest.mark.parametrize("value", ["${PORT}", "fileLoad(port.json)"])
def test_an_editor_takes_macros_for_values(value):
    assert accepts({"httpServer": {"options": {"port": value}}})
    assert accepts({"rpc": value})


# The sample file


def uncommented(text):
    return re.sub(r"^#(?=[^# \n]|  )", "", text, flags=re.MULTILINE)


def test_the_sample_file_is_a_configuration_as_it_is():
    assert parse_yaml(sample()).value is None
    assert max(map(len, sample().splitlines())) <= 110


def test_the_sample_file_shows_the_defaults(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(uncommented(sample()))
    config = load_from(path, environ={})
    assert {**effective(config, mask=False), "serverName": "x"} == defaults()
    assert config.warnings == []
    shown = parse_yaml(uncommented(sample())).value
    assert {"rpc", "record", "listen", "httpServer", "connectionEndpoints", "storage", "auth"} <= set(shown)
    assert set(shown["rpc"]) == set(Config().rpc)


def test_values_of_the_sample_file_can_be_in_force():
    active = {
        "serverName": "UUID",
        "logLevel": "info",
        "httpServer": {"options": {"port": 6021}},
        "auth": [{"type": "file", "options": {"users": "fileLoad(users.yml)", "hash": "argon2id"}}],
        "record": {"storageExclusionPrefixes": ["a: b", "true", "#c", ""]},
    }
    value = parse_yaml(sample(active)).value
    assert value.pop("httpServer") == {"type": "default", "options": {"port": 6021}}
    del active["httpServer"]
    assert value == active


# The effective values


def test_secrets_are_masked():
    given = {
        "auth": [
            {"type": "jwt", "options": {"algorithms": ["HS256"], "secret": "s1" * 32}},
            {
                "type": "file",
                "options": {"users": {"anna": {"password": "s2", "clientData": {"token": "s3"}}}},
            },
        ],
        "cache": {"path": "x.py", "options": {"url": "redis://user:s4@host/0", "PASSWORD": "s5", "port": 1}},
        "plugins": {"a": {"name": "b", "options": {"list": [{"token": "s6"}], "accessKey": "s7", "ttl": 5}}},
    }
    config = load(given)
    shown = json.dumps(effective(config))
    assert re.findall(r"s\d", shown) == []
    assert shown.count(MASK) == 7
    options = effective(config)["cache"]["options"]
    assert options == {"url": f"redis://user:{MASK}@host/0", "PASSWORD": MASK, "port": 1}
    plain = json.dumps(effective(config, mask=False))
    assert set(re.findall(r"s\d", plain)) == {f"s{n}" for n in range(1, 8)}


def test_effective_values_are_plain_data():
    class Mine:
        pass

    shown = effective(load({"cache": {"class": Mine}, "logLevel": "warn"}))
    assert shown["cache"] == {"class": f"{__name__}:{Mine.__qualname__}", "options": {}}
    assert shown["logLevel"] == "warn"
    json.dumps(shown)


# Random texts and values

RANDOM = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ALL_KEYS = sorted({name for section in all_sections() for name in section.__struct_encode_fields__})

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["fileLoad(x.yml)", "file(x)", "none", "default", "ws-binary", "mqtt", "http", "info"]),
)
keys = st.sampled_from(ALL_KEYS) | st.text(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


@RANDOM
@given(st.text())
def test_any_text_is_a_document_or_a_problem(text):
    for parse in (parse_yaml, parse_json):
        try:
            document = parse(text)
        except SyntaxProblem as problem:
            assert str(problem)
            assert problem.line >= 0
        else:
            assert all(line >= 1 for line in document.lines.values())


@RANDOM
@given(st.text(alphabet="abx: \n-[]{},&*<?|>!'\"#%@~01.\t\r\\", max_size=60))
def test_any_text_of_the_characters_of_yaml_is_a_document_or_a_problem(text):
    test_any_text_is_a_document_or_a_problem.hypothesis.inner_test(text)


@RANDOM
@given(st.one_of(st.text(), st.binary()), st.sampled_from(["yml", "json"]))
def test_any_file_is_a_configuration_or_an_error(tmp_path, content, extension):
    path = tmp_path / f"config.{extension}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        load_from(path, environ={"DSFAST_RPC": "{}"})
    except ConfigError as error:
        assert str(error)


@RANDOM
@given(values)
def test_any_value_is_a_configuration_or_an_error(given_values):
    try:
        config = load(given_values)
    except ConfigError as error:
        assert error.problems
    else:
        effective(config)


def places(value, at=()):
    """Where something can be put into a value, as keys that lead there."""
    found = [at] if at else []
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += places(value[key], (*at, key))
    return found


WHOLE = {
    **defaults(),
    "auth": [
        {"type": "file", "options": {"users": {}}},
        {"type": "jwt", "options": {"algorithms": ["HS256"]}},
    ],
    "plugins": {"a": {"name": "b", "options": {"x": 1}}},
    "logger": {"type": "json", "options": {"redact": []}},
}
# What depends on more than the value itself, or is refused for now, is not in the JSON Schema.
BEYOND_SCHEMA = re.compile(r"yet|must match format|SSL|a key and cert|^No |already|no origins|headerKey")


@RANDOM
@given(st.sampled_from(places(WHOLE)), values)
def test_the_json_schema_accepts_what_the_loader_accepts(place, value):
    changed = json.loads(json.dumps(WHOLE))
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    if "class" in str(value) or "file" in str(value):
        return
    try:
        load(changed)
    except ConfigError as error:
        if not any(BEYOND_SCHEMA.search(problem.text) for problem in error.problems):
            assert not accepts(changed), str(error)
    else:
        assert [error.message for error in VALIDATOR.iter_errors(changed)] == []


@RANDOM
@given(values)
def test_yaml_and_json_read_what_json_writes(value):
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        return
    assert parse_json(text).value == value
    assert set(parse_json(text).lines) == pointers(value)


def pointers(value, at=""):
    found = {at}
    if isinstance(value, dict):
        for key, item in value.items():
            found |= pointers(item, f"{at}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found |= pointers(item, f"{at}/{index}")
    return found


PARTS = ["RPC", "AUTH", "0", "OPTIONS", "TYPE", "PLUGINS", "A", ""]
names = st.builds("__".join, st.lists(st.sampled_from(PARTS), min_size=1))


@RANDOM
@given(st.dictionaries(names, st.text(max_size=12)), values)
def test_any_variables_give_a_configuration_or_an_error(tmp_path, variables, given_values):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(given_values))
    environ = {f"DSFAST_{name}": text for name, text in variables.items()}
    try:
        load_from(path, environ=environ)
    except ConfigError as error:
        assert str(error)


def test_sections_read_as_mappings():
    assert all(issubclass(section, Section) for section in all_sections())
    assert members_of(int) == (int,)
    assert PluginSection in all_sections()
