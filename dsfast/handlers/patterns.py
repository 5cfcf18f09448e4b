"""Listen patterns: JavaScript regular expressions run by RE2 (spec/valve.md section 7).

Patterns come from clients, so they run on a linear-time engine only. `translate` rewrites JavaScript syntax
(without flags) into RE2 syntax of the same meaning; what RE2 lacks (look-around, back references, large
repetitions) is a `PatternError`. JavaScript matches UTF-16 code units, not characters: patterns and names
are turned into strings of one character per code unit, in which a surrogate `u` is the otherwise
unused character `u + 0x100000`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import re2

__all__ = ["Pattern", "PatternError", "PatternIndex", "translate"]

PATTERN_MEMORY = 256 * 1024
"""Bytes RE2 may spend on one pattern: about 4000 instructions."""

INDEX_MEMORY = 64 * 1024 * 1024
"""Bytes RE2 may spend on the common automaton of all patterns."""

Ranges = list[tuple[int, int]]

_SURROGATES = (0xD800, 0xDFFF)
_SURROGATE_SHIFT = 0x100000
_LAST_UNIT = 0xFFFF
_DIGIT: Ranges = [(0x30, 0x39)]
_WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: Ranges = [
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
    (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
]  # fmt: skip
_LINE_END: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CONTROL = {"f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09, "v": 0x0B}
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")


class PatternError(ValueError):
    """The text is not a JavaScript regular expression, or one that RE2 cannot run."""


def to_units(text: str) -> str:
    """`text` with one character per UTF-16 code unit."""
    if text.isascii() or max(text) < "\ud800":
        return text
    encoded = text.encode("utf-16-le", "surrogatepass")
    units = struct.unpack(f"<{len(encoded) // 2}H", encoded)
    first, last = _SURROGATES
    return "".join(chr(unit + _SURROGATE_SHIFT if first <= unit <= last else unit) for unit in units)


def _complement(ranges: Ranges) -> Ranges:
    """The code units outside `ranges`."""
    result: Ranges = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            result.append((start, low - 1))
        start = max(start, high + 1)
    if start <= _LAST_UNIT:
        result.append((start, _LAST_UNIT))
    return result


_CLASS_ESCAPES = {
    "d": _DIGIT, "D": _complement(_DIGIT), "w": _WORD, "W": _complement(_WORD),
    "s": _SPACE, "S": _complement(_SPACE),
}  # fmt: skip


def _char(code: int) -> str:
    text = chr(code)
    return text if text.isascii() and text.isalnum() else f"\\x{{{code:x}}}"


def _class(ranges: Ranges) -> str:
    """RE2 source that matches one code unit of `ranges`."""
    first, last = _SURROGATES
    parts: list[str] = []
    for low, high in ranges:
        for piece_low, piece_high, shift in (
            (low, min(high, first - 1), 0),
            (max(low, first), min(high, last), _SURROGATE_SHIFT),
            (max(low, last + 1), high, 0),
        ):
            if piece_low == piece_high:
                parts.append(_char(piece_low + shift))
            elif piece_low < piece_high:
                parts.append(f"{_char(piece_low + shift)}-{_char(piece_high + shift)}")
    return f"[{''.join(parts)}]" if parts else "[^\\x{0}-\\x{10ffff}]"


class _Translator:
    """One pass over the code units of a pattern."""

    def __init__(self, pattern: str) -> None:
        self.text = to_units(pattern)
        self.at = 0
        self.out: list[str] = []
        self.depth = 0
        self.repeatable = False  # whether a quantifier may follow
        self.names: set[str] = set()
        self.groups, self.has_names = self._count_groups()

    def peek(self, offset: int = 0) -> str:
        """The unit `offset` ahead, or an empty string."""
        return self.text[self.at + offset : self.at + offset + 1]

    def unit(self) -> int:
        """Take one unit and return its code."""
        code = ord(self.text[self.at])
        self.at += 1
        return code - _SURROGATE_SHIFT if code > _LAST_UNIT else code

    def _count_groups(self) -> tuple[int, bool]:
        """Number of capturing groups, and whether one has a name: both decide what an escape means."""
        count, has_names, in_class, at = 0, False, False, 0
        while at < len(self.text):
            char = self.text[at]
            if char == "\\":
                at += 1
            elif in_class:
                in_class = char != "]"
            elif char == "[":
                in_class = True
            elif char == "(":
                named = self.text.startswith("(?<", at) and self.text[at + 3 : at + 4] not in ("=", "!")
                has_names = has_names or named
                count += named or self.text[at + 1 : at + 2] != "?"
            at += 1
        return count, has_names

    def run(self) -> str:
        while self.at < len(self.text):
            char = self.peek()
            if char in "*+?":
                self.at += 1
                self.quantify(char)
            elif char == "{":
                self.brace()
            else:
                self.term(char)
        if self.depth:
            raise PatternError("unterminated group")
        return "".join(self.out)

    def term(self, char: str) -> None:
        """Everything but quantifiers."""
        if char == "(":
            self.open_group()
            self.repeatable = False
        elif char == ")":
            if not self.depth:
                raise PatternError("unmatched )")
            self.depth -= 1
            self.at += 1
            self.emit(")")
        elif char in "|^$":
            self.at += 1
            self.emit(char, repeatable=False)
        elif char == ".":
            self.at += 1
            self.emit(_class(_complement(_LINE_END)))
        elif char == "[":
            self.at += 1
            self.emit(_class(self.bracket()))
        elif char == "\\":
            self.at += 1
            self.escape()
        else:
            self.literal(self.unit())

    def emit(self, source: str, *, repeatable: bool = True) -> None:
        self.out.append(source)
        self.repeatable = repeatable

    def literal(self, unit: int) -> None:
        self.emit(_class([(unit, unit)]) if unit > 0x7F else _char(unit))

    def quantify(self, quantifier: str) -> None:
        if not self.repeatable:
            raise PatternError("nothing to repeat")
        if self.peek() == "?":  # lazy: makes no difference to whether there is a match
            self.at += 1
        self.emit(quantifier, repeatable=False)

    def brace(self) -> None:
        """`{n}`, `{n,}`, `{n,m}`, or else a literal brace."""
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : max(end, self.at + 1)].partition(",")
        if not _is_number(low) or not (high == "" or _is_number(high)):
            self.literal(self.unit())
            return
        if high and int(low) > int(high):
            raise PatternError("numbers out of order in {}")
        self.at = end + 1
        self.quantify(f"{{{int(low)}{comma}{int(high) if high else ''}}}")

    def open_group(self) -> None:
        """All groups become non-capturing: nobody reads what they captured."""
        if self.text.startswith(("(?=", "(?!", "(?<=", "(?<!"), self.at):
            raise PatternError("look-around is not supported")
        if self.text.startswith("(?:", self.at):
            self.at += 3
        elif self.text.startswith("(?<", self.at):
            name, closed, _ = self.text[self.at + 3 :].partition(">")
            if not closed or not name.replace("$", "_").isidentifier() or name in self.names:
                raise PatternError("invalid group name")
            self.names.add(name)
            self.at += len(name) + 4
        elif self.peek(1) == "?":
            raise PatternError("invalid group")
        else:
            self.at += 1
        self.depth += 1
        self.out.append("(?:")

    def escape(self) -> None:
        """An escape outside brackets; the backslash has been taken."""
        char = self.peek()
        if not char:
            raise PatternError("\\ at end of pattern")
        if char in _CLASS_ESCAPES:
            self.at += 1
            self.emit(_class(_CLASS_ESCAPES[char]))
        elif char in "bB":
            self.at += 1
            self.emit(f"\\{char}", repeatable=False)
        elif (char in "123456789" and self.number_ahead() <= self.groups) or (char == "k" and self.has_names):
            raise PatternError("back references are not supported")
        else:
            self.literal(self.character_escape())

    def number_ahead(self) -> int:
        end = self.at
        while "0" <= self.text[end : end + 1] <= "9":
            end += 1
        return int(self.text[self.at : end])

    def character_escape(self, *, in_class: bool = False) -> int:
        """The unit an escape stands for; the backslash has been taken."""
        char = self.peek()
        if char in _CONTROL:
            self.at += 1
            return _CONTROL[char]
        if char in _OCTAL:
            return self.octal()
        if char == "c":
            letter = self.peek(1)
            if letter.isascii() and (letter.isalpha() or (in_class and (letter.isdigit() or letter == "_"))):
                self.at += 2
                return ord(letter) % 32
            return ord("\\")  # and the c stands for itself
        if char in ("x", "u"):
            digits = self.text[self.at + 1 : self.at + (3 if char == "x" else 5)]
            if len(digits) == (2 if char == "x" else 4) and _HEX.issuperset(digits):
                self.at += 1 + len(digits)
                return int(digits, 16)
        return self.unit()

    def octal(self) -> int:
        value = 0
        for _ in range(3):
            if self.peek() not in _OCTAL or value * 8 + int(self.peek()) > 0o377:
                break
            value = value * 8 + int(self.peek())
            self.at += 1
        return value

    def bracket(self) -> Ranges:
        """A character class; the opening bracket has been taken."""
        negated = self.peek() == "^"
        self.at += negated
        ranges: Ranges = []
        while (char := self.peek()) != "]":
            if not char:
                raise PatternError("unterminated character class")
            low = self.class_atom()
            if self.peek() != "-" or self.peek(1) in ("]", ""):
                ranges += low
                continue
            self.at += 1
            high = self.class_atom()
            if len(low) > 1 or len(high) > 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1]:
                ranges += [*low, *high, (0x2D, 0x2D)]  # a set is no end of a range: the hyphen is literal
            elif low[0][0] > high[0][0]:
                raise PatternError("range out of order in character class")
            else:
                ranges.append((low[0][0], high[0][0]))
        self.at += 1
        merged = _complement(_complement(ranges))
        return _complement(merged) if negated else merged

    def class_atom(self) -> Ranges:
        if self.peek() != "\\":
            unit = self.unit()
            return [(unit, unit)]
        self.at += 1
        char = self.peek()
        if not char:
            raise PatternError("\\ at end of pattern")
        if char in _CLASS_ESCAPES:
            self.at += 1
            return _CLASS_ESCAPES[char]
        if char == "b":
            self.at += 1
            return [(8, 8)]
        unit = self.character_escape(in_class=True)
        return [(unit, unit)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def translate(pattern: str) -> str:
    """RE2 source that finds a match in `to_units(name)` exactly where JavaScript finds one in `name`.

    Raises PatternError if JavaScript would refuse the pattern, or if it needs what RE2 lacks.
    """
    return _Translator(pattern).run()


class _Matcher:
    """Several RE2 sources matched in one pass over a name.

    RE2 reports "no match" also when its automaton runs out of memory. So the first source is the empty one,
    which always matches: without it in the result the sources are asked one by one, on RE2's other engine.
    """

    def __init__(self, sources: Sequence[str], memory: int) -> None:
        """Raises PatternError if the sources are invalid or need more than `memory` bytes."""
        self._sources = sources
        options = re2.Options()
        options.log_errors = False
        options.max_mem = memory
        self._options = options
        self._set = re2.Set.SearchSet(options)
        try:
            for source in ("", *sources):
                self._set.Add(source)
            self._set.Compile()
        except re2.error as error:
            raise PatternError("too large, or not supported by RE2") from error

    def match(self, units: str) -> list[int]:
        """Positions of the sources that match."""
        found = self._set.Match(units)
        if found:
            return [position - 1 for position in found if position]
        return [
            position
            for position, source in enumerate(self._sources)
            if re2.compile(source, self._options).search(units)
        ]


class Pattern:
    """One compiled listen pattern."""

    __slots__ = ("_matcher", "source", "text")

    def __init__(self, text: str) -> None:
        """Raises PatternError, see `translate`."""
        self.text = text
        self.source = translate(text)
        self._matcher = _Matcher((self.source,), PATTERN_MEMORY)

    def matches(self, name: str) -> bool:
        """Whether JavaScript's `new RegExp(text).test(name)` would be true."""
        return bool(self._matcher.match(to_units(name)))


class PatternIndex:
    """All patterns of a topic, so that a name is matched against them in one pass.

    The common automaton is rebuilt when enough patterns have come or gone to pay for it; until then the
    newest patterns are tried one by one.
    """

    def __init__(self) -> None:
        self._settled: dict[int, Pattern] = {}  # position in the matcher -> pattern
        self._positions: dict[Pattern, int] = {}
        self._fresh: dict[Pattern, None] = {}
        self._matcher: _Matcher | None = None
        self._built = 0  # patterns in the matcher, also those that have gone since

    def add(self, pattern: Pattern) -> None:
        """`pattern` counts from now on."""
        self._fresh[pattern] = None

    def discard(self, pattern: Pattern) -> None:
        """`pattern` counts no more."""
        if pattern in self._fresh:
            del self._fresh[pattern]
        else:
            del self._settled[self._positions.pop(pattern)]

    def match(self, name: str) -> list[Pattern]:
        """The patterns that match `name`, in no order."""
        gone = self._built - len(self._settled)
        if len(self._fresh) > 16 + len(self._settled) // 8 or gone > 16 + len(self._settled):
            self._rebuild([*self._settled.values(), *self._fresh])
        found = [pattern for pattern in self._fresh if pattern.matches(name)]
        if self._matcher is not None:
            found += [
                self._settled[position]
                for position in self._matcher.match(to_units(name))
                if position in self._settled
            ]
        elif self._settled:
            found += [pattern for pattern in self._settled.values() if pattern.matches(name)]
        return found

    def _rebuild(self, patterns: Iterable[Pattern]) -> None:
        self._settled = dict(enumerate(patterns))
        self._positions = {pattern: position for position, pattern in self._settled.items()}
        self._built = len(self._settled)
        self._fresh = {}
        try:
            self._matcher = _Matcher([p.source for p in self._settled.values()], INDEX_MEMORY)
        except PatternError:
            # Together they are too large for one automaton, so each keeps its own.
            self._matcher = None
