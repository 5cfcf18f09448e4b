"""The protocol of the ws-text endpoint."""
from libc.stdint cimport uint32_t

from dsfast._core.buffer cimport Buf, Slice
from dsfast._core.connection cimport Connection, Protocol
from dsfast._core.protocol cimport Msg

cdef enum:
    MAX_PARTS = 6       # of a message of a client: its action, and what is behind it; none has more

cdef struct Request:
    int topic
    int action
    const char *letters     # of the action
    uint32_t number         # the same, to compare
    int parts               # behind it
    const char *layout      # one letter for each of them

cdef class TextProtocol(Protocol):
    cdef public object owner
    cdef Buf spare_value    # JSON text made of a typed value
    cdef Buf spare_text     # a message in text form
    cdef int one(self, Connection c, const char *p, const char *end) except -1
    cdef int malformed(self, Connection c) except -1
    cdef int request(self, Connection c, const Request *r, const Slice *part) except -1
    cdef int hand_on(self, Connection c, const Request *r, const Slice *part, Buf *value) except -1
    cdef int note(self, Connection c, int action, const Slice *part) except -1
    cdef bytes asked(self, Connection c, const Msg *m)
    cdef int put(self, const Msg *m, Buf *out, list names, bytes asked) except -1
