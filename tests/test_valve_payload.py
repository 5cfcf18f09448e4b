"""Of a payload only the members are read that a rule names; the rule must not be able to tell."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfast._core.json_text import loads
from dsfast._core.valve_gate import payload

RULE = "data.a === data.b || data?.long.x && data.größe > data.length"
NAMES = {"a", "b", "long", "größe", "length"}

space = st.text(" \t\r\n", max_size=2)
keys = st.one_of(
    st.sampled_from([*sorted(NAMES), "", "aa", "A", "x", "__proto__", 'a"', "a\\"]), st.text(max_size=3)
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3))
)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON objects, with members that come twice, spaces, and escapes in keys and values."""
    members = draw(st.lists(st.tuples(keys, values), max_size=6))
    parts = [
        draw(space)
        + json.dumps(key, ensure_ascii=draw(st.booleans()))
        + draw(space)
        + ":"
        + draw(space)
        + json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        + draw(space)
        for key, value in members
    ]
    text = draw(space) + "{" + ",".join(parts) + draw(space) + "}" + draw(space)
    return text.encode("utf-8", "surrogatepass")


@settings(max_examples=1000, deadline=None)
@given(text=texts())
def test_the_members_that_a_rule_names_are_those_of_the_whole_payload(text: bytes) -> None:
    try:
        whole = loads(text)
    except ValueError:
        with pytest.raises(ValueError, match="JSON"):
            payload(text, RULE)
        return
    read = payload(text, RULE)
    assert {name: read[name] for name in NAMES & read.keys()} == {
        name: whole[name] for name in NAMES & whole.keys()
    }
    assert [type(read[name]) for name in sorted(NAMES & read.keys())] == [
        type(whole[name]) for name in sorted(NAMES & whole.keys())
    ]


@pytest.mark.parametrize(
    "text", [b"1", b'"a"', b"null", b"[1,2]", b"[]", b" true ", b'[{"a":1}]', b"{}", b" { } "]
)
def test_what_is_no_object_or_empty_is_read_whole(text: bytes) -> None:
    assert payload(text, RULE) == loads(text)


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("data.a", ["a"]),
        ("data.a.b.c === data.x", ["a", "x"]),
        ("(data.a)", ["a"]),
        ("data?.a", ["a"]),
        ("user.data.b && data.a", ["a"]),
        ("_('r').data.b && data.a", ["a"]),
        ("`${data.a}`", ["a"]),
        ("data.a.includes(data.b)", ["a", "b"]),
        ("data.a && data", None),
        ("data['a']", None),
        ("data[data.a]", None),
        ("'a' in data && data.a", None),
        ("typeof data === 'object' && data.a", None),
        ("data.includes('a') || data.a", None),
        ("_(data) && data.a", None),
        ("[data].length && data.a", None),
        ("({ x: data }).x.b || data.a", None),
        ("data === undefined || data.a", None),
        ("(data || 0).a", None),
        ("data ? data.a : data.b", None),
    ],
)
def test_a_rule_that_does_more_with_its_data_gets_all_of_it(source: str, read: list[str] | None) -> None:
    text: dict[str, Any] = {"a": 1, "b": 2, "x": 3}
    wanted = text if read is None else {name: text[name] for name in read}
    assert payload(json.dumps(text).encode(), source) == wanted
