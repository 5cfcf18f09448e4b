"""Nonsense as rules: only RuleSyntaxError and RuleError come out, and nothing crashes.

``DSFAST_FUZZ`` is the number of sources (default 50 000), ``DSFAST_FUZZ_SEED`` makes a run repeatable.
"""

import os
import random
from collections import Counter

from valve_expressions import BINARY, NUMBERS, PATTERNS, RECORDS, STRINGS, UNARY, VARIABLES, Generator

from dsfast._core.valve import RuleError, RuleSyntaxError, Scope, compile_rule

SOURCES = int(os.environ.get("DSFAST_FUZZ", "50000"))
SEED = int(os.environ.get("DSFAST_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
SIGNS = "( ) [ ] { } ${ ` ' \" \\ / // /* */ . ?. ?.( , ; : ? => = += ++ -- ... # @ \n \u2028 \x00 \ud800"
WORDS = (
    "data oldData user now name action _ $id id trim match includes undefined null new this function in async"
)
TOKENS = [
    *BINARY,
    *UNARY,
    *NUMBERS,
    *(f"/{pattern}/" for pattern in PATTERNS),
    *(repr(text) for text in STRINGS[:20]),
    *SIGNS.split(" "),
    *WORDS.split(" "),
    *("0x", "1e", "\\\n", "😀", "é", "__proto__", "a:", "get a()"),
]


def random_source(draw):
    """Random characters, random tokens, or a rule with a piece cut out, doubled or replaced."""
    kind = draw.randrange(4)
    if kind == 0:
        top = draw.choice((0x80, 0x300, 0x10FFFF))
        return "".join(chr(draw.randrange(top)) for _ in range(draw.randrange(40)))
    if kind == 1:
        return draw.choice(("", " ")).join(draw.choice(TOKENS) for _ in range(draw.randrange(30)))
    source = Generator(draw, depth=4).case().rule
    for _ in range(draw.randrange(1, 4)):
        start = draw.randrange(len(source) + 1)
        end = min(len(source), start + draw.randrange(12))
        middle = draw.choice(("", source[start:end] * 2, draw.choice(TOKENS), source[end:start:-1]))
        source = source[:start] + middle + source[end:]
    return source


def test_nonsense_is_refused():
    draw = random.Random(SEED)
    scope = Scope(
        user_id="größe", user_data={"role": [1, "x"]}, data={"a": [1, {"b": "😀"}], "x": "text"}, name="a/b",
        variables=["1", "ü"], reference=RECORDS.get,
    )  # fmt: skip
    seen = Counter()
    for _ in range(SOURCES):
        source = random_source(draw)
        try:
            rule = compile_rule(source, VARIABLES)
            seen["compiled"] += 1
            rule.value(scope)
            seen["evaluated"] += 1
        except RuleSyntaxError as error:
            seen["refused"] += 1
            assert "line " in str(error) or "longer than" in str(error)
        except RuleError:
            seen["failed"] += 1
        except BaseException as error:
            raise AssertionError(f"seed {SEED}: {source!r} raised {error!r}") from error
    # All ways out were taken.
    assert min(seen[way] for way in ("evaluated", "refused", "failed")) > SOURCES / 100, seen
