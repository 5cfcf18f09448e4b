"""Compressed websocket messages."""
from dsfast._core.buffer cimport Buf
from dsfast._core.fanout cimport Codec

cdef class DeflateCodec(Codec):
    cdef readonly Codec base        # None: the binary protocol
    cdef readonly int window_bits
    cdef readonly int level
    cdef readonly size_t threshold
    cdef object compressor
    cdef Buf frames
    cdef int compress(self, Buf *out, size_t off) except -1
    cdef bytes deflate(self, const char *p, size_t n)

cdef bytes inflate(const char *p, size_t n, size_t limit)
