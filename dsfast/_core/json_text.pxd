"""C declarations of the JSON validator and the record document codec (see json_text.pyx)."""

cdef enum:
    JSON_OBJECT = 1
    JSON_ARRAY = 2
    JSON_STRING = 3
    JSON_NUMBER = 4
    JSON_TRUE = 5
    JSON_FALSE = 6
    JSON_NULL = 7
    JSON_KIND_MASK = 7      # result & JSON_KIND_MASK = kind of the top value
    JSON_HAS_FLOAT = 16     # some number has a fraction or an exponent
    JSON_MAX_DEPTH = 512    # nested containers; one more is invalid

cdef int json_check(const char *p, Py_ssize_t n) noexcept nogil
cdef bint utf8_check(const char *p, Py_ssize_t n) noexcept nogil

# `flags` is what json_check gave for exactly this text.
cdef object loads_checked(bytes text, int flags)

cpdef object loads(bytes text)
cpdef bytes dumps(object value)
