"""Where all paths are plain the core finds a rule without regular expressions: the same one as with them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfast._core.protocol import EventAction, Topic
from dsfast._core.valve_gate import RuleTable
from dsfast.services.permission.rules import RuleSet
from tests.valve_kit import permissions

PIECES = ["a", "b", "ab", "/", "/", "$x", "$y", "$x", "ü", "-", "😀"]
ODD = [".", "(a|b)", "[ab]", "a+", "*", "\\.", "a?"]
plain = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
paths = st.one_of(
    plain,
    plain.map(lambda text: text + "*"),
    st.lists(st.sampled_from(PIECES + ODD), min_size=1, max_size=5).map("".join),
).filter(lambda text: not text.startswith("/"))
names = st.one_of(
    st.lists(
        st.sampled_from(["a", "b", "ab", "/", "/", "ü", "-", "😀", "x", "\n", "\u2028", "."]), max_size=6
    ).map("".join),
    st.text(max_size=5),
)


def found(rules: RuleSet, name: str) -> tuple[str, tuple[bytes, ...]] | None:
    """Rule and values of its variables, as the rule set says."""
    hit = rules.find("event", "publish", name)
    if hit is None:
        return None
    return hit[0].source, tuple(value.encode("utf-8", "surrogatepass") for value in hit[1])


def bound(table: RuleTable, name: str) -> tuple[str, tuple[bytes, ...]] | None:
    """The same, as the core says."""
    binding = table.bind(Topic.EVENT, EventAction.EMIT, name)
    return None if binding is None else (binding.rule.source, binding.values)


def rule_set(*texts: str, root: bool = True) -> RuleSet:
    """Each path with a rule of its own, which tells it, and with all its variables."""
    rules: dict[str, Any] = {
        f"event.publish {text}": f"user.id !== 'path {number}'" for number, text in enumerate(texts)
    }
    content = permissions(rules)
    if not root and "*" not in texts:
        del content["event"]["*"]["publish"]
    return RuleSet.load(content)


@settings(max_examples=1000, deadline=None)
@given(texts=st.lists(paths, max_size=5, unique=True), name=names, root=st.booleans())
def test_the_core_finds_the_rule_that_the_rule_set_finds(texts: list[str], name: str, root: bool) -> None:
    rules = rule_set(*texts, root=root)
    table = RuleTable(rules)
    assert bound(table, name) == found(rules, name)
    assert bound(table, name) == found(rules, name)  # what it has remembered


@pytest.mark.parametrize(
    ("path", "name", "values"),
    [
        ("a/$x", "a/1", [b"1"]),
        ("a/$x", "a/", None),
        ("a/$x", "a/1/2", None),
        ("a/$x", "a/\n", [b"\n"]),
        ("$x/$y", "a/b", [b"a", b"b"]),
        ("$x/b/$y", "a/b/c", [b"a", b"c"]),
        ("$x/$x", "a/b", [b"b"]),
        ("$x$y", "ab", [b"a", b"b"]),
        ("$x-$y", "a-b-c", [b"a-b", b"c"]),
        ("$x*", "a/b", [b"a"]),
        ("a/*", "a/", []),
        ("a/*", "a/b/c", []),
        ("a/*", "a/b\n", None),
        ("a/$x/*", "a/b/", [b"b"]),
        ("a/$x/*", "a/b", None),
        ("*", "", []),
        ("ü/$x", "ü/😀", ["😀".encode()]),
        ("a.c", "abc", []),
        ("a", "a", []),
        ("a", "b", None),
    ],
)
def test_paths_and_names(path: str, name: str, values: list[bytes] | None) -> None:
    binding = RuleTable(rule_set(path, root=False)).bind(Topic.EVENT, EventAction.EMIT, name)
    assert (None if binding is None else list(binding.values)) == values
