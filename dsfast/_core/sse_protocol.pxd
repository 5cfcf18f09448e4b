"""The protocol of streams by HTTP."""
from dsfast._core.buffer cimport Buf
from dsfast._core.connection cimport Connection, Protocol
from dsfast._core.protocol cimport Msg
from dsfast._core.records cimport RecordCore

cdef class SseProtocol(Protocol):
    cdef public RecordCore records      # None: the feature is off
    cdef set asking                     # connections that are about to read their record again
    cdef int state(self, const Msg *m, Buf *out) except -1
    cdef int changed(self, const Msg *m, Buf *out) except -1
    cdef int gone(self, const Msg *m, Buf *out) except -1
    cdef int end(self, Connection c, const Msg *m, Buf *out) except -1
    cdef list streams(self, const Msg *m)
