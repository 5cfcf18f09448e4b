"""Subscriptions, broadcasts and outboxes: the hot half of the server (DESIGN.md section 3).

A broadcast costs almost nothing until the end of the loop turn: its frame is appended once to the hub's arena, and
consecutive frames for the same subscribers grow one segment. At the flush each segment becomes one range per
subscriber and each connection gets one write for all its ranges. So the number of writes per turn is the number of
connections, whatever the number of messages.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memmove
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from dsfast._core.buffer cimport Buf, buf_add, buf_free, buf_room, likely, unlikely
from dsfast._core.names cimport Named, NameTable
from dsfast._core.protocol cimport (
    EVENT_EMIT, I_ACTION, REC_PATCH, REC_PATCH_MULTI, REC_UPDATE, T_EVENT, Message, Msg, decode_msg, encode_frame,
    frame_header,
)

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_NOSIGNAL
        MSG_DONTWAIT

cdef enum:
    ARENA_FLUSH = 1 << 20       # flush in mid-turn beyond this, so that the arena stays in the cache
    ARENA_KEEP = 4 << 20        # memory kept between turns
    CONFLATE_FROM = 64 * 1024   # backlog of a connection from which record updates are conflated

# Behind the counters of messages lie two histograms, each of BUCKETS counts and the sum of the values, then the time
# at which the turn began (0: nothing is queued).
cdef enum:
    BUCKETS = 24                # values up to 1, 2, 4, 8, ..., and those beyond
    FAN_OUT = 2 * COUNTERS
    TURN = FAN_OUT + BUCKETS + 1
    TURN_BEGAN = TURN + BUCKETS + 1
    FIGURES = TURN_BEGAN + 1

cdef extern from *:
    int __builtin_clzll(unsigned long long) noexcept nogil


cdef inline void observe(uint64_t *histogram, uint64_t value) noexcept nogil:
    """Count a value."""
    cdef int bucket = 64 - __builtin_clzll(value - 1) if value > 1 else 0
    histogram[bucket if bucket < BUCKETS else BUCKETS - 1] += 1
    histogram[BUCKETS] += value


cdef inline uint64_t now_us() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1_000_000 + <uint64_t>t.tv_nsec // 1000


cdef size_t frame_end(const char *p, size_t n, size_t at) noexcept nogil:
    """End of the frame that holds byte ``at`` of the whole frames p[0:n]."""
    cdef size_t pos = 0, size
    cdef int i
    cdef const uint8_t *u
    while pos <= at and pos < n:
        u = <const uint8_t*>p + pos
        size = u[1] & 127
        if size == 126:
            size = 4 + (<size_t>u[2] << 8 | u[3])
        elif size == 127:
            size = 0
            for i in range(8):
                size = size << 8 | u[2 + i]
            size += 10
        else:
            size += 2
        pos += size
    return pos


cdef class Codec:
    """How the messages of one protocol look on the wire. The binary protocol, which is built in, has none."""

    def __init__(self, int number):
        """``number`` is 1 to 31, another one for each codec of a server."""
        if not 0 < number < 32:
            raise ValueError("a codec has a number from 1 to 31")
        self.number = number

    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1:
        """Append the whole frames for a message to ``out``; nothing if the protocol has no such message."""
        return 0

    cdef int encode_for(self, Peer peer, const Msg *m, Buf *out, list names, dict versions) except -1:
        """As encode, for a message to one peer only."""
        return self.encode(m, out, names, versions)

    cdef size_t frame_end(self, const char *p, size_t n, size_t at) noexcept nogil:
        """End of the frame that holds byte ``at`` of the whole frames p[0:n]."""
        return frame_end(p, n, at)


cdef class Subject(Named):
    """A name of one topic with its subscribers on this node."""

    def __dealloc__(self):
        free(self.subs)


cdef class Peer:
    """The sending half of a connection: its ranges of this turn, its backlog and its subscriptions."""

    def __cinit__(self):
        self.fd = -1
        self.ranges = NULL
        self.n_ranges = self.cap_ranges = 0
        self.backlog.p = NULL
        self.backlog.n = self.backlog.cap = 0
        self.backlog_pos = 0
        self.subs = NULL
        self.n_subs = self.cap_subs = 0

    def __dealloc__(self):
        free(self.ranges)
        free(self.subs)
        buf_free(&self.backlog)

    cdef int deliver(self, const Msg *m, list names, dict versions) except -1:
        """Take a message, instead of having its frames written (only called if ``personal``)."""
        return 0

    cdef int encode(self, const Msg *m, Buf *out) except -1:
        """Append the frames of a message in the protocol of this peer."""
        if self.codec is not None:
            return self.codec.encode(m, out, None, None)
        return encode_frame(m, out)

    cdef int add_range(self, size_t off, size_t n) except -1:
        cdef Range *r
        cdef uint32_t cap
        if self.n_ranges:
            r = &self.ranges[self.n_ranges - 1]
            if r.off + r.n == off:
                r.n += n
                return 0
        if self.n_ranges == self.cap_ranges:
            cap = self.cap_ranges * 2 if self.cap_ranges else 2
            r = <Range*>realloc(self.ranges, cap * sizeof(Range))
            if r == NULL:
                raise MemoryError("dsfast: out of memory")
            self.ranges = r
            self.cap_ranges = cap
        # First, since it can fail: a range of a peer that is not flushed would outlive the arena it points into.
        if not self.dirty:
            self.hub.mark_dirty(self)
        self.ranges[self.n_ranges].off = off
        self.ranges[self.n_ranges].n = n
        self.n_ranges += 1
        return 0

    cdef int flush(self, const char *base) except -1:
        """Write the ranges of this turn, or add them to the backlog of a connection that is blocked."""
        cdef uint32_t i, k = self.n_ranges
        cdef size_t total, done
        cdef Buf *scratch = &self.hub.scratch
        cdef const char *p
        self.n_ranges = 0
        if self.muted or k == 0:
            return 0
        if self.blocked or self.backlog.n:
            for i in range(k):
                buf_add(&self.backlog, base + self.ranges[i].off, self.ranges[i].n)
        else:
            if k == 1:
                p = base + self.ranges[0].off
                total = self.ranges[0].n
            else:
                # Many small ranges: one copy into a warm buffer is cheaper than a gathering write.
                scratch.n = 0
                for i in range(k):
                    buf_add(scratch, base + self.ranges[i].off, self.ranges[i].n)
                p = scratch.p
                total = scratch.n
            done = self.write_frames(p, total)
            if likely(done == total):
                if self.cap_ranges > 64:
                    free(self.ranges)
                    self.ranges = NULL
                    self.cap_ranges = 0
                return 0
            buf_add(&self.backlog, p + done, total - done)
        if self.waiting_bytes() > self.hub.max_outgoing_bytes:
            self.hub.slow.append(self)
        return 0

    cdef int write_now(self, const char *p, size_t n) except -1:
        """Write whole frames outside of a flush, behind everything that is already on its way."""
        cdef size_t done = 0
        if self.muted:
            return 0
        if not self.blocked and self.backlog.n == 0:
            done = self.write_frames(p, n)
        if done < n and not self.muted:
            buf_add(&self.backlog, p + done, n - done)
            if self.waiting_bytes() > self.hub.max_outgoing_bytes:
                self.on_slow()
        return 0

    cdef size_t write_frames(self, const char *p, size_t n) except? 999999999:
        """Send whole frames; returns how many bytes were taken (always up to a frame boundary).

        What the socket takes only in part goes to the transport up to the end of that frame, so that the transport
        wakes us when it has drained and our own backlog starts with a frame.
        """
        cdef size_t done = 0, boundary
        cdef ssize_t sent
        while done < n:
            sent = 0
            boundary = n
            if self.fd >= 0:
                sent = socket_send(self.fd, p + done, n - done, MSG_NOSIGNAL | MSG_DONTWAIT)
                self.hub.writes += 1
                if sent < 0:
                    if errno == EINTR:
                        continue
                    if errno != EAGAIN:
                        self.on_broken()
                        return n
                    sent = 0
                self.hub.bytes_out += <uint64_t>sent
                if done + <size_t>sent == n:
                    return n
                if self.codec is None:
                    boundary = done + frame_end(p + done, n - done, <size_t>sent)
                else:
                    boundary = done + self.codec.frame_end(p + done, n - done, <size_t>sent)
            else:
                self.hub.writes += 1
            self.transport.write(PyBytes_FromStringAndSize(p + done + sent, <Py_ssize_t>(boundary - done) - sent))
            self.hub.bytes_out += boundary - done - <size_t>sent
            done = boundary
            self.handed = self.transport.get_write_buffer_size()
            if self.handed > 0:
                self.blocked = True
                return done
        return done

    cdef int drain(self) except -1:
        """The transport has sent what it had: go on with the backlog, then with states owed to this peer."""
        cdef Hub hub = self.hub
        cdef size_t n
        self.blocked = False
        self.handed = 0
        hub.flushing = True     # nobody may append to the backlog while it is read
        try:
            while not self.muted and not self.blocked:
                if self.backlog_pos < self.backlog.n:
                    n = self.backlog.n - self.backlog_pos
                    self.backlog_pos += self.write_frames(self.backlog.p + self.backlog_pos, n)
                elif self.conflated and hub.state_writer is not None:
                    buf_free(&self.backlog)
                    self.backlog_pos = 0
                    subject, _ = self.conflated.popitem()
                    hub.state_writer.write_state(self, <Subject>subject)
                else:
                    break
        finally:
            hub.flushing = False
        if self.backlog_pos >= self.backlog.n:
            buf_free(&self.backlog)
            self.backlog_pos = 0
        elif self.backlog_pos * 2 > self.backlog.n:
            # A reader that never quite catches up must not make us keep what it has read.
            memmove(self.backlog.p, self.backlog.p + self.backlog_pos, self.backlog.n - self.backlog_pos)
            self.backlog.n -= self.backlog_pos
            self.backlog_pos = 0
        return 0

    cdef size_t waiting_bytes(self) noexcept:
        """Bytes accepted for this peer that its socket has not taken yet."""
        return self.backlog.n - self.backlog_pos + self.handed

    cdef int drop_subscriptions(self) except -1:
        """End every subscription of this peer for good, O(1) each; raises what a listener raised, but afterwards."""
        cdef object fault = None
        self.gone = True
        try:
            self.hub.expand()
        except Exception as error:
            fault = error
        while self.n_subs:
            try:
                while self.n_subs:
                    (<Subject>self.subs[self.n_subs - 1].subject).registry.drop(self.subs[self.n_subs - 1])
            except Exception as error:
                fault = error
        if fault is not None:
            raise fault
        return 0

    cdef int on_slow(self) except -1:
        """More than maxOutgoingBytes are waiting; a connection closes itself here."""
        return 0

    cdef int on_broken(self, error=None) except -1:
        """A write failed for good, with ``error`` if it was none of the socket; a connection ends itself here."""
        return 0


cdef inline bint is_exact(const Msg *m) noexcept:
    """Whether nothing newer can stand in for a message: of a record's, all but its changes."""
    return m.i[I_ACTION] != REC_UPDATE and m.i[I_ACTION] != REC_PATCH and m.i[I_ACTION] != REC_PATCH_MULTI


cdef class StateWriter:
    """Writes the newest state of a record to one peer (implemented by the record handler)."""

    cdef int write_state(self, Peer peer, Subject subject) except -1:
        return 0


cdef class Hub:
    """Everything that is sent in one turn of the event loop, by all connections of a server."""

    def __cinit__(self, loop, *, double buffer_timeout=0, size_t max_buffer_bytes=100_000,
                  size_t max_outgoing_bytes=8 << 20, bint conflate=False):
        self.arena = Buf(NULL, 0, 0)
        self.scratch = Buf(NULL, 0, 0)
        self.segments = NULL
        self.dirty = NULL
        self.n_segments = self.cap_segments = self.n_dirty = self.cap_dirty = 0
        self.received = <uint64_t*>calloc(FIGURES, sizeof(uint64_t))
        if self.received == NULL:
            raise MemoryError("dsfast: out of memory")
        self.sent = self.received + <size_t>COUNTERS
        self.loop = loop
        self.buffer_timeout = buffer_timeout
        self.max_buffer_bytes = max_buffer_bytes
        self.max_outgoing_bytes = max_outgoing_bytes
        self.conflate = conflate
        self.state_writer = None
        self.flush_callback = self.on_flush
        self.flush_handle = None
        self.slow = []
        self.codecs = [None] * 32

    def add_codec(self, Codec codec not None):
        """Make the codec of a further protocol known; its connections may subscribe then."""
        if self.codecs[codec.number] is not None:
            raise ValueError("there is a codec of that number")
        self.codecs[codec.number] = codec

    @property
    def is_polyglot(self):
        """Whether connections may speak other protocols than the binary one."""
        return any([codec is not None for codec in self.codecs])

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.n_segments):
            Py_DECREF(<object>self.segments[i].subject)
            if self.segments[i].skip != NULL:
                Py_DECREF(<object>self.segments[i].skip)
        for i in range(self.n_dirty):
            Py_DECREF(<object>self.dirty[i])
        free(self.segments)
        free(self.dirty)
        free(self.received)
        buf_free(&self.arena)
        buf_free(&self.scratch)

    cdef int count_broadcast(self, size_t where, Subject subject, Peer skip) except -1:
        """Count what subscribers get; their own protocol may have no such message."""
        self.sent[where] += subject.count
        observe(self.received + <size_t>FAN_OUT, subject.count)
        if skip is not None and skip.n_subs and subject.registry.holds(skip, subject):
            self.sent[where] -= 1
        return 0

    cdef int send_msg(self, Peer peer, const Msg *m, list names=None, dict versions=None) except -1:
        """Queue one message for one peer."""
        cdef size_t off = self.arena.n
        if peer.muted:
            return 0
        self.sent[counter(m)] += 1
        if likely(peer.codec is None):
            if unlikely(peer.personal):
                return peer.deliver(m, names, versions)
            encode_frame(m, &self.arena, names, versions)
        else:
            peer.codec.encode_for(peer, m, &self.arena, names, versions)
            if self.arena.n == off:
                return 0
        return self.unicast(peer, off, self.arena.n - off)

    cdef int send_frame(self, Peer peer, const char *p, size_t n) except -1:
        """Queue bytes that are already a frame for one peer."""
        cdef size_t off = self.arena.n
        if peer.muted:
            return 0
        buf_add(&self.arena, p, n)
        return self.unicast(peer, off, n)

    cdef int broadcast_msg(self, Subject subject, Peer skip, const Msg *m) except -1:
        """Queue one message for all subscribers but ``skip`` (None: for all)."""
        cdef size_t off = self.arena.n
        if subject.count == 0:
            return 0
        self.count_broadcast(counter(m), subject, skip)
        if unlikely(subject.foreign):
            self.broadcast_foreign(subject, skip, m)
            off = self.arena.n
            if subject.foreign == subject.count:
                return 0
        encode_frame(m, &self.arena)
        return self.push_segment(subject, skip, off, self.arena.n - off, is_exact(m))

    cdef int broadcast_foreign(self, Subject subject, Peer skip, const Msg *m) except -1:
        """The part of a broadcast that goes to other protocols: one encoding and one segment for each."""
        cdef Codec codec
        cdef Peer peer
        cdef size_t off
        cdef int number
        cdef uint32_t i
        for number in range(1, 32):
            if subject.codecs >> number & 1:
                codec = <Codec>self.codecs[number]
                off = self.arena.n
                codec.encode(m, &self.arena, None, None)
                if self.arena.n > off:
                    self.push_segment(subject, skip, off, self.arena.n - off, is_exact(m), number)
        if subject.codecs & 1:
            # Those that take messages themselves. Whom it reaches is settled now: taking one may change who subscribes.
            for peer in [<Peer>subject.subs[i].peer for i in range(subject.count)]:
                if peer.personal and peer is not skip and not peer.muted:
                    peer.deliver(m, None, None)
        return 0

    cdef int broadcast_payload(self, Subject subject, Peer skip, const char *p, size_t n) except -1:
        """As broadcast_msg, for an event that is already encoded."""
        cdef size_t off, h
        cdef char *q
        cdef Msg m
        self.count_broadcast(T_EVENT * COUNTED_ACTIONS + EVENT_EMIT, subject, skip)
        if unlikely(subject.foreign):
            decode_msg(p, p + n, &m)
            self.broadcast_foreign(subject, skip, &m)
            if subject.foreign == subject.count:
                return 0
        off = self.arena.n
        q = buf_room(&self.arena, n + 10)
        h = frame_header(q, n, 2)
        memcpy(q + h, p, n)
        self.arena.n += h + n
        return self.push_segment(subject, skip, off, h + n, True)

    cdef int push_segment(self, Subject subject, Peer skip, size_t off, size_t n, bint exact, int codec=0) except -1:
        cdef Segment *s
        cdef uint32_t cap
        cdef PyObject *except_peer = NULL
        self.broadcasts += 1
        # A sender that does not subscribe needs no exception; then its segment joins those of other senders.
        if skip is not None and skip.n_subs and subject.registry.holds(skip, subject):
            if subject.count == 1:
                self.arena.n = off
                return 0
            except_peer = <PyObject*>skip
        if self.n_segments:
            s = &self.segments[self.n_segments - 1]
            if (s.subject == <PyObject*>subject and s.skip == except_peer and s.exact == exact
                    and s.off + s.n == off and s.codec == codec):
                s.n += n
                s.messages += 1
                if likely(subject.foreign == 0):
                    self.deliveries += subject.count - (except_peer != NULL)
                if unlikely(self.arena.n > ARENA_FLUSH):
                    self.flush()
                return 0
        if self.n_segments == self.cap_segments:
            cap = self.cap_segments * 2 if self.cap_segments else 64
            s = <Segment*>realloc(self.segments, cap * sizeof(Segment))
            if s == NULL:
                raise MemoryError("dsfast: out of memory")
            self.segments = s
            self.cap_segments = cap
        s = &self.segments[self.n_segments]
        s.subject = <PyObject*>subject
        Py_INCREF(subject)
        s.skip = except_peer
        if except_peer != NULL:
            Py_INCREF(<object>except_peer)
        s.off = off
        s.n = n
        s.exact = exact
        s.codec = codec
        s.messages = 1
        self.n_segments += 1
        if likely(subject.foreign == 0):
            self.deliveries += subject.count - (except_peer != NULL)
        if self.arena.n > ARENA_FLUSH:
            return self.flush()
        return self.schedule()

    cdef int unicast(self, Peer peer, size_t off, size_t n) except -1:
        # Broadcasts accepted before must reach this peer before.
        if self.n_segments:
            self.expand()
        peer.add_range(off, n)
        self.deliveries += 1
        if self.arena.n > ARENA_FLUSH:
            return self.flush()
        return self.schedule()

    cdef int expand(self) except -1:
        """Turn the segments into ranges of their subscribers; before any change of who subscribes."""
        cdef uint32_t i, k, count = self.n_segments, cap = self.cap_segments
        cdef Segment *segments = self.segments
        cdef Segment *s
        cdef Subject subject
        cdef Peer peer
        cdef bint conflatable
        cdef int number
        if count == 0:
            return 0
        # Out of everybody's reach while it is walked: where memory is allocated or an object is freed, the garbage
        # collector or a finaliser may run, and with it any code.
        self.segments = NULL
        self.n_segments = self.cap_segments = 0
        try:
            for i in range(count):
                s = &segments[i]
                subject = <Subject>s.subject
                if unlikely(subject.foreign):
                    number = s.codec
                    for k in range(subject.count):
                        peer = <Peer>subject.subs[k].peer
                        if (subject.subs[k].peer != s.skip and not peer.personal
                                and number == (0 if peer.codec is None else peer.codec.number)
                                and not (peer.blocked and self.spares(peer, s, subject.registry.conflatable))):
                            peer.add_range(s.off, s.n)
                            self.deliveries += s.messages
                    continue
                conflatable = self.conflate and subject.registry.conflatable and not s.exact
                k = 0
                while k < subject.count:
                    if subject.subs[k].peer != s.skip:
                        peer = <Peer>subject.subs[k].peer
                        if not (conflatable and peer.blocked and self.absorb(peer, subject)):
                            peer.add_range(s.off, s.n)
                    k += 1
        finally:
            for i in range(count):
                Py_DECREF(<object>segments[i].subject)
                if segments[i].skip != NULL:
                    Py_DECREF(<object>segments[i].skip)
            if self.segments == NULL:
                self.segments = segments
                self.cap_segments = cap
            else:
                free(segments)
        return 0

    cdef bint spares(self, Peer peer, const Segment *s, bint conflatable) except -1:
        """Whether a slow reader of another protocol does without these frames."""
        cdef bint lossy = peer.codec is not None and peer.codec.lossy
        if conflatable and not s.exact and (self.conflate or lossy):
            return self.absorb(peer, <Subject>s.subject)
        if lossy and peer.waiting_bytes() > self.max_outgoing_bytes // 2:
            self.dropped += s.messages
            return True
        return False

    cdef bint absorb(self, Peer peer, Subject subject) except -1:
        """For a slow reader: instead of another record update, owe it the newest state."""
        if peer.conflated is None or subject not in peer.conflated:
            if peer.waiting_bytes() < min(<size_t>CONFLATE_FROM, self.max_outgoing_bytes // 2):
                return False
            if peer.conflated is None:
                peer.conflated = {}
            peer.conflated[subject] = None
        self.conflations += 1
        return True

    cdef int mark_dirty(self, Peer peer) except -1:
        cdef uint32_t cap
        cdef PyObject **fresh
        if self.n_dirty == self.cap_dirty:
            cap = self.cap_dirty * 2 if self.cap_dirty else 256
            fresh = <PyObject**>realloc(self.dirty, cap * sizeof(PyObject*))
            if fresh == NULL:
                raise MemoryError("dsfast: out of memory")
            self.dirty = fresh
            self.cap_dirty = cap
        Py_INCREF(peer)
        self.dirty[self.n_dirty] = <PyObject*>peer
        self.n_dirty += 1
        peer.dirty = True
        return 0

    cdef int schedule(self) except -1:
        if self.received[<size_t>TURN_BEGAN] == 0:
            self.received[<size_t>TURN_BEGAN] = now_us()
        if not self.scheduled:
            self.scheduled = True
            if self.buffer_timeout > 0:
                self.flush_handle = self.loop.call_later(self.buffer_timeout, self.flush_callback)
            else:
                self.loop.call_soon(self.flush_callback)
        elif self.flush_handle is not None and self.arena.n > self.max_buffer_bytes:
            # outgoingBufferTimeout widens the turn, maxBufferByteSize ends it early.
            self.flush()
        return 0

    def on_flush(self):
        """End of the turn (loop callback)."""
        self.scheduled = False
        self.flush_handle = None
        self.flush()

    def flush_now(self):
        """Write everything queued so far without waiting for the end of the turn."""
        self.flush()

    cdef int flush(self) except -1:
        """Write everything queued so far; a peer that cannot be written to ends, all others get their frames."""
        cdef uint32_t i = 0, k, count = 0, cap
        cdef PyObject **dirty
        cdef Buf arena
        cdef uint64_t began
        cdef Peer peer = None
        if self.flushing:
            return 0        # whoever is called by a write: what they queue comes with the next flush
        if self.n_segments:
            self.expand()
        if self.flush_handle is not None:
            self.flush_handle.cancel()
            self.flush_handle = None
            self.scheduled = False
        began, self.received[<size_t>TURN_BEGAN] = self.received[<size_t>TURN_BEGAN], 0
        # A transport is foreign code and may lead to anybody, who may queue more: that goes to a new arena.
        arena, dirty, count, cap = self.arena, self.dirty, self.n_dirty, self.cap_dirty
        self.arena = Buf(NULL, 0, 0)
        self.dirty = NULL
        self.n_dirty = self.cap_dirty = 0
        self.flushing = True
        try:
            while i < count:
                try:
                    while i < count:
                        peer = <Peer>dirty[i]
                        i += 1
                        peer.dirty = False
                        peer.flush(arena.p)
                except Exception as error:
                    peer.on_broken(error)
        finally:
            self.flushing = False
            for k in range(i, count):
                (<Peer>dirty[k]).dirty = False
                (<Peer>dirty[k]).n_ranges = 0
            for k in range(count):
                Py_DECREF(<object>dirty[k])
            if self.dirty == NULL:
                self.dirty = dirty
                self.cap_dirty = cap
            else:
                free(dirty)
            if self.arena.p == NULL and arena.cap <= ARENA_KEEP:
                self.arena = arena
                self.arena.n = 0
            else:
                free(arena.p)
        if count and began:
            observe(self.received + <size_t>TURN, now_us() - began)
        if self.scratch.cap > ARENA_KEEP:
            buf_free(&self.scratch)
        if self.slow:
            slow, self.slow = self.slow, []
            for item in slow:
                (<Peer>item).on_slow()
        return 0

    def message_counts(self):
        """Monotonic counters of messages: two dicts, (topic, action) → received and → sent."""
        cdef size_t i
        cdef dict received = {}, sent = {}
        for i in range(<size_t>COUNTERS):
            key = (i // COUNTED_ACTIONS, i % COUNTED_ACTIONS)
            if self.received[i]:
                received[key] = self.received[i]
            if self.sent[i]:
                sent[key] = self.sent[i]
        return received, sent

    def histogram(self, str name not None):
        """Counts of the values up to 1, 2, 4, 8, ... and beyond, and their sum.

        ``fan_out``: subscribers of each broadcast. ``turn_seconds``: µs from the first message that a turn of the
        loop queues to its last write.
        """
        cdef size_t i, start = {"fan_out": FAN_OUT, "turn_seconds": TURN}[name]
        return [self.received[start + i] for i in range(<size_t>BUCKETS)], self.received[start + <size_t>BUCKETS]

    def stats(self):
        """Monotonic counters of this hub."""
        return {
            "messages_in": self.messages_in, "broadcasts": self.broadcasts, "deliveries": self.deliveries,
            "writes": self.writes, "bytes_out": self.bytes_out, "slow_closed": self.slow_closed,
            "conflations": self.conflations, "dropped": self.dropped,
        }


cdef inline uint64_t pair_hash(const void *peer, const void *subject) noexcept nogil:
    cdef uint64_t h = (<uint64_t><uintptr_t>peer >> 4) * <uint64_t>0x9E3779B97F4A7C15
    h ^= (<uint64_t><uintptr_t>subject >> 4) * <uint64_t>0xC2B2AE3D27D4EB4F
    return h ^ (h >> 29)


cdef class Registry:
    """name → subscribers of one topic on this node (spec/events-rpc-presence-listen.md section 1).

    Subscribing, unsubscribing and dropping a dead connection are O(1) per subscription.
    """

    def __cinit__(self, Hub hub not None, int topic, bint conflatable=False):
        self.pairs = NULL
        self.pair_mask = 0
        self.hub = hub
        self.topic = topic
        self.conflatable = conflatable
        self.table = NameTable()
        self.listener = None

    def __dealloc__(self):
        cdef size_t i
        if self.pairs != NULL:
            for i in range(self.pair_mask + 1):
                if self.pairs[i] != NULL:
                    Py_DECREF(<object>self.pairs[i].peer)
                    free(self.pairs[i])
            free(self.pairs)

    cdef Subject find(self, const char *p, Py_ssize_t n):
        cdef PyObject *o = self.table.find(p, n)
        return <Subject>o if o != NULL else None

    cdef Subject ensure(self, const char *p, Py_ssize_t n):
        cdef PyObject *o = self.table.find(p, n)
        cdef Subject subject
        if o != NULL:
            return <Subject>o
        subject = Subject.__new__(Subject)
        subject.set_name(p, n)
        subject.registry = self
        self.table.add(subject)
        return subject

    cdef Sub *pair_find(self, Peer peer, Subject subject) noexcept:
        cdef size_t i
        cdef Sub *s
        if self.pairs == NULL:
            return NULL
        i = pair_hash(<void*>peer, <void*>subject) & self.pair_mask
        while True:
            s = self.pairs[i]
            if s == NULL or (s.peer == <PyObject*>peer and s.subject == <PyObject*>subject):
                return s
            i = (i + 1) & self.pair_mask

    cdef bint holds(self, Peer peer, Subject subject) noexcept:
        return self.pair_find(peer, subject) != NULL

    cdef Subject subscribe(self, Peer peer, const char *p, Py_ssize_t n, bint *fresh):
        """Add a subscription; ``fresh[0]`` tells whether it is new. Raises ValueError for a peer that is gone."""
        cdef Subject subject
        cdef Sub *s
        cdef Sub **grown
        cdef uint32_t cap
        fresh[0] = False
        if peer.gone or peer.hub is not self.hub:
            raise ValueError("the connection is closed or belongs to another server")
        subject = self.ensure(p, n)
        if self.pair_find(peer, subject) != NULL:
            return subject
        self.hub.expand()
        if self.pairs == NULL or <size_t>self.subscriptions * 4 >= (self.pair_mask + 1) * 3:
            self.pair_grow()
        if subject.count == subject.cap:
            cap = subject.cap * 2 if subject.cap else 2
            grown = <Sub**>realloc(subject.subs, cap * sizeof(Sub*))
            if grown == NULL:
                raise MemoryError("dsfast: out of memory")
            subject.subs = grown
            subject.cap = cap
        if peer.n_subs == peer.cap_subs:
            cap = peer.cap_subs * 2 if peer.cap_subs else 4
            grown = <Sub**>realloc(peer.subs, cap * sizeof(Sub*))
            if grown == NULL:
                raise MemoryError("dsfast: out of memory")
            peer.subs = grown
            peer.cap_subs = cap
        s = <Sub*>malloc(sizeof(Sub))
        if s == NULL:
            raise MemoryError("dsfast: out of memory")
        Py_INCREF(peer)
        s.peer = <PyObject*>peer
        s.subject = <PyObject*>subject
        s.at_subject = subject.count
        s.at_peer = peer.n_subs
        subject.subs[subject.count] = s
        subject.count += 1
        if peer.codec is not None or peer.personal:
            subject.foreign += 1
            subject.codecs |= <uint32_t>1 << (0 if peer.personal else peer.codec.number)
        peer.subs[peer.n_subs] = s
        peer.n_subs += 1
        self.pair_put(s)
        self.subscriptions += 1
        fresh[0] = True
        if subject.count == 1 and self.listener is not None:
            self.listener.on_first_subscription(subject.decoded())
        return subject

    cdef bint unsubscribe(self, Peer peer, const char *p, Py_ssize_t n) except -1:
        """Remove a subscription; False if there was none."""
        cdef Subject subject = self.find(p, n)
        cdef Sub *s
        if subject is None:
            return False
        s = self.pair_find(peer, subject)
        if s == NULL:
            return False
        self.hub.expand()
        self.drop(s)
        return True

    cdef int drop(self, Sub *s) except -1:
        """Remove one subscription; segments must be expanded before."""
        cdef Subject subject = <Subject>s.subject
        cdef Peer peer = <Peer>s.peer
        cdef Sub *last
        self.pair_remove(s)
        subject.count -= 1
        if peer.codec is not None or peer.personal:
            subject.foreign -= 1
        last = subject.subs[subject.count]
        subject.subs[s.at_subject] = last
        last.at_subject = s.at_subject
        peer.n_subs -= 1
        last = peer.subs[peer.n_subs]
        peer.subs[s.at_peer] = last
        last.at_peer = s.at_peer
        free(s)
        Py_DECREF(peer)     # ``peer`` holds another one until the end
        self.subscriptions -= 1
        if peer.conflated is not None:
            peer.conflated.pop(subject, None)
        if peer.n_subs == 0:
            free(peer.subs)
            peer.subs = NULL
            peer.cap_subs = 0
        if subject.count == 0:
            self.table.remove(subject)
            if self.listener is not None:
                self.listener.on_last_unsubscription(subject.decoded())
        return 0

    cdef int pair_grow(self) except -1:
        cdef Sub **old = self.pairs
        cdef size_t old_size = self.pair_mask + 1 if old != NULL else 0, i
        cdef size_t size = old_size * 2 if old_size else 32
        cdef Sub **fresh = <Sub**>calloc(size, sizeof(Sub*))
        if fresh == NULL:
            raise MemoryError("dsfast: out of memory")
        self.pairs = fresh
        self.pair_mask = size - 1
        for i in range(old_size):
            if old[i] != NULL:
                self.pair_put(old[i])
        free(old)
        return 0

    cdef void pair_put(self, Sub *s) noexcept:
        cdef size_t i = pair_hash(s.peer, s.subject) & self.pair_mask
        while self.pairs[i] != NULL:
            i = (i + 1) & self.pair_mask
        self.pairs[i] = s

    cdef void pair_remove(self, Sub *s) noexcept:
        cdef size_t i = pair_hash(s.peer, s.subject) & self.pair_mask, j, home
        while self.pairs[i] != s:
            i = (i + 1) & self.pair_mask
        j = i
        while True:
            j = (j + 1) & self.pair_mask
            if self.pairs[j] == NULL:
                break
            home = pair_hash(self.pairs[j].peer, self.pairs[j].subject) & self.pair_mask
            if (j - home) & self.pair_mask >= (j - i) & self.pair_mask:
                self.pairs[i] = self.pairs[j]
                i = j
        self.pairs[i] = NULL

    # --- for handlers and plugins in Python ------------------------------------------------------------------

    @property
    def subjects(self):
        """How many names have a subscriber on this node."""
        return self.table.count

    def names(self):
        """All names that have a subscriber on this node."""
        return [(<Subject>item).decoded() for item in self.table.items()]

    def has(self, str name not None):
        """Whether anybody on this node subscribes to the name."""
        return self.lookup(name) is not None

    def count(self, str name not None):
        """Number of subscribers of a name on this node."""
        cdef Subject subject = self.lookup(name)
        return subject.count if subject is not None else 0

    def subscribers(self, str name not None):
        """The connections that subscribe to a name."""
        cdef Subject subject = self.lookup(name)
        cdef uint32_t i
        if subject is None:
            return []
        return [<object>subject.subs[i].peer for i in range(subject.count)]

    def is_subscribed(self, str name not None, Peer peer not None):
        """Whether a connection subscribes to a name."""
        cdef Subject subject = self.lookup(name)
        return subject is not None and self.holds(peer, subject)

    cdef Subject lookup(self, str name):
        cdef Py_ssize_t n = 0
        cdef const char *p = PyUnicode_AsUTF8AndSize(name, &n)
        return self.find(p, n)

    def add(self, str name not None, Peer peer not None):
        """Subscribe a connection; False if it was subscribed before, or is closed."""
        cdef Py_ssize_t n = 0
        cdef const char *p = PyUnicode_AsUTF8AndSize(name, &n)
        cdef bint fresh = False
        if peer.gone:
            return False
        self.subscribe(peer, p, n, &fresh)
        return fresh

    def remove(self, str name not None, Peer peer not None):
        """Unsubscribe a connection; False if it was not subscribed."""
        cdef Py_ssize_t n = 0
        cdef const char *p = PyUnicode_AsUTF8AndSize(name, &n)
        return self.unsubscribe(peer, p, n)

    def remove_all(self, str name not None):
        """End all subscriptions of a name without telling anybody, but those of lasting peers."""
        cdef Subject subject = self.lookup(name)
        cdef uint32_t i
        if subject is not None:
            self.hub.expand()
            i = subject.count
            while i:
                i -= 1      # the last one takes the place of one that is dropped
                if not (<Peer>subject.subs[i].peer).lasting:
                    self.drop(subject.subs[i])

    def broadcast(self, str name not None, Message message not None, Peer sender=None):
        """Send a message to all subscribers of a name except ``sender``."""
        cdef Subject subject = self.lookup(name)
        cdef Msg m
        if subject is not None:
            message.fill(&m)
            self.hub.broadcast_msg(subject, sender, &m)

    def set_provided(self, str name not None, bint provided):
        """Note whether an active provider publishes this name; later subscribers are told (section 5.4)."""
        cdef Subject subject = self.lookup(name)
        if subject is not None:
            subject.provided = provided

    def set_listener(self, listener):
        """An object whose on_first_subscription(name) and on_last_unsubscription(name) are called, or None."""
        self.listener = listener
