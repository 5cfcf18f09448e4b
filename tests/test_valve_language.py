"""The rule language: the recorded rules, what is refused and how, the limits, facts about a rule."""

import json
import math
import re
from pathlib import Path

import pytest

from dsfast._core.json_path import PathError, apply_multi, erase_value, set_value
from dsfast._core.protocol import EventAction, PresenceAction, RecordAction, RpcAction
from dsfast._core.valve import UNDEFINED, RuleError, Scope, compile_rule

VECTORS = json.loads((Path(__file__).parent / "vectors" / "valve-rules.json").read_text())
NOW = VECTORS["now"]
ACTIONS = {"EVENT": EventAction, "RECORD": RecordAction, "RPC": RpcAction, "PRESENCE": PresenceAction}
CASES = [case for case in VECTORS["rules"] if "rule" in case]


def path_variables(path, name):
    """Names and values of the variables of a rule's path for a name; enough for the recorded paths."""
    names, pattern = [], ""
    for part in re.split(r"(\$[A-Za-z0-9]+|\*)", path):
        if part.startswith("$"):
            pattern += f"(?P<v{len(names)}>[^/]+)"
            names.append(part[1:])
        else:
            pattern += ".*" if part == "*" else part
    found = re.fullmatch(pattern, name)
    assert found is not None
    return tuple(names), [found[f"v{number}"] for number in range(len(names))]


class LoadError(Exception):
    pass


class Service:
    """What is around the evaluation: loading in rounds, as spec/valve.md section 8 describes it."""

    def __init__(self, case):
        self.case = case
        self.records = case.get("records", {})
        self.known = {}
        self.loading = set()

    def reference(self, name):
        if name in self.known:
            return self.known[name]
        self.loading.add(name)
        return UNDEFINED

    def load(self):
        if self.case.get("failLoad") in self.loading:
            raise LoadError
        self.known.update((name, self.records.get(name)) for name in self.loading)
        self.loading.clear()

    def data(self):
        """The value of `data` for the message, UNDEFINED while it is being loaded."""
        message, action = self.case["message"], self.case["message"]["action"]
        sent = json.loads(message["data"]) if "data" in message else message.get("parsedData", UNDEFINED)
        if action not in ("PATCH", "PATCH_MULTI"):
            return sent
        stored = self.reference(message["name"])
        if stored is UNDEFINED:
            return UNDEFINED
        if stored is None:
            raise RuleError(f"Tried to apply patch to non-existant record {message['name']}")
        record = json.loads(json.dumps(stored))
        if action == "PATCH_MULTI":
            if not isinstance(sent, list):
                raise RuleError(f"Invalid MultiPatch Data {message['name']}")
            apply_multi(record, [(part["path"], "data" in part, part.get("data")) for part in sent])
        elif sent is UNDEFINED:
            erase_value(record, message["path"])
        else:
            set_value(record, message["path"], sent)
        return record

    def run(self):
        """The value of the rule; raises what refuses the action with an error."""
        case, message = self.case, self.case["message"]
        name = message.get("name")
        names, values = path_variables(case["path"], name)
        rule = compile_rule(case["rule"], names)
        rule_type = case["type"]
        with_old_data = case["section"] == "record" and rule_type in ("read", "write", "delete")
        for _ in range(case.get("maxRuleIterations", 3)):
            data = old_data = UNDEFINED
            if rule.uses_data:
                data = self.data()
            if rule.uses_old_data and with_old_data:
                old_data = self.reference(name)
            scope = Scope(
                user_id=case["user"]["id"],
                user_data=case["user"].get("serverData"),
                data=data,
                old_data=old_data,
                now=NOW,
                action=ACTIONS[message["topic"]][message["action"]],
                name=name,
                variables=values,
                reference=self.reference,
            )
            try:
                value, error = rule.value(scope), None
            except RuleError as caught:
                error = caught
            if not self.loading:
                if error is not None:
                    raise error
                assert rule.allows(scope) is (evaluated_truth(value))
                return value
            self.load()
        raise RuleError("Exceeded max iteration count")


def evaluated_truth(value):
    """JavaScript's truth of a value that `Rule.value` gave."""
    return isinstance(value, list | dict) or bool(
        value and not (isinstance(value, float) and math.isnan(value))
    )


def recorded(value):
    """A value as the vectors write it."""
    if value is UNDEFINED:
        return {"$undefined": True}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$number": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, float) and value == 0:
        return {"$number": "-0"}
    return value


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_recorded_rules(case):
    try:
        value = Service(case).run()
    except (RuleError, LoadError, PathError, ValueError):
        assert case["expect"]["result"] == "error"
        return
    assert case["expect"]["result"] == ("allow" if evaluated_truth(value) else "deny")
    if "value" in case["expect"]:
        assert recorded(value) == case["expect"]["value"]
        assert isinstance(value, bool) is isinstance(case["expect"]["value"], bool)
