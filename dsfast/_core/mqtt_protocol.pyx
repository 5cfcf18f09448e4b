"""MQTT 3.1.1, on TCP and in websockets (spec/protocol-mqtt.md).

A packet becomes a message of the binary protocol and takes the same way from there. Events to subscribers with QoS 0
are encoded once for all of them, as in every protocol; whoever has asked for QoS 1 takes its messages itself, since
each needs a packet id, and so does the stand-in of a client that is away.

A payload that is JSON is the data of its event, any other becomes a JSON string. What cannot be told from the string
(that it was none, or the bytes that are no UTF-8) travels in the correlation id of the EMIT, which an event does not
have otherwise, as far as this server: so that between MQTT clients the payload stays what it was.
"""
import asyncio
import uuid
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove

from dsfast._core.buffer cimport Buf, Slice, buf_add, buf_free, buf_room, likely, unlikely
from dsfast._core.connection cimport (
    ST_AUTH, ST_AUTH_RUNNING, ST_CHALLENGE, ST_CLOSING, ST_OPEN, Connection, Endpoint, Protocol, VirtualConnection,
)
from dsfast._core.events cimport EmitWatch, EventHandler
from dsfast._core.fanout cimport Codec, Hub, Peer, Registry, Subject
from dsfast._core.json_text cimport JSON_ARRAY, JSON_KIND_MASK, JSON_OBJECT, dumps, json_check, utf8_check
from dsfast._core.protocol cimport *
from dsfast._core.protocol import encode
from dsfast._core.record_cache cimport Record
from dsfast._core.records cimport RecordCore
from dsfast._core.router cimport VERDICT_ALLOWED, VERDICT_WAITS, Gate, Router
from dsfast._core.timers cimport Timer, TimingWheel, now_ms
from dsfast._core.topic_filters cimport FILTER_EXACT, FILTER_INVALID, FILTER_WILD, FilterTree, filter_kind, topic_ok

cdef enum:
    CONNECT = 0x10
    CONNACK = 0x20
    PUBLISH = 0x30
    PUBACK = 0x40
    PUBREC = 0x50
    PUBREL = 0x62
    PUBCOMP = 0x70
    SUBSCRIBE = 0x82
    SUBACK = 0x90
    UNSUBSCRIBE = 0xA2
    UNSUBACK = 0xB0
    PINGREQ = 0xC0
    PINGRESP = 0xD0
    DISCONNECT = 0xE0
    RETAIN = 1
    QOS_1 = 2
    DUP = 8
    REFUSED = 0x80              # SUBACK code
    MAX_REMAINING = 268435455
    MAX_CLIENT_ID = 1024        # bytes
    EARLY_BYTES = 64 * 1024     # a client may send while its login is being checked, before it is not read any more
    UNANSWERED = 1000           # publishes of one client, before it is not read any more
    UNDECIDED = 1000            # deliveries to one client
    KEPT_MATCHES = 10_000
    KEPT_BUFFER = 64 * 1024

# What the correlation id of an EMIT begins with; then follows the payload as it came.
cdef enum:
    MARK_TEXT = 116             # t
    MARK_BYTES = 98             # b: in hexadecimal
    MARK_RETAINED = 114         # r: the data are the payload, what follows is the correlation id of the write

cdef Buf text_buf = Buf(NULL, 0, 0)         # a payload as JSON string
cdef Buf mark_buf = Buf(NULL, 0, 0)
cdef Buf raw_buf = Buf(NULL, 0, 0)          # a message in binary form
cdef Buf packet_buf = Buf(NULL, 0, 0)


cdef class Limits:
    """What one endpoint allows its clients; bytes and ms."""

    def __init__(self, *, max_packet, max_topic, max_filters, max_inflight, max_queued, max_queued_bytes, max_sessions,
                 session_expiry, idle_timeout, send_record):
        self.max_packet = max_packet
        self.max_topic = max_topic
        self.max_filters = max_filters
        self.max_inflight = max_inflight
        self.max_queued = max_queued
        self.max_queued_bytes = max_queued_bytes
        self.max_sessions = max_sessions
        self.session_expiry = session_expiry
        self.idle_timeout = idle_timeout
        self.send_record = send_record


cdef class Ack:
    """The answer to a PUBLISH."""


cdef class Request:
    """A SUBSCRIBE or UNSUBSCRIBE that is being answered."""


cdef class Part:
    """One filter of a request."""


cdef class Silence(Timer):
    """Ends a connection on which nothing has come for too long."""

    cdef int fire(self) except -1:
        cdef Client k = self.client
        cdef Connection c
        cdef uint64_t now = now_ms(), silent
        if k is None or k.connection is None:
            return 0
        c = k.connection
        if c.state >= ST_CLOSING:
            return 0
        silent = now - c.last_seen
        if c.reading_paused:
            silent = 0          # it is us who do not listen
        if silent > k.patience:
            c.endpoint.owner.log_heartbeat(c)
            return c.close(0)
        return c.endpoint.wheel.schedule(self, k.patience - silent + 1)


cdef class Client:
    """What the protocol keeps for one connection, its ``extra``."""

    def __dealloc__(self):
        buf_free(&self.stream)


cdef class Session:
    """What a client is remembered for: its filters, and what it has not acknowledged."""

    def __init__(self):
        self.exact = {}

    def __dealloc__(self):
        free(self.received)

    @property
    def away(self):
        """Whether its client is not connected."""
        return self.client is None

    cdef Connection peer(self):
        """Who takes its messages, or None."""
        if self.client is not None:
            return self.client.connection
        return self.absent

    cdef int set_filter(self, bytes text, int qos, bint wild) except -1:
        self.drop_filter(text)
        if wild:
            if self.wild is None:
                self.wild = {}
            self.wild[text] = qos
            self.broker.tree.add(text, self, qos)
            self.broker.matches.clear()
        else:
            self.exact[text] = qos
        self.reliable += qos
        return 0

    cdef int drop_filter(self, bytes text) except -1:
        cdef object qos = self.exact.pop(text, None)
        if qos is None and self.wild is not None:
            qos = self.wild.pop(text, None)
            if qos is not None:
                self.broker.tree.remove(text, self)
                self.broker.matches.clear()
        if qos is not None:
            self.reliable -= <int>qos
        return 0

    cdef int qos_of(self, bytes topic) except -1:
        """With what QoS it gets what is published to a topic."""
        cdef object qos
        if self.reliable == 0:
            return 0
        qos = self.exact.get(topic)
        if qos or self.wild is None:
            return <int>qos if qos is not None else 0
        return <int>self.broker.matching(topic).get(self, 0)

    cdef int push(self, bytes topic, bytes payload, bint retain, Buf *out) except -1:
        """A message with QoS 1: on its way, or behind others that wait for their acknowledgement."""
        cdef Client k = self.client
        cdef Py_ssize_t size = len(topic) + len(payload)
        if k is not None and not self.queue and (self.inflight is None or len(self.inflight) < self.limits.max_inflight):
            return self.transmit(topic, payload, retain, out)
        if self.queue is None:
            self.queue = deque()
        while self.queue and (len(self.queue) >= self.limits.max_queued
                              or self.queued_bytes + size > self.limits.max_queued_bytes):
            self.broker.dropped += 1
            if k is not None:
                # It is there and does not acknowledge; what is queued waits for its return.
                k.connection.on_slow()
                return 0
            dropped = self.queue.popleft()
            self.queued_bytes -= len(dropped[0]) + len(dropped[1])
        self.queue.append((topic, payload, retain))
        self.queued_bytes += size
        return 0

    cdef int transmit(self, bytes topic, bytes payload, bint retain, Buf *out) except -1:
        cdef Connection c = self.client.connection
        cdef MqttProtocol protocol = <MqttProtocol>c.protocol
        if self.inflight is None:
            self.inflight = {}
        while True:
            self.last_id += 1
            if self.last_id != 0 and self.last_id not in self.inflight:
                break
        self.inflight[self.last_id] = (topic, payload, retain)
        return self.write(protocol, c, self.last_id, PUBLISH | QOS_1 | (RETAIN if retain else 0), topic, payload, out)

    cdef int write(self, MqttProtocol protocol, Connection c, int id, int first, bytes topic, bytes payload,
                   Buf *out) except -1:
        if out != NULL:
            return protocol.put_publish(out, first, PyBytes_AS_STRING(topic), PyBytes_GET_SIZE(topic), id,
                                        PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        packet_buf.n = 0
        protocol.put_publish(&packet_buf, first, PyBytes_AS_STRING(topic), PyBytes_GET_SIZE(topic), id,
                             PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        return c.hub.send_frame(c, packet_buf.p, packet_buf.n) if packet_buf.n else 0

    cdef int pump(self) except -1:
        """Send what has waited, as far as the window allows."""
        while self.queue and len(self.inflight or ()) < self.limits.max_inflight:
            topic, payload, retain = self.queue.popleft()
            self.queued_bytes -= len(topic) + len(payload)
            self.transmit(topic, payload, retain, NULL)
        return 0

    cdef bint receives(self, int id) except -1:
        """Note the id of a publish with QoS 2; False if it has been noted and not released since."""
        cdef uint8_t bit = <uint8_t>(1 << (id & 7))
        if self.received == NULL:
            self.received = <uint8_t*>calloc(8192, 1)
            if self.received == NULL:
                raise MemoryError("dsfast: out of memory")
        if self.received[id >> 3] & bit:
            return False
        self.received[id >> 3] |= bit
        return True


cdef class Absent(VirtualConnection):
    """Stands in for a client that is away: queues what its session asked for, or publishes its last will."""

    cdef int deliver(self, const Msg *m, list names, dict versions) except -1:
        cdef Session session = self.session
        cdef MqttBroker broker = self.broker
        cdef Subject subject
        cdef Registry registry
        cdef Slice payload
        cdef bytes topic
        if session is None:
            return broker.answered(self.client, m, NULL)
        if not broker.payload_of(m, &payload):
            return broker.lost(session, m)
        registry = broker.events if m.topic == T_EVENT else broker.records
        if session.client is not None:
            # It is back, and this subscription is about to be replaced by its own.
            subject = registry.find(m.s[S_NAME].p, m.s[S_NAME].n)
            if subject is None or registry.holds(session.client.connection, subject):
                return 0
        topic = m.s[S_NAME].p[:m.s[S_NAME].n]
        if session.qos_of(topic):
            session.push(topic, PyBytes_FromStringAndSize(payload.p, payload.n), False, NULL)
        return 0

    @property
    def socket_type(self):
        """Name of the protocol."""
        return "mqtt"


cdef class MqttBroker(EmitWatch):
    """Sessions, wildcards and answers, shared by the MQTT endpoints of a server."""

    def __init__(self, Router router not None, MqttProtocol tcp not None, MqttProtocol web not None, decide):
        """``decide(connection, name)`` tells whether a client may get the events of a name, as bool or future."""
        cdef EventHandler events = router.handlers[T_EVENT]
        self.tcp = tcp
        self.web = web
        self.hub = router.hub
        self.wheel = router.wheel
        self.core = router.handlers[T_RECORD]
        self.records = None if self.core is None else self.core.registry
        self.core_gate = router.core_gate
        self.decide = decide
        self.sessions = {}
        self.away = {}
        self.tree = FilterTree()
        self.matches = {}
        self.ended_callback = self.ended
        if events is not None:
            self.events = events.registry
            events.watch = self
        tcp.broker = self
        web.broker = self

    def stats(self):
        """Counters, and the number of sessions now."""
        return {"sessions": len(self.sessions), "away": len(self.away), "refused": self.refused,
                "dropped": self.dropped}

    cdef bint speaks(self, Peer peer) noexcept:
        """Whether messages to this peer are MQTT's."""
        return peer.codec is not None and (peer.codec is self.tcp or peer.codec is self.web) or type(peer) is Absent

    cdef Session session_of(self, Peer peer):
        if type(peer) is Absent:
            return (<Absent>peer).session
        return (<Client>(<Connection>peer).extra).session if (<Connection>peer).extra is not None else None

    # --- events ----------------------------------------------------------------------------------------------

    cdef int before(self, Connection c, const Msg *m, Subject subject) except -1:
        cdef Slice mark
        if unlikely(has_text(m, S_CORRELATION_ID)) and m.s[S_CORRELATION_ID].n and self.speaks(c):
            mark = m.s[S_CORRELATION_ID]
            self.has_original = True
            if mark.p[0] == MARK_BYTES:
                self.kept = bytes.fromhex(mark.p[1:mark.n].decode())
                self.original.p = PyBytes_AS_STRING(self.kept)
                self.original.n = PyBytes_GET_SIZE(self.kept)
            elif mark.p[0] == MARK_TEXT:
                self.original.p = mark.p + 1
                self.original.n = mark.n - 1
            else:
                self.has_original = False
                self.retained = True
                self.note_emitted(c, mark.p[1:mark.n])
                if subject is not None:
                    # Those that subscribe to the record as well get its change instead.
                    self.to_listeners(subject, c, False, m.s[S_NAME].p[:m.s[S_NAME].n],
                                      m.s[S_DATA].p[:m.s[S_DATA].n])
        if unlikely(self.tree.count != 0):
            self.wildcards(c, m, subject)
        return 0

    cdef int note_emitted(self, Connection c, bytes key) except -1:
        """The event of a retained publish is permitted."""
        cdef Client k = (<Absent>c).client if type(c) is Absent else <Client>c.extra
        cdef object waiting = None if k is None or k.pending is None else k.pending.get(key)
        if type(waiting) is Ack:
            (<Ack>waiting).emitted = True
        return 0

    cdef int after(self) except -1:
        self.has_original = self.retained = False
        self.kept = None
        return 0

    cdef dict matching(self, bytes topic):
        """Sessions whose wildcards match a topic, with their QoS."""
        cdef object found = self.matches.get(topic)
        if found is None:
            if len(self.matches) >= KEPT_MATCHES:
                self.matches.clear()
            found = self.tree.match(topic)
            self.matches[topic] = found
        return found

    cdef int wildcards(self, Connection c, const Msg *m, Subject subject) except -1:
        """Give an event to those whose wildcards match its name and who may subscribe to that name."""
        cdef dict found
        cdef bytes topic, payload, ask = None
        cdef Session session
        cdef Connection peer
        cdef Msg question
        cdef object allowed
        cdef list entry
        if not topic_ok(m.s[S_NAME].p, m.s[S_NAME].n):
            return 0        # no name that MQTT has
        topic = m.s[S_NAME].p[:m.s[S_NAME].n]
        found = self.matching(topic)
        if not found:
            return 0
        if self.has_original:
            payload = self.original.p[:self.original.n]
        else:
            payload = m.s[S_DATA].p[:m.s[S_DATA].n] if has_text(m, S_DATA) else b""
        for session, qos in list(found.items()):
            peer = session.peer()
            if peer is None or peer is c or peer.muted:
                continue
            if session.client is None and qos == 0:
                continue
            if subject is not None and self.events.holds(peer, subject):
                continue    # has it by its other subscription
            allowed = True
            if self.decide is not None:
                allowed = None
                if self.core_gate is not None:
                    if ask is None:
                        ask = encode(Message(T_EVENT, EVENT_SUBSCRIBE, names=[topic.decode()]))
                        decode_msg(PyBytes_AS_STRING(ask), PyBytes_AS_STRING(ask) + len(ask), &question)
                    if self.core_gate.arrival(peer, &question) == VERDICT_ALLOWED:
                        allowed = True
                if allowed is None:
                    allowed = self.decide(peer, topic.decode())
            if allowed is True and not session.waiting:
                self.give(session, topic, payload, qos)
            elif allowed is not False:
                if session.waiting is None:
                    session.waiting = []
                if len(session.waiting) >= UNDECIDED:
                    self.dropped += 1
                    if allowed is not True:
                        allowed.cancel()
                    continue
                entry = [allowed is True, allowed is True, topic, payload, qos]
                session.waiting.append(entry)
                if allowed is not True:
                    allowed.add_done_callback(Decided(self, session, entry))
        return 0

    cdef int give(self, Session session, bytes topic, bytes payload, int qos) except -1:
        """One message to the client of a session, whether it is there or away."""
        cdef Connection c
        cdef Client k = session.client
        if qos:
            return session.push(topic, payload, False, NULL)
        if k is None:
            return 0
        c = k.connection
        if c.blocked and c.waiting_bytes() > self.hub.max_outgoing_bytes // 2:
            self.hub.dropped += 1
            return 0
        return session.write(<MqttProtocol>c.protocol, c, 0, PUBLISH, topic, payload, NULL)

    cdef bint spares(self, Connection c, const Msg *m) except -1:
        """Whether a slow reader does without a message of QoS 0, or gets the newest state of its record later."""
        cdef Subject subject
        if c.waiting_bytes() <= self.hub.max_outgoing_bytes // 2:
            return False
        if m.topic == T_RECORD and m.i[I_ACTION] != REC_DELETED:
            subject = self.records.find(m.s[S_NAME].p, m.s[S_NAME].n)
            if subject is not None:
                return self.hub.absorb(c, subject)
        self.hub.dropped += 1
        return True

    cdef int to_listeners(self, Subject subject, Peer skip, bint holding, bytes topic, bytes payload) except -1:
        """Give an event to those MQTT clients that subscribe to the record of its name too, or do not."""
        cdef Subject record = None
        cdef Session session
        cdef Peer peer
        cdef uint32_t i
        if self.records is not None:
            record = self.records.find(PyBytes_AS_STRING(topic), PyBytes_GET_SIZE(topic))
        for peer in [<Peer>subject.subs[i].peer for i in range(subject.count)]:
            if peer is skip or peer.muted or not self.speaks(peer):
                continue
            if (record is not None and self.records.holds(peer, record)) == holding:
                session = self.session_of(peer)
                if session is not None:
                    self.give(session, topic, payload, session.qos_of(topic))
        return 0

    cdef bint payload_of(self, const Msg *m, Slice *payload) except -1:
        """What MQTT clients get for a message; False if they get none."""
        cdef Record record
        cdef int action = <int>m.i[I_ACTION]
        payload.p = b""
        payload.n = 0
        if m.topic == T_EVENT:
            if action != EVENT_EMIT or self.retained:
                return False
            if self.has_original:
                payload[0] = self.original
            elif has_text(m, S_DATA):
                payload[0] = m.s[S_DATA]
            return True
        if m.topic != T_RECORD:
            return False
        if action == REC_DELETED:
            return True
        if action == REC_UPDATE:
            payload[0] = m.s[S_DATA]
            return True
        if action == REC_PATCH or action == REC_PATCH_MULTI:
            record = self.core.changed
            if record is None:
                return False
            self.kept = record.text()
            payload.p = PyBytes_AS_STRING(self.kept)
            payload.n = PyBytes_GET_SIZE(self.kept)
            return True
        return False

    # --- answers ---------------------------------------------------------------------------------------------

    cdef int answered(self, Client k, const Msg *m, Buf *out) except -1:
        """An answer of the server to a message of a client; packets for it go to ``out``, or at once if that is NULL."""
        cdef int action = <int>m.i[I_ACTION], original
        cdef bint ack = has_int(m, I_IS_ACK) and m.i[I_IS_ACK]
        cdef bint failed
        cdef bytes key
        cdef object waiting = None
        if m.topic != T_EVENT and m.topic != T_RECORD:
            return 0
        original = <int>m.i[I_ORIGINAL_ACTION] if has_int(m, I_ORIGINAL_ACTION) else 0
        failed = action >= 100
        if m.topic == T_EVENT and failed and original == EVENT_EMIT:
            return self.count_refusal(k, m, action)
        if not ack and not failed and action != REC_WRITE_ACKNOWLEDGEMENT and action != REC_DELETE_SUCCESS:
            return 0
        if has_text(m, S_CORRELATION_ID) and k.pending is not None:
            key = m.s[S_CORRELATION_ID].p[:m.s[S_CORRELATION_ID].n]
            waiting = k.pending.pop(key, None)
            if k.paused and len(k.pending) < UNANSWERED // 2 and k.connection is not None:
                k.paused = False
                self.hub.loop.call_soon(go_on_reading, k.connection)
        if waiting is None and k.deletes and has_text(m, S_NAME) and (
                original == REC_DELETE if failed else action == REC_DELETE_SUCCESS and m.topic == T_RECORD):
            key = m.s[S_NAME].p[:m.s[S_NAME].n]
            acks = k.deletes.get(key)
            if acks:
                waiting = acks.pop(0)
                if not acks:
                    del k.deletes[key]
        if waiting is None:
            if failed and k.session is not None:
                self.lost(k.session, m)
            return 0
        if type(waiting) is Part:
            return self.settle_part(<Part>waiting, ack, out)
        if failed:
            self.count_refusal(k, m, action)
        return self.settle_ack(k, <Ack>waiting, failed, out)

    cdef int count_refusal(self, Client k, const Msg *m, int action) except -1:
        self.refused += 1
        if k.connection is not None:
            k.connection.endpoint.owner.log_refused(
                k.connection, m.topic, action,
                m.s[S_NAME].p[:m.s[S_NAME].n].decode() if has_text(m, S_NAME) else "")
        return 0

    cdef int settle_ack(self, Client k, Ack ack, bint failed, Buf *out) except -1:
        """A publish with the flag has had its effect, or has been refused."""
        cdef char id[2]
        cdef Connection c = k.connection
        ack.done = True
        if c is None:
            return 0
        if failed and ack.emitted:
            # Its event was kept from those who would have seen the record change.
            self.hub.loop.call_soon(self.tell_late, c, ack.topic, ack.payload)
        ack.payload = None
        if not ack.kind:
            return 0
        while k.acks and (<Ack>k.acks[0]).done:
            ack = k.acks.popleft()
            id[0] = <char>(ack.id >> 8)
            id[1] = <char>(ack.id & 255)
            (<MqttProtocol>c.protocol).send_packet(c, ack.kind, id, 2, out)
        return 0

    def tell_late(self, Connection c, bytes topic, bytes payload):
        cdef Subject subject = self.events.find(PyBytes_AS_STRING(topic), PyBytes_GET_SIZE(topic))
        if subject is not None:
            self.to_listeners(subject, c, True, topic, payload)

    cdef int settle_part(self, Part part, bint granted, Buf *out) except -1:
        """The event or the record of a filter was subscribed to, or refused."""
        cdef Client k = part.client
        cdef Request request = part.request
        cdef Session session = k.session
        part.granted = part.granted or granted
        part.left -= 1
        if part.left > 0 or session is None or k.connection is None:
            return 0
        if request is None:
            if not part.granted:
                session.drop_filter(part.text)
            self.hub.loop.call_soon(self.settled, session, k, part.text)
            return 0
        if request.kind == SUBACK and not part.granted:
            request.codes[part.index] = REFUSED
            session.drop_filter(part.text)
            self.hub.loop.call_soon(self.end_filter, session, part.text)
        request.open -= 1
        return finish_request(k.connection, request, out)

    def end_filter(self, Session session, bytes text):
        """A filter was refused that may have been granted before."""
        cdef Connection peer = session.peer()
        if peer is None or text in session.exact:
            return
        for registry in (self.events, self.records):
            if registry is not None:
                (<Registry>registry).unsubscribe(peer, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    cdef int lost(self, Session session, const Msg *m) except -1:
        """New permission rules have ended a subscription."""
        cdef Connection peer = session.peer()
        cdef Subject subject
        cdef bint subscription = has_int(m, I_ORIGINAL_ACTION) and (
            m.topic == T_EVENT and m.i[I_ORIGINAL_ACTION] == EVENT_SUBSCRIBE
            or m.topic == T_RECORD and m.i[I_ORIGINAL_ACTION] == REC_SUBSCRIBE)
        if peer is None or not subscription or not has_text(m, S_NAME):
            return 0
        for registry in (self.events, self.records):
            if registry is not None:
                subject = (<Registry>registry).find(m.s[S_NAME].p, m.s[S_NAME].n)
                if subject is not None and (<Registry>registry).holds(peer, subject):
                    return 0
        return session.drop_filter(m.s[S_NAME].p[:m.s[S_NAME].n])

    # --- sessions --------------------------------------------------------------------------------------------

    def start(self, Connection c not None):
        """A client has logged in: it takes its session over, or begins one."""
        cdef Client k = c.extra
        cdef tuple key = (c.user_id, k.client_id)
        cdef Session session = self.sessions.get(key)
        if session is not None and session.client is not None:
            c.endpoint.owner.log_taken_over(c)
            session.client.connection.close(0)
            session = self.sessions.get(key)
        if session is not None and k.clean:
            self.forget(session)
            session = None
        fresh = session is None
        if fresh:
            session = Session()
            session.broker = self
            session.user_id, session.client_id = key
            self.sessions[key] = session
        elif session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        self.away.pop(key, None)
        session.clean = k.clean
        session.limits = k.limits
        session.client = k
        k.session = session
        c.lasting = True
        if not fresh:
            self.restore(session, c)
        if k.deciding:
            self.hub.loop.call_soon((<MqttProtocol>c.protocol).resume, c)

    cdef int restore(self, Session session, Connection c) except -1:
        """What was not acknowledged once more, then what has come since; the subscriptions with today's permission."""
        cdef MqttProtocol protocol = <MqttProtocol>c.protocol
        cdef Part part
        c.personal = session.reliable > 0
        for id, (topic, payload, retain) in list((session.inflight or {}).items()):
            session.write(protocol, c, id, PUBLISH | QOS_1 | DUP | (RETAIN if retain else 0), topic, payload, NULL)
        session.pump()
        session.restoring = len(session.exact)
        for text, qos in list(session.exact.items()):
            part = Part()
            part.client = session.client
            part.text = text
            part.qos = qos
            protocol.subscribe_exact(c, session.client, part)
        if session.restoring == 0:
            self.hub.loop.call_soon(self.settled, session, session.client, None)
        return 0

    def settled(self, Session session, Client k, bytes text):
        """The subscription of a client that is back is its own now; when all are, its stand-in goes."""
        cdef Absent absent = session.absent
        if session.client is not k or absent is None:
            return
        if text is not None:
            for registry in (self.events, self.records):
                if registry is not None:
                    (<Registry>registry).unsubscribe(absent, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
            session.restoring -= 1
        if session.restoring <= 0:
            session.absent = None
            absent.session = None
            absent.end()

    def ended(self, Connection c):
        """A connection is over (close callback)."""
        cdef Client k = c.extra
        cdef Session session = k.session
        cdef Absent ghost
        k.timer.cancel()
        k.timer.client = None
        if session is not None and k.will is not None and not k.leaving and not self.stopping:
            topic, payload, retain = k.will
            ghost = self.stand_in(c)
            ghost.client = Client()
            ghost.client.connection = ghost
            try:
                if retain:
                    self.tcp.retain(ghost, ghost.client, topic, len(topic), payload, len(payload), 0, 0)
                else:
                    self.tcp.emit(ghost, topic, len(topic), payload, len(payload), None)
            except Exception as error:
                c.log_fault("exception while publishing a last will", error)
        if session is not None and session.client is k:
            if session.clean or self.stopping:
                self.forget(session)
            else:
                self.keep(session, c)
            session.client = None
        k.session = None
        k.pending = None
        k.acks = None
        k.connection = None
        buf_free(&k.stream)

    cdef Absent stand_in(self, Connection c):
        cdef Absent absent = Absent(c.endpoint, None, user_id=c.user_id, server_data=c.server_data,
                                    client_data=c.client_data)
        absent.broker = self
        absent.lasting = True
        return absent

    cdef int keep(self, Session session, Connection c) except -1:
        """The client is away: let a stand-in take what it has asked for with QoS 1, for a time."""
        cdef Absent before = session.absent, absent = self.stand_in(c)
        cdef Subject subject
        cdef bint fresh = False
        cdef tuple key = (session.user_id, session.client_id)
        cdef Session oldest
        absent.session = session
        session.absent = absent
        for text, qos in session.exact.items():
            if not qos:
                continue
            for registry in (self.events, self.records):
                if registry is None:
                    continue
                subject = (<Registry>registry).find(text, len(text))
                if subject is not None and ((<Registry>registry).holds(c, subject) or (
                        before is not None and (<Registry>registry).holds(before, subject))):
                    (<Registry>registry).subscribe(absent, text, len(text), &fresh)
        if before is not None:
            before.session = None
            before.end()
        self.away[key] = session
        session.expiry = self.wheel.call_later(session.limits.session_expiry, Expired(self, session))
        while len(self.away) > session.limits.max_sessions:
            oldest = self.away[next(iter(self.away))]
            self.forget(oldest)
        return 0

    cdef int forget(self, Session session) except -1:
        """End a session; its client, if there is one, is ending too."""
        cdef tuple key = (session.user_id, session.client_id)
        cdef Absent absent = session.absent
        if self.sessions.get(key) is session:
            del self.sessions[key]
        if self.away.get(key) is session:
            del self.away[key]
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        for text in list(session.wild or ()):
            session.drop_filter(text)
        session.absent = None
        session.waiting = None
        if absent is not None:
            absent.session = None
            absent.end()
        return 0


class Decided:
    """Goes on with the deliveries of a session when a permission was decided."""

    __slots__ = ("broker", "entry", "session")

    def __init__(self, broker, session, entry):
        self.broker = broker
        self.session = session
        self.entry = entry

    def __call__(self, future):
        self.entry[0] = True
        self.entry[1] = not future.cancelled() and future.exception() is None and future.result() is True
        deliver_decided(self.broker, self.session)


cdef int deliver_decided(MqttBroker broker, Session session) except -1:
    while session.waiting and session.waiting[0][0]:
        _, allowed, topic, payload, qos = session.waiting.pop(0)
        if allowed:
            broker.give(session, topic, payload, qos)
    return 0


class Expired:
    """Ends a session whose client has not come back."""

    __slots__ = ("broker", "session")

    def __init__(self, broker, session):
        self.broker = broker
        self.session = session

    def __call__(self):
        forget_session(self.broker, self.session)


cdef int forget_session(MqttBroker broker, Session session) except -1:
    session.expiry = None
    return broker.forget(session) if session.client is None else 0


def go_on_reading(Connection c not None):
    """Enough of what this client has asked for is answered."""
    if c.state == ST_OPEN and c.reading_paused and not c.waiting:
        c.reading_paused = False
        c.transport.resume_reading()


cdef int finish_request(Connection c, Request request, Buf *out) except -1:
    """Answer a SUBSCRIBE or UNSUBSCRIBE once everything it asks for is decided."""
    cdef bytes body
    if request.open:
        return 0
    body = request.id.to_bytes(2, "big") + bytes(request.codes)
    return (<MqttProtocol>c.protocol).send_packet(c, request.kind, PyBytes_AS_STRING(body), <size_t>len(body), out)


cdef void give_back(Buf *home, Buf *taken) noexcept:
    """Keep a buffer for the next time, unless there is another one or it has become large."""
    if home.p == NULL and taken.cap <= KEPT_BUFFER:
        home[0] = taken[0]
        home.n = 0
    else:
        buf_free(taken)


cdef inline bint take(const char *p, size_t n, size_t *at, Slice *s) noexcept nogil:
    """Read a length of two bytes and what it counts; False if that is cut off."""
    if n - at[0] < 2:
        return False
    s.n = <uint8_t>p[at[0]] << 8 | <uint8_t>p[at[0] + 1]
    if n - at[0] - 2 < <size_t>s.n:
        return False
    s.p = p + at[0] + 2
    at[0] += 2 + <size_t>s.n
    return True


cdef inline bint is_text(Slice *s) noexcept nogil:
    """UTF-8 without NUL."""
    cdef Py_ssize_t i
    for i in range(s.n):
        if s.p[i] == 0:
            return False
    return utf8_check(s.p, s.n)


cdef int put_json_string(Buf *out, const char *p, size_t n) except -1:
    """Append UTF-8 text as a JSON string."""
    cdef char *q = buf_room(out, 6 * n + 2)
    cdef char *begin = q
    cdef size_t i
    cdef uint8_t byte
    q[0] = c'"'
    q += 1
    for i in range(n):
        byte = <uint8_t>p[i]
        if byte == c'"' or byte == c"\\":
            q[0] = c"\\"
            q[1] = <char>byte
            q += 2
        elif byte < 0x20:
            memcpy(q, b"\\u00", 4)
            q[4] = c"0" + (byte >> 4)
            q[5] = b"0123456789abcdef"[byte & 15]
            q += 6
        else:
            q[0] = <char>byte
            q += 1
    q[0] = c'"'
    out.n += q + 1 - begin
    return 0


cdef class MqttProtocol(Protocol):
    """MQTT on a TCP connection."""

    def __init__(self, int number):
        super().__init__(number, "mqtt", 2)
        self.lossy = True

    # --- receiving -------------------------------------------------------------------------------------------

    cdef int opened(self, Connection c) except -1:
        cdef Client k = Client()
        k.connection = c
        k.limits = c.endpoint.owner.limits
        k.patience = k.limits.idle_timeout
        k.timer = Silence()
        k.timer.client = k
        c.extra = k
        c.on_close(self.broker.ended_callback)
        return c.endpoint.wheel.schedule(k.timer, k.patience + 1)

    cdef size_t read(self, Connection c, const char *p, size_t n) except? 999999999:
        cdef size_t used = self.packets(c, <Client>c.extra, p, n)
        if c.state >= ST_CLOSING:
            return n
        if c.state == ST_AUTH_RUNNING and n - used > EARLY_BYTES and not c.reading_paused:
            c.reading_paused = True
            c.transport.pause_reading()
        return used

    def resume(self, Connection c not None):
        """The login is decided: handle what the client has sent meanwhile."""
        if c.state != ST_OPEN:
            return
        if c.reading_paused:
            c.reading_paused = False
            c.transport.resume_reading()
        try:
            self.go_on(c)
        except Exception as error:
            c.log_fault("exception while reading from a connection", error)
            c.close(1011)

    cdef int go_on(self, Connection c) except -1:
        return c.receive(c.rest.p, c.rest.n) if c.rest.n else 0

    cdef size_t packets(self, Connection c, Client k, const char *p, size_t n) except? 999999999:
        """Handle all whole packets in p[0:n]; returns how many bytes they were."""
        cdef size_t pos = 0, size, head
        cdef int first, shift
        cdef uint8_t byte
        while pos < n and c.state < ST_CLOSING and c.state != ST_AUTH_RUNNING:
            first = <uint8_t>p[pos]
            if unlikely(not k.asked and first != CONNECT):
                self.violation(c, "the first packet is no CONNECT")
                return n
            size = 0
            shift = 0
            head = 1
            while True:
                if head >= n - pos:
                    return pos
                byte = <uint8_t>p[pos + head]
                head += 1
                size |= <size_t>(byte & 127) << shift
                if byte < 128:
                    break
                shift += 7
                if shift > 21:
                    self.violation(c, "the length of a packet has more than four bytes")
                    return n
            if unlikely(size > k.limits.max_packet):
                c.endpoint.owner.log_too_large(c)
                c.close(1009)
                return n
            if n - pos - head < size:
                c.need = head + size
                return pos
            if likely(first & 0xF0 == PUBLISH):
                self.publish(c, k, first, p + pos + head, size)
            else:
                self.packet(c, k, first, p + pos + head, size)
            pos += head + size
        return pos

    cdef int violation(self, Connection c, str text) except -1:
        """What is no MQTT ends the connection, without an answer."""
        c.endpoint.bad_messages += 1
        c.endpoint.owner.log_limited(c, "INVALID_MESSAGE", text)
        return c.close(1002)

    cdef int packet(self, Connection c, Client k, int first, const char *p, size_t n) except -1:
        """Everything but PUBLISH."""
        cdef int id
        cdef Session session = k.session
        if first == CONNECT:
            return self.violation(c, "a second CONNECT") if k.asked else self.connect(c, k, p, n)
        if first == SUBSCRIBE:
            return self.subscribe(c, k, p, n)
        if first == UNSUBSCRIBE:
            return self.unsubscribe(c, k, p, n)
        if first == PINGREQ and n == 0:
            return self.send_packet(c, PINGRESP, NULL, 0, NULL)
        if first == DISCONNECT and n == 0:
            k.leaving = True
            c.peer_closed = not self.wrapped    # it sends no more
            return c.close(1000)
        if n != 2 or (first != PUBACK and first != PUBREC and first != PUBREL and first != PUBCOMP):
            return self.violation(c, f"a packet that no client sends, or malformed: {first:#04x}, {n} bytes")
        id = <uint8_t>p[0] << 8 | <uint8_t>p[1]
        if first == PUBREL:
            if session is not None and session.received != NULL:
                session.received[id >> 3] &= ~<uint8_t>(1 << (id & 7))
            return self.send_packet(c, PUBCOMP, p, 2, NULL)
        if first == PUBACK and session is not None and session.inflight is not None:
            if session.inflight.pop(id, None) is not None:
                session.pump()
        return 0

    cdef int connect(self, Connection c, Client k, const char *p, size_t n) except -1:
        cdef size_t at = 0
        cdef Slice name, client_id, topic, payload, user, password
        cdef int level, flags, keep_alive
        cdef bint old
        cdef dict login = {}
        cdef bytes raw
        cdef Msg m
        k.asked = True
        if not take(p, n, &at, &name) or n - at < 1:
            return self.violation(c, "a malformed CONNECT")
        level = <uint8_t>p[at]
        at += 1
        old = name.n == 6 and name.p[:6] == b"MQIsdp"
        if not old and not (name.n == 4 and name.p[:4] == b"MQTT"):
            return self.violation(c, "a CONNECT of another protocol")
        if level != (3 if old else 4):
            if level == 5 and not old:
                self.send_packet(c, CONNACK, b"\x00\x84\x00", 3, NULL)
            else:
                self.connack(c, False, 1, NULL)
            c.endpoint.owner.log_limited(c, "INVALID_MESSAGE", f"MQTT protocol level {level} is not spoken here")
            return c.close(1002)
        if n - at < 3:
            return self.violation(c, "a malformed CONNECT")
        flags = <uint8_t>p[at]
        keep_alive = <uint8_t>p[at + 1] << 8 | <uint8_t>p[at + 2]
        at += 3
        if (flags & 1 or (not flags & 4 and flags & 0x38) or flags & 0x18 == 0x18
                or (flags & 0x40 and not flags & 0x80)):
            return self.violation(c, "a CONNECT with flags that contradict each other")
        if not take(p, n, &at, &client_id) or not is_text(&client_id):
            return self.violation(c, "a CONNECT with a malformed client id")
        if flags & 4:
            if not take(p, n, &at, &topic) or not take(p, n, &at, &payload):
                return self.violation(c, "a CONNECT with a malformed will")
            if not topic_ok(topic.p, topic.n) or <size_t>topic.n > k.limits.max_topic:
                return self.violation(c, "a CONNECT with a will whose topic is none")
            k.will = (topic.p[:topic.n], payload.p[:payload.n], flags & 0x20 != 0)
        if flags & 0x80:
            if not take(p, n, &at, &user) or not is_text(&user):
                return self.violation(c, "a CONNECT with a malformed user name")
            login["username"] = user.p[:user.n].decode()
        if flags & 0x40:
            if not take(p, n, &at, &password):
                return self.violation(c, "a CONNECT with a malformed password")
            login["password"] = password.p[:password.n].decode("utf-8", "replace")
        if at != n:
            return self.violation(c, "a CONNECT with more than it should have")
        k.clean = flags & 2 != 0
        if client_id.n > MAX_CLIENT_ID or (client_id.n == 0 and (old or not k.clean)):
            self.connack(c, False, 2, NULL)
            return c.close(1002)
        k.client_id = client_id.p[:client_id.n].decode() if client_id.n else uuid.uuid4().hex
        if not k.limits.session_expiry or not k.limits.max_sessions:
            k.clean = True
        if keep_alive:
            k.patience = <uint64_t>keep_alive * 1500
            c.endpoint.wheel.schedule(k.timer, k.patience + 1)
        c.state = ST_AUTH
        raw = encode(Message(T_AUTH, AU_REQUEST, data=dumps(login)))
        decode_msg(PyBytes_AS_STRING(raw), PyBytes_AS_STRING(raw) + len(raw), &m)
        c.on_message(&m, PyBytes_AS_STRING(raw), <size_t>len(raw))
        k.deciding = c.state == ST_AUTH_RUNNING
        return 0

    cdef int publish(self, Connection c, Client k, int first, const char *p, size_t n) except -1:
        cdef int qos = first >> 1 & 3, kind = 0
        cdef uint16_t id = 0
        cdef size_t at = 0
        cdef Slice topic
        if not take(p, n, &at, &topic) or not topic_ok(topic.p, topic.n):
            return self.violation(c, "a PUBLISH whose topic is none")
        if unlikely(<size_t>topic.n > k.limits.max_topic):
            return self.violation(c, "a PUBLISH whose topic is too long")
        if unlikely(qos):
            if qos == 3 or n - at < 2:
                return self.violation(c, "a malformed PUBLISH")
            id = <uint16_t>(<uint8_t>p[at] << 8 | <uint8_t>p[at + 1])
            at += 2
            if id == 0:
                return self.violation(c, "a PUBLISH with packet id 0")
            kind = PUBACK if qos == 1 else PUBREC
            if qos == 2 and not k.session.receives(id):
                # Sent again, since our answer was lost or is still to come.
                return self.acknowledge(c, k, kind, id)
        if unlikely(first & RETAIN):
            return self.retain(c, k, topic.p, topic.n, p + at, <Py_ssize_t>(n - at), kind, id)
        self.emit(c, topic.p, topic.n, p + at, <Py_ssize_t>(n - at), None)
        return self.acknowledge(c, k, kind, id) if kind else 0

    cdef int acknowledge(self, Connection c, Client k, int kind, uint16_t id) except -1:
        """Answer a publish that has been handed over, behind those whose answers are still to come."""
        cdef char body[2]
        cdef Ack ack
        if k.acks:
            ack = Ack()
            ack.kind = kind
            ack.id = id
            ack.done = True
            k.acks.append(ack)
            return 0
        body[0] = <char>(id >> 8)
        body[1] = <char>(id & 255)
        return self.send_packet(c, kind, body, 2, NULL)

    cdef int emit(self, Connection c, const char *name, Py_ssize_t n, const char *payload, Py_ssize_t size,
                  bytes mark) except -1:
        """Publish an event as this client; ``mark``: what to put into the correlation id, for JSON."""
        cdef Msg m
        cdef bytes text
        cdef Buf[3] taken
        if self.broker.events is None:
            return 0
        start(&m, T_EVENT, EVENT_EMIT)
        set_text(&m, S_NAME, name, n)
        if likely(size and json_check(payload, size) >= 0):
            set_text(&m, S_DATA, payload, size)
            if mark is not None:
                set_text(&m, S_CORRELATION_ID, PyBytes_AS_STRING(mark), PyBytes_GET_SIZE(mark))
        else:
            text_buf.n = mark_buf.n = 0
            if utf8_check(payload, size):
                put_json_string(&text_buf, payload, <size_t>size)
                buf_add(&mark_buf, b"t", 1)
                buf_add(&mark_buf, payload, <size_t>size)
            else:
                text = payload[:size].decode("utf-8", "replace").encode()
                put_json_string(&text_buf, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
                text = b"b" + payload[:size].hex().encode()
                buf_add(&mark_buf, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
            set_text(&m, S_DATA, text_buf.p, <Py_ssize_t>text_buf.n)
            set_text(&m, S_CORRELATION_ID, mark_buf.p, <Py_ssize_t>mark_buf.n)
        raw_buf.n = 0
        encode_msg(&m, &raw_buf)
        m.canonical = True
        m.body = m.end = raw_buf.p
        # Foreign code may be asked on the way and end a connection, whose last will is published from here too.
        taken[0], taken[1], taken[2] = raw_buf, text_buf, mark_buf
        raw_buf.p = text_buf.p = mark_buf.p = NULL
        raw_buf.cap = text_buf.cap = mark_buf.cap = 0
        try:
            return c.on_message(&m, taken[0].p, taken[0].n)
        finally:
            give_back(&raw_buf, &taken[0])
            give_back(&text_buf, &taken[1])
            give_back(&mark_buf, &taken[2])

    cdef int retain(self, Connection c, Client k, const char *name, Py_ssize_t n, const char *payload, Py_ssize_t size,
                    int kind, uint16_t id) except -1:
        """A publish with the retain flag: the record of that name is written, or deleted, and the event emitted."""
        cdef int flags = json_check(payload, size) if size else 0
        cdef bint document = flags > 0 and (flags & JSON_KIND_MASK == JSON_OBJECT or flags & JSON_KIND_MASK == JSON_ARRAY)
        cdef Ack ack
        cdef Message message
        cdef bytes topic = name[:n], key = None
        if self.broker.records is None or (size and not document):
            if size:
                c.endpoint.owner.log_limited(
                    c, "INVALID_MESSAGE_DATA",
                    f"{topic.decode()}: a retained payload that is no JSON object or array is not kept")
                self.emit(c, name, n, payload, size, None)
            return self.acknowledge(c, k, kind, id) if kind else 0
        ack = Ack()
        ack.kind = kind
        ack.id = id
        if kind:
            if k.acks is None:
                k.acks = deque()
            k.acks.append(ack)
        if size == 0:
            if k.deletes is None:
                k.deletes = {}
            k.deletes.setdefault(topic, []).append(ack)
            message = Message(T_RECORD, REC_DELETE, name=topic.decode())
        else:
            ack.topic = topic
            ack.payload = payload[:size]
            # The answer is asked for whatever the QoS: if there will be no record, the event is told to all.
            key = self.expect(k, ack)
            self.emit(c, name, n, payload, size, b"r" + key)
            message = Message(T_RECORD, REC_CREATEANDUPDATE, name=topic.decode(), data=ack.payload, version=-1,
                              is_write_ack=True)
        return self.ask(c, k, key, message)

    cdef bytes expect(self, Client k, object waiting):
        """A correlation id; the answer with it will be for ``waiting``."""
        cdef bytes key
        k.counter += 1
        key = str(k.counter).encode()
        if k.pending is None:
            k.pending = {}
        k.pending[key] = waiting
        return key

    cdef int ask(self, Connection c, Client k, bytes key, Message message) except -1:
        """Send a message of a client on its way; ``key`` is its correlation id, or None."""
        cdef bytes raw
        cdef Msg m
        if key is not None:
            message.correlation_id = key.decode()
            if k.pending is not None and len(k.pending) > UNANSWERED and not c.reading_paused and c.transport is not None:
                k.paused = c.reading_paused = True
                c.transport.pause_reading()
        raw = encode(message)
        decode_msg(PyBytes_AS_STRING(raw), PyBytes_AS_STRING(raw) + len(raw), &m)
        return c.on_message(&m, PyBytes_AS_STRING(raw), <size_t>len(raw))

    cdef int subscribe(self, Connection c, Client k, const char *p, size_t n) except -1:
        cdef size_t at = 2
        cdef Slice s
        cdef list wanted = []
        cdef Request request
        cdef Session session = k.session
        cdef Part part
        cdef bytes text
        cdef int kind, qos
        if n < 2 or (p[0] == 0 and p[1] == 0):
            return self.violation(c, "a malformed SUBSCRIBE")
        while at < n:
            if not take(p, n, &at, &s) or at >= n:
                return self.violation(c, "a malformed SUBSCRIBE")
            text = s.p[:s.n]
            qos = <uint8_t>p[at]
            at += 1
            kind = filter_kind(text)
            if qos > 2 or kind == FILTER_INVALID:
                return self.violation(c, "a SUBSCRIBE with a filter or a QoS that is none")
            wanted.append((text, min(qos, 1), kind == FILTER_WILD))
        if not wanted:
            return self.violation(c, "a SUBSCRIBE without a filter")
        request = Request()
        request.kind = SUBACK
        request.id = <uint16_t>(<uint8_t>p[0] << 8 | <uint8_t>p[1])
        request.codes = bytearray(len(wanted))
        request.open = 1 + len(wanted)
        for index, (text, qos, wild) in enumerate(wanted):
            if c.state >= ST_CLOSING:
                return 0
            request.codes[index] = qos
            held = len(session.exact) + (0 if session.wild is None else len(session.wild))
            known = text in session.exact or (session.wild is not None and text in session.wild)
            if (<size_t>len(text) > k.limits.max_topic or text.split(b"/")[0] in (b"$SYS", b"$share")
                    or (held >= k.limits.max_filters and not known)
                    or (wild and self.broker.events is None)):
                request.codes[index] = REFUSED
                request.open -= 1
                continue
            session.set_filter(text, qos, wild)
            if qos and not c.personal:
                become_personal(c)
            if wild:
                request.open -= 1       # each name is decided about when something is published to it
                continue
            part = Part()
            part.client = k
            part.request = request
            part.text = text
            part.index = index
            self.subscribe_exact(c, k, part)
        request.open -= 1
        return finish_request(c, request, NULL)

    cdef int subscribe_exact(self, Connection c, Client k, Part part) except -1:
        """Subscribe to the event and the record of a name, and ask for the record."""
        cdef MqttBroker broker = self.broker
        cdef str name = part.text.decode()
        cdef bint events = broker.events is not None, records = broker.records is not None
        part.left = events + records
        if part.left == 0:
            part.left = 1
            return broker.settle_part(part, False, NULL)
        if events:
            self.ask(c, k, self.expect(k, part), Message(T_EVENT, EVENT_SUBSCRIBE, names=[name]))
        if records:
            self.ask(c, k, self.expect(k, part), Message(T_RECORD, REC_SUBSCRIBE, names=[name]))
            if k.limits.send_record and part.request is not None:
                c.handle(Message(T_RECORD, REC_READ, name=name))
        return 0

    cdef int unsubscribe(self, Connection c, Client k, const char *p, size_t n) except -1:
        cdef size_t at = 2
        cdef Slice s
        cdef list unwanted = []
        cdef Request request
        cdef Part part
        cdef MqttBroker broker = self.broker
        cdef bytes text
        if n < 2 or (p[0] == 0 and p[1] == 0):
            return self.violation(c, "a malformed UNSUBSCRIBE")
        while at < n:
            if not take(p, n, &at, &s) or filter_kind(s.p[:s.n]) == FILTER_INVALID:
                return self.violation(c, "a malformed UNSUBSCRIBE")
            unwanted.append(s.p[:s.n])
        if not unwanted:
            return self.violation(c, "an UNSUBSCRIBE without a filter")
        request = Request()
        request.kind = UNSUBACK
        request.id = <uint16_t>(<uint8_t>p[0] << 8 | <uint8_t>p[1])
        request.codes = bytearray()
        request.open = 1
        for text in unwanted:
            k.session.drop_filter(text)
            if filter_kind(text) == FILTER_WILD or (broker.events is None and broker.records is None):
                continue
            part = Part()
            part.client = k
            part.request = request
            part.text = text
            part.left = (broker.events is not None) + (broker.records is not None)
            request.open += 1
            if broker.events is not None:
                self.ask(c, k, self.expect(k, part), Message(T_EVENT, EVENT_UNSUBSCRIBE, names=[text.decode()]))
            if broker.records is not None:
                self.ask(c, k, self.expect(k, part), Message(T_RECORD, REC_UNSUBSCRIBE, names=[text.decode()]))
        request.open -= 1
        return finish_request(c, request, NULL)

    # --- sending ---------------------------------------------------------------------------------------------

    cdef int send_packet(self, Connection c, int first, const char *p, size_t n, Buf *out) except -1:
        """A packet of less than 128 bytes, or with any number of codes; to ``out``, or at once if that is NULL."""
        cdef Buf *target = out if out != NULL else &packet_buf
        if out == NULL:
            packet_buf.n = 0
        put_head(target, self.wrapped, first, n)
        if n:
            buf_add(target, p, n)
        return c.hub.send_frame(c, packet_buf.p, packet_buf.n) if out == NULL else 0

    cdef int put_publish(self, Buf *out, int first, const char *name, Py_ssize_t n, int id, const char *payload,
                         Py_ssize_t size) except -1:
        """Append a PUBLISH; ``id`` 0: without one. Nothing if it would be longer than a packet can be."""
        cdef size_t length = <size_t>(n + size) + (4 if id else 2)
        cdef char *q
        if unlikely(n > 65535 or length > MAX_REMAINING):
            return 0
        put_head(out, self.wrapped, first, length)
        q = buf_room(out, length)
        q[0] = <char>(n >> 8)
        q[1] = <char>(n & 255)
        memcpy(q + 2, name, <size_t>n)
        q += 2 + n
        if id:
            q[0] = <char>(id >> 8)
            q[1] = <char>(id & 255)
            q += 2
        memcpy(q, payload, <size_t>size)
        out.n += length
        return 0

    cdef int connack(self, Connection c, bint present, int code, Buf *out) except -1:
        cdef char body[2]
        body[0] = 1 if present else 0
        body[1] = <char>code
        return self.send_packet(c, CONNACK, body, 2, out)

    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1:
        cdef Slice payload
        if not self.broker.payload_of(m, &payload):
            return 0
        return self.put_publish(out, PUBLISH, m.s[S_NAME].p, m.s[S_NAME].n, 0, payload.p, payload.n)

    cdef int encode_for(self, Peer peer, const Msg *m, Buf *out, list names, dict versions) except -1:
        # Nothing here may send: ``out`` is what the hub is about to send itself.
        cdef Connection c = <Connection>peer
        cdef Client k = c.extra
        cdef Slice payload
        cdef Session session
        cdef int qos
        cdef bint current
        if k is None:
            return 0
        if m.topic == T_AUTH:
            if m.i[I_ACTION] == AU_SUCCESSFUL:
                session = self.broker.sessions.get((c.user_id, k.client_id))
                return self.connack(c, session is not None and not session.clean and not k.clean, 0, out)
            if m.i[I_ACTION] == AU_UNSUCCESSFUL:
                return self.connack(c, False, 3 if k.unavailable else 5, out)
            return 0
        current = m.topic == T_RECORD and m.i[I_ACTION] == REC_READ_RESPONSE
        if current:
            if m.i[I_VERSION] < 0:
                return 0
            payload = m.s[S_DATA]
        elif not self.broker.payload_of(m, &payload):
            return self.broker.answered(k, m, out)
        session = k.session
        if session is None:
            return 0
        qos = session.qos_of(m.s[S_NAME].p[:m.s[S_NAME].n]) if session.reliable else 0
        if qos == 0 and not current and c.blocked and self.broker.spares(c, m):
            return 0
        if qos == 0:
            return self.put_publish(out, PUBLISH | (RETAIN if current else 0), m.s[S_NAME].p, m.s[S_NAME].n, 0,
                                    payload.p, payload.n)
        return session.push(m.s[S_NAME].p[:m.s[S_NAME].n], payload.p[:payload.n], current, out)

    cdef size_t frame_end(self, const char *p, size_t n, size_t at) noexcept nogil:
        cdef size_t pos = 0, size
        cdef int shift
        while pos <= at and pos < n:
            pos += 1
            size = 0
            shift = 0
            while True:
                size |= <size_t>(<uint8_t>p[pos] & 127) << shift
                shift += 7
                pos += 1
                if <uint8_t>p[pos - 1] < 128:
                    break
            pos += size
        return pos


cdef class MqttStreamProtocol(MqttProtocol):
    """MQTT in the binary messages of a websocket, whose bounds mean nothing."""

    def __init__(self, int number):
        Protocol.__init__(self, number, "mqtt", 2, "mqtt")
        self.lossy = True
        self.wrapped = True

    cdef int decode(self, Connection c, const char *p, size_t n) except -1:
        cdef Client k = c.extra
        cdef size_t used = 0
        if k.stream.n == 0:
            used = self.packets(c, k, p, n)
            if c.state < ST_CLOSING and used < n:
                buf_add(&k.stream, p + used, n - used)
        else:
            buf_add(&k.stream, p, n)
            self.go_on(c)
        if c.state == ST_AUTH_RUNNING and k.stream.n > EARLY_BYTES and not c.reading_paused:
            c.reading_paused = True
            c.transport.pause_reading()
        return 0

    cdef int go_on(self, Connection c) except -1:
        """Handle the packets that are complete."""
        cdef Client k = c.extra
        cdef Buf stream = k.stream
        cdef size_t used
        if stream.n == 0:
            return 0
        k.stream = Buf(NULL, 0, 0)      # whatever ends the connection meanwhile does not free what is read
        try:
            used = self.packets(c, k, stream.p, stream.n)
            if c.state < ST_CLOSING and used < stream.n:
                if used == 0:
                    k.stream = stream
                    stream = Buf(NULL, 0, 0)
                else:
                    buf_add(&k.stream, stream.p + used, stream.n - used)
        finally:
            buf_free(&stream)
        return 0

    cdef size_t frame_end(self, const char *p, size_t n, size_t at) noexcept nogil:
        return Codec.frame_end(self, p, n, at)


cdef int put_head(Buf *out, bint wrapped, int first, size_t n) except -1:
    """Append the beginning of a packet whose rest has ``n`` bytes, in a websocket frame if it is ``wrapped``."""
    cdef char head[5]
    cdef size_t left = n
    cdef int h = 1
    cdef char *q
    head[0] = <char>first
    while True:
        head[h] = <char>(left & 127)
        left >>= 7
        if left:
            head[h] |= <char>128
        h += 1
        if not left:
            break
    q = buf_room(out, 16)
    if wrapped:
        out.n += frame_header(q, n + <size_t>h, 2)
        q = out.p + out.n
    memcpy(q, head, <size_t>h)
    out.n += <size_t>h
    return 0


cdef int become_personal(Connection c) except -1:
    """From now on each broadcast is given to this client alone, since it may need a packet id."""
    cdef uint32_t i
    c.hub.expand()
    for i in range(c.n_subs):
        (<Subject>c.subs[i].subject).codecs |= 1
    c.personal = True
    return 0
