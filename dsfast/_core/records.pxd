"""Record writes and the fast path of the record handler."""
from libc.stdint cimport int64_t

from dsfast._core.connection cimport Connection
from dsfast._core.fanout cimport Hub, Peer, Registry, StateWriter, Subject
from dsfast._core.protocol cimport Msg
from dsfast._core.record_cache cimport Record, RecordCache
from dsfast._core.router cimport Gate, Handler

cpdef enum:
    STEP_WRITE = 1
    STEP_HOT_WRITE = 2
    STEP_READ = 3
    STEP_HEAD = 4
    STEP_SUBSCRIBE_READ = 5
    STEP_SUBSCRIBE_CREATE_READ = 6
    STEP_SUBSCRIBE = 7
    STEP_UNSUBSCRIBE = 8
    STEP_DELETE = 9
    STEP_RELOAD = 10
    STEP_GET = 11

cdef class Step:
    cdef readonly int kind
    cdef readonly Connection connection
    cdef readonly int action            # as the client sent it
    cdef readonly int normal            # UPDATE, PATCH or PATCH_MULTI
    cdef readonly bytes key
    cdef readonly int64_t version
    cdef readonly bint has_version
    cdef readonly bytes data
    cdef readonly str path
    cdef readonly bytes correlation_id
    cdef readonly bint write_ack
    cdef readonly bint upsert
    cdef public bint may_read           # its sender may see the record in a VERSION_EXISTS
    cdef public bint holding
    cdef public bint durable            # the storage has confirmed it already (durability strict)
    cdef public object collector
    cdef list operations
    cdef bint has_float
    cpdef bint shows_record(self, int64_t version)

cdef class RecordCore(Handler):
    cdef readonly Registry registry
    cdef readonly Hub hub
    cdef readonly RecordCache cache     # None with a cache plugin
    cdef Record changed                 # while its change is broadcast, for protocols that only know whole records
    cdef public object writer           # WriteBehind, or None
    cdef public object gate
    cdef public Gate core_gate          # decides first, if the permission is one of the core's
    cdef object listen
    cdef object log
    cdef object options
    cdef readonly dict queues           # key → queue of steps that wait (dsfast/handlers/record.py)
    cdef tuple excluded
    cdef tuple hot
    cdef Py_ssize_t max_size
    cdef readonly bint strict           # broadcasts wait for the storage
    cdef bint ack_from_cache            # acknowledgements do not
    cdef Py_ssize_t max_index_growth
    cdef Py_ssize_t max_array_length
    cdef int write(self, Connection c, Msg *m, int action) except -1
    cdef Step parse_write(self, Connection c, Msg *m, int action)
    cpdef Step make_step(self, int kind, Connection connection, int action, bytes key, collector=*)
    cdef int submit(self, Step step) except -1
    cdef int names_step(self, Connection c, Msg *m, int kind, int action) except -1
    cdef int subscribe_and_head(self, Connection c, Msg *m) except -1
    cdef bint is_stored(self, bytes key) except -1
    cdef bint is_hot(self, bytes key) except -1
    cdef int perform(self, Step step, Record record) except -1
    cdef bint apply(self, Step step, Record record, int64_t base) except -1
    cdef Record prepare_write(self, Step step, Record record)
    cdef Record prepare_hot_write(self, Step step, Record record)
    cdef int keep(self, Record record, bint fresh) except -1
    cdef bint store_for(self, Step step, Record record, bint forced) except -1
    cdef int commit(self, Step step, Record record) except -1
    cdef int broadcast_write(self, Step step, Record record) except -1
    cdef int subscribe(self, Connection c, bytes key, int action) except -1
    cdef int respond(self, Connection c, bytes key, Record record) except -1
    cdef bint parse_multi(self, Step step) except -1
    cdef Record create(self, Step step)
    cdef bint too_large(self, Step step) except -1
    cdef int broadcast_multi(self, Step step, Record record, Subject subject, Msg *m) except -1
    cdef int conflict(self, Step step, Record record) except -1
    cdef bytes echo(self, Step step, Msg *m)
    cdef int deleted(self, Step step) except -1
    cdef int reloaded(self, Step step, Record record) except -1
    cdef int write_state(self, Peer peer, Subject subject) except -1
    cdef int fail(self, Step step, int action) except -1
    cdef int invalid(self, Step step) except -1
    cdef int store(self, Record record, bint forced) except -1
