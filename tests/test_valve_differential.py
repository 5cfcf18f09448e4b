"""Random rules against Node's own evaluation of the same text.

``DSFAST_VALVE_DIFF`` is the number of rules (default 4000), ``DSFAST_FUZZ_SEED`` makes a run repeatable.
"""

import json
import math
import os
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from valve_expressions import RECORDS, VARIABLES, Generator, nonsense

from dsfast._core.js_values import number_text
from dsfast._core.json_text import loads
from dsfast._core.valve import UNDEFINED, MatchArray, RuleError, RuleSyntaxError, Scope, compile_rule

RULES = int(os.environ.get("DSFAST_VALVE_DIFF", "4000"))
SEED = int(os.environ.get("DSFAST_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
BATCH = 5000
SCRIPT = Path(__file__).parent / "js" / "valve-eval.mjs"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def written(value):
    """A value as valve-eval.mjs writes it."""
    if value is UNDEFINED:
        return {"undefined": True}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"number": "-0" if value == 0 and math.copysign(1, value) < 0 else number_text(value)}
    if isinstance(value, list):
        result = {"array": [written(element) for element in value]}
        if isinstance(value, MatchArray):
            result |= {"index": value.index, "input": value.input, "groups": written(value.groups)}
        return result
    if isinstance(value, dict):
        return {"object": sorted([key, written(member)] for key, member in value.items())}
    if value is None or isinstance(value, str | bool):
        return {"value": value}
    text = repr(value)
    return {"function" if text.startswith("function") else "regexp": text}


def parsed(text):
    return UNDEFINED if text is None else loads(text.encode("utf-8", "surrogatepass"))


def evaluated(case):
    """What valve-eval.mjs answers for the case, by dsfast."""
    scope = Scope(
        user_id=case.user_id,
        user_data=parsed(case.user_data),
        data=parsed(case.data),
        old_data=parsed(case.old_data),
        now=case.now,
        action=case.action,
        name=case.name,
        variables=[case.variables[name] for name in VARIABLES],
        reference=RECORDS.get,
    )
    try:
        return written(compile_rule(case.rule, VARIABLES).value(scope))
    except RuleSyntaxError as error:
        return {"error": "SyntaxError", "message": str(error)}
    except RuleError as error:
        kind = str(error).partition(" ")[0].removesuffix(":")
        return {"error": kind, "message": str(error)}


def by_node(cases):
    lines = [json.dumps(RECORDS), *(json.dumps(case.as_dict()) for case in cases)]
    output = subprocess.run(
        ["node", str(SCRIPT)], input="\n".join(lines).encode(), check=True, capture_output=True, timeout=600
    ).stdout
    return [json.loads(line) for line in output.splitlines()]


def outcome(result):
    """What has to be equal: the value, or the type of the error."""
    return {"error": result["error"]} if "error" in result else result


def differences(cases):
    """Cases whose outcome is another one in Node; how often what came out."""
    found, kinds = [], Counter()
    for case, theirs in zip(cases, by_node(cases), strict=True):
        ours = evaluated(case)
        kinds[theirs.get("error", "value")] += 1
        if outcome(ours) != outcome(theirs):
            found.append({"case": case.as_dict(), "dsfast": ours, "node": theirs})
    return found, kinds


@needs_node
def test_same_as_node():
    draw = random.Random(SEED)
    found, kinds = [], Counter()
    for start in range(0, RULES, BATCH):
        cases = [Generator(draw).case() for _ in range(min(BATCH, RULES - start))]
        batch_found, batch_kinds = differences(cases)
        found += batch_found
        kinds += batch_kinds
    # Most of what is generated has to be more than an error.
    assert kinds["value"] > RULES / 3, kinds
    assert not found, f"seed {SEED}: {len(found)} differences, the first: {found[0]}"


def compiles(rule):
    try:
        compile_rule(rule)
    except RuleSyntaxError:
        return False
    return True


def is_expression(rule):
    """Whether it compiles, and is neither empty nor ended by a semicolon, which Node would refuse here."""
    return compiles(rule) and compiles(f"(\n{rule}\n)")


@needs_node
def test_nonsense_that_is_accepted_means_what_it_means_in_node():
    draw = random.Random(SEED)
    for _ in range(0, RULES, BATCH):
        cases = []
        for _ in range(min(RULES, BATCH)):
            case = Generator(draw, depth=3).case()
            case.rule = nonsense(draw)
            if is_expression(case.rule):
                cases.append(case)
        found, kinds = differences(cases)
        assert kinds["value"] > len(cases) / 5, kinds
        assert not found, f"seed {SEED}: {len(found)} differences, the first: {found[0]}"
