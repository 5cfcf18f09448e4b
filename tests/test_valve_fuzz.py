"""Nonsense as rules: only RuleSyntaxError and RuleError come out, and nothing crashes.

``DSFAST_FUZZ`` is the number of sources (default 50 000), ``DSFAST_FUZZ_SEED`` makes a run repeatable.
"""

import os
import random
from collections import Counter

from valve_expressions import RECORDS, VARIABLES, nonsense

from dsfast._core.valve import RuleError, RuleSyntaxError, Scope, compile_rule

SOURCES = int(os.environ.get("DSFAST_FUZZ", "50000"))
SEED = int(os.environ.get("DSFAST_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)


def test_nonsense_is_refused():
    draw = random.Random(SEED)
    scope = Scope(
        user_id="größe", user_data={"role": [1, "x"]}, data={"a": [1, {"b": "😀"}], "x": "text"}, name="a/b",
        variables=["1", "ü"], reference=RECORDS.get,
    )  # fmt: skip
    seen = Counter()
    for _ in range(SOURCES):
        source = nonsense(draw)
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
