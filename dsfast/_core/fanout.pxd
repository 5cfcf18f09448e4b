"""Subscriptions, broadcasts and outboxes."""
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from dsfast._core.buffer cimport Buf
from dsfast._core.names cimport Named, NameTable
from dsfast._core.protocol cimport Msg

# Messages are counted by topic and action; the last of each stands for all that are beyond.
cdef enum:
    COUNTED_TOPICS = 16
    COUNTED_ACTIONS = 128
    COUNTERS = COUNTED_TOPICS * COUNTED_ACTIONS

cdef inline size_t counter(const Msg *m) noexcept nogil:
    """Where a message is counted."""
    cdef size_t topic = <size_t>m.topic
    cdef size_t action = <size_t>m.i[0] if m.has & 1 else 0
    if topic >= COUNTED_TOPICS:
        topic = COUNTED_TOPICS - 1
    if action >= COUNTED_ACTIONS:
        action = COUNTED_ACTIONS - 1
    return topic * COUNTED_ACTIONS + action

cdef extern from "sys/socket.h" nogil:
    ssize_t socket_send "send"(int fd, const void *buf, size_t n, int flags)

# One subscription; knows its place in the two arrays that hold it, so that removal is O(1).
cdef struct Sub:
    PyObject *peer      # counted: whatever goes wrong, a broadcast never meets a peer that was freed
    PyObject *subject   # not counted: the registry holds it as long as it has subscribers
    uint32_t at_subject
    uint32_t at_peer

cdef struct Range:
    size_t off
    size_t n

# Frames of one turn that all subscribers of a subject are to get, except `skip`.
cdef struct Segment:
    PyObject *subject
    PyObject *skip
    size_t off
    size_t n
    bint exact          # nothing newer can stand in for these frames
    uint32_t messages   # how many they are
    int codec           # number of the Codec that made the frames; 0: the binary protocol

cdef class StateWriter
cdef class Peer

cdef class Codec:
    cdef readonly int number
    cdef bint lossy                 # to a slow reader, broadcasts may be left out
    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1
    cdef int encode_for(self, Peer peer, const Msg *m, Buf *out, list names, dict versions) except -1
    cdef size_t frame_end(self, const char *p, size_t n, size_t at) noexcept nogil

cdef class Subject(Named):
    cdef Registry registry
    cdef Sub **subs
    cdef uint32_t count
    cdef uint32_t cap
    cdef uint32_t foreign           # subscribers with a Codec
    cdef uint32_t codecs            # set of the numbers of Codecs that subscribers had
    cdef readonly bint provided     # an active provider publishes this record

cdef class Peer:
    cdef object __weakref__
    cdef Hub hub
    cdef object transport
    cdef Codec codec                # None: the binary protocol
    cdef bint personal              # takes messages itself, through deliver()
    cdef int fd                     # socket for direct sends; -1: only through the transport (TLS)
    cdef bint dirty                 # in hub.dirty
    cdef bint blocked               # the transport still holds bytes of ours
    cdef bint muted                 # nothing may be sent any more
    cdef bint lasting               # its subscriptions of a record outlive the record
    cdef bint gone                  # its subscriptions have been dropped; it can have no others
    cdef Range *ranges
    cdef uint32_t n_ranges
    cdef uint32_t cap_ranges
    cdef Buf backlog                # whole frames waiting for the transport to drain
    cdef size_t backlog_pos
    cdef size_t handed              # bytes the transport was given when it blocked
    cdef dict conflated             # subjects whose newest state is owed to this peer
    cdef Sub **subs
    cdef uint32_t n_subs
    cdef uint32_t cap_subs
    cdef int deliver(self, const Msg *m, list names, dict versions) except -1
    cdef int encode(self, const Msg *m, Buf *out) except -1
    cdef int add_range(self, size_t off, size_t n) except -1
    cdef int flush(self, const char *base) except -1
    cdef int write_now(self, const char *p, size_t n) except -1
    cdef size_t write_frames(self, const char *p, size_t n) except? 999999999
    cdef int drain(self) except -1
    cdef size_t waiting_bytes(self) noexcept
    cdef int drop_subscriptions(self) except -1
    cdef int on_slow(self) except -1
    cdef int on_broken(self, error=*) except -1

cdef class Hub:
    cdef readonly object loop
    cdef Buf arena                  # all frames of this turn
    cdef Buf scratch
    cdef Segment *segments
    cdef uint32_t n_segments
    cdef uint32_t cap_segments
    cdef PyObject **dirty
    cdef uint32_t n_dirty
    cdef uint32_t cap_dirty
    cdef bint scheduled
    cdef bint flushing              # frames are being written; nobody may write others meanwhile
    cdef object flush_callback
    cdef object flush_handle
    cdef list slow
    cdef public double buffer_timeout       # seconds; 0 = end of the loop turn
    cdef public size_t max_buffer_bytes
    cdef public size_t max_outgoing_bytes
    cdef public bint conflate
    cdef public StateWriter state_writer    # newest state of a conflated record
    cdef list codecs                        # by number; None for 0
    cdef uint64_t *received                 # permitted messages, by counter()
    cdef uint64_t *sent                     # deliveries
    cdef readonly uint64_t messages_in
    cdef readonly uint64_t deliveries
    cdef readonly uint64_t broadcasts
    cdef readonly uint64_t bytes_out
    cdef readonly uint64_t writes
    cdef readonly uint64_t slow_closed
    cdef readonly uint64_t conflations
    cdef readonly uint64_t dropped
    cdef int count_broadcast(self, size_t where, Subject subject, Peer skip) except -1
    cdef int send_msg(self, Peer peer, const Msg *m, list names=*, dict versions=*) except -1
    cdef int send_frame(self, Peer peer, const char *p, size_t n) except -1
    cdef int broadcast_msg(self, Subject subject, Peer skip, const Msg *m) except -1
    cdef int broadcast_payload(self, Subject subject, Peer skip, const char *p, size_t n) except -1
    cdef int broadcast_foreign(self, Subject subject, Peer skip, const Msg *m) except -1
    cdef int push_segment(self, Subject subject, Peer skip, size_t off, size_t n, bint exact, int codec=*) except -1
    cdef int unicast(self, Peer peer, size_t off, size_t n) except -1
    cdef int expand(self) except -1
    cdef bint absorb(self, Peer peer, Subject subject) except -1
    cdef bint spares(self, Peer peer, const Segment *s, bint conflatable) except -1
    cdef int mark_dirty(self, Peer peer) except -1
    cdef int schedule(self) except -1
    cdef int flush(self) except -1

cdef class StateWriter:
    cdef int write_state(self, Peer peer, Subject subject) except -1

cdef class Registry:
    cdef readonly Hub hub
    cdef readonly int topic
    cdef NameTable table
    cdef bint conflatable
    cdef object listener
    cdef Sub **pairs
    cdef size_t pair_mask
    cdef readonly Py_ssize_t subscriptions
    cdef Subject find(self, const char *p, Py_ssize_t n)
    cdef Subject ensure(self, const char *p, Py_ssize_t n)
    cdef Sub *pair_find(self, Peer peer, Subject subject) noexcept
    cdef Subject lookup(self, str name)
    cdef bint holds(self, Peer peer, Subject subject) noexcept
    cdef Subject subscribe(self, Peer peer, const char *p, Py_ssize_t n, bint *fresh)
    cdef bint unsubscribe(self, Peer peer, const char *p, Py_ssize_t n) except -1
    cdef int drop(self, Sub *sub) except -1
    cdef int pair_grow(self) except -1
    cdef void pair_put(self, Sub *sub) noexcept
    cdef void pair_remove(self, Sub *sub) noexcept
