"""A second, slow implementation of the rule language, for comparison: spec/valve.md written down in Python.

It has its own lexer, parser and values. A string is a str with one character per UTF-16 code unit; undefined
is `UNDEF`, null None, a number a float, an array an `Array`, an object an `Object`. What it cannot
read is `Invalid`; it reads a little more than there is.
"""

from __future__ import annotations

import math
import re
from typing import Any

from dsfast import regexp

SPACE = "[\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
TOKEN = re.compile(
    rf"""(?P<space>(?:{SPACE}|//[^\n\r\u2028\u2029]*|/\*(?:[^*]|\*(?!/))*\*/)+)
    |(?P<name>(?:[^\W\d]|\$)(?:\w|\$)*)
    |(?P<number>0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<string>"(?:[^"\\\n\r]|\\(?:\r\n|[\s\S]))*"|'(?:[^'\\\n\r]|\\(?:\r\n|[\s\S]))*')
    |(?P<sign>>>>|===|!==|\*\*|<<|>>|<=|>=|==|!=|&&|\|\||\?\?|\?\.(?!\d)|[{{}}()\[\];,<>+\-*/%&|^!~?:.`])""",
    re.VERBOSE,
)
PATTERN = re.compile(r"/((?:[^/\\\[\n\r]|\\.|\[(?:[^\]\\\n\r]|\\.)*\])+)/(\w*)")
ESCAPE = re.compile(
    r"\\(?:u\{([0-9a-fA-F]+)\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([0-7]{1,3})|(\r\n|[\s\S]))"
)
LEVELS = [
    ["??"], ["||"], ["&&"], ["|"], ["^"], ["&"], ["==", "!=", "===", "!=="], ["<", ">", "<=", ">=", "in"],
    ["<<", ">>", ">>>"], ["+", "-"], ["*", "/", "%"], ["**"],
]  # fmt: skip
LEVEL = {sign: level for level, signs in enumerate(LEVELS) for sign in signs}
STRING_METHODS = (
    "startsWith",
    "endsWith",
    "includes",
    "indexOf",
    "match",
    "toUpperCase",
    "toLowerCase",
    "trim",
)
ARRAY_METHODS = ("includes", "indexOf")


class Invalid(Exception):
    """The source is no rule."""


class Thrown(Exception):
    """What the evaluation threw; the text is the type."""


class Undefined:
    pass


UNDEF = Undefined()


class Array:
    def __init__(self, items: list[Any], extra: dict[str, Any] | None = None) -> None:
        self.items = items
        self.extra = extra or {}


class Object:
    def __init__(self, members: dict[str, Any], bare: bool = False) -> None:
        self.members = members
        self.bare = bare


class Pattern:
    def __init__(self, source: str, flags: str) -> None:
        try:
            self.compiled = regexp.compile(joined(source), flags, allow_backtracking=True)
        except regexp.RegexpError as error:
            raise Invalid(str(error)) from None
        self.source, self.flags = source, flags


class Function:
    def __init__(self, owner: str, name: str) -> None:
        self.owner, self.name = owner, name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and (self.owner, self.name) == (other.owner, other.name)

    __hash__ = None  # type: ignore[assignment]


def units(text: str) -> str:
    """One character per code unit."""
    data = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(int.from_bytes(data[i : i + 2], "little")) for i in range(0, len(data), 2))


def joined(text: str) -> str:
    """The other way."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def value_of(value: Any) -> Any:
    """The value for a JSON value."""
    if isinstance(value, str):
        return units(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, list):
        return Array([value_of(item) for item in value])
    if isinstance(value, dict):
        return Object({units(key): value_of(item) for key, item in value.items()})
    return value


# Reading: nodes are tuples of a kind and its parts


class Parser:
    def __init__(self, source: str) -> None:
        self.source = units(source)
        self.at = 0
        self.token: tuple[str, Any] = ("", "")
        self.advance(operand=True)

    def advance(self, operand: bool) -> tuple[str, Any]:
        """Read the token behind the present one; `operand`: a slash begins a regular expression."""
        before = self.token
        while (found := TOKEN.match(self.source, self.at)) and found.lastgroup == "space":
            self.at = found.end()
        if self.at == len(self.source):
            self.token = ("end", None)
        elif operand and self.source[self.at] == "/":
            literal = PATTERN.match(self.source, self.at)
            if literal is None:
                raise Invalid("pattern")
            self.at = literal.end()
            self.token = ("pattern", literal.groups())
        elif found is None:
            raise Invalid("token")
        else:
            self.at = found.end()
            self.token = (str(found.lastgroup), found[0])
        return before

    def sign(self, *signs: str) -> str | None:
        return self.token[1] if self.token[0] == "sign" and self.token[1] in signs else None

    def accept(self, sign: str, operand: bool) -> bool:
        if self.sign(sign):
            self.advance(operand)
            return True
        return False

    def expect(self, sign: str, operand: bool) -> None:
        if not self.accept(sign, operand):
            raise Invalid(f"{sign} expected")

    def rule(self) -> Any:
        node = self.conditional()
        while self.accept(";", True):
            pass
        if self.token[0] != "end":
            raise Invalid("end expected")
        return node

    def conditional(self) -> Any:
        test = self.binary(0)
        if not self.accept("?", True):
            return test
        yes = self.conditional()
        self.expect(":", True)
        return ("if", test, yes, self.conditional())

    def binary(self, level: int) -> Any:
        left = self.unary()
        while (mine := LEVEL.get(self.token[1], -1) if self.token[0] in ("sign", "name") else -1) >= level:
            sign = self.advance(True)[1]
            if sign == "**" and left[0] == "unary":
                raise Invalid("unary before **")
            right = self.binary(mine if sign == "**" else mine + 1)
            mixed = {"??"} if sign in ("&&", "||") else {"&&", "||"} if sign == "??" else set()
            if any(side[0] == "binary" and side[1] in mixed for side in (left, right)):
                raise Invalid("mixture")
            left = ("binary", sign, left, right)
        return left

    def unary(self) -> Any:
        if self.token[0] in ("sign", "name") and self.token[1] in ("!", "-", "+", "~", "typeof", "void"):
            sign = self.advance(True)[1]
            return ("unary", sign, self.unary())
        return self.postfix()

    def postfix(self) -> Any:
        links: list[Any] = []
        node = self.primary()
        while True:
            optional = self.accept("?.", False)
            if self.accept("[", True):
                links.append(("index", optional, self.conditional()))
                self.expect("]", False)
            elif optional or self.accept(".", False):
                kind, name = self.advance(False)
                if kind != "name":
                    raise Invalid("name expected")
                saved = (self.at, self.token)
                optional_call = self.accept("?.", False)
                if self.accept("(", True):
                    links.append(("call", optional, name, optional_call, self.items(")")))
                else:
                    self.at, self.token = saved
                    links.append(("index", optional, ("value", name)))
            else:
                return ("chain", node, links) if links else node

    def items(self, closing: str) -> list[Any]:
        found: list[Any] = []
        while not self.accept(closing, False):
            found.append(self.conditional())
            if not self.sign(closing):
                self.expect(",", True)
        return found

    def primary(self) -> Any:
        kind, value = self.token
        if self.sign("`"):
            return self.template()
        self.advance(kind == "sign" and value not in (")", "]", "}"))
        if kind == "number":
            return ("value", number_literal(value))
        if kind == "string":
            return ("value", unescaped(value[1:-1]))
        if kind == "pattern":
            return ("value", Pattern(*value))
        if kind == "name":
            if value == "_" and self.accept("(", True):
                return ("reference", self.items(")"))
            return ("name", value)
        if value == "(":
            node = self.conditional()
            self.expect(")", False)
            return ("group", node)
        if value == "[":
            return ("array", self.items("]"))
        if value == "{":
            return self.object_literal()
        raise Invalid("operand expected")

    def template(self) -> Any:
        parts: list[Any] = []
        while True:
            start = self.at
            while self.source[self.at] != "`" and not self.source.startswith("${", self.at):
                self.at += 2 if self.source[self.at] == "\\" else 1
            parts.append(("value", unescaped(self.source[start : self.at])))
            if self.source[self.at] == "`":
                self.at += 1
                self.advance(False)
                return ("template", parts)
            self.at += 2
            self.advance(True)
            parts.append(self.conditional())
            if not self.sign("}"):
                raise Invalid("} expected")

    def object_literal(self) -> Any:
        members = []
        while not self.accept("}", False):
            kind, value = self.advance(True)
            if value == "[":
                key = self.conditional()
                self.expect("]", False)
            elif kind == "string":
                key = ("value", unescaped(value[1:-1]))
            else:
                key = ("value", number_literal(value) if kind == "number" else value)
            self.expect(":", True)
            members.append((key, self.conditional()))
            if not self.sign("}"):
                self.expect(",", True)
        return ("object", members)


def number_literal(text: str) -> float:
    text = text.replace("_", "")
    return float(int(text, 0)) if text[:2].lower() in ("0x", "0o", "0b") else float(text)


def unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code, four, two, octal, other = found.groups()
        if code or four or two:
            return units(chr(int(code or four or two, 16)))
        if octal:
            return chr(int(octal, 8))
        if other in ("\n", "\r", "\r\n", "\u2028", "\u2029"):
            return ""
        return {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "v": "\v", "f": "\f"}.get(other, other)

    return ESCAPE.sub(character, text)


# Conversions


def number_text(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    if number == 0:
        return "0"
    if number < 0:
        return "-" + number_text(-number)
    if math.isinf(number):
        return "Infinity"
    mantissa, exponent = f"{number!r}e0".split("e")[:2]
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{rest}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is UNDEF or value is None:
        return "undefined" if value is UNDEF else "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, Array):
        return ",".join("" if item is UNDEF or item is None else to_text(item) for item in value.items)
    if isinstance(value, Object):
        if value.bare or "toString" in value.members:
            raise Thrown("TypeError")
        return "[object Object]"
    if isinstance(value, Pattern):
        return f"/{value.source}/{''.join(sorted(value.flags))}"
    return f"function {value.name}() {{ [native code] }}"


def is_object(value: Any) -> bool:
    return isinstance(value, Array | Object | Pattern | Function)


def to_primitive(value: Any) -> Any:
    return to_text(value) if is_object(value) else value


def to_number(value: Any) -> float:
    value = to_primitive(value)
    if value is UNDEF:
        return math.nan
    if not isinstance(value, str):
        return float(value or 0)
    text = re.sub(rf"^{SPACE}+|{SPACE}+$", "", value)
    if text == "":
        return 0.0
    if re.fullmatch("0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+", text):
        return float(int(text, 0))
    if re.fullmatch(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?Infinity", text):
        return float(text)
    return math.nan


def to_int32(value: Any) -> int:
    number = to_number(value)
    if not math.isfinite(number):
        return 0
    return (int(number) + 2**31) % 2**32 - 2**31


def to_integer(value: Any) -> float:
    number = to_number(value)
    return 0.0 if math.isnan(number) else number if math.isinf(number) else float(int(number))


def truth(value: Any) -> bool:
    if value is UNDEF or value is None:
        return False
    if isinstance(value, float):
        return not (math.isnan(value) or value == 0)
    return value not in (False, "") if isinstance(value, bool | str) else True


def type_of(value: Any) -> str:
    names = {Undefined: "undefined", bool: "boolean", float: "number", str: "string", Function: "function"}
    return names.get(type(value), "object")


def strictly_equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    return a is b if is_object(a) and not isinstance(a, Function) else bool(a == b)


def loosely_equal(a: Any, b: Any) -> bool:
    nothing = [value is UNDEF or value is None for value in (a, b)]
    if any(nothing):
        return all(nothing)
    if type(a) is type(b) or (is_object(a) and is_object(b)):
        return strictly_equal(a, b)
    if is_object(a) or is_object(b):
        return loosely_equal(to_primitive(a), to_primitive(b))
    return to_number(a) == to_number(b)


def arithmetic(sign: str, x: float, y: float) -> float:
    if sign == "-":
        return x - y
    if sign == "*":
        return x * y
    if sign == "/":
        if y == 0 or math.isnan(y):
            return (
                math.nan if x == 0 or math.isnan(x + y) else math.copysign(math.inf, x) * math.copysign(1, y)
            )
        return x / y
    if sign == "%":
        return math.nan if y == 0 or math.isinf(x) or math.isnan(x + y) else math.fmod(x, y)
    return power(x, y)


def power(x: float, y: float) -> float:
    if y == 0:
        return 1.0
    if math.isnan(x) or math.isnan(y) or (abs(x) == 1 and math.isinf(y)):
        return math.nan
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and y % 2 == 1 else math.inf
    except ValueError:
        # Zero to a negative power, or the root of a negative number.
        return math.nan if x else math.copysign(math.inf, x) if y % 2 == 1 else math.inf


def bits(sign: str, a: Any, b: Any) -> float:
    x, y = to_int32(a), to_int32(b)
    if sign in "&|^":
        return float({"&": x & y, "|": x | y, "^": x ^ y}[sign])
    shift = y % 32
    if sign == "<<":
        return float(to_int32(float(x << shift)))
    return float((x if sign == ">>" else x % 2**32) >> shift)


def compare(sign: str, a: Any, b: Any) -> bool:
    a, b = to_primitive(a), to_primitive(b)
    if not (isinstance(a, str) and isinstance(b, str)):
        a, b = to_number(a), to_number(b)
    return bool({"<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b}[sign])


# Members and methods


def own_member(value: Any, key: str) -> Any:
    """The member, or None (a Python one, in a tuple) if there is none: (found,) or ()."""
    if isinstance(value, Object):
        return (value.members[key],) if key in value.members else ()
    if isinstance(value, Pattern):
        return (0.0,) if key == "lastIndex" else ()
    if isinstance(value, str | Array):
        items = value.items if isinstance(value, Array) else value
        if key == "length":
            return (float(len(items)),)
        if re.fullmatch("0|[1-9][0-9]{0,14}", key) and int(key) < len(items):
            return (items[int(key)],)
        if isinstance(value, Array) and key in value.extra:
            return (value.extra[key],)
    return ()


def member(value: Any, key: Any) -> Any:
    if value is UNDEF or value is None:
        raise Thrown("TypeError")
    key = to_text(key)
    if found := own_member(value, key):
        return found[0]
    if isinstance(value, str) and key in STRING_METHODS:
        return Function("string", key)
    if isinstance(value, Array) and key in ARRAY_METHODS:
        return Function("array", key)
    return UNDEF


def array_method(name: str, array: Array, arguments: list[Any]) -> Any:
    wanted = arguments[0] if arguments else UNDEF
    start = to_integer(arguments[1]) if len(arguments) > 1 else 0.0
    size = len(array.items)
    start = max(0.0, start + size) if start < 0 else start
    for position in range(int(min(start, size)), size):
        item = array.items[position]
        both_nan = name == "includes" and item != item and wanted != wanted  # noqa: PLR0124
        if strictly_equal(item, wanted) or both_nan:
            return True if name == "includes" else float(position)
    return False if name == "includes" else -1.0


def string_method(name: str, text: str, arguments: list[Any]) -> Any:
    if name == "match":
        return match(text, arguments)
    if name == "trim":
        return re.sub(rf"^{SPACE}+|{SPACE}+$", "", text)
    if name in ("toUpperCase", "toLowerCase"):
        return units(joined(text).upper() if name == "toUpperCase" else joined(text).lower())
    wanted = arguments[0] if arguments else UNDEF
    if isinstance(wanted, Pattern) and name != "indexOf":
        raise Thrown("TypeError")
    wanted = to_text(wanted)
    given = len(arguments) > 1 and arguments[1] is not UNDEF
    position = to_integer(arguments[1]) if given else float(len(text)) if name == "endsWith" else 0.0
    at = int(min(max(position, 0.0), len(text)))
    if name == "startsWith":
        return text[at:].startswith(wanted)
    if name == "endsWith":
        return text[:at].endswith(wanted)
    found = text.find(wanted, at)
    return found >= 0 if name == "includes" else float(found)


def match(text: str, arguments: list[Any]) -> Any:
    pattern = arguments[0] if arguments else UNDEF
    if not isinstance(pattern, Pattern):
        try:
            pattern = Pattern("" if pattern is UNDEF else to_text(pattern), "")
        except Invalid:
            raise Thrown("SyntaxError") from None
    if "g" in pattern.flags:
        every = pattern.compiled.find_all(joined(text))
        return Array([units(one) for one in every]) if every else None
    found = pattern.compiled.search(joined(text))
    if found is None:
        return None
    as_value = lambda group: UNDEF if group is None else units(group)  # noqa: E731
    named = {name: as_value(group) for name, group in found.named.items()}
    extra = {
        "index": float(found.index),
        "input": text,
        "groups": Object(named, bare=True) if named else UNDEF,
    }
    return Array([as_value(group) for group in found.groups], extra)


# Evaluating


class Evaluator:
    def __init__(self, names: dict[str, Any], records: dict[str, Any]) -> None:
        self.names = {"undefined": UNDEF, "NaN": math.nan, "Infinity": math.inf, "true": True, "false": False,
                      "null": None, "_": Function("", ""), **names}  # fmt: skip
        self.records = records

    def value(self, node: Any) -> Any:
        return getattr(self, f"{node[0]}_node")(*node[1:])

    def value_node(self, value: Any) -> Any:
        return value

    def group_node(self, inner: Any) -> Any:
        return self.value(inner)

    def name_node(self, name: str) -> Any:
        if name not in self.names:
            raise Thrown("ReferenceError")
        return self.names[name]

    def if_node(self, test: Any, yes: Any, no: Any) -> Any:
        return self.value(yes if truth(self.value(test)) else no)

    def array_node(self, items: list[Any]) -> Any:
        return Array([self.value(item) for item in items])

    def object_node(self, members: list[Any]) -> Any:
        return Object({to_text(self.value(key)): self.value(member) for key, member in members})

    def template_node(self, parts: list[Any]) -> Any:
        return "".join([to_text(self.value(part)) for part in parts])

    def unary_node(self, sign: str, operand: Any) -> Any:
        if sign == "typeof":
            while operand[0] == "group":
                operand = operand[1]
            if operand[0] == "name" and operand[1] not in self.names:
                return "undefined"
        value = self.value(operand)
        if sign == "!":
            return not truth(value)
        if sign in ("typeof", "void"):
            return type_of(value) if sign == "typeof" else UNDEF
        if sign == "~":
            return float(~to_int32(value))
        return to_number(value) if sign == "+" else -to_number(value)

    def binary_node(self, sign: str, left: Any, right: Any) -> Any:
        a = self.value(left)
        if sign in ("&&", "||", "??"):
            stays = {"&&": not truth(a), "||": truth(a), "??": a is not UNDEF and a is not None}[sign]
            return a if stays else self.value(right)
        b = self.value(right)
        if sign == "+":
            a, b = to_primitive(a), to_primitive(b)
            texts = isinstance(a, str) or isinstance(b, str)
            return to_text(a) + to_text(b) if texts else to_number(a) + to_number(b)
        if sign in ("===", "!=="):
            return strictly_equal(a, b) is (sign == "===")
        if sign in ("==", "!="):
            return loosely_equal(a, b) is (sign == "==")
        if sign in ("<", ">", "<=", ">="):
            return compare(sign, a, b)
        if sign == "in":
            if not is_object(b):
                raise Thrown("TypeError")
            return own_member(b, to_text(a)) != ()
        if sign in ("-", "*", "/", "%", "**"):
            return arithmetic(sign, to_number(a), to_number(b))
        return bits(sign, a, b)

    def chain_node(self, first: Any, links: list[Any]) -> Any:
        value = self.value(first)
        for kind, optional, key, *call in links:
            if optional and (value is UNDEF or value is None):
                return UNDEF
            if kind == "index":
                value = member(value, self.value(key))
                continue
            function = member(value, key)
            if call[0] and (function is UNDEF or function is None):
                return UNDEF
            arguments = [self.value(argument) for argument in call[1]]
            if not isinstance(function, Function) or isinstance(value, Object):
                raise Thrown("TypeError")
            method = array_method if isinstance(value, Array) else string_method
            value = method(key, value, arguments)
        return value

    def reference_node(self, arguments: list[Any]) -> Any:
        values = [self.value(argument) for argument in arguments]
        name = values[0] if values else UNDEF
        if name is not UNDEF and not isinstance(name, str):
            raise Thrown("crossreference")
        if name is UNDEF or "undefined" in name:
            return UNDEF
        return self.records.get(name)
