"""Batches of the HTTP API."""
from libc.stdint cimport int64_t

from dsfast._core.buffer cimport Buf, Slice
from dsfast._core.connection cimport Endpoint, VirtualConnection
from dsfast._core.protocol cimport Msg

# One element, as slices of the body that holds it.
cdef struct Part:
    int topic
    int action
    int64_t version
    Slice name
    Slice path          # n == 0: none
    Slice data          # n == 0: none

cdef class Scanned:
    cdef bytes body
    cdef Part *parts
    cdef Py_ssize_t count
    cdef Py_ssize_t cap
    cdef readonly bytes auth_data       # JSON, None if it is absent
    cdef readonly bytes token
    cdef int add(self, const Part *part) except -1

cdef class Batch

cdef class Answered(VirtualConnection):
    cdef Batch batch
    cdef Py_ssize_t index

cdef class Batch:
    cdef Endpoint core
    cdef object answers
    cdef object login
    cdef object elements        # Scanned, or a list of Message
    cdef Scanned scanned
    cdef list slots
    cdef list connections
    cdef Answered idle          # a connection that can take another element
    cdef dict conflicts
    cdef Py_ssize_t begun
    cdef Py_ssize_t open
    cdef Py_ssize_t failures
    cdef size_t size
    cdef Buf raw
    cdef object on_done
    cdef object on_timeout
    cdef object timer
    cdef object next
    cdef int run(self) except -1
    cdef int begin(self, Py_ssize_t index) except -1
    cdef Answered connect(self)
    cdef int send_part(self, Answered c, const Part *part) except -1
    cdef int take(self, Answered c, const Msg *m, list names, dict versions) except -1
    cdef int take_message(self, Answered c, object message) except -1
    cdef int fill(self, Py_ssize_t index, bint success, bytes element) except -1
    cdef bytes finish(self)
    cdef int stop(self) except -1
