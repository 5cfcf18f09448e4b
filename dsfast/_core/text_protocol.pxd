"""The protocol of the ws-text endpoint."""
from dsfast._core.buffer cimport Buf, Slice
from dsfast._core.connection cimport Connection, Protocol
from dsfast._core.protocol cimport Msg

cdef enum:
    MAX_PARTS = 8       # of a message of a client; none has more

cdef class TextProtocol(Protocol):
    cdef int one(self, Connection c, const char *p, size_t n) except -1
    cdef int connection_message(self, Connection c, Slice *part, int count) except -1
    cdef int event_message(self, Connection c, Slice *part, int count) except -1
    cdef int listen_message(self, Connection c, int topic, Slice *part, int count) except -1
    cdef int record_message(self, Connection c, Slice *part, int count) except -1
    cdef int write(self, Connection c, Slice *part, int count) except -1
    cdef int rpc_message(self, Connection c, Slice *part, int count) except -1
    cdef int presence_message(self, Connection c, Slice *part, int count) except -1
    cdef int named(self, Connection c, int topic, int action, Slice name) except -1
    cdef int bulk(self, Connection c, int topic, int action, Slice name) except -1
    cdef int hand_on(self, Connection c, const Msg *m, list names=*) except -1
    cdef int malformed(self, Connection c) except -1
    cdef int invalid_data(self, Connection c, int topic, int action, Slice name) except -1
    cdef int ask(self, Connection c, str letters, int action, Slice name) except -1
    cdef str asked(self, Connection c, const Msg *m)
    cdef int put(self, const Msg *m, Buf *out, list names, str asked) except -1
