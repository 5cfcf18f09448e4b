"""The JSON validator against the standard library's strict parser, and the record document codec."""

import json
import math
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsfast._core.json_text import JsonError, check, dumps, is_utf8, loads

OBJECT, ARRAY, STRING, NUMBER, TRUE, FALSE, NULL, HAS_FLOAT = 1, 2, 3, 4, 5, 6, 7, 16
MAX_DEPTH = 512
SURROGATES = range(0xD800, 0xE000)


def refuse(name):
    raise ValueError(name)


def reference(text):
    """What `check` must answer, by way of the standard library."""
    try:
        decoded = text.decode("utf-8", "strict")
        if decoded.startswith("\ufeff"):
            return -1
        seen = []
        value = json.loads(
            decoded,
            parse_constant=refuse,
            parse_float=lambda digits: seen.append(digits) or 0.5,
            parse_int=lambda digits: 0,
        )
    except (ValueError, RecursionError):
        return -1
    kinds = {dict: OBJECT, list: ARRAY, str: STRING, int: NUMBER, float: NUMBER, type(None): NULL}
    kind = TRUE if value is True else FALSE if value is False else kinds[type(value)]
    return kind | (HAS_FLOAT if seen else 0)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),  # lone surrogates included
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@st.composite
def json_texts(draw):
    value = draw(json_values)
    options = {
        "indent": draw(st.sampled_from([None, 1])),
        "separators": draw(st.sampled_from([(",", ":"), (" ,\t", " : "), None])),
        "ensure_ascii": draw(st.booleans()),
    }
    try:
        return json.dumps(value, **options).encode()
    except UnicodeEncodeError:
        return json.dumps(value, **options | {"ensure_ascii": True}).encode()


@st.composite
def mutated_texts(draw):
    text = bytearray(draw(json_texts()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        kind = draw(st.sampled_from(["byte", "insert", "delete", "cut", "repeat"]))
        token = draw(
            st.sampled_from([b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"0", b"-", b".", b"e"])
        )
        if kind == "byte" and at < len(text):
            text[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            text[at:at] = token
        elif kind == "delete":
            del text[at : at + draw(st.integers(1, 3))]
        elif kind == "cut":
            del text[at:]
        else:
            text[at:at] = text[: draw(st.integers(0, 8))]
    return bytes(text)


@given(json_texts())
def test_every_json_text_is_accepted(text):
    assert check(text) == reference(text) > 0


@settings(max_examples=400)
@given(mutated_texts())
def test_mutated_texts_are_judged_like_the_standard_library_does(text):
    assert check(text) == reference(text)


@given(st.binary(max_size=60))
@example(b"")
@example(b"\xef\xbb\xbf{}")
def test_random_bytes_are_judged_like_the_standard_library_does(text):
    assert check(text) == reference(text)


@settings(max_examples=400)
@given(st.text(st.sampled_from('{}[],:"\\ \n\t0123456789-+.eEtrufalsn/bx\x00\x1f\x7fé漢😀'), max_size=24))
def test_texts_of_json_characters_are_judged_like_the_standard_library_does(text):
    assert check(text.encode()) == reference(text.encode())


@given(json_texts())
def test_no_truncation_of_a_container_or_string_passes(text):
    text = text.strip()
    for end in range(len(text)):
        assert check(text[:end]) == reference(text[:end])


@pytest.mark.parametrize("pad", range(40))
@pytest.mark.parametrize(
    "bad", [b"\x00", b"\x1f", b'"x', b"\\x", b"\\u12G4", b"\x80", b"\xff", b"\xc3", b"\xed\xa0\x80"]
)
def test_a_bad_byte_is_found_at_every_offset_of_a_string(pad, bad):
    """The 16-byte, 8-byte and single-byte loops hand over at every place."""
    for tail in (0, 1, 7, 8, 15, 16, 33):
        assert check(b'"' + b"a" * pad + bad + b"b" * tail + b'"') == -1
        assert check(b'"' + b"a" * pad + b"b" * tail + b'"') == STRING


NUMBERS = [
    "0",
    "-0",
    "1",
    "10",
    "-1",
    "0.5",
    "-0.0",
    "1e5",
    "1E+5",
    "1e-5",
    "0e0",
    "1.5e3",
    "123456789012345678901234567890",
]
NOT_NUMBERS = [
    "",
    "-",
    "+1",
    "01",
    "-01",
    ".5",
    "1.",
    "1.e5",
    "1e",
    "1e+",
    "0x1",
    "1_0",
    "\u0661",
    "NaN",
    "Infinity",
    "-Infinity",
]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers(number):
    expected = NUMBER | (HAS_FLOAT if any(c in number for c in ".eE") else 0)
    assert check(number.encode()) == expected
    assert check(f" {number}\n".encode()) == expected
    assert check(f"[{number}]".encode()) == ARRAY | expected & HAS_FLOAT


@pytest.mark.parametrize("number", NOT_NUMBERS)
def test_what_looks_like_a_number_but_is_none(number):
    assert check(number.encode()) == -1
    assert check(f'{{"a":{number}}}'.encode()) == -1


def test_the_float_flag_comes_from_any_depth_and_not_from_strings():
    assert check(b'{"a":[{"b":1e2}]}') == OBJECT | HAS_FLOAT
    assert check(b'{"1.5":"1.5e3"}') == OBJECT


@pytest.mark.parametrize("pair", ["[]", "{}", "[}", "{]"])
def test_depth_limit(pair):
    def nested(depth):
        opening = {"[": "[", "{": '{"a":'}
        inner = pair if pair in ("[]", "{}") else "[]"
        text = "".join(opening[pair[0]] for _ in range(depth - 1)) + inner
        return (text + {"[": "]", "{": "}"}[pair[0]] * (depth - 1)).encode()

    assert check(nested(MAX_DEPTH)) > 0
    assert check(nested(MAX_DEPTH + 1)) == -1
    assert check(b"[" * 1_000_000) == -1


def test_mixed_containers_close_in_order_over_all_words_of_the_bit_stack():
    for depth in (1, 63, 64, 65, 127, 128, 300, 511, 512):
        opened = ["[" if (i * 7919) % 3 else '{"k":' for i in range(depth - 1)]
        closed = ["]" if part == "[" else "}" for part in reversed(opened)]
        good = "".join(opened) + "[]" + "".join(closed)
        assert check(good.encode()) > 0
        for wrong in range(0, len(closed), max(1, len(closed) // 50)):
            bad = list(closed)
            bad[wrong] = "}" if bad[wrong] == "]" else "]"
            assert check(("".join(opened) + "[]" + "".join(bad)).encode()) == -1


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_utf8_like_the_standard_library(data):
    try:
        data.decode("utf-8", "strict")
    except UnicodeDecodeError:
        assert not is_utf8(data)
        assert check(b'"' + data + b'"') == -1
    else:
        assert is_utf8(data)


def test_every_two_and_three_byte_prefix_of_utf8():
    """Exhaustive over the lead byte, the second byte and the edges of the others."""
    edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF]
    for lead in range(0x80, 0x100):
        for second in range(0x100):
            for tail in ([], [0x80], [0xBF], [0x80, 0x80], [0xBF, 0xBF], *[[edge, 0x80] for edge in edges]):
                data = bytes([lead, second, *tail])
                try:
                    data.decode("utf-8", "strict")
                    expected = True
                except UnicodeDecodeError:
                    expected = False
                assert is_utf8(data) is expected, data


@given(json_values)
def test_documents_come_back_as_javascript_would_see_them(value):
    def as_read(node):
        if isinstance(node, dict):
            return {key: as_read(item) for key, item in node.items()}
        if isinstance(node, list):
            return [as_read(item) for item in node]
        if isinstance(node, int) and not isinstance(node, bool) and not -(2**63) <= node < 2**64:
            return float(node)
        if isinstance(node, float) and node.is_integer() and abs(node) < 2**53:
            return int(node)
        return node

    def types(node):
        if isinstance(node, dict):
            return {key: types(item) for key, item in node.items()}
        return [types(item) for item in node] if isinstance(node, list) else type(node)

    read = loads(json.dumps(value).encode())
    assert read == as_read(value)
    assert types(read) == types(as_read(value))
    written = dumps(read)
    assert check(written) > 0
    assert loads(written) == read
    assert json.dumps(loads(written)) == json.dumps(read)  # the order of the keys too


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"1.0", 1),
        (b"-0.0", 0),
        (b"1e3", 1000),
        (b"9007199254740991.0", 2**53 - 1),
        (b"0.1", 0.1),
        (b'{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
        (b'{"__proto__":{"a":[1.0,[2.0]]}}', {"__proto__": {"a": [1, [2]]}}),
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1e400", None),
        (b'["\\ud800",1e400,-1e400,1.0]', ["\ud800", None, None, 1]),
        (b'["\\ud800",18446744073709551615,18446744073709551616]', ["\ud800", 2**64 - 1, 2.0**64]),
        (b"1" * 400, None),
        (b"1" * 5000, None),
    ],
)
def test_loads(text, value):
    read = loads(text)
    assert read == value
    assert repr(read) == repr(value)


def test_large_integral_floats_stay_floats():
    for text, value in (
        (b"9007199254740992.0", 2.0**53),
        (b"-1e21", -1e21),
        (b"123456789012345678901234567890", 1.2345678901234568e29),
    ):
        assert loads(text) == value
        assert isinstance(loads(text), float)


@pytest.mark.parametrize("code", [SURROGATES[0], 0xDBFF, 0xDC00, SURROGATES[-1]])
def test_lone_surrogates_survive_a_round_trip(code):
    text = json.dumps({chr(code): ["é" + chr(code)]}).encode()
    value = loads(text)
    assert value == {chr(code): ["é" + chr(code)]}
    assert loads(dumps(value)) == value
    assert dumps(value).isascii()


def test_deep_documents_are_written_too():
    value = leaf = []
    for _ in range(MAX_DEPTH - 1):
        leaf.append([])
        leaf = leaf[0]
    leaf.append("é")
    assert dumps(value) == ("[" * MAX_DEPTH + '"é"' + "]" * MAX_DEPTH).encode()
    assert loads(dumps(value)) == value


@pytest.mark.parametrize(
    "text", [b"", b"{", b"NaN", b"[1,]", b'"\xff"', b"[" * 600 + b"]" * 600, b"\xef\xbb\xbf1"]
)
def test_loads_refuses_what_is_not_json(text):
    with pytest.raises(JsonError):
        loads(text)


@given(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(0, 2**64 - 1).map(lambda i: struct.unpack("d", struct.pack("Q", i))[0])
)
def test_floats_are_exact(number):
    if math.isfinite(number):
        read = loads(repr(number).encode())
        assert read == number
        assert loads(dumps(read)) == number
