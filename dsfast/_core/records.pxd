"""Record cache, record writes and the fast path of the record handler."""
from libc.stdint cimport int64_t, uint64_t

from dsfast._core.connection cimport Connection
from dsfast._core.fanout cimport Hub, Peer, Registry, StateWriter, Subject
from dsfast._core.names cimport Named, NameTable
from dsfast._core.protocol cimport Msg
from dsfast._core.router cimport Handler

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

cdef class Record(Named):
    cdef Record newer           # LRU list of the cache
    cdef Record older
    cdef readonly int64_t version
    cdef bytes raw              # JSON text of the present state, or None if only the document is current
    cdef str name_text
    cdef object doc             # parsed document, or None if it was not needed yet
    cdef readonly Py_ssize_t size   # upper bound of the text size in bytes, as far as known
    cdef Py_ssize_t charged     # bytes counted for it in the cache
    cdef int64_t saved_version  # newest version the storage has confirmed
    cdef bint queued            # in the write-behind queue: changes need no further put
    cdef bint cached
    cdef uint64_t used          # ms, monotonic; kept only with a ttl
    cpdef bytes text(self)
    cdef str text_name(self)
    cdef object document(self)

cdef class RecordCache:
    cdef NameTable table
    cdef Record head            # sentinel of the LRU list
    cdef public Py_ssize_t max_bytes
    cdef public Py_ssize_t max_entries
    cdef readonly uint64_t ttl          # ms; 0: none
    cdef bint ordered           # the LRU order matters
    cdef readonly Py_ssize_t used_bytes
    cdef readonly uint64_t hits
    cdef readonly uint64_t misses
    cdef readonly uint64_t evictions
    cdef public bint over_limit
    cdef Record find(self, const char *p, Py_ssize_t n)
    cdef void link(self, Record record) noexcept
    cdef int touch(self, Record record) except -1
    cdef int put(self, Record record) except -1
    cdef int drop(self, Record record) except -1
    cdef int recharge(self, Record record) except -1
    cdef void renew(self, Record record) noexcept
    cdef int evict(self, Record keep) except -1

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

cdef class RecordCore(Handler):
    cdef readonly Registry registry
    cdef readonly Hub hub
    cdef readonly RecordCache cache     # None with a cache plugin
    cdef public object writer           # WriteBehind, or None
    cdef public object gate
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
