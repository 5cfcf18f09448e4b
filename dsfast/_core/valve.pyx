"""Rules of the permission language: compiled to instructions of a stack machine, evaluated on C values.

A rule that compares a user's id with a path variable, or members of documents with literals, makes no Python
object. The evaluator never recurses; strings that come up on the way live in an arena that is dropped at the end.
Semantics: spec/valve.md sections 5 and 6. There is no way from a rule to anything but its inputs.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport fabs, fmod, isnan, pow, INFINITY, NAN
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

import sys

from dsfast._core.buffer cimport Buf, Slice, buf_add, buf_free, unlikely
from dsfast._core.js_values cimport (
    NUMBER_TEXT_SIZE, UNDEFINED, compare_units, decode, encode, ends_high, int32_of, integer_of, is_ascii,
    starts_low, text_number, trim, unit_count, units, write_number,
)
from dsfast._core.valve_parse cimport (
    ARRAY, BINARY, CALL, CHAIN, CONDITIONAL, IDENTIFIER, INDEX, LITERAL, LOGICAL, MEMBER, OBJECT, REFERENCE, REGEXP,
    TEMPLATE, UNARY, Node, Parsed, error_at, parse,
)

from dsfast._core.valve_parse import RuleSyntaxError

cdef extern from "Python.h":
    int PyUnicode_Check(PyObject *o) noexcept
    int PyUnicode_IS_COMPACT_ASCII(PyObject *o) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *o) noexcept
    void *PyUnicode_DATA(PyObject *o) noexcept
    const char *PyUnicode_AsUTF8AndSize(PyObject *o, Py_ssize_t *n) except NULL
    int PyLong_Check(PyObject *o) noexcept
    double PyLong_AsDouble(PyObject *o) except? -1.0
    int PyFloat_Check(PyObject *o) noexcept
    double PyFloat_AS_DOUBLE(PyObject *o) noexcept
    int PyDict_Check(PyObject *o) noexcept
    int PyList_Check(PyObject *o) noexcept
    PyObject *Py_True
    PyObject *Py_False
    PyObject *Py_None

cdef extern from *:
    """
    #include <string.h>
    """
    void *memmem(const void *p, size_t n, const void *part, size_t size) noexcept nogil

globals()["UNDEFINED"] = UNDEFINED

cdef enum:
    MAX_STEPS = 100_000
    MAX_TEXT = 1 << 20              # bytes of one string made by a rule
    MAX_MEMORY = 4 << 20            # bytes of all of them
    MAX_DEPTH = 1000                # of arrays in arrays that are made a text
    STACK = 16                      # values on the C stack; deeper rules get theirs from the heap
    SCRATCH = 512                   # bytes for strings before the heap is asked
    CHUNK = 8192
    SEARCHES_PER_STEP = 16          # elements compared, and bytes handled, for the price of one instruction
    BYTES_PER_STEP = 1024
    CACHED_PATTERNS = 256
    MAX_PATTERN = 10_000
    REMEMBERED = 4096
    REMEMBERED_TEXT = 128

    # Tags of values; from T_ARRAY on they are objects.
    T_UNDEFINED = 0
    T_NULL
    T_BOOLEAN
    T_NUMBER
    T_STRING
    T_ARRAY
    T_OBJECT
    T_REGEXP
    T_FUNCTION

    # Instructions: what they take from the stack and leave there. `a`, `b`: operands.
    I_END = 0           # the value on top is the result
    I_CONSTANT          # → constants[a]
    I_USER_ID           # → user.id
    I_AUTHENTICATED     # → user.isAuthenticated
    I_USER_DATA         # → user.data
    I_USER              # → user
    I_DATA              # → data
    I_OLD_DATA          # → oldData
    I_NOW               # → now
    I_ACTION            # → action
    I_NAME              # → name
    I_VARIABLE          # → the path variable a
    I_UNKNOWN           # ReferenceError for the name constants[a]
    I_MEMBER            # object → its member constants[a]
    I_INDEX             # object, key → member
    I_LINK              # ends a chain with undefined at instruction a if the top is null or undefined
    I_CALLABLE          # checks that the top has methods at all
    I_METHOD_LINK       # ends a chain with undefined at instruction a if the top has no method b
    I_CALL              # object, b arguments → result of method a
    I_REFERENCE         # a arguments → the record
    I_NOT               # value → value, and so on
    I_NEGATE
    I_NUMBER
    I_COMPLEMENT
    I_TYPEOF
    I_VOID
    I_TEXT              # value → its text
    I_ADD               # left, right → result, and so on
    I_SUBTRACT
    I_MULTIPLY
    I_DIVIDE
    I_REMAINDER
    I_POWER
    I_AND
    I_OR
    I_XOR
    I_LEFT
    I_RIGHT
    I_RIGHT_UNSIGNED
    I_LESS
    I_GREATER
    I_LESS_EQUAL
    I_GREATER_EQUAL
    I_IN
    I_EQUAL
    I_UNEQUAL
    I_SAME
    I_DIFFERENT
    I_JUMP              # to instruction a
    I_JUMP_UNLESS       # value → ; to a if it is falsy
    I_FALSY_OR_DROP     # to a if the top is falsy, else drops it
    I_TRUTHY_OR_DROP
    I_PRESENT_OR_DROP   # to a unless the top is null or undefined
    I_ARRAY             # a values → array
    I_OBJECT            # a keys and values → object
    I_JOIN              # a texts → one

    # Methods.
    M_STARTS_WITH = 0
    M_ENDS_WITH
    M_INCLUDES
    M_INDEX_OF
    M_MATCH
    M_TO_UPPER_CASE
    M_TO_LOWER_CASE
    M_TRIM

cdef tuple METHODS = ("startsWith", "endsWith", "includes", "indexOf", "match", "toUpperCase", "toLowerCase", "trim")
cdef dict METHOD_IDS = {name: number for number, name in enumerate(METHODS)}
cdef dict INPUTS = {
    "user": I_USER, "data": I_DATA, "oldData": I_OLD_DATA, "now": I_NOW, "action": I_ACTION, "name": I_NAME,
}
cdef dict USER_MEMBERS = {"id": I_USER_ID, "isAuthenticated": I_AUTHENTICATED, "data": I_USER_DATA}
cdef dict UNARY_OPS = {
    "!": I_NOT, "-": I_NEGATE, "+": I_NUMBER, "~": I_COMPLEMENT, "typeof": I_TYPEOF, "void": I_VOID,
}
cdef dict BINARY_OPS = {
    "+": I_ADD, "-": I_SUBTRACT, "*": I_MULTIPLY, "/": I_DIVIDE, "%": I_REMAINDER, "**": I_POWER, "&": I_AND,
    "|": I_OR, "^": I_XOR, "<<": I_LEFT, ">>": I_RIGHT, ">>>": I_RIGHT_UNSIGNED, "<": I_LESS, ">": I_GREATER,
    "<=": I_LESS_EQUAL, ">=": I_GREATER_EQUAL, "in": I_IN, "==": I_EQUAL, "!=": I_UNEQUAL, "===": I_SAME,
    "!==": I_DIFFERENT,
}
cdef dict LOGICAL_OPS = {"&&": I_FALSY_OR_DROP, "||": I_TRUTHY_OR_DROP, "??": I_PRESENT_OR_DROP}


class RuleError(Exception):
    """The evaluation of a rule failed: what JavaScript throws, a limit, or a wrong argument of `_()`."""


# Values that are no JSON

cdef class Function:
    """A method, or `_`, as a value; nothing can be done with it but typeof and comparing."""
    cdef str name

    def __cinit__(self, str name):
        self.name = name

    def __repr__(self):
        return f"function {self.name}() {{ [native code] }}"


cdef class Pattern:
    """A regular expression as a value."""
    cdef readonly object compiled       # dsfast.regexp.Regexp
    cdef readonly str source
    cdef readonly str flags

    def __cinit__(self, str source, str flags, bint from_rule=True):
        self.source = source
        self.flags = flags
        self.compiled = compile_pattern(source, flags, from_rule)

    def __repr__(self):
        return f"/{self.source}/{''.join(sorted(self.flags))}"


cdef class Groups(dict):
    """The named groups of a match: an object that cannot be made a text, since it inherits nothing."""


cdef class MatchArray(list):
    """What `match` without the flag g gives: the whole, the groups, and where they were found."""
    cdef readonly object index
    cdef readonly str input
    cdef readonly object groups


cdef tuple STRING_FUNCTIONS = tuple(Function(name) for name in METHODS)
cdef tuple ARRAY_FUNCTIONS = tuple(Function(name) if name in ("includes", "indexOf") else None for name in METHODS)
cdef Function CROSS_REFERENCE = Function("")
cdef dict patterns = {}         # of `match("text")`, by their text; bounded
cdef dict findings = {}         # (pattern, text): what `found_in` found; bounded


cdef object compile_pattern(str source, str flags, bint from_rule):
    """The compiled expression; raises ValueError.

    What is not in the rule itself may be a client's, and gets the engine whose time is bounded by nature only.
    """
    from dsfast import regexp
    return regexp.compile(source, flags, allow_backtracking=from_rule)


cdef Pattern pattern_of(str source):
    """The pattern for a text given to `match`, from the cache or compiled now."""
    cdef Pattern pattern = patterns.get(source)
    if pattern is not None:
        return pattern
    if len(source) > MAX_PATTERN:
        raise RuleError(f"regular expression longer than {MAX_PATTERN} characters")
    try:
        pattern = Pattern(source, "", False)
    except ValueError as error:
        raise RuleError(f"SyntaxError: Invalid regular expression: /{source}/: {error}") from None
    if len(patterns) >= CACHED_PATTERNS:
        patterns.clear()
    patterns[source] = pattern
    return pattern


# The running evaluation

cdef struct Chunk:
    Chunk *next

cdef struct Run:
    char *base          # the chunk that is being filled: its start, where the next string goes, its end
    char *top
    char *limit
    Chunk *chunks
    Py_ssize_t memory   # bytes of all chunks
    PyObject *kept      # list of objects that values point to, or NULL
    PyObject *user      # `user` as an object, or NULL
    int steps           # left


cdef int release(Run *run) except -1:
    cdef Chunk *chunk
    while run.chunks != NULL:
        chunk = run.chunks
        run.chunks = chunk.next
        free(chunk)
    if run.kept != NULL:
        kept = <object>run.kept
        Py_DECREF(kept)
        run.kept = NULL
    return 0


cdef int keep(Run *run, object value) except -1:
    """Let `value` live until the end of the evaluation."""
    cdef list kept
    if run.kept == NULL:
        kept = []
        Py_INCREF(kept)
        run.kept = <PyObject*>kept
    (<list>run.kept).append(value)
    return 0


cdef inline int charge(Run *run, Py_ssize_t steps) except -1:
    """Account for work that grows with the inputs."""
    if unlikely(steps >= run.steps):
        run.steps = 0
        raise RuleError(f"more than {MAX_STEPS} steps")
    run.steps -= <int>steps
    return 0


cdef char *take(Run *run, Py_ssize_t n) except NULL:
    """Room for a string of n bytes; what is not used of it may be given back by lowering `run.top`."""
    cdef char *p
    cdef Chunk *chunk
    cdef Py_ssize_t size
    if n > MAX_TEXT:
        raise RuleError(f"a string of more than {MAX_TEXT} bytes")
    if run.limit - run.top < n:
        size = n if n > CHUNK else CHUNK
        if run.memory + size > MAX_MEMORY:
            raise RuleError(f"strings of more than {MAX_MEMORY} bytes")
        chunk = <Chunk*>malloc(sizeof(Chunk) + <size_t>size)
        if chunk == NULL:
            raise MemoryError("dsfast: out of memory")
        chunk.next = run.chunks
        run.chunks = chunk
        run.memory += size
        run.base = run.top = <char*>(chunk + 1)
        run.limit = run.base + size
    p = run.top
    run.top += n
    return p


# Values from Python objects and back

cdef inline void set_string(Value *v, const char *p, Py_ssize_t n) noexcept nogil:
    v.tag = T_STRING
    v.p = p
    v.n = n
    v.o = NULL


cdef inline void set_boolean(Value *v, bint truth) noexcept nogil:
    v.tag = T_BOOLEAN
    v.number = truth


cdef inline void set_number(Value *v, double number) noexcept nogil:
    v.tag = T_NUMBER
    v.number = number


cdef inline void set_object(Value *v, int tag, PyObject *o) noexcept nogil:
    v.tag = tag
    v.o = o


cdef int set_str(Run *run, Value *v, PyObject *o) except -1:
    """A string whose str is kept alive by somebody else."""
    cdef bytes text
    v.tag = T_STRING
    v.o = o
    if PyUnicode_IS_COMPACT_ASCII(o):
        v.p = <const char*>PyUnicode_DATA(o)
        v.n = PyUnicode_GET_LENGTH(o)
        return 0
    try:
        v.p = PyUnicode_AsUTF8AndSize(o, &v.n)
    except UnicodeEncodeError:
        text = encode(<str>o)
        keep(run, text)
        set_string(v, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return 0


cdef int set_python(Run *run, Value *v, PyObject *o) except -1:
    """The value of a JSON value, or of an object that this module has made; borrowed."""
    if PyUnicode_Check(o):
        set_str(run, v, o)
    elif PyFloat_Check(o):
        set_number(v, PyFloat_AS_DOUBLE(o))
    elif o == Py_None:
        v.tag = T_NULL
    elif o == Py_True or o == Py_False:
        set_boolean(v, o == Py_True)
    elif PyLong_Check(o):
        try:
            set_number(v, PyLong_AsDouble(o))
        except OverflowError:
            set_number(v, INFINITY if <object>o > 0 else -INFINITY)
    elif PyDict_Check(o):
        set_object(v, T_OBJECT, o)
    elif PyList_Check(o):
        set_object(v, T_ARRAY, o)
    elif o == <PyObject*>UNDEFINED:
        v.tag = T_UNDEFINED
    elif isinstance(<object>o, Pattern):
        set_object(v, T_REGEXP, o)
    elif isinstance(<object>o, Function):
        set_object(v, T_FUNCTION, o)
    else:
        raise RuleError(f"unsupported value of type {type(<object>o).__name__}")
    return 0


cdef object to_python(Value *v):
    cdef int64_t integer
    if v.tag == T_NUMBER:
        if fabs(v.number) < 9007199254740992.0:
            integer = <int64_t>v.number
            if v.number == <double>integer and (integer != 0 or 1.0 / v.number > 0):
                return integer
        return v.number
    if v.tag == T_STRING:
        return <object>v.o if v.o != NULL else decode(v.p, v.n)
    if v.tag == T_BOOLEAN:
        return v.number != 0
    if v.tag == T_NULL:
        return None
    if v.tag == T_UNDEFINED:
        return UNDEFINED
    return <object>v.o


cdef object key_of(Value *v):
    """The str of a string."""
    return <object>v.o if v.o != NULL else decode(v.p, v.n)


# Conversions

cdef bint truthy(Value *v) noexcept:
    if v.tag == T_BOOLEAN:
        return v.number != 0
    if v.tag == T_NUMBER:
        return v.number != 0 and not isnan(v.number)
    if v.tag == T_STRING:
        return v.n > 0
    return v.tag >= T_ARRAY


cdef int add_text(Run *run, Buf *text, Value *v, int depth) except -1:
    """Append the text of an array's element, or of anything but undefined and null."""
    cdef char digits[NUMBER_TEXT_SIZE]
    cdef Value element
    cdef Py_ssize_t i
    cdef list array
    if text.n > MAX_TEXT:
        raise RuleError(f"a string of more than {MAX_TEXT} bytes")
    if v.tag == T_STRING:
        buf_add(text, v.p, <size_t>v.n)
    elif v.tag == T_NUMBER:
        buf_add(text, digits, <size_t>write_number(v.number, digits))
    elif v.tag == T_BOOLEAN:
        if v.number:
            buf_add(text, b"true", 4)
        else:
            buf_add(text, b"false", 5)
    elif v.tag == T_ARRAY:
        if depth > MAX_DEPTH:
            raise RuleError("an array nested too deeply")
        array = <list>v.o
        charge(run, len(array))
        for i in range(len(array)):
            if i:
                buf_add(text, b",", 1)
            set_python(run, &element, <PyObject*>array[i])
            add_text(run, text, &element, depth + 1)
    elif v.tag == T_OBJECT:
        if "toString" in <dict>v.o or type(<object>v.o) is Groups:
            # The function that makes the text is hidden by a member that is none, or is missing.
            raise RuleError("TypeError: Cannot convert object to primitive value")
        buf_add(text, b"[object Object]", 15)
    elif v.tag > T_OBJECT:
        add_str(text, repr(<object>v.o))
    return 0


cdef int add_str(Buf *text, str part) except -1:
    cdef bytes encoded = encode(part)
    return buf_add(text, PyBytes_AS_STRING(encoded), <size_t>PyBytes_GET_SIZE(encoded))


cdef int to_text(Run *run, Value *v) except -1:
    """ToString, in place."""
    cdef Buf text
    cdef char *p
    if v.tag == T_STRING:
        return 0
    if v.tag == T_NUMBER:
        p = take(run, NUMBER_TEXT_SIZE)
        set_string(v, p, write_number(v.number, p))
        run.top = p + v.n
    elif v.tag == T_UNDEFINED:
        set_string(v, "undefined", 9)
    elif v.tag == T_NULL:
        set_string(v, "null", 4)
    elif v.tag == T_BOOLEAN:
        if v.number:
            set_string(v, "true", 4)
        else:
            set_string(v, "false", 5)
    else:
        text.p = NULL
        text.n = text.cap = 0
        try:
            add_text(run, &text, v, 0)
            p = take(run, <Py_ssize_t>text.n)
            if text.n:
                memcpy(p, text.p, text.n)
            set_string(v, p, <Py_ssize_t>text.n)
        finally:
            buf_free(&text)
    charge(run, v.n // BYTES_PER_STEP)
    return 0


cdef inline int to_primitive(Run *run, Value *v) except -1:
    return to_text(run, v) if v.tag >= T_ARRAY else 0


cdef double number_of(Run *run, Value *v) except? -1:
    """ToNumber; an object becomes its text first."""
    if v.tag == T_NUMBER or v.tag == T_BOOLEAN:
        return v.number
    if v.tag == T_UNDEFINED:
        return NAN
    if v.tag == T_NULL:
        return 0.0
    to_primitive(run, v)
    charge(run, v.n // BYTES_PER_STEP)
    return text_number(v.p, v.n)


cdef str type_name(Value *v):
    return ("undefined", "object", "boolean", "number", "string", "object", "object", "object", "function")[v.tag]


# Operators

cdef bint same(Value *a, Value *b) noexcept nogil:
    """Strict equality."""
    if a.tag != b.tag:
        return False
    if a.tag == T_STRING:
        return a.n == b.n and (a.p == b.p or memcmp(a.p, b.p, <size_t>a.n) == 0)
    if a.tag == T_NUMBER or a.tag == T_BOOLEAN:
        return a.number == b.number
    return a.tag <= T_NULL or a.o == b.o


cdef bint equal(Run *run, Value *a, Value *b) except -1:
    """Loose equality; may convert its operands."""
    if a.tag == b.tag:
        return same(a, b)
    if a.tag <= T_NULL or b.tag <= T_NULL:
        return a.tag <= T_NULL and b.tag <= T_NULL
    if a.tag >= T_ARRAY and b.tag >= T_ARRAY:
        return False
    to_primitive(run, a)
    to_primitive(run, b)
    if a.tag == T_STRING and b.tag == T_STRING:
        return same(a, b)
    return number_of(run, a) == number_of(run, b)


cdef int add(Run *run, Value *a, Value *b) except -1:
    to_primitive(run, a)
    to_primitive(run, b)
    if a.tag != T_STRING and b.tag != T_STRING:
        set_number(a, number_of(run, a) + number_of(run, b))
        return 0
    to_text(run, a)
    to_text(run, b)
    return concatenate(run, a, b)


cdef int concatenate(Run *run, Value *a, Value *b) except -1:
    """a becomes a + b, both strings."""
    cdef Py_ssize_t n = a.n + b.n
    cdef char *p
    cdef uint32_t c
    if b.n == 0:
        return 0
    if a.n == 0:
        a[0] = b[0]
        return 0
    charge(run, n // BYTES_PER_STEP)
    if n > MAX_TEXT:
        raise RuleError(f"a string of more than {MAX_TEXT} bytes")
    if run.base <= a.p and a.p + a.n == run.top and run.limit - run.top >= b.n and not starts_low(b.p, b.n):
        # The left side is the newest string of the arena: it can grow where it is.
        memcpy(run.top, b.p, <size_t>b.n)
        run.top += b.n
        set_string(a, a.p, n)
        return 0
    p = take(run, n)
    memcpy(p, a.p, <size_t>a.n)
    if ends_high(a.p, a.n) and starts_low(b.p, b.n):
        # Two halves of a pair meet: three bytes each become the four of their character.
        c = 0x10000 + ((<uint32_t>a.p[a.n - 2] & 0xF) << 16 | (<uint32_t>a.p[a.n - 1] & 0x3F) << 10
                       | (<uint32_t>b.p[1] & 0xF) << 6 | (<uint32_t>b.p[2] & 0x3F))
        p[a.n - 3] = <char>(0xF0 | c >> 18)
        p[a.n - 2] = <char>(0x80 | (c >> 12 & 0x3F))
        p[a.n - 1] = <char>(0x80 | (c >> 6 & 0x3F))
        p[a.n] = <char>(0x80 | (c & 0x3F))
        memcpy(p + a.n + 1, b.p + 3, <size_t>b.n - 3)
        n -= 2
        run.top = p + n
    else:
        memcpy(p + a.n, b.p, <size_t>b.n)
    set_string(a, p, n)
    return 0


cdef double power(double base, double exponent) noexcept nogil:
    """Like C's pow, except that NaN and +-1 ** +-Infinity give NaN."""
    if isnan(exponent) or (fabs(base) == 1.0 and fabs(exponent) == INFINITY):
        return NAN
    return pow(base, exponent)


cdef int arithmetic(Run *run, int op, Value *a, Value *b) except -1:
    """The operators that see nothing but numbers; a becomes the result."""
    cdef double x = number_of(run, a)
    cdef double y = number_of(run, b)
    cdef double result
    cdef uint32_t shift
    if op == I_SUBTRACT:
        result = x - y
    elif op == I_MULTIPLY:
        result = x * y
    elif op == I_DIVIDE:
        result = x / y
    elif op == I_REMAINDER:
        result = fmod(x, y)
    elif op == I_POWER:
        result = power(x, y)
    elif op == I_AND:
        result = int32_of(x) & int32_of(y)
    elif op == I_OR:
        result = int32_of(x) | int32_of(y)
    elif op == I_XOR:
        result = int32_of(x) ^ int32_of(y)
    else:
        shift = <uint32_t>int32_of(y) & 31
        if op == I_LEFT:
            result = <int32_t>(<uint32_t>int32_of(x) << shift)
        elif op == I_RIGHT:
            result = int32_of(x) >> shift
        else:
            result = <uint32_t>int32_of(x) >> shift
    set_number(a, result)
    return 0


cdef bint relation(Run *run, int op, Value *a, Value *b) except -1:
    """< > <= >= of two values that may be converted."""
    cdef double x, y
    cdef int order
    to_primitive(run, a)
    to_primitive(run, b)
    if a.tag == T_STRING and b.tag == T_STRING:
        charge(run, (a.n if a.n < b.n else b.n) // BYTES_PER_STEP)
        order = compare_units(a.p, a.n, b.p, b.n)
        if op == I_LESS:
            return order < 0
        if op == I_GREATER:
            return order > 0
        return order <= 0 if op == I_LESS_EQUAL else order >= 0
    x = number_of(run, a)
    y = number_of(run, b)
    if op == I_LESS:
        return x < y
    if op == I_GREATER:
        return x > y
    return x <= y if op == I_LESS_EQUAL else x >= y


# Members

cdef Py_ssize_t element_index(Value *key) noexcept nogil:
    """The index that a string spells in canonical form ("0", "17"), or -1."""
    cdef Py_ssize_t i, index = 0
    if key.n == 0 or key.n > 15 or (key.p[0] == c'0' and key.n > 1):
        return -1
    for i in range(key.n):
        if not c'0' <= key.p[i] <= c'9':
            return -1
        index = index * 10 + (key.p[i] - c'0')
    return index


cdef inline bint spells(Value *key, const char *text, Py_ssize_t n) noexcept nogil:
    return key.n == n and memcmp(key.p, text, <size_t>n) == 0


cdef int method_of(Value *key) except -2:
    """The number of the method of that name, or -1."""
    if key.n < 4 or key.n > 11:
        return -1
    return METHOD_IDS.get(key_of(key), -1)


cdef PyObject *function_of(int tag, int method) noexcept:
    """The method of a value as a value, or NULL if that type has none of the kind."""
    cdef PyObject *function = NULL
    if method >= 0:
        if tag == T_STRING:
            function = <PyObject*>STRING_FUNCTIONS[method]
        elif tag == T_ARRAY:
            function = <PyObject*>ARRAY_FUNCTIONS[method]
    return NULL if function == Py_None else function


cdef bint lacks_method(Value *v, int method) except -1:
    """Whether the member of that name is null or undefined; a member of an object is no function, but is there."""
    if v.tag == T_OBJECT:
        found = (<dict>v.o).get(METHODS[method])
        return found is None or found is UNDEFINED
    return function_of(v.tag, method) == NULL


cdef int set_element(Run *run, Value *v, Py_ssize_t index) except -1:
    """v becomes the element of the array or string v, or undefined."""
    cdef str text
    if v.tag == T_ARRAY:
        if 0 <= index < len(<list>v.o):
            set_python(run, v, <PyObject*>(<list>v.o)[index])
            return 0
    elif 0 <= index < v.n:
        if is_ascii(v.p, v.n):
            charge(run, v.n // BYTES_PER_STEP)
            set_string(v, v.p + index, 1)
            return 0
        charge(run, v.n // BYTES_PER_STEP * 4)
        text = units(v.p, v.n)
        if index < len(text):
            text = text[index]
            keep(run, text)
            set_str(run, v, <PyObject*>text)
            return 0
    v.tag = T_UNDEFINED
    return 0


cdef int set_match_member(Run *run, Value *v, Value *key) except -1:
    """v becomes the member of the match v that is no element."""
    cdef MatchArray match = <MatchArray>v.o
    if spells(key, "index", 5):
        set_number(v, match.index)
    elif spells(key, "input", 5):
        set_python(run, v, <PyObject*>match.input)
    elif spells(key, "groups", 6):
        set_python(run, v, <PyObject*>match.groups)
    else:
        v.tag = T_UNDEFINED
    return 0


cdef int nullish_member(Value *v, Value *key) except -1:
    """The error for a member of null or undefined."""
    raise RuleError(f"TypeError: Cannot read properties of {'null' if v.tag == T_NULL else 'undefined'}"
                    f" (reading '{key_of(key)}')")


cdef int member(Run *run, Value *v, Value *key) except -1:
    """v becomes its member; the key is a string."""
    cdef PyObject *found
    cdef Py_ssize_t index
    if v.tag == T_OBJECT:
        found = PyDict_GetItemWithError(<object>v.o, key_of(key))
        if found == NULL:
            v.tag = T_UNDEFINED
            return 0
        return set_python(run, v, found)
    if v.tag <= T_NULL:
        return nullish_member(v, key)
    if v.tag == T_STRING or v.tag == T_ARRAY:
        if spells(key, "length", 6):
            if v.tag == T_STRING:
                charge(run, v.n // BYTES_PER_STEP)
            set_number(v, unit_count(v.p, v.n) if v.tag == T_STRING else len(<list>v.o))
            return 0
        index = element_index(key)
        if index >= 0:
            return set_element(run, v, index)
        found = function_of(v.tag, method_of(key))
        if found != NULL:
            set_object(v, T_FUNCTION, found)
            return 0
        if v.tag == T_ARRAY and isinstance(<object>v.o, MatchArray):
            return set_match_member(run, v, key)
    elif v.tag == T_REGEXP and spells(key, "lastIndex", 9):
        # A literal is evaluated once in an evaluation, so it has never matched before.
        set_number(v, 0)
        return 0
    v.tag = T_UNDEFINED
    return 0


cdef int element(Run *run, Value *v, Value *key) except -1:
    """v becomes v[key]."""
    if key.tag == T_NUMBER and (v.tag == T_ARRAY or v.tag == T_STRING):
        if 0 <= key.number < 9007199254740992.0 and key.number == <double><int64_t>key.number:
            return set_element(run, v, <Py_ssize_t>key.number)
    to_text(run, key)
    return member(run, v, key)


cdef bint has_member(Run *run, Value *v, Value *key) except -1:
    """The operator in: whether the object v has that member of its own."""
    cdef Py_ssize_t index
    to_text(run, key)
    if v.tag < T_ARRAY:
        to_text(run, v)
        raise RuleError(f"TypeError: Cannot use 'in' operator to search for '{key_of(key)}' in {key_of(v)}")
    if v.tag == T_OBJECT:
        return key_of(key) in <dict>v.o
    if v.tag == T_ARRAY:
        index = element_index(key)
        if index >= 0:
            return index < len(<list>v.o)
        return spells(key, "length", 6) or (isinstance(<object>v.o, MatchArray) and (
            spells(key, "index", 5) or spells(key, "input", 5) or spells(key, "groups", 6)))
    return v.tag == T_REGEXP and spells(key, "lastIndex", 9)


# Methods

cdef int call(Run *run, Rule rule, Instruction *call, Value *v) except -1:
    """v[0] becomes the result of its method, the arguments follow it."""
    cdef int method = call.a
    cdef int count = call.b & 0xFFFF
    if function_of(v.tag, method) == NULL:
        name = to_python(&rule.constants[call.b >> 16])
        raise RuleError(f"TypeError: {name} is not a function")
    if v.tag == T_ARRAY:
        return search_array(run, method, v, count)
    charge(run, v.n // BYTES_PER_STEP)
    if method == M_TRIM:
        v.o = NULL
        return trim(&v.p, &v.n)
    if method == M_TO_UPPER_CASE or method == M_TO_LOWER_CASE:
        return change_case(run, v, method == M_TO_UPPER_CASE)
    if method == M_MATCH:
        return match(run, v, count)
    return search_string(run, method, v, count)


cdef int change_case(Run *run, Value *v, bint upper) except -1:
    cdef Py_ssize_t i
    cdef char *p
    cdef char c
    if is_ascii(v.p, v.n):
        if v.n == 0:
            return 0
        p = take(run, v.n)
        for i in range(v.n):
            c = v.p[i]
            if upper:
                p[i] = c - 32 if c'a' <= c <= c'z' else c
            else:
                p[i] = c + 32 if c'A' <= c <= c'Z' else c
        set_string(v, p, v.n)
        return 0
    text = decode(v.p, v.n)
    text = text.upper() if upper else text.lower()
    keep(run, text)
    return set_str(run, v, <PyObject*>text)


cdef int search_array(Run *run, int method, Value *v, int count) except -1:
    """includes and indexOf of an array."""
    cdef list array = <list>v.o
    cdef Py_ssize_t size = len(array), i, start = 0
    cdef Value wanted, item
    cdef double position
    cdef bint nan
    memset(&wanted, 0, sizeof(Value))
    if count:
        wanted = v[1]
    if count > 1:
        position = integer_of(number_of(run, &v[2]))
        if position < 0:
            position += size
        start = 0 if position < 0 else size if position > size else <Py_ssize_t>position
    charge(run, (size - start) // SEARCHES_PER_STEP)
    nan = method == M_INCLUDES and wanted.tag == T_NUMBER and isnan(wanted.number)
    for i in range(start, size):
        set_python(run, &item, <PyObject*>array[i])
        if same(&item, &wanted) or (nan and item.tag == T_NUMBER and isnan(item.number)):
            break
    else:
        i = -1
    if method == M_INCLUDES:
        set_boolean(v, i >= 0)
    else:
        set_number(v, i)
    return 0


cdef int search_string(Run *run, int method, Value *v, int count) except -1:
    """startsWith, endsWith, includes and indexOf of a string."""
    cdef Value *wanted = &v[1]
    cdef Value nothing
    cdef double position = 0
    cdef Py_ssize_t size
    cdef bint positioned = count > 1 and v[2].tag != T_UNDEFINED
    if count == 0:
        nothing.tag = T_UNDEFINED
        wanted = &nothing
    if wanted.tag == T_REGEXP and method != M_INDEX_OF:
        raise RuleError(f"TypeError: First argument to String.prototype.{METHODS[method]} must not be a regular"
                        " expression")
    to_text(run, wanted)
    if positioned:
        position = integer_of(number_of(run, &v[2]))
    # Bytes can stand for code units where all are ASCII, and where neither position nor half a pair plays a role.
    if not is_ascii(v.p, v.n) and (positioned or method == M_INDEX_OF or starts_low(wanted.p, wanted.n)
                                   or ends_high(wanted.p, wanted.n)):
        return search_units(run, method, v, wanted, positioned, position)
    size = v.n
    if method == M_ENDS_WITH and not positioned:
        position = size
    return search_bytes(method, v, wanted, 0 if position < 0 else size if position > size else <Py_ssize_t>position)


cdef int search_bytes(int method, Value *v, Value *wanted, Py_ssize_t position) except -1:
    cdef const char *found
    if method == M_STARTS_WITH or method == M_ENDS_WITH:
        if method == M_ENDS_WITH:
            position -= wanted.n
        set_boolean(v, position >= 0 and v.n - position >= wanted.n
                    and memcmp(v.p + position, wanted.p, <size_t>wanted.n) == 0)
        return 0
    found = v.p + position
    if wanted.n:
        found = <const char*>memmem(found, <size_t>(v.n - position), wanted.p, <size_t>wanted.n)
    if method == M_INCLUDES:
        set_boolean(v, found != NULL)
    else:
        set_number(v, -1 if found == NULL else found - v.p)
    return 0


cdef int search_units(Run *run, int method, Value *v, Value *wanted, bint positioned, double position) except -1:
    """The same on code units, for strings that need it."""
    cdef str text = units(v.p, v.n)
    cdef str part = units(wanted.p, wanted.n)
    cdef Py_ssize_t size = len(text), start
    charge(run, (v.n + wanted.n) // BYTES_PER_STEP * 4)
    if method == M_ENDS_WITH and not positioned:
        position = size
    start = 0 if position < 0 else size if position > size else <Py_ssize_t>position
    if method == M_STARTS_WITH:
        set_boolean(v, text.startswith(part, start))
    elif method == M_ENDS_WITH:
        set_boolean(v, text.endswith(part, 0, start))
    elif method == M_INCLUDES:
        set_boolean(v, text.find(part, start) >= 0)
    else:
        set_number(v, text.find(part, start))
    return 0


cdef int match(Run *run, Value *v, int count) except -1:
    """match of a string: null, an array with the groups, or with flag g one of all matches."""
    cdef Pattern pattern
    cdef MatchArray found
    cdef str text = key_of(v)
    charge(run, v.n // BYTES_PER_STEP)
    if count == 0 or v[1].tag == T_UNDEFINED:
        pattern = pattern_of("")
    elif v[1].tag == T_REGEXP:
        pattern = <Pattern>v[1].o
    else:
        to_text(run, &v[1])
        pattern = pattern_of(key_of(&v[1]))
    result = found_in(pattern, text)
    if result is None or result == []:
        v.tag = T_NULL
        return 0
    if type(result) is list:
        charge(run, len(<list>result))
        result = (<list>result)[:]
    else:
        found = MatchArray()
        found.extend([UNDEFINED if group is None else group for group in result.groups])
        found.index = result.index
        found.input = text
        found.groups = named_groups(result.named)
        result = found
    keep(run, result)
    set_object(v, T_ARRAY, <PyObject*>result)
    return 0


cdef object found_in(Pattern pattern, str text):
    """What the pattern's `search`, or with flag g its `find_all`, finds in the text.

    The engine costs microseconds, and rules match the same names and ids over and over: the latest findings in
    short texts are remembered.
    """
    cdef tuple key = None
    cdef PyObject *known
    if len(text) <= REMEMBERED_TEXT:
        key = (pattern, text)
        known = PyDict_GetItemWithError(findings, key)
        if known != NULL:
            return <object>known
    try:
        found = pattern.compiled.find_all(text) if "g" in pattern.flags else pattern.compiled.search(text)
    except Exception as error:
        raise RuleError(f"regular expression {pattern!r}: {error or type(error).__name__}") from error
    if key is not None:
        if len(findings) >= REMEMBERED:
            findings.clear()
        findings[key] = found
    return found


cdef object named_groups(dict named):
    if not named:
        return UNDEFINED
    return Groups((name, UNDEFINED if group is None else group) for name, group in named.items())


cdef int refer(Run *run, Scope scope, Value *v, int count) except -1:
    """v[0] becomes the record of the name in v[0]."""
    if count == 0 or v.tag == T_UNDEFINED:
        v.tag = T_UNDEFINED
        return 0
    if v.tag != T_STRING:
        raise RuleError(f"crossreference got unsupported type {type_name(v)}")
    if memmem(v.p, <size_t>v.n, b"undefined", 9) != NULL:
        v.tag = T_UNDEFINED
        return 0
    record = scope.reference(key_of(v))
    keep(run, record)
    return set_python(run, v, <PyObject*>record)


cdef int set_user(Run *run, Scope scope, Value *v) except -1:
    """`user` as a whole: one object in an evaluation."""
    cdef Slice *identity = &scope.user_id
    if run.user == NULL:
        user = {
            "id": decode(identity.p, identity.n),
            "isAuthenticated": not is_open(identity),
            "data": scope.user_data,
        }
        keep(run, user)
        run.user = <PyObject*>user
    set_object(v, T_OBJECT, run.user)
    return 0


cdef inline bint is_open(Slice *identity) noexcept nogil:
    """Whether it is the id of those who gave no name."""
    return identity.n == 4 and memcmp(identity.p, "open", 4) == 0


cdef int make_array(Run *run, Value *v, int count) except -1:
    cdef list array = [to_python(&v[i]) for i in range(count)]
    keep(run, array)
    set_object(v, T_ARRAY, <PyObject*>array)
    return 0


cdef int make_object(Run *run, Value *v, int count) except -1:
    cdef dict made = {key_of(&v[i]): to_python(&v[i + 1]) for i in range(0, count, 2)}
    keep(run, made)
    set_object(v, T_OBJECT, <PyObject*>made)
    return 0


# The machine

cdef int interpret(Rule rule, Scope scope, Run *run, Value *stack) except -1:
    """Run the instructions; the result is in stack[0]."""
    cdef Instruction *i = rule.code
    cdef Value *v = stack - 1       # the top
    cdef const Slice *slice
    cdef int count
    while True:
        if i.op == I_CONSTANT:
            v += 1
            v[0] = rule.constants[i.a]
        elif i.op == I_USER_ID:
            v += 1
            set_string(v, scope.user_id.p, scope.user_id.n)
        elif i.op == I_AUTHENTICATED:
            v += 1
            set_boolean(v, not is_open(&scope.user_id))
        elif i.op == I_USER_DATA:
            v += 1
            set_python(run, v, <PyObject*>scope.user_data)
        elif i.op == I_USER:
            v += 1
            set_user(run, scope, v)
        elif i.op == I_DATA:
            v += 1
            set_python(run, v, <PyObject*>scope.data)
        elif i.op == I_OLD_DATA:
            v += 1
            set_python(run, v, <PyObject*>scope.old_data)
        elif i.op == I_NOW:
            v += 1
            set_number(v, scope.now)
        elif i.op == I_ACTION:
            v += 1
            set_number(v, scope.action)
        elif i.op == I_NAME:
            v += 1
            v.tag = T_UNDEFINED
            if scope.has_name:
                set_string(v, scope.name.p, scope.name.n)
        elif i.op == I_VARIABLE:
            v += 1
            v.tag = T_UNDEFINED
            if scope.variables != NULL:     # else there is no name they could be parts of
                slice = &scope.variables[i.a]
                set_string(v, slice.p, slice.n)
        elif i.op == I_MEMBER:
            member(run, v, &rule.constants[i.a])
        elif i.op == I_SAME:
            v -= 1
            set_boolean(v, same(v, v + 1))
        elif i.op == I_DIFFERENT:
            v -= 1
            set_boolean(v, not same(v, v + 1))
        elif i.op == I_FALSY_OR_DROP or i.op == I_TRUTHY_OR_DROP:
            if truthy(v) == (i.op == I_TRUTHY_OR_DROP):
                i = rule.code + i.a
                continue
            v -= 1
        elif i.op == I_JUMP_UNLESS:
            v -= 1
            if not truthy(v + 1):
                i = rule.code + i.a
                continue
        elif i.op == I_JUMP:
            i = rule.code + i.a
            continue
        elif i.op == I_PRESENT_OR_DROP:
            if v.tag > T_NULL:
                i = rule.code + i.a
                continue
            v -= 1
        elif i.op == I_NOT:
            set_boolean(v, not truthy(v))
        elif i.op == I_LESS or i.op == I_GREATER or i.op == I_LESS_EQUAL or i.op == I_GREATER_EQUAL:
            v -= 1
            set_boolean(v, relation(run, i.op, v, v + 1))
        elif i.op == I_EQUAL or i.op == I_UNEQUAL:
            v -= 1
            set_boolean(v, equal(run, v, v + 1) == (i.op == I_EQUAL))
        elif i.op == I_ADD:
            v -= 1
            add(run, v, v + 1)
        elif i.op == I_INDEX:
            v -= 1
            element(run, v, v + 1)
        elif i.op == I_CALL:
            v -= i.b & 0xFFFF
            call(run, rule, i, v)
        elif i.op == I_CALLABLE:
            if v.tag <= T_NULL:
                nullish_member(v, &rule.constants[i.a])
        elif i.op == I_LINK:
            if v.tag <= T_NULL:
                v.tag = T_UNDEFINED
                i = rule.code + i.a
                continue
        elif i.op == I_METHOD_LINK:
            if lacks_method(v, i.b):
                v.tag = T_UNDEFINED
                i = rule.code + i.a
                continue
        elif i.op == I_REFERENCE:
            v -= i.a - 1
            refer(run, scope, v, i.a)
        elif i.op == I_TYPEOF:
            name = type_name(v)
            set_str(run, v, <PyObject*>name)
        elif i.op == I_VOID:
            v.tag = T_UNDEFINED
        elif i.op == I_NEGATE:
            set_number(v, -number_of(run, v))
        elif i.op == I_NUMBER:
            set_number(v, number_of(run, v))
        elif i.op == I_COMPLEMENT:
            set_number(v, ~int32_of(number_of(run, v)))
        elif i.op == I_TEXT:
            to_text(run, v)
        elif (i.op == I_SUBTRACT or i.op == I_MULTIPLY or i.op == I_DIVIDE or i.op == I_REMAINDER or i.op == I_POWER
              or i.op == I_AND or i.op == I_OR or i.op == I_XOR or i.op == I_LEFT or i.op == I_RIGHT
              or i.op == I_RIGHT_UNSIGNED):
            v -= 1
            arithmetic(run, i.op, v, v + 1)
        elif i.op == I_IN:
            v -= 1
            set_boolean(v, has_member(run, v + 1, v))
        elif i.op == I_ARRAY:
            v -= i.a - 1
            make_array(run, v, i.a)
        elif i.op == I_OBJECT:
            v -= i.a - 1
            make_object(run, v, i.a)
        elif i.op == I_JOIN:
            v -= i.a - 1
            for count in range(1, i.a):
                concatenate(run, v, v + count)
        elif i.op == I_UNKNOWN:
            raise RuleError(f"ReferenceError: {to_python(&rule.constants[i.a])} is not defined")
        else:
            return 0
        i += 1


cdef int execute(Rule rule, Scope scope, list result) except -1:
    """Evaluate; the truth of the value, and the value itself into `result` if that is a list."""
    cdef Value small[STACK]
    cdef char scratch[SCRATCH]
    cdef Value *stack = small
    cdef Run run
    run.base = run.top = scratch
    run.limit = scratch + SCRATCH
    run.chunks = NULL
    run.memory = 0
    run.kept = run.user = NULL
    run.steps = MAX_STEPS
    if rule.stack_size > STACK:
        stack = <Value*>malloc(sizeof(Value) * <size_t>rule.stack_size)
        if stack == NULL:
            raise MemoryError("dsfast: out of memory")
    try:
        interpret(rule, scope, &run, stack)
        if result is not None:
            result.append(to_python(stack))
        return truthy(stack)
    finally:
        release(&run)
        if stack != small:
            free(stack)


cdef class Scope:
    """The inputs of an evaluation: from C by setting the fields, from Python by keywords.

    What the fields point to must live while a rule is being evaluated. `reference` is what `_()` calls.
    """

    def __cinit__(self, *, str user_id="open", object user_data=None, object data=UNDEFINED,
                  object old_data=UNDEFINED, double now=0, int action=0, str name=None, object variables=(),
                  object reference=None):
        self.kept = []
        self.own_variables = NULL
        self.user_id = self.slice_of(user_id)
        self.user_data = user_data
        self.data = data
        self.old_data = old_data
        self.now = now
        self.action = action
        self.has_name = name is not None
        if self.has_name:
            self.name = self.slice_of(name)
        self.lookup = reference
        self.set_variables(tuple(variables))

    def __dealloc__(self):
        free(self.own_variables)

    cdef Slice slice_of(self, str text) except *:
        cdef bytes encoded
        cdef Slice slice
        if text is None:
            raise TypeError("a str is needed, not None")
        encoded = encode(text)
        self.kept.append(encoded)
        slice.p = PyBytes_AS_STRING(encoded)
        slice.n = PyBytes_GET_SIZE(encoded)
        return slice

    cdef int set_variables(self, tuple texts) except -1:
        cdef Py_ssize_t i
        self.variables = NULL
        self.variable_count = len(texts)
        if texts:
            self.own_variables = <Slice*>calloc(<size_t>len(texts), sizeof(Slice))
            if self.own_variables == NULL:
                raise MemoryError("dsfast: out of memory")
            for i in range(len(texts)):
                self.own_variables[i] = self.slice_of(texts[i])
            self.variables = self.own_variables
        return 0

    cdef object reference(self, str name):
        """The data of the record `name` for `_()`: None if there is none, UNDEFINED while it is not known yet.

        It must not change a document that the running evaluation may hold.
        """
        return None if self.lookup is None else self.lookup(name)


# Compiling

cdef class Compiler:
    """Writes the instructions of one rule."""
    cdef str source
    cdef dict variables         # name with $: number
    cdef bint folding           # whether constant parts are evaluated now
    cdef list code              # [op, a, b]
    cdef list constants
    cdef list links             # instructions that jump to the end of the present chain
    cdef int depth, deepest     # of the stack

    def __cinit__(self, str source, dict variables, bint folding):
        self.source = source
        self.variables = variables
        self.folding = folding
        self.code = []
        self.constants = []
        self.links = []
        self.depth = 0
        self.deepest = 0

    cdef int write(self, int op, int effect, int a=0, int b=0) except -1:
        """Append an instruction that makes the stack grow by `effect`; returns its position."""
        self.code.append([op, a, b])
        self.depth += effect
        if self.depth > self.deepest:
            self.deepest = self.depth
        return len(self.code) - 1

    cdef int land(self, int position) except -1:
        """Let the jump at `position` lead to here."""
        self.code[position][1] = len(self.code)
        return 0

    cdef int constant(self, object value) except -1:
        self.constants.append(value)
        return len(self.constants) - 1

    cdef int push(self, object value) except -1:
        self.write(I_CONSTANT, 1, self.constant(value))
        return 0

    cdef Rule finish(self, Rule rule):
        cdef Run run
        cdef Py_ssize_t i
        cdef object value
        self.write(I_END, 0)
        rule.stack_size = self.deepest
        rule.code = <Instruction*>calloc(<size_t>len(self.code), sizeof(Instruction))
        rule.constants = <Value*>calloc(<size_t>len(self.constants) + 1, sizeof(Value))
        if rule.code == NULL or rule.constants == NULL:
            raise MemoryError("dsfast: out of memory")
        for i, (op, a, b) in enumerate(self.code):
            rule.code[i] = Instruction(op, a, b)
        rule.kept = []
        run.kept = <PyObject*>rule.kept
        for i, value in enumerate(self.constants):
            if type(value) is str:
                value = sys.intern(value)
            rule.kept.append(value)
            set_python(&run, &rule.constants[i], <PyObject*>value)
        return rule

    cdef bint fold(self, Node node) except -1:
        """Write the value of a constant part, if evaluating it now succeeds."""
        cdef list result = []
        cdef Compiler part
        if not (self.folding and node.constant) or node.kind == LITERAL or node.kind == REGEXP:
            return False
        part = Compiler(self.source, self.variables, False)
        part.emit(node)
        try:
            execute(part.finish(Rule.__new__(Rule)), EMPTY_SCOPE, result)
        except RuleError:
            return False
        self.push(result[0])
        return True

    cdef int emit(self, Node node) except -1:
        """Write the instructions that put the value of `node` on the stack.

        Everything that is written from left to right, however long, is walked in a loop.
        """
        cdef list spine = []
        while not self.fold(node):
            if (node.kind == BINARY or node.kind == LOGICAL or node.kind == INDEX or node.kind == CALL
                    or node.kind == MEMBER) and not self.user_member(node):
                spine.append(node)
                node = node.children[0]
            else:
                self.start(node)
                break
        while spine:
            self.go_on(spine.pop())
        return 0

    cdef object user_member(self, Node node):
        """The instruction for a member of `user` that needs no object, or None."""
        cdef Node owner = node.children[0]
        if node.kind == MEMBER and owner.kind == IDENTIFIER and owner.value == "user":
            return USER_MEMBERS.get(node.value)
        return None

    cdef int start(self, Node node) except -1:
        """Write a construct that does not begin with another one."""
        cdef int kind = node.kind
        if kind == LITERAL:
            self.push(node.value)
        elif kind == IDENTIFIER:
            self.identifier(node.value)
        elif kind == MEMBER:
            self.write(self.user_member(node), 1)
        elif kind == UNARY:
            self.unary(node)
        elif kind == CONDITIONAL:
            self.conditional(node)
        elif kind == CHAIN:
            self.chain(node)
        elif kind == REFERENCE:
            self.all_of(node.children)
            if not node.children:
                self.push(UNDEFINED)
            self.write(I_REFERENCE, 1 - max(1, len(node.children)), max(1, len(node.children)))
        elif kind == TEMPLATE:
            self.template(node)
        elif kind == ARRAY:
            self.all_of(node.children)
            self.write(I_ARRAY, 1 - len(node.children), len(node.children))
        elif kind == OBJECT:
            self.object_literal(node)
        else:
            self.push(pattern_literal(self.source, node))
        return 0

    cdef int all_of(self, list nodes) except -1:
        for node in nodes:
            self.emit(node)
        return 0

    cdef int identifier(self, str name) except -1:
        if name in INPUTS:
            self.write(INPUTS[name], 1)
        elif name in self.variables:
            self.write(I_VARIABLE, 1, self.variables[name])
        elif name == "_":
            self.push(CROSS_REFERENCE)
        else:
            self.write(I_UNKNOWN, 1, self.constant(name))
        return 0

    cdef int unary(self, Node node) except -1:
        cdef Node operand = node.children[0]
        if (node.value == "typeof" and operand.kind == IDENTIFIER and operand.value not in INPUTS
                and operand.value not in self.variables and operand.value != "_"):
            return self.push("undefined")
        self.emit(operand)
        self.write(UNARY_OPS[node.value], 0)
        return 0

    cdef int conditional(self, Node node) except -1:
        cdef int unless, end
        self.emit(node.children[0])
        unless = self.write(I_JUMP_UNLESS, -1)
        self.emit(node.children[1])
        end = self.write(I_JUMP, -1)
        self.land(unless)
        self.emit(node.children[2])
        self.land(end)
        return 0

    cdef int chain(self, Node node) except -1:
        cdef list outer = self.links
        self.links = []
        self.emit(node.children[0])
        for link in self.links:
            self.land(link)
        self.links = outer
        return 0

    cdef int template(self, Node node) except -1:
        cdef int count = 0
        cdef Py_ssize_t i
        for i in range(len(<list>node.value)):
            if node.value[i] or i == 0:
                self.push(node.value[i])
                count += 1
            if i < len(node.children):
                self.emit(node.children[i])
                self.write(I_TEXT, 0)
                count += 1
        if count > 1:
            self.write(I_JOIN, 1 - count, count)
        return 0

    cdef int object_literal(self, Node node) except -1:
        cdef Py_ssize_t i
        for i in range(0, len(node.children), 2):
            self.emit(node.children[i])
            self.write(I_TEXT, 0)
            self.emit(node.children[i + 1])
        self.write(I_OBJECT, 1 - len(node.children), len(node.children))
        return 0

    cdef int go_on(self, Node node) except -1:
        """Write the rest of a construct whose first part is on the stack."""
        cdef int jump
        cdef Node last
        if node.optional:
            self.links.append(self.write(I_LINK, 0))
        if node.kind == MEMBER:
            self.write(I_MEMBER, 0, self.constant(node.value))
            return 0
        if node.kind == CALL:
            return self.call(node)
        last = node.children[1]
        if node.kind == LOGICAL:
            jump = self.write(LOGICAL_OPS[node.value], -1)
            self.emit(last)
            self.land(jump)
        elif node.kind == INDEX and last.kind == LITERAL and type(last.value) is str:
            self.write(I_MEMBER, 0, self.constant(last.value))
        else:
            self.emit(last)
            self.write(I_INDEX if node.kind == INDEX else BINARY_OPS[node.value], -1)
        return 0

    cdef int call(self, Node node) except -1:
        cdef int method = METHOD_IDS[node.value]
        cdef int count = len(node.children) - 1
        self.write(I_CALLABLE, 0, self.constant(node.value))
        if node.optional_call:
            self.links.append(self.write(I_METHOD_LINK, 0, 0, method))
        if node.value == "match" and count == 1:
            self.pattern_argument(node.children[1])
        else:
            self.all_of(node.children[1:])
        self.write(I_CALL, -count, method, count | self.constant(self.source[node.start:node.end]) << 16)
        return 0

    cdef int pattern_argument(self, Node node) except -1:
        """The argument of `match`; a text in the rule is compiled now, as a literal is."""
        if node.kind == LITERAL and type(node.value) is str:
            try:
                return self.push(Pattern(node.value, ""))
            except ValueError:
                pass        # an error when it is evaluated, as in JavaScript
        return self.emit(node)


cdef Pattern pattern_literal(str source, Node node):
    cdef tuple literal = node.value
    try:
        return Pattern(literal[0], literal[1])
    except ValueError as error:
        raise error_at(source, node.start,
                       f"Invalid regular expression: /{literal[0]}/{literal[1]}: {error}") from None


cdef class Rule:
    """A compiled rule; it does not change and can be evaluated any number of times."""

    def __init__(self):
        raise TypeError("rules are made by compile_rule")

    def __dealloc__(self):
        free(self.code)
        free(self.constants)

    cdef int evaluate(self, Scope scope) except -1:
        """1 if the value is truthy, 0 if it is falsy; raises RuleError, or what `scope.reference` raises.

        `scope.variables` must hold a value for each of `self.variables`.
        """
        if self.constant >= 0:
            return self.constant
        return execute(self, scope, None)

    def allows(self, Scope scope not None):
        """Whether the value is truthy; raises RuleError, or what the scope's `reference` raises."""
        self.check(scope)
        return self.evaluate(scope) == 1

    def value(self, Scope scope not None):
        """The value itself, UNDEFINED for undefined; not to be changed. Raises as `allows` does."""
        cdef list result = []
        self.check(scope)
        execute(self, scope, result)
        return result[0]

    cdef int check(self, Scope scope) except -1:
        if scope.variable_count < len(self.variables):
            raise ValueError(f"the rule has {len(self.variables)} variables, the scope {scope.variable_count}")
        return 0

    @property
    def names(self):
        """The names in it: of inputs, of path variables with their $, and unknown ones."""
        return parse(self.source).names

    @property
    def regexps(self):
        """The compiled regular expressions among its literals."""
        return tuple([(<Pattern>value).compiled for value in self.kept if isinstance(value, Pattern)])

    def __repr__(self):
        return f"<Rule {self.source!r}>"


cdef Scope EMPTY_SCOPE = Scope()


cpdef Rule compile_rule(object source, tuple variables=()):
    """Compile a rule of a permission file: an expression, or True or False.

    `variables` are the names of the path's variables without `$`, in the order in which a Scope brings their
    values; of two with the same name the last counts. Raises RuleSyntaxError.
    """
    cdef Rule rule = Rule.__new__(Rule)
    cdef Parsed parsed
    cdef Compiler compiler
    cdef dict numbers
    if variables is None:
        raise TypeError("variables must be a tuple, not None")
    numbers = {f"${name}": number for number, name in enumerate(variables)}
    if type(source) is bool:
        source = "true" if source else "false"
    elif type(source) is not str:
        raise TypeError(f"a rule is a str or bool, not {type(source).__name__}")
    parsed = parse(source)
    rule.source = source
    rule.variables = variables
    rule.uses_data = "data" in parsed.names
    rule.uses_old_data = "oldData" in parsed.names
    rule.uses_references = "_" in parsed.names
    rule.uses_user = "user" in parsed.names
    rule.uses_now = "now" in parsed.names
    rule.uses_variables = not parsed.names.isdisjoint(numbers)
    compiler = Compiler(source, numbers, True)
    if parsed.root is None:
        compiler.push(UNDEFINED)
    else:
        compiler.emit(parsed.root)
    compiler.finish(rule)
    rule.constant = -1
    if rule.code[0].op == I_CONSTANT and rule.code[1].op == I_END:
        rule.constant = truthy(&rule.constants[rule.code[0].a])
    return rule
