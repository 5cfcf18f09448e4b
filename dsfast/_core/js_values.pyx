"""What JavaScript means by undefined, by a number as text, by a text as number, and by a string.

A string of JavaScript is a sequence of UTF-16 code units. Here it is kept as WTF-8: UTF-8 in which half of a
surrogate pair that stands alone has three bytes of its own. A pair is always kept as the four bytes of its
character, so two strings are equal exactly if their bytes are. Positions and lengths count code units.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport INFINITY, NAN, fabs, fmod, isfinite, isinf, isnan, ldexp, trunc
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "Python.h":
    char *PyOS_double_to_string(double value, char format_code, int precision, int flags, int *type) except NULL
    double PyOS_string_to_double(const char *text, char **end, PyObject *overflow) except? -1.0
    object PyUnicode_FromKindAndData(int kind, const void *buffer, Py_ssize_t size)
    int PyUnicode_2BYTE_KIND

cdef enum:
    SMALL = 512                 # texts up to this length are copied to the stack


cdef class Undefined:
    """JavaScript's undefined inside Python values; there is one, UNDEFINED."""

    def __repr__(self):
        return "UNDEFINED"

    def __bool__(self):
        return False

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return "UNDEFINED"


cdef Undefined UNDEFINED = Undefined()
globals()["UNDEFINED"] = UNDEFINED


# Numbers

cdef Py_ssize_t write_integer(int64_t number, char *out) noexcept nogil:
    cdef char digits[24]
    cdef uint64_t rest = <uint64_t>(-number if number < 0 else number)
    cdef Py_ssize_t count = 0, n = 0
    while True:
        digits[count] = c'0' + <char>(rest % 10)
        count += 1
        rest //= 10
        if rest == 0:
            break
    if number < 0:
        out[0] = c'-'
        n = 1
    while count:
        count -= 1
        out[n] = digits[count]
        n += 1
    return n


cdef Py_ssize_t place_digits(const char *digits, Py_ssize_t count, int point, char *out) noexcept nogil:
    """Write 0.digits x 10**point as JavaScript's Number::toString does."""
    cdef Py_ssize_t n = 0
    if count <= point <= 21:
        memcpy(out, digits, <size_t>count)
        memset(out + count, c'0', <size_t>(point - count))
        return point
    if 0 < point <= 21:
        memcpy(out, digits, <size_t>point)
        out[point] = c'.'
        memcpy(out + point + 1, digits + point, <size_t>(count - point))
        return count + 1
    if -6 < point <= 0:
        memcpy(out, b"0.", 2)
        memset(out + 2, c'0', <size_t>-point)
        memcpy(out + 2 - point, digits, <size_t>count)
        return 2 - point + count
    out[0] = digits[0]
    n = 1
    if count > 1:
        out[1] = c'.'
        memcpy(out + 2, digits + 1, <size_t>(count - 1))
        n = count + 1
    out[n] = c'e'
    n += 1
    if point > 0:
        out[n] = c'+'
        n += 1
    return n + write_integer(point - 1, out + n)


cdef Py_ssize_t write_number(double number, char *out) except -1:
    """The number as JavaScript's String(number) writes it, into NUMBER_TEXT_SIZE bytes; returns its length."""
    cdef char digits[NUMBER_TEXT_SIZE]
    cdef char *text
    cdef char *p
    cdef Py_ssize_t count = 0, n = 0
    cdef int point = 0, power = 0
    cdef bint fraction = False, negative
    if fabs(number) < 1e15 and number == <double><int64_t>number:
        return write_integer(<int64_t>number, out)
    if isnan(number):
        memcpy(out, b"NaN", 3)
        return 3
    if number < 0:
        out[0] = c'-'
        n = 1
        number = -number
    if isinf(number):
        memcpy(out + n, b"Infinity", 8)
        return n + 8
    # The shortest digits that identify the number; from them and the position of the point all else follows.
    text = PyOS_double_to_string(number, c'r', 0, 0, NULL)
    p = text
    while p[0] != 0 and p[0] != c'e':
        if p[0] == c'.':
            fraction = True
        else:
            if count or p[0] != c'0':
                digits[count] = p[0]
                count += 1
                point += not fraction
            else:
                point -= fraction
        p += 1
    if p[0] == c'e':
        p += 1
        negative = p[0] == c'-'
        p += 1
        while p[0] != 0:
            power = power * 10 + p[0] - c'0'
            p += 1
        point += -power if negative else power
    PyMem_Free(text)
    while digits[count - 1] == c'0':
        count -= 1
    return n + place_digits(digits, count, point, out + n)


def number_text(number):
    """The int or float as JavaScript's String(number) writes it: `1`, `1.5`, `1e+21`, `NaN`, `-0` as `0`."""
    cdef char text[NUMBER_TEXT_SIZE]
    cdef Py_ssize_t n
    cdef double value
    try:
        value = number
    except OverflowError:
        value = INFINITY if number > 0 else -INFINITY
    n = write_number(value, text)
    return text[:n].decode("ascii")


cdef inline bint is_digit(char c) noexcept nogil:
    return c'0' <= c <= c'9'


cdef bint is_decimal(const char *p, Py_ssize_t n) noexcept nogil:
    """Whether the text is a StrDecimalLiteral other than Infinity."""
    cdef const char *end = p + n
    cdef bint digits = False
    if p < end and (p[0] == c'+' or p[0] == c'-'):
        p += 1
    while p < end and is_digit(p[0]):
        p += 1
        digits = True
    if p < end and p[0] == c'.':
        p += 1
        while p < end and is_digit(p[0]):
            p += 1
            digits = True
    if not digits:
        return False
    if p < end and (p[0] == c'e' or p[0] == c'E'):
        p += 1
        if p < end and (p[0] == c'+' or p[0] == c'-'):
            p += 1
        if p == end:
            return False
        while p < end and is_digit(p[0]):
            p += 1
    return p == end


cdef int digit_value(char c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    if c'a' <= c <= c'z':
        return c - c'a' + 10
    if c'A' <= c <= c'Z':
        return c - c'A' + 10
    return 99


cdef int radix_bits(char letter) noexcept nogil:
    """Bits of a digit in a number that starts with 0x, 0o or 0b; 0 for another letter."""
    letter |= 0x20
    return 4 if letter == c'x' else 3 if letter == c'o' else 1 if letter == c'b' else 0


cdef double radix_number(const char *p, Py_ssize_t n, int bits) except? -1:
    """Digits of base 2, 8 or 16, rounded once, half to even; NaN if there is anything else."""
    cdef uint64_t top = 0
    cdef int64_t scale = 0
    cdef bint sticky = False
    cdef Py_ssize_t i
    cdef int digit
    if n == 0:
        return NAN
    for i in range(n):
        digit = digit_value(p[i])
        if digit >= 1 << bits:
            return NAN
        if top < <uint64_t>1 << 56:
            top = top << bits | <uint64_t>digit
        else:
            # Beyond 56 significant bits only the scale counts, and whether anything but zeros follows.
            scale += bits
            sticky = sticky or digit != 0
    if sticky:
        top |= 1
    if scale > 1024:
        return INFINITY if top else 0.0
    return ldexp(<double>top, <int>scale)


cdef double text_number(const char *p, Py_ssize_t n) except? -1:
    """JavaScript's Number(text); NaN if the text is no number."""
    cdef char small[SMALL]
    cdef char *copy = small
    cdef int bits
    trim(&p, &n)
    if n == 0:
        return 0.0
    if n > 2 and p[0] == c'0':
        bits = radix_bits(p[1])
        if bits:
            return radix_number(p + 2, n - 2, bits)
    if n == 1 and is_digit(p[0]):
        return p[0] - c'0'
    if is_decimal(p, n):
        if n >= SMALL:
            copy = <char*>PyMem_Malloc(<size_t>n + 1)
            if copy == NULL:
                raise MemoryError("dsfast: out of memory")
        memcpy(copy, p, <size_t>n)
        copy[n] = 0
        try:
            return PyOS_string_to_double(copy, NULL, NULL)
        finally:
            if copy != small:
                PyMem_Free(copy)
    if n == 8 and memcmp(p, b"Infinity", 8) == 0:
        return INFINITY
    if n == 9 and memcmp(p + 1, b"Infinity", 8) == 0:
        if p[0] == c'-':
            return -INFINITY
        if p[0] == c'+':
            return INFINITY
    return NAN


cdef int32_t int32_of(double number) noexcept nogil:
    """ToInt32: modulo 2**32, as the bit operators see a number."""
    cdef double rest
    if -2147483648.0 <= number <= 2147483647.0:
        return <int32_t>number
    if not isfinite(number):
        return 0
    rest = fmod(trunc(number), 4294967296.0)
    if rest < 0:
        rest += 4294967296.0
    return <int32_t><uint32_t>rest


cdef double integer_of(double number) noexcept nogil:
    """ToIntegerOrInfinity: without its fraction, NaN as 0."""
    return 0.0 if isnan(number) else trunc(number)


# Strings

cdef bint is_space(Py_UCS4 c) noexcept nogil:
    """Whether String.prototype.trim removes the character."""
    if c < 0x80:
        return c == 0x20 or 0x09 <= c <= 0x0D
    return (c == 0xA0 or c == 0x1680 or 0x2000 <= c <= 0x200A or c == 0x2028 or c == 0x2029 or c == 0x202F
            or c == 0x205F or c == 0x3000 or c == 0xFEFF)


cdef inline int char_size(unsigned char lead) noexcept nogil:
    return 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


cdef inline Py_UCS4 char_at(const unsigned char *p) noexcept nogil:
    if p[0] < 0x80:
        return p[0]
    if p[0] < 0xE0:
        return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu)
    if p[0] < 0xF0:
        return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu)
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu)


cdef int trim(const char **p, Py_ssize_t *n) noexcept nogil:
    """Narrow the string to what is left without white space on both sides."""
    cdef const unsigned char *start = <const unsigned char*>p[0]
    cdef const unsigned char *end = start + n[0]
    cdef const unsigned char *last
    while start < end and is_space(char_at(start)):
        start += char_size(start[0])
    while end > start:
        last = end - 1
        while last[0] & 0xC0 == 0x80:
            last -= 1
        if not is_space(char_at(last)):
            break
        end = last
    p[0] = <const char*>start
    n[0] = end - start
    return 0


cdef bint is_ascii(const char *p, Py_ssize_t n) noexcept nogil:
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, p, 8)
        if word & 0x8080808080808080u:
            return False
        p += 8
        n -= 8
    while n > 0:
        n -= 1
        if <unsigned char>p[n] >= 0x80:
            return False
    return True


cdef Py_ssize_t unit_count(const char *p, Py_ssize_t n) noexcept nogil:
    """Number of UTF-16 code units."""
    cdef Py_ssize_t i, count = 0
    cdef unsigned char c
    for i in range(n):
        c = <unsigned char>p[i]
        count += (c & 0xC0 != 0x80) + (c >= 0xF0)
    return count


cdef inline uint32_t unit_at(const unsigned char *p, bint second) noexcept nogil:
    """The code unit at p, or the second one of a character of two."""
    cdef uint32_t c = char_at(p)
    if c < 0x10000:
        return c
    c -= 0x10000
    return 0xDC00 | (c & 0x3FF) if second else 0xD800 | c >> 10


cdef int compare_units(const char *a, Py_ssize_t an, const char *b, Py_ssize_t bn) noexcept nogil:
    """-1, 0 or 1: the order of two strings by their code units."""
    cdef Py_ssize_t n = an if an < bn else bn
    cdef Py_ssize_t i = 0, j
    cdef uint32_t x, y
    cdef bint a_second = False, b_second = False
    while i < n and a[i] == b[i]:
        i += 1
    if i < n and <unsigned char>a[i] < 0x80 and <unsigned char>b[i] < 0x80:
        return -1 if a[i] < b[i] else 1
    while 0 < i < n and <unsigned char>a[i] & 0xC0 == 0x80:
        i -= 1
    if i == n:
        return (an > bn) - (an < bn)
    j = i
    # One of them may be half a pair where the other is a whole one: go on unit by unit.
    while i < an and j < bn:
        x = unit_at(<const unsigned char*>a + i, a_second)
        y = unit_at(<const unsigned char*>b + j, b_second)
        if x != y:
            return -1 if x < y else 1
        a_second = <unsigned char>a[i] >= 0xF0 and not a_second
        if not a_second:
            i += char_size(<unsigned char>a[i])
        b_second = <unsigned char>b[j] >= 0xF0 and not b_second
        if not b_second:
            j += char_size(<unsigned char>b[j])
    return (i < an) - (j < bn)


cdef bint ends_high(const char *p, Py_ssize_t n) noexcept nogil:
    """Whether the string ends in the first half of a surrogate pair."""
    return n >= 3 and <unsigned char>p[n - 3] == 0xED and 0xA0 <= <unsigned char>p[n - 2] <= 0xAF


cdef bint starts_low(const char *p, Py_ssize_t n) noexcept nogil:
    """Whether the string begins with the second half of a surrogate pair."""
    return n >= 3 and <unsigned char>p[0] == 0xED and <unsigned char>p[1] >= 0xB0


cdef str decode(const char *p, Py_ssize_t n):
    """The string as str; halves of pairs stay what they are."""
    return PyUnicode_DecodeUTF8(<char*>p, n, "surrogatepass")


cdef str join_surrogates(str text):
    """The text with every surrogate pair that it spells in two characters as one."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


cdef bytes encode(str text):
    """WTF-8 of a str that is no plain Unicode text."""
    return join_surrogates(text).encode("utf-8", "surrogatepass")


cdef str units(const char *p, Py_ssize_t n):
    """A str with one character per code unit, so that Python's positions are JavaScript's."""
    cdef Py_ssize_t count = unit_count(p, n), i = 0, k = 0
    cdef uint16_t *buffer = <uint16_t*>PyMem_Malloc(<size_t>count * 2 + 2)
    if buffer == NULL:
        raise MemoryError("dsfast: out of memory")
    try:
        while i < n:
            buffer[k] = <uint16_t>unit_at(<const unsigned char*>p + i, False)
            k += 1
            if <unsigned char>p[i] >= 0xF0:
                buffer[k] = <uint16_t>unit_at(<const unsigned char*>p + i, True)
                k += 1
            i += char_size(<unsigned char>p[i])
        return PyUnicode_FromKindAndData(PyUnicode_2BYTE_KIND, buffer, count)
    finally:
        PyMem_Free(buffer)
