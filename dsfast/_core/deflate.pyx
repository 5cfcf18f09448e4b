"""Compressed websocket messages: permessage-deflate (RFC 7692).

No message refers to an earlier one, in neither direction ("no context takeover"). So a broadcast is compressed once for
all its subscribers, and a connection keeps no memory for compression. A compressed protocol is a codec of its own, which
leaves those who do not compress on their path.
"""
import re
import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from dsfast._core.buffer cimport Buf, buf_add, buf_free, buf_room, likely
from dsfast._core.fanout cimport Codec, Peer
from dsfast._core.protocol cimport Msg, encode_frame, frame_header

cdef enum:
    MAX_STREAMS = 16        # ends of a deflate stream within one message
    COMPRESSED = 0x40       # bit RSV1 of a frame

cdef bytes TAIL = b"\0\0\xff\xff"
"""What every flush ends with, and what is left out on the wire."""

FULL_WINDOW, SMALL_WINDOW = 15, 9
EXTENSION = "permessage-deflate"
_PARAMETER = re.compile(r'([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*=[ \t]*(?:"([^"\\]*)"|([!#$%&\'*+.^_`|~0-9A-Za-z-]+)))?')
_BITS = re.compile("8|9|1[0-5]")


def negotiate(str header not None):
    """The window (bits) for what is sent, by the first offer that can be met; None if there is none.

    ``header`` is the value of Sec-WebSocket-Extensions.
    """
    for offer in header.split(","):
        bits = offered_window(offer)
        if bits is not None:
            return bits
    return None


cdef object offered_window(str offer):
    words = [_PARAMETER.fullmatch(word.strip(" \t")) for word in offer.split(";")]
    if not all(words) or words[0].group(0) != EXTENSION:
        return None
    values = {}
    for word in words[1:]:
        name = word[1]
        if name in values:
            return None
        values[name] = word[3] if word[2] is None else word[2]
    window = FULL_WINDOW
    for name, value in values.items():
        if name == "server_no_context_takeover" or name == "client_no_context_takeover":
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            # zlib cannot do 8; anything else that is less than full gets the window that fits all of them.
            if value is None or not _BITS.fullmatch(value) or value == "8":
                return None
            window = FULL_WINDOW if value == "15" else SMALL_WINDOW
        elif name != "client_max_window_bits" or (value is not None and not _BITS.fullmatch(value)):
            return None
    return window


def agreement(int window_bits):
    """The header that tells the client what was agreed upon."""
    text = f"Sec-WebSocket-Extensions: {EXTENSION}; server_no_context_takeover; client_no_context_takeover"
    if window_bits != FULL_WINDOW:
        text += f"; server_max_window_bits={window_bits}"
    return f"{text}\r\n".encode()


cdef bytes inflate(const char *p, size_t n, size_t limit):
    """What a compressed message says; None if that is longer than ``limit``. Raises ValueError if it is damaged."""
    cdef bytes data = PyBytes_FromStringAndSize(p, <Py_ssize_t>n) + TAIL
    cdef bytes piece, result = b""
    cdef int streams
    for streams in range(MAX_STREAMS):
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            piece = stream.decompress(data, limit + 1 - <size_t>len(result))
        except zlib.error:
            raise ValueError("damaged data") from None
        result = piece if not result else result + piece
        if <size_t>len(result) > limit:
            return None
        if not stream.eof:
            return result
        # A sender may end the stream; whatever follows in the message is another one.
        data = stream.unused_data
        if not data:
            return result
    raise ValueError("too many streams in one message")


cdef class DeflateCodec(Codec):
    """Another protocol, whose larger frames are compressed."""

    def __init__(self, int number, Codec base, int window_bits, int level, size_t threshold):
        """Frames of ``threshold`` bytes and more are compressed, with ``level`` 1 (fast) to 9; base None is binary."""
        super().__init__(number)
        self.base = base
        self.window_bits = window_bits
        self.level = level
        self.threshold = max(threshold, <size_t>1)

    def __dealloc__(self):
        buf_free(&self.frames)

    cdef int encode(self, const Msg *m, Buf *out, list names, dict versions) except -1:
        cdef size_t off = out.n
        if self.base is None:
            encode_frame(m, out, names, versions)
        else:
            self.base.encode(m, out, names, versions)
        return self.compress(out, off)

    cdef int encode_for(self, Peer peer, const Msg *m, Buf *out, list names, dict versions) except -1:
        cdef size_t off = out.n
        if self.base is None:
            encode_frame(m, out, names, versions)
        else:
            self.base.encode_for(peer, m, out, names, versions)
        return self.compress(out, off)

    cdef int compress(self, Buf *out, size_t off) except -1:
        """Compress the frames that have just been appended at ``off``."""
        cdef size_t pos = 0, size, head, total = out.n - off, n
        cdef const uint8_t *u
        cdef char *q
        cdef bytes data
        cdef int i
        if likely(total < self.threshold):
            return 0
        self.frames.n = 0
        buf_add(&self.frames, out.p + off, total)
        out.n = off
        while pos < total:
            u = <const uint8_t*>self.frames.p + pos
            size = u[1]
            head = 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = 0
                for i in range(2, <int>head):
                    size = size << 8 | u[i]
            data = self.deflate(<const char*>u + head, size) if size >= self.threshold else None
            n = <size_t>PyBytes_GET_SIZE(data) if data is not None else size
            if n >= size:
                buf_add(out, <const char*>u, head + size)
            else:
                q = buf_room(out, n + 10)
                i = <int>frame_header(q, n, COMPRESSED | u[0] & 15)
                memcpy(q + i, PyBytes_AS_STRING(data), n)
                out.n += <size_t>i + n
            pos += head + size
        if self.frames.cap > 1 << 20:
            buf_free(&self.frames)
        return 0

    cdef bytes deflate(self, const char *p, size_t n):
        """A message compressed for itself alone."""
        cdef bytes data
        compressor, self.compressor = self.compressor, None
        if compressor is None:
            compressor = zlib.compressobj(self.level, zlib.DEFLATED, -self.window_bits)
        data = compressor.compress(PyBytes_FromStringAndSize(p, <Py_ssize_t>n)) + compressor.flush(zlib.Z_FULL_FLUSH)
        self.compressor = compressor        # not kept if it failed half-way
        n = <size_t>PyBytes_GET_SIZE(data) - 4
        if memcmp(PyBytes_AS_STRING(data) + n, PyBytes_AS_STRING(TAIL), 4) != 0:
            raise RuntimeError("the compressed data do not end as they have to")
        return data[:n]


def inflated(bytes data not None, size_t limit):
    """What a compressed message says; None if that is longer than ``limit``. Raises ValueError if it is damaged."""
    return inflate(PyBytes_AS_STRING(data), <size_t>len(data), limit)


class Deflate:
    """How the connections of an endpoint compress. ``codec(window_bits)`` gives the :class:`DeflateCodec` for a window."""

    def __init__(self, codec):
        self._codec = codec

    def negotiate(self, header):
        """The codec and the header of the answer; ``(None, b"")`` without compression."""
        bits = negotiate(header)
        return (None, b"") if bits is None else (self._codec(bits), agreement(bits))
