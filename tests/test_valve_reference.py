"""The compiled rules against the slow evaluator of valve_reference.py, on random rules."""

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_valve_differential import evaluated, outcome
from valve_expressions import RECORDS, Generator
from valve_reference import (
    UNDEF,
    Array,
    Evaluator,
    Function,
    Invalid,
    Object,
    Parser,
    Thrown,
    joined,
    number_text,
    to_text,
    units,
    value_of,
)

from dsfast._core.json_text import loads


def written(value):
    """A value as test_valve_differential writes it."""
    if value is UNDEF:
        return {"undefined": True}
    if value is None or isinstance(value, bool):
        return {"value": value}
    if isinstance(value, str):
        return {"value": joined(value)}
    if isinstance(value, float):
        return {"number": "-0" if value == 0 and math.copysign(1, value) < 0 else number_text(value)}
    if isinstance(value, Array):
        result = {"array": [written(item) for item in value.items]}
        if value.extra:
            result |= {"index": int(value.extra["index"]), "input": joined(value.extra["input"])}
            result["groups"] = written(value.extra["groups"])
        return result
    if isinstance(value, Object):
        return {"object": sorted([joined(key), written(member)] for key, member in value.members.items())}
    return {"function" if isinstance(value, Function) else "regexp": joined(to_text(value))}


def expected(case):
    """What the reference says about a case."""

    def json(text):
        return UNDEF if text is None else value_of(loads(text.encode()))

    names = {
        "data": json(case.data),
        "oldData": json(case.old_data),
        "now": case.now,
        "action": float(case.action),
        "name": UNDEF if case.name is None else units(case.name),
        **{f"${name}": units(text) for name, text in case.variables.items()},
    }
    user = {
        "id": units(case.user_id),
        "isAuthenticated": case.user_id != "open",
        "data": json(case.user_data),
    }
    records = {name: value_of(record) for name, record in RECORDS.items()}
    try:
        node = Parser(case.rule).rule()
        return written(Evaluator({**names, "user": Object(user)}, records).value(node))
    except Invalid:
        return {"error": "SyntaxError"}
    except Thrown as error:
        return {"error": str(error)}


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_same_as_the_reference(draw):
    case = Generator(draw, depth=4).case()
    assert outcome(evaluated(case)) == expected(case)
