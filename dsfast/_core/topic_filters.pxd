"""Topic filters of MQTT."""

cdef enum:
    FILTER_INVALID = 0
    FILTER_EXACT = 1        # without wildcards: a topic name
    FILTER_WILD = 2

cdef bint topic_ok(const char *p, Py_ssize_t n) noexcept nogil
cdef int filter_kind(bytes text) except -1

cdef class FilterTree:
    cdef dict root
    cdef readonly Py_ssize_t count
