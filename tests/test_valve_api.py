"""`dsfast.valve`: decisions and their reasons, cases in files, and the commands `dsfast valve ...`."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from dsfast.cli import cli
from dsfast.config import ConfigError
from dsfast.services.permission.rules import RuleFileError, default_permissions
from dsfast.valve import UNDEFINED, CaseError, Rules, read_cases

VECTORS = json.loads((Path(__file__).parent / "vectors" / "valve-rules.json").read_text())["rules"]

# No rule decides about the first, the second is no JSON, and a patch without data needs the right to erase.
NOT_ASKED = {
    case["id"]
    for case in VECTORS
    if case["message"]["action"] in ("UNSUBSCRIBE", "CREATEANDUPDATE")
    or case["message"].get("data") == "{broken"
    or (case["message"]["action"] == "PATCH" and "data" not in case["message"])
}


def closed(**sections):
    """Rules that allow nothing but what is given."""
    return {section: sections.get(section, {"*": {}}) for section in default_permissions()}


def rules(**sections):
    return Rules.from_data(closed(**{name: {"*": {}, **paths} for name, paths in sections.items()}))


def plain(value):
    """A value of a vector."""
    if isinstance(value, dict) and "$undefined" in value:
        return UNDEFINED
    if isinstance(value, dict) and "$number" in value:
        return float(value["$number"].replace("Infinity", "inf"))
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def same(one, other):
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return one == other and (isinstance(one, bool) == isinstance(other, bool))


@pytest.mark.parametrize(
    "case", [case for case in VECTORS if case["id"] not in NOT_ASKED], ids=lambda case: case["id"]
)
def test_vectors(case):
    permissions = case.get("permissions") or closed(
        **{case["section"]: {"*": {}, case["path"]: {case["type"]: case["rule"]}}}
    )
    message = case["message"]
    records = dict(case.get("records", {}))
    if "failLoad" in case:
        records[case["failLoad"]] = RuntimeError("cache down")
    given = {"data": message["parsedData"]} if "parsedData" in message else {}
    if "data" in message:
        given = {"data": json.loads(message["data"])}
    decision = Rules.from_data(permissions, case.get("maxRuleIterations", 3)).check(
        user={"id": case["user"]["id"], "data": case["user"].get("serverData", case["user"].get("data"))},
        action=f"{message['topic'].lower()}.{message['action']}",
        name=message.get("name"),
        path=message.get("path"),
        records=records,
        now=1_700_000_000_000,
        **given,
    )
    assert decision.outcome == case["expect"]["result"]
    assert bool(decision) == (decision.outcome == "allow")
    if decision.outcome != "error" and "value" in case["expect"] and decision.path is not None:
        assert same(decision.value, plain(case["expect"]["value"]))


def test_a_decision_gives_its_reasons():
    decision = rules(
        record={
            "doc/$id": {"write": "_('door').open && data.bid > oldData.bid && user.id !== $id"},
            "doc/*": {"write": False},
        }
    ).check(
        user={"id": "ann", "data": {"x": 1}},
        action="record.write",
        name="doc/7",
        data={"bid": 5},
        old_data={"bid": 3},
        records={"door": {"open": True}, "unused": {}},
    )
    assert decision
    assert (decision.section, decision.rule_type, decision.path) == ("record", "write", "doc/$id")
    assert decision.inputs == {
        "$id": "7",
        "user.id": "ann",
        "user.data": {"x": 1},
        "data": {"bid": 5},
        "oldData": {"bid": 3},
    }
    assert decision.references == {"door": {"open": True}}
    assert (decision.value, decision.runs) == (True, 2)
    assert decision.less_specific == [("doc/*", "false")]
    assert str(decision).splitlines() == [
        'record.write "doc/7" by user "ann": allow',
        '  path "doc/$id" in section record, write: '
        "_('door').open && data.bid > oldData.bid && user.id !== $id",
        '  $id = "7"',
        '  user.id = "ann"',
        '  user.data = {"x": 1}',
        '  data = {"bid": 5}',
        '  oldData = {"bid": 3}',
        '  _("door") = {"open": true}',
        "  value: true",
    ]


def test_a_refusal_without_a_rule_says_so():
    decision = rules(record={"a": {"read": True}}).check(action="record.read", name="b")
    assert (decision.outcome, decision.path) == ("deny", None)
    assert "no path in section record with a rule for read matches" in str(decision)


def test_an_error_is_no_refusal():
    decision = rules(event={"*": {"publish": "data.a.b"}}).check(action="event.publish", name="e", data={})
    assert not decision
    assert decision.outcome == "error"
    assert decision.error in str(decision)
    decision = rules(event={"(?=a)(a|aa)+": {"publish": True}}).check(
        action="event.publish", name="a" * 5000 + "!"
    )
    assert "took longer" in decision.error


def test_loading_has_a_limit_and_may_fail():
    checked = rules(event={"*": {"publish": "_('a').x && _('b').x && _('c').x"}})
    records = {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}}
    decision = checked.check(action="event.publish", name="e", records=records)
    assert (decision.error, decision.runs) == ("Exceeded max iteration count", 3)
    assert list(decision.references) == ["a", "b"] or list(decision.references) == ["a", "b", "c"]
    decision = checked.check(action="event.publish", name="e", records={**records, "b": OSError("disk gone")})
    assert decision.error == "failed to load record b for permissioning:disk gone"


def test_writes_are_updates_patches_or_erasures():
    checked = rules(
        record={"*": {"write": "action === 19 && data.a === 1 && data.b === 2", "delete": "action === 20"}}
    )
    old = {"a": 1, "b": 0}
    assert checked.check(action="record.write", name="r", path="b", data=2, old_data=old)
    assert not checked.check(action="record.write", name="r", data={"a": 1, "b": 2}, old_data=old)
    decision = checked.check(action="record.write", name="r", path="b", old_data=old)
    assert decision
    assert decision.rule_type == "delete"


def test_what_is_checked_in_two_steps_is_allowed_if_both_are():
    checked = rules(record={"*": {"create": "user.id === 'ann'", "read": "true", "write": "data.n === 1"}})
    opens = "record.subscribeCreateAndRead"
    assert checked.check(action=opens, name="r", user="ann")
    assert checked.check(action=opens, name="r", user="bob").rule_type == "create"
    assert checked.check(action=opens, name="r", user="bob", old_data={})
    upsert = "record.createAndUpdate"
    assert checked.check(action=upsert, name="r", user="ann", data={"n": 1})
    decision = checked.check(action=upsert, name="r", user="ann", data={"n": 2})
    assert (decision.outcome, decision.rule_type) == ("deny", "write")
    merge = checked.check(action="record.createAndPatch", name="r", user="ann", path="n", data=1)
    assert merge.inputs == {"data": {"n": 1}}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"action": "record.wirte", "name": "r"}, "did you mean record.write?"),
        ({"action": "record.unsubscribe", "name": "r"}, "rules have no say"),
        ({"action": "write", "name": "r"}, "an action is a section and what is done"),
        ({"action": "record.read"}, "needs a name"),
        ({"action": "record.write", "name": "r"}, "needs data"),
        ({"action": "record.patch", "name": "r", "data": 1}, "needs a path"),
        ({"action": "event.publish", "name": "e", "data": {1, 2}}, "cannot be written as JSON"),
        ({"action": "event.publish", "name": "e", "user": {"name": "x"}}, "a user is an id"),
        ({"action": "event.publish", "name": "e", "user": {"id": "x", "data": math.nan}}, "data of the user"),
    ],
)
def test_impossible_questions_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text.replace("?", r"\?")):
        rules().check(**arguments)


def test_the_server_and_the_author_see_the_same_time_and_nameless_actions():
    checked = rules(presence={"*": {"allow": "name === undefined && now === 5"}})
    assert checked.check(action="presence.queryAll", now=5)
    assert rules(event={"*": {"publish": "now > 1.6e12"}}).check(action="event.publish", name="e")


def test_long_and_strange_values_are_shown_shortened_and_printable():
    decision = rules(event={"*": {"publish": "data.match(/x/) || data"}}).check(
        action="event.publish", name="\ud83d", data="é" * 2000
    )
    text = str(decision)
    assert text.encode()
    assert len(text) < 1500
    assert "é" in text


# Cases.

PERMISSIONS = """\
presence: {"*": {allow: true}}
record: {"*": {read: "oldData.public || user.data.role === 'admin'"}}
event:
  "*": {publish: "data.n > _('limit').n"}
rpc: {"*": {}}
"""
CASES = """\
rules: permissions.yml
users:
  ada: {role: admin}
records:
  limit: {n: 5}
  open: {public: true}
now: 1700000000000
cases:
  - {user: ada, action: record.read, name: open, expected: allow}
  - user: bob
    action: record.read
    name: shut
    oldData: {public: false}
    expected: %s
  - {title: too much, action: event.publish, name: e, data: {n: 5}, expected: deny}
  - {action: event.publish, name: e, data: {n: 5}, records: {limit: {n: 4}}, expected: true}
  - {action: event.publish, name: e, data: {n: 5}, records: {limit: null}, expected: error, error: null}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "permissions.yml").write_text(PERMISSIONS)
    (tmp_path / "cases.yml").write_text((CASES % "error").replace("error: null}", "error: TypeError}"))
    return tmp_path


def test_cases_compare_decisions(folder):
    cases = read_cases(folder / "cases.yml")
    for case in cases:
        case.check()
    assert [str(case) for case in cases][:3] == [
        "record.read open by ada",
        "record.read shut by bob",
        "too much",
    ]
    assert [case.line for case in cases] == [9, 10, 15, 16, 17]


def test_a_case_that_fails_gives_the_reasons(folder):
    (folder / "cases.yml").write_text((CASES % "allow").replace("error: null}", "error: no such}"))
    cases = read_cases(folder / "cases.yml")
    with pytest.raises(
        AssertionError, match=r'expected allow, but\n  record.read "shut" by user "bob": error'
    ):
        cases[1].check()
    with pytest.raises(AssertionError, match="expected an error with 'no such'"):
        cases[4].check()


def test_the_rules_of_cases_may_stand_in_the_file_or_be_given(folder):
    text = (folder / "cases.yml").read_text()
    inline = folder / "inline.yml"
    inline.write_text(text.replace("rules: permissions.yml", f"rules: {json.dumps(default_permissions())}"))
    with pytest.raises(AssertionError):
        read_cases(inline)[1].check()
    for case in read_cases(inline, Rules.from_file(folder / "permissions.yml")):
        case.check()
    inline.write_text("rules:\n  record: {}\ncases: [{}]\n")
    with pytest.raises(RuleFileError) as caught:
        read_cases(inline)
    assert caught.value.place == f"{inline}, line 1"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("expected: deny", "expected: no", "line 15: expected must be allow, deny or error"),
        ("expected: deny", "expect: deny", "line 15: unknown key expect, did you mean expected?"),
        ("users:", "usres:", "line 2: unknown key usres, did you mean users?"),
        ("name: e, data: {n: 5}, expected: deny", "expected: deny", "line 15: the action needs a name"),
        (
            "event.publish, name: e, data: {n: 5}, expected: deny",
            "x, expected: deny",
            "line 15: an action is",
        ),
        ("title: too much", "title: [1]", "line 15: title must be a text"),
        ("{limit: {n: 4}}", "[1]", "line 16: records must be a mapping"),
        ("rules: permissions.yml", "rules: 5", "line 1: rules must be the path"),
        ("now: 1700000000000", "now: soon", "line 9: "),
        ("now: 1700000000000", "maxRuleIterations: 0", "line 7: maxRuleIterations must be"),
        ("error: TypeError", "error: 5", "line 17: error is a text"),
        (CASES[CASES.index("cases:") :], "cases: []", "there must be a list of cases"),
    ],
)
def test_mistakes_in_cases_name_the_line(folder, old, new, text):
    file = folder / "cases.yml"
    content = (CASES % "error").replace("error: null}", "error: TypeError}")
    old = old.replace("%s", "error").replace("error: null}", "error: TypeError}")
    assert old in content
    file.write_text(content.replace(old, new, 1))
    with pytest.raises(CaseError) as caught:
        read_cases(file)
    assert text in str(caught.value)


def test_files_that_cannot_be_read_are_named(folder):
    with pytest.raises(ConfigError, match="nowhere"):
        read_cases(folder / "nowhere.yml")
    (folder / "cases.yml").write_text("rules: nowhere.yml\ncases: [{}]\n")
    with pytest.raises(ConfigError, match="nowhere"):
        read_cases(folder / "cases.yml")


# Commands.


def run(*arguments):
    result = CliRunner().invoke(cli, ["valve", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_check_names_the_first_mistake_and_warns(folder):
    file = folder / "permissions.yml"
    assert run("check", file) == (0, f"{file}: ok, 3 rules\n", "")
    file.write_text(PERMISSIONS.replace("data.n >", "data.match(/^(?!x)/) && data.n >"))
    code, out, _ = run("check", file)
    assert code == 0
    assert out.startswith('warning: event "*" publish: /^(?!x)/ has look-around')
    file.write_text(PERMISSIONS.replace("data.n >", "data.n > >"))
    code, out, err = run("check", file)
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {file}, line 4: SyntaxError: ")
    assert err.endswith('(event "*" publish)\n')
    code, _, err = run("check", folder / "nowhere.yml")
    assert code == 1
    assert "Traceback" not in err


def test_test_prints_what_is_wrong(folder):
    file = folder / "cases.yml"
    assert run("test", file) == (0, "5 cases, 0 failed\n", "")
    code, out, _ = run("test", "-v", file, file)
    assert code == 0
    assert out.count("\nok ") == 9
    file.write_text((CASES % "allow").replace("error: null}", "error: TypeError}"))
    code, out, _ = run("test", file)
    assert code == 1
    assert out.startswith(f"FAILED {file}:10 record.read shut by bob\n  expected allow, but\n  record.read")
    assert out.endswith("5 cases, 1 failed\n")
    everything = folder / "open.json"
    everything.write_text(json.dumps(default_permissions()))
    code, out, _ = run("test", file, "--rules", everything)
    assert (code, out.splitlines()[-1]) == (1, "5 cases, 2 failed")
    file.write_text("cases: 1")
    code, _, err = run("test", file)
    assert code == 1
    assert "line 1" in err


def test_explain_shows_what_the_rule_sees(folder):
    file = folder / "permissions.yml"
    code, out, _ = run(
        "explain",
        file,
        "event.publish",
        "e",
        "--user",
        "ann",
        "--data",
        '{"n": 7}',
        "--record",
        'limit={"n": 5}',
    )
    assert code == 0
    assert out.splitlines() == [
        'event.publish "e" by user "ann": allow',
        """  path "*" in section event, publish: data.n > _('limit').n""",
        '  data = {"n": 7}',
        '  _("limit") = {"n": 5}',
        "  value: true",
        "  evaluated 2 times, until everything was loaded",
    ]
    code, out, _ = run(
        "explain", file, "record.read", "r", "--user-data", '{"role": "admin"}', "--old-data", "{}"
    )
    assert 'by user "open": allow' in out
    for arguments, text in [
        (["record.raed", "r"], "did you mean"),
        (["record.read", "r", "--old-data", "x"], "--old-data is not JSON"),
        (["record.read", "r", "--record", "x"], "--record needs"),
        (["record.read"], "needs a name"),
    ]:
        code, out, err = run("explain", file, *arguments)
        assert code in (1, 2)
        assert text in err
        assert "Traceback" not in err


def test_explain_lists_less_specific_paths(folder):
    file = folder / "permissions.yml"
    file.write_text(PERMISSIONS.replace("rpc:", 'rpc: {"*": {request: false}, "sum": {request: "name"}}\n#'))
    _, out, _ = run("explain", file, "rpc.request", "sum", "--now", "5")
    assert out.endswith('value: "sum"\n  less specific paths that match too:\n    "*": false\n')
