"""MQTT 3.1.1."""
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from dsfast._core.buffer cimport Buf, Slice
from dsfast._core.connection cimport Connection, Endpoint, Protocol, VirtualConnection
from dsfast._core.events cimport EmitWatch
from dsfast._core.fanout cimport Hub, Peer, Registry, Subject
from dsfast._core.protocol cimport Message, Msg
from dsfast._core.records cimport RecordCore
from dsfast._core.router cimport Gate, Router
from dsfast._core.timers cimport Timer, TimingWheel
from dsfast._core.topic_filters cimport FilterTree

cdef class Limits:
    cdef readonly size_t max_packet             # bytes behind its first byte and its length
    cdef readonly size_t max_topic
    cdef readonly Py_ssize_t max_filters
    cdef readonly Py_ssize_t max_inflight
    cdef readonly Py_ssize_t max_queued
    cdef readonly Py_ssize_t max_queued_bytes
    cdef readonly Py_ssize_t max_sessions
    cdef readonly uint64_t session_expiry       # ms
    cdef readonly uint64_t idle_timeout         # ms
    cdef readonly bint send_record

cdef class Ack:
    cdef int kind           # first byte of the packet; 0: nobody waits for one
    cdef uint16_t id
    cdef bint done
    cdef bint emitted       # the event was permitted
    cdef bytes topic
    cdef bytes payload      # of the event that is still to be told if the record is not written

cdef class Request:
    cdef int kind
    cdef uint16_t id
    cdef bytearray codes
    cdef Py_ssize_t open    # filters that are not decided yet

cdef class Part:
    cdef Client client
    cdef Request request    # None: the subscription of a kept session
    cdef bytes text
    cdef Py_ssize_t index
    cdef int qos
    cdef int left           # answers that are still to come
    cdef bint granted

cdef class Silence(Timer):
    cdef Client client

cdef class Client:
    cdef readonly Connection connection
    cdef readonly str client_id
    cdef readonly bint clean
    cdef public bint unavailable        # the login failed for a reason that is not the client's
    cdef Limits limits
    cdef Session session
    cdef bint asked         # CONNECT came
    cdef bint deciding      # the authentication took its time
    cdef bint leaving       # DISCONNECT came
    cdef bint paused        # not read from, since too many answers are open
    cdef readonly uint64_t patience     # ms without a packet
    cdef Silence timer
    cdef object will        # (topic, payload, retain) or None
    cdef Buf stream         # bytes of an unfinished packet, with websockets
    cdef object acks        # Acks in the order of their publishes, from the first that waits on
    cdef dict pending       # correlation id → Ack or Part
    cdef dict deletes       # name → Acks
    cdef uint64_t counter

cdef class Session:
    cdef readonly str user_id
    cdef readonly str client_id
    cdef readonly bint clean
    cdef MqttBroker broker
    cdef Limits limits
    cdef Client client      # None while it is away
    cdef Absent absent      # stands in for it then
    cdef dict exact         # filter without wildcards → QoS
    cdef dict wild
    cdef Py_ssize_t reliable    # filters with QoS 1
    cdef dict inflight      # packet id → (topic, payload, retain)
    cdef object queue       # (topic, payload, retain) that wait for their turn
    cdef Py_ssize_t queued_bytes
    cdef list waiting       # deliveries whose permission is being decided, and those behind them
    cdef Py_ssize_t restoring
    cdef uint16_t last_id
    cdef uint8_t *received  # one bit for each QoS 2 packet id that is not released yet
    cdef Timer expiry
    cdef Connection peer(self)
    cdef int set_filter(self, bytes text, int qos, bint wild) except -1
    cdef int drop_filter(self, bytes text) except -1
    cdef int qos_of(self, bytes topic) except -1
    cdef int push(self, bytes topic, bytes payload, bint retain, Buf *out) except -1
    cdef int transmit(self, bytes topic, bytes payload, bint retain, Buf *out) except -1
    cdef int write(self, MqttProtocol protocol, Connection c, int id, int first, bytes topic, bytes payload, Buf *out) except -1
    cdef int pump(self) except -1
    cdef bint receives(self, int id) except -1

cdef class Absent(VirtualConnection):
    cdef Session session    # None: of a last will
    cdef Client client
    cdef MqttBroker broker

cdef class MqttBroker(EmitWatch):
    cdef Hub hub
    cdef TimingWheel wheel
    cdef Registry events
    cdef Registry records
    cdef RecordCore core
    cdef Gate core_gate
    cdef object decide      # (connection, name) → bool or future, None while everything is allowed
    cdef MqttProtocol tcp
    cdef MqttProtocol web
    cdef readonly dict sessions     # (user id, client id) → Session
    cdef dict away          # those whose client is away, the longest first
    cdef readonly FilterTree tree
    cdef dict matches       # topic → {Session: QoS}
    cdef Slice original     # payload as its MQTT client sent it, while its event is broadcast
    cdef bint has_original
    cdef bint retained      # the event of a retained publish is broadcast
    cdef bytes kept
    cdef object ended_callback
    cdef readonly uint64_t refused
    cdef readonly uint64_t dropped
    cdef public bint stopping
    cdef bint speaks(self, Peer peer) noexcept
    cdef Session session_of(self, Peer peer)
    cdef int note_emitted(self, Connection c, bytes key) except -1
    cdef dict matching(self, bytes topic)
    cdef int wildcards(self, Connection c, const Msg *m, Subject subject) except -1
    cdef int give(self, Session session, bytes topic, bytes payload, int qos) except -1
    cdef bint spares(self, Connection c, const Msg *m) except -1
    cdef int to_listeners(self, Subject subject, Peer skip, bint holding, bytes topic, bytes payload) except -1
    cdef bint payload_of(self, const Msg *m, Slice *payload) except -1
    cdef int answered(self, Client k, const Msg *m, Buf *out) except -1
    cdef int count_refusal(self, Client k, const Msg *m, int action) except -1
    cdef int settle_ack(self, Client k, Ack ack, bint failed, Buf *out) except -1
    cdef int settle_part(self, Part part, bint granted, Buf *out) except -1
    cdef int lost(self, Session session, const Msg *m) except -1
    cdef Absent stand_in(self, Connection c)
    cdef int forget(self, Session session) except -1
    cdef int keep(self, Session session, Connection c) except -1
    cdef int restore(self, Session session, Connection c) except -1

cdef class MqttProtocol(Protocol):
    cdef readonly MqttBroker broker
    cdef bint wrapped       # packets travel in websocket frames
    cdef size_t packets(self, Connection c, Client k, const char *p, size_t n) except? 999999999
    cdef int go_on(self, Connection c) except -1
    cdef int packet(self, Connection c, Client k, int first, const char *p, size_t n) except -1
    cdef int violation(self, Connection c, str text) except -1
    cdef int connect(self, Connection c, Client k, const char *p, size_t n) except -1
    cdef int publish(self, Connection c, Client k, int first, const char *p, size_t n) except -1
    cdef int emit(self, Connection c, const char *name, Py_ssize_t n, const char *payload, Py_ssize_t size, bytes mark) except -1
    cdef int retain(self, Connection c, Client k, const char *name, Py_ssize_t n, const char *payload, Py_ssize_t size, int kind, uint16_t id) except -1
    cdef int subscribe(self, Connection c, Client k, const char *p, size_t n) except -1
    cdef int subscribe_exact(self, Connection c, Client k, Part part) except -1
    cdef int unsubscribe(self, Connection c, Client k, const char *p, size_t n) except -1
    cdef bytes expect(self, Client k, object waiting)
    cdef int ask(self, Connection c, Client k, bytes key, Message message) except -1
    cdef int acknowledge(self, Connection c, Client k, int kind, uint16_t id) except -1
    cdef int send_packet(self, Connection c, int first, const char *p, size_t n, Buf *out) except -1
    cdef int put_publish(self, Buf *out, int first, const char *name, Py_ssize_t n, int id, const char *payload, Py_ssize_t size) except -1
    cdef int connack(self, Connection c, bint present, int code, Buf *out) except -1
