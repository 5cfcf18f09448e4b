"""C declarations of JavaScript's undefined, numbers and strings (see js_values.pyx)."""
from libc.stdint cimport int32_t

cdef enum:
    NUMBER_TEXT_SIZE = 32       # bytes that the text of any number fits into

cdef class Undefined:
    pass

cdef Undefined UNDEFINED

cdef Py_ssize_t write_number(double number, char *out) except -1
cdef double text_number(const char *p, Py_ssize_t n) except? -1
cdef int32_t int32_of(double number) noexcept nogil
cdef double integer_of(double number) noexcept nogil

cdef bint is_space(Py_UCS4 c) noexcept nogil
cdef int trim(const char **p, Py_ssize_t *n) noexcept nogil

cdef bint is_ascii(const char *p, Py_ssize_t n) noexcept nogil
cdef Py_ssize_t unit_count(const char *p, Py_ssize_t n) noexcept nogil
cdef int compare_units(const char *a, Py_ssize_t an, const char *b, Py_ssize_t bn) noexcept nogil
cdef bint ends_high(const char *p, Py_ssize_t n) noexcept nogil
cdef bint starts_low(const char *p, Py_ssize_t n) noexcept nogil
cdef str decode(const char *p, Py_ssize_t n)
cdef bytes encode(str text)
cdef str join_surrogates(str text)
cdef str units(const char *p, Py_ssize_t n)
