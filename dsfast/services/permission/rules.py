"""The permission file: checked, compiled, and searched for the rule of a name (valve.md sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsfast import regexp
from dsfast._core.valve import Rule, RuleError, RuleSyntaxError, compile_rule
from dsfast.config import read_document
from dsfast.regexp import Matcher, Regexp, RegexpError, RegexpTimeout

__all__ = ["SECTIONS", "RuleFileError", "RulePath", "RuleSet", "default_permissions", "read_rules"]

SECTIONS: dict[str, tuple[str, ...]] = {
    "record": ("create", "read", "write", "delete", "listen", "notify"),
    "event": ("publish", "subscribe", "listen"),
    "rpc": ("provide", "request"),
    "presence": ("allow",),
}
"""The rule types of each section."""

FUNCTIONS = frozenset(
    {"_", "startsWith", "endsWith", "includes", "indexOf", "match", "toUpperCase", "toLowerCase", "trim"}
)
HAS_DATA = frozenset({("record", "write"), ("event", "publish"), ("event", "subscribe"), ("rpc", "request")})
HAS_OLD_DATA = frozenset({("record", "read"), ("record", "write"), ("record", "delete")})

PATHS_MEMORY = 16 * 1024 * 1024
"""Bytes RE2 may spend on the common automaton of the paths of one rule type."""

# The tests of a rule's text. They look at strings and comments too, as deepstream.io's do.
_NEW = regexp.compile(r"(^|[^\w$])new[^\w$]")
_FUNCTION = regexp.compile(r"=>|[^\w$]function[^\w$]")
_CALL = regexp.compile(r"""([\w]+(?:['"`]\])?)\s*\(""", "g", limit=1000)
_OLD_DATA = regexp.compile(r"(^|[^\w~])oldData[^\w~]")
_DATA = regexp.compile(r"(^|[^\w.~])data($|[^\w~])")
_CALLED = regexp.compile(r"^[^\s(]+")

_VARIABLE = regexp.compile(r"^\$[A-Za-z0-9]+")
_BAD_VARIABLE = regexp.compile(r"\$[^A-Za-z0-9]", "u")


class RuleFileError(ValueError):
    """The permissions cannot be used; the text is that of deepstream.io.

    `section`, `path` and `rule_type` say where, as far as they are known; `line` counts from 1.
    """

    def __init__(
        self, text: str, section: str = "", path: str = "", rule_type: str = "", line: int | None = None
    ) -> None:
        super().__init__(text)
        self.section = section
        self.path = path
        self.rule_type = rule_type
        self.line = line
        self.file: str | None = None

    @property
    def place(self) -> str:
        """File and line, or as much of it as is known."""
        parts = [self.file or "", "" if self.line is None else f"line {self.line}"]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class RulePath:
    """One path of a section and its rules."""

    text: str
    regexp: Regexp
    variables: tuple[str, ...]
    """Names without `$`, each once."""
    groups: tuple[int, ...]
    """The group of each variable in the regular expression."""
    rules: Mapping[str, Rule]

    def match(self, name: str) -> tuple[str, ...] | None:
        """The values of the variables if the path matches the whole name.

        A variable in a part of the path that was left out is the empty text. Raises RuleError if a regular
        expression for the backtracking engine takes too long.
        """
        try:
            match = self.regexp.fullmatch(name)
        except RegexpTimeout as error:
            raise RuleError(str(error)) from error
        return None if match is None else tuple(match.groups[group] or "" for group in self.groups)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The paths that define one rule type, the most specific first."""

    paths: Sequence[RulePath]
    matcher: Matcher | None
    """Finds the paths of `regular` in one pass; None if they are too many for that."""
    regular: Sequence[int]
    """Positions of the paths that RE2 can match."""
    others: Sequence[int]

    def matching(self, name: str) -> Iterator[tuple[RulePath, tuple[str, ...]]]:
        """The paths that match and the values of their variables, the most specific first."""
        if self.matcher is None:
            positions: Sequence[int] = range(len(self.paths))
        else:
            found = self.matcher.match(regexp.to_units(name))
            positions = sorted([*(self.regular[position] for position in found), *self.others])
        for position in positions:
            path = self.paths[position]
            values = path.match(name)
            if values is not None:
                yield path, values


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of a permission file; immutable."""

    sections: Mapping[str, Sequence[RulePath]]
    """The paths of each section in the order of the file."""
    warnings: Sequence[str] = ()
    """What is accepted but unwise: rules that need the backtracking engine."""
    _candidates: Mapping[tuple[str, str], _Candidates] = field(default_factory=dict)

    @classmethod
    def load(
        cls, permissions: object, lines: Mapping[str, int] | None = None, file: str | Path | None = None
    ) -> RuleSet:
        """Check and compile the content of a permission file.

        `lines` maps JSON pointers to lines of the file, see `dsfast.config.read_document`. Raises
        RuleFileError, for the first thing that is wrong in the order of valve.md section 2.
        """
        try:
            sections = _check_structure(permissions)
            return _compile(sections)
        except RuleFileError as error:
            error.file = None if file is None else str(file)
            error.line = _line(lines or {}, error)
            raise

    def rules(self) -> Iterator[tuple[str, str, str, Rule]]:
        """Section, path, rule type and rule of every rule, in the order of the file."""
        for section, paths in self.sections.items():
            for path in paths:
                for rule_type, rule in path.rules.items():
                    yield section, path.text, rule_type, rule

    def paths(self, section: str, rule_type: str) -> Sequence[RulePath]:
        """The paths that define a rule type, in the order in which they count."""
        return self._candidates[section, rule_type].paths

    def find(self, section: str, rule_type: str, name: str) -> tuple[Rule, tuple[str, ...]] | None:
        """The rule for a name and the values of `rule.variables`; None if no path matches.

        Raises RuleError if the regular expression of a path takes too long.
        """
        for path, values in self.matching(section, rule_type, name):
            return path.rules[rule_type], values
        return None

    def matching(self, section: str, rule_type: str, name: str) -> Iterator[tuple[RulePath, tuple[str, ...]]]:
        """The paths that match a name and define the rule type; the first one counts. Raises like `find`."""
        return self._candidates[section, rule_type].matching(name)


def read_rules(path: str | Path) -> RuleSet:
    """The rules of a YAML or JSON file. Raises RuleFileError, and ConfigError if it cannot be read at all."""
    document = read_document(path)
    return RuleSet.load(document.value, document.lines, path)


def default_permissions() -> dict[str, dict[str, dict[str, bool]]]:
    """A permission file that allows everything."""
    return {section: {"*": dict.fromkeys(types, True)} for section, types in SECTIONS.items()}


# Checks, in their order.


def _check_structure(permissions: object) -> dict[str, dict[str, Any]]:
    """The sections with their paths as texts, if everything but the rules is right."""
    if not isinstance(permissions, Mapping | list):
        raise RuleFileError(f"config should be an object literal, but was of type {_type_of(permissions)}")
    given = _as_mapping(permissions)
    for section in SECTIONS:
        if not isinstance(given.get(section), Mapping | list):
            raise RuleFileError(f'missing configuration section "{section}"', section)
    for section in given:
        if section not in SECTIONS:
            raise RuleFileError(f'unexpected configuration section "{section}"', str(section))
    sections = {section: _as_mapping(paths) for section, paths in given.items()}
    for section in SECTIONS:
        if not sections[section]:
            raise RuleFileError(f'empty section "{section}"', section)
        for path in sections[section]:
            if error := _path_error(path):
                raise RuleFileError(f"{error} for path {path} in section {section}", section, str(path))
    for section in SECTIONS:
        root = sections[section].get("*")
        if not isinstance(root, Mapping | list):
            raise RuleFileError(f'missing root entry "*" for section {section}', section, "*")
    return sections


def _type_of(value: object) -> str:
    """JavaScript's name for the type; nothing at all, as in an empty file, is undefined."""
    if value is None:
        return "undefined"
    names = {bool: "boolean", int: "number", float: "number", str: "string"}
    return names.get(type(value), type(value).__name__)


def _as_mapping(value: Any) -> dict[Any, Any]:
    """`value` with its keys as JavaScript has them: texts, and those that look like indices first."""
    if isinstance(value, list):
        return {str(index): item for index, item in enumerate(value)}
    named = {
        str(key) if isinstance(key, int) and not isinstance(key, bool) else key: item
        for key, item in value.items()
    }
    indices = sorted((key for key in named if _is_index(key)), key=int)
    return {key: named[key] for key in [*indices, *(key for key in named if not _is_index(key))]}


def _is_index(key: object) -> bool:
    return (
        isinstance(key, str)
        and key.isascii()
        and key.isdigit()
        and len(key) <= 10
        and str(int(key)) == key
        and int(key) < 2**32 - 1
    )


def _path_error(path: object) -> str:
    if not isinstance(path, str):
        return "path must be a string"
    if not path:
        return "path can't be empty"
    if path.startswith("/"):
        return "path can't start with /"
    bad = _BAD_VARIABLE.search(path)
    return f"invalid variable name {bad.groups[0]}" if bad else ""


def _text_error(rule: object) -> str:
    """What is wrong with a rule before it is compiled."""
    if isinstance(rule, bool):
        return ""
    if not isinstance(rule, str):
        return "rule must be a string"
    if not rule:
        return "rule can't be empty"
    if len(rule) > regexp.MAX_LENGTH:
        return ""  # the compiler refuses it
    if _NEW.test(rule):
        return "rule can't contain the new keyword"
    if _FUNCTION.test(rule):
        return "rule can't contain user functions"
    for call in _CALL.find_all(rule):
        word = _CALLED.search(call)
        if word is not None and word.groups[0] not in FUNCTIONS:
            return f"function {word.groups[0]} is not supported"
    return ""


def _name_error(rule: str, section: str, rule_type: str) -> str:
    """Whether a rule that could be compiled uses data that its type does not have."""
    place = f"rule {rule_type} for {section} does not support"
    if (section, rule_type) not in HAS_OLD_DATA and _OLD_DATA.test(rule):
        return f"{place} oldData"
    if (section, rule_type) not in HAS_DATA and _DATA.test(rule):
        return f"{place} data"
    return ""


# Compiling.


def _compile(sections: Mapping[str, Mapping[str, Any]]) -> RuleSet:
    compiled: dict[str, list[RulePath]] = {}
    sources = {section: [_PathSource(path, section) for path in paths] for section, paths in sections.items()}
    # All rules before the first path, since a path that is no regular expression is the last thing checked.
    rules = {
        (section, source.text): _compile_rules(source, paths[source.text])
        for section, paths in sections.items()
        for source in sources[section]
    }
    for section in sections:
        compiled[section] = [source.compile(rules[section, source.text]) for source in sources[section]]
    candidates = {
        (section, rule_type): _candidates([path for path in compiled[section] if rule_type in path.rules])
        for section, types in SECTIONS.items()
        for rule_type in types
    }
    warnings = [
        text for section, paths in compiled.items() for path in paths for text in _warnings(section, path)
    ]
    return RuleSet(compiled, warnings, candidates)


class _PathSource:
    """A path as a regular expression: everything but `*` and `$name` stands for itself, unescaped."""

    def __init__(self, text: str, section: str) -> None:
        self.text = text
        self.section = section
        self._groups: dict[str, str] = {}  # variable -> its group; of two of the same name the last counts
        parts: list[str] = []
        at = 0
        while at < len(text):
            variable = _VARIABLE.search(text[at:]) if text[at] == "$" else None
            if variable is not None:
                name = str(variable.groups[0])
                group = f"valve{len(parts)}"
                self._groups[name[1:]] = group
                parts.append(f"(?<{group}>[^/]+)")
                at += len(name)
            else:
                parts.append(".*" if text[at] == "*" else text[at])
                at += 1
        self.source = "".join(parts)
        self.variables = tuple(self._groups)

    def compile(self, rules: Mapping[str, Rule]) -> RulePath:
        try:
            compiled = regexp.compile(self.source, allow_backtracking=True)
            # A variable within brackets is no group.
            groups = tuple(compiled.names[group] for group in self._groups.values())
        except (RegexpError, KeyError) as error:
            text = f"invalid path {self.text} in section {self.section}"
            raise RuleFileError(text, self.section, self.text) from error
        return RulePath(self.text, compiled, self.variables, groups, rules)


def _compile_rules(path: _PathSource, given: object) -> dict[str, Rule]:
    section = path.section
    if given is None:
        return {}
    if not isinstance(given, Mapping | list):
        # deepstream.io ignores such an entry, so that the rules of another path apply.
        text = f"rules of path {path.text} in section {section} must be an object literal"
        raise RuleFileError(text, section, path.text)
    rules: dict[str, Rule] = {}
    for rule_type, rule in _as_mapping(given).items():
        try:
            if rule_type not in SECTIONS[section]:
                raise _RuleProblem(f"unknown rule type {rule_type} in section {section}")
            rules[rule_type] = _compile_rule(rule, path.variables, section, rule_type)
        except _RuleProblem as problem:
            raise RuleFileError(str(problem), section, path.text, str(rule_type)) from None
    return rules


class _RuleProblem(Exception):
    """What is wrong with a rule."""


def _compile_rule(rule: Any, variables: tuple[str, ...], section: str, rule_type: str) -> Rule:
    if error := _text_error(rule):
        raise _RuleProblem(error)
    try:
        compiled = compile_rule(rule, variables)
    except RuleSyntaxError as problem:
        raise _RuleProblem(f"SyntaxError: {problem}") from None
    if isinstance(rule, str) and (error := _name_error(rule, section, rule_type)):
        raise _RuleProblem(error)
    return compiled


def _candidates(paths: Sequence[RulePath]) -> _Candidates:
    # Longest text first, counted in UTF-16 code units; of equally long ones the last.
    ranks = {position: (len(regexp.to_units(path.text)), position) for position, path in enumerate(paths)}
    ordered = [paths[position] for position in sorted(ranks, key=ranks.__getitem__, reverse=True)]
    regular = {
        position: f"\\A(?:{path.regexp.re2_source})\\z"
        for position, path in enumerate(ordered)
        if path.regexp.re2_source is not None
    }
    others = [position for position in range(len(ordered)) if position not in regular]
    try:
        matcher = Matcher(list(regular.values()), PATHS_MEMORY)
    except RegexpError:
        return _Candidates(ordered, None, (), ())
    return _Candidates(ordered, matcher, list(regular), others)


def _warnings(section: str, path: RulePath) -> Iterator[str]:
    if path.regexp.engine == "regex":
        yield _slow(f'{section} "{path.text}"', "the path", path.regexp)
    for rule_type, rule in path.rules.items():
        for pattern in rule.regexps:
            if pattern.engine == "regex":
                yield _slow(f'{section} "{path.text}" {rule_type}', f"{pattern!r}", pattern)


def _slow(place: str, what: str, pattern: Regexp) -> str:
    return (
        f"{place}: {what} has {pattern.reason}, so it may need much time for some texts; "
        f"after {regexp.BACKTRACKING_LIMIT:g} ms the action is refused"
    )


def _line(lines: Mapping[str, int], error: RuleFileError) -> int | None:
    """The line of what is wrong, or of the innermost thing around it that is in the file."""
    parts = [
        part.replace("~", "~0").replace("/", "~1") for part in (error.section, error.path, error.rule_type)
    ]
    while parts and not parts[-1]:
        parts.pop()
    while parts:
        line = lines.get("".join(f"/{part}" for part in parts))
        if line is not None:
            return line
        parts.pop()
    return lines.get("")
