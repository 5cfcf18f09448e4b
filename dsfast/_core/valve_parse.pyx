"""Lexer and parser of the rule language (spec/valve.md section 5): the source of a rule to a syntax tree.

The language is the expression grammar of JavaScript without everything that changes state, makes functions or
reaches beyond the rule's own values. What JavaScript has and the language has not is refused by its name. Nesting
is bounded, so the recursion here is, too; chains such as ``a && b && c`` are read in a loop.
"""

from dsfast._core.js_values cimport UNDEFINED, is_space, join_surrogates, text_number

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef enum:
    MAX_SOURCE = 10_000
    MAX_NESTING = 100

    # Kinds of tokens.
    END = 0
    NAME
    NUMBER
    STRING
    TEXT            # one text of a template
    PATTERN         # a regular expression
    PUNCTUATOR

cdef tuple PUNCTUATORS = tuple(sorted(
    ">>>= ... === !== **= <<= >>= >>> &&= ||= ??= => == != <= >= && || ?? ?. ++ -- += -= *= /= %= &= |= ^= << >> **"
    " { } ( ) [ ] ; , < > + - * / % & | ^ ! ~ ? : = .".split(), key=len, reverse=True))
cdef frozenset ASSIGNMENTS = frozenset("= += -= *= /= %= **= <<= >>= >>>= &= |= ^= &&= ||= ??=".split())
cdef dict PRECEDENCE = {
    "??": 1, "||": 2, "&&": 3, "|": 4, "^": 5, "&": 6,
    "==": 7, "!=": 7, "===": 7, "!==": 7,
    "<": 8, ">": 8, "<=": 8, ">=": 8, "in": 8, "instanceof": 8,
    "<<": 9, ">>": 9, ">>>": 9, "+": 10, "-": 10, "*": 11, "/": 11, "%": 11, "**": 12,
}
cdef frozenset UNARY_OPERATORS = frozenset(("!", "-", "+", "~", "typeof", "void"))
cdef frozenset RESERVED = frozenset((
    "await break case catch class const continue debugger default delete do else enum export extends finally for"
    " function if implements import instanceof interface let new package private protected public return static super"
    " switch this throw try var while with yield in typeof void").split())
cdef frozenset METHODS = frozenset((
    "startsWith", "endsWith", "includes", "indexOf", "match", "toUpperCase", "toLowerCase", "trim"))
cdef dict LITERALS = {
    "true": True, "false": False, "null": None, "undefined": UNDEFINED, "NaN": float("nan"), "Infinity": float("inf"),
}
cdef dict ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "v": "\v", "f": "\f"}
cdef str LINE_ENDS = "\n\r\u2028\u2029"


class RuleSyntaxError(ValueError):
    """The rule is not an expression of the rule language."""


cdef object error_at(str source, Py_ssize_t position, str message):
    """The error with the place in the source, counted from 1."""
    cdef str before = source[:position].replace("\r\n", "\n").replace("\r", "\n")
    cdef Py_ssize_t line = before.count("\n") + 1
    return RuleSyntaxError(f"{message} (line {line}, column {len(before) - before.rfind(chr(10))})")


cdef inline bint is_name_start(Py_UCS4 c):
    if c < 0x80:
        return c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c == c'_' or c == c'$'
    return chr(c).isidentifier()


cdef inline bint is_name_part(Py_UCS4 c):
    if c < 0x80:
        return is_name_start(c) or c'0' <= c <= c'9'
    return c == 0x200C or c == 0x200D or ("a" + chr(c)).isidentifier()


cdef inline bint is_digit_of(Py_UCS4 c, int base):
    cdef int value
    if c'0' <= c <= c'9':
        value = <int>c - c'0'
    elif c'a' <= (<unsigned int>c | 0x20) <= c'f':
        value = <int>(<unsigned int>c | 0x20) - c'a' + 10
    else:
        return False
    return value < base


cdef class Token:
    cdef int kind
    cdef object value               # name, number, string, punctuator; (source, flags) of a pattern
    cdef Py_ssize_t start, end
    cdef bint first, last           # TEXT: whether the template begins or ends with it

    def __cinit__(self, int kind, object value, Py_ssize_t start, Py_ssize_t end):
        self.kind = kind
        self.value = value
        self.start = start
        self.end = end


cdef class Lexer:
    """Cuts a source into tokens; what a slash means follows from the token before it."""
    cdef str source
    cdef Py_ssize_t n, i
    cdef list tokens
    cdef list braces            # of every open { whether it belongs to a template
    cdef Token last             # the newest token
    cdef bint after_dot         # whether it follows a dot

    def __cinit__(self, str source):
        self.source = source
        self.n = len(source)
        self.i = 0
        self.tokens = []
        self.braces = []
        self.last = None
        self.after_dot = False

    cdef Py_UCS4 peek(self, Py_ssize_t ahead=0):
        cdef Py_ssize_t i = self.i + ahead
        return self.source[i] if i < self.n else 0

    cdef object error(self, str message, Py_ssize_t position):
        return error_at(self.source, position, message)

    cdef Token add(self, int kind, object value, Py_ssize_t start):
        cdef Token token = Token(kind, value, start, self.i)
        self.after_dot = self.last is not None and self.last.kind == PUNCTUATOR and self.last.value in (".", "?.")
        self.last = token
        self.tokens.append(token)
        return token

    cdef list all_tokens(self):
        cdef Py_UCS4 c
        while self.skip_space():
            c = self.peek()
            if is_name_start(c):
                self.name()
            elif c'0' <= c <= c'9' or (c == c'.' and c'0' <= self.peek(1) <= c'9'):
                self.number()
            elif c == c'"' or c == c"'":
                self.string(c)
            elif c == c'`':
                self.i += 1
                self.template_text(self.i - 1, True)
            elif c == c'}' and self.braces and self.braces[len(self.braces) - 1]:
                self.braces.pop()
                self.i += 1
                self.template_text(self.i - 1, False)
            elif c == c'/' and not self.operand_ended():
                self.pattern()
            else:
                self.punctuator()
        self.add(END, None, self.n)
        return self.tokens

    cdef bint skip_space(self) except -1:
        """Skip white space and comments; False at the end of the source."""
        cdef Py_ssize_t end
        cdef Py_UCS4 c
        while self.i < self.n:
            c = self.peek()
            if is_space(c):
                self.i += 1
            elif c == c'/' and self.peek(1) == c'/':
                while self.i < self.n and self.source[self.i] not in LINE_ENDS:
                    self.i += 1
            elif c == c'/' and self.peek(1) == c'*':
                end = self.source.find("*/", self.i + 2)
                if end < 0:
                    raise self.error("comment without end", self.i)
                self.i = end + 2
            else:
                return True
        return False

    cdef bint operand_ended(self):
        """Whether a slash is a division here, because a value stands before it."""
        cdef Token last = self.last
        if last is None:
            return False
        if last.kind == NAME:
            return self.after_dot or last.value not in RESERVED
        if last.kind == TEXT:
            return last.last
        if last.kind == PUNCTUATOR:
            return last.value in (")", "]", "}")
        return True

    cdef int name(self) except -1:
        cdef Py_ssize_t start = self.i
        while self.i < self.n and is_name_part(self.peek()):
            self.i += 1
        if self.peek() == c'\\':
            raise self.error("unsupported escape in a name", self.i)
        self.add(NAME, self.source[start:self.i], start)
        return 0

    cdef int digits(self, int base) except -1:
        """Skip digits with single underscores between them; at least one."""
        cdef Py_ssize_t start = self.i
        while is_digit_of(self.peek(), base) or (
                self.peek() == c'_' and self.i > start and self.peek(-1) != c'_' and is_digit_of(self.peek(1), base)):
            self.i += 1
        if self.i == start:
            raise self.error("invalid number", start)
        return 0

    cdef int number(self) except -1:
        cdef Py_ssize_t start = self.i
        cdef int base = 10
        cdef bytes text
        if self.peek() == c'0':
            base = {"x": 16, "X": 16, "o": 8, "O": 8, "b": 2, "B": 2}.get(chr(self.peek(1)), 10)
            if is_digit_of(self.peek(1), 10) or self.peek(1) == c'_':
                raise self.error("unsupported number with a leading zero", start)
        if base != 10:
            self.i += 2
            self.digits(base)
        else:
            if self.peek() != c'.':
                self.digits(10)
            if self.peek() == c'.':
                self.i += 1
                if is_digit_of(self.peek(), 10):
                    self.digits(10)
            if self.peek() == c'e' or self.peek() == c'E':
                self.i += 1
                if self.peek() == c'+' or self.peek() == c'-':
                    self.i += 1
                self.digits(10)
        if self.peek() == c'n':
            raise self.error("unsupported BigInt", start)
        if self.i < self.n and (is_name_part(self.peek()) or self.peek() == c'\\'):
            raise self.error("invalid number", start)
        text = self.source[start:self.i].replace("_", "").encode("ascii")
        self.add(NUMBER, text_number(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)), start)
        return 0

    cdef Py_UCS4 hex_value(self, Py_ssize_t count) except? 0:
        """The character of `count` hexadecimal digits."""
        cdef Py_ssize_t k
        for k in range(count):
            if not is_digit_of(self.peek(k), 16):
                raise self.error("invalid escape sequence", self.i)
        self.i += count
        return int(self.source[self.i - count:self.i], 16)

    cdef str escape(self, bint template):
        """The text of the escape sequence whose backslash has just been read."""
        cdef Py_UCS4 c = self.peek()
        cdef Py_ssize_t start = self.i, end
        if self.i >= self.n:
            raise self.error("string without end", self.i)
        self.i += 1
        if c == c'x':
            return chr(self.hex_value(2))
        if c == c'u':
            if self.peek() != c'{':
                return chr(self.hex_value(4))
            end = self.source.find("}", self.i)
            digits = self.source[self.i + 1:end].lstrip("0") or "0" if end > self.i + 1 else "?"
            if len(digits) > 6 or not all(is_digit_of(d, 16) for d in digits) or int(digits, 16) > 0x10FFFF:
                raise self.error("invalid escape sequence", start)
            self.i = end + 1
            return chr(int(digits, 16))
        if c == c'\r' and self.peek() == c'\n':
            self.i += 1
        if chr(c) in LINE_ENDS:
            return ""
        if c'0' <= c <= c'9':
            return self.octal_escape(c, template)
        return ESCAPES.get(chr(c), chr(c))

    cdef str octal_escape(self, Py_UCS4 c, bint template):
        cdef int value = <int>c - c'0'
        if template and (c != c'0' or is_digit_of(self.peek(), 10)):
            raise self.error("octal escape sequence in a template", self.i - 1)
        if value >= 8:
            return chr(c)
        # Up to \377: three digits if the first is at most 3, else two.
        for _ in range(2 if c <= c'3' else 1):
            if not is_digit_of(self.peek(), 8):
                break
            value = value * 8 + <int>self.peek() - c'0'
            self.i += 1
        return chr(value)

    cdef int string(self, Py_UCS4 quote) except -1:
        cdef Py_ssize_t start = self.i, plain
        cdef list parts = []
        cdef Py_UCS4 c
        self.i += 1
        plain = self.i
        while True:
            if self.i >= self.n or self.peek() == c'\n' or self.peek() == c'\r':
                raise self.error("string without end", start)
            c = self.peek()
            if c == quote:
                break
            self.i += 1
            if c == c'\\':
                parts.append(self.source[plain:self.i - 1])
                parts.append(self.escape(False))
                plain = self.i
        parts.append(self.source[plain:self.i])
        self.i += 1
        self.add(STRING, join_surrogates("".join(parts)), start)
        return 0

    cdef int template_text(self, Py_ssize_t start, bint first) except -1:
        """One text of a template, up to the `${` of the next expression or the closing quote."""
        cdef Py_ssize_t plain = self.i
        cdef list parts = []
        cdef Py_UCS4 c
        cdef Token token
        cdef bint last
        while True:
            if self.i >= self.n:
                raise self.error("template without end", start)
            c = self.peek()
            if c == c'`' or (c == c'$' and self.peek(1) == c'{'):
                break
            self.i += 1
            if c == c'\\':
                parts.append(self.source[plain:self.i - 1])
                parts.append(self.escape(True))
                plain = self.i
            elif c == c'\r':
                # Line ends in a template are always \n.
                parts.append(self.source[plain:self.i - 1])
                if self.peek() != c'\n':
                    parts.append("\n")
                plain = self.i
        parts.append(self.source[plain:self.i])
        last = c == c'`'
        self.i += 1 if last else 2
        if not last:
            self.braces.append(True)
        token = self.add(TEXT, join_surrogates("".join(parts)), start)
        token.first = first
        token.last = last
        return 0

    cdef int pattern(self) except -1:
        cdef Py_ssize_t start = self.i, end
        cdef bint in_class = False
        cdef Py_UCS4 c
        self.i += 1
        while True:
            c = self.peek()
            if self.i >= self.n or chr(c) in LINE_ENDS:
                raise self.error("Invalid regular expression: missing /", start)
            self.i += 1
            if c == c'\\':
                if self.i >= self.n or self.source[self.i] in LINE_ENDS:
                    raise self.error("Invalid regular expression: missing /", start)
                self.i += 1
            elif c == c'[':
                in_class = True
            elif c == c']':
                in_class = False
            elif c == c'/' and not in_class:
                break
        end = self.i
        while self.i < self.n and is_name_part(self.peek()):
            self.i += 1
        self.add(PATTERN, (self.source[start + 1:end - 1], self.source[end:self.i]), start)
        return 0

    cdef int punctuator(self) except -1:
        cdef str sign
        cdef Py_ssize_t start = self.i
        for sign in PUNCTUATORS:
            if self.source.startswith(sign, start) and not (sign == "?." and is_digit_of(self.peek(2), 10)):
                self.i += len(sign)
                self.add(PUNCTUATOR, sign, start)
                if sign == "{":
                    self.braces.append(False)
                elif sign == "}" and self.braces:
                    self.braces.pop()
                return 0
        raise self.error("Invalid or unexpected token", start)


cdef class Node:
    """One construct of a rule; see valve_parse.pxd for what each kind holds."""

    def __cinit__(self, int kind, object value, list children, Py_ssize_t start, Py_ssize_t end):
        cdef Node child
        self.kind = kind
        self.value = value
        self.children = children
        self.start = start
        self.end = end
        # A match is never made beforehand: what it costs depends on more than the length of the rule.
        self.constant = kind != IDENTIFIER and kind != REFERENCE and not (kind == CALL and value == "match")
        for child in children:
            self.constant = self.constant and child.constant


cdef class Parsed:
    """What `parse` found out about a rule."""


cdef class Parser:
    """Recursive descent, with precedence climbing for the binary operators."""
    cdef str source
    cdef list tokens
    cdef Token token            # the one to be read next
    cdef Py_ssize_t i, end      # its position; where the token before it ended
    cdef int depth
    cdef set names

    def __cinit__(self, str source):
        self.source = source
        self.tokens = Lexer(source).all_tokens()
        self.i = 0
        self.end = 0
        self.depth = 0
        self.names = set()
        self.token = self.tokens[0]

    cdef object error(self, str message, Token token=None):
        return error_at(self.source, (token or self.token).start, message)

    cdef object unexpected(self):
        """The error for a token that cannot stand where it does, with the construct it would begin."""
        cdef Token token = self.token
        if token.kind == END:
            return self.error("Unexpected end of input")
        if token.kind == NAME and token.value not in ("in", "typeof", "void"):
            if token.value in RESERVED:
                return self.error(f"unsupported {token.value}")
            return self.error(f"Unexpected identifier '{token.value}'")
        if token.kind == NUMBER:
            return self.error("Unexpected number")
        if token.kind == STRING:
            return self.error("Unexpected string")
        if token.kind == TEXT:
            return self.error("unsupported tagged template" if token.first else "Unexpected template")
        if token.kind == PATTERN:
            return self.error("Unexpected regular expression")
        if token.value in ASSIGNMENTS:
            return self.error("unsupported assignment")
        if token.value in ("++", "--"):
            return self.error(f"unsupported {token.value}")
        if token.value == "=>":
            return self.error("unsupported function")
        if token.value == "...":
            return self.error("unsupported spread")
        return self.error(f"Unexpected token '{token.value}'")

    cdef Token advance(self):
        cdef Token token = self.token
        self.end = token.end
        self.i += 1
        self.token = self.tokens[self.i]
        return token

    cdef inline bint at(self, str sign):
        return self.token.kind == PUNCTUATOR and self.token.value == sign

    cdef bint accept(self, str sign):
        if self.at(sign):
            self.advance()
            return True
        return False

    cdef int expect(self, str sign) except -1:
        if not self.accept(sign):
            if self.at(","):
                raise self.error("unsupported comma operator")
            raise self.unexpected()
        return 0

    cdef int enter(self) except -1:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.error(f"nested more than {MAX_NESTING} deep")
        return 0

    cdef Node rule(self):
        """The whole source: an expression and any number of semicolons, or nothing."""
        cdef Node root = None
        if self.at("{"):
            raise self.error("a rule cannot start with {; write ({...})")
        if self.token.kind != END and not self.at(";"):
            root = self.expression()
        if self.at(","):
            raise self.error("unsupported comma operator")
        if self.at(";"):
            while self.accept(";"):
                pass
            if self.token.kind != END:
                raise self.error("unsupported second statement")
        if self.token.kind != END:
            raise self.unexpected()
        return root

    cdef Node expression(self):
        """A conditional expression; what follows has to be checked by the caller."""
        cdef Py_ssize_t start = self.token.start
        cdef Node test, yes, no
        self.enter()
        test = self.binary(0)
        if self.accept("?"):
            yes = self.expression()
            self.expect(":")
            no = self.expression()
            test = Node(CONDITIONAL, None, [test, yes, no], start, self.end)
        self.depth -= 1
        return test

    cdef Node binary(self, int lowest):
        """Operators of a precedence above `lowest`."""
        cdef Py_ssize_t start = self.token.start
        cdef Node left = self.unary()
        cdef Node right
        cdef Token sign
        cdef int precedence
        while self.token.kind == PUNCTUATOR or self.token.kind == NAME:
            precedence = PRECEDENCE.get(self.token.value, 0)
            if precedence <= lowest:
                break
            sign = self.token
            if sign.value == "instanceof":
                raise self.unexpected()
            self.advance()
            if sign.value == "**":
                if left.kind == UNARY and not left.parenthesised:
                    raise self.error("the left side of ** needs parentheses", sign)
                self.enter()
                right = self.binary(precedence - 1)
                self.depth -= 1
            else:
                right = self.binary(precedence)
            self.check_mixture(sign, left, right)
            left = Node(LOGICAL if precedence <= 3 else BINARY, sign.value, [left, right], start, self.end)
        return left

    cdef int check_mixture(self, Token sign, Node left, Node right) except -1:
        """?? beside && or || needs parentheses."""
        cdef Node side
        if sign.value not in ("??", "||", "&&"):
            return 0
        for side in (left, right):
            if (side.kind == LOGICAL and not side.parenthesised
                    and (side.value == "??") != (sign.value == "??")):
                raise self.error("?? mixed with && or || needs parentheses", sign)
        return 0

    cdef Node unary(self):
        cdef Token sign = self.token
        cdef Node operand
        if (sign.kind == PUNCTUATOR or sign.kind == NAME) and sign.value in UNARY_OPERATORS:
            self.enter()
            self.advance()
            operand = self.unary()
            self.depth -= 1
            return Node(UNARY, sign.value, [operand], sign.start, self.end)
        return self.postfix()

    cdef Node postfix(self):
        """A primary expression with its members, indices and calls."""
        cdef Py_ssize_t start = self.token.start
        cdef Node node = self.primary()
        cdef bint optional, chain = False
        while True:
            optional = self.accept("?.")
            chain = chain or optional
            if self.accept("["):
                node = Node(INDEX, None, [node, self.inner("]")], start, self.end)
            elif self.at("(") or (self.token.kind == TEXT and self.token.first):
                raise self.error("unsupported call" if self.at("(") else "unsupported tagged template")
            elif optional or self.accept("."):
                node = self.member(node, start)
                chain = chain or node.optional_call
            else:
                break
            node.optional = optional
            # A link may jump to the end of its chain, so no part of a chain stands for itself.
            node.constant = node.constant and not chain
        if chain:
            return Node(CHAIN, None, [node], start, self.end)
        return node

    cdef Node inner(self, str closing):
        """An expression in brackets, whose opening one has been read."""
        cdef Node node = self.expression()
        self.expect(closing)
        return node

    cdef Node member(self, Node owner, Py_ssize_t start):
        """What follows the dot: a member, or the call of a method."""
        cdef Token name = self.token
        cdef Node node
        cdef bint optional_call
        if name.kind != NAME:
            raise self.unexpected()
        self.advance()
        optional_call = (self.at("?.") and (<Token>self.tokens[self.i + 1]).value == "("
                         and (<Token>self.tokens[self.i + 1]).kind == PUNCTUATOR)
        if not optional_call and not self.at("("):
            return Node(MEMBER, name.value, [owner], start, self.end)
        if name.value not in METHODS:
            raise self.error(f"unsupported call of {name.value}", name)
        if optional_call:
            self.advance()
        self.advance()
        node = Node(CALL, name.value, [owner] + self.items(")"), start, name.end)
        node.optional_call = optional_call
        return node

    cdef list items(self, str closing):
        """Expressions with commas between them, up to the closing bracket; a comma may stand behind the last."""
        cdef list found = []
        while not self.accept(closing):
            if self.at(",") and closing == "]":
                raise self.error("unsupported array hole")
            found.append(self.expression())
            if not self.at(closing):
                self.expect(",")
        return found

    cdef Node primary(self):
        cdef Token token = self.token
        cdef Node node
        if token.kind == NAME:
            return self.name()
        if token.kind == NUMBER or token.kind == STRING:
            self.advance()
            return Node(LITERAL, token.value, [], token.start, self.end)
        if token.kind == PATTERN:
            self.advance()
            return Node(REGEXP, token.value, [], token.start, self.end)
        if token.kind == TEXT and token.first:
            return self.template()
        if self.accept("("):
            node = self.inner(")")
            if self.at("=>"):
                raise self.unexpected()
            node.parenthesised = True
            return node
        if self.accept("["):
            return Node(ARRAY, None, self.items("]"), token.start, self.end)
        if self.accept("{"):
            return self.object_literal(token.start)
        raise self.unexpected()

    cdef Node name(self):
        cdef Token token = self.token
        if token.value in RESERVED:
            raise self.unexpected()
        self.advance()
        if token.value in LITERALS:
            return Node(LITERAL, LITERALS[token.value], [], token.start, self.end)
        self.names.add(token.value)
        if token.value == "_" and self.accept("("):
            return Node(REFERENCE, None, self.items(")"), token.start, self.end)
        return Node(IDENTIFIER, token.value, [], token.start, self.end)

    cdef Node template(self):
        cdef Token text = self.advance()
        cdef Py_ssize_t start = text.start
        cdef list texts = [text.value]
        cdef list expressions = []
        while not text.last:
            expressions.append(self.expression())
            if self.token.kind != TEXT or self.token.first:
                raise self.unexpected()
            text = self.advance()
            texts.append(text.value)
        return Node(TEMPLATE, texts, expressions, start, self.end)

    cdef Node object_literal(self, Py_ssize_t start):
        cdef list children = []
        while not self.accept("}"):
            children.append(self.key())
            if not self.accept(":"):
                if self.at(",") or self.at("}"):
                    raise self.error("unsupported shorthand member")
                if self.at("(") or self.token.kind == NAME:
                    raise self.error("unsupported function")
                raise self.unexpected()
            children.append(self.expression())
            if not self.at("}"):
                self.expect(",")
        return Node(OBJECT, None, children, start, self.end)

    cdef Node key(self):
        cdef Token token = self.token
        if self.accept("["):
            return self.inner("]")
        if token.kind != NAME and token.kind != STRING and token.kind != NUMBER:
            raise self.error("unsupported function") if self.at("*") else self.unexpected()
        self.advance()
        if token.value == "__proto__":
            raise self.error("unsupported __proto__ in an object", token)
        return Node(LITERAL, token.value, [], token.start, self.end)


cdef Parsed parse(str source):
    """The syntax tree of a rule; raises RuleSyntaxError."""
    cdef Parsed parsed = Parsed()
    cdef Parser parser
    if len(source) > MAX_SOURCE:
        raise RuleSyntaxError(f"rule longer than {MAX_SOURCE} characters")
    parser = Parser(source)
    parsed.root = parser.rule()
    parsed.names = frozenset(parser.names)
    return parsed
