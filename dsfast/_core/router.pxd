"""From a message to its handler."""
from dsfast._core.connection cimport Connection, Dispatcher
from dsfast._core.fanout cimport Registry
from dsfast._core.protocol cimport Msg

cpdef enum:
    VERDICT_DENIED = 0
    VERDICT_ALLOWED = 1
    VERDICT_FAILED = 2
    VERDICT_WAITS = 3       # cannot be decided at once

cdef class Gate:
    cdef int arrival(self, Connection c, const Msg *m) except -1
    cdef int turn(self, object step, object record) except -1

cdef class Handler:
    cdef int handle(self, Connection c, Msg *m, const char *raw, size_t n) except -1

cdef class Router(Dispatcher):
    cdef readonly tuple handlers    # by topic; None: the feature is off
    cdef readonly object gate       # PermissionGate, or None while everything is allowed
    cdef readonly Gate core_gate    # decides first, if the permission is one of the core's

cdef inline int action_of(const Msg *m) noexcept nogil:
    return <int>m.i[0] if m.has & 1 else 0

cdef int answer(Connection c, const Msg *m, int action) except -1
cdef int answer_error(Connection c, const Msg *m, int action) except -1
cdef int answer_invalid(Connection c, const Msg *m) except -1
cdef int send_ack(Connection c, const Msg *m, list names=*) except -1
cdef bint names_ok(Connection c, const Msg *m) except -1
cdef int subscribe_names(Connection c, const Msg *m, Registry registry, int repeated, str what) except -1
cdef int unsubscribe_names(Connection c, const Msg *m, Registry registry) except -1
