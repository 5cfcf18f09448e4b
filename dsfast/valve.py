"""Permission rules for their authors: ask what a rule file would decide, in tests or from the command line.

    rules = Rules.from_file("permissions.yml")
    assert rules.check(user="alice", action="record.write", name="doc/1", data={"owner": "alice"})

The answers come from the code that decides in a server. See docs/valve.md.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

from dsfast._core.js_values import UNDEFINED, number_text
from dsfast._core.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic
from dsfast._core.valve import RuleError
from dsfast._core.valve_gate import Binding, Run, rule_type
from dsfast.config import read_document
from dsfast.services.permission.rules import RuleFileError, RulePath, RuleSet, read_rules

__all__ = ["UNDEFINED", "Case", "CaseError", "Decision", "RuleFileError", "Rules", "read_cases"]

MAX_RULE_ITERATIONS = 3
"""The server's default of `maxRuleIterations`."""

_TOPICS: dict[str, tuple[Topic, type[IntEnum]]] = {
    "record": (Topic.RECORD, RecordAction),
    "event": (Topic.EVENT, EventAction),
    "rpc": (Topic.RPC, RpcAction),
    "presence": (Topic.PRESENCE, PresenceAction),
}
_STANDS_FOR = {
    ("record", "write"): RecordAction.UPDATE,
    ("event", "publish"): EventAction.EMIT,
    ("presence", "allow"): PresenceAction.QUERY,
}
"""Rule types that are not called like an action of the protocol."""

_IN_STEPS = {
    RecordAction.SUBSCRIBECREATEANDREAD: (RecordAction.CREATE, RecordAction.READ),
    RecordAction.CREATEANDUPDATE: (RecordAction.CREATE, RecordAction.UPDATE),
    RecordAction.CREATEANDPATCH: (RecordAction.CREATE, RecordAction.PATCH),
}
"""Actions that a server checks in two steps (valve.md section 9)."""

_NAMELESS = (PresenceAction.SUBSCRIBE_ALL, PresenceAction.QUERY_ALL)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say about one action. It is true if they allow it, its text gives the reasons."""

    allowed: bool
    action: str
    name: str | None
    user_id: str
    section: str
    rule_type: str
    path: str | None = None
    """The path whose rule applied; None if none matches, which refuses."""
    rule: str | None = None
    """The text of the rule."""
    value: Any = UNDEFINED
    """What the rule evaluated to; UNDEFINED for undefined, and if there was an error."""
    error: str | None = None
    """Why the rule has no value; the client gets MESSAGE_PERMISSION_ERROR instead of MESSAGE_DENIED."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """The values of the names in the rule: `user.id`, `data`, `$x`, ..."""
    references: Mapping[str, Any] = field(default_factory=dict)
    """The records that `_()` asked for; None for those that do not exist."""
    runs: int = 0
    """How often the rule was evaluated, until everything it needed was loaded."""
    less_specific: Sequence[tuple[str, str]] = ()
    """The other paths that match, with their rules, in the order in which they would apply."""

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def outcome(self) -> str:
        """`allow`, `deny` or `error`."""
        if self.error is not None:
            return "error"
        return "allow" if self.allowed else "deny"

    def __str__(self) -> str:
        name = "" if self.name is None else f" {_text(self.name)}"
        lines = [f"{self.action}{name} by user {_text(self.user_id)}: {self.outcome}"]
        if self.path is not None:
            rule = str(self.rule).strip().replace("\n", "\n    ")
            lines.append(f'path "{self.path}" in section {self.section}, {self.rule_type}: {rule}')
        elif self.error is None:
            lines.append(f"no path in section {self.section} with a rule for {self.rule_type} matches")
        lines += [f"{name} = {_text(value)}" for name, value in self.inputs.items()]
        lines += [f"_({_text(name)}) = {_text(data)}" for name, data in self.references.items()]
        if self.error is not None:
            lines.append(f"error: {self.error}")
        elif self.path is not None:
            lines.append(f"value: {_text(self.value)}")
        return "\n  ".join(lines)


class Rules:
    """The rules of a permission file."""

    def __init__(self, rules: RuleSet, max_rule_iterations: int = MAX_RULE_ITERATIONS) -> None:
        self._rules = rules
        self._max_runs = max_rule_iterations

    @classmethod
    def from_file(cls, path: str | Path, max_rule_iterations: int = MAX_RULE_ITERATIONS) -> Rules:
        """The rules of a YAML or JSON file. Raises RuleFileError, and ConfigError if it cannot be read."""
        return cls(read_rules(path), max_rule_iterations)

    @classmethod
    def from_data(cls, permissions: Any, max_rule_iterations: int = MAX_RULE_ITERATIONS) -> Rules:
        """The rules of the content of a permission file. Raises RuleFileError."""
        return cls(RuleSet.load(permissions), max_rule_iterations)

    @property
    def warnings(self) -> Sequence[str]:
        """What is accepted but unwise."""
        return self._rules.warnings

    def __iter__(self) -> Iterator[tuple[str, str, str, str]]:
        """Section, path, rule type and text of every rule."""
        for section, path, kind, rule in self._rules.rules():
            yield section, path, kind, rule.source

    def check(
        self,
        *,
        user: str | Mapping[str, Any] | None = None,
        action: str,
        name: str | None = None,
        data: Any = UNDEFINED,
        old_data: Any = UNDEFINED,
        records: Mapping[str, Any] | None = None,
        path: str | None = None,
        now: float | None = None,
    ) -> Decision:
        """Decide as a server does.

        `user` is an id or `{"id": ..., "data": serverData}`; without it the user is `open`. `action` is a
        section and a rule type, `record.write`, or a section and an action of the protocol, `record.patch`.
        `data` is the payload. With `path` a write is a patch, which without `data` erases. `old_data` is the
        record as it is, `records` are those that exist besides; an exception in place of data stands for a
        record that cannot be loaded. `now` is in ms since 1970. What a server checks in two steps
        (`record.createAndUpdate`) is allowed if both are; else the decision is that of the step that is not.

        Raises ValueError for an action that rules have no say in or that lacks something, and for data that
        is no JSON.
        """
        section, code = _action(action)
        if path is not None and section == "record" and code in (RecordAction.UPDATE, RecordAction.PATCH):
            # A patch without data erases, and needs the right to.
            code = RecordAction.ERASE if data is UNDEFINED else RecordAction.PATCH
        message = _message(section, code, name, data, path)
        known = dict(records or {})
        if old_data is not UNDEFINED and name is not None:
            known[name] = old_data
        world = _World(known, _user(user), time.time() * 1000 if now is None else now)
        steps: Sequence[int] = _IN_STEPS.get(code, (code,)) if isinstance(code, RecordAction) else (code,)
        if code is RecordAction.SUBSCRIBECREATEANDREAD and known.get(str(name)) is not None:
            steps = (RecordAction.READ,)
        decision: Decision
        for step in steps:
            decision = self._step(action, message.replace(action=step, original_action=code), world)
            if not decision:
                break
        return decision

    def _step(self, action: str, message: Message, world: _World) -> Decision:
        needed = rule_type(message.topic, message.action)
        assert needed is not None
        section, kind = needed
        decision = Decision(False, action, message.name, world.user_id, section, kind)
        try:
            matching = list(
                self._rules.matching(section, kind, "undefined" if message.name is None else message.name)
            )
        except RuleError as error:
            return replace(decision, error=str(error))
        if not matching:
            return decision
        (path, values), *others = matching
        decision = replace(
            decision,
            path=path.text,
            rule=path.rules[kind].source,
            less_specific=[(other.text, other.rules[kind].source) for other, _ in others],
        )
        return self._evaluate(decision, path, values, message, world)

    def _evaluate(
        self, decision: Decision, path: RulePath, values: tuple[str, ...], message: Message, world: _World
    ) -> Decision:
        """Evaluate until everything is loaded (valve.md section 8)."""
        rule = path.rules[decision.rule_type]
        run = Run(Binding(rule, values), world.user_id, world.user_data, message)
        loaded: dict[str, Any] = {}
        allowed, value, error, runs = False, UNDEFINED, None, 0
        while True:
            runs += 1
            if runs > self._max_runs:
                error = "Exceeded max iteration count"
                break
            try:
                allowed, missing = run.attempt(loaded, world.now)
                if not missing:
                    value = run.value()
                    break
                for name in sorted(missing):
                    loaded[name] = world.load(name)
            except RuleError as failure:
                allowed, error = False, str(failure)
                break
        own = message.name if run.uses_record else None
        return replace(
            decision,
            allowed=allowed and error is None,
            value=value,
            error=error,
            runs=min(runs, self._max_runs),
            inputs=_inputs(rule.names, dict(zip(path.variables, values, strict=True)), run, message, world),
            references={name: data for name, data in loaded.items() if name != own},
        )


@dataclass(frozen=True, slots=True)
class _World:
    """What a rule can see besides the message."""

    records: Mapping[str, Any]
    user: tuple[str, Any]
    now: float

    @property
    def user_id(self) -> str:
        return self.user[0]

    @property
    def user_data(self) -> Any:
        return self.user[1]

    def load(self, name: str) -> Any:
        """The data of a record, None if it does not exist. Raises RuleError."""
        data = self.records.get(name)
        if isinstance(data, Exception):
            raise RuleError(f"failed to load record {name} for permissioning:{data}")
        return data


def _inputs(
    names: frozenset[str], variables: Mapping[str, str], run: Run, message: Message, world: _World
) -> dict[str, Any]:
    """The names that a rule uses, and their values."""
    values = {f"${name}": value for name, value in variables.items() if f"${name}" in names}
    if "user" in names:
        values |= {"user.id": world.user_id, "user.data": world.user_data}
    others = {
        "data": run.data,
        "oldData": run.old_data,
        "now": world.now,
        "action": message.action,
        "name": UNDEFINED if message.name is None else message.name,
    }
    return values | {name: value for name, value in others.items() if name in names}


# The arguments of a check.


def _user(user: str | Mapping[str, Any] | None) -> tuple[str, Any]:
    if user is None:
        return "open", None
    if isinstance(user, str):
        return user, None
    unknown = set(user) - {"id", "data"}
    if unknown or not isinstance(user.get("id"), str):
        raise ValueError("a user is an id, or a mapping with id and data")
    return user["id"], json.loads(_json(user.get("data"), "the data of the user"))


def _action(text: str) -> tuple[str, IntEnum]:
    """Section and action. Raises ValueError."""
    section, _, word = text.partition(".")
    if section not in _TOPICS or not word:
        raise ValueError(f"an action is a section and what is done, for example record.write, not {text!r}")
    topic, enum = _TOPICS[section]
    actions: dict[str, IntEnum] = {
        code.name.replace("_", "").lower(): code
        for code in enum
        if rule_type(topic, code) is not None or (section == "record" and code in _IN_STEPS)
    }
    actions |= {kind: code for (place, kind), code in _STANDS_FOR.items() if place == section}
    plain = word.replace("_", "").replace("-", "").lower()
    if plain not in actions:
        close = difflib.get_close_matches(plain, actions, n=1)
        hint = f"; did you mean {section}.{close[0]}?" if close else ""
        raise ValueError(f"rules have no say in the action {text}{hint}")
    return section, actions[plain]


def _message(section: str, code: int, name: str | None, data: Any, path: str | None) -> Message:
    """The message of a client. Raises ValueError."""
    if name is None and not (section == "presence" and code in _NAMELESS):
        raise ValueError("the action needs a name")
    payload = None if data is UNDEFINED else _json(data, "the data").encode()
    if section == "record":
        if code in (RecordAction.PATCH, RecordAction.ERASE, RecordAction.CREATEANDPATCH) and path is None:
            raise ValueError("the action needs a path")
        writes = (RecordAction.UPDATE, RecordAction.PATCH_MULTI, *_IN_STEPS)
        if code in writes and code != RecordAction.SUBSCRIBECREATEANDREAD and payload is None:
            raise ValueError("the action needs data")
    return Message(_TOPICS[section][0], code, name=name, data=payload, path=path)


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{what} cannot be written as JSON") from None


# Cases.

_DOCUMENT_KEYS = ("rules", "users", "records", "now", "maxRuleIterations", "cases")
_CASE_KEYS = (
    "title", "user", "action", "name", "path", "data", "oldData", "records", "now", "expected", "error",
)  # fmt: skip
_OUTCOMES = {"allow": "allow", "deny": "deny", "error": "error", True: "allow", False: "deny"}


class CaseError(ValueError):
    """A file of cases that cannot be used; `line` counts from 1, 0 if it is not known."""

    def __init__(self, text: str, file: str | Path, line: int) -> None:
        super().__init__(f"{file}, line {line}: {text}" if line else f"{file}: {text}")
        self.line = line


@dataclass(frozen=True, slots=True)
class Case:
    """One decision that is known to be right; its text is its title."""

    title: str
    rules: Rules
    arguments: Mapping[str, Any]
    """What `Rules.check` is called with."""
    expected: str
    """`allow`, `deny` or `error`."""
    error: str | None
    """What the text of an error has to contain."""
    file: str
    line: int

    def __str__(self) -> str:
        return self.title

    def decide(self) -> Decision:
        """What the rules say."""
        return self.rules.check(**self.arguments)

    def check(self) -> None:
        """Raises AssertionError, with the reasons, if the decision is another one."""
        decision = self.decide()
        if decision.outcome != self.expected:
            raise AssertionError(f"expected {self.expected}, but\n  {decision}")
        if self.error is not None and self.error not in str(decision.error):
            raise AssertionError(f"expected an error with {self.error!r}, but\n  {decision}")


def read_cases(path: str | Path, rules: Rules | None = None) -> list[Case]:
    """The cases of a YAML or JSON file (docs/valve.md), for `dsfast valve test` and for pytest:

        @pytest.mark.parametrize("case", read_cases("cases.yml"), ids=str)
        def test_permissions(case):
            case.check()

    `rules` take the place of those that the file names. Raises CaseError, RuleFileError for the rules, and
    ConfigError if a file cannot be read.
    """
    return _CaseFile(Path(path), rules).cases


class _CaseFile:
    def __init__(self, path: Path, rules: Rules | None) -> None:
        self._path = path
        document = read_document(path)
        self._lines = document.lines
        content = document.value
        self._check_keys(content, _DOCUMENT_KEYS, "")
        self._users = self._mapping(content, "users")
        self._records = self._mapping(content, "records")
        self._now = content.get("now")
        self._rules = rules or self._read_rules(content)
        given = content.get("cases")
        if not isinstance(given, list) or not given:
            raise self._error("there must be a list of cases", "/cases")
        self.cases = [self._case(case, f"/cases/{number}") for number, case in enumerate(given)]

    def _error(self, text: str, pointer: str) -> CaseError:
        while pointer and pointer not in self._lines:
            pointer = pointer.rpartition("/")[0]
        return CaseError(text, self._path, self._lines.get(pointer, 0))

    def _check_keys(self, given: Any, keys: Sequence[str], pointer: str) -> None:
        if not isinstance(given, dict):
            raise self._error(f"there must be a mapping with some of {', '.join(keys)}", pointer)
        for key in given:
            if key not in keys:
                close = difflib.get_close_matches(str(key), keys, n=1)
                hint = f", did you mean {close[0]}?" if close else f"; known are {', '.join(keys)}"
                raise self._error(f"unknown key {key}{hint}", f"{pointer}/{key}")

    def _mapping(self, content: Mapping[str, Any], key: str, pointer: str = "") -> dict[str, Any]:
        value = content.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._error(f"{key} must be a mapping", f"{pointer}/{key}")
        return value or {}

    def _read_rules(self, content: Mapping[str, Any]) -> Rules:
        given = content.get("rules")
        limit = content.get("maxRuleIterations", MAX_RULE_ITERATIONS)
        if not isinstance(limit, int) or limit < 1:
            raise self._error("maxRuleIterations must be a number of at least 1", "/maxRuleIterations")
        if isinstance(given, dict):
            lines = {
                pointer.removeprefix("/rules"): line
                for pointer, line in self._lines.items()
                if pointer.startswith("/rules")
            }
            return Rules(RuleSet.load(given, lines, self._path), limit)
        if not isinstance(given, str):
            raise self._error("rules must be the path of a permission file, or its content", "/rules")
        return Rules.from_file(self._path.parent / given, limit)

    def _case(self, given: Any, pointer: str) -> Case:
        self._check_keys(given, _CASE_KEYS, pointer)
        expected = _OUTCOMES.get(given.get("expected")) if _is_plain(given.get("expected")) else None
        if expected is None:
            raise self._error("expected must be allow, deny or error", f"{pointer}/expected")
        if "error" in given and (expected != "error" or not isinstance(given["error"], str)):
            raise self._error("error is a text, for cases with expected: error", f"{pointer}/error")
        for key in ("title", "action", "name", "path"):
            if not isinstance(given.get(key, ""), str):
                raise self._error(f"{key} must be a text", f"{pointer}/{key}")
        user = given.get("user")
        arguments: dict[str, Any] = {
            "user": {"id": user, "data": self._users[user]}
            if _is_plain(user) and user in self._users
            else user,
            "action": given.get("action", ""),
            "name": given.get("name"),
            "path": given.get("path"),
            "records": self._records | self._mapping(given, "records", pointer),
            "now": given.get("now", self._now),
        }
        arguments |= {
            to: given[key] for key, to in (("data", "data"), ("oldData", "old_data")) if key in given
        }
        who = "" if user is None else f" by {user if isinstance(user, str) else _text(user)}"
        title = given.get("title") or f"{arguments['action']} {arguments['name'] or ''}{who}"
        line = self._lines.get(pointer, 0)
        case = Case(title, self._rules, arguments, expected, given.get("error"), str(self._path), line)
        try:
            case.decide()
        except (ValueError, TypeError) as error:
            raise self._error(str(error), pointer) from None
        return case


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bool)


# Texts.

_LONGEST_TEXT = 500


def _text(value: Any) -> str:
    """A value as JavaScript writes it, at most `_LONGEST_TEXT` characters."""
    text = _written(value)
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}... ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def _written(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return number_text(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return f"[{', '.join(map(_written, value))}]"
        case dict():
            return f"{{{', '.join(f'{_written(key)}: {_written(item)}' for key, item in value.items())}}}"
    return "undefined" if value is UNDEFINED else repr(value)
