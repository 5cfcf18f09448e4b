"""One client connection of the ws-binary endpoint, and what all connections of an endpoint share.

The connection is an asyncio BufferedProtocol. It starts as HTTP (httptools) and becomes a websocket by upgrade.
All connections of an endpoint read into one shared buffer; only the bytes of an unfinished frame are kept per
connection, so that an idle one costs little memory. Its sending half is the Peer of fanout.pyx.

State machine: spec/connection-and-auth.md section 2 and spec/protocol-binary.md sections 8 to 10.
"""
import asyncio
import fcntl
import logging
import sys
import termios
import uuid
from collections import deque

import httptools
from msgspec import UNSET

from dsfast._core.protocol import encode
from dsfast._core.http import HEAD_SIZE_LIMIT, REASONS, HttpReader, accept_value, certificate_data

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from dsfast._core.buffer cimport Buf, buf_add, buf_free, buf_room, likely, unlikely
from dsfast._core.deflate cimport inflate
from dsfast._core.fanout cimport Codec, Hub, Peer, socket_send
from dsfast._core.json_text cimport JSON_ARRAY, JSON_KIND_MASK, JSON_OBJECT, dumps, json_check, loads, utf8_check
from dsfast._core.protocol cimport *
from dsfast._core.timers cimport Timer, TimingWheel, now_ms

cdef extern from "Python.h":
    enum:
        PyBUF_READ
        PyBUF_WRITE

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* XOR with the masking key, 8 bytes at a time; the compiler makes vector code of it. */
    static void dsf_unmask(char *p, size_t n, uint32_t key) {
        uint64_t wide = (uint64_t)key << 32 | key, v;
        size_t i = 0;
        for (; i + 8 <= n; i += 8) { memcpy(&v, p + i, 8); v ^= wide; memcpy(p + i, &v, 8); }
        for (; i < n; i++) p[i] ^= (char)(wide >> (8 * (i & 7)));
    }
    """
    void unmask "dsf_unmask"(char *p, size_t n, uint32_t key) noexcept nogil

cdef enum:
    READ_BUFFER = 256 * 1024
    HEAD_TIMEOUT_MS = 10_000        # to send a request head, or the next one on a kept connection
    BODY_TIMEOUT_MS = 30_000        # to send the body of a request
    INFLATED_BEFORE_LOGIN = 1 << 16 # bytes that a compressed message of somebody unknown may become
    HTTP_PIPELINED = 64             # requests waiting behind one that is being worked on, before reading stops
    HTTP_BACKLOG = 1 << 20          # bytes of answers waiting, before a connection is cut off that asks for more
    CLOSE_TIMEOUT_MS = 2_000        # for the peer to answer our close frame
    LOGIN_ENDED = 3000              # "Unauthorized" in the registry of websocket close codes
    SHOWN_DATA = 1000               # bytes of unreadable login data that may be logged
    WAITING_MESSAGES = 1000         # behind a hold, before reading stops
    WAITING_BYTES = 1 << 20

cdef bint outlives_sender(const Msg *m) noexcept:
    """Whether a message that was waiting takes effect although its sender has gone meanwhile.

    What a client writes and then leaves is written, however long the first of its writes had to wait.
    """
    cdef int action = <int>m.i[I_ACTION] if has_int(m, I_ACTION) else 0
    if m.topic == T_EVENT:
        return action == EVENT_EMIT
    return m.topic == T_RECORD and (
        REC_CREATEANDUPDATE <= action <= REC_ERASE or action == REC_PATCH_MULTI or action == REC_DELETE
        or action == REC_NOTIFY)


cdef class Dispatcher:
    """Takes the messages of logged-in connections (router.pyx)."""

    cdef int dispatch(self, Connection c, Msg *m, const char *raw, size_t n) except -1:
        return 0


cdef class ConnectionTimer(Timer):
    """Heartbeat, login and closing limits of one connection."""

    cdef int fire(self) except -1:
        if self.connection is not None:
            self.connection.on_timer()
        return 0


cdef class Protocol(Codec):
    """What distinguishes another protocol from the binary one: how bytes become messages, and the beginning.

    ``decode`` calls ``c.on_message`` with each message in its binary form, so that everything behind it, from the order
    of effects to permissions, is the same for all protocols.
    """

    def __init__(self, int number, str socket_type not None, int opcode=1, str subprotocol=None, bint beats=False):
        super().__init__(number)
        self.socket_type = socket_type
        self.opcode = opcode
        self.subprotocol = subprotocol
        self.beats = beats
        self.knows_gaps = True

    cdef int opened(self, Connection c) except -1:
        """The connection is there; it waits for a challenge."""
        return 0

    cdef int decode(self, Connection c, const char *p, size_t n) except -1:
        """Handle what one websocket message carries."""
        return 0

    cdef size_t read(self, Connection c, const char *p, size_t n) except? 999999999:
        """Without websockets: handle all whole messages in p[0:n] and return how many bytes they were."""
        return n

    cdef int beat(self, Connection c) except -1:
        """A heartbeat interval has passed."""
        return 0

    cdef int closing(self, Connection c, int code) except -1:
        """Without websockets: say good-bye; ``code`` is the websocket code for the reason."""
        return 0


cdef class Endpoint:
    """Options, counters and services shared by the connections of one endpoint.

    ``owner`` is the Python endpoint: ``on_http(connection, request) -> (status, headers, body)``, or None if
    ``connection.respond`` or ``become`` follows, ``authenticate(connection, auth_data)``, ``on_open(connection)``, ``on_closed(connection)``,
    ``origin_allowed(headers)``, ``remote_address(headers, peer)`` and ``log(level, event, text)``.
    """

    def __cinit__(self, Hub hub not None, TimingWheel wheel not None, Dispatcher router not None, owner, *,
                  open_user_id=None):
        self.read_buffer = <char*>malloc(READ_BUFFER)
        if self.read_buffer == NULL:
            raise MemoryError("dsfast: out of memory")
        self.hub = hub
        self.wheel = wheel
        self.router = router
        self.owner = owner
        self.open_user_id = open_user_id
        self.connections = set()
        self.read_view = PyMemoryView_FromMemory(self.read_buffer, READ_BUFFER, PyBUF_WRITE)
        self.url_path = b"/deepstream"
        self.framed = True
        self.max_message_size = 1 << 20
        self.max_body_size = 1 << 20
        self.head_timeout = HEAD_TIMEOUT_MS
        self.body_timeout = BODY_TIMEOUT_MS
        self.heartbeat_interval = 30_000
        self.unauthenticated_timeout = 180_000
        self.max_auth_attempts = 3
        self.max_bad_messages = 20

    def __dealloc__(self):
        free(self.read_buffer)

    def make(self):
        """Protocol factory for create_server."""
        return Connection(self)

    def join(self, Endpoint port not None):
        """Take the connections that ask for ``url_path`` on the port of another endpoint, which goes on keeping them."""
        if port.paths is None:
            port.paths = {}
        if self.url_path in port.paths:
            raise ValueError(f"there is an endpoint with the path {self.url_path.decode()} already")
        port.paths[self.url_path] = self
        self.share(port)

    def share(self, Endpoint port not None):
        """Serve connections that begin on another endpoint, which goes on keeping them."""
        self.connections = port.connections

    def close_connections(self, int code, int limit):
        """Begin to close up to ``limit`` connections; returns how many are still there."""
        cdef Connection c
        for item in list(self.connections):
            c = <Connection>item
            if c.state < ST_CLOSING:
                if limit == 0:
                    break
                limit -= 1
                c.close(code)
        return len(self.connections)

    def open_connections(self):
        """Connections that are not closing yet, in a new list."""
        return [c for c in self.connections if (<Connection>c).state < ST_CLOSING]

    def abort_connections(self):
        """Cut whatever is left without waiting for anybody."""
        for c in list(self.connections):
            (<Connection>c).abort()

    def stats(self):
        """Monotonic counters, and the number of connections now."""
        return {"accepted": self.accepted, "logins": self.logins, "bad_messages": self.bad_messages,
                "connections": len(self.connections)}


cdef class ConnectionBase(Peer):
    """Only there because an extension type must be the first base of another one."""


cdef class Connection(ConnectionBase, asyncio.BufferedProtocol):
    """A client connection; the "socket" of spec/plugins.md A.3."""

    def __cinit__(self, Endpoint endpoint not None, *_, **__):
        self.endpoint = endpoint
        self.hub = endpoint.hub
        self.state = ST_HTTP
        self.muted = True
        self.framed = endpoint.framed
        self.client_data = UNSET

    def __dealloc__(self):
        buf_free(&self.rest)
        buf_free(&self.fragments)

    # --- asyncio protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport):
        self.transport = transport
        if self.endpoint.admission is not None:
            if not self.endpoint.admission.enter(self):
                self.state = ST_CLOSED
                transport.abort()
                return
            self.admission = self.endpoint.admission
        if transport.get_extra_info("sslcontext") is None:
            self.fd = transport.get_extra_info("socket").fileno()
            transport.set_write_buffer_limits(0)
        else:
            # Here "high" is where waiting begins, not what may be there without it; 0 would be reached always.
            transport.set_write_buffer_limits(1, 0)
        self.muted = False
        self.last_seen = now_ms()
        self.endpoint.accepted += 1
        self.endpoint.connections.add(self)
        self.timer = ConnectionTimer()
        self.timer.connection = self
        if self.framed:
            self.endpoint.wheel.schedule(self.timer, self.endpoint.head_timeout)
        else:
            self.begin()

    cdef int begin(self) except -1:
        """The client may speak its protocol now."""
        self.protocol = self.endpoint.protocol
        self.codec = self.protocol if self.deflated is None else self.deflated
        self.handed = 0
        self.state = ST_CHALLENGE
        if self.endpoint.unauthenticated_timeout:
            self.login_deadline = now_ms() + self.endpoint.unauthenticated_timeout
        self.endpoint.owner.log_connection(self)
        if self.protocol is not None:
            self.protocol.opened(self)
        return self.arm()

    def get_buffer(self, sizehint):
        cdef size_t room
        if likely(self.rest.n == 0):
            return self.endpoint.read_view
        # The rest of a frame goes behind its beginning: no copy from the shared buffer.
        room = self.need - self.rest.n if self.need > self.rest.n else 0
        if room < 4096:
            room = 4096
        buf_room(&self.rest, room)
        return PyMemoryView_FromMemory(self.rest.p + self.rest.n, <Py_ssize_t>(self.rest.cap - self.rest.n), PyBUF_WRITE)

    def buffer_updated(self, Py_ssize_t nbytes):
        if self.timer is None:
            return      # not connected (any more)
        self.last_seen = now_ms()
        try:
            if self.rest.n:
                self.rest.n += <size_t>nbytes
                self.receive(self.rest.p, self.rest.n)
            else:
                self.receive(self.endpoint.read_buffer, <size_t>nbytes)
        except Exception as error:
            self.log_fault("exception while reading from a connection", error)
            self.close(1011)

    def eof_received(self):
        return False

    def pause_writing(self):
        self.blocked = True

    def resume_writing(self):
        if self.hub.flushing:
            # A transport that tells us in the middle of a write.
            self.endpoint.hub.loop.call_soon(self.resume_writing)
            return
        # What was accepted for this peer in this turn has its place behind the backlog.
        self.hub.flush()
        try:
            self.drain()
        except Exception as error:
            self.log_fault("exception while writing to a slow connection", error)
            self.abort()

    def connection_lost(self, exc):
        self.state = ST_CLOSED
        self.muted = True
        self.fd = -1
        self.finish()
        self.transport = None
        self.endpoint.connections.discard(self)
        if self.admission is not None:
            self.admission.leave(self)
        if not self.endpoint.connections:
            self.endpoint.owner.on_empty()
        if self.timer is not None:
            self.timer.unlink()
            self.timer.connection = None
            self.timer = None
        buf_free(&self.rest)
        buf_free(&self.fragments)
        buf_free(&self.backlog)
        self.conflated = None
        if self.http is not None:
            self.http.close()
            self.http = None

    # --- receiving -------------------------------------------------------------------------------------------

    cdef int receive(self, char *p, size_t n) except -1:
        cdef size_t used
        cdef bint from_rest = p == self.rest.p
        if self.state == ST_HTTP:
            # Request heads are small: no rest is kept, httptools holds the state.
            self.rest.n = 0
            return self.feed_http(p, n)
        used = self.consume(p, n)
        if used == n:
            if from_rest:
                buf_free(&self.rest)
            return 0
        if from_rest:
            memmove(self.rest.p, p + used, n - used)
            self.rest.n = n - used
        else:
            self.rest.n = 0
            buf_add(&self.rest, p + used, n - used)
        return 0

    cdef size_t consume(self, char *p, size_t n) except? 999999999:
        """Handle all whole frames in p[0:n]; returns how many bytes they were."""
        cdef size_t pos = 0, size, head
        cdef uint8_t b0, b1
        cdef const uint8_t *u
        cdef int opcode, i
        cdef uint32_t key
        self.need = 0
        if unlikely(not self.framed):
            if self.state >= ST_CLOSING:
                return n
            return self.protocol.read(self, p, n)
        while n - pos >= 2:
            if unlikely(self.state >= ST_CLOSING):
                return pos + self.discard(p + pos, n - pos)
            u = <const uint8_t*>p + pos
            b0 = u[0]
            b1 = u[1]
            opcode = b0 & 15
            size = b1 & 127
            head = 6
            if size == 126:
                if n - pos < 4:
                    break
                size = <size_t>u[2] << 8 | u[3]
                head = 8
                if size < 126:
                    return self.fail_framing(n)
            elif size == 127:
                if n - pos < 10:
                    break
                size = 0
                for i in range(8):
                    size = size << 8 | u[2 + i]
                head = 14
                if size < 65536 or size >> 63:
                    return self.fail_framing(n)
            if unlikely(b0 & 0x70 or not b1 & 0x80 or opcode > 10 or 2 < opcode < 8
                        or (opcode >= 8 and (size > 125 or not b0 & 0x80))):
                # One of the reserved bits has a meaning: the first frame of a message that is compressed.
                if self.deflated is None or b0 & 0x70 != 0x40 or not 1 <= opcode <= 2 or not b1 & 0x80:
                    return self.fail_framing(n)
            if opcode < 8 and size + self.fragments.n > self.endpoint.max_message_size:
                self.endpoint.owner.log_too_large(self)
                self.close(1009)
                return pos + self.discard(p + pos, n - pos)
            if n - pos < head + size:
                self.need = head + size
                break
            memcpy(&key, p + pos + head - 4, 4)
            if key:
                unmask(p + pos + head, size, key)
            if unlikely(b0 & 0x40):
                self.on_compressed(opcode, (b0 & 0x80) != 0, p + pos + head, size)
            else:
                self.on_frame(opcode, (b0 & 0x80) != 0, p + pos + head, size)
            pos += head + size
        return pos

    cdef size_t fail_framing(self, size_t n) except? 999999999:
        """Bytes that are no frame: where the next one would begin is not known any more."""
        self.skip = <size_t>-1
        self.close(1002)
        return n

    cdef size_t discard(self, const char *p, size_t n) except? 999999999:
        """While closing, only the peer's own close frame matters; returns how many bytes were passed over."""
        cdef size_t pos = 0, size
        cdef int i, head
        cdef const uint8_t *u
        while True:
            if self.skip >= n - pos:
                if self.skip != <size_t>-1:
                    self.skip -= n - pos
                return n
            pos += self.skip
            self.skip = 0
            u = <const uint8_t*>p + pos
            if n - pos < 2:
                return pos
            size = u[1] & 127
            head = 2
            if size >= 126:
                head = 4 if size == 126 else 10
                if n - pos < <size_t>head:
                    return pos
                size = 0
                for i in range(2, head):
                    size = size << 8 | u[i]
            if u[0] & 15 == 8 and self.transport is not None:
                self.transport.close()
                self.skip = <size_t>-1
                return n
            self.skip = head + (4 if u[1] & 128 else 0) + size

    cdef int on_frame(self, int opcode, bint fin, char *p, size_t n) except -1:
        cdef int code
        if likely(opcode == 2 and fin and not self.in_fragments and self.protocol is None):
            return self.on_payload(p, n)
        if opcode <= 2:
            if (opcode != 0) == self.in_fragments:
                return self.close(1002)
            if opcode != 0 and opcode != (2 if self.protocol is None else self.protocol.opcode):
                self.endpoint.owner.log_wrong_frame(self)
                return self.close(1003)
            if opcode != 0 and fin:
                return self.on_data(p, n)
            buf_add(&self.fragments, p, n)
            if (not fin and not self.inflating and self.protocol is not None and self.protocol.opcode == 1
                    and not text_goes_on(self.fragments.p, self.fragments.n, n)):
                return self.close(1007)
            self.in_fragments = not fin
            if fin:
                try:
                    self.on_data(self.fragments.p, self.fragments.n)
                finally:
                    buf_free(&self.fragments)
            return 0
        if opcode == 9:
            return self.send_control(10, p, n)
        if opcode == 8:
            code = 0
            if n == 1:
                return self.close(1002)
            if n >= 2:
                code = <uint8_t>p[0] << 8 | <uint8_t>p[1]
                if not (1000 <= code <= 1014 and not 1004 <= code <= 1006) and not 3000 <= code <= 4999:
                    return self.close(1002)
                if not utf8_check(p + 2, <Py_ssize_t>n - 2):
                    return self.close(1007)
            self.peer_closed = True
            return self.close(code)
        return 0

    cdef int send_control(self, uint8_t opcode, const char *p, size_t n) except -1:
        """Queue a control frame of at most 125 bytes."""
        cdef char frame[135]
        cdef size_t h = frame_header(frame, n, opcode)
        if n:
            memcpy(frame + h, p, n)
        return self.hub.send_frame(self, frame, h + n)

    cdef int on_compressed(self, int opcode, bint fin, char *p, size_t n) except -1:
        """The first frame of a compressed message."""
        if not self.in_fragments and opcode == (2 if self.protocol is None else self.protocol.opcode):
            self.inflating = True
            if fin:
                return self.on_data(p, n)
        return self.on_frame(opcode, fin, p, n)

    cdef int on_deflated(self, const char *p, size_t n) except -1:
        """One whole compressed websocket message."""
        cdef size_t limit = self.endpoint.max_message_size
        cdef bytes data
        self.inflating = False
        if self.state < ST_OPEN:
            limit = min(limit, <size_t>INFLATED_BEFORE_LOGIN)
        try:
            data = inflate(p, n, limit)
        except ValueError:
            return self.close(1007)
        if data is None:
            self.endpoint.owner.log_too_large(self)
            return self.close(1009)
        return self.on_data(PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))

    cdef int on_data(self, const char *p, size_t n) except -1:
        """One whole websocket message."""
        if unlikely(self.inflating):
            return self.on_deflated(p, n)
        if self.protocol is None:
            return self.on_payload(p, n)
        if self.protocol.opcode == 1 and not utf8_check(p, <Py_ssize_t>n):
            return self.close(1007)
        return self.protocol.decode(self, p, n)

    cdef int on_payload(self, const char *p, size_t n) except -1:
        """One websocket message: usually one protocol message, but all that are in it are taken, in order."""
        cdef const char *e = p + n
        cdef const char *next
        cdef Msg m
        while True:
            next = decode_msg(p, e, &m)
            if unlikely(next == NULL):
                return self.on_malformed()
            self.on_message(&m, p, next - p)
            if next == e or self.state >= ST_CLOSING:
                return 0
            p = next

    cdef int on_malformed(self) except -1:
        if self.state == ST_CHALLENGE:
            self.reply(T_CONNECTION, CONNECTION_INVALID_MESSAGE)
        elif self.state < ST_OPEN:
            self.reply(T_AUTH, AU_INVALID_MESSAGE)
        else:
            return self.unknown_topic()
        return self.on_bad()

    cdef int on_message(self, Msg *m, const char *raw, size_t n) except -1:
        self.hub.messages_in += 1
        if likely(self.state == ST_OPEN):
            try:
                return self.on_open_message(m, raw, n)
            except Exception as error:
                # Whatever goes wrong while handling a message ends there: the loop and everybody else go on.
                self.log_fault("exception while handling a message", error)
                return 0
        if self.state == ST_CHALLENGE:
            self.on_challenge(m)
        else:
            self.on_auth(m)
        return self.unbuffered()

    cdef int unbuffered(self) except -1:
        """Answers of the handshake do not wait for outgoingBufferTimeout."""
        if self.hub.buffer_timeout > 0:
            return self.hub.flush()
        return 0

    cdef int reply(self, int topic, int action) except -1:
        """Answer with a message that has no other field."""
        cdef Msg m
        start(&m, topic, action)
        return self.hub.send_msg(self, &m)

    cdef int reply_invalid(self, int topic, int action, const Msg *m) except -1:
        """Refuse a message of the handshake. The binary protocol does not say which."""
        cdef Msg a
        start(&a, topic, action)
        if self.protocol is not None:
            set_int(&a, I_ORIGINAL_ACTION, m.i[I_ACTION] if has_int(m, I_ACTION) else 0)
            if m.topic != topic:
                set_int(&a, I_ORIGINAL_TOPIC, m.topic)
        return self.hub.send_msg(self, &a)

    cdef int reply_msg(self, const Msg *m, list names=None, dict versions=None) except -1:
        return self.hub.send_msg(self, m, names, versions)

    cdef int on_challenge(self, Msg *m) except -1:
        cdef int action = <int>m.i[I_ACTION] if has_int(m, I_ACTION) else 0
        if m.topic != T_CONNECTION:
            self.endpoint.owner.log_limited(self, "INVALID_MESSAGE", "invalid connection message")
            self.reply_invalid(T_CONNECTION, CONNECTION_INVALID_MESSAGE, m)
            return self.on_bad()
        if action == CONNECTION_CHALLENGE:
            if has_text(m, S_SDK_TYPE):
                self.sdk_type = m.s[S_SDK_TYPE].p[:m.s[S_SDK_TYPE].n].decode()
            if has_text(m, S_SDK_VERSION):
                self.sdk_version = m.s[S_SDK_VERSION].p[:m.s[S_SDK_VERSION].n].decode()
                self.knows_patch_multi = understands_patch_multi(self.sdk_version)
            self.state = ST_AUTH
            return self.reply(T_CONNECTION, CONNECTION_ACCEPT)
        if action != CONNECTION_PING and action != CONNECTION_PONG:
            self.endpoint.owner.log_limited(self, "UNKNOWN_ACTION", f"CONNECTION action {action} before CHALLENGE")
            return self.on_bad()
        return 0

    cdef int on_auth(self, Msg *m) except -1:
        cdef int action = <int>m.i[I_ACTION] if has_int(m, I_ACTION) else 0
        if m.topic == T_CONNECTION and (action == CONNECTION_PING or action == CONNECTION_PONG):
            return 0
        if m.topic != T_AUTH or self.state == ST_AUTH_RUNNING:
            # One check at a time: a second request could otherwise register the user twice.
            self.endpoint.owner.log_limited(self, "INVALID_MESSAGE", "invalid auth message")
            self.reply_invalid(T_AUTH, AU_INVALID_MESSAGE, m)
            return self.on_bad()
        if action != AU_REQUEST or not has_login_data(m):
            return refuse_login_data(self, m)
        data = None if m.s[S_DATA].n == 2 else loads(PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n))
        if self.endpoint.open_user_id is not None:
            self.login_deadline = 0
            return self.login("open" if data is None else self.endpoint.open_user_id(data), None, UNSET)
        self.state = ST_AUTH_RUNNING
        self.endpoint.owner.authenticate(self, {} if data is None else data)
        return 0

    cdef int login(self, user_id, server_data, client_data) except -1:
        self.state = ST_OPEN
        self.was_open = True
        self.user_id = user_id if user_id else "OPEN"
        self.server_data = server_data
        self.client_data = client_data
        self.endpoint.logins += 1
        send_auth(self, AU_SUCCESSFUL, client_data)
        self.endpoint.owner.on_open(self)
        return self.arm()

    def finish_login(self, bint accepted, user_id, server_data, client_data, ends_in=None):
        """The authentication service has decided (spec/connection-and-auth.md section 3).

        ``ends_in`` (ms) ends the connection unless it is renewed before. On an open connection this is the answer to
        a renewal, which keeps the user id and takes everything else.
        """
        cdef bint renewal = self.state == ST_OPEN
        if not renewal and self.state != ST_AUTH_RUNNING:
            return      # closed meanwhile: nobody is logged in, so that no ghost stays in presence
        if accepted:
            self.login_deadline = 0 if ends_in is None else now_ms() + <uint64_t>max(1, ends_in)
            if renewal:
                self.attempts = 0
                self.server_data = server_data
                self.client_data = client_data
                send_auth(self, AU_SUCCESSFUL, client_data)
                self.arm()
            else:
                self.login(user_id, server_data, client_data)
            self.unbuffered()
            return
        if not renewal:
            self.state = ST_AUTH
        send_auth(self, AU_UNSUCCESSFUL, client_data)
        self.unbuffered()
        self.attempts += 1
        if self.attempts >= self.endpoint.max_auth_attempts:
            self.endpoint.owner.log_too_many_attempts(self)
            self.reply(T_AUTH, AU_TOO_MANY_AUTH_ATTEMPTS)
            self.close(0)

    cdef int on_open_message(self, Msg *m, const char *raw, size_t n) except -1:
        cdef int action
        if likely(T_EVENT <= m.topic <= T_PRESENCE):
            if self.holds or self.waiting:
                return self.wait_behind(raw, n)
            return self.endpoint.router.dispatch(self, m, raw, n)
        if m.topic == T_CONNECTION:
            action = <int>m.i[I_ACTION] if has_int(m, I_ACTION) else 0
            if action == CONNECTION_PING:
                return self.reply(T_CONNECTION, CONNECTION_PONG)
            if action == CONNECTION_PONG or action == CONNECTION_CLOSING:
                return 0
        if m.topic == T_AUTH and self.login_deadline and has_int(m, I_ACTION) and m.i[I_ACTION] == AU_REQUEST:
            return renew_login(self, m)
        return self.unknown_topic()

    cdef int unknown_topic(self) except -1:
        self.endpoint.owner.log_limited(self, "UNKNOWN_TOPIC", "message that cannot be decoded or of a topic without handler")
        self.reply(T_PARSER, PARSER_UNKNOWN_TOPIC)
        return self.on_bad()

    cdef int unknown_action(self, Msg *m) except -1:
        """Answer an action that its topic does not have, or that no client may send."""
        cdef Msg answer
        cdef int action = <int>m.i[I_ACTION] if has_int(m, I_ACTION) else 0
        self.endpoint.owner.log_limited(self, "UNKNOWN_ACTION", f"action {action} of topic {m.topic}")
        start(&answer, T_PARSER, PARSER_UNKNOWN_ACTION)
        set_int(&answer, I_ORIGINAL_TOPIC, m.topic)
        set_int(&answer, I_ORIGINAL_ACTION, action)
        self.hub.send_msg(self, &answer)
        return self.on_bad()

    cdef int on_bad(self) except -1:
        """Count a message that makes no sense; too many of them end the connection."""
        self.endpoint.bad_messages += 1
        self.bad += 1
        if self.bad > self.endpoint.max_bad_messages:
            return self.close(1002)
        return 0

    # --- order behind decisions that take time ----------------------------------------------------------------

    cdef int wait_behind(self, const char *raw, size_t n) except -1:
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append(PyBytes_FromStringAndSize(raw, <Py_ssize_t>n))
        self.waiting_size += n
        if not self.reading_paused and (len(self.waiting) > WAITING_MESSAGES or self.waiting_size > WAITING_BYTES):
            self.reading_paused = True
            self.transport.pause_reading()
        return 0

    @property
    def held(self):
        """How many times ``hold`` was called and not undone by ``release``."""
        return self.holds

    cpdef hold(self):
        """Let later messages of this connection wait until ``release`` was called as often as ``hold``."""
        self.holds += 1

    cpdef release(self):
        """End one ``hold``; messages that waited are handled now, in the order they came."""
        cdef bytes raw
        cdef Msg m
        if self.holds == 0:
            raise RuntimeError("release without hold")
        self.holds -= 1
        if self.lane is not None:
            self.lane.resume()      # those came earlier
        while self.holds == 0 and self.waiting:
            raw = self.waiting.popleft()
            self.waiting_size -= <size_t>len(raw)
            decode_msg(PyBytes_AS_STRING(raw), PyBytes_AS_STRING(raw) + len(raw), &m)
            if self.state != ST_OPEN and not outlives_sender(&m):
                continue
            try:
                self.endpoint.router.dispatch(self, &m, PyBytes_AS_STRING(raw), <size_t>len(raw))
            except Exception as error:
                self.log_fault("exception while handling a message", error)
        if self.reading_paused and not self.waiting and self.state == ST_OPEN:
            self.reading_paused = False
            self.transport.resume_reading()

    # --- closing ---------------------------------------------------------------------------------------------

    cdef int deliver(self, const Msg *m, list names, dict versions) except -1:
        # One whose broadcasts are encoded for it alone (``personal``).
        return self.hub.send_msg(self, m, names, versions)

    cdef int close(self, int code) except -1:
        """Send what is queued and a close frame (0: without status), then wait shortly for the peer to go."""
        cdef char payload[2]
        if self.state >= ST_CLOSING:
            return 0
        if self.state == ST_HTTP:
            self.state = ST_CLOSING
        else:
            if self.framed:
                self.state = ST_CLOSING
                payload[0] = <char>(code >> 8)
                payload[1] = <char>(code & 255)
                self.send_control(8, payload, 2 if code else 0)
            else:
                self.protocol.closing(self, code)
                self.state = ST_CLOSING
            self.hub.flush()
        return self.end_writing()

    cdef int end_writing(self) except -1:
        self.muted = True
        self.finish()
        if self.transport is None:
            return 0
        if self.backlog.n > self.backlog_pos:
            self.transport.write(PyBytes_FromStringAndSize(
                self.backlog.p + self.backlog_pos, <Py_ssize_t>(self.backlog.n - self.backlog_pos)))
        buf_free(&self.backlog)
        self.backlog_pos = 0
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()
        # A socket closed with unread input resets the connection, and the peer might never see the close frame:
        # end our half only and read on until the peer has gone.
        # A peer that has sent its close frame sends no more.
        if not self.peer_closed and self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:
                self.transport.close()      # it has gone meanwhile
        else:
            self.transport.close()
        if self.timer is not None:
            self.endpoint.wheel.schedule(self.timer, CLOSE_TIMEOUT_MS)
        return 0

    cdef int finish(self) except -1:
        """The connection is over for everybody else; runs once, when closing begins or the socket is lost."""
        if self.finished:
            return 0
        self.finished = True
        if self.holds == 0:
            self.waiting = None     # the message that is being handled is what ended the connection
        callbacks, self.close_callbacks = self.close_callbacks, None
        for callback in callbacks or ():
            self.guarded(callback, "exception in a close callback")
        try:
            self.drop_subscriptions()
        except Exception as error:
            self.log_fault("exception while ending subscriptions", error)
        if self.was_open:
            self.guarded(self.endpoint.owner.on_closed, "exception while closing a connection")
        return 0

    cdef int guarded(self, callback, str text) except -1:
        """Tell somebody who must not keep the others from being told."""
        try:
            callback(self)
        except Exception as error:
            self.log_fault(text, error)
        return 0

    cdef int log_fault(self, str text, error) except -1:
        try:
            self.endpoint.owner.log_exception(text, error)
        except Exception:
            # The logger fails as well. What is being done when this is called has to go on.
            logging.getLogger("dsfast").exception(text)
        return 0

    cdef int on_slow(self) except -1:
        """Too much waits for this client: it is cut off, and nothing more is kept for it."""
        if self.state >= ST_CLOSING:
            return 0
        self.muted = True
        # Not now: somebody may be in the middle of a broadcast to the subscriptions this would end.
        self.endpoint.hub.loop.call_soon(self.close_slow)
        return 0

    def close_slow(self):
        """Close with 1013 (try again later) behind what the socket has taken in part."""
        cdef char frame[4]
        if self.state >= ST_CLOSING:
            return
        self.hub.slow_closed += 1
        self.endpoint.owner.log_slow(self, self.waiting_bytes())
        self.state = ST_CLOSING
        buf_free(&self.backlog)
        self.backlog_pos = 0
        self.conflated = None
        frame_header(frame, 2, 8)
        frame[2] = <char>(1013 >> 8)
        frame[3] = <char>(1013 & 255)
        if self.transport is not None and self.framed:
            self.transport.write(PyBytes_FromStringAndSize(frame, 4))
        self.end_writing()

    cdef int on_broken(self, error=None) except -1:
        self.muted = True
        self.endpoint.hub.loop.call_soon(self.abort)
        if error is not None:
            self.log_fault("exception while writing to a connection", error)
        return 0

    def abort(self):
        """Cut the connection without a word."""
        if self.state < ST_CLOSING:
            self.state = ST_CLOSING
        self.muted = True
        self.finish()
        if self.transport is not None:
            self.transport.abort()

    # --- time ------------------------------------------------------------------------------------------------

    cdef int arm(self) except -1:
        """Set the timer to whichever comes first: the end of the login (or the time for one), or the heartbeat limit."""
        cdef uint64_t now = now_ms(), due = self.last_seen + 2 * self.endpoint.heartbeat_interval + 1
        if self.login_deadline and self.login_deadline < due:
            due = self.login_deadline
        if self.protocol is not None and self.protocol.beats and now + self.endpoint.heartbeat_interval < due:
            due = now + self.endpoint.heartbeat_interval
        if self.timer is not None:
            self.endpoint.wheel.schedule(self.timer, due - now if due > now else 0)
        return 0

    cdef int on_timer(self) except -1:
        cdef uint64_t now = now_ms()
        if self.state >= ST_CLOSING:
            self.abort()
            return 0
        if self.state == ST_HTTP:
            return self.on_late()
        if self.login_deadline and now >= self.login_deadline:
            if self.state == ST_OPEN:
                self.endpoint.owner.log_login_ended(self)
                return self.close(LOGIN_ENDED)
            self.endpoint.owner.log_auth_timeout(self)
            self.reply(T_CONNECTION, CONNECTION_AUTHENTICATION_TIMEOUT)
            return self.close(0)
        if self.reading_paused:
            self.last_seen = now        # it is us who do not listen
        if now - self.last_seen > 2 * self.endpoint.heartbeat_interval:
            self.endpoint.owner.log_heartbeat(self)
            return self.close(0)
        if self.protocol is not None and self.protocol.beats:
            self.protocol.beat(self)
        return self.arm()

    # --- HTTP ------------------------------------------------------------------------------------------------

    cdef int feed_http(self, char *p, size_t n) except -1:
        cdef bytes data = PyBytes_FromStringAndSize(p, <Py_ssize_t>n)
        cdef Py_ssize_t offset = -1
        cdef bint was_in_head
        if self.http is None:
            self.http = HttpReader(self.endpoint.max_body_size)
        reader = self.http
        was_in_head = reader.in_head
        if was_in_head:
            reader.fed += n
        try:
            reader.feed(data)
        except httptools.HttpParserUpgrade as upgrade:
            offset = upgrade.args[0]
        except httptools.HttpParserError as error:
            return self.http_error(400, f"Malformed request: {error}")
        if reader.too_large:
            return self.http_error(413, "Failed to parse body of request: request entity too large")
        if reader.in_head and reader.fed > HEAD_SIZE_LIMIT:
            return self.http_error(431, "Request head too large.")
        if offset >= 0 and offset < len(data):
            # The client did not wait for the answer to its upgrade; the rest are frames.
            buf_add(&self.fragments, p + offset, n - <size_t>offset)
        if not reader.busy:
            if was_in_head and not reader.in_head:
                self.endpoint.wheel.schedule(self.timer, self.endpoint.body_timeout)
                if reader.now.headers.get("expect", "").lower() == "100-continue":
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return self.next_request()
        if len(reader.done) > HTTP_PIPELINED and not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()
        return 0

    cdef int on_late(self) except -1:
        """The time for a request is over; one that still reads the last answer has more of it."""
        cdef size_t waiting = self.transport.get_write_buffer_size()
        if waiting:
            waiting += unsent(self.transport)
            if waiting == self.handed:
                self.abort()
                return 0
            self.handed = waiting
            self.endpoint.wheel.schedule(self.timer, self.endpoint.head_timeout)
            return 0
        if self.http is not None and self.http.is_reading():
            return self.http_error(408, "Request timeout.")
        return self.close(0)

    cdef int next_request(self) except -1:
        """Handle the requests that are complete, one after the other."""
        cdef Buf early
        reader = self.http
        while reader is not None and reader.done and not reader.busy and self.state == ST_HTTP:
            request = reader.done.popleft()
            if request.head_too_large:
                return self.http_error(431, "Request head too large.")
            if request.upgrade and request.headers.get("upgrade", "").lower() != "websocket":
                # Other protocols are not spoken here, so the offer is ignored (RFC 9110 section 7.8); but the parser
                # goes no further.
                request.upgrade = request.keep_alive = False
            if request.upgrade:
                early = self.fragments
                self.fragments = Buf(NULL, 0, 0)
                try:
                    self.upgrade(request)
                    if early.n and ST_HTTP < self.state < ST_CLOSING:
                        return self.receive(early.p, early.n)
                finally:
                    buf_free(&early)
                return 0
            if self.transport.get_write_buffer_size() > HTTP_BACKLOG:
                # It goes on asking without reading the answers.
                self.abort()
                return 0
            reader.busy = request
            answer = self.endpoint.owner.on_http(self, request)
            if answer is None:
                if self.state == ST_HTTP:
                    self.timer.unlink()     # whoever works on the answer has a time limit of its own
                return 0
            self.answer_request(answer)
        if self.reading_paused and reader is not None and not reader.busy:
            self.reading_paused = False
            self.transport.resume_reading()
        return 0

    cdef int answer_request(self, answer) except -1:
        status, headers, body = answer
        request = self.http.busy
        self.http.busy = None
        self.http_reply(status, headers, body, request.keep_alive, request.method == "HEAD")
        if not request.keep_alive:
            return self.close(0)
        self.handed = 0
        self.endpoint.wheel.schedule(
            self.timer, self.endpoint.head_timeout if self.http.in_head else self.endpoint.body_timeout)
        return 0

    def respond(self, int status, dict headers not None, bytes body not None):
        """Answer the request that ``on_http`` did not answer at once; nothing happens if the client has gone."""
        if self.state == ST_HTTP and self.http is not None and self.http.busy is not None:
            self.answer_request((status, headers, body))
            self.next_request()

    def become(self, Endpoint endpoint not None, bytes head not None, *, user_id, server_data=None,
               client_data=UNSET, ends_in=None):
        """Instead of an answer: send ``head`` and belong to an endpoint whose protocol only sends, logged in.

        ``ends_in`` (ms) is when the login ends, see ``finish_login``. False if the client has gone.
        """
        if self.state != ST_HTTP or self.http is None:
            return False
        self.head = "\n".join(f"{key}:{value}" for key, value in self.http.busy.headers.items()).encode()
        self.http.close()
        self.http = None
        self.send_raw(head)
        if endpoint is not self.endpoint:
            self.move(endpoint)
        self.framed = False
        self.protocol = endpoint.protocol
        self.codec = endpoint.protocol
        self.state = ST_OPEN
        self.user_id = user_id if user_id else "OPEN"
        self.server_data = server_data
        self.client_data = client_data
        self.login_deadline = 0 if ends_in is None else now_ms() + <uint64_t>max(1, ends_in)
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()
        self.protocol.opened(self)
        self.arm()
        return True

    def handle(self, Message message not None):
        """Handle a message as if this client had sent it. Raises ValueError if it is none a client can send."""
        cdef bytes raw = encode(message)
        cdef const char *p = PyBytes_AS_STRING(raw)
        cdef Msg m
        if decode_msg(p, p + len(raw), &m) == NULL:
            raise ValueError(f"{message!r} cannot be sent")
        if self.state == ST_OPEN:
            self.on_message(&m, p, <size_t>len(raw))

    cdef int http_error(self, int status, str text) except -1:
        self.http_reply(status, self.endpoint.owner.error_headers, text.encode() + b"\r\n\r\n", False)
        return self.close(0)

    cdef int http_reply(self, int status, dict headers, bytes body, bint keep, bint head_only=False) except -1:
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if status != 204 and status != 304:
            lines.append(f"Content-Length: {len(body)}")
        if not keep:
            lines.append("Connection: close")
        self.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (b"" if head_only else body))
        return 0

    cdef int upgrade(self, request) except -1:
        """Answer the websocket handshake (RFC 6455 section 4.2)."""
        cdef dict headers = request.headers
        cdef bytes accept
        cdef Endpoint endpoint = self.endpoint
        path = request.target.partition(b"?")[0]
        if endpoint.paths is not None:
            endpoint = endpoint.paths.get(path)
        elif path != endpoint.url_path:
            endpoint = None
        if endpoint is None:
            return self.http_error(404, "Endpoint not found.")
        if request.method != "GET":
            return self.http_error(400, "Only GET can be upgraded to a websocket.")
        if headers.get("sec-websocket-version") != "13":
            self.http_reply(426, {"Sec-WebSocket-Version": "13", **self.endpoint.owner.error_headers},
                            b"Only websocket version 13 is spoken here.\r\n\r\n", False)
            return self.close(0)
        accept = accept_value(headers.get("sec-websocket-key", ""))
        if accept is None:
            return self.http_error(400, "Invalid Sec-WebSocket-Key.")
        if not endpoint.owner.origin_allowed(headers):
            return self.http_error(403, "Origin is forbidden.")
        # One bytes object instead of a dict of strings: it may be kept for as long as the connection lives.
        self.head = "\n".join(f"{key}:{value}" for key, value in headers.items()).encode()
        self.http.close()
        self.http = None
        answer = (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  b"Sec-WebSocket-Accept: " + accept + b"\r\n")
        if endpoint.protocol is not None and endpoint.protocol.subprotocol is not None:
            offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
            if endpoint.protocol.subprotocol in offered:
                answer += b"Sec-WebSocket-Protocol: " + endpoint.protocol.subprotocol.encode() + b"\r\n"
        if endpoint.deflate is not None and "sec-websocket-extensions" in headers:
            self.deflated, extension = endpoint.deflate.negotiate(headers["sec-websocket-extensions"])
            answer += extension
        self.send_raw(answer + b"\r\n")
        if endpoint is not self.endpoint:
            self.move(endpoint)
        return self.begin()

    cdef int move(self, Endpoint endpoint) except -1:
        """From the port to the endpoint whose path was asked for; both keep their connections in one set."""
        self.endpoint = endpoint
        endpoint.accepted += 1
        return 0

    cdef int send_raw(self, bytes data) except -1:
        """Send bytes that are not frames, before any frame was sent."""
        cdef ssize_t sent = 0
        if self.fd >= 0:
            sent = socket_send(self.fd, PyBytes_AS_STRING(data), <size_t>len(data), 0x4000 | 0x40)
            if sent == len(data):
                return 0
            if sent < 0:
                sent = 0
        self.transport.write(data[sent:])
        if self.transport.get_write_buffer_size():
            self.blocked = True
        return 0

    # --- for handlers and plugins in Python ------------------------------------------------------------------

    def send(self, Message message not None, bint buffered=True):
        """Queue a message for this client; dropped silently once the connection is closed."""
        cdef Msg m
        message.fill(&m)
        self.hub.send_msg(self, &m, message.names, message.versions)
        if not buffered:
            self.hub.flush()

    def send_ack(self, Message message not None, bint buffered=True):
        """As ``send``, with the acknowledgement flag set."""
        self.send(message.replace(is_ack=True), buffered)

    def on_close(self, callback):
        """Call ``callback(connection)`` once when the connection is over, whatever the cause."""
        if self.close_callbacks is None:
            self.close_callbacks = []
        self.close_callbacks.append(callback)

    def remove_on_close(self, callback):
        """Take back ``on_close``; unknown callbacks are ignored."""
        if self.close_callbacks and callback in self.close_callbacks:
            self.close_callbacks.remove(callback)

    def destroy(self):
        """Close the connection (no status code)."""
        self.close(0)

    def set_peer_name(self, name):
        """The address in ``handshake_data`` and ``peer_address``, instead of that of the socket."""
        self.peer_name = name

    @property
    def handshake_data(self):
        """``headers`` (lower case names), ``referer`` and ``remoteAddress`` of the upgrade request.

        With TLS also ``clientCertificate``, if the client has one and it was asked for.
        """
        headers = {}
        if self.head:
            for line in self.head.decode().split("\n"):
                key, _, value = line.partition(":")
                headers[key] = value
        data = {"headers": headers, "referer": headers.get("referer"),
                "remoteAddress": self.endpoint.owner.remote_address(headers, self.peer_address)}
        if self.fd < 0 and self.transport is not None:
            certificate = self.transport.get_extra_info("peercert")
            if certificate:
                data["clientCertificate"] = certificate_data(certificate)
        return data

    @property
    def peer_address(self):
        """Address of whoever has connected, or for whom a proxy said that it did; "unix" on a Unix socket."""
        if self.peer_name is None and self.transport is not None:
            peer = self.transport.get_extra_info("peername")
            if peer is not None:
                self.peer_name = peer[0] if isinstance(peer, tuple) else "unix"
        return self.peer_name

    @property
    def max_names(self):
        """Names that one message of this client may carry."""
        return self.endpoint.owner.max_names

    @property
    def uuid(self):
        """Random id of this connection."""
        if self._uuid is None:
            self._uuid = uuid.uuid4().hex
        return self._uuid

    @property
    def socket_type(self):
        """Name of the protocol."""
        return "wsBinary" if self.protocol is None else self.protocol.socket_type

    @property
    def is_remote(self):
        """False: the connection is held by this node."""
        return False

    @property
    def is_closed(self):
        """Whether the connection is closing or closed."""
        return self.state >= ST_CLOSING

    def __repr__(self):
        return f"<Connection {self.user_id!r} state={self.state}>"


cdef size_t cut_off(const char *p, size_t n) noexcept:
    """Bytes at the end of p[0:n] that begin a UTF-8 character which is longer."""
    cdef size_t k
    cdef uint8_t b
    for k in range(1, min(n, <size_t>3) + 1):
        b = <uint8_t>p[n - k]
        if b & 0xC0 != 0x80:
            return k if b >= 0xC0 and k < (2 if b < 0xE0 else 3 if b < 0xF0 else 4) else 0
    return 0


cdef bint text_goes_on(const char *p, size_t n, size_t fresh) noexcept:
    """Whether p[0:n] can be the beginning of a text, if that was so before the last ``fresh`` bytes."""
    cdef size_t start = n - fresh - cut_off(p, n - fresh), rest = cut_off(p, n), whole
    cdef char tail[4]
    cdef uint8_t filler
    if not utf8_check(p + start, <Py_ssize_t>(n - rest - start)):
        return False
    if rest == 0:
        return True
    # A character that is cut off may still become one if the smallest or the largest continuation makes it one.
    whole = 2 if <uint8_t>p[n - rest] < 0xE0 else 3 if <uint8_t>p[n - rest] < 0xF0 else 4
    for filler in (0x80, 0xBF):
        memset(tail, filler, 4)
        memcpy(tail, p + n - rest, rest)
        if utf8_check(tail, <Py_ssize_t>whole):
            return True
    return False


cdef size_t unsent(transport) except? 999999999:
    """Bytes of a connection that wait in the kernel."""
    try:
        return int.from_bytes(fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


cdef bint has_login_data(const Msg *m) except -1:
    """Whether a message carries an object or an array."""
    cdef int kind = json_check(m.s[S_DATA].p, m.s[S_DATA].n) if has_text(m, S_DATA) else -1
    return kind >= 0 and (kind & JSON_KIND_MASK == JSON_OBJECT or kind & JSON_KIND_MASK == JSON_ARRAY)


cdef int refuse_login_data(Connection c, const Msg *m) except -1:
    """A login that makes no sense ends the connection."""
    cdef size_t n = m.s[S_DATA].n if has_text(m, S_DATA) else 0
    c.endpoint.owner.log_invalid_auth_data(c, PyBytes_FromStringAndSize(m.s[S_DATA].p if n else NULL, <Py_ssize_t>min(n, <size_t>SHOWN_DATA)))
    c.reply_invalid(T_AUTH, AU_INVALID_MESSAGE_DATA, m)
    return c.close(0)


cdef int renew_login(Connection c, const Msg *m) except -1:
    """A login that ends may be renewed by another one before (docs/authentication.md)."""
    if not has_login_data(m):
        return refuse_login_data(c, m)
    if c.endpoint.owner.renew(c, loads(PyBytes_FromStringAndSize(m.s[S_DATA].p, m.s[S_DATA].n))):
        return 0
    c.reply_invalid(T_AUTH, AU_INVALID_MESSAGE, m)
    return c.on_bad()


cdef int send_auth(Connection c, int action, client_data) except -1:
    """Answer a login."""
    cdef Msg m
    cdef bytes text
    start(&m, T_AUTH, action)
    if client_data is not UNSET:
        text = dumps(client_data)
        set_text(&m, S_DATA, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return c.hub.send_msg(c, &m)


cdef bint understands_patch_multi(version) except -1:
    """PATCH_MULTI came with the JavaScript client 7.1.0 (spec/protocol-binary.md section 12)."""
    try:
        parts = [int(part) for part in version.split("-")[0].split(".")[:2]]
    except ValueError:
        return False
    return parts >= [7, 1]


cdef class VirtualConnection(Connection):
    """A client that has no connection of its own, such as one HTTP request; logged in from the start.

    What it is sent goes as a Message to ``sink(message)``. It is over when ``end`` is called.
    """

    def __init__(self, Endpoint endpoint not None, sink, *, user_id, server_data=None, client_data=UNSET,
                 handshake=None):
        self.personal = True
        self.sink = sink
        self.user_id = user_id if user_id else "OPEN"
        self.server_data = server_data
        self.client_data = client_data
        self.handshake = {} if handshake is None else handshake
        self.muted = False
        self.state = ST_OPEN

    def end(self):
        """This client is gone: its subscriptions and its calls end."""
        self.muted = True
        self.state = ST_CLOSED
        self.finish()

    cdef int deliver(self, const Msg *m, list names, dict versions) except -1:
        cdef Message message = to_message(m)
        if names is not None:
            message.names = names
        if versions is not None:
            message.versions = versions
        try:
            self.sink(message)
        except Exception as error:
            self.log_fault("exception while answering a request", error)
        return 0

    cdef int close(self, int code) except -1:
        self.end()
        return 0

    def abort(self):
        self.end()

    @property
    def handshake_data(self):
        """As it was given."""
        return self.handshake

    @property
    def socket_type(self):
        """Name of the protocol."""
        return "http"
