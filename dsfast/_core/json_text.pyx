"""JSON texts: a strict validator for the hot path, and reading and writing record documents.

``json_check`` decides for every message whether its payload is JSON, without making an object of it.
It reads each byte once, keeps the open containers in a bit stack instead of recursing, and skips plain
string contents 16 (SSE2) or 8 bytes at a time. It never reads outside ``[p, p + n)``.

``loads`` and ``dumps`` are orjson with the rules of spec/caches.md section 8: a number such as ``1.0``
becomes ``1`` as JavaScript would write it, and texts that orjson refuses although they are JSON (lone
surrogates, numbers beyond a double, deep nesting) go through the standard library.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

import json
import math

import orjson

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define DSF_SWAR 1
    #else
    #define DSF_SWAR 0
    #endif
    #define DSF_ONES 0x0101010101010101ULL
    #define DSF_HIGH 0x8080808080808080ULL

    /* First byte in [p, end) that cannot stand for itself in a JSON string: quote, backslash, control
       character or the start of a non-ASCII character; `end` if there is none. */
    static inline const char *dsf_skip_plain(const char *p, const char *end) {
    #ifdef __SSE2__
        const __m128i quote = _mm_set1_epi8('"'), escape = _mm_set1_epi8('\\\\');
        const __m128i space = _mm_set1_epi8(0x20);
        while (end - p >= 16) {
            const __m128i v = _mm_loadu_si128((const __m128i *)p);
            /* The comparison is signed, so bytes from 0x80 up count as less than a space too. */
            const __m128i hit = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, escape)),
                                             _mm_cmplt_epi8(v, space));
            const unsigned mask = (unsigned)_mm_movemask_epi8(hit);
            if (mask)
                return p + __builtin_ctz(mask);
            p += 16;
        }
    #endif
    #if DSF_SWAR
        while (end - p >= 8) {
            uint64_t v, quote, escape, hit;
            memcpy(&v, p, 8);
            quote = v ^ (DSF_ONES * '"');
            escape = v ^ (DSF_ONES * '\\\\');
            /* A borrow can mark bytes above the first hit wrongly, never the first one. */
            hit = ((quote - DSF_ONES) & ~quote) | ((escape - DSF_ONES) & ~escape)
                | ((v - DSF_ONES * 0x20) & ~v) | v;
            hit &= DSF_HIGH;
            if (hit)
                return p + (__builtin_ctzll(hit) >> 3);
            p += 8;
        }
    #endif
        while (p < end) {
            const unsigned char c = (unsigned char)*p;
            if (c == '"' || c == '\\\\' || c < 0x20 || c >= 0x80)
                break;
            p++;
        }
        return p;
    }

    /* First non-ASCII byte in [p, end), or `end`. */
    static inline const char *dsf_skip_ascii(const char *p, const char *end) {
    #ifdef __SSE2__
        while (end - p >= 16) {
            const unsigned mask = (unsigned)_mm_movemask_epi8(_mm_loadu_si128((const __m128i *)p));
            if (mask)
                return p + __builtin_ctz(mask);
            p += 16;
        }
    #endif
        while (end - p >= 8) {
            uint64_t v;
            memcpy(&v, p, 8);
            if (v & DSF_HIGH)
                break;
            p += 8;
        }
        while (p < end && (unsigned char)*p < 0x80)
            p++;
        return p;
    }

    #define DSF_TAIL(i) (((unsigned char)p[i] & 0xC0) == 0x80)

    /* Behind the run of well-formed non-ASCII characters at p, or NULL if a character is malformed: a stray
       or missing continuation byte, an overlong form, a surrogate, beyond U+10FFFF, or cut off by `end`. */
    static inline const char *dsf_skip_wide(const char *p, const char *end) {
        while (p < end && (unsigned char)*p >= 0x80) {
            const unsigned char a = (unsigned char)p[0];
            if (a < 0xC2)
                return NULL;
            if (a < 0xE0) {
                if (end - p < 2 || !DSF_TAIL(1))
                    return NULL;
                p += 2;
            } else if (a < 0xF0) {
                unsigned char b;
                if (end - p < 3 || !DSF_TAIL(1) || !DSF_TAIL(2))
                    return NULL;
                b = (unsigned char)p[1];
                if ((a == 0xE0 && b < 0xA0) || (a == 0xED && b >= 0xA0))
                    return NULL;
                p += 3;
            } else {
                unsigned char b;
                if (a > 0xF4 || end - p < 4 || !DSF_TAIL(1) || !DSF_TAIL(2) || !DSF_TAIL(3))
                    return NULL;
                b = (unsigned char)p[1];
                if ((a == 0xF0 && b < 0x90) || (a == 0xF4 && b >= 0x90))
                    return NULL;
                p += 4;
            }
        }
        return p;
    }
    """
    const char *dsf_skip_plain(const char *p, const char *end) noexcept nogil
    const char *dsf_skip_ascii(const char *p, const char *end) noexcept nogil
    const char *dsf_skip_wide(const char *p, const char *end) noexcept nogil


class JsonError(ValueError):
    """The bytes are not a JSON text (RFC 8259), or nest deeper than 512 containers."""


cdef inline bint is_digit(char c) noexcept nogil:
    return c'0' <= c <= c'9'


cdef inline bint is_hex(char c) noexcept nogil:
    return c'0' <= c <= c'9' or c'a' <= c <= c'f' or c'A' <= c <= c'F'


cdef inline const char *skip_space(const char *p, const char *end) noexcept nogil:
    while p < end and (p[0] == c' ' or p[0] == c'\n' or p[0] == c'\r' or p[0] == c'\t'):
        p += 1
    return p


cdef inline const char *skip_escape(const char *p, const char *end) noexcept nogil:
    """Behind the escape whose backslash is at p - 1, or NULL."""
    cdef char c
    if p >= end:
        return NULL
    c = p[0]
    if c == c'u':
        if end - p < 5 or not (is_hex(p[1]) and is_hex(p[2]) and is_hex(p[3]) and is_hex(p[4])):
            return NULL
        return p + 5
    if (c == c'"' or c == c'\\' or c == c'/' or c == c'n' or c == c't' or c == c'r' or c == c'b'
            or c == c'f'):
        return p + 1
    return NULL


cdef inline const char *skip_string(const char *p, const char *end) noexcept nogil:
    """Behind the closing quote of the string whose contents start at p, or NULL."""
    while True:
        p = dsf_skip_plain(p, end)
        if p >= end:
            return NULL
        if p[0] == c'"':
            return p + 1
        if p[0] == c'\\':
            p = skip_escape(p + 1, end)
        elif <unsigned char>p[0] >= 0x80:
            p = dsf_skip_wide(p, end)
        else:
            return NULL
        if p == NULL:
            return NULL


cdef inline const char *skip_digits(const char *p, const char *end) noexcept nogil:
    """Behind the digits at p, or NULL if there is none."""
    if p >= end or not is_digit(p[0]):
        return NULL
    p += 1
    while p < end and is_digit(p[0]):
        p += 1
    return p


cdef inline const char *skip_number(const char *p, const char *end, int *flags) noexcept nogil:
    """Behind the number at p, or NULL; sets JSON_HAS_FLOAT."""
    if p[0] == c'-':
        p += 1
    if p < end and p[0] == c'0':
        p += 1
    else:
        p = skip_digits(p, end)
        if p == NULL:
            return NULL
    if p < end and p[0] == c'.':
        flags[0] |= JSON_HAS_FLOAT
        p = skip_digits(p + 1, end)
        if p == NULL:
            return NULL
    if p < end and (p[0] == c'e' or p[0] == c'E'):
        flags[0] |= JSON_HAS_FLOAT
        p += 1
        if p < end and (p[0] == c'+' or p[0] == c'-'):
            p += 1
        p = skip_digits(p, end)
    return p


cdef inline const char *skip_key(const char *p, const char *end) noexcept nogil:
    """Behind the colon of the member that must start at p, or NULL."""
    p = skip_space(p, end)
    if p >= end or p[0] != c'"':
        return NULL
    p = skip_string(p + 1, end)
    if p == NULL:
        return NULL
    p = skip_space(p, end)
    if p >= end or p[0] != c':':
        return NULL
    return p + 1


cdef int json_check(const char *p, Py_ssize_t n) noexcept nogil:
    """Kind of the JSON text in p[0:n] (JSON_OBJECT … JSON_NULL, plus JSON_HAS_FLOAT), or -1 if it is none.

    RFC 8259 in strict UTF-8; white space around the value is allowed, a byte order mark is not; escapes
    of lone surrogates are legal. More than JSON_MAX_DEPTH nested containers are refused.
    """
    cdef const char *end = p + n
    cdef uint64_t objects[8]        # JSON_MAX_DEPTH bits; bit d: the container at depth d is an object
    cdef int depth = 0
    cdef int top = 0
    cdef int flags = 0
    cdef int kind
    cdef bint in_object = False
    cdef char c

    while True:
        p = skip_space(p, end)
        if p >= end:
            return -1
        c = p[0]
        if c == c'"':
            kind = JSON_STRING
            p = skip_string(p + 1, end)
            if p == NULL:
                return -1
        elif c == c'{' or c == c'[':
            if depth == JSON_MAX_DEPTH:
                return -1
            kind = JSON_OBJECT if c == c'{' else JSON_ARRAY
            if depth == 0:
                top = kind
            p = skip_space(p + 1, end)
            if p >= end:
                return -1
            if p[0] == (c'}' if kind == JSON_OBJECT else c']'):
                p += 1
            else:
                in_object = kind == JSON_OBJECT
                if depth & 63 == 0:
                    objects[depth >> 6] = 0
                objects[depth >> 6] &= ~(<uint64_t>1 << (depth & 63))
                objects[depth >> 6] |= <uint64_t>in_object << (depth & 63)
                if in_object:
                    p = skip_key(p, end)
                    if p == NULL:
                        return -1
                depth += 1
                continue
        elif c == c'-' or is_digit(c):
            kind = JSON_NUMBER
            p = skip_number(p, end, &flags)
            if p == NULL:
                return -1
        elif c == c't':
            kind = JSON_TRUE
            if end - p < 4 or p[1] != c'r' or p[2] != c'u' or p[3] != c'e':
                return -1
            p += 4
        elif c == c'f':
            kind = JSON_FALSE
            if end - p < 5 or p[1] != c'a' or p[2] != c'l' or p[3] != c's' or p[4] != c'e':
                return -1
            p += 5
        elif c == c'n':
            kind = JSON_NULL
            if end - p < 4 or p[1] != c'u' or p[2] != c'l' or p[3] != c'l':
                return -1
            p += 4
        else:
            return -1

        # A value has ended: close containers until a comma asks for the next value.
        while True:
            p = skip_space(p, end)
            if depth == 0:
                return (top or kind) | flags if p == end else -1
            if p >= end:
                return -1
            c = p[0]
            p += 1
            if c == c',':
                if in_object:
                    p = skip_key(p, end)
                    if p == NULL:
                        return -1
                break
            if c != (c'}' if in_object else c']'):
                return -1
            depth -= 1
            if depth:
                in_object = (objects[(depth - 1) >> 6] >> ((depth - 1) & 63)) & 1


cdef bint utf8_check(const char *p, Py_ssize_t n) noexcept nogil:
    """Whether p[0:n] is well-formed UTF-8 (no overlong forms, no surrogates)."""
    cdef const char *end = p + n
    while True:
        p = dsf_skip_ascii(p, end)
        if p >= end:
            return True
        p = dsf_skip_wide(p, end)
        if p == NULL:
            return False


def check(bytes text not None):
    """``json_check`` for tests: the kind and flags as an int, -1 if `text` is not JSON."""
    return json_check(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


def is_utf8(bytes text not None):
    """``utf8_check`` for tests."""
    return utf8_check(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef object orjson_loads = orjson.loads
cdef object orjson_dumps = orjson.dumps


def float_or_null(str digits):
    """The number as a double, None where it overflows: JavaScript writes its Infinity as null."""
    number = float(digits)
    return number if math.isfinite(number) else None


def int_or_float(str digits):
    """The integer if it fits 64 bits, else the nearest double: the same as orjson does."""
    if len(digits) <= 20:   # 20 characters hold every 64-bit integer, and int() of them is cheap
        number = int(digits)
        if -0x8000000000000000 <= number <= 0xFFFFFFFFFFFFFFFF:
            return number
    return float_or_null(digits)


cdef object settle(object node):
    """`node` with every integral float below 2**53 as int; containers are changed in place.

    The recursion is bounded: documents never nest deeper than JSON_MAX_DEPTH.
    """
    cdef Py_ssize_t i
    cdef double number
    if type(node) is float:
        number = <double>node
        if -9007199254740992.0 < number < 9007199254740992.0:
            if number == <double><long long>number:
                return <long long>number
    elif type(node) is dict:
        for key, value in (<dict>node).items():
            if type(value) is float or type(value) is dict or type(value) is list:
                # Storing under an existing key does not disturb the iteration.
                (<dict>node)[key] = settle(value)
    elif type(node) is list:
        for i in range(len(<list>node)):
            (<list>node)[i] = settle((<list>node)[i])
    return node


cdef object loads_checked(bytes text, int flags):
    """`loads` of a text that json_check found valid; `flags` is its result for this very text."""
    try:
        value = orjson_loads(text)
    except ValueError:
        # Valid JSON that orjson refuses: lone surrogates, numbers that overflow a double.
        value = json.loads(text, parse_float=float_or_null, parse_int=int_or_float)
    if flags & JSON_HAS_FLOAT:
        value = settle(value)
    return value


cpdef object loads(bytes text):
    """The value of a JSON text, as a fresh object that the caller may change.

    Integral floats below 2**53 come back as int, numbers that overflow a double as None, integers beyond
    64 bits as float; of duplicate keys the last wins. Raises JsonError if `text` is not JSON.
    """
    cdef int flags
    if text is None:
        raise TypeError("a JSON text must be bytes")
    flags = json_check(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    if flags < 0:
        raise JsonError("not a JSON text")
    return loads_checked(text, flags)


cpdef bytes dumps(object value):
    """The compact JSON text (UTF-8) of a value that came from JSON; never fails for such a value."""
    try:
        return orjson_dumps(value)
    except TypeError:
        # Lone surrogates or nesting beyond orjson's limit. Only surrogates need ASCII escapes.
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()

