"""One client connection of the ws-binary endpoint, and what all connections of an endpoint share."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dsfast._core.buffer cimport Buf
from dsfast._core.fanout cimport Codec, Hub, Peer
from dsfast._core.protocol cimport Msg
from dsfast._core.timers cimport Timer, TimingWheel

cdef enum:
    ST_HTTP = 0         # no websocket yet
    ST_CHALLENGE = 1    # waits for CHALLENGE
    ST_AUTH = 2         # waits for an AUTH REQUEST
    ST_AUTH_RUNNING = 3 # an authentication plugin is deciding
    ST_OPEN = 4
    ST_CLOSING = 5      # close frame sent, waiting for the peer to go
    ST_CLOSED = 6

cdef bint outlives_sender(const Msg *m) noexcept

cdef class Dispatcher:
    cdef int dispatch(self, Connection c, Msg *m, const char *raw, size_t n) except -1

cdef class Protocol(Codec):
    cdef readonly str socket_type       # as plugins see it
    cdef readonly int opcode            # of the websocket frames that carry messages: 1 text, 2 binary
    cdef readonly str subprotocol       # of the websocket, or None
    cdef readonly bint beats            # beat() is to be called
    cdef readonly bint knows_gaps       # INVALID_VERSION means something to its clients
    cdef readonly bint has_separators   # 0x1E and 0x1F cannot stand in its texts
    cdef int opened(self, Connection c) except -1
    cdef int decode(self, Connection c, const char *p, size_t n) except -1
    cdef size_t read(self, Connection c, const char *p, size_t n) except? 999999999
    cdef int beat(self, Connection c) except -1
    cdef int closing(self, Connection c, int code) except -1

cdef class Endpoint:
    cdef readonly Hub hub
    cdef readonly TimingWheel wheel
    cdef Dispatcher router
    cdef object owner
    cdef readonly set connections
    cdef char *read_buffer
    cdef object read_view
    cdef object open_user_id
    cdef public bytes url_path
    cdef public Protocol protocol           # None: the binary protocol
    cdef public bint framed                 # websockets on HTTP; False: the protocol has the connection to itself
    cdef public dict paths                  # endpoints of this port by path
    cdef public size_t max_message_size
    cdef public size_t max_body_size
    cdef public uint64_t head_timeout       # ms
    cdef public uint64_t body_timeout
    cdef public object admission            # enter(connection) -> bool and leave(connection), or None
    cdef public object deflate              # negotiates compression (deflate.pyx), or None
    cdef public uint64_t heartbeat_interval
    cdef public uint64_t unauthenticated_timeout
    cdef public uint32_t max_auth_attempts
    cdef public uint32_t max_bad_messages
    cdef readonly uint64_t accepted
    cdef readonly uint64_t logins
    cdef readonly uint64_t bad_messages

cdef class ConnectionTimer(Timer):
    cdef Connection connection

cdef class ConnectionBase(Peer):
    pass

cdef class Connection(ConnectionBase):
    cdef Endpoint endpoint
    cdef int state
    cdef Protocol protocol      # None: the binary protocol
    cdef public object extra    # what the protocol keeps for this connection
    cdef bint framed
    cdef bint finished          # close callbacks have run
    cdef bint was_open
    cdef bint reading_paused
    cdef bint in_fragments
    cdef bint inflating         # the message that is coming is compressed
    cdef bint peer_closed       # the peer has sent its close frame
    cdef uint32_t attempts
    cdef uint32_t bad
    cdef uint32_t holds         # effects of later messages wait while this is above zero
    cdef uint64_t last_seen     # ms, monotonic
    cdef uint64_t login_deadline
    cdef ConnectionTimer timer
    cdef object http            # HttpReader while in ST_HTTP
    cdef object admission       # that of the endpoint, if it has counted this connection
    cdef Codec deflated         # compresses what is sent, and the client may do so; None: not negotiated
    cdef Buf rest               # received bytes of an unfinished frame
    cdef size_t need            # bytes that frame will have
    cdef size_t skip            # while closing: bytes to pass over before the next frame; all ones: for ever
    cdef Buf fragments
    cdef public object lane     # messages whose permission is being decided (dsfast/handlers/permission.py)
    cdef object waiting         # deque of messages behind a hold
    cdef size_t waiting_size
    cdef object head            # raw request head, for handshake_data
    cdef object peer_name
    cdef object close_callbacks
    cdef readonly object user_id
    cdef readonly object server_data
    cdef readonly object client_data
    cdef readonly object sdk_type
    cdef readonly object sdk_version
    cdef bint knows_patch_multi
    cdef object _uuid
    cdef int receive(self, char *p, size_t n) except -1
    cdef size_t consume(self, char *p, size_t n) except? 999999999
    cdef size_t fail_framing(self, size_t n) except? 999999999
    cdef size_t discard(self, const char *p, size_t n) except? 999999999
    cdef int on_frame(self, int opcode, bint fin, char *p, size_t n) except -1
    cdef int on_compressed(self, int opcode, bint fin, char *p, size_t n) except -1
    cdef int on_data(self, const char *p, size_t n) except -1
    cdef int on_deflated(self, const char *p, size_t n) except -1
    cdef int on_payload(self, const char *p, size_t n) except -1
    cdef int on_message(self, Msg *m, const char *raw, size_t n) except -1
    cdef int unbuffered(self) except -1
    cdef int on_challenge(self, Msg *m) except -1
    cdef int on_auth(self, Msg *m) except -1
    cdef int on_open_message(self, Msg *m, const char *raw, size_t n) except -1
    cdef int on_malformed(self) except -1
    cdef int send_control(self, uint8_t opcode, const char *p, size_t n) except -1
    cdef int reply(self, int topic, int action) except -1
    cdef int login(self, user_id, server_data, client_data) except -1
    cdef int http_error(self, int status, str text) except -1
    cdef int http_reply(self, int status, dict headers, bytes body, bint keep, bint head_only=*) except -1
    cdef int on_bad(self) except -1
    cdef int unknown_topic(self) except -1
    cdef int unknown_action(self, Msg *m) except -1
    cdef int wait_behind(self, const char *raw, size_t n) except -1
    cdef int close(self, int code) except -1
    cdef int end_writing(self) except -1
    cdef int finish(self) except -1
    cdef int guarded(self, callback, str text) except -1
    cdef int log_fault(self, str text, error) except -1
    cdef int arm(self) except -1
    cdef int on_timer(self) except -1
    cdef int on_late(self) except -1
    cdef int next_request(self) except -1
    cdef int answer_request(self, answer) except -1
    cdef int feed_http(self, char *p, size_t n) except -1
    cdef int begin(self) except -1
    cdef int move(self, Endpoint endpoint) except -1
    cdef int upgrade(self, object request) except -1
    cdef int send_raw(self, bytes data) except -1
    cdef int reply_invalid(self, int topic, int action, const Msg *m) except -1
    cdef int reply_msg(self, const Msg *m, list names=*, dict versions=*) except -1
    cpdef hold(self)
    cpdef release(self)

cdef class VirtualConnection(Connection):
    cdef object sink
    cdef object handshake
