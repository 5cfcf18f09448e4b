"""Topic filters of MQTT (MQTT 3.1.1 section 4.7), against one that compares single filters and topics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfast._core.topic_filters import FilterTree, is_topic, kind_of

EXACT, WILD = 1, 2


def matches(filter_levels: list[bytes], topic_levels: list[bytes]) -> bool:
    """Level by level, as the standard tells it."""
    if topic_levels[0].startswith(b"$") and filter_levels[0] in (b"+", b"#"):
        return False
    for i, level in enumerate(filter_levels):
        if level == b"#":
            return True
        if i == len(topic_levels) or level not in (b"+", topic_levels[i]):
            return False
    return len(filter_levels) == len(topic_levels)


@pytest.mark.parametrize(
    ("text", "topic", "expected"),
    [
        ("sport/#", "sport", True),
        ("sport/#", "sport/tennis/player1", True),
        ("sport/tennis/#", "sport/football", False),
        ("#", "a", True),
        ("#", "/a", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$data/+", "$data/x", True),
        ("+", "finance", True),
        ("+", "/finance", False),
        ("/+", "/finance", True),
        ("+/+", "/finance", True),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("sport/+/player1", "sport/tennis/player1", True),
        ("a/+/#", "a", False),
        ("a/+/#", "a/b", True),
    ],
)
def test_the_examples_of_the_standard(text: str, topic: str, expected: bool) -> None:
    tree = FilterTree()
    tree.add(text.encode(), "holder", 1)
    assert tree.match(topic.encode()) == ({"holder": 1} if expected else {})
    assert matches(text.encode().split(b"/"), topic.encode().split(b"/")) is expected


@pytest.mark.parametrize(
    "text", ["", "#/a", "a/#/b", "a#", "a+", "+a/b", "a/b#", "##", "++", "a\0", "\ud800"]
)
def test_what_is_no_filter(text: str) -> None:
    assert kind_of(text.encode("utf-8", "surrogatepass")) == 0


def test_kinds_of_filters_and_topics() -> None:
    assert [kind_of(text) for text in (b"a", b"/", b"a//b", "é".encode())] == [EXACT] * 4
    assert [kind_of(text) for text in (b"#", b"+", b"+/+", b"/#", b"a/+/b/#")] == [WILD] * 5
    assert [is_topic(text) for text in (b"", b"a+", b"#", b"\xff", b"a\0", b"x" * 65536)] == [False] * 6
    assert is_topic(b"x" * 65535)


LEVELS = st.lists(st.sampled_from([b"", b"a", b"b", b"$x"]), min_size=1, max_size=4)
FILTERS = st.builds(
    lambda levels, end: levels + end,
    st.lists(st.sampled_from([b"", b"a", b"b", b"+", b"$x"]), min_size=1, max_size=4),
    st.sampled_from([[], [b"#"]]),
)


@given(
    st.lists(st.tuples(FILTERS, st.integers(0, 3), st.integers(0, 1)), max_size=12),
    st.lists(st.tuples(FILTERS, st.integers(0, 3)), max_size=6),
    st.lists(LEVELS, min_size=1, max_size=5),
)
def test_a_tree_finds_what_single_comparisons_find(added, removed, topics) -> None:
    tree, model = FilterTree(), {}
    for levels, holder, value in added:
        tree.add(b"/".join(levels), holder, value)
        model[tuple(levels), holder] = value
    for levels, holder in removed:
        assert tree.remove(b"/".join(levels), holder) is (
            model.pop((tuple(levels), holder), None) is not None
        )
    assert tree.count == len(model)
    for topic in topics:
        expected: dict[int, int] = {}
        for (levels, holder), value in model.items():
            if matches(list(levels), topic):
                expected[holder] = max(value, expected.get(holder, 0))
        assert tree.match(b"/".join(topic)) == expected
    for levels, holder in list(model):
        assert tree.remove(b"/".join(levels), holder)
    assert tree.count == 0
    assert tree.match(b"/".join(topics[0])) == {}


def test_deep_topics_do_no_harm() -> None:
    tree = FilterTree()
    tree.add(b"/".join([b"+"] * 30_000), 1, 0)
    tree.add(b"#", 2, 0)
    assert tree.match(b"/" * 29_999) == {1: 0, 2: 0}
    assert tree.match(b"/" * 65_534) == {2: 0}
