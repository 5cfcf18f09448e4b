"""JavaScript regular expressions, against JavaScript itself (Node) and by their bounds."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfast import regexp
from dsfast.regexp import RegexpError, RegexpTimeout, to_units, translate

NODE = shutil.which("node")
VECTORS = Path(__file__).parent / "vectors"
ROUNDS = int(os.environ.get("DSFAST_REGEXP_ROUNDS", "4000"))

needs_node = pytest.mark.skipif(NODE is None, reason="needs Node (make test installs it)")


def node(cases):
    """What JavaScript makes of [source, flags, texts], see tests/js/regexp.mjs."""
    script = Path(__file__).parent / "js" / "regexp.mjs"
    done = subprocess.run(
        [NODE, str(script)], input=json.dumps(cases), capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


def ours(source, flags, texts):
    """The same from dsfast: None if it is refused as in JavaScript, a text if we lack something."""
    try:
        compiled = regexp.compile(source, flags, allow_backtracking=True, limit=2000)
    except RegexpError as error:
        return str(error) if "not supported" in str(error) else None
    return [first_and_all(compiled, text) for text in texts]


def first_and_all(compiled, text):
    try:
        match = compiled.search(text)
        found = compiled.find_all(text)
        assert compiled.test(text) == (match is not None)
    except RegexpTimeout:
        return None
    if match is None:
        return [None, [], {}, found]
    return [match.index, list(match.groups), match.named, found]


def finds_halves(source, flags, text):
    """Node finds some empty matches with the flag u within surrogate pairs, against the standard."""
    edges = any(edge in source for edge in ("\\B", "(?<", "(?!"))
    return edges and "u" in flags and any(char > "\uffff" for char in text)


def differ_in_an_empty_group(mine, theirs):
    """A group that matched the empty text at the end of the last but one round of a loop counts as unset in
    JavaScript, here it cannot be told from one at the beginning of the last round (docs/differences.md)."""
    same = [mine[0], mine[3], len(mine[1])] == [theirs[0], theirs[3], len(theirs[1])]
    pairs = list(zip(mine[1], theirs[1], strict=False))
    return same and all(ours == other or (ours, other) == ("", None) for ours, other in pairs)


def compare(cases):
    """Assert that all cases agree with JavaScript; returns how often what happened."""
    seen = Counter()
    wrong = []
    for (source, flags, texts), expected in zip(cases, node(cases), strict=True):
        actual = ours(source, flags, texts)
        if isinstance(actual, str) and expected is not None:
            seen["lacking"] += 1
        elif actual is None or expected is None:
            seen["refused"] += 1
            if actual != expected:
                wrong.append((source, flags, actual, expected))
        else:
            for text, mine, theirs in zip(texts, actual, expected, strict=True):
                seen["timeout" if mine is None else "match" if theirs[0] is not None else "none"] += 1
                if mine is None or mine == theirs or finds_halves(source, flags, text):
                    continue
                if differ_in_an_empty_group(mine, theirs):
                    seen["empty"] += 1
                else:
                    wrong.append((source, flags, text, mine, theirs))
    assert not wrong, "\n".join(map(ascii, wrong[:20])) + f"\n{len(wrong)} differences"
    return seen


# Texts that tell line ends, spaces, cases and surrogates apart.
TEXTS = [
    "", "a", "ab", "aab", "aaa", "abcabc", "zaacbbbcac", "ABC", "foo bar", "x12-34y", "DE1234-56", "a\n",
    "\n",
    "a\nb\rc\u2028d\u2029e\r\nf", "\t\v\f \xa0\u1680\u2003\u202f\u205f\u3000\ufeff", "\x1c\x85",
    "\u0663", "_", "$1", "😀", "a😀b", "\ud83d", "\ude00x", "\ude00\ud83d", "éÉ", "\u017fsS", "Kk\u212a",
    "ßẞ", "\u0131İiI", "ΣςσΣ", "µμΜ", "a{,2}", "{1}", "a-b", "\x00\x01\x08", "\\c", "aXbxc", "1-1", "aba",
    "[x]", "u{41}A", "tel:+49 30 1234", "user@example.org", "2026-11-24T20:45:00Z",
]  # fmt: skip

# Everything of valve.md section 7, and the corners of the grammar.
SOURCES = (VECTORS / "regexp-sources.txt").read_text().splitlines()


@needs_node
@pytest.mark.parametrize("flags", ["", "i", "m", "s", "u", "y", "d", "iu", "ms", "su", "imsuy"])
def test_the_grammar_and_every_flag_mean_what_they_mean_in_javascript(flags):
    seen = compare([[source, flags, TEXTS] for source in SOURCES])
    assert seen["match"] > 500
    assert seen["lacking"] < len(SOURCES) / 20


@needs_node
def test_listen_patterns_agree_with_javascript_in_text_and_groups_too():
    vectors = json.loads((VECTORS / "listen-patterns.json").read_text())
    compare([[source, "", vectors["subjects"][:60]] for source, _ in vectors["patterns"]])


ATOMS = [
    *"abcA.^$1-{}],/xk", "\\d", "\\w", "\\s", "\\b", "\\B", "[ab]", "[^a]", "[a-c]", "[^]", "\\1", "\\2",
    "\\k<n>", "\\u0061", "😀", "\\ud83d", "é", "\u017f", "(?=a)", "(?!a)", "(?<=a)", "(?<!b)", "\\n",
    "[\\s\\S]", "[^\\W]", "\\x61",
]  # fmt: skip


def random_source(rng, depth=0):
    parts = []
    for _ in range(rng.randint(0, 4)):
        if depth < 3 and rng.random() < 0.35:
            start = rng.choice(["(", "(", "(", "(?:", "(?:", "(?<n>", "(?=", "(?!", "(?<=", "(?<!"])
            part = f"{start}{random_source(rng, depth + 1)})"
        else:
            part = rng.choice(ATOMS)
        if rng.random() < 0.35:
            part += rng.choice(["*", "+", "?", "{2}", "{1,}", "{0,2}", "{,3}", "{0}"]) + rng.choice(
                ["", "", "?"]
            )
        if rng.random() < 0.15:
            part += "|"
        parts.append(part)
    return "".join(parts)


def random_text(rng):
    return "".join(
        rng.choices(
            ["a", "b", "c", "A", "1", "-", "\n", "\r", "é", "😀", "\ud83d", "k", " "], k=rng.randint(0, 8)
        )
    )


@needs_node
def test_random_sources_agree_with_javascript():
    rng = random.Random(int(os.environ.get("DSFAST_FUZZ_SEED", "7")))
    cases = []
    for _ in range(ROUNDS):
        flags = "".join(flag for flag in "imsuy" if rng.random() < 0.2)
        cases.append([random_source(rng), flags, [random_text(rng) for _ in range(6)]])
    seen = compare(cases)
    assert seen["match"] > ROUNDS / 2
    assert seen["lacking"] < ROUNDS / 10
    assert seen["empty"] < ROUNDS / 500
    assert seen["timeout"] <= ROUNDS / 1000


def test_time_has_a_bound_with_every_engine():
    """These take minutes or more in JavaScript; which of them end by themselves is the engine's affair."""
    text = "a" * 5000 + "!"
    for source in (
        r"^(a+)+$",
        r"^(a|a)*$",
        r"^(a*)*$",
        r"(?=a)(a|aa)+$",
        r"^(a?){0,50}(?=b)",
        r"(.*)*(.*)*\1b",
    ):
        compiled = regexp.compile(source, allow_backtracking=True)
        try:
            assert compiled.search(text) is None
        except RegexpTimeout as error:
            assert compiled.engine == "regex"
            assert "50 ms" in str(error)


def test_a_backtracking_match_that_takes_too_long_is_given_up():
    compiled = regexp.compile(r"^(?=a)(a|aa)+$", allow_backtracking=True, limit=20)
    with pytest.raises(RegexpTimeout, match="20 ms"):
        compiled.search("a" * 3000 + "!")


def test_many_searches_have_one_limit():
    compiled = regexp.compile("a*b|a", "g", limit=10)
    with pytest.raises(RegexpTimeout):
        compiled.find_all("a" * 200_000)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (r"a(?=b)", "look-around"),
        (r"(a)\1", "a back reference"),
        (r"a{2000}", "a pattern of this size"),
        (r"(a*)*", "a repetition of a group that may be empty"),
    ],
)
def test_what_re2_lacks_needs_permission(source, reason):
    with pytest.raises(RegexpError, match=f"^{reason} is not supported$"):
        regexp.compile(source)
    compiled = regexp.compile(source, allow_backtracking=True)
    assert (compiled.engine, compiled.reason) == ("regex", reason)
    assert regexp.compile("^(?:a|b)+$").engine == "re2"


@pytest.mark.parametrize(
    ("source", "flags"),
    [("a" * 10_001, ""), ("(" * 101 + ")" * 101, ""), ("a", "x"), ("a", "ii"), ("a", "v")],
)
def test_sizes_and_flags_out_of_bounds_are_refused(source, flags):
    with pytest.raises(RegexpError):
        regexp.compile(source, flags, allow_backtracking=True)


@pytest.mark.parametrize(
    "source",
    [
        r"(?:(a)|b\1)*",
        r"(?:(a)?\1)+",
        r"(?<=(a)\1)",
        r"(?<=\1(a))",
        r"(?:(?=(a)|b).)*",
        r"(?:(?=(a)){0,1}.)+",
    ],
)
def test_what_neither_engine_can_do_as_javascript_is_refused(source):
    """Named in docs/differences.md; a wrong answer would be worse."""
    with pytest.raises(RegexpError, match="not supported"):
        regexp.compile(source, allow_backtracking=True)


def test_a_group_that_was_empty_in_the_last_but_one_round():
    """The one known difference in a match, named in docs/differences.md: JavaScript says undefined."""
    assert regexp.compile("(?:a(b?)|c)*").search("ac").groups == ("ac", "")
    assert regexp.compile("(?:a(b?)|c)*").search("abc").groups == ("abc", None)


def test_a_loop_that_would_grow_without_bound_is_refused():
    with pytest.raises(RegexpError, match="too large"):
        regexp.compile("(" * 30 + "a*" + ")+" * 30, allow_backtracking=True)


def test_a_whole_match_tries_the_alternatives():
    compiled = regexp.compile("a|ab|(b)c")
    assert compiled.fullmatch("ab").groups == ("ab", None)
    assert compiled.fullmatch("bc").groups == ("bc", "b")
    assert compiled.fullmatch("abc") is None


def test_positions_count_utf_16_units():
    assert regexp.compile("b").search("é😀b").index == 3
    assert regexp.compile("b", "u").search("é😀b").index == 3
    assert regexp.compile("(?=b)", allow_backtracking=True).search("😀b").index == 2
    assert regexp.compile(r"\ude00").search("😀").groups == ("\ude00",)


def test_translated_sources_only_tell_whether_there_is_a_match():
    assert "P<" not in translate("(a)(?<n>b)*")
    assert to_units("😀") == "\U0010d83d\U0010de00"


@given(
    st.text(max_size=20) | st.text(alphabet="ab()[]{}*+?|^$\\\\.-,:=!<>12kuxpPcdwb😀", max_size=20),
    st.sampled_from(["", "i", "u", "iu", "gms", "y"]),
    st.text(max_size=10),
)
@settings(max_examples=500, deadline=None)
def test_whatever_the_source_is_it_is_refused_or_matches(source, flags, text):
    try:
        compiled = regexp.compile(source, flags, allow_backtracking=True)
    except RegexpError as error:
        assert str(error)
        return
    match = compiled.search(text)
    assert (match is not None) == compiled.test(text)
    if match is not None and match.groups[0] and "y" not in flags:
        assert match.groups[0] == compiled.find_all(text)[0]
