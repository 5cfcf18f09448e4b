"""Permission files: validation with the texts of deepstream.io, paths, specificity, lines, warnings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st

from dsfast._core.valve import RuleError
from dsfast.services.permission.rules import (
    SECTIONS,
    RuleFileError,
    RuleSet,
    default_permissions,
    read_rules,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "valve-rules.json").read_text())

# Upstream compiles JavaScript statements; dsfast takes expressions and refuses these.
NO_EXPRESSIONS = {
    "return true",
    "true; false",
    "data.x = 5",
    "$new = 1",
    "data.x++",
    '(user.constructor.constructor)("return 1")()',
}


def permissions(**sections):
    """A permission file in which only the given sections forbid something."""
    return {**default_permissions(), **sections}


def error_of(given, **extra):
    with pytest.raises(RuleFileError) as caught:
        RuleSet.load(given, **extra)
    return caught.value


def undefined_as_none(value):
    return None if value == {"$undefined": True} else value


@pytest.mark.parametrize("vector", VECTORS["ruleValidation"], ids=lambda vector: ascii(vector["rule"]))
def test_rules_are_validated_with_the_texts_of_deepstream(vector):
    given = permissions(**{vector["section"]: {"*": {}, "a/$owner/$u": {vector["type"]: vector["rule"]}}})
    expected = vector["expect"]
    if vector["rule"] in NO_EXPRESSIONS:
        assert expected == "valid"
        assert str(error_of(given)).startswith("SyntaxError: ")
    elif expected == "valid":
        RuleSet.load(given)
    elif expected.startswith("SyntaxError"):
        assert str(error_of(given)).startswith("SyntaxError: ")
    else:
        error = error_of(given)
        assert str(error) == expected
        assert (error.section, error.path, error.rule_type) == (
            vector["section"],
            "a/$owner/$u",
            vector["type"],
        )


@pytest.mark.parametrize("vector", VECTORS["permissionFileValidation"], ids=lambda vector: vector["note"])
def test_files_are_validated_with_the_texts_of_deepstream(vector):
    given = undefined_as_none(vector["permissions"])
    if vector["expect"] == "valid":
        RuleSet.load(given)
    else:
        assert str(error_of(given)) == vector["expect"]


@pytest.mark.parametrize(
    "vector", VECTORS["paths"], ids=lambda vector: ascii((vector["path"], vector.get("name")))
)
def test_paths_match_and_bind_as_in_deepstream(vector):
    given = permissions(event={"*": {}, vector["path"]: {"publish": "true"}})
    if "invalid" in vector:
        expected = f"{vector['invalid']} for path {vector['path']} in section event"
        if vector["invalid"].startswith("SyntaxError"):
            expected = f"invalid path {vector['path']} in section event"
        assert str(error_of(given)) == expected
        return
    found = RuleSet.load(given).find("event", "publish", vector["name"])
    assert (found is not None) == vector["match"]
    if found is not None:
        rule, values = found
        assert dict(zip(rule.variables, values, strict=True)) == {
            name[1:]: value for name, value in vector["variables"].items()
        }


@pytest.mark.parametrize(
    ("paths", "name", "expected"),
    [
        (["*", "a/*"], "a/b", "a/*"),
        (["ab/*", "$x/cd", "*"], "ab/cd", "$x/cd"),
        (["*", "a/*b", "a/b*"], "a/bb", "a/b*"),
        (["*", "a/b*", "a/*b"], "a/bb", "a/*b"),
        (["*", "a/$veryLongName", "a/exact"], "a/exact", "a/$veryLongName"),
        (["*", "a.c"], "abc", "a.c"),
        (["*", "user/.*"], "user/", "*"),
        (["*", "user/$id"], "user/a/b", "*"),
        (["*"], "a\nb", None),
        (["*", "20", "1.", "10"], "10", "1."),  # keys that look like indices come first
        (["*", "aa|bb/xxx"], "aa", "aa|bb/xxx"),
        (["*", "aa|bb/xxx"], "aaa", "*"),
        (["*", "😀*", "$ab"], "😀b", "$ab"),  # two code units and a star; equally long, so the last
    ],
)
def test_the_longest_path_text_wins_and_of_equal_ones_the_last(paths, name, expected):
    given = {path: {"read": f"'{path}'", "write": True} for path in paths}
    given["a/only"] = {"write": False}
    found = RuleSet.load(permissions(record=given)).find("record", "read", name)
    assert (found and found[0].source) == (expected and f"'{expected}'")


def test_a_path_without_the_rule_type_does_not_count():
    rules = RuleSet.load(permissions(record={"*": {"read": False}, "open/*": {"write": True}}))
    assert rules.find("record", "read", "open/x")[0].constant == 0
    assert rules.find("record", "write", "open/x")[0].constant == 1
    assert rules.find("record", "write", "other") is None


def test_groups_in_a_path_do_not_shift_its_variables():
    rules = RuleSet.load(permissions(record={"*": {}, "(a|b)/$id/(x)?$part": {"read": "$id === 'q'"}}))
    rule, values = rules.find("record", "read", "a/q/xyz")
    assert dict(zip(rule.variables, values, strict=True)) == {"id": "q", "part": "yz"}
    rules = RuleSet.load(permissions(record={"*": {}, "a(/$id)?": {"read": "$id === 'q'"}}))
    assert rules.find("record", "read", "a")[1] == ("",)


def test_names_are_matched_by_utf_16_units():
    rules = RuleSet.load(permissions(record={"*": {}, "x/..": {"read": True}, "é/$n": {"read": True}}))
    assert rules.find("record", "read", "x/😀") is not None
    assert rules.find("record", "read", "x/é") is None
    assert rules.find("record", "read", "é/😀ß")[1] == ("😀ß",)


def test_rules_lists_everything_in_file_order():
    rules = RuleSet.load(default_permissions())
    assert [(section, rule_type) for section, path, rule_type, _ in rules.rules() if path == "*"] == [
        (section, rule_type) for section, types in SECTIONS.items() for rule_type in types
    ]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({**default_permissions(), "record": None}, 'missing configuration section "record"'),
        ({**default_permissions(), "rpc": [1]}, "missing root entry \"*\" for section rpc"),
        (permissions(record={"*": {}, "x": False}), "rules of path x in section record must be an object"),
        (permissions(record={"*": {}, "a[$x]": {}}), "invalid path a[$x] in section record"),
        (permissions(record={"*": {}, 1.5: {}}), "path must be a string for path 1.5 in section record"),
        (permissions(record={"*": {}, "a(": {}, "b": {"read": "x("}}), "function x is not supported"),
        (permissions(record={"*": {"read": "true" + " " * 10_001}}), "SyntaxError: "),
    ],
)  # fmt: skip
def test_what_deepstream_overlooks_or_dies_of_is_an_error(given, text):
    assert str(error_of(given)).startswith(text)


def test_an_empty_entry_and_keys_that_are_numbers_are_accepted():
    rules = RuleSet.load(permissions(record={"*": {"read": True}, "x": None, 77: {"read": False}}))
    assert rules.find("record", "read", "x")[0].constant == 1
    assert rules.find("record", "read", "77")[0].constant == 0


FILE = """\
record:
  "*":
    read: true
  a/$id:

    # comment
    write: data.n > {rule}
event: {{"*": {{publish: true}}}}
rpc:
  "*": {{}}
presence:
  "*":
    allow: true
"""


@pytest.mark.parametrize("name", ["permissions.yml", "permissions.json"])
def test_errors_name_the_line_of_the_file(tmp_path, name):
    file = tmp_path / name
    if name.endswith("yml"):
        file.write_text(FILE.format(rule="oldData.n"))
        assert read_rules(file).find("record", "write", "a/1") is not None
        file.write_text(FILE.format(rule="("))
    else:
        given = permissions(record={"*": {"read": True}, "a/$id": {"write": "("}})
        file.write_text(json.dumps(given, indent=1))
    with pytest.raises(RuleFileError, match=r"^SyntaxError: ") as caught:
        read_rules(file)
    assert caught.value.line == 7
    assert caught.value.place == f"{file}, line 7"
    assert (caught.value.section, caught.value.path, caught.value.rule_type) == ("record", "a/$id", "write")


@pytest.mark.parametrize(
    ("text", "line"),
    [("\nrecord:\n  x: 1\n", 2), ("\n\nrecord: {}\nevent: {}\nrpc: {}\npresence: {}\nmore: 1\n", 7),
     ("event: {}\nrpc: {}\npresence: {}\nrecord:\n  '*': {}\n  /a: {}\n", 6)],
)  # fmt: skip
def test_errors_of_the_structure_name_the_line(tmp_path, text, line):
    file = tmp_path / "permissions.yml"
    file.write_text(text)
    with pytest.raises(RuleFileError) as caught:
        read_rules(file)
    assert caught.value.line == line


def test_rules_that_need_the_backtracking_engine_are_named():
    rules = RuleSet.load(
        permissions(
            record={"*": {"read": "/^a+$/ && name.match(/^(?!x)/)"}, "(?=a)*": {"write": True}},
            event={"*": {"publish": r"data.match(/(a)\1/) !== null"}},
        )
    )
    assert [text.partition(", so")[0] for text in rules.warnings] == [
        'record "*" read: /^(?!x)/ has look-around',
        'record "(?=a)*": the path has look-around',
        r'event "*" publish: /(a)\1/ has a back reference',
    ]
    assert rules.find("record", "write", "abc") is not None
    assert rules.find("record", "write", "bc") is None
    assert RuleSet.load(default_permissions()).warnings == []


def test_a_path_that_takes_too_long_is_an_error_not_a_match():
    rules = RuleSet.load(permissions(record={"*": {"read": True}, "(?=a)(a|aa)+": {"read": False}}))
    with pytest.raises(RuleError, match="took longer than 50 ms"):
        rules.find("record", "read", "a" * 5000 + "!")


def test_a_thousand_paths_are_matched_in_one_pass(monkeypatch):
    paths = {f"room/{number}/$part": {"read": f"{number}"} for number in range(1000)}
    rules = RuleSet.load(permissions(record={"*": {"read": True}, **paths}))
    asked = []
    monkeypatch.setattr("dsfast.regexp.Regexp.fullmatch", lambda self, name: asked.append(self.source))
    assert rules.find("record", "read", "room/77/x") is None
    assert len(asked) == 2
    monkeypatch.undo()
    assert rules.find("record", "read", "room/77/x")[0].source == "77"


def test_more_paths_than_fit_into_one_automaton_are_asked_one_by_one(monkeypatch):
    monkeypatch.setattr("dsfast.services.permission.rules.PATHS_MEMORY", 5000)
    paths = {f"room/{number}/$part": {"read": f"{number}"} for number in range(200)}
    rules = RuleSet.load(permissions(record={"*": {"read": True}, **paths}))
    assert rules.find("record", "read", "room/77/x")[0].source == "77"
    assert rules.find("record", "read", "room/x")[0].source == "true"


TEXTS = st.text(max_size=12) | st.text(alphabet="$*a/.|()[]?+\\\\{}1 =>!&'", max_size=12)
RULES = st.booleans() | TEXTS | st.none() | st.integers() | st.lists(TEXTS, max_size=2)
PATHS = st.dictionaries(
    TEXTS | st.just("*") | st.integers() | st.none(),
    st.dictionaries(st.sampled_from(["read", "write", "publish", "allow", "x", 3]), RULES, max_size=3)
    | RULES,
    max_size=3,
)
ANYTHING = st.recursive(
    RULES | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(), inner, max_size=3),
    max_leaves=10,
)


@any_of(ANYTHING | st.fixed_dictionaries(dict.fromkeys(SECTIONS, PATHS | ANYTHING)), TEXTS)
@settings(max_examples=300, deadline=None)
def test_whatever_the_file_contains_it_is_refused_with_an_error_or_answers(content, name):
    try:
        rules = RuleSet.load(content)
    except RuleFileError as error:
        assert str(error)
        return
    for section, types in SECTIONS.items():
        for rule_type in types:
            rules.find(section, rule_type, name)


@any_of(TEXTS, TEXTS)
@settings(max_examples=300, deadline=None)
def test_whatever_a_path_is_it_is_refused_or_matches_whole_names(path, name):
    try:
        rules = RuleSet.load(permissions(record={"*": {}, path: {"read": True}}))
    except RuleFileError as error:
        assert path in str(error)
        return
    found = rules.find("record", "read", name)
    if found is not None and path.isalnum():
        assert name == path
