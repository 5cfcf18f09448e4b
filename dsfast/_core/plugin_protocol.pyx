"""A protocol whose messages are read and written by a plugin; everything else is that of the core (plugins.md B.7)."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from dsfast._core.buffer cimport Buf, buf_room
from dsfast._core.connection cimport ST_CLOSING, Connection, Protocol
from dsfast._core.protocol cimport Message, Msg, decode_msg, frame_header, to_message
from dsfast._core.protocol import encode


cdef class PluginProtocol(Protocol):
    """``owner.parse(frame)`` gives the messages of a websocket message, ``owner.encode(message)`` its frames.

    Both are str for text frames and bytes for binary ones. What ``parse`` raises, and what it returns that is no
    message, counts as a bad message of the client; what ``encode`` raises is logged and nothing is sent.
    """

    def __init__(self, int number, owner, str socket_type not None, bint binary):
        super().__init__(number, socket_type, 2 if binary else 1)
        self.owner = owner

    cdef int decode(self, Connection c, const char *p, size_t n) except -1:
        cdef bytes frame = PyBytes_FromStringAndSize(p, <Py_ssize_t>n)
        cdef bytes raw
        cdef const char *q
        cdef Msg m
        cdef list encoded = []
        try:
            for message in self.owner.parse(frame if self.opcode == 2 else frame.decode()):
                if not isinstance(message, Message):
                    raise TypeError(f"{message!r} is no message")
                encoded.append(encode(message))
        except Exception as error:
            c.endpoint.owner.log_limited(c, "MESSAGE_PARSE_ERROR", repr(error))
            encoded.append(b"")
        for raw in encoded:
            q = PyBytes_AS_STRING(raw)
            if not raw or decode_msg(q, q + PyBytes_GET_SIZE(raw), &m) == NULL:
                return c.on_malformed()
            c.on_message(&m, q, <size_t>PyBytes_GET_SIZE(raw))
            if c.state >= ST_CLOSING:
                return 0
        return 0

    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1:
        cdef Message message = to_message(m)
        cdef size_t before = out.n
        cdef bytes payload
        cdef list payloads = []
        if names is not None:
            message.names = names
        if versions is not None:
            message.versions = {key.decode() if type(key) is bytes else key: value for key, value in versions.items()}
        try:
            frames = self.owner.encode(message)
            for frame in [frames] if isinstance(frames, (str, bytes)) else frames or ():
                if isinstance(frame, str) is (self.opcode == 2):
                    raise TypeError(f"a frame is {type(frame).__name__}")
                payloads.append(frame.encode() if self.opcode == 1 else bytes(frame))
        except Exception as error:
            self.owner.log_exception("exception while encoding a message", error)
            payloads = []
        if out.n != before:
            # What was sent meanwhile lies where the caller takes these frames to be: others would get it.
            raise RuntimeError("encode must not send anything")
        for payload in payloads:
            self.put(payload, out)
        return 0

    cdef int put(self, bytes payload, Buf *out) except -1:
        cdef size_t n = <size_t>PyBytes_GET_SIZE(payload)
        cdef char *q = buf_room(out, n + 10)
        cdef size_t h = frame_header(q, n, self.opcode)
        memcpy(q + h, PyBytes_AS_STRING(payload), n)
        out.n += h + n
        return 0
