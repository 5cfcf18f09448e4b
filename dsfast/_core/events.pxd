"""Events: publish and subscribe."""
from dsfast._core.connection cimport Connection
from dsfast._core.fanout cimport Registry, Subject
from dsfast._core.protocol cimport Msg
from dsfast._core.router cimport Handler

cdef class EmitWatch:
    cdef int before(self, Connection c, const Msg *m, Subject subject) except -1
    cdef int after(self) except -1

cdef class EventHandler(Handler):
    cdef readonly Registry registry
    cdef object listen
    cdef EmitWatch watch
    cdef int emit(self, Connection c, Msg *m, const char *raw, size_t n) except -1
    cdef int broadcast(self, Connection c, Msg *m, const char *raw, size_t n, Subject subject) except -1
