"""The protocol of the ws-json endpoint."""
from dsfast._core.connection cimport Connection, Protocol

cdef class JsonProtocol(Protocol):
    cdef int unknown_topic(self, Connection c, object topic, int action) except -1
    cdef int invalid(self, Connection c, dict fields, int topic, int action) except -1
