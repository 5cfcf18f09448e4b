"""JavaScript regular expressions (spec/valve.md section 7), for rules, rule paths and listen patterns.

A source is parsed with JavaScript's grammar and rewritten for an engine. The engine is RE2, whose time is
linear in the text. What RE2 lacks (look-around, back references, large repetitions, ...) runs on the
backtracking engine of the package `regex` with a limit of time, and only where the caller allows it: in rule
files, whose author is trusted; never for patterns of clients.

JavaScript matches UTF-16 code units, not characters. So sources and texts become strings with one character
per unit, in which the surrogate `u` is the otherwise unused character `u + 0x100000`, since RE2 takes no
surrogates. With the flag `u` both consist of characters, and only lone surrogates are replaced so.
"""

from __future__ import annotations

import functools
import struct
import time
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import re2

__all__ = [
    "BACKTRACKING_LIMIT",
    "MAX_LENGTH",
    "Match",
    "Matcher",
    "Regexp",
    "RegexpError",
    "RegexpTimeout",
    "compile",
    "to_units",
    "translate",
]

MAX_LENGTH = 10_000
"""Code units a source may have."""

MAX_DEPTH = 100
"""Groups that may be open at once."""

MAX_REPEAT = 1_000_000_000
"""Repetitions beyond this number count as this number."""

MAX_WRITTEN = 500_000
"""Characters a rewritten source may have (large Unicode classes and doubled loops make it grow)."""

PROGRAM_MEMORY = 1024 * 1024
"""Bytes RE2 may spend on one expression: about 16 000 instructions."""

BACKTRACKING_LIMIT = 50.0
"""Milliseconds the backtracking engine may spend on one call."""

Ranges = Sequence[tuple[int, int]]

_FLAGS = frozenset("imsguyd")
_SURROGATES = (0xD800, 0xDFFF)
_SURROGATE_SHIFT = 0x100000
_LAST_UNIT = 0xFFFF
_LAST_CHARACTER = 0x10FFFF
_DIGIT: Ranges = [(0x30, 0x39)]
_WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_WORD_FOLDED: Ranges = [*_WORD, (0x17F, 0x17F), (0x212A, 0x212A)]
"""With the flags i and u: long s and the Kelvin sign fold to s and k."""
_SPACE: Ranges = [
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
    (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
]  # fmt: skip
_LINE_END: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CONTROL = {"f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09, "v": 0x0B}
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")
_SYNTAX = frozenset("^$\\.*+?()[]{}|/")
"""What the flag u lets a backslash stand before."""


class RegexpError(ValueError):
    """The source is no JavaScript regular expression, or one that no allowed engine can run."""


class RegexpTimeout(Exception):
    """The backtracking engine has been given up; whether there is a match is not known."""


class _LackingError(RegexpError):
    """RE2 has no equivalent of `what`."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not supported")
        self.what = what


# Texts.


def to_units(text: str) -> str:
    """`text` with one character per UTF-16 code unit, surrogates replaced (see the module's docstring)."""
    if text.isascii() or max(text) < "\ud800":
        return text
    return "".join(map(_stand_in, _units(text)))


def _units(text: str) -> tuple[int, ...]:
    encoded = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(encoded) // 2}H", encoded)


def _stand_in(code: int) -> str:
    first, last = _SURROGATES
    return chr(code + _SURROGATE_SHIFT if first <= code <= last else code)


def _from_units(units: str) -> str:
    """The reverse of `to_units`."""
    if units.isascii() or max(units) <= "\uffff":
        return units
    codes = [ord(unit) - _SURROGATE_SHIFT if unit > "\uffff" else ord(unit) for unit in units]
    return struct.pack(f"<{len(codes)}H", *codes).decode("utf-16-le", "surrogatepass")


def _from_characters(text: str) -> str:
    """`text` with the replaced surrogates restored."""
    first, last = (chr(code + _SURROGATE_SHIFT) for code in _SURROGATES)
    return "".join(chr(ord(char) - _SURROGATE_SHIFT) if first <= char <= last else char for char in text)


def _joined(text: str) -> str:
    """`text` with the halves of surrogate pairs joined."""
    if not _has_surrogates(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


# Sets of characters.


def _merge(ranges: Ranges) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _complement(ranges: Ranges, last: int) -> list[tuple[int, int]]:
    """Everything up to `last` that is outside `ranges`."""
    result: list[tuple[int, int]] = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            result.append((start, low - 1))
        start = max(start, high + 1)
    if start <= last:
        result.append((start, last))
    return result


def _canonical(code: int) -> int:
    """What the flag i compares, without the flag u."""
    upper = chr(code).upper()
    if len(upper) != 1 or ord(upper) > _LAST_UNIT or (code > 0x7F >= ord(upper)):
        return code
    return ord(upper)


def _folded(code: int) -> int:
    """What the flag i compares, with the flag u: simple case folding."""
    char = chr(code)
    for text in (char.casefold(), char.lower()):
        if len(text) == 1:
            return ord(text)
    return code


@functools.cache
def _case_variants(unicode: bool) -> tuple[list[int], dict[int, list[tuple[int, int]]]]:
    """The codes that the flag i treats like others, sorted, and for each all that it is treated like."""
    fold = _folded if unicode else _canonical
    families: dict[int, list[int]] = {}
    for code in range((0x1FFFF if unicode else _LAST_UNIT) + 1):
        families.setdefault(fold(code), []).append(code)
    variants = {
        code: [(other, other) for other in family]
        for family in families.values()
        if len(family) > 1
        for code in family
    }
    return sorted(variants), variants


@functools.cache
def _case_table(unicode: bool) -> dict[int, int]:
    """Maps each code that the flag i treats like others to one of them, for `str.translate`."""
    return {code: variants[0][0] for code, variants in _case_variants(unicode)[1].items()}


def _with_variants(ranges: Ranges, unicode: bool) -> list[tuple[int, int]]:
    """`ranges` and everything that the flag i treats like a member."""
    codes, variants = _case_variants(unicode)
    result = list(ranges)
    for low, high in ranges:
        for code in codes[bisect_left(codes, low) : bisect_left(codes, high + 1)]:
            result += variants[code]
    return _merge(result)


# Unicode properties (`\p{...}`, with the flag u).

_CATEGORIES = {
    "Cased_Letter": "LC", "Close_Punctuation": "Pe", "Combining_Mark": "M", "Connector_Punctuation": "Pc",
    "Control": "Cc", "Currency_Symbol": "Sc", "Dash_Punctuation": "Pd", "Decimal_Number": "Nd",
    "Enclosing_Mark": "Me", "Final_Punctuation": "Pf", "Format": "Cf", "Initial_Punctuation": "Pi",
    "Letter": "L", "Letter_Number": "Nl", "Line_Separator": "Zl", "Lowercase_Letter": "Ll", "Mark": "M",
    "Math_Symbol": "Sm", "Modifier_Letter": "Lm", "Modifier_Symbol": "Sk", "Nonspacing_Mark": "Mn",
    "Number": "N", "Open_Punctuation": "Ps", "Other": "C", "Other_Letter": "Lo", "Other_Number": "No",
    "Other_Punctuation": "Po", "Other_Symbol": "So", "Paragraph_Separator": "Zp", "Private_Use": "Co",
    "Punctuation": "P", "Separator": "Z", "Space_Separator": "Zs", "Spacing_Mark": "Mc", "Surrogate": "Cs",
    "Symbol": "S", "Titlecase_Letter": "Lt", "Unassigned": "Cn", "Uppercase_Letter": "Lu",
    "cntrl": "Cc", "digit": "Nd", "punct": "P",
}  # fmt: skip
_BINARY = frozenset({
    "ASCII_Hex_Digit", "Alphabetic", "Bidi_Control", "Bidi_Mirrored", "Case_Ignorable", "Cased",
    "Changes_When_Casefolded", "Changes_When_Casemapped", "Changes_When_Lowercased",
    "Changes_When_NFKC_Casefolded", "Changes_When_Titlecased", "Changes_When_Uppercased", "Dash",
    "Default_Ignorable_Code_Point", "Deprecated", "Diacritic", "Emoji", "Emoji_Component", "Emoji_Modifier",
    "Emoji_Modifier_Base", "Emoji_Presentation", "Extended_Pictographic", "Extender", "Grapheme_Base",
    "Grapheme_Extend", "Hex_Digit", "IDS_Binary_Operator", "IDS_Trinary_Operator", "ID_Continue", "ID_Start",
    "Ideographic", "Join_Control", "Logical_Order_Exception", "Lowercase", "Math", "Noncharacter_Code_Point",
    "Pattern_Syntax", "Pattern_White_Space", "Quotation_Mark", "Radical", "Regional_Indicator",
    "Sentence_Terminal", "Soft_Dotted", "Terminal_Punctuation", "Unified_Ideograph", "Uppercase",
    "Variation_Selector", "White_Space", "XID_Continue", "XID_Start",
})  # fmt: skip


@functools.lru_cache(maxsize=64)
def _property(text: str) -> Ranges:
    """The characters of the property between the braces of `\\p{...}`. Raises RegexpError."""
    name, equals, value = text.partition("=")
    if equals and name in ("General_Category", "gc"):
        name, equals = value, ""
    elif equals:
        if name in ("Script", "sc", "Script_Extensions", "scx") and _is_script(value):
            return _characters_that_match(f"\\p{{{name}={value}}}")
        raise RegexpError("invalid property name")
    if name == "Any":
        return [(0, _LAST_CHARACTER)]
    if name == "ASCII":
        return [(0, 0x7F)]
    category = _CATEGORIES.get(name, name)
    if category in _CATEGORIES.values():
        wanted = ("Lu", "Ll", "Lt") if category == "LC" else (category,)
        return _merge(
            [(code, code) for code in range(_LAST_CHARACTER + 1) if _category(code).startswith(wanted)]
        )
    if category == "Assigned":
        return _complement(_property("Cn"), _LAST_CHARACTER)
    if name not in _BINARY or text.startswith(("gc=", "General_Category=")):
        raise RegexpError("invalid property name")
    return _characters_that_match(f"\\p{{{name}}}")


def _category(code: int) -> str:
    return unicodedata.category(chr(code))


def _is_script(value: str) -> bool:
    """Whether JavaScript accepts the spelling; `regex` accepts every spelling."""
    return all(part.isascii() and part.isalpha() and part == part.capitalize() for part in value.split("_"))


def _characters_that_match(source: str) -> Ranges:
    import regex  # noqa: PLC0415 - few need it

    try:
        found = regex.finditer(source + "+", "".join(map(chr, range(_LAST_CHARACTER + 1))))
    except regex.error as error:
        raise RegexpError("invalid property name") from error
    return [(match.start(), match.end() - 1) for match in found]


# The syntax tree.


class _Chars(msgspec.Struct):
    """One unit (character with the flag u) of a set."""

    ranges: Ranges


class _Edge(msgspec.Struct):
    """`^`, `$`, `b` or `B`."""

    kind: str


class _Sequence(msgspec.Struct):
    items: list[_Node]


class _Choice(msgspec.Struct):
    options: list[_Node]


class _Group(msgspec.Struct):
    """Number 0: not capturing."""

    item: _Node
    number: int


class _Repeat(msgspec.Struct):
    """Between `low` and `high` times; `high` None is without limit."""

    item: _Node
    low: int
    high: int | None
    lazy: bool


class _Look(msgspec.Struct):
    item: _Node
    ahead: bool
    negative: bool


class _Back(msgspec.Struct):
    """A back reference; a name becomes a number when all groups are known."""

    target: int | str


_Node = _Chars | _Edge | _Sequence | _Choice | _Group | _Repeat | _Look | _Back


def _children(node: _Node) -> Sequence[_Node]:
    match node:
        case _Sequence(items) | _Choice(items):
            return items
        case _Group(item) | _Repeat(item) | _Look(item):
            return (item,)
    return ()


def _captures(node: _Node) -> set[int]:
    """Numbers of the groups in `node`."""
    own = {node.number} if isinstance(node, _Group) and node.number else set()
    return own.union(*map(_captures, _children(node)))


def _certain(node: _Node) -> set[int]:
    """The groups that take part whenever `node` matches."""
    match node:
        case _Choice() | _Look(negative=True) | _Repeat(low=0):
            return set()
        case _Group(item, number) if number:
            return {number} | _certain(item)
    return set().union(*map(_certain, _children(node)))


def _hidden(node: _Node) -> set[int]:
    """The groups in negative look-around: outside of it they have never matched."""
    if isinstance(node, _Look) and node.negative:
        return _captures(node)
    return set().union(*map(_hidden, _children(node)))


def _nullable(node: _Node) -> bool:
    """Whether `node` may match the empty text."""
    match node:
        case _Chars():
            return False
        case _Sequence(items):
            return all(map(_nullable, items))
        case _Choice(options):
            return any(map(_nullable, options))
        case _Group(item):
            return _nullable(item)
        case _Repeat(item, low):
            return low == 0 or _nullable(item)
    return True


def _prefers_text(node: _Node) -> bool:
    """Whether `node` matches the empty text only if it can match nothing else."""
    match node:
        case _Sequence(items):
            return all(map(_prefers_text, items))
        case _Choice(options):
            return not any(map(_nullable, options[:-1])) and all(map(_prefers_text, options))
        case _Group(item):
            return _prefers_text(item)
        case _Repeat(item, low, _, lazy):
            return _prefers_text(item) and not (lazy and low == 0)
        case _Back():
            return False
    return True


@functools.cache
def _sets(unicode: bool, ignore_case: bool) -> dict[str, Ranges]:
    """What `\\d` and its kind stand for."""
    sets = {"d": _DIGIT, "w": _WORD_FOLDED if unicode and ignore_case else _WORD, "s": _SPACE}
    last = _LAST_CHARACTER if unicode else _LAST_UNIT
    return sets | {name.upper(): _complement(ranges, last) for name, ranges in sets.items()}


def _has_inner_edge(node: _Node) -> bool:
    """Whether `\\B` occurs."""
    return node == _Edge("B") or any(map(_has_inner_edge, _children(node)))


class _Parser:
    """JavaScript's grammar with its annex B; without that one if the flag u is set."""

    def __init__(self, source: str, flags: str) -> None:
        """Raises RegexpError for what JavaScript refuses, and for sizes out of bounds."""
        self.unicode = "u" in flags
        self.ignore_case = "i" in flags
        self.dot_all = "s" in flags
        self.last = _LAST_CHARACTER if self.unicode else _LAST_UNIT
        self.sets = _sets(self.unicode, self.ignore_case)
        self.text = _joined(source) if self.unicode else "".join(map(chr, _units(source)))
        if len(self.text) > MAX_LENGTH:
            raise RegexpError(f"longer than {MAX_LENGTH} characters")
        self.at = 0
        self.depth = 0
        self.names: dict[str, int] = {}
        self.references: list[_Back] = []
        self.opened = 0
        self.groups, self.has_names = self._count_groups()
        self.has_names = self.has_names or self.unicode
        self.tree: _Node = self._choice()
        if self.at < len(self.text):
            raise RegexpError("unmatched )")
        self._resolve()

    def _resolve(self) -> None:
        for reference in self.references:
            if isinstance(reference.target, str):
                if reference.target not in self.names:
                    raise RegexpError("reference to an unknown group")
                reference.target = self.names[reference.target]

    def _peek(self, offset: int = 0) -> str:
        """The character `offset` ahead, or an empty string."""
        return self.text[self.at + offset : self.at + offset + 1]

    def _take(self) -> int:
        code = ord(self.text[self.at])
        self.at += 1
        return code

    def _skip(self, text: str) -> bool:
        """Take `text` if it comes next."""
        if not self.text.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

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

    def _choice(self) -> _Node:
        options: list[_Node] = [self._sequence()]
        while self._skip("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else _Choice(options)

    def _sequence(self) -> _Node:
        items: list[_Node] = []
        while self.at < len(self.text) and self._peek() not in "|)":
            item = self._term()
            items.append(self._quantified(item))
        return items[0] if len(items) == 1 else _Sequence(items)

    def _term(self) -> _Node:
        char = self._peek()
        if char in "*+?" or (char == "{" and self._braces() is not None):
            raise RegexpError("nothing to repeat")
        if char == "(":
            return self._group()
        if char == "\\":
            self.at += 1
            return self._escape()
        code = self._take()
        if char in "^$":
            return _Edge(char)
        if char == ".":
            return _Chars(_complement([] if self.dot_all else _LINE_END, self.last))
        if char == "[":
            return self._class()
        if self.unicode and char in "{}]":
            raise RegexpError(f"lone {char}")
        return self._chars([(code, code)])

    def _chars(self, ranges: Ranges) -> _Chars:
        return _Chars(_with_variants(ranges, self.unicode) if self.ignore_case else ranges)

    def _quantified(self, item: _Node) -> _Node:
        """`item` with the quantifier behind it, if there is one."""
        bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek())
        length = 1
        if self._peek() == "{" and (braces := self._braces()) is not None:
            low, high, length = braces
            bounds = (low, high)
        elif self._peek() == "{" and self.unicode:
            raise RegexpError("incomplete quantifier")
        if bounds is None:
            return item
        if isinstance(item, _Edge) or (isinstance(item, _Look) and (self.unicode or not item.ahead)):
            raise RegexpError("nothing to repeat")
        self.at += length
        return _Repeat(item, *bounds, lazy=self._skip("?"))

    def _braces(self) -> tuple[int, int | None, int] | None:
        """Bounds and length of a quantifier in braces, None if it is literal text."""
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : max(end, self.at + 1)].partition(",")
        if not _is_number(low) or not (high == "" or _is_number(high)):
            return None
        length = end + 1 - self.at
        least = _bounded(low)
        if not comma:
            return least, least, length
        if high == "":
            return least, None, length
        most = _bounded(high)
        # Compared as text as well: numbers beyond the bound are equal when bounded.
        if least > most or (len(low.lstrip("0")), low.lstrip("0")) > (
            len(high.lstrip("0")),
            high.lstrip("0"),
        ):
            raise RegexpError("numbers out of order in {}")
        return least, most, length

    def _group(self) -> _Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise RegexpError(f"more than {MAX_DEPTH} nested groups")
        for start, ahead, negative in (
            ("(?=", True, False), ("(?!", True, True), ("(?<=", False, False), ("(?<!", False, True),
        ):  # fmt: skip
            if self._skip(start):
                return _Look(self._inside(), ahead, negative)
        if self._skip("(?:"):
            return _Group(self._inside(), 0)
        if self._peek(1) == "?" and self._peek(2) != "<":
            raise RegexpError("invalid group")
        self.at += 1
        self.opened += 1
        number = self.opened
        if self._skip("?<"):
            name = self._group_name()
            if name in self.names:
                raise RegexpError("two groups of the same name")
            self.names[name] = number
        return _Group(self._inside(), number)

    def _inside(self) -> _Node:
        item = self._choice()
        if not self._skip(")"):
            raise RegexpError("unterminated group")
        self.depth -= 1
        return item

    def _group_name(self) -> str:
        """The name up to `>`, which is taken too."""
        codes: list[int] = []
        while not self._skip(">"):
            if self.at >= len(self.text):
                raise RegexpError("invalid group name")
            code = self._take()
            if code == ord("\\"):
                escaped = self._unicode_escape(braces=True) if self._skip("u") else None
                if escaped is None:
                    raise RegexpError("invalid group name")
                code = escaped
            codes.append(code)
        name = _joined("".join(map(chr, codes)))
        if not name.replace("$", "_").isidentifier():
            # JavaScript allows joiners behind the first character, Python does not.
            plain = name.replace("$", "_").replace("\u200c", "_").replace("\u200d", "_")
            if not plain.isidentifier() or name[0] in "\u200c\u200d":
                raise RegexpError("invalid group name")
        return name

    def _escape(self) -> _Node:
        """An escape outside brackets; the backslash has been taken."""
        char = self._peek()
        if not char:
            raise RegexpError("\\ at end of pattern")
        if char in "bB":
            self.at += 1
            return _Edge(char)
        if (ranges := self._set_escape()) is not None:
            return self._chars(ranges)
        if char in "123456789":
            number, length = self._number_ahead()
            if number <= self.groups:
                self.at += length
                return self._reference(number)
            if self.unicode:
                raise RegexpError("reference to an unknown group")
        if char == "k" and self.has_names:
            self.at += 1
            if not self._skip("<"):
                raise RegexpError("invalid reference by name")
            return self._reference(self._group_name())
        code = self._character_escape()
        return self._chars([(code, code)])

    def _reference(self, target: int | str) -> _Back:
        reference = _Back(target)
        self.references.append(reference)
        return reference

    def _number_ahead(self) -> tuple[int, int]:
        """The decimal number that comes next, and its length."""
        end = self.at
        while "0" <= self.text[end : end + 1] <= "9":
            end += 1
        return _bounded(self.text[self.at : end]), end - self.at

    def _set_escape(self) -> Ranges | None:
        """`\\d` and its kind, and `\\p{...}`; None if it is another escape."""
        char = self._peek()
        if char in self.sets:
            self.at += 1
            return self.sets[char]
        if not self.unicode or char not in ("p", "P"):
            return None
        end = self.text.find("}", self.at)
        if self._peek(1) != "{" or end < 0:
            raise RegexpError("invalid property name")
        ranges = _property(self.text[self.at + 2 : end])
        self.at = end + 1
        return ranges if char == "p" else _complement(ranges, self.last)

    def _character_escape(self, *, in_class: bool = False) -> int:
        """What an escape stands for; the backslash has been taken."""
        char = self._peek()
        if char in _CONTROL:
            self.at += 1
            return _CONTROL[char]
        if char in _OCTAL or (char in "89" and self.unicode):
            return self._octal()
        if char == "c":
            letter = self._peek(1)
            if letter.isascii() and (
                letter.isalpha() or (in_class and not self.unicode and (letter.isdigit() or letter == "_"))
            ):
                self.at += 2
                return ord(letter) % 32
            if self.unicode:
                raise RegexpError("invalid escape")
            return ord("\\")  # and the c stands for itself
        if char in ("x", "u"):
            self.at += 1
            code = self._hex(2) if char == "x" else self._unicode_escape(braces=self.unicode)
            if code is not None:
                return code
            self.at -= 1
        if self.unicode and not (char in _SYNTAX or (in_class and char == "-")):
            raise RegexpError("invalid escape")
        return self._take()

    def _octal(self) -> int:
        if self.unicode and (self._peek() != "0" or "0" <= self._peek(1) <= "9"):
            raise RegexpError("invalid escape")
        value = 0
        for _ in range(3):
            if self._peek() not in _OCTAL or value * 8 + int(self._peek()) > 0o377:
                break
            value = value * 8 + int(self._peek())
            self.at += 1
        return value

    def _hex(self, length: int) -> int | None:
        digits = self.text[self.at : self.at + length]
        if len(digits) != length or not _HEX.issuperset(digits):
            return None
        self.at += length
        return int(digits, 16)

    def _unicode_escape(self, *, braces: bool) -> int | None:
        """What follows `\\u`: four digits, or with `braces` also a pair of surrogates or `{digits}`."""
        if braces and self._peek() == "{":
            end = self.text.find("}", self.at)
            digits = self.text[self.at + 1 : max(end, self.at + 1)]
            if not digits or not _HEX.issuperset(digits) or int(digits, 16) > _LAST_CHARACTER:
                return None
            self.at = end + 1
            return int(digits, 16)
        high = self._hex(4)
        if not braces or high is None or not 0xD800 <= high <= 0xDBFF or not self._skip("\\u"):
            return high
        low = self._hex(4)
        if low is not None and 0xDC00 <= low <= 0xDFFF:
            return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
        self.at -= 2 if low is None else 6
        return high

    def _class(self) -> _Node:
        """A class in brackets; the opening one has been taken."""
        negated = self._skip("^")
        ranges: list[tuple[int, int]] = []
        while (char := self._peek()) != "]":
            if not char:
                raise RegexpError("unterminated character class")
            low = self._class_atom()
            if self._peek() != "-" or self._peek(1) in ("]", ""):
                ranges += low if isinstance(low, Sequence) else [(low, low)]
                continue
            self.at += 1
            high = self._class_atom()
            if isinstance(low, int) and isinstance(high, int):
                if low > high:
                    raise RegexpError("range out of order in character class")
                ranges.append((low, high))
                continue
            if self.unicode:
                raise RegexpError("invalid character class")
            for end in (low, high, ord("-")):  # a set is no end of a range: the hyphen is literal
                ranges += end if isinstance(end, Sequence) else [(end, end)]
        self.at += 1
        chars = self._chars(_merge(ranges))
        return _Chars(_complement(chars.ranges, self.last)) if negated else chars

    def _class_atom(self) -> int | Ranges:
        """One character, or a set."""
        if not self._skip("\\"):
            return self._take()
        char = self._peek()
        if not char:
            raise RegexpError("\\ at end of pattern")
        if (ranges := self._set_escape()) is not None:
            return ranges
        if self._skip("b"):
            return 8
        if self.unicode and char in "-":
            return self._take()
        return self._character_escape(in_class=True)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _bounded(digits: str) -> int:
    return min(int(digits[-4000:]) if len(digits.lstrip("0")) < 10 else MAX_REPEAT, MAX_REPEAT)


# Writing for an engine.


def _char(code: int) -> str:
    text = _stand_in(code)
    if text.isascii() and text.isalnum():
        return text
    return f"\\U{ord(text):08x}"


def _re2_char(code: int) -> str:
    text = _stand_in(code)
    return text if text.isascii() and text.isalnum() else f"\\x{{{ord(text):x}}}"


class _Writer:
    """Writes a tree as the source of an engine. In it group 1 is called g1; w1, w2, ... are our own.

    `exact` is for those who want the text and the groups of a match. Whether there is a match can be told
    with less: then nothing is captured.
    """

    def __init__(self, tree: _Node, flags: str, *, backtracking: bool, exact: bool) -> None:
        """Raises _LackingError if RE2 is not enough, RegexpError if neither engine is."""
        self.flags = flags
        self.backtracking = backtracking
        self.exact = exact
        self.resets: list[tuple[str, set[int]]] = []  # wrapper, and the groups each of its rounds clears
        self._closed: set[int] = set()
        self._never = set[int]()  # groups of negative look-around that has been left
        self._loops: list[set[int]] = []  # for each open loop the groups that a round may skip
        self._behind: list[set[int]] = []  # for each open look-behind its groups
        self._backward = False  # look-behind matches from right to left, look-ahead in it does not
        self._own = 0
        if _nullable(tree) and _has_inner_edge(tree):
            # RE2 would find \\B between the bytes of one character.
            self._lacks("\\B in a pattern that matches the empty text")
        self.source = self._write(tree)
        if len(self.source) > MAX_WRITTEN:
            raise RegexpError("too large")

    def _lacks(self, what: str) -> None:
        if not self.backtracking:
            raise _LackingError(what)

    def _write(self, node: _Node) -> str:
        match node:
            case _Chars(ranges):
                return self._chars(ranges)
            case _Edge(kind):
                return self._edge(kind)
            case _Sequence(items):
                return "".join(map(self._atom, items))
            case _Choice(options):
                return "|".join(map(self._write, options))
            case _Group(item, number):
                text = self._write(item)
                self._closed.add(number)
                return f"(?P<g{number}>{text})" if number and self.exact else f"(?:{text})"
            case _Repeat():
                return self._repeat(node)
            case _Look():
                return self._look(node)
            case _Back(target):
                return self._back(int(target))

    def _atom(self, node: _Node) -> str:
        return f"(?:{self._write(node)})" if isinstance(node, _Choice) else self._write(node)

    def _chars(self, ranges: Ranges) -> str:
        char = _char if self.backtracking else _re2_char
        if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
            return char(ranges[0][0])
        first, last = _SURROGATES
        parts: list[str] = []
        for low, high in ranges:
            for piece in (
                (low, min(high, first - 1)),
                (max(low, first), min(high, last)),
                (max(low, last + 1), high),
            ):
                if piece[0] == piece[1]:
                    parts.append(char(piece[0]))
                elif piece[0] < piece[1]:
                    parts.append(f"{char(piece[0])}-{char(piece[1])}")
        if not parts:
            return "(?!)" if self.backtracking else "[^\\x{0}-\\x{10ffff}]"
        return f"[{''.join(parts)}]"

    def _edge(self, kind: str) -> str:
        if kind in "^$":
            if "m" not in self.flags:
                return "\\A" if kind == "^" else "\\Z" if self.backtracking else "\\z"
            self._lacks("^ or $ with the flag m")
            others = self._chars(_complement(_LINE_END, _LAST_CHARACTER))
            return f"(?<!{others})" if kind == "^" else f"(?!{others})"
        folded = "i" in self.flags and "u" in self.flags
        if not self.backtracking and not folded:
            return f"\\{kind}"
        self._lacks("\\b with the flags i and u")
        word = self._chars(_WORD_FOLDED if folded else _WORD)
        if kind == "b":
            return f"(?:(?<={word})(?!{word})|(?<!{word})(?={word}))"
        return f"(?:(?<={word})(?={word})|(?<!{word})(?!{word}))"

    def _repeat(self, node: _Repeat) -> str:
        if not self.exact:
            return f"(?:{self._write(node.item)}){_quantifier(node.low, node.high, node.lazy)}"
        groups = _captures(node.item)
        skipped = groups - _certain(node.item) if node.high is None or node.high > 1 else set()
        if skipped & _looked_at(node.item):
            raise RegexpError("a group in look-around that a repetition may skip is not supported")
        self._loops.append(skipped)
        body = self._write(node.item)
        self._loops.pop()
        if len(body) > MAX_WRITTEN:
            raise RegexpError("too large")
        if skipped:
            # JavaScript forgets the groups before each round, the engines do not: see Regexp._groups.
            wrapper = self._own_group()
            self.resets.append((wrapper, skipped))
            body = f"(?P<{wrapper}>{body})"
        else:
            body = f"(?:{body})"
        if node.low == node.high or not _nullable(node.item) or (not groups and _prefers_text(node.item)):
            return body + _quantifier(node.low, node.high, node.lazy)
        # JavaScript refuses a round that matches nothing, unless it is one of the first `low` ones.
        self._lacks("a repetition of a group that may be empty")
        rest = self._own_group()
        mark, moved = f"(?=(?P<{rest}>(?s:.)*))", f"(?!(?P={rest})\\Z)"
        high = None if node.high is None else node.high - node.low
        first = body + _quantifier(node.low, node.low, False) if node.low else ""
        others = _quantifier(0, high, node.lazy)
        if self._backward:
            return f"(?:{moved}{body}{mark}){others}{first}"
        return f"{first}(?:{mark}{body}{moved}){others}"

    def _own_group(self) -> str:
        self._own += 1
        return f"w{self._own}"

    def _look(self, node: _Look) -> str:
        self._lacks("look-around")
        outside, self._backward = self._backward, not node.ahead
        if not node.ahead:
            self._behind.append(_captures(node.item))
        item = self._write(node.item)
        if not node.ahead:
            self._behind.pop()
        self._backward = outside
        if node.negative:
            self._never |= _captures(node.item)
        return f"(?{'' if node.ahead else '<'}{'!' if node.negative else '='}{item})"

    def _back(self, number: int) -> str:
        self._lacks("a back reference")
        if any(number in groups for groups in self._behind):
            raise RegexpError("a back reference in look-behind to a group in it is not supported")
        if number not in self._closed or number in self._never:
            return ""  # the group has not matched yet, so the reference matches nothing
        if any(number in skipped for skipped in self._loops):
            raise RegexpError("a back reference to a group that a repetition may skip is not supported")
        return f"(?(g{number})(?P=g{number})|)"


def _looked_at(node: _Node) -> set[int]:
    """The groups in positive look-around."""
    if isinstance(node, _Look):
        return set() if node.negative else _captures(node)
    return set().union(*map(_looked_at, _children(node)))


def _quantifier(low: int, high: int | None, lazy: bool) -> str:
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high))
    return (short or f"{{{low},{'' if high is None else high}}}") + "?" * lazy


def translate(source: str, flags: str = "") -> str:
    """RE2 source that finds a match in `to_units(text)` exactly where JavaScript finds one in `text`.

    It does not tell which match. Without the flag u only. Raises RegexpError if JavaScript would refuse the
    source, or if it needs what RE2 lacks.
    """
    return _Writer(_Parser(source, flags).tree, flags, backtracking=False, exact=False).source


# Matching.


class Match(msgspec.Struct):
    """One match. `groups[0]` is the whole; a group that did not take part is None."""

    groups: tuple[str | None, ...]
    index: int
    """Where it begins, in UTF-16 code units."""
    named: dict[str, str | None]


class _Subject:
    """A text in the form an engine takes: bytes of UTF-8 for RE2, else a string, perhaps with case folded."""

    def __init__(self, text: str, *, unicode: bool, encoded: bool, folded: bool) -> None:
        self._unicode = unicode
        if not unicode:
            units = to_units(text)
        elif _has_surrogates(text):
            units = "".join(_stand_in(ord(char)) for char in _joined(text))
        else:
            units = text
        self._replaced = not unicode or units is not text
        self._exact: str | bytes = units.encode() if encoded else units
        self.native = units.translate(_case_table(unicode)) if folded else self._exact
        self.text = units

    def part(self, start: int, end: int) -> str:
        """The original text between two positions in `native`."""
        piece = self._exact[start:end]
        text = piece.decode() if isinstance(piece, bytes) else piece
        if not self._replaced:
            return text
        return _from_characters(text) if self._unicode else _from_units(text)

    def units_before(self, position: int) -> int:
        """UTF-16 code units of the original text before a position in `native`."""
        if not self._unicode and isinstance(self.native, str):
            return position
        part = self.part(0, position)
        return len(part) if part.isascii() else len(_units(part))

    def after(self, position: int) -> int:
        """The position one character further."""
        if isinstance(self.native, str):
            return position + 1
        position += 1
        while position < len(self.native) and self.native[position] & 0xC0 == 0x80:
            position += 1
        return position


class Regexp:
    """A compiled regular expression; immutable.

    `engine` is "re2" or "regex"; `reason` says what RE2 lacks. `names` gives the numbers of the named groups,
    `re2_source` the source for a `Matcher` of texts without the flag u; None if the engine is not RE2.
    Every search begins at the start of the text, as in a fresh JavaScript object: the flag `y` finds a match
    only there.
    """

    engine: Literal["re2", "regex"]

    def __init__(self, source: str, flags: str, *, allow_backtracking: bool, limit: float) -> None:
        """See `compile`."""
        if not _FLAGS.issuperset(flags) or len(set(flags)) != len(flags):
            raise RegexpError(f"invalid flags {flags!r}")
        self.source = source
        self.flags = flags
        self.reason = ""
        self._limit = limit
        parser = _Parser(source, flags)
        self.names = parser.names
        self._hidden = _hidden(parser.tree)
        # Without case the text is, not the source: then a back reference compares what JavaScript compares.
        self._folded = "i" in flags and bool(parser.references)
        self._filter: Any = None
        try:
            writer = _Writer(parser.tree, flags, backtracking=False, exact=True)
            self._compiled = _re2(writer.source)
            self.engine = "re2"
            self.re2_source: str | None = writer.source
        except _LackingError as error:
            if not allow_backtracking:
                raise
            self.reason = error.what
            writer = self._use_backtracking(parser, flags)
        # RE2 has been given bytes and so has names of bytes.
        own = {
            name if isinstance(name, str) else name.decode(): number
            for name, number in self._compiled.groupindex.items()
        }
        self._numbers = [0, *(own[f"g{number}"] for number in range(1, parser.groups + 1))]
        self._resets = [(own[wrapper], groups) for wrapper, groups in writer.resets]
        self._how = "match" if "y" in flags else "search"
        # The usual case has a way of its own: RE2, positions in an ASCII text are positions in its bytes.
        self._usual = self.engine == "re2" and not self._resets
        self._first = getattr(self._compiled, self._how)

    def __repr__(self) -> str:
        return f"/{self.source}/{self.flags}"

    def _use_backtracking(self, parser: _Parser, flags: str) -> _Writer:
        import regex  # noqa: PLC0415 - few need it

        writer = _Writer(parser.tree, flags, backtracking=True, exact=True)
        try:
            self._compiled = regex.compile(writer.source, regex.V0)
        except (regex.error, RecursionError, MemoryError, OverflowError) as error:
            raise RegexpError("not supported") from error
        self.engine = "regex"
        self.re2_source = None
        try:
            # RE2 often can tell in linear time that there is no match.
            self._filter = _re2(_Writer(parser.tree, flags, backtracking=False, exact=False).source)
        except RegexpError:
            self._filter = None
        return writer

    def search(self, text: str) -> Match | None:
        """The leftmost match, as JavaScript's `exec` finds it. Raises RegexpTimeout."""
        if self._usual and text.isascii():
            return self._usual_match(self._first(text.encode()), text)
        return self._only(text, self._how)

    def test(self, text: str) -> bool:
        """Whether `search` would find something. Raises RegexpTimeout."""
        if self._usual and text.isascii():
            return self._first(text.encode()) is not None
        return self._find(self._subject(text), 0, self._how, self._deadline()) is not None

    def fullmatch(self, text: str) -> Match | None:
        """The match that covers the whole text. Raises RegexpTimeout."""
        if self._usual and text.isascii():
            return self._usual_match(self._compiled.fullmatch(text.encode()), text)
        return self._only(text, "fullmatch")

    def _only(self, text: str, how: str) -> Match | None:
        subject = self._subject(text)
        spans = self._find(subject, 0, how, self._deadline())
        return None if spans is None else self._match(subject, spans)

    def _usual_match(self, found: Any, text: str) -> Match | None:
        if found is None:
            return None
        spans = [found.span(number) for number in self._numbers]
        groups = tuple([None if start < 0 else text[start:end] for start, end in spans])
        return Match(groups, spans[0][0], {name: groups[number] for name, number in self.names.items()})

    def find_all(self, text: str) -> list[str]:
        """The texts of all matches from left to right, as `match` gives with flag g. Raises RegexpTimeout.

        Many searches may take long with any engine, so the limit of time holds with RE2 too.
        """
        subject = self._subject(text)
        deadline = self._deadline()
        found: list[str] = []
        at = 0
        while at <= len(subject.native):
            if time.monotonic() > deadline:
                raise self._too_long()
            if (spans := self._find(subject, at, self._how, deadline)) is None:
                break
            start, end = spans[0]
            found.append(subject.part(start, end))
            at = end if start < end else subject.after(end)
        return found

    def _subject(self, text: str) -> _Subject:
        return _Subject(text, unicode="u" in self.flags, encoded=self.engine == "re2", folded=self._folded)

    def _deadline(self) -> float:
        return time.monotonic() + self._limit / 1000

    def _too_long(self) -> RegexpTimeout:
        return RegexpTimeout(f"{self!r} took longer than {self._limit:g} ms")

    def _find(self, subject: _Subject, at: int, how: str, deadline: float) -> list[tuple[int, int]] | None:
        """Spans of the whole and all groups, ours included, in `subject.native`; (-1, -1) for unset ones."""
        if self.engine == "re2":
            match = getattr(self._compiled, how)(subject.native, at)
        elif at == 0 and self._filter is not None and not getattr(self._filter, how)(subject.text.encode()):
            match = None
        else:
            left = deadline - time.monotonic()
            try:
                # A limit of zero would be none.
                match = getattr(self._compiled, how)(subject.native, pos=at, timeout=max(left, 0.000_1))
            except (TimeoutError, MemoryError, RecursionError) as error:
                raise self._too_long() from error
        return match and [match.span(number) for number in range(self._compiled.groups + 1)]

    def _match(self, subject: _Subject, spans: list[tuple[int, int]]) -> Match:
        unset = set(self._hidden)
        for wrapper, cleared in self._resets:
            # Only what lies in the last round of a repetition counts.
            start = spans[wrapper][0]
            unset.update(number for number in cleared if spans[self._numbers[number]][0] < start)
        groups = tuple(
            None if number in unset or spans[own][0] < 0 else subject.part(*spans[own])
            for number, own in enumerate(self._numbers)
        )
        named = {name: groups[number] for name, number in self.names.items()}
        return Match(groups, subject.units_before(spans[0][0]), named)


class Matcher:
    """Several sources for RE2 (`translate`, `Regexp.re2_source`) matched in one pass over a text.

    RE2 reports "no match" also when its automaton runs out of memory. So the first source is the empty one,
    which always matches: without it in the result the sources are asked one by one, on RE2's other engine.
    """

    def __init__(self, sources: Sequence[str], memory: int) -> None:
        """Raises RegexpError if the sources are invalid or need more than `memory` bytes."""
        self._sources = sources
        options = re2.Options()
        options.log_errors = False
        options.max_mem = memory
        self._options = options
        self._single: list[Any] | None = None
        self._set = re2.Set.SearchSet(options)
        try:
            for source in ("", *sources):
                self._set.Add(source)
            self._set.Compile()
        except re2.error as error:
            raise RegexpError("too large, or not supported by RE2") from error

    def match(self, units: str) -> list[int]:
        """Positions of the sources that match a text of `to_units`."""
        found = self._set.Match(units)
        if found:
            return [position - 1 for position in found if position]
        if self._single is None:
            self._single = [re2.compile(source, self._options) for source in self._sources]
        return [position for position, source in enumerate(self._single) if source.search(units)]


def _re2(source: str) -> Any:
    """`source` compiled for bytes of UTF-8. Raises _LackingError if it is too large for RE2."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = PROGRAM_MEMORY
    try:
        return re2.compile(source.encode(), options)
    except re2.error as error:
        raise _LackingError("a pattern of this size") from error


@functools.lru_cache(maxsize=1024)
def compile(
    source: str, flags: str = "", *, allow_backtracking: bool = False, limit: float = BACKTRACKING_LIMIT
) -> Regexp:
    """The JavaScript regular expression `/source/flags`.

    Flags: i m s g u y d. `allow_backtracking` admits what RE2 lacks; a call of such a regexp ends with
    RegexpTimeout after `limit` milliseconds. Raises RegexpError.
    """
    return Regexp(source, flags, allow_backtracking=allow_backtracking, limit=limit)
