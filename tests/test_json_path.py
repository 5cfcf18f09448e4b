"""Record paths: the recorded vectors, a slow model, atomicity and the limits."""

import copy
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfast._core.json_path import PathError, apply_multi, erase_value, parse_path, set_value

VECTORS = json.loads((Path(__file__).parent / "vectors" / "json-path.json").read_text())["vectors"]
UNDEFINED = {"$undefined": True}
JS_SPACE = " \t\n\v\f\r\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


def change(root, path, value):
    if value == UNDEFINED:
        erase_value(root, path)
    else:
        set_value(root, path, value)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["note"] for vector in VECTORS])
@pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])
def test_vectors(vector, multi):
    root = copy.deepcopy(vector["root"])
    value = copy.deepcopy(vector["value"])
    expect = vector["expect"]

    def run():
        if multi:
            apply_multi(root, [(vector["path"], value != UNDEFINED, value)])
        else:
            change(root, vector["path"], value)

    if "invalid" in expect:
        with pytest.raises(PathError):
            run()
        assert json.dumps(root) == json.dumps(vector["root"])
    else:
        run()
        assert root == expect["result"]


# A slow and simple model: it works on a copy, one rule of the specification after the other.


class Refused(Exception):
    pass


def model_tokens(path):
    tokens = []
    for raw in path.split("."):
        part = raw.strip(JS_SPACE)
        if not part:
            continue
        name, *rest = part.split("[")
        if not name or "]" in name or name in ("__proto__", "constructor", "prototype"):
            raise Refused(part)
        tokens.append(name)
        for piece in rest:
            if not piece.endswith("]"):
                raise Refused(part)
            digits = piece[:-1].strip(JS_SPACE)
            if not digits or any(c not in "0123456789" for c in digits) or int(digits) >= 10**15:
                raise Refused(part)
            tokens.append(int(digits))
    if not tokens:
        raise Refused(path)
    return tokens


def model_key(node, token):
    if isinstance(node, dict):
        return str(token)
    if isinstance(token, int):
        return token
    if token.isascii() and token.isdigit() and token == str(int(token)):
        return int(token)
    raise Refused(token)


def model_get(node, key):
    if isinstance(node, dict):
        return node.get(key)
    return node[key] if key < len(node) else None


def model_put(node, key, value, growth, length):
    """Stores and returns the number of holes."""
    if isinstance(node, dict):
        node[key] = value
        return 0
    holes = max(0, key - len(node))
    if key >= len(node) and (holes > growth or key >= length):
        raise Refused(key)
    node.extend([None] * (key + 1 - len(node)))
    node[key] = value
    return holes


def model_depth(value):
    if isinstance(value, dict):
        return 1 + max(map(model_depth, value.values()), default=0)
    return 1 + max(map(model_depth, value), default=0) if isinstance(value, list) else 0


def model_change(root, operation, growth=10_000, length=1_000_000):
    path, has_value, value = operation
    tokens = model_tokens(path)
    if not isinstance(root, dict | list):
        raise Refused(root)
    root = copy.deepcopy(root)
    node, holes = root, 0
    for token, following in itertools.pairwise(tokens):
        key = model_key(node, token)
        child = model_get(node, key)
        if not isinstance(child, dict | list):
            child = [] if isinstance(following, int) else {}
            holes += model_put(node, key, child, growth, length)
        node = child
    key = model_key(node, tokens[-1])
    if has_value:
        holes += model_put(node, key, copy.deepcopy(value), growth, length)
        if len(tokens) + model_depth(value) > 512:
            raise Refused(path)
    elif isinstance(node, dict):
        node.pop(key, None)
    elif key < len(node):
        node[key] = None
    elif key - len(node) > growth or key >= length:
        raise Refused(key)
    if holes > growth:
        raise Refused(path)
    return root, holes


def model_multi(root, operations, growth=10_000, length=1_000_000):
    total = 0
    for operation in operations:
        root, holes = model_change(root, operation, growth, length)
        total += holes
        if total > length:
            raise Refused(operation)
    return root


names = st.sampled_from(["a", "b", "c", "0", "1", "2", "01", "é", "a b", "length", "__proto__"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(names.filter("__proto__".__ne__), inner, max_size=4)
    ),
    max_leaves=20,
)
good_parts = st.builds(
    lambda name, indices, pad: pad + name + "".join(f"[{pad}{i}]" for i in indices) + pad,
    names,
    st.lists(st.integers(0, 5), max_size=2),
    st.sampled_from(["", "", "", " ", "\t", "\ufeff"]),
)
good_paths = st.lists(good_parts, min_size=1, max_size=4).map(".".join)
wild_paths = st.text(st.sampled_from("ab01.[]- \u00a0\x1c'x+"), max_size=10)
paths = st.one_of(good_paths, good_paths, good_paths, wild_paths)
operations = st.tuples(paths, st.booleans(), documents)


def outcome(call):
    try:
        return call()
    except (Refused, PathError):
        return "refused"


@given(wild_paths | good_paths)
def test_parsing_follows_the_model(path):
    assert outcome(lambda: list(parse_path(path))) == outcome(lambda: model_tokens(path))


@settings(max_examples=500)
@given(documents, operations)
def test_one_change_follows_the_model(root, operation):
    before = json.dumps(root)
    expected = outcome(lambda: model_change(root, operation)[0])
    path, has_value, value = operation
    changed = copy.deepcopy(root)
    call = (lambda: set_value(changed, path, value)) if has_value else (lambda: erase_value(changed, path))
    if outcome(call) == "refused":
        assert expected == "refused"
        assert json.dumps(changed) == before
    else:
        assert json.dumps(changed) == json.dumps(expected)


@settings(max_examples=500)
@given(documents, st.lists(operations, max_size=6))
def test_several_changes_follow_the_model_or_leave_no_trace(root, changes):
    before = json.dumps(root)
    expected = outcome(lambda: model_multi(root, changes))
    changed = copy.deepcopy(root)
    identity = id(changed)
    if outcome(lambda: apply_multi(changed, copy.deepcopy(changes))) == "refused":
        assert expected == "refused"
        assert json.dumps(changed) == before  # the order of the members too
    else:
        assert changed == expected
        assert id(changed) == identity
        json.dumps(changed)  # no mark of an unfinished erase is left


@given(
    documents, st.lists(st.tuples(good_paths, st.booleans(), documents), min_size=1, max_size=6), wild_paths
)
def test_a_late_failure_undoes_everything(root, changes, bad):
    before = json.dumps(root)
    with pytest.raises(PathError):
        apply_multi(root, [*changes, (bad + "[", True, 1)])
    assert json.dumps(root) == before


@settings(max_examples=200)
@given(documents, st.lists(operations, max_size=4), st.integers(0, 6), st.integers(1, 12))
def test_small_limits_follow_the_model(root, changes, growth, length):
    before = json.dumps(root)
    expected = outcome(lambda: model_multi(root, changes, growth, length))
    if outcome(lambda: apply_multi(root, copy.deepcopy(changes), growth, length)) == "refused":
        assert expected == "refused"
        assert json.dumps(root) == before
    else:
        assert root == expected


# Single rules that deserve a name.


@pytest.mark.parametrize("space", JS_SPACE)
def test_javascript_white_space_is_trimmed(space):
    assert parse_path(f"{space}a{space}.b[{space}1{space}]{space}") == ("a", "b", 1)


@pytest.mark.parametrize("other", "\x1c\x1d\x1e\x1f\x85\u200b\u180e")
def test_other_white_space_belongs_to_the_name(other):
    assert parse_path(f"{other}a") == (f"{other}a",)
    with pytest.raises(PathError):
        parse_path(f"a[{other}1]")


@pytest.mark.parametrize(
    "path", ["a.[0]", "[0].a", " [0]", "a[0] [1]", "a[[0]]", "a[0]]", "a[0]b[1]", "a[1 2]"]
)
def test_malformed_brackets(path):
    with pytest.raises(PathError):
        parse_path(path)


@pytest.mark.parametrize("digits", ["\u0661", "\u00b2", "1_0", "0x1", "1e1", "9" * 16, "9" * 10_000])
def test_indices_are_plain_ascii_numbers_below_2_to_the_53(digits):
    with pytest.raises(PathError):
        parse_path(f"a[{digits}]")


def test_leading_zeros_of_an_index_do_not_matter():
    assert parse_path("a[007]") == ("a", 7)
    assert parse_path("a[" + "0" * 10_000 + "]") == ("a", 0)


@pytest.mark.parametrize("name", ["\u0661", "\u00b2", "1" * 5000])
def test_a_member_name_that_is_no_ascii_number_does_not_address_an_element(name):
    root = {"a": [1, 2]}
    with pytest.raises(PathError):
        set_value(root, f"a.{name}", 1)
    assert root == {"a": [1, 2]}


def test_index_growth_is_limited():
    root = {"a": [1]}
    set_value(root, "a[10001]", 2)
    assert len(root["a"]) == 10_002
    with pytest.raises(PathError):
        set_value(root, "a[20003]", 2)
    with pytest.raises(PathError):
        erase_value(root, "a[20003]")
    assert len(root["a"]) == 10_002


def test_growth_counts_over_all_new_arrays_of_a_path():
    root = {}
    with pytest.raises(PathError):
        set_value(root, "a" + "[5001]" * 2, 1)
    set_value(root, "a" + "[5000]" * 2, 1)
    assert root["a"][5000][5000] == 1


def test_growth_counts_over_all_operations():
    root = {"x": 1}
    with pytest.raises(PathError):
        apply_multi(root, [(f"a{i}[10000]", True, 1) for i in range(101)])
    assert root == {"x": 1}
    apply_multi(root, [(f"a{i}[10000]", True, 1) for i in range(100)])
    assert len(root) == 101


def test_array_length_is_limited_but_existing_elements_can_be_changed():
    root = [0] * 1_000_001
    set_value(root, "1000000", 1)
    with pytest.raises(PathError):
        set_value(root, "1000001", 1)
    root = [0] * 999_999
    set_value(root, "999999", 1)
    with pytest.raises(PathError):
        set_value(root, "1000000", 1)
    assert len(root) == 1_000_000


def test_paths_and_values_cannot_nest_a_document_beyond_512_levels():
    def nested(depth):
        value = []
        for _ in range(depth - 1):
            value = [value]
        return value

    root = {}
    with pytest.raises(PathError):
        set_value(root, ".".join("a" * 513), 1)
    with pytest.raises(PathError):
        set_value(root, "a" + "[0]" * 511, [])
    with pytest.raises(PathError):
        set_value(root, "a.b", nested(511))
    assert root == {}
    set_value(root, ".".join("a" * 512), 1)
    set_value(root, "b.c", nested(510))
    set_value(root, "b.d", {"x": nested(509)})
    with pytest.raises(PathError):
        set_value(root, "b.d", {"x": nested(510)})


def test_a_value_set_earlier_in_the_same_message_can_be_changed_and_undone():
    root = {"keep": {"x": 1, "y": 2}}
    apply_multi(
        root,
        [("new", True, {"p": [1]}), ("new.p[2]", True, 3), ("keep.x", False, None), ("keep.x.z", True, 4)],
    )
    assert root == {"keep": {"x": {"z": 4}, "y": 2}, "new": {"p": [1, None, 3]}}
    before = json.dumps(root)
    with pytest.raises(PathError):
        apply_multi(
            root,
            [
                ("keep.x", False, None),
                ("keep.x.q[1]", True, 1),
                ("keep", False, None),
                ("keep", False, None),
                ("new.p[0]", False, None),
                ("new.p[5].x", False, None),
                ("new.p.length", True, 0),
            ],
        )
    assert json.dumps(root) == before


def test_the_path_cache_is_bounded_and_does_not_mix_paths():
    for i in range(10_000):
        assert parse_path(f"a.b{i}[{i}]") == ("a", f"b{i}", i)
    assert parse_path("a.b1[1]") is parse_path("a.b1[1]")
    long = "a" * 300
    assert parse_path(long) == (long,)
    assert parse_path(long) is not parse_path(long)


@pytest.mark.parametrize("root", [None, 5, "x", True, 1.5])
def test_a_record_that_is_no_container_cannot_be_patched(root):
    for call in (lambda: set_value(root, "a", 1), lambda: erase_value(root, "a")):
        with pytest.raises(PathError):
            call()
