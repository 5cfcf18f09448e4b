"""Random rules, with inputs for them: what the language has, in every mixture, with odd values.

Everything is drawn from a `random.Random` (or hypothesis's stand-in), so a seed names a case. Left out is
what dsfast documents as different from JavaScript: properties that objects inherit.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

VARIABLES = ("id", "userId")
RECORDS = {
    "": {"empty": True},
    "a": {"x": 1, "list": ["x", 5, None], "ref": "b"},
    "b": {"x": "1", "ref": 5, "name": "grüße"},
    "doc/1": [1, "a", {"length": 3}],
    "null": {"a": None},
}
KEYS = ("a", "b", "x", "list", "length", "0", "1", "01", "-1", "trim", "index", "name", "größe", "data", "")
NUMBERS = (
    "0", "1", "2", "3", "5", "7", "10", "31", "32", "33", "255", "0.1", "0.2", ".5", "5.", "1.50", "1e3",
    "1E-7", "1e21", "123456789012345680000", "1e400", "5e-324", "1.7976931348623157e308", "4294967295",
    "4294967296", "2147483648", "9007199254740991", "9007199254740993", "0x1F", "0XfF", "0o17", "0b101",
    "1_000", "0.000001", "0.0000001", "1e15", "123456789.125", "0x20000000000001", "0x1fffffffffffff8",
    "1e-320",
)  # fmt: skip
STRINGS = (
    "", "a", "b", "ab", "abc", "aab", "A", "Z", "z", "0", "1", "5", "-1", "12", " 12 ", "1e3", "0x10",
    "0b11", "0o7", "-0x1", ".5", "5.", "+5", "--5", "1_0", "Infinity", "-Infinity", "infinity", "NaN",
    "true", "null", "undefined", "length", "alice", "open", "x", "a/b", "doc/1", "foo bar", "Straße",
    "ß", "İ", "Σ", "ΑΣ", "ﬁ", "é", "e\u0301", "😀", "a😀b", "\U00010000", "\uffff", "\ud83d", "\ude00",
    "x\ud83d", "\ude00y", "\ufeff a\u00a0", "\u2028x\u3000", "\u0085", "\x1c1", "\x00", "\t\n1\r",
    "[object Object]", "1,2", "a.c", "(", "[", "1" * 400, "0." + "3" * 40, "9007199254740993", "1e1000",
)  # fmt: skip
PATTERNS = (
    "a", "^a", "b$", "^[a-z]+$", "(a)(b)?", "(?<n>.)(.)", "o", "[^]", "[]", r"\d+", r"\w", r"\s",
    r"\bfoo\b", "a{1,2}", "a{,2}", "(?:x|a)+", ".", "^.$", "😀", "[😀]", r"\u{1F600}", r"\ud83d", r"\/",
    "(?=a)a", "(?<!a)b", r"(.)\1", "^$", "(", "+*", "a{2,1}", "ß", r"\p{L}", "$", "x?", r"\x41",
    "i", r"\S+",
)  # fmt: skip
SPACES = (" ", " ", " ", "  ", "\n", "\t", "\u00a0", "/* c */", "// c\n", "\ufeff", "\r\n", "\u2028")
BINARY = (
    "+", "+", "-", "*", "/", "%", "**", "<", ">", "<=", ">=", "in", "==", "!=", "===", "!==", "&", "|", "^",
    "<<", ">>", ">>>", "&&", "&&", "||", "||", "??",
)  # fmt: skip
UNARY = ("!", "!", "-", "+", "~", "typeof", "void")
STRING_METHODS = ("startsWith", "endsWith", "includes", "indexOf", "toUpperCase", "toLowerCase", "trim")
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


@dataclass
class Case:
    """A rule and its inputs. `data`, `old_data` and `user_data` are JSON texts, None for undefined."""

    rule: str
    data: str | None = None
    old_data: str | None = None
    user_id: str = "alice"
    user_data: str | None = "null"
    name: str | None = "doc/1"
    action: int = 2
    now: float = 1700000000000.0
    variables: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Generator:
    """Makes cases; `draw` is a random.Random."""

    def __init__(self, draw: Any, depth: int = 5) -> None:
        self.draw = draw
        self.depth = depth

    def one(self, choices: Any) -> Any:
        return choices[self.draw.randrange(len(choices))]

    def words(self, *choices: str) -> list[str]:
        """The tokens of one of the texts, which has blanks between them."""
        return list(self.one(choices).split())

    def chance(self, percent: int) -> bool:
        return bool(self.draw.randrange(100) < percent)

    def case(self) -> Case:
        return Case(
            rule=self.written(self.expression(self.depth)),
            data=None if self.chance(5) else self.json(3),
            old_data=None if self.chance(20) else self.json(2),
            user_id=self.one(("alice", "open", "OPEN", "größe", "😀", "1")),
            user_data=self.one(("null", '{"role":"admin","level":3,"tags":["a","b"]}', self.json(2))),
            name=self.one((None, "doc/1", "a", "öäü/😀")),
            variables={name: self.one(("alice", "1", "x", "größe", "😀")) for name in VARIABLES},
        )

    # Values

    def json(self, depth: int) -> str:
        """A JSON text; halves of surrogate pairs can only be written as escapes."""
        value = self.value(depth)
        plain = json.dumps(value, ensure_ascii=False)
        return plain if plain.isprintable() and self.chance(50) else json.dumps(value)

    def value(self, depth: int) -> object:
        kind = self.draw.randrange(10 if depth else 6)
        if kind == 0:
            return None
        if kind == 1:
            return self.chance(50)
        if kind in (2, 3):
            return self.one((0, 1, 2, 5, -1, 3.5, 1e21, 2**53, 2**63, 10**25, 1e-7, 0.1, 1700000000000, 12))
        if kind in (4, 5):
            return self.one(STRINGS)
        if kind == 6:
            return [self.value(depth - 1) for _ in range(self.draw.randrange(4))]
        return {self.one(KEYS): self.value(depth - 1) for _ in range(self.draw.randrange(1, 5))}

    # Rules: lists of tokens

    def written(self, tokens: list[str]) -> str:
        """The source: white space and comments wherever they are needed or allowed."""
        parts: list[str] = []
        for number, token in enumerate(tokens):
            if number and (self.chance(15) or collide(tokens[number - 1], token)):
                space = self.one(SPACES)
                # Behind a slash a comment would be another one.
                parts.append(" " if space[0] == "/" and tokens[number - 1][-1] == "/" else space)
            parts.append(token)
        return "".join(parts)

    def expression(self, depth: int) -> list[str]:
        if depth <= 0 or self.chance(12):
            return self.atom()
        kind = self.draw.randrange(20)
        if kind < 7:
            sign = self.one(BINARY)
            if sign == "in":
                return [*self.operand(depth), sign, *self.container(depth)]
            return [*self.operand(depth), sign, *self.operand(depth)]
        if kind < 9:
            return [self.one(UNARY), *self.operand(depth)]
        if kind < 12:
            return self.access(depth)
        if kind < 14:
            return self.call(depth)
        if kind == 14:
            return [*self.operand(depth), "?", *self.expression(depth - 1), ":", *self.expression(depth - 1)]
        if kind == 15:
            return self.array(depth)
        if kind == 16:
            return self.object_literal(depth)
        if kind == 17:
            return [self.template(depth)]
        if kind == 18:
            return ["_", "(", *(self.expression(depth - 1) if self.chance(95) else []), ")"]
        return ["(", *self.expression(depth - 1), ")"]

    def container(self, depth: int) -> list[str]:
        """The right side of `in`, mostly one that makes sense."""
        if self.chance(20):
            return self.operand(depth)
        return (
            self.array(depth)
            if self.chance(30)
            else self.object_literal(depth)
            if self.chance(50)
            else ["data"]
        )

    def operand(self, depth: int) -> list[str]:
        """An expression, mostly in parentheses, sometimes left to the precedence of the operators."""
        tokens = self.expression(depth - 1)
        return tokens if len(tokens) == 1 or self.chance(40) else ["(", *tokens, ")"]

    def atom(self) -> list[str]:
        kind = self.draw.randrange(16)
        if kind < 3:
            return [self.one(NUMBERS)]
        if kind < 6:
            return [self.string()]
        if kind < 8:
            return [self.one(("true", "false", "null", "undefined", "NaN", "Infinity"))]
        if kind < 11:
            return self.words("data", "data . x", "data ?. a", "oldData", "data [ 0 ]", "data ?. list")
        if kind < 13:
            return self.words("user . id", "user . data", "user . isAuthenticated", "user", "user . name",
                              "user . data ?. role", "user . data ?. level", "user [ 'id' ]")  # fmt: skip
        if kind < 15:
            return [self.one(("$id", "$userId", "name", "action", "now", "$other", "unknown", "_"))]
        return [self.pattern()] if self.chance(50) else self.one((["[", "]"], ["(", "{", "}", ")"]))

    def string(self) -> str:
        """A string literal, its characters plain or escaped in one of the many ways."""
        return self.quoted(self.one(STRINGS), self.one(("'", '"')))

    def quoted(self, text: str, quote: str) -> str:
        return quote + "".join(self.escaped(character, quote) for character in text) + quote

    def escaped(self, character: str, quote: str) -> str:
        code = ord(character)
        if character in ("\\", quote, "$") or (quote != "`" and character in "\n\r"):
            return {"\n": "\\n", "\r": "\\r"}.get(character, "\\" + character)
        if character == "\r" or 0xD800 <= code <= 0xDFFF or code == 0:
            return f"\\u{code:04x}"
        if not self.chance(5):
            return character
        if code > 0xFFFF:
            return f"\\u{{{code:x}}}"
        ways = [f"\\u{code:04X}", f"\\u{{{code:06x}}}", character + "\\\n", f"\\u{code:04x}"]
        if code < 0x100:
            ways.append(f"\\x{code:02x}")
        return str(self.one(ways))

    def pattern(self) -> str:
        flags = "".join(flag for flag in "gimsuyd" if self.chance(15))
        return f"/{self.one(PATTERNS)}/{flags}"

    def access(self, depth: int) -> list[str]:
        tokens = self.owner(depth)
        for _ in range(self.draw.randrange(1, 4)):
            link = ["?."] if self.chance(60) else []
            if self.chance(60):
                key = self.one(
                    (
                        "a",
                        "b",
                        "x",
                        "list",
                        "length",
                        "index",
                        "input",
                        "groups",
                        "n",
                        "größe",
                        "in",
                        "lastIndex",
                    )
                )
                tokens = [*tokens, *(link or ["."]), key]
            else:
                tokens = [*tokens, *link, "[", *self.key(depth), "]"]
        return tokens

    def owner(self, depth: int) -> list[str]:
        if self.chance(60):
            return list(
                self.one(
                    (
                        ["data"],
                        ["oldData"],
                        ["user", ".", "data"],
                        ["data", "?.", "list"],
                        ["_", "(", "'a'", ")"],
                    )
                )
            )
        return ["(", *self.expression(depth - 1), ")"]

    def key(self, depth: int) -> list[str]:
        if self.chance(50):
            return [
                self.one(
                    (
                        "0",
                        "1",
                        "-1",
                        "2",
                        "'0'",
                        "'01'",
                        "'length'",
                        "'a'",
                        "1.5",
                        "-0",
                        "true",
                        "null",
                        "[1,2]",
                        "'x'",
                    )
                )
            ]
        return self.expression(depth - 2)

    def call(self, depth: int) -> list[str]:
        method = self.one(STRING_METHODS)
        if self.chance(25):
            return self.match(depth)
        owner = self.owner(depth) if self.chance(40) else ["(", self.string(), ")"]
        if self.chance(20):
            owner = self.array(depth)
            method = self.one(("includes", "indexOf"))
        before = self.one((["."], ["."], ["."], ["?."]))
        behind = ["?."] if self.chance(10) else []
        arguments: list[str] = []
        for number in range(self.one((0, 1, 1, 1, 2, 2, 3))):
            argument = [self.string()] if number == 0 and self.chance(50) else self.expression(depth - 2)
            if number == 1 and self.chance(60):
                argument = [
                    self.one(
                        (
                            "0",
                            "1",
                            "2",
                            "-1",
                            "-2",
                            "3",
                            "NaN",
                            "undefined",
                            "Infinity",
                            "1.9",
                            "'1'",
                            "-Infinity",
                            "1e10",
                        )
                    )
                ]
            arguments += [","] * bool(arguments) + argument
        if arguments and self.chance(5):
            arguments.append(",")
        return [*owner, *before, method, *behind, "(", *arguments, ")"]

    def match(self, depth: int) -> list[str]:
        argument = (
            [self.pattern()]
            if self.chance(70)
            else self.one(([], [self.string()], ["undefined"], ["null"], ["5"], ["data"]))
        )
        owner = ["(", self.string(), ")"] if self.chance(70) else self.owner(depth)
        tail = self.words(
            "", "", ". index", "?. length", "?. [ 1 ]", ". groups", "?. input", "?. groups ?. n"
        )
        return [*owner, ".", "match", "(", *argument, ")", *tail]

    def array(self, depth: int) -> list[str]:
        elements: list[str] = []
        for _ in range(self.draw.randrange(4)):
            elements += [","] * bool(elements) + self.expression(depth - 1)
        if elements and self.chance(10):
            elements.append(",")
        return ["[", *elements, "]"]

    def object_literal(self, depth: int) -> list[str]:
        members: list[str] = []
        for _ in range(self.draw.randrange(4)):
            key = self.words("a", "b", "x", "'a'", "3", "1.50", "0x10", "if", "größe", '"b"')
            if self.chance(15):
                key = ["[", *self.expression(depth - 2), "]"]
            members += [","] * bool(members) + [*key, ":", *self.expression(depth - 1)]
        return ["(", "{", *members, "}", ")"]

    def template(self, depth: int) -> str:
        text = "`"
        for _ in range(self.draw.randrange(3)):
            text += self.quoted(self.one(STRINGS), "`")[1:-1]
            text += "${" + self.written(self.expression(depth - 1)) + "}"
        return text + self.quoted(self.one(STRINGS), "`")[1:]


def is_word(character: str) -> bool:
    return character.isalnum() or character in "_$.'\"`"


def collide(left: str, right: str) -> bool:
    """Whether two tokens could be read as something else without white space between them."""
    if is_word(left[-1]) and is_word(right[0]):
        return not (right == "." and not left[0].isdigit()) and left != "."
    signs = "+-/*<>!=&|?.:^%~"
    if "/" in (left[-1], right[0]):
        return True
    return left[-1] in signs and (right[0] in signs or right[0].isdigit())


def nonsense(draw: Any) -> str:
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
